"""Refusals that only unusual programs meet: each place in the source that refuses has a test."""

from __future__ import annotations

from typing import Any

import pytest

from gputune.errors import ScheduleError
from gputune.ir import build
from gputune.ir.index_map import IndexMap
from gputune.ir.nodes import For, IntImm, IRModule, PrimFunc, Var
from gputune.schedule import KINDS, BlockRV, Instruction, Schedule, Trace
from gputune.schedule.demo import demo_schedule
from gputune.schedule.tree import block_with
from gputune.script import tir as T

from . import schedule_programs as programs
from .schedule_helpers import loops, refuses, scheduled


# ----------------------------------------------------------------------------- notes, blockize
def test_ranges_of_another_number_of_iterators() -> None:
    sch = demo_schedule()
    given = IndexMap.from_func(lambda i: (i, i + 1, 0, 8), 1)
    e = refuses(
        sch, "access-ranges", lambda: sch.annotate_buffer_access("B", 0, "read", given), names="B"
    )
    assert "takes 1 indices, and block B has 2 iterators" in e.message


def test_blockize_of_loops_with_something_loose() -> None:
    sch = scheduled(programs.loose_store())
    (i,) = loops(sch, "Y")
    refuses(sch, "blockize-loose", lambda: sch.blockize(i))


@T.prim_func
def growing(X: T.Buffer((6, 6), "float32"), Y: T.Buffer((6, 6), "float32")):
    for i, j in T.grid(6, 6):
        with T.block("Y"):
            vi = T.axis.spatial(6, i)
            vj = T.axis.spatial(i + 1, j)
            T.where(j < i + 1)
            Y[vi, vj] = X[vi, vj] + 1.0


def test_blockize_of_domains_that_grow() -> None:
    sch = scheduled(growing)
    _, j = loops(sch, "Y")
    refuses(sch, "blockize-domain", lambda: sch.blockize(j), names="Y")


def test_blockize_of_loops_without_an_extent() -> None:
    @T.prim_func
    def f(X: T.Buffer((6, 6), "float32"), Y: T.Buffer((6, 6), "float32")):
        for i in range(6):
            for j in range(i + 1):
                with T.block("Y"):
                    vi = T.axis.spatial(6, i)
                    vj = T.axis.spatial(6, j)
                    Y[vi, vj] = X[vi, vj] + 1.0

    sch = scheduled(f)
    _, j = loops(sch, "Y")
    refuses(sch, "blockize-extent", lambda: sch.blockize(j), names="j")


@T.prim_func
def either(X: T.Buffer((6,), "float32"), Y: T.Buffer((6,), "float32"), n: T.int32):
    if n > 3:
        for i in range(6):
            with T.block("P"):
                vi = T.axis.spatial(6, i)
                Y[vi] = X[vi] + 1.0
    else:
        for i in range(6):
            with T.block("Q"):
                vi = T.axis.spatial(6, i)
                Y[vi] = X[vi] * 2.0


def test_blockize_of_blocks_on_both_sides_of_a_condition() -> None:
    sch = scheduled(either)
    blocks = [sch.get_block("P"), sch.get_block("Q")]
    refuses(sch, "blockize-between", lambda: sch.blockize(blocks))


# ----------------------------------------------------------------------------- epilogue, inline
def test_an_epilogue_of_a_sum_that_begins_elsewhere() -> None:
    @T.prim_func
    def f(X: T.Buffer((4, 4), "float32"), Y: T.Buffer((4,), "float32")):
        S = T.alloc_buffer((4,))
        for i, k in T.grid(4, 4):
            with T.block("S"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    S[3 - vi] = 0.0
                S[vi] = S[vi] + X[vi, vk]
        for i in range(4):
            with T.block("Y"):
                vi = T.axis.spatial(4, i)
                Y[vi] = S[vi] + 1.0

    sch = scheduled(f)
    refuses(sch, "epilogue-body", lambda: sch.fuse_reduction_epilogue("S", "Y"), names="S")


def halves(where: str) -> PrimFunc:
    """A block, its reader, one of which leaves out points by a predicate."""

    @T.prim_func
    def producer(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        for i, j in T.grid(2, 4):
            with T.block("B"):
                vi = T.axis.spatial(8, i * 4 + j)
                T.where(i * 4 + j < 7)
                B[vi] = X[vi] + 1.0
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[vi] * 2.0

    @T.prim_func
    def consumer(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        C = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi] + 1.0
        for i, j in T.grid(2, 4):
            with T.block("C"):
                vi = T.axis.spatial(8, i * 4 + j)
                T.where(j < 3 and i < 1)
                C[vi] = B[vi] + 1.0
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = C[0] * 2.0

    return producer if where == "producer" else consumer


def test_reverse_compute_inline_of_blocks_that_leave_points_out() -> None:
    sch = scheduled(halves("producer"))
    refuses(sch, "inline-predicate", lambda: sch.reverse_compute_inline("Y"), names="B")
    sch = scheduled(halves("consumer"))
    refuses(sch, "inline-predicate", lambda: sch.reverse_compute_inline("C"), names="C")


def test_reverse_compute_inline_of_what_is_not_complete() -> None:
    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi] + 1.0
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.reduce(8, i)
                Y[vi] = B[vi] * 2.0

    sch = scheduled(f)
    refuses(sch, "not-complete", lambda: sch.reverse_compute_inline("Y"), names="Y")


def test_reverse_compute_inline_of_iterators_that_begin_later() -> None:
    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        C = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi] + 1.0
        for i in range(6):
            with T.block("C"):
                vi = T.axis.spatial((2, 8), i + 2)
                C[vi] = B[vi] + 1.0
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = C[2] * 2.0

    sch = scheduled(f)
    refuses(sch, "inline-domain", lambda: sch.reverse_compute_inline("C"), names="C")


def test_scopes_that_are_no_pipeline() -> None:
    """What is read before it is written whole."""

    @T.prim_func
    def early(
        X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32"), S: T.Buffer((1,), "float32")
    ):
        B = T.alloc_buffer((8,))
        for i in range(4):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi] + 1.0
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[vi] * 2.0
        for k in range(8):
            with T.block("S"):
                vk = T.axis.reduce(8, k)
                with T.init():
                    S[0] = 0.0
                S[0] = S[0] + X[vk]

    sch = scheduled(early)
    (k,) = loops(sch, "S")
    refuses(sch, "not-pipeline", lambda: sch.rfactor(k, 0))
    refuses(sch, "not-pipeline", lambda: sch.pad_einsum("Y", [3]))
    refuses(sch, "not-pipeline", lambda: sch.reverse_compute_inline("Y"))


# ----------------------------------------------------------------------------- layouts
def test_layouts_that_are_too_large_to_look_at() -> None:
    @T.prim_func
    def f(X: T.Buffer((4096, 4096), "float32"), Y: T.Buffer((4096, 4096), "float32")):
        for i, j in T.grid(4096, 4096):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = X[vi, vj]

    sch = Schedule(f)
    refuses(
        sch,
        "layout-injective",
        lambda: sch.transform_layout(
            "Y", ("write", 0), lambda i, j: (i, (i + j) % 4096), assume_injective_transform=True
        ),
    )


def whole_numbers() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((8,), "int8"), Y: T.Buffer((8,), "int8")):
        B = T.alloc_buffer((8,), "int8")
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi]
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[vi]

    return f


@pytest.mark.parametrize(
    "value", [lambda i, j: T.float32(0.5), 0.5, 300, float("nan"), float("inf")]
)
def test_pad_values_of_integers(value: Any) -> None:
    sch = scheduled(whole_numbers())
    refuses(
        sch,
        "layout-pad-value",
        lambda: sch.transform_layout("B", ("write", 0), lambda i: (i // 3, i % 3), value),
        names="int8",
    )


def test_layouts_of_views() -> None:
    sch = scheduled(programs.views())
    refuses(
        sch,
        "layout-view",
        lambda: sch.transform_layout("Y", "B", lambda i, j: (j, i)),
        names="block Y has a view of B",
    )

    @T.prim_func
    def inside(X: T.Buffer((8, 8), "float32"), Y: T.Buffer((8, 8), "float32")):
        for io in range(8):
            with T.block("Y"):
                vio = T.axis.spatial(8, io)
                T.reads(X[vio, 0:8])
                T.writes(Y[vio, 0:8])
                R = T.match_buffer(X[vio, 0:8], (8,), "float32", offset_factor=1)
                for j in range(8):
                    with T.block("inner"):
                        vj = T.axis.spatial(8, j)
                        Y[vio, vj] = R[vj] * 2.0

    sch = scheduled(inside)
    refuses(
        sch,
        "layout-view",
        lambda: sch.transform_layout("inner", ("read", 0), lambda i: (i // 4, i % 4)),
        names="R is a view",
    )


def test_layouts_of_what_is_taken_by_address_or_in_vectors() -> None:
    @T.prim_func
    def by_address(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi]
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = T.call_intrin("float32", "x86.look", B[vi])

    sch = Schedule(by_address)
    refuses(
        sch,
        "layout-opaque",
        lambda: sch.transform_layout("B", ("write", 0), lambda i: (i // 4, i % 4)),
        names="address",
    )

    @T.prim_func
    def vectors(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        for i in range(2):
            with T.block("B"):
                vi = T.axis.spatial(2, i)
                B[vi * 4 : vi * 4 + 4] = X[vi * 4 : vi * 4 + 4]
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[vi]

    sch = Schedule(vectors)
    refuses(
        sch,
        "layout-opaque",
        lambda: sch.transform_layout("B", ("write", 0), lambda i: (i // 4, i % 4)),
        names="vectors",
    )


# ----------------------------------------------------------------------------- loops, caches
def test_unit_loops_without_end() -> None:
    sch = scheduled(programs.copy2d())
    block = sch.get_block("Y")
    while len(sch.get_loops(block)) < 64:
        sch.add_unit_loop(block)
    refuses(sch, "too-deep", lambda: sch.add_unit_loop(block), names="64 loops")


def test_caches_of_what_several_blocks_write() -> None:
    sch = scheduled(programs.reduced_halo())
    _, k = loops(sch, "S")
    sch.decompose_reduction("S", k)
    refuses(sch, "cache-writers", lambda: sch.cache_read("Y", 0, "local"))


def test_caches_of_what_only_the_writer_reads() -> None:
    sch = Schedule(programs.recurrence(), enable_check=False)
    refuses(sch, "cache-consumer", lambda: sch.cache_read("Y", "Y", "local"))


def test_the_root_block_is_not_cached() -> None:
    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        with T.block("root"):
            T.reads(X[0:8])
            T.writes(Y[0:8])
            for i in range(8):
                with T.block("Y"):
                    vi = T.axis.spatial(8, i)
                    Y[vi] = X[vi]

    sch = scheduled(f)
    refuses(sch, "root-block", lambda: sch.cache_read("root", 0, "local"))
    refuses(sch, "root-block", lambda: sch.cache_write("root", 0, "local"))


def test_buffers_of_one_name() -> None:
    @T.prim_func
    def f(A: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        A_local = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                A_local[vi] = A[vi]
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = A_local[vi] + A[vi]

    sch = scheduled(f)
    sch.cache_read("Y", "A", "local")
    e = refuses(sch, "buffer-index", lambda: sch.reindex("Y", "A_local"))
    assert "2 buffers named 'A_local'" in e.message


# ----------------------------------------------------------------------------- padding
def test_pad_einsum_of_other_blocks() -> None:
    @T.prim_func
    def two_inits(
        X: T.Buffer((4, 5), "float32"), Y: T.Buffer((4,), "float32"), Z: T.Buffer((4,), "float32")
    ):
        for i, k in T.grid(4, 5):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                T.reads(X[vi, vk])
                T.writes(Y[vi], Z[vi])
                with T.init():
                    Y[vi] = 0.0
                    Z[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]

    sch = scheduled(two_inits)
    e = refuses(sch, "pad-einsum-body", lambda: sch.pad_einsum("Y", [1, 4]))
    assert "init" in e.message

    @T.prim_func
    def allocates(X: T.Buffer((5,), "float32"), Y: T.Buffer((5,), "float32")):
        for i in range(5):
            with T.block("Y"):
                vi = T.axis.spatial(5, i)
                W = T.alloc_buffer((1,))  # noqa: F841 - a statement of the script
                Y[vi] = X[vi]

    sch = scheduled(allocates)
    e = refuses(sch, "pad-einsum-body", lambda: sch.pad_einsum("Y", [4]))
    assert "allocates" in e.message

    @T.prim_func
    def calls(X: T.Buffer((5,), "float32"), Y: T.Buffer((5,), "float32")):
        for i in range(5):
            with T.block("Y"):
                vi = T.axis.spatial(5, i)
                Y[vi] = T.call_extern("float32", "f", X[vi])

    sch = Schedule(calls)
    e = refuses(sch, "pad-einsum-body", lambda: sch.pad_einsum("Y", [4]))
    assert "calls" in e.message


def test_pad_einsum_of_what_was_written_in_two_blocks() -> None:
    @T.prim_func
    def f(X: T.Buffer((5, 4), "float32"), Y: T.Buffer((5,), "float32")):
        S = T.alloc_buffer((5,))
        for i, k in T.grid(5, 4):
            with T.block("S"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    S[vi] = 0.0
                S[vi] = S[vi] + X[vi, vk]
        for i in range(5):
            with T.block("Y"):
                vi = T.axis.spatial(5, i)
                Y[vi] = S[vi] * 2.0

    sch = scheduled(f)
    _, k = loops(sch, "S")
    sch.decompose_reduction("S", k)
    refuses(sch, "cache-writers", lambda: sch.pad_einsum("Y", [4]), names="2 writers")


def test_pad_einsum_of_buffers_without_an_extent() -> None:
    @T.prim_func
    def f(x: T.handle, y: T.handle):
        n = T.int32()
        X = T.match_buffer(x, (n,), "float32")
        Y = T.match_buffer(y, (5,), "float32")
        for i in range(5):
            with T.block("Y"):
                vi = T.axis.spatial(5, i)
                Y[vi] = X[vi]

    sch = Schedule(f)
    refuses(sch, "layout-dynamic", lambda: sch.pad_einsum("Y", [4]), names="X")


def test_can_decompose_padding_of_a_name_that_two_blocks_have() -> None:
    f = programs.copy2d()
    sch = Schedule(IRModule({"f": f, "g": f}))
    i, _ = sch.get_loops(sch.get_block("Y", "f"))
    refuses(sch, "block-name", lambda: sch.can_decompose_padding("Y", i), names="2 blocks")


# ----------------------------------------------------------------------------- partition
def test_partition_of_loops_that_blocks_have_left() -> None:
    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32"), Z: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi] + 1.0
            Z[i] = X[i]
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[vi] * 2.0

    sch = Schedule(f, enable_check=False)
    (i,) = loops(sch, "B")
    sch.compute_inline("B")
    refuses(sch, "partition-blocks", lambda: sch.loop_partition(i, [3]), names="i")


# ----------------------------------------------------------------------------- placement
def test_moving_blocks_that_leave_points_out() -> None:
    sch = Schedule(halves("producer"), enable_check=False)
    (i,) = loops(sch, "Y")
    refuses(sch, "place-predicate", lambda: sch.compute_at("B", i), names="B")
    i, _ = loops(sch, "B")
    refuses(sch, "place-predicate", lambda: sch.reverse_compute_at("Y", i), names="producer B")


def test_moving_what_writes_at_squares() -> None:
    @T.prim_func
    def f(X: T.Buffer((4,), "float32"), Y: T.Buffer((4,), "float32")):
        B = T.alloc_buffer((16,))
        for i in range(4):
            with T.block("B"):
                vi = T.axis.spatial(4, i)
                B[vi * vi] = X[vi] + 1.0
        for i in range(4):
            with T.block("Y"):
                vi = T.axis.spatial(4, i)
                Y[vi] = B[vi * vi] * 2.0

    sch = Schedule(f, enable_check=False)
    (i,) = loops(sch, "Y")
    refuses(sch, "place-invert", lambda: sch.compute_at("B", i), names="B")
    (i,) = loops(sch, "B")
    refuses(sch, "place-invert", lambda: sch.reverse_compute_at("Y", i), names="Y")


def test_moving_below_loops_of_no_constant_extent() -> None:
    @T.prim_func
    def f(X: T.Buffer((6, 6), "float32"), Y: T.Buffer((6, 6), "float32")):
        B = T.alloc_buffer((6, 6))
        for i in range(6):
            for j in range(i + 1):
                with T.block("B"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    B[vi, vj] = X[vi, vj] + 1.0
        for i in range(6):
            for j in range(6):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    Y[vi, vj] = B[vi, vj] * 2.0

    sch = Schedule(f, enable_check=False)
    _, j = loops(sch, "B")
    refuses(sch, "place-region", lambda: sch.reverse_compute_at("Y", j))


def test_moving_a_sum_below_what_makes_a_part_of_it() -> None:
    @T.prim_func
    def f(X: T.Buffer((4, 8), "float32"), Y: T.Buffer((4,), "float32")):
        B = T.alloc_buffer((4, 8))
        for i, j in T.grid(4, 8):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] + 1.0
        for i, k in T.grid(4, 8):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + B[vi, vk]

    sch = scheduled(f)
    _, j = loops(sch, "B")
    refuses(sch, "place-partial", lambda: sch.reverse_compute_at("Y", j), names="vk")


def test_moving_a_block_below_what_does_not_make_it_all() -> None:
    @T.prim_func
    def unknown(x: T.handle, y: T.handle):
        n = T.int32()
        X = T.match_buffer(x, (n,), "float32")
        Y = T.match_buffer(y, (n,), "float32")
        B = T.alloc_buffer((n,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi] + 1.0
        for i in range(n):
            with T.block("Y"):
                vi = T.axis.spatial(n, i)
                Y[vi] = B[vi] * 2.0

    sch = Schedule(unknown, enable_check=False)
    (i,) = loops(sch, "B")
    refuses(sch, "place-region", lambda: sch.reverse_compute_at("Y", i), names="range of vi")

    @T.prim_func
    def part(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        for i in range(6):
            with T.block("B"):
                vi = T.axis.spatial(6, i)
                B[vi] = X[vi] + 1.0
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[vi] * 2.0

    sch = Schedule(part, enable_check=False)
    (i,) = loops(sch, "B")
    e = refuses(sch, "place-domain", lambda: sch.reverse_compute_at("Y", i), names="vi")
    assert "from 0 to 7" in e.message

    @T.prim_func
    def outer_product(X: T.Buffer((8,), "float32"), z: T.handle, y: T.handle):
        n = T.int32()
        Z = T.match_buffer(z, (n,), "float32")
        Y = T.match_buffer(y, (8, n), "float32")
        B = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi] + 1.0
        for i, j in T.grid(8, n):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = B[vi] * Z[vj]

    sch = Schedule(outer_product, enable_check=False)
    (i,) = loops(sch, "B")
    refuses(sch, "place-region", lambda: sch.reverse_compute_at("Y", i), names="range of vj")


# ----------------------------------------------------------------------------- rolling
def test_rings_of_what_is_no_box() -> None:
    @T.prim_func
    def triangle(X: T.Buffer((7,), "float32"), Y: T.Buffer((6, 6), "float32")):
        B = T.alloc_buffer((7,))
        for i in range(6):
            for j in range(i + 1):
                for k in range(2):
                    with T.block("B"):
                        vj = T.axis.spatial(7, j + k)
                        B[vj] = X[vj] + 1.0
                with T.block("Y"):
                    vi = T.axis.spatial(6, i)
                    vj = T.axis.spatial(6, j)
                    Y[vi, vj] = B[vj] * B[vj + 1]

    sch = Schedule(triangle, enable_check=False)
    refuses(sch, "roll-region", lambda: sch.rolling_buffer("B", 0), names="not constant")

    @T.prim_func
    def gaps(X: T.Buffer((10,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((10,))
        for j in range(8):
            for k in range(2):
                with T.block("B"):
                    vj = T.axis.spatial(10, j + k * 2)
                    B[vj] = X[vj] + 1.0
            with T.block("Y"):
                vj = T.axis.spatial(8, j)
                Y[vj] = B[vj] * B[vj + 2]

    sch = Schedule(gaps, enable_check=False)
    refuses(sch, "roll-region", lambda: sch.rolling_buffer("B", 0), names="gaps")


# ----------------------------------------------------------------------------- reductions
def test_decompose_at_loops_with_something_loose() -> None:
    @T.prim_func
    def f(X: T.Buffer((4, 8), "float32"), Y: T.Buffer((4,), "float32")):
        for i in range(4):
            for k in range(8):
                with T.block("Y"):
                    vi, vk = T.axis.remap("SR", [i, k])
                    with T.init():
                        Y[vi] = 0.0
                    Y[vi] = Y[vi] + X[vi, vk]
            Y[i] = Y[i] + 1.0

    sch = scheduled(f)
    i, _ = loops(sch, "Y")
    refuses(sch, "not-pipeline", lambda: sch.decompose_reduction("Y", i))


def test_decompose_of_domains_that_the_reduction_drives() -> None:
    @T.prim_func
    def f(X: T.Buffer((4, 8), "float32"), Y: T.Buffer((8,), "float32")):
        for k, i in T.grid(4, 5):
            with T.block("Y"):
                vk = T.axis.reduce(4, k)
                vi = T.axis.spatial(k + 5, i)
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vk, vi]

    sch = Schedule(f)
    k, _ = loops(sch, "Y")
    refuses(sch, "reduction-domain", lambda: sch.decompose_reduction("Y", k))


# ----------------------------------------------------------------------------- values and handles
@pytest.mark.parametrize("wrong", ["first", True, None, 1.5, [0], object()])
def test_decisions_of_a_provider_are_checked(wrong: Any) -> None:
    """Named for a bug: what is no list of factors, or no number, was a TypeError."""
    sch = demo_schedule()
    sch.sample_categorical([1, 2], [0.5, 0.5], decision=0)
    i, j = sch.get_loops(sch.get_block("B"))
    sch.sample_perfect_tile(i, 2, decision=[2, 4])
    sch.sample_tile(j, 2, decision=[3, 3])
    sch.sample_compute_location("B", decision=-1)
    for kind in ("SampleCategorical", "SamplePerfectTile", "SampleTile", "SampleComputeLocation"):
        again = demo_schedule()

        def provide(inst: Any, inputs: Any, attrs: Any, old: Any, kind: str = kind) -> Any:
            return wrong if inst.kind.name == kind else old

        if wrong is None:  # draw one
            sch.trace.apply_to_schedule(again, decision_provider=provide)
            continue
        with pytest.raises(ScheduleError) as caught:
            sch.trace.apply_to_schedule(again, decision_provider=provide)
        assert caught.value.code == "sample-decision", caught.value


def test_what_a_trace_cannot_hold() -> None:
    kind = KINDS["GetSBlock"]
    trace = Trace([Instruction.record(kind, {"name": object(), "func_name": None}, BlockRV())], {})
    with pytest.raises(ScheduleError) as caught:
        trace.as_json()
    assert (caught.value.code, "0x" in str(caught.value)) == ("not-writable", False)


def test_arithmetic_with_strangers() -> None:
    sch, other = demo_schedule(), demo_schedule()
    v = sch.sample_categorical([2], [1.0])
    w = other.sample_categorical([2], [1.0])
    i, _ = sch.get_loops(sch.get_block("B"))
    refuses(sch, "not-an-int", lambda: sch.split(i, [v * w, None]))


def test_programs_that_are_nested_too_deeply() -> None:
    f = programs.copy2d()
    body = f.body.body
    for k in range(3000):
        body = For(Var(f"u{k}"), IntImm(0), IntImm(1), "serial", body)
    deep = build.replace_body(f, block_with(f.body, body=body))
    sch = Schedule(deep, error_render_level="none")
    with pytest.raises(ScheduleError) as caught:
        sch.split(sch.get_loops(sch.get_block("Y"))[0], [1, None])
    assert caught.value.code == "too-deep"
    assert "split" not in str(sch.trace)


def test_references_to_what_is_not_there() -> None:
    sch = demo_schedule()
    i, j = sch.get_loops(sch.get_block("B"))
    ref, block = sch.get_sref(i), sch.get_sref(sch.get_block("B"))
    state = sch.state
    refuses(sch, "not-a-block", lambda: state.get_block_scope(ref))
    refuses(sch, "not-in-program", lambda: state.get_sref(1))  # type: ignore[arg-type]  # on purpose
    loop = sch.get(i)
    sch.fuse(i, j)
    refuses(sch, "loop-gone", lambda: ref.stmt)
    refuses(sch, "not-in-program", lambda: sch.state.get_sref(loop))
    assert block.stmt.name == "B"  # type: ignore[union-attr]  # it is one
