"""What did the GPU do while something was timed? `NvmlFacts` is what a record keeps of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .nvml import OTHER_REASONS, SLOWING, Nvml, Reading
from .observe import Observer, Subject

_STEADY = 0.8  # of the median clock: what falls below it was not one clock


@dataclass(frozen=True, slots=True)
class NvmlFacts:
    """A record's extras["nvml"]: the one place that says what is in it.

    Clocks, power and temperature are medians of the readings during batches; where there is none
    (a kernel that was cut after one call) of those around it, and `readings` is 0.

    Attributes:
        readings: during batches that count.
        sm_mhz, sm_mhz_least: clock of the multiprocessors.
        mem_mhz, mem_mhz_least: clock of the memory.
        power_w: drawn; a mean over about the last second on most GPUs.
        temperature_c: of the chip.
        reasons: why clocks were not higher, in words; of all readings.
        slowed: those of them that make the GPU slower than it could be.
        batches: how many count.
        slow_batches: of these, how many ran while the GPU was slowed, after all repeats.
        others: processes that are none of ours and computed on the GPU; None: not known.
        problems: by field, why NVML does not say it.
    """

    readings: int = 0
    sm_mhz: float | None = None
    sm_mhz_least: float | None = None
    mem_mhz: float | None = None
    mem_mhz_least: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    reasons: tuple[str, ...] = ()
    slowed: tuple[str, ...] = ()
    batches: int = 0
    slow_batches: int = 0
    others: int | None = None
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def throttled(self) -> bool:
        """Was the GPU slowed during a batch that counts?"""
        return self.slow_batches > 0

    @property
    def steady(self) -> bool:
        """Was there one clock, as far as was read?"""
        pairs = ((self.sm_mhz, self.sm_mhz_least), (self.mem_mhz, self.mem_mhz_least))
        return self.readings > 0 and all(
            least is None or middle is None or least >= _STEADY * middle for middle, least in pairs
        )

    def as_json(self) -> dict[str, Any]:
        """The fields, as a record holds them; without `problems` where there are none."""
        out = asdict(self)
        out["reasons"], out["slowed"] = list(self.reasons), list(self.slowed)
        out["problems"] = dict(self.problems)
        if not self.problems:
            del out["problems"]
        return out

    @staticmethod
    def of(during: Sequence[Reading], around: Sequence[Reading] = (), **more: Any) -> NvmlFacts:
        """What some readings come to.

        Args:
            during: while batches ran that count.
            around: all others.
            more: fields that do not follow from readings.
        """
        bits = 0
        problems: dict[str, str] = {}
        for r in (*during, *around):
            bits |= r.reasons or 0
            problems |= r.problems
        names = {**OTHER_REASONS, **SLOWING}
        told = during or around
        sm, mem = [r.sm_mhz for r in told], [r.mem_mhz for r in told]
        return NvmlFacts(
            readings=len(during),
            sm_mhz=_middle(sm),
            sm_mhz_least=min([x for x in sm if x is not None], default=None),
            mem_mhz=_middle(mem),
            mem_mhz_least=min([x for x in mem if x is not None], default=None),
            power_w=_middle([r.power_w for r in told]),
            temperature_c=_middle([r.temperature_c for r in told]),
            reasons=tuple([text for bit, text in sorted(names.items()) if bits & bit]),
            slowed=tuple([text for bit, text in SLOWING.items() if bits & bit]),
            problems=problems,
            **more,
        )

    @staticmethod
    def in_record(extras: Mapping[str, Any]) -> NvmlFacts | None:
        """What a record's extras hold; None if that is nothing, or no such facts. They may come
        from a file: what is of another kind is left out."""
        found = extras.get("nvml")
        if not isinstance(found, Mapping):
            return None
        given: dict[str, Any] = {}
        for f in fields(NvmlFacts):
            value = found.get(f.name)
            if f.name in ("reasons", "slowed"):
                good = isinstance(value, list | tuple)
                given[f.name] = tuple([str(x) for x in value or ()]) if good else ()
            elif f.name == "problems":
                given[f.name] = value if isinstance(value, Mapping) else {}
            elif isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
                given[f.name] = value
        return NvmlFacts(**given)


class NvmlObserver(Observer):
    """Reads NVML around and during batches.

    Besides what every observer does it is told of each batch whether it counts: a batch that is
    taken again because the GPU was slowed says nothing of the clock at which the others ran.
    """

    name = "nvml"
    period_s = 0.01

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._during: list[Reading] = []
        self._around: list[Reading] = []
        self._batch: list[Reading] = []
        self._others: list[int | None] = []
        self._batches = self._slow = 0

    def before(self, subject: Subject) -> None:
        """Read, and look who else is there."""
        self._during, self._around, self._batch = [], [self._nvml.read()], []
        self._others = [self._nvml.others()]
        self._batches = self._slow = 0

    def during(self) -> None:
        """Read."""
        self._batch.append(self._nvml.read())

    @property
    def is_slowed(self) -> bool:
        """Was the GPU slowed during this batch?"""
        return any(r.slowed for r in self._batch)

    def end_batch(self, counts: bool) -> None:
        """A batch is over; does it count?"""
        if counts:
            self._batches += 1
            self._slow += self.is_slowed
        (self._during if counts else self._around).extend(self._batch)
        self._batch = []

    def after(self, seconds: Sequence[float]) -> None:
        """As `before`."""
        self.end_batch(counts=False)
        self._around.append(self._nvml.read())
        self._others.append(self._nvml.others())

    def results(self) -> dict[str, Any]:
        """`NvmlFacts`."""
        known = [n for n in self._others if n is not None]
        found = NvmlFacts.of(
            self._during, self._around, batches=self._batches, slow_batches=self._slow,
            others=max(known, default=None),
        )  # fmt: skip
        return found.as_json()


def _middle(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return statistics.median(there) if there else None
