"""Does the neural cost model compute what it should, go downhill, learn to rank, and keep it?"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gputune.errors import RecordError, UserError
from gputune.meta_schedule.cost_model import (
    CostModel,
    MLPModel,
    SegmentSumMLP,
    SegmentSumMLPTrainer,
    metrics,
    mlp_trainer,
)
from gputune.meta_schedule.cost_model.network import Adam, ranking_error, segment_sum
from gputune.meta_schedule.feature_extractor import PerStoreFeature

QUICK = SegmentSumMLPTrainer(hidden_dim=24, batch_size=32, learning_rate=3e-3)


def data(count: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Candidates of one to three stores; the time grows with what one column sums up to."""
    rng = np.random.default_rng(seed)
    packs = [rng.random((rng.integers(1, 4), 10)).astype(np.float32) * 20 for _ in range(count)]
    return packs, np.array([1e-3 * 2 ** (p[:, 3].sum() / 10 - p[:, 5].max() / 10) for p in packs])


# ----------------------------------------------------------------------------- the network
def test_segment_sum() -> None:
    rows = np.arange(12.0).reshape(6, 2)
    sizes = np.array([0, 2, 0, 3, 1, 0])
    expected = [rows[0:0], rows[0:2], rows[2:2], rows[2:5], rows[5:6], rows[6:]]
    assert (segment_sum(rows, sizes) == [x.sum(axis=0) for x in expected]).all()
    assert segment_sum(np.zeros((0, 2)), np.zeros(3, int)).tolist() == [[0, 0]] * 3


def test_forward_by_hand() -> None:
    net = SegmentSumMLP(input_dim=1, hidden_dim=1, dtype="float64")
    for name, p in net.parameters.items():
        p[:] = 2.0 if name.endswith("weight") else -1.0

    # encode: relu(2x - 1) twice; sum; each layer adds relu(2s - 1); decode 2v - 1
    def encode(x: float) -> float:
        return max(0.0, 2 * max(0.0, 2 * x - 1) - 1)

    s = encode(1.0) + encode(2.0)
    u = s + max(0.0, 2 * s - 1)
    v = u + max(0.0, 2 * u - 1)
    got = net.forward(np.array([[1.0], [2.0], [-4.0]]), np.array([2, 1]))
    assert got.tolist() == [2 * v - 1, -1.0]


def test_backward_is_the_derivative_of_forward() -> None:
    rng = np.random.default_rng(1)
    net = SegmentSumMLP(input_dim=4, hidden_dim=5, seed=2, dtype="float64")
    rows, sizes = rng.normal(size=(7, 4)), np.array([2, 0, 4, 1])
    pull = rng.normal(size=4)
    net.forward(rows, sizes)
    slopes = net.backward(pull)
    for name, p in net.parameters.items():
        for at in np.ndindex(p.shape):
            old, eps = p[at], 1e-6
            values = []
            for x in (old + eps, old - eps):
                p[at] = x
                values.append(float(net.forward(rows, sizes) @ pull))
            p[at] = old
            assert slopes[name][at] == pytest.approx((values[0] - values[1]) / 2 / eps, abs=1e-6)


def test_slope_of_the_ranking_error() -> None:
    rng = np.random.default_rng(3)
    scores, share = rng.normal(size=6), np.array([1.0, 0.5, 0.5, 0.0, 0.9, 0.0])
    _, slope = ranking_error(scores, share)
    for k in range(6):
        step = np.zeros(6)
        step[k] = 1e-6
        up, down = (ranking_error(scores + s, share)[0] for s in (step, -step))
        assert slope[k] == pytest.approx((up - down) / 2e-6, abs=1e-7)


def test_the_ranking_error_is_least_in_the_right_order() -> None:
    share = np.array([1.0, 0.6, 0.1])
    right, wrong = (ranking_error(s, share)[0] for s in (share * 9, -share * 9))
    assert right < 0.1 < wrong
    assert ranking_error(np.array([1e4, -1e4]), np.array([0.0, 1.0]))[0] == pytest.approx(2e4)
    error, slope = ranking_error(np.array([1.0, 2.0]), np.array([0.0, 0.0]))
    assert (error, slope.tolist()) == (0.0, [0.0, 0.0])


def test_candidates_without_weight_pull_nowhere() -> None:
    scores, share = np.array([3.0, 0.1, 0.2, 2.0]), np.array([0.0, 1.0, 0.5, 0.9])
    worth = np.array([0.0, 1.0, 1.0, 0.0])
    error, slope = ranking_error(scores, share, worth)
    assert slope[0] == slope[3] == 0
    alone, pull = ranking_error(scores[1:3], share[1:3])
    assert error == pytest.approx(alone)
    assert slope[1:3] == pytest.approx(pull)
    assert ranking_error(scores, share, np.ones(4))[0] == pytest.approx(
        ranking_error(scores, share)[0]
    )


def test_adam() -> None:
    # the first step is as long as the learning rate, whatever the slope
    p = {"x": np.array([1.0, 1.0])}
    Adam(0.1, 0.0, 1e9).step(p, {"x": np.array([5.0, -0.01])})
    assert p["x"] == pytest.approx([0.9, 1.1], abs=1e-5)
    # a long slope is cut: seen against the decay
    p = {"x": np.array([1.0])}
    adam = Adam(0.1, 0.0, 0.5)
    adam.step(p, {"x": np.array([100.0])})
    assert adam._mean["x"][0] == pytest.approx(0.05)
    # decay alone pulls towards 0
    p = {"x": np.array([1.0])}
    Adam(0.1, 0.5, 0.5).step(p, {"x": np.array([0.0])})
    assert p["x"][0] < 1.0


def test_adam_finds_a_minimum() -> None:
    p = {"x": np.array([3.0, -2.0])}
    adam = Adam(0.05, 0.0, 10.0)
    for _ in range(500):
        adam.step(p, {"x": 2 * (p["x"] - [1.0, 0.5])})
    assert p["x"] == pytest.approx([1.0, 0.5], abs=1e-2)


@pytest.mark.parametrize(
    "options", [{"input_dim": 0}, {"hidden_dim": 0}, {"output_dim": 2}], ids=str
)
def test_networks_that_make_no_sense_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UserError, match="a network from"):
        SegmentSumMLP(**options)


# ----------------------------------------------------------------------------- the model
def test_the_defaults_are_those_of_metaschedule() -> None:
    t = SegmentSumMLPTrainer()
    assert (t.batch_size, t.learning_rate, t.weight_decay, t.hidden_dim) == (128, 7e-4, 1e-6, 256)
    assert (t.num_epoch_full, t.num_epoch_incremental) == (50, 5)
    assert (t.grad_clip_norm, t.test_split) == (0.5, 0.2)
    model = CostModel.create("mlp")
    assert isinstance(model, MLPModel)
    assert isinstance(model.extractor, PerStoreFeature)
    assert model.extractor.width == 172
    assert isinstance(CostModel.create("mlp", num_tuning_cores=3), MLPModel)


def test_it_learns_to_rank() -> None:
    model = MLPModel(trainer=QUICK)
    packs, seconds = data(300)
    model.learn("w", packs, seconds.tolist())
    others, truth = data(200, 1)
    assert metrics.rank_correlation(model.score(others), truth) > 0.7
    assert 0.5 < model.test_score <= 1


def test_workloads_of_different_size_teach_one_model() -> None:
    model = MLPModel(trainer=QUICK)
    packs, seconds = data(300)
    model.learn("small", packs[:150], seconds[:150].tolist())
    model.learn("large", packs[150:], (seconds[150:] * 1e4).tolist())
    others, truth = data(200, 1)
    assert metrics.rank_correlation(model.score(others), truth) > 0.7
    assert model.knows("small")
    assert not model.knows("other")
    assert model.row_count == 300


def test_few_new_candidates_are_learned_without_beginning_anew(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlp_trainer, "log", logging.getLogger("tests.mlp"))
    model = MLPModel(trainer=QUICK)
    packs, seconds = data(100)
    with caplog.at_level(logging.DEBUG, logger="tests.mlp"):
        for start, stop, epochs in ((0, 60, 50), (60, 70, 5), (70, 100, 50)):
            caplog.clear()
            model.learn("w", packs[start:stop], seconds[start:stop].tolist())
            model.score(packs[:2])
            assert f"MLP epoch: {epochs:3d}" in caplog.records[-1].getMessage()


def test_asking_twice_gives_the_same() -> None:
    one, two = (MLPModel(trainer=QUICK) for _ in range(2))
    packs, seconds = data(50)
    for m in (one, two):
        m.learn("w", packs, seconds.tolist())
    assert (one.score(packs) == one.score(packs)).all()
    assert (one.score(packs) == two.score(packs)).all()


def test_candidates_without_rows() -> None:
    model = MLPModel(trainer=QUICK)
    packs, seconds = data(30)
    packs[3] = np.zeros((0, 10), np.float32)
    model.learn("w", packs, seconds.tolist())
    assert np.isfinite(model.score(packs)).all()
    empty = MLPModel(trainer=QUICK)
    empty.learn("w", [np.zeros((0, 10))] * 4, [1.0, 2.0, 3.0, 4.0])
    assert np.isfinite(empty.score([np.zeros((0, 10))])).all()


def test_rows_of_another_width_are_refused() -> None:
    model = MLPModel(trainer=QUICK)
    packs, seconds = data(10)
    model.learn("w", packs, seconds.tolist())
    with pytest.raises(UserError, match="10 columns were expected"):
        model.learn("w", [np.zeros((1, 4))], [1.0])
    with pytest.raises(UserError, match="another width than the 10"):
        model.score([np.zeros((1, 4))])
    with pytest.raises(UserError, match="1 candidates with 2 times"):
        model.learn("w", packs[:1], [1.0, 2.0])
    with pytest.raises(UserError, match="not negative"):
        model.learn("w", packs[:1], [-1.0])
    with pytest.raises(UserError, match="not finite"):
        model.learn("w", [np.full((1, 10), np.nan)], [1.0])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_size", 0), ("num_epoch_full", 0), ("hidden_dim", 0), ("test_interval", 0),
        ("learning_rate", 0.0), ("grad_clip_norm", -1.0), ("weight_decay", -1.0),
        ("test_split", 1.0), ("num_epoch_incremental", 0),
    ],
)  # fmt: skip
def test_trainers_that_make_no_sense_are_refused(option: str, value: Any) -> None:
    with pytest.raises(UserError, match=option):
        SegmentSumMLPTrainer(**{option: value})


def test_what_is_no_extractor_is_refused() -> None:
    with pytest.raises(UserError, match="is no feature extractor"):
        MLPModel(extractor=3)  # type: ignore[arg-type]  # that is what is tested


def test_save_and_load(tmp_path: Path) -> None:
    model, path = MLPModel(trainer=QUICK), str(tmp_path / "mlp")
    packs, seconds = data(60)
    seconds[3] = np.inf
    model.learn("w", packs, seconds.tolist())
    model.save(path)
    other = MLPModel(trainer=QUICK)
    other.load(path)
    assert (other.score(packs) == model.score(packs)).all()
    assert other.row_count == 60
    more, times = data(30, 4)
    other.learn("v", more, times.tolist())
    assert other.knows("v")
    assert np.isfinite(other.score(more)).all()


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path, bad = tmp_path / "mlp", str(tmp_path / "bad")
    model = MLPModel(trainer=QUICK)
    packs, seconds = data(20)
    model.learn("w", packs, seconds.tolist())
    model.save(str(path))
    with pytest.raises(RecordError, match=r"\[24\] wide, this one is 256 wide"):
        MLPModel().load(str(path))
    with np.load(path) as f:
        parts = {k: f[k] for k in f.files}
    for change, message in (
        ({"mlp": np.array([99, 1])}, "another version"),
        ({"mlp": np.array([1])}, "another version"),
        ({"seconds": parts["seconds"][:-1]}, "do not fit together"),
        ({"counts": np.array([-1])}, "do not fit together"),
        ({"mean": parts["mean"][:-1]}, "do not fit together"),
        ({"spread": parts["spread"] * 0}, "do not fit together"),
        ({"net.decode.bias": np.zeros(2, np.float32)}, "weights do not fit together"),
        ({"net.encode0.bias": parts["net.encode0.bias"] * np.nan}, "weights do not fit together"),
        ({"keys": np.array([{"a": 1}], dtype=object)}, "not a saved cost model"),
    ):
        with open(bad, "wb") as out:
            np.savez(out, **{**parts, **change})
        with pytest.raises(RecordError, match=message):
            MLPModel(trainer=QUICK).load(bad)
    del parts["sizes"]
    with open(bad, "wb") as out:
        np.savez(out, **parts)
    with pytest.raises(RecordError, match="it lacks"):
        MLPModel(trainer=QUICK).load(bad)
