"""cache_index."""

from __future__ import annotations

import numpy as np
import pytest

from gputune.ir.build import const_int
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.schedule import Dim, Schedule, Trace
from gputune.schedule.dim import Guard, SymTable, recording
from gputune.script import tir as T
from tests.properties.programs import conv2d_padded, matmul, strided_conv1d

from . import schedule_programs as programs
from .cache_checks import same_everywhere
from .schedule_helpers import loops, prints, refuses, scheduled


def resize(h: int = 7, w: int = 9) -> PrimFunc:
    """An image of another size, of points that repeat and overlap."""

    @T.prim_func
    def f(A: T.Buffer((2, h, w), "float32"), B: T.Buffer((2, h, w), "float32")):
        for c, i, j in T.grid(2, h, w):
            with T.block("B"):
                vc, vi, vj = T.axis.remap("SSS", [c, i, j])
                B[vc, vi, vj] = A[vc, vi // 4 + vj // 4, vj // 2]

    return f


def repeated() -> PrimFunc:
    """`vi // 3 + vj` occurs twice, `vi // 3` three times, `vj * 2` once, and one loop is inside."""

    @T.prim_func
    def f(A: T.Buffer((12, 12), "float32"), B: T.Buffer((7, 5), "float32")):
        for i, j in T.grid(7, 5):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = 0.0
                for q in range(2):
                    B[vi, vj] = (
                        B[vi, vj]
                        + A[vi // 3 + vj, vj * 2]
                        - A[vi // 3 + vj + q, vi // 3]
                        + A[vi, 3]
                    )

    return f


def _values(s: Schedule) -> list[str]:
    """What each computed index is."""
    found = [s.get(x) for x in s.get_child_blocks(s.get_block("root"))]
    return [str(b.body.value) for b in found if b.name.startswith("index_")]


# ----------------------------------------------------------------------------- what comes out
def test_cache_index_prints_computing_blocks() -> None:
    def do(s: Schedule) -> None:
        assert [s.get(x).name for x in s.cache_index("B", "global")] == ["index_0", "index_1"]

    sch = same_everywhere(resize(), do)
    prints(
        sch,
        """
        index_var_0 = T.alloc_buffer((7, 9), "int32")
        index_var_1 = T.alloc_buffer((9,), "int32")
        for ax0, ax1 in T.grid(7, 9):
            with T.block("index_0"):
                v0, v1 = T.axis.remap("SS", [ax0, ax1])
                T.reads()
                T.writes(index_var_0[v0, v1])
                index_var_0[v0, v1] = v0 // 4 + v1 // 4
        for ax0 in range(9):
            with T.block("index_1"):
                v0 = T.axis.spatial(9, ax0)
                T.reads()
                T.writes(index_var_1[v0])
                index_var_1[v0] = v0 // 2
        for c, i, j in T.grid(2, 7, 9):
            with T.block("B"):
                vc, vi, vj = T.axis.remap("SSS", [c, i, j])
                T.reads(A[vc, vi // 4 + vj // 4, vj // 2], index_var_0[vi, vj], index_var_1[vj])
                T.writes(B[vc, vi, vj])
                B[vc, vi, vj] = A[vc, index_var_0[vi, vj], index_var_1[vj]]
    """,
    )


def test_the_instruction() -> None:
    sch = scheduled(resize())
    sch.cache_index("B", "shared", 1)
    sch.cache_index("index_1", "local")
    insts = sch.trace.as_json()[0]
    assert insts[1] == ["CacheIndex", ["b0"], ["shared", 1], ["b1", "b2"]]
    assert insts[3] == ["CacheIndex", ["b3"], ["local", 0], []]
    assert str(sch.trace).splitlines()[1::2] == [
        'b1, b2 = sch.cache_index(block=b0, storage_scope="shared", cse_thresh=1)',
        'sch.cache_index(block=b3, storage_scope="local", cse_thresh=0)',
    ]
    one = scheduled(strided_conv1d())
    one.cache_index("Y", "local")
    assert str(one.trace).splitlines()[1] == (
        'b1, = sch.cache_index(block=b0, storage_scope="local", cse_thresh=0)'
    )


@pytest.mark.parametrize(
    ("thresh", "values"),
    [
        (0, ["v0 // 3 + v1", "v0 * 2", "v0 // 3"]),
        (1, ["v0 // 3 + v1", "v0 * 2", "v0 // 3"]),
        (2, ["v0 // 3 + v1"]),
        (3, ["v0 // 3"]),
        (4, []),
    ],
)
def test_what_occurs_often_enough_is_computed(thresh: int, values: list[str]) -> None:
    """Of what was taken as part of something larger only other occurrences count."""
    sch = same_everywhere(repeated(), lambda s: s.cache_index("B", "local", thresh))
    assert _values(sch) == values


def test_where_there_is_nothing_to_compute_nothing_changes() -> None:
    func = matmul()
    sch = scheduled(func)
    mod = sch.mod
    assert sch.cache_index("C", "global") == []
    assert sch.mod is mod
    assert len(sch.trace.insts) == 2
    same_everywhere(func, lambda s: s.cache_index("C", "global"))


# ----------------------------------------------------------------------------- on what programs
def test_reduce_iterators_and_guarded_loads() -> None:
    """A guarded load of the padding looks nothing up outside, but its index is computed."""

    def do(s: Schedule) -> None:
        s.cache_index("P", "global")
        s.cache_index("O", "local")

    sch = same_everywhere(conv2d_padded(), do)
    assert _values(sch) == ["v0 - 1", "v0 - 1", "v0 + v1", "v0 + v1"]
    names = [sch.get(b).name for b in sch.get_child_blocks(sch.get_block("root"))]
    assert names == ["index_0", "index_1", "P", "index_2", "index_3", "O"]


def test_splits_that_do_not_divide_and_moved_blocks() -> None:
    def do(s: Schedule) -> None:
        x, o, r, c = loops(s, "Y")
        x0, x1 = s.split(x, [None, 2])
        s.split(c, [None, 3])
        (index,) = s.cache_index("Y", "local")
        assert [const_int(iv.dom.extent) for iv in s.get(index).iter_vars] == [5, 3]
        s.compute_at(index, x0)
        s.reorder(o, r)
        s.cache_read("Y", 0, "shared")
        s.vectorize(s.split(o, [None, 2])[1])
        s.unroll(x1)

    same_everywhere(strided_conv1d(), do)


def test_inlining_gives_the_indices_back() -> None:
    func = resize()
    sch = scheduled(func)
    for b in sch.cache_index("B", "global"):
        sch.compute_inline(b)
    plain = scheduled(func)
    assert str(sch.get(sch.get_block("B")).body) == str(plain.get(plain.get_block("B")).body)


def test_part_of_a_domain_triangles_and_conditions() -> None:
    @T.prim_func
    def f(X: T.Buffer((6, 4), "float32"), Y: T.Buffer((6, 6), "float32")):
        for i in range(6):
            for j in range(i + 1):
                if j != 2:
                    with T.block("Y"):
                        vi = T.axis.spatial(6, i)
                        vj = T.axis.spatial(6, j)
                        T.where(i + j < 9)
                        Y[vi, vj] = X[vi - vj, vj // 2] + X[vi - vj, (vi + vj) % 4]

    def do(s: Schedule) -> None:
        assert len(s.cache_index("Y", "global")) == 3

    same_everywhere(f, do)


def test_loads_in_indices_and_wide_integers() -> None:
    @T.prim_func
    def f(
        ids: T.Buffer((10,), "int32"),
        W: T.Buffer((8, 6), "float32"),
        Y: T.Buffer((5, 6), "float32"),
    ):
        for i, j in T.grid(T.int64(5), T.int64(6)):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = W[ids[vi * T.int64(2) + T.int64(1)] % 8, T.int64(5) - vj]

    sch = same_everywhere(f, lambda s: s.cache_index("Y", "global"))
    assert _values(sch) == ["T.int64(5) - v0", "v0 * T.int64(2) + T.int64(1)"]
    b = sch.get(sch.get_block("index_0"))
    assert b.writes[0].buffer.dtype == "int64"


def test_what_may_fail_or_belongs_to_loops_inside_stays() -> None:
    @T.prim_func
    def f(
        n: T.int32,
        A: T.Buffer((40,), "float32"),
        d: T.Buffer((6,), "int32"),
        B: T.Buffer((6,), "float32"),
    ):
        for i in range(6):
            with T.block("B"):
                vi = T.axis.spatial(6, i)
                B[vi] = A[n + 1] + A[vi * n]
                for q in range(3):
                    B[vi] = B[vi] + A[q * 2 + vi * 3] + A[d[vi] + 4]
                if d[vi] > 0:
                    B[vi] = B[vi] + A[12 // d[vi]]

    sch = scheduled(f)
    (index,) = sch.cache_index("B", "global")
    assert str(sch.get(index).body.value) == "v0 * 3"
    a, d = np.arange(40, dtype=np.float32), np.array([3, 0, 2, 0, 12, 1], np.int32)
    want, got = np.zeros(6, np.float32), np.zeros(6, np.float32)
    run(f, 4, a, d, want)
    run(sch.mod["f"], 4, a, d, got, check_regions=True)
    assert np.array_equal(want, got)


def test_blocks_inside_blocks_keep_their_indices_inside() -> None:
    """The index is computed where the outer block runs, in terms of the inner block's iterators."""

    @T.prim_func
    def f(X: T.Buffer((8, 8), "float32"), Y: T.Buffer((8, 8), "float32")):
        for i in range(4):
            with T.block("outer"):
                vo = T.axis.spatial(4, i)
                T.reads(X[vo * 2 : vo * 2 + 2, 0:8])
                T.writes(Y[vo * 2 : vo * 2 + 2, 0:8])
                for a, j in T.grid(2, 8):
                    with T.block("inner"):
                        va, vj = T.axis.remap("SS", [a, j])
                        T.reads(X[vo * 2 + va, 7 - vj])
                        T.writes(Y[vo * 2 + va, vj])
                        Y[vo * 2 + va, vj] = X[vo * 2 + va, 7 - vj]

    sch = same_everywhere(f, lambda s: s.cache_index("inner", "local"))
    index, _ = sch.get_child_blocks(sch.get_block("outer"))
    assert str(sch.get(index).body.value) == "7 - v0"


def test_sizes_that_are_not_known() -> None:
    @T.prim_func
    def f(x: T.handle, y: T.handle):
        n = T.int32()
        X = T.match_buffer(x, (n, n), "float32")
        Y = T.match_buffer(y, (n, n), "float32")
        for i, j in T.grid(n, n):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = X[(vi + vj) // 2, vi // 2]

    sch = scheduled(f)
    sch.cache_index("Y", "global")
    assert [str(e) for e in sch.get(sch.get_block("index_0")).writes[0].buffer.shape] == ["n", "n"]
    x = np.arange(25, dtype=np.float32).reshape(5, 5)
    want, got = np.zeros_like(x), np.zeros_like(x)
    run(f, x, want)
    run(sch.mod["f"], x, got, check_regions=True)
    assert np.array_equal(want, got)


def test_a_layout_of_the_computed_indices_reaches_declared_regions() -> None:
    """Steps that find out anew what a block reads name the lookup in the region; a layout of the
    lookup table changes it there too."""

    def do(s: Schedule) -> None:
        (index,) = s.cache_index("Y", "global")
        s.transform_block_layout("Y", lambda x, o, r, c: (o, x, r, c))
        s.reindex_cache_write(index, 0, "local", lambda x, r: (r, x))
        s.transform_layout(index, ("write", 0), lambda r, x: (x, r))
        s.transform_layout("Y", "index_var_0", lambda x, r: (r, x))

    same_everywhere(strided_conv1d(), do)


# ----------------------------------------------------------------------------- sampled values
def test_sampled_factors_ask_no_question() -> None:
    """What a layout put into the index is computed for every tiling alike."""

    def do(s: Schedule) -> None:
        v = s.sample_perfect_tile(loops(s, "C")[2], 2, 64, decision=[2, 4])
        s.cache_read("C", 0, "global")
        s.transform_layout("C", ("read", 0), lambda i, k: (k // v[1], i, k % v[1]))
        s.cache_index("C", "local", 1)

    func = matmul()
    sch = same_everywhere(func, do)
    trace = sch.trace.copy()
    assert _values(sch) == ["v0 // 4", "v0 % 4"]
    table: SymTable = {}

    def guards(count: int) -> set[Guard]:
        with recording(table) as found:
            Trace(trace.insts[:count], trace.decisions).apply_to_schedule(
                Schedule(func, seed=1),
                decision_provider=lambda inst, inputs, attrs, old: [
                    Dim(x, f"{n}") for n, x in enumerate(old)
                ],
            )
        return set(found)

    assert trace.insts[-1].kind.name == "CacheIndex"
    assert guards(len(trace.insts)) == guards(len(trace.insts) - 1)


# ----------------------------------------------------------------------------- refusals
def test_cache_index_refuses() -> None:
    sch = scheduled(resize())
    e = refuses(sch, "storage-scope", lambda: sch.cache_index("B", "moon"), names="'moon'")
    assert "global" in e.hint
    e = refuses(sch, "cache-index-thresh", lambda: sch.cache_index("B", "local", -1), names="-1")
    assert "twice" in e.hint
    refuses(sch, "argument", lambda: sch.cache_index("B", "local", 1.5), names="cse_thresh")  # type: ignore[arg-type]  # wrong on purpose
    refuses(sch, "argument", lambda: sch.cache_index("B", 3), names="storage_scope")  # type: ignore[arg-type]  # wrong on purpose
    refuses(sch, "cache-index-inner", lambda: sch.cache_index("root", "local"), names="root")
    sch = scheduled(programs.nested_blocks())
    refuses(sch, "cache-index-inner", lambda: sch.cache_index("outer", "local"), names="outer")

    @T.prim_func
    def late(X: T.Buffer((6,), "float32"), Y: T.Buffer((6,), "float32")):
        for i in range(4):
            with T.block("Y"):
                vi = T.axis.spatial((2, 6), i + 2)
                Y[vi] = X[vi // 2]

    sch = scheduled(programs.triangle())
    sch.cache_read("Y", 0, "global")
    sch.transform_layout("Y", ("read", 0), lambda i, j: (i, j // 2, j % 2))
    refuses(sch, "cache-index-domain", lambda: sch.cache_index("Y", "local"), names="vj")
    sch = scheduled(late)
    refuses(sch, "cache-index-domain", lambda: sch.cache_index("Y", "local"), names="vi")
