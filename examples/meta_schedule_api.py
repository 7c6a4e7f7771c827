"""MetaSchedule user: the parts under their own names, with a space of one's own."""

import tempfile

import gputune as gt
from gputune import meta_schedule as ms

matmul = gt.kernels.get("matmul").build(m=64, n=64, k=64)


def space(sch: gt.Schedule) -> None:
    i, j, k = sch.get_loops(sch.get_block("C"))
    j0, j1 = sch.split(j, sch.sample_perfect_tile(j, n=2))
    sch.reorder(i, j0, k, j1)


with tempfile.TemporaryDirectory() as work_dir:
    database = ms.tune_tir(matmul, "llvm -num-cores=1", work_dir, 64, space=ms.ScheduleFn(space))
    best = ms.compile_tir(database, matmul, "llvm -num-cores=1")
print(best.trace)
lib = gt.build(best.mod, "llvm -num-cores=1")
