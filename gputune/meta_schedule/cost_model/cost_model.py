"""What is a cost model? Scores for candidates, learned from times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import UserError
from .. import ranking

if TYPE_CHECKING:
    from ..measure_candidate import MeasureCandidate
    from ..runner import RunnerResult
    from ..tune_context import TuneContext

Scores = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]


class CostModel(ABC):
    """Base class of cost models; write your own by inheriting from it.

    A model that overrides `predict_features` and `update_features` is asked about whole matrices of
    sketch features; any other is asked about schedules, which is thousands of times slower.
    """

    @abstractmethod
    def load(self, path: str) -> None:
        """Take up what `save` wrote."""

    @abstractmethod
    def save(self, path: str) -> None:
        """Write what was learned to a file."""

    @abstractmethod
    def update(
        self,
        context: TuneContext,
        candidates: Sequence[MeasureCandidate],
        results: Sequence[RunnerResult],
    ) -> None:
        """Learn from measurements; a failed one counts as very slow."""

    @abstractmethod
    def predict(self, context: TuneContext, candidates: Sequence[MeasureCandidate]) -> Scores:
        """A score for each candidate; higher is better."""

    # ------------------------------------------------------------------ matrices
    @property
    def takes_features(self) -> bool:
        """Can it be asked about matrices of sketch features?"""
        return type(self).predict_features is not CostModel.predict_features

    @property
    def takes_compiled(self) -> bool:
        """Does it learn from what the compiler tells of a candidate (`MeasureCandidate.compiled`),
        and can it rank by that what is built? Its rows may then have the columns of `compiled`
        behind the features."""
        return False

    def knows(self, workload: str) -> bool:
        """Has it learned from measurements of this workload?"""
        return False

    def predict_features(self, features: Rows) -> Scores:
        """A score for each row of sketch features; higher is better."""
        raise NotImplementedError(f"{type(self).__name__} scores schedules, not features")

    def update_features(self, workload: str, features: Rows, seconds: Sequence[float]) -> None:
        """Learn from rows of one workload and their times (infinite for failures)."""
        raise NotImplementedError(f"{type(self).__name__} learns from schedules, not features")

    @staticmethod
    def create(kind: str = "xgb", *args: Any, **kwargs: Any) -> CostModel | None:
        """A model by name: "xgb", "mlp", "random", or "none" (None: the analytic score ranks). What
        follows goes to its constructor.

        Raises:
            UserError: there is none of that name.
        """
        from .mlp_model import MLPModel
        from .random_model import RandomModel
        from .xgb_model import XGBModel

        if kind == "xgb":
            return XGBModel(*args, **kwargs)
        kwargs.pop("num_tuning_cores", None)  # tune_* offers it to whatever model there is
        if kind == "random":
            return RandomModel(*args, **kwargs)
        if kind == "none":
            return None
        if kind == "mlp":
            return MLPModel(*args, **kwargs)
        raise UserError(
            f"{kind!r} is no cost model",
            hint='there are "xgb", "mlp", "random" and "none"',
            code="cost-model",
        )


def seconds_of(result: RunnerResult) -> float:
    """The time of a result, at the GPU's reference clock; infinite for a failure."""
    return result.seconds


def weight_of(result: RunnerResult) -> float:
    """What a model makes of a result: 0 where the GPU was slowed or shared; see `ranking`."""
    return 1.0 if result.problem is not None else ranking.weight_of(result.extras)
