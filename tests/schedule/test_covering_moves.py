"""Tiles that need not divide, with every primitive that works on the loops they make: whole
matrices of decisions say what replays say, and each program computes what the plain one does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from gputune.errors import ScheduleError
from gputune.ir.nodes import For, IRModule, PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.kernels.conv import KERNELS as CONV
from gputune.kernels.dense import KERNELS as DENSE
from gputune.kernels.rows import KERNELS as ROWS
from gputune.lower.gpu import lower_gpu
from gputune.meta_schedule.population import Sketch
from gputune.meta_schedule.postproc import Postproc
from gputune.meta_schedule.schedule_rule import ScheduleRule
from gputune.meta_schedule.search_strategy import EvolutionarySearch
from gputune.meta_schedule.sketch_feature import Machine, columns, features
from gputune.meta_schedule.sketch_layout import describe
from gputune.meta_schedule.space_generator import PostOrderApply, ScheduleFn
from gputune.meta_schedule.tune_context import TuneContext
from gputune.runtime.module import build
from gputune.schedule import BlockRV, LoopRV, Schedule, Trace
from gputune.schedule.trace import Instruction
from gputune.script import tir as T
from gputune.target import Target
from tests.properties.moves import inputs, results

MACHINE = Machine(cores=2, vector_bytes=64, registers=32)
M, N, K = 13, 22, 11


@T.prim_func
def three(A: T.Buffer((M, K)), B: T.Buffer((K, N)), D: T.Buffer((M, N))):
    P = T.alloc_buffer((M, K))
    C = T.alloc_buffer((M, N))
    for i, k in T.grid(M, K):
        with T.block("P"):
            vi, vk = T.axis.remap("SS", [i, k])
            P[vi, vk] = A[vi, vk] * 2.0
    for i, j, k in T.grid(M, N, K):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = 0.0
            C[vi, vj] = C[vi, vj] + P[vi, vk] * B[vk, vj]
    for i, j in T.grid(M, N):
        with T.block("D"):
            vi, vj = T.axis.remap("SS", [i, j])
            D[vi, vj] = T.max(C[vi, vj], 3.0)


Loops = list[LoopRV]


def tiled(sch: Schedule, limit: int = 16) -> tuple[BlockRV, Loops, Loops, Loops]:
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    a, b, c = (sch.split(x, sch.sample_tile(x, 2, limit)) for x in (i, j, k))
    sch.reorder(a[0], b[0], c[0], a[1], c[1], b[1])
    return block, list(a), list(b), list(c)


def _split_again(sch: Schedule) -> None:
    _, a, b, _ = tiled(sch)
    sch.split(a[1], sch.sample_tile(a[1], 2))
    sch.split(b[1], [None, 4])


def _reorder(sch: Schedule) -> None:
    _, a, b, c = tiled(sch)
    sch.reorder(c[0], b[1], a[1])


def _fuse(sch: Schedule) -> None:
    _, a, b, _ = tiled(sch)
    sch.parallel(sch.fuse(a[0], b[0]))


def _vectorize(sch: Schedule) -> None:
    sch.vectorize(tiled(sch)[2][1])


def _unroll(sch: Schedule) -> None:
    sch.unroll(tiled(sch)[1][1])


def _parallel(sch: Schedule) -> None:
    sch.parallel(tiled(sch)[1][0])


def _compute_at(sch: Schedule) -> None:
    _, _, _, c = tiled(sch)
    sch.compute_at(sch.get_block("P"), c[0], True)


def _reverse_compute_at(sch: Schedule) -> None:
    _, _, b, _ = tiled(sch)
    sch.reverse_compute_at(sch.get_block("D"), b[0], True)


def _cache_read(sch: Schedule) -> None:
    block, _, _, c = tiled(sch)
    sch.compute_at(sch.cache_read(block, 1, "global"), c[0], True)


def _cache_write(sch: Schedule) -> None:
    block, _, b, _ = tiled(sch)
    cache = sch.cache_write(block, 0, "global")
    sch.reverse_compute_at(cache, b[0], True)
    sch.vectorize(sch.get_loops(cache)[-1])


def _decompose_reduction(sch: Schedule) -> None:
    block, _, _, c = tiled(sch)
    sch.decompose_reduction(block, c[0])


def _rfactor(sch: Schedule) -> None:
    block = sch.get_block("C")
    k = sch.get_loops(block)[2]
    _, inner = sch.split(k, sch.sample_tile(k, 2))
    sch.decompose_reduction(sch.rfactor(inner, 0), sch.get_loops("C_rf")[0])


def _compute_inline(sch: Schedule) -> None:
    tiled(sch)
    sch.compute_inline("P")


def _annotate(sch: Schedule) -> None:
    block, a, b, _ = tiled(sch)
    i = sch.get_loops("D")[0]
    factors = sch.sample_tile(i, 2)
    sch.split(i, factors)
    sch.annotate(block, "width", factors[1])
    sch.annotate(b[0], "pragma_auto_unroll_max_step", factors[0])
    sch.add_unit_loop(a[0])


MOVES: list[Callable[[Schedule], None]] = [
    _split_again, _reorder, _fuse, _vectorize, _unroll, _parallel, _compute_at,
    _reverse_compute_at, _cache_read, _cache_write, _decompose_reduction, _rfactor,
    _compute_inline, _annotate,
]  # fmt: skip


def sketch_of(space: Callable[[Schedule], None]) -> Sketch:
    sch = Schedule(three, seed=3)
    space(sch)
    return Sketch(IRModule.from_expr(three), sch.trace, (), MACHINE)


def agree(sketch: Sketch, rows: Any) -> list[Schedule]:
    """Whole matrix against single replays: which are legal, and the features of those."""
    found = sketch.evaluate(rows)
    legal = []
    for k, row in enumerate(rows):
        sch, refusal = sketch.schedule(row)
        assert (refusal is None) == bool(found.valid[k]), (row, refusal)
        if refusal is None:
            layout, facts = describe(sch.mod)
            x, score = features(layout, columns(facts), MACHINE)
            assert (x[0] == found.features[k]).all()
            assert score[0] == found.score[k]
            legal.append(sch)
    return legal


def computes(sch: Schedule, expected: Sequence[np.ndarray]) -> None:
    arrays = inputs(three, 5)
    build(sch.mod, "llvm --num-cores=2")["three"](*arrays)
    for want, got in zip(expected, arrays, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, err_msg=str(sch.trace))


@pytest.mark.parametrize("move", MOVES, ids=lambda f: f.__name__.strip("_"))
def test_matrix_and_replay_agree_and_nothing_changes_the_numbers(
    move: Callable[[Schedule], None],
) -> None:
    sketch = sketch_of(move)
    rows = sketch.decisions.sample(30, np.random.default_rng(4))
    legal = agree(sketch, rows)
    assert len(legal) == 30  # no tile of a kind is refused
    assert not sketch.fallbacks
    texts = [s.mod.script() for s in legal]
    uneven = [s for s, x in zip(legal, texts) if "T.where" in x or "if_then_else" in x]
    assert len(uneven) > 5
    expected = results(three, 5)
    for sch in uneven[:3]:
        computes(sch, expected)
        again = Schedule(three, seed=9)
        Trace.from_json(sch.trace.as_json()).apply_to_schedule(again)
        assert again.mod.script() == sch.mod.script()


# ----------------------------------------------------------------------------- on a GPU
def _bind(sch: Schedule) -> None:
    for name in ("P", "C", "D"):
        i, j, *_ = sch.get_loops(name)
        a, b = (sch.split(x, sch.sample_tile(x, 2)) for x in (i, j))
        sch.reorder(a[0], b[0], a[1], b[1])
        sch.bind(a[0], "blockIdx.y")
        sch.bind(b[0], "blockIdx.x")
        sch.bind(a[1], "threadIdx.y")
        sch.bind(b[1], "threadIdx.x")


def _bind_with_caches(sch: Schedule) -> None:
    sch.compute_inline("P")
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    (_, rows), (_, columns) = factors = sch.sample_tile(i, 2), sch.sample_tile(j, 2)
    a, b = sch.split(i, factors[0]), sch.split(j, factors[1])
    c = sch.split(k, sch.sample_tile(k, 2))
    sch.reorder(a[0], b[0], a[1], b[1], *c)
    for loop, axis in zip(
        (a[0], b[0], a[1], b[1]), ("blockIdx.y", "blockIdx.x", "threadIdx.y", "threadIdx.x")
    ):
        sch.bind(loop, axis)
    local = sch.cache_write(block, 0, "local")
    sch.reverse_compute_at(local, b[1], True)
    shared = sch.cache_read(block, 1, "shared")
    sch.compute_at(shared, c[0], True)
    fetched = sch.fuse(*sch.get_loops(shared)[-2:])
    _, y, x = sch.split(fetched, [None, rows, columns])  # as many threads as the tiles have
    sch.bind(y, "threadIdx.y")
    sch.bind(x, "threadIdx.x")
    i, j = sch.get_loops("D")
    sch.bind(i, "blockIdx.x")
    sch.bind(j, "threadIdx.x")


@pytest.mark.parametrize("move", [_bind, _bind_with_caches], ids=["bind", "bind_with_caches"])
def test_bound_tiles_agree_and_lower_to_predicates(move: Callable[[Schedule], None]) -> None:
    sketch = sketch_of(move)
    rows = sketch.decisions.sample(12, np.random.default_rng(6))
    legal = [s for s, refusal in map(sketch.schedule, rows) if refusal is None]
    assert [refusal is None for _, refusal in map(sketch.schedule, rows)] == list(
        sketch.verdicts(rows)
    )
    assert len(legal) == 12
    uneven = 0
    for sch in legal:
        kernels = lower_gpu(sch.mod["three"]).kernels
        body = next(k.func for k in kernels if k.name.count("kernel")).script()
        uneven += "T.where" in sch.mod.script() and "if " in body
        expected = results(three, 5)
        for want, got in zip(expected, results(sch.mod["three"], 5), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5)
    assert uneven > 4


# ----------------------------------------------------------------------------- users
class TilesOfMine(ScheduleRule):
    """A rule of a user: every block in tiles that need not divide."""

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        loops = sch.get_loops(block)
        if not loops:
            return [sch]  # the root block
        parts = [sch.split(x, sch.sample_tile(x, 2, 8)) for x in loops]
        sch.reorder(*[p[0] for p in parts], *[p[1] for p in parts])
        return [sch]

    def clone(self) -> TilesOfMine:
        return TilesOfMine()


def _samples(sch: Schedule) -> list[Instruction]:
    return [i for i in sch.trace.insts if i.kind.name == "SampleTile"]


@pytest.mark.parametrize("kind", ["rule", "function"])
def test_a_rule_and_a_function_of_a_user_are_searched(kind: str) -> None:
    parts: dict[str, Any] = {"sch_rules": [], "postprocs": [], "mutator_probs": {}}
    generator = (
        PostOrderApply(**{**parts, "sch_rules": [TilesOfMine()]})
        if kind == "rule"
        else ScheduleFn(_cache_write, **parts)
    )
    context = TuneContext(
        three, target="llvm -num-cores 2", space_generator=generator,
        search_strategy=EvolutionarySearch(population_size=64, init_measured_ratio=0.0,
                                           init_min_unmeasured=8, genetic_num_iters=1),
        rand_state=3,
    )  # fmt: skip
    from gputune.meta_schedule.database import MemoryDatabase

    context.pre_tuning(12, 12, None, MemoryDatabase(), None)
    batch = context.generate_measure_candidates()
    assert batch is not None
    assert len(batch) == 12
    expected = results(three, 5)
    for candidate in batch[:4]:
        assert _samples(candidate.sch)
        computes(candidate.sch, expected)
    assert any(
        int(f.extent.value) not in (1, 2, 11, 13, 22)  # no divisor of any extent
        for c in batch
        for f in walk_stmt(c.sch.mod["three"].body)
        if type(f) is For
    )
    context.post_tuning()


def test_decisions_that_do_not_cover_are_refused() -> None:
    sch = Schedule(three, seed=1)
    i = sch.get_loops("C")[0]
    before = sch.mod.script(), str(sch.trace)
    with pytest.raises(ScheduleError) as e:
        sch.sample_tile(i, 2, decision=[2, 6])
    assert e.value.code == "sample-decision"
    assert "[2, 6]" in str(e.value)
    assert (sch.mod.script(), str(sch.trace)) == before


# ----------------------------------------------------------------------------- the rules
KERNELS = {
    "matmul": DENSE["matmul"].build(m=39, n=50, k=22),
    "conv2d": CONV["conv2d"].build(
        n=1, h=5, w=7, ci=3, co=11, kernel=3, stride=1, dilation=1, groups=1, padding=1
    ),
    "softmax": ROWS["softmax"].build(m=13, n=37),
}


def default_spaces(func: PrimFunc, target: str) -> list[Sketch]:
    context = TuneContext(
        func, target=target, space_generator="post-order-apply", search_strategy="evolutionary",
        rand_state=5,
    )  # fmt: skip
    spaces = context.generate_design_space()
    posts = Postproc.create(target.split()[0])
    for p in posts:
        p.initialize_with_tune_context(context)
    machine = Machine.of(Target(target))
    return [Sketch(IRModule.from_expr(func), s.trace, posts, machine) for s in spaces]


@pytest.mark.parametrize("target", ["llvm -num-cores 2", "cuda -arch=sm_80"])
@pytest.mark.parametrize("name", KERNELS)
def test_every_default_rule_works_with_tiles_that_need_not_divide(
    name: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Schedule, "sample_perfect_tile", Schedule.sample_tile)
    func = KERNELS[name]
    expected = results(func, 5)
    covered = legal = 0
    count = 6 if target.startswith("llvm") else 120  # few have as many threads as a warp
    for sketch in default_spaces(func, target)[:3]:
        covered += any(i.kind.name == "SampleTile" for i in sketch.trace.insts)
        rows = sketch.decisions.sample(count, np.random.default_rng(8))
        verdicts = sketch.verdicts(rows)
        few = [k for so in (True, False) for k in np.flatnonzero(verdicts == so)[:3]]
        for row, good in zip(rows[few], verdicts[few], strict=True):
            sch, refusal = sketch.schedule(row)
            assert (refusal is None) == good, (row, refusal)
            if refusal is not None:
                continue
            legal += 1
            if legal % (4 if target.startswith("llvm") else 12) == 1:
                got = run_on(sch, func, target)
                for want, have in zip(expected, got, strict=True):
                    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)
    assert legal > 1
    assert covered > 0 or name == "softmax"  # nothing is tiled there on a GPU


def run_on(sch: Schedule, func: PrimFunc, target: str) -> Sequence[np.ndarray]:
    """The arguments after a run: by machine code of the CPU; a GPU's program by the interpreter,
    once it is known that it can be cut into kernels."""
    (scheduled,) = sch.mod.functions.values()
    if target.startswith("cuda"):
        lower_gpu(scheduled)
        return results(scheduled, 5)
    arrays = inputs(func, 5)
    build(sch.mod, "llvm --num-cores=2")[func.name](*arrays)
    return arrays
