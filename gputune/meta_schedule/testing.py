"""How does a test look at a design space, or fill a database with schedules made by hand?

The workloads to test with are `gputune.kernels`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import UserError
from ..ir.equal import structural_equal
from ..ir.nodes import IRModule, PrimFunc
from ..schedule import Schedule, Trace
from ..target import Target
from ..target.target import TargetLike
from .arg_info import ArgInfo
from .database import Database, MemoryDatabase
from .module_equality import as_module
from .record import TuningRecord
from .relax_integration import extract_tasks
from .schedule_rule import ScheduleRule
from .space_generator import PostOrderApply
from .tune import ExtractedTask
from .tune_context import TuneContext


def generate_design_space(
    kind: str,
    mod: IRModule | PrimFunc,
    target: TargetLike,
    types: type | tuple[type, ...],
    sch_rules: Sequence[ScheduleRule] | None = None,
) -> list[Schedule]:
    """The sketches that some of a kind's rules make.

    Args:
        kind: of target, such as "llvm": whose default rules are taken.
        mod: the program.
        target: the machine.
        types: which of the rules.
        sch_rules: rules to take instead; `types` is then ().

    Raises:
        UserError: both rules and types are given; the kind has no such rules.

    Example:
        >>> spaces = generate_design_space("llvm", matmul, "llvm", MultiLevelTiling)
    """
    if sch_rules is None:
        sch_rules = [r for r in ScheduleRule.create(kind) if isinstance(r, types)]
        if not sch_rules:
            raise UserError(f"the rules of {kind!r} have none of {types!r:.80}", code="no-rule")
    elif types != ():
        raise UserError(
            "generate_design_space takes types or sch_rules, not both",
            hint="types=() with rules of your own",
            code="rules-and-types",
        )
    context = TuneContext(
        mod,
        target=target,
        space_generator=PostOrderApply(sch_rules=sch_rules, postprocs=[], mutator_probs={}),
        task_name="test",
        rand_state=1,
    )
    return context.generate_design_space()


def check_sketches(
    mod: IRModule | PrimFunc,
    sketches: Sequence[Schedule],
    expected_mods: Sequence[IRModule | PrimFunc],
    expected_decisions: Sequence[Sequence[tuple[str, Any]]],
    *,
    debug_mask: str = "all",
) -> None:
    """Check that sketches are the expected ones, in any order.

    Args:
        mod: the program.
        sketches: what a space generator made of it.
        expected_mods: programs, each of which one sketch must give ...
        expected_decisions: ... with these decisions: (kind of instruction, decision) for each
            sampling instruction in order.
        debug_mask: of the schedules that are replayed.

    Raises:
        AssertionError: the counts differ, or no sketch gives an expected program; says which.
    """
    if not len(sketches) == len(expected_mods) == len(expected_decisions):
        raise AssertionError(
            f"{len(sketches)} sketches were generated; {len(expected_mods)} programs with "
            f"{len(expected_decisions)} lists of decisions were expected"
        )
    left = list(sketches)
    for number, (expected, decisions) in enumerate(zip(expected_mods, expected_decisions)):
        wanted = as_module(expected)
        for k, sketch in enumerate(left):
            found = _with_decisions(as_module(mod), sketch.trace, decisions, debug_mask)
            if found is not None and structural_equal(found, wanted):
                del left[k]
                break
        else:
            raise AssertionError(f"no sketch gives the expected program {number}:\n{wanted}")


def _with_decisions(
    mod: IRModule, trace: Trace, decisions: Sequence[tuple[str, Any]], debug_mask: Any
) -> IRModule | None:
    """The program of a sketch with some decisions; None if they are not for its instructions."""
    sampling = [i for i in trace.insts if i.kind.samples]
    if [i.kind.name for i in sampling] != [kind for kind, _ in decisions]:
        return None
    new = {i: decision for i, (_, decision) in zip(sampling, decisions)}
    sch = Schedule(mod, debug_mask=debug_mask)
    Trace(trace.insts, new).apply_to_schedule(sch, remove_postproc=True)
    return sch.mod


def apply_fixed_schedules(
    mod: IRModule | PrimFunc,
    target: TargetLike,
    params: Mapping[str, Any] | None,
    schedule_fn: Callable[[ExtractedTask, Schedule], bool],
) -> Database:
    """A database of schedules that a function makes, for `compile_relax`.

    Args:
        mod: a module of tensor functions.
        target: the machine.
        params: as of `extract_tasks`.
        schedule_fn: schedules a task's program in place; False leaves the task out.
    """
    database = MemoryDatabase()
    for task in extract_tasks(mod, target, params):
        program = task.dispatched[0]
        sch = Schedule(program)
        if schedule_fn(task, sch):
            database.commit_tuning_record(
                TuningRecord(
                    sch.trace,
                    database.commit_workload(program),
                    [0.0],
                    Target(target),
                    ArgInfo.from_entry_func(program),
                )
            )
    return database
