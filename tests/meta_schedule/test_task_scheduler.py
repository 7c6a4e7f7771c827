"""Are budgets kept, failures counted, tasks chosen as they should be, interruptions survived?"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ms_fakes import (
    TARGET,
    Clock,
    FakeBuilder,
    FakeRunner,
    ListStrategy,
    NoSpace,
    matmul,
    record_of,
    split_j,
)

from gputune.errors import RecordError, RunError, UserError
from gputune.meta_schedule import (
    AddToDatabase,
    BuilderResult,
    Failure,
    GradientBased,
    MeasureCallback,
    MemoryDatabase,
    Profiler,
    Progress,
    PyMeasureCallback,
    RemoveBuildArtifact,
    RoundRobin,
    TaskScheduler,
    TuneContext,
    UpdateCostModel,
    derived_object,
)
from gputune.meta_schedule.builder import BuilderInput
from gputune.meta_schedule.statistics_table import table
from gputune.meta_schedule.task_record import TaskRecord
from gputune.schedule import Schedule


def schedules(n: int, size: int = 64) -> list[Schedule]:
    """`n` different programs."""
    mod = matmul(size)
    out = []
    for k in range(n):
        sch = split_j(mod, 2 ** (k % 5))
        sch.annotate(sch.get_block("C"), "number", k)
        out.append(sch)
    return out


def context(n: int, name: str = "main", empty_rounds: int = 0, size: int = 64) -> TuneContext:
    return TuneContext(
        matmul(size),
        target=TARGET,
        space_generator=NoSpace(),
        search_strategy=ListStrategy(schedules(n, size), empty_rounds),
        task_name=name,
        rand_state=7,
    )


def strategy(ctx: TuneContext) -> ListStrategy:
    found = ctx.search_strategy
    assert isinstance(found, ListStrategy)
    return found


def run(
    tasks: Sequence[TuneContext],
    *,
    scheduler: TaskScheduler | None = None,
    seconds_of: Callable[[int], float | str] = lambda i: 1e-3 / (1 + i % 7),
    fail: Callable[[int], str | None] = lambda i: None,
    max_trials_global: int = 1000,
    max_trials_per_task: int = 1000,
    num_trials_per_iter: int = 8,
    callbacks: Sequence[MeasureCallback] = (),
    database: Any = None,
    **more: Any,
) -> tuple[TaskScheduler, FakeBuilder, FakeRunner]:
    scheduler = scheduler or RoundRobin()
    builder, runner = FakeBuilder(fail), FakeRunner(seconds_of)
    scheduler.tune(
        tasks, [1.0] * len(tasks), max_trials_global, max_trials_per_task, num_trials_per_iter,
        builder, runner, callbacks, database, None, **{"verify": False, **more},
    )  # fmt: skip
    return scheduler, builder, runner


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What appears on the console."""
    out: list[str] = []
    logger = logging.getLogger("gputune.meta_schedule")

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            out.append(f"{record.levelname} {record.getMessage()}")

    monkeypatch.setattr(logger, "handlers", [Keep()])
    monkeypatch.setattr(logger, "level", logging.INFO)
    return out


# ----------------------------------------------------------------------------- budgets
@pytest.mark.parametrize(
    ("total", "per_task", "per_iter", "expected"),
    [
        (3, 100, 64, [3]),
        (10, 100, 4, [4, 4, 2]),
        (100, 5, 4, [4, 1]),
        (64, 64, 64, [20]),
        (0, 9, 4, []),
    ],
)
def test_trials_are_kept_exactly(
    total: int, per_task: int, per_iter: int, expected: list[int]
) -> None:
    ctx = context(20)
    scheduler, builder, _ = run(
        [ctx],
        max_trials_global=total,
        max_trials_per_task=per_task,
        num_trials_per_iter=per_iter,
    )
    assert builder.sizes == expected
    assert scheduler.tasks[0].trials == sum(expected)
    assert scheduler.tasks[0].is_terminated
    assert not strategy(ctx).open


def test_global_trials_over_several_tasks() -> None:
    tasks = [context(20, f"t{k}", size=32 + 32 * k) for k in range(3)]
    for scheduler in (RoundRobin(), GradientBased(seed=3)):
        for t in tasks:
            t.search_strategy = ListStrategy(schedules(20))  # type: ignore[assignment]  # a fake
            t.initialize()
        done, _, _ = run(
            tasks, scheduler=scheduler, max_trials_global=13, max_trials_per_task=6,
            num_trials_per_iter=4,
        )  # fmt: skip
        assert sum(t.trials for t in done.tasks) == 13
        assert max(t.trials for t in done.tasks) <= 6


def test_seconds_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def slow(i: int) -> float:
        clock.sleep(0.02)
        return 1e-3

    scheduler, _, runner = run(
        [context(100)], seconds_of=slow, num_trials_per_iter=64, seconds=0.15
    )
    assert scheduler.tasks[0].trials == runner.measured == 8


def test_with_little_time_there_is_still_one_result() -> None:
    scheduler, _, _ = run([context(10)], seconds=1e-6, seconds_of=lambda i: "no" if i < 3 else 1e-3)
    assert scheduler.tasks[0].trials == 4
    assert scheduler.tasks[0].best_latency_ms == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_trials_global", -1),
        ("num_trials_per_iter", 0),
        ("seconds", 0),
        ("max_trials_per_task", 1.5),
    ],
)
def test_senseless_limits_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=name):
        run([context(1)], **{name: value})


def test_weights_must_match() -> None:
    with pytest.raises(UserError, match=r"1 tasks .* 2 weights"):
        RoundRobin().tune(
            [context(1)], [1, 1], 1, 1, 1, FakeBuilder(), FakeRunner(lambda i: 1.0), [], None, None
        )


# ----------------------------------------------------------------------------- the log
def test_log_of_a_small_space(lines: list[str]) -> None:
    run([context(5, empty_rounds=4)], num_trials_per_iter=64, max_trials_global=64)
    short = [line.split("\n")[0] for line in lines]
    sent = ["INFO Sending 5 sample(s) to builder", "INFO Sending 5 sample(s) to runner"]
    none = [s.replace("5", "0") for s in sent]
    picks, updated = 'INFO Scheduler picks Task #0: "main"', 'INFO [Updated] Task #0: "main"'
    assert short == [
        'INFO Initializing Task #0: "main"',
        "INFO ",
        picks, *sent, updated,
        *[picks, *none, updated] * 4,
        picks,
        "INFO Task #0 has finished. Remaining task(s): 0",
    ]  # fmt: skip
    tables = [line for line in lines if "Total trials" in line]
    assert "N/A" in tables[0]
    assert "Total trials: 0\nTotal latency (us): 0\n" in tables[0]
    assert len({t.split("\n", 1)[1] for t in tables[1:]}) == 1  # unchanged by empty rounds
    assert "Y" not in tables[-1].split("Total")[0].split("Terminated")[1]


def test_the_runner_gets_what_was_built(lines: list[str]) -> None:
    run([context(6)], fail=lambda i: "bad" if i % 3 == 0 else None)
    assert "INFO Sending 6 sample(s) to builder" in lines
    assert "INFO Sending 4 sample(s) to runner" in lines


def row(latency_us: float | None, flop: float = 4194304, weight: float = 1, trials: int = 5) -> Any:
    ctx = context(0, size=128)
    record = TaskRecord(ctx, weight, flop)
    record.latency_ms = [1e9] * (trials - (latency_us is not None))
    if latency_us is not None:
        record.latency_ms.append(latency_us / 1e3)
    return record


def test_table_is_as_in_the_tutorial() -> None:
    assert table([row(1465.9074)]).splitlines() == [
        " ID | Name |    FLOP | Weight | Speed (GFLOPS) | Latency (us) | Weighted Latency (us)"
        " | Trials | Terminated",
        "-" * 108,
        "  0 | main | 4194304 |      1 |         2.8612 |    1465.9074 |             1465.9074"
        " |      5 |",
        "-" * 108,
        "Total trials: 5",
        "Total latency (us): 1465.91",
    ]
    assert "19.4352" in table([row(215.8092)])
    assert "7.6530" in table([row(26.2422, flop=200832)])
    assert "Total latency (us): 26.2422\n" in table([row(26.2422, flop=200832)])


def test_table_of_several_tasks() -> None:
    done = row(10.0, weight=3, trials=2)
    done.is_terminated = True
    text = table([done, row(None), row(4.0)])
    assert "Total trials: 12\nTotal latency (us): 34\n" in text
    assert re.search(r"30\.0000 \|\s+2 \|\s+Y\n", text)
    assert re.search(r"N/A \|\s+N/A \|\s+N/A \|\s+5 \|\n", text)


def test_flop_of_a_matmul() -> None:
    assert TaskRecord.of(context(0, size=128), 1).flop == 4194304


# ----------------------------------------------------------------------------- which task
class Gains(GradientBased):
    """Says which task it chose."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.chosen: list[int] = []

    def next_task_id(self) -> int:
        self.chosen.append(super().next_task_id())
        return self.chosen[-1]


def test_gradient_prefers_the_slow_task_after_one_round_each() -> None:
    tasks = [context(12, f"t{k}") for k in range(3)]
    order = [1e-6, 1e-3, 1e-5]  # seconds of each task
    scheduler = Gains(seed=1)

    def clock(i: int) -> float:
        return order[scheduler.chosen[-1]]

    run(tasks, scheduler=scheduler, seconds_of=clock, num_trials_per_iter=4, max_trials_global=20)
    assert scheduler.chosen[:3] == [0, 1, 2]
    assert scheduler.chosen[3:] == [1, 1]


def test_gradient_draws_among_equals_by_seed() -> None:
    picks = []
    for _ in range(2):
        tasks = [context(40, f"t{k}") for k in range(4)]
        scheduler = Gains(seed=5)
        run(tasks, scheduler=scheduler, seconds_of=lambda i: 1e-3, num_trials_per_iter=2,
            max_trials_global=40)  # fmt: skip
        picks.append(scheduler.chosen)
    assert picks[0] == picks[1]


def test_a_failing_task_has_its_share_of_turns() -> None:
    """In TVM it waits until all others have ended."""
    tasks = [context(8, "bad"), context(8, "good")]
    scheduler = Gains(seed=1)

    def clock(i: int) -> float | str:
        return "broken" if scheduler.chosen[-1] == 0 else 1e-3

    run(tasks, scheduler=scheduler, seconds_of=clock, num_trials_per_iter=4)
    assert scheduler.chosen == [0, 1, 1, 0, 1, 0, -1]


def test_round_robin_takes_turns() -> None:
    tasks = [context(8, "a"), context(4, "b"), context(8, "c")]
    seen: list[str] = []
    run(tasks, num_trials_per_iter=4, on_progress=lambda p: seen.append(p.task.task_name)
        if p.phase == "search" else None)  # fmt: skip
    assert seen == ["a", "b", "c", "a", "b", "c", "a", "c"]


def test_create() -> None:
    assert isinstance(TaskScheduler.create(), GradientBased)
    assert isinstance(TaskScheduler.create("round-robin"), RoundRobin)
    with pytest.raises(ValueError, match="'best'"):
        TaskScheduler.create("best")
    with pytest.raises(TypeError, match="next_task_id"):
        TaskScheduler()  # type: ignore[abstract]  # the mistake in question
    with pytest.raises(UserError, match="alpha"):
        GradientBased(alpha=2)
    with pytest.raises(UserError, match="window_size"):
        GradientBased(window_size=0)


def test_terminating_twice_is_refused() -> None:
    scheduler, _, _ = run([context(1)])
    with pytest.raises(UserError, match="before"):
        scheduler.terminate_task(0)


# ----------------------------------------------------------------------------- failures
def test_failures_are_counted_recorded_and_written(tmp_path: Path) -> None:
    db = MemoryDatabase()
    path = tmp_path / "failures.jsonl"
    ctx = context(9)
    scheduler, _, _ = run(
        [ctx],
        fail=lambda i: "no such instruction" if i % 3 == 0 else None,
        seconds_of=lambda i: "segfault" if i % 3 == 1 else 1e-3,
        callbacks=[AddToDatabase()],
        database=db,
        failures_path=path,
    )
    task = scheduler.tasks[0]
    assert (task.build_error_count, task.run_error_count, task.trials) == (3, 3, 9)
    assert task.failures == {"build error": 3, "run error": 3}
    assert "6 of 9 failed (3 x build error, 3 x run error)" in scheduler.failure_summary()
    lines = [json.loads(x) for x in path.read_text().splitlines()]
    assert len(lines) == 6
    assert {x["message"] for x in lines} == {"no such instruction", "segfault"}
    assert lines[0]["trace"][0].startswith("b0 = sch.get_block")
    records = db.get_all_tuning_records()
    assert len(records) == 9
    failed = [r for r in records if not r.is_valid]
    assert {r.program for r in failed} == {x["program"] for x in lines}
    assert failed[0].error == {"phase": "build", "kind": "error", "message": "no such instruction"}
    assert len(db.get_top_k(db.commit_workload(ctx.mod), 99)) == 3


def test_a_task_that_only_fails_is_given_up_with_the_reason(lines: list[str]) -> None:
    with pytest.raises(
        RunError, match=r'task "main": all 12 candidates failed .12 x run error.*OOM'
    ):
        run([context(100)], seconds_of=lambda i: "OOM", num_trials_per_iter=4)
    assert any("given up after 3 rounds" in line for line in lines)


def test_a_task_that_fails_for_one_reason_is_given_up_within_a_round(lines: list[str]) -> None:
    """A round may have hundreds of candidates that all run into the time limit."""
    with pytest.raises(RunError, match=r"all 32 candidates failed .32 x run error.*OOM") as e:
        run([context(100)], seconds_of=lambda i: "OOM", num_trials_per_iter=64)
    assert e.value.code == "all-failed"
    assert any("given up after 1 round: all 32 candidates failed" in line for line in lines)


def test_failures_of_other_kinds_do_not_add_up() -> None:
    """Half of them fail to build, half to run: then it may be the candidates."""
    ctx = context(64)
    scheduler, _, _ = run(
        [ctx],
        fail=lambda i: "no such instruction" if i % 2 and i < 50 else None,
        seconds_of=lambda i: "OOM" if i < 50 else 1e-3,
        num_trials_per_iter=64,
    )
    assert scheduler.tasks[0].trials == 64
    assert scheduler.tasks[0].ended == ""


def test_what_worked_before_is_not_given_up() -> None:
    ctx = context(64)
    scheduler, _, _ = run([ctx], seconds_of=lambda i: "OOM" if i else 1e-3, num_trials_per_iter=64)
    assert scheduler.tasks[0].trials == 64


def test_a_failures_file_that_cannot_be_written_loses_no_record(tmp_path: Path) -> None:
    """Named for a bug: the round was not recorded at all."""
    db = MemoryDatabase()
    with pytest.raises(RecordError, match="cannot record in"):
        run(
            [context(8)], seconds_of=lambda i: "OOM" if i == 3 else 1e-3,
            callbacks=[AddToDatabase()], database=db, failures_path=tmp_path / "no" / "such",
        )  # fmt: skip
    assert len(db) == 8


def test_a_failure_has_what_it_takes_to_repeat_it(tmp_path: Path) -> None:
    path = tmp_path / "failures.jsonl"
    ctx = context(9)
    run([ctx], fail=lambda i: "no" if i % 3 == 0 else None, failures_path=path)
    lines = [json.loads(x) for x in path.read_text().splitlines()]
    assert ["script" in x for x in lines] == [True, False, False]  # once is enough
    assert lines[0]["script"] == ctx.mod.script()
    assert all(x["steps"] and x["target"] == ctx.target.export() for x in lines)
    assert {x["device"] for x in lines} == {ctx.target.device_key}
    assert {x["runner"] for x in lines} == {"FakeRunner"}


def test_an_earlier_result_is_enough() -> None:
    db = MemoryDatabase()
    ctx = context(4)
    db.commit_tuning_record(record_of(db.commit_workload(ctx.mod), [1.0]))
    run([ctx], seconds_of=lambda i: "OOM", database=db)  # raises nothing


class Lost(FakeBuilder):
    """Now and then has no worker."""

    def __init__(self, lost: Callable[[int], bool]) -> None:
        super().__init__()
        self.lost = lost
        self.calls = 0

    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        self.calls += 1
        failure = Failure("start", "lost", "no worker")
        return [
            BuilderResult(None, str(failure), failure) if self.lost(self.calls) else r
            for r in super().build(build_inputs)
        ]


def tune_with(builder: FakeBuilder, ctx: TuneContext, trials: int = 6) -> TaskScheduler:
    scheduler = RoundRobin()
    scheduler.tune([ctx], [1], trials, trials, 3, builder, FakeRunner(lambda i: 1e-3), [], None,
                   None, verify=False)  # fmt: skip
    return scheduler


def test_a_lost_worker_costs_nothing() -> None:
    scheduler = tune_with(Lost(lambda call: call == 1), context(9))
    assert scheduler.tasks[0].trials == 6
    assert not scheduler.tasks[0].failures
    ctx = context(9)
    scheduler = tune_with(Lost(lambda call: call <= 2), ctx)  # the second attempt fails as well
    assert scheduler.tasks[0].trials == 6
    assert [len(r) for r in strategy(ctx).notified] == [0, 3, 3]


def test_without_any_worker_tuning_ends() -> None:
    ctx = context(99)
    with pytest.raises(RunError, match="nothing can be measured: no worker"):
        tune_with(Lost(lambda call: True), ctx)
    assert not strategy(ctx).open


@pytest.mark.parametrize("broken", ["builder", "runner"])
def test_a_wrong_number_of_results_is_refused(broken: str) -> None:
    class Short(FakeBuilder):
        def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
            return super().build(build_inputs)[: -1 if broken == "builder" else None]

    class ShortRunner(FakeRunner):
        def run(self, runner_inputs: Any) -> Any:
            return super().run(runner_inputs)[: -1 if broken == "runner" else None]

    with pytest.raises(UserError, match=f"the {broken} gave 2 .* for 3"):
        RoundRobin().tune([context(3)], [1], 3, 3, 3, Short(), ShortRunner(lambda i: 1.0), [], None,
                          None, verify=False)  # fmt: skip


# ----------------------------------------------------------------------------- interruptions
def test_ctrl_c_keeps_what_was_measured() -> None:
    db = MemoryDatabase()
    ctx = context(20)

    def clock(i: int) -> float:
        if i == 11:
            raise KeyboardInterrupt
        return 1e-3 / (1 + i)

    scheduler, _, runner = run([ctx], seconds_of=clock, callbacks=[AddToDatabase()], database=db)
    assert scheduler.interrupted
    assert len(db) == scheduler.tasks[0].trials == 11
    assert [len(r) for r in strategy(ctx).notified] == [8, 3]
    assert not strategy(ctx).open
    assert runner.measured == 12
    best = db.query_tuning_record(ctx.mod, TARGET)
    assert best is not None
    assert best.seconds == pytest.approx(1e-3 / 11)


def test_ctrl_c_while_building() -> None:
    ctx = context(20)

    def fail(i: int) -> str | None:
        if i == 9:
            raise KeyboardInterrupt
        return None

    scheduler, _, _ = run([ctx], fail=fail)
    assert scheduler.interrupted
    assert scheduler.tasks[0].trials == 8
    assert not strategy(ctx).open


def test_errors_of_callbacks_end_tuning() -> None:
    @derived_object
    class Broken(PyMeasureCallback):
        def apply(self, *args: Any) -> None:
            raise RuntimeError("my mistake")

    ctx = context(3)
    with pytest.raises(RuntimeError, match="my mistake"):
        run([ctx], callbacks=[Broken()])
    assert not strategy(ctx).open


def test_a_record_that_cannot_be_written_does_not_lose_the_rest() -> None:
    class Full(MemoryDatabase):
        def commit_tuning_record(self, record: Any) -> None:
            super().commit_tuning_record(record)
            if len(self) == 3:
                raise RecordError("cannot record in x: No space left on device")

    db = Full()
    with pytest.raises(RecordError, match="No space left"):
        run([context(8)], callbacks=[AddToDatabase()], database=db)
    assert len(db) == 8


# ----------------------------------------------------------------------------- callbacks, progress
def test_default_callbacks() -> None:
    kinds = [type(c) for c in MeasureCallback.create("default")]
    assert kinds == [AddToDatabase, RemoveBuildArtifact, UpdateCostModel]
    with pytest.raises(ValueError, match="'other'"):
        MeasureCallback.create("other")


def test_artifacts_are_removed(tmp_path: Path) -> None:
    class Files(FakeBuilder):
        def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
            out = []
            for r in super().build(build_inputs):
                path = tmp_path / str(r.artifact_path).rsplit("/", 1)[1]
                path.write_text("")
                out.append(BuilderResult(str(path)))
            return out

    def clock(i: int) -> float:
        if i == 4:
            raise KeyboardInterrupt
        return 1e-3

    RoundRobin().tune([context(8)], [1], 8, 8, 8, Files(), FakeRunner(clock),
                      [RemoveBuildArtifact()], None, None, verify=False)  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_the_cost_model_learns_what_was_built() -> None:
    class Model:
        def __init__(self) -> None:
            self.seen: list[tuple[int, list[Any]]] = []

        def update(self, ctx: Any, candidates: list[Any], results: list[Any]) -> None:
            self.seen.append((len(candidates), [r.run_secs for r in results]))

    model: Any = Model()
    builder = FakeBuilder(lambda i: "x" if i == 0 else None)
    runner = FakeRunner(lambda i: "y" if i == 1 else 1.0)
    RoundRobin().tune(
        [context(6, empty_rounds=1)], [1], 64, 64, 6, builder, runner, [UpdateCostModel()], None,
        model, verify=False,
    )  # fmt: skip
    assert [n for n, _ in model.seen] == [5]
    assert [s is None for s in model.seen[0][1]] == [True, False, False, False, False]


def test_progress() -> None:
    seen: list[Progress] = []
    run(
        [context(6)],
        seconds_of=lambda i: "bad" if i == 2 else 1e-3,
        num_trials_per_iter=3,
        max_trials_global=5,
        on_progress=seen.append,
    )
    assert [p.trials for p in seen if p.phase == "measure"] == [0, 1, 2, 3, 3, 4, 5]
    assert seen[-1].phase == "done"
    assert seen[-1].max_trials == 5
    assert seen[-1].failures == {"run error": 1}
    assert seen[-1].best_seconds == pytest.approx(1e-3)
    assert seen[-1].gflops == pytest.approx(2 * 64**3 / 1e-3 / 1e9)


def test_profiler() -> None:
    with Profiler.timeit("nobody listens"):
        pass
    with pytest.raises(ValueError, match="nothing"):
        Profiler().table()
    with Profiler() as profiler:
        assert Profiler.current() is profiler
        with pytest.raises(ValueError, match="still active"):
            profiler.table()
        run([context(3)])
        for _ in range(2):
            with Profiler.timeit("nap"):
                time.sleep(0.01)
    assert Profiler.current() is None
    found = profiler.get()
    assert found["Total"] >= found["nap"] >= 0.02
    assert "SendToBuilder" in found
    lines = profiler.table().splitlines()
    assert [c.strip() for c in lines[0].split("|")] == ["ID", "Name", "Time (min)", "Percentage"]
    cells = [[c.strip() for c in line.split("|")] for line in lines[2:]]
    assert cells[0][:2] == ["", "Total"]
    assert cells[1][:2] == ["1", "nap"]
    shares = [float(c[3]) for c in cells]
    assert shares == sorted(shares, reverse=True)
