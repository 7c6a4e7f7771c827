"""Do the figures about rankings say what they should?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.errors import UserError
from gputune.meta_schedule.cost_model import metrics

INF = math.inf


def test_rank_correlation() -> None:
    assert metrics.rank_correlation([3, 2, 1], [1.0, 2.0, 9.0]) == pytest.approx(1.0)
    assert metrics.rank_correlation([1, 2, 3], [1.0, 2.0, 9.0]) == pytest.approx(-1.0)
    # d = (0, 1, 1) among three: 1 - 6 * 2 / (3 * 8)
    assert metrics.rank_correlation([3, 1, 2], [1.0, 2.0, 3.0]) == pytest.approx(0.5)
    # ties share their rank; failures are the slowest
    assert metrics.rank_correlation([5, 1, 1], [1.0, INF, INF]) == pytest.approx(1.0)
    assert math.isnan(metrics.rank_correlation([1], [1.0]))
    assert math.isnan(metrics.rank_correlation([1, 1], [1.0, 2.0]))
    assert math.isnan(metrics.rank_correlation([1, 2], [INF, INF]))


def test_recall() -> None:
    seconds = [1.0, 2.0, 3.0, 4.0]
    assert metrics.recall([4, 3, 2, 1], seconds, 2) == 1.0
    assert metrics.recall([4, 1, 3, 2], seconds, 2) == 0.5
    assert metrics.recall([1, 2, 3, 4], seconds, 2) == 0.0
    assert metrics.recall([1, 2, 3, 4], seconds, 9) == 1.0
    assert metrics.recall([0, 0, 0, 0], seconds, 1) == 0.25  # choosing by lot
    assert metrics.recall([1, 2, 3], [5.0, 5.0, 1.0], 2) == 1.0  # as fast as the second
    assert metrics.recall([3, 2, 1], [INF, 1.0, 2.0], 3) == 0.5  # two of them ran
    assert math.isnan(metrics.recall([], [], 3))
    assert math.isnan(metrics.recall([1], [INF], 3))


def test_peak() -> None:
    seconds = [1.0, 2.0, 4.0, INF]
    assert metrics.peak([4, 3, 2, 1], seconds, 2) == 1.0
    assert metrics.peak([1, 2, 3, 4], seconds, 3) == pytest.approx((0 + 0.25 + 0.5) / 3)
    assert metrics.peak([1, 2, 3, 4], seconds, 99) == pytest.approx((0 + 0.25 + 0.5 + 1) / 4)
    assert math.isnan(metrics.peak([1, 2], [INF, INF], 2))


def test_shares() -> None:
    assert metrics.shares([2.0, 1.0, INF]).tolist() == [0.5, 1.0, 0.0]
    assert metrics.shares([INF]).tolist() == [0.0]
    assert metrics.shares([]).tolist() == []


def test_quality() -> None:
    q = metrics.quality([3, 2, 1], [1.0, 2.0, 3.0], 2)
    assert q == metrics.Quality(3, pytest.approx(1.0), 2, 1.0, 1.0)
    assert str(q) == "3 candidates: rank correlation 1.00, top-2 recall 1.00, peak@2 1.00"
    assert str(metrics.quality([], [], 2)) == "0 candidates: too few to judge"


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UserError, match="scores of shape"):
        metrics.rank_correlation([1, 2], [1.0])
    with pytest.raises(UserError, match="k is a count from 1"):
        metrics.recall([1], [1.0], 0)
    with pytest.raises(UserError, match="NaN"):
        metrics.peak([math.nan], [1.0], 1)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(-5, 5), st.one_of(st.just(INF), st.floats(1e-6, 10.0))),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, 25),
)
def test_figures_stay_in_range(pairs: list[tuple[int, float]], k: int) -> None:
    scores, seconds = [float(p) for p, _ in pairs], [s for _, s in pairs]
    q = metrics.quality(scores, seconds, k)
    assert math.isnan(q.recall) or 0 <= q.recall <= 1 + 1e-12
    assert math.isnan(q.peak) or 0 <= q.peak <= 1
    assert math.isnan(q.rank_correlation) or abs(q.rank_correlation) <= 1 + 1e-12
    best = metrics.quality([-s for s in seconds] if INF not in seconds else scores, seconds, k)
    if INF not in seconds:
        assert best.recall == pytest.approx(1.0)
        assert best.peak == pytest.approx(1.0)
        assert len(set(seconds)) == 1 or best.rank_correlation == pytest.approx(1.0)
    order = np.random.default_rng(0).permutation(len(pairs))
    again = metrics.rank_correlation(np.array(scores)[order], np.array(seconds)[order])
    assert again == pytest.approx(q.rank_correlation, nan_ok=True)
