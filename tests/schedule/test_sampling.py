"""sample_perfect_tile, sample_tile, sample_partitioned_tile, sample_categorical,
sample_compute_location: draws, decisions, refusals."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from gputune.errors import ScheduleError
from gputune.ir.equal import structural_equal
from gputune.ir.nodes import Var
from gputune.schedule import Schedule, Trace

from . import schedule_programs as programs
from .schedule_helpers import keeps, loops, prints, refuses, replays, scheduled


def tiles(seed: int, n: int = 2, limit: int = 16) -> list[int]:
    sch = Schedule(programs.tutorial(), seed=seed)
    loop = sch.get_loops(sch.get_block("C"))[1]
    return [int(sch.get(v)) for v in sch.sample_perfect_tile(loop, n, limit)]


def test_b2_20_to_b2_23_sampled_values_are_symbols_and_change_nothing() -> None:
    sch = scheduled(programs.tutorial())
    before = sch.mod.script()
    block = sch.get_block("C")
    _, j, _ = sch.get_loops(block)
    factors = sch.sample_perfect_tile(loop=j, n=2)
    assert all(isinstance(v, Var) for v in factors)
    assert sch.mod.script() == before
    decision = sch.trace.get_decision(sch.trace.insts[-1])
    assert math.prod(decision) == 128
    assert decision == [sch.get(v) for v in factors]
    j0, j1 = sch.split(j, factors)
    assert [sch.get(x).extent.value for x in (j0, j1)] == decision
    assert sch.mod.script() != before


def test_same_seed_same_choices() -> None:
    assert [tiles(s) for s in range(1, 30)] == [tiles(s) for s in range(1, 30)]
    assert len({tuple(tiles(s)) for s in range(1, 30)}) > 2


def test_tiles_are_drawn_uniformly_among_the_legal_ones() -> None:
    found = Counter(tuple(tiles(s, 3, 4)) for s in range(1, 1501))
    legal = [
        (a, b, 128 // a // b)
        for a in (2**k for k in range(8))
        for b in (2**k for k in range(8))
        if a * b <= 128 and 128 // a // b <= 4
    ]
    assert set(found) == set(legal)
    expected = 1500 / len(legal)
    assert all(abs(n - expected) < 5 * math.sqrt(expected) for n in found.values())


@pytest.mark.parametrize("method", ["sample_perfect_tile", "sample_tile"])
def test_no_limit_of_the_last_factor(method: str) -> None:
    """Named for a bug: -1, MetaSchedule's word for no limit, was refused."""
    last = set()
    for seed in range(1, 40):
        sch = Schedule(programs.tutorial(), seed=seed)
        factors = getattr(sch, method)(loops(sch, "C")[0], 2, max_innermost_factor=-1)
        last.add(int(sch.get(factors[-1])))
    assert max(last) >= 64
    sch = scheduled(programs.tutorial())
    getattr(sch, method)(loops(sch, "C")[0], 2, -1, decision=[1, 128])
    assert "max_innermost_factor=-1, decision=[1, 128]" in str(sch.trace)
    replays(programs.tutorial(), sch)
    call = lambda: getattr(sch, method)(loops(sch, "C")[0], 2, -2)  # noqa: E731
    with pytest.raises(ScheduleError, match="at least 1"):
        call()


@pytest.mark.parametrize(
    ("n", "limit", "decision", "why"),
    [
        (3, 16, [7, 7, 7], "product is 343, not the extent 128"),
        (3, 4, [2, 2, 32], "above max_innermost_factor 4"),
        (3, 16, [8, 16], "2 factors, not 3"),
        (2, 16, [0, 128], "positive"),
        (2, 16, [-8, -16], "positive"),
    ],
)
def test_illegal_tiles_are_refused(n: int, limit: int, decision: list[int], why: str) -> None:
    sch = scheduled(programs.tutorial())
    i = loops(sch, "C")[0]
    call = lambda: sch.sample_perfect_tile(i, n, limit, decision=decision)  # noqa: E731
    refuses(sch, "sample-decision", call, names=why)


@pytest.mark.parametrize("decision", [5, "ab", [1.5, 2], [[1], 2], {"a": 1}, [True, 128]])
def test_decisions_of_another_kind_are_refused(decision: Any) -> None:
    sch = scheduled(programs.tutorial())
    i = loops(sch, "C")[0]
    call = lambda: sch.sample_perfect_tile(i, 2, decision=decision)  # noqa: E731
    refuses(sch, "argument", call, names="decision")


def test_sample_perfect_tile_refuses_arguments() -> None:
    sch = scheduled(programs.tutorial())
    i = loops(sch, "C")[0]
    tile = sch.sample_perfect_tile
    refuses(sch, "sample-arguments", lambda: tile(i, 0), names="got 0 and 16")
    refuses(sch, "sample-arguments", lambda: tile(i, 2, 0), names="got 2 and 0")
    refuses(sch, "sample-arguments", lambda: tile(i, 1, 16), names="one factor of 128")
    refuses(sch, "sample-arguments", lambda: tile(i, 10**9), names="at most 64")
    refuses(sch, "argument", lambda: tile(i, 2.5), names="n must be an integer")  # type: ignore[arg-type]  # wrong on purpose
    sch = scheduled(programs.triangle())
    j = loops(sch, "Y")[1]
    e = refuses(sch, "sample-dynamic", lambda: sch.sample_perfect_tile(j, 2), names="i + 1")
    assert "one None" in e.hint


def test_tiles_that_do_not_divide() -> None:
    """128 rows in register tiles of 6: the blocks get a predicate."""
    sch = Schedule(programs.tutorial(), seed=4)
    i, j, _ = loops(sch, "C")
    factors = sch.sample_tile(i, 3, decision=[3, 8, 6])
    assert [int(sch.get(v)) for v in factors] == [3, 8, 6]
    assert [sch.get(x).extent.value for x in sch.split(i, factors)] == [3, 8, 6]
    assert "T.where" in sch.mod.script()
    sch.split(j, sch.sample_tile(j, 2, 64))
    replays(programs.tutorial(), sch)
    assert sch.trace.as_python()[2] == (
        "v4, v5, v6 = sch.sample_tile(loop=l1, n=3, max_innermost_factor=16, decision=[3, 8, 6])"
    )
    assert sch.trace.as_json()[0][2] == ["SampleTile", ["l1"], [3, 16], ["v4", "v5", "v6"]]
    assert sch.trace.as_json()[1][0] == [2, [3, 8, 6]]


def test_sample_tile_draws_both_kinds_and_is_deterministic() -> None:
    def drawn(seed: int) -> list[int]:
        sch = Schedule(programs.tutorial(), seed=seed)
        return [int(sch.get(v)) for v in sch.sample_tile(loops(sch, "C")[0], 3)]

    found = [drawn(s) for s in range(1, 80)]
    assert found == [drawn(s) for s in range(1, 80)]
    products = [math.prod(t) for t in found]
    assert all(128 <= p <= 160 for p in products)
    assert 20 < products.count(128) < 60
    assert all(t[-1] <= 16 for t in found)


@pytest.mark.parametrize(
    ("n", "limit", "decision", "why"),
    [
        (2, 16, [21, 6], "its first factor is 21, not 22, which is 128 / 6 rounded up"),
        (2, 16, [23, 6], "its first factor is 23, not 22"),
        (2, 100, [2, 100], "its product 200 is more than a quarter above the extent 128"),
        (3, 4, [4, 4, 8], "above max_innermost_factor 4"),
        (3, 16, [8, 16], "2 factors, not 3"),
        (2, 16, [0, 128], "positive"),
    ],
)
def test_illegal_coverings_are_refused(n: int, limit: int, decision: list[int], why: str) -> None:
    sch = scheduled(programs.tutorial())
    i = loops(sch, "C")[0]
    call = lambda: sch.sample_tile(i, n, limit, decision=decision)  # noqa: E731
    refuses(sch, "sample-decision", call, names=why)


def test_a_covering_of_sizes_that_are_not_drawn_is_legal() -> None:
    sch = scheduled(programs.tutorial())
    i = loops(sch, "C")[0]
    assert [int(sch.get(v)) for v in sch.sample_tile(i, 2, 64, decision=[3, 43])] == [3, 43]


def test_sample_tile_refuses_arguments() -> None:
    sch = scheduled(programs.tutorial())
    i = loops(sch, "C")[0]
    tile = sch.sample_tile
    refuses(sch, "sample-arguments", lambda: tile(i, 0), names="got 0 and 16")
    refuses(sch, "sample-arguments", lambda: tile(i, 2, 0), names="got 2 and 0")
    refuses(sch, "sample-arguments", lambda: tile(i, 1, 16), names="one factor of 128")
    refuses(sch, "sample-arguments", lambda: tile(i, 10**9), names="at most 64")
    refuses(sch, "argument", lambda: tile(i, 2, decision=[True, 128]), names="decision")
    sch = scheduled(programs.triangle())
    j = loops(sch, "Y")[1]
    refuses(sch, "sample-dynamic", lambda: sch.sample_tile(j, 2), names="i + 1")


def test_sample_partitioned_tile() -> None:
    for seed in range(1, 20):
        sch = Schedule(programs.tutorial(), seed=seed)
        i, j, _ = loops(sch, "C")
        a = [int(sch.get(v)) for v in sch.sample_partitioned_tile(i, 4, 2, 16)]
        assert math.prod(a) == 128
        assert a[2] * a[3] % 16 == 0
        b = [int(sch.get(v)) for v in sch.sample_partitioned_tile(j, 3, 1, 3)]
        assert b == [1, 1, 128]  # 128 is no multiple of 3
        sch.split(i, sch.sample_partitioned_tile(i, 2))
        replays(programs.tutorial(), sch)
    line = sch.trace.as_python()[2]
    assert "sample_partitioned_tile(loop=l1, n=4, partition_pos=2, innerpart_factor=16" in line
    assert sch.trace.as_json()[0][2][:3] == ["SamplePartitionedTile", ["l1"], [4, 2, 16]]


def test_sample_partitioned_tile_refuses() -> None:
    sch = scheduled(programs.tutorial())
    i = loops(sch, "C")[0]
    tile = sch.sample_partitioned_tile
    refuses(sch, "sample-arguments", lambda: tile(i, 2, 2), names="0 to n - 1")
    refuses(sch, "sample-arguments", lambda: tile(i, 2, -1), names="0 to n - 1")
    refuses(sch, "sample-arguments", lambda: tile(i, 0), names="n = 0")
    refuses(sch, "sample-arguments", lambda: tile(i, 10**9), names=f"n = {10**9}")
    refuses(sch, "sample-arguments", lambda: tile(i, 2, 1, 0), names="innerpart_factor")
    for factor, decision, why in (
        (8, [32, 2, 2], "4 of the factors from 1 on"),
        (8, [32, 2, 4], "product is 256"),
        (3, [2, 1, 64], "only [1, 1, 128] is"),
    ):
        call = lambda f=factor, d=decision: tile(i, 3, 1, f, decision=d)  # noqa: E731
        refuses(sch, "sample-decision", call, names=why)
    sch = scheduled(programs.triangle())
    j = loops(sch, "Y")[1]
    refuses(sch, "sample-dynamic", lambda: sch.sample_partitioned_tile(j, 2), names="i + 1")


def test_sample_partitioned_tile_cuts_a_loop_into_an_outer_and_an_inner_part() -> None:
    """Golden: two outer factors, and an inner part that is a multiple of 8."""
    sch = scheduled(programs.copy2d(4, 48))
    _, j = loops(sch, "Y")
    sch.split(j, sch.sample_partitioned_tile(j, 4, 2, 8, decision=[3, 2, 2, 4]))
    prints(
        sch,
        """
        for i, j_0, j_1, j_2, j_3 in T.grid(4, 3, 2, 2, 4):
            with T.block("Y"):
                vi = T.axis.spatial(4, i)
                vj = T.axis.spatial(48, j_0 * 16 + j_1 * 8 + j_2 * 4 + j_3)
                T.reads(X[vi, vj])
                T.writes(Y[vi, vj])
                Y[vi, vj] = X[vi, vj] + T.float32(1)
    """,
    )
    assert sch.trace.as_python()[2] == (
        "v3, v4, v5, v6 = sch.sample_partitioned_tile(loop=l2, n=4, partition_pos=2, "
        "innerpart_factor=8, decision=[3, 2, 2, 4])"
    )
    instructions, decisions = sch.trace.as_json()
    assert instructions[2] == [
        "SamplePartitionedTile", ["l2"], [4, 2, 8], ["v3", "v4", "v5", "v6"],
    ]  # fmt: skip
    assert decisions == [[2, [3, 2, 2, 4]]]
    replays(programs.copy2d(4, 48), sch)


@pytest.mark.parametrize("seed", range(1, 9))
def test_sample_partitioned_tile_keeps_the_meaning(seed: int) -> None:
    """Loops that the factor divides, and loops that it does not (those stay whole)."""

    def do(s: Schedule) -> None:
        s.seed(seed)
        i, k = loops(s, "Y")
        i0, i1, i2 = s.split(i, s.sample_partitioned_tile(i, 3, 1, 4))
        whole = s.sample_partitioned_tile(k, 2, 1, 4)
        assert [s.get(v) for v in whole] == [1, 18]
        k0, k1 = s.split(k, s.sample_partitioned_tile(k, 2, 1, 3))
        assert s.get(k1).extent.value % 3 == 0
        assert s.get(i1).extent.value * s.get(i2).extent.value % 4 == 0
        s.reorder(i0, k0, i2, k1, i1)
        s.split(i2, s.sample_partitioned_tile(i2, 2, 0))  # of an extent that was sampled

    keeps(programs.row_sum(12, 18), do)


def test_sample_partitioned_tile_at_its_ends() -> None:
    sch = scheduled(programs.copy2d(1, 12))
    one, j = loops(sch, "Y")
    tile = sch.sample_partitioned_tile

    def values(*args: Any) -> list[int]:
        return [sch.get(v) for v in tile(*args)]

    assert values(one, 3, 2) == [1, 1, 1]
    assert values(one, 3, 2, 5) == [1, 1, 1]
    assert values(j, 1) == values(j, 1, 0, 12) == values(j, 1, 0, 7) == [12]
    assert values(j, 3, 2, 12) == [1, 1, 12]
    assert math.prod(values(j, 3, 0, 12)) == 12
    assert values(j, 3, 1, 24) == [1, 1, 12]  # no multiple of what is longer than the loop
    assert sch.sample_partitioned_tile(j, 2, decision=[12, 1])
    again = [Schedule(programs.copy2d(1, 12), seed=9) for _ in range(2)]
    drawn = [
        [s.get(v) for _ in range(9) for v in s.sample_partitioned_tile(loops(s, "Y")[1], 3, 1, 2)]
        for s in again
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ((2.5,), "n must be an integer"),
        ((True,), "n must be an integer"),
        ((3, "x"), "partition_pos"),
        ((3, 1, 2.5), "innerpart_factor"),
        ((3, 1, 2, [1.5, 2, 4]), "decision"),
        ((3, 1, 2, [True, 2, 64]), "decision"),
        ((3, 1, 2, 5), "decision"),
    ],
)
def test_arguments_of_another_kind_are_refused(arguments: Any, names: str) -> None:
    sch = scheduled(programs.tutorial())
    i = loops(sch, "C")[0]
    refuses(sch, "argument", lambda: sch.sample_partitioned_tile(i, *arguments), names=names)


@pytest.mark.parametrize(
    ("factor", "decision", "why"),
    [
        (8, [16, 8], "2 factors, not 3"),
        (8, [0, 8, 16], "positive"),
        (8, [-1, -8, 16], "positive"),
        (8, [16, 16, 1], "product is 256, not the extent 128"),
        (16, [16, 8, 1], "8 of the factors from 1 on is no multiple of 16"),
        (24, [2, 1, 64], "128 is no multiple of 24, so only [1, 1, 128] is"),
    ],
)
def test_illegal_partitions_are_refused(factor: int, decision: list[int], why: str) -> None:
    sch = scheduled(programs.tutorial())
    i = loops(sch, "C")[0]
    call = lambda: sch.sample_partitioned_tile(i, 3, 1, factor, decision=decision)  # noqa: E731
    refuses(sch, "sample-decision", call, names=why)


@pytest.mark.parametrize("name", ["sample_perfect_tile", "sample_tile", "sample_partitioned_tile"])
def test_a_loop_that_never_runs_has_no_tiles(name: str) -> None:
    sch = scheduled(programs.copy2d(4, 0))
    j = loops(sch, "Y")[1]
    e = refuses(sch, "sample-empty", lambda: getattr(sch, name)(j, 2), names="extent 0")
    assert e.hint


def test_sample_categorical() -> None:
    sch = scheduled(programs.copy2d())
    v = sch.sample_categorical([4, 8, 16], [0.0, 0.0, 1.0])
    assert sch.get(v) == 16
    assert sch.trace.get_decision(sch.trace.insts[-1]) == 2
    assert sch.get(sch.sample_categorical([4, 8], [0.5, 0.5], decision=0)) == 4
    pick = sch.sample_categorical
    for decision in (2, -1):
        call = lambda d=decision: pick([1, 2], [0.5, 0.5], decision=d)  # noqa: E731
        refuses(sch, "sample-decision", call, names=f"decision {decision}")
    refuses(sch, "argument", lambda: pick([1], [1.0], decision="x"), names="decision")  # type: ignore[arg-type]  # wrong on purpose
    refuses(sch, "argument", lambda: pick([1.5], [1.0]), names="candidates")  # type: ignore[list-item]  # wrong on purpose
    refuses(sch, "sample-arguments", lambda: pick([1, 2], [1.0]), names="2 candidates with 1")
    refuses(sch, "sample-arguments", lambda: pick([], []), names="0 candidates")
    refuses(sch, "sample-arguments", lambda: pick([1, 2], [-1.0, 2.0]), names="[-1.0, 2.0]")
    refuses(sch, "sample-arguments", lambda: pick([1, 2], [0.0, 0.0]), names="[0.0, 0.0]")
    refuses(sch, "sample-arguments", lambda: pick([1], [math.nan]), names="nan")


def test_sample_compute_location_offers_what_is_legal() -> None:
    seen = set()
    for seed in range(1, 60):
        sch = Schedule(programs.padded_conv(), seed=seed)
        sch.compute_at("P", sch.sample_compute_location("P"))
        seen.add(sch.trace.get_decision(sch.trace.insts[1]))
        replays(programs.padded_conv(), sch)
    assert {-2, -1, 0, 1, 2} <= seen
    sch = scheduled(programs.padded_conv())
    sample = sch.sample_compute_location
    refuses(sch, "sample-decision", lambda: sample("P", decision=77), names="decision 77")
    refuses(sch, "sample-decision", lambda: sample("O", decision=-2), names="block O")
    refuses(sch, "argument", lambda: sample("P", decision="x"), names="decision")  # type: ignore[arg-type]  # wrong on purpose
    refuses(sch, "root-block", lambda: sample("root"), names="root")


def test_a_place_that_is_no_loop_can_only_be_computed_at() -> None:
    sch = scheduled(programs.chain())
    here = sch.sample_compute_location("B", decision=-1)
    refuses(sch, "loop-gone", lambda: sch.split(here, [2, None]), names="loop")


def test_replay_with_a_decision_provider() -> None:
    sch = Schedule(programs.tutorial(), seed=3)
    j = sch.get_loops(sch.get_block("C"))[1]
    sch.split(j, sch.sample_perfect_tile(j, 2))
    calls = []

    def provide(inst: Any, inputs: list[Any], attrs: list[Any], old: Any) -> Any:
        calls.append((inst.kind.name, attrs, old))
        return [8, 16]

    again = Schedule(programs.tutorial())
    sch.trace.apply_to_schedule(again, decision_provider=provide)
    old = sch.trace.get_decision(sch.trace.insts[2])
    assert calls == [("SamplePerfectTile", [2, 16], old)]
    assert "decision=[8, 16]" in str(again.trace)
    by_hand = Schedule(programs.tutorial())
    sch.trace.with_decision(sch.trace.insts[2], [8, 16]).apply_to_schedule(by_hand)
    assert structural_equal(by_hand.mod, again.mod)
    assert isinstance(again.trace, Trace)
