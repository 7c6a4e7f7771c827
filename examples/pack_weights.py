"""Deployer: weights stay the same, so they get the layout that the fastest schedule wants."""

import numpy as np

import gputune as gt

dense = gt.kernels.get("dense_bias_relu").build(m=1, n=128, k=784)
f = gt.tune(dense, "llvm -num-cores=1", trials=32, seed=1, layout_free="W")
rng = np.random.default_rng(0)
x, w, b = (rng.standard_normal(s, np.float32) for s in ((1, 784), (128, 784), (128,)))
packed = f.pack(W=w)  # once
np.testing.assert_allclose(f(x, packed, b), np.maximum(x @ w.T + b, 0), rtol=1e-3, atol=1e-3)
print(packed)
gt.bench({"numpy": lambda x, w, b: np.maximum(x @ w.T + b, 0), "packed": f}, (x, w, b)).show()
