"""How is a candidate turned into numbers that a cost model learns from?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError
from .sketch_feature import FEATURE_COUNT, Machine, features_of

if TYPE_CHECKING:
    from .measure_candidate import MeasureCandidate
    from .tune_context import TuneContext


class FeatureExtractor(ABC):
    """Base class of feature extractors; write your own by inheriting from it."""

    @abstractmethod
    def extract_from(
        self, context: TuneContext, candidates: Sequence[MeasureCandidate]
    ) -> list[npt.NDArray[Any]]:
        """One 2-D array for each candidate: (rows, features)."""

    @staticmethod
    def create(kind: str = "sketch-feature", *args: Any, **kwargs: Any) -> FeatureExtractor:
        """An extractor by name.

        Raises:
            UserError: there is none of that name in this version.
        """
        if kind == "sketch-feature":
            return SketchFeature(*args, **kwargs)
        if kind == "per-store-feature":
            raise UserError(
                "the feature extractor 'per-store-feature' is not part of this version",
                hint='there is "sketch-feature": one row a candidate',
                code="feature-extractor",
            )
        raise UserError(
            f"{kind!r} is no feature extractor",
            hint='there is "sketch-feature"',
            code="feature-extractor",
        )


PyFeatureExtractor = FeatureExtractor
"""MetaSchedule's name of the class to inherit from."""


class SketchFeature(FeatureExtractor):
    """One row a candidate, of the same length for every program; see `sketch_feature`."""

    def extract_from(
        self, context: TuneContext, candidates: Sequence[MeasureCandidate]
    ) -> list[npt.NDArray[Any]]:
        """Arrays of shape (1, FEATURE_COUNT), float32."""
        machine = Machine.of(context.target)
        return [features_of(c.sch.mod, machine)[0][None] for c in candidates]

    def matrix(
        self, context: TuneContext, candidates: Sequence[MeasureCandidate]
    ) -> npt.NDArray[np.float32]:
        """The rows of all candidates, (candidates, FEATURE_COUNT)."""
        if not candidates:
            return np.empty((0, FEATURE_COUNT), np.float32)
        return np.concatenate(self.extract_from(context, candidates))
