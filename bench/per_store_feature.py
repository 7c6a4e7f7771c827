"""Are gputune's per-store features those of TVM? The same scheduled programs through both.

    python bench/per_store_feature.py PEER [--random N] [--show]

PEER is a Python with apache-tvm (see bench/tvm_peer.py). Scheduled programs go over as script; one
that TVM does not take is counted apart. Prints how many columns differ by more than 1e-5 (relative)
for each case, and which.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-5
_WORDS = (
    ("@T.prim_func", "@T.prim_func(s_tir=True)"),
    ("T.block(", "T.sblock("),
    ("T.block_attr(", "T.sblock_attr("),
    ("T.alloc_buffer(", "T.sblock_alloc_buffer("),
)


# ----------------------------------------------------------------------------- the peer's side
def peer(lines: Any) -> None:
    """One JSON case a line in, one JSON answer a line out."""
    import tvm
    from tvm.s_tir import Schedule
    from tvm.s_tir import meta_schedule as ms

    targets = {
        "llvm": tvm.target.Target({"kind": "llvm", "num-cores": 4}),
        "cuda": tvm.target.Target("nvidia/geforce-rtx-3090"),
    }
    for line in lines:
        case = json.loads(line)
        try:
            func = tvm.script.from_source(case["script"], {"T": _language()})
            mod = tvm.IRModule({func.attrs["global_symbol"]: func})
            sch = Schedule(mod, debug_mask=0)
            context = ms.TuneContext(mod, target=targets[case["target"]], rand_state=1)
            extractor = ms.feature_extractor.PerStoreFeature(extract_workload=case["workload"])
            rows = extractor.extract_from(context, [ms.MeasureCandidate(sch, [])])[0].numpy()
            answer = {"rows": rows.tolist(), "text": sch.mod.script() if case["show"] else ""}
        except Exception as e:  # what the peer cannot do is reported, case by case
            answer = {"error": f"{type(e).__name__}: {e}"[-400:]}
        print(json.dumps(answer), flush=True)


def _language() -> Any:
    try:
        from tvm.script import tirx as T
    except ImportError:
        from tvm.script import tir as T
    return T


# ----------------------------------------------------------------------------- cases
Case = tuple[str, Any, str]
"""Name, schedule, target."""


def by_hand() -> Iterator[Case]:
    """Schedules that between them touch every group of features."""
    from gputune import kernels
    from gputune.schedule import Schedule

    def start(name: str, **sizes: int) -> Schedule:
        return Schedule(kernels.get(name).build(**sizes), seed=1)

    sch = start("matmul", m=512, n=512, k=512)
    yield "matmul plain", sch, "llvm"
    sch = start("matmul", m=512, n=512, k=512)
    b = sch.get_block("C")
    i, j, k = sch.get_loops(b)
    i0, i1, i2 = sch.split(i, [None, 4, 8])
    j0, j1, j2 = sch.split(j, [None, 4, 16])
    k0, k1 = sch.split(k, [None, 8])
    sch.reorder(i0, j0, i1, j1, k0, i2, k1, j2)
    sch.vectorize(j2)
    sch.unroll(k1)
    fused = sch.fuse(i0, j0)
    sch.parallel(fused)
    sch.annotate(fused, "pragma_auto_unroll_max_step", 64)
    sch.reverse_compute_at(sch.cache_write(b, 0, "global"), fused)
    sch.decompose_reduction(b, k0)
    yield "matmul tiled", sch, "llvm"
    sch = start("matmul", m=500, n=300, k=70)
    b = sch.get_block("C")
    i, j, k = sch.get_loops(b)
    i0, i1 = sch.split(i, [None, 16])
    j0, j1 = sch.split(j, [None, 16])
    sch.reorder(i0, j0, k, i1, j1)
    sch.reverse_compute_at(sch.cache_write(b, 0, "global"), j0)
    sch.compute_at(sch.cache_read(b, 1, "global"), k)
    yield "matmul with remainders", sch, "llvm"
    sch = start("matmul", m=256, n=256, k=256)
    _on_gpu(sch)
    yield "matmul gpu", sch, "cuda"
    sch = start("matmul", m=64, n=64, k=64)
    b = sch.get_block("C")
    i, _, _ = sch.get_loops(b)
    i0, _ = sch.split(i, [None, 16])
    read = sch.cache_read(b, 0, "global")
    sch.compute_at(read, i0)
    sch.storage_align(read, 0, -2, 32, 8)
    yield "matmul with padding", sch, "llvm"
    sch = start("gelu", m=64, n=48)
    sch.vectorize(sch.split(sch.get_loops(_only(sch))[-1], [None, 16])[1])
    yield "gelu", sch, "llvm"
    sch = start("softmax", m=256, n=256)
    yield "softmax plain", sch, "llvm"
    sch = start("transpose", m=256, n=128)
    yield "layout", sch, "llvm"
    sch = start("softmax", m=64, n=128)
    _chained(sch)
    yield "softmax chained", sch, "llvm"
    sch = start("dense_bias_relu", m=64, n=64, k=64)
    i, _, _ = sch.get_loops(_only(sch))
    sch.parallel(sch.split(i, [None, 8])[0])
    yield "dense with bias", sch, "llvm"
    sch = start("row_sum", m=64, n=1024)
    b = _only(sch)
    i, k = sch.get_loops(b)
    _, k1 = sch.split(k, [None, 128])
    sch.bind(i, "blockIdx.x")
    sch.bind(k1, "threadIdx.x")
    yield "row sum over threads", sch, "cuda"


def _chained(sch: Any) -> None:
    """Every block of the chain inside the rows of the last one."""
    root = sch.get_block("root", sch.func_working_on)
    *first, last = sch.get_child_blocks(root)
    row = sch.get_loops(last)[0]
    sch.parallel(row)
    for block in reversed(first):
        sch.compute_at(block, row)


def _only(sch: Any) -> Any:
    root = sch.get_block("root", sch.func_working_on)
    return sch.get_child_blocks(root)[0]


def _on_gpu(sch: Any) -> None:
    b = sch.get_block("C")
    local = sch.cache_write(b, 0, "local")
    i, j, k = sch.get_loops(b)
    i0, iv, i1, i2 = sch.split(i, [None, 2, 8, 4])
    j0, jv, j1, j2 = sch.split(j, [None, 2, 8, 4])
    k0, k1, k2 = sch.split(k, [None, 4, 4])
    sch.reorder(i0, j0, iv, jv, i1, j1, k0, k1, k2, i2, j2)
    block = sch.fuse(i0, j0)
    virtual = sch.fuse(iv, jv)
    thread = sch.fuse(i1, j1)
    sch.bind(block, "blockIdx.x")
    sch.bind(virtual, "vthread.x")
    sch.bind(thread, "threadIdx.x")
    sch.reverse_compute_at(local, thread)
    for which in (0, 1):
        read = sch.cache_read(b, which, "shared")
        sch.compute_at(read, k0)
        loops = sch.get_loops(read)
        fused = sch.fuse(*loops[-2:])
        _, threads, vector = sch.split(fused, [None, 64, 2])
        sch.bind(threads, "threadIdx.x")
        sch.vectorize(vector)
    sch.annotate(block, "pragma_auto_unroll_max_step", 512)


def by_chance(count: int) -> Iterator[Case]:
    """Random candidates of the default spaces."""
    from gputune.kernels import suite
    from gputune.meta_schedule import TuneContext

    for target in ("llvm", "cuda"):
        for name in suite.KERNELS:
            func = suite.KERNELS[name].build()
            where = "llvm -num-cores 4" if target == "llvm" else "cuda -arch=sm_80"
            try:
                context = TuneContext(
                    func, target=where, space_generator="post-order-apply", rand_state=3
                )
                spaces = context.generate_design_space()
            except Exception as e:  # a space that is not there yet is no fault of the features
                print(f"{target} {name}: no space: {e}", file=sys.stderr)
                continue
            for k in range(count):
                sch = _drawn(func, context, spaces[k % len(spaces)], k + 1)
                if sch is not None:
                    yield f"{target} {name} {k}", sch, target


def _drawn(func: Any, context: Any, space: Any, seed: int) -> Any:
    """A candidate of a design space, None if a postproc refuses several."""
    from gputune.errors import ScheduleError
    from gputune.schedule import Schedule

    for attempt in range(20):
        sch = Schedule(func, seed=1000 * seed + attempt)
        try:
            space.trace.apply_to_schedule(
                sch, decision_provider=lambda inst, inputs, attrs, old: None
            )
            sch.enter_postproc()
            if all(p.apply(sch) for p in context.space_generator.postprocs):
                return sch
        except ScheduleError:
            continue
    return None


# ----------------------------------------------------------------------------- comparison
def ours(sch: Any, target: str) -> np.ndarray:
    """The rows that gputune makes."""
    from gputune.meta_schedule import MeasureCandidate, TuneContext
    from gputune.meta_schedule.feature_extractor import PerStoreFeature

    context = TuneContext(
        sch.mod, target="llvm -num-cores 4" if target == "llvm" else "cuda -arch=sm_80"
    )
    extractor = PerStoreFeature(extract_workload=True)
    return extractor.extract_from(context, [MeasureCandidate(sch, [])])[0]


def question(sch: Any, target: str, show: bool) -> str:
    """The case as the peer reads it."""
    (func,) = sch.mod.functions.values()
    text = func.script()
    for old, new in _WORDS:
        text = text.replace(old, new)
    text = text.replace("tir.noalias", "tirx.noalias")
    text = re.sub(r"(?m)^    T.sblock_attr\(.*\n", "", text)  # of the root block
    return json.dumps({"script": text, "target": target, "workload": True, "show": show})


def differing(mine: np.ndarray, theirs: np.ndarray) -> list[str]:
    """Where two arrays of rows differ, as text."""
    from gputune.meta_schedule.feature_extractor import feature_names

    names = feature_names(extract_workload=True)
    if mine.shape != theirs.shape:
        return [f"shape {mine.shape} instead of {theirs.shape}"]
    wrong = ~np.isclose(mine, theirs, rtol=TOLERANCE, atol=1e-6)
    return [
        f"row {r} {names[c]}: {mine[r, c]:.5f} instead of {theirs[r, c]:.5f}"
        for r, c in zip(*np.nonzero(wrong), strict=True)
    ]


def main() -> int:
    """Compare; 1 if anything differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("peer")
    parser.add_argument("--random", type=int, default=0, help="random candidates of each space")
    parser.add_argument("--show", action="store_true", help="print programs that differ")
    parser.add_argument("--write", help="a file for the peer's answers, for the tests")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    cases = [c for c in (*by_hand(), *by_chance(arguments.random)) if arguments.only in c[0]]
    questions = [question(s, t, arguments.show) for _, s, t in cases]
    done = subprocess.run(
        [arguments.peer, __file__, "--peer"], input="\n".join(questions), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    refused = same = 0
    columns: Counter[str] = Counter()
    written: list[dict[str, Any]] = []
    for (name, sch, target), line in zip(cases, done.stdout.splitlines(), strict=True):
        answer = json.loads(line)
        if "error" in answer:
            refused += 1
            print(f"{name}: the peer refuses: {answer['error']!r}")
            continue
        written.append(_kept(name, sch, target, answer["rows"]))
        wrong = differing(ours(sch, target), np.array(answer["rows"]))
        if not wrong:
            same += 1
            continue
        columns.update(" ".join(w.split()[2:3]) for w in wrong)
        print(f"{name}: {len(wrong)} differ; " + "; ".join(wrong[:6]))
        if arguments.show:
            print(sch.mod.script(), answer["text"], "\n".join(wrong), sep="\n")
    print(
        f"{len(cases)} cases: {same} agree, {refused} refused; columns that differ: {dict(columns)}"
    )
    if arguments.write:
        Path(arguments.write).write_text(json.dumps(written, indent=1) + "\n")
    return 0 if same + refused == len(cases) else 1


def _kept(name: str, sch: Any, target: str, rows: list[list[float]]) -> dict[str, Any]:
    """A case with the peer's rows: the columns that are not 0, by name."""
    from gputune.meta_schedule.feature_extractor import feature_names

    names = feature_names(extract_workload=True)
    (func,) = sch.mod.functions.values()
    told = [{n: round(x, 6) for n, x in zip(names, row, strict=True) if x} for row in rows]
    return {"name": name, "target": target, "script": func.script().splitlines(), "rows": told}


if __name__ == "__main__":
    if sys.argv[1:] == ["--peer"]:
        peer(sys.stdin)
    else:
        sys.exit(main())
