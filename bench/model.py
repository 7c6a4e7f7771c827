"""Does the cost model know shapes that it was not trained on? `python bench/model.py`

Measures candidates of several shapes of matmul, conv2d and softmax (half drawn at random, half what
the search proposes), each from an empty database on one core. Then each shape is left out in turn:
a model learns from all the others and ranks the candidates of this one, which it has never seen.
Printed beside it: the analytic score, which learned from nothing, and a model that learned from the
other shapes of the same operator only.

    rank   Spearman's rank correlation of prediction and speed, 1 at best
    top8   share of the eight fastest candidates among the eight that are ranked first
    peak8  the speed of the best of those eight, of the best there is

`--json FILE` keeps the raw records: seconds and the three rankings of each candidate.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import gputune as gt
from gputune import meta_schedule as ms
from gputune.ir.nodes import PrimFunc
from gputune.meta_schedule.cost_model import metrics
from gputune.meta_schedule.sketch_feature import Machine, features_of

TARGET = "llvm --num-cores=1"
SHAPES: dict[str, list[dict[str, int]]] = {
    "matmul": [
        {"m": 128, "n": 128, "k": 128},
        {"m": 256, "n": 256, "k": 256},
        {"m": 512, "n": 64, "k": 384},
        {"m": 96, "n": 768, "k": 192},
    ],
    "conv2d": [
        {"n": 1, "h": 28, "w": 28, "ci": 64, "co": 64, "kernel": 3, "stride": 1, "padding": 1},
        {"n": 1, "h": 56, "w": 56, "ci": 32, "co": 64, "kernel": 3, "stride": 2, "padding": 1},
        {"n": 1, "h": 14, "w": 14, "ci": 128, "co": 128, "kernel": 1, "stride": 1, "padding": 0},
    ],
    "softmax": [{"m": 256, "n": 256}, {"m": 64, "n": 2048}, {"m": 1024, "n": 96}],
}


def measured(func: PrimFunc, trials: int, seed: int) -> tuple[Any, Any]:
    """Features and seconds of candidates of one program."""
    machine = Machine.of(gt.Target(TARGET))
    rows, seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for strategy in ("replay-trace", "evolutionary"):
            ms.tune_tir(
                func,
                TARGET,
                f"{folder}/{strategy}",
                trials // 2,
                num_trials_per_iter=16,
                seed=seed,
                strategy=strategy,
            )
            database = ms.JSONDatabase(work_dir=f"{folder}/{strategy}")
            for record in database.get_all_tuning_records():
                if np.isfinite(record.seconds):
                    mod = record.as_measure_candidate().sch.mod
                    rows.append(features_of(mod, machine)[0])
                    seconds.append(record.seconds)
    return np.array(rows, np.float32), np.array(seconds)


def ranked(data: dict[str, tuple[Any, Any]], held: str, teachers: list[str]) -> Any:
    """What a model that learned from the teachers says of the candidates of another program."""
    model = ms.XGBModel(num_tuning_cores=1)
    for name in teachers:
        model.update_features(name, data[name][0], data[name][1].tolist())
    return model.predict_features(data[held][0])


def main() -> int:
    """Print a line a program."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=64, help="candidates of each program")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    data: dict[str, tuple[Any, Any]] = {}
    for operator, shapes in SHAPES.items():
        for k, shape in enumerate(shapes):
            func = gt.kernels.get(operator).build(**shape)
            data[f"{operator}-{k}"] = measured(func, given.trials, given.seed)
            print(f"measured {operator}-{k}: {len(data[f'{operator}-{k}'][1])}", file=sys.stderr)
    ways = ("all others", "same operator", "analytic")
    head = "".join(f"{w:>26}" for w in ways)
    print(f"{'':12}{head}\n{'not seen':12}" + f"{'rank':>10}{'top8':>8}{'peak8':>8}" * 3)
    table = []
    for held, (rows, seconds) in data.items():
        others = [n for n in data if n != held]
        same = [n for n in others if n.split("-")[0] == held.split("-")[0]]
        said = {
            "all others": ranked(data, held, others),
            "same operator": ranked(data, held, same),
            "analytic": -rows[:, 7].astype(np.float64),
        }
        found = {w: metrics.quality(said[w], seconds, 8) for w in ways}
        line = [
            x for w in ways for x in (found[w].rank_correlation, found[w].recall, found[w].peak)
        ]
        table.append(line)
        cells = "".join(f"{a:10.2f}{b:8.2f}{c:8.2f}" for a, b, c in zip(*[iter(line)] * 3))
        print(f"{held:12}{cells}", flush=True)
        if given.json:
            record = {
                "bench": "model", "held_out": held, "trials": given.trials, "seed": given.seed,
                "seconds": seconds.tolist(), "cpu": gt.Target(TARGET).device_key,
                "gputune": gt.__version__, "said": {w: s.tolist() for w, s in said.items()},
            }  # fmt: skip
            with given.json.open("a") as f:
                f.write(json.dumps(record) + "\n")
    mean = np.mean(table, axis=0)
    cells = "".join(f"{a:10.2f}{b:8.2f}{c:8.2f}" for a, b, c in zip(*[iter(mean)] * 3))
    print(f"{'mean':12}{cells}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
