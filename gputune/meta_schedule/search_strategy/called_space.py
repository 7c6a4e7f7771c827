"""How is a space searched whose code looks at what it sampled? By calling it again and again."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ir.nodes import IRModule
from ...schedule import Schedule
from ...schedule.trace import Trace
from ..decisions import IntArray
from ..population import Evaluation
from ..postproc import Postproc
from ..sketch_feature import Machine
from ..watched import Maker, Wish, call_again, drawn, wishes_of
from .spaces import TraceSpace, _column, _until_postproc, mutated

if TYPE_CHECKING:
    from ..mutator import Mutator


class CalledSpace(TraceSpace):
    """The traces that the code of a design space makes, a call each.

    A row is the place of a trace in a list, as in `TraceSpace`: candidates are made by calls, and
    once made, they are replayed. A mutant is what a call makes of the decisions of its parent with
    one changed; where that takes another branch, what the parent did not decide is drawn.

    Args:
        maker: whose code is called.
        mod, trace, postprocs, mutators, machine: as of `TraceSpace`.
    """

    def __init__(
        self,
        maker: Maker,
        mod: IRModule,
        trace: Trace,
        postprocs: Sequence[Postproc],
        mutators: Mapping[Mutator, float],
        machine: Machine,
    ) -> None:
        super().__init__(mod, trace, postprocs, mutators, machine, None)
        self._maker = maker
        self._refused: Counter[str] = Counter()  # calls since the last evaluation

    def _call(self, seed: int, wishes: Sequence[Wish] = ()) -> list[Schedule]:
        return drawn(lambda: call_again(self._maker, self.mod, seed, wishes), self._refused)

    def _called(self, seed: int, wishes: Sequence[Wish] = ()) -> int | None:
        """The place of what a call makes (of one of its schedules); None if it refuses."""
        found = self._call(seed, wishes)
        return self._place(random.Random(seed).choice(found).trace) if found else None

    def sample(self, count: int, rng: np.random.Generator) -> IntArray:
        """Calls with new decisions."""
        return _column([self._called(int(rng.integers(1, 2**31 - 1))) for _ in range(count)])

    def mutate(self, rows: IntArray, rng: np.random.Generator) -> IntArray:
        """Calls with decisions that the mutators have changed, or one of which is forgotten."""
        choose = random.Random(int(rng.integers(2**31)))
        return _column([self._mutant(self._traces[k], choose) for k in rows[:, 0].tolist()])

    def _mutant(self, trace: Trace, choose: random.Random) -> int | None:
        seed = choose.randint(1, 2**31 - 1)
        if self.mutators and sum(self.weights) > 0:
            (mutator,) = choose.choices(self.mutators, self.weights)
            changed = mutated(mutator, trace)
            if changed is not None:
                changed = _until_postproc(changed)
                if changed.insts != trace.insts:  # a user's mutator that does more
                    return self._settle(changed, seed)
                return self._called(seed, wishes_of(changed))
        wishes = wishes_of(trace)
        if wishes:
            at = choose.randrange(len(wishes))
            wishes[at] = (*wishes[at][:2], None)
        return self._called(seed, wishes)

    def evaluate(self, rows: IntArray, new_classes: int | None = None) -> Evaluation:
        """As of `TraceSpace`; calls that were refused are counted, too."""
        out = super().evaluate(rows, new_classes)
        for reason, n in self._refused.items():
            out.refusals[reason] = out.refusals.get(reason, 0) + n
        self._refused.clear()
        return out

    def row_of(self, trace: Trace) -> IntArray | None:
        """The row of a trace that a call with its decisions makes."""
        wanted = _text(trace)
        for sch in self._call(1, wishes_of(trace)):
            if _text(sch.trace) == wanted:
                return np.array([self._place(sch.trace)], np.int64)
        return None


def _text(trace: Trace) -> str:
    return json.dumps(trace.as_json(remove_postproc=True))
