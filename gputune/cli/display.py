"""What does the command line look like? Consoles, tables, and the live view of a tuning."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gputune.figures import duration, plain, rate

if TYPE_CHECKING:
    from gputune.meta_schedule import Progress

_LINE_SECONDS = 2.0  # between two lines where there is no terminal
_FRAMES = 8  # a second


def console(*, stderr: bool = False) -> Any:
    """A `rich` console; what is not a terminal gets lines that are not cut."""
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found = Console(
            stderr=stderr, highlight=False, markup=False, emoji=False, width=200, soft_wrap=True
        )
    return found


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> Any:
    """A plain table; `right` are the columns of numbers."""
    from rich.table import Table
    from rich.text import Text

    out = Table(box=None, pad_edge=False, header_style="bold")
    for at, name in enumerate(head):
        out.add_column(name, justify="right" if at in right else "left", overflow="fold")
    for row in rows:
        out.add_row(*(Text(plain(c)) for c in row))
    return out


class Live:
    """Shows a tuning while it runs: one block that is redrawn on a terminal, else a line every two
    seconds. Use it in a `with`, and give `update` to `gputune.tune`."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.console = console(stderr=True)
        self._live: Any = None
        self._last = 0.0
        self._now: Progress | None = None
        self._seen = 0.0
        self.history: list[tuple[float, float]] = []

    def __enter__(self) -> Live:
        if self.console.is_terminal:
            from rich.live import Live as RichLive

            self._live = RichLive(
                console=self.console,
                refresh_per_second=_FRAMES,
                transient=True,
                get_renderable=self._drawn,
            )
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, e, tb)

    def update(self, now: Progress) -> None:
        """Take in where the tuning stands."""
        best = now.best_seconds
        if best is not None and (not self.history or best < self.history[-1][1]):
            self.history.append((now.elapsed_s, best))
        self._now = now
        if self._live is None and (time.monotonic() - self._last >= _LINE_SECONDS or _done(now)):
            self._last = time.monotonic()
            self.console.print(line(now))
        self._seen = time.monotonic()

    def _drawn(self) -> Any:
        """The block as it is at this moment; called for every frame."""
        from rich.text import Text

        if self._now is None:
            return Text(f"tuning {self.title}", "bold")
        since = 0.0 if _done(self._now) else time.monotonic() - self._seen
        now = replace(self._now, elapsed_s=self._now.elapsed_s + since)
        return view(self.title, now, self.history)


def _done(now: Progress) -> bool:
    return now.phase in ("done", "interrupted")


def left(now: Progress) -> str:
    """How long it will take still, as far as the limits tell."""
    spans = []
    if now.seconds is not None:
        spans.append(now.seconds - now.elapsed_s)
    if 0 < now.trials <= now.max_trials and not _unlimited(now):
        spans.append(now.elapsed_s / now.trials * (now.max_trials - now.trials))
    if not spans:
        return ""
    return f"{max(0.0, min(spans)):.0f} s left"


def _unlimited(now: Progress) -> bool:
    from gputune.meta_schedule.tune import UNLIMITED

    return now.max_trials >= UNLIMITED


def _trials(now: Progress) -> str:
    return f"{now.trials}" if _unlimited(now) else f"{now.trials}/{now.max_trials}"


def failed(now: Progress) -> str:
    """How many candidates failed, and why."""
    if not now.failures:
        return "0 failed"
    reasons = ", ".join(f"{n} {plain(reason)}" for reason, n in now.failures.most_common())
    return f"{now.failures.total()} failed ({reasons})"


def best(now: Progress) -> str:
    """The best time and speed so far."""
    seconds = now.best_seconds
    if seconds is None:
        return "no result yet"
    return f"best {duration(seconds)}, {rate(now.task.flop, seconds)} GFLOP/s"


def line(now: Progress) -> str:
    """Where a tuning stands, in one line."""
    parts = (f"{_trials(now)} trials", failed(now), best(now), f"{now.elapsed_s:.0f} s", left(now))
    return f"{now.phase:<8} " + ", ".join(p for p in parts if p)


def view(title: str, now: Progress, history: Sequence[tuple[float, float]]) -> Any:
    """Where a tuning stands, drawn."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    done, total = (now.trials, now.max_trials)
    if now.seconds is not None and (
        _unlimited(now) or now.elapsed_s / now.seconds > now.trials / max(1, now.max_trials)
    ):
        done, total = round(now.elapsed_s * 10), max(1, round(now.seconds * 10))
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=max(1, total), completed=min(done, total), width=40),
        Text(f"{now.phase}"),
        Text(left(now), style="dim"),
    )
    facts = Table.grid(padding=(0, 2))
    facts.add_row(Text("trials", style="dim"), Text(f"{_trials(now)} in {now.elapsed_s:.0f} s"))
    style = "yellow" if now.failures else ""
    facts.add_row(Text("failed", style="dim"), Text(failed(now).replace(" failed", ""), style))
    facts.add_row(Text("best", style="dim"), Text(best(now).removeprefix("best "), "bold green"))
    return Group(Text(f"tuning {title}", "bold"), bar, facts, *steps(history))


def steps(history: Sequence[tuple[float, float]], most: int = 6) -> list[Any]:
    """The bests, as bars: the longer, the slower."""
    from rich.text import Text

    if len(history) < 2:
        return []
    shown = list(history)[-most:]
    slowest = max(s for _, s in shown)
    out = [Text("")]
    for at, (elapsed, seconds) in enumerate(shown):
        width = max(1, round(30 * seconds / slowest))
        style = "green" if at == len(shown) - 1 else "blue"
        out.append(
            Text.assemble(
                (f"{elapsed:5.1f} s  ", "dim"), ("\u2588" * width, style), f" {duration(seconds)}"
            )
        )
    return out
