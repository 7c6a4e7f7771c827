"""read_at, write_at, and how the blocks that they make are lowered."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.ir.nodes import Block, BlockKey, For, IntImm, PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.lower.auto_copy import shared_copies, vector_copies
from gputune.lower.limits import CpuLimits
from gputune.runtime.module import build
from gputune.schedule import LoopRV, Schedule
from gputune.script import tir as T
from tests.properties.moves import inputs, results
from tests.properties.programs import matmul

from . import schedule_programs as programs
from .everywhere import one_replay_is_all, same_everywhere
from .schedule_helpers import loops, prints, refuses, scheduled


def tiled(s: Schedule, i: int = 4, j: int = 3, k: int = 3) -> list[LoopRV]:
    """i0 j0 k0 i1 j1 k1 of the matmul, of which none need divide."""
    parts = [s.split(x, [None, n]) for x, n in zip(loops(s, "C"), (i, j, k), strict=True)]
    order = [p[0] for p in parts] + [p[1] for p in parts]
    s.reorder(*order)
    return order


# ----------------------------------------------------------------------------- before and after
def test_read_at_copies_what_each_iteration_reads() -> None:
    def do(s: Schedule) -> None:
        i = s.split(loops(s, "Y")[0], [None, 3])[0]
        assert s.get(s.read_at(i, "Y", 0, "local")).name == "B_local"

    sch = same_everywhere(programs.halo(), do)
    prints(
        sch,
        """
        B = T.alloc_buffer((10,))
        B_local = T.alloc_buffer((10,), scope="local")
        for i in range(10):
            with T.block("B"):
                vi = T.axis.spatial(10, i)
                T.reads(X[vi:vi + 3])
                T.writes(B[vi])
                B[vi] = X[vi] + X[vi + 1] * T.float32(2) + X[vi + 2]
        for i_0 in range(3):
            with T.block("B_local"):
                v0 = T.axis.spatial(3, i_0)
                T.reads(B[v0 * 3:v0 * 3 + 5])
                T.writes(B_local[v0 * 3:v0 * 3 + 5])
                T.block_attr({"auto_copy": 1})
                for ax0 in range(5):
                    if v0 * 3 + ax0 < 10:
                        B_local[v0 * 3 + ax0] = B[v0 * 3 + ax0]
            for i_1 in range(3):
                with T.block("Y"):
                    vi = T.axis.spatial(8, i_0 * 3 + i_1)
                    T.where(i_0 * 3 + i_1 < 8)
                    T.reads(B_local[vi:vi + 3])
                    T.writes(Y[vi])
                    Y[vi] = B_local[vi] - B_local[vi + 1] + B_local[vi + 2]
    """,
    )
    assert [x[0::2] for x in sch.trace.as_json()[0]][-1] == ["ReadAt", [0, "local"]]


def test_write_at_copies_back_what_each_iteration_wrote() -> None:
    def do(s: Schedule) -> None:
        i = s.split(loops(s, "Y")[0], [None, 3])[0]
        assert s.get(s.write_at(i, "Y", "Y", "local")).name == "Y_local"

    sch = same_everywhere(programs.copy2d(8, 5), do)
    prints(
        sch,
        """
        Y_local = T.alloc_buffer((8, 5), scope="local")
        for i_0 in range(3):
            for i_1, j in T.grid(3, 5):
                with T.block("Y"):
                    vi = T.axis.spatial(8, i_0 * 3 + i_1)
                    vj = T.axis.spatial(5, j)
                    T.where(i_0 * 3 + i_1 < 8)
                    T.reads(X[vi, vj])
                    T.writes(Y_local[vi, vj])
                    Y_local[vi, vj] = X[vi, vj] + T.float32(1)
            with T.block("Y_local"):
                v0 = T.axis.spatial(3, i_0)
                T.reads(Y_local[v0 * 3:v0 * 3 + 3, 0:5])
                T.writes(Y[v0 * 3:v0 * 3 + 3, 0:5])
                T.block_attr({"auto_copy": 1})
                for ax0, ax1 in T.grid(3, 5):
                    if v0 * 3 + ax0 < 8:
                        Y[v0 * 3 + ax0, ax1] = Y_local[v0 * 3 + ax0, ax1]
    """,
    )


# ----------------------------------------------------------------------------- meaning
@pytest.mark.parametrize("sizes", [(4, 3, 3), (2, 2, 4), (6, 4, 8), (5, 1, 7)])
def test_the_tiles_of_a_matmul(sizes: tuple[int, int, int]) -> None:
    def do(s: Schedule) -> None:
        i0, j0, k0, *_ = tiled(s, *sizes)
        s.read_at(k0, "C", 0, "global")
        s.read_at(k0, "C", 1, "local")
        s.write_at(j0, "C", 0, "local")
        s.parallel(i0)

    same_everywhere(matmul(), do)


def test_write_at_before_and_after_decompose_reduction() -> None:
    def before(s: Schedule) -> None:
        _, j0, k0, *_ = tiled(s)
        s.write_at(j0, "C", 0, "local")
        s.decompose_reduction("C", k0)

    def after(s: Schedule) -> None:
        _, j0, k0, *_ = tiled(s)
        s.decompose_reduction("C", k0)
        s.write_at(j0, "C_update", 0, "local")

    a, b = same_everywhere(matmul(), before), same_everywhere(matmul(), after)
    assert a.mod.script() == b.mod.script()


def test_readers_between_writers_follow_and_later_ones_read_the_copy_back() -> None:
    def do(s: Schedule) -> None:
        i = s.split(loops(s, "Y")[0], [None, 3])[0]
        s.compute_at("B", i)
        s.write_at(i, "B", 0, "local")
        s.read_at(i, "Y", 0, "global")

    sch = same_everywhere(programs.halo(), do)
    assert sch.get(sch.get_block("B_local")).writes[0].buffer.name == "B"
    assert sch.get(sch.get_block("B_global")).reads[0].buffer.name == "B"

    def inside(s: Schedule) -> None:
        i, j = loops(s, "Y")
        s.compute_at("B", j)
        s.write_at(i, "B", 0, "local")

    sch = same_everywhere(programs.chain(), inside)
    assert sch.get(sch.get_block("Y")).reads[0].buffer.name == "B_local"


def test_a_copy_may_be_copied_and_moved_loops_stay_right() -> None:
    def do(s: Schedule) -> None:
        i = s.split(loops(s, "Y")[0], [None, 3])[0]
        s.compute_at("B", i)
        s.read_at(i, "Y", 0, "local")
        s.cache_read("Y", 0, "global")  # the copied box ends where the buffer does
        s.split(i, [None, 2])

    same_everywhere(programs.halo(), do)


def test_reads_of_several_blocks_and_in_several_directions() -> None:
    def do(s: Schedule) -> None:
        d = s.split(loops(s, "D")[0], [None, 3])[0]
        s.read_at(d, "D", "B", "local")
        c = s.split(loops(s, "C")[0], [None, 3])[0]
        s.read_at(c, "C", 0, "global")

    same_everywhere(programs.diamond(), do)


def test_blocks_inside_blocks() -> None:
    def do(s: Schedule) -> None:
        i = loops(s, "inner")[0]
        s.read_at(i, "inner", 0, "local")
        s.write_at(i, "inner", 0, "local")
        s.read_at(loops(s, "outer")[1], "outer", 0, "global")

    sch = same_everywhere(programs.nested_blocks(), do)
    assert {b.name for b in sch.get(sch.get_block("outer")).alloc_buffers} == {
        "B_local",
        "Y_local",
    }


def test_sixty_four_bit_loops() -> None:
    def do(s: Schedule) -> None:
        i = s.split(loops(s, "Y")[0], [None, 3])[0]
        s.read_at(i, "Y", 0, "local")
        s.write_at(i, "Y", 0, "local")

    same_everywhere(programs.wide_indices(), do)


def test_symbolic_shapes_are_copied_whole() -> None:
    @T.prim_func
    def f(a: T.handle, y: T.handle):
        n = T.int32()
        A = T.match_buffer(a, (n, 4), "float32")
        Y = T.match_buffer(y, (n, 4), "float32")
        for i, j in T.grid(n, 4):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = A[vi, vj] + A[vi, 3 - vj]

    sch = scheduled(f)
    sch.read_at(loops(sch, "Y")[0], "Y", 0, "local")
    x = np.arange(12, dtype="float32").reshape(3, 4)
    y = np.zeros_like(x)
    build(sch.mod, "llvm --num-cores=1")["f"](x, y)
    assert np.array_equal(y, x + x[:, ::-1])


def test_one_replay_with_sampled_tiles() -> None:
    def do(s: Schedule) -> None:
        i, _j = loops(s, "Y")
        v = s.sample_perfect_tile(i, 3, 64, decision=[2, 3, 2])
        i0, i1, _ = s.split(i, v)
        s.read_at(i1, "Y", 0, "local")
        s.write_at(i0, "Y", 0, "local")

    rows = [[2, 3, 2], [3, 2, 2], [2, 2, 3]]
    assert one_replay_is_all(programs.copy2d(12, 5), do, rows) == 1


# ----------------------------------------------------------------------------- refusals
def test_both_refuse_arguments() -> None:
    sch = scheduled(programs.halo())
    i, other = loops(sch, "Y")[0], loops(sch, "B")[0]
    for at in (sch.read_at, sch.write_at):
        refuses(sch, "storage-scope", partial(at, i, "Y", 0, "moon"), names="'moon'")
        refuses(sch, "buffer-index", partial(at, i, "Y", 7, "local"), names="7")
        refuses(sch, "buffer-index", partial(at, i, "Y", "Q", "local"), names="'Q'")
        refuses(sch, "argument", partial(at, i, "Y", 1.5, "local"), names="buffer_index")
        refuses(sch, "argument", partial(at, i, "Y", 0, 3), names="storage_scope")
        e = refuses(sch, "copy-under", partial(at, other, "Y", 0, "local"), names="not under")
        assert "get_loops" in e.hint
        refuses(sch, "not-a-loop", partial(at, "i", "Y", 0, "local"))
    sch = scheduled(programs.nested_blocks())
    outer = loops(sch, "outer")[0]
    refuses(sch, "copy-scope", lambda: sch.read_at(outer, "inner", 0, "local"), names="scopes")


def test_read_at_refuses_what_would_be_out_of_date() -> None:
    sch = scheduled(programs.recurrence())
    i = loops(sch, "Y")[0]
    e = refuses(sch, "copy-order", lambda: sch.read_at(i, "Y", "Y", "local"), names="writes Y")
    assert "only readers" in e.hint
    sch = scheduled(programs.chain())
    i, j = loops(sch, "Y")
    sch.compute_at("B", j)
    refuses(sch, "copy-order", lambda: sch.read_at(i, "Y", 0, "local"), names="under the loop i")
    sch.read_at(j, "Y", 0, "local")


def test_write_at_refuses_parts() -> None:
    sch = scheduled(matmul())
    k = loops(sch, "C")[2]
    refuses(sch, "copy-partial", lambda: sch.write_at(k, "C", 0, "local"), names="reduce iterator")
    sch = scheduled(matmul())
    i, _j, k = loops(sch, "C")
    sch.decompose_reduction("C", k)
    refuses(
        sch, "copy-partial", lambda: sch.write_at(k, "C_update", 0, "local"), names="held before"
    )
    sch = scheduled(programs.guarded())
    i = loops(sch, "Y")[0]
    refuses(sch, "copy-partial", lambda: sch.write_at(i, "Y", 0, "local"), names="condition or let")
    sch = scheduled(programs.prefix_sum())
    i = loops(sch, "Q")[0]
    refuses(sch, "not-pipeline", lambda: sch.write_at(i, "Q", 0, "local"))

    @T.prim_func
    def gaps(X: T.Buffer((8,), "float32"), Y: T.Buffer((16,), "float32")):
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi * 2] = X[vi]

    sch = scheduled(gaps)
    i = sch.split(loops(sch, "Y")[0], [4, 2])[0]
    refuses(sch, "copy-partial", lambda: sch.write_at(i, "Y", 0, "local"), names="gaps")
    sch = scheduled(gaps)
    i = sch.split(loops(sch, "Y")[0], [3, 3])[0]
    refuses(sch, "copy-partial", lambda: sch.write_at(i, "Y", 0, "local"), names="predicate")


def test_write_at_refuses_readers_before_the_writer_or_of_more() -> None:
    @T.prim_func
    def f(X: T.Buffer((4, 6), "float32"), Y: T.Buffer((4, 6), "float32")):
        B = T.alloc_buffer((4, 6))
        for i in range(4):
            for j in range(6):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    Y[vi, vj] = T.if_then_else(vj > 0, B[vi, vj - 1], 0.0)
                with T.block("B"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    B[vi, vj] = X[vi, vj]

    sch = scheduled(f, enable_check=False)
    i, _j = loops(sch, "B")
    refuses(sch, "copy-order", lambda: sch.write_at(i, "B", 0, "local"), names="before it")

    @T.prim_func
    def g(X: T.Buffer((4,), "float32"), Y: T.Buffer((4,), "float32")):
        B = T.alloc_buffer((4,))
        for i in range(4):
            for _j in range(1):
                with T.block("B"):
                    vi = T.axis.spatial(4, i)
                    B[vi] = X[vi]
                with T.block("Y"):
                    vi = T.axis.spatial(4, i)
                    Y[vi] = B[vi] + T.if_then_else(vi > 0, B[vi - 1], 0.0)

    sch = scheduled(g, enable_check=False)
    i, _ = loops(sch, "B")
    refuses(sch, "copy-partial", lambda: sch.write_at(i, "B", 0, "local"), names="touches more")


def test_refusals_of_bindings_partial_owners_and_dependent_loops() -> None:
    @T.prim_func
    def by_data(X: T.Buffer((8,), "int32"), Y: T.Buffer((8,), "int32")):
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                T.where(X[i] > 0)
                Y[vi] = X[vi]

    sch = scheduled(by_data)
    i = loops(sch, "Y")[0]
    refuses(sch, "copy-binding", lambda: sch.read_at(i, "Y", 0, "local"), names="predicate")
    sch = scheduled(programs.triangle())
    i, j = loops(sch, "Y")
    refuses(sch, "copy-loop", lambda: sch.read_at(j, "Y", 0, "local"), names="loop j")
    refuses(sch, "place-region", lambda: sch.read_at(i, "Y", 0, "local"), names="not constant")

    @T.prim_func
    def owner(X: T.Buffer((8, 4), "float32"), Y: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("outer"):
                vo = T.axis.spatial(8, i)
                T.reads(X[vo, 0:2])
                T.writes(Y[vo])
                for k in range(2):
                    with T.block("Y"):
                        vk = T.axis.reduce(2, k)
                        T.reads(X[vo, 0:4])
                        T.writes(Y[vo])
                        with T.init():
                            Y[vo] = 0.0
                        Y[vo] = Y[vo] + X[vo, vk]

    sch = scheduled(owner)
    k = loops(sch, "Y")[0]
    refuses(sch, "cache-partial", lambda: sch.read_at(k, "Y", 0, "local"), names="only a part of X")


# ----------------------------------------------------------------------------- lowering
def test_a_copy_is_a_vector_loop_on_a_cpu() -> None:
    sch = scheduled(matmul())
    _, _, k0, *_ = tiled(sch)
    sch.read_at(k0, "C", 1, "local")
    lowered = vector_copies(sch.mod["f"], CpuLimits())
    kinds = [x.kind for x in walk_stmt(lowered.body) if type(x) is For and x.var.name[:2] == "ax"]
    assert kinds == ["serial", "vectorized"]


def test_what_only_says_that_it_copies_is_left_alone() -> None:
    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        with T.block("Y"):
            T.reads(X[0:8])
            T.writes(Y[0:8])
            T.block_attr({"auto_copy": 1})
            for i in range(8):
                Y[i] = X[i] + 1.0

    assert vector_copies(f, CpuLimits()).script() == f.script()


def on_gpu(func: PrimFunc, do: Callable[[Schedule], None]) -> str:
    """The source of a kernel that computes what the program does, with no race, in three orders of
    its threads."""
    sch = scheduled(func)
    do(sch)
    source = generate(sch.mod[func.name])
    code, arrays = host_compile(source), inputs(func, 1)
    params = source.host.params
    values = {p.name: None if p.written else a for p, a in zip(params, arrays, strict=True)}
    for order in ("forward", "reverse", "random"):
        report = host_run(code, values, order=order, seed=1)
        assert report.completed, source.text
        assert not report.findings, f"{report}\n{source.text}"
        for p, w in zip(params, results(func, 1), strict=True):
            if p.written:
                assert np.array_equal(report.outputs[p.name].reshape(w.shape), w), source.text
    return source.text


def bound(s: Schedule) -> list[LoopRV]:
    order = tiled(s)
    i0, j0, k0, i1, j1, k1 = order
    s.reorder(i0, j0, i1, j1, k0, k1)
    for loop, axis in ((i0, "block"), (i1, "thread")):
        s.bind(loop, f"{axis}Idx.y")
    for loop, axis in ((j0, "block"), (j1, "thread")):
        s.bind(loop, f"{axis}Idx.x")
    return [i0, j0, i1, j1, k0, k1]


def test_threads_share_a_copy_to_shared_memory() -> None:
    def do(s: Schedule) -> None:
        *_, k0, _ = bound(s)
        s.read_at(k0, "C", 0, "shared")
        s.read_at(k0, "C", 1, "shared")

    text = on_gpu(matmul(), do)
    assert "float A_shared[12]" in text  # 4 rows of 3: what a block needs at a time
    assert "A_shared[thread_y * 3 + thread_x] = " in text  # one element a thread


def test_copies_of_a_block_and_of_a_thread() -> None:
    def block(s: Schedule) -> None:
        _, j0, *_ = bound(s)
        s.read_at(j0, "C", 0, "shared")
        s.write_at(j0, "C", 0, "shared")

    def thread(s: Schedule) -> None:
        *_, j1, k0, _ = bound(s)
        s.read_at(k0, "C", 0, "local")
        s.write_at(j1, "C", 0, "local")

    def mixed(s: Schedule) -> None:
        *_, j1, k0, _ = bound(s)
        s.read_at(k0, "C", 1, "shared")
        s.write_at(j1, "C", 0, "shared")

    for do in (block, thread, mixed):
        on_gpu(matmul(), do)


def test_a_copy_that_becomes_one_of_each_thread_stays_with_it() -> None:
    """The loop on which the copy depends is bound to threads only afterwards."""

    def do(s: Schedule) -> None:
        i, _ = loops(s, "Y")
        s.write_at(i, "Y", 0, "shared")
        s.read_at(i, "Y", 0, "shared")
        s.bind(i, "threadIdx.x")

    on_gpu(programs.copy2d(4, 6), do)


def test_shared_copies_of_unknown_size_stay_as_they_are() -> None:
    sch = scheduled(matmul())
    k0 = tiled(sch)[2]
    copy = sch.get(sch.read_at(k0, "C", 0, "shared"))
    assert shared_copies(copy, {"blockIdx.x": 4}) is copy  # no threads to share it
    work = shared_copies(copy, {"threadIdx.x": 5})
    assert type(work) is Block
    turns = [x.extent for x in walk_stmt(work.body) if type(x) is For]
    assert [x.value for x in turns if type(x) is IntImm] == [5, 3]
    assert type(work.key) is BlockKey


def test_write_at_refuses_where_a_block_around_drives_the_reduction() -> None:
    """Named for a bug: the partial sums were in a copy of which each run of the block has one."""
    sch = scheduled(matmul())
    sch.blockize(["C"], preserve_unit_iters=False)
    sch.add_unit_loop("C")
    (u,) = loops(sch, "C")
    e = refuses(sch, "copy-partial", lambda: sch.write_at(u, "C", 0, "shared"), names="block C")
    assert "a block around it drives the reduce iterator vk" in e.message
