"""Do the programs that put questions to a GPU compile, and end with one line of JSON each?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "gpu_probes"
PROBES = sorted(
    f.stem for f in FOLDER.glob("*.py") if f.stem not in ("probe", "run_all")
)  # fmt: skip


def test_all_are_listed() -> None:
    text = (FOLDER / "run_all.py").read_text()
    page = (ROOT / "docs" / "questions_for_a_gpu.md").read_text()
    for name in PROBES:
        assert f'"{name}"' in text
        assert f"`{name}.py`" in page


@pytest.mark.parametrize("name", PROBES)
def test_a_probe(name: str) -> None:
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["probe"] == name
    assert "error" not in found
    assert "skipped" in found or found.get("right", True)


@pytest.mark.parametrize("command", [["ci/gpu"], ["bench/run", "--gpu"]])
def test_without_a_gpu_commands_say_so(command: list[str]) -> None:
    from gputune.target.host import cuda_problem

    problem = cuda_problem()
    if problem is None:
        pytest.skip("this machine has a GPU: run them by hand")
    import os

    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert problem in done.stdout
