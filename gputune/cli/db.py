"""`gputune db`: what does a folder of tuning results hold?"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gputune.errors import GputuneError, UserError
from gputune.figures import duration, plain

if TYPE_CHECKING:
    from gputune.meta_schedule import JSONDatabase, TuningRecord, Workload

EXAMPLES = """\b
Examples:
  gputune db ls tuned
"""


@click.group(epilog=EXAMPLES)
def db() -> None:
    """Look into a folder of tuning results (the --work-dir of `gputune tune`)."""


@db.command(epilog=EXAMPLES)
@click.argument("folder", type=click.Path(path_type=Path))
def ls(folder: Path) -> None:
    """List what was tuned: the best time of each workload and target, and how many trials."""
    from .display import console, table

    found = _opened(folder)
    rows = [_row(key, records) for key, records in _grouped(found).items()]
    out = console()
    if rows:
        head = ("workload", "best", "GFLOP/s", "trials", "failed", "target", "device", "when")
        out.print(table(head, rows, right=(1, 2, 3, 4)))
    else:
        out.print(f"{folder} holds no tuning records")
    for skipped in found.skipped:
        click.echo(f"skipped {skipped}", err=True)


def _opened(folder: Path) -> JSONDatabase:
    from gputune.meta_schedule import JSONDatabase

    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}", code="missing")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the skipped lines are listed
        try:
            return JSONDatabase(work_dir=folder, allow_missing=False)
        except UserError as e:
            if e.code == "missing":
                raise UserError(
                    f"{folder} holds no database", hint="gputune tune ... --work-dir makes one"
                ) from None
            raise


Key = tuple["Workload", str, str]


def _grouped(found: JSONDatabase) -> dict[Key, list[TuningRecord]]:
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
