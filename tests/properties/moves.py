"""How is a random schedule drawn? Any primitive, any argument of its kind; refusals are fine."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import numpy as np

from gputune.errors import ScheduleError
from gputune.ir import dtypes
from gputune.ir.build import const_int
from gputune.ir.equal import structural_equal
from gputune.ir.interp import run
from gputune.ir.nodes import Block, BufferLoad, PrimFunc
from gputune.ir.walk import all_loads, free_vars, substitute, walk_expr
from gputune.schedule import BlockRV, LoopRV, Schedule, Trace
from gputune.schedule.intrin_mapping import tile_with_tensor_intrin
from gputune.target import Target
from gputune.target.intrin import intrin

from . import intrinsics  # noqa: F401  # registers those of these tests


def _blocks(sch: Schedule, rng: random.Random) -> BlockRV:
    names = [n.name for n in _all_blocks(sch) if n.name != "root"]
    unique = [n for n in names if names.count(n) == 1]
    return sch.get_block(rng.choice(unique))


def _all_blocks(sch: Schedule) -> list[Block]:
    (name,) = sch.mod.functions
    return [x.node for x in sch.tree(name).links.values() if type(x.node) is Block]


def _loop(sch: Schedule, rng: random.Random) -> LoopRV:
    loops = sch.get_loops(_blocks(sch, rng))
    if not loops:
        raise ScheduleError("no loops", code="none")
    return rng.choice(loops)


def _factors(sch: Schedule, loop: LoopRV, rng: random.Random) -> list[Any]:
    extent = const_int(sch.get(loop).extent) or 4
    kind = rng.randrange(5)
    if kind == 3:
        return list(sch.sample_tile(loop, rng.choice([2, 2, 3, 4]), rng.choice([4, 16, 64])))
    if kind == 4:
        n = rng.choice([2, 2, 3])
        return list(sch.sample_partitioned_tile(loop, n, rng.randrange(n), rng.choice([1, 2, 3])))
    if kind == 0:
        return list(
            sch.sample_perfect_tile(loop, n=rng.choice([1, 2, 2, 3]), max_innermost_factor=64)
        )
    if kind == 1:
        return [None, rng.choice([1, 2, 3, 4, 5])]
    return [rng.choice([2, 3]), None, rng.choice([1, 2])] if extent > 1 else [None, 1]


def step(sch: Schedule, rng: random.Random) -> str:
    """Try one random primitive; returns its name. ScheduleError when it refuses."""
    move = rng.choice(MOVES)
    move[1](sch, rng)
    return move[0]


def _split(s: Schedule, r: random.Random) -> None:
    loop = _loop(s, r)
    s.split(loop, _factors(s, loop, r), r.random() < 0.8, disable_predication=r.random() < 0.2)


def _fuse(s: Schedule, r: random.Random) -> None:
    loops = s.get_loops(_blocks(s, r))
    k = r.randrange(len(loops) + 1)
    s.fuse(*loops[k : k + r.choice([1, 2, 2, 3])], preserve_unit_iters=r.random() < 0.8)


def _reorder(s: Schedule, r: random.Random) -> None:
    loops = s.get_loops(_blocks(s, r))
    r.shuffle(loops)
    s.reorder(*loops[: r.randint(min(1, len(loops)), len(loops))])


def _compute_at(s: Schedule, r: random.Random) -> None:
    s.compute_at(_blocks(s, r), _loop(s, r), r.random() < 0.5, r.choice([-1, -1, -2]))


def _reverse_compute_at(s: Schedule, r: random.Random) -> None:
    s.reverse_compute_at(_blocks(s, r), _loop(s, r), r.random() < 0.5, r.choice([-1, -1, -2]))


def _sampled_location(s: Schedule, r: random.Random) -> None:
    b = _blocks(s, r)
    s.compute_at(b, s.sample_compute_location(b))


def _annotate(s: Schedule, r: random.Random) -> None:
    """A note with a meaning to lowering, and notes of any form that have none."""
    if r.random() < 0.5:
        v = s.sample_categorical([0, 16, 64], [0.25, 0.25, 0.5])
        s.annotate(_loop(s, r), "pragma_auto_unroll_max_step", v)
        return
    value = r.choice([None, True, -3, 1.5, 'a "note"', [1, [2, "x"]], {"a": [1], "b": None}, {}])
    if r.random() < 0.3:
        value = [value, s.sample_categorical([1, 2], [0.5, 0.5])]
    at = _blocks(s, r) if r.random() < 0.6 else _loop(s, r)
    s.annotate(at, r.choice(["a note", "another"]), value)


def _unannotate(s: Schedule, r: random.Random) -> None:
    """Of what has notes, if there is any; a note that says what the rest of the program rests on
    (tensorize leaves one) stays."""
    noted = [b for b in _all_blocks(s) if any("note" in k for k, _ in b.annotations)]
    names = [b.name for b in _all_blocks(s)]
    noted = [b for b in noted if names.count(b.name) == 1]
    if noted and r.random() < 0.8:
        at = r.choice(noted)
        s.unannotate(s.get_block(at.name), r.choice([k for k, _ in at.annotations if "note" in k]))
        return
    s.unannotate(_loop(s, r), r.choice(["a note", "pragma_auto_unroll_max_step"]))


def _look(s: Schedule, r: random.Random) -> None:
    """What only looks, and what says where to look."""
    (name,) = s.mod.functions
    block = _blocks(s, r)
    match r.randrange(6):
        case 0:
            s.get_producers(block)
        case 1:
            s.get_consumers(block)
        case 2:
            s.get_child_blocks(block if r.random() < 0.5 else _loop(s, r))
        case 3:
            s.get_output_blocks(r.choice(["root", block]))
        case 4:
            s.work_on(r.choice([name, name, "no such function"]))
        case _:
            loops = s.get_loops(block)
            if loops:
                s.can_decompose_padding(block, r.choice(loops))


def _unit_loop(s: Schedule, r: random.Random) -> None:
    s.add_unit_loop(_blocks(s, r) if r.random() < 0.5 else _loop(s, r))


def _storage_align(s: Schedule, r: random.Random) -> None:
    s.storage_align(_blocks(s, r), 0, r.choice([0, -1, -2]), r.choice([4, 8]), r.choice([0, 1]))


def _blockize(s: Schedule, r: random.Random) -> None:
    if r.random() < 0.8:
        s.blockize(_loop(s, r), r.random() < 0.7)
        return
    names = [n.name for n in _all_blocks(s)]
    k = r.randrange(len(names))
    s.blockize(names[k : k + r.choice([1, 2, 2, 3])], r.random() < 0.7)


_INTRINSICS = [
    "test.dot2", "test.outer2", "test.copy2",
    *[n for n in ("dot_16x4_vnni", "dot_16x4_avx512") if not intrin(n).missing(Target("llvm"))],
]  # fmt: skip


def _tensorize(s: Schedule, r: random.Random, among: tuple[str, ...] = tuple(_INTRINSICS)) -> None:
    """As a rule does it: tile for an intrinsic that fits, initialise elsewhere, tensorize."""
    names = list(among)
    r.shuffle(names)
    b = _blocks(s, r)
    for name in names:
        loop = tile_with_tensor_intrin(s, b, name)
        if loop is not None:
            with suppress(ScheduleError):  # what was done until then stays
                outer = s.blockize(loop, r.random() < 0.7)
                if s.get(outer).init is not None:
                    s.decompose_reduction(outer, r.choice(s.get_loops(outer)))
                s.tensorize(outer, name)
            return
    s.tensorize(r.choice([b, _loop(s, r)]), r.choice(names))


def random_map(s: Schedule, r: random.Random, shape: list[int]) -> Any:
    """A rearrangement: axes split, now and then by what does not divide or was sampled, some fused,
    in any order."""
    cuts: list[Any] = []
    if 0 in shape:
        raise ScheduleError("an extent is not constant", code="none")
    for n in shape:
        divisors = [d for d in range(1, n + 1) if n % d == 0]
        cut: Any = None
        if r.random() < 0.5:
            cut = r.choice(divisors) if r.random() < 0.7 else r.choice([2, 3, 4])
            if r.random() < 0.3:
                cut = s.sample_categorical([cut, r.choice(divisors)], [0.5, 0.5])
        cuts.append(cut)
    order = list(range(sum(1 if c is None else 2 for c in cuts)))
    if r.random() < 0.8:
        r.shuffle(order)
    fused = r.random() < 0.2
    bad = r.random() < 0.05

    def mapping(*at: Any) -> list[Any]:
        digits: list[Any] = []
        for i, c in zip(at, cuts, strict=True):
            digits += [i] if c is None else [i // c, i % c]
        new = [digits[k] for k in order]
        if bad and new:
            new[0] = new[0] // 2
        if fused and shape and cuts[0] is cuts[-1] is None and len(shape) > 1:
            last = at[-1]
            return [at[0] * shape[-1] + last, *[x for x in new if x is not at[0] and x is not last]]
        return new

    return mapping


def _shape(extents: Any) -> list[int]:
    return [int(const_int(e) or 0) for e in extents]


def _access(s: Schedule, block: BlockRV, r: random.Random) -> tuple[tuple[str, int], Any]:
    b = s.get(block)
    kind = r.choice(["read", "write"])
    regions = b.reads if kind == "read" else b.writes
    if not regions:
        raise ScheduleError("no regions", code="none")
    k = r.randrange(len(regions))
    return (kind, k), regions[k].buffer


def _transform_layout(s: Schedule, r: random.Random) -> None:
    block = _blocks(s, r)
    access, buffer = _access(s, block, r)
    (func,) = s.mod.functions.values()
    if buffer in func.buffers:  # the caller would have to pass it in another layout
        s.cache_read(block, buffer, "global")  # the next one may take the copy
        return
    s.transform_layout(
        block,
        access,
        random_map(s, r, _shape(buffer.shape)),
        r.choice([None, None, 0, 7, lambda *at: at[0] + 1]),
        assume_injective_transform=r.random() < 0.3,
    )


def _transform_block_layout(s: Schedule, r: random.Random) -> None:
    block = _blocks(s, r)
    extents = _shape([iv.dom.extent for iv in s.get(block).iter_vars])
    s.transform_block_layout(block, random_map(s, r, extents))


def _reorder_iters(s: Schedule, r: random.Random) -> None:
    block = _blocks(s, r)
    order = list(range(len(s.get(block).iter_vars)))
    r.shuffle(order)
    s.reorder_block_iter_var(block, order)


def _reindex(s: Schedule, r: random.Random) -> None:
    block = _blocks(s, r)
    s.reindex(block, _access(s, block, r)[0])


def _reindex_cache(s: Schedule, r: random.Random) -> None:
    """A cache at a rearrangement of the iterators that the access uses, or at its own indices."""
    block = _blocks(s, r)
    (kind, k), _ = _access(s, block, r)
    b = s.get(block)
    region = (b.reads if kind == "read" else b.writes)[k].region
    mentioned = set().union(*(free_vars(g.min) for g in region))
    used = [n for n, iv in enumerate(b.iter_vars) if iv.var in mentioned]
    inner = random_map(s, r, _shape([b.iter_vars[n].dom.extent for n in used]))
    own = r.random() < 0.15

    def mapping(*at: Any) -> list[Any]:
        if own:
            table = dict(zip([iv.var for iv in b.iter_vars], at, strict=True))
            return [substitute(g.min, table) for g in reversed(region)] or [0]
        return inner(*[at[n] for n in used]) or [0]

    call = s.reindex_cache_read if kind == "read" else s.reindex_cache_write
    call(block, k, r.choice(SCOPES), mapping)


def _cache_inplace(s: Schedule, r: random.Random) -> None:
    """Of what is updated in place, as a reduction does once its init stands elsewhere."""
    block = _blocks(s, r)
    if s.get(block).init is not None and r.random() < 0.8:
        loops = s.get_loops(block)
        s.decompose_reduction(block, loops[-1] if loops and r.random() < 0.8 else _loop(s, r))
        with suppress(ScheduleError):  # what was done until then stays
            s.cache_inplace(block, s.get(block).writes[0].buffer, r.choice(SCOPES))
        return
    s.cache_inplace(block, r.choice([0, 0, 1]), r.choice(SCOPES))


def _offset_operand(s: Schedule, r: random.Random) -> None:
    block = _blocks(s, r)
    reads = s.get(block).reads
    if reads:
        offset, dtype = r.choice([(128, "uint8"), (-128, "int8"), (7, "int32"), (-3, "int64")])
        s.offset_operand(block, r.randrange(len(reads)), offset, dtype)


def _pad_einsum(s: Schedule, r: random.Random) -> None:
    block = _blocks(s, r)
    s.pad_einsum(block, [r.choice([1, 1, 2, 3, 4]) for _ in s.get(block).iter_vars])


def _decompose_padding(s: Schedule, r: random.Random) -> None:
    block = _blocks(s, r)
    loops = s.get_loops(block)
    if not loops:
        raise ScheduleError("no loops", code="none")
    loop = r.choice(loops)
    if s.can_decompose_padding(block, loop) or r.random() < 0.2:
        s.decompose_padding(block, loop)


def _cache_between(s: Schedule, r: random.Random) -> None:
    """A copy between a block and a consumer of it, brought under common loops if they can be."""
    block = _blocks(s, r)
    users = s.get_consumers(block)
    if not users:
        raise ScheduleError("no consumers", code="none")
    before, user = s.mod, r.choice(users)
    with suppress(ScheduleError, IndexError):  # no loops, or a refusal: what was done stays
        if r.random() < 0.5:
            s.compute_at(block, r.choice(s.get_loops(user)), r.random() < 0.5)
        else:
            s.reverse_compute_at(user, r.choice(s.get_loops(block)), r.random() < 0.5)
        if r.random() < 0.4:
            s.split(r.choice(s.get_loops(block)), [None, r.choice([2, 3, 4])])
    together, scope = s.mod, r.choice(SCOPES)
    refusal: ScheduleError | None = None
    try:
        if r.random() < 0.5:
            s.cache_write(block, 0, scope)
        else:
            s.cache_read(user, s.get(block).writes[0].buffer, scope, r.choice([None, [user]]))
    except ScheduleError as e:
        refusal = e
    if refusal is not None:  # it leaves no mark; the steps before it may have left theirs
        assert refusal.code, f"a refusal without a code: {refusal}"
        assert s.mod is together
        if together is before:
            raise refusal


def _fuse_epilogue(s: Schedule, r: random.Random) -> None:
    block = _blocks(s, r)
    users = s.get_consumers(block)
    if not users and s.get(block).init is not None:  # a copy of an output is an epilogue
        s.cache_write(block, 0, r.choice(SCOPES))  # which the next one may fuse
        return
    others = users if users and r.random() < 0.9 else [_blocks(s, r)]
    s.fuse_reduction_epilogue(block, r.choice(others))


# Types that hold every value of another one. Any other change of type may change results, which is
# what unsafe_set_dtype says of itself: the law does not cover those.
_HOLD_ALL = {
    "float16": ["float32", "float64"],
    "bfloat16": ["float32", "float64"],
    "float32": ["float64"],
    "int8": ["int16", "int32", "float16", "float32"],
    "uint8": ["int16", "int32", "uint32", "float32"],
    "int16": ["int32", "float32"],
    "int32": ["int64", "float64"],
}


def _set_dtype(s: Schedule, r: random.Random) -> None:
    block = _blocks(s, r)
    writes = s.get(block).writes
    if not writes:
        raise ScheduleError("no regions", code="none")
    k = r.randrange(len(writes))
    held = writes[k].buffer.dtype
    s.unsafe_set_dtype(block, k, r.choice(_HOLD_ALL.get(held, [held])))


def _copy_at(s: Schedule, r: random.Random) -> None:
    block = _blocks(s, r)
    loops = s.get_loops(block)
    if not loops:
        raise ScheduleError("no loops", code="none")
    if r.random() < 0.6:
        s.read_at(r.choice(loops), block, r.choice([0, 0, 1]), r.choice(SCOPES))
    else:
        s.write_at(r.choice(loops), block, 0, r.choice(SCOPES))


def _roll(s: Schedule, r: random.Random) -> None:
    """A producer under a tile of a reader, which keeps what neighbouring tiles have in common."""
    block = _blocks(s, r)
    users = s.get_consumers(block)
    before = s.mod
    with suppress(ScheduleError, IndexError):  # no loops, or a refusal: what was done stays
        loop = r.choice(s.get_loops(r.choice(users)))
        if r.random() < 0.7:
            loop = s.split(loop, [None, r.choice([1, 2, 3, 4])])[0]
        s.compute_at(block, loop, r.random() < 0.5)
    together = s.mod
    refusal: ScheduleError | None = None
    try:
        s.rolling_buffer(block, 0)
    except ScheduleError as e:
        refusal = e
    if refusal is not None:
        assert refusal.code, f"a refusal without a code: {refusal}"
        assert s.mod is together
        if together is before:
            raise refusal


def _annotate_access(s: Schedule, r: random.Random) -> None:
    """A region near the one that is known. What depends on data is taken on trust, so there it only
    grows."""
    block = _blocks(s, r)
    access, buffer = _access(s, block, r)
    b = s.get(block)
    region = (b.reads if access[0] == "read" else b.writes)[access[1]].region
    by_data = any(
        type(y) is BufferLoad
        for x in all_loads(b)
        if x.buffer is buffer
        for i in x.indices
        for y in walk_expr(i)
    )
    ends = [(r.choice([0, 0, 1, -1]), r.choice([0, 0, 1, -1])) for _ in region]
    if access[0] == "write" and r.random() < 0.5:
        ends = [(0, 0) for _ in region]
    if by_data:
        ends = [(abs(x), abs(y)) for x, y in ends]

    def ranges(*at: Any) -> list[Any]:
        table = {iv.var: v for iv, v in zip(b.iter_vars, at, strict=True)}
        moved = [(substitute(g.min, table), substitute(g.extent, table)) for g in region]
        return [(lo - x, lo + n + y) for (lo, n), (x, y) in zip(moved, ends, strict=True)]

    s.annotate_buffer_access(block, access[1], access[0], ranges)


def _hide(s: Schedule, r: random.Random) -> None:
    """Hiding changes what later primitives accept, so a copy does it, and runs as before."""
    c = s.copy()
    block = _blocks(c, r)
    kind = r.choice(["read", "write"])
    regions = c.get(block).reads if kind == "read" else c.get(block).writes
    c.unsafe_hide_buffer_access(block, kind, [r.randrange(len(regions) + 1)])
    (name,) = s.mod.functions
    for x, y in zip(results(s.mod[name], 1), results(c.mod[name], 1), strict=True):
        assert np.array_equal(x, y, equal_nan=True)
    again = Schedule(s._original, seed=1, error_render_level="none")
    Trace.from_python(str(c.trace)).apply_to_schedule(again)
    assert structural_equal(again.mod, c.mod)


def _partition(s: Schedule, r: random.Random) -> None:
    loop = _loop(s, r)
    half = max(1, (const_int(s.get(loop).extent) or 4) // 2)
    factors = [r.choice([1, 1, 2, 3, half, None]) for _ in range(r.choice([1, 1, 2]))]
    s.loop_partition(loop, factors, r.random() < 0.8)


def _merge(s: Schedule, r: random.Random) -> None:
    """The loops of a block with those of blocks that follow or precede it, or of any."""
    first = _blocks(s, r)
    near = s.get_consumers(first) or s.get_producers(first)
    others = [r.choice(near)] if near and r.random() < 0.7 else [_blocks(s, r)]
    if r.random() < 0.2:
        others.append(_blocks(s, r))
    loops = [s.get_loops(b) for b in (first, *others)]
    if not all(loops):
        raise ScheduleError("no loops", code="none")
    depth = r.randrange(min(map(len, loops)))
    s.merge(*[x[depth] for x in loops])


SCOPES = ["global", "local", "shared"]
MOVES: list[tuple[str, Any]] = [
    ("split", _split),
    ("split", _split),
    ("fuse", _fuse),
    ("loop_partition", _partition),
    ("merge", _merge),
    ("merge", _merge),
    ("reorder", _reorder),
    ("reorder", _reorder),
    ("compute_at", _compute_at),
    ("compute_at", _compute_at),
    ("reverse_compute_at", _reverse_compute_at),
    ("reverse_compute_at", _reverse_compute_at),
    ("sample_compute_location", _sampled_location),
    ("compute_inline", lambda s, r: s.compute_inline(_blocks(s, r))),
    ("reverse_compute_inline", lambda s, r: s.reverse_compute_inline(_blocks(s, r))),
    ("cache_read", lambda s, r: s.cache_read(_blocks(s, r), r.choice([0, 0, 1]), r.choice(SCOPES))),
    ("cache_write", lambda s, r: s.cache_write(_blocks(s, r), 0, r.choice(SCOPES))),
    ("cache_between", _cache_between),
    ("decompose_reduction", lambda s, r: s.decompose_reduction(_blocks(s, r), _loop(s, r))),
    ("rfactor", lambda s, r: s.rfactor(_loop(s, r), r.choice([-1, 0, 1]))),
    ("fuse_reduction_epilogue", _fuse_epilogue),
    ("fuse_reduction_epilogue", _fuse_epilogue),
    ("blockize", _blockize),
    ("tensorize", _tensorize),
    ("parallel", lambda s, r: s.parallel(_loop(s, r))),
    ("vectorize", lambda s, r: s.vectorize(_loop(s, r))),
    ("unroll", lambda s, r: s.unroll(_loop(s, r))),
    ("bind", lambda s, r: s.bind(_loop(s, r), r.choice(["blockIdx.x", "threadIdx.x"]))),
    ("add_unit_loop", _unit_loop),
    ("set_scope", lambda s, r: s.set_scope(_blocks(s, r), 0, r.choice(SCOPES))),
    ("storage_align", _storage_align),
    ("unsafe_set_dtype", _set_dtype),
    ("transform_layout", _transform_layout),
    ("transform_layout", _transform_layout),
    ("transform_block_layout", _transform_block_layout),
    ("reorder_block_iter_var", _reorder_iters),
    ("reindex", _reindex),
    ("reindex_cache", _reindex_cache),
    ("cache_inplace", _cache_inplace),
    (
        "cache_index",
        lambda s, r: s.cache_index(_blocks(s, r), r.choice(SCOPES), r.choice([0, 0, 1, 2, 3])),
    ),
    ("copy_at", _copy_at),
    ("copy_at", _copy_at),
    ("rolling_buffer", _roll),
    ("annotate_buffer_access", _annotate_access),
    ("unsafe_hide_buffer_access", _hide),
    ("pad_einsum", _pad_einsum),
    ("offset_operand", _offset_operand),
    ("decompose_padding", _decompose_padding),
    ("annotate", _annotate),
    ("unannotate", _unannotate),
    ("look", _look),
    ("enter_postproc", lambda s, r: s.enter_postproc()),
]


def inputs(func: PrimFunc, seed: int) -> list[np.ndarray]:
    """Small integers as values, so that sums are exact in any order; outputs are poisoned."""
    rng = np.random.default_rng(seed)
    out = []
    for b in func.buffers:
        shape = tuple(int(const_int(e) or 0) for e in b.shape)
        out.append(rng.integers(-4, 5, shape).astype(dtypes.numpy_dtype(b.dtype)))
    return out


def results(func: PrimFunc, seed: int) -> list[np.ndarray]:
    """All buffers after the interpreter ran the program."""
    arrays = inputs(func, seed)
    run(func, *arrays)
    return arrays
