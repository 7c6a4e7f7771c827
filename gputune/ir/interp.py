"""What does a program mean? Runs any program, scheduled or not, on NumPy arrays.

This is the oracle that schedules, lowering and backends are judged by, so it is strict where
hardware is lenient: memory is poisoned until written (NaN, or bytes 0x5A), an access outside the
logical shape of its buffer is an error, and so are broken promises (`T.assume`), division by zero
and wrong arguments. Arithmetic is described in scalar.py.

* Every loop runs in order, thread-bound and parallel ones too; annotations mean nothing.
* A block runs where its predicate holds; its init runs when every reduce iterator is at its
  minimum.
* `Select`, "and" and "or" evaluate only what they need, in each lane, so the side that is not
  taken cannot fail. A vector store evaluates all lanes before it writes one. A lane of a load whose
  predicate is false is poison.
* Memory layout (strides, offsets, alignment) is not observable: a buffer is its logical elements,
  and a view made by match_buffer is a window on those of its source. Variables in the layout are
  bound to what the layout would be.
* When an error is raised, the arguments are as they were before the call.

A program is compiled once (closures.py), and the last programs are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ..errors import RunError
from . import dtypes, scalar
from .access import CELL, LANE, Env, Window, row_major
from .closures import BufferParam, Program, compiled
from .nodes import Buffer, IRModule, PrimFunc, Var

Array: TypeAlias = np.ndarray[Any, Any]


def run(
    func: PrimFunc | IRModule, *args: Any, main: str = "main", check_regions: bool = False
) -> None:
    """Execute a program in place.

    Args:
        func: a function, or a module, of which the function `main` is run (or its only one).
        args: one for each parameter, outputs too: a NumPy array for a buffer (any memory layout), a
            number for a scalar. Symbolic sizes are taken from the shapes of the arrays.
        main: which function of a module.
        check_regions: also check that every iterator of a block stays within its domain and that
            every access in a block lies within the regions which it, and the blocks around it,
            declare.

    Raises:
        RunError: wrong arguments, or the program did what is not defined.

    Example:
        >>> run(matmul, a, b, c)        # c is written
    """
    program = compiled(_pick(func, main), check_regions)
    env: Env = [None] * program.slots
    env[LANE] = 0
    env[CELL] = memoryview(bytearray(4)).cast("f")
    with np.errstate(all="ignore"):
        outputs = _bind(program, env, args)
        program.body(env)
    for array, values in outputs:
        array[...] = np.array(values, dtype=array.dtype).reshape(array.shape)


def _pick(func: PrimFunc | IRModule, main: str) -> PrimFunc:
    if isinstance(func, PrimFunc):
        return func
    if main in func.functions:
        return func.functions[main]
    if len(func.functions) == 1:
        return next(iter(func.functions.values()))
    known = ", ".join(func.functions) or "none"
    raise RunError(f"no function named {main!r} in this module (it has: {known})", code="function")


# ----------------------------------------------------------------------------- arguments
def _bind(program: Program, env: Env, args: Sequence[Any]) -> list[tuple[Array, list[Any]]]:
    """Put the arguments into `env`; which arrays are to be overwritten afterwards by what."""
    if len(args) != len(program.params):
        raise RunError(
            f"{program.name} takes {len(program.params)} arguments ({', '.join(program.params)}), "
            f"got {len(args)}",
            code="argument-count",
        )
    for k, var, slot in program.scalars:
        env[slot] = _number(var, args[k])
    arrays = [(p, _array(p.buffer, args[k])) for k, p in program.buffers]
    for p, array in arrays:  # sizes that stand alone first: the others may be made of them
        facts = {"shape": array.shape, "strides": _element_strides(array), "offset": (0,)}
        for what, k, slot in p.binds:
            env[slot] = facts[what][k]
    for p, array in arrays:
        _check_layout(env, p, array)
    _check_overlap(arrays)
    outputs = []
    for p, array in arrays:
        values = _elements(p.buffer, array)
        steps = row_major(array.shape)
        strides = steps if p.strides is None else _element_strides(array)
        env[p.slot] = values if p.static else Window(values, 0, array.shape, steps, strides, 0)
        if p.written:
            outputs.append((array, values))
    return outputs


def _array(b: Buffer, arg: Any) -> Array:
    if not isinstance(arg, np.ndarray):
        raise RunError(
            f"argument {b.name} must be a NumPy array, got {type(arg).__name__}", code="argument"
        )
    if arg.dtype != dtypes.numpy_dtype(b.dtype):
        raise RunError(
            f"argument {b.name} must have dtype {b.dtype}, got {arg.dtype}", code="argument-dtype"
        )
    if arg.ndim != len(b.shape):
        raise RunError(
            f"argument {b.name} must have {len(b.shape)} dimensions, got shape {arg.shape}",
            code="argument-shape",
        )
    return arg


def _number(p: Var, arg: Any) -> Any:
    value = arg.item() if isinstance(arg, np.generic) else arg
    if dtypes.is_float(p.dtype) and isinstance(value, (int, float)):
        return scalar.cast("float64", p.dtype)(float(value))
    if dtypes.is_bool(p.dtype) and isinstance(value, bool):
        return value
    if dtypes.is_int(p.dtype) and isinstance(value, int):
        if dtypes.min_value(p.dtype) <= value <= dtypes.max_value(p.dtype):
            return int(value)
        raise RunError(
            f"argument {p.name} is {value}, which {p.dtype} cannot hold", code="argument"
        )
    raise RunError(
        f"argument {p.name} must be a number of dtype {p.dtype}, got {type(arg).__name__}",
        code="argument",
    )


def _element_strides(array: Array) -> tuple[int, ...]:
    return tuple(s // array.itemsize for s in array.strides)


def _check_layout(env: Env, p: BufferParam, array: Array) -> None:
    shape = tuple([n(env) for n in p.shape])
    if array.shape != shape:
        raise RunError(
            f"argument {p.buffer.name} must have shape {shape}, got {array.shape}",
            code="argument-shape",
        )
    if p.strides is not None:
        strides, actual = tuple([n(env) for n in p.strides]), _element_strides(array)
        if any(n > 1 and s != t for n, s, t in zip(shape, strides, actual)):
            raise RunError(
                f"argument {p.buffer.name} must have strides {strides} (in elements), got {actual}",
                code="argument-strides",
            )
    if p.offset is not None and p.offset(env) != 0:
        raise RunError(
            f"argument {p.buffer.name} has element offset {p.offset(env)}, an array has none",
            code="argument-offset",
        )


def _check_overlap(arrays: list[tuple[BufferParam, Array]]) -> None:
    for p, array in arrays:
        if not p.written:
            continue
        if not array.flags.writeable:
            raise RunError(
                f"argument {p.buffer.name} is written, but its array is read-only", code="argument"
            )
        for other, there in arrays:
            if other is not p and np.shares_memory(array, there):
                raise RunError(
                    f"argument {p.buffer.name} is written and shares memory with "
                    f"{other.buffer.name}",
                    code="argument-overlap",
                )


def _elements(b: Buffer, array: Array) -> list[Any]:
    """The elements in row-major order, as scalar.py wants them."""
    flat = array.reshape(-1)
    if dtypes.is_float(b.dtype):
        flat = flat.astype(np.float64)
    values: list[Any] = flat.tolist()
    return values
