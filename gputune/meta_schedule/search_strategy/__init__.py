"""Which candidates are measured next? Strategies."""

from __future__ import annotations

from .evolutionary import EvolutionarySearch
from .exhaustive import Exhaustive
from .replay import ReplayFunc, ReplayTrace
from .search_strategy import SearchStrategy

PySearchStrategy = SearchStrategy
"""MetaSchedule's name of the class to inherit from."""

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
