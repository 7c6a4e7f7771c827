"""Which candidates will be fast, judging by what was measured so far? Boosted trees.

The target of a candidate is its share of the best of its workload, best / seconds, so rows of
different workloads can teach one model. On sketch features (one row a candidate, the default: the
search asks about whole matrices of them) the analytic score has the say where there are few
measurements: the prediction is a blend whose weight moves to the trees as rows come in. On any
other features, such as "per-store-feature" with a row for each store, a candidate's score is the
sum over its rows, and random until there are enough measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import RecordError, UserError
from ...ir.equal import structural_hash
from ..compiled import COMPILED, told
from ..feature_extractor import FeatureExtractor, SketchFeature
from ..sketch_feature import FEATURE_COUNT
from .boosting import SKETCH_CONFIG, Examples, Rules, XGBConfig, ask, sums, train
from .cost_model import CostModel, Rows, Scores, seconds_of, weight_of
from .training_data import TrainingData, read, write

if TYPE_CHECKING:
    from ..measure_candidate import MeasureCandidate
    from ..runner import RunnerResult
    from ..tune_context import TuneContext

_FORMAT = 2
_CYCLES = 7  # the column of the analytic model's cycles (log2)
_TOLD = FEATURE_COUNT + len(COMPILED)  # columns of a row of sketch features, as it is kept
_TRUST = 24  # with so many rows, trees and analytic model have equal say
_ANEW = 5  # trees are trained anew when a workload has grown by a fifth
_WARM, _WARM_SKETCH = 100, 8  # measurements before trees are trained


class XGBModel(CostModel):
    """Boosted trees.

    Args:
        extractor: "sketch-feature", "per-store-feature", "random", or an extractor. MetaSchedule's
            default is "per-store-feature"; with that, the search has to build the program of each
            candidate it wants scored.
        config: parameters of the trees; default: `XGBConfig()`, MetaSchedule's, or for sketch
            features `SKETCH_CONFIG`.
        num_warmup_samples: measurements that must be known before trees are trained. Until then
            scores are random; for sketch features they are the analytic ones, so the default there
            is 8, else 100 as in MetaSchedule.
        early_stopping_rounds: trees that do not lower the error by a thousandth, in a row, after
            which there are no more.
        verbose_eval: every how many trees the error is logged to the logger
            "gputune.meta_schedule.cost_model" (at debug level); 0: never.
        average_peak_n: of the figure logged with it: `metrics.peak`.
        adaptive_training: train only when a workload has a fifth more measurements than it had the
            last time (a new workload has); False: at each update.
        num_tuning_cores: threads for training where `config.nthread` is None; default one, which is
            fastest at these sizes.
        tree_method: instead of that of the config.

    Raises:
        UserError: a count that makes no sense; no such extractor.

    Example:
        >>> model = XGBModel()
        >>> model.is_trained, model.takes_features
        (False, True)
        >>> XGBModel(extractor="per-store-feature").takes_features
        False
    """

    def __init__(
        self,
        *,
        extractor: str | FeatureExtractor = "sketch-feature",
        config: XGBConfig | None = None,
        num_warmup_samples: int | None = None,
        early_stopping_rounds: int = 50,
        verbose_eval: int = 25,
        average_peak_n: int = 32,
        adaptive_training: bool = True,
        num_tuning_cores: int | None = None,
        tree_method: str | None = None,
    ) -> None:
        for name, n, least in (
            ("num_warmup_samples", num_warmup_samples, 0),
            ("early_stopping_rounds", early_stopping_rounds, 1),
            ("verbose_eval", verbose_eval, 0),
            ("average_peak_n", average_peak_n, 1),
            ("num_tuning_cores", num_tuning_cores, 1),
        ):
            if n is not None and n < least:
                raise UserError(f"{name} is a count from {least}, found {n}", code="cost-model")
        found = FeatureExtractor.create(extractor) if isinstance(extractor, str) else extractor
        if not isinstance(found, FeatureExtractor):
            raise UserError(
                f"{found!r:.60} is no feature extractor",
                hint="give its name, or inherit from FeatureExtractor",
                code="feature-extractor",
            )
        self.extractor = found
        sketch = self.takes_features
        config = config or (SKETCH_CONFIG if sketch else XGBConfig())
        self.config = config if tree_method is None else replace(config, tree_method=tree_method)
        if num_warmup_samples is None:
            num_warmup_samples = _WARM_SKETCH if sketch else _WARM
        self.num_warmup_samples = num_warmup_samples
        self.adaptive_training = adaptive_training
        self.num_tuning_cores = num_tuning_cores
        self._rules = Rules(early_stopping_rounds, int(verbose_eval), average_peak_n)
        self._data = TrainingData()
        self._booster: Any = None
        self._line = (0.0, 0.0)  # share ~ a + b * cycles
        self._trained: dict[str, int] = {}  # candidates of each workload at the last training
        self._rng = np.random.default_rng(self.config.seed)

    @property
    def takes_features(self) -> bool:
        """Can it be asked about matrices of sketch features?"""
        return isinstance(self.extractor, SketchFeature)

    @property
    def takes_compiled(self) -> bool:
        """With sketch features."""
        return self.takes_features

    @property
    def is_trained(self) -> bool:
        """Are there enough measurements for trees?"""
        return self._booster is not None or (
            self.row_count > 0 and self.row_count >= self.num_warmup_samples
        )

    @property
    def row_count(self) -> int:
        """How many measurements it has learned from."""
        return self._data.count

    @property
    def tree_count(self) -> int:
        """How many trees it has grown."""
        return 0 if self._booster is None else int(self._booster.num_boosted_rounds())

    def knows(self, workload: str) -> bool:
        """Has it learned from this workload?"""
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
        packs = self._packs(context, candidates)
        key = structural_hash(context.mod)
        self._data.add(
            key, packs, [seconds_of(r) for r in results], [weight_of(r) for r in results]
        )

    def _packs(
        self, context: TuneContext, candidates: Sequence[MeasureCandidate]
    ) -> list[npt.NDArray[Any]]:
        """The rows of each candidate, with what is known of it once it is built."""
        packs = self.extractor.extract_from(context, candidates)
        if not self.takes_features:
            return packs
        return [told(p, [c.compiled]) for p, c in zip(packs, candidates)]

    def update_features(self, workload: str, features: Rows, seconds: Sequence[float]) -> None:
        """Learn from rows of one workload and their seconds (infinite for failures)."""
        if not self.takes_features:
            super().update_features(workload, features, seconds)
        if len(features) != len(seconds):
            raise UserError(f"{len(features)} rows with {len(seconds)} times")
        self._data.add(workload, list(_wide(features, _TOLD)[:, None, :]), seconds)

    def _is_stale(self) -> bool:
        """Is there enough that is new?"""
        share = _ANEW if self.adaptive_training else 10**9
        return self._booster is None or any(
            (n - self._trained.get(k, 0)) * share >= max(self._trained.get(k, 0), 1)
            for k, n in self._data.counts().items()
            if n > self._trained.get(k, 0)
        )

    def _train(self) -> None:
        """Fit line and trees to all data, if there is enough of it and enough that is new."""
        if self.row_count == 0 or self.row_count < self.num_warmup_samples or not self._is_stale():
            return
        rows, sizes, share = self._data.whole()
        weight = self._data.whole_weights()
        if len(rows) == 0:
            return
        self._trained = self._data.counts()
        if self.takes_features:
            counts = weight > 0
            self._line = _fit_line(rows[counts, _CYCLES], share[counts])
            rows, sizes, share, weight = _both_forms(rows, share, weight)
        threads = self.config.nthread or self.num_tuning_cores or 1
        examples = Examples(rows, sizes, share, weight if (weight != 1).any() else None)
        self._booster = train(examples, self.config, threads, self._rules)

    # ------------------------------------------------------------------ asking
    def predict(self, context: TuneContext, candidates: Sequence[MeasureCandidate]) -> Scores:
        """A score for each candidate, about the share of the best speed; higher is better."""
        packs = self._packs(context, candidates)
        if not packs:
            return np.empty(0)
        rows = np.concatenate(packs).astype(np.float32)
        if self.takes_features:
            return self.predict_features(rows)
        self._train()
        if self._booster is None:
            return self._rng.random(len(packs))
        sizes = np.array([len(p) for p in packs], np.int64)
        return sums(ask(self._booster, rows), sizes) if len(rows) else np.zeros(len(packs))

    def predict_features(self, features: Rows) -> Scores:
        """A score for each row; the analytic one while nothing is learned."""
        if not self.takes_features:
            return super().predict_features(features)
        self._train()
        cycles = features[:, _CYCLES].astype(np.float64)
        if self._booster is None or len(features) == 0:
            return -cycles
        trees = ask(self._booster, _wide(features, int(self._booster.num_features())))
        trust = self.row_count / (self.row_count + _TRUST)
        line = np.clip(self._line[0] + self._line[1] * cycles, 0.0, 1.0)
        blend: Scores = trust * trees + (1.0 - trust) * line
        return blend

    # ------------------------------------------------------------------ files
    def save(self, path: str) -> None:
        """Write rows, times and trees to one file: npz without pickle, the trees in XGBoost's own
        format."""
        self._train()
        trees = b"" if self._booster is None else bytes(self._booster.save_raw("ubj"))
        arrays = {
            **self._data.arrays(),
            "version": np.array([_FORMAT, self._width()], np.int64),
            "extractor": np.array(type(self.extractor).__name__),
            "trained": np.array([self._trained.get(k, 0) for k in self._data.workloads], np.int64),
            "line": np.array(self._line),
            "trees": np.frombuffer(trees, np.uint8),
        }
        write(path, arrays)

    def _width(self) -> int:
        """The number of features; 0 while it is not known."""
        return _TOLD if self.takes_features else self._data.width or 0

    def load(self, path: str) -> None:
        """Take up what `save` wrote, instead of what is known.

        Raises:
            RecordError: no such file, or it is not a saved model of this version and of features of
                this kind.
        """
        data = read(path, _ARRAYS)
        self._check(data, path)
        width = int(data["version"][1])
        found = TrainingData.of(data, path)
        if found.count and found.width != width:
            raise RecordError(f"{path}: not a saved cost model: its arrays do not fit together")
        if found.count and self.takes_features and width == FEATURE_COUNT:  # of an earlier version
            wide = {**data, "rows": _wide(data["rows"], _TOLD)}
            found = TrainingData.of(wide, path)
        widths = (FEATURE_COUNT, _TOLD) if self.takes_features else (found.width,)
        self._booster = _booster(data["trees"].tobytes(), widths, path)
        self._data = found
        self._trained = dict(zip(found.workloads, data["trained"].tolist(), strict=True))
        a, b = data["line"].tolist()
        self._line = (a, b)

    def _check(self, data: dict[str, npt.NDArray[Any]], path: str) -> None:
        version, mine = data["version"].tolist(), type(self.extractor).__name__
        other = not isinstance(version, list) or len(version) != 2 or version[0] != _FORMAT
        if other or (self.takes_features and version[1] not in (FEATURE_COUNT, _TOLD)):
            raise RecordError(
                f"{path}: a cost model of another version of gputune",
                hint="delete it: the search learns anew",
            )
        if str(data["extractor"]) != mine:
            raise RecordError(
                f"{path}: a cost model on the features of {data['extractor']}, this one is on "
                f"those of {mine}",
                hint="load it into a model with the same extractor",
            )
        line, trained = data["line"], data["trained"]
        if (
            line.shape != (2,)
            or line.dtype != np.float64
            or data["trees"].dtype != np.uint8
            or trained.shape != data["counts"].shape
            or trained.dtype != np.int64
            or bool((trained < 0).any())
        ):
            raise RecordError(f"{path}: not a saved cost model: its arrays do not fit together")


_ARRAYS = (
    "version", "extractor", "keys", "counts", "seconds", "sizes", "rows", "trained", "line", "trees"
)  # fmt: skip


def _wide(rows: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    """Rows with so many columns: zeros behind them, or without the last."""
    missing = width - rows.shape[1]
    if missing <= 0:
        return rows[:, :width]
    return np.concatenate([rows, np.zeros((len(rows), missing), rows.dtype)], axis=1)


def _both_forms(
    rows: Rows, share: Scores, weight: Scores
) -> tuple[Rows, npt.NDArray[np.int64], Scores, Scores]:
    """What trees learn from: each row as it was before it was compiled, and again as it is since;
    without the columns of `COMPILED` where no row has them. Each is a candidate of one row."""
    known = rows[:, FEATURE_COUNT] > 0
    bare = np.ascontiguousarray(rows[:, :FEATURE_COUNT])
    if not known.any():
        return bare, np.ones(len(bare), np.int64), share, weight
    both = np.concatenate([_wide(bare, _TOLD), rows[known]])
    share, weight = np.append(share, share[known]), np.append(weight, weight[known])
    return both, np.ones(len(both), np.int64), share, weight


def _booster(trees: bytes, widths: Sequence[int | None], path: str) -> Any:
    """The trees of a file; None if it has none."""
    if not trees:
        return None
    import xgboost

    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(trees))
        if booster.num_features() not in widths:
            raise RecordError(f"{path}: the trees are about other features")
    except xgboost.core.XGBoostError as e:
        reason = str(e).splitlines()[0] if str(e) else "unreadable"
        raise RecordError(f"{path}: its trees cannot be read: {reason}") from None
    return booster


def _fit_line(cycles: npt.NDArray[Any], share: Scores) -> tuple[float, float]:
    """share ~ a + b * cycles by least squares, b not above 0."""
    x = cycles.astype(np.float64)
    spread = float(x.var())
    if spread < 1e-9:
        return float(share.mean()), 0.0
    b = min(0.0, float(((x - x.mean()) * (share - share.mean())).mean()) / spread)
    return float(share.mean()) - b * float(x.mean()), b
