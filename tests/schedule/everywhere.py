"""Does a schedule mean the same wherever it is run, written and replayed?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gputune.ir.equal import structural_equal
from gputune.ir.nodes import Block, IntImm, IRModule, PrimFunc
from gputune.ir.walk import stmt_exprs, walk_expr, walk_stmt
from gputune.runtime.module import build
from gputune.schedule import Dim, Schedule
from gputune.schedule.dim import Evaluator, recording
from gputune.script import from_source
from tests.properties.moves import inputs, results

from .schedule_helpers import keeps


def same_everywhere(func: PrimFunc, do: Callable[[Schedule], Any]) -> Schedule:
    """`keeps`, and what LLVM makes of it computes the same, and its text reads back."""
    sch = keeps(func, do)
    arrays = inputs(func, 3)
    build(sch.mod, "llvm --num-cores=2")[func.name](*arrays)
    for want, got in zip(results(func, 3), arrays, strict=True):
        assert np.array_equal(want, got, equal_nan=True), f"LLVM differs\n{sch.mod.script()}"
    parsed = from_source(sch.mod.script())
    assert isinstance(parsed, IRModule)
    assert structural_equal(parsed, sch.mod)
    return sch


def _skeleton(mod: IRModule) -> tuple[str, list[int]]:
    """A program's text without its numbers, and its numbers."""
    numbers: list[int] = []
    for f in mod.functions.values():
        for x in walk_stmt(f.body):
            shapes = [n for b in x.alloc_buffers for n in b.shape] if type(x) is Block else []
            for e in (*stmt_exprs(x), *shapes):
                numbers += [y.value for y in walk_expr(e) if type(y) is IntImm]
    return re.sub(r"\d+", "#", mod.script()), numbers


def one_replay_is_all(
    func: PrimFunc, do: Callable[[Schedule], Any], rows: Sequence[Sequence[int]]
) -> int:
    """A replay with sampled sizes as Dims gives the program of every row of decisions for which its
    guards hold; `do` samples once. Returns into how many classes the rows fall. (No factor is 1,
    which plain numbers leave out of products.)"""
    sch = Schedule(func, seed=1)
    do(sch)
    table = {f"v{n}": np.array([r[n] for r in rows]) for n in range(len(rows[0]))}

    def replayed(row: Sequence[int], dims: bool) -> IRModule:
        again = Schedule(func, seed=1)
        decision = [Dim(x, f"v{n}") for n, x in enumerate(row)] if dims else list(row)
        sch.trace.apply_to_schedule(again, decision_provider=lambda *_: decision)
        return again.mod

    left, classes = np.ones(len(rows), bool), 0
    while left.any():
        first = int(np.flatnonzero(left)[0])
        with recording() as guards:
            text, numbers = _skeleton(replayed(rows[first], True))
            evaluator = Evaluator(table)
            mask = evaluator.holds(guards, left)
            assert mask[first]
            assert any(type(n) is Dim for n in numbers)
            values = [np.broadcast_to(evaluator(n), len(rows)) for n in numbers]
        for r in np.flatnonzero(mask):
            expected, plain = _skeleton(replayed(rows[r], False))
            assert text == expected
            assert [int(v[r]) for v in values] == [int(n) for n in plain]
        left &= ~mask
        classes += 1
    return classes
