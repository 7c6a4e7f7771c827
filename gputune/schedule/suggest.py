"""In which layout would a buffer be read straight through? suggest_index_map."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import build
from ..ir.build import TRUE, const_int
from ..ir.index_map import IndexMap
from ..ir.iter_map import IterSplit, detect_iter_map
from ..ir.nodes import Buffer, Expr, For, IntImm, Var
from .analysis import loop_ranges


def suggest_index_map(
    buffer: Buffer, indices: Sequence[Expr], loops: Sequence[For], predicate: Expr = TRUE
) -> IndexMap | None:
    """The map that orders the elements of a buffer as a loop nest reads them.

    Each index is taken apart into what the loops contribute to it (tiled loops are its digits);
    the new indices are these digits, in the order of the loops.

    Args:
        buffer: what is read.
        indices: where, in terms of the loops.
        loops: outermost first.
        predicate: what holds where it is read.

    Returns:
        None if an index is not a sum of loops in mixed radix, or does not run over a whole
        dimension.

    Example:
        `W[k_0*4 + k_1, j_0*16 + j_1]` read under j_0, k_0, k_1, j_1 gives
        `lambda i0, i1: (i1 // 16, i0 // 4, i0 % 4, i1 % 16,)`.
    """
    ranges = loop_ranges(loops)
    if ranges is None or len(indices) != len(buffer.shape):
        return None
    sums = detect_iter_map(indices, ranges, predicate, bijective=False)
    if sums is None:
        return None
    order = {f.var: k for k, f in enumerate(loops)}
    initial = tuple([Var(f"i{k}") for k in range(len(indices))])
    found: list[tuple[int, int, Expr]] = []  # loop, minus the weight within it, new index
    for v, x, size in zip(initial, sums, buffer.shape, strict=True):
        n = const_int(size)
        if n is None or not (type(x.base) is int and x.base == 0):
            return None
        need = 1
        for d in reversed(x.args):
            place = _loop_of(d)
            if place is None or place not in order or d.scale != need:
                return None
            need = d.extent * need
            top = d is x.args[0]
            digit: Expr = build.floordiv(v, IntImm(d.scale))
            if not top:
                digit = build.floormod(digit, IntImm(d.extent))
            found.append((order[place], -int(d.lower_factor), digit))
        if not x.args:
            found.append((-1, 0, v))  # a constant index: one place, wherever it is
        elif not need >= n:
            return None
    found.sort(key=lambda t: t[:2])
    return IndexMap(initial, tuple([e for _, _, e in found]))


def _loop_of(d: IterSplit) -> Var | None:
    source = d.source.source
    return source if type(source) is Var else None
