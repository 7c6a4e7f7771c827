"""What do MetaSchedule's features say of a scheduled program? A row of 164 numbers for each buffer
that is stored to.

A row has five groups: operations, loop kinds and axes (57); five buffers with 18 numbers each; the
arithmetic intensity on the way from the inner loops outwards (10); the allocation of the buffer
(4); the loops around the store (3). `feature_names` names every column. With `extract_workload`
there are 8 more: which operator the program is, by the names of its blocks.

The numbers are TVM 0.27's (`bench/per_store_feature.py` compares), oddities included, with these
exceptions. Index arithmetic is simplified by gputune: where tiles do not divide an extent, or
several divisions meet, integer operations are counted in another form, and what follows from the
form of an index (lines, stride) or from how tightly a temporary is cut (allocation) may differ. A
`let` counts where it is used; TVM has a scalar buffer for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import LowerError, UserError
from ...ir import dtypes, walk
from ...ir.build import const_int
from ...ir.nodes import IRModule
from ...lower.layout_preproc import as_measured
from .arithmetic import (
    AXES,
    KINDS,
    OPERATIONS,
    POSITIONS,
    axis_features,
    intensity_curve,
    loop_features,
    operations,
    product,
    slog2,
)
from .buffers import (
    ACCESS,
    REUSE,
    History,
    buffer_features,
    measure,
    set_reuse,
    set_strides,
    uses_of,
)
from .feature_extractor import FeatureExtractor
from .nests import Nests, Store, nests_of

if TYPE_CHECKING:
    from ..measure_candidate import MeasureCandidate
    from ..tune_context import TuneContext

Rows = npt.NDArray[np.float64]

WORKLOADS = (
    "softmax", "max_min", "add", "batch_matmul", "matmul", "depthwiseconv2d", "conv2d_winograd",
    "conv2d",
)  # fmt: skip


def feature_names(
    buffers_per_store: int = 5,
    arith_intensity_curve_num_samples: int = 10,
    extract_workload: bool = False,
) -> tuple[str, ...]:
    """The names of the columns, in their order.

    Example:
        >>> names = feature_names()
        >>> len(names), names[0], names[57], names[-1]
        (164, 'float_mad', 'B0.acc_type.kRead', 'auto_unroll_max_step')
    """
    out = list(OPERATIONS)
    for kind in KINDS:
        out += [f"{kind}_{what}" for what in ("num", "prod", "len")]
        out += [f"{kind}_type.{p}" for p in POSITIONS]
    out += ["is_gpu", *[f"{a.replace('.', '_')}_len" for a in AXES]]
    for k in range(buffers_per_store):
        out += [
            f"B{k}.{what}"
            for what in (
                *[f"acc_type.{a}" for a in ACCESS],
                *("bytes", "unique_bytes", "lines", "unique_lines"),
                *[f"reuse_type.{r}" for r in REUSE],
                *("reuse_dis_iter", "reuse_dis_bytes", "reuse_ct"),
                *("bytes_d_reuse_ct", "unique_bytes_d_reuse_ct"),
                *("lines_d_reuse_ct", "unique_lines_d_reuse_ct", "stride"),
            )
        ]
    out += [f"arith_intensity_curve_{k}" for k in range(arith_intensity_curve_num_samples)]
    out += ["alloc_size", "alloc_prod", "alloc_outer_prod", "alloc_inner_prod"]
    out += ["outer_prod", "num_loops", "auto_unroll_max_step"]
    if extract_workload:
        out += [f"workload.{w}" for w in WORKLOADS]
    return tuple(out)


class PerStoreFeature(FeatureExtractor):
    """MetaSchedule's features: for each candidate an array (stores, features) of float64.

    There is one row for each buffer that something is computed into (storing constants does not
    count), in the order of the first such store; of several stores to a buffer the last one tells.
    Amounts are slog2(x) = sign(x) * log2(|x| + 1), flags 0 or 1.

    Args:
        buffers_per_store: buffers that a row tells of; those that move most cache lines come first.
        arith_intensity_curve_num_samples: points of the curve of arithmetic intensity.
        cache_line_bytes: of the machine.
        extract_workload: 8 more columns that say which operator the program is.

    Raises:
        UserError: a count below 1.

    Example:
        >>> from gputune.meta_schedule import MeasureCandidate, TuneContext
        >>> from gputune import kernels
        >>> from gputune.schedule import Schedule
        >>> sch = Schedule(kernels.get("matmul").build(m=8, n=8, k=8))
        >>> context = TuneContext(sch.mod, target="llvm -num-cores 1")
        >>> [x.shape for x in PerStoreFeature().extract_from(context, [MeasureCandidate(sch, [])])]
        [(1, 164)]
    """

    def __init__(
        self,
        buffers_per_store: int = 5,
        arith_intensity_curve_num_samples: int = 10,
        cache_line_bytes: int = 64,
        extract_workload: bool = False,
    ) -> None:
        for name, n in (
            ("buffers_per_store", buffers_per_store),
            ("arith_intensity_curve_num_samples", arith_intensity_curve_num_samples),
            ("cache_line_bytes", cache_line_bytes),
        ):
            if n < 1:
                raise UserError(f"{name} is a count from 1, found {n}", code="feature-size")
        self.buffers_per_store = buffers_per_store
        self.arith_intensity_curve_num_samples = arith_intensity_curve_num_samples
        self.cache_line_bytes = cache_line_bytes
        self.extract_workload = extract_workload

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return feature_names(
            self.buffers_per_store, self.arith_intensity_curve_num_samples, self.extract_workload
        )

    @property
    def width(self) -> int:
        """How many columns?"""
        return len(self.feature_names)

    def extract_from(
        self, context: TuneContext, candidates: Sequence[MeasureCandidate]
    ) -> list[npt.NDArray[Any]]:
        """Arrays of shape (stores, features), float64. A program that cannot be lowered, and a CUDA
        kernel that is source already, have none that could be looked at: no rows."""
        is_gpu = context.target.kind == "cuda"
        workload = _workload(context.mod) if self.extract_workload else []
        return [self._rows(c.sch.mod, is_gpu, workload) for c in candidates]

    def _rows(self, mod: IRModule, is_gpu: bool, workload: list[float]) -> Rows:
        rows: list[list[float]] = []
        for func in as_measured(mod).functions.values():
            try:
                nests = nests_of(func)
            except LowerError:
                continue  # no builder takes it either, and says why
            rows += self._of_function(nests, is_gpu)
        out = np.empty((len(rows), self.width))
        for k, row in enumerate(rows):
            out[k] = row + workload
        return out

    def _of_function(self, nests: Nests, is_gpu: bool) -> list[list[float]]:
        history: History = {}
        found: dict[Any, list[float]] = {}
        for store in nests.stores:
            found[store.buffer] = self._of_store(store, nests, history, is_gpu)
        return list(found.values())

    def _of_store(self, store: Store, nests: Nests, history: History, is_gpu: bool) -> list[float]:
        counts = operations(store)
        uses = uses_of(store)
        touched = measure(store, uses, history)
        for use in uses:
            set_strides(use, store.loops)
            set_reuse(use, store.loops, uses, history)
        return [
            *map(slog2, counts),
            *loop_features(store),
            *axis_features(store, is_gpu),
            *buffer_features(store, uses, self.cache_line_bytes, self.buffers_per_store),
            *intensity_curve(store, touched, counts, self.arith_intensity_curve_num_samples),
            *_allocation(store, nests),
            *_around(store),
        ]


def _allocation(store: Store, nests: Nests) -> list[float]:
    """The size of the buffer in bytes; elements that are allocated in all; how often it is; how
    often the store runs in the life of one."""
    often = nests.allocated.get(store.buffer)
    if often is None:
        return [0.0] * 4
    numel = 1
    for n in store.buffer.shape:
        numel *= int(const_int(n) or 1)
    size = numel * dtypes.itemsize(store.buffer.dtype)
    return [slog2(x) for x in (size, numel * often, often, product(store.loops) / often)]


def _around(store: Store) -> list[float]:
    """How often the store runs, under how many loops, and what is to be unrolled."""
    steps = [f.unroll for f in store.loops if f.unroll > 0]
    return [
        slog2(product(store.loops)), slog2(len(store.loops)), slog2(steps[-1] if steps else 0)
    ]  # fmt: skip


def _workload(mod: IRModule) -> list[float]:
    """1 for each kind of operator that the blocks are named after."""
    out = [0.0] * len(WORKLOADS)
    for func in mod.functions.values():
        for block in walk.blocks(func.body):
            k = _kind_of_operator(block.name.lower())
            if k is not None:
                out[k] = 1.0
    return out


def _kind_of_operator(name: str) -> int | None:
    if "softmax" in name:
        return 0
    if "max" in name or "min" in name:
        return 1
    for word, k in (
        ("add", 2),
        ("batch_matmul", 3),
        ("matmul", 4),
        ("depthwiseconv2d", 5),
        ("conv2d_winograd", 6),
        ("conv2d", 7),
    ):
        if word in name:
            return k
    return None
