"""Programs that exercise the CPU back end, as script text; small, and many with odd sizes."""

from __future__ import annotations


def tiled_matmul(
    n: int, i: list[int], j: list[int], k: list[int], *, step: int = 16, loop: str = "parallel"
) -> str:
    """The form that the tutorial's search ends with: SSRSRS tiles, cache write, vectors."""
    i0, i1, i2, i3 = i
    j0, j1, j2, j3 = j
    k0, k1 = k
    ti, tj = i2 * i3, j2 * j3
    at_i, at_j = f"f // {j0 * j1} * {ti}", f"f % {j0 * j1} * {tj}"
    return f"""
@T.prim_func
def main(A: T.Buffer(({n}, {n}), "float32"), B: T.Buffer(({n}, {n}), "float32"), C: T.Buffer(({n}, {n}), "float32")):
    T.func_attr({{"global_symbol": "main", "tir.noalias": True}})
    C_global = T.alloc_buffer([{n}, {n}], dtype="float32")
    for f in T.{loop}({i0 * i1 * j0 * j1}, annotations={{"pragma_auto_unroll_max_step": {step}, "pragma_unroll_explicit": 1}}):
        for i_2_init, j_2_init, i_3_init in T.grid({i2}, {j2}, {i3}):
            for j_3_init in T.vectorized({j3}):
                with T.block("C_init"):
                    vi = T.axis.spatial({n}, {at_i} + i_2_init * {i3} + i_3_init)
                    vj = T.axis.spatial({n}, {at_j} + j_2_init * {j3} + j_3_init)
                    C_global[vi, vj] = T.float32(0)
        for k_0, i_2, j_2, k_1, i_3 in T.grid({k0}, {i2}, {j2}, {k1}, {i3}):
            for j_3 in T.vectorized({j3}):
                with T.block("C_update"):
                    vi = T.axis.spatial({n}, {at_i} + i_2 * {i3} + i_3)
                    vj = T.axis.spatial({n}, {at_j} + j_2 * {j3} + j_3)
                    vk = T.axis.reduce({n}, k_0 * {k1} + k_1)
                    C_global[vi, vj] = C_global[vi, vj] + A[vi, vk] * B[vk, vj]
        for ax0 in range({ti}):
            for ax1 in T.vectorized({tj}):
                with T.block("C_global"):
                    v0 = T.axis.spatial({n}, {at_i} + ax0)
                    v1 = T.axis.spatial({n}, {at_j} + ax1)
                    C[v0, v1] = C_global[v0, v1]
"""  # noqa: E501


def guarded_matmul(n: int, m: int, k: int, ti: int, tj: int, tk: int) -> str:
    """Tiles that do not divide the extents, with predicates; init inside the block."""
    ni, nj, nk = -(-n // ti), -(-m // tj), -(-k // tk)
    return f"""
@T.prim_func
def main(A: T.Buffer(({n}, {k}), "float32"), B: T.Buffer(({k}, {m}), "float32"), C: T.Buffer(({n}, {m}), "float32")):
    for i_0, j_0, k_0, k_1, i_1 in T.grid({ni}, {nj}, {nk}, {tk}, {ti}):
        for j_1 in T.vectorized({tj}):
            with T.block("C"):
                vi = T.axis.spatial({n}, i_0 * {ti} + i_1)
                vj = T.axis.spatial({m}, j_0 * {tj} + j_1)
                vk = T.axis.reduce({k}, k_0 * {tk} + k_1)
                T.where(i_0 * {ti} + i_1 < {n} and j_0 * {tj} + j_1 < {m} and k_0 * {tk} + k_1 < {k})
                with T.init():
                    C[vi, vj] = T.float32(0)
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]
"""  # noqa: E501


CONV2D = """
@T.prim_func
def main(X: T.Buffer((1, 6, 7, 3), "float32"), W: T.Buffer((3, 3, 3, 8), "float32"), Y: T.Buffer((1, 6, 7, 8), "float32")):
    P = T.alloc_buffer((1, 8, 9, 3), "float32")
    for n, h, w, c in T.grid(1, 8, 9, 3):
        with T.block("P"):
            vn, vh, vw, vc = T.axis.remap("SSSS", [n, h, w, c])
            P[vn, vh, vw, vc] = T.if_then_else(1 <= vh and vh < 7 and 1 <= vw and vw < 8, X[vn, vh - 1, vw - 1, vc], T.float32(0))
    for n, h, w, rh, rw, rc in T.grid(1, 6, 7, 3, 3, 3):
        for o in T.vectorized(8):
            with T.block("Y"):
                vn, vh, vw, vo, vrh, vrw, vrc = T.axis.remap("SSSSRRR", [n, h, w, o, rh, rw, rc])
                with T.init():
                    Y[vn, vh, vw, vo] = T.float32(0)
                Y[vn, vh, vw, vo] = Y[vn, vh, vw, vo] + P[vn, vh + vrh, vw + vrw, vrc] * W[vrh, vrw, vrc, vo]
"""  # noqa: E501

CONV2D_INLINED = """
@T.prim_func
def main(X: T.Buffer((6, 21), "float32"), W: T.Buffer((3, 3), "float32"), Y: T.Buffer((6, 21), "float32")):
    for h in T.parallel(6):
        for rh, rw in T.grid(3, 3):
            for w in T.vectorized(21):
                with T.block("Y"):
                    vh, vw, vrh, vrw = T.axis.remap("SSRR", [h, w, rh, rw])
                    with T.init():
                        Y[vh, vw] = T.float32(0)
                    Y[vh, vw] = Y[vh, vw] + T.if_then_else(1 <= vh + vrh and vh + vrh < 7 and 1 <= vw + vrw and vw + vrw < 22, X[vh + vrh - 1, vw + vrw - 1], T.float32(0)) * W[vrh, vrw]
"""  # noqa: E501

SOFTMAX = """
@T.prim_func
def main(X: T.Buffer((5, 37), "float32"), Y: T.Buffer((5, 37), "float32")):
    M = T.alloc_buffer((5,), "float32")
    E = T.alloc_buffer((5, 37), "float32")
    S = T.alloc_buffer((5,), "float32")
    for i in T.parallel(5):
        for k in range(37):
            with T.block("M"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    M[vi] = T.min_value("float32")
                M[vi] = T.max(M[vi], X[vi, vk])
        for k in T.vectorized(37):
            with T.block("E"):
                vi, vk = T.axis.remap("SS", [i, k])
                E[vi, vk] = T.exp(X[vi, vk] - M[vi])
        for k in range(37):
            with T.block("S"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    S[vi] = T.float32(0)
                S[vi] = S[vi] + E[vi, vk]
        for k in T.vectorized(37):
            with T.block("Y"):
                vi, vk = T.axis.remap("SS", [i, k])
                Y[vi, vk] = E[vi, vk] / S[vi]
"""

ARGMAX = """
@T.prim_func
def main(X: T.Buffer((7, 19), "float32"), V: T.Buffer((7,), "float32"), I: T.Buffer((7,), "int32")):
    for i, k in T.grid(7, 19):
        with T.block("argmax"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                V[vi] = T.min_value("float32")
                I[vi] = -1
            v: T.float32 = T.Select(V[vi] >= X[vi, vk], V[vi], X[vi, vk])
            n: T.int32 = T.Select(V[vi] >= X[vi, vk], I[vi], vk)
            V[vi] = v
            I[vi] = n
"""

POOL = """
@T.prim_func
def main(X: T.Buffer((2, 9, 11), "float32"), Y: T.Buffer((2, 4, 5), "float32")):
    for c, h, w, rh, rw in T.grid(2, 4, 5, 3, 3):
        with T.block("pool"):
            vc, vh, vw, vrh, vrw = T.axis.remap("SSSRR", [c, h, w, rh, rw])
            with T.init():
                Y[vc, vh, vw] = T.min_value("float32")
            Y[vc, vh, vw] = T.max(Y[vc, vh, vw], X[vc, vh * 2 + vrh, vw * 2 + vrw])
"""

TRANSPOSED_CONV = """
@T.prim_func
def main(X: T.Buffer((5, 6), "float32"), W: T.Buffer((4, 3), "float32"), Y: T.Buffer((12, 3), "float32")):
    for w, r, o in T.grid(12, 4, 3):
        with T.block("Y"):
            vw, vr, vo = T.axis.remap("SRS", [w, r, o])
            with T.init():
                Y[vw, vo] = T.float32(0)
            Y[vw, vo] = Y[vw, vo] + T.if_then_else((vw + vr - 3) % 2 == 0 and 0 <= vw + vr - 3 and (vw + vr - 3) // 2 < 5, X[(vw + vr - 3) // 2, vo], T.float32(0)) * W[vr, vo]
"""  # noqa: E501


def elementwise(dtype: str, n: int, expression: str, out: str | None = None) -> str:
    """`Z[i] = expression` of `A[v]`, `B[v]`, `v`, vectorized."""
    return f'''
@T.prim_func
def main(A: T.Buffer(({n},), "{dtype}"), B: T.Buffer(({n},), "{dtype}"), Z: T.Buffer(({n},), "{out or dtype}")):
    for i in T.vectorized({n}):
        with T.block("Z"):
            v = T.axis.spatial({n}, i)
            Z[v] = {expression}
'''  # noqa: E501
