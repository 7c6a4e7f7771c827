"""What do cost models make of features that mean nothing? For tests: rows of random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import UserError
from .feature_extractor import FeatureExtractor

if TYPE_CHECKING:
    from ..measure_candidate import MeasureCandidate
    from ..tune_context import TuneContext


class RandomFeatureExtractor(FeatureExtractor):
    """For each candidate some rows of numbers from 0 to 1, whatever the candidate is.

    Args:
        feature_size: numbers in a row.
        max_block_num: the most rows of a candidate; there is at least one.
        seed: of the generator: the same seed gives the same sequence of arrays.

    Raises:
        UserError: no numbers, or no rows.

    Example:
        >>> a, b = (RandomFeatureExtractor(seed=1).extract_from(None, [None]) for _ in range(2))
        >>> a[0].shape[1], bool((a[0] == b[0]).all())
        (30, True)
    """

    def __init__(self, *, feature_size: int = 30, max_block_num: int = 5, seed: int = 0) -> None:
        for name, n in (("feature_size", feature_size), ("max_block_num", max_block_num)):
            if n < 1:
                raise UserError(f"{name} is a count from 1, found {n}", code="feature-size")
        self.feature_size = feature_size
        self.max_block_num = max_block_num
        self._rng = np.random.default_rng(seed)

    def extract_from(
        self, context: TuneContext, candidates: Sequence[MeasureCandidate]
    ) -> list[npt.NDArray[Any]]:
        """Arrays of shape (1 to max_block_num, feature_size), float64."""
        rows = [int(self._rng.integers(1, self.max_block_num + 1)) for _ in candidates]
        return [self._rng.random((n, self.feature_size)) for n in rows]
