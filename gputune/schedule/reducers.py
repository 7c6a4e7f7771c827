"""Which combiners are there, by which partial results of a reduction may be put together?

A combiner takes the result so far (`lhs`) and another one (`rhs`), each a tuple of one value a
buffer, and gives the result of both. All are associative, up to rounding; one that is commutative
too may take partial results in any order. Three families:

* `Each`: every value by its own +, *, min or max: sums, sums of pairs (mean and variance), ranges;
* `Pick`: one of two tuples is taken whole, by comparing a key: argmax, argmin, with any payload;
* `Merge`: tuples that influence each other, one declaration each at the end of this file: Welford's
  (count, mean, sum of squares), the online softmax's (maximum, sum). `register_reducer` adds more.

What a combiner makes of NaN depends on the order of the elements, in every family that compares:
`max(a, b)` is `a` where `a > b` and else `b`, so a NaN is kept until the next element comes.
Programs whose data hold NaN may therefore have another result when their reduction is factored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from ..errors import UserError
from ..ir import build, dtypes
from ..ir.affine import same
from ..ir.nodes import (
    BinaryOp,
    BinOp,
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Expr,
    FloatImm,
    IntImm,
)
from ..ir.walk import loads

Exprs: TypeAlias = tuple[Expr, ...]


class Combiner(Protocol):
    """What rfactor needs of a combiner."""

    @property
    def commutative(self) -> bool:
        """May partial results be taken in any order?"""

    def identity(self, kinds: Sequence[str]) -> Exprs:
        """The tuple that changes nothing, by the dtypes of the values."""

    def combine(self, lhs: Exprs, rhs: Exprs) -> Exprs:
        """The result of both; `lhs` comes first where the order matters."""


# ----------------------------------------------------------------------------- one by one
@dataclass(frozen=True)
class Reducer:
    """A combiner of single values: `op` with its identity."""

    op: BinaryOp

    def identity(self, dtype: str) -> Expr:
        """The element that changes nothing."""
        if self.op == "+":
            return build.const(0, dtype)
        if self.op == "*":
            return build.const(1, dtype)
        low = self.op == "max"
        if dtypes.is_float(dtype):
            limit = float("-inf") if low else float("inf")
            if dtype.startswith("float8_e4m3"):  # has no infinity
                limit = float(dtypes.min_value(dtype) if low else dtypes.max_value(dtype))
            return FloatImm(limit, dtype)
        return IntImm(int(dtypes.min_value(dtype) if low else dtypes.max_value(dtype)), dtype)


def reducer_of(b: Block) -> tuple[Reducer, Expr] | None:
    """The combiner of a reduction of single values and what it combines in: `C[i] = C[i] + x`,
    either side."""
    store = b.body
    if type(store) is not BufferStore or store.predicate is not None:
        return None
    value = store.value
    if type(value) is not BinOp or value.op not in OPERATORS:
        return None
    for acc, rest in ((value.a, value.b), (value.b, value.a)):
        if type(acc) is BufferLoad and acc.buffer is store.buffer and _same_place(acc, store):
            if not _reads(rest, store.buffer):
                return Reducer(value.op), rest
    return None


OPERATORS = frozenset({"+", "*", "min", "max"})


def _same_place(load: BufferLoad, store: BufferStore) -> bool:
    return load.predicate is None and all(map(same, load.indices, store.indices))


def _reads(e: Expr, buffer: Buffer) -> bool:
    return any(x.buffer is buffer for x in loads(e))


@dataclass(frozen=True)
class Each:
    """Every value by an operator of its own."""

    parts: tuple[Reducer, ...]

    @property
    def commutative(self) -> bool:
        """See `Combiner`."""
        return True

    def identity(self, kinds: Sequence[str]) -> Exprs:
        """See `Combiner`."""
        return tuple([p.identity(k) for p, k in zip(self.parts, kinds, strict=True)])

    def combine(self, lhs: Exprs, rhs: Exprs) -> Exprs:
        """See `Combiner`."""
        return tuple([
            build.binary(p.op, a, b) for p, a, b in zip(self.parts, lhs, rhs, strict=True)
        ])  # fmt: skip


# ----------------------------------------------------------------------------- one of the two
Tie: TypeAlias = Literal["any", "first", "last", "smaller", "larger"]


@dataclass(frozen=True)
class Pick:
    """The tuple with the greater key (`sign` ">") or the lesser one ("<"): argmax, argmin.

    It is commutative if tuples that tie in every comparison are the same tuple.

    Attributes:
        size: how many values there are.
        key: which value is compared.
        sign: how.
        tie: which tuple is taken where the keys are equal: "any" (there is only the key), the
            "first", the "last", or the one whose value number `by` is "smaller" or "larger".
        by: that number; else -1.
    """

    size: int
    key: int
    sign: Literal["<", ">"]
    tie: Tie
    by: int = -1

    @property
    def commutative(self) -> bool:
        """See `Combiner`."""
        return self.tie == "any" or (self.by >= 0 and self.size == 2)

    def identity(self, kinds: Sequence[str]) -> Exprs:
        """See `Combiner`."""
        worst = Reducer("max" if self.sign == ">" else "min")
        out: list[Expr] = []
        for k, dtype in enumerate(kinds):
            if k == self.key:
                out.append(worst.identity(dtype))
            elif k == self.by:  # loses every tie
                out.append(Reducer("min" if self.tie == "smaller" else "max").identity(dtype))
            else:
                signed = dtypes.is_float(dtype) or dtypes.min_value(dtype) < 0
                out.append(build.const(-1 if signed else 0, dtype))
        return tuple(out)

    def combine(self, lhs: Exprs, rhs: Exprs) -> Exprs:
        """See `Combiner`."""
        wins = self.wins(lhs, rhs)
        return tuple([build.select(wins, a, b) for a, b in zip(lhs, rhs, strict=True)])

    def wins(self, lhs: Exprs, rhs: Exprs) -> Expr:
        """Is `lhs` taken?"""
        a, b = lhs[self.key], rhs[self.key]
        if self.tie == "any" or self.tie == "first":
            return build.binary(">=" if self.sign == ">" else "<=", a, b)
        better = build.binary(self.sign, a, b)
        if self.tie == "last":
            return better
        op: BinaryOp = "<=" if self.tie == "smaller" else ">"  # of all equal, as "first", "last"
        closer = build.binary(op, lhs[self.by], rhs[self.by])
        return build.logical_or(better, build.logical_and(build.eq(a, b), closer))


# ----------------------------------------------------------------------------- merged
@dataclass(frozen=True)
class Merge:
    """A combiner that is declared: a block is known by how it takes in one element.

    Attributes:
        name: of the combiner.
        size: how many values the tuple has.
        combine: the result of two tuples.
        identity: the tuple that changes nothing, by the dtypes of the values.
        update: `update(lhs, x)`: the result so far and one element. Blocks are compared with what
            it builds, up to the order of buffers and of the operands of +, *, min and max.
        element: the tuple that stands for one element: `update(lhs, x)` is worth
            `combine(lhs, element(x))`.
        like: for each value of an element, the value of the tuple whose dtype it has.
        commutative: may partial results be taken in any order?
    """

    name: str
    size: int
    combine: Callable[[Exprs, Exprs], Exprs]
    identity: Callable[[Sequence[str]], Exprs]
    update: Callable[[Exprs, Exprs], Exprs]
    element: Callable[[Exprs], Exprs]
    like: tuple[int, ...]
    commutative: bool = True


@dataclass(frozen=True)
class Permuted:
    """`of`, its values in another order: value k of it is number `places[k]` of the block's."""

    of: Merge
    places: tuple[int, ...]

    @property
    def commutative(self) -> bool:
        """See `Combiner`."""
        return self.of.commutative

    def identity(self, kinds: Sequence[str]) -> Exprs:
        """See `Combiner`."""
        return self.put(self.of.identity([kinds[p] for p in self.places]))

    def combine(self, lhs: Exprs, rhs: Exprs) -> Exprs:
        """See `Combiner`."""
        return self.put(self.of.combine(self.take(lhs), self.take(rhs)))

    def take(self, values: Exprs) -> Exprs:
        """Values in the block's order, in the declaration's."""
        return tuple([values[p] for p in self.places])

    def put(self, values: Exprs) -> Exprs:
        """Values in the declaration's order, in the block's."""
        return tuple([values[self.places.index(k)] for k in range(len(self.places))])


MERGES: dict[str, Merge] = {}


def register_reducer(
    name: str,
    size: int,
    combine: Callable[[Exprs, Exprs], Exprs],
    identity: Callable[[Sequence[str]], Exprs],
    *,
    update: Callable[[Exprs, Exprs], Exprs] | None = None,
    element: Callable[[Exprs], Exprs] | None = None,
    like: Sequence[int] | None = None,
    commutative: bool = True,
) -> Merge:
    """Make rfactor know a combiner. That it is associative, with this identity, is taken on trust.

    Args:
        name: a new name, or that of a combiner to be replaced.
        size: how many values it combines, at most 4.
        combine: the result of two tuples of expressions, the earlier one first.
        identity: the tuple that changes nothing, by the dtypes of the values.
        update: how a block takes in one element, if that is not written as `combine`.
        element: the tuple that stands for an element; needed with `update`.
        like: for each value of an element, the value of the tuple whose dtype it has.
        commutative: may partial results be taken in any order? If not, only the outermost loop of a
            reduction can be factored.

    Raises:
        UserError: a size out of range, or `update` without `element` or the other way round.

    Example:
        >>> from gputune.ir import build
        >>> from gputune.schedule.reducers import MERGES, register_reducer
        >>> def times(a, b):  # complex numbers
        ...     return (a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0])
        >>> def one(kinds):
        ...     return (build.const(1, kinds[0]), build.const(0, kinds[1]))
        >>> register_reducer("complex product", 2, times, one).commutative
        True
        >>> del MERGES["complex product"]
    """
    if not 1 <= size <= 4:
        raise UserError(
            f"register_reducer: size {size} of {name!r} is not in [1, 4]", code="reducer-size"
        )
    if (update is None) != (element is None):
        raise UserError(
            f"register_reducer: {name!r} has {'element' if update is None else 'update'} alone",
            hint="give both, or neither where a block combines tuples as combine does",
            code="reducer-update",
        )
    merge = Merge(
        name,
        size,
        combine,
        identity,
        combine if update is None else update,
        tuple if element is None else element,
        tuple(range(size) if like is None else like),
        commutative,
    )
    MERGES[name] = merge
    return merge


def _welford_update(lhs: Exprs, x: Exprs) -> Exprs:
    count, mean, squares = lhs
    total = count + 1
    off = x[0] - mean
    new = mean + off / build.cast(mean.dtype, total)
    return total, new, squares + off * (x[0] - new)


def _welford(a: Exprs, b: Exprs) -> Exprs:
    total = a[0] + b[0]
    some = build.select(build.eq(total, 0), build.const(1, total.dtype), total)
    kind = a[1].dtype
    off = b[1] - a[1]
    share = build.cast(kind, b[0]) / build.cast(kind, some)  # 0 if `b` is empty, 1 if `a` is
    return (
        total,
        a[1] + off * share,
        a[2] + b[2] + off * off * (build.cast(kind, a[0]) * share),
    )


register_reducer(
    "welford", 3, _welford,
    lambda kinds: tuple([build.const(0, k) for k in kinds]),
    update=_welford_update,
    element=lambda x: (build.const(1), x[0], build.const(0, x[0].dtype)),
    like=(1,),
)  # fmt: skip


def _softmax(exp: str) -> Merge:
    """(maximum, sum of powers relative to it); the identity has a finite maximum, so that nothing
    is subtracted from itself at infinity."""

    def power(e: Expr) -> Expr:
        return Call(exp, (e,), e.dtype)

    def merge(a: Exprs, b: Exprs) -> Exprs:
        top = build.maximum(a[0], b[0])
        return top, a[1] * power(a[0] - top) + b[1] * power(b[0] - top)

    def update(a: Exprs, x: Exprs) -> Exprs:
        top = build.maximum(a[0], x[0])
        return top, a[1] * power(a[0] - top) + power(x[0] - top)

    return register_reducer(
        f"online softmax, {exp}", 2, merge,
        lambda kinds: (build.const(dtypes.min_value(kinds[0]), kinds[0]), build.const(0, kinds[1])),
        update=update, element=lambda x: (x[0], build.const(1, x[0].dtype)), like=(0,),
    )  # fmt: skip


_softmax("exp")
_softmax("exp2")
