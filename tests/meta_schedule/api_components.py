"""Rows 1 to 49 of reference 1.1: the components of a tuner."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from api_rows import refuses, row
from ms_fakes import TARGET, FakeBuilder, FakeRunner, matmul, record_of, split_j

from gputune import meta_schedule as ms
from gputune.ir.equal import structural_equal
from gputune.ir.nodes import IRModule
from gputune.meta_schedule.mutator import MutateTileSize
from gputune.schedule import BlockRV, Schedule, Trace
from gputune.target import Target

CUDA = "cuda -arch=sm_90"


def context(mod: IRModule | None = None, **parts: object) -> ms.TuneContext:
    parts = {"space_generator": "post-order-apply", "rand_state": 3, **parts}
    return ms.TuneContext(mod or matmul(16), target=TARGET, **parts)  # type: ignore[arg-type]  # parts of many types


def candidate(factor: int = 4) -> ms.MeasureCandidate:
    sch = split_j(matmul(), factor)
    return ms.MeasureCandidate(sch, ms.ArgInfo.from_entry_func(sch.mod))


# ----------------------------------------------------------------------------- builder
@row("1", "Builder", does="an abstract class; inherit from it or from `PyBuilder`")
def _(tmp: Path) -> None:
    refuses(TypeError, "abstract", ms.Builder)
    assert isinstance(FakeBuilder(), ms.Builder)


@row(
    "2", "Builder.build", "(build_inputs: List[BuilderInput]) -> List[BuilderResult]",
    of=ms.Builder.build,
    does="one result an input, in their order; a failure is a result with `error_msg`",
    differs="results carry also `failure`: phase, kind and message",
)  # fmt: skip
def _(tmp: Path) -> None:
    bad = Schedule(matmul())
    bad.bind(bad.get_loops(bad.get_block("C"))[0], "blockIdx.x")
    inputs = [
        ms.BuilderInput(m, Target(TARGET)) for m in (matmul(), bad.mod, split_j(matmul(), 2).mod)
    ]
    good, wrong, other = ms.LocalBuilder(1).build(inputs)
    assert good.error_msg is None
    assert other.artifact_path not in (None, good.artifact_path)
    assert wrong.artifact_path is None
    assert "blockIdx.x" in str(wrong.error_msg)


@row("3", "Builder.create", '(kind="local", *a, **kw) -> Builder', of=ms.Builder.create,
     does='"local"; ValueError for another kind')  # fmt: skip
def _(tmp: Path) -> None:
    assert isinstance(ms.Builder.create(max_workers=1), ms.LocalBuilder)
    refuses(ValueError, "'remote'", lambda: ms.Builder.create("remote"))


# ----------------------------------------------------------------------------- cost model
@row("4", "CostModel", does="an abstract class; inherit from it or from `PyCostModel`")
def _(tmp: Path) -> None:
    refuses(TypeError, "abstract", ms.CostModel)


def trained(seed: int = 0) -> tuple[ms.CostModel, ms.TuneContext, list[ms.MeasureCandidate]]:
    model = ms.CostModel.create("xgb")
    assert model is not None
    ctx = context()
    factors = [1, 2, 4, 8, 16]
    candidates = [candidate(f) for f in factors]
    results = [ms.RunnerResult([1e-3 * f]) for f in factors]
    for _ in range(3):
        model.update(ctx, candidates, results)
    return model, ctx, candidates


@row("5", "CostModel.load", "(path)", of=ms.CostModel.load,
     does="takes up what `save` wrote; a file that is none is a RecordError")  # fmt: skip
def _(tmp: Path) -> None:
    model, ctx, candidates = trained()
    model.save(str(tmp / "model"))
    other = ms.CostModel.create("xgb")
    assert other is not None
    other.load(str(tmp / "model"))
    np.testing.assert_allclose(other.predict(ctx, candidates), model.predict(ctx, candidates))
    (tmp / "junk").write_bytes(b"junk")
    refuses(ValueError, "junk", lambda: other.load(str(tmp / "junk")))


@row("6", "CostModel.save", "(path)", of=ms.CostModel.save, does="writes what was learned",
     differs="no pickle, no tar: XGBoost's own format and npz arrays")  # fmt: skip
def _(tmp: Path) -> None:
    for kind in ("xgb", "mlp", "random"):
        model = ms.CostModel.create(kind)
        assert model is not None
        model.save(str(tmp / kind))  # one that has learned nothing, too
        again = ms.CostModel.create(kind)
        assert again is not None
        again.load(str(tmp / kind))


@row("7", "CostModel.update", "(context: TuneContext, candidates, results)",
     of=ms.CostModel.update, does="learns; a failed candidate counts as very slow")  # fmt: skip
def _(tmp: Path) -> None:
    model, ctx, candidates = trained()
    for _ in range(4):
        model.update(ctx, candidates[:1], [ms.RunnerResult(None, "it failed")])
    assert np.isfinite(model.predict(ctx, candidates)).all()


@row("8", "CostModel.predict", "(context, candidates) -> ndarray", of=ms.CostModel.predict,
     does="a finite float64 score for each candidate; higher is better")  # fmt: skip
def _(tmp: Path) -> None:
    model, ctx, candidates = trained()
    scores = model.predict(ctx, candidates)
    assert scores.shape == (5,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert scores[0] > scores[4]  # the one was taught to be 16 times faster


@row(
    "9",
    "CostModel.create",
    '(kind="xgb", *args, **kw)',
    of=ms.CostModel.create,
    does='"xgb", "mlp" (NumPy, no torch), "random", "none" (None: the analytic score ranks)',
)
def _(tmp: Path) -> None:
    assert isinstance(ms.CostModel.create("xgb", num_tuning_cores=1), ms.XGBModel)
    assert isinstance(ms.CostModel.create("random"), ms.RandomModel)
    assert type(ms.CostModel.create("mlp")).__name__ == "MLPModel"
    assert ms.CostModel.create("none") is None
    refuses(Exception, "'forest'", lambda: ms.CostModel.create("forest"))


# ----------------------------------------------------------------------------- database
@row("10", "Database", does="an abstract class and a context manager (a stack for each thread)")
def _(tmp: Path) -> None:
    refuses(TypeError, "abstract", ms.Database)
    outer, inner = ms.MemoryDatabase(), ms.MemoryDatabase()
    with outer:
        with inner:
            assert ms.Database.current() is inner
        assert ms.Database.current() is outer
    assert ms.Database.current() is None


@row("11", "Database.has_workload", "(mod) -> bool", of=ms.Database.has_workload,
     does="by the database's module_equality")  # fmt: skip
def _(tmp: Path) -> None:
    for db in (ms.MemoryDatabase(), ms.JSONDatabase(work_dir=tmp)):
        assert not db.has_workload(matmul())
        db.commit_workload(matmul())
        assert db.has_workload(matmul())
        assert not db.has_workload(matmul(32))


@row("12", "Database.commit_workload", "(mod) -> Workload", of=ms.Database.commit_workload,
     does="idempotent; a JSON database appends one line when the program is new")  # fmt: skip
def _(tmp: Path) -> None:
    db = ms.JSONDatabase(work_dir=tmp)
    assert db.commit_workload(matmul()) is db.commit_workload(matmul())
    assert len((tmp / "database_workload.json").read_text().splitlines()) == 1


@row("13", "Database.commit_tuning_record", "(record)", of=ms.Database.commit_tuning_record,
     does="a JSON database appends one line")  # fmt: skip
def _(tmp: Path) -> None:
    db = ms.JSONDatabase(work_dir=tmp)
    for seconds in ([1.0], [2.0]):
        db.commit_tuning_record(record_of(db.commit_workload(matmul()), seconds))
    assert len((tmp / "database_tuning_record.json").read_text().splitlines()) == 2


@row("14", "Database.get_top_k", "(workload, top_k) -> List[TuningRecord]",
     of=ms.Database.get_top_k, does="the best first, failures left out; negative: ValueError",
     differs="ranked by the median of `run_secs`, as everywhere (the reference: here the mean, "
             "in the scheduler the median)")  # fmt: skip
def _(tmp: Path) -> None:
    for db in (ms.MemoryDatabase(), ms.JSONDatabase(work_dir=tmp)):
        w = db.commit_workload(matmul())
        for seconds in ([3.0, 1e10], [1e10], None, [], [2.0, 2.0, 90.0], [2.5]):
            db.commit_tuning_record(record_of(w, seconds))
        assert [r.run_secs for r in db.get_top_k(w, 9)] == [[2.0, 2.0, 90.0], [2.5], [3.0, 1e10]]
        assert len(db.get_top_k(w, 1)) == 1
        assert db.get_top_k(w, 0) == []
        refuses(ValueError, "top_k", lambda db=db, w=w: db.get_top_k(w, -1))


@row("15", "Database.get_all_tuning_records", "() -> List[TuningRecord]",
     of=ms.Database.get_all_tuning_records,
     does="JSON: the best first; memory: in the order of commits; failures included")  # fmt: skip
def _(tmp: Path) -> None:
    for db, expected in (
        (ms.MemoryDatabase(), [[2.0], None, [1.0]]),
        (ms.JSONDatabase(work_dir=tmp), [[1.0], [2.0], None]),
    ):
        for seconds in ([2.0], None, [1.0]):
            db.commit_tuning_record(record_of(db.commit_workload(matmul()), seconds))
        assert [r.run_secs for r in db.get_all_tuning_records()] == expected


def filled() -> ms.MemoryDatabase:
    db = ms.MemoryDatabase()
    w = db.commit_workload(matmul())
    db.commit_tuning_record(record_of(w, [2.0], 4))
    db.commit_tuning_record(record_of(w, [1.0], 8))
    return db


@row("16", "Database.query_tuning_record", "(mod, target, workload_name) -> Optional",
     of=ms.Database.query_tuning_record, does="the best record for the target",
     differs="the target counts (the reference ignores it): another kind or class of machine is "
             "not answered with, unless `allow_other_device`")  # fmt: skip
def _(tmp: Path) -> None:
    db = filled()
    found = db.query_tuning_record(matmul(), Target(TARGET), "main")
    assert found is not None
    assert found.run_secs == [1.0]
    assert db.query_tuning_record(matmul(32), Target(TARGET), "main") is None
    assert db.query_tuning_record(matmul(), Target(CUDA), "main") is None


@row("17", "Database.query_schedule", "(mod, target, workload_name) -> Optional[Schedule]",
     of=ms.Database.query_schedule, does="the best record's trace, replayed, postprocs included",
     differs="a record that cannot be replayed is passed over for the next best")  # fmt: skip
def _(tmp: Path) -> None:
    sch = filled().query_schedule(matmul(), Target(TARGET), "main")
    assert sch is not None
    assert structural_equal(sch.mod, split_j(matmul(), 8).mod)


@row("18", "Database.query_ir_module", "(mod, target, workload_name) -> Optional[IRModule]",
     of=ms.Database.query_ir_module, does="the program of `query_schedule`")  # fmt: skip
def _(tmp: Path) -> None:
    mod = filled().query_ir_module(matmul(), Target(TARGET), "main")
    assert mod is not None
    assert structural_equal(mod, split_j(matmul(), 8).mod)


@row("19", "Database.dump_pruned", "(destination)", of=ms.Database.dump_pruned,
     does="commits the best record of each workload",
     differs="and of each target: the best on one machine is not the best on another")  # fmt: skip
def _(tmp: Path) -> None:
    db = filled()
    db.commit_tuning_record(record_of(db.commit_workload(matmul(32)), None))
    other = ms.JSONDatabase(work_dir=tmp)
    db.dump_pruned(other)
    assert [r.run_secs for r in other.get_all_tuning_records()] == [[1.0]]


@row(
    "20",
    "Database.query",
    '(mod, target, *, workload_name="main", kind="schedule")',
    of=ms.Database.query,
    does='"schedule", "record", "ir_module"; ValueError for another',
)
def _(tmp: Path) -> None:
    db = filled()
    assert isinstance(db.query(matmul(), TARGET), Schedule)
    assert isinstance(db.query(matmul(), TARGET, kind="record"), ms.TuningRecord)
    assert isinstance(db.query(matmul(), TARGET, kind="ir_module"), IRModule)
    refuses(ValueError, "'trace'", lambda: db.query(matmul(), TARGET, kind="trace"))


@row("21", "Database.current", "() -> Optional", of=ms.Database.current,
     does="the database of the innermost `with`, or None")  # fmt: skip
def _(tmp: Path) -> None:
    assert ms.Database.current() is None
    with filled() as db:
        assert ms.Database.current() is db


@row(
    "22",
    "Database.create",
    '(kind="json", *args, **kwargs)',
    of=ms.Database.create,
    does='"json", "memory", "sqlite", "sql", "union", "ordered_union", an address such as '
    '"sqlite:///tuned.sqlite", or a function `Schedule -> bool`',
)
def _(tmp: Path) -> None:
    assert isinstance(ms.Database.create(work_dir=tmp), ms.JSONDatabase)
    assert isinstance(ms.Database.create("memory"), ms.MemoryDatabase)
    sqlite = ms.Database.create("sqlite", path=tmp / "tuned.sqlite")
    sqlite.commit_workload(matmul())
    assert ms.Database.create(f"sqlite:///{tmp}/tuned.sqlite").has_workload(matmul())
    slow, fast = filled(), ms.MemoryDatabase()
    fast.commit_tuning_record(record_of(fast.commit_workload(matmul()), [0.5], 2))
    best = ms.Database.create("union", slow, fast).query(matmul(), TARGET, kind="record")
    first = ms.Database.create("ordered_union", slow, fast).query(matmul(), TARGET, kind="record")
    assert (best.run_secs, first.run_secs) == ([0.5], [1.0])
    union = ms.Database.create("union", slow)
    refuses(NotImplementedError, "commit", lambda: union.commit_workload(matmul()))

    def schedule(sch: Schedule) -> bool:
        sch.parallel(sch.get_loops(sch.get_block("C"))[0])
        return True

    made = ms.Database.create(schedule)
    assert isinstance(made, ms.ScheduleFnDatabase)
    assert "T.parallel" in made.query(matmul(), TARGET).mod.script()
    refuses(ValueError, "'csv'", lambda: ms.Database.create("csv"))


# ----------------------------------------------------------------------------- what goes around
@row("23", "ExtractedTask", "(task_name, mod, target, dispatched, weight)", of=ms.ExtractedTask,
     does="a plain record")  # fmt: skip
def _(tmp: Path) -> None:
    task = ms.ExtractedTask("mm", matmul(), Target(TARGET), [matmul()], 3)
    assert (task.task_name, task.weight, len(task.dispatched)) == ("mm", 3, 1)


@row("24", "FeatureExtractor", does="an abstract class; inherit from it or `PyFeatureExtractor`")
def _(tmp: Path) -> None:
    refuses(TypeError, "abstract", ms.FeatureExtractor)


@row("25", "FeatureExtractor.extract_from", "(context, candidates) -> List[NDArray]",
     of=ms.FeatureExtractor.extract_from,
     does="for each candidate an array of (stores, features)")  # fmt: skip
def _(tmp: Path) -> None:
    found = ms.FeatureExtractor.create("per-store-feature").extract_from(
        context(), [candidate(2), candidate(4)]
    )
    assert [f.ndim for f in found] == [2, 2]
    assert {f.shape[1] for f in found} == {164}


@row("26", "FeatureExtractor.create", '(kind="per-store-feature", *args, **kwargs)',
     of=ms.FeatureExtractor.create,
     does='"per-store-feature", "random", and the search\'s own "sketch-feature"')  # fmt: skip
def _(tmp: Path) -> None:
    for kind in ("per-store-feature", "sketch-feature"):
        assert isinstance(ms.FeatureExtractor.create(kind), ms.FeatureExtractor)
    refuses(Exception, "'pixels'", lambda: ms.FeatureExtractor.create("pixels"))


@row("27", "MeasureCallback", does="an abstract class; inherit from it or `PyMeasureCallback`")
def _(tmp: Path) -> None:
    refuses(TypeError, "abstract", ms.MeasureCallback)


def tuned(tmp: Path, **options: object) -> ms.TuneResult:
    """A tuning with a pretended machine."""
    options = {
        "builder": FakeBuilder(), "runner": FakeRunner(lambda i: 1e-3 / (1 + i)), "seed": 3,
        "cost_model": "random", "strategy": "replay-trace", "database": "memory",
        "verify": False, "space": two_tiles, **options,
    }  # fmt: skip
    most = options.pop("max_trials_global", 4)
    return ms.tune_tir(matmul(), TARGET, tmp, most, **options)  # type: ignore[arg-type]  # options of many types


def two_tiles(sch: Schedule) -> None:
    i, j, k = sch.get_loops(sch.get_block("C"))
    i0, i1 = sch.split(i, sch.sample_perfect_tile(i, n=2))
    j0, j1 = sch.split(j, sch.sample_perfect_tile(j, n=2))
    sch.reorder(i0, j0, i1, j1, k)


@row("28", "MeasureCallback.apply",
     "(task_scheduler, task_id, measure_candidates, builder_results, runner_results)",
     of=ms.MeasureCallback.apply,
     does="called after each round; what it raises ends tuning")  # fmt: skip
def _(tmp: Path) -> None:
    seen: list[tuple[int, int, int, int]] = []

    class Looks(ms.MeasureCallback):
        def apply(self, task_scheduler: ms.TaskScheduler, task_id: int, *lists: Any) -> None:
            assert isinstance(task_scheduler, ms.TaskScheduler)
            sizes = [len(x) for x in lists]
            seen.append((task_id, *sizes))
            if len(seen) == 2:
                raise KeyError("enough")

    refuses(
        KeyError, "enough",
        lambda: tuned(tmp, measure_callbacks=[Looks()], num_trials_per_iter=2),
    )  # fmt: skip
    assert seen == [(0, 2, 2, 2)] * 2


@row("29", "MeasureCallback.create", '(kind="default") -> List', of=ms.MeasureCallback.create,
     does="AddToDatabase, RemoveBuildArtifact, UpdateCostModel, in this order")  # fmt: skip
def _(tmp: Path) -> None:
    assert [type(c) for c in ms.MeasureCallback.create("default")] == [
        ms.AddToDatabase, ms.RemoveBuildArtifact, ms.UpdateCostModel,
    ]  # fmt: skip
    refuses(ValueError, "'all'", lambda: ms.MeasureCallback.create("all"))


# ----------------------------------------------------------------------------- space
@row("30", "Mutator", does="an abstract class; inherit from it or from `PyMutator`")
def _(tmp: Path) -> None:
    refuses(TypeError, "abstract", ms.Mutator)


def sampled() -> tuple[ms.TuneContext, Trace]:
    ctx = context(space_generator=two_tiles)
    return ctx, ctx.generate_design_space()[0].trace


@row("31", "Mutator.apply", "(trace) -> Optional[Trace]", of=ms.Mutator.apply,
     does="a changed copy without postprocs; None: nothing to mutate")  # fmt: skip
def _(tmp: Path) -> None:
    ctx, trace = sampled()
    mutator = MutateTileSize()
    mutator.initialize_with_tune_context(ctx)
    new = mutator.apply(trace)
    assert new is not None
    assert list(new.decisions.values()) != list(trace.decisions.values())
    assert mutator.apply(Trace()) is None


@row("32", "Mutator.clone", "() -> Mutator", of=ms.Mutator.clone,
     does="one of its own, whose random numbers go their own way")  # fmt: skip
def _(tmp: Path) -> None:
    one = MutateTileSize()
    one.initialize_with_tune_context(context())
    two = one.clone()
    assert isinstance(two, MutateTileSize)
    assert two.rng is not one.rng


def sums_to_one(kind: str) -> dict[str, float]:
    found = ms.Mutator.create(kind)
    assert sum(found.values()) == 1.0
    return {type(m).__name__: p for m, p in found.items()}


@row(
    "33",
    "Mutator.create",
    "(kind) -> Dict[Mutator, float]",
    of=ms.Mutator.create,
    does='"llvm", "cuda", "cuda-tensorcore", "hexagon"; probabilities as in reference 1.6',
)
def _(tmp: Path) -> None:
    for kind in ("llvm", "hexagon"):
        assert sums_to_one(kind) == {
            "MutateTileSize": 0.9, "MutateComputeLocation": 0.05, "MutateUnroll": 0.03,
            "MutateParallel": 0.02,
        }  # fmt: skip
    for kind in ("cuda", "cuda-tensorcore"):
        assert sums_to_one(kind) == {
            "MutateTileSize": 0.9, "MutateUnroll": 0.08, "MutateThreadBinding": 0.02,
        }  # fmt: skip
    refuses(Exception, "'tpu'", lambda: ms.Mutator.create("tpu"))


@row("34", "Postproc", does="an abstract class; inherit from it or from `PyPostproc`")
def _(tmp: Path) -> None:
    refuses(TypeError, "abstract", ms.Postproc)


@row("35", "Postproc.apply", "(sch) -> bool", of=ms.Postproc.apply,
     does="False: the candidate is refused",
     differs="the reason is kept in `last_error`, counted and logged")  # fmt: skip
def _(tmp: Path) -> None:
    from gputune.meta_schedule.postproc import RewriteReductionBlock

    sch = split_j(matmul(), 4)
    assert RewriteReductionBlock().apply(sch) is True
    assert "C_init" in sch.mod.script()


@row("36", "Postproc.clone", "() -> Postproc", of=ms.Postproc.clone, does="one of its own")
def _(tmp: Path) -> None:
    for one in ms.Postproc.create("llvm"):
        two = one.clone()
        assert type(two) is type(one)
        assert two is not one


def names(parts: object) -> list[str]:
    return [type(p).__name__ for p in parts]  # type: ignore[attr-defined]  # a list of parts


@row("37", "Postproc.create", "(kind) -> List[Postproc]", of=ms.Postproc.create,
     does='"llvm", "cuda", "cuda-tensorcore", "hexagon"; lists as in reference 1.5')  # fmt: skip
def _(tmp: Path) -> None:
    cpu = names(ms.Postproc.create("llvm"))
    assert cpu[:3] == [
        "DisallowDynamicLoop", "RewriteParallelVectorizeUnroll", "RewriteReductionBlock",
    ]  # fmt: skip
    gpu = [
        "DisallowDynamicLoop", "RewriteCooperativeFetch", "RewriteUnboundBlock",
        "RewriteParallelVectorizeUnroll", "RewriteReductionBlock", "VerifyGPUCode",
    ]  # fmt: skip
    assert names(ms.Postproc.create("cuda")) == gpu
    assert set(gpu) < set(names(ms.Postproc.create("cuda-tensorcore")))
    assert "RewriteTensorize" in names(ms.Postproc.create("cuda-tensorcore"))
    assert ms.Postproc.create("hexagon")
    refuses(Exception, "'tpu'", lambda: ms.Postproc.create("tpu"))


# ----------------------------------------------------------------------------- profiler
@row("38", "Profiler", "()", of=ms.Profiler, does="a context manager; a stack for each thread")
def _(tmp: Path) -> None:
    with ms.Profiler() as outer:
        with ms.Profiler() as inner:
            assert ms.Profiler.current() is inner
        assert ms.Profiler.current() is outer


@row("39", "Profiler.get", "() -> Dict[str, float]", of=ms.Profiler.get,
     does="seconds by scope; after the `with`, `Total` too")  # fmt: skip
def _(tmp: Path) -> None:
    with ms.Profiler() as profiler, ms.Profiler.timeit("work"):
        assert "Total" not in profiler.get()
    found = profiler.get()
    assert 0 <= found["work"] <= found["Total"] < 10


@row("40", "Profiler.table", "() -> str", of=ms.Profiler.table,
     does="ID, Name, Time (min), Percentage; the total first, without an ID; ValueError while "
          "active or empty")  # fmt: skip
def _(tmp: Path) -> None:
    profiler = ms.Profiler()
    refuses(ValueError, "nothing was profiled", profiler.table)
    with profiler:
        refuses(ValueError, "still active", profiler.table)
        for name, turns in (("short", 1), ("long", 20_000)):
            with ms.Profiler.timeit(name):
                sum(range(turns))
    lines = profiler.table().splitlines()
    assert re.split(r" *\| *", lines[0].strip()) == ["ID", "Name", "Time (min)", "Percentage"]
    cells = [[c.strip() for c in line.split("|")] for line in lines[2:]]
    assert [c[:2] for c in cells[:3]] == [["", "Total"], ["1", "long"], ["2", "short"]]
    assert float(cells[0][3]) == 100.0


@row("41", "Profiler.current", "()", of=ms.Profiler.current, does="the innermost one, or None")
def _(tmp: Path) -> None:
    assert ms.Profiler.current() is None


@row("42", "Profiler.timeit", "(name)", of=ms.Profiler.timeit,
     does="a context manager; nothing happens where no profiler is active")  # fmt: skip
def _(tmp: Path) -> None:
    with ms.Profiler.timeit("unseen"):
        pass
    with ms.Profiler() as profiler:
        for _ in range(2):
            with ms.Profiler.timeit("seen"):
                pass
    assert set(profiler.get()) == {"seen", "Total"}


# ----------------------------------------------------------------------------- runner, rules
@row("43", "Runner", does="an abstract class; inherit from it or from `PyRunner`")
def _(tmp: Path) -> None:
    refuses(TypeError, "abstract", ms.Runner)


@row("44", "Runner.run", "(runner_inputs) -> List[RunnerFuture]", of=ms.Runner.run,
     does="one future an input; a failure is a result")  # fmt: skip
def _(tmp: Path) -> None:
    built = ms.LocalBuilder(1).build([ms.BuilderInput(matmul(), Target(TARGET))])
    args = ms.ArgInfo.from_entry_func(matmul())
    paths = [str(built[0].artifact_path), str(tmp / "none.o")]
    good, bad = ms.LocalRunner().run([ms.RunnerInput(p, "cpu", args) for p in paths])
    result = good.result()
    assert result.error_msg is None
    assert all(0 < s < 1 for s in result.run_secs or ())
    assert "none.o" in str(bad.result().error_msg)


@row("45", "Runner.create", '(kind="local", *args, **kwargs)', of=ms.Runner.create,
     does='"local"; "rpc": the workers of a Dask cluster; gputune\'s "cuda", "host" and "dask"; '
          "ValueError for an unknown kind")  # fmt: skip
def _(tmp: Path) -> None:
    assert isinstance(ms.Runner.create(), ms.LocalRunner)
    refuses(Exception, "the RPC tracker is not known", lambda: ms.Runner.create("rpc"))
    refuses(Exception, "anybody who can reach it", lambda: ms.Runner.create("dask", "farm:1"))
    refuses(ValueError, "'cloud'", lambda: ms.Runner.create("cloud"))


@row("46", "ScheduleRule", does="an abstract class; inherit from it or from `PyScheduleRule`")
def _(tmp: Path) -> None:
    refuses(TypeError, "abstract", ms.ScheduleRule)


@row("47", "ScheduleRule.apply", "(sch, block) -> List[Schedule]", of=ms.ScheduleRule.apply,
     does="the schedules that it makes of one; `[sch]` where it does not apply")  # fmt: skip
def _(tmp: Path) -> None:
    rule = ms.schedule_rule.MultiLevelTiling(structure="SSRSRS", max_innermost_factor=64)
    rule.initialize_with_tune_context(context())
    sch = Schedule(matmul(64))
    block: BlockRV = sch.get_block("C")
    (made,) = rule.apply(sch.copy(), block)
    assert len(made.get_loops(block)) == 10
    root = sch.get_block("root")
    assert rule.apply(sch, root) == [sch]


@row("48", "ScheduleRule.clone", "() -> ScheduleRule", of=ms.ScheduleRule.clone,
     does="one of its own")  # fmt: skip
def _(tmp: Path) -> None:
    for one in ms.ScheduleRule.create("llvm"):
        assert type(one.clone()) is type(one)
        assert one.clone() is not one


@row("49", "ScheduleRule.create", "(kind) -> List[ScheduleRule]", of=ms.ScheduleRule.create,
     does='"llvm", "cuda", "cuda-tensorcore", "hexagon"; lists as in reference 1.4.2')  # fmt: skip
def _(tmp: Path) -> None:
    assert names(ms.ScheduleRule.create("llvm")) == [
        "ApplyCustomRule", "InlineConstantScalars", "AutoInline", "FuseRows",
        "CrossLaneReduction", "AddRFactor", "ColumnReduction", "TransposedOperand",
        "TransposingCopy", "MultiLevelTiling",
        "ParallelizeVectorizeUnroll", "RandomComputeLocation",
    ]  # fmt: skip
    gpu = names(ms.ScheduleRule.create("cuda"))
    assert {"MultiLevelTiling", "AutoInline", "CrossThreadReduction", "AutoBind"} < set(gpu)
    assert "MultiLevelTilingTensorCore" in names(ms.ScheduleRule.create("cuda-tensorcore"))
    assert ms.ScheduleRule.create("hexagon")
    refuses(Exception, "'tpu'", lambda: ms.ScheduleRule.create("tpu"))
