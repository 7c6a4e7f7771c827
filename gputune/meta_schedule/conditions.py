"""Under which conditions is measured, and what do they make of a time?

The clocks of a GPU move: with its temperature, its power, and who else uses it. NVML tells them
with every measurement, and here a time is brought to the clock at which the GPU runs when it is
busy with little (the reference, read when its worker starts, and again after its clock was locked):

    seconds at the reference clock = seconds * clock / reference

where the clock is that of the memory for a kernel that memory holds up, and that of the
multiprocessors for every other one (its caches run at that one, too). Which of the two follows from
the analytic model: the part of the machine that takes longest. Where the model knows nothing of a
kernel (CUDA source of the user's) memory holds it up if its arguments alone, read or written once,
take at least half of what memory can do.

Samples from a GPU that others compute on are kept and do not rank, unless that is asked for.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from ..errors import GputuneError
from ..ir import dtypes
from ..runtime.clock_lock import Lock, locked_clocks
from ..runtime.nvml import notes
from ..runtime.nvml_observer import NvmlFacts
from ..runtime.observe import Observer, Subject, Watch
from ..target import Target
from .arg_info import ArgInfo, TensorInfo
from .gpu_machine import GpuMachine
from .gpu_model import SLOTS, column
from .logging import console
from .measure_candidate import MeasureCandidate
from .ranking import FACTORS
from .runner import Meter, RunnerFuture, RunnerInput, RunnerResult
from .sketch_feature import CPU_COUNT, FEATURE_COUNT

Bound: TypeAlias = Literal["memory", "compute"]
_MEMORY = ("dram_ns",)
_COMPUTE = ("l2_ns", "issue_ns", "arithmetic_ns", "shared_ns", "l1_ns", "latency_ns")
_MEMORY_SHARE = 0.5  # of what memory can do


@dataclass(slots=True)
class Conditions:
    """How a tuning measures.

    Attributes:
        observers: are asked around and during every measurement.
        shared_gpu: samples from a GPU that others compute on rank like all others.
        locked: at which clock the GPU is held; "" if it is not.
        reference: clocks of multiprocessors and memory that times are brought to; None: not known
            yet, the first measurement brings them.
        shared: how many samples did not rank since the GPU was shared.
        noted: was said what of the GPU's settings bears on times?
    """

    observers: Sequence[Observer] = ()
    shared_gpu: bool = False
    locked: str = ""
    reference: tuple[float | None, float | None] | None = None
    shared: int = 0
    noted: bool = False

    # ------------------------------------------------------------------ around a measurement
    def watched(
        self, future: RunnerFuture, x: RunnerInput, name: str, program: str
    ) -> RunnerFuture:
        """A future whose result the observers have watched.

        Args:
            name: of the task.
            program: digest of the candidate.
        """
        if not self.observers:
            return future
        args = [a.as_json() for a in x.args_info if isinstance(a, ArgInfo)]
        return _Watched(future, Subject(name, x.device_type, args, program), self.observers)

    def settled(
        self, result: RunnerResult, candidate: MeasureCandidate, target: Target
    ) -> RunnerResult:
        """A result with what the conditions make of it: "clock", "unranked" and "locked_clocks" in
        its extras."""
        extras = result.extras
        if result.problem is not None or "same_code_as" in extras or target.kind != "cuda":
            return result
        self._note_settings(extras.get("gpu"))
        more: dict[str, Any] = {"locked_clocks": self.locked} if self.locked else {}
        facts = NvmlFacts.in_record(extras)
        if facts is None:
            return replace(result, extras={**extras, **more}) if more else result
        if facts.others and not self.shared_gpu:
            more["unranked"] = f"{facts.others} other processes computed on the GPU"
            self._note_shared(more["unranked"])
        clock = self._clock(result, facts, candidate, target)
        if clock:
            more["clock"] = clock
        return replace(result, extras={**extras, **more})

    def _note_settings(self, gpu: Any) -> None:
        if self.noted or not isinstance(gpu, Mapping):
            return
        self.noted = True
        told = {str(k).removeprefix("nvml_"): v for k, v in gpu.items()}
        for note in notes(told):
            console().info("The GPU: %s", note)

    def _note_shared(self, text: str) -> None:
        self.shared += 1
        if self.shared == 1:
            console().warning(
                "The GPU is shared (%s): such times are kept and do not rank; shared_gpu=True "
                "ranks them all the same", text,
            )  # fmt: skip

    def _clock(
        self, result: RunnerResult, facts: NvmlFacts, candidate: MeasureCandidate, target: Target
    ) -> dict[str, Any]:
        """What brings the times to the reference clock; {} where that is not known."""
        if self.reference is None:
            self.reference = _reference(result.extras.get("gpu"))
        timing = result.extras.get("timing")
        if isinstance(timing, Mapping) and timing.get("corrected"):
            return {}  # by other means
        if self.reference is None or not facts.steady:
            return {}
        bound = bound_of(candidate, target, float(statistics.median(result.run_secs or [0.0])))
        now = facts.mem_mhz if bound == "memory" else facts.sm_mhz
        wanted = self.reference[bound == "memory"]
        if not now or not wanted or not FACTORS[0] <= now / wanted <= FACTORS[1]:
            return {}
        return {"bound": bound, "mhz": now, "reference_mhz": wanted, "factor": now / wanted}


def _reference(gpu: Any) -> tuple[float | None, float | None] | None:
    """The clocks at which a GPU runs when it is busy with little, of what its worker tells."""
    if not isinstance(gpu, Mapping) or not gpu.get("reference_sm_mhz"):
        return None
    return gpu["reference_sm_mhz"], gpu.get("reference_mem_mhz")


# ----------------------------------------------------------------------------- what holds it up
def bound_of(candidate: MeasureCandidate, target: Target, seconds: float) -> Bound:
    """Does memory hold a kernel up, or what the multiprocessors do?

    Args:
        seconds: how long it took.
    """
    told = _by_model(candidate)
    return told or _by_arguments(candidate.args_info, target, seconds)


def _by_model(candidate: MeasureCandidate) -> Bound | None:
    """By the analytic model's columns of the candidate; None where it has none."""
    row = candidate.features
    if row is None or len(row) < FEATURE_COUNT:
        return None

    def spent(names: Sequence[str]) -> list[float]:
        """Nanoseconds of each part of the machine, over all kernels that the row tells of."""
        at = [[CPU_COUNT + column(f"kernel{k}.{n}") for k in range(len(SLOTS))] for n in names]
        return [sum(2.0 ** float(row[c]) - 1 for c in columns) for columns in at]

    memory, compute = max(spent(_MEMORY)), max(spent(_COMPUTE))
    if not (math.isfinite(memory) and math.isfinite(compute)) or memory <= 0 >= compute:
        return None
    return "memory" if memory >= compute else "compute"


def _by_arguments(args_info: Sequence[ArgInfo], target: Target, seconds: float) -> Bound:
    tensors = [a for a in args_info if isinstance(a, TensorInfo)]
    size = sum(math.prod(a.shape) * dtypes.itemsize(a.dtype) for a in tensors)
    try:
        rate = GpuMachine.of(target).speeds.dram_bytes_s
    except GputuneError:
        return "compute"
    return "memory" if size >= _MEMORY_SHARE * rate * seconds else "compute"


# ----------------------------------------------------------------------------- observers
class _Watched(RunnerFuture):
    """Asks observers around and during another future's measurement."""

    def __init__(
        self, future: RunnerFuture, subject: Subject, observers: Sequence[Observer]
    ) -> None:
        super().__init__()
        self._future = future
        self._subject = subject
        self._observers = observers
        self._found: RunnerResult | None = None

    def done(self) -> bool:
        """Is it? Futures that measure when they are asked whether they are done are watched too."""
        if self._found is None and self._future.done():
            self.result()
        return self._found is not None

    def result(self) -> RunnerResult:
        """Measure, observers looking on, the first time."""
        if self._found is None:
            self._found = self._observed()
        return self._found

    def _observed(self) -> RunnerResult:
        watch = Watch(self._observers)
        watch.before(self._subject)
        seconds: Sequence[float] = ()
        try:
            with watch.sampling():
                result: Any = self._future.result()
            if not isinstance(result, RunnerResult):
                return result  # type: ignore[no-any-return]  # the scheduler refuses it
            if result.problem is None:
                seconds = [float(s) for s in result.run_secs or ()]
        finally:
            watch.after(seconds)
        more: dict[str, Any] = {}
        if found := watch.results():
            more["observed"] = found
        if watch.problems:
            more["observer_problems"] = dict(watch.problems)
            for name, why in watch.problems.items():
                _complain_once(name, why)
        return replace(result, extras={**result.extras, **more}) if more else result


_complained: set[tuple[str, str]] = set()


def _complain_once(name: str, why: str) -> None:
    """A warning for each thing that goes wrong with an observer; records say it each time."""
    if (name, why) not in _complained:
        _complained.add((name, why))
        console().warning("Observer %s: %s", name, why)


# ----------------------------------------------------------------------------- a whole tuning
@contextmanager
def measuring(
    meter: Meter | None, observers: Sequence[Observer], shared_gpu: bool, lock: int | None
) -> Iterator[Conditions]:
    """The conditions of a tuning; a locked clock is given back at its end, whatever that is.

    Args:
        meter: of the runner; None: it runs nothing on a GPU.
        lock: MHz to hold the clock at; 0: the base clock; None: leave it alone.
    """
    out = Conditions(observers, shared_gpu)
    with ExitStack() as stack:
        if lock is not None:
            _lock(stack, out, meter, lock)
        yield out


def _lock(stack: ExitStack, conditions: Conditions, meter: Meter | None, mhz: int) -> None:
    """Hold the clock until the stack is left; where that is not possible, say why."""
    if meter is None:
        console().warning("Clocks are not locked: nothing is measured on a GPU of this machine")
        return
    try:
        pci = str(meter.about()["gpu"]["pci_bus_id"])
    except (GputuneError, KeyError) as e:
        console().warning("Clocks are not locked: the GPU does not say which it is (%s)", e)
        return
    held = stack.enter_context(_held(pci, mhz, meter))
    if held.problem:
        console().warning("Clocks are not locked: %s", held.problem)
        return
    conditions.locked = str(held)
    _look_again(meter)


@contextmanager
def _held(pci: str, mhz: int, meter: Meter) -> Iterator[Lock]:
    held = Lock(mhz)
    try:
        with locked_clocks(pci, mhz) as held:
            yield held
    finally:
        if held.restored:
            console().warning(
                "The GPU's clock is still locked: %s; nvidia-smi -i %s --reset-gpu-clocks resets "
                "it", held.restored, pci,
            )  # fmt: skip
        if not held.problem and not isinstance(sys.exc_info()[1], KeyboardInterrupt):
            _look_again(meter)


def _look_again(meter: Meter) -> None:
    """The clock has changed: so does what times are brought to."""
    try:
        meter.about(again=True)
    except GputuneError as e:  # then the reference stays what it was
        console().warning("The GPU's clocks cannot be read again: %s", e.message)
