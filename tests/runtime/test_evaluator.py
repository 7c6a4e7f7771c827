from __future__ import annotations

import time

import numpy as np
import pytest
from runtime_kernels import FAILS, add_function, dims, elementwise

from gputune.codegen import llvm
from gputune.errors import RunError
from gputune.ir.nodes import Buffer
from gputune.runtime import evaluator, native
from gputune.runtime.evaluator import BenchmarkResult, TimeEvaluator, TimerConfig
from gputune.runtime.function import Function
from gputune.runtime.signature import signature


def timed(config, size=64):
    a, b, c = (np.ones((size, size), "float32") for _ in "abc")
    return TimeEvaluator(add_function(size, size), config)(a, b, c)


def test_statistics():
    r = BenchmarkResult((3e-3, 1e-3, 2e-3, 6e-3), 10)
    assert r.mean == pytest.approx(3e-3)
    assert r.median == pytest.approx(2.5e-3)
    assert (r.min, r.max) == (1e-3, 6e-3)
    assert r.std == pytest.approx(np.std(r.results))
    assert str(r) == "mean 3, median 2.5, min 1, max 6, std 1.871 ms (4 x 10 calls)"
    assert "us (1 x 1 calls, 1 disturbed)" in str(BenchmarkResult((2e-6,), 1, 1))
    assert " s (" in str(BenchmarkResult((2.0,)))


def test_repeat_and_number():
    r = timed(TimerConfig(number=7, repeat=5))
    assert (len(r.results), r.number) == (5, 7)
    assert all(0 < t < 1e-3 for t in r.results)


def test_min_repeat_ms_raises_the_number():
    r = timed(TimerConfig(number=1, repeat=2, min_repeat_ms=4))
    assert r.number > 1
    assert all(t * r.number > 2e-3 for t in r.results)


def test_flush_times_single_calls_out_of_cold_caches():
    warm = timed(TimerConfig(number=200, repeat=5), 128)
    cold = timed(TimerConfig(number=20, repeat=5, flush_cache=True), 128)
    assert cold.number == 20
    assert cold.min > warm.min


def test_cooldown_pauses():
    start = time.perf_counter()
    timed(TimerConfig(number=1, repeat=3, cooldown_ms=20), 8)
    assert time.perf_counter() - start >= 0.04


def test_cutoff_gives_one_time():
    r = timed(TimerConfig(number=100, repeat=3, cutoff_s=0.0))
    assert (len(r.results), r.cut) == (1, True)
    assert len(timed(TimerConfig(number=100, repeat=3, cutoff_s=10.0)).results) == 3


def test_disturbed_repeats_are_measured_again(monkeypatch):
    answers = iter([(5.0, True), (4.0, True), (1.0, False), (2.0, False)])
    monkeypatch.setattr(evaluator, "_batch", lambda call, number: next(answers))
    r = timed(TimerConfig(number=1, repeat=2), 8)
    assert r.results == (1.0, 2.0)
    assert r.disturbed == 0


def test_retries_are_bounded_and_the_best_disturbed_is_kept(monkeypatch):
    answers = iter([(5.0, True), (4.0, True), (6.0, True), (7.0, True)])
    monkeypatch.setattr(evaluator, "_batch", lambda call, number: next(answers))
    r = timed(TimerConfig(number=1, repeat=2, retries=2), 8)
    assert r.results == (4.0, 7.0)
    assert r.disturbed == 2


def test_a_held_up_thread_is_noticed(monkeypatch):
    add = add_function(8, 8)
    a, b, c = (np.ones((8, 8), "float32") for _ in "abc")
    call = add.bind(a, b, c)
    repeat = native.repeater()

    def sleepy(*args):
        time.sleep(0.01)
        return repeat(*args)

    assert evaluator._batch(call, 5000)[1] in (False, True)
    monkeypatch.setattr(native, "repeater", lambda: sleepy)
    assert evaluator._batch(call, 1)[1] is True


def test_kernel_errors_are_raised():
    loaded = llvm.load(native.assemble(FAILS), "fails")
    f = Function(signature(elementwise(Buffer("A", dims(2))), "fails"), loaded.address, loaded)
    x = np.zeros(2, "float32")
    with pytest.raises(RunError, match="error code 7"):
        TimeEvaluator(f, TimerConfig())(x)
    assert native.repeater()(f.address, b"", None, 1000) == 7
    assert native.repeater()(f.address, b"", None, 0) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "number must be a whole number from 1, found 0"),
        ({"repeat": 1.5}, "repeat must be a whole number from 1, found 1.5"),
        ({"min_repeat_ms": -1}, "min_repeat_ms must be from 0 upwards"),
        ({"min_repeat_ms": float("nan")}, "min_repeat_ms must be from 0 upwards"),
        ({"cooldown_ms": "x"}, "cooldown_ms must be from 0 upwards, found 'x'"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(RunError, match=message):
        TimerConfig(**options)
