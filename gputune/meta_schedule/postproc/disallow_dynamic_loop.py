"""Are all loop extents known? DisallowDynamicLoop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...ir.build import const_int
from ...ir.nodes import BufferStore, For, Stmt
from ...ir.walk import stmt_children
from .postproc import Postproc

if TYPE_CHECKING:
    from ...schedule import Schedule


class DisallowDynamicLoop(Postproc):
    """Refuses schedules with a loop whose extent is not an integer."""

    def apply(self, sch: Schedule) -> bool:
        """Look at every loop of every function."""
        for name, func in sch.mod.functions.items():
            stack: list[Stmt] = [func.body]
            while stack:
                s = stack.pop()
                if type(s) is BufferStore:
                    continue
                if type(s) is For and const_int(s.extent) is None:
                    self.last_error = ScheduleError(
                        f"the extent {s.extent} of loop {s.var.name} in function {name} is not "
                        "constant",
                        hint="give the function constant shapes",
                        code="dynamic-loop",
                    )
                    return False
                stack.extend(stmt_children(s))
        return True
