"""Do the choices hold that all timers share: regimes, copies, drift, one's place?"""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import pytest
from runtime_kernels import add_code, add_function

from gputune.errors import RunError
from gputune.runtime import gauge, native
from gputune.runtime.evaluator import TimerConfig, measure
from gputune.runtime.gauge import Gauge, Place, Yardstick
from gputune.runtime.process import Worker
from gputune.runtime.timing import (
    REGIMES,
    Drift,
    check_regime,
    copies_for,
    follows_clock,
    readings_told,
    spread,
)
from gputune.target.host import cache_bytes


# ----------------------------------------------------------------------------- figures
def test_spread() -> None:
    assert spread([1.0, 1.0, 2.0, 3.0, 3.0]) == 1.0
    assert spread([2.0]) == spread([]) == 0.0
    assert spread([0.0, 0.0]) == 0.0


def test_copies_exceed_the_cache_three_times() -> None:
    assert copies_for(100, 1000, 1 << 20) == 30
    assert copies_for(3000, 1000, 1 << 20) == 1  # by itself
    assert copies_for(10, 1000, 1 << 20) == 1  # too many
    assert copies_for(100, 1000, 2999) == 1  # no room
    assert copies_for(0, 1000, 1 << 20) == 1


def test_there_are_three_regimes() -> None:
    for name in REGIMES:
        check_regime(name, "test")
    with pytest.raises(RunError, match="test: the regime is rotate, flush, warm, found 'cold'"):
        check_regime("cold", "test")


# ----------------------------------------------------------------------------- drift
@pytest.mark.parametrize(
    ("reference", "error", "significant"),
    [
        (10.2e-6, 0.0, False),  # less than 3 %
        (11e-6, 0.001, True),
        (11e-6, 0.05, False),  # its own noise is more
        (9e-6, 0.001, True),
        (40e-6, 0.0, False),  # no machine does that
    ],
)
def test_which_drift_is_significant(reference: float, error: float, significant: bool) -> None:
    drift = Drift(reference, 10e-6, error)
    assert drift.factor == pytest.approx(reference / 10e-6)
    assert drift.significant is significant


def test_drift_as_records_tell_it() -> None:
    told = readings_told([11e-6, 12e-6, 11e-6], 10e-6)
    assert told["reference_s"] == 11e-6
    assert told["nominal_s"] == 10e-6
    assert told["reference_error"] > 0
    drift = Drift.told(told)
    assert drift is not None
    assert drift.factor == pytest.approx(1.1)
    # the machine slowed down between the first result and the others
    beside = readings_told([1.0, 1.0, 2.0, 2.0], 1.0, [5.0, 7.5, 10.0])
    assert beside["reference_s"] == pytest.approx(1.5)
    assert readings_told([1.0, 2.0], 1.0, [5.0, 7.5, 10.0])["reference_s"] == 1.5
    # three among calm readings are enough: what disturbed the others hit the kernel less
    readings = [1.0, 1.0, 1.01, 1.0, 1.4, 1.5, 1.4, 1.4]
    results = [5.0, 5.0, 5.0, 6.0, 6.0, 6.0, 6.0]
    mixed = readings_told(readings, 1.0, results)
    assert mixed["reference_s"] == pytest.approx(6.0 / 5.0, rel=0.01)
    other = Drift.told(told, 11e-6)  # the scale of the task
    assert other is not None
    assert other.factor == pytest.approx(1.0)
    beyond = Drift.told(told, 1e-9)  # of no machine like this one
    assert beyond is not None
    assert beyond.nominal_s == 10e-6
    assert readings_told([], 1e-6) == {}
    bad: dict[str, Any]
    for bad in ({}, {"reference_s": "x", "nominal_s": 1.0}, {"reference_s": 1.0, "nominal_s": 0}):
        assert Drift.told(bad) is None


def test_what_waits_for_memory_does_not_follow_the_clock() -> None:
    assert follows_clock("cpu", True, 1 << 20, 0)
    assert not follows_clock("cpu", False, 1 << 30, 1 << 30)
    assert follows_clock("cpu", False, 1 << 30, 2.0**40)
    assert follows_clock("cuda", False, 1 << 20, 2.0**30)
    assert not follows_clock("cuda", False, 1 << 20, 2.0**24)


# ----------------------------------------------------------------------------- the gauge
class Speed:
    """A reference kernel that takes what it is told, on a clock that passes with it."""

    def __init__(self, seconds: Any) -> None:
        self.seconds = iter(seconds)
        self.now = 0.0
        self.count = 0

    def reading(self) -> float:
        found = next(self.seconds)
        self.now += found
        self.count += 1
        return float(found)

    def clock(self) -> float:
        return self.now


def test_the_usual_time_is_found_when_the_device_is_up_to_speed() -> None:
    slow_at_first = Speed(itertools.chain([30e-6] * 10, itertools.repeat(10e-6)))
    found = Yardstick(slow_at_first.reading, clock=slow_at_first.clock)
    assert found.nominal_s == 10e-6
    count = slow_at_first.count
    assert found.nominal_s == 10e-6
    assert slow_at_first.count == count  # once
    restless = Speed(itertools.cycle([10e-6, 20e-6]))
    never = Yardstick(restless.reading, longest_s=1e-3, clock=restless.clock)
    assert 10e-6 <= never.nominal_s <= 20e-6
    assert restless.now < 2e-3


def test_readings_are_taken_around_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = Speed(itertools.repeat(10e-6))
    mine = Yardstick(speed.reading, clock=speed.clock)
    monkeypatch.setattr(gauge, "yardstick", lambda: mine)
    f = add_function(64, 64)
    a, b, c = (np.ones((64, 64), "float32") for _ in "abc")
    found = measure(f.bind(a, b, c), TimerConfig(number=2, repeat=3, reference=True))
    assert found.readings == (10e-6,) * 4  # before, and after each repeat
    assert found.nominal_s == 10e-6
    told = found.as_json()
    assert told["nominal_s"] == 10e-6
    assert told["reference_s"] == pytest.approx(10e-6)
    assert measure(f.bind(a, b, c), TimerConfig(number=2)).readings == ()
    cut = measure(f.bind(a, b, c), TimerConfig(reference=True, cutoff_s=0.0))
    assert cut.cut
    assert len(cut.readings) in (1, 2)


def test_threads_that_spin_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings of a kernel with threads all come before its first call."""
    speed = Speed(itertools.repeat(10e-6))
    mine = Yardstick(speed.reading, clock=speed.clock)
    monkeypatch.setattr(gauge, "yardstick", lambda: mine)
    parallel = Gauge(True, parallel=True)
    assert len(parallel.readings) == 5
    parallel.read()
    assert len(parallel.readings) == 5
    off = Gauge(False)
    off.read()
    assert (off.readings, off.nominal_s) == ([], 0.0)


def test_the_real_reference_kernel_does_its_work() -> None:
    run = native.reference()
    assert [run(), run()] == [0, 0]
    assert 1e-7 < gauge.yardstick().reading() < 1e-2
    assert 1e-7 < gauge.yardstick().nominal_s < 1e-2
    # x = x / 2 + 1 ends at 2, in each of eight chains
    data = run.__defaults__[0]  # type: ignore[attr-defined]  # what it keeps alive
    np.testing.assert_allclose(data[native._FLOATS :], 16.0, rtol=1e-6)


# ----------------------------------------------------------------------------- one's place
@pytest.fixture
def processors(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Two processors, of which the system always chooses the second; what was asked for."""
    asked: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(
        os, "sched_setaffinity", lambda pid, cpus: asked.append(set(cpus)), raising=False
    )
    monkeypatch.setattr(gauge, "_current_cpu", lambda: lambda: 1)
    monkeypatch.setattr(gauge, "_APART_S", 0.0)
    return asked


def test_a_thread_keeps_its_place_and_gives_it_back(processors: list[set[int]]) -> None:
    with Place():
        assert processors == [{1}]
    assert processors == [{1}, {0, 1}]


def test_who_is_disturbed_moves(processors: list[set[int]]) -> None:
    with Place() as place:
        place.move()
    assert processors == [{1}, {0, 1}, {1}, {0, 1}]


def test_without_a_choice_nothing_is_asked_for(
    processors: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Place(on=False) as place:
        place.move()
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    with Place() as place:
        place.move()
    assert processors == []


def test_a_held_up_batch_is_taken_elsewhere(
    processors: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gputune.runtime import evaluator

    answers = iter([(5.0, True), (1.0, False)])
    monkeypatch.setattr(evaluator, "_batch", lambda call, number: next(answers))
    f = add_function(8, 8)
    a, b, c = (np.ones((8, 8), "float32") for _ in "abc")
    found = measure(f.bind(a, b, c), TimerConfig(number=1, pin=True))
    assert found.results == (1.0,)
    assert processors == [{1}, {0, 1}, {1}, {0, 1}]


# ----------------------------------------------------------------------------- regimes
def test_calls_take_turns_on_copies() -> None:
    f = add_function(8, 8)
    sets = [[np.full((8, 8), k, "float32") for k in (1, 2, 0)] for _ in range(3)]
    call, *copies = [f.bind(*s) for s in sets]
    found = measure(call, TimerConfig(number=1, regime="rotate"), copies)
    assert found.regime == "rotate"
    assert [float(s[2].max()) for s in sets] == [3, 3, 0]  # the first call, and one that counts
    sets[0][2][...] = sets[1][2][...] = 0
    measure(call, TimerConfig(number=1, repeat=2, regime="rotate"), copies)
    assert [float(s[2].max()) for s in sets] == [3, 3, 3]  # a repeat goes on where one ended
    warm = measure(call, TimerConfig(number=3), copies)  # copies are for rotating
    assert warm.regime == "warm"
    assert measure(call, TimerConfig(number=3, flush_cache=True)).regime == "flush"
    assert measure(call, TimerConfig(number=3, regime="flush")).as_json()["regime"] == "flush"


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(RunError, match="flush_cache is the regime flush, found 'warm' too"):
        TimerConfig(flush_cache=True, regime="warm")
    with pytest.raises(RunError, match="the regime is rotate, flush, warm, found 'hot'"):
        TimerConfig(regime="hot")  # type: ignore[arg-type]  # the mistake in question


@pytest.fixture(scope="module")
def worker() -> Any:
    with Worker() as w:
        yield w


def tensor(name: str, n: int = 32, written: bool = False) -> dict[str, Any]:
    return {
        "kind": "tensor", "name": name, "dtype": "float32", "shape": [n], "strides": None,
        "align": 4, "written": written,
    }  # fmt: skip


def run(worker: Worker, count: int = 32, size: int = 32, **evaluator: Any) -> dict[str, Any]:
    arguments = [tensor("A", size), tensor("B", size), tensor("C", size, True)]
    plan = {"number": 2, "repeat": 2, "min_repeat_ms": 0, **evaluator}
    args = {"symbol": "add", "arguments": arguments, "evaluator": plan}
    return worker.request("run", args, (add_code(count),)).data


def test_a_worker_tells_how_it_measured(worker: Worker) -> None:
    timing = run(worker, reference=True)["timing"]
    assert timing["regime"] == "warm"
    assert (timing["calls"], timing["batches"], timing["copies"]) == (2, 2, 1)
    assert timing["size"] == 3 * 32 * 4
    assert timing["in_cache"] is True
    assert timing["reference_s"] > 0
    assert timing["nominal_s"] > 0
    again = run(worker, reference=True)["timing"]
    assert again["nominal_s"] == timing["nominal_s"]  # of the process
    assert "reference_s" not in run(worker)["timing"]


def test_a_worker_rotates_and_flushes(worker: Worker) -> None:
    size = 1 << 20
    rotated = run(worker, size, size, regime="rotate")["timing"]
    assert rotated["regime"] == "rotate"
    assert rotated["copies"] == copies_for(3 * 4 * size, cache_bytes()[2], 1 << 29)
    assert rotated["in_cache"] is False
    assert run(worker, regime="flush")["timing"]["regime"] == "flush"


def test_a_kernel_that_writes_around_its_arrays_has_no_time(worker: Worker) -> None:
    with pytest.raises(RunError, match="C: written outside its bounds") as failed:
        run(worker, 33)
    assert failed.value.code == "out_of_bounds"
