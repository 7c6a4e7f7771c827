"""What does the search propose to measure?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..ir.equal import structural_hash
from ..schedule import Schedule
from .arg_info import ArgInfo

if TYPE_CHECKING:
    from .compiled import Compiled


class MeasureCandidate:
    """A scheduled program and the arguments to measure it with.

    Args:
        sch: the schedule.
        args_info: descriptions of the entry function's arguments.

    Attributes:
        score: what the strategy's model thought of it when it was proposed (higher is better); None
            where nobody said.
        features: its row of sketch features, where the strategy knows them.
        score_built: what the model thought of it once it was built; None where nobody said.
        compiled: what the compiler tells of it, once it is built for a GPU.
        excused: the rule that refuses it, where it is measured all the same: a few are, so that the
            rule is known to be right. "" for all others.
    """

    def __init__(self, sch: Schedule, args_info: Sequence[ArgInfo]) -> None:
        self.sch = sch
        self.args_info = list(args_info)
        self.score: float | None = None
        self.features: npt.NDArray[np.float32] | None = None
        self.score_built: float | None = None
        self.compiled: Compiled | None = None
        self.excused = ""

    @staticmethod
    def of(sch: Schedule) -> MeasureCandidate:
        """A candidate with the arguments of its own entry function: those that it packs, packed."""
        return MeasureCandidate(sch, ArgInfo.from_entry_func(sch.mod))

    @cached_property
    def digest(self) -> str:
        """The digest of the scheduled program: candidates with equal ones are the same."""
        return structural_hash(self.sch.mod)

    def __repr__(self) -> str:
        return f"MeasureCandidate({', '.join(map(repr, self.args_info))})"
