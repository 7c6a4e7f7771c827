"""How is the memory of an array on a GPU seen? As an address, without a copy.

CuPy and torch arrays are asked directly; others by DLPack (JAX) or `__cuda_array_interface__`
(numba), whose producers are told the stream that the kernel will run on, so that they finish first.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gputune.errors import RunError
from gputune.ir import dtypes

from .foreign import DEVICE_NAMES, dlpack_dtype, dlpack_tensor
from .ndarray import NDArray

_ON_CUDA = (2, 13)  # DLPack's kDLCUDA, kDLCUDAManaged
# Libraries that lack these dtypes hold their bits as unsigned integers.
_BITS = {"bfloat16": "uint16", "float8_e4m3": "uint8", "float8_e5m2": "uint8"}


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """An array in a GPU's memory.

    Attributes:
        pointer: its first element's address; 0 may be that of an empty array.
        shape: its extents.
        strides: in elements; None: row-major without gaps.
        dtype: gputune's name.
        device: the index of the GPU.
        read_only: its library forbids writing it.
        keep: what keeps the memory alive.
        wait: another stream on which it is still being computed, perhaps.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str
    device: int
    read_only: bool
    keep: object
    wait: int | None = None

    @property
    def elements(self) -> int:
        """How many there are."""
        return math.prod(self.shape)

    @property
    def contiguous(self) -> bool:
        """Is it row-major without gaps?"""
        if self.strides is None:
            return True
        expected = 1
        for n, stride in zip(reversed(self.shape), reversed(self.strides)):
            if n > 1 and stride != expected:
                return self.elements == 0
            expected *= n
        return True


def is_host_array(x: Any) -> bool:
    """Is it an array in host memory, which no kernel of a GPU can read?"""
    if isinstance(x, np.ndarray | NDArray):
        return True
    return hasattr(x, "__array_interface__") and not isinstance(x, np.generic)


def is_number(x: Any) -> bool:
    """Is it a number rather than an array?"""
    return isinstance(x, bool | int | float | np.generic)


def fits_dtype(found: str, wanted: str) -> bool:
    """May an array of dtype `found` be passed for `wanted`? Bits may, for narrow floats."""
    return found in (wanted, _BITS.get(wanted))


# ----------------------------------------------------------------------------- which GPU and stream
def device_of(args: Sequence[Any], default: int) -> int:
    """The index of the GPU on which the first array among the arguments lies."""
    for x in args:
        if is_number(x) or is_host_array(x):
            continue
        if _is_torch(x):
            if x.device.type == "cuda":
                return int(x.device.index or 0)
            continue
        device = getattr(x, "device", None)
        if hasattr(x, "__dlpack_device__"):
            kind, index = x.__dlpack_device__()
            if int(kind) in _ON_CUDA:
                return int(index)
        elif device is not None and type(getattr(device, "id", None)) is int:
            return int(device.id)  # of numba
    return default


def stream_of(cupy: Any, args: Sequence[Any], device: int) -> int:
    """The caller's current stream: torch's if an argument is torch's, else CuPy's. `device` is the
    current one."""
    torch = sys.modules.get("torch")
    if torch is not None and any(isinstance(x, torch.Tensor) for x in args):
        return int(torch.cuda.current_stream(device).cuda_stream)
    return int(cupy.cuda.get_current_stream().ptr)


def _is_torch(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


# ----------------------------------------------------------------------------- views
def device_array(cupy: Any, x: Any, what: str, stream: int) -> DeviceArray:
    """The memory of any library's array on a GPU.

    Args:
        x: the array.
        what: begins the error's message.
        stream: the kernel's; the array's producer is made to finish before what is on it.

    Raises:
        RunError: no array, not on a GPU, or an element type that gputune does not have.
    """
    if type(x) is cupy.ndarray:
        here = int(cupy.cuda.get_current_stream().ptr)
        return DeviceArray(
            int(x.data.ptr), tuple(x.shape), _steps(x.strides, x.itemsize),
            _name(x.dtype, what), int(x.device.id), False, x, here if here != stream else None,
        )  # fmt: skip
    if _is_torch(x):
        return _of_torch(x, what)
    if is_host_array(x):
        raise RunError(
            f"{what}: expected an array on the GPU, found a {type(x).__name__} in host memory",
            hint="cupy.asarray(x) copies it there; f(..., copy=True) copies there and back",
            code="device",
        )
    if hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__"):
        return _of_dlpack(x, what, stream)
    if hasattr(x, "__cuda_array_interface__"):
        return _of_interface(x, what, stream)
    raise RunError(
        f"{what}: expected an array on the GPU, found {type(x).__name__}",
        hint="CuPy, torch, JAX and numba arrays will do, and whatever has DLPack or "
        "__cuda_array_interface__",
        code="device",
    )


def _of_torch(x: Any, what: str) -> DeviceArray:
    if x.device.type != "cuda":
        raise RunError(
            f"{what}: expected an array on the GPU, found a torch tensor on {x.device}",
            hint="x.cuda() copies it there",
            code="device",
        )
    if x.requires_grad:
        raise RunError(
            f"{what}: the torch tensor requires gradients, which a kernel does not give",
            hint="pass x.detach()",
            code="gradients",
        )
    name = str(x.dtype).removeprefix("torch.")
    name = {"float8_e4m3fn": "float8_e4m3"}.get(name, name)
    if name not in dtypes.SCALARS:
        raise RunError(f"{what}: dtype {x.dtype} is not supported", code="dtype")
    strides = None if x.is_contiguous() else tuple(map(int, x.stride()))
    return DeviceArray(
        int(x.data_ptr()), tuple(map(int, x.shape)), strides, name, int(x.device.index or 0),
        False, x,
    )  # fmt: skip


def _of_dlpack(x: Any, what: str, stream: int) -> DeviceArray:
    kind, index = x.__dlpack_device__()
    if int(kind) not in _ON_CUDA:
        name = DEVICE_NAMES.get(int(kind), f"device type {int(kind)}")
        raise RunError(
            f"{what}: expected an array on the GPU, found a {type(x).__name__} on {name}",
            hint="move it to the GPU with its own library",
            code="device",
        )
    # in the protocol, 1 is the default stream
    capsule, tensor, read_only = dlpack_tensor(x, what, stream=stream or 1)
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else None
    # JAX's arrays never change; it does not always say so
    immutable = read_only or type(x).__module__.split(".")[0] in ("jax", "jaxlib")
    return DeviceArray(
        (tensor.data or 0) + tensor.byte_offset, shape, strides, dlpack_dtype(tensor, what),
        int(index), immutable, (capsule, x),
    )  # fmt: skip


def _of_interface(x: Any, what: str, stream: int) -> DeviceArray:
    told = x.__cuda_array_interface__
    if told.get("mask") is not None:
        raise RunError(f"{what}: masked arrays are not supported", code="mask")
    pointer, read_only = told["data"]
    dtype = np.dtype(told["typestr"])
    busy = told.get("stream")
    wait = {1: 0}.get(busy, busy) if busy is not None else None  # there, too, 1 is the default
    device = getattr(x, "device", None)
    index = getattr(device, "id", 0)
    return DeviceArray(
        int(pointer or 0), tuple(map(int, told["shape"])),
        _steps(told["strides"], dtype.itemsize) if told.get("strides") else None,
        _name(dtype, what), int(index) if type(index) is int else 0, bool(read_only), x,
        None if wait == stream else wait,
    )  # fmt: skip


def _steps(strides: Sequence[int], itemsize: int) -> tuple[int, ...]:
    return tuple(s // itemsize for s in strides)


def _name(dtype: Any, what: str) -> str:
    try:
        found = np.dtype(dtype)
        if found.kind == "V" and found.itemsize in (1, 2):
            return f"uint{8 * found.itemsize}"  # bits of a dtype that NumPy does not have
        return dtypes.from_numpy(found)
    except (ValueError, TypeError, KeyError):
        raise RunError(f"{what}: dtype {dtype} is not supported", code="dtype") from None
