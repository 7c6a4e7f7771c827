"""Does what README and docs say work? Their Python is run, their commands are understood."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest

from gputune.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL = [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md"]


def blocks(path: Path, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


@pytest.mark.parametrize("path", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.stem)
def test_the_code_of_a_page_runs(path: Path, tmp_path: Path) -> None:
    """All blocks of a page, one after the other, as one program."""
    program = tmp_path / f"{path.stem}.py"
    program.write_text("\n".join(blocks(path, "python")).replace("seconds=5)", "seconds=1)"))
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_the_commands_of_a_page_are_understood(path: Path) -> None:
    """Every `gputune ...` line names a command and options that exist."""
    for line in re.findall(r"^(?:\$ )?(?:\S*/)?(gputune .*)$", "\n".join(
        blocks(path, "console") + [b.replace("&& ", "\n") for b in blocks(path, "sh")]
    ), re.M):  # fmt: skip
        understood(shlex.split(line)[1:])


def understood(words: list[str]) -> None:
    """Parse without running; click complains about what does not exist."""
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
        context = click.Context(command, parent=context)
    command.parse_args(context, list(words))


def test_unknown_commands_are_found() -> None:
    with pytest.raises(click.UsageError):
        understood(["tunne", "matmul"])
    with pytest.raises(click.UsageError):
        understood(["tune", "matmul", "--hours", "1"])


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_readme_gives_the_two_commands() -> None:
    one, two = blocks(ROOT / "README.md", "sh")
    assert one.strip() == (
        "python3 -m venv .venv && .venv/bin/pip install -e . && "
        ".venv/bin/gputune tune matmul --seconds 20"
    )
    assert two.strip() == (
        "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest"
    )
    text = (ROOT / "README.md").read_text()
    assert text.index("## Develop") < text.index(two.strip())


def test_the_picture_is_a_drawing_of_a_tuning() -> None:
    path = ROOT / "docs" / "tuning.svg"
    root = ElementTree.parse(path).getroot()
    text = "".join(root.itertext()).replace("\u00a0", " ")
    for part in ("gputune tune matmul", "GFLOP/s", "numpy", "tuned"):
        assert part in text


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_pages_name_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for word in ("/work/", "/home/", "/root/", "/tmp/"):
        assert word not in text
    assert all(len(line) <= 120 for line in text.splitlines())
