"""What if another number of threads had been drawn? MutateThreadBinding."""

from __future__ import annotations

from ...schedule import Instruction, Trace
from .categories import resampled, sampled_for
from .mutator import Mutator


class MutateThreadBinding(Mutator):
    """Draws another extent of a loop that is bound to threads, where it was drawn from a list."""

    def apply(self, trace: Trace) -> Trace | None:
        """A trace with another number of threads; None where none was sampled."""
        bound = {
            inst.inputs[0]
            for inst in trace.insts
            if inst.kind.name == "Bind" and str(inst.attrs[0]).startswith("threadIdx")
        }

        def makes_threads(inst: Instruction) -> bool:
            return inst.kind.name == "Split" and any(x in bound for x in inst.outputs)

        found = sampled_for(trace, makes_threads)
        if not found:
            return None
        return resampled(self.rng, trace, self.rng.choice(found))
