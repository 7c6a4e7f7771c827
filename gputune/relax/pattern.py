"""How does a tensor function go from its arguments to its result, as far as fusion needs to know?

Patterns, from what fuses easily to what does not: ELEMENTWISE (an element is made of those at the
same place), BROADCAST (of those at some of its indices, in order), INJECTIVE (at any places that
depend on its indices), REDUCTION (of many), OUT_FUSABLE (a matmul or convolution: of many, and what
is done with each result may be done there), OPAQUE.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from ..ir.access import const_shape
from ..ir.build import is_literal
from ..ir.nodes import (
    BinOp,
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Cast,
    Expr,
    For,
    IntImm,
    PrimFunc,
    Seq,
    Stmt,
    Var,
)
from ..ir.walk import loads
from ..runtime.signature import written_buffers


class Pattern(IntEnum):
    """See above; of two together, the greater one holds."""

    ELEMENTWISE = 0
    BROADCAST = 1
    INJECTIVE = 2
    REDUCTION = 3
    OUT_FUSABLE = 4
    OPAQUE = 8


@dataclass(frozen=True, slots=True)
class Kind:
    """The pattern of a function, and that from each of its arguments to the result."""

    pattern: Pattern
    arguments: tuple[Pattern, ...]


def kind_of(func: PrimFunc) -> Kind:
    """How a tensor function computes; everything that is not plain loops around blocks, each of
    which stores one element, is OPAQUE."""
    count = len(func.buffers)
    opaque = Kind(Pattern.OPAQUE, (Pattern.OPAQUE,) * (count - 1))
    written = [b for b in func.buffers if b in written_buffers(func)]
    if written != [func.buffers[-1]] or len(func.params) != count:
        return opaque
    blocks = _plain_blocks(func.body.body)
    if blocks is None or func.body.match_buffers:
        return opaque
    reductions = [b for b in blocks if b.init is not None]
    if len(reductions) > 1:
        return opaque
    reaches: dict[Buffer, Pattern] = {func.buffers[-1]: Pattern.ELEMENTWISE}
    stored: set[Buffer] = set()
    whole = Pattern.ELEMENTWISE
    for block in reversed(blocks):
        store = block.body
        assert isinstance(store, BufferStore)
        behind = reaches.get(store.buffer)
        if behind is None or store.buffer in stored:  # nobody reads it; it is filled in parts
            return opaque
        stored.add(store.buffer)
        own = _reduction(store) if block.init is not None else Pattern.ELEMENTWISE
        if not _stores_in_order(block, store):
            return opaque
        for load in loads(store.value):
            if load.buffer is store.buffer:
                continue
            through = max(own, behind, _access(load, store))
            reaches[load.buffer] = max(reaches.get(load.buffer, Pattern.ELEMENTWISE), through)
            whole = max(whole, through)
        whole = max(whole, own)
    arguments = tuple([reaches.get(b, Pattern.ELEMENTWISE) for b in func.buffers[:-1]])
    return Kind(whole, arguments)


def _plain_blocks(s: Stmt) -> list[Block] | None:
    """The blocks, in order; None if there is anything but serial loops around such as are run at
    every iteration and store one element."""
    if isinstance(s, Seq):
        out: list[Block] = []
        for x in s.items:
            found = _plain_blocks(x)
            if found is None:
                return None
            out += found
        return out
    if isinstance(s, For):
        return _plain_blocks(s.body) if s.kind == "serial" and not s.annotations else None
    if not isinstance(s, Block) or s.annotations or s.alloc_buffers or s.match_buffers:
        return None
    if not is_literal(s.predicate, 1) or not isinstance(s.body, BufferStore):
        return None
    kinds = {iv.kind for iv in s.iter_vars}
    if not kinds <= {"spatial", "reduce"} or ("reduce" in kinds) != (s.init is not None):
        return None
    if any(not isinstance(v, Var) for v in s.iter_values):
        return None
    return [s]


def _stores_in_order(block: Block, store: BufferStore) -> bool:
    """Does it store at its spatial iterators, in their order?"""
    spatial = [iv.var for iv in block.iter_vars if iv.kind == "spatial"]
    return len(spatial) == len(store.indices) and all(
        a is b for a, b in zip(spatial, store.indices)
    )


def _access(load: BufferLoad, store: BufferStore) -> Pattern:
    own = list(store.indices)
    found = list(load.indices)
    if len(own) == len(found) and all(a is b for a, b in zip(own, found)):
        one_shape = const_shape(load.buffer) == const_shape(store.buffer)
        return Pattern.ELEMENTWISE if one_shape else Pattern.INJECTIVE  # only a part of one
    places = []
    for i in found:
        if isinstance(i, IntImm):
            continue
        at = next((k for k, v in enumerate(own) if v is i), None)
        if at is None:
            return Pattern.INJECTIVE
        places.append(at)
    ordered = all(a < b for a, b in pairwise(places))
    return Pattern.BROADCAST if ordered else Pattern.INJECTIVE


def _reduction(store: BufferStore) -> Pattern:
    """A sum of products (or of windows) takes what follows in; another reduction does not."""
    value = store.value
    if not isinstance(value, BinOp):
        return Pattern.OPAQUE
    term = _uncast(value.b)
    if value.op == "+" and isinstance(term, BinOp) and term.op == "*":
        if isinstance(_uncast(term.a), BufferLoad) and isinstance(_uncast(term.b), BufferLoad):
            return Pattern.OUT_FUSABLE
    if isinstance(term, BufferLoad) and any(not isinstance(i, (Var, IntImm)) for i in term.indices):
        return Pattern.OUT_FUSABLE  # windows that overlap
    return Pattern.REDUCTION


def _uncast(e: Expr) -> Expr:
    return e.value if isinstance(e, Cast) else e
