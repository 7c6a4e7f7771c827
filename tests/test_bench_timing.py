"""Does the trial of the timer measure what it says? (How well the timer does is for the trial.)"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gputune.meta_schedule.runner import RunnerResult
from gputune.target.host import cuda_problem

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture(scope="module")
def timing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_timing", BENCH / "timing.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["bench_timing"] = found
    spec.loader.exec_module(found)
    return found


def test_figures(timing: Any) -> None:
    assert timing.percentile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert timing.percentile([4.0, 0.0, 2.0, 1.0, 3.0], 0.9) == pytest.approx(3.6)
    assert timing.width([10.0] * 9 + [11.0]) == pytest.approx(0.01)


def test_quotients_are_judged_and_bare_times_shown(
    timing: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A machine that runs at half its speed every other time."""
    count = 0

    def measured(runner: Any, x: Any) -> RunnerResult:
        nonlocal count
        count += 1
        slow = 1 + count % 2
        told = {"reference_s": 1e-5 * slow, "nominal_s": 1e-5}
        return RunnerResult([1e-3 * slow], extras={"timing": told})

    monkeypatch.setattr(timing, "measured", measured)
    monkeypatch.setattr(timing.Subject, "input", lambda self, name, best=None: None)
    subject = timing.Subject.of(False)
    found = timing.spread(subject, 10, 0.0)
    assert found["width"] == pytest.approx(0.0)
    assert found["bare"] > 0.5
    assert found["ok"]
    assert len(found["measured"]) == 10


def test_a_short_trial(timing: Any, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "timing.jsonl"
    words = ["--count", "3", "--over", "0", "--repeats", "2", "--beside", "nobody,core"]
    timing.main([*words, "--json", str(out)])
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["trial"] for r in records] == ["spread", "neighbour", "neighbour"]
    assert [r.get("neighbour") for r in records] == [None, "nobody", "core"]
    assert all(x["reference_s"] > 0 for x in records[0]["measured"])
    assert all(len(r["measured"]) == 2 for r in records[1:])
    assert all(r["commit"] and r["device"] for r in records)
    said = capsys.readouterr().out
    assert said.count("less work won") == 2
    assert "beside the reference kernel" in said


@pytest.mark.parametrize(
    "words", [["--beside", "ghost"], ["--count", "1"], ["--repeats", "0"], ["--part", "all"]]
)
def test_what_makes_no_sense(timing: Any, words: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit):
        timing.main(words)


def test_without_a_gpu_it_says_so(timing: Any, capsys: Any) -> None:
    if cuda_problem() is None:
        pytest.skip("this machine has a GPU")
    assert timing.main(["--gpu"]) == 0
    assert "--gpu:" in capsys.readouterr().out
