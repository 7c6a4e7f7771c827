"""What must hold for every random schedule? For the test, and for long runs by hand."""

from __future__ import annotations

import json
import random

import numpy as np

from gputune.errors import ScheduleError
from gputune.ir.equal import structural_equal
from gputune.ir.interp import run
from gputune.ir.nodes import For, IRModule, PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.runtime.module import build
from gputune.schedule import Schedule, Trace
from gputune.script import from_source

from .moves import inputs, results, step
from .programs import PROGRAMS


def random_schedule(func: PrimFunc, seed: int) -> Schedule:
    """A schedule after 3 to 14 tries; the program is checked after each accepted one, and a refused
    one must leave it as it was and say why in a code."""
    rng = random.Random(seed)
    sch = Schedule(func, seed=seed % 2**31, debug_mask="all", error_render_level="none")
    for _ in range(rng.randint(3, 14)):
        before = sch.mod
        refusal: ScheduleError | None = None
        try:
            step(sch, rng)
        except ScheduleError as e:
            refusal = e
        if refusal is not None:
            assert refusal.code, f"a refusal without a code: {refusal}"
            assert sch.mod is before or structural_equal(sch.mod, before)
    return sch


def check_round_trips(func: PrimFunc, sch: Schedule) -> None:
    """The trace replays from text and from JSON, and the program from its script."""
    text = str(sch.trace)
    for trace in (
        Trace.from_python(text),
        Trace.from_json(sch.trace.as_json()),
        Trace.from_json(json.dumps(sch.trace.as_json())),
    ):
        again = Schedule(func, seed=5, error_render_level="none")
        trace.apply_to_schedule(again)
        assert str(again.trace) == text
        assert structural_equal(again.mod, sch.mod)
    parsed = from_source(sch.mod.script())
    assert isinstance(parsed, IRModule)
    assert structural_equal(parsed, sch.mod)


def is_for_cpu(mod: IRModule) -> bool:
    """Does no loop bind to GPU threads?"""
    return not any(
        type(s) is For and s.thread is not None
        for f in mod.functions.values()
        for s in walk_stmt(f.body)
    )


def check_schedule(which: int, seed: int, llvm: bool = True) -> Schedule:
    """Draw a schedule and check everything; AssertionError with the trace where the law breaks."""
    func = PROGRAMS[which % len(PROGRAMS)]()
    sch = random_schedule(func, seed)
    where = f"program {PROGRAMS[which % len(PROGRAMS)].__name__}, seed {seed}:\n{sch.trace}"
    expected = results(func, seed)
    scheduled = sch.mod[func.name]
    arrays = inputs(func, seed)
    run(scheduled, *arrays)
    for want, got in zip(expected, arrays, strict=True):
        assert np.array_equal(want, got, equal_nan=True), f"interpreter differs, {where}"
    check_round_trips(func, sch)
    if llvm and is_for_cpu(sch.mod):
        arrays = inputs(func, seed)
        build(sch.mod, "llvm --num-cores=2")[func.name](*arrays)
        for want, got in zip(expected, arrays, strict=True):
            assert np.allclose(want, got, rtol=1e-5, atol=1e-5, equal_nan=True), (
                f"LLVM differs, {where}"
            )
    return sch
