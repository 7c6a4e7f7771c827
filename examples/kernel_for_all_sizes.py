"""Library author: one function for all sizes; tuned where somebody has tuned, never waiting."""

import tempfile

import numpy as np

import gputune as gt

work_dir = tempfile.mkdtemp()  # in a program: a folder that stays


@gt.jit(work_dir=work_dir)
def matmul(m, n, k):
    return gt.kernels.get("matmul").build(m=m, n=n, k=k)


a, b = np.random.rand(2, 32, 32).astype("float32")
print(matmul(32, 32, 32))  # the default schedule
matmul.tune(32, 32, 32, trials=8)
print(matmul(32, 32, 32))  # what tuning found; other programs with this folder get it, too
np.testing.assert_allclose(matmul(32, 32, 32)(a, b), a @ b, rtol=1e-4)
