"""Do random legal GPU schedules keep the meaning of their programs, with no race, in any order of
threads? Either a schedule is refused with a code and a message, or its code is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.errors import BuildError, LowerError
from gputune.ir.nodes import PrimFunc

from .gpu_moves import random_gpu_schedule, tiled
from .on_the_host import REFUSALS, check_on_the_host
from .programs import PROGRAMS, conv2d_padded, matmul, max_pool, reshape_sum, strided_conv1d

TILED = {matmul: "C", conv2d_padded: "O", max_pool: "Y", reshape_sum: "Y", strided_conv1d: "Y"}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_random_gpu_schedules_keep_the_meaning(program: Callable[[], PrimFunc]) -> None:
    counts = {"run": 0, "refused": 0}

    @settings(max_examples=16, derandomize=True, deadline=None, database=None)
    @given(st.integers(0, 2**31 - 1))
    def law(seed: int) -> None:
        func = program()
        try:
            check_on_the_host(func, random_gpu_schedule(func, seed), seed)
            counts["run"] += 1
        except (LowerError, BuildError) as e:
            if e.code not in REFUSALS:
                raise
            counts["refused"] += 1

    law()
    assert counts["run"] >= 4, counts  # of 16: random loops bound to blocks are often refused


@pytest.mark.parametrize("program", TILED, ids=lambda p: p.__name__)
def test_the_usual_tiling_is_never_refused(program: Callable[[], PrimFunc]) -> None:
    @settings(max_examples=6, derandomize=True, deadline=None, database=None)
    @given(st.integers(0, 2**31 - 1))
    def law(seed: int) -> None:
        func = program()
        check_on_the_host(func, tiled(func, TILED[program], seed), seed)

    law()
