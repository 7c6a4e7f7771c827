"""reindex_cache_read, reindex_cache_write."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from gputune.ir.build import const_int
from gputune.ir.equal import structural_equal
from gputune.schedule import Dim, Schedule, Trace
from gputune.schedule.dim import Evaluator, evaluate, recording
from gputune.script import tir as T
from tests.properties.programs import conv2d_padded, matmul, strided_conv1d

from . import schedule_programs as programs
from .cache_checks import same_everywhere
from .schedule_helpers import loops, prints, refuses, scheduled


def _shape(s: Schedule, block: Any) -> list[int | None]:
    return [const_int(e) for e in s.get(block).writes[0].buffer.shape]


# ----------------------------------------------------------------------------- what comes out
def test_reindex_cache_read_prints_a_copy_at_ones_own_indices() -> None:
    def do(s: Schedule) -> None:
        c = s.reindex_cache_read("Y", 0, "shared", lambda x, o, r, c: (c, r, x // 2, x % 2))
        assert s.get(c).name == "X_shared"

    sch = same_everywhere(strided_conv1d(), do)
    prints(
        sch,
        """
        X_shared = T.alloc_buffer((2, 3, 3, 2), scope="shared")
        for ax0, ax1, ax2 in T.grid(5, 3, 2):
            with T.block("X_shared"):
                vx, vr, vc = T.axis.remap("SSS", [ax0, ax1, ax2])
                T.reads(X[vx * 2 + vr, vc])
                T.writes(X_shared[vc, vr, vx // 2, vx % 2])
                X_shared[vc, vr, vx // 2, vx % 2] = X[vx * 2 + vr, vc]
        for x, o, r, c in T.grid(5, 3, 3, 2):
            with T.block("Y"):
                vx, vo, vr, vc = T.axis.remap("SSRR", [x, o, r, c])
                T.reads(X_shared[vc, vr, vx // 2, vx % 2], W[vr, vc, vo])
                T.writes(Y[vx, vo])
                with T.init():
                    Y[vx, vo] = T.float32(0)
                Y[vx, vo] = Y[vx, vo] + X_shared[vc, vr, vx // 2, vx % 2] * W[vr, vc, vo]
    """,
    )


def test_reindex_cache_write_prints_the_copy_back() -> None:
    sch = same_everywhere(
        programs.row_sum(5, 7),
        lambda s: s.reindex_cache_write("Y", 0, "local", lambda i, k: (i % 2, i // 2)),
    )
    prints(
        sch,
        """
        Y_local = T.alloc_buffer((2, 3), scope="local")
        for i, k in T.grid(5, 7):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                T.reads(X[vi, vk])
                T.writes(Y_local[vi % 2, vi // 2])
                with T.init():
                    Y_local[vi % 2, vi // 2] = T.float32(0)
                Y_local[vi % 2, vi // 2] = Y_local[vi % 2, vi // 2] + X[vi, vk]
        for ax0 in range(5):
            with T.block("Y_local"):
                vi = T.axis.spatial(5, ax0)
                T.reads(Y_local[vi % 2, vi // 2])
                T.writes(Y[vi])
                Y[vi] = Y_local[vi % 2, vi // 2]
    """,
    )


def test_instructions_hold_map_and_block_as_inputs() -> None:
    sch = scheduled(matmul())
    sch.reindex_cache_read("C", "A", "shared", lambda i, j, k: (k, i))
    sch.reindex_cache_write("C", 0, "local", lambda i, j, k: (j, i))
    insts = sch.trace.as_json()[0]
    assert insts[1] == [
        "ReindexCacheRead", ["b0", "lambda i, j, k: (k, i,)"], ["A", "shared"], ["b1"],
    ]  # fmt: skip
    assert insts[3] == [
        "ReindexCacheWrite", ["b2", "lambda i, j, k: (j, i,)"], [0, "local"], ["b3"],
    ]  # fmt: skip
    assert str(sch.trace).splitlines()[1] == (
        'b1 = sch.reindex_cache_read(block=b0, read_buffer_index="A", storage_scope="shared", '
        "index_map=lambda i, j, k: (k, i,))"
    )


def test_a_map_may_give_the_indices_of_the_buffer_in_another_order() -> None:
    """Several iterations then share an element of the copy, as they share that of the buffer."""
    sch = same_everywhere(
        strided_conv1d(),
        lambda s: s.reindex_cache_read("Y", 0, "local", lambda x, o, r, c: (c, x * 2 + r)),
    )
    assert _shape(sch, sch.get_block("X_local")) == [2, 11]


# ----------------------------------------------------------------------------- after other steps
def test_splits_that_do_not_divide_before_and_after() -> None:
    def do(s: Schedule) -> None:
        i, j, k = loops(s, "C")
        i0, i1 = s.split(i, [None, 4])
        k0, k1 = s.split(k, [None, 3])
        s.reorder(i0, k0, j, i1, k1)
        a = s.reindex_cache_read("C", 0, "shared", lambda i, j, k: (k // 3, i, k % 3))
        out = s.reindex_cache_write("C", 0, "local", lambda i, j, k: (i // 4, j, i % 4))
        s.vectorize(s.split(s.get_loops(a)[1], [None, 3])[1])
        s.reverse_compute_at(out, i0)

    same_everywhere(matmul(), do)


def test_copies_stand_after_producers_and_other_readers_keep_the_buffer() -> None:
    def do(s: Schedule) -> None:
        s.reindex_cache_read("Z", "B", "shared", lambda i: (i % 3,))
        s.reindex_cache_write("B", 0, "local", lambda i: (i % 7, i // 7))

    sch = same_everywhere(programs.diamond(), do)
    names = [sch.get(b).name for b in sch.get_child_blocks(sch.get_block("root"))]
    assert names == ["B", "B_local", "C", "D", "B_shared", "Z"]
    assert [sch.get(b).name for b in sch.get_consumers("B")] == ["B_local"]
    assert [sch.get(b).name for b in sch.get_consumers("B_local")] == ["C", "D", "B_shared"]


def test_guarded_reads_are_copied_as_far_as_the_buffer_goes() -> None:
    def do(s: Schedule) -> None:
        s.reindex_cache_read("O", 0, "shared", lambda h, w, o, r, q, c: (c, h + r, w + q))
        s.reindex_cache_read(
            "O", 1, "local", lambda h, w, o, r, q, c: (o // 3, r * 3 + q, c, o % 3)
        )

    sch = same_everywhere(conv2d_padded(), do)
    assert _shape(sch, sch.get_block("P_shared")) == [2, 7, 7]
    assert _shape(sch, sch.get_block("W_local")) == [2, 9, 2, 3]


def test_elements_without_iterators() -> None:
    @T.prim_func
    def f(X: T.Buffer((6,), "float32"), s: T.Buffer((), "float32"), Y: T.Buffer((6,), "float32")):
        Z = T.alloc_buffer((), "float32")
        with T.block("Z"):
            Z[()] = s[()] * 2.0
        for i in range(6):
            with T.block("Y"):
                vi = T.axis.spatial(6, i)
                Y[vi] = X[vi] * Z[()] + X[3]

    def do(s: Schedule) -> None:
        c = s.reindex_cache_read("Y", "Z", "local", lambda i: (0, 0))
        assert (_shape(s, c), s.get_loops(c)) == ([1, 1], [])
        s.reindex_cache_write("Z", 0, "local", lambda: (0,))

    same_everywhere(f, do)


def test_sizes_that_are_not_known() -> None:
    @T.prim_func
    def f(x: T.handle, y: T.handle):
        n = T.int32()
        m = T.int32()
        X = T.match_buffer(x, (n, m), "float32")
        Y = T.match_buffer(y, (n, m), "float32")
        for i, j in T.grid(n, m):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = X[vi, vj] + 1.0

    from gputune.ir.interp import run

    sch = scheduled(f)
    sch.reindex_cache_read("Y", 0, "shared", lambda i, j: (j, i))
    sch.reindex_cache_write("Y", 0, "shared", lambda i, j: (j, i))
    x = np.arange(15, dtype=np.float32).reshape(3, 5)
    y = np.full_like(x, np.nan)
    run(sch.mod["f"], x, y, check_regions=True)
    assert np.array_equal(y, x + 1)
    call = partial(sch.reindex_cache_read, "Y", 0, "local", lambda i, j: (j, i // 4, i % 4))
    refuses(sch, "reindex-cache-injective", call)


def test_wide_iterators() -> None:
    def do(s: Schedule) -> None:
        s.reindex_cache_read("C", 0, "shared", lambda i, j, k: (k // 4, 0, i, k % 4))
        c = s.reindex_cache_write("C", 0, "local", lambda i, j, k: (i % 2, j, i // 2))
        assert {n.dtype for n in s.get(c).reads[0].buffer.shape} == {"int64"}

        def typed(i: Any, j: Any, k: Any) -> list[Any]:
            return [T.int64(0), j, i]

        s.reindex_cache_write("C", 0, "shared", typed)

    same_everywhere(programs.wide_matmul(), do)


# ----------------------------------------------------------------------------- sampled maps
def _sampled(s: Schedule) -> None:
    i, _, k = loops(s, "C")
    a = s.sample_perfect_tile(i, 2, 64, decision=[3, 2])
    b = s.sample_perfect_tile(k, 2, 64, decision=[2, 4])
    s.reindex_cache_read("C", 0, "shared", lambda i, j, k: (k // b[1], i, k % b[1]))
    s.reindex_cache_write("C", 0, "local", lambda i, j, k: (i // a[1], j, i % a[1]))


def test_maps_of_sampled_values_agree_with_replay() -> None:
    func = matmul()
    recorded = same_everywhere(func, _sampled)
    trace = recorded.trace
    with recording() as guards:
        whole = Schedule(func, seed=1)
        trace.apply_to_schedule(
            whole,
            decision_provider=lambda inst, inputs, attrs, old: [
                Dim(x, f"{trace.insts.index(inst)}.{n}") for n, x in enumerate(old)
            ],
        )
    samples = [k for k, inst in enumerate(trace.insts) if inst.kind.samples]
    rows = [([3, 2], [2, 4]), ([2, 3], [4, 2])]
    ends = [([6, 1], [8, 1]), ([1, 6], [1, 8])]  # where `// 1` and `% 8` are no divisions
    table = {
        f"{k}.{n}": np.array([row[at][n] for row in rows])
        for at, k in enumerate(samples)
        for n in (0, 1)
    }
    agrees = Evaluator(table).holds(guards, np.ones(len(rows), bool))
    assert agrees.all(), "what is asked of sampled values has the same answer for every tiling"
    one = {f"{k}.{n}": np.array([ends[0][at][n]]) for at, k in enumerate(samples) for n in (0, 1)}
    assert not Evaluator(one).holds(guards, np.ones(1, bool)).any(), "a digit with one value"
    for at, row in enumerate(rows):
        decisions = dict(zip(samples, row, strict=True))
        again = Schedule(func, seed=1)
        trace.apply_to_schedule(
            again,
            decision_provider=lambda inst, inputs, attrs, old, d=decisions: d[
                trace.insts.index(inst)
            ],
        )
        for name in ("A_shared", "C"):
            wanted = _shape(again, again.get_block(name))
            got = [
                int(np.broadcast_to(evaluate(n, table), (len(rows),))[at])
                for n in _shape(whole, whole.get_block(name))
                if n is not None
            ]
            assert got == wanted
    again = Schedule(func, seed=1)
    Trace.from_python(str(trace)).apply_to_schedule(again)
    assert structural_equal(again.mod, recorded.mod)


# ----------------------------------------------------------------------------- refusals
def _read(s: Schedule, block: str, buffer: Any, f: Any, scope: Any = "local") -> Any:
    return lambda: s.reindex_cache_read(block, buffer, scope, f)


def _write(s: Schedule, block: str, buffer: Any, f: Any, scope: Any = "local") -> Any:
    return lambda: s.reindex_cache_write(block, buffer, scope, f)


@pytest.mark.parametrize("cache", [_read, _write])
def test_both_refuse_wrong_arguments(cache: Callable[..., Any]) -> None:
    sch = scheduled(matmul())
    ok = lambda i, j, k: (i, k) if cache is _read else (i, j)  # noqa: E731
    e = refuses(sch, "storage-scope", cache(sch, "C", 0, ok, "moon"), names="'moon'")
    assert "shared" in e.hint
    refuses(sch, "buffer-index", cache(sch, "C", 7, ok), names="7")
    refuses(sch, "buffer-index", cache(sch, "C", "Q", ok), names="'Q'")
    refuses(sch, "argument", cache(sch, "C", 1.5, ok), names="buffer_index")
    refuses(sch, "argument", cache(sch, "C", 0, 3), names="index_map")
    refuses(sch, "argument", cache(sch, "C", 0, ok, 3), names="storage_scope")
    refuses(sch, "index-map", cache(sch, "C", 0, lambda i, j: (i, j)), names="there are 3")
    refuses(sch, "root-block", cache(sch, "root", 0, lambda: (0,)))
    refuses(sch, "no-block", cache(sch, "Z", 0, ok), names="'Z'")


@pytest.mark.parametrize("cache", [_read, _write])
def test_both_refuse_maps_that_do_not_fit(cache: Callable[..., Any]) -> None:
    sch = scheduled(matmul())
    e = refuses(
        sch,
        "reindex-cache-iters",
        cache(sch, "C", 0, lambda i, j, k: (i, j, k)),
        names="vi, vj, vk",
    )
    assert "just those" in e.hint
    uses = "C uses vi, vj" if cache is _write else "A uses vi, vk"
    refuses(sch, "reindex-cache-iters", cache(sch, "C", 0, lambda i, j, k: (i,)), names=uses)
    pair = (lambda i, j, k: (i + j,)) if cache is _write else (lambda i, j, k: (i + k,))
    refuses(sch, "reindex-cache-injective", cache(sch, "C", 0, pair), names="the same indices")
    less = (lambda i, j, k: (i - 2, j)) if cache is _write else (lambda i, j, k: (i - 2, k))
    refuses(sch, "index-map", cache(sch, "C", 0, less), names="range from 0")


def test_what_is_written_at_its_own_sums_is_not_enough() -> None:
    """A buffer's own index may only be used where it is read: writes would meet in it."""

    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        for i, j in T.grid(4, 2):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi * 2 + vj] = X[vi * 2 + vj]

    same_everywhere(
        f,
        lambda s: (
            s.reindex_cache_write("Y", 0, "local", lambda i, j: (i * 2 + j,)),
            s.reindex_cache_read("Y", 0, "local", lambda i, j: (j, i)),
        ),
    )
    sch = scheduled(f)
    refuses(sch, "reindex-cache-injective", _write(sch, "Y", 0, lambda i, j: (i + j,)))


def test_both_refuse_several_places_and_partial_domains() -> None:
    sch = scheduled(programs.halo())
    refuses(sch, "reindex-access", _read(sch, "Y", 0, lambda i: (i,)), names="places")
    sch = scheduled(programs.guarded())
    refuses(sch, "reindex-domain", _read(sch, "Y", 0, lambda i: (i,)), names="whole domain")
    refuses(sch, "reindex-domain", _write(sch, "Y", 0, lambda i: (i,)), names="whole domain")
    sch = scheduled(programs.part_of_domain())
    refuses(sch, "reindex-domain", _write(sch, "Y", 0, lambda i: (i,)), names="whole domain")
    sch = scheduled(programs.where_sum())
    refuses(sch, "reindex-domain", _write(sch, "Y", 0, lambda i, k: (i,)), names="whole domain")
    sch = scheduled(programs.views())
    refuses(sch, "reindex-view", _read(sch, "Y", 0, lambda i: (i,)), names="view")
    sch = scheduled(programs.prefix_sum())
    refuses(sch, "not-pipeline", _read(sch, "Q", 0, lambda k: (0,)), names="still reduces")
    sch = scheduled(programs.recurrence())
    refuses(sch, "reindex-access", _read(sch, "Y", "Y", lambda i, k: (i,)), names="writes Y too")
    sch = scheduled(programs.row_sum())
    sch.decompose_reduction("Y", loops(sch, "Y")[1])
    refuses(sch, "cache-writers", _write(sch, "Y_update", 0, lambda i, k: (i,)), names="2 writers")
    sch = scheduled(programs.chain())
    sch.compute_at("B", loops(sch, "Y")[0])
    refuses(sch, "cache-place", _read(sch, "Y", 0, lambda i, j: (j, i)), names="shares its loops")
    refuses(sch, "cache-place", _write(sch, "B", 0, lambda i, j: (j, i)), names="shares its loops")


def test_both_refuse_what_a_copy_would_do_otherwise() -> None:
    @T.prim_func
    def f(X: T.Buffer((4,), "float32"), Y: T.Buffer((6,), "float32"), Z: T.Buffer((3,), "float32")):
        for i in range(6):
            with T.block("Y"):
                vi = T.axis.spatial(6, i)
                Y[vi] = T.if_then_else(vi < 4, X[vi], T.float32(0))
        for i in range(6):
            with T.block("Z"):
                vi = T.axis.spatial(6, i)
                Z[vi // 2] = X[vi // 2]

    sch = scheduled(f)
    refuses(sch, "reindex-bounds", _read(sch, "Y", 0, lambda i: (i,)), names="from 0 to 5, of 4")
    refuses(sch, "reindex-injective", _write(sch, "Z", 0, lambda i: (i,)), names="vi // 2")

    @T.prim_func
    def g(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                if X[vi] > 0.0:
                    Y[vi] = X[vi]

    sch = scheduled(g)
    e = refuses(sch, "reindex-domain", _write(sch, "Y", 0, lambda i: (i,)), names="a condition")
    assert "if_then_else" in e.hint
    refuses(sch, "reindex-domain", lambda: sch.reindex("Y", ("write", 0)), names="a condition")
    refuses(sch, "cache-partial", lambda: sch.cache_write("Y", 0, "local"), names="a condition")
