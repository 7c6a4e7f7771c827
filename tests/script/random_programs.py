"""Random programs that use every node, odd ones included: constants that would fold, names that
clash, mixed index widths. They are well typed but mean nothing."""

from __future__ import annotations

import math
from random import Random
from typing import Any

from gputune.ir import build, dtypes, ops
from gputune.ir.nodes import (
    Alloc,
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
    IfThenElse,
    IntImm,
    IterVar,
    Let,
    LetStmt,
    MatchBuffer,
    Not,
    PrimFunc,
    Ramp,
    Range,
    Select,
    Shuffle,
    Stmt,
    StringImm,
    Var,
)

NAMES = ("i", "j", "i", "T", "for", "vi", "A", "A.1", "x y", "9", "", "range", "é", "None")
INTS = ("int32", "int64", "int8", "uint8", "uint64")
FLOATS = ("float32", "float16", "float64", "bfloat16", "float8_e4m3")
ARITH = ("+", "-", "*", "min", "max", "/")
INT_ONLY = ("//", "%", "truncmod", "&", "|", "^", "<<", ">>")
COMPARE = ("==", "!=", "<", "<=", ">", ">=")
FLOAT_VALUES = (0.0, -0.0, 1.0, -1.0, 0.1, 1e30, -2.5, 1e-40, math.inf, -math.inf, math.nan, 3e5)
SCOPES = ("global", "shared", "local", 'od"d')


class Programs:
    """Makes one random program."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.vars: list[Var] = []
        self.buffers: list[Buffer] = []
        self.loops: list[For] = []

    def pick(self, items: Any) -> Any:
        return self.rng.choice(list(items))

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def name(self) -> str:
        return str(self.pick(NAMES))

    # -- expressions
    def dtype(self) -> str:
        return str(self.pick((*INTS, *FLOATS, "bool", "int32", "float32")))

    def int_const(self, dtype: str = "int32") -> IntImm:
        lo, hi = int(dtypes.min_value(dtype)), int(dtypes.max_value(dtype))
        value = self.pick((0, 1, 2, 7, lo, hi, -1))
        return IntImm(max(lo, min(hi, value)), dtype)

    def const(self, dtype: str) -> Expr:
        if dtype == "bool":
            return IntImm(self.rng.randint(0, 1), "bool")
        if dtypes.is_float(dtype):
            return FloatImm(self.pick(FLOAT_VALUES), dtype)
        return self.int_const(dtype)

    def expr(self, dtype: str, depth: int = 3) -> Expr:
        if dtypes.lanes(dtype) > 1:
            return self.vector(dtype, depth)
        if depth == 0:
            known = [v for v in self.vars if v.dtype == dtype]
            return self.pick(known) if known and self.chance(0.6) else self.const(dtype)
        kind = self.rng.randint(0, 11)
        again = depth - 1
        if kind <= 3:
            return self.operation(dtype, again)
        if kind == 4:
            return Cast(dtype, self.expr(self.dtype(), again))
        if kind == 5:
            pair = self.expr(dtype, again), self.expr(dtype, again)
            cond = self.expr("bool", again)
            if self.chance(0.5):
                return Select(cond, *pair)
            return Call("if_then_else", (cond, *pair), dtype)
        if kind == 6:
            found = [b for b in self.buffers if b.dtype == dtype]
            if found:
                return self.load(self.pick(found), again)
        if kind == 7:
            return self.call(dtype, again)
        if kind == 8:
            value = self.expr("int32", again)
            var = Var(self.name(), "int32")
            self.vars.append(var)
            out = Let(var, value, self.expr(dtype, again))
            self.vars.pop()
            return out
        if kind == 9:
            lanes = dtypes.with_lanes(dtype, 4)
            return Shuffle((self.vector(lanes, again), self.vector(lanes, again)), (6,))
        return self.expr(dtype, 0)

    def operation(self, dtype: str, depth: int) -> Expr:
        if dtype == "bool":
            kind = self.rng.randint(0, 4)
            if kind == 0:
                return Not(self.expr("bool", depth))
            if kind <= 2:
                inner, op = self.dtype(), self.pick(COMPARE)
                return BinOp(op, self.expr(inner, depth), self.expr(inner, depth), "bool")
            op = self.pick(("and", "or", "&", "|", "^"))
            return BinOp(op, self.expr("bool", depth), self.expr("bool", depth), "bool")
        op = self.pick(ARITH if dtypes.is_float(dtype) else (*ARITH, *INT_ONLY))
        return BinOp(op, self.expr(dtype, depth), self.expr(dtype, depth), dtype)

    def call(self, dtype: str, depth: int) -> Expr:
        kind = self.rng.randint(0, 5)
        if kind == 0:
            args = [self.expr(self.dtype(), depth) for _ in range(self.rng.randint(0, 2))]
            return Call("call_extern", (StringImm("f\n'\"\\"), *args), dtype)
        if kind == 1:
            return Call("reinterpret", (self.expr(self.dtype(), depth),), dtype)
        if kind == 2 and dtype == "bool":
            return Call(self.pick(("likely", "assume")), (self.expr("bool", depth),), "bool")
        if kind == 3:
            return Call("ptx op", (self.expr(self.dtype(), depth), StringImm("x")), dtype)
        name = self.pick(ops.MATH)
        op = ops.MATH[name]
        inner = dtype if not op.to_bool else "float32"
        args = [self.expr(inner, depth) for _ in range(op.arity)]
        if op.to_bool != (dtype == "bool") or not (dtypes.is_float(inner) or op.on_ints):
            return Call("exp", (self.expr("float32", depth),), dtype)  # oddly typed on purpose
        return Call(name, tuple(args), dtype)

    def vector(self, dtype: str, depth: int) -> Expr:
        base, n = dtypes.split(dtype)
        if base in ("int32", "int64") and self.chance(0.5):
            return Ramp(self.expr(base, depth), self.int_const(base), n)
        if depth and self.chance(0.3):
            return BinOp("max", self.vector(dtype, depth - 1), self.vector(dtype, depth - 1), dtype)
        found = [b for b in self.buffers if b.dtype == base and b.shape]
        if depth and found and self.chance(0.4):
            return self.load(self.pick(found), depth - 1, n)
        return Broadcast(self.expr(base, depth), n)

    def indices(self, b: Buffer, depth: int, lanes: int = 1) -> tuple[Expr, ...]:
        out = [self.expr(self.pick(("int32", "int32", "int64")), depth) for _ in b.shape]
        if lanes > 1:
            out[-1] = Ramp(self.expr("int32", depth), IntImm(1), lanes)
        return tuple(out)

    def mask(self, lanes: int, depth: int) -> Expr | None:
        if lanes == 1 or self.chance(0.5):
            return None
        return self.expr(f"boolx{lanes}", depth)

    def load(self, b: Buffer, depth: int, lanes: int = 1) -> Expr:
        return BufferLoad(b, self.indices(b, depth, lanes), self.mask(lanes, depth))

    # -- buffers and regions
    def buffer(self, symbols: list[Var] | None = None) -> Buffer:
        wide = self.pick(("int32", "int32", "int64"))
        shape: list[Expr] = [
            IntImm(self.rng.randint(1, 8), wide) for _ in range(self.rng.randint(0, 3))
        ]
        if not self.chance(0.4):
            return Buffer(self.name(), tuple(shape), self.dtype())
        strides = offset = None
        if symbols is not None:
            if shape:
                shape[0] = Var("n", wide)
                symbols.append(shape[0])
            if self.chance(0.5):
                strides = tuple(Var("s", wide) for _ in shape)
                symbols += strides
            if self.chance(0.5):
                offset = Var("off")
                symbols.append(offset)
        elif self.chance(0.5):
            strides = tuple(self.int_const() for _ in shape)
        return Buffer(
            self.name(), tuple(shape), self.dtype(), self.pick(SCOPES), strides, offset,
            self.pick((0, 0, 64)),
        )  # fmt: skip

    def range(self) -> Range:
        a, b = self.pick(("int32", "int32", "int64")), self.pick(("int32", "int32", "int64"))
        small = IntImm(self.pick((0, 1, 4, 2**31 - 1)), a)
        low = self.pick((small, self.expr(a, 1), self.expr(a, 2)))
        b = a if self.chance(0.8) else b
        extent = self.pick((IntImm(1, b), IntImm(6, b), self.expr(b, 1)))
        return Range(low, extent)

    def region(self, b: Buffer) -> BufferRegion:
        return BufferRegion(b, tuple(self.range() for _ in b.shape))

    # -- statements
    def annotation(self, depth: int = 2) -> Any:
        leaf = (
            None, True, False, 0, -5, 2**40, 0.5, -0.0, math.inf, math.nan, "a'b\"\n\u2028é\ud800",
            IntImm(4), IntImm(4, "int64"), FloatImm(1.0), StringImm("s"), "",
            BinOp("+", IntImm(1), IntImm(2), "int32"), self.expr("int32", 1),
        )  # fmt: skip
        if depth == 0 or self.chance(0.5):
            return self.pick(leaf)
        items = [self.annotation(depth - 1) for _ in range(self.rng.randint(0, 2))]
        return self.pick((items, tuple(items), {f"k{i}": x for i, x in enumerate(items)}))

    def annotations(self) -> tuple[tuple[str, Any], ...]:
        if self.chance(0.7):
            return ()
        return tuple((f"key.{k}", self.annotation()) for k in range(self.rng.randint(1, 3)))

    def stmt(self, depth: int) -> Stmt:
        kind = self.rng.randint(0, 9) if depth else self.rng.randint(0, 1)
        again = depth - 1
        if kind == 0:
            return self.store()
        if kind == 1:
            return Evaluate(self.expr(self.dtype(), 2))
        if kind <= 4:
            return self.loop(again)
        if kind == 5:
            orelse = self.suite(again) if self.chance(0.5) else None
            return IfThenElse(self.expr("bool", 2), self.suite(again), orelse)
        if kind == 6:
            dtype = self.pick((self.dtype(), "float32x4"))
            value = self.expr(dtype, 2)
            var = Var(self.name(), dtype)
            self.vars.append(var)
            out = LetStmt(var, value, self.suite(again))
            self.vars.pop()
            return out
        if kind == 7:
            self.buffers.append(self.buffer())
            alloc = Alloc(self.buffers[-1], self.suite(again))
            self.buffers.pop()
            return alloc
        return self.block(again)

    def store(self) -> Stmt:
        b = self.pick(self.buffers)
        lanes = 4 if b.shape and self.chance(0.3) else 1
        indices = self.indices(b, 1, lanes)
        value = self.expr(dtypes.access_dtype(b.dtype, indices), 3)
        return BufferStore(b, value, indices, self.mask(lanes, 1))

    def suite(self, depth: int) -> Stmt:
        return build.seq(*[self.stmt(depth) for _ in range(self.rng.randint(1, 3))])

    def loop(self, depth: int) -> Stmt:
        dtype = self.pick(("int32", "int32", "int64"))
        var = Var(self.name(), dtype if self.chance(0.9) else "int64")
        low: Expr = IntImm(0, dtype)
        extent: Expr = IntImm(self.rng.randint(0, 9), dtype)
        if self.chance(0.2):
            low = self.pick((IntImm(3, dtype), self.expr(dtype, 1), IntImm(0, "int32")))
        if self.chance(0.2):
            extent = self.expr(dtype, 1)
            if type(extent) is IntImm:
                extent = IntImm(abs(extent.value) % 100, dtype)
        kind = self.pick(("serial",) * 6 + ("parallel", "vectorized", "unrolled", "thread_binding"))
        thread = "threadIdx.x" if kind == "thread_binding" else None
        annotations = self.annotations()
        self.vars.append(var)
        loop = For(var, low, extent, kind, Evaluate(IntImm(0)), thread, annotations)
        self.loops.append(loop)
        body = self.suite(depth)
        self.loops.pop()
        self.vars.pop()
        return For(var, low, extent, kind, body, thread, annotations)

    def block(self, depth: int) -> Stmt:
        iters, values = [], []
        plain = self.chance(0.5)
        for _ in range(self.rng.randint(0, 3)):
            if plain and self.loops:
                x = self.pick(self.loops)
                dom: Range = Range(IntImm(0, x.extent.dtype), x.extent)
                value: Expr = x.var
            else:
                dtype = self.pick(("int32", "int32", "int64"))
                dom = Range(self.pick((IntImm(0, dtype), IntImm(2, dtype))), IntImm(7, dtype))
                value = self.expr(dtype if self.chance(0.8) else "int64", 2)
            kind = self.pick(("spatial", "spatial", "reduce", "scan", "opaque"))
            iters.append(IterVar(Var(self.name(), dom.extent.dtype), dom, kind))
            values.append(value)
        predicate = build.TRUE if self.chance(0.7) else self.expr("bool", 2)
        mark = len(self.vars), len(self.buffers)
        self.vars += [iv.var for iv in iters]
        reads = tuple(self.region(self.pick(self.buffers)) for _ in range(self.rng.randint(0, 2)))
        writes = tuple(self.region(self.pick(self.buffers)) for _ in range(self.rng.randint(0, 2)))
        annotations = self.annotations()
        allocs = [self.buffer() for _ in range(self.rng.randint(0, 2))]
        self.buffers += allocs
        matches = [self.view() for _ in range(self.rng.randint(0, 1))]
        init = self.suite(0) if self.chance(0.3) else None
        body = self.suite(depth)
        del self.vars[mark[0] :], self.buffers[mark[1] :]
        return Block(
            BlockKey(), self.pick(("C", "root", "", 'b"l\\')), tuple(iters), tuple(values),
            predicate, reads, writes, body, init, tuple(allocs), tuple(matches), annotations,
        )  # fmt: skip

    def view(self) -> MatchBuffer:
        source = self.pick(self.buffers)
        region = BufferRegion(
            source, tuple(Range(self.expr("int32", 1), IntImm(4)) for _ in source.shape)
        )
        symbols = [Var("s") for _ in source.shape]
        view = Buffer(
            self.name(), tuple(IntImm(4) for _ in source.shape), source.dtype, source.scope,
            tuple(symbols) if self.chance(0.5) else None,
        )  # fmt: skip
        if view.strides is not None:
            self.vars += symbols
        self.buffers.append(view)
        return MatchBuffer(view, region)

    # -- functions
    def func(self) -> PrimFunc:
        params, table = [], []
        for _ in range(self.rng.randint(0, 2)):
            params.append(Var(self.name(), self.pick((self.dtype(), "handle", "int32"))))
            self.vars.append(params[-1])
        self.vars = [v for v in self.vars if v.dtype != "handle"]
        for _ in range(self.rng.randint(1, 3)):
            b = self.buffer(self.vars)
            handle = Var(self.pick((b.name, "h")), "handle")
            params.append(handle)
            table.append((handle, b))
            self.buffers.append(b)
        body: Stmt
        if self.chance(0.2):
            body = self.block(2)
        else:
            body = self.suite(3)
        allocs = [self.buffer() for _ in range(self.rng.randint(0, 1))]
        root = Block(
            BlockKey(), "root", (), (), build.TRUE, (), (), body, None, tuple(allocs), (),
            self.annotations(),
        )  # fmt: skip
        attrs: tuple[tuple[str, Any], ...] = ()
        if self.chance(0.5):
            attrs = (("global_symbol", self.pick(("main", "a b", "f"))),)
        if self.chance(0.3):
            attrs = (*attrs, ("key", [1, (2.5,), {"a": None}]))
        return PrimFunc(tuple(params), tuple(table), root, attrs)


def random_func(rng: Random) -> PrimFunc:
    """One random function."""
    return Programs(rng).func()
