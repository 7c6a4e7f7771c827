"""How is compiled code called from Python, checked and fast?

`Function(a, b, c)` checks every argument; for NumPy arrays of fixed shape that costs about a
microsecond an array. `Function.bind(a, b, c)` checks once, and calling what it returns costs only
the jump. The GIL is released while a kernel runs.
"""

from __future__ import annotations

import ctypes
import math
import os
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gputune.codegen.llvm.pool import Pool
from gputune.errors import RunError
from gputune.ir import dtypes

from .ndarray import NDArray
from .signature import Signature, TensorParam, pack, slots_of

ENTRY = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)


class _ArrayInterface(ctypes.Structure):
    """NumPy's `__array_struct__`: a third of the price of `__array_interface__` to read."""

    _fields_ = (
        ("two", ctypes.c_int),
        ("nd", ctypes.c_int),
        ("typekind", ctypes.c_char),
        ("itemsize", ctypes.c_int),
        ("flags", ctypes.c_int),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
    )


_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.py_object, ctypes.c_void_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_word_at = ctypes.c_size_t.from_address
_DATA = _ArrayInterface.data.offset


_pools: dict[tuple[int, int], Pool] = {}
_pools_lock = threading.Lock()


def _new_lock() -> None:
    """In a forked child: a thread that the child does not have may have held the old one."""
    global _pools_lock
    _pools_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def thread_pool(num_threads: int) -> Pool | None:
    """The process's threads for parallel loops; None (they run in the caller's) for one thread.

    A kernel that is called while another uses them runs its loops in the calling thread.
    """
    if num_threads <= 1:
        return None
    key = (os.getpid(), num_threads)  # threads do not survive a fork: a child makes its own
    with _pools_lock:
        if key not in _pools:
            _pools[key] = Pool(num_threads)
        return _pools[key]


class Function:
    """One compiled kernel, callable with arrays and numbers; outputs are arguments too.

    Args:
        sig: what it wants to be called with.
        address: of the machine function `i32 f(ptr slots, ptr pool)`.
        keep: whatever owns the machine code.
        pool: the threads for parallel loops, or None.
    """

    __slots__ = (
        "_alias_at", "_entry", "_fast", "_pack", "_pool", "_pool_address", "address", "keep",
        "sig",
    )  # fmt: skip

    def __init__(
        self, sig: Signature, address: int, keep: object, pool: Pool | None = None
    ) -> None:
        self.sig = sig
        self.address = address
        self.keep = keep
        self._entry: Callable[..., int] = ENTRY(address)
        self._pack = struct.Struct(f"={len(sig.params)}Q").pack
        self._pool = pool
        self._pool_address = None if pool is None else pool.address
        self._fast = _fast_checks(sig)
        self._alias_at = (
            [(i, check[4]) for i, check in enumerate(self._fast or ()) if check[2]]
            if not sig.may_alias
            else []
        )

    @property
    def name(self) -> str:
        """The function's name in its module."""
        return self.sig.name

    def __call__(self, *args: Any) -> None:
        """Run the kernel; RunError if an argument does not fit or the kernel reports an error."""
        slots = self._quick(args)
        keep: object = None
        if slots is not None:
            memory = self._pack(*slots)
        else:
            found, keep = slots_of(self.sig, args)
            memory = pack(found)
        code = self._entry(memory, self._pool_address)
        del keep  # the arrays had to live until here
        if code:
            raise failed(self.sig.name, code)

    def _quick(self, args: tuple[Any, ...]) -> list[int] | None:
        """The slots, if everything is a well-formed array of a fixed shape; None leaves it to the
        checks that know how to complain."""
        fast = self._fast
        if fast is None or len(args) != len(fast):
            return None
        slots = []
        for x, (dtype, shape, written, below_alignment, _) in zip(args, fast):
            if type(x) is NDArray:
                x = x.data
            if type(x) is not np.ndarray or x.dtype != dtype or x.shape != shape:
                return None
            flags = x.flags
            if not (flags.carray if written else flags.c_contiguous):
                return None
            capsule = x.__array_struct__  # owns the structure that is read next
            pointer = _word_at(_capsule_pointer(capsule, None) + _DATA).value
            if pointer & below_alignment:
                return None
            slots.append(pointer)
        for i, size in self._alias_at:
            start = slots[i]
            for j, other in enumerate(slots):
                if i != j and other - start < size and start - other < fast[j][4]:
                    return None  # the memory of what is written overlaps another argument's
        return slots

    def bind(self, *args: Any) -> BoundCall:
        """Check the arguments now; calling the result runs the kernel on them again and again.

        The arrays are kept alive; their shapes and memory must stay as they are.

        Example:
            >>> f = lib["main"].bind(a, b, c)
            >>> f()
        """
        slots, arrays = slots_of(self.sig, args)
        return BoundCall(self.sig.name, self.address, slots, (self, *arrays), self._pool)

    def __repr__(self) -> str:
        return f"Function({self.sig})"


# dtype, shape, is it written, bits that an aligned address lacks, bytes
_Fast = tuple[np.dtype[Any], tuple[int, ...], bool, int, int]


def _fast_checks(sig: Signature) -> list[_Fast] | None:
    out: list[_Fast] = []
    for p in sig.params:
        if not isinstance(p, TensorParam) or not p.static or p.align & (p.align - 1):
            return None
        shape = tuple(n for n in p.shape if isinstance(n, int))
        if 0 in shape:
            return None
        dtype = dtypes.numpy_dtype(p.dtype)
        size = math.prod(shape) * dtype.itemsize
        out.append((dtype, shape, p.written, p.align - 1, size))
    return None if sig.shape_vars else out


class BoundCall:
    """A kernel with its arguments: `f()` runs it. Made by `Function.bind`.

    Args:
        name: for error messages.
        address: of the machine function `i32 f(ptr slots, ptr pool)`.
        slots: what its first argument points to.
        keep: what must live as long as this: the arrays, and the owner of the machine code.
        pool: the threads for parallel loops, or None.
    """

    __slots__ = ("_entry", "_pool", "_pool_address", "address", "keep", "memory", "name")

    def __init__(
        self,
        name: str,
        address: int,
        slots: Sequence[int],
        keep: tuple[object, ...],
        pool: Pool | None = None,
    ) -> None:
        self.name = name
        self.address = address
        self.memory = pack(slots)
        self.keep = keep
        self._entry: Callable[..., int] = ENTRY(address)
        self._pool = pool
        self._pool_address = None if pool is None else pool.address

    def __call__(self) -> None:
        """Run the kernel; RunError if it reports an error."""
        code = self._entry(self.memory, self._pool_address)
        if code:
            raise failed(self.name, code)

    @property
    def arrays(self) -> list[np.ndarray[Any, Any]]:
        """The arrays that the kernel reads and writes."""
        return [x for x in self.keep if isinstance(x, np.ndarray)]

    @property
    def parallel(self) -> bool:
        """May its loops run on several threads?"""
        return self._pool is not None

    @property
    def pool_address(self) -> int | None:
        """The pool to pass, or None."""
        return self._pool_address


def failed(name: str, code: int) -> RunError:
    """The error for a kernel that returned `code`."""
    if code == 1:
        return RunError(f"{name}: there is no memory for the kernel's workspace", code="memory")
    return RunError(f"{name}: the kernel reported error code {code}", code="kernel")
