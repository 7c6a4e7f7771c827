"""Deployer: a tuned kernel as a folder of data, loaded elsewhere."""

import tempfile

import numpy as np

import gputune as gt

softmax = gt.kernels.get("softmax").build(m=64, n=64)
with tempfile.TemporaryDirectory() as folder:
    gt.tune(softmax, trials=8).export(folder)
    f = gt.load(folder)  # compiled anew from the script: nothing in the folder is executed
x = np.random.rand(64, 64).astype("float32")
np.testing.assert_allclose(f(x).sum(axis=1), np.ones(64), rtol=1e-5)
print(f.report())
