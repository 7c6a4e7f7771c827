"""How are kernels run and observed? Arrays, calls, timing, and worker processes."""
