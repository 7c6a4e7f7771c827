"""Do failures come with programs that repeat them, and are these programs safe to read?"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fault_driver import Plain
from ms_fakes import TARGET, matmul
from search_spaces import two_tiles

from gputune import meta_schedule as ms
from gputune.cli.main import main
from gputune.codegen.cuda import nvrtc
from gputune.errors import RunError, UserError
from gputune.ir.nodes import IRModule
from gputune.meta_schedule import reproduce
from gputune.meta_schedule.failures import write_failures
from gputune.meta_schedule.reproduce import (
    AGAIN,
    CANNOT_TELL,
    NOT_ANY_MORE,
    OTHERWISE,
    distinct,
    program_of,
    repeat,
    scripts_of,
    write_reproducers,
)
from gputune.schedule import Schedule
from gputune.script import tir as T
from gputune.target.host import cuda_problem

ROOT = Path(__file__).resolve().parents[2]
BARE: dict[str, Any] = {"postprocs": [], "mutator_probs": {}}


def endless() -> IRModule:
    """Works for hours, with little to read."""

    @T.prim_func(name="main")
    def main(
        A: T.Buffer((64,), "float32"),  # type: ignore[valid-type]  # script
        B: T.Buffer((64,), "float32"),  # type: ignore[valid-type]  # script
    ) -> None:
        for i, k, m in T.grid(64, 1 << 22, 1 << 10):
            with T.block("B"):
                vi, _vk, _vm = T.axis.remap("SRR", [i, k, m])
                with T.init():
                    B[vi] = T.float32(0)
                B[vi] = T.sqrt(B[vi] + A[vi] * A[vi])

    return IRModule({"main": main})


def bad_for_a_cpu(sch: Schedule) -> list[Schedule]:
    """One schedule that a processor cannot run, and one that it can."""
    bad = sch.copy()
    bad.bind(bad.get_loops(bad.get_block("C"))[0], "blockIdx.x")
    return [bad, sch]


def tiled(sch: Schedule) -> None:
    i = sch.get_loops(sch.get_block("B"))[0]
    sch.split(i, sch.sample_perfect_tile(i, n=2))


def tune(mod: IRModule, folder: Path, space: Any, trials: int = 3, **options: Any) -> ms.TuneResult:
    options = {"cost_model": "random", "strategy": "replay-trace", "seed": 3, **options}
    return ms.tune_tir(mod, TARGET, folder, trials, space=ms.ScheduleFn(space, **BARE), **options)


def run(path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """In another folder, as a user would who was sent the file."""
    return subprocess.run(
        [sys.executable, str(path)], cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


# ----------------------------------------------------------------------------- they repeat it
def test_a_build_that_fails_is_repeated(tmp_path: Path) -> None:
    tune(matmul(16), tmp_path / "work", bad_for_a_cpu)
    done = CliRunner().invoke(
        main, ["why", str(tmp_path / "work"), "--reproduce", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == "01_main_build_LowerError.py"
    assert f"{path}: build LowerError: " in done.stdout
    found = run(path, tmp_path)
    assert found.returncode == AGAIN, found.stderr
    assert found.stdout.startswith("still fails: build LowerError: ")
    assert "blockIdx.x" in found.stdout


def test_an_endless_run_is_repeated_within_its_limit(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="run timeout"):
        tune(
            endless(), tmp_path / "work", tiled, 1, verify=False,
            runner=ms.LocalRunner(timeout_sec=0.7),
        )  # fmt: skip
    ((path, case),) = write_reproducers(tmp_path / "work", tmp_path / "out").programs
    assert case.limits_s == (30.0, 0.7)
    found = run(path, tmp_path)
    assert found.returncode == AGAIN, found.stderr
    assert "still fails: run timeout: " in found.stdout


def test_what_was_mended_does_not_fail_any_more(tmp_path: Path) -> None:
    """The failure here is of a builder that is broken: gputune's own is not."""

    class Breaks(ms.LocalBuilder):
        def build(self, build_inputs: list[ms.BuilderInput]) -> list[ms.BuilderResult]:
            bad = ms.BuilderResult(None, "no luck", ms.Failure("build", "BuildError", "no luck 7"))
            return [bad, *super().build(build_inputs[1:])]

    tune(matmul(32), tmp_path, two_tiles, builder=Breaks(1), runner=Plain(), num_trials_per_iter=3)
    ((path, case),) = write_reproducers(tmp_path, tmp_path / "out").programs
    assert case.reason == "build BuildError"
    assert case.count == 1
    said: list[str] = []
    code = repeat(
        case.script, json.dumps(case.steps), json.dumps(case.target), phase="build",
        kind="BuildError", say=said.append,
    )  # fmt: skip
    assert (code, said) == (NOT_ANY_MORE, ["does not fail any more (it was: build BuildError)"])
    assert "sample_perfect_tile" in path.read_text()


def test_another_failure_is_told_from_the_same(tmp_path: Path) -> None:
    tune(matmul(16), tmp_path, bad_for_a_cpu)
    ((_, case),) = write_reproducers(tmp_path, tmp_path / "out").programs
    given = (case.script, json.dumps(case.steps), json.dumps(case.target))
    said: list[str] = []
    assert repeat(*given, phase="run", kind="crash", say=said.append) == OTHERWISE
    assert said[0].startswith("fails otherwise, it was run crash: build LowerError")


def test_checks_are_repeated(tmp_path: Path) -> None:
    """A failure of the check, of which nothing is left: it builds, runs, and computes what it
    should."""
    sch = Schedule(matmul(16), seed=1)
    sch.split(sch.get_loops(sch.get_block("C"))[0], [4, 4])
    given = (matmul(16).script(), json.dumps(sch.trace.as_json()), json.dumps({"kind": "llvm"}))
    said: list[str] = []
    code = repeat(*given, phase="check", kind="wrong_result", say=said.append)
    assert code == NOT_ANY_MORE, said


def test_wrong_numbers_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from gputune.meta_schedule import judgement
    from gputune.meta_schedule.failures import Failure
    from gputune.meta_schedule.verify import Verdict

    wrong = Verdict("wrong", Failure("check", "wrong_result", "C: 3 elements differ"))
    verdicts = iter([Verdict("right"), wrong])
    monkeypatch.setattr(judgement, "check_built", lambda *args: next(verdicts))
    sch = Schedule(matmul(16), seed=1)
    given = (matmul(16).script(), json.dumps(sch.trace.as_json()), json.dumps({"kind": "llvm"}))
    assert repeat(*given, phase="check", kind="wrong_result") == AGAIN
    monkeypatch.setattr(judgement, "check_built", lambda *args: Verdict("unknown"))
    assert repeat(*given, phase="check", kind="wrong_result") == CANNOT_TELL


@pytest.mark.skipif(
    nvrtc.load() is None or (shutil.which("g++") is None and shutil.which("clang++") is None),
    reason="needs NVRTC and a C++ compiler for host execution",
)
def test_what_failed_by_host_execution_is_tried_so() -> None:
    sch = Schedule(matmul(16), seed=1)
    i, j, _ = sch.get_loops(sch.get_block("C"))
    sch.bind(i, "blockIdx.x")
    sch.bind(j, "threadIdx.x")
    target = json.dumps({"kind": "cuda", "arch": "sm_80"})
    given = (matmul(16).script(), json.dumps(sch.trace.as_json()), target)
    how = {"phase": "run", "kind": "out-of-bounds"}
    assert repeat(*given, runner="HostExecutionRunner", **how) == NOT_ANY_MORE
    if cuda_problem() is not None:  # elsewhere nobody can say
        assert repeat(*given, runner="CudaRunner", **how) == CANNOT_TELL


@pytest.mark.parametrize(
    ("program", "steps", "target"),
    [
        ("import os", "[[], []]", '{"kind": "llvm"}'),
        (None, "[[]", '{"kind": "llvm"}'),
        (None, '[[["NoSuchStep", [], [], []]], []]', '{"kind": "llvm"}'),
        (None, "[[], []]", '{"kind": "abacus"}'),
        (None, "[[], []]", "[]"),
        (None, "[[], []]", "{"),
    ],
)
def test_what_cannot_be_tried_is_said(program: str | None, steps: str, target: str) -> None:
    said: list[str] = []
    script = matmul(16).script() if program is None else program
    assert repeat(script, steps, target, phase="run", kind="crash", say=said.append) == CANNOT_TELL
    assert said[0].startswith("cannot be tried: ")


# ----------------------------------------------------------------------------- which there are
def line(**more: Any) -> dict[str, Any]:
    return {
        "task": "t", "workload": "w", "phase": "run", "kind": "crash", "message": "at 0x12",
        "steps": [[], []], "target": {"kind": "llvm"}, "trace": ["b0 = ..."], "script": "x",
        "runner": "LocalRunner", "limits_s": [30.0, 5], **more,
    }  # fmt: skip


def test_failures_are_distinct_by_what_they_say_numbers_aside() -> None:
    lines = [
        line(), line(message="at 0x77"), line(message="elsewhere"), line(kind="timeout"),
        line(workload="v"), line(phase="start"), line(phase="refuse"), line(phase="callback"),
    ]  # fmt: skip
    cases, remarks = distinct(lines, scripts_of(lines))
    assert [(c.kind, c.message, c.count) for c in cases] == [
        ("crash", "at 0x12", 2), ("crash", "elsewhere", 1), ("timeout", "at 0x12", 1),
        ("crash", "at 0x12", 1),
    ]  # fmt: skip
    assert cases[0].limits_s == (30.0, 5.0)
    assert remarks == []


def test_lines_of_an_older_gputune_are_counted(tmp_path: Path) -> None:
    old = {k: v for k, v in line().items() if k not in ("steps", "script", "target")}
    path = tmp_path / "failures.jsonl"
    write_failures(path, [old, old])
    with pytest.raises(UserError, match=r"no failure to repeat \(2 failures lack program"):
        write_reproducers(tmp_path, tmp_path / "out")
    write_failures(path, [line(kind="other")])
    with path.open("a") as f:
        f.write('{"torn')
    written = write_reproducers(tmp_path, tmp_path / "out")
    assert [c.kind for _, c in written.programs] == ["other"]
    assert any("2 failures lack" in r for r in written.remarks)
    assert any("1 lines of" in r for r in written.remarks)


@pytest.mark.parametrize(
    "odd",
    [
        {"steps": "text"}, {"target": "llvm"}, {"steps": None}, {"script": 3},
        {"script": "x" * (5 << 20)},
    ],
)  # fmt: skip
def test_lines_that_are_not_what_they_should_be(odd: dict[str, Any]) -> None:
    lines = [line(**odd)]
    cases, remarks = distinct(lines, scripts_of(lines))
    assert cases == []
    assert len(remarks) == 1


@pytest.mark.parametrize("limits", [None, "x", [], [0, -1], [float("inf"), None], [True, True]])
def test_limits_that_are_none(limits: Any) -> None:
    ((case,), _) = distinct([line(limits_s=limits)], {"w": "x"})
    assert case.limits_s == (30.0, 30.0)


def test_nothing_to_repeat_is_said(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["why", str(tmp_path), "--reproduce", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "has no failure to repeat" in done.stderr
    assert not (tmp_path / "out").exists()
    write_failures(tmp_path / "failures.jsonl", [line()])
    with pytest.raises(UserError, match="no failure to repeat"):
        write_reproducers(tmp_path, tmp_path / "out", task="another")
    with pytest.raises(UserError, match="cannot use"):
        write_reproducers(tmp_path, tmp_path / "failures.jsonl")


def test_there_is_an_end_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "_MOST", 2)
    write_failures(tmp_path / "failures.jsonl", [line(kind=k) for k in "abcd"])
    written = write_reproducers(tmp_path, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert written.remarks == ("2 more were left out",)


# ----------------------------------------------------------------------------- data stays data
def test_nothing_from_the_file_becomes_code(tmp_path: Path) -> None:
    """Whatever a foreign file says ends up in comments or in quotes."""
    evil = "x\"\"\"\n'''\nimport os\nos.abort()\n#\r\nos.abort()\x0c\u2028os.abort()\\"
    lines = [
        line(
            task=evil, phase=evil, kind=evil, message=evil, script=evil, runner=evil,
            target={evil: evil}, steps=[evil], trace=[evil, evil],
        )
    ]  # fmt: skip
    write_failures(tmp_path / "failures.jsonl", lines)
    ((path, _),) = write_reproducers(tmp_path, tmp_path / "out").programs
    assert path.parent == tmp_path / "out"
    text = path.read_text(encoding="utf-8")
    harmless = program_of(distinct([line()], {"w": "x"})[0][0])

    def shape(program: str) -> list[str]:
        """What the program does, its constants left out."""
        tree = ast.parse(program)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant):
                node.value = 0
            if isinstance(node, ast.List):
                node.elts = node.elts[:1]
        return [ast.dump(s) for s in tree.body]

    assert shape(text) == shape(harmless)
    found = run(path, tmp_path)
    assert found.returncode == CANNOT_TELL, found.stderr
