"""Is a program well formed?

One walk in program order, one small function a rule. What is checked:

* scope: variables and buffers are used only inside what defines them; loops, iterators, blocks and
  buffers are defined once (code that was duplicated needs fresh objects, see
  `walk.rename_blocks`); a block with iterators does not look at the loops around it;
* counts: indices and regions match the dimensions of their buffer, iterators their bindings;
* dtypes: both sides of an operation agree, what is stored has the dtype of the element, conditions
  are bool, sizes and indices are integers, lanes match;
* form: no nested or short `Seq`, thread axes exactly on thread-bound loops, init only where there
  is something to reduce, views that fit their region.

For graph functions see `check_graph.py`.

Expressions are checked to have a meaning, not that their values are in bounds: that is the
interpreter's question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, assert_never, get_args

from ..errors import CheckError
from . import dtypes
from .check_graph import check_graph
from .graph import Function
from .nodes import (
    COMPARISONS,
    LOGIC,
    Alloc,
    Annotations,
    BinaryOp,
    BinOp,
    Block,
    BlockKey,
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
    ForKind,
    IfThenElse,
    IntImm,
    IRModule,
    IterKind,
    Let,
    LetStmt,
    MatchBuffer,
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
from .ops import MATH, VECTOR

THREAD_AXES = (
    *(f"{group}Idx.{axis}" for group in ("block", "thread") for axis in "xyz"),
    "vthread",
    *(f"vthread.{axis}" for axis in "xyz"),
)
"""The names that a thread-bound loop may have."""

_BINARY_OPS = frozenset(get_args(BinaryOp))
_FOR_KINDS = frozenset(get_args(ForKind))
_ITER_KINDS = frozenset(get_args(IterKind))
_ARITHMETIC = frozenset({"+", "-", "*", "/", "//", "%", "truncmod"})
_INTEGER_ONLY = frozenset({"//", "%", "&", "|", "^", "<<", ">>"})


def check(x: PrimFunc | IRModule | Function) -> None:
    """Check that a program is well formed; a graph function on its own may call what is not there.

    Raises:
        CheckError: the first thing that is not, by name; printing the error draws the program with
            the place marked.
    """
    if isinstance(x, PrimFunc):
        _Checker(x).function()
        return
    if isinstance(x, Function):
        check_graph(x, x.name, None)
        return
    for name in x:
        if not isinstance(name, str) or not name:
            raise CheckError(f"a module has a function under {name!r}", code="function-name")
        if name in x.functions and name in x.graphs:
            raise CheckError(f"a module has two functions named {name!r}", code="function-name")
    for func in x.functions.values():
        _Checker(func).function()
    for name, graph in x.graphs.items():
        check_graph(graph, name, x)


class _Checker:
    """The walk: what is in scope, what was defined before, and where we are."""

    def __init__(self, func: PrimFunc) -> None:
        self.func = func
        self.vars: set[Var] = set()  # in scope
        self.hidden: dict[Var, Block] = {}  # loops around the block that may not see them
        self.buffers: set[Buffer] = set()
        self.defined: set[Var | Buffer | BlockKey] = set()
        self.loops: list[Var] = []
        self.at: Stmt | None = None
        self.blocks: list[Block] = []

    def fail(self, code: str, message: str, hint: str = "") -> NoReturn:
        func, at = self.func, self.at
        where = f", in block {self.blocks[-1].name}" if self.blocks else ""

        def picture() -> str:
            from .show import draw

            try:
                return draw(func, [] if at is None else [at], message)
            except Exception as e:  # what is broken may be broken beyond what can be printed
                return f"(the program cannot be drawn: {type(e).__name__}: {e})"

        raise CheckError(message + where, hint=hint, code=code, draw=picture)

    # ------------------------------------------------------------------ scope
    @contextmanager
    def scope(self) -> Iterator[None]:
        """Forgets on leaving what was defined inside."""
        keep = set(self.vars), set(self.buffers), dict(self.hidden), list(self.loops)
        yield
        self.vars, self.buffers, self.hidden, self.loops = keep

    def define_var(self, v: Var, what: str) -> None:
        if v in self.defined:
            self.fail(
                "defined-twice",
                f"{what} {v.name} is defined twice",
                hint="code that is copied needs fresh variables (walk.rename_blocks)",
            )
        self.defined.add(v)
        self.vars.add(v)

    def define_buffer(self, b: Buffer) -> None:
        if b in self.defined:
            self.fail("defined-twice", f"buffer {b.name} is defined twice")
        if b.dtype not in dtypes.SCALARS:
            self.fail(
                "buffer-dtype",
                f"buffer {b.name} has dtype {b.dtype!r}; known are: {', '.join(dtypes.SCALARS)}",
            )
        for n in b.shape:
            self.integer(n, f"a size of buffer {b.name}")
        if b.strides is not None:
            if len(b.strides) != len(b.shape):
                self.fail(
                    "buffer-strides",
                    f"buffer {b.name} has {len(b.shape)} dimensions and {len(b.strides)} strides",
                )
            for n in b.strides:
                self.integer(n, f"a stride of buffer {b.name}")
        if b.elem_offset is not None:
            self.integer(b.elem_offset, f"the offset of buffer {b.name}")
        self.defined.add(b)
        self.buffers.add(b)

    def bind_sizes(self, b: Buffer) -> None:
        """A parameter or a view binds the variables that stand alone in its shape or layout."""
        for e in (*b.shape, *(b.strides or ()), b.elem_offset):
            if type(e) is Var and e not in self.vars:
                self.define_var(e, "size variable")

    def use_var(self, v: Var) -> None:
        if v in self.vars:
            return
        if v in self.hidden:
            block = self.hidden[v]
            self.fail(
                "outer-loop",
                f"block {block.name} uses the loop variable {v.name} of a loop around it",
                hint="bind the loop to an iterator of the block, and use that",
            )
        self.fail("undefined", f"variable {v.name} is used outside what defines it")

    def use_buffer(self, b: Buffer) -> None:
        if b not in self.buffers:
            self.fail(
                "undefined",
                f"buffer {b.name} is used, but is neither a parameter nor allocated around here",
            )

    # ------------------------------------------------------------------ small rules
    def integer(self, e: Expr, what: str) -> None:
        self.expr(e)
        if not dtypes.is_int(e.dtype) or dtypes.lanes(e.dtype) != 1:
            self.fail("integer", f"{what} must be an integer, got {_text(e)} of dtype {e.dtype}")

    def condition(self, e: Expr, what: str, lanes: int = 1) -> None:
        self.expr(e)
        if e.dtype not in ("bool", dtypes.with_lanes("bool", lanes)):
            self.fail("condition", f"{what} must be bool, got {_text(e)} of dtype {e.dtype}")

    def same_dtype(self, found: str, wanted: str, what: str) -> None:
        if found != wanted:
            self.fail("dtype", f"{what} has dtype {found}, expected {wanted}")

    def indices(self, b: Buffer, indices: Sequence[Expr]) -> None:
        self.use_buffer(b)
        if len(indices) != len(b.shape):
            self.fail(
                "index-count",
                f"buffer {b.name} has {len(b.shape)} dimensions, got {len(indices)} indices",
            )
        lanes = set()
        for k, i in enumerate(indices):
            self.expr(i)
            if not (dtypes.is_int(i.dtype) or dtypes.is_bool(i.dtype)):
                self.fail("integer", f"index {k} of {b.name} has dtype {i.dtype}")
            lanes.add(dtypes.lanes(i.dtype))
        if len(lanes - {1}) > 1:
            self.fail("lanes", f"the indices of {b.name} have {sorted(lanes)} lanes")

    def region(self, r: BufferRegion, what: str) -> None:
        self.use_buffer(r.buffer)
        if len(r.region) != len(r.buffer.shape):
            self.fail(
                "region-rank",
                f"{what} of {r.buffer.name} has {len(r.region)} ranges, the buffer has "
                f"{len(r.buffer.shape)} dimensions",
            )
        for g in r.region:
            self.integer(g.min, f"{what} of {r.buffer.name}")
            self.integer(g.extent, f"{what} of {r.buffer.name}")

    def annotations(self, items: Annotations, what: str) -> None:
        seen = set()
        for key, _ in items:
            if not isinstance(key, str):
                self.fail("annotation", f"{what} has an annotation under {key!r}, not a string")
            if key in seen:
                self.fail("annotation", f"{what} has the annotation {key!r} twice")
            seen.add(key)

    # ------------------------------------------------------------------ function
    def function(self) -> None:
        func = self.func
        table = dict(func.buffer_map)
        for p in func.params:
            self.define_var(p, "parameter")
            if (p.dtype == "handle") != (p in table):
                self.fail(
                    "parameter",
                    f"parameter {p.name} of dtype {p.dtype} has "
                    f"{'a' if p in table else 'no'} buffer",
                    hint="handles carry buffers, numbers do not",
                )
        for p, b in func.buffer_map:
            if p not in func.params:
                self.fail("parameter", f"buffer {b.name} belongs to {p.name}, not a parameter")
            self.bind_sizes(b)
        for _, b in func.buffer_map:
            self.define_buffer(b)
        self.annotations(func.attrs, f"function {func.name}")
        if type(func.body) is not Block or func.body.iter_vars:
            self.fail("root", "the body of a function must be a block without iterators")
        self.stmt(func.body)

    # ------------------------------------------------------------------ statements
    def stmt(self, s: Stmt) -> None:
        self.at = s
        match s:
            case BufferStore():
                self.store(s)
            case For():
                self.loop(s)
            case Block():
                self.block(s)
            case Seq():
                self.sequence(s)
            case IfThenElse():
                self.condition(s.cond, "the condition of an if")
                for side in (s.then, s.orelse):
                    if side is not None:
                        with self.scope():
                            self.stmt(side)
            case LetStmt():
                self.expr(s.value)
                self.same_dtype(s.value.dtype, s.var.dtype, f"the value of {s.var.name}")
                with self.scope():
                    self.define_var(s.var, "variable")
                    self.stmt(s.body)
            case Evaluate():
                self.expr(s.value)
            case Alloc():
                with self.scope():
                    self.define_buffer(s.buffer)
                    self.stmt(s.body)
            case _:
                assert_never(s)

    def store(self, s: BufferStore) -> None:
        self.indices(s.buffer, s.indices)
        self.expr(s.value)
        wanted = dtypes.access_dtype(s.buffer.dtype, s.indices)
        self.same_dtype(s.value.dtype, wanted, f"the value stored to {s.buffer.name}")
        if s.predicate is not None:
            self.condition(s.predicate, "the predicate of a store", dtypes.lanes(wanted))

    def sequence(self, s: Seq) -> None:
        if len(s.items) < 2:
            self.fail("seq", f"a sequence has {len(s.items)} statements", hint="use build.seq")
        for x in s.items:
            if type(x) is Seq:
                self.fail("seq", "a sequence directly holds another one", hint="use build.seq")
        for x in s.items:
            self.stmt(x)

    def loop(self, s: For) -> None:
        name = s.var.name
        self.integer(s.min, f"the start of loop {name}")
        self.integer(s.extent, f"the extent of loop {name}")
        self.same_dtype(s.min.dtype, s.var.dtype, f"the start of loop {name}")
        self.same_dtype(s.extent.dtype, s.var.dtype, f"the extent of loop {name}")
        self.loop_kind(s)
        self.annotations(s.annotations, f"loop {name}")
        with self.scope():
            self.define_var(s.var, "loop variable")
            self.loops.append(s.var)
            self.stmt(s.body)

    def loop_kind(self, s: For) -> None:
        if s.kind not in _FOR_KINDS:
            self.fail("loop-kind", f"loop {s.var.name} has the unknown kind {s.kind!r}")
        if s.kind == "thread_binding" and s.thread not in THREAD_AXES:
            self.fail(
                "thread-axis",
                f"loop {s.var.name} is bound to {s.thread!r}, which is not a thread axis",
                hint=f"known are: {', '.join(THREAD_AXES)}",
            )
        if s.kind != "thread_binding" and s.thread is not None:
            self.fail(
                "thread-axis", f"loop {s.var.name} is {s.kind}, but names the axis {s.thread!r}"
            )

    def block(self, s: Block) -> None:
        self.bindings(s)
        if s.key in self.defined:
            self.fail(
                "defined-twice",
                f"block {s.name} occurs twice",
                hint="code that is copied needs fresh blocks (walk.rename_blocks)",
            )
        self.defined.add(s.key)
        self.annotations(s.annotations, f"block {s.name}")
        self.blocks.append(s)
        with self.scope():
            if s.iter_vars:
                self.hidden.update(dict.fromkeys(self.loops, s))
                self.vars.difference_update(self.loops)
                self.loops = []
            for iv in s.iter_vars:
                self.define_var(iv.var, "iterator")
            for r in s.reads:
                self.region(r, "the read region")
            for r in s.writes:
                self.region(r, "the write region")
            for b in s.alloc_buffers:
                self.define_buffer(b)
            for m in s.match_buffers:
                self.view(m)
            self.init(s)
            self.stmt(s.body)
        self.blocks.pop()

    def bindings(self, s: Block) -> None:
        if len(s.iter_vars) != len(s.iter_values):
            self.fail(
                "bindings",
                f"block {s.name} has {len(s.iter_vars)} iterators, but {len(s.iter_values)} "
                "bindings",
            )
        for iv, value in zip(s.iter_vars, s.iter_values):
            what = f"iterator {iv.var.name} of block {s.name}"
            if iv.kind not in _ITER_KINDS:
                self.fail("iter-kind", f"{what} has the unknown kind {iv.kind!r}")
            self.integer(value, f"the binding of {what}")
            self.same_dtype(value.dtype, iv.var.dtype, f"the binding of {what}")
            self.integer(iv.dom.min, f"the domain of {what}")
            self.integer(iv.dom.extent, f"the domain of {what}")
        self.condition(s.predicate, f"the predicate of block {s.name}")

    def init(self, s: Block) -> None:
        if s.init is None:
            return
        if not any(iv.kind == "reduce" for iv in s.iter_vars):
            self.fail("init", f"block {s.name} has an init, but no reduce iterator")
        with self.scope():
            self.stmt(s.init)
        self.at = s

    def view(self, m: MatchBuffer) -> None:
        b, extents = m.buffer, [g.extent for g in m.source.region]
        self.region(m.source, f"the region of view {b.name}")
        self.bind_sizes(b)
        self.define_buffer(b)
        if b.dtype != m.source.buffer.dtype:
            self.fail("dtype", f"view {b.name} has dtype {b.dtype}, not {m.source.buffer.dtype}")
        drop = len(extents) - len(b.shape)
        kept = zip(b.shape, extents[drop:]) if drop >= 0 else ()
        wrong = drop < 0 or any(type(n) is IntImm and int(n.value) != 1 for n in extents[:drop])
        if wrong or any(
            type(n) is IntImm and type(w) is IntImm and int(n.value) != int(w.value)
            for n, w in kept
        ):
            self.fail(
                "view-shape",
                f"view {b.name} of shape ({_texts(b.shape)}) does not fit its region with extents "
                f"({_texts(extents)}) of {m.source.buffer.name}",
            )

    # ------------------------------------------------------------------ expressions
    def expr(self, e: Expr) -> None:
        match e:
            case Var():
                self.use_var(e)
            case IntImm():
                self.int_constant(e)
            case FloatImm():
                if e.dtype not in dtypes.FLOATS:
                    self.fail("dtype", f"the float constant {e.value} has dtype {e.dtype}")
            case StringImm():
                pass
            case BinOp():
                self.expr(e.a)
                self.expr(e.b)
                self.binop(e)
            case BufferLoad():
                self.indices(e.buffer, e.indices)
                if e.predicate is not None:
                    lanes = dtypes.lanes(e.dtype)
                    self.condition(e.predicate, "the predicate of a load", lanes)
            case Cast():
                self.expr(e.value)
                self.cast(e)
            case Not():
                self.condition(e.a, "the operand of not", dtypes.lanes(e.a.dtype))
            case Select():
                self.expr(e.a)
                self.expr(e.b)
                self.same_dtype(e.b.dtype, e.a.dtype, "the second side of a select")
                self.condition(e.cond, "the condition of a select", dtypes.lanes(e.a.dtype))
            case Call():
                for x in e.args:
                    self.expr(x)
                self.call(e)
            case Ramp():
                self.integer(e.base, "the base of a ramp")
                self.integer(e.stride, "the stride of a ramp")
                self.same_dtype(e.stride.dtype, e.base.dtype, "the stride of a ramp")
                self.lanes(e.lanes, "a ramp")
            case Broadcast():
                self.expr(e.value)
                self.lanes(e.lanes, "a broadcast")
                if dtypes.lanes(e.value.dtype) != 1:
                    self.fail("lanes", f"a broadcast of {_text(e.value)}, which is a vector")
            case Shuffle():
                self.shuffle(e)
            case Let():
                self.let(e)
            case _:
                assert_never(e)

    def int_constant(self, e: IntImm) -> None:
        value = int(e.value)
        if e.dtype == "bool":
            fits = value in (0, 1)
        elif e.dtype == "handle":
            fits = value == 0
        elif e.dtype in dtypes.SIGNED or e.dtype in dtypes.UNSIGNED:
            fits = dtypes.min_value(e.dtype) <= value <= dtypes.max_value(e.dtype)
        else:
            self.fail("dtype", f"the integer constant {value} has dtype {e.dtype}")
        if not fits:
            self.fail("constant-range", f"{e.dtype} cannot hold the constant {value}")

    def binop(self, e: BinOp) -> None:
        if e.op not in _BINARY_OPS:
            self.fail("operator", f"there is no operator {e.op!r}")
        if e.a.dtype != e.b.dtype:
            self.fail(
                "dtype",
                f"the sides of {_text(e)} have dtypes {e.a.dtype} and {e.b.dtype}",
                hint="convert one with astype",
            )
        side, lanes = dtypes.split(e.a.dtype)
        if side == "handle":
            self.fail("dtype", f"{e.op!r} is not defined on handles")
        wanted = dtypes.with_lanes("bool", lanes) if e.op in COMPARISONS else e.a.dtype
        self.same_dtype(e.dtype, wanted, f"the result of {e.op!r}")
        logic, boolean = e.op in LOGIC, side == "bool"
        if (logic and not boolean) or (boolean and e.op in _ARITHMETIC):
            self.fail("dtype", f"{e.op!r} is not defined on {e.a.dtype}")
        if e.op in _INTEGER_ONLY and dtypes.is_float(side):
            self.fail("dtype", f"{e.op!r} is not defined on {e.a.dtype}")

    def cast(self, e: Cast) -> None:
        for dtype in (e.dtype, e.value.dtype):
            if dtypes.scalar(dtype) not in dtypes.SCALARS:
                self.fail("dtype", f"a cast of {e.value.dtype} to {e.dtype}")
        if dtypes.lanes(e.dtype) != dtypes.lanes(e.value.dtype):
            self.fail("lanes", f"a cast of {e.value.dtype} to {e.dtype} changes the lanes")

    def call(self, e: Call) -> None:
        entry = MATH.get(e.op)
        if entry is not None:
            self.arguments(e, entry.arity)
            lanes = dtypes.lanes(e.args[0].dtype)
            wanted = dtypes.with_lanes("bool", lanes) if entry.to_bool else e.args[0].dtype
            self.same_dtype(e.dtype, wanted, f"the result of {e.op}")
            for x in e.args:
                self.same_dtype(x.dtype, e.args[0].dtype, f"an argument of {e.op}")
            found = e.args[0].dtype
            if not (dtypes.is_float(found) or (entry.on_ints and dtypes.is_int(found))):
                self.fail("dtype", f"{e.op} is not defined on {found}")
        elif e.op == "if_then_else":
            self.arguments(e, 3)
            lanes = dtypes.lanes(e.dtype)
            self.condition(e.args[0], "the condition of if_then_else", lanes)
            for x in e.args[1:]:
                self.same_dtype(x.dtype, e.dtype, "a side of if_then_else")
        elif e.op in ("likely", "assume"):
            self.arguments(e, 1)
            self.condition(e.args[0], f"the argument of {e.op}", dtypes.lanes(e.args[0].dtype))
        elif e.op == "call_extern":
            if not e.args or type(e.args[0]) is not StringImm:
                self.fail("call", "call_extern needs the name of a function first")
        elif e.op in VECTOR:
            op = VECTOR[e.op]
            self.arguments(e, len(op.args))
            self.same_dtype(e.dtype, op.result, f"the result of {e.op}")
            for x, dtype in zip(e.args, op.args, strict=True):
                self.same_dtype(x.dtype, dtype, f"an argument of {e.op}")
        elif e.op == "reinterpret":
            self.arguments(e, 1)
            self.reinterpret(e.args[0].dtype, e.dtype)

    def arguments(self, e: Call, count: int) -> None:
        if len(e.args) != count:
            self.fail("call", f"{e.op} takes {count} arguments, got {len(e.args)}")

    def reinterpret(self, src: str, dst: str) -> None:
        for dtype in (src, dst):
            if dtypes.scalar(dtype) not in dtypes.SCALARS:
                self.fail("dtype", f"a reinterpret of {src} as {dst}")
        if dtypes.bits(src) * dtypes.lanes(src) != dtypes.bits(dst) * dtypes.lanes(dst):
            self.fail("dtype", f"a reinterpret of {src} as {dst}: the sizes differ")

    def lanes(self, n: int, what: str) -> None:
        if int(n) < 2:
            self.fail("lanes", f"{what} has {n} lanes", hint="vectors have at least two")

    def shuffle(self, e: Shuffle) -> None:
        if not e.vectors or not e.indices:
            self.fail("shuffle", "a shuffle of nothing")
        total = 0
        for v in e.vectors:
            self.expr(v)
            first, own = dtypes.scalar(e.vectors[0].dtype), dtypes.scalar(v.dtype)
            self.same_dtype(own, first, "a vector of a shuffle")
            total += dtypes.lanes(v.dtype)
        for i in e.indices:
            if not 0 <= int(i) < total:
                self.fail("shuffle", f"a shuffle picks element {i} of {total}")

    def let(self, e: Let) -> None:
        self.expr(e.value)
        self.same_dtype(e.value.dtype, e.var.dtype, f"the value of {e.var.name}")
        if e.var in self.vars:
            self.fail("defined-twice", f"variable {e.var.name} is defined twice")
        self.vars.add(e.var)  # an expression may occur several times, side by side
        self.expr(e.body)
        self.vars.discard(e.var)


def _text(e: Expr) -> str:
    from .show import show

    return show(e)


def _texts(es: Sequence[Expr]) -> str:
    return ", ".join(map(_text, es))
