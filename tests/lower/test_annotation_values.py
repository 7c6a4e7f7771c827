"""Is a value that an annotation cannot have one clear error to primitives and lowering?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gputune.errors import LowerError, ScheduleError
from gputune.ir.known_annotations import KNOWN, listed
from gputune.ir.nodes import IntImm, PrimFunc
from gputune.lower.gpu import lower_gpu
from gputune.lower.limits import CpuLimits
from gputune.lower.pipeline import lower
from gputune.schedule import Schedule
from gputune.script import tir as T

BAD: dict[str, list[Any]] = {
    "pragma_auto_unroll_max_step": ["x", -1, 0.5, None],
    "pragma_unroll_explicit": ["yes", 2],
    "buffer_dim_align": [3, "abcd", [3], [[0, 0, 32]], [[0, 0, 0, 8]], [[0, 0, "x", 8]]],
    "auto_copy": ["x", 2, [1]],
    "load_hint": ["evict", 1, None, ["streaming"]],
    "store_hint": ["read_only", 1],
    "min_blocks_per_multiprocessor": [0, "x", 1.5],
    "software_pipeline_stage": [1, "x", ["a"], [0.5]],
    "software_pipeline_async_stages": [1, "x", ["a"], [0.5]],
    "shared_swizzle": ["x", 48, 0.5],
    "software_pipeline_order": [1, "x", ["a"]],
    "explicit_read_region": [3, "x", ["a"], [0.5]],
    "explicit_write_region": [3, "x"],
}
WRONG = [(k, v) for k, values in BAD.items() for v in values]


@T.prim_func
def double(A: T.Buffer((8, 8), "float32"), C: T.Buffer((8, 8), "float32")):
    B = T.alloc_buffer((8, 8), "float32")
    for i, j in T.grid(8, 8):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = A[vi, vj] + T.float32(1)
    for i, j in T.grid(8, 8):
        with T.block("C"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = B[vi, vj] * T.float32(2)


def noted(name: str, value: Any, on: str = "block") -> Schedule:
    sch = Schedule(double)
    block = sch.get_block("B")
    sch.annotate(block if on == "block" else sch.get_loops(block)[0], name, value)
    return sch


def test_all_that_lowering_reads_is_tried() -> None:
    read = {k for k, a in KNOWN.items() if a.reader in ("lowering", "regions")}
    assert read == set(BAD)


@pytest.mark.parametrize("on", ["block", "loop"])
@pytest.mark.parametrize(("name", "value"), WRONG)
def test_lowering_refuses_it(name: str, value: Any, on: str) -> None:
    """Named for bugs: pragma_auto_unroll_max_step="x" was a bare ValueError, buffer_dim_align=3 a
    TypeError."""
    (func,) = noted(name, value, on).mod.functions.values()
    assert isinstance(func, PrimFunc)
    at = "block B" if on == "block" else "loop i"
    for step in (lambda: lower(func, CpuLimits()), lambda: lower_gpu(func)):
        with pytest.raises(LowerError, match=f"the annotation '{name}' of {at}: expected ") as e:
            step()
        assert e.value.code == "annotation-value"
        assert e.value.hint


@pytest.mark.parametrize(
    ("name", "value", "step"),
    [
        ("buffer_dim_align", 3, lambda s, b: s.storage_align(b, 0, -1, 32, 8)),
        ("buffer_dim_align", [[0, 0, 32]], lambda s, b: s.storage_align(b, 0, -1, 32, 8)),
        ("buffer_dim_align", "x", lambda s, b: s.unsafe_hide_buffer_access(b, "write", [0])),
        ("buffer_dim_align", 3, lambda s, b: s.reindex(b, ("write", 0))),
        ("explicit_read_region", "x", lambda s, b: s.unsafe_hide_buffer_access(b, "read", [0])),
        ("explicit_write_region", 3, lambda s, b: s.unsafe_hide_buffer_access(b, "write", [0])),
        (
            "explicit_read_region", ["x"],
            lambda s, b: s.annotate_buffer_access(b, 0, "read", lambda i, j: (i, i + 1, j, j + 1)),
        ),
        ("explicit_read_region", "x", lambda s, b: s.blockize(s.get_loops(b)[1])),
    ],
)  # fmt: skip
def test_a_primitive_that_reads_it_refuses_it(
    name: str, value: Any, step: Callable[[Schedule, Any], Any]
) -> None:
    """Each was a bare TypeError."""
    sch = noted(name, value)
    block = sch.get_block("B")
    before = sch.mod.script()
    with pytest.raises(ScheduleError, match=f"'{name}' of .*: expected ") as e:
        step(sch, block)
    assert e.value.code == "annotation-value"
    assert e.value.hint
    assert before == sch.mod.script()


def test_an_alignment_of_a_buffer_that_is_not_written_changes_nothing() -> None:
    """Named for a bug: an IndexError."""
    sch = noted("buffer_dim_align", [[7, 0, 32, 8]])
    block = sch.get_block("B")
    sch.transform_layout(block, "B", lambda i, j: (j, i))
    sch.storage_align(block, 0, 0, 16, 4)
    assert dict(sch.get(block).annotations)["buffer_dim_align"] == ((7, 0, 32, 8), (0, 0, 16, 4))
    sch.unannotate(block, "buffer_dim_align")
    sch.annotate(block, "buffer_dim_align", [[7, 0, 32, 8]])
    sch.unsafe_hide_buffer_access(block, "write", [0])
    assert dict(sch.get(block).annotations)["buffer_dim_align"] == ()


def test_lists_come_without_nodes() -> None:
    notes = (("buffer_dim_align", [[IntImm(0), 1, IntImm(32), 8]]), ("explicit_read_region", ()))
    assert listed(notes, "buffer_dim_align", "x") == ((0, 1, 32, 8),)
    assert listed(notes, "explicit_read_region", "x") == ()
    assert listed(notes, "explicit_write_region", "x") == ()
