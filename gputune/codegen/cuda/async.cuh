// How does a thread copy to shared memory while it does something else? With cp.async.
//
// N elements go in words of BYTES bytes, at multiples of which they lie on both sides. What a thread
// has copied since its last commit is a group; of a condition that does not hold zeros come, and
// nothing is read. Where there is no such instruction, a copy is made at once.

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
template <int BYTES> GT_DEVICE void gt_copy_word(unsigned to, const void* from, int there) {
  if (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 : : "r"(to), "l"(__cvta_generic_to_global(from)), "r"(there) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 : : "r"(to), "l"(__cvta_generic_to_global(from)), "n"(BYTES), "r"(there) : "memory");
}

template <typename T, int N, int BYTES>
GT_DEVICE void gt_copy_async(T* to, const T* from, bool there = true) {
  const unsigned at = (unsigned)__cvta_generic_to_shared(to);
#pragma unroll
  for (int i = 0; i < (int)(sizeof(T) * N / BYTES); ++i)
    gt_copy_word<BYTES>(at + i * BYTES, (const char*)from + i * BYTES, there ? BYTES : 0);
}

GT_DEVICE void gt_commit_copies() { asm volatile("cp.async.commit_group;" : : : "memory"); }
template <int LEFT> GT_DEVICE void gt_wait_copies() {
  asm volatile("cp.async.wait_group %0;" : : "n"(LEFT) : "memory");
}
#else
template <typename T, int N, int BYTES>
GT_DEVICE void gt_copy_async(T* to, const T* from, bool there = true) {
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = there ? from[i] : T();
}
GT_DEVICE void gt_commit_copies() {}
template <int LEFT> GT_DEVICE void gt_wait_copies() {}
#endif
