"""Does a matrix of decisions say the same as replaying each row?"""

from __future__ import annotations

import dataclasses
import operator
from math import gcd
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_spaces import MACHINE, many_tiles, matmul, sketches, suite_kernel, two_tiles

from gputune.errors import ScheduleError
from gputune.ir.nodes import For, IRModule, PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.lower.layout_preproc import split_layout_preproc
from gputune.meta_schedule.decisions import Decisions, row_numbers
from gputune.meta_schedule.polynomials import Polynomials, Values
from gputune.meta_schedule.population import Sketch, Unsupported
from gputune.meta_schedule.postproc import Postproc, RewriteParallelVectorizeUnroll
from gputune.meta_schedule.sketch_feature import columns, features
from gputune.meta_schedule.sketch_layout import describe
from gputune.schedule import Schedule, dim
from gputune.schedule.dim import Dim, expr_of, recording
from gputune.schedule.tilings import tilings
from gputune.schedule.trace import Trace
from gputune.script import tir as T


def extents(sch: Schedule) -> list[int]:
    return [
        int(s.extent.value)
        for f in sch.mod.functions.values()
        for s in walk_stmt(f.body)
        if type(s) is For
    ]


def agree(sketch: Sketch, rows: Any) -> int:
    """Check verdicts and features of rows against plain replay; how many are legal?"""
    found = sketch.evaluate(rows)
    legal = 0
    for k, row in enumerate(rows):
        sch, refusal = sketch.schedule(row)
        assert (refusal is None) == bool(found.valid[k]), (row, refusal)
        if refusal is not None:
            continue
        legal += 1
        layout, facts = describe(sch.mod)
        x, score = features(layout, columns(facts), MACHINE)
        assert (x[0] == found.features[k]).all(), np.flatnonzero(x[0] != found.features[k])
        assert score[0] == found.score[k]
    return legal


def test_thousand_rows_of_the_default_matmul_agree_with_replay() -> None:
    rng = np.random.default_rng(11)
    tiled = [s for s in sketches(matmul(1024)) if s.decisions.width > 8]
    total = 0
    for sketch in tiled[:2]:
        total += agree(sketch, sketch.decisions.sample(500 // len(tiled[:2]) * 2, rng))
        assert not sketch.fallbacks
    assert total == 1000


def test_loop_extents_of_a_class_are_those_of_replay() -> None:
    sketch = next(s for s in sketches(matmul(256)) if s.decisions.width > 8)
    rows = sketch.decisions.sample(60, np.random.default_rng(2))
    values = Values(sketch.table, rows)
    for k, row in enumerate(rows):
        with recording():
            sch, refusal = sketch._replay(sketch._decider(row, dims=True))
            assert refusal is None
            got = []
            for s in walk_stmt(sch.mod["matmul"].body):
                if type(s) is For:
                    v = values.of(sketch.table.number(expr_of(s.extent.value)))
                    got.append(v if isinstance(v, int) else int(v[k]))
        assert got == extents(sketch.schedule(row)[0])


@pytest.mark.parametrize("name", ["NRM", "SFM", "GRP", "T2D"])
def test_other_operators_agree_with_replay(name: str) -> None:
    rng = np.random.default_rng(5)
    for sketch in sketches(suite_kernel(name))[:3]:
        agree(sketch, sketch.decisions.sample(12, rng))
        assert not sketch.fallbacks


def test_programs_that_pack_an_argument_agree_with_replay() -> None:
    """The layout follows the tiles, and the packing is no part of what is scored."""
    func = matmul(60).with_attr("layout_free_buffers", (1,))
    for sketch in sketches(func):
        assert agree(sketch, sketch.decisions.sample(40, np.random.default_rng(3))) == 40
        assert not sketch.fallbacks
        sch = sketch.materialise(sketch.decisions.sample(1, np.random.default_rng(4))[0])
        pack, rest = split_layout_preproc(sch.mod["matmul"])
        assert pack is not None
        whole, alone = describe(sch.mod), describe(IRModule({"matmul": rest}))
        assert whole[0] == alone[0]
        assert list(map(int, whole[1])) == list(map(int, alone[1]))


def test_a_choice_without_a_choice() -> None:
    """Named for a fault: a sampled value with one candidate is the same for all rows, and was taken
    for a column."""

    def one_width(sch: Schedule) -> None:
        i, j, *_ = sch.get_loops(sch.get_block("C"))
        sch.split(i, [None, sch.sample_categorical([8], [1.0])])
        sch.split(j, sch.sample_perfect_tile(j, 2, 16))

    sketch = sketch_of(one_width)
    rows = sketch.decisions.sample(12, np.random.default_rng(3))
    assert agree(sketch, rows) == 12
    assert not sketch.fallbacks


class RefusesWide(Postproc):
    """Refuses by a sampled extent."""

    def apply(self, sch: Schedule) -> bool:
        loop = sch.get(sch.get_loops(sch.get_block("C"))[3])
        return bool(loop.extent.value <= 4)


class LosesExpressions(Postproc):
    """Branches on a number that no longer knows where it came from."""

    def apply(self, sch: Schedule) -> bool:
        loop = sch.get(sch.get_loops(sch.get_block("C"))[2])
        if int(loop.extent.value) >= 8:
            sch.unroll(sch.get_loops(sch.get_block("C"))[2])
        return True


class NoDims(Postproc):
    def apply(self, sch: Schedule) -> bool:
        loop = sch.get(sch.get_loops(sch.get_block("C"))[2])
        if type(loop.extent.value) is not int:
            raise TypeError("plain ints, please")
        return True


def sketch_of(fn: Any, *posts: Postproc, n: int = 32, by_replay: bool = False) -> Sketch:
    sch = Schedule(matmul(n), seed=3)
    fn(sch)
    mod = IRModule.from_expr(matmul(n))
    return Sketch(mod, sch.trace, posts, MACHINE, by_replay=by_replay)


def test_a_verdict_that_depends_on_a_factor() -> None:
    sketch = sketch_of(two_tiles, RefusesWide())
    rows = sketch.decisions.enumerate(100)
    assert rows is not None
    found = sketch.evaluate(rows)
    assert (found.valid == (rows[:, 3] <= 4)).all()
    assert sum(found.refusals.values()) == int((~found.valid).sum()) > 0
    assert (sketch.verdicts(rows) == found.valid).all()
    assert (sketch_of(two_tiles, RefusesWide()).verdicts(rows) == found.valid).all()
    assert sketch.class_count == 2


@T.prim_func
def wide(A: T.Buffer((8, 720), "float32"), B: T.Buffer((8, 720), "float32")):
    for i, j in T.grid(8, 720):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = A[vi, vj] * T.float32(2)


def wide_tiles(sch: Schedule) -> None:
    """Tiles that are longer than a vector, and divide the loop."""
    j = sch.get_loops(sch.get_block("B"))[1]
    sch.split(j, sch.sample_perfect_tile(j, 2, 720))


def wide_padded(sch: Schedule) -> None:
    """Tiles that are longer than a vector, and do not divide the loop."""
    j = sch.get_loops(sch.get_block("B"))[1]
    width = sch.sample_categorical([100, 7, 97, 64, 98, 500, 128], [0.1] * 6 + [0.4])
    sch.split(j, [None, width])


@pytest.mark.parametrize("lanes", [16, 64])
@pytest.mark.parametrize("tiles", [wide_tiles, wide_padded])
def test_loops_longer_than_a_vector_agree_with_plain_replay(tiles: Any, lanes: int) -> None:
    sch = Schedule(wide, seed=3)
    tiles(sch)
    for key, value in (("parallel", 4), ("vectorize", lanes)):
        sch.annotate(sch.get_block("root"), f"meta_schedule.{key}", value)
    mod = IRModule.from_expr(wide)
    sketch = Sketch(mod, sch.trace, [RewriteParallelVectorizeUnroll()], MACHINE)
    rows = sketch.decisions.enumerate(100)
    assert rows is not None
    found = sketch.evaluate(rows)
    assert (found.classes >= 0).all()
    assert not sketch.fallbacks  # no class "disagrees" with the plain replay of its row
    longest = 0
    for k, row in enumerate(rows):
        refusal, features_, score = sketch._plain(row)
        assert refusal is None
        assert found.valid[k]
        assert (found.features[k] == features_).all()
        assert found.score[k] == score
        longest = max(longest, *extents(sketch.schedule(row)[0]))
    assert longest > lanes


@pytest.mark.parametrize("post", [LosesExpressions(), NoDims()])
def test_code_that_loses_expressions_is_replayed_with_the_same_results(post: Postproc) -> None:
    sketch = sketch_of(two_tiles, post)
    rows = sketch.decisions.enumerate(100)
    assert rows is not None
    assert agree(sketch, rows) == 25
    assert sketch.fallbacks


def test_rows_replayed_one_by_one_are_the_same() -> None:
    a, b = sketch_of(many_tiles), sketch_of(many_tiles, by_replay=True)
    rows = a.decisions.sample(30, np.random.default_rng(0))
    x, y = a.evaluate(rows), b.evaluate(rows)
    assert (x.valid == y.valid).all()
    assert (x.features == y.features).all()
    assert a.class_count < 10
    assert b.class_count == 0


def test_new_classes_are_limited() -> None:
    sketch = sketch_of(two_tiles, RefusesWide())
    rows = sketch.decisions.enumerate(100)
    assert rows is not None
    found = sketch.evaluate(rows, new_classes=1)
    assert sketch.class_count == 1
    assert (found.classes == -2).any()
    assert not found.valid[found.classes == -2].any()
    assert (sketch.evaluate(rows).classes >= 0).all()


def test_materialise_and_back() -> None:
    sketch = sketch_of(two_tiles, RefusesWide())
    good, bad = np.array([4, 8, 8, 4]), np.array([4, 8, 2, 16])
    sch = sketch.materialise(good)
    assert extents(sch)[:4] == [4, 8, 8, 4]
    assert (sketch.row_of(sch.trace) == good).all()
    assert (sketch.row_of(Trace.from_json(sch.trace.as_json())) == good).all()
    with pytest.raises(ScheduleError, match="the candidate is refused"):
        sketch.materialise(bad)
    with pytest.raises(ScheduleError, match="the candidate is refused: sample-decision"):
        sketch.materialise(np.array([3, 8, 8, 4]))


def test_row_of_a_foreign_trace_is_none() -> None:
    sketch = sketch_of(two_tiles)
    other = Schedule(matmul(32), seed=1)
    many_tiles(other)
    assert sketch.row_of(other.trace) is None


def test_unknown_sampling_is_unsupported() -> None:
    sch = Schedule(matmul(32), seed=3)
    two_tiles(sch)
    inst = next(i for i in sch.trace.insts if i.kind.samples)
    inst.kind = dataclasses.replace(inst.kind, name="SampleSomethingElse")
    with pytest.raises(Unsupported):
        Sketch(IRModule.from_expr(matmul(32)), sch.trace, [])


# ----------------------------------------------------------------------------- drawing
@given(st.integers(1, 400), st.integers(1, 4), st.integers(1, 64))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_tilings_are_all_there_are(extent: int, n: int, limit: int) -> None:
    table = tilings(extent, n, limit)
    assert table is not None
    rows = {tuple(r) for r in table.tolist()}
    assert len(rows) == len(table)

    def brute(left: int, k: int) -> list[tuple[int, ...]]:
        if k == 1:
            return [(left,)]
        return [
            (d, *r) for d in range(1, left + 1) if left % d == 0 for r in brute(left // d, k - 1)
        ]

    assert rows == {r for r in brute(extent, n) if r[-1] <= limit}


def test_moves_keep_rows_legal() -> None:
    rng = np.random.default_rng(1)
    d = sketch_of(many_tiles, n=96).decisions
    rows = d.sample(400, rng)
    for other in (d.mutate(rows, rng), d.cross(rows, rows[::-1], rng), d.neighbours(rows[0])):
        assert (np.prod(other[:, :4], axis=1) == 96).all()
        assert (np.prod(other[:, 4:8], axis=1) == 96).all()
        assert (np.prod(other[:, 8:], axis=1) == 96).all()
        assert (other[:, [3, 7, 9]] <= 16).all()
        assert (other > 0).all()
    changed = (d.mutate(rows, rng) != rows).any(axis=1).mean()
    assert changed > 0.8
    near = d.neighbours(rows[0])
    assert len(np.unique(near, axis=0)) == len(near)


def test_sampling_is_uniform_over_tilings() -> None:
    d = sketch_of(two_tiles).decisions
    rows = d.sample(5000, np.random.default_rng(0))
    _, counts = np.unique(rows, axis=0, return_counts=True)
    assert len(counts) == 25
    assert counts.min() > 120
    assert counts.max() < 290


def test_a_tile_of_a_sampled_extent_follows_it() -> None:
    def nested(sch: Schedule) -> None:
        i, _, _ = sch.get_loops(sch.get_block("C"))
        _, inner = sch.split(i, sch.sample_perfect_tile(i, n=2, max_innermost_factor=32))
        sch.split(inner, sch.sample_perfect_tile(inner, n=2, max_innermost_factor=32))

    sketch = sketch_of(nested)
    rng = np.random.default_rng(0)
    rows = sketch.decisions.sample(200, rng)
    for r in (
        rows,
        sketch.decisions.mutate(rows, rng),
        sketch.decisions.cross(rows, rows[::-1], rng),
    ):
        assert (r[:, 2] * r[:, 3] == r[:, 1]).all()
    assert agree(sketch, rows[:50]) == 50
    every = sketch.decisions.enumerate(1000)
    assert every is not None
    assert len(every) == sum(k + 1 for k in range(6))


def test_a_space_too_large_to_enumerate_says_so() -> None:
    assert sketch_of(many_tiles).decisions.enumerate(1000) is None


def test_row_numbers() -> None:
    rows = np.array([[1, 2], [1, 2], [2, 1]])
    a, b, c = row_numbers(rows).tolist()
    assert a == b != c
    assert row_numbers(np.empty((2, 0), np.int64)).tolist() == [0, 0]
    empty = Decisions([], 0, lambda site, row: [])
    assert empty.sample(3, np.random.default_rng(0)).shape == (3, 0)


# ----------------------------------------------------------------------------- polynomials
_OPS = ("add", "sub", "mul", "floordiv", "mod", "minimum", "maximum", "gcd")


@st.composite
def dims(draw: st.DrawFn, depth: int = 4) -> Any:
    """A function from the values of a and b to an int or Dim."""
    if depth == 0 or draw(st.booleans()):
        which = draw(st.sampled_from(["a", "b", "const"]))
        n = draw(st.integers(1, 6))
        return lambda a, b: {"a": a, "b": b, "const": n}[which]
    op = draw(st.sampled_from(_OPS))
    x, y = draw(dims(depth=depth - 1)), draw(dims(depth=depth - 1))

    def apply(a: int, b: int) -> int:
        p, q = x(a, b), y(a, b)
        match op:
            case "add":
                return p + q
            case "sub":
                return p - q
            case "mul":
                return p * q
            case "floordiv":
                return p // positive(q)
            case "mod":
                return p % positive(q)
            case "gcd":
                if type(p) is Dim:
                    return p.gcd(q)
                return q.gcd(p) if type(q) is Dim else gcd(p, q)
            case _:
                return dim.minimum(p, q) if op == "minimum" else dim.maximum(p, q)

    return apply


def positive(q: int) -> int:
    return q * q + 1


@given(dims(), dims(), st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge"]))
@settings(derandomize=True, deadline=None, max_examples=150)
def test_polynomials_are_what_python_computes(f: Any, g: Any, op: str) -> None:
    table = Polynomials(["a", "b"])
    rows = np.array([[1, 1], [2, 3], [4, 2], [5, 5]])
    a, b = Dim(1, "a"), Dim(1, "b")
    with recording() as guards:
        x, y = f(a, b), g(a, b)
        getattr(operator, op)(x, y)
        values = Values(table, rows)
        got = np.broadcast_to(values.of(table.number(expr_of(x))), 4)
        literals = [table.literal(guard, {}) for guard in guards]
    assert got.tolist() == [f(int(p), int(q)) for p, q in rows]
    for literal in literals:
        if literal is not None:
            (at, outcome) = literal
            truth = [getattr(operator, op)(f(int(p), int(q)), g(int(p), int(q))) for p, q in rows]
            first = getattr(operator, op)(f(1, 1), g(1, 1))
            assert ((values.holds(at) == outcome) == (np.array(truth) == first)).all()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_rows_that_answer_alike_share_a_class(which: int) -> None:
    """A class whose guards ask something new must still take in the rows that answer alike: with
    stale answers every row became a class of its own (6 classes here, not 4,096)."""
    sketch = sketches(matmul(1024))[which]
    sketch.evaluate(sketch.decisions.sample(600, np.random.default_rng(0)))
    answers = [(bytes(c.care), bytes(c.value)) for g in sketch._groups.values() for c in g.classes]
    assert len(set(answers)) == len(answers) <= 40


# ----------------------------------------------------------------------------- structures
def of_decisions(func: PrimFunc, do: Any) -> Sketch:
    sch = Schedule(func, seed=1)
    do(sch)
    return Sketch(IRModule.from_expr(func), sch.trace, (), MACHINE)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_map_that_divides_by_a_sampled_one(first: int) -> None:
    """Named for a bug: `k % 1` is no digit of the reduction, so there is nothing to factor; rows
    with another value, in the class of which it is one, were taken for it."""

    def do(s: Schedule) -> None:
        v = s.sample_categorical([2, 1, 8], [0.4, 0.3, 0.3], decision=0)
        s.transform_block_layout("C", lambda i, j, k: (i, j, k // v, k % v))
        s.rfactor(s.get_loops("C")[-1], 0)

    sketch = of_decisions(matmul(8), do)
    rows = np.array([[k % 3] for k in (first, first + 1, first + 2)])
    assert agree(sketch, rows) == 2
    assert not sketch.fallbacks


def test_a_loop_split_by_all_of_it_is_as_long_as_the_domain() -> None:
    """Named for a bug: a trace that had been recorded was refused as a sketch, because a sampled 8
    was not taken for as long as 8."""

    def do(s: Schedule) -> None:
        i = s.get_loops("C")[0]
        s.split(i, s.sample_perfect_tile(i, 1))
        s.transform_block_layout("C", lambda i, j, k: (j, k, i // 2, i % 2))

    sketch = of_decisions(matmul(8), do)
    assert agree(sketch, np.array([[8]])) == 1
    assert not sketch.fallbacks


def test_a_class_is_checked_on_rows_with_different_decisions() -> None:
    """Named for a bug: in a layout that 3 divides, and in one that 2 divides, elements lie
    differently; the class was compared with replay where it happened to be right."""

    @T.prim_func
    def f(X: T.Buffer((4, 6), "int32"), Y: T.Buffer((6, 4), "int32")):
        S = T.alloc_buffer((6, 4), "int32")
        for i, j in T.grid(6, 4):
            with T.block("S"):
                vi, vj = T.axis.remap("SS", [i, j])
                S[vi, vj] = X[vj, vi] * 3
        for i, j in T.grid(6, 4):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = S[vi, vj] + 1

    def do(s: Schedule) -> None:
        s.transform_block_layout("S", lambda i, j: (i % 2, j, i // 2))
        v = s.sample_categorical([3, 2], [0.5, 0.5], decision=0)
        s.transform_layout("Y", ("read", 0), lambda i, j: (i // v, i % v, j))

    for rows in ([[0], [1], [0]], [[1], [0], [1]], [[0], [1]]):
        assert agree(of_decisions(f, do), np.array(rows)) == len(rows)


def test_what_only_plain_numbers_simplify_is_no_sketch() -> None:
    """Named for a bug: such a trace raised a ScheduleError where a search asked for its sketch."""

    def do(s: Schedule) -> None:
        v = s.sample_categorical([1, 2], [0.5, 0.5], decision=0)
        a = s.cache_read("C", 0, "global")
        s.transform_layout(a, ("write", 0), lambda i, k: (i // v, k, i % v))
        s.pad_einsum("C", [2, 2, 2])
        loop = s.get_loops("C")[0]
        s.split(loop, s.sample_perfect_tile(loop, 2))

    with pytest.raises(Unsupported, match="replay with Dims is refused: pad_einsum"):
        of_decisions(matmul(7), do)


def test_the_arithmetic_of_indices_is_no_work() -> None:
    """Named for a bug: in a condition, `k_0 * 1 + k_1` was one operation more than `k_0 + k_1`."""

    @T.prim_func
    def f(X: T.Buffer((6, 8), "float32"), Y: T.Buffer((6,), "float32")):
        for i, k in T.grid(6, 8):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                T.where(k < 6)
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]

    def do(s: Schedule) -> None:
        k = s.get_loops("Y")[1]
        s.rfactor(s.split(k, s.sample_perfect_tile(k, 2))[1], 1)

    sketch = of_decisions(f, do)
    assert agree(sketch, np.array([[2, 4], [8, 1], [4, 2], [1, 8], [2, 4]])) == 5
    assert not sketch.fallbacks


def test_iterators_dropped_because_they_take_one_value_only() -> None:
    """Named for a bug: blockize that keeps no unit iterators kept those of sampled extents."""

    def do(s: Schedule) -> None:
        k = s.get_loops("C")[2]
        inner = s.split(k, s.sample_perfect_tile(k, 3))[1]
        s.blockize(inner, preserve_unit_iters=False)

    sketch = of_decisions(matmul(8), do)
    rows = np.array([[2, 2, 2], [1, 2, 4], [1, 8, 1], [8, 1, 1], [4, 2, 1]])
    assert agree(sketch, rows) == len(rows)
    assert not sketch.fallbacks


def test_a_class_is_checked_where_a_factor_is_one() -> None:
    """Named for a bug: a loop that was fused with one of extent 1 is followed by plain replay."""

    @T.prim_func
    def f(X: T.Buffer((6, 8), "float32"), Y: T.Buffer((6,), "float32")):
        for i, k in T.grid(6, 8):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]

    def do(s: Schedule) -> None:
        i, k = s.get_loops("Y")
        s.fuse(i, s.split(k, s.sample_perfect_tile(k, 2))[0])

    for rows in ([[2, 4], [1, 8], [4, 2]], [[1, 8], [4, 2]], [[4, 2], [1, 8], [2, 4], [8, 1]]):
        assert agree(of_decisions(f, do), np.array(rows)) == len(rows)


def test_the_rest_of_a_loop_that_other_decisions_make_too_short() -> None:
    """Named for a bug: the law met tiles of a rest of less than nothing, and no row was drawn."""

    def space(sch: Schedule) -> None:
        i = sch.get_loops(sch.get_block("C"))[0]
        _, inner = sch.split(i, sch.sample_perfect_tile(i, 2, decision=[2, 16]))
        _, _, rest = sch.loop_partition(inner, [2, 3])
        block = sch.get_child_blocks(rest)[0]
        loop = sch.get_loops(block)[-3]
        sch.split(loop, sch.sample_perfect_tile(loop, 2))

    sketch = sketch_of(space)
    rows = sketch.decisions.sample(60, np.random.default_rng(1))
    assert {int(x) for x in rows[:, 1]} >= {1, 2, 4, 8, 16}
    assert 0 < agree(sketch, rows) < 60  # those with 5 and less are refused, both ways
    moved = sketch.decisions.mutate(rows, np.random.default_rng(2))
    agree(sketch, moved)
    sketch.decisions.neighbours(rows[0])
