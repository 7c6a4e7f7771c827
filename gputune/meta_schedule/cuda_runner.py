"""How long do CUDA kernels take on this machine's GPU? One long-lived worker process owns it; there
is one for each where several measure.

A candidate that crashes, hangs or breaks the GPU's context costs itself only: the worker is killed
and replaced. Clocks, power and temperature are read while it is timed, and kept in the record. What
was timed while the GPU was slowed is timed again, a few times, after a pause; not where it always
is, as with a low power limit.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GputuneError, RunError, UserError
from ..runtime.energy import LEAST_S
from ..runtime.gpus import check_devices
from ..runtime.nvml_observer import NvmlFacts
from ..runtime.process import Reply, Worker
from ..runtime.timing import REGIMES as REGIMES
from .artifact import Artifact
from .cuda_answers import WhenAsked, arrays_of, failure_of, told
from .runner import Meter, OwnProcess, Runner, RunnerFuture, RunnerInput, RunnerResult
from .timescale import on_scale

if TYPE_CHECKING:
    from .spread import Lane

ENERGY_S = 1.5 * LEAST_S
"""How long a kernel runs for its energy."""
# A candidate whose first call takes longer than this is clearly slower than the best. The factor is
# what `EvaluatorConfig.cut` is.
_CUT_FACTOR, _CUT_SECONDS = 3.0, 50e-6
_PAUSE_S = 0.25  # before a slowed measurement is repeated: some heat goes
_ALWAYS = 3  # so many candidates running that stay slowed: it is how this GPU is


@cache
def shared_gpu_worker() -> Worker:
    """The process's one worker that uses the GPU; it stays warm from one tuning to the next."""
    return fresh_gpu_worker()


def fresh_gpu_worker() -> Worker:
    """A worker of its own that uses the GPU, not started yet."""
    return Worker(gpu=True, start_timeout_s=120.0)


class CudaRunner(Runner):
    """Times CUDA kernels one after the other on the GPU. Nothing is measured until a future is
    asked.

    Args:
        timeout_sec: for one candidate; a worker that takes longer is killed and replaced.
        arguments: descriptions of the arguments, as workers' requests carry them; default: those of
            each artifact, with random contents.
        evaluator: fields of `runtime.cuda_timer.CudaTimerConfig`; "regime" None (the default): that
            of the task's records, else as fits the size of the arguments. "cut" and "correct_drift"
            are those of `EvaluatorConfig`; drift is corrected where NVML does not tell the clock.
        cooldown_sec: pause before each candidate.
        seed: of random contents.
        repeat_slowed: how often at most a measurement is repeated during which the GPU was slowed
            ("repeated" in the record's extras counts them).
        devices: the GPUs that measure, candidates spread over them: numbers, or "all" of the model
            of the first; records name the GPU. None: the first.
        mixed: GPUs of different models may measure together, though their times do not rank.

    Example:
        >>> runner = CudaRunner(evaluator={"regime": "flush"})
    """

    def __init__(
        self,
        timeout_sec: float = 30.0,
        arguments: Sequence[Mapping[str, Any]] | None = None,
        evaluator: Mapping[str, Any] | None = None,
        cooldown_sec: float = 0.0,
        seed: int = 0,
        repeat_slowed: int = 2,
        devices: str | Sequence[int] | None = None,
        mixed: bool = False,
    ) -> None:
        if not timeout_sec > 0:
            raise UserError(f"CudaRunner: timeout_sec must be positive, found {timeout_sec!r}")
        regime = (evaluator or {}).get("regime")
        if regime is not None and regime not in REGIMES:
            raise UserError(
                f"CudaRunner: the regime is {', '.join(REGIMES)} or None, found {regime!r}"
            )
        self.timeout_sec = float(timeout_sec)
        self.arguments = None if arguments is None else [dict(a) for a in arguments]
        self.evaluator = dict(evaluator or {})
        self.cut = float(self.evaluator.pop("cut", _CUT_FACTOR))
        self.correct_drift = bool(self.evaluator.pop("correct_drift", True))
        if not self.cut > 1:
            raise UserError(f"CudaRunner: cut is a factor above 1, found {self.cut!r}")
        self.cooldown_sec = float(cooldown_sec)
        if devices is not None:
            check_devices(devices)
        self.seed = seed
        if type(repeat_slowed) is not int or repeat_slowed < 0:
            raise UserError(f"CudaRunner: repeat_slowed is a count from 0, found {repeat_slowed!r}")
        self.repeat_slowed = repeat_slowed
        self._slowed = 0  # candidates running that stayed slowed
        self.devices = devices
        self.mixed = mixed
        self._found: list[Lane] | None = None

    def with_arguments(self, arguments: Sequence[Mapping[str, Any]]) -> CudaRunner:
        """A runner with the same settings and these arguments."""
        other = copy.copy(self)
        other.arguments = [dict(a) for a in arguments]
        return other

    @property
    def worker(self) -> Worker:
        """The worker process that owns the GPU; of several, the first that is not lost."""
        if self.devices is None:
            return shared_gpu_worker()
        return next((x.worker for x in self._lanes if not x.lost), self._lanes[0].worker)

    @property
    def _lanes(self) -> list[Lane]:
        """The GPUs that measure together."""
        if self._found is None:
            from .gpus_runner import lanes_of

            self._found = lanes_of(self, self.devices or "all", self.mixed)
        return self._found

    def start(self) -> None:
        """Start the workers in the background."""
        for worker in [self.worker] if self.devices is None else [x.worker for x in self._lanes]:
            worker.start()

    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        """Futures of the kernels' times; asking one, even whether it is done, measures."""
        if self.devices is not None:
            from .spread import spread

            return spread(self._lanes, runner_inputs)
        return [WhenAsked(self.measure, x) for x in runner_inputs]

    def measure(self, x: RunnerInput) -> RunnerResult:
        """Time one kernel now; again, where the GPU was slowed meanwhile."""
        found = self._measure(x)
        repeats = 0
        while _is_slowed(found) and repeats < self.repeat_slowed and self._slowed < _ALWAYS:
            repeats += 1
            time.sleep(_PAUSE_S)
            again = self._measure(x)
            if again.problem is not None:
                break  # what was measured stands
            found = again
        if found.problem is None:
            self._slowed = self._slowed + 1 if _is_slowed(found) else 0
        return replace(found, extras={**found.extras, "repeated": repeats}) if repeats else found

    def meter(self) -> Meter | None:
        """Itself."""
        return self

    def about(self, again: bool = False) -> Mapping[str, Any]:
        """What the worker says of the GPU: "gpu", and "energy_problem"; GputuneError if it cannot
        be had."""
        return self.worker.request("gpu_cuda", {"again": again}, (), self.timeout_sec).data

    def energy(self, x: RunnerInput) -> Mapping[str, Any]:
        """The energy of a call of a kernel, from a run of a second and more (`Energy`).

        Raises:
            GputuneError: it does not run.
        """
        artifact = Artifact.load(x.artifact_path)
        more = {"seconds": ENERGY_S}
        # the time limit is for what a candidate does, not for how long it is to be watched
        found: Mapping[str, Any] = self._ask("energy_cuda", artifact, more, 4 * ENERGY_S).data
        told: Mapping[str, Any] = found["energy"]
        return told

    def _measure(self, x: RunnerInput) -> RunnerResult:
        facts: dict[str, Any] = {}
        try:
            if self.cooldown_sec:
                time.sleep(self.cooldown_sec)
            artifact = Artifact.load(x.artifact_path)
            facts |= told(artifact)
            best = math.inf if x.best is None else x.best.seconds
            longest = best * self.cut + _CUT_SECONDS
            cutoff = longest if longest < math.inf else None
            plan = dict(self.evaluator)
            if plan.get("regime") is None and x.best is not None and x.best.regime in REGIMES:
                plan["regime"] = x.best.regime
            more = {"evaluator": plan, "cutoff_s": cutoff}
            data = self._ask("run_cuda", artifact, more).data
        except GputuneError as e:
            return replace(RunnerResult.failed(failure_of(e)), extras=facts)
        # What NVML tells of the clock is about this very kernel, and tells more.
        clock_known = data["nvml"] is not None and bool(data["nvml"].get("sm_mhz"))
        seconds, timing = on_scale(
            data["run_secs"],
            data["timing"],
            x.best,
            "cuda",
            x.flop,
            self.correct_drift and not clock_known,
        )
        facts |= {"timing": timing, "gpu": data["gpu"]}
        if data["nvml"] is not None:
            facts["nvml"] = data["nvml"]
        else:
            facts["nvml_problem"] = data["nvml_problem"]
        return RunnerResult(
            [float(s) for s in seconds],
            cut=bool(data["cut"]),
            disturbed=int(data["disturbed"]),
            extras=facts,
        )

    def fresh_on_gpu(self) -> OwnProcess | None:
        """One with a worker process of its own; not where files hold the arguments, which are its
        caller's, nor where it was told which GPUs measure."""
        own = self.arguments is not None or self.devices is not None
        return None if own else FreshCudaRunner(self)

    def regime_on(self, device_type: str) -> str | None:
        """What the evaluator's settings say."""
        found = self.evaluator.get("regime")
        return None if found is None else str(found)

    def outputs(self, artifact: Artifact) -> dict[str, np.ndarray[Any, Any]]:
        """What a kernel writes, by name.

        Raises:
            GputuneError: it does not run, or wrote where it must not.
        """
        return arrays_of(self._ask("outputs_cuda", artifact, {}))

    def _ask(
        self, op: str, artifact: Artifact, more: Mapping[str, Any], longer_s: float = 0.0
    ) -> Reply:
        if not artifact.cuda:
            raise RunError(
                f"{artifact.symbol} was built for {artifact.target.get('kind')}, not for cuda",
                code="not-cuda",
            )
        arguments = artifact.arguments if self.arguments is None else self.arguments
        args = {"cuda": artifact.cuda, "arguments": arguments, "seed": self.seed, **more}
        limit = self.timeout_sec + longer_s
        return self.worker.request(op, args, (artifact.code,), limit)


def _is_slowed(result: RunnerResult) -> bool:
    facts = NvmlFacts.in_record(result.extras)
    return result.problem is None and facts is not None and facts.throttled


class FreshCudaRunner(CudaRunner):
    """Measures as another runner does, in a worker process of its own, until `close()`."""

    def __init__(self, like: CudaRunner) -> None:
        super().__init__(
            like.timeout_sec, None,
            {**like.evaluator, "cut": math.inf, "correct_drift": like.correct_drift},
            like.cooldown_sec, like.seed, like.repeat_slowed,
        )  # fmt: skip
        self._worker = fresh_gpu_worker()

    @property
    def worker(self) -> Worker:
        """The process of this runner alone."""
        return self._worker

    def wait(self) -> None:
        """Until the process has opened the GPU; RunError if it does not start."""
        self._worker.request("ping")

    def close(self) -> None:
        """End the process."""
        self._worker.close()
