"""Conditions of a thread's tile on a GPU: asked once where the whole tile is within the extent."""

from __future__ import annotations

import shutil

import pytest

from gputune.ir import walk
from gputune.ir.nodes import BufferStore, For, IfThenElse, PrimFunc, Stmt
from gputune.lower.gpu import lower_gpu
from gputune.lower.kernels import inner
from gputune.script import from_source
from tests.properties.on_the_host import check_on_the_host

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="no C++ compiler for host execution",
)

TILES = """
@T.prim_func
def main(A: T.Buffer(({m}, 32), "float32"), B: T.Buffer(({m}, 4), "float32")):
    L = T.alloc_buffer(({m}, 4), scope="local")
    for b in T.thread_binding({blocks}, thread="blockIdx.x"):
        for t in T.thread_binding(4, thread="threadIdx.x"):
            for k, i, j in T.grid({steps}, 4, 4):
                with T.block("L"):
                    vi = T.axis.spatial({m}, b * 16 + t * 4 + i)
                    vj = T.axis.spatial(4, j)
                    vk = T.axis.reduce({steps}, k)
                    T.where(b * 16 + t * 4 + i < {m})
                    with T.init():
                        L[vi, vj] = T.float32(0)
                    L[vi, vj] = L[vi, vj] + A[vi, vk * 4 + vj]
            for i, j in T.grid(4, 4):
                with T.block("B"):
                    vi = T.axis.spatial({m}, b * 16 + t * 4 + i)
                    vj = T.axis.spatial(4, j)
                    T.where(b * 16 + t * 4 + i < {m})
                    B[vi, vj] = L[vi, vj]
"""


def parse(text: str) -> PrimFunc:
    out = from_source(text)
    return out if isinstance(out, PrimFunc) else out["main"]


def tiles(m: int, steps: int = 8) -> PrimFunc:
    """Sums of 4 rows a thread, of which the last may stick out."""
    return parse(TILES.format(m=m, steps=steps, blocks=-(-m // 16)))


def body(func: PrimFunc) -> Stmt:
    (kernel,) = lower_gpu(func).kernels
    return inner(kernel.func)[1]


def conditions(s: Stmt) -> list[str]:
    return [str(x.cond) for x in walk.walk_stmt(s) if type(x) is IfThenElse]


def either(s: Stmt) -> list[IfThenElse]:
    return [x for x in walk.walk_stmt(s) if type(x) is IfThenElse and x.orelse is not None]


def test_a_tile_is_asked_for_as_a_whole() -> None:
    (s,) = either(body(tiles(61)))
    assert conditions(s.then) == []
    assert s.orelse is not None
    assert len(conditions(s.orelse)) == 1
    both = [x.var for x in walk.walk_stmt(s) if type(x) is For]
    assert len(both) == len(set(both)) == 6  # the copies have variables of their own


def test_what_divides_is_not_asked() -> None:
    assert conditions(body(tiles(64))) == []


def test_what_a_condition_leaves_alone_stays() -> None:
    """Few questions; and tiles of which none is whole."""
    assert either(body(tiles(61, 2))) == []
    assert either(body(tiles(3))) == []


@needs_compiler
@pytest.mark.parametrize("m", [1, 15, 17, 61, 64])
def test_they_compute_the_same(m: int) -> None:
    plain = parse(
        f"""
@T.prim_func
def main(A: T.Buffer(({m}, 32), "float32"), B: T.Buffer(({m}, 4), "float32")):
    for i, j, k in T.grid({m}, 4, 8):
        with T.block("B"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                B[vi, vj] = T.float32(0)
            B[vi, vj] = B[vi, vj] + A[vi, vk * 4 + vj]
"""
    )
    check_on_the_host(plain, tiles(m), seed=m)


BARRIER = """
@T.prim_func
def main(A: T.Buffer((61,), "float32"), B: T.Buffer((61,), "float32")):
    S = T.alloc_buffer((64,), scope="shared")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for t in T.thread_binding(8, thread="threadIdx.x"):
            for k in range(8):
                with T.block("S"):
                    v = T.axis.spatial(64, k * 8 + t)
                    T.where(k * 8 + t < 61)
                    S[v] = A[v]
                with T.block("B"):
                    v = T.axis.spatial(61, k * 8 + t)
                    T.where(k * 8 + t < 61 and k * 8 + 7 - t < 61)
                    B[v] = S[k * 8 + 7 - t]
"""


def test_loops_with_barriers_stay_as_they_are() -> None:
    s = body(parse(BARRIER))
    stores = [x.buffer.name for x in walk.walk_stmt(s) if type(x) is BufferStore]
    assert stores == ["S", "B"]
