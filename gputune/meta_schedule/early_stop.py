"""Is it worth going on with a task? Two reasons to stop, both off unless asked for.

`early_stop`: the model sees nothing left to gain. What it said of the candidates of the last two
rounds, and how long these took, turns its scores into seconds (a line through score and log2
seconds); if the best of the next batch is then not expected to be faster than
`(1 - early_stop) * best`, twice running, the task ends. A model whose scores say little about times
(too few measurements, or a correlation above -0.3) has no vote.

`patience`: so many trials running brought no new best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import UserError
from .measure_candidate import MeasureCandidate
from .round_log import predictions
from .runner import RunnerResult

_VOTES = 2
_ENOUGH = 8
_CORRELATION = -0.3
_GAIN = 0.01  # a best that is better by less is the clock's noise


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a task ends before its budget does.

    Attributes:
        fraction: the least gain worth going on for, from 0 to below 1; None: never stop for that.
        patience: trials without a new best after which a task ends; None: any number.
    """

    fraction: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        f, p = self.fraction, self.patience
        if f is not None and (
            isinstance(f, bool) or not isinstance(f, int | float) or not 0 <= f < 1
        ):
            raise UserError(
                f"early_stop is a fraction from 0 to below 1, found {f!r}",
                hint="early_stop=0.05 stops when no 5 % are left to gain; None never stops",
                code="early-stop",
            )
        if p is not None and (isinstance(p, bool) or not isinstance(p, int) or p < 1):
            raise UserError(f"patience is a count of trials from 1, found {p!r}", code="patience")


@dataclass(slots=True)
class Outlook:
    """What is known of one task's chances.

    Attributes:
        rule: when it ends.
        best: its least seconds.
        idle: trials since that improved.
    """

    rule: StopRule
    best: float = math.inf
    idle: int = 0
    _votes: int = 0
    _rounds: list[dict[str, list[float]]] = field(default_factory=list)

    def learn(
        self,
        candidates: Sequence[MeasureCandidate],
        results: Sequence[RunnerResult],
        best: float,
    ) -> None:
        """Take in a round, and the task's least seconds after it."""
        self._rounds = [*self._rounds[-1:], predictions(candidates, results)]
        if best < self.best * (1 - _GAIN):
            self.best, self.idle = best, 0
        else:
            self.idle += len(results)

    def tired(self) -> str:
        """Why to end after a round, or ""."""
        if self.rule.patience is None or self.idle < self.rule.patience:
            return ""
        return f"{self.idle} trials brought nothing better"

    def hopeless(self, candidates: Sequence[MeasureCandidate]) -> str:
        """Why to end rather than measure these, or ""; to be asked once a round."""
        fraction = self.rule.fraction
        if fraction is None or not math.isfinite(self.best):
            return ""
        scores = [c.score for c in candidates if c.score is not None and math.isfinite(c.score)]
        expected = self._seconds_of(max(scores)) if scores else None
        if expected is None or expected < self.best * (1 - fraction):
            self._votes = 0
            return ""
        self._votes += 1
        if self._votes < _VOTES:
            return ""
        return f"the model expects nothing that is {fraction:.0%} faster than what was found"

    def _seconds_of(self, score: float) -> float | None:
        """How long a candidate of that score should take; None if scores say too little."""
        x = np.array([s for r in self._rounds for s in r["scores"]])
        y = np.log2([t for r in self._rounds for t in r["seconds"]])
        if len(x) < _ENOUGH or float(x.std()) < 1e-12 or float(y.std()) < 1e-12:
            return None
        if float(np.corrcoef(x, y)[0, 1]) > _CORRELATION:
            return None
        slope, at = np.polyfit(x, y, 1)
        return float(2.0 ** (at + slope * score))
