"""How fast are replay, matrix evaluation and a whole search round? `python bench/replay.py`

Prints, for the default CPU sketch of a 1024 x 1024 x 1024 matmul (and whatever operators of the
suite are named on the command line): plain replays a second with post-processing; rows a second
with verdicts and features, from scratch and with structure classes known; verdicts alone;
candidates a second from end to end (sample, mutate, evaluate, predict, rank, drop duplicates).
Seconds are of one process; compare runs on a quiet machine only.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gputune.ir.nodes import IRModule, PrimFunc
from gputune.kernels import suite
from gputune.kernels.dense import KERNELS
from gputune.meta_schedule.cost_model import XGBModel
from gputune.meta_schedule.decisions import row_numbers
from gputune.meta_schedule.population import Sketch
from gputune.meta_schedule.sketch_feature import Machine
from gputune.meta_schedule.tune_context import TuneContext

ROWS = 16384


def fastest(f: Callable[[], Any], repeats: int = 5) -> float:
    """Seconds of the fastest of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


def tiled_sketch(func: PrimFunc) -> tuple[Sketch, float]:
    """The sketch with the most decisions and the longest trace (of a matmul, one of those with a
    write cache), and the seconds that the design space took."""
    ctx = TuneContext(func, target="llvm", space_generator="post-order-apply", rand_state=1)
    start = time.perf_counter()
    spaces = ctx.generate_design_space()
    seconds = time.perf_counter() - start
    generator = ctx.space_generator
    assert generator is not None
    assert not isinstance(generator.postprocs, str)
    machine = Machine.of(ctx.target)
    sketches = [
        Sketch(IRModule.from_expr(func), s.trace, generator.postprocs, machine) for s in spaces
    ]
    return max(sketches, key=lambda s: (s.decisions.width, len(s.trace.insts))), seconds


def measure(name: str, func: PrimFunc) -> dict[str, Any]:
    """The figures of one program."""
    sketch, space_seconds = tiled_sketch(func)
    rng = np.random.default_rng(0)
    some = sketch.decisions.sample(200, rng)

    def replay() -> None:
        for row in some:
            sketch.schedule(row)

    replay_seconds = fastest(replay, 3) / len(some)
    rows = sketch.decisions.sample(ROWS, rng)
    start = time.perf_counter()
    sketch.evaluate(rows)
    first = time.perf_counter() - start
    known = fastest(lambda: sketch.evaluate(rows))
    verdicts = fastest(lambda: sketch.verdicts(rows))
    model = XGBModel()
    found = sketch.evaluate(rows[:512])
    good = found.features[found.valid]
    model.update_features(name, good, (2.0 ** -found.score[found.valid] * 1e-9).tolist())

    def search() -> None:
        fresh = sketch.decisions.mutate(sketch.decisions.sample(ROWS, rng), rng)
        fresh = fresh[np.unique(row_numbers(fresh), return_index=True)[1]]
        out = sketch.evaluate(fresh)
        np.argsort(-model.predict_features(out.features[out.valid]))

    model.predict_features(good)
    whole = fastest(search)
    return {
        "program": name,
        "design_space_ms": round(space_seconds * 1e3, 1),
        "replays_per_s": round(1 / replay_seconds),
        "classes": sketch.class_count,
        "rows_per_s_from_scratch": round(ROWS / first),
        "rows_per_s_known": round(ROWS / known),
        "verdicts_per_s_known": round(ROWS / verdicts),
        "candidates_per_s_end_to_end": round(ROWS / whole),
    }


def main(names: list[str]) -> None:
    """Print one JSON object a program."""
    print(json.dumps({"machine": platform.processor() or platform.machine(), "rows": ROWS}))
    programs = {"matmul 1024": KERNELS["matmul"].build(m=1024, n=1024, k=1024)}
    programs |= {n: suite.KERNELS[n].build() for n in names}
    for name, func in programs.items():
        print(json.dumps(measure(name, func)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
