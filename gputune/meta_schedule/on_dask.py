"""How are candidates built and measured by other machines? A builder and a runner on Dask.

Every machine that measures runs a Dask worker that announces what it measures on:
`dask worker tls://HOST:8786 --resources "GPU=1"` for each GPU (with its own CUDA_VISIBLE_DEVICES),
`--resources "CPU=1"` for a processor, once a machine. Any worker builds.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import GputuneError, UserError
from ..ir.nodes import IRModule
from ..runtime.process import Outcome, Reply, Request
from ..target import Target
from .artifact import Artifact
from .builder import Builder, BuilderInput, BuilderResult, build_with
from .cluster import DaskCluster, cluster_of
from .cluster_batch import Answer, Batch
from .cluster_fit import Need
from .failures import Failure
from .remote import BUILD, CPU, GPU, finite, measure_frame, request_frame, result_of, take_over
from .runner import EvaluatorConfig, Runner, RunnerFuture, RunnerInput, RunnerResult
from .timescale import USUAL
from .verify import Verifier

RESOURCES = {CPU: "CPU", GPU: "GPU"}
"""What a worker announces that measures."""
RUNNERS = ("local", "host")
_CHECKS_FIRST = 10  # a priority above that of measurements
_EVERY_SERVER = "x86-64-v3"  # the reference of a GPU kernel runs on whatever processor is there


class DaskBuilder(Builder):
    """Compiles on the workers of a Dask cluster, in processes of gputune's own there.

    Args:
        scheduler: address of the scheduler, or a `DaskCluster`; see there.
        timeout_sec: for one program, from when its worker begins on it.
        resource: what a worker must announce to build; default: any worker builds.
        cluster_options: `security`, `allow_insecure` and `patience_sec` of `DaskCluster`.

    Raises:
        UserError, RunError: as of `DaskCluster`.

    Example:
        >>> builder = Builder.create("dask", scheduler="tls://farm:8786")  # doctest: +SKIP
    """

    def __init__(
        self,
        scheduler: Any = None,
        timeout_sec: float = 30.0,
        resource: str = "",
        **cluster_options: Any,
    ) -> None:
        if not timeout_sec > 0:
            raise UserError(f"DaskBuilder: timeout_sec must be positive, found {timeout_sec!r}")
        self.cluster: DaskCluster = cluster_of(scheduler, **cluster_options)
        self.timeout_sec = float(timeout_sec)
        self.resource = resource

    @property
    def max_workers(self) -> int:
        """How many programs are built at a time."""
        return self.cluster.threads()

    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        """Compile programs, equal ones once."""
        return build_with(self._carry_out, build_inputs, self.timeout_sec)

    def _carry_out(self, requests: list[Request]) -> list[Outcome]:
        by_kind: dict[str, list[int]] = {}
        for k, r in enumerate(requests):
            by_kind.setdefault(str(r.args["target"]["kind"]), []).append(k)
        out: dict[int, Outcome] = {}
        for numbers in by_kind.values():
            target = Target(requests[numbers[0]].args["target"], trusted=True)
            frames = [partial(request_frame, requests[k], BUILD) for k in numbers]
            batch = Batch(self.cluster, Need(BUILD, target, self.resource), frames)
            out |= {k: _outcome(batch.answer(i)) for i, k in enumerate(numbers)}
        return [out[k] for k in range(len(requests))]


def _outcome(answer: Answer) -> Outcome:
    if isinstance(answer, GputuneError):
        return answer
    return Reply(answer.header["data"], answer.blobs, float(answer.header["seconds"]))


class DaskRunner(Runner):
    """Times kernels on the workers of a Dask cluster, in processes of gputune's own there; whoever
    has none under way takes the next. Records say where each was measured.

    Nothing is measured until a future is asked. A worker that dies leaves its candidates to the
    others, and they are not charged.

    Args:
        scheduler: address of the scheduler, or a `DaskCluster`; see there.
        timeout_sec: for one candidate, from when its worker begins on it.
        evaluator_config: how to time; default: a few repeats of about a millisecond.
        cooldown_sec: pause before each candidate.
        alloc_repeat: how often to allocate fresh arguments and time again.
        runner: what measures there. "local": what is built for a GPU runs on GPUs; "host": it runs
            by host execution, on processors.
        resource: what a worker must announce to measure; default: "GPU" for what runs on GPUs,
            "CPU" for the rest.
        mixed: unequal processors or GPUs measure together, though their times do not rank.
        priority: of this run's candidates beside other runs'.
        cluster_options: `security`, `allow_insecure` and `patience_sec` of `DaskCluster`.

    Raises:
        UserError, RunError: an option that makes no sense; as of `DaskCluster`.

    Example:
        >>> runner = Runner.create("dask", scheduler="tls://farm:8786")  # doctest: +SKIP
    """

    def __init__(
        self,
        scheduler: Any = None,
        timeout_sec: float = 30.0,
        evaluator_config: EvaluatorConfig | None = None,
        cooldown_sec: float = 0.0,
        alloc_repeat: int = 1,
        *,
        runner: str = "local",
        resource: str | None = None,
        mixed: bool = False,
        priority: int = 0,
        **cluster_options: Any,
    ) -> None:
        if not timeout_sec > 0:
            raise UserError(f"DaskRunner: timeout_sec must be positive, found {timeout_sec!r}")
        if type(alloc_repeat) is not int or alloc_repeat < 1:
            raise UserError(f"DaskRunner: alloc_repeat is a count from 1, found {alloc_repeat!r}")
        if runner not in RUNNERS:
            raise UserError(f"DaskRunner: runner is {' or '.join(RUNNERS)}, found {runner!r:.40}")
        self.cluster: DaskCluster = cluster_of(scheduler, **cluster_options)
        self.timeout_sec = float(timeout_sec)
        self.evaluator_config = evaluator_config or EvaluatorConfig(adaptive=True)
        self.cooldown_sec = float(cooldown_sec)
        self.alloc_repeat = alloc_repeat
        self.runner = runner
        self.resource = resource
        self.mixed = mixed
        self.priority = priority
        self._under_way: list[Batch] = []

    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        """Futures of the kernels' times; asking one, even whether it is done, measures."""
        for batch in self._under_way:
            batch.abandon()
        self._under_way.clear()
        out: list[RunnerFuture] = []
        together: dict[tuple[str, str], _Together] = {}
        for x in runner_inputs:
            try:
                artifact = Artifact.load(x.artifact_path)
                code = Path(x.artifact_path).read_bytes()
            except GputuneError as e:
                out.append(_ready(RunnerResult.failed(Failure.of(e, "run"))))
                continue
            except OSError as e:
                why = Failure("run", "artifact", f"cannot read {x.artifact_path}: {e.strerror}")
                out.append(_ready(RunnerResult.failed(why)))
                continue
            key = (x.device_type, str(artifact.target))
            if key not in together:
                target = Target(artifact.target, trusted=True)
                together[key] = _Together(self, self.need(target), self._settings())
            out.append(together[key].add(x, code))
        for group in together.values():
            self._under_way.append(group.begin())
        return out

    def need(self, target: Target, priority: int | None = None) -> Need:
        """What a worker must offer to run what is built for a target."""
        place = GPU if target.kind == "cuda" and self.runner == "local" else CPU
        resource = RESOURCES[place] if self.resource is None else self.resource
        own = self.priority if priority is None else priority
        return Need(place, target, resource, self.mixed, own)

    def regime_on(self, device_type: str) -> str | None:
        """What the evaluator's settings say; on a processor that is never left open."""
        return self.evaluator_config.caches or (USUAL if device_type == "cpu" else None)

    def verifier(self, mod: IRModule, target: Target, seed: int, **options: Any) -> Verifier | None:
        """What checks candidates of a program on the machines that measure them, with the options
        of `Verifier`; None where gputune has nothing for the target."""
        if target.kind not in ("llvm", "cuda"):
            return None
        need = self.need(target, self.priority + _CHECKS_FIRST)
        on_host = target.kind == "cuda" and self.runner == "host"
        process = DaskProcess(self.cluster, need)
        return _Verifier(mod, target, process, seed, on_host=on_host, **options)

    def _settings(self) -> dict[str, Any]:
        return {
            "runner": self.runner,
            "timeout_s": self.timeout_sec,
            "config": finite(asdict(self.evaluator_config)),
            "cooldown_s": self.cooldown_sec,
            "alloc": self.alloc_repeat,
        }


class _Together:
    """Candidates for one kind of device, of one batch."""

    def __init__(self, runner: DaskRunner, need: Need, settings: dict[str, Any]) -> None:
        self._cluster = runner.cluster
        self._need = need
        self._settings = settings
        self._inputs: list[RunnerInput] = []
        self._frames: list[Callable[[], bytes]] = []
        self._batch: Batch | None = None
        self._results: dict[int, RunnerResult] = {}

    def add(self, x: RunnerInput, code: bytes) -> RunnerFuture:
        k = len(self._inputs)
        self._inputs.append(x)
        self._frames.append(partial(measure_frame, x, code, self._need.place, **self._settings))
        return RunnerFuture(partial(self.done, k), partial(self.result, k))

    def begin(self) -> Batch:
        best = self._inputs[0].best
        first = best is not None and best.seconds == math.inf
        self._batch = Batch(self._cluster, self._need, self._frames, settle=first)
        self._batch.on_answer = self._note
        return self._batch

    def _note(self, k: int, answer: Answer) -> None:
        """What an answer settles for those that are sent after it."""
        best = self._inputs[k].best
        if best is not None and not isinstance(answer, GputuneError):
            take_over(best, answer.header.get("best") or {})

    def done(self, k: int) -> bool:
        self.result(k)
        return True

    def result(self, k: int) -> RunnerResult:
        if k not in self._results:
            assert self._batch is not None
            answer = self._batch.answer(k)
            if isinstance(answer, GputuneError):
                self._results[k] = RunnerResult.failed(Failure.of(answer, "run"))
            else:
                self._results[k] = result_of(answer.header["data"])
        return self._results[k]


def _ready(result: RunnerResult) -> RunnerFuture:
    return RunnerFuture(lambda: True, lambda: result)


class DaskProcess:
    """What a worker process can be asked, asked of the workers of a cluster.

    Args:
        cluster: whose workers.
        need: of what runs kernels; what is only compiled needs no device.
    """

    def __init__(self, cluster: DaskCluster, need: Need) -> None:
        self.cluster = cluster
        self.need = need

    def request(
        self,
        op: str,
        args: Mapping[str, Any] | None = None,
        blobs: tuple[bytes, ...] = (),
        timeout_s: float = 30.0,
    ) -> Reply:
        """As of `Worker.request`."""
        need = Need(BUILD, self.need.target, "", True, self.need.priority)
        if op != "build":
            need = self.need
        request = Request(op, args or {}, blobs, timeout_s)
        batch = Batch(self.cluster, need, [partial(request_frame, request, need.place)])
        outcome = _outcome(batch.answer(0))
        if isinstance(outcome, GputuneError):
            raise outcome
        return outcome


class _Verifier(Verifier):
    """One whose programs run elsewhere."""

    def _reference_program(self) -> tuple[IRModule, Target]:
        mod, target = super()._reference_program()
        elsewhere = self.target.kind == "cuda" and target.kind == "llvm"
        if elsewhere and platform.machine() in ("x86_64", "AMD64"):
            # not for the processor that is here: it may have what those there do not
            target = Target(f"llvm -mcpu={_EVERY_SERVER} -num-cores=1")
        return mod, target
