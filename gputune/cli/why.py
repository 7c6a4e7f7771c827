"""`gputune why`: where did the candidates of a tuning go?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gputune.meta_schedule.reproduce import Written

EXAMPLES = """\b
Examples:
  gputune why tuned
  gputune why tuned --task matmul
  gputune why tuned --reproduce failures
"""


@click.command(epilog=EXAMPLES)
@click.argument("folder", metavar="WORKDIR", type=click.Path(path_type=Path))
@click.option("--task", help="Only this task.")
@click.option(
    "--reproduce",
    "into",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write a program for each distinct failure into this folder, which repeats it.",
)
def why(folder: Path, task: str | None, into: Path | None) -> None:
    """Say where the candidates of a tuning went, and whether the model was right.

    WORKDIR is the --work-dir of `gputune tune`. For each task there is a table of what was sampled,
    refused, built, run and measured, over all runs; the reasons of refusals and failures with an
    example each; and, for each round, how well the order that the model predicted agrees with the
    measured one: the rank correlation (1: throughout, 0: not at all), and the share of the eight
    fastest candidates that were among the eight predicted to be.

    rounds.jsonl and failures.jsonl in the folder hold it all, one JSON object a line.

    With --reproduce, a Python program is written for each distinct failure. It makes the candidate
    anew from its program, its trace and its target, and repeats what failed; its exit code is 1 if
    that still fails, 2 if it fails in another way, 0 if it does not fail any more, and 125 if it
    cannot be tried here: as `git bisect run` wants it.
    """
    from gputune.errors import UserError
    from gputune.meta_schedule.why import Why

    from .display import console, table

    if into is not None:
        from gputune.meta_schedule.reproduce import write_reproducers

        told(console(), write_reproducers(folder, into, task))
        return
    found = Why.read(folder)
    chosen = [t for t in found.tasks if task is None or t.name == task]
    if task is not None and not chosen:
        names = ", ".join(dict.fromkeys(t.name for t in found.tasks)) or "nothing"
        raise UserError(f"{folder} has no task {task!r}", hint=f"it has {names}", code="task")
    out = console()
    for t in chosen:
        for part in t.parts():
            out.print(_title(part.title))
            out.print(table(part.head, part.rows, part.right))
            out.print()
    for remark in found.remarks():
        out.print(_title(remark), soft_wrap=True)


def told(out: Any, written: Written) -> None:
    """Which programs were written, and what could not be."""
    from gputune.figures import plain

    for path, case in written.programs:
        failure = f"{case.reason}: {case.message}"
        out.print(f"{plain(str(path))}: {plain(failure)}", soft_wrap=True)
    for remark in written.remarks:
        out.print(_title(remark), soft_wrap=True)


def _title(text: str) -> object:
    from rich.text import Text

    from gputune.figures import plain

    return Text(plain(text), "bold")
