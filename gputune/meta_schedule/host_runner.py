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
from ..ir import dtypes
from ..runtime.process import Reply, Worker
from .artifact import Artifact
from .failures import Failure
from .runner import Runner, RunnerFuture, RunnerInput, RunnerResult, shared_worker

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
        return [_Run(self, x) for x in runner_inputs]

    def measure(self, x: RunnerInput) -> RunnerResult:
        """Run one kernel now."""
        facts: dict[str, Any] = {"clock": CLOCK}
        try:
            artifact = Artifact.load(x.artifact_path)
            facts |= told(artifact)
            reply = self._ask(artifact, outputs=False)
            return RunnerResult([float(s) for s in reply.data["run_secs"]], extras=facts)
        except GputuneError as e:
            return replace(RunnerResult.failed(_failure(e)), extras=facts)

    def outputs(self, artifact: Artifact) -> dict[str, np.ndarray[Any, Any]]:
        """What a kernel writes, by name.

        Raises:
            GputuneError: it does not run.
        """
        reply = self._ask(artifact, outputs=True)
        return {
            spec["name"]: np.frombuffer(blob, dtypes.numpy_dtype(spec["dtype"])).reshape(
                spec["shape"]
            )
            for spec, blob in zip(reply.data["outputs"], reply.blobs)
        }

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


class _Run(RunnerFuture):
    """Runs when it is first asked."""

    def __init__(self, runner: HostExecutionRunner, x: RunnerInput) -> None:
        super().__init__()
        self._runner = runner
        self._input = x
        self._found: RunnerResult | None = None

    def done(self) -> bool:
        """Always, once it was asked."""
        self.result()
        return True

    def result(self) -> RunnerResult:
        """Run the kernel, the first time."""
        if self._found is None:
            self._found = self._runner.measure(self._input)
        return self._found


def told(artifact: Artifact) -> dict[str, Any]:
    """What records keep of a compiled CUDA program: the facts of its kernels."""
    return {"facts": artifact.cuda["facts"]} if artifact.cuda.get("facts") else {}


def _failure(e: GputuneError) -> Failure:
    found = Failure.of(e, "run")
    if found.infrastructure:
        return found
    # What a worker raised is known by its class; a finding of the checks by the error's code.
    raised = found.kind == type(e).__name__ and e.code
    return replace(found, phase="run", kind=e.code if raised else found.kind)
