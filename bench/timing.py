"""Can a time be trusted? Two trials of the timer that tuning uses, through the real runner.

  bench/timing.py [--part spread|neighbour] [--count 50] [--over 300] [--repeats 20] [--gpu]
                  [--json FILE]

spread: one kernel is measured COUNT times over OVER seconds. Each time is divided by that of the
reference kernel in the same batch; (p90 - p10) / median of the quotients shall be under 3 % (1 % on
a GPU). The same figure of the bare times stands beside it.

neighbour: two kernels whose work differs by 10 % are measured by turns, REPEATS times, alone and
beside processes that keep a core busy, or memory, or every core. The one with less work shall win
each time.

Records (one JSON object a line) hold every time, so that the figures can be made again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gpu_out import commit, version  # the two paths come first

import gputune as gt
from gputune import kernels
from gputune import meta_schedule as ms
from gputune.meta_schedule.runner import BestSoFar, RunnerInput, RunnerResult
from gputune.target import Target

ROOT = Path(__file__).resolve().parent.parent
LIMIT, GPU_LIMIT = 0.03, 0.01
REPEAT = 25
LESS, MORE = 320, 352
"""The work of the two kernels."""
NEIGHBOURS = {
    "nobody": "",
    "core": "while True: pass",
    "memory": "import numpy as np\na = np.ones(1 << 24)\nwhile True: a += 1.0",
}
EVERY = "every core"
"""As many as there are processors, each of which keeps a core busy."""


# ----------------------------------------------------------------------------- figures
def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of some values lies."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def width(values: Sequence[float]) -> float:
    """(p90 - p10) / median."""
    middle = statistics.median(values)
    return (percentile(values, 0.9) - percentile(values, 0.1)) / middle


# ----------------------------------------------------------------------------- kernels
@dataclass
class Subject:
    """What is measured, and how.

    Attributes:
        device: "cpu" or "cuda".
        runner: of tuning, its settings those of tuning; drift is left in the times.
        corrected: the same, with drift corrected.
    """

    device: str
    target: Target
    runner: ms.Runner
    corrected: ms.Runner
    built: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(gpu: bool) -> Subject:
        """On the GPU of this machine, or on its processor (one core)."""

        def runner(correct: bool) -> ms.Runner:
            # Of tuning, with about as many repeats as a finalist has in all.
            config = ms.EvaluatorConfig(repeat=REPEAT, adaptive=True, correct_drift=correct)
            return ms.LocalRunner(evaluator_config=config)

        target = Target("cuda" if gpu else "llvm -num-cores=1")
        return Subject("cuda" if gpu else "cpu", target, runner(False), runner(True))

    def input(self, name: str, best: BestSoFar | None = None) -> RunnerInput:
        """A kernel by its name: "matmul" (tuned by nobody), or how much it adds up."""
        if name not in self.built:
            func = _program(name, self.device)
            self.built[name] = func, _built(func, self.target, name)
        func, path = self.built[name]
        args = ms.ArgInfo.from_prim_func(func)
        return RunnerInput(path, self.device, args, best or BestSoFar())


def _program(name: str, device: str) -> gt.PrimFunc:
    kernel = kernels.get("matmul")
    if name == "matmul":
        n = 1024 if device == "cuda" else 128
        return kernel.build(m=n, n=n, k=n)
    n, per = (512, 10) if device == "cuda" else (32, 1)
    return kernel.build(m=n, n=n, k=int(name) * per)


def _built(func: gt.PrimFunc, target: Target, name: str) -> str:
    mod = gt.IRModule({func.name: func})
    if target.kind == "cuda":
        from gputune.default_gpu_schedule import default_gpu_schedule

        mod = default_gpu_schedule(mod, target).mod
    elif name == "matmul":
        from gputune.default_schedule import build_default

        mod = build_default(mod, target)[0].mod
    (found,) = ms.LocalBuilder(1).build([ms.BuilderInput(mod, target)])
    if found.artifact_path is None:
        raise SystemExit(f"bench/timing.py: {name} cannot be built: {found.error_msg}")
    return found.artifact_path


def measured(runner: ms.Runner, x: RunnerInput) -> RunnerResult:
    """The result of a kernel; the bench ends where there is none."""
    (future,) = runner.run([x])
    result = future.result()
    if result.problem is not None:
        raise SystemExit(f"bench/timing.py: {result.problem}")
    return result


# ----------------------------------------------------------------------------- the trials
def spread(subject: Subject, count: int, over: float) -> dict[str, Any]:
    """One kernel, measured again and again."""
    measured(subject.runner, subject.input("matmul"))  # the worker is there, and warm
    begun = time.monotonic()
    found: list[dict[str, Any]] = []
    for k in range(count):
        wait = begun + over * k / max(1, count - 1) - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        result = measured(subject.runner, subject.input("matmul"))
        timing = result.extras["timing"]
        found.append(
            {
                "at": round(time.monotonic() - begun, 3),
                "seconds": result.seconds,
                "reference_s": timing.get("reference_s"),
                "nominal_s": timing.get("nominal_s"),
                "spread": timing.get("spread"),
                "disturbed": result.disturbed,
            }
        )
    quotients = [x["seconds"] / x["reference_s"] for x in found if x["reference_s"]]
    limit = GPU_LIMIT if subject.device == "cuda" else LIMIT
    wide = width(quotients) if quotients else None
    return {
        "count": count, "over_s": over, "bare": width([x["seconds"] for x in found]),
        "width": wide, "limit": limit, "ok": wide is not None and wide < limit, "measured": found,
    }  # fmt: skip


@contextlib.contextmanager
def neighbour(kind: str) -> Iterator[None]:
    """Somebody else on the machine, for a while."""
    program, number = NEIGHBOURS.get(kind, NEIGHBOURS["core"]), 1
    if kind == EVERY:
        number = len(os.sched_getaffinity(0))
    started = [
        subprocess.Popen([sys.executable, "-c", program]) for _ in range(number if program else 0)
    ]
    try:
        if started:
            time.sleep(0.3)  # until it is at work
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def wins(subject: Subject, kind: str, repeats: int) -> dict[str, Any]:
    """Two kernels by turns, each first as often as the other, beside somebody."""
    found = []
    with neighbour(kind):
        for k in range(repeats):
            best = BestSoFar()  # as in a round of tuning: one scale, and who is far behind is cut
            pair: dict[str, RunnerResult] = {}
            for name in (str(LESS), str(MORE)) if k % 2 == 0 else (str(MORE), str(LESS)):
                pair[name] = measured(subject.corrected, subject.input(name, best))
                best.seconds = min(best.seconds, pair[name].seconds)
            less, more = pair[str(LESS)], pair[str(MORE)]
            found.append(
                {
                    "less": less.seconds,
                    "more": more.seconds,
                    "drift": [x.extras["timing"].get("drift") for x in (less, more)],
                    "disturbed": [x.disturbed for x in (less, more)],
                }
            )
    won = sum(x["less"] < x["more"] for x in found)
    ratios = [x["more"] / x["less"] for x in found]
    return {
        "neighbour": kind, "repeats": repeats, "won": won, "ok": won == repeats,
        "least": min(ratios), "median": statistics.median(ratios), "greatest": max(ratios),
        "measured": found,
    }  # fmt: skip


# ----------------------------------------------------------------------------- the command
def main(words: Sequence[str] | None = None) -> int:
    """Run the trials; 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--part", choices=("spread", "neighbour"), help="one trial alone")
    parser.add_argument("--count", type=int, default=50, help="measurements of `spread`")
    parser.add_argument("--over", type=float, default=300.0, help="seconds they are spread over")
    parser.add_argument("--repeats", type=int, default=20, help="repeats of `neighbour`")
    parser.add_argument(
        "--beside", default=",".join([*NEIGHBOURS, EVERY]), help="neighbours, with commas"
    )
    parser.add_argument("--gpu", action="store_true", help="on the GPU")
    parser.add_argument("--json", type=Path, help="append records to this file")
    given = parser.parse_args(words)
    kinds = given.beside.split(",")
    if unknown := set(kinds) - {*NEIGHBOURS, EVERY}:
        parser.error(f"no such neighbour: {', '.join(sorted(unknown))}")
    if given.count < 2 or given.repeats < 1:
        parser.error("--count is from 2, --repeats from 1")
    if given.gpu:
        from gputune.target.host import cuda_problem

        if (problem := cuda_problem()) is not None:
            print(f"bench/timing.py --gpu: {problem}")
            return 0
    subject = Subject.of(given.gpu)
    records = []
    if given.part != "neighbour":
        x = spread(subject, given.count, given.over)
        records.append({"trial": "spread", **x})
        width_ = "-" if x["width"] is None else f"{x['width']:.2%}"
        print(
            f"spread: {x['count']} times over {x['over_s']:.0f} s: (p90 - p10) / median "
            f"{width_} beside the reference kernel (bare: {x['bare']:.2%}; limit "
            f"{x['limit']:.0%}): {'ok' if x['ok'] else 'FAILED'}"
        )
    if given.part != "spread":
        for kind in kinds:
            x = wins(subject, kind, given.repeats)
            records.append({"trial": "neighbour", **x})
            print(
                f"neighbour {kind}: less work won {x['won']} of {x['repeats']}; times as long: "
                f"{x['least']:.3f} to {x['greatest']:.3f}, median {x['median']:.3f}: "
                f"{'ok' if x['ok'] else 'FAILED'}"
            )
    if given.json is not None:
        head = {
            "bench": "timing", "device": subject.target.device_key, "cores": os.cpu_count(),
            "python": platform.python_version(), "commit": commit(),
            "versions": {n: version(n) for n in ("gputune", "llvmlite", "numpy", "cupy")},
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }  # fmt: skip
        with given.json.open("a", encoding="utf-8") as f:
            for record in records:
                f.write(json.dumps({**head, **record}) + "\n")
    return 0 if all(r["ok"] for r in records) else 1


if __name__ == "__main__":
    sys.exit(main())
