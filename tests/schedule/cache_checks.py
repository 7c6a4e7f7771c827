"""What do the tests of the caching primitives check of each schedule, on every way to run it?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.runtime.module import build
from gputune.schedule import Schedule
from tests.properties.law import check_round_trips
from tests.properties.moves import inputs, results

from .schedule_helpers import scheduled


def same_everywhere(func: PrimFunc, do: Callable[[Schedule], Any]) -> Schedule:
    """The schedule computes what the program computes, in the interpreter (which looks at declared
    regions too) and compiled; its trace and its program are read back from text and JSON."""
    sch = scheduled(func)
    do(sch)
    want = results(func, 3)
    checked = inputs(func, 3)
    run(sch.mod[func.name], *checked, check_regions=True)
    compiled = inputs(func, 3)
    build(sch.mod, "llvm --num-cores=1")[func.name](*compiled)
    for a, b, c in zip(want, checked, compiled, strict=True):
        assert np.array_equal(a, b, equal_nan=True), f"\n{sch.mod.script()}\n{sch.trace}"
        assert np.allclose(a, c, rtol=1e-5, atol=1e-5, equal_nan=True), sch.mod.script()
    check_round_trips(func, sch)
    return sch
