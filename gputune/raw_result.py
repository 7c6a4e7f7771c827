"""What comes out of tuning a CUDA kernel? The best configuration, all others, and why."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import UserError
from .figures import duration, plain, three, times
from .tuned_cuda_kernel import Measured, TunedCudaKernel
from .tuned_kernel import Summary

Metric = Callable[[Any], float]


class Shown(str):
    """Text that a prompt shows as it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@dataclass(slots=True, eq=False)
class KernelResult:
    """The result of `tune_kernel`.

    Attributes:
        best: the best configuration whose numbers hold, callable.
        measured: every configuration that was tried, in this run or an earlier one of the same
            folder, the fastest first and failures last.
        summary: trials, time and failures of this run.
        combinations: how many the parameters span.
        refused: why combinations were refused before they were compiled, counted.
        compared: what outputs were compared with, in words.
        foreign: records of the folder that are none of this kernel's configurations.
        metrics: as given.
        objective: "latency", "energy" or "edp": by which `best` is the best.
    """

    best: TunedCudaKernel
    measured: Sequence[Measured]
    summary: Summary
    combinations: int
    refused: Counter[str]
    compared: str
    foreign: int = 0
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    objective: str = "latency"

    @property
    def failed(self) -> list[Measured]:
        """The configurations that failed."""
        return [m for m in self.measured if m.error is not None]

    def metric(self, name: str, m: Measured | None = None) -> float:
        """A metric of a configuration (default: the best).

        Raises:
            UserError: there is none of that name, or it raised.
        """
        if name not in self.metrics:
            raise UserError(f"there is no metric {name!r}; there are: {', '.join(self.metrics)}")
        try:
            return float(self.metrics[name](m or self.best.measured))
        except Exception as e:  # the user's function
            raise UserError(f"metric {name!r} raised {type(e).__name__}: {e}") from e

    # ------------------------------------------------------------------ tables
    def table(self, limit: int = 20) -> Shown:
        """The configurations as text, the fastest first, failures last.

        Args:
            limit: rows.
        """
        rows = list(self.measured)
        shown = rows[:limit]
        names = list(self.best.arguments.kernel.params)
        energy = ["mJ"] if self.objective != "latency" else []
        head = [*names, "time", "x best", *energy, *self.metrics]
        head += ["registers", "occupancy", "status"]
        cells = [self._cells(m, names) for m in shown]
        text = _drawn(head, cells, left={len(head) - 1})
        if len(rows) > limit:
            text += f"\n{len(rows) - limit} more"
        if (why := self.best.nvml_problem) != "":
            text += f"\nno clocks and power: {why}"
        return Shown(text)

    def _cells(self, m: Measured, names: Sequence[str]) -> list[str]:
        timed = m.error is None
        out = [plain(str(m.params.get(n, "")), 24) for n in names]
        ranks = timed and math.isfinite(m.seconds)
        out += [duration(m.seconds), times(m.seconds / self.best.seconds) if ranks else "-"]
        if self.objective != "latency":
            out.append("-" if m.joules is None else three(m.joules * 1e3))
        out += [three(self.metric(n, m)) if timed else "-" for n in self.metrics]
        registers, occupied = m.facts.get("registers"), m.facts.get("occupancy")
        spills = m.facts.get("spill_stores") or 0
        out.append("-" if registers is None else f"{registers}{' spills' if spills else ''}")
        out.append(f"{occupied:.0%}" if isinstance(occupied, float) else "-")
        return [*out, m.status]

    def why(self) -> Shown:
        """Where the combinations went, and which parameters mattered, as text."""
        good = [m for m in self.measured if m.error is None]
        lines = [
            f"{self.combinations} combinations: {len(good)} measured, {len(self.failed)} failed, "
            f"{sum(self.refused.values())} refused before compiling, "
            f"{max(0, self._left())} not tried"
        ]
        lines += [f"  refused  {n} x {plain(reason)}" for reason, n in self.refused.most_common()]
        kinds: dict[str, list[Measured]] = {}
        for m in self.failed:
            kinds.setdefault(m.status, []).append(m)
        for status, group in sorted(kinds.items(), key=lambda x: -len(x[1])):
            lines.append(f"  failed   {len(group)} x {status}")
            named = group if status == _WRONG else group[:1]
            lines += [f"             {m.params!r}: {_message(m)}" for m in named]
        if self.foreign:
            lines.append(
                f"  passed over  {self.foreign} records of configurations that the kernel does not "
                "make"
            )
        lines.append(self.compared)
        if mattered := self._mattered([m for m in good if math.isfinite(m.seconds)]):
            lines += ["which parameters mattered (the best time with each value, x the best):"]
            lines += mattered
        return Shown("\n".join(lines))

    def _left(self) -> int:
        tried = len({m.params for m in self.measured})
        return self.combinations - tried - sum(self.refused.values())

    def _mattered(self, good: Sequence[Measured]) -> list[str]:
        found: list[tuple[float, str]] = []
        for name in self.best.arguments.kernel.params:
            least: dict[str, float] = {}
            for m in good:
                key = str(m.params.get(name))
                least[key] = min(least.get(key, math.inf), m.seconds)
            if len(least) < 2:
                continue
            ranked = sorted(least.items(), key=lambda x: x[1])
            spread = ranked[-1][1] / ranked[0][1]
            told = ", ".join(f"{v} {times(s / self.best.seconds)}" for v, s in ranked)
            found.append((spread, f"  {name:<10} {told}"))
        return [line for _, line in sorted(found, key=lambda x: -x[0])]

    def __repr__(self) -> str:
        return f"KernelResult(best={self.best!r}; {self.summary})"


_WRONG = "check wrong_result"


def _message(m: Measured) -> str:
    return plain(m.error.get("message", ""), 300) if m.error is not None else ""


def _drawn(head: Sequence[str], rows: Sequence[Sequence[str]], left: set[int]) -> str:
    """A table as text without colours."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for at, name in enumerate(head):
        table.add_column(Text(name), justify="left" if at in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    out = io.StringIO()
    Console(file=out, width=1000, color_system=None, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
