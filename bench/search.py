"""How many candidates a second does the search look at? `python bench/search.py`

Rounds of the evolutionary search from end to end: sampling, mutation, crossover, verdicts,
features, cost model, ranking, removal of duplicates, the batch's replays, training. Times of
candidates are made up, so nothing is compiled. With `--tvm PYTHON` TVM's search is run on the same
programs in turn (see tvm_peer.py), and the ratio printed. One core: start it under `taskset -c 0`.

    python bench/search.py --tvm peer/bin/python --out bench/results/search.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from gputune.ir.nodes import PrimFunc
from gputune.kernels import suite
from gputune.kernels.dense import KERNELS
from gputune.meta_schedule.cost_model import XGBModel
from gputune.meta_schedule.database import MemoryDatabase
from gputune.meta_schedule.runner import RunnerResult
from gputune.meta_schedule.search_strategy import EvolutionarySearch
from gputune.meta_schedule.tune_context import TuneContext
from gputune.target import Target

PROGRAMS = ("matmul:1024,1024,1024", "C2D")
TARGETS = ("llvm --num-cores=1", "cuda --arch=sm_80")
BATCH, ROUNDS = 64, 5


def program(name: str) -> PrimFunc:
    """A program by the name that tvm_peer.py knows, too."""
    if name.startswith("matmul:"):
        m, n, k = (int(x) for x in name.removeprefix("matmul:").split(","))
        return KERNELS["matmul"].build(m=m, n=n, k=k)
    return suite.KERNELS[name].build()


def _sampled(strategy: EvolutionarySearch) -> int:
    counts = strategy.counts()
    return 0 if counts is None else counts.sampled


def search(name: str, target: str, seed: int) -> dict[str, Any]:
    """Figures of some rounds on one program."""
    context = TuneContext(
        program(name),
        target=Target(target),
        space_generator="post-order-apply",
        search_strategy="evolutionary",
        num_threads=1,
        rand_state=seed,
    )
    strategy = context.search_strategy
    assert isinstance(strategy, EvolutionarySearch)
    model = XGBModel(num_tuning_cores=1)
    start = time.perf_counter()
    spaces = context.generate_design_space()
    context.pre_tuning(BATCH * (ROUNDS + 1), BATCH, spaces, MemoryDatabase(), model)
    begin = time.perf_counter() - start
    rng = np.random.default_rng(seed)
    rounds = []
    for _ in range(ROUNDS):
        before = _sampled(strategy)
        start = time.perf_counter()
        found = context.generate_measure_candidates() or []
        seconds = time.perf_counter() - start
        times = rng.lognormal(-7.0, 0.7, len(found))
        results = [RunnerResult([float(t)], None) for t in times]
        start = time.perf_counter()
        model.update(context, found, results)
        context.notify_runner_results(found, results)
        seconds += time.perf_counter() - start
        count = _sampled(strategy) - before
        rounds.append(
            {
                "candidates": count,
                "seconds": round(seconds, 4),
                "batch": len(found),
                "candidates_per_s": round(count / seconds),
            }
        )
    context.post_tuning()
    total = sum(r["candidates"] for r in rounds)
    return {
        "program": name,
        "target": target,
        "design_spaces": len(spaces),
        "begin_s": round(begin, 4),
        "rounds": rounds,
        "candidates_per_s": round(total / (begin + sum(r["seconds"] for r in rounds))),
    }


def peer(python: str, name: str) -> dict[str, Any]:
    """TVM's figures on the same program; its last round is the one whose trees are trained."""
    script = Path(__file__).with_name("tvm_peer.py")
    done = subprocess.run(
        [python, str(script), "search", name], capture_output=True, text=True, timeout=900
    )
    if done.returncode != 0:
        sys.exit(f"the peer failed on {name}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"peer": "tvm 0.27.0.post1", **found}


def main() -> None:
    """Print one JSON object a program and target, then a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("programs", nargs="*", default=list(PROGRAMS))
    options.add_argument("--tvm", help="a Python that has apache-tvm")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--out", type=Path, help="file to append the records to")
    given = options.parse_args()
    table = []
    records = []
    for name in given.programs:
        theirs = peer(given.tvm, name) if given.tvm else None
        if theirs:
            records.append(theirs)
        for target in TARGETS:
            record = search(name, target, given.seed)
            records.append(record)
            ratio = ""
            if theirs and target.startswith("llvm"):
                ratio = (
                    f"{record['candidates_per_s'] / theirs['rounds'][-1]['candidates_per_s']:.0f}x"
                )
            table.append((name, target.split()[0], record["candidates_per_s"], ratio))
    for record in records:
        print(json.dumps(record), flush=True)
    if given.out:
        with given.out.open("a") as f:
            f.writelines(json.dumps(r) + "\n" for r in records)
    print(f"\n{'program':24}{'target':8}{'candidates/s':>14}  of TVM's (trees trained)")
    for name, target, rate, ratio in table:
        print(f"{name:24}{target:8}{rate:14,}  {ratio}")


if __name__ == "__main__":
    main()
