"""Which computations on the result of a reduction can be done inside it? fuse_reduction_epilogue.

The value of an epilogue is a chain of steps on the result. A step moves into the reduction where

- it may be done to what the reduction starts from, since it is associative with the reduction:
  `+ bias` after a sum, `max(.., low)` after a maximum;
- it may be done to each thing that is reduced, since the reduction distributes over it:
  `min(.., high)` after a maximum.

Anything else (`max(.., 0)` after a sum) would change the result if it were done at each step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NoReturn

from ..ir import build, dtypes
from ..ir.arith import simplify
from ..ir.build import is_literal
from ..ir.nodes import (
    Annotations,
    BinaryOp,
    BinOp,
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Cast,
    Expr,
    FloatImm,
    IntImm,
)
from ..ir.regions import access_regions, explicit_again
from ..ir.walk import all_loads, loads, substitute
from .analysis import (
    binding_is_affine,
    consumers,
    fills_domain,
    guard_above,
    is_output,
    kind_of,
    producers,
    runs_whole_domain,
    siblings,
)
from .handles import BlockRV
from .inline import points_of_consumer
from .primitive import primitive
from .reduce import check_starts
from .reducers import Reducer, reducer_of
from .state import State
from .tree import Link, block_with, graft_two

_WORDS: dict[BinaryOp, str] = {"+": "sum", "*": "product", "min": "minimum", "max": "maximum"}
Place = Literal["start", "each"]
_PLACES: dict[tuple[BinaryOp, BinaryOp], Place] = {
    ("+", "+"): "start",
    ("+", "-"): "start",
    ("*", "*"): "start",
    ("max", "max"): "start",
    ("min", "min"): "start",
    ("max", "min"): "each",
    ("min", "max"): "each",
}
"""(what reduces, what is done to the result) -> to what it may be done instead."""


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """`.. op other`, or `other op ..` if flipped."""

    op: BinaryOp
    other: Expr
    is_flipped: bool

    def of(self, x: Expr) -> Expr:
        """The step done to `x`."""
        a, b = (self.other, x) if self.is_flipped else (x, self.other)
        return _folded(self.op, a, b)


@primitive("FuseReductionEpilogue", inputs=("reduction_block", "epilogue_block"))
def fuse_reduction_epilogue(
    s: State, reduction_block: BlockRV | str, epilogue_block: BlockRV | str
) -> None:
    """Let a reduction write the result of its epilogue, and remove the epilogue.

    Only what keeps the numbers is done:

    - after a sum, `+ bias` and `- bias`; after a product, `* scale`: the reduction starts from it;
    - after a maximum, `max(.., low)`: the reduction starts from it; `min(.., high)`: it is done to
      each thing that is compared, with the same result. After a minimum the other way round;
    - several of these, one after the other, and none of them: a copy.

    Minima, maxima, copies and integers come out exactly as before (floats that are NaN aside). A
    sum or product of floats is rounded in another order, as by `rfactor`, and agrees within the
    same tolerance; a bias that is much larger than the sum needs an accumulator (`float32` rather
    than `float16`) that can hold small terms beside it.

    Args:
        reduction_block: with one plain store `C[..] = C[..] op x`, where op is one of +, *, T.min
            and T.max, into a buffer that only the epilogue reads; not decomposed. It is the block
            that stays.
        epilogue_block: complete, with one plain store; reads one element of that buffer, at indices
            that can be inverted; what else it reads is written before the loops of the reduction
            begin.

    Raises:
        ScheduleError: naming which of these does not hold, or the part of the epilogue that would
            be done at each step of the reduction (`max(.., 0)` after a sum) and change the result.

    Example:
        >>> sch = demo_schedule("row_sum"); b = sch.get_block("S")
        >>> copy = sch.cache_write(b, 0, "local")
        >>> sch.fuse_reduction_epilogue(b, copy); len(sch.get_child_blocks(sch.get_block("root")))
        1
    """
    red, epi = s.block(reduction_block), s.block(epilogue_block)
    _check_blocks(s, red, epi)
    b, e = red.block(), epi.block()
    reducer, term, theirs = _reduction_parts(s, b)
    mine, load = _epilogue_parts(s, e, theirs.buffer)
    _check_others(s, red, epi)
    _check_places(s, red, epi)
    chain = _steps(s, b, e, mine.value, load, reducer)
    start = b.init
    assert type(start) is BufferStore
    table, conditions, domain = points_of_consumer(s, e, b, theirs, load)
    first, each = start.value, term
    for step in chain:
        here = _Step(step.op, substitute(step.other, table), step.is_flipped)
        first = here.of(first)
        if _PLACES[reducer.op, step.op] == "each":
            each = here.of(each)
    at = tuple([simplify(substitute(i, table), domain) for i in mine.indices])
    value = theirs.value
    assert type(value) is BinOp
    left: Expr = BufferLoad(mine.buffer, at)
    right = each
    if value.a is term:  # x op C[i], as it was written
        left, right = right, left
    bare = block_with(
        b,
        body=BufferStore(mine.buffer, BinOp(reducer.op, left, right, value.dtype), at),
        init=BufferStore(mine.buffer, first, at),
        reads=(),
        writes=(),
        predicate=build.logical_and(b.predicate, build.logical_and(*conditions)),
        annotations=_notes(b, e),
    )
    reads, writes = access_regions(bare)
    scope = red.scope().block()
    func = s.func_of(b.key)
    fused = explicit_again(b, block_with(bare, reads=reads, writes=writes))
    s.set_root(func, graft_two(red, fused, epi, None))
    found = s.find(scope.key)
    assert found is not None
    owner = found[1].block()
    kept = tuple([x for x in owner.alloc_buffers if x is not theirs.buffer])
    s.replace(found[1], block_with(owner, alloc_buffers=kept))


# ----------------------------------------------------------------------------- the blocks
def _check_blocks(s: State, red: Link, epi: Link) -> None:
    for x in (red, epi):
        if x.up is None:
            s.fail(
                "the root block is no reduction or epilogue",
                hint="name a block inside it; get_child_blocks lists them",
                code="root-block",
                at=x.node,
            )
    b, e = red.block(), epi.block()
    if b.init is None or kind_of(red, s) != "reduction":
        complete = kind_of(red, s) == "complete"
        s.fail(
            f"reduction_block {b.name} is not a reduction block"
            + (": it has no init" if b.init is None else ""),
            hint="reverse_compute_inline joins a consumer to a complete block"
            if complete
            else "fuse before decompose_reduction",
            code="not-reduction",
            at=b,
        )
    if kind_of(epi, s) != "complete":
        s.fail(
            f"epilogue_block {e.name} is not a complete block",
            hint="a complete block has only spatial iterators, writes each element once and reads "
            "none of what it writes",
            code="not-complete",
            at=e,
        )
    if not any(x.block().key is e.key for x in consumers(red, s)):
        s.fail(
            f"epilogue_block {e.name} does not read what block {b.name} writes",
            hint="give the block that reads it in the same scope",
            code="epilogue-consumer",
            at=[b, e],
        )


def _plain_store(s: State, b: Block, body: object, what: str) -> BufferStore:
    """A body (or init) that is one scalar store without a mask."""
    if (
        type(body) is not BufferStore
        or body.predicate is not None
        or dtypes.lanes(body.value.dtype) != 1
        or b.match_buffers
    ):
        s.fail(
            f"the {what} of block {b.name} is not a single plain store",
            hint="it must be one assignment to one element, such as C[i] = C[i] + x",
            code="epilogue-body",
            at=b,
        )
    return body


def _reduction_parts(s: State, b: Block) -> tuple[Reducer, Expr, BufferStore]:
    """The combiner, what it takes in, and the store of a reduction block."""
    store = _plain_store(s, b, b.body, "body")
    found = reducer_of(b)
    if found is None:
        s.fail(
            f"the combiner of block {b.name} is not known",
            hint="it must be C[i] = C[i] op x, op one of +, *, T.min, T.max",
            code="epilogue-combiner",
            at=b,
        )
    init = _plain_store(s, b, b.init, "init")
    if init.buffer is not store.buffer or any(
        str(x) != str(y) for x, y in zip(init.indices, store.indices, strict=True)
    ):
        s.fail(
            f"the init of block {b.name} does not store where its body does",
            hint="it must set the element that the body updates",
            code="epilogue-body",
            at=b,
        )
    return (*found, store)


def _epilogue_parts(s: State, e: Block, buffer: Buffer) -> tuple[BufferStore, BufferLoad]:
    """The store of the epilogue, and its load of the result."""
    store = _plain_store(s, e, e.body, "body")
    found = [x for x in all_loads(store) if x.buffer is buffer]
    if len(found) != 1:
        s.fail(
            f"block {e.name} reads {buffer.name} {len(found)} times; only an epilogue that reads "
            "it once can be fused",
            hint="reverse_compute_at moves any consumer to where the reduction is done",
            code="epilogue-region",
            at=e,
        )
    return store, found[0]


def _check_others(s: State, red: Link, epi: Link) -> None:
    """Nobody else needs the result, and what else the epilogue reads is there in time."""
    b, e = red.block(), epi.block()
    others = [x.block() for x in consumers(red, s) if x.block().key is not e.key]
    if others or is_output(red, s):
        s.fail(
            f"what block {b.name} writes is used elsewhere too: "
            + (f"block {others[0].name} reads it" if others else "it is an output"),
            hint="its only reader can be fused; reverse_compute_at moves a block and keeps the "
            "buffer",
            code="epilogue-consumer",
            at=[b, *others],
        )
    order = [x.block().key for x in siblings(red, s)]
    around = {f.var for f in red.loops()}
    for x in producers(epi, s):
        p = x.block()
        if p.key is b.key:
            continue
        if order.index(p.key) > order.index(b.key) or any(f.var in around for f in x.loops()):
            s.fail(
                f"block {e.name} also reads what block {p.name} writes, which is not complete when "
                f"block {b.name} starts",
                hint=f"compute_inline block {p.name}, or let it run before the loops of block "
                f"{b.name}",
                code="epilogue-producer",
                at=[b, e, p],
            )


def _check_places(s: State, red: Link, epi: Link) -> None:
    """Both blocks run exactly for the points of their domains, the reduction from its start."""
    b, e = red.block(), epi.block()
    for x in (red, epi):
        name = x.block().name
        if guard_above(x) is not None:
            s.fail(
                f"block {name} stands under a condition or let, which fusing would lose",
                hint="write the condition into the value with T.if_then_else",
                code="epilogue-guard",
                at=x.node,
            )
        if not runs_whole_domain(x.block()):
            s.fail(
                f"block {name} has a non-trivial predicate {x.block().predicate}",
                hint="fuse before what gave it the predicate; one that only keeps iterators inside "
                "their domains, as split does, is fine",
                code="epilogue-predicate",
                at=x.node,
            )
    if is_output(epi, s) and not fills_domain(epi):
        s.fail(
            f"the loops above block {e.name} do not run through the whole domain of its iterators",
            hint="its loops must reach each value of its iterators, as those that it was written "
            "with do",
            code="epilogue-domain",
            at=e,
        )
    if not binding_is_affine(red, s):
        s.fail(
            f"the bindings of block {b.name} are not an affine map of its loops",
            hint="each point of its domain must be reached once, by loops that split and fuse made",
            code="not-affine",
            at=b,
        )
    check_starts(s, red)
    fault = s.pipeline_fault(red.scope()) if s.enable_check else ""
    if fault:
        s.fail(
            f"the scope is not a stage pipeline: {fault}",
            hint="each block of the scope must write its buffers alone and whole, in front of "
            "those that read them",
            code="not-pipeline",
            at=[b, e],
        )


def _notes(b: Block, e: Block) -> Annotations:
    """The annotations of the fused block: those of the reduction, and how the buffer that the
    epilogue wrote is laid out, not the one that is gone."""
    layout = "buffer_dim_align"
    kept = [(k, v) for k, v in b.annotations if k != layout]
    return tuple(kept + [(k, v) for k, v in e.annotations if k == layout])


# ----------------------------------------------------------------------------- the steps
def _steps(
    s: State, b: Block, e: Block, value: Expr, load: BufferLoad, reducer: Reducer
) -> list[_Step]:
    """What the epilogue does to the result, in the order in which it is done."""
    out: list[_Step] = []
    while value is not load:
        if type(value) is Cast:
            s.fail(
                f"block {e.name} converts the {_WORDS[reducer.op]} of block {b.name} to "
                f"{value.dtype}: it would be rounded at each step, not once",
                hint=_later(b, e),
                code="epilogue-dtype",
                at=[b, e],
            )
        if type(value) is not BinOp:
            s.fail(
                f"the value of block {e.name} is no chain of +, *, T.min and T.max on the result "
                f"of block {b.name}: {value}",
                hint=_later(b, e),
                code="epilogue-pattern",
                at=e,
            )
        is_flipped = any(x is load for x in loads(value.b))
        inner, other = (value.b, value.a) if is_flipped else (value.a, value.b)
        if (reducer.op, value.op) not in _PLACES or (value.op == "-" and is_flipped):
            _refuse_step(s, b, e, reducer, value, other)
        out.append(_Step(value.op, other, is_flipped))
        value = inner
    return out[::-1]


def _refuse_step(
    s: State, b: Block, e: Block, reducer: Reducer, value: BinOp, other: Expr
) -> NoReturn:
    op = f"T.{value.op}" if value.op in ("min", "max") else f"{value.op!r}"
    s.fail(
        f"{op} with {other}, which block {e.name} does to the {_WORDS[reducer.op]} of block "
        f"{b.name}, would be done at each step of the reduction: the result would be another one",
        hint=_later(b, e),
        code="epilogue-step",
        at=[b, e],
    )


def _later(b: Block, e: Block) -> str:
    return (
        f"keep block {e.name} and bring it to where the reduction is done: reverse_compute_at it "
        f"at the innermost loop of block {b.name} above those that reduce (reorder brings these "
        "further in)"
    )


def _folded(op: BinaryOp, a: Expr, b: Expr) -> Expr:
    """`a op b`, without what changes nothing: 0.0 + b, max(-inf, b)."""
    for x, y in ((a, b), (b, a)):
        if op in ("+", "*", "min", "max") and _same_constant(x, Reducer(op).identity(x.dtype)):
            return y
        if op in ("min", "max"):  # max(inf, b) is inf
            other = Reducer("min" if op == "max" else "max").identity(x.dtype)
            if _same_constant(x, other) and not dtypes.is_float(x.dtype):
                return x
    if op in ("min", "max") and type(a) is FloatImm and type(b) is FloatImm:
        if math.isnan(a.value) or math.isnan(b.value):
            return build.binary(op, a, b)
        return FloatImm((min if op == "min" else max)(a.value, b.value), a.dtype)
    return build.binary(op, a, b)


def _same_constant(x: Expr, constant: Expr) -> bool:
    if type(x) is FloatImm and type(constant) is FloatImm:
        return x.value == constant.value
    return type(constant) is IntImm and is_literal(x, constant.value)
