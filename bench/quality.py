"""How good are the schedules for the trials they cost? `python bench/quality.py`

For each kernel of the suite, from empty databases, on one core:

* zero: what is chosen without a measurement (`max_trials_global=0`);
* matrix: the evolutionary search on matrices, for each seed;
* replay: the same space and model searched by MetaSchedule's way, where mutators change traces one
  by one and every candidate is replayed, for each seed;
* at48: the best of the first 48 trials of each matrix run;
* long: one run of many trials;
* TVM (with `--tvm PYTHON`): its tuning with the same trials, best time and wall clock.

All results are then timed again, in turns, in several fresh processes (where its memory lies makes
a program faster or slower by some percent in one process than in another), and have the median of
these times; "best" is the fastest of all. Prints a line a kernel and the geometric means;
`--json FILE` keeps the raw records, and `--keep DIR` the databases.

    python bench/quality.py --only GMM,SFM --seeds 1,2 --trials 32 --long 64
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import gputune as gt
from gputune import meta_schedule as ms
from gputune.ir.nodes import PrimFunc
from gputune.kernels import suite
from gputune.runtime import ndarray
from gputune.script import from_source

TARGET = "llvm --num-cores=1"
BATCH = 16


class _Keep(ms.PyMutator):
    """Changes nothing. A space with a mutator that is not gputune's own is searched trace by
    trace, which is what this is here for."""

    def apply(self, trace: Any) -> Any:
        return None


def space(by_replay: bool) -> ms.SpaceGenerator:
    """The default space of the target, to be searched in one of the two ways."""
    if not by_replay:
        return ms.PostOrderApply()
    mutators = {**ms.Mutator.create("llvm"), _Keep(): 1e-9}
    return ms.PostOrderApply(mutator_probs=mutators)


def tune(func: PrimFunc, folder: Path, trials: int, seed: int, by_replay: bool) -> dict[str, Any]:
    """One tuning: its result, wall clock, and records in the order of measurement."""
    start = time.perf_counter()
    result = ms.tune_tir(
        func,
        TARGET,
        folder,
        trials,
        num_trials_per_iter=BATCH,
        seed=seed,
        space=space(by_replay),
    )
    wall = time.perf_counter() - start
    return {"wall": wall, "result": result}


def best_of_first(folder: Path, count: int) -> Any:
    """The scheduled program of the best of the first trials of a database, in order of time."""
    database = ms.JSONDatabase(work_dir=folder)
    lines = (folder / "database_tuning_record.json").read_text().splitlines()[:count]
    first = {json.loads(line)[1][4].get("program") for line in lines}
    records = [r for r in database.get_all_tuning_records() if r.program in first]
    best = min(records, key=lambda r: r.seconds)
    return best.as_measure_candidate().sch.mod


def peer(python: str, name: str, trials: int) -> dict[str, Any]:
    """TVM's tuning of the same program."""
    script = Path(__file__).with_name("tvm_peer.py")
    shape = suite.KERNELS[name].shape(None)
    words = {"GMM": "matmul:{m},{n},{k}"}.get(name, name).format(**shape)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [python, str(script), "tune", words, str(trials), folder],
            capture_output=True,
            text=True,
            timeout=3600,
        )
    if done.returncode != 0:
        return {"error": done.stderr.strip().splitlines()[-1:]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def timed(name: str, scripts: list[str]) -> list[float]:
    """Seconds of scheduled programs of a kernel, measured in turns in this process."""
    kernel = suite.KERNELS[name]
    args = kernel.arguments(None, seed=3)
    names = [b.name for b in kernel.build().buffers]
    # where tuning has them, at cache lines: NumPy's own arrays are not, which can cost half
    inputs = tuple(
        np.asarray(ndarray.array(a))
        for a, n in zip(args, names, strict=True)
        if n not in kernel.outputs
    )
    entries = {str(k): from_source(text) for k, text in enumerate(scripts)}
    bench = gt.bench(entries, inputs, target=TARGET, seconds=max(1.0, 0.2 * len(entries)))
    return [bench.results[k].median for k in entries]


def in_processes(name: str, entries: dict[str, Any], count: int) -> list[dict[str, float]]:
    """Seconds of each entry in each of some fresh processes; equal programs are timed once."""
    scripts = {k: mod.script() for k, mod in entries.items()}
    different = list(dict.fromkeys(scripts.values()))
    out = []
    for _ in range(count):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = dict(zip(different, pool.apply(timed, (name, different)), strict=True))
        out.append({k: found[text] for k, text in scripts.items()})
    return out


def one(name: str, given: argparse.Namespace, keep: Path) -> dict[str, Any]:
    """All figures of one kernel."""
    kernel = suite.KERNELS[name]
    func = kernel.build()
    entries: dict[str, Any] = {}
    walls: dict[str, float] = {}
    first = ms.tune_tir(func, TARGET, keep / name / "zero", 0, seed=1)
    entries["zero"] = first.mod
    for seed in given.seeds:
        for way in ("matrix", "replay"):
            folder = keep / name / f"{way}-{seed}"
            done = tune(func, folder, given.trials, seed, way == "replay")
            entries[f"{way}-{seed}"], walls[f"{way}-{seed}"] = done["result"].mod, done["wall"]
            if way == "matrix":
                entries[f"at48-{seed}"] = best_of_first(folder, 48)
    if given.long:
        done = tune(func, keep / name / "long", given.long, 99, False)
        entries["long"], walls["long"] = done["result"].mod, done["wall"]
    runs = in_processes(name, entries, given.processes)
    seconds = {k: median([r[k] for r in runs]) for k in entries}
    record = {
        "bench": "quality", "kernel": name, "trials": given.trials, "seconds": seconds,
        "runs": runs, "wall_s": walls, "cpu": gt.Target(TARGET).device_key,
        "gputune": gt.__version__,
    }  # fmt: skip
    if given.tvm:
        record["tvm"] = peer(given.tvm, name, given.trials)
    return record


def figures(record: dict[str, Any]) -> dict[str, float]:
    """What a record shows: shares of the best known speed, and of wall clock."""
    s = record["seconds"]
    theirs = record.get("tvm", {}).get("best_s", math.inf)
    best = min([*s.values(), theirs])
    ways = {w: [s[k] for k in s if k.startswith(w + "-")] for w in ("matrix", "replay", "at48")}
    out = {
        "zero": best / s["zero"],
        "matrix": best / median(ways["matrix"]),
        "replay": best / median(ways["replay"]),
        "at48": best / median(ways["at48"]),
        "worst": median(ways["matrix"]) / max(ways["matrix"]),
    }
    wall = median([v for k, v in record["wall_s"].items() if k.startswith("matrix")])
    out["wall_s"] = wall
    if "wall_s" in record.get("tvm", {}):
        out["tvm_wall"] = record["tvm"]["wall_s"] / wall
        out["tvm"] = best / theirs
    return out


def main() -> int:
    """Print a line a kernel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--long", type=int, default=256)
    parser.add_argument("--processes", type=int, default=3, help="fresh ones, for the last timing")
    parser.add_argument("--tvm", help="a Python that has apache-tvm")
    parser.add_argument("--keep", type=Path, help="folder for the databases")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.seeds = [int(x) for x in given.seeds.split(",")]
    names = [n for n in given.only.split(",") if n] or list(suite.KERNELS)
    columns = ("zero", "at48", "matrix", "replay", "worst", "wall_s", "tvm", "tvm_wall")
    print("shares of the best known speed; worst: median seed / worst seed; wall clock of matrix")
    print(f"{'kernel':8}" + "".join(f"{c:>10}" for c in columns), flush=True)
    table: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            record = one(name, given, given.keep or Path(folder))
            if given.json:
                with given.json.open("a") as f:
                    f.write(json.dumps(record) + "\n")
            row = figures(record)
            table.append(row)
            cells = (f"{row[c]:10.2f}" if c in row else f"{'':10}" for c in columns)
            print(f"{name:8}" + "".join(cells), flush=True)
    means = {c: [r[c] for r in table if c in r] for c in columns}
    cells = (
        f"{math.exp(sum(map(math.log, v)) / len(v)):10.2f}" if v else f"{'':10}"
        for v in means.values()
    )
    print(f"{'geomean':8}" + "".join(cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
