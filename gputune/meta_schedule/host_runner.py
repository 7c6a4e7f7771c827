"""How are CUDA kernels run where there is no GPU? On the processor, with every access checked.

The clock is a stand-in: its seconds say nothing about a GPU. What is real is everything else: a
kernel that writes out of bounds, races, hangs or computes wrong numbers is found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import GputuneError, RunError, UserError
from ..runtime.process import Reply, Worker
from .artifact import Artifact
from .cuda_answers import WhenAsked, arrays_of, failure_of, told
from .runner import Runner, RunnerFuture, RunnerInput, RunnerResult, shared_worker
from .timescale import SIMULATED

CLOCK = "host execution"
"""What records say of the clock."""
_COMPILE_SEC = 60.0


class HostExecutionRunner(Runner):
    """Runs CUDA kernels by host execution in a worker process, one after the other.

    Each finding (an access out of bounds, a race, a barrier that not all threads reach) makes the
    candidate a failure; so do a crash and a run that takes longer than the limit. Times are those
    of the simulation: good for tests of everything around the clock, and for nothing else.

    Args:
        timeout_sec: processor time of one run; a kernel that takes longer is taken to be endless.
        arguments: descriptions of the arguments, as workers' requests carry them; default: those of
            each artifact, with random contents.
        order: in which the threads of a block take turns: "forward", "reverse" or "random".
        seed: of random contents and of the order "random".
    """

    def __init__(
        self,
        timeout_sec: float = 30.0,
        arguments: Sequence[Mapping[str, Any]] | None = None,
        order: str = "forward",
        seed: int = 0,
    ) -> None:
        if not timeout_sec > 0:
            raise UserError(
                f"HostExecutionRunner: timeout_sec must be positive, found {timeout_sec!r}"
            )
        if order not in ("forward", "reverse", "random"):
            raise UserError(
                f"HostExecutionRunner: order is forward, reverse or random, found {order!r}"
            )
        self.timeout_sec = float(timeout_sec)
        self.arguments = None if arguments is None else [dict(a) for a in arguments]
        self.order = order
        self.seed = seed

    def with_arguments(self, arguments: Sequence[Mapping[str, Any]]) -> HostExecutionRunner:
        """A runner with the same settings and these arguments."""
        return HostExecutionRunner(self.timeout_sec, arguments, self.order, self.seed)

    @property
    def worker(self) -> Worker:
        """The worker process that runs kernels."""
        return shared_worker()

    def start(self) -> None:
        """Start the worker in the background."""
        self.worker.start()

    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        """Futures; asking one runs its kernel."""
        return [WhenAsked(self.measure, x) for x in runner_inputs]

    def measure(self, x: RunnerInput) -> RunnerResult:
        """Run one kernel now."""
        facts: dict[str, Any] = {"clock": CLOCK}
        try:
            artifact = Artifact.load(x.artifact_path)
            facts |= told(artifact)
            reply = self._ask(artifact, outputs=False)
            return RunnerResult([float(s) for s in reply.data["run_secs"]], extras=facts)
        except GputuneError as e:
            return replace(RunnerResult.failed(failure_of(e)), extras=facts)

    def regime_on(self, device_type: str) -> str | None:
        """None of a GPU's: its times are simulated, and compare with each other only."""
        return SIMULATED

    def outputs(self, artifact: Artifact) -> dict[str, np.ndarray[Any, Any]]:
        """What a kernel writes, by name.

        Raises:
            GputuneError: it does not run.
        """
        return arrays_of(self._ask(artifact, outputs=True))

    def _ask(self, artifact: Artifact, outputs: bool) -> Reply:
        if not artifact.cuda:
            raise RunError(
                f"host execution runs CUDA programs, {artifact.symbol} was built for "
                f"{artifact.target.get('kind')}",
                code="not-cuda",
            )
        args = {
            "cuda": artifact.cuda,
            "arguments": artifact.arguments if self.arguments is None else self.arguments,
            "order": self.order,
            "seed": self.seed,
            "outputs": outputs,
            "limit_s": self.timeout_sec,
        }
        # The program has a limit of its own, of processor time; this one is for a busy machine.
        patience = _COMPILE_SEC + 5 * self.timeout_sec
        return self.worker.request("run_host", args, timeout_s=patience)
