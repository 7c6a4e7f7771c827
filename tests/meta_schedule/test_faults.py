"""Faults of MetaSchedule that gputune must not have, each from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ms_fakes import TARGET, FakeRunner, matmul, record_of, split_j
from search_spaces import two_tiles
from test_golden import BARE, Batches, three_tiles

from gputune import meta_schedule as ms
from gputune.errors import RecordError, UserError
from gputune.ir.equal import structural_equal
from gputune.meta_schedule.arg_info import ScalarInfo
from gputune.schedule import Schedule, Trace

STRATEGIES = ["evolutionary", "replay-trace", "replay-func"]


def tune(tmp: Path, most: int, **options: Any) -> ms.TuneResult:
    options = {
        "builder": Batches(), "runner": FakeRunner(lambda i: 1e-3), "cost_model": "random",
        "space": ms.ScheduleFn(two_tiles, **BARE), "strategy": "replay-trace", "seed": 5,
        "verify": False, **options,
    }  # fmt: skip
    return ms.tune_tir(options.pop("mod", matmul(32)), TARGET, tmp, most, **options)


# ----------------------------------------------------------------------------- the database
def test_a_bad_record_is_skipped_with_file_and_line_and_tuning_goes_on(tmp_path: Path) -> None:
    assert len(tune(tmp_path, 3)) == 3
    path = tmp_path / "database_tuning_record.json"
    with path.open("a") as f:
        f.write('{"of": "another program"}\n[0, [[["NoSuchStep", [], [], []]], []], [1e-9]')
    with pytest.warns(UserWarning, match=r"database_tuning_record\.json:4: .*and 1 more"):
        result = tune(tmp_path, 2)
    assert len(result) == 5
    assert result.seconds == 1e-3


def test_a_record_whose_trace_does_not_apply_is_passed_over(tmp_path: Path) -> None:
    tune(tmp_path, 2)
    db = ms.JSONDatabase(work_dir=tmp_path)
    workload = db.commit_workload(matmul(32))
    foreign = split_j(matmul(32), 4).trace.as_json()
    foreign[0][0][2][0] = "NoSuchBlock"
    body = ms.TuningRecord.from_json(
        [foreign, [1e-9], record_of(workload, [1.0]).target_json(), None], workload
    )
    body.extras["device"] = record_of(workload, [1.0]).extras["device"]
    db.commit_tuning_record(body)
    for strategy in STRATEGIES:
        result = tune(tmp_path, 1, strategy=strategy)
        assert result.seconds == 1e-3
        assert result.query_schedule(matmul(32), TARGET) is not None


# ----------------------------------------------------------------------------- the user's parts
class Breaks(ms.MeasureCallback):
    """Raises in a round, the first is 1."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.at, self.error, self.seen = at, error, 0

    def apply(self, *args: Any) -> None:
        self.seen += 1
        if self.seen == self.at:
            raise self.error


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("at", [1, 2])
def test_a_callback_that_raises_loses_no_record(at: int, first: bool, tmp_path: Path) -> None:
    """Named for a bug: in front of AddToDatabase, what it raised lost the round's records."""
    breaks, after = Breaks(at, ZeroDivisionError("mine")), Breaks(0, ValueError())
    usual = ms.MeasureCallback.create()
    callbacks = [breaks, *usual, after] if first else [*usual, breaks, after]
    with pytest.raises(ZeroDivisionError, match="mine"):
        tune(tmp_path, 6, num_trials_per_iter=2, measure_callbacks=callbacks)
    records = ms.JSONDatabase(work_dir=tmp_path).get_all_tuning_records()
    assert len(records) == 2 * at
    assert after.seen == at - 1  # what ends tuning ends it
    lines = [json.loads(x) for x in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert [(x["phase"], x["kind"], x["message"]) for x in lines] == [
        ("callback", "ZeroDivisionError", "callback Breaks raised: mine")
    ]
    assert "callback ZeroDivisionError" in str(ms.Why.read(tmp_path))


def test_a_strategy_that_cannot_be_told_loses_no_record(tmp_path: Path) -> None:
    class Deaf(ms.ReplayTrace):
        def notify_runner_results(self, *args: Any) -> None:
            raise RuntimeError("not listening")

    with pytest.raises(RuntimeError, match="not listening"):
        tune(tmp_path, 6, num_trials_per_iter=2, strategy=Deaf())
    assert len(ms.JSONDatabase(work_dir=tmp_path).get_all_tuning_records()) == 2
    assert "strategy Deaf raised: not listening" in (tmp_path / "failures.jsonl").read_text()


def test_a_database_that_refuses_one_record_gets_the_others(tmp_path: Path) -> None:
    class Moody(ms.MemoryDatabase):
        asked = 0

        def commit_tuning_record(self, record: ms.TuningRecord) -> None:
            self.asked += 1
            if self.asked == 1:
                raise KeyError("not this one")
            super().commit_tuning_record(record)

    database = Moody()
    with pytest.raises(KeyError, match="not this one"):
        tune(tmp_path, 6, num_trials_per_iter=3, database=database)
    assert len(database.get_all_tuning_records()) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ms.MemoryDatabase().dump_pruned(3), "the destination is 3, not a Database"),
        (lambda: ms.TensorInfo("float32", 3), "the shape is 3"),
        (lambda: ms.TensorInfo("float32", (4, 2.5)), "the shape is (4, 2.5)"),
        (lambda: ms.TensorInfo("float32", (4, -1)), "the shape is (4, -1)"),
        (lambda: ms.TensorInfo("float32", None), "the shape is None"),
        (lambda: ms.TensorInfo("flaot32", (4,)), "the dtype is 'flaot32'"),
        (lambda: ms.TensorInfo(3, (4,)), "the dtype is 3"),
        (lambda: ScalarInfo(None), "the dtype is None"),
        (lambda: ms.TuningRecord.from_json([[[], []], [1.0], None, None], None), "is None, not a"),
        (lambda: ms.TuningRecord(Trace(), None), "the workload is None, not a Workload"),
        (lambda: ms.TuningRecord(Trace(), matmul()), "not a Workload"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_one_clear_error(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert message in caught.value.message
    assert caught.value.hint
    assert caught.value.code


@pytest.mark.parametrize("of", [ms.ArgInfo.from_json, ms.Workload.from_json])
def test_json_that_is_nothing(of: Callable[[Any], Any]) -> None:
    for value in (None, 3, [], {}, ["TENSOR", "float32", 3], [None, None]):
        with pytest.raises(RecordError, match="expected"):
            of(value)


def test_sizes_and_dtypes_of_numpy_are_as_good() -> None:
    info = ms.TensorInfo(np.float32, np.array([2, 3]))  # type: ignore[arg-type]  # accepted
    assert (info.dtype, info.shape, type(info.shape[0])) == ("float32", (2, 3), int)


# ----------------------------------------------------------------------------- the baseline
class ByProgram(Batches):
    """The path says whether it is the unscheduled program (0) or not (1)."""

    def build(self, build_inputs: list[ms.BuilderInput]) -> list[ms.BuilderResult]:
        super().build(build_inputs)
        plain = matmul(32)
        return [
            ms.BuilderResult(f"/nowhere/{0 if structural_equal(x.mod, plain) else 1}", None)
            for x in build_inputs
        ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_unscheduled_program_can_win(strategy: str, tmp_path: Path) -> None:
    def both(sch: Schedule) -> list[Schedule]:
        tiled = sch.copy()
        two_tiles(tiled)
        return [sch, tiled]

    result = tune(
        tmp_path, 200, builder=ByProgram(), space=ms.ScheduleFn(both, **BARE), strategy=strategy,
        runner=FakeRunner(lambda i: 1e-6 if i == 0 else 1e-3),
    )  # fmt: skip
    assert structural_equal(result.mod, matmul(32))
    assert result.seconds == 1e-6
    again = ms.JSONDatabase(work_dir=tmp_path).query_schedule(matmul(32), TARGET)
    assert again is not None
    assert structural_equal(again.mod, matmul(32))


# ----------------------------------------------------------------------------- one statistic
def test_one_statistic_ranks_everywhere(tmp_path: Path) -> None:
    """By the mean the second candidate would be best, by the least repeat the third."""
    times = {0: [1e-3, 1e-3, 1.0], 1: [2e-3, 2e-3, 2e-3], 2: [1e-9, 3e-3, 3e-3]}

    class Clock(ms.Runner):
        def run(self, runner_inputs: list[ms.RunnerInput]) -> list[ms.RunnerFuture]:
            numbers = [int(x.artifact_path.rsplit("/", 1)[1]) for x in runner_inputs]
            return [
                ms.RunnerFuture(lambda: True, lambda n=n: ms.RunnerResult(times[n]))
                for n in numbers
            ]

    seen: list[float | None] = []
    result = tune(
        tmp_path, 3, runner=Clock(),
        on_progress=lambda p: seen.append(p.best_seconds),
    )  # fmt: skip
    workload = result.commit_workload(matmul(32))
    ranked = [r.run_secs for r in result.get_top_k(workload, 3)]
    assert ranked == [times[0], times[1], times[2]]
    assert seen[-1] == result.seconds == 1e-3
    reloaded = ms.JSONDatabase(work_dir=tmp_path)
    assert [r.run_secs for r in reloaded.get_all_tuning_records()] == ranked
    best = reloaded.query_tuning_record(matmul(32), TARGET)
    assert best is not None
    assert best.seconds == 1e-3


# ----------------------------------------------------------------------------- no hang
class Never(ms.Postproc):
    def apply(self, sch: Schedule) -> bool:
        return False


@pytest.mark.parametrize("space", ["trace", "called", "rules"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_postproc_that_always_refuses_ends_the_search(
    strategy: str, space: str, tmp_path: Path
) -> None:
    def looks(sch: Schedule) -> None:
        i, _, _ = sch.get_loops(sch.get_block("C"))
        factors = sch.sample_perfect_tile(i, n=2)
        sch.split(i, [sch.get(f) for f in factors])

    never: dict[str, Any] = {"postprocs": [Never()], "mutator_probs": {}}
    spaces: dict[str, Callable[[], ms.SpaceGenerator]] = {
        "trace": lambda: ms.ScheduleFn(three_tiles, **never),
        "called": lambda: ms.ScheduleFn(looks, **never),
        "rules": lambda: ms.PostOrderApply(sch_rules="llvm", **never),
    }
    result = tune(tmp_path, 10, strategy=strategy, space=spaces[space]())
    assert len(result) == 0
    with pytest.raises(UserError, match="no schedule"):
        _ = result.schedule


# ----------------------------------------------------------------------------- budgets
@pytest.mark.parametrize("scheduler", ["gradient", "round-robin"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_cap_of_3_measures_exactly_3(strategy: str, scheduler: str, tmp_path: Path) -> None:
    runner = FakeRunner(lambda i: 1e-3)
    result = tune(
        tmp_path, 3, num_trials_per_iter=64, strategy=strategy, runner=runner,
        task_scheduler=scheduler,
    )  # fmt: skip
    assert runner.measured == len(result) == 3


@pytest.mark.parametrize("scheduler", ["gradient", "round-robin"])
@pytest.mark.parametrize(
    ("total", "per_task", "expected"), [(7, 100, 7), (100, 3, 9), (8, 3, 8), (2, 2, 2), (0, 5, 0)]
)
def test_budgets_of_several_tasks(
    total: int, per_task: int, expected: int, scheduler: str, tmp_path: Path
) -> None:
    tasks = [
        ms.TuneContext(
            matmul(n), target=TARGET, space_generator=ms.ScheduleFn(three_tiles, **BARE),
            search_strategy="replay-trace", rand_state=n,
        )
        for n in (16, 32, 64)
    ]  # fmt: skip
    runner = FakeRunner(lambda i: 1e-3)
    seen: list[int] = []
    result = ms.tune_tasks(
        tasks=tasks, task_weights=[1.0, 5.0, 1.0], work_dir=tmp_path, max_trials_global=total,
        max_trials_per_task=per_task, num_trials_per_iter=2, builder=Batches(), runner=runner,
        database="memory", cost_model="random", task_scheduler=scheduler, verify=False, seed=2,
        on_progress=lambda p: seen.extend(t.trials for t in p.tasks),
    )  # fmt: skip
    assert runner.measured == len(result) == expected
    assert max(seen, default=0) <= per_task
