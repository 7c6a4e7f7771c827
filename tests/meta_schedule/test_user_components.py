"""Does tuning work with every component written by a user, by plain inheritance?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ms_fakes import TARGET, matmul

from gputune import meta_schedule as ms
from gputune.errors import ScheduleError, UserError
from gputune.ir.equal import structural_equal
from gputune.schedule import Schedule, Trace


def components(base: Callable[[str], Any], wrap: Callable[[type], type]) -> SimpleNamespace:
    """One class of each kind, and how often what was called.

    Args:
        base: the class to inherit from, by its name.
        wrap: decorates each class.
    """
    calls: Counter[str] = Counter()

    @wrap
    class Rule(base("ScheduleRule")):
        def apply(self, sch: Schedule, block: Any) -> list[Schedule]:
            calls["rule"] += 1
            if sch.get(block).name != "C":
                return [sch]
            j = sch.get_loops(block)[1]
            sch.split(j, sch.sample_perfect_tile(j, n=2))
            return [sch]

    @wrap
    class Post(base("Postproc")):
        def apply(self, sch: Schedule) -> bool:
            calls["postproc"] += 1
            _, outer, inner, _ = sch.get_loops(sch.get_block("C"))
            if sch.get(inner).extent.value > 8:
                return False
            sch.annotate(outer, "touched", 1)
            return True

    @wrap
    class Mutate(base("Mutator")):
        def apply(self, trace: Trace) -> Trace | None:
            calls["mutator"] += 1
            (inst,) = [i for i in trace.insts if i.kind.samples]
            inner = self.rng.choice([1, 2, 4, 8, 16])
            return trace.with_decision(inst, [16 // inner, inner])

    @wrap
    class Space(base("SpaceGenerator")):
        def generate_design_space(self, mod: Any) -> list[Schedule]:
            calls["space"] += 1
            sch = Schedule(mod, seed=3)
            found = [sch]
            for rule in self.sch_rules:
                found = [new for s in found for new in rule.apply(s, s.get_block("C"))]
            return found

    @wrap
    class Features(base("FeatureExtractor")):
        def extract_from(self, context: Any, candidates: Any) -> list[Any]:
            calls["features"] += 1
            return [np.full((1, 1), inner_of(c.sch), float) for c in candidates]

    @wrap
    class Model(base("CostModel")):
        def __init__(self) -> None:
            self.extractor = Features()
            self.seen: dict[float, float] = {}

        def load(self, path: str) -> None: ...

        def save(self, path: str) -> None: ...

        def update(self, context: Any, candidates: Any, results: Any) -> None:
            calls["update"] += 1
            for f, r in zip(self.extractor.extract_from(context, candidates), results):
                self.seen[f[0, 0]] = -r.seconds

        def predict(self, context: Any, candidates: Any) -> Any:
            calls["predict"] += 1
            features = self.extractor.extract_from(context, candidates)
            return np.array([self.seen.get(f[0, 0], 0.0) for f in features])

    @wrap
    class Strategy(base("SearchStrategy")):
        def initialize_with_tune_context(self, context: Any) -> None:
            self.context, self.spaces = context, None

        def pre_tuning(
            self,
            max_trials: Any,
            per_iter: Any,
            spaces: Any,
            database: Any = None,
            model: Any = None,
        ) -> None:
            assert self.spaces is None
            self.spaces, self.left, self.model = spaces, max_trials, model
            self.done: set[str] = set()

        def post_tuning(self) -> None:
            self.spaces = None

        def generate_measure_candidates(self) -> list[Any] | None:
            calls["generate"] += 1
            found: dict[str, ms.MeasureCandidate] = {}
            (mutator,) = self.context.space_generator.mutator_probs
            for _ in range(60):
                trace = mutator.apply(self.spaces[0].trace)
                sch = Schedule(self.context.mod)
                trace.apply_to_schedule(sch, remove_postproc=True)
                if all(p.apply(sch) for p in self.context.space_generator.postprocs):
                    new = ms.MeasureCandidate(sch, ms.ArgInfo.from_entry_func(self.context.mod))
                    if new.digest not in self.done:
                        found[new.digest] = new
            ranked = sorted(found.values(), key=lambda c: c.digest)
            if not ranked or self.left <= 0:
                return None
            scores = self.model.predict(self.context, ranked)
            return [ranked[k] for k in np.argsort(-scores, kind="stable")[: min(2, self.left)]]

        def notify_runner_results(self, candidates: Any, results: Any) -> None:
            calls["notify"] += 1
            self.left -= len(results)
            self.done |= {c.digest for c in candidates}

    @wrap
    class Build(base("Builder")):
        def build(self, build_inputs: Any) -> list[Any]:
            calls["build"] += len(build_inputs)
            return [
                ms.BuilderResult(str(inner_of(Schedule(x.mod))), None)
                if inner_of(Schedule(x.mod)) != 2
                else ms.BuilderResult(None, "I do not like it")
                for x in build_inputs
            ]

    @wrap
    class Future(base("RunnerFuture")):
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def done(self) -> bool:
            return True

        def result(self) -> Any:
            return ms.RunnerResult([self.seconds], None)

    @wrap
    class Run(base("Runner")):
        def run(self, runner_inputs: Any) -> list[Any]:
            calls["run"] += len(runner_inputs)
            return [Future(1.0 / float(x.artifact_path)) for x in runner_inputs]

    @wrap
    class Base(base("Database")):
        def __init__(self) -> None:
            self.workloads: list[Any] = []
            self.records: list[Any] = []

        def has_workload(self, mod: Any) -> bool:
            return any(structural_equal(w.mod, mod) for w in self.workloads)

        def commit_workload(self, mod: Any) -> Any:
            for w in self.workloads:
                if structural_equal(w.mod, mod):
                    return w
            self.workloads.append(ms.Workload(mod))
            return self.workloads[-1]

        def commit_tuning_record(self, record: Any) -> None:
            calls["commit"] += 1
            self.records.append(record)

        def get_top_k(self, workload: Any, top_k: int) -> list[Any]:
            own = [r for r in self.records if r.workload is workload and r.is_valid]
            return sorted(own, key=lambda r: r.seconds)[:top_k]

        def get_all_tuning_records(self) -> list[Any]:
            return list(self.records)

    @wrap
    class Callback(base("MeasureCallback")):
        def apply(
            self, scheduler: Any, task_id: int, candidates: Any, built: Any, results: Any
        ) -> None:
            calls["callback"] += 1
            task = scheduler.tasks[task_id]
            workload = scheduler.database.commit_workload(task.ctx.mod)
            for c, r in zip(candidates, results):
                scheduler.database.commit_tuning_record(
                    ms.TuningRecord(c.sch.trace, workload, r.run_secs, task.ctx.target, c.args_info)
                )
            scheduler.cost_model.update(task.ctx, candidates, results)

    @wrap
    class Scheduler(base("TaskScheduler")):
        def next_task_id(self) -> int:
            calls["next"] += 1
            alive = [k for k, t in enumerate(self.tasks) if not t.is_terminated]
            return min(alive, key=lambda k: self.tasks[k].trials, default=-1)

    return SimpleNamespace(**{k: v for k, v in locals().items() if k not in ("base", "wrap")})


def inner_of(sch: Schedule) -> int:
    """The extent of the inner of the two loops that were one."""
    return int(sch.get(sch.get_loops(sch.get_block("C"))[2]).extent.value)


STYLES = {
    "plain": (lambda name: getattr(ms, name), lambda cls: cls),
    "tvm": (lambda name: getattr(ms, f"Py{name}"), ms.derived_object),
}


@pytest.mark.parametrize("style", STYLES)
def test_every_component_is_the_users(style: str, tmp_path: Path) -> None:
    parts = components(*STYLES[style])
    result = ms.tune_tir(
        matmul(),
        TARGET,
        tmp_path,
        3,
        num_trials_per_iter=2,
        builder=parts.Build(),
        runner=parts.Run(),
        database=parts.Base(),
        cost_model=parts.Model(),
        measure_callbacks=[parts.Callback()],
        task_scheduler=parts.Scheduler(),
        space=parts.Space(
            sch_rules=[parts.Rule()], postprocs=[parts.Post()], mutator_probs={parts.Mutate(): 1.0}
        ),
        strategy=parts.Strategy(),
        verify=False,
        seed=3,
    )
    calls = parts.calls
    used = ("rule", "postproc", "mutator", "space", "features", "update", "predict", "generate")
    assert all(calls[name] for name in used), calls
    # of the inner extents 1, 2, 4 and 8 (16 is refused) three are tried, the unliked one at most
    # fails to build
    assert calls["build"] == calls["commit"] == 3
    assert calls["run"] == 3 - sum(1 for r in result.get_all_tuning_records() if not r.is_valid)
    assert calls["notify"] == calls["callback"] == 2
    best = max(1.0 / r.seconds for r in result.get_all_tuning_records() if r.is_valid)
    found = result.database.query_schedule(matmul(), TARGET)
    assert found is not None
    assert inner_of(found) == best
    assert "touched" in found.mod.script()


def test_some_components_are_the_users(tmp_path: Path) -> None:
    """A rule, a postproc and a mutator among gputune's own; the search falls back to replay."""
    parts = components(*STYLES["plain"])
    result = ms.tune_tir(
        matmul(),
        TARGET,
        tmp_path,
        4,
        builder=parts.Build(),
        runner=parts.Run(),
        database="memory",
        cost_model="random",
        space=ms.PostOrderApply(
            sch_rules=[parts.Rule()], postprocs=[parts.Post()], mutator_probs={parts.Mutate(): 1.0}
        ),
        strategy="evolutionary",
        verify=False,
        seed=3,
    )
    records = result.get_all_tuning_records()
    assert len(records) == 4
    assert sorted(1.0 / r.seconds for r in records if r.is_valid) == [1.0, 4.0, 8.0]
    (failed,) = [r for r in records if not r.is_valid]
    assert failed.error is not None
    assert failed.error["message"] == "I do not like it"


def test_a_users_postproc_may_raise(tmp_path: Path) -> None:
    class Raises(ms.Postproc):
        def apply(self, sch: Schedule) -> bool:
            raise ScheduleError("not this one")

    space = ms.ScheduleFn(lambda sch: None, postprocs=[Raises()], mutator_probs={})
    result = ms.tune_tir(
        matmul(), TARGET, tmp_path, 2, space=space, database="memory", cost_model="random",
        strategy="replay-trace", seed=1,
    )  # fmt: skip
    assert len(result) == 0


@pytest.mark.parametrize(
    "metadata", [3, {}, {"cls": "Runner"}, {"cls": ms.Runner, "methods": "run"},
                 {"cls": ms.Runner, "fields": [1]}],
)  # fmt: skip
def test_senseless_metadata_are_refused(metadata: Any) -> None:
    with pytest.raises(UserError, match="_tvm_metadata"):
        ms.derived_object(type("Mine", (), {"_tvm_metadata": metadata}))


def test_what_a_class_with_metadata_leaves_out_is_missed_when_called() -> None:
    mine = ms.derived_object(type("Mine", (), {"_tvm_metadata": {"cls": ms.Builder}}))
    assert isinstance(mine(), ms.Builder)
    with pytest.raises(NotImplementedError, match="Mine: build is not implemented"):
        mine().build([])
    # the base is as it was
    with pytest.raises(TypeError, match="abstract"):
        ms.Builder()  # type: ignore[abstract]  # the mistake in question
