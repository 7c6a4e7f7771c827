"""Do random calls on awkward programs either keep the meaning or leave no mark?

The programs here hold what schedules trip over: conditions, loops shorter than their domains,
triangles, running sums, halos, views, nested and opaque blocks. A refused primitive leaves program,
trace (not one getter line more), handles and random state as they were.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.errors import ScheduleError
from gputune.ir.equal import structural_equal
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.schedule import KINDS, Schedule, Trace
from gputune.schedule.primitive import InstructionKind
from tests.properties.law import check_round_trips
from tests.properties.moves import MOVES, inputs, results

from . import schedule_programs as programs


class Watched(Schedule):
    """Checks around every primitive that a refusal leaves no mark."""

    refused: int = 0

    def run(self, kind: InstructionKind, values: dict[str, Any]) -> Any:
        mod, text, count = self._mod, None, len(self.trace.insts)
        known, state = len(self._values), self.rng.getstate()
        if self._depth == 0:
            text = str(self.trace)
        try:
            return super().run(kind, values)
        except ScheduleError as e:
            self.refused += 1
            assert (bool(e.code), e.message.split(":")[0]) == (True, kind.method)  # noqa: PT017
            assert self._mod is mod
            assert len(self.trace.insts) == count
            assert len(self._values) == known
            assert self.rng.getstate() == state or kind.samples
            if text is not None:
                assert str(self.trace) == text
            raise


def attempt(func: PrimFunc, seed: int) -> Watched:
    rng = random.Random(seed)
    sch = Watched(func, seed=seed, debug_mask="all", error_render_level="none")
    for _ in range(rng.randint(3, 12)):
        try:
            rng.choice(MOVES)[1](sch, rng)
        except ScheduleError:
            continue
    return sch


@pytest.mark.parametrize("program", programs.ALL, ids=lambda p: p.__name__)
def test_random_calls_keep_the_meaning_or_leave_no_mark(program: Any) -> None:
    func = program()

    @settings(max_examples=25, derandomize=True, deadline=None, database=None)
    @given(st.integers(1, 2**31 - 1))
    def law(seed: int) -> None:
        sch = attempt(func, seed)
        arrays = inputs(func, seed)
        run(sch.mod[func.name], *arrays)
        for want, got in zip(results(func, seed), arrays, strict=True):
            assert np.array_equal(want, got, equal_nan=True), str(sch.trace)
        if seed % 4 == 0:
            check_round_trips(func, sch)

    law()


def test_random_calls_are_refused_often_enough_to_mean_something() -> None:
    refused = sum(attempt(p(), seed).refused for p in programs.ALL for seed in (1, 2))
    assert refused > 2 * len(programs.ALL)


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(st.data())
def test_random_arguments_are_refused_or_right(data: st.DataObject) -> None:
    """Any value at any parameter: one family of errors, and no mark."""
    func = programs.chain()
    sch = Watched(func, seed=1, error_render_level="none")
    block = sch.get_block("B")
    i, j = sch.get_loops(block)
    value = sch.sample_categorical([2], [1.0])
    things = st.sampled_from(
        [block, i, j, value, value * 2, None, 0, 1, -1, 5, 2.5, True, "B", "X", "", [], [2, 2],
         [None, 2], [i], [block], {"a": 1}, (1,), object()]
    )  # fmt: skip
    kind = KINDS[data.draw(st.sampled_from(sorted(KINDS)))]
    names = [*kind.params, *(["decision"] if kind.samples else [])]
    method = getattr(sch, kind.method)
    mod, text = sch.mod, str(sch.trace)
    try:
        if kind.variadic:
            method(*data.draw(st.lists(things, max_size=3)))
        else:
            method(**{n: data.draw(things) for n in names})
    except ScheduleError:
        assert sch.mod is mod
        assert str(sch.trace) == text
        return
    again = Schedule(func, seed=2)
    Trace.from_json(sch.trace.as_json()).apply_to_schedule(again)
    assert structural_equal(again.mod, sch.mod)
    assert str(again.trace) == str(sch.trace)
