"""Integers that know how they follow from decisions: arithmetic, guards, evaluation, and whole
replays that give the loops of every row at once."""

from __future__ import annotations

import itertools
import operator
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.ir.build import const_int
from gputune.ir.nodes import For
from gputune.ir.walk import walk_stmt
from gputune.schedule import Dim, Schedule, Trace
from gputune.schedule.dim import Evaluator, evaluate, maximum, minimum, recording, take

from . import schedule_programs as programs

OPS: tuple[Callable[[Any, Any], Any], ...] = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    operator.mod,
    minimum,
    maximum,
)
COMPARE = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.data())
def test_expressions_evaluate_like_the_numbers(data: st.DataObject) -> None:
    column = st.lists(st.integers(1, 20), min_size=4, max_size=4)
    rows = {c: np.array(data.draw(column)) for c in "ab"}
    program = data.draw(
        st.lists(st.tuples(st.sampled_from(OPS), st.integers(0, 5), st.integers(0, 5)), max_size=6)
    )

    def compute(a: int, b: int) -> list[int]:
        values: list[int] = [a, b, 3]
        for op, i, j in program:
            x, y = values[i % len(values)], values[j % len(values)]
            if op in (operator.floordiv, operator.mod) and int(y) <= 0:
                continue
            values.append(op(x, y))
        return values

    with recording(), np.errstate(divide="ignore"):
        dims = compute(Dim(int(rows["a"][0]), "a"), Dim(int(rows["b"][0]), "b"))
        first = compute(int(rows["a"][0]), int(rows["b"][0]))
        assert [int(x) for x in dims] == first
        evaluator = Evaluator(rows)
        for k in range(4):
            if len(plain := compute(int(rows["a"][k]), int(rows["b"][k]))) != len(dims):
                continue  # another branch of `compute`
            got = [np.broadcast_to(evaluator(x), 4)[k] for x in dims]
            if all(int(x) > 0 for x in (*plain, *dims)):
                assert got == plain


@pytest.mark.parametrize("compare", COMPARE)
def test_every_comparison_is_a_guard(compare: Callable[[Any, Any], bool]) -> None:
    for a, b in itertools.product((2, 3), repeat=2):
        with recording() as guards:
            outcome = compare(Dim(a, "a"), b)
        assert outcome is compare(a, b)
        assert guards == [(compare.__name__, "a", b, outcome)]
        rows = {"a": np.array([1, 2, 3, 4])}
        mask = Evaluator(rows).holds(guards, np.ones(4, bool))
        assert mask.tolist() == [compare(x, b) == outcome for x in (1, 2, 3, 4)]
        with recording() as guards:
            assert compare(a, Dim(b, "b")) is compare(a, b)
        assert len(guards) == 1


def test_what_is_the_same_in_every_row_is_no_guard() -> None:
    with recording() as guards:
        a = Dim(4, "a")
        assert a == a
        assert a * 2 + 1 == Dim(4, "a") * 2 + 1
        assert a <= a
    assert guards == []


def test_products_of_the_same_factors_are_one() -> None:
    with recording() as guards:
        a, b, c = Dim(2, "a"), Dim(3, "b"), Dim(5, "c")
        d = minimum(a, c)
        assert a * (b * c) == (c * a) * b
        assert (2 * a) * (d * 3) == d * 6 * a
        assert a * 1 == a
        assert (a * b) * (b * a) == a * a * b * b
    assert not guards
    assert evaluate(a * (b * c) * 2, {"a": 7, "b": np.array([1, 4]), "c": 3}).tolist() == [42, 168]


def test_truth_is_a_guard_and_recording_nests() -> None:
    with recording() as outer:
        with recording() as inner:
            assert bool(Dim(2, "a"))
        assert len(inner) == 1
        assert Dim(2, "a") < 3
    assert len(outer) == 1
    assert Dim(2, "a") < 3, "nothing records here"
    assert len(outer) == 1


def test_dims_are_ints() -> None:
    a = Dim(5, "a")
    assert isinstance(a, int)
    assert repr(a) == "5"
    assert hash(a) == hash(5)
    assert {5: "x"}[a] == "x"
    assert type(pickle.loads(pickle.dumps(a))) is int
    assert int(-a) == -5
    assert evaluate(-a, {"a": np.array([7])}).tolist() == [-7]
    assert evaluate(10 - a, {"a": np.array([7])}).tolist() == [3]
    assert evaluate(7, {}) == 7
    with pytest.raises(TypeError):
        a + "x"  # type: ignore[operator]  # wrong on purpose


def test_take_and_shared_parts() -> None:
    v = take((1, 4, 16), Dim(1, "k"))
    assert int(v) == 4
    assert evaluate(v * 2, {"k": np.array([0, 1, 2])}).tolist() == [2, 8, 32]
    assert take((1, 4, 16), 2) == 16
    assert minimum(3, 4) == 3
    assert maximum(3, 4) == 4
    with recording():
        x = Dim(2, "a")
        for _ in range(60):
            x = x + x  # shared: 60 evaluations, not 2**60
        assert evaluate(x, {"a": np.array([2, 1])}).tolist() == [2**61, 2**60]


# ----------------------------------------------------------------------------- replays
def sketch(sch: Schedule) -> None:
    """SSRSRS tiling with a cached result, as the llvm rules make it, and its postprocessing."""
    block = sch.get_block("C")
    sch.annotate(block, "meta_schedule.tiling_structure", "SSRSRS")
    back = sch.cache_write(block, 0, "global")
    i, j, k = sch.get_loops(block)
    i0, i1, i2, i3 = sch.split(i, sch.sample_perfect_tile(i, 4, 64))
    j0, j1, j2, j3 = sch.split(j, sch.sample_perfect_tile(j, 4, 64))
    k0, k1 = sch.split(k, sch.sample_perfect_tile(k, 2, 64))
    sch.reorder(i0, j0, i1, j1, k0, i2, j2, k1, i3, j3)
    sch.reverse_compute_at(back, j1, preserve_unit_loops=True)
    unroll = sch.sample_categorical([0, 16, 64, 512], [0.25] * 4)
    sch.annotate(sch.get_block("root"), "meta_schedule.unroll_explicit", unroll)
    sch.enter_postproc()
    sch.parallel(sch.fuse(i0, j0))
    sch.vectorize(j3)
    sch.decompose_reduction(block, k0)


def loop_extents(sch: Schedule) -> list[tuple[str, int]]:
    out = []
    for s in walk_stmt(sch.mod["main"].body):
        if type(s) is For:
            n = const_int(s.extent)
            assert n is not None
            out.append((s.var.name, n))
    return out


def as_dims(trace: Trace, decisions: dict[int, Any]) -> tuple[Schedule, list[Any]]:
    """The replay in which each number of each decision is a column."""

    def provide(inst: Any, inputs: list[Any], attrs: list[Any], old: Any) -> Any:
        k = trace.insts.index(inst)
        d = decisions[k]
        if isinstance(d, list):
            return [Dim(x, f"{k}.{n}") for n, x in enumerate(d)]
        return Dim(d, f"{k}")

    sch = Schedule(programs.tutorial(), seed=1, error_render_level="none")
    with recording() as guards:
        trace.apply_to_schedule(sch, decision_provider=provide)
        extents = loop_extents(sch)
    return sch, [extents, list(guards)]


def draw(trace: Trace, seed: int) -> dict[int, Any]:
    sch = Schedule(programs.tutorial(), seed=seed)
    got: dict[int, Any] = {}
    trace.apply_to_schedule(sch, decision_provider=lambda *_: None)
    for k, inst in enumerate(sch.trace.insts):
        if inst in sch.trace.decisions:
            got[k] = sch.trace.decisions[inst]
    return got


def columns(rows: list[dict[int, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for k, first in rows[0].items():
        if isinstance(first, list):
            for n in range(len(first)):
                out[f"{k}.{n}"] = np.array([r[k][n] for r in rows])
        else:
            out[f"{k}"] = np.array([r[k] for r in rows])
    return out


def test_one_replay_gives_the_loops_of_every_row() -> None:
    recorded = Schedule(programs.tutorial(), seed=1)
    sketch(recorded)
    trace = recorded.trace
    rng = random.Random(0)
    rows = [draw(trace, s) for s in range(1, 61)]
    table = columns(rows)
    left = np.ones(len(rows), bool)
    classes = 0
    while left.any():
        first = int(np.flatnonzero(left)[0])
        _, (extents, guards) = as_dims(trace, rows[first])
        evaluator = Evaluator(table)
        mask = evaluator.holds(guards, left)
        assert mask[first]
        classes += 1
        assert any(type(n) is Dim for _, n in extents)
        for r in np.flatnonzero(mask):
            if r != first and rng.random() < 0.5:
                continue
            plain = Schedule(programs.tutorial(), seed=1)
            trace.apply_to_schedule(
                plain,
                decision_provider=lambda inst, *_: rows[r][trace.insts.index(inst)],  # noqa: B023
            )
            expected = loop_extents(plain)
            names = [name for name, _ in extents]
            assert names == [name for name, _ in expected]
            got = [int(np.broadcast_to(evaluator(n), len(rows))[r]) for _, n in extents]
            assert got == [int(n) for _, n in expected]
        left &= ~mask
    assert classes <= 4, f"{classes} structure classes for {len(rows)} rows"


def test_no_primitive_of_the_sketch_asks_whether_a_factor_is_one() -> None:
    recorded = Schedule(programs.tutorial(), seed=1)
    sketch(recorded)
    rows = [draw(recorded.trace, s) for s in range(1, 41)]
    tiles = {k: d for k, d in rows[0].items() if isinstance(d, list)}
    ones = rows[0] | {k: [128, *[1] * (len(d) - 1)] for k, d in tiles.items()}
    for row in (rows[0], rows[1], ones):
        _, (_, guards) = as_dims(recorded.trace, row)
        evaluator = Evaluator(columns(rows))
        everywhere = np.ones(len(rows), bool)
        asked = [g for g in guards if 1 in (g[1], g[2]) and g[0] in ("eq", "ne")]
        splitting = [g for g in asked if not evaluator.holds([g], everywhere).all()]
        assert splitting == []
