"""Is this program for the CPU, and are its sizes settled? Sampled sizes become plain integers."""

from __future__ import annotations

from ..errors import LowerError
from ..ir import build, walk
from ..ir.known_annotations import KNOWN, fault
from ..ir.nodes import Annotations, Block, Expr, For, IntImm, PrimFunc, Stmt
from .limits import CpuLimits


def prepare(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with plain integers in place of sampled ones.

    Raises LowerError where a loop is bound to a GPU thread.
    """
    for s in walk.walk_stmt(func.body):
        if type(s) is For and s.kind == "thread_binding":
            raise LowerError(
                f"loop {s.var.name} is bound to {s.thread}, which a CPU does not have: did you "
                "schedule for cuda?",
                hint="use sch.parallel and sch.vectorize for llvm, or build for a cuda target",
                code="thread-binding",
            )
    return settle(func, limits)


def settle(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with plain integers in place of sampled ones.

    Raises LowerError where an annotation that lowering reads has a value that means nothing.
    """
    for s in walk.walk_stmt(func.body):
        if type(s) is Block and s.annotations:
            _check_values(s.annotations, f"block {s.name}")
        elif type(s) is For and s.annotations:
            _check_values(s.annotations, f"loop {s.var.name}")
    if not any(_sampled(e) for e in walk.all_exprs(func.body)):
        return func
    body = walk.rewrite_exprs(func.body, _settle)
    assert type(body) is type(func.body)
    return build.replace_body(func, body)


def _check_values(notes: Annotations, at: str) -> None:
    for name, value in notes:
        known = KNOWN.get(name)
        if known is None or known.reader not in ("lowering", "regions"):
            continue
        if wrong := fault(name, value):
            raise LowerError(
                f"the annotation {name!r} of {at}: {wrong}",
                hint="unannotate it, and annotate it with such a value",
                code="annotation-value",
            )


def _sampled(e: Expr) -> bool:
    return type(e) is IntImm and type(e.value) is not int


def _settle(e: Expr) -> Expr:
    if type(e) is IntImm:
        return e if type(e.value) is int else IntImm(int(e.value), e.dtype)
    return walk.map_expr(e, _settle)


def as_block(func: PrimFunc, body: Stmt) -> PrimFunc:
    """`func` with `body` in its root block."""
    if body is func.body:
        return func
    if type(body) is Block and not body.iter_vars:
        return build.replace_body(func, body)
    return build.replace_body(func, build.root_block(body))
