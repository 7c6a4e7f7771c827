"""How does a caller hand over weights in the layout that tuning chose? `PackedArray`, `Packer`.

A tuned kernel whose program leaves the layout of some arguments free (`layout_free=`) reads those
as its schedule likes them best. `kernel.pack(W=w)` rearranges the values once; the kernel then
takes the result in the place of the argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .calling import roles, zeros
from .errors import RunError, UserError
from .ir.build import const_int
from .ir.nodes import Buffer, PrimFunc
from .ir.walk import blocks
from .lower.layout_preproc import (
    LAYOUT_FREE,
    Packing,
    free_positions,
    packings_of,
    positions_of,
    without_packings,
)
from .runtime.module import Module, build
from .runtime.ndarray import host_view
from .target import Target


@dataclass(frozen=True, slots=True, eq=False)
class PackedArray:
    """The values of an argument in the layout in which a kernel reads them; made by
    `TunedKernel.pack`.

    It can be kept: `array` is a plain array, `layout` a text, and
    `PackedArray(name, layout, array)` makes it anew. A kernel refuses one of another layout.

    Attributes:
        name: of the argument.
        layout: dtype, packed shape, and where each element of the argument lies in it.
        array: the values; elements that no element of the argument goes to are zeros.
    """

    name: str
    layout: str
    array: Any

    def __repr__(self) -> str:
        return f"PackedArray({self.name}: {self.layout})"


class Packer:
    """The free arguments of one scheduled function, and how each is packed.

    Args:
        workload: the unscheduled function.
        scheduled: what tuning made of it.
        target: what the packing is compiled for.

    Attributes:
        positions: of the arguments whose layout is free.
        names: theirs.
    """

    def __init__(self, workload: PrimFunc, scheduled: PrimFunc, target: Target) -> None:
        table = dict(workload.buffer_map)
        self.function = workload.name
        self.positions = free_positions(workload)
        self.buffers = {k: table[workload.params[k]] for k in self.positions}
        self.names = tuple([self.buffers[k].name for k in self.positions])
        self._scheduled = scheduled
        self._target = target
        self._packings: dict[int, Packing] = {p.position: p for p in packings_of(scheduled)}
        self._modules: dict[int, Module] = {}
        self._told = False

    @cached_property
    def kernel(self) -> PrimFunc:
        """The scheduled function, with packed arguments in the place of those that it packs."""
        return without_packings(self._scheduled, list(self._packings.values()))

    @cached_property
    def layouts(self) -> dict[int, str]:
        """The layout of each free argument, by position."""
        out = {}
        for k, given in self.buffers.items():
            p = self._packings.get(k)
            buffer = given if p is None else p.packed
            shape = ", ".join(map(str, buffer.shape))
            where = "as it is" if p is None else f"at {p.index_map}"
            out[k] = f"{buffer.dtype}[{shape}] {where}"
        return out

    def pack(self, name: str, array: Any) -> PackedArray:
        """The packed form of the values of one argument.

        Raises:
            UserError: no such argument, or its layout is not free.
            RunError: the array does not fit the argument.
        """
        if name not in self.names:
            listed = ", ".join(self.names)
            raise UserError(
                f"{self.function}: {name!r} is no argument whose layout is free",
                hint=f"those are: {listed}" if listed else 'gputune.tune(f, layout_free=("W",))',
                code="layout-free",
            )
        at = self.positions[self.names.index(name)]
        if isinstance(array, PackedArray):
            return PackedArray(name, self.layouts[at], self._taken(at, array))
        return PackedArray(name, self.layouts[at], self._packed(at, array))

    def place(self, args: Sequence[Any], note: bool = True) -> list[Any]:
        """All arguments as the kernel takes them: packed ones in their place, and what is not
        packed yet packed now, which costs more than the kernel saves: `note` says so, once.

        Raises:
            RunError: what was packed has another layout.
        """
        out = list(args)
        for k in self.positions:
            x = out[k]
            if isinstance(x, PackedArray):
                out[k] = self._taken(k, x)
            elif k in self._packings:
                out[k] = self._packed(k, x)
                if note:
                    self._note(k)
        return out

    def modules(self) -> dict[int, Module]:
        """What packs each argument, `f(given, packed)`, by position; those that stay as they are
        have none."""
        return {p.position: self._module(p) for p in self._packings.values()}

    # ------------------------------------------------------------------ one argument
    def _taken(self, at: int, x: PackedArray) -> Any:
        wanted, name = self.layouts[at], self.buffers[at].name
        if x.name != name or x.layout != wanted:
            raise RunError(
                f"{self.function}: expected {name} packed as {wanted}, found {x!r}",
                hint=f"pack it for this kernel: kernel.pack({name}=...)",
                code="layout",
            )
        return x.array

    def _packed(self, at: int, x: Any) -> Any:
        packing = self._packings.get(at)
        if packing is None:
            return self._copy(at, x)
        out = _zeros(packing.packed)
        self._module(packing)(x, out)
        return out

    def _module(self, packing: Packing) -> Module:
        found = self._modules.get(packing.position)
        if found is None:
            found = build(packing.function(self._scheduled), self._target)
            self._modules[packing.position] = found
        return found

    def _copy(self, at: int, x: Any) -> Any:
        """The values of an argument that stays as it is. On a GPU the array itself: it lies where
        the kernel reads it."""
        buffer = self.buffers[at]
        if self._target.kind != "llvm" or buffer.strides is not None:
            return x
        data, out = host_view(x, buffer.name), _zeros(buffer)
        if (data.shape, data.dtype) != (out.shape, out.dtype):
            raise RunError(
                f"{self.function}: argument {buffer.name}: expected {buffer.dtype}"
                f"{list(out.shape)}, found {data.dtype}{list(data.shape)}",
                code="shape",
            )
        out[...] = data
        return out

    def _note(self, at: int) -> None:
        if self._told:
            return
        self._told = True
        from .meta_schedule.logging import console

        name = self.buffers[at].name
        console().warning(
            "%s: %s is packed at every call: pack it once, with kernel.pack(%s=...), and pass that",
            self.function, name, name,
        )  # fmt: skip


def _zeros(buffer: Buffer) -> np.ndarray[Any, Any]:
    return zeros(tuple([const_int(n) or 0 for n in buffer.shape]), buffer.dtype)


def with_free_layouts(func: PrimFunc, listed: Any) -> PrimFunc:
    """A function whose attribute says which arguments may be packed.

    Args:
        func: the unscheduled function.
        listed: names or positions; None: what its attribute lists already.

    Raises:
        UserError: what is listed is no array argument, is written, has an open size, or may have a
            second name.
    """
    if listed is None:
        listed = dict(func.attrs).get(LAYOUT_FREE)
        if listed is None:
            return func
    positions = positions_of(func, listed, "layout_free")
    for k in positions:
        why = _why_not(func, k)
        if why:
            raise UserError(
                f"layout_free: {why}",
                hint="only what is the same at every call, such as weights, can be packed "
                "beforehand",
                code="layout-free",
            )
    return func.with_attr(LAYOUT_FREE, positions) if positions else func


def _why_not(func: PrimFunc, position: int) -> str:
    """Why the layout of an argument cannot be free, or ""."""
    param = func.params[position]
    buffer = dict(func.buffer_map)[param]
    if roles(func)[position] != "in":
        return f"{func.name} writes {buffer.name}"
    if any(const_int(n) is None for n in buffer.shape):
        return f"the shape of {buffer.name} is open"
    if any(b is buffer for p, b in func.buffer_map if p is not param):
        return f"{buffer.name} is two arguments of {func.name}"
    for b in blocks(func.body):
        if any(m.source.buffer is buffer for m in b.match_buffers):
            return f"block {b.name} of {func.name} reads {buffer.name} through match_buffer"
    noalias = [v for k, v in func.attrs if k in ("tir.noalias", "tirx.noalias")]
    if noalias and not noalias[0]:
        return f"arguments of {func.name} may overlap, as its attribute tir.noalias says"
    return ""
