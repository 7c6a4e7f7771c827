"""Products of matrices scheduled for AMX, and a stand-in for AMX where the processor has none."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gputune.codegen.llvm import LlvmKernel, jit
from gputune.codegen.llvm.tile_registers import CONFIG
from gputune.ir import dtypes
from gputune.ir.nodes import PrimFunc
from gputune.schedule import BlockRV, LoopRV, Schedule
from gputune.script import tir as T

DOTS = {
    "amx_dot_16x16x32_bf16bf16f32": ("bf16", "bf16", "f32"),
    "amx_dot_16x16x64_s8s8s32": ("s8", "s8", "s32"),
    "amx_dot_16x16x64_s8u8s32": ("s8", "u8", "s32"),
    "amx_dot_16x16x64_u8s8s32": ("u8", "s8", "s32"),
    "amx_dot_16x16x64_u8u8s32": ("u8", "u8", "s32"),
}
DTYPES = {"bf16": "bfloat16", "s8": "int8", "u8": "uint8", "f32": "float32", "s32": "int32"}


def product(dot: str, m: int, n: int, k: int) -> PrimFunc:
    """C = A @ B in the dtypes of an intrinsic."""
    a, b, c = [DTYPES[x] for x in DOTS[dot]]

    @T.prim_func
    def mm(A: T.Buffer((m, k), a), B: T.Buffer((k, n), b), C: T.Buffer((m, n), c)):
        for i, j, q in T.grid(m, n, k):
            with T.block("C"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, q])
                with T.init():
                    C[vi, vj] = T.cast(0, c)
                C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], c) * T.cast(B[vk, vj], c)

    return mm


def depth_of(dot: str) -> tuple[int, int]:
    """How many products a tile adds, and how many rows of B lie side by side."""
    return (32, 2) if "bf16" in dot else (64, 4)


def tile_of(sch: Schedule, block: BlockRV, sizes: Sequence[int]) -> LoopRV:
    """The innermost loops of a block cut to tiles of these sizes; the outermost of these."""
    outer, inner = [], []
    for loop, size in zip(sch.get_loops(block)[-len(sizes) :], sizes, strict=True):
        o, i = sch.split(loop, [None, size])
        outer.append(o)
        inner.append(i)
    sch.reorder(*outer, *inner)
    return inner[0]


def tiled_product(
    sch: Schedule, dot: str, tiles: tuple[int, int] = (2, 2), *, parallel: bool = False
) -> None:
    """The product of `product` with AMX; `tiles` of sums at a time. The extents are multiples."""
    a, b, c = DOTS[dot]
    depth, packed = depth_of(dot)
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    i0, i1, i2 = sch.split(i, [None, tiles[0], 16])
    j0, j1, j2 = sch.split(j, [None, tiles[1], 16])
    k0, k1 = sch.split(k, [None, depth])
    sch.reorder(i0, j0, k0, i1, j1, i2, j2, k1)
    outer = sch.blockize(i2)
    sums = sch.cache_write(outer, 0, "amx.tmm")
    sch.reverse_compute_at(sums, j0)
    pack = sch.cache_read(outer, 1, "global")
    sch.transform_layout(
        pack,
        ("write", 0),
        lambda r, s: (r // packed, s, r % packed),
        assume_injective_transform=True,
    )
    left = sch.cache_read(outer, 0, "amx.tmm")
    sch.compute_at(left, k0)
    right = sch.cache_read(outer, 1, "amx.tmm")
    sch.compute_at(right, k0)
    if parallel:
        sch.parallel(i0)
    init = sch.decompose_reduction(outer, k0)
    sch.tensorize(tile_of(sch, left, (16, depth)), f"amx_load_16x16x{depth}_{a}_a")
    sch.tensorize(tile_of(sch, right, (16, 16, packed)), f"amx_load_16x16x{depth}_{b}_b")
    sch.tensorize(init, f"amx_zero_16x16_{c}")
    sch.tensorize(outer, dot)
    sch.tensorize(tile_of(sch, sums, (16, 16)), f"amx_store_16x16_{c}")


def copy_through_tiles(short: str) -> Schedule:
    """Four tiles of sums loaded and stored again, elsewhere."""
    dtype = DTYPES[short]

    @T.prim_func
    def copy(A: T.Buffer((48, 64), dtype), B: T.Buffer((32, 32), dtype)):
        for i, j in T.grid(32, 32):
            with T.block("B"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[vi + 16, vj + 32]

    sch = Schedule(copy)
    block = sch.get_block("B")
    loaded = sch.cache_read(block, 0, "amx.tmm")
    inner = tile_of(sch, block, (16, 16))
    sch.compute_at(loaded, sch.get_loops(block)[1])
    sch.tensorize(sch.get_loops(loaded)[-2], f"amx_load_16x16_{short}")
    sch.tensorize(inner, f"amx_store_16x16_{short}")
    return sch


# ----------------------------------------------------------------------------- the stand-in
class EmulatedAmx:
    """The instructions as the manual describes them, done by Python: a kernel's calls of them are
    put on these functions instead.

    Attributes:
        tiles: the registers, 16 rows of 64 bytes each.
        shapes: rows and bytes of a row of each register, as `ldtilecfg` set them; none before it.
        errors: what the kernel did wrong, in words.
        calls: how often each instruction ran.
    """

    def __init__(self) -> None:
        self.tiles = np.zeros((8, 16, 64), np.uint8)
        self.shapes: list[tuple[int, int]] | None = None
        self.errors: list[str] = []
        self.calls: dict[str, int] = {}
        byte, pointer, size = ctypes.c_uint8, ctypes.c_void_p, ctypes.c_int64
        kinds: dict[str, tuple[Any, ...]] = {
            "ldtilecfg": (pointer,), "tilerelease": (), "tilezero": (byte,),
            "tileloadd64": (byte, pointer, size), "tilestored64": (byte, pointer, size),
            **{f"tdp{x}": (byte, byte, byte) for x in ("bssd", "bsud", "busd", "buud", "bf16ps")},
        }  # fmt: skip
        self.keep = {
            name: ctypes.CFUNCTYPE(None, *args)(self._noting(name))
            for name, args in kinds.items()
        }  # fmt: skip

    def _noting(self, name: str) -> Callable[..., None]:
        run = getattr(self, name if not name.startswith("tdp") else "tdp")

        def call(*args: Any) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1
            try:
                if name != "ldtilecfg" and self.shapes is None:
                    raise AssertionError("the registers have no shapes")
                run(name, *args) if name.startswith("tdp") else run(*args)
            except Exception as e:  # an exception cannot pass through machine code
                self.errors.append(f"{name}{args}: {e!r}")

        return call

    def ldtilecfg(self, at: int) -> None:
        config = ctypes.string_at(at, 64)
        assert config[0] == 1, "palette 1 is the only one"
        assert not any(config[1:16])
        assert not any(config[32:48])
        assert not any(config[56:])
        columns = np.frombuffer(config[16:32], np.uint16)
        self.shapes = [(config[48 + k], int(columns[k])) for k in range(8)]
        self.tiles[:] = 0

    def tilerelease(self) -> None:
        self.shapes = None
        self.tiles[:] = 0xEE

    def tilezero(self, t: int) -> None:
        self.tiles[t] = 0

    def _rows(self, t: int, at: int, stride: int) -> list[Any]:
        assert self.shapes is not None
        rows, size = self.shapes[t]
        return [(ctypes.c_uint8 * size).from_address(at + r * stride) for r in range(rows)]

    def tileloadd64(self, t: int, at: int, stride: int) -> None:
        self.tiles[t] = 0
        for r, row in enumerate(self._rows(t, at, stride)):
            self.tiles[t, r, : len(row)] = np.frombuffer(row, np.uint8)

    def tilestored64(self, t: int, at: int, stride: int) -> None:
        for r, row in enumerate(self._rows(t, at, stride)):
            row[:] = self.tiles[t, r, : len(row)].tolist()

    def tdp(self, name: str, c: int, a: int, b: int) -> None:
        assert self.shapes is not None
        assert len({a, b, c}) == 3, "three different registers"
        (m, _), (depth, width) = self.shapes[c], self.shapes[b]
        assert self.shapes[a] == (m, 4 * depth)
        if name == "tdpbf16ps":
            kinds = ["bfloat16", "bfloat16", "float32"]
        else:
            kinds = [{"s": "int8", "u": "uint8"}[x] for x in name[4:6]] + ["int32"]
        x, y, z = [
            self.tiles[t].view(dtypes.numpy_dtype(kind))
            for t, kind in zip((a, b, c), kinds, strict=True)
        ]
        wide = np.float32 if name == "tdpbf16ps" else np.int32
        packed = x.shape[1] // depth
        for row in range(m):
            for k in range(depth):
                for n in range(width // 4):
                    for q in range(packed):
                        left, right = x[row, k * packed + q], y[k, n * packed + q]
                        z[row, n] += wide(left) * wide(right)

    def run(self, kernel: LlvmKernel, *arrays: np.ndarray) -> None:
        """Run a kernel; its other instructions are machine code of this machine.

        Raises:
            AssertionError: it did something that the processor would not do.
        """
        text = re.sub(r"declare void @llvm\.x86\.t?i?l?[a-z0-9]+\(.*\)\n", "", kernel.ir)
        text = re.sub(
            r"@llvm\.x86\.(\w+)\(",
            lambda m: f"inttoptr (i64 {_address(self.keep[m[1]])} to ptr)(",
            text,
        ).replace(CONFIG, "emulated.tiles")
        code = jit.emit_object(text, *jit.host_features())
        loaded = jit.load(code, kernel.symbol)
        slots = (ctypes.c_void_p * len(arrays))(*[a.ctypes.data for a in arrays])
        assert loaded(ctypes.addressof(slots)) == 0
        assert not self.errors, self.errors[0]
        assert self.shapes is None, "the registers were not given back"


def _address(callback: Any) -> int:
    return int(ctypes.cast(callback, ctypes.c_void_p).value or 0)
