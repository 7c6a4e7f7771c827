"""Small tensor intrinsics that fit the programs of these tests: in plain code, for any machine."""

from __future__ import annotations

from gputune.script import tir as T
from gputune.target.intrin import TensorIntrin


@T.prim_func
def dot2_desc(
    A: T.Buffer((2,), "float32"), B: T.Buffer((2,), "float32"), C: T.Buffer((1,), "float32")
):
    for k in range(2):
        with T.block("C"):
            vk = T.axis.reduce(2, k)
            C[0] = C[0] + A[vk] * B[vk]


@T.prim_func
def dot2_impl(
    A: T.Buffer((2,), "float32"), B: T.Buffer((2,), "float32"), C: T.Buffer((1,), "float32")
):
    C[0] = C[0] + (A[0] * B[0] + A[1] * B[1])


@T.prim_func
def outer2_desc(
    A: T.Buffer((2, 2), "float32"), B: T.Buffer((2, 2), "float32"), C: T.Buffer((2, 2), "float32")
):
    for i, j, k in T.grid(2, 2, 2):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]


@T.prim_func
def outer2_impl(a: T.handle, b: T.handle, c: T.handle):
    s = T.int32()
    A = T.match_buffer(a, (2, 2), "float32", strides=(s, 1))
    B = T.match_buffer(b, (2, 2), "float32")
    C = T.match_buffer(c, (2, 2), "float32")
    with T.block("root"):
        both = T.alloc_buffer((2, 2), "float32")
        for k, i in T.grid(2, 2):
            with T.block("part"):
                vk, vi = T.axis.remap("RS", [k, i])
                both[vi, 0:2] = A[vi, T.Broadcast(vk, 2)] * B[vk, 0:2]
                C[vi, 0:2] = C[vi, 0:2] + both[vi, 0:2]


@T.prim_func
def copy2_desc(A: T.Buffer((2,), "float32"), B: T.Buffer((2,), "float32")):
    for i in range(2):
        with T.block("B"):
            vi = T.axis.spatial(2, i)
            B[vi] = A[vi]


@T.prim_func
def copy2_impl(A: T.Buffer((2,), "float32"), B: T.Buffer((2,), "float32")):
    B[0:2] = A[0:2]


TensorIntrin.register("test.dot2", dot2_desc, dot2_impl, override=True)
TensorIntrin.register("test.outer2", outer2_desc, outer2_impl, override=True)
TensorIntrin.register("test.copy2", copy2_desc, copy2_impl, override=True)
