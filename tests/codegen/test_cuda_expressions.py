"""Does every operation mean in CUDA C++ what it means to the interpreter? Run on the processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_programs import needs_nvrtc

from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.codegen.cuda.program import CudaSource
from gputune.errors import BuildError
from gputune.ir import build, dtypes, interp
from gputune.ir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
    Let,
    PrimFunc,
    Stmt,
    Var,
)
from gputune.ir.ops import MATH
from gputune.ir.walk import map_stmt, replace_buffers
from gputune.script import from_source

N = 64
FLOATS = ("float32", "float64", "float16", "bfloat16")
EIGHT_BITS = ("float8_e4m3", "float8_e5m2")
INTS = ("int8", "uint8", "int16", "int32", "uint32", "int64")


def parse(text: str) -> PrimFunc:
    out = from_source(text)
    return out if isinstance(out, PrimFunc) else out["main"]


def program(dtype: str, expressions: list[str], out: str | None = None) -> PrimFunc:
    """One kernel for each expression over `a` and `b`; results in rows of C."""
    n = len(expressions)
    head = (
        f'@T.prim_func\ndef main(A: T.Buffer(({N},), "{dtype}"), B: T.Buffer(({N},), "{dtype}"), '
        f'C: T.Buffer(({n}, {N}), "{out or dtype}")):\n'
    )
    body = ""
    for k, e in enumerate(expressions):
        value = e.replace("$a", "A[v]").replace("$b", "B[v]")
        body += (
            f'    for t in T.thread_binding({N}, thread="threadIdx.x"):\n'
            f'        with T.block("x{k}"):\n            v = T.axis.spatial({N}, t)\n'
            f"            C[{k}, v] = {value}\n"
        )
    return parse(head + body)


def run(func: PrimFunc, *arrays: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The last array, as the CUDA text leaves it on the processor."""
    source = generate(func)
    values = dict(zip([p.name for p in source.host.params], arrays, strict=True))
    report = host_run(host_compile(source), values)
    assert not report.findings, source.text
    return report.outputs[source.host.params[-1].name]


def check(func: PrimFunc, *arrays: np.ndarray[Any, Any], rtol: float) -> None:
    want = [a.copy() for a in arrays]
    with np.errstate(all="ignore"):
        interp.run(func, *want)
    got = run(func, *arrays)
    if rtol == 0 and got.dtype.itemsize < 4:  # (NumPy does not know every NaN)
        np.testing.assert_array_equal(got.astype(np.float64), want[-1].astype(np.float64))
    elif rtol == 0:
        np.testing.assert_array_equal(got, want[-1])
    else:
        np.testing.assert_allclose(
            got.astype(np.float64), want[-1].astype(np.float64), rtol=rtol, atol=rtol
        )


def values(dtype: str, seed: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    kind = dtypes.numpy_dtype(dtype)
    if dtypes.is_float(dtype):
        return (rng.integers(-24, 25, N) / 8).astype(kind)
    low, high = int(dtypes.min_value(dtype)), int(dtypes.max_value(dtype))
    wide = rng.integers(low, high, N, endpoint=True, dtype=np.int64 if low < 0 else np.uint64)
    small = rng.integers(max(low, -9), 10, N)
    return np.where(rng.random(N) < 0.5, wide, small.astype(wide.dtype)).astype(kind)


def blank(n: int, dtype: str) -> np.ndarray[Any, Any]:
    return np.zeros((n, N), dtypes.numpy_dtype(dtype))


FLOAT_OPS = [
    "$a + $b", "$a - $b", "$a * $b", "$a / ($b * $b + T.{d}(1))", "T.min($a, $b)", "T.max($a, $b)",
    "-$a", "T.Select($a < $b, $a, $b)", "T.if_then_else($a >= $b, $a + $b, $a - $b)",
    "$a - ($b - $a)", "($a + $b) * ($a - $b)", "T.{d}(0.1) * $a",
    "T.cast(T.cast($a, 'int32'), '{d}')",
]  # fmt: skip
INT_OPS = [
    "$a + $b", "$a - $b", "$a * $b", "$a // T.max($b, T.{d}(3))", "$a % T.max($b, T.{d}(3))",
    "T.min($a, $b)", "T.max($a, $b)", "$a & $b", "$a | $b", "$a ^ $b", "$a >> T.{d}(2)",
    "$a << T.{d}(2)", "$a + $b * $a - $b", "$a - ($b - $a)", "($a | $b) & ($a ^ $b)",
]  # fmt: skip
SIGNED_OPS = [
    "-$a", "$a // T.min($b, T.{d}(-3))", "$a % T.min($b, T.{d}(-3))",
    "T.truncdiv($a, T.{d}(7))", "T.truncmod($a, T.{d}(-7))",
]  # fmt: skip


@pytest.mark.parametrize("dtype", [*FLOATS, *EIGHT_BITS])
def test_float_arithmetic(dtype: str) -> None:
    expressions = [e.replace("{d}", dtype) for e in FLOAT_OPS]
    func = program(dtype, expressions)
    # contraction of products and sums may differ in the last place of the wide types
    rtol = {"float64": 1e-15, "float32": 1e-6}.get(dtype, 0)
    check(func, values(dtype, 1), values(dtype, 2), blank(len(expressions), dtype), rtol=rtol)


@pytest.mark.parametrize("dtype", INTS)
def test_integer_arithmetic_wraps(dtype: str) -> None:
    ops = INT_OPS + ([] if dtypes.is_unsigned(dtype) else SIGNED_OPS)
    expressions = [e.replace("{d}", dtype) for e in ops]
    func = program(dtype, expressions)
    check(func, values(dtype, 3), values(dtype, 4), blank(len(expressions), dtype), rtol=0)


@pytest.mark.parametrize("dtype", [*FLOATS, *EIGHT_BITS, "int32", "uint8", "int8"])
def test_comparisons(dtype: str) -> None:
    expressions = [f"$a {op} $b" for op in ("<", "<=", ">", ">=", "==", "!=")]
    expressions += ["T.And($a < $b, $b < T.{d}(3))".replace("{d}", dtype)]
    expressions += ["T.Or($a < $b, T.Not($b < T.{d}(3)))".replace("{d}", dtype)]
    func = program(dtype, expressions, "bool")
    check(func, values(dtype, 5), values(dtype, 6), blank(len(expressions), "bool"), rtol=0)


ULP = {"float16": 2e-3, "bfloat16": 8e-3, "float8_e4m3": 0.13, "float8_e5m2": 0.26}
"""Of narrow floats, a last place: where a function lies near the middle of two."""


@pytest.mark.parametrize("dtype", [*FLOATS, *EIGHT_BITS])
def test_functions(dtype: str) -> None:
    expressions = []
    for name, op in MATH.items():
        if op.to_bool or name == "popcount":
            continue
        x = "$a"
        if name in ("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "pow"):
            x = f"(T.abs($a) + T.{dtype}(0.25))"
        elif name in ("asin", "acos"):
            x = f"($a / T.{dtype}(4))"
        expressions.append(f"T.{name}({x})" if op.arity == 1 else f"T.{name}({x}, $b)")
    a, b = values(dtype, 7), values(dtype, 8)
    b[b == 0] = 1
    func = program(dtype, expressions)
    rtol = {"float64": 1e-13, "float32": 1e-5, **ULP}[dtype]
    check(func, a, b, blank(len(expressions), dtype), rtol=rtol)


def test_functions_to_bool_and_bits() -> None:
    func = program("float32", ["T.isnan($a)", "T.isinf($a)", "T.isfinite($a)"], "bool")
    a = values("float32", 9)
    a[:4] = np.nan, np.inf, -np.inf, -0.0
    check(func, a, a.copy(), blank(3, "bool"), rtol=0)
    for dtype in ("int32", "uint8", "int64"):
        func = program(dtype, ["T.popcount($a)", "T.abs($a)"])
        check(func, values(dtype, 10), values(dtype, 11), blank(2, dtype), rtol=0)


ALL = (*FLOATS, *EIGHT_BITS, *INTS, "uint16", "uint64", "bool")


@pytest.mark.parametrize("src", ALL)
def test_casts(src: str) -> None:
    """From a dtype to each: of numbers that it can hold, rounded; integers wrap around."""
    outs = ", ".join(f'C{k}: T.Buffer(({N},), "{d}")' for k, d in enumerate(ALL))
    text = (
        f'@T.prim_func\ndef main(A: T.Buffer(({N},), "{src}"), B: T.Buffer(({N},), "{src}"), '
        f"{outs}):\n"
    )
    for k, dst in enumerate(ALL):
        small = dtypes.is_int(src) and dtypes.is_float(dst)
        value = "B[v]" if small else "A[v]"
        if dtypes.is_float(src) and dtypes.is_unsigned(dst):
            value = f"T.abs({value})"
        text += (
            f'    for t in T.thread_binding({N}, thread="threadIdx.x"):\n'
            f'        with T.block("x{k}"):\n            v = T.axis.spatial({N}, t)\n'
            f"            C{k}[v] = T.cast({value}, '{dst}')\n"
        )
    func = parse(text)
    if src == "bool":
        a = np.random.default_rng(1).integers(0, 2, N).astype(bool)
        arrays = [a, a]
    else:
        a = values(src, 12)
        arrays = [a, a % 100 if dtypes.is_int(src) else a]
    arrays += [np.zeros(N, dtypes.numpy_dtype(d)) for d in ALL]
    want = [x.copy() for x in arrays]
    interp.run(func, *want)
    source = generate(func)
    names = [p.name for p in source.host.params]
    report = host_run(host_compile(source), dict(zip(names, arrays, strict=True)))
    assert not report.findings, source.text
    for name, w, dst in zip(names[2:], want[2:], ALL, strict=True):
        np.testing.assert_array_equal(report.outputs[name], w, err_msg=dst)


@pytest.mark.parametrize("dst", ["float16", "bfloat16", *EIGHT_BITS, "float32"])
def test_doubles_are_rounded_once(dst: str) -> None:
    """Named for a bug: rounded to float32 first, a double just above the middle of two became that
    middle, and went to the even one below."""
    rng = np.random.default_rng(5)
    narrow = rng.integers(1, 120, N).astype(np.float64)
    coarse = np.array(narrow, dtypes.numpy_dtype(dst)).astype(np.float64)
    step = 2.0 ** -np.where(dst == "bfloat16", 9, 11)
    middle = coarse * (1 + step)
    for scale in (1.0, 2.0**-6):
        a = middle * scale * (1 + rng.choice([-1, 0, 1], N) * 2.0**-40)
        check(program("float64", [f"T.cast($a, '{dst}')"], dst), a, a, blank(1, dst), rtol=0)
    a = np.array([0.0, -0.0, np.inf, -np.inf, 1e300, -1e300, 1e-300, 5e-324] * (N // 8))
    check(program("float64", [f"T.cast($a, '{dst}')"], dst), a, a, blank(1, dst), rtol=0)


def test_tf32_is_a_rounding_of_float32() -> None:
    """To 10 bits behind the point, as tensor cores take their operands: ties away from zero."""
    bits = "(T.reinterpret('int32', $a) + T.int32(4096)) & T.int32(-8192)"
    func = program("float32", [f"T.reinterpret('float32', {bits})"])
    a = np.random.default_rng(3).standard_normal(N).astype(np.float32)
    check(func, a, a, blank(1, "float32"), rtol=0)
    got = run(func, a, a, blank(1, "float32")).ravel()
    assert np.abs(got / a - 1).max() <= 2.0**-11
    assert not (got.view(np.int32) & 8191).any()


@pytest.mark.parametrize("wide", ["int32", "float32"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "float8_e4m3", "float16", "bfloat16"])
def test_products_in_a_wider_type(dtype: str, wide: str) -> None:
    func = program(dtype, [f"T.cast($a, '{wide}') * T.cast($b, '{wide}')"], wide)
    a, b = values(dtype, 21), values(dtype, 22)
    check(func, a, b, blank(1, wide), rtol=0)


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90a", "sm_120"])
@pytest.mark.parametrize("dtype", [*FLOATS, *EIGHT_BITS])
def test_all_of_it_compiles(dtype: str, arch: str) -> None:
    expressions = [e.replace("{d}", dtype) for e in FLOAT_OPS]
    for name, op in MATH.items():
        if not op.to_bool and name != "popcount":
            expressions.append(f"T.{name}($a)" if op.arity == 1 else f"T.{name}($a, $b)")
    func = program(dtype, expressions)
    assert len(compile_cuda(generate(func), arch).facts) == len(expressions)


def test_infinities_and_small_constants() -> None:
    expressions = ["$a + T.float32('inf')", "$a - T.float32('inf')", "T.float32(1e-45) + $a * $a",
                   "T.float32(3.4e38) - T.abs($a)"]  # fmt: skip
    func = program("float32", expressions)
    check(func, values("float32", 1), values("float32", 2), blank(4, "float32"), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8", "bfloat16"])
def test_vectors(dtype: str) -> None:
    """Copies of 16 bytes, with arithmetic between, and under a condition."""
    text = f"""@T.prim_func
def main(A: T.Buffer((8, 64), "{dtype}"), C: T.Buffer((8, 64), "{dtype}")):
    for b in T.thread_binding(8, thread="blockIdx.x"):
        for t in T.thread_binding(4, thread="threadIdx.x"):
            for u in T.vectorized(16):
                with T.block("x"):
                    v = T.axis.spatial(8, b)
                    w = T.axis.spatial(64, t * 16 + u)
                    C[v, w] = T.if_then_else(b < 5, A[v, w] + A[v, w], A[7 - v, w])
    """
    func = parse(text)
    source = generate(func)
    assert "gt_vec<" in source.text
    assert {p.align for p in source.host.params} == {16}
    a = np.random.default_rng(1).integers(-8, 9, (8, 64)).astype(dtypes.numpy_dtype(dtype))
    check(func, a, np.zeros_like(a), rtol=0)


def test_an_access_that_is_not_aligned_stays_scalar() -> None:
    text = """@T.prim_func
def main(A: T.Buffer((65,), "float32"), C: T.Buffer((64,), "float32")):
    for t in T.thread_binding(16, thread="threadIdx.x"):
        for u in T.vectorized(4):
            with T.block("x"):
                v = T.axis.spatial(64, t * 4 + u)
                C[v] = A[v + 1]
    """
    func = parse(text)
    source = generate(func)
    assert "C_v" in source.text
    assert "A_v" not in source.text
    a = np.arange(65, dtype=np.float32)
    check(func, a, np.zeros(64, np.float32), rtol=0)


def test_a_guarded_vector_load_is_not_made_early() -> None:
    """Named for a bug: a padded input was loaded before its condition was asked."""
    text = """@T.prim_func
def main(A: T.Buffer((64,), "float32"), C: T.Buffer((72,), "float32")):
    for t in T.thread_binding(18, thread="threadIdx.x"):
        for u in T.vectorized(4):
            with T.block("x"):
                v = T.axis.spatial(72, t * 4 + u)
                C[v] = T.if_then_else(t >= 1 and t < 17, A[v - 4], T.float32(0))
    """
    a = np.arange(64, dtype=np.float32)
    check(parse(text), a, np.full(72, np.nan, np.float32), rtol=0)


def test_scalars_are_passed_by_value() -> None:
    text = """@T.prim_func
def main(s: T.float16, n: T.int64, A: T.Buffer((32,), "float32"), C: T.Buffer((32,), "float32")):
    for t in T.thread_binding(32, thread="threadIdx.x"):
        with T.block("x"):
            v = T.axis.spatial(32, t)
            C[v] = A[v] * T.cast(s, "float32") + T.cast(n, "float32")
    """
    source = generate(parse(text))
    assert [p.elements for p in source.host.params] == [None, None, 32, 32]
    a, c = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
    names = [p.name for p in source.host.params]
    report = host_run(
        host_compile(source), dict(zip(names, (np.float16(0.5), np.int64(3), a, c), strict=True))
    )
    assert not report.findings
    np.testing.assert_array_equal(report.outputs[names[-1]], a / 2 + 3)


@pytest.mark.parametrize("dtype", ["float8_e4m3", "float8_e5m2"])
def test_eight_bit_floats(dtype: str) -> None:
    func = program(dtype, ["$a + $b", "$a * $b", "T.max($a, $b)", "$a"])
    check(func, values(dtype, 1), values(dtype, 2), blank(4, dtype), rtol=1e-9)


def test_strided_parameters_and_more_shared_memory_than_may_be_declared() -> None:
    text = """@T.prim_func
def main(a: T.handle, C: T.Buffer((32,), "float32")):
    A = T.match_buffer(a, (32,), strides=(3,), elem_offset=0)
    S = T.alloc_buffer((16384,), scope="shared")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for t in T.thread_binding(32, thread="threadIdx.x"):
            with T.block("S"):
                v = T.axis.spatial(16384, t * 512)
                S[v] = A[v // 512]
        for t in T.thread_binding(32, thread="threadIdx.x"):
            with T.block("C"):
                v = T.axis.spatial(32, t)
                C[v] = S[(31 - v) * 512]
    """
    source = generate(parse(text))
    assert source.host.params[0].elements == 31 * 3 + 1
    assert source.host.launches[0].shared_bytes > 48 * 1024
    a = np.arange(94, dtype=np.float32)
    report = host_run(host_compile(source), {"A": a, "C": None})
    assert not report.findings
    np.testing.assert_array_equal(report.outputs["C"], a[::3][::-1])


def test_indices_of_64_bits() -> None:
    text = """@T.prim_func
def main(A: T.Buffer((T.int64(8), T.int64(32)), "float32"), C: T.Buffer((T.int64(8),), "float32")):
    for b in T.thread_binding(T.int64(8), thread="blockIdx.x"):
        for k in range(T.int64(2)):
            for t in T.thread_binding(T.int64(16), thread="threadIdx.x"):
                with T.block("C"):
                    v = T.axis.spatial(T.int64(8), b)
                    w = T.axis.reduce(T.int64(32), k * T.int64(16) + t)
                    with T.init():
                        C[v] = T.float32(0)
                    C[v] = C[v] + A[v, w]
    """
    a = np.arange(256, dtype=np.float32).reshape(8, 32)
    check(parse(text), a, np.zeros(8, np.float32), rtol=0)


def test_a_loop_that_never_runs_is_a_kernel_that_does_nothing() -> None:
    text = """@T.prim_func
def main(A: T.Buffer((0,), "float32"), C: T.Buffer((4,), "float32")):
    for t in T.thread_binding(4, thread="threadIdx.x"):
        with T.block("x"):
            v = T.axis.spatial(4, t)
            C[v] = T.float32(1)
    for t in T.thread_binding(0, thread="threadIdx.x"):
        with T.block("y"):
            v = T.axis.spatial(0, t)
            C[v] = A[v]
    """
    check(parse(text), np.zeros(0, np.float32), np.zeros(4, np.float32), rtol=0)


# ----------------------------------------------------------------------------- text
def test_names_are_legal_and_unique() -> None:
    text = """@T.prim_func
def main(int_: T.Buffer((32,), "float32"), C: T.Buffer((32,), "float32")):
    W = T.alloc_buffer((32,))
    for t in T.thread_binding(32, thread="threadIdx.x"):
        with T.block("x"):
            v = T.axis.spatial(32, t)
            W[v] = int_[v]
    for t in T.thread_binding(32, thread="threadIdx.x"):
        with T.block("y"):
            v = T.axis.spatial(32, t)
            C[v] = W[v]
    """
    source = generate(parse(text))
    assert [w.name for w in source.host.workspaces] == ["W"]
    assert [x.kernel for x in source.host.launches] == ["main_0_kernel", "main_1_kernel"]
    assert "#include" not in source.text


def test_what_has_no_code_is_named() -> None:
    text = """@T.prim_func
def main(A: T.Buffer((32,), "float32")):
    for t in T.thread_binding(32, thread="threadIdx.x"):
        with T.block("x"):
            v = T.axis.spatial(32, t)
            A[v] = T.call_extern("float32", "sinf", A[v])
    """
    with pytest.raises(BuildError, match=r"call_extern has no code on CUDA"):
        generate(parse(text))


def test_symbolic_sizes_are_refused() -> None:
    text = """@T.prim_func
def main(a: T.handle):
    n = T.int32()
    A = T.match_buffer(a, (n,))
    for t in T.thread_binding(32, thread="threadIdx.x"):
        with T.block("x"):
            v = T.axis.spatial(32, t)
            A[v] = T.float32(0)
    """
    with pytest.raises(BuildError, match="symbolic size"):
        generate(parse(text))


def test_programs_survive_json() -> None:
    source = generate(program("float32", ["$a + $b", "$a - $b"]))
    assert type(source.host).from_json(source.host.as_json()) == source.host
    assert isinstance(source, CudaSource)


# ----------------------------------------------------------------------------- names
def test_names_that_cuda_uses_itself() -> None:
    """Named for a bug: a buffer called as a word of C++ or a function that the text calls."""
    for name in ("expf", "isnan", "and", "not", "nullptr", "decltype", "NULL", "erf"):
        func = program("float32", ["T.exp($a) + T.erf($a)"])
        (old, *_) = func.buffers
        new = Buffer(name, old.shape, old.dtype, old.scope)
        table = tuple((p, new if b is old else b) for p, b in func.buffer_map)
        body = replace_buffers(func.body, {old: new})
        assert isinstance(body, Block)
        host_compile(generate(PrimFunc(func.params, table, body, func.attrs)))


# ----------------------------------------------------------------------------- let
def test_a_let_is_written_twice_and_not_evaluated_where_it_is_not_reached() -> None:
    """Named for two bugs: the name was declared twice, and the value was loaded in front of the
    condition that keeps it in bounds."""
    func = program("float32", ["$a"])

    def go(s: Stmt) -> Stmt:
        if type(s) is BufferStore:
            load = s.value
            assert type(load) is BufferLoad
            x = Var("x", "float32")
            twice = Let(x, load, build.add(x, x))
            far = Let(x, BufferLoad(load.buffer, (build.add(load.indices[0], N),)), x)
            part = Call("if_then_else", (build.lt(load.indices[0], 0), far, twice), "float32")
            return BufferStore(s.buffer, build.add(build.add(twice, part), twice), s.indices)
        out = map_stmt(s, lambda e: e, go)
        assert out is not None
        return out

    body = go(func.body)
    assert isinstance(body, Block)
    a = values("float32", 1)
    got = run(build.replace_body(func, body), a, a, blank(1, "float32"))
    np.testing.assert_array_equal(got.ravel(), a * 6)
