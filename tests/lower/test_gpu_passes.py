"""What do scheduled GPU programs become? Kernels, memory placement, shared reductions, barriers,
guards, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from gputune.errors import LowerError
from gputune.ir import walk
from gputune.ir.nodes import Alloc, For, IfThenElse, PrimFunc, Seq, Stmt
from gputune.lower.barriers import is_barrier
from gputune.lower.gpu import lower_gpu
from gputune.lower.kernels import GpuKernel, inner
from gputune.script import from_source


def parse(text: str) -> PrimFunc:
    out = from_source(text)
    return out if isinstance(out, PrimFunc) else out["main"]


def kernels_of(text: str) -> list[GpuKernel]:
    return list(lower_gpu(parse(text)).kernels)


def body_of(text: str) -> Stmt:
    (kernel,) = kernels_of(text)
    return inner(kernel.func)[1]


def barriers(s: Stmt) -> int:
    return sum(map(is_barrier, walk.walk_stmt(s)))


def all_of(s: Stmt, kind: type) -> list[Any]:
    return [x for x in walk.walk_stmt(s) if type(x) is kind]


HEAD = '@T.prim_func\ndef main(A: T.Buffer((64,), "float32"), B: T.Buffer((64,), "float32")):\n'
VIA_SHARED = (
    HEAD
    + """
    S = T.alloc_buffer((64,), scope="shared")
    for b in T.thread_binding({blocks}, thread="blockIdx.x"):
        for t in T.thread_binding({threads}, thread="threadIdx.x"):
            with T.block("S"):
                v = T.axis.spatial(64, b * {threads} + t)
                S[v] = A[v]
        for t in T.thread_binding({threads}, thread="threadIdx.x"):
            with T.block("B"):
                v = T.axis.spatial(64, b * {threads} + t)
                B[v] = S[{read}]
"""
)


# ----------------------------------------------------------------------------- kernels
def test_each_root_statement_is_a_kernel() -> None:
    text = (
        HEAD
        + """
    W = T.alloc_buffer((64,))
    for b in T.thread_binding(4, thread="blockIdx.x"):
        for t in T.thread_binding(16, thread="threadIdx.x"):
            with T.block("W"):
                v = T.axis.spatial(64, b * 16 + t)
                W[v] = A[v]
    for b in T.thread_binding(2, thread="blockIdx.y"):
        for t in T.thread_binding(32, thread="threadIdx.y"):
            with T.block("B"):
                v = T.axis.spatial(64, b * 32 + t)
                B[v] = W[63 - v]
    """
    )
    program = lower_gpu(parse(text))
    assert [w.name for w in program.workspaces] == ["W"]
    one, two = program.kernels
    assert (one.grid, one.block) == ((4, 1, 1), (16, 1, 1))
    assert (two.grid, two.block) == ((1, 2, 1), (1, 32, 1))
    assert [b.name for b in one.func.buffers] == ["A", "W"]
    assert [b.name for b in two.func.buffers] == ["B", "W"]


def test_a_shorter_loop_is_guarded() -> None:
    text = (
        HEAD
        + """
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for t in T.thread_binding(64, thread="threadIdx.x"):
            with T.block("x"):
                v = T.axis.spatial(64, t)
                B[v] = A[v]
        for t in T.thread_binding(8, thread="threadIdx.x"):
            with T.block("y"):
                v = T.axis.spatial(64, t)
                B[v] = A[v] + T.float32(1)
    """
    )
    (kernel,) = kernels_of(text)
    assert kernel.block == (64, 1, 1)
    assert [str(c.cond) for c in all_of(kernel.func.body, IfThenElse)] == ["thread_x < 8"]


REFUSED = {
    "unbound-block": HEAD
    + """
    for i in range(64):
        with T.block("x"):
            v = T.axis.spatial(64, i)
            B[v] = A[v]
    """,
    "launch-size": HEAD
    + """
    for t in T.thread_binding(64, thread="threadIdx.x"):
        for u in T.thread_binding(32, thread="threadIdx.y"):
            with T.block("x"):
                v = T.axis.spatial(64, t)
                B[v] = A[v]
    """,
    "host-loop": HEAD
    + """
    for i in range(2):
        for t in T.thread_binding(32, thread="blockIdx.x"):
            with T.block("x"):
                v = T.axis.spatial(64, i * 32 + t)
                B[v] = A[v]
    """,
    "axis-twice": HEAD
    + """
    for t in T.thread_binding(8, thread="threadIdx.x"):
        for u in T.thread_binding(8, thread="threadIdx.x"):
            with T.block("x"):
                v = T.axis.spatial(64, t * 8 + u)
                B[v] = A[v]
    """,
    "scope-kernels": HEAD
    + """
    S = T.alloc_buffer((64,), scope="shared")
    for t in T.thread_binding(64, thread="threadIdx.x"):
        with T.block("x"):
            v = T.axis.spatial(64, t)
            S[v] = A[v]
    for t in T.thread_binding(64, thread="threadIdx.x"):
        with T.block("y"):
            v = T.axis.spatial(64, t)
            B[v] = S[v]
    """,
    "grid-twice": HEAD
    + """
    for i in range(1):
        for b in T.thread_binding(64, thread="blockIdx.x"):
            with T.block("x"):
                v = T.axis.spatial(64, b)
                B[v] = A[v]
        for b in T.thread_binding(64, thread="blockIdx.x"):
            with T.block("y"):
                v = T.axis.spatial(64, b)
                B[v] = B[v] + A[v]
    """,
    "not-private": HEAD
    + """
    L = T.alloc_buffer((64,), scope="local")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for t in T.thread_binding(64, thread="threadIdx.x"):
            with T.block("L"):
                v = T.axis.spatial(64, t)
                L[v] = A[v]
        for t in T.thread_binding(64, thread="threadIdx.x"):
            with T.block("B"):
                v = T.axis.spatial(64, t)
                B[v] = L[63 - v]
    """,
    "cross-thread": HEAD
    + """
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for t in T.thread_binding(64, thread="threadIdx.x"):
            with T.block("x"):
                v = T.axis.reduce(64, t)
                with T.init():
                    B[0] = T.float32(0)
                B[0] = A[v] - B[0]
    """,
    "thread-race": HEAD
    + """
    S = T.alloc_buffer((64,), scope="shared")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for t in T.thread_binding(32, thread="threadIdx.x"):
            for k in range(2):
                with T.block("S"):
                    v = T.axis.spatial(64, t + k)
                    S[v] = A[v]
            with T.block("x"):
                v = T.axis.spatial(64, t)
                S[v // 2] = A[v]
            with T.block("B"):
                v = T.axis.spatial(64, t)
                B[v] = S[v]
    """,
    "grid-race": HEAD
    + """
    W = T.alloc_buffer((64,))
    for b in T.thread_binding(2, thread="blockIdx.x"):
        for t in T.thread_binding(48, thread="threadIdx.x"):
            with T.block("W"):
                v = T.axis.spatial(64, b * 16 + t)
                W[v] = A[v]
        for t in T.thread_binding(32, thread="threadIdx.x"):
            with T.block("B"):
                v = T.axis.spatial(64, b * 32 + t)
                B[v] = W[v]
    """,
    "grid-part": HEAD
    + """
    S = T.alloc_buffer((64,), scope="shared")
    for t in T.thread_binding(16, thread="threadIdx.x"):
        for b in T.thread_binding(4, thread="blockIdx.x"):
            with T.block("S"):
                v = T.axis.spatial(64, b * 16 + t)
                S[v] = A[v]
        for k in range(4):
            with T.block("B"):
                v = T.axis.spatial(64, k * 16 + t)
                B[v] = S[v]
    """,
    "divergent-barrier": HEAD
    + """
    S = T.alloc_buffer((64,), scope="shared")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for t in T.thread_binding(64, thread="threadIdx.x"):
            for k in range(t + 1):
                with T.block("S"):
                    v = T.axis.spatial(64, t)
                    w = T.axis.opaque(64, k)
                    S[v] = A[w]
                with T.block("B"):
                    v = T.axis.spatial(64, t)
                    w = T.axis.opaque(64, k)
                    B[v] = S[63 - v]
    """,
}


@pytest.mark.parametrize("code", REFUSED)
def test_refused(code: str) -> None:
    with pytest.raises(LowerError) as e:
        lower_gpu(parse(REFUSED[code]))
    assert e.value.code == code
    assert e.value.message.startswith("main: ")


# ----------------------------------------------------------------------------- loops on one axis
_WITHIN = """
    for t in T.thread_binding(8, thread="threadIdx.x"):
"""
_STORE = """for u in T.thread_binding(8, thread="threadIdx.x"):
                    with T.block("x"):
                        v = T.axis.spatial(64, {v})
                        {view}[{at}] = A[v]
"""
ONE_AXIS = {
    "an iterator of a block": HEAD
    + _WITHIN
    + """
            with T.block("o"):
                vt = T.axis.spatial(8, t)
                """
    + _STORE.format(v="u", view="B", at="vt * 8 + v"),
    "an iterator in another one": HEAD
    + _WITHIN
    + """
            with T.block("o"):
                vt = T.axis.spatial(4, t // 2)
                with T.block("p"):
                    vp = T.axis.spatial(8, vt * 2)
                    """
    + _STORE.format(v="u", view="B", at="vp * 8 + v").replace("\n    ", "\n        "),
    "a predicate": HEAD
    + _WITHIN
    + """
            with T.block("o"):
                vt = T.axis.spatial(8, t)
                T.where(t < 3)
                """
    + _STORE.format(v="u", view="B", at="v"),
    "a name": HEAD
    + _WITHIN
    + """
            with T.LetStmt(t * 8) as first:
                """
    + _STORE.format(v="u", view="B", at="first + v"),
    "a condition": HEAD
    + _WITHIN
    + """
            if t < 3:
                """
    + _STORE.format(v="u", view="B", at="v"),
    "a view": HEAD
    + _WITHIN
    + """
            with T.block("o"):
                vt = T.axis.spatial(8, t)
                V = T.match_buffer(B[vt * 8:vt * 8 + 8], (8,))
                """
    + _STORE.format(v="u", view="V", at="v"),
    "the length of a loop": HEAD
    + _WITHIN
    + """
            for k in range(t):
                """
    + _STORE.format(v="u", view="B", at="v"),
    "fewer threads than steps": HEAD
    + _WITHIN
    + """
            if True:
                """
    + _STORE.format(v="u", view="B", at="v").replace("binding(8", "binding(64"),
}


@pytest.mark.parametrize("through", ONE_AXIS)
def test_loops_on_one_axis_are_not_used_together(through: str) -> None:
    """Named for a bug: through what was not looked, most of the elements stayed unwritten."""
    with pytest.raises(LowerError) as e:
        lower_gpu(parse(ONE_AXIS[through]))
    assert e.value.code == "axis-twice"
    assert "loop u over threadIdx.x" in e.value.message
    assert e.value.hint


def test_threads_fetch_together_inside_a_block() -> None:
    text = (
        HEAD
        + """
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for t in T.thread_binding(64, thread="threadIdx.x"):
            with T.block("o"):
                vt = T.axis.spatial(64, t)
                S = T.alloc_buffer((64,), scope="shared")
                for u in T.thread_binding(64, thread="threadIdx.x"):
                    with T.block("S"):
                        v = T.axis.spatial(64, u)
                        S[v] = A[v]
                with T.block("B"):
                    v = T.axis.spatial(64, vt)
                    B[v] = S[63 - v]
    """
    )
    assert barriers(body_of(text)) == 1


# ----------------------------------------------------------------------------- who does what
def conditions(text: str) -> list[str]:
    return [str(c.cond) for c in all_of(body_of(text), IfThenElse)]


@pytest.mark.parametrize("name", ["a.b", "1x", "my-f"])
def test_the_name_of_a_kernel_is_one_in_c(name: str) -> None:
    text = VIA_SHARED.format(blocks=1, threads=64, read="v")
    (kernel,) = lower_gpu(parse(text).with_attr("global_symbol", name)).kernels
    assert kernel.name.isidentifier()


def test_a_block_beside_a_thread_loop_runs_once() -> None:
    """Named for a bug: each thread added to the same sum."""
    text = (
        HEAD
        + """
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for k in range(64):
            with T.block("sum"):
                v = T.axis.reduce(64, k)
                with T.init():
                    B[0] = T.float32(0)
                B[0] = B[0] + A[v]
        for t in T.thread_binding(32, thread="threadIdx.x"):
            with T.block("rest"):
                v = T.axis.spatial(64, t + 32)
                B[v] = A[v]
    """
    )
    assert "thread_x == 0" in conditions(text)


def test_each_thread_fills_registers_of_its_own() -> None:
    text = (
        HEAD
        + """
    L = T.alloc_buffer((1,), scope="local")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        with T.block("L"):
            L[0] = A[0]
        for t in T.thread_binding(32, thread="threadIdx.x"):
            with T.block("B"):
                v = T.axis.spatial(64, t)
                B[v] = L[0]
    """
    )
    assert conditions(text) == []


def test_a_fetch_that_does_not_depend_on_an_axis_around_it_is_done_once() -> None:
    """Named for a bug: all threads along y wrote the same element."""
    text = (
        HEAD
        + """
    S = T.alloc_buffer((64,), scope="shared")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for y in T.thread_binding(4, thread="threadIdx.y"):
            for x in T.thread_binding(16, thread="threadIdx.x"):
                with T.block("S"):
                    v = T.axis.spatial(64, x)
                    S[v] = A[v]
            for x in T.thread_binding(16, thread="threadIdx.x"):
                with T.block("B"):
                    v = T.axis.spatial(64, y * 16 + x)
                    B[v] = S[v % 16]
    """
    )
    assert conditions(text) == ["thread_y == 0"]


def test_a_statement_outside_blocks_under_a_shorter_loop_is_guarded() -> None:
    """Named for a bug: the condition was put on blocks only, of which there was none."""
    text = (
        HEAD
        + """
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for t in T.thread_binding(64, thread="threadIdx.x"):
            with T.block("x"):
                v = T.axis.spatial(64, t)
                B[v] = A[v]
        for t in T.thread_binding(8, thread="threadIdx.x"):
            B[t] = T.float32(0)
    """
    )
    assert conditions(text) == ["thread_x < 8"]


def test_registers_that_other_threads_filled_for_this_block_are_refused() -> None:
    """Named for a bug: where only one side names the block, nothing was checked."""
    text = (
        HEAD
        + """
    L = T.alloc_buffer((64,), scope="local")
    for b in T.thread_binding(2, thread="blockIdx.x"):
        for k in range(4):
            for t in T.thread_binding(16, thread="threadIdx.x"):
                with T.block("L"):
                    v = T.axis.spatial(64, k * 16 + t)
                    L[v] = A[v]
        for t in T.thread_binding(16, thread="threadIdx.x"):
            with T.block("B"):
                v = T.axis.spatial(64, b * 32 + t)
                B[v] = L[b * 32 + 15 - t]
    """
    )
    with pytest.raises(LowerError) as e:
        lower_gpu(parse(text))
    assert e.value.code == "not-private"


def test_a_global_buffer_of_a_block_inside_a_kernel_is_each_threads_own() -> None:
    """Named for a bug: the random law found that only registers were looked at, and thread 0 read
    what others had written to theirs."""
    text = (
        HEAD
        + """
    for b in T.thread_binding(1, thread="blockIdx.x"):
        with T.block("all"):
            T.reads(A[0:64])
            T.writes(B[0:64])
            G = T.alloc_buffer((64,))
            for t in T.thread_binding(64, thread="threadIdx.x"):
                with T.block("G"):
                    v = T.axis.spatial(64, t)
                    G[v] = A[v]
            for k in range(64):
                with T.block("B"):
                    v = T.axis.spatial(64, k)
                    B[v] = G[v]
    """
    )
    with pytest.raises(LowerError, match="each thread has one of its own") as e:
        lower_gpu(parse(text))
    assert e.value.code == "not-private"


def test_each_block_may_have_its_part_of_a_global_buffer() -> None:
    text = REFUSED["grid-race"].replace("binding(48", "binding(32").replace("b * 16", "b * 32")
    assert barriers(body_of(text)) == 0


# ----------------------------------------------------------------------------- barriers
def test_no_barrier_where_the_condition_keeps_rounds_apart() -> None:
    """Named for a flaw: conditions on loop and thread together were left out of the count."""
    text = (
        HEAD
        + """
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for k in range(6):
            for t in T.thread_binding(4, thread="threadIdx.x"):
                for i in range(4):
                    with T.block("x"):
                        v = T.axis.opaque(16, k // 2 * 4 + i)
                        w = T.axis.opaque(32, k % 2 * 16 + t * 4)
                        T.where(k // 2 * 4 + i < 16 and k % 2 * 16 + t * 4 < 4)
                        B[v * 4 + w] = A[v]
    """
    )
    assert barriers(body_of(text)) == 0


def test_a_barrier_where_threads_exchange() -> None:
    assert barriers(body_of(VIA_SHARED.format(blocks=1, threads=64, read="63 - v"))) == 1


def test_no_barrier_where_each_thread_keeps_its_own() -> None:
    assert barriers(body_of(VIA_SHARED.format(blocks=1, threads=64, read="v"))) == 0


def test_no_barrier_for_one_thread() -> None:
    assert barriers(body_of(VIA_SHARED.format(blocks=64, threads=1, read="v"))) == 0


SHIFTED = (
    HEAD
    + """
    S = T.alloc_buffer((128,), scope="shared")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for t in T.thread_binding(16, thread="threadIdx.x"):
            for k in range(4):
                with T.block("S"):
                    v = T.axis.spatial(64, k * 16 + t)
                    S[v] = A[v]
            for k in range(4):
                with T.block("B"):
                    v = T.axis.spatial(64, k * 16 + t)
                    B[v] = S[{read}]
"""
)


@pytest.mark.parametrize(
    ("read", "count"),
    [
        ("v", 0),  # elements of other iterations belong to the same thread
        ("v // 16 * 16 + v % 16", 0),
        ("(v + 16) % 64", 0),
        ("(v + 8) % 64", 1),
    ],
)
def test_elements_are_counted_out(read: str, count: int) -> None:
    assert barriers(body_of(SHIFTED.format(read=read))) == count


IN_A_LOOP = (
    HEAD
    + """
    S = T.alloc_buffer((64,), scope="shared")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for k in range(4):
            for t in T.thread_binding(16, thread="threadIdx.x"):
                with T.block("S"):
                    v = T.axis.spatial(64, {write})
                    S[v] = A[k * 16 + t]
            for t in T.thread_binding(16, thread="threadIdx.x"):
                with T.block("B"):
                    v = T.axis.spatial(64, k * 16 + t)
                    B[v] = S[{read}]
"""
)


@pytest.mark.parametrize(
    ("write", "read", "count"),
    [
        ("t", "15 - t", 2),  # written, read, and written again by others
        ("k * 16 + t", "k * 16 + 15 - t", 1),  # each round has a place of its own
        ("t", "t", 0),
    ],
)
def test_the_next_round_waits_for_the_last(write: str, read: str, count: int) -> None:
    text = IN_A_LOOP.format(write=write, read=read).replace("T.axis.spatial", "T.axis.opaque")
    assert barriers(body_of(text)) == count


def test_no_barrier_between_what_one_thread_does_under_conditions() -> None:
    """Named for a bug: a condition on the thread was not seen, and a barrier put under it."""
    text = (
        HEAD
        + """
    S = T.alloc_buffer((64,), scope="shared")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for t in T.thread_binding(64, thread="threadIdx.x"):
            with T.block("S"):
                v = T.axis.opaque(64, t)
                T.where(t == 0)
                S[0] = A[v]
            with T.block("B"):
                v = T.axis.opaque(64, t)
                T.where(t == 0)
                B[v] = S[0]
    """
    )
    assert barriers(body_of(text)) == 0


def test_a_barrier_comes_between_statements_under_one_condition() -> None:
    text = (
        HEAD
        + """
    S = T.alloc_buffer((64,), scope="shared")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for t in T.thread_binding(64, thread="threadIdx.x"):
            with T.block("x"):
                v = T.axis.opaque(64, t)
                T.where(t < 32)
                T.reads(A[v])
                T.writes(B[v], S[v])
                S[v] = A[v]
                B[v] = S[31 - v]
    """
    )
    body = body_of(text)
    assert barriers(body) == 1
    assert not any(barriers(c) for c in all_of(body, IfThenElse))
    assert len(all_of(body, IfThenElse)) == 2


# ----------------------------------------------------------------------------- memory
def test_shared_memory_holds_what_a_block_needs_of_one_round() -> None:
    text = """@T.prim_func
def main(A: T.Buffer((64, 32), "float32"), B: T.Buffer((64,), "float32")):
    S = T.alloc_buffer((64, 32), scope="shared")
    L = T.alloc_buffer((64,), scope="local")
    for b in T.thread_binding(4, thread="blockIdx.x"):
        for t in T.thread_binding(16, thread="threadIdx.x"):
            for k in range(4):
                for f in range(8):
                    for u in T.thread_binding(16, thread="threadIdx.x"):
                        with T.block("S"):
                            v = T.axis.spatial(64, b * 16 + (f * 16 + u) // 8)
                            w = T.axis.spatial(32, k * 8 + (f * 16 + u) % 8)
                            S[v, w] = A[v, w]
                for r in range(8):
                    with T.block("L"):
                        v = T.axis.spatial(64, b * 16 + t)
                        w = T.axis.reduce(32, k * 8 + r)
                        with T.init():
                            L[v] = T.float32(0)
                        L[v] = L[v] + S[v, w]
            with T.block("B"):
                v = T.axis.spatial(64, b * 16 + t)
                B[v] = L[v]
    """
    body = body_of(text)
    sizes = {a.buffer.name: [int(n.value) for n in a.buffer.shape] for a in all_of(body, Alloc)}
    assert sizes == {"S": [16, 8], "L": [1]}
    assert barriers(body) == 2


# ----------------------------------------------------------------------------- reductions
ROW_SUM = """@T.prim_func
def main(A: T.Buffer((4, {n}), "float32"), B: T.Buffer((4,), "float32")):
    for b in T.thread_binding(4, thread="blockIdx.x"):
        for k in range({steps}):
            for t in T.thread_binding({threads}, thread="threadIdx.x"):
                with T.block("B"):
                    v = T.axis.spatial(4, b)
                    w = T.axis.reduce({n}, k * {threads} + t)
                    T.where(k * {threads} + t < {n})
                    with T.init():
                        B[v] = T.float32(0)
                    B[v] = B[v] + A[v, w]
"""


@pytest.mark.parametrize(("threads", "warps"), [(2, 1), (32, 1), (48, 2), (64, 2)])
def test_threads_share_a_reduction(threads: int, warps: int) -> None:
    n = threads * 3 - 1
    body = body_of(ROW_SUM.format(n=n, steps=3, threads=threads))
    sizes = {a.buffer.name: (a.buffer.scope, str(a.buffer.shape[0])) for a in all_of(body, Alloc)}
    own, between = {"B_thread": ("local", "1")}, {"B_shares": ("shared", str(warps))}
    assert sizes == (own if warps == 1 else own | between)
    assert barriers(body) == warps - 1  # before the first warp takes what the others left
    loops = all_of(body, For)
    assert [f.var.name for f in loops] == ["k"]
    assert barriers(loops[0].body) == 0


def test_guards_stand_outside_loops() -> None:
    text = (
        HEAD
        + """
    for b in T.thread_binding(3, thread="blockIdx.x"):
        for t in T.thread_binding(4, thread="threadIdx.x"):
            for k in range(6):
                with T.block("x"):
                    v = T.axis.spatial(64, (b * 4 + t) * 6 + k)
                    T.where(b * 4 + t < 10)
                    B[v] = A[v]
    """
    )
    body = body_of(text)
    assert type(body) is IfThenElse
    assert type(body.then) is For


def test_equal_guards_are_one() -> None:
    text = (
        HEAD
        + """
    for b in T.thread_binding(3, thread="blockIdx.x"):
        for t in T.thread_binding(25, thread="threadIdx.x"):
            with T.block("x"):
                v = T.axis.opaque(64, b * 25 + t)
                T.where(b * 25 + t < 64)
                B[v] = A[v]
            with T.block("y"):
                v = T.axis.opaque(64, b * 25 + t)
                T.where(b * 25 + t < 64)
                B[v] = B[v] + A[v]
    """
    )
    body = body_of(text)
    assert type(body) is IfThenElse
    assert type(body.then) is Seq
