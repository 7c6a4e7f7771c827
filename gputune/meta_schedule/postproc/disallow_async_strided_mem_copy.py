"""Is every copy that runs in the background one run of memory? DisallowAsyncStridedMemCopy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...ir.build import const_int
from ...ir.nodes import Block, BufferLoad, BufferStore, For, Seq, Stmt
from ...ir.walk import stmt_children
from ...schedule.tree import Link
from ..analysis import PIPELINE_ASYNC_STAGES, PIPELINE_STAGE, annotation
from ..strides import strides_of
from .postproc import Postproc

if TYPE_CHECKING:
    from ...schedule import Schedule


class DisallowAsyncStridedMemCopy(Postproc):
    """Refuses software pipelines whose asynchronous stages copy with strides.

    An engine that copies in the background moves one run of memory to another. So along the loops
    of such a copy (inside the pipelined loop, and inside the loops bound to threads, each of which
    copies for itself) neighbouring iterations must touch neighbouring elements on both sides.
    """

    def apply(self, sch: Schedule) -> bool:
        """Look at the asynchronous stages of every pipeline."""
        for name in sch.mod.functions:
            for link in sch.tree(name).links.values():
                if type(link.node) is For and annotation(link.node, PIPELINE_ASYNC_STAGES):
                    found = _strided(link.node)
                    if found is not None:
                        self.last_error = ScheduleError(
                            f"block {found.name} in an asynchronous stage of loop "
                            f"{link.node.var.name} copies with strides",
                            hint="copy whole rows, or leave the stage synchronous",
                            code="async-strided",
                        )
                        return False
        return True


def _strided(loop: For) -> Block | None:
    """A copy in an asynchronous stage that is not one run of memory."""
    stages = list(annotation(loop, PIPELINE_STAGE) or ())
    async_stages = set(annotation(loop, PIPELINE_ASYNC_STAGES))
    body = loop.body.body if type(loop.body) is Block else loop.body
    items = body.items if type(body) is Seq else (body,)
    for item, stage in zip(items, stages, strict=False):
        if stage in async_stages:
            found = _first_strided(Link(item, None), [])
            if found is not None:
                return found
    return None


def _first_strided(link: Link, loops: list[For]) -> Block | None:
    s = link.node
    if type(s) is For:
        return _first_strided(link.down(s.body), [] if s.thread is not None else [*loops, s])
    if type(s) is Block and _is_copy(s):
        return None if _is_run(s, loops) else s
    for x in stmt_children(s):
        found = _first_strided(link.down(x), loops)
        if found is not None:
            return found
    return None


def _is_copy(b: Block) -> bool:
    """Does the block move elements from one memory to another?"""
    s: Stmt = b.body
    if type(s) is not BufferStore or type(s.value) is not BufferLoad:
        return False
    return s.buffer.scope != s.value.buffer.scope


def _is_run(b: Block, loops: list[For]) -> bool:
    """Do the loops, taken together, go from each element to the next one?"""
    strides = strides_of(b)
    if strides is None:
        return False
    moving = [f for f in reversed(loops) if const_int(f.extent) != 1]
    if not moving:
        return True
    inner, run = moving[0], const_int(moving[0].extent)
    if not strides.is_unit(inner.var):
        return False
    for f in moving[1:]:
        n = const_int(f.extent)
        if run is None or n is None or not strides.continues(f.var, inner.var, run):
            return False
        run = run * n
    return True
