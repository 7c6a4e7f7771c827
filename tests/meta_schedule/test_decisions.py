"""Are rows of decisions drawn, varied and listed as their rules say, and does a matrix with tiles
that need not divide say the same as replay?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_spaces import MACHINE, matmul, sketches, suite_kernel
from test_population import agree

from gputune.ir.nodes import IRModule
from gputune.meta_schedule.decisions import Decisions, IntArray, Tile, row_numbers
from gputune.meta_schedule.population import Sketch
from gputune.schedule import Schedule
from gputune.schedule.tilings import Covering, Partitioned, Perfect
from gputune.schedule.trace import Trace

KINDS = ("sample_perfect_tile", "sample_tile", "sample_partitioned_tile")


def row_keys(rows: IntArray) -> list[tuple[int, ...]]:
    return [tuple(row) for row in rows.tolist()]


def covered(sch: Schedule) -> None:
    """SSRSRS with tiles that need not divide."""
    i, j, k = sch.get_loops(sch.get_block("C"))
    a = sch.split(i, sch.sample_tile(i, 4))
    b = sch.split(j, sch.sample_tile(j, 4, 64))
    c = sch.split(k, sch.sample_tile(k, 2))
    sch.reorder(a[0], b[0], a[1], b[1], c[0], a[2], b[2], c[1], a[3], b[3])


def mixed(sch: Schedule) -> None:
    """One loop of each kind, and two categories."""
    i, j, k = sch.get_loops(sch.get_block("C"))
    sch.split(i, sch.sample_perfect_tile(i, 3))
    sch.split(j, sch.sample_tile(j, 3))
    sch.split(k, sch.sample_partitioned_tile(k, 3, 1, 4))
    sch.annotate(sch.get_block("C"), "a", sch.sample_categorical([1, 2, 3], [0.5, 0.5, 0.0]))
    sch.annotate(sch.get_block("C"), "b", sch.sample_categorical([7], [1.0]))


def nested(sch: Schedule) -> None:
    """Tiles of a loop whose extent was sampled."""
    i, j, _ = sch.get_loops(sch.get_block("C"))
    _, inner = sch.split(i, sch.sample_tile(i, 2, 64))
    sch.split(inner, sch.sample_tile(inner, 2, 8))
    _, inner = sch.split(j, sch.sample_perfect_tile(j, 2, 64))
    sch.split(inner, sch.sample_partitioned_tile(inner, 2, 1, 2))


def sketch_of(space: Any, n: int, seed: int = 3) -> Sketch:
    sch = Schedule(matmul(n), seed=seed)
    space(sch)
    return Sketch(IRModule.from_expr(matmul(n)), sch.trace, [], MACHINE)


def legal(d: Decisions, rows: np.ndarray) -> bool:
    for site in d.sites:
        if type(site) is Tile:
            if not site.rule.holds(rows[:, site.columns], site.extent(rows)).all():
                return False
        else:
            column = rows[:, site.at]
            if not ((column >= 0) & (column < 3)).all():
                return False
    return bool((rows[:, [c for s in d.sites if type(s) is Tile for c in _span(s)]] > 0).all())


def _span(site: Tile) -> range:
    return range(site.at, site.at + site.n)


@pytest.mark.parametrize("space", [covered, mixed, nested])
@pytest.mark.parametrize("n", [32, 60, 127])
def test_rows_stay_legal(space: Any, n: int) -> None:
    rng = np.random.default_rng(1)
    d = sketch_of(space, n).decisions
    rows = d.sample(400, rng)
    assert legal(d, rows)
    mutants = d.mutate(rows, rng)
    children = d.cross(rows, mutants[::-1], rng)
    assert legal(d, mutants)
    assert legal(d, children)
    for row in rows[:10]:
        near = d.neighbours(row)
        assert legal(d, near)
        assert len(set(row_keys(near))) == len(near) > 0
        assert (near != row).any(axis=1).all()
    changed = (mutants != rows).any(axis=1).mean()
    assert changed > (0.3 if n == 127 else 0.7)  # a prime number has few tiles


@pytest.mark.parametrize("space", [covered, mixed])
def test_mutants_differ_in_one_decision_and_children_are_made_of_parents(space: Any) -> None:
    rng = np.random.default_rng(2)
    d = sketch_of(space, 96).decisions
    a, b = d.sample(500, rng), d.sample(500, rng)
    spans = [s.columns if type(s) is Tile else slice(s.at, s.at + 1) for s in d.sites]
    mutants = d.mutate(a, rng)
    differing = sum((mutants[:, c] != a[:, c]).any(axis=1).astype(int) for c in spans)
    assert max(differing) == 1
    children = d.cross(a, b, rng)
    for c in spans:
        mine = (children[:, c] == a[:, c]).all(axis=1)
        theirs = (children[:, c] == b[:, c]).all(axis=1)
        assert (mine | theirs).all()
        if (a[:, c] != b[:, c]).any():
            split = (mine & ~theirs).sum() / (mine ^ theirs).sum()
            assert 0.4 < split < 0.6


def test_every_draw_of_locations_has_some_that_are_inlined() -> None:
    """Named for a bug: of twenty places of the padding of a convolution six were drawn from, and
    only in a third of the draws to inline it was one of them."""
    sketch = sketches(suite_kernel("DEP"))[0]
    (site,) = sketch.decisions.locations
    for seed in range(6):
        rows = sketch.decisions.sample(120, np.random.default_rng(seed))
        assert 5 <= int((rows[:, site.at] == -2).sum()) <= 60
        assert len(np.unique(rows[:, site.at])) <= 6
        assert sketch.evaluate(rows[rows[:, site.at] == -2]).valid.all()


def test_half_of_the_changed_tiles_change_a_little() -> None:
    """A covering with one factor of the next size, or one prime moved; the others are drawn."""
    rng = np.random.default_rng(4)
    d = sketch_of(covered, 127).decisions
    row = d.sample(1, rng)[0]
    near = set(row_keys(d.neighbours(row)))
    mutants = d.mutate(np.repeat(row[None], 2000, axis=0), rng)
    share = np.mean([k in near for k in row_keys(mutants)])
    assert 0.4 < share < 0.75


def test_every_neighbour_is_reached_by_mutation() -> None:
    for space in (covered, mixed):
        d = sketch_of(space, 24).decisions
        rng = np.random.default_rng(5)
        row = d.sample(1, rng)[0]
        near = set(row_keys(d.neighbours(row)))
        mutants = set(row_keys(d.mutate(np.repeat(row[None], 20000, axis=0), rng)))
        assert near <= mutants


def test_same_generator_same_rows() -> None:
    d = sketch_of(mixed, 60).decisions
    runs = []
    for _ in range(2):
        rng = np.random.default_rng(9)
        rows = d.sample(50, rng)
        runs.append(np.concatenate([rows, d.mutate(rows, rng), d.cross(rows, rows[::-1], rng)]))
    assert (runs[0] == runs[1]).all()


@pytest.mark.parametrize("space", [covered, mixed, nested])
def test_what_is_listed_is_what_is_drawn(space: Any) -> None:
    d = sketch_of(space, 4).decisions
    every = d.enumerate(100_000)
    assert every is not None
    assert legal(d, every)
    listed = set(row_keys(every))
    assert len(listed) == len(every)
    drawn = set(row_keys(d.sample(40_000, np.random.default_rng(0))))
    assert drawn <= listed
    assert len(drawn) > 0.95 * len(listed)


@given(st.integers(1, 40), st.integers(0, 8), st.integers(0, 100))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_numbers_tell_rows_apart_as_python_does(count: int, width: int, seed: int) -> None:
    rows = np.random.default_rng(seed).integers(1, 3, (count, width))
    numbers, keys = row_numbers(rows).tolist(), row_keys(rows)
    for j in range(count):
        assert [n == numbers[j] for n in numbers] == [k == keys[j] for k in keys]


# ----------------------------------------------------------------------------- against replay
@pytest.mark.parametrize("space", [covered, mixed, nested])
@pytest.mark.parametrize("n", [24, 127])
def test_matrix_and_replay_agree(space: Any, n: int) -> None:
    sketch = sketch_of(space, n)
    rng = np.random.default_rng(7)
    rows = sketch.decisions.sample(60, rng)
    rows = np.concatenate([rows, sketch.decisions.mutate(rows, rng)[:20]])
    assert agree(sketch, rows) == 80
    assert not sketch.fallbacks


def test_the_default_matmul_with_coverings_agrees_in_few_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One guard a loop: does the tile divide? Not a class a factor."""
    monkeypatch.setattr(Schedule, "sample_perfect_tile", Schedule.sample_tile)
    which = sketches(matmul(1000))[1]
    kinds = [type(s.rule) for s in which.decisions.sites if type(s) is Tile]
    assert kinds == [Covering] * 3
    rng = np.random.default_rng(8)
    rows = which.decisions.sample(4096, rng)
    found = which.evaluate(rows)
    assert bool(np.all(found.valid))
    assert which.class_count < 150
    assert agree(which, rows[:40]) == 40
    assert not which.fallbacks


def test_rows_and_traces_convert_both_ways() -> None:
    sketch = sketch_of(mixed, 60)
    rules = [s.rule for s in sketch.decisions.sites if type(s) is Tile]
    assert rules == [Perfect(3, 16), Covering(3, 16), Partitioned(3, 1, 4)]
    row = np.array([5, 3, 4, 4, 2, 9, 3, 5, 4, 1, 0])
    sch = sketch.materialise(row)
    assert (sketch.row_of(sch.trace) == row).all()
    assert (sketch.row_of(Trace.from_json(sch.trace.as_json())) == row).all()
    assert (sketch.row_of(Trace.from_python(str(sch.trace))) == row).all()
    assert (sketch.row_of(sketch.trace_of(row)) == row).all()
    wrong = row.copy()
    wrong[3] = 5  # 5 * 2 * 9 covers 60 with a fifth part that is empty
    found = sketch.evaluate(np.stack([row, wrong]))
    assert found.valid.tolist() == [True, False]
    assert found.refusals == {"sample-decision": 1}


def test_sampling_coverings_does_not_go_row_by_row(calls_of: Callable[..., int]) -> None:
    d = sketch_of(covered, 1000).decisions
    rng = np.random.default_rng(0)
    d.sample(10, rng)  # the tables
    assert calls_of(lambda: d.sample(4096, rng)) < 400
