"""cache_read, cache_write, set_scope, storage_align."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gputune.errors import ScheduleError
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.schedule import Dim, Schedule
from gputune.schedule.dim import Evaluator, recording
from gputune.schedule.tilings import draw_tiling
from gputune.script import tir as T
from tests.properties.moves import inputs, results

from . import schedule_programs as programs
from .schedule_helpers import keeps, loops, prints, refuses, replays, scheduled


# ----------------------------------------------------------------------------- cache_read
def test_cache_read_prints_a_copy() -> None:
    sch = scheduled(programs.copy2d())
    sch.cache_read("Y", 0, "shared")
    prints(
        sch,
        """
        X_shared = T.alloc_buffer((4, 6), scope="shared")
        for ax0, ax1 in T.grid(4, 6):
            with T.block("X_shared"):
                v0, v1 = T.axis.remap("SS", [ax0, ax1])
                T.reads(X[v0, v1])
                T.writes(X_shared[v0, v1])
                X_shared[v0, v1] = X[v0, v1]
        for i, j in T.grid(4, 6):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                T.reads(X_shared[vi, vj])
                T.writes(Y[vi, vj])
                Y[vi, vj] = X_shared[vi, vj] + T.float32(1)
    """,
    )


def test_cache_read_after_the_writer_for_some_consumers() -> None:
    def do(s: Schedule) -> None:
        c = s.cache_read("Z", "B", "local", consumer_blocks=["Z", "C"])
        assert s.get(c).name == "B_local"

    sch = keeps(programs.diamond(), do)
    assert [sch.get(b).name for b in sch.get_consumers("B_local")] == ["C", "Z"]
    assert [sch.get(b).name for b in sch.get_consumers("B")] == ["B_local", "D"]
    assert "consumer_blocks=[b1, b2])" in str(sch.trace)


def test_consumer_names_are_looked_up_once() -> None:
    sch = scheduled(programs.diamond())
    sch.cache_read("Z", "B", "local", consumer_blocks=["C"])
    assert [i.kind.name for i in sch.trace.insts] == ["GetSBlock", "GetSBlock", "CacheRead"]


@pytest.mark.parametrize("where", [0, "X", "object"])
def test_buffers_by_index_name_and_object(where: Any) -> None:
    func = programs.copy2d()
    sch = scheduled(func)
    b = sch.get_block("Y")
    sch.cache_read(b, sch.get(b).reads[0].buffer if where == "object" else where, "local")
    sch.cache_write(b, sch.get(b).writes[0].buffer, "local")
    replays(func, sch)


@pytest.mark.parametrize("program", [programs.views, programs.nested_blocks])
def test_cache_read_of_what_views_and_inner_blocks_look_at(program: Callable[[], PrimFunc]) -> None:
    block = "Y" if program is programs.views else "outer"

    def do(s: Schedule) -> None:
        s.compute_at(s.cache_read(block, 0, "shared"), loops(s, block)[0])

    keeps(program(), do)


@pytest.mark.parametrize("name", ["X_shared.dyn", "X_shared_dyn"])
def test_a_copy_is_named_with_dots_or_without(name: str) -> None:
    def do(s: Schedule) -> None:
        s.cache_read("Y", "X", "shared.dyn")
        s.reindex("Y", name)
        s.cache_read("X_shared.dyn_reindex", name, "local")

    keeps(programs.copy2d(), do)


def test_cache_read_moves_with_its_consumer() -> None:
    def do(s: Schedule) -> None:
        x0, _ = s.split(loops(s, "Y")[0], [None, 3])
        s.compute_at(s.cache_read("Y", 0, "local"), x0)
        s.compute_at(s.cache_read("B", 0, "shared"), loops(s, "B")[0])

    keeps(programs.halo(), do)
    keeps(programs.wide_indices(), do)


def test_cache_read_refuses() -> None:
    sch = scheduled(programs.diamond())
    z = sch.get_block("Z")
    refuses(sch, "storage-scope", lambda: sch.cache_read(z, 0, "moon"), names="'moon'")
    refuses(sch, "buffer-index", lambda: sch.cache_read(z, 9, "local"), names="9")
    refuses(sch, "buffer-index", lambda: sch.cache_read(z, "X", "local"), names="'X'")
    refuses(sch, "argument", lambda: sch.cache_read(z, 1.5, "local"), names="read_buffer_index")  # type: ignore[arg-type]  # wrong on purpose
    refuses(sch, "argument", lambda: sch.cache_read(z, 0, "local", 3), names="consumer_blocks")  # type: ignore[arg-type]  # wrong on purpose
    refuses(sch, "cache-consumer", lambda: sch.cache_read(z, "D", "local", ["C"]), names="block C")
    root = sch.get_block("root")
    refuses(sch, "buffer-index", lambda: sch.cache_read(root, 0, "local"))


def test_cache_read_refuses_scopes_it_cannot_trust() -> None:
    sch = scheduled(programs.row_sum())
    k = loops(sch, "Y")[1]
    sch.decompose_reduction("Y", k)
    sch = scheduled(programs.nested_blocks())
    e = refuses(sch, "cache-partial", lambda: sch.cache_read("inner", 0, "local"), names="outer")
    assert "outer" in e.hint
    sch = scheduled(programs.prefix_sum())
    refuses(sch, "not-pipeline", lambda: sch.cache_read("Q", 0, "local"), names="still reduces")
    sch = scheduled(programs.loose_store())
    for call in (
        lambda: sch.cache_read("B", 0, "local"),  # of what nobody writes
        lambda: sch.cache_read("Y", 0, "local"),
        lambda: sch.cache_write("B", 0, "local"),
    ):
        refuses(sch, "not-pipeline", call, names="outside any block")


def two_steps() -> PrimFunc:
    """Sums begun by one block and gone on with by another, read forwards and back; what is read
    backwards is then written again. No stage pipeline."""

    @T.prim_func
    def f(
        X: T.Buffer((6, 4), "float32"), Y: T.Buffer((6,), "float32"), Z: T.Buffer((6,), "float32")
    ):
        S = T.alloc_buffer((6,))
        B = T.alloc_buffer((6, 4))
        for i in range(6):
            with T.block("zero"):
                vi = T.axis.spatial(6, i)
                S[vi] = 0.0
        for i, j in T.grid(6, 4):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] * 2.0
        for i, k in T.grid(6, 4):
            with T.block("add"):
                vi, vk = T.axis.remap("SR", [i, k])
                S[vi] = S[vi] + B[vi, vk] * X[5 - vi, vk]
        for i in range(6):
            with T.block("Y"):
                vi = T.axis.spatial(6, i)
                Y[vi] = S[vi] + B[5 - vi, 1] + Z[vi]
        for i in range(6):
            with T.block("Z"):
                vi = T.axis.spatial(6, i)
                Z[vi] = Y[5 - vi] - S[vi]

    return f


def test_copies_in_a_scope_that_is_no_pipeline() -> None:
    """Named for a bug: TVM makes these copies. All that are accepted keep the meaning."""
    taken = {}
    for program in (two_steps, programs.prefix_sum, programs.recurrence, programs.opaque_rows):
        func = program()
        for read in (True, False):
            for name in names_of_blocks(func):
                for index in range(3):
                    sch = scheduled(func)
                    b = sch.get(sch.get_block(name))
                    regions = b.reads if read else b.writes
                    if index >= len(regions):
                        continue

                    def do(s: Schedule) -> None:
                        copy = s.cache_read if read else s.cache_write  # noqa: B023
                        copy(name, index, "local")  # noqa: B023

                    try:
                        do(sch)
                    except ScheduleError as e:
                        result = e.code
                    else:
                        result = "ok"
                        keeps(func, do)
                    taken[program.__name__, name, read, regions[index].buffer.name] = result
    assert {k[1:]: v for k, v in taken.items() if k[0] == "two_steps"} == {
        ("B", True, "X"): "ok",
        ("add", True, "S"): "cache-writers",
        ("add", True, "B"): "ok",
        ("add", True, "X"): "ok",
        ("Y", True, "S"): "cache-writers",
        ("Y", True, "B"): "ok",
        ("Y", True, "Z"): "cache-place",
        ("Z", True, "Y"): "ok",
        ("Z", True, "S"): "cache-writers",
        ("zero", False, "S"): "cache-writers",
        ("B", False, "B"): "ok",
        ("add", False, "S"): "cache-writers",
        ("Y", False, "Y"): "ok",
        ("Z", False, "Z"): "ok",
    }
    assert taken["prefix_sum", "S", True, "X"] == "ok"
    assert taken["prefix_sum", "S", False, "S"] == "not-pipeline"
    assert taken["recurrence", "Y", True, "X"] == "ok"
    assert taken["recurrence", "Y", False, "Y"] == "not-pipeline"
    assert taken["opaque_rows", "Y", True, "B"] == "ok"
    assert taken["opaque_rows", "B", False, "B"] == "not-pipeline"
    sch = scheduled(two_steps())
    refuses(sch, "cache-place", lambda: sch.cache_read("Y", "Z", "local"), names="before block Z")
    refuses(sch, "not-pipeline", lambda: sch.cache_write("Y", 0, "local", ["Z"]), names="block add")


def names_of_blocks(func: PrimFunc) -> list[str]:
    sch = scheduled(func)
    return [sch.get(b).name for b in sch.get_child_blocks(sch.get_block("root"))]


# ----------------------------------------------------------------------------- cache_write
def test_cache_write_prints_the_copy_back() -> None:
    sch = scheduled(programs.row_sum())
    sch.cache_write("Y", 0, "local")
    prints(
        sch,
        """
        Y_local = T.alloc_buffer((4,), scope="local")
        for i, k in T.grid(4, 7):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                T.reads(X[vi, vk])
                T.writes(Y_local[vi])
                with T.init():
                    Y_local[vi] = T.float32(0)
                Y_local[vi] = Y_local[vi] + X[vi, vk]
        for ax0 in range(4):
            with T.block("Y_local"):
                v0 = T.axis.spatial(4, ax0)
                T.reads(Y_local[v0])
                T.writes(Y[v0])
                Y[v0] = Y_local[v0]
    """,
    )


def test_cache_write_of_a_pair_and_with_consumers() -> None:
    def pair(s: Schedule) -> None:
        s.cache_write("A", 1, "local")
        s.reverse_compute_at(s.cache_write("A", 0, "local"), loops(s, "A")[0])

    keeps(programs.arg_max(), pair)
    keeps(programs.diamond(), lambda s: s.cache_write("C", 0, "local", ["D"]))


@pytest.mark.parametrize(
    "program", [programs.guarded, programs.part_of_domain, programs.triangle, programs.recurrence]
)
def test_cache_write_refuses_what_is_written_in_part(program: Callable[[], PrimFunc]) -> None:
    sch = scheduled(program())
    code = "not-pipeline" if program is programs.recurrence else "cache-partial"
    refuses(sch, code, lambda: sch.cache_write("Y", 0, "local"), names="Y")


def test_cache_write_refuses() -> None:
    sch = scheduled(programs.diamond())
    b = sch.get_block("B")
    refuses(sch, "storage-scope", lambda: sch.cache_write(b, 0, "moon"), names="'moon'")
    refuses(sch, "buffer-index", lambda: sch.cache_write(b, 1, "local"), names="1")
    refuses(sch, "cache-consumer", lambda: sch.cache_write("D", 0, "local", ["C"]), names="block C")
    sch = scheduled(programs.row_sum())
    sch.decompose_reduction("Y", loops(sch, "Y")[1])
    refuses(
        sch, "cache-writers", lambda: sch.cache_write("Y_update", 0, "local"), names="2 writers"
    )


def test_the_copy_back_writes_nothing_that_the_block_has_not_written() -> None:
    """A predicate ends the block's domain before the buffer."""

    @T.prim_func
    def f(X: T.Buffer((12,), "float32"), Y: T.Buffer((12,), "float32")):
        for i in range(10):
            with T.block("Y"):
                vi = T.axis.spatial(10, i)
                Y[vi] = X[vi]

    sch = scheduled(f)
    sch.split(loops(sch, "Y")[0], [None, 4])
    refuses(sch, "cache-partial", lambda: sch.cache_write("Y", 0, "local"), names="Y")
    sch = scheduled(programs.chain())
    sch.split(loops(sch, "Y")[0], [None, 3])
    sch.split(loops(sch, "Y")[2], [4, None])
    sch.cache_write("Y", 0, "local")

    @T.prim_func
    def short(X: T.Buffer((10,), "float32"), Y: T.Buffer((10,), "float32")):
        for i, j in T.grid(2, 4):
            with T.block("Y"):
                T.where(i * 4 + j < 10)
                vi = T.axis.spatial(10, i * 4 + j)
                Y[vi] = X[vi]

    sch = scheduled(short)
    refuses(sch, "cache-partial", lambda: sch.cache_write("Y", 0, "local"), names="Y")


# ----------------------------------------------------------------------------- shared loops
def test_cache_write_prints_a_copy_inside_shared_loops() -> None:
    sch = scheduled(programs.chain())
    sch.compute_at("B", loops(sch, "Y")[0])
    sch.cache_write("B", 0, "local")
    prints(
        sch,
        """
        B = T.alloc_buffer((4, 6))
        B_local = T.alloc_buffer((4, 6), scope="local")
        for i in range(4):
            for ax1 in range(6):
                with T.block("B"):
                    vi, vj = T.axis.remap("SS", [i, ax1])
                    T.reads(X[vi, vj])
                    T.writes(B_local[vi, vj])
                    B_local[vi, vj] = X[vi, vj] + T.float32(1)
            for ax0, ax1 in T.grid(1, 6):
                with T.block("B_local"):
                    v0 = T.axis.spatial(4, i + ax0)
                    v1 = T.axis.spatial(6, ax1)
                    T.reads(B_local[v0, v1])
                    T.writes(B[v0, v1])
                    B[v0, v1] = B_local[v0, v1]
            for j in range(6):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    T.reads(B[vi, vj])
                    T.writes(Y[vi, vj])
                    Y[vi, vj] = B[vi, vj] * T.float32(2)
    """,
    )


def test_cache_read_prints_a_copy_inside_shared_loops() -> None:
    sch = scheduled(programs.halo())
    sch.compute_at("B", loops(sch, "Y")[0])
    sch.cache_read("Y", 0, "local")
    prints(
        sch,
        """
        B = T.alloc_buffer((10,))
        B_local = T.alloc_buffer((10,), scope="local")
        for i in range(8):
            for ax0 in range(3):
                with T.block("B"):
                    vi = T.axis.spatial(10, i + ax0)
                    T.reads(X[vi:vi + 3])
                    T.writes(B[vi])
                    B[vi] = X[vi] + X[vi + 1] * T.float32(2) + X[vi + 2]
            for ax0 in range(3):
                with T.block("B_local"):
                    v0 = T.axis.spatial(10, i + ax0)
                    T.reads(B[v0])
                    T.writes(B_local[v0])
                    B_local[v0] = B[v0]
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                T.reads(B_local[vi:vi + 3])
                T.writes(Y[vi])
                Y[vi] = B_local[vi] - B_local[vi + 1] + B_local[vi + 2]
    """,
    )


def _both(block: str, reader: str, buffer: str) -> list[Callable[[Schedule], Any]]:
    return [
        lambda s: s.cache_write(block, 0, "local"),
        lambda s: s.cache_read(reader, buffer, "local"),
    ]


@pytest.mark.parametrize("cache", _both("B", "Y", "B"))
@pytest.mark.parametrize("inner", [False, True])
def test_copies_inside_shared_loops_end_where_the_buffer_does(
    cache: Callable[[Schedule], Any], inner: bool
) -> None:
    """Tiles that do not divide the extents put predicates on writer and copy."""

    def do(s: Schedule) -> None:
        i, j = loops(s, "Y")
        s.compute_at("B", j if inner else i)
        s.split(i, [None, 3])
        s.split(loops(s, "B")[-1], [None, 4])
        copy = s.get(cache(s))
        assert str(copy.predicate) != "T.bool(True)"

    keeps(programs.chain(), do)


@pytest.mark.parametrize("cache", _both("S", "Y", "S"))
def test_copies_of_sums_inside_shared_loops(cache: Callable[[Schedule], Any]) -> None:
    def do(s: Schedule) -> None:
        s.compute_at("S", loops(s, "Y")[0])
        cache(s)

    keeps(programs.reduced_halo(), do)


def test_copies_inside_shared_loops_for_readers_at_several_depths() -> None:
    @T.prim_func
    def f(
        X: T.Buffer((4, 6), "float32"),
        Y: T.Buffer((4, 6), "float32"),
        Z: T.Buffer((4, 6), "float32"),
    ):
        B = T.alloc_buffer((4, 6))
        for i in range(4):
            for j in range(6):
                with T.block("B"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    B[vi, vj] = X[vi, vj] + 1.0
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    Y[vi, vj] = B[vi, vj] * 2.0
            for j in range(6):
                with T.block("Z"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    Z[vi, vj] = B[vi, 5 - vj] * 3.0

    def depths(s: Schedule, copy: Any) -> list[int]:
        return [len(s.get_loops(s.get_block(b))) for b in ("B", "Y", "Z")] + [
            len(s.get_loops(copy))
        ]

    for of in (
        lambda s: s.cache_write("B", 0, "local"),
        lambda s: s.cache_read("Z", 0, "local"),
    ):
        keeps(f, lambda s, of=of: depths(s, of(s)) == [2, 2, 2, 4] or pytest.fail("place"))
    for of in (
        lambda s: s.cache_write("B", 0, "local", ["Y"]),
        lambda s: s.cache_read("Z", 0, "local", ["Z"]),
    ):
        keeps(f, lambda s, of=of: depths(s, of(s)) == [2, 2, 2, 3] or pytest.fail("place"))
    for of in (
        lambda s: s.cache_write("B", 0, "local", ["Y", "Z"]),
        lambda s: s.cache_write("Y", 0, "local"),
    ):
        keeps(f, lambda s, of=of: depths(s, of(s)) == [2, 2, 2, 2] or pytest.fail("place"))


def _write_back(s: Schedule) -> Any:
    """Results through shared memory, as tensor-core rules do it; the copy."""
    i, j, k = loops(s, "C")
    i0, i1, i2 = s.split(i, s.sample_perfect_tile(i, 3, 16, decision=[4, 4, 8]))
    j0, j1, j2 = s.split(j, s.sample_perfect_tile(j, 3, 16, decision=[8, 2, 8]))
    k0, k1 = s.split(k, s.sample_perfect_tile(k, 2, 16, decision=[32, 4]))
    s.reorder(i0, j0, i1, j1, k0, k1, i2, j2)
    block, thread = s.fuse(i0, j0), s.fuse(i1, j1)
    s.bind(block, "blockIdx.x")
    s.bind(thread, "threadIdx.y")
    shared = s.cache_write("C", 0, "shared")
    s.reverse_compute_at(shared, block, preserve_unit_loops=True)
    return shared


def test_cache_write_twice_with_the_first_copy_under_a_loop() -> None:
    def do(s: Schedule) -> None:
        shared = _write_back(s)
        local = s.cache_write("C", 0, "local")
        assert [s.get(x).extent.value for x in s.get_loops(local)] == [32, 32, 16]
        s.compute_at(local, s.get_loops(shared)[1], preserve_unit_loops=True)

    keeps(programs.tutorial()["main"], do, seeds=1)


def test_copies_inside_shared_loops_make_no_structure_classes() -> None:
    """What they ask about sampled values has the same answer for every tiling, units included."""

    def guards(last: Callable[[Schedule], Any]) -> list[Any]:
        recorded = Schedule(programs.tutorial(), seed=1)
        _write_back(recorded)
        last(recorded)
        trace = recorded.trace
        with recording() as found:
            trace.apply_to_schedule(
                Schedule(programs.tutorial(), seed=1),
                decision_provider=lambda inst, inputs, attrs, old: [
                    Dim(x, f"{trace.insts.index(inst)}.{n}") for n, x in enumerate(old)
                ],
            )
        return found

    rng = random.Random(0)
    recorded = Schedule(programs.tutorial(), seed=1)
    _write_back(recorded)
    drawn: dict[str, list[int]] = {}
    for k, inst in enumerate(recorded.trace.insts):
        for _ in range(50 if inst.kind.name == "SamplePerfectTile" else 0):
            for n, x in enumerate(draw_tiling(rng, 128, inst.attrs[0], 128)):
                drawn.setdefault(f"{k}.{n}", []).append(x)
    before = set(guards(lambda s: None))
    for last in (
        lambda s: s.cache_write("C", 0, "local"),
        lambda s: s.cache_read("C_shared", 0, "local"),
    ):
        more = [g for g in guards(last) if g not in before]
        rows = Evaluator({c: np.array(x) for c, x in drawn.items()})
        assert rows.holds(more, np.ones(50, bool)).all(), more


def _unchecked(func: PrimFunc) -> Schedule:
    return scheduled(func, enable_check=False)


@pytest.mark.parametrize("cache", _both("S", "Q", "S"))
def test_copies_of_unfinished_sums_are_refused(cache: Callable[[Schedule], Any]) -> None:
    sch = _unchecked(programs.prefix_sum())
    e = refuses(sch, "cache-place", lambda: cache(sch), names="drives the reduce iterator vk")
    assert "compute_at" in e.hint


@pytest.mark.parametrize("cache", _both("B", "Y", "B"))
def test_copies_inside_shared_loops_are_refused_where_no_box_is_written(
    cache: Callable[[Schedule], Any],
) -> None:
    @T.prim_func
    def gaps(X: T.Buffer((4, 6), "float32"), Y: T.Buffer((4, 3), "float32")):
        B = T.alloc_buffer((4, 6))
        for i in range(4):
            for j in range(3):
                with T.block("B"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    B[vi, vj * 2] = X[vi, vj] + 1.0
            for j in range(3):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    Y[vi, vj] = B[vi, vj * 2] * 2.0

    sch = _unchecked(gaps)
    refuses(sch, "cache-place", lambda: cache(sch), names="without gaps")

    @T.prim_func
    def triangle(X: T.Buffer((4, 6), "float32"), Y: T.Buffer((4, 6), "float32")):
        B = T.alloc_buffer((4, 6))
        for i in range(4):
            for j in range(i + 1):
                with T.block("B"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    B[vi, vj] = X[vi, vj] + 1.0
            for j in range(i + 1):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    Y[vi, vj] = B[vi, vj] * 2.0

    sch = _unchecked(triangle)
    refuses(sch, "cache-place", lambda: cache(sch), names="constant extents")

    @T.prim_func
    def predicate(X: T.Buffer((4, 6), "float32"), Y: T.Buffer((4, 6), "float32")):
        B = T.alloc_buffer((4, 6))
        for i in range(4):
            for j in range(6):
                with T.block("B"):
                    T.where(i + j < 5)
                    vi, vj = T.axis.remap("SS", [i, j])
                    B[vi, vj] = X[vi, vj] + 1.0
            for j in range(2):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    Y[vi, vj] = B[vi, vj] * 2.0

    sch = _unchecked(predicate)
    refuses(sch, "cache-place", lambda: cache(sch), names="not one box")


@pytest.mark.parametrize("cache", _both("B", "Y", "B"))
def test_copies_inside_shared_loops_are_refused_under_conditions(
    cache: Callable[[Schedule], Any],
) -> None:
    @T.prim_func
    def own(X: T.Buffer((4, 6), "float32"), Y: T.Buffer((4, 6), "float32")):
        B = T.alloc_buffer((4, 6))
        for i in range(4):
            for j in range(6):
                if j < 3:
                    with T.block("B"):
                        vi, vj = T.axis.remap("SS", [i, j])
                        B[vi, vj] = X[vi, vj] + 1.0
            for j in range(3):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    Y[vi, vj] = B[vi, vj] * 2.0

    sch = _unchecked(own)
    refuses(sch, "cache-place", lambda: cache(sch), names="condition or let of its own")

    @T.prim_func
    def branches(X: T.Buffer((4,), "float32"), Y: T.Buffer((4,), "float32")):
        B = T.alloc_buffer((4,))
        for i in range(4):
            if i < 2:
                with T.block("B"):
                    vi = T.axis.spatial(4, i)
                    B[vi] = X[vi] + 1.0
            else:
                with T.block("Y"):
                    vi = T.axis.spatial(4, i)
                    Y[vi] = B[vi - 2] * 2.0

    sch = _unchecked(branches)
    refuses(sch, "cache-place", lambda: cache(sch), names="branches of one condition")


def test_copies_inside_a_condition_that_writer_and_reader_share() -> None:
    @T.prim_func
    def f(X: T.Buffer((4, 6), "float32"), Y: T.Buffer((4, 6), "float32")):
        B = T.alloc_buffer((4, 6))
        for i in range(4):
            if i < 3:
                for j in range(6):
                    with T.block("B"):
                        vi, vj = T.axis.remap("SS", [i, j])
                        B[vi, vj] = X[vi, vj] + 1.0
                for j in range(6):
                    with T.block("Y"):
                        vi, vj = T.axis.remap("SS", [i, j])
                        Y[vi, vj] = B[vi, vj] * 2.0

    for cache in _both("B", "Y", "B"):
        sch = _unchecked(f)
        cache(sch)
        for seed in range(2):
            arrays = inputs(f, seed)
            run(sch.mod["f"], *arrays)
            for want, got in zip(results(f, seed), arrays, strict=True):
                assert np.array_equal(want, got, equal_nan=True)


def test_cache_read_refuses_readers_before_the_writer() -> None:
    @T.prim_func
    def f(B: T.Buffer((4,), "float32"), Y: T.Buffer((4,), "float32"), Z: T.Buffer((4,), "float32")):
        for i in range(4):
            with T.block("Y"):
                vi = T.axis.spatial(4, i)
                Y[vi] = B[vi] * 2.0
            with T.block("B"):
                vi = T.axis.spatial(4, i)
                B[vi] = 1.0
        for i in range(4):
            with T.block("Z"):
                vi = T.axis.spatial(4, i)
                Z[vi] = B[vi] * 3.0

    sch = _unchecked(f)
    e = refuses(sch, "cache-place", lambda: sch.cache_read("Y", 0, "local"), names="before block B")
    assert "consumer_blocks" in e.hint
    sch.cache_read("Z", 0, "local", ["Z"])


# ----------------------------------------------------------------------------- set_scope, align
def test_set_scope_and_storage_align_print() -> None:
    sch = scheduled(programs.chain())
    sch.set_scope("B", 0, "shared")
    sch.storage_align("B", 0, -2, 8, 1)
    prints(
        sch,
        """
        B = T.alloc_buffer((4, 6), scope="shared")
        for i, j in T.grid(4, 6):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                T.reads(X[vi, vj])
                T.writes(B[vi, vj])
                T.block_attr({"buffer_dim_align": ((0, 0, 8, 1),)})
                B[vi, vj] = X[vi, vj] + T.float32(1)
        for i, j in T.grid(4, 6):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                T.reads(B[vi, vj])
                T.writes(Y[vi, vj])
                Y[vi, vj] = B[vi, vj] * T.float32(2)
    """,
    )


def test_set_scope_of_a_buffer_with_views() -> None:
    sch = keeps(programs.views(), lambda s: s.set_scope("B", 0, "shared"))
    (view, _) = sch.get(sch.get_block("Y")).match_buffers
    assert view.buffer.scope == "shared"


def test_storage_align_twice_replaces_the_entry_of_the_axis() -> None:
    def do(s: Schedule) -> None:
        s.storage_align("B", 0, 0, 8, 1)
        s.storage_align("B", 0, 1, 4, 0)
        s.storage_align("B", 0, -2, 16, 2)

    sch = keeps(programs.chain(), do)
    notes = dict(sch.get(sch.get_block("B")).annotations)
    assert notes["buffer_dim_align"] == ((0, 1, 4, 0), (0, 0, 16, 2))


def test_set_scope_refuses() -> None:
    sch = scheduled(programs.chain())
    refuses(sch, "buffer-parameter", lambda: sch.set_scope("Y", 0, "local"), names="buffer Y")
    refuses(sch, "storage-scope", lambda: sch.set_scope("B", 0, ""), names="''")
    refuses(sch, "buffer-index", lambda: sch.set_scope("B", "X", "local"), names="'X'")


def test_storage_align_refuses() -> None:
    sch = scheduled(programs.chain())
    align = sch.storage_align
    refuses(sch, "buffer-parameter", lambda: align("Y", 0, 0, 8, 0), names="buffer Y")
    refuses(sch, "storage-align", lambda: align("B", 0, 2, 8, 0), names="axis 2")
    refuses(sch, "storage-align", lambda: align("B", 0, -3, 8, 0), names="axis -3")
    refuses(sch, "storage-align", lambda: align("B", 0, 0, 0, 0), names="factor")
    refuses(sch, "argument", lambda: align("B", 0, "x", 8, 0), names="axis")  # type: ignore[arg-type]  # wrong on purpose
