"""What if another unroll limit had been drawn? MutateUnroll."""

from __future__ import annotations

from ...schedule import Instruction, Trace
from ..analysis import AUTO_UNROLL_MAX_STEP, UNROLL_EXPLICIT, UNROLL_IMPLICIT
from .categories import resampled, sampled_for
from .mutator import Mutator

_NOTES = (UNROLL_EXPLICIT, UNROLL_IMPLICIT, AUTO_UNROLL_MAX_STEP)


class MutateUnroll(Mutator):
    """Draws another unroll limit."""

    def apply(self, trace: Trace) -> Trace | None:
        """A trace with another limit; None where none was sampled among several."""
        found = sampled_for(trace, _notes_unroll)
        if not found:
            return None
        return resampled(self.rng, trace, self.rng.choice(found))


def _notes_unroll(inst: Instruction) -> bool:
    return inst.kind.name == "Annotate" and inst.attrs[0] in _NOTES
