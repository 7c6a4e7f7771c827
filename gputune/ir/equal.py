"""Do two programs mean the same thing, up to names?

Both questions, equality and hash, are answered by one canonical form: a sequence of tokens in which
variables, buffers, iterators and blocks are numbers, given in the order in which they are bound.
What matters: operations, dtypes, scopes, loop and iterator kinds, constants (floats by their bits
in their dtype), regions, annotations and attributes (their order does not), the names of functions
in a module. What does not: every other name, and a function's "global_symbol" attribute, since a
function is the same workload under another name. Graph functions: see `equal_graph.py`.

Variables and buffers that a fragment uses without binding them are equal only to themselves; the
hash numbers them in order of appearance.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any, TypeAlias, assert_never

import numpy as np

from . import dtypes, graph
from .equal_graph import write_graph
from .flops import flops_by_block
from .nodes import (
    EXPR_CLASSES,
    STMT_CLASSES,
    Alloc,
    Annotations,
    BinOp,
    Block,
    Broadcast,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Call,
    Cast,
    Evaluate,
    Expr,
    FloatImm,
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
    Shuffle,
    Stmt,
    StringImm,
    Var,
)

Program: TypeAlias = PrimFunc | graph.Function | IRModule | Stmt | Expr
Bound: TypeAlias = Var | Buffer | graph.Var

MODES = ("structural", "ignore-tensor", "ignore-ndarray", "anchor-block")


def structural_equal(a: Program, b: Program, mode: str = "structural") -> bool:
    """Are `a` and `b` the same program up to the names of what they bind?

    Args:
        a: a function, module, statement or expression.
        b: another.
        mode: "structural"; "ignore-tensor" (also "ignore-ndarray"), which leaves out the data of
            the constants of graph functions; or "anchor-block", which compares the anchor blocks
            only (see `find_anchor_block`) and falls back to "ignore-tensor" where neither program
            has one.

    Raises:
        ValueError: unknown mode.
        TypeError: an annotation holds an object that has no canonical form.
    """
    _check_mode(mode)
    if a is b:
        return True
    if mode == "anchor-block":
        anchor_a, anchor_b = find_anchor_block(a), find_anchor_block(b)
        if anchor_a is not None and anchor_b is not None:
            return _written(anchor_a, True).out == _written(anchor_b, True).out
        if anchor_a is not None or anchor_b is not None:
            return False
    data = mode == "structural"
    wa, wb = _written(a, data=data), _written(b, data=data)
    return (
        wa.out == wb.out
        and len(wa.free) == len(wb.free)
        and all(x is y for x, y in zip(wa.free, wb.free))
    )


def structural_hash(x: Program, mode: str = "structural") -> str:
    """A digest of 32 hex digits; equal programs (see `structural_equal`) have equal digests.

    The digest is the same in every process and on every Python version.
    """
    _check_mode(mode)
    writer = None
    if mode == "anchor-block":
        anchor = find_anchor_block(x)
        if anchor is not None:
            writer = _written(anchor, True)
    if writer is None:
        writer = _written(x, data=mode == "structural")
    return blake2b(
        " ".join(writer.out).encode("utf-8", "surrogatepass"), digest_size=16
    ).hexdigest()


def find_anchor_block(mod: Program) -> Block | None:
    """The block that decides how a program is tuned: of the blocks with a reduction iterator the
    one that does the most operations, the first of equals; None where there is none."""
    if isinstance(mod, IRModule):
        bodies: list[Stmt] = [f.body for f in mod.functions.values()]
    elif isinstance(mod, PrimFunc):
        bodies = [mod.body]
    elif isinstance(mod, STMT_CLASSES):
        bodies = [mod]
    else:
        bodies = []
    best: Block | None = None
    most = -1.0
    for body in bodies:
        for block, flops in flops_by_block(body):
            if flops > most and any(iv.kind == "reduce" for iv in block.iter_vars):
                best, most = block, flops
    return best


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"unknown module equality {mode!r}; known are: {', '.join(MODES)}")


def _written(x: Program, anchor: bool = False, data: bool = True) -> _Writer:
    w = _Writer(anchor, data)
    if anchor:
        assert isinstance(x, Block)
        w.block_inside(x)
    elif isinstance(x, IRModule):
        w.module(x)
    elif isinstance(x, PrimFunc):
        w.func(x)
    elif isinstance(x, graph.Function):
        write_graph(w, x)
    elif isinstance(x, STMT_CLASSES):
        w.stmt(x)
    elif isinstance(x, EXPR_CLASSES):
        w.expr(x)
    else:
        raise TypeError(f"{type(x).__name__} is not a program, statement or expression")
    return w


def _text(s: str) -> str:
    return f"{len(s)}:{s}"  # the length makes the token unambiguous whatever it contains


def _float_bits(value: float, dtype: str) -> str:
    """The bits of `value` as an element of `dtype`, so that 0.1 and float32(0.1) agree there."""
    if dtype == "float32":
        try:
            return struct.pack("<f", value).hex()
        except OverflowError:  # rounds to infinity
            return struct.pack("<f", np.copysign(np.inf, value)).hex()
    if dtype == "float64":
        return struct.pack("<d", value).hex()
    with np.errstate(all="ignore"):
        bits: bytes = np.float64(value).astype(dtypes.numpy_dtype(dtype)).tobytes()
    return bits.hex()


def _has_text(cls: type) -> bool:
    """Is the text of an object its own (the default one holds an address)?"""
    return any("__repr__" in c.__dict__ or "__str__" in c.__dict__ for c in cls.__mro__[:-1])


class _Writer:
    """Appends the canonical form of what it is given to `out`."""

    __slots__ = ("anchor", "count", "data", "free", "ids", "out")

    def __init__(self, anchor: bool, data: bool) -> None:
        self.out: list[str] = []
        self.ids: dict[Bound, str] = {}
        self.free: list[Bound] = []
        self.count = 0  # of names given; not len(ids), as an object may be bound twice
        self.anchor = anchor  # of buffers only dtype and shape count
        self.data = data  # of constants the elements count too

    # ------------------------------------------------------------------ what is bound
    def bind(self, x: Bound) -> None:
        """Give `x` the next number."""
        self.ids[x] = f"#{self.count}"
        self.count += 1

    def meet(self, x: Bound) -> str:
        """The token of what is used without having been bound."""
        token = self.ids[x] = f"?{self.count}"
        self.count += 1
        self.free.append(x)
        return token

    def bind_var(self, v: Var) -> None:
        self.out.append(v.dtype)
        self.bind(v)

    def var(self, v: Var) -> None:
        token = self.ids.get(v)
        if token is None:
            self.out.append(v.dtype)
            token = self.meet(v)
        self.out.append(token)

    def buffer(self, b: Buffer) -> None:
        token = self.ids.get(b)
        if token is None:
            self.contents(b)
            token = self.meet(b)
        self.out.append(token)

    def bind_buffer(self, b: Buffer, binds_vars: bool = False) -> None:
        """A parameter or view also binds the variables that stand alone in its shape or layout."""
        if binds_vars:
            for e in (*b.shape, *(b.strides or ()), b.elem_offset):
                if type(e) is Var and e not in self.ids:
                    self.bind_var(e)
        self.contents(b)
        self.bind(b)

    def contents(self, b: Buffer) -> None:
        self.out += ("buffer", b.dtype)
        self.exprs(b.shape)
        if self.anchor:
            return
        self.out += (_text(b.scope), str(b.align))
        self.optional(b.strides, self.exprs)
        self.optional(b.elem_offset, self.expr)

    # ------------------------------------------------------------------ pieces
    def optional(self, x: Any, write: Callable[[Any], None]) -> None:
        if x is None:
            self.out.append("none")
        else:
            self.out.append("some")
            write(x)

    def exprs(self, es: Iterable[Expr]) -> None:
        es = tuple(es)
        self.out.append(f"{len(es)}(")
        for e in es:
            self.expr(e)

    def region(self, r: BufferRegion) -> None:
        self.buffer(r.buffer)
        self.out.append(f"{len(r.region)}[")
        for g in r.region:
            self.expr(g.min)
            self.expr(g.extent)

    def text(self, s: str) -> str:
        """The token of a text."""
        return _text(s)

    def pairs(self, items: Annotations) -> None:
        """Attributes, in the order of their names."""
        self.out.append(f"{len(items)}" + "{")
        for key, value in sorted(items, key=lambda kv: kv[0]):
            self.out.append(_text(key))
            self.value(value, key)

    def value(self, v: Any, key: str) -> None:
        """An annotation or attribute; a Python number is the constant that it would become."""
        if isinstance(v, EXPR_CLASSES):
            self.expr(v)
        elif isinstance(v, str):
            self.expr(StringImm(v))
        elif isinstance(v, (bool, np.bool_)):
            self.expr(IntImm(int(v), "bool"))
        elif isinstance(v, (int, np.integer)):
            value = int(v)
            self.expr(IntImm(value, "int32" if -(2**31) <= value < 2**31 else "int64"))
        elif isinstance(v, (float, np.floating)):
            self.expr(FloatImm(float(v), "float32"))
        elif v is None:
            self.out.append("none")
        elif isinstance(v, Buffer):
            self.buffer(v)
        elif isinstance(v, PrimFunc):
            self.func(v)
        elif isinstance(v, (list, tuple)):
            self.out.append(f"{len(v)}[")
            for x in v:
                self.value(x, key)
        elif isinstance(v, Mapping):
            self.pairs(tuple(v.items()))
        elif dataclasses.is_dataclass(v):
            self.out.append(type(v).__name__)
            self.pairs(tuple((f.name, getattr(v, f.name)) for f in dataclasses.fields(v)))
        elif _has_text(type(v)):
            self.out += (type(v).__name__, _text(str(v)))
        else:
            raise TypeError(
                f"annotation {key!r} holds a {type(v).__name__}, which has no canonical form; "
                "use numbers, strings, lists, expressions or dataclasses"
            )

    # ------------------------------------------------------------------ expressions
    def expr(self, e: Expr) -> None:
        out = self.out
        t = type(e)
        if t is Var:
            self.var(e)  # type: ignore[arg-type]  # t is the class of e
            return
        match e:
            case IntImm():
                out += (e.dtype, str(int(e.value)))
            case BinOp():
                out += (e.op, e.dtype)
                self.expr(e.a)
                self.expr(e.b)
            case BufferLoad():
                out.append("load")
                self.buffer(e.buffer)
                self.exprs(e.indices)
                self.optional(e.predicate, self.expr)
            case FloatImm():
                out += (e.dtype, _float_bits(e.value, e.dtype))
            case StringImm():
                out += ("text", _text(e.value))
            case Cast():
                out += ("cast", e.dtype)
                self.expr(e.value)
            case Not():
                out.append("not")
                self.expr(e.a)
            case Select():
                out.append("select")
                self.expr(e.cond)
                self.expr(e.a)
                self.expr(e.b)
            case Call():
                out += ("call", _text(e.op), e.dtype)
                self.exprs(e.args)
            case Ramp():
                out += ("ramp", str(int(e.lanes)))
                self.expr(e.base)
                self.expr(e.stride)
            case Broadcast():
                out += ("broadcast", str(int(e.lanes)))
                self.expr(e.value)
            case Shuffle():
                out.append("shuffle")
                self.exprs(e.vectors)
                out.append(",".join([str(int(i)) for i in e.indices]))
            case Let():
                out.append("let")
                self.expr(e.value)
                self.bind_var(e.var)
                self.expr(e.body)
            case Var():
                pass  # done above
            case _:
                assert_never(e)

    # ------------------------------------------------------------------ statements
    def stmt(self, s: Stmt) -> None:
        out = self.out
        match s:
            case BufferStore():
                out.append("store")
                self.buffer(s.buffer)
                self.exprs(s.indices)
                self.expr(s.value)
                self.optional(s.predicate, self.expr)
            case For():
                out += ("for", s.kind, s.thread or "-")
                self.expr(s.min)
                self.expr(s.extent)
                self.bind_var(s.var)
                self.pairs(s.annotations)
                self.stmt(s.body)
            case Block():
                out.append("realize")
                self.exprs(s.iter_values)
                self.expr(s.predicate)
                self.block_inside(s)
            case Seq():
                out.append(f"{len(s.items)};")
                for x in s.items:
                    self.stmt(x)
            case IfThenElse():
                out.append("if")
                self.expr(s.cond)
                self.stmt(s.then)
                self.optional(s.orelse, self.stmt)
            case LetStmt():
                out.append("let")
                self.expr(s.value)
                self.bind_var(s.var)
                self.stmt(s.body)
            case Evaluate():
                out.append("evaluate")
                self.expr(s.value)
            case Alloc():
                out.append("alloc")
                self.bind_buffer(s.buffer)
                self.stmt(s.body)
            case _:
                assert_never(s)

    def block_inside(self, s: Block) -> None:
        """A block without the point at which it is run."""
        out = self.out
        out.append(f"block{len(s.iter_vars)}")
        for iv in s.iter_vars:
            out.append(iv.kind)
            self.expr(iv.dom.min)
            self.expr(iv.dom.extent)
        for iv in s.iter_vars:
            self.bind_var(iv.var)
        out.append(str(len(s.alloc_buffers)))
        for b in s.alloc_buffers:
            self.bind_buffer(b)
        for group in (s.reads, s.writes):
            out.append(str(len(group)))
            for r in group:
                self.region(r)
        out.append(str(len(s.match_buffers)))
        for m in s.match_buffers:
            self.region(m.source)
            self.bind_buffer(m.buffer, binds_vars=True)
        self.pairs(s.annotations)
        self.optional(s.init, self.stmt)
        self.stmt(s.body)

    # ------------------------------------------------------------------ functions
    def func(self, f: PrimFunc) -> None:
        table = dict(f.buffer_map)
        self.out.append(f"func{len(f.params)}")
        for p in f.params:
            self.bind_var(p)
        for p in f.params:
            self.optional(table.get(p), lambda b: self.bind_buffer(b, binds_vars=True))
        self.pairs(tuple(kv for kv in f.attrs if kv[0] != "global_symbol"))
        self.stmt(f.body)

    def module(self, m: IRModule) -> None:
        self.out.append(f"module{len(m.functions)}")
        for name in sorted(m.functions):
            self.out.append(_text(name))
            self.func(m.functions[name])
        for name in sorted(m.graphs):
            self.out.append(_text(name))
            write_graph(self, m.graphs[name])
        self.pairs(m.attrs)
