"""RewriteLayout, suggest_index_map and split_layout_preproc: constant arguments packed as read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gputune.ir.check import check
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc, Var
from gputune.ir.walk import substitute
from gputune.lower.layout_preproc import split_layout_preproc
from gputune.meta_schedule.arg_info import ArgInfo, TensorInfo
from gputune.meta_schedule.postproc import DEFAULTS, RewriteLayout, postprocess
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.schedule.dim import Dim, Evaluator, recording
from gputune.schedule.suggest import suggest_index_map
from gputune.script import tir as T


def dense(free: Any = (1,)) -> PrimFunc:
    @T.prim_func
    def f(
        A: T.Buffer((8, 12), "float32"),
        W: T.Buffer((12, 18), "float32"),
        C: T.Buffer((8, 18), "float32"),
    ):
        for i, j, k in T.grid(8, 18, 12):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = 0.0
                C[vi, vj] = C[vi, vj] + A[vi, vk] * W[vk, vj]

    return f.with_attr("layout_free_buffers", tuple(free)) if free else f


def tile(sch: Schedule, factor: Any = 6, inner: Any = 4) -> None:
    i, j, k = sch.get_loops(sch.get_block("C"))
    j0, j1 = sch.split(j, [None, factor])
    k0, k1 = sch.split(k, [None, inner])
    sch.reorder(i, j0, k0, k1, j1)


def finish(sch: Schedule) -> None:
    i, j0, k0, _, j1 = sch.get_loops(sch.get_block("C"))
    sch.parallel(sch.fuse(i, j0))
    sch.vectorize(j1)
    sch.decompose_reduction("C", k0)
    assert postprocess(sch, [RewriteLayout()]) is None


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.integers(-4, 5, (8, 12)).astype(np.float32)
    w = rng.integers(-4, 5, (12, 18)).astype(np.float32)
    return a, w, a @ w


# ----------------------------------------------------------------------------- the postproc
def test_the_reader_reads_straight_through() -> None:
    sch = Schedule(dense(), seed=1, debug_mask="all")
    tile(sch)
    finish(sch)
    lines = sch.trace.as_python()
    assert lines[-3:] == [
        'b18 = sch.cache_read(block=b17, read_buffer_index=2, storage_scope="global", '
        "consumer_blocks=[b17])",
        'sch.transform_layout(block=b17, buffer=("read", 2), index_map=lambda i0, i1: '
        "(i1 // 6, i0 // 4, i0 % 4, i1 % 6,), pad_value=None, assume_injective_transform=True)",
        'sch.annotate(block_or_loop=b18, ann_key="meta_schedule.layout_rewrite_preproc", '
        "ann_val=True)",
    ]
    assert "W_global[v1 // 6, v0 // 4, v0 % 4, v1 % 6] = W[v0, v1]" in sch.mod.script()


@pytest.mark.parametrize("factor", [6, 4, 18, 1])
def test_the_packing_kernel_and_its_two_halves_compute_the_same(factor: int) -> None:
    sch = Schedule(dense(), seed=1, debug_mask="all")
    tile(sch, factor)
    finish(sch)
    a, w, want = data()
    whole = sch.mod["f"]
    pack, rest = split_layout_preproc(whole)
    assert pack is not None
    check(pack)
    check(rest)
    assert (pack.name, rest.name) == ("f_weight_prepack", "f_prepacked")
    assert dict(rest.attrs)["layout_free_buffers"] == ()
    infos = ArgInfo.from_entry_func(sch.mod)
    assert infos == ArgInfo.from_prim_func(rest)
    info = infos[1]
    assert isinstance(info, TensorInfo)
    for call in (run, lambda f, *args: build(f, "llvm --num-cores=1")[f.name](*args)):
        out = np.zeros_like(want)
        call(whole, a, w, out)
        assert np.array_equal(out, want)
        packed = np.zeros(info.shape, np.float32)
        call(pack, w, packed)
        out[:] = 0
        call(rest, a, packed, out)
        assert np.array_equal(out, want)


@pytest.mark.parametrize("free", [(), (2,), (9,), (-1,)])
def test_it_leaves_other_functions_alone(free: Any) -> None:
    sch = Schedule(dense(free), seed=1)
    tile(sch)
    mod, count = sch.mod, len(sch.trace.insts)
    assert RewriteLayout().apply(sch)
    assert sch.mod is mod
    assert len(sch.trace.insts) == count
    assert split_layout_preproc(sch.mod["f"]) == (None, sch.mod["f"])


def test_several_readers_places_and_views_keep_the_layout() -> None:
    @T.prim_func
    def f(
        W: T.Buffer((4, 4), "float32"), Y: T.Buffer((4, 4), "float32"), Z: T.Buffer((4,), "float32")
    ):
        T.func_attr({"layout_free_buffers": [0]})
        for i, j in T.grid(4, 4):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = W[vi, vj]
        for i in range(4):
            with T.block("Z"):
                vi = T.axis.spatial(4, i)
                Z[vi] = W[vi, 0]

    @T.prim_func
    def two_places(W: T.Buffer((4, 4), "float32"), Y: T.Buffer((4, 4), "float32")):
        T.func_attr({"layout_free_buffers": [0]})
        for i, j in T.grid(4, 4):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = W[vi, vj] + W[vj, vi]

    @T.prim_func
    def diagonal(W: T.Buffer((7,), "float32"), Y: T.Buffer((4, 4), "float32")):
        T.func_attr({"layout_free_buffers": [0]})
        for i, j in T.grid(4, 4):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = W[vi + vj]

    for func in (f, two_places, diagonal):
        sch = Schedule(func, seed=1)
        mod = sch.mod
        assert RewriteLayout().apply(sch)
        assert sch.mod is mod


def test_what_is_used_otherwise_is_not_taken_out() -> None:
    sch = Schedule(dense(), seed=1)
    tile(sch)
    finish(sch)
    sch.unannotate(sch.get_block("W_global"), "meta_schedule.layout_rewrite_preproc")
    assert split_layout_preproc(sch.mod["f"])[0] is None


def test_it_is_the_last_of_the_llvm_list() -> None:
    for kind in ("llvm", "vnni", "avx512"):
        assert type(DEFAULTS[kind][-1]) is RewriteLayout
        assert sum(type(p) is RewriteLayout for p in DEFAULTS[kind]) == 1


def test_sampled_tiles_make_one_structure() -> None:
    def sketch(sch: Schedule, tiles: list[Any], inner: list[Any]) -> list[Any]:
        _, j, k = sch.get_loops(sch.get_block("C"))
        v = sch.sample_perfect_tile(j, 2, 64, decision=tiles)
        w = sch.sample_perfect_tile(k, 2, 64, decision=inner)
        tile(sch, v[1], w[1])
        finish(sch)
        buffer = sch.get(sch.get_block("W_global")).writes[0].buffer
        return [getattr(n, "value", None) for n in buffer.shape]

    rows = [([18 // a, a], [12 // b, b]) for a in (2, 3, 6, 18) for b in (1, 2, 4, 12)]
    columns = {f"{x}.{n}": np.array([r[x][n] for r in rows]) for x in range(2) for n in range(2)}
    with recording() as guards:
        dims = [[Dim(v, f"{x}.{n}") for n, v in enumerate(rows[5][x])] for x in range(2)]
        shape = sketch(Schedule(dense(), seed=1, error_render_level="none"), dims[0], dims[1])
    evaluator = Evaluator(columns)
    assert evaluator.holds(list(guards), np.ones(len(rows), bool)).all()
    for r, (t, u) in enumerate(rows):
        want = [int(x) for x in sketch(Schedule(dense(), seed=1), t, u)]
        got = [int(np.broadcast_to(evaluator(n), len(rows))[r]) for n in shape]
        assert [n for n in got if n != 1] == [n for n in want if n != 1]  # plain ones fold away


# ----------------------------------------------------------------------------- the analysis
def suggested(sch: Schedule, predicate: bool = True) -> str:
    link = sch.block(sch.get_block("C"))
    b = link.block()
    table = dict(zip([iv.var for iv in b.iter_vars], b.iter_values, strict=True))
    w = b.reads[1]
    indices = [substitute(r.min, table) for r in w.region]
    return str(suggest_index_map(w.buffer, indices, link.loops(), b.predicate))


def test_suggested_maps() -> None:
    sch = Schedule(dense(), seed=1)
    assert suggested(sch) == "lambda i0, i1: (i1, i0,)"
    tile(sch)
    assert suggested(sch) == "lambda i0, i1: (i1 // 6, i0 // 4, i0 % 4, i1 % 6,)"
    i, j0, _, k1, j1 = sch.get_loops(sch.get_block("C"))
    sch.fuse(i, j0)
    sch.fuse(k1, j1)
    assert suggested(sch) == "lambda i0, i1: (i1 // 6, i0 // 4, i0 % 4, i1 % 6,)"
    sch = Schedule(dense(), seed=1)
    tile(sch, 4, 5)  # tiles that do not divide: the packed weights are padded
    assert suggested(sch) == "lambda i0, i1: (i1 // 4, i0 // 5, i0 % 5, i1 % 4,)"


def test_what_no_layout_helps() -> None:
    sch = Schedule(dense(), seed=1)
    link = sch.block(sch.get_block("C"))
    i, j, _ = (f.var for f in link.loops())
    w = link.block().reads[1].buffer
    assert suggest_index_map(w, [i + j, j], link.loops()) is None
    assert suggest_index_map(w, [i * 2, j], link.loops()) is None
    assert suggest_index_map(w, [i, j], link.loops()) is None  # 8 of 12 rows
    assert suggest_index_map(w, [j], link.loops()) is None
    assert suggest_index_map(w, [Var("n"), j], link.loops()) is None
