"""What does a reduction block combine, and by which combiner?

The body may be written in many ways: values held in variables or stored one after the other, any
spelling of a comparison. It is first brought to one form, the stored values in terms of the old
ones; that form is then compared with the combiners of `reducers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Literal, NamedTuple, TypeAlias

from ..ir import build
from ..ir.affine import all_same, same
from ..ir.nodes import (
    BinOp,
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Cast,
    Expr,
    IfThenElse,
    Let,
    LetStmt,
    Not,
    Select,
    Seq,
    Stmt,
    Var,
)
from ..ir.walk import loads, map_expr
from .reducers import MERGES, OPERATORS, Combiner, Each, Exprs, Merge, Permuted, Pick, Reducer, Tie


class Reduction(NamedTuple):
    """A reduction that is understood.

    stores: the stores of the body, in order; combined: what each point combines in, one value a
    store; where: whether it does.
    """

    reducer: Combiner
    stores: tuple[BufferStore, ...]
    combined: Exprs
    where: Expr

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """What is stored, in order."""
        return tuple([x.buffer for x in self.stores])


class Fault(NamedTuple):
    """Why a reduction is not understood."""

    code: str
    message: str
    hint: str = ""


def reduction_of(b: Block) -> Reduction | Fault:
    """The combiner of a reduction block and what it combines, or why it has none.

    These conditions hold of the block (those on the init where it has one): (1) the init is one or
    several stores, (2) to different buffers; (3) the body is made of variables, stores, and a
    condition around all of them, (4) which reads no output; (5) there is a store for each buffer of
    the init, and (6) for no other; (7) no buffer is stored twice; (8) all of them have one shape
    and (9) all stores one place, (10) those of the init too; (11) the stored values combine the old
    values with something that reads none of them, (12) by one of the known combiners.
    """
    first = None if b.init is None else _init_stores(b)
    if isinstance(first, Fault):
        return first
    found = _body_stores(b)
    if isinstance(found, Fault):
        return found
    stores, values, where = found
    fault = _store_fault(b, stores if first is None else first, stores)
    if fault is not None:
        return fault
    old = _Old(tuple([x.buffer for x in stores]), stores[0].indices)
    if old.read_by(where):
        return Fault(
            "rfactor-body",
            f"the condition {where} of block {b.name} reads its output",
            "compute the value under both outcomes, with T.Select",
        )
    known = _each(values, old) or _pick(values, old) or _merge(values, old)
    if known is None:
        return Fault(
            "rfactor-combiner",
            f"the combiner of block {b.name} is not known",
            "rfactor knows old values op x with op one of +, *, T.min, T.max, the choice between "
            "two tuples by a key (argmax, argmin), Welford's update, the online softmax, and what "
            "register_reducer was given",
        )
    return Reduction(known[0], stores, known[1], where)


def takes_any_order(b: Block) -> bool:
    """Is it a reduction whose elements may be combined in any order?"""
    found = reduction_of(b)
    return isinstance(found, Reduction) and found.reducer.commutative


# ----------------------------------------------------------------------------- the form
def _init_stores(b: Block) -> tuple[BufferStore, ...] | Fault:
    items = b.init.items if type(b.init) is Seq else (b.init,)
    stores = tuple([x for x in items if type(x) is BufferStore and x.predicate is None])
    if len(stores) != len(items):
        return Fault(
            "rfactor-init",
            f"the init of block {b.name} is more than stores",
            "initialise each buffer by one store",
        )
    twice = _twice([x.buffer for x in stores])
    if twice is not None:
        return Fault(
            "rfactor-init",
            f"the init of block {b.name} stores {twice.name} twice",
            "initialise each buffer by one store",
        )
    return stores


def _body_stores(b: Block) -> tuple[tuple[BufferStore, ...], Exprs, Expr] | Fault:
    """The stores, the values in terms of the old ones, and the condition around all of it."""
    body: Stmt = b.body
    where: Expr = build.TRUE
    while type(body) is IfThenElse and body.orelse is None:
        where = build.logical_and(where, body.cond)
        body = body.then
    held: dict[Var, Expr] = {}
    stores: list[BufferStore] = []
    values: dict[Buffer, Expr] = {}

    def resolved(e: Expr) -> Expr:
        if type(e) is Var:
            return held.get(e, e)
        if type(e) is Let:
            held[e.var] = resolved(e.value)
            return resolved(e.body)
        out = map_expr(e, resolved)
        if type(out) is BufferLoad and out.buffer in values:
            made = next(x for x in stores if x.buffer is out.buffer)
            if out.predicate is None and all_same(out.indices, made.indices):
                return values[out.buffer]
        return out

    left: list[Stmt] = [body]
    while left:
        x = left.pop()
        if type(x) is Seq:
            left += reversed(x.items)
        elif type(x) is LetStmt:
            held[x.var] = resolved(x.value)
            left.append(x.body)
        elif type(x) is BufferStore and x.predicate is None:
            if x.buffer in values:
                return Fault(
                    "rfactor-stores",
                    f"block {b.name} stores {x.buffer.name} twice",
                    "hold what is computed in variables, and store it once",
                )
            value = resolved(x.value)
            indices = tuple([resolved(i) for i in x.indices])
            stores.append(BufferStore(x.buffer, x.value, indices))
            values[x.buffer] = value
        else:
            return Fault(
                "rfactor-body",
                f"the body of block {b.name} is more than variables, stores and a condition around "
                "them",
                "rfactor before blockize, and before other statements come into the block",
            )
    return tuple(stores), tuple(values.values()), where


def _store_fault(
    b: Block, first: Sequence[BufferStore], stores: Sequence[BufferStore]
) -> Fault | None:
    """What is wrong with the places that are stored."""
    begun, made = [x.buffer for x in first], [x.buffer for x in stores]
    if len(begun) != len(made):
        return Fault(
            "rfactor-stores",
            f"block {b.name} initialises {len(begun)} buffers and stores {len(made)}",
            "initialise in T.init() just what the body updates; other results go to another block",
        )
    odd = next((x for x in begun if x not in made), None)
    if odd is not None:
        return Fault(
            "rfactor-buffers",
            f"block {b.name} initialises {odd.name}, but never updates it",
            "initialise in T.init() just what the body updates; other results go to another block",
        )
    shape = made[0].shape
    other = next((x for x in made if not all_same(x.shape, shape)), None)
    if other is not None:
        return Fault(
            "rfactor-shapes",
            f"the outputs {made[0].name} and {other.name} of block {b.name} have different shapes",
            "give the outputs one shape, or reduce into each by a block of its own",
        )
    where = stores[0].indices
    apart = next((x for x in (*stores, *first) if not all_same(x.indices, where)), None)
    if apart is not None:
        return Fault(
            "rfactor-indices",
            f"block {b.name} stores {BufferLoad(made[0], where)} and "
            f"{BufferLoad(apart.buffer, apart.indices)}: different places",
            "use the same indices for all outputs, in the init too",
        )
    return None


def _twice(buffers: Sequence[Buffer]) -> Buffer | None:
    return next((x for k, x in enumerate(buffers) if x in buffers[:k]), None)


@dataclass(frozen=True, slots=True)
class _Old:
    """The old values: those of the buffers at the place that is stored."""

    buffers: tuple[Buffer, ...]
    indices: Exprs

    def number(self, e: Expr) -> int | None:
        """Which old value is it?"""
        if type(e) is not BufferLoad or e.buffer not in self.buffers or e.predicate is not None:
            return None
        return self.buffers.index(e.buffer) if all_same(e.indices, self.indices) else None

    def read_by(self, e: Expr) -> bool:
        """Does it read any of the buffers?"""
        return any(x.buffer in self.buffers for x in loads(e))


_Known: TypeAlias = tuple[Combiner, Exprs] | None


# ----------------------------------------------------------------------------- one by one
def _each(values: Exprs, old: _Old) -> _Known:
    parts: list[Reducer] = []
    combined: list[Expr] = []
    for k, v in enumerate(values):
        if type(v) is not BinOp or v.op not in OPERATORS:
            return None
        for acc, rest in ((v.a, v.b), (v.b, v.a)):
            if old.number(acc) == k and not old.read_by(rest):
                parts.append(Reducer(v.op))
                combined.append(rest)
                break
        else:
            return None
    return Each(tuple(parts)), tuple(combined)


# ----------------------------------------------------------------------------- one of the two
_Side: TypeAlias = Literal["old", "new"]


def _pick(values: Exprs, old: _Old) -> _Known:
    """Is one of two tuples taken whole? Found by going through all outcomes of the comparisons."""
    new: list[Expr] = []
    for k, v in enumerate(values):
        others = [x for x in _leaves(v, old) if old.number(x) != k]
        if not others or old.read_by(others[0]) or not all(same(x, others[0]) for x in others):
            return None
        new.append(others[0])
    choice = _Choice(values, old, tuple(new))
    compared = choice.compared()
    if compared is None or len(compared) > 3:
        return None
    table: dict[tuple[int, ...], tuple[_Side | None, ...]] = {}
    for signs in product((-1, 0, 1), repeat=len(compared)):
        order = dict(zip(compared, signs, strict=True))
        table[signs] = tuple([choice.winner(v, k, order) for k, v in enumerate(values)])
    if any(x is None for row in table.values() for x in row):
        return None
    for at, key in enumerate(compared):
        for sign, better in ((">", 1), ("<", -1)):
            if not all(
                all(w == ("old" if s[at] == better else "new") for w in row)
                for s, row in table.items()
                if s[at]
            ):
                continue
            ties = {s: row[:key] + row[key + 1 :] for s, row in table.items() if s[at] == 0}
            tie = _tie(ties, compared, key)
            if tie is not None:
                return Pick(len(new), key, ">" if sign == ">" else "<", *tie), tuple(new)
    return None


def _leaves(e: Expr, old: _Old) -> Iterator[Expr]:
    """What a value is chosen from."""
    parts = _branches(e)
    if parts is not None and old.read_by(parts[0]):
        yield from _leaves(parts[1], old)
        yield from _leaves(parts[2], old)
    elif type(e) is BinOp and e.op in ("min", "max") and old.read_by(e):
        yield from _leaves(e.a, old)
        yield from _leaves(e.b, old)
    else:
        yield e


def _branches(e: Expr) -> tuple[Expr, Expr, Expr] | None:
    """(condition, value if true, value if false)."""
    if type(e) is Select:
        return e.cond, e.a, e.b
    if type(e) is Call and e.op == "if_then_else":
        return e.args[0], e.args[1], e.args[2]
    return None


@dataclass(frozen=True, slots=True)
class _Choice:
    """Values that are chosen between the old ones and new ones."""

    values: Exprs
    old: _Old
    new: Exprs

    def compared(self) -> list[int] | None:
        """The numbers of the values that are compared; None if anything else decides."""
        out: set[int] = set()
        stack: list[tuple[Expr, int]] = [(v, k) for k, v in enumerate(self.values)]
        while stack:
            e, k = stack.pop()
            parts = _branches(e)
            if self.old.number(e) == k or same(e, self.new[k]):
                continue
            if parts is not None:
                if not self._conditions(parts[0], out):
                    return None
                stack += [(parts[1], k), (parts[2], k)]
            elif type(e) is BinOp and e.op in ("min", "max"):
                out.add(k)
                stack += [(e.a, k), (e.b, k)]
            else:
                return None
        return sorted(out)

    def _conditions(self, e: Expr, out: set[int]) -> bool:
        if type(e) is Not:
            return self._conditions(e.a, out)
        if type(e) is BinOp and e.op in ("and", "or"):
            return self._conditions(e.a, out) and self._conditions(e.b, out)
        found = self._comparison(e)
        if found is not None:
            out.add(found[0])
        return found is not None

    def _comparison(self, e: Expr) -> tuple[int, str, int] | None:
        """(which value, operator, 1 if the old one stands first and -1 if it stands last)."""
        if type(e) is not BinOp:
            return None
        for x, y, way in ((e.a, e.b, 1), (e.b, e.a, -1)):
            k = self.old.number(x)
            if k is not None and same(y, self.new[k]) and e.op in _OUTCOMES:
                return k, e.op, way
        return None

    def _holds(self, e: Expr, order: dict[int, int]) -> bool:
        if type(e) is Not:
            return not self._holds(e.a, order)
        if type(e) is BinOp and e.op == "and":
            return self._holds(e.a, order) and self._holds(e.b, order)
        if type(e) is BinOp and e.op == "or":
            return self._holds(e.a, order) or self._holds(e.b, order)
        found = self._comparison(e)
        assert found is not None  # `compared` has looked at all of them
        k, op, way = found
        return order[k] * way in _OUTCOMES[op]

    def winner(self, e: Expr, k: int, order: dict[int, int]) -> _Side | None:
        """Which one the value is, where `order` holds: by number, 1 if the old one is greater."""
        if self.old.number(e) == k:
            return "old"
        if same(e, self.new[k]):
            return "new"
        parts = _branches(e)
        if parts is not None:
            return self.winner(parts[1 if self._holds(parts[0], order) else 2], k, order)
        if type(e) is not BinOp:
            return None
        a, b = self.winner(e.a, k, order), self.winner(e.b, k, order)
        if a is None or b is None or a == b:
            return a if b is not None else None
        if order[k] == 0:
            return b
        return "old" if (order[k] > 0) == (e.op == "max") else "new"


_OUTCOMES: dict[str, frozenset[int]] = {
    "<": frozenset({-1}),
    "<=": frozenset({-1, 0}),
    ">": frozenset({1}),
    ">=": frozenset({0, 1}),
    "==": frozenset({0}),
    "!=": frozenset({-1, 1}),
}


def _tie(
    table: dict[tuple[int, ...], tuple[_Side | None, ...]], compared: list[int], key: int
) -> tuple[Tie, int] | None:
    """What is taken where the keys are equal: by the outcomes, who wins each value but the key."""
    if not all(table.values()):
        return "any", -1
    if any(len(set(row)) > 1 for row in table.values()):  # a bit of both
        return None
    taken = {s: row[0] for s, row in table.items()}
    sides = set(taken.values())
    if len(sides) == 1:
        return ("first", -1) if sides == {"old"} else ("last", -1)
    for at, k in enumerate(compared):
        if k == key:
            continue
        decided = {(s[at], side) for s, side in taken.items() if s[at]}
        equal = {side for s, side in taken.items() if not s[at]}
        pairs = all(len(row) == 1 for row in table.values())  # equal ones are then one pair
        if decided == {(-1, "old"), (1, "new")} and (pairs or equal == {"old"}):
            return "smaller", k
        if decided == {(1, "old"), (-1, "new")} and (pairs or equal == {"new"}):
            return "larger", k
    return None


# ----------------------------------------------------------------------------- declared ones
def _merge(values: Exprs, old: _Old) -> _Known:
    for merge in reversed(MERGES.values()):
        if merge.size != len(values):
            continue
        for places in permutations(range(merge.size)):
            combined = _matched(merge, values, old, places)
            if combined is not None:
                reducer = Permuted(merge, places)
                return reducer, reducer.put(combined)
    return None


def _matched(merge: Merge, values: Exprs, old: _Old, places: tuple[int, ...]) -> Exprs | None:
    """The tuple that an element stands for, in the order of the declaration."""
    lhs = [Var(f"old{k}", old.buffers[p].dtype) for k, p in enumerate(places)]
    x = [Var(f"x{k}", lhs[n].dtype) for k, n in enumerate(merge.like)]
    try:
        wanted = merge.update(tuple(lhs), tuple(x))
    except TypeError:  # not defined for these dtypes
        return None
    match = _Match(old, dict(zip(lhs, places, strict=True)), frozenset(x))
    bound: list[dict[Var, Expr]] = [{}]
    for p, w in zip(places, wanted, strict=True):
        bound = [found for b in bound for found in match.all(w, values[p], b)][:_MOST]
    if not bound or len(bound[0]) < len(x):
        return None
    kinds = [v.dtype for v in lhs]
    whole = merge.element(tuple([bound[0][v] for v in x]))
    return tuple([build.cast(k, e) for k, e in zip(kinds, whole, strict=True)])


_MOST = 64  # ways in which a declaration may fit; more are not followed


@dataclass(frozen=True, slots=True)
class _Match:
    """Comparison of an expression with a declared one."""

    old: _Old
    lhs: dict[Var, int]
    free: frozenset[Var]

    def all(self, p: Expr, e: Expr, bound: dict[Var, Expr]) -> Iterator[dict[Var, Expr]]:
        """The ways in which the variables may stand for parts of `e`."""
        if type(p) is Var:
            if p in self.lhs:
                if self.old.number(e) == self.lhs[p]:
                    yield bound
            elif p in bound:
                if same(bound[p], e):
                    yield bound
            elif p in self.free and e.dtype == p.dtype and not self.old.read_by(e):
                yield {**bound, p: e}
            return
        if type(p) is BinOp and type(e) is BinOp:
            if p.op != e.op or p.dtype != e.dtype:
                return
            yield from self.several((p.a, p.b), (e.a, e.b), bound)
            if p.op in OPERATORS:
                yield from self.several((p.a, p.b), (e.b, e.a), bound)
        elif type(p) is Cast and type(e) is Cast:
            if p.dtype == e.dtype:
                yield from self.all(p.value, e.value, bound)
        elif type(p) is Not and type(e) is Not:
            yield from self.all(p.a, e.a, bound)
        elif type(p) is Select and type(e) is Select:
            yield from self.several((p.cond, p.a, p.b), (e.cond, e.a, e.b), bound)
        elif type(p) is Call and type(e) is Call:
            if p.op == e.op and p.dtype == e.dtype and len(p.args) == len(e.args):
                yield from self.several(p.args, e.args, bound)
        elif same(p, e):
            yield bound

    def several(
        self, ps: Sequence[Expr], es: Sequence[Expr], bound: dict[Var, Expr]
    ) -> Iterator[dict[Var, Expr]]:
        """`all` of each pair."""
        if not ps:
            yield bound
            return
        for first in self.all(ps[0], es[0], bound):
            yield from self.several(ps[1:], es[1:], first)
