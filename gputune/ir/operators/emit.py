"""How is the tensor function of an operator written? Block by block, each fills one buffer.

A block runs over all elements of the buffer that it fills; where it is a reduction, over more
loops inside. Sums of narrow floats are kept in float32 and converted at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from .. import build, dtypes
from ..graph import TensorType
from ..nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferStore,
    Expr,
    For,
    IntImm,
    IterVar,
    PrimFunc,
    Range,
    Stmt,
    Var,
)
from ..regions import access_regions

Value: TypeAlias = Callable[..., Any]
"""The element at given indices: an expression, or a number."""

_WIDE = {
    "float16": "float32",
    "bfloat16": "float32",
    "float8_e4m3": "float32",
    "float8_e5m2": "float32",
}


def wide(dtype: str) -> str:
    """In what sums of this dtype are kept."""
    return _WIDE.get(dtype, dtype)


class Operand:
    """An argument of an operator: a buffer, or a scalar whose value is written out."""

    __slots__ = ("buffer", "extents", "literal", "type")

    def __init__(
        self,
        t: TensorType,
        buffer: Buffer | None,
        literal: Expr | None,
        extents: Mapping[Var, int],
    ) -> None:
        self.type = t
        self.buffer = buffer
        self.literal = literal
        self.extents = extents  # of the indices that blocks have

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.type.shape

    @property
    def dtype(self) -> str:
        """Its dtype."""
        return self.type.dtype

    def __getitem__(self, indices: Any) -> Expr:
        """The element at these indices."""
        if self.literal is not None:
            return self.literal
        assert self.buffer is not None
        return build.load(self.buffer, indices)

    def at(self, indices: Sequence[Any], exact: int = 0) -> Expr:
        """The element for indices of a shape that this one is broadcast to; the last `exact` are
        this one's own."""
        rank = len(self.shape)
        own = list(indices)[len(indices) - rank :]
        return self[tuple([
            0 if n == 1 and k < rank - exact and self.extents.get(i) != 1 else i
            for k, (n, i) in enumerate(zip(self.shape, own))
        ])]  # fmt: skip


class Emitter:
    """A tensor function while it is written.

    Attributes:
        outs: the buffers of the results.
    """

    def __init__(
        self,
        ins: Sequence[tuple[str, TensorType]],
        outs: Sequence[TensorType],
        literals: Sequence[Expr | None] = (),
    ) -> None:
        self._names: set[str] = set()
        self._blocks = {"root"}
        self._params: list[tuple[Var, Buffer]] = []
        self._temporaries: list[Buffer] = []
        self._stmts: list[Stmt] = []
        self._extents: dict[Var, int] = {}
        self.operands: list[Operand] = []
        for k, (name, t) in enumerate(ins):
            literal = literals[k] if k < len(literals) else None
            self.operands.append(
                Operand(
                    t, self._param(name, t) if literal is None else None, literal, self._extents
                )
            )
        self.outs = tuple([
            self._param("y" if len(outs) == 1 else f"y_{k}", t) for k, t in enumerate(outs)
        ])  # fmt: skip

    def _param(self, name: str, t: TensorType) -> Buffer:
        var, buffer = build.buffer_param(_fresh(self._names, name), t.shape, t.dtype)
        self._params.append((var, buffer))
        return buffer

    def function(self, name: str) -> PrimFunc:
        """What was written so far, as a function."""
        root = build.root_block(build.seq(*self._stmts), self._temporaries)
        attrs = (("global_symbol", name), ("tir.noalias", True))
        return PrimFunc(tuple([v for v, _ in self._params]), tuple(self._params), root, attrs)

    def temporary(self, name: str, shape: Sequence[int], dtype: str) -> Buffer:
        """A buffer of the function's own."""
        buffer = Buffer(_fresh(self._names, name), tuple([IntImm(n) for n in shape]), dtype)
        self._temporaries.append(buffer)
        return buffer

    # ------------------------------------------------------------------ blocks
    def fill(self, target: Buffer, value: Value, name: str = "") -> Buffer:
        """Fill `target` with `value(*indices)`, converted to its dtype; the target."""

        def body(indices: tuple[Var, ...]) -> Stmt:
            return BufferStore(target, build.cast(target.dtype, value(*indices)), indices)

        self._block(name or target.name, target, (), body, None)
        return target

    def reduce(
        self,
        target: Buffer,
        extents: Sequence[int],
        value: Value,
        combine: Callable[[Any, Any], Expr] = build.add,
        start: Any = 0,
        name: str = "",
    ) -> Buffer:
        """Fill `target` with `start` combined with `value(*indices, *inner)` for all inner indices
        below `extents`; the target."""
        if not extents:  # a reduction over nothing is its one element
            return self.fill(target, value, name)
        sums, rank = target, len(target.shape)
        if combine is build.add:
            dtype = wide(target.dtype)
            if dtype != target.dtype:
                sums = self.temporary(f"{target.name}_{dtype}", _sizes(target), dtype)

        def body(indices: tuple[Var, ...]) -> Stmt:
            at = indices[:rank]
            new = build.cast(sums.dtype, value(*indices))
            return BufferStore(sums, combine(build.load(sums, at), new), at)

        def init(indices: tuple[Var, ...]) -> Stmt:
            return BufferStore(sums, build.const(start, sums.dtype), indices[:rank])

        self._block(name or target.name, sums, extents, body, init)
        if sums is target:
            return target
        return self.fill(target, lambda *i: build.load(sums, i), f"{target.name}_cast")

    def _block(
        self,
        name: str,
        target: Buffer,
        extents: Sequence[int],
        body: Callable[[tuple[Var, ...]], Stmt],
        init: Callable[[tuple[Var, ...]], Stmt] | None,
    ) -> None:
        sizes = [*_sizes(target), *extents]
        spatial = len(target.shape)
        names = [f"i{k}" if k < spatial else f"k{k - spatial}" for k in range(len(sizes))]
        loops = tuple([Var(n) for n in names])
        inside = tuple([Var(f"v_{n}") for n in names])
        self._extents.update(zip(inside, sizes))
        zero = IntImm(0)
        iters = tuple([
            IterVar(v, Range(zero, IntImm(n)), "spatial" if k < spatial else "reduce")
            for k, (v, n) in enumerate(zip(inside, sizes))
        ])  # fmt: skip
        block = Block(
            BlockKey(), _fresh(self._blocks, name), iters, loops, build.TRUE, (), (),
            body(inside), None if init is None else init(inside),
        )  # fmt: skip
        reads, writes = access_regions(block)
        stmt: Stmt = replace(block, reads=reads, writes=writes)
        for var, n in zip(reversed(loops), reversed(sizes)):
            stmt = For(var, zero, IntImm(n), "serial", stmt)
        self._stmts.append(stmt)


def _fresh(taken: set[str], wanted: str) -> str:
    name, k = wanted, 1
    while name in taken:
        name = f"{wanted}_{k}"
        k += 1
    taken.add(name)
    return name


def _sizes(b: Buffer) -> list[int]:
    return [build.const_int(n) or 0 for n in b.shape]


def scalar(value: Any, dtype: str) -> Expr:
    """A number as an expression of a dtype."""
    if dtypes.is_bool(dtype):
        return build.const(int(bool(value)), dtype)
    return build.const(float(value) if dtypes.is_float(dtype) else int(value), dtype)
