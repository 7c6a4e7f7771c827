from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from gputune.runtime.compare import _CHUNK, compare, tolerance


def test_equal_and_near():
    x = np.linspace(-3, 3, 100, dtype="float32")
    assert compare(x, x.copy()).ok
    d = compare(x * np.float32(1 + 1e-5), x)
    assert d.ok
    assert 0 < d.max_error < 1e-4
    assert str(d).startswith("equal, greatest error")


def test_far_says_where():
    x = np.ones((3, 4), "float32")
    y = x.copy()
    y[1, 2], y[2, 0] = 1.5, 3
    d = compare(y, x)
    assert (d.ok, d.mismatches, d.where, d.max_error) == (False, 2, (2, 0), 2.0)
    assert str(d) == "2 elements differ, worst at [2, 0]: found 3.0, expected 1.0"
    assert d.as_json()["where"] == [2, 0]


def test_tolerance_follows_the_scale_of_the_reference():
    x = np.array([1000.0, 1e-3], "float32")
    assert compare(x + np.float32(1e-3), x).ok  # 1e-3 is nothing next to 1000
    assert not compare(x + np.float32(1e-3), x, atol=0.0).ok
    assert not compare(np.float32([1e-3]) * 2, np.float32([1e-3])).ok


def test_special_values():
    x = np.array([np.nan, np.inf, -np.inf, 1], "float32")
    assert compare(x, x.copy()).ok
    for at, wrong in ((0, 1.0), (1, -np.inf), (1, 3.0), (3, np.nan), (3, np.inf)):
        y = x.copy()
        y[at] = wrong
        d = compare(y, x)
        assert not d.ok
        assert d.where == (at,)
        assert math.isinf(d.max_error)
        assert d.as_json()["max_error"] is None


@pytest.mark.parametrize("name", ["int8", "uint8", "int64", "bool"])
def test_integers_are_exact(name):
    x = np.array([0, 1, 1], name)
    assert compare(x, x.copy()).ok
    y = x.copy()
    y[1] = 0
    d = compare(y, x)
    assert (d.ok, d.mismatches, d.where) == (False, 1, (1,))


def test_large_integers_do_not_meet_in_float64():
    x = np.array([2**62], "int64")
    assert not compare(x + 1, x).ok


def test_narrow_floats():
    x = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    assert compare(x + np.array(0.0078125, ml_dtypes.bfloat16), x).ok
    assert not compare(x * 2, x).ok


def test_the_worst_is_found_in_any_chunk():
    x = np.zeros(2 * _CHUNK + 5, "float32")
    y = x.copy()
    y[3], y[-1] = 1, 2
    d = compare(y, x)
    assert (d.mismatches, d.where) == (2, (2 * _CHUNK + 4,))


def test_shapes_and_dtypes_must_agree():
    d = compare(np.zeros(3, "float32"), np.zeros(4, "float32"))
    assert not d.ok
    assert (d.found, d.expected) == ("float32[3]", "float32[4]")
    assert not compare(np.zeros(3, "float32"), np.zeros(3, "float64")).ok
    assert compare(np.zeros(0, "float32"), np.zeros(0, "float32")).ok


def test_tolerance_is_that_of_the_coarsest_float():
    assert tolerance(["float32", "float16", "int32"]) == 2e-2
    assert tolerance(["int32"]) == 0
    assert tolerance([]) == 0


def test_how_far_beyond_the_tolerance():
    x = np.ones(100, "float32")
    y = x.copy()
    y[[3, 7]] += np.float32([1e-3, 1e-2])
    found = compare(y, x)
    assert found.excess == pytest.approx(50, rel=1e-3)  # 1e-2 over twice 1e-4
    assert compare(x, x).excess == 0
    y[5] = np.nan
    assert compare(y, x).excess == math.inf
    assert compare(np.ones(2, "int32"), np.zeros(2, "int32")).excess == math.inf
    assert "excess" not in found.as_json()
