"""Is every barrier of a candidate needed where it stands, and is its absence seen?

A mutant has one barrier less, or one that has moved past the statement before or after it (out of
the loop where there is none). Two judges are asked about each, which know nothing of each other:
lowering counts out whether threads then meet (`has_enough`), and host execution runs the mutant and
looks for races, undefined values and wrong numbers. Where both find nothing the mutant is
equivalent, and proved to be; where they disagree, one of the two is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.host.execution import ORDERS
from gputune.codegen.cuda.kernel import generate_lowered
from gputune.errors import LowerError
from gputune.ir import build
from gputune.ir.nodes import Alloc, For, IfThenElse, LetStmt, Seq, Stmt
from gputune.ir.walk import walk_stmt
from gputune.lower.barriers import barrier, has_enough, is_barrier
from gputune.lower.gpu import GpuProgram, lower_gpu
from gputune.lower.kernels import GpuKernel, inner, with_inner

from .candidates import Candidate, arguments, executed

Line: TypeAlias = list[int]
_FINDINGS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Mutant:
    """A candidate with one barrier changed.

    Attributes:
        what: the change in words.
        candidate: with the code of the mutant.
        at, kernel: the one that was changed, lowered, and which of the program's it is.
    """

    what: str
    candidate: Candidate
    at: int
    kernel: GpuKernel


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is thought of a mutant.

    Attributes:
        counted: do threads meet, as lowering counts it?
        seen: the kinds of findings of the first order of threads that has some; () if none has.
        order: that order, or "".
    """

    counted: bool
    seen: tuple[str, ...]
    order: str

    @property
    def agreed(self) -> bool:
        """Do the two judges say the same?"""
        return self.counted == bool(self.seen)


def barriers_of(candidate: Candidate) -> int:
    """How many barriers all kernels of a candidate have."""
    return sum(is_barrier(s) for k in lower_gpu(candidate.func).kernels for s in walk_stmt(
        inner(k.func)[1]
    ))  # fmt: skip


def mutants(candidate: Candidate) -> Iterator[Mutant]:
    """Every barrier of every kernel dropped, and moved up and down by a statement."""
    program = lower_gpu(candidate.func)
    for at, kernel in enumerate(program.kernels):
        _, body = inner(kernel.func)
        for what, changed in changes(body):
            new = replace(kernel, func=with_inner(kernel.func, changed))
            kernels = (*program.kernels[:at], new, *program.kernels[at + 1 :])
            mutated = GpuProgram(kernels, program.workspaces)
            source = generate_lowered(candidate.func, mutated)
            yield Mutant(f"{kernel.name}: {what}", replace(candidate, source=source), at, new)


def judged(candidate: Candidate) -> Iterator[tuple[Mutant, Verdict]]:
    """Every mutant with both verdicts on it.

    They are compiled and run together, in one order of the threads. Those of which nothing is found
    then are run by themselves: in all orders, and their results are looked at.
    """
    every = list(mutants(candidate))
    together = _together(candidate, every) if every else {}
    for k, m in enumerate(every):
        try:
            counted = not has_enough(m.kernel.func)
        except LowerError:  # one more barrier would be needed where it cannot stand
            counted = True
        if k in together:
            yield m, Verdict(counted, together[k], ORDERS[0])
        else:
            yield m, _alone(m, counted)


def _alone(m: Mutant, counted: bool) -> Verdict:
    for order in ORDERS:
        found = executed(m.candidate, (order,)).findings
        if found:
            return Verdict(counted, tuple(dict.fromkeys(f.kind for f in found)), order)
    return Verdict(counted, (), "")


def _together(candidate: Candidate, every: list[Mutant]) -> dict[int, tuple[str, ...]]:
    """The kinds of what is found in the changed kernels, by the number of the mutant."""
    program = lower_gpu(candidate.func)
    named = [replace(m.kernel, name=f"{m.kernel.name}_m{k}") for k, m in enumerate(every)]
    kernels = (*program.kernels, *named)
    source = generate_lowered(candidate.func, GpuProgram(kernels, program.workspaces))
    launches = source.host.launches
    plain, changed = launches[: len(program.kernels)], launches[len(program.kernels) :]
    steps = [
        changed[k] if at == m.at else launch
        for k, m in enumerate(every)
        for at, launch in enumerate(plain)
    ]
    whole = replace(source, host=replace(source.host, steps=tuple(steps)))
    values, _ = arguments(candidate)
    report = host_run(host_compile(whole), values, order=ORDERS[0], max_findings=_FINDINGS)
    found: dict[str | None, list[str]] = {}
    for f in report.findings:
        found.setdefault(f.kernel, []).append(f.kind)
    return {
        k: tuple(dict.fromkeys(found[x.kernel])) for k, x in enumerate(changed) if x.kernel in found
    }


# ----------------------------------------------------------------------------- changes
def changes(body: Stmt) -> Iterator[tuple[str, Stmt]]:
    """The body of a kernel with one barrier dropped or moved, and what was done."""
    lines, owners = _lines(body)
    numbered = list(walk_stmt(body))
    for line, owner in zip(lines, owners, strict=True):
        for k, n in enumerate(line):
            if not is_barrier(numbered[n]):
                continue
            yield f"barrier {n} dropped", _edited(body, n)
            before = line[k - 1] if k else owner
            after = line[k + 1] if k + 1 < len(line) else owner
            if before is not None:
                what = "moved up" if k else "moved out, up"
                yield f"barrier {n} {what}", _edited(body, n, before=before)
            if after is not None:
                what = "moved down" if k + 1 < len(line) else "moved out, down"
                yield f"barrier {n} {what}", _edited(body, n, after=after)


def _lines(body: Stmt) -> tuple[list[Line], list[int | None]]:
    """The statements that run one after the other, by their number in the order of the program, and
    the loop or condition that each line of them is in (None: it is the whole kernel)."""
    lines: list[Line] = []
    owners: list[int | None] = []
    numbers = itertools.count()

    def line_in(owner: int | None, s: Stmt) -> None:
        lines.append([])
        owners.append(owner)
        go(s, lines[-1])

    def go(s: Stmt, line: Line) -> None:
        n = next(numbers)
        match s:
            case Seq():
                for x in s.items:
                    go(x, line)
            case Alloc() | LetStmt():
                go(s.body, line)
            case For():
                line.append(n)
                line_in(n, s.body)
            case IfThenElse():
                line.append(n)
                line_in(n, s.then)
                if s.orelse is not None:
                    line_in(n, s.orelse)
            case _:
                line.append(n)

    line_in(None, body)
    return lines, owners


def _edited(body: Stmt, drop: int, before: int | None = None, after: int | None = None) -> Stmt:
    """The body without statement `drop`, and with a barrier at another place."""
    numbers = itertools.count()

    def go(s: Stmt) -> Stmt | None:
        n = next(numbers)
        new: Stmt | None = s
        match s:
            case Seq():
                new = build.seq(*[go(x) for x in s.items])
            case Alloc():
                new = Alloc(s.buffer, inside(s.body))
            case LetStmt():
                new = LetStmt(s.var, s.value, inside(s.body))
            case For():
                new = For(s.var, s.min, s.extent, s.kind, inside(s.body), s.thread, s.annotations)
            case IfThenElse():
                then = inside(s.then)
                new = IfThenElse(s.cond, then, None if s.orelse is None else inside(s.orelse))
        if n == drop:
            new = None
        if n == before:
            new = build.seq(barrier(), new)
        if n == after:
            new = build.seq(new, barrier())
        return new

    def inside(s: Stmt) -> Stmt:
        out = go(s)
        assert out is not None  # no line is a barrier alone
        return out

    return inside(body)
