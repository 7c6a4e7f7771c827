"""Are budgets exact, answers ready at any moment, and endings early only where asked?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ms_fakes import TARGET, Clock, FakeBuilder, FakeRunner, ListStrategy, NoSpace, matmul
from test_task_scheduler import context, run, schedules

import gputune as gt
from gputune import meta_schedule as ms
from gputune.errors import UserError
from gputune.ir.nodes import IRModule
from gputune.meta_schedule.early_stop import Outlook, StopRule
from gputune.meta_schedule.measure_candidate import MeasureCandidate
from gputune.meta_schedule.predicted import predict
from gputune.meta_schedule.runner import RunnerResult
from gputune.meta_schedule.verify import Verdict
from gputune.schedule import Schedule


# ----------------------------------------------------------------------------- budgets
@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    total=st.integers(0, 30),
    per_task=st.integers(0, 12),
    per_iter=st.integers(1, 9),
    gradient=st.booleans(),
)
def test_trials_never_exceed_any_cap(
    sizes: list[int], total: int, per_task: int, per_iter: int, gradient: bool
) -> None:
    tasks = [context(n, f"t{k}") for k, n in enumerate(sizes)]
    scheduler, builder, runner = run(
        tasks,
        scheduler=ms.GradientBased(seed=1) if gradient else ms.RoundRobin(),
        max_trials_global=total,
        max_trials_per_task=per_task,
        num_trials_per_iter=per_iter,
    )
    spent = [t.trials for t in scheduler.tasks]
    possible = sum(min(n, per_task) for n in sizes)
    assert sum(spent) == min(total, possible)  # all of it is used, and no more
    assert all(n <= min(per_task, size) for n, size in zip(spent, sizes))
    built = builder.count - (len(tasks) if min(total, per_task) == 0 else 0)
    assert runner.measured == sum(spent)
    assert built <= max(sum(spent), 0) or min(total, per_task) == 0
    assert all(size <= per_iter for size in builder.sizes)


def test_seconds_are_kept_within_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def slow(i: int) -> float:
        clock.sleep(0.02)
        return 1e-3

    scheduler, _, _ = run([context(400)], seconds_of=slow, seconds=0.31, num_trials_per_iter=64)
    assert clock.now == pytest.approx(1000.32)
    assert scheduler.tasks[0].trials == 16


def test_tasks_share_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten tasks, time for a fraction of their trials: each has its turn all the same."""
    clock = Clock(monkeypatch)

    def slow(i: int) -> float:
        clock.sleep(0.002)
        return 1e-3 / (1 + i % 5)

    tasks = [context(200, f"t{k}") for k in range(10)]
    scheduler, _, _ = run(
        tasks, scheduler=ms.GradientBased(seed=1), seconds_of=slow, seconds=1.2,
        num_trials_per_iter=64,
    )  # fmt: skip
    assert all(t.trials >= 4 for t in scheduler.tasks)
    assert all(t.best_latency_ms is not None for t in scheduler.tasks)


def test_where_seconds_count_the_gradient_is_a_second_s() -> None:
    def task(spent: float) -> Any:
        found = ms.TaskRecord(context(1))
        found.best_history_ms, found.spent_s = [4.0, 4.0], spent
        return found

    scheduler = ms.GradientBased(seed=1)
    cheap, dear = task(1.0), task(10.0)
    assert scheduler._gain(cheap) == scheduler._gain(dear)
    scheduler._budget.seconds = 60.0
    assert scheduler._gain(cheap) == pytest.approx(10 * scheduler._gain(dear))


def test_a_task_that_fails_at_first_is_not_starved() -> None:
    """Its first rounds fail whole; its next turn comes while the others still have much to do."""
    order: list[str] = []

    class Watching(ms.MeasureCallback):
        def apply(self, scheduler: Any, task_id: int, *rest: Any) -> None:
            order.append(scheduler.tasks[task_id].task_name)

    tasks = [context(40, "bad"), context(40, "a"), context(40, "b")]
    bad = iter([True] * 8 + [False] * 1000)
    names = {id(c.mod): c.task_name for c in tasks}
    assert len(names) == 3
    turn: list[str] = []

    class Builds(FakeBuilder):
        def build(self, build_inputs: Any) -> Any:
            turn[:] = [scheduler.tasks[at].task_name for at in [current()]]
            self.fail = lambda i: "no" if turn == ["bad"] and next(bad) else None
            return super().build(build_inputs)

    scheduler = ms.GradientBased(seed=1)

    def current() -> int:
        return next(k for k, t in enumerate(scheduler.tasks) if t.measure_candidates is not None)

    scheduler.tune(
        tasks, [1.0] * 3, 1000, 1000, 4, Builds(), FakeRunner(lambda i: 1e-3), [Watching()],
        None, None, verify=False,
    )  # fmt: skip
    assert order[:3] == ["bad", "a", "b"]
    assert "bad" in order[3:6]  # TVM: not before the others have ended
    assert scheduler.tasks[0].best_latency_ms is not None
    assert [t.trials for t in scheduler.tasks] == [40, 40, 40]


# ----------------------------------------------------------------------------- best so far
def test_the_best_so_far_is_there_at_any_moment() -> None:
    seen: list[tuple[float, Schedule]] = []

    def look(now: ms.Progress) -> None:
        if now.best_schedule is not None:
            assert now.best_seconds is not None
            seen.append((now.best_seconds, now.best_schedule))

    times = [5e-3, 3e-3, 4e-3, 1e-3, 2e-3]
    scheduler, _, _ = run([context(5)], seconds_of=lambda i: times[i], on_progress=look)
    assert sorted({s for s, _ in seen}, reverse=True) == [5e-3, 3e-3, 1e-3]
    best = scheduler.tasks[0].best_candidate
    assert best is not None
    assert seen[-1][1] is best.sch


def test_a_wrong_result_never_leads() -> None:
    class Refuses:
        eager = True

        def check(self, artifact: Any) -> Verdict:
            raise AssertionError

        def check_program(self, scheduled: IRModule) -> Verdict:
            return Verdict("wrong", ms.Failure("check", "wrong_result", "no"))

    ctx = context(3)
    ctx.verifier = Refuses()
    with pytest.raises(gt.RunError):
        scheduler, _, _ = run([ctx], verify=True)
    ctx = context(3)
    ctx.verifier = Refuses()
    scheduler = ms.RoundRobin()
    with pytest.raises(gt.RunError):
        run([ctx], verify=True, scheduler=scheduler)
    assert scheduler.tasks[0].best_candidate is None
    assert scheduler.rounds.lines[0]["wrong"] == 3


# ----------------------------------------------------------------------------- early stop
class Scored(ListStrategy):
    """Gives its candidates scores."""

    def __init__(self, found: list[Schedule], score: Any) -> None:
        super().__init__(found)
        self.score = score
        self.count = 0

    def generate_measure_candidates(self) -> Any:
        found = super().generate_measure_candidates()
        for c in found or ():
            c.score = self.score(self.count)
            self.count += 1
        return found


def scored(n: int, score: Any) -> ms.TuneContext:
    return ms.TuneContext(
        matmul(64), target=TARGET, space_generator=NoSpace(),
        search_strategy=Scored(schedules(n), score), task_name="t", rand_state=7,
    )  # fmt: skip


def seconds(i: int) -> float:
    """Ever slower after the first four."""
    return 1e-3 * (1 + 0.1 * i)


def test_a_task_ends_when_the_model_sees_nothing_left() -> None:
    def right(i: int) -> float:
        return -math.log2(seconds(i))

    scheduler, _, runner = run(
        [scored(80, right)], seconds_of=seconds, num_trials_per_iter=4, stop=StopRule(0.05)
    )
    # two rounds of four make eight points; the third and the fourth batch vote
    assert runner.measured == 12
    assert "nothing that is 5% faster" in scheduler.tasks[0].ended
    assert scheduler.tasks[0].is_terminated
    run_all, _, _ = run([scored(80, right)], seconds_of=seconds, num_trials_per_iter=4)
    assert run_all.tasks[0].trials == 80
    assert run_all.tasks[0].ended == ""


def test_a_model_that_knows_nothing_ends_nothing() -> None:
    rng = np.random.default_rng(1)
    noise = rng.random(80)
    for score in (lambda i: float(noise[i]), lambda i: None, lambda i: 1.0, lambda i: float(i)):
        _, _, runner = run(
            [scored(80, score)], seconds_of=seconds, num_trials_per_iter=4, stop=StopRule(0.05)
        )
        assert runner.measured == 80


def test_a_model_that_expects_more_goes_on() -> None:
    """Each batch is better than the last, and predicted to be."""
    _, _, runner = run(
        [scored(40, lambda i: float(i))],
        seconds_of=lambda i: 1e-3 * 0.9**i,
        num_trials_per_iter=4,
        stop=StopRule(0.05),
    )
    assert runner.measured == 40


def test_votes_are_to_be_running() -> None:
    look = Outlook(StopRule(0.05))

    def batch(*scores: float) -> list[MeasureCandidate]:
        out = [MeasureCandidate(Schedule(matmul(16)), []) for _ in scores]
        for c, s in zip(out, scores):
            c.score = s
        return out

    scores = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0]
    look.learn(batch(*scores), [RunnerResult([2.0**-s]) for s in scores], 2.0**-9)
    assert look.hopeless(batch(8.0)) == ""
    assert look.hopeless(batch(10.0)) == ""  # that would be twice as fast
    assert look.hopeless(batch(8.0)) == ""
    assert look.hopeless(batch(8.0)) != ""


def test_patience_is_counted_in_trials() -> None:
    times = [5e-3, 4e-3, 2e-3] + [3e-3] * 60
    scheduler, _, runner = run(
        [context(60)], seconds_of=lambda i: times[i], num_trials_per_iter=3,
        stop=StopRule(patience=9),
    )  # fmt: skip
    assert runner.measured == 3 + 9
    assert scheduler.tasks[0].ended == "9 trials brought nothing better"


def test_one_task_ending_leaves_the_others() -> None:
    tasks = [context(30, "a"), context(30, "b")]
    flat = {k: 1e-3 for k in range(1000)}
    scheduler, _, _ = run(
        tasks, seconds_of=flat.__getitem__, num_trials_per_iter=3, stop=StopRule(patience=6)
    )
    assert [t.trials for t in scheduler.tasks] == [9, 9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"early_stop": 1.0}, "early_stop is a fraction"),
        ({"early_stop": -0.1}, "early_stop is a fraction"),
        ({"early_stop": True}, "early_stop is a fraction"),
        ({"early_stop": "soon"}, "early_stop is a fraction"),
        ({"early_stop": math.nan}, "early_stop is a fraction"),
        ({"patience": 0}, "patience is a count"),
        ({"patience": 2.5}, "patience is a count"),
    ],
)
def test_stops_that_make_no_sense(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        ms.tune_tir(matmul(), TARGET, tmp_path, 4, **options)


def test_patience_reaches_the_front_door(tmp_path: Path) -> None:
    result = ms.tune_tir(
        matmul(32), TARGET, tmp_path, 500, num_trials_per_iter=4, seed=1, patience=1,
        cost_model="none",
    )  # fmt: skip
    assert len(result) < 100
    assert "ended early" in str(result.why())
    f = gt.tune(matmul(16), TARGET, trials=300, patience=2, early_stop=0.5, seed=1)
    assert f.summary is not None
    assert f.summary.trials < 300


# ----------------------------------------------------------------------------- without a trial
def numbers_right(lib: Any, n: int) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, n, n), dtype=np.float32)
    c = np.full((n, n), np.nan, np.float32)
    lib["main"](a, b, c)
    np.testing.assert_allclose(c, a @ b, rtol=1e-4)


def test_no_trials_give_the_analytic_best(tmp_path: Path) -> None:
    result = ms.tune_tir(matmul(64), TARGET, tmp_path, 0, seed=1)
    (found,) = result.predicted
    assert found.source == "analytic model"
    assert found.verified
    assert result.seconds is None
    assert result.record is None
    assert len(result) == 0
    assert "not measured: chosen by the analytic model" in str(found)
    assert result.schedule is found.schedule
    assert "sample_perfect_tile" in str(result.trace)
    numbers_right(gt.build(result.mod, TARGET), 64)
    # a fresh search, of the same seed, chooses the same
    again = ms.tune_tir(matmul(64), TARGET, tmp_path / "b", 0, seed=1)
    assert str(again.trace) == str(result.trace)


def test_what_was_measured_comes_before_what_is_predicted(tmp_path: Path) -> None:
    first = ms.tune_tir(matmul(32), TARGET, tmp_path, 9, seed=1)
    result = ms.tune_tir(matmul(32), TARGET, tmp_path, 0, seed=2)
    assert result.predicted == ()
    assert result.seconds == first.seconds
    # another program of the same folder: its model has learned from the first
    other = ms.tune_tir(matmul(48), TARGET, tmp_path, 0, seed=2)
    assert other.predicted[0].source == "XGBModel"
    assert other.seconds is None


def test_every_function_of_a_module_has_its_prediction(tmp_path: Path) -> None:
    (one,), (two,) = (list(matmul(n).functions.values()) for n in (16, 24))
    whole = IRModule({"one": one, "two": two})
    result = ms.tune_tir(whole, TARGET, tmp_path, 0, seed=1, cost_model="none")
    assert len(result.predicted) == 2
    assert set(result.mod.functions) == {"one", "two"}
    assert str(result.mod["one"]) != str(one)
    assert str(result.mod["two"]) != str(two)


def test_a_prediction_is_checked() -> None:
    ctx = ms.TuneContext(
        matmul(16), target=TARGET, space_generator="post-order-apply",
        search_strategy="evolutionary", rand_state=3,
    )  # fmt: skip
    ctx.pre_tuning(1, 1)

    class Refuses:
        eager = True
        asked: list[str] = []  # noqa: RUF012  # a fake

        def check(self, artifact: Any) -> Verdict:
            raise AssertionError

        def check_program(self, scheduled: IRModule) -> Verdict:
            self.asked.append(str(scheduled))
            if len(self.asked) < 3:
                return Verdict("wrong", ms.Failure("check", "wrong_result", "no"))
            return Verdict("right")

    failures: list[str] = []
    found = predict(ctx, None, FakeBuilder(), Refuses(), lambda c, f: failures.append(f.reason))
    assert found is not None
    assert failures == ["check wrong_result"] * 2
    assert found.verified
    assert str(found.schedule.mod) == Refuses.asked[2]
    assert len(set(Refuses.asked)) == 3


def test_a_strategy_without_an_opinion_gets_the_default_schedule() -> None:
    scheduler, builder, runner = run([context(5, size=32)], max_trials_global=0)
    found = scheduler.tasks[0].predicted
    assert found is not None
    assert found.source == "default schedule"
    assert not found.verified
    assert runner.measured == builder.count == 0
    assert str(found.schedule.mod) != str(matmul(32))


def test_what_cannot_be_built_is_not_chosen() -> None:
    ctx = ms.TuneContext(
        matmul(16), target=TARGET, space_generator="post-order-apply",
        search_strategy="evolutionary", rand_state=3,
    )  # fmt: skip
    scheduler, builder, _ = run([ctx], max_trials_global=0, fail=lambda i: "no" if i < 2 else None)
    found = scheduler.tasks[0].predicted
    assert found is not None
    assert builder.count == 3
    assert found.source == "analytic model"
    assert len(scheduler.rounds.failures) == 2


def test_best_candidates_do_not_count_as_measured() -> None:
    def space(sch: Schedule) -> None:
        _i, j, _k = sch.get_loops(sch.get_block("C"))
        sch.split(j, sch.sample_perfect_tile(j, n=2, max_innermost_factor=16))

    ctx = ms.TuneContext(
        matmul(32), target=TARGET, space_generator=ms.ScheduleFn(space),
        search_strategy="evolutionary", rand_state=3,
    )  # fmt: skip
    strategy = ctx.search_strategy
    assert strategy is not None
    ctx.pre_tuning(5, 5)
    best = strategy.best_candidates(5)
    assert best is not None
    scores = [c.score for c in best if c.score is not None]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert len({c.digest for c in best}) == 5
    batch = ctx.generate_measure_candidates()
    assert batch is not None
    assert {c.digest for c in batch} == {c.digest for c in best}  # all five are still there
    ctx.post_tuning()
    with pytest.raises(UserError, match="has not begun"):
        strategy.best_candidates(1)


def test_the_front_door_without_trials(tmp_path: Path) -> None:
    f = gt.tune(matmul(32), TARGET, trials=0, seed=1)
    assert f.seconds is None
    assert f.verified
    assert f.predicted is not None
    assert "not measured: chosen by the analytic model (numbers verified)" in f.report()
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 32, 32), dtype=np.float32)
    np.testing.assert_allclose(f(a, b), a @ b, rtol=1e-4)
    assert str(f.why()) == "nothing was measured"
    f = gt.tune(matmul(16), TARGET, trials=5, seed=1)
    assert f.predicted is None
    assert "measured" in str(f.why())
    untuned = gt.TunedKernel(Schedule(matmul(16)), gt.Target(TARGET), workload=matmul(16)["main"])
    assert str(untuned.why()) == "nothing was measured"


# ----------------------------------------------------------------------------- losers
def test_losers_are_told_from_the_rest_by_a_factor(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cut is a factor above 1"):
        ms.EvaluatorConfig(cut=1.0)
    ms.EvaluatorConfig(cut=math.inf)


def test_a_runner_is_told_the_best_of_the_task() -> None:
    told: list[float] = []

    class Asks(FakeRunner):
        def run(self, runner_inputs: Any) -> Any:
            self.inputs = runner_inputs
            return super().run(runner_inputs)

        def _result(self, x: Any) -> RunnerResult:
            told.append(x.best.seconds)
            return super()._result(x)

    times = [5e-3, 2e-3, 4e-3, 1e-3]
    runner = Asks(lambda i: times[i])
    ms.RoundRobin().tune(
        [context(4)], [1.0], 4, 4, 4, FakeBuilder(), runner, [], None, None, verify=False
    )
    assert told == [math.inf, 5e-3, 2e-3, 2e-3]


def test_a_loser_is_called_once_and_says_so(tmp_path: Path) -> None:
    """The unscheduled matmul against a best that no program of this size can reach."""
    from gputune.meta_schedule.builder import BuilderInput, LocalBuilder
    from gputune.meta_schedule.measure_callback import remove_artifacts
    from gputune.meta_schedule.runner import BestSoFar, RunnerInput

    mod = matmul(256)
    (built,) = LocalBuilder().build([BuilderInput(mod, gt.Target(TARGET))])
    args = ms.arg_info.ArgInfo.from_entry_func(mod)
    config = ms.EvaluatorConfig(number=2, repeat=4, min_repeat_ms=0)

    def timed(config: ms.EvaluatorConfig, best: float) -> RunnerResult:
        runner = ms.LocalRunner(evaluator_config=config)
        x = RunnerInput(str(built.artifact_path), "cpu", args, BestSoFar(best))
        found = runner.run([x])[0].result()
        assert found.problem is None, found.error_msg
        return found

    try:
        loser = timed(config, 1e-5)
        assert loser.cut
        assert loser.run_secs is not None
        assert len(loser.run_secs) == 1
        for again in (
            timed(ms.EvaluatorConfig(2, 4, 0, cut=math.inf), 1e-5),
            timed(config, 1.0),
        ):
            assert not again.cut
            assert again.run_secs is not None
            assert len(again.run_secs) == 4
    finally:
        remove_artifacts([built])


def test_the_runner_of_gpus_has_the_same_factor() -> None:
    from gputune.meta_schedule.cuda_runner import CudaRunner
    from gputune.meta_schedule.runner import _cuda_plan

    runner = CudaRunner(evaluator=_cuda_plan(ms.EvaluatorConfig(cut=2.0)))
    assert runner.cut == runner.with_arguments([]).cut == 2.0
    assert "cut" not in runner.evaluator  # which goes to the worker
    assert CudaRunner().cut == ms.EvaluatorConfig().cut
    with pytest.raises(UserError, match="cut is a factor above 1"):
        CudaRunner(evaluator={"cut": 1.0})
