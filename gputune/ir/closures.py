"""How does a program become Python closures?

Each node becomes a function of `env`, a list with one slot for each variable and buffer; slot 0 is
the current vector lane and slot 1 a cell that rounds to float32. A vector expression is code for
one lane. The meaning of it all is told in interp.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, assert_never

from ..errors import RunError
from . import dtypes, scalar
from .access import (
    LANE,
    Code,
    Env,
    Window,
    const_shape,
    dynamic_position,
    row_major,
    static_position,
    within,
)
from .build import is_literal
from .fast import FLOAT, affine, affine_form, compare
from .nodes import (
    LOGIC,
    Alloc,
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
from .ops import MATH, VECTOR, VectorOp
from .regions import HIDDEN

_FIRST_SLOT = 2


@dataclass(frozen=True, slots=True)
class BufferParam:
    """A parameter buffer as the program wants it."""

    buffer: Buffer
    slot: int
    static: bool  # the slot holds a list, not a Window
    written: bool
    binds: tuple[tuple[str, int, int], ...]
    """Which sizes the array decides: ("shape" or "strides" or "offset", dimension, slot)."""
    shape: tuple[Code, ...]
    strides: tuple[Code, ...] | None
    offset: Code | None


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled function: `scalars` and `buffers` by position of the parameter."""

    name: str
    params: tuple[str, ...]
    scalars: tuple[tuple[int, Var, int], ...]
    buffers: tuple[tuple[int, BufferParam], ...]
    slots: int
    body: Code


@lru_cache(maxsize=64)
def compiled(func: PrimFunc, check_regions: bool) -> Program:
    """The function as closures. RunError where it holds what has no meaning."""
    c = _Compiler(check_regions)
    table = dict(func.buffer_map)
    scalars = tuple((k, p, c.new(p)) for k, p in enumerate(func.params) if p not in table)
    makers = [(k, c.param(table[p])) for k, p in enumerate(func.params) if p in table]
    body = c.stmt(func.body)
    return Program(
        name=func.name,
        params=tuple(table[p].name if p in table else p.name for p in func.params),
        scalars=scalars,
        buffers=tuple((k, make()) for k, make in makers),
        slots=c.count,
        body=body,
    )


def _bare_vars(b: Buffer) -> list[Var]:
    """The variables that a parameter or a view binds: those alone in its shape or layout."""
    return [e for e in (*b.shape, *(b.strides or ()), b.elem_offset) if type(e) is Var]


class _Compiler:
    """Turns nodes into closures."""

    def __init__(self, check_regions: bool) -> None:
        self.slots: dict[Var | Buffer, int] = {}
        self.count = _FIRST_SLOT
        self.static: dict[Buffer, tuple[int, ...]] = {}  # buffers of constant shape, not views
        self.written: set[Buffer] = set()
        self.views: dict[Buffer, MatchBuffer] = {}
        self.view_vars: set[Var] = set()
        self.check_regions = check_regions
        self.blocks: list[Block] = []
        self.cells: list[int] = []  # of the statement at hand: values to be computed anew

    # ------------------------------------------------------------------ parameters
    def param(self, b: Buffer) -> Callable[[], BufferParam]:
        """Makes room for a parameter; the rest is known when the body has been compiled and all
        parameters have slots."""
        slot = self.new_buffer(b)
        facts: list[tuple[str, int, Expr | None]] = [("shape", k, n) for k, n in enumerate(b.shape)]
        facts += [("strides", k, n) for k, n in enumerate(b.strides or ())]
        facts.append(("offset", 0, b.elem_offset))
        binds = [
            (what, k, self.new(e)) for what, k, e in facts if type(e) is Var and e not in self.slots
        ]
        return lambda: BufferParam(
            buffer=b,
            slot=slot,
            static=b in self.static,
            written=b in self.written,
            binds=tuple(binds),
            shape=tuple(self.exprs(b.shape)),
            strides=None if b.strides is None else tuple(self.exprs(b.strides)),
            offset=None if b.elem_offset is None else self.expr(b.elem_offset),
        )

    # ------------------------------------------------------------------ slots
    def new(self, x: Var | Buffer) -> int:
        slot = self.slots[x] = self.count
        self.count += 1
        return slot

    def new_buffer(self, b: Buffer) -> int:
        if dtypes.scalar(b.dtype) not in dtypes.SCALARS or dtypes.lanes(b.dtype) != 1:
            raise RunError(f"buffer {b.name} has element dtype {b.dtype}", code="buffer-dtype")
        shape = const_shape(b)
        if shape is not None:
            self.static[b] = shape
        return self.new(b)

    def slot(self, x: Var | Buffer) -> int:
        try:
            return self.slots[x]
        except KeyError:
            kind = "buffer" if isinstance(x, Buffer) else "variable"
            raise RunError(
                f"{kind} {x.name} is used where it is not defined, in {self.where}",
                code="undefined",
            ) from None

    @property
    def where(self) -> str:
        """The innermost block, for messages."""
        return f"block {self.blocks[-1].name}" if self.blocks else "the function"

    # ------------------------------------------------------------------ expressions
    def exprs(self, es: Sequence[Expr]) -> list[Code]:
        return [self.expr(e) for e in es]

    def expr(self, e: Expr) -> Code:
        """Code for the value of `e`; of a vector, for the lane in slot 0."""
        match e:
            case Var():
                slot = self.slot(e)
                if dtypes.lanes(e.dtype) == 1:
                    return lambda env: env[slot]
                return lambda env: env[slot][env[LANE]]
            case IntImm():
                number = (
                    bool(int(e.value)) if e.dtype == "bool" else scalar.wrap(e.dtype)(int(e.value))
                )
                return lambda env: number
            case FloatImm():
                real = scalar.cast("float64", e.dtype)(e.value)
                return lambda env: real
            case StringImm():
                text = e.value
                return lambda env: text
            case BinOp():
                return self.binop(e)
            case BufferLoad():
                return self.load(e)
            case Cast():
                value, to = self.expr(e.value), scalar.cast(e.value.dtype, e.dtype)
                return lambda env: to(value(env))
            case Not():
                a = self.expr(e.a)
                return lambda env: not a(env)
            case Select():
                return _choice(*self.exprs((e.cond, e.a, e.b)))
            case Call():
                return self.call(e)
            case Ramp():
                base, stride = self.expr(e.base), self.expr(e.stride)
                fit = scalar.wrap(e.base.dtype)
                return lambda env: fit(base(env) + env[LANE] * stride(env))
            case Broadcast():
                return self.expr(e.value)
            case Shuffle():
                return self.shuffle(e)
            case Let():
                value = self.lanes(e.value)
                slot = self.new(e.var)
                body = self.expr(e.body)

                def let(env: Env) -> Any:
                    env[slot] = value(env)
                    return body(env)

                return let
            case _:
                assert_never(e)

    def lanes(self, e: Expr) -> Code:
        """Code for a whole value: a number, or the tuple of the lanes of a vector."""
        code, n = self.expr(e), dtypes.lanes(e.dtype)
        if n == 1:
            return code

        def vector(env: Env) -> Any:
            keep = env[LANE]
            out = []
            for env[LANE] in range(n):
                out.append(code(env))
            env[LANE] = keep
            return tuple(out)

        return vector

    def shuffle(self, e: Shuffle) -> Code:
        source = [
            (code, lane)
            for code, v in zip(self.exprs(e.vectors), e.vectors)
            for lane in range(dtypes.lanes(v.dtype))
        ]
        picks = [source[int(i)] for i in e.indices]
        single = len(picks) == 1

        def shuffled(env: Env) -> Any:
            keep = env[LANE]
            code, env[LANE] = picks[0 if single else keep]
            out = code(env)
            env[LANE] = keep
            return out

        return shuffled

    def binop(self, e: BinOp) -> Code:
        dtype = dtypes.scalar(e.a.dtype)
        if e.op in ("+", "-", "*") and dtypes.is_int(dtype):
            form = affine_form(e)
            if form is not None:
                terms = [(self.slot(v), f) for v, f in form[0].items()]
                return affine(terms, form[1], dtype)
        a, b = self.expr(e.a), self.expr(e.b)
        if e.op in LOGIC:
            if e.op == "and":
                return lambda env: a(env) and b(env)
            return lambda env: a(env) or b(env)
        if dtype in ("float32", "float64") and e.op in FLOAT:
            return FLOAT[e.op](a, b, dtype == "float32")
        fast = compare(e.op, a, b)
        if fast is not None:
            return fast
        d = int(e.b.value) if type(e.b) is IntImm and dtypes.is_int(dtype) else 0
        if d > 0 and e.op in ("//", "%"):  # stays within the dtype
            return (lambda env: a(env) // d) if e.op == "//" else (lambda env: a(env) % d)
        op = scalar.binary(e.op, dtype, self.where)
        return lambda env: op(a(env), b(env))

    def call(self, e: Call) -> Code:
        dtype = dtypes.scalar(e.dtype)
        where = self.where
        if e.op == "if_then_else":
            return _choice(*self.exprs(e.args))
        if e.op == "likely":
            return self.expr(e.args[0])
        if e.op == "assume":
            cond = self.expr(e.args[0])

            def assume(env: Env) -> bool:
                if not cond(env):
                    from .show import show

                    raise RunError(
                        f"the assumption {show(e.args[0])} does not hold, in {where}", code="assume"
                    )
                return True

            return assume
        if e.op == "reinterpret":
            return self.reinterpret(e)
        if e.op in VECTOR:
            return self.whole(e, scalar.on_arrays(_vector_op(e, where)))
        fn: Callable[..., Any] | None = None
        args = e.args
        if e.op in MATH:
            fn = scalar.math_function(e.op, dtypes.scalar(args[0].dtype), where)
        elif e.op == "call_extern" and args and type(args[0]) is StringImm:
            fn, args = scalar.extern(args[0].value, len(args) - 1, dtype), args[1:]
        if fn is None:
            what = e.op if e.op != "call_extern" else f"call_extern {_extern_name(e)}"
            raise RunError(
                f"the interpreter does not know the intrinsic {what}, in {where}",
                hint="known are the functions of gputune.ir.ops and C's math functions",
                code="intrinsic",
            )
        codes, function = self.exprs(args), fn
        if len(codes) == 1:
            x = codes[0]
            return lambda env: function(x(env))
        return lambda env: function(*[c(env) for c in codes])

    def reinterpret(self, e: Call) -> Code:
        (x,) = e.args
        if dtypes.lanes(x.dtype) == dtypes.lanes(e.dtype):
            (value,) = self.exprs(e.args)
            to = scalar.reinterpret(x.dtype, e.dtype, self.where)
            return lambda env: to(value(env))
        return self.whole(e, scalar.reinterpret_lanes(x.dtype, e.dtype, self.where))

    def whole(self, e: Call, function: Callable[..., Sequence[Any]]) -> Code:
        """Code for a call whose lanes depend on all lanes of its arguments: all of them are
        computed when the first is asked for, once each time the statement around them runs."""
        args = [self.lanes(a) for a in e.args]
        slot = self.count
        self.count += 1
        self.cells.append(slot)

        def lane(env: Env) -> Any:
            got = env[slot]
            if got is None:
                got = env[slot] = function(*[a(env) for a in args])
            return got[env[LANE]]

        if dtypes.lanes(e.dtype) > 1:
            return lane
        return lambda env: function(*[a(env) for a in args])[0]

    # ------------------------------------------------------------------ accesses
    def load(self, e: BufferLoad) -> Code:
        slot = self.slot(e.buffer)
        address = self.address(e.buffer, e.indices, "read")
        if e.buffer in self.static:

            def value(env: Env) -> Any:
                return env[slot][address(env)]

        else:

            def value(env: Env) -> Any:
                return env[slot].memory[address(env)]

        if e.predicate is None:
            return value
        mask, undefined = self.expr(e.predicate), scalar.poison(e.buffer.dtype)
        return lambda env: value(env) if mask(env) else undefined

    def store(self, s: BufferStore) -> Code:
        self.written.add(self.origin(s.buffer))
        slot, static = self.slot(s.buffer), s.buffer in self.static
        address, value = self.address(s.buffer, s.indices, "written"), self.expr(s.value)
        n = max(dtypes.lanes(x.dtype) for x in (s.value, *s.indices))
        if n == 1 and s.predicate is None and static:

            def plain(env: Env) -> None:
                env[slot][address(env)] = value(env)

            return plain
        mask = None if s.predicate is None else self.expr(s.predicate)

        def general(env: Env) -> None:
            memory = env[slot] if static else env[slot].memory
            writes = []
            for env[LANE] in range(n):
                if mask is None or mask(env):
                    writes.append((address(env), value(env)))
            env[LANE] = 0
            for where, x in writes:
                memory[where] = x

        return general

    def origin(self, b: Buffer) -> Buffer:
        while b in self.views:
            b = self.views[b].source.buffer
        return b

    def address(self, b: Buffer, indices: Sequence[Expr], verb: str) -> Code:
        """Code for the position of an element in its memory; checks the bounds."""
        if len(indices) != len(b.shape):
            raise RunError(
                f"buffer {b.name} has {len(b.shape)} dimensions, got {len(indices)} indices, in "
                f"{self.where}",
                code="index-count",
            )
        codes = self.exprs(indices)
        where = self.where
        shape = self.static.get(b)
        if shape is not None:
            position = static_position(b.name, codes, indices, self.slots, shape, where)
        else:
            position = dynamic_position(b.name, codes, self.slot(b), where)
        if not self.check_regions:
            return position
        allowed = self.region_check(b, verb)

        def checked(env: Env) -> Any:
            at = position(env)
            allowed(env, [c(env) for c in codes])
            return at

        return checked

    # ------------------------------------------------------------------ statements
    def stmt(self, s: Stmt) -> Code:
        around, self.cells = self.cells, []
        code = self.statement(s)
        cells, self.cells = self.cells, around
        if not cells:
            return code

        def anew(env: Env) -> None:
            for slot in cells:
                env[slot] = None
            code(env)

        return anew

    def statement(self, s: Stmt) -> Code:
        match s:
            case BufferStore():
                return self.store(s)
            case For():
                return self.loop(s)
            case Block():
                return self.block(s)
            case Seq():
                return _sequence([self.stmt(x) for x in s.items])
            case IfThenElse():
                cond, then = self.expr(s.cond), self.stmt(s.then)
                orelse = None if s.orelse is None else self.stmt(s.orelse)

                def branch(env: Env) -> None:
                    if cond(env):
                        then(env)
                    elif orelse is not None:
                        orelse(env)

                return branch
            case LetStmt():
                value = self.lanes(s.value)
                slot = self.new(s.var)
                body = self.stmt(s.body)

                def let(env: Env) -> None:
                    env[slot] = value(env)
                    body(env)

                return let
            case Evaluate():
                return self.lanes(s.value)
            case Alloc():
                return _sequence([self.allocate(s.buffer), self.stmt(s.body)])
            case _:
                assert_never(s)

    def loop(self, s: For) -> Code:
        lo, extent = self.expr(s.min), self.expr(s.extent)
        slot = self.new(s.var)
        body = self.stmt(s.body)
        if type(s.min) is IntImm and type(s.extent) is IntImm:
            steps = range(int(s.min.value), int(s.min.value) + int(s.extent.value))

            def constant(env: Env) -> None:
                for env[slot] in steps:
                    body(env)

            return constant

        def computed(env: Env) -> None:
            start = lo(env)
            steps = range(start, start + extent(env))
            for env[slot] in steps:
                body(env)

        return computed

    def allocate(self, b: Buffer) -> Code:
        fill = scalar.poison(b.dtype)
        slot = self.new_buffer(b)
        shape = self.static.get(b)
        if shape is not None:
            size = math.prod(shape)

            def fixed(env: Env) -> None:
                env[slot] = [fill] * size

            return fixed
        sizes = self.exprs(b.shape)
        layout = None if b.strides is None else self.exprs(b.strides)

        def sized(env: Env) -> None:
            dims = tuple(n(env) for n in sizes)
            steps = row_major(dims)
            strides = steps if layout is None else tuple(n(env) for n in layout)
            env[slot] = Window([fill] * math.prod(dims), 0, dims, steps, strides, 0)

        return sized

    def block(self, s: Block) -> Code:
        parts: list[Code] = []
        for iv, value in zip(s.iter_vars, s.iter_values):
            if type(value) is Var and dtypes.lanes(value.dtype) == 1:
                self.slots[iv.var] = self.slot(value)  # no need to copy
                continue
            parts.append(_assign(self.expr(value), self.new(iv.var)))
        where = None if is_literal(s.predicate, 1) else self.expr(s.predicate)
        self.blocks.append(s)
        if self.check_regions:
            parts += [self.domain_check(s, k) for k in range(len(s.iter_vars))]
        for b in s.alloc_buffers:
            parts.append(self.allocate(b))
        for m in s.match_buffers:
            parts.append(self.view(m))
        if s.init is not None:
            parts.append(self.init(s, s.init))
        parts.append(self.stmt(s.body))
        self.blocks.pop()
        inside = _sequence(parts)
        if where is None:
            return inside

        def guarded(env: Env) -> None:
            if where(env):
                inside(env)

        return guarded

    def init(self, s: Block, init: Stmt) -> Code:
        body = self.stmt(init)
        starts = [
            (self.slot(iv.var), self.expr(iv.dom.min)) for iv in s.iter_vars if iv.kind == "reduce"
        ]

        def first(env: Env) -> None:
            for slot, start in starts:
                if env[slot] != start(env):
                    return
            body(env)

        return first

    def view(self, m: MatchBuffer) -> Code:
        """Binds a view and the variables in its shape and layout."""
        b, source = m.buffer, m.source.buffer
        base = self.window(source)
        mins = [self.expr(g.min) for g in m.source.region]
        extents = [self.expr(g.extent) for g in m.source.region]
        bound = [v for v in _bare_vars(b) if v not in self.slots or v in self.view_vars]
        for v in dict.fromkeys(bound):
            self.new(v)
        self.view_vars.update(bound)
        slot = self.new(b)
        self.views[b] = m
        facts = [*b.shape, *(b.strides or ()), *([] if b.elem_offset is None else [b.elem_offset])]
        binds = [(k, self.slots[e]) for k, e in enumerate(facts) if type(e) is Var and e in bound]
        shape = self.exprs(b.shape)
        strided, where = b.strides is not None, self.where

        def match(env: Env) -> None:
            window = base(env).cut(
                [c(env) for c in mins], [c(env) for c in extents], len(shape), b.name, where
            )
            layout = window.strides if strided else ()
            found = (*window.shape, *layout, window.offset)
            for k, target in binds:
                env[target] = found[k]
            declared = tuple([c(env) for c in shape])
            if declared != window.shape:
                raise RunError(
                    f"view {b.name} has shape {declared}, its region of {source.name} has "
                    f"{window.shape}, in {where}",
                    code="view-shape",
                )
            env[slot] = window

        return match

    def window(self, b: Buffer) -> Code:
        """Code for a buffer as a Window."""
        slot, shape = self.slot(b), self.static.get(b)
        if shape is None:
            return lambda env: env[slot]
        steps = row_major(shape)
        layout = None if b.strides is None else self.exprs(b.strides)
        offset = None if b.elem_offset is None else self.expr(b.elem_offset)

        def window(env: Env) -> Window:
            strides = steps if layout is None else tuple([c(env) for c in layout])
            return Window(env[slot], 0, shape, steps, strides, 0 if offset is None else offset(env))

        return window

    # ------------------------------------------------------------------ strict mode
    def domain_check(self, s: Block, k: int) -> Code:
        """A binding must stay within the domain of its iterator where the predicate holds."""
        iv = s.iter_vars[k]
        slot, lo, extent = self.slot(iv.var), self.expr(iv.dom.min), self.expr(iv.dom.extent)

        def check(env: Env) -> None:
            x, start, n = env[slot], lo(env), extent(env)
            if not start <= x < start + n:
                raise RunError(
                    f"iterator {iv.var.name} of block {s.name} is {x}, outside its domain "
                    f"[{start}, {start + n})",
                    code="domain",
                )

        return check

    def region_check(self, b: Buffer, verb: str) -> Callable[[Env, list[int]], None]:
        """Checks an access against every block around it, up to where its buffer is made. The
        outermost block of a function declares no regions."""
        steps: list[Callable[[Env, list[int]], list[int]]] = []
        for block in reversed(self.blocks[1:]):
            if b in self.views and self.views[b] in block.match_buffers:
                m = self.views[b]
                steps.append(self.through_view(m))
                b = m.source.buffer
            elif b in block.alloc_buffers:
                break
            declared = block.writes if verb == "written" else (*block.reads, *block.writes)
            if _is_hidden(block, b, verb):
                continue
            mine = [self.region(r) for r in declared if r.buffer is b]
            steps.append(within(b.name, verb, block.name, mine))

        def check(env: Env, index: list[int]) -> None:
            for step in steps:
                index = step(env, index)

        return check

    def region(self, r: BufferRegion) -> list[tuple[Code, Code]]:
        return [(self.expr(g.min), self.expr(g.extent)) for g in r.region]

    def through_view(self, m: MatchBuffer) -> Callable[[Env, list[int]], list[int]]:
        mins = [self.expr(g.min) for g in m.source.region]

        def translate(env: Env, index: list[int]) -> list[int]:
            lows = [c(env) for c in mins]
            own = [0] * (len(lows) - len(index)) + index
            return [x + y for x, y in zip(lows, own)]

        return translate


def _is_hidden(block: Block, b: Buffer, verb: str) -> bool:
    """Is the block silent about a buffer because its regions were hidden?"""
    kind, own = ("write", block.writes) if verb == "written" else ("read", block.reads)
    hidden = dict(block.annotations).get(HIDDEN, ()) if block.annotations else ()
    return kind in hidden and not any(r.buffer is b for r in own)


# ----------------------------------------------------------------------------- small closures
def _sequence(parts: list[Code]) -> Code:
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2:
        first, second = parts

        def two(env: Env) -> None:
            first(env)
            second(env)

        return two

    def many(env: Env) -> None:
        for part in parts:
            part(env)

    return many


def _assign(value: Code, slot: int) -> Code:
    def assign(env: Env) -> None:
        env[slot] = value(env)

    return assign


def _choice(cond: Code, a: Code, b: Code) -> Code:
    return lambda env: a(env) if cond(env) else b(env)


def _vector_op(e: Call, where: str) -> VectorOp:
    op = VECTOR[e.op]
    if (e.dtype, tuple([a.dtype for a in e.args])) != (op.result, op.args):
        given = ", ".join([a.dtype for a in e.args])
        raise RunError(
            f"{e.op} takes {', '.join(op.args)} and gives {op.result}, it is given {given} for "
            f"{e.dtype}, in {where}",
            code="intrinsic",
        )
    return op


def _extern_name(e: Call) -> str:
    return repr(e.args[0].value) if e.args and type(e.args[0]) is StringImm else "without a name"
