"""Which schedule does a database have for a program?"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import GputuneError
from ..ir.nodes import IRModule, PrimFunc
from ..schedule import Schedule
from ..target import Target
from ..target.target import TargetLike
from .admission import Admitted, admitted
from .database import Database, ScheduleFnDatabase
from .module_equality import as_module


def compile_tir(
    database: Database,
    mod: IRModule | PrimFunc,
    target: TargetLike,
    *,
    allow_other_device: bool | None = None,
) -> Schedule | None:
    """The best schedule of a program, or None if the database has none.

    In a module of several functions each gets its own best schedule; functions of which the
    database knows nothing stay as they are.

    What the database holds is not believed: the scheduled program is compiled and run in a worker
    process first, and its numbers are compared with the unscheduled program's. That takes some
    tenths of a second, once for each program (a result of this user's own tunings on this machine
    was checked before). A record that fails is withdrawn, with a warning, and the next best is
    taken.

    Args:
        database: where to look.
        mod: the program.
        target: the machine to run on.
        allow_other_device: take what was measured on other machines, too, where there is nothing
            better; None: as the database says.

    Example:
        >>> sch = compile_tir(database, matmul, "llvm")
    """
    return best_schedule(database, mod, target, allow_other_device=allow_other_device)


def best_schedule(
    database: Database,
    mod: IRModule | PrimFunc,
    target: TargetLike,
    *,
    believe_own: bool = False,
    allow_other_device: bool | None = None,
) -> Schedule | None:
    """`compile_tir`; with `believe_own`, what this process measured is taken without a check."""
    whole, chosen = as_module(mod), Target(target)
    if isinstance(database, ScheduleFnDatabase):  # the caller's own function, not a file
        return database.query_schedule(whole, chosen, next(iter(whole.functions), "main"))

    def found_for(program: IRModule) -> Iterator[Admitted]:
        return usable(
            database, program, chosen, believe_own=believe_own,
            allow_other_device=allow_other_device,
        )  # fmt: skip

    best = next(found_for(whole), None)
    if best is not None:
        return best.schedule
    if len(whole.functions) < 2:
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


def usable(
    database: Database,
    mod: IRModule,
    target: Target,
    *,
    believe_own: bool = False,
    allow_other_device: bool | None = None,
) -> Iterator[Admitted]:
    """The records of a program that may be used, the best first; see `admitted`."""
    if allow_other_device is None:  # a class of the user's may have two parameters only
        records = database.candidates(mod, target)
    else:
        records = database.candidates(mod, target, allow_other_device)
    return admitted(records, mod, target, database=database, believe_own=believe_own)
