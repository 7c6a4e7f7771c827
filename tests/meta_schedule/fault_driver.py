"""Tunings in a process of their own, to which things happen; prints one JSON line for each.

python fault_driver.py moments FOLDER SEED COUNT SIGNAL
    COUNT tunings that get a signal at a random moment, each resumed afterwards.
python fault_driver.py disk FOLDER
    A tuning whose disk is full in the midst of it, resumed when there is room again.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from ms_fakes import TARGET, matmul
from search_spaces import two_tiles

from gputune import meta_schedule as ms
from gputune.errors import RecordError
from gputune.meta_schedule import artifact
from gputune.meta_schedule.logging import quiet
from gputune.runtime.interruption import graceful, held

BARE: dict[str, Any] = {"postprocs": [], "mutator_probs": {}}


class Plain(ms.LocalRunner):
    """Without finalists, which take three more processes."""

    def fresh(self) -> None:
        return None


def tune(work: Path, trials: int, seed: int = 1, **options: Any) -> ms.TuneResult:
    options = {
        "builder": ms.LocalBuilder(1), "runner": Plain(), "cost_model": "random",
        "strategy": "replay-trace", "num_trials_per_iter": 4, **options,
    }  # fmt: skip
    space = ms.ScheduleFn(two_tiles, **BARE)
    with quiet():
        return ms.tune_tir(matmul(32), TARGET, work, trials, space=space, seed=seed, **options)


def kept(work: Path) -> list[str]:
    """The programs that a folder has records of, each once; nothing in it is torn."""
    for name in ("database_workload.json", "database_tuning_record.json", "rounds.jsonl",
                 "failures.jsonl"):  # fmt: skip
        path = work / name
        for line in path.read_text().splitlines() if path.exists() else ():
            json.loads(line)
    if not (work / "database_workload.json").exists():
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        database = ms.JSONDatabase(work_dir=work)
    programs = [r.program for r in database.get_all_tuning_records()]
    assert len(set(programs)) == len(programs), "a candidate was measured twice"
    return programs


def say(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


# ----------------------------------------------------------------------------- signals
def moments(folder: Path, seed: int, count: int, number: int) -> None:
    for n in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(n, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tune(folder / "first", 8, strategy="evolutionary")  # all is imported, and workers are warm
    begun = time.monotonic()
    tune(folder / "whole", 8)
    whole = time.monotonic() - begun
    rng = random.Random(seed)
    k = came = 0
    while came < count and k < 5 * count:  # a tuning may be over before its signal comes
        k += 1
        work = folder / str(k)
        options: dict[str, Any] = {"strategy": rng.choice(["replay-trace", "evolutionary"])}
        longest = whole
        if k % 10 == 9:  # now and then with finalists, in processes of their own
            options["runner"] = ms.LocalRunner()
            longest += 3.0
        delay = rng.uniform(0, longest)
        outcome, phase = interrupted(work, delay, number, k, options)
        came += outcome != "not interrupted"
        before = kept(work)
        tune(work, 3, seed=100 + k)
        after = kept(work)
        assert set(before) <= set(after), "a record was lost"
        say(
            k=k, delay=round(delay, 3), outcome=outcome, phase=phase, before=len(before),
            after=len(after),
        )  # fmt: skip
    say(left=sum(len(list(f.iterdir())) for f in artifact._folders.values() if f.exists()))


def interrupted(
    work: Path, delay: float, number: int, seed: int, options: dict[str, Any]
) -> tuple[str, str]:
    """Tune, and be sent a signal on the way; how it ended, and what was going on."""
    lock, over, phases = threading.Lock(), threading.Event(), [""]

    def send() -> None:
        with lock:
            if not over.is_set():
                os.kill(os.getpid(), number)

    timer = threading.Timer(delay, send)
    result: ms.TuneResult | None = None
    with graceful() as signals, contextlib.suppress(KeyboardInterrupt):
        timer.start()
        try:
            result = tune(
                work, 8, seed, on_progress=lambda now: phases.append(now.phase), **options
            )
        finally:
            with held(), lock:
                over.set()
    timer.cancel()
    timer.join()
    if result is not None and kept(work):
        best = ms.JSONDatabase(work_dir=work).get_all_tuning_records()[0]
        assert result.seconds == best.seconds
    if not signals.came:
        return "not interrupted", phases[-1]
    return "raised" if result is None else "returned", phases[-1]


# ----------------------------------------------------------------------------- a full disk
def disk(folder: Path) -> None:
    tune(folder, 16)
    size = (folder / "database_tuning_record.json").stat().st_size
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + size // 16 * 5 // 2, hard))
    problem = RecordError("nothing went wrong")
    try:
        tune(folder, 8, seed=2)
    except RecordError as e:
        problem = e
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    before = kept(folder)
    tune(folder, 3, seed=3)
    after = kept(folder)
    assert set(before) <= set(after)
    found = problem.result
    assert isinstance(found, ms.TuneResult)
    say(
        message=problem.message, in_memory=len(found), best=found.seconds, before=len(before),
        after=len(after),
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1] == "disk":
        disk(Path(sys.argv[2]))
    else:
        moments(Path(sys.argv[2]), *(int(x) for x in sys.argv[3:6]))
