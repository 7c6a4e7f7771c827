"""What the tests of the search schedule: a matmul, hand-made spaces, a pretended machine."""

from __future__ import annotations

from collections.abc import Callable

from gputune.ir.nodes import IRModule, PrimFunc
from gputune.kernels import suite
from gputune.kernels.dense import KERNELS
from gputune.meta_schedule.cost_model import CostModel
from gputune.meta_schedule.database import Database, MemoryDatabase
from gputune.meta_schedule.measure_candidate import MeasureCandidate
from gputune.meta_schedule.population import Sketch
from gputune.meta_schedule.postproc import Postproc
from gputune.meta_schedule.runner import RunnerResult
from gputune.meta_schedule.sketch_feature import Machine
from gputune.meta_schedule.space_generator import ScheduleFn
from gputune.meta_schedule.tune_context import TuneContext
from gputune.schedule import Schedule

MACHINE = Machine(cores=2, vector_bytes=64, registers=32)


def matmul(n: int) -> PrimFunc:
    return KERNELS["matmul"].build(m=n, n=n, k=n)


def two_tiles(sch: Schedule) -> None:
    """Two loops of extent 32, innermost at most 16: 5 x 5 candidates."""
    i, j, k = sch.get_loops(sch.get_block("C"))
    i0, i1 = sch.split(i, sch.sample_perfect_tile(i, n=2, max_innermost_factor=16))
    j0, j1 = sch.split(j, sch.sample_perfect_tile(j, n=2, max_innermost_factor=16))
    sch.reorder(i0, j0, i1, j1, k)


def five_points(sch: Schedule) -> None:
    i, _, _ = sch.get_loops(sch.get_block("C"))
    sch.split(i, sch.sample_perfect_tile(i, n=2, max_innermost_factor=16))


def many_tiles(sch: Schedule) -> None:
    i, j, k = sch.get_loops(sch.get_block("C"))
    a = sch.split(i, sch.sample_perfect_tile(i, n=4))
    b = sch.split(j, sch.sample_perfect_tile(j, n=4))
    c = sch.split(k, sch.sample_perfect_tile(k, n=2))
    sch.reorder(a[0], b[0], a[1], b[1], c[0], a[2], b[2], c[1], a[3], b[3])


def context(
    space: Callable[[Schedule], None],
    strategy: str = "evolutionary",
    n: int = 32,
    seed: int = 7,
    **parts: object,
) -> TuneContext:
    parts = {"sch_rules": [], "postprocs": [], "mutator_probs": {}, **parts}
    return TuneContext(
        matmul(n),
        target="llvm -num-cores 2",
        space_generator=ScheduleFn(space, **parts),
        search_strategy=strategy,
        rand_state=seed,
    )


def default_context(func: PrimFunc, seed: int = 7, strategy: str = "evolutionary") -> TuneContext:
    return TuneContext(
        func,
        target="llvm -num-cores 2",
        space_generator="post-order-apply",
        search_strategy=strategy,
        rand_state=seed,
    )


def sketches(func: PrimFunc) -> list[Sketch]:
    """The default space of a kernel."""
    ctx = default_context(func)
    spaces = ctx.generate_design_space()
    posts = Postproc.create("llvm")
    for p in posts:
        p.initialize_with_tune_context(ctx)
    return [Sketch(IRModule.from_expr(func), s.trace, posts, MACHINE) for s in spaces]


def suite_kernel(name: str) -> PrimFunc:
    return suite.KERNELS[name].build()


def one_millisecond(c: MeasureCandidate) -> float:
    return 1e-3


def drive(
    ctx: TuneContext,
    max_trials: int,
    per_iter: int,
    cost: Callable[[MeasureCandidate], float] = one_millisecond,
    model: CostModel | None = None,
    database: Database | None = None,
) -> tuple[list[int], list[MeasureCandidate]]:
    """Run a strategy to its end on a pretended machine: batch sizes and candidates."""
    ctx.pre_tuning(max_trials, per_iter, None, database or MemoryDatabase(), model)
    sizes: list[int] = []
    seen: list[MeasureCandidate] = []
    while True:
        batch = ctx.generate_measure_candidates()
        if batch is None:
            break
        sizes.append(len(batch))
        seen += batch
        results = [RunnerResult([cost(c)], None) for c in batch]
        if model is not None and batch:
            model.update(ctx, batch, results)
        ctx.notify_runner_results(batch, results)
        assert len(sizes) < 1000
    ctx.post_tuning()
    return sizes, seen
