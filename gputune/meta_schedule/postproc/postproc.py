"""What is a postproc? The last changes to a schedule before it is measured, or its refusal."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ..kinds import choose
from ..watched import is_ours

if TYPE_CHECKING:
    from ...schedule import Schedule
    from ..tune_context import TuneContext


class Postproc(ABC):
    """Base class of postprocs; write your own by inheriting from it and giving it an `apply`.

    A postproc must do the same to all schedules of one structure: it compares sampled extents only
    where it has to, and never asks whether one of them is 1.

    Attributes:
        last_error: why the last schedule was refused, None if it was not.
        calls_users: does it call functions of the user's, which do not know of sampled values?
        choices: codes of those refusals that are judgements, not limits: the device could run what
            they refuse. A few of it are measured all the same.
    """

    last_error: ScheduleError | None = None
    calls_users: bool = False
    choices: frozenset[str] = frozenset()

    def initialize_with_tune_context(self, context: TuneContext) -> None:
        """Learn what is tuned (`context.mod`) and for which machine (`context.target`)."""
        self._initialize_with_tune_context(context)

    def _initialize_with_tune_context(self, context: TuneContext) -> None:  # noqa: B027
        """For subclasses; does nothing here."""

    @abstractmethod
    def apply(self, sch: Schedule) -> bool:
        """Change the schedule in place. False: the candidate is refused."""

    def excusing(self, code: str) -> Postproc:
        """A postproc of its own that does not refuse for one of its `choices`; for subclasses that
        have some."""
        return self.clone()

    def clone(self) -> Postproc:
        """A postproc of its own with the same settings."""
        return copy.copy(self)

    @staticmethod
    def create(kind: str) -> list[Postproc]:
        """The default postprocs for a kind of target, such as "llvm".

        Raises:
            UserError: there are none for that kind.
        """
        from . import DEFAULTS

        return [p.clone() for p in choose(DEFAULTS, kind, "postprocs")]


def lenient(postprocs: Sequence[Postproc], code: str) -> Sequence[Postproc]:
    """The postprocs without one of their refusals that are judgements; "": as they are."""
    if not code:
        return postprocs
    return [p.excusing(code) if code in getattr(p, "choices", ()) else p for p in postprocs]


def choices_of(postprocs: Sequence[Postproc]) -> frozenset[str]:
    """The codes of all refusals that are judgements."""
    return frozenset(code for p in postprocs for code in getattr(p, "choices", ()))


def postprocess(sch: Schedule, postprocs: Sequence[Postproc]) -> ScheduleError | None:
    """Enter postprocessing and apply postprocs in order until one refuses.

    Args:
        sch: changed in place; the trace gets `enter_postproc` and what the postprocs do.
        postprocs: built in or a user's; a ScheduleError that one raises is its refusal, as is
            whatever else a user's raises.

    Returns:
        None, or why the schedule is refused; the message begins with the postproc's name.
    """
    sch.enter_postproc()
    for p in postprocs:
        name = type(p).__name__
        p.last_error = None
        try:
            if p.apply(sch):
                continue
            error = p.last_error or ScheduleError("refused the schedule", code="postproc")
        except ScheduleError as e:
            error = e
        except Exception as e:  # one candidate can fail, the search cannot; the reason is counted
            if is_ours(p):
                raise
            error = ScheduleError(f"{type(e).__name__}: {e}")
        if not error.message.startswith(f"{name}: "):
            error.message = f"{name}: {error.message}"
        p.last_error = error
        return error
    return None
