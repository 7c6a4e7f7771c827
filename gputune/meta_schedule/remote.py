"""What does a machine of a cluster do with what it is sent? Build, measure, check, in processes of
its own: whatever a candidate does, the one that received it goes on.

`serve` takes and gives bytes: frames of `runtime.wire`, JSON and byte strings, of which nothing is
ever evaluated. What is compiled travels with its digest. Measurements have their device alone
(`runtime.quiet`): on a processor, builds wait for them too.
"""

from __future__ import annotations

import math
import os
import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from typing import Any

import gputune
import gputune.errors

from ..errors import BuildError, GputuneError, RunError
from ..runtime import quiet, wire
from ..runtime.gpus import LocalGpu, local_gpus, worker_on
from ..runtime.process import Reply, Request, Worker
from ..target import host
from .arg_info import ArgInfo
from .artifact import new_path
from .cuda_runner import CudaRunner
from .failures import INFRASTRUCTURE, Failure
from .gpus_runner import OneGpuRunner, named
from .host_runner import HostExecutionRunner
from .measure_callback import versions
from .runner import BestSoFar, EvaluatorConfig, LocalRunner, RunnerInput, RunnerResult

BUILD, CPU, GPU = "build", "cpu", "cuda"
"""Where a request is carried out: beside others, alone on the processor, alone on a GPU."""


# ----------------------------------------------------------------------------- here
def serve(frame: bytes) -> bytes:
    """Carry out what a frame asks for; the answer says what went wrong, if something did.

    The header's "ask" is "describe" (what is this machine?), "request" (one of a worker's, see
    `runtime.operations`) or "measure" (a kernel, as a runner does).
    """
    by = [platform.node(), os.getpid()]
    try:
        told, blobs = _carried_out(unpacked(frame))
    except GputuneError as e:
        told, blobs = {"error": error_json(e)}, ()
    except Exception as e:  # a full disk, a fault of ours: no candidate's, and told in our words
        text = f"{platform.node()}: {type(e).__name__}: {e}"
        told, blobs = {"error": error_json(lost("system", text))}, ()
    return packed({**told, "by": by}, blobs)


def _carried_out(message: wire.Message) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    header = message.header
    if header["ask"] == "describe":
        return {"data": describe()}, ()
    if header["gputune"] != gputune.__version__:
        text = f"it has gputune {gputune.__version__}, and this is {header['gputune']}"
        raise lost("version", text)
    if header["ask"] == "request":
        reply = _request(header, message.blobs)
        return {"data": reply.data, "seconds": reply.seconds}, reply.blobs
    return _measure(header, message.blobs[0]), ()


def describe() -> dict[str, Any]:
    """What there is to know of this machine before it gets work."""
    gpus: tuple[LocalGpu, ...] = ()
    problem = ""
    try:
        gpus = local_gpus()
    except RunError as e:
        problem = e.message
    return {
        "gputune": gputune.__version__,
        "host": platform.node(),
        "pid": os.getpid(),
        "triple": host.triple(),
        "cpu": host.model_name(),
        "device": host.device_key(),
        "features": sorted(name for name, on in host.features().items() if on),
        "gpus": [{"name": g.name, "arch": g.arch, "pci": g.pci_bus_id} for g in gpus],
        "gpu_problem": problem,
        "cuda_compiler": _has_cuda_compiler(),
        "versions": versions(),
    }


def _has_cuda_compiler() -> bool:
    from ..codegen.cuda import nvcc, nvrtc

    try:
        return nvrtc.load() is not None or nvcc.load() is not None
    except BuildError:
        return False


# ----------------------------------------------------------------------------- places
@dataclass(frozen=True, slots=True)
class _Spot:
    """A process to use, and what it runs kernels on."""

    worker: Worker
    device: str
    name: str
    gpu: LocalGpu | None = None


_PING_S = 30.0
_changed = threading.Condition()
_idle: dict[str, list[Worker]] = {BUILD: [], CPU: []}
_taken: set[str] = set()


@contextmanager
def _spot(place: str) -> Iterator[_Spot]:
    """A process nobody else uses meanwhile; those of before are still warm."""
    if place == GPU:
        with _free_gpu() as gpu, quiet.alone(f"gpu-{gpu.pci_bus_id}"):
            yield _Spot(worker_on(gpu), str(gpu), gpu.name, gpu)
        return
    with _changed:
        worker = _idle[place].pop() if _idle[place] else Worker()
    try:
        with quiet.alone(quiet.PROCESSOR) if place == CPU else quiet.shared(quiet.PROCESSOR):
            yield _Spot(worker, "cpu", host.model_name())
    finally:
        with _changed:
            _idle[place].append(worker)


@contextmanager
def _free_gpu() -> Iterator[LocalGpu]:
    try:
        gpus = local_gpus()
    except RunError as e:
        raise lost("no-gpu", e.message) from None
    with _changed:
        while not (free := [g for g in gpus if g.visible not in _taken]):
            _changed.wait()
        _taken.add(free[0].visible)
    try:
        yield free[0]
    finally:
        with _changed:
            _taken.discard(free[0].visible)
            _changed.notify_all()


# ----------------------------------------------------------------------------- requests
def _request(header: Mapping[str, Any], blobs: tuple[bytes, ...]) -> Reply:
    with _spot(header["place"]) as spot:
        return spot.worker.request(header["op"], header["args"], blobs, header["timeout_s"])


class _OnWorker(LocalRunner):
    """Measures in a certain process of this machine."""

    def __init__(self, spot: _Spot, *settings: Any) -> None:
        super().__init__(*settings)
        self._spot = spot

    @property
    def worker(self) -> Worker:
        return self._spot.worker

    def measure(self, x: RunnerInput) -> RunnerResult:
        if self._spot.gpu is None:
            return named(super().measure(x), self._spot.device, self._spot.name)
        of_gpu: CudaRunner = self._of_gpu
        of_gpu.cooldown_sec = self.cooldown_sec
        return OneGpuRunner(of_gpu, self._spot.gpu).measure(x)


class _OnHost(HostExecutionRunner):
    """Runs CUDA programs by host execution in a certain process of this machine."""

    def __init__(self, spot: _Spot, timeout_sec: float) -> None:
        super().__init__(timeout_sec)
        self._spot = spot

    @property
    def worker(self) -> Worker:
        return self._spot.worker

    def measure(self, x: RunnerInput) -> RunnerResult:
        return named(super().measure(x), self._spot.device, self._spot.name)


def _runner(header: Mapping[str, Any], spot: _Spot) -> _OnWorker | _OnHost:
    if header["runner"] == "host":
        return _OnHost(spot, header["timeout_s"])
    config = EvaluatorConfig(**_endless(header["config"]))
    return _OnWorker(spot, header["timeout_s"], config, header["cooldown_s"], header["alloc"])


def _revive(worker: Worker) -> None:
    """Start a process again that has ended. Where that fails it was not the candidate's fault,
    though it may have looked like that: the device is lost."""
    try:
        worker.request("ping", timeout_s=_PING_S)
    except GputuneError as e:
        raise lost("lost", e.message) from None


def _measure(header: Mapping[str, Any], artifact: bytes) -> dict[str, Any]:
    path = new_path()
    path.write_bytes(artifact)
    best = None if header["best"] is None else BestSoFar(**_endless(header["best"]))
    more = {k: v for k, v in _endless(header["input"]).items() if k in _INPUT_FIELDS}
    args_info = [ArgInfo.from_json(a) for a in header["args_info"]]
    x = RunnerInput(str(path), args_info=args_info, best=best, **more)
    try:
        with _spot(header["place"]) as spot:
            result = _runner(header, spot).measure(x)
            if result.problem is not None and spot.worker.pid is None:
                _revive(spot.worker)
    finally:
        path.unlink(missing_ok=True)
    if result.problem is not None and result.problem.infrastructure:
        raise lost(result.problem.kind, result.problem.message)  # another machine may do better
    told: dict[str, Any] = {"data": result_json(result)}
    if best is not None:
        told["best"] = finite(asdict(best))
    return told


# ----------------------------------------------------------------------------- there and back
_INPUT_FIELDS = frozenset(f.name for f in fields(RunnerInput)) - {
    "artifact_path", "args_info", "best",
}  # fmt: skip


def packed(header: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """A frame; its byte strings travel with their digest."""
    return wire.encode({**header, "digest": _digest(blobs)}, blobs)


def unpacked(frame: bytes) -> wire.Message:
    """What a frame holds; RunError (nobody's fault) if that is not what was sent."""
    try:
        (message,) = wire.Decoder().feed(frame)
        if message.header["digest"] != _digest(message.blobs):
            raise ValueError("its digest differs")
    except (ValueError, KeyError, TypeError) as e:
        raise lost("garbage", f"what arrived is not what was sent: {e}") from None
    return message


def _digest(blobs: Sequence[bytes]) -> str:
    return blake2b(b"".join(blobs), digest_size=16).hexdigest()


def describe_frame() -> bytes:
    """Asks what a machine is."""
    return packed({"ask": "describe"})


def request_frame(request: Request, place: str) -> bytes:
    """Asks for what a worker can do."""
    header = {
        "ask": "request", "gputune": gputune.__version__, "place": place, "op": request.op,
        "args": dict(request.args), "timeout_s": request.timeout_s,
    }  # fmt: skip
    return packed(header, request.blobs)


def measure_frame(x: RunnerInput, artifact: bytes, place: str, **settings: Any) -> bytes:
    """Asks for the times of a kernel.

    Args:
        x: the kernel; what it competes with is looked at now.
        artifact: the bytes of its file.
        place: `CPU` or `GPU`.
        settings: "runner" ("local" or "host"), "timeout_s", "config" (an EvaluatorConfig's fields),
            "cooldown_s", "alloc" (how often to allocate).
    """
    header = {
        "ask": "measure",
        "gputune": gputune.__version__,
        "place": place,
        "args_info": [a.as_json() for a in x.args_info],
        "best": None if x.best is None else finite(asdict(x.best)),
        "input": finite({name: getattr(x, name) for name in _INPUT_FIELDS}),
        **settings,
    }
    return packed(header, (artifact,))


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as JSON takes them, which knows no infinity."""
    return {k: "inf" if v == math.inf else v for k, v in values.items()}


def _endless(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that `finite` was given."""
    return {k: math.inf if v == "inf" else v for k, v in values.items()}


def take_over(best: BestSoFar, told: Mapping[str, Any]) -> None:
    """What the first measurement of a task settles for those to come, and was settled elsewhere."""
    empty = BestSoFar()
    for name, value in _endless(told).items():
        if name != "seconds" and getattr(best, name, value) == getattr(empty, name, value):
            setattr(best, name, value)


def result_json(result: RunnerResult) -> dict[str, Any]:
    """A runner's result, as JSON."""
    out = {f.name: getattr(result, f.name) for f in fields(result)}
    out["extras"] = dict(result.extras)
    if result.failure is not None:
        out["failure"] = {f.name: getattr(result.failure, f.name) for f in fields(Failure)}
    return out


def result_of(told: Mapping[str, Any]) -> RunnerResult:
    """The result that `result_json` described."""
    values = dict(told)
    if values.get("failure") is not None:
        values["failure"] = Failure(**values["failure"])
    return RunnerResult(**values)


def error_json(e: GputuneError) -> dict[str, Any]:
    """An error, as JSON."""
    return {
        "type": type(e).__name__,
        "message": e.message,
        "hint": e.hint,
        "code": e.code,
        "details": e.details,
        "picture": "" if e.draw is None else e.draw(),
    }


def error_of(told: Mapping[str, Any]) -> GputuneError:
    """The error that `error_json` described, of its class."""
    kind = getattr(gputune.errors, str(told["type"]), None)
    if not (isinstance(kind, type) and issubclass(kind, GputuneError)):
        kind = RunError
    details = {str(k): str(v) for k, v in told["details"].items()}
    e = kind(str(told["message"]), hint=str(told["hint"]), code=str(told["code"]), details=details)
    if picture := str(told["picture"]):
        e.draw = lambda: picture
    return e


def lost(kind: str, message: str) -> RunError:
    """An error that is no candidate's fault."""
    return RunError(message, code=f"dask-{kind}", details={"phase": INFRASTRUCTURE, "kind": kind})
