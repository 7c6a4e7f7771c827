"""The counts that a search must give exactly, from end to end on a pretended machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ms_fakes import TARGET, FakeBuilder, FakeRunner, matmul
from search_spaces import two_tiles

from gputune import meta_schedule as ms
from gputune.schedule import Schedule

STRATEGIES = ["evolutionary", "replay-trace", "replay-func"]
BARE: dict[str, Any] = {"postprocs": [], "mutator_probs": {}}


class Batches(FakeBuilder):
    """A builder that counts the distinct programs."""

    def __init__(self) -> None:
        super().__init__()
        self.programs: list[str] = []

    def build(self, build_inputs: list[ms.BuilderInput]) -> list[ms.BuilderResult]:
        self.programs += [ms.utils.shash2hex(x.mod) for x in build_inputs]
        return super().build(build_inputs)


def tuned(
    tmp: Path, space: Any, strategy: str, most: int, per_iter: int, **options: Any
) -> tuple[Batches, ms.TuneResult]:
    builder = Batches()
    result = ms.tune_tir(
        matmul(32), TARGET, tmp, most, num_trials_per_iter=per_iter, builder=builder,
        runner=FakeRunner(lambda i: 1e-3), database="memory", cost_model="random",
        space=ms.ScheduleFn(space, **BARE), strategy=strategy, seed=5, verify=False, **options,
    )  # fmt: skip
    return builder, result


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_exactly_25_candidates_of_two_extents_of_32_with_innermost_16(
    strategy: str, tmp_path: Path
) -> None:
    builder, result = tuned(tmp_path, two_tiles, strategy, 1000, 64)
    assert len(builder.programs) == len(set(builder.programs)) == len(result) == 25


def three_tiles(sch: Schedule) -> None:
    for loop in sch.get_loops(sch.get_block("C")):
        sch.split(loop, sch.sample_perfect_tile(loop, n=3))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_batches_of_7_7_6_for_20_trials_by_7(strategy: str, tmp_path: Path) -> None:
    builder, result = tuned(tmp_path, three_tiles, strategy, 20, 7)
    assert [n for n in builder.sizes if n] == [7, 7, 6]
    assert len(result) == 20


@pytest.mark.parametrize("scheduler", ["gradient", "round-robin"])
def test_three_tasks_of_101_trials_each_end_with_303_records(
    scheduler: str, tmp_path: Path
) -> None:
    tasks = [
        ms.TuneContext(
            matmul(n), target=TARGET, space_generator=ms.ScheduleFn(three_tiles, **BARE),
            search_strategy="replay-trace", task_name=f"matmul{n}", rand_state=n,
        )
        for n in (16, 32, 64)
    ]  # fmt: skip
    builder, runner = Batches(), FakeRunner(lambda i: 1e-3 / (1 + i % 17))
    result = ms.tune_tasks(
        tasks=tasks, task_weights=[1.0, 1.0, 1.0], work_dir=tmp_path, max_trials_global=1000,
        max_trials_per_task=101, num_trials_per_iter=6, builder=builder, runner=runner,
        database="json", cost_model="random", task_scheduler=scheduler, verify=False, seed=2,
    )  # fmt: skip
    assert len(result) == len(set(builder.programs)) == runner.measured == 303
    for task in tasks:
        records = result.get_top_k(result.commit_workload(task.mod), 1000)
        assert len(records) == 101


def five_points(sch: Schedule) -> None:
    i, _, _ = sch.get_loops(sch.get_block("C"))
    sch.split(i, sch.sample_perfect_tile(i, n=2, max_innermost_factor=16))


def test_the_space_of_five_points_is_measured_once_then_four_empty_rounds(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Sizes(ms.MeasureCallback):
        def apply(self, task_scheduler: Any, task_id: int, candidates: Any, *more: Any) -> None:
            sizes.append(len(candidates))

    builder, result = tuned(
        tmp_path, five_points, "evolutionary", 64, 64,
        measure_callbacks=[ms.AddToDatabase(), Sizes()],
    )  # fmt: skip
    assert sizes == [5, 0, 0, 0, 0]
    assert len(set(builder.programs)) == len(result) == 5
