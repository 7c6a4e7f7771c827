"""Where is padding asked for, and which products with zeros are computed? In tiles that lie inside
nothing is asked; loops of copies are cut; sums over spread data add products of data only."""

from __future__ import annotations

import numpy as np

from gputune.ir import walk
from gputune.ir.build import const_int
from gputune.ir.nodes import Alloc, Call, For, IfThenElse, PrimFunc, Stmt
from gputune.kernels.conv import KERNELS as CONV
from gputune.kernels.conv_variants import KERNELS as VARIANTS
from gputune.lower.interior import COLD, interior
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import LLVM, lower
from gputune.lower.zeros import skip_zeros, write_out_residues
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import tir as T

AVX512, AVX2 = CpuLimits(64, 32, 1), CpuLimits(32, 16, 1)
_DEPTHWISE = {"n": 1, "c": 16, "factor": 1, "kernel": 3, "stride": 1, "padding": 1}


def until(func: PrimFunc, name: str, limits: CpuLimits = AVX512) -> PrimFunc:
    """The program before a pass."""
    for step in LLVM:
        if step.__name__ == name:
            break
        func = step(func, limits)
    return func


def of(s: Stmt, kind: type) -> list[Stmt]:
    return [x for x in walk.walk_stmt(s) if type(x) is kind]


def choices(s: Stmt) -> list[str]:
    """The conditions of all choices."""
    return [str(e.args[0]) for e in walk.all_exprs(s) if type(e) is Call and e.op == "if_then_else"]


def depthwise(h: int, w: int, cached: bool) -> Schedule:
    """4 x 4 outputs a tile, the channels one vector; padding inlined, or cached in each tile."""
    sch = Schedule(VARIANTS["depthwise_conv2d"].build(h=h, w=w, **_DEPTHWISE), seed=1)
    if not cached:
        sch.compute_inline("P")
    block = sch.get_block("Y")
    _, y, x, f, ry, rx = sch.get_loops(block)
    y0, y1 = sch.split(y, [None, 4])
    x0, x1 = sch.split(x, [None, 4])
    sch.reorder(y0, x0, ry, rx, y1, x1, f)
    sch.unroll(rx)
    sch.unroll(y1)
    sch.unroll(x1)
    sch.vectorize(f)
    sch.parallel(y0)
    if cached:
        sch.compute_at("P", x0)
        sch.vectorize(sch.get_loops("P")[-1])
    sch.decompose_reduction(block, ry)
    return sch


def transposed(rows: int, cached: bool) -> Schedule:
    func = VARIANTS["conv2d_transpose"].build(
        n=1, h=4, w=4, ci=8, co=16, kernel=4, stride=2, padding=1
    )
    sch = Schedule(func, seed=1)
    if not cached:
        sch.compute_inline("P")
    block = sch.get_block("Y")
    _, y, x, f, ry, rx, rc = sch.get_loops(block)
    y0, y1 = sch.split(y, [None, rows])
    sch.reorder(y0, x, ry, rx, rc, y1, f)
    sch.unroll(y1)
    sch.vectorize(f)
    if cached:
        sch.compute_at("P", x)
    sch.decompose_reduction(block, ry)
    return sch


def run(sch: Schedule, *arrays: np.ndarray) -> None:
    build(sch.mod, "llvm --num-cores=1")[next(iter(sch.mod.functions.values())).name](*arrays)


# ----------------------------------------------------------------------------- one branch
def test_one_branch_between_tiles_inside_and_at_the_edge() -> None:
    func = until(depthwise(80, 96, cached=False).mod["depthwise_conv2d"], "vectorize")
    (branch,) = of(func.body, IfThenElse)
    assert type(branch) is IfThenElse
    assert str(branch.cond) == ("1 <= y_0 * 4 and y_0 * 4 <= 75 and 1 <= x_0 * 4 and x_0 * 4 <= 91")
    around = [x.var.name for x in of(func.body, For) if branch in of(x.body, IfThenElse)]
    assert around == ["y_0", "x_0"]  # and so not in the micro-kernel, whose sums stay in registers
    assert not choices(branch.then)
    assert branch.orelse is not None
    assert choices(branch.orelse)


def test_the_branch_is_around_one_tile_where_it_can_be() -> None:
    """Named for a bug: it stood around all tiles of a cache's block, a sixth of which lay at an
    edge for the sake of one, and at edges products take ten times as long."""
    sch = Schedule(VARIANTS["depthwise_conv2d"].build(h=96, w=112, **_DEPTHWISE), seed=1)
    sch.compute_inline("P")
    block = sch.get_block("Y")
    _, y, x, f, ry, rx = sch.get_loops(block)
    y0, y1 = sch.split(y, [None, 4])
    x0, x1, x2 = sch.split(x, [None, 4, 2])
    sch.reorder(y0, x0, x1, ry, rx, y1, x2, f)
    sch.vectorize(f)
    sch.decompose_reduction(block, ry)
    func = until(sch.mod["depthwise_conv2d"], "vectorize")
    branch = of(func.body, IfThenElse)[0]
    around = [x.var.name for x in of(func.body, For) if branch in of(x.body, IfThenElse)]
    assert around == ["y_0", "x_0", "x_1"]


def test_sums_in_a_cache_of_their_own_have_a_branch_too() -> None:
    """Named for a bug: elements of a cache inside a loop do not depend on the loop, which was
    taken for one of the sum, and padding was asked for in every product."""
    sch = Schedule(VARIANTS["depthwise_conv2d"].build(h=96, w=112, **_DEPTHWISE), seed=1)
    sch.compute_inline("P")
    block = sch.get_block("Y")
    cache = sch.cache_write(block, 0, "global")
    _, y, x, f, ry, rx = sch.get_loops(block)
    y0, y1 = sch.split(y, [None, 4])
    x0, x1 = sch.split(x, [None, 4])
    sch.reorder(y0, x0, ry, rx, y1, x1, f)
    sch.vectorize(f)
    sch.reverse_compute_at(cache, x0)
    sch.decompose_reduction(block, ry)
    func = until(sch.mod["depthwise_conv2d"], "vectorize")
    branches = [x for x in of(func.body, IfThenElse) if type(x) is IfThenElse]
    assert len(branches) == 1
    assert not choices(branches[0].then)


def test_both_micro_kernels_sum_in_registers() -> None:
    func = lower(depthwise(80, 96, cached=False).mod["depthwise_conv2d"], AVX512)
    held = [x for x in of(func.body, Alloc) if x.buffer.scope == "register"]
    assert len(held) == 2


def test_the_sum_is_not_copied_where_only_a_copy_asks() -> None:
    func = until(depthwise(80, 96, cached=True).mod["depthwise_conv2d"], "vectorize")
    branch = of(func.body, IfThenElse)[0]
    assert type(branch) is IfThenElse
    assert not choices(branch.then)
    assert "W" not in str(branch)
    assert branch.orelse is not None
    edge = [x for x in of(branch.orelse, For) if x.kind != "vectorized"]
    assert edge
    assert all((COLD, 1) in x.annotations for x in edge)
    text = lower(depthwise(80, 96, cached=True).mod["depthwise_conv2d"], AVX512).script()
    assert text.count("* W[") == 1


def test_choices_that_are_masks_need_no_branch_in_a_copy() -> None:
    """Where lanes of one vector differ, the mask is there anyway; narrow vectors have none."""
    func = CONV["conv1d"].build(
        n=1, w=400, ci=3, co=16, kernel=3, stride=1, padding=1, dilation=1, groups=1
    )
    sch = Schedule(func, seed=1)
    _, x, *_ = sch.get_loops("Y")
    x0, _ = sch.split(x, [None, 20])
    sch.compute_at("P", x0)
    copied = sch.get_loops("P")[-2:]
    sch.vectorize(sch.fuse(*copied))
    for limits, branches in ((AVX512, 0), (AVX2, 1)):
        body = until(sch.mod["conv1d"], "vectorize", limits).body
        assert len(of(body, IfThenElse)) == branches


def test_a_loop_of_copies_is_cut_where_its_padding_ends() -> None:
    @T.prim_func
    def pad(X: T.Buffer((40,)), P: T.Buffer((45,))):
        for i in range(45):
            with T.block("P"):
                v = T.axis.spatial(45, i)
                P[v] = T.if_then_else(v >= 3 and v < 43, X[v - 3], T.float32(7))

    func = interior(until(pad, "interior"), AVX512)
    assert not choices(func.body)
    assert not of(func.body, IfThenElse)
    parts = [(const_int(x.min), const_int(x.extent)) for x in of(func.body, For)]
    assert parts == [(0, 3), (3, 40), (43, 2)]
    x, p = np.arange(40, dtype="float32"), np.zeros(45, "float32")
    build(pad, "llvm --num-cores=1")(x, p)
    assert np.array_equal(p, np.pad(x, (3, 2), constant_values=7))


def test_programs_without_choices_are_left_alone() -> None:
    func = until(CONV["conv1d"].build(
        n=1, w=9, ci=2, co=4, kernel=3, stride=1, padding=1, dilation=1, groups=1
    ), "interior")  # fmt: skip

    @T.prim_func
    def copy(X: T.Buffer((40,)), P: T.Buffer((40,))):
        for i in range(40):
            P[i] = X[i]

    assert interior(copy, AVX512) is copy
    assert write_out_residues(func, AVX512) is func
    assert skip_zeros(func, AVX512) is func


def test_a_choice_is_made_at_the_edges_of_the_whole_too() -> None:
    """Sizes that are one tile, or less, have no inside."""
    for h, w in ((1, 1), (3, 4), (4, 9)):
        for cached in (False, True):
            if h % 4 or w % 4:
                continue
            sch = depthwise(h, w, cached)
            x = np.arange(h * w * 16, dtype="float32").reshape(1, h, w, 16) % 7
            weight = np.arange(9 * 16, dtype="float32").reshape(3, 3, 16, 1) % 5
            y = np.full((1, h, w, 16), np.nan, "float32")
            run(sch, x, weight, y)
            (want,) = VARIANTS["depthwise_conv2d"].reference(x, weight, h=h, w=w, **_DEPTHWISE)
            assert np.array_equal(y, want)


# ----------------------------------------------------------------------------- zeros
def multiplications(sch: Schedule) -> int:
    """Vector products in the program that LLVM is given."""
    text = build(sch.mod, "llvm --num-cores=1").get_source("ll")
    return sum("fmul" in line and "<16 x float>" in line for line in text.splitlines())


def test_a_transposed_convolution_skips_its_zeros() -> None:
    """Of 4 rows 2 have data, at every other element of the kernel: 4 of 16 products are left of
    each group of 2 x 2 iterations; the column is known in 2 x 2 groups of its own."""
    for cached in (False, True):
        sch = transposed(4, cached)
        func = lower(sch.mod["conv2d_transpose"], AVX512)
        asked = [str(x.cond) for x in of(func.body, IfThenElse) if "%" in str(x.cond)]
        assert asked
        unrolled = {x.var.name for x in of(func.body, For) if x.kind == "unrolled"}
        assert {"y_1", "ry_r", "rx_r", "x_r"} <= unrolled
        # x_r, ry_r, rx_r and y_1: 2 * 2 * 2 * 4 products, a quarter of which is not with zero
        assert multiplications(sch) % 8 == 0
        assert 0 < multiplications(sch) <= 8 * 4


def test_zeros_between_data_count_as_nothing() -> None:
    """What is multiplied with a zero that spreads data does not matter, infinity included; the
    values are those of a plain transposed convolution."""
    x = np.ones((1, 4, 4, 8), "float32")
    weight = np.ones((4, 4, 8, 16), "float32")
    for cached in (False, True):
        y = np.full((1, 8, 8, 16), np.nan, "float32")
        run(transposed(4, cached), x, weight, y)
        (want,) = VARIANTS["conv2d_transpose"].reference(x, weight, kernel=4, stride=2, padding=1)
        assert np.array_equal(y, want)
        run(transposed(4, cached), x, np.full_like(weight, np.inf), y)
        assert (y[0, 2:6, 2:6] == np.inf).all()  # where no window meets the edge


def test_zeros_at_the_edge_are_numbers() -> None:
    """A weight that is not finite makes NaN of padding, scheduled or not."""
    for cached in (False, True):
        x = np.ones((1, 4, 8, 16), "float32")
        weight = np.full((3, 3, 16, 1), np.inf, "float32")
        y = np.zeros((1, 4, 8, 16), "float32")
        run(depthwise(4, 8, cached), x, weight, y)
        assert np.isnan(y[0, 0, 0]).all()
        assert (y[0, 1:3, 1:7] == np.inf).all()
