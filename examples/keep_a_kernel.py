"""Deployer: a tuned kernel as a folder of data, loaded elsewhere."""

import tempfile

import numpy as np

import gputune as gt

dense = gt.kernels.get("dense_bias_relu").build(m=32, n=64, k=48)
with tempfile.TemporaryDirectory() as folder:
    gt.tune(dense, trials=8).export(folder)
    f = gt.load(folder)  # compiled anew from the script: nothing in the folder is executed
rng = np.random.default_rng(0)
x, w, b = (rng.standard_normal(s, np.float32) for s in ((32, 48), (64, 48), (64,)))
np.testing.assert_allclose(f(x, w, b), np.maximum(x @ w.T + b, 0), rtol=1e-4, atol=1e-4)
print(f.report())
