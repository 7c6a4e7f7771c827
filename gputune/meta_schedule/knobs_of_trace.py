"""What can be turned a little in a finished schedule? The knobs of a trace, and its neighbours.

Knobs are the tile factors that were sampled, the categories that were drawn, and the numbers noted
for postprocessing: how much is parallel, how wide vectors are, how far loops are unrolled, how many
threads there may be. What is legal is found by replaying: a knob may propose what no schedule
accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..schedule import Instruction, Trace
from ..schedule.handles import LoopRV
from ..schedule.schedule import Schedule
from ..schedule.trace import Decision
from .analysis import (
    PARALLEL,
    THREAD_EXTENT_HIGH,
    THREAD_EXTENT_LOW,
    UNROLL_EXPLICIT,
    UNROLL_IMPLICIT,
    VECTORIZE,
)

_NOTES = (
    PARALLEL, VECTORIZE, UNROLL_EXPLICIT, UNROLL_IMPLICIT, THREAD_EXTENT_LOW, THREAD_EXTENT_HIGH,
)  # fmt: skip
_UNROLL_STEPS = (0, 16, 64, 512)
_TILES = ("SamplePerfectTile", "SamplePartitionedTile")
_COVERING = "SampleTile"
WIDEST = 2
"""The longest stride of a neighbour."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A trace that differs from another by one turn of one knob.

    Attributes:
        knob: number of the instruction that differs.
        label: what was turned, in words.
        trace: instructions up to `enter_postproc`, with the new value.
    """

    knob: int
    label: str
    trace: Trace


def open_part(trace: Trace) -> tuple[Trace, bool]:
    """What precedes `enter_postproc`, and whether that comes."""
    for k, inst in enumerate(trace.insts):
        if inst.kind.name == "EnterPostproc":
            kept = trace.insts[:k]
            return Trace(kept, {i: d for i, d in trace.decisions.items() if i in set(kept)}), True
    return trace.copy(), False


def neighbours(trace: Trace, stride: int, extents: dict[Instruction, int]) -> list[Neighbour]:
    """All traces one turn away.

    Args:
        trace: the open part.
        stride: 1 for the nearest ones; 2 for turns twice as long.
        extents: of the loops that are tiled; see `extents_of`.
    """
    out: list[Neighbour] = []
    for k, inst in enumerate(trace.insts):
        name, decision = inst.kind.name, trace.decisions.get(inst)
        if name in _TILES and decision is not None:
            for new in _moved(list(map(int, decision)), stride):
                out.append(_decided(trace, k, inst, decision, new))
        elif name == _COVERING and decision is not None and inst in extents:
            for new in _scaled(list(map(int, decision)), stride, extents[inst]):
                out.append(_decided(trace, k, inst, decision, new))
        elif name == "SampleCategorical" and decision is not None:
            for index in _near(int(decision), len(inst.attrs[0]), stride):
                out.append(_decided(trace, k, inst, decision, index))
        elif name == "Annotate" and inst.attrs[0] in _NOTES and type(inst.inputs[1]) is int:
            for value in _noted(inst.attrs[0], inst.inputs[1], stride):
                out.append(_annotated(trace, k, inst, value))
    return out


def extents_of(trace: Trace, sch: Schedule) -> dict[Instruction, int]:
    """The extents of the loops that a trace tiles.

    Args:
        trace: what is replayed.
        sch: a fresh schedule of the program; it is used up.

    Raises:
        ScheduleError: the trace does not apply.
    """
    found: dict[Instruction, int] = {}

    def look(inst: Instruction, inputs: list[Any], attrs: list[Any], old: Decision) -> Decision:
        if inst.kind.name == _COVERING and isinstance(inputs[0], LoopRV):
            extent = getattr(sch.get(inputs[0]).extent, "value", None)
            if extent is not None:
                found[inst] = int(extent)
        return old

    trace.apply_to_schedule(sch, decision_provider=look)
    return found


# ----------------------------------------------------------------------------- turning
def _moved(factors: list[int], stride: int) -> list[list[int]]:
    """A prime (or its square) moved from one factor to the next, or, for the long stride, also to
    one further away."""
    out: dict[tuple[int, ...], None] = {}
    for i, f in enumerate(factors):
        for p in _primes(f):
            for j in range(len(factors)):
                far = abs(i - j)
                if far == 0 or far > stride:
                    continue
                piece = p if far > 1 or stride == 1 else p**stride
                if f % piece == 0:
                    new = list(factors)
                    new[i], new[j] = new[i] // piece, new[j] * piece
                    out[tuple(new)] = None
    return [list(x) for x in out]


def _scaled(factors: list[int], stride: int, extent: int) -> list[list[int]]:
    """One inner factor changed; the first covers what remains."""
    out: dict[tuple[int, ...], None] = {}
    for i in range(1, len(factors)):
        f = factors[i]
        steps = (2 * f, f // 2, f + 1, f - 1) if stride == 1 else (4 * f, f // 4, f + 2, f - 2)
        for value in steps:
            if value < 1:
                continue
            new = [1, *factors[1:i], value, *factors[i + 1 :]]
            inner = 1
            for x in new:
                inner *= x
            new[0] = -(-extent // inner)
            out[tuple(new)] = None
    out.pop(tuple(factors), None)
    return [list(x) for x in out]


def _near(index: int, count: int, stride: int) -> list[int]:
    """Other categories: the next ones, or, for the long stride, all others."""
    if stride > 1:
        return [k for k in range(count) if abs(k - index) > 1]
    return [k for k in (index + 1, index - 1) if 0 <= k < count]


def _noted(key: str, value: int, stride: int) -> list[int]:
    """Other values of a note: twice and half, or the next step of unrolling."""
    if key in (UNROLL_EXPLICIT, UNROLL_IMPLICIT) and value in _UNROLL_STEPS:
        near = _near(_UNROLL_STEPS.index(value), len(_UNROLL_STEPS), stride)
        return [_UNROLL_STEPS[k] for k in near]
    by = 2**stride
    return [v for v in (value * by, value // by) if v >= 1 and v != value]


def _primes(n: int) -> list[int]:
    """The different primes in n."""
    out, p = [], 2
    while p * p <= n:
        if n % p == 0:
            out.append(p)
            while n % p == 0:
                n //= p
        p += 1
    return [*out, n] if n > 1 else out


# ----------------------------------------------------------------------------- new traces
def _decided(trace: Trace, k: int, inst: Instruction, old: Decision, new: Decision) -> Neighbour:
    label = f"{inst.kind.method} #{k}: {_shown(old)} -> {_shown(new)}"
    return Neighbour(k, label, trace.with_decision(inst, new))


def _annotated(trace: Trace, k: int, inst: Instruction, value: int) -> Neighbour:
    new = Instruction(inst.kind, [inst.inputs[0], value], inst.attrs, inst.outputs, inst.is_list)
    insts: Sequence[Instruction] = [new if i is inst else i for i in trace.insts]
    label = f"{inst.attrs[0]} #{k}: {inst.inputs[1]} -> {value}"
    return Neighbour(k, label, Trace(insts, trace.decisions))


def _shown(decision: Decision) -> str:
    return str([int(x) for x in decision] if isinstance(decision, list | tuple) else int(decision))
