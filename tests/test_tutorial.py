"""Does the MetaSchedule tutorial's way of working run, with nothing but the import lines changed?

The program and the steps are the tutorial's: transform by hand, transform at random, search over
the random choices, then over gputune's own space. Everything goes through the names that the
tutorial uses.
"""

# ruff: noqa: F821, UP037 (the tutorial's `T.Buffer[shape, "float32"]` is no type annotation)
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gputune as tvm
from gputune import meta_schedule as ms
from gputune.script import tir as T

ROOT = Path(__file__).resolve().parent.parent


@tvm.script.ir_module
class MyModule:
    @T.prim_func
    def main(
        A: T.Buffer[(128, 128), "float32"],
        B: T.Buffer[(128, 128), "float32"],
        C: T.Buffer[(128, 128), "float32"],
    ):
        T.func_attr({"global_symbol": "main", "tir.noalias": True})
        for i, j, k in T.grid(128, 128, 128):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = 0.0
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]


def fixed(sch: tvm.tir.Schedule, jfactor: int = 4) -> tvm.tir.Schedule:
    block = sch.get_block("C", "main")
    i, j, k = sch.get_loops(block=block)
    j_0, j_1 = sch.split(loop=j, factors=[None, jfactor])
    sch.reorder(i, j_0, k, j_1)
    sch.decompose_reduction(block, k)
    return sch


def stochastic(sch: tvm.tir.Schedule) -> tvm.tir.Schedule:
    block = sch.get_block("C", "main")
    i, j, k = sch.get_loops(block=block)
    factors = sch.sample_perfect_tile(loop=j, n=2)
    j_0, j_1 = sch.split(loop=j, factors=factors)
    sch.reorder(i, j_0, k, j_1)
    sch.decompose_reduction(block, k)
    return sch


class Arrays:
    """The tutorial's arrays, and the result that every version must give."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.a = rng.random((128, 128), dtype=np.float32)
        self.b = rng.random((128, 128), dtype=np.float32)
        self.args = (
            tvm.nd.array(self.a),
            tvm.nd.array(self.b),
            tvm.nd.empty((128, 128), dtype="float32"),
        )

    def run(self, mod: Any) -> float:
        """Build and time; the result must be right."""
        lib = tvm.build(mod, target="llvm")
        timer = lib.time_evaluator("main", tvm.cpu())
        mean = timer(*self.args).mean
        np.testing.assert_allclose(self.args[2].numpy(), self.a @ self.b, rtol=1e-4)
        return float(mean)


@pytest.fixture
def arrays() -> Arrays:
    return Arrays()


# ----------------------------------------------------------------------------- by hand
def test_the_program_runs(arrays: Arrays) -> None:
    assert arrays.run(MyModule) > 0


def test_the_transformed_program_runs_and_says_what_was_done(arrays: Arrays) -> None:
    sch = fixed(tvm.tir.Schedule(MyModule))
    assert arrays.run(sch.mod) > 0
    assert str(sch.trace).splitlines()[-5:] == [
        'b0 = sch.get_block(name="C", func_name="main")',
        "l1, l2, l3 = sch.get_loops(block=b0)",
        "l4, l5 = sch.split(loop=l2, factors=[None, 4], preserve_unit_iters=True)",
        "sch.reorder(l1, l4, l3, l5)",
        "b6 = sch.decompose_reduction(block=b0, loop=l3)",
    ]
    script = sch.mod.script()
    assert 'T.block("C_init")' in script
    assert 'T.block("C_update")' in script
    assert "j_0 * 4 + j_1" in script


# ----------------------------------------------------------------------------- at random
def test_random_choices_are_recorded(arrays: Arrays) -> None:
    for _ in range(3):
        sch = stochastic(tvm.tir.Schedule(MyModule))
        line = next(x for x in str(sch.trace).splitlines() if "sample_perfect_tile" in x)
        decision = json.loads(line[line.index("decision=") + 9 : -1])
        assert decision[0] * decision[1] == 128
        assert decision[1] <= 16
    arrays.run(sch.mod)


def test_sampling_alone_leaves_the_program_alone() -> None:
    sch = tvm.tir.Schedule(MyModule)
    block = sch.get_block("C", "main")
    i, j, k = sch.get_loops(block=block)
    factors = sch.sample_perfect_tile(loop=j, n=2)
    assert not isinstance(factors[0], int)  # they stand for what was chosen
    assert sch.mod.script() == MyModule.script()
    j_0, j_1 = sch.split(loop=j, factors=factors)
    sch.reorder(i, j_0, k, j_1)
    sch.reorder(i, j_0, k, j_1)  # as the tutorial does it: again, to no effect
    sch.decompose_reduction(block, k)
    assert sch.mod.script() != MyModule.script()


@pytest.mark.parametrize("make", [fixed, stochastic])
def test_the_printed_trace_replays(make: Any) -> None:
    """The text is Python; here it runs with nothing but the names that it uses."""
    sch = make(tvm.tir.Schedule(MyModule))
    assert tvm.structural_equal(replayed(str(sch.trace)).mod, sch.mod)


def replayed(text: str) -> tvm.tir.Schedule:
    sch = tvm.tir.Schedule(MyModule)
    exec(text, {"sch": sch})
    return sch


def test_random_search_by_hand(arrays: Arrays) -> None:
    best: tuple[float, Any] | None = None
    for _ in range(5):
        sch = stochastic(tvm.tir.Schedule(MyModule))
        mean = arrays.run(sch.mod)
        if best is None or mean < best[0]:
            best = mean, sch
    assert best is not None
    assert "sample_perfect_tile" in str(best[1].trace)


# ----------------------------------------------------------------------------- the search
def tuned(work_dir: Path, **options: Any) -> Any:
    return ms.tune_tir(
        mod=MyModule,
        target="llvm --num-cores=1",
        config=ms.TuneConfig(max_trials_global=64, num_trials_per_iter=64),
        work_dir=str(work_dir),
        task_name="main",
        **options,
    )


def records(work_dir: Path) -> list[Any]:
    path = work_dir / "database_tuning_record.json"
    return [json.loads(x) for x in path.read_text().splitlines()]


@pytest.mark.filterwarnings("error")
def test_the_five_point_space(
    tmp_path: Path, arrays: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five candidates are measured; a second run finds the same; without files it starts anew."""
    space = ms.space_generator.ScheduleFn(stochastic)
    first = tuned(tmp_path / "a", space=space)
    assert len(records(tmp_path / "a")) == 5
    assert len({json.dumps(r[1][0]) for r in records(tmp_path / "a")}) == 5
    log = capsys.readouterr().err
    assert log.count("INFO Sending 5 sample(s) to runner") == 1
    assert "Total trials: 5" in log
    assert "ID | Name |    FLOP | Weight | Speed (GFLOPS) | Latency (us)" in log
    assert " 0 | main | 4194304 |      1 |" in log

    trace = str(first.trace)
    assert trace.splitlines()[-1] == "sch.enter_postproc()"
    assert tvm.structural_equal(replayed(trace).mod, first.mod)
    assert arrays.run(first.mod) > 0

    again = tuned(tmp_path / "a", space=ms.space_generator.ScheduleFn(stochastic))
    assert len(records(tmp_path / "a")) == 5  # nothing new to measure
    assert again.seconds <= first.seconds
    assert str(again.trace) == trace
    assert tvm.structural_equal(again.mod, first.mod)

    for name in ("database_workload.json", "database_tuning_record.json"):
        (tmp_path / "a" / name).unlink()
    capsys.readouterr()
    anew = tuned(tmp_path / "a", space=ms.space_generator.ScheduleFn(stochastic))
    assert len(records(tmp_path / "a")) == 5
    assert "Sending 5 sample(s) to runner" in capsys.readouterr().err
    assert arrays.run(anew.mod) > 0


def test_the_default_space(tmp_path: Path, arrays: Arrays) -> None:
    before = arrays.run(MyModule)
    found = ms.tune_tir(
        mod=MyModule,
        target="llvm --num-cores=1",
        config=ms.TuneConfig(max_trials_global=8, num_trials_per_iter=8),
        work_dir=str(tmp_path),
        task_name="main",
        seed=1,
    )
    assert len(records(tmp_path)) == 8
    trace = str(found.trace)
    assert "sch.enter_postproc()" in trace
    assert "sample_perfect_tile" in trace
    assert tvm.structural_equal(replayed(trace).mod, found.mod)
    assert arrays.run(found.mod) < before
    logs = {p.name for p in (tmp_path / "logs").iterdir()}
    assert "gputune.meta_schedule.logging.task_0_main.log" in logs


SCRIPT = """
import sys
import gputune as tvm
from gputune.script import tir as T
from gputune import meta_schedule as ms

print("once")

@tvm.script.ir_module
class MyModule:
    @T.prim_func
    def main(A: T.Buffer[(64,), "float32"], B: T.Buffer[(64,), "float32"]):
        for i in range(64):
            with T.block("B"):
                vi = T.axis.spatial(64, i)
                B[vi] = A[vi] * 2.0

def stochastic(sch):
    i, = sch.get_loops(sch.get_block("B", "main"))
    sch.split(i, sch.sample_perfect_tile(i, n=2))
    return sch

found = ms.tune_tir(mod=MyModule, target="llvm --num-cores=1",
    config=ms.TuneConfig(max_trials_global=4, num_trials_per_iter=4),
    space=ms.space_generator.ScheduleFn(stochastic), work_dir=sys.argv[1], task_name="main")
print(len(found.get_all_tuning_records()))
"""


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    """Workers do not run the user's script again, as multiprocessing would."""
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "work")],
        capture_output=True,
        text=True,
        env=_environment(),
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["once", "4"]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("first", ["", "import gputune.ir, gputune.runtime, gputune.target; "])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tvm.ir.module.IRModule", "gputune.ir.nodes.IRModule"),
        ("tvm.ir.structural_equal", "structural_equal"),
        ("tvm.runtime.tensor([1.0, 2.0])", "shape=(2,)"),
        ("tvm.target.Target('llvm')", "llvm"),
        ("tvm.tir.schedule.ScheduleError", "gputune.errors.ScheduleError"),
    ],
)
def test_every_alias_resolves_at_once(first: str, name: str, said: str) -> None:
    """In a fresh process: whatever was imported before, or nothing."""
    code = f"{first}import gputune as tvm; print({name})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert said in done.stdout, done.stderr


def test_a_room_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match=r"module 'gputune\.ir' has no attribute 'nonsense'"):
        _ = tvm.ir.nonsense
    with pytest.raises(AttributeError, match=r"'gputune\.runtime' has no attribute 'nonsense'"):
        _ = tvm.runtime.nonsense
