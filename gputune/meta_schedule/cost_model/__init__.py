"""Which candidates are worth measuring? Models that learn from what was measured."""

from __future__ import annotations

from ..derived import left_open
from . import metrics
from .boosting import SKETCH_CONFIG, XGBConfig
from .cost_model import CostModel
from .mlp_model import MLPModel
from .mlp_trainer import SegmentSumMLPTrainer
from .network import SegmentSumMLP
from .random_model import RandomModel
from .xgb_model import XGBModel


@left_open
class PyCostModel(CostModel):
    """MetaSchedule's class to inherit from: a method left out is missed when it is called."""


create = CostModel.create

__all__ = [
    "SKETCH_CONFIG",
    "CostModel",
    "MLPModel",
    "PyCostModel",
    "RandomModel",
    "SegmentSumMLP",
    "SegmentSumMLPTrainer",
    "XGBConfig",
    "XGBModel",
    "create",
    "metrics",
]
