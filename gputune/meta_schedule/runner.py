"""How long do candidates take? Runners; the local one measures in one long-lived worker process."""

from __future__ import annotations

import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import GputuneError, RunError, UserError
from ..runtime.gpus import check_devices
from ..runtime.process import Worker
from .arg_info import ArgInfo
from .artifact import Artifact
from .derived import left_open
from .evaluator_config import EvaluatorConfig as EvaluatorConfig
from .evaluator_config import cuda_plan as _cuda_plan
from .evaluator_config import plan as _plan
from .failures import Failure
from .ranking import ranked_seconds, unranked
from .timescale import USUAL, on_scale, regime_of
from .timescale import BestSoFar as BestSoFar

if TYPE_CHECKING:
    from .cuda_runner import CudaRunner


@dataclass(frozen=True, slots=True)
class RunnerInput:
    """A kernel to time.

    Attributes:
        artifact_path: what the builder gave.
        device_type: "cpu" or "cuda".
        args_info: descriptions of the arguments.
        best: what it competes with: once it is clearly slower, one call is enough.
        placement: which of the ways to lay the arguments out in memory; 0: the usual one.
        flop: operations of a call; 0 where they are not known.
    """

    artifact_path: str
    device_type: str
    args_info: Sequence[ArgInfo]
    best: BestSoFar | None = None
    placement: int = 0
    flop: float = 0.0


def _listed(run_secs: Any) -> list[Any]:
    try:
        return list(run_secs)
    except TypeError:
        raise UserError(
            f"RunnerResult: run_secs is a list of seconds, found {run_secs!r:.60}",
            hint="one number for each repeat; None for a failure",
            code="run-secs",
        ) from None


@dataclass(frozen=True, slots=True)
class RunnerResult:
    """What became of it: times, or why there are none.

    Attributes:
        run_secs: seconds a call, one for each repeat; or None.
        error_msg: why it failed, or None.
        failure: the same, taken apart; a runner of one's own may leave it out.
        cut: it was clearly slower than the best and was called once only.
        disturbed: repeats during which the system held the kernel up.
        verified: its numbers were compared with those of the unscheduled program.
        extras: more facts for the record, as JSON-able values: clocks, registers, ...
    """

    run_secs: Sequence[float] | None
    error_msg: str | None = None
    failure: Failure | None = None
    cut: bool = False
    disturbed: int = 0
    verified: bool = False
    extras: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.run_secs is not None:
            object.__setattr__(self, "run_secs", _listed(self.run_secs))

    @property
    def problem(self) -> Failure | None:
        """Why it failed, or None. Times that cannot be are a failure: a record of them would be
        refused, or win for ever."""
        if self.failure is not None:
            return self.failure
        if self.error_msg is not None:
            return Failure("run", "error", self.error_msg or "the runner gave no times")
        if not self.run_secs:
            return Failure("run", "error", "the runner gave no times")
        for s in self.run_secs:
            if not (isinstance(s, Real) and math.isfinite(s) and s >= 0):
                return Failure("run", "error", f"the runner gave the time {s!r:.40}: no seconds")
        if statistics.median(self.run_secs) == 0:
            return Failure("run", "error", "the runner gave 0 s: too short for its clock")
        return None

    @property
    def seconds(self) -> float:
        """The median of `run_secs`, at the GPU's reference clock (see `ranking`); infinite for a
        failure, and for a sample that does not rank."""
        if self.problem is not None:
            return math.inf
        return ranked_seconds(self.run_secs, self.extras)

    @property
    def unranked(self) -> str:
        """Why it was measured and does not rank, or ""."""
        return "" if self.problem is not None else unranked(self.extras)

    @property
    def regime(self) -> str:
        """What the caches held while it was timed; "warm" where the runner does not say."""
        return regime_of(self.extras)

    @property
    def is_lost(self) -> bool:
        """Did it fail for no fault of the candidate's?"""
        return self.problem is not None and self.problem.infrastructure

    @staticmethod
    def failed(failure: Failure) -> RunnerResult:
        """The result of a failure."""
        return RunnerResult(None, str(failure), failure)


class RunnerFuture:
    """A result that may come later.

    Args:
        f_done: is it there?
        f_result: wait for it, and give it.
    """

    def __init__(
        self,
        f_done: Callable[[], bool] | None = None,
        f_result: Callable[[], RunnerResult] | None = None,
    ) -> None:
        self._f_done = f_done
        self._f_result = f_result

    def done(self) -> bool:
        """Is the result there?"""
        if self._f_done is None:
            raise NotImplementedError(f"{type(self).__name__}: done() is not implemented")
        return self._f_done()

    def result(self) -> RunnerResult:
        """Wait for the result, and give it."""
        if self._f_result is None:
            raise NotImplementedError(f"{type(self).__name__}: result() is not implemented")
        return self._f_result()


class OwnProcess(Protocol):
    """A process that measures for itself alone; see `Runner.fresh`."""

    def start(self) -> None:
        """Start it in the background."""

    def wait(self) -> None:
        """Until it is ready; RunError if it does not start."""

    def measure(self, x: RunnerInput) -> RunnerResult:
        """Time one kernel now, in full."""

    def close(self) -> None:
        """End it."""


class Meter(Protocol):
    """What a runner of a GPU can say beyond times; see `Runner.meter`."""

    def about(self, again: bool = False) -> Mapping[str, Any]:
        """The worker's answer to "gpu_cuda"; `again`: read the reference clocks anew."""

    def energy(self, x: RunnerInput) -> Mapping[str, Any]:
        """`runtime.energy.Energy` of a kernel, as JSON."""


class Runner(ABC):
    """Base class of runners; write your own by inheriting from it."""

    @abstractmethod
    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        """Time kernels: one future each, in their order. A failure is a result, never an
        exception."""

    def start(self) -> None:  # noqa: B027  # most runners have nothing to do
        """Get ready in the background, where there is something to get ready."""

    def fresh(self) -> OwnProcess | None:
        """A new process that measures in the same way, not started yet; None if there is no such
        thing. See `finalists`."""
        return None

    def meter(self) -> Meter | None:
        """What tells of the GPU on which this runner measures CUDA programs, and of their energy;
        None where there is no such thing."""
        return None

    def fresh_on_gpu(self) -> OwnProcess | None:
        """The same for kernels of a GPU."""
        return None

    def regime_on(self, device_type: str) -> str | None:
        """The cache regime in which it measures on "cpu" or "cuda"; None: in that of the task, or
        as fits."""
        return None

    @staticmethod
    def create(kind: str | Runner = "local", *args: Any, **kwargs: Any) -> Runner:
        """A runner by kind: "local", "cuda" (CUDA kernels on the GPU), "host" (CUDA kernels by host
        execution), "dask" (on the machines of a cluster, `DaskRunner`) or "rpc" (the same, in
        MetaSchedule's words). ValueError for another."""
        if isinstance(kind, Runner):
            return kind
        if kind == "local":
            return LocalRunner(*args, **kwargs)
        if kind == "host":
            from .host_runner import HostExecutionRunner

            return HostExecutionRunner(*args, **kwargs)
        if kind == "cuda":
            from .cuda_runner import CudaRunner

            return CudaRunner(*args, **kwargs)
        if kind == "rpc":
            from .rpc import RPCRunner

            return RPCRunner(*args, **kwargs)
        if kind == "dask":
            from .on_dask import DaskRunner

            return DaskRunner(*args, **kwargs)
        raise UserError(f"unknown kind of runner {kind!r}; known are: local, rpc, cuda, host, dask")


@left_open
class PyRunner(Runner):
    """MetaSchedule's class to inherit from: a method left out is missed when it is called."""


class PyRunnerFuture(RunnerFuture):
    """MetaSchedule's name of the class to inherit from: give it `done` and `result`."""


@cache
def shared_worker() -> Worker:
    """The process's one worker for measurements; it stays warm from one tuning to the next."""
    return Worker()


class LocalRunner(Runner):
    """Times kernels one after the other in one worker process of this machine.

    Nothing is measured until a future is asked, so the caller decides how long it goes on.

    Args:
        timeout_sec: for one candidate, from when the worker begins on it; a worker that takes
            longer is killed and replaced.
        evaluator_config: how to time; default: a few repeats of about a millisecond.
        cooldown_sec: pause before each candidate.
        alloc_repeat: how often to allocate fresh arguments and time again.
        f_alloc_argument: `(device_type, args_info, alloc_repeat) -> list of argument lists`.
        f_run_evaluator: `(Module, device, evaluator_config, repeated_args) -> seconds`.
        f_cleanup: called after each candidate.
        initializer: called once before the first candidate.
        devices: GPUs that measure CUDA kernels together: numbers, or "all" of the model of the
            first; see `CudaRunner`. None: the first.
        mixed: GPUs of different models may measure together, though their times do not rank.

    The functions run in this process, and with `f_alloc_argument` or `f_run_evaluator` so do the
    kernels, without a time limit.
    """

    def __init__(
        self,
        timeout_sec: float = 30.0,
        evaluator_config: EvaluatorConfig | None = None,
        cooldown_sec: float = 0.0,
        alloc_repeat: int = 1,
        f_alloc_argument: Callable[..., Any] | None = None,
        f_run_evaluator: Callable[..., Any] | None = None,
        f_cleanup: Callable[[], None] | None = None,
        initializer: Callable[[], None] | None = None,
        devices: str | Sequence[int] | None = None,
        mixed: bool = False,
    ) -> None:
        if not timeout_sec > 0:
            raise UserError(f"LocalRunner: timeout_sec must be positive, found {timeout_sec!r}")
        if type(alloc_repeat) is not int or alloc_repeat < 1:
            raise UserError(f"LocalRunner: alloc_repeat is a count from 1, found {alloc_repeat!r}")
        in_parent = f_alloc_argument is not None or f_run_evaluator is not None
        if in_parent and evaluator_config is not None and evaluator_config.caches == "rotate":
            raise UserError(
                "LocalRunner: arguments of your own, or a clock of your own, do not rotate",
                hint='EvaluatorConfig(regime="warm") or "flush"',
                code="regime",
            )
        self.timeout_sec = float(timeout_sec)
        self.evaluator_config = evaluator_config or EvaluatorConfig(adaptive=True)
        self.cooldown_sec = float(cooldown_sec)
        self.alloc_repeat = alloc_repeat
        self.f_alloc_argument = f_alloc_argument
        self.f_run_evaluator = f_run_evaluator
        self.f_cleanup = f_cleanup
        self.initializer = initializer
        self._initialized = initializer is None
        self.devices = devices
        self.mixed = mixed
        functions = (f_alloc_argument, f_run_evaluator, f_cleanup, initializer)
        if devices is not None:
            check_devices(devices)
        if devices is not None and any(f is not None for f in functions):
            raise UserError(
                "LocalRunner: functions of yours run one after the other: not with devices=...",
                code="devices",
            )

    @property
    def worker(self) -> Worker:
        """The worker process that measures on the processor."""
        return shared_worker()

    @property
    def gpu_worker(self) -> Worker:
        """The worker process that measures on a GPU."""
        return self._of_gpu.worker

    @property
    def _in_parent(self) -> bool:
        return self.f_alloc_argument is not None or self.f_run_evaluator is not None

    def start(self) -> None:
        """Start the worker in the background."""
        if self.devices is not None:
            self._of_gpu.start()
        elif not self._in_parent:
            self.worker.start()

    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        """Futures of the kernels' times; asking one, even whether it is done, measures."""
        if self.devices is not None and all(x.device_type == "cuda" for x in runner_inputs):
            return self._of_gpu.run(runner_inputs)
        return [_Measurement(self, x) for x in runner_inputs]

    def measure(self, x: RunnerInput) -> RunnerResult:
        """Time one kernel now."""
        try:
            if not self._initialized and self.initializer is not None:
                self.initializer()
                self._initialized = True
            if self.cooldown_sec:
                time.sleep(self.cooldown_sec)
            artifact = Artifact.load(x.artifact_path)
            if x.device_type not in ("cpu", "cuda"):
                raise RunError(
                    f"this runner measures on the cpu and on cuda, not on {x.device_type!r}"
                )
            if x.device_type == "cuda" and not self._in_parent:
                return self._on_gpu(x)
            return self._measure_here(artifact, x) if self._in_parent else self._ask(artifact, x)
        except GputuneError as e:
            return RunnerResult.failed(_failure(e))
        except Exception as e:
            if not self._in_parent and self._initialized:
                raise
            # whatever the user's function raises is this candidate's failure
            return RunnerResult.failed(Failure("run", type(e).__name__, str(e)))
        finally:
            if self.f_cleanup is not None:
                self.f_cleanup()

    def _on_gpu(self, x: RunnerInput) -> RunnerResult:
        return self._of_gpu.measure(x)

    @cached_property
    def _of_gpu(self) -> CudaRunner:
        """The runner of CUDA programs."""
        from .cuda_runner import CudaRunner

        plan = _cuda_plan(self.evaluator_config)
        if self.devices is None:
            return CudaRunner(self.timeout_sec, None, plan)
        return CudaRunner(
            self.timeout_sec, None, plan, self.cooldown_sec, devices=self.devices, mixed=self.mixed
        )

    def meter(self) -> Meter | None:
        """That of CUDA programs, unless the caller's functions measure."""
        return None if self._in_parent else self._of_gpu

    def fresh(self) -> OwnProcess | None:
        """One with a worker process of its own, unless the caller's functions measure."""
        plain = self.f_cleanup is None and self.initializer is None and not self._in_parent
        return FreshRunner(self) if plain else None

    def fresh_on_gpu(self) -> OwnProcess | None:
        """One with a worker process of its own, unless the caller's functions measure."""
        if self.fresh() is None:
            return None
        from .cuda_runner import CudaRunner

        plan = {**_cuda_plan(self.evaluator_config), "cut": math.inf}
        return CudaRunner(self.timeout_sec, None, plan, self.cooldown_sec).fresh_on_gpu()

    def regime_on(self, device_type: str) -> str | None:
        """What the evaluator's settings say; on a processor that is never left open."""
        if self.f_run_evaluator is not None:
            return USUAL  # as far as is known
        return self.evaluator_config.caches or (USUAL if device_type == "cpu" else None)

    # ------------------------------------------------------------------ in the worker
    def _ask(self, artifact: Artifact, x: RunnerInput) -> RunnerResult:
        config = self.evaluator_config
        best = math.inf if x.best is None else x.best.seconds
        plan = _plan(config, best)
        if config.adaptive and best == math.inf:
            # The first of its task: how fast these kernels are, and so how to time them, is found
            # by timing it once.
            found = self._request(artifact, plan, None, 0, x.placement)
            plan = _plan(config, min(found["run_secs"]))
            if plan["repeat"] == 1 and self.alloc_repeat == 1:
                return self._result(x, [found])
        cutoff = None
        if best < math.inf and config.cut < math.inf:
            cutoff = best * config.cut
        asked: list[dict[str, Any]] = []
        for seed in range(self.alloc_repeat):
            asked.append(self._request(artifact, plan, cutoff, seed, x.placement))
            if asked[-1]["cut"]:
                break
        return self._result(x, asked)

    def _result(self, x: RunnerInput, asked: Sequence[Mapping[str, Any]]) -> RunnerResult:
        """What the answers to the requests of one kernel say, on the scale of its task; the last
        one says how it was measured."""
        seconds = [float(s) for data in asked for s in data["run_secs"]]
        correct = self.evaluator_config.correct_drift
        timing = asked[-1]["timing"]
        seconds, timing = on_scale(seconds, timing, x.best, x.device_type, x.flop, correct)
        return RunnerResult(
            seconds,
            cut=any(bool(data["cut"]) for data in asked),
            disturbed=sum(int(data["disturbed"]) for data in asked),
            extras={"timing": timing},
        )

    def _request(
        self,
        artifact: Artifact,
        plan: dict[str, Any],
        cutoff: float | None,
        seed: int,
        placement: int,
    ) -> dict[str, Any]:
        args = {
            "symbol": artifact.symbol,
            "arguments": artifact.arguments,
            "num_threads": artifact.num_threads,
            "evaluator": plan,
            "cutoff_s": cutoff,
            "seed": seed,
            "placement": placement,
        }
        return self.worker.request("run", args, (artifact.code,), self.timeout_sec).data

    # ------------------------------------------------------------------ with the user's functions
    def _measure_here(self, artifact: Artifact, x: RunnerInput) -> RunnerResult:
        from ..runtime.devices import Device

        module, name = _loaded(artifact)
        device = Device("cuda" if artifact.cuda else "cpu")
        alloc = self.f_alloc_argument or _alloc_random
        repeated = alloc(x.device_type, list(x.args_info), self.alloc_repeat)
        if self.f_run_evaluator is not None:
            seconds = self.f_run_evaluator(module, device, self.evaluator_config, repeated)
        else:
            plan = _plan(self.evaluator_config, math.inf)
            timer = module.time_evaluator(
                name,
                device,
                number=plan["number"],
                repeat=plan["repeat"],
                min_repeat_ms=plan["min_repeat_ms"],
                flush_cache=self.evaluator_config.caches == "flush",
            )
            seconds = [s for args in repeated for s in timer(*args).results]
        told = {"timing": {"regime": self.regime_on(x.device_type) or USUAL}}
        return RunnerResult([float(s) for s in seconds], extras=told)


class FreshRunner(LocalRunner):
    """Measures as another runner does, in a worker process of its own, until `close()`."""

    def __init__(self, like: LocalRunner) -> None:
        config = replace(like.evaluator_config, cut=math.inf)
        super().__init__(like.timeout_sec, config, like.cooldown_sec, like.alloc_repeat)
        self._worker = Worker()

    @property
    def worker(self) -> Worker:
        """The process of this runner alone."""
        return self._worker

    def wait(self) -> None:
        """Until the process is ready; RunError if it does not start."""
        self._worker.request("ping")

    def close(self) -> None:
        """End the process."""
        self._worker.close()


class _Measurement(RunnerFuture):
    """Measures when it is first asked."""

    def __init__(self, runner: LocalRunner, x: RunnerInput) -> None:
        super().__init__()
        self._runner = runner
        self._input = x
        self._found: RunnerResult | None = None

    def done(self) -> bool:
        self.result()
        return True

    def result(self) -> RunnerResult:
        if self._found is None:
            self._found = self._runner.measure(self._input)
        return self._found


def _failure(e: GputuneError) -> Failure:
    """Why a run failed; a kernel that wrote where it must not has a kind of its own."""
    found = Failure.of(e, "run")
    return replace(found, kind=e.code) if e.code == "out_of_bounds" else found


def _loaded(artifact: Artifact) -> tuple[Any, str]:
    """An artifact as a Module of this process, and the name of its function."""
    from ..codegen.llvm import LlvmKernel
    from ..lower.layout_preproc import without_packings
    from ..runtime.module import Module, load_function
    from ..script import from_source
    from ..target import Target
    from .arg_info import entry_func
    from .module_equality import as_module

    target = Target(artifact.target, trusted=True)
    mod = as_module(from_source(artifact.script))
    entry = entry_func(mod)
    name = next(k for k, f in mod.functions.items() if f is entry)
    entry = without_packings(entry)
    if artifact.cuda:
        from ..runtime.cuda_build import CudaCode

        code = CudaCode.of_json(artifact.cuda, artifact.code, entry)
        return Module({name: code.function(name)}, {name: code}, target), name
    kernel = LlvmKernel(
        artifact.code, artifact.symbol, (), (), "", entry, target.mcpu, target.mattr
    )
    function = load_function(entry, name, kernel, target)
    return Module({name: function}, {name: kernel}, target), name


def _alloc_random(
    device_type: str, args_info: Sequence[ArgInfo], alloc_repeat: int
) -> list[list[Any]]:
    """Random arguments, as the worker makes them."""
    import numpy as np

    from ..runtime.operations import fill, parse_argument

    out: list[list[Any]] = []
    put = _to_gpu if device_type == "cuda" else lambda array: array
    for seed in range(alloc_repeat):
        rng = np.random.default_rng(seed)
        args = []
        for i, info in enumerate(args_info):
            spec = info.as_json()
            if spec[0] == "SCALAR":
                spec = {"kind": "scalar", "dtype": spec[1]}
            made = fill(rng, parse_argument(spec, i))
            args.append(made if isinstance(made, int) else put(made.array))
        out.append(args)
    return out


def _to_gpu(array: Any) -> Any:
    from ..runtime.cuda_device import gpu

    return gpu("a runner of CUDA kernels").asarray(array)


create = Runner.create
