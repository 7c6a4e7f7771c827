"""Matrix products with mma.sync, scheduled by hand, for the tests of its intrinsics."""

from __future__ import annotations

from typing import Any

import numpy as np

from gputune.ir import dtypes
from gputune.ir.nodes import PrimFunc
from gputune.ir.ops import MMA_KINDS, MMA_OPERANDS, MMA_SUMS, mma_depth, mma_shape
from gputune.schedule import BlockRV, LoopRV, Schedule
from gputune.script import from_source

Array = np.ndarray[Any, Any]
SIZE = 64
ALL = [(ab, c, False, True) for ab, c in MMA_KINDS]
MORE = [
    ("f16", "f32", False, False), ("f16", "f32", True, True), ("tf32", "f32", True, False),
    ("i8", "i32", False, False), ("i8", "i32", True, True),
]  # fmt: skip
"""Operands and sums, and whether A and B lie transposed."""


def matmul(ab: str, c: str, trans_a: bool, trans_b: bool, epilogue: bool) -> PrimFunc:
    """C = A @ B of 64 x 64; with `epilogue`, D = relu(C * 2 + bias) as float16."""
    n, wide, sums = SIZE, MMA_OPERANDS[ab], MMA_SUMS[c]
    a, b = "A[vk, vi]" if trans_a else "A[vi, vk]", "B[vj, vk]" if trans_b else "B[vk, vj]"
    if wide != sums:
        a, b = f'T.Cast("{sums}", {a})', f'T.Cast("{sums}", {b})'
    out, more, rest = f'C: T.Buffer(({n}, {n}), "{sums}")', "", ""
    if epilogue:
        out = f'bias: T.Buffer(({n},), "{sums}"), D: T.Buffer(({n}, {n}), "float16")'
        more = f'\n    C = T.alloc_buffer(({n}, {n}), "{sums}")'
        rest = f"""
    for i, j in T.grid({n}, {n}):
        with T.block("D"):
            vi, vj = T.axis.remap("SS", [i, j])
            D[vi, vj] = T.Cast(
                "float16", T.max(C[vi, vj] * T.{sums}(2) + bias[vj], T.{sums}(0))
            )"""
    found = from_source(f"""
@T.prim_func
def main(A: T.Buffer(({n}, {n}), "{wide}"), B: T.Buffer(({n}, {n}), "{wide}"), {out}):{more}
    for i, j, k in T.grid({n}, {n}, {n}):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.{sums}(0)
            C[vi, vj] = C[vi, vj] + {a} * {b}{rest}
""")
    assert isinstance(found, PrimFunc)
    return found


class MmaProduct:
    """A product of 64 x 64 whose blocks are ready to be tensorized.

    Two blocks of the grid compute 32 x 64 elements each, with four warps (threadIdx.y) that have
    two tiles of 16 x 16; operands come through shared memory in steps of 32. Results leave the
    registers for global memory.

    Attributes:
        blocks: name -> block to tensorize: "load_a", "load_b", "fill", "sync", "store" (without an
            epilogue).
    """

    def __init__(
        self, ab: str = "f16", c: str = "f32", trans_a: bool = False, trans_b: bool = False,
        scope: str = "shared.dyn", epilogue: bool = False, padded: bool = True,
        swizzled: bool = False,
    ) -> None:  # fmt: skip
        self.ab, self.c, self.trans_a, self.trans_b = ab, c, trans_a, trans_b
        self.scope, self.epilogue = scope, epilogue
        self.padded, self.swizzled = padded and not swizzled, swizzled
        sch = self.sch = Schedule(matmul(ab, c, trans_a, trans_b, epilogue))
        block = sch.get_block("C")
        i, j, k = sch.get_loops(block)
        deep = mma_depth(ab)
        (i, i_in), (j, j_in), (k, k_in) = (
            sch.split(x, [None, n]) for x, n in ((i, 16), (j, 16), (k, deep))
        )
        sch.reorder(i, j, k, i_in, j_in, k_in)
        main = sch.blockize(i_in)
        i0, i1 = sch.split(i, [2, None])
        j1, j2 = sch.split(j, [2, None])
        k0, k1 = sch.split(k, [None, 32 // deep])
        sch.reorder(i0, i1, j1, k0, k1, j2)
        warp = sch.fuse(i1, j1)
        sch.bind(i0, "blockIdx.x")
        sch.bind(warp, "threadIdx.y")
        self.blocks: dict[str, BlockRV] = {}
        if epilogue:
            sch.set_scope(main, 0, "mma.accumulator")
            sch.reverse_compute_at(sch.get_block("D"), warp)
        else:
            store = sch.cache_write(main, 0, "mma.accumulator")
            sch.reverse_compute_at(store, warp)
            self.blocks["store"] = self._tiles(store, (16, 16))
        for which in (0, 1):
            self._fetch(main, which, k0)
        for which, x in ((0, "a"), (1, "b")):
            turned = trans_a if x == "a" else trans_b
            load = sch.cache_read(main, which, f"mma.matrix_{x}")
            sch.compute_at(load, k1)
            shape = mma_shape(ab, x + "_trans" * turned)
            self.blocks[f"load_{x}"] = self._tiles(load, shape)
        self.blocks["fill"] = sch.decompose_reduction(main, k0)
        self.blocks["sync"] = main

    def _fetch(self, main: BlockRV, which: int, at: LoopRV) -> None:
        sch = self.sch
        block = sch.cache_read(main, which, self.scope)
        sch.compute_at(block, at)
        size = dtypes.itemsize(MMA_OPERANDS[self.ab])
        fused = sch.fuse(*sch.get_loops(block)[-2:])
        _, y, x, v = sch.split(fused, [None, 4, 32, 4])
        sch.bind(y, "threadIdx.y")
        sch.bind(x, "threadIdx.x")
        sch.vectorize(v)
        if self.padded:
            sch.storage_align(block, 0, -2, 64 // size, 16 // size)
        if self.swizzled:
            long = self.trans_a if which == 0 else not self.trans_b  # rows of 64 elements, or 32
            sch.annotate(block, "shared_swizzle", min(128, (SIZE if long else 32) * size))

    def _tiles(self, block: BlockRV, shape: tuple[int, int]) -> BlockRV:
        sch = self.sch
        loops = sch.get_loops(block)[-2:]
        (i, i_in), (j, j_in) = (
            sch.split(x, [None, n]) for x, n in zip(loops, shape, strict=True)
        )  # fmt: skip
        sch.reorder(i, j, i_in, j_in)
        return sch.blockize(i_in)

    def names(self) -> dict[str, str]:
        """The intrinsic for each of the blocks."""
        ab, c, word = self.ab, self.c, "_dyn" * (self.scope == "shared.dyn")
        trans_a, trans_b = "_trans" * self.trans_a, "_trans" * self.trans_b
        order = "_trans_a" * self.trans_a + "_trans_b" * self.trans_b
        return {
            "load_a": f"mma_ldmatrix_{ab}_a{trans_a}{word}",
            "load_b": f"mma_ldmatrix_{ab}_b{trans_b}{word}",
            "fill": f"mma_fill_16x16_{c}",
            "sync": f"mma_{ab}{ab}{c}{order}",
            "store": f"mma_store_16x16_{c}_global",
        }

    def tensorized(self, **other: str | None) -> PrimFunc:
        """The program with every block tensorized; `other` names another intrinsic, or none."""
        for which, name in {**self.names(), **other}.items():
            if name is not None and which in self.blocks:
                self.sch.tensorize(self.blocks[which], name)
        func = self.sch.mod["main"]
        assert isinstance(func, PrimFunc)
        return func

    def values(self) -> tuple[dict[str, Array], str, Array]:
        """The arguments, the name of the result, and what that shall be: whole numbers, so that
        sums are exact in every order."""
        rng = np.random.default_rng(3)
        low = 0 if self.ab == "u8" else -3
        kind = dtypes.numpy_dtype(MMA_OPERANDS[self.ab])
        a, b = (rng.integers(low, 4, (SIZE, SIZE)).astype(kind) for _ in range(2))
        x, y = a.T if self.trans_a else a, b.T if self.trans_b else b
        wide = x.astype(np.int64) @ y.astype(np.int64)
        sums = MMA_SUMS[self.c]
        if not self.epilogue:
            return {"A": a, "B": b}, "C", wide.astype(sums)
        bias = rng.integers(-9, 9, SIZE).astype(sums)
        want = np.maximum(wide * 2 + bias.astype(np.int64), 0).astype(np.float16)
        return {"A": a, "B": b, "bias": bias}, "D", want
