"""What do clocks, other users of the GPU and observers make of a measurement?

The runner here is a stand-in for a GPU that says what NVML would; see
`tests/runtime/test_nvml_in_tuning.py` for a worker process and a libnvidia-ml."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from ms_fakes import FakeBuilder, FakeRunner, ListStrategy, NoSpace, matmul
from test_task_scheduler import context as llvm
from test_task_scheduler import run, schedules

from gputune.errors import RunError
from gputune.meta_schedule import judgement
from gputune.meta_schedule.arg_info import TensorInfo
from gputune.meta_schedule.builder import BuilderResult
from gputune.meta_schedule.compiled import Compiled
from gputune.meta_schedule.conditions import Conditions, bound_of
from gputune.meta_schedule.cost_model.cost_model import seconds_of, weight_of
from gputune.meta_schedule.database import MemoryDatabase
from gputune.meta_schedule.gpu_model import column
from gputune.meta_schedule.measure_callback import AddToDatabase, MeasureCallback
from gputune.meta_schedule.measure_candidate import MeasureCandidate
from gputune.meta_schedule.ranking import figure_of, ranked_seconds
from gputune.meta_schedule.runner import RunnerInput, RunnerResult
from gputune.meta_schedule.second_look import MeasuredCode
from gputune.meta_schedule.sketch_feature import CPU_COUNT, FEATURE_COUNT
from gputune.meta_schedule.task_record import TaskRecord
from gputune.meta_schedule.task_scheduler import RoundRobin, TaskScheduler
from gputune.meta_schedule.tune_context import TuneContext
from gputune.runtime.nvml_observer import NvmlFacts
from gputune.runtime.observe import Observer, Subject
from gputune.target import Target

SM_80 = "cuda -arch=sm_80"
TARGET = Target(SM_80)
SM, MEM = 1980.0, 2619.0
GPU = {"reference_sm_mhz": SM, "reference_mem_mhz": MEM}


@pytest.fixture(name="lines")
def _lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What appears on the console."""
    out: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            out.append(record.getMessage())

    logger = logging.getLogger("gputune.meta_schedule")
    monkeypatch.setattr(logger, "handlers", [Keep()])
    monkeypatch.setattr(logger, "level", logging.INFO)
    return out


def context(n: int) -> TuneContext:
    return TuneContext(
        matmul(64), target=SM_80, space_generator=NoSpace(),
        search_strategy=ListStrategy(schedules(n)), task_name="main", rand_state=7,
    )  # fmt: skip


def facts(share: float = 1.0, **more: Any) -> dict[str, Any]:
    told = {
        "readings": 5, "batches": 5, "sm_mhz": SM * share, "sm_mhz_least": SM * share,
        "mem_mhz": MEM, "mem_mhz_least": MEM, "others": 0, **more,
    }  # fmt: skip
    return {"nvml": NvmlFacts(**told).as_json(), "gpu": GPU}


class Gpu(FakeRunner):
    """Runs kernels in their time at full clock, divided by the clock's share of that.

    Args:
        seconds: at full clock.
        told: facts of the measurement.
    """

    def __init__(
        self,
        seconds: Callable[[int], float],
        told: Callable[[int], Mapping[str, Any]] = lambda i: facts(),
    ) -> None:
        super().__init__(seconds)
        self.told = told

    def _result(self, x: RunnerInput) -> RunnerResult:
        self.measured += 1
        i = int(x.artifact_path.rsplit("/", 1)[1])
        told = self.told(i)
        share = told["nvml"]["sm_mhz"] / SM if told else 1.0
        seconds = self.seconds(i)
        assert isinstance(seconds, float)
        return RunnerResult([seconds / share * x for x in (1.02, 1.0, 0.98)], extras=told)


class Taught(MeasureCallback):
    """Keeps what a cost model would learn from."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []

    def apply(self, scheduler: Any, task_id: int, candidates: Any, built: Any, ran: Any) -> None:
        self.samples += [(seconds_of(r), weight_of(r)) for r in ran]


def measured(
    n: int, gpu: Gpu, conditions: Conditions | None = None
) -> tuple[TaskScheduler, MemoryDatabase, Taught]:
    db, taught, scheduler = MemoryDatabase(), Taught(), RoundRobin()
    scheduler.tune(
        [context(n)], [1.0], 1000, 1000, 4, FakeBuilder(), gpu, [AddToDatabase(), taught], db, None,
        verify=False, conditions=conditions,
    )  # fmt: skip
    return scheduler, db, taught


# ----------------------------------------------------------------------------- clocks
def test_at_70_percent_of_the_clock_the_ranking_does_not_change() -> None:
    rng = np.random.default_rng(5)
    n = 12
    true = (1e-4 * 1.03 ** rng.permutation(n)).tolist()
    slow = {int(np.argmin(true)), 3, 7, 8}  # the best of all is one of them
    clean = measured(n, Gpu(true.__getitem__))
    gpu = Gpu(true.__getitem__, lambda i: facts(0.7 if i in slow else 1.0))
    scheduler, db, taught = measured(n, gpu)

    def order(database: MemoryDatabase) -> list[str]:
        (workload,) = {r.workload for r in database.get_all_tuning_records()}
        return [r.program for r in database.get_top_k(workload, n)]

    assert order(db) == order(clean[1])
    assert scheduler.tasks[0].best.seconds == pytest.approx(min(true))
    assert scheduler.tasks[0].best_latency_ms == pytest.approx(min(true) * 1e3)
    assert [s for s, _ in taught.samples] == pytest.approx(true)  # the cost model's targets
    assert {w for _, w in taught.samples} == {1.0}
    records = db.get_all_tuning_records()
    raw = sorted(records, key=lambda r: statistics.median(r.run_secs or []))
    assert [r.program for r in raw] != order(db)  # it took the clock to see it
    one = records[3].extras["clock"]
    assert one == {
        "bound": "compute", "mhz": pytest.approx(1386), "reference_mhz": SM,
        "factor": pytest.approx(0.7),
    }  # fmt: skip
    assert statistics.median(records[3].run_secs or []) == pytest.approx(true[3] / 0.7)


def candidate(*args: TensorInfo, **columns: float) -> MeasureCandidate:
    (sch,) = schedules(1)
    out = MeasureCandidate(sch, args)
    if columns:
        out.features = np.zeros(FEATURE_COUNT, np.float32)
        for name, ns in columns.items():
            out.features[CPU_COUNT + column(name.replace("__", "."))] = np.log2(1 + ns)
    return out


def test_what_holds_a_kernel_up() -> None:
    small, large = TensorInfo("float32", (64, 64)), TensorInfo("float32", (1 << 26,))
    model = {"kernel0__dram_ns": 900.0, "kernel0__issue_ns": 300.0, "kernel1__issue_ns": 500.0}
    assert bound_of(candidate(small, **model), TARGET, 1e-4) == "memory"  # as the model says
    model["kernel1__issue_ns"] = 700.0  # of both kernels, more than the memory's
    assert bound_of(candidate(large, **model), TARGET, 2e-4) == "compute"
    # Without a model: do the arguments alone keep memory busy half of the time?
    assert bound_of(candidate(large), TARGET, 2e-4) == "memory"
    assert bound_of(candidate(large), TARGET, 2e-3) == "compute"
    assert bound_of(candidate(small), TARGET, 1e-5) == "compute"
    no_opinion = candidate(large)
    no_opinion.features = np.zeros(FEATURE_COUNT, np.float32)
    assert bound_of(no_opinion, TARGET, 2e-4) == "memory"


def settled(told: Mapping[str, Any], c: MeasureCandidate | None = None, **more: Any) -> Any:
    result = RunnerResult([2e-4] * 3, extras=told, **more)
    return Conditions().settled(result, c or candidate(), TARGET)


def test_memory_bound_kernels_go_by_the_clock_of_the_memory() -> None:
    c = candidate(kernel0__dram_ns=900.0, kernel0__issue_ns=300.0)
    found = settled(facts(0.7, mem_mhz=MEM / 2, mem_mhz_least=MEM / 2), c)
    assert found.extras["clock"]["bound"] == "memory"
    assert found.seconds == pytest.approx(1e-4)
    assert settled(facts(0.7), c).seconds == pytest.approx(2e-4)  # its own clock did not move


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"nvml": {}, "gpu": GPU},
        {"nvml": facts(0.7)["nvml"]},  # no reference
        facts(0.7, readings=0),  # cut after one call: nothing was read while it ran
        facts(0.7, sm_mhz_least=SM * 0.2),  # the clock moved
        facts(0.05),  # cannot be
        {**facts(0.7), "timing": {"corrected": True}},  # by a reference kernel
        {"nvml": facts(0.7)["nvml"], "gpu": {"reference_sm_mhz": None}},
    ],
)
def test_times_stay_as_they_are_where_the_clock_is_not_known(told: dict[str, Any]) -> None:
    found = settled(told)
    assert "clock" not in found.extras
    assert found.seconds == pytest.approx(2e-4)


def test_other_results_are_left_alone() -> None:
    failed = RunnerResult(None, "it crashed", extras=facts(0.7))
    assert Conditions().settled(failed, candidate(), TARGET) is failed
    same = settled({**facts(0.7), "same_code_as": "x"})
    assert "clock" not in same.extras
    result = RunnerResult([1.0], extras=facts(0.7))
    assert Conditions().settled(result, candidate(), Target("llvm")) is result


def test_the_reference_is_that_of_the_first_measurement() -> None:
    """A worker that is replaced while the GPU is slow does not lower it."""
    conditions = Conditions()
    conditions.settled(RunnerResult([1.0], extras=facts()), candidate(), TARGET)
    later = {**facts(0.7), "gpu": {"reference_sm_mhz": SM * 0.7, "reference_mem_mhz": MEM}}
    found = conditions.settled(RunnerResult([1.0], extras=later), candidate(), TARGET)
    assert found.seconds == pytest.approx(0.7)


def test_settings_of_the_gpu_are_noted_once(lines: list[str]) -> None:
    told = {"nvml_power_limit_w": 350.0, "nvml_power_default_w": 700.0, "nvml_mig": True, **GPU}
    gpu = Gpu(lambda i: 1e-4, lambda i: {**facts(), "gpu": told})
    measured(4, gpu)
    assert [x for x in lines if x.startswith("The GPU: ")] == [
        "The GPU: its power limit is 350 W, 700 W by default",
        "The GPU: MIG is on: clocks, power and energy are those of the whole GPU",
    ]


def test_factors_from_files_are_not_believed_blindly() -> None:
    for bad in (0.01, 30, -1, True, "0.7", float("nan"), None):
        assert ranked_seconds([2.0], {"clock": {"factor": bad}}) == 2.0
    assert ranked_seconds([2.0], {"clock": 3}) == 2.0
    assert ranked_seconds([2.0], {"unranked": 3}) == 2.0
    for bad in (0, -1, float("inf"), True, "1"):
        assert figure_of(1.0, {"energy": {"joules": bad}}, "energy") == float("inf")


def test_samples_of_a_slowed_gpu_weigh_nothing() -> None:
    slow = settled(facts(0.7, slow_batches=2, slowed=("power cap",)))
    assert weight_of(slow) == 0.0
    assert slow.seconds == pytest.approx(1.4e-4)  # it ranks all the same
    assert weight_of(settled(facts(0.7, sm_mhz_least=SM * 0.2))) == 0.0
    assert weight_of(settled(facts(0.7))) == 1.0
    assert weight_of(settled({})) == 1.0
    assert weight_of(RunnerResult(None, "it crashed", extras=facts(slow_batches=2))) == 1.0


# ----------------------------------------------------------------------------- a shared GPU
def test_samples_of_a_shared_gpu_do_not_rank(lines: list[str]) -> None:
    true = [1e-4, 3e-4, 2e-4, 5e-4, 4e-4, 6e-4]
    told = lambda i: facts(others=2 if i in (0, 3) else 0)  # noqa: E731  # of a table of two
    scheduler, db, taught = measured(6, Gpu(true.__getitem__, told))
    task = scheduler.tasks[0]
    assert task.best.seconds == pytest.approx(2e-4)  # not 1e-4
    assert task.best_latency_ms == pytest.approx(0.2)
    assert task.best_candidate is not None
    assert task.unranked == 2
    assert task.trials == 6
    assert not task.failures
    records = db.get_all_tuning_records()
    assert [bool(r.unranked) for r in records] == [True, False, False, True, False, False]
    assert records[0].run_secs is not None  # kept, as it was measured
    assert not records[0].is_valid
    assert records[0].unranked == "2 other processes computed on the GPU"
    found = db.candidates(context(1).mod, SM_80)
    assert [r.seconds for r in found] == pytest.approx([2e-4, 3e-4, 4e-4, 6e-4])
    best = db.query_tuning_record(context(1).mod, SM_80)
    assert best is not None
    assert best.program == records[2].program
    assert [w for _, w in taught.samples] == [0, 1, 1, 0, 1, 1]
    assert "2 do not rank: the GPU was shared" in scheduler.failure_summary()
    assert len([x for x in lines if "The GPU is shared (2 other processes" in x]) == 1
    assert "shared_gpu=True ranks them" in "".join(lines)
    pruned = MemoryDatabase()
    db.dump_pruned(pruned)
    assert [r.seconds for r in pruned.get_all_tuning_records()] == pytest.approx([2e-4])


def test_unless_that_is_asked_for() -> None:
    gpu = Gpu([2e-4, 1e-4, 3e-4].__getitem__, lambda i: facts(others=1))
    scheduler, db, taught = measured(3, gpu, Conditions(shared_gpu=True))
    assert scheduler.tasks[0].best.seconds == pytest.approx(1e-4)
    assert len(db.candidates(context(1).mod, SM_80)) == 3
    assert [w for _, w in taught.samples] == [1, 1, 1]
    assert db.get_all_tuning_records()[0].extras["nvml"]["others"] == 1


def test_where_nothing_ranks_it_says_why(lines: list[str]) -> None:
    gpu = Gpu(lambda i: 1e-4, lambda i: facts(others=1))
    with pytest.raises(RunError, match="all 12 candidates were measured while others") as refused:
        measured(100, gpu)  # three rounds of four, and then it is given up
    assert refused.value.code == "shared-gpu"
    assert "shared_gpu=True" in refused.value.hint
    assert gpu.measured == 12


def test_where_others_are_not_known_all_rank() -> None:
    gpu = Gpu(lambda i: 1e-4 * (i + 1), lambda i: facts(others=None))
    assert measured(3, gpu)[0].tasks[0].unranked == 0


def test_unranked_samples_are_not_the_times_of_what_has_their_code() -> None:
    code = MeasuredCode()
    c = candidate()
    c.compiled = Compiled({}, "code")
    assert not code.again(c)
    code.note(c, RunnerResult([1.0], extras={"unranked": "shared"}))
    assert not code.again(c)  # it is measured by itself
    code.note(c, RunnerResult([1.0]))
    assert code.again(c)


def test_unranked_samples_are_not_checked() -> None:
    """Where only the best of a round is checked, it is the best of those that rank."""

    class Lazy:
        eager = False

        def check(self, artifact: Any) -> Any:
            raise AssertionError("nothing is to be checked")

        check_program = check

    task = TaskRecord.of(context(1), 1.0)
    task.verifier = Lazy()  # type: ignore[assignment]  # all that is asked of it
    shared = [RunnerResult([1.0], extras={"unranked": "shared"})]
    judgement.judge_round(task, [candidate()], [BuilderResult("/nowhere/0")], shared)
    assert not shared[0].verified


# ----------------------------------------------------------------------------- observers
class Notes(Observer):
    def __init__(self, fail: Callable[[int], bool] = lambda n: False) -> None:
        self.subjects: list[Subject] = []
        self.seconds: list[Sequence[float]] = []
        self.fail = fail

    def before(self, subject: Subject) -> None:
        self.subjects.append(subject)
        if self.fail(len(self.subjects)):
            raise ZeroDivisionError("oh no")

    def after(self, seconds: Sequence[float]) -> None:
        self.seconds.append(seconds)

    def results(self) -> Mapping[str, Any]:
        return {"count": len(self.subjects)}


def test_observers_of_a_tuning() -> None:
    notes, db = Notes(), MemoryDatabase()
    run(
        [llvm(4)], database=db, callbacks=[AddToDatabase()],
        fail=lambda i: "no such instruction" if i == 1 else None,
        seconds_of=lambda i: "it crashed" if i == 2 else 1e-3,
        conditions=Conditions([notes]),
    )  # fmt: skip
    records = db.get_all_tuning_records()
    assert len(notes.subjects) == 3  # what was not built was not timed
    assert notes.subjects[0].name == "main"
    assert notes.subjects[0].device_type == "cpu"
    assert notes.subjects[0].args_info[0] == ["TENSOR", "float32", [64, 64]]
    assert [s.program for s in notes.subjects] == [records[k].program for k in (0, 2, 3)]
    assert notes.seconds == [(1e-3, 1.5e-3, 5e-4), (), (1e-3, 1.5e-3, 5e-4)]
    assert [r.extras.get("observed") for r in records] == [
        {"Notes": {"count": 1}}, None, {"Notes": {"count": 2}}, {"Notes": {"count": 3}},
    ]  # fmt: skip


def test_what_an_observer_raises_is_written_down_and_no_more(lines: list[str]) -> None:
    notes, db = Notes(lambda n: n != 2), MemoryDatabase()
    scheduler, _, _ = run(
        [llvm(3)], database=db, callbacks=[AddToDatabase()], conditions=Conditions([notes])
    )
    assert scheduler.tasks[0].best_latency_ms is not None
    records = db.get_all_tuning_records()
    told = [r.extras.get("observer_problems") for r in records]
    why = {"Notes": "before: ZeroDivisionError: oh no"}
    assert told == [why, None, why]
    assert records[1].extras["observed"] == {"Notes": {"count": 2}}
    assert len([x for x in lines if "Observer Notes: before: ZeroDivisionError" in x]) <= 1


def test_observers_let_go_when_tuning_is_interrupted() -> None:
    notes = Notes()

    def clock(i: int) -> float:
        if i == 1:
            raise KeyboardInterrupt
        return 1e-3

    scheduler, _, _ = run([llvm(4)], seconds_of=clock, conditions=Conditions([notes]))
    assert scheduler.interrupted
    assert notes.seconds == [(1e-3, 1.5e-3, 5e-4), ()]
