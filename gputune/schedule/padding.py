"""How is a block given more iterations than it needs? pad_einsum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir import build, dtypes
from ..ir.affine import all_same
from ..ir.build import const_int, is_literal
from ..ir.nodes import (
    BinOp,
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Call,
    Cast,
    Expr,
    FloatImm,
    For,
    IntImm,
    IterKind,
    IterVar,
    Range,
    Stmt,
    Var,
)
from ..ir.ops import MATH
from ..ir.walk import (
    all_loads,
    map_expr,
    map_stmt,
    substitute,
    uses_var,
    walk_expr,
)
from .analysis import blocks_below, kind_of
from .handles import BlockRV
from .memory import fresh_name
from .nests import (
    const_extents,
    grid_block,
    nest_top,
    plain_nest,
    put_beside,
    refuse_aligned,
    top_statement,
)
from .primitive import primitive
from .state import State
from .tree import Link, block_with


@primitive("PadEinsum", inputs=("block",))
def pad_einsum(s: State, block: BlockRV | str, padding: Sequence[int]) -> None:
    """Round the domain of a block up, with padded copies of what it reads and writes.

    What the block reads is copied into `<buffer>_pad` with zeros in the padding; it writes
    `<buffer>_pad`, of which a block after it copies the wanted part.

    Args:
        block: one store; its loops are its own, one an iterator. What it accesses at a padded
            iterator it accesses at plain iterators and constants. If a reduction is padded, it is a
            sum of products that are zero in the padding.
        padding: for each iterator, what its extent becomes a multiple of.

    Raises:
        ScheduleError: naming which of these does not hold.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B"); sch.pad_einsum(b, [5, 1])
        >>> [sch.get(x).extent.value for x in sch.get_loops(b)]
        [10, 8]
    """
    link = s.block(block)
    b = link.block()
    store = _einsum_store(s, link)
    loops = plain_nest(s, link)
    if len(padding) != len(b.iter_vars) or any(p < 1 for p in padding):
        s.fail(
            f"padding {[int(p) for p in padding]} is not one positive integer for each of the "
            f"{len(b.iter_vars)} iterators of block {b.name}",
            hint="give one number for each iterator, 1 to leave it as it is",
            code="pad-einsum-padding",
            at=b,
        )
    for iv in b.iter_vars:
        if not is_literal(iv.dom.min, 0) or iv.kind not in ("spatial", "reduce"):
            s.fail(
                f"iterator {iv.var.name} of block {b.name} starts at {iv.dom.min} or is {iv.kind}",
                hint="iterators must be spatial or reduce, and run from 0",
                code="iter-kind",
                at=b,
            )
    old = const_extents(s, [iv.dom.extent for iv in b.iter_vars], f"block {b.name}", b)
    extents = {
        iv.var: (n, -(-n // p) * p) for iv, n, p in zip(b.iter_vars, old, padding, strict=True)
    }
    padded = {v for v, (n, m) in extents.items() if m != n}
    if not padded:
        return
    fault = s.pipeline_fault(link.scope()) if s.enable_check else ""
    if fault:
        s.fail(
            f"the scope is not a stage pipeline: {fault}",
            hint="each block of the scope must write its buffers alone and whole, in"
            " front of those that read them",
            code="not-pipeline",
            at=b,
        )
    _check_indices(s, b, store, padded)
    reduced = {iv.var for iv in b.iter_vars if iv.kind == "reduce"} & padded
    for v in padded - reduced:
        if v not in store.indices:
            s.fail(
                f"block {b.name} does not write at iterator {v.name}: more of its values would "
                "repeat what it does",
                hint="pad only iterators that the output or the reduction is indexed by",
                code="pad-einsum-index",
                at=b,
            )
    _check_sum_of_products(s, b, store, reduced)
    _Padding(s, link, store, extents, padded).apply(loops)


def _einsum_store(s: State, link: Link) -> BufferStore:
    """The store that is the block's body."""
    b = link.block()
    if link.up is None or not kind_of(link, s):
        s.fail(
            f"block {b.name} is neither a complete nor a reduction block",
            hint="it must be spatial and write each element once, or be a reduction with an init",
            code="not-complete",
            at=b,
        )
    store = b.body
    if type(store) is not BufferStore or store.predicate is not None or b.match_buffers:
        s.fail(
            f"the body of block {b.name} is not a single store",
            hint="an einsum is one assignment such as C[i, j] = C[i, j] + A[i, k] * B[k, j]",
            code="pad-einsum-body",
            at=b,
        )
    if b.init is not None and type(b.init) is not BufferStore:
        s.fail(
            f"the init of block {b.name} is not a single store",
            hint="let the init assign one value to one element",
            code="pad-einsum-body",
            at=b,
        )
    if b.alloc_buffers:
        s.fail(
            f"block {b.name} allocates buffers",
            hint="allocate outside the block",
            code="pad-einsum-body",
            at=b,
        )
    refuse_aligned(s, b, store.buffer)
    for e in (x for part in (store.value, *_values(b.init)) for x in walk_expr(part)):
        divides = type(e) is BinOp and e.op in _DIVISIONS and dtypes.is_int(e.dtype)
        if divides and type(e) is BinOp and type(e.b) is not IntImm:
            s.fail(
                f"block {b.name} divides by {e.b}, which may be 0",
                hint="in the padding every read gives 0: divide in a block of its own",
                code="pad-einsum-body",
                at=b,
            )
        if type(e) is Call and e.op not in MATH and e.op != "if_then_else":
            s.fail(
                f"block {b.name} calls {e.op}",
                hint="pad_einsum takes sums and products; compute the call in a block of its own",
                code="pad-einsum-body",
                at=b,
            )
    return store


_DIVISIONS = frozenset({"/", "//", "%", "truncmod"})


def _check_indices(s: State, b: Block, store: BufferStore, padded: set[Var]) -> None:
    """What is accessed at a padded iterator is accessed at plain iterators and constants."""
    mine = {iv.var for iv in b.iter_vars}
    touched: list[BufferStore | BufferLoad] = [store, *all_loads(store)]
    if b.init is not None:
        touched += all_loads(b.init)
    for what in touched:
        if not any(uses_var(i, padded) for i in what.indices):
            continue
        for i in what.indices:
            if type(i) is not IntImm and i not in mine:
                s.fail(
                    f"block {b.name} accesses {what.buffer.name} at {i}, not at an iterator or a "
                    "constant",
                    hint="reindex the buffer first",
                    code="pad-einsum-index",
                    at=b,
                )
        seen = [i for i in what.indices if type(i) is Var]
        if len(set(seen)) != len(seen):
            s.fail(
                f"block {b.name} accesses a diagonal of {what.buffer.name}",
                hint="each index must be another iterator",
                code="pad-einsum-index",
                at=b,
            )


def _values(init: Stmt | None) -> list[Expr]:
    return [init.value] if type(init) is BufferStore else []


def _check_sum_of_products(s: State, b: Block, store: BufferStore, reduced: set[Var]) -> None:
    """Adding what the padding holds must change nothing."""
    if not reduced:
        return
    value = store.value
    if type(value) is BinOp and value.op in ("+", "-"):
        sides = ((value.a, value.b), (value.b, value.a)) if value.op == "+" else (
            (value.a, value.b),
        )  # fmt: skip
        for acc, rest in sides:
            if (
                type(acc) is BufferLoad
                and acc.buffer is store.buffer
                and all_same(acc.indices, store.indices)
                and all(_is_zero(rest, k, store.buffer) for k in reduced)
            ):
                return
    names = ", ".join(sorted(v.name for v in reduced))
    s.fail(
        f"block {b.name} is no sum of products that vanish where {names} is in the padding",
        hint="pad only the spatial iterators",
        code="pad-einsum-body",
        at=b,
    )


def _is_zero(product: Expr, k: Var, output: Buffer) -> bool:
    """Is a product zero where what is read at iterator `k` is? Of floating-point factors each must
    be: zero times infinity is none."""
    factors: list[Expr] = []
    stack = [product]
    while stack:
        e = stack.pop()
        if type(e) is BinOp and e.op == "*":
            stack += (e.a, e.b)
        elif type(e) is Cast:
            stack.append(e.value)
        else:
            factors.append(e)
    vanish = 0
    for e in factors:
        if type(e) is BufferLoad and e.buffer is not output:
            if any(i is k for i in e.indices):
                vanish += 1
            elif not dtypes.is_int(e.dtype):
                return False
        elif type(e) is FloatImm:
            if not math.isfinite(e.value):
                return False
        elif type(e) is not IntImm:
            return False
    return vanish > 0


@dataclass
class _Padding:
    """The padding of one block.

    Attributes:
        extents: of each iterator: (old extent, new extent).
        padded: the iterators of which the two differ.
    """

    s: State
    link: Link
    store: BufferStore
    extents: dict[Var, tuple[int, int]]
    padded: set[Var]

    def apply(self, loops: Sequence[For]) -> None:
        s, b = self.s, self.link.block()
        scope = self.link.scope()
        func = s.func_of(b.key)
        before: list[Stmt] = []
        after: list[Stmt] = []
        table: dict[Buffer, Buffer] = {}
        reads: dict[Buffer, BufferLoad] = {}
        every = [*all_loads(b.body), *([] if b.init is None else all_loads(b.init))]
        for x in every:
            if x.buffer is self.store.buffer or not any(i in self.padded for i in x.indices):
                continue
            known = reads.setdefault(x.buffer, x)
            if any(y.buffer is x.buffer and not all_same(y.indices, known.indices) for y in every):
                s.fail(
                    f"block {b.name} reads {x.buffer.name} at several places",
                    hint="cache_read it for each of them first",
                    code="pad-einsum-index",
                    at=b,
                )
        names: set[str] = set()
        for buffer, x in reads.items():
            self.check_made_before(buffer, scope)
            new, nest = self.copy_in(x, self.name(func, buffer, names))
            table[buffer] = new
            before.append(nest)
        if any(i in self.padded for i in self.store.indices):
            new, nest = self.copy_out(self.name(func, self.store.buffer, names))
            table[self.store.buffer] = new
            after.append(nest)
        changed = self.widened(table)
        body: Stmt = changed
        inside = dict(zip(b.iter_values, b.iter_vars, strict=True))
        for f in reversed(loops):
            n = self.extents[inside[f.var].var][1]
            body = For(f.var, f.min, IntImm(n, f.extent.dtype), f.kind, body)
        s.replace(nest_top(self.link), body)
        owner = s.refresh(scope)
        base = owner.block()
        body = put_beside(base, changed, before, after=False)
        body = put_beside(block_with(base, body=body), changed, after, after=True)
        new_buffers = tuple(table.values())
        s.replace(
            owner, block_with(base, body=body, alloc_buffers=(*base.alloc_buffers, *new_buffers))
        )

    def name(self, func: str, buffer: Buffer, names: set[str]) -> str:
        name = fresh_name(self.s, func, f"{buffer.name}_pad")
        while name in names:
            name += "_"
        names.add(name)
        return name

    def check_made_before(self, buffer: Buffer, scope: Link) -> None:
        """The copy stands before the nest of the block."""
        s, b = self.s, self.link.block()
        writers = [
            x for x in blocks_below(scope) if any(w.buffer is buffer for w in x.block().writes)
        ]
        if len(writers) > 1:
            s.fail(
                f"buffer {buffer.name} has {len(writers)} writers in the scope",
                hint="pad before decompose_reduction",
                code="cache-writers",
                at=[x.node for x in writers],
            )
        assert not any(
            top_statement(x, scope) is top_statement(self.link, scope) for x in writers
        ), f"the loops of {b.name} are its own"

    def padded_buffer(self, buffer: Buffer, indices: Sequence[Expr], name: str) -> Buffer:
        shape = [
            n if type(i) is not Var else IntImm(self.extents[i][1], n.dtype)
            for i, n in zip(indices, buffer.shape, strict=True)
        ]
        return Buffer(name, tuple(shape), buffer.dtype, buffer.scope)

    def copy_in(self, x: BufferLoad, name: str) -> tuple[Buffer, Stmt]:
        """A copy with zeros where the block did not read."""
        new = self.padded_buffer(x.buffer, x.indices, name)
        at = [Var(f"v{k}", n.dtype) for k, n in enumerate(new.shape)]
        inside: list[Expr] = []
        for v, i, n in zip(at, x.indices, x.buffer.shape, strict=True):
            if type(i) is not Var:
                continue
            wanted, all_of_it = self.extents[i]
            size = const_int(n)
            if size is None:
                self.s.fail(
                    f"the extent {n} of buffer {x.buffer.name} is not constant",
                    hint="only buffers of constant shape can be padded",
                    code="layout-dynamic",
                    at=self.link.node,
                )
            if size < wanted:  # the block reads there under a condition
                wanted = size
            if wanted < all_of_it:
                inside.append(build.lt(v, IntImm(wanted, v.dtype)))
        value = build.if_then_else(
            build.logical_and(*inside),
            BufferLoad(x.buffer, tuple(at)),
            build.const(0, x.buffer.dtype),
        )
        nest, _ = grid_block(
            name,
            _spatial(at, new.shape),
            BufferStore(new, value, tuple(at)),
        )
        return new, nest

    def copy_out(self, name: str) -> tuple[Buffer, Stmt]:
        """A copy of the part that the block wrote before."""
        old, indices = self.store.buffer, self.store.indices
        new = self.padded_buffer(old, indices, name)
        mine = [i for i in indices if type(i) is Var]
        at = {i: Var(f"v{k}", i.dtype) for k, i in enumerate(mine)}
        there = tuple([substitute(i, dict(at)) for i in indices])
        nest, _ = grid_block(
            name,
            _spatial(list(at.values()), [IntImm(self.extents[i][0], i.dtype) for i in mine]),
            BufferStore(old, BufferLoad(new, there), there),
        )
        return new, nest

    def widened(self, table: dict[Buffer, Buffer]) -> Block:
        """The block over its new domain, with the padded buffers."""
        b = self.link.block()

        def on_expr(e: Expr) -> Expr:
            out = map_expr(e, on_expr)
            if type(out) is BufferLoad and out.buffer in table:
                return BufferLoad(table[out.buffer], out.indices, out.predicate)
            return out

        def on_stmt(x: Stmt) -> Stmt:
            out = map_stmt(x, on_expr, on_stmt)
            assert type(out) is BufferStore
            return BufferStore(table.get(out.buffer, out.buffer), out.value, out.indices)

        def regions(of: Sequence[BufferRegion]) -> tuple[BufferRegion, ...]:
            return tuple([BufferRegion(table.get(r.buffer, r.buffer), r.region) for r in of])

        iters = tuple([
            IterVar(
                iv.var,
                Range(iv.dom.min, IntImm(self.extents[iv.var][1], iv.dom.extent.dtype)),
                iv.kind,
            )
            for iv in b.iter_vars
        ])  # fmt: skip
        return block_with(
            b,
            iter_vars=iters,
            reads=regions(b.reads),
            writes=regions(b.writes),
            body=on_stmt(b.body),
            init=None if b.init is None else on_stmt(b.init),
        )


def _spatial(at: Sequence[Var], extents: Sequence[Expr]) -> list[tuple[Var, Expr, IterKind]]:
    return [(v, n, "spatial") for v, n in zip(at, extents, strict=True)]
