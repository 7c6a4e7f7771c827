"""Which mutators are there, and which does a kind of target get, how often?"""

from __future__ import annotations

from collections.abc import Mapping

from ..derived import left_open
from .mutate_compute_location import MutateComputeLocation
from .mutate_parallel import MutateParallel
from .mutate_thread_binding import MutateThreadBinding
from .mutate_tile_size import MutateTileSize
from .mutate_unroll import MutateUnroll
from .mutator import Mutator


@left_open
class PyMutator(Mutator):
    """MetaSchedule's class to inherit from: a method left out is missed when it is called."""


LLVM: tuple[tuple[Mutator, float], ...] = (
    (MutateTileSize(), 0.9),
    (MutateComputeLocation(), 0.05),
    (MutateUnroll(), 0.03),
    (MutateParallel(max_jobs_per_core=16), 0.02),
)
"""What a CPU gets."""

CUDA: tuple[tuple[Mutator, float], ...] = (
    (MutateTileSize(), 0.9),
    (MutateUnroll(), 0.08),
    (MutateThreadBinding(), 0.02),
)
"""What a GPU gets."""

DEFAULTS: Mapping[str, tuple[tuple[Mutator, float], ...]] = {"llvm": LLVM, "cuda": CUDA}

__all__ = [
    "CUDA",
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
