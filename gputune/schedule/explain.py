"""What did each instruction of a trace do to the program? The trace again, a step at a time.

Programs are shown by the one printer, so a step's difference reads like two neighbouring lines of
a program by hand.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ScheduleError, UserError
from ..ir.nodes import IRModule
from .trace import Trace

if TYPE_CHECKING:
    from .schedule import Schedule

_CONTEXT = 2


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One instruction.

    Attributes:
        number: its place in the trace, from 1.
        line: the instruction as Python, with its decision.
        postproc: does it come after `enter_postproc`?
        before, after: the programs.
        error: why it was refused (the last step of a trace that does not apply), or "".
    """

    number: int
    line: str
    postproc: bool
    before: IRModule
    after: IRModule
    error: str = ""

    @property
    def changes(self) -> bool:
        """Is the program another one after it? Looking up and sampling leave it as it is."""
        return self.before is not self.after

    def diff(self, context: int = _CONTEXT) -> str:
        """The lines of the program that differ, with some around them; "" if none do."""
        if not self.changes:
            return ""
        lines = difflib.unified_diff(
            self.before.script().splitlines(),
            self.after.script().splitlines(),
            lineterm="",
            n=context,
        )
        return "\n".join(list(lines)[2:])  # without the names of files

    def __str__(self) -> str:
        out = f"step {self.number}: {self.line}"
        if self.error:
            return f"{out}\n  refused: {self.error}"
        found = self.diff()
        return f"{out}\n{found}" if found else out


class Explanation(Sequence[Step]):
    """The steps of a trace; prints as those that change the program, with their differences.

    Attributes:
        steps: all of them.
        hidden: instructions after `enter_postproc` that were left out.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> sch.vectorize(j)
        >>> [s.number for s in sch.explain() if s.changes]
        [3]
    """

    def __init__(self, steps: Sequence[Step], hidden: int = 0) -> None:
        self.steps = list(steps)
        self.hidden = hidden

    def __getitem__(self, index: Any) -> Any:
        return self.steps[index]

    def __len__(self) -> int:
        return len(self.steps)

    def step(self, number: int) -> Step:
        """The step of a number, from 1; UserError if there is none."""
        if not 1 <= number <= len(self.steps):
            more = " without those of postprocessing" if self.hidden else ""
            raise UserError(
                f"there is no step {number}: the trace has {len(self.steps)}{more}",
                hint="postproc=True (--postproc) takes in what follows enter_postproc"
                if self.hidden
                else "",
                code="step",
            )
        return self.steps[number - 1]

    @property
    def changing(self) -> list[Step]:
        """The steps after which the program is another one, and one that was refused."""
        return [s for s in self.steps if s.changes or s.error]

    def note(self) -> str:
        """How many steps there are, how many of them change the program, what was left out."""
        out = f"{len(self.steps)} steps, {sum(s.changes for s in self.steps)} change the program"
        return out + (f"; {self.hidden} of postprocessing are not shown" if self.hidden else "")

    def __str__(self) -> str:
        return "\n\n".join([*map(str, self.changing), self.note()])

    __repr__ = __str__


def explain(mod: IRModule, trace: Trace, postproc: bool = False) -> Explanation:
    """The steps of a trace on a program. A trace that does not apply ends with the step that was
    refused.

    Args:
        mod: the program before any primitive.
        trace: what was done to it.
        postproc: also what follows `enter_postproc`.
    """
    cut = _entrance(trace)
    shown = trace.insts if postproc else trace.insts[:cut]
    return Explanation(list(_steps(mod, trace, len(shown), cut)), len(trace.insts) - len(shown))


def explain_schedule(self: Schedule, postproc: bool = False) -> Explanation:
    """What each instruction of the trace did to the program.

    Args:
        postproc: also what follows `enter_postproc`.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> sch.reorder(j, i)
        >>> print(sch.explain().step(3).diff(context=0))
        @@ -6 +6 @@
        -        for i, j in T.grid(8, 8):
        +        for j, i in T.grid(8, 8):
    """
    return explain(self._original, self.trace, postproc)


def _entrance(trace: Trace) -> int:
    for k, inst in enumerate(trace.insts):
        if inst.kind.name == "EnterPostproc":
            return k
    return len(trace.insts)


def _steps(mod: IRModule, trace: Trace, count: int, cut: int) -> Iterator[Step]:
    from .schedule import Schedule

    sch = Schedule(mod, seed=1, error_render_level="none")
    lines = trace.as_python()
    table: dict[Any, Any] = {}
    for k, inst in enumerate(trace.insts[:count]):
        before = sch.mod
        try:
            trace.continue_on(sch, table, [inst])
        except ScheduleError as e:
            yield Step(k + 1, lines[k], k >= cut, before, before, e.message)
            return
        yield Step(k + 1, lines[k], k >= cut, before, sch.mod)
