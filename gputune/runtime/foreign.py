"""How is the memory of another library's array seen? As a NumPy array, without a copy.

NumPy's own `from_dlpack` refuses bfloat16, float8 and (before 2.1) read-only tensors, so the
DLPack structure is read here: https://dmlc.github.io/dlpack, both the old and the versioned form.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from gputune.errors import RunError
from gputune.ir import dtypes

_HOST_DEVICES = {1, 3, 11}  # kDLCPU, kDLCUDAHost (pinned), kDLROCMHost
DEVICE_NAMES = {
    1: "cpu", 2: "cuda", 3: "pinned cpu", 7: "vulkan", 8: "metal", 10: "rocm", 13: "cuda managed",
    14: "oneapi",
}  # fmt: skip
# DLPack type code -> our name without bits; float8 formats come with their own codes.
_CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat"}
_WHOLE = {(6, 8): "bool", (10, 8): "float8_e4m3", (12, 8): "float8_e5m2"}
_READ_ONLY = 1


class DLTensor(ctypes.Structure):
    """The structure of that name: an array's memory and layout."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)


class _Exported:
    """Gives NumPy the array interface of a DLPack tensor and keeps its capsule alive. The capsule
    is not marked as used, so dropping it hands the tensor back to its owner."""

    def __init__(self, capsule: object, interface: dict[str, Any]) -> None:
        self.capsule = capsule
        self.__array_interface__ = interface


def view(source: Any, what: str) -> np.ndarray[Any, Any]:
    """`source` as a NumPy array on the same memory; it keeps `source` alive and is read-only where
    `source` is. `what` begins the error message.

    Raises:
        RunError: no array, not in host memory, or an element type that gputune does not have.
    """
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, type):
        raise RunError(f"{what}: expected an array, found the class {source.__name__}")
    _refuse_devices(source, what)
    if hasattr(source, "__array_interface__"):
        return np.asarray(source)
    if hasattr(source, "__dlpack__"):
        return _from_dlpack(source, what)
    raise RunError(
        f"{what}: expected an array, found {type(source).__name__}",
        hint="anything with the array interface or DLPack will do: NumPy, torch, JAX, ...",
    )


def _refuse_devices(source: Any, what: str) -> None:
    name = ""
    if hasattr(source, "__dlpack_device__"):
        kind = int(source.__dlpack_device__()[0])
        if kind not in _HOST_DEVICES:
            name = DEVICE_NAMES.get(kind, f"device type {kind}")
    elif hasattr(source, "__cuda_array_interface__"):
        name = "cuda"
    if name:
        raise RunError(
            f"{what}: expected an array in host memory, found a {type(source).__name__} "
            f"on {name}: this kernel runs on the cpu",
            hint="copy it to the host first, or build for a cuda target",
            code="device",
        )


def _from_dlpack(source: Any, what: str) -> np.ndarray[Any, Any]:
    capsule, tensor, read_only = dlpack_tensor(source, what)
    return _as_numpy(capsule, tensor, read_only, what)


def dlpack_tensor(source: Any, what: str, **options: Any) -> tuple[object, DLTensor, bool]:
    """The capsule that `source` exports, the structure in it (alive as long as the capsule), and
    whether its memory is read-only.

    Args:
        what: begins the error's message.
        options: for `__dlpack__`, such as stream=1.

    Raises:
        RunError: it does not export its memory, or in no form that is known here.
    """
    try:
        try:
            capsule = source.__dlpack__(max_version=(1, 1), **options)
        except TypeError:  # written before DLPack 1.0
            capsule = source.__dlpack__(**options)
    except (BufferError, RuntimeError, ValueError) as e:
        raise RunError(f"{what}: {type(source).__name__} does not export its memory: {e}") from None
    if _is_valid(capsule, b"dltensor_versioned"):
        managed = _Versioned.from_address(_pointer(capsule, b"dltensor_versioned"))
        if managed.major != 1:
            raise RunError(f"{what}: DLPack version {managed.major} is not one gputune can read")
        return capsule, managed.tensor, bool(managed.flags & _READ_ONLY)
    if _is_valid(capsule, b"dltensor"):
        return capsule, DLTensor.from_address(_pointer(capsule, b"dltensor")), False
    raise RunError(f"{what}: __dlpack__ of {type(source).__name__} gave no DLPack capsule")


def dlpack_dtype(tensor: DLTensor, what: str) -> str:
    """gputune's name of a tensor's element type; RunError if there is none."""
    code, bits = tensor.code, tensor.bits
    name = _WHOLE.get((code, bits)) or f"{_CODES.get(code, f'code{code}:')}{bits}"
    if tensor.lanes != 1 or name not in dtypes.SCALARS:
        raise RunError(f"{what}: DLPack element type {name}x{tensor.lanes} is not supported")
    return name


def _as_numpy(
    capsule: object, tensor: DLTensor, read_only: bool, what: str
) -> np.ndarray[Any, Any]:
    if tensor.device_type not in _HOST_DEVICES:
        name = DEVICE_NAMES.get(tensor.device_type, f"device type {tensor.device_type}")
        raise RunError(f"{what}: expected an array in host memory, found one on {name}")
    dtype = dtypes.numpy_dtype(dlpack_dtype(tensor, what))
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[i] * dtype.itemsize for i in range(tensor.ndim))
    interface = {
        "version": 3,
        "shape": shape,
        "strides": strides,
        "typestr": f"|u{dtype.itemsize}" if dtype.itemsize == 1 else f"<u{dtype.itemsize}",
        "data": ((tensor.data or 0) + tensor.byte_offset, read_only),
    }
    if not tensor.data:  # an empty tensor may have no memory
        return np.empty(shape, dtype)
    return np.asarray(_Exported(capsule, interface)).view(dtype)
