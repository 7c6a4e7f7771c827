"""What does TVM's MetaSchedule do on the same program? For the benches, with a Python that has it.

    python bench/tvm_peer.py search PROGRAM      candidates a second of its evolutionary search
    python bench/tvm_peer.py tune PROGRAM N DIR  wall clock and best time of N trials
    python bench/tvm_peer.py serve PROGRAM N DIR the same, then times the best whenever it is asked

PROGRAM is "matmul:M,N,K", "mm1024", "dense", "softmax", "layernorm", or a name of TVM's own
workloads, such as C2D. One thread. Prints one JSON object. It needs apache-tvm 0.27.0.post1 with
apache-tvm-ffi 0.1.14.post1 (later ones crash) and xgboost, in an environment of its own:
`python -m venv peer && peer/bin/pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1
xgboost-cpu==3.2.0 psutil cloudpickle`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TVM_NUM_THREADS", "1")


def program(name: str) -> Any:
    """The module of a program."""
    import tvm
    from tvm import te
    from tvm.s_tir.meta_schedule.testing import te_workload

    own = {
        "GMM": lambda: te_workload.matmul(128, 128, 128),
        "mm1024": lambda: te_workload.matmul(1024, 1024, 1024),
        "softmax": lambda: te_workload.softmax_mn(1024, 1024),
        "dense": lambda: dense(1, 128, 784),
        "layernorm": lambda: layernorm(512, 768),
    }
    if name.startswith("matmul:"):
        m, n, k = (int(x) for x in name.removeprefix("matmul:").split(","))
        func = te.create_prim_func(te_workload.matmul(m, n, k))
    elif name in own:
        func = te.create_prim_func(own[name]())
    else:
        func = te_workload.create_te_workload(name, 0)
    return tvm.IRModule({"main": func.with_attr("global_symbol", "main")})


def dense(m: int, n: int, k: int) -> list[Any]:
    """A product with transposed weights, a bias, relu."""
    from tvm import te, topi

    x, w = te.placeholder((m, k), name="X"), te.placeholder((n, k), name="W")
    b = te.placeholder((n,), name="B")
    r = te.reduce_axis((0, k), name="r")
    y = te.compute((m, n), lambda i, j: te.sum(x[i, r] * w[j, r], axis=[r]), name="Y")
    z = te.compute((m, n), lambda i, j: y[i, j] + b[j], name="Z")
    return [x, w, b, topi.nn.relu(z)]


def layernorm(m: int, n: int) -> list[Any]:
    """As TVM's own library has it: sums of elements and squares in one reduction."""
    from tvm import te, topi

    x = te.placeholder((m, n), name="X")
    gamma, beta = te.placeholder((n,), name="gamma"), te.placeholder((n,), name="beta")
    return [x, gamma, beta, topi.nn.layer_norm(x, gamma, beta, [1], 1e-5)]


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
    best = min(map(_seconds, database.get_all_tuning_records()), default=float("nan"))
    return {"program": name, "trials": trials, "wall_s": round(wall, 2), "best_s": best}


def _seconds(record: Any) -> float:
    times = [float(x) for x in record.run_secs or ()]
    return sum(times) / len(times) if times else float("inf")


def serve(name: str, trials: int, folder: str) -> None:
    """Tune, unless `folder` holds the outcome; compute DIR/inputs.npz with the best into
    DIR/output.npy; then answer "pin CPU" and "time CALLS" from stdin with lines "answer JSON".

    The timed code takes packed weights where TVM wants them packed, as TVM times its candidates;
    the one that is checked packs them itself.
    """
    import numpy as np
    import tvm
    from tvm.s_tir import meta_schedule as ms

    kept = Path(folder) / f"tuned-{trials}.json"
    work = Path(folder) / f"tvm-{trials}"
    if not kept.exists():
        work.mkdir(parents=True, exist_ok=True)
        found = tune(name, trials, str(work)) | {"version": tvm.__version__}
        kept.write_text(json.dumps(found))
    found = json.loads(kept.read_text())
    database = ms.database.JSONDatabase(
        str(work / "database_workload.json"), str(work / "database_tuning_record.json")
    )
    record = min(database.get_all_tuning_records(), key=_seconds)
    sch = tvm.s_tir.Schedule(record.workload.mod)
    record.trace.apply_to_schedule(sch, remove_postproc=False)
    bare = tvm.s_tir.transform.RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(sch.mod)
    device = tvm.cpu()
    given = np.load(Path(folder) / "inputs.npz")
    arrays = [given[k] for k in given.files]
    if name == "DEP":  # (kernel, kernel, channels, factor) here, factor first in TVM
        arrays[1] = np.ascontiguousarray(arrays[1].transpose(3, 0, 1, 2))
    if name == "CBR":  # scale, shift here; shift, scale in TVM
        arrays[3], arrays[4] = arrays[4], arrays[3]
    last = record.args_info[-1]
    out = np.full([int(n) for n in last.shape], np.nan, str(last.dtype))
    args = [tvm.runtime.tensor(a, device) for a in [*arrays, out]]
    tvm.compile(sch.mod, target=target())["main"](*args)
    np.save(Path(folder) / "output.npy", args[-1].numpy())
    fast = tvm.compile(bare, target=target()).jit()
    _answer(found)
    for line in sys.stdin:
        match line.split():
            case ["pin", cpu]:
                os.sched_setaffinity(0, {int(cpu)})
                _answer(None)
            case ["time", calls]:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
                timer = fast.time_evaluator("main", device, number=int(calls), repeat=1)
                seconds = timer(*args).mean * int(calls)
                held_up = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw > before
                _answer({"seconds": seconds, "held_up": held_up})


def _answer(value: Any) -> None:
    print("answer " + json.dumps(value), flush=True)


def main(arguments: list[str]) -> None:
    """Print the figures of one program."""
    match arguments:
        case ["search", name]:
            print(json.dumps(search(name)))
        case ["tune", name, trials, folder]:
            print(json.dumps(tune(name, int(trials), folder)))
        case ["serve", name, trials, folder]:
            serve(name, int(trials), folder)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
