"""What if a tile were a bit larger and another one smaller? MutateTileSize."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...ir.nodes import IRModule
from ...schedule import Instruction, Schedule, Trace
from ...schedule.tilings import Covering, divisors, innermost_limit, near
from ..analysis import BUFFER_DIM_ALIGN, COOPERATIVE_FETCH, PIPELINE_STAGE
from ..knobs_of_trace import extents_of
from .categories import resampled, sampled_for
from .mutator import Mutator

if TYPE_CHECKING:
    from ..tune_context import TuneContext


_OF_FETCHES = (COOPERATIVE_FETCH, PIPELINE_STAGE, BUFFER_DIM_ALIGN)


class MutateTileSize(Mutator):
    """Moves a divisor from one tile of a loop to another, or draws another width of vectors or of a
    fetch (how far it runs ahead, how the rows of what it fills are padded). Tiles that
    need not divide (`sample_tile`) become neighbours of their kind; how long their loops are is
    found by replay, so these need a context."""

    mod: IRModule | None = None

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        self.mod = context.mod

    def apply(self, trace: Trace) -> Trace | None:
        """A trace with one such change; None where nothing can change."""
        covers = self._coverings(trace)
        tilings = [inst for inst in trace.insts if inst in covers or _moves(trace, inst)]
        vectors = {i.inputs[0] for i in trace.insts if i.kind.name == "Vectorize"}
        widths = sampled_for(trace, lambda i: _notes_fetch(i) or _makes_vectors(i, vectors))
        if not tilings and not widths:
            return None
        inst = self.rng.choice([*tilings, *widths])
        if inst.kind.name == "SampleCategorical":
            return resampled(self.rng, trace, inst)
        if inst in covers:
            return trace.with_decision(inst, self.rng.choice(covers[inst]), remove_postproc=True)
        pairs = _moves(trace, inst)
        x, y = self.rng.choice(list(pairs))
        d = self.rng.choice(pairs[x, y])
        tiles = [int(t) for t in trace.decisions[inst]]
        tiles[x] //= d
        tiles[y] *= d
        return trace.with_decision(inst, tiles, remove_postproc=True)

    def _coverings(self, trace: Trace) -> dict[Instruction, list[list[int]]]:
        """What the tiles that need not divide may become."""
        if self.mod is None or not any(i.kind.name == "SampleTile" for i in trace.insts):
            return {}
        try:
            extents = extents_of(trace, Schedule(self.mod, error_render_level="none"))
        except ScheduleError:  # a trace that does not apply has no neighbours
            return {}
        return {
            inst: found
            for inst, extent in extents.items()
            if inst in trace.decisions
            and (found := near(Covering(*inst.attrs), trace.decisions[inst], extent))
        }


def _notes_fetch(inst: Instruction) -> bool:
    return inst.kind.name == "Annotate" and inst.attrs[0] in _OF_FETCHES


def _makes_vectors(inst: Instruction, vectors: Collection[object]) -> bool:
    return inst.kind.name == "Split" and inst.outputs[-1] in vectors


def _moves(trace: Trace, inst: Instruction) -> dict[tuple[int, int], list[int]]:
    """The divisors above 1 that can move from tile x to tile y, by (x, y)."""
    if inst.kind.name != "SamplePerfectTile" or inst not in trace.decisions:
        return {}
    tiles = [int(t) for t in trace.decisions[inst]]
    limit = innermost_limit(int(inst.attrs[1]))
    out: dict[tuple[int, int], list[int]] = {}
    last = len(tiles) - 1
    for x, size in enumerate(tiles):
        for y in range(len(tiles)):
            if x != y:
                room = size if y != last else limit // tiles[y]
                can = [d for d in divisors(size)[1:] if d <= room]
                if can:
                    out[x, y] = can
    return out
