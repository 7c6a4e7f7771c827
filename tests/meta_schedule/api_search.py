"""Rows 50 to 81 of reference 1.1: search strategies, spaces, schedulers, contexts, `tune_*`."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from api_components import context, filled, names, tuned, two_tiles
from api_rows import refuses, row
from ms_fakes import TARGET, FakeBuilder, FakeRunner, ListStrategy, NoSpace, matmul

from gputune import meta_schedule as ms
from gputune.errors import UserError
from gputune.ir.equal import structural_equal
from gputune.ir.nodes import IRModule
from gputune.schedule import Schedule


@row("50", "MeasureCandidate", "(sch, args_info)", of=ms.MeasureCandidate,
     does="a schedule and the arguments to measure it with")  # fmt: skip
def _(tmp: Path) -> None:
    sch = Schedule(matmul())
    found = ms.MeasureCandidate(sch, ms.ArgInfo.from_entry_func(sch.mod))
    assert found.sch is sch
    assert [a.as_json() for a in found.args_info] == [["TENSOR", "float32", [16, 16]]] * 3


# ----------------------------------------------------------------------------- strategies
@row("51", "SearchStrategy", does="an abstract class: `SearchStrategy()` is a TypeError")
def _(tmp: Path) -> None:
    refuses(TypeError, "Cannot instantiate abstract class SearchStrategy", ms.SearchStrategy)


STRATEGIES = ("evolutionary", "replay-trace", "replay-func")


def begun(kind: str, trials: int = 6, batch: int = 4) -> ms.SearchStrategy:
    ctx = context(space_generator=two_tiles, search_strategy=kind)
    strategy = ctx.search_strategy
    assert strategy is not None
    strategy.pre_tuning(trials, batch, ctx.generate_design_space(), ms.MemoryDatabase(), None)
    return strategy


@row("52", "SearchStrategy.pre_tuning",
     "(max_trials, num_trials_per_iter, design_spaces, database=None, cost_model=None)",
     of=ms.SearchStrategy.pre_tuning,
     does="begins; an error if begun already, or without a design space")  # fmt: skip
def _(tmp: Path) -> None:
    for kind in STRATEGIES:
        strategy = begun(kind)
        refuses(UserError, "already", lambda s=strategy: s.pre_tuning(1, 1, [Schedule(matmul())]))
        fresh = context(search_strategy=kind).search_strategy
        assert fresh is not None
        refuses(UserError, "no design space", lambda s=fresh: s.pre_tuning(1, 1, []))


@row("53", "SearchStrategy.post_tuning", "()", of=ms.SearchStrategy.post_tuning,
     does="ends; it may begin again")  # fmt: skip
def _(tmp: Path) -> None:
    for kind in STRATEGIES:
        strategy = begun(kind)
        strategy.post_tuning()
        refuses(UserError, "not begun", strategy.post_tuning)
        strategy.pre_tuning(1, 1, [Schedule(matmul())])


@row("54", "SearchStrategy.generate_measure_candidates", "() -> Optional[List[MeasureCandidate]]",
     of=ms.SearchStrategy.generate_measure_candidates,
     does="None: finished; an empty list: none this time",
     differs="an optional `limit`, so that budgets are kept exactly")  # fmt: skip
def _(tmp: Path) -> None:
    for kind in STRATEGIES:
        strategy = begun(kind)
        found = strategy.generate_measure_candidates()
        assert found is not None
        assert len(found) == 4
        assert all(isinstance(c, ms.MeasureCandidate) for c in found)


@row("55", "SearchStrategy.notify_runner_results", "(measure_candidates, results)",
     of=ms.SearchStrategy.notify_runner_results,
     does="counts the trials: after the last one candidates are None")  # fmt: skip
def _(tmp: Path) -> None:
    for kind in STRATEGIES:
        strategy = begun(kind)
        sizes = []
        while (found := strategy.generate_measure_candidates()) is not None:
            sizes.append(len(found))
            strategy.notify_runner_results(found, [ms.RunnerResult([1e-3])] * len(found))
        assert sizes == [4, 2], kind


@row("56", "SearchStrategy.clone", "() -> SearchStrategy", of=ms.SearchStrategy.clone,
     does="one of its own with the same settings, not begun")  # fmt: skip
def _(tmp: Path) -> None:
    for kind in STRATEGIES:
        one = begun(kind)
        two = one.clone()
        assert type(two) is type(one)
        refuses(UserError, "not begun", two.post_tuning)


@row("57", "SearchStrategy.create", '(kind="evolutionary", *args, **kwargs)',
     of=ms.SearchStrategy.create,
     does='"evolutionary", "replay-trace", "replay-func"; gputune\'s "exhaustive"')  # fmt: skip
def _(tmp: Path) -> None:
    assert isinstance(ms.SearchStrategy.create(), ms.EvolutionarySearch)
    assert isinstance(ms.SearchStrategy.create("replay-trace"), ms.ReplayTrace)
    assert isinstance(ms.SearchStrategy.create("replay-func"), ms.ReplayFunc)
    refuses(Exception, "'luck'", lambda: ms.SearchStrategy.create("luck"))


# ----------------------------------------------------------------------------- spaces
@row("58", "SpaceGenerator",
     does="an abstract class; `sch_rules`, `postprocs`, `mutator_probs` are lists (a dict), a kind "
          'such as "llvm", or "from-target"')  # fmt: skip
def _(tmp: Path) -> None:
    refuses(TypeError, "abstract", ms.SpaceGenerator)
    given = ms.PostOrderApply(sch_rules=[], postprocs="llvm", mutator_probs="from-target")
    context(space_generator=given)
    assert given.sch_rules == []
    assert names(given.postprocs) == names(ms.Postproc.create("llvm"))
    assert names(given.mutator_probs) == names(ms.Mutator.create("llvm"))


@row("59", "SpaceGenerator.generate_design_space", "(mod) -> List[Schedule]",
     of=ms.SpaceGenerator.generate_design_space, does="the sketches")  # fmt: skip
def _(tmp: Path) -> None:
    found = context(matmul(64)).generate_design_space()
    assert found
    assert all("SamplePerfectTile" in str(s.trace.as_json()) for s in found)


@row("60", "SpaceGenerator.clone", "() -> SpaceGenerator", of=ms.SpaceGenerator.clone,
     does="one of its own, its rules, postprocs and mutators too")  # fmt: skip
def _(tmp: Path) -> None:
    one = context().space_generator
    assert isinstance(one, ms.PostOrderApply)
    two = one.clone()
    assert isinstance(two, ms.PostOrderApply)
    assert names(two.sch_rules) == names(one.sch_rules)
    assert not set(map(id, two.sch_rules)) & set(map(id, one.sch_rules))


@row("61", "SpaceGenerator.create", '(kind="post-order-apply", *args, **kwargs)',
     of=ms.SpaceGenerator.create, does='"post-order-apply", "union", or a function',
     differs="a function gets the target's postprocs and mutators, as with `ScheduleFn(fn)` (the "
             "reference: none)")  # fmt: skip
def _(tmp: Path) -> None:
    assert isinstance(ms.SpaceGenerator.create(), ms.PostOrderApply)
    made = ms.SpaceGenerator.create(two_tiles)
    assert isinstance(made, ms.ScheduleFn)
    assert (made.postprocs, made.mutator_probs) == ("from-target", "from-target")
    union = ms.SpaceGenerator.create("union", [made, ms.ScheduleFn(two_tiles)])
    assert len(context(space_generator=union).generate_design_space()) == 2
    refuses(Exception, "'all'", lambda: ms.SpaceGenerator.create("all"))


# ----------------------------------------------------------------------------- scheduler
@row("62", "TaskScheduler", does="an abstract class; inherit from it or from `PyTaskScheduler`")
def _(tmp: Path) -> None:
    refuses(TypeError, "abstract", ms.TaskScheduler)


def task(name: str = "main", n: int = 16, strategy: str = "replay-trace") -> ms.TuneContext:
    return context(matmul(n), space_generator=two_tiles, search_strategy=strategy, task_name=name)


def run(
    scheduler: ms.TaskScheduler,
    tasks: list[ms.TuneContext],
    most: int,
    each: int,
    per_iter: int,
    **more: Any,
) -> tuple[FakeBuilder, FakeRunner]:
    builder, runner = FakeBuilder(), FakeRunner(lambda i: 1e-3)
    scheduler.tune(
        tasks, [1.0] * len(tasks), most, each, per_iter, builder, runner, [], None, None,
        verify=False, **more,
    )  # fmt: skip
    return builder, runner


def stepped(look: Callable[[ms.TaskScheduler, int], None]) -> ms.RoundRobin:
    """A round-robin scheduler that shows what it is about to return."""

    class Shows(ms.RoundRobin):
        def next_task_id(self) -> int:
            found = super().next_task_id()
            look(self, found)
            return found

    return Shows()


@row("63", "TaskScheduler.next_task_id", "() -> int", of=ms.TaskScheduler.next_task_id,
     does="the task to work on; -1: all done")  # fmt: skip
def _(tmp: Path) -> None:
    seen: list[int] = []
    run(stepped(lambda s, i: seen.append(i)), [task(), task("b", 32)], 9, 2, 1)
    assert seen == [0, 1, 0, 1, -1]


@row("64", "TaskScheduler.join_running_task", "(task_id) -> List[RunnerResult]",
     of=ms.TaskScheduler.join_running_task,
     does="waits for a task's round and takes in its results; [] if none is under way")  # fmt: skip
def _(tmp: Path) -> None:
    seen: list[int] = []

    class Counts(ms.RoundRobin):
        def join_running_task(self, task_id: int) -> list[ms.RunnerResult]:
            found = super().join_running_task(task_id)
            seen.append(len(found))
            return found

    scheduler = Counts()
    run(scheduler, [task()], 5, 5, 3)
    assert [n for n in seen if n] == [3, 2]
    assert scheduler.join_running_task(0) == []


@row("65", "TaskScheduler.tune",
     "(tasks, task_weights, max_trials_global, max_trials_per_task, num_trials_per_iter, builder, "
     "runner, measure_callbacks, database, cost_model)",
     of=ms.TaskScheduler.tune, does="rounds until a limit is reached or nothing is left",
     differs="limits are kept exactly (the reference looks between rounds only)")  # fmt: skip
def _(tmp: Path) -> None:
    builder, runner = run(ms.RoundRobin(), [task()], 3, 100, 64)
    assert (builder.sizes, runner.measured) == ([3], 3)


@row("66", "TaskScheduler.terminate_task", "(task_id)", of=ms.TaskScheduler.terminate_task,
     does="nothing more is measured of a task; an error the second time")  # fmt: skip
def _(tmp: Path) -> None:
    def look(s: ms.TaskScheduler, task_id: int) -> None:
        if task_id == 1 and not s.tasks[0].is_terminated:
            s.terminate_task(0)

    scheduler = stepped(look)
    run(scheduler, [task(), task("b", 32)], 9, 4, 1)
    assert [t.trials for t in scheduler.tasks] == [1, 4]
    refuses(UserError, "terminated before", lambda: scheduler.terminate_task(0))


@row("67", "TaskScheduler.touch_task", "(task_id)", of=ms.TaskScheduler.touch_task,
     does="takes in a task's round if all of its results are there")  # fmt: skip
def _(tmp: Path) -> None:
    sch = Schedule(matmul())
    ctx = context(space_generator=NoSpace(), search_strategy=ListStrategy([sch]))
    scheduler = ms.RoundRobin()
    run(scheduler, [ctx], 2, 2, 2)
    record, ready = scheduler.tasks[0], [False]
    record.measure_candidates = [ms.MeasureCandidate(sch, [])]
    record.builder_results = [ms.BuilderResult("path")]
    record.runner_futures = [ms.RunnerFuture(lambda: ready[0], lambda: ms.RunnerResult([1e-3]))]
    scheduler.touch_task(0)
    assert record.trials == 1
    ready[0] = True
    scheduler.touch_task(0)
    assert record.trials == 2
    assert record.runner_futures is None


@row("68", "TaskScheduler.print_tuning_statistics", "()",
     of=ms.TaskScheduler.print_tuning_statistics, does="logs the table of reference 2.6",
     differs='"Y" stands in the column Terminated as soon as a task is done')  # fmt: skip
def _(tmp: Path) -> None:
    import logging

    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    scheduler = ms.RoundRobin()
    run(scheduler, [task()], 2, 2, 2)
    logger, keep = logging.getLogger("gputune.meta_schedule"), Keep()
    logger.addHandler(keep)
    try:
        scheduler.print_tuning_statistics()
    finally:
        logger.removeHandler(keep)
    (text,) = lines
    head, rule, first, *rest = text.strip("\n").splitlines()
    columns = "ID|Name|FLOP|Weight|Speed (GFLOPS)|Latency (us)|Weighted Latency (us)|Trials|"
    assert [c.strip() for c in head.split("|")] == [*columns.split("|")[:-1], "Terminated"]
    assert set(rule) == {"-"}
    assert [c.strip() for c in first.split("|")] == [
        "0", "main", "8192", "1", "0.0082", "1000.0000", "1000.0000", "2", "Y",
    ]  # fmt: skip
    assert rest[1:] == ["Total trials: 2", "Total latency (us): 1000"]


@row("69", "TaskScheduler.create", '(kind="gradient", *args, **kwargs)',
     of=ms.TaskScheduler.create, does='"round-robin" or "gradient"')  # fmt: skip
def _(tmp: Path) -> None:
    found = ms.TaskScheduler.create()
    assert isinstance(found, ms.GradientBased)
    assert (found.alpha, found.window_size) == (0.2, 3)
    assert isinstance(ms.TaskScheduler.create("round-robin"), ms.RoundRobin)
    refuses(ValueError, "'luck'", lambda: ms.TaskScheduler.create("luck"))


# ----------------------------------------------------------------------------- tune_*
@row("70", "tune_tir",
     '(mod, target, work_dir, max_trials_global, *, max_trials_per_task=None, '
     'num_trials_per_iter=64, builder="local", runner="local", database="json", cost_model="xgb", '
     'measure_callbacks="default", task_scheduler="gradient", space="post-order-apply", '
     'strategy="evolutionary", num_tuning_cores="physical", seed=None, '
     'module_equality="structural", special_space=None, post_optimization=False) -> Database',
     of=ms.tune_tir,
     does="tunes every function of the program; returns the database, which is also the best "
          "schedule (`.mod`, `.trace`, ...)",
     differs="seconds as a budget, checks of numbers (`verify`), progress; `config`, `task_name` "
             "as in MetaSchedule's first version")  # fmt: skip
def _(tmp: Path) -> None:
    both = IRModule({"f": matmul(16)["main"], "g": matmul(32)["main"]})
    result = ms.tune_tir(
        both, TARGET, tmp, 6, builder=FakeBuilder(), runner=FakeRunner(lambda i: 1e-3),
        cost_model="random", strategy="replay-trace", space=two_tiles, seed=3, verify=False,
        num_trials_per_iter=2, special_space={"g": lambda sch: None},
        task_scheduler="round-robin", max_trials_per_task=5,
    )  # fmt: skip
    assert isinstance(result, ms.Database)
    assert [t.task_name for t in result.tasks] == ["f", "g"]
    # the special space of g holds but the program as it is: one trial
    assert len(result) == 6
    assert (tmp / "database_tuning_record.json").exists()


@row("71", "tune_tasks",
     "(*, tasks, task_weights, work_dir, max_trials_global, max_trials_per_task=None, "
     'num_trials_per_iter=64, builder="local", runner="local", database="json", cost_model="xgb", '
     'measure_callbacks="default", task_scheduler="gradient", module_equality="structural", '
     "post_optimization=False) -> Database",
     of=ms.tune_tasks,
     does="one budget for several tasks; ValueError without tasks; `max_trials_per_task` is "
          "`max_trials_global` where it is not given")  # fmt: skip
def _(tmp: Path) -> None:
    none = {"task_weights": [], "work_dir": tmp, "max_trials_global": 1}
    refuses(ValueError, "nothing to tune", lambda: ms.tune_tasks(tasks=[], **none))
    runner = FakeRunner(lambda i: 1e-3)
    ms.tune_tasks(
        tasks=[task(), task("b", 32)], task_weights=[1.0, 2.0], work_dir=tmp, max_trials_global=7,
        num_trials_per_iter=3, builder=FakeBuilder(), runner=runner, cost_model="random",
        database="memory", verify=False,
    )  # fmt: skip
    assert runner.measured == 7


@row("72", "module_equality", does='"structural", "ignore-ndarray", "anchor-block"; also '
                                   '"ignore-tensor", its newer name')  # fmt: skip
def _(tmp: Path) -> None:
    for mode in ("structural", "ignore-ndarray", "ignore-tensor", "anchor-block"):
        equality = ms.ModuleEquality(mode)
        assert equality.equal(matmul(), matmul())
        assert equality.hash(matmul()) == equality.hash(matmul())
        assert not equality.equal(matmul(), matmul(32))
    anchor, structural = ms.ModuleEquality("anchor-block"), ms.ModuleEquality("structural")
    plain, more = matmul_and("T.float32(1)"), matmul_and("T.float32(2)")
    assert anchor.equal(plain, more)
    assert anchor.hash(plain) == anchor.hash(more)
    assert not structural.equal(plain, more)
    refuses(UserError, "'names'", lambda: ms.ModuleEquality("names"))


def matmul_and(added: str) -> IRModule:
    """A matmul followed by the addition of a constant."""
    from gputune.script import from_source

    found = from_source(f"""
@T.prim_func
def main(A: T.Buffer((16, 16), "float32"), B: T.Buffer((16, 16), "float32"),
         D: T.Buffer((16, 16), "float32")):
    C = T.alloc_buffer((16, 16), "float32")
    for i, j, k in T.grid(16, 16, 16):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.float32(0)
            C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]
    for i, j in T.grid(16, 16):
        with T.block("D"):
            vi, vj = T.axis.remap("SS", [i, j])
            D[vi, vj] = C[vi, vj] + {added}
""")
    return ms.module_equality.as_module(found)  # type: ignore[arg-type]  # one function


@row("73", "post_optimization", does="True: Droplet steps from the best record (reference 1.12)")
def _(tmp: Path) -> None:
    plain = tuned(tmp, max_trials_global=3)
    assert len(plain) == 3
    more = tuned(tmp, max_trials_global=3, post_optimization=True)
    assert more.seconds is not None


# ----------------------------------------------------------------------------- context
@row("74", "TuneContext",
     '(mod=None, *, target=None, space_generator=None, search_strategy=None, task_name="main", '
     'rand_state=-1, num_threads="physical", logger=None)',
     of=ms.TuneContext,
     does='`num_threads`: a number, "physical", "logical" (None is that too); `rand_state` -1 '
          "draws a seed from 1 to 2**31 - 1")  # fmt: skip
def _(tmp: Path) -> None:
    assert ms.TuneContext(num_threads=None).num_threads == ms.utils.cpu_count(logical=True)
    assert ms.TuneContext(num_threads="logical").num_threads == ms.utils.cpu_count()
    assert ms.TuneContext().num_threads == ms.utils.cpu_count(logical=False)
    assert ms.TuneContext(num_threads=3).num_threads == 3
    assert 1 <= ms.TuneContext().rand_state < 2**31
    assert ms.TuneContext(rand_state=5).rand_state == 5
    for bad in (0, 2**31, "many"):
        refuses(UserError, "seed", lambda bad=bad: ms.TuneContext(rand_state=bad))
    for bad in (0, "some", 1.5):
        refuses(UserError, "num_threads", lambda bad=bad: ms.TuneContext(num_threads=bad))


@row("75", "TuneContext.generate_design_space", "()", of=ms.TuneContext.generate_design_space,
     does="the sketches; an error without a space generator")  # fmt: skip
def _(tmp: Path) -> None:
    assert len(context(space_generator=two_tiles).generate_design_space()) == 1
    bare = ms.TuneContext(matmul(), target=TARGET)
    refuses(UserError, "no space generator", bare.generate_design_space)


@row(
    "76",
    "TuneContext.pre_tuning",
    "(max_trials, num_trials_per_iter=64, design_spaces=None, database=None, cost_model=None)",
    of=ms.TuneContext.pre_tuning,
    does="the design space is made where none is given",
    differs="without a cost model the analytic score ranks (the reference: random numbers)",
)
def _(tmp: Path) -> None:
    for kind in STRATEGIES:
        ctx = task(strategy=kind)
        ctx.pre_tuning(2)
        assert len(ctx.generate_measure_candidates() or ()) == 2
        ctx.post_tuning()
        ctx.pre_tuning(1, 1, [Schedule(matmul())], ms.MemoryDatabase(), ms.RandomModel())
        (only,) = ctx.generate_measure_candidates() or ()
        if kind != "replay-func":  # that one calls the space generator anew
            assert "postproc" in str(only.sch.trace)


@row("77", "TuneContext.post_tuning", "() -> None", of=ms.TuneContext.post_tuning,
     does="tells the strategy; an error if there is none")  # fmt: skip
def _(tmp: Path) -> None:
    ctx = task()
    ctx.pre_tuning(1)
    assert ctx.post_tuning() is None
    bare = ms.TuneContext(matmul(), target=TARGET)
    refuses(UserError, "no search strategy", bare.post_tuning)


@row(
    "78",
    "TuneContext.generate_measure_candidates",
    "() -> Optional[List[MeasureCandidate]]",
    of=ms.TuneContext.generate_measure_candidates,
    does="asks the strategy; None when finished",
)
def _(tmp: Path) -> None:
    ctx = task()
    ctx.pre_tuning(3)
    found = ctx.generate_measure_candidates()
    assert found is not None
    ctx.notify_runner_results(found, [ms.RunnerResult([1e-3])] * 3)
    assert ctx.generate_measure_candidates() is None


@row("79", "TuneContext.notify_runner_results", "(measure_candidates, results) -> None",
     of=ms.TuneContext.notify_runner_results, does="tells the strategy")  # fmt: skip
def _(tmp: Path) -> None:
    ctx = task()
    ctx.pre_tuning(5, 2)
    found = ctx.generate_measure_candidates() or []
    assert ctx.notify_runner_results(found, [ms.RunnerResult([1e-3])] * 2) is None
    again = ctx.generate_measure_candidates() or []
    assert not {c.digest for c in found} & {c.digest for c in again}


@row("80", "TuneContext.clone", "() -> TuneContext", of=ms.TuneContext.clone,
     does="the same program, clones of generator and strategy, a forked random state")  # fmt: skip
def _(tmp: Path) -> None:
    one = task()
    two = one.clone()
    assert two.mod is one.mod
    assert two.space_generator is not one.space_generator
    assert two.search_strategy is not one.search_strategy
    assert two.rand_state != one.rand_state
    assert task().clone().rand_state == two.rand_state


@row("81", "derived_object", "(cls: type) -> type", of=ms.derived_object,
     does="accepts a subclass, or a class that names its base in `_tvm_metadata`; deriving from a "
          "decorated class is a TypeError",
     differs="plain inheritance does without it")  # fmt: skip
def _(tmp: Path) -> None:
    @ms.derived_object
    class Mine(ms.PyRunner):
        def run(self, runner_inputs: list[ms.RunnerInput]) -> list[ms.RunnerFuture]:
            return []

    class Other:
        _tvm_metadata = {"cls": ms.Runner, "fields": ["n"], "methods": ["run"]}  # noqa: RUF012  # as users write it

        def __init__(self, n: int) -> None:
            self.n = n

        def run(self, runner_inputs: list[ms.RunnerInput]) -> list[ms.RunnerFuture]:
            return [ms.RunnerFuture(lambda: True, lambda: ms.RunnerResult([self.n]))]

    made = ms.derived_object(Other)(7)
    assert isinstance(made, ms.Runner)
    assert made.run([])[0].result().run_secs == [7]
    refuses(TypeError, "derived object already", lambda: ms.derived_object(type("B", (Mine,), {})))
    refuses(TypeError, "decorates a class", lambda: ms.derived_object(3))
    bad = type("Bad", (ms.PyRunner,), {"_tvm_metadata": {"cls": ms.Runner, "methods": ["walk"]}})
    refuses(UserError, "'walk'", lambda: ms.derived_object(bad))
    gone = weakref.ref(Mine())
    gc.collect()
    assert gone() is None
    assert structural_equal(filled().commit_workload(matmul()).mod, matmul())
