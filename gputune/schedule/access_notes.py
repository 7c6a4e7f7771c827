"""What is said of a block's accesses? annotate_buffer_access, unsafe_hide_buffer_access."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from ..errors import RunError, UserError
from ..ir import build
from ..ir.affine import from_linear, minus, same
from ..ir.boxes import covers
from ..ir.build import const_int
from ..ir.in_bounds import _spread, _Unknown, _value
from ..ir.index_map import IndexMap
from ..ir.known_annotations import listed
from ..ir.nodes import (
    LOGIC,
    Alloc,
    Annotations,
    BinOp,
    Block,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Call,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    IntImm,
    Let,
    LetStmt,
    MatchBuffer,
    Ramp,
    Range,
    Select,
    Seq,
    Stmt,
    Var,
)
from ..ir.regions import EXPLICIT, HIDDEN, access_regions
from ..ir.walk import all_exprs, expr_children, substitute, walk_expr
from .handles import BlockRV
from .memory import BufferIndex, pick_buffer, record_index
from .nests import bound_map
from .primitive import AccessWord, RangesLike, primitive
from .state import State
from .tree import block_with

Env = dict[Var, int]
Element = tuple[int, ...]

_MOST_STEPS = 20_000  # statements and expressions that are looked at, over all iterations


@primitive("AnnotateBufferAccess", inputs=("block", "buffer_index", "buf_type", "gen_new_ranges"))
def annotate_buffer_access(
    s: State,
    block: BlockRV | str,
    buffer_index: BufferIndex,
    buf_type: AccessWord,
    gen_new_ranges: RangesLike,
) -> None:
    """State what a block reads or writes of a buffer, where that cannot be found from its body.

    Analyses take the region at its word, and finding regions anew keeps it for as long as the
    block's accesses of the buffer stay the same.

    Args:
        block: any block.
        buffer_index: which of its read or written buffers (position, name or object).
        buf_type: "read" or "write".
        gen_new_ranges: the region in terms of the block's iterators, one item a dimension: an index
            or a pair (begin, end), such as `lambda i, j: (i, (j * 2, j * 2 + 3))`. It may hold
            sampled values. (In a trace it gives begin, end, begin, end, ...)

    Raises:
        ScheduleError: no such buffer; ranges that are no such items, or empty; an iteration was
            found that touches an element outside of the region, or whose region of a written buffer
            holds an element that it does not write. What depends on data is taken on trust.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B")
        >>> sch.annotate_buffer_access(b, 0, "read", lambda i, j: (i, (0, 8)))
        >>> print(sch.get(b).reads[0].region[1].extent, dict(sch.get(b).annotations))
        8 {'explicit_read_region': (0,)}
    """
    link = s.block(block)
    b = link.block()
    regions = _regions(s, b, buf_type)
    index = pick_buffer(s, regions, buffer_index, buf_type, b)
    record_index(s, "buffer_index", buffer_index, index)
    buffer = regions[index].buffer
    m = bound_map(s, _read_ranges(s, gen_new_ranges, b, buffer))
    region = BufferRegion(buffer, _ranges(s, m, b, buffer))
    if s.enable_check:
        _check_region(s, b, buf_type, region, regions[index])
    stated = (*regions[:index], region, *regions[index + 1 :])
    notes = dict(b.annotations)
    key = EXPLICIT[buf_type]
    notes[key] = tuple(sorted({*listed(b.annotations, key, f"block {b.name}"), index}))
    s.replace(link, _with_regions(b, buf_type, stated, tuple(notes.items())))


@primitive("UnsafeHideBufferAccess", inputs=("block", "buf_type", "buf_index_array"))
def unsafe_hide_buffer_access(
    s: State, block: BlockRV | str, buf_type: str, buf_index_array: Sequence[int]
) -> None:
    """Let analyses know nothing of some accesses of a block.

    The block does what it did, but primitives that come after go by what is left: they may then
    accept what changes results. It is noted on the block, so that running it does not count an
    access without a region as a mistake.

    Args:
        block: any block.
        buf_type: "read" or "write".
        buf_index_array: positions among its read or written buffers.

    Raises:
        ScheduleError: no such position; storage_align has aligned an axis of a written buffer.

    Example:
        >>> sch = demo_schedule(); b = sch.get_block("B")
        >>> sch.unsafe_hide_buffer_access(b, "read", [0])
        >>> sch.get(b).reads
        ()
    """
    link = s.block(block)
    b = link.block()
    regions = _regions(s, b, buf_type)
    gone = set(buf_index_array)
    for k in sorted(gone):
        if not 0 <= k < len(regions):
            s.fail(
                f"buf_index_array holds {k}: block {b.name} has {len(regions)} {buf_type}(s)",
                hint=f"its {buf_type}s are: "
                + (", ".join(f"{i} {r.buffer.name}" for i, r in enumerate(regions)) or "none"),
                code="buffer-index",
                at=b,
            )
    if not gone:
        return
    left = [k for k in range(len(regions)) if k not in gone]
    notes = dict(b.annotations)
    before = listed(b.annotations, EXPLICIT[buf_type], f"block {b.name}")
    notes.pop(EXPLICIT[buf_type], None)
    stated = tuple([left.index(k) for k in before if k in left])
    if stated:
        notes[EXPLICIT[buf_type]] = stated
    aligns = listed(b.annotations, "buffer_dim_align", f"block {b.name}")
    if buf_type == "write" and aligns:
        aligned = next((e for e in aligns if e[0] in gone), None)
        if aligned is not None:
            s.fail(
                f"storage_align has aligned an axis of {regions[aligned[0]].buffer.name}",
                hint="hide other accesses only",
                code="hide-align",
                at=b,
            )
        notes["buffer_dim_align"] = tuple(
            [(left.index(e[0]), *e[1:]) for e in aligns if e[0] in left]
        )
    notes[HIDDEN] = tuple(sorted({*notes.get(HIDDEN, ()), buf_type}))
    kept = tuple([regions[k] for k in left])
    s.replace(link, _with_regions(b, buf_type, kept, tuple(notes.items())))


# ----------------------------------------------------------------------------- arguments
def _regions(s: State, b: Block, buf_type: str) -> tuple[BufferRegion, ...]:
    if buf_type not in EXPLICIT:
        s.fail(
            f'buf_type is "read" or "write", got {buf_type!r}',
            hint='give "read" or "write"',
            code="buffer-access",
            at=b,
        )
    return b.reads if buf_type == "read" else b.writes


def _with_regions(
    b: Block, buf_type: str, regions: tuple[BufferRegion, ...], notes: Annotations
) -> Block:
    if buf_type == "read":
        return block_with(b, reads=regions, annotations=notes)
    return block_with(b, writes=regions, annotations=notes)


def _read_ranges(s: State, given: RangesLike, b: Block, buffer: Buffer) -> IndexMap:
    """The argument as a map to begin, end, begin, end, ...; recorded as such."""
    ndim = len(buffer.shape)

    def refuse(found: str) -> NoReturn:
        s.fail(
            f"gen_new_ranges must give an index or a pair (begin, end) for each of the {ndim} "
            f"dimensions of {buffer.name}, got {found}",
            hint=f"for example lambda {', '.join(iv.var.name for iv in b.iter_vars)}: "
            f"({', '.join('(begin, end)' for _ in range(ndim))},)",
            code="access-ranges",
            at=b,
        )

    m = given
    if not isinstance(m, IndexMap):
        of_indices = m

        @functools.wraps(of_indices)
        def flat(*at: Var) -> list[Any]:
            got = of_indices(*at)
            items = list(got) if isinstance(got, (list, tuple)) else [got]
            pairs = [x for x in items if isinstance(x, (list, tuple))]
            if not pairs and ndim and len(items) == 2 * ndim:
                return items  # as a trace prints it
            if len(items) != ndim:
                refuse(f"{len(items)} items")
            if any(len(p) != 2 for p in pairs):
                refuse(f"{next(p for p in pairs if len(p) != 2)!r}")
            return [y for x in items for y in (x if isinstance(x, (list, tuple)) else (x, x + 1))]

        try:
            m = IndexMap.from_func(flat, len(b.iter_vars))
        except UserError as e:
            s.fail(f"gen_new_ranges: {e.message}", hint=e.hint, code="access-ranges", at=b)
    if len(m.initial_indices) != len(b.iter_vars):
        s.fail(
            f"gen_new_ranges takes {len(m.initial_indices)} indices, and block {b.name} has "
            f"{len(b.iter_vars)} iterators",
            hint="let it take one index for each iterator of the block",
            code="access-ranges",
            at=b,
        )
    if len(m.final_indices) != 2 * ndim or m.axis_separators:
        refuse(f"a map to {len(m.final_indices)} indices")
    s.resolved["gen_new_ranges"] = m
    return m


def _ranges(s: State, m: IndexMap, b: Block, buffer: Buffer) -> tuple[Range, ...]:
    """The region over the block's iterators."""
    table = {
        v: build.cast(v.dtype, iv.var) for v, iv in zip(m.initial_indices, b.iter_vars, strict=True)
    }
    ends = [substitute(e, table) for e in m.final_indices]
    out = []
    for k, (begin, end) in enumerate(zip(ends[::2], ends[1::2], strict=True)):
        extent = from_linear(*minus(end, begin), begin.dtype)
        n = const_int(extent)
        if n is not None and n < 1:
            s.fail(
                f"gen_new_ranges gives {begin} to {end} for dimension {k} of {buffer.name}, which "
                "holds no index",
                hint="the end is not part of the range",
                code="access-ranges",
                at=b,
            )
        out.append(Range(begin, extent))
    return tuple(out)


def _text(r: BufferRegion) -> str:
    parts = []
    for g in r.region:
        n = const_int(g.extent)
        parts.append(
            str(g.min) if n is not None and n == 1 else f"{g.min}:{build.add(g.min, g.extent)}"
        )
    return f"{r.buffer.name}[{', '.join(parts)}]"


# ----------------------------------------------------------------------------- is it true?
def _check_region(s: State, b: Block, kind: str, region: BufferRegion, known: BufferRegion) -> None:
    """Refuses a region of which some iteration is known to touch more; for a written buffer, which
    analyses take to be written in full, also one of which an iteration is known to write less."""
    buffer = region.buffer
    bare = block_with(b, reads=(), writes=(), annotations=())
    reads, writes = access_regions(bare)
    found = next((r for r in (reads if kind == "read" else writes) if r.buffer is buffer), None)
    if found is None:
        return  # what views touch, or nothing at all: there is no access to go by
    if kind == "read":
        dom = {
            iv.var: (lo, lo + n - 1)
            for iv in b.iter_vars
            if (lo := const_int(iv.dom.min)) is not None
            and (n := const_int(iv.dom.extent)) is not None
        }
        if covers(region.region, found.region, dom):
            return
    elif all(
        same(x.min, y.min) and same(x.extent, y.extent)
        for x, y in zip(region.region, known.region, strict=True)
    ):
        return
    _pin(b, region)
    steps = _Budget(_MOST_STEPS)
    for at in _iterations(b):
        box = _box(region, at)
        if box is None:
            continue
        seen = _Seen(buffer, kind, steps)
        seen.block(b, at)
        if steps.left <= 0:
            return
        where = ", ".join(f"{iv.var.name} = {at[iv.var]}" for iv in b.iter_vars)
        where = f" at {where}" if where else ""
        outside = sorted(x for x in seen.sure if not _holds(box, x))
        if outside:
            s.fail(
                f"block {b.name} {kind}s {buffer.name}{list(outside[0])}{where}, outside of the "
                f"given region {_text(region)}",
                hint=f"all of its {kind}s are in {_text(found)}",
                code="access-region",
                at=b,
            )
        if kind == "write" and not seen.vague:
            missing = _first_missing(box, buffer, seen.maybe)
            if missing is not None:
                s.fail(
                    f"the given region {_text(region)} holds {buffer.name}{list(missing)}{where}, "
                    f"which block {b.name} does not write",
                    hint=f"it writes {_text(found)}; a region that is written counts as written in "
                    "full",
                    code="access-region",
                    at=b,
                )


def _pin(b: Block, region: BufferRegion) -> None:
    """Records that what follows depends on the sampled values in a block, as they are."""
    parts = [e for g in region.region for e in (g.min, g.extent)]
    parts += [e for iv in b.iter_vars for e in (iv.dom.min, iv.dom.extent)]
    for e in itertools.chain(parts, all_exprs(b)):
        for x in walk_expr(e):
            if type(x) is IntImm and type(x.value) is not int:
                assert x.value == int(x.value)


def _iterations(b: Block) -> Iterator[Env]:
    """Points of a block's domain: all, or so many from the ends of each iterator."""
    spans: list[Sequence[int]] = []
    for iv in b.iter_vars:
        lo, n = const_int(iv.dom.min), const_int(iv.dom.extent)
        if lo is None or n is None or n < 1:
            return
        spans.append(_spread(int(lo), int(lo + n - 1), len(b.iter_vars)))
    for point in itertools.product(*spans):
        yield dict(zip([iv.var for iv in b.iter_vars], point, strict=True))


def _box(r: BufferRegion, at: Env) -> list[tuple[int, int]] | None:
    """(begin, end) of each dimension in an iteration; None if it is not known."""
    try:
        lows = [int(_value(g.min, at)) for g in r.region]
        return [(lo, lo + int(_value(g.extent, at))) for lo, g in zip(lows, r.region)]
    except (_Unknown, RunError):
        return None


def _holds(box: Sequence[tuple[int, int]], x: Element) -> bool:
    return all(lo <= i < end for i, (lo, end) in zip(x, box, strict=True))


def _first_missing(
    box: Sequence[tuple[int, int]], buffer: Buffer, written: set[Element]
) -> Element | None:
    """An element of a box, and of the buffer, that is not among some."""
    spans: list[range] = []
    size = 1
    for (lo, end), extent in zip(box, buffer.shape, strict=True):
        n = const_int(extent)
        spans.append(range(max(lo, 0), end if n is None else min(end, int(n))))
        size *= len(spans[-1])
    if size > _MOST_STEPS:
        return None
    return next((x for x in itertools.product(*spans) if x not in written), None)


class _Budget:
    """How much may still be looked at?"""

    def __init__(self, left: int) -> None:
        self.left = left


class _Seen:
    """The elements of a buffer that one iteration of a block touches.

    Attributes:
        sure: those that it is known to touch.
        maybe: those, and those that it would touch if no condition held it back.
        vague: are there accesses whose place is not known?
    """

    def __init__(self, buffer: Buffer, kind: str, steps: _Budget) -> None:
        self.buffer = buffer
        self.kind = kind
        self.steps = steps
        self.sure: set[Element] = set()
        self.maybe: set[Element] = set()
        self.vague = False
        self.views: dict[Buffer, MatchBuffer] = {}

    def block(self, b: Block, env: Env, sure: bool = True) -> None:
        """Look at a block in the iteration that `env` says."""
        self.views.update({m.buffer: m for m in b.match_buffers})
        if b.init is not None:
            first = all(
                self.is_so(build.eq(iv.var, iv.dom.min), env)
                for iv in b.iter_vars
                if iv.kind == "reduce"
            )
            self.stmt(b.init, env, sure and first)
        self.stmt(b.body, env, sure)

    def is_so(self, cond: Expr, env: Mapping[Var, int]) -> bool | None:
        """Does a condition hold? None if it is not known."""
        try:
            return bool(_value(cond, env))
        except (_Unknown, RunError):
            return None

    def stmt(self, x: Stmt, env: Env, sure: bool) -> None:
        self.steps.left -= 1
        if self.steps.left <= 0:
            self.vague = True
            return
        match x:
            case BufferStore():
                self.exprs((x.value, *x.indices), env, sure)
                if self.kind == "write":
                    self.touch(x.buffer, x.indices, env, sure and x.predicate is None)
            case For():
                self.loop(x, env, sure)
            case Block():
                self.nested(x, env, sure)
            case Seq():
                for item in x.items:
                    self.stmt(item, env, sure)
            case IfThenElse():
                self.expr(x.cond, env, sure)
                so = self.is_so(x.cond, env)
                self.stmt(x.then, env, sure and so is True)
                if x.orelse is not None:
                    self.stmt(x.orelse, env, sure and so is False)
            case LetStmt():
                self.expr(x.value, env, sure)
                self.stmt(x.body, self.bound(env, x.var, x.value), sure)
            case Evaluate():
                self.expr(x.value, env, sure)
            case Alloc():
                self.stmt(x.body, env, sure)

    def loop(self, f: For, env: Env, sure: bool) -> None:
        self.exprs((f.min, f.extent), env, sure)
        try:
            lo, n = int(_value(f.min, env)), int(_value(f.extent, env))
        except (_Unknown, RunError):
            self.vague = True
            return
        for i in range(lo, lo + n):
            self.stmt(f.body, {**env, f.var: i}, sure)
            if self.steps.left <= 0:
                self.vague = True
                return

    def nested(self, b: Block, env: Env, sure: bool) -> None:
        self.exprs(b.iter_values, env, sure)
        inner = dict(env)
        for iv, value in zip(b.iter_vars, b.iter_values, strict=True):
            inner = self.bound(inner, iv.var, value)
        self.expr(b.predicate, inner, sure)
        self.block(b, inner, sure and self.is_so(b.predicate, inner) is True)

    @staticmethod
    def bound(env: Env, v: Var, value: Expr) -> Env:
        try:
            return {**env, v: _value(value, env)}
        except (_Unknown, RunError):
            return env

    def exprs(self, es: Sequence[Expr], env: Env, sure: bool) -> None:
        for e in es:
            self.expr(e, env, sure)

    def expr(self, e: Expr, env: Env, sure: bool) -> None:
        if type(e) is Var or type(e) is IntImm or self.kind == "write":
            return
        self.steps.left -= 1
        match e:
            case BufferLoad():
                self.exprs(e.indices, env, sure)
                self.touch(e.buffer, e.indices, env, sure and e.predicate is None)
            case Select(cond=cond, a=a, b=b) | Call(op="if_then_else", args=(cond, a, b)):
                self.expr(cond, env, sure)
                so = self.is_so(cond, env)
                self.expr(a, env, sure and so is True)
                self.expr(b, env, sure and so is False)
            case BinOp(op=op, a=a, b=b) if op in LOGIC:
                self.expr(a, env, sure)
                self.expr(b, env, sure and self.is_so(a, env) is (op == "and"))
            case Let():
                self.expr(e.value, env, sure)
                self.expr(e.body, self.bound(env, e.var, e.value), sure)
            case _:
                self.exprs(expr_children(e), env, sure)

    def touch(self, buffer: Buffer, indices: Sequence[Expr], env: Env, sure: bool) -> None:
        try:
            lanes = [[int(_value(i, env)) for i in _lanes(x)] for x in indices]
            while buffer in self.views:
                m = self.views[buffer]
                lows = [int(_value(g.min, env)) for g in m.source.region]
                lead = len(lows) - len(lanes)
                if lead < 0:
                    raise _Unknown
                lanes = [[lo] for lo in lows[:lead]] + [
                    [lo + i for i in x] for lo, x in zip(lows[lead:], lanes, strict=True)
                ]
                buffer = m.source.buffer
        except (_Unknown, RunError):
            if self.root_of(buffer) is self.buffer:
                self.vague = True
            return
        if buffer is not self.buffer:
            return
        count = max((len(x) for x in lanes), default=1)
        for k in range(count):
            element = tuple([x[k] if len(x) > 1 else x[0] for x in lanes])
            self.maybe.add(element)
            if sure:
                self.sure.add(element)

    def root_of(self, buffer: Buffer) -> Buffer:
        while buffer in self.views:
            buffer = self.views[buffer].source.buffer
        return buffer


def _lanes(index: Expr) -> list[Expr]:
    """The indices of the lanes of an index."""
    if type(index) is not Ramp:
        return [index]
    stride = index.stride
    return [
        build.add(index.base, build.mul(stride, IntImm(k, stride.dtype)))
        for k in range(index.lanes)
    ]
