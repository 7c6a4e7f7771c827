"""loop_partition: several loops, one after the other, with copies of the body."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from gputune.ir.equal import structural_equal
from gputune.ir.nodes import For, IRModule, PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.schedule.analysis import runs_whole_domain
from gputune.schedule.dim import Dim, Evaluator, recording
from gputune.schedule.tilings import draw_tiling
from gputune.script import from_source
from gputune.script import tir as T
from tests.properties.moves import inputs, results

from . import schedule_programs as programs
from .schedule_helpers import keeps, loops, prints, refuses, scheduled


def reads_back(func: PrimFunc, sch: Schedule) -> None:
    """What is printed parses to the same program, and LLVM's code computes what it shall."""
    parsed = from_source(sch.mod.script())
    assert isinstance(parsed, IRModule)
    assert structural_equal(parsed, sch.mod)
    arrays = inputs(func, 3)
    build(sch.mod, "llvm --num-cores=1")[func.name](*arrays)
    for want, got in zip(results(func, 3), arrays, strict=True):
        assert np.allclose(want, got, rtol=1e-5, atol=1e-5, equal_nan=True)


def holds(func: PrimFunc, do: Callable[[Schedule], Any]) -> Schedule:
    sch = keeps(func, do)
    reads_back(func, sch)
    return sch


def cut(block: str, which: int, *factors: int | None, preserve: bool = True) -> Any:
    return lambda s: s.loop_partition(loops(s, block)[which], list(factors), preserve)


# ----------------------------------------------------------------------------- what is made
def test_partition_prints() -> None:
    sch = holds(programs.copy2d(), cut("Y", 0, 1, 2))
    prints(
        sch,
        """
        with T.block("Y_i_common"):
            T.reads(X[0:4, 0:6])
            T.writes(Y[0:4, 0:6])
            with T.block("Y_i0_partition"):
                T.reads(X[0, 0:6])
                T.writes(Y[0, 0:6])
                for i0, j in T.grid(1, 6):
                    with T.block("Y_i0"):
                        vi, vj = T.axis.remap("SS", [i0, j])
                        T.reads(X[vi, vj])
                        T.writes(Y[vi, vj])
                        Y[vi, vj] = X[vi, vj] + T.float32(1)
            with T.block("Y_i1_partition"):
                T.reads(X[1:3, 0:6])
                T.writes(Y[1:3, 0:6])
                for i1, j in T.grid(2, 6):
                    with T.block("Y_i1"):
                        vi = T.axis.spatial((1, 3), i1 + 1)
                        vj = T.axis.spatial(6, j)
                        T.reads(X[vi, vj])
                        T.writes(Y[vi, vj])
                        Y[vi, vj] = X[vi, vj] + T.float32(1)
            with T.block("Y_i2_partition"):
                T.reads(X[3, 0:6])
                T.writes(Y[3, 0:6])
                for i2, j in T.grid(1, 6):
                    with T.block("Y_i2"):
                        vi = T.axis.spatial((3, 4), i2 + 3)
                        vj = T.axis.spatial(6, j)
                        T.reads(X[vi, vj])
                        T.writes(Y[vi, vj])
                        Y[vi, vj] = X[vi, vj] + T.float32(1)
    """,
    )
    inst = sch.trace.as_json()[0][2]
    assert inst == ["LoopPartition", ["l1", 1, 2], [True], ["l3", "l4", "l5"]]
    assert str(sch.trace).splitlines()[-1] == (
        "l3, l4, l5 = sch.loop_partition(loop=l1, factors=[1, 2], preserve_unit_iters=True)"
    )


def test_a_reduction_begins_in_the_first_loop_only() -> None:
    sch = holds(programs.row_sum(), cut("Y", 1, None, 2))
    prints(
        sch,
        """
        for i in range(4):
            with T.block("Y_k_common"):
                vi = T.axis.spatial(4, i)
                T.reads(X[vi, 0:7])
                T.writes(Y[vi])
                with T.block("Y_k0_partition"):
                    T.reads(X[vi, 0:5])
                    T.writes(Y[vi])
                    for k0 in range(5):
                        with T.block("Y_k0"):
                            vk = T.axis.reduce(5, k0)
                            T.reads(X[vi, vk])
                            T.writes(Y[vi])
                            with T.init():
                                Y[vi] = T.float32(0)
                            Y[vi] = Y[vi] + X[vi, vk]
                with T.block("Y_k1_partition"):
                    T.reads(Y[vi], X[vi, 5:7])
                    T.writes(Y[vi])
                    for k1 in range(2):
                        with T.block("Y_k1"):
                            vk = T.axis.reduce((5, 7), k1 + 5)
                            T.reads(Y[vi], X[vi, vk])
                            T.writes(Y[vi])
                            Y[vi] = Y[vi] + X[vi, vk]
    """,
    )


def test_the_handles_are_of_the_new_loops() -> None:
    sch = scheduled(programs.copy2d(7, 6))
    i, j = loops(sch, "Y")
    new = sch.loop_partition(i, [None, 1, 2])
    assert [(sch.get(x).var.name, sch.get(x).extent.value) for x in new] == [
        ("i0", 4), ("i1", 1), ("i2", 2),
    ]  # fmt: skip
    refuses(sch, "loop-gone", lambda: sch.get(i))
    refuses(sch, "loop-gone", lambda: sch.get(j))
    assert [sch.get(x).name for x in sch.get_child_blocks("Y_i_common")] == [
        f"Y_i{k}_partition" for k in range(3)
    ]
    assert loops(sch, "Y_i1")[0] != new[1]  # another handle
    assert sch.get(loops(sch, "Y_i1")[0]) is sch.get(new[1])


def test_loops_of_one_iteration_leave_the_bindings() -> None:
    sch = holds(programs.copy2d(), cut("Y", 0, 1, preserve=False))
    b = sch.get(sch.get_block("Y_i0"))
    assert str(b.iter_values[0]) == "0"
    assert str(sch.get(sch.get_block("Y_i1")).iter_values[0]) == "i1 + 1"


def test_names_that_are_taken() -> None:
    def do(s: Schedule) -> None:
        i = loops(s, "Y")[0]
        other = s.cache_read("Y", 0, "global")
        s.loop_partition(s.get_loops(other)[0], [1])
        s.loop_partition(i, [1])
        for name in ("Y_i0", "Y_i1", "Y_i_common"):
            assert s.get(s.get_block(name)).name == name

    holds(programs.copy2d(), do)

    @T.prim_func
    def f(X: T.Buffer((4,), "float32"), Y: T.Buffer((4,), "float32")):
        B = T.alloc_buffer((4,))
        for i in range(4):
            with T.block("Y_i0"):
                vi = T.axis.spatial(4, i)
                B[vi] = X[vi] + 1.0
        for i in range(4):
            with T.block("Y"):
                vi = T.axis.spatial(4, i)
                Y[vi] = B[vi] * 2.0

    sch = holds(f, cut("Y", 0, 3))
    assert sch.get(sch.get_block("Y_i0_1")).writes[0].buffer.name == "Y"


# ----------------------------------------------------------------------------- what is kept
def test_partitions_inside_partitions() -> None:
    def do(s: Schedule) -> None:
        i, k = loops(s, "Y")
        s.loop_partition(k, [3])
        s.loop_partition(i, [1, 2])  # copies what the first one made
        s.loop_partition(loops(s, "Y_k1_i1")[0], [2])
        s.loop_partition(loops(s, "Y_k_common_i2")[0], [1])

    sch = holds(programs.row_sum(5, 7), do)
    assert sum(b.init is not None for b in _blocks(sch)) == 4  # i0, i1 and the two of i2


def _blocks(sch: Schedule) -> list[Any]:
    (func,) = sch.mod.functions.values()
    return [x for x in walk_stmt(func.body) if type(x).__name__ == "Block"]


@pytest.mark.parametrize("factors", [(1,), (None, 1), (2, 1)])
def test_blocks_with_predicates(factors: tuple[int | None, ...]) -> None:
    def outer(s: Schedule) -> None:
        i, k = loops(s, "Y")
        s.split(i, [None, 3])
        k0, _ = s.split(k, [None, 2])
        s.loop_partition(k0, list(factors))

    def inner(s: Schedule) -> None:
        i1 = s.split(loops(s, "Y")[0], [2, None])[1]
        s.loop_partition(i1, list(factors))

    holds(programs.row_sum(8, 7), outer)
    holds(programs.row_sum(7, 4), inner)


def test_several_blocks_inside() -> None:
    def do(s: Schedule) -> None:
        i, _ = loops(s, "Y")
        s.compute_at("B", i)
        s.loop_partition(i, [3])

    sch = holds(programs.chain(), do)
    assert [b.name for b in _blocks(sch)][1:] == [
        "B_i_common", "B_i0_partition", "B_i0", "Y_i0", "B_i1_partition", "B_i1", "Y_i1",
    ]  # fmt: skip


def test_a_block_that_reads_while_another_reduces() -> None:
    holds(programs.prefix_sum(), cut("S", 0, 3, 2))


@pytest.mark.parametrize(
    ("program", "block", "which"),
    [
        (programs.nested_blocks, "inner", 0),
        (programs.nested_blocks, "inner", 1),
        (programs.views, "Y", 0),
        (programs.triangle, "Y", 0),
        (programs.triangle_sum, "Y", 0),
        (programs.guarded, "Y", 0),
        (programs.guarded_sum, "Y", 1),
        (programs.part_of_domain, "S", 1),
        (programs.arg_max, "A", 1),
        (programs.arg_max, "A", 0),
        (programs.horner, "Y", 1),
        (programs.recurrence, "Y", 0),
        (programs.opaque_rows, "B", 0),
        (programs.padded_conv, "O", 3),
        (programs.padded_conv, "P", 1),
        (programs.wide_indices, "Y", 0),
        (programs.wide_matmul, "C", 2),
        (programs.init_from_producer, "Y", 1),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_all_kinds_of_programs_keep_their_meaning(
    program: Callable[[], PrimFunc], block: str, which: int
) -> None:
    holds(program(), cut(block, which, 1, None, 1))
    holds(program(), cut(block, which, 2, preserve=False))


def test_buffers_inside_are_made_for_each_copy() -> None:
    @T.prim_func
    def f(X: T.Buffer((6, 4), "float32"), Y: T.Buffer((6, 4), "float32")):
        for i in range(6):
            with T.block("row"):
                vi = T.axis.spatial(6, i)
                T.reads(X[vi, 0:4])
                T.writes(Y[vi, 0:4])
                R = T.alloc_buffer((4,))
                s0 = T.int32()
                W = T.match_buffer(Y[vi, 0:4], (4,), "float32", strides=[s0], offset_factor=1)
                for j in range(4):
                    with T.block("R"):
                        vj = T.axis.spatial(4, j)
                        R[vj] = X[vi, vj] * 2.0
                for j in range(4):
                    with T.block("W"):
                        vj = T.axis.spatial(4, j)
                        W[vj] = R[3 - vj]

    sch = holds(f, cut("row", 0, 2, 3))
    made = [
        b for x in _blocks(sch) for b in (*x.alloc_buffers, *[m.buffer for m in x.match_buffers])
    ]
    assert len(made) == len(set(made)) == 6


def test_what_was_partitioned_goes_on() -> None:
    """The new loops are loops like others, in scopes of their own; the common block is a block like
    others in the old one."""

    def do(s: Schedule) -> None:
        i, j, _ = loops(s, "C")
        s.loop_partition(j, [2])
        s.parallel(i)
        s.decompose_reduction("C_j0", loops(s, "C_j0")[1])
        j1, k1 = loops(s, "C_j1")
        s.reorder(k1, j1)
        s.vectorize(s.split(j1, [None, 2])[1])
        s.loop_partition(loops(s, "C_j0_update")[1], [5])

    holds(_matmul(), do)

    def halves(s: Schedule) -> None:
        s.loop_partition(loops(s, "Y")[0], [5])
        s.vectorize(s.split(loops(s, "Y_i0")[0], [None, 4])[1])
        s.unroll(loops(s, "Y_i1")[0])
        s.cache_read("Y_i_common", 0, "global")

    holds(programs.halo(), halves)


def _matmul() -> PrimFunc:
    from tests.properties.programs import matmul

    return matmul()


def test_only_the_copy_that_begins_can_be_decomposed() -> None:
    sch = scheduled(programs.row_sum())
    sch.loop_partition(loops(sch, "Y")[1], [3])
    first, second = sch.get_block("Y_k0"), sch.get_block("Y_k1")
    k1 = sch.get_loops(second)[0]
    refuses(sch, "not-reduction", lambda: sch.decompose_reduction(second, k1), names="Y_k1")
    sch.decompose_reduction(first, sch.get_loops(first)[0])


# ----------------------------------------------------------------------------- refusals
def test_refuses_loops_that_are_not_plain() -> None:
    sch = scheduled(programs.copy2d())
    i, j = loops(sch, "Y")
    sch.annotate(i, "note", 1)
    e = refuses(sch, "loop-annotated", lambda: sch.loop_partition(i, [1]), names="loop i")
    assert "annotation or thread binding" in e.message
    sch.vectorize(j)
    refuses(sch, "loop-kind", lambda: sch.loop_partition(j, [1]), names="j is vectorized")
    sch = scheduled(programs.copy2d())
    i, j = loops(sch, "Y")
    sch.bind(i, "blockIdx.x")
    refuses(sch, "loop-annotated", lambda: sch.loop_partition(i, [1]), names="loop i")


@pytest.mark.parametrize(
    ("factors", "code", "names"),
    [
        ([4], "partition-sum", "[4] is 4, larger than or equal to the extent 4"),
        ([2, 3], "partition-sum", "is 5"),
        ([None, 4], "partition-sum", "extent 4"),
        ([None, None], "partition-none", "got 2 in [None, None]"),
        ([0], "partition-positive", "got [0]"),
        ([1, -1], "partition-positive", "got [1, -1]"),
        ([], "partition-factors", "no factors"),
        ([1] * 65, "partition-factors", "65 factors"),
        (3, "argument", "factors"),
        (["1"], "not-an-int", "'1'"),
    ],
)
def test_refuses_factors(factors: Any, code: str, names: str) -> None:
    sch = scheduled(programs.copy2d())
    i, _ = loops(sch, "Y")
    refuses(sch, code, lambda: sch.loop_partition(i, factors), names=names)


def test_refuses_unknown_extents() -> None:
    @T.prim_func
    def symbolic(a: T.handle, y: T.handle):
        n = T.int32()
        A = T.match_buffer(a, (n,), "float32")
        Y = T.match_buffer(y, (n,), "float32")
        for i in range(n):
            with T.block("Y"):
                vi = T.axis.spatial(n, i)
                Y[vi] = A[vi]

    sch = scheduled(symbolic)
    call = partial(sch.loop_partition, loops(sch, "Y")[0], [4])
    refuses(sch, "partition-dynamic", call, names="extent n of the loop i")
    sch = scheduled(programs.triangle())
    call = partial(sch.loop_partition, loops(sch, "Y")[1], [1])
    refuses(sch, "partition-dynamic", call, names="loop j")


def test_refuses_statements_outside_blocks() -> None:
    sch = scheduled(programs.loose_store())
    call = partial(sch.loop_partition, loops(sch, "Y")[0], [2])
    refuses(sch, "partition-loose", call, names="outside any block")


def test_refuses_reductions_that_began_outside() -> None:
    sch = scheduled(_matmul())
    i, j, k = loops(sch, "C")
    sch.reorder(k, i, j)
    e = refuses(sch, "partition-reduction", lambda: sch.loop_partition(j, [1]), names="block C")
    assert "decompose_reduction at k" in e.hint
    k0, k1 = sch.split(k, [2, 4])
    sch.reorder(i, j, k0, k1)
    refuses(sch, "partition-reduction", lambda: sch.loop_partition(k1, [1]), names="loop k_0")
    sch.decompose_reduction("C", k0)
    sch.loop_partition(k1, [1])
    holds(_matmul(), lambda s: sch.trace.apply_to_schedule(s))


def test_refuses_loops_that_cut_a_reduction_in_the_middle() -> None:
    sch = scheduled(programs.fused_reduction())
    q = loops(sch, "Y")[0]
    refuses(sch, "partition-mixed", lambda: sch.loop_partition(q, [20]), names="loop q")
    a, _ = sch.split(q, [6, 8])
    sch.loop_partition(a, [2])  # drives the place alone
    holds(programs.fused_reduction(), lambda s: sch.trace.apply_to_schedule(s))


def test_refuses_loops_that_come_back_to_the_beginning() -> None:
    @T.prim_func
    def twice(X: T.Buffer((4,), "float32"), Y: T.Buffer((1,), "float32")):
        for q in range(8):
            with T.block("Y"):
                vk = T.axis.reduce(4, q % 4)
                with T.init():
                    Y[0] = 0.0
                Y[0] = Y[0] + X[vk]

    sch = scheduled(twice)
    call = partial(sch.loop_partition, loops(sch, "Y")[0], [3])
    refuses(sch, "partition-restart", call, names="loop q")

    @T.prim_func
    def late(X: T.Buffer((4,), "float32"), Y: T.Buffer((1,), "float32")):
        for q in range(4):
            with T.block("Y"):
                vk = T.axis.reduce(4, 3 - q)
                with T.init():
                    Y[0] = 0.0
                Y[0] = Y[0] + X[vk]

    sch = scheduled(late)
    call = partial(sch.loop_partition, loops(sch, "Y")[0], [3])
    refuses(sch, "reduction-start", call, names="iterator vk")


# ----------------------------------------------------------------------------- sampled sizes
def test_sampled_factors_in_matrix_evaluation() -> None:
    """One replay with Dims gives the extents of all rows, and asks only what holds in all."""
    func = programs.row_sum(12, 24)
    sch = scheduled(func)
    i, k = loops(sch, "Y")
    k0, k1 = sch.sample_perfect_tile(k, n=2, max_innermost_factor=24, decision=[3, 8])
    sch.split(k, [k0, k1])
    c, _ = sch.sample_perfect_tile(i, n=2, max_innermost_factor=12, decision=[2, 6])
    sch.loop_partition(i, [c])
    trace = sch.trace

    def extents(s: Schedule) -> list[Any]:
        (f,) = s.mod.functions.values()
        return [x.extent.value for x in walk_stmt(f.body) if type(x) is For]

    def replay(decide: Callable[[int, int, int], int]) -> Schedule:
        again = Schedule(func, seed=1)
        trace.apply_to_schedule(
            again,
            decision_provider=lambda inst, inputs, attrs, old: [
                decide(trace.insts.index(inst), n, x) for n, x in enumerate(old)
            ],
        )
        return again

    with recording() as guards:
        symbolic = extents(replay(lambda at, n, x: Dim(x, f"{at}.{n}")))
    rng = random.Random(0)
    rows: list[dict[str, int]] = []
    first, second = [k for k, x in enumerate(trace.insts) if x.kind.name == "SamplePerfectTile"]
    for _ in range(30):
        row: dict[str, int] = {}
        for at, extent in ((first, 24), (second, 12)):
            for n, x in enumerate(draw_tiling(rng, extent, 2, extent)):
                row[f"{at}.{n}"] = int(x)
        rows.append(row)
    table = Evaluator({c: np.array([r[c] for r in rows]) for c in rows[0]})
    mask = table.holds(guards, np.ones(len(rows), bool))
    # what differs is only whether something is left for the second loop
    fits = np.array([r[f"{second}.0"] < 12 for r in rows])
    assert (mask == fits).all()
    assert 0 < mask.sum() < len(rows)
    for n in np.flatnonzero(mask):
        got = extents(replay(lambda at, m, x: rows[n][f"{at}.{m}"]))  # noqa: B023
        want = [np.broadcast_to(table(x), len(rows))[n] for x in symbolic]
        assert got == [int(x) for x in want]


def test_sampled_factors_replay() -> None:
    def do(s: Schedule) -> None:
        k = loops(s, "Y")[1]
        a, _ = s.sample_perfect_tile(k, n=2, decision=[2, 4])
        s.loop_partition(k, [a, None, 1])

    sch = holds(programs.row_sum(4, 8), do)
    assert sch.trace.as_json()[0][3][1] == ["l2", "v3", "None", 1]


# ----------------------------------------------------------------------------- what comes after
def part_of_rows() -> PrimFunc:
    """Only the first rows are written; the others keep what the caller passed."""

    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                T.where(i < 4)
                Y[vi] = X[vi] + 1.0

    return f


def test_a_condition_is_compared_with_where_a_part_ends_not_with_its_length() -> None:
    """The second part runs from 4 to 8 where i < 4, so never, though it has 4 values."""
    sch = holds(part_of_rows(), cut("Y", 0, 4))
    first, second = (sch.get(sch.get_block(n)) for n in ("Y_i0", "Y_i1"))
    assert runs_whole_domain(first)
    assert not runs_whole_domain(second)


def test_copies_after_it_do_not_take_a_part_that_may_not_run_for_written() -> None:
    sch = holds(part_of_rows(), cut("Y", 0, 4))
    refuses(sch, "cache-partial", lambda: sch.cache_write("Y_i_common", 0, "global"))
    sch = holds(programs.where_sum(), cut("Y", 1, None))
    (i,) = loops(sch, "Y_k_common")
    refuses(sch, "copy-partial", lambda: sch.write_at(i, "Y_k_common", 0, "shared"), names="Y")


def test_updates_after_it_count_as_written_where_the_first_part_begins() -> None:
    """Conditions of later parts guard updates only."""

    def do(s: Schedule) -> None:
        s.loop_partition(s.split(loops(s, "Y")[1], [None, 5])[0], [1])
        s.cache_write(s.get_block("Y_k_0_common"), 0, "global")

    holds(programs.row_sum(4, 8), do)


def test_inlining_after_it_refuses_a_block_that_stores_at_one_place_of_the_block_outside() -> None:
    sch = scheduled(programs.row_sum(4, 8))
    sch.loop_partition(loops(sch, "Y")[1], [None])
    sch.rfactor(loops(sch, "Y_k0")[0], -1)
    refuses(sch, "inline-partial", lambda: sch.compute_inline("Y_k0_rf"), names="Y_k0_rf")
