"""Where in its memory is an element of a buffer, and may it be touched there?

Memory is a flat Python list. A buffer of constant shape has its list to itself; any other, and a
view, is a `Window` on one. The functions here make closures over the environment of interp.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import RunError
from . import dtypes
from .nodes import Buffer, Expr, IntImm, Var

Env: TypeAlias = list[Any]
Code: TypeAlias = Callable[[Env], Any]

LANE, CELL = 0, 1
"""Slots of the current vector lane and of a cell that rounds to float32."""


@dataclass(slots=True)
class Window:
    """A buffer whose place is known only at run time: elements of `memory` from `start`."""

    memory: list[Any]
    start: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    strides: tuple[int, ...]  # of the layout that is declared, for match_buffer to bind
    offset: int  # likewise

    def cut(
        self, lows: Sequence[int], sizes: Sequence[int], dims: int, name: str, where: str
    ) -> Window:
        """The view `name` of `dims` dimensions on the region at `lows` of extents `sizes`; leading
        dimensions of extent 1 are dropped."""
        if any(lo < 0 or lo + n > dim for lo, n, dim in zip(lows, sizes, self.shape)):
            raise RunError(
                f"view {name} at {index_text(lows)} with extents {index_text(sizes)} leaves the "
                f"shape {self.shape} of its source, in {where}",
                code="view-bounds",
            )
        drop = len(sizes) - dims
        if drop < 0 or any(n != 1 for n in sizes[:drop]):
            raise RunError(
                f"view {name} has {dims} dimensions, its region has extents {index_text(sizes)}, "
                f"in {where}",
                code="view-shape",
            )
        return Window(
            self.memory,
            self.start + sum(x * y for x, y in zip(lows, self.steps)),
            tuple(sizes[drop:]),
            self.steps[drop:],
            self.strides[drop:],
            self.offset + sum(x * y for x, y in zip(lows, self.strides)),
        )


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """How far apart neighbours are in each dimension of a dense array."""
    steps = [1] * len(shape)
    for k in range(len(shape) - 2, -1, -1):
        steps[k] = steps[k + 1] * shape[k + 1]
    return tuple(steps)


def const_shape(b: Buffer) -> tuple[int, ...] | None:
    """The shape, if it is constant."""
    if all(type(n) is IntImm for n in b.shape):
        return tuple(int(n.value) for n in b.shape if type(n) is IntImm)
    return None


def index_text(index: Sequence[int]) -> str:
    """`[1, 2]`."""
    return f"[{', '.join(map(str, index))}]"


def _outside(name: str, index: Sequence[int], shape: Sequence[int], where: str) -> RunError:
    return RunError(
        f"{name}{index_text(index)} is outside the shape {tuple(shape)}, in {where}",
        code="bounds",
    )


def static_position(
    name: str,
    codes: list[Code],
    indices: Sequence[Expr],
    slots: dict[Var | Buffer, int],
    shape: tuple[int, ...],
    where: str,
) -> Code:
    """Code for the position of an element of a buffer of constant shape.

    The common cases have closures of their own; plain variables are read without a
    call."""
    plain = [slots[i] for i in indices if type(i) is Var and dtypes.lanes(i.dtype) == 1]
    all_plain = len(plain) == len(indices)
    if len(shape) == 1:
        (n,), (a,) = shape, codes

        def one(env: Env) -> Any:
            i = a(env)
            if 0 <= i < n:
                return i
            raise _outside(name, (i,), shape, where)

        return one
    if len(shape) == 2 and all_plain:
        (n, m), (s, t) = shape, plain

        def two_plain(env: Env) -> Any:
            i = env[s]
            j = env[t]
            if 0 <= i < n and 0 <= j < m:
                return i * m + j
            raise _outside(name, (i, j), shape, where)

        return two_plain
    if len(shape) == 2:
        (n, m), (a, b) = shape, codes

        def two(env: Env) -> Any:
            i = a(env)
            j = b(env)
            if 0 <= i < n and 0 <= j < m:
                return i * m + j
            raise _outside(name, (i, j), shape, where)

        return two
    dims = list(zip(codes, shape))

    def many(env: Env) -> Any:
        at = 0
        for code, size in dims:
            i = code(env)
            if not 0 <= i < size:
                raise _outside(name, [c(env) for c in codes], shape, where)
            at = at * size + i
        return at

    return many


def dynamic_position(name: str, codes: list[Code], slot: int, where: str) -> Code:
    """Code for the position of an element of the Window in `slot`."""

    def position(env: Env) -> Any:
        window: Window = env[slot]
        at = window.start
        for code, size, step in zip(codes, window.shape, window.steps):
            i = code(env)
            if not 0 <= i < size:
                raise _outside(name, [c(env) for c in codes], window.shape, where)
            at += i * step
        return at

    return position


def within(
    buffer: str, verb: str, block: str, regions: list[list[tuple[Code, Code]]]
) -> Callable[[Env, list[int]], list[int]]:
    """Passes an index on if one of the regions (min, extent of each dimension) contains it."""

    def check(env: Env, index: list[int]) -> list[int]:
        for region in regions:
            if all(lo(env) <= x < lo(env) + n(env) for x, (lo, n) in zip(index, region)):
                return index
        raise RunError(
            f"{buffer}{index_text(index)} is {verb} outside the regions declared by block {block}",
            code="region",
        )

    return check
