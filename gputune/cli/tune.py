"""`gputune tune`: search for a fast schedule of one kernel, and show what came of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gputune.errors import UserError, WrongResult

if TYPE_CHECKING:
    from gputune.meta_schedule import Progress
    from gputune.tuned_kernel import TunedKernel

    from .subject import Subject

EXAMPLES = """\b
Examples:
  gputune tune matmul --seconds 20
  gputune tune matmul --shape m=512,n=512,k=64 --dtype float16 --trials 64
  gputune tune conv2d --shape 1,56,56,64,64 --target "llvm -num-cores 1"
  gputune tune mykernel.py:layernorm --shape 512,768 --work-dir tuned
  gputune tune matmul --scheduler tls://farm:8786
"""

_BENCH_SECONDS = 2.0
_PATIENCE_FLOPS = 2e9  # the unscheduled program is not run above this: it would take seconds a call


def ending_as_asked(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose exit code says so where a signal ended it: 143 after SIGTERM, 130 after a
    Ctrl-C that left nothing to show."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        from gputune.runtime.interruption import graceful

        from .main import complain

        with graceful() as signals:
            try:
                command(**options)
            except UserError as e:
                if e.code != "no-schedule" or not signals.came:
                    raise
                complain(e.message)
                raise SystemExit(signals.exit_code) from None
            except KeyboardInterrupt:
                complain("interrupted")
                raise SystemExit(signals.exit_code) from None
        if signals.shall_end:
            raise SystemExit(signals.exit_code)

    return run


@click.command(epilog=EXAMPLES)
@click.argument("kernel", metavar="KERNEL|FILE.py:FUNC")
@click.option("--shape", metavar="SIZES", help="Sizes: m=128,n=64 by name, or 128,64 in order.")
@click.option("--dtype", help="Element type of the inputs; default: float32.")
@click.option("--target", default="auto", show_default=True, help='Such as "llvm -num-cores 4".')
@click.option(
    "--trials",
    type=click.IntRange(min=0),
    help="Limit of candidates; default: 64; 0: what the model chooses.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), help="Time limit of the search."
)
@click.option(
    "--work-dir", type=click.Path(path_type=Path), help="Folder in which results are remembered."
)
@click.option(
    "--database",
    metavar="ADDRESS",
    help="Remember them there: a .sqlite file, sqlite:///FILE, postgresql://USER@HOST/NAME.",
)
@click.option(
    "--seed",
    type=click.IntRange(1, 2**31 - 1),
    help="Repeats the first 64 candidates; those after them follow from measured times.",
)
@click.option(
    "--layout-free",
    metavar="NAMES",
    help="Arguments, such as W or W,V, that are packed beforehand in the layout found best.",
)
@click.option(
    "--objective",
    type=click.Choice(["latency", "energy", "edp"]),
    default="latency",
    show_default=True,
    help="What makes a schedule the best; energy needs a GPU, and NVML.",
)
@click.option(
    "--lock-clocks",
    metavar="[MHZ]",
    is_flag=False,
    flag_value="base",
    help="Hold the GPU's clock meanwhile, at its base clock or at MHZ; needs privileges.",
)
@click.option(
    "--shared-gpu", is_flag=True, help="Rank what is measured while others compute on the GPU."
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Dask scheduler, tls://HOST:PORT: its workers build and measure.",
)
@click.option(
    "--allow-insecure", is_flag=True, help="Plain TCP to a scheduler elsewhere is all right."
)
@click.option("-q", "--quiet", is_flag=True, help="Do not print the best schedule.")
@ending_as_asked
def tune(
    kernel: str,
    shape: str | None,
    dtype: str | None,
    target: str,
    trials: int | None,
    seconds: float | None,
    work_dir: Path | None,
    database: str | None,
    seed: int | None,
    layout_free: str | None,
    objective: str,
    lock_clocks: str | None,
    shared_gpu: bool,
    scheduler: str | None,
    allow_insecure: bool,
    quiet: bool,
) -> None:
    """Search for a fast schedule of a kernel on this machine, or on those of a Dask cluster.

    KERNEL is a name from `gputune kernels`. FILE.py:FUNC is a function of your own: a @T.prim_func,
    or a function of the sizes that returns one; the file is your program, and is imported. If it
    has a function `reference` that computes the same from the inputs, the result is compared with
    it.

    Ctrl-C ends the search and keeps the best so far; a second one ends the program. SIGTERM ends
    the search too, shows the best so far, and then ends the program (exit code 143).
    """
    import gputune
    from gputune.meta_schedule import open_database
    from gputune.target.host import cuda_problem
    from gputune.tuning import tunable_target

    from . import display, subject

    clock = _clock(lock_clocks)
    if allow_insecure and scheduler is None:
        raise UserError("--allow-insecure is about --scheduler, which is not given")
    what = subject.find(kernel, shape, dtype)
    cluster = None
    if scheduler is not None:
        from gputune.meta_schedule import DaskCluster

        cluster = DaskCluster(scheduler, allow_insecure=allow_insecure)
    chosen = tunable_target(target)
    out = display.console()
    last: list[Progress] = []

    def note(now: Progress) -> None:
        last[:] = [now]
        live.update(now)

    with display.Live(what.title) as live:
        found = gputune.tune(
            what.func, chosen, seconds, trials, work_dir, seed=seed, progress=note,
            layout_free=layout_free.split(",") if layout_free else None, objective=objective,
            lock_clocks=clock, shared_gpu=shared_gpu, scheduler=cluster,
            database=None if database is None else open_database(database),
        )  # fmt: skip
    out.print(f"{what.title} on {chosen}: {found.summary}\n", soft_wrap=True)
    show(out, found, last, quiet)
    if cluster is None or chosen.kind == "llvm" or cuda_problem() is None:
        compare(out, what, found)


def _clock(text: str | None) -> bool | int:
    """What --lock-clocks asks for."""
    if text is None or text == "base":
        return text == "base"
    if not text.isdecimal():
        raise UserError(
            f"--lock-clocks takes a clock in MHz, found {text!r:.40}",
            hint="--lock-clocks alone is the GPU's base clock",
        )
    return int(text)


def show(out: Any, found: TunedKernel, last: list[Progress], quiet: bool) -> None:
    """The statistics table and the best schedule."""
    from gputune.meta_schedule.statistics_table import table

    if found.predicted is not None:
        out.print(f"{found.predicted}\n", soft_wrap=True)
    elif last:
        out.print(table(last[0].tasks), soft_wrap=True)
    if quiet:
        return
    out.print("Best schedule:\n", style="bold")
    out.print(str(found.trace).rstrip() + "\n", soft_wrap=True)
    out.print(found.mod.script().rstrip() + "\n", soft_wrap=True)


def compare(out: Any, what: Subject, found: TunedKernel) -> None:
    """Its speed beside NumPy's, or the unscheduled program's, in the same run."""
    from gputune.benchmark import bench
    from gputune.runtime.interruption import shall_end

    if shall_end():
        return  # it takes seconds, and nobody waits for it
    entries: dict[str, Any] = {}
    if what.reference is not None:
        entries["reference" if ".py:" in what.title else "numpy"] = what.reference
    if (found.flops or 0) <= _PATIENCE_FLOPS:
        entries["unscheduled"] = what.func
    entries["tuned"] = found
    try:
        result = bench(entries, what.inputs, seconds=_BENCH_SECONDS, target=found.target)
    except WrongResult as e:
        raise UserError(
            f"the results of {what.title} do not agree: {e.message.removeprefix('bench: ')}",
            hint="is the reference right? the tuned kernel was checked against the program",
            code="differ",
        ) from None
    out.print(result.rich_table())
    out.print(result.note(), style="dim", soft_wrap=True)
