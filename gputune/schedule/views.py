"""What does a schedule know about its program? Views to look at, in MetaSchedule's words.

Nothing is kept here: a view asks the schedule when it is asked. It changes with the schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from ..ir.nodes import Block, BlockKey, For, IRModule, PrimFunc, Var
from .analysis import _cover_fault, binding_is_affine, blocks_below, siblings
from .tree import Link

if TYPE_CHECKING:
    from .state import State


class DepKind(IntEnum):
    """Why a block must stay behind another one."""

    RAW = 0
    """It reads what the other writes."""
    WAW = 1
    """Both write the same buffer."""
    WAR = 2
    """It writes what the other reads."""
    OPAQUE = 3
    """Not known in detail (gputune always knows)."""


@dataclass(frozen=True, slots=True)
class StmtSRef:
    """A reference to a loop or block of a schedule, which follows it through changes.

    Two are equal if they are of the same loop or block of the same schedule.
    """

    _state: State
    _key: Var | BlockKey

    def _link(self) -> Link:
        found = self._state.find(self._key)
        if found is None:
            what = "block" if isinstance(self._key, BlockKey) else "loop"
            self._state.fail(
                f"this {what} is gone from the program: a later primitive replaced it",
                hint="get it again with sch.get_sref",
                code="block-gone" if what == "block" else "loop-gone",
            )
        return found[1]

    @property
    def stmt(self) -> Block | For:
        """The block or loop as it is now; ScheduleError if it is gone."""
        node = self._link().node
        assert isinstance(node, Block | For)
        return node

    @property
    def loop_var(self) -> Var | None:
        """The variable of the loop, also after it is gone; None of a block."""
        return self._key if isinstance(self._key, Var) else None

    @property
    def parent(self) -> StmtSRef | None:
        """The nearest loop or block above; None for a root block."""
        for x in self._link().above():
            if isinstance(x.node, Block | For):
                return StmtSRef(self._state, key_of(x.node))
        return None

    def __repr__(self) -> str:
        node = self.stmt
        what = f"block {node.name}" if isinstance(node, Block) else f"loop {node.var.name}"
        return f"StmtSRef({what})"


@dataclass(frozen=True, slots=True)
class Dependency:
    """Block `dst` must stay behind block `src`, for the reason `kind`."""

    src: StmtSRef
    dst: StmtSRef
    kind: DepKind


@dataclass(frozen=True, slots=True)
class SBlockScope:
    """The blocks directly inside a block, and how they depend on one another.

    Attributes:
        deps: every pair once for each reason, by the place of `dst` in the program.
    """

    deps: tuple[Dependency, ...]

    def get_deps_by_src(self, block: StmtSRef) -> list[Dependency]:
        """The dependencies of later blocks on this one."""
        return [d for d in self.deps if d.src == block]

    def get_deps_by_dst(self, block: StmtSRef) -> list[Dependency]:
        """The dependencies of this block on earlier ones."""
        return [d for d in self.deps if d.dst == block]


@dataclass(frozen=True, slots=True)
class CachedFlags:
    """What primitives ask about a block.

    Attributes:
        affine_binding: are its iterators a bijective quasi-affine map of the loops above?
        region_cover: is whatever it reads from its siblings written before, in full?
        stage_pipeline: does each block directly inside write its buffers alone and read only what
            was written before, in full?
    """

    affine_binding: bool
    region_cover: bool
    stage_pipeline: bool


class ScheduleState:
    """What a schedule holds besides its trace.

    Args:
        mod: a program, of which a schedule is made to look at; or a schedule.
        debug_mask, enable_check: as of `Schedule`, where a program is given.

    Example:
        >>> sch = demo_schedule()
        >>> sch.state.get_sref(sch.get(sch.get_block("B")))
        StmtSRef(block B)
    """

    __slots__ = ("_state",)

    def __init__(
        self,
        mod: PrimFunc | IRModule | State,
        *,
        debug_mask: str | int = "none",
        enable_check: bool = True,
    ) -> None:
        from .state import State

        if not isinstance(mod, State):
            mod = State(mod, seed=1, debug_mask=debug_mask, enable_check=enable_check)  # type: ignore[arg-type]  # checked there
        self._state = mod

    @property
    def mod(self) -> IRModule:
        """The program as it stands."""
        return self._state.mod

    @property
    def debug_mask(self) -> str:
        """Is the program checked after every primitive ("all") or not ("none")?"""
        return self._state.debug_mask

    @property
    def enable_check(self) -> bool:
        """Are the checks done that protect against wrong results?"""
        return self._state.enable_check

    def get_sref(self, stmt: Block | For) -> StmtSRef:
        """The reference to a loop or block of the program; ScheduleError if it is not in it."""
        if not isinstance(stmt, Block | For):
            self._state.fail(
                f"a loop or a block has a reference, not a {type(stmt).__name__}",
                hint="take what sch.get gives of a handle",
                code="not-in-program",
            )
        key = key_of(stmt)
        if self._state.find(key) is None:
            self._state.fail(
                "this loop or block is not in the program",
                hint="take one that sch.get gives",
                code="not-in-program",
            )
        return StmtSRef(self._state, key)

    def get_block_scope(self, block: StmtSRef) -> SBlockScope:
        """The blocks directly inside a block and their dependencies."""
        inside = blocks_below(self._block(block))
        deps = []
        for k, after in enumerate(inside):
            for before in inside[:k]:
                deps += [
                    Dependency(self._sref(before), self._sref(after), kind)
                    for kind in _reasons(before.block(), after.block())
                ]
        return SBlockScope(tuple(deps))

    get_sblock_scope = get_block_scope

    def get_cached_flags(self, block: StmtSRef) -> CachedFlags:
        """The facts about a block that primitives ask for."""
        link = self._block(block)
        s = self._state
        return CachedFlags(
            link.up is None or binding_is_affine(link, s),
            _covered(link, s),
            not blocks_below(link) or not s.pipeline_fault(link),
        )

    def _block(self, sref: StmtSRef) -> Link:
        link = sref._link()
        if not isinstance(link.node, Block):
            self._state.fail(
                "expected a block, found the reference of a loop",
                hint="take the reference of a block: sch.get_sref(sch.get_block(name))",
                code="not-a-block",
            )
        return link

    def _sref(self, link: Link) -> StmtSRef:
        return StmtSRef(self._state, link.block().key)

    def __repr__(self) -> str:
        return f"ScheduleState({', '.join(self.mod)})"


def key_of(node: Block | For) -> Var | BlockKey:
    """What identifies a loop or block through changes."""
    return node.key if isinstance(node, Block) else node.var


def _reasons(before: Block, after: Block) -> list[DepKind]:
    """Why the second of two blocks must stay behind the first."""
    reads = [{r.buffer for r in b.reads} for b in (before, after)]
    writes = [{w.buffer for w in b.writes} for b in (before, after)]
    found = (
        (DepKind.RAW, writes[0] & reads[1]),
        (DepKind.WAW, writes[0] & writes[1]),
        (DepKind.WAR, reads[0] & writes[1]),
    )
    return [kind for kind, buffers in found if buffers]


def _covered(link: Link, s: State) -> bool:
    """Is whatever the block reads from its siblings written before, in full?"""
    if link.up is None:
        return True
    block, before = link.block(), True
    for other in siblings(link, s):
        if other.block().key is block.key:
            before = False
            continue
        written = {w.buffer for w in other.block().writes}
        for read in block.reads:
            if read.buffer in written and _cover_fault(other, link, read, in_order=before):
                return False
    return True
