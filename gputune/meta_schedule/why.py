"""Where did the candidates of a tuning go, and were model and rules right? `Why` reads it off the
logs.

The logs are `rounds.jsonl` and `failures.jsonl` of a work_dir (`round_log`, `failures`). They are
data from anywhere: lines that cannot be read are counted and passed over, and their text is made
safe before it is printed.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import UserError
from ..runtime.interruption import held
from .failures import REFUSED
from .postproc.verify_gpu_code import CHOICES
from .round_log import ROUNDS_FILE
from .second_look import RULES

FAILURES_FILE = "failures.jsonl"
TOP = 8
"""Recall: how many of the fastest are among as many of the best predicted."""

Line: TypeAlias = Mapping[str, Any]
_LARGEST = 1 << 30  # bytes of a log that is read


@dataclass(frozen=True, slots=True)
class Part:
    """A table: a title, the column heads, the rows, and which columns hold numbers."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[int, ...] = ()


@dataclass(slots=True)
class Refused:
    """What became of the candidates that a rule refuses.

    Attributes:
        reason: the rule.
        count: how many it refused, those that were measured all the same included.
        measured: how many of them were.
        best: their least seconds; None if none has a time.
        judged: is the rule a guess, so that some of what it refuses is measured? Else what it
            refuses cannot run, or is not legal.
    """

    reason: str
    count: int = 0
    measured: int = 0
    best: float | None = None
    judged: bool = False


@dataclass(slots=True)
class TaskWhy:
    """What the logs say of one task.

    Attributes:
        name, workload: which.
        rounds, failures: its lines, in their order.
    """

    name: str
    workload: str = ""
    rounds: list[Line] = field(default_factory=list)
    failures: list[Line] = field(default_factory=list)

    def total(self, key: str) -> int:
        """A count, over all rounds."""
        return sum(_count(r.get(key)) for r in self.rounds)

    def counter(self, key: str) -> Counter[str]:
        """Counts by reason, over all rounds."""
        out: Counter[str] = Counter()
        for r in self.rounds:
            found = r.get(key)
            if isinstance(found, dict):
                out.update({str(k): _count(n) for k, n in found.items()})
        return +out

    @property
    def best(self) -> float | None:
        """The least seconds; None if there are none."""
        return min((x for r in self.rounds if (x := _seconds(r.get("best")))), default=None)

    @property
    def accepted(self) -> float | None:
        """The least seconds of what no rule refuses; None if there are none."""
        found = [_seconds(r.get("accepted" if "rules" in r else "best")) for r in self.rounds]
        return min((x for x in found if x), default=None)

    def refusals(self) -> list[Refused]:
        """What each rule refused, and how those did that were measured all the same; the rule that
        refused the most first."""
        out = {r: Refused(r, n, judged=r in _JUDGED) for r, n in self.counter("refused").items()}
        for line in self.rounds:
            rules = line.get("rules")
            for name, row in rules.items() if isinstance(rules, dict) else ():
                if not isinstance(row, dict):
                    continue
                found = out.setdefault(str(name), Refused(str(name), judged=True))
                found.count += _count(row.get("refused"))
                found.measured += _count(row.get("measured"))
                best = _seconds(row.get("best"))
                found.best = min((x for x in (found.best, best) if x), default=None)
        return sorted(out.values(), key=lambda x: -x.count)

    def reasons(self) -> list[tuple[str, int, str]]:
        """Why candidates failed: reason, how many, and what the last of them said; the most
        frequent first. What a rule refused is no failure."""
        counts: Counter[str] = Counter()
        said: dict[str, str] = {}
        for line in self.failures:
            if line.get("phase") == REFUSED:
                continue
            reason = f"{line.get('phase', '?')} {line.get('kind', '?')}"
            counts[reason] += 1
            said[reason] = str(line.get("message", ""))
        return [(reason, n, said[reason]) for reason, n in counts.most_common()]

    # ------------------------------------------------------------------ tables
    def parts(self) -> list[Part]:
        """The tables, those with nothing in them left out."""
        found = [self._fates(), self._refusals(), self._failed(), self._model()]
        return [p for p in found if p.rows]

    def _fates(self) -> Part:
        build, run = self.counter("build_errors"), self.counter("run_errors")
        proposed, attempted = self.total("proposed"), self.total("attempted")
        ended = sum(map(self.total, ("measured", "same_code", "refused_built", "wrong")))
        ended += run.total()
        unread = self.total("built") - ended - self.total("lost")
        rows = [
            ("sampled", self.total("sampled"), "rows and schedules that the search looked at"),
            ("refused", self.counter("refused").total(), "not legal: the reasons are below"),
            ("duplicates", self.total("duplicates"), "their program was measured before"),
            ("proposed", proposed, "sent to be built"),
            ("build errors", build.total(), _in_words(build)),
            ("built", self.total("built"), ""),
            (
                "same code",
                self.total("same_code"),
                "as one that was measured: its times are theirs",
            ),
            ("refused built", self.total("refused_built"), "taken to be slow: the rules are below"),
            ("run errors", run.total(), _in_words(run)),
            ("wrong results", self.total("wrong"), "their numbers are not the program's"),
            ("lost", self.total("lost"), "no worker could be had: not their fault"),
            ("not reached", proposed - attempted + max(0, unread), "the time was up"),
            ("measured", self.total("measured"), ""),
            ("cut early", self.total("cut"), "clearly slower than the best: timed once"),
        ]
        always = ("sampled", "refused", "proposed", "built", "measured")
        shown = [(name, str(n), note) for name, n, note in rows if n or name in always]
        if self.best is not None:
            shown.append(("best", _duration(self.best), ""))
        spent = [sum(_number(r.get(k)) for r in self.rounds) for k in _LAPS]
        if sum(spent):
            told = ", ".join(f"{name} {s:.1f} s" for name, s in zip(_LAPS.values(), spent))
            shown.append(("time", f"{sum(spent):.1f} s", told))
        title = f"{self.name}: {len(self.rounds)} round{'s' * (len(self.rounds) != 1)}"
        return Part(title, ("candidates", "count", ""), tuple(shown) if self.rounds else (), (1,))

    def _refusals(self) -> Part:
        accepted = self.accepted
        rows = []
        for x in self.refusals():
            text = f"{x.reason}: {RULES[x.reason].text}" if x.reason in RULES else x.reason
            measured = str(x.measured) if x.judged else "-"  # what cannot run cannot be measured
            best = "-" if x.best is None else _duration(x.best)
            ratio = "-" if x.best is None or accepted is None else f"{x.best / accepted:.2f}"
            rows.append((str(x.count), measured, best, ratio, text))
        head = ("refused", "of these measured", "best", "by the best accepted", "reason")
        return Part(f"{self.name}: refused by rules", head, tuple(rows), (0, 1, 2, 3))

    def _failed(self) -> Part:
        rows = [(str(n), reason, said) for reason, n, said in self.reasons()]
        return Part(f"{self.name}: failures", ("count", "reason", "example"), tuple(rows), (0,))

    def _model(self) -> Part:
        rows: list[tuple[str, ...]] = []
        for r in self.rounds:
            found = judgement_of(r)
            if found is None:
                continue
            n, correlation, recall = found
            built = judgement_of(r, "built_")
            told = (_figure(correlation), _figure(recall), _figure(built[1] if built else None))
            rows.append((str(r.get("round", "?")), str(r.get("model", "?")), str(n), *told))
        head: tuple[str, ...]
        head = ("round", "model", "measured", "rank correlation", f"top-{TOP} recall", "once built")
        if all(row[5] == "-" for row in rows):  # the model was not asked again
            head, rows = head[:5], [row[:5] for row in rows]
        right = tuple(k for k in range(len(head)) if k != 1)
        return Part(f"{self.name}: predicted and measured", head, tuple(rows), right)


def judgement_of(line: Line, when: str = "") -> tuple[int, float, float | None] | None:
    """How well a round's scores, given before it, ranked its times.

    Args:
        line: of the round.
        when: "built_" for the scores given once they were built.

    Returns:
        How many candidates, the rank correlation (1: as predicted), and the recall of the fastest
        eight (None with fewer than twice as many); None with fewer than three candidates.
    """
    from .cost_model.metrics import rank_correlation, recall

    scores, seconds = (_numbers(line.get(when + x)) for x in ("scores", "seconds"))
    if len(scores) != len(seconds) or len(scores) < 3:
        return None
    found = rank_correlation(scores, seconds)
    return len(scores), found, recall(scores, seconds, TOP) if len(scores) >= 2 * TOP else None


@dataclass(frozen=True, slots=True, eq=False)
class Why:
    """Where the candidates of a tuning went; prints as tables.

    Attributes:
        tasks: what is known of each task.
        skipped: lines of the logs that could not be read.
        notes: more to say, a line each.

    Example:
        >>> print(Why.read("./tuned"))  # doctest: +SKIP
    """

    tasks: tuple[TaskWhy, ...]
    skipped: int = 0
    notes: tuple[str, ...] = ()

    @staticmethod
    @held()  # a tuning that is over is not to be lost for its tables
    def of(
        rounds: Iterable[Line],
        failures: Iterable[Line] = (),
        skipped: int = 0,
        notes: Sequence[str] = (),
    ) -> Why:
        """From the lines of the two logs."""
        found: dict[tuple[str, str], TaskWhy] = {}

        def task(line: Line) -> TaskWhy:
            name, workload = str(line.get("task", "?")), str(line.get("workload", ""))
            return found.setdefault((name, workload), TaskWhy(name, workload))

        for line in rounds:
            task(line).rounds.append(line)
        for line in failures:
            task(line).failures.append(line)
        return Why(tuple(found.values()), skipped, tuple(notes))

    @staticmethod
    def read(work_dir: str | Path) -> Why:
        """From the logs in a folder, over all runs.

        Raises:
            UserError: there is no such folder, or no log in it.
        """
        folder = Path(work_dir)
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}", code="missing")
        files = (folder / ROUNDS_FILE, folder / FAILURES_FILE)
        if not any(f.exists() for f in files):
            raise UserError(
                f"{folder} holds no log of a tuning ({ROUNDS_FILE})",
                hint="gputune tune KERNEL --work-dir FOLDER writes one",
                code="missing",
            )
        (rounds, bad), (failures, worse) = map(read_lines, files)
        return Why.of(rounds, failures, bad + worse)

    def parts(self) -> list[Part]:
        """The tables of all tasks."""
        return [p for t in self.tasks for p in t.parts()]

    def remarks(self) -> list[str]:
        """What there is to say besides, a line each."""
        out = list(self.notes)
        if self.skipped:
            out.append(f"{self.skipped} lines of the logs cannot be read and were passed over")
        if not self.tasks:
            out.append("nothing was measured")
        return out

    def __str__(self) -> str:
        blocks = [f"{safe(p.title)}\n{_aligned(p)}" for p in self.parts()]
        return "\n\n".join([*blocks, *map(safe, self.remarks())])

    __repr__ = __str__


_JUDGED = frozenset({*CHOICES, *RULES})
_LAPS = {"search_s": "search", "build_s": "build", "measure_s": "measure and learn"}


def read_lines(path: Path) -> tuple[list[Line], int]:
    """The objects of a file, one a line, and how many lines are none."""
    try:
        with path.open("rb") as f:
            text = f.read(_LARGEST)
    except FileNotFoundError:
        return [], 0
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}", code="missing") from None
    out: list[Line] = []
    bad = 0
    for line in text.split(b"\n"):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            out.append(found)
        else:
            bad += 1
    return out, bad


def _aligned(part: Part) -> str:
    """A table as text."""
    rows = [part.head, *([safe(c) for c in row] for row in part.rows)]
    widths = [max(len(r[k]) for r in rows) for k in range(len(part.head))]
    out = []
    for row in rows:
        cells = [
            c.rjust(w) if k in part.right else c.ljust(w)
            for k, (c, w) in enumerate(zip(row, widths))
        ]
        out.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(out)


def safe(text: str, limit: int = 200) -> str:
    """Text of a file as one line that no terminal takes for a command."""
    out = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: 2 * limit])
    return out if len(out) <= limit else out[: limit - 3] + "..."


def _count(x: Any) -> int:
    return x if type(x) is int and 0 <= x < 1 << 53 else 0


def _number(x: Any) -> float:
    return float(x) if type(x) in (int, float) and 0 <= x < 1e12 else 0.0


def _seconds(x: Any) -> float | None:
    return float(x) if type(x) in (int, float) and 0 < x < 1e12 else None


def _numbers(x: Any) -> list[float]:
    if not isinstance(x, list) or any(type(v) not in (int, float) for v in x):
        return []
    try:
        out = [float(v) for v in x]
    except OverflowError:
        return []
    return out if all(map(math.isfinite, out)) else []


def _in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{n} x {reason}" for reason, n in counts.most_common())


def _figure(x: float | None) -> str:
    return "-" if x is None or not math.isfinite(x) else f"{x:.2f}"


def _duration(seconds: float) -> str:
    for limit, scale, unit in ((1e-6, 1e9, "ns"), (1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"
