"""Tilings for tensor cores and for wide vectors: which sketches there are, what they compute, how
many structures thousands of candidates have, and what the lists of their targets hold."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from test_cuda_space import cuda_context, drawn, kinds, needs_compiler, sketches_of

import gputune as gt
import gputune.meta_schedule as ms
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.errors import BuildError, UserError
from gputune.ir.build import const_int
from gputune.ir.interp import run
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.kernels import KERNELS
from gputune.kernels.kernel import Shape
from gputune.lower.gpu import lower_gpu
from gputune.lower.shared_memory import shared_layout
from gputune.meta_schedule import mutator, postproc, schedule_rule
from gputune.meta_schedule.analysis import AUTO_TENSORIZE
from gputune.meta_schedule.gpu_model import column
from gputune.meta_schedule.gpu_usage import kernels_of
from gputune.meta_schedule.population import Sketch
from gputune.meta_schedule.postproc.verify_vtcm_limit import VTCM, vtcm_bytes
from gputune.meta_schedule.schedule_rule import (
    MultiLevelTilingTensorCore,
    MultiLevelTilingWideVector,
    ReuseType,
)
from gputune.meta_schedule.sketch_feature import CPU_COUNT
from gputune.schedule import Schedule
from gputune.script import tir as T

SHARED = ReuseType("must", [4], "shared.dyn")
RESULTS = ReuseType("must", [2], "shared.dyn")
BINDS = ["blockIdx.y", "blockIdx.x", "threadIdx.y"]


def group(operands: str = "f16", sums: str = "f32", trans: str = "") -> dict[str, str]:
    head = "16x16x16"
    return {
        "init": f"wmma_fill_{head}_{sums}",
        "load_a": f"wmma_load_{head}_{operands}_a_shared_dyn",
        "load_b": f"wmma_load_{head}_{operands}_b{trans}_shared_dyn",
        "compute": f"wmma_sync_{head}_{operands}{operands}{sums}{trans}",
        "store": f"wmma_store_{head}_{sums}_shared_dyn",
    }


def tiling(**changes: Any) -> MultiLevelTilingTensorCore:
    settings: dict[str, Any] = {
        "intrin_groups": [group()], "structure": "SSSRRSRS", "tile_binds": BINDS,
        "max_innermost_factor": 4, "vector_load_lens": [1, 2, 4, 8], "reuse_read": SHARED,
        "reuse_write": RESULTS,
    }  # fmt: skip
    return MultiLevelTilingTensorCore(**{**settings, **changes})


def product(
    n: int = 64, dtype: str = "float16", out: str | None = "float32", **kw: Any
) -> PrimFunc:
    return KERNELS["matmul"].build({"m": n, "n": n, "k": n}, dtype, out=out, **kw)


def space(func: PrimFunc, arch: str = "sm_86") -> list[Schedule]:
    return cuda_context(func, arch).generate_design_space()


def intrinsics(sch: Schedule) -> list[str]:
    """The intrinsics that a sketch asks for."""
    noted = [i for i in sch.trace.insts if i.kind.name == "Annotate"]
    return [str(i.inputs[1]) for i in noted if i.attrs[0] == AUTO_TENSORIZE]


# ----------------------------------------------------------------------------- the lists
def test_the_list_of_gpus_with_tensor_cores() -> None:
    rules = ms.ScheduleRule.create("cuda-tensorcore")
    rule = rules[1]
    assert isinstance(rule, MultiLevelTilingTensorCore)
    assert [type(r) for r in (rules[0], *rules[2:])] == [
        type(r) for r in ms.ScheduleRule.create("cuda")
    ]
    assert (rule.structure, rule.tile_binds) == ("SSSRRSRS", tuple(BINDS))
    assert (rule.max_innermost_factor, rule.vector_load_lens) == (4, (1, 2, 3, 4, 8, 16))
    assert (rule.reuse_read, rule.reuse_write) == (SHARED, RESULTS)
    assert not rule.use_software_pipeline
    assert [g.compute.removeprefix("wmma_sync_16x16x16_") for g in rule.intrin_groups] == [
        "f16f16f32", "f16f16f32_trans", "f16f16f16", "f16f16f16_trans", "s8s8s32", "s8s8s32_trans",
    ]  # fmt: skip
    (*cuda, last) = ms.Postproc.create("cuda-tensorcore")
    assert [type(p) for p in cuda] == [type(p) for p in ms.Postproc.create("cuda")]
    assert isinstance(last, postproc.RewriteTensorize)
    assert not last.vectorize_init_loop
    found = {type(m): p for m, p in ms.Mutator.create("cuda-tensorcore").items()}
    assert found[mutator.MutateTileSize] == 0.9
    assert len(found) == 3


def test_the_list_of_hexagon() -> None:
    *_, rule, unroll = ms.ScheduleRule.create("hexagon")
    assert isinstance(rule, MultiLevelTilingWideVector)
    assert (rule.structure, rule.vector_length_in_bits) == ("SRSRS", 1024)
    assert rule.max_innermost_factor == 128
    assert isinstance(unroll, schedule_rule.ParallelizeVectorizeUnroll)
    assert (unroll.max_jobs_per_core, unroll.max_vectorize_extent) == (16, 128)
    assert unroll.unroll_max_steps == [0, 16, 64, 512]
    (*llvm, last) = ms.Postproc.create("hexagon")
    assert [type(p) for p in llvm] == [type(p) for p in ms.Postproc.create("llvm")]
    assert isinstance(last, postproc.VerifyVTCMLimit)
    assert sorted(ms.Mutator.create("hexagon").values()) == [0.02, 0.03, 0.05, 0.9]


@pytest.mark.parametrize(("arch", "there"), [("sm_75", True), ("sm_90a", True), ("sm_120", True)])
def test_what_the_target_gets(arch: str, there: bool) -> None:
    context = cuda_context(product(), arch)
    assert context.space_generator is not None
    rules = context.space_generator.sch_rules
    assert any(isinstance(r, MultiLevelTilingTensorCore) for r in rules) == there


def test_older_gpus_get_the_list_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gputune.meta_schedule.kinds.TENSOR_CORES", 87)
    assert len(space(product(), "sm_86")) == 2
    assert len(space(product(), "sm_87")) == 4


# ----------------------------------------------------------------------------- sketches
@pytest.mark.parametrize(
    ("func", "wanted"),
    [
        (product(), "f16f16f32"),
        (product(out="float16"), "f16f16f32"),  # with a conversion behind it
        (product(out="float16", accum="float16"), "f16f16f16"),
        (product(dtype="int8", out="int32"), "s8s8s32"),
        (product(72), "f16f16f32"),  # padded
        (KERNELS["conv2d"].build(None, "float16", out="float32"), "f16f16f32"),
        (KERNELS["batch_matmul"].build(None, "float16", out="float32"), "f16f16f32"),
    ],
)
def test_every_group_that_matches_is_a_candidate(func: PrimFunc, wanted: str) -> None:
    plain, turned, *tensor = space(func)
    assert intrinsics(plain) == intrinsics(turned) == []
    assert plain.trace.insts  # the plain tiling
    assert len(tensor) == 2
    for sch, trans in zip(tensor, ("", "_trans"), strict=True):
        compute, store, load_a, load_b = intrinsics(sch)
        operands = wanted.split("f32")[0][:3] if wanted[0] == "f" else "s8"
        assert compute == f"wmma_sync_16x16x16_{wanted}{trans}"
        assert store.startswith("wmma_store_16x16x16_")
        assert load_a == f"wmma_load_16x16x16_{operands}_a_shared_dyn"
        assert load_b == f"wmma_load_16x16x16_{operands}_b{trans}_shared_dyn"


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bfloat16"])
def test_other_types_have_the_plain_tiling_only(dtype: str) -> None:
    for sch in space(product(dtype=dtype, out=None)):
        assert intrinsics(sch) == []


@pytest.mark.parametrize("name", ["softmax", "depthwise_conv2d", "transpose", "max_pool2d"])
def test_what_is_no_product_has_no_such_sketch(name: str) -> None:
    dtype = "float16" if "float16" in KERNELS[name].dtypes else "float32"
    assert not any(map(intrinsics, space(KERNELS[name].build(None, dtype))))


def test_two_rules_do_not_block_each_other() -> None:
    """Each adds its candidates to those of the other."""
    first, second = tiling(), tiling(intrin_groups=[group(trans="_trans")])
    sch = Schedule(product())
    block = sch.get_block("C")
    found = [y for x in first.apply(sch, block) for y in second.apply(x, block)]
    assert [intrinsics(x)[:1] for x in found] == [
        [], [group(trans="_trans")["compute"]], [group()["compute"]],
    ]  # fmt: skip


def test_the_sketch_of_a_product() -> None:
    """The instructions of the reference's B.1, in its order."""
    split_two = ["GetLoops", "Split", "Split", "GetLoops", "Reorder", "Blockize", "Annotate"]
    fetch = ["CacheRead", "ComputeAt", "GetLoops", "Fuse", "SampleCategorical", "Annotate"]
    inline = ["GetProducers", "ComputeInline", "StorageAlign"]
    tile = ["SamplePerfectTile", "Split"]
    wanted = [
        "GetSBlock", "GetSBlock", "Annotate", *(["ReIndex"] * 3), *(["TransformLayout"] * 3),
        *(["TransformBlockLayout"] * 4), "GetLoops", *(["Split"] * 3), "GetLoops", "Reorder",
        "Blockize", *(["Annotate"] * 3), "GetLoops", *tile, *tile, *tile, "Reorder",
        *(["Fuse", "Bind"] * 3), "Annotate", "Annotate", "TransformLayout", "CacheWrite",
        "ReverseComputeAt", "CacheWrite", "GetLoops", "Reorder", "ComputeAt", "GetLoops", "Fuse",
        "Bind", "ReverseComputeInline", "GetLoops", "Blockize", "Annotate", "GetLoops", "Fuse",
        "SampleCategorical", "Annotate", *fetch, *fetch,
        *(["CacheRead", "ComputeAt", *split_two] * 2), *inline, *inline, "SampleCategorical",
        "Annotate",
    ]  # fmt: skip
    *_, first, second = space(product(1024))
    tensor = [first, second]
    for sch in tensor:
        assert kinds(sch.trace) == wanted
    lines = str(tensor[0].trace).splitlines()
    assert lines[-2].startswith("v156 = sch.sample_categorical(candidates=[0, 16, 32, 64, 128, ")
    text = "\n".join(lines)
    assert text.count("storage_align(block=b92, buffer_index=0, axis=-2, factor=32, offset=8)") == 1
    assert "i0 // 16 // (v27 * v28), i1 // 16 // (v37 * v38), i0 // 16 % (v27 * v28)" in text
    assert "sample_categorical(candidates=[1, 2, 3, 4], " in text
    assert text.count("sample_categorical(candidates=[1, 2, 4, 8], ") == 2
    assert 'ann_key="warp_execution", ann_val=1' in text
    *_, byte, _ = space(product(64, "int8", "int32"))
    assert str(byte.trace).count("axis=-2, factor=32, offset=16)") == 2


def test_products_of_a_batch_are_blocks_along_z() -> None:
    shape = {"b": 6, "m": 32, "n": 32, "k": 32}
    func = KERNELS["batch_matmul"].build(shape, "float16", out="float32")
    for sch in space(func)[-2:]:
        assert 'thread_axis="blockIdx.z"' in str(sch.trace)


def test_refusals_are_counted() -> None:
    """What cannot be rearranged gives no candidate, and says how often and why."""
    rule = tiling()
    sch = Schedule(product())
    block = sch.get_block("C")
    i, *_ = sch.get_loops(block)
    sch.split(i, [None, 8])  # iterators are no longer a loop each

    def anything(sch: Schedule, block: Any) -> bool:
        return True

    rule.filter_fn = anything
    before = str(sch.mod)
    assert rule.apply(sch, block) == [sch]
    assert str(sch.mod) == before
    assert sum(rule.refused.values()) == 1


# ----------------------------------------------------------------------------- rounded up
def counts(sch: Schedule) -> list[int]:
    """The products of the instruction along rows, columns and sum."""
    sampled = [i for i in sch.trace.insts if i.kind.name == "SamplePerfectTile"]
    return [prod(sch.trace.decisions[i]) for i in sampled]  # type: ignore[arg-type]  # lists


def rounded(func: PrimFunc, **changes: Any) -> list[Schedule]:
    sch = Schedule(func, seed=3)
    return tiling(must_divide=False, **changes).apply(sch, sch.get_block("C"))[1:]


@pytest.mark.parametrize(
    ("n", "wanted"),
    [
        (64, [4]),  # has all the tiles that it can use
        (80, [5, 6]),  # 8 would be two thirds more
        (13 * 16, [13, 14, 16]),
        (61 * 16, [61, 62, 64]),
        (61 * 16 - 3, [61, 62, 64]),  # padded to whole products as well
    ],
)
def test_numbers_of_products_are_rounded_up(n: int, wanted: list[int]) -> None:
    """Tiles had to divide them: a prime number of products had no tiles but one and all."""
    assert [counts(s) for s in rounded(product(n))] == [[k] * 3 for k in wanted]
    sch = Schedule(product(n))
    assert len(tiling().apply(sch, sch.get_block("C"))) == 2


@pytest.mark.parametrize(
    ("name", "block", "shape"),
    [
        ("matmul", "C", {"m": 80, "n": 70, "k": 100}),
        ("conv2d", "Y", {"n": 1, "h": 9, "w": 9, "ci": 16, "co": 80}),
    ],
)
def test_rounding_up_keeps_the_meaning(name: str, block: str, shape: Shape) -> None:
    kernel = KERNELS[name]
    func = kernel.build(shape, "float16", out="float32")
    sch = Schedule(func, seed=3)
    _, _, *found = tiling(must_divide=False).apply(sch, sch.get_block(block))
    assert found
    context = cuda_context(func, "sm_86")
    assert context.space_generator is not None
    posts = context.space_generator.postprocs
    for new in found:
        sketch = Sketch(IRModule({func.name: func}), new.trace, posts)  # type: ignore[arg-type]  # a list
        rows = drawn(sketch, 256, seed=5)
        k = np.flatnonzero(sketch.evaluate(rows).valid)[0]
        scheduled = sketch.materialise(rows[k]).mod
        assert "wmma." in str(scheduled)
        arrays = list(kernel.arguments(shape, "float16", 3, exact=True, out="float32"))
        wanted = [a.copy() for a in arrays]
        run(func, *wanted)
        run(scheduled, *arrays)
        np.testing.assert_array_equal(arrays[-1], wanted[-1])


@needs_compiler
def test_host_execution_of_what_was_rounded_up() -> None:
    shape: Shape = {"m": 80, "n": 70, "k": 100}
    kernel = KERNELS["matmul"]
    func = kernel.build(shape, "float16", out="float32")
    sketch = Sketch(
        IRModule({func.name: func}),
        rounded(func)[1].trace,
        cuda_context(func, "sm_86").space_generator.postprocs,
    )  # type: ignore[union-attr,arg-type]  # there is one, with a list
    rows = drawn(sketch, 256, seed=6)
    k = np.flatnonzero(sketch.evaluate(rows).valid)[0]
    (scheduled,) = sketch.materialise(rows[k]).mod.functions.values()
    arrays = list(kernel.arguments(shape, "float16", 3, exact=True, out="float32"))
    checked(func, scheduled, arrays, "random")


# ----------------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"intrin_groups": []}, "no intrinsics"),
        ({"intrin_groups": [{"init": "wmma_fill_16x16x16_f32"}]}, "a group of intrinsics has"),
        (
            {"intrin_groups": [{**group(), "compute": "mma_sync_m16n8k8_f16f16f32"}]},
            "mma m16n8k8 instructions, which this version has not",
        ),
        ({"intrin_groups": [{**group(), "store": "wmma_stor"}]}, "no tensor intrinsic 'wmma_stor'"),
        ({"tile_binds": None}, "last thread axis counts warps"),
        ({"tile_binds": ["blockIdx.x", "threadIdx.x"]}, "last thread axis counts warps"),
        ({"structure": "SSSRS"}, "no room for fragments"),
        ({"structure": "SSSRR"}, "no room for fragments"),
        ({"reuse_read": None}, "reuse_read is a cache that there must be"),
        ({"reuse_write": ReuseType("may", [2], "shared.dyn")}, "reuse_write is a cache"),
        ({"reuse_write": ReuseType("must", [2, 3], "shared.dyn")}, "at one level"),
        ({"reuse_write": ReuseType("must", [3], "shared.dyn")}, "level 3 of reuse_write"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tiling(**changes)


def test_other_targets_are_left_alone() -> None:
    rule = tiling()
    sch = Schedule(product())
    context = ms.TuneContext(product(), target=gt.Target("llvm"))
    rule.initialize_with_tune_context(context)
    assert rule.apply(sch, sch.get_block("C")) == [sch]


# ----------------------------------------------------------------------------- what they compute
CASES: list[tuple[str, Shape, str, str]] = [
    ("matmul", {"m": 64, "n": 64, "k": 64}, "float16", "float32"),
    ("matmul", {"m": 32, "n": 64, "k": 48}, "float16", "float16"),
    ("matmul", {"m": 40, "n": 50, "k": 20}, "float16", "float32"),
    ("matmul", {"m": 32, "n": 32, "k": 64}, "int8", "int32"),
    ("batch_matmul", {"b": 3, "m": 32, "n": 16, "k": 32}, "float16", "float32"),
    ("conv2d", {"n": 1, "h": 6, "w": 6, "ci": 16, "co": 16}, "float16", "float32"),
    ("dense_bias_relu", {"m": 32, "n": 32, "k": 32}, "float16", "float16"),
]


@pytest.mark.parametrize(("name", "shape", "dtype", "out"), CASES)
def test_random_decisions_keep_the_meaning(name: str, shape: Shape, dtype: str, out: str) -> None:
    kernel = KERNELS[name]
    func = kernel.build(shape, dtype, out=out)
    seen = 0
    for sketch in sketches_of(func)[-2:]:
        rows = drawn(sketch, 256, seed=5)
        for k in np.flatnonzero(sketch.evaluate(rows).valid)[:2]:
            scheduled = sketch.materialise(rows[k]).mod
            assert "wmma." in str(scheduled)
            arrays = kernel.arguments(shape, dtype, 3, exact=True, out=out)
            wanted = [a.copy() for a in arrays]
            run(func, *wanted)
            run(scheduled, *arrays)
            for got, want in zip(arrays, wanted, strict=True):
                np.testing.assert_array_equal(got, want)
            seen += 1
    assert seen == 4


def checked(func: PrimFunc, scheduled: PrimFunc, arrays: list[Any], order: str) -> None:
    """Host execution finds no fault and gives what the program means."""
    wanted = [a.copy() for a in arrays]
    run(func, *wanted)
    source = generate(scheduled)
    params = source.host.params
    values = {p.name: None if p.written else a for p, a in zip(params, arrays, strict=True)}
    report = host_run(host_compile(source), values, order=order, seed=1)
    assert not report.findings, source.text
    for p, want in zip(params, wanted, strict=True):
        if p.written:
            got = report.outputs[p.name].reshape(want.shape)
            np.testing.assert_array_equal(got, want)


@needs_compiler
@pytest.mark.parametrize(("name", "shape", "dtype", "out"), [CASES[0], CASES[2], CASES[5]])
def test_host_execution_of_candidates(name: str, shape: Shape, dtype: str, out: str) -> None:
    kernel = KERNELS[name]
    func = kernel.build(shape, dtype, out=out)
    for sketch, order in zip(sketches_of(func)[-2:], ("reverse", "random"), strict=True):
        rows = drawn(sketch, 256, seed=6)
        k = np.flatnonzero(sketch.evaluate(rows).valid)[0]
        (scheduled,) = sketch.materialise(rows[k]).mod.functions.values()
        assert isinstance(scheduled, PrimFunc)
        arrays = kernel.arguments(shape, dtype, 4, exact=True, out=out)
        checked(func, scheduled, list(arrays), order)


@needs_compiler
def test_tuning_finds_tensor_cores(tmp_path: Any) -> None:
    func = product(64)
    kernel = gt.tune(func, "cuda --arch=sm_80", trials=6, seed=1, runner="host", work_dir=tmp_path)
    assert kernel.record is not None
    assert kernel.record.run_secs
    assert "wmma.mma" in str(kernel.mod)


# ----------------------------------------------------------------------------- matrices
def test_few_structure_classes() -> None:
    for sketch in sketches_of(product(1024))[-2:]:
        out = sketch.evaluate(drawn(sketch, 2048))
        assert sketch.class_count <= 16
        assert not sketch.fallbacks
        assert out.valid.mean() > 0.5


def test_a_matrix_says_what_plain_replay_says() -> None:
    """Verdicts and features, of rows of both kinds."""
    for sketch in sketches_of(product(1024))[-2:]:
        rows = drawn(sketch, 512, seed=3)
        out = sketch.evaluate(rows)
        for k in [*np.flatnonzero(out.valid)[:5], *np.flatnonzero(~out.valid)[:5]]:
            refusal, features, _ = sketch._plain(rows[k])
            assert (refusal is None) == out.valid[k]
            if refusal is None:
                np.testing.assert_array_equal(features, out.features[k])


def test_features_count_what_tensor_cores_do() -> None:
    n = 256
    for sketch in sketches_of(product(n))[-2:]:
        rows = drawn(sketch, 256, seed=2)
        out = sketch.evaluate(rows)
        valid = np.flatnonzero(out.valid)

        def told(name: str, out: Any = out, valid: Any = valid) -> Any:
            return 2.0 ** out.features[valid, CPU_COUNT + column(f"kernel0.{name}")] - 1

        np.testing.assert_allclose(told("flops"), 2 * n**3, rtol=1e-4)
        # a warp holds its results in 32 threads: 8 registers of each for a tile
        tiles = rows[valid][:, 3] * rows[valid][:, 4] * rows[valid][:, 8] * rows[valid][:, 9]
        fits = told("spilled") < 0.5
        assert fits.any()
        assert (told("registers")[fits] > 8 * tiles[fits]).all()
        assert np.unique(np.round(told("arithmetic_ns"))).size > 1


def test_usage_is_what_lowering_makes() -> None:
    for sketch in sketches_of(product(128))[-2:]:
        rows = drawn(sketch, 256, seed=4)
        for k in np.flatnonzero(sketch.evaluate(rows).valid)[:3]:
            (func,) = sketch.materialise(rows[k]).mod.functions.values()
            assert isinstance(func, PrimFunc)
            for kernel, mine in zip(lower_gpu(func).kernels, kernels_of(func), strict=True):
                assert kernel.threads == mine.threads
                assert shared_layout(kernel.func).bytes == mine.shared_bytes


def test_all_threads_write_results_back() -> None:
    """The copy from shared memory is shared by all warps, although no loop around it is theirs."""
    for sketch in sketches_of(product(256))[-2:]:
        rows = drawn(sketch, 512, seed=9)
        valid = np.flatnonzero(sketch.evaluate(rows).valid)
        k = next(k for k in valid if rows[k][2] * rows[k][7] > 1)
        sch = sketch.materialise(rows[k])
        copy = sch.get_block("C_reindex_shared_dyn")
        bound = [sch.get(x).thread for x in sch.get_loops(copy)]
        assert bound.count("threadIdx.y") == bound.count("threadIdx.x") == 1


# ----------------------------------------------------------------------------- wide vectors
def hexagon(func: PrimFunc, options: str = "") -> ms.TuneContext:
    return ms.TuneContext(
        func, target=gt.Target(f"hexagon {options}"), rand_state=7,
        space_generator=ms.space_generator.PostOrderApply(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "n", "lanes"), [("float32", 256, 32), ("float16", 256, 64), ("float32", 20, 20)]
)
def test_the_innermost_tile_is_a_vector(dtype: str, n: int, lanes: int) -> None:
    rule = MultiLevelTilingWideVector("SRSRS", 1024, max_innermost_factor=128)
    func = KERNELS["matmul"].build({"m": 64, "n": n, "k": 32}, dtype, accum=dtype)
    sch = Schedule(func, seed=1)
    (tiled,) = rule.apply(sch, sch.get_block("C"))
    loops = [tiled.get(x) for x in tiled.get_loops(tiled.get_block("C"))]
    assert const_int(loops[-1].extent) == lanes
    samples = [i for i in tiled.trace.insts if i.kind.name == "SamplePerfectTile"]
    assert [i.attrs[0] for i in samples] == ([3, 2, 2] if n > lanes else [3, 2])


def test_a_vector_that_does_not_divide_keeps_the_meaning() -> None:
    rule = MultiLevelTilingWideVector("SRSRS", 256, max_innermost_factor=128)
    kernel, shape = KERNELS["matmul"], {"m": 6, "n": 21, "k": 5}
    func = kernel.build(shape, "float32")
    sch = Schedule(func, seed=2)
    (tiled,) = rule.apply(sch, sch.get_block("C"))
    arrays = list(kernel.arguments(shape, "float32", 3, exact=True))
    wanted = [a.copy() for a in arrays]
    run(func, *wanted)
    run(tiled.mod, *arrays)
    np.testing.assert_array_equal(arrays[-1], wanted[-1])


def test_settings_of_vectors() -> None:
    for bits in (0, -8, 12):
        with pytest.raises(UserError, match="whole bytes"):
            MultiLevelTilingWideVector("SRSRS", bits)
    with pytest.raises(UserError, match="is no vector"):
        MultiLevelTilingWideVector("SRSR", 1024)


def test_a_space_for_hexagon_and_no_code() -> None:
    func = KERNELS["matmul"].build({"m": 64, "n": 64, "k": 64}, "float32")
    context = hexagon(func)
    found = context.generate_design_space()
    assert len(found) >= 2
    assert context.space_generator is not None
    for sch in found:
        assert postproc.postprocess(sch, list(context.space_generator.postprocs)) is None  # type: ignore[arg-type]  # a list
    with pytest.raises(BuildError, match="hexagon code generation is not part of gputune"):
        gt.build(found[0].mod, "hexagon")


def test_building_candidates_for_hexagon_says_so(tmp_path: Any) -> None:
    func = KERNELS["matmul"].build({"m": 32, "n": 32, "k": 32}, "float32")
    builder = ms.Builder.create("local")
    (result,) = builder.build([ms.BuilderInput(gt.IRModule({"main": func}), gt.Target("hexagon"))])
    assert result.error_msg is not None
    assert "hexagon code generation is not part of gputune" in result.error_msg


# ----------------------------------------------------------------------------- vector memory
def in_vtcm(rows: int) -> PrimFunc:
    @T.prim_func
    def twice(A: T.Buffer((64, 32), "float32"), B: T.Buffer((64, 32), "float32")):
        C = T.alloc_buffer((64, 32), "float32", scope="global.vtcm")
        for i0 in range(64 // rows):
            for i1, j in T.grid(rows, 32):
                with T.block("C"):
                    vi = T.axis.spatial(64, i0 * rows + i1)
                    vj = T.axis.spatial(32, j)
                    C[vi, vj] = A[vi, vj]
            for i1, j in T.grid(rows, 32):
                with T.block("B"):
                    vi = T.axis.spatial(64, i0 * rows + i1)
                    vj = T.axis.spatial(32, j)
                    B[vi, vj] = C[vi, vj] * T.float32(2)

    return twice


@pytest.mark.parametrize("rows", [1, 8, 64])
def test_what_vector_memory_must_hold(rows: int) -> None:
    func = in_vtcm(rows)
    assert vtcm_bytes(func) == rows * 32 * 4
    for capacity, fits in ((rows * 128, True), (rows * 128 - 1, False)):
        check = postproc.VerifyVTCMLimit()
        check.initialize_with_tune_context(hexagon(func, f"-vtcm-capacity={capacity}"))
        assert check.apply(Schedule(func)) == fits
        assert fits or "vtcm-capacity" in str(check.last_error)
    check.initialize_with_tune_context(hexagon(func))  # no limit given
    assert check.apply(Schedule(func))


def test_a_cache_in_vector_memory() -> None:
    sch = Schedule(KERNELS["matmul"].build({"m": 16, "n": 16, "k": 16}, "float32"))
    sch.cache_read("C", 0, VTCM)
    (func,) = sch.mod.functions.values()
    assert isinstance(func, PrimFunc)
    assert vtcm_bytes(func) == 16 * 16 * 4
