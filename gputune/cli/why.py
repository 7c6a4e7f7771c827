"""`gputune why`: where did the candidates of a tuning go?"""

from __future__ import annotations

from pathlib import Path

import click

EXAMPLES = """\b
Examples:
  gputune why tuned
  gputune why tuned --task matmul
"""


@click.command(epilog=EXAMPLES)
@click.argument("folder", metavar="WORKDIR", type=click.Path(path_type=Path))
@click.option("--task", help="Only this task.")
def why(folder: Path, task: str | None) -> None:
    """Say where the candidates of a tuning went, and whether the model was right.

    WORKDIR is the --work-dir of `gputune tune`. For each task there is a table of what was sampled,
    refused, built, run and measured, over all runs; the reasons of refusals and failures with an
    example each; and, for each round, how well the order that the model predicted agrees with the
    measured one: the rank correlation (1: throughout, 0: not at all), and the share of the eight
    fastest candidates that were among the eight predicted to be.

    rounds.jsonl and failures.jsonl in the folder hold it all, one JSON object a line.
    """
    from gputune.errors import UserError
    from gputune.meta_schedule.why import Why

    from .display import console, table

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


def _title(text: str) -> object:
    from rich.text import Text

    from gputune.figures import plain

    return Text(plain(text), "bold")
