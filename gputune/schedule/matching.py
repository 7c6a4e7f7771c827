"""Is this piece of a program what a tensor intrinsic describes, and where are its operands?

A description matches up to the names of what it binds, and up to where its buffers lie: each of
them is a window on a buffer of the program, which may have more dimensions in front. What does not
fit is said in words; the first reason is the one to mend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..ir import build
from ..ir.affine import from_linear, minus
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
    Not,
    PrimFunc,
    Range,
    Select,
    Seq,
    Stmt,
    Var,
)
from ..ir.walk import expr_children, substitute, uses_var, walk_stmt

_EITHER_WAY = frozenset({"+", "*", "min", "max"})


@dataclass(frozen=True, slots=True)
class Match:
    """Where the operands of an intrinsic lie: buffer of the description -> region."""

    regions: Mapping[Buffer, BufferRegion]


@dataclass(slots=True)
class Matcher:
    """A comparison under way.

    Attributes:
        vars: variable of the description -> that of the program.
        windows: buffer of the description -> (buffer of the program, its first index in each of
            its dimensions).
        reasons: why it does not match, the first one first.
    """

    vars: dict[Var, Expr] = field(default_factory=dict)
    windows: dict[Buffer, tuple[Buffer, tuple[Expr, ...]]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)

    def no(self, reason: str) -> bool:
        """Note a reason; False."""
        self.reasons.append(reason)
        return False

    # ------------------------------------------------------------------ statements
    def stmt(self, d: Stmt, p: Stmt) -> bool:
        """Does a statement of the program do what one of the description does?"""
        match d, p:
            case For(), For():
                return self.loop(d, p)
            case Block(), Block():
                return self.block(d, p)
            case Seq(), Seq() if len(d.items) == len(p.items):
                return all(self.stmt(x, y) for x, y in zip(d.items, p.items, strict=True))
            case BufferStore(), BufferStore():
                return self.store(d, p)
            case _:
                return self.no(f"{_what(p)} stands where the description has {_what(d)}")

    def loop(self, d: For, p: For) -> bool:
        """The same for two loops."""
        want, got = const_int(d.extent), const_int(p.extent)
        if got is None or want is None or got != want:
            return self.no(
                f"the loop {p.var.name} runs {p.extent} times, the loop {d.var.name} of the "
                f"description {d.extent} times"
            )
        if not is_literal(p.min, 0) or p.kind not in ("serial", "unrolled"):
            return self.no(f"the loop {p.var.name} is {p.kind} from {p.min}, not serial from 0")
        self.vars[d.var] = p.var
        return self.stmt(d.body, p.body)

    def block(self, d: Block, p: Block) -> bool:
        """The same for two blocks: iterators that the same loops drive belong together."""
        if not is_literal(p.predicate, 1):
            return self.no(f"block {p.name} has the predicate {p.predicate}")
        if p.init is not None or d.init is not None:
            return self.no(f"block {p.name if p.init else d.name} has an init")
        if p.alloc_buffers or p.match_buffers or d.alloc_buffers or d.match_buffers:
            return self.no(f"block {p.name} allocates or views buffers")
        if len(d.iter_vars) != len(p.iter_vars):
            return self.no(
                f"block {p.name} has {len(p.iter_vars)} iterators inside, the description "
                f"{len(d.iter_vars)}"
            )
        left = list(zip(p.iter_vars, p.iter_values, strict=True))
        for iv, value in zip(d.iter_vars, d.iter_values, strict=True):
            wanted = substitute(value, self.vars)
            at = next((k for k, (_, v) in enumerate(left) if not any(minus(v, wanted))), None)
            if at is None:
                return self.no(
                    f"no iterator of block {p.name} runs over {wanted} as {iv.var.name} of the "
                    "description does"
                )
            mine, _ = left.pop(at)
            if mine.kind != iv.kind:
                return self.no(
                    f"the iterator {mine.var.name} of block {p.name} is {mine.kind}, "
                    f"{iv.var.name} of the description is {iv.kind}"
                )
            if const_int(mine.dom.extent) != const_int(iv.dom.extent):
                return self.no(
                    f"the iterator {mine.var.name} of block {p.name} has {mine.dom.extent} values, "
                    f"{iv.var.name} of the description {iv.dom.extent}"
                )
            self.vars[iv.var] = mine.var
        return self.stmt(d.body, p.body)

    def store(self, d: BufferStore, p: BufferStore) -> bool:
        """The same for two stores."""
        if d.predicate is not None or p.predicate is not None:
            return self.no("a store is masked")
        return self.access(d.buffer, d.indices, p.buffer, p.indices) and self.expr(d.value, p.value)

    # ------------------------------------------------------------------ expressions
    def expr(self, d: Expr, p: Expr) -> bool:
        """Is an expression of the program that of the description?"""
        both_load = type(d) is BufferLoad and type(p) is BufferLoad
        if type(d) is not type(p) or (d.dtype != p.dtype and not both_load):
            return self.no(f"{p} stands where the description has {d}")
        match d, p:
            case BufferLoad(), BufferLoad():
                if d.predicate is not None or p.predicate is not None:
                    return self.no("a load is masked")
                return self.access(d.buffer, d.indices, p.buffer, p.indices)
            case BinOp(), BinOp():
                if d.op != p.op:
                    return self.no(f"{p} stands where the description has {d}")
                if d.op not in _EITHER_WAY:
                    return self.expr(d.a, p.a) and self.expr(d.b, p.b)
                return self.either_way(d, p)
            case (IntImm(), IntImm()) if d.value == p.value:
                return True
            case (FloatImm(), FloatImm()) if repr(d.value) == repr(p.value):
                return True
            case Var(), Var():
                if self.vars.get(d) is not p:
                    return self.no(f"{p.name} stands where the description has {d.name}")
                return True
            case (Cast(), Cast()) | (Not(), Not()) | (Select(), Select()) | (Call(), Call()):
                if type(d) is Call and type(p) is Call and d.op != p.op:
                    return self.no(f"{p.op} stands where the description has {d.op}")
                mine, theirs = expr_children(d), expr_children(p)
                return len(mine) == len(theirs) and all(map(self.expr, mine, theirs))
            case _:
                return self.no(f"{p} stands where the description has {d}")

    def either_way(self, d: BinOp, p: BinOp) -> bool:
        """Two operands in one order or the other."""
        windows, count = dict(self.windows), len(self.reasons)
        if self.expr(d.a, p.a) and self.expr(d.b, p.b):
            return True
        found, self.windows = self.reasons[count:], dict(windows)
        if self.expr(d.a, p.b) and self.expr(d.b, p.a):
            del self.reasons[count:]
            return True
        self.windows = windows
        self.reasons[count:] = found
        return False

    def access(self, b: Buffer, indices: Sequence[Expr], of: Buffer, there: Sequence[Expr]) -> bool:
        """Do two accesses agree, the buffer of the description being a window on the other?"""
        if b.dtype != of.dtype:
            return self.no(
                f"buffer {of.name} has dtype {of.dtype}, {b.name} of the description {b.dtype}"
            )
        if b.scope != of.scope:
            return self.no(
                f"buffer {of.name} lives in {of.scope} memory, {b.name} of the description in "
                f"{b.scope}"
            )
        lead = len(there) - len(indices)
        if lead < 0:
            return self.no(
                f"buffer {of.name} has {len(there)} dimensions, {b.name} of the description "
                f"{len(indices)}"
            )
        moving = {v for v in self.vars.values() if type(v) is Var}
        first: list[Expr] = []
        wanted: list[Expr | None] = [None] * lead
        for e, w in zip(there, [*wanted, *indices], strict=True):
            start = e if w is None else from_linear(*minus(e, substitute(w, self.vars)), e.dtype)
            if uses_var(start, moving):
                shown = ", ".join(str(x) for x in indices)
                return self.no(
                    f"the access {of.name}[{', '.join(str(x) for x in there)}] does not run over "
                    f"{of.name} as {b.name}[{shown}] of the description does"
                )
            first.append(start)
        known = self.windows.get(b)
        if known is None:
            self.windows[b] = (of, tuple(first))
            return True
        if known[0] is not of:
            return self.no(f"{b.name} of the description is both {known[0].name} and {of.name}")
        if any(any(minus(x, y)) for x, y in zip(first, known[1], strict=True)):
            return self.no(f"the accesses of {of.name} lie in different windows")
        return True


def _what(s: Stmt) -> str:
    match s:
        case For():
            return f"the loop {s.var.name}"
        case Block():
            return f"block {s.name}"
        case BufferStore():
            return f"a store to {s.buffer.name}"
        case _:
            return f"a {type(s).__name__}"


def body_of(desc: PrimFunc) -> Stmt:
    """What a description does: its body without the blocks that only wrap it."""
    body: Stmt = desc.body
    while type(body) is Block and not body.iter_vars:
        body = body.body
    return body


def written(s: Stmt) -> set[Buffer]:
    """The buffers that are stored to."""
    return {x.buffer for x in walk_stmt(s) if type(x) is BufferStore}


def match_block(block: Block, desc: PrimFunc) -> Match | list[str]:
    """The operands of a description in a block, or why the block is not what is described."""
    if block.init is not None:
        return [f"block {block.name} has an init: decompose_reduction comes first"]
    if block.alloc_buffers or block.match_buffers:
        return [f"block {block.name} allocates or views buffers"]
    m = Matcher()
    if not m.stmt(body_of(desc), block.body):
        return m.reasons or ["it has another structure"]
    return placed(m, desc)


def placed(m: Matcher, desc: PrimFunc) -> Match | list[str]:
    """The regions of a comparison that went well; or why an implementation must not run there."""
    regions: dict[Buffer, BufferRegion] = {}
    stored = written(desc.body)
    for b in desc.buffers:
        found = m.windows.get(b)
        if found is None:
            return [f"the description does not use its buffer {b.name}"]
        of, first = found
        lead = len(first) - len(b.shape)
        ranges = [Range(e, IntImm(1, e.dtype)) for e in first[:lead]]
        for e, n in zip(first[lead:], b.shape, strict=True):
            ranges.append(Range(e, build.cast(e.dtype, n)))
        for other, r in regions.items():
            if r.buffer is of and (other in stored or b in stored):
                return [f"{of.name} is both written and another operand"]
        regions[b] = BufferRegion(of, tuple(ranges))
    return Match(regions)
