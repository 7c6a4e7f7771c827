"""`gputune explain`: what did each instruction of a schedule do to the program?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gputune.schedule.explain import Explanation, Step

EXAMPLES = """\b
Examples:
  gputune explain tuned
  gputune explain tuned --task matmul --postproc
  gputune explain matmul --shape 64,64,64 --target "llvm -num-cores=1"
  gputune explain tuned --step 4
  gputune explain trace.py --kernel matmul --shape 64,64,64
"""


@click.command(epilog=EXAMPLES)
@click.argument("what", metavar="WORKDIR|TRACEFILE|KERNEL")
@click.option("--step", type=click.IntRange(min=1), help="Only this step.")
@click.option("--all", "everything", is_flag=True, help="Also steps that change nothing.")
@click.option("--postproc", is_flag=True, help="Also what the postprocs did.")
@click.option("--task", help="Which function, where WORKDIR has several.")
@click.option("--kernel", help="What a TRACEFILE is about: a KERNEL, or FILE.py:FUNC.")
@click.option("--shape", metavar="SIZES", help="Sizes of a kernel: m=128,n=64, or 128,64.")
@click.option("--dtype", help="Element type of its inputs; default: float32.")
@click.option("--target", default="auto", show_default=True, help="For a KERNEL: the machine.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def explain(
    what: str,
    step: int | None,
    everything: bool,
    postproc: bool,
    task: str | None,
    kernel: str | None,
    shape: str | None,
    dtype: str | None,
    target: str,
    as_json: bool,
) -> None:
    """Show a schedule step by step, with the difference that each step makes to the program.

    WORKDIR is a folder of tuning results (its best schedule is shown) or one that a kernel was
    exported to. TRACEFILE holds a trace, as Python or JSON; --kernel says what it was done to.
    KERNEL is a name from `gputune kernels`, or FILE.py:FUNC: what is shown is the schedule that
    gputune would choose for it without measuring anything.
    """
    from gputune import explaining

    from .display import console

    found, title = _found(what, postproc, task, kernel, shape, dtype, target)
    if as_json:
        click.echo(explaining.as_json(found))
        return
    out = console()
    if step is not None:
        _show(out, found.step(step))
        return
    out.print(title, style="bold", soft_wrap=True)
    for s in found.steps if everything else found.changing:
        out.print()
        _show(out, s)
    out.print()
    out.print(found.note(), style="dim", soft_wrap=True)


def _found(
    what: str,
    postproc: bool,
    task: str | None,
    kernel: str | None,
    shape: str | None,
    dtype: str | None,
    target: str,
) -> tuple[Explanation, str]:
    """The steps, and what they are of."""
    import gputune
    from gputune import explaining
    from gputune.errors import UserError
    from gputune.figures import plain

    from . import subject

    path = Path(what)
    if path.is_dir():
        if kernel or shape or dtype:
            raise UserError(
                f"{what} is a folder, which says itself what its schedules are of",
                hint="leave --kernel, --shape and --dtype out",
            )
        return explaining.explain(path, task=task, postproc=postproc), plain(what)
    if path.is_file() and ":" not in what:
        if kernel is None:
            raise UserError(
                f"{what} is a file with a trace, which does not say what it was done to",
                hint=f"gputune explain {what} --kernel KERNEL",
                code="program",
            )
        program = subject.find(kernel, shape, dtype)
        found = explaining.explain(path, program.func, postproc=postproc)
        return found, f"{plain(what)} on {program.title}"
    if kernel is not None:
        raise UserError(f"there is no file {what}", code="missing")
    try:
        program = subject.find(what, shape, dtype)
    except UserError as e:
        if ":" not in what and f"'{what}'" in e.message:
            e.message = f"there is no folder, file or kernel {what!r}"
        raise
    tuned = gputune.tune(program.func, target, trials=0)
    title = f"{program.title} on {tuned.target}"
    if tuned.predicted is not None:
        title += f", {tuned.predicted}"
    return explaining.explain(tuned, postproc=postproc), title


def _show(out: Any, step: Step) -> None:
    from rich.text import Text

    out.print(Text(f"step {step.number}: {step.line}", "bold" if step.changes else "dim"))
    if step.error:
        out.print(Text(f"  refused: {step.error}", "red"))
    for line in step.diff().splitlines():
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1], "")
        out.print(Text(line, style), soft_wrap=True)
