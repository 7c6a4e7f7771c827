"""By which time are measured candidates ranked, and what is a sample worth to a cost model?

`run_secs` are what the clock said. What ranks records, bests and examples alike is their median,
brought to the reference clock where the extras say how ("clock", see `conditions`), and infinite
where the sample must not rank ("unranked"). Extras may come from a file: a factor that cannot be is
taken as 1.

>>> ranked_seconds([2e-3], {"clock": {"factor": 0.7}})
0.0014
>>> ranked_seconds([2e-3], {"unranked": "the GPU is shared"})
inf
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..runtime.nvml_observer import NvmlFacts

FACTORS = (0.2, 1.5)
"""The least and the greatest share of the reference clock that is believed."""


def ranked_seconds(run_secs: Sequence[float] | None, extras: Mapping[str, Any]) -> float:
    """What ranks a sample; infinite where nothing does."""
    if not run_secs or unranked(extras):
        return math.inf
    return float(statistics.median([float(s) for s in run_secs])) * clock_factor(extras)


def clock_factor(extras: Mapping[str, Any]) -> float:
    """What brings the times of a sample to the reference clock."""
    told = extras.get("clock")
    factor = told.get("factor") if isinstance(told, Mapping) else None
    if isinstance(factor, bool) or not isinstance(factor, int | float):
        return 1.0
    return float(factor) if FACTORS[0] <= factor <= FACTORS[1] else 1.0


def unranked(extras: Mapping[str, Any]) -> str:
    """Why a sample must not rank, or ""."""
    found = extras.get("unranked")
    return found if isinstance(found, str) else ""


def joules_of(extras: Mapping[str, Any]) -> float | None:
    """The energy of a call; None where it was not measured."""
    told = extras.get("energy")
    found = told.get("joules") if isinstance(told, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found) if 0 < found < math.inf else None


def figure_of(seconds: float, extras: Mapping[str, Any], objective: str) -> float:
    """What an objective ranks by: seconds ("latency"), joules ("energy"), or joules times seconds
    ("edp"); infinite where that is not known.

    >>> figure_of(2e-3, {"energy": {"joules": 0.5}}, "edp")
    0.001
    """
    if objective == "latency":
        return seconds
    joules = joules_of(extras)
    if joules is None:
        return math.inf
    return joules * seconds if objective == "edp" else joules


def weight_of(extras: Mapping[str, Any]) -> float:
    """What a sample is worth to a cost model: 1, or 0 where the GPU was slowed while it was taken,
    its clock was not one clock, or it does not rank."""
    facts = NvmlFacts.in_record(extras)
    slow = facts is not None and (facts.throttled or (facts.readings > 0 and not facts.steady))
    return 0.0 if slow or unranked(extras) else 1.0
