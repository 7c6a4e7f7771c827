"""Are the best few measured again, in processes of their own, and believed then?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ms_fakes import TARGET, FakeBuilder, FakeRunner, ListStrategy, NoSpace, matmul, split_j

from gputune import meta_schedule as ms
from gputune.errors import RunError
from gputune.meta_schedule import finalists
from gputune.meta_schedule.failures import Failure
from gputune.meta_schedule.runner import RunnerInput, RunnerResult

FACTORS = (2, 4, 8, 16)


class Process:
    """Has a clock of its own: a function of the number of the process and of that of the build."""

    def __init__(self, owner: Runner, number: int) -> None:
        self.owner, self.number, self.open = owner, number, False

    def start(self) -> None:
        self.open = True

    def wait(self) -> None:
        assert self.open
        self.owner.ready += 1

    def measure(self, x: RunnerInput) -> RunnerResult:
        assert self.open
        assert self.owner.ready == finalists.PROCESSES, "one starts while another measures"
        found = self.owner.again(self.number, int(x.artifact_path.rsplit("/", 1)[1]))
        if isinstance(found, BaseException):
            raise found
        if isinstance(found, str):
            return RunnerResult.failed(Failure("run", "crash", found))
        return RunnerResult([found])

    def close(self) -> None:
        self.open = False
        self.owner.closed += 1


class Runner(FakeRunner):
    def __init__(
        self,
        seconds: Callable[[int], float | str],
        again: Callable[[int, int], float | str | BaseException],
    ) -> None:
        super().__init__(seconds)
        self.again, self.made, self.ready, self.closed = again, 0, 0, 0

    def fresh(self) -> Process:
        self.made += 1
        return Process(self, self.made)


def tune(folder: Path, runner: FakeRunner, trials: int = 4, **more: Any) -> ms.Database:
    mod = matmul()
    strategy = ListStrategy([split_j(mod, f) for f in FACTORS])
    db = more.pop("database") if "database" in more else ms.JSONDatabase(work_dir=folder)
    builder = more.pop("builder", FakeBuilder())
    ms.tune_tir(
        mod, TARGET, folder, trials, num_trials_per_iter=4, builder=builder, runner=runner,
        database=db, space=NoSpace(), strategy=strategy, cost_model="none", verify=False, **more,
    )  # fmt: skip
    return db


def factor(record: ms.TuningRecord) -> int:
    (split,) = [x for x in record.trace.insts if x.kind.name == "Split"]
    return int(split.inputs[-1])


LUCKY = (1.00e-3, 1.04e-3, 1.08e-3, 9e-3)
"""The first seems the best of the four; the last is too slow to win."""


def first(i: int) -> float:
    return LUCKY[i] / 1.0


def true(process: int, build: int) -> float:
    """Those built again, the best first: the first was lucky."""
    return (1.3e-3, 1.04e-3, 1.08e-3)[build - 4] * (1 + 0.01 * process)


def test_who_was_only_lucky_loses_its_place(tmp_path: Path) -> None:
    runner = Runner(first, true)
    db = tune(tmp_path, runner)
    ranked = [factor(r) for r in db.get_all_tuning_records()]
    assert ranked == [4, 8, 2, 16]
    assert runner.closed == runner.ready == finalists.PROCESSES
    best = db.get_top_k(db.commit_workload(matmul()), 1)[0]
    # on the scale of the first times
    assert best.seconds == pytest.approx(1.04e-3)


def test_what_is_fast_at_one_place_in_memory_loses_its_place(tmp_path: Path) -> None:
    """Named for a fault: a convolution took 36 us where tuning placed its arguments, 44 to 57 us
    elsewhere, and was chosen before one that always took 38."""
    placements: list[int] = []

    class Placed(Process):
        def measure(self, x: RunnerInput) -> RunnerResult:
            placements.append(x.placement)
            found = super().measure(x)
            assert found.run_secs
            slow = 1.2 if x.placement and found.run_secs[0] == 1.00e-3 else 1.0
            return RunnerResult([found.run_secs[0] * slow])

    class Places(Runner):
        def fresh(self) -> Process:
            self.made += 1
            return Placed(self, self.made)

    db = tune(tmp_path, Places(first, lambda process, build: LUCKY[build - 4]))
    assert [factor(r) for r in db.get_all_tuning_records()] == [4, 8, 2, 16]
    assert sorted(set(placements)) == list(range(2 * finalists.PROCESSES))
    assert len(placements) == 3 * 2 * finalists.PROCESSES


def test_the_file_says_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    db = tune(tmp_path, Runner(first, true))
    again = ms.JSONDatabase(work_dir=tmp_path)
    assert len(again) == len(db) == 4  # an amendment is no trial
    assert [r.run_secs for r in again.get_all_tuning_records()] == [
        r.run_secs for r in db.get_all_tuning_records()
    ]
    assert len((tmp_path / "database_tuning_record.json").read_text().splitlines()) == 4
    assert processes(tmp_path) == [finalists.PROCESSES] * 3


def processes(folder: Path) -> list[int]:
    """In how many each finalist was measured."""
    lines = (folder / "database_tuning_record.remeasured.json").read_text().splitlines()
    return [len(json.loads(line)[1][4]["processes"]) for line in lines]


def test_what_is_left_of_a_removed_history_changes_no_other(tmp_path: Path) -> None:
    tune(tmp_path, Runner(first, true))
    for name in ("database_workload.json", "database_tuning_record.json"):
        (tmp_path / name).unlink()
    assert len(ms.JSONDatabase(work_dir=tmp_path)) == 0  # a warning would fail this test
    tune(tmp_path, FakeRunner(lambda i: 2 * LUCKY[i]))
    again = ms.JSONDatabase(work_dir=tmp_path)
    assert [r.seconds for r in again.get_all_tuning_records()] == [2 * x for x in LUCKY]


def test_a_memory_database_knows_too(tmp_path: Path) -> None:
    db = tune(tmp_path, Runner(first, true), database=ms.MemoryDatabase())
    assert factor(db.get_top_k(db.commit_workload(matmul()), 1)[0]) == 4
    assert len(db.get_all_tuning_records()) == 4


def test_a_database_that_knows_no_amendments_is_given_none(tmp_path: Path) -> None:
    class Mine(ms.PyDatabase):
        def __init__(self) -> None:
            self.inner, self.commits = ms.MemoryDatabase(), 0

        def has_workload(self, mod: Any) -> bool:
            return self.inner.has_workload(mod)

        def commit_workload(self, mod: Any) -> Any:
            return self.inner.commit_workload(mod)

        def commit_tuning_record(self, record: Any) -> None:
            self.commits += 1
            self.inner.commit_tuning_record(record)

        def get_top_k(self, workload: Any, top_k: int) -> Any:
            return self.inner.get_top_k(workload, top_k)

        def get_all_tuning_records(self) -> Any:
            return self.inner.get_all_tuning_records()

        def __len__(self) -> int:
            return len(self.inner.get_all_tuning_records())

    db, runner = Mine(), Runner(first, true)
    tune(tmp_path, runner, database=db)
    assert db.commits == 4
    assert runner.ready == 0


def test_a_runner_without_other_processes_is_believed(tmp_path: Path) -> None:
    builder = FakeBuilder()
    db = tune(tmp_path, FakeRunner(first), builder=builder)
    assert factor(db.get_all_tuning_records()[0]) == 2
    assert builder.count == 4


def test_a_process_that_fails_does_not_count(tmp_path: Path) -> None:
    def again(process: int, build: int) -> float | str:
        return "it fell over" if process == 3 and build == 5 else true(process, build)

    db = tune(tmp_path, Runner(first, again))
    assert factor(db.get_all_tuning_records()[0]) == 4
    assert set(processes(tmp_path)) == {finalists.PROCESSES - 1}


def test_without_one_complete_process_nothing_changes(tmp_path: Path) -> None:
    runner = Runner(first, lambda process, build: "it fell over")
    db = tune(tmp_path, runner)
    assert [factor(r) for r in db.get_all_tuning_records()] == [2, 4, 8, 16]
    assert runner.closed == finalists.PROCESSES


def test_ctrl_c_keeps_what_is_complete_and_ends_the_processes(tmp_path: Path) -> None:
    calls: list[int] = []

    def again(process: int, build: int) -> float | BaseException:
        calls.append(process)
        return KeyboardInterrupt() if len(calls) > 8 else true(process, build)

    runner = Runner(first, again)
    db = tune(tmp_path, runner)
    assert factor(db.get_all_tuning_records()[0]) == 4
    assert runner.closed == finalists.PROCESSES


def test_a_process_that_cannot_be_started_leaves_the_result(tmp_path: Path) -> None:
    class NoProcess(Process):
        def wait(self) -> None:
            raise RunError("there is no room for another process")

    class Full(Runner):
        def fresh(self) -> Process:
            self.made += 1
            return NoProcess(self, self.made)

    runner = Full(first, true)
    db = tune(tmp_path, runner)
    assert [factor(r) for r in db.get_all_tuning_records()] == [2, 4, 8, 16]
    assert runner.closed == finalists.PROCESSES


@pytest.mark.parametrize("times", [(1e-3, 9e-3, 9e-3, 9e-3), (1.0, 1.0, 1.0, 1.0)])
def test_one_alone_and_slow_kernels_are_not_measured_again(
    tmp_path: Path, times: tuple[float, ...]
) -> None:
    runner = Runner(lambda i: times[i], lambda process, build: pytest.fail("measured again"))
    tune(tmp_path, runner)
    assert runner.ready == 0


def test_records_of_earlier_runs_are_left_alone(tmp_path: Path) -> None:
    tune(tmp_path, FakeRunner(first))
    runner = Runner(lambda i: 9e-3, lambda process, build: pytest.fail("measured again"))
    tune(tmp_path, runner)
    assert runner.ready == 0


def test_the_time_limit_holds_for_the_finalists_too(tmp_path: Path) -> None:
    """Named for a bug: a limit of three seconds was kept for the search, and then exceeded."""
    assert finalists.reserve(3) == 0  # too little to start a process
    assert finalists.reserve(10) == pytest.approx(1)
    assert finalists.reserve(1000) == pytest.approx(2.5)
    runner = Runner(first, lambda process, build: pytest.fail("measured again"))
    tune(tmp_path, runner, seconds=1)
    slow = Runner(lambda i: 0.4, lambda process, build: pytest.fail("measured again"))
    tune(tmp_path / "slow", slow, seconds=4)  # each process would take longer than is left
    assert runner.ready == slow.ready == 0


def test_the_local_runner_measures_in_new_processes(tmp_path: Path) -> None:
    mod = matmul()
    sch = split_j(mod, 4)
    runner = ms.LocalRunner()
    (built,) = ms.LocalBuilder(1).build([ms.BuilderInput(sch.mod, ms_target())])
    assert built.artifact_path is not None
    x = RunnerInput(built.artifact_path, "cpu", ms.ArgInfo.from_entry_func(mod))
    pids = {runner.worker.request("ping").data["pid"]}
    for _ in range(2):
        process = runner.fresh()
        assert process is not None
        try:
            process.start()
            process.wait()
            result = process.measure(x)
            assert result.problem is None, result
            assert len(result.run_secs or ()) > 0
            pids.add(process.worker.request("ping").data["pid"])
        finally:
            process.close()
    assert len(pids) == 3


def ms_target() -> Any:
    from gputune.target import Target

    return Target(TARGET)


def test_a_runner_with_the_users_own_clock_has_no_other_process() -> None:
    assert ms.LocalRunner(f_run_evaluator=lambda *a: [1.0]).fresh() is None
    assert ms.LocalRunner(initializer=lambda: None).fresh() is None
