"""How far is the tuning of each task? The table that is printed after every round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .profiler import align

HEAD = (
    "ID", "Name", "FLOP", "Weight", "Speed (GFLOPS)", "Latency (us)", "Weighted Latency (us)",
    "Trials", "Terminated",
)  # fmt: skip


class Row(Protocol):
    """What the table says about a task; `TaskRecord` has it."""

    @property
    def task_name(self) -> str: ...  # noqa: D102
    @property
    def flop(self) -> float: ...  # noqa: D102
    @property
    def task_weight(self) -> float: ...  # noqa: D102
    @property
    def best_latency_ms(self) -> float | None: ...  # noqa: D102
    @property
    def trials(self) -> int: ...  # noqa: D102
    @property
    def is_terminated(self) -> bool: ...  # noqa: D102


def table(records: Sequence[Row]) -> str:
    """The statistics table of some tasks, with its two lines of totals.

    Latency is the least median of the repeats of a candidate, in microseconds; the total latency
    adds the weighted latencies of the tasks that have one.
    """
    rows: list[tuple[str, ...]] = [HEAD]
    total = 0.0
    for number, r in enumerate(records):
        speed = latency = weighted = "N/A"
        if r.best_latency_ms is not None:
            us = r.best_latency_ms * 1e3
            total += us * r.task_weight
            speed, latency = f"{r.flop / us / 1e3:.4f}", f"{us:.4f}"
            weighted = f"{us * r.task_weight:.4f}"
        rows.append(
            (
                str(number), r.task_name, _number(r.flop), _number(r.task_weight), speed, latency,
                weighted, str(r.trials), "Y" if r.is_terminated else "",
            )
        )  # fmt: skip
    text = align(rows)
    rule = text.splitlines()[1]
    trials = sum(r.trials for r in records)
    return f"{text}\n{rule}\nTotal trials: {trials}\nTotal latency (us): {total:.6g}\n"


def _number(x: float) -> str:
    return str(int(x)) if float(x).is_integer() else f"{x:g}"
