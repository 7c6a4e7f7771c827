"""Rules with `must_divide=False`: tiles that need not divide their loops. What do they compute, on
matrices of decisions as by replay, and what does a prime extent get from them?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from search_spaces import MACHINE
from space_programs import row_sum
from test_cuda_space import needs_compiler
from test_tensorize_rules import HERE

import gputune.meta_schedule as ms
from gputune.ir.interp import run
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.kernels import KERNELS
from gputune.meta_schedule.decisions import Tile
from gputune.meta_schedule.mutator import MutateTileSize
from gputune.meta_schedule.population import Sketch
from gputune.meta_schedule.postproc import Postproc
from gputune.meta_schedule.schedule_rule import (
    CUDA,
    LLVM,
    AddRFactor,
    MultiLevelTiling,
    MultiLevelTilingWideVector,
    MultiLevelTilingWithIntrin,
    ReuseType,
    ScheduleRule,
)
from gputune.runtime.module import build
from gputune.schedule import Schedule
from gputune.schedule.tilings import Covering
from gputune.target import Target
from tests.properties.on_the_host import check_on_the_host as check
from tests.schedule.tensor_programs import u8_matmul

CPU = MultiLevelTiling(
    "SSRSRS", max_innermost_factor=64, reuse_write=ReuseType("may", [1, 2], "global"),
    must_divide=False,
)  # fmt: skip
GPU = MultiLevelTiling(
    "SSSRRSRS", tile_binds=["blockIdx.x", "vthread.x", "threadIdx.x"], max_innermost_factor=64,
    vector_load_lens=[1, 2, 3, 4], reuse_read=ReuseType("must", [4], "shared"),
    reuse_write=ReuseType("must", [3], "local"), must_divide=False,
)  # fmt: skip


def sketches(
    func: PrimFunc, rules: list[ScheduleRule], target: str = "llvm -num-cores 2", **kw: Any
) -> list[Sketch]:
    context = ms.TuneContext(
        func, target=Target(target), rand_state=5,
        space_generator=ms.space_generator.PostOrderApply(sch_rules=rules, **kw),
    )  # fmt: skip
    assert context.space_generator is not None
    posts = context.space_generator.postprocs
    spaces = context.generate_design_space()
    machine = MACHINE if "llvm" in target else None
    return [Sketch(IRModule({func.name: func}), s.trace, posts, machine) for s in spaces]  # type: ignore[arg-type]  # a list


def swapped(rules: tuple[ScheduleRule, ...], by: ScheduleRule) -> list[ScheduleRule]:
    return [by if type(r) is type(by) else r for r in rules]


def rules_of(sketch: Sketch) -> set[type]:
    return {type(s.rule) for s in sketch.decisions.sites if type(s) is Tile}


def odd_matmul(m: int = 13, n: int = 37, k: int = 11) -> PrimFunc:
    return KERNELS["matmul"].build(m=m, n=n, k=k)


def both_ways(sketch: Sketch, rows: Any) -> Any:
    """Verdicts of a matrix, which are those of replaying each row."""
    found = sketch.evaluate(rows)
    replayed = Sketch(
        sketch.mod, sketch.trace, sketch.postprocs, sketch.machine, by_replay=True
    ).evaluate(rows)
    assert (found.valid == replayed.valid).all()
    assert (found.features == replayed.features).all()
    assert (found.score == replayed.score).all()
    assert not sketch.fallbacks
    return found


# ----------------------------------------------------------------------------- what they sample
def test_a_prime_extent_gets_useful_tiles() -> None:
    """Divisors of 127 leave a loop whole or in single steps."""
    func = odd_matmul(127, 127, 127)
    for must_divide, useful in ((True, 0.0), (False, 0.5)):
        rule = MultiLevelTiling("SSRSRS", max_innermost_factor=64, must_divide=must_divide)
        (sketch,) = sketches(func, [rule])
        rows = sketch.decisions.sample(500, np.random.default_rng(1))
        assert bool(both_ways(sketch, rows[:60]).valid.all())
        tiles = [s for s in sketch.decisions.sites if type(s) is Tile]
        assert len(tiles) == 3
        for s in tiles:
            share = np.mean((rows[:, s.columns.stop - 1] > 1) & (rows[:, s.columns.stop - 1] < 127))
            assert (share >= useful) if useful else share == 0


def test_without_the_option_tiles_divide() -> None:
    for extent in (127, 128):
        (sketch,) = sketches(odd_matmul(extent, 64, 48), [MultiLevelTiling("SSRSRS")])
        assert Covering not in rules_of(sketch)


@pytest.mark.parametrize(("rules", "target"), [(LLVM, "llvm"), (CUDA, "cuda -arch=sm_80")])
def test_by_default_it_depends_on_the_loop(rules: tuple[ScheduleRule, ...], target: str) -> None:
    """Those with a prime factor above 7 have few divisors; short ones have few tiles anyway."""
    for extent, covers in ((16, False), (13, False), (17, True), (33, True), (1000, False)):
        sketch, *_ = sketches(odd_matmul(extent, 64, 48), list(rules), target)
        assert (Covering in rules_of(sketch)) is covers, extent


def test_a_long_sum_of_prime_extent_is_factored_by_default() -> None:
    found = sketches(odd_matmul(1, 1, 8191), list(LLVM))
    assert any(Covering in rules_of(s) for s in found)


# ----------------------------------------------------------------------------- what they compute
@pytest.mark.parametrize("name", ["matmul", "conv2d", "batch_matmul"])
def test_candidates_on_llvm_compute_the_same(name: str) -> None:
    shape = {
        "matmul": {"m": 13, "n": 37, "k": 11},
        "conv2d": {"n": 1, "h": 7, "w": 7, "ci": 3, "co": 11},
        "batch_matmul": {"b": 3, "m": 7, "n": 13, "k": 5},
    }[name]
    kernel = KERNELS[name]
    func = kernel.build(shape, "float32")
    seen = predicates = 0
    for sketch in sketches(func, swapped(LLVM, CPU)):
        if Covering not in rules_of(sketch):
            continue
        rows = sketch.decisions.sample(24, np.random.default_rng(3))
        found = both_ways(sketch, rows)
        for k in np.flatnonzero(found.valid)[:5]:
            scheduled = sketch.materialise(rows[k]).mod
            predicates += "T.where" in scheduled.script()
            arrays = list(kernel.arguments(shape, "float32", 3, exact=True))
            wanted, interpreted = [a.copy() for a in arrays], [a.copy() for a in arrays]
            run(func, *wanted)
            run(scheduled[func.name], *interpreted)
            build(scheduled, "llvm --num-cores=2")[func.name](*arrays)
            for want, a, b in zip(wanted, arrays, interpreted, strict=True):
                np.testing.assert_array_equal(a, want)
                np.testing.assert_array_equal(b, want)
            seen += 1
    assert seen >= 10
    assert predicates >= 5


@needs_compiler
def test_candidates_on_a_gpu_compute_the_same() -> None:
    func = odd_matmul(13, 37, 11)
    (sketch,) = sketches(func, swapped(CUDA, GPU), "cuda -arch=sm_80")
    assert rules_of(sketch) == {Covering}
    rows = sketch.decisions.sample(400, np.random.default_rng(4))
    good = np.flatnonzero(both_ways(sketch, rows).valid)
    assert len(good) > 20
    uneven = [k for k in good if "T.where" in sketch.materialise(rows[k]).mod.script()]
    for seed, k in enumerate(uneven[:4]):
        (scheduled,) = sketch.materialise(rows[k]).mod.functions.values()
        assert isinstance(scheduled, PrimFunc)
        check(func, scheduled, seed)
    assert len(uneven) >= 4


def test_partial_results_of_parts_that_do_not_divide() -> None:
    """AddRFactor on a prime reduction."""
    func = KERNELS["row_sum"].build(m=3, n=127) if "row_sum" in KERNELS else row_sum
    found = sketches(func, [AddRFactor(16, 64, must_divide=False)])
    factored = [s for s in found if "sch.rfactor" in str(s.trace)]
    assert len(factored) == 2
    for sketch in factored:
        assert rules_of(sketch) == {Covering}
        rows = sketch.decisions.sample(20, np.random.default_rng(2))
        assert bool(both_ways(sketch, rows).valid.all())
        for row in rows[:4]:
            scheduled = sketch.materialise(row).mod
            (f,) = func.buffers[:1]
            a = np.random.default_rng(1).integers(-8, 8, [int(n.value) for n in f.shape])
            a = a.astype(np.float32)
            s = np.zeros(a.shape[0], np.float32)
            build(scheduled, "llvm --num-cores=2")[func.name](a, s)
            np.testing.assert_array_equal(s, a.sum(1))


def test_wide_vectors_and_tiles_around_them() -> None:
    rule = MultiLevelTilingWideVector("SRSRS", 256, max_innermost_factor=64, must_divide=False)
    func = odd_matmul()
    sch = Schedule(func, seed=2)
    (tiled,) = rule.apply(sch, sch.get_block("C"))
    assert str(tiled.trace).count("sample_tile(") == 3
    sketch = Sketch(IRModule.from_expr(func), tiled.trace, [], MACHINE)
    rows = sketch.decisions.sample(20, np.random.default_rng(1))
    assert bool(both_ways(sketch, rows).valid.all())
    for row in rows[:4]:
        arrays = list(
            KERNELS["matmul"].arguments({"m": 13, "n": 37, "k": 11}, "float32", 1, exact=True)
        )
        wanted = [a.copy() for a in arrays]
        run(func, *wanted)
        run(sketch.materialise(row).mod[func.name], *arrays)
        np.testing.assert_array_equal(arrays[-1], wanted[-1])


def test_instructions_and_tiles_around_them() -> None:
    """As many instructions as need be: the tiles count these, and need not divide their number."""
    rule = MultiLevelTilingWithIntrin(
        "dot_16x4_vnni", structure="SSRSRS", max_innermost_factor=64,
        reuse_write=ReuseType("may", [1, 2], "global"), must_divide=False,
    )  # fmt: skip
    func = u8_matmul(13, 16 * 7, 4 * 11)
    seen = 0
    for sketch in sketches(
        func, [rule], "llvm -mcpu=cascadelake", postprocs=Postproc.create("vnni")
    ):
        if "auto_tensorize" not in str(sketch.trace):
            continue
        assert rules_of(sketch) == {Covering}
        rows = sketch.decisions.sample(40, np.random.default_rng(6))
        found = both_ways(sketch, rows)
        for k in np.flatnonzero(found.valid)[:4]:
            scheduled = sketch.materialise(rows[k]).mod
            assert "x86.vpdpbusd" in scheduled.script()
            rng = np.random.default_rng(1)
            a = rng.integers(0, 256, (13, 44)).astype(np.uint8)
            b = rng.integers(-128, 128, (112, 44)).astype(np.int8)
            want = a.astype(np.int32) @ b.astype(np.int32).T
            c = np.zeros((13, 112), np.int32)
            run(scheduled["mm"], a, b, c)
            np.testing.assert_array_equal(c, want)
            if HERE:
                c[:] = -1
                build(scheduled, "llvm -num-cores=2")["mm"](a, b, c)
                np.testing.assert_array_equal(c, want)
            seen += 1
    assert seen >= 6


# ----------------------------------------------------------------------------- how they vary
def test_tiles_that_need_not_divide_are_mutated() -> None:
    """Named for a bug: MutateTileSize left the tiles of `sample_tile` as they were."""
    func = odd_matmul(127, 127, 127)
    (sketch,) = sketches(func, [MultiLevelTiling("SRS", must_divide=False)])
    m = MutateTileSize()
    m.initialize_with_tune_context(ms.TuneContext(func, target="llvm", rand_state=1))
    seen = set()
    for _ in range(30):
        new = m.apply(sketch.trace)
        assert new is not None
        pairs = [
            (tuple(sketch.trace.decisions[a]), tuple(new.decisions[b]))
            for a, b in zip(sketch.trace.insts, new.insts, strict=True) if a.kind.samples
        ]  # fmt: skip
        ((_, now),) = [p for p in pairs if p[0] != p[1]]
        seen.add(now)
        new.apply_to_schedule(Schedule(func, seed=1))
    assert len(seen) > 5
    assert MutateTileSize().apply(sketch.trace) is None  # without a context nothing is known
