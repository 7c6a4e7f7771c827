"""Which products are with a zero that was only put in to spread the data? They are not computed.

A transposed convolution reads data spread out with zeros: `if_then_else((y + r) % 2 == 0, X[(y + r)
// 2], 0)`. Which elements are zeros repeats with the modulus. So loops on which it depends are cut
into groups of as many iterations, which are written out: then the condition is known, and sums add
products of data only. Where the spread data is a temporary, what was asked when it was set holds of
what is read. A zero put in by such a condition counts as nothing, whatever it is multiplied with: a
weight that is not finite does not make NaN of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import lcm

from ..ir import build, dtypes, walk
from ..ir.nodes import (
    Alloc,
    BinOp,
    Broadcast,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Cast,
    Evaluate,
    Expr,
    FloatImm,
    For,
    IfThenElse,
    IntImm,
    PrimFunc,
    Stmt,
    Var,
)
from . import linear as lin
from .accesses import trip_count
from .limits import CpuLimits
from .prepare import as_block
from .simplify import simplify

GROUP = 8  # iterations at most that are written out for one loop
GROWTH = 16  # times that code may grow: most of it folds again
_Known = Mapping[Buffer, "Spread"]


@dataclass(frozen=True, slots=True)
class Spread:
    """Of a temporary: conditions on `places`, its indices, without which an element is zero."""

    places: tuple[Var, ...]
    conds: tuple[Expr, ...]

    def at(self, indices: tuple[Expr, ...]) -> list[Expr]:
        """Those conditions of an element that are one for all lanes."""
        table = {v: i for v, i in zip(self.places, indices) if dtypes.lanes(i.dtype) == 1}
        scalar = [c for c in self.conds if not _among(c, self.places) - set(table)]
        return [walk.substitute(c, table) for c in scalar]


def _among(e: Expr, names: Iterable[Var]) -> set[Var]:
    return set(names) & walk.free_vars(e)


def write_out_residues(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with loops written out as far as conditions on remainders need it, in sums of products
    with what is zero where they do not hold."""
    groups: dict[Var, int] = {}
    most = max(limits.statements, statements(func.body))

    def fits(chosen: Mapping[Var, int]) -> bool:
        return statements(func.body, chosen) <= most

    if not _groups(func.body, {}, {}, groups, fits):
        return func
    body = _go(func.body, groups, {}, frozenset())
    if body is func.body:
        return func
    return simplify(as_block(func, body), limits)


def skip_zeros(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with sums that add a product with zero only where it is none, as far as that is known
    of written-out loops."""
    return as_block(func, _skip(func.body, frozenset()))


def _skip(s: Stmt, written_out: frozenset[Var]) -> Stmt:
    if type(s) is For and s.kind == "unrolled":
        written_out = written_out | {s.var}
    if type(s) is BufferStore:
        conds = [c for c in zero_unless(s, {}) if walk.free_vars(c) <= written_out]
        return IfThenElse(build.logical_and(*conds), s) if conds else s
    out = walk.map_stmt(s, lambda e: e, lambda x: _skip(x, written_out))
    assert out is not None  # nothing is deleted
    if type(out) is For and type(s) is For and out.body is not s.body:
        return _hoisted(out)
    return out


def _hoisted(s: For) -> Stmt:
    """The loop inside of the conditions that it does not change: it may have nothing to do."""
    branch = s.body
    if type(branch) is not IfThenElse or branch.orelse is not None or walk.loads(branch.cond):
        return s
    conds = lin.conjuncts(branch.cond)
    outside = [c for c in conds if not walk.uses_var(c, s.var)]
    if not outside:
        return s
    inside = [c for c in conds if walk.uses_var(c, s.var)]
    body = IfThenElse(build.logical_and(*inside), branch.then) if inside else branch.then
    loop = For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)
    return IfThenElse(build.logical_and(*outside), loop)


# ----------------------------------------------------------------------------- what is zero
def _is_modular(e: Expr) -> bool:
    """Is it a comparison with a remainder?"""
    if type(e) is not BinOp or e.op not in ("==", "!=") or dtypes.lanes(e.dtype) > 1:
        return False
    return (_is_remainder(e.a) or _is_remainder(e.b)) and not walk.loads(e)


def _is_remainder(e: Expr) -> bool:
    return type(e) is BinOp and e.op == "%" and type(e.b) is IntImm and e.b.value > 1


def remainder(c: Expr) -> tuple[Expr, int]:
    """Of which sum, with which modulus, a condition asks for the remainder."""
    assert type(c) is BinOp  # is modular
    remainder = c.a if _is_remainder(c.a) else c.b
    assert type(remainder) is BinOp
    assert type(remainder.b) is IntImm
    return remainder.a, int(remainder.b.value)


def zero_unless(s: BufferStore, known: _Known) -> list[Expr]:
    """Conditions on remainders: where one does not hold, the statement adds zero to what it stores
    to."""
    value = s.value
    if type(value) is not BinOp or value.op not in ("+", "-"):
        return []
    for old, more in ((value.a, value.b), (value.b, value.a)):
        if (
            type(old) is BufferLoad
            and old.buffer is s.buffer
            and (value.op == "+" or old is value.a)
        ):
            conds = zero_conditions(more, known)
            return conds if conds and _same(old.indices, s.indices) else []
    return []


def _same(a: tuple[Expr, ...], b: tuple[Expr, ...]) -> bool:
    return [lin.key(x) for x in a] == [lin.key(x) for x in b]


def zero_conditions(e: Expr, known: _Known) -> list[Expr]:
    """Conditions on remainders: where one does not hold, `e` is zero."""
    match e:
        case Broadcast() | Cast():
            return zero_conditions(e.value, known)
        case BinOp(op="*"):
            return zero_conditions(e.a, known) + zero_conditions(e.b, known)
        case Call(op="if_then_else") if _is_zero(e.args[2]):
            return [c for c in lin.conjuncts(e.args[0]) if _is_modular(c)]
        case BufferLoad() if e.buffer in known:
            return known[e.buffer].at(e.indices)
        case _:
            return []


def _is_zero(e: Expr) -> bool:
    if type(e) is Broadcast or type(e) is Cast:
        return _is_zero(e.value)
    return (type(e) is FloatImm or type(e) is IntImm) and e.value == 0


def of_store(s: BufferStore) -> Spread | None:
    """What is known of a temporary that only this statement sets, indexed by variables."""
    conds = zero_conditions(s.value, {})
    places = [i for i in s.indices if type(i) is Var]
    if not conds or len(set(places)) < len(s.indices):
        return None
    own = tuple([c for c in conds if not walk.free_vars(c) - set(places)])
    return Spread(tuple(places), own) if own else None


def _spread(s: Alloc) -> Spread | None:
    """What is known of a temporary all elements of which are set under conditions on remainders."""
    places = tuple([Var(f"i{k}", "int32") for k in range(len(s.buffer.shape))])
    common: dict[object, Expr] | None = None
    inside = {x.var for x in walk.walk_stmt(s.body) if type(x) is For}
    for x in walk.walk_stmt(s.body):
        if type(x) is not BufferStore or x.buffer is not s.buffer or _is_zero(x.value):
            continue
        here: dict[object, Expr] = {}
        table: dict[Var, Expr] = {}
        for place, i in zip(places, x.indices):
            if type(i) is Var and i in inside and i.dtype == place.dtype:
                table[i] = place
        for c in zero_conditions(x.value, {}):
            moved = walk.substitute(c, table)
            if not _among(moved, inside):
                here[lin.key(moved)] = moved
        common = here if common is None else {k: c for k, c in common.items() if k in here}
        if not common:
            return None
    return Spread(places, tuple(common.values())) if common else None


# ----------------------------------------------------------------------------- which loops
def _groups(
    s: Stmt,
    loops: Mapping[Var, For],
    known: _Known,
    out: dict[Var, int],
    fits: Callable[[Mapping[Var, int]], bool],
) -> bool:
    """Note for loops of which every `out[v]` iterations are to be written out. Is there a sum to
    which that matters? `fits`: may the kernel become so large?"""
    found = False
    if type(s) is For:
        loops = {**loops, s.var: s}
    elif type(s) is Alloc:
        spread = _spread(s)
        known = known if spread is None else {**known, s.buffer: spread}
    elif type(s) is BufferStore:
        for c in zero_unless(s, known):
            found = True
            more = _wanted(c, loops, out)
            if more is None or _growth({**out, **more}, loops) > GROWTH:
                continue
            if fits({**out, **more}):
                out.update(more)
    for x in walk.stmt_children(s):
        found = _groups(x, loops, known, out, fits) or found
    return found


def _wanted(c: Expr, loops: Mapping[Var, For], out: Mapping[Var, int]) -> dict[Var, int] | None:
    """Groups of iterations that decide the condition; None where loops have none."""
    sum_, modulus = remainder(c)
    more: dict[Var, int] = {}
    for atom, k in lin.linear(sum_, {}).terms.values():
        if k % modulus == 0:
            continue
        loop = loops.get(atom) if type(atom) is Var else None
        if loop is None or loop.kind not in ("serial", "unrolled"):
            return None
        if loop.kind == "serial":
            n = trip_count(loop)
            group = lcm(modulus, out.get(loop.var, 1))
            if n is None or type(loop.min) is not IntImm:
                return None
            if n % group:
                group = n
            if group > GROUP:
                return None
            more[loop.var] = group
    return more


def _growth(groups: Mapping[Var, int], loops: Mapping[Var, For]) -> int:
    out = 1
    for v, n in groups.items():
        out *= n if v in loops else 1
    return out


# ----------------------------------------------------------------------------- how many
def statements(s: Stmt, groups: Mapping[Var, int] | None = None) -> int:
    """Statements of `s` once unrolled loops, and `groups[v]` iterations of others, are written out
    and products with zeros are left out."""
    return math.ceil(_written(s, groups or {}, {}, {}))


def _written(s: Stmt, groups: Mapping[Var, int], fixed: Mapping[Var, int], known: _Known) -> float:
    """`fixed`: how many values variables of loops that are written out have."""
    match s:
        case For():
            n = trip_count(s) if s.kind == "unrolled" else groups.get(s.var)
            if n is None:
                return _written(s.body, groups, fixed, known)
            return n * _written(s.body, groups, {**fixed, s.var: n}, known)
        case Alloc():
            spread = _spread(s)
            inner = known if spread is None else {**known, s.buffer: spread}
            return _written(s.body, groups, fixed, inner)
        case BufferStore():
            conds = {lin.key(c): c for c in zero_unless(s, known)}
            return math.prod(_share(c, fixed) for c in conds.values())
        case Evaluate():
            return 1.0
        case _:
            return sum(_written(x, groups, fixed, known) for x in walk.stmt_children(s))


def _share(c: Expr, fixed: Mapping[Var, int]) -> float:
    """At most such a part of the iterations fulfils a condition on a remainder; 1 where it stays a
    condition."""
    sum_, modulus = remainder(c)
    found = [1] + [0] * (modulus - 1)  # how often the sum has each remainder, but for the constant
    for atom, k in lin.linear(sum_, {}).terms.values():
        if k % modulus == 0:
            continue
        if type(atom) is not Var or atom not in fixed:
            return 1.0
        before, found = found, [0] * modulus
        for rest, times in enumerate(before):
            for v in range(fixed[atom]):
                found[(rest + v * k) % modulus] += times
    assert type(c) is BinOp  # is modular
    share = max(found) / sum(found)
    return share if c.op == "==" else 1.0 - min(found) / sum(found)


def _go(s: Stmt, groups: Mapping[Var, int], known: _Known, fixed: frozenset[Var]) -> Stmt:
    """`s` with loops in groups, and what is known of temporaries said where they are read.

    `fixed`: variables whose remainders are known."""
    match s:
        case For():
            if s.kind == "unrolled" or s.var in groups:
                fixed = fixed | {s.var}
            body = _go(s.body, groups, known, fixed)
            if s.var in groups:
                return _grouped(s, body, groups[s.var])
            if body is s.body:
                return s
            return For(s.var, s.min, s.extent, s.kind, body, s.thread, s.annotations)
        case Alloc():
            spread = _spread(s)
            inner = known if spread is None else {**known, s.buffer: spread}
            body = _go(s.body, groups, inner, fixed)
            return s if body is s.body else Alloc(s.buffer, body)
        case BufferStore() if known and zero_unless(s, known):
            value = _said(s.value, known, fixed)
            return s if value is s.value else BufferStore(s.buffer, value, s.indices, s.predicate)
        case _:
            out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, groups, known, fixed))
            assert out is not None  # nothing is deleted
            return out


def _said(e: Expr, known: _Known, fixed: frozenset[Var]) -> Expr:
    if type(e) is BufferLoad:
        spread = known.get(e.buffer)
        conds = [] if spread is None else [c for c in spread.at(e.indices) if _settled(c, fixed)]
        if not conds:
            return e
        zero = build.broadcast(build.const(0, dtypes.scalar(e.dtype)), dtypes.lanes(e.dtype))
        return Call("if_then_else", (build.logical_and(*conds), e, zero), e.dtype)
    return walk.map_expr(e, lambda x: _said(x, known, fixed))


def _settled(c: Expr, fixed: frozenset[Var]) -> bool:
    """Will the condition be known once loops are written out?"""
    sum_, modulus = remainder(c)
    terms = lin.linear(sum_, {}).terms.values()
    return all(k % modulus == 0 or (type(a) is Var and a in fixed) for a, k in terms)


def _grouped(s: For, body: Stmt, group: int) -> Stmt:
    n = trip_count(s)
    assert n is not None  # or it were in no groups
    zero = IntImm(0, s.extent.dtype)
    if n == group:
        return For(s.var, s.min, s.extent, "unrolled", body, None, s.annotations)
    outer, inner = Var(f"{s.var.name}_g", s.var.dtype), Var(f"{s.var.name}_r", s.var.dtype)
    k = build.add(build.mul(outer, IntImm(group, s.var.dtype)), inner)
    body = walk.substitute_stmt(body, {s.var: build.add(k, s.min)})
    few = For(inner, zero, IntImm(group, s.extent.dtype), "unrolled", body)
    count = IntImm(n // group, s.extent.dtype)
    return For(outer, zero, count, s.kind, few, None, s.annotations)
