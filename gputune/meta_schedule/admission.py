"""May a record's program run in this process? Only after it ran, with right numbers, in another.

Record files are data from anywhere: a trace that applies can still make a program that is wrong,
never ends, or writes where it should not. Before a schedule is handed out, its program is compiled
and run in a worker process under the limits of candidates, and its numbers are compared with the
unscheduled program's. That happens once: what was checked is known by its digest (see `proofs`). A
program that fails is withdrawn, and the next best record has its turn.

Targets of which this process runs no code (all but llvm) need a checker of their own; without one
their schedules are handed out unchecked.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from ..errors import GputuneError
from ..ir.equal import structural_hash
from ..ir.nodes import IRModule
from ..runtime.process import Worker
from ..schedule import Schedule
from ..target import Target
from . import proofs
from .database import Database, replay
from .failures import Failure
from .logging import console
from .record import TuningRecord
from .trace_apply import is_of, schedule_for
from .verify import Checker, Verdict, Verifier

# Where the unscheduled program takes longer than that, a record's program is run by itself.
_LONGEST_S = 10.0
# Records whose claim to have been verified is looked into when a tuning begins.
_CLAIMS = 8
_MOST_VERIFIERS = 64

_busy = threading.RLock()  # of the worker and of the verifiers
_verifiers: dict[tuple[str, str], Verifier] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Admitted:
    """A record whose program may run here, and its schedule."""

    record: TuningRecord
    schedule: Schedule


def admitted(
    records: Iterable[TuningRecord],
    mod: IRModule,
    target: Target,
    *,
    checker: Checker | None = None,
    database: Database | None = None,
    believe_own: bool = False,
    strict: bool = False,
) -> Iterator[Admitted]:
    """Those of some records of a program that may be used, in their order; each is checked when it
    is asked for.

    Args:
        records: the best first, as `Database.candidates` gives them.
        mod: the program.
        target: what the schedule will be compiled for.
        checker: what checks; default: a `Verifier` with a worker process of its own.
        database: where records that fail are withdrawn for good; None: this process remembers.
        believe_own: take what this process measured itself without a check.
        strict: take only what was compared and found right, also where nothing can be compared.
    """
    name = next(iter(mod.functions), "main")
    for record in records:
        try:
            sch = schedule_for(record, mod, target, name)
            own = is_of(record, mod)
        except (GputuneError, RecursionError):
            continue  # queries pass it over, too
        if believe_own and record.own and own and not strict:
            yield Admitted(record, sch)
            continue
        verdict = _verdict_on(record, sch.mod, mod, target, checker)
        if verdict.outcome == "wrong":
            if own:  # for a similar program it may be right all the same
                _withdraw(record, sch, target, verdict, database)
        elif verdict.outcome == "right":
            yield Admitted(record, sch)
        elif strict:
            why = "" if verdict.failure is None else f": {_safe(verdict.failure.message)}"
            console().warning("A record's numbers cannot be compared, and it is not used%s", why)
        elif verdict.outcome != "unknown" or record.own:
            yield Admitted(record, sch)


def check_scheduled(
    workload: IRModule, scheduled: IRModule, target: Target, checker: Checker | None = None
) -> Verdict:
    """Check a scheduled program of a workload in a worker process, unless it has been.

    Returns:
        "right"; "wrong", with the reason; "ran" where the unscheduled program cannot be run (or not
        in reasonable time) and this one does no harm; "unknown" where it could not be run at all.
    """
    names, found = list(workload.functions), list(scheduled.functions)
    if len(names) == len(found) == 1:
        pairs = [(workload, scheduled)]
    elif names == found:
        pairs = [(IRModule({n: workload[n]}), IRModule({n: scheduled[n]})) for n in names]
    else:
        reason = f"the functions are {', '.join(found)}, not {', '.join(names)}"
        return Verdict("wrong", Failure("check", "wrong_result", reason))
    worst = Verdict("right")
    for before, after in pairs:
        verdict = _check(before, after, target, checker)
        if verdict.outcome == "wrong":
            return verdict
        if worst.outcome == "right" or verdict.outcome == "unknown":
            worst = verdict
    return worst


def known_seconds(records: Iterable[TuningRecord], mod: IRModule, target: Target) -> float | None:
    """The least time of those records of exactly this target whose numbers are known to be right.

    Nothing is run, and only the fastest few that claim to have been checked are looked at.
    """
    export = target.export()
    claims = 0
    for record in records:
        if record.target_json() != export:
            continue
        if record.verified:
            return record.seconds
        if record.extras.get("verified") is not True or claims == _CLAIMS:
            continue
        claims += 1
        try:
            verdict = proofs.known(proofs.key_of(mod, replay(record).mod, target))
        except (GputuneError, RecursionError):
            continue
        if verdict is not None and verdict.outcome == "right":
            return record.seconds
    return None


# ----------------------------------------------------------------------------- one program
def _verdict_on(
    record: TuningRecord,
    scheduled: IRModule,
    mod: IRModule,
    target: Target,
    checker: Checker | None,
) -> Verdict:
    if target.kind != "llvm":  # `checker` knows what else its verdicts depend on: no proofs
        if record.verified and not _by_user(checker):
            return Verdict("right")
        if checker is None:
            return Verdict("ran")
        verdict = checker.check_program(scheduled)
    else:
        verdict = check_scheduled(mod, scheduled, target, checker)
    record.verified = verdict.outcome == "right"
    return verdict


def _check(
    workload: IRModule, scheduled: IRModule, target: Target, checker: Checker | None
) -> Verdict:
    if checker is not None and _by_user(checker):  # a proof is not about what a user says is right
        with _busy:
            return checker.check_program(scheduled)
    try:
        key = proofs.key_of(workload, scheduled, target)
    except RecursionError:
        return Verdict("wrong", Failure("build", "too-deep", "the program is nested too deeply"))
    with _busy:
        verdict = proofs.known(key)
        if verdict is None:
            verdict = _run(workload, scheduled, target, checker)
            proofs.note(key, verdict)
    proofs.keep(key)
    return verdict


def _by_user(checker: Checker | None) -> bool:
    return isinstance(checker, Verifier) and checker.by_user


def _run(
    workload: IRModule, scheduled: IRModule, target: Target, checker: Checker | None
) -> Verdict:
    chosen = checker or _verifier(workload, target)
    verdict = chosen.check_program(scheduled)
    if verdict.outcome != "unknown" or not isinstance(chosen, Verifier):
        return verdict
    verdict = chosen.run_program(scheduled)
    if verdict.outcome == "ran":
        console().warning("The numbers of a schedule from a file could not be verified")
    elif verdict.outcome == "unknown":
        why = "" if verdict.failure is None else f": {_safe(verdict.failure.message)}"
        console().warning("A schedule from a file cannot be checked, and is not used%s", why)
    return verdict


@cache
def _worker() -> Worker:
    """The worker process that checks: not the one that measures, which must not be disturbed."""
    return Worker()


def _verifier(workload: IRModule, target: Target) -> Verifier:
    key = (structural_hash(workload), str(target.export()))
    found = _verifiers.get(key)
    if found is None:
        if len(_verifiers) >= _MOST_VERIFIERS:
            _verifiers.clear()
        found = _verifiers[key] = Verifier(workload, target, _worker(), longest_s=_LONGEST_S)
    return found


# ----------------------------------------------------------------------------- withdrawing
def _withdraw(
    record: TuningRecord,
    sch: Schedule,
    target: Target,
    verdict: Verdict,
    database: Database | None,
) -> None:
    """Say that a record is not to be used, in the database if there is one to say it in."""
    failure = verdict.failure
    assert failure is not None
    what = {"wrong_result": "computes wrong results", "crash": "crashes"}.get(
        failure.kind, "cannot be built" if failure.phase == "build" else "does not run"
    )
    console().warning("A record %s and is withdrawn: %s", what, _safe(failure.message))
    if database is None:
        return
    extras = {"withdraws": record.key, "error": failure.as_json()}
    if failure.kind == "wrong_result":  # whatever trace has led to it
        extras["program"] = structural_hash(sch.mod)
    try:
        args_info = record.args_info
    except GputuneError:
        args_info = None  # that is wrong with it, too
    try:
        database.commit_tuning_record(
            TuningRecord(sch.trace, record.workload, None, target, args_info, extras)
        )
    except NotImplementedError:
        return  # a union: its members are not ours to write to
    except GputuneError as e:
        console().warning("That could not be recorded: %s", e.message)


def _safe(text: str) -> str:
    """What a record may have had a say in, fit to be printed."""
    return ascii(text)[1:-1][:400]
