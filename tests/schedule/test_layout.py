"""transform_layout: what it rewrites, pads, records and refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gputune.errors import RecordError, RunError
from gputune.ir.build import const_int
from gputune.ir.equal import structural_equal
from gputune.ir.index_map import IndexMap
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.runtime.module import build
from gputune.schedule import Schedule, Trace
from gputune.schedule.dim import Dim, Evaluator, recording
from gputune.script import tir as T

from . import schedule_programs as programs
from .schedule_helpers import keeps, loops, prints, refuses, replays, scheduled


def chain() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((6, 8), "float32"), Y: T.Buffer((6, 8), "float32")):
        B = T.alloc_buffer((6, 8))
        for i, j in T.grid(6, 8):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] * 2.0
        for i, j in T.grid(6, 8):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = B[vi, vj] + 1.0

    return f


def tiled(i: Any, j: Any) -> Any:
    return (i // 3, j // 4, i % 3, j % 4)


# ----------------------------------------------------------------------------- what it does
def test_every_access_is_rewritten() -> None:
    sch = keeps(chain(), lambda s: s.transform_layout("B", ("write", 0), tiled))
    prints(
        sch,
        """
        B = T.alloc_buffer((2, 2, 3, 4))
        for i, j in T.grid(6, 8):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                T.reads(X[vi, vj])
                T.writes(B[vi // 3, vj // 4, vi % 3, vj % 4])
                B[vi // 3, vj // 4, vi % 3, vj % 4] = X[vi, vj] * T.float32(2)
        for i, j in T.grid(6, 8):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                T.reads(B[vi // 3, vj // 4, vi % 3, vj % 4])
                T.writes(Y[vi, vj])
                Y[vi, vj] = B[vi // 3, vj // 4, vi % 3, vj % 4] + T.float32(1)
    """,
    )


@pytest.mark.parametrize("where", [("read", 0), ("write", 0), "B", "object"])
def test_the_buffer_by_position_name_and_object(where: Any) -> None:
    func = chain()
    sch = scheduled(func)
    block = sch.get_block("Y" if where == ("read", 0) else "B")
    buffer = sch.get(sch.get_block("B")).writes[0].buffer
    sch.transform_layout(block, buffer if where == "object" else where, lambda i, j: (j, i))
    want = '("read", 0)' if where == ("read", 0) else '("write", 0)'
    assert sch.trace.as_python()[-1] == (
        f"sch.transform_layout(block=b0, buffer={want}, index_map=lambda i, j: (j, i,), "
        "pad_value=None, assume_injective_transform=False)"
    )


def test_later_primitives_follow_the_new_layout() -> None:
    def do(s: Schedule) -> None:
        s.transform_layout("B", ("write", 0), tiled)
        _, i1 = s.split(loops(s, "Y")[0], [2, 3])
        s.compute_at("B", i1)
        s.compute_at(s.cache_read("B", 0, "local"), loops(s, "B")[-1])
        s.vectorize(loops(s, "Y")[-1])

    keeps(chain(), do)

    def reshape(s: Schedule) -> None:
        s.transform_layout("B", ("write", 0), lambda i, j: (i * 8 + j,))
        s.transform_block_layout("B", lambda i, j: (i * 8 + j,))
        s.compute_inline("B")

    keeps(chain(), reshape)


def test_indices_are_simplified() -> None:
    def do(s: Schedule) -> None:
        s.transform_layout("B", "B", tiled)
        s.transform_block_layout("B", tiled)

    sch = keeps(chain(), do)
    region = sch.get(sch.get_block("B")).writes[0].region
    assert [str(r.min) for r in region] == ["v0", "v1", "v2", "v3"]


def test_the_identity_leaves_the_program_alone() -> None:
    sch = scheduled(chain())
    mod = sch.mod
    sch.transform_layout("B", "B", lambda i, j: (i, j))
    assert sch.mod is mod
    assert len(sch.trace.insts) == 2


def test_reductions_and_their_init() -> None:
    sch = keeps(
        programs.row_sum(),
        lambda s: s.transform_layout(
            s.cache_write("Y", 0, "local"), ("read", 0), lambda i: (i // 2, i % 2)
        ),
    )
    assert [const_int(n) for n in sch.get(sch.get_block("Y")).writes[0].buffer.shape] == [2, 2]


# ----------------------------------------------------------------------------- padding
def test_a_plain_writer_pads_itself() -> None:
    sch = keeps(chain(), lambda s: s.transform_layout("B", "B", lambda i, j: (j // 3, i, j % 3), 7))
    prints(
        sch,
        """
        B = T.alloc_buffer((3, 6, 3))
        for ax0, ax1, ax2 in T.grid(3, 6, 3):
            with T.block("B"):
                v0, v1, v2 = T.axis.remap("SSS", [ax0, ax1, ax2])
                T.reads(X[v1, v0 * 3 + v2])
                T.writes(B[v0, v1, v2])
                B[v0, v1, v2] = T.if_then_else(v0 * 3 + v2 < 8, X[v1, v0 * 3 + v2] * two, seven)
        for i, j in T.grid(6, 8):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                T.reads(B[vj // 3, vi, vj % 3])
                T.writes(Y[vi, vj])
                Y[vi, vj] = B[vj // 3, vi, vj % 3] + T.float32(1)
    """.replace("two", "T.float32(2)").replace("seven", "T.float32(7)"),
    )
    keeps(programs.chain(), lambda s: s.compute_at(_padded(s), loops(s, "Y")[0]))


def _padded(s: Schedule) -> Any:
    s.transform_layout("B", "B", lambda i, j: (j // 4, i, j % 4), 7)
    return s.get_block("B")


def _output(func: PrimFunc, shape: list[int], x: np.ndarray) -> np.ndarray:
    out = np.full(shape, 99, np.float32)
    run(func, x, out)
    on_llvm = np.full(shape, 99, np.float32)
    build(func, "llvm --num-cores=1")[func.name](x, on_llvm)
    assert np.array_equal(out, on_llvm)
    return out


def test_the_padding_of_an_output_holds_the_value() -> None:
    x = np.arange(28, dtype=np.float32).reshape(4, 7)
    sch = scheduled(programs.row_sum())  # a reduction: a block of its own pads
    sch.transform_layout("Y", ("write", 0), lambda i: (i // 3, i % 3), -5)
    out = _output(sch.mod["f"], [2, 3], x)
    assert out.ravel().tolist() == [*x.sum(1).tolist(), -5, -5]
    sch = scheduled(chain())  # a plain writer: it pads itself
    sch.transform_layout("Y", ("write", 0), lambda i, j: (i // 4, j, i % 4), lambda a, b, c: b + c)
    x = np.arange(48, dtype=np.float32).reshape(6, 8)
    out = _output(sch.mod["f"], [2, 8, 4], x)
    for i in range(8):
        for j in range(8):
            want = x[i, j] * 2 + 1 if i < 6 else j + i % 4
            assert out[i // 4, j, i % 4] == want


def test_what_is_only_read_is_assumed_to_be_padded() -> None:
    sch = scheduled(chain())
    sch.transform_layout("B", ("read", 0), lambda i, j: (i, j // 3, j % 3), 0)
    assert 'T.block("X_assume")' in sch.mod.script()
    x = np.zeros((6, 3, 3), np.float32)
    dense = np.arange(48, dtype=np.float32).reshape(6, 8)
    x.reshape(6, 9)[:, :8] = dense
    assert np.array_equal(_output(sch.mod["f"], [6, 8], x), dense * 2 + 1)
    x.reshape(6, 9)[:, 8] = 1
    with pytest.raises(RunError, match="assumption"):
        run(sch.mod["f"], x, np.zeros((6, 8), np.float32))
    undefined = scheduled(chain())
    undefined.transform_layout(
        "B", ("read", 0), lambda i, j: (i, j // 3, j % 3), assume_injective_transform=True
    )
    assert "assume" not in undefined.mod.script()
    assert np.array_equal(_output(undefined.mod["f"], [6, 8], x), dense * 2 + 1)


def test_parameters_are_rearranged_for_the_caller() -> None:
    sch = scheduled(chain())
    sch.transform_layout("B", ("read", 0), lambda i, j: (j, i))
    sch.transform_layout("Y", ("write", 0), tiled)
    x = np.arange(48, dtype=np.float32).reshape(6, 8)
    out = _output(sch.mod["f"], [2, 2, 3, 4], np.ascontiguousarray(x.T))
    back = out.transpose(0, 2, 1, 3).reshape(6, 8)
    assert np.array_equal(back, x * 2 + 1)


def test_maps_that_only_looking_understands() -> None:
    mirror = {"index_map": lambda i, j: (5 - i, j), "assume_injective_transform": True}
    sch = keeps(chain(), lambda s: s.transform_layout("B", "B", **mirror))  # type: ignore[arg-type]  # keywords
    assert "B[5 - vi, vj]" in sch.mod.script()


# ----------------------------------------------------------------------------- refusals
def test_transform_layout_refuses_maps() -> None:
    sch = scheduled(chain())
    b = sch.get_block("B")

    def tl(f: Any, *a: Any, **k: Any) -> Any:
        return lambda: sch.transform_layout(b, ("write", 0), f, *a, **k)

    e = refuses(sch, "layout-injective", tl(lambda i, j: (i // 2, j)), names="B of shape [6, 8]")
    assert "assume_injective_transform" in e.hint
    assume = {"assume_injective_transform": True}
    refuses(sch, "layout-injective", tl(lambda i, j: (i // 2, j), **assume), names="two elements")
    refuses(sch, "layout-injective", tl(lambda i, j: (i + j,), **assume), names="two elements")
    refuses(sch, "layout-padding", tl(lambda i, j: (i // 4, j, i % 4)), names="[2, 8, 4] of [6, 8]")
    refuses(sch, "layout-padding", tl(lambda i, j: (9 - i, j), 0, **assume), names="inverted")
    refuses(sch, "index-map", tl(lambda i: (i,)), names="takes 1")
    refuses(sch, "index-map", tl(IndexMap.identity(3)), names="takes 3")
    refuses(sch, "index-map", tl(lambda i, j: (i - 1, j), **assume), names="from -1")
    refuses(sch, "index-map", tl(lambda i, j: (i / 2, j)), names="no integer arithmetic")
    refuses(sch, "argument", tl("lambda i, j: (j, i)"), names="index_map")
    refuses(sch, "argument", tl(lambda i, j: (j, i), "seven"), names="pad_value")
    pads = lambda i, j: (i // 4, j, i % 4)  # noqa: E731
    refuses(sch, "layout-pad-value", tl(pads, float("nan")), names="not a number")
    refuses(sch, "layout-pad-value", tl(pads, lambda a, b, c: (a, b)), names="one value")
    v = sch.sample_categorical([2], [1.0])
    refuses(sch, "layout-pad-value", tl(pads, lambda a, b, c: a + v), names="one value")
    refuses(sch, "index-map", tl(pads, lambda a: a), names="there are 3")
    other = Schedule(chain(), seed=1).sample_categorical([2], [1.0])
    refuses(sch, "unknown-value", tl(lambda i, j: (i // other, j, i % other)))


def test_transform_layout_refuses_buffers() -> None:
    sch = scheduled(chain())
    b = sch.get_block("B")
    swap = lambda i, j: (j, i)  # noqa: E731
    refuses(sch, "buffer-index", lambda: sch.transform_layout(b, "Z", swap), names="'Z'")
    refuses(sch, "buffer-index", lambda: sch.transform_layout(b, ("read", 1), swap), names="1")
    refuses(sch, "argument", lambda: sch.transform_layout(b, ("see", 0), swap), names="buffer")
    refuses(sch, "argument", lambda: sch.transform_layout(b, (0, "read"), swap), names="buffer")  # type: ignore[arg-type]  # wrong on purpose
    sch.storage_align("B", 0, 0, 8, 1)
    refuses(sch, "layout-align", lambda: sch.transform_layout("Y", "B", swap), names="B")
    sch = scheduled(programs.views())
    refuses(sch, "layout-view", lambda: sch.transform_layout("Y", "B", lambda *i: i[::-1]))


def test_transform_layout_refuses_strides_and_unknown_shapes() -> None:
    @T.prim_func
    def strided(a: T.handle, y: T.handle):
        s = T.int32()
        A = T.match_buffer(a, (4, 4), "float32", strides=[s, 1])
        Y = T.match_buffer(y, (4, 4), "float32")
        for i, j in T.grid(4, 4):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = A[vi, vj]

    sch = scheduled(strided)
    refuses(sch, "layout-strides", lambda: sch.transform_layout("Y", "A", lambda i, j: (j, i)))

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
    refuses(
        sch, "layout-dynamic", lambda: sch.transform_layout("Y", "A", lambda i: (i // 4, i % 4))
    )


def test_a_region_that_is_no_box_afterwards_is_refused() -> None:
    @T.prim_func
    def rows(X: T.Buffer((6, 8), "float32"), Y: T.Buffer((6, 8), "float32")):
        B = T.alloc_buffer((6, 8))
        for i in range(6):
            with T.block("B"):
                vi = T.axis.spatial(6, i)
                T.reads(X[vi, 0:8])
                T.writes(B[vi, 0:8])
                for j in range(8):
                    B[vi, j] = X[vi, j]
        for i, j in T.grid(6, 8):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = B[vi, vj]

    sch = scheduled(rows)
    refuses(
        sch,
        "layout-region",
        lambda: sch.transform_layout("B", "B", lambda i, j: (i, j // 3, j % 3), 0),
        names="block B writes",
    )
    keeps(rows, lambda s: s.transform_layout("B", "B", lambda i, j: (j // 4, i, j % 4)))


def test_boxes_of_tiles_of_tiles_are_exact() -> None:
    """What a blockized copy writes under some of its loops, in a tiled layout."""

    def do(s: Schedule) -> None:
        c = s.cache_write("B", 0, "global")
        s.transform_layout("B", ("write", 0), lambda i, j: (i // 4, j // 4, i % 4, j % 4))
        i, j = loops(s, "B")
        _, i1, _ = s.split(i, [2, 2, 4])
        s.split(j, [3, 8])
        s.reverse_compute_at(c, i1)

    sch = keeps(square(), do)
    assert [const_int(sch.get(x).extent) for x in loops(sch, "B_global")] == [2, 2, 4, 24]


# ----------------------------------------------------------------------------- traces
def test_the_json_form_has_the_reference_order() -> None:
    sch = scheduled(chain())
    sch.transform_layout("Y", ("read", 0), tiled, 0.5, assume_injective_transform=True)
    sch.reindex("Y", ("write", 0))
    (insts, _) = sch.trace.as_json()
    text = "lambda i, j: (i // 3, j // 4, i % 3, j % 4,)"
    assert insts[1] == ["TransformLayout", ["b0", text], [0, 0, 0.5, True], []]  # 0: read
    assert insts[3] == ["ReIndex", ["b1"], [0, 1], ["b2"]]  # 1: write
    replays(chain(), sch)
    insts[1][2][1] = "read"  # how earlier versions wrote them
    insts[3][2][1] = "write"
    again = Schedule(chain())
    Trace.from_json(json.dumps([insts, []])).apply_to_schedule(again)
    assert structural_equal(again.mod, sch.mod)


def test_pad_maps_go_through_traces() -> None:
    sch = keeps(
        chain(),
        lambda s: s.transform_layout(
            "B", "B", lambda i, j: (i // 4, j, i % 4), lambda a, b, c: b * 2
        ),
    )
    assert "pad_value=lambda a, b, c: (b * 2,)" in str(sch.trace)
    assert sch.trace.as_json()[0][1][2][2] == "lambda a, b, c: (b * 2,)"


def test_axis_separators_are_refused() -> None:
    """Named for a bug: they were taken, and nothing came of them."""
    sch = scheduled(chain())
    apart = lambda i, j: (i, IndexMap.AXIS_SEPARATOR, j)  # noqa: E731
    calls = (
        lambda: sch.transform_layout("Y", ("read", 0), apart),
        lambda: sch.transform_block_layout("Y", apart),
        lambda: sch.reindex_cache_read("Y", 0, "local", apart),
    )
    for call in calls:
        e = refuses(sch, "axis-separator", call, names="AXIS_SEPARATOR")
        assert "leave it out" in e.hint
    with pytest.raises(AttributeError, match=r"set_axis_separator.*one dimension"):
        sch.set_axis_separator("Y", ("read", 0), [1])  # type: ignore[attr-defined]  # not there


@pytest.mark.parametrize(
    "line",
    [
        'sch.transform_layout(block=b0, buffer=("read", 0), index_map=lambda i, j: (k, i,))',
        'sch.transform_layout(block=b0, buffer=("read", 0), index_map=lambda i, j: (f(i), j,))',
        'sch.transform_layout(block=b0, buffer=("read", 0), index_map="lambda i, j: (j, i,)")',
        'sch.transform_layout(block=b0, buffer=("look", 0), index_map=lambda i, j: (j, i,))',
        "sch.transform_layout(block=b0, buffer=0, index_map=lambda i, j: (j, i,))",
        'sch.transform_layout(block=b0, buffer=("read", 0), index_map=lambda i, j: (b0, i,))',
        'sch.transform_layout(block=b0, buffer=("read", 0), index_map=lambda i: i, pad_value="")',
    ],
)
def test_hostile_maps_are_refused(line: str) -> None:
    with pytest.raises(RecordError, match="line 2"):
        Trace.from_python(f'b0 = sch.get_block(name="B", func_name="f")\n{line}')


def sketch(s: Schedule) -> None:
    """Tiles by sampled sizes, and a layout by the same ones, as tensor-core sketches have it."""
    i, j = loops(s, "B")
    v = s.sample_perfect_tile(i, 2, 64)
    w = s.sample_perfect_tile(j, 2, 64)
    i0, i1 = s.split(i, v)
    j0, j1 = s.split(j, w)
    s.reorder(i0, j0, i1, j1)
    s.transform_layout(
        "B", ("write", 0), lambda i0, i1: (i0 // v[1], i1 // w[1], i0 % v[1], i1 % w[1])
    )
    s.vectorize(loops(s, "B")[-1])


def square() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((16, 24), "float32"), Y: T.Buffer((16, 24), "float32")):
        B = T.alloc_buffer((16, 24))
        for i, j in T.grid(16, 24):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] * 2.0
        for i, j in T.grid(16, 24):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = B[vi, vj] + 1.0

    return f


def test_sampled_values_in_a_map_replay_with_other_decisions() -> None:
    sch = keeps(square(), sketch)
    text = str(sch.trace)
    assert "index_map=lambda i0, i1: (i0 // v4, i1 // v6, i0 % v4, i1 % v6,)" in text
    tiles = [i for i in sch.trace.insts if i.kind.samples]
    other = sch.trace.with_decision(tiles[0], [2, 8]).with_decision(tiles[1], [4, 6])
    again = Schedule(square(), seed=3)
    other.apply_to_schedule(again)
    buffer = again.get(again.get_block("B")).writes[0].buffer
    assert [const_int(n) for n in buffer.shape] == [2, 4, 8, 6]
    x = np.arange(16 * 24, dtype=np.float32).reshape(16, 24)
    y = np.zeros_like(x)
    run(again.mod["f"], x, y)
    assert np.array_equal(y, x * 2 + 1)


def test_one_replay_with_dims_stands_for_every_tile() -> None:
    sch = Schedule(square(), seed=1)
    sketch(sch)
    trace = sch.trace
    tiles = [i for i in trace.insts if i.kind.samples]
    rows = [
        {tiles[0]: [16 // a, a], tiles[1]: [24 // b, b]} for a in (1, 2, 8, 16) for b in (1, 3, 8)
    ]
    columns = {
        f"{k}.{n}": np.array([r[inst][n] for r in rows])
        for k, inst in enumerate(tiles)
        for n in range(2)
    }

    def provide(inst: Any, *_: Any) -> Any:
        k = tiles.index(inst)
        return [Dim(x, f"{k}.{n}") for n, x in enumerate(rows[4][inst])]

    again = Schedule(square(), seed=1, error_render_level="none")
    with recording() as guards:
        trace.apply_to_schedule(again, decision_provider=provide)
        shape = [const_int(n) for n in again.get(again.get_block("B")).writes[0].buffer.shape]
    evaluator = Evaluator(columns)
    assert evaluator.holds(list(guards), np.ones(len(rows), bool)).all()
    for r, row in enumerate(rows):
        got = [int(np.broadcast_to(evaluator(n or 0), len(rows))[r]) for n in shape]
        (a, b), (c, d) = row[tiles[0]], row[tiles[1]]
        assert got == [a, c, b, d]
