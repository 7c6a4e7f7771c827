"""Does bench measure what it says, in turns, and notice who computes something else?"""

from __future__ import annotations

import itertools
import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gputune as gt
from gputune import benchmark, kernels
from gputune.benchmark import Bench, Timing
from gputune.figures import duration, plain, rate, three, times
from gputune.script import tir as T
from gputune.target import Target
from gputune.tuned_kernel import TunedKernel

SHORT = 0.05


def matmul(m: int = 16, n: int = 32, k: int = 24) -> gt.PrimFunc:
    return kernels.get("matmul").build(m=m, n=n, k=k)


def inputs() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.random((16, 24), dtype=np.float32), rng.random((24, 32), dtype=np.float32)


def test_everything_that_can_be_measured() -> None:
    sch = gt.Schedule(matmul())
    entries = {
        "numpy": np.matmul,
        "program": matmul(),
        "module": gt.IRModule({"main": matmul()}),
        "schedule": sch,
        "built": gt.build(matmul(), "llvm"),
        "kernel": TunedKernel(sch, Target("llvm"), workload=matmul()),
    }
    found = gt.bench(entries, inputs(), seconds=SHORT)
    assert list(found.results) == list(entries)
    for t in found.results.values():
        assert 0 < t.median < 0.1
        assert len(t.results) >= 1
    assert found.flops == 2 * 16 * 32 * 24
    assert found.checked


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    found = Bench(
        {
            "slow": Timing("slow", (2e-3, 2.2e-3, 1.8e-3), 4, 1),
            "fast": Timing("fast", (4e-4, 4e-4), 5, 2),
        },
        8e6,
    )
    assert found.ratio("fast") == pytest.approx(5)
    assert found.ratio("slow", "fast") == pytest.approx(0.2)
    assert found.best.name == "fast"
    assert found.table().splitlines() == [
        "name   median  spread  GFLOP/s  speed",
        "-------------------------------------",
        "slow  2.00 ms     10%     4.00  1.00x",
        "fast   400 us      0%     20.0  5.00x",
        "repetitions x calls, interleaved: 3 x 4, 2 x 5; 3 pre-empted ones dropped; results agree",
    ]
    found.show()
    shown = capsys.readouterr().out
    assert "5.00x" in shown
    assert "results agree" in shown


@pytest.mark.parametrize("regime", ["warm", "flush", "rotate"])
def test_all_entries_have_the_same_caches(regime: Any) -> None:
    entries = {"numpy": np.matmul, "program": matmul()}
    found = gt.bench(entries, inputs(), seconds=SHORT, regime=regime)
    assert {t.regime for t in found.results.values()} == {regime} == set(found.regimes)
    assert found.ratio("program") > 0
    assert (f"caches: {regime}" in found.note()) == (regime != "warm")


def test_times_of_different_caches_are_not_compared() -> None:
    found = Bench(
        {
            "warm": Timing("warm", (1e-3,), 1),
            "cold": Timing("cold", (2e-3,), 1, regime="flush"),
        },
        8e6,
    )
    with pytest.raises(gt.UserError, match="'warm' was measured with caches 'warm', 'cold' with"):
        found.ratio("cold")
    with pytest.raises(gt.UserError, match="these times are not compared"):
        print(found.best)
    assert [row[-1] for row in found.rows()] == ["1.00x", "-"]
    assert "caches: warm, flush" in found.table()
    found.show()
    with pytest.raises(gt.RunError, match="bench: the regime is rotate, flush, warm, found 'hot'"):
        gt.bench({"numpy": np.matmul}, inputs(), regime="hot")  # type: ignore[arg-type]  # wrong


def test_copies_of_the_arguments_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "cache_bytes", lambda: (1 << 10, 1 << 12, 1 << 13))
    seen: set[int] = set()

    def noted(a: Any, b: Any) -> Any:
        seen.add(a.ctypes.data)
        return a @ b

    gt.bench({"noted": noted, "program": matmul()}, inputs(), seconds=SHORT, regime="rotate")
    assert len(seen) > 2


def test_a_wrong_entry_is_named() -> None:
    entries = {"wrong": lambda a, b: a @ b + 0.1, "numpy": np.matmul, "program": matmul()}
    with pytest.raises(gt.WrongResult) as e:
        gt.bench(entries, inputs(), seconds=SHORT)
    assert "'wrong' differs from 'numpy': 512 elements differ" in str(e.value)
    found = gt.bench(entries, inputs(), seconds=SHORT, check=False)
    assert "results not compared" in found.note()


def test_an_output_that_is_not_written_is_noticed() -> None:
    """Outputs start out as NaN, so that what an earlier entry wrote helps nobody."""

    @T.prim_func
    def half(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
        for i in range(4):
            with T.block("B"):
                vi = T.axis.spatial(4, i)
                B[vi] = A[vi]

    with pytest.raises(gt.WrongResult, match=r"4 elements differ.*found nan"):
        gt.bench({"copy": np.copy, "half": half}, (np.ones(8, np.float32),), seconds=SHORT)


def test_a_small_rounding_error_is_no_difference() -> None:
    a, b = inputs()
    gt.bench(
        {"numpy": np.matmul, "wide": lambda a, b: a.astype(np.float64) @ b}, (a, b), seconds=SHORT
    )


def test_integers_must_be_equal() -> None:
    k = kernels.get("matmul")
    func = k.build(m=4, n=4, k=4, dtype="int32")
    a, b, _ = k.arguments({"m": 4, "n": 4, "k": 4}, "int32")
    gt.bench({"program": func, "numpy": np.matmul}, (a, b), seconds=SHORT)
    with pytest.raises(gt.WrongResult, match="'off by one' differs"):
        gt.bench(
            {"program": func, "numpy": np.matmul, "off by one": lambda a, b: a @ b + 1},
            (a, b),
            seconds=SHORT,
        )


def test_the_whole_argument_list_will_do_and_is_left_alone() -> None:
    a, b = inputs()
    c = np.full((16, 32), 7, np.float32)
    gt.bench({"numpy": np.matmul, "program": matmul()}, (a, b, c), seconds=SHORT)
    assert (c == 7).all()


def test_what_is_updated_in_place_is_a_copy() -> None:
    @T.prim_func
    def add(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = B[vi] + A[vi]

    a, b = np.ones(8, np.float32), np.zeros(8, np.float32)
    gt.bench({"add": add, "numpy": np.add}, (a, b), seconds=SHORT)
    assert (b == 0).all()


def test_plain_functions_among_themselves() -> None:
    found = gt.bench(
        {"sleepy": lambda x: (time.sleep(3e-3), x)[1], "quick": lambda x: x + 0},
        (np.ones(4),),
        seconds=0.1,
    )
    assert found.ratio("quick") > 10
    assert found.results["quick"].calls > found.results["sleepy"].calls
    assert found.flops is None
    assert "-" in found.table()


def test_turns_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round measures every entry once, and begins with another one."""
    order: list[str] = []

    def entry(name: str) -> benchmark._Entry:
        def timed(calls: int) -> tuple[float, bool]:
            order.append(name)
            return 2e-3 * calls, len(order) % 5 == 0

        return benchmark._Entry(name, list, timed)

    monkeypatch.setattr(benchmark, "_MOST_ROUNDS", 6)
    found = benchmark._measure([entry("a"), entry("b"), entry("c")], 60.0)
    turns = [(name, len(list(run))) for name, run in itertools.groupby(order[6:])]
    assert "".join(name for name, _ in turns) == "abcbcacab" * 2
    assert all(length >= 10 for _, length in turns[:3])  # to learn what is fast
    assert all(length == 3 for _, length in turns[3:])  # two untimed, one that counts
    counted = itertools.accumulate((length for _, length in turns), initial=6)
    assert sum(t.dropped for t in found) == sum(1 for i in [*counted][1:] if i % 5 == 0) > 0
    assert all(t.median == pytest.approx(2e-3) for t in found)


def test_threads_that_share_a_processor_at_first_are_waited_for() -> None:
    """The first repetitions of a turn are slow, for every entry: none of them counts."""
    last, slow = "", 0

    def entry(name: str, seconds: float) -> benchmark._Entry:
        def timed(calls: int) -> tuple[float, bool]:
            nonlocal last, slow
            slow = slow - 1 if last == name else 4
            last = name
            return seconds * calls * (4 if slow > 0 else 1), False

        return benchmark._Entry(name, list, timed)

    found = benchmark._measure([entry("a", 1e-3), entry("b", 2e-3)], 0.02)
    assert [t.median for t in found] == pytest.approx([1e-3, 2e-3])
    assert all(max(t.results) == pytest.approx(t.median) for t in found)


@pytest.mark.parametrize(("busy", "pauses"), [(0.0, 1), (0.095, 11), (math.inf, 30)])
def test_a_turn_begins_when_the_threads_before_are_asleep(
    monkeypatch: pytest.MonkeyPatch, busy: float, pauses: int
) -> None:
    """Threads that spin for some seconds are waited for, those that never stop are not."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = SimpleNamespace(
        sleep=sleep, perf_counter=lambda: now, process_time=lambda: min(now, busy)
    )
    monkeypatch.setattr(benchmark, "time", clock)
    benchmark._rest()
    assert now == pytest.approx(pauses * benchmark._PAUSE_SECONDS)


def test_a_few_undisturbed_repetitions_are_enough() -> None:
    found = benchmark._timing("a", 1, [1e-3] * 3, [5e-3] * 97)
    assert (found.median, found.dropped, found.disturbed) == (1e-3, 97, 0)
    found = benchmark._timing("a", 1, [1e-3] * 2, [5e-3] * 98)
    assert (found.dropped, found.disturbed, len(found.results)) == (0, 98, 100)


def test_a_long_call_is_not_warmed_again_and_again() -> None:
    runs: list[int] = []

    def timed(calls: int) -> tuple[float, bool]:
        runs.append(calls)
        return 0.2, False

    entry = benchmark._Entry("long", list, timed)
    (found,) = benchmark._measure([entry], 1e-9)
    assert found.calls == 1
    assert len(runs) == 2 + 1 + len(found.results)  # sizing, one untimed, the measured ones


def test_repetitions_are_kept_where_all_were_pre_empted() -> None:
    entry = benchmark._Entry("busy", list, lambda calls: (1e-3 * calls, True))
    (found,) = benchmark._measure([entry], 0.01)
    assert found.results
    assert (found.dropped, found.disturbed) == (0, len(found.results))
    assert "the machine is busy: most of busy were pre-empted" in Bench({"busy": found}).note()


@pytest.mark.parametrize(
    ("entries", "args", "said"),
    [
        ({}, (), "there is nothing to measure"),
        ({"x": 3}, (), "cannot measure 'x', which is a int"),
        ({"none": lambda a, b: None, "p": matmul()}, None, "'none' returned None"),
        ({"two": lambda a, b: (a @ b, a), "p": matmul()}, None, "returned 2 arrays, the kernels"),
        ({"a": matmul(), "b": matmul(4, 4, 4)}, None, "do not take the same arguments"),
        ({"f": gt.build(matmul(), "llvm")["main"]}, None, "function of a module"),
    ],
)
def test_what_makes_no_sense_is_refused(entries: Any, args: Any, said: str) -> None:
    with pytest.raises(gt.UserError) as e:
        gt.bench(entries, inputs() if args is None else args, seconds=SHORT)
    assert said in str(e.value)


def test_arguments_that_do_not_fit_are_refused() -> None:
    a, _ = inputs()
    with pytest.raises(gt.RunError, match="expected 2 inputs"):
        gt.bench({"p": matmul()}, (a,))
    with pytest.raises(gt.RunError, match="'B'"):
        gt.bench({"p": matmul()}, (a, a))
    for seconds in (0, "a", True, None):
        with pytest.raises(gt.UserError, match="seconds is a time above 0"):
            gt.bench({"p": matmul()}, inputs(), seconds=seconds)  # type: ignore[arg-type]  # wrong
    with pytest.raises(gt.UserError, match="entries is a dict of what to measure by name, found"):
        gt.bench([matmul()], inputs())  # type: ignore[arg-type]  # wrong
    with pytest.raises(gt.UserError, match="args is a list or tuple of arrays, found ndarray"):
        gt.bench({"p": matmul()}, a)  # type: ignore[arg-type]  # wrong


# ----------------------------------------------------------------------------- figures
def test_figures_for_people() -> None:
    assert [three(x) for x in (0, 0.01234, 0.1, 1, 9.996, 12.34, 999.4, 999.6, 12345.6)] == [
        "0", "0.0123", "0.100", "1.00", "10.0", "12.3", "999", "1000", "12346",
    ]  # fmt: skip
    assert [duration(x) for x in (3.2e-9, 35.12e-6, 2.04e-3, 0.9999, 61.2)] == [
        "3.20 ns", "35.1 us", "2.04 ms", "1.00 s", "61.2 s",
    ]  # fmt: skip
    assert duration(float("inf")) == "-"
    assert rate(2e9, 0.5) == "4.00"
    assert rate(None, 0.5) == "-"
    assert times(54.72) == "54.7x"


def test_foreign_text_gives_no_orders_to_the_terminal() -> None:
    assert plain("a\x1b[31mb\nc\u202e") == "a\\x1b[31mb\\nc\\u202e"
    assert plain("x" * 300, 10) == "xxxxxxx..."


def test_the_note_names_inputs_that_lie_across_cache_lines() -> None:
    func = matmul(64, 64, 64)
    lined = np.asarray(gt.nd.array(np.ones((64, 64), np.float32)))
    raw = np.ones(64 * 64 + 16, np.float32)
    at = -raw.ctypes.data // 4 % 16  # elements up to a line
    stray = raw[at + 4 : at + 4 + 64 * 64].reshape(64, 64)
    found = gt.bench({"k": func}, (lined, stray), seconds=0.01)
    assert found.astray == (1,)
    assert "inputs 1 do not begin at a cache line" in found.note()
    assert gt.bench({"k": func}, (lined, lined), seconds=0.01).astray == ()
    assert gt.bench({"numpy": np.matmul}, (lined, stray), seconds=0.01).astray == ()
