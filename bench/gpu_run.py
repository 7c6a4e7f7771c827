"""A shard's run: a process that measures, and one that watches it.

The one that measures appends a record as each cell ends, and says what it is about to do. The
other one ends it when time is up; where it is lost (a kernel broke the GPU's context, a library
crashed, or nothing was heard of it for long), it notes what was being done, begins it again without
that, and goes on. So a shard ends in time whatever happens, and a second call continues it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from gpu_cells import EVERY, Cell
from gpu_plan import Pace, done, fixed_seconds, missing, read_records, tuning_seconds

MARK = "@"
"""Begins a line of the measuring process that is for the watching one: `@cell<TAB>stage`."""
SILENCE = 150.0
"""Seconds without a word from it after which a process is taken to be lost."""
ENDING = 15.0
"""Seconds that are kept for the end of a call."""
TRIES = 4
"""Of a cell: each time without what the last one was lost in."""

Record = dict[str, Any]
Skips = Mapping[str, Mapping[str, str]]
"""By cell, the implementations that are not tried, with the reason."""


# ----------------------------------------------------------------------------- measuring
@dataclass(frozen=True, slots=True)
class Job:
    """What a measuring process is given.

    Attributes:
        shard: its name.
        deadline: when it has to have ended, as `time.time()` counts.
        folder: of the records.
        only: words, one of which a cell's name has; (): all cells.
        again: measure cells that have records, too.
        tuned: tune; else the default schedules are the only ones.
        trials: of a cell's tuning.
        since: records older than this do not count as done where `again` is set.
        skip: see `Skips`.
        known: another folder, whose records count as done, too.
    """

    shard: str
    deadline: float
    folder: str
    only: tuple[str, ...] = ()
    again: bool = False
    tuned: bool = True
    trials: int = 256
    since: float = 0.0
    seed: int = 1
    skip: Skips = field(default_factory=dict)
    known: str = ""

    def as_json(self) -> str:
        """On one line."""
        return json.dumps(asdict(self))

    @staticmethod
    def of_json(text: str) -> Job:
        """What `as_json` wrote."""
        told = json.loads(text)
        return Job(**{**told, "only": tuple(told["only"])})

    def cells(self) -> list[Cell]:
        """What is still to be measured."""
        folders = [self.folder, *([self.known] if self.known else [])]
        records: Iterable[Record] = chain.from_iterable(read_records(Path(f)) for f in folders)
        if self.again:
            records = (r for r in records if r.get("unix", 0.0) >= self.since)
        return missing(self.shard, done(records, self.tuned), self.only)


Measure = Callable[[Cell, float, float, Mapping[str, str], Callable[[str], None]], Record]
"""Cell, seconds of tuning, seconds of the rest, what to skip, and whom to tell: its record."""


def run_cells(
    job: Job, measure: Measure, head: Mapping[str, Any], clock: Callable[[], float] = time.time
) -> list[str]:
    """Measure what is missing of a shard until time is up; the names of those not come to.

    Args:
        measure: makes the record of a cell.
        head: what all records of the run have in common.
    """
    cells, pace, left_out = job.cells(), Pace(), []
    for at, cell in enumerate(cells):
        left = job.deadline - clock() - ENDING
        seconds = tuning_seconds(cells[at:], left, pace.factor)
        if not job.tuned and left >= fixed_seconds(cell) * pace.factor:
            seconds = 0.0
        if seconds is None:
            left_out.append(cell.name)
            continue
        say(cell, "begin")
        begun = clock()
        expected = fixed_seconds(cell)
        total = max(15.0, 1.5 * expected * pace.factor)
        skip = job.skip.get(cell.name, {})
        record = measure(cell, seconds, total, skip, lambda stage, c=cell: say(c, stage))
        took = clock() - begun
        pace.note(expected, max(0.0, took - record.get("tuning", {}).get("wall_s", seconds)))
        append(job, record | {"unix": clock(), "took_s": took, **head})
        print(line(record), flush=True)
    return left_out


def say(cell: Cell, stage: str) -> None:
    """Tell the watching process what comes next."""
    print(f"{MARK}{cell.name}\t{stage}", flush=True)


def append(job: Job, record: Mapping[str, Any]) -> None:
    """One more line of the shard's file."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"gpu-{job.shard}.jsonl").open("a", encoding="utf-8") as f:
        f.write(json.dumps({"bench": f"gpu-{job.shard}", **record}) + "\n")


def line(record: Mapping[str, Any]) -> str:
    """A record in a line of text."""
    s: Mapping[str, float] = record["seconds"]
    ours = s.get("gputune", s.get("gputune default"))
    peers = {n: t for n, t in s.items() if not n.startswith(("gputune", "ceiling"))}
    out = f"{record['cell']:44}"
    out += f"{ours * 1e6:10.1f} us" if ours else f"{'no result':>13}"
    if ours and peers:
        best = min(peers, key=lambda n: peers[n])
        out += f"  {peers[best] / ours:5.2f} x {best}"
    if record["failed"]:
        out += "  (without: " + ", ".join(record["failed"]) + ")"
    return out


# ----------------------------------------------------------------------------- watching
@dataclass(slots=True)
class Watch:
    """A run as the watching process sees it.

    Attributes:
        command: what begins the measuring process; the job follows, as JSON.
        job: of the first process.
        echo: where its other lines go.
        silence: see `SILENCE`.
    """

    command: Sequence[str]
    job: Job
    echo: Callable[[str], None] = print
    silence: float = SILENCE
    cell: str = ""
    stage: str = ""

    def run(self) -> int:
        """Measure until all is done or time is up; how many cells are without a result."""
        skip: dict[str, dict[str, str]] = {k: dict(v) for k, v in self.job.skip.items()}
        tries: dict[str, int] = {}
        while True:
            job = replace(self.job, skip=skip)
            self.cell = self.stage = ""
            reason = self._process(job)
            if reason is None or reason == "time" or time.time() > job.deadline - ENDING - 30:
                if reason is not None:
                    self.echo(f"ended at {self.cell or 'the start'}: {reason}")
                return len(job.cells())
            if not self.cell:
                self.echo(f"the measuring process does not start: {reason}")
                return len(job.cells())
            tries[self.cell] = tries.get(self.cell, 0) + 1
            self.echo(f"{self.cell}: lost in {self.stage!r} ({reason}); again without it")
            append(job, {"cell": self.cell, "lost": self.stage, "reason": reason,
                         "unix": time.time()})  # fmt: skip
            stages = skip.setdefault(self.cell, {})
            stages[self.stage] = f"the process was lost: {reason}"
            if tries[self.cell] >= TRIES or self.stage in ("begin", "inputs", "turns"):
                append(job, hopeless(self.cell, stages, job.tuned) | {"unix": time.time()})

    def _process(self, job: Job) -> str | None:
        """Run a measuring process to its end: None if that was its own, else what it was."""
        with subprocess.Popen(
            [*self.command, job.as_json()], stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            try:
                reason = self._listen(process, job.deadline)
            finally:
                if process.poll() is None:
                    _end(process)
        if reason is not None:
            return reason
        return None if process.returncode == 0 else f"it ended with {process.returncode}"

    def _listen(self, process: subprocess.Popen[bytes], deadline: float) -> str | None:
        assert process.stdout is not None
        heard = time.monotonic()
        for text in _lines(process.stdout.fileno()):
            now = time.monotonic()
            if text is not None:
                heard = now
                self._take(text)
            elif process.poll() is not None:
                break  # what it began may hold the pipe open
            if time.time() > deadline:
                return "time"
            if now - heard > (self.silence if self.cell else SILENCE):
                return f"nothing was heard of it for {now - heard:.0f} s"
        try:
            process.wait(ENDING)
        except subprocess.TimeoutExpired:
            return "it does not end"
        return None

    def _take(self, text: str) -> None:
        if text.startswith(MARK) and "\t" in text:
            self.cell, self.stage = text[len(MARK) :].split("\t", 1)
        else:
            self.echo(text)


def _lines(descriptor: int) -> Iterator[str | None]:
    """The lines of a pipe as they come; None when nothing has come for a while."""
    rest = b""
    while True:
        ready, _, _ = select.select([descriptor], [], [], 0.5)
        if not ready:
            yield None
            continue
        found = os.read(descriptor, 1 << 16)
        if not found:
            if rest:
                yield rest.decode(errors="replace")
            return
        *whole, rest = (rest + found).split(b"\n")
        for one in whole:
            yield one.decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those it began: they are a session of their own."""
    for how, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def hopeless(cell: str, stages: Mapping[str, str], tuned: bool) -> Record:
    """The record of a cell of which nothing could be had."""
    found = EVERY[cell]
    return {
        "cell": cell, "family": found.family, "kernel": found.kernel, "shape": found.full,
        "dtype": found.dtype, "tuned": tuned, "seconds": {}, "timed": {}, "failed": dict(stages),
    }  # fmt: skip


def python(script: str, *words: str) -> list[str]:
    """The command of a script of this folder."""
    return [sys.executable, str(Path(__file__).with_name(script)), *words]
