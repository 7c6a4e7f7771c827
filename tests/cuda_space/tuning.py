"""Does every kernel of the library tune on the CUDA target, from its space to a checked result?

For the tests, and for `ci/cuda_space tuning`. Candidates are compiled by NVRTC in worker processes
and run by host execution, each checked for races and stray accesses; the clock is that of the
simulation, so that nothing here says which schedule is fast on a GPU.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import gputune.meta_schedule as ms
from gputune.codegen.cuda.kernel import generate
from gputune.kernels import KERNELS
from gputune.meta_schedule.host_runner import CLOCK
from gputune.target import Target

from .candidates import Candidate, Census, executed, room, stream

TRIALS = 32


@dataclass(slots=True)
class Tuned:
    """What became of a tuning.

    Attributes:
        name, shape, arch: what was tuned, for what.
        wanted, trials: candidates that were to be measured, and that were or failed.
        programs: different ones that the space was seen to have, counted up to `wanted`.
        measured: those with a time, of their own or of the same code.
        failed: build and run failures and wrong results, counted by reason.
        duplicates, refused: rows that were no new program, and that were not legal.
        verified: was the best record compared with the unscheduled program?
        findings: of the best candidate, run once more in all orders of threads against NumPy.
        seconds: it took.
    """

    name: str
    shape: dict[str, int]
    arch: str
    wanted: int
    programs: int
    trials: int = 0
    measured: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    refused: int = 0
    verified: bool = False
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Did all go well: every trial gave a time, there were as many as were to be or as there
        are programs, and the best is right?"""
        enough = self.measured == self.trials >= min(self.wanted, self.programs)
        return enough and not self.failed and self.verified and not self.findings

    def as_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self) | {"failed": dict(self.failed)}


def tuned(
    name: str, folder: Path, seed: int = 1, trials: int = TRIALS, arch: str = "sm_80"
) -> Tuned:
    """Tune a kernel at small sizes from an empty database in `folder`, in two rounds: the second is
    chosen by a model that has learned from the first."""
    start = time.monotonic()
    kernel, shape = KERNELS[name], dict(room(name))
    func, target = kernel.build(shape), Target(f"cuda -arch={arch}")
    programs = sum(1 for _ in islice(stream(name, shape, arch, seed, Census()), trials))
    out = Tuned(name, shape, arch, trials, programs)
    result = ms.tune_tir(
        func, target, folder, trials, num_trials_per_iter=max(1, trials // 2), runner="host",
        seed=seed,
    )  # fmt: skip
    why = result.why()
    for task in why.tasks:
        out.measured += task.total("measured") + task.total("same_code")
        out.duplicates += task.total("duplicates")
        out.refused += task.counter("refused").total()
        for key in ("build_errors", "run_errors"):
            out.failed += task.counter(key)
        out.failed += Counter({"wrong result": task.total("wrong"), "lost": task.total("lost")})
        out.trials += task.total("attempted")
    best = result.record
    if best is not None:
        out.verified = bool(best.extras.get("verified"))
        assert best.extras.get("clock") == CLOCK
        (scheduled,) = result.mod.functions.values()
        winner = Candidate(name, shape, arch, -1, (), scheduled, generate(scheduled))
        out.findings = [str(f) for f in executed(winner).findings]
    out.seconds = time.monotonic() - start
    return out
