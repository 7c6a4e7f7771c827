"""Do vectorized loops become wide accesses in CUDA code, and do they compute what the loops say?

The values are judged by the interpreter, the accesses by host execution (which sees bounds, races
and alignment, in three orders of the threads) and by the instructions in the cubin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cuda_programs import ARCHS, needs_nvrtc
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.cubin import read_accesses
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.codegen.cuda.program import CudaSource
from gputune.errors import LowerError
from gputune.ir import dtypes, interp
from gputune.ir.build import const_int
from gputune.ir.nodes import PrimFunc
from gputune.script import from_source

DTYPES = [
    "float64", "float32", "float16", "bfloat16", "float8_e4m3", "float8_e5m2", "int8", "uint8",
    "int16", "int32", "int64", "bool",
]  # fmt: skip


def parse(text: str) -> PrimFunc:
    out = from_source(text)
    return out if isinstance(out, PrimFunc) else out["main"]


def filled(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray[Any, Any]:
    """Small whole numbers, so that sums are exact in every dtype."""
    low = 0 if dtypes.is_unsigned(dtype) or dtype == "bool" else -4
    high = 2 if dtype == "bool" else 5
    values = np.random.default_rng(seed).integers(low, high, shape)
    return values.astype(np.float32).astype(dtypes.numpy_dtype(dtype))


def agree(func: PrimFunc, *, undefined: bool = True) -> CudaSource:
    """Host execution in three orders of the threads finds nothing and gives what the interpreter
    does. What the program writes is undefined before, if all of it is written."""
    source = generate(func)
    arrays = [
        filled(tuple([const_int(n) or 0 for n in b.shape]), b.dtype, k)
        for k, b in enumerate(func.buffers)
    ]
    want = [a.copy() for a in arrays]
    interp.run(func, *want)
    code = host_compile(source)
    values = {
        p.name: None if p.written and undefined else a
        for p, a in zip(source.host.params, arrays, strict=True)
    }
    for order in ("forward", "reverse", "random"):
        report = host_run(code, values, order=order, seed=3)
        assert report.completed, source.text
        assert not report.findings, f"{report}\n{source.text}"
        for p, w in zip(source.host.params, want, strict=True):
            if p.written:
                got = report.outputs[p.name].reshape(w.shape)
                np.testing.assert_array_equal(got, w, err_msg=source.text)
    return source


def widths(source: CudaSource, arch: str) -> dict[str, int]:
    """The accesses of the only kernel, by mnemonic and bits."""
    binary = compile_cuda(source, arch)
    (found,) = read_accesses(binary.cubin).values()
    return found


def elementwise(
    value: str,
    dtype: str,
    lanes: int,
    shape: tuple[int, int],
    reads: str = "",
    out: str = "",
    notes: str = "",
) -> str:
    """C of some shape, a row a block of the grid, `lanes` elements a thread; `value` is of v, w."""
    rows, columns = shape
    threads = -(-columns // lanes)
    where = "" if columns % lanes == 0 else f"T.where(t * {lanes} + u < {columns})"
    return f"""@T.prim_func
def main({reads}C: T.Buffer(({rows}, {columns}), "{out or dtype}")):
    for b in T.thread_binding({rows}, thread="blockIdx.x"):
        for t in T.thread_binding({threads}, thread="threadIdx.x"):
            for u in T.vectorized({lanes}):
                with T.block("x"):
                    v = T.axis.spatial({rows}, b)
                    w = T.axis.spatial({columns}, t * {lanes} + u)
                    {where or "pass"}
                    {notes or "pass"}
                    C[v, w] = {value}
""".replace("                    pass\n", "")


def two(dtype: str, shape: tuple[int, int]) -> str:
    size = f"({shape[0]}, {shape[1]})"
    return f'A: T.Buffer({size}, "{dtype}"), B: T.Buffer({size}, "{dtype}"), '


# ----------------------------------------------------------------------------- instructions
@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sixteen_bytes_are_one_instruction(dtype: str, arch: str) -> None:
    lanes = 16 // dtypes.itemsize(dtype)
    value = "A[v, w]" if dtype == "bool" else "A[v, w] + B[v, w]"
    func = parse(elementwise(value, dtype, lanes, (4, 256), two(dtype, (4, 256))))
    source = generate(func)
    loads = 1 if dtype == "bool" else 2
    assert widths(source, arch) == {"LDG.128": loads, "STG.128": 1}, source.text
    assert source.host.params[0].align == source.host.params[-1].align == 16


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("lanes", "bits"), [(2, 32), (4, 64), (8, 128), (16, 128), (6, 32)])
def test_halves_of_several_lanes(lanes: int, bits: int, arch: str) -> None:
    shape = (4, 48 * lanes)
    func = parse(elementwise("A[v, w] * B[v, w]", "float16", lanes, shape, two("float16", shape)))
    count = lanes * 16 // bits
    assert widths(generate(func), arch) == {f"LDG.{bits}": 2 * count, f"STG.{bits}": count}


THROUGH = """@T.prim_func
def main(A: T.Buffer((4, 512), "{d}"), C: T.Buffer((4, 512), "{d}")):
    S = T.alloc_buffer((4, 512), "{d}", scope="{scope}")
    L = T.alloc_buffer((4, 512), "{d}", scope="local")
    for b in T.thread_binding(4, thread="blockIdx.x"):
        for t in T.thread_binding({threads}, thread="threadIdx.x"):
            for u in T.vectorized({lanes}):
                with T.block("S"):
                    v = T.axis.spatial(4, b)
                    w = T.axis.spatial(512, t * {lanes} + u)
                    S[v, w] = A[v, w]
        for t in T.thread_binding({threads}, thread="threadIdx.x"):
            for u in T.vectorized({lanes}):
                with T.block("L"):
                    v = T.axis.spatial(4, b)
                    w = T.axis.spatial(512, ({last} - t) * {lanes} + u)
                    L[v, w] = S[v, w]
            for u in T.vectorized({lanes}):
                with T.block("C"):
                    v = T.axis.spatial(4, b)
                    w = T.axis.spatial(512, ({last} - t) * {lanes} + u)
                    C[v, w] = L[v, w]
"""


@needs_nvrtc
@pytest.mark.parametrize("scope", ["shared", "shared.dyn"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "float64"])
def test_copies_between_all_memories(dtype: str, scope: str) -> None:
    lanes = 16 // dtypes.itemsize(dtype)
    n = 512 // lanes
    text = THROUGH.format(d=dtype, lanes=lanes, threads=n, last=n - 1, scope=scope)
    source = agree(parse(text))
    for arch in ARCHS:
        once = {f"{name}.128": 1 for name in ("LDG", "STS", "LDS", "STG")}
        assert widths(source, arch) == once, source.text
    assert compile_cuda(source, "sm_80").facts["main_kernel"].stack_bytes == 0


@needs_nvrtc
@pytest.mark.parametrize(
    ("src", "dst", "lanes", "loads", "stores"),
    [
        ("int8", "float32", 16, {"LDG.128": 1}, {"STG.128": 4}),
        ("float32", "int8", 16, {"LDG.128": 4}, {"STG.128": 1}),
        ("float16", "float32", 8, {"LDG.128": 1}, {"STG.128": 2}),
        ("float64", "float8_e4m3", 8, {"LDG.128": 4}, {"STG.64": 1}),
        ("int8", "int32", 4, {"LDG.32": 1}, {"STG.128": 1}),
    ],
)  # fmt: skip
def test_casts_between_widths(
    src: str, dst: str, lanes: int, loads: dict[str, int], stores: dict[str, int]
) -> None:
    value = f'T.cast(A[v, w], "{dst}")'
    func = parse(elementwise(value, src, lanes, (4, 256), f'A: T.Buffer((4, 256), "{src}"), ', dst))
    source = agree(func)
    for arch in ARCHS:
        assert widths(source, arch) == {**loads, **stores}, source.text


# ----------------------------------------------------------------------------- what is proved
def test_what_lies_at_fewer_bytes_comes_in_smaller_words() -> None:
    reads = 'A: T.Buffer((4, 68), "float32"), '
    source = agree(parse(elementwise("A[v, w + 2]", "float32", 4, (4, 64), reads)))
    assert "= gt_load<float, 4, 8>(&A[" in source.text
    assert [p.align for p in source.host.params] == [8, 16]


def test_a_row_that_begins_anywhere_is_loaded_by_element() -> None:
    reads = 'A: T.Buffer((4, 65), "float32"), '
    source = agree(parse(elementwise("A[v, w]", "float32", 4, (4, 64), reads)))
    assert "(const gt_vec<" not in source.text
    assert "*(gt_vec<float, 4>*)&C[" in source.text
    assert [p.align for p in source.host.params] == [4, 16]


def test_groups_that_begin_at_no_multiple() -> None:
    """Named for a bug: only the first group was asked where it begins, and the second one was
    stored 8 bytes from a multiple of 16."""
    text = """@T.prim_func
def main(A: T.Buffer((16,), "float16"), C: T.Buffer((2, 100), "float16")):
    for t in T.thread_binding(1, thread="threadIdx.x"):
        for u in T.vectorized(16):
            with T.block("x"):
                w = T.axis.spatial(16, u)
                C[w // 8, w % 8] = A[w]
    """
    source = agree(parse(text), undefined=False)
    assert "gt_store<gt_half, 8, 8>(&C[" in source.text


def test_rows_behind_an_index() -> None:
    text = """@T.prim_func
def main(I: T.Buffer((16,), "int64"), A: T.Buffer((9, 64), "float16"),
         C: T.Buffer((16, 64), "float16")):
    for b in T.thread_binding(16, thread="blockIdx.x"):
        for t in T.thread_binding(8, thread="threadIdx.x"):
            for u in T.vectorized(8):
                with T.block("x"):
                    v = T.axis.spatial(16, b)
                    w = T.axis.spatial(64, t * 8 + u)
                    C[v, w] = A[I[v] + T.int64(4), w]
    """
    source = agree(parse(text))
    assert "*(const gt_vec<gt_half, 8>*)&A[" in source.text
    assert "LL" not in source.text


def test_an_element_that_other_lanes_load() -> None:
    """Each iteration has its own element, so it may load it before it stores it; another one's it
    may not."""
    text = """@T.prim_func
def main(A: T.Buffer((64,), "float32"), C: T.Buffer((68,), "float32")):
    for t in T.thread_binding(1, thread="threadIdx.x"):
        for u in T.vectorized(64):
            with T.block("x"):
                v = T.axis.spatial(64, u)
                C[{store}] = C[{load}] + A[v]
    """
    source = agree(parse(text.format(store="v", load="v")), undefined=False)
    assert "*(const gt_vec<float, 4>*)&C[" in source.text
    for at in ("v + 4", "v // 2"):
        load = "v" if at == "v + 4" else at
        source = agree(parse(text.format(store=at, load=load)), undefined=False)
        assert "*(const gt_vec<float, 4>*)&A[" in source.text
        assert "gt_vec<float, 4>*)&C[" not in source.text
        assert "*(gt_vec<" not in source.text


def test_several_statements() -> None:
    text = """@T.prim_func
def main(A: T.Buffer((64,), "float32"), C: T.Buffer((64,), "float32"),
         D: T.Buffer((64,), "float32")):
    for t in T.thread_binding(16, thread="threadIdx.x"):
        for u in T.vectorized(4):
            with T.block("x"):
                v = T.axis.spatial(64, t * 4 + u)
                C[v] = A[v] * T.float32(2)
                D[{at}] = C[{load}] + A[v]
    """
    source = agree(parse(text.format(at="v", load="v")))
    assert source.text.count("*(gt_vec<float, 4>*)") == 2
    shifted = text.format(at="v", load="T.max(v - 1, t * 4)")
    source = agree(parse(shifted))
    assert "*(gt_vec<" not in source.text


SUMS = """@T.prim_func
def main(A: T.Buffer((8, {n}), "{d}"), C: T.Buffer((8,), "{d}")):
    for t in T.thread_binding(8, thread="threadIdx.x"):
        for k in range({rounds}):
            for u in T.vectorized({lanes}):
                with T.block("x"):
                    v = T.axis.spatial(8, t)
                    w = T.axis.reduce({n}, k * {lanes} + u)
                    T.where(k * {lanes} + u < {n})
                    with T.init():
                        C[v] = T.{d}(0)
                    C[v] = C[v] + A[v, w]
"""


@needs_nvrtc
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("n", [64, 60])
def test_sums_along_vectors(dtype: str, n: int) -> None:
    """What a lane adds the next one needs, but what they add comes in one access."""
    row = n * dtypes.itemsize(dtype)
    bits = 8 * min(16, row & -row)
    lanes = 16 // dtypes.itemsize(dtype)
    source = agree(parse(SUMS.format(n=n, d=dtype, lanes=lanes, rounds=-(-n // lanes))))
    assert "*(const gt_vec<" in source.text
    for arch in ARCHS:
        assert f"LDG.{bits}" in widths(source, arch)


SELECTED = SUMS.replace("C[v] = C[v] + A[v, w]", "C[v] = T.Select(A[v, w] > C[v], A[v, w], C[v])")


@pytest.mark.parametrize("n", [64, 63])
def test_other_reductions_along_vectors(n: int) -> None:
    source = agree(parse(SELECTED.format(n=n, d="float32", lanes=4, rounds=16)))
    assert ("*(const gt_vec<float, 4>*)&A[" in source.text) == (n == 64)


def test_select_does_not_reach_beyond() -> None:
    """Named for a bug: what `Select` may leave alone was loaded before it was asked."""
    reads = 'A: T.Buffer((4, 64), "float32"), '
    value = "T.Select(v < 3, A[v + 1, w], A[v, w])"
    source = agree(parse(elementwise(value, "float32", 4, (4, 64), reads)))
    assert source.text.count("*(const gt_vec<float, 4>*)") == 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_end_of_a_row_goes_by_element(dtype: str) -> None:
    reads = f'A: T.Buffer((1, 1003), "{dtype}"), '
    source = agree(parse(elementwise("A[v, w] + A[v, w]", dtype, 8, (1, 1003), reads)))
    assert "*(const gt_vec<" in source.text
    assert "} else {" in source.text


def test_a_condition_with_one_answer_for_a_group() -> None:
    """Rows of 1002 floats begin at multiples of 8 bytes, and end with a whole pair."""
    reads = 'A: T.Buffer((3, 1002), "float32"), '
    source = agree(parse(elementwise("A[v, w]", "float32", 4, (3, 1002), reads)))
    assert "*(const gt_vec<float, 2>*)&A[" in source.text
    assert "} else {" not in source.text


def test_padding_is_asked_for_once_for_a_group() -> None:
    reads = 'A: T.Buffer((4, 62), "float32"), '
    value = "T.if_then_else(w < 62, A[v, w], T.float32(0))"
    source = agree(parse(elementwise(value, "float32", 4, (4, 64), reads)))
    assert "gt_load<float, 4, 8>" in source.text
    assert source.text.count(" ? ") == 1


VALUES = [
    "A[v, w]", "A[v, w] + B[v, w]", "A[v, w] * A[v, {n} - 1 - w]", "A[v, w // 2] + B[v, w]",
    "A[v, (w * 3) % {n}]", "B[v, w] - A[0, w]", "A[v, 0] + B[v, w]", "A[v, T.max(w - {s}, 0)]",
    "T.if_then_else(w >= {s}, A[v, w - {s}], B[v, w])",
    "T.if_then_else(w + {s} < {n}, A[v, w + {s}], T.cast(1, '{d}'))",
    "T.if_then_else(w >= {s} and w + {s} < {n}, A[v, w], B[v, w])",
    "T.Select(w + {s} < {n}, A[v, w + {s}], B[v, w])",
    "T.Select(A[v, w] < B[v, w], A[v, w], B[v, w])",
    "T.max(A[v, w], B[v, w])",
]  # fmt: skip


@settings(max_examples=25, derandomize=True, deadline=None, database=None)
@given(
    value=st.sampled_from(VALUES),
    dtype=st.sampled_from([d for d in DTYPES if d != "bool"]),
    lanes=st.sampled_from([2, 3, 4, 6, 8, 16, 32]),
    rows=st.integers(1, 3),
    columns=st.sampled_from([1, 7, 16, 30, 33, 36, 64, 100, 128]),
    shift=st.sampled_from([1, 2, 4, 8]),
)
def test_any_shape_alignment_and_dtype(
    value: str, dtype: str, lanes: int, rows: int, columns: int, shift: int
) -> None:
    value = value.replace("{n}", str(columns)).replace("{s}", str(shift)).replace("{d}", dtype)
    shape = (rows, columns)
    agree(parse(elementwise(value, dtype, lanes, shape, two(dtype, shape))))


WRITTEN_BACK = """@T.prim_func
def main(A: T.Buffer(({n}, 64), "float32"), B: T.Buffer((64, {n}), "float32"),
         D: T.Buffer(({n},), "float32"), C: T.Buffer(({n}, {n}), "float32")):
    L = T.alloc_buffer(({n}, {n}), "float32", scope="local")
    for b in T.thread_binding({n}, thread="blockIdx.x"):
        for t in T.thread_binding({threads}, thread="threadIdx.x"):
            for k, j in T.grid(64, 4):
                with T.block("L"):
                    vi = T.axis.spatial({n}, b)
                    vj = T.axis.spatial({n}, t * 4 + j)
                    vk = T.axis.reduce(64, k)
                    T.where(t * 4 + j < {n})
                    with T.init():
                        L[vi, vj] = T.float32(0)
                    L[vi, vj] = L[vi, vj] + A[vi, vk] * B[vk, vj]
            for j in range(4):
                with T.block("C"):
                    vi = T.axis.spatial({n}, b)
                    vj = T.axis.spatial({n}, t * 4 + j)
                    T.where(t * 4 + j < {n})
                    C[vi, vj] = L[vi, vj] + D[vj]
"""


@needs_nvrtc
@pytest.mark.parametrize(("n", "bits"), [(32, 128), (30, 64), (31, 32)])
def test_results_of_a_thread_are_written_back_together(n: int, bits: int) -> None:
    """Nobody marked the loop; what it reads beside them need not be aligned for that."""
    source = agree(parse(WRITTEN_BACK.format(n=n, threads=-(-n // 4))))
    assert [p.align for p in source.host.params] == [4, 4, 4, bits // 8]
    for arch in ARCHS:
        assert f"STG.{bits}" in widths(source, arch)


VIRTUAL = """@T.prim_func
def main(A: T.Buffer((8, 16), "float32"), B: T.Buffer((16, 64), "float32"),
         C: T.Buffer((8, 64), "float32")):
    L = T.alloc_buffer((8, 64), "float32", scope="local")
    for b in T.thread_binding(8, thread="blockIdx.x"):
        for y in T.thread_binding(2, thread="vthread.x"):
            for t in T.thread_binding(8, thread="threadIdx.x"):
                for k, j in T.grid(16, 4):
                    with T.block("L"):
                        vi = T.axis.spatial(8, b)
                        vj = T.axis.spatial(64, y * 32 + t * 4 + j)
                        vk = T.axis.reduce(16, k)
                        with T.init():
                            L[vi, vj] = T.float32(0)
                        L[vi, vj] = L[vi, vj] + A[vi, vk] * B[vk, vj]
                for j in range(4):
                    with T.block("C"):
                        vi = T.axis.spatial(8, b)
                        vj = T.axis.spatial(64, y * 32 + t * 4 + j)
                        C[vi, vj] = L[vi, vj]
"""


@needs_nvrtc
def test_results_of_virtual_threads_are_written_back_together() -> None:
    """Virtual threads take turns innermost; the elements of each are neighbours."""
    source = agree(parse(VIRTUAL))
    for arch in ARCHS:
        found = widths(source, arch)
        assert {k: n for k, n in found.items() if k.startswith("STG")} == {"STG.128": 2}


def test_arguments_that_may_lie_in_the_same_memory() -> None:
    """What one iteration stores, the next one may load."""
    reads = 'A: T.Buffer((4, 64), "float32"), '
    func = parse(elementwise("A[v, w]", "float32", 4, (4, 64), reads))
    assert "gt_vec<" in generate(func).text
    source = agree(func.with_attr("tir.noalias", False))
    assert "gt_vec<" not in source.text


# ----------------------------------------------------------------------------- caches
HINTED = """T.block_attr({{"load_hint": "{load}", "store_hint": "streaming"}})"""


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "float64"])
@pytest.mark.parametrize("load", ["streaming", "read_only", "no_allocate"])
@pytest.mark.parametrize("whole", [True, False])
def test_hints_for_caches(load: str, dtype: str, whole: bool) -> None:
    lanes = 16 // dtypes.itemsize(dtype)
    shape = (4, 16 * lanes) if whole else (4, 16 * lanes - 1)
    value = "T.max(A[v, w], B[v, w])"
    text = elementwise(value, dtype, lanes, shape, two(dtype, shape), "", HINTED.format(load=load))
    source = agree(parse(text))
    assert source.text.count(f"gt_load_{load}") >= 2
    assert "gt_store_streaming<" in source.text
    assert f"gt_load_{load}<" in source.text or not whole


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("load", ["streaming", "read_only", "no_allocate"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "float64"])
def test_hints_keep_accesses_wide(dtype: str, load: str, arch: str) -> None:
    lanes, shape = 16 // dtypes.itemsize(dtype), (4, 256)
    value = "A[v, w] + B[v, w]"
    text = elementwise(value, dtype, lanes, shape, two(dtype, shape), "", HINTED.format(load=load))
    plain = elementwise(value, dtype, lanes, shape, two(dtype, shape))
    source, other = generate(parse(text)), generate(parse(plain))
    assert widths(source, arch) == {"LDG.128": 2, "STG.128": 1}
    assert compile_cuda(source, arch).cubin != compile_cuda(other, arch).cubin


def test_memory_that_changes_is_not_read_as_constant() -> None:
    text = """@T.prim_func
def main(A: T.Buffer((64,), "float32")):
    for t in T.thread_binding(64, thread="threadIdx.x"):
        with T.block("x"):
            v = T.axis.spatial(64, t)
            T.block_attr({"load_hint": "HINT"})
            A[v] = A[v] + T.float32(1)
    """
    for hint in ("read_only", "no_allocate"):
        with pytest.raises(LowerError, match=r"block x: load_hint .* the kernel writes it") as e:
            generate(parse(text.replace("HINT", hint)))
        assert e.value.code == "cache-hint"
    assert "gt_load_streaming(&A[" in generate(parse(text.replace("HINT", "streaming"))).text


# ----------------------------------------------------------------------------- indices, launches
def test_indices_have_the_bits_that_they_need() -> None:
    text = """@T.prim_func
def main(A: T.Buffer((T.int64({n}), T.int64(65536)), "int8"),
         C: T.Buffer((T.int64({n}), T.int64(65536)), "int8")):
    for b in T.thread_binding(T.int64({n}), thread="blockIdx.x"):
        for k in range(T.int64(256)):
            for t in T.thread_binding(T.int64(256), thread="threadIdx.x"):
                with T.block("x"):
                    v = T.axis.spatial(T.int64({n}), b)
                    w = T.axis.spatial(T.int64(65536), k * T.int64(256) + t)
                    T.where(k * T.int64(256) + t < T.int64(65000))
                    C[v, w] = A[v, w]
    """
    small = generate(parse(text.replace("{n}", "32767"))).text
    assert "long long" not in small
    assert "LL" not in small
    large = generate(parse(text.replace("{n}", "32769"))).text
    assert "(long long)block_x * 65536LL" in large
    assert "for (int k = 0" in large
    assert "* 256 + thread_x < 65000" in large


def test_a_part_of_an_index_that_needs_more_bits() -> None:
    """A loop of 2^32 steps over 64-bit numbers, of which 32-bit ones are left in the end."""
    text = """@T.prim_func
def main(C: T.Buffer((T.int64(1000),), "int32")):
    for b in T.thread_binding(T.int64(4), thread="blockIdx.x"):
        for k in range(T.int64(1073741824)):
            with T.block("x"):
                w = T.axis.opaque(T.int64(4294967296), b * T.int64(1073741824) + k)
                T.where(b * T.int64(1073741824) + k < T.int64(4294967290))
                C[w // T.int64(7) % T.int64(1000)] = 1
    """
    source = generate(parse(text)).text
    assert "(long long)block_x * 1073741824LL" in source
    assert "< 4294967290LL" in source


TURNS = """@T.prim_func
def main(A: T.Buffer((70001, 2), "int32"), C: T.Buffer((70001, 2), "int32")):
    S = T.alloc_buffer((70001, 2), "int32", scope="shared")
    for b in T.thread_binding(70001, thread="blockIdx.y"):
        for t in T.thread_binding(2, thread="threadIdx.x"):
            with T.block("S"):
                v = T.axis.spatial(70001, b)
                w = T.axis.spatial(2, t)
                S[v, w] = A[v, w]
        for t in T.thread_binding(2, thread="threadIdx.x"):
            with T.block("C"):
                v = T.axis.spatial(70001, b)
                w = T.axis.spatial(2, t)
                C[v, w] = S[v, 1 - w]
"""


def test_a_grid_that_cannot_be_so_long() -> None:
    """Its blocks take several steps each, with barriers between them."""
    source = generate(parse(TURNS))
    assert source.host.launches[0].grid == (1, 35001, 1)
    assert source.text.count("__syncthreads();") == 2
    a = filled((70001, 2), "int32", 1)
    code = host_compile(source)
    for order in ("forward", "random"):
        report = host_run(code, {"A": a, "C": None}, order=order, seed=1)
        assert not report.findings, f"{report}\n{source.text}"
        np.testing.assert_array_equal(report.outputs["C"].reshape(a.shape), a[:, ::-1])


def test_a_grid_of_more_than_32_bits() -> None:
    text = """@T.prim_func
def main(C: T.Buffer((T.int64(6000000000),), "int8")):
    for b in T.thread_binding(T.int64(6000000000), thread="blockIdx.x"):
        with T.block("x"):
            v = T.axis.spatial(T.int64(6000000000), b)
            C[v] = T.int8(1)
    """
    source = generate(parse(text))
    assert source.host.launches[0].grid == (2000000000, 1, 1)
    assert "for (int b_turn = 0; b_turn < 3; ++b_turn) {" in source.text
    assert "(long long)b_turn * 2000000000LL" in source.text


@needs_nvrtc
def test_fewest_blocks_of_a_multiprocessor() -> None:
    terms = " + ".join(f"T.exp(A[v, {k}] * T.float32({k + 1}))" for k in range(40))
    text = f"""@T.prim_func
def main(A: T.Buffer((256, 64), "float32"), C: T.Buffer((256,), "float32")):
    for t in T.thread_binding(256, thread="threadIdx.x"):
        with T.block("x"):
            v = T.axis.spatial(256, t)
            T.block_attr({{"min_blocks_per_multiprocessor": 8}})
            C[v] = {terms}
    """
    source = generate(parse(text))
    assert "__launch_bounds__(256, 8) main_kernel" in source.text
    facts = compile_cuda(source, "sm_80").facts["main_kernel"]
    assert facts.max_threads == 256
    assert facts.registers <= 65536 // (8 * 256)
