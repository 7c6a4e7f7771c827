"""Can a compiler that goes wrong for one tile size win? It never becomes the best, and the reports
name it, on a processor and on a GPU that is simulated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ms_fakes import TARGET, matmul

import gputune as gt
from gputune import meta_schedule as ms
from gputune.codegen.cuda import nvrtc
from gputune.ir.nodes import IRModule
from gputune.meta_schedule import verify
from gputune.meta_schedule.artifact import Artifact
from gputune.meta_schedule.builder import BuilderInput, BuilderResult, LocalBuilder
from gputune.meta_schedule.host_runner import HostExecutionRunner
from gputune.meta_schedule.runner import LocalRunner, RunnerInput, RunnerResult
from gputune.meta_schedule.why import Why
from gputune.schedule import Schedule
from gputune.script import from_source

BAD = [2, 8]
"""The tiling for which the last of 16 columns is computed from the first one's data."""
WRONG = "B[vk, vj % 15]"
FASTER = 1e-3


def tiles(sch: Schedule) -> None:
    i, j, k = sch.get_loops("C")
    j0, j1 = sch.split(j, sch.sample_perfect_tile(j, n=2, max_innermost_factor=16))
    sch.reorder(i, j0, j1, k)


def bound_tiles(sch: Schedule) -> None:
    tiles(sch)
    i, _, j1, _ = sch.get_loops("C")
    sch.bind(i, "blockIdx.x")
    sch.bind(j1, "threadIdx.x")


def miscompiled(x: BuilderInput) -> BuilderInput:
    """The program with a wrong index, if it has the one tile size."""
    text = x.mod.script()
    if " * 8 + " not in text:
        return x
    assert "B[vk, vj]" in text
    found = from_source(text.replace("B[vk, vj]", WRONG))
    mod = found if isinstance(found, IRModule) else IRModule({found.name: found})
    return BuilderInput(mod, x.target)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many candidates came out wrong of each batch that was built."""
    real = LocalBuilder.build
    counts: list[int] = []

    def build(self: LocalBuilder, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        inputs = [miscompiled(x) for x in build_inputs]
        counts.append(sum(a is not b for a, b in zip(inputs, build_inputs)))
        return real(self, inputs)

    monkeypatch.setattr(LocalBuilder, "build", build)
    return counts


def praised(x: RunnerInput, result: RunnerResult) -> RunnerResult:
    """A result in which the wrong program is by far the fastest."""
    if result.problem is not None or WRONG not in Artifact.load(x.artifact_path).script:
        return result
    assert result.run_secs is not None
    return RunnerResult([FASTER * s for s in result.run_secs], extras=result.extras)


class Local(LocalRunner):
    def measure(self, x: RunnerInput) -> RunnerResult:
        return praised(x, super().measure(x))


class Host(HostExecutionRunner):
    def measure(self, x: RunnerInput) -> RunnerResult:
        return praised(x, super().measure(x))


def check_result(result: ms.TuneResult, folder: Path) -> None:
    """Is the wrong one nowhere but in the reports?"""
    records = result.get_all_tuning_records()
    wrong = [r for r in records if (r.error or {}).get("kind") == "wrong_result"]
    assert len(wrong) == 1
    assert list(wrong[0].trace.decisions.values()) == [BAD]
    assert not wrong[0].is_valid
    best = result.record
    assert best is not None
    assert best.verified
    assert list(best.trace.decisions.values()) != [BAD]
    assert all(r.program != wrong[0].program for r in records if r.is_valid)
    again = ms.JSONDatabase(work_dir=folder)
    found = again.query_tuning_record(matmul(), result.tasks[0].target)
    assert found is not None
    assert found.seconds == best.seconds
    for text in (str(result.why()), str(Why.read(folder))):
        assert "wrong results" in text
        assert "check wrong_result" in text
        assert "C: " in text
        assert "differ, worst at [" in text
        assert "decisions [2, 8]" in text
    lines = map(json.loads, (folder / "failures.jsonl").read_text().splitlines())
    (line,) = [x for x in lines if x["kind"] == "wrong_result"]
    assert line["phase"] == "check"
    assert "[2, 8]" in "\n".join(line["trace"])
    assert line["program"] == wrong[0].program


def tune(folder: Path, target: str, space: Any, runner: ms.Runner) -> ms.TuneResult:
    return ms.tune_tir(
        matmul(), target, folder, 16, num_trials_per_iter=8, runner=runner, seed=1,
        space=ms.space_generator.ScheduleFn(space), cost_model="random",
    )  # fmt: skip


@pytest.mark.parametrize("eager", [True, False])
def test_a_wrong_index_in_one_tile_size_never_wins(
    planted: list[int], eager: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether every new best is checked at once, or the best of each round."""
    if not eager:
        monkeypatch.setattr(verify, "_EAGER_SECONDS", -1.0)
    result = tune(tmp_path, TARGET, tiles, Local())
    assert sum(planted) >= 1
    check_result(result, tmp_path)


def test_the_final_report_names_it(planted: list[int]) -> None:
    f = gt.tune(
        matmul(), TARGET, trials=16, seed=1, space=ms.space_generator.ScheduleFn(tiles),
        runner=Local(),
    )  # fmt: skip
    assert sum(planted) >= 1
    report = f.report()
    assert "check wrong_result" in report
    (line,) = [x for x in report.splitlines() if x.startswith("  wrong ")]
    assert "1 candidate rejected: C: " in line
    assert "decisions [2, 8]" in line
    a, b = np.random.default_rng(0).random((2, 16, 16), dtype=np.float32)
    np.testing.assert_allclose(f(a, b), a @ b, rtol=1e-4)


@pytest.mark.skipif(
    nvrtc.load() is None or (shutil.which("g++") is None and shutil.which("clang++") is None),
    reason="no NVRTC, or no C++ compiler for host execution",
)
def test_nor_on_a_gpu_that_is_simulated(planted: list[int], tmp_path: Path) -> None:
    result = tune(tmp_path, "cuda -arch=sm_80", bound_tiles, Host())
    assert sum(planted) >= 1
    check_result(result, tmp_path)
