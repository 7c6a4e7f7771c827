"""How fast are gputune's kernels on this GPU, beside what else there is? See bench/run.

    bench/run --gpu gate                three products and large rows: what an issue asks first
    bench/run --gpu gemm conv           shards of one family each, in one call
    bench/run --gpu --plan [SHARD...]   what would run, and how long it should take; needs no GPU
    bench/run --gpu --table             all records in Markdown; needs no GPU
    bench/run --gpu gate --default      default schedules only, nothing is tuned
    bench/run --gpu gate --rehearse     everything but the GPU: small sizes on the processor

A call ends by itself (`--limit`, nine minutes): the time of each cell's tuning is what is left,
shared out by weight. Records are appended to bench/results/<device>/gpu-<shard>.jsonl as each cell
ends; a second call takes up the cells that have none. Each cell is tuned from an empty database,
compared with float64, then timed in turns with torch, torch.compile, cuBLAS and cuDNN, CuPy and
Triton, as far as they are there, and with loops that move as many bytes or only multiply and add.
TF32 is off everywhere. Shards without cells: raw (five CUDA kernels, tuned), spread (how well do
measurements repeat?).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu_cells import CELLS, Cell
from gpu_out import ROOT, folder_of, head_of
from gpu_plan import (
    LIMIT,
    calls_needed,
    done,
    missing,
    plan,
    plan_text,
    read_lines,
    read_records,
)
from gpu_run import Job, Record, Watch, append, hopeless, python, run_cells

from gputune.target.host import cuda_problem

FIRST = ("raw", "spread")
SHARDS = (*CELLS, *FIRST)
_LAST = 30.0  # seconds of a call in which nothing is begun that takes long
_WARM = 3.0  # seconds of products before the first cell: until power and clocks settle


# ----------------------------------------------------------------------------- arguments
def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; exits with what is wrong with it."""
    parser = argparse.ArgumentParser(
        prog="bench/run --gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("shards", nargs="*", metavar="SHARD", help=", ".join((*SHARDS, "all")))
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--default", action="store_true", help="do not tune")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--again", action="store_true", help="measure what has records, too")
    parser.add_argument("--only", default="", metavar="WORDS", help="of cells' names, with commas")
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS")
    parser.add_argument("--trials", type=int, default=256, help="of a cell, at most")
    parser.add_argument("--seconds", type=float, default=30.0, help="of tuning a raw kernel")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder of the records; default: bench/results")
    parser.add_argument("--commit", default="", help="of the code, where there is no git")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if unknown := [s for s in given.shards if s not in (*SHARDS, "all")]:
        parser.error(f"no shard is called {', '.join(unknown)}; known: {', '.join(SHARDS)}, all")
    for name, least in (("limit", 60.0), ("trials", 1), ("seconds", 1.0)):
        if not getattr(given, name) >= least:
            parser.error(f"--{name}: at least {least:g}, found {getattr(given, name)}")
    if "all" in given.shards or (not given.shards and (given.plan or given.table)):
        given.shards = list(SHARDS)
    given.shards = given.shards or ["gate"]
    given.only = tuple(w for w in given.only.split(",") if w)
    names = [c.name for s in given.shards if s in CELLS for c in CELLS[s]]
    if strange := [w for w in given.only if not any(w in n for n in names)]:
        parser.error(f"--only: no cell of these shards has {', '.join(strange)} in its name")
    return given


def device_name() -> str:
    """What the driver calls the first GPU; no context is made for that."""
    driver, name, device = (
        ctypes.CDLL("libcuda.so.1"),
        ctypes.create_string_buffer(256),
        ctypes.c_int(0),
    )
    driver.cuInit(0)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetName(name, 256, device)
    return name.value.decode(errors="replace") or "gpu"


# ----------------------------------------------------------------------------- without a GPU
def show_plan(given: argparse.Namespace, folder: Path | None) -> None:
    """Print what calls would measure."""
    have = done(read_records(folder), not given.default) if folder and not given.again else set()
    calls = 0
    for shard in given.shards:
        if shard in FIRST:
            print(f"{shard}: about {5 * given.seconds + 60 if shard == 'raw' else 90:.0f} s")
            calls += 1
            continue
        cells = missing(shard, have, given.only)
        have |= {c.name for c in cells}  # a cell of two shards is measured once
        print(plan_text(shard, plan(cells, given.limit, not given.default), given.limit))
        calls += calls_needed(cells, given.limit)
    print(f"about {calls} calls of {given.limit:.0f} s")


def show_table(folder: Path) -> None:
    """Print all records as Markdown."""
    from gpu_table import markdown

    lines = list(read_lines(folder))
    print(markdown([x for x in lines if "cell" in x], [x for x in lines if "ceilings" in x]))


# ----------------------------------------------------------------------------- measuring
def measuring(job: Job, given: argparse.Namespace) -> int:
    """The process that measures; see gpu_run.py."""
    torch: Any = importlib.import_module("torch")
    from gpu_cell import Limits, Lost, measure
    from gpu_device import Cuda, Device, Host
    from gpu_peers import exact_float32

    exact_float32(torch)
    device: Device = Host(torch) if given.rehearse else Cuda(torch, importlib.import_module("cupy"))
    head = _head(device)
    if given.commit:
        head["commit"] = given.commit
    if isinstance(device, Cuda):
        with device.current():
            _warm(device)
            told = {"ceilings": device.ceilings.choose(device), "unix": time.time()}
        append(job, told | head)

    def one(
        cell: Cell, seconds: float, total: float, skip: Mapping[str, str],
        say: Callable[[str], None],
    ) -> Record:  # fmt: skip
        trials = 2 if given.rehearse else job.trials
        keep = None if given.rehearse else Path(job.folder) / "best"
        # what takes long is begun only where its cell will still be timed and written
        limits = Limits(seconds, trials, total, job.deadline - _LAST, job.seed, skip, keep)
        found = cell.small() if given.rehearse else cell
        try:
            return measure(device, found, limits, say) | {"cell": cell.name}
        except Lost:
            raise
        except Exception as e:  # no memory for the cell, say: the others are measured
            reason = f"{type(e).__name__}: {str(e).strip()[:300]}"
            try:
                device.synchronize()
            except Exception:
                raise Lost(reason) from e
            return hopeless(cell.name, dict(skip) | {"gputune": reason}, job.tuned)
        finally:
            # nothing of the cell is held any more: another process tunes the next one, and needs
            # the memory that torch and CuPy would keep
            gc.collect()
            device.free()

    try:
        left_out = run_cells(job, one, head)
    except Lost as e:
        print(f"the GPU's context is lost: {e}", flush=True)
        return 3
    if left_out:
        print(f"no time for {len(left_out)} cells: {', '.join(left_out)}", flush=True)
    return 0


def _head(device: Any) -> dict[str, Any]:
    about = device.nvml.about if device.nvml is not None else device.nvml_problem
    facts = device.facts.as_json() if hasattr(device, "facts") else {"name": device.name}
    return head_of(facts, about)


def _warm(device: Any) -> None:
    """Products until the GPU is as warm as it will be."""
    torch = device.torch
    x = torch.empty(4096, 4096, device=device.place).uniform_(-1, 1)
    start = time.perf_counter()
    while time.perf_counter() - start < _WARM:
        for _ in range(10):
            torch.mm(x, x)
        device.synchronize()


def first_light(shard: str, given: argparse.Namespace) -> int:
    """A shard without cells; how much of it is bad."""
    import gpu_first
    from gpu_out import Out

    out = Out(given.out)
    bad = gpu_first.raw(out, given.seconds) if shard == "raw" else gpu_first.spread(out)
    print(f"\n{out.device}; records in {out.folder}")
    print("\n".join(out.lines))
    return bad


def main(words: Sequence[str] | None = None) -> int:
    """Measure, or print; how it went."""
    given = parse(words)
    if given.measure:
        return measuring(Job.of_json(given.measure), given)
    problem = None if given.rehearse else cuda_problem()
    device = "rehearsal" if given.rehearse else device_name() if problem is None else None
    folder = folder_of(device, given.out) if device else _only_folder(given.out)
    if given.plan:
        show_plan(given, folder)
        return 0
    if given.table:
        if folder is None:
            print("bench/run --gpu --table: there are no records")
            return 0
        show_table(folder)
        return 0
    if problem is not None or folder is None:
        print(f"bench/run --gpu: nothing was measured: {problem}")
        return 0
    return run(given, folder)


def run(given: argparse.Namespace, folder: Path) -> int:
    """Measure the shards; 1 if a cell has no result of gputune's."""
    started = time.time()
    deadline, bad = started + given.limit, 0
    known = _take_up(folder, given)
    for shard in given.shards:
        if shard in FIRST:
            bad += first_light(shard, given)
            continue
        job = Job(shard, deadline, str(folder), given.only, given.again, not given.default,
                  given.trials, started, given.seed, known=known)  # fmt: skip
        if deadline - time.time() < 45:
            print(f"{shard}: not begun, no time is left")
            continue
        more = (["--rehearse"] if given.rehearse else []) + ["--commit", given.commit]
        Watch(python("gpu.py", *more, "--measure"), job).run()
    mine = [r for r in read_records(folder) if r.get("unix", 0.0) >= started and "lost" not in r]
    bad += sum(not any(n.startswith("gputune") for n in r["seconds"]) for r in mine)
    if mine:
        from gpu_table import short

        print(f"\n{short(read_records(folder))}\n")
    print(f"{len(mine)} cells measured, {bad} bad; records in {folder}")
    return 1 if bad else 0


def _take_up(folder: Path, given: argparse.Namespace) -> str:
    """Where `--out` is another folder than bench/results, cells that are known there need no second
    run: that folder, or "". The files of the shards to be measured are copied, so that what is
    brought back from another machine can take their place."""
    known = folder_of(folder.name)
    if given.out is None or not known.is_dir() or known == folder:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (f"gpu-{shard}.jsonl" for shard in given.shards):
        if (known / name).exists() and not (folder / name).exists():
            (folder / name).write_text((known / name).read_text(encoding="utf-8"), encoding="utf-8")
    return str(known)


def _only_folder(given: Path | None) -> Path | None:
    """Without a GPU: the folder of records, where there is one only."""
    root = given or ROOT / "bench" / "results"
    found = sorted({f.parent for f in root.glob("**/gpu-*.jsonl") if f.parent.name != "rehearsal"})
    return found[0] if len(found) == 1 else None


if __name__ == "__main__":
    sys.exit(main())
