"""Does the bench of libraries ask, check and tabulate as it says?"""

from __future__ import annotations

import ctypes
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import libraries
import libraries_floor as floor
import libraries_forms as forms
import libraries_table as table
import tvm_timer

import gputune as gt
from gputune.benchmark import in_turns
from gputune.kernels import KERNELS, SUITE
from gputune.runtime.evaluator import TimerConfig, measure
from gputune.script import from_source

BENCH = Path(libraries.__file__).parent


def record(**changes: Any) -> dict[str, Any]:
    seconds = {
        "gputune": 20e-6, "gputune at 64": 25e-6, "call": 21e-6, "NumPy": 40e-6,
        "torch channels first": 60e-6, "torch channels last": 30e-6,
        "torch.compile default": 50e-6, "torch.compile max-autotune": 45e-6, "TVM": 36e-6,
        "fma": 1e-3, "stream": 5e-6,
    }  # fmt: skip
    return {
        "bench": "libraries", "operator": "GMM", "trials": 256, "seconds": seconds, "failed": {},
        "tuning_s": 8.0, "tuning_s_64": 2.0, "tvm": {"wall_s": 60.0, "trials": 64},
        "flops": 3e6, "peak_flops": 200e9, "stream_s": 5e-6,
    } | changes  # fmt: skip


# ----------------------------------------------------------------------------- arguments
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "GMM,XYZ"], "no operator is called XYZ; known: C1D"),
        (["--only", "mm127"], "no operator is called mm127"),
        (["--sgemm", "--only", "GMM"], "no operator is called GMM; known: mm128"),
        (["--trials", "0"], "--trials: a count from 1, found 0"),
        (["--tvm-trials", "-1"], "--tvm-trials: a count from 1, found -1"),
        (["--seconds", "0"], "--seconds: a time above 0"),
        (["--sgemm", "--two-cores"], "not allowed with"),
        (["--sgemm", "--tvm", "python"], "TVM is a peer in the table of operators only"),
        (["--table", "nowhere.jsonl"], "there is no file nowhere.jsonl"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as e:
        libraries.parse(words)
    assert e.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_two_cores_need_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(libraries, "usable_cores", lambda: 1)
    with pytest.raises(SystemExit):
        libraries.parse(["--two-cores"])
    assert "this process may use 1 core" in capsys.readouterr().err


def test_a_database_that_is_not_empty_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TVM's may be there: what it found is taken again."""
    (tmp_path / "GMM" / "tvm").mkdir(parents=True)
    assert list(libraries.parse(["--keep", str(tmp_path), "--only", "GMM"]).operators) == ["GMM"]
    (tmp_path / "GMM" / "gputune").mkdir()
    libraries.parse(["--keep", str(tmp_path), "--only", "SFM"])
    with pytest.raises(SystemExit):
        libraries.parse(["--keep", str(tmp_path), "--only", "SFM,GMM"])
    assert "databases start empty here" in capsys.readouterr().err


def test_what_is_not_given() -> None:
    given = libraries.parse([])
    assert list(given.operators) == [*SUITE, "mm1024", "dense", "softmax", "layernorm"]
    assert (given.trials, given.tvm_trials, given.compile) == (256, 64, True)
    assert libraries.parse(["--trials", "16"]).tvm_trials == 16
    assert not libraries.parse(["--sgemm"]).compile


# ----------------------------------------------------------------------------- arrays
def small(name: str, **shape: int) -> Any:
    return KERNELS[name].with_shapes(name, **shape)


def test_canaries_lie_on_both_sides_at_a_cache_line() -> None:
    values = np.arange(5, dtype=np.float32)
    guarded = libraries.Guarded(values)
    assert guarded.array.ctypes.data % 64 == 0
    assert np.array_equal(guarded.array, values)
    whole = np.lib.stride_tricks.as_strided(guarded.array, (7,))
    assert math.isnan(whole[5])
    assert guarded.intact
    whole[5] = 1.0
    assert not guarded.intact
    again = libraries.Guarded(values)
    before = again.array.ctypes.data - 4
    ctypes.c_float.from_address(before).value = 0.0
    assert not again.intact


def test_a_kernel_that_writes_where_it_should_not_is_found() -> None:
    args = libraries.Arguments(small("matmul", m=4, n=4, k=4))
    a, b, c = args.arrays
    assert np.isnan(c).all()
    assert "16 elements differ" in str(args.problem())
    np.matmul(a, b, out=c)
    assert args.problem() is None
    args.poison()
    assert np.isnan(c).all()
    np.matmul(a, b, out=c)
    np.lib.stride_tricks.as_strided(c, (17,), (4,))[16] = 0.0
    assert args.problem() == "the bytes around argument 2 were overwritten"
    args = libraries.Arguments(small("matmul", m=4, n=4, k=4))
    np.matmul(*args.arrays[:2], out=args.arrays[2])
    args.arrays[0][0, 0] += 1
    assert args.problem() == "input 0 was overwritten"


def test_a_wrong_program_is_not_timed() -> None:
    args = libraries.Arguments(small("matmul", m=4, n=4, k=4))
    libraries.bound(small("matmul", m=4, n=4, k=4).build(), args)
    text = KERNELS["matmul"].build(m=4, n=4, k=4).script()
    wrong = text.replace("C[vi, vj] + A", "C[vi, vj] - A")
    assert wrong != text
    with pytest.raises(gt.WrongResult, match="16 elements differ"):
        libraries.bound(from_source(wrong), args)


# ----------------------------------------------------------------------------- operators
@pytest.mark.parametrize("name", [*forms.OPERATORS, *forms.SGEMM])
def test_each_operator_is_one_of_the_library(name: str) -> None:
    kernel = {**forms.OPERATORS, **forms.SGEMM}[name]
    assert kernel.name == name
    assert KERNELS[forms.kind(kernel)].make is kernel.make


def small_operators() -> dict[str, Any]:
    """Every kind of the table with the small sizes of its tests, odd ones too."""
    kinds = {forms.kind(k) for k in forms.OPERATORS.values()}
    return {
        f"{n} {i}": KERNELS[n].with_shapes(n, **shape)
        for n in sorted(kinds)
        for i, shape in enumerate(KERNELS[n].check_shapes)
    }


@pytest.mark.parametrize("name", list(small_operators()))
def test_numpy_forms(name: str) -> None:
    kernel = small_operators()[name]
    args = libraries.Arguments(kernel)
    assert args.differs([forms.numpy_call(kernel, args.inputs)()]) is None


@pytest.mark.parametrize("name", list(small_operators()))
def test_torch_forms(name: str) -> None:
    torch = pytest.importorskip("torch")
    kernel = small_operators()[name]
    args = libraries.Arguments(kernel)
    for form in forms.torch_forms(torch, kernel, args.inputs).values():
        assert args.differs([form.function(*form.tensors).numpy()]) is None


def test_work_that_must_be_done() -> None:
    assert forms.useful_flops(small("matmul", m=2, n=3, k=5)) == 60
    # of 3 x 3 windows on 3 x 3 elements, 7 of 9 places a dimension lie inside
    conv = small("conv2d", n=1, h=3, w=3, ci=1, co=1, kernel=3, padding=1)
    assert forms.useful_flops(conv) == 2 * 7 * 7
    # 2 x 2 elements, each spreads 2 x 2 values, none overlapping: stride 2
    spread = small("conv2d_transpose", n=1, h=2, w=2, ci=1, co=1, kernel=2, stride=2, padding=0)
    assert forms.useful_flops(spread) == 2 * 16
    assert forms.traffic(small("matmul", m=2, n=3, k=5)) == (4 * (10 + 15), 4 * 6)


# ----------------------------------------------------------------------------- the floor
def test_the_loop_of_fmas_is_one() -> None:
    call, work = floor.fma()
    seconds = min(measure(call, TimerConfig(number=3, repeat=5)).results)
    assert 1e9 < work / seconds < 1e12  # one core: one to a thousand GFLOP/s


@pytest.mark.parametrize(("read", "written"), [(4096, 4096), (65536, 4), (4, 65536), (8192, 4096)])
def test_the_stream_loads_and_stores_it_all(read: int, written: int) -> None:
    call = floor.stream(read, written)
    source, target = call.arrays
    rng = np.random.default_rng(1)
    source[:] = rng.integers(1, 255, source.size)
    call()
    both = min(source.size, target.size)
    size, _ = floor._bytes()
    assert np.array_equal(source[size:both], target[size:both])
    # the first vector holds the sum of all that was loaded
    total = np.bitwise_xor.reduce(source.reshape(-1, size), axis=0)
    assert np.array_equal(target[:size], total)
    assert source.size <= max(read, 512)
    assert target.size <= max(written, 512)


# ----------------------------------------------------------------------------- in turns
def test_timers_of_one_s_own_take_turns() -> None:
    order: list[str] = []

    def timer(name: str, seconds: float) -> Any:
        def timed(calls: int) -> tuple[float, bool]:
            order.append(name)
            return seconds * calls, False

        return timed

    found = in_turns({"a": timer("a", 1e-3), "b": timer("b", 3e-3)}, 0.05)
    assert found["a"].median == pytest.approx(1e-3)
    assert found["b"].median == pytest.approx(3e-3)
    assert "ab" in "".join(order)
    assert "ba" in "".join(order)


def test_call_timer_and_the_processor() -> None:
    seconds, _ = libraries.call_timer(lambda: time.sleep(2e-3))(3)
    assert seconds >= 6e-3
    before = os.sched_getaffinity(0)
    with libraries.one_core() as cpu:
        assert os.sched_getaffinity(0) == {cpu}
    assert os.sched_getaffinity(0) == before


# ----------------------------------------------------------------------------- tables
def test_what_a_record_shows() -> None:
    found = table.figures(record())
    assert found["us"] == pytest.approx(20)
    assert found["torch"] == pytest.approx(30)
    assert found["compile"] == pytest.approx(45)
    assert found["x_peer"] == pytest.approx(1.5)
    assert found["x_peer_64"] == pytest.approx(1.2)
    assert found["x_tvm"] == pytest.approx(1.8)
    assert found["x_tvm_tuning"] == pytest.approx(30)  # 64 trials beside 64
    assert found["floor"] == pytest.approx(0.75)  # 3e6 / 200e9 = 15 us of 20
    assert found["by"] == "FMA"
    assert found["gflops"] == pytest.approx(150)
    found = table.figures(record(stream_s=18e-6, tvm={"error": "gone"}))
    assert (found["by"], found["floor"]) == ("bytes", pytest.approx(0.9))
    assert "tvm_tuning" not in found
    assert table.figures(record(tvm={"wall_s": 160.0, "trials": 256}))[
        "x_tvm_tuning"
    ] == pytest.approx(20)
    assert "x_tvm_tuning" not in table.figures(record(tvm={"wall_s": 160.0, "trials": 32}))


def test_peers_that_are_not_there_are_dashes() -> None:
    text = table.line(record(seconds={"gputune": 20e-6}, failed={"torch": "not installed"}))
    assert text.splitlines()[0].split()[:5] == ["GMM", "20.0", "20.0", "-", "-"]
    assert text.splitlines()[1].strip() == "torch: not installed"
    assert table.line(record(seconds={}, failed={"gputune": "all failed"}))


def test_means_and_what_is_far_from_the_floor() -> None:
    near = record(operator="SFM", stream_s=19e-6)
    near["seconds"] = near["seconds"] | {"NumPy": 21e-6}
    text = table.summary([record(), near])
    assert table.means([record(), near])["x_peer"] == pytest.approx(math.sqrt(1.5 * 1.05))
    assert text.splitlines()[1:] == [
        "below 0.8 of the floor:", "  GMM        0.75, floor by the FMA peak",
    ]  # fmt: skip
    assert len(text.splitlines()[0]) == len(table.columns("libraries"))


def test_markdown_takes_the_last_record_of_each_operator(tmp_path: Path) -> None:
    two = {
        "bench": "two cores", "operator": "GMM", "trials": 64, "failed": {"gputune": "wrong"},
        "seconds": {"cores 1": 2e-5, "cores 2": 1e-5}, "tuning_s_1": 1.0, "tuning_s_2": 2.0,
    }  # fmt: skip
    old = record(seconds={"gputune": 1.0})
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in (old, record(), two)))
    done = subprocess.run(
        [sys.executable, str(BENCH / "libraries.py"), "--table", str(file)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0].startswith("| operator | us | at 64 |")
    assert lines[2].startswith("| GMM | 20.0 | 25.0 | 21.0 | 40.0 | 30.0 | 45.0 | 36.0 | 1.50 |")
    assert lines[3].startswith("| geomean | - |")
    assert "| GMM | 20.0 | 10.0 | 2.00 | 1.0 | 2.0 |" in lines
    assert lines[-1] == "GMM: gputune: wrong"


# ----------------------------------------------------------------------------- TVM's process
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Any:
    """The answer of a process that stands for TVM's."""
    script = tmp_path / "tvm_peer.py"
    script.write_text(body)
    monkeypatch.setattr(tvm_timer, "__file__", str(tmp_path / "tvm_timer.py"))
    peer = tvm_timer.Tvm()
    found = peer.start(sys.executable, "GMM", 4, tmp_path / "folder", [np.ones(3)])
    return peer, found


def test_a_peer_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = (
        "import sys\nprint('chatter')\nprint('answer {\"wall_s\": 2.5}', flush=True)\n"
        "for line in sys.stdin:\n"
        "    word, n = line.split()\n"
        "    if n == '7': raise ValueError('out of luck')\n"
        '    print(\'answer {"seconds": %s, "held_up": false}\' % n, flush=True)\n'
    )
    peer, found = served(tmp_path, monkeypatch, body)
    with peer:
        assert found == {"wall_s": 2.5}
        assert peer.timed(3) == (3.0, False)
        with pytest.raises(tvm_timer.TvmLost, match="out of luck"):
            peer.timed(7)


def test_a_peer_that_cannot_be_tuned_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer, found = served(tmp_path, monkeypatch, "raise ImportError('no tvm here')")
    with peer:
        assert found == {"error": "ImportError: no tvm here"}
    missing = tvm_timer.Tvm()
    with missing:
        found = missing.start(str(tmp_path / "none"), "GMM", 4, tmp_path / "f", [])
        assert "No such file" in found["error"]


def test_a_small_run(tmp_path: Path) -> None:
    """From the command to the record, without torch or with it."""
    file = tmp_path / "records.jsonl"
    command = [
        sys.executable, str(BENCH / "libraries.py"), "--only", "NRM", "--trials", "2",
        "--seconds", "0.1", "--no-compile", "--json", str(file),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = [json.loads(x) for x in file.read_text().splitlines()]
    assert found["operator"] == "NRM"
    assert {"gputune", "call", "NumPy", "fma", "stream"} <= set(found["seconds"])
    assert found["bytes"] == [4 * 256 * 256, 4]
    assert "gputune" not in found["failed"]
    assert done.stdout.splitlines()[1].startswith("NRM ")
