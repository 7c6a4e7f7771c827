"""Performance engineer with a GPU in mind: bind, share, build and read, on any machine."""

import gputune as gt

row_sums = gt.kernels.get("row_sum").build(m=1000, n=4096)
sch = gt.Schedule(row_sums)
(block,) = sch.get_child_blocks(sch.get_block("root"))
row, column = sch.get_loops(block)
step, thread = sch.split(column, [None, 256])
sch.bind(row, "blockIdx.x")
sch.bind(thread, "threadIdx.x")  # 256 threads share the sum of a row
lib = gt.build(sch, "cuda -arch=sm_80")
print(lib.inspect_source())
print(lib.occupancy)
