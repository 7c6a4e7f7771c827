"""Does an implementation compute what its description says? Both are run on small numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import RunError, UserError
from ..ir import dtypes, walk
from ..ir.build import const_int
from ..ir.interp import run
from ..ir.nodes import Buffer, Call, For, PrimFunc

_STEPS = 1 << 18
"""A description of more steps is not run."""

_DIGITS = {"float64": 1e-6, "float32": 1e-4}
"""What two ways to compute the same may differ by, as a part of it; of narrower floats 1e-2."""


def check_meaning(name: str, desc: PrimFunc, impl: PrimFunc) -> None:
    """Refuse an implementation that gives other results than its description.

    What calls C functions, has sizes that are not known, takes too long, or divides by numbers that
    happen to be zero, is taken as it is.

    Raises:
        UserError: the first element that differs, with both values.
    """
    if not (_can_run(desc) and _can_run(impl)):
        return
    for seed in (0, 1):
        want, got = _operands(desc, seed), _operands(desc, seed)
        try:
            run(desc, *want)
        except RunError:
            return  # these numbers mean nothing to it
        try:
            run(impl, *got)
        except RunError as e:
            raise UserError(
                f"tensor intrinsic {name!r}: impl fails where desc does not: {e.message}",
                hint="run both with gputune.ir.interp.run on the same arrays",
                code="intrin-differs",
            ) from None
        for b, x, y in zip(desc.buffers, want, got, strict=True):
            _compare(name, b, x, y, impl, desc)


def _can_run(func: PrimFunc) -> bool:
    shapes = [const_int(n) for b in func.buffers for n in b.shape]
    if any(type(n) is not int for n in shapes) or len(func.buffers) != len(func.params):
        return False
    loops = [const_int(s.extent) for s in walk.walk_stmt(func.body) if type(s) is For]
    if any(type(n) is not int for n in loops) or math.prod([n or 1 for n in loops]) > _STEPS:
        return False
    calls = [
        x.op
        for e in walk.all_exprs(func.body)
        for x in walk.walk_expr(e)
        if type(x) is Call
    ]  # fmt: skip
    return "call_extern" not in calls


def _operands(func: PrimFunc, seed: int) -> list[np.ndarray[Any, Any]]:
    """Whole numbers from -3 to 3, of which sums of products are exact."""
    rng = np.random.default_rng(seed)
    out = []
    for b in func.buffers:
        base = dtypes.scalar(b.dtype)
        least = -3 if dtypes.is_float(base) or base in dtypes.SIGNED else 0
        most = 1 if base == "bool" else 3
        shape = [const_int(n) or 0 for n in b.shape]
        values = rng.integers(least, most, shape, endpoint=True)
        out.append(values.astype(dtypes.numpy_dtype(b.dtype)))
    return out


def _compare(
    name: str, b: Buffer, want: Any, got: Any, impl: PrimFunc, desc: PrimFunc
) -> None:  # fmt: skip
    if dtypes.is_float(b.dtype):
        x, y = want.astype(np.float64), got.astype(np.float64)
        rtol = max(_DIGITS.get(b.dtype, 1e-2), float(dict(desc.attrs).get("tolerance", 0.0)))
        same = np.isclose(y, x, rtol=rtol, atol=rtol, equal_nan=True)
    else:
        same = want == got
    if same.all():
        return
    at = tuple(int(k[0]) for k in np.nonzero(~same))
    ops = {
        x.op
        for e in walk.all_exprs(impl.body)
        for x in walk.walk_expr(e)
        if type(x) is Call
    }  # fmt: skip
    hint = "run both with gputune.ir.interp.run on the same arrays"
    if any(op.startswith("wmma.mma.") for op in ops):
        hint = (
            "T.tvm_mma_sync is A @ B; for a B that lies as B[n, k] write "
            "T.call_intrin('float32x256', 'wmma.mma_trans.f16f16f32', c, a, b)"
        )
    raise UserError(
        f"tensor intrinsic {name!r}: impl gives {b.name}[{', '.join(map(str, at))}] = {got[at]}, "
        f"desc {want[at]}, on small whole numbers",
        hint=hint,
        code="intrin-differs",
    )
