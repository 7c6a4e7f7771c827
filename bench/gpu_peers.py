"""Who else computes a cell? Entries: what to call on which copy of the arguments, and its outputs.

A peer that fails, or gives wrong numbers, is named with the reason and is not timed. torch.compile
may take half a minute: it is begun only where there is time for what it took before, and stopped
where it takes three times as long.
"""

from __future__ import annotations

import importlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from gpu_cells import AUTOTUNE, Cell
from gpu_device import Device
from gpu_forms import PRODUCTS, cupy_calls, is_output, torch_forms

from gputune.kernels.rows import EPSILON

_MODES = {"default": "default", AUTOTUNE: "max-autotune-no-cudagraphs"}
COMPILE_SECONDS = {"default": 12.0, AUTOTUNE: 45.0}
"""What a mode of torch.compile is expected to take; the longest that it took in this run counts."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An implementation of a cell.

    Attributes:
        call: runs it on the copy of this number; gives what it returns.
        outputs: of what the call on copy 0 returned, the outputs in the kernel's order.
    """

    call: Callable[[int], Any]
    outputs: Callable[[Any], Sequence[Any]]


class TooLong(Exception):
    """What had a limit of time took longer."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TooLong inside after this time (in Python code; in the main thread)."""

    def stop(*_: object) -> None:
        raise TooLong(f"took more than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def exact_float32(torch: Any) -> None:
    """No TF32 and no narrow sums anywhere; convolutions by the fastest way that cuDNN has."""
    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = True


class Peers:
    """The peers of one cell.

    Args:
        copies: the tensors of each copy, a tensor for each parameter of the kernel.
        left: how many seconds the cell has left.
    """

    def __init__(
        self, device: Device, cell: Cell, copies: Sequence[Sequence[Any]],
        left: Callable[[], float],
    ) -> None:  # fmt: skip
        self.device, self.torch, self.cell, self.left = device, device.torch, cell, left
        outs = is_output(cell)
        self.inputs = [[x for x, o in zip(c, outs) if not o] for c in copies]
        self.outputs = [[x for x, o in zip(c, outs) if o] for c in copies]
        self.failed: dict[str, str] = {}

    # ------------------------------------------------------------------ all of them
    def makers(self) -> Iterator[tuple[str, Callable[[], Entry | None]]]:
        """By name how to make each entry; None where a peer does not have the operator."""
        forms = list(torch_forms(self.torch, self.cell, self.inputs[0]))
        for layout in forms:
            if layout != "out":
                yield f"torch {layout}" if len(forms) > 1 else "torch", self._eager(layout)
        if self.cell.kernel in PRODUCTS and self.device.place == "cuda":
            yield "torch cublasLt", self._lt
        if self.device.cupy is not None and self.cell.dtype == "float32":
            yield "CuPy", self._cupy
        if self.device.place == "cuda" and find_spec("triton"):
            yield "Triton", self._triton
        for mode in self.cell.compiled:
            yield f"torch.compile {mode}", self._compiled(mode, forms[-1])

    # ------------------------------------------------------------------ torch
    def _forms(self, layout: str) -> list[Any]:
        return [torch_forms(self.torch, self.cell, x)[layout] for x in self.inputs]

    def _entry(self, function: Callable[..., Any], forms: list[Any]) -> Entry:
        if len(forms) == 1:
            return Entry(lambda at: function(*forms[0].tensors), as_tuple)
        # as gputune's, outputs take turns on as many memories as there are copies: each is kept
        # until its turn comes again
        kept: list[Any] = [None] * len(forms)

        def call(at: int) -> Any:
            kept[at] = function(*forms[at].tensors)
            return kept[at]

        return Entry(call, as_tuple)

    def _eager(self, layout: str) -> Callable[[], Entry]:
        def make() -> Entry:
            forms = self._forms(layout)
            return self._entry(forms[0].function, forms)

        return make

    def _lt(self) -> Entry:
        prefer = self.torch.backends.cuda.preferred_blas_library
        entry, usual = self._eager("plain")(), prefer()

        def call(at: int) -> Any:
            prefer("cublaslt")
            try:
                return entry.call(at)
            finally:
                prefer(usual)

        return Entry(call, as_tuple)

    def _compiled(self, mode: str, layout: str) -> Callable[[], Entry]:
        def make() -> Entry:
            expected = COMPILE_SECONDS[mode]
            if self.left() < expected:
                raise TooLong(f"not begun: {expected:.0f} s are expected, {self.left():.0f} left")
            forms = self._forms(layout)
            self.torch.compiler.reset()
            function = self.torch.compile(forms[0].function, mode=_MODES[mode], dynamic=False)
            start = time.perf_counter()
            with at_most(3 * expected), self.torch.no_grad():
                function(*forms[0].tensors)
                self.device.synchronize()
            COMPILE_SECONDS[mode] = max(1.0, 0.5 * expected, time.perf_counter() - start)
            return self._entry(function, forms)

        return make

    # ------------------------------------------------------------------ others
    def _cupy(self) -> Entry | None:
        cupy = self.device.cupy
        calls = []
        for x, out in zip(self.inputs, self.outputs):
            there = list(cupy_calls(cupy, self.cell, [cupy.asarray(t) for t in x],
                                    cupy.asarray(out[0])))  # fmt: skip
            if not there:
                return None
            calls.append(there[0])
        return Entry(lambda at: calls[at](), lambda _: self.outputs[0])

    def _triton(self) -> Entry | None:
        peers: Any = importlib.import_module("triton_peers")
        calls = []
        for x, out in zip(self.inputs, self.outputs):
            one = peers.call(self.cell.kernel, x, out, EPSILON)
            if one is None:
                return None
            calls.append(one)
        return Entry(lambda at: calls[at](), lambda _: self.outputs[0])


def as_tuple(found: Any) -> Sequence[Any]:
    """The outputs of a function that returns one or several."""
    return tuple(found) if isinstance(found, tuple | list) else (found,)
