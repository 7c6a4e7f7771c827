"""Which candidates are measured next? Strategies."""

from __future__ import annotations

from ..derived import left_open
from .evolutionary import EvolutionarySearch
from .exhaustive import Exhaustive
from .replay import ReplayFunc, ReplayTrace
from .search_strategy import SearchStrategy


@left_open
class PySearchStrategy(SearchStrategy):
    """MetaSchedule's class to inherit from: a method left out is missed when it is called."""


create = SearchStrategy.create

__all__ = [
    "EvolutionarySearch",
    "Exhaustive",
    "PySearchStrategy",
    "ReplayFunc",
    "ReplayTrace",
    "SearchStrategy",
    "create",
]
