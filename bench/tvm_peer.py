"""What does TVM's MetaSchedule do on the same program? For the benches, with a Python that has it.

    python bench/tvm_peer.py search PROGRAM      candidates a second of its evolutionary search
    python bench/tvm_peer.py tune PROGRAM N DIR  wall clock and best time of N trials

PROGRAM is "matmul:M,N,K" or a name of TVM's own workloads, such as C2D. One thread. Prints one JSON
object. It needs apache-tvm 0.27.0.post1 with apache-tvm-ffi 0.1.14.post1 (later ones crash) and
xgboost, in an environment of its own: `python -m venv peer && peer/bin/pip install
apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1 xgboost-cpu==3.2.0 psutil cloudpickle`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")


def program(name: str) -> Any:
    """The module of a program."""
    import tvm
    from tvm import te
    from tvm.s_tir.meta_schedule.testing import te_workload

    if name.startswith("matmul:"):
        m, n, k = (int(x) for x in name.removeprefix("matmul:").split(","))
        func = te.create_prim_func(te_workload.matmul(m, n, k))
    else:
        func = te_workload.create_te_workload(name, 0)
    return tvm.IRModule({"main": func.with_attr("global_symbol", "main")})


def target() -> Any:
    """One core of this machine."""
    import tvm

    return tvm.target.Target(
        {"kind": "llvm", "mcpu": tvm.target.codegen.llvm_get_system_cpu(), "num-cores": 1}
    )


def search(name: str, batch: int = 64) -> dict[str, Any]:
    """Three rounds with made-up times, so that the trees of its cost model are trained for the last
    one; what the model is asked about is counted."""
    import numpy as np
    from tvm.ir.utils import derived_object
    from tvm.s_tir import meta_schedule as ms

    asked: list[int] = []

    @derived_object
    class Counted(ms.cost_model.PyCostModel):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = ms.cost_model.XGBModel(num_tuning_cores=1)

        def load(self, path: str) -> None:
            self.model.load(path)

        def save(self, path: str) -> None:
            self.model.save(path)

        def update(self, context: Any, candidates: Any, results: Any) -> None:
            self.model.update(context, candidates, results)

        def predict(self, context: Any, candidates: Any) -> Any:
            asked[-1] += len(candidates)
            return self.model.predict(context, candidates)

    strategy = ms.search_strategy.EvolutionarySearch()
    context = ms.TuneContext(
        program(name),
        target=target(),
        space_generator="post-order-apply",
        search_strategy=strategy,
        num_threads=1,
        rand_state=1,
    )
    spaces = context.generate_design_space()
    model = Counted()
    database = ms.database.MemoryDatabase()
    context.pre_tuning(batch * 4, batch, spaces, database, model)
    rng = np.random.default_rng(0)
    rounds = []
    for _ in range(3):
        asked.append(0)
        start = time.perf_counter()
        found = context.generate_measure_candidates() or []
        seconds = time.perf_counter() - start
        rounds.append({"candidates": asked[-1], "seconds": round(seconds, 3), "batch": len(found)})
        times = rng.lognormal(-7.0, 0.7, len(found))
        results = [ms.runner.RunnerResult([float(t)], None) for t in times]
        start = time.perf_counter()
        model.update(context, found, results)
        rounds[-1]["training_seconds"] = round(time.perf_counter() - start, 3)
        context.notify_runner_results(found, results)
    context.post_tuning()
    for r in rounds:
        r["candidates_per_s"] = round(r["candidates"] / r["seconds"], 1)
    return {"program": name, "design_spaces": len(spaces), "rounds": rounds}


def tune(name: str, trials: int, folder: str) -> dict[str, Any]:
    """Wall clock of a whole tuning, and the best time that it reports."""
    from tvm.s_tir import meta_schedule as ms

    start = time.perf_counter()
    database = ms.tune_tir(
        program(name), target(), folder, max_trials_global=trials, num_trials_per_iter=16, seed=1
    )
    wall = time.perf_counter() - start
    best = min(
        (sum(map(float, r.run_secs)) / len(r.run_secs) for r in database.get_all_tuning_records()),
        default=float("nan"),
    )
    return {"program": name, "trials": trials, "wall_s": round(wall, 2), "best_s": best}


def main(arguments: list[str]) -> None:
    """Print the figures of one program."""
    match arguments:
        case ["search", name]:
            print(json.dumps(search(name)))
        case ["tune", name, trials, folder]:
            print(json.dumps(tune(name, int(trials), folder)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
