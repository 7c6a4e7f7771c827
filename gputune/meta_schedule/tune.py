"""How is a program tuned in one call? `tune_tir`, and `tune_tasks` for several at once."""

from __future__ import annotations

import inspect
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecordError, UserError
from ..ir.nodes import IRModule, PrimFunc
from ..runtime.clock_lock import check_lock
from ..runtime.interruption import at_once, graceful, held, interrupted
from ..runtime.observe import Observer, check_observers
from ..target import Target
from ..target.target import TargetLike
from .admission import admitted
from .builder import Builder, LocalBuilder, as_builder
from .conditions import measuring
from .database import Database
from .database_address import is_url, redacted
from .derived import check_part
from .early_stop import StopRule
from .finalists import measure_again, reserve_for
from .json_database import RECORD_FILE, WORKLOAD_FILE, JSONDatabase, make_folder
from .logging import console, create_loggers, get_loggers_from_work_dir
from .measure_callback import MeasureCallback
from .module_equality import as_module
from .objective import EACH_S, FINALISTS, check_objective, measure_finalists, refuse
from .post_optimization import post_optimize
from .round_log import ROUNDS_FILE
from .runner import LocalRunner, Runner
from .task_record import Progress
from .task_scheduler import TaskScheduler
from .tune_context import TuneContext, check_seed
from .tune_result import TuneResult
from .why import FAILURES_FILE, Why

MODEL_FILE = "cost_model.xgb"
UNLIMITED = 1_000_000
"""Trials where only seconds limit a tuning."""
_SEARCH_SHARE = 0.8  # of the seconds, where post-optimisation has the rest
_ENERGY_SHARE = 0.5  # of the seconds, at most, in which the energy of finalists is measured


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """How much to try, in the form of MetaSchedule's first version.

    Attributes:
        max_trials_global: candidates to measure, over all tasks.
        num_trials_per_iter: candidates of a round.
        max_trials_per_task: candidates of one task; default: `max_trials_global`.
        task_scheduler: kind of task scheduler.
        strategy: kind of search strategy.
    """

    max_trials_global: int
    num_trials_per_iter: int = 64
    max_trials_per_task: int | None = None
    task_scheduler: str = "gradient"
    strategy: str = "evolutionary"


@dataclass(frozen=True, slots=True, eq=False)
class ExtractedTask:
    """A program that a model calls.

    Attributes:
        task_name: for tables and logs.
        mod: the program in the model's words.
        target: the machine.
        dispatched: the program to be tuned, as modules.
        weight: how often the model calls it.
    """

    task_name: str
    mod: IRModule
    target: Target
    dispatched: list[IRModule]
    weight: int


@graceful()
def tune_tir(
    mod: IRModule | PrimFunc,
    target: TargetLike,
    work_dir: str | Path,
    max_trials_global: int | None = None,
    *,
    max_trials_per_task: int | None = None,
    num_trials_per_iter: int = 64,
    builder: str | Builder = "local",
    runner: str | Runner = "local",
    database: str | Database = "json",
    cost_model: Any = "xgb",
    measure_callbacks: Any = "default",
    task_scheduler: str | TaskScheduler = "gradient",
    space: Any = "post-order-apply",
    strategy: Any = "evolutionary",
    num_tuning_cores: int | str | None = "physical",
    seed: int | None = None,
    module_equality: str = "structural",
    special_space: Mapping[str, Any] | None = None,
    post_optimization: bool = False,
    config: TuneConfig | None = None,
    task_name: str | None = None,
    seconds: float | None = None,
    verify: bool = True,
    reference: Callable[..., Any] | Mapping[str, Callable[..., Any]] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    early_stop: float | None = None,
    patience: int | None = None,
    objective: str = "latency",
    observers: Observer | Sequence[Observer] = (),
    lock_clocks: bool | int = False,
    shared_gpu: bool = False,
) -> TuneResult:
    """Find fast schedules for the functions of a program.

    What earlier runs in the same `work_dir` measured is remembered: the result is the best of the
    whole history. Ctrl-C ends the search: what was measured is recorded, and the result is the best
    so far; so do SIGTERM and SIGHUP. A second signal ends it at once, with a KeyboardInterrupt (or
    SystemExit, where it was not Ctrl-C). See `runtime.interruption`.

    Args:
        mod: a PrimFunc, or an IRModule, each function of which becomes a task.
        target: what `Target` accepts.
        work_dir: folder for the database, the logs and the cost model; made if need be.
        max_trials_global: candidates to measure in all. 0: none; the result is then what the cost
            model of `work_dir`, or the analytic one, ranks first (`result.predicted`), unless the
            database knows better.
        max_trials_per_task: candidates of one task; default: `max_trials_global`.
        num_trials_per_iter: candidates of a round.
        builder, runner: "local" or an object.
        database: "json" (in `work_dir`), "sqlite" (`database.sqlite` in `work_dir`), "memory", an
            address (`sqlite:///FILE`, `postgresql://...`; see `open_database`), or an object.
        cost_model: "xgb", "random", "none", or an object.
        measure_callbacks: "default", an object or a list of objects.
        task_scheduler: "gradient", "round-robin", or an object.
        space: "post-order-apply", a `SpaceGenerator`, or a function that schedules.
        strategy: "evolutionary", "replay-trace", "replay-func", or an object.
        num_tuning_cores: a number, "physical" or "logical".
        seed: of all that is random; None draws one. The same seed and the same measured times give
            the same candidates, with every cost model; the first round, and all rounds of the
            replay strategies, do not depend on times.
        module_equality: see `ModuleEquality`.
        special_space: spaces of single tasks, by task name.
        post_optimization: improve the best record step by step afterwards; see
            `post_optimization`. That may take 100 trials more for each task; of a time limit it has
            the last fifth.
        config: the trials in the form of MetaSchedule's first version.
        task_name: name of the task, where there is one function.
        seconds: time limit, instead of or beside the trials.
        verify: compare new bests with the unscheduled program.
        reference: compare them with what this function says instead: it takes the inputs as NumPy
            arrays and returns the output, a tuple of all, or a dict by name. Of a program of
            several functions: a dict of such functions by name.
        on_progress: called often, with a `Progress`.
        early_stop: end a task when the model expects, two rounds running, that nothing is left that
            is faster by this fraction (such as 0.05); None: never. See `early_stop`.
        patience: end a task after so many trials without a new best; None: never.
        objective: what makes a schedule the best: "latency", "energy" or "edp" (energy times
            delay). The last two are NVML's, so for GPUs: the fastest few then run for a second and
            more each.
        observers: are asked around and during every measurement; see `Observer`.
        lock_clocks: hold the GPU's clock meanwhile: True at its base clock, or at so many MHz. It
            needs privileges; where they are missing a warning says so. It is given back whatever
            happens.
        shared_gpu: rank what was measured while others computed on the GPU. Off, such times are
            kept and do not rank.

    Returns:
        A `Database` that has also the parts of the best schedule (`.mod`, `.trace`, ...), so that
        `gputune.build(result)` works.

    Raises:
        UserError: an argument that makes no sense, or a `work_dir` that cannot be used.
        RecordError: recording failed (disk full); `error.result` is the result so far.
        RunError: every candidate failed.

    Example:
        >>> result = tune_tir(matmul, "llvm", "./tuned", max_trials_global=64)
        >>> lib = gputune.build(result.mod, "llvm")
    """
    if config is not None:
        if not isinstance(config, TuneConfig):
            raise UserError(f"config is a TuneConfig, found {config!r:.60}", code="config")
        max_trials_global = config.max_trials_global
        num_trials_per_iter = config.num_trials_per_iter
        max_trials_per_task = config.max_trials_per_task
        task_scheduler = config.task_scheduler if task_scheduler == "gradient" else task_scheduler
        strategy = config.strategy if strategy == "evolutionary" else strategy
    whole = as_module(mod)
    chosen = Target(target)
    modules = {name: IRModule({name: f}) for name, f in whole.functions.items()}
    if not modules:
        raise UserError("the module has no functions: there is nothing to tune")
    names = dict(zip(modules, modules))
    if task_name is not None:
        if len(modules) > 1:
            raise UserError(
                f"task_name={task_name!r} names one task, the module has {len(modules)} functions",
                hint="leave it out: each task is named after its function",
            )
        names = dict.fromkeys(modules, task_name)
    if special_space is not None and not isinstance(special_space, Mapping):
        raise UserError(
            f"special_space is a mapping from task name to space, found {special_space!r:.60}",
            hint=f'special_space={{"{next(iter(names.values()))}": a space}}',
            code="special-space",
        )
    references = _references(reference, list(modules), verify)
    spaces = dict(special_space or {})
    if unknown := set(spaces) - set(names.values()):
        raise UserError(
            f"special_space names no task: {', '.join(sorted(unknown))}",
            hint=f"the tasks are: {', '.join(names.values())}",
        )
    _usable_folder(work_dir)
    loggers = get_loggers_from_work_dir(
        work_dir, [f"task_{i}_{names[k]}" for i, k in enumerate(modules)]
    )
    try:
        rng = random.Random(check_seed(seed))
        tasks = [
            TuneContext(
                module,
                target=chosen,
                space_generator=_own(spaces.get(names[key], space)),
                search_strategy=_own(strategy),
                task_name=names[key],
                rand_state=rng.randint(1, 2**31 - 1),
                num_threads=num_tuning_cores,
                logger=logger,
                reference=references.get(key),
            )
            for (key, module), logger in zip(modules.items(), loggers)
        ]
        result = tune_tasks(
            tasks=tasks,
            task_weights=[1.0] * len(tasks),
            work_dir=work_dir,
            max_trials_global=max_trials_global,
            max_trials_per_task=max_trials_per_task,
            num_trials_per_iter=num_trials_per_iter,
            builder=builder,
            runner=runner,
            database=database,
            cost_model=cost_model,
            measure_callbacks=measure_callbacks,
            task_scheduler=task_scheduler,
            module_equality=module_equality,
            post_optimization=post_optimization,
            seconds=seconds,
            verify=verify,
            on_progress=on_progress,
            early_stop=early_stop,
            patience=patience,
            seed=rng.randint(1, 2**31 - 1),
            objective=objective,
            observers=observers,
            lock_clocks=lock_clocks,
            shared_gpu=shared_gpu,
        )
    finally:
        _close(loggers)
    return TuneResult(
        result.database,
        whole,
        chosen,
        result.tasks,
        believe_own=not verify,
        predicted=result.predicted,
        why=result.why(),
        objective=objective,
    )


def _tune(scheduler: TaskScheduler, *parts: Any, **options: Any) -> None:
    """Call a scheduler's `tune`. That of a user's class may have MetaSchedule's ten arguments only;
    if it calls gputune's, that has the options all the same."""
    takes = inspect.signature(scheduler.tune).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    scheduler.options = {k: v for k, v in options.items() if not takes_all and k not in takes}
    try:
        scheduler.tune(*parts, **{k: v for k, v in options.items() if k not in scheduler.options})
    except KeyboardInterrupt:  # in a user's class, or between two statements
        if at_once():
            raise
        scheduler.interrupted = True
    finally:
        scheduler.options = {}


def _references(given: Any, names: Sequence[str], verify: bool) -> Mapping[str, Callable[..., Any]]:
    """The functions that say what is right, by the name of the function that they are about."""
    if given is None:
        return {}
    if not verify:
        raise UserError(
            "reference is what results are compared with, and verify=False compares nothing",
            code="reference",
        )
    if isinstance(given, Mapping):
        found = dict(given)
    elif len(names) == 1:
        found = {names[0]: given}
    else:
        raise UserError(
            f"reference is one function, and the module has {len(names)}",
            hint=f"a dict: {{{names[0]!r}: ...}}",
            code="reference",
        )
    if unknown := set(found) - set(names):
        raise UserError(
            f"reference names no function of the module: {', '.join(sorted(map(str, unknown)))}",
            hint=f"the functions are: {', '.join(names)}",
            code="reference",
        )
    return found


def _own(part: Any) -> Any:
    """A copy for one task of a space generator or strategy that several may share."""
    return part.clone() if hasattr(part, "clone") and not isinstance(part, type) else part


@graceful()
def tune_tasks(
    *,
    tasks: Sequence[TuneContext],
    task_weights: Sequence[float],
    work_dir: str | Path,
    max_trials_global: int | None = None,
    max_trials_per_task: int | None = None,
    num_trials_per_iter: int = 64,
    builder: str | Builder = "local",
    runner: str | Runner = "local",
    database: str | Database = "json",
    cost_model: Any = "xgb",
    measure_callbacks: Any = "default",
    task_scheduler: str | TaskScheduler = "gradient",
    module_equality: str = "structural",
    post_optimization: bool = False,
    seconds: float | None = None,
    verify: bool = True,
    on_progress: Callable[[Progress], None] | None = None,
    early_stop: float | None = None,
    patience: int | None = None,
    seed: int | None = None,
    objective: str = "latency",
    observers: Observer | Sequence[Observer] = (),
    lock_clocks: bool | int = False,
    shared_gpu: bool = False,
) -> TuneResult:
    """Tune several tasks with one budget; the arguments are those of `tune_tir`.

    Args:
        tasks: what to tune; see `TuneContext`.
        task_weights: how much each task's time counts.

    Raises:
        ValueError: there are no tasks.
    """
    tasks = _checked_tasks(tasks)
    stop = StopRule(early_stop, patience)
    check_objective(objective)
    watching, clock = check_observers(observers), check_lock(lock_clocks)
    if not isinstance(shared_gpu, bool):
        raise UserError(f"shared_gpu is True or False, found {shared_gpu!r:.40}")
    if max_trials_global is None:
        if seconds is None:
            raise UserError("how long to tune? give max_trials_global or seconds")
        max_trials_global = UNLIMITED
    _usable_folder(work_dir)
    log = console()
    loggers = create_loggers(f"{work_dir}/logs", ["task_scheduler"])
    stack = ExitStack()  # of what is to be undone: a locked clock
    try:
        log.info("Working directory: %s", work_dir)
        db = _database(database, work_dir, module_equality)
        threads = tasks[0].num_threads
        build = as_builder(builder, threads)
        if isinstance(build, LocalBuilder):
            log.info("LocalBuilder: max_workers = %d", build.max_workers)
        run = Runner.create(runner)
        if isinstance(run, LocalRunner):
            log.info("LocalRunner: max_workers = 1")
        model = _cost_model(cost_model, work_dir, check_seed(seed))
        options = {"seed": check_seed(seed)} if task_scheduler == "gradient" else {}
        scheduler = TaskScheduler.create(task_scheduler, **options)
        per_task = max_trials_global if max_trials_per_task is None else max_trials_per_task
        result = TuneResult(
            db, tasks[0].mod, tasks[0].target, tuple(tasks), believe_own=not verify,
            objective=objective,
        )  # fmt: skip
        energy = 0.0 if objective == "latency" else EACH_S * FINALISTS * len(tasks)
        meter = refuse(objective, tasks, run, db)
        on_gpu = run.meter() if any(t.target.kind == "cuda" for t in tasks) else None
        notes: list[str] = []
        begun = time.monotonic()
        try:
            conditions = stack.enter_context(measuring(on_gpu, watching, shared_gpu, clock))
            try:
                _tune(
                    scheduler,
                    tasks,
                    task_weights,
                    max_trials_global,
                    per_task,
                    num_trials_per_iter,
                    build,
                    run,
                    _callbacks(measure_callbacks),
                    db,
                    model,
                    seconds=_search_seconds(
                        seconds, post_optimization, run, {t.target.kind for t in tasks}, energy
                    ),
                    verify=verify,
                    on_progress=on_progress,
                    failures_path=Path(work_dir) / FAILURES_FILE,
                    rounds_path=Path(work_dir) / ROUNDS_FILE,
                    stop=stop,
                    conditions=conditions,
                )
            except KeyboardInterrupt:
                if at_once():
                    raise
                scheduler.interrupted = True
            with held():  # what takes long looks by itself whether it is to end
                if not (scheduler.interrupted or interrupted()):
                    left = None if seconds is None else seconds - (time.monotonic() - begun)
                    measure_again(scheduler.tasks, db, build, run, left)
                _confirm_winners(scheduler, db)
                _save(model, work_dir)
                if post_optimization and not (scheduler.interrupted or interrupted()):
                    left = None if seconds is None else seconds - (time.monotonic() - begun)
                    post_optimize(scheduler, work_dir, believe_own=not verify, seconds=left)
            if meter is not None and (scheduler.interrupted or interrupted()):
                notes.append("interrupted before energy was measured: the best is the fastest")
            elif meter is not None:
                left = None if seconds is None else seconds - (time.monotonic() - begun)
                notes += measure_finalists(objective, scheduler.tasks, db, build, meter, left)
        except RecordError as e:
            e.result = result  # what was found is in memory, and not lost
            raise
        finally:
            with held():
                notes += _notes(scheduler)
                result.conclude(
                    [t.predicted for t in scheduler.tasks if t.predicted is not None],
                    Why.of(scheduler.rounds.lines, scheduler.rounds.failures, notes=notes),
                )
                loggers[0].info("%s", scheduler.failure_summary())
    finally:
        stack.close()
        _close(loggers)
    return result


def _notes(scheduler: TaskScheduler) -> list[str]:
    """What is to be said of tasks that ended early, or shared their GPU."""
    return [
        *[f'task "{t.task_name}" ended early: {t.ended}' for t in scheduler.tasks if t.ended],
        *[
            f'task "{t.task_name}": {t.unranked} candidates were measured while others computed on '
            "the GPU, and do not rank"
            for t in scheduler.tasks
            if t.unranked
        ],
    ]


def _search_seconds(
    seconds: float | None,
    post_optimization: bool,
    runner: Runner,
    kinds: set[str],
    energy: float,
) -> float | None:
    """What the search has of a time limit (the scheduler refuses what is none).

    Args:
        kinds: of targets.
        energy: seconds that it takes to measure that of all finalists.
    """
    if not isinstance(seconds, int | float):
        return seconds
    if energy and seconds > 0:
        seconds -= min(energy, _ENERGY_SHARE * seconds)
    if post_optimization:
        return seconds * _SEARCH_SHARE
    return seconds - reserve_for(runner, kinds, seconds)


def _checked_tasks(tasks: Any) -> list[TuneContext]:
    """The tasks, of which there must be one; each is a context of its own."""
    if isinstance(tasks, Iterable) and not isinstance(tasks, str | Mapping):
        tasks = list(tasks)
    if not isinstance(tasks, list) or not all(isinstance(t, TuneContext) for t in tasks):
        raise UserError(
            f"tasks is a list of TuneContext, found {tasks!r:.80}",
            hint="tune_tir takes a program; a TuneContext is a program, a target, a space and a "
            "strategy",
            code="tasks",
        )
    if not tasks:
        raise UserError("there is nothing to tune: the list of tasks is empty")
    if len({id(t) for t in tasks}) < len(tasks):
        raise UserError(
            "one TuneContext is in the list of tasks twice",
            hint="context.clone() makes another; or give it a greater weight",
            code="tasks",
        )
    return tasks


def _usable_folder(work_dir: str | Path) -> None:
    if not isinstance(work_dir, str | Path) or not str(work_dir):
        raise UserError(f"work_dir is the path of a folder, found {work_dir!r}")
    if is_url(str(work_dir)):
        raise UserError(
            f"work_dir is the path of a folder, found the address {redacted(str(work_dir))}",
            hint="database=ADDRESS keeps the records there; logs lie in work_dir",
            code="work-dir",
        )
    make_folder(Path(work_dir))


def _close(loggers: Sequence[logging.Logger]) -> None:
    for logger in loggers:
        for handler in logger.handlers:
            handler.close()


def _database(spec: str | Database, work_dir: str | Path, module_equality: str) -> Database:
    if isinstance(spec, Database):
        return spec
    if spec == "json":
        console().info(
            "Creating JSONDatabase. Workload at: %s. Tuning records at: %s",
            f"{work_dir}/{WORKLOAD_FILE}",
            f"{work_dir}/{RECORD_FILE}",
        )
        return JSONDatabase(work_dir=work_dir, module_equality=module_equality)
    if spec == "sqlite":
        return Database.create(
            "sqlite", Path(work_dir) / "database.sqlite", module_equality=module_equality
        )
    if spec == "sql":
        raise UserError(
            'a "sql" database has an address',
            hint='database="postgresql://user@host/name"',
            code="database",
        )
    if callable(spec) or spec in ("union", "ordered_union"):
        raise UserError(
            f"tuning writes to its database, and {spec!r:.60} cannot be written to",
            hint='"json", "sqlite", "memory", an address such as "sqlite:///tuned.sqlite", or an '
            "object; a union can be made of the result later",
            code="database",
        )
    return Database.create(spec, module_equality=module_equality)


def _callbacks(spec: Any) -> list[MeasureCallback]:
    if isinstance(spec, str):
        return MeasureCallback.create(spec)
    given = list(spec) if isinstance(spec, list | tuple) else [spec]
    return [check_part(c, MeasureCallback, "a measure callback", ' or "default"') for c in given]


def _cost_model(spec: Any, work_dir: str | Path, seed: int) -> Any:
    """The cost model; what an earlier run in the same folder learned is taken up."""
    from .cost_model import CostModel, XGBModel

    if spec is None or isinstance(spec, CostModel):
        return spec
    if not isinstance(spec, str):
        raise UserError(
            f"cost_model is a CostModel or its kind, found {spec!r:.60}",
            hint='"xgb", "mlp", "random" or "none"; inherit from CostModel or PyCostModel',
            code="cost-model",
        )
    model = CostModel.create(spec, **({"seed": seed} if spec == "random" else {}))
    path = Path(work_dir) / MODEL_FILE
    if isinstance(model, XGBModel) and path.exists():
        try:
            model.load(str(path))
        except RecordError as e:
            console().warning("The cost model of an earlier run is not used: %s", e.message)
            return CostModel.create(spec)
    return model


@held()
def _save(model: Any, work_dir: str | Path) -> None:
    from .cost_model import XGBModel

    if not isinstance(model, XGBModel):
        return
    path = f"{work_dir}/{MODEL_FILE}"
    try:
        model.save(path)
    except OSError as e:
        raise RecordError(f"cannot save the cost model to {path}: {e.strerror or e}") from None
    console().info("Saved %s to %s", type(model).__name__, path)


# ----------------------------------------------------------------------------- the winners
@held()
def _confirm_winners(scheduler: TaskScheduler, database: Database) -> None:
    """Check the best record of each task, of whatever age, unless it has been; withdraw it if it
    is wrong, and go on with the next."""
    for task in scheduler.tasks:
        if task.verifier is None:
            continue
        mod, target = task.ctx.mod, task.ctx.target
        records = database.candidates(mod, target)
        next(admitted(records, mod, target, checker=task.verifier, database=database), None)
