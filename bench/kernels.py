"""Does every kernel of the library tune, and is every result NumPy's?

    python bench/kernels.py --trials 16 [--only matmul,softmax] [--small] [--json FILE]

Tunes each kernel from an empty database on one core, runs the result on fresh inputs, compares with
the NumPy reference, and times both in one process. Prints one line a kernel; exits 1 if a candidate
was lost to infrastructure, no candidate worked, or a result is wrong. `--small` takes the odd
little shapes of the tests. `--json` writes one raw record a line, with CPU and versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # NumPy on one core, like the kernels here
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import gputune as gt
from gputune.kernels import KERNELS

TARGET = "llvm --num-cores=1"


def compare(kernel: Any, tuned: Any, shape: Any) -> tuple[bool, float]:
    """Is the result NumPy's, and what is the largest error relative to the largest value?"""
    args = kernel.arguments(shape, seed=7)
    tuned.bind(*args)()
    worst, ok = 0.0, True
    names = [b.name for b in next(iter(tuned.mod.functions.values())).buffers]
    outputs = [a for a, n in zip(args, names, strict=True) if n in kernel.outputs]
    for got, want in zip(outputs, kernel.expected(args, shape), strict=True):
        g, w = got.astype(np.float64), np.asarray(want).astype(np.float64)
        scale = max(1.0, float(np.max(np.abs(w))))
        error = float(np.max(np.abs(g - w)) / scale) if g.size else 0.0
        ok &= g.shape == w.shape and error < 1e-4
        worst = max(worst, error)
    return ok, worst


def seconds_of(call: Any, limit: float = 0.5) -> float:
    """Median seconds of a call, within a time limit."""
    times = []
    end = time.perf_counter() + limit
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 50):
        t = time.perf_counter()
        call()
        times.append(time.perf_counter() - t)
    return float(np.median(times))


def one(name: str, kernel: Any, shape: Any, trials: int, seed: int) -> dict[str, Any]:
    """Tune, check and time one kernel; the raw record."""
    func = kernel.build(shape)
    start = time.perf_counter()
    tuned = gt.tune(func, TARGET, trials=trials, seed=seed)
    tuning = time.perf_counter() - start
    ok, error = compare(kernel, tuned, shape)
    args = kernel.arguments(shape, seed=8)
    names = [b.name for b in func.buffers]
    inputs = [a for a, n in zip(args, names, strict=True) if n not in kernel.outputs]
    return {
        "kernel": name,
        "shape": kernel.shape(shape),
        "trials": trials,
        "seed": seed,
        "tuning_s": tuning,
        "tuned_s": seconds_of(tuned.bind(*args)),
        "numpy_s": seconds_of(lambda: kernel.reference(*inputs, **kernel.shape(shape))),
        "right": ok,
        "error": error,
        "failures": dict(tuned.summary.failures) if tuned.summary else {},
        "measured": tuned.summary.trials if tuned.summary else 0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    table = dict(KERNELS)
    wanted = [n for n in args.only.split(",") if n] or list(table)
    bad = 0
    head = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "gputune": gt.__version__,
        "cpu": gt.Target(TARGET).device_key,
    }
    print(f"{'kernel':24}{'tuned us':>12}{'NumPy us':>12}{'ratio':>8}{'tuning s':>10}  result")
    for name in wanted:
        kernel = table[name]
        shape = kernel.check_shapes[0] if args.small else None
        try:
            row = one(name, kernel, shape, args.trials, args.seed)
        except gt.GputuneError as e:
            bad += 1
            print(f"{name:24}{'failed: ' + str(e).splitlines()[0]}", flush=True)
            continue
        lost = {k: v for k, v in row["failures"].items() if "infrastructure" in k or "worker" in k}
        bad += (not row["right"]) or bool(lost)
        verdict = "equals NumPy" if row["right"] else f"WRONG, error {row['error']:.2g}"
        if row["failures"]:
            verdict += f"; failures {row['failures']}"
        ratio = row["numpy_s"] / row["tuned_s"]
        print(
            f"{name:24}{row['tuned_s'] * 1e6:12.1f}{row['numpy_s'] * 1e6:12.1f}{ratio:8.2f}"
            f"{row['tuning_s']:10.1f}  {verdict}",
            flush=True,
        )
        if args.json:
            with args.json.open("a") as f:
                f.write(json.dumps({**head, **row}) + "\n")
    print(f"{len(wanted)} kernels, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
