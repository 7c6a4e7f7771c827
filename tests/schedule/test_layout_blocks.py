"""transform_block_layout, reorder_block_iter_var, reindex, pad_einsum, decompose_padding."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from gputune.ir.build import const_int
from gputune.ir.nodes import PrimFunc
from gputune.schedule import Schedule
from gputune.script import tir as T
from tests.properties.programs import conv2d_padded, matmul, max_pool, strided_conv1d

from . import schedule_programs as programs
from .schedule_helpers import keeps, loops, prints, refuses, scheduled


def extents(s: Schedule, block: str) -> list[int | None]:
    return [const_int(s.get(x).extent) for x in loops(s, block)]


# ----------------------------------------------------------------------------- block layouts
def test_transform_block_layout_makes_new_loops() -> None:
    sch = keeps(
        programs.row_sum(4, 6),
        lambda s: s.transform_block_layout("Y", lambda i, k: (k // 3, i, k % 3)),
    )
    prints(
        sch,
        """
        for ax0, i, ax2 in T.grid(2, 4, 3):
            with T.block("Y"):
                v0, vi, v2 = T.axis.remap("RSR", [ax0, i, ax2])
                T.reads(X[vi, v0 * 3 + v2])
                T.writes(Y[vi])
                with T.init():
                    Y[vi] = T.float32(0)
                Y[vi] = Y[vi] + X[vi, v0 * 3 + v2]
    """,
    )


def test_loops_of_iterators_that_only_move_stay_the_same_loops() -> None:
    sch = scheduled(matmul())
    i, j, k = loops(sch, "C")
    sch.transform_block_layout("C", lambda i, j, k: (k, i, j))
    assert [sch.get(x).var for x in loops(sch, "C")] == [sch.get(x).var for x in (k, i, j)]
    mod = sch.mod
    sch.transform_block_layout("C", lambda k, i, j: (k, i, j))
    assert sch.mod.script() == mod.script()


def test_transform_block_layout_with_other_primitives() -> None:
    def do(s: Schedule) -> None:
        s.transform_block_layout("C", lambda i, j, k: (i * 4 + j, k))
        ij, k = loops(s, "C")
        a, b = s.split(ij, [None, 5])
        s.reorder(a, k, b)
        s.decompose_reduction("C", k)

    keeps(matmul(), do)

    def tiled(s: Schedule) -> None:
        v = s.sample_perfect_tile(loops(s, "Y")[0], 2, 64)
        s.transform_block_layout("Y", lambda i, k: (i // v[1], k, i % v[1]))
        s.rfactor(loops(s, "Y")[1], 0)

    keeps(programs.row_sum(), tiled)


def test_a_reduction_whose_order_matters_keeps_it() -> None:
    def split(s: Schedule) -> None:
        s.transform_block_layout("Y", lambda i, k: (k // 3, k % 3, i))

    keeps(programs.horner(), split)
    sch = scheduled(programs.horner())
    refuses(
        sch,
        "reorder-order",
        lambda: sch.transform_block_layout("Y", lambda i, k: (i, k % 3, k // 3)),
        names="order",
    )


def test_transform_block_layout_refuses() -> None:
    sch = scheduled(matmul())
    b = sch.get_block("C")

    def tb(f: Any) -> Any:
        return lambda: sch.transform_block_layout(b, f)

    refuses(sch, "block-layout", tb(lambda i, j, k: (i // 2, j, k)), names="injective")
    refuses(
        sch, "block-layout", tb(lambda i, j, k: (i // 4, i % 4, j, k)), names="holds no element"
    )
    refuses(sch, "block-layout-kind", tb(lambda i, j, k: (i, j * 8 + k)), names="reduce")
    refuses(sch, "index-map", tb(lambda i, j: (i, j)), names="there are 3")
    refuses(sch, "argument", tb("C"), names="index_map")
    i, _, k = loops(sch, "C")
    sch.parallel(i)
    refuses(sch, "nest-marked", tb(lambda *v: v), names="parallel")
    sch.split(k, [None, 4])
    refuses(sch, "nest-binding", tb(lambda *v: v), names="block C")
    sch = scheduled(matmul())
    b = sch.get_block("C")
    sch.split(loops(sch, "C")[2], [None, 3])
    refuses(sch, "nest-guard", tb(lambda *v: v), names="predicate")
    sch = scheduled(programs.chain())
    b = sch.get_block("B")
    sch.compute_at(b, loops(sch, "Y")[0], preserve_unit_loops=True)
    refuses(sch, "nest-binding", tb(lambda i, j: (j, i)))
    sch = scheduled(programs.recurrence())
    b = sch.get_block("Y")
    refuses(sch, "reorder-own", tb(lambda i, k: (k, i)), names="reads what")


def test_blocks_that_share_a_loop_are_refused() -> None:
    @T.prim_func
    def f(X: T.Buffer((4, 4), "float32"), Y: T.Buffer((4, 4), "float32")):
        B = T.alloc_buffer((4, 4))
        for i in range(4):
            for j in range(4):
                with T.block("B"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    B[vi, vj] = X[vi, vj]
            for j in range(4):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    Y[vi, vj] = B[vi, vj]

    sch = scheduled(f)
    refuses(
        sch, "nest-shared", lambda: sch.transform_block_layout("B", lambda i, j: (j, i)), names="i"
    )
    refuses(sch, "nest-shared", lambda: sch.pad_einsum("B", [3, 3]), names="i")


def test_opaque_iterators_and_unknown_extents_are_refused() -> None:
    @T.prim_func
    def scan(X: T.Buffer((4,), "float32"), Y: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.block("Y"):
                vi = T.axis.opaque(4, i)
                Y[vi] = X[vi]

    sch = scheduled(scan)
    refuses(sch, "iter-kind", lambda: sch.transform_block_layout("Y", lambda i: (i,)))

    @T.prim_func
    def late(X: T.Buffer((6,), "float32"), Y: T.Buffer((6,), "float32")):
        for i in range(4):
            with T.block("Y"):
                vi = T.axis.spatial((2, 6), i + 2)
                Y[vi] = X[vi]

    sch = scheduled(late)
    refuses(sch, "nest-binding", lambda: sch.transform_block_layout("Y", lambda i: (i,)))
    refuses(sch, "reindex-domain", lambda: sch.reindex("Y", ("read", 0)), names="starts at 2")

    @T.prim_func
    def shifted(X: T.Buffer((6,), "float32"), Y: T.Buffer((6,), "float32")):
        for i in range(2, 6):
            with T.block("Y"):
                vi = T.axis.spatial((2, 6), i)
                Y[vi] = X[vi]

    sch = scheduled(shifted)
    refuses(sch, "block-layout", lambda: sch.transform_block_layout("Y", lambda i: (i,)))
    refuses(sch, "iter-kind", lambda: sch.pad_einsum("Y", [3]), names="starts at 2")

    @T.prim_func
    def symbolic(a: T.handle, y: T.handle):
        n = T.int32()
        A = T.match_buffer(a, (n,), "float32")
        Y = T.match_buffer(y, (n,), "float32")
        for i in range(n):
            with T.block("Y"):
                vi = T.axis.spatial(n, i)
                Y[vi] = A[vi]

    sch = scheduled(symbolic)
    refuses(sch, "layout-dynamic", lambda: sch.transform_block_layout("Y", lambda i: (i,)))
    refuses(sch, "layout-dynamic", lambda: sch.pad_einsum("Y", [4]))


def test_reorder_block_iter_var() -> None:
    def do(s: Schedule) -> None:
        s.reorder_block_iter_var("C", [2, 0, 1])
        i, j, k = loops(s, "C")
        s.reorder(k, s.split(i, [3, 2])[1], j)

    sch = keeps(matmul(), do)
    assert [iv.var.name for iv in sch.get(sch.get_block("C")).iter_vars] == ["vk", "vi", "vj"]
    assert sch.trace.as_json()[0][1] == ["ReorderBlockIterVar", ["b0", [2, 0, 1]], [], []]
    for bad in ([0, 1], [0, 1, 1], [1, 2, 3], [-1, 0, 1]):
        call = partial(sch.reorder_block_iter_var, "C", bad)
        refuses(sch, "iter-order", call, names="3 iterators")
    refuses(sch, "argument", lambda: sch.reorder_block_iter_var("C", 3), names="new_order")  # type: ignore[arg-type]  # wrong on purpose


# ----------------------------------------------------------------------------- reindex
def test_reindex_of_what_is_read_is_im2col() -> None:
    def do(s: Schedule) -> None:
        assert s.get(s.reindex("Y", ("read", 0))).name == "X_reindex"

    sch = keeps(strided_conv1d(), do)
    prints(
        sch,
        """
        X_reindex = T.alloc_buffer((5, 3, 2))
        for ax0, ax1, ax2 in T.grid(5, 3, 2):
            with T.block("X_reindex"):
                vx, vr, vc = T.axis.remap("SSS", [ax0, ax1, ax2])
                T.reads(X[vx * 2 + vr, vc])
                T.writes(X_reindex[vx, vr, vc])
                X_reindex[vx, vr, vc] = X[vx * 2 + vr, vc]
        for x, o, r, c in T.grid(5, 3, 3, 2):
            with T.block("Y"):
                vx, vo, vr, vc = T.axis.remap("SSRR", [x, o, r, c])
                T.reads(X_reindex[vx, vr, vc], W[vr, vc, vo])
                T.writes(Y[vx, vo])
                with T.init():
                    Y[vx, vo] = T.float32(0)
                Y[vx, vo] = Y[vx, vo] + X_reindex[vx, vr, vc] * W[vr, vc, vo]
    """,
    )


def test_reindex_of_what_is_written_and_the_way_of_a_tensor_core_sketch() -> None:
    def do(s: Schedule) -> None:
        b = s.get_block("O")
        out = s.reindex(b, ("write", 0))
        into = [s.reindex(b, ("read", k)) for k in (0, 1)]
        s.transform_layout(b, ("read", 0), lambda h, w, r, q, c: (h * 5 + w, (r * 3 + q) * 2 + c))
        s.transform_layout(b, ("read", 1), lambda o, r, q, c: ((r * 3 + q) * 2 + c, o))
        s.transform_layout(b, ("write", 0), lambda h, w, o: (h * 5 + w, o))
        s.transform_block_layout(out, lambda h, w, o: (h * 5 + w, o))
        s.transform_block_layout(into[0], lambda h, w, r, q, c: (h * 5 + w, (r * 3 + q) * 2 + c))
        s.transform_block_layout(b, lambda h, w, o, r, q, c: (h * 5 + w, o, (r * 3 + q) * 2 + c))
        s.pad_einsum(b, [8, 8, 8])

    sch = keeps(conv2d_padded(), do)
    assert extents(sch, "O") == [32, 8, 24]
    assert str(sch.get(sch.get_block("O")).body.value.b.a) == "P_reindex_pad[v0, v2]"


def test_reindex_goes_after_writers_and_before_readers() -> None:
    def do(s: Schedule) -> None:
        s.reindex("Y", "B")
        s.reindex("B", ("write", 0))
        s.compute_at("B", loops(s, "B_reindex_1")[0])

    sch = keeps(programs.chain(), do)
    names = [sch.get(b).name for b in sch.get_child_blocks(sch.get_block("root"))]
    assert names == ["B", "B_reindex_1", "B_reindex", "Y"]


def test_reindex_refuses() -> None:
    sch = scheduled(programs.diamond())
    refuses(sch, "root-block", lambda: sch.reindex("root", ("read", 0)))
    refuses(sch, "buffer-index", lambda: sch.reindex("B", ("read", 7)), names="7")
    refuses(sch, "argument", lambda: sch.reindex("B", 0), names="buffer")  # type: ignore[arg-type]  # wrong on purpose
    sch = scheduled(programs.halo())
    refuses(sch, "reindex-access", lambda: sch.reindex("Y", ("read", 0)), names="places")
    sch = scheduled(programs.views())
    refuses(sch, "reindex-view", lambda: sch.reindex("Y", ("read", 0)))
    sch = scheduled(programs.chain())
    sch.storage_align("B", 0, 0, 8, 1)
    refuses(sch, "layout-align", lambda: sch.reindex("B", ("write", 0)))
    sch = scheduled(programs.chain())
    sch.compute_at("B", loops(sch, "Y")[0])
    refuses(sch, "cache-place", lambda: sch.reindex("Y", ("read", 0)), names="shares its loops")
    sch = scheduled(programs.row_sum())
    sch.decompose_reduction("Y", loops(sch, "Y")[1])
    refuses(sch, "cache-writers", lambda: sch.reindex("Y_update", ("write", 0)), names="2 writers")
    sch = scheduled(programs.guarded())
    refuses(sch, "reindex-domain", lambda: sch.reindex("Y", ("read", 0)))
    sch = scheduled(programs.recurrence())
    refuses(sch, "reindex-access", lambda: sch.reindex("Y", ("read", 0)), names="writes Y too")
    sch = scheduled(programs.prefix_sum())
    refuses(sch, "not-pipeline", lambda: sch.reindex("Q", ("read", 0)))


def test_reindex_refuses_what_a_copy_would_do_otherwise() -> None:
    @T.prim_func
    def f(X: T.Buffer((4,), "float32"), Y: T.Buffer((4,), "float32"), Z: T.Buffer((1,), "float32")):
        for i in range(6):
            with T.block("Y"):
                vi = T.axis.spatial(6, i)
                Y[vi // 2] = T.if_then_else(vi < 4, X[vi], T.float32(0))
        for i in range(1):
            with T.block("Z"):
                vi = T.axis.spatial(1, i)
                Z[0] = X[vi] + 1.0

    sch = scheduled(f)
    refuses(sch, "reindex-bounds", lambda: sch.reindex("Y", ("read", 0)), names="from 0 to 5, of 4")
    refuses(sch, "reindex-injective", lambda: sch.reindex("Y", ("write", 0)), names="vi // 2")
    refuses(sch, "reindex-access", lambda: sch.reindex("Z", ("write", 0)), names="single element")

    @T.prim_func
    def inner(X: T.Buffer((4, 3), "float32"), Y: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.block("Y"):
                vi = T.axis.spatial(4, i)
                T.reads(X[vi, 0:3])
                T.writes(Y[vi])
                Y[vi] = 0.0
                for j in range(3):
                    Y[vi] = Y[vi] + X[vi, j]

    sch = scheduled(inner)
    refuses(sch, "reindex-access", lambda: sch.reindex("Y", ("read", 0)), names="not made of")


# ----------------------------------------------------------------------------- pad_einsum
def test_pad_einsum_prints_the_padded_copies() -> None:
    sch = keeps(programs.row_sum(3, 5), lambda s: s.pad_einsum("Y", [2, 4]))
    prints(
        sch,
        """
        X_pad = T.alloc_buffer((4, 8))
        Y_pad = T.alloc_buffer((4,))
        for ax0, ax1 in T.grid(4, 8):
            with T.block("X_pad"):
                v0, v1 = T.axis.remap("SS", [ax0, ax1])
                T.reads(X[v0, v1])
                T.writes(X_pad[v0, v1])
                X_pad[v0, v1] = T.if_then_else(v0 < 3 and v1 < 5, X[v0, v1], T.float32(0))
        for i, k in T.grid(4, 8):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                T.reads(X_pad[vi, vk])
                T.writes(Y_pad[vi])
                with T.init():
                    Y_pad[vi] = T.float32(0)
                Y_pad[vi] = Y_pad[vi] + X_pad[vi, vk]
        for ax0 in range(3):
            with T.block("Y_pad"):
                v0 = T.axis.spatial(3, ax0)
                T.reads(Y_pad[v0])
                T.writes(Y[v0])
                Y[v0] = Y_pad[v0]
    """,
    )


@pytest.mark.parametrize("padding", [[1, 1, 1], [4, 1, 1], [1, 1, 3], [4, 3, 5], [16, 16, 16]])
def test_pad_einsum_keeps_the_product(padding: list[int]) -> None:
    def do(s: Schedule) -> None:
        k = loops(s, "C")[2]
        s.pad_einsum("C", padding)
        s.decompose_reduction("C", k)

    sch = keeps(matmul(), do)
    want = [-(-n // p) * p for n, p in zip([6, 4, 8], padding, strict=True)]
    assert extents(sch, "C_update") == want
    if padding == [1, 1, 1]:
        assert "_pad" not in sch.mod.script().replace("pad_einsum", "")


def test_pad_einsum_of_producers_and_guarded_reads() -> None:
    def twice(s: Schedule) -> None:
        s.pad_einsum("C", [4, 4, 5])
        s.pad_einsum("A_pad", [3, 7])

    keeps(matmul(), twice)
    keeps(programs.chain(), lambda s: (s.pad_einsum("B", [3, 4]), s.pad_einsum("Y", [5, 1])))
    keeps(conv2d_padded(), lambda s: s.pad_einsum("O", [1, 1, 3, 1, 1, 1]))


def test_pad_einsum_refuses() -> None:
    sch = scheduled(matmul())
    for bad in ([2, 2], [2, 2, 0], [1, 1, -4]):
        refuses(sch, "pad-einsum-padding", partial(sch.pad_einsum, "C", bad), names="3 iterators")
    refuses(sch, "argument", lambda: sch.pad_einsum("C", 4), names="padding")  # type: ignore[arg-type]  # wrong on purpose
    sch = scheduled(conv2d_padded())
    e = refuses(sch, "pad-einsum-index", lambda: sch.pad_einsum("O", [2] * 6), names="vh + vr")
    assert "reindex" in e.hint
    sch = scheduled(max_pool())
    refuses(sch, "pad-einsum-index", lambda: sch.pad_einsum("Y", [1, 1, 3, 3]))
    sch = scheduled(programs.row_sum())
    sch.decompose_reduction("Y", loops(sch, "Y")[1])
    refuses(sch, "not-complete", lambda: sch.pad_einsum("Y_update", [8, 8]))
    sch = scheduled(programs.arg_max())
    refuses(sch, "pad-einsum-body", lambda: sch.pad_einsum("A", [8, 8]), names="single store")
    sch = scheduled(programs.horner())
    refuses(sch, "pad-einsum-body", lambda: sch.pad_einsum("Y", [1, 4]), names="sum of products")


def test_pad_einsum_refuses_what_zeros_would_change() -> None:
    @T.prim_func
    def largest(X: T.Buffer((3, 5), "float32"), Y: T.Buffer((3,), "float32")):
        for i, k in T.grid(3, 5):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = T.min_value("float32")
                Y[vi] = T.max(Y[vi], X[vi, vk])

    @T.prim_func
    def shifted(X: T.Buffer((3, 5), "float32"), Y: T.Buffer((3,), "float32")):
        for i, k in T.grid(3, 5):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + (X[vi, vk] + 1.0)

    @T.prim_func
    def scaled(
        X: T.Buffer((3, 5), "float32"), S: T.Buffer((3,), "float32"), Y: T.Buffer((3,), "float32")
    ):
        for i, k in T.grid(3, 5):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk] * S[vi]

    @T.prim_func
    def whole(X: T.Buffer((3, 5), "int32"), S: T.Buffer((3,), "int32"), Y: T.Buffer((3,), "int32")):
        for i, k in T.grid(3, 5):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0
                Y[vi] = Y[vi] - X[vi, vk] * S[vi] * 3

    @T.prim_func
    def divided(X: T.Buffer((3,), "int32"), D: T.Buffer((3,), "int32"), Y: T.Buffer((3,), "int32")):
        for i in range(3):
            with T.block("Y"):
                vi = T.axis.spatial(3, i)
                Y[vi] = X[vi] // D[vi]

    @T.prim_func
    def twice(X: T.Buffer((3, 3), "float32"), Y: T.Buffer((3, 3), "float32")):
        for i, j in T.grid(3, 3):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = X[vi, vj] + X[vj, vi]

    @T.prim_func
    def diagonal(X: T.Buffer((3, 3), "float32"), Y: T.Buffer((3,), "float32")):
        for i in range(3):
            with T.block("Y"):
                vi = T.axis.spatial(3, i)
                Y[vi] = X[vi, vi]

    for func in (largest, shifted, scaled):  # zero times infinity would not vanish in `scaled`
        sch = scheduled(func)
        call = partial(sch.pad_einsum, "Y", [1, 4])
        refuses(sch, "pad-einsum-body", call, names="sum of products")
        keeps(func, lambda s: s.pad_einsum("Y", [4, 1]))
    keeps(whole, lambda s: s.pad_einsum("Y", [2, 4]))
    sch = scheduled(divided)
    refuses(sch, "pad-einsum-body", lambda: sch.pad_einsum("Y", [4]), names="may be 0")
    sch = scheduled(twice)
    refuses(sch, "pad-einsum-index", lambda: sch.pad_einsum("Y", [4, 1]), names="several places")
    sch = scheduled(diagonal)
    refuses(sch, "pad-einsum-index", lambda: sch.pad_einsum("Y", [4]), names="diagonal")


def test_iterators_that_nothing_is_written_at_are_not_padded() -> None:
    sch = scheduled(programs.row_sum())
    sch.transform_block_layout("Y", lambda i, k: (i, k, 0))
    refuses(sch, "pad-einsum-index", lambda: sch.pad_einsum("Y", [1, 1, 4]), names="v2")


# ----------------------------------------------------------------------------- decompose_padding
def padded(select: bool = False) -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((3, 5), "float32"), Y: T.Buffer((6, 8), "float32")):
        for i, j in T.grid(6, 8):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = T.if_then_else(
                    vi % 2 == 0 and vj >= 1 and vj < 6, X[vi // 2, vj - 1], T.float32(7)
                )

    return f


def test_decompose_padding_prints_both_blocks() -> None:
    sch = keeps(padded(), lambda s: s.decompose_padding("Y", loops(s, "Y")[1]))
    prints(
        sch,
        """
        for i in range(6):
            for j in range(8):
                with T.block("Y_pad_const"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    T.reads()
                    T.writes(Y[vi, vj])
                    Y[vi, vj] = T.float32(7)
            for j in range(5):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    T.where(i % 2 == 0)
                    T.reads(X[vi // 2, vj])
                    T.writes(Y[vi, vj + 1])
                    Y[vi, vj + 1] = X[vi // 2, vj]
    """,
    )


@pytest.mark.parametrize("at", [0, 1])
def test_decompose_padding_at_any_loop_and_after_splits(at: int) -> None:
    def do(s: Schedule) -> None:
        i, j = loops(s, "Y")
        s.decompose_padding("Y", (i, j)[at])

    keeps(padded(), do)

    def split(s: Schedule) -> None:
        s.vectorize(s.split(loops(s, "Y")[1], [None, 3])[1])
        s.decompose_padding("Y", loops(s, "Y")[at])

    keeps(padded(), split)
    keeps(conv2d_padded(), lambda s: s.decompose_padding("P", loops(s, "P")[at]))


def test_can_decompose_padding_only_asks() -> None:
    sch = scheduled(padded())
    b = sch.get_block("Y")
    i, j = sch.get_loops(b)
    text, mod = str(sch.trace), sch.mod
    assert sch.can_decompose_padding(b, i)
    assert sch.can_decompose_padding("Y", j)
    assert (str(sch.trace), sch.mod) == (text, mod)
    other = scheduled(programs.chain())
    assert not other.can_decompose_padding("B", loops(other, "B")[0])
    assert not other.can_decompose_padding("B", loops(other, "Y")[0])
    refuses(sch, "no-block", lambda: sch.can_decompose_padding("Z", i), names="'Z'")


def test_decompose_padding_refuses() -> None:
    sch = scheduled(programs.chain())
    own, other = loops(sch, "B")[0], loops(sch, "Y")[0]
    refuses(sch, "padding-body", lambda: sch.decompose_padding("B", own))
    refuses(sch, "padding-loop", lambda: sch.decompose_padding("B", other), names="not above")
    sch = scheduled(programs.row_sum())
    i = loops(sch, "Y")[0]
    refuses(sch, "not-complete", lambda: sch.decompose_padding("Y", i))

    @T.prim_func
    def f(X: T.Buffer((4,), "float32"), Y: T.Buffer((4,), "float32"), Z: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.block("Y"):
                vi = T.axis.spatial(4, i)
                Y[vi] = T.if_then_else(X[vi] > T.float32(0), X[vi], T.float32(0))
        for i in range(4):
            with T.block("Z"):
                vi = T.axis.spatial(4, i)
                Z[vi] = T.if_then_else(vi >= 4, X[vi - 4], T.float32(0))

    sch = scheduled(f)
    i = loops(sch, "Y")[0]
    refuses(sch, "padding-condition", lambda: sch.decompose_padding("Y", i), names="X[vi]")
    i = loops(sch, "Z")[0]
    refuses(sch, "padding-condition", lambda: sch.decompose_padding("Z", i), names="never holds")
    sch = scheduled(conv2d_padded())
    sch.compute_at("P", loops(sch, "O")[1])
    h, w = loops(sch, "P")[:2]
    refuses(sch, "padding-chain", lambda: sch.decompose_padding("P", w), names="alone")
    assert not sch.can_decompose_padding("P", h)
    assert sch.can_decompose_padding("P", loops(sch, "P")[2])
