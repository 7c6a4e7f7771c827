"""How long do databases of many records take? `python bench/database.py --json FILE`

Makes a database of 100,000 records (twenty programs, traces of the default CPU space, one in ten of
them failed) of each kind, and measures, each in a fresh process:

* open: until the first query may be asked;
* query: the best record of one of the programs, the first time and again, and its schedule;
* append: one record (median of 200), and 1,000 in one go;
* prune: down to the best of each program;
* memory: of that process after opening and after looking at everything.

Seconds are of one process on a quiet machine. `--sql URL` adds a server.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gputune.figures import duration  # noqa: E402
from gputune.kernels import KERNELS  # noqa: E402
from gputune.meta_schedule import (  # noqa: E402
    Database,
    TuneContext,
    TuningRecord,
    Workload,
    open_database,
)
from gputune.meta_schedule.record_line import body_of, read_body  # noqa: E402

TARGET = "llvm -num-cores=1"
PROGRAMS = 20
KINDS = ("json", "sqlite", "memory")
_BATCH = 10_000


def programs() -> list[Any]:
    """Matmuls of different sizes."""
    return [KERNELS["matmul"].build(m=256, n=256, k=32 * (n + 1)) for n in range(PROGRAMS)]


def template(func: Any) -> TuningRecord:
    """A record of a program with a trace as tunings have them, read from a line."""
    ctx = TuneContext(func, target=TARGET, space_generator="post-order-apply", rand_state=1)
    spaces = ctx.generate_design_space()
    trace = max((s.trace for s in spaces), key=lambda t: len(t.insts))
    extras = {
        "seed": 1, "verified": False, "versions": {"llvmlite": "0.50.0", "llvm": "22.1.0"},
        "cut": False, "disturbed": 0,
    }  # fmt: skip
    workload = Workload(func)
    record = TuningRecord(trace, workload, [1.0], TARGET, None, extras)
    return read_body(body_of(record).encode(), workload)


def records(count: int) -> Iterator[TuningRecord]:
    """So many different ones."""
    kinds = [template(f) for f in programs()]
    for k in range(count):
        record = kinds[k % PROGRAMS].copy()
        if k // PROGRAMS % 10 == 7:
            record.run_secs = None
            record.extras["error"] = {"phase": "run", "kind": "timeout", "message": "too slow"}
        else:
            record.run_secs = [1e-3 * (1 + (k * 7919) % count) / count + 1e-9 * i for i in range(5)]
        record.extras |= {"program": f"{k:032x}", "time": 1.75e9 + k}
        yield record


def seconds(do: Callable[[], Any]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def write(db: Database, count: int) -> float:
    """Seconds to write all, in batches."""
    took = 0.0
    batch: list[TuningRecord] = []
    for record in records(count):
        batch.append(record)
        if len(batch) == _BATCH:
            took += seconds(partial(db.commit_tuning_records, batch))
            batch = []
    return took + seconds(partial(db.commit_tuning_records, batch))


def rss_mib() -> int:
    """What this process holds now; its peak would begin with that of the process before."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (pages * resource.getpagesize()) >> 20


def use(address: str, count: int) -> dict[str, Any]:
    """The figures of a database that is there (or, for "memory", is made)."""
    found: list[Database] = []
    out: dict[str, Any] = {}
    before = rss_mib()
    if address == "memory":
        found.append(Database.create("memory"))
        out["write_s"] = write(found[0], count)
    else:
        out["open_s"] = seconds(lambda: found.append(open_database(address)))
    db = found[0]
    out["opened_mib"] = rss_mib() - before
    some = programs()
    wanted = some[3]
    out["query_first_s"] = seconds(lambda: db.query_tuning_record(wanted, TARGET))
    out["query_again_s"] = min(
        seconds(lambda: db.query_tuning_record(wanted, TARGET)) for _ in range(5)
    )
    out["schedule_s"] = seconds(lambda: db.query_schedule(wanted, TARGET))
    base = template(wanted)
    base.workload = db.commit_workload(wanted)
    new: list[TuningRecord] = []
    for k in range(1200):
        new.append(base.copy())
        new[-1].run_secs = [1.0 + k]
    out["append_s"] = statistics.median(
        seconds(lambda r=r: db.commit_tuning_record(r)) for r in new[:200]
    )
    out["append_1000_s"] = seconds(lambda: db.commit_tuning_records(new[200:]))
    out["all_s"] = seconds(db.get_all_tuning_records)
    out["all_mib"] = rss_mib() - before
    assert len(db) == count + 1200
    done: list[Any] = []
    out["prune_s"] = seconds(lambda: done.append(db.prune(1)))
    assert done[0].kept == PROGRAMS == len(db)
    return {k: float(f"{v:.4g}") for k, v in out.items()}


def measure(kind: str, address: str, count: int) -> dict[str, Any]:
    """The figures of one kind, each step in a process of its own."""
    out: dict[str, Any] = {"kind": kind, "records": count}
    if address != "memory":
        db = open_database(address)
        if len(db):
            sys.exit(f"bench: the {kind} database is not empty")
        out["write_s"] = float(f"{write(db, count):.4g}")
        db.flush()
        size = sum(p.stat().st_size for p in Path(address).parent.rglob("*") if p.is_file())
        out["mib"] = size >> 20 if "://" not in address else None
        getattr(db, "close", lambda: None)()
    command = [sys.executable, __file__, "--use", address, "--records", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench: {kind}: {done.stderr}")
    return out | json.loads(done.stdout)


def table(rows: list[dict[str, Any]]) -> str:
    """The figures for people."""
    head = ("kind", "open", "query", "again", "schedule", "append", "1,000", "all", "prune", "MiB")
    keys = ("open_s", "query_first_s", "query_again_s", "schedule_s", "append_s", "append_1000_s",
            "all_s", "prune_s")  # fmt: skip
    lines = [head]
    for row in rows:
        times = [duration(row[k]) if k in row else "-" for k in keys]
        lines.append((row["kind"], *times, f"{row['opened_mib']:.0f}-{row['all_mib']:.0f}"))
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    return "\n".join("  ".join(x.rjust(w) for x, w in zip(line, widths)) for line in lines)


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of json, sqlite, memory")
    parser.add_argument("--sql", metavar="URL", help="an empty database of a server, too")
    parser.add_argument("--json", metavar="FILE", help="append a record to FILE")
    parser.add_argument("--use", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.records < PROGRAMS:
        parser.error(f"--records is at least {PROGRAMS}")
    if args.use:
        print(json.dumps(use(args.use, args.records)))
        return
    kinds = [k for k in args.kinds.split(",") if k]
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"--kinds: unknown are {', '.join(sorted(unknown))}")
    rows = []
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="gputune-bench-") as folder:
            place = {"json": f"{folder}/tuned", "sqlite": f"{folder}/tuned.sqlite"}
            rows.append(measure(kind, place.get(kind, "memory"), args.records))
    if args.sql:
        rows.append(measure("sql", args.sql, args.records))
    print(table(rows))
    if args.json:
        machine = {"machine": platform.processor() or platform.machine()}
        with open(args.json, "a") as f:
            f.writelines(json.dumps(machine | row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
