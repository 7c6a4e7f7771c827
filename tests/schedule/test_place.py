"""compute_at, reverse_compute_at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gputune.ir.nodes import PrimFunc
from gputune.schedule import Schedule
from gputune.script import tir as T

from . import schedule_programs as programs
from .schedule_helpers import keeps, loops, prints, refuses, scheduled


def test_compute_at_prints_what_is_needed() -> None:
    sch = scheduled(programs.halo())
    i0, _ = sch.split(loops(sch, "Y")[0], [2, 4])
    sch.compute_at("B", i0)
    prints(
        sch,
        """
        B = T.alloc_buffer((10,))
        for i_0 in range(2):
            for ax0 in range(6):
                with T.block("B"):
                    vi = T.axis.spatial(10, i_0 * 4 + ax0)
                    T.reads(X[vi:vi + 3])
                    T.writes(B[vi])
                    B[vi] = X[vi] + X[vi + 1] * T.float32(2) + X[vi + 2]
            for i_1 in range(4):
                with T.block("Y"):
                    vi = T.axis.spatial(8, i_0 * 4 + i_1)
                    T.reads(B[vi:vi + 3])
                    T.writes(Y[vi])
                    Y[vi] = B[vi] - B[vi + 1] + B[vi + 2]
    """,
    )


@pytest.mark.parametrize("factors", [[2, 4], [None, 3], [8], [3, None], [None, 5]])
@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("program", [programs.halo, programs.wide_indices, programs.reduced_halo])
def test_compute_at_computes_halos_again(
    program: Callable[[], PrimFunc], which: int, factors: list[Any]
) -> None:
    block = "S" if program is programs.reduced_halo else "B"
    keeps(program(), lambda s: s.compute_at(block, s.split(loops(s, "Y")[0], factors)[which]))


@pytest.mark.parametrize("depth", range(6))
@pytest.mark.parametrize("preserve", [False, True])
def test_compute_at_of_padding(depth: int, preserve: bool) -> None:
    keeps(programs.padded_conv(), lambda s: s.compute_at("P", loops(s, "O")[depth], preserve))


def test_compute_at_of_padding_under_tiles_that_do_not_divide() -> None:
    def do(s: Schedule) -> None:
        h, w, *_ = loops(s, "O")
        h0, h1 = s.split(h, [None, 2])
        w0, w1 = s.split(w, [None, 3])
        s.reorder(h0, w0, h1, w1)
        s.compute_at("P", w0)
        s.parallel(h0)

    keeps(programs.padded_conv(), do)


def consumers_that_differ() -> PrimFunc:
    """One producer; two consumers under one loop, forwards and backwards."""

    @T.prim_func
    def f(
        X: T.Buffer((12,), "float32"), Y: T.Buffer((8,), "float32"), Z: T.Buffer((8,), "float32")
    ):
        B = T.alloc_buffer((12,))
        for i in range(12):
            with T.block("B"):
                vi = T.axis.spatial(12, i)
                B[vi] = X[vi] * 2.0
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[vi] + B[vi + 2]
            with T.block("Z"):
                vi = T.axis.spatial(8, i)
                Z[vi] = B[11 - vi] - B[vi // 2]

    return f


@pytest.mark.parametrize("factors", [[2, 4], [None, 3], [8]])
@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("index", [-1, -2])
def test_compute_at_with_several_consumers(factors: list[Any], which: int, index: int) -> None:
    def do(s: Schedule) -> None:
        s.compute_at("B", s.split(loops(s, "Y")[0], factors)[which], index=index)

    sch = keeps(consumers_that_differ(), do)
    assert ("index=-2" in str(sch.trace)) == (index == -2)


def test_compute_at_of_a_pair() -> None:
    def do(s: Schedule) -> None:
        s.split(loops(s, "A")[1], [None, 3])
        s.reverse_compute_at("I", loops(s, "A")[0])

    keeps(programs.arg_max(), do, seeds=4)


def test_compute_at_understands_sampled_locations() -> None:
    for decision, blocks in ((-1, ["B", "Y"]), (-2, ["Y"]), (0, ["B", "Y"])):

        def do(s: Schedule) -> None:
            s.compute_at("B", s.sample_compute_location("B", decision=decision))  # noqa: B023

        sch = keeps(programs.chain(), do)
        assert [sch.get(b).name for b in sch.get_child_blocks("root")] == blocks


def test_reverse_compute_at_understands_sampled_locations() -> None:
    """Named for a bug: the marks were refused as loops that are gone."""
    for decision, blocks in ((-1, ["B", "Y"]), (-2, ["B"])):

        def do(s: Schedule) -> None:
            s.reverse_compute_at("Y", s.sample_compute_location("B", decision=decision))  # noqa: B023

        sch = keeps(programs.chain(), do)
        assert [sch.get(b).name for b in sch.get_child_blocks("root")] == blocks
    sch = scheduled(programs.row_sum())
    sch.cache_write("Y", 0, "local")
    inline = sch.sample_compute_location(sch.cache_read("Y", 0, "local"), decision=-2)
    call = lambda: sch.reverse_compute_at("Y_local", inline)  # noqa: E731
    refuses(sch, "inline-producer", call, names="not a complete block")


def test_compute_at_refuses() -> None:
    sch = scheduled(programs.chain())
    y0, b0 = loops(sch, "Y")[0], loops(sch, "B")[0]
    refuses(sch, "root-block", lambda: sch.compute_at("root", y0), names="root")
    refuses(sch, "place-under", lambda: sch.compute_at("B", b0), names="already under the loop i")
    refuses(sch, "place-output", lambda: sch.compute_at("Y", b0), names="block Y")
    refuses(sch, "not-a-loop", lambda: sch.compute_at("B", 3), names="int 3")  # type: ignore[arg-type]  # wrong on purpose
    refuses(sch, "place-index", lambda: sch.compute_at("B", y0, index=1), names="index 1")
    sch = scheduled(programs.diamond())
    c0 = loops(sch, "C")[0]
    refuses(sch, "place-consumer", lambda: sch.compute_at("B", c0), names="D, Z are not")
    sch = scheduled(programs.nested_blocks())
    inner = loops(sch, "inner")[0]
    refuses(sch, "place-scope", lambda: sch.compute_at("B", inner), names="different scopes")


def test_compute_at_refuses_blocks_it_would_change() -> None:
    def split_first(s: Schedule) -> None:  # a predicate that only ends the domain is made anew
        s.split(loops(s, "B")[0], [None, 3])
        s.compute_at("B", loops(s, "Y")[0])

    keeps(programs.chain(), split_first)
    sch = scheduled(programs.part_of_domain())
    y0 = loops(sch, "Y")[0]
    refuses(sch, "place-domain", lambda: sch.compute_at("S", y0), names="block S")
    for program, why in (
        (programs.opaque_rows, "neither a complete"),
        (programs.loose_store, "outside any block"),
        (programs.loaded_condition, "outside any block"),
    ):
        sch = scheduled(program())
        y0 = loops(sch, "Y")[0]
        refuses(sch, "not-pipeline", lambda: sch.compute_at("B", y0), names=why)  # noqa: B023
    sch = scheduled(programs.reduced_halo())
    i0, _ = sch.split(loops(sch, "Y")[0], [2, 4])
    sch.compute_at("S", i0)
    sch.decompose_reduction("S", loops(sch, "S")[2])
    i1 = loops(sch, "Y")[1]
    refuses(sch, "not-complete", lambda: sch.compute_at("S_update", i1), names="S_update")


# ----------------------------------------------------------------------------- reverse
def test_reverse_compute_at_prints_what_was_made() -> None:
    sch = scheduled(programs.chain())
    sch.reverse_compute_at("Y", loops(sch, "B")[0])
    prints(
        sch,
        """
        B = T.alloc_buffer((4, 6))
        for i in range(4):
            for j in range(6):
                with T.block("B"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    T.reads(X[vi, vj])
                    T.writes(B[vi, vj])
                    B[vi, vj] = X[vi, vj] + T.float32(1)
            for ax1 in range(6):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, ax1])
                    T.reads(B[vi, vj])
                    T.writes(Y[vi, vj])
                    Y[vi, vj] = B[vi, vj] * T.float32(2)
    """,
    )


@pytest.mark.parametrize("factors", [[2, 3], [None, 4], [6], [None, 1]])
@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("preserve", [False, True])
def test_reverse_compute_at_under_tiles(factors: list[Any], which: int, preserve: bool) -> None:
    def do(s: Schedule) -> None:
        s.reverse_compute_at("Y", s.split(loops(s, "B")[1], factors)[which], preserve)

    keeps(programs.chain(), do)


def test_reverse_compute_at_of_a_copy_back_under_a_reduction() -> None:
    def do(s: Schedule) -> None:
        i, j, k = loops(s, "C")
        i0, i1 = s.split(i, [None, 2])
        s.reorder(i0, j, k, i1)
        s.reverse_compute_at(s.cache_write("C", 0, "local"), j)

    keeps(programs.wide_matmul(), do)


def test_reverse_compute_at_of_a_whole_reduction() -> None:
    keeps(programs.downsample(), lambda s: s.compute_inline("B"))


def test_reverse_compute_at_refuses() -> None:
    sch = scheduled(programs.wide_matmul())
    c = sch.cache_write("C", 0, "local")
    i, j, k = loops(sch, "C")
    e = refuses(sch, "place-partial", lambda: sch.reverse_compute_at(c, k), names="vk")
    assert ">" in str(e)
    own = sch.get_loops(c)[0]
    refuses(sch, "place-under", lambda: sch.reverse_compute_at(c, own))
    refuses(sch, "place-index", lambda: sch.reverse_compute_at(c, j, index=0), names="index 0")
    refuses(sch, "root-block", lambda: sch.reverse_compute_at("root", i))
    sch = scheduled(programs.halo())
    b0 = loops(sch, "B")[0]
    refuses(sch, "place-region", lambda: sch.reverse_compute_at("Y", b0), names="several elements")
    sch = scheduled(programs.diamond())
    c0 = loops(sch, "C")[0]
    refuses(sch, "place-producer", lambda: sch.reverse_compute_at("D", c0), names="B is not")
    sch = scheduled(programs.chain())
    y0 = loops(sch, "Y")[0]
    refuses(sch, "place-producer", lambda: sch.reverse_compute_at("B", y0), names="no producer")


def test_reverse_compute_at_refuses_to_write_more() -> None:
    sch = scheduled(programs.guarded())
    b0 = loops(sch, "B")[0]
    refuses(sch, "place-guard", lambda: sch.reverse_compute_at("Y", b0), names="block Y")
    sch = scheduled(programs.part_of_domain())
    s0 = loops(sch, "S")[0]
    refuses(sch, "place-domain", lambda: sch.reverse_compute_at("Y", s0), names="block Y")


def test_reverse_compute_at_refuses_results_of_half_a_tile() -> None:
    # the inner of two splits overshoots inside the domain: what it skips is made elsewhere
    sch = scheduled(programs.chain())
    sch.vectorize(loops(sch, "Y")[1])  # the scope is found to be a stage pipeline here
    i = loops(sch, "B")[0]
    _, i1 = sch.split(i, [2, 2])
    i10, _ = sch.split(i1, [1, 3])
    refuses(sch, "place-predicate", lambda: sch.reverse_compute_at("Y", i10), names="producer B")


def diagonal() -> PrimFunc:
    """Two producers under one loop, and a consumer of all their pairs."""

    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8, 8), "float32")):
        B = T.alloc_buffer((8,))
        C = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi] + 1.0
            with T.block("C"):
                vi = T.axis.spatial(8, i)
                C[vi] = X[vi] + 2.0
        for i, j in T.grid(8, 8):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = B[vi] * C[vj]

    return f


def test_reverse_compute_at_needs_all_pairs() -> None:
    sch = scheduled(diagonal())
    i = loops(sch, "B")[0]
    refuses(sch, "place-cover", lambda: sch.reverse_compute_at("Y", i), names="reads more of C")


@pytest.mark.parametrize(
    ("extent", "factors", "at"), [(1, [1, 2], 1), (1, [2, 3], 0), (1, [1, 2, 2], 1), (2, [2, 3], 0)]
)
def test_reverse_compute_at_below_tiles_longer_than_the_extent(
    extent: int, factors: list[int], at: int
) -> None:
    """Named for a bug: the whole domain, being no more than a tile, was asked of each of them."""

    def do(sch: Schedule) -> None:
        parts = sch.split(loops(sch, "Y")[0], factors)
        sch.reverse_compute_at(sch.cache_write("Y", 0, "local"), parts[at], True)

    sch = keeps(programs.row_sum(extent, 3), do)
    assert str(sch.get(sch.get_block("Y_local")).predicate).endswith(f" < {extent}")


def test_compute_at_reads_nothing_that_is_not_made_yet() -> None:
    """Named for a bug: a row of B was read before it was made, in iterations of the loop in which
    the consumer does not run. Nobody used what was read, but a GPU's host execution complained."""

    @T.prim_func
    def f(X: T.Buffer((4, 4), "float32"), Y: T.Buffer((4, 4), "float32")):
        B = T.alloc_buffer((4, 4))
        C = T.alloc_buffer((4, 4))
        for i, j in T.grid(4, 4):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] * 2.0
        for i, j in T.grid(4, 4):
            with T.block("C"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = B[vi, vj] + 1.0
        for i, j in T.grid(4, 4):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = C[vi, vj]

    def do(s: Schedule) -> None:
        i = loops(s, "B")[0]
        s.reverse_compute_at("C", i, True)
        s.reverse_compute_at("Y", i, True)
        _, inner = s.split(s.fuse(*loops(s, "Y")[1:]), [None, 8])
        s.compute_at("C", inner)

    sch = keeps(f, do)
    where = str(sch.get(sch.get_block("C")).predicate)
    assert where.endswith("ax0_ax1_fused_0 * 8 + ax0_ax1_fused_1 < 4")


def test_compute_at_looks_up_no_index_where_its_consumer_does_not_run() -> None:
    """Named for a bug: which row is needed was looked up beyond the end of the table, because the
    condition on the consumer stayed with the consumer."""

    @T.prim_func
    def f(
        X: T.Buffer((4, 3), "float32"),
        N: T.Buffer((4,), "int32"),
        Y: T.Buffer((4, 3), "float32"),
    ):
        B = T.alloc_buffer((4, 3))
        for i, j in T.grid(4, 3):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] * 2.0
        for i, j in T.grid(4, 3):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = B[T.max(T.min(N[vi], 3), 0), vj]

    s = scheduled(f)
    s.split(loops(s, "Y")[0], [2, 3])
    inner = loops(s, "Y")[1]
    names = "data says what block Y needs"
    refuses(s, "place-region", lambda: s.compute_at("B", inner), names=names)
    refuses(s, "place-region", lambda: s.read_at(inner, "Y", 0, "local"), names=names)
    keeps(f, lambda s: s.compute_at("B", loops(s, "Y")[0]))
