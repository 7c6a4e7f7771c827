from __future__ import annotations

import threading

import numpy as np
import pytest
from runtime_kernels import FAILS, SCALE, add_code, add_function, dims, elementwise, stores

from gputune.codegen import llvm
from gputune.errors import BuildError, RunError
from gputune.ir import build
from gputune.ir.nodes import (
    Block,
    BlockKey,
    Buffer,
    BufferRegion,
    MatchBuffer,
    PrimFunc,
    Range,
    Var,
)
from gputune.runtime.function import Function
from gputune.runtime.native import assemble
from gputune.runtime.ndarray import array, empty
from gputune.runtime.signature import concrete_arguments, signature, slots_of, written_buffers


def arrays(shape=(4, 8), dtype="float32"):
    rng = np.random.default_rng(0)
    a, b = (rng.random(shape).astype(dtype) for _ in "ab")
    return a, b, np.full(shape, np.nan, dtype)


def test_call_and_bind():
    add = add_function()
    a, b, c = arrays()
    add(a, b, c)
    assert np.array_equal(c, a + b)
    bound = add.bind(a, b, c)
    a += 1
    bound()
    assert np.array_equal(c, a + b)
    assert repr(add) == "Function(add(A: float32[4, 8], B: float32[4, 8], C: float32[4, 8]))"
    assert not bound.parallel


def test_bound_call_keeps_its_arrays():
    add = add_function(64, 64)
    a, b, c = arrays((64, 64))
    want = a + b
    bound = add.bind(a.copy(), b.copy(), c)
    del a, b
    np.full((64, 64), 7, "float32")  # would land in freed memory
    bound()
    assert np.array_equal(c, want)


def test_other_kinds_of_arrays():
    add = add_function()
    a, b, _ = arrays()
    c = empty((4, 8))
    add(array(a), b, c)
    assert np.array_equal(c.numpy(), a + b)

    class Torchlike:
        def __dlpack__(self, **options):
            return a.__dlpack__(**options)

        def __dlpack_device__(self):
            return (1, 0)

    add(b, Torchlike(), c)
    assert np.array_equal(c.numpy(), a + b)


def test_read_only_inputs_are_fine():
    add = add_function()
    a, b, c = arrays()
    a.flags.writeable = False
    add(a, b, c)
    assert np.array_equal(c, a + b)


def misaligned(shape, dtype="float32"):
    n = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(n + 1, np.uint8)
    return raw[1:].view(dtype).reshape(shape)


class OnGpu:
    __cuda_array_interface__ = {}  # noqa: RUF012 - a stand-in, never changed


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


WRONG = {
    "count": (lambda a, b, c: (a, b), r"add takes 3 arguments \(A, B, C\), found 2"),
    "dtype": (
        lambda a, b, c: (a, b.astype("float64"), c),
        r"add: argument 'B' \(2 of 3\): expected dtype float32, found float64",
    ),
    "byte order": (lambda a, b, c: (a.astype(">f4"), b, c), "expected dtype float32, found >f4"),
    "shape": (
        lambda a, b, c: (a[:2].copy(), b, c),
        r"'A' \(1 of 3\): expected shape \(4, 8\), found \(2, 8\)",
    ),
    "rank": (lambda a, b, c: (a, b, c.reshape(-1)), r"'C'.*expected shape \(4, 8\), found \(32,\)"),
    "order": (
        lambda a, b, c: (np.asfortranarray(a), b, c),
        r"'A'.*expected C-contiguous memory, found strides \(4, 16\) bytes",
    ),
    "slice": (
        lambda a, b, c: (np.zeros((4, 16), "float32")[:, ::2], b, c),
        "expected C-contiguous memory",
    ),
    "alignment": (
        lambda a, b, c: (a, misaligned((4, 8)), c),
        "'B'.*expected memory aligned to 4 bytes, found",
    ),
    "read-only": (
        lambda a, b, c: (a, b, read_only(c)),
        "'C'.*is written by the kernel: expected a writable array, found a read-only one",
    ),
    "same": (lambda a, b, c: (a, b, a), "'C'.*expected memory of its own, found that of .*'A'"),
    "overlap": (
        lambda a, b, c: (lambda x: (x[:4], b, x[2:]))(np.zeros((6, 8), "float32")),
        "'C'.*expected memory of its own",
    ),
    "list": (lambda a, b, c: (a.tolist(), b, c), "'A'.*expected an array, found list"),
    "none": (lambda a, b, c: (a, None, c), "'B'.*expected an array, found NoneType"),
    "device": (
        lambda a, b, c: (a, OnGpu(), c),
        "'B'.*expected an array in host memory, found a OnGpu on cuda",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused(case):
    add = add_function()
    make, message = WRONG[case]
    for use in (add, add.bind):
        a, b, c = arrays()
        with pytest.raises(RunError, match=message):
            use(*make(a, b, c))
        assert np.isnan(c).all()


def test_same_input_twice_is_fine():
    add = add_function()
    a, _, c = arrays()
    add(a, a, c)
    assert np.array_equal(c, a + a)


def test_declared_alignment_is_asked_for():
    add = add_function(align=64)
    a, b, c = (array(x) for x in arrays())
    add(a, b, c)
    raw = array(np.zeros(33, "float32")).data
    with pytest.raises(RunError, match="expected memory aligned to 64 bytes, found 4"):
        add(raw[1:].reshape(4, 8), b, c)


def test_overlap_is_allowed_where_the_program_says_so():
    bufs = [Buffer(x, dims(4, 8)) for x in "ABC"]
    func = elementwise(*bufs).with_attr("tir.noalias", False)
    loaded = llvm.load(add_code(32), "add")
    add = Function(signature(func, "add"), loaded.address, loaded)
    a, b, _ = arrays()
    want = a + b
    add(a, b, a)
    assert np.array_equal(a, want)


def scale():
    """scale(A: float32[n], s: float32, k: int64), n symbolic"""
    n, s, k = Var("n", "int64"), Var("s", "float32"), Var("k", "int64")
    func = elementwise(Buffer("A", (n,)), scalars=(s, k))
    loaded = llvm.load(assemble(SCALE), "scale")
    return Function(signature(func, "scale", (n,)), loaded.address, loaded)


def test_scalars_and_symbolic_sizes():
    f = scale()
    for n in (0, 1, 7):
        a = np.zeros(n, "float32")
        f(a, 1.5, -3)
        assert (a == -4.5).all()
    a = np.zeros(3, "float32")
    f(a, np.float32(0.5), np.int64(4))
    assert (a == 2).all()
    f.bind(a, 2, True)()
    assert (a == 2).all()
    with pytest.raises(RunError, match=r"'k' \(3 of 3\): expected a int64 number, found 1.5"):
        f(a, 1.0, 1.5)
    with pytest.raises(RunError, match=r"'k'.*found 9223372036854775808, which it cannot hold"):
        f(a, 1.0, 2**63)
    with pytest.raises(RunError, match=r"'s'.*expected a float32 number, found str"):
        f(a, "x", 1)


def test_symbolic_sizes_must_agree():
    n = Var("n", "int64")
    a, b = Buffer("A", dims(n, 4)), Buffer("B", dims(n * 2, 4))
    sig = signature(elementwise(a, b), "f", (n,))
    x = np.zeros((3, 4), "float32")
    slots, kept = slots_of(sig, (x, np.zeros((6, 4), "float32")))
    assert slots[2:] == [3]
    assert kept[0] is x
    with pytest.raises(
        RunError, match=r"'B'.*expected shape \(6, 4\) = \(n \* .*2.*, 4\), found \(5, 4\)"
    ):
        slots_of(sig, (x, np.zeros((5, 4), "float32")))


def test_sizes_from_a_scalar_parameter():
    n = Var("n", "int32")
    sig = signature(elementwise(Buffer("A", (n,)), scalars=(n,)), "f")
    slots, _ = slots_of(sig, (np.zeros(5, "float32"), 5))
    assert slots[1] == 5
    with pytest.raises(RunError, match=r"expected shape \(4,\) = \(n\), found \(5,\)"):
        slots_of(sig, (np.zeros(5, "float32"), 4))


def test_sizes_nobody_knows():
    n, m = Var("n", "int64"), Var("m", "int64")
    sig = signature(elementwise(Buffer("A", (n * m,))), "f", (n, m))
    with pytest.raises(RunError, match="no argument tells the size 'n'"):
        slots_of(sig, (np.zeros(6, "float32"),))


def test_declared_strides():
    a = Buffer("A", dims(3, 4), strides=dims(8, 1))
    sig = signature(elementwise(a), "f")
    slots_of(sig, (np.zeros((3, 8), "float32")[:, :4],))
    with pytest.raises(
        RunError, match=r"expected strides \(8, 1\) elements, found \(16, 4\) bytes"
    ):
        slots_of(sig, (np.zeros((3, 4), "float32"),))
    s = Var("s", "int64")
    sig = signature(elementwise(Buffer("A", dims(3, 4), strides=(s, build.const(1)))), "f", (s,))
    assert slots_of(sig, (np.zeros((3, 9), "float32")[:, :4],))[0][1] == 9


def test_declared_offset_is_refused():
    sig = signature(elementwise(Buffer("A", dims(4), elem_offset=build.const(2))), "f")
    with pytest.raises(RunError, match="declares the element offset 2"):
        slots_of(sig, (np.zeros(4, "float32"),))


def test_written_buffers_are_found_through_stores_and_views():
    a, b, c = (Buffer(x, dims(4)) for x in "ABC")
    part = Buffer("part", dims(4))
    whole = BufferRegion(b, (Range(build.const(0), build.const(4)),))
    one = build.const(1.0, "float32")
    inner = Block(
        BlockKey(), "inner", (), (), build.TRUE, (), (),
        build.seq(stores(part, one), stores(c, one)), None, (), (MatchBuffer(part, whole),),
    )  # fmt: skip
    root = Block(BlockKey(), "root", (), (), build.TRUE, (), (), inner)
    handles = [Var(x, "handle") for x in "abc"]
    func = PrimFunc(tuple(handles), tuple(zip(handles, (a, b, c))), root)
    assert written_buffers(func) == {b, c}


def test_error_codes_of_kernels():
    loaded = llvm.load(assemble(FAILS), "fails")
    f = Function(signature(elementwise(Buffer("A", dims(2))), "fails"), loaded.address, loaded)
    x = np.zeros(2, "float32")
    for call in (lambda: f(x), f.bind(x)):
        with pytest.raises(RunError, match="fails: the kernel reported error code 7"):
            call()


def test_calls_from_many_threads():
    add = add_function(64, 64)
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(200):
            a, b = (rng.random((64, 64), dtype="float32") for _ in "ab")
            c = np.zeros_like(a)
            add(a, b, c)
            if not np.array_equal(c, a + b):
                failures.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_concrete_arguments():
    n = Var("n", "int64")
    sig = signature(elementwise(Buffer("A", dims(n, 4)), Buffer("B", dims(n))), "f", (n,))
    a, b, size = concrete_arguments(sig, {n: 3})
    assert a["shape"] == [3, 4]
    assert (a["written"], b["written"]) == (False, True)
    assert size == {"kind": "scalar", "name": "n", "dtype": "int64", "value": 3}
    with pytest.raises(BuildError, match="no argument tells the size 'n'; give its value in sizes"):
        concrete_arguments(sig)
