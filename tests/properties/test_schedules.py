"""Do random legal schedules keep the meaning of their programs? 2,000 of them here; `ci/properties`
runs as many as you like."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .law import check_schedule
from .programs import PROGRAMS

EXAMPLES = -(-2000 // len(PROGRAMS))


@pytest.mark.parametrize("which", range(len(PROGRAMS)), ids=[p.__name__ for p in PROGRAMS])
def test_random_schedules_keep_the_meaning(which: int) -> None:
    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None)
    @given(st.integers(0, 2**31 - 1))
    def law(seed: int) -> None:
        check_schedule(which, seed)

    law()
