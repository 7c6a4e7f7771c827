"""What do all tests have at hand, and what do the doctests of the primitives find?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from gputune.schedule.demo import demo_schedule


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["demo_schedule"] = demo_schedule


@pytest.fixture
def calls_of() -> Callable[[Callable[[], object]], int]:
    """How many functions does something call, Python's and built-in ones? What takes few steps is
    proved by this count, which is the same on every machine, and never by a time."""

    def count(do: Callable[[], object]) -> int:
        calls = 0

        def note(frame: object, event: str, arg: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            do()
        finally:
            sys.setprofile(before)
        return calls

    return count
