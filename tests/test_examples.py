"""Do the examples run, each within a few seconds, and are they short?"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MOST_LINES = 20
LONGER = {"tensor_core_matmul": 110}
"""Those of several schedules."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example(path: Path, tmp_path: Path) -> None:
    """In a folder of its own, as a user runs it."""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_short(path: Path) -> None:
    """Imports, docstring and empty lines apart."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{path.name} does not say whose journey it is"
    skipped = {n for s in tree.body[:1] for n in range(s.lineno, s.end_lineno or 0 + 1)}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            skipped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = [
        line
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and number not in skipped and number > (tree.body[0].end_lineno or 1)
    ]
    assert len(lines) <= LONGER.get(path.stem, MOST_LINES), f"{path.name} has {len(lines)} lines"


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
