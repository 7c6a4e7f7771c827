"""Matrix products on tensor cores, scheduled by hand, for the tests of WMMA."""

from __future__ import annotations

from typing import Any

import numpy as np

from gputune.ir.nodes import PrimFunc
from gputune.schedule import BlockRV, LoopRV, Schedule
from gputune.script import from_source

Array = np.ndarray[Any, Any]
SHORT = {"float16": "f16", "float32": "f32", "int8": "s8", "int32": "s32"}
KINDS = [
    ("float16", "float32", False), ("float16", "float32", True), ("float16", "float16", False),
    ("float16", "float16", True), ("int8", "int32", False), ("int8", "int32", True),
]  # fmt: skip
"""Dtypes of operands and sums, and whether B lies transposed."""


def matmul(ab: str, c: str, trans: bool, n: int = 64, trans_a: bool = False) -> PrimFunc:
    """C = A @ B of n x n; with `trans`, B.T instead of B, with `trans_a`, A.T instead of A."""
    a, b = "A[vk, vi]" if trans_a else "A[vi, vk]", "B[vj, vk]" if trans else "B[vk, vj]"
    if ab != c:
        a, b = f'T.Cast("{c}", {a})', f'T.Cast("{c}", {b})'
    out = from_source(f"""
@T.prim_func
def main(A: T.Buffer(({n}, {n}), "{ab}"), B: T.Buffer(({n}, {n}), "{ab}"),
         C: T.Buffer(({n}, {n}), "{c}")):
    for i, j, k in T.grid({n}, {n}, {n}):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.{c}(0)
            C[vi, vj] = C[vi, vj] + {a} * {b}
""")
    assert isinstance(out, PrimFunc)
    return out


class Product:
    """A product of 64 x 64 whose blocks are ready to be tensorized.

    Two blocks of the grid compute 32 x 64 elements each, with four warps (threadIdx.y) that have
    two tiles of 16 x 16; operands come through shared memory in steps of 32.

    Attributes:
        blocks: name -> block to tensorize: "load_a", "load_b", "fill", "sync", "store".
    """

    def __init__(
        self, ab: str = "float16", c: str = "float32", trans: bool = False,
        scope: str = "shared.dyn", lanes: int = 32, through_shared: bool = True,
        trans_a: bool = False,
    ) -> None:  # fmt: skip
        self.ab, self.c, self.trans, self.scope, self.trans_a = ab, c, trans, scope, trans_a
        self.through_shared = through_shared
        sch = self.sch = Schedule(matmul(ab, c, trans, trans_a=trans_a))
        block = sch.get_block("C")
        i, j, k = sch.get_loops(block)
        (i, i_in), (j, j_in), (k, k_in) = (sch.split(x, [None, 16]) for x in (i, j, k))
        sch.reorder(i, j, k, i_in, j_in, k_in)
        main = sch.blockize(i_in)
        i0, i1 = sch.split(i, [2, None])
        j1, j2 = sch.split(j, [2, None])
        k0, k1 = sch.split(k, [None, 2])
        sch.reorder(i0, i1, j1, k0, k1, j2)
        warp = sch.fuse(i1, j1)
        sch.bind(i0, "blockIdx.x")
        sch.bind(warp, "threadIdx.y")
        out = None
        if through_shared:
            out = sch.cache_write(main, 0, scope)
            sch.reverse_compute_at(out, i0)
        store = sch.cache_write(main, 0, "wmma.accumulator")
        sch.reverse_compute_at(store, warp)
        self.fetches = [self._fetch(main, which, k0, lanes) for which in (0, 1)]
        loads = []
        for which, held in ((0, "wmma.matrix_a"), (1, "wmma.matrix_b")):
            load = sch.cache_read(main, which, held)
            sch.compute_at(load, k1)
            loads.append(self._tiles(load))
        self.blocks = {"load_a": loads[0], "load_b": loads[1], "store": self._tiles(store)}
        self.blocks["fill"] = sch.decompose_reduction(main, k0)
        self.blocks["sync"] = main
        if out is not None:
            self._share(out, 32, 2)

    def _fetch(self, main: BlockRV, which: int, at: LoopRV, lanes: int) -> BlockRV:
        sch = self.sch
        block = sch.cache_read(main, which, self.scope)
        sch.compute_at(block, at)
        self._share(block, lanes, 4)
        sch.storage_align(block, 0, -2, 32, 8 if self.ab == "float16" else 16)
        return block

    def _share(self, block: BlockRV, lanes: int, width: int) -> None:
        """Let the threads of a block copy together; `lanes` 1: threadIdx.x is not bound."""
        sch = self.sch
        fused = sch.fuse(*sch.get_loops(block)[-2:])
        _, y, x, v = sch.split(fused, [None, 4, lanes, width])
        sch.bind(y, "threadIdx.y")
        if lanes > 1:
            sch.bind(x, "threadIdx.x")
        sch.vectorize(v)

    def _tiles(self, block: BlockRV) -> BlockRV:
        sch = self.sch
        i, j = sch.get_loops(block)[-2:]
        (i, i_in), (j, j_in) = (sch.split(x, [None, 16]) for x in (i, j))
        sch.reorder(i, j, i_in, j_in)
        return sch.blockize(i_in)

    def names(self) -> dict[str, str]:
        """The intrinsic for each of the blocks."""
        ab, c, scope = SHORT[self.ab], SHORT[self.c], self.scope.replace(".", "_")
        trans = "_trans" * self.trans
        both = {(0, 0): "", (1, 0): "_trans", (0, 1): "_trans_a", (1, 1): "_trans_a_trans_b"}
        target = scope if self.through_shared else "global"
        return {
            "load_a": f"wmma_load_16x16x16_{ab}_a{'_trans' * self.trans_a}_{scope}",
            "load_b": f"wmma_load_16x16x16_{ab}_b{trans}_{scope}",
            "fill": f"wmma_fill_16x16x16_{c}",
            "sync": f"wmma_sync_16x16x16_{ab}{ab}{c}{both[self.trans, self.trans_a]}",
            "store": f"wmma_store_16x16x16_{c}_{target}",
        }

    def tensorized(self, **other: str | None) -> PrimFunc:
        """The program with every block tensorized; `other` names another intrinsic, or none."""
        for which, name in {**self.names(), **other}.items():
            if name is not None:
                self.sch.tensorize(self.blocks[which], name)
        func = self.sch.mod["main"]
        assert isinstance(func, PrimFunc)
        return func

    def values(self) -> tuple[Array, Array, Array]:
        """A, B, and what C shall be: whole numbers, so that sums are exact in every order."""
        rng = np.random.default_rng(3)
        a, b = (rng.integers(-3, 4, (64, 64)).astype(self.ab) for _ in range(2))
        x, y = a.T if self.trans_a else a, b.T if self.trans else b
        wide = x.astype(np.int64) @ y.astype(np.int64)
        return a, b, wide.astype(self.c)


# ----------------------------------------------------------------------------- written by hand
AT = "T.Ramp(0, 1, 256) // 16, T.Ramp(0, 1, 256) % 16"


def tile(i: str = "", j: str = "") -> str:
    """The indices of a tile from (i, j) on."""
    first = f"T.Broadcast({i}, 256) + " if i else ""
    second = f"T.Broadcast({j}, 256) + " if j else ""
    return f"{first}T.Ramp(0, 1, 256) // 16, {second}T.Ramp(0, 1, 256) % 16"


def program(body: str, *, shared: str = "(64, 64)", held: str = "(32, 32)", axis: str = "y") -> str:
    """Four warps along threadIdx.y, or the axis that is named, with tiles to work on."""
    lines = "\n".join("                " + line for line in body.strip("\n").split("\n"))
    return f"""
@T.prim_func
def main(A: T.Buffer((64, 64), "float16"), C: T.Buffer((64, 64), "float32"),
         N: T.Buffer((4,), "int32")):
    S = T.alloc_buffer({shared}, "float16", scope="shared")
    P = T.alloc_buffer((64, 64), scope="shared")
    F = T.alloc_buffer({held}, "float16", scope="wmma.matrix_a")
    G = T.alloc_buffer((32, 32), "float16", scope="wmma.matrix_b")
    H = T.alloc_buffer((32, 32), scope="wmma.accumulator")
    L = T.alloc_buffer((64, 64), scope="local")
    for b in T.thread_binding(1, thread="blockIdx.x"):
        for t in T.thread_binding(4, thread="threadIdx.{axis}"):
            with T.block("work"):
                w = T.axis.spatial(4, t)
{lines}
"""


def load(i: str = "w * 16", j: str = "", of: str = "A", op: str = "load_a", to: str = "F") -> str:
    at = tile(i, j)
    return f'{to}[{AT}] = T.call_intrin("float16x256", "wmma.{op}.f16", {of}[{at}])'


FILL = f'H[{AT}] = T.call_intrin("float32x256", "wmma.fill.f32", T.float32(0))'


def store(i: str = "w * 16", j: str = "", to: str = "C") -> str:
    return f'{to}[{tile(i, j)}] = T.call_intrin("float32x256", "wmma.store.f32", H[{AT}])'


def mma(op: str = "mma") -> str:
    return (
        f'H[{AT}] = T.call_intrin("float32x256", "wmma.{op}.f16f16f32", H[{AT}], F[{AT}], G[{AT}])'
    )
