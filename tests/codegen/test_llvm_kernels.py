"""Does machine code compute what the program says? Kernels against NumPy and the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from llvm_programs import (
    ARGMAX,
    CONV2D,
    CONV2D_INLINED,
    POOL,
    SOFTMAX,
    TRANSPOSED_CONV,
    elementwise,
    guarded_matmul,
    tiled_matmul,
)
from llvm_running import check, compiled, host, parse

from gputune.codegen.llvm import compile
from gputune.ir import dtypes

Array = np.ndarray[Any, Any]


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def floats(*shape: int) -> Array:
    """Small whole numbers, so that sums are exact in any order."""
    return rng().integers(-4, 5, shape).astype(np.float32)


def unset(*shape: int) -> Array:
    return np.full(shape, np.nan, np.float32)


def test_plain_matmul() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((7, 5), "float32"), B: T.Buffer((5, 9), "float32"), C: T.Buffer((7, 9), "float32")):
    for i, j, k in T.grid(7, 9, 5):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.float32(0)
            C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]
"""  # noqa: E501
    a, b = floats(7, 5), floats(5, 9)
    out = check(text, [a, b, unset(7, 9)])
    np.testing.assert_array_equal(out[2], a @ b)


@pytest.mark.parametrize(
    ("i", "j", "k"),
    [
        ([2, 1, 2, 4], [1, 1, 1, 16], [1, 16]),
        ([1, 2, 4, 2], [2, 1, 2, 4], [8, 2]),
        ([4, 1, 4, 1], [4, 1, 4, 1], [16, 1]),
        ([1, 1, 1, 16], [1, 1, 1, 16], [1, 16]),
    ],
)
def test_scheduled_matmul(i: list[int], j: list[int], k: list[int]) -> None:
    a, b = floats(16, 16), floats(16, 16)
    out = check(tiled_matmul(16, i, j, k), [a, b, unset(16, 16)])
    np.testing.assert_array_equal(out[2], a @ b)


@pytest.mark.parametrize("tiles", [(4, 16, 4), (3, 8, 2), (5, 20, 5), (1, 3, 8)])
def test_tiles_that_do_not_divide(tiles: tuple[int, int, int]) -> None:
    a, b = floats(10, 7), floats(7, 21)
    out = check(guarded_matmul(10, 21, 7, *tiles), [a, b, unset(10, 21)], passes=tiles[0] == 4)
    np.testing.assert_array_equal(out[2], a @ b)


def test_large_tiled_matmul_has_exact_sums() -> None:
    a, b = floats(128, 128), floats(128, 128)
    f = parse(tiled_matmul(128, [4, 1, 8, 4], [1, 2, 1, 64], [2, 64]))
    out = compiled(f, [a, b, unset(128, 128)])
    np.testing.assert_array_equal(out[2], a @ b)


def test_conv2d_with_padding() -> None:
    x, w = floats(1, 6, 7, 3), floats(3, 3, 3, 8)
    out = check(CONV2D, [x, w, unset(1, 6, 7, 8)])
    p = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = sum(
        np.einsum("nhwc,co->nhwo", p[:, r : r + 6, s : s + 7], w[r, s])
        for r in range(3) for s in range(3)
    )  # fmt: skip
    np.testing.assert_array_equal(out[2], want)


def test_conv2d_with_inlined_padding_never_reads_outside() -> None:
    out = check(CONV2D_INLINED, [floats(6, 21), floats(3, 3), unset(6, 21)])
    assert np.isfinite(out[2]).all()


def test_softmax() -> None:
    x = rng().standard_normal((5, 37)).astype(np.float32)
    out = check(SOFTMAX, [x, unset(5, 37)], rtol=1e-6)
    e = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(out[1], e / e.sum(1, keepdims=True), rtol=1e-5)


def test_argmax_keeps_two_results_together() -> None:
    x = rng().permutation(7 * 19).reshape(7, 19).astype(np.float32)
    out = check(ARGMAX, [x, unset(7), np.zeros(7, np.int32)])
    np.testing.assert_array_equal(out[2], x.argmax(1))


def test_pooling() -> None:
    out = check(POOL, [floats(2, 9, 11), unset(2, 4, 5)])
    assert np.isfinite(out[1]).all()


def test_transposed_convolution() -> None:
    check(TRANSPOSED_CONV, [floats(5, 6), floats(4, 3), unset(12, 3)])


# ----------------------------------------------------------------------------- dtypes
def _values(dtype: str, n: int) -> Array:
    if dtypes.is_float(dtype):
        return (rng().integers(-8, 9, n) / 2).astype(dtypes.numpy_dtype(dtype))
    if dtype == "bool":
        return rng().integers(0, 2, n).astype(bool)
    kind = np.iinfo(dtypes.numpy_dtype(dtype))
    return rng().integers(kind.min, int(kind.max), n, dtype=dtypes.numpy_dtype(dtype))


FLOATS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3", "float8_e5m2"]
INTS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.mark.parametrize("dtype", FLOATS)
def test_float_arithmetic_rounds_in_its_dtype(dtype: str) -> None:
    n = 39
    text = elementwise(dtype, n, f"(A[v] + B[v]) * A[v] - B[v] / T.{_script(dtype)}(3)")
    # a multiply and an add may be fused: one rounding instead of two
    rtol = {"float64": 1e-14, "float32": 1e-6}.get(dtype, 0.0)
    kind = dtypes.numpy_dtype(dtype)
    check(text, [_values(dtype, n), _values(dtype, n), np.zeros(n, kind)], rtol=rtol)


def _script(dtype: str) -> str:
    return {"float8_e4m3": "float8_e4m3", "float8_e5m2": "float8_e5m2"}.get(dtype, dtype)


@pytest.mark.parametrize("dtype", INTS)
def test_int_arithmetic_wraps(dtype: str) -> None:
    n = 39
    text = elementwise(dtype, n, "(A[v] + B[v]) * A[v] - (B[v] ^ A[v]) + T.max(A[v], B[v])")
    kind = dtypes.numpy_dtype(dtype)
    check(text, [_values(dtype, n), _values(dtype, n), np.zeros(n, kind)])


@pytest.mark.parametrize("dtype", INTS)
@pytest.mark.parametrize("op", ["//", "%", "truncdiv", "truncmod"])
def test_division_of_any_sign(dtype: str, op: str) -> None:
    n = 39
    b = _values(dtype, n)
    b[b == 0] = 3
    b[::3] = np.iinfo(b.dtype).min or 1
    b[1::5] = -1 if np.issubdtype(b.dtype, np.signedinteger) else 7
    a = _values(dtype, n)
    a[::4] = np.iinfo(a.dtype).min
    expr = f"A[v] {op} B[v]" if op in "//%" else f"T.{op}(A[v], B[v])"
    check(elementwise(dtype, n, expr), [a, b, np.zeros_like(a)], passes=False)


@pytest.mark.parametrize("src", [*FLOATS, "int8", "int32", "uint8", "uint32", "int64", "bool"])
@pytest.mark.parametrize("dst", [*FLOATS, "int8", "int32", "uint8", "uint64", "bool"])
def test_conversions(src: str, dst: str) -> None:
    n = 21
    a = _values(src, n)
    if dtypes.is_int(src) and dtypes.is_float(dst):
        a = (a.astype(np.int64) % 97).astype(a.dtype)
    text = elementwise(src, n, f'T.Cast("{dst}", A[v])', dst)
    f = parse(text)
    out = np.zeros(n, dtypes.numpy_dtype(dst))
    check(f, [a, a, out], rtol=0.0, passes=False)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3", "float8_e5m2"])
def test_every_narrow_float_goes_in_and_out(dtype: str) -> None:
    kind = dtypes.numpy_dtype(dtype)
    bits = dtypes.bits(dtype)
    codes = np.arange(1 << bits, dtype=np.uint16 if bits == 16 else np.uint8)
    a = codes.view(kind)
    text = elementwise(dtype, len(a), 'T.Cast("float32", A[v])', "float32")
    for target in _machines():
        wide = compiled(parse(text), [a, a, np.zeros(len(a), np.float32)], target)[2]
        np.testing.assert_array_equal(wide, a.astype(np.float32))
        back = elementwise("float32", len(a), f'T.Cast("{dtype}", A[v])', dtype)
        got = compiled(parse(back), [wide, wide, np.zeros(len(a), kind)], target)[2]
        np.testing.assert_array_equal(got.astype(np.float32), a.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3", "float8_e5m2"])
@pytest.mark.parametrize("src", ["float32", "float64"])
def test_rounding_to_narrow_floats(dtype: str, src: str) -> None:
    kind = dtypes.numpy_dtype(dtype)
    bits = rng().integers(0, 1 << 32, 4000, dtype=np.uint32)
    with np.errstate(invalid="ignore"):
        some = bits.view(np.float32).astype(np.float64)
    near = (rng().standard_normal(4000) * 10.0 ** rng().uniform(-9, 6, 4000)).astype(np.float64)
    codes = np.arange(0, 1 << dtypes.bits(dtype), 7).astype(
        np.uint16 if dtypes.bits(dtype) == 16 else np.uint8
    )
    with np.errstate(invalid="ignore"):
        exact = codes.view(kind).astype(np.float64)
    exact = np.sort(exact[np.isfinite(exact)])
    ties = (exact[1:] + exact[:-1]) / 2
    a = np.concatenate([some, near, ties, ties * (1 + 1e-15)]).astype(src)
    a = a[np.isfinite(a)]
    text = elementwise(src, len(a), f'T.Cast("{dtype}", A[v])', dtype)
    with np.errstate(over="ignore"):
        want = a.astype(kind).astype(np.float64)
    for target in _machines():
        got = compiled(parse(text), [a, a, np.zeros(len(a), kind)], target)[2]
        np.testing.assert_array_equal(got.astype(np.float64), want)


def _machines() -> list[Any]:
    from llvm_running import targets

    return targets()


def test_bool_in_memory_is_one_byte() -> None:
    a = np.array([True, False, True, True, False] * 5)
    b = np.array([True, True, False, True, False] * 5)
    text = elementwise("bool", 25, "A[v] and not B[v] or (A[v] == B[v])")
    out = check(text, [a, b, np.zeros(25, bool)])
    np.testing.assert_array_equal(out[2], (a & ~b) | (a == b))


# ----------------------------------------------------------------------------- math
MATH = {
    "exp": (-110, 95), "exp2": (-152, 130), "exp10": (-46, 40), "tanh": (-12, 12),
    "sigmoid": (-86, 100), "erf": (-5, 5), "log": (1e-30, 1e30), "sqrt": (0, 1e9),
    "rsqrt": (1e-9, 1e9), "sin": (-9, 9), "cos": (-9, 9), "floor": (-9, 9), "ceil": (-9, 9),
    "round": (-9, 9), "nearbyint": (-9, 9), "trunc": (-9, 9), "abs": (-9, 9), "log2": (1e-9, 1e9),
    "log10": (1e-9, 1e9), "log1p": (-0.9, 9), "tan": (-1, 1), "sinh": (-9, 9), "cosh": (-9, 9),
    "asin": (-1, 1), "acos": (-1, 1), "atan": (-9, 9),
}  # fmt: skip


@pytest.mark.parametrize("name", MATH)
def test_math_functions(name: str) -> None:
    import math

    lo, hi = MATH[name]
    a = np.concatenate([
        rng().uniform(lo, hi, 1500), rng().uniform(max(lo, -1), min(hi, 1), 1500),
        np.array([lo, hi, 0.5, 1.0, 1.5, 2.5]),
    ]).astype(np.float32)  # fmt: skip
    if lo > 0:
        a = np.concatenate([a, np.exp(rng().uniform(-60, 60, 1000)).astype(np.float32)])
    a = a[(a >= lo) & (a <= hi)]
    exact: Any = {
        "exp": np.exp, "exp2": np.exp2, "exp10": lambda x: 10.0**x, "tanh": np.tanh,
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "erf": np.vectorize(math.erf),
        "rsqrt": lambda x: 1 / np.sqrt(x), 
        "round": lambda x: np.copysign(np.floor(abs(x) + 0.5), x),
        "nearbyint": np.rint, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan,
    }.get(name) or getattr(np, name)  # fmt: skip
    with np.errstate(over="ignore", under="ignore"):
        want = exact(a.astype(np.float64)).astype(np.float32)
    text = elementwise("float32", len(a), f"T.{name}(A[v])")
    got = compiled(parse(text), [a, a, np.zeros_like(a)])[2]
    ulp = np.abs(_ordered(got) - _ordered(want))
    assert ulp.max() <= 2, (a[ulp.argmax()], got[ulp.argmax()], want[ulp.argmax()])


def _ordered(x: Array) -> Array:
    """Floats as integers such that neighbours differ by one."""
    bits = x.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


@pytest.mark.parametrize("name", ["exp", "exp2", "tanh", "sigmoid", "erf", "log", "exp10"])
def test_math_functions_at_the_edges(name: str) -> None:
    a = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38] * 2, np.float32)
    text = elementwise("float32", len(a), f"T.{name}(A[v])")
    check(text, [a, a, np.zeros_like(a)], rtol=1e-6, passes=False)


@pytest.mark.parametrize("name", ["isnan", "isinf", "isfinite"])
def test_classification(name: str) -> None:
    a = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0, -3e38, 1e-45] * 3, np.float32)
    check(elementwise("float32", len(a), f"T.{name}(A[v])", "bool"), [a, a, np.zeros(len(a), bool)])


# ----------------------------------------------------------------------------- odd corners
def test_symbolic_shapes_are_passed_in_slots() -> None:
    text = """
@T.prim_func
def main(a: T.handle, b: T.handle):
    n = T.int32()
    m = T.int64()
    A = T.match_buffer(a, (n, m), "float32")
    B = T.match_buffer(b, (n,), "float32")
    for i, k in T.grid(n, m):
        with T.block("B"):
            vi = T.axis.spatial(n, i)
            vk = T.axis.reduce(m, k)
            with T.init():
                B[vi] = T.float32(0)
            B[vi] = B[vi] + A[vi, vk]
"""
    f = parse(text)
    for n, m in ((3, 5), (1, 1), (6, 0), (0, 4)):
        a = floats(n, m)
        out = compiled(f, [a, unset(n)], shapes=(n, m))
        if m:
            np.testing.assert_array_equal(out[1], a.sum(1))


def test_strided_parameters() -> None:
    text = """
@T.prim_func
def main(a: T.handle, b: T.handle):
    A = T.match_buffer(a, (4, 6), "float32", strides=[1, 4])
    B = T.match_buffer(b, (4, 6), "float32")
    for i in range(4):
        for j in T.vectorized(6):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[vi, vj] + T.float32(1)
"""
    a = floats(6, 4)
    out = compiled(parse(text), [a, unset(4, 6)])
    np.testing.assert_array_equal(out[1], a.T + 1)


def test_gather_and_data_dependent_branches() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((10,), "float32"), I: T.Buffer((23,), "int32"), Z: T.Buffer((23,), "float32")):
    for i in T.vectorized(23):
        with T.block("Z"):
            v = T.axis.spatial(23, i)
            Z[v] = T.if_then_else(I[v] >= 0 and I[v] < 10, A[I[v]], T.float32(-1))
"""
    i = rng().integers(-5, 15, 23).astype(np.int32)
    i[3] = 2**31 - 1
    check(text, [floats(10), i, unset(23)])


def test_an_index_that_is_read_itself_is_read_where_the_choice_wants_it() -> None:
    """Named for a bug: the address of what a choice does not want was computed all the same, from
    an element in front of the array of indices."""
    text = """
@T.prim_func
def main(A: T.Buffer((8,), "float32"), I: T.Buffer((8,), "int32"), Z: T.Buffer((8,), "float32")):
    for i in range(8):
        with T.block("Z"):
            v = T.axis.spatial(8, i)
            Z[v] = T.float32(1) + T.if_then_else(1 <= v, A[I[v - 1]], T.float32(0))
"""
    check(text, [floats(8), np.arange(8, dtype=np.int32)[::-1].copy(), unset(8)])
    assert "select i1" not in compile(parse(text), host()).ir


def test_strided_and_reversed_vectors() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((64,), "float32"), Z: T.Buffer((21, 2), "float32")):
    for i in T.vectorized(21):
        with T.block("Z"):
            v = T.axis.spatial(21, i)
            Z[v, 0] = A[v * 3] + A[63 - v]
            Z[v, 1] = A[7]
"""
    check(text, [floats(64), unset(21, 2)])


def test_fused_loops_stay_contiguous() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((7, 10), "float32"), Z: T.Buffer((7, 10), "float32")):
    for f_0 in T.parallel(5):
        for f_1 in T.vectorized(16):
            with T.block("Z"):
                vi = T.axis.spatial(7, (f_0 * 16 + f_1) // 10)
                vj = T.axis.spatial(10, (f_0 * 16 + f_1) % 10)
                T.where(f_0 * 16 + f_1 < 70)
                Z[vi, vj] = A[vi, vj] * T.float32(2)
"""
    a = floats(7, 10)
    out = check(text, [a, unset(7, 10)])
    np.testing.assert_array_equal(out[1], a * 2)


def test_loop_carried_dependence_is_not_vectorized() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((33,), "float32")):
    for i in T.vectorized(32):
        A[i + 1] = A[i] + T.float32(1)
"""
    out = check(text, [floats(33)], passes=False)
    assert np.array_equal(np.diff(out[0]), np.ones(32))


def test_temporaries_above_the_stack_limit() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((300, 300), "float32"), Z: T.Buffer((300, 300), "float32")):
    T1 = T.alloc_buffer((300, 300), "float32")
    for i, j in T.grid(300, 300):
        with T.block("T1"):
            vi, vj = T.axis.remap("SS", [i, j])
            T1[vi, vj] = A[vi, vj] + T.float32(1)
    for i, j in T.grid(300, 300):
        with T.block("Z"):
            vi, vj = T.axis.remap("SS", [i, j])
            Z[vi, vj] = T1[vj, vi]
"""
    a = floats(300, 300)
    out = compiled(parse(text), [a, unset(300, 300)])
    np.testing.assert_array_equal(out[1], a.T + 1)


def test_scalar_parameters_of_every_kind() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((5,), "float32"), x: T.float32, n: T.int32, h: T.float16, b: T.bool, d: T.float64):
    for i in range(5):
        if b:
            A[i] = A[i] * x + T.Cast("float32", n) + T.Cast("float32", h) + T.Cast("float32", d)
"""  # noqa: E501
    a = floats(5)
    out = compiled(parse(text), [a, 2.0, -3, 0.5, True, 0.25])
    np.testing.assert_array_equal(out[0], a * 2 - 3 + 0.75)
    assert np.array_equal(compiled(parse(text), [a, 2.0, -3, 0.5, False, 0.25])[0], a)


def test_call_extern_reaches_the_c_library() -> None:
    text = """
@T.prim_func
def main(A: T.Buffer((5,), "float64"), Z: T.Buffer((5,), "float64")):
    for i in T.vectorized(5):
        Z[i] = T.call_extern("float64", "cbrt", A[i])
"""
    a = np.array([1.0, 8.0, 27.0, -64.0, 0.125])
    out = compiled(parse(text), [a, np.zeros(5)])
    np.testing.assert_allclose(out[1], np.cbrt(a))
