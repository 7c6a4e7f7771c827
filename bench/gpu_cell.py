"""How fast is gputune on one cell, beside its peers and the ceilings? Makes the record of a cell.

gputune is tuned from an empty database first; then everything that computes the cell is checked
against float64, and what is right is timed in turns, with the loops of the ceilings moving the same
number of bytes. What fails or is wrong is in the record with its reason, and has no time.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu_ceilings import VECTOR, Rate
from gpu_cells import Cell
from gpu_clock import Call, copies_for, in_turns
from gpu_device import Device
from gpu_forms import Oracle, fresh, is_output, poison, traffic
from gpu_peers import Entry, Peers
from libraries_forms import useful_flops

import gputune as gt
from gputune import meta_schedule as ms
from gputune.default_gpu_schedule import default_gpu_schedule
from gputune.ir.nodes import IRModule
from gputune.meta_schedule.logging import quiet

TUNED, DEFAULT = "gputune", "gputune default"
OURS = (TUNED, DEFAULT)
STREAM, FMA = "ceiling bytes", "ceiling fma"
CEILINGS = (STREAM, FMA)
_PER_ROUND = 64  # as `gt.tune`
_LARGE = 4 << 30  # bytes of arguments: a worker that held as many is ended, for its memory


@dataclass(frozen=True, slots=True)
class Limits:
    """What a cell may cost.

    Attributes:
        tuning_s: seconds of tuning; 0: the default schedule is the only one.
        trials: of tuning, at most.
        total_s: seconds of everything but tuning; peers that take long are left out beyond it.
        ends: when the call ends, as `time.time()` counts.
        seed: of all that is random.
        skip: implementations that are not tried, with the reason.
        keep: folder of a database that gets the best record of the tuning; it is only written.
    """

    tuning_s: float
    trials: int = 256
    total_s: float = 120.0
    ends: float = math.inf
    seed: int = 1
    skip: Mapping[str, str] | None = None
    keep: Path | None = None


Say = Callable[[str], None]


class Lost(Exception):
    """The process cannot use the GPU any more: an implementation broke its context."""


def measure(
    device: Device, cell: Cell, limits: Limits, say: Say = lambda s: None
) -> dict[str, Any]:
    """The record of a cell, but for what is common to a run.

    Args:
        say: is told what is being done next: an implementation's name, or "tuning".
    """
    begun = time.perf_counter()
    skip = dict(limits.skip or {})
    failed: dict[str, str] = {k: v for k, v in skip.items() if k != "tuning"}
    read, written = traffic(cell)
    record: dict[str, Any] = {
        "cell": cell.name, "family": cell.family, "kernel": cell.kernel, "shape": cell.full,
        "dtype": cell.dtype, "bytes": [read, written],
        "flops": useful_flops(cell.operator), "tuned": limits.tuning_s > 0,
    }  # fmt: skip
    mods, reasons = _programs(device, cell, limits, record, say, skip)
    failed |= reasons
    since = time.perf_counter()

    def left() -> float:
        return min(limits.total_s - (time.perf_counter() - since), limits.ends - time.time())

    with device.current():
        copies = copies_for(device.l2_bytes, read + written)
        say("inputs")
        first = fresh(device.torch, cell, device.place, limits.seed)
        tensors = [first, *([x.clone() for x in first] for _ in range(copies - 1))]
        oracle = Oracle(device.torch, cell, first)
        peers = Peers(device, cell, tensors, left)
        makers = {n: _bound(device, cell, mod, tensors) for n, mod in mods.items()}
        makers |= dict(peers.makers())
        calls: dict[str, Call] = {}
        for name, make in makers.items():
            if name in skip:
                continue
            say(name)
            entry, problem = _checked(device, oracle, make, peers.outputs[0])
            if problem is not None:
                failed[name] = problem
            elif entry is not None:
                calls[name] = entry.call
        if not any(n in calls for n in OURS) and len(calls) == 0:
            return record | {"copies": copies, "seconds": {}, "timed": {}, "failed": failed}
        calls |= _floors(device, read, written, copies, failed)
        before = device.read()
        turns = in_turns(device, calls, copies, say=say)
        after = device.read()
        say("second check")
        for name in OURS:
            if name in turns.timed:
                problem = _again(device, oracle, calls[name], tensors[-1], copies - 1, cell)
                if problem is not None:
                    failed[name] = f"after the timing: {problem}"
                    del turns.timed[name]
    return record | {
        "copies": copies, "seconds": {n: t.seconds for n, t in turns.timed.items()},
        "timed": {n: t.as_json() for n, t in turns.timed.items()},
        "failed": failed | turns.failed, "clocks_differed": turns.clocks_differed,
        "fma_flops": device.ceilings.flops if hasattr(device, "ceilings") else None,
        "nvml": [None if r is None else _reading(r) for r in (before, after)],
        "wall_s": time.perf_counter() - begun,
    }  # fmt: skip


def _reading(r: Any) -> dict[str, Any]:
    return {"sm_mhz": r.sm_mhz, "mem_mhz": r.mem_mhz, "power_w": r.power_w,
            "temperature_c": r.temperature_c, "slowed": list(r.slowed)}  # fmt: skip


# ----------------------------------------------------------------------------- gputune
def default_program(cell: Cell, target: gt.Target) -> Any:
    """The program as it runs when nothing was tuned."""
    func = cell.operator.build(dtype=cell.dtype)
    return func if target.kind != "cuda" else default_gpu_schedule(func, target).mod


def _programs(
    device: Device, cell: Cell, limits: Limits, record: dict[str, Any], say: Say,
    skip: Collection[str],
) -> tuple[dict[str, Any], dict[str, str]]:  # fmt: skip
    """gputune's programs by name, and why others are missing."""
    mods: dict[str, Any] = {}
    failed: dict[str, str] = {}
    if DEFAULT not in skip:
        say(DEFAULT)
        try:
            mods[DEFAULT] = default_program(cell, device.target)
        except gt.GputuneError as e:
            failed[DEFAULT] = f"no schedule: {e.message}"
    if limits.tuning_s > 0 and TUNED not in skip and "tuning" not in skip:
        say("tuning")
        try:
            mods[TUNED], record["tuning"] = tune(cell, device.target, limits, say)
        except gt.GputuneError as e:
            failed[TUNED] = f"tuning: {e.message}"
    elif "tuning" in skip:
        failed[TUNED] = "the process was lost while it was tuned"
    return mods, failed


def tune(
    cell: Cell, target: gt.Target, limits: Limits, say: Say = lambda s: None
) -> tuple[IRModule, dict[str, Any]]:
    """The best program of a tuning from an empty database, and how the tuning went.

    Args:
        say: is told "tuning" every few seconds as long as the tuning gets on.

    Raises:
        GputuneError: nothing was found.
    """
    curve: list[tuple[float, int, float]] = []
    last: dict[str, Any] = {"trials": 0, "failures": {}}

    said = time.monotonic()

    def note(now: ms.Progress) -> None:
        nonlocal said
        if time.monotonic() - said > 5:
            said = time.monotonic()
            say("tuning")
        last["trials"], last["failures"] = now.trials, dict(now.failures)
        best = now.best_seconds
        if best is not None and (not curve or best < curve[-1][2]):
            curve.append((now.elapsed_s, now.trials, best))

    folder = Path(tempfile.mkdtemp(prefix="gputune-bench-"))
    start = time.perf_counter()
    try:
        with quiet():
            result = ms.tune_tir(
                cell.operator.build(dtype=cell.dtype), target, folder, limits.trials,
                num_trials_per_iter=_PER_ROUND, seed=limits.seed, seconds=limits.tuning_s,
                on_progress=note, cost_model="xgb" if find_spec("xgboost") else "random",
            )  # fmt: skip
        wall = time.perf_counter() - start
        mod = result.mod
        if limits.keep is not None:
            result.database.dump_pruned(ms.JSONDatabase(work_dir=limits.keep))
        return mod, {
            "wall_s": wall, "budget_s": limits.tuning_s, **last, "curve": curve,
            **reached(curve), "trace": str(result.trace),
        }  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if target.kind == "cuda" and sum(traffic(cell)) > _LARGE:
            from gputune.meta_schedule.cuda_runner import shared_gpu_worker

            shared_gpu_worker().close()
            shared_gpu_worker.cache_clear()


def reached(curve: list[tuple[float, int, float]], share: float = 0.95) -> dict[str, Any]:
    """When tuning first had this share of the speed it ended with: seconds and trials."""
    if not curve:
        return {"to_95_s": None, "to_95_trials": None}
    best = curve[-1][2]
    seconds, trials, _ = next(c for c in curve if c[2] <= best / share)
    return {"to_95_s": seconds, "to_95_trials": trials}


def _bound(device: Device, cell: Cell, mod: Any, tensors: list[list[Any]]) -> Callable[[], Entry]:
    """How gputune's program becomes an entry: compiled, and bound to every copy."""

    def make() -> Entry:
        function = next(iter(gt.build(mod, device.target).functions.values()))
        works = [device.bind(function, copy) for copy in tensors]
        outs = [x for x, out in zip(tensors[0], is_output(cell)) if out]
        return Entry(lambda at: works[at](), lambda _: outs)

    return make


# ----------------------------------------------------------------------------- checks
def _checked(
    device: Device, oracle: Oracle, make: Callable[[], Entry | None], outputs: list[Any]
) -> tuple[Entry | None, str | None]:
    """An entry whose results are right, or why there is none (None, None: the peer lacks it)."""
    try:
        entry = make()
        if entry is None:
            return None, None
        for x in outputs:
            poison(device.torch, x)
        found = entry.outputs(entry.call(0))
        device.synchronize()
        problem = oracle.problem(found)
    except Exception as e:  # whatever an implementation does, the others are measured
        reason = f"{type(e).__name__}: {str(e).strip()[:300]}"
        try:
            device.synchronize()
        except Exception:
            raise Lost(reason) from e
        return None, reason
    return (None, f"wrong: {problem}") if problem else (entry, None)


def _again(
    device: Device, oracle: Oracle, call: Call, tensors: list[Any], at: int, cell: Cell
) -> str | None:
    """Are the results right still, on the last copy?"""
    outputs = [x for x, out in zip(tensors, is_output(cell)) if out]
    for x in outputs:
        poison(device.torch, x)
    call(at)
    device.synchronize()
    return oracle.problem(outputs)


def _floors(
    device: Device, read: int, written: int, copies: int, failed: dict[str, str]
) -> dict[str, Call]:
    """The ceilings, as entries that take turns with the others."""
    out: dict[str, Call] = {}
    rates = {STREAM: Rate(read // VECTOR * VECTOR, written // VECTOR * VECTOR, copies=copies)}
    if device.place == "cuda":
        rates[FMA] = Rate(flops=1)
    for name, rate in rates.items():
        try:
            works = device.floor(rate)
            works[0]()
            device.synchronize()
        except Exception as e:  # the cell is worth its time without a ceiling, too
            failed[name] = f"{type(e).__name__}: {str(e).strip()[:300]}"
            continue
        out[name] = lambda at, works=works: works[at % len(works)]()
    return out
