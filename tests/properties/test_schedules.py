"""Do random legal schedules keep the meaning of their programs? 2,000 of them here; `ci/properties`
runs as many as you like."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.errors import ScheduleError
from gputune.schedule.primitive import KINDS

from .law import Watched, check_schedule
from .moves import step
from .programs import PROGRAMS

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
