"""Which CUDA kernels with parameters come with gputune? Five, as sources with what tunes them.

>>> from gputune.kernels import cuda
>>> vadd = cuda.get("vadd")
>>> args = vadd.arguments({"n": 1000})                    # NumPy arrays and numbers
>>> k = gputune.cuda_kernel(**vadd.description())         # doctest: +SKIP
>>> r = gputune.tune_kernel(k, args, reference=vadd.reference)  # doctest: +SKIP
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import UserError

Sizes = Mapping[str, int]
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class CudaExample:
    """A kernel in CUDA C++.

    Attributes:
        name: of the kernel; its source is the file of that name.
        about: what it computes.
        params: the values that its parameters may have.
        where, grid, block, smem: as `gputune.cuda_kernel` takes them.
        outputs: the arrays it writes.
        arguments_of: sizes and a random generator to arguments, in the kernel's order.
        reference: arguments to a dict of outputs.
        traffic: bytes that must be moved at least, of sizes.
        work: operations on floats, of sizes.
        sizes: usual ones.
        check_sizes: small ones, odd ones among them.
    """

    name: str
    about: str
    params: Mapping[str, tuple[Any, ...]]
    where: Callable[[Any], bool]
    grid: Callable[..., Any]
    block: Callable[[Any], Any]
    smem: Callable[[Any], int]
    outputs: tuple[str, ...]
    arguments_of: Callable[[Sizes, np.random.Generator], tuple[Any, ...]]
    reference: Callable[..., dict[str, Array]]
    traffic: Callable[[Sizes], float]
    work: Callable[[Sizes], float]
    sizes: Sizes
    check_sizes: tuple[Sizes, ...] = field(default=())

    @property
    def source(self) -> str:
        """The CUDA C++."""
        file = resources.files(__package__).joinpath(f"{self.name}.cu")
        return file.read_text(encoding="utf-8")

    def description(self) -> dict[str, Any]:
        """The arguments of `gputune.cuda_kernel` for this kernel."""
        return {
            "name": self.name,
            "source": self.source,
            "params": dict(self.params),
            "where": self.where,
            "grid": self.grid,
            "block": self.block,
            "smem": self.smem,
            "outputs": self.outputs,
        }

    def arguments(self, sizes: Sizes | None = None, seed: int = 0) -> tuple[Any, ...]:
        """Random arguments of these sizes (default: the usual ones), in the kernel's order."""
        return self.arguments_of(sizes or self.sizes, np.random.default_rng(seed))

    def metrics(self, sizes: Sizes | None = None) -> dict[str, Callable[[Any], float]]:
        """GB/s and GFLOP/s, as `gputune.tune_kernel` takes them."""
        moved, done = self.traffic(sizes or self.sizes), self.work(sizes or self.sizes)
        return {
            "GB/s": lambda m: moved / m.seconds * 1e-9,
            "GFLOP/s": lambda m: done / m.seconds * 1e-9,
        }


def _blocks(extent: Any, size: int) -> int:
    return -(-int(extent) // size)


def _floats(rng: np.random.Generator, *shape: int) -> Array:
    return rng.uniform(-1, 1, shape).astype(np.float32)


def _vadd_arguments(s: Sizes, rng: np.random.Generator) -> tuple[Any, ...]:
    n = s["n"]
    return np.empty(n, np.float32), _floats(rng, n), _floats(rng, n), np.int32(n)


VADD = CudaExample(
    name="vadd",
    about="c = a + b",
    params={"BX": (64, 128, 256, 512, 1024), "VEC": (1, 2, 4)},
    where=lambda p: p.BX * p.VEC <= 2048,
    grid=lambda p, c, a, b, n: _blocks(n, p.BX * p.VEC),
    block=lambda p: p.BX,
    smem=lambda p: 0,
    outputs=("c",),
    arguments_of=_vadd_arguments,
    reference=lambda c, a, b, n: {"c": a + b},
    traffic=lambda s: 12.0 * s["n"],
    work=lambda s: 1.0 * s["n"],
    sizes={"n": 1 << 26},
    check_sizes=({"n": 1000}, {"n": 4096}, {"n": 1}),
)


def _reduction_arguments(s: Sizes, rng: np.random.Generator) -> tuple[Any, ...]:
    rows, columns = s["rows"], s["columns"]
    return np.empty(rows, np.float32), _floats(rng, rows, columns), np.int32(columns)


REDUCTION = CudaExample(
    name="reduction",
    about="y[r] = sum of row r of x",
    params={"BX": (32, 64, 128, 256, 512, 1024), "UNROLL": (1, 2, 4, 8), "SHUFFLE": (False, True)},
    where=lambda p: p.BX * p.UNROLL <= 4096,
    grid=lambda p, y, x, columns: y.shape[0],
    block=lambda p: p.BX,
    smem=lambda p: 0,
    outputs=("y",),
    arguments_of=_reduction_arguments,
    reference=lambda y, x, columns: {"y": x.astype(np.float64).sum(axis=1)},
    traffic=lambda s: 4.0 * s["rows"] * (s["columns"] + 1),
    work=lambda s: 1.0 * s["rows"] * s["columns"],
    sizes={"rows": 4096, "columns": 16384},
    check_sizes=({"rows": 3, "columns": 517}, {"rows": 2, "columns": 1024}),
)


def _gemm_arguments(s: Sizes, rng: np.random.Generator) -> tuple[Any, ...]:
    m, n, k = s["m"], s["n"], s["k"]
    c = np.empty((m, n), np.float32)
    return c, _floats(rng, m, k), _floats(rng, k, n), np.int32(m), np.int32(n), np.int32(k)


def _gemm_threads(p: Any) -> int:
    return int(p.BM // p.TM * (p.BN // p.TN))


def _gemm_shared(p: Any) -> int:
    return int(4 * p.BK * (p.BM + 1 + p.BN))


GEMM = CudaExample(
    name="gemm",
    about="c = a b",
    params={
        "BM": (32, 64, 128),
        "BN": (32, 64, 128),
        "BK": (8, 16, 32),
        "TM": (2, 4, 8),
        "TN": (2, 4, 8),
    },
    where=lambda p: 64 <= _gemm_threads(p) <= 512 and _gemm_shared(p) <= 48 * 1024,
    grid=lambda p, c, a, b, m, n, k: (_blocks(n, p.BN), _blocks(m, p.BM)),
    block=_gemm_threads,
    smem=_gemm_shared,
    outputs=("c",),
    arguments_of=_gemm_arguments,
    reference=lambda c, a, b, m, n, k: {"c": a @ b},
    traffic=lambda s: 4.0 * (s["m"] * s["n"] + s["m"] * s["k"] + s["k"] * s["n"]),
    work=lambda s: 2.0 * s["m"] * s["n"] * s["k"],
    sizes={"m": 4096, "n": 4096, "k": 4096},
    check_sizes=({"m": 33, "n": 70, "k": 19}, {"m": 64, "n": 64, "k": 32}),
)


def _plane_arguments(s: Sizes, rng: np.random.Generator) -> tuple[Any, ...]:
    h, w = s["height"], s["width"]
    return np.empty((h, w), np.float32), _floats(rng, h, w), np.int32(h), np.int32(w)


def _heat(y: Any, x: Any, height: Any, width: Any) -> dict[str, Array]:
    out = x.copy()
    here = x[1:-1, 1:-1]
    around = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]
    out[1:-1, 1:-1] = here + np.float32(0.125) * (around - 4 * here)
    return {"y": out}


STENCIL = CudaExample(
    name="stencil",
    about="a step of heat conduction in the plane, five points",
    params={
        "BX": (16, 32, 64, 128),
        "BY": (1, 2, 4, 8),
        "ROWS": (1, 2, 4),
        "CACHED": (False, True),
    },
    where=lambda p: 32 <= p.BX * p.BY <= 512,
    grid=lambda p, y, x, height, width: (_blocks(width, p.BX), _blocks(height, p.BY * p.ROWS)),
    block=lambda p: (p.BX, p.BY),
    smem=lambda p: 0,
    outputs=("y",),
    arguments_of=_plane_arguments,
    reference=_heat,
    traffic=lambda s: 8.0 * s["height"] * s["width"],
    work=lambda s: 6.0 * s["height"] * s["width"],
    sizes={"height": 8192, "width": 8192},
    check_sizes=({"height": 37, "width": 75}, {"height": 3, "width": 130}),
)


def _transpose_arguments(s: Sizes, rng: np.random.Generator) -> tuple[Any, ...]:
    h, w = s["height"], s["width"]
    return np.empty((w, h), np.float32), _floats(rng, h, w), np.int32(h), np.int32(w)


TRANSPOSE = CudaExample(
    name="transpose",
    about="y = x transposed",
    params={"TILE": (16, 32, 64), "ROWS": (2, 4, 8, 16), "PAD": (0, 1)},
    where=lambda p: 32 <= p.TILE * p.ROWS <= 1024,
    grid=lambda p, y, x, height, width: (_blocks(width, p.TILE), _blocks(height, p.TILE)),
    block=lambda p: (p.TILE, p.ROWS),
    smem=lambda p: 0,
    outputs=("y",),
    arguments_of=_transpose_arguments,
    reference=lambda y, x, height, width: {"y": x.T},
    traffic=lambda s: 8.0 * s["height"] * s["width"],
    work=lambda s: 0.0,
    sizes={"height": 8192, "width": 8192},
    check_sizes=({"height": 45, "width": 70}, {"height": 64, "width": 32}),
)

EXAMPLES: Mapping[str, CudaExample] = {
    e.name: e for e in (VADD, REDUCTION, GEMM, STENCIL, TRANSPOSE)
}
"""Every example by name."""


def get(name: str) -> CudaExample:
    """The example called `name`.

    Raises:
        UserError: there is none; the hint says which names are close.
    """
    if name in EXAMPLES:
        return EXAMPLES[name]
    near = difflib.get_close_matches(name, EXAMPLES, n=1)
    known = ", ".join(EXAMPLES)
    raise UserError(
        f"there is no CUDA example {name!r}",
        hint=f"did you mean {near[0]}?" if near else f"there are: {known}",
    )
