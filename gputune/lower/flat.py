"""Where in memory is an access? Multi-dimensional indices as one linear form, in elements.

A vector access is looked at through its lanes: `Ramp(base, step, n)` is `base + step * LANE`. If
the form is linear in `LANE`, its coefficient is the stride of the vector in memory; this sees that
`A[(f // 100), (f % 100)]` of a `(n, 100)` buffer is contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import build, dtypes, walk
from ..ir.nodes import Broadcast, Buffer, BufferLoad, Expr, IntImm, Let, Ramp, Shuffle, Var
from . import linear as lin

LANE = Var("lane", "int32")


@dataclass(frozen=True, slots=True)
class Place:
    """An address: `form` in elements without the lane part; lane l is `step * l` further on, or
    somewhere else for each lane (`step` None: put the lane into `lanes_form`)."""

    form: lin.Linear
    step: int | None
    lanes: int


def steps_of(b: Buffer) -> tuple[Expr, ...]:
    """Strides in elements, row-major where the buffer does not say."""
    if b.strides is not None:
        return b.strides
    steps: list[Expr] = [IntImm(1)] * len(b.shape)
    for k in range(len(b.shape) - 2, -1, -1):
        steps[k] = build.mul(steps[k + 1], b.shape[k + 1])
    return tuple(steps)


def by_lane(e: Expr) -> Expr:
    """The vector expression as a scalar one in `LANE`; AssertionError on shuffles and lets."""
    if dtypes.lanes(e.dtype) == 1:
        return e
    match e:
        case Ramp():
            base, step = e.base, e.stride
            lane: Expr = LANE if base.dtype == "int32" else build.cast(base.dtype, LANE)
            return build.add(base, build.mul(lane, step))
        case Broadcast():
            return e.value
        case _ if type(e) not in (BufferLoad, Shuffle, Let, Var):
            parts = [by_lane(x) for x in walk.expr_children(e)]
            it = iter(parts)
            return _scalar(walk.map_expr(e, lambda _: next(it)), e.dtype)
        case _:
            raise ValueError("not an affine vector index")


def _scalar(e: Expr, dtype: str) -> Expr:
    return e if dtypes.lanes(e.dtype) == 1 else build.cast(dtypes.scalar(dtype), e)


def place(b: Buffer, indices: tuple[Expr, ...], dom: lin.Dom) -> Place | None:
    """The address of an access, or None where the index of a lane is not an affine expression."""
    n = max([dtypes.lanes(i.dtype) for i in indices], default=1)
    lanes_dom = {**dom, LANE: (0, n - 1)} if n > 1 else dom
    total = lin.Linear({}, 0)
    try:
        for i, step in zip(indices, steps_of(b)):
            one = lin.linear(by_lane(i), lanes_dom)
            size = lin.linear(step, lanes_dom)
            if size.terms:
                one = lin.linear(
                    build.mul(lin.to_expr(one, "int64"), lin.to_expr(size, "int64")), lanes_dom
                )
            else:
                one = lin.times(one, size.const)
            total = lin.plus(total, one)
    except ValueError:
        return None
    if b.elem_offset is not None:
        total = lin.plus(total, lin.linear(b.elem_offset, dom))
    step_of_lane = total.coef(LANE)
    rest = total.without([LANE])
    if any(walk.uses_var(a, LANE) for a in rest.atoms()):
        return Place(total, None, n)
    return Place(rest, step_of_lane, n)


def inside(b: Buffer, indices: tuple[Expr, ...], dom: lin.Dom) -> bool:
    """Are all indices within the buffer for all values in `dom`?"""
    for i, size in zip(indices, b.shape):
        n = dtypes.lanes(i.dtype)
        try:
            lo, hi = lin.interval(by_lane(i), {**dom, LANE: (0, n - 1)})
        except ValueError:
            return False
        if lo < 0 or type(size) is not IntImm or hi >= int(size.value):
            return False
    return True
