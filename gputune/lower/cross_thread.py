"""What becomes of a reduction whose loop is bound to threads? Each thread reduces its share in a
register; then the threads of a block combine their shares in shared memory.

The tree needs as many rounds as the number of threads has bits; between the rounds `barriers` puts
a barrier. Sums therefore round in another order than a serial loop's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from ..errors import LowerError
from ..ir import build, walk
from ..ir.build import const_int
from ..ir.nodes import (
    Alloc,
    Block,
    BlockKey,
    Buffer,
    BufferLoad,
    Expr,
    For,
    IfThenElse,
    IntImm,
    IterVar,
    PrimFunc,
    Stmt,
    Var,
)
from ..schedule.combine import at_once, init_stores, redirected, stored
from ..schedule.recognise import Reduction, reduction_of
from ..schedule.reducers import Each
from ..schedule.tree import Link, Tree, block_with, graft
from .kernels import BLOCK, inner, with_inner
from .limits import CpuLimits
from .linear import conjuncts


def lower_cross_thread(kernel: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """The kernel with no reduce iterator bound to threads.

    Raises:
        LowerError: the combiner of the reduction is not known. (`any_order` has refused those that
            need the elements in order.)
    """
    while True:
        axes, _ = inner(kernel)
        threads = {a.var: a for a in axes if a.thread in BLOCK}
        found = _find(kernel, threads)
        if found is None:
            return kernel
        kernel = with_inner(kernel, _combine(kernel, found, threads))


def _find(kernel: PrimFunc, threads: dict[Var, For]) -> Link | None:
    """A block with a reduce iterator that depends on a thread axis."""
    for link in Tree(kernel.body).links.values():
        if type(link.node) is Block and any(
            iv.kind == "reduce" and walk.uses_var(v, set(threads))
            for iv, v in zip(link.node.iter_vars, link.node.iter_values, strict=True)
        ):
            return link
    return None


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one reduction is shared out.

    axes: the thread axes that reduce, outermost first; others: the other thread axes;
    serial: the loops inside the outermost serial reduction loop that drive only spatial iterators.
    """

    block: Block
    found: Reduction
    axes: tuple[For, ...]
    others: tuple[For, ...]
    serial: tuple[For, ...]
    reducing: frozenset[Var]


def _combine(kernel: PrimFunc, link: Link, threads: dict[Var, For]) -> Stmt:
    b = link.block()
    found = reduction_of(b)
    if not isinstance(found, Reduction):
        raise LowerError(
            f"the reduction of block {b.name} is bound to threads, but {found.message}",
            hint="bind its spatial loops to threads instead",
            code="cross-thread",
        )
    loops = [f for f in link.loops() if f.var not in threads and f.kind != "thread_binding"]
    reduce_values = [
        v for iv, v in zip(b.iter_vars, b.iter_values, strict=True) if iv.kind == "reduce"
    ]
    reducing = {f.var for f in loops if any(walk.uses_var(v, f.var) for v in reduce_values)}
    first = next((k for k, f in enumerate(loops) if f.var in reducing), len(loops))
    axes = tuple([
        a for a in threads.values() if any(walk.uses_var(v, a.var) for v in reduce_values)
    ])  # fmt: skip
    plan = _Plan(
        b,
        found,
        axes,
        tuple([a for a in threads.values() if a not in axes]),
        tuple([f for f in loops[first:] if f.var not in reducing]),
        frozenset(reducing | {a.var for a in axes}),
    )
    _check(plan)
    new = _Writer(plan)
    top = next((x for x in link.above() if first < len(loops) and x.node is loops[first]), link)
    inside = _graft_within(top, link, new.share())
    stmt = new.around(inside)
    root = graft(top, stmt)
    _, out = inner(build.replace_body(kernel, root))
    return out


def _graft_within(top: Link, link: Link, new: Stmt) -> Stmt:
    """The statement of `top` with that of `link` (at or below it) replaced."""
    if link.node is top.node:
        return new
    old = link.node

    def go(s: Stmt) -> Stmt:
        if s is old:
            return new
        out = walk.map_stmt(s, lambda e: e, go)
        assert out is not None  # nothing is deleted
        return out

    return go(top.node)


def _check(p: _Plan) -> None:
    b = p.block
    for iv, v in zip(b.iter_vars, b.iter_values, strict=True):
        if iv.kind == "reduce":
            continue
        tied = next((x for x in p.reducing if walk.uses_var(v, x)), None)
        if tied is not None:
            raise LowerError(
                f"block {b.name}: {tied.name} drives both the reduction and iterator {iv.var.name}",
                hint="split or reorder the loops, so that threads reduce or compute elements",
                code="cross-thread",
            )
    scopes = {x.scope for x in p.found.buffers}
    if len(scopes) > 1:
        raise LowerError(
            f"block {b.name}: threads share a reduction into buffers of the scopes "
            f"{', '.join(sorted(scopes))}",
            hint="give its outputs one scope with set_scope",
            code="cross-thread",
        )
    if any(walk.uses_var(e, p.reducing) for f in p.serial for e in (f.min, f.extent)):
        raise LowerError(
            f"block {b.name}: the length of a loop depends on the reduction that threads share",
            code="cross-thread",
        )
    if any(const_int(f.extent) is None or const_int(f.min) is None for f in p.serial):
        raise LowerError(
            f"block {b.name}: a loop inside the reduction that threads share is not constant",
            code="cross-thread",
        )


class _Writer:
    """The statements of a shared-out reduction."""

    def __init__(self, p: _Plan) -> None:
        self.p = p
        self.outputs = p.found.buffers
        self.combiner = p.found.reducer
        self.where = p.found.stores[0].indices
        sizes = tuple([f.extent for f in p.serial] or [IntImm(1)])
        self.mine = tuple([
            Buffer(f"{x.name}_thread", sizes, x.dtype, "local") for x in self.outputs
        ])  # fmt: skip
        self.width = prod(_length(a) for a in p.axes)
        rows = prod(_length(a) for a in p.others)
        whole = (IntImm(rows * self.width),)
        self.scratch = tuple([
            Buffer(f"{x.name}_shares", whole, x.dtype, "shared") for x in self.outputs
        ])  # fmt: skip

    def share(self) -> Stmt:
        """The block, reducing into the thread's own share."""
        p = self.p
        at = self._at({})
        if type(self.combiner) is Each:
            values = self.combiner.combine(_loads(self.mine, at), p.found.combined)
            body = at_once(self.combiner, self.mine, at, values)
            if p.found.where is not build.TRUE:
                body = IfThenElse(p.found.where, body)
        else:
            body = redirected(p.block.body, p.found, self.mine, at)
        iters = tuple([
            IterVar(iv.var, iv.dom, "opaque") if iv.kind == "reduce" else iv
            for iv in p.block.iter_vars
        ])  # fmt: skip
        return block_with(p.block, iter_vars=iters, init=None, writes=(), body=body)

    def around(self, inside: Stmt) -> Stmt:
        """Everything: the shares' beginning, `inside`, and the combination."""
        identity = self.combiner.identity([x.dtype for x in self.outputs])
        start = self._nest(
            lambda loops: build.seq(*stored(self.mine, self._at(loops), identity)), "_start"
        )
        out = build.seq(start, inside, self._nest(self._tree, "_end"))
        for x in (*reversed(self.mine), *reversed(self.scratch)):
            out = Alloc(x, out)
        return out

    def _at(self, loops: dict[Var, Expr]) -> tuple[Expr, ...]:
        """The element of the share that belongs to the serial loops (or what they became)."""
        if not self.p.serial:
            return (IntImm(0),)
        return tuple([build.sub(loops.get(f.var, f.var), f.min) for f in self.p.serial])

    def _nest(self, body_of: Callable[[dict[Var, Expr]], Stmt], suffix: str) -> Stmt:
        loops: dict[Var, Expr] = {
            f.var: Var(f.var.name + suffix, f.var.dtype) for f in self.p.serial
        }
        body: Stmt = body_of(loops)
        for f in reversed(self.p.serial):
            v = loops[f.var]
            assert type(v) is Var
            body = For(v, f.min, f.extent, f.kind, body, None, f.annotations)
        return body

    def _tree(self, loops: dict[Var, Expr]) -> Stmt:
        """Combine the shares of the threads of a row, and store the result."""
        p, width = self.p, self.width
        rank = _number(p.axes)
        row = build.mul(_number(p.others), IntImm(width))
        mine = build.add(row, rank)
        own = _loads(self.mine, self._at(loops))
        steps: list[Stmt] = [*stored(self.scratch, (mine,), own)]
        half = 1 << max(width - 1, 0).bit_length() >> 1
        while half:
            other = build.add(mine, IntImm(half))
            values = self.combiner.combine(
                _loads(self.scratch, (mine,)), _loads(self.scratch, (other,))
            )
            cond = build.lt(rank, IntImm(min(half, width - half)))
            step = at_once(self.combiner, self.scratch, (mine,), values)
            steps.append(IfThenElse(cond, step))
            half //= 2
        steps.append(self._result(loops, row, rank))
        return build.seq(*steps)

    def _result(self, loops: dict[Var, Expr], row: Expr, rank: Expr) -> Stmt:
        """The store of the combined values, in a block that has only spatial iterators."""
        p, b = self.p, self.p.block
        start: tuple[Expr, ...] = _loads(self.outputs, self.where)
        if b.init is not None:
            first = {x.buffer: x.value for x in init_stores(b)}
            start = tuple([first[x] for x in self.outputs])
        values = self.combiner.combine(start, _loads(self.scratch, (row,)))
        body = at_once(self.combiner, self.outputs, self.where, values)
        keep = [k for k, iv in enumerate(b.iter_vars) if iv.kind != "reduce"]
        condition: Expr = build.TRUE
        for c in conjuncts(walk.substitute(b.predicate, _bindings(b))):
            if not walk.uses_var(c, p.reducing):
                condition = build.logical_and(condition, walk.substitute(c, loops))
            elif walk.free_vars(c) - p.reducing:
                raise LowerError(
                    f"block {b.name}: the condition {c} ties the reduction that threads share to "
                    "the element",
                    hint="split the spatial and the reduction loops by factors that divide",
                    code="cross-thread",
                )
        if any(x.scope != "local" for x in self.outputs):
            condition = build.logical_and(condition, build.eq(rank, IntImm(0)))
        return Block(
            BlockKey(), f"{b.name}_result",
            tuple([b.iter_vars[k] for k in keep]),
            tuple([walk.substitute(b.iter_values[k], loops) for k in keep]),
            condition, (), (), body,
        )  # fmt: skip


def _loads(buffers: tuple[Buffer, ...], at: tuple[Expr, ...]) -> tuple[Expr, ...]:
    return tuple([BufferLoad(x, at) for x in buffers])


def _bindings(b: Block) -> dict[Var, Expr]:
    return {iv.var: v for iv, v in zip(b.iter_vars, b.iter_values, strict=True)}


def _length(axis: For) -> int:
    n = const_int(axis.extent)
    assert n is not None  # launches have constant sizes
    return int(n)


def _number(axes: tuple[For, ...]) -> Expr:
    """The number of a thread among those of some axes."""
    out: Expr = IntImm(0)
    for a in axes:
        out = build.add(build.mul(out, IntImm(_length(a))), a.var)
    return out
