"""Which schedule does a database have for a program?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import GputuneError, UserError
from ..ir.nodes import IRModule, PrimFunc
from ..schedule import Schedule
from ..target import Target
from ..target.target import TargetLike
from .admission import Admitted, admitted
from .database import Database, ScheduleFnDatabase
from .logging import console
from .module_equality import as_module
from .record import TuningRecord

if TYPE_CHECKING:
    from .runner import Runner
    from .verify import Checker


def compile_tir(
    database: Database,
    mod: IRModule | PrimFunc,
    target: TargetLike,
    *,
    allow_other_device: bool | None = None,
    verify: bool = False,
    reference: Callable[..., Any] | None = None,
    runner: str | Runner = "local",
) -> Schedule | None:
    """The best schedule of a program, or None if the database has none.

    In a module of several functions each gets its own best schedule; functions of which the
    database knows nothing stay as they are.

    What the database holds is not believed: the scheduled program is compiled and run in a worker
    process first, and its numbers are compared with the unscheduled program's. That takes some
    tenths of a second, once for each program (a result of this user's own tunings on this machine
    was checked before). A record that fails is withdrawn, with a warning, and the next best is
    taken. Where nothing can be compared (the unscheduled program takes too long; programs for a GPU
    are not run here) a schedule is returned all the same, unless `verify` is asked for.

    Args:
        database: where records are.
        mod: the program.
        target: what the schedule will be compiled for.
        verify: return only a schedule whose numbers were compared and are right, whatever the
            target; else None.
        reference: a function of the inputs that says what is right, in place of the unscheduled
            program (`reference.Reference`); asks for `verify`. For a program of one function.
        runner: where to run for that: "local", "cuda", "host" (CUDA programs on the processor), or
            a runner.
        allow_other_device: take what was measured on other machines, too, where there is nothing
            better; None: as the database says.

    Raises:
        UserError: nothing can be run for this target here; or `reference` is no such function.

    Example:
        >>> sch = compile_tir(database, matmul, "llvm")
        >>> sch = compile_tir(database, matmul, "llvm", reference=lambda a, b: a @ b)
    """
    if not verify and reference is None:
        return best_schedule(database, mod, target, allow_other_device=allow_other_device)
    whole, chosen = as_module(mod), Target(target)
    if reference is not None and len(whole.functions) > 1:
        raise UserError(
            f"reference is of one function, and the module has {len(whole.functions)}",
            hint="ask for one function at a time",
            code="reference",
        )

    def checker_of(alone: IRModule) -> Checker | None:
        one = len(alone.functions) == 1
        return checker_for(alone, chosen, runner, reference) if one else None

    return best_schedule(
        database, whole, chosen, strict=True, checker_of=checker_of,
        allow_other_device=allow_other_device,
    )  # fmt: skip


def checker_for(
    mod: IRModule,
    target: Target,
    runner: str | Runner = "local",
    reference: Callable[..., Any] | None = None,
) -> Checker:
    """What compares a program's schedules with it, or with what a function says is right.

    Raises:
        UserError: nothing can be run for this target here.
    """
    from ..target.host import cuda_problem
    from .host_runner import HostExecutionRunner
    from .runner import Runner
    from .task_scheduler import verifier_of

    chosen = Runner.create(runner)
    problem = None
    if target.kind == "cuda" and not isinstance(chosen, HostExecutionRunner):
        problem = cuda_problem()
    found = None
    if problem is None:
        found = verifier_of(mod, target, chosen, lambda: random.randrange(1, 2**30), reference)
    if found is None:
        raise UserError(
            f"a schedule for {target.kind} cannot be verified here: "
            f"{problem or 'this runner runs no such programs'}",
            hint='runner="host" runs CUDA programs on the processor',
            code="verify",
        )
    return found


def verified_record(
    database: Database,
    mod: IRModule | PrimFunc,
    target: TargetLike,
    reference: Callable[..., Any] | None = None,
    runner: str | Runner = "local",
    *,
    allow_other_device: bool | None = None,
) -> TuningRecord | None:
    """The best record of a program whose numbers are right; see `compile_tir`."""
    whole, chosen = as_module(mod), Target(target)
    checker = checker_for(whole, chosen, runner, reference)
    found = next(
        usable(
            database, whole, chosen, strict=True, checker=checker,
            allow_other_device=allow_other_device,
        ),
        None,
    )  # fmt: skip
    return None if found is None else found.record


def best_schedule(
    database: Database,
    mod: IRModule | PrimFunc,
    target: TargetLike,
    *,
    believe_own: bool = False,
    allow_other_device: bool | None = None,
    strict: bool = False,
    checker_of: Callable[[IRModule], Checker | None] = lambda mod: None,
) -> Schedule | None:
    """`compile_tir`; with `believe_own`, what this process measured is taken without a check.

    Args:
        strict: return only what was compared and found right.
        checker_of: gives what checks the schedules of a program; None: the usual one.
    """
    whole, chosen = as_module(mod), Target(target)
    if isinstance(database, ScheduleFnDatabase):  # the caller's own function, not a file
        return _own_schedule(database, whole, chosen, checker_of(whole) if strict else None)

    def found_for(program: IRModule) -> Iterator[Admitted]:
        return usable(
            database, program, chosen, believe_own=believe_own, strict=strict,
            allow_other_device=allow_other_device, checker_of=checker_of,
        )  # fmt: skip

    best = next(found_for(whole), None)
    if best is not None:
        return best.schedule
    if len(whole.functions) < 2 and not whole.graphs:
        return None
    sch = Schedule(whole, error_render_level="fast")
    tuned = 0
    for name, func in whole.functions.items():
        alone = IRModule({name: func})
        for found in found_for(alone):
            attempt = sch.copy()
            attempt.work_on(name)
            try:
                found.schedule.trace.apply_to_schedule(attempt, remove_postproc=False)
            except GputuneError:
                continue
            sch, tuned = attempt, tuned + 1
            break
    return sch if tuned else None


def _own_schedule(
    database: ScheduleFnDatabase, mod: IRModule, target: Target, checker: Checker | None
) -> Schedule | None:
    """What the caller's function makes of a program, checked where there is a checker."""
    sch = database.query_schedule(mod, target, next(iter(mod.functions), "main"))
    if sch is None or checker is None:
        return sch
    verdict = checker.check_program(sch.mod)
    if verdict.outcome == "right":
        return sch
    why = "" if verdict.failure is None else f": {verdict.failure.message}"
    console().warning("The function's schedule is %s%s", verdict.outcome, why)
    return None


def usable(
    database: Database,
    mod: IRModule,
    target: Target,
    *,
    believe_own: bool = False,
    allow_other_device: bool | None = None,
    strict: bool = False,
    checker: Checker | None = None,
    checker_of: Callable[[IRModule], Checker | None] = lambda mod: None,
) -> Iterator[Admitted]:
    """The records of a program that may be used, the best first; see `admitted`."""
    if allow_other_device is None:  # a class of the user's may have two parameters only
        records = database.candidates(mod, target)
    else:
        records = database.candidates(mod, target, allow_other_device)
    if checker is None and records:
        checker = checker_of(mod)
    return admitted(
        records, mod, target, checker=checker, database=database, believe_own=believe_own,
        strict=strict,
    )  # fmt: skip
