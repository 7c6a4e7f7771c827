"""How does a scheduled program become CUDA C++, and that a cubin?"""
