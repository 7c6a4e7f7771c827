"""What need not be computed again in the next iteration of a loop? rolling_buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir import build
from ..ir.affine import from_linear, linear, minus, same
from ..ir.boxes import Ranges, relax
from ..ir.build import const_int
from ..ir.nodes import (
    BinOp,
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Expr,
    For,
    IntImm,
    IterVar,
    Range,
    Stmt,
    Var,
)
from ..ir.walk import map_expr, map_stmt, uses_var, walk_stmt
from .analysis import (
    Loops,
    conjuncts,
    consumers,
    guard_above,
    kind_of,
    loop_ranges,
    region_under,
)
from .handles import BlockRV
from .memory import BufferIndex, pick_buffer, record_index
from .primitive import primitive
from .state import State
from .tree import Link, block_with


@primitive("RollingBuffer", inputs=("block",))
def rolling_buffer(s: State, block: BlockRV | str, write_buffer_index: BufferIndex) -> None:
    """Keep what the iterations of a loop have in common: the block computes only what is new in
    each, into a buffer that is used again and again, like a ring.

    Of the first dimension of the buffer for which this is possible only as many indices are kept as
    one iteration needs, so index x is stored at x modulo that number. Loops may end anywhere: what
    the block leaves out at the edges, it still leaves out. The order of the iterations now matters,
    so primitives that would change it, and those that ask for a stage pipeline, refuse from here
    on: this is one of the last steps.

    Args:
        block: complete or a reduction, each iterator plain in its store; the only writer of a
            buffer that is not an output. It and all readers are under a common loop, of which two
            successive iterations compute some of the buffer (after `compute_at`, say).
        write_buffer_index: which of its written buffers (position, name or object).

    Raises:
        ScheduleError: naming which of these does not hold; for each dimension, why it cannot roll.

    Example:
        >>> sch = demo_schedule("stencil"); b = sch.get_block("B")
        >>> i = sch.split(sch.get_loops(sch.get_block("C"))[0], [None, 4])[0]
        >>> sch.compute_at(b, i); sch.rolling_buffer(b, 0)
        >>> print(sch.get(b).writes[0].buffer.shape[0], sch.get(b).predicate)
        6 i_0 < 1 or ax0 >= 2
    """
    link = s.block(block)
    b = link.block()
    if link.up is None:
        s.fail(
            "the root block has no buffer to roll",
            hint="name a block inside it; get_child_blocks lists them",
            code="root-block",
            at=b,
        )
    index = pick_buffer(s, b.writes, write_buffer_index, "write", b)
    record_index(s, "write_buffer_index", write_buffer_index, index)
    buffer = b.writes[index].buffer
    scope = link.scope()
    users = _check_blocks(s, link, scope, buffer)
    at = _common_loop(s, link, users, buffer)
    point = _points(s, b, b.writes[index])
    box = _check_part(s, link, at, b.writes[index])
    roll = _choose(s, link, at, buffer, box, point)
    size = box[roll.axis].extent
    assert type(size) is IntImm
    shape = (*buffer.shape[: roll.axis], size, *buffer.shape[roll.axis + 1 :])
    ring = _Ring(
        buffer,
        Buffer(buffer.name, shape, buffer.dtype, buffer.scope, None, None, buffer.align),
        roll.axis,
        size,
    )
    rolled = point[roll.axis]
    assert rolled is not None
    iters = tuple([
        IterVar(iv.var, iv.dom, "opaque") if iv.var is rolled else iv for iv in b.iter_vars
    ])  # fmt: skip
    value = next(v for iv, v in zip(b.iter_vars, b.iter_values, strict=True) if iv.var is rolled)
    first = build.lt(roll.loop.var, build.add(roll.loop.min, 1))
    offset = from_linear(*minus(value, box[roll.axis].min), value.dtype)
    fresh = build.ge(offset, IntImm(roll.kept, offset.dtype))
    mine = ring.block(b)
    new = block_with(
        mine,
        iter_vars=iters,
        predicate=build.logical_and(b.predicate, build.logical_or(first, fresh)),
    )
    s.replace(link, new)
    for key in [u.block().key for u in users]:
        found = s.find(key)
        assert found is not None
        s.replace(found[1], ring.block(found[1].block()))
    found = s.find(scope.block().key)
    assert found is not None
    root = found[1].block()
    allocs = tuple([ring.new if x is buffer else x for x in root.alloc_buffers])
    s.replace(found[1], block_with(root, alloc_buffers=allocs))
    s.break_pipeline(scope, _ROLLED)


_ROLLED = "what earlier iterations computed is used again (rolling_buffer)"


# ----------------------------------------------------------------------------- preconditions
def _check_blocks(s: State, link: Link, scope: Link, buffer: Buffer) -> list[Link]:
    """The readers of the buffer, if it and they are as they must be."""
    b = link.block()
    if buffer not in scope.block().alloc_buffers:
        s.fail(
            f"buffer {buffer.name} is an output, not an intermediate of the scope",
            hint="cache_write it, and roll the cache",
            code="roll-output",
            at=b,
        )
    fault = s.pipeline_fault(scope) if s.enable_check else ""
    if fault and fault is not _ROLLED:  # one buffer after the other may roll
        s.fail(
            f"the scope is not a stage pipeline: {fault}",
            hint="each block of the scope must write its buffers alone and whole, in"
            " front of those that read them",
            code="not-pipeline",
            at=b,
        )
    if not kind_of(link, s):
        s.fail(
            f"block {b.name} is neither a complete nor a reduction block",
            hint="roll before decompose_reduction",
            code="not-complete",
            at=b,
        )
    if guard_above(link) is not None:
        s.fail(
            f"block {b.name} stands under a condition or let, so an iteration may compute nothing",
            hint="write the condition into the value with T.if_then_else",
            code="roll-guard",
            at=b,
        )
    users = [u for u in consumers(link, s) if any(r.buffer is buffer for r in u.block().reads)]
    if not users:
        s.fail(
            f"nobody reads {buffer.name}",
            hint="roll a buffer that a consumer under the same loops reads",
            code="roll-consumer",
            at=b,
        )
    for x in (link, *users):
        inside = [y for y in walk_stmt(x.block()) if type(y) is Block]
        if buffer.strides is not None or any(
            m.source.buffer is buffer for y in inside for m in y.match_buffers
        ):
            s.fail(
                f"block {x.block().name} has a view of {buffer.name}, which must stay in one piece",
                hint="roll before tensorize",
                code="roll-view",
                at=x.node,
            )
    return users


def _common_loop(s: State, link: Link, users: Sequence[Link], buffer: Buffer) -> Link:
    """The innermost loop around the block and all readers."""
    shared = [{id(x.node) for x in u.above()} for u in users]
    for x in link.above():
        if not all(id(x.node) in above for above in shared):
            continue
        if type(x.node) is For:
            return x
        if type(x.node) is Block:
            break
    s.fail(
        f"block {link.block().name} and the readers of {buffer.name} have no loop in common",
        hint=f"compute_at block {link.block().name} under a loop of its readers first",
        code="roll-loop",
        at=[link.node, *(u.node for u in users)],
    )


def _points(s: State, b: Block, written: BufferRegion) -> list[Var | None]:
    """The iterator of each dimension (None for a constant index): one point of the block's domain
    for each element."""
    spatial = [iv.var for iv in b.iter_vars if iv.kind == "spatial"]
    out: list[Var | None] = []
    for g in written.region:
        v = g.min
        n = const_int(g.extent)
        if n is None or n != 1:
            break
        if type(v) is Var and v in spatial and v not in out:
            out.append(v)
        elif type(v) is IntImm:
            out.append(None)
        else:
            break
    if len(out) != len(written.region) or any(v not in out for v in spatial):
        where = ", ".join(str(g.min) for g in written.region)
        s.fail(
            f"block {b.name} does not write {written.buffer.name} at its own plain iterators, each "
            f"once, but at [{where}]",
            hint="transform_block_layout or transform_layout it first",
            code="roll-access",
            at=b,
        )
    return out


def _check_part(s: State, link: Link, at: Link, written: BufferRegion) -> Ranges:
    """The box that the block writes in each iteration of the common loop."""
    b, f = link.block(), at.loop()
    around = {g.var for g in (*at.loops(), f)}
    for iv, value in zip(b.iter_vars, b.iter_values, strict=True):
        if iv.kind != "spatial" and uses_var(value, around):
            s.fail(
                f"the loop {f.var.name} or one above it drives the {iv.kind} iterator "
                f"{iv.var.name} of block {b.name}: its result is not complete there",
                hint="compute_at it under a loop outside those of its reduction",
                code="roll-partial",
                at=[b, f],
            )
    for c in conjuncts(b.predicate):
        if not _is_of_iterator(c, b):
            s.fail(
                f"the predicate of block {b.name} holds {c}, which is no bound of an iterator",
                hint="roll before primitives that leave out iterations in other ways",
                code="roll-predicate",
                at=b,
            )
    box = region_under(link, at, written, exact=True)
    if box is None or any(type(g.extent) is not IntImm for g in box):
        s.fail(
            f"what block {b.name} writes of {written.buffer.name} in an iteration of loop "
            f"{f.var.name} has no constant extents, or has gaps",
            hint="each iteration must write one box of constant extents",
            code="roll-region",
            at=[b, f],
        )
    return box


def _is_of_iterator(c: Expr, b: Block) -> bool:
    """Does a condition compare what is bound to an iterator with a constant? Then it holds for a
    point of the domain or not, in whichever iteration of the loops the point is computed."""
    if type(c) is not BinOp or c.op not in ("<", "<=", ">", ">="):
        return False
    for value, limit in ((c.a, c.b), (c.b, c.a)):
        if type(limit) is IntImm and any(same(value, v) for v in b.iter_values):
            return True
    return False


# ----------------------------------------------------------------------------- which loop rolls
@dataclass(frozen=True, slots=True, eq=False)
class _Roll:
    """What rolls.

    Attributes:
        axis: the dimension of the buffer.
        loop: whose iterations go along it.
        kept: how many indices an iteration has in common with the one before.
    """

    axis: int
    loop: For
    kept: int


def _choose(
    s: State, link: Link, at: Link, buffer: Buffer, box: Ranges, point: Sequence[Var | None]
) -> _Roll:
    b = link.block()
    around = [*at.loops(), at.loop()]
    ranges = loop_ranges(around)
    if ranges is None:
        s.fail(
            f"the loops around block {b.name} are not constant",
            hint="the loops around it must have constant bounds",
            code="roll-region",
            at=at.node,
        )
    reasons: list[str] = []
    for k in range(len(box)):
        if point[k] is None:
            continue
        found = _of_axis(k, box, around, ranges, buffer)
        if isinstance(found, _Roll):
            return found
        reasons.append(f"dimension {k}: {found}")
    s.fail(
        f"no loop around block {b.name} computes a part of {buffer.name} again that its last "
        f"iteration has computed: {'; '.join(reasons) or 'it is written at one place'}",
        hint="split the loops of a reader that reads neighbours, compute_at the block there, and "
        "roll before parallel",
        code="roll-overlap",
        at=[b, at.node],
    )


def _of_axis(
    k: int, box: Ranges, around: Sequence[For], ranges: Loops, buffer: Buffer
) -> _Roll | str:
    """How a dimension rolls, or why it does not."""
    terms, _ = linear(box[k].min)
    names = {f.var for f in around}
    if any(type(a) is not Var and uses_var(a, names) for a in terms):
        return f"it begins at {box[k].min}, which does not move evenly"
    loop = next((f for f in reversed(around) if f.var in terms), None)
    if loop is None:
        return "all of it is needed at once, or the loops do not move along it"
    step, extent = terms[loop.var], const_int(box[k].extent)
    assert extent is not None, "it was looked at"
    name = loop.var.name
    if not ranges[loop.var][1] > 1:
        return f"the loop {name} runs once"
    if not step > 0:
        return f"the loop {name} goes downwards"
    if not step < extent:
        return f"the loop {name} advances by {int(step)}, and {int(extent)} are needed at a time"
    others = [j for j, g in enumerate(box) if j != k and uses_var(g.min, loop.var)]
    if others:
        return f"the loop {name} moves along dimension {others[0]}, too"
    if loop.kind not in ("serial", "unrolled"):
        return f"the loop {name} is {loop.thread or loop.kind}: its iterations have no order"
    for f in around[: around.index(loop)]:
        if f.kind in ("serial", "unrolled") or not ranges[f.var][1] > 1:
            continue
        if not _is_apart(f, k, box, around, ranges, buffer):
            return (
                f"the iterations of loop {f.var.name}, which is {f.thread or f.kind}, would use "
                f"the same places of {buffer.name} at once"
            )
    return _Roll(k, loop, extent - step)


def _is_apart(
    f: For, axis: int, box: Ranges, around: Sequence[For], ranges: Loops, buffer: Buffer
) -> bool:
    """Do iterations of a loop that run at once use different places of the buffer?"""
    if f.thread is not None and buffer.scope != "global":
        if f.thread.startswith("blockIdx") or buffer.scope == "local":
            return True  # each has its own
        return not uses_var(box[axis].min, f.var)  # threads share it, and move together
    inside = {g.var: ranges[g.var] for g in around[around.index(f) + 1 :]}
    for j, g in enumerate(box):
        if j == axis:
            continue
        (moved,) = relax([g], inside)
        step, extent = linear(moved.min)[0].get(f.var), const_int(moved.extent)
        if step is not None and extent is not None and extent <= step:
            return True
    return False


# ----------------------------------------------------------------------------- the rewrite
@dataclass(frozen=True, slots=True, eq=False)
class _Ring:
    """The accesses of a buffer become those of one that is shorter along an axis."""

    old: Buffer
    new: Buffer
    axis: int
    size: IntImm

    def index(self, e: Expr) -> Expr:
        return build.floormod(e, build.cast(e.dtype, self.size))

    def indices(self, at: Sequence[Expr]) -> tuple[Expr, ...]:
        return (*at[: self.axis], self.index(at[self.axis]), *at[self.axis + 1 :])

    def region(self, r: BufferRegion) -> BufferRegion:
        if r.buffer is not self.old:
            return r
        g = r.region[self.axis]
        n = const_int(g.extent)
        if n is not None and n == 1:
            g = Range(self.index(g.min), g.extent)
        else:  # it may begin anew at 0
            g = Range(IntImm(0, g.min.dtype), build.cast(g.min.dtype, self.size))
        return BufferRegion(self.new, (*r.region[: self.axis], g, *r.region[self.axis + 1 :]))

    def expr(self, e: Expr) -> Expr:
        out = map_expr(e, self.expr)
        if type(out) is BufferLoad and out.buffer is self.old:
            return BufferLoad(self.new, self.indices(out.indices), out.predicate)
        return out

    def stmt(self, x: Stmt) -> Stmt:
        if type(x) is Block:
            return self.block(x)
        out = map_stmt(x, self.expr, self.stmt)
        assert out is not None  # nothing is deleted
        if type(out) is BufferStore and out.buffer is self.old:
            return BufferStore(self.new, out.value, self.indices(out.indices), out.predicate)
        return out

    def block(self, b: Block) -> Block:
        """A block, with its regions."""
        out = map_stmt(b, self.expr, self.stmt)
        assert type(out) is Block
        return block_with(
            out,
            reads=tuple([self.region(r) for r in out.reads]),
            writes=tuple([self.region(r) for r in out.writes]),
        )
