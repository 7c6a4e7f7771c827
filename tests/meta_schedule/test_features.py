"""Do the features tell apart what matters, and nothing that does not?"""

from __future__ import annotations

import numpy as np
import pytest
from search_spaces import MACHINE, context, many_tiles, matmul, suite_kernel, two_tiles

from gputune.errors import UserError
from gputune.ir.nodes import PrimFunc
from gputune.ir.ops import MATH
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import lower
from gputune.meta_schedule.feature_extractor import FeatureExtractor, SketchFeature
from gputune.meta_schedule.layout_parts import _VECTOR_OPERATIONS
from gputune.meta_schedule.measure_candidate import MeasureCandidate
from gputune.meta_schedule.sketch_feature import (
    FEATURE_COUNT,
    Machine,
    _Nest,
    columns,
    features_of,
)
from gputune.meta_schedule.sketch_layout import describe, parts_of
from gputune.schedule import Schedule
from gputune.script import from_source
from gputune.target import Target


def test_one_row_of_fixed_length_for_every_program() -> None:
    for name in ("GMM", "C2D", "SFM", "DEP"):
        row, score = features_of(Schedule(suite_kernel(name)).mod, MACHINE)
        assert row.shape == (FEATURE_COUNT,)
        assert row.dtype == np.float32
        assert np.isfinite(row).all()
        assert np.isfinite(score)


def test_unit_loops_leave_no_trace() -> None:
    a, b = Schedule(matmul(64)), Schedule(matmul(64))
    for loop in b.get_loops(b.get_block("C")):
        b.split(loop, [1, None, 1])
    x, _ = features_of(a.mod, MACHINE)
    y, _ = features_of(b.mod, MACHINE)
    assert (x == y).all()


def test_loop_order_matters() -> None:
    a, b = Schedule(matmul(512)), Schedule(matmul(512))
    i, j, k = b.get_loops(b.get_block("C"))
    b.reorder(k, i, j)
    x, _ = features_of(a.mod, MACHINE)
    y, _ = features_of(b.mod, MACHINE)
    assert (x != y).any()


def test_padding_that_a_sum_asks_for_once_a_tile_costs_little() -> None:
    """Named for a bug: a condition was charged for each product, and padding never inlined."""

    def score(inlined: bool) -> float:
        sch = Schedule(suite_kernel("DEP"))
        if inlined:
            sch.compute_inline("P")
        block = sch.get_block("Y")
        _, y, x, f, ry, rx = sch.get_loops(block)
        y0, y1 = sch.split(y, [None, 4])
        x0, x1 = sch.split(x, [None, 2])
        f0, f1 = sch.split(f, [None, 16])
        sch.reorder(y0, x0, f0, ry, rx, y1, x1, f1)
        sch.vectorize(f1)
        sch.annotate(y0, "pragma_auto_unroll_max_step", 512)
        if not inlined:
            sch.compute_at("P", x0)
            sch.vectorize(sch.get_loops("P")[-1])
        sch.decompose_reduction(block, ry)
        return features_of(sch.mod, MACHINE)[1]

    assert score(inlined=True) > score(inlined=False)


def scored(vector: bool, parallel: bool) -> float:
    sch = Schedule(matmul(512))
    i, j, k = sch.get_loops(sch.get_block("C"))
    sch.reorder(i, k, j)
    _j0, j1 = sch.split(j, [None, 16])
    if vector:
        sch.vectorize(j1)
    if parallel:
        sch.parallel(i)
    return features_of(sch.mod, MACHINE)[1]


def test_the_analytic_score_knows_vectors_and_cores() -> None:
    assert scored(True, False) > scored(False, False)
    assert scored(True, True) > scored(True, False)


def test_the_score_prefers_tiles_that_fit_the_caches() -> None:
    def tiled(size: int) -> float:
        sch = Schedule(matmul(2048))
        i, j, k = sch.get_loops(sch.get_block("C"))
        i0, i1 = sch.split(i, [None, size])
        j0, j1 = sch.split(j, [None, size])
        k0, k1 = sch.split(k, [None, size])
        sch.reorder(i0, j0, k0, i1, k1, j1)
        sch.vectorize(sch.split(j1, [None, 16])[1]) if size > 16 else sch.vectorize(j1)
        return features_of(sch.mod, MACHINE)[1]

    assert tiled(64) > tiled(2048)


def test_machine_of_a_target() -> None:
    m = Machine.of(Target("llvm -num-cores 3"))
    assert m.cores == 3
    assert m.vector_bytes in (16, 32, 64)
    assert Machine.of(None) == Machine()


def test_extractor_gives_what_the_function_gives() -> None:
    ctx = context(two_tiles)
    sch = ctx.generate_design_space()[0]
    got = FeatureExtractor.create("sketch-feature").extract_from(ctx, [MeasureCandidate(sch, [])])
    assert len(got) == 1
    assert got[0].shape == (1, FEATURE_COUNT)
    assert (got[0][0] == features_of(sch.mod, Machine.of(ctx.target))[0]).all()
    assert SketchFeature().matrix(ctx, []).shape == (0, FEATURE_COUNT)


def test_unknown_extractors_are_refused() -> None:
    with pytest.raises(UserError, match="'nonsense' is no feature extractor"):
        FeatureExtractor.create("nonsense")
    with pytest.raises(TypeError):
        FeatureExtractor()  # type: ignore[abstract]  # that is what is tested


def test_candidates_of_one_space_differ() -> None:
    ctx = context(many_tiles, n=128)
    rows = set()
    for seed in range(1, 20):
        sch = Schedule(matmul(128), seed=seed)
        many_tiles(sch)
        rows.add(features_of(sch.mod, Machine.of(ctx.target))[0].tobytes())
    assert len(rows) == 19


def column_of_rows(rows: int, width: int) -> PrimFunc:
    """The sum of the first elements of all rows."""
    found = from_source(f"""
@T.prim_func
def main(A: T.Buffer(({rows}, {width}), "float32"), S: T.Buffer((1,), "float32")):
    for i in range({rows}):
        with T.block("S"):
            vi = T.axis.reduce({rows}, i)
            with T.init():
                S[0] = T.float32(0)
            S[0] = S[0] + A[vi, 0]
""")
    assert isinstance(found, PrimFunc)
    return found


def tiled(*, copied: bool = False) -> Schedule:
    """A matmul in tiles of 4 x 32, its second input copied for each tile if asked."""
    sch = Schedule(matmul(128))
    block = sch.get_block("C")
    if copied:
        copy = sch.cache_read(block, 1, "global")
    i, j, k = sch.get_loops(block)
    i0, i1, i2 = sch.split(i, [None, 2, 4])
    j0, j1 = sch.split(j, [None, 32])
    k0, k1 = sch.split(k, [None, 2])
    sch.reorder(i0, j0, k0, i1, k1, i2, j1)
    if copied:
        sch.compute_at(copy, j0)
    sch.vectorize(j1)
    return sch


def nests(sch: Schedule) -> list[_Nest]:
    layout, facts = describe(sch.mod)
    parts = parts_of(layout, len(facts))
    machine = Machine(vector_bytes=64, registers=32)
    return [_Nest(b, columns(facts)[list(at)], machine) for b, at in parts]


def test_sums_are_carried_through_what_is_written_out() -> None:
    """Between the reduction loops stands one that is written out: its sums stay in registers all
    the same, as `lower.registers` keeps them."""
    sch = tiled()
    (plain,) = nests(sch)
    assert plain.cells == 8
    assert plain.kept
    assert plain.inside[int(plain.carried[0])] == 2 * 4 * 32
    sch.annotate(sch.get_loops(sch.get_block("C"))[0], "pragma_auto_unroll_max_step", 512)
    (noted,) = nests(sch)
    assert noted.cells == 16
    assert noted.kept
    assert noted.inside[int(noted.carried[0])] == 64 * 2 * 2 * 4 * 32
    assert noted.cycles < plain.cycles


def test_a_temporary_lives_inside_the_loops_that_all_its_uses_share() -> None:
    main, copy = nests(tiled(copied=True))
    (read,) = (a for a in main.block.accesses if a.packed)
    assert read.home == 2
    assert read.again == 2
    assert copy.block.shared == main.block.shared == 2
    (size,) = (m[0] for m, a in zip(copy.memory, copy.block.accesses) if a.packed)
    assert size[0] == size[2] == 128 * 32 * 4  # one copy serves all tiles


def test_lines_that_share_a_place_of_the_first_cache() -> None:
    """128 rows that are 48 lines apart begin at 4 of its 64 places."""
    (nest,) = nests(Schedule(column_of_rows(128, 768)))
    _, lines, _, taken = nest.memory[1]
    assert lines[0] == 128
    assert taken[0] == 128 / 4 * 4096
    (nest,) = nests(Schedule(column_of_rows(128, 784)))  # 49 lines apart: at all places
    assert nest.memory[1][3][0] == 128 / 64 * 4096


# ----------------------------------------------------------------------------- what lowering does
def spread(order: str, split: int = 4) -> Schedule:
    """A transposed convolution by stride 2; the order of its loops: y in tiles, c, the taps r."""
    text = """
@T.prim_func
def main(X: T.Buffer((16, 16), "float32"), W: T.Buffer((4, 16), "float32"),
         Y: T.Buffer((32, 16), "float32")):
    P = T.alloc_buffer((35, 16))
    for y, c in T.grid(35, 16):
        with T.block("P"):
            vy, vc = T.axis.remap("SS", [y, c])
            P[vy, vc] = T.if_then_else(1 <= vy and vy < 32 and (vy - 1) % 2 == 0,
                                       X[(vy - 1) // 2, vc], T.float32(0))
    for y, c, r in T.grid(32, 16, 4):
        with T.block("Y"):
            vy, vc, vr = T.axis.remap("SSR", [y, c, r])
            with T.init():
                Y[vy, vc] = T.float32(0)
            Y[vy, vc] = Y[vy, vc] + P[vy + vr, vc] * W[3 - vr, vc]
"""
    sch = Schedule(from_source(text))
    y, c, r = sch.get_loops(sch.get_block("Y"))
    y0, y1 = sch.split(y, [None, split])
    loops = {"y": y0, "t": y1, "c": c, "r": r}
    sch.reorder(*[loops[k] for k in order])
    return sch


def products(sch: Schedule) -> float:
    """How many products a core computes, as the features have it."""
    return float(nests(sch)[0].trips[0])


def test_zeros_that_spread_data_are_no_work() -> None:
    assert products(spread("yrtc")) == products(spread("ytcr")) == 32 * 16 * 4 / 2
    # tiles of three end at either remainder: all of them are one group
    assert products(spread("yrtc", 3)) < 33 * 16 * 4
    whole = spread("ryct", 1)  # tiles of one: the loop outside of them decides
    assert products(whole) == 32 * 16 * 4 / 2
    # the lanes of a vector are of both kinds; iterations of a parallel loop are not written out
    lanes = spread("yrct")
    lanes.vectorize(lanes.get_loops(lanes.get_block("Y"))[-1])
    assert products(lanes) == 32 * 16 * 4
    apart = spread("ryct", 1)
    apart.parallel(apart.get_loops(apart.get_block("Y"))[1])
    assert products(apart) == 32 * 16 * 4


def test_zeros_are_work_where_the_code_without_them_would_be_too_long() -> None:
    """Named for a bug: the first choice for a transposed convolution was one that multiplies all
    its zeros."""

    def groups(sch: Schedule) -> bool:
        return "r_r in T.unroll(2)" in str(lower(sch.mod["main"], CpuLimits()))

    text = """
@T.prim_func
def main(X: T.Buffer((16, 8), "float32"), W: T.Buffer((4, 8, 256), "float32"),
         Y: T.Buffer((32, 256), "float32")):
    P = T.alloc_buffer((35, 8))
    for y, k in T.grid(35, 8):
        with T.block("P"):
            vy, vk = T.axis.remap("SS", [y, k])
            P[vy, vk] = T.if_then_else(1 <= vy and vy < 32 and (vy - 1) % 2 == 0,
                                       X[(vy - 1) // 2, vk], T.float32(0))
    for y, r, k, t, q, c in T.grid(8, 4, 2, 4, 4, 256):
        with T.block("Y"):
            vy = T.axis.spatial(32, y * 4 + t)
            vc = T.axis.spatial(256, c)
            vr = T.axis.reduce(4, r)
            vk = T.axis.reduce(8, k * 4 + q)
            with T.init():
                Y[vy, vc] = T.float32(0)
            Y[vy, vc] = Y[vy, vc] + P[vy + vr, vk] * W[3 - vr, vk, vc]
"""
    for limit, written in ((64, True), (512, False)):
        sch = Schedule(from_source(text))
        y, *_, c = sch.get_loops(sch.get_block("Y"))
        sch.vectorize(c)
        sch.annotate(y, "pragma_auto_unroll_max_step", limit)
        sch.annotate(y, "pragma_unroll_explicit", 1)
        assert groups(sch) == written
        assert products(sch) == 32 * 4 * 8 * 256 / (2 if written else 1)


def test_a_window_that_goes_on_in_steps_reads_what_it_names() -> None:
    """Named for a bug: what lies between the places of a strided convolution was loaded, too."""
    sch = Schedule(
        from_source("""
@T.prim_func
def main(X: T.Buffer((64,), "float32"), W: T.Buffer((3,), "float32"),
         Y: T.Buffer((14,), "float32")):
    for r, v in T.grid(3, 14):
        with T.block("Y"):
            vr, vv = T.axis.remap("RS", [r, v])
            with T.init():
                Y[vv] = T.float32(0)
            Y[vv] = Y[vv] + X[vv * 2 + vr] * W[vr]
""")
    )
    (nest,) = nests(sch)
    (window,) = [k for k, a in enumerate(nest.block.accesses) if a.spans[0][0] == "sum"]
    assert nest._elements(window)[:, 0].tolist() == [29.0, 14.0, 1.0]  # of 29, 27 and 1


def test_a_tile_that_leaves_no_register_for_operands_fetches_more() -> None:
    """Named for a bug: of tiles of 28 vectors, 7 by 4 were as good as 14 by 2."""

    def loads(rows: int, columns: int) -> float:
        sch = Schedule(matmul(448))
        i, j, k = sch.get_loops(sch.get_block("C"))
        i0, i1 = sch.split(i, [None, rows])
        j0, j1 = sch.split(j, [None, columns])
        sch.reorder(i0, j0, k, i1, j1)
        sch.vectorize(j1)
        sch.annotate(i0, "pragma_auto_unroll_max_step", 64)
        return float(nests(sch)[0].ports[1][0])

    assert loads(7, 64) > 1.9 * loads(14, 32)


def test_data_that_is_not_spread_is_all_work() -> None:
    sch = spread("yrtc")
    sch.compute_inline(sch.get_block("P"))
    assert products(sch) == 32 * 16 * 4 / 2  # the condition is asked in the sum itself
    plain = Schedule(suite_kernel("C1D"))
    assert nests(plain)[0].trips[0] == nests(plain)[0].whole.prod(axis=0)[0]


def test_functions_and_divisions_have_their_price() -> None:
    def cycles(value: str) -> float:
        sch = Schedule(
            from_source(f"""
@T.prim_func
def main(A: T.Buffer((512,), "float32"), B: T.Buffer((512,), "float32")):
    for i in range(512):
        with T.block("B"):
            v = T.axis.spatial(512, i)
            B[v] = {value}
""")
        )
        sch.vectorize(sch.split(sch.get_loops(sch.get_block("B"))[0], [None, 16])[1])
        return float(nests(sch)[0].ports[0][0])

    dear = [cycles(f"{x}") for x in ("A[v] * A[v]", "T.floor(A[v])", "A[v] / A[v]", "T.tanh(A[v])")]
    assert dear == sorted(dear)
    assert dear[2] > 10 * dear[0]
    assert set(_VECTOR_OPERATIONS) <= set(MATH)
