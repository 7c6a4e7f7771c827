"""Does the bench of databases measure all kinds, and keep what it found?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent / "bench" / "database.py"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCH), *words], capture_output=True, text=True, check=False
    )


def test_it_measures_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    done = run("--records", "220", "--kinds", "json", "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert [x.split()[0] for x in done.stdout.splitlines()] == ["kind", "json"]
    row = json.loads(path.read_text())
    assert row["records"] == 220
    for name in ("write", "open", "query_first", "query_again", "schedule", "append", "prune"):
        assert row[f"{name}_s"] > 0
