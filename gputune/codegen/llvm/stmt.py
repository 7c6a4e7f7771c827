"""Which code runs a statement? Stores, loops, branches, temporaries, parallel regions.

The body of a parallel loop becomes a function of its own that runs a range of iterations; with a
thread pool, its ranges are handed out through `pool.launch`, without one it is called once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from ...errors import BuildError
from ...ir import dtypes, walk
from ...ir.nodes import (
    Alloc,
    Block,
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
    Seq,
    Stmt,
    Var,
)
from ...lower import linear as lin
from ...lower.accesses import loop_bounds
from ...lower.tiles import tile_op
from ...lower.unroll import BY_LLVM
from . import amx, kept, memory, ops, tile_registers
from .expr import index, stored_value, value
from .fn import Fn
from .values import V, int_const, stored_type, type_of

STACK_BYTES = 64 * 1024
"""Temporaries of one function beyond this are taken from the heap."""
_CHUNKS_PER_CORE = 4
ALIGN = 64


def emit(f: Fn, s: Stmt) -> None:
    """Append the code of `s`."""
    match s:
        case BufferStore() if (op := tile_op(s)) is not None:
            amx.emit(f, s, op, index)
        case BufferStore():
            memory.store(f, s, stored_value(f, s.value), index, value)
        case Seq():
            for x in s.items:
                emit(f, x)
        case For():
            _loop(f, s)
        case IfThenElse():
            _branch(f, s)
        case LetStmt():
            f.env[s.var] = value(f, s.value)
            if dtypes.is_int(s.var.dtype) and dtypes.lanes(s.var.dtype) == 1:
                f.dom[s.var] = lin.interval(s.value, f.dom)
            emit(f, s.body)
        case Evaluate():
            if type(s.value) is Call:
                value(f, s.value)
        case Alloc():
            _alloc(f, s)
        case Block():
            if not s.alloc_buffers and not s.iter_vars:
                emit(f, s.body)
            else:
                raise BuildError(f"block {s.name} is not lowered")


def _stored(f: Fn, s: Stmt) -> frozenset[Hashable]:
    """The memories that `s` changes; all of them, if it calls C functions."""
    out: set[Hashable] = set()
    for x in walk.walk_stmt(s):
        if type(x) is BufferStore:
            out.add(f.memory(x.buffer))
    return frozenset(out)


# ----------------------------------------------------------------------------- control flow
def _loop(f: Fn, s: For) -> None:
    lo, n = index(f, s.min), index(f, s.extent)
    bounds = loop_bounds(s)
    if bounds is None:
        (a, b), (_, m) = lin.interval(s.min, f.dom), lin.interval(s.extent, f.dom)
        bounds = (a, max(a, b + m - 1))
    f.dom[s.var] = bounds
    if n.const is not None and n.const <= 0:
        return
    written_out = s.kind == "unrolled" or amx.chooses_tile(s, f)
    if written_out and n.const is not None and lo.const is not None:
        for k in range(n.const):
            f.env[s.var] = int_const(lo.const + k)
            emit(f, s.body)
        return
    if s.kind == "parallel":
        _parallel(f, s, lo, n)
        return
    stored = _stored(f, s.body)

    def run() -> None:
        with f.loop(lo, n, stored, unroll=(BY_LLVM, 1) in s.annotations) as iv:
            f.env[s.var] = iv
            emit(f, s.body)

    _if_any(f, n, run, stored)


def _if_any(f: Fn, n: V, run: Callable[[], None], stored: frozenset[Hashable]) -> None:
    """`run`, unless `n` is zero or less."""
    if n.const is not None:
        run()
    else:
        f.branch(ops.compare(f, ">", n, int_const(0)), run, None, stored)


def _branch(f: Fn, s: IfThenElse) -> None:
    cond = value(f, s.cond)
    if cond.const is not None:
        taken = s.then if cond.const else s.orelse
        if taken is not None:
            emit(f, taken)
        return
    orelse = s.orelse
    f.branch(
        cond,
        lambda: emit(f, s.then),
        None if orelse is None else lambda: emit(f, orelse),
        _stored(f, s),
    )


# ----------------------------------------------------------------------------- temporaries
def _alloc(f: Fn, s: Alloc) -> None:
    b = s.buffer
    if b.scope == "register":
        f.regs[b] = {}
        emit(f, s.body)
        del f.regs[b]
        return
    if tile_registers.is_tiles(b):
        f.tiles.enter(b)
        emit(f, s.body)
        f.tiles.leave(b)
        return
    size = _bytes(b)
    if size is None:
        _alloc_sized(f, s)
        return
    ref = f.name("mem")
    if f.stack_bytes + size <= STACK_BYTES:
        f.stack_bytes += size
        f.prologue.append(f"  {ref} = alloca [{size} x i8], align {ALIGN}")
    else:
        _take_heap(f, ref, size)
    f.bases[b] = V(ref, "handle")
    f.aligns[b] = ALIGN
    emit(f, s.body)


def _bytes(b: Buffer) -> int | None:
    """The size in memory, a multiple of `ALIGN`; None if not constant."""
    count = 1
    if b.strides is not None and b.shape:
        for n, step in zip(b.shape, b.strides):
            if type(n) is not IntImm or type(step) is not IntImm:
                return None
            count += (int(n.value) - 1) * int(step.value)
    else:
        for n in b.shape:
            if type(n) is not IntImm:
                return None
            count *= int(n.value)
    size = max(1, count) * dtypes.itemsize(b.dtype)
    return -(-size // ALIGN) * ALIGN


def _take_heap(f: Fn, ref: str, size: int) -> None:
    seats = f.module.seats_of_temporary()
    f.prologue.append(f"  {ref} = {kept.take(seats, ALIGN, size)}")
    f.heap.append((V(ref, "handle"), seats))


def _alloc_sized(f: Fn, s: Alloc) -> None:
    """A temporary whose size is known only here; freed at the end of its scope."""
    b = s.buffer
    count = int_const(dtypes.itemsize(b.dtype))
    for n in b.shape:
        count = ops.raw(f, "mul", index(f, n), count)
    padded = ops.raw(f, "add", count, int_const(2 * ALIGN - 1))
    size = ops.raw(f, "and", padded, int_const(-ALIGN))
    f.module.declare("aligned_alloc", "ptr", "i64, i64")
    f.module.declare("free", "void", "ptr")
    got = f.here(f"call ptr @aligned_alloc(i64 {ALIGN}, i64 {size.ref})", "handle")
    ok = f.here(f"icmp ne ptr {got.ref}, null", "bool")
    f.has_error = True

    def use() -> None:
        f.bases[b] = got
        f.aligns[b] = ALIGN
        emit(f, s.body)
        f.do(f"call void @free(ptr {got.ref})")

    f.branch(ok, use, lambda: f.do("store i32 1, ptr %err"), _stored(f, s.body))


# ----------------------------------------------------------------------------- parallel
def _captured(s: For) -> tuple[list[Var], list[Buffer]]:
    """The variables and buffers from outside that the body of `s` uses, in order of appearance."""
    bound: set[Var] = {s.var}
    local: set[Buffer] = set()
    for x in walk.walk_stmt(s.body):
        if type(x) in (For, LetStmt):
            bound.add(x.var)  # type: ignore[union-attr]  # both have one
        elif type(x) is Alloc:
            local.add(x.buffer)
    seen: dict[Var, None] = {}
    buffers: dict[Buffer, None] = {}

    def note(e: Expr) -> None:
        for y in walk.walk_expr(e):
            if type(y) is Var:
                seen.setdefault(y)
            elif type(y) is BufferLoad:
                buffers.setdefault(y.buffer)

    for x in walk.walk_stmt(s.body):
        if type(x) is BufferStore:
            buffers.setdefault(x.buffer)
        elif type(x) is Alloc:
            for n in x.buffer.shape:
                note(n)
        for e in walk.stmt_exprs(x):
            note(e)
    kept = [b for b in buffers if b not in local]
    for b in kept:
        for e in (
            *b.shape,
            *(b.strides or ()),
            *(() if b.elem_offset is None else (b.elem_offset,)),
        ):
            note(e)
    inner = {v for v in seen if v in bound}
    return [v for v in seen if v not in inner], kept


def _parallel(f: Fn, s: For, lo: V, n: V) -> None:
    if f.pool is None:  # inside a parallel region already
        _loop(f, For(s.var, s.min, s.extent, "serial", s.body))
        return
    names, buffers = _captured(s)
    for b in buffers:
        if b in f.regs or tile_registers.is_tiles(b):
            raise BuildError(f"buffer {b.name} is in registers across a parallel loop")
    constants = {v: f.env[v] for v in names if v in f.env and f.env[v].const is not None}
    names = [v for v in names if v in f.env and v not in constants]
    passed = [*(f.env[v] for v in names), *(f.bases[b] for b in buffers), lo]
    if f.tiles.held:
        held = ", ".join(b.name for b in f.tiles.held)
        raise BuildError(f"buffer {held} is in AMX tiles across a parallel loop")
    task = f.module.fresh("part")
    g = _child(f, names, buffers, constants, s)
    first, last = V("%first", "int64"), V("%last", "int64")
    count = ops.raw(g, "sub", last, first)

    def body() -> None:
        start = V("%lo", "int64")
        at = first if lo.const == 0 else ops.raw(g, "add", first, start)
        with g.loop(at, count, _stored(g, s.body)) as iv:
            g.env[s.var] = iv
            emit(g, s.body)

    g.branch(ops.compare(g, ">", count, int_const(0)), body, None, _stored(g, s.body))
    kinds = [_argument(f, k, names, buffers) for k in range(len(passed))]
    head = ", ".join(["i64 %first", "i64 %last", *kinds])
    f.module.functions.append(g.text(f"define internal i32 @{task}({head})"))
    f.module.functions.append(_task_text(task, passed))
    stored = _stored(f, s.body)
    _if_any(f, n, lambda: _launch(f, task, passed, n), stored)
    for m in stored:
        f.bump(m)


def _argument(f: Fn, k: int, names: list[Var], buffers: list[Buffer]) -> str:
    if k < len(names):
        return f"{type_of(f.env[names[k]])} %a{k}"
    if k == len(names) + len(buffers):
        return "i64 %lo"
    b = buffers[k - len(names)]
    alias = "" if f.module.alias_params and b in f.params else "noalias "
    return f"ptr {alias}%a{k}"


def _child(f: Fn, names: list[Var], buffers: list[Buffer], constants: dict[Var, V], s: For) -> Fn:
    g = Fn(f.module)
    g.params = f.params
    g.dom = dict(f.dom)
    g.env = dict(constants)
    for k, v in enumerate(names):
        old = f.env[v]
        g.env[v] = V(f"%a{k}", old.dtype, old.lanes)
    for k, b in enumerate(buffers):
        g.bases[b] = V(f"%a{k + len(names)}", "handle")
        g.aligns[b] = f.aligns[b]
    return g


def _slot_size(v: V) -> int:
    """8-byte slots that a captured value takes (bools and vectors included)."""
    return max(
        1, -(-v.lanes * max(1, dtypes.bits(v.dtype) // 8 if v.dtype != "handle" else 8) // 8)
    )


def _task_text(task: str, passed: list[V]) -> str:
    """The function that a thread calls for chunk `i`: context slots 0 error, 1 n, 2 chunks."""
    out = [
        f"define internal void @{task}.task(i64 %i, ptr %ctx) #0 {{",
        "  %pn = getelementptr i64, ptr %ctx, i64 1",
        "  %n = load i64, ptr %pn",
        "  %pc = getelementptr i64, ptr %ctx, i64 2",
        "  %chunks = load i64, ptr %pc",
        "  %j = add i64 %i, 1",
        "  %x = mul i64 %i, %n",
        "  %first = udiv i64 %x, %chunks",
        "  %y = mul i64 %j, %n",
        "  %last = udiv i64 %y, %chunks",
    ]
    args = ["i64 %first", "i64 %last"]
    slot = 3
    for k, v in enumerate(passed):
        out.append(f"  %p{k} = getelementptr i64, ptr %ctx, i64 {slot}")
        out.append(f"  %a{k} = load {type_of(v)}, ptr %p{k}, align 8")
        args.append(f"{type_of(v)} %a{k}")
        slot += _slot_size(v)
    out += [
        f"  %rc = call i32 @{task}({', '.join(args)})",
        "  %bad = icmp ne i32 %rc, 0",
        "  br i1 %bad, label %note, label %done",
        "note:",
        "  store atomic i32 %rc, ptr %ctx monotonic, align 4",
        "  br label %done",
        "done:",
        "  ret void",
        "}",
    ]
    return "\n".join(out) + "\n"


def _launch(f: Fn, task: str, passed: list[V], n: V) -> None:
    """Run the parts: on the pool if there is one, else all iterations in one call."""
    f.has_error = True
    slots = 3 + sum(_slot_size(v) for v in passed)
    ctx = f.name("ctx")
    f.prologue.append(f"  {ctx} = alloca [{slots} x i64], align 8")
    most = f.module.num_cores * _CHUNKS_PER_CORE
    if n.const is not None:
        chunks = int_const(min(n.const, most))
    else:
        limit = int_const(most)
        chunks = ops.choose(f, ops.compare(f, "<", n, limit), n, limit)
    assert f.pool is not None  # the caller checked
    threads = f.here(f"icmp ne ptr {f.pool.ref}, null", "bool")

    def on_pool() -> None:
        assert f.pool is not None
        f.do(f"store i64 0, ptr {ctx}")
        slot = 1
        for v in (n, chunks, *passed):
            p = f.here(f"getelementptr i64, ptr {ctx}, i64 {slot}", "handle")
            f.do(f"store {type_of(v)} {v.ref}, ptr {p.ref}, align 8")
            slot += _slot_size(v)
        launch = f.here(f"load ptr, ptr {f.pool.ref}", "handle")
        f.do(
            f"call void {launch.ref}(ptr {f.pool.ref}, ptr @{task}.task, ptr {ctx}, "
            f"i64 {chunks.ref})"
        )
        _note_error(f, f.here(f"load i32, ptr {ctx}, align 4", "int32"))

    def alone() -> None:
        args = ", ".join(f"{type_of(v)} {v.ref}" for v in passed)
        rc = f.here(f"call i32 @{task}(i64 0, i64 {n.ref}, {args})", "int32")
        _note_error(f, rc)

    f.branch(threads, on_pool, alone)


def _note_error(f: Fn, rc: V) -> None:
    old = f.here("load i32, ptr %err", "int32")
    both = f.here(f"or i32 {old.ref}, {rc.ref}", "int32")
    f.do(f"store i32 {both.ref}, ptr %err")


__all__ = ["ALIGN", "emit", "stored_type"]
