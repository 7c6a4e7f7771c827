"""What is the answer before anything is measured? The candidate that the model ranks first.

Its numbers are checked like those of a new best; it has no time, and says so. On a GPU it is the
first of which the compiler tells nothing bad (see `second_look`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import GputuneError
from ..ir.nodes import IRModule
from ..schedule import Schedule
from ..target import Target
from .builder import Builder, BuilderInput, same_order
from .failures import Failure
from .measure_candidate import MeasureCandidate
from .second_look import look, refused_by
from .tune_context import TuneContext
from .verify import Checker

if TYPE_CHECKING:
    from .cost_model import CostModel

_ATTEMPTS = 8
"""Candidates that are built at most, the best first, until one is right."""


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """A schedule that was chosen without a measurement.

    Attributes:
        mod: the unscheduled program.
        schedule: the choice.
        source: who chose: "analytic model", the class of a cost model that has learned, or "default
            schedule".
        verified: its numbers were compared with the unscheduled program's.
        score: what the model said (higher is better; comparable within one search only), or None.
    """

    mod: IRModule
    schedule: Schedule
    source: str
    verified: bool
    score: float | None = None

    def __str__(self) -> str:
        checked = "numbers verified" if self.verified else "numbers not verified"
        return f"not measured: chosen by the {self.source} ({checked})"


def source_of(model: CostModel | None) -> str:
    """Who ranks candidates, in words: a cost model that has learned nothing leaves it to the
    analytic one."""
    if model is None or not getattr(model, "is_trained", True):
        return "analytic model"
    return type(model).__name__


def predict(
    context: TuneContext,
    model: CostModel | None,
    builder: Builder,
    verifier: Checker | None,
    note: Callable[[MeasureCandidate, Failure], None],
) -> Predicted | None:
    """The best candidate of a search that was begun, by its model; the default schedule where the
    strategy has no opinion or none of its candidates is right.

    Args:
        context: after `pre_tuning`.
        model: what ranks, for the record.
        builder: compiles where there is no verifier.
        verifier: compares with the unscheduled program.
        note: told of each candidate that failed.

    Returns:
        The choice; None if there is not even a default schedule.
    """
    asked = getattr(context.search_strategy, "best_candidates", None)
    found = list((asked(_ATTEMPTS) if callable(asked) else None) or ())
    for candidate in _slow_last(found, context.target, builder):
        verified, failure = _judged(candidate, context.target, builder, verifier)
        if failure is None:
            source = source_of(model)
            return Predicted(context.mod, candidate.sch, source, verified, candidate.score)
        note(candidate, failure)
    return _default(context, verifier)


def _slow_last(
    candidates: Sequence[MeasureCandidate], target: Target, builder: Builder
) -> Iterator[MeasureCandidate]:
    """The candidates in their order; those that a rule takes to be slow, once they are built, come
    after all others. Each is built when it is asked for."""
    if target.kind != "cuda":
        yield from candidates
        return
    from .measure_callback import remove_artifacts

    slow: list[MeasureCandidate] = []
    for candidate in candidates:
        inputs = [BuilderInput(candidate.sch.mod, target)]
        built = same_order(builder.build(inputs), inputs)
        look([candidate], built)
        remove_artifacts(built)
        if refused_by(candidate):
            slow.append(candidate)
        else:
            yield candidate
    yield from slow


def _judged(
    candidate: MeasureCandidate, target: Target, builder: Builder, verifier: Checker | None
) -> tuple[bool, Failure | None]:
    """Are its numbers known to be right; and why it cannot be taken."""
    if verifier is not None:
        verdict = verifier.check_program(candidate.sch.mod)
        if verdict.outcome == "wrong":
            return False, verdict.failure or Failure("check", "wrong_result", "wrong numbers")
        if verdict.outcome == "right":
            return True, None
    # nobody can say whether it is right: that it compiles, at least
    from .measure_callback import remove_artifacts

    inputs = [BuilderInput(candidate.sch.mod, target)]
    (built,) = same_order(builder.build(inputs), inputs)
    remove_artifacts([built])
    problem = built.problem
    return False, None if problem is None or problem.infrastructure else problem


def _default(context: TuneContext, verifier: Checker | None) -> Predicted | None:
    from ..default_schedule import default_schedule

    if len(context.mod.functions) != 1:
        return None
    try:
        sch = default_schedule(context.mod, context.target)
    except GputuneError:
        return None
    verified = False
    if verifier is not None:
        verdict = verifier.check_program(sch.mod)
        if verdict.outcome == "wrong":
            return None
        verified = verdict.outcome == "right"
    return Predicted(context.mod, sch, "default schedule", verified)
