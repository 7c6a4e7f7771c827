"""Kernel author: a script in, a tuned callable out."""

import numpy as np

import gputune as gt
from gputune.script import tir as T


@T.prim_func
def matmul(A: T.Buffer((64, 64)), B: T.Buffer((64, 64)), C: T.Buffer((64, 64))):
    for i, j, k in T.grid(64, 64, 64):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.float32(0)
            C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]


f = gt.tune(matmul, trials=16)
a, b = np.random.rand(2, 64, 64).astype("float32")
np.testing.assert_allclose(f(a, b), a @ b, rtol=1e-4)
print(f.report())
