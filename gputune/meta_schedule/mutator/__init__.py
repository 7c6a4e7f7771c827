"""Which mutators are there, and which does a kind of target get, how often?"""

from __future__ import annotations

from collections.abc import Mapping

from .mutate_compute_location import MutateComputeLocation
from .mutate_parallel import MutateParallel
from .mutate_thread_binding import MutateThreadBinding
from .mutate_tile_size import MutateTileSize
from .mutate_unroll import MutateUnroll
from .mutator import Mutator

PyMutator = Mutator
"""MetaSchedule's name of the class to inherit from."""

LLVM: tuple[tuple[Mutator, float], ...] = (
    (MutateTileSize(), 0.9),
    (MutateComputeLocation(), 0.05),
    (MutateUnroll(), 0.03),
    (MutateParallel(max_jobs_per_core=16), 0.02),
)
"""What a CPU gets."""

DEFAULTS: Mapping[str, tuple[tuple[Mutator, float], ...]] = {"llvm": LLVM}

__all__ = [
    "DEFAULTS",
    "LLVM",
    "MutateComputeLocation",
    "MutateParallel",
    "MutateThreadBinding",
    "MutateTileSize",
    "MutateUnroll",
    "Mutator",
    "PyMutator",
]
