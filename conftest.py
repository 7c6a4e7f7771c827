"""What do the doctests of the schedule primitives find in their namespace?"""

from __future__ import annotations

from typing import Any

import pytest

from gputune.schedule import Schedule


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["demo_schedule"] = demo_schedule


def demo_schedule(which: str = "double") -> Schedule:
    """A schedule of a small program: "double" (block B over i, j), "row_sum" (block S: i, k),
    "u8_matmul" (block C: i, j, k, of bytes)."""
    if which == "u8_matmul":
        return Schedule(_u8_matmul(), seed=1)
    from gputune.ir import build
    from gputune.ir.nodes import (
        Block,
        BlockKey,
        BufferLoad,
        BufferRegion,
        BufferStore,
        For,
        IntImm,
        IterVar,
        PrimFunc,
        Range,
        Var,
    )

    one, zero, n = IntImm(1), IntImm(0), IntImm(8)
    a_var, a = build.buffer_param("A", (8, 8))
    i, j, vi, vj = Var("i"), Var("j"), Var("vi"), Var("vj")
    point = (Range(vi, one), Range(vj, one))
    if which == "double":
        b_var, b = build.buffer_param("B", (8, 8))
        kind, writes = "spatial", BufferRegion(b, point)
        body = BufferStore(b, build.mul(BufferLoad(a, (vi, vj)), 2.0), (vi, vj))
        init = None
    else:
        b_var, b = build.buffer_param("S", (8,))
        kind, writes = "reduce", BufferRegion(b, point[:1])
        body = BufferStore(b, build.add(BufferLoad(b, (vi,)), BufferLoad(a, (vi, vj))), (vi,))
        init = BufferStore(b, build.const(0.0), (vi,))
    iters = (
        IterVar(vi, Range(zero, n), "spatial"),
        IterVar(vj, Range(zero, n), "spatial" if kind == "spatial" else "reduce"),
    )
    block = Block(
        BlockKey(),
        b.name,
        iters,
        (i, j),
        build.TRUE,
        (BufferRegion(a, point),),
        (writes,),
        body,
        init,
    )
    nest = For(i, zero, n, "serial", For(j, zero, n, "serial", block))
    func = PrimFunc((a_var, b_var), ((a_var, a), (b_var, b)), build.root_block(nest))
    return Schedule(func, seed=1)


def _u8_matmul() -> Any:
    from gputune.script import from_source

    return from_source("""
@T.prim_func
def main(A: T.Buffer((8, 16), "uint8"), B: T.Buffer((32, 16), "int8"),
         C: T.Buffer((8, 32), "int32")):
    for i, j, k in T.grid(8, 32, 16):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = 0
            C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "int32") * T.cast(B[vj, vk], "int32")
""")
