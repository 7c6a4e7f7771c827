"""Which postprocs are there, and which does a kind of target get?"""

from __future__ import annotations

from collections.abc import Mapping

from .disallow_dynamic_loop import DisallowDynamicLoop
from .postproc import Postproc, postprocess
from .rewrite_parallel_vectorize_unroll import RewriteParallelVectorizeUnroll
from .rewrite_reduction_block import RewriteReductionBlock

PyPostproc = Postproc
"""MetaSchedule's name of the class to inherit from."""

LLVM: tuple[Postproc, ...] = (
    DisallowDynamicLoop(),
    RewriteParallelVectorizeUnroll(),
    RewriteReductionBlock(),
)
"""What a CPU gets, in the order of application. MetaSchedule's list ends with RewriteLayout, which
packs constant weights; it joins when there is transform_layout."""

DEFAULTS: Mapping[str, tuple[Postproc, ...]] = {"llvm": LLVM}

__all__ = [
    "DEFAULTS",
    "LLVM",
    "DisallowDynamicLoop",
    "Postproc",
    "PyPostproc",
    "RewriteParallelVectorizeUnroll",
    "RewriteReductionBlock",
    "postprocess",
]
