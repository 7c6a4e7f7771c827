"""Do `gputune why` and `gputune explain` say what happened, and refuse bad input in one message?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import gputune as gt
from gputune import kernels
from gputune import meta_schedule as ms
from gputune.cli.main import main
from gputune.errors import RecordError, UserError
from gputune.schedule import Schedule

ONE_CORE = "llvm -num-cores=1"


def run(*words: str) -> Result:
    result = CliRunner().invoke(main, list(words), prog_name="gputune")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(*words: str) -> str:
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.output
    return result.stderr


def matmul(n: int = 16) -> gt.PrimFunc:
    return kernels.get("matmul").build(m=n, n=n, k=n)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, gt.TunedKernel]:
    folder = tmp_path_factory.mktemp("why") / "tuned"
    return folder, gt.tune(matmul(), ONE_CORE, trials=6, work_dir=folder, seed=1)


# ----------------------------------------------------------------------------- why
@pytest.mark.parametrize("command", ["why", "explain"])
def test_help_has_examples(command: str) -> None:
    out = run(command, "--help").stdout
    assert f"Examples:\n    gputune {command} tuned" in out
    assert all(len(line) <= 100 for line in out.splitlines())
    assert command in run("--help").stdout


def test_why_says_where_candidates_went(tuned: tuple[Path, gt.TunedKernel]) -> None:
    folder, kernel = tuned
    out = run("why", str(folder)).stdout
    rows = {words[0]: words for x in out.splitlines() if (words := x.split())}
    assert rows["measured"][1] == "6"
    assert int(rows["sampled"][1]) > 6
    assert "matmul: 1 round" in out
    assert "predicted and measured" in out
    assert rows["best"][1] in str(kernel.why())
    assert run("why", str(folder), "--task", "matmul").stdout == out


def test_why_shows_failures_with_an_example(tmp_path: Path) -> None:
    line: dict[str, Any] = {"task": "t", "workload": "w", "round": 1, "proposed": 3, "measured": 1}
    line |= {"build_errors": {"timeout": 2}, "refused": {"\x1b[31mtoo wide": 5}}
    failure = {"task": "t", "workload": "w", "phase": "build", "kind": "timeout", "message": "30 s"}
    (tmp_path / "rounds.jsonl").write_text(json.dumps(line) + '\n{"torn')
    (tmp_path / "failures.jsonl").write_text(f"{json.dumps(failure)}\n" * 2)
    out = run("why", str(tmp_path)).stdout
    assert "2 x timeout" in out
    assert "build timeout" in out
    assert "30 s" in out
    assert "too wide" in out
    assert "\x1b" not in out
    assert "1 lines of the logs cannot be read" in out


def test_why_refuses_what_it_cannot_do(tmp_path: Path, tuned: tuple[Path, Any]) -> None:
    assert "there is no folder" in refused("why", str(tmp_path / "none"))
    said = refused("why", str(tmp_path))
    assert "holds no log of a tuning" in said
    assert "hint: " in said
    said = refused("why", str(tuned[0]), "--task", "conv")
    assert "has no task 'conv'" in said
    assert "matmul" in said


# ----------------------------------------------------------------------------- explain
def test_explain_a_folder(tuned: tuple[Path, gt.TunedKernel]) -> None:
    folder, kernel = tuned
    out = run("explain", str(folder)).stdout
    lines = kernel.trace.as_python()
    changing = kernel.explain().changing
    assert len(changing) > 3
    for s in changing:
        assert f"step {s.number}: {lines[s.number - 1]}" in out
    assert "postprocessing are not shown" in out
    everything = run("explain", str(folder), "--all", "--postproc").stdout
    for k, line in enumerate(lines):
        assert f"step {k + 1}: {line}" in everything
    number = changing[0].number
    one = run("explain", str(folder), "--step", str(number)).stdout
    assert one.startswith(f"step {number}: ")
    assert "step " not in one[5:]
    assert "there is no step 999" in refused("explain", str(folder), "--step", "999")


def test_explain_as_json(tuned: tuple[Path, gt.TunedKernel]) -> None:
    folder, kernel = tuned
    found = json.loads(run("explain", str(folder), "--postproc", "--json").stdout)
    assert [x["line"] for x in found] == kernel.trace.as_python()
    assert sum(x["changes"] for x in found) == len(kernel.explain(postproc=True).changing)


def test_explain_an_export_and_a_file(tuned: tuple[Path, gt.TunedKernel], tmp_path: Path) -> None:
    folder, kernel = tuned
    whole = run("explain", str(folder)).stdout.splitlines()[1:]
    exported = kernel.export(tmp_path / "kernel")
    assert run("explain", str(exported)).stdout.splitlines()[1:] == whole
    for name, text in (("t.py", str(kernel.trace)), ("t.json", json.dumps(kernel.trace.as_json()))):
        path = tmp_path / name
        path.write_text(text)
        options = ("--kernel", "matmul", "--shape", "16,16,16")
        assert run("explain", str(path), *options).stdout.splitlines()[1:] == whole
        said = refused("explain", str(path))
        assert "does not say what it was done to" in said
        assert "--kernel KERNEL" in said


def test_explain_a_kernel_measures_nothing() -> None:
    result = run("explain", "matmul", "--shape", "16,16,16", "--target", ONE_CORE)
    assert "not measured: chosen by the analytic model" in result.stdout
    assert "sch.split(" in result.stdout


def test_tune_without_trials_says_that_nothing_was_measured() -> None:
    options = ("--shape", "16,16,16", "--target", ONE_CORE, "--trials", "0")
    out = run("tune", "matmul", *options).stdout
    assert "not measured: chosen by the analytic model (numbers verified)" in out
    assert "ID | " not in out
    assert "sch.split(" in out


def test_explain_refuses_what_it_cannot_do(tmp_path: Path, tuned: tuple[Path, Any]) -> None:
    assert "holds nothing of 'conv'" in refused("explain", str(tuned[0]), "--task", "conv")
    assert "leave --kernel" in refused("explain", str(tuned[0]), "--kernel", "matmul")
    said = refused("explain", "matmull")
    assert "there is no folder, file or kernel 'matmull'" in said
    assert "did you mean matmul" in said
    assert "has no parameter" in refused("explain", "matmul", "--shape", "x=3")
    assert "there is no file" in refused("explain", str(tmp_path / "t.py"), "--kernel", "matmul")
    refused("explain", str(tmp_path))  # a folder with nothing in it
    bad = tmp_path / "bad.py"
    bad.write_text("import os\nos.system('true')\n")
    assert "expected a call of a primitive" in refused("explain", str(bad), "--kernel", "matmul")
    bad.write_bytes(b"\xff\xfe\x00")
    assert "holds no text" in refused("explain", str(bad), "--kernel", "matmul")


def test_which_program_of_a_folder(tmp_path: Path) -> None:
    gt.tune(matmul(16), ONE_CORE, trials=2, work_dir=tmp_path, seed=1)
    gt.tune(
        kernels.get("softmax").build(kernels.get("softmax").check_shapes[0]),
        ONE_CORE, trials=2, work_dir=tmp_path, seed=1,
    )  # fmt: skip
    said = refused("explain", str(tmp_path))
    assert "results of 2 programs" in said
    assert "matmul" in said
    assert "softmax" in said
    assert "step " in run("explain", str(tmp_path), "--task", "softmax").stdout


# ----------------------------------------------------------------------------- from Python
def test_everything_that_holds_a_trace(tuned: tuple[Path, gt.TunedKernel]) -> None:
    folder, kernel = tuned
    lines = [s.line for s in gt.explain(kernel)]
    assert lines == [s.line for s in kernel.explain()]
    assert kernel.record is not None
    result = ms.tune_tir(matmul(), ONE_CORE, folder, 0)
    for what in (kernel.schedule, kernel.record, result, folder, str(folder)):
        assert [s.line for s in gt.explain(what)] == lines
    assert [s.line for s in gt.explain(kernel.trace, matmul())] == lines
    assert [s.line for s in gt.explain(kernel.trace, gt.IRModule({"matmul": matmul()}))] == lines
    assert len(gt.explain(kernel, postproc=True)) == len(kernel.trace.insts)


def test_what_holds_no_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found int"):
        gt.explain(3)
    with pytest.raises(UserError, match="does not say what it was done to"):
        gt.explain(Schedule(matmul()).trace)
    with pytest.raises(UserError, match="cannot read"):
        gt.explain(tmp_path / "none.py", matmul())
    (tmp_path / "t.json").write_text("[[], [], []]")
    with pytest.raises(RecordError):
        gt.explain(tmp_path / "t.json", matmul())
