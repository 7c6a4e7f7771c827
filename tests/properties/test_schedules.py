"""Do random legal schedules keep the meaning of their programs? 2,000 of them here; `ci/properties`
runs as many as you like."""

from __future__ import annotations

import random
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.errors import ScheduleError
from gputune.ir.nodes import IRModule
from gputune.meta_schedule.population import Sketch
from gputune.schedule import Schedule, Trace
from gputune.schedule.primitive import KINDS

from .law import Watched, check_matrix, check_schedule
from .moves import step
from .programs import PROGRAMS, reshape_sum

EXAMPLES = -(-2000 // len(PROGRAMS))


@pytest.mark.parametrize("which", range(len(PROGRAMS)), ids=[p.__name__ for p in PROGRAMS])
def test_random_schedules_keep_the_meaning(which: int) -> None:
    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None)
    @given(st.integers(0, 2**31 - 1))
    def law(seed: int) -> None:
        check_schedule(which, seed)

    law()


def test_every_primitive_is_among_the_moves() -> None:
    wanted = {k.method for k in KINDS.values() if k.fn.__module__.startswith("gputune.")}
    seen: set[str] = set()
    rng = random.Random(7)
    for n in range(6000):
        sch = Watched(PROGRAMS[n % len(PROGRAMS)](), seed=n + 1, error_render_level="none")
        for _ in range(4):
            with suppress(ScheduleError):
                step(sch, rng)
        seen = {name for name, count in Watched.accepted.items() if count}
        if wanted <= seen:
            break
    assert wanted <= seen


UNPROVED = """
b12 = sch.get_block(name="R", func_name="f")
sch.annotate_buffer_access(block=b12, buffer_index=0, buf_type="read", gen_new_ranges=lambda i0: (i0, i0 + 1,))
b13 = sch.get_block(name="Y", func_name="f")
b14 = sch.reindex_cache_read(block=b13, read_buffer_index=0, storage_scope="shared", index_map=lambda i0, i1: (i0 * 4 + i1,))
l16, l17 = sch.get_loops(block=b13)
v18, v19 = sch.sample_perfect_tile(loop=l17, n=2, max_innermost_factor=64, decision=[1, 4])
l20, l21 = sch.split(loop=l17, factors=[v18, v19], preserve_unit_iters=True)
l25, = sch.get_loops(block=b12)
v26, v27, v28 = sch.sample_tile(loop=l25, n=3, max_innermost_factor=16, decision=[2, 1, 12])
l29, l30, l31 = sch.split(loop=l25, factors=[v26, v27, v28], preserve_unit_iters=True, disable_predication=True)
b36 = sch.blockize(target=l31, preserve_unit_iters=False)
v38 = sch.sample_categorical(candidates=[4, 2], probs=[0.5, 0.5], decision=1)
sch.transform_layout(block=b36, buffer=("write", 0), index_map=lambda i0, i1: (i0, i1 // v38, i1 % v38,), pad_value=None, assume_injective_transform=True)
"""  # noqa: E501


UNSIMPLIFIED = """
b17 = sch.get_block(name="R", func_name="f")
v18 = sch.sample_categorical(candidates=[8, 6], probs=[0.5, 0.5], decision=1)
sch.transform_block_layout(block=b17, index_map=lambda i0: (i0 % v18, i0 // v18,))
"""


@pytest.mark.parametrize("seed", [2011006673, 2101007738, *range(10)])
@pytest.mark.parametrize("trace", [UNPROVED, UNSIMPLIFIED])
def test_what_cannot_be_proved_of_symbols_is_replayed_with_numbers(trace: str, seed: int) -> None:
    """Named for faults: transform_layout of a blockized region is refused where tiles are symbols,
    for numbers it is legal; an index is simpler for 8 than for 6. No row of such a class was
    replayed, or only such as were like the first."""
    func = reshape_sum()
    sch = Schedule(func, error_render_level="none")
    Trace.from_python(trace).apply_to_schedule(sch)
    check_matrix(func, sch.trace, seed)


FUSED = """
b0 = sch.get_block(name="Y", func_name="f")
l1, l2 = sch.get_loops(block=b0)
v3, v4, v5 = sch.sample_perfect_tile(loop=l2, n=3, max_innermost_factor=64, decision=[4, 1, 1])
l6, l7, l8 = sch.split(loop=l2, factors=[v3, v4, v5], preserve_unit_iters=True)
"""


@pytest.mark.parametrize("order", ["l1, l6, l7", "l6, l7, l1", "l6, l1"])
def test_a_fused_loop_of_one_reduction_step_reduces_nothing(order: str) -> None:
    """Named for a fault: of symbols, a loop fused with reduction loops of one iteration was taken
    for one that reduces."""
    func = reshape_sum()
    sch = Schedule(func, error_render_level="none")
    swap = "" if order.startswith("l1") else f"sch.reorder({order})\n"
    fuse = f"l9 = sch.fuse({order}, preserve_unit_iters=True)\n"
    Trace.from_python(FUSED + swap + fuse).apply_to_schedule(sch)
    for seed in range(8):
        check_matrix(func, sch.trace, seed)
    sketch = Sketch(IRModule.from_expr(func), sch.trace, ())
    rows = np.array([[4, 1, 1], [1, 2, 2], [1, 1, 4], [2, 1, 2], [4, 1, 1]])
    found = sketch.evaluate(rows)
    by_replay = Sketch(IRModule.from_expr(func), sch.trace, (), by_replay=True).evaluate(rows)
    assert np.array_equal(found.features, by_replay.features)
    assert not sketch.fallbacks
