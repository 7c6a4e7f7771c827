"""What if a tile were a bit larger and another one smaller? MutateTileSize."""

from __future__ import annotations

from ...schedule import Instruction, Trace
from ...schedule.tilings import divisors
from ..analysis import COOPERATIVE_FETCH
from .categories import resampled, sampled_for
from .mutator import Mutator


class MutateTileSize(Mutator):
    """Moves a divisor from one tile of a loop to another, or draws another fetch width."""

    def apply(self, trace: Trace) -> Trace | None:
        """A trace with one such change; None where nothing can change."""
        tilings = [inst for inst in trace.insts if _moves(trace, inst)]
        widths = sampled_for(trace, _notes_fetch)
        if not tilings and not widths:
            return None
        inst = self.rng.choice([*tilings, *widths])
        if inst.kind.name == "SampleCategorical":
            return resampled(self.rng, trace, inst)
        pairs = _moves(trace, inst)
        x, y = self.rng.choice(list(pairs))
        d = self.rng.choice(pairs[x, y])
        tiles = [int(t) for t in trace.decisions[inst]]
        tiles[x] //= d
        tiles[y] *= d
        return trace.with_decision(inst, tiles, remove_postproc=True)


def _notes_fetch(inst: Instruction) -> bool:
    return inst.kind.name == "Annotate" and inst.attrs[0] == COOPERATIVE_FETCH


def _moves(trace: Trace, inst: Instruction) -> dict[tuple[int, int], list[int]]:
    """The divisors above 1 that can move from tile x to tile y, by (x, y)."""
    if inst.kind.name != "SamplePerfectTile" or inst not in trace.decisions:
        return {}
    tiles = [int(t) for t in trace.decisions[inst]]
    limit = int(inst.attrs[1])
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
