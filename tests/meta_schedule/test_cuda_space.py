"""The default space of CUDA targets: sketches, what random candidates of them compute on the
processor, and that thousands of them are looked at at once."""

from __future__ import annotations

import itertools
import math
import shutil
from typing import Any

import numpy as np
import pytest

import gputune as gt
import gputune.meta_schedule as ms
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.ir import dtypes
from gputune.ir.nodes import Alloc, Buffer, IRModule, PrimFunc, Stmt
from gputune.ir.walk import walk_stmt
from gputune.kernels import KERNELS
from gputune.kernels.kernel import Shape
from gputune.lower.gpu import lower_gpu
from gputune.meta_schedule import mutator, postproc, schedule_rule
from gputune.meta_schedule.analysis import COOPERATIVE_FETCH
from gputune.meta_schedule.gpu_usage import kernels_of
from gputune.meta_schedule.population import Sketch
from gputune.schedule import Trace

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="no C++ compiler for host execution",
)
SM_80 = gt.Target("cuda -arch=sm_80")


def cuda_context(func: PrimFunc, arch: str = "sm_80", seed: int = 7) -> ms.TuneContext:
    """A context whose space generator is initialised."""
    return ms.TuneContext(
        func,
        target=gt.Target(f"cuda -arch={arch}"),
        rand_state=seed,
        space_generator=ms.space_generator.PostOrderApply(),
    )


def built(name: str, dtype: str = "float32", **shape: int) -> PrimFunc:
    return KERNELS[name].build(shape or None, dtype)


def sketches_of(func: PrimFunc, arch: str = "sm_80") -> list[Sketch]:
    """The sketches of a function, ready for matrices of decisions."""
    context = cuda_context(func, arch)
    assert context.space_generator is not None
    postprocs = context.space_generator.postprocs
    return [
        Sketch(IRModule({func.name: func}), s.trace, postprocs)  # type: ignore[arg-type]  # a list
        for s in context.generate_design_space()
    ]


def drawn(sketch: Sketch, count: int, seed: int = 1) -> Any:
    return sketch.decisions.sample(count, np.random.default_rng(seed))


def kinds(trace: Trace) -> list[str]:
    return [i.kind.name for i in trace.insts]


# ----------------------------------------------------------------------------- the lists
def test_the_rules_and_their_parameters() -> None:
    rules = ms.ScheduleRule.create("cuda")
    custom, split, tiling, rows, scalars, inline, two, turn, cross, pvu, wide, bind = rules
    assert isinstance(custom, schedule_rule.ApplyCustomRule)
    assert isinstance(split, schedule_rule.SplitSums)
    assert type(tiling) is schedule_rule.MultiLevelTiling
    for name in ("structure", "tile_binds", "reuse_read", "reuse_write", "ahead", "layouts"):
        assert getattr(split, name) == getattr(tiling, name)
    assert (tiling.ahead, tiling.layouts, tiling.must_divide) == ((0, 1), True, None)
    assert isinstance(turn, schedule_rule.TransposingTile)
    assert (tiling.structure, tiling.max_innermost_factor) == ("SSSRRSRS", 64)
    assert tiling.tile_binds == ("blockIdx.x", "vthread.x", "threadIdx.x")
    assert tiling.vector_load_lens == (1, 2, 3, 4, 8, 16)
    assert tiling.reuse_read == schedule_rule.ReuseType("must", [4], "shared")
    assert tiling.reuse_write == schedule_rule.ReuseType("must", [3], "local")
    assert isinstance(rows, schedule_rule.PersistentRows)
    assert rows.thread_extents == (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    assert rows.row_extents == (1, 2, 4, 8, 16, 32, 64, 128)
    assert isinstance(two, schedule_rule.TwoLevelReduction)
    assert two.part_counts == (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    assert isinstance(wide, schedule_rule.WideElements)
    assert wide.item_extents == (1, 2, 4, 8)
    assert isinstance(scalars, schedule_rule.InlineConstantScalars)
    assert isinstance(inline, schedule_rule.AutoInline)
    assert inline.into_producer
    assert inline.into_consumer
    assert inline.inline_const_tensor
    strict = (inline.disallow_if_then_else, inline.require_injective, inline.require_ordered)
    assert strict == (False, False, False)
    assert not inline.disallow_op
    assert isinstance(cross, schedule_rule.CrossThreadReduction)
    assert cross.thread_extents == (4, 8, 16, 32, 64, 128, 256, 512)
    assert isinstance(pvu, schedule_rule.ParallelizeVectorizeUnroll)
    assert (pvu.max_jobs_per_core, pvu.max_vectorize_extent, pvu.unroll_explicit) == (-1, -1, True)
    assert pvu.unroll_max_steps == [0, 16, 32, 64, 128, 256, 512, 1024]
    assert isinstance(bind, schedule_rule.AutoBind)
    assert bind.max_threadblocks == 256
    assert bind.thread_extents == (32, 64, 128, 256, 512, 1024)


def test_the_postprocs_and_mutators() -> None:
    found = ms.Postproc.create("cuda")
    assert [type(p) for p in found] == [
        postproc.DisallowDynamicLoop,
        postproc.RewriteCooperativeFetch,
        postproc.RewriteUnboundBlock,
        postproc.RewriteParallelVectorizeUnroll,
        postproc.RewriteReductionBlock,
        postproc.VerifyGPUCode,
    ]
    assert found[2].max_threadblocks == 256  # type: ignore[attr-defined]  # it is that class
    assert {type(m): p for m, p in ms.Mutator.create("cuda").items()} == {
        mutator.MutateTileSize: 0.9,
        mutator.MutateUnroll: 0.08,
        mutator.MutateThreadBinding: 0.02,
    }


# ----------------------------------------------------------------------------- sketches
@pytest.mark.parametrize(
    ("name", "count"),
    [
        *((n, 2) for n in ("C1D", "C2D", "C3D", "GMM", "GRP", "DIL", "DEP", "T2D", "CAP", "CBR")),
        ("TBG", 2),
        ("NRM", 4),  # a thread, a block, all blocks, a block that reads vectors
        ("SFM", 5),
    ],
)
def test_how_many_sketches(name: str, count: int) -> None:
    assert len(cuda_context(built(name), "sm_75").generate_design_space()) == count


def test_the_sketch_of_a_product() -> None:
    """Base sketch of the reference's B.2: tiles, a write cache in registers, two fetches, unroll
    limit (v53 there); and decisions of ours: are the rows of X padded, do fetches run ahead?"""
    sch, turned = cuda_context(built("GMM")).generate_design_space()
    tiles, decision = ["SamplePerfectTile", "Split"], ["SampleCategorical", "Annotate"]
    fetch = ["CacheRead", "ComputeAt", "GetLoops", "Fuse", *decision]
    assert kinds(sch.trace) == [
        "GetSBlock", "GetSBlock", "Annotate", "GetLoops", *tiles, *tiles, *tiles, "Reorder",
        *(["Fuse", "Bind"] * 3), "Annotate", "Annotate", "CacheWrite", "Annotate",
        "ReverseComputeAt",
        *fetch, *decision, *fetch, *decision, *decision,
    ]  # fmt: skip
    assert [k for k in kinds(turned.trace) if k != "TransformLayout"] == kinds(sch.trace)
    lines = str(sch.trace).splitlines()
    assert lines[-2].startswith("v55 = sch.sample_categorical(candidates=[0, 16, 32, 64, 128, ")
    text = str(sch.trace)
    assert 'ann_key="meta_schedule.thread_extent_low_inclusive", ann_val=32' in text
    assert 'ann_key="meta_schedule.thread_extent_high_inclusive", ann_val=1024' in text


def test_the_sketches_of_softmax() -> None:
    """The reference's B.3: threads share the sum, the maximum, both or neither; and rows that are
    kept in registers."""
    found = [kinds(s.trace) for s in cuda_context(built("SFM")).generate_design_space()]
    get, bind, sample, split = "GetLoops", "Bind", "SampleCategorical", "Split"
    of_its_own = [get, "Fuse", sample, split, bind, bind]
    assert [
        *(["GetSBlock"] * 5), "ComputeInline",
        sample, get, split, bind,  # the maximum, shared
        sample, "Annotate",  # the unroll limit
        *of_its_own, *of_its_own,  # the result, and the sum
        get, "Fuse", bind,  # the grid of the maximum
    ] in found  # fmt: skip
    assert sum("SetScope" in f for f in found) == 3  # fused into one kernel, sum or both, or rows
    both = next(f for f in found if f.count("SetScope") == 2)
    assert both.count("ComputeAt") == 2
    assert both.count(sample) == 2  # one number of threads for all, and the unroll limit


@pytest.mark.parametrize(
    ("dtype", "lens"), [("float32", [1, 2, 3, 4]), ("float16", [1, 2, 4, 8]), ("float64", [1, 2])]
)
def test_fetches_by_dtype(dtype: str, lens: list[int]) -> None:
    sch, *_ = cuda_context(built("matmul", dtype, m=64, n=64, k=64)).generate_design_space()
    assert str(sch.trace).count(f"sample_categorical(candidates={lens}, ") == 2


def test_a_thread_count_can_be_mutated() -> None:
    sketches = cuda_context(built("SFM")).generate_design_space()
    (thread_binding,) = [
        m for m in ms.Mutator.create("cuda") if isinstance(m, mutator.MutateThreadBinding)
    ]
    for sch in sketches:
        before = sch.trace
        after = thread_binding.apply(before)
        assert after is not None
        changed = [
            i for i in before.insts if i.kind.samples and before.decisions[i] != after.decisions[i]
        ]
        assert len(changed) == 1
        assert changed[0].attrs[0][0] in (1, 4, 32)  # from a list of thread extents, or of rows
    tiled, _ = cuda_context(built("GMM")).generate_design_space()
    assert thread_binding.apply(tiled.trace) is None  # its threads are tiles


# ----------------------------------------------------------------------------- matrices
@pytest.mark.parametrize(
    ("name", "shape", "most"),
    [
        ("matmul", {"m": 1024, "n": 1024, "k": 1024}, 24),
        ("conv2d", {}, 64),
        ("softmax", {"m": 256, "n": 256}, 4),
        ("softmax", {"m": 1000, "n": 1000}, 40),
    ],
)
def test_few_structure_classes(name: str, shape: Shape, most: int) -> None:
    for sketch in sketches_of(built(name, **shape)):
        out = sketch.evaluate(drawn(sketch, 4096))
        assert sketch.class_count <= most
        assert not sketch.fallbacks
        assert out.valid.any()


@pytest.mark.parametrize("name", ["GMM", "C1D", "GRP", "SFM", "NRM"])
def test_a_matrix_says_what_plain_replay_says(name: str) -> None:
    for sketch in sketches_of(built(name)):
        rows = drawn(sketch, 512, seed=3)
        out = sketch.evaluate(rows)
        for k in [*np.flatnonzero(out.valid)[:6], *np.flatnonzero(~out.valid)[:6]]:
            _, refusal = sketch.schedule(rows[k])
            assert (refusal is None) == out.valid[k]


def shared_bytes(s: Stmt) -> int:
    """What the arrays in shared memory of a lowered kernel take."""
    arrays = [
        x.buffer for x in walk_stmt(s) if type(x) is Alloc and x.buffer.scope.startswith("shared")
    ]
    return sum(-(-elements(b) * dtypes.itemsize(b.dtype) // 16) * 16 for b in arrays)


def elements(b: Buffer) -> int:
    """Those of a buffer, with the gaps between its rows."""
    shape = [int(n.value) for n in b.shape]  # type: ignore[union-attr]  # constant
    if b.strides is None:
        return math.prod(shape)
    strides = [int(n.value) for n in b.strides]  # type: ignore[union-attr]  # constant
    return 1 + sum((n - 1) * k for n, k in zip(shape, strides, strict=True))


@pytest.mark.parametrize(
    "name",
    [
        "GMM",
        "C1D",
        "C2D",
        "GRP",
        "DEP",
        "T2D",
        "CBR",
        "TBG",
        "SFM",
        "NRM",
        "layernorm",
        "transpose",
    ],
)
def test_usage_is_what_lowering_makes(name: str) -> None:
    """Threads and shared memory, read off schedules, against the generated kernels."""
    seen = 0
    for sketch in sketches_of(built(name)):
        rows = drawn(sketch, 1024, seed=4)
        for k in np.flatnonzero(sketch.evaluate(rows).valid)[:4]:
            func = next(iter(sketch.materialise(rows[k]).mod.functions.values()))
            # (with fetches ahead, and without)
            for kernel, mine in zip(lower_gpu(func).kernels, kernels_of(func), strict=True):
                assert kernel.threads == mine.threads
                assert shared_bytes(kernel.func.body) == mine.shared_bytes
            seen += 1
    assert seen


# ----------------------------------------------------------------------------- what they compute
SMALL: list[tuple[str, Shape | None]] = [
    ("matmul", {"m": 33, "n": 40, "k": 27}),
    ("matmul", {"m": 5, "n": 17, "k": 1024}),
    ("batch_matmul", {"b": 3, "m": 8, "n": 12, "k": 7}),
    ("dense_bias_relu", {"m": 24, "n": 16, "k": 8}),
    ("conv1d", None),
    ("conv2d", None),
    ("conv2d_transpose", {"n": 1, "h": 4, "w": 4, "ci": 3, "co": 4, "kernel": 4}),
    ("depthwise_conv2d", {"n": 1, "h": 8, "w": 8, "c": 4, "kernel": 3, "padding": 1}),
    ("softmax", None),
    ("layernorm", None),
    ("attention", {"batch": 1, "heads": 1, "seq": 32, "dim": 32}),
    ("norm", None),
    ("total_mean", None),
    ("max_pool2d", None),
    ("transpose", None),
    ("transpose", {"m": 37, "n": 70}),
]


def check(name: str, shape: Shape, func: PrimFunc, order: str) -> None:
    """Host execution finds no fault, and NumPy gives the same."""
    kernel = KERNELS[name]
    source = generate(func)
    arrays = kernel.arguments(shape, "float32", 3, exact=kernel.exact)
    expected = kernel.expected([a.copy() for a in arrays], shape, "float32")
    params = source.host.params
    values = {p.name: None if p.written else a for p, a in zip(params, arrays, strict=True)}
    report = host_run(host_compile(source), values, order=order, seed=1)
    assert not report.findings, source.text
    names = {b.name: p.name for b, p in zip(func.buffers, params, strict=True)}
    outputs = [b for b in func.buffers if b.name in kernel.outputs]
    for want, b in zip(expected, outputs, strict=True):
        got = report.outputs[names[b.name]].reshape([int(n.value) for n in b.shape])
        assert dtypes.itemsize(b.dtype) >= 4
        np.testing.assert_allclose(got.astype(float), want.astype(float), rtol=2e-5, atol=2e-4)


@needs_compiler
@pytest.mark.parametrize(("name", "shape"), SMALL)
def test_random_candidates_compute_what_numpy_does(name: str, shape: Shape | None) -> None:
    """Of every sketch, at the kernel's small sizes or one that has room for 32 threads."""
    shapes = KERNELS[name].check_shapes[:3] if shape is None else (shape,)
    orders = itertools.cycle(("forward", "reverse", "random"))
    checked = 0
    for s in shapes:
        full = {**KERNELS[name].check_shapes[0], **s}
        for sketch in sketches_of(KERNELS[name].build(full, "float32")):
            rows = drawn(sketch, 4096, seed=11)
            for k in np.flatnonzero(sketch.evaluate(rows).valid)[: 2 if shape else 1]:
                func = next(iter(sketch.materialise(rows[k]).mod.functions.values()))
                check(name, full, func, next(orders))
                checked += 1
    assert checked >= 2


# ----------------------------------------------------------------------------- tuning
@needs_compiler
def test_tuning_with_the_default_space(tmp_path: Any) -> None:
    func = built("softmax", m=32, n=32)
    database = ms.tune_tir(func, SM_80, tmp_path, 4, num_trials_per_iter=4, runner="host", seed=1)
    records = database.get_all_tuning_records()
    assert len(records) == 4
    assert all(r.run_secs for r in records)
    kernel = gt.tune(func, SM_80, trials=3, seed=1, runner="host", work_dir=tmp_path)
    assert kernel.target == SM_80
    assert kernel.record is not None
    assert "blockIdx.x" in str(kernel.mod)
    assert "unscheduled programs do not run on a GPU" in kernel.report()


def test_fetch_widths_are_decisions_of_the_sketch() -> None:
    """MutateTileSize knows them by the annotation that they end in."""
    for sch in cuda_context(built("GMM")).generate_design_space():
        noted = [i for i in sch.trace.insts if i.kind.name == "Annotate"]
        assert sum(i.attrs[0] == COOPERATIVE_FETCH for i in noted) == 3  # one is of the result
