"""What does a scheduled GPU program ask of the device? Read off its loops, blocks and regions.

The same numbers come out of lowering, but lowering takes a hundred times as long, and it works on
plain integers. Here every extent may be a sampled value: one look at a schedule whose sizes carry
their expressions gives the numbers for all candidates of its structure, and nothing is compared
that need not be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import TypeAlias

from ..ir.build import const_int
from ..ir.dtypes import itemsize
from ..ir.known_annotations import plain
from ..ir.nodes import (
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Expr,
    For,
    PrimFunc,
    Seq,
    Stmt,
    Var,
)  # fmt: skip
from ..ir.walk import stmt_exprs, uses_var, walk_expr, walk_stmt
from ..lower.lanes import come_together, exchanged, outermost_step, spatial_inside
from ..lower.place_memory import common_loops
from ..lower.shared_memory import ALIGN, DYNAMIC, together
from ..lower.tiles import of_warp
from ..schedule.analysis import region_under
from ..schedule.dim import maximum, minimum
from ..schedule.recognise import Reduction, reduction_of
from ..schedule.tree import Link, Tree
from .analysis import (
    BUFFER_DIM_ALIGN,
    PIPELINE_STAGE,
    THREAD_EXTENT_HIGH,
    THREAD_EXTENT_LOW,
    WARP_EXECUTION,
    annotation,
)

GRID = ("blockIdx.x", "blockIdx.y", "blockIdx.z")
BLOCK = ("threadIdx.x", "threadIdx.y", "threadIdx.z")
WARP = 32


@dataclass(slots=True)
class Window:
    """A block whose number of threads has to lie in a window.

    Attributes:
        block: its name.
        threads: those of its loops.
        low, high: the window, both inclusive; None: no limit.
    """

    block: str
    threads: int
    low: int | None
    high: int | None


@dataclass(slots=True)
class KernelUsage:
    """One kernel: a statement of the root block.

    Attributes:
        name: of its first block.
        extents: of each axis that it uses, such as "threadIdx.x".
        dynamic: names of thread-bound loops whose extent is not constant.
        vthreads: of each loop over virtual threads, the extent.
        vectors: of each buffer that a vectorized loop accesses at once, its name and the bytes.
        windows: blocks that ask for a number of threads.
        shared_bytes: of a block of the grid.
    """

    name: str
    extents: dict[str, int] = field(default_factory=dict)
    dynamic: list[str] = field(default_factory=list)
    vthreads: list[int] = field(default_factory=list)
    vectors: list[tuple[str, int]] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    shared_bytes: int = 0

    @property
    def threads(self) -> int:
        """Threads of a block of the grid."""
        return _threads(self.extents)


def kernels_of(func: PrimFunc) -> list[KernelUsage]:
    """The kernels of a scheduled function, in order, with what each asks for."""
    links = Tree(func.body).links
    tops: dict[int, KernelUsage] = {}
    out: list[KernelUsage] = []
    for link in links.values():
        if link.up is None:
            continue
        top = _top(link)
        usage = tops.get(id(top))
        if usage is None:
            usage = tops[id(top)] = KernelUsage(_first_block(top))
            out.append(usage)
        if type(link.node) is For:
            _note_loop(usage, link)
        else:
            _note_window(usage, link)
    lives: dict[int, list[_Life]] = {}
    for buffer, users in _shared_buffers(links.values()):
        top, size = _top(users[0]), _bytes_of(buffer, users)
        if buffer.scope == DYNAMIC:
            lives.setdefault(id(top), []).append(_life(_home(buffer, users), users, size))
        else:
            tops[id(top)].shared_bytes = tops[id(top)].shared_bytes + size
    for top_id, found in lives.items():
        tops[top_id].shared_bytes = tops[top_id].shared_bytes + _at_once(found, 0)
    for link in links.values():  # now that all threads are known
        if type(link.node) is Block and link.up is not None:
            usage = tops[id(_top(link))]
            usage.shared_bytes = usage.shared_bytes + _exchanged(usage, link)
    return out


def _top(link: Link) -> Stmt:
    """The outermost loop or block below the root block that holds a link."""
    node = link.node
    for x in link.above():
        if x.up is None:
            break
        if type(x.node) in (For, Block):
            node = x.node
    return node


def _first_block(s: Stmt) -> str:
    return next((x.name for x in walk_stmt(s) if type(x) is Block), "a statement")


# ----------------------------------------------------------------------------- loops and blocks
def _note_loop(usage: KernelUsage, link: Link) -> None:
    f = link.loop()
    n = const_int(f.extent)
    if f.kind == "vectorized" and n is not None:
        usage.vectors += _vectors(f, n)
    if f.thread is None:
        return
    if n is None:
        usage.dynamic.append(f.var.name)
    elif f.thread.startswith("vthread"):
        usage.vthreads.append(n)
    else:
        known = usage.extents.get(f.thread)
        usage.extents[f.thread] = n if known is None else maximum(known, n)


def _vectors(f: For, n: int) -> list[tuple[str, int]]:
    """What the blocks below a vectorized loop move at once. (Registers have no width.)"""
    moving: set[Var] = {f.var}
    out: dict[Buffer, int] = {}
    for s in walk_stmt(f.body):
        if type(s) is Block:
            moving |= {iv.var for iv, v in zip(s.iter_vars, s.iter_values) if uses_var(v, moving)}
        for buffer, indices in _accesses(s):
            if buffer.scope != "local" and any(uses_var(i, moving) for i in indices):
                out[buffer] = itemsize(buffer.dtype) * n
    return [(b.name, size) for b, size in out.items()]


def _accesses(s: Stmt) -> Iterator[tuple[Buffer, tuple[Expr, ...]]]:
    if type(s) is BufferStore:
        yield s.buffer, s.indices
    for e in () if type(s) is Block else stmt_exprs(s):
        for x in walk_expr(e):
            if type(x) is BufferLoad:
                yield x.buffer, x.indices


def _note_window(usage: KernelUsage, link: Link) -> None:
    block = link.block()
    if any(of_warp(w.buffer) for w in block.writes):  # whole warps lie along threadIdx.x
        usage.extents["threadIdx.x"] = maximum(usage.extents.get("threadIdx.x", 1), WARP)
    low, high = annotation(block, THREAD_EXTENT_LOW), annotation(block, THREAD_EXTENT_HIGH)
    if low is None and high is None:
        return
    above: dict[str, int] = {}
    for x in link.above():
        if type(x.node) is For and x.node.thread in BLOCK:
            n = const_int(x.node.extent)
            if n is not None and x.node.thread not in above:
                above[x.node.thread] = n
    if annotation(block, WARP_EXECUTION):
        above["threadIdx.x"] = WARP
    usage.windows.append(Window(block.name, _threads(above), low, high))


def _threads(extents: Mapping[str, int]) -> int:
    total = 1
    for axis in BLOCK:
        total = extents.get(axis, 1) * total
    return total


# ----------------------------------------------------------------------------- shared memory
def _shared_buffers(links: Iterable[Link]) -> Iterator[tuple[Buffer, list[Link]]]:
    """The buffers in shared memory, each with the blocks that use it."""
    users: dict[Buffer, list[Link]] = {}
    for link in links:
        if type(link.node) is not Block:
            continue
        if any(type(s) is Block for s in walk_stmt(link.node.body)):
            continue  # its own blocks say more
        for b in {r.buffer: None for r in (*link.node.reads, *link.node.writes)}:
            if b.scope.startswith("shared"):
                users.setdefault(b, []).append(link)
    yield from users.items()


def _bytes_of(b: Buffer, users: list[Link]) -> int:
    """What a buffer takes: as much as is read of it while it lives. (More is not written: what the
    last round of a fetch does beyond the tile is under a condition.)"""
    top = _home(b, users)
    readers = [x for x in users if any(r.buffer is b for r in x.block().reads)] or users
    sizes: list[int | None] = [None] * len(b.shape)
    for user in readers:
        block = user.block()
        for r in (*block.reads, *block.writes):
            if r.buffer is not b:
                continue
            box = None if top is None else region_under(user, top, r, threads=True)
            for k, n in enumerate(b.shape):
                whole = const_int(n)
                assert whole is not None  # what is on chip has a constant size
                own = None if box is None else const_int(box[k].extent)
                size = whole if own is None else minimum(own, whole)
                before = sizes[k]
                sizes[k] = size if before is None else maximum(before, size)
    known = [1 if n is None else n for n in sizes]
    return _aligned(_elements(users, b, known, versions_of(b, users, top)) * itemsize(b.dtype))


def versions_of(b: Buffer, users: list[Link], home: Link | None) -> int:
    """How many versions of a buffer there are: more than one in a software pipeline, which fetches
    ahead (see `lower.software_pipeline`).

    Args:
        b: the buffer.
        users: the blocks that use it.
        home: the loop in each of whose iterations it is anew.
    """
    if home is None or type(home.node) is not For:
        return 1
    stages = annotation(home.node, PIPELINE_STAGE)
    n = const_int(home.node.extent)
    body = home.node.body
    items = body.items if type(body) is Seq else (body,)
    if not stages or n is None or len(stages) != len(items):
        return 1
    at = [_stage(user, home, items) for user in users]
    far = 0
    for k, first in enumerate(users):
        if any(w.buffer is b for w in first.block().writes):
            for later in at[k + 1 :]:
                far = maximum(far, plain(stages[later]) - plain(stages[at[k]]))
    return minimum(far, n - 1) + 1


def _stage(user: Link, home: Link, items: tuple[Stmt, ...]) -> int:
    """Which statement of a loop holds a block."""
    for x in (user, *user.above()):
        for k, item in enumerate(items):
            if x.node is item:
                return k
        if x.node is home.node:
            break
    raise AssertionError("the loop is around the block")


def _home(b: Buffer, users: list[Link]) -> Link | None:
    """The loop (or what is around all loops) in each of whose iterations a buffer is anew: the
    innermost one around all users, unless what is written grows from iteration to iteration."""
    common = common_loops(users)
    home = common[0].up if common else None
    for x in common:
        around = {x.loop().var} | {y.node.var for y in x.above() if type(y.node) is For}
        for user in users:
            block = user.block()
            grows = any(w.buffer is b for w in block.writes) and any(
                iv.kind != "spatial" and uses_var(v, around)
                for iv, v in zip(block.iter_vars, block.iter_values)
            )
            if grows:
                return home
        home = x
    return home


Position: TypeAlias = tuple[int, ...]
"""Of a statement in a sequence; of one in a loop over threads in it, with that inside: such loops
vanish."""


@dataclass(frozen=True, slots=True)
class _Life:
    """How long an array lives that takes turns with others in the same memory (see
    `lower.shared_memory`).

    Attributes:
        path: the nodes from the outermost to its home, each with its place in the sequence around.
        first, last: which statements of its home's sequence use it.
        size: in bytes.
    """

    path: tuple[tuple[Stmt, Position], ...]
    first: Position
    last: Position
    size: int


def _life(home: Link | None, users: list[Link], size: int) -> _Life:
    path = () if home is None else _path(home)
    places = [_path(x)[len(path)][1] for x in users]
    return _Life(path, min(places), max(places), size)


def _path(link: Link) -> tuple[tuple[Stmt, Position], ...]:
    """The nodes down to a link that are there in a kernel, too; the link itself, if it is one."""
    out: list[tuple[Stmt, Position]] = []
    at: Position = ()
    for x in reversed([link, *link.above()]):
        around = None if x.up is None else x.up.node
        if type(around) is Seq:
            at = (*at, next(k for k, y in enumerate(around.items) if y is x.node))
        thread = x.node.thread if type(x.node) is For else None
        if type(x.node) is Seq or (thread is not None and not thread.startswith("vthread")):
            continue
        out.append((x.node, at))
        at = ()
    return tuple(out)


def _at_once(lives: list[_Life], depth: int) -> int:
    """The most bytes that live at the same time; the first `depth` nodes of the paths are one."""
    inside: dict[tuple[Position, int], list[_Life]] = {}
    for x in lives:
        if len(x.path) > depth:
            node, at = x.path[depth]
            inside.setdefault((at, id(node)), []).append(x)
    deeper = {key: _at_once(part, depth + 1) for key, part in inside.items()}
    own = [(x.first, x.last, [x.size]) for x in lives if len(x.path) == depth]
    found: list[int] = []
    for first, last, sizes in together(own):
        under = [deeper.pop(key) for key in list(deeper) if first <= key[0] <= last]
        found.append(sum(sizes) + (reduce(maximum, under) if under else 0))
    return reduce(maximum, [*found, *deeper.values()])


def _elements(users: list[Link], b: Buffer, sizes: list[int], versions: int = 1) -> int:
    """Elements of versions of a buffer of a shape, with the gaps that storage_align asks for."""
    rules = [
        (int(axis) % len(sizes), plain(factor), plain(offset))
        for user in users
        for k, axis, factor, offset in annotation(user.block(), BUFFER_DIM_ALIGN) or ()
        if user.block().writes[int(k)].buffer is b
    ]
    step, total = 1, 1
    for k in range(len(sizes) - 1, -1, -1):
        if k + 1 < len(sizes):
            step = step * sizes[k + 1]
        for axis, factor, offset in rules:
            if axis == k and k + 1 < len(sizes):
                step = step + (offset - step) % factor
        total = total + (sizes[k] - 1) * step
    return total + (versions - 1) * step * (sizes[0] if sizes else 1)


def _exchanged(usage: KernelUsage, link: Link) -> int:
    """What the threads need that share the reduction of a block."""
    elements = elements_exchanged(usage.extents, link, results_of(link))
    found = None if elements is None else reduction_of(link.block())
    if elements is None or not isinstance(found, Reduction):
        return 0
    return sum(_aligned(elements * itemsize(x.dtype)) for x in found.buffers)


def results_of(link: Link) -> int:
    """The results that each thread has a share of, when it has run its part of a reduction."""
    out = 1
    for f in spatial_inside(link):
        n = const_int(f.extent)
        out = out * (1 if n is None else n)
    return out


def elements_exchanged(extents: Mapping[str, int], link: Link, results: int = 1) -> int | None:
    """The elements in shared memory through which threads combine so many results of a block each
    (see `lower.lanes`); None if they share no reduction of it.

    Args:
        extents: of the thread axes of the kernel.
    """
    block = link.block()
    axes = {
        x.node.var: x.node.thread
        for x in link.above()
        if type(x.node) is For and x.node.thread is not None and x.node.thread in BLOCK
    }
    values = [v for iv, v in zip(block.iter_vars, block.iter_values) if iv.kind == "reduce"]
    reducing = {axis for v, axis in axes.items() if any(uses_var(e, v) for e in values)}
    if not reducing:
        return None
    if not come_together(outermost_step(link), axes):
        return _threads(extents)
    lengths = [(extents[axis], axis in reducing) for axis in BLOCK if axis in extents]
    return exchanged(lengths, results)


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
