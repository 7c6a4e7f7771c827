"""Are times compared only where they can be: in one cache regime, on one scale?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from ms_fakes import (
    TARGET,
    FakeBuilder,
    FakeRunner,
    ListStrategy,
    NoSpace,
    matmul,
    record_of,
    split_j,
)

from gputune import meta_schedule as ms
from gputune.errors import UserError
from gputune.meta_schedule import finalists
from gputune.meta_schedule.evaluator_config import cuda_plan, plan
from gputune.meta_schedule.post_optimization import improve
from gputune.meta_schedule.runner import BestSoFar, LocalRunner, RunnerInput, RunnerResult
from gputune.meta_schedule.timescale import by_regime, nominal_of, on_scale, regime_of

FACTORS = (2, 4, 8, 16)


def timing(regime: str = "warm", reference_s: float = 10e-6, **more: Any) -> dict[str, Any]:
    return {
        "regime": regime, "size": 3072, "in_cache": True, "reference_s": reference_s,
        "reference_error": 0.001, "nominal_s": 10e-6, **more,
    }  # fmt: skip


# ----------------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "number is a count from 1, found 0"),
        ({"repeat": True}, "repeat is a count from 1, found True"),
        ({"min_repeat_ms": -1}, "min_repeat_ms is from 0 upwards, found -1"),
        ({"min_repeat_ms": "long"}, "min_repeat_ms is from 0 upwards, found 'long'"),
        ({"cut": 1}, "cut is a factor above 1, found 1"),
        ({"cut": None}, "cut is a factor above 1, found None"),
        ({"regime": "cold"}, "regime is rotate, flush, warm or None, found 'cold'"),
        (
            {"enable_cpu_cache_flush": True, "regime": "warm"},
            "enable_cpu_cache_flush is the regime flush, found 'warm' too",
        ),
        ({"retries": -1}, "retries is a count from 0, found -1"),
        ({"retries": 1.5}, "retries is a count from 0, found 1.5"),
        ({"correct_drift": 1}, "correct_drift is True or False, found 1"),
        ({"adaptive": None}, "adaptive is True or False, found None"),
        ({"enable_cpu_cache_flush": "no"}, "enable_cpu_cache_flush is True or False, found 'no'"),
        ({"graph": "yes"}, "graph is True or False, or None, found 'yes'"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ms.EvaluatorConfig(**options)


def test_settings_reach_the_timers() -> None:
    config = ms.EvaluatorConfig(5, 2, 3.0, regime="rotate", correct_drift=False, retries=1)
    assert plan(config, 1e-3) == {
        "number": 5, "repeat": 2, "min_repeat_ms": 3.0, "regime": "rotate", "retries": 1,
        "reference": True,
    }  # fmt: skip
    found = cuda_plan(ms.EvaluatorConfig(regime="flush", graph=False))
    assert (found["regime"], found["graph"], found["correct_drift"]) == ("flush", False, True)
    assert plan(ms.EvaluatorConfig(), 1e-3)["regime"] == "warm"
    assert cuda_plan(ms.EvaluatorConfig())["regime"] is None
    assert plan(ms.EvaluatorConfig(enable_cpu_cache_flush=True), 1e-3)["regime"] == "flush"
    runner = LocalRunner(evaluator_config=config)
    assert runner.regime_on("cpu") == runner.regime_on("cuda") == "rotate"
    assert LocalRunner().regime_on("cpu") == "warm"
    assert LocalRunner().regime_on("cuda") is None
    with pytest.raises(UserError, match="do not rotate"):
        LocalRunner(evaluator_config=config, f_run_evaluator=lambda *a: [1.0])


# ----------------------------------------------------------------------------- one scale
def test_the_first_time_of_a_task_settles_its_scale() -> None:
    best = BestSoFar()
    seconds, told = on_scale([1e-3], timing(), best, "cpu")
    assert seconds == [1e-3]
    assert (best.regime, best.nominal_s) == ("warm", 10e-6)
    assert (told["drift"], told["corrected"]) == (1.0, False)
    slow, told = on_scale([2.4e-3, 2.52e-3], timing(reference_s=12e-6), best, "cpu")
    assert slow == pytest.approx([2e-3, 2.1e-3])
    assert (told["drift"], told["corrected"]) == (1.2, True)
    # a worker that began when the machine was slow is on the scale of the first all the same
    other = timing(reference_s=12e-6, nominal_s=12e-6)
    assert on_scale([2.4e-3], other, best, "cpu")[0] == pytest.approx([2e-3])
    alone, told = on_scale([2.4e-3], other, None, "cpu")
    assert alone == [2.4e-3]
    assert told["nominal_s"] == 12e-6


def test_what_is_not_corrected() -> None:
    def found(**more: Any) -> tuple[list[float], bool]:
        correct, flop = more.pop("correct", True), more.pop("flop", 0.0)
        told = timing(**{"reference_s": 12e-6, **more})
        seconds, told = on_scale([1.2e-3], told, None, "cpu", flop, correct)
        return seconds, told["corrected"]

    assert found() == (pytest.approx([1e-3]), True)
    assert found(correct=False) == ([1.2e-3], False)
    assert found(reference_s=10.2e-6) == ([1.2e-3], False)  # not significant
    assert found(reference_s=99e-6) == ([1.2e-3], False)  # beyond belief
    assert found(in_cache=False, size=1 << 20) == ([1.2e-3], False)  # it waits for memory
    assert found(in_cache=False, size=1 << 20, flop=2.0**30) == (pytest.approx([1e-3]), True)
    seconds, told = on_scale([1.2e-3], {"regime": "warm"}, None, "cpu")
    assert (seconds, told) == ([1.2e-3], {"regime": "warm"})


def test_the_local_runner_measures_the_reference_kernel_and_corrects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (built,) = ms.LocalBuilder(1).build([ms.BuilderInput(matmul(), target())])
    assert built.artifact_path is not None
    best = BestSoFar()
    x = RunnerInput(built.artifact_path, "cpu", ms.ArgInfo.from_entry_func(matmul()), best)
    found = LocalRunner().measure(x)
    assert found.problem is None, found
    told = found.extras["timing"]
    assert found.regime == told["regime"] == best.regime == "warm"
    assert told["reference_s"] > 0
    assert told["nominal_s"] == best.nominal_s > 0
    assert told["batches"] == 5
    assert told["spread"] >= 0
    real = LocalRunner._request

    def slowed(self: LocalRunner, *args: Any) -> dict[str, Any]:
        """As if the machine had come to run at half its speed."""
        data = real(self, *args)
        data["run_secs"] = [2e-3] * len(data["run_secs"])
        data["timing"] |= {"reference_s": 2 * best.nominal_s, "reference_error": 0.001}
        return data

    monkeypatch.setattr(LocalRunner, "_request", slowed)
    corrected = LocalRunner().measure(x)
    assert corrected.run_secs == pytest.approx([1e-3] * 5)
    assert corrected.extras["timing"]["drift"] == 2.0
    plain = LocalRunner(evaluator_config=ms.EvaluatorConfig(adaptive=True, correct_drift=False))
    assert plain.measure(x).run_secs == [2e-3] * 5


def target() -> Any:
    from gputune.target import Target

    return Target(TARGET)


# ----------------------------------------------------------------------------- databases
def filled(db: ms.Database) -> ms.Workload:
    """Three warm records, and two flushed ones, which were measured later and took longer."""
    workload = db.commit_workload(matmul())
    for k, (seconds, regime) in enumerate(
        [(3e-3, "warm"), (9e-3, "flush"), (1e-3, "warm"), (7e-3, "flush"), (2e-3, None)]
    ):
        extras: dict[str, Any] = {"program": f"p{k}", "time": 100.0}
        if regime is not None:
            extras["timing"] = {"regime": regime}
            extras["time"] = 200.0 if regime == "flush" else 100.0
        db.commit_tuning_record(record_of(workload, [seconds], 2**k % 16 or 1, **extras))
    return workload


@pytest.mark.parametrize("kind", ["memory", "json", "union"])
def test_a_database_never_ranks_one_regime_against_another(kind: str, tmp_path: Path) -> None:
    db: ms.Database = ms.JSONDatabase(work_dir=tmp_path) if kind == "json" else ms.MemoryDatabase()
    workload = filled(db)
    asked = ms.UnionDatabase(db) if kind == "union" else db
    ranked = [(r.regime, r.seconds) for r in asked.candidates(matmul(), TARGET)]
    flushed = [("flush", 7e-3), ("flush", 9e-3)]
    assert ranked == [*flushed, ("warm", 1e-3), ("warm", 2e-3), ("warm", 3e-3)]
    best = asked.query_tuning_record(matmul(), TARGET)
    assert best is not None
    assert best.regime == "flush"  # measured last
    assert [r.regime for r in db.get_top_k(workload, 3)] == ["flush", "flush", "warm"]
    pruned = ms.MemoryDatabase()
    db.dump_pruned(pruned)
    assert sorted(r.seconds for r in pruned.get_all_tuning_records()) == [1e-3, 7e-3]


def test_what_says_nothing_was_warm() -> None:
    assert regime_of({}) == regime_of({"timing": 3}) == "warm"
    assert regime_of({"timing": {"regime": "tepid"}}) == "warm"
    assert regime_of({"timing": {"regime": "rotate"}}) == "rotate"
    assert RunnerResult([1.0]).regime == "warm"
    db = ms.MemoryDatabase()
    workload = db.commit_workload(matmul())
    records = [record_of(workload, [k], timing={"regime": "warm"}) for k in (1.0, 2.0)]
    assert by_regime(records) == records
    assert nominal_of(records) == 0.0
    told = record_of(workload, [1.0], timing=timing())
    assert nominal_of([*records, told]) == 10e-6


def test_simulated_times_are_of_another_kind() -> None:
    db = ms.MemoryDatabase()
    workload = db.commit_workload(matmul())
    for seconds, extras in ((1e-9, {"clock": "host execution", "time": 300.0}), (1e-3, {})):
        db.commit_tuning_record(record_of(workload, [seconds], **extras))
    assert [r.regime for r in db.candidates(matmul(), TARGET)] == ["warm", "simulated"]
    assert ms.Runner.create("host").regime_on("cuda") == "simulated"


def test_an_amendment_is_of_its_own_regime() -> None:
    db = ms.MemoryDatabase()
    workload = db.commit_workload(matmul())
    record = record_of(workload, [1e-3], timing={"regime": "flush"})
    db.commit_tuning_record(record)
    for regime, expected in (("warm", 1e-3), ("flush", 2e-3)):
        extras = {"remeasures": record.key, "was": 1e-3, "timing": {"regime": regime}}
        db.commit_tuning_record(record_of(workload, [2e-3], **extras))
        assert db.get_top_k(workload, 1)[0].seconds == expected


# ----------------------------------------------------------------------------- the search
class Regimes(FakeRunner):
    """Measures in a regime of its own, and notes what it is told."""

    def __init__(self, seconds: Any, regime: Any, says: str | None = None) -> None:
        super().__init__(seconds)
        self.regime, self.says = regime, says
        self.told: list[tuple[float, str, float]] = []

    def regime_on(self, device_type: str) -> str | None:
        return self.says

    def _result(self, x: Any) -> RunnerResult:
        self.told.append((x.best.seconds, x.best.regime, x.best.nominal_s))
        found = super()._result(x)
        regime = self.regime(self.measured - 1) if callable(self.regime) else self.regime
        return RunnerResult(found.run_secs, extras={"timing": {"regime": regime}})


def tune(db: ms.Database, folder: Path, runner: ms.Runner, **more: Any) -> ms.TuneResult:
    mod = matmul()
    return ms.tune_tir(
        mod, TARGET, folder, 4, num_trials_per_iter=2, builder=FakeBuilder(), runner=runner,
        database=db, space=NoSpace(), strategy=ListStrategy([split_j(mod, f) for f in FACTORS]),
        cost_model="none", verify=False, **more,
    )  # fmt: skip


def known(regime: str, seconds: float = 1e-3) -> ms.MemoryDatabase:
    db = ms.MemoryDatabase()
    workload = db.commit_workload(matmul())
    record = record_of(workload, [seconds], 1, program="old", timing=timing(regime))
    record.own = record.verified = True
    db.commit_tuning_record(record)
    return db


def test_a_search_competes_with_earlier_times_of_its_regime_alone(tmp_path: Path) -> None:
    times = [5e-3, 4e-3, 6e-3, 3e-3]
    alike = Regimes(lambda i: times[i], "flush", "flush")
    tune(known("flush"), tmp_path / "alike", alike)
    assert alike.told == [(1e-3, "flush", 10e-6)] * 4
    other = Regimes(lambda i: times[i], "flush", "flush")
    tune(known("warm"), tmp_path / "other", other)
    assert other.told == [(s, "flush", 0.0) for s in (math.inf, 5e-3, 4e-3, 4e-3)]


def test_a_runner_that_finds_the_regime_itself_is_told_that_of_the_records(tmp_path: Path) -> None:
    """And where it measures in another all the same, earlier times do not count."""
    times = [5e-3, 4e-3, 6e-3, 3e-3]
    runner = Regimes(lambda i: times[i], "rotate")
    result = tune(known("flush"), tmp_path, runner)
    assert runner.told[0] == (1e-3, "flush", 10e-6)
    assert [best for best, _, _ in runner.told[1:]] == [5e-3, 4e-3, 4e-3]
    assert {regime for _, regime, _ in runner.told[1:]} == {"rotate"}
    assert result.record is not None
    assert result.record.seconds == 3e-3


def test_a_time_of_another_regime_is_no_new_best(tmp_path: Path) -> None:
    seen: list[Any] = []
    times = [5e-3, 1e-3, 4e-3, 2e-3]
    regimes = ["warm", "flush", "warm", "flush"]
    runner = Regimes(lambda i: times[i], lambda i: regimes[i])
    db = ms.MemoryDatabase()
    tune(db, tmp_path, runner, on_progress=lambda now: seen.append(now.best_schedule))
    assert [best for best, _, _ in runner.told] == [math.inf, 5e-3, 5e-3, 4e-3]
    best = seen[-1]
    assert best is not None
    (split,) = [x for x in best.trace.insts if x.kind.name == "Split"]
    assert int(split.inputs[-1]) == FACTORS[2]  # the fastest of the regime in which the run began
    assert [r.regime for r in db.get_all_tuning_records()] == regimes


# ----------------------------------------------------------------------------- finalists
class Again(Regimes):
    """Has other processes; they measure in a regime of their own."""

    def __init__(self, seconds: Any, regime: str, later: str) -> None:
        super().__init__(seconds, regime, regime)
        self.later = later
        self.asked: list[tuple[str, float]] = []

    def fresh(self) -> Any:
        owner = self

        class Process:
            def start(self) -> None: ...

            def wait(self) -> None: ...

            def close(self) -> None: ...

            def measure(self, x: RunnerInput) -> RunnerResult:
                assert x.best is not None
                owner.asked.append((x.best.regime, x.best.nominal_s))
                extras = {"timing": {"regime": owner.later}}
                # the first three are finalists; their order is turned around
                number = int(x.artifact_path.rsplit("/", 1)[1]) - 4
                return RunnerResult([(1.3e-3, 1.2e-3, 1.1e-3)[number]], extras=extras)

        return Process()


LUCKY = (1.00e-3, 1.04e-3, 1.08e-3, 9e-3)


@pytest.mark.parametrize("later", ["flush", "warm"])
def test_finalists_stay_in_their_regime(tmp_path: Path, later: str) -> None:
    runner = Again(lambda i: LUCKY[i], "flush", later)
    db = known("warm", 1e-6)  # faster than all, and of no interest
    tune(db, tmp_path, runner)
    assert runner.asked
    assert {regime for regime, _ in runner.asked} == {"flush"}
    flushed = [r for r in db.candidates(matmul(), TARGET) if r.regime == "flush"]
    assert len(flushed) == 4
    (split,) = [x for x in flushed[0].trace.insts if x.kind.name == "Split"]
    # what was measured in another regime changes nothing
    assert int(split.inputs[-1]) == (FACTORS[2] if later == "flush" else FACTORS[0])


class OnGpu(FakeRunner):
    """Measures finalists of a GPU in one process."""

    def __init__(self) -> None:
        super().__init__(lambda i: LUCKY[i])
        self.started, self.devices = 0, set[str]()

    def fresh_on_gpu(self) -> Any:
        owner = self

        class Process:
            def start(self) -> None:
                owner.started += 1

            def wait(self) -> None: ...

            def close(self) -> None: ...

            def measure(self, x: RunnerInput) -> RunnerResult:
                owner.devices.add(x.device_type)
                number = int(x.artifact_path.rsplit("/", 1)[1]) - 4
                return RunnerResult([(1.3e-3, 1.2e-3, 1.1e-3)[number]])

        return Process()


def test_finalists_of_a_gpu_are_measured_again_too(tmp_path: Path) -> None:
    mod, runner, db = matmul(), OnGpu(), ms.MemoryDatabase()
    ms.tune_tir(
        mod, "cuda -arch=sm_90", tmp_path, 4, num_trials_per_iter=4, builder=FakeBuilder(),
        runner=runner, database=db, space=NoSpace(), cost_model="none", verify=False,
        strategy=ListStrategy([split_j(mod, f) for f in FACTORS]),
    )  # fmt: skip
    assert runner.started == finalists.GPU_PROCESSES
    assert runner.devices == {"cuda"}
    best = db.get_top_k(db.commit_workload(mod), 1)[0]
    (split,) = [x for x in best.trace.insts if x.kind.name == "Split"]
    assert int(split.inputs[-1]) == FACTORS[2]


def test_what_is_kept_of_a_time_limit_for_finalists() -> None:
    gpu, cpu = OnGpu(), Again(lambda i: 1.0, "warm", "warm")
    assert finalists.reserve_for(gpu, {"cuda"}, 100) == 6.0
    assert finalists.reserve_for(gpu, {"cuda"}, 30) == 0.0  # too little to open a GPU
    assert finalists.reserve_for(gpu, {"llvm"}, 100) == 0.0
    assert finalists.reserve_for(cpu, {"llvm", "cuda"}, 100) == 2.5


# ----------------------------------------------------------------------------- afterwards
def test_post_optimization_starts_from_a_record_of_the_runners_regime() -> None:
    db = known("warm")

    class Flushes(FakeRunner):
        def regime_on(self, device_type: str) -> str | None:
            return "flush"

    runner = Flushes(lambda i: pytest.fail("measured"))
    found = improve(db, matmul(), target(), FakeBuilder(), runner, believe_own=True)
    assert found is None
    assert runner.measured == 0
