"""Does a program surely access what lies outside a buffer?

Only what is certain is reported: one iteration of the loops is found, and everything that decides
whether the access happens in it (loop ranges, predicates, conditions, the sides of a select) is
computed for that iteration. What depends on data, on sizes that are not constant, or on a view is
never reported, and a guarded access only where an iteration was found that passes the guards.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, assert_never

from ..errors import RunError, UserError
from . import dtypes, scalar
from .affine import linear
from .build import const_int, is_literal
from .intervals import Interval, bounds
from .nodes import (
    LOGIC,
    Alloc,
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
    For,
    IfThenElse,
    IntImm,
    IRModule,
    Let,
    LetStmt,
    Not,
    PrimFunc,
    Ramp,
    Select,
    Seq,
    Stmt,
    Var,
)
from .ops import MATH
from .show import draw, show
from .walk import expr_children, free_vars, substitute

_MOST = 256  # iterations that are looked at for one index
_OF_VALUES = frozenset({"likely", "assume", "reinterpret", "call_extern"}) | frozenset(MATH)
"""Intrinsics whose arguments are values: a load among them is made."""


@dataclass(frozen=True, slots=True)
class _Loop:
    """The variable takes min, min + 1, ..., `extent` times."""

    var: Var
    min: Expr
    extent: Expr


@dataclass(frozen=True, slots=True)
class _Bind:
    """The variable is the value."""

    var: Var
    value: Expr


@dataclass(frozen=True, slots=True)
class _Guard:
    """What follows happens where the condition is so."""

    cond: Expr
    so: bool = True


_Step: TypeAlias = _Loop | _Bind | _Guard
Path: TypeAlias = tuple[_Step, ...]
"""What lies between the function's entry and an access, in order."""


def check_in_bounds(x: PrimFunc | IRModule) -> None:
    """Refuse a program that accesses what lies outside a buffer.

    Raises:
        UserError: it surely does; names buffer, index and iteration, and draws the program.

    Example:
        >>> check_in_bounds(copies_8_elements_of_4)
        UserError: block C of main writes A[vi]: index 0 is 7 at i = 7, while A has the indices 0
        to 3 there
    """
    functions = [x] if isinstance(x, PrimFunc) else x.functions.values()
    for func in functions:
        _Checker(func).stmt(func.body, ())


class _Unknown(Exception):
    """A value that does not follow from the loops."""


class _Checker:
    """The walk: where we are, and what may not be judged."""

    def __init__(self, func: PrimFunc) -> None:
        self.func = func
        self.views: set[Buffer] = set()
        self.block = ""
        self.at: Stmt = func.body

    # ------------------------------------------------------------------ statements
    def stmt(self, s: Stmt, path: Path) -> None:
        self.at = s
        match s:
            case BufferStore():
                self.exprs((s.value, *s.indices), path)
                if s.predicate is None:
                    self.access(s.buffer, s.indices, path, "writes")
            case For():
                self.exprs((s.min, s.extent), path)
                self.stmt(s.body, (*path, _Loop(s.var, s.min, s.extent)))
            case Block():
                self.inside(s, path)
            case Seq():
                for item in s.items:
                    self.stmt(item, path)
            case IfThenElse():
                self.expr(s.cond, path)
                self.stmt(s.then, (*path, _Guard(s.cond)))
                if s.orelse is not None:
                    self.stmt(s.orelse, (*path, _Guard(s.cond, False)))
            case LetStmt():
                self.expr(s.value, path)
                self.stmt(s.body, (*path, _Bind(s.var, s.value)))
            case Evaluate():
                self.expr(s.value, path)
            case Alloc():
                self.stmt(s.body, path)
            case _:
                assert_never(s)

    def inside(self, b: Block, path: Path) -> None:
        self.exprs(b.iter_values, path)
        path += tuple(_Bind(iv.var, v) for iv, v in zip(b.iter_vars, b.iter_values))
        if not is_literal(b.predicate, 1):
            self.expr(b.predicate, path)
            path = (*path, _Guard(b.predicate))
        self.views.update(m.buffer for m in b.match_buffers)
        path += tuple(_sizes(b))
        outer, self.block = self.block, b.name
        if b.init is not None:
            starts = [
                _Guard(BinOp("==", iv.var, iv.dom.min, "bool"))
                for iv in b.iter_vars
                if iv.kind == "reduce"
            ]
            self.stmt(b.init, (*path, *starts))
        self.stmt(b.body, path)
        self.block = outer

    # ------------------------------------------------------------------ expressions
    def exprs(self, es: Sequence[Expr], path: Path) -> None:
        for e in es:
            self.expr(e, path)

    def expr(self, e: Expr, path: Path) -> None:
        """Look at the loads that an expression makes."""
        match e:
            case BufferLoad():
                self.exprs(e.indices, path)
                if e.predicate is None:
                    self.access(e.buffer, e.indices, path, "reads")
            case Select(cond=cond, a=a, b=b) | Call(op="if_then_else", args=(cond, a, b)):
                self.expr(cond, path)
                self.expr(a, (*path, _Guard(cond)))
                self.expr(b, (*path, _Guard(cond, False)))
            case BinOp(op=op, a=a, b=b) if op in LOGIC:
                self.expr(a, path)
                self.expr(b, (*path, _Guard(a, op == "and")))
            case Let():
                self.expr(e.value, path)
                self.expr(e.body, (*path, _Bind(e.var, e.value)))
            case Call() if e.op not in _OF_VALUES:
                pass  # it may take the place of an element, not its value
            case _:
                self.exprs(expr_children(e), path)

    # ------------------------------------------------------------------ accesses
    def access(self, buffer: Buffer, indices: Sequence[Expr], path: Path, verb: str) -> None:
        if buffer in self.views or len(indices) != len(buffer.shape):
            return
        dom = _domain(path)
        for k, (index, size) in enumerate(zip(indices, buffer.shape)):
            n = const_int(size)
            if n is None:
                continue
            for e in _ends(index):
                lo, hi = bounds(e, dom)
                if (lo is not None and lo >= 0) and (hi is not None and hi < n):
                    continue
                found = _outside(e, int(n), path, dom)
                if found is not None:
                    self.refuse(buffer, indices, k, int(n), verb, *found)

    def refuse(
        self, buffer: Buffer, indices: Sequence[Expr], at_dim: int, n: int, verb: str,
        value: int, iteration: Mapping[Var, int],
    ) -> None:  # fmt: skip
        who = f"block {self.block} of {self.func.name}" if self.block else self.func.name
        where = ", ".join(f"{v.name} = {x}" for v, x in iteration.items())
        asked = f"{buffer.name}[{', '.join(map(show, indices))}]"
        func, at = self.func, self.at
        raise UserError(
            f"{who} {verb} {asked}: index {at_dim} is {value}{where and f' at {where}'}, while "
            f"{buffer.name} has {f'the indices 0 to {n - 1}' if n else 'no elements'} there",
            hint="make the loop or the buffer fit, or guard the access (T.where, T.if_then_else)",
            code="out-of-bounds",
            draw=lambda: draw(func, [at]),
        )


def _sizes(b: Block) -> Iterator[_Bind]:
    """What the sizes of views stand for."""
    for m in b.match_buffers:
        lead = len(m.source.region) - len(m.buffer.shape)
        for n, r in zip(m.buffer.shape, m.source.region[lead:]):
            if type(n) is Var:
                yield _Bind(n, r.extent)


def _ends(index: Expr) -> list[Expr]:
    """The first and the last lane of an index."""
    if type(index) is Broadcast:
        return _ends(index.value)
    if type(index) is not Ramp:
        return [index]
    dtype = index.base.dtype
    reach = BinOp("*", index.stride, IntImm(index.lanes - 1, dtype), dtype)
    return [index.base, BinOp("+", index.base, reach, dtype)]


def _domain(path: Path) -> dict[Var, Interval]:
    """Bounds of the variables of a path, as far as they are constant."""
    dom: dict[Var, Interval] = {}
    for step in path:
        if type(step) is _Loop:
            lo, _ = bounds(step.min, dom)
            _, end = bounds(BinOp("+", step.min, step.extent, step.min.dtype), dom)
            dom[step.var] = (lo, None if end is None else end - 1)
        elif type(step) is _Bind:
            dom[step.var] = bounds(step.value, dom)
    return dom


def _outside(
    index: Expr, n: int, path: Path, dom: Mapping[Var, Interval]
) -> tuple[int, dict[Var, int]] | None:
    """A value of the index outside [0, n) and an iteration in which it surely has it."""
    table: dict[Var, Expr] = {}
    for step in path:
        if type(step) is _Bind:
            table[step.var] = substitute(step.value, table)
    plain = substitute(index, table)
    loops = [s.var for s in path if type(s) is _Loop]
    asked = free_vars(plain)
    named = [v for v in loops if v in asked]
    guarding: set[Var] = set()
    for step in path:
        if type(step) is _Guard:
            guarding |= free_vars(substitute(step.cond, table))
        elif type(step) is _Loop:
            outer = free_vars(step.min) | free_vars(step.extent)
            guarding |= outer | {step.var} if outer else outer
    for chosen in _iterations(plain, loops, guarding, dom):
        value = _value_there(index, path, chosen)
        if value is not None and not 0 <= value < n:
            return value, {v: chosen[v] for v in named}
    return None


def _iterations(
    index: Expr, loops: Sequence[Var], guarding: set[Var], dom: Mapping[Var, Interval]
) -> Iterator[dict[Var, int]]:
    """Iterations worth a look: the corners in which the index is largest and smallest, then (where
    guards may exclude those) all, or many, of the variables that matter."""
    ranges: dict[Var, tuple[int, int]] = {}
    for v in loops:
        lo, hi = dom[v]
        if lo is None or hi is None or hi < lo:
            return
        ranges[v] = (int(lo), int(hi))
    terms, _ = linear(index)
    first = {v: lo for v, (lo, _) in ranges.items()}
    single = {v: c for v, c in terms.items() if type(v) is Var and v in ranges}
    mixed = [
        v for v in loops if any(v in free_vars(a) for a in terms if type(a) is not Var)
    ][:4]  # fmt: skip
    for up in (True, False):
        corner = first | {v: ranges[v][(c > 0) == up] for v, c in single.items()}
        for ends in itertools.product((1, 0), repeat=len(mixed)):
            yield corner | {v: ranges[v][k] for v, k in zip(mixed, ends)}
    if not guarding:
        return
    matter = [v for v in loops if v in guarding or v in free_vars(index)]
    spans = [_spread(*ranges[v], len(matter)) for v in matter]
    for values in itertools.product(*spans):
        yield first | dict(zip(matter, values))


def _spread(lo: int, hi: int, among: int) -> Sequence[int]:
    """All values of a range, or so many from both ends that `among` of them make few products."""
    most = max(2, int(_MOST ** (1 / among)))
    if hi - lo < most:
        return range(lo, hi + 1)
    low = most // 2
    return [*range(lo, lo + low), *range(hi - (most - low) + 1, hi + 1)]


# ----------------------------------------------------------------------------- one iteration
def _value_there(index: Expr, path: Path, chosen: Mapping[Var, int]) -> int | None:
    """The value of the index in an iteration; None if that is none, or if it is not known."""
    env: dict[Var, Any] = {}
    try:
        for step in path:
            match step:
                case _Loop():
                    x, lo = chosen[step.var], _value(step.min, env)
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
                case _:
                    assert_never(step)
        return int(_value(index, env))
    except (_Unknown, RunError):
        return None


def _value(e: Expr, env: Mapping[Var, Any]) -> Any:
    """The value of an integer or bool expression, as the interpreter has it."""
    match e:
        case IntImm():
            return bool(e.value) if e.dtype == "bool" else int(e.value)
        case Var() if e in env:
            return env[e]
        case Not():
            return not _value(e.a, env)
        case Cast() if _is_number(e.value):
            return scalar.cast(e.value.dtype, e.dtype)(_value(e.value, env))
        case Select(cond=cond, a=a, b=b) | Call(op="if_then_else", args=(cond, a, b)):
            return _value(a if _value(cond, env) else b, env)
        case Call(op="likely", args=(a,)):
            return _value(a, env)
        case Let():
            return _value(e.body, {**env, e.var: _value(e.value, env)})
        case BinOp(op="and"):
            return _value(e.a, env) and _value(e.b, env)
        case BinOp(op="or"):
            return _value(e.a, env) or _value(e.b, env)
        case BinOp() if _is_number(e.a):
            operate: Callable[[Any, Any], Any] = scalar.binary(e.op, e.a.dtype, "an index")
            return operate(_value(e.a, env), _value(e.b, env))
        case _:
            raise _Unknown


def _is_number(e: Expr) -> bool:
    """Is it a single integer or bool?"""
    return dtypes.is_int(e.dtype) or dtypes.is_bool(e.dtype)
