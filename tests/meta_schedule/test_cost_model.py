"""Does the cost model learn, keep what it learned, and refuse what is no model?"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_spaces import MACHINE, context, drive, many_tiles, matmul

from gputune.errors import RecordError, UserError
from gputune.meta_schedule.cost_model import (
    SKETCH_CONFIG,
    CostModel,
    MLPModel,
    RandomModel,
    SegmentSumMLPTrainer,
    XGBConfig,
    XGBModel,
    boosting,
    metrics,
    xgb_model,
)
from gputune.meta_schedule.cost_model.training_data import TrainingData
from gputune.meta_schedule.failures import Failure
from gputune.meta_schedule.feature_extractor import FeatureExtractor
from gputune.meta_schedule.measure_candidate import MeasureCandidate
from gputune.meta_schedule.runner import RunnerResult
from gputune.meta_schedule.sketch_feature import FEATURE_COUNT, features_of
from gputune.schedule import Schedule


def data(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.random((n, FEATURE_COUNT)).astype(np.float32) * 8
    return x, 1e-3 * 2.0 ** (x[:, 20] / 2 + np.abs(x[:, 30] - 4) / 2)


def rank_correlation(scores: np.ndarray, minus_seconds: np.ndarray) -> float:
    return metrics.rank_correlation(scores, -minus_seconds)


def packs_of(count: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Candidates of one to three rows; the share of the best speed is a sum over them."""
    rng = np.random.default_rng(seed)
    packs = [rng.random((rng.integers(1, 4), 6)).astype(np.float32) for _ in range(count)]
    return packs, np.array(
        [1.0 / (0.05 + 0.3 * np.exp(-((p[:, 2] - 0.5) ** 2) * 9).sum()) for p in packs]
    )


class Given(FeatureExtractor):
    """Features that the test has laid down, one array a candidate."""

    def __init__(self) -> None:
        self.next: list[np.ndarray] = []

    def extract_from(self, context: Any, candidates: Sequence[Any]) -> list[Any]:
        return [self.next[k] for k in candidates]


def taught(count: int = 120, **options: Any) -> tuple[XGBModel, Given]:
    """A model that learned from `packs_of`."""
    extractor = Given()
    options = {"config": XGBConfig(max_depth=4, num_trees=150), "num_warmup_samples": 8, **options}
    model = XGBModel(extractor=extractor, **options)
    extractor.next, seconds = packs_of(count)
    results = [RunnerResult([float(x)], None) for x in seconds]
    model.update(context(many_tiles), list(range(count)), results)  # type: ignore[arg-type]  # indices stand for them
    return model, extractor


def asked(model: XGBModel, extractor: Given, packs: list[np.ndarray]) -> np.ndarray:
    extractor.next = packs
    return model.predict(context(many_tiles), list(range(len(packs))))  # type: ignore[arg-type]  # as above


def test_it_learns_to_rank() -> None:
    model = XGBModel()
    x, seconds = data(400)
    model.update_features("w", x, seconds.tolist())
    y, truth = data(400, 1)
    assert rank_correlation(model.predict_features(y), -truth) > 0.7


def test_untrained_it_gives_the_analytic_score() -> None:
    x, _ = data(5)
    model = XGBModel()
    assert not model.is_trained
    assert (model.predict_features(x) == -x[:, 7].astype(np.float64)).all()


def test_failures_count_as_very_slow() -> None:
    x, seconds = data(300)
    bad = x[:, 40] > 4
    seconds[bad] = math.inf
    model = XGBModel()
    model.update_features("w", x, seconds.tolist())
    y, _ = data(200, 2)
    p = model.predict_features(y)
    assert p[y[:, 40] > 4].mean() < p[y[:, 40] <= 4].mean()
    assert np.isfinite(p).all()


def test_all_failed_is_no_fault() -> None:
    x, _ = data(20)
    model = XGBModel()
    model.update_features("w", x, [math.inf] * 20)
    assert np.isfinite(model.predict_features(x)).all()


def test_workloads_of_different_size_teach_one_model() -> None:
    model = XGBModel()
    x, seconds = data(300)
    model.update_features("small", x[:150], seconds[:150].tolist())
    model.update_features("large", x[150:], (seconds[150:] * 1e4).tolist())
    y, truth = data(200, 3)
    assert rank_correlation(model.predict_features(y), -truth) > 0.6
    assert model.knows("small")
    assert not model.knows("other")


def test_save_and_load(tmp_path: Path) -> None:
    model = XGBModel()
    x, seconds = data(100)
    seconds[3] = math.inf
    model.update_features("w", x, seconds.tolist())
    path = str(tmp_path / "cost_model.xgb")
    model.save(path)
    other = XGBModel()
    other.load(path)
    assert (other.predict_features(x) == model.predict_features(x)).all()
    assert other.row_count == 100
    assert other.knows("w")
    more, times = data(50, 4)
    for m in (model, other):
        m.update_features("v", more, times.tolist())
    assert (other.predict_features(x) == model.predict_features(x)).all()


def test_save_and_load_untrained(tmp_path: Path) -> None:
    path = str(tmp_path / "m")
    XGBModel().save(path)
    model = XGBModel()
    model.load(path)
    assert not model.is_trained


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    model = XGBModel()
    x, seconds = data(30)
    model.update_features("w", x, seconds.tolist())
    model.save(str(good))
    for text in (b"", b"nonsense", good.read_bytes()[:200]):
        bad.write_bytes(text)
        with pytest.raises(RecordError, match="not a saved cost model"):
            XGBModel().load(str(bad))
    with pytest.raises(RecordError, match="not a saved cost model"):
        XGBModel().load(str(tmp_path / "missing"))
    with np.load(good) as f:
        parts = {k: f[k] for k in f.files}
    for change, message in (
        ({"version": np.array([99, 1])}, "another version"),
        ({"version": np.array([1])}, "another version"),
        ({"extractor": np.array("PerStoreFeature")}, "on the features of PerStoreFeature"),
        ({"line": np.zeros(3)}, "do not fit together"),
        ({"trained": np.array([-1])}, "do not fit together"),
        ({"seconds": parts["seconds"][:-1]}, "do not fit together"),
        ({"counts": np.array([-1])}, "do not fit together"),
        ({"trees": np.arange(64, dtype=np.uint8)}, "its trees cannot be read"),
        ({"keys": np.array([{"a": 1}], dtype=object)}, "not a saved cost model"),
    ):
        with bad.open("wb") as out:
            np.savez(out, **{**parts, **change})
        with pytest.raises(RecordError, match=message):
            XGBModel().load(str(bad))


def test_update_and_predict_on_candidates() -> None:
    ctx = context(many_tiles, n=128)
    candidates = []
    for seed in range(1, 30):
        sch = Schedule(matmul(128), seed=seed)
        many_tiles(sch)
        candidates.append(MeasureCandidate(sch, []))
    model = XGBModel(config=XGBConfig(num_trees=20))
    failed = RunnerResult.failed(Failure("run", "timeout", "too slow"))
    results = [RunnerResult([1e-3 * (k + 1)], None) for k in range(28)] + [failed]
    model.update(ctx, candidates, results)
    scores = model.predict(ctx, candidates)
    assert scores.dtype == np.float64
    assert scores.shape == (29,)
    assert scores[:10].mean() > scores[-10:].mean()


def test_random_model(tmp_path: Path) -> None:
    a, b = RandomModel(seed=3), RandomModel(seed=3)
    x, _ = data(7)
    assert (a.predict_features(x) == b.predict_features(x)).all()
    a.save(str(tmp_path / "r"))
    later = a.predict_features(x)
    b = RandomModel(path=str(tmp_path / "r"))
    assert (b.predict_features(x) == later).all()
    (tmp_path / "r").write_bytes(b"no")
    with pytest.raises(RecordError):
        b.load(str(tmp_path / "r"))


def test_rows_of_a_candidate_are_summed() -> None:
    model, extractor = taught(400)
    packs, seconds = packs_of(200, 1)
    scores = asked(model, extractor, packs)
    assert metrics.rank_correlation(scores, seconds) > 0.7
    parts = asked(model, extractor, [p[k : k + 1] for p in packs for k in range(len(p))])
    at = 0
    for p, score in zip(packs, scores, strict=True):
        assert score == pytest.approx(parts[at : at + len(p)].sum(), abs=1e-5)
        at += len(p)
    assert asked(model, extractor, [np.zeros((0, 6), np.float32)]).tolist() == [0.0]


def test_the_error_of_sums_falls_along_its_gradient() -> None:
    rng = np.random.default_rng(2)
    sizes, share = np.array([2, 1, 3, 0]), np.array([1.0, 0.5, 0.0, 0.2])
    said = rng.normal(size=6)
    weight = np.maximum(share, 0.1)
    examples = boosting.Examples(np.zeros((6, 1), np.float32), sizes, share)
    slope, curve = boosting._SumOfRows(examples).gradient(said, None)

    def error(x: np.ndarray) -> float:
        return float((weight * (boosting.sums(x, sizes) - share) ** 2 / 2).sum())

    for k in range(6):
        step = np.zeros(6)
        step[k] = 1e-5
        assert slope[k] == pytest.approx((error(said + step) - error(said - step)) / 2e-5, abs=1e-6)
    assert (curve > 0).all()


# ----------------------------------------------------------------------------- weights
def test_samples_without_weight_teach_nothing() -> None:
    """The same rows once more with absurd times: the trees stay as they are."""
    x, seconds = data(200)
    share = metrics.shares(seconds)
    rng = np.random.default_rng(4)
    ones = np.ones(400, np.int64)
    both = np.concatenate([x, x])
    shares = np.concatenate([share, rng.random(200)])
    weight = np.concatenate([np.ones(200), np.zeros(200)])
    rules = boosting.Rules()
    alone = boosting.train(boosting.Examples(x, ones[:200], share), SKETCH_CONFIG, 1, rules)
    blind = boosting.train(boosting.Examples(both, ones, shares, weight), SKETCH_CONFIG, 1, rules)
    fooled = boosting.train(boosting.Examples(both, ones, shares), SKETCH_CONFIG, 1, rules)
    right = boosting.ask(alone, x)
    assert metrics.rank_correlation(boosting.ask(blind, x), seconds) > 0.95
    assert np.abs(boosting.ask(blind, x) - right).max() < 0.1
    assert np.abs(boosting.ask(fooled, x) - right).max() > 0.1


def test_nor_where_candidates_have_several_rows() -> None:
    sizes, share = np.array([2, 1, 3]), np.array([1.0, 0.5, 0.0])
    weight = np.array([1.0, 0.0, 1.0])
    examples = boosting.Examples(np.zeros((6, 1), np.float32), sizes, share, weight)
    slope, curve = boosting._SumOfRows(examples).gradient(np.arange(6.0), None)
    assert slope[2] == curve[2] == 0
    assert (curve[[0, 1, 3, 4, 5]] > 0).all()


def test_weights_of_training_data(tmp_path: Path) -> None:
    rows = [np.full((1, 3), k, np.float32) for k in range(3)]
    found = TrainingData()
    found.add("w", rows, [1.0, 4.0, 2.0], [0.0, 1.0, 1.0])
    assert found.weights("w") == [0, 1, 1]
    assert found.shares("w").tolist() == [1.0, 0.5, 1.0]  # the best is one that counts
    found.add("always slowed", rows, [2.0, 1.0, math.inf], [0.0, 0.0, 1.0])
    assert found.weights("always slowed") == [1, 1, 1]  # they were taken alike
    assert found.shares("always slowed").tolist() == [0.5, 1.0, 0.0]
    assert found.whole_weights().tolist() == [0, 1, 1, 1, 1, 1]
    again = TrainingData.of(found.arrays(), "file")
    assert again.whole_weights().tolist() == found.whole_weights().tolist()
    again.add("w", rows[:1], [1.0])
    assert again.weights("w") == [0, 1, 1, 1]
    older = {k: v for k, v in found.arrays().items() if k != "weights"}
    assert TrainingData.of(older, "file").weights("w") == [1, 1, 1]
    for bad in (np.ones(2), np.full(6, -1.0), np.full(6, math.nan), np.ones(6, np.float32)):
        with pytest.raises(RecordError, match="do not fit together"):
            TrainingData.of({**found.arrays(), "weights": bad}, "file")
    for bad_weights in ([1.0], [1.0, -1.0, 1.0], [math.nan] * 3):
        with pytest.raises(UserError, match="with the weights"):
            found.add("w", rows, [1.0, 1.0, 1.0], bad_weights)


def test_slowed_samples_weigh_nothing_in_the_model() -> None:
    slow = {"nvml": {"readings": 5, "batches": 5, "slow_batches": 1}}
    extractor = Given()
    model = XGBModel(extractor=extractor, num_warmup_samples=8)
    extractor.next, seconds = packs_of(40)
    results = [
        RunnerResult([float(x)], extras=slow if k % 4 == 0 else {}) for k, x in enumerate(seconds)
    ]
    model.update(context(many_tiles), list(range(40)), results)  # type: ignore[arg-type]  # as above
    weights = model._data.whole_weights()
    assert weights.tolist() == [0.0 if k % 4 == 0 else 1.0 for k in range(40)]
    assert np.isfinite(asked(model, extractor, packs_of(5, 1)[0])).all()


def test_scores_are_random_until_it_is_warm() -> None:
    model, extractor = taught(20, num_warmup_samples=30)
    packs, _ = packs_of(5, 1)
    assert not model.is_trained
    assert (asked(model, extractor, packs) != asked(model, extractor, packs)).all()
    warm, extractor = taught(30, num_warmup_samples=30)
    assert warm.is_trained
    assert (asked(warm, extractor, packs) == asked(warm, extractor, packs)).all()
    assert XGBModel(extractor="per-store-feature").num_warmup_samples == 100
    assert XGBModel().num_warmup_samples == 8


def test_it_stops_when_trees_no_longer_help() -> None:
    counts = []
    for rounds in (1, 50):
        model, extractor = taught(early_stopping_rounds=rounds, config=XGBConfig(gamma=0.1))
        asked(model, extractor, packs_of(2)[0])
        counts.append(model.tree_count)
    assert 1 <= counts[0] <= counts[1] < 10000


def test_what_it_tells_while_it_trains(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boosting, "log", logging.getLogger("tests.boosting"))
    for every, n, expected in ((10, 7, 15), (50, 3, 3), (0, 3, 0)):
        caplog.clear()
        with caplog.at_level(logging.DEBUG, logger="tests.boosting"):
            config = XGBConfig(max_depth=2, eta=0.02, num_trees=150)
            model, extractor = taught(verbose_eval=every, average_peak_n=n, config=config)
            asked(model, extractor, packs_of(2)[0])
        told = [r.getMessage() for r in caplog.records]
        assert len(told) == expected
        assert all(f"tr-a-peak@{n}" in t and "tr-p-rmse" in t for t in told)


@pytest.mark.parametrize(("adaptive", "trained"), [(True, [1, 0, 1]), (False, [1, 1, 1])])
def test_adaptive_training(
    adaptive: bool, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    train = boosting.train
    monkeypatch.setattr(xgb_model, "train", lambda *a: calls.append(1) or train(*a))
    model = XGBModel(config=XGBConfig(num_trees=5), adaptive_training=adaptive)
    x, seconds = data(200)
    for (start, stop), expected in zip(((0, 100), (100, 110), (110, 150)), trained, strict=True):
        calls.clear()
        model.update_features("w", x[start:stop], seconds[start:stop].tolist())
        model.predict_features(x)
        model.predict_features(x)
        assert len(calls) == expected
    model.update_features("new", x[150:152], seconds[150:152].tolist())
    calls.clear()
    model.predict_features(x)
    assert calls == [1]  # a workload of which nothing was known


def test_parameters_reach_xgboost(monkeypatch: pytest.MonkeyPatch) -> None:
    import xgboost

    seen: list[dict[str, Any]] = []
    train = xgboost.train

    def spy(params: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        seen.append(params)
        return train(params, *args, **kwargs)

    monkeypatch.setattr(xgboost, "train", spy)
    x, seconds = data(20)
    for options in (
        {"config": XGBConfig(num_trees=3), "tree_method": "exact", "num_tuning_cores": 2},
        {"config": XGBConfig(nthread=1, eta=0.5, num_trees=3), "num_tuning_cores": 2},
    ):
        model = XGBModel(**options)
        model.update_features("w", x, seconds.tolist())
        model.predict_features(x)
    assert seen[0]["tree_method"] == "exact"
    assert (seen[0]["nthread"], seen[1]["nthread"]) == (2, 1)
    assert (seen[0]["eta"], seen[1]["eta"]) == (0.2, 0.5)
    assert model.tree_count <= 3


def test_the_defaults_of_metaschedule() -> None:
    c = XGBConfig()
    assert (c.max_depth, c.gamma, c.min_child_weight, c.eta, c.seed) == (10, 0.001, 0, 0.2, 43)
    assert (c.nthread, c.tree_method) == (None, "auto")
    assert XGBModel(extractor="per-store-feature").config == c
    assert XGBModel().config == SKETCH_CONFIG


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_warmup_samples", -1), ("early_stopping_rounds", 0), ("verbose_eval", -1),
        ("average_peak_n", 0), ("num_tuning_cores", 0),
    ],
)  # fmt: skip
def test_counts_that_make_no_sense_are_refused(option: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{option} is a count from"):
        XGBModel(**{option: value})


def test_a_model_on_other_features_takes_no_matrices() -> None:
    model = XGBModel(extractor="per-store-feature")
    assert XGBModel().takes_features
    assert not model.takes_features
    with pytest.raises(NotImplementedError):
        model.predict_features(data(2)[0])
    with pytest.raises(NotImplementedError):
        model.update_features("w", data(2)[0], [1.0, 2.0])


def test_files_of_other_features_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "m")
    XGBModel(extractor="per-store-feature").save(path)
    XGBModel(extractor="per-store-feature").load(path)
    with pytest.raises(RecordError, match=r"a cost model (of another version|on the features of)"):
        XGBModel().load(path)


@pytest.mark.parametrize("kind", ["mlp", "per-store-feature", "random"])
def test_a_search_with_a_model_on_programs(kind: str) -> None:
    model: CostModel
    if kind == "mlp":
        model = MLPModel(trainer=SegmentSumMLPTrainer(hidden_dim=16, num_epoch_full=5))
    else:
        config = XGBConfig(max_depth=3, num_trees=10)
        model = XGBModel(extractor=kind, config=config, num_warmup_samples=6)
    ctx = context(many_tiles, n=64)

    def cost(c: MeasureCandidate) -> float:
        return 1e-3 * 2.0 ** -float(features_of(c.sch.mod, MACHINE)[1])

    sizes, seen = drive(ctx, 18, 6, cost, model)
    assert sizes == [6, 6, 6]
    assert len({c.digest for c in seen}) == 18
    assert model.row_count == 18  # type: ignore[attr-defined]  # both have it


def test_create() -> None:
    assert isinstance(CostModel.create("xgb", num_tuning_cores=2), XGBModel)
    assert isinstance(CostModel.create("mlp"), MLPModel)
    assert isinstance(CostModel.create("random", seed=1), RandomModel)
    assert CostModel.create("none") is None
    with pytest.raises(UserError, match="'magic' is no cost model"):
        CostModel.create("magic")
    with pytest.raises(UserError, match="'magic' is no feature extractor"):
        XGBModel(extractor="magic")
    with pytest.raises(UserError, match="is no feature extractor"):
        XGBModel(extractor=3)  # type: ignore[arg-type]  # that is what is tested
    with pytest.raises(TypeError):
        CostModel()  # type: ignore[abstract]  # that is what is tested
