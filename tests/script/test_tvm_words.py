"""Can tensor intrinsics be read that were written for TVM? And what cannot is refused how?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gputune.errors import ScriptError, UserError
from gputune.ir.check import check
from gputune.ir.interp import run
from gputune.ir.nodes import Block, PrimFunc
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import from_source
from gputune.script import tir as T
from gputune.target import Target
from gputune.target.intrin import TensorIntrin, intrin

# mypy: disable-error-code="valid-type, index, operator, misc, assignment, no-untyped-def"
# ruff: noqa: E501

HEAD = """\
@T.prim_func
def f(A: T.Buffer((16, 4), "int8"), B: T.Buffer((64,), "float32"), C: T.Buffer((16,), "int32"), n: T.int32,
      u: T.Buffer((4,), "uint8", offset_factor=1), h: T.handle, g: T.handle):
    s1 = T.int32()
    s0 = T.int32()
    S = T.match_buffer(h, (16, 16), "float16", offset_factor=16, scope="shared", strides=[s1, s0])
    W = T.match_buffer(g, (16, 16), "float16", align=64, offset_factor=16, scope="wmma.matrix_a")
    Z = T.alloc_buffer((16, 16), "float32", offset_factor=16, scope="wmma.accumulator")
"""


def parsed(*lines: str) -> PrimFunc:
    out = from_source(HEAD + "".join(f"    {line}\n" for line in lines))
    assert isinstance(out, PrimFunc)
    assert from_source(out.script()).script() == out.script()
    return out


def same(line: str, other: str) -> None:
    assert parsed(line).script() == parsed(other).script()


# ----------------------------------------------------------------------------- spellings
@pytest.mark.parametrize(
    ("line", "plain"),
    [
        ('C[0] = T.reinterpret(A[0, T.Ramp(0, 1, 4)], dtype="int32")',
         'C[0] = T.reinterpret("int32", A[0, 0:4])'),
        ('C[0] = T.reinterpret(A[0, 0:4], "int32")', 'C[0] = T.reinterpret("int32", A[0, 0:4])'),
        ('C[0] = T.reinterpret(dtype="int32", value=A[0, 0:4])',
         'C[0] = T.reinterpret("int32", A[0, 0:4])'),
        ('B[0] = T.if_then_else(n < 2, B[1], 0, dtype="float32")',
         'B[0] = T.if_then_else(n < 2, B[1], T.float32(0))'),
        ('B[0] = T.exp(B[1], dtype="float32")', "B[0] = T.exp(B[1])"),
        ('C[0] = T.shift_left(n, 2, dtype="int32")', "C[0] = T.shift_left(n, 2)"),
        ('B[0] = T.if_then_else(T.likely(n < 2, dtype="bool"), B[1], B[2])',
         "B[0] = T.if_then_else(T.likely(n < 2), B[1], B[2])"),
        ("C[T.ramp(0, 1, 16)] = T.broadcast(n, 16)", "C[0:16] = T.Broadcast(n, 16)"),
        ('C[0] = T.reinterpret(u.vload([0], "uint8x4"), dtype="int32")',
         'C[0] = T.reinterpret("int32", u[0:4])'),
        ('B[0:16] = B.vload([n], dtype="float32x16")', "B[0:16] = B[T.Ramp(n, 1, 16)]"),
        ('B[0] = B.vload([n], "float32")', "B[0] = B[n]"),
        ('C[0] = T.call_pure_extern("f", n, dtype="int32")', 'C[0] = T.call_extern("f", n, dtype="int32")'),
        ('B[0:4] = T.vectorlow("float32x4", B[0:8])', "B[0:4] = T.Shuffle([B[0:8]], [0, 1, 2, 3])"),
        ('B[0:2] = T.vectorhigh(B[0:4], dtype="float32x2")', "B[0:2] = T.Shuffle([B[0:4]], [2, 3])"),
        ('B[0:4] = T.vectorcombine("float32x4", B[0:2], B[6:8])',
         "B[0:4] = T.Shuffle([B[0:2], B[6:8]], [0, 1, 2, 3])"),
        ('C[0:16] = T.call_llvm_pure_intrin("int32x16", T.llvm_lookup_intrinsic_id('
         '"llvm.x86.avx512.pmaddw.d.512"), T.uint32(2), T.broadcast(T.int16(1), 32), T.broadcast(T.int16(2), 32))',
         'C[0:16] = T.call_intrin("int32x16", "x86.pmaddwd", T.Broadcast(T.int16(1), 32), T.Broadcast(T.int16(2), 32))'),
        ('C[0:16] = T.call_llvm_pure_intrin("llvm.x86.avx512.pmaddw.d.512", T.broadcast(T.int16(1), 32), '
         'T.broadcast(T.int16(2), 32), dtype="int32x16")',
         'C[0:16] = T.call_intrin("int32x16", "x86.pmaddwd", T.Broadcast(T.int16(1), 32), T.Broadcast(T.int16(2), 32))'),
        ('T.evaluate(T.tvm_load_matrix_sync(W.data, 16, 16, 16, W.elem_offset // 256, S.access_ptr("r"), s1, "row_major", dtype="handle"))',
         'W[T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16] = T.call_intrin("float16x256", "wmma.load_a.f16", '
         "S[T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16])"),
    ],
)  # fmt: skip
def test_a_spelling_of_tvm_means(line: str, plain: str) -> None:
    same(line, plain)


def test_a_vector_goes_on_in_the_next_row() -> None:
    func = parsed('B[0:32] = T.Cast("float32x32", A.vload([n, 0], dtype="int8x32"))')
    a = np.arange(64, dtype="int8").reshape(16, 4)
    b, c, u = np.zeros(64, "float32"), np.zeros(16, "int32"), np.zeros(4, "uint8")
    tile = np.zeros((16, 16), "float16")
    run(func, a, b, c, 3, u, tile, tile.copy())
    np.testing.assert_array_equal(b[:32], a.ravel()[12:44])


def test_keywords_of_a_buffer_outside_of_text() -> None:
    """As an annotation Python evaluates it, before the script is read."""

    @T.prim_func
    def f(
        A: T.Buffer((4, 4), "float32", strides=("r", "c"), offset_factor=1),
        B: T.Buffer((4,), "float32", None, None, 0, "global", 64, 0, "", []),
    ):
        for i in range(4):
            with T.block("B"):
                vi = T.axis.spatial(4, i)
                B[vi] = A[vi, 1]

    a, b = f.buffers
    assert a.strides is not None
    assert [str(s) for s in a.strides] == ["r", "c"]
    assert str(a.elem_offset) == "A_elem_offset"
    assert b.align == 64
    assert from_source(f.script()).script() == f.script()
    x, y = np.arange(16, dtype="float32").reshape(4, 4).T, np.zeros(4, "float32")
    run(f, x, y)
    np.testing.assert_array_equal(y, x[:, 1])
    plain = T.Buffer((4,), "uint8", offset_factor=1, align=4)
    assert (str(plain.elem_offset), plain.align, plain.dtype) == ("buffer_elem_offset", 4, "uint8")


def test_an_allocation_lies_where_it_is_put() -> None:
    """Named for a bug: offset_factor gave it an offset that nothing binds."""
    func = parsed(
        'X = T.alloc_buffer((4,), "float32", None, None, None, "local", 64, 1, "", None)',
        "X[0] = B[0]",
        "B[1] = X[0]",
    )
    check(func)
    assert isinstance(func.body, Block)
    _, x = func.body.alloc_buffers
    assert (x.scope, x.align, x.elem_offset, x.strides) == ("local", 64, None, None)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"buffer_type": "auto_broadcast"}, "the argument 'buffer_type'", "extent 1"),
        ({"axis_separators": [1]}, "the argument 'axis_separators'", "one axis"),
        ({"data": "p"}, "the argument 'data'", "T.match_buffer"),
        ({"scop": "local"}, "no argument 'scop'", "scope"),
        ({"scope": 3}, "scope", ""),
        ({"strides": (1, 2)}, "1 dimensions and 2 strides", ""),
        ({"strides": (1.5,)}, "stride", ""),
        ({"align": "x"}, "align", ""),
        ({"offset_factor": 1.5}, "offset_factor", ""),
        ({"elem_offset": 0.5}, "offset", ""),
        ({"dtype": "flaot32"}, "dtype", "float32"),
        ({"shape": (4.5,)}, "shape", ""),
    ],
)
def test_keywords_of_a_buffer_that_are_refused(
    options: dict[str, Any], message: str, hint: str
) -> None:
    """With the same words as an annotation and in text, and as one error."""
    told = {"shape": (4,), **options}
    with pytest.raises(ScriptError) as outside:
        T.Buffer(**told)
    words = ", ".join(f"{k}={v!r}" for k, v in told.items())
    with pytest.raises(ScriptError) as inside:
        from_source(f"@T.prim_func\ndef f(A: T.Buffer({words})):\n    pass\n")
    for e in (outside.value, inside.value):
        assert message in str(e), str(e)
        assert hint in str(e)
        assert e.code


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ('C[0] = T.call_extern("f", A.access_ptr("r"), dtype="int32")', "A.access_ptr is a pointer", "index the buffer"),
        ("C[0] = A.data", "A.data is a pointer", "T.tvm_load_matrix_sync"),
        ("C[0] = T.ptx_mma(1)", "T.ptx_mma is not part of this language", "wmma.mma"),
        ("C[0] = T.address_of(A[0, 0])", "T.address_of is not part of this language", "index the buffer"),
        ("C[0] = T.tvm_warp_shuffle(1)", "T.tvm_warp_shuffle is not part of this language", "scope warp"),
        ('B[0] = T.if_then_else(n < 1, B[0], B[1], dtype="float16")', "have dtype float32, dtype= says float16", "T.cast"),
        ('B[0] = T.exp(B[1], dtype="float64")', "has dtype float32, dtype= says float64", "T.cast"),
        ('C[0] = u.vload([0], "int8x4")', "a load of uint8 from buffer u is not one of int8x4", "T.reinterpret"),
        ('C[0] = T.llvm_lookup_intrinsic_id(3)', "named by a string, got 3", ""),
        ('C[0] = T.call_llvm_pure_intrin("int32x16")', "misses the name of a function", "vpdpbusd"),
        ('C[0] = T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbus.512")', "no vector intrinsic stands for",
         "did you mean 'llvm.x86.avx512.vpdpbusd"),
        ('C[0] = T.call_llvm_pure_intrin("float32x16", "llvm.sqrt.v16f32", B[0:16])', "no vector intrinsic stands for",
         "declare_vector_op"),
        ('C[0:16] = T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.pmaddw.d.512", C[0:16], C[0:16])',
         "takes (int16x32, int16x32) -> int32x16, got (int32x16, int32x16)", "T.reinterpret"),
        ('B[0:4] = T.vectorlow("float32x8", B[0:8])', "T.vectorlow of float32x8 is not float32x8", ""),
        ("T.tvm_mma_sync(W.data, 0, W.data, 0)", "misses argument", ""),
        ('T.tvm_load_matrix_sync(W.data, 16, 16, 8, 0, S.access_ptr("r"), s1, "row_major")', "16 x 16 x 8", ""),
        ('T.tvm_load_matrix_sync(S.data, 16, 16, 16, 0, S.access_ptr("r"), s1, "row_major")', "S is (16, 16) in shared", ""),
        ('T.tvm_load_matrix_sync(W.data, 16, 16, 16, 3, S.access_ptr("r"), s1, "row_major")', "the number of tile W is 3", "elem_offset"),
        ('T.tvm_load_matrix_sync(W.data, 16, 16, 16, n, S.access_ptr("r"), s1, "row_major")', "the number of tile W", "elem_offset"),
        ('T.tvm_load_matrix_sync(W.data, 16, 16, 16, 0, S.access_ptr("r"), 16, "row_major")', "the rows of S are s1 apart", "S.strides[0]"),
        ('T.tvm_load_matrix_sync(W.data, 16, 16, 16, 0, S.access_ptr("r", offset=4), s1, "row_major")', "has an offset", "T.match_buffer"),
        ('T.tvm_load_matrix_sync(W.data, 16, 16, 16, 0, S.access_ptr("x"), s1, "row_major")', '"r", "w" or "rw"', ""),
        ('T.tvm_load_matrix_sync(W.data, 16, 16, 16, 0, S, s1, "row_major")', "takes a pointer", "" ),
        ('T.tvm_store_matrix_sync(Z.data, 16, 16, 16, 0, S.access_ptr("w"), s1, "row_major")', "no tensor core has wmma.store.f32", "float16"),
        ('C[0] = T.call_pure_extern("__dp4a", A.vload([0, 0], "int8x4"), B[0:4], n, dtype="int32")', "__dp4a takes four bytes twice, and a sum, got (int8x4, float32x4, int32) -> int32", "int8x4"),
        ('T.tvm_load_matrix_sync(W.data, 16, 16, 16, 0, S.access_ptr("r"), s1, "rows")', 'is "row_major" or "col_major"', ""),
        ("T.tvm_fill_fragment(W, 16, 16, 16, 0, T.float16(0))", "takes the data of a tile", "C.data"),
    ],
)  # fmt: skip
def test_what_has_no_form_here_says_what_has(line: str, message: str, hint: str) -> None:
    with pytest.raises(ScriptError) as caught:
        parsed(line)
    text = str(caught.value)
    assert message in text
    assert hint in text
    assert text.splitlines()[-1].strip() == "^"


def test_dp4a_by_its_name_in_cuda() -> None:
    same(
        'C[0] = T.call_pure_extern("__dp4a", A.vload([0, 0], "int8x4"), A.vload([n, 0], "int8x4"), '
        'n, dtype="int32")',
        'C[0] = T.call_intrin("int32", "cuda.dp4a.s8s8", n, T.reinterpret("int32", A[0, 0:4]), '
        'T.reinterpret("int32", A[n, 0:4]))',
    )


# ----------------------------------------------------------------------------- a dot product
@T.prim_func
def sums_desc(
    A: T.Buffer((4,), "uint8", offset_factor=1),
    B: T.Buffer((16, 4), "int8", offset_factor=1),
    C: T.Buffer((16,), "int32", offset_factor=1),
) -> None:
    with T.block("root"):
        T.reads(C[0:16], A[0:4], B[0:16, 0:4])
        T.writes(C[0:16])
        for i in T.serial(0, 16):
            for k in T.serial(0, 4):
                with T.block("update"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    C[vi] = C[vi] + T.cast(A[vk], "int32") * T.cast(B[vi, vk], "int32")


@T.prim_func
def sums_impl(
    A: T.Buffer((4,), "uint8", offset_factor=1),
    B: T.Buffer((16, 4), "int8", offset_factor=1),
    C: T.Buffer((16,), "int32", offset_factor=1),
) -> None:
    with T.block("root"):
        T.reads(C[0:16], A[0:4], B[0:16, 0:4])
        T.writes(C[0:16])
        four = T.reinterpret(A.vload([0], "uint8x4"), dtype="int32")
        C[T.ramp(T.int32(0), 1, 16)] = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512"),
            T.uint32(3),
            C.vload([0], dtype="int32x16"),
            T.reinterpret(T.broadcast(four, 16), dtype="uint8x64"),
            B.vload([0, 0], dtype="int8x64"),
            dtype="int32x16",
        )


@T.prim_func
def pairs_impl(
    A: T.Buffer((4,), "uint8", offset_factor=1),
    B: T.Buffer((16, 4), "int8", offset_factor=1),
    C: T.Buffer((16,), "int32", offset_factor=1),
) -> None:
    """Two products at a time, which stop at the ends of int16."""
    with T.block("root"):
        T.reads(C[0:16], A[0:4], B[0:16, 0:4])
        T.writes(C[0:16])
        four = T.reinterpret(A.vload([0], "uint8x4"), dtype="int32")
        pairs = T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id("llvm.x86.avx512.pmaddubs.w.512"),
            T.uint32(0),
            T.reinterpret(T.broadcast(four, 16), dtype="uint8x64"),
            B.vload([0, 0], dtype="int8x64"),
            dtype="int16x32",
        )
        C[T.ramp(T.int32(0), 1, 16)] = C.vload([0], "int32x16") + T.call_llvm_pure_intrin(
            T.llvm_lookup_intrinsic_id("llvm.x86.avx512.pmaddw.d.512"),
            T.uint32(0),
            pairs,
            T.broadcast(T.int16(1), 32),
            dtype="int32x16",
        )


@T.prim_func
def matmul(
    A: T.Buffer((8, 16), "uint8"), B: T.Buffer((32, 16), "int8"), C: T.Buffer((8, 32), "int32")
):
    for i, j, k in T.grid(8, 32, 16):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = 0
            C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "int32") * T.cast(B[vj, vk], "int32")


@pytest.mark.parametrize("impl", [sums_impl, pairs_impl], ids=lambda f: f.name)
def test_a_dot_product_written_for_tvm_is_tensorized(impl: PrimFunc) -> None:
    TensorIntrin.register("test.tvm_dot", sums_desc, impl, override=True)
    sch = Schedule(matmul)
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    _, ji = sch.split(j, [None, 16])
    ko, ki = sch.split(k, [None, 4])
    sch.reorder(ko, ji, ki)
    sch.decompose_reduction(block, i)
    sch.tensorize(ji, "test.tvm_dot")
    rng = np.random.default_rng(0)
    a = rng.integers(0, 128, (8, 16)).astype("uint8")  # of 255 two products may not fit int16
    b = rng.integers(-128, 128, (32, 16)).astype("int8")
    want = a.astype("int32") @ b.astype("int32").T
    got = np.zeros((8, 32), "int32")
    run(sch.mod, a, b, got)
    np.testing.assert_array_equal(got, want)
    missing = intrin("test.tvm_dot").missing(Target("llvm"))
    if missing:
        pytest.skip(missing)
    again = np.zeros((8, 32), "int32")
    build(sch.mod, "llvm")(a, b, again)
    np.testing.assert_array_equal(again, want)


def test_saturated_pairs_mean_what_the_processor_does() -> None:
    if intrin_missing := {"avx512bw"} - set(_features()):
        pytest.skip(f"the processor has no {intrin_missing}")
    rng = np.random.default_rng(1)
    for a in (rng.integers(0, 256, 4), np.full(4, 255)):
        b = rng.integers(-128, 128, (16, 4)).astype("int8")
        b[0], b[1] = 127, -128
        want, got = np.zeros(16, "int32"), np.zeros(16, "int32")
        run(pairs_impl, a.astype("uint8"), b, want)
        build(pairs_impl, "llvm")(a.astype("uint8"), b, got)
        np.testing.assert_array_equal(got, want)


def _features() -> frozenset[str]:
    from gputune.target import host

    t = Target("llvm")
    return frozenset(host.enabled(t.mcpu, t.mattr))


# ----------------------------------------------------------------------------- what is registered
def test_an_implementation_that_computes_something_else_is_refused() -> None:
    text = sums_impl.script().replace(
        '"x86.vpdpbusd", C[T.Ramp(0, 1, 16)]', '"x86.vpdpbusd", T.Broadcast(1, 16)'
    )
    wrong = from_source(text)
    assert isinstance(wrong, PrimFunc)
    assert text != sums_impl.script()
    with pytest.raises(
        UserError, match=r"'test\.wrong': impl gives C\[\d+\] = .*, desc "
    ) as caught:
        TensorIntrin.register("test.wrong", sums_desc, wrong)
    assert caught.value.code == "intrin-differs"
    assert "test.wrong" not in TensorIntrin.names()


def test_an_implementation_that_leaves_its_buffers_is_refused() -> None:
    @T.prim_func
    def copy(A: T.Buffer((4,), "int32"), B: T.Buffer((4,), "int32")):
        for i in range(4):
            with T.block("B"):
                vi = T.axis.spatial(4, i)
                B[vi] = A[vi]

    @T.prim_func
    def too_far(A: T.Buffer((4,), "int32"), B: T.Buffer((4,), "int32")):
        B[0:4] = A[1:5]

    with pytest.raises(UserError, match="impl fails where desc does not") as caught:
        TensorIntrin.register("test.wrong", copy, too_far)
    assert caught.value.code == "intrin-differs"


def test_a_plain_function_is_compared_when_it_is_first_used() -> None:
    def desc(A: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.block("B"):
                vi = T.axis.spatial(4, i)
                B[vi] = T.exp(A[vi])

    def impl(A: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32")):
        B[0:4] = A[0:4] + T.float32(1)

    TensorIntrin.register("test.late", desc, impl, override=True)
    with pytest.raises(UserError, match="impl gives"):
        _ = intrin("test.late").impl
    TensorIntrin.register("test.late", desc, desc, override=True)
    assert intrin("test.late").impl.name == "desc"


@pytest.mark.parametrize(
    "line",
    [
        "B[vi] = T.call_extern('sinf', A[vi], dtype='float32')",
        "B[vi] = A[vi] / T.Cast('float32', T.Cast('int32', A[vi]) // T.Cast('int32', A[vi]))",
    ],
)
def test_what_cannot_be_run_is_taken_as_it_is(line: str) -> None:
    text = f"""
@T.prim_func
def desc(A: T.Buffer((4,), "float32"), B: T.Buffer((4,), "float32")):
    for i in range(4):
        with T.block("B"):
            vi = T.axis.spatial(4, i)
            {line}
"""
    func = from_source(text)
    assert isinstance(func, PrimFunc)
    TensorIntrin.register("test.unseen", func, func, override=True)
    assert intrin("test.unseen").impl is func
