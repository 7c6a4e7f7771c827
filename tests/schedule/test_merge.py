"""merge: one loop nest of several that stand beside each other."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gputune.ir.nodes import For, PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.schedule import Schedule
from gputune.schedule.dim import Dim, Evaluator, recording
from gputune.schedule.tilings import draw_tiling
from gputune.script import tir as T

from . import schedule_programs as programs
from .schedule_helpers import keeps, loops, prints, refuses, scheduled
from .test_partition import reads_back


def holds(func: PrimFunc, do: Callable[[Schedule], Any]) -> Schedule:
    sch = keeps(func, do)
    reads_back(func, sch)
    return sch


def merged(a: str, b: str, at: int = -1) -> Any:
    return lambda s: s.merge(loops(s, a)[at], loops(s, b)[at])


def stencil(offset: int, n: int = 8) -> PrimFunc:
    """Y[i] = B[i + offset], within bounds."""

    @T.prim_func
    def f(X: T.Buffer((n, 3), "float32"), Y: T.Buffer((n, 3), "float32")):
        B = T.alloc_buffer((n + 4, 3))
        for i, j in T.grid(n, 3):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] + 1.0
        for i, j in T.grid(n, 3):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                T.reads(B[vi + offset, vj])
                T.writes(Y[vi, vj])
                Y[vi, vj] = T.if_then_else(
                    vi + offset >= 0 and vi + offset < n, B[vi + offset, vj], 0.0
                )

    return f


# ----------------------------------------------------------------------------- what is made
def test_merge_prints() -> None:
    sch = scheduled(programs.chain())
    i, j = loops(sch, "B")
    m = sch.merge(i, loops(sch, "Y")[0])
    assert sch.get(m).var.name == "i_m"
    prints(
        sch,
        """
        B = T.alloc_buffer((4, 6))
        for i_m in range(4):
            for j in range(6):
                with T.block("B"):
                    vi, vj = T.axis.remap("SS", [i_m, j])
                    T.reads(X[vi, vj])
                    T.writes(B[vi, vj])
                    B[vi, vj] = X[vi, vj] + T.float32(1)
            for j in range(6):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i_m, j])
                    T.reads(B[vi, vj])
                    T.writes(Y[vi, vj])
                    Y[vi, vj] = B[vi, vj] * T.float32(2)
    """,
    )
    assert sch.trace.as_json()[0][-1] == ["Merge", ["l1", "l4"], [], ["l6"]]
    assert str(sch.trace).splitlines()[-1] == "l6 = sch.merge(l1, l4)"
    refuses(sch, "loop-gone", lambda: sch.get(i))
    assert sch.get(j).var.name == "j"
    holds(programs.chain(), lambda s: sch.trace.apply_to_schedule(s))


def test_the_loops_around_are_merged_too() -> None:
    sch = holds(programs.chain(), merged("B", "Y"))
    prints(
        sch,
        """
        B = T.alloc_buffer((4, 6))
        for i_m, j_m in T.grid(4, 6):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i_m, j_m])
                T.reads(X[vi, vj])
                T.writes(B[vi, vj])
                B[vi, vj] = X[vi, vj] + T.float32(1)
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i_m, j_m])
                T.reads(B[vi, vj])
                T.writes(Y[vi, vj])
                Y[vi, vj] = B[vi, vj] * T.float32(2)
    """,
    )


def test_bodies_follow_in_program_order() -> None:
    """Whichever order the loops are given in."""
    sch = holds(programs.chain(), lambda s: s.merge(loops(s, "Y")[1], loops(s, "B")[1]))
    assert [sch.get(x).name for x in sch.get_child_blocks(loops(sch, "Y")[1])] == ["B", "Y"]


def three() -> PrimFunc:
    """B, then Q which has nothing to do with it, then Y; and R, which needs B and feeds Z."""

    @T.prim_func
    def f(
        X: T.Buffer((6,), "float32"),
        Y: T.Buffer((6,), "float32"),
        Q: T.Buffer((6,), "float32"),
        Z: T.Buffer((6,), "float32"),
    ):
        B = T.alloc_buffer((6,))
        R = T.alloc_buffer((6,))
        for i in range(6):
            with T.block("B"):
                vi = T.axis.spatial(6, i)
                B[vi] = X[vi] + 1.0
        for i in range(6):
            with T.block("Q"):
                vi = T.axis.spatial(6, i)
                Q[vi] = X[5 - vi]
        for i in range(6):
            with T.block("Y"):
                vi = T.axis.spatial(6, i)
                Y[vi] = B[vi] * 2.0
        for i in range(6):
            with T.block("R"):
                vi = T.axis.spatial(6, i)
                R[vi] = B[5 - vi]
        for i in range(6):
            with T.block("Z"):
                vi = T.axis.spatial(6, i)
                Z[vi] = B[vi] + R[vi]

    return f


def test_three_nests_and_what_stands_between() -> None:
    def do(s: Schedule) -> None:
        s.merge(*[loops(s, x)[0] for x in ("B", "Q", "Y")])

    sch = holds(three(), do)
    assert [sch.get(x).name for x in sch.get_child_blocks("root")] == ["B", "Q", "Y", "R", "Z"]
    # past what uses nothing of theirs: the first place
    sch = holds(three(), merged("B", "Y"))
    assert [sch.get(x).name for x in sch.get_child_blocks("root")] == ["B", "Y", "Q", "R", "Z"]
    # R needs B: Y goes down to Z, past R
    sch = holds(three(), merged("Y", "Z"))
    assert [sch.get(x).name for x in sch.get_child_blocks("root")] == ["B", "Q", "R", "Y", "Z"]


def test_refuses_to_pass_what_uses_the_data_of_both() -> None:
    sch = scheduled(three())
    b, z = loops(sch, "B")[0], loops(sch, "Z")[0]
    refuses(sch, "merge-between", lambda: sch.merge(b, z), names="between the nests")


# ----------------------------------------------------------------------------- what is kept
def test_reductions_side_by_side() -> None:
    """Two that share a loop, the first with what the second initialises from."""

    @T.prim_func
    def f(
        X: T.Buffer((5, 7), "float32"), S: T.Buffer((5,), "float32"), M: T.Buffer((5,), "float32")
    ):
        for i, k in T.grid(5, 7):
            with T.block("S"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    S[vi] = 0.0
                S[vi] = S[vi] + X[vi, vk]
        for i, k in T.grid(5, 7):
            with T.block("M"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    M[vi] = T.min_value("float32")
                M[vi] = T.max(M[vi], X[vi, vk])

    def do(s: Schedule) -> None:
        m = s.merge(loops(s, "S")[1], loops(s, "M")[1])
        i = s.get_loops("S")[0]
        s.parallel(i)
        s.decompose_reduction("S", m)
        s.decompose_reduction("M", m)

    holds(f, do)


def test_init_and_update() -> None:
    def do(s: Schedule) -> None:
        i, _ = loops(s, "Y")
        s.decompose_reduction("Y", i)
        s.merge(loops(s, "Y_init")[0], loops(s, "Y_update")[0])

    sch = holds(programs.row_sum(5, 7), do)
    assert len(sch.get_child_blocks(loops(sch, "Y_init")[0])) == 2


@pytest.mark.parametrize("factors", [[None, 3], [2, None], [None, 8]])
def test_tiles_that_do_not_divide(factors: list[int | None]) -> None:
    def do(s: Schedule) -> None:
        for name in ("B", "Y"):
            s.split(loops(s, name)[0], factors)
        s.merge(loops(s, "B")[0], loops(s, "Y")[0])

    holds(stencil(0, 10), do)


def test_fused_loops() -> None:
    """One loop for two dimensions: different iterations have different quotients and remainders."""

    def do(s: Schedule) -> None:
        for name in ("B", "Y"):
            s.fuse(*loops(s, name))
        s.merge(loops(s, "B")[0], loops(s, "Y")[0])

    holds(programs.chain(), do)

    def tiles(s: Schedule) -> None:
        for name in ("B", "Y"):
            i, j = loops(s, name)
            i0, i1 = s.split(i, [2, 2])
            j0, j1 = s.split(j, [3, 2])
            s.reorder(i0, j0, i1, j1)
            s.fuse(i0, j0)
        s.merge(loops(s, "B")[0], loops(s, "Y")[0])

    holds(programs.chain(), tiles)


def test_triangles() -> None:
    @T.prim_func
    def f(X: T.Buffer((6, 6), "float32"), Y: T.Buffer((6, 6), "float32")):
        B = T.alloc_buffer((6, 6))
        for i in range(6):
            for j in range(i + 1):
                with T.block("B"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    B[vi, vj] = X[vi, vj] + 1.0
        for a in range(6):
            for b in range(a + 1):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [a, b])
                    Y[vi, vj] = B[vi, vj] * 2.0

    sch = holds(f, merged("B", "Y"))
    assert len(loops(sch, "B")) == 2


def test_under_common_loops_and_in_blocks() -> None:
    def do(s: Schedule) -> None:
        i, _ = loops(s, "Y")
        s.compute_at("B", i)
        s.merge(loops(s, "B")[1], loops(s, "Y")[1])

    holds(programs.chain(), do)


def test_wide_and_narrow_loops() -> None:
    @T.prim_func
    def f(X: T.Buffer((6,), "float32"), Y: T.Buffer((6,), "float32"), Z: T.Buffer((6,), "float32")):
        for i in range(6):
            with T.block("Y"):
                vi = T.axis.spatial(6, i)
                Y[vi] = X[vi] + 1.0
        for i in range(T.int64(6)):
            with T.block("Z"):
                vi = T.axis.spatial(T.int64(6), i)
                Z[vi] = X[vi] * 2.0

    sch = holds(f, merged("Y", "Z"))
    assert sch.get(loops(sch, "Y")[0]).var.dtype == "int64"


# ----------------------------------------------------------------------------- dependences
def test_refuses_data_of_later_iterations() -> None:
    sch = scheduled(stencil(1))
    pair = [loops(sch, x)[0] for x in ("B", "Y")]
    e = refuses(sch, "merge-order", lambda: sch.merge(*pair), names="block Y reads B")
    assert "later iterations of the loop i_m" in e.message
    assert "compute_at" in e.hint
    # what it would compute: B of iterations that were not yet run
    unchecked = scheduled(stencil(1), enable_check=False)
    merged("B", "Y", 0)(unchecked)
    with pytest.raises(AssertionError):
        keeps(stencil(1), lambda s: _take(s, unchecked))


def _take(s: Schedule, other: Schedule) -> None:
    (name,) = s.mod.functions
    s.set_func(name, other.mod[name])


def test_refuses_data_of_earlier_iterations_in_a_pipeline() -> None:
    """The meaning would stay, but others rely on stages whose iterations stay apart."""
    sch = scheduled(stencil(-1))
    pair = [loops(sch, x)[0] for x in ("B", "Y")]
    e = refuses(sch, "merge-carried", lambda: sch.merge(*pair), names="block Y reads B")
    assert "earlier iterations of the loop i_m" in e.message


def test_takes_data_of_earlier_iterations_where_nothing_relies_on_stages() -> None:
    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32"), Z: T.Buffer((1,), "float32")):
        B = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi] + 1.0
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                T.reads(B[vi - 1])
                T.writes(Y[vi])
                Y[vi] = T.if_then_else(vi >= 1, B[vi - 1], 0.0)
        with T.block("once"):
            Z[0] = Y[0]
        with T.block("again"):
            Z[0] = Y[7]

    sch = holds(f, merged("B", "Y"))
    m = loops(sch, "B")[0]
    refuses(sch, "not-pipeline", lambda: sch.parallel(m), names="both write Z")


@pytest.mark.parametrize("offset", [0, 3, 4])
def test_disjoint_places_of_one_buffer(offset: int) -> None:
    """Two writers of one buffer: of other elements, or of the same in the same iteration only."""

    @T.prim_func
    def f(X: T.Buffer((4,), "float32"), Y: T.Buffer((8,), "float32")):
        for i in range(4):
            with T.block("A"):
                vi = T.axis.spatial(4, i)
                Y[vi] = X[vi]
        for i in range(4):
            with T.block("B"):
                vi = T.axis.spatial(4, i)
                Y[vi + offset] = X[vi] * 2.0

    if offset == 3:
        sch = scheduled(f)
        pair = [loops(sch, x)[0] for x in ("A", "B")]
        refuses(sch, "merge-order", lambda: sch.merge(*pair), names="block B writes Y")
    else:
        holds(f, merged("A", "B"))


def test_refuses_to_write_what_is_yet_to_be_read() -> None:
    @T.prim_func
    def f(X: T.Buffer((6,), "float32"), Y: T.Buffer((6,), "float32")):
        for i in range(6):
            with T.block("Y"):
                vi = T.axis.spatial(6, i)
                Y[vi] = X[5 - vi]
        for i in range(6):
            with T.block("X"):
                vi = T.axis.spatial(6, i)
                X[vi] = T.float32(0)

    sch = scheduled(f)
    pair = [loops(sch, x)[0] for x in ("Y", "X")]
    refuses(
        sch,
        "merge-order",
        lambda: sch.merge(*pair),
        names="block X writes X where block Y may read it",
    )


def test_refuses_to_read_an_unfinished_sum() -> None:
    @T.prim_func
    def f(X: T.Buffer((4, 7), "float32"), Y: T.Buffer((4, 7), "float32")):
        S = T.alloc_buffer((4,))
        for i, k in T.grid(4, 7):
            with T.block("S"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    S[vi] = 0.0
                S[vi] = S[vi] + X[vi, vk]
        for i, k in T.grid(4, 7):
            with T.block("Y"):
                vi, vk = T.axis.remap("SS", [i, k])
                Y[vi, vk] = X[vi, vk] - S[vi]

    sch = scheduled(f)
    pair = [loops(sch, x)[1] for x in ("S", "Y")]
    refuses(sch, "merge-order", lambda: sch.merge(*pair), names="loop k_m")
    holds(f, merged("S", "Y", 0))  # the loop outside is one of rows


def test_merged_loops_can_still_be_parallel() -> None:
    def do(s: Schedule) -> None:
        m = s.merge(loops(s, "B")[0], loops(s, "Y")[0])
        s.parallel(m)
        s.vectorize(s.split(loops(s, "Y")[1], [None, 4])[1])
        s.set_scope("B", 0, "local")
        s.compute_inline("B")

    holds(programs.chain(), do)


# ----------------------------------------------------------------------------- refusals
def test_refuses_loops_that_are_not_plain() -> None:
    sch = scheduled(programs.chain())
    a, b = loops(sch, "B"), loops(sch, "Y")
    sch.annotate(a[0], "note", 1)
    # a loop on the way counts like the one named
    refuses(sch, "loop-annotated", lambda: sch.merge(a[1], b[1]), names="loop i")
    sch.unannotate(a[0], "note")
    sch.vectorize(b[1])
    refuses(sch, "loop-kind", lambda: sch.merge(a[1], b[1]), names="j is vectorized")
    sch.bind(b[0], "blockIdx.x")
    refuses(sch, "loop-annotated", lambda: sch.merge(a[0], b[0]), names="binding")

    @T.prim_func
    def late(X: T.Buffer((6,), "float32"), Y: T.Buffer((6,), "float32")):
        for i in range(4):
            with T.block("A"):
                vi = T.axis.spatial(6, i)
                Y[vi] = X[vi]
        for i in T.serial(2, 6):
            with T.block("B"):
                vi = T.axis.spatial(6, i)
                Y[vi] = X[vi]

    sch = scheduled(late)
    pair = [loops(sch, x)[0] for x in ("A", "B")]
    refuses(sch, "loop-start", lambda: sch.merge(*pair), names="i starts at 2")


def test_refuses_loops_that_do_not_fit() -> None:
    sch = scheduled(programs.chain())
    a, b = loops(sch, "B"), loops(sch, "Y")
    refuses(sch, "merge-few", lambda: sch.merge(), names="got 0")
    refuses(sch, "merge-few", lambda: sch.merge(a[0]), names="got 1")
    refuses(sch, "merge-twice", lambda: sch.merge(a[0], b[0], a[0]), names="loop i")
    refuses(sch, "merge-nested", lambda: sch.merge(a[0], a[1]), names="j is inside the loop i")
    refuses(sch, "merge-depth", lambda: sch.merge(a[0], b[1]), names="1 loops")
    refuses(sch, "not-a-loop", lambda: sch.merge(a[0], 3))  # type: ignore[arg-type]  # wrong on purpose
    c = sch.split(b[1], [2, 3])
    refuses(sch, "merge-extent", lambda: sch.merge(a[1], c[0]), names="extent 6")


def test_refuses_other_scopes() -> None:
    sch = scheduled(programs.nested_blocks())
    pair = [loops(sch, x)[0] for x in ("B", "inner")]
    refuses(sch, "merge-scope", lambda: sch.merge(*pair), names="different scopes")


def test_refuses_loops_that_are_not_alone() -> None:
    sch = scheduled(programs.chain())
    sch.compute_at("B", loops(sch, "Y")[0])
    sch.cache_write("Y", 0, "global")
    pair = [loops(sch, x)[1] for x in ("B", "Y_global")]
    refuses(sch, "merge-chain", lambda: sch.merge(*pair), names="not all that is inside")

    @T.prim_func
    def sides(X: T.Buffer((6,), "float32"), Y: T.Buffer((6,), "float32")):
        if X[0] > 0.0:
            for i in range(6):
                with T.block("A"):
                    vi = T.axis.spatial(6, i)
                    Y[vi] = X[vi]
        else:
            for i in range(6):
                with T.block("B"):
                    vi = T.axis.spatial(6, i)
                    Y[vi] = X[vi] * 2.0

    sch = scheduled(sides)
    pair = [loops(sch, x)[0] for x in ("A", "B")]
    refuses(sch, "merge-branch", lambda: sch.merge(*pair), names="condition")


def test_refuses_extents_from_buffers_and_calls_outside_blocks() -> None:
    @T.prim_func
    def ragged(
        N: T.Buffer((1,), "int32"), X: T.Buffer((6,), "float32"), Y: T.Buffer((6,), "float32")
    ):
        for i in range(N[0]):
            with T.block("A"):
                vi = T.axis.spatial(6, i)
                Y[vi] = X[vi]
        for i in range(N[0]):
            with T.block("B"):
                vi = T.axis.spatial(6, i)
                Y[vi] = X[vi]

    sch = scheduled(ragged)
    pair = [loops(sch, x)[0] for x in ("A", "B")]
    refuses(sch, "merge-extent", lambda: sch.merge(*pair), names="read from a buffer")

    @T.prim_func
    def calls(X: T.Buffer((6,), "float32"), Y: T.Buffer((6,), "float32")):
        for i in range(6):
            with T.block("A"):
                vi = T.axis.spatial(6, i)
                Y[vi] = X[vi]
            T.evaluate(T.call_extern("int32", "f", i))
        for i in range(6):
            with T.block("B"):
                vi = T.axis.spatial(6, i)
                Y[vi] = X[vi]

    sch = scheduled(calls)
    pair = [loops(sch, x)[0] for x in ("A", "B")]
    refuses(sch, "merge-loose", lambda: sch.merge(*pair), names="outside any block")


def test_looks_through_views() -> None:
    @T.prim_func
    def f(X: T.Buffer((6, 4), "float32"), Y: T.Buffer((6, 4), "float32")):
        for i in range(6):
            with T.block("row"):
                vi = T.axis.spatial(6, i)
                T.reads(X[vi, 0:4])
                T.writes(Y[vi, 0:4])
                W = T.match_buffer(Y[vi, 0:4], (4,), "float32", offset_factor=1)
                for j in range(4):
                    with T.block("A"):
                        vj = T.axis.spatial(4, j)
                        W[vj] = X[vi, vj]
                for j in range(4):
                    with T.block("B"):
                        vj = T.axis.spatial(4, j)
                        Y[vi, vj] = Y[vi, 3 - vj] + 1.0
                for j in range(4):
                    with T.block("C"):
                        vj = T.axis.spatial(4, j)
                        W[vj] = W[vj] * 2.0

    sch = scheduled(f)
    a, b, c = [loops(sch, x)[0] for x in ("A", "B", "C")]
    refuses(sch, "merge-order", lambda: sch.merge(a, b), names="block B reads Y where block A")
    refuses(sch, "merge-between", lambda: sch.merge(a, c))
    holds(
        f, lambda s: s.merge(s.add_unit_loop(loops(s, "A")[0]), s.add_unit_loop(loops(s, "B")[0]))
    )


def test_refuses_blocks_of_threads_inside() -> None:
    sch = scheduled(programs.chain())
    a, b = loops(sch, "B"), loops(sch, "Y")
    sch.bind(a[1], "blockIdx.x")
    sch.bind(b[1], "blockIdx.x")
    refuses(sch, "merge-thread", lambda: sch.merge(a[0], b[0]), names="j inside is bound")


# ----------------------------------------------------------------------------- sampled sizes
def test_sampled_extents_in_matrix_evaluation() -> None:
    """Loops of the same sampled extent are merged in all rows, with no question asked."""
    func = programs.chain()
    sch = scheduled(func)
    a, b = loops(sch, "B"), loops(sch, "Y")
    tile = sch.sample_perfect_tile(a[1], n=2, max_innermost_factor=6, decision=[2, 3])
    for i, j in (a, b):
        j0, _ = sch.split(j, tile)
        sch.reorder(j0, i)
    before = len(sch.trace.insts)
    sch.merge(*[loops(sch, x)[0] for x in ("B", "Y")])
    trace = sch.trace

    def replay(s: Schedule, decide: Callable[[int, int], int]) -> list[Any]:
        trace.apply_to_schedule(
            s,
            decision_provider=lambda inst, inputs, attrs, old: [
                decide(n, x) for n, x in enumerate(old)
            ],
        )
        (f,) = s.mod.functions.values()
        return [x.extent.value for x in walk_stmt(f.body) if type(x) is For]

    with recording() as guards:
        symbolic = replay(Schedule(func, seed=1), lambda n, x: Dim(x, f"d{n}"))
    rng = random.Random(0)
    rows = [draw_tiling(rng, 6, 2, 6) for _ in range(20)]
    table = Evaluator({f"d{n}": np.array([r[n] for r in rows]) for n in range(2)})
    assert table.holds(guards, np.ones(len(rows), bool)).all(), guards
    for k, row in enumerate(rows):
        got = replay(Schedule(func, seed=1), lambda n, x: row[n])  # noqa: B023
        assert got == [int(np.broadcast_to(table(x), len(rows))[k]) for x in symbolic]
    assert len(trace.insts) > before
