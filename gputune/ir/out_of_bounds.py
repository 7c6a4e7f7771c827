"""Which accesses can leave their buffer, found before anything runs?

Every access is looked at with all that decides whether it happens: loop ranges, predicates,
conditions, sides of a select, masks of vectors. These and the index are written as linear
inequalities (quotients and remainders by constants, minima, selects too), so that the verdict is
exact for quasi-affine programs: either the access stays inside, or an iteration is named in which
it does not. Where data or an operation that is not followed decides, the verdict is "unknown".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ..errors import RunError
from . import dtypes
from .affine import same
from .build import const_int, is_literal
from .feasible import UNKNOWN, AnyOf, Between, Constraint, Problem
from .in_bounds import Path, _Bind, _Checker, _domain, _Guard, _Loop, _outside, _Unknown, _value
from .intervals import INDEX, bounds
from .nodes import (
    COMPARISONS,
    BinOp,
    Block,
    Broadcast,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Cast,
    Evaluate,
    Expr,
    IntImm,
    IRModule,
    Let,
    Not,
    PrimFunc,
    Ramp,
    Select,
    Stmt,
    Var,
)
from .ops import VECTOR
from .show import draw, show
from .walk import expr_children, free_vars, loads, map_expr, substitute, walk_stmt

Verdict: TypeAlias = Literal["outside", "unknown"]
Verb: TypeAlias = Literal["reads", "writes", "views"]


@dataclass(frozen=True, slots=True, eq=False)
class StrayAccess:
    """An access that can leave its buffer.

    Attributes:
        func: the function.
        block: the name of the block around the access, "" if there is none.
        verb: what happens there: it reads, it writes, or it takes a view (`match_buffer`).
        buffer: the buffer.
        indices: the indices, as they are written; of a view, where it begins.
        dim: the dimension that is left.
        verdict: "outside": in the iteration named here it surely leaves the buffer; "unknown": what
            decides it is not known before the program runs.
        value: the index in that iteration; None if unknown.
        iteration: the loop variables that the index depends on, by name.
        reason: why it is unknown.
        at: the statement.
    """

    func: PrimFunc
    block: str
    verb: Verb
    buffer: Buffer
    indices: tuple[Expr, ...]
    dim: int
    verdict: Verdict
    value: int | None
    iteration: Mapping[str, int]
    reason: str
    at: Stmt

    @property
    def message(self) -> str:
        """One line that says what is wrong."""
        who = f"block {self.block} of {self.func.name}" if self.block else self.func.name
        what = f"{self.buffer.name}[{', '.join(map(show, self.indices))}]"
        size = self.buffer.shape[self.dim]
        has = f"{self.buffer.name} has {show(size)} elements along it"
        if self.verdict == "unknown":
            return (
                f"{who} {self.verb} {what}: whether index {self.dim} stays inside is not known, "
                f"{self.reason}; {has}"
            )
        where = ", ".join(f"{v} = {x}" for v, x in self.iteration.items())
        return (
            f"{who} {self.verb} {what}: index {self.dim} is {self.value}"
            f"{f' at {where}' if where else ''}; {has}"
        )

    def draw(self) -> str:
        """The program with the statement marked."""
        note = f"{self.buffer.name}, index {self.dim}: {self.verdict}"
        return draw(self.func, [self.at], note)

    def __str__(self) -> str:
        return f"{self.message}\n{self.draw()}"


def find_out_of_bounds(x: PrimFunc | IRModule) -> list[StrayAccess]:
    """Every access of a program that can leave its buffer, in program order.

    An empty list is a proof: whatever the data, and whatever the sizes that the program leaves
    open, no access leaves its buffer (arithmetic on indices taken not to overflow). A finding
    "outside" names an iteration in which it does. A finding "unknown" is neither: the index or a
    condition depends on data, on a number that the caller gives (then `reason` has an example), or
    on an operation that is not followed.

    Args:
        x: a function, scheduled or not, lowered or not; or a module.

    Returns:
        The findings, one for each access and dimension; equal ones once.

    Example:
        >>> @T.prim_func
        ... def shifted(A: T.Buffer((8,)), B: T.Buffer((8,))):
        ...     for i in range(8):
        ...         with T.block("B"):
        ...             vi = T.axis.spatial(8, i)
        ...             B[vi] = A[vi + 1]
        >>> [found] = find_out_of_bounds(shifted)
        >>> found.verdict, found.value, found.iteration
        ('outside', 8, {'i': 7})
    """
    out: list[StrayAccess] = []
    for func in [x] if isinstance(x, PrimFunc) else x.functions.values():
        lister = _Lister(func)
        lister.stmt(func.body, ())
        out += lister.found.values()
    return out


# ----------------------------------------------------------------------------- the walk
class _Lister(_Checker):
    """The walk of `check_in_bounds`, which also looks at masked accesses and views, and judges
    every access."""

    def __init__(self, func: PrimFunc) -> None:
        super().__init__(func)
        self.found: dict[str, StrayAccess] = {}
        self.written = _written(func)
        self.sizes = {
            v for _, b in func.buffer_map for n in b.shape for v in free_vars(n)
        }  # fmt: skip

    def stmt(self, s: Stmt, path: Path) -> None:
        if type(s) is BufferStore and s.predicate is not None:
            self.at = s
            self.exprs((s.predicate, s.value, *s.indices), path)
            self.masked(s.buffer, s.indices, s.predicate, path, "writes")
            return
        super().stmt(s, path)

    def inside(self, b: Block, path: Path) -> None:
        around = path + tuple(_Bind(iv.var, v) for iv, v in zip(b.iter_vars, b.iter_values))
        if not is_literal(b.predicate, 1):
            around = (*around, _Guard(b.predicate))
        for m in b.match_buffers:
            starts = tuple([r.min for r in m.source.region])
            for k, (r, size) in enumerate(zip(m.source.region, m.source.buffer.shape)):
                last = BinOp("+", r.min, BinOp("-", r.extent, _one(r.extent), r.extent.dtype),
                             r.min.dtype)  # fmt: skip
                if is_literal(r.extent, 1):
                    last = r.min  # type: ignore[assignment]  # any expression will do
                self.judge(m.source.buffer, starts, k, (r.min, last), size, around, "views")
        super().inside(b, path)

    def expr(self, e: Expr, path: Path) -> None:
        if type(e) is BufferLoad and e.predicate is not None:
            self.exprs((e.predicate, *e.indices), path)
            self.masked(e.buffer, e.indices, e.predicate, path, "reads")
        elif type(e) is Call and e.op in VECTOR:
            self.exprs(e.args, path)
        else:
            super().expr(e, path)

    def masked(
        self, b: Buffer, indices: Sequence[Expr], mask: Expr, path: Path, verb: Verb
    ) -> None:
        """An access of which only the lanes happen for which a mask holds."""
        lane = Var("lane")
        n = max(dtypes.lanes(i.dtype) for i in (*indices, mask))
        try:
            guard = _at_lane(mask, lane, path)
            single = [_at_lane(i, lane, path) for i in indices]
        except _Unknown:
            self.unknown(b, tuple(indices), 0, verb, "its lanes are no plain expressions")
            return
        path = (*path, _Loop(lane, IntImm(0), IntImm(n)), _Guard(guard))
        self.each(b, tuple(indices), [(i,) for i in single], path, verb)

    def access(self, buffer: Buffer, indices: Sequence[Expr], path: Path, verb: str) -> None:
        lane, n = Var("lane"), max((dtypes.lanes(i.dtype) for i in indices), default=1)
        try:
            single = [(_at_lane(i, lane, path),) for i in indices]
        except _Unknown:
            self.unknown(
                buffer, tuple(indices), 0, _verb(verb), "its lanes are no plain expressions"
            )
            return
        if n > 1:
            path = (*path, _Loop(lane, IntImm(0), IntImm(n)))
        self.each(buffer, tuple(indices), single, path, _verb(verb))

    def each(
        self, b: Buffer, written: tuple[Expr, ...], indices: Sequence[tuple[Expr, ...]],
        path: Path, verb: Verb,
    ) -> None:  # fmt: skip
        if len(indices) != len(b.shape):
            return  # no well-formed access: see `check`
        for k, (ends, size) in enumerate(zip(indices, b.shape)):
            self.judge(b, written, k, ends, size, path, verb)

    # ------------------------------------------------------------------ the verdict
    def judge(
        self, b: Buffer, indices: tuple[Expr, ...], dim: int, ends: tuple[Expr, ...], size: Expr,
        path: Path, verb: Verb,
    ) -> None:  # fmt: skip
        """Can the index be below 0, or not below the size? `ends`: its least and greatest form."""
        dom = _domain(path)
        reason = ""
        for index, above in ((ends[-1], True), (ends[0], False)):
            lo, hi = bounds(index, dom)
            n = const_int(size)
            if (n is not None and hi is not None and hi < n) if above else (
                lo is not None and lo >= 0
            ):  # fmt: skip
                continue
            linear = _Linear(path, self.sizes, self.written)
            point = linear.violation(index, size if above else None)
            if point is None:
                continue
            if not isinstance(point, str):
                seen = linear.witness(point, index, size)
                if seen is not None and not linear.free:
                    self.note(b, indices, dim, verb, "outside", *seen, "")
                    return
                if seen is not None:
                    reason = reason or linear.example(*seen)
            elif n is not None:
                found = _outside(index, int(n), path, dom)
                if found is not None:
                    where = {v.name: x for v, x in found[1].items()}
                    self.note(b, indices, dim, verb, "outside", found[0], where, "")
                    return
            reason = reason or linear.reason()
        if reason:
            self.unknown(b, indices, dim, verb, reason)

    def unknown(
        self, b: Buffer, indices: tuple[Expr, ...], dim: int, verb: Verb, reason: str
    ) -> None:
        self.note(b, indices, dim, verb, "unknown", None, {}, reason)

    def note(
        self, b: Buffer, indices: tuple[Expr, ...], dim: int, verb: Verb, verdict: Verdict,
        value: int | None, iteration: Mapping[str, int], reason: str,
    ) -> None:  # fmt: skip
        new = StrayAccess(
            self.func,
            "" if self.block == "root" else self.block,
            verb,
            b,
            indices,
            dim,
            verdict,
            value,
            iteration,
            reason,
            self.at,
        )
        self.found.setdefault(f"{id(self.at)} {new.message}", new)


def _written(func: PrimFunc) -> set[Buffer]:
    """The buffers whose elements may change while the function runs, views among them."""
    source: dict[Buffer, Buffer] = {}
    out: set[Buffer] = set()
    for s in walk_stmt(func.body):
        if type(s) is BufferStore:
            out.add(s.buffer)
        elif type(s) is Evaluate:  # an operation that may do anything with what it is given
            out.update(x.buffer for x in loads(s.value))
        elif type(s) is Block:
            source.update((m.buffer, m.source.buffer) for m in s.match_buffers)

    def root(b: Buffer) -> Buffer:
        return root(source[b]) if b in source else b

    roots = {root(b) for b in out}
    return roots | {b for b in source if root(b) in roots}


def _verb(verb: str) -> Verb:
    return "writes" if verb == "writes" else "reads"


def _one(like: Expr) -> IntImm:
    return IntImm(1, like.dtype)


def _at_lane(e: Expr, lane: Var, path: Path) -> Expr:
    """What a vector is in one of its lanes; _Unknown where that is no expression. `path` says what
    variables stand for."""
    if dtypes.lanes(e.dtype) == 1:
        return e
    match e:
        case Var():
            for step in reversed(path):
                if type(step) is _Bind and step.var is e:
                    return _at_lane(step.value, lane, path)
            raise _Unknown
        case Ramp():
            at: Expr = lane if e.base.dtype == "int32" else Cast(e.base.dtype, lane)
            reach = BinOp("*", at, e.stride, e.base.dtype)
            return BinOp("+", e.base, reach, e.base.dtype)
        case Broadcast():
            return e.value
        case BinOp():
            a, b = _at_lane(e.a, lane, path), _at_lane(e.b, lane, path)
            return BinOp(e.op, a, b, dtypes.scalar(e.dtype))
        case Cast():
            return Cast(dtypes.scalar(e.dtype), _at_lane(e.value, lane, path))
        case Not() | Select() | BufferLoad():
            return map_expr(e, lambda x: _at_lane(x, lane, path))
        case _:
            raise _Unknown


# ----------------------------------------------------------------------------- as inequalities
@dataclass(slots=True)
class _Sum:
    """A sum of variables of the problem."""

    terms: dict[int, int]
    const: int = 0

    def plus(self, other: _Sum, c: int = 1) -> _Sum:
        terms = dict(self.terms)
        for v, k in other.terms.items():
            terms[v] = terms.get(v, 0) + c * k
        return _Sum({v: k for v, k in terms.items() if k}, self.const + c * other.const)

    def times(self, c: int) -> _Sum:
        return _Sum({v: k * c for v, k in self.terms.items() if c}, self.const * c)

    def between(self, lo: int | None, hi: int | None) -> Between:
        return Between(
            self.terms, None if lo is None else lo - self.const,
            None if hi is None else hi - self.const,
        )  # fmt: skip

    def key(self) -> tuple[object, ...]:
        return (*sorted(self.terms.items()), self.const)


@dataclass(slots=True)
class _Linear:
    """A path and an index as a problem in integers.

    Attributes:
        path: what stands around the access.
        sizes: variables that are sizes of the function's buffers: at least 1.
        written: buffers whose elements may change while the program runs.
        of: the sum that stands for a variable.
        free: variables of the function, each with its number.
        hidden: what is not followed, each with the variable that stands for it.
    """

    path: Path
    sizes: set[Var]
    written: set[Buffer]
    problem: Problem = field(default_factory=Problem)
    of: dict[Var, _Sum] = field(default_factory=dict)
    loops: dict[Var, int] = field(default_factory=dict)
    free: dict[Var, int] = field(default_factory=dict)
    hidden: list[tuple[Expr, int]] = field(default_factory=list)
    parts: dict[tuple[object, ...], tuple[_Sum, _Sum]] = field(default_factory=dict)
    dom: dict[Var, tuple[int | None, int | None]] = field(default_factory=dict)
    spent: bool = False
    skipped: list[Expr] = field(default_factory=list)

    def violation(self, index: Expr, size: Expr | None) -> list[int] | str | None:
        """A point at which the index is `size` or more (None: below 0); None: there is none."""
        self.dom = _domain(self.path)
        for step in self.path:
            match step:
                case _Loop():
                    self.loop(step)
                case _Bind():
                    if dtypes.is_int(step.var.dtype):
                        self.of[step.var] = self.sum(step.value)
                case _Guard():
                    self.take(self.holds(step.cond, step.so))
        at = self.sum(index)
        if size is None:
            self.take([at.between(None, -1)])
        else:
            self.take([at.plus(self.sum(size), -1).between(0, None)])
        found = self.problem.solve()
        self.spent = found == UNKNOWN
        return found

    def take(self, constraints: Sequence[Constraint] | None) -> None:
        self.problem.constraints += constraints or ()

    def loop(self, step: _Loop) -> None:
        first, n = self.sum(step.min), self.sum(step.extent)
        v = self.problem.variable()
        if not first.terms and not n.terms:
            self.problem.box[v] = (first.const, first.const + n.const - 1)
        else:
            at = _Sum({v: 1}).plus(first, -1)
            self.take([at.between(0, None), at.plus(n, -1).between(None, -1)])
        self.of[step.var] = _Sum({v: 1})
        self.loops[step.var] = v

    # ------------------------------------------------------------------ numbers
    def sum(self, e: Expr) -> _Sum:
        """An integer expression as a sum; what it is made of is constrained on the way."""
        match e:
            case IntImm():
                return _Sum({}, int(e.value))
            case Var():
                return self.variable(e)
            case Cast() if self.keeps(e):
                return self.sum(e.value)
            case Call(op="likely", args=(a,)):
                return self.sum(a)
            case Let() if dtypes.is_int(e.value.dtype):
                self.of[e.var] = self.sum(e.value)
                return self.sum(e.body)
            case Select(cond=cond, a=a, b=b) | Call(op="if_then_else", args=(cond, a, b)) if (
                dtypes.is_int(e.dtype)
            ):
                return self.choice(cond, a, b)
            case BinOp() if e.dtype in INDEX:
                return self.binary(e)
            case _:
                return self.opaque(e)

    def keeps(self, e: Cast) -> bool:
        """Is the value of a cast that of its operand?"""
        if not (dtypes.is_int(e.dtype) and dtypes.is_int(e.value.dtype)):
            return False
        if e.dtype in INDEX and e.value.dtype in INDEX:
            if e.dtype == "int64" or e.value.dtype == "int32":
                return True
        lo, hi = bounds(e.value, self.dom)
        least, most = int(dtypes.min_value(e.dtype)), int(dtypes.max_value(e.dtype))
        return lo is not None and hi is not None and least <= lo and hi <= most

    def variable(self, v: Var) -> _Sum:
        known = self.of.get(v)
        if known is not None:
            return known
        lo, hi = bounds(v, {})
        k = self.problem.variable(1 if v in self.sizes and lo is None else lo, hi)
        self.free[v] = k
        self.of[v] = _Sum({k: 1})
        return self.of[v]

    def opaque(self, e: Expr) -> _Sum:
        """A number of which only bounds are known."""
        plain = substitute(e, self.named())
        if not self.changes(plain):
            for old, k in self.hidden:
                if same(old, plain):
                    return _Sum({k: 1})
        lo, hi = bounds(e, self.dom)
        k = self.problem.variable(lo, hi)
        self.hidden.append((plain, k))
        return _Sum({k: 1})

    def named(self) -> dict[Var, Expr]:
        """Variables that are bound to others, so that equal expressions look equal."""
        out: dict[Var, Expr] = {}
        for step in self.path:
            if type(step) is _Bind:
                out[step.var] = substitute(step.value, out)
        return out

    def changes(self, e: Expr) -> bool:
        """May it have another value each time it is asked?"""
        if type(e) is BufferLoad and e.buffer in self.written:
            return True
        return any(self.changes(x) for x in expr_children(e))

    def binary(self, e: BinOp) -> _Sum:
        match e.op:
            case "+":
                return self.sum(e.a).plus(self.sum(e.b))
            case "-":
                return self.sum(e.a).plus(self.sum(e.b), -1)
            case "*":
                a, b = self.sum(e.a), self.sum(e.b)
                if not b.terms:
                    return a.times(b.const)
                return b.times(a.const) if not a.terms else self.opaque(e)
            case "min" | "max":
                return self.extreme(self.sum(e.a), self.sum(e.b), e.op == "min")
            case "//" | "%" | "/" | "truncmod" | ">>" | "<<" | "&":
                return self.divided(e)
            case _:
                return self.opaque(e)

    def divided(self, e: BinOp) -> _Sum:
        c = const_int(e.b)
        if c is None:
            return self.opaque(e)
        c = int(c)
        if e.op == "<<":
            return self.sum(e.a).times(1 << c) if 0 <= c < 31 else self.opaque(e)
        if e.op == ">>":
            return self.quotient(self.sum(e.a), 1 << c)[0] if 0 <= c < 63 else self.opaque(e)
        if e.op == "&":
            plain = c >= 0 and c & (c + 1) == 0
            return self.quotient(self.sum(e.a), c + 1)[1] if plain else self.opaque(e)
        if c < 1:
            return self.opaque(e)
        if e.op in ("/", "truncmod"):  # they round towards 0
            lo, _ = bounds(e.a, self.dom)
            if lo is None or lo < 0:
                return self.opaque(e)
        q, r = self.quotient(self.sum(e.a), c)
        return q if e.op in ("//", "/") else r

    def quotient(self, a: _Sum, c: int) -> tuple[_Sum, _Sum]:
        """a // c and a % c: a = c * q + r with r in [0, c)."""
        if c == 1:
            return a, _Sum({})
        if not a.terms:
            return _Sum({}, a.const // c), _Sum({}, a.const % c)
        known = self.parts.get((a.key(), c))
        if known is None:
            q, r = _Sum({self.problem.variable(): 1}), _Sum({self.problem.variable(0, c - 1): 1})
            self.take([a.plus(q, -c).plus(r, -1).between(0, 0)])
            known = self.parts[a.key(), c] = (q, r)
        return known

    def extreme(self, a: _Sum, b: _Sum, least: bool) -> _Sum:
        out = _Sum({self.problem.variable(): 1})
        over_a, over_b = a.plus(out, -1), b.plus(out, -1)
        lo, hi = (0, None) if least else (None, 0)
        self.take([over_a.between(lo, hi), over_b.between(lo, hi)])
        self.take([AnyOf(((over_a.between(0, 0),), (over_b.between(0, 0),)))])
        return out

    def choice(self, cond: Expr, a: Expr, b: Expr) -> _Sum:
        """One of two numbers. (What each is made of is constrained whichever is taken: quotients
        and the like are defined for all values.)"""
        out = _Sum({self.problem.variable(): 1})
        sides: list[tuple[Constraint, ...]] = []
        for x, so in ((a, True), (b, False)):
            own = self.holds(cond, so)
            sides.append((*(own or ()), self.sum(x).plus(out, -1).between(0, 0)))
        self.take([AnyOf(tuple(sides))])
        return out

    # ------------------------------------------------------------------ conditions
    def holds(self, e: Expr, so: bool) -> list[Constraint] | None:
        """What has to hold where a condition is `so`; None where that is not known."""
        match e:
            case IntImm():
                return [] if bool(e.value) == so else [AnyOf(())]
            case Not():
                return self.holds(e.a, not so)
            case Call(op="likely", args=(a,)):
                return self.holds(a, so)
            case BinOp(op="and" | "or"):
                one, two = self.holds(e.a, so), self.holds(e.b, so)
                if (e.op == "and") == so:  # both
                    return [*(one or ()), *(two or ())]
                if one is None or two is None:
                    return None
                return [AnyOf((tuple(one), tuple(two)))]
            case BinOp() if e.op in COMPARISONS and dtypes.is_int(e.a.dtype):
                return self.compared(e, so)
            case Var() if e in (table := self.named()):
                return self.holds(table[e], so)
            case _:
                self.skipped.append(e)
                return None

    def compared(self, e: BinOp, so: bool) -> list[Constraint]:
        gap = self.sum(e.a).plus(self.sum(e.b), -1)
        op = e.op if so else _OPPOSITE[e.op]
        match op:
            case "<":
                return [gap.between(None, -1)]
            case "<=":
                return [gap.between(None, 0)]
            case ">":
                return [gap.between(1, None)]
            case ">=":
                return [gap.between(0, None)]
            case "==":
                return [gap.between(0, 0)]
            case _:
                return [AnyOf(((gap.between(None, -1),), (gap.between(1, None),)))]

    # ------------------------------------------------------------------ what was found
    def witness(
        self, point: Sequence[int], index: Expr, size: Expr
    ) -> tuple[int, dict[str, int]] | None:
        """The index at a point and what names the iteration, if the program surely gets there."""
        env: dict[Var, int | bool] = {v: point[k] for v, k in self.free.items()}
        try:
            for step in self.path:
                match step:
                    case _Loop():
                        x, lo = point[self.loops[step.var]], _value(step.min, env)
                        if not lo <= x < lo + _value(step.extent, env):
                            return None
                        env[step.var] = x
                    case _Bind():
                        try:
                            env[step.var] = _value(step.value, env)
                        except _Unknown:
                            continue  # it may not matter
                    case _Guard():
                        if bool(_value(step.cond, env)) != step.so:
                            return None
            value, n = int(_value(index, env)), int(_value(size, env))
        except (_Unknown, RunError):
            return None
        if 0 <= value < n:
            return None
        asked = free_vars(substitute(index, self.named()))
        names = [v for v in self.loops if v in asked or v.name == "lane"]
        shown = {v.name: int(env[v]) for v in names}
        return value, shown | {v.name: point[k] for v, k in self.free.items()}

    def example(self, value: int, iteration: Mapping[str, int]) -> str:
        """What numbers that the caller gives would do."""
        names = ", ".join(v.name for v in self.free)
        at = ", ".join(f"{v} = {x}" for v, x in iteration.items())
        return f"it depends on {names} (it is {value} at {at})"

    def reason(self) -> str:
        """Why nothing is certain."""
        if self.spent:
            return "its conditions have too many cases"
        what = [show(e) for e in (*[e for e, _ in self.hidden], *self.skipped, *self.free)]
        if what:
            return f"it depends on {', '.join(dict.fromkeys(what))}"
        return "its conditions could not be followed"


_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
