"""Owner of CUDA source: say which constants may vary, and let gputune find the best of them."""

import numpy as np

import gputune as gt

SOURCE = """extern "C" __global__ void saxpy(float* y, const float* x, float a, int n) {
  int first = (blockIdx.x * BX + threadIdx.x) * VEC;
  for (int i = first; i < first + VEC && i < n; ++i) y[i] = a * x[i];
}"""
saxpy = gt.cuda_kernel(
    "saxpy",
    source=SOURCE,
    params={"BX": [64, 128], "VEC": [1, 2, 4]},
    grid=lambda p, y, x, a, n: gt.cdiv(int(n), p.BX * p.VEC),
    block=lambda p: p.BX,
    outputs=("y",),
)
x = np.random.rand(1000).astype("float32")
args = (np.empty_like(x), x, np.float32(2), np.int32(x.size))
where = {"target": "cuda -arch=sm_80", "runner": "host"}  # without a GPU; leave it out with one
found = gt.tune_kernel(saxpy, args=args, reference=lambda y, x, a, n: {"y": a * x}, **where)
print(found.table(), found.best.params)
