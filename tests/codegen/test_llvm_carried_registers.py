"""Is a temporary that a loop sets only under a condition carried from iteration to iteration?

Found by random schedules (`ci/properties`, seeds 1004792, 1007247 and 2007325): registers that had
no value before a loop were not carried around it.
"""

from __future__ import annotations

import numpy as np
import pytest

from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc
from gputune.runtime.module import build
from gputune.script import tir as T


@T.prim_func
def set_in_the_first_iteration(X: T.Buffer((4, 3), "float32"), Y: T.Buffer((3,), "float32")):
    R = T.alloc_buffer((3,))
    for k in range(4):
        for i in T.unroll(3):
            with T.block("R"):
                vk, vi = T.axis.remap("OS", [k, i])
                T.reads(R[vi], X[vk, vi])
                T.writes(R[vi])
                if vk == 0:
                    R[vi] = T.float32(1)
                R[vi] = R[vi] * T.float32(2) + X[vk, vi]
    for i in range(3):
        with T.block("Y"):
            vi = T.axis.spatial(3, i)
            Y[vi] = R[vi]


@T.prim_func
def set_only_once(X: T.Buffer((8,), "float32"), Y: T.Buffer((1,), "float32")):
    S = T.alloc_buffer((1,))
    for u, k in T.grid(2, 8):
        with T.block("S"):
            vi = T.axis.spatial(1, 0)
            vk = T.axis.reduce(8, k)
            T.where(u < 1)
            with T.init():
                S[vi] = T.float32(0)
            S[vi] = S[vi] + X[vk]
    for i in range(1):
        with T.block("Y"):
            vi = T.axis.spatial(1, i)
            Y[vi] = S[vi]


@T.prim_func
def read_before_set(X: T.Buffer((6,), "float32"), Y: T.Buffer((6,), "float32")):
    R = T.alloc_buffer((1,))
    for k in range(6):
        with T.block("Y"):
            vk = T.axis.opaque(6, k)
            T.reads(R[0], X[vk])
            T.writes(R[0], Y[vk])
            if vk > 0:
                Y[vk] = R[0]
            else:
                Y[vk] = T.float32(-1)
            R[0] = X[vk]


@pytest.mark.parametrize(
    "func", [set_in_the_first_iteration, set_only_once, read_before_set], ids=lambda f: f.name
)
def test_the_value_is_carried(func: PrimFunc) -> None:
    rng = np.random.default_rng(0)
    shapes = [tuple(int(n.value) for n in b.shape) for b in func.buffers]
    want = [rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes]
    got = [a.copy() for a in want]
    run(func, *want)
    build(func, "llvm --num-cores=1")[func.name](*got)
    for a, b in zip(want, got, strict=True):
        assert np.array_equal(a, b)
