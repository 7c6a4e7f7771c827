"""How is a matrix product tiled for the tensor cores of a GPU? MultiLevelTilingTensorCore."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import ScheduleError, UserError
from ...ir import build
from ...ir.build import const_int
from ...ir.index_map import IndexMap
from ...ir.nodes import Block, Buffer, Expr, IterVar, PrimFunc, Var
from ...ir.walk import walk_stmt
from ...schedule.intrin_mapping import (
    AutoTensorizeMappingInfo,
    get_auto_tensorize_mapping_info,
)
from ...target.intrin import TensorIntrin, intrin
from ..analysis import (
    AUTO_TENSORIZE,
    AUTO_TENSORIZE_INIT,
    PIPELINE_ASYNC_STAGES,
    TILING_STRUCTURE,
    WARP_EXECUTION,
)
from ..kinds import target_of
from .multi_level_tiling import Filter, MultiLevelTiling, ReuseType, Tiled, loop_of

if TYPE_CHECKING:
    from ...schedule import BlockRV, LoopRV, Schedule
    from ...schedule.handles import ExprRV
    from ..tune_context import TuneContext

_PARTS = ("init", "load_a", "load_b", "compute", "store")
_BANKS = 32  # elements: rows in shared memory begin at odd multiples of the offset below
_OFFSET = 8
_OFFSET_OF_BYTES = 16
_ROUND = (2, 4, 8)  # numbers of products are rounded up to multiples of these
_WASTE = 4  # by at most a part in so many


@dataclass(frozen=True)
class _Group:
    """The intrinsics of a product: what clears, loads both operands, multiplies and stores."""

    init: str
    load_a: str
    load_b: str
    compute: str
    store: str


@dataclass(frozen=True)
class _Operand:
    """An operand of a block that computes a product.

    Attributes:
        kind: "read" or "write".
        index: its number among the block's reads or writes.
        copy: the block that reindex made for it.
        tile: the shape of what one instruction takes.
    """

    kind: str
    index: int
    copy: BlockRV
    tile: tuple[int, int]


class MultiLevelTilingTensorCore(MultiLevelTiling):
    """MultiLevelTiling of a block that is a matrix product, for instructions of a whole warp.

    For each group of intrinsics that computes what the block does: its iterators are joined to
    rows, columns and the sum (a convolution is such a product too; what indexes all operands counts
    the products), extents are padded to multiples of the instruction's, and tiles of it become
    blocks that RewriteTensorize replaces. Operands pass through shared memory into fragments;
    results go from fragments through shared memory to where they belong. Every group that matches
    gives one more schedule; the schedule without tensor cores stays a candidate, for the rules
    after this one.

    Where a primitive refuses on the way, the group gives no schedule, and `refused` counts the
    reason.

    The default list "cuda-tensorcore" has the wmma groups; `MMA_GROUPS` are those of mma.sync, for
    sm_80 and later. (The mma m16n8k8 instructions are refused.)

    Args:
        intrin_groups: mappings with the keys "init", "load_a", "load_b", "compute" and "store",
            whose values are names of tensor intrinsics. Loads are from, and stores to, the scopes
            of the caches below.
        structure, tile_binds, max_innermost_factor, vector_load_lens, filter_fn: see
            MultiLevelTiling; tiles are counted in products of the instruction, and the last thread
            axis counts warps (threadIdx.y; the lanes of a warp are threadIdx.x). They divide the
            number of products: the results are laid out by tiles of a warp, all of which are
            written; so where `must_divide` is False, it is the number that is changed.
        reuse_read: the caches of operands in shared memory, with one level.
        reuse_write: the cache of results in shared memory, with one level, outside of the warps.
        use_software_pipeline: adds to each schedule how many steps the copies to shared memory run
            ahead of the products, in the background: one of `ahead` is sampled.
        must_divide: False adds schedules in which the numbers of products along rows, columns and
            sum are rounded up to multiples of 2, 4 and 8, by at most a quarter, so that 61 of them
            have useful tiles, too. What is added is padding: zeros for the operands, and results
            that are not copied out.
        ahead: see use_software_pipeline; 0 is none.

    Attributes:
        refused: how often a matching group gave no schedule, by the code of the reason.

    Raises:
        UserError: a setting makes no sense; there is no such intrinsic.
    """

    def __init__(
        self,
        intrin_groups: Sequence[Mapping[str, str]],
        structure: str,
        tile_binds: Sequence[str] | None = None,
        max_innermost_factor: int | None = None,
        vector_load_lens: Sequence[int] | None = None,
        reuse_read: ReuseType | Mapping[str, Any] | None = None,
        reuse_write: ReuseType | Mapping[str, Any] | None = None,
        use_software_pipeline: bool = False,
        filter_fn: Filter | None = None,
        must_divide: bool = True,
        ahead: Sequence[int] = (0, 1, 2, 3),
    ) -> None:
        super().__init__(
            structure, tile_binds, max_innermost_factor, vector_load_lens, reuse_read, reuse_write,
            filter_fn, ahead=ahead if use_software_pipeline else (),
        )  # fmt: skip
        self.rounds_up = not must_divide  # (the tiles divide what was rounded up)
        self.intrin_groups = tuple(_group(g) for g in intrin_groups)
        if not self.intrin_groups:
            _refuse("there are no intrinsics", "give at least one group")
        if not self.tile_binds or self.tile_binds[-1] != "threadIdx.y":
            _refuse(
                f"the last thread axis counts warps, found {list(self.tile_binds)}",
                'for example tile_binds=["blockIdx.y", "blockIdx.x", "threadIdx.y"]',
            )
        if structure.count("R") < 2 or "S" not in structure[len(self.tile_binds) :]:
            _refuse(
                f"the structure {structure!r} has no room for fragments",
                'two levels R, the outer one for shared memory, and S inside: "SSSRRSRS"',
            )
        for name, reuse, last in (
            ("reuse_read", self.reuse_read, len(structure)),
            ("reuse_write", self.reuse_write, len(self.tile_binds) - 1),
        ):
            if reuse is None or reuse.req != "must" or len(reuse.levels) != 1:
                _refuse(f"{name} is a cache that there must be, at one level", 'req="must"')
            if reuse.levels[0] > last:
                _refuse(f"level {reuse.levels[0]} of {name} is beyond {last}", "give one outside")
        self.use_software_pipeline = use_software_pipeline
        self.refused: Counter[str] = Counter()
        self.has_tensor_cores = True

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        super()._initialize_with_tune_context(context)
        target = target_of(context)
        self.has_tensor_cores = target is None or target.kind == "cuda"
        self.refused = Counter()

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The schedule as it is, and one for each group of intrinsics that computes the block."""
        out = [sch]
        if not self.has_tensor_cores or not self._is_wanted(sch, block):
            return out
        for group in self.intrin_groups:
            info = get_auto_tensorize_mapping_info(sch, block, intrin(group.compute).desc)
            if info is None:
                continue
            for multiples in _multiples(info, _ROUND if self.rounds_up else ()):
                new = sch.copy()
                try:
                    self._sketch(new, block, group, info, multiples)
                except ScheduleError as e:
                    self.refused[e.code or "schedule"] += 1
                else:
                    out.append(new)
        return out

    # ------------------------------------------------------------------ one sketch
    def _sketch(
        self,
        sch: Schedule,
        block: BlockRV,
        group: _Group,
        info: AutoTensorizeMappingInfo,
        multiples: Sequence[int],
    ) -> None:
        sch.annotate(block, TILING_STRUCTURE, self.structure)
        c, a, b = _as_product(sch, block, intrin(group.compute).desc, info)
        inner, padded = _innermost(sch, block, info, multiples)
        outer = sch.blockize(inner)
        sch.annotate(outer, AUTO_TENSORIZE, group.compute)
        sch.annotate(outer, AUTO_TENSORIZE_INIT, group.init)
        sch.annotate(outer, WARP_EXECUTION, 1)
        if info.batch:
            loops = sch.get_loops(outer)
            sch.bind(sch.fuse(*loops[: len(info.batch)]), "blockIdx.z")
        tiled = self._tile(sch, outer)
        self._write_back(tiled, group, c, len(info.batch), padded)
        fetched = [self._fetch(tiled, x.index) for x in (a, b)]
        for x, name in ((a, group.load_a), (b, group.load_b)):
            self._load(tiled, x, name)
        for x, shared in zip((a, b), fetched, strict=True):
            _inline_producers(sch, shared, x.copy)
            dtype = sch.get(shared).writes[0].buffer.dtype
            offset = _OFFSET_OF_BYTES if dtype in ("int8", "uint8") else _OFFSET
            sch.storage_align(shared, 0, -2, _BANKS, offset)
        if self.ahead:
            assert self.reuse_read is not None
            self._run_ahead(sch, loop_of(tiled, self.reuse_read.levels[0]), len(fetched))
            sch.annotate(loop_of(tiled, self.reuse_read.levels[0]), PIPELINE_ASYNC_STAGES, [0])

    def _write_back(
        self, tiled: Tiled, group: _Group, c: _Operand, batch: int, padded: bool
    ) -> None:
        """From fragments to shared memory, a row of tiles of all warps at a time, and from there to
        where the results belong."""
        assert self.reuse_write is not None
        sch, block = tiled.sch, tiled.block
        inside = [
            tiled.factors[k]
            for k in range(len(self.tile_binds), len(self.structure))
            if self.structure[k] == "S"
        ]
        of_warp = [_product([level[k] for level in inside]) for k in (0, 1)]
        sch.transform_layout(
            block, ("write", 0), _tiles_first(batch, c.tile, of_warp),
            assume_injective_transform=True,
        )  # fmt: skip
        shared = sch.cache_write(block, 0, self.reuse_write.scope)
        at = loop_of(tiled, self.reuse_write.levels[0])
        sch.reverse_compute_at(shared, at, preserve_unit_loops=True)
        fragments = sch.cache_write(block, 0, _scope(group.store, 0))
        loops = sch.get_loops(shared)
        first = len(loops) - 6 - batch  # batch, rows and columns of warps, of tiles, of elements
        warps, rows, columns = loops[first : first + batch + 2], loops[-4], loops[-3]
        sch.reorder(rows, *warps, columns)
        sch.compute_at(fragments, rows, preserve_unit_loops=True)
        inner = sch.get_loops(fragments)[first + 1 :]
        sch.bind(sch.fuse(*inner[: batch + 2]), self.tile_binds[-1])
        last = sch.get(c.copy).key
        users = sch.get_consumers(shared) if padded else []
        wanted = [x for x in users if sch.get(x).key is not last]  # where results were padded
        for x in (c.copy, *wanted):
            sch.reverse_compute_inline(x)
        store = sch.blockize(sch.get_loops(fragments)[-2])
        sch.annotate(store, AUTO_TENSORIZE, group.store)
        sch.fuse(*sch.get_loops(shared)[first + 1 :])
        self._fetch_together(sch, shared, sch.get(shared).writes[0].buffer.dtype)

    def _fetch(self, tiled: Tiled, index: int) -> BlockRV:
        """A copy of an operand in shared memory."""
        assert self.reuse_read is not None
        sch = tiled.sch
        read = sch.get(tiled.block).reads[index]
        copy = sch.cache_read(tiled.block, index, self.reuse_read.scope, [tiled.block])
        at = loop_of(tiled, self.reuse_read.levels[0])
        sch.compute_at(copy, at, preserve_unit_loops=True)
        sch.fuse(*sch.get_loops(copy)[-len(read.buffer.shape) :])
        self._fetch_together(sch, copy, read.buffer.dtype)
        return copy

    def _load(self, tiled: Tiled, operand: _Operand, name: str) -> None:
        """A copy of an operand in fragments."""
        sch = tiled.sch
        second = [k for k, x in enumerate(self.structure) if x == "R"][1]
        copy = sch.cache_read(tiled.block, operand.index, _scope(name, 1))
        sch.compute_at(copy, loop_of(tiled, second + 1), preserve_unit_loops=True)
        inner = _split_last(sch, copy, operand.tile)
        load = sch.blockize(inner)
        sch.annotate(load, AUTO_TENSORIZE, name)


# ----------------------------------------------------------------------------- settings
def _refuse(message: str, hint: str) -> NoReturn:
    raise UserError(f"MultiLevelTilingTensorCore: {message}", hint=hint, code="tensor-core")


def _group(given: Mapping[str, str]) -> _Group:
    """A group of intrinsics, all of which there are."""
    if set(given) != set(_PARTS):
        _refuse(f"a group of intrinsics has {sorted(given)}", f"name: {', '.join(_PARTS)}")
    for name in given.values():
        if TensorIntrin.get(name, allow_missing=True) is None and "m16n8k8" in name:
            _refuse(
                f"{name} belongs to the mma m16n8k8 instructions, which this version has not",
                "take the wmma_* intrinsics",
            )
        intrin(name)
    return _Group(**given)


def _scope(name: str, parameter: int) -> str:
    """The scope of the fragments that an intrinsic stores (its first operand) or loads (its
    second)."""
    return intrin(name).desc.buffers[parameter].scope


# ----------------------------------------------------------------------------- as a product
def _as_product(
    sch: Schedule, block: BlockRV, desc: PrimFunc, info: AutoTensorizeMappingInfo
) -> tuple[_Operand, _Operand, _Operand]:
    """Let the block run over (batch, rows, columns, sum), on operands indexed by these.

    Returns:
        The result and the two operands, in the order of the description's parameters.
    """
    dims = _dims(desc)
    a, b, c = desc.buffers
    found = sch.get(block)
    index = {info.lhs_buffer_map[r.buffer]: k for k, r in enumerate(found.reads)
             if r.buffer in info.lhs_buffer_map}  # fmt: skip
    where = [("write", 0, c), ("read", index[a], a), ("read", index[b], b)]
    copies = {x: sch.reindex(block, (kind, k)) for kind, k, x in where}
    out: dict[Buffer, _Operand] = {}
    maps: dict[Buffer, IndexMap] = {}
    for kind, k, x in (where[1], where[2], where[0]):
        maps[x] = _joined(info, dims[x])
        sch.transform_layout(block, (kind, k), maps[x], assume_injective_transform=True)
        rows, columns = [const_int(n) for n in x.shape]
        assert rows is not None  # a description has constant shapes
        assert columns is not None
        out[x] = _Operand(kind, k, copies[x], (rows, columns))
    for _, _, x in where:
        sch.transform_block_layout(copies[x], maps[x])
    sch.transform_block_layout(block, _joined(info, info.rhs_iters))
    return out[c], out[a], out[b]


def _dims(desc: PrimFunc) -> dict[Buffer, tuple[IterVar, ...]]:
    """By which of its iterators the operands of a description are indexed."""
    inner = [s for s in walk_stmt(desc.body) if type(s) is Block and s.iter_vars][-1]
    of = {iv.var: iv for iv in inner.iter_vars}
    return {
        r.buffer: tuple([of[g.min] for g in r.region if type(g.min) is Var])
        for r in (*inner.reads, *inner.writes)
    }


def _joined(info: AutoTensorizeMappingInfo, dims: Sequence[IterVar]) -> IndexMap:
    """From the iterators of the block that make up some of the description's (and those that count
    products) to these."""
    groups = dict(zip([iv.var for iv in info.rhs_iters], info.groups, strict=True))
    wanted = [[iv] for iv in info.batch] + [list(groups[d.var]) for d in dims]
    used = {iv.var for group in wanted for iv in group}
    iters = {iv.var: Var(iv.var.name) for iv in info.lhs_iters if iv.var in used}
    final: list[Expr] = []
    for group in wanted:
        e: Expr = iters[group[0].var]
        for iv in group[1:]:
            e = build.add(build.mul(e, build.const(int(const_int(iv.dom.extent) or 1))),
                          iters[iv.var])  # fmt: skip
        final.append(e)
    return IndexMap(tuple(iters.values()), tuple(final))


def _multiples(info: AutoTensorizeMappingInfo, to: Sequence[int]) -> list[tuple[int, ...]]:
    """To multiples of how many products the extents are rounded up, one of each along rows, columns
    and sum: 1, and what of `to` makes other numbers of products, none of them much larger."""
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    counts = [
        -(-prod(const_int(iv.dom.extent) or 1 for iv in group) // (const_int(d.dom.extent) or 1))
        for group, d in zip(info.groups, info.rhs_iters, strict=True)
    ]
    best = tuple([1 for _ in counts])
    for m in (1, *to):
        rounded = [-(-n // m) * m for n in counts]
        best = tuple(
            [
                m if (r - n) * _WASTE <= n else old
                for n, r, old in zip(counts, rounded, best, strict=True)
            ]
        )
        found.setdefault(tuple([-(-n // k) * k for n, k in zip(counts, best, strict=True)]), best)
    return list(found.values())


def _innermost(
    sch: Schedule, block: BlockRV, info: AutoTensorizeMappingInfo, multiples: Sequence[int]
) -> tuple[LoopRV, bool]:
    """Split the loops of a product to the sizes of the instruction, after padding (to `multiples`
    of these); the outermost of the new, inner loops, and whether there is padding."""
    sizes = [const_int(d.dom.extent) or 1 for d in info.rhs_iters]
    extents = [const_int(iv.dom.extent) or 1 for iv in sch.get(block).iter_vars[len(info.batch) :]]
    steps = [size * m for size, m in zip(sizes, multiples, strict=True)]
    padded = any(n % step for n, step in zip(extents, steps, strict=True))
    if padded:
        sch.pad_einsum(block, [1] * len(info.batch) + steps)
    return _split_last(sch, block, sizes), padded


def _split_last(sch: Schedule, block: BlockRV, sizes: Sequence[int]) -> LoopRV:
    """Split the last loops of a block, and bring the inner parts inside; the first of these."""
    loops = sch.get_loops(block)[-len(sizes) :]
    low: list[LoopRV] = []
    for loop, size in zip(reversed(loops), reversed(sizes), strict=True):
        low.insert(0, sch.split(loop, [None, size])[1])
    high = sch.get_loops(block)[-2 * len(sizes) :: 2]
    sch.reorder(*high[1:], *low)
    return low[0]


# ----------------------------------------------------------------------------- results
def _product(values: Sequence[ExprRV | int]) -> Expr:
    out: Expr = build.const(1)
    for k, v in enumerate(values):
        e = build.const(v) if isinstance(v, int) else v
        out = build.mul(out, e) if k else e
    return out


def _tiles_first(batch: int, tile: tuple[int, int], of_warp: Sequence[Expr]) -> IndexMap:
    """Rows and columns to: warp, tile of the warp, element of the tile."""
    at = [Var(f"i{k}") for k in range(batch + 2)]
    outer = [build.floordiv(v, build.const(n)) for v, n in zip(at[batch:], tile, strict=True)]
    final: list[Expr] = [
        *at[:batch],
        *[build.floordiv(x, n) for x, n in zip(outer, of_warp, strict=True)],
        *[build.floormod(x, n) for x, n in zip(outer, of_warp, strict=True)],
        *[build.floormod(v, build.const(n)) for v, n in zip(at[batch:], tile, strict=True)],
    ]
    return IndexMap(tuple(at), tuple(final))


# ----------------------------------------------------------------------------- copies
def _inline_producers(sch: Schedule, shared: BlockRV, copy: BlockRV) -> None:
    """Let a copy to shared memory take its elements from where they lie: through the copies that
    padding and reindex made."""
    last = sch.get(copy).key
    while True:
        (producer,) = sch.get_producers(shared)
        done = sch.get(producer).key is last
        sch.compute_inline(producer)
        if done:
            return
