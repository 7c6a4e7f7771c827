"""Tilings with an instruction inside, and putting the instruction in its place."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gputune import meta_schedule as ms
from gputune.errors import UserError
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.meta_schedule.postproc import (
    DisallowDynamicLoop,
    Postproc,
    RewriteParallelVectorizeUnroll,
    RewriteReductionBlock,
    RewriteTensorize,
    postprocess,
)
from gputune.meta_schedule.schedule_rule import (
    MultiLevelTiling,
    MultiLevelTilingPacked,
    MultiLevelTilingWithIntrin,
    ReuseType,
    ScheduleRule,
)
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.script import tir as T
from gputune.target import Target
from gputune.target.intrin import intrin
from tests.schedule.tensor_programs import bf16_matmul, i8_matmul, u8_conv, u8_matmul

VNNI = "llvm -mcpu=cascadelake"
"""A processor with dot products of bytes, whatever this machine has."""
HERE = not intrin("dot_16x4_vnni").missing(Target("llvm"))


def sketches(func: PrimFunc, target: str = VNNI, **options: Any) -> list[Schedule]:
    context = ms.TuneContext(
        mod=func, target=target, space_generator="post-order-apply", rand_state=1, **options
    )
    return list(context.generate_design_space())


def names(sch: Schedule) -> str | None:
    """The intrinsic that a sketch is tiled for."""
    for inst in sch.trace.insts:
        if inst.kind.name == "Annotate" and "meta_schedule.auto_tensorize" in inst.attrs:
            return str(inst.inputs[1])
    return None


def rule(name: str = "dot_16x4_vnni") -> MultiLevelTilingWithIntrin:
    return MultiLevelTilingWithIntrin(
        name,
        structure="SSRSRS",
        max_innermost_factor=64,
        reuse_write=ReuseType(req="may", levels=[1, 2], scope="global"),
    )


# ----------------------------------------------------------------------------- the rule
def test_intrinsics_and_plain_tilings_are_candidates_side_by_side() -> None:
    found = [names(s) for s in sketches(u8_matmul(32, 32, 32))]
    assert found.count("dot_16x4_vnni") == 3
    assert found.count(None) == 3


def test_every_matching_intrinsic_gets_its_sketches() -> None:
    """Two rules in a row: the one must not hide the block from the other."""
    rules = [rule("dot_16x4_vnni"), rule("dot_16x4_avx512"), MultiLevelTiling("SSRSRS")]
    sch = Schedule(u8_matmul(32, 32, 32), seed=1)
    spaces = [sch]
    for r in rules:
        spaces = [new for s in spaces for new in r.apply(s, s.get_block("C"))]
    found = [names(s) for s in spaces]
    assert (found.count("dot_16x4_vnni"), found.count("dot_16x4_avx512")) == (3, 3)
    assert found.count(None) == 1


@pytest.mark.parametrize("program", [i8_matmul, lambda: u8_matmul(8, 24, 16)])
def test_what_does_not_fit_stays_as_it_is(program: Any) -> None:
    sch = Schedule(program(), seed=1)
    assert rule().apply(sch, sch.get_block("C")) == [sch]


def test_the_trace_of_a_sketch() -> None:
    start = Schedule(u8_matmul(32, 32, 32), seed=1)
    sch = next(s for s in rule().apply(start, start.get_block("C")) if names(s) is not None)
    text = str(sch.trace)
    lines = [line.split("(")[0].rsplit(".")[-1] for line in text.splitlines()]
    at = lines.index("blockize")
    assert lines[:at] == ["get_block", "get_loops", "split", "split", "reorder"]
    assert lines[at + 1 : at + 3] == ["annotate", "annotate"]
    assert 'ann_val="dot_16x4_vnni"' in text


def test_a_convolution_is_tiled_over_channels() -> None:
    assert "dot_16x4_vnni" in [names(s) for s in sketches(u8_conv())]


def test_targets_get_the_lists_of_what_they_have() -> None:
    def of(target: str) -> set[str | None]:
        return {names(s) for s in sketches(u8_matmul(32, 32, 32), target)}

    assert of("llvm -mcpu=cascadelake") == {None, "dot_16x4_vnni"}
    assert of("llvm -mcpu=skylake-avx512") == {None, "dot_16x4_avx512"}
    assert of("llvm -mcpu=alderlake") == {None, "dot_8x4_avxvnni"}
    assert of("llvm -mcpu=sapphirerapids") == {None, "dot_16x4_vnni"}
    assert of("llvm -mcpu=haswell") == {None}
    both = {names(s) for s in sketches(bf16_matmul(32, 32, 32), "llvm -mcpu=cooperlake")}
    assert both == {None, "dot_16x2_avx512bf16"}
    assert {names(s) for s in sketches(bf16_matmul(32, 32, 32))} == {None}  # cascadelake has none


def test_lists_by_name() -> None:
    for kind, name in (
        ("vnni", "dot_16x4_vnni"),
        ("avxvnni", "dot_8x4_avxvnni"),
        ("avx512", "dot_16x4_avx512"),
        ("dotprod", "dot_4x4_i8i8s32_sdot"),
        ("asimd", "dot_4x4_i8i8s32_neon"),
    ):
        found = [r for r in ScheduleRule.create(kind) if isinstance(r, MultiLevelTilingWithIntrin)]
        assert found[0].intrin_name == name
        assert all(type(r) is MultiLevelTilingPacked for r in found)
        kinds = [type(r) for r in ScheduleRule.create(kind)]
        last = len(kinds) - 1 - kinds[::-1].index(MultiLevelTilingPacked)
        assert kinds.index(MultiLevelTiling) > last
        posts = [p for p in Postproc.create(kind) if type(p).__name__ != "RewriteLayout"]
        assert isinstance(posts[-1], RewriteTensorize)
        assert posts[-1].vectorize_init_loop
    assert not any(isinstance(r, MultiLevelTilingWithIntrin) for r in ScheduleRule.create("llvm"))


def test_an_unknown_intrinsic_is_refused_at_once() -> None:
    with pytest.raises(UserError, match="no tensor intrinsic"):
        MultiLevelTilingWithIntrin("dot_1x1", structure="SSRSRS")


# ----------------------------------------------------------------------------- the postproc
@pytest.mark.parametrize("which", range(3))
def test_sketches_become_programs_with_the_instruction(which: int) -> None:
    func = u8_matmul(32, 32, 32)
    sch = [s for s in sketches(func) if names(s) is not None][which]
    posts: list[Postproc] = [
        DisallowDynamicLoop(), RewriteParallelVectorizeUnroll(), RewriteReductionBlock(),
        RewriteTensorize(vectorize_init_loop=True),
    ]  # fmt: skip
    assert postprocess(sch, posts) is None
    text = sch.mod.script()
    assert "x86.vpdpbusd" in text
    assert "auto_tensorize" not in text
    assert "T.vectorized(16)" in text
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (32, 32)).astype(np.uint8)
    b = rng.integers(-128, 128, (32, 32)).astype(np.int8)
    want = a.astype(np.int32) @ b.astype(np.int32).T
    c = np.zeros((32, 32), np.int32)
    run(sch.mod["mm"], a, b, c)
    np.testing.assert_array_equal(c, want)
    if HERE:
        c[:] = -1
        build(sch.mod, "llvm -num-cores=2")["mm"](a, b, c)
        np.testing.assert_array_equal(c, want)


def asked(name: str, func: PrimFunc | None = None) -> Schedule:
    """A product whose inner block asks for an intrinsic."""
    sch = Schedule(func or i8_matmul(), seed=1)
    outer = sch.blockize(sch.get_loops(sch.get_block("C"))[1])
    sch.annotate(outer, "meta_schedule.auto_tensorize", name)
    return sch


@pytest.mark.parametrize(
    ("name", "why"), [("dot_16x4_vnni", "does not match"), ("dot_1x1", "no tensor intrinsic")]
)
def test_a_block_that_does_not_match_stays_scalar(
    name: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refused the whole candidate. The warning comes once, however many candidates there are."""
    monkeypatch.setattr("gputune.ir.known_annotations._said", set())
    posts = [RewriteReductionBlock(), RewriteTensorize()]
    sch = asked(name)
    with pytest.warns(UserWarning, match=f"block C_o.* without the intrinsic '{name}'.*{why}"):
        assert postprocess(sch, posts) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert postprocess(asked(name), posts) is None
    (func,) = sch.mod.functions.values()
    assert isinstance(func, PrimFunc)
    assert "auto_tensorize" not in func.script()
    rng = np.random.default_rng(2)
    shapes = [[int(n.value) for n in b.shape] for b in func.buffers]  # type: ignore[union-attr]  # constant
    a, b = (rng.integers(-9, 9, s).astype(np.int8) for s in shapes[:2])
    got, wanted = (np.full(shapes[2], -1, np.int32) for _ in range(2))
    run(func, a, b, got)
    run(i8_matmul(), a, b, wanted)
    np.testing.assert_array_equal(got, wanted)


def test_the_empty_name_asks_for_no_intrinsic() -> None:
    """It was looked up, and refused the candidate."""
    sch = asked("", u8_matmul())
    before = sch.mod.script()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert postprocess(sch, [RewriteTensorize(vectorize_init_loop=True)]) is None
    lines = [x for x in before.splitlines() if "auto_tensorize" not in x]
    assert sch.mod.script().splitlines() == lines
    sch = asked("dot_16x4_vnni", u8_matmul())
    init = sch.decompose_reduction(sch.get_block("C_o"), sch.get_loops(sch.get_block("C_o"))[0])
    sch.annotate(init, "meta_schedule.auto_tensorize_init", "")
    before_init = str(sch.get(init).body)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert postprocess(sch, [RewriteTensorize(vectorize_init_loop=True)]) is None
    assert str(sch.get(init).body) == before_init


def test_what_only_an_instruction_can_read_refuses_the_candidate() -> None:
    """A block on fragments of tensor cores has no scalar form."""
    sch = asked("wmma_fill_16x16x16_f32")
    sch.cache_write(sch.get_block("C_o"), 0, "wmma.accumulator")
    error = postprocess(sch, [RewriteReductionBlock(), RewriteTensorize()])
    assert error is not None
    assert error.code == "tensorize-match"
    assert error.message.startswith("RewriteTensorize: tensorize: block C_o")


def test_inits_take_their_own_intrinsic() -> None:
    @T.prim_func
    def fill_desc(C: T.Buffer((16,), "int32")):
        for i in range(16):
            with T.block("fill"):
                vi = T.axis.spatial(16, i)
                C[vi] = 0

    @T.prim_func
    def fill_impl(C: T.Buffer((16,), "int32")):
        C[0:16] = T.Broadcast(0, 16)

    from gputune.target.intrin import TensorIntrin

    TensorIntrin.register("test.fill16", fill_desc, fill_impl, override=True)
    func = u8_matmul()
    sch = Schedule(func, seed=1)
    block = sch.get_block("C")
    _, j, k = sch.get_loops(block)
    _, j1 = sch.split(j, [None, 16])
    k0, k1 = sch.split(k, [None, 4])
    sch.reorder(k0, j1, k1)
    outer = sch.blockize(j1)
    sch.annotate(outer, "meta_schedule.auto_tensorize", "dot_16x4_vnni")
    sch.annotate(outer, "meta_schedule.auto_tensorize_init", "test.fill16")
    assert postprocess(sch, [RewriteReductionBlock(), RewriteTensorize()]) is None
    text = sch.mod.script()
    assert "T.Broadcast(0, 16)" in text
    assert "x86.vpdpbusd" in text
    assert "auto_tensorize" not in text


# ----------------------------------------------------------------------------- all together
@pytest.mark.skipif(not HERE, reason="this processor has no avx512vnni")
def test_tuning_finds_that_the_instruction_wins(tmp_path: Path) -> None:
    """A few trials on this machine: candidates of both kinds are measured, all are right (tuning
    checks what it keeps), and one with the instruction is the best."""
    func = u8_matmul(64, 64, 64)
    database = ms.tune_tir(
        func, "llvm -num-cores=1", str(tmp_path), max_trials_global=16, num_trials_per_iter=8,
        seed=1,
    )  # fmt: skip
    records = [r for r in database.get_all_tuning_records() if r.run_secs]
    best = min(records, key=lambda r: min(r.run_secs or [1e9]))
    assert "dot_16x4_vnni" in str(best.trace)
    sch = ms.tir_integration.compile_tir(database, func, "llvm -num-cores=1")
    assert sch is not None
    assert "x86.vpdpbusd" in sch.mod.script()
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (64, 64)).astype(np.uint8)
    b = rng.integers(-128, 128, (64, 64)).astype(np.int8)
    c = np.zeros((64, 64), np.int32)
    build(sch.mod, "llvm -num-cores=1")["mm"](a, b, c)
    np.testing.assert_array_equal(c, a.astype(np.int32) @ b.astype(np.int32).T)
