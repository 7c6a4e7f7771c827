"""What if nothing is known? Random scores: the search becomes a random one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...errors import RecordError
from .cost_model import CostModel, Rows, Scores
from .training_data import UNREADABLE

if TYPE_CHECKING:
    from ..measure_candidate import MeasureCandidate
    from ..runner import RunnerResult
    from ..tune_context import TuneContext


class RandomModel(CostModel):
    """Scores drawn uniformly; learns nothing.

    Args:
        seed: of the generator; None draws one.
        path: a file that `save` wrote, to go on from.
        max_range: scores are from 0 to this.

    Example:
        >>> a, b = RandomModel(seed=3), RandomModel(seed=3)
        >>> rows = np.zeros((4, 1), np.float32)
        >>> bool((a.predict_features(rows) == b.predict_features(rows)).all())
        True
    """

    def __init__(
        self, seed: int | None = None, path: str | None = None, max_range: float = 100.0
    ) -> None:
        self.max_range = float(max_range)
        self._rng = np.random.Generator(np.random.PCG64(seed))
        if path is not None:
            self.load(path)

    def load(self, path: str) -> None:
        """Go on where the generator was; RecordError if the file is none of `save`'s."""
        try:
            with open(path, "rb") as f:
                words = np.load(f, allow_pickle=False)
        except UNREADABLE as e:
            raise RecordError(f"{path}: not a saved random model: {e}") from None
        if not isinstance(words, np.ndarray) or words.dtype != np.uint64 or words.shape != (6,):
            raise RecordError(f"{path}: not a saved random model")
        a, b, c, d, has, last = (int(w) for w in words)
        self._rng.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": a << 64 | b, "inc": c << 64 | d | 1},
            "has_uint32": min(has, 1),
            "uinteger": last & 0xFFFFFFFF,
        }

    def save(self, path: str) -> None:
        """Write the state of the generator."""
        state = self._rng.bit_generator.state
        low = (1 << 64) - 1
        s, inc = state["state"]["state"], state["state"]["inc"]
        words = [s >> 64, s & low, inc >> 64, inc & low, state["has_uint32"], state["uinteger"]]
        with open(path, "wb") as f:
            np.save(f, np.array(words, np.uint64), allow_pickle=False)

    def update(
        self,
        context: TuneContext,
        candidates: Sequence[MeasureCandidate],
        results: Sequence[RunnerResult],
    ) -> None:
        """Nothing is learned."""

    def predict(self, context: TuneContext, candidates: Sequence[MeasureCandidate]) -> Scores:
        """A random score for each candidate."""
        return self._rng.random(len(candidates)) * self.max_range

    def update_features(self, workload: str, features: Rows, seconds: Sequence[float]) -> None:
        """Nothing is learned."""

    def predict_features(self, features: Rows) -> Scores:
        """A random score for each row."""
        return self._rng.random(len(features)) * self.max_range
