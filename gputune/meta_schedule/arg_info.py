"""What arguments does a kernel take? Descriptions that a runner can allocate from, as data."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..errors import RecordError, UserError
from ..ir import dtypes
from ..ir.nodes import Buffer, IntImm, IRModule, PrimFunc
from ..lower.layout_preproc import without_packings

Json: TypeAlias = Any


class ArgInfo:
    """An argument of a kernel: a `TensorInfo` or a `ScalarInfo`."""

    __slots__ = ()

    def as_json(self) -> Json:
        """`["TENSOR", dtype, [extents]]` or `["SCALAR", dtype]`."""
        raise NotImplementedError("ArgInfo is abstract: use TensorInfo or ScalarInfo")

    @staticmethod
    def from_json(json_obj: Json) -> ArgInfo:
        """The argument that `as_json` wrote; RecordError if it is none.

        Example:
            >>> ArgInfo.from_json(["TENSOR", "float32", [128, 128]])
            TensorInfo(dtype='float32', shape=(128, 128))
        """
        match json_obj:
            case ["TENSOR", str() as dtype, list() as shape] if _are_extents(shape):
                return TensorInfo(_known(dtype), tuple(shape))
            case ["SCALAR", str() as dtype]:
                return ScalarInfo(_known(dtype))
            case _:
                raise RecordError(
                    "argument description: expected ['TENSOR', dtype, shape], "
                    f"found {json_obj!r:.80}"
                )

    @staticmethod
    def from_prim_func(func: PrimFunc) -> list[ArgInfo]:
        """The arguments of a function, in order.

        Raises:
            UserError: a buffer has a symbolic extent.
        """
        table = dict(func.buffer_map)
        out: list[ArgInfo] = []
        for p in func.params:
            buffer = table.get(p)
            if buffer is None:
                out.append(ScalarInfo(p.dtype))
                continue
            out.append(TensorInfo(buffer.dtype, _static(func, buffer)))
        return out

    @staticmethod
    def from_entry_func(mod: IRModule | PrimFunc, remove_preproc: bool = True) -> list[ArgInfo]:
        """The arguments of a module's entry: "main", or its only function.

        Args:
            mod: the module.
            remove_preproc: an argument that a block packs anew is described as it is packed, where
                the block is annotated `meta_schedule.layout_rewrite_preproc`: it runs once, ahead
                of the kernel.
        """
        func = entry_func(mod)
        return ArgInfo.from_prim_func(without_packings(func) if remove_preproc else func)


def _static(func: PrimFunc, buffer: Buffer) -> tuple[int, ...]:
    """The extents of a buffer; UserError if one is symbolic."""
    shape = []
    for n in buffer.shape:
        if type(n) is not IntImm:
            raise UserError(
                f"{func.name}: argument {buffer.name} has the symbolic extent {n}",
                hint="tune one static shape at a time",
                code="symbolic",
            )
        shape.append(int(n.value))
    return tuple(shape)


@dataclass(frozen=True, slots=True)
class TensorInfo(ArgInfo):
    """An array: a dtype and static extents.

    Raises:
        UserError: no dtype, or no sequence of whole numbers from 0.
    """

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", _dtype_of("TensorInfo", self.dtype))
        object.__setattr__(self, "shape", _shape_of(self.shape))

    def as_json(self) -> Json:
        """`["TENSOR", dtype, [extents]]`."""
        return ["TENSOR", self.dtype, list(self.shape)]


@dataclass(frozen=True, slots=True)
class ScalarInfo(ArgInfo):
    """A number, passed by value.

    Raises:
        UserError: no dtype.
    """

    dtype: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", _dtype_of("ScalarInfo", self.dtype))

    def as_json(self) -> Json:
        """`["SCALAR", dtype]`."""
        return ["SCALAR", self.dtype]


def _dtype_of(what: str, dtype: Any) -> str:
    """The name of an element type, or UserError; the name of a dtype of NumPy counts too."""
    name = dtype
    if isinstance(dtype, (np.dtype, type)):
        try:
            name = dtypes.from_numpy(np.dtype(dtype))
        except (TypeError, ValueError):
            name = None
    base, lanes = dtypes.split(name) if isinstance(name, str) else ("", 0)
    if (base not in dtypes.SCALARS or lanes < 1) and name != "handle":
        raise UserError(
            f"{what}: the dtype is {dtype!r:.60}",
            hint='such as "float32", "int8" or "bool"',
            code="arg-info",
        )
    return str(name)


def _shape_of(shape: Any) -> tuple[int, ...]:
    """Extents as plain integers, or UserError."""
    try:
        found = tuple([
            int(operator.index(n.value if type(n) is IntImm else n)) for n in shape
        ])  # fmt: skip
    except TypeError:
        found = (-1,)
    if any(n < 0 for n in found):
        raise UserError(
            f"TensorInfo: the shape is {shape!r:.60}",
            hint="a sequence of whole numbers from 0, such as (128, 128)",
            code="arg-info",
        )
    return found


def entry_func(mod: IRModule | PrimFunc) -> PrimFunc:
    """The function that tuning is about: "main", or the only one; UserError otherwise."""
    if isinstance(mod, PrimFunc):
        return mod
    if "main" in mod.functions:
        return mod.functions["main"]
    if len(mod.functions) == 1:
        return next(iter(mod.functions.values()))
    raise UserError(
        f"the module has no entry function: it holds {', '.join(mod.functions) or 'nothing'}",
        hint='name one of its functions "main", or pass a module of one function',
        code="entry",
    )


def _are_extents(shape: Sequence[Any]) -> bool:
    return all(type(n) is int and n >= 0 for n in shape)


def _known(dtype: str) -> str:
    try:
        dtypes.numpy_dtype(dtype)
    except ValueError as e:
        raise RecordError(f"argument description: {e}") from None
    return dtype
