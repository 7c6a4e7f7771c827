"""What does the neural cost model compute, and in which direction does its error fall? Plain NumPy.

The score of a candidate is that of the sum over its rows of what a small encoder makes of each row.
The error is about order: of two candidates of one workload, the faster should have the higher
score, the more so the further their speeds are apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ...errors import UserError

Array: TypeAlias = npt.NDArray[Any]
Parameters: TypeAlias = dict[str, Array]

_LAYERS = ("encode0", "encode1", "layer0", "layer1")


class SegmentSumMLP:
    """An encoder of two layers for each row, the sum over the rows of a candidate, two layers with
    a shortcut around each, and a linear one to the score.

    Args:
        input_dim: features in a row.
        hidden_dim: width of the layers.
        output_dim: 1, the score.
        seed: of the first weights.
        dtype: of weights and arithmetic.

    Raises:
        UserError: a width below 1; more than one output.

    Example:
        >>> net = SegmentSumMLP(input_dim=3, hidden_dim=4)
        >>> net.forward(np.zeros((5, 3)), np.array([2, 3])).shape
        (2,)
    """

    def __init__(
        self,
        *,
        input_dim: int = 172,
        hidden_dim: int = 256,
        output_dim: int = 1,
        seed: int = 0,
        dtype: str = "float32",
    ) -> None:
        if input_dim < 1 or hidden_dim < 1 or output_dim != 1:
            raise UserError(
                f"a network from {input_dim} features over {hidden_dim} to {output_dim} numbers",
                hint="the first two are counts from 1, the last is 1: the score",
                code="mlp",
            )
        self.input_dim, self.hidden_dim = input_dim, hidden_dim
        self.dtype = np.dtype(dtype)
        rng = np.random.default_rng(seed)
        self.parameters: Parameters = {}
        for name, n, m in (
            ("encode0", input_dim, hidden_dim),
            *((name, hidden_dim, hidden_dim) for name in _LAYERS[1:]),
            ("decode", hidden_dim, output_dim),
        ):
            bound = 1.0 / np.sqrt(n)
            self.parameters[f"{name}.weight"] = rng.uniform(-bound, bound, (n, m)).astype(dtype)
            self.parameters[f"{name}.bias"] = rng.uniform(-bound, bound, m).astype(dtype)
        self._kept: dict[str, Array] = {}

    def forward(self, rows: Array, sizes: Array) -> Array:
        """The score of each candidate; what `backward` needs is kept.

        Args:
            rows: (rows, input_dim).
            sizes: how many of the rows each candidate has, in their order; the sum is `rows`.
        """
        x = np.asarray(rows, self.dtype)
        kept = self._kept = {"x": x, "sizes": np.asarray(sizes)}
        a = kept["a"] = self._relu("encode0", x)
        b = kept["b"] = self._relu("encode1", a)
        s = kept["s"] = segment_sum(b, kept["sizes"])
        h0 = kept["h0"] = self._relu("layer0", s)
        u = kept["u"] = h0 + s
        h1 = kept["h1"] = self._relu("layer1", u)
        v = kept["v"] = h1 + u
        out: Array = self._linear("decode", v)[:, 0]
        return out

    def _linear(self, name: str, x: Array) -> Array:
        out: Array = x @ self.parameters[f"{name}.weight"] + self.parameters[f"{name}.bias"]
        return out

    def _relu(self, name: str, x: Array) -> Array:
        return np.maximum(self._linear(name, x), 0)

    def backward(self, slope: Array) -> Parameters:
        """The derivative of the error by each parameter, given that by each score of the last
        `forward`."""
        kept, out = self._kept, dict[str, Array]()
        d = self._back("decode", kept["v"], np.asarray(slope, self.dtype)[:, None], out)
        d = d + self._back("layer1", kept["u"], d * (kept["h1"] > 0), out)
        d = d + self._back("layer0", kept["s"], d * (kept["h0"] > 0), out)
        d = np.repeat(d, kept["sizes"], axis=0)
        d = self._back("encode1", kept["a"], d * (kept["b"] > 0), out)
        self._back("encode0", kept["x"], d * (kept["a"] > 0), out)
        return out

    def _back(self, name: str, x: Array, d: Array, out: Parameters) -> Array:
        """Through one linear layer: its own derivatives into `out`, that by its input back."""
        out[f"{name}.weight"] = x.T @ d
        out[f"{name}.bias"] = d.sum(axis=0)
        back: Array = d @ self.parameters[f"{name}.weight"].T
        return back


def segment_sum(rows: Array, sizes: Array) -> Array:
    """The sum of the rows of each segment; 0 for one without rows.

    Example:
        >>> segment_sum(np.array([[1.0], [2.0], [4.0]]), np.array([2, 0, 1])).ravel().tolist()
        [3.0, 0.0, 4.0]
    """
    out = np.zeros((len(sizes), rows.shape[1]), rows.dtype)
    some = np.nonzero(sizes)[0]
    if len(some):
        starts = np.cumsum(sizes) - sizes
        out[some] = np.add.reduceat(rows, starts[some], axis=0)
    return out


def ranking_error(scores: Array, share: Array, worth: Array | None = None) -> tuple[float, Array]:
    """How wrong is the order of scores of candidates of one workload; and the derivative by each.

    For each pair with different speeds, log(1 + exp(lower - higher)) of the scores of the slower
    and the faster one, weighted with the difference of their shares of the best speed.

    Args:
        scores: one for each candidate.
        share: of the best speed, 0 for failures.
        worth: of each candidate; a pair is worth the product. None: all the same.

    Returns:
        The weighted mean over pairs (0 if all are equally fast), and its derivative.
    """
    s = np.asarray(scores, np.float64)
    y = np.asarray(share, np.float64)
    weight = np.maximum(y[:, None] - y[None, :], 0.0)  # row: the faster of the pair
    if worth is not None:
        w = np.asarray(worth, np.float64)
        weight = weight * (w[:, None] * w[None, :])
    total = float(weight.sum())
    if total <= 0:
        return 0.0, np.zeros(len(s))
    gap = s[:, None] - s[None, :]
    weight /= total
    error = float((weight * np.logaddexp(0.0, -gap)).sum())
    pull = weight * -np.exp(-np.logaddexp(0.0, gap))
    return error, pull.sum(axis=1) - pull.sum(axis=0)


@dataclass(slots=True)
class Adam:
    """Adam with weight decay added to the derivatives, which are cut to a norm before.

    Attributes:
        learning_rate, weight_decay, grad_clip_norm: as in MetaSchedule.
    """

    learning_rate: float = 7e-4
    weight_decay: float = 1e-6
    grad_clip_norm: float = 0.5
    _steps: int = 0
    _mean: Parameters = field(default_factory=dict)
    _square: Parameters = field(default_factory=dict)

    def step(self, parameters: Parameters, slopes: Parameters) -> None:
        """Change the parameters, in place, against their slopes."""
        self._steps += 1
        norm = float(
            np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in slopes.values()))
        )
        cut = min(1.0, self.grad_clip_norm / max(norm, 1e-12))
        rate = self.learning_rate / (1.0 - 0.9**self._steps)
        level = 1.0 / np.sqrt(1.0 - 0.999**self._steps)
        for name, p in parameters.items():
            g = slopes[name] * cut + self.weight_decay * p
            m = self._mean.setdefault(name, np.zeros_like(p))
            v = self._square.setdefault(name, np.zeros_like(p))
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p -= (rate * m / (np.sqrt(v) * level + 1e-8)).astype(p.dtype)
