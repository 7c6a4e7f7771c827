"""Does the command line do what its help says, and refuse bad input with one clear message?"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import gputune
from gputune import kernels
from gputune.cli import display, doctor, subject
from gputune.cli import tune as tune_command
from gputune.cli.main import main
from gputune.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ONE_CORE = "llvm -num-cores=1"


def run(*words: str) -> Result:
    """The command in this process; a traceback is a failure of the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune_command, "_BENCH_SECONDS", 0.1)
        result = CliRunner().invoke(main, list(words), prog_name="gputune")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(*words: str) -> str:
    """What is said on stderr by a command that cannot be carried out."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert result.stdout == ""
    return result.stderr


# ----------------------------------------------------------------------------- help
@pytest.mark.parametrize("words", [(), ("tune",), ("db",), ("db", "ls"), ("kernels",), ("doctor",)])
def test_help_has_examples(words: tuple[str, ...]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert re.search(r"^ *Examples:\n +gputune ", result.stdout, re.M)
    assert all(len(line) <= 100 for line in result.stdout.splitlines())


def test_version() -> None:
    assert run("--version").stdout == f"gputune, version {gputune.__version__}\n"


def test_the_installed_command_leads_here() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert 'gputune = "gputune.cli.main:main"' in text


# ----------------------------------------------------------------------------- kernels
def test_kernels_lists_the_library() -> None:
    out = run("kernels").stdout
    for name, k in kernels.KERNELS.items():
        (line,) = [x for x in out.splitlines() if x.split()[0] == name]
        assert all(f"{p}={n}" in line for p, n in k.shapes.items())
    assert "suite" in next(x for x in out.splitlines() if x.startswith("GMM"))
    some = run("kernels", "soft").stdout
    assert "softmax" in some
    assert "matmul" not in some
    assert "no kernel's name contains nothing" in refused("kernels", "nothing")


# ----------------------------------------------------------------------------- tune
@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """One tuning with everything shown."""
    folder = tmp_path_factory.mktemp("cli") / "tuned"
    return folder, run(
        "tune", "matmul", "--shape", "16,32,24", "--target", ONE_CORE,
        "--trials", "3", "--seed", "1", "--work-dir", str(folder),
    )  # fmt: skip


def test_tune_shows_what_came_of_it(tuned: tuple[Path, Result]) -> None:
    _, result = tuned
    assert result.exit_code == 0, result.output
    out = result.stdout
    assert "matmul (m=16, n=32, k=24) float32 on llvm -num-cores=1: 3 trials in" in out
    assert "ID |   Name |  FLOP | Weight | Speed (GFLOPS)" in out
    assert "  0 | matmul | 24576 |      1 |" in out
    assert "Total trials: 3" in out
    assert "sch.enter_postproc()" in out
    assert "def matmul(A: T.Buffer((16, 24)" in out
    assert [x.split()[0] for x in out.splitlines() if x.rstrip().endswith("x")] == [
        "numpy", "unscheduled", "tuned",
    ]  # fmt: skip
    assert "results agree" in out
    assert re.search(r"^done +3/3 trials, 0 failed, best .* [nu]s, .* GFLOP/s", result.stderr, re.M)
    assert "INFO" not in result.stderr


def test_db_ls_shows_what_was_recorded(tuned: tuple[Path, Result]) -> None:
    folder, _ = tuned
    out = run("db", "ls", str(folder)).stdout
    assert out.splitlines()[0].split() == [
        "workload", "best", "GFLOP/s", "trials", "failed", "target", "device", "when",
    ]  # fmt: skip
    assert "matmul(float32[16, 24], float32[24, 32], float32[16, 32])" in out
    assert re.search(r" [nu]s +[0-9.]+ +3 +0 +llvm -num-cores=1 .* 20[0-9]{2}-", out)


def test_quiet_leaves_the_schedule_out(tuned: tuple[Path, Result]) -> None:
    folder, _ = tuned
    result = run(
        "tune", "matmul", "--shape", "m=16,n=32,k=24", "--target", ONE_CORE, "--trials", "1",
        "--work-dir", str(folder), "-q",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "sch." not in result.stdout
    assert "tuned" in result.stdout


USER_FILE = """
import gputune as gt
from gputune.script import tir as T

@T.prim_func
def double(A: T.Buffer((8,), "float32"), B: T.Buffer((8,), "float32")):
    for i in range(8):
        with T.block("B"):
            vi = T.axis.spatial(8, i)
            B[vi] = A[vi] * T.float32(2)

def scaled(n, factor=2, dtype="float32"):
    @T.prim_func
    def scaled(A: T.Buffer((n,), dtype), B: T.Buffer((n,), dtype)):
        for i in range(n):
            with T.block("B"):
                vi = T.axis.spatial(n, i)
                B[vi] = A[vi] * T.Cast(dtype, factor)
    return scaled

def reference(a, factor=2):
    return a * factor

def broken(n):
    return 1 // 0

def wrong(n):
    return "text"

number = 3
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(USER_FILE)
    return path


@pytest.mark.parametrize(
    ("function", "options"),
    [
        ("double", []),
        ("scaled", ["--shape", "8"]),
        ("scaled", ["--shape", "n=8,factor=3", "--dtype", "int32"]),
    ],
)
def test_tune_a_function_of_ones_own(user_file: Path, function: str, options: list[str]) -> None:
    result = run(
        "tune", f"{user_file}:{function}", "--target", ONE_CORE, "--trials", "1", "-q", *options
    )
    assert result.exit_code == 0, result.output
    assert [x.split()[0] for x in result.stdout.splitlines() if x.rstrip().endswith("x")] == [
        "reference", "unscheduled", "tuned",
    ]  # fmt: skip


def test_a_reference_that_disagrees_is_named(user_file: Path) -> None:
    user_file.write_text(USER_FILE.replace("return a * factor", "return a * 3"))
    said = refused_after_tuning(f"{user_file}:double")
    assert "the results of mine.py:double do not agree: 'reference' differs" in said


def refused_after_tuning(name: str) -> str:
    result = run("tune", name, "--target", ONE_CORE, "--trials", "1", "-q")
    assert result.exit_code == 2
    return result.stderr


# ----------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["matmull"], ["no kernel is called 'matmull'", "did you mean matmul"]),
        (["matmul", "--shape", "1,2,3,4"], ["holds 4 sizes, kernel matmul has 3 (m, n, k)"]),
        (["matmul", "--shape", "m=a"], ["'m=a' is no whole number", "m=128"]),
        (["matmul", "--shape", "q=3"], ["has no parameter 'q'", "m, n, k"]),
        (["matmul", "--shape", "m=1,m=2"], ["gives 'm' twice"]),
        (["matmul", "--shape", "m=8,8"], ["give all sizes by name, or none"]),
        (["matmul", "--shape", "0,1,1"], ["m of kernel matmul is 0"]),
        (["matmul", "--shape", "m=-1"], ["m of kernel matmul is -1"]),
        (["matmul", "--shape", ","], ["holds no sizes"]),
        (["matmul", "--dtype", "float31"], ["not defined for dtype 'float31'", "float32"]),
        (["matmul", "--target", "lvm"], ["unknown target kind 'lvm'", "llvm"]),
        (["matmul", "--target", "llvm -num-cores=none"], ["'num-cores'"]),
        (["matmul", "--target", "cuda"], ["for cuda needs an NVIDIA GPU", "none to use"]),
        (["matmul", "--trials", "-1"], ["--trials"]),
        (["matmul", "--seconds", "0"], ["--seconds"]),
        (["matmul", "--seconds", "x"], ["--seconds"]),
        (["matmul", "--work-dir", "/dev/null/x"], ["cannot use /dev/null/x as work_dir"]),
        (["nothing.py:f"], ["there is no file nothing.py"]),
        (["nothing.py"], ["which function of it?", "nothing.py:FUNCTION"]),
        ([], ["Missing argument"]),
        (["matmul", "--colour"], ["No such option"]),
    ],
)
def test_bad_input_gets_one_clear_message(words: list[str], said: list[str]) -> None:
    target = [] if "--target" in words else ["--target", ONE_CORE]
    message = refused("tune", *words, *target)
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        ("tripled", [], ["has no function 'tripled'", "double, scaled"]),
        ("double", ["--shape", "8"], ["--shape has no meaning for it"]),
        ("double", ["--dtype", "float16"], ["--dtype has no meaning for it"]),
        ("scaled", [], ["needs the sizes n"]),
        ("scaled", ["--shape", "m=3"], ["has no size 'm'"]),
        ("scaled", ["--shape", "3", "--dtype", "f32"], ["there is no dtype 'f32'"]),
        ("broken", ["--shape", "3"], ["mine.py:broken failed: line 25: ZeroDivisionError"]),
        ("wrong", ["--shape", "3"], ["expected a PrimFunc or an IRModule, found str"]),
        ("number", [], ["is a int"]),
    ],
)
def test_a_function_that_cannot_be_tuned(
    user_file: Path, function: str, options: list[str], said: list[str]
) -> None:
    message = refused("tune", f"{user_file}:{function}", *options, "--target", ONE_CORE)
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\nx.y\n", "line 2: AttributeError"),
        ("def f(:\n", "line 1: SyntaxError"),
        ("import no_such_module\n", "line 1: ModuleNotFoundError: No module named"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
        (USER_FILE.replace("A[vi] * T.float32", "X[vi] * T.float32"), "X"),
    ],
)
def test_a_file_that_cannot_be_imported(user_file: Path, text: str, said: str) -> None:
    user_file.write_text(text)
    assert said in refused("tune", f"{user_file}:f", "--target", ONE_CORE)


def test_a_folder_without_a_database(tmp_path: Path) -> None:
    assert "holds no database" in refused("db", "ls", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert "there is no folder" in refused("db", "ls", str(tmp_path / "x"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_said_and_loses_nothing(tuned: tuple[Path, Result], tmp_path: Path) -> None:
    """The record file leads to a device that is always full."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "database_tuning_record.json").symlink_to("/dev/full")
    message = refused_tuning(work)
    assert "No space left on device" in message
    assert "database_tuning_record.json" in message


def refused_tuning(work: Path) -> str:
    result = run(
        "tune", "matmul", "--shape", "4,4,4", "--target", ONE_CORE, "--trials", "1",
        "--work-dir", str(work),
    )  # fmt: skip
    assert result.exit_code == 2, result.output
    return result.stderr.strip().splitlines()[-2]


# ----------------------------------------------------------------------------- files are data
def test_a_hostile_database_is_data(
    tuned: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = tuned
    work = tmp_path / "work"
    work.mkdir()
    for name in ("database_workload.json", "database_tuning_record.json"):
        (work / name).write_text((folder / name).read_text())
    hostile = ["0" * 32, {"script": "import os\nos.system('touch ran')", "version": 1}]
    with (work / "database_workload.json").open("a") as f:
        f.write(json.dumps(hostile) + "\n")
    with (work / "database_tuning_record.json").open("a") as f:
        f.write('[1, [[[], []], [0.001], {"kind": "llvm", "num-cores": 1}, [], {"crc": 1}]]\n')
        f.write('[1, [[[], []], [0.001], {"kind": "llvm\\u001b[2J"}, []]]\n')
        f.write("torn")
    monkeypatch.chdir(tmp_path)
    result = run("db", "ls", str(work))
    assert result.exit_code == 0
    assert "matmul(float32[16, 24]" in result.stdout
    assert "(cannot be read)" in result.stdout
    assert "\x1b[2J" not in result.output
    assert result.stderr.count("skipped ") == 2
    assert "database_tuning_record.json:" in result.stderr
    assert not (tmp_path / "ran").exists()


# ----------------------------------------------------------------------------- conditions
def test_objectives_and_clocks_of_the_command() -> None:
    options = ("tune", "matmul", "--shape", "4,4,4", "--target", ONE_CORE, "--trials", "1", "-q")
    result = run(*options, "--objective", "energy")
    assert result.exit_code == 2
    assert "energy cannot be measured: NVML tells that of NVIDIA GPUs" in result.stderr
    assert "takes a clock in MHz, found 'fast'" in refused(*options, "--lock-clocks", "fast")
    result = run(*options, "--shared-gpu", "--lock-clocks")
    assert result.exit_code == 0, result.output
    assert "Clocks are not locked: nothing is measured on a GPU" in result.output
    result = run(*options, "--lock-clocks", "1200", "--objective", "latency")
    assert result.exit_code == 0, result.output


def test_a_scheduler_that_may_be_anybodys_is_refused() -> None:
    said = refused("tune", "matmul", "--scheduler", "tcp://10.0.0.1:8786")
    assert "tcp://10.0.0.1:8786 is not used: anybody who can reach it" in said
    assert "allow_insecure" in said
    assert "is about --scheduler" in refused("tune", "matmul", "--allow-insecure")


# ----------------------------------------------------------------------------- doctor
def test_doctor_looks_at_everything(tmp_path: Path) -> None:
    result = run("doctor", "--work-dir", str(tmp_path))
    assert result.exit_code == 0, result.output
    looked_at = (
        "gputune", "python", "processor", "cores", "vectors", "llvm", "numpy", "numba", "xgboost",
        "nvml", "distributed", "cupy", "nvrtc", "nvcc", r"c\+\+", "driver", "cuda", "GPUTUNE_DUMP",
        "work folder", "cache folder",
    )  # fmt: skip
    for what in looked_at:
        assert re.search(rf"^(ok|note) +{what} ", result.stdout, re.M), what


def versions(monkeypatch: pytest.MonkeyPatch, **known: str | None) -> None:
    """Pretend that these distributions are installed (None: that they are not)."""
    real = metadata.version

    def version(name: str) -> str:
        key = name.replace("-", "_")
        if key in known:
            found = known[key]
            if found is None:
                raise metadata.PackageNotFoundError(name)
            return found
        return real(name)

    monkeypatch.setattr(metadata, "version", version)


def test_doctor_notices_two_xgboosts(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, xgboost="2.1", xgboost_cpu="3.0")
    found = doctor._xgboost()
    assert found.state == "note"
    assert "share the folder" in found.text
    versions(monkeypatch, xgboost=None, xgboost_cpu=None)
    assert doctor._xgboost().state == "missing"


def test_doctor_notices_the_wrong_pynvml(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, pynvml="11.5")
    assert "pip uninstall pynvml" in doctor._nvml().text
    versions(monkeypatch, pynvml=None, nvidia_ml_py=None)
    assert doctor._nvml().state == "missing"


def test_doctor_says_what_is_missing_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, llvmlite=None)
    result = run("doctor")
    assert result.exit_code == 1
    assert "MISSING  llvm" in result.stdout
    assert "pip install llvmlite" in result.stdout


def test_doctor_says_what_cannot_be_written() -> None:
    found = doctor._folder("work folder", Path("/proc/nothing/here"))
    assert found.state == "note"
    assert "cannot be written" in found.text


# ----------------------------------------------------------------------------- the live view
class _Task:
    flop = 4e6


def progress(**fields: Any) -> Any:
    from collections import Counter
    from types import SimpleNamespace

    base = {
        "phase": "measure", "trials": 10, "max_trials": 40, "elapsed_s": 5.0, "seconds": None,
        "failures": Counter(), "best_seconds": None, "task": _Task,
    }  # fmt: skip
    return SimpleNamespace(**(base | fields))


def test_one_line_says_where_a_tuning_stands() -> None:
    from collections import Counter

    assert display.line(progress()) == (
        "measure  10/40 trials, 0 failed, no result yet, 5 s, 15 s left"
    )
    now = progress(
        best_seconds=4e-5,
        failures=Counter({"build crash": 2, "run timeout": 1}),
        seconds=8.0,
        max_trials=1_000_000,
    )
    assert display.line(now) == (
        "measure  10 trials, 3 failed (2 build crash, 1 run timeout), "
        "best 40.0 us, 100 GFLOP/s, 5 s, 3 s left"
    )


def test_the_drawn_view_holds_the_same_facts() -> None:
    from rich.console import Console

    console = Console(record=True, width=100, file=io.StringIO())
    console.print(
        display.view("mm", progress(best_seconds=4e-5), [(1.0, 8e-5), (2.0, 4e-5)]), markup=False
    )
    text = console.export_text()
    for part in ("tuning mm", "10/40 in 5 s", "15 s left", "40.0 us, 100 GFLOP/s", "80.0 us"):
        assert part in text


def test_sizes_may_be_written_in_several_ways() -> None:
    for text in ("2,3,4", "2 3 4", "2x3x4", "m=2,n=3,k=4", "k=4 m=2 n=3"):
        assert subject._sizes(text, ["m", "n", "k"], "it") == {"m": 2, "n": 3, "k": 4}
    with pytest.raises(UserError):
        subject._sizes("2,x", ["m", "n"], "it")


# ----------------------------------------------------------------------------- as a process
def command(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gputune.cli.main", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
        **options,
    )


def test_as_a_process() -> None:
    done = command("tune", "matmull")
    assert done.returncode == 2
    assert done.stderr.startswith("gputune: error: no kernel is called 'matmull'\n  hint: did")
    assert done.stdout == ""


def test_a_reader_that_goes_away_is_no_error() -> None:
    shell = f"'{sys.executable}' -m gputune.cli.main kernels | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr
