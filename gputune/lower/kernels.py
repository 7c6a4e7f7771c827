"""Which kernels does a scheduled GPU program launch, and what does one thread of each do?

Each statement of the root block is a kernel, launched in order. In a kernel, loops bound to
`blockIdx` and `threadIdx` are not loops: every thread has its own values. So a kernel becomes one
nest of a loop for each axis, as long as the grid or block, around what a single thread does; a
loop that is shorter than its axis becomes a condition on the blocks below it, and so does an axis
that has no loop around a block which writes what threads share.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import LowerError
from ..ir import build, walk
from ..ir.build import const_int
from ..ir.depends import depends_on
from ..ir.known_annotations import plain
from ..ir.nodes import (
    Annotations,
    Block,
    Buffer,
    BufferLoad,
    BufferStore,
    Evaluate,
    Expr,
    For,
    IfThenElse,
    IntImm,
    LetStmt,
    PrimFunc,
    Seq,
    Stmt,
    Var,
)
from ..schedule.tree import block_with
from .auto_copy import shared_copies
from .pragmas import with_pragmas
from .tiles import WARP, has_tile_op, in_registers, of_warp
from .vthreads import VIRTUAL

Triple: TypeAlias = tuple[int, int, int]

GRID = ("blockIdx.x", "blockIdx.y", "blockIdx.z")
BLOCK = ("threadIdx.x", "threadIdx.y", "threadIdx.z")
AXES = (*GRID, *BLOCK)
_MOST = {
    "blockIdx.x": 2**31 - 1, "blockIdx.y": 65535, "blockIdx.z": 65535,
    "threadIdx.x": 1024, "threadIdx.y": 1024, "threadIdx.z": 64,
}  # fmt: skip
MOST_THREADS = 1024
MIN_BLOCKS = "min_blocks_per_multiprocessor"
"""The annotation that says how many blocks of a kernel a multiprocessor shall hold at once."""


@dataclass(frozen=True, slots=True, eq=False)
class GpuKernel:
    """One launch.

    Attributes:
        name: of the kernel.
        func: its parameters are the buffers and numbers that it uses; its body is a nest of the
            axes (thread-bound loops) around what one thread does.
        grid: blocks along x, y, z.
        block: threads of a block along x, y, z.
        min_blocks: that a multiprocessor shall hold at once; 0: nobody said so.
    """

    name: str
    func: PrimFunc
    grid: Triple
    block: Triple
    min_blocks: int = 0

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.block[0] * self.block[1] * self.block[2]


def split_kernels(func: PrimFunc) -> tuple[list[GpuKernel], tuple[Buffer, ...]]:
    """The kernels of `func` in order, and the buffers in global memory that they share.

    Raises:
        LowerError: a statement is not bound to threads; a block or grid is too large; a loop around
            kernels; on-chip memory that two kernels use.
    """
    root = func.body
    items = list(root.body.items) if type(root.body) is Seq else [root.body]
    kept = [b for b in root.alloc_buffers if b.scope != "global"]
    if kept:
        raise LowerError(
            f"buffer {kept[0].name} is in {kept[0].scope} memory, which does not outlast a kernel, "
            "but several kernels use it",
            hint='compute_at its writer under a thread loop, or set_scope(..., "global")',
            code="scope-kernels",
        )
    workspaces = tuple(root.alloc_buffers)
    stem = re.sub(r"\W", "_", func.name, flags=re.ASCII)
    stem = f"k{stem}" if stem[:1].isdigit() else stem
    names = [stem] if len(items) == 1 else [f"{stem}_{k}" for k in range(len(items))]
    return [_kernel(func, f"{n}_kernel", s, workspaces) for n, s in zip(names, items)], workspaces


def _kernel(func: PrimFunc, name: str, s: Stmt, workspaces: tuple[Buffer, ...]) -> GpuKernel:
    extents = _extents(func, s)
    _check_size(name, extents)
    fewest = _min_blocks(s, func.body.annotations)
    s = shared_copies(with_pragmas(s, func.body.annotations), extents)
    axes = {axis: Var(axis.replace("Idx.", "_"), "int32") for axis in AXES if axis in extents}
    spmd = _Spmd(func.name, extents, axes, has_tile_op(s))
    for part in walk.walk_stmt(s):
        if type(part) in (For, IfThenElse, LetStmt):
            spmd.ragged.update(v for e in walk.stmt_exprs(part) for v in walk.free_vars(e))
    body = spmd.go(s, {}, {})
    spmd.check_on_chip()
    for axis in reversed([a for a in AXES if a in extents]):
        body = For(axes[axis], IntImm(0), IntImm(extents[axis]), "thread_binding", body, axis)
    params, table = _params(func, body, workspaces)
    root = build.root_block(body)
    attrs = tuple((k, v) for k, v in func.attrs if k != "global_symbol")
    kernel = PrimFunc(params, table, root, (*attrs, ("global_symbol", name)))
    x, y, z = (extents.get(a, 1) for a in GRID)
    p, q, r = (extents.get(a, 1) for a in BLOCK)
    return GpuKernel(name, kernel, (x, y, z), (p, q, r), fewest)


def _min_blocks(s: Stmt, notes: Annotations) -> int:
    """How many blocks a multiprocessor shall hold, by the notes in a kernel and on all of it."""
    inside = [x.annotations for x in walk.walk_stmt(s) if isinstance(x, For | Block)]
    asked = [int(plain(v)) for own in (notes, *inside) for name, v in own if name == MIN_BLOCKS]
    return max(asked, default=0)


def _extents(func: PrimFunc, s: Stmt) -> dict[str, int]:
    """Each axis of the kernel with its length: that of the longest loop bound to it."""
    out: dict[str, int] = {}
    for x in walk.walk_stmt(s):
        if type(x) is For and x.kind == "thread_binding":
            assert x.thread is not None
            if x.thread.startswith("vthread"):
                continue
            n = const_int(x.extent)
            if n is None or not build.is_literal(x.min, 0):
                raise LowerError(
                    f"loop {x.var.name} over {x.thread} runs from {x.min} for {x.extent}: the "
                    "sizes of a launch must be known",
                    hint="bind loops of constant extent from 0",
                    code="thread-extent",
                )
            if x.thread in GRID and x.thread in out:
                raise LowerError(
                    f"loop {x.var.name} is the second one over {x.thread} in one kernel: blocks do "
                    "not wait for each other",
                    hint="give each its own statement of the root block",
                    code="grid-twice",
                )
            out[x.thread] = max(out.get(x.thread, 1), _blocks_along(x.thread, int(n)))
    if not out:
        what = next((b.name for b in walk.blocks(s)), "a statement")
        raise LowerError(
            f"block {what} is not bound to threads of the GPU",
            hint="bind its loops to blockIdx.x and threadIdx.x, or begin with "
            "gputune.default_gpu_schedule",
            code="unbound-block",
        )
    if has_tile_op(s) or any(of_warp(b) for b in _stored(s)):
        _warp_lanes(out)
    return out


def _blocks_along(axis: str, n: int) -> int:
    """How many blocks (or threads) an axis has for a loop of `n` steps. A grid that cannot be so
    long has fewer, which take several steps each."""
    most = _MOST[axis]
    if axis not in GRID or n <= most:
        return n
    rounds = -(-n // most)
    return -(-n // rounds)


def _warp_lanes(extents: dict[str, int]) -> None:
    """The threads of a warp lie along threadIdx.x where whole warps run operations on tiles or have
    memory together; loops bound to threadIdx.y and threadIdx.z count warps."""
    n = extents.get("threadIdx.x", 1)
    if n > WARP:
        raise LowerError(
            f"threadIdx.x has {n} steps in a kernel with operations or memory of whole warps, "
            f"which has the {WARP} threads of a warp there",
            hint="bind what counts warps to threadIdx.y, and split what threads fetch by "
            f"{WARP} for threadIdx.x",
            code="warp-lanes",
        )
    extents["threadIdx.x"] = WARP


def _check_size(name: str, extents: Mapping[str, int]) -> None:
    for axis, n in extents.items():
        if n > _MOST[axis]:
            raise LowerError(
                f"{name}: {axis} has {n} steps, the most is {_MOST[axis]}", code="launch-size"
            )
    threads = 1
    for axis in BLOCK:
        threads *= extents.get(axis, 1)
    if threads > MOST_THREADS:
        raise LowerError(
            f"{name}: a block of {threads} threads, the most is {MOST_THREADS}",
            hint="split the loops further, or bind fewer of them to threadIdx",
            code="launch-size",
        )


class _Spmd:
    """Replaces thread-bound loops of one kernel by the axes; `warps`: do whole warps work in it?"""

    def __init__(
        self, func: str, extents: Mapping[str, int], axes: Mapping[str, Var], warps: bool
    ) -> None:
        self.func = func
        self.extents = extents
        self.axes = axes
        self.warps = warps
        self.nested = False  # in a block?
        self.ragged: set[Var] = set()  # on which the lengths of loops depend
        self.users: list[tuple[Block, frozenset[str]]] = []  # with the axes of the grid around

    def check_on_chip(self) -> None:
        """Each block of the grid has on-chip memory of its own: what some blocks wrote there, not
        all can read."""
        made: dict[Buffer, set[str]] = {}
        for b, around in self.users:
            for w in b.writes:
                made.setdefault(w.buffer, set()).update(around)
        for b, around in self.users:
            for r in (*b.reads, *b.writes):
                missing = made.get(r.buffer, set()) - around
                if r.buffer.scope != "global" and missing:
                    raise LowerError(
                        f"block {b.name} uses {r.buffer.name} in {r.buffer.scope} memory outside "
                        f"of the loop over {min(missing)} in which it is written: blocks do "
                        "not see each other's",
                        hint="move it inside that loop, or set_scope to global memory and a kernel "
                        "of its own",
                        code="grid-part",
                    )

    def go(self, s: Stmt, table: Mapping[Var, Expr], bound: Mapping[str, Var]) -> Stmt:
        """`s` for one thread. `table`: what thread loop variables are; `bound`: the innermost loop
        variable of each axis around `s`."""
        match s:
            case For(kind="thread_binding"):
                return self._axis(s, table, bound)
            case Block():
                return self._block(s, table, bound)
            case For(kind="parallel"):
                plain = For(s.var, s.min, s.extent, "serial", s.body, None, s.annotations)
                return self.go(plain, table, bound)
            case For() if not bound and _binds_grid(s.body) and const_int(s.extent) != 1:
                raise LowerError(
                    f"loop {s.var.name} stands around loops that are bound to blocks: its "
                    "iterations would need a launch each",
                    hint="reorder it inside, or bind it too",
                    code="host-loop",
                )
            case BufferStore() | Evaluate():
                out = walk.map_stmt(s, lambda e: walk.substitute(e, table), lambda x: x)
                assert out is not None  # nothing is deleted
                return _guarded(out, self._once(s, bound)[0])
            case _:
                return self._inside(s, table, bound)

    def _inside(self, s: Stmt, table: Mapping[Var, Expr], bound: Mapping[str, Var]) -> Stmt:
        out = walk.map_stmt(
            s, lambda e: walk.substitute(e, table), lambda x: self.go(x, table, bound)
        )
        assert out is not None  # go never deletes
        return out

    def _block(self, b: Block, table: Mapping[Var, Expr], bound: Mapping[str, Var]) -> Stmt:
        around = {a for a in GRID if a in bound and self.extents[a] > 1}
        self.users.append((b, frozenset(around)))
        cond, bound = self._once(b, bound)
        before, self.nested = self.nested, True
        out = self._inside(b, table, bound)
        self.nested = before
        assert type(out) is Block
        return _guarded(out, cond)

    def _once(self, s: Stmt, bound: Mapping[str, Var]) -> tuple[Expr, Mapping[str, Var]]:
        """What lets a statement run once along the axes that are not around it (as if around it
        were a loop of length 1), and `bound` with them. Each thread has registers of its own, so
        there every thread does the work; as does every block in shared memory."""
        scopes = {b.scope.split(".")[0] for b in _stored(s)}
        cond: Expr = build.TRUE
        out = dict(bound)
        inside = {x.thread for x in walk.walk_stmt(s) if type(x) is For}
        for axis, n in self.extents.items():
            if axis == "threadIdx.x" and self.warps and has_tile_op(s):
                continue  # all threads of a warp come to it; other statements inside see to theirs
            keep = {"local", "wmma", "mma", "warp"} if axis in BLOCK else {
                "local", "wmma", "mma", "warp", "shared"
            }  # fmt: skip
            if axis == "threadIdx.x":
                keep.discard("warp")  # which lanes have together
            apart = axis not in bound or (axis in BLOCK and self._same(s, bound[axis]))
            if n > 1 and apart and axis not in inside and scopes - keep:
                cond = build.logical_and(cond, build.eq(self.axes[axis], IntImm(0)))
                out[axis] = self.axes[axis]
        return cond, out

    def _same(self, s: Stmt, v: Var) -> bool:
        """Do all iterations of a thread loop around the block compute the same? Then one will do:
        such is a fetch that threads along one axis share, below a loop over another."""
        return (
            type(s) is Block
            and not self.nested
            and v not in self.ragged
            and not _mentions(s, v)
            and not any(in_registers(r.buffer) for r in s.reads)
        )

    def _axis(self, s: For, table: Mapping[Var, Expr], bound: Mapping[str, Var]) -> Stmt:
        assert s.thread is not None
        if s.thread.startswith("vthread"):
            notes = (*s.annotations, (VIRTUAL, True))
            inside = with_pragmas(s.body, s.annotations)
            plain = For(s.var, s.min, s.extent, "serial", inside, None, notes)
            return self.go(plain, table, bound)
        self._check_inside(s)
        if s.thread == "threadIdx.x" and self.warps and has_tile_op(s.body):
            raise LowerError(
                f"{self.func}: loop {s.var.name} over threadIdx.x stands around an operation of "
                "whole warps, whose threads lie along it",
                hint="bind it to threadIdx.y, which counts warps",
                code="warp-divergent",
            )
        n = const_int(s.extent)
        assert n is not None  # `_extents` refused others
        if s.thread in GRID and n > self.extents[s.thread]:
            return self._rounds(s, int(n), table, bound)
        axis = self.axes[s.thread]
        value = build.cast(s.var.dtype, axis)
        inside = with_pragmas(s.body, s.annotations)
        body = self.go(inside, {**table, s.var: value}, {**bound, s.thread: s.var})
        return body if n == self.extents[s.thread] else _guarded(body, build.lt(axis, int(n)))

    def _rounds(self, s: For, n: int, table: Mapping[Var, Expr], bound: Mapping[str, Var]) -> Stmt:
        """A loop over an axis of the grid that has fewer blocks than the loop has steps: each block
        takes every step that many further on."""
        assert s.thread is not None
        length = self.extents[s.thread]
        turn = Var(f"{s.var.name}_turn", s.var.dtype)
        here = build.cast(s.var.dtype, self.axes[s.thread])
        value = build.add(build.mul(turn, IntImm(length, s.var.dtype)), here)
        inside = with_pragmas(s.body, s.annotations)
        body = self.go(inside, {**table, s.var: value}, {**bound, s.thread: s.var})
        rounds = -(-n // length)
        if rounds * length != n:
            body = _guarded(body, build.lt(value, IntImm(n, s.var.dtype)))
        return For(turn, IntImm(0, s.var.dtype), IntImm(rounds, s.var.dtype), "serial", body)

    def _check_inside(self, s: For) -> None:
        """Loops over the same axis inside a thread loop run with the same thread numbers: each must
        do the same for all of them, and find a thread for each of its steps."""
        for x in walk.walk_stmt(s.body):
            if type(x) is not For or x.thread != s.thread:
                continue
            if depends_on(x, s):
                raise LowerError(
                    f"{self.func}: loop {x.var.name} over {x.thread} depends on the variable "
                    f"{s.var.name} of another loop over the same axis around it",
                    hint="what threads fetch together must not depend on the single thread: bind "
                    "the outer loops before compute_at",
                    code="axis-twice",
                )
            m, n = const_int(s.extent), const_int(x.extent)
            if m is not None and n is not None and m < n:  # (`_extents` refused others)
                raise LowerError(
                    f"{self.func}: loop {x.var.name} over {x.thread} has {n} steps, but stands "
                    f"inside the loop {s.var.name} over the same axis, of {m} threads",
                    hint=f"split {x.var.name} by {m} and bind the part of {m} steps",
                    code="axis-twice",
                )


def _binds_grid(s: Stmt) -> bool:
    return any(
        type(x) is For and x.thread is not None and x.thread in GRID for x in walk.walk_stmt(s)
    )


def _mentions(s: Stmt, v: Var) -> bool:
    return any(walk.uses_var(e, v) for e in walk.all_exprs(s))


def _guarded(s: Stmt, cond: Expr) -> Stmt:
    """`s` with `cond` in the predicates of its outermost blocks, and around other statements."""
    if build.is_literal(cond, 1):
        return s
    if type(s) is Block:
        return block_with(s, predicate=build.logical_and(s.predicate, cond))
    if type(s) in (BufferStore, Evaluate):
        return IfThenElse(cond, s)
    out = walk.map_stmt(s, lambda e: e, lambda x: _guarded(x, cond))
    assert out is not None  # nothing is deleted
    return out


# ----------------------------------------------------------------------------- parameters
def _params(
    func: PrimFunc, body: Stmt, workspaces: tuple[Buffer, ...]
) -> tuple[tuple[Var, ...], tuple[tuple[Var, Buffer], ...]]:
    """The parameters of a kernel: those of the function that it uses, then workspaces."""
    used = _used_buffers(body)
    numbers = {v for e in walk.all_exprs(body) for v in walk.free_vars(e)}
    table = dict(func.buffer_map)
    params: list[Var] = []
    buffers: list[tuple[Var, Buffer]] = []
    for p in func.params:
        b = table.get(p)
        if b is None:
            if p in numbers:
                params.append(p)
        elif b in used:
            params.append(p)
            buffers.append((p, b))
    for b in workspaces:
        if b in used:
            v = Var(b.name, "handle")
            params.append(v)
            buffers.append((v, b))
    return tuple(params), tuple(buffers)


def _used_buffers(body: Stmt) -> set[Buffer]:
    out: set[Buffer] = set()
    for s in walk.walk_stmt(body):
        if type(s) is BufferStore:
            out.add(s.buffer)
        elif type(s) is Block:
            out.update(r.buffer for r in (*s.reads, *s.writes))
            out.update(m.source.buffer for m in s.match_buffers)
        out.update(e.buffer for e in _loads(s))
    return out


def _stored(s: Stmt) -> set[Buffer]:
    """The buffers that a statement stores to, behind views of them."""
    out = {x.buffer for x in walk.walk_stmt(s) if type(x) is BufferStore}
    for b in walk.blocks(s):
        out |= {w.buffer for w in b.writes}
        out |= {m.source.buffer for m in b.match_buffers if m.buffer in out}
    return out


def _loads(s: Stmt) -> Iterator[BufferLoad]:
    for e in walk.stmt_exprs(s):
        for x in walk.walk_expr(e):
            if type(x) is BufferLoad:
                yield x


def inner(kernel: PrimFunc) -> tuple[list[For], Stmt]:
    """The axes of a kernel (outermost first) and what one thread does."""
    axes: list[For] = []
    s = kernel.body.body
    while type(s) is For and s.kind == "thread_binding":
        axes.append(s)
        s = s.body
    return axes, s


def with_inner(kernel: PrimFunc, body: Stmt) -> PrimFunc:
    """The kernel with something else for a thread to do."""
    axes, _ = inner(kernel)
    for a in reversed(axes):
        body = For(a.var, a.min, a.extent, a.kind, body, a.thread, a.annotations)
    return build.replace_body(kernel, build.root_block(body))


__all__ = ["AXES", "BLOCK", "GRID", "GpuKernel", "inner", "split_kernels", "with_inner"]
