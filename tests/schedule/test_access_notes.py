"""annotate_buffer_access, unsafe_hide_buffer_access."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from gputune.errors import RunError
from gputune.ir.interp import run
from gputune.ir.nodes import Block, PrimFunc
from gputune.ir.regions import access_regions
from gputune.ir.walk import walk_stmt
from gputune.schedule import Schedule, Trace
from gputune.script import tir as T
from tests.properties.programs import matmul

from . import schedule_programs as programs
from .everywhere import one_replay_is_all, same_everywhere
from .schedule_helpers import loops, prints, refuses, scheduled


def resize() -> PrimFunc:
    """Each place reads what a table says, near to it."""

    @T.prim_func
    def f(X: T.Buffer((24,), "float32"), I: T.Buffer((8,), "int32"), Y: T.Buffer((8,), "float32")):  # noqa: E741
        B = T.alloc_buffer((24,))
        C = T.alloc_buffer((8,), "int32")
        for i in range(24):
            with T.block("B"):
                vi = T.axis.spatial(24, i)
                B[vi] = X[vi] * 2.0
        for i in range(8):
            with T.block("C"):
                vi = T.axis.spatial(8, i)
                C[vi] = I[vi] + 4
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[C[vi] + vi * 2]

    return f


def near(s: Schedule) -> None:
    """What is true of the inputs of these tests, which are from -4 to 4."""
    s.annotate_buffer_access("Y", "B", "read", lambda i: ((i * 2, i * 2 + 9),))


def test_a_stated_region_is_what_others_go_by() -> None:
    def do(s: Schedule) -> None:
        near(s)
        s.compute_at("B", loops(s, "Y")[0])

    sch = same_everywhere(resize(), do)
    prints(
        sch,
        """
        B = T.alloc_buffer((24,))
        C = T.alloc_buffer((8,), "int32")
        for i in range(8):
            with T.block("C"):
                vi = T.axis.spatial(8, i)
                T.reads(I_[vi])
                T.writes(C[vi])
                C[vi] = I_[vi] + 4
        for i in range(8):
            for ax0 in range(9):
                with T.block("B"):
                    vi = T.axis.spatial(24, i * 2 + ax0)
                    T.reads(X[vi])
                    T.writes(B[vi])
                    B[vi] = X[vi] * T.float32(2)
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                T.reads(B[vi * 2:vi * 2 + 9], C[vi])
                T.writes(Y[vi])
                T.block_attr({"explicit_read_region": (0,)})
                Y[vi] = B[C[vi] + vi * 2]
    """,
    )
    without = scheduled(resize())
    without.compute_at("B", loops(without, "Y")[0])
    assert "C[i] + i * 2" in without.mod.script()  # the one place, which has no plain bound


def test_finding_regions_anew_keeps_what_was_stated() -> None:
    def do(s: Schedule) -> None:
        near(s)
        s.compute_inline("C")

    sch = same_everywhere(resize(), do)
    b = sch.get(sch.get_block("Y"))
    (at,) = dict(b.annotations)["explicit_read_region"]
    assert b.reads[at].buffer.name == "B"
    assert str(b.reads[at].region[0].extent) == "9"
    assert [str(r.region[0].extent) for r in access_regions(b)[0] if r.buffer.name == "B"] == ["9"]


def test_other_accesses_end_what_was_stated() -> None:
    def do(s: Schedule) -> None:
        s.annotate_buffer_access("Y", "X", "read", lambda i: ((i, i + 1),))
        s.compute_inline("B")

    @T.prim_func
    def f(X: T.Buffer((9,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi + 1]
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[vi] + X[vi]

    sch = same_everywhere(f, do)
    b = sch.get(sch.get_block("Y"))
    assert b.annotations == ()
    assert [str(g.extent) for g in b.reads[0].region] == ["2"]


def test_decompose_reduction_keeps_what_was_stated() -> None:
    def do(s: Schedule) -> None:
        s.annotate_buffer_access("C", "B", "read", lambda i, j, k: ((0, 8), (j, j + 1)))
        s.decompose_reduction("C", loops(s, "C")[2])

    sch = same_everywhere(matmul(), do)
    b = sch.get(sch.get_block("C_update"))
    (at,) = dict(b.annotations)["explicit_read_region"]
    assert (b.reads[at].buffer.name, str(b.reads[at].region[0].extent)) == ("B", "8")


@pytest.mark.parametrize("ranges", [
    lambda i: ((i, i + 3),), lambda i: [(i - 1, i + 4)], lambda i: ((0, 10),),
    lambda *v: ((v[0], v[0] + 3),), lambda i: (i, i + 3), lambda i: ((i // 2 * 2 - 1, i + 3),),
])  # fmt: skip
def test_wider_regions_of_reads_are_fine(ranges: Any) -> None:
    same_everywhere(programs.halo(), lambda s: s.annotate_buffer_access("Y", 0, "read", ranges))


def test_the_trace_holds_a_map() -> None:
    sch = scheduled(programs.halo())
    sch.annotate_buffer_access("Y", 0, "read", lambda i: ((i - 1, i + 4),))
    assert sch.trace.as_json()[0][-1] == [
        "AnnotateBufferAccess",
        ["b0", 0, 0, "lambda i: (i - 1, i + 4,)"],
        [],
        [],
    ]
    sch.unsafe_hide_buffer_access("Y", "read", [0])
    assert sch.trace.as_json()[0][-1][0:3] == [
        "UnsafeHideBufferAccess",
        ["b1", '"read"', [0]],
        [],
    ]
    again = Schedule(programs.halo(), seed=1)
    Trace.from_python(str(sch.trace)).apply_to_schedule(again)
    assert again.mod.script() == sch.mod.script()


def test_sampled_values_in_a_region() -> None:
    def do(s: Schedule) -> None:
        v = s.sample_perfect_tile(loops(s, "Y")[0], 2, 64, decision=[2, 4])
        s.annotate_buffer_access("Y", 0, "read", lambda i: ((i - v[0], i + v[1] + 1),))

    assert one_replay_is_all(programs.halo(), do, [[2, 4], [4, 2]]) == 1

    def narrow(s: Schedule) -> None:
        v = s.sample_perfect_tile(loops(s, "Y")[0], 2, 64, decision=[4, 2])
        s.annotate_buffer_access("Y", 0, "read", lambda i: ((i, i + v[1]),))

    sch = scheduled(programs.halo())
    i = loops(sch, "Y")[0]
    v = sch.sample_perfect_tile(i, 2, 64, decision=[4, 2])
    refuses(
        sch,
        "access-region",
        lambda: sch.annotate_buffer_access("Y", 0, "read", lambda i: ((i, i + v[1]),)),
        names="B[2] at vi = 0",
    )


# ----------------------------------------------------------------------------- what is not true
def test_a_region_that_is_not_true_is_refused_with_an_iteration() -> None:
    sch = scheduled(programs.halo())

    def say(block: str, kind: str, ranges: Any) -> Any:
        return partial(sch.annotate_buffer_access, block, 0, kind, ranges)

    e = refuses(sch, "access-region", say("Y", "read", lambda i: i), names="reads B[1] at vi = 0")
    assert "B[vi:vi + 3]" in e.hint
    refuses(sch, "access-region", say("Y", "read", lambda i: ((0, 9),)), names="B[9] at vi = 7")
    refuses(sch, "access-region", say("Y", "read", lambda i: ((i + 1, 12),)), names="B[0] at vi")
    refuses(sch, "access-region", say("Y", "write", lambda i: (i + 1,)), names="writes Y[0]")
    e = refuses(
        sch, "access-region", say("Y", "write", lambda i: ((0, 8),)), names="does not write"
    )
    assert "in full" in e.hint
    trusting = scheduled(programs.halo(), enable_check=False)
    trusting.annotate_buffer_access("Y", 0, "read", lambda i: i)
    with pytest.raises(RunError, match="outside the regions"):
        run(trusting.mod, np.zeros(12, "float32"), np.zeros(8, "float32"), check_regions=True)


def test_guards_inner_loops_blocks_and_views_are_looked_at() -> None:
    @T.prim_func
    def f(X: T.Buffer((8, 8), "float32"), Y: T.Buffer((8, 8), "float32")):
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                T.reads(X[0:8, 0:8])
                T.writes(Y[vi, 0:8])
                V = T.match_buffer(Y[vi, 0:8], (8,), offset_factor=1)
                for j in range(8):
                    with T.block("in"):
                        vj = T.axis.spatial(8, j)
                        T.reads(X[0:8, 0:8])
                        T.writes(V[vj])
                        if vj > 0:
                            V[vj] = T.if_then_else(vi >= 1, X[vi - 1, vj - 1], 0.0)
                        else:
                            V[vj] = 1.0

    def say(s: Schedule, kind: str, ranges: Any) -> None:
        s.annotate_buffer_access("Y", 0, kind, ranges)

    same_everywhere(f, lambda s: say(s, "read", lambda i: ((i - 1, i), (0, 7))))
    sch = scheduled(f)
    refuses(
        sch,
        "access-region",
        lambda: say(sch, "read", lambda i: ((i - 1, i), (0, 6))),
        names="X[0, 6] at vi = 1",
    )
    refuses(
        sch,
        "access-region",
        lambda: say(sch, "read", lambda i: ((i, i + 1), (0, 7))),
        names="X[0, 0] at vi = 1",
    )
    refuses(sch, "access-region", lambda: say(sch, "write", lambda i: (i, (0, 7))), names="Y[0, 7]")
    say(sch, "write", lambda i: (i, (0, 8)))


def test_arguments_are_refused() -> None:
    sch = scheduled(programs.halo())
    b = sch.get_block("Y")

    def say(*args: Any) -> Any:
        return partial(sch.annotate_buffer_access, b, *args)

    refuses(sch, "buffer-access", say(0, "both", lambda i: i), names="'both'")
    refuses(sch, "buffer-index", say(3, "read", lambda i: i), names="3")
    refuses(sch, "buffer-index", say("Q", "read", lambda i: i), names="'Q'")
    refuses(sch, "argument", say(0, "read", 3), names="gen_new_ranges")
    e = refuses(sch, "access-ranges", say(0, "read", lambda i: (i, i, i)), names="got 3 items")
    assert "lambda vi" in e.hint
    refuses(sch, "access-ranges", say(0, "read", lambda i: ((i, i, i),)), names="pair")
    refuses(sch, "access-ranges", say(0, "read", lambda i, j: i), names="2 indices")
    refuses(sch, "access-ranges", say(0, "read", lambda i: ((i, i),)), names="holds no index")
    refuses(sch, "access-ranges", say(0, "read", lambda i: ((i, "x"),)), names="arithmetic")
    with pytest.raises(TypeError):
        sch.annotate_buffer_access(b, 0, "read")  # type: ignore[call-arg]  # wrong on purpose


# ----------------------------------------------------------------------------- hiding
def test_hidden_accesses_happen_all_the_same() -> None:
    sch = same_everywhere(programs.halo(), lambda s: s.unsafe_hide_buffer_access("Y", "read", [0]))
    prints(
        sch,
        """
        B = T.alloc_buffer((10,))
        for i in range(10):
            with T.block("B"):
                vi = T.axis.spatial(10, i)
                T.reads(X[vi:vi + 3])
                T.writes(B[vi])
                B[vi] = X[vi] + X[vi + 1] * T.float32(2) + X[vi + 2]
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                T.reads()
                T.writes(Y[vi])
                T.block_attr({"hidden_buffer_access": ("read",)})
                Y[vi] = B[vi] - B[vi + 1] + B[vi + 2]
    """,
    )
    assert sch.get_producers("Y") == []
    run(sch.mod, np.zeros(12, "float32"), np.zeros(8, "float32"), check_regions=True)


def test_hiding_both_and_some() -> None:
    def do(s: Schedule) -> None:
        s.annotate_buffer_access("C", 1, "read", lambda i, j, k: (k, (0, 4)))
        s.unsafe_hide_buffer_access("C", "read", [0])
        s.unsafe_hide_buffer_access("C", "write", [0])

    sch = same_everywhere(matmul(), do)
    b = sch.get(sch.get_block("C"))
    assert [r.buffer.name for r in b.reads] == ["B"]
    assert dict(b.annotations) == {
        "explicit_read_region": (0,),
        "hidden_buffer_access": ("read", "write"),
    }
    shapes = [(6, 8), (8, 4), (6, 4)]
    run(sch.mod, *[np.zeros(n, "float32") for n in shapes], check_regions=True)


def test_alignment_stays_with_its_buffer() -> None:
    sch = scheduled(programs.arg_max())
    sch.storage_align("A", 1, 0, 8, 1)
    refuses(
        sch,
        "hide-align",
        lambda: sch.unsafe_hide_buffer_access("A", "write", [1]),
        names="storage_align",
    )
    first = sch.get(sch.get_block("A")).writes[1].buffer
    sch.unsafe_hide_buffer_access("A", "write", [0])
    b = sch.get(sch.get_block("A"))
    assert dict(b.annotations)["buffer_dim_align"] == ((0, 0, 8, 1),)
    assert b.writes[0].buffer is first


def test_what_was_not_hidden_is_still_checked() -> None:
    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                T.reads()
                T.writes(Y[0])
                T.block_attr({"hidden_buffer_access": ("read",)})
                Y[vi] = X[vi]

    with pytest.raises(RunError, match="written outside"):
        run(f, np.zeros(8, "float32"), np.zeros(8, "float32"), check_regions=True)


def test_hiding_refuses() -> None:
    sch = scheduled(programs.halo())
    b = sch.get_block("Y")
    hide = sch.unsafe_hide_buffer_access
    e = refuses(sch, "buffer-index", lambda: hide(b, "read", [1]), names="holds 1")
    assert "0 B" in e.hint
    refuses(sch, "buffer-index", lambda: hide(b, "write", [0, -1]), names="-1")
    refuses(sch, "buffer-access", lambda: hide(b, "all", [0]), names="'all'")
    refuses(sch, "argument", lambda: hide(b, "read", 0), names="buf_index_array")  # type: ignore[arg-type]  # wrong on purpose
    refuses(sch, "buffer-index", lambda: hide("root", "read", [0]), names="0 read(s)")
    mod = sch.mod
    hide(b, "read", [])
    assert sch.mod is mod


# ----------------------------------------------------------------------------- after other steps
def _rfactored(s: Schedule) -> None:
    s.annotate_buffer_access("C", "B", "read", lambda i, j, k: ((0, 8), (j, j + 1)))
    s.annotate_buffer_access("C", "C", "write", lambda i, j, k: (i, j))
    s.rfactor(s.split(loops(s, "C")[2], [None, 3])[1], 0)


def _blockized(s: Schedule) -> None:
    s.annotate_buffer_access("C", "B", "read", lambda i, j, k: ((0, 8), (j, j + 1)))
    s.blockize(loops(s, "C")[1])


def _decomposed(s: Schedule) -> None:
    s.annotate_buffer_access("C", "B", "read", lambda i, j, k: ((0, 8), (j, j + 1)))
    s.annotate_buffer_access("C", "C", "write", lambda i, j, k: (i, j))
    s.decompose_reduction("C", loops(s, "C")[2])


@pytest.mark.parametrize("do", [_rfactored, _blockized, _decomposed])
def test_notes_name_the_regions_that_were_stated(do: Callable[[Schedule], None]) -> None:
    """Named for a bug: rfactor, blockize, decompose_padding and the init of decompose_reduction
    kept the positions of regions that had gone, or stood elsewhere."""
    sch = same_everywhere(matmul(), do)
    _check_notes(sch, {"explicit_read_region": "B", "explicit_write_region": "C"})


def _check_notes(sch: Schedule, stated: dict[str, str]) -> None:
    for f in sch.mod.functions.values():
        for b in walk_stmt(f.body):
            if type(b) is not Block:
                continue
            for key, name in stated.items():
                regions = b.reads if "read" in key else b.writes
                for k in dict(b.annotations).get(key, ()):
                    assert k < len(regions), (b.name, key)
                    assert regions[k].buffer.name == name, (b.name, key)


def test_notes_of_padding_end_with_it() -> None:
    @T.prim_func
    def f(X: T.Buffer((5,), "float32"), Y: T.Buffer((9,), "float32")):
        for i in range(9):
            with T.block("Y"):
                vi = T.axis.spatial(9, i)
                Y[vi] = T.if_then_else(vi >= 2 and vi < 7, X[vi - 2], 0.0)

    def do(s: Schedule) -> None:
        s.annotate_buffer_access("Y", "X", "read", lambda i: ((0, 5),))
        s.decompose_padding("Y", loops(s, "Y")[0])

    sch = same_everywhere(f, do)
    b = sch.get(sch.get_block("Y"))
    assert dict(b.annotations) == {}
    assert str(b.reads[0].region[0].min) == "vi"
