"""Which times of a task may be compared? Those of one cache regime, on one scale.

The first record of a task settles both, those of earlier runs included; what is measured later is
measured in that regime and brought to that scale. `runtime.timing` explains the choices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..runtime.timing import REGIMES, Drift, follows_clock

if TYPE_CHECKING:
    from .record import TuningRecord

USUAL = "warm"
"""The regime of times that say nothing of it: MetaSchedule's, and those of runners of one's own."""
SIMULATED = "simulated"
"""What stands in the place of a regime where the clock is that of a simulation: such times are of
another kind altogether."""


@dataclass(slots=True)
class BestSoFar:
    """The least time of a task so far, shared by its candidates while they are measured.

    Attributes:
        seconds: infinite where there is none yet.
        regime: the cache regime of the task's times; "" before the first.
        nominal_s: seconds of the reference kernel on the scale of the task's times; 0 before the
            first.
        measured: has this run measured in that regime?
    """

    seconds: float = math.inf
    regime: str = ""
    nominal_s: float = 0.0
    measured: bool = False

    @staticmethod
    def among(records: Sequence[TuningRecord], regime: str | None = None) -> BestSoFar:
        """The scale of a task that has records, and no time yet.

        Args:
            records: as `Database.candidates` gives them.
            regime: in which a runner measures; None: in whichever it is told.
        """
        found = regime or (records[0].regime if records else "")
        return BestSoFar(math.inf, found, nominal_of(r for r in records if r.regime == found))


def regime_of(extras: Mapping[str, Any]) -> str:
    """The cache regime of a time, by what its record (or result) says besides."""
    if isinstance(extras.get("clock"), str):
        return SIMULATED
    timing = extras.get("timing")
    found = timing.get("regime") if isinstance(timing, dict) else None
    return found if isinstance(found, str) and found in REGIMES else USUAL


def nominal_of(records: Iterable[TuningRecord]) -> float:
    """Seconds of the reference kernel on the scale of some records: of the first that says so; 0
    where none does."""
    for r in records:
        timing = r.extras.get("timing")
        drift = Drift.told(timing) if isinstance(timing, dict) else None
        if drift is not None:
            return drift.nominal_s
    return 0.0


def on_scale(
    seconds: Sequence[float],
    timing: Mapping[str, Any],
    best: BestSoFar | None,
    device_type: str,
    flop: float = 0.0,
    correct: bool = True,
) -> tuple[list[float], dict[str, Any]]:
    """Times as they are compared with others of their task.

    Args:
        seconds: as the clock gave them.
        timing: what the worker told of the measurement.
        best: of the task; takes regime and scale of its first time. None: a scale of its own.
        device_type: "cpu" or "cuda".
        flop: operations of a call; 0 where they are not known.
        correct: correct drift at all?

    Returns:
        The times, and what the record keeps: `timing`, and where a reference kernel was timed
        "nominal_s" (the scale), "drift" (how many times as long as on it everything took) and
        "corrected" (are the times divided by that?).
    """
    told = dict(timing)
    regime = str(told.get("regime", USUAL))
    if best is not None and not best.regime:
        best.regime = regime
    drift = Drift.told(told, 0.0 if best is None else best.nominal_s)
    if drift is None:
        return list(seconds), told
    if best is not None and not best.nominal_s:
        best.nominal_s = drift.nominal_s
    size = told.get("size")
    follows = follows_clock(
        device_type, told.get("in_cache") is True, size if isinstance(size, int) else 0, flop
    )
    corrected = correct and drift.significant and follows
    told |= {
        "nominal_s": drift.nominal_s,
        "drift": round(drift.factor, 4),
        "corrected": corrected,
    }
    return [s / drift.factor if corrected else s for s in seconds], told


def by_regime(records: Sequence[TuningRecord]) -> list[TuningRecord]:
    """Ranked records, those of one regime together: their times say nothing about those of
    another. The regime of the record that was measured last comes first, simulations last."""
    last: dict[str, float] = {}
    for r in records:
        when = r.extras.get("time")
        seconds = float(when) if isinstance(when, int | float) and math.isfinite(when) else 0.0
        last[r.regime] = max(last.get(r.regime, 0.0), seconds)
    if len(last) < 2:
        return list(records)
    order = sorted(last, key=lambda regime: (regime == SIMULATED, -last[regime]))
    return [r for regime in order for r in records if r.regime == regime]
