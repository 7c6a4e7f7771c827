"""Which schedule rules are there, and which does a kind of target get?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ir.ops import MMA_KINDS
from ..derived import left_open
from .add_rfactor import AddRFactor
from .apply_custom_rule import ApplyCustomRule, register_schedule_rule
from .auto_bind import AutoBind
from .auto_inline import AutoInline
from .column_reduction import ColumnReduction
from .cross_lane_reduction import CrossLaneReduction
from .cross_thread_reduction import CrossThreadReduction
from .fuse_rows import FuseRows
from .inline_constant_scalars import InlineConstantScalars
from .multi_level_tiling import MultiLevelTiling, ReuseType
from .multi_level_tiling_packed import MultiLevelTilingPacked
from .multi_level_tiling_tensor_core import MultiLevelTilingTensorCore
from .multi_level_tiling_wide_vector import MultiLevelTilingWideVector
from .multi_level_tiling_with_intrin import MultiLevelTilingWithIntrin
from .parallelize_vectorize_unroll import ParallelizeVectorizeUnroll
from .persistent_rows import PersistentRows
from .random_compute_location import RandomComputeLocation
from .rule import ScheduleRule
from .split_sums import SplitSums
from .transposed_operand import TransposedOperand
from .transposing_copy import TransposingCopy
from .transposing_tile import TransposingTile
from .two_level_reduction import TwoLevelReduction
from .wide_elements import WideElements


@left_open
class PyScheduleRule(ScheduleRule):
    """MetaSchedule's class to inherit from: a method left out is missed when it is called."""


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
    FuseRows(max_innermost_factor=64),
    CrossLaneReduction(),
    AddRFactor(max_jobs_per_core=16, max_innermost_factor=64, must_divide=None),
    ColumnReduction(max_innermost_factor=64, must_divide=None),
    TransposedOperand(),
    TransposingCopy(max_innermost_factor=64, must_divide=None),
    MultiLevelTiling(
        structure="SSRSRS",
        max_innermost_factor=64,
        reuse_write=ReuseType(req="may", levels=[1, 2], scope="global"),
        must_divide=None,
    ),
    ParallelizeVectorizeUnroll(
        max_jobs_per_core=16,
        max_vectorize_extent=64,
        unroll_max_steps=[0, 16, 64, 512],
        unroll_explicit=True,
    ),
    RandomComputeLocation(),
)
"""What a CPU gets, in the order of application."""


_SUMS: Mapping[str, str] = {
    "dot_16x4_vnni": "sum_16x4_vnni",
    "dot_16x4_avx512": "sum_16x4_avx512",
    "dot_8x4_avxvnni": "sum_8x4_avxvnni",
}
"""What sums the operand that such a dot product takes as signed bytes."""


def _with_intrinsics(*names: str) -> tuple[ScheduleRule, ...]:
    """What a CPU gets, with tilings for these intrinsics as further candidates. (The rule of one
    that the processor does not have does nothing.)"""
    at = next(k for k, rule in enumerate(LLVM) if isinstance(rule, MultiLevelTiling))
    more = [
        MultiLevelTilingPacked(
            name,
            structure="SSRSRS",
            max_innermost_factor=64,
            max_sum_factor=1024,  # steps of a few products each
            reuse_write=ReuseType(req="may", levels=[1, 2], scope="global"),
            sum_intrin=_SUMS.get(name),
        )
        for name in names
    ]
    return (*LLVM[:at], *more, *LLVM[at:])


VNNI = _with_intrinsics("dot_16x4_vnni", "dot_16x2_avx512bf16")
AVXVNNI = _with_intrinsics("dot_8x4_avxvnni", "dot_8x4_avxvnniint8")
AVX512 = _with_intrinsics("dot_16x4_avx512", "dot_16x4_i8i8_avx512", "dot_16x2_avx512bf16")


def _aarch64(*names: str) -> tuple[ScheduleRule, ...]:
    """What an aarch64 processor gets: smaller tiles, and tilings for these intrinsics."""
    return (
        *LLVM[:3],
        FuseRows(max_innermost_factor=32),
        CrossLaneReduction(),
        AddRFactor(max_jobs_per_core=8, max_innermost_factor=32, must_divide=None),
        *[
            MultiLevelTilingPacked(
                name,
                structure="SSRSRS",
                max_innermost_factor=32,
                reuse_write=ReuseType(req="may", levels=[1, 2], scope="global"),
            )
            for name in names
        ],
        ColumnReduction(max_innermost_factor=32, must_divide=None),
        TransposedOperand(),
        TransposingCopy(max_innermost_factor=32, must_divide=None),
        MultiLevelTiling(
            structure="SSRSRS",
            max_innermost_factor=32,
            reuse_write=ReuseType(req="may", levels=[1, 2], scope="global"),
            must_divide=None,
        ),
        ParallelizeVectorizeUnroll(
            max_jobs_per_core=8,
            max_vectorize_extent=32,
            unroll_max_steps=[0, 8, 32, 256],
            unroll_explicit=True,
        ),
        RandomComputeLocation(),
    )


DOTPROD = _aarch64("dot_4x4_i8i8s32_sdot", "dot_4x4_u8u8u32_udot", "dot_4x4_u8u8i32_hdot")
ASIMD = _aarch64("dot_4x4_i8i8s32_neon")

_TILES: Mapping[str, Any] = {
    "structure": "SSSRRSRS",
    "tile_binds": ["blockIdx.x", "vthread.x", "threadIdx.x"],
    "max_innermost_factor": 64,
    "vector_load_lens": [1, 2, 3, 4, 8, 16],
    "reuse_read": ReuseType(req="must", levels=[4], scope="shared"),
    "reuse_write": ReuseType(req="must", levels=[3], scope="local"),
    "must_divide": None,
    "ahead": [0, 1],
    "layouts": True,
}
"""How products are tiled on a GPU."""

CUDA: tuple[ScheduleRule, ...] = (
    ApplyCustomRule(),
    SplitSums(**_TILES),
    MultiLevelTiling(**_TILES),
    PersistentRows(),
    InlineConstantScalars(),
    AutoInline(
        into_producer=True,
        into_consumer=True,
        inline_const_tensor=True,
        disallow_if_then_else=False,
        require_injective=False,
        require_ordered=False,
        disallow_op=None,
    ),
    TwoLevelReduction(),
    TransposingTile(),
    CrossThreadReduction(thread_extents=[4, 8, 16, 32, 64, 128, 256, 512]),
    ParallelizeVectorizeUnroll(
        max_jobs_per_core=-1,
        max_vectorize_extent=-1,
        unroll_max_steps=[0, 16, 32, 64, 128, 256, 512, 1024],
        unroll_explicit=True,
    ),
    WideElements(),
    AutoBind(max_threadblocks=256, thread_extents=[32, 64, 128, 256, 512, 1024]),
)
"""What a GPU gets, in the order of application."""


def _wmma(operands: str, sums: str, transposed: bool) -> dict[str, str]:
    """The intrinsics of a product of 16 x 16 tiles, such as of "f16" into "f32"."""
    trans = "_trans" if transposed else ""
    head = "16x16x16"
    return {
        "init": f"wmma_fill_{head}_{sums}",
        "load_a": f"wmma_load_{head}_{operands}_a_shared_dyn",
        "load_b": f"wmma_load_{head}_{operands}_b{trans}_shared_dyn",
        "compute": f"wmma_sync_{head}_{operands}{operands}{sums}{trans}",
        "store": f"wmma_store_{head}_{sums}_shared_dyn",
    }


def _mma(operands: str, sums: str, transposed: bool) -> dict[str, str]:
    """The intrinsics of mma.sync, such as of "bf16" into "f32"."""
    trans, order = ("_trans", "_trans_b") if transposed else ("", "")
    return {
        "init": f"mma_fill_16x16_{sums}",
        "load_a": f"mma_ldmatrix_{operands}_a_dyn",
        "load_b": f"mma_ldmatrix_{operands}_b{trans}_dyn",
        "compute": f"mma_{operands}{operands}{sums}{order}",
        "store": f"mma_store_16x16_{sums}_shared_dyn",
    }


MMA_GROUPS: tuple[dict[str, str], ...] = tuple([
    _mma(operands, sums, transposed)
    for operands, sums in MMA_KINDS
    if operands != "tf32"  # fewer digits than float32 is no rule's to choose
    for transposed in (False, True)
])  # fmt: skip
"""Groups of intrinsics for MultiLevelTilingTensorCore that compute with mma.sync: its products of
float16, bfloat16, int8 and uint8 (sm_80 and later)."""

CUDA_TENSORCORE: tuple[ScheduleRule, ...] = (
    CUDA[0],
    MultiLevelTilingTensorCore(
        intrin_groups=[
            _wmma(operands, sums, transposed)
            for operands, sums in (("f16", "f32"), ("f16", "f16"), ("s8", "s32"))
            for transposed in (False, True)
        ],
        structure="SSSRRSRS",
        tile_binds=["blockIdx.y", "blockIdx.x", "threadIdx.y"],
        max_innermost_factor=4,
        vector_load_lens=[1, 2, 3, 4, 8, 16],
        reuse_read=ReuseType(req="must", levels=[4], scope="shared.dyn"),
        reuse_write=ReuseType(req="must", levels=[2], scope="shared.dyn"),
        use_software_pipeline=False,
    ),
    *CUDA[1:],
)
"""What a GPU with tensor cores gets. (Pipelined sketches of the mma m16n8k8 instructions are not
among them yet.)"""

HEXAGON: tuple[ScheduleRule, ...] = (
    *LLVM[:3],
    MultiLevelTilingWideVector(
        structure="SRSRS",
        vector_length_in_bits=1024,
        max_innermost_factor=128,
        reuse_write=ReuseType(req="may", levels=[1, 2], scope="global"),
    ),
    ParallelizeVectorizeUnroll(
        max_jobs_per_core=16,
        max_vectorize_extent=128,
        unroll_max_steps=[0, 16, 64, 512],
        unroll_explicit=True,
    ),
)
"""What a Hexagon gets."""

DEFAULTS: Mapping[str, tuple[ScheduleRule, ...]] = {
    "llvm": LLVM,
    "vnni": VNNI,
    "avxvnni": AVXVNNI,
    "avx512": AVX512,
    "dotprod": DOTPROD,
    "asimd": ASIMD,
    "cuda": CUDA,
    "cuda-tensorcore": CUDA_TENSORCORE,
    "hexagon": HEXAGON,
}

__all__ = [
    "ASIMD",
    "AVX512",
    "AVXVNNI",
    "CUDA",
    "CUDA_TENSORCORE",
    "DEFAULTS",
    "DOTPROD",
    "HEXAGON",
    "LLVM",
    "MMA_GROUPS",
    "VNNI",
    "AddRFactor",
    "ApplyCustomRule",
    "AutoBind",
    "AutoInline",
    "ColumnReduction",
    "CrossLaneReduction",
    "CrossThreadReduction",
    "FuseRows",
    "InlineConstantScalars",
    "MultiLevelTiling",
    "MultiLevelTilingPacked",
    "MultiLevelTilingTensorCore",
    "MultiLevelTilingWideVector",
    "MultiLevelTilingWithIntrin",
    "ParallelizeVectorizeUnroll",
    "PersistentRows",
    "PyScheduleRule",
    "RandomComputeLocation",
    "ReuseType",
    "ScheduleRule",
    "SplitSums",
    "TransposedOperand",
    "TransposingCopy",
    "TransposingTile",
    "TwoLevelReduction",
    "WideElements",
    "register_schedule_rule",
]
