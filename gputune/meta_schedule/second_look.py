"""Which of the candidates that were built are worth measuring? The compiler has told more of them.

Two kinds are not measured, and both are recorded:

* those that are, instruction for instruction, what was measured before: its times are theirs;
* those that a rule refuses. A rule is a guess that they are slow, so a few of them are measured all
  the same (`spared`), and `gputune why` says how the best of these did.

>>> RULES["heavy-spills"].refuses(Compiled({"k": {"stack_bytes": 512}}))
True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import RunError
from .artifact import Artifact
from .builder import BuilderResult
from .compiled import Compiled
from .failures import INFRASTRUCTURE, REFUSED, Failure
from .measure_candidate import MeasureCandidate
from .runner import RunnerResult

if TYPE_CHECKING:
    from .cost_model import CostModel
    from .tune_context import TuneContext

SPARED = 1 / 16
"""The share of what a rule refuses that is measured all the same."""
MOST_LOCAL_BYTES = 256
"""Local memory of a thread, in bytes, beyond which a kernel is taken to lose: what lies there is
stored and loaded again and again. What is less is for the cost model to judge."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A guess which built candidates are slow.

    Attributes:
        text: what it refuses, in words.
        refuses: does it refuse one?
    """

    text: str
    refuses: Callable[[Compiled], bool]


RULES: Mapping[str, Rule] = {
    "heavy-spills": Rule(
        f"more than {MOST_LOCAL_BYTES} bytes of local memory a thread",
        lambda x: x.local_bytes > MOST_LOCAL_BYTES,
    ),
}
"""By the name that records and logs give them. What cannot run at all (no block of it fits on a
multiprocessor) is no guess: the builder refuses it."""


def look(candidates: Sequence[MeasureCandidate], built: Sequence[BuilderResult]) -> None:
    """Learn what the compiler tells of candidates that were built for a GPU."""
    for candidate, b in zip(candidates, built):
        if b.problem is None and b.artifact_path is not None:
            try:
                candidate.compiled = Compiled.of(Artifact.load(b.artifact_path))
            except RunError:
                continue  # a builder of one's own made something else


def rank_again(
    context: TuneContext, model: CostModel | None, candidates: Sequence[MeasureCandidate]
) -> list[int]:
    """The order in which to measure: the best first, by what the model says now that it is known
    what they compiled to. They keep their order where it has nothing to say.

    What it says goes to `score_built` of each.
    """
    order = list(range(len(candidates)))
    there = [i for i in order if candidates[i].compiled is not None]
    learned = getattr(model, "takes_compiled", False) and getattr(model, "is_trained", False)
    if model is None or not learned or not there:
        return order
    for i, score in zip(there, model.predict(context, [candidates[i] for i in there])):
        candidates[i].score_built = float(score)
    there.sort(key=lambda i: -(candidates[i].score_built or 0.0))
    return [*there, *(i for i in order if candidates[i].compiled is None)]


def refusals(
    candidates: Sequence[MeasureCandidate], built: Sequence[BuilderResult], known: bool
) -> list[RunnerResult | None]:
    """Why candidates are not measured, None for those that are. What a rule refuses and is measured
    all the same is `excused`; where nothing else is known, all are: it may be how the program is.

    Args:
        candidates: after `look`.
        built: of each.
        known: has something been measured that no rule refuses?
    """
    rules = [refused_by(c) for c in candidates]
    good = any(b.problem is None and not rule for b, rule in zip(built, rules))
    out: list[RunnerResult | None] = []
    for candidate, b, rule in zip(candidates, built, rules):
        if b.problem is not None or not rule:
            out.append(None)
        elif spared(candidate.digest) or not (good or known):
            candidate.excused = candidate.excused or rule
            out.append(None)
        else:
            failure = Failure(REFUSED, rule, RULES[rule].text)
            out.append(replace(RunnerResult.failed(failure), extras=_told(candidate)))
    return out


def spared(digest: str) -> bool:
    """Is a candidate that a rule refuses measured all the same? The digest of its program decides,
    so it is the same in each run."""
    return int(digest[:8], 16) < SPARED * 16**8


def refused_by(candidate: MeasureCandidate) -> str:
    """The rule that refuses a candidate after `look`, or ""."""
    found = candidate.compiled
    if found is None:
        return ""
    return next((name for name, rule in RULES.items() if rule.refuses(found)), "")


def _told(candidate: MeasureCandidate) -> dict[str, Any]:
    return {} if candidate.compiled is None else {"facts": dict(candidate.compiled.facts)}


# ----------------------------------------------------------------------------- the same code
class MeasuredCode:
    """What was measured in a task, by its code.

    Example:
        >>> code = MeasuredCode()
        >>> code.again(candidate)                                      # doctest: +SKIP
        False
        >>> code.note(candidate, result)                               # doctest: +SKIP
        >>> code.again(other), code.result_of(other).seconds           # doctest: +SKIP
        (True, 1.2e-05)
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, RunnerResult]] = {}
        self._coming: set[str] = set()

    def again(self, candidate: MeasureCandidate) -> bool:
        """Is it what was measured before, or is about to be? Else it is from now on."""
        code = _code(candidate)
        if not code:
            return False
        if code in self._known or code in self._coming:
            return True
        self._coming.add(code)
        return False

    def note(self, candidate: MeasureCandidate, result: RunnerResult) -> None:
        """Keep the result of one that was measured; one that was lost for no fault of its own may
        be measured again."""
        code, problem = _code(candidate), result.problem
        self._coming.discard(code)
        refused = problem is not None and problem.phase == REFUSED
        if result.unranked:
            return  # others of the same code may be measured by themselves
        if code and not result.is_lost and not refused and not same_code(result):
            self._known.setdefault(code, (candidate.digest, result))

    def end_round(self) -> None:
        """What was not measured by now is not about to be."""
        self._coming.clear()

    def result_of(self, candidate: MeasureCandidate) -> RunnerResult:
        """The result of what has the same code, as this candidate's; it names the other's program
        under "same_code_as"."""
        found = self._known.get(_code(candidate))
        if found is None:
            text = "what has the same code could not be measured"
            return RunnerResult.failed(Failure(INFRASTRUCTURE, "lost", text))
        program, result = found
        extras = {**result.extras, **_told(candidate), "same_code_as": program}
        return replace(result, extras=extras)


def same_code(result: RunnerResult) -> bool:
    """Is it the result of another candidate, which compiled to the same code?"""
    return "same_code_as" in result.extras


def _code(candidate: MeasureCandidate) -> str:
    return "" if candidate.compiled is None else candidate.compiled.code


# ----------------------------------------------------------------------------- regret
def regret(
    candidates: Sequence[MeasureCandidate], results: Sequence[RunnerResult]
) -> dict[str, Any]:
    """What a round says of the rules, as a line of the log has it.

    Returns:
        "rules": for each that refused something or whose refusals were measured: how many were
        "refused" after they were built, how many of what it refuses were "measured", and their
        "best" seconds; "accepted": the best seconds of what no rule refuses.
    """
    rules: dict[str, dict[str, Any]] = {}
    accepted = math.inf
    for candidate, result in zip(candidates, results):
        problem = result.problem
        if problem is not None and problem.infrastructure:
            continue
        refused = problem is not None and problem.phase == REFUSED
        name = problem.kind if refused and problem is not None else candidate.excused
        if not name:
            accepted = min(accepted, result.seconds)
            continue
        row = rules.setdefault(name, {"refused": 0, "measured": 0, "best": None})
        row["refused"] += name in RULES
        if refused:
            continue
        row["measured"] += 1
        if math.isfinite(result.seconds):
            before = row["best"]
            row["best"] = result.seconds if before is None else min(before, result.seconds)
    return {"rules": rules, "accepted": accepted if math.isfinite(accepted) else None}
