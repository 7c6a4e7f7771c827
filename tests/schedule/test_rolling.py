"""rolling_buffer: what neighbouring iterations have in common is computed once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.schedule import Schedule
from gputune.script import tir as T
from tests.properties.moves import inputs, results
from tests.properties.programs import matmul

from . import schedule_programs as programs
from .everywhere import one_replay_is_all, same_everywhere
from .schedule_helpers import loops, prints, refuses, scheduled


def rolled(producer: str, consumer: str, loop: int, tile: int | None) -> Callable[[Schedule], None]:
    def do(s: Schedule) -> None:
        at = loops(s, consumer)[loop]
        if tile is not None:
            at = s.split(at, [None, tile])[0]
        s.compute_at(producer, at)
        s.rolling_buffer(producer, 0)

    return do


def blur(h: int = 11, w: int = 9) -> PrimFunc:
    """Two stencils and a pooling, one after the other."""

    @T.prim_func
    def f(X: T.Buffer((h + 4, w), "float32"), Y: T.Buffer((h // 2, w), "float32")):
        B = T.alloc_buffer((h + 2, w))
        C = T.alloc_buffer((h, w))
        for i, j in T.grid(h + 2, w):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] + X[vi + 1, vj] * 2.0 - X[vi + 2, vj]
        for i, j in T.grid(h, w):
            with T.block("C"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = B[vi, vj] - B[vi + 1, vj] * 3.0 + B[vi + 2, vj]
        for i, j, r in T.grid(h // 2, w, 3):
            with T.block("Y"):
                vi, vj, vr = T.axis.remap("SSR", [i, j, r])
                with T.init():
                    Y[vi, vj] = T.min_value("float32")
                Y[vi, vj] = T.max(Y[vi, vj], C[vi * 2 + vr, vj])

    return f


def test_only_what_is_new_is_computed_into_a_ring() -> None:
    sch = same_everywhere(programs.halo(), rolled("B", "Y", 0, 3))
    prints(
        sch,
        """
        B = T.alloc_buffer((5,))
        for i_0 in range(3):
            for ax0 in range(5):
                with T.block("B"):
                    vi = T.axis.opaque(10, i_0 * 3 + ax0)
                    T.where(i_0 * 3 + ax0 < 10 and (i_0 < 1 or ax0 >= 2))
                    T.reads(X[vi:vi + 3])
                    T.writes(B[vi % 5])
                    B[vi % 5] = X[vi] + X[vi + 1] * T.float32(2) + X[vi + 2]
            for i_1 in range(3):
                with T.block("Y"):
                    vi = T.axis.spatial(8, i_0 * 3 + i_1)
                    T.where(i_0 * 3 + i_1 < 8)
                    T.reads(B[0:5])
                    T.writes(Y[vi])
                    Y[vi] = B[vi % 5] - B[(vi + 1) % 5] + B[(vi + 2) % 5]
    """,
    )
    kind, inputs_, attrs, outputs = sch.trace.as_json()[0][-1]
    assert (kind, len(inputs_), attrs, outputs) == ("RollingBuffer", 1, [0], [])


@pytest.mark.parametrize("tile", [1, 2, 3, 4, 5, 7])
def test_tiles_that_need_not_divide(tile: int) -> None:
    same_everywhere(programs.halo(), rolled("B", "Y", 0, tile))
    same_everywhere(programs.reduced_halo(), rolled("S", "Y", 0, tile))


@pytest.mark.parametrize("tile", [None, 2, 3, 4])
def test_a_padded_convolution_keeps_rows(tile: int | None) -> None:
    sch = same_everywhere(programs.padded_conv(), rolled("P", "O", 0, tile))
    shape = sch.get(sch.get_block("P")).writes[0].buffer.shape
    assert [n.value for n in shape] == [(tile or 1) + 2, 7, 2]


def test_rows_are_kept_for_all_tiles_of_columns() -> None:
    def do(s: Schedule) -> None:
        h, w, *_ = loops(s, "O")
        h0, h1 = s.split(h, [None, 2])
        w0, w1 = s.split(w, [None, 3])
        s.reorder(h0, w0, h1, w1)
        s.compute_at("P", w0)
        s.vectorize(loops(s, "P")[-1])
        s.rolling_buffer("P", 0)

    sch = same_everywhere(programs.padded_conv(), do)
    assert str(sch.get(sch.get_block("P")).predicate).endswith("(h_0 < 1 or ax0 >= 2)")


def test_columns_roll_where_rows_cannot() -> None:
    def do(s: Schedule) -> None:
        w0, _ = s.split(loops(s, "O")[1], [None, 2])
        s.reorder(w0, loops(s, "O")[0])
        s.compute_at("P", w0)
        s.rolling_buffer("P", 0)

    sch = same_everywhere(programs.padded_conv(), do)
    assert [n.value for n in sch.get(sch.get_block("P")).writes[0].buffer.shape] == [7, 4, 2]


@pytest.mark.parametrize("tile", [1, 2, 3, 4])
@pytest.mark.parametrize("order", ["BC", "CB"])
def test_a_chain_of_rings(tile: int, order: str) -> None:
    def do(s: Schedule) -> None:
        i = s.split(loops(s, "Y")[0], [None, tile])[0]
        s.compute_at("C", i)
        s.compute_at("B", i)
        for name in order:
            s.rolling_buffer(name, 0)

    sch = same_everywhere(blur(), do)
    assert sch.get(sch.get_block("C")).writes[0].buffer.shape[0].value == 2 * tile + 1
    assert sch.get(sch.get_block("B")).writes[0].buffer.shape[0].value == 2 * tile + 3


def test_each_row_is_computed_once() -> None:
    """The point of it: the interpreter counts the stores."""

    def stores(roll: bool) -> int:
        sch = scheduled(counted())
        i = sch.split(loops(sch, "Y")[0], [None, 2])[0]
        sch.compute_at("B", i)
        if roll:
            sch.rolling_buffer("B", 0)
        arrays = inputs(counted(), 0)
        arrays[1][...] = 0
        run(sch.mod["f"], *arrays)
        return int(arrays[1].sum())

    assert stores(False) == 16  # four tiles of four
    assert stores(True) == 10


def counted() -> PrimFunc:
    """B counts how often it runs at each place."""

    @T.prim_func
    def f(
        X: T.Buffer((10,), "float32"), N: T.Buffer((10,), "float32"), Y: T.Buffer((8,), "float32")
    ):
        B = T.alloc_buffer((10,))
        for i in range(10):
            with T.block("B"):
                vi = T.axis.spatial(10, i)
                T.reads(X[vi])
                T.writes(B[vi])
                T.block_attr({"hidden_buffer_access": ("read", "write")})
                B[vi] = X[vi] * 2.0
                N[vi] = N[vi] + 1.0
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[vi] + B[vi + 1] + B[vi + 2]

    return f


def test_outer_loops_may_be_parallel_where_they_use_other_places() -> None:
    @T.prim_func
    def f(X: T.Buffer((3, 12), "float32"), Y: T.Buffer((3, 10), "float32")):
        B = T.alloc_buffer((3, 12))
        for n, i in T.grid(3, 12):
            with T.block("B"):
                vn, vi = T.axis.remap("SS", [n, i])
                B[vn, vi] = X[vn, vi] * 2.0
        for n, i in T.grid(3, 10):
            with T.block("Y"):
                vn, vi = T.axis.remap("SS", [n, i])
                Y[vn, vi] = B[vn, vi] + B[vn, vi + 1] + B[vn, vi + 2]

    def do(s: Schedule) -> None:
        n, i = loops(s, "Y")
        i0, _ = s.split(i, [None, 3])
        s.compute_at("B", i0)
        s.parallel(n)
        s.rolling_buffer("B", 0)

    same_everywhere(f, do)


def test_a_ring_in_shared_memory() -> None:
    """Host execution of the kernel finds no race and no read of what was not written."""
    func = blur(7, 4)

    def do(s: Schedule) -> None:
        i, j, _ = loops(s, "Y")
        s.bind(j, "blockIdx.x")
        s.reorder(j, i)
        s.compute_at("C", i)
        s.compute_at("B", i)
        for name in "BC":
            s.set_scope(name, 0, "local")
            s.rolling_buffer(name, 0)

    sch = same_bound(func, do)
    assert "C = T.alloc_buffer((3, 4)" in sch.mod.script()


def same_bound(func: PrimFunc, do: Callable[[Schedule], None]) -> Schedule:
    sch = scheduled(func)
    do(sch)
    source = generate(sch.mod[func.name])
    arrays = inputs(func, 1)
    params = source.host.params
    values = {p.name: None if p.written else a for p, a in zip(params, arrays, strict=True)}
    report = host_run(host_compile(source), values, order="reverse", seed=1)
    assert report.completed, source.text
    assert not report.findings, f"{report}\n{source.text}"
    for p, w in zip(params, results(func, 1), strict=True):
        if p.written:
            assert np.array_equal(report.outputs[p.name].reshape(w.shape), w), source.text
    return sch


def test_one_replay_with_sampled_tiles() -> None:
    def do(s: Schedule) -> None:
        i = loops(s, "Y")[0]
        v = s.sample_perfect_tile(i, 2, 64, decision=[2, 4])
        s.compute_at("B", s.split(i, v)[0])
        s.rolling_buffer("B", 0)

    assert one_replay_is_all(programs.halo(), do, [[2, 4], [4, 2]]) == 1


# ----------------------------------------------------------------------------- refusals
def test_afterwards_the_order_of_iterations_is_kept() -> None:
    sch = scheduled(programs.halo())
    rolled("B", "Y", 0, 3)(sch)
    i0, i1 = loops(sch, "Y")
    refuses(sch, "not-pipeline", lambda: sch.parallel(i0), names="rolling_buffer")
    refuses(sch, "not-pipeline", lambda: sch.vectorize(i1), names="rolling_buffer")
    refuses(sch, "not-pipeline", lambda: sch.bind(i0, "threadIdx.x"), names="rolling_buffer")
    refuses(sch, "not-pipeline", lambda: sch.cache_read("Y", 0, "local"))
    refuses(sch, "not-complete", lambda: sch.compute_inline("B"))
    outer, ax0 = loops(sch, "B")
    refuses(sch, "not-pipeline", lambda: sch.reverse_compute_at("Y", ax0))
    refuses(sch, "reorder-chain", lambda: sch.reorder(ax0, outer))
    again = Schedule(sch.mod, seed=1)  # it can be seen from the program, too
    first = loops(again, "Y")[0]
    refuses(again, "not-pipeline", lambda: again.parallel(first))
    other = sch.copy()
    refuses(other, "not-pipeline", lambda: other.parallel(i0))


def test_loops_that_keep_the_order_may_change() -> None:
    def do(s: Schedule) -> None:
        rolled("B", "Y", 0, 2)(s)
        i0, i1 = loops(s, "Y")
        s.unroll(i1)
        s.split(i0, [None, 3])
        s.add_unit_loop("B")

    same_everywhere(programs.halo(), do)


def test_rolling_buffer_refuses_blocks_that_cannot() -> None:
    sch = scheduled(programs.halo())
    refuses(sch, "root-block", lambda: sch.rolling_buffer("root", 0))
    e = refuses(sch, "roll-loop", lambda: sch.rolling_buffer("B", 0), names="no loop in common")
    assert "compute_at" in e.hint
    refuses(sch, "buffer-index", lambda: sch.rolling_buffer("B", 1), names="1")
    refuses(sch, "buffer-index", lambda: sch.rolling_buffer("B", "X"), names="'X'")
    refuses(sch, "roll-output", lambda: sch.rolling_buffer("Y", 0), names="Y is an output")
    refuses(sch, "argument", lambda: sch.rolling_buffer("B", 1.5), names="write_buffer_index")  # type: ignore[arg-type]  # wrong on purpose
    sch = scheduled(programs.prefix_sum())
    refuses(sch, "not-pipeline", lambda: sch.rolling_buffer("S", 0))
    sch = scheduled(programs.reduced_halo())
    i = loops(sch, "Y")[0]
    sch.compute_at("S", i)
    sch.decompose_reduction("S", loops(sch, "S")[2])
    refuses(sch, "not-complete", lambda: sch.rolling_buffer("S_update", 0), names="S_update")
    sch = scheduled(matmul())
    sch.cache_write("C", 0, "global")
    sch.cache_read("C", 0, "global")
    refuses(sch, "roll-loop", lambda: sch.rolling_buffer("C", 0))


def test_rolling_buffer_says_of_each_dimension_why_not() -> None:
    sch = scheduled(programs.chain())
    sch.compute_at("B", loops(sch, "Y")[0])
    e = refuses(
        sch,
        "roll-overlap",
        lambda: sch.rolling_buffer("B", 0),
        names="dimension 0: the loop i advances by 1, and 1 are needed at a time",
    )
    assert "dimension 1: all of it is needed at once" in e.message
    sch = scheduled(programs.padded_conv())
    h, w, *_ = loops(sch, "O")
    sch.parallel(h)
    sch.compute_at("P", h)
    refuses(sch, "roll-overlap", lambda: sch.rolling_buffer("P", 0), names="h is parallel")
    sch = scheduled(programs.padded_conv())
    h, w, *_ = loops(sch, "O")
    sch.parallel(h)
    sch.compute_at("P", w)
    refuses(sch, "roll-overlap", lambda: sch.rolling_buffer("P", 0), names="the same places of P")
    sch = scheduled(programs.halo())
    i0, _i1 = sch.split(loops(sch, "Y")[0], [1, None])
    sch.compute_at("B", i0, preserve_unit_loops=True)
    refuses(sch, "roll-overlap", lambda: sch.rolling_buffer("B", 0))


def test_bands_that_run_at_once_do_not_share_a_ring() -> None:
    sch = scheduled(programs.halo())
    o, i, _ = sch.split(loops(sch, "Y")[0], [2, 2, 2])
    sch.parallel(o)
    sch.compute_at("B", i)
    refuses(sch, "roll-overlap", lambda: sch.rolling_buffer("B", 0), names="i_0, which is parallel")


def test_serial_bands_begin_anew() -> None:
    def do(s: Schedule) -> None:
        _o, i, _ = s.split(loops(s, "Y")[0], [2, None, 2])
        s.compute_at("B", i)
        s.rolling_buffer("B", 0)

    sch = same_everywhere(programs.halo(), do)
    assert "i_1 < 1" in str(sch.get(sch.get_block("B")).predicate)


def test_rolling_buffer_refuses_other_accesses() -> None:
    @T.prim_func
    def twice(X: T.Buffer((10,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((20,))
        for i in range(10):
            with T.block("B"):
                vi = T.axis.spatial(10, i)
                B[vi * 2] = X[vi]
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[vi * 2] + B[vi * 2 + 2]

    sch = scheduled(twice, enable_check=False)
    sch.compute_at("B", loops(sch, "Y")[0])
    refuses(sch, "roll-access", lambda: sch.rolling_buffer("B", 0), names="vi * 2")
    sch = scheduled(programs.reduced_halo(), enable_check=False)
    i = sch.split(loops(sch, "Y")[0], [None, 2])[0]
    sch.compute_at("S", i)
    sch.split(loops(sch, "S")[1], [None, 3])
    refuses(sch, "roll-predicate", lambda: sch.rolling_buffer("S", 0), names="no bound of an iter")


def test_rolling_buffer_refuses_views_guards_and_parts() -> None:
    @T.prim_func
    def view(X: T.Buffer((10,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((10,))
        for i in range(10):
            with T.block("B"):
                vi = T.axis.spatial(10, i)
                B[vi] = X[vi] * 2.0
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                T.reads(B[vi : vi + 3])
                T.writes(Y[vi])
                V = T.match_buffer(B[vi : vi + 3], (3,), offset_factor=1)
                Y[vi] = V[0] + V[2]

    sch = scheduled(view)
    sch.compute_at("B", loops(sch, "Y")[0])
    refuses(sch, "roll-view", lambda: sch.rolling_buffer("B", 0), names="view of B")

    @T.prim_func
    def guarded(X: T.Buffer((10,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((10,))
        for i in range(4):
            for k in range(4):
                if i * 2 + k < 9:
                    with T.block("B"):
                        vi = T.axis.spatial(10, i * 2 + k)
                        B[vi] = X[vi] * 2.0
            for k in range(2):
                with T.block("Y"):
                    vi = T.axis.spatial(8, i * 2 + k)
                    Y[vi] = B[vi] + B[vi + 1]

    sch = scheduled(guarded, enable_check=False)
    refuses(sch, "roll-guard", lambda: sch.rolling_buffer("B", 0), names="condition")

    @T.prim_func
    def odd(X: T.Buffer((10,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((10,))
        for i in range(4):
            for k in range(4):
                with T.block("B"):
                    vi = T.axis.spatial(10, i * 2 + k)
                    T.where(i * 3 + k < 12)
                    B[vi] = X[vi] * 2.0
            for k in range(2):
                with T.block("Y"):
                    vi = T.axis.spatial(8, i * 2 + k)
                    Y[vi] = B[vi] + B[vi + 1]

    sch = scheduled(odd, enable_check=False)
    refuses(sch, "roll-predicate", lambda: sch.rolling_buffer("B", 0), names="i * 3 + k < 12")

    @T.prim_func
    def part(X: T.Buffer((6, 4), "float32"), Y: T.Buffer((4, 4), "float32")):
        S = T.alloc_buffer((6,))
        for k in range(4):
            for i in range(6):
                with T.block("S"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    with T.init():
                        S[vi] = 0.0
                    S[vi] = S[vi] + X[vi, vk]
            for i in range(4):
                with T.block("Y"):
                    vi, vk = T.axis.remap("SS", [i, k])
                    Y[vi, vk] = S[vi] + S[vi + 1]

    sch = scheduled(part, enable_check=False)
    refuses(sch, "roll-partial", lambda: sch.rolling_buffer("S", 0), names="k or one above")

    @T.prim_func
    def nobody(X: T.Buffer((6,), "float32"), Y: T.Buffer((6,), "float32")):
        B = T.alloc_buffer((6,))
        for i in range(6):
            with T.block("B"):
                vi = T.axis.spatial(6, i)
                B[vi] = X[vi]
            with T.block("Y"):
                vi = T.axis.spatial(6, i)
                Y[vi] = X[vi]

    sch = scheduled(nobody)
    refuses(sch, "roll-consumer", lambda: sch.rolling_buffer("B", 0), names="nobody reads B")
