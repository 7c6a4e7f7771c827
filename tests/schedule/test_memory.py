"""cache_read, cache_write, set_scope, storage_align."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gputune.ir.nodes import PrimFunc
from gputune.schedule import Schedule

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
    sch = scheduled(programs.chain())
    sch.compute_at("B", loops(sch, "Y")[0])
    refuses(sch, "cache-place", lambda: sch.cache_read("Y", 0, "local"), names="shares its loops")
    sch = scheduled(programs.nested_blocks())
    e = refuses(sch, "cache-partial", lambda: sch.cache_read("inner", 0, "local"), names="outer")
    assert "outer" in e.hint
    sch = scheduled(programs.prefix_sum())
    refuses(sch, "not-pipeline", lambda: sch.cache_read("Q", 0, "local"), names="still reduces")


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
    sch = scheduled(programs.chain())
    sch.compute_at("B", loops(sch, "Y")[0])
    refuses(sch, "cache-place", lambda: sch.cache_write("B", 0, "local"), names="shares its loops")
    sch = scheduled(programs.row_sum())
    sch.decompose_reduction("Y", loops(sch, "Y")[1])
    refuses(
        sch, "cache-writers", lambda: sch.cache_write("Y_update", 0, "local"), names="2 writers"
    )


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
