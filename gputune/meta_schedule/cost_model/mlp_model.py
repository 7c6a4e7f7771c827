"""Which candidates will be fast, judging by what was measured so far? A small neural network.

It looks at a row of features for each store of a candidate ("per-store-feature" with the workload's
features, 172 numbers a row) and needs nothing but NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RecordError, UserError
from ...ir.equal import structural_hash
from ..feature_extractor import FeatureExtractor, PerStoreFeature
from .cost_model import CostModel, Scores, seconds_of, weight_of
from .mlp_trainer import Group, Scaling, SegmentSumMLPTrainer, fit, score
from .network import Adam, Parameters, SegmentSumMLP
from .training_data import Arrays, Rows, TrainingData, read, write

if TYPE_CHECKING:
    from ..measure_candidate import MeasureCandidate
    from ..runner import RunnerResult
    from ..tune_context import TuneContext

_FORMAT = 1
_FULL = 0.2  # with a larger share of new candidates, training begins anew
_NET = "net."


class MLPModel(CostModel):
    """A network that learns to rank.

    Args:
        trainer: how it is trained; default `SegmentSumMLPTrainer()`.
        extractor: of features; default `PerStoreFeature(extract_workload=True)`.

    It learns when it is next asked: from all data if more than a fifth of them are new, else from
    the new ones only. Until the first measurement its scores mean nothing.

    Example:
        >>> model = MLPModel(trainer=SegmentSumMLPTrainer(num_epoch_full=3))
        >>> model.is_trained
        False
    """

    def __init__(
        self,
        *,
        trainer: SegmentSumMLPTrainer | None = None,
        extractor: str | FeatureExtractor | None = None,
    ) -> None:
        if extractor is None:
            extractor = PerStoreFeature(extract_workload=True)
        elif isinstance(extractor, str):
            extractor = FeatureExtractor.create(extractor)
        if not isinstance(extractor, FeatureExtractor):
            raise UserError(
                f"{extractor!r:.60} is no feature extractor",
                hint="give its name, or inherit from FeatureExtractor",
                code="feature-extractor",
            )
        self.trainer = trainer or SegmentSumMLPTrainer()
        self.extractor = extractor
        self.test_score = float("nan")
        """How well candidates that were kept back in the last training are ranked: from 0 to 1, see
        `metrics.peak`; NaN where there were none."""
        self._rng = np.random.default_rng(self.trainer.seed)
        self._data = TrainingData()
        self._learned: dict[str, int] = {}  # candidates of each workload that it learned from
        self._net: SegmentSumMLP | None = None
        self._adam = self._new_adam()
        self._scaling = Scaling()

    def _new_adam(self) -> Adam:
        t = self.trainer
        return Adam(t.learning_rate, t.weight_decay, t.grad_clip_norm)

    @property
    def is_trained(self) -> bool:
        """Has it anything to go by?"""
        return self._data.count > 0

    @property
    def row_count(self) -> int:
        """How many measurements it has."""
        return self._data.count

    def knows(self, workload: str) -> bool:
        """Has it measurements of this workload?"""
        return self._data.knows(workload)

    # ------------------------------------------------------------------ learning
    def update(
        self,
        context: TuneContext,
        candidates: Sequence[MeasureCandidate],
        results: Sequence[RunnerResult],
    ) -> None:
        """Learn from measurements; a failure counts as infinitely slow."""
        if not candidates:
            return
        packs = self.extractor.extract_from(context, candidates)
        seconds, weights = [seconds_of(r) for r in results], [weight_of(r) for r in results]
        self.learn(structural_hash(context.mod), packs, seconds, weights)

    def learn(
        self,
        workload: str,
        packs: Sequence[Any],
        seconds: Sequence[float],
        weights: Sequence[float] | None = None,
    ) -> None:
        """Learn from the rows of candidates of one workload, their seconds, and what each sample is
        worth (default: 1)."""
        self._data.add(workload, packs, seconds, weights)

    def _train(self) -> None:
        """Learn from what is new."""
        counts = self._data.counts()
        new = sum(counts.values()) - sum(self._learned.values())
        if new == 0:
            return
        t = self.trainer
        if self._net is None or new > _FULL * self._data.count:
            groups = [self._group(k, 0) for k in counts]
            self._scaling = Scaling.of(groups)
            self._net = SegmentSumMLP(
                input_dim=self._data.width or 1, hidden_dim=t.hidden_dim, seed=t.seed
            )
            self._adam = self._new_adam()
            epochs = t.num_epoch_full
        else:
            groups = [
                self._group(k, self._learned.get(k, 0))
                for k, n in counts.items()
                if n > self._learned.get(k, 0)
            ]
            epochs = t.num_epoch_incremental
        self._learned = counts
        self.test_score = fit(
            self._net, self._adam, self._scaling, groups, epochs, t, self._rng
        )  # fmt: skip

    def _group(self, workload: str, start: int) -> Group:
        """The candidates of a workload from one on; shares are of the best of all."""
        packs, share = self._data.packs(workload)[start:], self._data.shares(workload)[start:]
        return packs, share, np.array(self._data.weights(workload))[start:]

    # ------------------------------------------------------------------ asking
    def predict(self, context: TuneContext, candidates: Sequence[MeasureCandidate]) -> Scores:
        """A score for each candidate; higher is better, the unit means nothing."""
        return self.score(self.extractor.extract_from(context, candidates))

    def score(self, packs: Sequence[Any]) -> Scores:
        """A score for each candidate, by its rows of features.

        Raises:
            UserError: rows of another width than those it learned from.
        """
        self._train()
        rows: list[Rows] = [np.asarray(p, np.float32) for p in packs]
        net = self._net
        if net is None:
            return self._rng.random(len(rows))
        if any(p.ndim != 2 or p.shape[1] != net.input_dim for p in rows):
            raise UserError(
                f"features of another width than the {net.input_dim} that the model learned from",
                code="training",
            )
        return score(net, self._scaling, rows)

    # ------------------------------------------------------------------ files
    def save(self, path: str) -> None:
        """Write network and measurements to one file: npz without pickle."""
        self._train()
        net = self._net
        weights = {} if net is None else {_NET + k: v for k, v in net.parameters.items()}
        arrays = {
            **self._data.arrays(),
            **weights,
            "mlp": np.array([_FORMAT, 0 if net is None else net.input_dim], np.int64),
            "hidden": np.array([self.trainer.hidden_dim], np.int64),
            "mean": self._scaling.mean,
            "spread": self._scaling.spread,
        }
        write(path, arrays)

    def load(self, path: str) -> None:
        """Take up what `save` wrote, instead of what is known.

        Raises:
            RecordError: no such file, or it is not a saved network of this version and width.
        """
        arrays = read(path, _ARRAYS)
        if arrays["mlp"].shape != (2,) or int(arrays["mlp"][0]) != _FORMAT:
            raise RecordError(
                f"{path}: a cost model of another version of gputune",
                hint="delete it: the search learns anew",
            )
        data = TrainingData.of(arrays, path)
        net = self._network(arrays, data.width, path)
        mean, spread = arrays["mean"], arrays["spread"]
        good = mean.shape == spread.shape == ((1,) if net is None else (net.input_dim,))
        if (
            not good
            or not np.isfinite(mean).all()
            or not (np.isfinite(spread) & (spread > 0)).all()
        ):
            raise RecordError(f"{path}: not a saved cost model: its arrays do not fit together")
        self._data, self._net = data, net
        self._scaling = Scaling(mean.astype(np.float32), spread.astype(np.float32))
        self._learned = {} if net is None else data.counts()
        self._adam = self._new_adam()

    def _network(self, arrays: Arrays, width: int | None, path: str) -> SegmentSumMLP | None:
        found: Parameters = {
            k.removeprefix(_NET): v for k, v in arrays.items() if k.startswith(_NET)
        }
        if not found:
            return None
        hidden = self.trainer.hidden_dim
        if arrays["hidden"].tolist() != [hidden]:
            raise RecordError(
                f"{path}: a network {arrays['hidden'].tolist()} wide, this one is {hidden} wide",
                hint="load it with a trainer of that hidden_dim",
            )
        net = SegmentSumMLP(input_dim=width or 1, hidden_dim=hidden)
        right = {k: v.shape for k, v in net.parameters.items()}
        if {k: v.shape for k, v in found.items()} != right or not all(
            v.dtype == np.float32 and np.isfinite(v).all() for v in found.values()
        ):
            raise RecordError(f"{path}: not a saved cost model: its weights do not fit together")
        net.parameters = {k: found[k].copy() for k in right}
        return net


_ARRAYS = (
    "mlp", "hidden", "mean", "spread", "keys", "counts", "seconds", "sizes", "rows"
)  # fmt: skip
