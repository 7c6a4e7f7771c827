"""How is a CUDA kernel tuned in one call? `tune_kernel`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RecordError, ScheduleError, UserError
from .ir.nodes import IRModule
from .raw_arguments import Arguments
from .raw_kernel import CudaKernel, Params
from .raw_result import KernelResult, Metric
from .raw_space import Choices, Configure, own_configuration, workload
from .raw_verify import RawVerifier, Tolerance
from .runtime.interruption import graceful
from .target import Target
from .target.host import cuda_problem
from .target.target import TargetLike
from .tuned_cuda_kernel import Measured, TunedCudaKernel
from .tuning import DEFAULT_TRIALS, _check_limits, _summary

if TYPE_CHECKING:
    from .meta_schedule import Database, Progress, TuningRecord
    from .meta_schedule.runner import Runner
    from .runtime.observe import Observer

_PER_ROUND = 16  # few, since a compiled configuration teaches the next ones
_ALL = 4096  # combinations that are all configured before anything is compiled


@graceful()
def tune_kernel(
    kernel: CudaKernel,
    args: Sequence[Any],
    *,
    reference: Callable[..., Any] | None = None,
    tolerance: Tolerance = None,
    target: TargetLike = "cuda",
    runner: str | Runner = "cuda",
    strategy: Any = "evolutionary",
    cost_model: Any = "xgb",
    objective: str = "latency",
    trials: int | None = None,
    seconds: float | None = None,
    work_dir: str | Path | None = None,
    metrics: Mapping[str, Metric] | None = None,
    seed: int | None = None,
    timeout: float = 30.0,
    progress: Callable[[Progress], None] | None = None,
    observers: Observer | Sequence[Observer] = (),
    lock_clocks: bool | int = False,
    shared_gpu: bool = False,
) -> KernelResult:
    """Find the fastest configuration of a CUDA kernel.

    Ctrl-C ends the search; the best configuration found so far is returned.

    Args:
        kernel: what `cuda_kernel` made.
        args: its arguments: arrays (NumPy, CuPy, ...) and NumPy numbers, in the kernel's order.
            Nothing is written into them: kernels run on copies.
        reference: takes the arguments (copies) and gives the right outputs, by name. Every new best
            is compared with it, and one that is wrong is refused. Without it, configurations are
            compared with the first one that runs.
        tolerance: relative, for all outputs or by output; default: by dtype.
        target: such as "cuda -arch=sm_90a"; "cuda" is this machine's GPU.
        runner: "cuda": the GPU; "host": host execution on the processor, whose clock is a stand-in
            (see `meta_schedule.host_runner`); or a runner.
        strategy: "evolutionary", "replay-trace", "exhaustive" or an object.
        cost_model: "xgb", "random", "none" or an object.
        objective: "latency", "energy" or "edp" (energy times delay). The last two need NVML: the
            fastest few configurations then run for a second and more each.
        trials: limit of the configurations that are compiled and measured.
        seconds: time limit. With both limits the first one reached ends the search; with neither,
            64 configurations are measured, and with strategy "exhaustive" all.
        work_dir: folder of the database; what it holds of this kernel with arguments of these
            shapes counts, and is not measured again. None: nothing is kept.
        metrics: figures for the table: functions of what was measured (`m.seconds`, `m.params`).
        seed: of all that is random.
        timeout: seconds that a configuration may take to compile, and to run.
        progress: called often with a `meta_schedule.Progress`.
        observers: are asked around and during every measurement: see `Observer`.
        lock_clocks: hold the GPU's clock meanwhile: True at its base clock, or at so many MHz.
        shared_gpu: rank what was measured while others computed on the GPU.

    Raises:
        UserError: something that makes no sense, no GPU to run on, no combination that is not
            refused, or no configuration that is right.
        RunError: every configuration failed; says how.

    Example:
        >>> r = tune_kernel(k, (c, a, b, np.int32(n)), reference=lambda c, a, b, n: {"c": a + b},
        ...     seconds=30, metrics={"GB/s": lambda m: 12 * n / m.seconds / 1e9})  # doctest: +SKIP
        >>> r.best.params; print(r.table()); print(r.why())  # doctest: +SKIP
    """
    _check(kernel, args, metrics)
    _check_limits(seconds, trials)
    chosen = _target(target)
    problem = cuda_problem() if runner == "cuda" else None
    if problem is not None:
        raise UserError(
            f"tune_kernel: {kernel.name} is to be timed on an NVIDIA GPU, and there is none to "
            f"use: {problem}",
            hint='runner="host" runs and checks every configuration on the processor (its times '
            "say nothing about a GPU)",
            code="no-gpu",
        )
    arguments = Arguments.of(kernel, args, reference)
    configure = Configure(arguments, chosen)
    _check_space(kernel, configure)
    if trials is None and seconds is None:
        trials = kernel.size if strategy == "exhaustive" else min(kernel.size, DEFAULT_TRIALS)
    with ExitStack() as stack:
        descriptions = stack.enter_context(arguments.stored())
        job = _Job(
            arguments,
            configure,
            chosen,
            reference,
            tolerance,
            _runner(runner, descriptions, timeout),
            timeout,
        )
        job.verifier.prepare()
        measuring = {
            "objective": objective, "observers": observers, "lock_clocks": lock_clocks,
            "shared_gpu": shared_gpu,
        }  # fmt: skip
        last = job.tune(
            stack, strategy, cost_model, trials, seconds, work_dir, seed, progress, measuring
        )
        return job.result(_summary(last), dict(metrics or {}))


class _Job:
    """A tuning under way."""

    def __init__(
        self,
        arguments: Arguments,
        configure: Configure,
        target: Target,
        reference: Callable[..., Any] | None,
        tolerance: Tolerance,
        runner: Any,
        timeout: float,
    ) -> None:
        from .meta_schedule.builder import LocalBuilder
        from .meta_schedule.host_runner import CLOCK, HostExecutionRunner

        self.arguments = arguments
        self.configure = configure
        self.target = target
        self.runner = runner
        self.builder = LocalBuilder(timeout_sec=timeout)
        self.verifier = RawVerifier(arguments, target, self.builder, runner, reference, tolerance)
        # Times of a stand-in clock are never taken for those of a GPU: that is another workload.
        by_host = isinstance(runner, HostExecutionRunner)
        self.mod = workload(arguments, {"clock": CLOCK} if by_host else {})
        self.database: Any = None
        self.objective = "latency"

    def tune(
        self,
        stack: ExitStack,
        strategy: Any,
        cost_model: Any,
        trials: int | None,
        seconds: float | None,
        work_dir: str | Path | None,
        seed: int | None,
        progress: Callable[[Progress], None] | None,
        measuring: Mapping[str, Any],
    ) -> list[Progress]:
        """Search; the last that was heard of it.

        Args:
            measuring: what `tune_tasks` is to know of objective and conditions.
        """
        from . import meta_schedule as ms
        from .meta_schedule.logging import quiet
        from .meta_schedule.tune_context import check_seed

        last: list[Progress] = []

        def note(now: Progress) -> None:
            last[:] = [now]
            if progress is not None:
                progress(now)

        stack.enter_context(quiet())
        folder, database = work_dir, "json"
        if folder is None:  # logs have to go somewhere
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gputune-"))
            database = "memory"
        state = check_seed(seed)
        kernel = self.arguments.kernel
        context = ms.TuneContext(
            self.mod,
            target=self.target,
            space_generator=Choices(kernel, self.configure),
            search_strategy=strategy,
            task_name=kernel.name,
            rand_state=state,
        )
        context.verifier = self.verifier
        result = ms.tune_tasks(
            tasks=[context],
            task_weights=[1.0],
            work_dir=folder,
            max_trials_global=trials,
            num_trials_per_iter=_PER_ROUND,
            builder=self.builder,
            runner=self.runner,
            database=database,
            cost_model=cost_model,
            seconds=seconds,
            seed=state,
            on_progress=note,
            **measuring,
        )
        self.database, self.objective = result, result.objective
        return last

    # ------------------------------------------------------------------ the result
    def result(self, summary: Any, metrics: Mapping[str, Metric]) -> KernelResult:
        """What was found."""
        best = self._best()
        if best is None and not summary.trials:
            raise UserError(
                f"tune_kernel: the search ended before any configuration of "
                f"{self.arguments.kernel.name} was measured ({summary})",
                hint="give it more time",
                code="no-configuration",
            )
        if best is None:
            raise UserError(
                f"tune_kernel: no configuration of {self.arguments.kernel.name} is right "
                f"({summary})",
                hint="every one that ran was refused: is the reference right?",
                code="no-configuration",
            )
        measured, foreign = self._measured()
        kernel = self.arguments.kernel
        return KernelResult(
            best,
            measured,
            summary,
            kernel.size,
            self.configure.refused,
            self._compared(),
            foreign,
            metrics,
            self.objective,
        )

    def _best(self) -> TunedCudaKernel | None:
        """The fastest record that is one of the kernel's own configurations, and right: one that
        this process has not seen to be right is checked now, whatever its record says."""
        for record in self.database.candidates(self.mod, self.target):
            mod = _replayed(record)
            found = None if mod is None else own_configuration(self.arguments, mod)
            if mod is None or found is None:
                continue
            if not self._is_right(record, mod):
                continue
            measured = Measured.of(record, Params(found.params), self.arguments.kernel.name)
            return TunedCudaKernel(measured, found, mod, self.arguments, self.target)
        return None

    def _is_right(self, record: TuningRecord, mod: IRModule) -> bool:
        if not record.verified:
            verdict = self.verifier.check_program(mod)
            record.verified = verdict.outcome == "right"
            return verdict.outcome != "wrong"
        return True

    def _measured(self) -> tuple[list[Measured], int]:
        """What became of each configuration (the last record of each; a wrong result stands), and
        how many records are of other ones."""
        name = self.arguments.kernel.name
        found: dict[Params, Measured] = {}
        foreign = 0
        for record in _records(self.database, self.mod, self.target):
            mod = _replayed(record)
            config = None if mod is None else own_configuration(self.arguments, mod)
            if config is None:
                foreign += 1
                continue
            new = Measured.of(record, Params(config.params), name)
            old = found.get(new.params)
            if old is None or old.error is None or old.error.get("kind") != "wrong_result":
                found[new.params] = new
        ranked = sorted(
            found.values(),
            key=lambda m: (m.error is not None, m.figure(self.objective), m.seconds),
        )
        return ranked, foreign

    def _compared(self) -> str:
        if self.verifier.reference is not None:
            return "outputs were compared with the reference's"
        return (
            "no reference was given: outputs were compared with those of the first configuration "
            f"that ran, {self.verifier.first!r}, which may be wrong itself"
        )


def _replayed(record: TuningRecord) -> IRModule | None:
    from .meta_schedule.database import replay

    try:
        return replay(record).mod
    except (RecordError, ScheduleError):
        return None


def _records(database: Database, mod: IRModule, target: Target) -> list[TuningRecord]:
    """All records of a workload on this class of machine, failures included."""
    return [
        r
        for r in database.get_records(database.commit_workload(mod))
        if r.extras.get("device", target.device_key) == target.device_key
    ]


# ----------------------------------------------------------------------------- checking the call
def _check(kernel: Any, args: Any, metrics: Any) -> None:
    if not isinstance(kernel, CudaKernel):
        raise UserError(
            f"tune_kernel: expected what cuda_kernel makes, found {type(kernel).__name__}",
            hint="gputune.tune takes programs in the tensor language",
        )
    if not isinstance(args, tuple | list):
        raise UserError(
            f"tune_kernel: args is a tuple of the kernel's arguments, found {type(args).__name__}"
        )
    for name, f in (metrics or {}).items():
        if not callable(f):
            raise UserError(f"tune_kernel: metric {name!r} is a function, found {f!r:.60}")


def _target(target: TargetLike) -> Target:
    chosen = Target(target)
    if chosen.kind != "cuda":
        raise UserError(
            f"tune_kernel: a CUDA kernel is tuned for a cuda target, found {chosen}",
            hint='target="cuda", or with an architecture: "cuda -arch=sm_90a"',
            code="target",
        )
    return chosen


def _runner(runner: Any, descriptions: list[dict[str, Any]], timeout: float) -> Any:
    from .meta_schedule.runner import Runner

    if isinstance(runner, str):
        return Runner.create(runner, timeout_sec=timeout, arguments=descriptions)
    if not isinstance(runner, Runner) or not hasattr(runner, "with_arguments"):
        raise UserError(
            "tune_kernel: runner is 'cuda', 'host' or a runner that has with_arguments and "
            f"outputs, found {runner!r:.60}",
            code="runner",
        )
    return runner.with_arguments(descriptions)


def _check_space(kernel: CudaKernel, configure: Configure) -> None:
    """UserError if every combination is refused."""
    if kernel.size > _ALL or configure.try_all():
        return
    reasons = "; ".join(f"{n} x {reason}" for reason, n in configure.refused.most_common(3))
    raise UserError(
        f"tune_kernel: all {kernel.size} combinations of {kernel.name} are refused: {reasons}",
        hint=f"the last: {configure.last_refusal}",
        code="refused",
    )
