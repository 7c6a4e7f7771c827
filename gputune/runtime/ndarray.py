"""What array does gputune hand out itself? NDArray: a NumPy array at a 64-byte boundary.

It exists for programs written in TVM's manner; plain NumPy arrays are accepted everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gputune.errors import RunError
from gputune.ir import dtypes

from .devices import Device, cpu_only
from .devices import cpu as cpu  # part of this module's face, as in TVM's nd
from .devices import cuda as cuda
from .foreign import view

ALIGNMENT = 64


class NDArray:
    """A dense, C-contiguous array on the CPU; made by `array` and `empty`.

    It exports its memory through `__array__`, `__array_interface__` and `__dlpack__` without a
    copy, so `np.asarray(x)` and `torch.from_dlpack(x)` see later changes; `x.numpy()` is a copy.
    """

    __slots__ = ("__weakref__", "data", "device")

    def __init__(self, data: np.ndarray[Any, Any], device: Device) -> None:
        self.data = data
        self.device = device

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents."""
        shape: tuple[int, ...] = self.data.shape
        return shape

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.data.ndim

    @property
    def dtype(self) -> str:
        """The gputune dtype name, such as "float32"."""
        return dtypes.from_numpy(self.data.dtype)

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy as a NumPy array."""
        return self.data.copy()

    asnumpy = numpy

    def copyto(self, target: Any) -> Any:
        """Copy the contents into an array of the same shape and dtype, or to a device (then a new
        NDArray); returns the copy."""
        if isinstance(target, Device):
            return array(self, target)
        into = host_view(target, "copyto target")
        if into.shape != self.shape or into.dtype != self.data.dtype:
            raise RunError(
                f"copyto: expected {self.shape} {self.dtype}, found {into.shape} {into.dtype}"
            )
        if not into.flags.writeable:
            raise RunError("copyto: the target is read-only")
        into[...] = self.data
        return target

    def copyfrom(self, source: Any) -> NDArray:
        """Overwrite the contents with those of an array of the same shape; returns self."""
        values = host_view(source, "copyfrom source")
        if values.shape != self.shape:
            raise RunError(f"copyfrom: expected shape {self.shape}, found {values.shape}")
        self.data[...] = values
        return self

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self.data.__array_interface__

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if dtype is not None and np.dtype(dtype) != self.data.dtype:
            if copy is False:
                raise ValueError(f"an NDArray of {self.dtype} is no {np.dtype(dtype)} uncopied")
            return self.data.astype(dtype)
        return self.data.copy() if copy else self.data

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # kDLCPU

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        about = f"NDArray(shape={self.shape}, dtype={self.dtype!r}, device={self.device})"
        return f"{about}\n{self.data!r}"


def host_view(source: Any, what: str) -> np.ndarray[Any, Any]:
    """The memory of any array as a NumPy array; RunError, beginning with `what`, if it is none."""
    return source.data if isinstance(source, NDArray) else view(source, what)


def empty(
    shape: int | Sequence[int], dtype: str = "float32", device: Device | None = None
) -> NDArray:
    """An uninitialised array of `shape`, at a 64-byte boundary."""
    where = cpu_only(device, "empty")
    sizes = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
    if any(n < 0 for n in sizes):
        raise RunError(f"empty: extents cannot be negative, found {sizes}")
    try:
        kind = dtypes.numpy_dtype(str(dtype))
    except ValueError as e:
        raise RunError(f"empty: {e}") from None
    return NDArray(aligned(sizes, kind), where)


def array(source: Any, device: Device | None = None) -> NDArray:
    """A copy of an array (NumPy, DLPack, array interface) or of nested lists of numbers."""
    where = cpu_only(device, "array")
    if isinstance(source, list | tuple | int | float):
        values: np.ndarray[Any, Any] = np.asarray(source)
    else:
        values = host_view(source, "array source")
    try:
        dtypes.from_numpy(values.dtype)
    except ValueError as e:
        raise RunError(f"array: {e}") from None
    out = aligned(values.shape, values.dtype)
    out[...] = values
    return NDArray(out, where)


def aligned(
    shape: Sequence[int], dtype: np.dtype[Any], align: int = ALIGNMENT
) -> np.ndarray[Any, Any]:
    """An uninitialised C-contiguous NumPy array whose data lies at a multiple of `align` bytes."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(size + align, np.uint8)
    start = -raw.ctypes.data % align
    return raw[start : start + size].view(dtype).reshape(shape)
