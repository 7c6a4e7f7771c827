"""How does the neural cost model learn? Epochs of batches, each of candidates of one workload."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ...errors import UserError
from .metrics import peak
from .network import Adam, Array, SegmentSumMLP, ranking_error
from .training_data import Rows

log = logging.getLogger("gputune.meta_schedule.cost_model")

Group: TypeAlias = tuple[list[Rows], npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""The rows of each candidate of a workload, their shares of the best speed, and their weights."""

_TOP = (1, 5)  # candidates of the figures that are logged


@dataclass(frozen=True, slots=True)
class SegmentSumMLPTrainer:
    """How the network is trained.

    Args:
        batch_size: candidates in a batch.
        learning_rate, weight_decay, grad_clip_norm: of `Adam`.
        num_epoch_full, num_epoch_incremental: how often all data are gone through, and how often
            those that are new.
        test_split: the share of candidates that is kept back, to see how well others are ranked.
        test_interval: every how many epochs that is logged (at debug level).
        hidden_dim: of the network.
        seed: of weights, batches and what is kept back.

    Raises:
        UserError: a count below 1, a rate that is not positive, a share that is not below 1.
    """

    batch_size: int = 128
    learning_rate: float = 7e-4
    weight_decay: float = 1e-6
    num_epoch_full: int = 50
    num_epoch_incremental: int = 5
    grad_clip_norm: float = 0.5
    test_split: float = 0.2
    test_interval: int = 10
    hidden_dim: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "batch_size", "num_epoch_full", "num_epoch_incremental", "test_interval", "hidden_dim"
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise UserError(
                    f"{name} is a count from 1, found {getattr(self, name)}", code="mlp"
                )
        for name in ("learning_rate", "grad_clip_norm"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is positive, found {getattr(self, name)}", code="mlp")
        if not self.weight_decay >= 0 or not 0.0 <= self.test_split < 1.0:
            raise UserError(
                f"weight_decay is not negative and test_split a share from 0 to below 1, found "
                f"{self.weight_decay} and {self.test_split}",
                code="mlp",
            )


@dataclass(slots=True)
class Scaling:
    """Features brought to mean 0 and spread 1, going by the data of the last full training."""

    mean: Array = field(default_factory=lambda: np.zeros(1, np.float32))
    spread: Array = field(default_factory=lambda: np.ones(1, np.float32))

    @staticmethod
    def of(groups: Sequence[Group]) -> Scaling:
        """What suits these rows. Columns that never change keep spread 1."""
        rows = np.concatenate([p for packs, _, _ in groups for p in packs])
        if len(rows) == 0:
            return Scaling()
        spread = rows.std(axis=0)
        return Scaling(rows.mean(axis=0), np.where(spread > 1e-6, spread, 1.0).astype(np.float32))

    def __call__(self, rows: Array) -> Array:
        """The rows, scaled."""
        scaled: Array = (rows - self.mean) / self.spread
        return scaled


def fit(
    net: SegmentSumMLP,
    adam: Adam,
    scaling: Scaling,
    groups: Sequence[Group],
    epochs: int,
    trainer: SegmentSumMLPTrainer,
    rng: np.random.Generator,
) -> float:
    """Train; how good the ranking of what was kept back is at the end: `metrics.peak` for 5, the
    mean over workloads; NaN if nothing was."""
    learned, kept = _split(groups, trainer.test_split, rng)
    for epoch in range(1, epochs + 1):
        error = _epoch(net, adam, scaling, learned, trainer.batch_size, rng)
        if epoch % trainer.test_interval == 0 or epoch == epochs:
            figures = [f"top-{k}: {_top(net, scaling, kept, k):.3f}" for k in _TOP]
            log.debug("MLP epoch: %3d\ttrain loss: %.6f\t%s", epoch, error, "\t".join(figures))
    return _top(net, scaling, kept, _TOP[-1])


def _split(
    groups: Sequence[Group], share: float, rng: np.random.Generator
) -> tuple[list[Group], list[Group]]:
    """What to learn from, and what is kept back; of a workload with few candidates nothing is."""
    learned: list[Group] = []
    kept: list[Group] = []
    for packs, speed, weight in groups:
        order = rng.permutation(len(packs))
        n = int(len(packs) * share)
        for part, out in ((order[n:], learned), (order[:n], kept)):
            if len(part):
                out.append(([packs[k] for k in part], speed[part], weight[part]))
    return learned, kept


def _epoch(
    net: SegmentSumMLP,
    adam: Adam,
    scaling: Scaling,
    groups: Sequence[Group],
    size: int,
    rng: np.random.Generator,
) -> float:
    errors: list[float] = []
    for packs, speed, weight in _batches(groups, size, rng):
        scores = net.forward(*_inputs(packs, scaling))
        error, slope = ranking_error(scores, speed, weight)
        errors.append(error)
        if slope.any():
            adam.step(net.parameters, net.backward(slope))
    return float(np.mean(errors)) if errors else 0.0


def _batches(groups: Sequence[Group], size: int, rng: np.random.Generator) -> Iterator[Group]:
    """All candidates, in batches of one workload each, workloads and candidates in any order."""
    batches: list[Group] = []
    for packs, speed, weight in groups:
        order = rng.permutation(len(packs))
        for part in np.array_split(order, -(-len(order) // size)):
            batches.append(([packs[k] for k in part], speed[part], weight[part]))
    for k in rng.permutation(len(batches)):
        yield batches[k]


def _inputs(packs: Sequence[Rows], scaling: Scaling) -> tuple[Array, Array]:
    rows = np.concatenate(packs)
    return scaling(rows), np.array([len(p) for p in packs], np.int64)


def score(net: SegmentSumMLP, scaling: Scaling, packs: Sequence[Rows]) -> npt.NDArray[np.float64]:
    """What the network says of each candidate."""
    if not packs:
        return np.empty(0)
    return net.forward(*_inputs(packs, scaling)).astype(np.float64)


def _top(net: SegmentSumMLP, scaling: Scaling, groups: Sequence[Group], k: int) -> float:
    found: list[float] = []
    for packs, speed, weight in groups:
        packs, speed = [p for p, w in zip(packs, weight) if w > 0], speed[weight > 0]
        if speed.any():
            seconds = np.full(len(speed), np.inf)
            seconds[speed > 0] = 1.0 / speed[speed > 0]
            found.append(peak(score(net, scaling, packs), seconds, k))
    return float(np.mean(found)) if found else float("nan")
