"""Which schedule does a database have for a program?"""

from __future__ import annotations

from ..errors import RecordError, ScheduleError
from ..ir.nodes import IRModule, PrimFunc
from ..schedule import Schedule
from ..target.target import TargetLike
from .database import Database
from .module_equality import as_module


def compile_tir(
    database: Database, mod: IRModule | PrimFunc, target: TargetLike
) -> Schedule | None:
    """The best schedule of a program, or None if the database has none.

    In a module of several functions each gets its own best schedule; functions of which the
    database knows nothing stay as they are.

    Example:
        >>> sch = compile_tir(database, matmul, "llvm")
    """
    whole = as_module(mod)
    found = database.query_schedule(whole, target, next(iter(whole.functions), "main"))
    if found is not None or len(whole.functions) < 2:
        return found
    sch = Schedule(whole, error_render_level="fast")
    tuned = 0
    for name, func in whole.functions.items():
        for record in database.candidates(IRModule({name: func}), target):
            attempt = sch.copy()
            attempt.work_on(name)
            try:
                record.trace.apply_to_schedule(attempt, remove_postproc=False)
            except (RecordError, ScheduleError):
                continue
            sch, tuned = attempt, tuned + 1
            break
    return sch if tuned else None
