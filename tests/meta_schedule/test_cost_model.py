"""Does the cost model learn, keep what it learned, and refuse what is no model?"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from search_spaces import context, many_tiles, matmul

from gputune.errors import RecordError, UserError
from gputune.meta_schedule.cost_model import CostModel, RandomModel, XGBConfig, XGBModel
from gputune.meta_schedule.failures import Failure
from gputune.meta_schedule.measure_candidate import MeasureCandidate
from gputune.meta_schedule.runner import RunnerResult
from gputune.meta_schedule.sketch_feature import FEATURE_COUNT
from gputune.schedule import Schedule


def data(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.random((n, FEATURE_COUNT)).astype(np.float32) * 8
    return x, 1e-3 * 2.0 ** (x[:, 20] / 2 + np.abs(x[:, 30] - 4) / 2)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(x)) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


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


def test_create() -> None:
    assert isinstance(CostModel.create("xgb", num_tuning_cores=2), XGBModel)
    assert isinstance(CostModel.create("random", seed=1), RandomModel)
    assert CostModel.create("none") is None
    with pytest.raises(UserError, match="'mlp' is not part of this version"):
        CostModel.create("mlp")
    with pytest.raises(UserError, match="'magic' is no cost model"):
        CostModel.create("magic")
    with pytest.raises(UserError, match="per-store-feature"):
        XGBModel(extractor="per-store-feature")
    with pytest.raises(TypeError):
        CostModel()  # type: ignore[abstract]  # that is what is tested
