"""What does the search's own row of features look like to those who ask for features by name?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..sketch_feature import FEATURE_COUNT, Machine, features_of
from .feature_extractor import FeatureExtractor

if TYPE_CHECKING:
    from ..measure_candidate import MeasureCandidate
    from ..tune_context import TuneContext


class SketchFeature(FeatureExtractor):
    """One row a candidate, of the same length for every program; see `sketch_feature`."""

    def extract_from(
        self, context: TuneContext, candidates: Sequence[MeasureCandidate]
    ) -> list[npt.NDArray[Any]]:
        """Arrays of shape (1, FEATURE_COUNT), float32."""
        machine = Machine.of(context.target)
        return [
            (features_of(c.sch.mod, machine)[0] if c.features is None else c.features)[None]
            for c in candidates
        ]

    def matrix(
        self, context: TuneContext, candidates: Sequence[MeasureCandidate]
    ) -> npt.NDArray[np.float32]:
        """The rows of all candidates, (candidates, FEATURE_COUNT)."""
        if not candidates:
            return np.empty((0, FEATURE_COUNT), np.float32)
        return np.concatenate(self.extract_from(context, candidates))
