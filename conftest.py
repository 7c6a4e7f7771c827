"""What do the doctests of the schedule primitives find in their namespace?"""

from __future__ import annotations

from typing import Any

import pytest

from gputune.schedule.demo import demo_schedule


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["demo_schedule"] = demo_schedule
