"""Which programs do the schedule tests start from? Small ones where a wrong step shows."""

from __future__ import annotations

from gputune.ir.nodes import IRModule, PrimFunc
from gputune.script import tir as T
from tests.properties.programs import where_sum


def tutorial() -> IRModule:
    """The running example: C[128, 128] = A B."""

    @T.prim_func
    def main(
        A: T.Buffer((128, 128), "float32"),
        B: T.Buffer((128, 128), "float32"),
        C: T.Buffer((128, 128), "float32"),
    ):
        T.func_attr({"global_symbol": "main", "tir.noalias": True})
        for i, j, k in T.grid(128, 128, 128):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = 0.0
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]

    return IRModule({"main": main})


def copy2d(m: int = 4, n: int = 6) -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((m, n), "float32"), Y: T.Buffer((m, n), "float32")):
        for i, j in T.grid(m, n):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = X[vi, vj] + 1.0

    return f


def row_sum(m: int = 4, n: int = 7) -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((m, n), "float32"), Y: T.Buffer((m,), "float32")):
        for i, k in T.grid(m, n):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]

    return f


def chain() -> PrimFunc:
    """B then Y, elementwise."""

    @T.prim_func
    def f(X: T.Buffer((4, 6), "float32"), Y: T.Buffer((4, 6), "float32")):
        B = T.alloc_buffer((4, 6))
        for i, j in T.grid(4, 6):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] + 1.0
        for i, j in T.grid(4, 6):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = B[vi, vj] * 2.0

    return f


def halo() -> PrimFunc:
    """A stencil over a stencil: what is computed twice at the borders must not be added twice."""

    @T.prim_func
    def f(X: T.Buffer((12,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((10,))
        for i in range(10):
            with T.block("B"):
                vi = T.axis.spatial(10, i)
                B[vi] = X[vi] + X[vi + 1] * 2.0 + X[vi + 2]
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[vi] - B[vi + 1] + B[vi + 2]

    return f


def reduced_halo() -> PrimFunc:
    """Row sums that a stencil reads three at a time."""

    @T.prim_func
    def f(X: T.Buffer((10, 5), "float32"), Y: T.Buffer((8,), "float32")):
        S = T.alloc_buffer((10,))
        for i, k in T.grid(10, 5):
            with T.block("S"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    S[vi] = 0.0
                S[vi] = S[vi] + X[vi, vk]
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = S[vi] + S[vi + 1] * 2.0 - S[vi + 2]

    return f


def padded_conv() -> PrimFunc:
    @T.prim_func
    def f(
        X: T.Buffer((5, 5, 2), "float32"),
        W: T.Buffer((3, 3, 2, 4), "float32"),
        O: T.Buffer((5, 5, 4), "float32"),  # noqa: E741
    ):
        P = T.alloc_buffer((7, 7, 2))
        for h, w, c in T.grid(7, 7, 2):
            with T.block("P"):
                vh, vw, vc = T.axis.remap("SSS", [h, w, c])
                P[vh, vw, vc] = T.if_then_else(
                    vh >= 1 and vh < 6 and vw >= 1 and vw < 6, X[vh - 1, vw - 1, vc], 0.0
                )
        for h, w, o, r, s, c in T.grid(5, 5, 4, 3, 3, 2):
            with T.block("O"):
                vh, vw, vo, vr, vs, vc = T.axis.remap("SSSRRR", [h, w, o, r, s, c])
                with T.init():
                    O[vh, vw, vo] = 0.0
                O[vh, vw, vo] = O[vh, vw, vo] + P[vh + vr, vw + vs, vc] * W[vr, vs, vc, vo]

    return f


def diamond() -> PrimFunc:
    """One producer, consumers that read it forwards, backwards, strided and divided."""

    @T.prim_func
    def f(X: T.Buffer((20,), "float32"), Z: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((20,))
        C = T.alloc_buffer((8,))
        D = T.alloc_buffer((8,))
        for i in range(20):
            with T.block("B"):
                vi = T.axis.spatial(20, i)
                B[vi] = X[vi] * 2.0
        for i in range(8):
            with T.block("C"):
                vi = T.axis.spatial(8, i)
                C[vi] = B[vi * 2] + B[vi + 9]
        for i in range(8):
            with T.block("D"):
                vi = T.axis.spatial(8, i)
                D[vi] = B[15 - vi] + B[vi // 2] - C[vi]
        for i in range(8):
            with T.block("Z"):
                vi = T.axis.spatial(8, i)
                Z[vi] = C[vi] * D[vi] + D[7 - vi] + B[vi % 3]

    return f


def wide_indices() -> PrimFunc:
    """64-bit loops over a 32-bit producer."""

    @T.prim_func
    def f(X: T.Buffer((9,), "float32"), Y: T.Buffer((T.int64(8),), "float32")):
        B = T.alloc_buffer((9,))
        for i in range(9):
            with T.block("B"):
                vi = T.axis.spatial(9, i)
                B[vi] = X[vi] + T.Cast("float32", vi)
        for i in range(T.int64(8)):
            with T.block("Y"):
                vi = T.axis.spatial(T.int64(8), i)
                Y[vi] = B[vi] + B[vi + T.int64(1)]

    return f


def wide_matmul() -> PrimFunc:
    @T.prim_func
    def f(
        A: T.Buffer((T.int64(5), T.int64(6)), "float32"),
        B: T.Buffer((T.int64(6), T.int64(4)), "float32"),
        C: T.Buffer((T.int64(5), T.int64(4)), "float32"),
    ):
        for i, j, k in T.grid(T.int64(5), T.int64(4), T.int64(6)):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = 0.0
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]

    return f


def fused_reduction() -> PrimFunc:
    """One loop that drives a spatial and a reduce iterator."""

    @T.prim_func
    def f(X: T.Buffer((6, 8), "float32"), Y: T.Buffer((6,), "float32")):
        for q in range(48):
            with T.block("Y"):
                vi = T.axis.spatial(6, q // 8)
                vk = T.axis.reduce(8, q % 8)
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]

    return f


def arg_max() -> PrimFunc:
    """Two results of one reduction, with ties; both are read afterwards."""

    @T.prim_func
    def f(
        X: T.Buffer((4, 7), "float32"),
        V: T.Buffer((4,), "float32"),
        I: T.Buffer((4,), "int32"),  # noqa: E741
    ):
        M = T.alloc_buffer((4,))
        J = T.alloc_buffer((4,), "int32")
        for i, k in T.grid(4, 7):
            with T.block("A"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    M[vi] = T.min_value("float32")
                    J[vi] = -1
                J[vi] = T.Select(X[vi, vk] > M[vi], vk, J[vi])
                M[vi] = T.max(M[vi], X[vi, vk])
        for i in range(4):
            with T.block("V"):
                vi = T.axis.spatial(4, i)
                V[vi] = M[vi] + M[3 - vi]
        for i in range(4):
            with T.block("I"):
                vi = T.axis.spatial(4, i)
                I[vi] = J[vi]

    return f


def guarded() -> PrimFunc:
    """Blocks under conditions: one that produces, one that is the result."""

    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi] + 1.0
        for i in range(8):
            if i < 5:
                with T.block("Y"):
                    vi = T.axis.spatial(8, i)
                    Y[vi] = B[vi] * 2.0

    return f


def guarded_sum() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((8, 6), "float32"), Y: T.Buffer((8,), "float32")):
        for i in range(8):
            if i < 5:
                for k in range(6):
                    with T.block("Y"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        with T.init():
                            Y[vi] = 0.0
                        Y[vi] = Y[vi] + X[vi, vk]

    return f


def part_of_domain() -> PrimFunc:
    """Loops shorter than the domains of the iterators."""

    @T.prim_func
    def f(X: T.Buffer((8, 8), "float32"), Y: T.Buffer((8,), "float32")):
        S = T.alloc_buffer((8,))
        for i, k in T.grid(8, 4):
            with T.block("S"):
                vi = T.axis.spatial(8, i)
                vk = T.axis.reduce(8, k)
                with T.init():
                    S[vi] = 0.0
                S[vi] = S[vi] + X[vi, vk]
        for i in range(5):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = S[vi] * 2.0

    return f


def triangle() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((6, 6), "float32"), Y: T.Buffer((6, 6), "float32")):
        for i in range(6):
            for j in range(i + 1):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SS", [i, j])
                    Y[vi, vj] = X[vi, vj] + 1.0

    return f


def triangle_sum() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((6, 6), "float32"), Y: T.Buffer((6,), "float32")):
        for i in range(6):
            for j in range(i + 1):
                with T.block("Y"):
                    vi, vj = T.axis.remap("SR", [i, j])
                    with T.init():
                        Y[vi] = 0.0
                    Y[vi] = Y[vi] + X[vi, vj]

    return f


def prefix_sum() -> PrimFunc:
    """A block that reads a reduction while it goes on."""

    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Q: T.Buffer((8,), "float32")):
        S = T.alloc_buffer((1,))
        for k in range(8):
            with T.block("S"):
                vk = T.axis.reduce(8, k)
                with T.init():
                    S[0] = 0.0
                S[0] = S[0] + X[vk]
            with T.block("Q"):
                vk = T.axis.spatial(8, k)
                Q[vk] = S[0]

    return f


def recurrence() -> PrimFunc:
    """A reduction that also reads what it wrote elsewhere: its order matters."""

    @T.prim_func
    def f(X: T.Buffer((8, 4), "float32"), Y: T.Buffer((9,), "float32")):
        for i, k in T.grid(8, 4):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi + 1] = 0.0
                Y[vi + 1] = Y[vi + 1] + X[vi, vk] * Y[vi]

    return f


def init_from_producer() -> PrimFunc:
    @T.prim_func
    def f(
        X: T.Buffer((6, 5), "float32"), b: T.Buffer((6,), "float32"), Y: T.Buffer((6,), "float32")
    ):
        P = T.alloc_buffer((6,))
        for i in range(6):
            with T.block("P"):
                vi = T.axis.spatial(6, i)
                P[vi] = b[vi] + 1.0
        for i, k in T.grid(6, 5):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = P[vi]
                Y[vi] = Y[vi] + X[vi, vk]

    return f


def nested_blocks() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((8, 8), "float32"), Y: T.Buffer((8, 8), "float32")):
        B = T.alloc_buffer((8, 8))
        for i, j in T.grid(8, 8):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] + 1.0
        for io, jo in T.grid(2, 2):
            with T.block("outer"):
                vio, vjo = T.axis.remap("SS", [io, jo])
                T.reads(B[vio * 4 : vio * 4 + 4, vjo * 4 : vjo * 4 + 4])
                T.writes(Y[vio * 4 : vio * 4 + 4, vjo * 4 : vjo * 4 + 4])
                for i, j in T.grid(4, 4):
                    with T.block("inner"):
                        vi, vj = T.axis.remap("SS", [i, j])
                        T.reads(B[vio * 4 + vi, vjo * 4 + vj])
                        T.writes(Y[vio * 4 + vi, vjo * 4 + vj])
                        Y[vio * 4 + vi, vjo * 4 + vj] = B[vio * 4 + vi, vjo * 4 + vj] * 2.0

    return f


def views() -> PrimFunc:
    """A block that looks at rows through match_buffer."""

    @T.prim_func
    def f(X: T.Buffer((8, 8), "float32"), Y: T.Buffer((8, 8), "float32")):
        B = T.alloc_buffer((8, 8))
        for i, j in T.grid(8, 8):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] + 1.0
        for io in range(8):
            with T.block("Y"):
                vio = T.axis.spatial(8, io)
                T.reads(B[vio, 0:8])
                T.writes(Y[vio, 0:8])
                R = T.match_buffer(B[vio, 0:8], (8,), "float32", offset_factor=1)
                W = T.match_buffer(Y[vio, 0:8], (8,), "float32", offset_factor=1)
                for j in range(8):
                    W[j] = R[7 - j] * 2.0

    return f


def loose_store() -> PrimFunc:
    """A statement that stands outside any block."""

    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32"), Z: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi] + 1.0
        for i in range(8):
            Z[i] = B[i]
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[vi] * 2.0

    return f


def loaded_condition() -> PrimFunc:
    """A condition that reads what a block writes."""

    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32"), Z: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                vi = T.axis.spatial(8, i)
                B[vi] = X[vi] + 1.0
        for i in range(8):
            with T.block("Z"):
                vi = T.axis.spatial(8, i)
                Z[vi] = B[vi] * 2.0
        for i in range(8):
            if B[i] > 0.0:
                with T.block("Y"):
                    vi = T.axis.spatial(8, i)
                    Y[vi] = 1.0

    return f


def opaque_rows() -> PrimFunc:
    """A block without iterators, which uses its loop directly."""

    @T.prim_func
    def f(X: T.Buffer((8,), "float32"), Y: T.Buffer((8,), "float32")):
        B = T.alloc_buffer((8,))
        for i in range(8):
            with T.block("B"):
                T.reads(X[i])
                T.writes(B[i])
                B[i] = X[i] + 1.0
        for i in range(8):
            with T.block("Y"):
                vi = T.axis.spatial(8, i)
                Y[vi] = B[vi] * 2.0

    return f


def horner() -> PrimFunc:
    """A reduction whose combiner is no plain operator: its order matters."""

    @T.prim_func
    def f(X: T.Buffer((3, 6), "float64"), Y: T.Buffer((3,), "float64")):
        for i, k in T.grid(3, 6):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = T.float64(0)
                Y[vi] = Y[vi] * T.float64(3) + X[vi, vk]

    return f


def downsample() -> PrimFunc:
    """Strided, transposed and reversed reads of one producer; sums of its digits."""

    @T.prim_func
    def f(X: T.Buffer((9, 8), "int32"), Y: T.Buffer((4, 4), "int32"), Z: T.Buffer((8, 9), "int32")):
        B = T.alloc_buffer((9, 8), "int32")
        for i, j in T.grid(9, 8):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = X[vi, vj] * 3
        for i, j, r, s in T.grid(4, 4, 3, 2):
            with T.block("Y"):
                vi, vj, vr, vs = T.axis.remap("SSRR", [i, j, r, s])
                with T.init():
                    Y[vi, vj] = 0
                Y[vi, vj] = Y[vi, vj] + B[vi * 2 + vr, vj * 2 + vs]
        for i, j in T.grid(8, 9):
            with T.block("Z"):
                vi, vj = T.axis.remap("SS", [i, j])
                Z[vi, vj] = B[8 - vj, vi] + vi * vj

    return f


def late_start() -> PrimFunc:
    """A predicate that skips the first point of the reduction: it is never initialised."""

    @T.prim_func
    def f(X: T.Buffer((6, 8), "float32"), Y: T.Buffer((6,), "float32")):
        for i, k in T.grid(6, 8):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                T.where(k >= 2)
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]

    return f


def softmax() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((4, 6), "float32"), Y: T.Buffer((4, 6), "float32")):
        M = T.alloc_buffer((4,))
        E = T.alloc_buffer((4, 6))
        S = T.alloc_buffer((4,))
        for i, k in T.grid(4, 6):
            with T.block("M"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    M[vi] = T.min_value("float32")
                M[vi] = T.max(M[vi], X[vi, vk])
        for i, j in T.grid(4, 6):
            with T.block("E"):
                vi, vj = T.axis.remap("SS", [i, j])
                E[vi, vj] = T.exp2(X[vi, vj] - M[vi])
        for i, k in T.grid(4, 6):
            with T.block("S"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    S[vi] = 0.0
                S[vi] = S[vi] + E[vi, vk]
        for i, j in T.grid(4, 6):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = E[vi, vj] / S[vi]

    return f


ALL = (
    copy2d, row_sum, chain, halo, reduced_halo, padded_conv, diamond, wide_indices, wide_matmul,
    fused_reduction, arg_max, guarded, guarded_sum, part_of_domain, triangle, triangle_sum,
    prefix_sum, recurrence, init_from_producer, nested_blocks, views, loose_store,
    loaded_condition, opaque_rows, horner, downsample, where_sum, late_start, softmax,
)  # fmt: skip
