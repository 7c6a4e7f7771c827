"""Is the tuned matmul as fast as NumPy's, and how long did tuning take?

    python bench/matmul.py --size 128 --trials 64 [--seeds 1,2,3] [--json FILE]

Default space, float32, one core, an empty database for each seed. The tuned kernel, the unscheduled
program and NumPy (also on one core) run in turns in one process, medians; the results are compared
with each other. Prints a line a seed; `--json` keeps the raw records.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import gputune as gt
from gputune import meta_schedule as ms

TARGET = "llvm --num-cores=1"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    n = args.size
    func = gt.kernels.get("matmul").build(m=n, n=n, k=n)
    print("seed  tuned us  NumPy us  unsched. us  NumPy/tuned  tuning s")
    for seed in map(int, args.seeds.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            result = ms.tune_tir(
                func, TARGET, folder, args.trials, num_trials_per_iter=64, seed=seed
            )
            tuning = time.perf_counter() - start
        rng = np.random.default_rng(seed)
        a, b = (rng.standard_normal((n, n)).astype(np.float32) for _ in range(2))
        entries = {"tuned": result.mod, "NumPy": np.matmul, "unscheduled": func}
        bench = gt.bench(entries, (a, b), target=TARGET, seconds=3.0)
        us = {name: bench.results[name].median * 1e6 for name in entries}
        ratio = us["NumPy"] / us["tuned"]
        print(
            f"{seed:4}{us['tuned']:10.1f}{us['NumPy']:10.1f}{us['unscheduled']:13.1f}{ratio:13.2f}"
            f"{tuning:10.1f}",
            flush=True,
        )
        if args.json:
            row = {
                "bench": "matmul", "size": n, "trials": args.trials, "seed": seed, "us": us,
                "tuning_s": tuning, "cpu": gt.Target(TARGET).device_key, "numpy": np.__version__,
                "gputune": gt.__version__,
            }  # fmt: skip
            with args.json.open("a") as f:
                f.write(json.dumps(row) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
