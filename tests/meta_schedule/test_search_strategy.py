"""Do the strategies propose what they should: new, legal, good, and no more than asked?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from search_spaces import (
    context,
    default_context,
    drive,
    five_points,
    many_tiles,
    matmul,
    two_tiles,
)

from gputune.errors import UserError
from gputune.meta_schedule.cost_model import CostModel, RandomModel, XGBModel
from gputune.meta_schedule.database import MemoryDatabase
from gputune.meta_schedule.failures import Failure
from gputune.meta_schedule.measure_candidate import MeasureCandidate
from gputune.meta_schedule.mutator import Mutator
from gputune.meta_schedule.postproc import Postproc
from gputune.meta_schedule.record import TuningRecord
from gputune.meta_schedule.runner import RunnerResult
from gputune.meta_schedule.search_strategy import (
    EvolutionarySearch,
    ReplayFunc,
    ReplayTrace,
    SearchStrategy,
)
from gputune.meta_schedule.sketch_feature import Machine, features_of
from gputune.meta_schedule.tune_context import TuneContext
from gputune.schedule import Schedule
from gputune.schedule.trace import Trace

KINDS = ["evolutionary", "replay-trace", "replay-func"]


def digests(seen: Sequence[MeasureCandidate]) -> list[str]:
    return [c.digest for c in seen]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_have_exactly_the_size_asked_for(kind: str) -> None:
    sizes, seen = drive(context(many_tiles, kind), 20, 7)
    assert sizes == [7, 7, 6]
    assert len(set(digests(seen))) == 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_space_of_25_is_measured_once(kind: str) -> None:
    sizes, seen = drive(context(two_tiles, kind), 100, 10)
    assert [n for n in sizes if n] == [10, 10, 5]
    assert len(set(digests(seen))) == 25


def test_b2_32_five_points_then_four_empty_batches() -> None:
    sizes, _ = drive(context(five_points), 64, 64)
    assert sizes == [5, 0, 0, 0, 0]


class Never(Postproc):
    def apply(self, sch: Schedule) -> bool:
        return False


@pytest.mark.parametrize("kind", KINDS)
def test_a_postproc_that_refuses_everything_ends_the_search(kind: str) -> None:
    sizes, _ = drive(context(many_tiles, kind, postprocs=[Never()]), 20, 7)
    assert sum(sizes) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_candidates(kind: str) -> None:
    a = digests(drive(context(many_tiles, kind), 20, 7)[1])
    b = digests(drive(context(many_tiles, kind), 20, 7)[1])
    c = digests(drive(context(many_tiles, kind, seed=8), 20, 7)[1])
    assert a == b
    assert a != c


class Redraw(Mutator):
    """Forgets all decisions: they are drawn anew."""

    def apply(self, trace: Trace) -> Trace | None:
        return Trace(trace.insts, {})


class HalfOfThem(Postproc):
    """A postproc of a user, which refuses by reading a number."""

    def apply(self, sch: Schedule) -> bool:
        loop = sch.get(sch.get_loops(sch.get_block("C"))[3])
        return int(loop.extent.value) in (1, 4)


def test_users_mutators_fall_back_to_traces() -> None:
    sizes, seen = drive(context(two_tiles, mutator_probs={Redraw(): 1.0}), 100, 10)
    assert [n for n in sizes if n] == [10, 10, 5]
    assert len(set(digests(seen))) == 25
    sizes, seen = drive(context(many_tiles, n=64, mutator_probs={Redraw(): 1.0}), 24, 8)
    assert sizes == [8, 8, 8]
    assert len(set(digests(seen))) == 24


def test_users_postprocs_fall_back_to_replay() -> None:
    sizes, seen = drive(context(two_tiles, postprocs=[HalfOfThem()]), 100, 10)
    assert sum(sizes) == 10
    for c in seen:
        loop = c.sch.get(c.sch.get_loops(c.sch.get_block("C"))[3])
        assert int(loop.extent.value) in (1, 4)


def test_candidates_are_finished_schedules() -> None:
    _, seen = drive(default_context(matmul(64)), 12, 12)
    for c in seen:
        assert any(i.kind.name == "EnterPostproc" for i in c.sch.trace.insts)
        again = Schedule(matmul(64))
        c.sch.trace.apply_to_schedule(again)
        assert MeasureCandidate(again, []).digest == c.digest
        assert len(c.args_info) == 3


def test_the_limit_of_a_call() -> None:
    ctx = context(many_tiles)
    ctx.pre_tuning(20, 10, None, MemoryDatabase(), None)
    strategy = ctx.search_strategy
    assert strategy is not None
    batch = strategy.generate_measure_candidates(limit=3)
    assert batch is not None
    assert len(batch) == 3


def test_what_was_not_measured_may_come_again() -> None:
    ctx = context(five_points)
    ctx.pre_tuning(20, 10, None, MemoryDatabase(), None)
    first = ctx.generate_measure_candidates()
    assert first is not None
    lost = RunnerResult.failed(Failure("start", "worker", "none to be had"))
    ctx.notify_runner_results(first[:2], [RunnerResult([1e-3], None), lost])
    second = ctx.generate_measure_candidates()
    assert second is not None
    assert sorted(digests(second)) == sorted(set(digests(first)) - {first[0].digest})


def test_failed_candidates_are_not_tried_again() -> None:
    ctx = context(five_points)
    ctx.pre_tuning(20, 10, None, MemoryDatabase(), None)
    first = ctx.generate_measure_candidates()
    assert first is not None
    bad = RunnerResult.failed(Failure("run", "crash", "boom"))
    ctx.notify_runner_results(first, [bad] * 5)
    assert ctx.generate_measure_candidates() == []


def test_records_of_the_database_are_not_measured_again() -> None:
    db = MemoryDatabase()
    ctx = context(five_points)
    workload = db.commit_workload(ctx.mod)
    ctx.pre_tuning(20, 3, None, db, None)
    first = ctx.generate_measure_candidates()
    assert first is not None
    for k, c in enumerate(first):
        times = None if k == 0 else [1e-3]
        extras = {"program": c.digest} if k < 2 else {}
        db.commit_tuning_record(
            TuningRecord(c.sch.trace, workload, times, ctx.target, c.args_info, extras)
        )
    ctx.post_tuning()
    _, seen = drive(context(five_points), 20, 10, database=db)
    assert len(seen) == 2
    assert not set(digests(seen)) & set(digests(first))


def simulated(ctx: TuneContext, seed: int) -> Callable[[MeasureCandidate], float]:
    """A pretended machine: the analytic model, bent by a random function of the features."""
    machine = Machine.of(ctx.target)
    rng = np.random.default_rng(seed)

    def cost(c: MeasureCandidate) -> float:
        x, score = features_of(c.sch.mod, machine)
        if not weights:
            weights.append(rng.standard_normal(len(x)) * (rng.random(len(x)) < 0.1) * 0.3)
        return float(2 ** (-score + 1.5 * math.sin(float(x @ weights[0])))) * 1e-9

    weights: list[np.ndarray] = []
    return cost


def test_it_finds_better_candidates_than_chance_does() -> None:
    found = []
    for kind, model in (("evolutionary", XGBModel()), ("replay-trace", None)):
        ctx = default_context(matmul(512), strategy=kind)
        cost = simulated(ctx, 4)
        _, seen = drive(ctx, 48, 16, cost, model)
        found.append(min(cost(c) for c in seen))
    assert found[0] < 0.8 * found[1]


def test_a_first_batch_is_not_all_of_a_kind() -> None:
    ctx = default_context(matmul(512))
    ctx.pre_tuning(64, 32, None, MemoryDatabase(), XGBModel())
    batch = ctx.generate_measure_candidates()
    assert batch is not None
    assert len(batch) == 32
    texts = {tuple(i.kind.name for i in c.sch.trace.insts) for c in batch}
    assert len(texts) > 1  # several sketches
    tiles = {str(d) for c in batch for i, d in c.sch.trace.decisions.items() if isinstance(d, list)}
    assert len(tiles) > 25


class OnlySchedules(CostModel):
    """A model of a user, which knows nothing of matrices."""

    asked = 0

    def load(self, path: str) -> None: ...

    def save(self, path: str) -> None: ...

    def update(self, context: object, candidates: object, results: object) -> None: ...

    def predict(self, context: object, candidates: Sequence[MeasureCandidate]) -> np.ndarray:
        self.asked += len(candidates)
        return np.arange(len(candidates), dtype=np.float64)


def test_a_model_that_scores_schedules_is_asked() -> None:
    model = OnlySchedules()
    sizes, _ = drive(context(many_tiles), 8, 4, model=model)
    assert sizes == [4, 4]
    assert model.asked > 0


def test_random_model_is_a_random_search() -> None:
    sizes, _ = drive(context(many_tiles), 16, 8, model=RandomModel(seed=1))
    assert sizes == [8, 8]


# ----------------------------------------------------------------------------- manners
def test_the_base_class_is_abstract() -> None:
    with pytest.raises(TypeError, match="Cannot instantiate abstract class SearchStrategy"):
        SearchStrategy()  # type: ignore[abstract]  # that is what is tested


@pytest.mark.parametrize("kind", KINDS)
def test_begin_and_end(kind: str) -> None:
    ctx = context(two_tiles, kind)
    strategy = ctx.search_strategy
    assert strategy is not None
    with pytest.raises(UserError, match="tuning has not begun"):
        strategy.generate_measure_candidates()
    with pytest.raises(UserError, match="tuning has not begun"):
        strategy.post_tuning()
    ctx.pre_tuning(4, 2)
    with pytest.raises(UserError, match="pre_tuning was called already"):
        ctx.pre_tuning(4, 2)
    ctx.post_tuning()
    ctx.pre_tuning(4, 2)
    ctx.post_tuning()
    with pytest.raises(UserError, match="there is no design space"):
        strategy.pre_tuning(4, 2, [])
    with pytest.raises(UserError, match="max_trials is a count from 1, found 0"):
        strategy.pre_tuning(0, 2, ctx.generate_design_space())


@pytest.mark.parametrize("kind", KINDS)
def test_clone_is_not_begun(kind: str) -> None:
    ctx = context(two_tiles, kind)
    ctx.pre_tuning(4, 2)
    assert ctx.search_strategy is not None
    other = ctx.search_strategy.clone()
    assert type(other) is type(ctx.search_strategy)
    with pytest.raises(UserError, match="tuning has not begun"):
        other.generate_measure_candidates()


def test_create_and_parameters() -> None:
    assert isinstance(SearchStrategy.create(), EvolutionarySearch)
    assert isinstance(SearchStrategy.create("replay-trace", max_fail_count=3), ReplayTrace)
    assert isinstance(SearchStrategy.create("replay-func"), ReplayFunc)
    with pytest.raises(UserError, match="'annealing' is no search strategy"):
        SearchStrategy.create("annealing")
    with pytest.raises(UserError, match="eps_greedy is a share"):
        EvolutionarySearch(eps_greedy=1.5)
    with pytest.raises(UserError, match="population_size"):
        EvolutionarySearch(population_size=0)
    with pytest.raises(UserError, match="max_fail_count"):
        ReplayTrace(max_fail_count=0)
    s = EvolutionarySearch()
    assert (s.population_size, s.init_measured_ratio, s.eps_greedy) == (512, 0.2, 0.05)
    assert ReplayTrace().max_fail_count == 100


class Illegal(Mutator):
    """A user's mutator whose mutants do not replay."""

    def apply(self, trace: Trace) -> Trace | None:
        k = next(k for k, i in enumerate(trace.insts) if i.kind.samples)
        factors = trace.decisions[trace.insts[k]]
        return Trace(trace.insts, {trace.insts[k]: [2 * factors[0], *factors[1:]]})


def test_mutants_that_are_refused_do_not_end_the_search() -> None:
    sizes, _ = drive(
        context(many_tiles, n=64, mutator_probs={Illegal(): 0.5, Redraw(): 0.5}), 16, 8
    )
    assert sizes == [8, 8]
