"""What does the search propose to measure?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from ..ir.equal import structural_hash
from ..schedule import Schedule
from .arg_info import ArgInfo


class MeasureCandidate:
    """A scheduled program and the arguments to measure it with.

    Args:
        sch: the schedule.
        args_info: descriptions of the entry function's arguments.
    """

    def __init__(self, sch: Schedule, args_info: Sequence[ArgInfo]) -> None:
        self.sch = sch
        self.args_info = list(args_info)

    @cached_property
    def digest(self) -> str:
        """The digest of the scheduled program: candidates with equal ones are the same."""
        return structural_hash(self.sch.mod)

    def __repr__(self) -> str:
        return f"MeasureCandidate({', '.join(map(repr, self.args_info))})"
