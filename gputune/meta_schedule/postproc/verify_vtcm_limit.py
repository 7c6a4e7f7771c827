"""Does what a schedule keeps in the vector memory of a Hexagon fit? VerifyVTCMLimit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...ir.build import const_int
from ...ir.dtypes import itemsize
from ...ir.nodes import Block, Buffer
from ...schedule.analysis import region_under
from ...schedule.dim import maximum, minimum
from ...schedule.tree import Link, Tree
from ..kinds import target_of
from .postproc import Postproc

if TYPE_CHECKING:
    from ...ir.nodes import PrimFunc
    from ...schedule import Schedule
    from ..tune_context import TuneContext

VTCM = "global.vtcm"


class VerifyVTCMLimit(Postproc):
    """Refuses schedules whose buffers in `global.vtcm` take more than the target's vtcm-capacity.

    All such buffers of a function count, each with what is used of it while it lives. A target
    without that option has no limit.
    """

    def __init__(self) -> None:
        self.capacity = 0

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        self.capacity = 0 if target is None else target.vtcm_capacity

    def apply(self, sch: Schedule) -> bool:
        """Count the bytes of every function."""
        if not self.capacity:
            return True
        for name, func in sch.mod.functions.items():
            used = vtcm_bytes(func)
            if used > self.capacity:
                self.last_error = ScheduleError(
                    f"function {name} keeps {int(used)} bytes in {VTCM}, and the target has "
                    f"{self.capacity} (vtcm-capacity)",
                    hint="sample smaller tiles for the levels inside the caches",
                    code="vtcm-capacity",
                )
                return False
        return True


def vtcm_bytes(func: PrimFunc) -> int:
    """Bytes of the function's buffers in `global.vtcm`; extents may be sampled values."""
    users: dict[Buffer, list[Link]] = {}
    allocated: list[Buffer] = []
    for link in Tree(func.body).links.values():
        if type(link.node) is Block:
            allocated += [b for b in link.node.alloc_buffers if b.scope == VTCM]
            for b in {r.buffer: None for r in (*link.node.reads, *link.node.writes)}:
                users.setdefault(b, []).append(link)
    total = 0
    for b in allocated:
        total = total + _elements(b, users.get(b, [])) * itemsize(b.dtype)
    return total


def _elements(b: Buffer, users: list[Link]) -> int:
    """As many as the accesses touch in one iteration of the loops around all of them."""
    common = _common(users)
    out = 1
    for k, n in enumerate(b.shape):
        whole = const_int(n) or 1
        size: int | None = None
        for user in users:
            block = user.block()
            for r in (*block.reads, *block.writes):
                if r.buffer is not b:
                    continue
                box = None if common is None else region_under(user, common, r)
                own = None if box is None else const_int(box[k].extent)
                part = whole if own is None else minimum(own, whole)
                size = part if size is None else maximum(size, part)
        out = out * (whole if size is None else size)
    return out


def _common(users: list[Link]) -> Link | None:
    """The innermost node around all users."""
    if not users:
        return None
    above = [{id(x.node) for x in u.above()} for u in users[1:]]
    return next((x for x in users[0].above() if all(id(x.node) in a for a in above)), None)
