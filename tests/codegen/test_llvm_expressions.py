"""Do random expressions over all dtypes mean the same to the interpreter and to the machine?"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llvm_running import compiled, interpreted, same, targets

from gputune.ir import build, dtypes
from gputune.ir.nodes import (
    BinOp,
    Buffer,
    BufferStore,
    Call,
    Cast,
    Expr,
    For,
    IntImm,
    Not,
    PrimFunc,
    Select,
    Var,
)

N = 21
V = Var("v")
DTYPES = [d for d in dtypes.SCALARS]
BUFFERS = {d: [Buffer(f"{n}_{d}", (IntImm(N),), d) for n in "AB"] for d in DTYPES}
ARITH = {
    "int": ["+", "-", "*", "min", "max", "&", "|", "^"],
    "float": ["+", "-", "*", "min", "max"],
}


@st.composite
def expressions(draw: Any, dtype: str, depth: int) -> Expr:
    """An expression of `dtype`; every intermediate value is defined."""
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        kind = draw(st.integers(0, 3))
        if kind == 0 and not dtypes.is_bool(dtype):
            return build.const(draw(st.integers(0, 5)), dtype)
        return BUFFERS[dtype][kind % 2][V]
    sub = expressions(dtype, depth - 1)
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return Select(draw(expressions("bool", depth - 1)), draw(sub), draw(sub))
    if kind == 1:
        cond = draw(expressions("bool", depth - 1))
        return Call("if_then_else", (cond, draw(sub), draw(sub)), dtype)
    if kind == 2:
        other = draw(st.sampled_from(DTYPES))
        return build.cast(dtype, draw(expressions(other, depth - 1)))
    if dtypes.is_bool(dtype):
        if kind == 3:
            return Not(draw(sub))
        if kind == 4:
            return BinOp(draw(st.sampled_from(["and", "or"])), draw(sub), draw(sub), "bool")
        other = draw(st.sampled_from(DTYPES[:-1]))
        x = expressions(other, depth - 1)
        op = draw(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
        return BinOp(op, draw(x), draw(x), "bool")
    if dtypes.is_int(dtype):
        if kind == 3:
            by = build.const(draw(st.integers(0, dtypes.bits(dtype) - 1)), dtype)
            return BinOp(draw(st.sampled_from(["<<", ">>"])), draw(sub), by, dtype)
        if kind == 4:
            divisor = build.const(draw(st.sampled_from([1, 2, 3, 7, 16, 100])), dtype)
            op = draw(st.sampled_from(["//", "%", "/", "truncmod"]))
            return BinOp(op, draw(sub), divisor, dtype)
        if kind == 5 and dtype in ("int32", "int64"):
            return Cast(dtype, V) if dtype != "int32" else V
        return BinOp(draw(st.sampled_from(ARITH["int"])), draw(sub), draw(sub), dtype)
    if kind == 3:
        name = draw(st.sampled_from(["floor", "ceil", "abs", "trunc", "round", "nearbyint"]))
        return Call(name, (draw(sub),), dtype)
    return BinOp(draw(st.sampled_from(ARITH["float"])), draw(sub), draw(sub), dtype)


def _function(e: Expr, dtype: str, loop: str) -> tuple[PrimFunc, list[Buffer]]:
    out = Buffer("Z", (IntImm(N),), dtype)
    used = [b for pair in BUFFERS.values() for b in pair]
    body = For(V, IntImm(0), IntImm(N), loop, BufferStore(out, e, (V,)))  # type: ignore[arg-type]  # a ForKind
    buffers = [*used, out]
    params = tuple(Var(b.name.lower(), "handle") for b in buffers)
    return PrimFunc(params, tuple(zip(params, buffers)), build.root_block(body)), buffers


def _inputs(buffers: list[Buffer]) -> list[Any]:
    rng = np.random.default_rng(3)
    out = []
    for b in buffers:
        kind = dtypes.numpy_dtype(b.dtype)
        if dtypes.is_bool(b.dtype):
            a = rng.integers(0, 2, N).astype(bool)
        elif dtypes.is_float(b.dtype):
            a = rng.integers(-3, 4, N).astype(kind)  # sums and products are exact
        else:
            info = np.iinfo(kind)
            a = rng.integers(info.min, int(info.max), N, dtype=kind, endpoint=True)
            a[::3] = rng.integers(0, 9, len(a[::3])).astype(kind)
        out.append(a)
    return out


CASES = st.sampled_from(DTYPES).flatmap(lambda d: st.tuples(st.just(d), expressions(d, 3)))


@settings(
    derandomize=True, deadline=None, max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(CASES, st.sampled_from(["serial", "vectorized"]), st.integers(0, 2))
def test_expressions(case: tuple[str, Expr], loop: str, machine: int) -> None:
    dtype, e = case
    f, buffers = _function(e, dtype, loop)
    args = _inputs(buffers)
    want = interpreted(f, args)
    got = compiled(f, args, targets()[machine])
    # float32 and float64 may fuse a product and a sum: one rounding less
    rtol = {"float64": 1e-12, "float32": 1e-6}.get(dtype, 0.0)
    same(got[-1], want[-1], rtol, f.script())
