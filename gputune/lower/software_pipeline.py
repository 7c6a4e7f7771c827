"""How do the steps of a loop come to overlap on a GPU? Software pipelines.

`software_pipeline_stage` gives each statement of a loop a stage: one of stage s takes its turn s
turns after those of stage 0 of the same iteration. Fetches of stage 0 and arithmetic of stage 1 are
double buffering:

    fetch(0)
    for t in range(n):
        if t + 1 < n: fetch(t + 1)
        compute(t)

What a later stage takes from an earlier one is kept in as many versions as there are iterations
between them, and one more; version `k % versions` is that of iteration k. So a fetch never
overwrites what is still computed with, and one barrier a turn is enough. Statements of one turn
run in the order of `software_pipeline_order`.

A fetch into shared memory is cut in two: its loads, into registers, stand where the fetch stands;
what they brought is stored at the end of the turn. So the data is on its way while the rest of the
turn runs. Where `software_pipeline_async_stages` names the stage, its copies into shared memory are
asynchronous instead, and take no registers: what a turn copies is one group, and a turn begins by
waiting for the groups of what it computes with, then for the other threads. (A copy that has no
such instruction is made at once.)

Nothing is peeled off the end of the loop: iterations that there are not are not fetched, which a
whole block decides alike. A loop of one step is right, too, and so is one whose length is
only known when it runs.

Two passes, since the passes in between cut statements up and join them: the first puts a mark in
front of each statement, by which the second knows them again. (A loop of one step vanishes in
between, and with it what its marks mean.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import LowerError
from ..ir import build, dtypes, walk
from ..ir.known_annotations import listed
from ..ir.nodes import (
    Alloc,
    Buffer,
    BufferLoad,
    BufferStore,
    Call,
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
from .accesses import collect, trip_count
from .async_copies import commit, in_background, wait
from .barriers import barrier
from .limits import CpuLimits
from .prepare import as_block
from .tiles import tile_op

STAGE = "software_pipeline_stage"
ORDER = "software_pipeline_order"
ASYNC = "software_pipeline_async_stages"
_MARK = "pipeline_stage"
_MOST_BYTES = 256  # of a thread's registers, for what it has fetched


# ----------------------------------------------------------------------------- marks
def mark_pipelines(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with a mark in front of each statement of a loop that is to be a pipeline.

    Raises:
        LowerError: stages or order do not fit the statements of the loop.
    """
    return as_block(func, _marked(func.body))


def _marked(s: Stmt) -> Stmt:
    out = walk.map_stmt(s, lambda e: e, _marked)
    assert out is not None  # nothing is deleted
    if type(out) is For and any(key == STAGE for key, _ in out.annotations):
        return _with_marks(out)
    return out


def _with_marks(f: For) -> For:
    at = f"loop {f.var.name}"
    stages = [int(x) for x in listed(f.annotations, STAGE, at)]
    order = [int(x) for x in listed(f.annotations, ORDER, at)] or list(range(len(stages)))
    background = {int(x) for x in listed(f.annotations, ASYNC, at)}
    room, items = _inside(f)
    if len(stages) != len(items) or len(order) != len(items):
        raise _refused(
            f,
            f"has {len(items)} statements, for which there are {len(stages)} stages and "
            f"{len(order)} places in the order",
            "annotate it with a stage for each statement of its body",
        )
    if sorted(order) != list(range(len(items))) or min(stages) < 0:
        raise _refused(
            f,
            f"has the stages {stages} and the order {order}",
            "stages are counted from 0; the order is a permutation of the statements",
        )
    if f.kind not in ("serial", "unrolled"):
        raise _refused(f, f"is {f.kind}", "only iterations that follow each other can overlap")
    if not background <= set(stages):
        raise _refused(
            f,
            f"has asynchronous stages {sorted(background)}, but its stages are {stages}",
            f"let {ASYNC} name stages of {STAGE}",
        )
    notes = tuple([kv for kv in f.annotations if kv[0] not in (STAGE, ORDER, ASYNC)])
    if len(set(stages)) == 1 and order == sorted(order):
        return For(f.var, f.min, f.extent, f.kind, f.body, f.thread, notes)
    marked: list[Stmt] = []
    for item, stage, place in zip(items, stages, order, strict=True):
        numbers = (IntImm(stage - min(stages)), IntImm(place), IntImm(int(stage in background)))
        marked += [Evaluate(Call(_MARK, (f.var, *numbers), "int32")), item]
    body: Stmt = Seq(tuple(marked))
    for b in reversed(room):
        body = Alloc(b, body)
    return For(f.var, f.min, f.extent, f.kind, body, f.thread, notes)


def _inside(f: For) -> tuple[list[Buffer], tuple[Stmt, ...]]:
    """The buffers that live in an iteration of a loop, and its statements."""
    room: list[Buffer] = []
    body = f.body
    while type(body) is Alloc:
        room.append(body.buffer)
        body = body.body
    return room, body.items if type(body) is Seq else (body,)


def _mark(s: Stmt) -> Call | None:
    if type(s) is Evaluate and type(s.value) is Call and s.value.op == _MARK:
        return s.value
    return None


def _refused(f: For, what: str, hint: str) -> LowerError:
    return LowerError(
        f"loop {f.var.name}, which is to be a pipeline, {what}", hint=hint, code="pipeline"
    )


# ----------------------------------------------------------------------------- pipelines
def pipeline_loops(func: PrimFunc, limits: CpuLimits) -> PrimFunc:
    """`func` with the loops that were marked as pipelines, and without marks.

    Raises:
        LowerError: a statement would run before another one whose results it needs.
    """
    out = _go(func.body)
    assert out is not None  # the root block stays
    return as_block(func, out)


def _go(s: Stmt) -> Stmt | None:
    if _mark(s) is not None:
        return None  # of a loop that is gone
    if type(s) is For:
        room, items = _inside(s)
        if any((m := _mark(x)) is not None and m.args[0] is s.var for x in items):
            groups = _groups(s, items)
            return _Pipeline(s, room, groups).stmt() if groups else None
    return walk.map_stmt(s, lambda e: e, _go)


@dataclass(frozen=True, slots=True)
class _Group:
    """A statement of a pipeline.

    Attributes:
        stage: how many turns it runs after the first ones of its iteration.
        place: among the statements of a turn.
        background: is it to copy asynchronously?
        stmt: for the iteration of the loop's variable.
        reads, writes: the buffers that it touches.
    """

    stage: int
    place: int
    background: bool
    stmt: Stmt
    reads: frozenset[Buffer]
    writes: frozenset[Buffer]


def _groups(f: For, items: Sequence[Stmt]) -> list[_Group]:
    """The statements between the marks. (What came to stand in front of the first one belongs to
    it.)"""
    numbers: list[tuple[int, int, bool]] = []
    parts: list[list[Stmt]] = [[]]
    for x in items:
        m = _mark(x)
        if m is not None and m.args[0] is f.var:
            which, turn, background = [int(x.value) for x in m.args[1:] if type(x) is IntImm]
            if numbers:
                parts.append([])
            numbers.append((which, turn, bool(background)))
        elif (inside := _go(x)) is not None:
            parts[-1].append(inside)
    out: list[_Group] = []
    for (stage, place, background), part in zip(numbers, parts, strict=True):
        if part:
            stmt = build.seq(*part)
            found = collect(stmt)
            reads = frozenset(a.buffer for a in found if not a.store)
            writes = frozenset(a.buffer for a in found if a.store)
            out.append(_Group(stage, place, background, stmt, reads, writes))
    return out


class _Pipeline:
    """One loop.

    Attributes:
        versions: how many there are of each buffer that lives in an iteration.
        last: the stage that runs in every turn.
    """

    def __init__(self, f: For, room: Sequence[Buffer], groups: Sequence[_Group]) -> None:
        self.f = f
        self.groups = sorted(groups, key=lambda g: g.place)
        self.last = max([g.stage for g in groups])
        self.versions = dict.fromkeys(room, 1)
        for k, earlier in enumerate(groups):
            for later in groups[k + 1 :]:
                self._keep(earlier, later)
        self.buffers = {b: _several(b, n) if n > 1 else b for b, n in self.versions.items()}
        self.copies = [
            g
            for g in self.groups
            if g.background and self._is_ahead(g) and in_background(g.stmt) is not g.stmt
        ]

    def _keep(self, earlier: _Group, later: _Group) -> None:
        """See to it that a statement finds what one before it left."""
        both = earlier.writes & (later.reads | later.writes) | earlier.reads & later.writes
        in_order = earlier.stage == later.stage and earlier.place < later.place
        n = trip_count(self.f)
        for b in sorted(both, key=lambda x: x.name):
            if b in self.versions and earlier.stage < later.stage:
                most = later.stage - earlier.stage + 1
                most = most if n is None else min(most, n)
                self.versions[b] = max(self.versions[b], most)
            elif not in_order:
                where = "" if b in self.versions else ", which outlives an iteration"
                raise _refused(
                    self.f,
                    f"has statements of stages {earlier.stage} and {later.stage} that both use "
                    f"{b.name}{where}, one of them storing",
                    "give them one stage, in their order, or let what one leaves to the other be "
                    "written anew in each iteration",
                )

    def stmt(self) -> Stmt:
        """The first turns, and the loop over the others."""
        f = self.f
        first: list[Stmt | None] = []
        for turn in range(self.last):
            here = [g for g in self.groups if g.stage <= turn]
            first += self._arrived(here)
            for g in here:
                first.append(self._run(self._copied(g), IntImm(turn - g.stage, f.var.dtype)))
                first += self._sent(g, here)
        v = Var(f.var.name, f.var.dtype)
        start, end, made = self._turn(v)
        body = build.seq(*start, *end)
        for b in reversed(made):
            body = Alloc(b, body)
        loop = For(v, IntImm(0, v.dtype), f.extent, f.kind, body, None, f.annotations)
        out = build.seq(*first, loop)
        for b in reversed(self.versions):
            out = Alloc(self.buffers[b], out)
        return out

    def _turn(self, v: Var) -> tuple[list[Stmt | None], list[Stmt | None], list[Buffer]]:
        """The statements of a turn; those that store at its end what was fetched; the registers
        that it is in meanwhile."""
        start: list[Stmt | None] = self._arrived(self.groups)
        end: list[Stmt | None] = []
        made: list[Buffer] = []
        for g in self.groups:
            k = build.add(v, IntImm(self.last - g.stage, v.dtype))
            registers: list[Buffer] = []
            ahead = self._is_ahead(g) and g not in self.copies
            cut = _cut(g.stmt, (), registers) if ahead else None
            if cut is None or sum(map(_bytes, (*made, *registers))) > _MOST_BYTES:
                start.append(self._run(self._copied(g), k))
                start += self._sent(g, self.groups)
                continue
            made += registers
            start.append(self._run(cut[0], k))
            end.append(self._run(cut[1], k))
        return start, end, made

    # -------------------------------------------------------------- asynchronous copies
    def _arrived(self, here: Sequence[_Group]) -> list[Stmt | None]:
        """What a turn that runs these statements begins with: it waits for copies that they use.

        Each turn makes one group of copies, for an iteration that a statement d stages on computes
        with d turns later: the groups of the d - 1 turns in between may be under way."""
        between = [
            x.stage - g.stage - 1
            for g in self.copies
            for x in here
            if x.stage > g.stage and g.writes & (x.reads | x.writes)
        ]
        return [wait(min(between)), barrier()] if between else []

    def _copied(self, g: _Group) -> Stmt:
        """The statement, its copies asynchronous if they are to be."""
        return in_background(g.stmt) if g in self.copies else g.stmt

    def _sent(self, g: _Group, here: Sequence[_Group]) -> list[Stmt | None]:
        """What follows a statement of a turn: after its last copies they are made a group."""
        mine = [x for x in here if x in self.copies]
        return [commit()] if mine and g is mine[-1] else []

    def _is_ahead(self, g: _Group) -> bool:
        """Do only later stages use what the statement writes?"""
        return (
            g.stage < self.last
            and all(self.versions.get(b, 1) > 1 for b in g.writes)
            and not any(
                g.writes & (x.reads | x.writes)
                for x in self.groups
                if x is not g and x.stage <= g.stage
            )
        )

    def _run(self, s: Stmt, k: Expr) -> Stmt | None:
        """A statement for iteration k, counted from 0, if there is one."""
        cond = build.lt(k, self.f.extent)
        if build.is_literal(cond, 0):
            return None
        # the last stage runs in every turn of the loop
        runs = build.is_literal(cond, 1) or type(k) is Var
        s = self._versioned(s, k)
        s = walk.substitute_stmt(s, {self.f.var: build.add(self.f.min, k)})
        s = fresh_copy(s)
        return s if runs else IfThenElse(cond, s)

    def _versioned(self, s: Stmt, k: Expr) -> Stmt:
        """The statement with the versions of iteration k of what there are several of."""
        several = {b for b, n in self.versions.items() if n > 1}

        def at(b: Buffer, indices: tuple[Expr, ...]) -> tuple[Expr, ...]:
            return (build.floormod(k, IntImm(self.versions[b], k.dtype)), *indices)

        def on_expr(e: Expr) -> Expr:
            out = walk.map_expr(e, on_expr)
            if type(out) is BufferLoad and out.buffer in several:
                b = out.buffer
                return BufferLoad(self.buffers[b], at(b, out.indices), out.predicate)
            return out

        def on_stmt(x: Stmt) -> Stmt:
            out = walk.map_stmt(x, on_expr, on_stmt)
            assert out is not None  # nothing is deleted
            if type(out) is BufferStore and out.buffer in several:
                b = out.buffer
                indices = at(b, out.indices)
                return BufferStore(self.buffers[b], out.value, indices, out.predicate)
            return out

        return on_stmt(s)


def _several(b: Buffer, n: int) -> Buffer:
    """A buffer with a place for each of n versions of another one."""
    strides = b.strides
    if strides is not None:
        strides = (build.mul(b.shape[0], strides[0]), *strides)
    return replace(b, shape=(IntImm(n), *b.shape), strides=strides, elem_offset=None)


def fresh_copy(s: Stmt) -> Stmt:
    """A copy of a statement with variables and buffers of its own."""
    inside = {x.buffer for x in walk.walk_stmt(s) if type(x) is Alloc}
    table = {b: replace(b, elem_offset=None) for b in inside}
    return walk.rename_blocks(walk.replace_buffers(s, table) if table else s)


# ----------------------------------------------------------------------------- fetches
def _cut(s: Stmt, loops: tuple[For, ...], made: list[Buffer]) -> tuple[Stmt, Stmt] | None:
    """A fetch into shared memory as loads into registers, which are added to `made`, and stores
    from them; None of other statements."""
    match s:
        case For() if _is_short(s) and (body := _cut(s.body, (*loops, s), made)) is not None:
            kind = s.kind if s.kind == "vectorized" else "unrolled"  # registers have no index
            load, store = (
                For(s.var, s.min, s.extent, kind, x, None, s.annotations) for x in body
            )  # fmt: skip
            return load, store
        case IfThenElse() if s.orelse is None and not walk.loads(s.cond):
            then = _cut(s.then, loops, made)
            return None if then is None else (
                IfThenElse(s.cond, then[0]), IfThenElse(s.cond, then[1])
            )  # fmt: skip
        case LetStmt() if not walk.loads(s.value):
            inside = _cut(s.body, loops, made)
            return None if inside is None else (
                LetStmt(s.var, s.value, inside[0]), LetStmt(s.var, s.value, inside[1])
            )  # fmt: skip
        case Seq():
            parts = [_cut(x, loops, made) for x in s.items]
            found = [x for x in parts if x is not None]
            if len(found) < len(parts):
                return None
            return build.seq(*[x for x, _ in found]), build.seq(*[y for _, y in found])
        case BufferStore() if _is_fetch(s):
            shape = tuple([f.extent for f in loops]) or (IntImm(1),)
            at: tuple[Expr, ...] = tuple([f.var for f in loops]) or (IntImm(0),)
            b = Buffer(f"{s.buffer.name}_next", shape, s.buffer.dtype, "local")
            made.append(b)
            return BufferStore(b, s.value, at), BufferStore(s.buffer, BufferLoad(b, at), s.indices)
        case _:
            return None


def _is_short(s: For) -> bool:
    """Is it a loop of a constant number of steps that can be written out?"""
    return (
        s.kind in ("serial", "unrolled", "vectorized")
        and type(s.extent) is IntImm
        and build.is_literal(s.min, 0)
    )


def _is_fetch(s: BufferStore) -> bool:
    """Does it store one element of shared memory, from global memory?"""
    from_global = any(x.buffer.scope == "global" for x in walk.loads(s.value))
    return (
        s.buffer.scope.startswith("shared")
        and from_global
        and s.predicate is None
        and tile_op(s) is None
        and dtypes.lanes(s.value.dtype) == 1
    )


def _bytes(b: Buffer) -> int:
    out = dtypes.itemsize(b.dtype)
    for n in b.shape:
        assert type(n) is IntImm  # `_is_short`
        out *= int(n.value)
    return out
