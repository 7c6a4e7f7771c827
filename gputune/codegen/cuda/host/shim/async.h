// Asynchronous copies to shared memory: they land when their group is waited for. The helpers of the
// device prelude for cp.async (and later mbarrier, bulk copies, tensor cores) belong here.
#pragma once

GT_INLINE void __pipeline_memcpy_async(void* to, const void* from, gt_size bytes, gt_size zeros = 0) {
  gt_async_copy(to, from, bytes, zeros);
}
GT_INLINE void __pipeline_commit() { gt_async_commit(); }
GT_INLINE void __pipeline_wait_prior(int groups_left) { gt_async_wait(groups_left); }
