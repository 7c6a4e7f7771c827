"""sample_perfect_tile, sample_categorical, sample_compute_location: draws, decisions, refusals."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from gputune.ir.equal import structural_equal
from gputune.ir.nodes import Var
from gputune.schedule import Schedule, Trace

from . import schedule_programs as programs
from .schedule_helpers import loops, refuses, replays, scheduled


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
