"""What happens when a user's parts, or arguments, are not what they should be? Nothing measured is
lost, nothing hangs, and the message says what was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ms_fakes import TARGET, FakeBuilder, FakeRunner, matmul, record_of
from search_spaces import two_tiles

from gputune import meta_schedule as ms
from gputune.errors import RecordError, RunError, UserError
from gputune.meta_schedule.runner import RunnerInput, RunnerResult
from gputune.schedule import Schedule, Trace

BARE: dict[str, Any] = {"postprocs": [], "mutator_probs": {}}
STRATEGIES = ["evolutionary", "replay-trace", "replay-func", "exhaustive"]


def tune(tmp: Path, most: int = 4, **options: Any) -> ms.TuneResult:
    options = {
        "builder": FakeBuilder(), "runner": FakeRunner(lambda i: 1e-3), "database": "memory",
        "cost_model": "random", "space": ms.ScheduleFn(two_tiles, **BARE), "seed": 5,
        "verify": False, **options,
    }  # fmt: skip
    return ms.tune_tir(matmul(32), TARGET, tmp, most, **options)


def context(n: int = 32) -> ms.TuneContext:
    return ms.TuneContext(
        matmul(n), target=TARGET, space_generator=ms.ScheduleFn(two_tiles, **BARE),
        search_strategy="replay-trace", task_name=f"matmul{n}", rand_state=1,
    )  # fmt: skip


def tune_tasks(tmp: Path, tasks: Any, weights: Any = (1.0,)) -> ms.TuneResult:
    return ms.tune_tasks(
        tasks=tasks, task_weights=weights, work_dir=tmp, max_trials_global=4,
        builder=FakeBuilder(), runner=FakeRunner(lambda i: 1e-3), database="memory",
        cost_model="random", verify=False, seed=1,
    )  # fmt: skip


# ----------------------------------------------------------------------------- nothing is lost
class Breaks(FakeRunner):
    """A runner whose fourth result cannot be had."""

    def _result(self, x: RunnerInput) -> RunnerResult:
        if self.measured == 3:
            raise OSError("the device is gone")
        return super()._result(x)


def test_what_was_measured_before_a_runner_broke_is_recorded(tmp_path: Path) -> None:
    """Named for a bug: an error out of one result lost all that the round had measured."""
    with pytest.raises(OSError, match="the device is gone"):
        tune(tmp_path, 8, database="json", runner=Breaks(lambda i: 1e-3))
    assert len(ms.JSONDatabase(work_dir=tmp_path)) == 3


def test_what_was_measured_before_a_display_broke_is_recorded(tmp_path: Path) -> None:
    """Named for a bug: so did an error out of `on_progress`."""

    def show(progress: ms.Progress) -> None:
        if progress.phase == "measure" and progress.trials == 2:
            raise RuntimeError("no terminal")

    with pytest.raises(RuntimeError, match="no terminal"):
        tune(tmp_path, 8, database="json", on_progress=show)
    assert len(ms.JSONDatabase(work_dir=tmp_path)) == 2


@pytest.mark.parametrize("database", ["json", "memory"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, 0.0, "soon"])
def test_times_that_cannot_be_are_failures(bad: Any, database: str, tmp_path: Path) -> None:
    """Named for a bug: nan and infinity ended tuning with a ValueError of the JSON writer, 0 with a
    division by zero, and -1 s won."""

    class Odd(FakeRunner):
        def _result(self, x: RunnerInput) -> RunnerResult:
            self.measured += 1
            return RunnerResult([1e-3 if self.measured == 2 else bad], None)

    result = tune(tmp_path, 5, runner=Odd(lambda i: 1.0), database=database, cost_model="xgb")
    records = result.get_all_tuning_records()
    assert len(records) == 5
    assert [r.run_secs for r in records if r.is_valid] == [[1e-3]]
    failed = next(r for r in records if not r.is_valid)
    assert failed.error is not None
    assert "the runner gave" in failed.error["message"]


def test_only_times_that_cannot_be_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the runner gave the time nan"):
        tune(tmp_path, runner=FakeRunner(lambda i: float("nan")))


def test_times_may_be_an_array() -> None:
    """Named for a bug: an array of times had no truth value."""
    result = RunnerResult(np.array([1.0, 3.0, 2.0]), None)
    assert result.problem is None
    assert result.seconds == 2.0
    with pytest.raises(UserError, match=r"run_secs is a list of seconds, found 0\.5"):
        RunnerResult(0.5, None)  # type: ignore[arg-type]  # refused


@pytest.mark.parametrize("database", ["json", "memory"])
def test_a_workload_made_by_hand_is_the_database_s(database: str, tmp_path: Path) -> None:
    """Named for a bug: a memory database never found records whose Workload was not its own."""
    mod = matmul()
    options = {"work_dir": tmp_path} if database == "json" else {}
    db = ms.Database.create(database, **options)
    assert not db.get_top_k(ms.Workload(mod), 1)
    assert not db.has_workload(mod)  # asking does not add
    db.commit_tuning_record(record_of(ms.Workload(mod), [2.0]))
    db.commit_tuning_record(record_of(ms.Workload(mod), [1.0], factor=8))
    assert db.has_workload(mod)
    assert [r.seconds for r in db.get_top_k(ms.Workload(mod), 2)] == [1.0, 2.0]
    assert db.query_tuning_record(mod, TARGET) is not None


@pytest.mark.parametrize("database", ["json", "memory"])
def test_what_is_no_record_is_refused(database: str, tmp_path: Path) -> None:
    """Named for a bug: a memory database kept anything, and failed ever after."""
    options = {"work_dir": tmp_path} if database == "json" else {}
    db = ms.Database.create(database, **options)
    with pytest.raises(UserError, match="3 is no TuningRecord"):
        db.commit_tuning_record(3)  # type: ignore[arg-type]  # refused
    assert db.get_all_tuning_records() == []
    for k in (-1, 1.5, None, "1"):
        with pytest.raises(ValueError, match="top_k is a count from 0"):
            db.get_top_k(ms.Workload(matmul()), k)  # type: ignore[arg-type]  # refused


@pytest.mark.parametrize("times", [[float("nan")], [float("inf")], [-1.0], ["1"], 1.0])
def test_a_record_of_no_seconds_is_refused(times: Any) -> None:
    with pytest.raises(RecordError, match="not a list of seconds"):
        record_of(ms.Workload(matmul()), times)


# ----------------------------------------------------------------------------- nothing hangs
class Waits(ms.PySearchStrategy):
    """Never has anything to measure, and never says so."""

    def initialize_with_tune_context(self, context: Any) -> None: ...

    def pre_tuning(self, *args: Any, **kwargs: Any) -> None: ...

    def post_tuning(self) -> None: ...

    def notify_runner_results(self, candidates: Any, results: Any) -> None: ...

    def generate_measure_candidates(self) -> Any:
        return []


def test_a_strategy_that_never_ends_is_ended(tmp_path: Path) -> None:
    """Named for a bug: it was asked for ever."""
    result = tune(tmp_path, strategy=Waits())
    assert len(result) == 0
    assert "ended early: its strategy gave nothing to measure 100 times" in str(result.why())


# ----------------------------------------------------------------------------- why nothing came
class Refuses(ms.Postproc):
    def apply(self, sch: Schedule) -> bool:
        return False


class Raises(ms.PyPostproc):
    def apply(self, sch: Schedule) -> bool:
        raise ValueError("a bug of mine")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("postproc", "told"), [(Refuses, "postproc|Refuses"), (Raises, "of mine")])
def test_a_user_hears_why_nothing_was_measured(
    postproc: Any, told: str, strategy: str, tmp_path: Path
) -> None:
    """Named for a bug: the replay strategies said "nothing was measured" and no more, and let an
    exception of a postproc through that evolution counts."""
    space = ms.ScheduleFn(two_tiles, postprocs=[postproc()], mutator_probs={})
    result = tune(tmp_path, space=space, strategy=strategy)
    assert len(result) == 0
    (task,) = result.why().tasks
    assert task.counter("refused").total() >= 25
    assert task.total("proposed") == 0
    with pytest.raises(UserError, match=rf"(?s)no schedule.*candidates .* refused, .*({told})"):
        _ = result.mod


# ----------------------------------------------------------------------------- schedulers
class TenArguments(ms.PyTaskScheduler):
    """`tune` as MetaSchedule has it; hands on to gputune's if asked to."""

    def __init__(self, hand_on: bool) -> None:  # and no super().__init__
        self.hand_on = hand_on
        self.seen = 0

    def tune(  # type: ignore[override]  # MetaSchedule's signature
        self,
        tasks: Any,
        task_weights: Any,
        max_trials_global: Any,
        max_trials_per_task: Any,
        num_trials_per_iter: Any,
        builder: Any,
        runner: Any,
        measure_callbacks: Any,
        database: Any,
        cost_model: Any,
    ) -> None:
        self.seen = len(tasks)
        if self.hand_on:
            super().tune(
                tasks, task_weights, max_trials_global, max_trials_per_task, num_trials_per_iter,
                builder, runner, measure_callbacks, database, cost_model,
            )  # fmt: skip

    def next_task_id(self) -> int:
        return next((k for k, t in enumerate(self.tasks) if not t.is_terminated), -1)


@pytest.mark.parametrize("hand_on", [False, True])
def test_a_scheduler_may_have_a_tune_of_its_own(hand_on: bool, tmp_path: Path) -> None:
    """Named for a bug: a subclass's `tune` with MetaSchedule's ten arguments was a TypeError, and
    one that did not call `__init__` of its base an AttributeError."""
    scheduler, phases = TenArguments(hand_on), []
    result = tune(tmp_path, task_scheduler=scheduler, on_progress=lambda p: phases.append(p.phase))
    assert scheduler.seen == 1
    assert len(result) == (4 if hand_on else 0)
    # the options reach gputune's `tune` although the subclass does not know them
    assert bool(phases) == (tmp_path / "rounds.jsonl").exists() == hand_on
    assert scheduler.options == {}


@pytest.mark.parametrize(("given", "told"), [
    (7, "gave 7, and there are 1 tasks"), (None, "gave None"), (True, "gave True"),
    (0, "gave 0, a task that is done"),
])  # fmt: skip
def test_a_scheduler_names_a_task(given: Any, told: str, tmp_path: Path) -> None:
    class Names(ms.TaskScheduler):
        def next_task_id(self) -> int:
            return given  # type: ignore[no-any-return]  # what is to be refused

    with pytest.raises(UserError, match=f"next_task_id {told}"):
        tune(tmp_path, 100, task_scheduler=Names())


# ----------------------------------------------------------------------------- parts of a user's
def says(given: Any) -> ms.CostModel:
    class Says(ms.PyCostModel):
        def update(self, context: Any, candidates: Any, results: Any) -> None: ...

        def predict(self, context: Any, candidates: Any) -> Any:
            return given(len(candidates))

    return Says()


@pytest.mark.parametrize("given", [
    lambda n: None, lambda n: np.zeros(n - 1), lambda n: np.zeros((n, 1)), lambda n: ["x"] * n,
])  # fmt: skip
def test_a_model_gives_a_number_for_each(given: Callable[[int], Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)Says gave .* as the scores of 25 candidates"):
        tune(tmp_path, cost_model=says(given))


def gives(what: str, given: Any) -> dict[str, Any]:
    """Options of `tune` with one part that gives something else."""

    class Build(ms.Builder):
        def build(self, build_inputs: Any) -> Any:
            return given

    class Run(ms.Runner):
        def run(self, runner_inputs: Any) -> Any:
            return given

    class Answer(FakeRunner):
        def _result(self, x: RunnerInput) -> Any:
            return given

    class Space(ms.SpaceGenerator):
        def __init__(self) -> None: ...  # no super().__init__

        def generate_design_space(self, mod: Any) -> Any:
            return given

    class Strategy(Waits):
        def generate_measure_candidates(self) -> Any:
            return given

    class Mutate(ms.Mutator):
        def apply(self, trace: Trace) -> Any:
            return given

    class Accepts(ms.Postproc):
        def apply(self, sch: Schedule) -> bool:
            return True

    match what:
        case "builder":
            return {"builder": Build()}
        case "runner":
            return {"runner": Run()}
        case "future":
            return {"runner": Answer(lambda i: 1.0)}
        case "space":
            return {"space": Space()}
        case "strategy":
            return {"strategy": Strategy()}
        case _:
            mutators = {Mutate(): 1.0}
            space = ms.ScheduleFn(two_tiles, postprocs=[Accepts()], mutator_probs=mutators)
            return {"space": space, "most": 20, "num_trials_per_iter": 4}


@pytest.mark.parametrize(("what", "given", "told"), [
    ("builder", None, "the builder gave None for 4 programs"),
    ("builder", [1, 2, 3, 4], r"the builder gave \[1, 2, 3, 4\]"),
    ("runner", None, "the runner gave None for 4 kernels"),
    ("future", None, "the runner's future gave None"),
    ("space", None, "generate_design_space gave None"),
    ("strategy", 3, "generate_measure_candidates gave 3"),
    ("strategy", [3], r"generate_measure_candidates gave \[3\]"),
    ("mutator", 3, "the mutator Mutate returned 3"),
])  # fmt: skip
def test_parts_that_give_something_else(what: str, given: Any, told: str, tmp_path: Path) -> None:
    """Named for a bug: TypeErrors and AttributeErrors from inside gputune."""
    with pytest.raises(UserError, match=told):
        tune(tmp_path, **gives(what, given))


def test_a_space_need_not_call_the_init_of_its_base(tmp_path: Path) -> None:
    class Space(ms.PySpaceGenerator):
        def __init__(self) -> None: ...

        def generate_design_space(self, mod: Any) -> list[Schedule]:
            return [Schedule(mod)]

    assert len(tune(tmp_path, space=Space())) == 1
    assert isinstance(Space().clone(), Space)


# ----------------------------------------------------------------------------- arguments
@pytest.mark.parametrize(("option", "given", "told"), [
    ("cost_model", 3, "cost_model is a CostModel or its kind, found 3"),
    ("cost_model", ms.RandomModel, "found <class"),
    ("measure_callbacks", None, "a measure callback is an object of MeasureCallback"),
    ("measure_callbacks", [ms.AddToDatabase], "found the class AddToDatabase"),
    ("space", 3, "a design space is an object of SpaceGenerator, its kind, or a function, found 3"),
    ("space", ms.PostOrderApply, "found the class PostOrderApply"),
    ("strategy", ms.ReplayTrace, "found the class ReplayTrace"),
    ("special_space", 3, "special_space is a mapping"),
    ("special_space", {"main": 3}, "a design space is"),
    ("database", "union", "cannot be written to"),
    ("database", lambda sch: True, "cannot be written to"),
    ("seconds", "1", "seconds is a positive number"),
    ("config", 3, "config is a TuneConfig"),
    ("task_name", 3, "task_name is a text"),
    ("on_progress", 3, "on_progress is a function"),
])  # fmt: skip
def test_arguments_of_another_kind(option: str, given: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        tune(tmp_path, **{option: given})


def test_tasks_and_weights(tmp_path: Path) -> None:
    one = context()
    for tasks, told in (
        (one, "tasks is a list of TuneContext"),
        ([matmul()], "tasks is a list of TuneContext"),
        ([], "the list of tasks is empty"),
        ([one, one], "in the list of tasks twice"),
    ):
        with pytest.raises(ValueError, match=told):
            tune_tasks(tmp_path, tasks, [1.0, 1.0])
    for weight in (-1.0, float("nan"), "1", True):
        with pytest.raises(UserError, match="weight is a number from 0"):
            tune_tasks(tmp_path, [one], [weight])
    assert len(tune_tasks(tmp_path, (context(n) for n in (16, 32)), np.array([1.0, 2.0]))) == 4


def test_lists_of_a_space_hold_its_parts() -> None:
    for options, told in (
        ({"sch_rules": [3]}, "each of sch_rules is an object of ScheduleRule, found 3"),
        ({"postprocs": Refuses()}, "postprocs is a list of Postproc"),
        ({"postprocs": [Refuses]}, "found the class Refuses"),
        ({"mutator_probs": [3]}, "mutator_probs is a mapping"),
        ({"mutator_probs": {3: 1.0}}, "each of mutator_probs is an object of Mutator"),
    ):
        with pytest.raises(UserError, match=told):
            ms.PostOrderApply(**options)
    (mutator,) = list(ms.Mutator.create("cuda"))[:1]
    with pytest.raises(UserError, match=r"MutateTileSize is chosen -1\.0 times"):
        ms.PostOrderApply(mutator_probs={mutator: -1.0})


KINDS = [
    ms.Builder, ms.Runner, ms.Database, ms.CostModel, ms.FeatureExtractor, ms.MeasureCallback,
    ms.Mutator, ms.Postproc, ms.ScheduleRule, ms.SearchStrategy, ms.SpaceGenerator,
    ms.TaskScheduler,
]  # fmt: skip


@pytest.mark.parametrize("part", KINDS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("kind", ["nothing of the kind", None, 3])
def test_an_unknown_kind_is_a_value_error_and_gputune_s(kind: Any, part: Any) -> None:
    """Named for a bug: of half of the parts it was no ValueError, of the others no UserError."""
    with pytest.raises(UserError) as caught:
        part.create(kind)
    assert isinstance(caught.value, ValueError)
    assert repr(kind) in str(caught.value)


def test_mutators_say_which_kinds_they_have() -> None:
    """Named for a bug: the hint left out hexagon and cuda-tensorcore."""
    with pytest.raises(UserError, match=r"hexagon.*cuda-tensorcore"):
        ms.Mutator.create("c")


def test_a_profiler_is_entered_once() -> None:
    with ms.Profiler() as profiler, pytest.raises(ValueError, match="active already"), profiler:
        pass
