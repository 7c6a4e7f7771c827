"""How much is computed at a store, and how do its loops run? Operations by kind, loop kinds, axes,
and operations against bytes as loops are added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

from ...ir import dtypes, walk
from ...ir.nodes import (
    BinaryOp,
    BinOp,
    Broadcast,
    BufferLoad,
    Call,
    Cast,
    Expr,
    FloatImm,
    IntImm,
    Let,
    Not,
    Ramp,
    Select,
    Shuffle,
    StringImm,
    Var,
)
from ...ir.ops import MATH
from .nests import Loop, Store

OPERATIONS = (
    "float_mad", "float_addsub", "float_mul", "float_divmod", "float_cmp", "float_mathfunc",
    "float_otherfunc", "int_mad", "int_addsub", "int_mul", "int_divmod", "int_cmp",
    "int_mathfunc", "int_otherfunc", "bool_op", "select_op",
)  # fmt: skip
"""What is counted. Nothing counts as a fused multiplication and addition: those are told apart."""

POSITIONS = (
    "kPosNone", "kPosInnerSpatial", "kPosMiddleSpatial", "kPosOuterSpatial", "kPosInnerReduce",
    "kPosMiddleReduce", "kPosOuterReduce", "kPosMixed",
)  # fmt: skip
KINDS = ("vec", "unroll", "parallel")
AXES = (
    "blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x", "threadIdx.y", "threadIdx.z", "vthread"
)  # fmt: skip

_KIND = {"vectorized": "vec", "unrolled": "unroll", "parallel": "parallel"}
_CLASS: dict[BinaryOp, str] = {
    "+": "addsub", "-": "addsub", "*": "mul", "/": "divmod", "//": "divmod", "%": "divmod",
    "truncmod": "divmod", "min": "cmp", "max": "cmp", "==": "cmp", "!=": "cmp", "<": "cmp",
    "<=": "cmp", ">": "cmp", ">=": "cmp",
    "&": "mathfunc", "|": "mathfunc", "^": "mathfunc", "<<": "mathfunc", ">>": "mathfunc",
}  # fmt: skip
_FLOATS = tuple(k for k, name in enumerate(OPERATIONS) if name.startswith("float"))


def slog2(x: float) -> float:
    """log2(|x| + 1) with the sign of x."""
    return math.copysign(math.log2(abs(x) + 1.0), x)


def product(loops: Sequence[Loop]) -> int:
    """How often what is inside runs."""
    out = 1
    for f in loops:
        out *= f.extent
    return out


def operations(store: Store) -> list[int]:
    """How often each of OPERATIONS takes place for what the store stores, indices of loads
    included."""
    counts = dict.fromkeys(OPERATIONS, 0)
    often = product(store.loops)
    for e in walk.walk_expr(store.value):
        kind = _operation(e)
        if kind:
            counts[kind] += often
    return list(counts.values())


def _operation(e: Expr) -> str:
    match e:
        case BinOp(op="and" | "or") | Not():
            return "bool_op"
        case BinOp():
            return f"{_number(e)}_{_CLASS[e.op]}"
        case Select():
            return "select_op"
        case Call():
            pure = e.op in MATH or e.op in ("if_then_else", "likely", "reinterpret")
            return f"{_number(e)}_{'mathfunc' if pure else 'otherfunc'}"
        case (
            Var() | IntImm() | FloatImm() | StringImm() | Cast() | BufferLoad() | Ramp()
            | Broadcast() | Shuffle() | Let()
        ):  # fmt: skip
            return ""
        case _:
            assert_never(e)


def _number(e: Expr) -> str:
    return "float" if dtypes.is_float(e.dtype) else "int"


def loop_features(store: Store) -> list[float]:
    """For each of KINDS: how many loops, their product, the length of the innermost, and which of
    POSITIONS they have (no loops: none; else: mixed)."""
    out: list[float] = []
    for kind in KINDS:
        mine = [f for f in store.loops if _KIND.get(f.kind) == kind]
        where = [0.0] * len(POSITIONS)
        where[-1 if mine else 0] = 1.0
        sizes = (len(mine), product(mine), mine[-1].extent) if mine else (0, 0, 0)
        out += [*map(slog2, sizes), *where]
    return out


def axis_features(store: Store, is_gpu: bool) -> list[float]:
    """Is it a GPU, and how long is each of AXES (1 where there is none)?"""
    out = [float(is_gpu)]
    for axis in AXES:
        mine = [f for f in store.loops if is_gpu and f.thread.startswith(axis)]
        out.append(slog2(mine[-1].extent if mine else 1))
    return out


def intensity_curve(
    store: Store, touched: Sequence[int], counts: Sequence[int], samples: int
) -> list[float]:
    """The arithmetic intensity, floating-point operations to bytes, where the k-th of `samples`
    equal parts of the work is done, going from the inner loops outwards; slog2 of it.

    Args:
        store: with its loops, outermost first.
        touched: bytes that each loop touches in one run of it, outermost first.
        counts: what `operations` says.
        samples: how many points.
    """
    work = sum(counts[k] for k in _FLOATS) / product(store.loops)
    if work <= 0 or not store.loops:
        return [0.0] * samples
    done: list[float] = []
    for f in reversed(store.loops):
        work *= f.extent
        done.append(work)
    ratio = [w / max(n, 1) for w, n in zip(done, reversed(touched), strict=True)]
    out: list[float] = []
    k = 0
    for sample in range(1, samples + 1):
        goal = sample / samples * done[-1]
        while k < len(done) - 1 and done[k] < goal - 1e-4:
            k += 1
        if k == 0 or done[k] == done[k - 1]:
            out.append(slog2(ratio[k]))
        else:
            slope = (ratio[k] - ratio[k - 1]) / (done[k] - done[k - 1])
            out.append(slog2(ratio[k - 1] + slope * (goal - done[k - 1])))
    return out
