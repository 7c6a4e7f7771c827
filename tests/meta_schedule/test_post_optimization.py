"""Does post-optimisation walk to what is faster, stay where nothing is, and keep its budget?"""

from __future__ import annotations

import json
import math
import random
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ms_fakes import TARGET, matmul

from gputune import meta_schedule as ms
from gputune.errors import UserError
from gputune.ir.nodes import IRModule
from gputune.meta_schedule.analysis import PARALLEL, UNROLL_EXPLICIT, VECTORIZE
from gputune.meta_schedule.builder import Builder, BuilderInput, BuilderResult
from gputune.meta_schedule.knobs_of_trace import extents_of, neighbours, open_part
from gputune.meta_schedule.post_optimization import Droplet, PostOpt, improve
from gputune.meta_schedule.runner import Runner, RunnerFuture, RunnerInput, RunnerResult
from gputune.meta_schedule.significance import incomplete_beta, steady, welch
from gputune.meta_schedule.verify import Verdict
from gputune.schedule import Schedule, Trace
from gputune.target import Target

N = 64


def split_by(factor: int) -> Trace:
    """The j loop of the matmul in tiles: 7 points on a line."""
    sch = Schedule(matmul(N), seed=1)
    _i, j, _k = sch.get_loops(sch.get_block("C", func_name="main"))
    sch.split(j, sch.sample_perfect_tile(j, 2, N, decision=[N // factor, factor]))
    return sch.trace


def factor_of(mod: IRModule) -> int:
    found = re.search(r"j_0 \* (\d+) \+ j_1", str(mod["main"]))
    return int(found.group(1)) if found else (1 if "j_0 + j_1" in str(mod["main"]) else N)


class Shop(Builder):
    """Remembers the programs by path."""

    def __init__(self) -> None:
        self.mods: list[IRModule] = []

    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        out = []
        for x in build_inputs:
            out.append(BuilderResult(f"/nowhere/{len(self.mods)}"))
            self.mods.append(x.mod)
        return out


class Clock(Runner):
    """Times of programs by a function, with noise."""

    def __init__(
        self, shop: Shop, seconds: Callable[[IRModule], float], noise: float = 0.01
    ) -> None:
        self.shop, self.seconds, self.noise = shop, seconds, noise
        self.rng = random.Random(1)
        self.runs = 0
        self.drift = 1.0

    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        return [RunnerFuture(lambda: True, lambda x=x: self.timed(x)) for x in runner_inputs]

    def timed(self, x: RunnerInput) -> RunnerResult:
        self.runs += 1
        mod = self.shop.mods[int(str(x.artifact_path).rsplit("/", 1)[1])]
        true = self.seconds(mod) * self.drift
        if true == math.inf:
            return RunnerResult(None, "it broke")
        return RunnerResult([true * (1 + self.noise * self.rng.random()) for _ in range(3)])


def valley(mod: IRModule) -> float:
    """Best at 8."""
    return 1e-3 * (1 + abs(math.log2(factor_of(mod)) - 3))


def droplet(
    start: Trace, seconds: Callable[[IRModule], float] = valley, noise: float = 0.01, **more: Any
) -> tuple[Droplet, Clock]:
    shop = Shop()
    clock = Clock(shop, seconds, noise)
    return Droplet(matmul(N), TARGET, start, shop, clock, **{"postprocs": [], **more}), clock


# ----------------------------------------------------------------------------- the descent
def test_it_walks_down_to_the_best() -> None:
    search, _ = droplet(split_by(1))
    found = search.tune(20)
    assert found is not None
    assert factor_of(found.candidate.sch.mod) == 8
    assert found.speedup == pytest.approx(4.0, rel=0.05)
    assert found.pvalue <= 0.05
    assert found.trials == search.trials <= 20


def test_at_the_best_there_is_nothing_to_find() -> None:
    search, _ = droplet(split_by(8))
    assert search.tune(20) is None
    assert 2 <= search.trials <= 6


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_it_keeps_its_budget(trials: int) -> None:
    search, clock = droplet(split_by(64))
    search.tune(trials)
    assert search.trials == trials
    assert len(clock.shop.mods) == trials + 1  # the start is not counted


def test_time_is_a_budget_too(monkeypatch: pytest.MonkeyPatch) -> None:
    search, _ = droplet(split_by(64))
    assert search.tune(50, seconds=1e-9) is None
    assert search.trials == 0


def test_noise_is_not_taken_for_a_gain() -> None:
    search, _ = droplet(split_by(4), lambda mod: 1e-3, noise=0.5)
    assert search.tune(50) is None


@settings(derandomize=True, deadline=None, max_examples=20)
@given(
    times=st.lists(st.floats(1e-4, 1e-2), min_size=7, max_size=7),
    noise=st.sampled_from([0.0, 0.02, 0.2]),
    start=st.integers(0, 6),
)
def test_it_never_ends_with_something_slower(times: list[float], noise: float, start: int) -> None:
    def seconds(mod: IRModule) -> float:
        return times[int(math.log2(factor_of(mod)))]

    search, _ = droplet(split_by(2**start), seconds, noise)
    found = search.tune(30)
    if found is not None:
        assert seconds(found.candidate.sch.mod) < times[start] * (1 + noise)
    elif noise == 0.0:  # a local best: neither neighbour is faster
        near = [times[k] for k in (start - 1, start + 1) if 0 <= k < 7]
        assert min(near) >= times[start]


def test_candidates_that_fail_are_passed_over(tmp_path: Path) -> None:
    def seconds(mod: IRModule) -> float:
        return math.inf if factor_of(mod) == 4 else valley(mod)

    log = tmp_path / "opt_0.log"
    search, _ = droplet(split_by(2), seconds, log=log)
    found = search.tune(20)
    assert found is not None  # the long stride goes around it
    assert factor_of(found.candidate.sch.mod) == 8
    lines = [json.loads(x) for x in log.read_text().splitlines()]
    assert any(x.get("error", {}).get("message") == "it broke" for x in lines)
    assert sum("trial" in x for x in lines) == search.trials + 1
    assert lines[-1]["event"] == "confirmed"


def test_a_start_that_fails_ends_it() -> None:
    search, _ = droplet(split_by(2), lambda mod: math.inf)
    assert search.tune(20) is None
    assert search.trials == 0


def test_wrong_results_are_not_taken() -> None:
    class Refuses:
        eager = True

        def check(self, artifact: Any) -> Verdict:
            raise AssertionError

        def check_program(self, scheduled: IRModule) -> Verdict:
            if factor_of(scheduled) == 8:
                return Verdict("wrong", ms.Failure("check", "wrong_result", "no"))
            return Verdict("right")

    search, _ = droplet(split_by(2), checker=Refuses())
    found = search.tune(20)
    assert found is not None
    assert factor_of(found.candidate.sch.mod) in (4, 16)
    assert found.verified


def test_what_is_known_to_be_slower_is_not_tried_again() -> None:
    search, _ = droplet(split_by(8))
    search.tune(20)
    slower = [c for c in (4, 16)]
    known = {"": 1e-3}
    for f in slower:
        sch = Schedule(matmul(N))
        split_by(f).apply_to_schedule(sch)
        known[ms.MeasureCandidate(sch, []).digest] = 2e-3
    again, _ = droplet(split_by(8), known=known)
    again.tune(20)
    assert again.trials == search.trials - 2


@pytest.mark.parametrize("p", [0, 1, -0.5, "x", True])
def test_a_p_value_that_is_none(p: Any) -> None:
    with pytest.raises(UserError, match="p-value"):
        droplet(split_by(8), pvalue=p)


# ----------------------------------------------------------------------------- knobs
def labels(trace: Trace, stride: int = 1, mod: IRModule | None = None) -> list[str]:
    extents = extents_of(trace, Schedule(matmul(N) if mod is None else mod))
    return [n.label for n in neighbours(trace, stride, extents)]


def test_tiles_move_a_prime_at_a_time() -> None:
    assert labels(split_by(8)) == [
        "sample_perfect_tile #2: [8, 8] -> [4, 16]",
        "sample_perfect_tile #2: [8, 8] -> [16, 4]",
    ]
    assert labels(split_by(8), 2) == [
        "sample_perfect_tile #2: [8, 8] -> [2, 32]",
        "sample_perfect_tile #2: [8, 8] -> [32, 2]",
    ]


def test_categories_and_notes_are_knobs() -> None:
    sch = Schedule(matmul(N), seed=1)
    root = sch.get_block("root", func_name="main")
    sch.annotate(root, PARALLEL, 16)
    sch.annotate(root, VECTORIZE, 64)
    sch.annotate(root, "mine", 3)  # nobody knows what that means
    step = sch.sample_categorical([0, 16, 64, 512], [0.25] * 4, decision=1)
    sch.annotate(root, UNROLL_EXPLICIT, step)
    assert labels(sch.trace) == [
        f"{PARALLEL} #1: 16 -> 32",
        f"{PARALLEL} #1: 16 -> 8",
        f"{VECTORIZE} #2: 64 -> 128",
        f"{VECTORIZE} #2: 64 -> 32",
        "sample_categorical #4: 1 -> 2",
        "sample_categorical #4: 1 -> 0",
    ]
    assert labels(sch.trace, 2)[-1] == "sample_categorical #4: 1 -> 3"
    other = Schedule(matmul(N), seed=1)
    other.annotate(other.get_block("root", func_name="main"), UNROLL_EXPLICIT, 64)
    assert labels(other.trace) == [
        f"{UNROLL_EXPLICIT} #1: 64 -> 512", f"{UNROLL_EXPLICIT} #1: 64 -> 16",
    ]  # fmt: skip


def test_tiles_that_need_not_divide_are_knobs() -> None:
    sch = Schedule(matmul(60), seed=1)
    _i, j, _k = sch.get_loops(sch.get_block("C", func_name="main"))
    sch.split(j, sch.sample_tile(j, 2, 64, decision=[8, 8]))
    found = neighbours(sch.trace, 1, extents_of(sch.trace, Schedule(matmul(60))))
    assert [n.label.split(": ")[1] for n in found] == [
        "[8, 8] -> [4, 16]", "[8, 8] -> [15, 4]", "[8, 8] -> [7, 9]", "[8, 8] -> [9, 7]",
    ]  # fmt: skip
    for n in found:
        n.trace.apply_to_schedule(Schedule(matmul(60)))


def test_neighbours_of_a_real_sketch_replay() -> None:
    result_space = ms.SpaceGenerator.create("post-order-apply")
    ctx = ms.TuneContext(matmul(N), target=TARGET, space_generator=result_space, rand_state=1)
    applied = 0
    for sch in ctx.generate_design_space():
        trace, _ = open_part(sch.trace)
        for n in neighbours(trace, 1, extents_of(trace, Schedule(matmul(N)))):
            assert str(n.trace) != str(trace)
            n.trace.apply_to_schedule(Schedule(matmul(N)))
            applied += 1
    assert applied > 20


# ----------------------------------------------------------------------------- with a database
def committed(factor: int, seconds: float) -> ms.MemoryDatabase:
    db = ms.MemoryDatabase()
    workload = db.commit_workload(matmul(N))
    record = ms.TuningRecord(
        split_by(factor), workload, [seconds] * 3, TARGET,
        ms.ArgInfo.from_entry_func(matmul(N)),
    )  # fmt: skip
    record.own = True
    db.commit_tuning_record(record)
    return db


@pytest.mark.parametrize("drift", [0.5, 1.0, 3.0])
def test_a_record_is_written_that_ranks_before_its_start(drift: float) -> None:
    """Whatever the machine does meanwhile: times are related to the start's, taken in turns."""
    db = committed(1, 4e-3)
    shop = Shop()
    clock = Clock(shop, valley)
    clock.drift = drift
    record = improve(
        db, matmul(N), Target(TARGET), shop, clock, postprocs=[], trials=30, believe_own=True
    )
    assert record is not None
    assert len(db) == 2
    assert db.candidates(matmul(N), TARGET)[0] is record
    assert record.seconds == pytest.approx(1e-3, rel=0.05)
    told = record.extras["post_optimization"]
    assert told["speedup"] == pytest.approx(4.0, rel=0.05)
    assert statistics.median(told["measured"]) == pytest.approx(1e-3 * drift, rel=0.05)
    assert told["start"] == db.candidates(matmul(N), TARGET)[1].key
    again = improve(
        db, matmul(N), Target(TARGET), shop, clock, postprocs=[], trials=30, believe_own=True
    )
    assert again is None
    assert len(db) == 2


def test_nothing_to_start_from() -> None:
    shop = Shop()
    db = ms.MemoryDatabase()
    assert improve(db, matmul(N), Target(TARGET), shop, Clock(shop, valley)) is None


def test_from_tune_tir_and_by_itself(tmp_path: Path) -> None:
    """With the real builder, runner and checks."""

    def space(sch: Schedule) -> None:
        i, j, k = sch.get_loops(sch.get_block("C"))
        j0, j1 = sch.split(j, sch.sample_perfect_tile(j, n=2, max_innermost_factor=64))
        sch.reorder(i, j0, k, j1)

    result = ms.tune_tir(
        matmul(N), TARGET, tmp_path, 1, seed=1, space=ms.ScheduleFn(space), cost_model="none",
        post_optimization=True,
    )  # fmt: skip
    records = result.get_all_tuning_records()
    lines = [json.loads(x) for x in (tmp_path / "opt_0.log").read_text().splitlines()]
    assert any("trial" in x for x in lines)
    found = [r for r in records if "post_optimization" in r.extras]
    assert len(records) == 1 + len(found)
    if found:  # it began anywhere on the line
        assert result.record is not None
        assert result.record.seconds == found[0].seconds
        assert found[0].extras["verified"] is True
        assert found[0].extras["post_optimization"]["speedup"] > 1
    out = PostOpt(tmp_path, TARGET, trials=4).run()
    assert len(out) <= 1
    rng = np.random.default_rng(0)
    a, b = rng.random((2, N, N), dtype=np.float32)
    c = np.zeros((N, N), np.float32)
    import gputune

    gputune.build(result.mod, TARGET)["main"](a, b, c)
    np.testing.assert_allclose(c, a @ b, rtol=1e-4)


def test_bad_calls(tmp_path: Path) -> None:
    for trials in (0, -1, 2.5, True):
        with pytest.raises(UserError, match="trials is a count from 1"):
            PostOpt(tmp_path, TARGET, trials=trials)  # type: ignore[arg-type]  # refused
    with pytest.raises(UserError):
        PostOpt(tmp_path / "nothing", TARGET).run()


# ----------------------------------------------------------------------------- significance
def test_the_t_test_against_known_values() -> None:
    # Student's example of two sleeping drugs (unpaired): t = -1.8608, 17.776 degrees of freedom
    a = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    b = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    assert welch(a, b) == pytest.approx(0.07939, abs=1e-5)
    assert welch(b, a) == pytest.approx(welch(a, b))
    assert welch([1.0, 1.0], [1.0, 1.0]) == 1.0
    assert welch([1.0, 1.0], [2.0, 2.0]) == 0.0
    assert welch([1.0], [2.0, 3.0]) == 1.0
    assert incomplete_beta(2.0, 3.0, 0.5) == pytest.approx(0.6875)  # a polynomial
    assert incomplete_beta(0.5, 0.5, 0.25) == pytest.approx(1 / 3)  # the arcsine law
    assert (incomplete_beta(2, 3, 0.0), incomplete_beta(2, 3, 1.0)) == (0.0, 1.0)


def test_the_t_test_keeps_its_promise() -> None:
    """Of pairs of equal samples about one in twenty has a p-value below 0.05."""
    rng = np.random.default_rng(3)
    low = sum(welch(rng.normal(1, 0.1, 5).tolist(), rng.normal(1, 0.1, 5).tolist()) < 0.05
              for _ in range(2000))  # fmt: skip
    assert 50 < low < 130


def test_what_held_a_run_up_is_left_out() -> None:
    assert steady([1.0, 1.2, 1.1, 30.0]) == [1.0, 1.2, 1.1]
    assert steady([]) == []
