import math

import ir_programs as P
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.errors import RunError
from gputune.ir import build as b
from gputune.ir import dtypes
from gputune.ir.interp import run
from gputune.ir.nodes import (
    Alloc,
    BinOp,
    Block,
    BlockKey,
    Broadcast,
    Buffer,
    BufferLoad,
    BufferRegion,
    BufferStore,
    Call,
    Cast,
    Evaluate,
    For,
    IfThenElse,
    IRModule,
    IterVar,
    Let,
    LetStmt,
    MatchBuffer,
    Ramp,
    Range,
    Select,
    Shuffle,
    StringImm,
    Var,
)
from gputune.ir.ops import MATH

quick = settings(derandomize=True, deadline=None, max_examples=60)


def ints(rng, *shape, dtype="float32"):
    return rng.integers(-4, 5, shape).astype(dtypes.numpy_dtype(dtype))


def calculate(make, *values, dtypes_=("float32",), out="float32"):
    """The value of an expression over loads of one-element buffers."""
    ins = [P.buf(f"a{k}", (1,), d) for k, d in enumerate(dtypes_)]
    o = P.buf("o", (1,), out)
    func = P.func((*ins, o), BufferStore(o, make(*[x[0] for x in ins]), (b.const(0),)))
    arrays = [np.array([v]).astype(dtypes.numpy_dtype(d)) for v, d in zip(values, dtypes_)]
    result = np.zeros(1, dtypes.numpy_dtype(out))
    run(func, *arrays, result)
    return result[0]


# ----------------------------------------------------------------------------- whole programs
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
@quick
def test_matmul(n, m, k, seed):
    rng = np.random.default_rng(seed)
    x, y, out = ints(rng, n, k), ints(rng, k, m), np.full((n, m), np.nan, "float32")
    run(P.matmul(n, m, k), x, y, out, check_regions=True)
    assert np.array_equal(out, x @ y)


@pytest.mark.parametrize(
    ("dtype", "acc"),
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("int8", "int32"),
        ("float8_e4m3", "float32"),
    ],
)
def test_mixed_matmul(dtype, acc):
    rng = np.random.default_rng(0)
    x, y = ints(rng, 3, 4, dtype=dtype), ints(rng, 4, 5, dtype=dtype)
    out = np.zeros((3, 5), acc)
    run(P.matmul(3, 5, 4, dtype, acc), x, y, out)
    assert np.array_equal(out, x.astype(acc) @ y.astype(acc))


def test_float32_rounds_after_each_operation_in_program_order():
    rng = np.random.default_rng(1)
    x, y = rng.random((1, 50), "float32"), rng.random((50, 1), "float32")
    out = np.zeros((1, 1), "float32")
    run(P.matmul(1, 1, 50), x, y, out)
    total = np.float32(0)
    for k in range(50):
        total = np.float32(total + np.float32(x[0, k] * y[k, 0]))
    assert out[0, 0] == total


def test_intermediate_buffers_and_modules():
    rng = np.random.default_rng(2)
    x, y, z = ints(rng, 2, 4), ints(rng, 4, 3), ints(rng, 3)
    out = np.zeros((2, 3), "float32")
    run(IRModule({"main": P.matmul(), "f": P.matmul_bias(2, 3, 4)}), x, y, z, out, main="f")
    assert np.array_equal(out, x @ y + z)
    run(IRModule({"only": P.matmul_bias(2, 3, 4)}), x, y, z, out)
    with pytest.raises(RunError, match=r"no function named 'main'.*a, b"):
        run(IRModule({"a": P.matmul(), "b": P.matmul()}), x, y, out)


@pytest.mark.parametrize("kind", ["serial", "parallel", "vectorized", "unrolled", "thread_binding"])
def test_every_loop_kind_is_a_loop_in_order(kind):
    A = P.buf("A", (5,))
    i = Var("i")
    store = BufferStore(A, A[i - 1] + 1.0, (i,))
    thread = "threadIdx.x" if kind == "thread_binding" else None
    func = P.func((A,), For(i, b.const(1), b.const(4), kind, store, thread))
    a = np.zeros(5, "float32")
    run(func, a)
    assert a.tolist() == [0, 1, 2, 3, 4]


def test_init_runs_at_the_first_reduction_step_only():
    """Also when the reduce domain does not start at zero."""
    A, C = P.buf("A", (6,)), P.buf("C", (1,))
    i, r = Var("i"), Var("r")
    iters = (IterVar(r, Range(b.const(2), b.const(3)), "reduce"),)
    zero = (b.const(0),)
    blk = Block(
        BlockKey(), "C", iters, (i + 2,), b.TRUE, (P.point(A, r),), (P.point(C, 0),),
        BufferStore(C, C[0] + A[r], zero), BufferStore(C, b.const(100.0), zero),
    )  # fmt: skip
    func = P.func((A, C), P.nest([(i, 3)], blk))
    c = np.zeros(1, "float32")
    run(func, np.arange(6, dtype="float32"), c, check_regions=True)
    assert c[0] == 100 + 2 + 3 + 4


def test_block_predicate_sees_the_loops():
    A = P.buf("A", (5,))
    i, j, v = Var("i"), Var("j"), Var("v")
    at = i * 4 + j
    blk = Block(
        BlockKey(), "A", (IterVar(v, Range(b.const(0), b.const(5)), "spatial"),), (at,), at < 5, (),
        (P.point(A, v),), BufferStore(A, v.astype("float32"), (v,)),
    )  # fmt: skip
    a = np.zeros(5, "float32")
    run(P.func((A,), P.nest([(i, 2), (j, 4)], blk)), a, check_regions=True)
    assert a.tolist() == [0, 1, 2, 3, 4]


def test_if_let_and_alloc():
    A, T = P.buf("A", (4,), "int32"), P.buf("T", (2,), "int32")
    i, x, y = Var("i"), Var("x"), Var("y")
    inner = IfThenElse(
        x < 4, BufferStore(A, x + T[0], (i,)), BufferStore(A, Let(y, x * 10, y + y), (i,))
    )
    only = IfThenElse(b.eq(i, 0), BufferStore(T, b.const(7), (b.const(0),)))
    body = Alloc(T, P.nest([(i, 4)], b.seq(only, LetStmt(x, i * i, inner))))
    a = np.zeros(4, "int32")
    run(P.func((A,), body), a)
    assert a.tolist() == [7, 8, 80, 180]


def test_an_allocation_is_fresh_whenever_its_block_is_entered():
    A, T = P.buf("A", (3,)), P.buf("T", ())
    i, v = Var("i"), Var("v")
    body = b.seq(
        BufferStore(A, T[()], (v,)),
        BufferStore(T, b.const(1.0), ()),
    )
    blk = Block(
        BlockKey(), "A", (IterVar(v, Range(b.const(0), b.const(3)), "spatial"),), (i,), b.TRUE, (),
        (P.point(A, v),), body, alloc_buffers=(T,),
    )  # fmt: skip
    a = np.zeros(3, "float32")
    run(P.func((A,), P.nest([(i, 3)], blk)), a, check_regions=True)
    assert np.isnan(a).all()


def test_programs_can_be_interpreted_again_and_share_nothing():
    func = P.matmul(2, 2, 2)
    x = np.ones((2, 2), "float32")
    for factor in (1, 2, 3):
        out = np.zeros((2, 2), "float32")
        run(func, x * factor, x, out)
        assert (out == 2 * factor).all()


# ----------------------------------------------------------------------------- poison
@pytest.mark.parametrize("dtype", dtypes.SCALARS)
def test_memory_is_poisoned(dtype):
    A, T = P.buf("A", (2,), dtype), P.buf("T", (2,), dtype)
    i = Var("i")
    func = P.func((A,), P.nest([(i, 2)], BufferStore(A, T[i], (i,))), (T,))
    a = np.zeros(2, dtypes.numpy_dtype(dtype))
    run(func, a)
    if dtypes.is_float(dtype):
        assert np.isnan(a.astype("float64")).all()
    elif dtype == "bool":
        assert a.all()
    else:
        assert set(a.tobytes()) == {0x5A}


# ----------------------------------------------------------------------------- bounds
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("at", [-1, 4])
def test_accesses_outside_the_shape_are_errors(rank, at):
    shape = (4,) * rank
    A, B = P.buf("A", shape), P.buf("B", shape)

    def make(*ivs):
        index = (*ivs[:-1], ivs[-1] + at)
        return BufferStore(B, A[index], ivs), (), ()

    func = P.func((A, B), P.block("copy", (1,) * rank, "S" * rank, make))
    a, out = np.zeros(shape, "float32"), np.ones(shape, "float32")
    text = ", ".join(["0"] * (rank - 1) + [str(at)])
    with pytest.raises(RunError, match=rf"A\[{text}\] is outside the shape .*4.*in block copy"):
        run(func, a, out)
    assert (out == 1).all()  # arguments are as they were


def test_an_index_that_wraps_into_the_next_row_is_an_error():
    A = P.buf("A", (2, 3))
    func = P.func((A,), BufferStore(A, b.const(0.0), (b.const(0), b.const(3))))
    with pytest.raises(RunError, match=r"A\[0, 3\]"):
        run(func, np.zeros((2, 3), "float32"))


def strict_program(reads, writes, shift=0, domain=4):
    A, B = P.buf("A", (8,)), P.buf("B", (8,))
    i, v = Var("i"), Var("v")
    blk = Block(
        BlockKey(), "copy", (IterVar(v, Range(b.const(0), b.const(domain)), "spatial"),), (i,),
        b.TRUE, reads(A, v), writes(B, v), BufferStore(B, A[v + shift], (v,)),
    )  # fmt: skip
    return P.func((A, B), P.nest([(i, 4)], blk))


def test_regions_are_checked_on_request():
    arrays = np.zeros(8, "float32"), np.zeros(8, "float32")

    def exact(buf, v):
        return (P.point(buf, v),)

    def none(buf, v):
        return ()

    good = strict_program(exact, exact)
    run(good, *arrays, check_regions=True)
    cases = [
        (strict_program(none, exact), r"A\[0\] is read outside the regions .* block copy"),
        (strict_program(exact, none), r"B\[0\] is written outside the regions .* block copy"),
        (strict_program(exact, exact, shift=1), r"A\[1\] is read outside"),
        (strict_program(exact, exact, domain=3), r"iterator v of block copy is 3, .* \[0, 3\)"),
    ]
    for func, message in cases:
        run(func, *arrays)
        with pytest.raises(RunError, match=message):
            run(func, *arrays, check_regions=True)


# ----------------------------------------------------------------------------- views
def view_program(view, region, body, shape=(6, 8), alloc=False, **block):
    A = P.buf("A", shape, "int32")
    out = P.buf("out", (8,), "int32")
    reg = BufferRegion(A, tuple(Range(b.expr(lo), b.expr(n)) for lo, n in region))
    blk = Block(
        BlockKey(), "b", (), (), b.TRUE, (reg,), (reg, P.whole(out)), body(view, out),
        match_buffers=(MatchBuffer(view, reg),), **block,
    )  # fmt: skip
    return P.func((A, out), blk)


def test_views_read_and_write_their_source():
    s, off = Var("s"), Var("off")
    view = P.buf("V", (2, 3), "int32", strides=(s, b.const(1)), elem_offset=off)

    def body(v, out):
        return b.seq(
            BufferStore(out, v[0, 0], (b.const(0),)),
            BufferStore(out, v[1, 2], (b.const(1),)),
            BufferStore(out, s, (b.const(2),)),
            BufferStore(out, off, (b.const(3),)),
            BufferStore(v, b.const(-1), (b.const(1), b.const(1))),
        )

    func = view_program(view, [(2, 2), (3, 3)], body)
    a, out = np.arange(48, dtype="int32").reshape(6, 8), np.zeros(8, "int32")
    want = a.copy()
    want[3, 4] = -1
    run(func, a, out, check_regions=True)
    assert out[:4].tolist() == [a[2, 3], a[3, 5], 8, 19]
    assert np.array_equal(a, want)


def test_views_of_views_and_dropped_dimensions():
    row = P.buf("row", (4,), "int32")
    part = P.buf("part", (2,), "int32")

    def body(v, out):
        reg = BufferRegion(v, (Range(b.const(1), b.const(2)),))
        return Block(
            BlockKey(), "inner", (), (), b.TRUE, (reg,), (P.point(out, 0),),
            BufferStore(out, part[1], (b.const(0),)), match_buffers=(MatchBuffer(part, reg),),
        )  # fmt: skip

    func = view_program(row, [(5, 1), (4, 4)], body)
    a, out = np.arange(48, dtype="int32").reshape(6, 8), np.zeros(8, "int32")
    run(func, a, out, check_regions=True)
    assert out[0] == a[5, 6]


@pytest.mark.parametrize(
    ("shape", "region", "index", "message"),
    [
        ((2, 2), [(5, 2), (0, 2)], (0, 0), "view V .* leaves the shape"),
        ((2, 2), [(0, 2), (0, 3)], (0, 0), "view V has shape .2, 2.*2, 3"),
        ((2,), [(0, 2), (0, 2)], (0,), "view V has 1 dimensions"),
        ((2, 2), [(0, 2), (0, 2)], (0, 2), r"V\[0, 2\] is outside the shape"),
    ],
)
def test_views_that_do_not_fit(shape, region, index, message):
    view = P.buf("V", shape, "int32")
    func = view_program(view, region, lambda v, out: BufferStore(out, v[index], (b.const(0),)))
    with pytest.raises(RunError, match=message):
        run(func, np.zeros((6, 8), "int32"), np.zeros(8, "int32"))


# ----------------------------------------------------------------------------- vectors
def ramp(base, n=4, stride=1):
    return Ramp(b.expr(base), b.const(stride), n)


def vector_copy(value, n=4, predicate=None, index=None):
    A, B = P.buf("A", (8,)), P.buf("B", (8,))
    store = BufferStore(B, value(A), (ramp(0, n) if index is None else index,), predicate)
    a, out = np.arange(8, dtype="float32"), np.full(8, -1, "float32")
    run(P.func((A, B), store), a, out)
    return out.tolist()


def test_vector_loads_stores_and_arithmetic():
    def value(A):
        twice = BinOp("*", BufferLoad(A, (ramp(1, 4, 2),)), Broadcast(b.const(2.0), 4), "float32x4")
        return BinOp("+", twice, Broadcast(A[7], 4), "float32x4")

    assert vector_copy(value) == [9, 13, 17, 21, -1, -1, -1, -1]
    strided = vector_copy(lambda A: BufferLoad(A, (ramp(0),)), index=ramp(1, 4, 2))
    assert strided == [-1, 0, -1, 1, -1, 2, -1, 3]


def test_shuffle_and_let():
    def value(A):
        pair = (BufferLoad(A, (ramp(0),)), BufferLoad(A, (ramp(4),)))
        x = Var("x", "float32x4")
        picked = Shuffle(pair, (7, 0, 4, 3))
        one = Shuffle((x,), (2,))
        return Let(x, picked, BinOp("+", x, Broadcast(one, 4), "float32x4"))

    assert vector_copy(value)[:4] == [11, 4, 8, 7]


def test_a_vector_store_reads_before_it_writes():
    A = P.buf("A", (8,))
    a = np.arange(8, dtype="float32")
    run(P.func((A,), BufferStore(A, BufferLoad(A, (ramp(0),)), (ramp(1),))), a)
    assert a.tolist() == [0, 0, 1, 2, 3, 5, 6, 7]


def test_masks():
    mask = BinOp("<", ramp(0), Broadcast(b.const(2), 4), "boolx4")
    out = vector_copy(lambda A: BufferLoad(A, (ramp(6),), mask), predicate=mask)
    assert out[:4] == [6, 7, -1, -1]  # lanes 2 and 3 would be out of bounds
    out = vector_copy(lambda A: BufferLoad(A, (ramp(6),), mask))
    assert out[:2] == [6, 7]
    assert all(map(math.isnan, out[2:4]))
    a = P.buf("A", (2,))
    masked = P.func((a,), BufferStore(a, b.const(5.0), (b.const(9),), b.FALSE))
    run(masked, np.zeros(2, "float32"))


def test_select_does_not_fail_on_the_other_side():
    mask = BinOp("<", ramp(0), Broadcast(b.const(2), 4), "boolx4")
    zeros = Broadcast(b.const(0.0), 4)
    assert vector_copy(lambda A: Select(mask, BufferLoad(A, (ramp(6),)), zeros))[:4] == [6, 7, 0, 0]
    i = Var("i")
    A, B = P.buf("A", (4,)), P.buf("B", (6,))
    for choice in (b.select, b.if_then_else):
        store = BufferStore(B, choice(b.logical_and(i >= 1, A[i - 1] >= 0.0), A[i - 1], 9.0), (i,))
        out = np.zeros(6, "float32")
        run(P.func((A, B), P.nest([(i, 5)], store)), np.arange(4, dtype="float32"), out)
        assert out.tolist() == [9, 0, 1, 2, 3, 0]


# ----------------------------------------------------------------------------- integers
INT_DTYPES = (*dtypes.SIGNED, *dtypes.UNSIGNED)
NUMPY_INT = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "//": np.floor_divide, "%": np.mod,
    "truncmod": np.fmod, "min": np.minimum, "max": np.maximum, "&": np.bitwise_and,
    "|": np.bitwise_or, "^": np.bitwise_xor,
}  # fmt: skip


@given(st.sampled_from(INT_DTYPES), st.sampled_from(sorted(NUMPY_INT)), st.data())
@quick
def test_integer_arithmetic_wraps_like_numpy(dtype, op, data):
    lo, hi = int(dtypes.min_value(dtype)), int(dtypes.max_value(dtype))
    near = st.sampled_from([lo, lo + 1, hi, hi - 1, 0, 1, 7, max(lo, -7)])
    numbers = st.one_of(near, st.integers(lo, hi))
    x, y = data.draw(numbers), data.draw(numbers)
    if y == 0 and op in ("//", "%", "truncmod"):
        y = 3
    got = calculate(lambda p, q: BinOp(op, p, q, dtype), x, y, dtypes_=(dtype, dtype), out=dtype)
    kind = dtypes.numpy_dtype(dtype).type
    with np.errstate(all="ignore"):
        assert got == NUMPY_INT[op](kind(x), kind(y))


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-9, 9), st.integers(0, 2**31 - 1))
@quick
def test_affine_sums_wrap_once(x, f, k):
    got = calculate(
        lambda p: Let(v := Var("v"), p, v * f + k - v), x, dtypes_=("int32",), out="int32"
    )
    assert got == (x * f + k - x + 2**31) % 2**32 - 2**31


@pytest.mark.parametrize(
    ("x", "y", "floor", "mod", "trunc", "rem"),
    [(7, 2, 3, 1, 3, 1), (-7, 2, -4, 1, -3, -1), (7, -2, -4, -1, -3, 1), (-7, -2, 3, -1, 3, -1)],
)
def test_division_of_negative_numbers(x, y, floor, mod, trunc, rem):
    def value(op):
        return calculate(
            lambda p, q: BinOp(op, p, q, "int32"), x, y, dtypes_=("int32", "int32"), out="int32"
        )

    assert [value(op) for op in ("//", "%", "/", "truncmod")] == [floor, mod, trunc, rem]


def test_shifts():
    def value(op, x, n, dtype="int32"):
        return calculate(
            lambda p, q: BinOp(op, p, q, dtype), x, n, dtypes_=(dtype, dtype), out=dtype
        )

    assert value("<<", 3, 30) == -(2**30)
    assert value(">>", -5, 1) == -3
    assert value(">>", 2**31 + 2, 1, "uint32") == 2**30 + 1
    for n in (-1, 32):
        with pytest.raises(RunError, match=f"3 << {n}: a int32 can be shifted by 0 to 31"):
            value("<<", 3, n)


@pytest.mark.parametrize("op", ["//", "%", "/", "truncmod"])
def test_integer_division_by_zero(op):
    with pytest.raises(RunError, match="division by zero, in block root"):
        calculate(
            lambda p, q: BinOp(op, p, q, "int32"), 1, 0, dtypes_=("int32", "int32"), out="int32"
        )


# ----------------------------------------------------------------------------- floats
NUMPY_FLOAT = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "truncmod": np.fmod}


@given(st.sampled_from(dtypes.FLOATS), st.sampled_from(sorted(NUMPY_FLOAT)), st.data())
@quick
def test_float_arithmetic_rounds_to_the_dtype(dtype, op, data):
    kind = dtypes.numpy_dtype(dtype)
    wide = np.float64 if dtype == "float64" else np.float32
    x, y = (data.draw(st.floats(-500, 500)) for _ in range(2))
    p, q = (np.array(v).astype(kind).astype(wide) for v in (x, y))
    with np.errstate(all="ignore"):
        want = NUMPY_FLOAT[op](p, q).astype(kind)
    got = calculate(
        lambda s, t: BinOp(op, s, t, dtype), float(p), float(q), dtypes_=(dtype, dtype), out=dtype
    )
    assert got.tobytes() == want.tobytes() or (np.isnan(got) and np.isnan(want))


def test_float_division_by_zero_and_overflow():
    def value(op, x, y):
        return calculate(
            lambda p, q: BinOp(op, p, q, "float32"), x, y, dtypes_=("float32", "float32")
        )

    assert value("/", 1, 0) == np.inf
    assert value("/", 1, -0.0) == -np.inf
    assert np.isnan(value("/", 0, 0))
    assert value("*", 1e30, 1e30) == np.inf
    assert np.isnan(value("-", np.inf, np.inf))


def test_min_and_max_are_compare_and_select():
    def value(op, x, y):
        return calculate(
            lambda p, q: BinOp(op, p, q, "float32"), x, y, dtypes_=("float32", "float32")
        )

    for op in ("min", "max"):
        assert value(op, np.nan, 2.0) == 2
        assert np.isnan(value(op, 2.0, np.nan))
    assert math.copysign(1, value("min", -0.0, 0.0)) == 1
    assert math.copysign(1, value("min", 0.0, -0.0)) == -1


@pytest.mark.parametrize("op", ["==", "!=", "<", "<=", ">", ">="])
@pytest.mark.parametrize(("x", "y"), [(1.0, 2.0), (2.0, 2.0), (3.0, 2.0), (np.nan, 2.0)])
def test_comparisons(op, x, y):
    import operator

    table = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
    got = calculate(
        lambda p, q: BinOp(op, p, q, "bool"), x, y, dtypes_=("float32", "float32"), out="bool"
    )
    assert got == getattr(operator, table[op])(x, y)


def test_logic():
    for x in (False, True):
        for y in (False, True):
            for op, want in (("and", x and y), ("or", x or y), ("^", x != y)):
                got = calculate(
                    lambda p, q, op=op: BinOp(op, p, q, "bool"), x, y, dtypes_=("bool",) * 2,
                    out="bool",
                )  # fmt: skip
                assert got == want
        assert calculate(b.logical_not, x, dtypes_=("bool",), out="bool") == (not x)
    with pytest.raises(RunError, match="'\\+' is not defined on bool"):
        calculate(
            lambda p, q: BinOp("+", p, q, "bool"), True, True, dtypes_=("bool",) * 2, out="bool"
        )


# ----------------------------------------------------------------------------- casts
@pytest.mark.parametrize(
    ("src", "value", "dst", "want"),
    [
        ("float32", 2.9, "int32", 2),
        ("float32", -2.9, "int32", -2),
        ("float32", 1e20, "int32", 2**31 - 1),
        ("float32", -np.inf, "int8", -128),
        ("float32", np.nan, "int32", 0),
        ("float32", -1.0, "uint8", 0),
        ("int32", 300, "uint8", 44),
        ("int32", 200, "int8", -56),
        ("int32", -1, "uint32", 2**32 - 1),
        ("int64", 2**24 + 1, "float32", 2**24),
        ("int64", 2**62 + 2**38 + 1, "float32", 2**62 + 2**39),
        ("uint64", 2**64 - 1, "float32", 2.0**64),
        ("float64", 1 + 2**-24, "float32", 1.0),
        ("float32", 257.0, "bfloat16", 256.0),
        ("float32", 0.5, "bool", True),
        ("bool", True, "float32", 1.0),
        ("bool", True, "int32", 1),
        ("int32", 3, "float16", 3.0),
    ],
)
def test_casts(src, value, dst, want):
    got = calculate(lambda x: Cast(dst, x), value, dtypes_=(src,), out=dst)
    assert got == dtypes.numpy_dtype(dst).type(want)


def test_reinterpret_keeps_the_bits():
    for src, dst, value in (("float32", "int32", 1.5), ("int16", "bfloat16", 0x3FC0)):
        got = calculate(
            lambda x, d=dst: Call("reinterpret", (x,), d), value, dtypes_=(src,), out=dst
        )
        assert got.tobytes() == np.array(value).astype(dtypes.numpy_dtype(src)).tobytes()
    with pytest.raises(RunError, match="float32 as int8: the sizes differ"):
        calculate(lambda x: Call("reinterpret", (x,), "int8"), 1.0, out="int8")


# ----------------------------------------------------------------------------- intrinsics
@pytest.mark.parametrize("op", sorted(set(MATH) - {"popcount"}))
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_math(op, dtype):
    entry = MATH[op]
    out = "bool" if entry.to_bool else dtype
    values = [0.625, 0.25][: entry.arity]
    got = calculate(
        lambda *xs: Call(op, tuple(xs), out), *values, dtypes_=(dtype,) * entry.arity, out=out
    )
    wide = np.float64 if dtype == "float64" else np.float32
    want = np.asarray(entry.numpy(*map(wide, values))).astype(wide).astype(dtypes.numpy_dtype(out))
    assert got == want


def test_math_on_integers():
    def value(op, x, dtype="int32"):
        return calculate(lambda p: Call(op, (p,), dtype), x, dtypes_=(dtype,), out=dtype)

    assert value("abs", -5) == 5
    assert value("popcount", 7) == 3
    assert value("popcount", -1) == 32
    assert value("popcount", 255, "uint8") == 8
    with pytest.raises(RunError, match="exp is not defined on int32"):
        value("exp", 1)


@pytest.mark.parametrize(
    ("name", "args", "want"),
    [
        ("expf", (1.0,), np.exp(np.float32(1))),
        ("sqrt", (2.0,), np.float32(np.sqrt(2.0))),
        ("fmaxf", (1.0, 2.0), 2),
        ("powf", (2.0, 3.0), 8),
        ("fabs", (-2.0,), 2),
        ("erf", (0.0,), 0),
    ],
)
def test_extern_math(name, args, want):
    got = calculate(
        lambda *xs: Call("call_extern", (StringImm(name), *xs), "float32"), *args,
        dtypes_=("float32",) * len(args),
    )  # fmt: skip
    assert got == want


def test_unknown_calls():
    with pytest.raises(RunError, match="does not know the intrinsic call_extern 'system'"):
        calculate(lambda x: Call("call_extern", (StringImm("system"), x), "float32"), 1.0)
    with pytest.raises(RunError, match="does not know the intrinsic call_extern 'sqrt'"):
        calculate(lambda x: Call("call_extern", (StringImm("sqrt"), x, x), "float32"), 1.0)
    with pytest.raises(RunError, match="does not know the intrinsic mma_sync"):
        calculate(lambda x: Call("mma_sync", (x,), "float32"), 1.0)


def test_assume_and_likely():
    A = P.buf("A", (4,), "int32")
    i = Var("i")
    assume = Evaluate(Call("assume", (A[i] < 3,), "bool"))
    guarded = IfThenElse(Call("likely", (i < 2,), "bool"), BufferStore(A, A[i] + 1, (i,)))
    func = P.func((A,), P.nest([(i, 4)], b.seq(assume, guarded)))
    a = np.zeros(4, "int32")
    run(func, a)
    assert a.tolist() == [1, 1, 0, 0]
    with pytest.raises(RunError, match=r"the assumption A\[i\] < 3 does not hold, in block root"):
        run(func, np.array([0, 0, 5, 0], "int32"))


# ----------------------------------------------------------------------------- arguments
def test_symbolic_shapes():
    n, m = Var("n"), Var("m")
    A, B = Buffer("A", (n, m)), Buffer("B", (m * n,))
    i, j = Var("i"), Var("j")
    body = P.nest([(i, n), (j, m)], BufferStore(B, A[i, j] + n.astype("float32"), (i * m + j,)))
    func = P.func((A, B), body)
    for shape in ((2, 3), (4, 1)):
        a = np.arange(math.prod(shape), dtype="float32").reshape(shape)
        out = np.zeros(a.size, "float32")
        run(func, a, out)
        assert np.array_equal(out, a.reshape(-1) + shape[0])
    with pytest.raises(RunError, match=r"argument B must have shape \(6,\), got \(5,\)"):
        run(func, np.zeros((2, 3), "float32"), np.zeros(5, "float32"))


def test_symbolic_temporaries():
    n = Var("n")
    A, T = Buffer("A", (n,)), Buffer("T", (n + 1,))
    i, j = Var("i"), Var("j")
    fill = P.nest([(i, n + 1)], BufferStore(T, i.astype("float32"), (i,)))
    copy = P.nest([(j, n)], BufferStore(A, T[j + 1], (j,)))
    a = np.zeros(3, "float32")
    run(P.func((A,), b.seq(fill, copy), (T,)), a)
    assert a.tolist() == [1, 2, 3]


def test_scalar_parameters():
    A = P.buf("A", (2,))
    n, alpha, flag = Var("n"), Var("alpha", "float32"), Var("flag", "bool")
    i = Var("i")
    value = b.select(flag, alpha + n.astype("float32"), 0.0)
    func = P.func((n, A, alpha, flag), P.nest([(i, 2)], BufferStore(A, value, (i,))))
    a = np.zeros(2, "float32")
    run(func, 3, a, 0.5, True)
    assert a.tolist() == [3.5, 3.5]
    run(func, np.int32(4), a, np.float32(0.25), np.True_)
    assert a.tolist() == [4.25, 4.25]
    for bad, message in [
        ((2**31, a, 0.5, True), "argument n is 2147483648, which int32 cannot hold"),
        ((0.5, a, 0.5, True), "argument n must be a number of dtype int32, got float"),
        ((1, a, "x", True), "argument alpha must be a number of dtype float32, got str"),
        ((1, a, 0.5, 1), "argument flag must be a number of dtype bool"),
        ((1, a, 0.5), r"takes 4 arguments \(n, A, alpha, flag\), got 3"),
        ((1, [0, 0], 0.5, True), "argument A must be a NumPy array, got list"),
        ((1, a.astype("float64"), 0.5, True), "argument A must have dtype float32, got float64"),
        ((1, a[:1], 0.5, True), r"argument A must have shape \(2,\), got \(1,\)"),
        ((1, a[None], 0.5, True), r"argument A must have 1 dimensions, got shape \(1, 2\)"),
    ]:
        with pytest.raises(RunError, match=message):
            run(func, *bad)


def test_arrays_of_any_layout():
    rng = np.random.default_rng(3)
    x, y = ints(rng, 6, 4).T, ints(rng, 6, 10)[:, ::2]
    out = np.zeros((5, 4), "float32").T
    run(P.matmul(4, 5, 6), x, y, out)
    assert np.array_equal(out, x @ y)


def test_declared_strides():
    s = Var("s")
    A = P.buf("A", (2, 3), "float32", strides=(s, b.const(1)))
    B = P.buf("B", (1,), "int32")
    func = P.func((A, B), BufferStore(B, s, (b.const(0),)))
    out = np.zeros(1, "int32")
    run(func, np.zeros((2, 5), "float32")[:, :3], out)
    assert out[0] == 5
    with pytest.raises(RunError, match=r"argument A must have strides \(1, 1\).*got \(1, 2\)"):
        run(func, np.zeros((3, 2), "float32").T, out)


def test_written_arguments_are_separate_and_writable():
    func = P.elementwise(lambda x: x + 1.0, 4)
    a = np.zeros(8, "float32")
    with pytest.raises(RunError, match="argument B is written and shares memory with A"):
        run(func, a[:4], a[2:6])
    run(func, a[:4], a[4:])
    assert a.tolist() == [0] * 4 + [1] * 4
    frozen = np.zeros(4, "float32")
    frozen.flags.writeable = False
    with pytest.raises(RunError, match="argument B is written, but its array is read-only"):
        run(func, a[:4], frozen)
    run(P.matmul(2, 2, 2), x := np.ones((2, 2), "float32"), x, np.zeros((2, 2), "float32"))


@pytest.mark.parametrize("dtype", dtypes.SCALARS)
def test_every_dtype_passes_through(dtype):
    kind = dtypes.numpy_dtype(dtype)
    a = np.array([0, 1, 0, 1, 1, 0, 1, 0] if dtype == "bool" else range(8)).astype(kind)
    if dtypes.is_int(dtype):
        a[0], a[1] = dtypes.min_value(dtype), dtypes.max_value(dtype)
    elif dtypes.is_float(dtype):
        a[:3] = [float(ml_dtypes.finfo(kind).max), np.nan, -0.0]
    out = np.zeros(8, kind)
    run(P.elementwise(lambda x: x, 8, dtype, dtype), a, out)
    assert out[[0, *range(2, 8)]].tobytes() == a[[0, *range(2, 8)]].tobytes()
    assert out[1] == a[1] or np.isnan(out[1])


def test_undefined_names_are_errors():
    A = P.buf("A", (2,), "int32")
    with pytest.raises(RunError, match="variable x is used where it is not defined, in block root"):
        run(P.func((A,), BufferStore(A, Var("x"), (b.const(0),))), np.zeros(2, "int32"))
    with pytest.raises(RunError, match="buffer T is used where it is not defined"):
        run(
            P.func((A,), BufferStore(A, P.buf("T", (1,), "int32")[0], (b.const(0),))),
            np.zeros(2, "int32"),
        )
