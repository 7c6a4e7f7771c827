"""What becomes of a reduction whose loop is bound to threads? Each thread reduces its share in a
register; then the threads of a row combine their shares.

Within a warp they do so by shuffles, with no memory and no barrier. Where a row has several warps,
each of them leaves what it has in shared memory, and after one barrier the first warp of the row
(every warp, where all need the result and it takes no more steps) combines those. Where warps cut
rows unevenly, as with rows of 20 threads, the threads combine their shares two by two in shared
memory, with a barrier before each round. `barriers` puts the barriers. Sums round in another order
than a serial loop's.

Where each thread has shares of several results, up to `AT_ONCE` of them wait for one barrier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from ..errors import LowerError
from ..ir import build, walk
from ..ir.build import const_int
from ..ir.nodes import (
    Alloc,
    Block,
    BlockKey,
    Buffer,
    BufferLoad,
    Expr,
    For,
    IfThenElse,
    IntImm,
    IterVar,
    LetStmt,
    PrimFunc,
    Stmt,
    Var,
)
from ..schedule.combine import at_once, init_stores, redirected, stored
from ..schedule.recognise import Reduction, reduction_of
from ..schedule.reducers import Each, Exprs
from ..schedule.tree import Link, Tree, block_with, graft
from .kernels import BLOCK, inner, with_inner
from .lanes import (
    are_even,
    at_once_of,
    come_together,
    exchanged,
    loops_of,
    outermost_step,
    runs_of,
    shuffle,
    shuffle_xor,
    spatial_inside,
    within_warp,
)
from .limits import CpuLimits
from .linear import conjuncts
from .tiles import WARP


def lower_cross_thread(kernel: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """The kernel with no reduce iterator bound to threads.

    Raises:
        LowerError: the combiner of the reduction is not known. (`any_order` has refused those that
            need the elements in order.)
    """
    while True:
        axes, _ = inner(kernel)
        threads = {a.var: a for a in axes if a.thread in BLOCK}
        found = _find(kernel, threads)
        if found is None:
            return kernel
        kernel = with_inner(kernel, _combine(kernel, found, threads))


def _find(kernel: PrimFunc, threads: dict[Var, For]) -> Link | None:
    """A block with a reduce iterator that depends on a thread axis."""
    for link in Tree(kernel.body).links.values():
        if type(link.node) is Block and any(
            iv.kind == "reduce" and walk.uses_var(v, set(threads))
            for iv, v in zip(link.node.iter_vars, link.node.iter_values, strict=True)
        ):
            return link
    return None


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one reduction is shared out.

    threads: the thread axes, threadIdx.x first, each with whether it reduces;
    serial: the loops inside the outermost serial reduction loop that drive only spatial iterators;
    together: do all threads of a block come to the combination?
    """

    block: Block
    found: Reduction
    threads: tuple[tuple[For, bool], ...]
    serial: tuple[For, ...]
    reducing: frozenset[Var]
    together: bool


def _combine(kernel: PrimFunc, link: Link, threads: dict[Var, For]) -> Stmt:
    b = link.block()
    found = reduction_of(b)
    if not isinstance(found, Reduction):
        raise LowerError(
            f"the reduction of block {b.name} is bound to threads, but {found.message}",
            hint="bind its spatial loops to threads instead",
            code="cross-thread",
        )
    reduce_values = [
        v for iv, v in zip(b.iter_vars, b.iter_values, strict=True) if iv.kind == "reduce"
    ]
    steps = {
        f.var for f in loops_of(link) if any(walk.uses_var(v, f.var) for v in reduce_values)
    }  # fmt: skip
    axes = sorted(threads.values(), key=lambda a: BLOCK.index(a.thread or ""))
    shared = [(a, any(walk.uses_var(v, a.var) for v in reduce_values)) for a in axes]
    top = outermost_step(link)
    plan = _Plan(
        b,
        found,
        tuple(shared),
        tuple(spatial_inside(link)),
        frozenset(steps | {a.var for a, reduces in shared if reduces}),
        come_together(top, threads),
    )
    _check(plan)
    new = _Writer(plan)
    inside = _graft_within(top, link, new.share())
    stmt = new.around(inside)
    root = graft(top, stmt)
    _, out = inner(build.replace_body(kernel, root))
    return out


def _graft_within(top: Link, link: Link, new: Stmt) -> Stmt:
    """The statement of `top` with that of `link` (at or below it) replaced."""
    if link.node is top.node:
        return new
    old = link.node

    def go(s: Stmt) -> Stmt:
        if s is old:
            return new
        out = walk.map_stmt(s, lambda e: e, go)
        assert out is not None  # nothing is deleted
        return out

    return go(top.node)


def _check(p: _Plan) -> None:
    b = p.block
    for iv, v in zip(b.iter_vars, b.iter_values, strict=True):
        if iv.kind == "reduce":
            continue
        tied = next((x for x in p.reducing if walk.uses_var(v, x)), None)
        if tied is not None:
            raise LowerError(
                f"block {b.name}: {tied.name} drives both the reduction and iterator {iv.var.name}",
                hint="split or reorder the loops, so that threads reduce or compute elements",
                code="cross-thread",
            )
    scopes = {x.scope for x in p.found.buffers}
    if len(scopes) > 1:
        raise LowerError(
            f"block {b.name}: threads share a reduction into buffers of the scopes "
            f"{', '.join(sorted(scopes))}",
            hint="give its outputs one scope with set_scope",
            code="cross-thread",
        )
    if any(walk.uses_var(e, p.reducing) for f in p.serial for e in (f.min, f.extent)):
        raise LowerError(
            f"block {b.name}: the length of a loop depends on the reduction that threads share",
            code="cross-thread",
        )
    if any(const_int(f.extent) is None or const_int(f.min) is None for f in p.serial):
        raise LowerError(
            f"block {b.name}: a loop inside the reduction that threads share is not constant",
            code="cross-thread",
        )


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring thread axes that all reduce, or all do not.

    Attributes:
        at: the number of a thread along them; length: how many numbers there are.
        stride: threads from one number to the next.
        inside: steps that lie within a warp, where runs are even.
    """

    at: Expr
    length: int
    reduces: bool
    stride: int
    inside: int

    @property
    def lane(self) -> Expr:
        """The number within the warp."""
        return _rest(self.at, self.inside, self.length)

    @property
    def warp(self) -> Expr:
        """Which of the warps along the run."""
        return _quotient(self.at, self.inside, self.length)

    @property
    def warps(self) -> int:
        """How many there are."""
        return self.length // self.inside


def _runs(threads: Sequence[tuple[For, bool]]) -> list[_Run]:
    lengths = runs_of([(_length(a), reduces) for a, reduces in threads])
    inside = within_warp(lengths)
    numbers: list[Expr] = []
    size = 1
    for k, (a, reduces) in enumerate(threads):
        if k == 0 or reduces != threads[k - 1][1]:
            numbers.append(IntImm(0))
            size = 1
        numbers[-1] = build.add(numbers[-1], build.mul(a.var, IntImm(size)))
        size *= _length(a)
    out: list[_Run] = []
    stride = 1
    for at, (n, reduces), steps in zip(numbers, lengths, inside, strict=True):
        out.append(_Run(at, n, reduces, stride, steps))
        stride *= n
    return out


_Loops: TypeAlias = dict[Var, Expr]
"""What the serial loops have become."""
_Part: TypeAlias = Callable[[_Loops], Stmt]


class _Writer:
    """The statements of a shared-out reduction.

    Of a thread are known: `rank`, its number among those of its row, and `row`, that of the row;
    `lane`, its number in the warp; `q`, its number among those of its row in the warp, of which
    there are `lanes`; `part`, the number of its warp among those of the row, of which there are
    `parts`. (The last three only where warps cut rows evenly, or there is one row.)
    """

    def __init__(self, p: _Plan) -> None:
        self.p = p
        self.outputs = p.found.buffers
        self.combiner = p.found.reducer
        self.where = p.found.stores[0].indices
        self.everyone = all(x.scope == "local" for x in self.outputs)
        sizes = tuple([f.extent for f in p.serial] or [IntImm(1)])
        self.mine = tuple([
            Buffer(f"{x.name}_thread", sizes, x.dtype, "local") for x in self.outputs
        ])  # fmt: skip
        self._place()
        axes = [(_length(a), reduces) for a, reduces in p.threads]
        count = prod([_length(f) for f in p.serial])
        self.at_once = self.by_shuffles and at_once_of(count) == count
        elements = exchanged(axes, count) if p.together else self.rows * self.width
        whole = (IntImm(elements),)
        self.scratch = () if not elements else tuple([
            Buffer(f"{x.name}_shares", whole, x.dtype, "shared") for x in self.outputs
        ])  # fmt: skip

    def _place(self) -> None:
        """Where a thread stands."""
        self.runs = _runs(self.p.threads)
        self.even = bool(are_even([(r.length, r.reduces) for r in self.runs]))
        ours = [r for r in self.runs if r.reduces]
        theirs = [r for r in self.runs if not r.reduces]
        self.rank, self.width = _number([(r.at, r.length) for r in ours])
        self.row, self.rows = _number([(r.at, r.length) for r in theirs])
        self.thread: Expr = IntImm(0)
        for r in self.runs:
            self.thread = build.add(self.thread, build.mul(r.at, IntImm(r.stride)))
        total = self.width * self.rows
        if self.even:
            self.q, self.lanes = _number([(r.lane, r.inside) for r in ours])
            self.part, self.parts = _number([(r.warp, r.warps) for r in ours])
        else:  # one row
            self.q, self.lanes = _rest(self.thread, WARP, total), WARP
            self.part, self.parts = _quotient(self.thread, WARP, total), -(-total // WARP)
        self.lane = _rest(self.thread, WARP, total)
        self.by_shuffles = self.p.together and (
            self.even or total <= WARP or self.rows == 1 or self.width == 1
        )

    def share(self) -> Stmt:
        """The block, reducing into the thread's own share."""
        p = self.p
        at = self._at({})
        if type(self.combiner) is Each:
            values = self.combiner.combine(_loads(self.mine, at), p.found.combined)
            body = at_once(self.combiner, self.mine, at, values)
            if p.found.where is not build.TRUE:
                body = IfThenElse(p.found.where, body)
        else:
            body = redirected(p.block.body, p.found, self.mine, at)
        iters = tuple([
            IterVar(iv.var, iv.dom, "opaque") if iv.kind == "reduce" else iv
            for iv in p.block.iter_vars
        ])  # fmt: skip
        return block_with(p.block, iter_vars=iters, init=None, writes=(), body=body)

    def around(self, inside: Stmt) -> Stmt:
        """Everything: the shares' beginning, `inside`, and the combination."""
        identity = self.combiner.identity([x.dtype for x in self.outputs])
        start = self._nest(
            lambda loops: build.seq(*stored(self.mine, self._at(loops), identity)), "_start"
        )
        parts = self._combined()
        if not self.at_once:
            parts = [lambda loops: build.seq(*[part(loops) for part in self._combined()])]
        out = build.seq(start, inside, *[self._nest(part, "_end") for part in parts])
        for x in (*reversed(self.mine), *reversed(self.scratch)):
            out = Alloc(x, out)
        return out

    def _at(self, loops: _Loops) -> tuple[Expr, ...]:
        """The element of the share that belongs to the serial loops (or what they became)."""
        if not self.p.serial:
            return (IntImm(0),)
        return tuple([build.sub(loops.get(f.var, f.var), f.min) for f in self.p.serial])

    def _nest(self, body_of: _Part, suffix: str) -> Stmt:
        loops: _Loops = {f.var: Var(f.var.name + suffix, f.var.dtype) for f in self.p.serial}
        body: Stmt = body_of(loops)
        for f in reversed(self.p.serial):
            v = loops[f.var]
            assert type(v) is Var
            body = For(v, f.min, f.extent, f.kind, body, None, f.annotations)
        return body

    # ------------------------------------------------------------------ combining
    def _combined(self) -> list[_Part]:
        """What combines the shares of the threads of a row and stores the result, in parts between
        which there may be a barrier."""
        if not self.by_shuffles:
            return [self._tree]
        if self.scratch:
            return [self._leave, self._take, *([self._read] if self.told_by_memory else [])]
        return [self._within]

    def _within(self, loops: _Loops) -> Stmt:
        """Rows that lie within warps."""
        at = self._at(loops)
        steps = self._in_warp(at)
        if self.everyone and self.width > 1 and not self._alike:
            steps.append(self._told(at))
        return build.seq(*steps, self._result(loops, _loads(self.mine, at)))

    @property
    def _alike(self) -> bool:
        """Has every thread of a row in the warp the same after `_in_warp`, to the last bit?"""
        return self.even and type(self.combiner) is Each

    def _into(self, buffers: tuple[Buffer, ...], at: tuple[Expr, ...], values: Exprs) -> Stmt:
        """Combine values into those of buffers."""
        return at_once(
            self.combiner, buffers, at, self.combiner.combine(_loads(buffers, at), values)
        )

    def _across(self, at: tuple[Expr, ...], bits: int) -> Stmt:
        """Combine with what the lane across has."""
        names, own = self._names(), _loads(self.mine, at)
        return _let(names, [shuffle_xor(e, bits) for e in own], self._into(self.mine, at, names))

    def _from(
        self, at: tuple[Expr, ...], number: Expr, half: int, there: Expr, stride: int = 1
    ) -> Stmt:
        """Combine with what the thread `half` numbers further on has, where it is there and the own
        number is one of the first half (what others have is not needed any more)."""
        cond = build.logical_and(build.lt(number, IntImm(half)), there)
        names, own = self._names(), _loads(self.mine, at)
        which = build.select(cond, build.add(self.lane, IntImm(half * stride)), self.lane)
        step = IfThenElse(cond, self._into(self.mine, at, names))
        return _let(names, [shuffle(e, which) for e in own], step)

    def _told(self, at: tuple[Expr, ...]) -> Stmt:
        """The first thread of a row in the warp tells the others what it has."""
        first: Expr = IntImm(0)
        for r in self.runs:
            if not r.reduces and r.stride < WARP:
                first = build.add(first, build.mul(r.lane if self.even else r.at, IntImm(r.stride)))
        names, own = self._names(), _loads(self.mine, at)
        told = build.seq(*stored(self.mine, at, names))
        return _let(names, [shuffle(e, first) for e in own], told)

    def _names(self) -> tuple[Var, ...]:
        return tuple([Var(f"{x.name}_other", x.dtype) for x in self.outputs])

    def _in_warp(self, at: tuple[Expr, ...]) -> list[Stmt]:
        """The threads of a row that share a warp combine what they have; the first has it then,
        and, where rows are even, all of them."""
        if self.width == 1:
            return []
        if self.even:
            return [self._across(at, bits) for bits in reversed(self._bits())]
        if self.width * self.rows > WARP:  # one row, whose last warp is a shorter one
            end = build.sub(IntImm(self.width), self.thread)
            return [
                self._from(at, self.lane, h, build.lt(IntImm(h), end)) for h in (16, 8, 4, 2, 1)
            ]
        out: list[Stmt] = []
        for r in self.runs:
            half = _halves(r.length) if r.reduces else 0
            while half:
                there = build.lt(r.at, IntImm(r.length - half))
                out.append(self._from(at, r.at, half, there, r.stride))
                half //= 2
        return out

    def _bits(self) -> list[int]:
        """By which lanes the threads of a row in a warp differ, for each bit of `q`."""
        if not self.even:
            return [1 << k for k in range(_log2(WARP))]
        return [
            r.stride << k for r in self.runs if r.reduces for k in range(_log2(r.inside))
        ]  # fmt: skip

    # ------------------------------------------------------------------ through shared memory
    def _slot(self, number: Expr, at: tuple[Expr, ...]) -> tuple[Expr, ...]:
        """Where an element of the row is. (Neighbouring threads use neighbours.)"""
        if not self.by_shuffles and self.runs[0].reduces:
            return (build.add(build.mul(self.row, IntImm(self.width)), number),)
        where = build.add(build.mul(number, IntImm(self.rows)), self.row)
        if self.at_once:
            lengths = [_length(f) for f in self.p.serial]
            which, _ = _number(list(zip(reversed(at), reversed(lengths))))
            where = build.add(build.mul(which, IntImm(self.parts * self.rows)), where)
        return (where,)

    def _leave(self, loops: _Loops) -> Stmt:
        """Each warp leaves what its threads of a row have."""
        at = self._at(loops)
        leave = stored(self.scratch, self._slot(self.part, at), _loads(self.mine, at))
        lead = build.eq(self.q, IntImm(0))
        return build.seq(*self._in_warp(at), IfThenElse(lead, build.seq(*leave)))

    @property
    def every_warp(self) -> bool:
        """Does every warp of a row combine what all of them left?"""
        return self.everyone and self.even and self.parts <= self.lanes

    @property
    def told_by_memory(self) -> bool:
        """Do the other warps of the row get the result through memory?"""
        return self.everyone and not self.every_warp

    def _take(self, loops: _Loops) -> Stmt:
        """The first warp of a row, or every one, combines what they left."""
        at = self._at(loops)
        if self.every_warp:
            room = 1 << (self.parts - 1).bit_length()
            values = self._left(_rest(self.q, room, self.lanes), at, self.parts < room)
            steps = [
                *stored(self.mine, at, values),
                *[self._across(at, bits) for bits in reversed(self._bits()[: _log2(room)])],
            ]
            if not self._alike:
                steps.append(self._told(at))
            return build.seq(*steps, self._result(loops, _loads(self.mine, at)))
        steps = stored(self.mine, at, self._left(self.q, at, self.parts < self.lanes))
        turns = -(-self.parts // self.lanes)
        if turns > 1:
            k = Var("turn", "int32")
            number = build.add(self.q, build.mul(k, IntImm(self.lanes)))
            values = self._left(number, at, self.parts % self.lanes != 0)
            more = self._into(self.mine, at, values)
            steps.append(For(k, IntImm(1), IntImm(turns - 1), "unrolled", more))
        used = (min(self.parts, self.lanes) - 1).bit_length()
        steps += [self._across(at, bits) for bits in reversed(self._bits()[:used])]
        out = [IfThenElse(build.eq(self.part, IntImm(0)), build.seq(*steps))]
        total = _loads(self.mine, at)
        if not self.told_by_memory:
            return build.seq(*out, self._result(loops, total))
        tell = stored(self.scratch, self._slot(IntImm(0), at), total)
        return build.seq(*out, IfThenElse(build.eq(self.rank, IntImm(0)), build.seq(*tell)))

    def _read(self, loops: _Loops) -> Stmt:
        """Everyone reads what the first thread of the row has told."""
        slot = self._slot(IntImm(0), self._at(loops))
        return self._result(loops, _loads(self.scratch, slot))

    def _left(self, number: Expr, at: tuple[Expr, ...], some: bool) -> Exprs:
        """What a warp of the row has left; where there may be none, what changes nothing."""
        found = _loads(self.scratch, self._slot(number, at))
        if not some:
            return found
        nothing = self.combiner.identity([x.dtype for x in self.outputs])
        cond = build.lt(number, IntImm(self.parts))
        return tuple([build.if_then_else(cond, a, b) for a, b in zip(found, nothing, strict=True)])

    def _tree(self, loops: _Loops) -> Stmt:
        """All threads leave what they have; then two by two are combined."""
        at = self._at(loops)
        mine = self._slot(self.rank, at)
        steps: list[Stmt] = stored(self.scratch, mine, _loads(self.mine, at))
        half = _halves(self.width)
        while half:
            other = self._slot(build.add(self.rank, IntImm(half)), at)
            cond = build.lt(self.rank, IntImm(min(half, self.width - half)))
            step = self._into(self.scratch, mine, _loads(self.scratch, other))
            steps.append(IfThenElse(cond, step))
            half //= 2
        total = _loads(self.scratch, self._slot(IntImm(0), at))
        return build.seq(*steps, self._result(loops, total))

    # ------------------------------------------------------------------ the result
    def _result(self, loops: _Loops, total: Exprs) -> Stmt:
        """The store of the combined values, in a block that has only spatial iterators."""
        p, b = self.p, self.p.block
        start: tuple[Expr, ...] = _loads(self.outputs, self.where)
        if b.init is not None:
            first = {x.buffer: x.value for x in init_stores(b)}
            start = tuple([first[x] for x in self.outputs])
        values = self.combiner.combine(start, total)
        body = at_once(self.combiner, self.outputs, self.where, values)
        keep = [k for k, iv in enumerate(b.iter_vars) if iv.kind != "reduce"]
        condition: Expr = build.TRUE
        for c in conjuncts(walk.substitute(b.predicate, _bindings(b))):
            if not walk.uses_var(c, p.reducing):
                condition = build.logical_and(condition, walk.substitute(c, loops))
            elif walk.free_vars(c) - p.reducing:
                raise LowerError(
                    f"block {b.name}: the condition {c} ties the reduction that threads share to "
                    "the element",
                    hint="split the spatial and the reduction loops by factors that divide",
                    code="cross-thread",
                )
        if not self.everyone:
            condition = build.logical_and(condition, build.eq(self.rank, IntImm(0)))
        return Block(
            BlockKey(), f"{b.name}_result",
            tuple([b.iter_vars[k] for k in keep]),
            tuple([walk.substitute(b.iter_values[k], loops) for k in keep]),
            condition, (), (), body,
        )  # fmt: skip


def _loads(buffers: tuple[Buffer, ...], at: tuple[Expr, ...]) -> tuple[Expr, ...]:
    return tuple([BufferLoad(x, at) for x in buffers])


def _bindings(b: Block) -> dict[Var, Expr]:
    return {iv.var: v for iv, v in zip(b.iter_vars, b.iter_values, strict=True)}


def _length(axis: For) -> int:
    n = const_int(axis.extent)
    assert n is not None  # launches have constant sizes
    return int(n)


def _number(digits: Sequence[tuple[Expr, int]]) -> tuple[Expr, int]:
    """The number that digits make, the first counting fastest, and how many numbers there are."""
    out: Expr = IntImm(0)
    size = 1
    for digit, n in digits:
        out = build.add(out, build.mul(digit, IntImm(size)))
        size *= n
    return out, size


def _quotient(e: Expr, n: int, length: int) -> Expr:
    """`e // n`, of a number below `length`."""
    return IntImm(0) if n >= length else e if n == 1 else build.floordiv(e, IntImm(n))


def _rest(e: Expr, n: int, length: int) -> Expr:
    """`e % n`, of a number below `length`."""
    return e if n >= length else IntImm(0) if n == 1 else build.floormod(e, IntImm(n))


def _halves(n: int) -> int:
    """The first step of combining n things two by two; 0 if there is one."""
    return 1 << max(n - 1, 0).bit_length() >> 1


def _log2(n: int) -> int:
    return n.bit_length() - 1


def _let(names: Sequence[Var], values: Sequence[Expr], body: Stmt) -> Stmt:
    for v, e in zip(reversed(names), reversed(values), strict=True):
        body = LetStmt(v, e, body)
    return body
