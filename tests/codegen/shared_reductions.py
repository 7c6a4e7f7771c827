"""Programs in which threads share reductions, for every way in which rows may lie in warps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.codegen.cuda.program import CudaSource
from gputune.ir import dtypes
from gputune.ir.nodes import PrimFunc
from gputune.script import from_source

WARP = 32
ORDERS = ("forward", "reverse", "random")

BODIES = {
    "sum": ("{o}[v] = {o}[v] + A[v, w]", "0"),
    "max": ("{o}[v] = T.max({o}[v], A[v, w])", "T.min_value({dtype!r})"),
    "min": ("{o}[v] = T.min({o}[v], A[v, w])", "T.max_value({dtype!r})"),
}
ARGMAX = """with T.init():
            {o}[v] = T.min_value({dtype!r})
            {i}[v] = -1
        j: T.int32 = T.Select({o}[v] > A[v, w] or ({o}[v] == A[v, w] and {i}[v] < w), {i}[v], w)
        x: T.{dtype} = T.Select({o}[v] > A[v, w], {o}[v], A[v, w])
        {o}[v] = x
        {i}[v] = j"""


@dataclass(frozen=True)
class Case:
    """A reduction of the rows of a matrix.

    axes: lengths of threadIdx.x, y, z, those that there are, and whether they reduce; rows, length:
    of the matrix; op: a key of `BODIES`, or "argmax"; everyone: do all threads of a row need the
    result (it is in registers, and each adds it to its elements), or is it stored once?
    """

    axes: tuple[tuple[int, bool], ...]
    rows: int
    length: int
    dtype: str = "float32"
    op: str = "sum"
    everyone: bool = False

    @property
    def width(self) -> int:
        return prod(n for n, reduces in self.axes if reduces)

    @property
    def rows_a_block(self) -> int:
        return prod(n for n, reduces in self.axes if not reduces)

    def number(self, reduces: bool) -> str:
        """The number of a thread among those of its row, or that of its row."""
        out, size = "0", 1
        for (n, mine), t in zip(self.axes, "xyz"):
            if mine == reduces:
                out, size = f"{out} + t{t} * {size}", size * n
        return out

    def threads(self) -> Iterator[str]:
        for (n, _), t in zip(self.axes, "xyz"):
            yield f'for t{t} in T.thread_binding({n}, thread="threadIdx.{t}"):'

    def text(self) -> str:
        """The program."""
        dtype, (m, n) = self.dtype, (self.rows, self.length)
        of_row = f"b * {self.rows_a_block} + {self.number(False)}"
        of_column = f"k * {self.width} + {self.number(True)}"
        where = f"T.where(({of_row}) < {m} and ({of_column}) < {n})"
        argmax = self.op == "argmax"
        outs = {"R": dtype, "I": "int32"} if argmax else {"R": dtype}
        names = dict(zip(outs, ("L", "J") if self.everyone else ("R", "I")))
        params = [f'A: T.Buffer(({m}, {n}), "{dtype}")']
        if self.everyone:
            params += [f'{o}: T.Buffer(({m}, {n}), "{d}")' for o, d in outs.items()]
        else:
            params += [f'{o}: T.Buffer(({m},), "{d}")' for o, d in outs.items()]
        if argmax:
            body = ARGMAX.format(o=names["R"], i=names["I"], dtype=dtype)
        else:
            step, begin = BODIES[self.op]
            begin = f"T.{dtype}(0)" if begin == "0" else begin.format(dtype=dtype)
            body = f"with T.init():\n            {names['R']}[v] = {begin}\n        " + step.format(
                o=names["R"]
            )
        head = ["@T.prim_func", f"def main({', '.join(params)}):"]
        if self.everyone:
            head += [
                f'    {names[o]} = T.alloc_buffer(({m},), "{d}", scope="local")'
                for o, d in outs.items()
            ]
        grid = -(-m // self.rows_a_block)
        head.append(f'    for b in T.thread_binding({grid}, thread="blockIdx.x"):')
        block = [
            'with T.block("L"):',
            f"        v = T.axis.spatial({m}, {of_row})",
            f"        w = T.axis.reduce({n}, {of_column})",
            f"        {where}",
            f"        {body}",
        ]
        lines = [*head, *self._nest(block)]
        if self.everyone:
            use = [
                'with T.block("R"):',
                f"        v = T.axis.spatial({m}, {of_row})",
                f"        w = T.axis.spatial({n}, {of_column})",
                f"        {where}",
            ]
            use += [
                f"        {o}[v, w] = {names[o]}[v]" + (" + A[v, w]" if self._adds(o) else "")
                for o in outs
            ]
            lines += self._nest(use)
        return "\n".join(lines)

    def _adds(self, out: str) -> bool:
        return out == "R" and self.op == "sum" and self.dtype != "bool"

    def _nest(self, block: list[str]) -> list[str]:
        loops = [*self.threads(), f"for k in range({-(-self.length // self.width)}):"]
        out = [" " * (8 + 4 * d) + loop for d, loop in enumerate(loops)]
        indent = " " * (8 + 4 * len(loops))
        first, *rest = "\n".join(block).split("\n")
        return [*out, indent + first, *[indent + x[4:] for x in rest]]

    def func(self) -> PrimFunc:
        out = from_source(self.text())
        return out if isinstance(out, PrimFunc) else out["main"]

    # ------------------------------------------------------------------ what it computes
    def matrix(self) -> Any:
        """Small numbers, whose sums are exact."""
        rng = np.random.default_rng(self.rows * 1000 + self.length)
        kind = dtypes.numpy_dtype(self.dtype)
        if self.dtype == "bool":
            return rng.random((self.rows, self.length)) < 0.02
        low, high = (-1, 2) if self.op == "sum" else (-60, 61)
        if self.dtype.startswith("uint"):
            low, high = 0, 3
        return rng.integers(low, high, (self.rows, self.length)).astype(kind)

    def wanted(self, a: Any) -> dict[str, Any]:
        """The outputs, by name."""
        wide = a.astype(np.float64) if dtypes.is_float(self.dtype) else a.astype(np.int64)
        if self.op == "argmax":
            found = {"R": wide.max(1), "I": wide.argmax(1)}
        else:
            found = {"R": getattr(wide, self.op)(1)}
        if self.everyone:
            found = {
                k: np.broadcast_to(x[:, None], a.shape) + (wide if self._adds(k) else 0)
                for k, x in found.items()
            }
        kinds = {"R": a.dtype, "I": np.dtype(np.int32)}
        return {k: x.astype(kinds[k]) for k, x in found.items()}

    def rows_within_warps(self) -> bool:
        """Does no row have threads of two warps? Counted out."""
        number: dict[tuple[int, ...], set[int]] = {}
        for t in range(prod(n for n, _ in self.axes)):
            at, row = t, []
            for n, reduces in self.axes:
                if not reduces:
                    row.append(at % n)
                at //= n
            number.setdefault(tuple(row), set()).add(t // WARP)
        return all(len(warps) == 1 for warps in number.values())


def findings(case: Case, source: CudaSource, order: str) -> list[str]:
    """What host execution finds in an order of the threads, and whether the numbers are wrong."""
    a = case.matrix()
    values = {p.name: a if p.name == "A" else None for p in source.host.params}
    report = host_run(host_compile(source), values, order=order, seed=3)
    out = [f"{f.kind}: {f.message}" for f in report.findings]
    if not report.completed:
        return [*out, "not completed"]
    for name, want in case.wanted(a).items():
        got = report.outputs[name].reshape(want.shape)
        if not np.array_equal(got, want):
            out.append(f"{name}: {got} instead of {want}")
    return out


def check(case: Case) -> CudaSource:
    """The source, after it has run in three orders with no finding and the right numbers."""
    source = generate(case.func())
    for order in ORDERS:
        found = findings(case, source, order)
        assert not found, f"{order}: {found}\n{case}\n{source.text}"
    return source
