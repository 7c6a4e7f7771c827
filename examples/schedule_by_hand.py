"""Performance engineer: schedule by hand, watch, and compare with what tuning finds."""

import numpy as np

import gputune as gt

matmul = gt.kernels.get("matmul").build(m=64, n=64, k=64)
sch = gt.Schedule(matmul)
block = sch.get_block("C")
i, j, k = sch.get_loops(block)
j0, j1 = sch.split(j, [None, 16])
sch.reorder(i, j0, k, j1)
sch.vectorize(j1)
sch.decompose_reduction(block, k)
print(sch.diff())

a, b = np.random.rand(2, 64, 64).astype("float32")
tuned = gt.tune(matmul, "llvm -num-cores=1", trials=16)
entries = {"numpy": np.matmul, "as written": matmul, "by hand": sch, "tuned": tuned}
gt.bench(entries, (a, b), seconds=0.5).show()
