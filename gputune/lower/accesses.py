"""Which elements does a piece of plain code touch, in which order, inside which loops?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir import build, dtypes, walk
from ..ir.nodes import (
    Alloc,
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    IntImm,
    Let,
    LetStmt,
    Seq,
    Stmt,
    Var,
)
from .flat import LANE, by_lane
from .linear import Bounds, interval
from .tiles import by_row_and_column, numbers, operands, tile_loops, tile_op, warp_call


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """One load or store as it stands in the program text.

    `order` numbers the statements (a load in a statement has the number of the statement);
    `loops` and `conds` are those between the analysed statement and the access, outer first.
    `warp`: the threads of a warp make it together, any of them at any element of the tile over
    which the last two of `loops` run.
    """

    buffer: Buffer
    indices: tuple[Expr, ...]
    store: bool
    mask: Expr | None
    order: int
    loops: tuple[For, ...]
    conds: tuple[Expr, ...]
    lets: tuple[Var, ...]
    warp: bool = False


def collect(s: Stmt, wanted: Buffer | None = None) -> list[Access]:
    """Every access in `s` (to `wanted`, if given), in program order."""
    out: list[Access] = []
    counter = 0

    def on_expr(
        e: Expr, order: int, loops: tuple[For, ...], conds: tuple[Expr, ...], lets: tuple[Var, ...]
    ) -> None:
        t = type(e)
        if t is Var or t is IntImm:
            return
        match e:
            case BufferLoad():
                for i in e.indices:
                    on_expr(i, order, loops, conds, lets)
                if e.predicate is not None:
                    on_expr(e.predicate, order, loops, conds, lets)
                if wanted is None or e.buffer is wanted:
                    out.append(
                        Access(e.buffer, e.indices, False, e.predicate, order, loops, conds, lets)
                    )
            case Call(op="if_then_else"):
                c, a, b = e.args
                on_expr(c, order, loops, conds, lets)
                on_expr(a, order, loops, (*conds, c), lets)
                on_expr(b, order, loops, (*conds, build.logical_not(c)), lets)
            case Let():
                on_expr(e.value, order, loops, conds, lets)
                on_expr(e.body, order, loops, conds, (*lets, e.var))
            case _:
                for x in walk.expr_children(e):
                    on_expr(x, order, loops, conds, lets)

    def go(x: Stmt, loops: tuple[For, ...], conds: tuple[Expr, ...], lets: tuple[Var, ...]) -> None:
        nonlocal counter
        counter += 1
        order = counter
        match x:
            case BufferStore() if (op := tile_op(x)) is not None:
                for e in numbers(x, op):
                    on_expr(e, order, loops, conds, lets)
                for tile in operands(x, op):
                    if wanted is None or tile.buffer is wanted:
                        inside = tile_loops(x, tile.rows, tile.cols, bool(op.cuda))
                        row, col, *more = [loop.var for loop in inside]
                        part = more[0] if more else None
                        at = by_row_and_column(tile.indices, row, col, part, tile.rows)
                        out.append(
                            Access(
                                tile.buffer, at, tile.store, None, order, (*loops, *inside), conds,
                                lets, bool(op.cuda),
                            )
                        )  # fmt: skip
            case BufferStore() if (call := warp_call(x)) is not None:
                for k, e in enumerate((BufferLoad(x.buffer, x.indices), *call.args)):
                    assert type(e) is BufferLoad  # see `WARP_CALL`
                    if wanted is None or e.buffer is wanted:
                        each = For(Var("each"), IntImm(0), IntImm(_lanes(e)), "serial", x)
                        single = {LANE: each.var}
                        at = tuple([walk.substitute(by_lane(i), single) for i in e.indices])
                        around = (*loops, each)
                        out.append(Access(e.buffer, at, k == 0, None, order, around, conds, lets))
            case BufferStore():
                for e in walk.stmt_exprs(x):
                    on_expr(e, order, loops, conds, lets)
                if wanted is None or x.buffer is wanted:
                    out.append(
                        Access(x.buffer, x.indices, True, x.predicate, order, loops, conds, lets)
                    )
            case For():
                on_expr(x.min, order, loops, conds, lets)
                on_expr(x.extent, order, loops, conds, lets)
                go(x.body, (*loops, x), conds, lets)
            case Seq():
                for item in x.items:
                    go(item, loops, conds, lets)
            case IfThenElse():
                on_expr(x.cond, order, loops, conds, lets)
                go(x.then, loops, (*conds, x.cond), lets)
                if x.orelse is not None:
                    go(x.orelse, loops, (*conds, build.logical_not(x.cond)), lets)
            case LetStmt():
                on_expr(x.value, order, loops, conds, lets)
                go(x.body, loops, conds, (*lets, x.var))
            case Alloc():
                go(x.body, loops, conds, lets)
            case Evaluate():
                on_expr(x.value, order, loops, conds, lets)
            case Block():
                raise AssertionError("collect works on code without blocks")

    go(s, (), (), ())
    return out


def _lanes(e: BufferLoad) -> int:
    """How many elements a load of several takes."""
    return max([dtypes.lanes(i.dtype) for i in e.indices], default=1)


def touches(s: Stmt, b: Buffer) -> bool:
    """Does `s` load or store `b`?"""
    for x in walk.walk_stmt(s):
        if type(x) is BufferStore and x.buffer is b:
            return True
        for e in walk.stmt_exprs(x):
            for y in walk.walk_expr(e):
                if type(y) is BufferLoad and y.buffer is b:
                    return True
    return False


def loop_bounds(loop: For) -> Bounds | None:
    """The values of the loop variable, if minimum and extent are constant and it runs at all."""
    if type(loop.min) is IntImm and type(loop.extent) is IntImm and loop.extent.value > 0:
        lo = int(loop.min.value)
        return lo, lo + int(loop.extent.value) - 1
    return None


def range_of(loop: For, dom: Mapping[Var, Bounds]) -> Bounds:
    """The bounds of a loop variable, given those of the loops around."""
    known = loop_bounds(loop)
    if known is not None:
        return known
    (a, b), (_, m) = interval(loop.min, dom), interval(loop.extent, dom)
    return a, max(a, b + m - 1)


def trip_count(loop: For) -> int | None:
    """The constant extent of the loop, or None."""
    return int(loop.extent.value) if type(loop.extent) is IntImm else None
