"""How is one kernel tuned in one line? `tune`: a program in, a callable out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import GputuneError, RunError, UserError
from .figures import plain
from .ir.nodes import IRModule, PrimFunc
from .packing import with_free_layouts
from .runtime.cuda_device import need_gpu
from .runtime.interruption import graceful, held, interrupted
from .target import Target
from .target.target import TargetLike
from .tuned_kernel import Summary, TunedKernel, single_function

if TYPE_CHECKING:
    from .meta_schedule import Builder, DaskCluster, Database, Progress, Runner, TuningRecord
    from .meta_schedule.predicted import Predicted
    from .meta_schedule.verify import Checker
    from .runtime.observe import Observer

DEFAULT_TRIALS = 64
"""Candidates that are measured where neither trials nor seconds are given."""

_PER_ROUND = 64


@graceful()
def tune(
    func: PrimFunc | IRModule,
    target: TargetLike = "auto",
    seconds: float | None = None,
    trials: int | None = None,
    work_dir: str | Path | None = None,
    *,
    seed: int | None = None,
    space: Any = "post-order-apply",
    progress: Callable[[Progress], None] | None = None,
    early_stop: float | None = None,
    patience: int | None = None,
    runner: str | Runner = "local",
    layout_free: str | int | Iterable[str | int] | None = None,
    database: str | Database | None = None,
    objective: str = "latency",
    observers: Observer | Sequence[Observer] = (),
    lock_clocks: bool | int = False,
    shared_gpu: bool = False,
    scheduler: str | DaskCluster | None = None,
    reference: Callable[..., Any] | None = None,
) -> TunedKernel:
    """Search for a fast schedule of a kernel, and give it back compiled.

    Ctrl-C ends the search; the best kernel found so far is returned, and
    `kernel.summary.interrupted` says so. SIGTERM and SIGHUP do the same, where the program has no
    handlers of its own. A second signal ends it at once.

    Args:
        func: a PrimFunc, or an IRModule of one function.
        target: what `Target` accepts; "auto" is the best that this machine offers.
        seconds: time limit of the search.
        trials: limit of the candidates that are measured. With both limits the first one reached
            ends the search; with neither, 64 candidates are measured. 0: nothing is measured; the
            kernel is what `work_dir` knows to be best or, where it knows nothing, what the model
            ranks first (`kernel.predicted`; `kernel.seconds` is None).
        work_dir: folder of the database. What is found is added to it, and what it holds already
            counts: the result is the best of the whole history. None: nothing is kept.
        seed: of all that is random. The same seed and the same measured times give the same
            candidates: those of the first round (up to 64) are the same in every run, what follows
            learns from times, which are never quite the same.
        space: what to choose from: "post-order-apply" (gputune's own rules), a `SpaceGenerator`, or
            a function that schedules with sampling instructions.
        progress: called often during the search with a `meta_schedule.Progress`; its
            `best_schedule` is the best so far.
        early_stop: end the search when the model expects, two rounds running, that nothing is left
            that is faster by this fraction (such as 0.05); None: never.
        patience: end the search after so many trials without a new best; None: never.
        runner: what runs candidates: "local": the machine's processor or GPU, as the target says;
            "host": CUDA kernels by host execution on the processor, checked, with times that say
            nothing about a GPU; or a `meta_schedule.Runner`.
        layout_free: arguments, by name or position, that are the same at every call, such as
            weights. They get the layout that the fastest schedule wants: `kernel.pack(W=w)` brings
            them there, once, and no candidate's time includes it. None: those that the function's
            attribute `layout_free_buffers` lists. Only the search for llvm makes use of it.
        objective: "latency", or on a GPU "energy" or "edp" (energy times delay): see
            `meta_schedule.tune_tir`, as for the next three.
        observers: are asked around and during every measurement: see `Observer`.
        lock_clocks: hold the GPU's clock meanwhile: True at its base clock, or at so many MHz.
        shared_gpu: rank what was measured while others computed on the GPU.
        scheduler: address of a Dask scheduler, such as "tls://farm:8786", or a `DaskCluster`: its
            workers build and run candidates ("local" and "host" are meant there), and no GPU is
            needed here.
        reference: what numbers are compared with, in place of the unscheduled program's: a function
            that takes the inputs as NumPy arrays and returns the output, or a tuple of all.

    Returns:
        A `TunedKernel`. Its numbers were compared with the unscheduled program's, also where its
        schedule is one that `work_dir` held before. Records that fail that are withdrawn; if none
        works, it has the default schedule, and a warning says so.

    Raises:
        UserError: an argument that makes no sense, a kernel that surely accesses what lies outside
            a buffer, a folder that cannot be used, or Ctrl-C before anything was measured.
        TargetError: no such target.
        RunError: every candidate failed; says how. There is no GPU to time a cuda kernel on.
        RecordError: recording failed (disk full); what was recorded before is kept.

    Example:
        >>> f = gputune.tune(matmul, seconds=20)
        >>> c = f(a, b)
        >>> print(f.report())
    """
    name, workload = single_function(func, "tune")
    workload = with_free_layouts(workload, layout_free)
    _check_limits(seconds, trials, least=0)
    chosen = tunable_target(target, space)
    if chosen.kind == "cuda" and runner == "local" and trials != 0 and scheduler is None:
        need_gpu(f"tune: {name} for cuda")
    from . import meta_schedule as ms
    from .meta_schedule.logging import quiet

    builder, runner = _on_machines(scheduler, runner)
    last: list[Progress] = []

    def note(now: Progress) -> None:
        last[:] = [now]
        if progress is not None:
            progress(now)

    with ExitStack() as stack:
        stack.enter_context(quiet())
        folder, keep = work_dir, "json" if database is None else database
        if folder is None:  # logs have to go somewhere
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gputune-"))
            keep = "memory" if database is None else database
            if database == "sqlite":
                raise UserError(
                    'tune: database="sqlite" is a file in work_dir, which is not given',
                    hint='database="sqlite:///FILE" says where it is',
                )
        most = trials if trials is not None else None if seconds is not None else DEFAULT_TRIALS
        try:
            result = ms.tune_tir(
                IRModule({name: workload}),
                chosen,
                folder,
                most,
                num_trials_per_iter=_PER_ROUND,
                database=keep,
                space=space,
                seed=seed,
                seconds=seconds,
                on_progress=note,
                early_stop=early_stop,
                patience=patience,
                builder=builder,
                runner=runner,
                objective=objective,
                observers=observers,
                lock_clocks=lock_clocks,
                shared_gpu=shared_gpu,
                reference=reference,
            )
        except RunError as e:
            if work_dir is None and e.code == "all-failed":  # the folder is about to go
                e.hint = 'work_dir="FOLDER" keeps every failure with its trace'
            raise
        stack.enter_context(held())  # what was found is not to be lost any more
        summary = replace(_summary(last), why=result.why())
        mod = IRModule({name: workload})
        records = result.candidates(mod, chosen)
        found = best_kernel(
            records, mod, chosen, database=result, summary=summary, checker=result.checker_of(mod)
        )
        if found is None:
            found = _predicted_kernel(result.predicted_for(mod), chosen, workload, summary)
        if found is None and (
            trials == 0 or records or summary.trials or _any_withdrawn(result, mod)
        ):
            found = _fallback(mod, chosen, summary)
    if found is None:
        why = "interrupted before" if summary.interrupted else "the search ended before"
        raise UserError(
            f"tune: {why} any candidate of {name} was measured ({summary})",
            hint="give it more time",
            code="no-schedule",
        )
    return found


def _on_machines(
    scheduler: str | DaskCluster | None, runner: str | Runner
) -> tuple[str | Builder, str | Runner]:
    """What builds and what measures: here, or on the machines of a cluster."""
    if scheduler is None:
        return "local", runner
    if runner not in ("local", "host"):
        raise UserError(
            f'tune: with a scheduler the runner is "local" or "host", found {runner!r:.60}',
            hint="meta_schedule.tune_tir takes a builder and a runner",
            code="runner",
        )
    from .meta_schedule.cluster import cluster_of
    from .meta_schedule.on_dask import DaskBuilder, DaskRunner

    cluster = cluster_of(scheduler)
    return DaskBuilder(cluster), DaskRunner(cluster, runner=str(runner))


def tunable_target(target: TargetLike, space: Any = "post-order-apply") -> Target:
    """The target meant; where "auto" is a GPU for which `space` has no rules, llvm, and a warning
    says so."""
    chosen = Target(target)
    if target != "auto" or chosen.kind == "llvm" or not isinstance(space, str):
        return chosen
    from .meta_schedule.logging import console
    from .meta_schedule.schedule_rule import ScheduleRule

    try:
        ScheduleRule.create(chosen.kind)
    except UserError as e:
        console().warning("Tuning for llvm: %s", e.message)
        return Target("llvm")
    return chosen


def best_kernel(
    records: Iterable[TuningRecord],
    mod: IRModule,
    target: Target,
    *,
    database: Database | None = None,
    summary: Summary | None = None,
    checker: Checker | None = None,
) -> TunedKernel | None:
    """The first of some records of a one-function program that may be used (see
    `meta_schedule.admission`) and can be built, compiled; None if there is none.

    Args:
        records: the best first.
        database: where records that fail the check are withdrawn; None: nowhere.
        summary: of the tuning run, if there was one.
        checker: what decides which numbers are right; None: the usual one.
    """
    from .meta_schedule.admission import admitted
    from .meta_schedule.logging import console

    (workload,) = mod.functions.values()
    for found in admitted(records, mod, target, checker=checker, database=database):
        try:
            return TunedKernel(
                found.schedule, target, workload=workload, record=found.record, summary=summary
            )
        except GputuneError as e:
            console().warning("A record cannot be built and is passed over: %s", plain(e.message))
    return None


def _predicted_kernel(
    predicted: Predicted | None, target: Target, workload: PrimFunc, summary: Summary
) -> TunedKernel | None:
    """What was chosen without a measurement, compiled, if it can be."""
    if predicted is None:
        return None
    try:
        return TunedKernel(
            predicted.schedule, target, workload=workload, summary=summary,
            verified=predicted.verified, predicted=predicted,
        )  # fmt: skip
    except GputuneError:
        return None


def _any_withdrawn(database: Database, mod: IRModule) -> bool:
    workload = database.commit_workload(mod)
    return any(r.withdraws and r.workload is workload for r in database.get_records(workload))


def _fallback(mod: IRModule, target: Target, summary: Summary) -> TunedKernel:
    """The default schedule, where tuning has found none that works."""
    from .default_schedule import build_default
    from .meta_schedule.logging import console

    ((name, workload),) = mod.functions.items()
    console().warning(
        "No schedule of %s that was measured can be used (%s): it gets the default one",
        name, summary,
    )  # fmt: skip
    schedule, module = build_default(mod, target)
    return TunedKernel(schedule, target, workload=workload, summary=summary, module=module)


def _check_limits(seconds: float | None, trials: int | None, least: int = 1) -> None:
    if seconds is not None and (
        isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0
    ):
        raise UserError(f"tune: seconds is a time above 0, found {seconds!r}")
    if trials is not None and (
        isinstance(trials, bool) or not isinstance(trials, int) or trials < least
    ):
        raise UserError(f"tune: trials is a count from {least}, found {trials!r}")


def _summary(last: list[Progress]) -> Summary:
    if not last:
        return Summary()
    now = last[0]
    ended = now.phase == "interrupted" or interrupted()  # it may have come afterwards
    return Summary(now.trials, now.elapsed_s, dict(now.failures), ended)
