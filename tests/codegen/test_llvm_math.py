"""Are the math functions of llvm kernels right to two units in the last place, everywhere?

`math_accuracy.py` holds the truth and looks closer; this is the sample of every day.
"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llvm_running import FakeTarget, compiled, host, interpreted, parse, targets
from math_accuracy import CASES, DTYPES, WIDE, arguments, kernel, specials, values, worst

from gputune.codegen.llvm import jit
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import lower

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT = 2.0


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_error_is_at_most_two_units(name: str, dtype: str) -> None:
    if dtype == "float64" and not WIDE:
        pytest.skip("no wider type to compare with")
    for target in targets():
        error, where = worst(name, arguments(name, dtype, 800, seed=7), target)
        assert error <= LIMIT, (target.mcpu, where)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_every_lane_count_gives_the_same_bits(name: str, dtype: str) -> None:
    xs = tuple(x[:700] for x in arguments(name, dtype, 60, seed=3))
    want = values(name, *xs)
    for lanes in (1, 2, 3, 7, 8, 13, 24, 33, 64):
        got = values(name, *xs, lanes=lanes)
        np.testing.assert_array_equal(got, want, err_msg=f"{lanes} lanes")


INF, NAN = math.inf, math.nan
POW = [  # annex F of the C standard
    (0.0, -3.0, INF), (-0.0, -3.0, -INF), (0.0, -2.5, INF), (-0.0, -2.0, INF), (-0.0, -INF, INF),
    (0.0, 3.0, 0.0), (-0.0, 3.0, -0.0), (-0.0, 2.0, 0.0), (-0.0, 2.5, 0.0), (-1.0, INF, 1.0),
    (-1.0, -INF, 1.0), (1.0, NAN, 1.0), (NAN, 0.0, 1.0), (NAN, -0.0, 1.0), (-INF, 0.0, 1.0),
    (-2.0, 0.5, NAN), (-0.5, 1e-3, NAN), (0.5, -INF, INF), (-0.5, -INF, INF), (2.0, -INF, 0.0),
    (-2.0, -INF, 0.0), (0.5, INF, 0.0), (-0.5, INF, 0.0), (2.0, INF, INF), (-2.0, INF, INF),
    (-INF, -3.0, -0.0), (-INF, -2.0, 0.0), (-INF, -2.5, 0.0), (-INF, 3.0, -INF), (-INF, 2.0, INF),
    (-INF, 2.5, INF), (INF, -1e-3, 0.0), (INF, 1e-3, INF), (NAN, 1.0, NAN), (2.0, NAN, NAN),
    (-1.0, 1e30, 1.0), (-3.0, 3.0, -27.0), (-8.0, 1 / 3, NAN), (NAN, NAN, NAN), (0.0, INF, 0.0),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_cases_of_pow(dtype: str) -> None:
    x, y, want = (np.array(column).astype(dtype) for column in zip(*POW, strict=True))
    for target in targets():
        got = values("pow", x, y, target=target)
        bad = [
            (target.mcpu, float(a), float(b), float(g), float(w))
            for a, b, g, w in zip(x, y, got, want, strict=True)
            if not (np.isnan(g) and np.isnan(w)) and (g != w or np.signbit(g) != np.signbit(w))
        ]
        assert not bad


EDGES: dict[str, list[tuple[float, float]]] = {
    "exp": [(INF, INF), (-INF, 0.0), (0.0, 1.0), (-0.0, 1.0)],
    "exp2": [(INF, INF), (-INF, 0.0), (10.0, 1024.0), (-1.0, 0.5)],
    "exp10": [(INF, INF), (-INF, 0.0), (0.0, 1.0)],
    "log": [(0.0, -INF), (-0.0, -INF), (-1.0, NAN), (INF, INF), (-INF, NAN), (1.0, 0.0)],
    "log2": [(0.0, -INF), (-0.0, -INF), (-1.0, NAN), (INF, INF), (0.125, -3.0)],
    "log10": [(0.0, -INF), (-0.0, -INF), (-1.0, NAN), (INF, INF), (1.0, 0.0)],
    "log1p": [(0.0, 0.0), (-0.0, -0.0), (-1.0, -INF), (-2.0, NAN), (INF, INF), (-INF, NAN)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0)],
    "erf": [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0)],
    "sigmoid": [(0.0, 0.5), (INF, 1.0), (-INF, 0.0)],
    "rsqrt": [(0.0, INF), (-0.0, -INF), (INF, 0.0), (-1.0, NAN), (4.0, 0.5)],
    "sin": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN)],
    "cos": [(0.0, 1.0), (-INF, NAN)],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EDGES)
def test_values_at_the_edges(name: str, dtype: str) -> None:
    x, want = (np.array(c).astype(dtype) for c in zip(*EDGES[name], (NAN, NAN), strict=True))
    for target in targets():
        got = values(name, x, target=target)
        np.testing.assert_array_equal(got, want, err_msg=target.mcpu)
        number = ~np.isnan(want)
        np.testing.assert_array_equal(
            np.signbit(got)[number], np.signbit(want)[number], err_msg=target.mcpu
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["exp", "tanh", "log", "erf", "sigmoid", "rsqrt"])
def test_narrow_floats_agree_with_the_interpreter(name: str, dtype: str) -> None:
    from gputune.ir import dtypes

    with np.errstate(all="ignore"):
        a = np.concatenate([specials("float32"), np.linspace(-9, 9, 119, dtype=np.float32)])
        a = a.astype(dtypes.numpy_dtype(dtype))
    text = f"""
@T.prim_func
def main(A: T.Buffer(({len(a)},), "{dtype}"), Z: T.Buffer(({len(a)},), "{dtype}")):
    for i in T.vectorized({len(a)}):
        with T.block("Z"):
            v = T.axis.spatial({len(a)}, i)
            Z[v] = T.{name}(A[v])
"""
    f = parse(text)
    want = interpreted(f, [a, np.zeros_like(a)])[1].astype(np.float64)
    eps = 2.0**-10 if dtype == "float16" else 2.0**-7
    for target in targets():
        got = compiled(f, [a, np.zeros_like(a)], target)[1].astype(np.float64)
        np.testing.assert_allclose(got, want, rtol=eps, atol=1e-7, err_msg=target.mcpu)


def test_no_call_is_left() -> None:
    """A vector function is no loop over a library function."""
    for name, dtype in CASES:
        made, _ = kernel(name, dtype, 64 // np.dtype(dtype).itemsize, host())
        called = {line for line in made.asm().splitlines() if "call" in line.split()[:1]}
        assert name in ("sin", "cos") or not called, (name, dtype, called)


def test_code_for_aarch64(monkeypatch: pytest.MonkeyPatch) -> None:
    from gputune.codegen.llvm import kernel as kernels

    try:
        jit.binding().initialize_all_targets()
        jit.binding().initialize_all_asmprinters()
        jit.binding().Target.from_triple("aarch64-unknown-linux-gnu")
    except RuntimeError as e:
        pytest.skip(f"this LLVM has no aarch64: {e}")
    monkeypatch.setattr(jit, "host_triple", lambda: "aarch64-unknown-linux-gnu")
    target = FakeTarget("cortex-a72", "+neon,+v8a", 16, 32)
    for name, dtype in CASES:
        args = "A[i], A[i]" if name == "pow" else "A[i]"
        f = parse(f"""
@T.prim_func
def main(A: T.Buffer((12,), "{dtype}"), Z: T.Buffer((12,), "{dtype}")):
    for i in T.vectorized(12):
        Z[i] = T.{name}({args})
""")
        limits = CpuLimits.of(target)
        ir = kernels.generate(lower(f, limits), limits, target.mcpu, target.mattr, "main")
        text = jit.emit_assembly(ir, target.mcpu, target.mattr)
        assert "fmla" in text or "fmls" in text or "fmadd" in text or name == "rsqrt", name
        assert name in ("sin", "cos") or "\tbl\t" not in text.replace("bl\tmain", ""), name


def test_constants_are_what_the_script_computes() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "ci" / "math_coefficients.py"), "--check"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_far_angle_is_the_library_s() -> None:
    x = np.array([1e6, -3e7, 1e30, 0.5, -2.0, 3.4e38], np.float32)
    for target in targets():
        got = values("sin", x, target=target, lanes=4)
        np.testing.assert_allclose(got, np.sin(x.astype(np.float64)), rtol=2e-7)
