// Asynchronous copies to shared memory: they land when their group is waited for. The helpers of the
// device's `async.cuh` for cp.async, and CUDA's own.
#pragma once

GT_INLINE void __pipeline_memcpy_async(void* to, const void* from, gt_size bytes, gt_size zeros = 0) {
  gt_async_copy(to, from, bytes, zeros);
}
GT_INLINE void __pipeline_commit() { gt_async_commit(); }
GT_INLINE void __pipeline_wait_prior(int groups_left) { gt_async_wait(groups_left); }

template <typename T, int N, int BYTES>
GT_INLINE void gt_copy_async(T* to, const T* from, bool there = true) {
  for (int i = 0; i < int(sizeof(T) * N / BYTES); ++i)
    gt_async_copy((char*)to + i * BYTES, (const char*)from + i * BYTES, BYTES, there ? 0 : BYTES);
}
GT_INLINE void gt_commit_copies() { gt_async_commit(); }
template <int LEFT>
GT_INLINE void gt_wait_copies() {
  gt_async_wait(LEFT);
}
