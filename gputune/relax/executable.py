"""How does a program of graph functions become something that can run?

Every tensor function that a graph function calls is compiled once (equal ones together). One that
nobody has scheduled gets the default schedule of its target.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..default_schedule import build_default
from ..errors import BuildError, GputuneError
from ..ir.check_graph import check_graph
from ..ir.equal import structural_hash
from ..ir.graph import ExternFunc, GlobalVar, call_sites
from ..ir.nodes import Block, For, IRModule, PrimFunc, Var
from ..ir.scheduled import is_scheduled
from ..ir.walk import walk_stmt
from ..runtime.function import Function
from ..runtime.module import Module, resolve_target
from ..runtime.module import build as build_functions
from ..runtime.signature import written_buffers
from ..target import Target
from ..target.target import TargetLike
from .plan import Plan, plan


class Executable:
    """A compiled program of graph functions; made by `build`, run by a `VirtualMachine`.

    Attributes:
        mod: the program.
        target: what it is compiled for.
        plans: how each graph function runs, by name.
        kernels: the compiled tensor functions that the graph functions call, by name.
    """

    def __init__(
        self,
        mod: IRModule,
        target: Target,
        plans: Mapping[str, Plan],
        kernels: Mapping[str, Function],
    ) -> None:
        self.mod = mod
        self.target = target
        self.plans = plans
        self.kernels = kernels

    @property
    def external_functions(self) -> tuple[str, ...]:
        """The names of the external functions that it calls."""
        callees = [s.callee for p in self.plans.values() for s in p.steps]
        return tuple(dict.fromkeys([c.name for c in callees if isinstance(c, ExternFunc)]))

    def __repr__(self) -> str:
        names = ", ".join(self.plans)
        return f"Executable({names}; {len(self.kernels)} tensor functions for {self.target.kind})"


def build(mod: IRModule, target: TargetLike | None = None) -> Executable:
    """Compile a module with graph functions.

    Args:
        mod: the module; its tensor functions are compiled as they are if they are scheduled, else
            with the default schedule of the target.
        target: what `Target` accepts, of kind llvm; default: the current target, else "llvm".

    Raises:
        BuildError: the module has no graph function; another target; an operator that no tensor
            function computes; a tensor function that cannot be compiled.
        CheckError: a graph function is not well formed.

    Example:
        >>> ex = relax.build(mod, "llvm")
        >>> relax.VirtualMachine(ex, gputune.cpu())["main"](x)
    """
    if not isinstance(mod, IRModule):
        raise BuildError(
            f"relax.build: expected an IRModule, found {type(mod).__name__}",
            hint="relax.build takes modules with graph functions, gputune.build tensor functions",
        )
    if not mod.graphs:
        raise BuildError(
            f"relax.build: the module has no graph function; it has: {', '.join(mod) or 'nothing'}",
            hint="gputune.build compiles tensor functions",
        )
    chosen = resolve_target(target)
    if chosen.kind != "llvm":
        raise BuildError(
            f"relax.build: graph functions run on the cpu in this version, not on {chosen.kind}",
            hint='use the target "llvm"',
            code="target",
        )
    for name, func in mod.graphs.items():
        check_graph(func, name, mod)
    whole = IRModule(mod.functions, mod.attrs, mod.graphs)  # what update_func does comes too late
    plans = {name: plan(func, name) for name, func in whole.graphs.items()}
    return Executable(whole, chosen, plans, _kernels(whole, plans, chosen))


def compile(mod: Any, target: TargetLike | None = None) -> Executable | Module:
    """Compile a program of either kind: `relax.build` where there are graph functions, else
    `gputune.build`."""
    if isinstance(mod, IRModule) and mod.graphs:
        return build(mod, target)
    return build_functions(mod, target)


def _kernels(mod: IRModule, plans: Mapping[str, Plan], target: Target) -> dict[str, Function]:
    """The tensor functions that are called, compiled, by name."""
    outputs = {
        s.callee.name: s.outputs
        for p in plans.values()
        for s in p.steps
        if isinstance(s.callee, GlobalVar)
    }
    known: dict[str, Function] = {}
    out: dict[str, Function] = {}
    for name in call_sites(mod.graphs.values()):
        func = mod.functions[name]
        _check_inputs_are_kept(func, name, outputs[name])
        digest = structural_hash(func)
        if digest not in known:
            known[digest] = _compiled(func, name, target)
        out[name] = known[digest]
    return out


def _check_inputs_are_kept(func: PrimFunc, name: str, outputs: int) -> None:
    """A function that writes to an argument would change a tensor that others may still need."""
    arguments = func.buffers[: len(func.buffers) - outputs]
    written = written_buffers(func)
    for b in arguments:
        if b in written:
            raise BuildError(
                f"{name} writes to its parameter {b.name}, an argument in a graph function",
                hint="a tensor function called by R.call_tir writes only to its last parameters, "
                "the results",
                code="writes-argument",
            )


def _compiled(func: PrimFunc, name: str, target: Target) -> Function:
    alone = IRModule({re.sub(r"\W", "_", name, flags=re.ASCII): func})
    try:
        if is_plain(func):
            _, module = build_default(alone, target)
        else:
            module = build_functions(alone, target)
    except GputuneError as e:
        e.message = f"{name}: {e.message}"
        e.args = (e.message,)
        raise
    (function,) = module.functions.values()
    assert isinstance(function, Function)  # the target is llvm
    return function


def is_plain(func: PrimFunc) -> bool:
    """Has nobody scheduled this function: plain loops, and blocks bound to them as they are?"""
    if is_scheduled(func):
        return False
    for s in walk_stmt(func.body):
        if isinstance(s, For) and (s.kind != "serial" or s.annotations):
            return False
        if isinstance(s, Block) and (s.annotations or not _is_bound_plainly(s)):
            return False
    return True


def _is_bound_plainly(block: Block) -> bool:
    return all(isinstance(v, Var) for v in block.iter_values)
