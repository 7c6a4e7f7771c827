"""unsafe_set_dtype: what is converted where, what stays exact, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gputune.ir import dtypes
from gputune.ir.equal import structural_equal
from gputune.ir.interp import run
from gputune.ir.nodes import Block, IRModule, PrimFunc
from gputune.meta_schedule.population import Sketch
from gputune.meta_schedule.sketch_feature import Machine
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import from_source
from gputune.script import tir as T
from tests.properties import programs as law_programs

from . import schedule_programs as programs
from .schedule_helpers import keeps, loops, prints, refuses, replays, scheduled


def same_text(sch: Schedule) -> None:
    parsed = from_source(sch.mod.script())
    assert isinstance(parsed, IRModule)
    assert structural_equal(parsed, sch.mod)


def test_values_are_converted_at_stores_and_loads() -> None:
    sch = scheduled(programs.chain())
    sch.unsafe_set_dtype("B", 0, "float16")
    prints(
        sch,
        """
        B = T.alloc_buffer((4, 6), "float16")
        for i, j in T.grid(4, 6):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                T.reads(X[vi, vj])
                T.writes(B[vi, vj])
                B[vi, vj] = T.Cast("float16", X[vi, vj] + T.float32(1))
        for i, j in T.grid(4, 6):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                T.reads(B[vi, vj])
                T.writes(Y[vi, vj])
                Y[vi, vj] = T.Cast("float32", B[vi, vj]) * T.float32(2)
    """,
    )
    same_text(sch)
    replays(programs.chain(), sch)
    assert sch.trace.as_json()[0][1] == ["UnsafeSetDType", ["b0"], [0, "float16"], []]
    assert str(sch.trace).splitlines()[-1] == (
        'sch.unsafe_set_dtype(block=b0, buffer_index=0, dtype="float16")'
    )


def test_a_reduction_converts_at_every_step() -> None:
    sch = scheduled(programs.reduced_halo())
    sch.unsafe_set_dtype("S", "S", "float64")
    b = sch.get(sch.get_block("S"))
    assert str(b.init.value) == "T.float64(0)"
    assert str(b.body.value) == 'T.Cast("float64", T.Cast("float32", S[vi]) + X[vi, vk])'
    assert sch.trace.as_json()[0][1][2] == ["S", "float64"]
    k = loops(sch, "S")[1]
    refuses(sch, "rfactor-combiner", lambda: sch.rfactor(k, 0), names="block S")
    same_text(sch)


def test_set_twice_and_to_what_it_is() -> None:
    sch = scheduled(programs.chain())
    before = sch.mod
    sch.unsafe_set_dtype("B", 0, "float32")
    assert sch.mod is before
    assert len(sch.trace.insts) == 2
    sch.unsafe_set_dtype("B", 0, "float64")
    buffer = sch.get(sch.get_block("B")).writes[0].buffer
    sch.unsafe_set_dtype("B", buffer, "float16")  # what it held is converted once more
    assert sch.trace.as_json()[0][-1][2] == [0, "float16"]  # no buffer in a trace
    assert str(sch.get(sch.get_block("Y")).body.value) == (
        'T.Cast("float32", T.Cast("float64", B[vi, vj])) * T.float32(2)'
    )
    replays(programs.chain(), sch)


# ----------------------------------------------------------------------------- exact types
def row_minimum() -> PrimFunc:
    """Values of int8 and bool, a buffer that is read as an index, in a condition and as a bound."""

    @T.prim_func
    def f(X: T.Buffer((5, 7), "int8"), Y: T.Buffer((5,), "int8"), Z: T.Buffer((5,), "int8")):
        M = T.alloc_buffer((5,), "int8")
        P = T.alloc_buffer((5,), "bool")
        J = T.alloc_buffer((5,), "int32")
        for i, k in T.grid(5, 7):
            with T.block("M"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    M[vi] = T.max_value("int8")
                M[vi] = T.min(M[vi], X[vi, vk])
        for i in range(5):
            with T.block("P"):
                vi = T.axis.spatial(5, i)
                P[vi] = X[vi, 0] > M[vi]
        for i in range(5):
            with T.block("J"):
                vi = T.axis.spatial(5, i)
                J[vi] = (vi * 3 + 1) % 5
        for i in range(5):
            with T.block("Y"):
                vi = T.axis.spatial(5, i)
                Y[vi] = T.if_then_else(P[vi], M[J[vi]], X[vi, J[vi]])
        for i in range(5):
            with T.block("Z"):
                vi = T.axis.spatial(5, i)
                if J[vi] < 3:
                    Z[vi] = X[vi, J[vi]] + Y[J[vi]]
                else:
                    Z[vi] = M[vi]

    return f


def vectors() -> PrimFunc:
    """Whole vectors, one of them masked."""

    @T.prim_func
    def f(X: T.Buffer((16,), "float32"), Y: T.Buffer((16,), "float32")):
        B = T.alloc_buffer((16,))
        for i in range(4):
            with T.block("B"):
                vi = T.axis.spatial(4, i)
                B[vi * 4 : vi * 4 + 4] = X[vi * 4 : vi * 4 + 4] + T.Broadcast(T.float32(1), 4)
        for i in range(4):
            with T.block("Y"):
                vi = T.axis.spatial(4, i)
                Y[vi * 4 : vi * 4 + 4] = B[vi * 4 : vi * 4 + 4] * X[vi * 4 : vi * 4 + 4]

    return f


@pytest.mark.parametrize(
    ("program", "changes"),
    [
        (programs.halo, [("B", "float64")]),
        (programs.reduced_halo, [("S", "float64")]),
        (programs.diamond, [("B", "float64"), ("C", "float64"), ("D", "float64")]),
        (programs.views, [("B", "float64")]),
        (programs.nested_blocks, [("B", "float64")]),
        (programs.opaque_rows, [("B", "float64")]),
        (programs.loaded_condition, [("B", "float64")]),
        (programs.softmax, [("M", "float64"), ("E", "float64"), ("S", "float64")]),
        (programs.arg_max, [("A", "float64")]),
        (programs.wide_indices, [("B", "float64")]),
        (law_programs.transpose_add, [("S", "int64")]),
        (law_programs.transpose_add, [("S", "float64")]),
        (law_programs.reshape_sum, [("R", "float64")]),
        (row_minimum, [("M", "int32"), ("P", "int8"), ("J", "int64")]),
        (row_minimum, [("M", "float16"), ("P", "float32"), ("J", "float64")]),
        (vectors, [("B", "float64")]),
    ],
)
def test_a_type_that_holds_every_value_changes_nothing(
    program: Callable[[], PrimFunc], changes: list[tuple[str, str]]
) -> None:
    func = program()

    def do(s: Schedule) -> None:
        for block, dtype in changes:
            s.unsafe_set_dtype(block, 0, dtype)

    sch = keeps(func, do)
    same_text(sch)
    rng = np.random.default_rng(3)
    args = []
    for b in func.buffers:
        shape = tuple(e.value for e in b.shape)
        args.append((rng.normal(size=shape) * 9).astype(dtypes.numpy_dtype(b.dtype)))
    plain, new = [a.copy() for a in args], [a.copy() for a in args]
    build(func, "llvm --num-cores=2")(*plain)
    build(sch.mod, "llvm --num-cores=2")[func.name](*new)
    for want, got in zip(plain, new, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_second_results_views_and_names() -> None:
    sch = keeps(programs.arg_max(), lambda s: s.unsafe_set_dtype("A", "J", "int64"))
    held = {b.name: b.dtype for b in sch.get(sch.get_block("root")).alloc_buffers}
    assert held == {"M": "float32", "J": "int64"}
    sch = keeps(programs.views(), lambda s: s.unsafe_set_dtype("B", 0, "float64"))
    (view, other) = sch.get(sch.get_block("Y")).match_buffers
    assert (view.buffer.dtype, view.source.buffer.dtype, other.buffer.dtype) == (
        "float64", "float64", "float32",
    )  # fmt: skip


def test_scope_strides_and_alignment_stay() -> None:
    @T.prim_func
    def f(X: T.Buffer((4, 6), "float32"), Y: T.Buffer((4, 6), "float32")):
        B = T.alloc_buffer((4, 6), "float32", scope="shared", strides=(8, 1), align=128)
        for i, j in T.grid(4, 6):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj]
        for i, j in T.grid(4, 6):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = B[vi, vj]

    sch = keeps(f, lambda s: s.unsafe_set_dtype("B", 0, "float64"))
    (b,) = sch.get(sch.get_block("root")).alloc_buffers
    assert (b.dtype, b.scope, b.align) == ("float64", "shared", 128)
    assert [e.value for e in b.strides] == [8, 1]


# ----------------------------------------------------------------------------- types that do not
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "int32", "bool"])
def test_what_does_not_fit_is_rounded_as_numpy_rounds(dtype: str) -> None:
    func = programs.chain()
    sch = scheduled(func)
    sch.unsafe_set_dtype("B", 0, dtype)
    sch.vectorize(sch.split(loops(sch, "B")[1], [None, 4])[1])  # 6 columns by 4s
    x = (np.random.default_rng(5).normal(size=(4, 6)) * 30).astype("f4")
    held = (x + np.float32(1)).astype(dtypes.numpy_dtype(dtype)).astype("f4")
    assert not np.array_equal(held, x + np.float32(1))  # it makes a difference
    y = np.full((4, 6), np.nan, "f4")
    run(sch.mod["f"], x, y)
    np.testing.assert_array_equal(y, held * 2)
    y[:] = np.nan
    build(sch.mod, "llvm --num-cores=2")["f"](x, y)
    np.testing.assert_array_equal(y, held * 2)


def test_integers_wrap() -> None:
    func = law_programs.transpose_add()
    sch = scheduled(func)
    sch.unsafe_set_dtype("S", 0, "int8")
    x = np.arange(24, dtype="i4").reshape(4, 6) * 17
    want = (x.T * 3).astype("i1").astype("i4") + 1
    for call in (lambda *a: run(sch.mod["f"], *a), build(sch.mod, "llvm")["f"]):
        y = np.zeros((6, 4), "i4")
        call(x, y)
        np.testing.assert_array_equal(y, want)


def test_other_primitives_go_on_from_there() -> None:
    def do(s: Schedule) -> None:
        s.unsafe_set_dtype("S", 0, "float64")
        i, k = loops(s, "S")
        k0, k1 = s.split(k, [None, 3])  # 5 by 3s
        s.reorder(k0, i, k1)
        w = s.cache_write("S", 0, "local")
        assert s.get(w).writes[0].buffer.dtype == s.get(w).reads[0].buffer.dtype == "float64"
        s.decompose_reduction("S", k0)
        s.unsafe_set_dtype(w, 0, "float32")
        s.transform_layout("Y", ("read", 0), lambda i: (i // 5, i % 5))

    keeps(programs.reduced_halo(), do)


def test_a_matrix_of_decisions_agrees_with_replay() -> None:
    func = law_programs.dense_bias_relu()
    sch = Schedule(func, seed=3)
    i, _, k = loops(sch, "Y")
    sch.split(i, sch.sample_tile(i, 2))
    sch.split(k, sch.sample_perfect_tile(k, 2))
    sch.unsafe_set_dtype("Y", 0, "float64")
    sketch = Sketch(IRModule.from_expr(func), sch.trace, (), Machine())
    rows = sketch.decisions.sample(20, np.random.default_rng(1))
    assert sketch.evaluate(rows).valid.all()
    assert not sketch.fallbacks
    for row in rows[:5]:
        again, refusal = sketch.schedule(row)
        assert refusal is None
        replays(func, again)


# ----------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("arguments", "code", "names"),
    [
        (("Y", 0, "float16"), "buffer-parameter", "buffer Y is a parameter"),
        (("B", 1, "float16"), "buffer-index", "1"),
        (("B", -1, "float16"), "buffer-index", "-1"),
        (("B", "X", "float16"), "buffer-index", "'X'"),
        (("B", 0, "float17"), "dtype", "'float17'"),
        (("B", 0, "float32x4"), "dtype", "'float32x4'"),
        (("B", 0, "handle"), "dtype", "'handle'"),
        (("B", 0, 16), "argument", "dtype must be a string"),
        (("B", 1.5, "float16"), "argument", "buffer_index"),
        (("Q", 0, "float16"), "no-block", "'Q'"),
        (("root", 0, "float16"), "buffer-index", "0"),
    ],
)
def test_arguments_that_are_refused(arguments: Any, code: str, names: str) -> None:
    sch = scheduled(programs.chain())
    e = refuses(sch, code, lambda: sch.unsafe_set_dtype(*arguments), names=names)
    assert e.hint or code == "argument"


def test_a_view_is_refused() -> None:
    @T.prim_func
    def f(X: T.Buffer((8, 8), "float32"), Y: T.Buffer((8, 8), "float32")):
        for i in range(8):
            with T.block("outer"):
                vi = T.axis.spatial(8, i)
                T.reads(X[vi, 0:8])
                T.writes(Y[vi, 0:8])
                W = T.match_buffer(Y[vi, 0:8], (8,), "float32", offset_factor=1)
                for j in range(8):
                    with T.block("inner"):
                        vj = T.axis.spatial(8, j)
                        W[vj] = X[vi, vj] * 2.0

    sch = scheduled(f)
    b = sch.get(sch.get_block("inner"))
    assert type(b) is Block
    e = refuses(sch, "buffer-view", lambda: sch.unsafe_set_dtype("inner", 0, "float16"), names="W")
    assert "view of" in e.hint
