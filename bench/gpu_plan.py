"""Which cells of a shard does one call measure, and how long may each take?

A call has so many seconds. Each cell costs some that are fixed (programs built, peers checked and
timed, torch.compile) and has the rest for tuning, by weight. Both are computed anew before every
cell from what is left, and the fixed ones from what cells took so far beside what was expected: a
call ends in time, and what it did not come to is said.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gpu_cells import AUTOTUNE, CELLS, DEFAULT, Cell
from gpu_forms import traffic

LIMIT = 540.0
"""Seconds of a call: a lent machine gives one ten minutes, with its start and the way back."""
START = 20.0
"""Seconds before the first cell: imports, the GPU warm, its ceilings."""
LEAST, MOST = 8.0, 90.0
"""Seconds of tuning of a cell of weight 1 (the most counts times the weight)."""
_MODES = {DEFAULT: 8.0, AUTOTUNE: 35.0}
_BYTES_S = 1e9  # of all that is done to a cell's memory besides the kernels
_FLOPS_S = 20e12  # float32 products, and their references in float64


@cache
def fixed_seconds(cell: Cell) -> float:
    """What a cell is expected to cost besides tuning."""
    out = 4.0 + sum(_MODES[m] for m in cell.compiled)
    out += sum(traffic(cell)) / _BYTES_S
    return out + 60 * cell.operator.flops(**cell.full) / _FLOPS_S


@dataclass(slots=True)
class Pace:
    """How long cells took beside what was expected; some of the first says little."""

    expected: float = 20.0
    took: float = 20.0

    def note(self, expected: float, took: float) -> None:
        """A cell has ended."""
        self.expected += expected
        self.took += took

    @property
    def factor(self) -> float:
        """By which expectations are multiplied."""
        return min(4.0, max(0.5, self.took / self.expected))


def tuning_seconds(cells: Sequence[Cell], left: float, factor: float = 1.0) -> float | None:
    """How long the first of some cells may be tuned.

    Args:
        cells: all that are still to be measured, in order.
        left: seconds of the call.
        factor: of expectations.

    Returns:
        Seconds; None where there is no time for the cell at all.
    """
    first = cells[0]
    own = fixed_seconds(first) * factor
    if left < own + LEAST:
        return None
    fixed = sum(fixed_seconds(c) for c in cells) * factor
    share = first.weight / sum(c.weight for c in cells)
    spare = (left - fixed) * share
    most = min(MOST * first.weight, left - own)
    return min(max(spare, LEAST), most)


# ----------------------------------------------------------------------------- what is done
def read_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """All that a folder's files hold, in the order in which it was written; lines that are no
    records (torn ones) are passed over."""
    for file in sorted(folder.glob("gpu-*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found


def read_records(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of cells."""
    return (x for x in read_lines(folder) if "cell" in x)


def done(records: Iterable[Mapping[str, Any]], tuned: bool) -> set[str]:
    """The cells that need no second run. Without tuning, a tuned record will do as well."""
    return {r["cell"] for r in records if "lost" not in r and (r.get("tuned") or not tuned)}


def missing(shard: str, have: Collection[str], only: Collection[str] = ()) -> list[Cell]:
    """The cells of a shard that are still to be measured."""
    return [
        c for c in CELLS[shard]
        if c.name not in have and (not only or any(word in c.name for word in only))
    ]  # fmt: skip


# ----------------------------------------------------------------------------- before a run
@dataclass(frozen=True, slots=True)
class Line:
    """A cell of a plan; `tuning` None: a call does not come to it."""

    cell: Cell
    fixed: float
    tuning: float | None


def plan(cells: Sequence[Cell], limit: float = LIMIT, tuned: bool = True) -> list[Line]:
    """What one call would do if all takes as long as expected."""
    left, out = limit - START, []
    for at, cell in enumerate(cells):
        fixed = fixed_seconds(cell)
        seconds = tuning_seconds(cells[at:], left) if tuned else 0.0 if left >= fixed else None
        if seconds is not None:
            left -= fixed + seconds
        out.append(Line(cell, fixed, seconds))
    return out


def plan_text(shard: str, lines: Sequence[Line], limit: float) -> str:
    """A plan as it is printed."""
    rows = [f"{shard}: {len(lines)} cells, {limit:.0f} s a call"]
    total = START
    for x in lines:
        when = (
            "not in this call"
            if x.tuning is None
            else f"{x.fixed:6.1f} s + tuning {x.tuning:5.1f} s"
        )
        total += 0.0 if x.tuning is None else x.fixed + x.tuning
        more = f"  torch.compile {', '.join(x.cell.compiled)}" if x.cell.compiled else ""
        rows.append(f"  {x.cell.name:44} {when}{more}")
    rest = sum(x.tuning is None for x in lines)
    rows.append(f"  in all {total:.0f} s" + (f"; {rest} cells for another call" if rest else ""))
    return "\n".join(rows)


def calls_needed(cells: Sequence[Cell], limit: float = LIMIT) -> int:
    """How many calls the cells of a shard need, as far as expectations go."""
    count = 0
    while cells:
        rest = [x.cell for x in plan(cells, limit) if x.tuning is None]
        if len(rest) == len(cells):
            return count + len(rest)  # not one fits: a call each would have to be longer
        cells, count = rest, count + 1
    return count
