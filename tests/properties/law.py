"""What must hold for every random schedule? For the test, and for long runs by hand."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import numpy as np

from gputune.default_gpu_schedule import default_gpu_schedule
from gputune.errors import BuildError, LowerError, RunError, ScheduleError
from gputune.ir.equal import structural_equal
from gputune.ir.interp import run
from gputune.ir.nodes import For, IRModule, PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.meta_schedule.population import Sketch, Unsupported
from gputune.runtime.module import build
from gputune.schedule import Schedule, Trace
from gputune.schedule.primitive import InstructionKind
from gputune.script import from_source
from gputune.target import Target

from .moves import inputs, results, step
from .on_the_host import REFUSALS, check_on_the_host
from .programs import PROGRAMS

_INPUTS = 16  # different inputs of a program: their results are kept
_ROWS = 6  # of a matrix of decisions
MATRICES: Counter[str] = Counter()
"""How the matrices were evaluated, for those who run the law by hand."""
_GPU = Target("cuda -arch=sm_80")


class Watched(Schedule):
    """A schedule of which every primitive that refuses, inside another one or not, must leave no
    mark; how often each one was accepted and refused is counted."""

    accepted: ClassVar[Counter[str]] = Counter()
    refused: ClassVar[Counter[str]] = Counter()

    def run(self, kind: InstructionKind, values: dict[str, Any]) -> Any:
        mod, known, rng = self.mod, dict(self._values), self.rng.getstate()
        insts, decisions = list(self.trace.insts), dict(self.trace.decisions)
        refusal: ScheduleError | None = None
        try:
            out = super().run(kind, values)
        except ScheduleError as e:
            refusal = e
        counts = self.accepted if refusal is None else self.refused
        counts[kind.method] += 1
        if refusal is None:
            return out
        assert refusal.code, f"a refusal without a code: {refusal}"
        assert self.mod is mod
        assert self.trace.insts == insts
        assert self.trace.decisions == decisions
        assert self._values == known
        assert self.rng.getstate() == rng
        raise refusal


@cache
def _program(which: int) -> PrimFunc:
    return PROGRAMS[which]()


@cache
def _results(which: int, seed: int) -> list[np.ndarray]:
    return results(_program(which), seed)


def random_schedule(
    func: PrimFunc, seed: int, after: Callable[[Schedule], None] = lambda sch: None
) -> Schedule:
    """A schedule after 3 to 14 tries; `after` is called with it whenever the program has changed,
    and what refuses must leave everything as it was and say why in a code."""
    rng = random.Random(seed)
    sch = Watched(func, seed=seed % 2**31, debug_mask="all", error_render_level="none")
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
        elif sch.mod is not before:
            after(sch)
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


def check_matrix(func: PrimFunc, trace: Trace, seed: int) -> None:
    """A matrix of decisions says of each row what plain replay says of it, features included."""
    if not trace.decisions:
        return
    try:
        sketch = Sketch(IRModule.from_expr(func), trace, ())
    except Unsupported:
        MATRICES["unsupported"] += 1
        return
    by_replay = Sketch(IRModule.from_expr(func), trace, (), by_replay=True)
    own = sketch.row_of(sketch.trace)
    assert own is not None
    rows = np.concatenate([
        own[None], sketch.decisions.sample(_ROWS, np.random.default_rng(seed))
    ])  # fmt: skip
    found, want = sketch.evaluate(rows), by_replay.evaluate(rows)
    MATRICES["fell back" if sketch.fallbacks else "by classes"] += 1
    assert want.valid[0], f"the trace's own decisions are refused: {want.refusals}"
    assert np.array_equal(found.valid, want.valid), f"{rows}: {found.refusals}, {want.refusals}"
    assert np.array_equal(found.features, want.features), f"features of {rows}"
    assert np.array_equal(found.score, want.score)


def is_for_cpu(mod: IRModule) -> bool:
    """Does no loop bind to GPU threads?"""
    return not any(
        type(s) is For and s.thread is not None
        for f in mod.functions.values()
        for s in walk_stmt(f.body)
    )


def check_schedule(which: int, seed: int, llvm: bool = True, host: bool = True) -> Schedule:
    """Draw a schedule and check everything; AssertionError with the trace where the law breaks.

    Args:
        which: the number of the program.
        seed: of the schedule.
        llvm: compile the final program and run it, too.
        host: run a final program that binds threads as CUDA code on the processor, too.
    """
    which %= len(PROGRAMS)
    func, data = _program(which), seed % _INPUTS
    expected = _results(which, data)

    def where(sch: Schedule) -> str:
        return f"program {PROGRAMS[which].__name__}, seed {seed}:\n{sch.trace}"

    def interpret(sch: Schedule) -> None:
        arrays = inputs(func, data)
        try:
            run(sch.mod[func.name], *arrays)
        except RunError as e:
            raise AssertionError(f"{e}, {where(sch)}") from e
        for want, got in zip(expected, arrays, strict=True):
            assert np.array_equal(want, got, equal_nan=True), f"interpreter differs, {where(sch)}"

    sch = random_schedule(func, seed, interpret)
    try:
        check_round_trips(func, sch)
        check_matrix(func, sch.trace, seed)
        if is_for_cpu(sch.mod):
            if llvm:
                arrays = inputs(func, data)
                build(sch.mod, "llvm --num-cores=2")[func.name](*arrays)
                for want, got in zip(expected, arrays, strict=True):
                    assert np.allclose(want, got, rtol=1e-5, atol=1e-5, equal_nan=True), "LLVM"
        elif host:
            try:
                scheduled = default_gpu_schedule(sch.mod, _GPU).mod[func.name]
                check_on_the_host(func, scheduled, data)
            except (LowerError, BuildError) as e:
                if e.code not in REFUSALS and "has no code on CUDA" not in e.message:
                    raise  # what has none are the intrinsics for processors
    except Exception as e:
        raise AssertionError(f"{type(e).__name__}: {e}, {where(sch)}") from e
    return sch
