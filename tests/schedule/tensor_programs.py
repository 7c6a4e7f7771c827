"""Programs that tensor intrinsics fit, or almost."""

from __future__ import annotations

from gputune.ir.nodes import PrimFunc
from gputune.script import tir as T


def u8_matmul(m: int = 8, n: int = 32, k: int = 16) -> PrimFunc:
    @T.prim_func
    def mm(A: T.Buffer((m, k), "uint8"), B: T.Buffer((n, k), "int8"), C: T.Buffer((m, n), "int32")):
        for i, j, q in T.grid(m, n, k):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, q])
                with T.init():
                    C[vi, vj] = 0
                C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "int32") * T.cast(B[vj, vk], "int32")

    return mm


def bf16_matmul(m: int = 8, n: int = 32, k: int = 16) -> PrimFunc:
    @T.prim_func
    def mm(
        A: T.Buffer((m, k), "bfloat16"),
        B: T.Buffer((n, k), "bfloat16"),
        C: T.Buffer((m, n), "float32"),
    ):
        for i, j, q in T.grid(m, n, k):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, q])
                with T.init():
                    C[vi, vj] = T.float32(0)
                C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "float32") * T.cast(B[vj, vk], "float32")

    return mm


def packed_matmul() -> PrimFunc:
    """The weights lie as the instruction wants them; operands are multiplied the other way."""

    @T.prim_func
    def mm(
        A: T.Buffer((8, 16), "uint8"),
        B: T.Buffer((2, 4, 16, 4), "int8"),
        C: T.Buffer((8, 32), "int32"),
    ):
        for i, j, q in T.grid(8, 32, 16):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, q])
                with T.init():
                    C[vi, vj] = 0
                C[vi, vj] = C[vi, vj] + T.cast(
                    B[vj // 16, vk // 4, vj % 16, vk % 4], "int32"
                ) * T.cast(A[vi, vk], "int32")

    return mm


def u8_conv() -> PrimFunc:
    @T.prim_func
    def conv(
        X: T.Buffer((2, 6, 6, 8), "uint8"),
        W: T.Buffer((3, 3, 16, 8), "int8"),
        Y: T.Buffer((2, 4, 4, 16), "int32"),
    ):
        for n, h, w, co, rh, rw, ci in T.grid(2, 4, 4, 16, 3, 3, 8):
            with T.block("Y"):
                vn, vh, vw, vc, vr, vs, vi = T.axis.remap("SSSSRRR", [n, h, w, co, rh, rw, ci])
                with T.init():
                    Y[vn, vh, vw, vc] = 0
                Y[vn, vh, vw, vc] = Y[vn, vh, vw, vc] + T.cast(
                    X[vn, vh + vr, vw + vs, vi], "int32"
                ) * T.cast(W[vr, vs, vc, vi], "int32")

    return conv


def i8_matmul() -> PrimFunc:
    """Both operands are signed: not what vpdpbusd multiplies."""

    @T.prim_func
    def mm(
        A: T.Buffer((8, 16), "int8"), B: T.Buffer((32, 16), "int8"), C: T.Buffer((8, 32), "int32")
    ):
        for i, j, q in T.grid(8, 32, 16):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, q])
                with T.init():
                    C[vi, vj] = 0
                C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "int32") * T.cast(B[vj, vk], "int32")

    return mm


def batched_matmul() -> PrimFunc:
    @T.prim_func
    def mm(
        A: T.Buffer((3, 8, 16), "uint8"),
        B: T.Buffer((3, 32, 16), "int8"),
        C: T.Buffer((3, 8, 32), "int32"),
    ):
        for b, i, j, q in T.grid(3, 8, 32, 16):
            with T.block("C"):
                vb, vi, vj, vk = T.axis.remap("SSSR", [b, i, j, q])
                with T.init():
                    C[vb, vi, vj] = 0
                C[vb, vi, vj] = C[vb, vi, vj] + T.cast(A[vb, vi, vk], "int32") * T.cast(
                    B[vb, vj, vk], "int32"
                )

    return mm
