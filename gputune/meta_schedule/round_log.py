"""Where did the candidates go? One line for each round of a tuning, kept beside the failures.

`rounds.jsonl` in the work_dir is data only: counts, reasons, and for each measured candidate what
the model had said and how long it took.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .builder import BuilderResult
from .failures import REFUSED, write_failures
from .measure_candidate import MeasureCandidate
from .runner import RunnerResult
from .search_strategy.search_strategy import SearchCounts
from .second_look import same_code

ROUNDS_FILE = "rounds.jsonl"
_MOST_REASONS = 12
_WRONG = "wrong_result"


@dataclass(slots=True)
class Round:
    """What became of one batch of candidates.

    Attributes:
        proposed: candidates that the strategy gave.
        attempted: of these, those that were sent to the builder.
        built: of these, those that compiled.
        measured: of these, those that have a time; `cut` of them were called once only.
        same_code: of those that were built, those that have the times of another candidate, which
            compiled to the same code.
        refused_built: of those that were built, those that a rule took to be slow.
        lost: those that failed for no fault of theirs, which cost no trial.
        build_errors, run_errors: the others, counted by kind.
        wrong: those that computed something else than the program.
    """

    proposed: int = 0
    attempted: int = 0
    built: int = 0
    measured: int = 0
    cut: int = 0
    same_code: int = 0
    refused_built: int = 0
    lost: int = 0
    wrong: int = 0
    build_errors: Counter[str] = field(default_factory=Counter)
    run_errors: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def of(proposed: int, built: Sequence[BuilderResult], results: Sequence[RunnerResult]) -> Round:
        """Count a batch; `results` may be shorter than `built`: the time was up."""
        out = Round(proposed, len(built))
        for b in built:
            out.built += b.problem is None
        for b, r in zip(built, results):
            problem = b.problem or r.problem
            if same_code(r):
                out.same_code += 1
            elif problem is None:
                out.measured += 1
                out.cut += r.cut
            elif problem.infrastructure:
                out.lost += 1
            elif problem.phase == REFUSED:
                out.refused_built += 1
            elif b.problem is not None:
                out.build_errors[problem.kind] += 1
            elif problem.kind == _WRONG:
                out.wrong += 1
            else:
                out.run_errors[problem.reason] += 1
        return out

    def as_json(self) -> dict[str, Any]:
        """The fields."""
        return {
            "proposed": self.proposed,
            "attempted": self.attempted,
            "built": self.built,
            "measured": self.measured,
            "cut": self.cut,
            "same_code": self.same_code,
            "refused_built": self.refused_built,
            "lost": self.lost,
            "wrong": self.wrong,
            "build_errors": dict(self.build_errors),
            "run_errors": dict(self.run_errors),
        }


class RoundLog:
    """Keeps the lines of a tuning, and writes them to a file if there is one.

    Args:
        path: the file; None: nowhere.

    Attributes:
        lines: one for each round, as the file has them.
        failures: the lines of the failures file.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []
        self.run = f"{time.time_ns():x}"
        self._seen: dict[int, SearchCounts] = {}

    def add(self, task_id: int, line: Mapping[str, Any], counts: SearchCounts | None) -> None:
        """Add a round of a task.

        Args:
            task_id: which task.
            line: what is known of the round.
            counts: the strategy's, since it began.

        Raises:
            RecordError: the file cannot be written.
        """
        whole = {"time": round(time.time(), 3), "run": self.run, **line}
        if counts is not None:
            whole |= self._since(task_id, counts)
        self.lines.append(whole)
        if self.path is not None:
            write_failures(self.path, [whole])

    def refusals(self, task_id: int) -> Counter[str]:
        """Why candidates of a task were not even measured, counted, up to its last round."""
        return Counter(self._seen.get(task_id, SearchCounts()).refused)

    def _since(self, task_id: int, now: SearchCounts) -> dict[str, Any]:
        """The counts since the round before."""
        before = self._seen.get(task_id, SearchCounts())
        self._seen[task_id] = now
        refused = Counter({k: n - before.refused.get(k, 0) for k, n in now.refused.items()})
        top = dict((+refused).most_common(_MOST_REASONS))
        if (rest := (+refused).total() - sum(top.values())) > 0:
            top["other reasons"] = rest
        return {
            "sampled": now.sampled - before.sampled,
            "duplicates": now.duplicates - before.duplicates,
            "refused": top,
        }


def predictions(
    candidates: Sequence[MeasureCandidate], results: Sequence[RunnerResult]
) -> dict[str, list[float]]:
    """What the model said of measured candidates, and their seconds: both lists in one order,
    candidates without a score and failures left out. Where it was asked again once they were built,
    the same for what it said then ("built_scores", "built_seconds")."""
    before = _pairs([c.score for c in candidates], results)
    built = _pairs([c.score_built for c in candidates], results)
    out = {"scores": before[0], "seconds": before[1]}
    return {**out, "built_scores": built[0], "built_seconds": built[1]} if built[0] else out


def _pairs(
    scores: Sequence[float | None], results: Sequence[RunnerResult]
) -> tuple[list[float], list[float]]:
    pairs = [
        (float(s), float(r.seconds))
        for s, r in zip(scores, results)
        if s is not None and math.isfinite(s) and math.isfinite(r.seconds)
    ]
    return [s for s, _ in pairs], [t for _, t in pairs]
