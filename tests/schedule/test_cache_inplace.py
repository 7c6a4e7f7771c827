"""cache_inplace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.schedule import Schedule
from gputune.script import tir as T
from tests.properties.programs import bytes_matmul

from . import schedule_programs as programs
from .cache_checks import same_everywhere
from .schedule_helpers import loops, prints, refuses, scheduled


def smooth() -> PrimFunc:
    """Each iteration reads what the ones before it have written, and looks one ahead."""

    @T.prim_func
    def f(X: T.Buffer((10,), "float32"), Y: T.Buffer((10,), "float32")):
        for i in range(10):
            with T.block("B"):
                vi = T.axis.spatial(10, i)
                Y[vi] = X[vi]
        for i in range(7):
            with T.block("Y"):
                vi = T.axis.spatial(7, i)
                T.reads(Y[vi : vi + 3])
                T.writes(Y[vi + 1])
                Y[vi + 1] = Y[vi] * 2.0 - Y[vi + 1] + Y[vi + 2]

    return f


# ----------------------------------------------------------------------------- what comes out
def test_cache_inplace_prints_both_copies() -> None:
    def do(s: Schedule) -> None:
        there, back = s.cache_inplace("Y", 0, "local")
        assert (s.get(there).name, s.get(back).name) == ("Y_local", "Y_local_1")

    sch = same_everywhere(smooth(), do)
    prints(
        sch,
        """
        Y_local = T.alloc_buffer((10,), scope="local")
        for i in range(10):
            with T.block("B"):
                vi = T.axis.spatial(10, i)
                T.reads(X[vi])
                T.writes(Y[vi])
                Y[vi] = X[vi]
        for i in range(7):
            for ax0 in range(3):
                with T.block("Y_local"):
                    v0 = T.axis.spatial(10, i + ax0)
                    T.reads(Y[v0])
                    T.writes(Y_local[v0])
                    Y_local[v0] = Y[v0]
            with T.block("Y"):
                vi = T.axis.spatial(7, i)
                T.reads(Y_local[vi:vi + 3])
                T.writes(Y_local[vi + 1])
                Y_local[vi + 1] = Y_local[vi] * T.float32(2) - Y_local[vi + 1] + Y_local[vi + 2]
            for ax0 in range(1):
                with T.block("Y_local_1"):
                    v0 = T.axis.spatial(10, i + 1 + ax0)
                    T.reads(Y_local[v0])
                    T.writes(Y[v0])
                    Y[v0] = Y_local[v0]
    """,
    )


def test_the_instruction() -> None:
    sch = scheduled(smooth())
    sch.cache_inplace("Y", "Y", "shared")
    assert sch.trace.as_json()[0][1] == ["CacheInplace", ["b0"], ["Y", "shared"], ["b1", "b2"]]
    assert str(sch.trace).splitlines()[1] == (
        'b1, b2 = sch.cache_inplace(block=b0, read_buffer_index="Y", storage_scope="shared")'
    )


def test_the_buffer_may_be_given_as_such() -> None:
    def do(s: Schedule) -> None:
        b = s.get_block("Y")
        s.cache_inplace(b, s.get(b).reads[0].buffer, "local")

    sch = same_everywhere(smooth(), do)
    assert sch.trace.as_json()[0][1][2] == [0, "local"]


# ----------------------------------------------------------------------------- on what programs
def test_sums_after_splits_that_do_not_divide() -> None:
    """The copies run just where the block does: elsewhere they would be outside the buffer."""

    def do(s: Schedule) -> None:
        i, k = loops(s, "Y")
        s.decompose_reduction("Y", k)
        s.split(k, [None, 3])
        s.split(i, [None, 3])
        there, back = s.cache_inplace("Y_update", "Y", "local")
        want = "k_0 * 3 + k_1 < 7 and i_0 * 3 + i_1 < 4"
        assert [str(s.get(x).predicate) for x in (there, back)] == [want, want]
        s.split(s.get_loops(there)[2], [2, 2])

    same_everywhere(programs.row_sum(), do)


def test_a_reduction_that_reads_what_it_wrote_before() -> None:
    same_everywhere(programs.recurrence(), lambda s: s.cache_inplace("Y", "Y", "shared"))


def test_what_sticks_out_of_the_buffer_is_not_copied() -> None:
    """The block looks around and says so; at both ends there is nothing."""

    @T.prim_func
    def f(Y: T.Buffer((6,), "float32")):
        for i in range(6):
            with T.block("Y"):
                vi = T.axis.spatial(6, i)
                T.reads(Y[vi - 2 : vi + 2])
                T.writes(Y[vi : vi + 2])
                Y[vi] = T.if_then_else(vi >= 2, Y[vi - 2], 1.0) + Y[vi]
                if vi < 5:
                    Y[vi + 1] = Y[vi + 1] - Y[vi]

    def do(s: Schedule) -> None:
        there, back = s.cache_inplace("Y", 0, "local")
        assert str(s.get(there).predicate) == "i - 2 + ax0 >= 0 and i - 2 + ax0 < 6"
        assert str(s.get(back).predicate) == "i + ax0 < 6"

    same_everywhere(f, do)


def test_elements_that_the_block_leaves_alone_come_back_as_they_were() -> None:
    """What is written at most is more than what is written, and more than what is read."""

    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8, 3), "float32")):
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                T.reads(X[vi], Y[vi, 1])
                T.writes(Y[vi, 0:3])
                if X[vi] > 0.0:
                    Y[vi, 2] = Y[vi, 1] + X[vi]

    same_everywhere(f, lambda s: s.cache_inplace("Y", "Y", "local"))


def test_where_data_decides_all_of_the_dimension_is_copied() -> None:
    @T.prim_func
    def f(X: T.Buffer((6,), "int32"), Y: T.Buffer((5, 2), "float32")):
        for i, j in T.grid(6, 2):
            with T.block("Y"):
                vi, vj = T.axis.remap("OS", [i, j])
                T.reads(X[vi], Y[X[vi] % 5, vj])
                T.writes(Y[X[vi] % 5, vj])
                Y[X[vi] % 5, vj] = Y[X[vi] % 5, vj] * 2.0 + 1.0

    def do(s: Schedule) -> None:
        there, back = s.cache_inplace("Y", "Y", "local")
        assert [s.get(x).extent.value for x in s.get_loops(there)[2:]] == [5, 1]
        assert [s.get(x).extent.value for x in s.get_loops(back)[2:]] == [5, 1]

    same_everywhere(f, do)


def test_single_elements_conditions_and_lets() -> None:
    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), S: T.Buffer((), "float32")):
        with T.block("S"):
            S[()] = 0.0
        for i in range(8):
            if i % 3 != 1:
                with T.block("A"):
                    vi = T.axis.opaque(8, i)
                    T.reads(X[vi], S[()])
                    T.writes(S[()])
                    S[()] = S[()] * 2.0 + X[vi]

    def do(s: Schedule) -> None:
        there, _ = s.cache_inplace("A", "S", "local")
        assert len(s.get_loops(there)) == 1

    same_everywhere(f, do)


def test_views_and_blocks_without_iterators() -> None:
    @T.prim_func
    def f(Y: T.Buffer((8, 8), "float32")):
        for i in range(8):
            with T.block("Y"):
                T.reads(Y[i, 0:8])
                T.writes(Y[i, 0:8])
                R = T.match_buffer(Y[i, 0:8], (8,), "float32", offset_factor=1)
                for j in range(4):
                    R[j] = R[7 - j] * 2.0

    def do(s: Schedule) -> None:
        s.cache_inplace("Y", 0, "local")
        assert s.get(s.get_block("Y")).match_buffers[0].buffer.scope == "local"

    same_everywhere(f, do)


def test_blocks_inside_blocks() -> None:
    @T.prim_func
    def f(Y: T.Buffer((8, 6), "float32")):
        for i in range(4):
            with T.block("outer"):
                vi = T.axis.spatial(4, i)
                T.reads(Y[vi * 2 : vi * 2 + 2, 0:6])
                T.writes(Y[vi * 2 : vi * 2 + 2, 0:6])
                for a, j in T.grid(2, 6):
                    with T.block("inner"):
                        va, vj = T.axis.remap("SS", [a, j])
                        T.reads(Y[vi * 2 + va, vj])
                        T.writes(Y[vi * 2 + va, vj])
                        Y[vi * 2 + va, vj] = Y[vi * 2 + va, vj] + 1.0

    same_everywhere(f, lambda s: s.cache_inplace("outer", 0, "shared"))
    sch = same_everywhere(f, lambda s: s.cache_inplace("inner", 0, "local"))
    assert str(sch.get(sch.get_block("Y_local")).predicate) == "T.bool(True)"
    same_everywhere(
        f, lambda s: (s.cache_inplace("outer", 0, "shared"), s.cache_inplace("inner", 0, "local"))
    )


def test_marked_loops_above_a_single_element() -> None:
    def do(s: Schedule) -> None:
        i, _, k = loops(s, "C")
        s.parallel(i)
        s.decompose_reduction("C", k)
        s.unroll(s.split(k, [None, 3])[1])
        s.cache_inplace("C_update", "C", "local")

    same_everywhere(bytes_matmul(), do)


def test_sizes_that_are_not_known() -> None:
    @T.prim_func
    def f(y: T.handle):
        n = T.int32()
        Y = T.match_buffer(y, (n, 4), "float32")
        for i in range(n):
            with T.block("Y"):
                vi = T.axis.spatial(n, i)
                T.reads(Y[0:n, 1:3])
                T.writes(Y[vi, 0:4])
                for j in range(4):
                    Y[vi, j] = Y[vi, j] + Y[n - 1 - vi, 1]

    for seed in range(2):
        y = np.random.default_rng(seed).integers(-4, 5, (5, 4)).astype(np.float32)
        want = y.copy()
        run(f, want)
        sch = scheduled(f)
        sch.cache_inplace("Y", 0, "local")
        run(sch.mod["f"], y)
        assert np.array_equal(want, y)


# ----------------------------------------------------------------------------- refusals
def test_cache_inplace_refuses_wrong_arguments() -> None:
    sch = scheduled(smooth())
    e = refuses(sch, "storage-scope", lambda: sch.cache_inplace("Y", 0, "moon"), names="'moon'")
    assert "local" in e.hint
    refuses(sch, "buffer-index", lambda: sch.cache_inplace("Y", 3, "local"), names="3")
    refuses(sch, "buffer-index", lambda: sch.cache_inplace("Y", "X", "local"), names="'X'")
    refuses(
        sch, "argument", lambda: sch.cache_inplace("Y", 1.5, "local"), names="read_buffer_index"
    )  # type: ignore[arg-type]  # wrong on purpose
    refuses(sch, "argument", lambda: sch.cache_inplace("Y", 0, 3), names="storage_scope")  # type: ignore[arg-type]  # wrong on purpose
    refuses(sch, "root-block", lambda: sch.cache_inplace("root", 0, "local"))
    e = refuses(sch, "cache-inplace", lambda: sch.cache_inplace("B", 0, "local"), names="X")
    assert "cache_read" in e.hint


def test_conditions_on_the_buffer_are_refused() -> None:
    @T.prim_func
    def f(Y: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                T.where(Y[i] > 0.0)
                T.reads(Y[vi])
                T.writes(Y[vi])
                Y[vi] = Y[vi] - 9.0

    sch = scheduled(f)
    refuses(sch, "cache-inplace", lambda: sch.cache_inplace("Y", 0, "local"), names="predicate")


@pytest.mark.parametrize("kind", ["parallel", "vectorized", "thread"])
def test_marked_loops_above_several_elements_are_refused(kind: Any) -> None:
    """Iterations that share elements of the copy would undo one another's work."""
    loop = {"parallel": "T.parallel(4)", "vectorized": "T.vectorized(4)"}.get(
        kind, 'T.thread_binding(4, thread="threadIdx.x")'
    )
    from gputune.script import from_source

    text = f"""
@T.prim_func
def f(Y: T.Buffer((4, 4), "float32")):
    for i in {loop}:
        with T.block("Y"):
            vi = T.axis.spatial(4, i)
            T.reads(Y[0:4, vi])
            T.writes(Y[vi, vi])
            Y[vi, vi] = Y[vi, vi] + 1.0
"""
    sch = scheduled(from_source(text))
    e = refuses(sch, "cache-parallel", lambda: sch.cache_inplace("Y", 0, "local"), names="loop i")
    assert "before marking" in e.hint


def test_what_outer_blocks_do_not_say_they_read_is_refused() -> None:
    @T.prim_func
    def f(Y: T.Buffer((4, 6), "float32")):
        for i in range(4):
            with T.block("outer"):
                vi = T.axis.spatial(4, i)
                T.reads(Y[vi, 0])
                T.writes(Y[vi, 0:6])
                for j in range(6):
                    with T.block("inner"):
                        vj = T.axis.spatial(6, j)
                        T.reads(Y[vi, 0])
                        T.writes(Y[vi, vj])
                        Y[vi, vj] = Y[vi, 0] + 1.0

    sch = scheduled(f)
    e = refuses(
        sch, "cache-partial", lambda: sch.cache_inplace("inner", 0, "local"), names="block outer"
    )
    assert "outer" in e.hint
    same_everywhere(f, lambda s: s.cache_inplace("outer", 0, "local"))


def test_nothing_is_moved_past_the_copies_afterwards() -> None:
    """They write and read one buffer in turn: no step may take them for producer and consumer."""

    @T.prim_func
    def f(X: T.Buffer((4, 7), "float32"), Z: T.Buffer((4,), "float32")):
        Y = T.alloc_buffer((4,))
        for i, k in T.grid(4, 7):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                T.reads(Y[vi], X[vi, vk])
                T.writes(Y[vi])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]
        for i in range(4):
            with T.block("Z"):
                vi = T.axis.spatial(4, i)
                Z[vi] = Y[vi] * 2.0

    sch = same_everywhere(f, lambda s: s.cache_inplace("Y", 0, "local"))
    i, k = loops(sch, "Y")
    back = sch.get_block("Y_local_1")
    for call in (
        lambda: sch.reverse_compute_at("Z", k),
        lambda: sch.compute_inline(back),
        lambda: sch.parallel(i),
        lambda: sch.cache_write(back, 0, "local"),
    ):
        refuses(sch, "not-pipeline", call, names="copy Y_local of Y")
    copied = sch.copy()
    refuses(copied, "not-pipeline", lambda: copied.parallel(i))
