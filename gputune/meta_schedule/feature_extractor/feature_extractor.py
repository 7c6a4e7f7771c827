"""How is a candidate turned into numbers that a cost model learns from?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from ...errors import UserError
from ..derived import left_open

if TYPE_CHECKING:
    from ..measure_candidate import MeasureCandidate
    from ..tune_context import TuneContext


class FeatureExtractor(ABC):
    """Base class of feature extractors; write your own by inheriting from it."""

    @abstractmethod
    def extract_from(
        self, context: TuneContext, candidates: Sequence[MeasureCandidate]
    ) -> list[npt.NDArray[Any]]:
        """One 2-D array for each candidate: (rows, features); the number of features is the same
        for all."""

    @staticmethod
    def create(kind: str = "per-store-feature", *args: Any, **kwargs: Any) -> FeatureExtractor:
        """An extractor by name: "per-store-feature" (one row a store), "sketch-feature" (one row a
        candidate, gputune's own), or "random" (for tests). What follows goes to its constructor.

        Raises:
            UserError: there is none of that name.

        Example:
            >>> FeatureExtractor.create("per-store-feature", extract_workload=True).width
            172
        """
        from .per_store_feature import PerStoreFeature
        from .random_feature import RandomFeatureExtractor
        from .sketch import SketchFeature

        if kind == "per-store-feature":
            return PerStoreFeature(*args, **kwargs)
        if kind == "sketch-feature":
            return SketchFeature(*args, **kwargs)
        if kind == "random":
            return RandomFeatureExtractor(*args, **kwargs)
        raise UserError(
            f"{kind!r} is no feature extractor",
            hint='there are "per-store-feature", "sketch-feature" and "random"',
            code="feature-extractor",
        )


@left_open
class PyFeatureExtractor(FeatureExtractor):
    """MetaSchedule's class to inherit from: a method left out is missed when it is called."""
