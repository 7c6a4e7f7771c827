"""Where in the shared memory of a block does each array lie?

Arrays in "shared" are variables of the kernel, and keep their memory from its beginning to its end.
Those in "shared.dyn" are parts of one piece of memory, which the launch sizes: two that never live
at the same time take turns in it, so that a kernel needs what lives at once, not what lives at all.
An array lives as long as its `Alloc` is open, which `shorten_lives` sees to is no longer than it is
used; where the memory changes hands, `barriers` puts one. What a kernel may declare is limited:
where the variables take more, they become the first parts of that piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from ..errors import LowerError
from ..ir import build, dtypes, walk
from ..ir.build import const_int
from ..ir.nodes import Alloc, Buffer, PrimFunc, Seq, Stmt
from .accesses import touches
from .flat import steps_of
from .limits import CpuLimits
from .prepare import as_block

P = TypeVar("P", int, tuple[int, ...])
T = TypeVar("T")

SHARED, DYNAMIC = "shared", "shared.dyn"
ALIGN = 16
"""Bytes: arrays begin at multiples of this, and of what a buffer asks for."""
STATIC_MOST = 48 * 1024
"""Bytes of variables in shared memory that a kernel may declare; more a launch asks for."""


@dataclass(frozen=True, slots=True, eq=False)
class SharedLayout:
    """The arrays in shared memory of a kernel.

    Attributes:
        declared: those that are variables.
        at: of the others, where they begin in the memory that the launch sizes, in bytes.
        dynamic_bytes: that memory's size.
        bytes: of all shared memory of a block.
        align: of that memory, in bytes.
    """

    declared: tuple[Buffer, ...]
    at: dict[Buffer, int]
    dynamic_bytes: int
    bytes: int
    align: int

    def overlap(self, a: Buffer, b: Buffer) -> bool:
        """Are there bytes that two different arrays use, one after the other?"""
        if a is b or a not in self.at or b not in self.at:
            return False
        return (
            self.at[a] < self.at[b] + size_of(b) and self.at[b] < self.at[a] + size_of(a)
        )  # fmt: skip


def shared_layout(body: Stmt | PrimFunc) -> SharedLayout:
    """Where the arrays lie that a kernel (without blocks) allocates.

    Raises:
        LowerError: the size of one is not constant.
    """
    root = body.body if isinstance(body, PrimFunc) else body
    found = list(_nested(root, ()))
    fixed = [b for b, _ in found if b.scope != DYNAMIC]
    unit = max([ALIGN, *(b.align for b, _ in found)])
    at: dict[Buffer, int] = {}
    low, static = 0, sum(_rounded(size_of(b), ALIGN) for b in fixed)
    if static > STATIC_MOST:
        for b in fixed:
            at[b] = low = _rounded(low, max(ALIGN, b.align))
            low += _rounded(size_of(b), ALIGN)
        fixed, static = [], 0
    most = low
    for b, around in found:
        if b.scope == DYNAMIC:
            start = _rounded(low, unit) if low else 0
            at[b] = start + sum(_rounded(size_of(x), unit) for x in around)
            most = max(most, at[b] + _rounded(size_of(b), unit))
    return SharedLayout(tuple(fixed), at, most, static + most, unit)


def shorten_lives(kernel: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """The kernel with each array in "shared.dyn" around no more of the statements of a sequence
    than those that use it, and what is between them. (Arrays whose turns overlap live together.)"""
    return as_block(kernel, _shortened(kernel.body))


def _shortened(s: Stmt) -> Stmt:
    if type(s) is not Alloc:
        out = walk.map_stmt(s, lambda e: e, _shortened)
        assert out is not None  # nothing is deleted
        return out
    chain: list[Buffer] = []
    inside: Stmt = s
    while type(inside) is Alloc:
        chain.append(inside.buffer)
        inside = inside.body
    inside = _shortened(inside)
    moving = [b for b in chain if b.scope == DYNAMIC]
    if type(inside) is Seq and moving:
        inside, others = _lifted(inside)
        chain += others
        inside = _in_turns(inside, moving)
        chain = [b for b in chain if b.scope != DYNAMIC]
    for b in reversed(chain):
        inside = Alloc(b, inside)
    return inside


def _lifted(s: Seq) -> tuple[Seq, list[Buffer]]:
    """A sequence with the statements of sequences inside that hold other memory, and that memory,
    which then is to be around all of it."""
    items: list[Stmt] = []
    held: list[Buffer] = []
    for x in s.items:
        own: list[Buffer] = []
        while type(x) is Alloc and x.buffer.scope != DYNAMIC:
            own.append(x.buffer)
            x = x.body
        if own and type(x) is Seq:
            x, more = _lifted(x)
            own += more
        held += own
        items += x.items if own and type(x) is Seq else [x]
    return Seq(tuple(items)), held


def _in_turns(s: Seq, buffers: list[Buffer]) -> Stmt:
    """The sequence, with each group of buffers around the part of it in which they are used."""
    spans = []
    for b in buffers:
        used = [k for k, x in enumerate(s.items) if touches(x, b)]
        if used:  # (or nobody needs it)
            spans.append((used[0], used[-1], [b]))
    items: list[Stmt] = []
    done = 0
    for first, last, group in together(spans):
        part = build.seq(*s.items[first : last + 1])
        for b in reversed(group):
            part = Alloc(b, part)
        items += [*s.items[done:first], part]
        done = last + 1
    return build.seq(*items, *s.items[done:])


Span: TypeAlias = tuple[P, P, list[T]]


def together(spans: Sequence[Span[P, T]]) -> list[Span[P, T]]:
    """Spans of statements (first, last, what lives there), those that overlap joined; in order."""
    out: list[Span[P, T]] = []
    for span in sorted(spans, key=lambda x: x[0]):
        if out and span[0] <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], span[1]), out[-1][2] + span[2])
        else:
            out.append(span)
    return out


def size_of(b: Buffer) -> int:
    """Bytes from the first to the last element; gaps of a padded buffer count, and the rest of a
    row in which pieces change places."""
    last = 0
    for n, step in zip(b.shape, steps_of(b), strict=True):
        size, stride = const_int(n), const_int(step)
        if size is None or stride is None:
            raise LowerError(
                f"the size of {b.name} in {b.scope} memory is not constant",
                hint="what a kernel keeps on the chip has a constant size",
                code="dynamic-buffer",
            )
        last += (int(size) - 1) * int(stride)
    size = max(0, last + 1) * dtypes.itemsize(b.dtype)
    return _rounded(size, b.swizzle) if b.swizzle else size


def _nested(s: Stmt, around: tuple[Buffer, ...]) -> Iterator[tuple[Buffer, tuple[Buffer, ...]]]:
    """The arrays in shared memory, each with those in "shared.dyn" that live as long, or longer."""
    if type(s) is Alloc and s.buffer.scope in (SHARED, DYNAMIC):
        yield s.buffer, around
        if s.buffer.scope == DYNAMIC:
            around = (*around, s.buffer)
    for x in walk.stmt_children(s):
        yield from _nested(x, around)


def _rounded(n: int, unit: int) -> int:
    return -(-n // unit) * unit
