"""Do all cost models and feature extractors keep to what is asked of any of them?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gputune.errors import RecordError
from gputune.meta_schedule.cost_model import (
    CostModel,
    MLPModel,
    PyCostModel,
    RandomModel,
    SegmentSumMLPTrainer,
    XGBConfig,
    XGBModel,
)
from gputune.meta_schedule.feature_extractor import (
    FeatureExtractor,
    PerStoreFeature,
    PyFeatureExtractor,
    RandomFeatureExtractor,
    SketchFeature,
)
from tests.contracts.cost_model import CostModelContract
from tests.contracts.feature_extractor import FeatureExtractorContract


class TestXGBModel(CostModelContract):
    def model(self) -> CostModel:
        return XGBModel(config=XGBConfig(num_trees=20, tree_method="hist", max_bin=32))


class TestXGBModelPerStore(CostModelContract):
    def model(self) -> CostModel:
        config = XGBConfig(num_trees=20, max_depth=4)
        return XGBModel(extractor="per-store-feature", config=config, num_warmup_samples=8)


class TestMLPModel(CostModelContract):
    def model(self) -> CostModel:
        return MLPModel(trainer=SegmentSumMLPTrainer(hidden_dim=16, learning_rate=5e-3))


class TestRandomModel(CostModelContract):
    learns = False

    def model(self) -> CostModel:
        return RandomModel(seed=4)


class _Constant(PyCostModel):
    """A user's own model."""

    def load(self, path: str) -> None:
        try:
            with open(path) as f:
                good = f.read() == "constant"
        except (OSError, ValueError):
            good = False
        if not good:
            raise RecordError(f"{path}: not a saved constant")

    def save(self, path: str) -> None:
        with open(path, "w") as f:
            f.write("constant")

    def update(self, context: Any, candidates: Sequence[Any], results: Sequence[Any]) -> None:
        assert len(candidates) == len(results)

    def predict(self, context: Any, candidates: Sequence[Any]) -> Any:
        return np.ones(len(candidates))


class TestOwnModel(CostModelContract):
    learns = False

    def model(self) -> CostModel:
        return _Constant()


class TestPerStoreFeature(FeatureExtractorContract):
    def extractor(self) -> FeatureExtractor:
        return PerStoreFeature()


class TestPerStoreFeatureWithWorkload(FeatureExtractorContract):
    def extractor(self) -> FeatureExtractor:
        return PerStoreFeature(3, 4, 128, extract_workload=True)


class TestSketchFeature(FeatureExtractorContract):
    def extractor(self) -> FeatureExtractor:
        return SketchFeature()


class TestRandomFeature(FeatureExtractorContract):
    repeatable = False

    def extractor(self) -> FeatureExtractor:
        return RandomFeatureExtractor(seed=9)


class _Ones(PyFeatureExtractor):
    """A user's own extractor."""

    def extract_from(self, context: Any, candidates: Sequence[Any]) -> list[Any]:
        return [np.ones((1, 3)) for _ in candidates]


class TestOwnExtractor(FeatureExtractorContract):
    def extractor(self) -> FeatureExtractor:
        return _Ones()
