"""How are candidates turned into numbers that a cost model learns from? One file an extractor."""

from __future__ import annotations

from .feature_extractor import FeatureExtractor, PyFeatureExtractor
from .per_store_feature import PerStoreFeature, feature_names
from .random_feature import RandomFeatureExtractor
from .sketch import SketchFeature

create = FeatureExtractor.create

__all__ = [
    "FeatureExtractor",
    "PerStoreFeature",
    "PyFeatureExtractor",
    "RandomFeatureExtractor",
    "SketchFeature",
    "create",
    "feature_names",
]
