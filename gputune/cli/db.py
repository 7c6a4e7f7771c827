"""`gputune db`: what does a database of tuning results hold, and how is it kept in order?"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gputune.errors import GputuneError, UserError
from gputune.figures import duration, plain

if TYPE_CHECKING:
    from gputune.meta_schedule import Copied, Database, TuningRecord, Workload

EXAMPLES = """\b
Examples:
  gputune db ls tuned
  gputune db merge tuned from_the_other_machine
  gputune db prune tuned --keep 8
  gputune db export tuned tuned.jsonl
  gputune db import tuned.sqlite tuned.jsonl
  gputune db verify tuned
"""

PROBLEMS = 1


@click.group(epilog=EXAMPLES)
def db() -> None:
    """Look into databases of tuning results, and keep them in order.

    DATABASE is a folder (the --work-dir of `gputune tune`), a .sqlite file (or sqlite:///FILE), or
    the address of a server: postgresql://USER@HOST/NAME.
    """
    # What cannot be read is listed by each command.
    click.get_current_context().with_resource(warnings.catch_warnings())
    warnings.simplefilter("ignore")


# ----------------------------------------------------------------------------- ls
@db.command(epilog="\b\nExamples:\n  gputune db ls tuned\n  gputune db ls sqlite:///tuned.sqlite\n")
@click.argument("database")
def ls(database: str) -> None:
    """List what was tuned: the best time of each workload and target, and how many trials."""
    from .display import console, table

    found = _opened(database)
    rows = [_row(key, records) for key, records in _grouped(found).items()]
    out = console()
    if rows:
        head = ("workload", "best", "GFLOP/s", "trials", "failed", "target", "device", "when")
        out.print(table(head, rows, right=(1, 2, 3, 4)))
    else:
        out.print(f"{_named(database)} holds no tuning records")
    _skipped(found)


# ----------------------------------------------------------------------------- merge
@db.command(
    epilog="\b\nExamples:\n  gputune db merge tuned one_machine another_machine\n"
    "  gputune db merge postgresql://me@host/tuning tuned\n"
)
@click.argument("destination")
@click.argument("sources", nargs=-1, required=True)
def merge(destination: str, sources: tuple[str, ...]) -> None:
    """Add the records of other databases to one, each candidate once.

    DESTINATION is made if it is not there. The SOURCES are left as they are. All is added at once
    or, where that fails, nothing.
    """
    from gputune.meta_schedule import merge_databases

    for source in sources:
        if _same(source, destination):
            raise UserError(f"{_named(source)} cannot be merged into itself", code="merge")
    opened = [_opened(source) for source in sources]
    into = _opened(destination, make=True)
    _tell(merge_databases(into, opened), destination)
    for one in opened:
        _skipped(one)


# ----------------------------------------------------------------------------- prune
@db.command(epilog="\b\nExamples:\n  gputune db prune tuned\n  gputune db prune tuned --keep 8\n")
@click.argument("database")
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many of the best of each workload, target and device.",
)
@click.option("--unreadable", is_flag=True, help="Drop lines that cannot be read, too.")
def prune(database: str, keep: int, unreadable: bool) -> None:
    """Keep the best records, and drop slower and failed ones for good.

    What says that a program computes wrong results is kept. The file is written anew and put in
    the place of the old one; tunings that use it may go on meanwhile. A later search may measure
    again what was dropped: keep a copy (`gputune db export`) if that matters.
    """
    done = _opened(database).prune(keep, unreadable=unreadable)
    click.echo(f"{_named(database)}: {_records(done.kept)} kept, {done.dropped} dropped")
    if done.unreadable:
        what = "dropped" if unreadable else "kept as they are"
        click.echo(f"{done.unreadable} lines cannot be read: {what}", err=True)


# ----------------------------------------------------------------------------- export, import
@db.command(epilog="\b\nExamples:\n  gputune db export tuned tuned.jsonl\n")
@click.argument("database")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace FILE if it is there.")
def export(database: str, file: Path, overwrite: bool) -> None:
    """Write a database to one file that travels: JSON lines with a digest at the end."""
    from gputune.meta_schedule import export_database

    found = _opened(database)
    done = export_database(found, file, overwrite=overwrite)
    click.echo(f"{file}: {_records(done.added)} of {_programs(done.workloads)}")
    _unusable(done)
    _skipped(found)


@db.command(
    name="import",
    epilog="\b\nExamples:\n  gputune db import tuned tuned.jsonl\n"
    "  gputune db import tuned tvm_tune_tmp --tvm matmul --shape 1024,1024,1024\n",
)
@click.argument("database")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--tvm",
    metavar="KERNEL|FILE.py:FUNC",
    multiple=True,
    help="FILE is TVM's work_dir, this the program that was tuned. May be repeated.",
)
@click.option("--shape", metavar="SIZES", help="With --tvm: the program's sizes.")
@click.option("--dtype", help="With --tvm: the program's element type.")
@click.option("--this-machine", is_flag=True, help="With --tvm: it was tuned on this machine.")
def import_(
    database: str,
    file: Path,
    tvm: tuple[str, ...],
    shape: str | None,
    dtype: str | None,
    this_machine: bool,
) -> None:
    """Add what `gputune db export` wrote, or the tuning records of TVM's MetaSchedule.

    A file that is not whole adds nothing. TVM keeps programs in a form that only TVM reads: --tvm
    names the program as gputune has it. Records whose trace does not apply to it are listed and
    left out; what is added counts as measured elsewhere unless --this-machine.
    """
    if tvm:
        _import_tvm(database, file, tvm, shape, dtype, this_machine)
        return
    if shape or dtype or this_machine:
        raise UserError("--shape, --dtype and --this-machine go with --tvm", code="tvm")
    from gputune.meta_schedule.database_copy import add_records, exported

    if not file.is_file():
        raise UserError(
            f"there is no file {file}",
            hint="a folder of tuning results is merged: gputune db merge DATABASE FOLDER",
            code="missing",
        )
    records = exported(file)  # before the database is made
    _tell(add_records(_opened(database, make=True), records), database)


def _import_tvm(
    database: str,
    file: Path,
    names: tuple[str, ...],
    shape: str | None,
    dtype: str | None,
    this_machine: bool,
) -> None:
    from gputune.meta_schedule import import_tvm_records

    from . import subject

    programs = [subject.find(name, shape, dtype).func for name in names]
    if not file.exists():
        raise UserError(f"there is no file or folder {file}", code="missing")
    into = _opened(database, make=True)
    done = import_tvm_records(into, file, programs, this_machine=this_machine)
    _tell(done.copied, database)
    if done.failed:
        click.echo(f"{_records(done.failed)} of candidates that had failed in TVM left out")
    for problem in done.skipped:
        click.echo(f"skipped {problem}", err=True)


# ----------------------------------------------------------------------------- verify
@db.command(epilog="\b\nExamples:\n  gputune db verify tuned\n  gputune db verify tuned --quick\n")
@click.argument("database")
@click.option("--quick", is_flag=True, help="Do not replay the traces.")
def verify(database: str, quick: bool) -> None:
    """Read every line again, and say which are not as they should be; exit code 1 if any is not.

    Looked at are form, checksum, duplicates, the programs and their digests, the targets, and
    whether each trace still applies. Nothing is compiled or run.
    """
    from gputune.meta_schedule import verify_database

    done = verify_database(_opened(database), replays=not quick)
    for problem in done.problems:
        click.echo(str(problem))
    what = f"{_programs(done.workloads)}, {_records(done.records)}"
    count = len(done.problems)
    click.echo(f"{_named(database)}: {what}, {count or 'no'} problem{'s' * (count != 1)}")
    if done.problems:
        raise SystemExit(PROBLEMS)


# ----------------------------------------------------------------------------- what they share
def _opened(address: str, *, make: bool = False) -> Database:
    from gputune.meta_schedule import open_database

    return open_database(address, allow_missing=make)


def _named(address: str) -> str:
    from gputune.meta_schedule.database_address import is_url, redacted

    return redacted(address) if is_url(address) else address


def _same(a: str, b: str) -> bool:
    from gputune.meta_schedule.database_address import is_url

    if is_url(a) or is_url(b):
        return a == b
    return Path(a).resolve() == Path(b).resolve()


def _tell(done: Copied, address: str) -> None:
    click.echo(
        f"{_named(address)}: {_records(done.added)} added, {done.known} known already, "
        f"{_programs(done.workloads)} new"
    )
    _unusable(done)


def _unusable(done: Copied) -> None:
    if done.unusable:
        click.echo(f"{_records(done.unusable)} of programs that cannot be read left out", err=True)


def _skipped(found: Database) -> None:
    for skipped in getattr(found, "skipped", ()):
        click.echo(f"skipped {skipped}", err=True)


def _records(n: int) -> str:
    return f"{n} record" if n == 1 else f"{n} records"


def _programs(n: int) -> str:
    return f"{n} program" if n == 1 else f"{n} programs"


# ----------------------------------------------------------------------------- rows of ls
Key = tuple["Workload", str, str]


def _grouped(found: Database) -> dict[Key, list[TuningRecord]]:
    """The records by workload, target and device, the best first."""
    out: dict[Key, list[TuningRecord]] = {}
    for record in found.get_all_tuning_records():
        key = (record.workload, _target(record), str(record.extras.get("device", "-")))
        out.setdefault(key, []).append(record)
    return out


def _target(record: TuningRecord) -> str:
    """The target in short; what it asks of the processor is part of the device."""
    found = record.target_json() or {}
    words = [str(found.get("kind", "-"))]
    words += [f"-{k}={found[k]}" for k in ("num-cores", "arch") if k in found]
    return " ".join(words)


def _row(key: Key, records: list[TuningRecord]) -> tuple[str, ...]:
    workload, target, device = key
    best = min(records, key=lambda r: r.seconds)
    failed = sum(1 for r in records if not r.is_valid)
    times = [t for r in records if isinstance(t := r.extras.get("time"), int | float)]
    name, speed = _described(workload, best.seconds)
    return (
        name, duration(best.seconds), speed, str(len(records)), str(failed), target,
        device.partition("/")[0], _when(times),
    )  # fmt: skip


def _described(workload: Workload, seconds: float) -> tuple[str, str]:
    """What a workload is called, with the shapes of its arguments, and its best speed."""
    from gputune.calling import Convention
    from gputune.figures import rate
    from gputune.ir.flops import estimate_flops

    try:
        mod = workload.mod
        name, func = next(iter(mod.functions.items()))
        params: Any = Convention.of(func).sig.params
        shapes = ", ".join(str(p).partition(": ")[2] for p in params)
        return plain(f"{name}({shapes})", 100), rate(estimate_flops(mod), seconds)
    except (GputuneError, StopIteration):
        return f"{plain(workload.shash, 16)} (cannot be read)", "-"


def _when(times: list[Any]) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(max(times)))
    except (ValueError, OverflowError, OSError):
        return "-"
