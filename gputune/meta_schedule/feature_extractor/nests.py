"""Which stores does a scheduled program come down to, under which loops? What features are made of.

Some lowering takes place, so that the features are about the loops as they will run: unit loops are
gone, buffers live as deep inside as they may and are as small as what is used of them, threads of
one axis are one loop around the whole kernel, and reductions that threads share have their two
parts. Nothing is vectorised, unrolled or cut into kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir import build, walk
from ...ir.arith import simplify
from ...ir.build import const_int
from ...ir.intervals import Interval
from ...ir.nodes import (
    Alloc,
    Annotations,
    Block,
    Buffer,
    BufferStore,
    Expr,
    FloatImm,
    For,
    IfThenElse,
    IntImm,
    LetStmt,
    PrimFunc,
    Select,
    Stmt,
    Var,
)
from ...lower.blocks import lower_blocks
from ...lower.compact import compact_buffers
from ...lower.limits import CpuLimits
from ...lower.prepare import settle
from ...lower.vthreads import VIRTUAL
from ...schedule.tree import block_with, with_body
from .homes import give_homes
from .thread_reductions import share_out

_LIMITS = CpuLimits()  # the passes of `lower` that are used here ask for none
UNROLL = "pragma_auto_unroll_max_step"


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """A loop around a store.

    Attributes:
        var: its variable.
        least: its first value.
        extent: how often it runs (1 where that is not a constant).
        kind: as of `For`.
        thread: the axis that it is bound to, or "".
        unroll: the most steps that are unrolled below it; -1 where it does not say.
    """

    var: Var
    least: int
    extent: int
    kind: str
    thread: str
    unroll: int


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    """A store that computes something, with the loops around it, outermost first."""

    buffer: Buffer
    indices: tuple[Expr, ...]
    value: Expr
    loops: tuple[Loop, ...]


@dataclass(slots=True, eq=False)
class Nests:
    """What is stored, in program order, and how often each buffer is allocated."""

    stores: list[Store] = field(default_factory=list)
    allocated: dict[Buffer, int] = field(default_factory=dict)


def nests_of(func: PrimFunc) -> Nests:
    """The stores of a scheduled function.

    Raises:
        LowerError: it is no program that can be lowered; says why.
    """
    func = settle(func, _LIMITS)
    body = _bare(func.body)
    assert type(body) is Block
    body = give_homes(share_out(body))
    func = build.replace_body(func, body)
    func = compact_buffers(lower_blocks(func, _LIMITS), _LIMITS)
    out = Nests()
    out.allocated = {b: 1 for b in func.buffers}
    _collect(_launched(func.body), (), {}, out)
    return out


# ----------------------------------------------------------------------------- before
def _bare(s: Stmt) -> Stmt:
    """The statement without plain loops of extent 1, without inits, and with what lowering needs
    to know of virtual threads."""
    return _without_init(_without_units(s, {}))


def _without_units(s: Stmt, table: dict[Var, Expr]) -> Stmt:
    if type(s) is For and _is_unit(s):
        return _without_units(s.body, {**table, s.var: s.min})
    out = walk.map_stmt(s, lambda e: _expr(e, table), lambda x: _without_units(x, table))
    assert out is not None  # nothing is deleted
    if type(out) is For and (out.thread or "").startswith("vthread"):
        notes = (*out.annotations, (VIRTUAL, True))  # what `compact_buffers` looks for
        return For(out.var, out.min, out.extent, out.kind, out.body, out.thread, notes)
    return out


def _expr(e: Expr, table: dict[Var, Expr]) -> Expr:
    return _chosen(walk.substitute(e, table) if table else e)


def _chosen(e: Expr) -> Expr:
    """The expression with 1 for each choice that needs no memory: how padding is decided does not
    count."""
    if type(e) is Select and not walk.loads(e):
        return build.const(1, e.dtype)
    return walk.map_expr(e, _chosen)


def _is_unit(s: For) -> bool:
    return (
        build.is_literal(s.extent, 1)
        and build.is_literal(s.min, 0)
        and s.kind == "serial"
        and not s.annotations
    )


def _without_init(s: Stmt) -> Stmt:
    """Inits that store constants tell nothing and go; others become what they are, a branch."""
    out = walk.map_stmt(s, lambda e: e, _without_init)
    assert out is not None  # nothing is deleted
    if type(out) is not Block or out.init is None:
        return out
    if all(is_constant(x.value) for x in walk.walk_stmt(out.init) if type(x) is BufferStore):
        return block_with(out, init=None)
    start = build.logical_and(
        *[build.eq(iv.var, iv.dom.min) for iv in out.iter_vars if iv.kind == "reduce"]
    )
    return block_with(out, init=None, body=build.seq(IfThenElse(start, out.init), out.body))


def is_constant(e: Expr) -> bool:
    """Is it a plain number?"""
    return type(e) is IntImm or type(e) is FloatImm


# ----------------------------------------------------------------------------- threads
def _launched(s: Stmt) -> Stmt:
    """Each kernel under one loop for each of its axes, in the order in which they are met."""
    if type(s) is not For or s.kind != "thread_binding":
        out = walk.map_stmt(s, lambda e: e, _launched)
        assert out is not None  # nothing is deleted
        return out
    axes: dict[str, For] = {}
    body = _of_thread(s, axes, {})
    for axis in reversed(axes.values()):
        body = with_body(axis, body)
    return body


def _of_thread(s: Stmt, axes: dict[str, For], table: dict[Var, Expr]) -> Stmt:
    if type(s) is For and s.kind == "thread_binding":
        axis = axes.setdefault(s.thread or "", s)
        return _of_thread(s.body, axes, {**table, s.var: build.cast(s.var.dtype, axis.var)})
    out = walk.map_stmt(
        s,
        lambda e: walk.substitute(e, table) if table else e,
        lambda x: _of_thread(x, axes, table),
    )
    assert out is not None  # nothing is deleted
    return out


# ----------------------------------------------------------------------------- stores
def _collect(s: Stmt, loops: tuple[Loop, ...], dom: dict[Var, Interval], out: Nests) -> None:
    match s:
        case For():
            loop = _loop(s, dom)
            bounds = (loop.least, loop.least + loop.extent - 1)
            _collect(s.body, (*loops, loop), {**dom, s.var: bounds}, out)
        case BufferStore():
            if not is_constant(s.value):
                indices = tuple([simplify(i, dom) for i in s.indices])
                value = simplify(s.value, dom)
                out.stores.append(Store(s.buffer, indices, value, loops))
        case Alloc():
            often = 1
            for loop in loops:
                often *= loop.extent
            out.allocated[s.buffer] = often
            _collect(s.body, loops, dom, out)
        case LetStmt():  # what it computes counts where it is used
            _collect(walk.substitute_stmt(s.body, {s.var: s.value}), loops, dom, out)
        case _:
            for x in walk.stmt_children(s):
                _collect(x, loops, dom, out)


def _loop(s: For, dom: dict[Var, Interval]) -> Loop:
    least = const_int(simplify(s.min, dom))
    extent = const_int(simplify(s.extent, dom))
    steps = const_int(_note(s.annotations, UNROLL))
    return Loop(
        s.var,
        0 if least is None else int(least),
        1 if extent is None else max(1, int(extent)),
        s.kind,
        s.thread or "",
        -1 if steps is None else int(steps),
    )


def _note(annotations: Annotations, name: str) -> object:
    return next((v for k, v in annotations if k == name), None)
