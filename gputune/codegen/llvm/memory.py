"""How is an element, or a vector of elements, read and written? Addresses, loads, stores.

An address is built from the outside in: what belongs to an outer loop is added there, and the
constant part comes last, where it becomes the displacement of the instruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, TypeAlias

from ...errors import BuildError
from ...ir import dtypes
from ...ir.nodes import Buffer, BufferLoad, BufferStore, Expr, IntImm
from ...lower import flat
from ...lower import linear as lin
from .fn import Fn
from .ops import choose, convert, decode, encode, gather_lanes, lane, splat
from .values import NARROW, V, int_const, is_const_text, stored_type, suffix, type_of
from .vector_ops import as_bits, from_bits

if TYPE_CHECKING:
    from collections.abc import Callable

IndexValue: TypeAlias = "Callable[[Fn, Expr], V]"


@dataclass(slots=True)
class _Plan:
    """An access as it stands in the program, before variables have values."""

    place: flat.Place | None
    terms: list[tuple[Expr, int]]
    keep: object  # the node: its id is the key


def _plan(f: Fn, node: BufferLoad | BufferStore) -> _Plan:
    found = f.places.get(id(node))
    if found is None:
        place = flat.place(node.buffer, node.indices, f.dom)
        terms = [] if place is None else list(place.form.terms.values())
        found = f.places[id(node)] = _Plan(place, terms, node)
    assert isinstance(found, _Plan)
    return found


def _offset(f: Fn, plan: _Plan, index: IndexValue) -> tuple[int, list[tuple[int, V]]]:
    """The address in elements: constant part, and multiples of values."""
    assert plan.place is not None
    const = plan.place.form.const
    moving: list[tuple[int, V]] = []
    for atom, c in plan.terms:
        v = index(f, atom)
        if v.const is not None:
            const += c * v.const
        else:
            moving.append((c, v))
    return const, moving


def _scaled(f: Fn, c: int, v: V) -> V:
    return v if c == 1 else f.op(f"mul nsw i64 {v.ref}, {c}", "int64", 1, v.depth)


def _base(f: Fn, b: Buffer) -> V:
    """The address of the buffer's first element."""
    found = f.bases.get(b)
    if found is None:
        raise BuildError(
            f"buffer {b.name} is in {b.scope} memory, which only its own instructions reach",
            hint="tensorize every block that reads or writes it",
        )
    return found


def _pointer(f: Fn, b: Buffer, moving: list[tuple[int, V]]) -> V:
    """The address without its constant part."""
    ptr = _base(f, b)
    element = stored_type(b.dtype)
    for depth in sorted({v.depth for _, v in moving}):
        total: V | None = None
        for c, v in moving:
            if v.depth == depth:
                part = _scaled(f, c, v)
                total = part if total is None else f.op(
                    f"add nsw i64 {total.ref}, {part.ref}", "int64", 1, depth
                )  # fmt: skip
        assert total is not None  # the depth is one of theirs
        ptr = f.op(
            f"getelementptr {element}, ptr {ptr.ref}, i64 {total.ref}", "handle", 1,
            max(depth, ptr.depth),
        )  # fmt: skip
    return ptr


def address(f: Fn, b: Buffer, form: lin.Linear, index: IndexValue) -> V:
    """The address `form` elements behind the beginning of a buffer."""
    const, moving = _offset(f, _Plan(flat.Place(form, 0, 1), list(form.terms.values()), b), index)
    return _at(f, b, _pointer(f, b, moving), const, f.depth)


def _at(f: Fn, b: Buffer, ptr: V, const: int, depth: int) -> V:
    """The address `const` elements behind `ptr`, computed at `depth`."""
    if const == 0:
        return ptr
    return f.op(
        f"getelementptr {stored_type(b.dtype)}, ptr {ptr.ref}, i64 {const}", "handle", 1, depth
    )


def _alignment(f: Fn, b: Buffer, const: int, moving: list[tuple[int, V]]) -> int:
    """Bytes to which the address is aligned for certain."""
    size = dtypes.itemsize(b.dtype)
    return gcd(f.aligns[b], const * size, *(c * size for c, _ in moving)) or size


# ----------------------------------------------------------------------------- loads
def load(f: Fn, e: BufferLoad, index: IndexValue, value: IndexValue) -> V:
    """The element(s) that `e` reads. `index` and `value` evaluate expressions."""
    b = e.buffer
    plan = _plan(f, e)
    if b in f.regs:
        return _load_register(f, e, plan, index)
    mask = None if e.predicate is None else value(f, e.predicate)
    if mask is not None and mask.lanes == 1:
        zero = _zero(b.dtype, dtypes.lanes(e.dtype))
        out = f.branch(mask, lambda: _load(f, e, plan, None, index, value), lambda: zero)
        assert out is not None  # both sides have a value
        return out
    return _load(f, e, plan, mask, index, value)


def load_where(f: Fn, e: BufferLoad, cond: V, index: IndexValue) -> V | None:
    """What `e` reads where the scalar `cond` holds, and anything where not, without a branch: a
    vector has a mask, an element is taken from the beginning of the buffer. None where neither is
    possible."""
    b = e.buffer
    if b in f.regs or e.predicate is not None or b.elem_offset is not None:
        return None
    if not all(type(n) is IntImm and n.value > 0 for n in b.shape):
        return None
    plan = _plan(f, e)
    place = plan.place
    if place is None or place.step is None or b not in f.bases:
        return None
    if place.lanes > 1 and (place.step != 1 or not _MASKED & f.module.features):
        return None
    const, moving = _offset(f, plan, index)
    ptr = _pointer(f, b, moving)
    if place.lanes > 1:
        mask = splat(f, cond, place.lanes)
        align = _alignment(f, b, const, moving)
        return _load_masked(f, b, _at(f, b, ptr, const, f.depth), place.lanes, mask, align)
    full, base = _at(f, b, ptr, const, f.depth), _base(f, b)
    depth = max(cond.depth, full.depth, base.depth)
    text = f"select i1 {cond.ref}, ptr {full.ref}, ptr {base.ref}"
    return _load_at(f, b, f.op(text, "handle", 1, depth), 0, 1, dtypes.itemsize(b.dtype))


_MASKED = frozenset({"avx512f", "avx512vl"})


def _zero(dtype: str, lanes: int) -> V:
    if dtype == "handle":
        raise BuildError("a buffer of handles cannot be read")
    ref = "zeroinitializer" if lanes > 1 else "0x0000000000000000" if (
        dtypes.is_float(dtype)
    ) else "false" if dtypes.is_bool(dtype) else "0"  # fmt: skip
    return V(ref, dtype, lanes)


def _load(
    f: Fn, e: BufferLoad, plan: _Plan, mask: V | None, index: IndexValue, value: IndexValue
) -> V:
    b, place = e.buffer, plan.place
    if place is None or place.step is None:
        if place is not None and mask is None:
            return _load_scattered(f, b, _lane_places(f, b, plan, index))
        pointers = _lane_pointers(f, e, plan, index, value)
        return _gather(f, b, pointers, mask)
    const, moving = _offset(f, plan, index)
    lanes, step = place.lanes, place.step
    ptr = _pointer(f, b, moving)
    if lanes == 1:
        return _load_at(f, b, ptr, const, 1, dtypes.itemsize(b.dtype))
    if step == 1:
        align = _alignment(f, b, const, moving)
        if mask is not None:
            return _load_masked(f, b, _at(f, b, ptr, const, f.depth), lanes, mask, align)
        return _load_at(f, b, ptr, const, lanes, align)
    if mask is not None:
        pointers = [_at(f, b, ptr, const + k * step, f.depth) for k in range(lanes)]
        return _gather(f, b, pointers, mask)
    size = dtypes.itemsize(b.dtype)
    if step == 0:
        return splat(f, _load_at(f, b, ptr, const, 1, size), lanes)
    return gather_lanes(f, [_load_at(f, b, ptr, const + k * step, 1, size) for k in range(lanes)])


def _load_at(f: Fn, b: Buffer, ptr: V, const: int, lanes: int, align: int) -> V:
    """A plain load, or the value known to be there."""
    depth = f.load_depth(b, ptr.depth)
    key = (ptr.ref, const, lanes, b.dtype, f.version(b))
    for d in range(depth, ptr.depth - 1, -1):
        known = f.scopes[d].table.get(key)
        if known is not None:
            return known
    address = _at(f, b, ptr, const, depth)
    ref = f.name()
    f.scopes[depth].lines.append(
        f"  {ref} = load {stored_type(b.dtype, lanes)}, ptr {address.ref}, align {align}"
    )
    out = _from_memory(f, ref, b.dtype, lanes, depth)
    f.scopes[depth].table[key] = out
    return out


def _memory_dtype(dtype: str) -> str:
    """The dtype of the bits in memory."""
    if dtype in NARROW:
        return "uint16" if dtypes.bits(dtype) == 16 else "uint8"
    return "uint8" if dtype == "bool" else dtype


def _from_memory(f: Fn, ref: str, dtype: str, lanes: int, depth: int) -> V:
    bits = V(ref, _memory_dtype(dtype), lanes, depth)
    if dtype in NARROW:
        return decode(f, bits, dtype)
    if dtype == "bool":
        text = f"icmp ne {type_of(bits)} {ref}, zeroinitializer" if lanes > 1 else (
            f"icmp ne i8 {ref}, 0"
        )  # fmt: skip
        return f.op(text, "bool", lanes, depth)
    return bits


def _to_memory(f: Fn, v: V) -> V:
    if v.dtype in NARROW:
        return encode(f, v)
    if v.dtype == "bool":
        return int_const(v.const, "uint8") if v.const is not None and v.lanes == 1 else convert(
            f, "zext", v, "uint8"
        )  # fmt: skip
    return v


def _load_masked(f: Fn, b: Buffer, address: V, lanes: int, mask: V, align: int) -> V:
    kind = stored_type(b.dtype, lanes)
    name = f"llvm.masked.load.{suffix(kind)}.p0"
    fn = f.module.declare(name, kind, f"ptr, i32, <{lanes} x i1>, {kind}")
    got = f.here(
        f"call {kind} {fn}(ptr {address.ref}, i32 {align}, <{lanes} x i1> {mask.ref}, "
        f"{kind} zeroinitializer)",
        _memory_dtype(b.dtype),
        lanes,
    )
    return _from_memory(f, got.ref, b.dtype, lanes, got.depth)


def _lane_places(f: Fn, b: Buffer, plan: _Plan, index: IndexValue) -> list[tuple[V, int]]:
    """For each lane an address, and how many elements further on the lane is."""
    assert plan.place is not None
    out = []
    for k in range(plan.place.lanes):
        f.env[flat.LANE] = int_const(k)
        const, moving = _offset(f, plan, index)
        out.append((_pointer(f, b, moving), const))
    del f.env[flat.LANE]
    return out


def _load_scattered(f: Fn, b: Buffer, places: list[tuple[V, int]]) -> V:
    """A vector of elements at these places; neighbours in memory are read together."""
    lanes, size = len(places), dtypes.itemsize(b.dtype)
    for rows in (2, 4, 8):
        if lanes % rows == 0 and lanes // rows > rows and _in_rows(places, rows):
            each = lanes // rows
            read = [as_bits(f, _load_at(f, b, p, at, each, size)) for p, at in places[:rows]]
            return from_bits(f, _interleaved(f, read), b.dtype, lanes)
    run = 8 // size
    while run > 1 and not _in_runs(places, run):
        run //= 2
    if run < 2:
        return gather_lanes(f, [_load_at(f, b, p, at, 1, size) for p, at in places])
    word = f"uint{8 * size * run}"
    words = [
        from_bits(f, as_bits(f, _load_at(f, b, p, at, run, size)), word, 1)
        for p, at in places[::run]
    ]
    together = words[0] if len(words) == 1 else gather_lanes(f, words)
    return from_bits(f, together, b.dtype, lanes)


def _in_rows(places: list[tuple[V, int]], rows: int) -> bool:
    """Do the lanes take turns among `rows` rows, along each of which they are neighbours?"""
    return all(
        p.ref == places[k - rows][0].ref and at == places[k - rows][1] + 1
        for k, (p, at) in enumerate(places)
        if k >= rows
    )


def _interleaved(f: Fn, rows: list[V]) -> V:
    """The first elements of some vectors (a power of two of them), then the second ones, ..."""
    if len(rows) == 1:
        return rows[0]
    a, b = _interleaved(f, rows[0::2]), _interleaved(f, rows[1::2])
    mask = ", ".join(f"i32 {k}, i32 {k + a.lanes}" for k in range(a.lanes))
    lanes = 2 * a.lanes
    text = f"shufflevector {type_of(a)} {a.ref}, {type_of(b)} {b.ref}, <{lanes} x i32> <{mask}>"
    return f.op(text, a.dtype, lanes, max(a.depth, b.depth))


def _in_runs(places: list[tuple[V, int]], run: int) -> bool:
    """Do each `run` lanes lie next to one another?"""
    return len(places) % run == 0 and all(
        p.ref == places[k - k % run][0].ref and at == places[k - k % run][1] + k % run
        for k, (p, at) in enumerate(places)
    )


def _lane_pointers(
    f: Fn, e: BufferLoad | BufferStore, plan: _Plan, index: IndexValue, value: IndexValue
) -> list[V]:
    """The address of each lane where lanes are not evenly spaced."""
    b = e.buffer
    out = []
    if plan.place is not None:
        return [_at(f, b, p, const, f.depth) for p, const in _lane_places(f, b, plan, index)]
    lanes = max(dtypes.lanes(i.dtype) for i in e.indices)
    parts = [value(f, i) if dtypes.lanes(i.dtype) > 1 else index(f, i) for i in e.indices]
    steps = [index(f, s) for s in flat.steps_of(b)]
    start = None if b.elem_offset is None else index(f, b.elem_offset)
    element, base = stored_type(b.dtype), _base(f, b)
    for k in range(lanes):
        at = start or int_const(0)
        for part, step in zip(parts, steps):
            one = _as_index(f, lane(f, part, k))
            depth = max(one.depth, step.depth, at.depth)
            scaled = f.op(f"mul i64 {one.ref}, {step.ref}", "int64", 1, depth)
            at = f.op(f"add i64 {at.ref}, {scaled.ref}", "int64", 1, depth)
        text = f"getelementptr {element}, ptr {base.ref}, i64 {at.ref}"
        out.append(f.op(text, "handle", 1, max(at.depth, base.depth)))
    return out


def _as_index(f: Fn, v: V) -> V:
    if v.dtype == "int64":
        return v
    if v.const is not None:
        return int_const(v.const)
    if dtypes.bits(v.dtype) == 64:
        return V(v.ref, "int64", 1, v.depth)
    return convert(f, "zext" if dtypes.is_unsigned(v.dtype) else "sext", v, "int64")


def _gather(f: Fn, b: Buffer, pointers: list[V], mask: V | None) -> V:
    lanes = len(pointers)
    if mask is None:
        size = dtypes.itemsize(b.dtype)
        return gather_lanes(f, [_load_at(f, b, p, 0, 1, size) for p in pointers])
    addresses = gather_lanes(f, pointers)
    kind, ptrs = stored_type(b.dtype, lanes), f"<{lanes} x ptr>"
    name = f"llvm.masked.gather.{suffix(kind)}.v{lanes}p0"
    fn = f.module.declare(name, kind, f"{ptrs}, i32, <{lanes} x i1>, {kind}")
    got = f.here(
        f"call {kind} {fn}({ptrs} {addresses.ref}, i32 {dtypes.itemsize(b.dtype)}, "
        f"<{lanes} x i1> {mask.ref}, {kind} zeroinitializer)",
        _memory_dtype(b.dtype),
        lanes,
    )
    return _from_memory(f, got.ref, b.dtype, lanes, got.depth)


# ----------------------------------------------------------------------------- stores
def store(f: Fn, s: BufferStore, v: V, index: IndexValue, value: IndexValue) -> None:
    """Write `v` (a scalar, or one value a lane) where `s` says."""
    b = s.buffer
    plan = _plan(f, s)
    lanes = max((dtypes.lanes(i.dtype) for i in s.indices), default=1)
    v = splat(f, v, lanes)
    mask = None if s.predicate is None else value(f, s.predicate)
    if b in f.regs:
        _store_register(f, s, plan, v, mask, index)
        return
    if mask is not None and mask.lanes == 1:
        memory = frozenset([f.memory(b)])

        def then() -> None:
            _store(f, s, plan, v, None, index, value)

        f.branch(mask, then, None, memory)
        return
    _store(f, s, plan, v, mask, index, value)


def _store(
    f: Fn,
    s: BufferStore,
    plan: _Plan,
    v: V,
    mask: V | None,
    index: IndexValue,
    value: IndexValue,
) -> None:
    b, place = s.buffer, plan.place
    if place is None or place.step is None:
        _scatter(f, b, _lane_pointers(f, s, plan, index, value), v, mask)
        return
    const, moving = _offset(f, plan, index)
    ptr = _pointer(f, b, moving)
    size = dtypes.itemsize(b.dtype)
    if place.lanes > 1 and place.step != 1:
        pointers = [_at(f, b, ptr, const + k * place.step, f.depth) for k in range(place.lanes)]
        _scatter(f, b, pointers, v, mask)
        return
    address = _at(f, b, ptr, const, f.depth)
    align = _alignment(f, b, const, moving) if place.lanes > 1 else size
    bits = _to_memory(f, v)
    kind = stored_type(b.dtype, place.lanes)
    if mask is not None:
        name = f"llvm.masked.store.{suffix(kind)}.p0"
        fn = f.module.declare(name, "void", f"{kind}, ptr, i32, <{place.lanes} x i1>")
        f.do(
            f"call void {fn}({kind} {bits.ref}, ptr {address.ref}, i32 {align}, "
            f"<{place.lanes} x i1> {mask.ref})"
        )
        f.bump(f.memory(b))
        return
    f.do(f"store {kind} {bits.ref}, ptr {address.ref}, align {align}")
    f.bump(f.memory(b))
    f.scopes[-1].table[(ptr.ref, const, place.lanes, b.dtype, f.version(b))] = v


def _scatter(f: Fn, b: Buffer, pointers: list[V], v: V, mask: V | None) -> None:
    bits = _to_memory(f, v)
    lanes, size = len(pointers), dtypes.itemsize(b.dtype)
    if mask is None:
        for k, p in enumerate(pointers):
            one = lane(f, bits, k)
            f.do(f"store {stored_type(b.dtype)} {one.ref}, ptr {p.ref}, align {size}")
    else:
        addresses = gather_lanes(f, pointers)
        kind, ptrs = stored_type(b.dtype, lanes), f"<{lanes} x ptr>"
        name = f"llvm.masked.scatter.{suffix(kind)}.v{lanes}p0"
        fn = f.module.declare(name, "void", f"{kind}, {ptrs}, i32, <{lanes} x i1>")
        f.do(
            f"call void {fn}({kind} {bits.ref}, {ptrs} {addresses.ref}, i32 {size}, "
            f"<{lanes} x i1> {mask.ref})"
        )
    f.bump(f.memory(b))


# ----------------------------------------------------------------------------- registers
def _cell(f: Fn, plan: _Plan, b: Buffer, index: IndexValue) -> int:
    const, moving = _offset(f, plan, index)
    if moving:
        raise BuildError(f"buffer {b.name} is in registers, but its index is not constant")
    return const


def _load_register(f: Fn, e: BufferLoad, plan: _Plan, index: IndexValue) -> V:
    at = _cell(f, plan, e.buffer, index)
    found = f.regs[e.buffer].get(at)
    return found if found is not None else _zero(e.buffer.dtype, dtypes.lanes(e.dtype))


def _store_register(
    f: Fn, s: BufferStore, plan: _Plan, v: V, mask: V | None, index: IndexValue
) -> None:
    at = _cell(f, plan, s.buffer, index)
    if mask is not None:
        old = f.regs[s.buffer].get(at)
        if old is not None:
            v = choose(f, mask, v, old)
    if is_const_text(v.ref):
        v = V(v.ref, v.dtype, v.lanes, 0, v.const)
    f.regs[s.buffer][at] = v
