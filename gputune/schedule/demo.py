"""On which small programs are primitives shown? Those of the examples in docstrings."""

from __future__ import annotations

from .schedule import Schedule

PROGRAMS = {
    "double": """
@T.prim_func(private=True)
def main(A: T.Buffer((8, 8), "float32"), B: T.Buffer((8, 8), "float32")):
    for i, j in T.grid(8, 8):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = A[vi, vj] * T.float32(2)
""",
    "row_sum": """
@T.prim_func(private=True)
def main(A: T.Buffer((8, 8), "float32"), S: T.Buffer((8,), "float32")):
    for i, j in T.grid(8, 8):
        with T.block("S"):
            vi, vj = T.axis.remap("SR", [i, j])
            with T.init():
                S[vi] = T.float32(0)
            S[vi] = S[vi] + A[vi, vj]
""",
    "stencil": """
@T.prim_func(private=True)
def main(A: T.Buffer((10,), "float32"), C: T.Buffer((8,), "float32")):
    B = T.alloc_buffer((10,))
    for i in range(10):
        with T.block("B"):
            vi = T.axis.spatial(10, i)
            B[vi] = A[vi] * T.float32(2)
    for i in range(8):
        with T.block("C"):
            vi = T.axis.spatial(8, i)
            C[vi] = B[vi] + B[vi + 1] + B[vi + 2]
""",
    "u8_matmul": """
@T.prim_func
def main(A: T.Buffer((8, 16), "uint8"), B: T.Buffer((32, 16), "int8"),
         C: T.Buffer((8, 32), "int32")):
    for i, j, k in T.grid(8, 32, 16):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = 0
            C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "int32") * T.cast(B[vj, vk], "int32")
""",
}


def demo_schedule(which: str = "double") -> Schedule:
    """A schedule of a small program: "double" (block B over i, j), "row_sum" (block S: i, j),
    "stencil" (block B over i, then block C, which reads three of B), "u8_matmul" (block C: i, j, k,
    of bytes).

    Example:
        >>> sch = demo_schedule("row_sum")
        >>> [sch.get(x).var.name for x in sch.get_loops(sch.get_block("S"))]
        ['i', 'j']
    """
    from ..script import from_source

    return Schedule(from_source(PROGRAMS[which]), seed=1)
