"""What is attention, written plainly: scores, softmax over them, and the weighted sum of values?"""

from __future__ import annotations

import math

import numpy as np

from gputune.ir.nodes import PrimFunc
from gputune.script import tir as T

from .kernel import FLOATS, Array, Kernel, table
from .narrow import narrow


def _attention(
    batch: int, heads: int, seq: int, dim: int, dtype: str, acc: str, out: str
) -> PrimFunc:
    scale = 1.0 / math.sqrt(dim)

    @T.prim_func
    def attention(
        Q: T.Buffer((batch, heads, seq, dim), dtype),
        K: T.Buffer((batch, heads, seq, dim), dtype),
        V: T.Buffer((batch, heads, seq, dim), dtype),
        Y: T.Buffer((batch, heads, seq, dim), acc),
    ):
        dot = T.alloc_buffer((batch, heads, seq, seq), acc)
        score = T.alloc_buffer((batch, heads, seq, seq), acc)
        top = T.alloc_buffer((batch, heads, seq), acc)
        power = T.alloc_buffer((batch, heads, seq, seq), acc)
        total = T.alloc_buffer((batch, heads, seq), acc)
        weight = T.alloc_buffer((batch, heads, seq, seq), acc)
        for b, h, i, j, r in T.grid(batch, heads, seq, seq, dim):
            with T.block("dot"):
                vb, vh, vi, vj, vr = T.axis.remap("SSSSR", [b, h, i, j, r])
                with T.init():
                    dot[vb, vh, vi, vj] = 0
                dot[vb, vh, vi, vj] = dot[vb, vh, vi, vj] + T.Cast(acc, Q[vb, vh, vi, vr]) * T.Cast(
                    acc, K[vb, vh, vj, vr]
                )
        for b, h, i, j in T.grid(batch, heads, seq, seq):
            with T.block("score"):
                vb, vh, vi, vj = T.axis.remap("SSSS", [b, h, i, j])
                score[vb, vh, vi, vj] = dot[vb, vh, vi, vj] * scale
        for b, h, i, j in T.grid(batch, heads, seq, seq):
            with T.block("top"):
                vb, vh, vi, vj = T.axis.remap("SSSR", [b, h, i, j])
                with T.init():
                    top[vb, vh, vi] = T.min_value(acc)
                top[vb, vh, vi] = T.max(top[vb, vh, vi], score[vb, vh, vi, vj])
        for b, h, i, j in T.grid(batch, heads, seq, seq):
            with T.block("power"):
                vb, vh, vi, vj = T.axis.remap("SSSS", [b, h, i, j])
                power[vb, vh, vi, vj] = T.exp(score[vb, vh, vi, vj] - top[vb, vh, vi])
        for b, h, i, j in T.grid(batch, heads, seq, seq):
            with T.block("total"):
                vb, vh, vi, vj = T.axis.remap("SSSR", [b, h, i, j])
                with T.init():
                    total[vb, vh, vi] = 0
                total[vb, vh, vi] = total[vb, vh, vi] + power[vb, vh, vi, vj]
        for b, h, i, j in T.grid(batch, heads, seq, seq):
            with T.block("weight"):
                vb, vh, vi, vj = T.axis.remap("SSSS", [b, h, i, j])
                weight[vb, vh, vi, vj] = power[vb, vh, vi, vj] / total[vb, vh, vi]
        for b, h, i, d, j in T.grid(batch, heads, seq, dim, seq):
            with T.block("Y"):
                vb, vh, vi, vd, vj = T.axis.remap("SSSSR", [b, h, i, d, j])
                with T.init():
                    Y[vb, vh, vi, vd] = 0
                Y[vb, vh, vi, vd] = Y[vb, vh, vi, vd] + weight[vb, vh, vi, vj] * T.Cast(
                    acc, V[vb, vh, vj, vd]
                )

    return narrow(attention, "Y", out)


def _reference(q: Array, k: Array, v: Array, /, *, dim: int, **_: int) -> tuple[Array, ...]:
    scores = (q @ k.swapaxes(-1, -2)) * (1.0 / math.sqrt(dim))
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return (scores @ v,)


KERNELS = table(
    Kernel(
        "attention",
        _attention,
        _reference,
        outputs=("Y",),
        shapes={"batch": 1, "heads": 12, "seq": 128, "dim": 64},
        check_shapes=(
            {"batch": 1, "heads": 2, "seq": 8, "dim": 4},
            {"batch": 2, "heads": 1, "seq": 7, "dim": 5},
            {"batch": 1, "heads": 1, "seq": 33, "dim": 2},
            {"batch": 1, "heads": 1000, "seq": 2, "dim": 1},
            {"batch": 1, "heads": 3, "seq": 1, "dim": 13},
        ),
        # two products; scale, maximum, subtraction, sum and division of each score
        flops=lambda batch, heads, seq, dim: batch * heads * seq * seq * (4 * dim + 5),
        dtypes=FLOATS,
        exact=False,
    ),
)
