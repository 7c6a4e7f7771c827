"""Which parallel loops start threads? The outermost ones; what is parallel inside runs serially."""

from __future__ import annotations

from ..ir import walk
from ..ir.nodes import For, PrimFunc, Stmt
from .limits import CpuLimits
from .prepare import as_block


def flatten_parallel(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with no parallel loop inside another, or inside a vectorized or unrolled one."""
    return as_block(func, _go(func.body, False))


def _go(s: Stmt, inside: bool) -> Stmt:
    if type(s) is For and s.kind in ("parallel", "vectorized", "unrolled"):
        body = _go(s.body, True)
        kind = "serial" if s.kind == "parallel" and inside else s.kind
        if body is s.body and kind == s.kind:
            return s
        return For(s.var, s.min, s.extent, kind, body, s.thread, s.annotations)
    out = walk.map_stmt(s, lambda e: e, lambda x: _go(x, inside))
    assert out is not None  # _go never deletes
    return out
