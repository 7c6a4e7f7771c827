"""How are boosted trees trained on candidates of one row or of several? And how asked?

With several rows a candidate, its score is the sum of what the trees say of each row, and the error
is that of the sums: a custom objective passes it back to the rows.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .metrics import peak
from .training_data import Rows

Floats = npt.NDArray[np.float64]

_LEAST_WEIGHT = 0.1  # of a candidate in the error of sums: slow ones teach something, too
_LEAST_GAIN = 1e-3  # by which share the error must fall to count as better

log = logging.getLogger("gputune.meta_schedule.cost_model")


@dataclass(frozen=True)
class XGBConfig:
    """Parameters of the trees (XGBoost's names).

    Attributes:
        max_depth, gamma, min_child_weight, eta, seed, tree_method: XGBoost's.
        nthread: threads of training; None: the model's `num_tuning_cores`, or one, which is fastest
            at these sizes.
        max_bin, colsample_bytree: XGBoost's.
        num_trees: the most trees; `early_stopping_rounds` of the model usually ends it sooner.
    """

    max_depth: int = 10
    gamma: float = 0.001
    min_child_weight: float = 0.0
    eta: float = 0.2
    seed: int = 43
    nthread: int | None = None
    tree_method: str = "auto"
    max_bin: int = 256
    colsample_bytree: float = 1.0
    num_trees: int = 10000


SKETCH_CONFIG = XGBConfig(
    max_depth=6,
    gamma=0.0,
    min_child_weight=1.0,
    tree_method="hist",
    max_bin=32,
    colsample_bytree=0.3,
    num_trees=100,
)
"""What ranks sketch features as well at a twelfth of the time."""


@dataclass(frozen=True, slots=True)
class Examples:
    """What trees are trained on.

    Attributes:
        rows: features.
        sizes: how many rows each candidate has.
        share: of the best speed, of each candidate.
        weight: what each candidate is worth; None: all the same.
    """

    rows: Rows
    sizes: npt.NDArray[np.int64]
    share: Floats
    weight: Floats | None = None

    @property
    def owner(self) -> npt.NDArray[np.int64]:
        """The candidate of each row."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


@dataclass(frozen=True, slots=True)
class Rules:
    """When training stops and what is told of it.

    Attributes:
        early_stopping_rounds: trees in a row that do not help, after which there are no more.
        verbose_eval: every how many trees the error is logged (at debug level); 0: never.
        average_peak_n: of the figure that is logged with it, see `metrics.peak`.
    """

    early_stopping_rounds: int = 50
    verbose_eval: int = 25
    average_peak_n: int = 32


def train(examples: Examples, config: XGBConfig, threads: int, rules: Rules) -> Any:
    """An XGBoost booster."""
    import xgboost

    params = {
        "max_depth": config.max_depth,
        "gamma": config.gamma,
        "min_child_weight": config.min_child_weight,
        "eta": config.eta,
        "seed": config.seed,
        "tree_method": config.tree_method,
        "max_bin": config.max_bin,
        "colsample_bytree": config.colsample_bytree,
        "nthread": threads,
        "verbosity": 0,
        "disable_default_eval_metric": True,
    }
    owner, share = examples.owner, examples.share
    weight = None if examples.weight is None else examples.weight[owner]
    data = xgboost.DMatrix(examples.rows, share[owner], weight=weight, nthread=threads)
    watch = _Watch(examples, rules)
    if (examples.sizes == 1).all():
        params["objective"] = "reg:squarederror"
        objective = None
    else:
        params["base_score"] = 0.0
        objective = _SumOfRows(examples).gradient
    if config.num_trees <= 2 * rules.early_stopping_rounds and not log.isEnabledFor(logging.DEBUG):
        # so few are hardly ever too many, and watching each takes longer than growing it
        return xgboost.train(params, data, config.num_trees, obj=objective)
    booster = xgboost.train(
        params,
        data,
        config.num_trees,
        evals=[(data, "tr")],
        obj=objective,
        custom_metric=watch.metric,
        callbacks=[_callback(xgboost, watch)],
        verbose_eval=False,
    )
    return (
        booster[: watch.best_count] if watch.best_count < booster.num_boosted_rounds() else booster
    )


def ask(booster: Any, rows: Rows) -> Floats:
    """What the trees say of each row."""
    said = booster.inplace_predict(np.ascontiguousarray(rows), predict_type="margin")
    return np.asarray(said, np.float64).reshape(len(rows))


def sums(values: Floats, sizes: npt.NDArray[np.int64]) -> Floats:
    """The sum over the rows of each candidate; 0 where there are none."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    out: Floats = np.bincount(owner, weights=values, minlength=len(sizes)).astype(np.float64)
    return out


class _SumOfRows:
    """Squared error of sums, weighted with the share of the best speed: what is fast matters."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self._weight = np.maximum(examples.share, _LEAST_WEIGHT)
        if examples.weight is not None:
            self._weight = self._weight * examples.weight

    def gradient(self, said: npt.NDArray[Any], data: Any) -> tuple[Floats, Floats]:
        """First and second derivative of the error by what is said of each row."""
        e = self._examples
        off = (sums(np.asarray(said, np.float64), e.sizes) - e.share) * self._weight
        owner = e.owner
        return off[owner], self._weight[owner]


class _Watch:
    """How good are the trees so far, and is it time to stop?"""

    def __init__(self, examples: Examples, rules: Rules) -> None:
        self._examples = examples
        self._rules = rules
        self._best = np.inf
        self._since = 0
        self.best_count = 0  # trees up to the last that helped
        self._sums: Floats = np.zeros(len(examples.sizes))

    def metric(self, said: npt.NDArray[Any], data: Any) -> tuple[str, float]:
        """The root of the mean squared error of candidates."""
        e = self._examples
        self._sums = sums(np.asarray(said, np.float64).reshape(-1), e.sizes)
        off = (self._sums - e.share) ** 2
        mean = off.mean() if e.weight is None else np.average(off, weights=e.weight)
        return "p-rmse", float(np.sqrt(mean))

    def after(self, tree: int, error: float) -> bool:
        """Note the error after a tree; stop?"""
        rules = self._rules
        if rules.verbose_eval and tree % rules.verbose_eval == 0:
            log.debug("XGB iter: %3d\ttr-p-rmse: %.6f\t%s", tree, error, self._peak())
        if error < self._best * (1.0 - _LEAST_GAIN):
            self._best, self._since, self.best_count = error, 0, tree + 1
        else:
            self._since += 1
        return self._since >= rules.early_stopping_rounds

    def _peak(self) -> str:
        share, n = self._examples.share, self._rules.average_peak_n
        seconds = np.full(len(share), np.inf)
        seconds[share > 0] = 1.0 / share[share > 0]
        return f"tr-a-peak@{n}: {peak(self._sums, seconds, n):.6f}"


def _callback(xgboost: Any, watch: _Watch) -> Any:
    class Stop(xgboost.callback.TrainingCallback):  # type: ignore[misc]  # imported late
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            return watch.after(epoch, float(evals_log["tr"]["p-rmse"][-1]))

    return Stop()
