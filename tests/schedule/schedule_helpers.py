"""What do the schedule tests check again and again?"""

from __future__ import annotations

import json
from collections.abc import Callable
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from gputune.errors import ScheduleError
from gputune.ir.equal import structural_equal
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.schedule import LoopRV, Schedule, Trace
from tests.properties.moves import inputs, results


def scheduled(func: Any, **options: Any) -> Schedule:
    """A schedule that checks the program after every primitive."""
    return Schedule(func, seed=1, debug_mask="all", **options)


def loops(sch: Schedule, block: str) -> list[LoopRV]:
    return sch.get_loops(sch.get_block(block))


def body(sch: Schedule) -> str:
    """The printed program without the lines that all programs share."""
    lines = sch.mod.script().splitlines()
    start = next(k for k, line in enumerate(lines) if "# with T.block" in line)
    return dedent("\n".join(lines[start + 1 :])).strip()


def prints(sch: Schedule, expected: str) -> None:
    """The golden comparison."""
    assert body(sch) == dedent(expected).strip()


def refuses(sch: Schedule, code: str, call: Callable[[], Any], *, names: str = "") -> ScheduleError:
    """The call is refused with the code and a message that names the thing, and leaves no mark on
    program, trace and later sampling."""
    mod, trace, count = sch.mod, str(sch.trace), len(sch.trace.insts)
    known, state = dict(sch._values), sch.rng.getstate()
    with pytest.raises(ScheduleError) as caught:
        call()
    e = caught.value
    assert e.code == code, f"{e.code}: {e}"
    assert names in e.message, e.message
    assert e.message == e.message.strip()
    assert e.hint or sch.error_render_level == "none", f"{e.message}: what would work?"
    assert sch.mod is mod
    assert len(sch.trace.insts) == count
    assert str(sch.trace) == trace
    assert sch._values == known
    assert sch.rng.getstate() == state
    return e


def keeps(func: PrimFunc, do: Callable[[Schedule], Any], seeds: int = 2) -> Schedule:
    """The schedule computes what the program computes, and its trace replays from text and JSON."""
    sch = scheduled(func)
    do(sch)
    for seed in range(seeds):
        arrays = inputs(func, seed)
        run(sch.mod[func.name], *arrays)
        for want, got in zip(results(func, seed), arrays, strict=True):
            assert np.array_equal(want, got, equal_nan=True), f"\n{sch.mod.script()}\n{sch.trace}"
    replays(func, sch)
    return sch


def replays(func: Any, sch: Schedule) -> None:
    text = str(sch.trace)
    for trace in (Trace.from_python(text), Trace.from_json(json.dumps(sch.trace.as_json()))):
        again = Schedule(func, seed=2)
        trace.apply_to_schedule(again)
        assert str(again.trace) == text
        assert structural_equal(again.mod, sch.mod)
