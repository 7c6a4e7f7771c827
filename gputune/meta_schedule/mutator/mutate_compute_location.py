"""What if a block were computed somewhere else? MutateComputeLocation."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...errors import ScheduleError
from ...ir.nodes import IRModule, PrimFunc
from ...schedule import Instruction, Schedule, Trace
from ...schedule.sampling import compute_locations
from .mutator import Mutator

if TYPE_CHECKING:
    from ..tune_context import TuneContext


class MutateComputeLocation(Mutator):
    """Draws another place for one block; which places there are is found by replaying the trace."""

    def __init__(self) -> None:
        self.mod: IRModule | PrimFunc | None = None

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        self.mod = context.mod

    def apply(self, trace: Trace) -> Trace | None:
        """A trace with another place; None where there is no choice, or no program to replay on."""
        sampled = [i for i in trace.insts if i.kind.name == "SampleComputeLocation"]
        if not sampled or self.mod is None:
            return None
        choices = [(i, others) for i, others in self._others(trace) if others]
        if not choices:
            return None
        inst, others = self.rng.choice(choices)
        return trace.with_decision(inst, self.rng.choice(others), remove_postproc=True)

    def _others(self, trace: Trace) -> list[tuple[Instruction, list[int]]]:
        """The places that each instruction could have drawn instead."""
        assert self.mod is not None
        sch = Schedule(self.mod, seed=1, error_render_level="none")
        found: list[tuple[Instruction, list[int]]] = []

        def look(inst: Instruction, inputs: list[Any], attrs: list[Any], decision: Any) -> Any:
            if inst.kind.name == "SampleComputeLocation":
                legal = compute_locations(sch, sch.block(inputs[0]))
                found.append((inst, [x for x in legal if x != decision]))
            return decision

        with suppress(ScheduleError):  # where the replay ends early, what was found still holds
            trace.apply_to_schedule(sch, remove_postproc=True, decision_provider=look)
        return found
