"""Which schedule rules are there, and which does a kind of target get?"""

from __future__ import annotations

from collections.abc import Mapping

from .add_rfactor import AddRFactor
from .apply_custom_rule import ApplyCustomRule, register_schedule_rule
from .auto_inline import AutoInline
from .inline_constant_scalars import InlineConstantScalars
from .multi_level_tiling import MultiLevelTiling, ReuseType
from .parallelize_vectorize_unroll import ParallelizeVectorizeUnroll
from .random_compute_location import RandomComputeLocation
from .rule import ScheduleRule

PyScheduleRule = ScheduleRule
"""MetaSchedule's name of the class to inherit from."""

LLVM: tuple[ScheduleRule, ...] = (
    ApplyCustomRule(),
    InlineConstantScalars(),
    AutoInline(
        into_producer=False,
        into_consumer=True,
        inline_const_tensor=True,
        disallow_if_then_else=True,
        require_injective=True,
        require_ordered=True,
        disallow_op=["exp"],
    ),
    AddRFactor(max_jobs_per_core=16, max_innermost_factor=64),
    MultiLevelTiling(
        structure="SSRSRS",
        max_innermost_factor=64,
        reuse_write=ReuseType(req="may", levels=[1, 2], scope="global"),
    ),
    ParallelizeVectorizeUnroll(
        max_jobs_per_core=16,
        max_vectorize_extent=64,
        unroll_max_steps=[0, 16, 64, 512],
        unroll_explicit=True,
    ),
    RandomComputeLocation(),
)
"""What a CPU gets, in the order of application. The lists with dot-product instructions join when
there is tensorize."""

DEFAULTS: Mapping[str, tuple[ScheduleRule, ...]] = {"llvm": LLVM}

__all__ = [
    "DEFAULTS",
    "LLVM",
    "AddRFactor",
    "ApplyCustomRule",
    "AutoInline",
    "InlineConstantScalars",
    "MultiLevelTiling",
    "ParallelizeVectorizeUnroll",
    "PyScheduleRule",
    "RandomComputeLocation",
    "ReuseType",
    "ScheduleRule",
    "register_schedule_rule",
]
