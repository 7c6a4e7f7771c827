"""Which postprocs are there, and which does a kind of target get?"""

from __future__ import annotations

from collections.abc import Mapping

from ..derived import left_open
from .disallow_async_strided_mem_copy import DisallowAsyncStridedMemCopy
from .disallow_dynamic_loop import DisallowDynamicLoop
from .postproc import Postproc, postprocess
from .rewrite_cooperative_fetch import RewriteCooperativeFetch
from .rewrite_layout import RewriteLayout
from .rewrite_parallel_vectorize_unroll import RewriteParallelVectorizeUnroll
from .rewrite_reduction_block import RewriteReductionBlock
from .rewrite_tensorize import RewriteTensorize
from .rewrite_unbound_block import RewriteUnboundBlock
from .verify_gpu_code import VerifyGPUCode
from .verify_vtcm_limit import VerifyVTCMLimit


@left_open
class PyPostproc(Postproc):
    """MetaSchedule's class to inherit from: a method left out is missed when it is called."""


LLVM: tuple[Postproc, ...] = (
    DisallowDynamicLoop(),
    RewriteParallelVectorizeUnroll(),
    RewriteReductionBlock(),
    RewriteLayout(),
)
"""What a CPU gets, in the order of application."""

X86 = (*LLVM[:-1], RewriteTensorize(vectorize_init_loop=True), RewriteLayout())
"""What a CPU with dot-product instructions gets."""

CUDA: tuple[Postproc, ...] = (
    DisallowDynamicLoop(),
    RewriteCooperativeFetch(),
    RewriteUnboundBlock(max_threadblocks=256),
    RewriteParallelVectorizeUnroll(),
    RewriteReductionBlock(),
    VerifyGPUCode(),
)
"""What a GPU gets, in the order of application."""

CUDA_TENSORCORE = (*CUDA, RewriteTensorize(vectorize_init_loop=False))
"""What a GPU with tensor cores gets."""

HEXAGON = (*LLVM, VerifyVTCMLimit())
"""What a Hexagon gets."""

DEFAULTS: Mapping[str, tuple[Postproc, ...]] = {
    "llvm": LLVM,
    "vnni": X86,
    "avxvnni": X86,
    "avx512": X86,
    "dotprod": X86,
    "asimd": X86,
    "cuda": CUDA,
    "cuda-tensorcore": CUDA_TENSORCORE,
    "hexagon": HEXAGON,
}

__all__ = [
    "CUDA",
    "CUDA_TENSORCORE",
    "DEFAULTS",
    "HEXAGON",
    "LLVM",
    "X86",
    "DisallowAsyncStridedMemCopy",
    "DisallowDynamicLoop",
    "Postproc",
    "PyPostproc",
    "RewriteCooperativeFetch",
    "RewriteLayout",
    "RewriteParallelVectorizeUnroll",
    "RewriteReductionBlock",
    "RewriteTensorize",
    "RewriteUnboundBlock",
    "VerifyGPUCode",
    "VerifyVTCMLimit",
    "postprocess",
]
