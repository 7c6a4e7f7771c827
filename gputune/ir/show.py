"""What does a program look like? Every node as script text; what is printed parses back.

`script` prints whole programs, `show` any part, `draw` a program with places marked, `html` for
notebooks. `gputune.script` reads the text back to a structurally equal program; where a pretty form
would lose something (a mixed dtype, an unfolded constant), an explicit one is printed instead.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from html import escape
from typing import assert_never

from . import walk
from .graph import Function
from .nodes import (
    EXPR_CLASSES,
    Alloc,
    Block,
    Buffer,
    BufferRegion,
    BufferStore,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    IntImm,
    IRModule,
    IterVar,
    LetStmt,
    MatchBuffer,
    PrimFunc,
    Range,
    Seq,
    Stmt,
    Var,
)
from .show_graph import graph_lines
from .text import Writer, is_zero, legal_name, string_literal, typed

_INDENT = "    "

_LOOP_CALL = {
    "serial": "T.serial",
    "parallel": "T.parallel",
    "vectorized": "T.vectorized",
    "unrolled": "T.unroll",
    "thread_binding": "T.thread_binding",
}


# ----------------------------------------------------------------------------- public
def show(node: object) -> str:
    """Any expression, statement, region, range, buffer or whole program as text.

    Names are those of the variables, made unique. Example: `show(i * 4 + j)` is "i * 4 + j".
    """
    if isinstance(node, (PrimFunc, IRModule, Function)):
        return script(node)
    p = _Printer()
    if isinstance(node, EXPR_CLASSES):
        return p.expr(node)
    match node:
        case Buffer():
            return f"{p.name(node)}: T.Buffer({p.buffer_args(node, dtype_always=True)})"
        case BufferRegion():
            return p.region(node)
        case Range():
            return p.range_text(node)
        case IterVar():
            return f"{p.name(node.var)} in {p.dom(node.dom)} ({node.kind})"
        case MatchBuffer():
            p.match_buffer(node)
        case BufferStore() | For() | Block() | Seq() | IfThenElse() | LetStmt() | Evaluate():
            p.suite(node)
        case Alloc():
            p.suite(node)
        case _:
            raise TypeError(f"cannot show a {type(node).__name__}; it is not part of a program")
    return "\n".join(p.lines)


def script(program: PrimFunc | IRModule | Function, show_data: bool = True) -> str:
    """The whole program as script text, ending in a newline.

    Without `show_data` the elements of large constants are left out: for reading only. Raises
    TypeError where an annotation holds an object that no script can express.
    """
    p = _Printer()
    if isinstance(program, IRModule):
        p.module(program, show_data)
    elif isinstance(program, Function):
        p.lines += graph_lines(program, None, "", show_data)
    else:
        p.function(program, None)
    p.lines.append("")
    return "\n".join(p.lines)


def draw(func: PrimFunc, marked: Sequence[object], note: str = "") -> str:
    """The program with marked lines prefixed by "> " and all others by two spaces.

    `marked` holds loops (the `For` or its `Var`), blocks (the `Block` or its key), or any other
    statement node. `note` is written behind the first marked line. A marked loop is never merged
    with its neighbours into one `T.grid`.
    """
    p = _Printer(marked=frozenset(id(m) for m in marked), lenient=True)
    p.function(func, None)
    out = []
    for k, line in enumerate(p.lines):
        if k not in p.hits:
            out.append(f"  {line}" if line else "")
            continue
        out.append(f"> {line}  # {note}" if note else f"> {line}")
        note = ""
    return "\n".join(out)


_TOKEN = re.compile(
    r"(?P<comment>\#[^\n]*)|(?P<string>\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')"
    r"|(?P<word>[A-Za-z_]\w*)|(?P<number>\d[\w.]*)|(?P<other>\s+|.)"
)


_COLORS = {"comment": "#6a737d", "string": "#22863a", "number": "#005cc5", "keyword": "#d73a49"}


def html(text: str) -> str:
    """Script text as escaped HTML in one <pre>, with comments, strings, numbers and keywords
    coloured."""
    parts = ["<pre>"]
    for m in _TOKEN.finditer(text):
        kind, body = m.lastgroup or "other", escape(m.group())
        if kind == "word" and keyword.iskeyword(m.group()):
            kind = "keyword"
        color = _COLORS.get(kind)
        parts.append(f'<span style="color:{color}">{body}</span>' if color else body)
    parts.append("</pre>")
    return "".join(parts)


class _Printer(Writer):
    """Lines so far, and where the marked nodes came out."""

    __slots__ = ("hits", "lines", "loops", "marked", "pad")

    def __init__(self, marked: frozenset[int] = frozenset(), lenient: bool = False) -> None:
        super().__init__(lenient)
        self.lines: list[str] = []
        self.pad = ""
        self.loops: dict[Var, For] = {}
        self.marked = marked
        self.hits: set[int] = set()

    # -- lines
    def line(self, text: str, *nodes: object) -> None:
        """One line; `nodes` are what it stands for, if someone wants them marked."""
        if self.marked and any(id(n) in self.marked for n in nodes):
            self.hits.add(len(self.lines))
        self.lines.append(self.pad + text)

    def nested(self, s: Stmt) -> None:
        pad = self.pad
        self.pad = pad + _INDENT
        self.suite(s)
        self.pad = pad

    # -- programs
    def module(self, m: IRModule, show_data: bool) -> None:
        self.line("@I.ir_module")
        self.line("class Module:")
        self.pad = _INDENT
        if m.attrs:
            self.line(f"I.module_attrs({self.annotations(m.attrs)})")
        if not m.functions and not m.graphs and not m.attrs:
            self.line("pass")
        for k, (name, func) in enumerate(m.functions.items()):
            if k or m.attrs:
                self.lines.append("")
            self.function(func, name)
        for k, (name, graph) in enumerate(m.graphs.items()):
            if k or m.attrs or m.functions:
                self.lines.append("")
            self.lines += graph_lines(graph, name, self.pad, show_data)
        self.pad = ""

    def function(self, f: PrimFunc, key: str | None) -> None:
        """`key` is the name in the module, or None for a function on its own."""
        mark, pad = len(self.scope), self.pad
        attrs = dict(f.attrs)
        wanted = f.name if key is None else key
        name = legal_name(wanted)
        options = []
        if "global_symbol" not in attrs:
            options.append("private=True")
        if key is not None and name != key:
            options.append(f"name={string_literal(key)}")
        self.line(f"@T.prim_func({', '.join(options)})" if options else "@T.prim_func")
        table = dict(f.buffer_map)
        plain = {p for p, b in table.items() if _is_plain_param(b)}
        for p in f.params:
            if p in table:
                self.bind(table[p])
        parts = []
        for p in f.params:
            if p in plain:
                b = table[p]
                args = self.buffer_args(b, dtype_always=True)
                parts.append(f"{self.names[b]}: T.Buffer({args})")
            else:
                clash = p in table and legal_name(p.name) in self.active
                parts.append(f"{self.bind(p, p.name + '_handle' if clash else '')}: T.{p.dtype}")
        self.line(f"def {name}({', '.join(parts)}):")
        self.pad = pad + _INDENT
        if f.attrs:
            self.line(f"T.func_attr({self.annotations(f.attrs)})")
        for p in f.params:
            if p in table and p not in plain:
                b = table[p]
                self.declare_symbols(b)
                args = self.buffer_args(b, dtype_always=True)
                self.line(f"{self.names[b]} = T.match_buffer({self.names[p]}, {args})")
        self.root(f.body)
        self.pad = pad
        self.release(mark)

    def root(self, b: Block) -> None:
        inner = b.body
        plain = (
            b.name == "root"
            and not (b.iter_vars or b.reads or b.writes or b.match_buffers)
            and b.init is None
            and type(b.predicate) is IntImm
            and int(b.predicate.value) == 1
            and not (type(inner) is Block and inner.name == "root")
        )
        if not plain:
            self.block(b)
            return
        self.line('# with T.block("root"):', b, b.key)
        mark = len(self.scope)
        if b.annotations:
            self.line(f"T.block_attr({self.annotations(b.annotations)})")
        for buf in b.alloc_buffers:
            self.alloc_buffer(buf)
        self.suite(inner)
        self.release(mark)

    # -- statements
    def suite(self, s: Stmt) -> None:
        """`s` as all that stands at this indentation: a let or an allocation at the end of the
        suite needs no indentation of its own."""
        mark = len(self.scope)
        while True:
            if type(s) is Seq:
                for x in s.items[:-1]:
                    self.stmt(x)
                s = s.items[-1]
            elif type(s) is LetStmt:
                value = self.expr(s.value)
                self.line(f"{self.bind(s.var)}: T.{s.var.dtype} = {value}", s)
                s = s.body
            elif type(s) is Alloc:
                self.declare_symbols(s.buffer)
                args = self.buffer_args(s.buffer)
                self.line(f"{self.bind(s.buffer)} = T.decl_buffer({args})", s)
                s = s.body
            else:
                self.stmt(s)
                break
        self.release(mark)

    def stmt(self, s: Stmt) -> None:
        match s:
            case BufferStore():
                self.store(s)
            case For():
                self.loop(s)
            case Block():
                self.block(s)
            case Seq():
                for x in s.items:
                    self.stmt(x)
            case IfThenElse():
                self.branch(s)
            case LetStmt():
                mark, value = len(self.scope), self.expr(s.value)
                self.line(f"with T.LetStmt({value}) as {self.bind(s.var)}:", s)
                self.nested(s.body)
                self.release(mark)
            case Evaluate():
                self.line(f"T.evaluate({self.expr(s.value)})", s)
            case Alloc():
                mark = len(self.scope)
                self.declare_symbols(s.buffer)
                args = self.buffer_args(s.buffer)
                self.line(f"with T.decl_buffer({args}) as {self.bind(s.buffer)}:", s)
                self.nested(s.body)
                self.release(mark)
            case _:
                assert_never(s)

    def store(self, s: BufferStore) -> None:
        value = self.expr(s.value)
        if s.buffer.dtype != "int32":
            value = typed(s.value, value)
        if s.predicate is None:
            self.line(f"{self.name(s.buffer)}[{self.indices(s.indices)}] = {value}", s)
            return
        where = f"[{', '.join([self.expr(i) for i in s.indices])}]"
        mask = self.expr(s.predicate)
        self.line(f"{self.name(s.buffer)}.vstore({where}, {value}, predicate={mask})", s)

    def branch(self, s: IfThenElse) -> None:
        word = "if"
        while True:
            self.line(f"{word} {self.expr(s.cond)}:", s)
            self.nested(s.then)
            if type(s.orelse) is not IfThenElse:
                break
            s, word = s.orelse, "elif"
        if s.orelse is not None:
            self.line("else:")
            self.nested(s.orelse)

    def loop(self, s: For) -> None:
        mark, pad = len(self.scope), self.pad
        group = self.grid(s)
        if len(group) > 1 or _is_grid_loop(s):
            extents = ", ".join([self.expr(x.extent) for x in group])
            head = "range" if len(group) == 1 else "T.grid"
            names = ", ".join([self.bind(x.var) for x in group])
            self.line(f"for {names} in {head}({extents}):", *group, *[x.var for x in group])
        else:
            args = self.loop_args(s)
            self.line(f"for {self.bind(s.var)} in {args}:", s, s.var)
        for x in group:
            self.loops[x.var] = x
        self.nested(group[-1].body)
        for x in group:
            del self.loops[x.var]
        self.pad = pad
        self.release(mark)

    def grid(self, s: For) -> list[For]:
        """`s` and the loops directly inside it that one `T.grid` can print."""
        group, taken = [s], {s.var}
        if not _is_grid_loop(s) or self.is_marked(s):
            return group
        x = s.body
        while type(x) is For and _is_grid_loop(x) and not self.is_marked(x):
            if x.var in taken or (type(x.extent) is not IntImm and walk.uses_var(x.extent, taken)):
                break
            group.append(x)
            taken.add(x.var)
            x = x.body
        return group

    def is_marked(self, s: For) -> bool:
        return bool(self.marked) and (id(s) in self.marked or id(s.var) in self.marked)

    def loop_args(self, s: For) -> str:
        dtype = s.extent.dtype
        args = []
        if s.var.dtype != dtype or s.min.dtype != dtype:
            args.append(typed(s.min, self.expr(s.min)))
            args.append(f"extent={typed(s.extent, self.expr(s.extent))}")
            args.append(f"dtype={string_literal(s.var.dtype)}")
        elif is_zero(s.min, dtype):
            args.append(self.expr(s.extent))
        else:
            bounds = self.bounds(s.min, s.extent)
            if bounds is None:
                args += [self.expr(s.min), f"extent={self.expr(s.extent)}"]
            else:
                args += bounds
        if s.thread is not None:
            args.append(f"thread={string_literal(s.thread)}")
        if s.annotations:
            args.append(f"annotations={self.annotations(s.annotations)}")
        return f"{_LOOP_CALL[s.kind]}({', '.join(args)})"

    def block(self, b: Block) -> None:
        self.line(f"with T.block({string_literal(b.name)}):", b, b.key)
        mark, pad = len(self.scope), self.pad
        self.pad = pad + _INDENT
        self.iterators(b)
        if not (type(b.predicate) is IntImm and int(b.predicate.value) == 1):
            self.line(f"T.where({self.expr(b.predicate)})")
        self.line(f"T.reads({', '.join([self.region(r) for r in b.reads])})")
        self.line(f"T.writes({', '.join([self.region(r) for r in b.writes])})")
        if b.annotations:
            self.line(f"T.block_attr({self.annotations(b.annotations)})")
        for buf in b.alloc_buffers:
            self.alloc_buffer(buf)
        for m in b.match_buffers:
            self.match_buffer(m)
        if b.init is not None:
            self.line("with T.init():")
            self.nested(b.init)
        self.suite(b.body)
        self.pad = pad
        self.release(mark)

    def iterators(self, b: Block) -> None:
        pairs = list(zip(b.iter_vars, b.iter_values))
        if len(pairs) > 1 and all([self.is_remap(iv, v) for iv, v in pairs]):
            kinds = "".join(["S" if iv.kind == "spatial" else "R" for iv, _ in pairs])
            values = ", ".join([self.expr(v) for _, v in pairs])
            names = ", ".join([self.bind(iv.var) for iv, _ in pairs])
            self.line(f'{names} = T.axis.remap("{kinds}", [{values}])')
            return
        for iv, v in pairs:
            dom, value = self.dom(iv.dom), self.expr(v)
            if iv.dom.extent.dtype != v.dtype:  # bare numbers would take the other side's dtype
                dom, value = self.exact_range(iv.dom), typed(v, value)
            tail = "" if iv.var.dtype == iv.dom.extent.dtype else f', dtype="{iv.var.dtype}"'
            self.line(f"{self.bind(iv.var)} = T.axis.{iv.kind}({dom}, {value}{tail})")

    def is_remap(self, iv: IterVar, value: Expr) -> bool:
        if type(value) is not Var or iv.kind not in ("spatial", "reduce"):
            return False
        loop = self.loops.get(value)
        return (
            loop is not None
            and iv.var.dtype == value.dtype == loop.extent.dtype
            and is_zero(loop.min, value.dtype)
            and is_zero(iv.dom.min, value.dtype)
            and _same_extent(iv.dom.extent, loop.extent)
        )

    # -- buffers
    def alloc_buffer(self, b: Buffer) -> None:
        args = self.buffer_args(b)
        self.line(f"{self.bind(b)} = T.alloc_buffer({args})", b)

    def match_buffer(self, m: MatchBuffer) -> None:
        source = self.region(m.source)
        self.declare_symbols(m.buffer)
        args = self.buffer_args(m.buffer, dtype_always=True)
        self.line(f"{self.bind(m.buffer)} = T.match_buffer({source}, {args})", m)

    def declare_symbols(self, b: Buffer) -> None:
        """`n = T.int32()` for variables that the layout of `b` brings in."""
        layout = list(b.shape) + list(b.strides or ())
        if b.elem_offset is not None:
            layout.append(b.elem_offset)
        for e in layout:
            if type(e) is IntImm:
                continue
            for x in walk.walk_expr(e):
                if type(x) is Var and x not in self.names:
                    self.line(f"{self.bind(x)} = T.{x.dtype}()")


def _same_extent(a: Expr, b: Expr) -> bool:
    if a is b:
        return True
    if type(a) is IntImm and type(b) is IntImm:
        return a.dtype == b.dtype and int(a.value) == int(b.value)
    return False


def _is_grid_loop(s: For) -> bool:
    dtype = s.extent.dtype
    return (
        s.kind == "serial"
        and not s.annotations
        and s.thread is None
        and s.var.dtype == dtype
        and is_zero(s.min, dtype)
    )


def _is_plain_param(b: Buffer) -> bool:
    return (
        b.scope == "global"
        and b.strides is None
        and b.elem_offset is None
        and not b.align
        and all([type(s) is IntImm for s in b.shape])
    )
