"""How fast are gputune's kernels on this GPU, beside what else there is? See bench/run.

Every shard appends raw records to bench/results/<device>/gpu-<shard>.jsonl, one JSON value a line,
with device, versions and clocks, and prints a table. Peers that are not installed are left out.
Everything is timed by one method: events around batches of calls on warm caches, on the default
stream, median of the batches.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import gputune as gt
from gputune.default_gpu_schedule import default_gpu_schedule
from gputune.kernels import KERNELS, cuda
from gputune.target import Target
from gputune.target.host import cuda_problem

ROOT = Path(__file__).resolve().parent.parent
SHARDS = ("kernels", "raw", "spread")

# Sizes that fill a large GPU, and still take milliseconds with a simple schedule.
SHAPES: dict[str, dict[str, int]] = {
    "matmul": {"m": 2048, "n": 2048, "k": 2048},
    "batch_matmul": {"b": 64, "m": 512, "n": 512, "k": 64},
    "gemv": {"m": 8192, "k": 8192},
    "softmax": {"m": 8192, "n": 4096},
    "layernorm": {"m": 8192, "n": 4096},
    "row_sum": {"m": 8192, "n": 8192},
    "column_sum": {"m": 8192, "n": 8192},
    "transpose": {"m": 8192, "n": 8192},
    "gelu": {"m": 8192, "n": 4096},
    "add_mul": {"m": 8192, "n": 4096},
}

Call = Callable[[], Any]


# ----------------------------------------------------------------------------- peers
def cupy_peers(cp: Any, name: str, x: list[Any]) -> Iterator[tuple[str, Call]]:
    if name in ("matmul", "batch_matmul", "gemv"):
        yield "cupy", lambda: cp.matmul(x[0], x[1])
    elif name == "row_sum":
        yield "cupy", lambda: x[0].sum(axis=1)
    elif name == "column_sum":
        yield "cupy", lambda: x[0].sum(axis=0)
    elif name == "transpose":
        yield "cupy", lambda: cp.ascontiguousarray(x[0].T)
    elif name == "add_mul":
        fused = cp.ElementwiseKernel("T a, T b, T c", "T y", "y = (a + b) * c", "gt_add_mul")
        yield "cupy", lambda: fused(x[0], x[1], x[2])


def torch_peers(name: str, x: list[Any]) -> Iterator[tuple[str, Call]]:
    if not find_spec("torch"):
        return
    torch: Any = importlib.import_module("torch")
    torch.backends.cuda.matmul.allow_tf32 = False
    t = [torch.from_dlpack(a) if hasattr(a, "__dlpack__") else a for a in x]
    f = torch.nn.functional
    calls: dict[str, Call] = {
        "matmul": lambda: torch.matmul(t[0], t[1]),
        "batch_matmul": lambda: torch.matmul(t[0], t[1]),
        "gemv": lambda: torch.matmul(t[0], t[1]),
        "softmax": lambda: torch.softmax(t[0], -1),
        "layernorm": lambda: f.layer_norm(t[0], t[0].shape[-1:], t[1], t[2]),
        "row_sum": lambda: t[0].sum(1),
        "column_sum": lambda: t[0].sum(0),
        "transpose": lambda: t[0].t().contiguous(),
        "gelu": lambda: f.gelu(t[0], approximate="tanh"),
        "add_mul": lambda: (t[0] + t[1]) * t[2],
    }
    if name in calls:
        yield "torch", calls[name]
    if find_spec("triton") and name in ("softmax", "add_mul"):
        yield from triton_peers(torch, name, t)


def triton_peers(torch: Any, name: str, t: list[Any]) -> Iterator[tuple[str, Call]]:
    sys.path.insert(0, str(ROOT / "bench"))
    peers: Any = importlib.import_module("triton_peers")
    out = torch.empty_like(t[0])
    if name == "softmax":
        rows, columns = t[0].shape
        size = 1 << (columns - 1).bit_length()
        yield "triton", lambda: peers.softmax[(rows,)](out, t[0], columns, size)
    else:
        n, block = t[0].numel(), 1024
        grid = (-(-n // block),)
        yield "triton", lambda: peers.add_mul[grid](out, t[0], t[1], t[2], n, block)


# ----------------------------------------------------------------------------- the clock
def seconds_of(cp: Any, call: Call, batches: int = 15, batch_s: float = 3e-3) -> list[float]:
    """Seconds a call of each batch; kernels follow each other without a gap where the host keeps up
    with them, as in use."""
    start, stop = cp.cuda.Event(), cp.cuda.Event()
    plug = cp.empty(64 << 20, cp.uint8)

    def batch(n: int) -> float:
        plug.fill(0)
        call()
        start.record()
        for _ in range(n):
            call()
        stop.record()
        stop.synchronize()
        return float(cp.cuda.get_elapsed_time(start, stop)) * 1e-3 / n

    for _ in range(3):
        call()
    cp.cuda.Device().synchronize()
    number = max(1, round(batch_s / max(batch(3), 1e-7)))
    return [batch(number) for _ in range(batches)]


# ----------------------------------------------------------------------------- shards
class Out:
    """Where records go; the table's lines come last."""

    def __init__(self, folder: Path | None) -> None:
        import cupy

        from gputune.runtime.cuda_device import gpu_facts
        from gputune.runtime.nvml import open_nvml

        facts = gpu_facts(cupy, 0)
        nvml, problem = open_nvml(facts.pci_bus_id)
        self.device = facts.name
        slug = re.sub(r"[^a-z0-9]+", "-", facts.name.lower()).strip("-")
        self.folder = (folder or ROOT / "bench" / "results") / slug
        self.folder.mkdir(parents=True, exist_ok=True)
        self.head = {
            "gpu": facts.as_json(),
            "nvml": nvml.about if nvml is not None else problem,
            "versions": {
                n: version(n) for n in ("gputune", "cupy", "torch", "triton", "numpy", "xgboost")
            },
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        self.lines: list[str] = []

    def write(self, shard: str, record: dict[str, Any]) -> None:
        with (self.folder / f"gpu-{shard}.jsonl").open("a") as f:
            f.write(json.dumps({"bench": f"gpu-{shard}", **record, **self.head}) + "\n")

    def line(self, text: str) -> None:
        print(text, flush=True)
        self.lines.append(text)


def version(name: str) -> str | None:
    if not find_spec(name):
        return None
    return str(getattr(importlib.import_module(name), "__version__", "?"))


def kernels(out: Out, seconds: float) -> int:
    """Default-scheduled kernels beside their peers."""
    cp: Any = importlib.import_module("cupy")
    bad = 0
    out.line(f"{'kernel':16}{'gputune us':>12}{'cupy':>8}{'torch':>8}{'triton':>8}  result")
    for name, shape in SHAPES.items():
        kernel = KERNELS[name]
        func = kernel.build(shape)
        host = kernel.arguments(shape, seed=1)
        device = [cp.asarray(x) for x in host]
        row: dict[str, Any] = {"kernel": name, "shape": shape}
        try:
            lib = gt.build(default_gpu_schedule(func, Target("cuda")).mod, "cuda")
            lib["main"](*device)
            right, error = same(cp, kernel, shape, func, host, device)
            timing = lib.time_evaluator("main", gt.cuda(), repeat=15, min_repeat_ms=3)(*device)
            row |= {
                "seconds": list(timing.results), "spread": timing.spread, "nvml": timing.nvml,
                "call_seconds": seconds_of(cp, lib["main"].bind(*device)), "right": right,
                "error": error, "occupancy": dict(lib.occupancy),
            }  # fmt: skip
        except gt.GputuneError as e:
            bad += 1
            out.line(f"{name:16}failed: {e.message}")
            out.write("kernels", {**row, "failure": str(e)})
            continue
        bad += not right
        peers: dict[str, list[float]] = {}
        inputs = [d for d, b in zip(device, func.buffers) if b.name not in kernel.outputs]
        for peer, call in (*cupy_peers(cp, name, inputs), *torch_peers(name, inputs)):
            peers[peer] = seconds_of(cp, call)
        out.write("kernels", {**row, "peers": peers})
        ours = statistics.median(row["seconds"])
        ratios = [
            f"{statistics.median(peers[p]) / ours:8.2f}" if p in peers else f"{'-':>8}"
            for p in ("cupy", "torch", "triton")
        ]
        verdict = "equals NumPy" if right else f"WRONG, error {error:.2g}"
        out.line(f"{name:16}{ours * 1e6:12.1f}{''.join(ratios)}  {verdict}")
    out.line("ratios: the peer's time over gputune's; above 1, gputune is faster")
    return bad


def same(
    cp: Any, kernel: Any, shape: Any, func: Any, host: Any, device: list[Any]
) -> tuple[bool, float]:
    """Are the outputs NumPy's, and the greatest error relative to the largest value?"""
    worst, right = 0.0, True
    got = [cp.asnumpy(d) for d, b in zip(device, func.buffers) if b.name in kernel.outputs]
    for g, want in zip(got, kernel.expected(host, shape), strict=True):
        w = np.asarray(want).astype(np.float64)
        scale = max(1.0, float(np.max(np.abs(w))))
        error = float(np.max(np.abs(g.astype(np.float64) - w)) / scale)
        right &= error < 1e-4
        worst = max(worst, error)
    return right, worst


def raw(out: Out, seconds: float) -> int:
    """The five raw kernels, tuned for some seconds each."""
    bad = 0
    model = "xgb" if find_spec("xgboost") else "random"
    out.line(f"{'raw kernel':12}{'best us':>10}{'figure':>16}{'spread':>8}{'MHz':>6}{'W':>6}  best")
    for name, example in cuda.EXAMPLES.items():
        args = example.arguments()
        kernel = gt.cuda_kernel(**example.description())
        start = time.perf_counter()
        try:
            result = gt.tune_kernel(
                kernel, args, reference=example.reference, seconds=seconds, seed=1,
                metrics=example.metrics(), cost_model=model,
            )  # fmt: skip
        except gt.GputuneError as e:
            bad += 1
            out.line(f"{name:12}failed: {e.message}")
            out.write("raw", {"kernel": name, "failure": str(e)})
            continue
        best = result.best
        nvml, timing = best.nvml or {}, best.measured.extras.get("timing") or {}
        figure = "GFLOP/s" if name == "gemm" else "GB/s"
        value = result.metric(figure)
        out.write("raw", {
            "kernel": name, "sizes": dict(example.sizes), "params": dict(best.params),
            "seconds": best.seconds, figure: value, "verified": best.measured.verified,
            "tuning_s": time.perf_counter() - start, "trials": result.summary.trials,
            "failures": dict(result.summary.failures), "timing": timing, "nvml_best": nvml,
            "facts": dict(best.facts), "cost_model": model,
            "measured": [
                {"params": dict(m.params), "seconds": m.seconds if m.error is None else None,
                 "error": m.error, "nvml": m.extras.get("nvml")}
                for m in result.measured
            ],
        })  # fmt: skip
        bad += not best.measured.verified
        spread = f"{timing.get('spread', 0):8.2%}"
        clocks = f"{nvml.get('sm_mhz') or 0:6.0f}{nvml.get('power_w') or 0:6.0f}"
        out.line(
            f"{name:12}{best.seconds * 1e6:10.1f}{value:8.0f} {figure:7}{spread}{clocks}  "
            f"{', '.join(f'{k}={v}' for k, v in best.params.items())} ({result.summary})"
        )
    return bad


def spread(out: Out, seconds: float) -> int:
    """One kernel measured 50 times, as tuning measures it: do the medians agree within 1 %?"""
    from gputune.meta_schedule import BuilderInput, LocalBuilder
    from gputune.meta_schedule.cuda_runner import CudaRunner
    from gputune.meta_schedule.runner import RunnerInput

    bad = 0
    for name, shape in (("matmul", SHAPES["matmul"]), ("gelu", SHAPES["gelu"]),
                        ("softmax", {"m": 256, "n": 256})):  # fmt: skip
        sch = default_gpu_schedule(KERNELS[name].build(shape), Target("cuda"))
        (built,) = LocalBuilder(1).build([BuilderInput(sch.mod, Target("cuda"))])
        if built.artifact_path is None:
            bad += 1
            out.line(f"{name}: {built.error_msg}")
            continue
        times, all_nvml, timing = [], [], {}
        for _ in range(50):
            result = CudaRunner().measure(RunnerInput(built.artifact_path, "cuda", []))
            if result.problem is not None:
                bad += 1
                out.line(f"{name}: {result.problem}")
                break
            times.append(result.seconds)
            all_nvml.append(result.extras.get("nvml"))
            timing = dict(result.extras["timing"])
        if len(times) < 50:
            continue
        low, middle, high = statistics.quantiles(times, n=4)
        whole = (max(times) - min(times)) / middle
        out.write("spread", {
            "kernel": name, "shape": shape, "seconds": times, "timing": timing, "nvml": all_nvml,
        })  # fmt: skip
        out.line(
            f"{name:10} 50 measurements: median {middle * 1e6:9.2f} us, middle half within "
            f"{(high - low) / middle:.2%}, all within {whole:.2%} ({timing['regime']}"
            f"{', graph' if timing['graph'] else ''})"
        )
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/run --gpu", description=__doc__)
    parser.add_argument("shard", nargs="?", choices=(*SHARDS, "all"), default="all")
    parser.add_argument("--out", type=Path, help="folder of the records; default: bench/results")
    parser.add_argument("--seconds", type=float, default=30.0, help="of tuning a raw kernel")
    args = parser.parse_args()
    problem = cuda_problem()
    if problem is not None:
        print(f"bench/run --gpu: nothing was measured: {problem}")
        return 0
    out = Out(args.out)
    bad = 0
    for shard in SHARDS if args.shard == "all" else (args.shard,):
        bad += {"kernels": kernels, "raw": raw, "spread": spread}[shard](out, args.seconds)
    print(f"\n{out.device}; records in {out.folder}")
    print("\n".join(out.lines))
    print(f"{bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
