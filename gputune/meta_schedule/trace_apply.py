"""How does a schedule that was found for one program serve a similar one?

Two programs with the same anchor block (the reduction that does most of the work) differ in what
stands before and behind it. What a trace did to the anchor block is done again; blocks that the
trace does not know are inlined where that costs nothing, and otherwise get loops of their own.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ..errors import ScheduleError, UserError
from ..ir.equal import find_anchor_block, structural_equal
from ..ir.nodes import Block, IRModule
from ..schedule import BlockRV, Instruction, Schedule, Trace
from ..target import Target
from ..target.target import TargetLike
from .analysis import is_gone, is_spatial
from .binding import bind_to_threads, unbound_blocks

if TYPE_CHECKING:
    from .record import TuningRecord

_TENSORIZE = "meta_schedule.auto_tensorize"
_GRID = 256  # blocks of the grid of a block that is bound here
_LANES = 16  # iterations of a vectorised loop, at most


def schedule_using_anchor_trace(sch: Schedule, anchor_trace: Trace, target: TargetLike) -> None:
    """Do to the anchor block of a program what a trace did to that of another.

    Instructions about blocks that this program does not have are left out. What comes after
    `enter_postproc` in the trace is not replayed: the target's postprocs do their work anew.

    Args:
        sch: a schedule of one function (or the one worked on); changed in place.
        anchor_trace: of a tuning of a program with the same anchor block, which may have another
            name there.
        target: the machine, whose postprocs are applied.

    Raises:
        ScheduleError: the trace does not fit the anchor block, or a postproc refuses; `sch` is
            then as it was.
        UserError: the module has several functions, and none is worked on.

    Example:
        >>> sch = Schedule(matmul_relu)
        >>> schedule_using_anchor_trace(sch, database.query_schedule(matmul, "llvm").trace, "llvm")
    """
    chosen = Target(target)
    trial = sch.copy()
    func = _function_of(trial)
    insts = anchor_trace.insts
    searched = any(i.kind.name == "EnterPostproc" for i in insts)
    if searched:
        insts = anchor_trace.simplified(remove_postproc=True).insts
    kind = _kind(anchor_trace, chosen)
    names = _names(trial, func, insts)
    strangers = [
        trial.get_block(b.name, func)
        for b in _blocks(trial, func)
        if b.name not in names.values() and b is not trial.mod[func].body
    ]
    _inline_strangers(trial, strangers, kind)
    _replay(trial, func, anchor_trace, insts, names)
    _move_into_producers(trial, strangers)
    if searched:
        _postprocess(trial, kind, chosen)
    else:
        _loops_of_strangers(trial, func, strangers, chosen)
    trial.trace.continue_on(sch, _Same(), trial.trace.insts[len(sch.trace.insts) :])


def schedule_for(record: TuningRecord, mod: IRModule, target: Target, func: str) -> Schedule:
    """The schedule that a record means for a program: its trace, replayed; by way of the anchor
    block where the record is one of a similar program.

    Raises:
        RecordError, ScheduleError: the record is not usable.
    """
    from .database import replay

    if is_of(record, mod):
        return replay(record, func)
    if len(mod.functions) != 1:
        raise ScheduleError(
            f"a record of a similar program serves one function, not {len(mod.functions)}",
            code="anchor-function",
        )
    sch = Schedule(mod, error_render_level="fast")
    schedule_using_anchor_trace(sch, record.trace, target)
    return sch


def is_of(record: TuningRecord, mod: IRModule) -> bool:
    """Is it a record of exactly this program (not just of one with the same anchor block)?"""
    return structural_equal(record.workload.mod, mod)


class _Same(dict[Any, Any]):
    """Handles of a schedule in a copy of it: the same ones, until new ones are minted."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: Any) -> Any:
        return key


def _function_of(sch: Schedule) -> str:
    names = list(sch.mod.functions)
    if sch.func_working_on is not None:
        return sch.func_working_on
    if len(names) != 1:
        raise UserError(
            f"the module has the functions {', '.join(names) or 'none'}: which is meant?",
            hint="call sch.work_on(name) first",
            code="anchor-function",
        )
    return names[0]


def _kind(trace: Trace, target: Target) -> str:
    """Whose postprocs and rules: tensor cores have their own."""
    tensorized = any(
        i.kind.name == "Annotate" and _TENSORIZE in (*i.attrs, *i.inputs) for i in trace.insts
    )
    return f"{target.kind}-tensorcore" if tensorized and target.kind == "cuda" else target.kind


# ----------------------------------------------------------------------------- which block is which
def _names(sch: Schedule, func: str, insts: list[Instruction]) -> dict[str, str]:
    """For each block that the trace gets by name and that is here: its name here."""
    wanted = [str(i.attrs[0]) for i in insts if i.kind.name == "GetSBlock"]
    here = {b.name for b in _blocks(sch, func)}
    names = {n: n for n in wanted if n in here}
    anchor = find_anchor_block(sch.mod[func])
    if anchor is None:
        raise ScheduleError(
            f"function {func!r} has no anchor block: none of its blocks reduces", code="anchor"
        )
    if anchor.name not in names.values():
        renamed = _tiled_name(insts, set(wanted) - here, len(_loops(sch, func, anchor)))
        if renamed is None:
            raise ScheduleError(
                f"the trace does nothing to the block {anchor.name!r}, the anchor of {func!r}",
                hint=f"it is about: {', '.join(dict.fromkeys(wanted)) or 'no block'}",
                code="anchor",
            )
        names[renamed] = anchor.name
    return names


def _tiled_name(insts: list[Instruction], names: set[str], loops: int) -> str | None:
    """The first of some blocks of a trace that has so many loops, of which it does something."""
    used = {x for i in insts if not i.kind.is_pure for x in i.inputs if not isinstance(x, list)}
    for inst in insts:
        if inst.kind.name != "GetSBlock" or inst.attrs[0] not in names:
            continue
        block = inst.outputs[0]
        for other in insts:
            if other.kind.name == "GetLoops" and other.inputs[0] is block:
                if len(other.outputs) == loops and any(x in used for x in other.outputs):
                    return str(inst.attrs[0])
    return None


def _blocks(sch: Schedule, func: str) -> list[Block]:
    """The blocks directly below the root block, and the root."""
    root = sch.mod[func].body
    return [x.block() for x in sch.tree(func).blocks[root.key]] + [root]


def _loops(sch: Schedule, func: str, block: Block) -> list[Any]:
    link = sch.tree(func).find(block.key)
    assert link is not None
    return link.loops()


# ----------------------------------------------------------------------------- steps
def _inline_strangers(sch: Schedule, strangers: list[BlockRV], kind: str) -> None:
    """Inline what the target's rules would inline into its consumers."""
    from .schedule_rule import AutoInline, ScheduleRule

    rules = [r for r in ScheduleRule.create(kind) if isinstance(r, AutoInline)]
    for rule in rules:
        rule.into_producer = False  # what they would move there may belong to the anchor block
        for block in reversed(strangers):  # consumers before their producers
            if not is_gone(sch, block):
                with contextlib.suppress(ScheduleError):
                    rule.apply(sch, block)


def _replay(
    sch: Schedule, func: str, trace: Trace, insts: list[Instruction], names: dict[str, str]
) -> None:
    """Do what concerns known blocks."""
    table: dict[Any, Any] = {}
    for inst in insts:
        if inst.kind.name == "GetSBlock":
            name = names.get(str(inst.attrs[0]))
            if name is not None:
                table[inst.outputs[0]] = sch.get_block(name, func)
            continue
        try:
            trace.continue_on(sch, table, [inst])
        except ScheduleError as e:
            if e.code == "replay-handle":
                continue  # about what is not here
            if inst.kind.is_pure and inst.kind.name != "GetLoops":
                continue  # who depends on it is not there, either
            e.message = f"the trace does not fit: {e.message}"
            raise


def _move_into_producers(sch: Schedule, strangers: list[BlockRV]) -> None:
    """What follows the anchor block is computed where its result is written out."""
    for block in strangers:
        if not is_gone(sch, block) and is_spatial(sch.get(block)):
            with contextlib.suppress(ScheduleError):
                sch.reverse_compute_inline(block)


def _postprocess(sch: Schedule, kind: str, target: Target) -> None:
    from .postproc import Postproc, postprocess
    from .tune_context import TuneContext

    context = TuneContext(sch.mod, target=target)
    postprocs = Postproc.create(kind)
    for p in postprocs:
        p.initialize_with_tune_context(context)
    error = postprocess(sch, postprocs)
    if error is not None:
        raise error


def _loops_of_strangers(sch: Schedule, func: str, strangers: list[BlockRV], target: Target) -> None:
    """Loops for what is left, where no postproc will see to it."""
    if target.kind == "cuda":
        threads = target.limits.threads_per_block
        for b in unbound_blocks(sch, func):
            bind_to_threads(sch, sch.get_block(b.name, func), _GRID, threads, lambda n: n)
        return
    for block in strangers:
        if is_gone(sch, block) or not is_spatial(sch.get(block)) or not sch.get_loops(block):
            continue
        loops = sch.get_loops(block)
        with contextlib.suppress(ScheduleError):
            outer, inner = sch.split(sch.fuse(*loops), [None, _LANES])
            sch.parallel(outer)
            sch.vectorize(inner)
