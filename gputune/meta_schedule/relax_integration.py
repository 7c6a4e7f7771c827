"""Which tasks does a module of many tensor functions hold, and how is it compiled from a database?

Each tensor function is a task, and equal ones are one task of greater weight. Where the module has
graph functions, a tensor function weighs as much as they have calls of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..ir.graph import call_sites
from ..ir.nodes import IRModule, PrimFunc
from ..ir.scheduled import is_scheduled
from ..schedule import Schedule
from ..target import Target
from ..target.target import TargetLike
from .database import Database
from .logging import console, get_loggers_from_work_dir
from .module_equality import ModuleEquality
from .tir_integration import best_schedule
from .tune import ExtractedTask, _close, _own, tune_tasks
from .tune_context import TuneContext, check_seed
from .tune_result import TuneResult

if TYPE_CHECKING:
    from ..runtime.module import Module


def extract_tasks(
    mod: IRModule | PrimFunc,
    target: TargetLike,
    params: Mapping[str, Any] | None = None,
    *,
    module_equality: str = "structural",
) -> list[ExtractedTask]:
    """The tasks of a module, in the order in which they first appear.

    A task's weight is the number of calls in the module's graph functions, or, where it has none,
    of equal functions. Functions that say that they are scheduled already (`tir.is_scheduled`) are
    left out, and where there are graph functions, those that none of them calls.

    Args:
        mod: an IRModule, or one tensor function.
        target: the machine to tune for.
        params: values of the graph functions' parameters, by name; they do not change the tasks.
        module_equality: which functions are the same task; see `ModuleEquality`.

    Raises:
        UserError: params of another name than the graph functions have; no such equality.

    Example:
        >>> [task.weight for task in extract_tasks(IRModule({"a": mm, "b": mm}), "llvm")]
        [2]
    """
    chosen, equality = Target(target), ModuleEquality(module_equality)
    functions = tensor_functions(mod)
    graphs = mod.graphs if isinstance(mod, IRModule) else {}
    _check_params(params or {}, {p.name for g in graphs.values() for p in g.params})
    sites = call_sites(graphs.values())
    found: dict[str, list[ExtractedTask]] = {}
    order: list[list[Any]] = []  # task without its weight, and the weight
    for name, func in functions.items():
        weight = sites[name] if graphs else 1
        if is_scheduled(func) or not weight:
            continue
        alone = task_module(func)
        key = equality.hash(alone)
        for k, (task, _) in enumerate(order):
            if task in found.get(key, ()) and equality.equal(task.dispatched[0], alone):
                order[k][1] += weight
                break
        else:
            task = ExtractedTask(name, IRModule({name: func}), chosen, [alone], 1)
            found.setdefault(key, []).append(task)
            order.append([task, weight])
    return [
        ExtractedTask(t.task_name, t.mod, t.target, t.dispatched, weight) for t, weight in order
    ]


def _check_params(params: Mapping[str, Any], known: set[str]) -> None:
    unknown = [str(k) for k in params if k not in known]
    if unknown:
        names = ", ".join(sorted(known)) or "none, as the module has no graph function with any"
        raise UserError(
            f"params name parameters of a graph function, and there are none such: "
            f"{', '.join(unknown)}",
            hint=f"its parameters: {names}",
            code="graph",
        )


def tensor_functions(mod: IRModule | PrimFunc) -> dict[str, PrimFunc]:
    """The tensor functions of a module by name; UserError if it is no module."""
    if isinstance(mod, PrimFunc):
        return {mod.name: mod}
    if not isinstance(mod, IRModule):
        raise UserError(
            f"expected an IRModule of tensor functions, found {type(mod).__name__}",
            hint="decorate the kernels with @T.prim_func",
            code="not-a-program",
        )
    return dict(mod.functions)


def task_module(func: PrimFunc) -> IRModule:
    """The module of a function under the one name that all tasks have: "main"."""
    return IRModule({"main": func.with_attr("global_symbol", "main")})


def extracted_tasks_to_tune_contexts(
    extracted_tasks: Sequence[ExtractedTask],
    work_dir: str | Path,
    space: Any = "post-order-apply",
    strategy: Any = "evolutionary",
    num_tuning_cores: int | str | None = "physical",
    seed: int | None = None,
) -> tuple[list[TuneContext], list[float]]:
    """Tuning contexts and weights of tasks, for `tune_tasks`.

    Args:
        extracted_tasks: what `extract_tasks` gave.
        work_dir: folder of the logs.
        space, strategy: as of `tune_tir`; each task gets its own.
        num_tuning_cores: a number, "physical" or "logical".
        seed: of all that is random; None draws one.
    """
    names = [f"task_{i}_{t.task_name}" for i, t in enumerate(extracted_tasks)]
    rng = random.Random(check_seed(seed))
    contexts = [
        TuneContext(
            task.dispatched[0],
            target=task.target,
            space_generator=_own(space),
            search_strategy=_own(strategy),
            task_name=task.task_name,
            rand_state=rng.randint(1, 2**31 - 1),
            num_threads=num_tuning_cores,
            logger=logger,
        )
        for task, logger in zip(extracted_tasks, get_loggers_from_work_dir(work_dir, names))
    ]
    return contexts, [float(t.weight) for t in extracted_tasks]


def tune_relax(
    mod: IRModule | PrimFunc,
    params: Mapping[str, Any] | None,
    target: TargetLike,
    work_dir: str | Path,
    max_trials_global: int | None,
    *,
    max_trials_per_task: int | None = None,
    op_names: Sequence[str] | None = None,
    num_trials_per_iter: int = 64,
    builder: Any = "local",
    runner: Any = "local",
    database: Any = "json",
    cost_model: Any = "xgb",
    measure_callbacks: Any = "default",
    task_scheduler: Any = "gradient",
    space: Any = "post-order-apply",
    strategy: Any = "evolutionary",
    num_tuning_cores: int | str | None = "physical",
    seed: int | None = None,
    module_equality: str = "structural",
    seconds: float | None = None,
    verify: bool = True,
    on_progress: Callable[..., None] | None = None,
) -> TuneResult:
    """Tune the functions of a module with one budget.

    Args:
        mod, params: as of `extract_tasks`.
        op_names: tune only functions whose name holds one of these.
        target, work_dir, max_trials_global and the rest: as of `tune_tir`.

    Raises:
        ValueError: there is nothing to tune.
        UserError: as of `extract_tasks` and `tune_tir`.

    Example:
        >>> database = tune_relax(mod, None, "llvm", "./tuned", max_trials_global=64)
        >>> compile_relax(database, mod, "llvm")["matmul"](a, b, c)
    """
    tasks = extract_tasks(mod, target, params, module_equality=module_equality)
    if op_names is not None:
        tasks = [t for t in tasks if any(n in t.task_name for n in op_names)]
    contexts, weights = extracted_tasks_to_tune_contexts(
        tasks, work_dir, space, strategy, num_tuning_cores, seed
    )
    try:
        return tune_tasks(
            tasks=contexts,
            task_weights=weights,
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
            seconds=seconds,
            verify=verify,
            on_progress=on_progress,
            seed=seed,
        )
    finally:
        _close([c.logger for c in contexts])


def compile_relax(
    database: Database,
    mod: IRModule | PrimFunc,
    target: TargetLike,
    params: Mapping[str, Any] | None = None,
    enable_warning: bool = False,
) -> Module:
    """Compile a module, each function with its best schedule.

    A function of which the database knows nothing is compiled as it is (on a GPU: with its outer
    loops bound to threads).

    Args:
        database: where the schedules are.
        mod: an IRModule of tensor functions, or one function.
        target: the machine to compile for.
        params: as of `extract_tasks`.
        enable_warning: say which functions the database knows nothing of.

    Raises:
        UserError: the module has graph functions: `gputune.compile` makes executables of those.

    Returns:
        What `gputune.build` gives: `compiled[name](*arrays)`.
    """
    from ..runtime.module import build

    chosen = Target(target)
    functions = tensor_functions(mod)
    if isinstance(mod, IRModule) and mod.graphs:
        raise UserError(
            f"the module has graph functions: {', '.join(mod.graphs)}",
            hint="put tuned functions in with update_func, then gputune.compile(mod, target)",
            code="graph",
        )
    _check_params(params or {}, set())
    out: dict[str, PrimFunc] = {}
    for name, func in functions.items():
        sch = None
        if not is_scheduled(func):
            sch = best_schedule(database, task_module(func), chosen)
            if sch is None and enable_warning:
                console().warning("Tuning record is not found for primfunc: %s", name)
        tuned = func if sch is None else _only(sch.mod)
        if sch is None and chosen.kind == "cuda":
            tuned = _bound(func, chosen)
        out[name] = tuned.with_attr("global_symbol", name)
    return build(IRModule(out), chosen)


def _only(mod: IRModule) -> PrimFunc:
    return next(iter(mod.functions.values()))


def _bound(func: PrimFunc, target: Target) -> PrimFunc:
    """A function whose loops run on a GPU's threads, as far as they are not bound yet."""
    from .postproc.rewrite_unbound_block import RewriteUnboundBlock

    sch = Schedule(task_module(func), error_render_level="fast")
    postproc = RewriteUnboundBlock()
    postproc.initialize_with_tune_context(TuneContext(sch.mod, target=target))
    postproc.apply(sch)
    return _only(sch.mod)
