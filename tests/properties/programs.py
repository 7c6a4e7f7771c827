"""Which programs do the random schedules start from? Small, and different in kind."""

from __future__ import annotations

from collections.abc import Callable

from gputune.ir.nodes import PrimFunc
from gputune.script import tir as T


def matmul() -> PrimFunc:
    @T.prim_func
    def f(
        A: T.Buffer((6, 8), "float32"),
        B: T.Buffer((8, 4), "float32"),
        C: T.Buffer((6, 4), "float32"),
    ):
        for i, j, k in T.grid(6, 4, 8):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = 0.0
                C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]

    return f


def dense_bias_relu() -> PrimFunc:
    @T.prim_func
    def f(
        X: T.Buffer((3, 6), "float32"),
        W: T.Buffer((5, 6), "float32"),
        b: T.Buffer((5,), "float32"),
        Z: T.Buffer((3, 5), "float32"),
    ):
        Y = T.alloc_buffer((3, 5))
        R = T.alloc_buffer((3, 5))
        for i, j, k in T.grid(3, 5, 6):
            with T.block("Y"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    Y[vi, vj] = 0.0
                Y[vi, vj] = Y[vi, vj] + X[vi, vk] * W[vj, vk]
        for i, j in T.grid(3, 5):
            with T.block("R"):
                vi, vj = T.axis.remap("SS", [i, j])
                R[vi, vj] = Y[vi, vj] + b[vj]
        for i, j in T.grid(3, 5):
            with T.block("Z"):
                vi, vj = T.axis.remap("SS", [i, j])
                Z[vi, vj] = T.max(R[vi, vj], 0.0)

    return f


def conv2d_padded() -> PrimFunc:
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


def layernorm() -> PrimFunc:
    @T.prim_func
    def f(
        X: T.Buffer((3, 8), "float32"), G: T.Buffer((8,), "float32"), Y: T.Buffer((3, 8), "float32")
    ):
        S = T.alloc_buffer((3,))
        Q = T.alloc_buffer((3,))
        for i, k in T.grid(3, 8):
            with T.block("S"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    S[vi] = 0.0
                S[vi] = S[vi] + X[vi, vk]
        for i, k in T.grid(3, 8):
            with T.block("Q"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Q[vi] = 0.0
                Q[vi] = Q[vi] + X[vi, vk] * X[vi, vk]
        for i, j in T.grid(3, 8):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = (X[vi, vj] * 8.0 - S[vi]) * G[vj] + Q[vi]

    return f


def argmax() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((4, 7), "float32"), V: T.Buffer((4,), "float32"), I: T.Buffer((4,), "int32")):  # noqa: E741
        for i, k in T.grid(4, 7):
            with T.block("A"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    V[vi] = T.min_value("float32")
                    I[vi] = -1
                I[vi] = T.Select(X[vi, vk] > V[vi], vk, I[vi])
                V[vi] = T.max(V[vi], X[vi, vk])

    return f


def nearest() -> PrimFunc:
    """The first of the least elements of each row, its position and a sum, all read afterwards."""

    @T.prim_func
    def f(X: T.Buffer((3, 10), "int32"), Y: T.Buffer((3,), "int32")):
        J = T.alloc_buffer((3,), "int32")
        V = T.alloc_buffer((3,), "int32")
        S = T.alloc_buffer((3,), "int32")
        Q = T.alloc_buffer((3,), "int32")
        for i, k in T.grid(3, 10):
            with T.block("J"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    J[vi] = -1
                    V[vi] = T.max_value("int32")
                j: T.int32 = T.Select(V[vi] <= X[vi, vk], J[vi], vk)
                v: T.int32 = T.Select(V[vi] <= X[vi, vk], V[vi], X[vi, vk])
                J[vi] = j
                V[vi] = v
        for i, k in T.grid(3, 10):
            with T.block("S"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    S[vi] = 0
                    Q[vi] = 0
                S[vi] = S[vi] + X[vi, vk]
                Q[vi] = Q[vi] + X[vi, vk] * X[vi, vk]
        for i in range(3):
            with T.block("Y"):
                vi = T.axis.spatial(3, i)
                Y[vi] = J[vi] * 1000 + V[vi] * 100 + S[vi] + Q[vi]

    return f


def max_pool() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((8, 8), "float32"), Y: T.Buffer((4, 4), "float32")):
        for h, w, r, s in T.grid(4, 4, 2, 2):
            with T.block("Y"):
                vh, vw, vr, vs = T.axis.remap("SSRR", [h, w, r, s])
                with T.init():
                    Y[vh, vw] = T.min_value("float32")
                Y[vh, vw] = T.max(Y[vh, vw], X[vh * 2 + vr, vw * 2 + vs])

    return f


def two_stencils() -> PrimFunc:
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


def transpose_add() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((4, 6), "int32"), Y: T.Buffer((6, 4), "int32")):
        S = T.alloc_buffer((6, 4), "int32")
        for i, j in T.grid(6, 4):
            with T.block("S"):
                vi, vj = T.axis.remap("SS", [i, j])
                S[vi, vj] = X[vj, vi] * 3
        for i, j in T.grid(6, 4):
            with T.block("Y"):
                vi, vj = T.axis.remap("SS", [i, j])
                Y[vi, vj] = S[vi, vj] + 1

    return f


def reshape_sum() -> PrimFunc:
    @T.prim_func
    def f(X: T.Buffer((24,), "float64"), Y: T.Buffer((6,), "float64")):
        R = T.alloc_buffer((6, 4), "float64")
        for i in range(24):
            with T.block("R"):
                vi = T.axis.spatial(24, i)
                R[vi // 4, vi % 4] = X[vi] + 1.0
        for i, k in T.grid(6, 4):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + R[vi, vk]

    return f


def strided_conv1d() -> PrimFunc:
    @T.prim_func
    def f(
        X: T.Buffer((11, 2), "float32"),
        W: T.Buffer((3, 2, 3), "float32"),
        Y: T.Buffer((5, 3), "float32"),
    ):
        for x, o, r, c in T.grid(5, 3, 3, 2):
            with T.block("Y"):
                vx, vo, vr, vc = T.axis.remap("SSRR", [x, o, r, c])
                with T.init():
                    Y[vx, vo] = 0.0
                Y[vx, vo] = Y[vx, vo] + X[vx * 2 + vr, vc] * W[vr, vc, vo]

    return f


def bytes_matmul() -> PrimFunc:
    @T.prim_func
    def f(
        A: T.Buffer((3, 8), "uint8"), B: T.Buffer((32, 8), "int8"), C: T.Buffer((3, 32), "int32")
    ):
        for i, j, k in T.grid(3, 32, 8):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    C[vi, vj] = 0
                C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "int32") * T.cast(B[vj, vk], "int32")

    return f


def where_sum() -> PrimFunc:
    """A condition ties the spatial and the reduced loop together."""

    @T.prim_func
    def f(X: T.Buffer((6, 8), "float32"), Y: T.Buffer((6,), "float32")):
        for i, k in T.grid(6, 8):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                T.where(i * 8 + k < 30)
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]

    return f


def split_conditions() -> PrimFunc:
    """Some rows are left as they are, and some columns out; the extents do not divide."""

    @T.prim_func
    def f(X: T.Buffer((6, 8), "float32"), Y: T.Buffer((6,), "float32")):
        for i, k in T.grid(6, 8):
            with T.block("Y"):
                vi, vk = T.axis.remap("SR", [i, k])
                T.where(i < 4 and k < 6)
                with T.init():
                    Y[vi] = 0.0
                Y[vi] = Y[vi] + X[vi, vk]

    return f


PROGRAMS: tuple[Callable[[], PrimFunc], ...] = (
    matmul,
    dense_bias_relu,
    conv2d_padded,
    softmax,
    layernorm,
    argmax,
    nearest,
    max_pool,
    two_stencils,
    transpose_add,
    reshape_sum,
    strided_conv1d,
    bytes_matmul,
    where_sum,
    split_conditions,
)
