"""How many values do indices take while some loops run, for all candidates at once?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .index_spans import Span

Floats = npt.NDArray[np.float64]


class Spans:
    """How many values indices take while loops run.

    Args:
        facts: (facts, candidates).
        extents: how far each loop runs (loops that are not there stand still).
        instances: how many instances that are: an index of which nothing is known takes as many
            values.
        part: of the first axis of extents and instances, if they have two: a place where loops run
            over a part only of what they do in place 0, in turns that follow each other.
    """

    def __init__(
        self,
        facts: Floats,
        extents: dict[int, Floats],
        instances: Floats,
        part: int | None = None,
    ) -> None:
        self.facts = facts
        self.extents = extents
        self.instances = instances
        self.part = part
        self._one = np.ones(facts.shape[1])
        self._found: dict[Span, Floats] = {}
        self._counted: dict[Span, Floats] = {}

    def of(self, s: Span) -> Floats:
        """From the least to the greatest value: how many numbers that are."""
        found = self._found.get(s)
        if found is None:
            found = self._found[s] = self._new(s)
        return found

    def values(self, s: Span) -> Floats:
        """How many of them it takes."""
        found = self._counted.get(s)
        if found is None:
            found = self._counted[s] = self._count(s)
        return found

    def _new(self, s: Span) -> Floats:
        one = self._one
        if s[0] == "loop":
            return self.extents.get(s[1], one)
        if s[0] == "all":
            return self.instances
        if s[0] == "sum":
            parts = [x for x in map(self.of, s[1]) if x is not one]
            if not parts:
                return one
            total = parts[0]
            for x in parts[1:]:
                total = total + x
            return total - (len(parts) - 1.0) if len(parts) > 1 else total
        if s[0] == "point":
            return one
        x = self.of(s[1])
        if x is one:
            return one
        n = self.facts[s[2]]
        out: Floats
        if s[0] == "scale":
            out = np.abs(n) * (x - 1.0) + 1.0
        elif s[0] == "div":
            out = np.floor((x - 1.0) / np.maximum(n, 1.0)) + 1.0
            if self.part is not None:
                # on average over the turns, of which few begin where a quotient does
                turn = x[self.part]
                step = np.gcd(turn.astype(np.int64), np.maximum(n, 1.0).astype(np.int64))
                mean = (turn - step) / np.maximum(n, 1.0) + 1.0
                out[self.part] = np.minimum(mean, out[0])
        else:
            out = np.minimum(x, np.maximum(n, 1.0))
        return out

    def _count(self, s: Span) -> Floats:
        one = self._one
        if s[0] == "scale":
            return self.values(s[1])
        if s[0] == "div" or s[0] == "mod":
            x = self.values(s[1])
            return one if x is one else np.asarray(np.minimum(x, self.of(s)))
        if s[0] == "sum":
            parts = [x for x in map(self.values, s[1]) if x is not one]
            if len(parts) < 2:
                return parts[0] if parts else one
            out = parts[0]
            for x in parts[1:]:
                out = out * x
            return np.asarray(np.minimum(out, self.of(s)))
        return self.of(s)
