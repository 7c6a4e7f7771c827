"""How fast do hand-written kernels get, and how well do measurements repeat? Two shards of the GPU
bench that need neither peers nor cells: `raw` tunes the five CUDA kernels that come with gputune,
`spread` measures one kernel 50 times.
"""

from __future__ import annotations

import statistics
import time
from importlib.util import find_spec

from gpu_out import Out

import gputune as gt
from gputune.default_gpu_schedule import default_gpu_schedule
from gputune.kernels import KERNELS, cuda
from gputune.target import Target


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


def spread(out: Out) -> int:
    """One kernel measured 50 times, as tuning measures it: do the medians agree within 1 %?"""
    from gputune.meta_schedule import BuilderInput, LocalBuilder
    from gputune.meta_schedule.cuda_runner import CudaRunner
    from gputune.meta_schedule.runner import RunnerInput

    bad = 0
    for name, shape in (("matmul", {"m": 2048, "n": 2048, "k": 2048}),
                        ("gelu", {"m": 8192, "n": 4096}),
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
