"""What if more, or fewer, loops were run in parallel? MutateParallel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ScheduleError
from ...ir.build import const_int
from ...ir.nodes import IRModule, PrimFunc
from ...schedule import Instruction, Schedule, Trace
from ...schedule.tree import Link
from ..analysis import PARALLEL, loop_kinds, loop_links
from ..kinds import target_of
from ..postproc.rewrite_parallel_vectorize_unroll import count_parallel
from .mutator import Mutator

if TYPE_CHECKING:
    from ..tune_context import TuneContext


class MutateParallel(Mutator):
    """Changes the limit of parallel iterations to one that fuses other loops.

    The loop extents come from replaying the trace; the limits tried are the products of leading
    extents, which are all that makes a difference.

    Args:
        max_jobs_per_core: limits above this times the number of cores are not tried.
    """

    def __init__(self, max_jobs_per_core: int) -> None:
        self.max_jobs_per_core = max_jobs_per_core
        self.num_cores = 1
        self.mod: IRModule | PrimFunc | None = None

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        self.mod = context.mod
        target = target_of(context)
        if target is not None:
            self.num_cores = target.num_cores

    def apply(self, trace: Trace) -> Trace | None:
        """A trace with another limit; None where it would make no difference, or there is no
        program to replay on."""
        noted = [
            i for i in trace.insts
            if i.kind.name == "Annotate" and i.attrs[0] == PARALLEL and isinstance(i.inputs[1], int)
        ]  # fmt: skip
        if not noted or self.mod is None:
            return None
        inst = self.rng.choice(noted)
        nests = self._nests(trace, inst)
        plans: dict[tuple[int, ...], int] = {}
        for limit in sorted(_products(nests, self.max_jobs_per_core * self.num_cores)):
            plans.setdefault(_plan(nests, limit), limit)
        plans.pop(_plan(nests, int(inst.inputs[1])), None)
        if not plans:
            return None
        return _with_limit(trace, inst, self.rng.choice(list(plans.values())))

    def _nests(self, trace: Trace, inst: Instruction) -> list[list[Link]]:
        """The loop nests under the root block that the instruction annotates."""
        assert self.mod is not None
        sch = Schedule(self.mod, seed=1, error_render_level="none")
        try:
            trace.apply_to_schedule(sch, remove_postproc=True)
        except ScheduleError:  # it does not replay on this program, so nothing can be said
            return []
        found: list[list[Link]] = []
        for func in sch.mod.functions.values():
            if not any(k == PARALLEL and v == inst.inputs[1] for k, v in func.body.annotations):
                continue
            tree = sch.tree(sch.func_of(func.body.key))
            found += [loop_links(x) for x in tree.blocks[func.body.key]]
        return found


def _plan(nests: list[list[Link]], limit: int) -> tuple[int, ...]:
    return tuple(count_parallel(nest, loop_kinds(nest), limit) for nest in nests)


def _products(nests: list[list[Link]], most: int) -> set[int]:
    """The products of leading extents, and 1, that are at most `most`."""
    out = {1}
    for nest in nests:
        product = 1
        for loop in nest[: count_parallel(nest, loop_kinds(nest), most)]:
            n = const_int(loop.loop().extent)
            assert n is not None  # count_parallel takes no other
            product *= int(n)
            if product <= most:
                out.add(product)
    return out


def _with_limit(trace: Trace, old: Instruction, limit: int) -> Trace:
    insts: list[Instruction] = []
    for inst in trace.insts:
        if inst.kind.name == "EnterPostproc":
            break
        if inst is old:
            inst = Instruction(old.kind, [old.inputs[0], limit], old.attrs, old.outputs, False)
        insts.append(inst)
    kept = set(insts)
    return Trace(insts, {i: d for i, d in trace.decisions.items() if i in kept})
