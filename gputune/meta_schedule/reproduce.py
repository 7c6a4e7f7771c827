"""Does a failure happen again? Programs that repeat what failed, and what these call.

`write_reproducers` makes them from the failures file of a work_dir: one for each distinct failure,
with the program, the trace and the target in it. What that file says is data from anywhere: it goes
into the programs as text between quotes, is parsed and never run, and what it describes is compiled
and run in worker processes, under the limits of candidates.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import GputuneError, UserError
from ..ir.nodes import IRModule
from ..schedule import Schedule, Trace
from ..target import Target
from .builder import BuilderInput, BuilderResult, LocalBuilder
from .failures import INFRASTRUCTURE, REFUSED, Failure
from .json_database import make_folder
from .measure_candidate import MeasureCandidate
from .module_equality import as_module
from .runner import Runner, RunnerInput
from .why import FAILURES_FILE, read_lines, safe

AGAIN, OTHERWISE, NOT_ANY_MORE, CANNOT_TELL = 1, 2, 0, 125
"""Exit codes of a reproducer, as `git bisect run` reads them: 0 good, 125 skip, all others bad."""

_CHECKS = 3  # each with other inputs
_LIMIT_S = 30.0  # where the failure does not say
_MOST = 100  # programs that are written
_LONGEST = 4 << 20  # characters of what one is made from


@dataclass(frozen=True, slots=True)
class Case:
    """One distinct failure: the first of its kind.

    Attributes:
        task: the task's name.
        phase, kind, message: of the failure.
        script: the unscheduled program.
        steps: the trace, as JSON.
        target: the target's export.
        runner: the class of what measured.
        limits_s: seconds that a build and a run may take.
        lines: the trace for people.
        count: how many failures are like this one.
    """

    task: str
    phase: str
    kind: str
    message: str
    script: str
    steps: Any
    target: Mapping[str, Any]
    runner: str
    limits_s: tuple[float, float]
    lines: tuple[str, ...]
    count: int = 1

    @property
    def reason(self) -> str:
        """As failures are counted: "run timeout"."""
        return f"{self.phase} {self.kind}"


@dataclass(frozen=True, slots=True)
class Written:
    """What came of it.

    Attributes:
        programs: each with the failure that it repeats.
        remarks: what could not be made, a line each.
    """

    programs: tuple[tuple[Path, Case], ...]
    remarks: tuple[str, ...] = ()


# ----------------------------------------------------------------------------- from the file
def write_reproducers(work_dir: str | Path, into: str | Path, task: str | None = None) -> Written:
    """Write a program for each distinct failure of a work_dir: of each workload, phase, kind and
    message (numbers in it left aside) the first.

    Args:
        work_dir: where a tuning left its failures.
        into: folder for the programs, made if need be.
        task: only this one's.

    Raises:
        UserError: there is no failure to repeat, or the folder cannot be written.

    Example:
        >>> write_reproducers("./tuned", "./failures")  # doctest: +SKIP
    """
    path = Path(work_dir) / FAILURES_FILE
    lines, unread = read_lines(path)
    chosen = [x for x in lines if task is None or x.get("task") == task]
    cases, remarks = distinct(chosen, scripts_of(lines))
    if unread:
        remarks.append(f"{unread} lines of {path} cannot be read and were passed over")
    if not cases:
        said = f" ({'; '.join(remarks)})" if remarks else ""
        raise UserError(f"{path} has no failure to repeat{said}", code="no-failure")
    if len(cases) > _MOST:
        remarks.append(f"{len(cases) - _MOST} more were left out")
        cases = cases[:_MOST]
    make_folder(Path(into))
    programs = []
    for k, case in enumerate(cases, 1):
        name = re.sub(r"[^A-Za-z0-9]+", "_", f"{case.task} {case.reason}").strip("_")[:60]
        target = Path(into) / f"{k:02d}_{name}.py"
        try:
            target.write_text(program_of(case), encoding="utf-8")
        except OSError as e:
            why = e.strerror or e
            raise UserError(f"cannot write {target}: {why}", code="not-writable") from None
        programs.append((target, case))
    return Written(tuple(programs), tuple(remarks))


def scripts_of(lines: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The unscheduled programs that a failures file has, by the workload's digest."""
    out: dict[str, str] = {}
    for line in lines:
        workload, script = line.get("workload"), line.get("script")
        if isinstance(workload, str) and isinstance(script, str):
            out.setdefault(workload, script)
    return out


def distinct(
    lines: Iterable[Mapping[str, Any]], scripts: Mapping[str, str]
) -> tuple[list[Case], list[str]]:
    """The distinct failures among lines, in their order, and what there is to say of the others."""
    first: dict[tuple[str, ...], Mapping[str, Any]] = {}
    counts: dict[tuple[str, ...], int] = {}
    for line in lines:
        if line.get("phase") in (INFRASTRUCTURE, REFUSED, "callback"):
            continue  # no candidate's fault, or no failure
        text = re.sub(r"[0-9]+", "0", str(line.get("message", "")))
        key = (*(str(line.get(name, "")) for name in ("workload", "phase", "kind")), text)
        if key not in first or ("steps" in line and "steps" not in first[key]):
            first[key] = line
        counts[key] = counts.get(key, 0) + 1
    cases, incomplete = [], 0
    for key, line in first.items():
        case = _case(line, scripts.get(key[0]), counts[key])
        if case is None:
            incomplete += counts[key]
        else:
            cases.append(case)
    remarks = []
    if incomplete:
        remarks.append(f"{incomplete} failures lack program, trace or target: of another gputune?")
    return cases, remarks


def _case(line: Mapping[str, Any], script: str | None, count: int) -> Case | None:
    """The failure that a line describes; None if something is missing, or is not what it should
    be."""
    steps, target, lines = line.get("steps"), line.get("target"), line.get("trace")
    if script is None or not isinstance(steps, list) or not isinstance(target, dict):
        return None
    if len(script) + len(json.dumps([steps, target])) > _LONGEST:
        return None
    given = line.get("limits_s")
    limits = [x if _is_limit(x) else _LIMIT_S for x in (given if isinstance(given, list) else ())]
    build_s, run_s = [*limits, _LIMIT_S, _LIMIT_S][:2]
    told = tuple(safe(str(x), 400) for x in lines) if isinstance(lines, list) else ()
    return Case(
        str(line.get("task", "?")), str(line.get("phase", "?")), str(line.get("kind", "?")),
        str(line.get("message", "")), script, steps, target, str(line.get("runner", "")),
        (float(build_s), float(run_s)), told, count,
    )  # fmt: skip


def _is_limit(x: Any) -> bool:
    return type(x) in (int, float) and 0 < x < math.inf


# ----------------------------------------------------------------------------- the program
_PROGRAM = '''#!/usr/bin/env python3
"""Does a candidate still fail? Written by `gputune why --reproduce` from a failure that was met.

The exit code says it: 1 it fails in the same way, 2 in another way, 0 it does not fail any more,
125 it cannot be tried here.
"""

# task:    {task}
# failure: {reason}: {message}
# met:     {count} time(s)
# trace:
{lines}

import sys

from gputune.meta_schedule.reproduce import repeat

PROGRAM = "\\n".join([
{script}
])

STEPS = {steps}

TARGET = {target}

if __name__ == "__main__":
    sys.exit(
        repeat(
            PROGRAM, STEPS, TARGET,
            phase={phase!r}, kind={kind!r}, runner={runner!r}, limits_s={limits!r},
        )
    )
'''


def program_of(case: Case) -> str:
    """The text of the program that repeats a failure. All that comes from the file stands in
    comments, a line each, or in quotes."""
    return _PROGRAM.format(
        task=safe(case.task),
        reason=safe(case.reason),
        message=safe(case.message, 400),
        count=case.count,
        lines="\n".join(f"#   {x}" for x in case.lines) or "#   (not known)",
        script="\n".join(f"    {x!r}," for x in case.script.split("\n")),
        steps=repr(json.dumps(case.steps)),
        target=repr(json.dumps(case.target)),
        phase=case.phase,
        kind=case.kind,
        runner=case.runner,
        limits=case.limits_s,
    )


# ----------------------------------------------------------------------------- what it calls
def repeat(
    program: str,
    steps: str,
    target: str,
    *,
    phase: str,
    kind: str,
    runner: str = "LocalRunner",
    limits_s: tuple[float, float] = (_LIMIT_S, _LIMIT_S),
    say: Callable[[str], None] = print,
) -> int:
    """Make a candidate anew, and build, run and check it as far as the phase in which it failed.

    Args:
        program: the script of the unscheduled program.
        steps, target: the trace and the target's export, as JSON text.
        phase, kind: of the failure.
        runner: the class of what had measured: "HostExecutionRunner", or that of this machine.
        limits_s: seconds that a build and a run may take.
        say: is told what happens.

    Returns:
        1: it fails in the same way, 2: in another way, 0: it does not fail, 125: that cannot be
        found out here.
    """
    from ..script import from_source

    try:
        mod = as_module(from_source(program))
        sch = Schedule(mod, error_render_level="fast")
        Trace.from_json(steps).apply_to_schedule(sch, remove_postproc=False)
        chosen = Target(json.loads(target))
        found = _attempt(mod, sch, chosen, phase, runner, limits_s)
    except (GputuneError, ValueError, TypeError, RecursionError) as e:
        say(f"cannot be tried: {e}")
        return CANNOT_TELL
    if found is None:
        say(f"does not fail any more (it was: {safe(phase)} {safe(kind)})")
        return NOT_ANY_MORE
    if found.infrastructure:
        say(f"cannot be tried: {safe(str(found), 2000)}")
        return CANNOT_TELL
    if (found.phase, found.kind) == (phase, kind):
        say(f"still fails: {safe(str(found), 2000)}")
        return AGAIN
    say(f"fails otherwise, it was {safe(phase)} {safe(kind)}: {safe(str(found), 2000)}")
    return OTHERWISE


def _attempt(
    mod: IRModule,
    sch: Schedule,
    target: Target,
    phase: str,
    runner: str,
    limits_s: tuple[float, float],
) -> Failure | None:
    """Why a candidate fails, up to a phase; None if it does not."""
    from .measure_callback import remove_artifacts

    build_s, run_s = limits_s
    (built,) = LocalBuilder(1, timeout_sec=build_s).build([BuilderInput(sch.mod, target)])
    try:
        if built.problem is not None or phase == "build":
            return built.problem
        kind = "host" if runner == "HostExecutionRunner" else "local"
        with_runner = Runner.create(kind, timeout_sec=run_s)
        candidate = MeasureCandidate.of(sch)
        device = "cpu" if target.kind == "llvm" else target.kind
        given = RunnerInput(str(built.artifact_path), device, candidate.args_info)
        (future,) = with_runner.run([given])
        problem = future.result().problem
        if problem is not None or phase == "run":
            return problem
        return _checked(mod, target, with_runner, candidate, built)
    finally:
        remove_artifacts([built])


def _checked(
    mod: IRModule,
    target: Target,
    runner: Runner,
    candidate: MeasureCandidate,
    built: BuilderResult,
) -> Failure | None:
    """Compare with the unscheduled program, on several inputs."""
    from .judgement import check_built
    from .task_scheduler import verifier_of

    seeds = iter(range(1, 1000))
    for _ in range(_CHECKS):
        verifier = verifier_of(mod, target, runner, lambda: next(seeds))
        if verifier is None:
            break
        verdict = check_built(verifier, mod, target, candidate, built)
        if verdict.outcome == "wrong":
            return verdict.failure
        if verdict.outcome == "unknown":
            break
    else:
        return None
    return Failure(INFRASTRUCTURE, "unchecked", "its numbers cannot be checked here")
