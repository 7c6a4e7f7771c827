"""Hand-built programs for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gputune.ir import build as b
from gputune.ir.nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferRegion,
    BufferStore,
    Expr,
    For,
    IterVar,
    PrimFunc,
    Range,
    Stmt,
    Var,
)

i32 = b.const


def nest(loops: Sequence[tuple[Var, Any]], body: Stmt, kind: Any = "serial") -> Stmt:
    for v, n in reversed(loops):
        body = For(v, b.const(0, v.dtype), b.expr(n, v.dtype), kind, body)
    return body


def point(buffer: Buffer, *indices: Any) -> BufferRegion:
    return BufferRegion(buffer, tuple(Range(b.expr(i), b.const(1)) for i in indices))


def whole(buffer: Buffer) -> BufferRegion:
    return BufferRegion(buffer, tuple(Range(b.const(0), n) for n in buffer.shape))


def block(
    name: str,
    extents: Sequence[Any],
    kinds: str,
    make: Callable[..., tuple[Stmt, Sequence[BufferRegion], Sequence[BufferRegion]]],
    init: Callable[..., Stmt] | None = None,
    **rest: Any,
) -> Stmt:
    """One loop per iterator around a block; kinds "SSR" as in `T.axis.remap`."""
    loops = [Var(f"{name}_i{k}") for k in range(len(extents))]
    ivs = [Var(f"{name}_v{k}") for k in range(len(extents))]
    words: dict[str, Any] = {"S": "spatial", "R": "reduce"}
    iters = tuple(
        IterVar(v, Range(b.const(0), b.expr(n)), words[k]) for v, n, k in zip(ivs, extents, kinds)
    )
    body, reads, writes = make(*ivs)
    blk = Block(
        BlockKey(), name, iters, tuple(loops), rest.pop("predicate", b.TRUE), tuple(reads),
        tuple(writes), body, None if init is None else init(*ivs), **rest,
    )  # fmt: skip
    return nest(list(zip(loops, extents)), blk)


def func(
    params: Sequence[Any], body: Stmt, allocs: Sequence[Buffer] = (), **attrs: Any
) -> PrimFunc:
    """A function over buffers and scalar variables."""
    handles = [Var(p.name, "handle") if isinstance(p, Buffer) else p for p in params]
    table = tuple((h, p) for h, p in zip(handles, params) if isinstance(p, Buffer))
    return PrimFunc(tuple(handles), table, b.root_block(body, allocs), tuple(attrs.items()))


def buf(name: str, shape: Sequence[Any], dtype: str = "float32", **rest: Any) -> Buffer:
    return Buffer(name, tuple(b.expr(s, "int32") for s in shape), dtype, **rest)


def matmul(n: int = 4, m: int = 5, k: int = 6, dtype: str = "float32", acc: str = "") -> PrimFunc:
    acc = acc or dtype
    A, B, C = buf("A", (n, k), dtype), buf("B", (k, m), dtype), buf("C", (n, m), acc)

    def make(i: Var, j: Var, r: Var) -> Any:
        value = C[i, j] + A[i, r].astype(acc) * B[r, j].astype(acc)
        return BufferStore(C, value, (i, j)), (point(A, i, r), point(B, r, j)), (point(C, i, j),)

    body = block(
        "C", (n, m, k), "SSR", make, lambda i, j, r: BufferStore(C, b.const(0, acc), (i, j))
    )
    return func((A, B, C), body, global_symbol="main")


def elementwise(
    f: Callable[[Expr], Expr], n: int = 8, src: str = "float32", dst: str = "float32"
) -> PrimFunc:
    A, B = buf("A", (n,), src), buf("B", (n,), dst)
    i = Var("i")
    return func((A, B), nest([(i, n)], BufferStore(B, f(A[i]), (i,))))


def matmul_bias(n: int, m: int, k: int) -> PrimFunc:
    A, B, bias = buf("A", (n, k)), buf("B", (k, m)), buf("bias", (m,))
    C, D = buf("C", (n, m)), buf("D", (n, m))

    def mm(i: Var, j: Var, r: Var) -> Any:
        store = BufferStore(C, C[i, j] + A[i, r] * B[r, j], (i, j))
        return store, (point(A, i, r), point(B, r, j)), (point(C, i, j),)

    def add(i: Var, j: Var) -> Any:
        store = BufferStore(D, C[i, j] + bias[j], (i, j))
        return store, (point(C, i, j), point(bias, j)), (point(D, i, j),)

    zero = lambda i, j, r: BufferStore(C, b.const(0.0), (i, j))  # noqa: E731
    body = b.seq(
        block("C", (n, m, k), "SSR", mm, zero),
        block("D", (n, m), "SS", add),
    )
    return func((A, B, bias, D), body, (C,), global_symbol="linear0")
