"""Which elements does each thread of a block touch?

Counted out: every element that every thread touches, by its loops and conditions. What is the same
for all threads (the block, the loops around) stays symbolic.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..ir import dtypes, walk
from ..ir.nodes import BinOp, BufferLoad, Cast, Expr, For, IntImm, Not, Var
from . import linear as lin
from .accesses import Access
from .flat import steps_of
from .kernels import BLOCK
from .tiles import WARP

IntArray: TypeAlias = npt.NDArray[np.int64]

_MOST_POINTS = 1 << 20
"""Elements that are counted out for one access."""

_LANES = 2
"""Threads of a warp that stand for all of them where they touch the same: there is another one."""


@dataclass(frozen=True, slots=True)
class Touch:
    """An access together with the ranges of all variables in it."""

    access: Access
    dom: Mapping[Var, lin.Bounds]


def length(axis: For) -> int:
    """The length of an axis."""
    assert type(axis.extent) is IntImm
    return int(axis.extent.value)


class Threads:
    """The threads of a block.

    Args:
        axes: the axes of the kernel, as `kernels.inner` gives them.
    """

    def __init__(self, axes: list[For]) -> None:
        self._fill({a.var: length(a) for a in axes if a.thread in BLOCK})
        first = [a.var for a in axes if a.thread == "threadIdx.x"]
        if first:
            self.some = self.at[list(self.lengths).index(first[0])] < _LANES

    @staticmethod
    def along(lengths: dict[Var, int]) -> Threads:
        """Something else that runs side by side: the blocks of a grid, by their axes."""
        out = Threads([])
        out._fill(lengths)
        return out

    def _fill(self, lengths: dict[Var, int]) -> None:
        self.lengths = lengths
        """The thread axes with their lengths."""
        grid = np.meshgrid(*[np.arange(n) for n in self.lengths.values()], indexing="ij")
        self.count = prod(self.lengths.values())
        self.at = [a.ravel().astype(np.int64) for a in grid]
        """The value of each axis, for each thread of the block."""
        self.some = np.ones(self.count, bool)
        """Threads that stand for all of their warp where it touches something as one."""

    def warps_of(self, p: Points) -> Points:
        """Warps in place of their threads, where threadIdx.x is the threads of a warp."""
        return Points(p.at, p.who % max(1, self.count // WARP), p.round, p.symbolic)

    def points(
        self,
        t: Touch,
        common: Mapping[Var, lin.Bounds],
        loop: Var | None = None,
        alike: Sequence[Var] = (),
        most: int = _MOST_POINTS,
    ) -> Points | None:
        """Every element that every thread touches, relative to what is the same for all; None where
        that is not known or too much to count.

        Args:
            common: the variables that are the same for all.
            loop: whose value is noted with each element.
            alike: loops that are counted out too; the elements are told apart by their values.
            most: points that are counted out.
        """
        total = address_of(t)
        if total is None:
            return None
        same = common.keys() - self.lengths.keys()
        symbolic: dict[Hashable, int] = {}
        moving: list[tuple[Expr, int]] = []
        for k, (atom, c) in total.terms.items():
            if walk.free_vars(atom) <= same and not _loads(atom):
                symbolic[k] = c
            else:
                moving.append((atom, c))
        conds = [
            c
            for cond in t.access.conds
            for c in lin.conjuncts(cond)
            if not walk.free_vars(c) & same
        ]
        names = {v for e in (*(x for x, _ in moving), *conds) for v in walk.free_vars(e)}
        names.update(alike if loop is None else (*alike, loop))
        inner = [v for v in names if v not in self.lengths]
        if any(v not in t.dom for v in inner):
            return None
        sizes = [t.dom[v][1] - t.dom[v][0] + 1 for v in inner]
        ours = np.flatnonzero(self.some) if t.access.warp else np.arange(self.count)
        if len(ours) * prod(sizes) > most:
            return None
        env: dict[Var, IntArray] = {}
        rank = 1 + len(inner)
        for v, values in zip(self.lengths, self.at, strict=True):
            env[v] = values[ours].reshape(-1, *[1] * len(inner))
        for k, v in enumerate(inner):
            shape = [1] * rank
            shape[k + 1] = sizes[k]
            env[v] = np.arange(t.dom[v][0], t.dom[v][1] + 1, dtype=np.int64).reshape(shape)
        full = (len(ours), *sizes)
        at: IntArray = np.full(full, total.const, np.int64)
        for atom, c in moving:
            value = evaluate(atom, env)
            if value is None:
                return None
            at += c * value
        runs = np.ones(full, bool)
        for cond in conds:
            known = evaluate(cond, env)
            if known is not None:
                runs &= known.astype(bool)
        who = np.broadcast_to(ours.reshape(-1, *[1] * len(inner)), full)
        when = np.broadcast_to(env[loop], full) if loop is not None else np.zeros(full, np.int64)
        for v in alike:
            lo, hi = t.dom[v]
            at = at * (hi - lo + 1) + (env[v] - lo)
        return Points(at[runs], who[runs], when[runs], symbolic)


@dataclass(frozen=True, slots=True)
class Points:
    """Elements touched, one entry each: address (less what is the same for all), number of the
    thread, value of the loop asked about; `symbolic`: what is the same for all."""

    at: IntArray
    who: IntArray
    round: IntArray
    symbolic: dict[Hashable, int]

    def only(self, which: npt.NDArray[np.bool_]) -> Points:
        """Some of the entries."""
        return Points(self.at[which], self.who[which], self.round[which], self.symbolic)


def mixed(a: Access, dom: Mapping[Var, lin.Bounds], moving: Container[Var]) -> set[Var]:
    """The variables of `dom` that conditions tie to those that move: they decide what runs."""
    out: set[Var] = set()
    for cond in (c for x in a.conds for c in lin.conjuncts(x)):
        names = walk.free_vars(cond)
        if names <= dom.keys() and any(v in moving for v in names):
            out |= {v for v in names if v not in moving}
    return out


def share(a: Points, b: Points) -> bool:
    """Is there an element that one thread touches through `a` and another through `b`?"""
    both = np.intersect1d(a.at, b.at)
    if not len(both):
        return False
    first: list[IntArray] = []
    for p in (a, b):
        here = np.isin(p.at, both)
        at, who = np.searchsorted(both, p.at[here]), p.who[here]
        least = np.full(len(both), np.iinfo(np.int64).max)
        most = np.full(len(both), -1)
        np.minimum.at(least, at, who)
        np.maximum.at(most, at, who)
        first += [least, most]
    return not all(bool((x == first[0]).all()) for x in first)


def address_of(t: Touch) -> lin.Linear | None:
    """The element as a sum; None where it is not known (vectors, loads in it)."""
    total = lin.Linear({}, 0)
    for i, step in zip(t.access.indices, steps_of(t.access.buffer), strict=True):
        if dtypes.lanes(i.dtype) > 1 or type(step) is not IntImm:
            return None
        total = lin.plus(total, lin.times(lin.linear(i, t.dom), int(step.value)))
    return total


def _loads(e: Expr) -> bool:
    return any(type(x) is BufferLoad for x in walk.walk_expr(e))


def evaluate(e: Expr, env: Mapping[Var, IntArray]) -> IntArray | None:
    """The values of an expression over thread axes, one for each thread; None if there is anything
    else in it."""
    match e:
        case Var():
            return env.get(e)
        case IntImm():
            return np.asarray(int(e.value), np.int64)
        case Cast() if dtypes.is_int(e.dtype):
            return evaluate(e.value, env)
        case Not():
            inside = evaluate(e.a, env)
            return None if inside is None else (inside == 0).astype(np.int64)
        case BinOp() if e.op in _NUMPY:
            a, b = evaluate(e.a, env), evaluate(e.b, env)
            if a is None or b is None or (e.op in ("//", "%") and bool((b == 0).any())):
                return None
            out: IntArray = np.asarray(_NUMPY[e.op](a, b)).astype(np.int64)
            return out
        case _:
            return None


_NUMPY: dict[str, Callable[[IntArray, IntArray], Any]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "//": np.floor_divide, "%": np.mod,
    "min": np.minimum, "max": np.maximum, "<": np.less, "<=": np.less_equal, ">": np.greater,
    ">=": np.greater_equal, "==": np.equal, "!=": np.not_equal, "and": np.logical_and,
    "or": np.logical_or,
}  # fmt: skip


def reach(s: For, dom: Mapping[Var, lin.Bounds]) -> lin.Bounds:
    """The values that the variable of a loop of unknown length may take."""
    (a, _), (_, b), (_, n) = (lin.interval(x, dom) for x in (s.min, s.min, s.extent))
    return a, max(a, b + n - 1)
