"""Runs one program in every way there is: the interpreter after each pass, and machine code for
several processors, with memory around the arrays watched."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from gputune.codegen.llvm import LlvmKernel, compile, load
from gputune.codegen.llvm.jit import host_features
from gputune.ir import dtypes, interp
from gputune.ir.nodes import PrimFunc
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import LLVM
from gputune.script import from_source

PAD = 256  # bytes of canary on either side of an array
CANARY = 0xC3


@dataclass(frozen=True)
class FakeTarget:
    """What the code generator asks of a target."""

    mcpu: str
    mattr: str
    vector_bytes: int
    num_vector_registers: int
    num_cores: int = 2


def host() -> FakeTarget:
    cpu, features = host_features()
    wide = "+avx512f" in features
    return FakeTarget(cpu, features, 64 if wide else 32, 32 if wide else 16)


def targets() -> list[FakeTarget]:
    """This processor, an AVX2 one and the oldest: all run here."""
    return [host(), FakeTarget("x86-64-v3", "", 32, 16), FakeTarget("x86-64", "", 16, 16, 1)]


def parse(text: str) -> PrimFunc:
    out = from_source(text)
    return out if isinstance(out, PrimFunc) else out["main"]


class Watched:
    """A copy of an array between canaries."""

    def __init__(self, a: np.ndarray[Any, Any]) -> None:
        self.raw = np.full(a.nbytes + 2 * PAD + 64, CANARY, np.uint8)
        self.start = PAD + (-(self.raw.ctypes.data + PAD)) % max(a.itemsize, 1)
        self.end = self.start + a.nbytes
        self.array = self.raw[self.start : self.end].view(a.dtype).reshape(a.shape)
        self.array[...] = a

    def check(self) -> None:
        assert (self.raw[: self.start] == CANARY).all(), "written before the array"
        assert (self.raw[self.end :] == CANARY).all(), "written behind the array"


def call(kernel: LlvmKernel, args: list[Any], shapes: tuple[int, ...] = (), pool: int = 0) -> int:
    """Run a kernel on arrays (in place) and scalars; the error code."""
    slots = np.zeros(len(args) + len(shapes) + 1, np.int64)
    for k, (p, a) in enumerate(zip(kernel.params, args)):
        if p.buffer is not None:
            slots[k] = a.ctypes.data
        else:
            one = np.array(a, dtypes.numpy_dtype(p.dtype))
            slots[k : k + 1].view(np.uint8)[: one.itemsize] = one.reshape(1).view(np.uint8)
    slots[len(args) : len(args) + len(shapes)] = shapes
    loaded = load(kernel.object_code, kernel.symbol)
    return loaded(ctypes.c_void_p(slots.ctypes.data).value or 0, pool)


def compiled(
    f: PrimFunc,
    args: list[Any],
    target: FakeTarget | None = None,
    shapes: tuple[int, ...] = (),
    pool: int = 0,
) -> list[Any]:
    """What the machine code makes of `args` (which are copied)."""
    kernel = compile(f, target or host())
    watched = [Watched(a) if isinstance(a, np.ndarray) else a for a in args]
    given = [w.array if isinstance(w, Watched) else w for w in watched]
    assert call(kernel, given, shapes, pool) == 0
    for w in watched:
        if isinstance(w, Watched):
            w.check()
    return [w.array if isinstance(w, Watched) else w for w in watched]


def interpreted(f: PrimFunc, args: list[Any]) -> list[Any]:
    """What the interpreter makes of `args` (which are copied)."""
    copies = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    interp.run(f, *copies)
    return copies


def same(got: Any, want: Any, rtol: float, what: str) -> None:
    if not isinstance(want, np.ndarray):
        return
    if np.issubdtype(want.dtype, np.integer) or want.dtype == bool:
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    np.testing.assert_allclose(
        got.astype(np.float64), want.astype(np.float64), rtol=rtol, atol=rtol, err_msg=what
    )


def check(
    f: PrimFunc | str,
    args: list[Any],
    *,
    rtol: float = 1e-5,
    passes: bool = True,
    shapes: tuple[int, ...] = (),
) -> list[Any]:
    """Every pass keeps what `f` does to `args`, and so does the code for every target; gives what
    the interpreter computes."""
    func = parse(f) if isinstance(f, str) else f
    want = interpreted(func, args)
    for target in targets():
        limits = CpuLimits.of(target)
        now = func
        if passes and target.vector_bytes != 32:
            for number, step in enumerate(LLVM, 1):
                after = step(now, limits)
                if after is not now:
                    for g, w in zip(interpreted(after, args), want):
                        same(g, w, rtol, f"{number} {step.__name__}:\n{after.script()}")
                now = after
        for g, w in zip(compiled(func, args, target, shapes), want):
            same(g, w, rtol, f"{target.mcpu}")
    return want
