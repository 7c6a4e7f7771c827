"""How is CUDA code called from Python? `CudaFunction`: arguments checked, nothing copied.

`f(a, b, c)` launches on the caller's current stream and returns without waiting, like every
operation of CuPy and torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gputune.codegen.cuda.compile import CudaBinary
from gputune.codegen.cuda.program import CudaSource
from gputune.codegen.cuda.program import Param as HostParam
from gputune.errors import RunError
from gputune.ir import dtypes

from .cuda_arrays import DeviceArray, device_array, device_of, fits_dtype, is_host_array, stream_of
from .cuda_device import cuda_errors, gpu
from .cuda_program import CudaCall, CudaProgram, Loaded, current_device
from .ndarray import host_view
from .signature import (
    ScalarParam,
    Signature,
    TensorParam,
    check_count,
    label,
    overlap_error,
    scalar_bits,
)


class CudaFunction:
    """One compiled function for a GPU, callable with arrays and numbers; outputs are arguments too.

    It is made without a GPU; calling it needs one.

    Args:
        sig: what it wants to be called with; sizes are known.
        source: its text and the host's steps.
        binary: its kernels, compiled.
    """

    __slots__ = ("_params", "program", "sig", "source")

    def __init__(self, sig: Signature, source: CudaSource, binary: CudaBinary) -> None:
        self.sig = sig
        self.source = source
        self.program = CudaProgram(source.host, binary)
        self._params = source.host.params

    @property
    def name(self) -> str:
        """The function's name in its module."""
        return self.sig.name

    def __call__(self, *args: Any, copy: bool = False) -> None:
        """Run the function on the caller's current stream: torch's if an argument is a torch
        tensor, else CuPy's. It does not wait for the device.

        Args:
            args: arrays on one GPU, and numbers.
            copy: also take arrays in host memory: they are copied to the GPU and, where the
                function writes them, back; then it waits.

        Raises:
            RunError: there is no GPU, an argument does not fit, or the launch is refused.
        """
        if copy:
            self._copied(args)
            return
        self.bind(*args)()

    def bind(self, *args: Any) -> CudaCall:
        """Check the arguments now; calling the result runs the function on them again and again,
        on the stream that is current now.

        Example:
            >>> f = lib["main"].bind(a, b, c)       # doctest: +SKIP
            >>> f()                                 # doctest: +SKIP
        """
        cupy = gpu(self.sig.name)
        check_count(self.sig, args)
        runtime = cupy.cuda.runtime
        with cuda_errors(self.sig.name):
            device = device_of(args, int(runtime.getDevice()))
            with current_device(cupy, device):
                stream = stream_of(cupy, args, device)
                loaded = self.program.on(cupy, device)
                slots, arrays = self._slots(loaded, args, stream)
                _wait_for_producers(cupy, arrays, stream)
                return loaded.call(slots, stream, arrays)

    def _slots(
        self, loaded: Loaded, args: Sequence[Any], stream: int
    ) -> tuple[list[int], list[DeviceArray]]:
        slots: list[int] = []
        arrays: list[tuple[TensorParam, DeviceArray]] = []
        for p, host, x in zip(self.sig.params, self._params, args):
            if isinstance(p, ScalarParam):
                slots.append(scalar_bits(self.sig, p, x)[0])
                continue
            found = device_array(loaded.cupy, x, label(self.sig, p), stream)
            _check_array(self.sig, p, host, found, loaded.device)
            slots.append(found.pointer)
            arrays.append((p, found))
        if not self.sig.may_alias:
            _check_overlap(self.sig, arrays)
        return slots, [a for _, a in arrays]

    def _copied(self, args: Sequence[Any]) -> None:
        """A call whose arrays in host memory go to the GPU and back."""
        cupy = gpu(self.sig.name)
        check_count(self.sig, args)
        moved: list[_Moved] = []
        with cuda_errors(self.sig.name):
            whole: list[Any] = []
            for p, x in zip(self.sig.params, args):
                if isinstance(p, ScalarParam) or not is_host_array(x):
                    whole.append(x)
                    continue
                view = host_view(x, label(self.sig, p))
                if p.written and not view.flags.writeable:
                    raise RunError(
                        f"{label(self.sig, p)} is written by the kernel: expected a writable "
                        "array, found a read-only one",
                        code="read-only",
                    )
                one = _Moved.of(cupy, view, p.written)
                moved.append(one)
                whole.append(one)
            self(*[x.on_gpu if isinstance(x, _Moved) else x for x in whole])
            cupy.cuda.get_current_stream().synchronize()
            for m in moved:
                if m.written:
                    m.host[...] = cupy.asnumpy(m.on_gpu).view(m.host.dtype)

    def __repr__(self) -> str:
        return f"CudaFunction({self.sig})"


@dataclass(frozen=True, slots=True)
class _Moved:
    """An array in host memory and its copy on the GPU."""

    host: np.ndarray[Any, Any]
    on_gpu: Any
    written: bool

    @staticmethod
    def of(cupy: Any, host: np.ndarray[Any, Any], written: bool) -> _Moved:
        narrow = dtypes.from_numpy(host.dtype) in ("bfloat16", "float8_e4m3", "float8_e5m2")
        bits = host.view(f"u{host.dtype.itemsize}") if narrow else host
        return _Moved(host, cupy.asarray(bits, order="C"), written)


# ----------------------------------------------------------------------------- checks
def _check_array(
    sig: Signature, p: TensorParam, host: HostParam, found: DeviceArray, device: int
) -> None:
    what = label(sig, p)
    if found.device != device:
        raise RunError(
            f"{what} lies on GPU {found.device}, another argument on GPU {device}",
            hint="all arrays of a call lie on one GPU",
            code="device",
        )
    if not fits_dtype(found.dtype, p.dtype):
        raise RunError(
            f"{what}: expected dtype {p.dtype}, found {found.dtype}",
            hint=f"x.astype({p.dtype!r}) makes a copy of that dtype",
            code="dtype",
        )
    shape = tuple(p.shape)
    if found.shape != shape:
        raise RunError(f"{what}: expected shape {shape}, found {found.shape}", code="shape")
    if p.written and found.read_only:
        raise RunError(
            f"{what} is written by the kernel: expected a writable array, found a read-only one",
            hint="JAX arrays never change: pass a CuPy or torch array for what is written",
            code="read-only",
        )
    if not found.elements:
        return
    _check_strides(what, p, found)
    align = max(p.align, host.align)
    if found.pointer % align:
        raise RunError(
            f"{what}: expected memory aligned to {align} bytes, found "
            f"{found.pointer & -found.pointer}",
            hint="x.copy() is aligned (arrays begin at multiples of 256 bytes, parts of one need "
            "not)",
            code="alignment",
        )


def _check_strides(what: str, p: TensorParam, found: DeviceArray) -> None:
    if p.strides is None:
        if not found.contiguous:
            raise RunError(
                f"{what}: expected C-contiguous memory, found strides {found.strides} elements for "
                f"shape {found.shape}",
                hint="cupy.ascontiguousarray(x) or x.contiguous() makes a contiguous copy",
                code="strides",
            )
        return
    strides = found.strides if found.strides is not None else _row_major(found.shape)
    if any(n > 1 and s != f for n, s, f in zip(found.shape, p.strides, strides)):
        raise RunError(
            f"{what}: expected strides {tuple(p.strides)} elements, found {strides}",
            code="strides",
        )


def _row_major(shape: Sequence[int]) -> tuple[int, ...]:
    out: list[int] = []
    step = 1
    for n in reversed(shape):
        out.append(step)
        step *= n
    return tuple(reversed(out))


def _check_overlap(sig: Signature, arrays: Sequence[tuple[TensorParam, DeviceArray]]) -> None:
    for i, (p, one) in enumerate(arrays):
        for q, two in arrays[i + 1 :]:
            if not (p.written or q.written) or p.strides is not None or q.strides is not None:
                continue
            if (
                one.pointer < two.pointer + two.elements * dtypes.itemsize(two.dtype)
                and two.pointer < one.pointer + one.elements * dtypes.itemsize(one.dtype)
            ):  # fmt: skip
                writer, other = (p, q) if p.written else (q, p)
                raise overlap_error(sig, writer, other.name)


def _wait_for_producers(cupy: Any, arrays: Sequence[DeviceArray], stream: int) -> None:
    """Make the stream wait for other streams on which arguments are being computed."""
    cuda = cupy.cuda
    if not any(a.wait is not None for a in arrays):
        return
    if stream and cuda.runtime.streamIsCapturing(stream):
        return  # a graph cannot wait for what is outside: whoever launches it sees to that
    for other in {a.wait for a in arrays if a.wait is not None}:
        event = cuda.Event(disable_timing=True)
        cuda.runtime.eventRecord(event.ptr, other)
        cuda.runtime.streamWaitEvent(stream, event.ptr)
