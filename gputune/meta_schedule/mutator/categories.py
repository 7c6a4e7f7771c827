"""Which sampled categories of a trace may change, and into what?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from ...schedule import Instruction, Trace


def sampled_for(trace: Trace, wanted: Callable[[Instruction], bool]) -> list[Instruction]:
    """The `sample_categorical` instructions, with a decision and more than one candidate, whose
    value is an input of an instruction that is `wanted`; in the order of the trace."""
    makers: dict[object, Instruction] = {}
    used: dict[Instruction, None] = {}
    for inst in trace.insts:
        if inst.kind.name == "SampleCategorical":
            if inst in trace.decisions and len(inst.attrs[0]) > 1:
                makers[inst.outputs[0]] = inst
        elif inst.kind.name == "EnterPostproc":
            break
        elif wanted(inst):
            for x in _leaves(inst.inputs):
                if x in makers:
                    used[makers[x]] = None
    return list(used)


def _leaves(x: object) -> Iterator[object]:
    """What is in lists, in any depth."""
    if isinstance(x, list | tuple):
        for y in x:
            yield from _leaves(y)
    elif not isinstance(x, dict | set):
        yield x


def resampled(rng: random.Random, trace: Trace, inst: Instruction) -> Trace:
    """The trace with another category drawn, by the probabilities of the instruction."""
    now = int(trace.decisions[inst])
    others = [k for k in range(len(inst.attrs[0])) if k != now]
    weights = [float(inst.attrs[1][k]) for k in others]
    if not sum(weights) > 0:
        weights = [1.0] * len(others)
    return trace.with_decision(inst, rng.choices(others, weights)[0], remove_postproc=True)
