"""What is a mutator? A small random change of the decisions in a trace."""

from __future__ import annotations

import copy
import random
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from ..kinds import choose, random_of

if TYPE_CHECKING:
    from ...schedule import Trace
    from ..tune_context import TuneContext


class Mutator(ABC):
    """Base class of mutators; write your own by inheriting from it.

    Attributes:
        rng: where randomness comes from; seeded by `initialize_with_tune_context`, and may be set.
    """

    rng: random.Random = random.Random()

    def initialize_with_tune_context(self, context: TuneContext) -> None:
        """Learn what is tuned (`context.mod`), for which machine, and seed `rng`."""
        self.rng = random_of(context, self)
        self._initialize_with_tune_context(context)

    def _initialize_with_tune_context(self, context: TuneContext) -> None:  # noqa: B027
        """For subclasses; does nothing here."""

    @abstractmethod
    def apply(self, trace: Trace) -> Trace | None:
        """A changed copy without the postprocessing part; None: there is nothing to mutate."""

    def clone(self) -> Mutator:
        """A mutator of its own with the same settings, whose generator goes its own way."""
        other = copy.copy(self)
        if "rng" in self.__dict__:
            other.rng = random.Random(self.rng.getrandbits(64))
        return other

    @staticmethod
    def create(kind: str) -> dict[Mutator, float]:
        """The default mutators for a kind of target, such as "llvm", each with how often it is
        chosen.

        Raises:
            UserError: there are none for that kind.
        """
        from . import DEFAULTS

        return {m.clone(): p for m, p in choose(DEFAULTS, kind, "mutators")}
