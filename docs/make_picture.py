"""Draws docs/tuning.svg: what `gputune tune matmul` shows, from a real run on this machine."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

import gputune as gt
from gputune.cli import display
from gputune.meta_schedule import Progress


def main(seconds: float) -> None:
    """Tune, and draw the last state of the live view and the comparison below it."""
    history: list[tuple[float, float]] = []
    last: list[Progress] = []

    def note(now: Progress) -> None:
        last[:] = [now]
        best = now.best_seconds
        if best is not None and (not history or best < history[-1][1]):
            history.append((now.elapsed_s, best))

    kernel = gt.kernels.get("matmul")
    func = kernel.build()
    tuned = gt.tune(func, "llvm", seconds, progress=note)
    a, b = (np.random.default_rng(i).random((128, 128), dtype=np.float32) for i in (1, 2))
    found = gt.bench({"numpy": np.matmul, "unscheduled": func, "tuned": tuned}, (a, b))
    console = Console(record=True, width=84, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ gputune tune matmul --seconds {seconds:.0f}\n", "dim"))
    title = "matmul (m=128, n=128, k=128) float32"
    console.print(display.view(title, last[0], history))
    console.print()
    console.print(found.rich_table())
    out = Path(__file__).parent / "tuning.svg"
    console.save_svg(str(out), title="gputune")
    out.write_text("\n".join(x.rstrip() for x in out.read_text().splitlines()) + "\n")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
