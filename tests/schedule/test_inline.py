# ruff: noqa: E501 - golden programs are printed as they are
"""compute_inline, reverse_compute_inline."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gputune.ir.nodes import PrimFunc
from gputune.schedule import Schedule
from gputune.script import tir as T

from . import schedule_programs as programs
from .schedule_helpers import keeps, loops, prints, refuses, scheduled


def test_compute_inline_prints_the_value_in_place() -> None:
    sch = scheduled(programs.halo())
    sch.compute_inline("B")
    prints(
        sch,
        """
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                T.reads(X[vi:vi + 5])
                T.writes(Y[vi])
                Y[vi] = X[vi] + X[vi + 1] * T.float32(2) + X[vi + 2] - (X[vi + 1] + X[vi + 1 + 1] * T.float32(2) + X[vi + 1 + 2]) + (X[vi + 2] + X[vi + 2 + 1] * T.float32(2) + X[vi + 2 + 2])
    """,
    )


@pytest.mark.parametrize(
    ("program", "blocks"),
    [
        (programs.chain, ["B"]),
        (programs.halo, ["B"]),
        (programs.padded_conv, ["P"]),
        (programs.diamond, ["C", "D", "B"]),
        (programs.wide_indices, ["B"]),
        (programs.downsample, ["B"]),
        (programs.nested_blocks, ["B"]),
        (programs.init_from_producer, ["P"]),
        (programs.guarded, ["B"]),
        (programs.softmax, ["E"]),
    ],
)
def test_compute_inline_keeps_the_meaning(
    program: Callable[[], PrimFunc], blocks: list[str]
) -> None:
    def do(s: Schedule) -> None:
        for b in blocks:
            s.compute_inline(b)

    keeps(program(), do)


def test_compute_inline_refuses() -> None:
    sch = scheduled(programs.softmax())
    refuses(sch, "inline-init", lambda: sch.compute_inline("M"), names="block M")
    refuses(sch, "inline-output", lambda: sch.compute_inline("Y"), names="block Y")
    refuses(sch, "root-block", lambda: sch.compute_inline("root"), names="root")
    sch = scheduled(programs.views())
    refuses(sch, "inline-opaque", lambda: sch.compute_inline("B"), names="block Y")
    sch = scheduled(programs.opaque_rows())
    refuses(sch, "not-complete", lambda: sch.compute_inline("B"), names="block B")
    sch = scheduled(programs.loaded_condition())
    refuses(sch, "not-pipeline", lambda: sch.compute_inline("B"), names="B[i] is read outside")
    sch = scheduled(programs.loose_store())
    refuses(sch, "not-pipeline", lambda: sch.compute_inline("B"), names="outside any block")


def odd_producers() -> PrimFunc:
    """Producers that cannot be inlined, each for its own reason."""

    @T.prim_func
    def f(X: T.Buffer((8, 4), "float32"), Y: T.Buffer((4,), "float32")):
        flat = T.alloc_buffer((32,))
        part = T.alloc_buffer((6,))
        last = T.alloc_buffer((4,))
        pair = T.alloc_buffer((4,))
        other = T.alloc_buffer((4,))
        unused = T.alloc_buffer((4,))
        for i, j in T.grid(8, 4):
            with T.block("flat"):
                vi, vj = T.axis.remap("SS", [i, j])
                flat[vi * 4 + vj] = X[vi, vj]
        for i in range(4):
            with T.block("part"):
                vi = T.axis.spatial(4, i)
                part[vi] = X[vi, 0]
        for i, j in T.grid(4, 4):
            with T.block("last"):
                vi, vj = T.axis.remap("SS", [i, j])
                last[vi] = X[vj, vi]
        for i in range(4):
            with T.block("pair"):
                vi = T.axis.spatial(4, i)
                pair[vi] = X[vi, 1]
                other[vi] = X[vi, 2]
        for i in range(4):
            with T.block("unused"):
                vi = T.axis.spatial(4, i)
                unused[vi] = X[vi, 3]
        for i in range(4):
            with T.block("Y"):
                vi = T.axis.spatial(4, i)
                Y[vi] = flat[vi] + part[vi] + last[vi] + pair[vi] + other[vi]

    return f


@pytest.mark.parametrize(
    ("block", "code"),
    [
        ("flat", "inline-body"),
        ("part", "inline-partial"),
        ("last", "inline-body"),
        ("pair", "inline-outputs"),
        ("unused", "inline-consumer"),
    ],
)
def test_compute_inline_refuses_odd_producers(block: str, code: str) -> None:
    sch = scheduled(odd_producers())
    refuses(sch, code, lambda: sch.compute_inline(block), names=f"block {block}")


def test_compute_inline_refuses_a_predicate_that_limits_the_block() -> None:
    sch = scheduled(programs.chain())
    _, i1 = sch.split(loops(sch, "B")[0], [2, 2])
    sch.split(i1, [1, 3])
    refuses(sch, "inline-predicate", lambda: sch.compute_inline("B"), names="i_1_0 * 3 + i_1_1 < 2")


# ----------------------------------------------------------------------------- reverse
def test_reverse_compute_inline_prints_the_joined_block() -> None:
    sch = scheduled(programs.chain())
    sch.reverse_compute_inline("Y")
    prints(
        sch,
        """
        for i, j in T.grid(4, 6):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                T.reads(X[vi, vj])
                T.writes(Y[vi, vj])
                Y[vi, vj] = (X[vi, vj] + T.float32(1)) * T.float32(2)
    """,
    )


def crop() -> PrimFunc:
    """A consumer that keeps a part of its producer, transposed."""

    @T.prim_func
    def f(X: T.Buffer((6, 8), "float32"), Y: T.Buffer((5, 4), "float32")):
        B = T.alloc_buffer((6, 8))
        for i, j in T.grid(6, 8):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] * 2.0
        for i, j in T.grid(5, 4):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = B[vj + 1, vi + 2] + T.Cast("float32", vi * 10 + vj)

    return f


def reshape() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((24,), "float32"), Y: T.Buffer((6, 4), "float32")):
        B = T.alloc_buffer((24,))
        for i in range(24):
            with T.block("B"):
                vi = T.axis.spatial(24, i)
                B[vi] = X[vi] + 1.0
        for i, j in T.grid(6, 4):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = B[vi * 4 + vj] * T.Cast("float32", vj)

    return f


@pytest.mark.parametrize("program", [programs.chain, crop, reshape])
def test_reverse_compute_inline_keeps_the_meaning(program: Callable[[], PrimFunc]) -> None:
    keeps(program(), lambda s: s.reverse_compute_inline("Y"))
    keeps(
        program(), lambda s: (s.split(loops(s, "B")[0], [None, 5]), s.reverse_compute_inline("Y"))
    )


def test_reverse_compute_inline_refuses() -> None:
    sch = scheduled(programs.diamond())
    refuses(sch, "inline-producer", lambda: sch.reverse_compute_inline("Z"), names="it has 3")
    refuses(sch, "inline-producer", lambda: sch.reverse_compute_inline("B"), names="it has 0")
    refuses(sch, "root-block", lambda: sch.reverse_compute_inline("root"))
    sch = scheduled(programs.reduced_halo())
    e = refuses(sch, "inline-producer", lambda: sch.reverse_compute_inline("Y"), names="producer S")
    assert "fuse_reduction_epilogue" in e.hint
    refuses(sch, "inline-init", lambda: sch.reverse_compute_inline("S"), names="block S")
    sch = scheduled(programs.halo())
    refuses(sch, "inline-region", lambda: sch.reverse_compute_inline("Y"), names="3 places")
    sch = scheduled(programs.views())
    refuses(sch, "inline-body", lambda: sch.reverse_compute_inline("Y"), names="block Y")
    sch = scheduled(programs.guarded())
    refuses(sch, "inline-guard", lambda: sch.reverse_compute_inline("Y"), names="block Y")
    sch = scheduled(programs.opaque_rows())
    refuses(sch, "inline-producer", lambda: sch.reverse_compute_inline("Y"), names="producer B")


def shared_producer() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((5,), "float32"), Z: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        D = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi] + 1.0
        for i in range(8):
            with T.block("D"):
                vi = T.axis.spatial(8, i)
                D[vi] = B[vi] * 2.0
        for i in range(8):
            with T.block("Z"):
                vi = T.axis.spatial(8, i)
                Z[vi] = B[vi] * 3.0
        for i in range(5):
            with T.block("Y"):
                vi = T.axis.spatial(5, i)
                Y[vi] = D[vi // 2] + X[vi]

    return f


def test_reverse_compute_inline_refuses_shared_and_folded_reads() -> None:
    sch = scheduled(shared_producer())
    refuses(sch, "inline-consumer", lambda: sch.reverse_compute_inline("Z"), names="used elsewhere")
    refuses(sch, "inline-invert", lambda: sch.reverse_compute_inline("Y"), names="vi // 2")


def shorter_loop() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi] + 1.0
        for i in range(5):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[vi] * 2.0

    return f


def test_reverse_compute_inline_refuses_to_write_more() -> None:
    sch = scheduled(shorter_loop())
    refuses(sch, "inline-domain", lambda: sch.reverse_compute_inline("Y"), names="block Y")
