"""Which candidates are worth measuring? Models that learn from what was measured."""

from __future__ import annotations

from .cost_model import CostModel
from .random_model import RandomModel
from .xgb_model import XGBConfig, XGBModel

PyCostModel = CostModel
"""MetaSchedule's name of the class to inherit from."""

create = CostModel.create

__all__ = ["CostModel", "PyCostModel", "RandomModel", "XGBConfig", "XGBModel", "create"]
