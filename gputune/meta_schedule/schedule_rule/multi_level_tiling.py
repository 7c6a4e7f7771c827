"""How is a block with data reuse cut into tiles that stay in caches and registers?
MultiLevelTiling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ...errors import ScheduleError, UserError
from ...ir.affine import linear
from ...ir.build import const_int
from ...ir.dtypes import itemsize
from ...ir.index_map import IndexMap
from ...ir.nodes import BinOp, Block, BufferRegion, Expr, Var
from ...ir.walk import free_vars
from ...schedule.analysis import consumers
from ..analysis import (
    BUFFER_DIM_ALIGN,
    COOPERATIVE_FETCH,
    PIPELINE_STAGE,
    THREAD_EXTENT_HIGH,
    THREAD_EXTENT_LOW,
    TILING_STRUCTURE,
    WRITE_CACHE_LEVEL,
    annotation,
    is_root,
    is_write_cache,
    loop_kinds,
    loop_links,
    needs_multi_level_tiling,
)
from ..kinds import target_of
from .rule import ScheduleRule

if TYPE_CHECKING:
    from ...schedule import BlockRV, LoopRV, Schedule
    from ...schedule.handles import ExprRV
    from ..tune_context import TuneContext

Requirement: TypeAlias = Literal["no", "may", "must"]
Filter: TypeAlias = "Callable[[Schedule, BlockRV], bool]"

_VECTOR_BYTES = 16  # what one thread of a GPU moves at once
_SHORT = 16  # steps of a loop that has few tiles in any case


@dataclass(frozen=True)
class ReuseType:
    """Is a cache inserted, and where?

    Attributes:
        req: "no", "may" (with and without) or "must".
        levels: the tile levels (1 is the outermost) at whose last loop the cache is filled or
            emptied; one sketch for each.
        scope: the memory scope of the cache.
    """

    req: Requirement
    levels: Sequence[int]
    scope: str

    def __post_init__(self) -> None:
        if self.req not in ("no", "may", "must"):
            raise UserError(f"req is 'no', 'may' or 'must', got {self.req!r}", code="reuse")
        if self.req != "no" and (not self.levels or min(self.levels) < 1):
            raise UserError(
                f"levels are counted from 1, and there is at least one; got {list(self.levels)}",
                code="reuse",
            )


@dataclass(frozen=True)
class Tiled:
    """A schedule in the making: the loops of each tile level of a block, and their sampled
    extents (before loops of a level are fused)."""

    sch: Schedule
    block: BlockRV
    tiles: tuple[tuple[LoopRV, ...], ...]
    factors: tuple[tuple[ExprRV | int, ...], ...]

    def copy(self) -> Tiled:
        """The same loops in a copy of the schedule."""
        return replace(self, sch=self.sch.copy())


class MultiLevelTiling(ScheduleRule):
    """Tiles a block along a structure such as "SSRSRS", with caches for what it writes and reads.

    Args:
        structure: a letter for each tile level, outermost first: S splits all spatial loops, R all
            reduction loops.
        tile_binds: thread axes for the first levels, such as ["blockIdx.x", "threadIdx.x"].
        max_innermost_factor: of the sampled tiles; None: no limit.
        vector_load_lens: elements a thread may fetch at once; one is sampled for each read cache.
        reuse_read: read caches ("must" or "no"); None: none.
        reuse_write: write caches; None: none. A consumer that takes each element from the same
            place (an epilogue) serves as the write cache, so none is added.
        filter_fn: `(sch, block) -> bool`, instead of the built-in test for data reuse.
        must_divide: tiles are divisors of the loops (`sample_perfect_tile`). False samples those
            that need not divide (`sample_tile`), so that a prime extent has useful tiles too; None
            does so for loops of more than 16 steps with a prime factor above 7.
        ahead: how many steps the fetches of a read cache may run ahead of the arithmetic (see
            `lower.software_pipeline`), of which one is sampled: [0, 1] is double buffering or not.
            Empty: they do not.
        layouts: in which form is a read cache kept? False: each as its tensor is. True offers what
            else suits the threads of a GPU: operands that lie along the reduction, turned, so that
            what a thread takes for its elements is contiguous; their rows padded or not, by a
            decision; and no cache for operands whose every element belongs to one place of the
            result and what is around it. What a thread stores of a write cache goes in vectors.

    Raises:
        UserError: a setting makes no sense.
    """

    def __init__(
        self,
        structure: str,
        tile_binds: Sequence[str] | None = None,
        max_innermost_factor: int | None = None,
        vector_load_lens: Sequence[int] | None = None,
        reuse_read: ReuseType | Mapping[str, Any] | None = None,
        reuse_write: ReuseType | Mapping[str, Any] | None = None,
        filter_fn: Filter | None = None,
        must_divide: bool | None = True,
        ahead: Sequence[int] = (),
        layouts: bool = False,
    ) -> None:
        if not structure or not set(structure) <= {"S", "R"}:
            raise UserError(f"a tiling structure is made of S and R, got {structure!r}")
        self.structure = structure
        self.tile_binds = tuple(tile_binds or ())
        if any(c != "S" for c in structure[: len(self.tile_binds)]):
            raise UserError(
                f"{len(self.tile_binds)} thread axes for the structure {structure!r}: only leading "
                "spatial levels can be bound"
            )
        self.max_innermost_factor = max_innermost_factor
        self.vector_load_lens = tuple(vector_load_lens or ())
        self.reuse_read = _reuse(reuse_read, structure)
        self.reuse_write = _reuse(reuse_write, structure)
        if self.reuse_read is not None and self.reuse_read.req == "may":
            raise UserError("a read cache is inserted or not: req is 'must' or 'no'")
        self.filter_fn = filter_fn
        self.must_divide = must_divide
        self.ahead = tuple(ahead)
        if any(n < 0 for n in self.ahead):
            raise UserError(f"fetches run 0 or more steps ahead, got {list(self.ahead)}")
        self.layouts = layouts
        self.warp_size = 0
        self.max_threads = 0

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        target = target_of(context)
        if target is not None and target.kind == "cuda":
            self.warp_size = target.limits.warp
            self.max_threads = target.limits.threads_per_block

    def apply(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """The tilings of the block, or the schedule as it is."""
        if not self._is_wanted(sch, block):
            return [sch]
        return self._tilings(sch, block)

    def _is_wanted(self, sch: Schedule, block: BlockRV) -> bool:
        link = sch.block(block)
        if is_root(link):
            return False
        if self.filter_fn is not None:
            return self.filter_fn(sch, block)
        return needs_multi_level_tiling(sch, link)

    def _tilings(self, sch: Schedule, block: BlockRV) -> list[Schedule]:
        """All tilings of a block that is to be tiled."""
        sch.annotate(block, TILING_STRUCTURE, self.structure)
        tiled = self._tile(sch, block)
        return [t.sch for w in self._cache_writes(tiled) for t in self._cache_reads(w)]

    # ------------------------------------------------------------------ the loop nest
    def _tile(self, sch: Schedule, block: BlockRV) -> Tiled:
        levels = {c: [k for k, x in enumerate(self.structure) if x == c] for c in "SR"}
        nest = loop_links(sch.block(block))
        kinds = list(loop_kinds(nest).values())
        extents = [const_int(x.loop().extent) for x in nest]
        tiles: list[list[LoopRV]] = [[] for _ in self.structure]
        sizes: list[list[ExprRV | int]] = [[] for _ in self.structure]
        points = 1
        for loop, kind, extent in zip(sch.get_loops(block), kinds, extents, strict=True):
            if kind == "mixed" or extent is None or sch.get(loop).thread is not None:
                continue
            if kind == "spatial":
                points *= extent
            where = levels["S" if kind == "spatial" else "R"]
            if len(where) <= 1:
                if where:
                    tiles[where[0]].append(loop)
                continue
            for k, (part, n) in zip(where, self._split(sch, block, loop, len(where)), strict=True):
                tiles[k].append(part)
                sizes[k].append(n)
        sch.reorder(*[x for level in tiles for x in level])
        for k, axis in enumerate(self.tile_binds):
            fused = sch.fuse(*tiles[k])
            sch.bind(fused, axis)
            tiles[k] = [fused]
        if self.tile_binds and self.warp_size:
            low = self.warp_size if points > 2 * self.warp_size else 1
            sch.annotate(block, THREAD_EXTENT_LOW, low)
            sch.annotate(block, THREAD_EXTENT_HIGH, self.max_threads)
        return Tiled(sch, block, tuple(map(tuple, tiles)), tuple(map(tuple, sizes)))

    def _split(
        self, sch: Schedule, block: BlockRV, loop: LoopRV, n: int
    ) -> list[tuple[LoopRV, ExprRV | int]]:
        """Tiles of a loop of a block, the outermost first: each loop and its extent."""
        extent = int(const_int(sch.get(loop).extent) or 1)
        limit = self._limit(sch, block, loop) or extent
        divide = tiles_divide(extent, self.must_divide)
        sample = sch.sample_perfect_tile if divide else sch.sample_tile
        factors = sample(loop, n, limit)
        return list(zip(sch.split(loop, list(factors)), factors, strict=True))

    def _limit(self, sch: Schedule, block: BlockRV, loop: LoopRV) -> int | None:
        """Of the innermost tile of a loop; None: no limit."""
        return self.max_innermost_factor

    # ------------------------------------------------------------------ caches
    def _cache_writes(self, tiled: Tiled) -> list[Tiled]:
        reuse = self.reuse_write
        if reuse is None or reuse.req == "no":
            return [tiled]
        req, levels = reuse.req, list(reuse.levels)
        asked = annotation(tiled.sch.get(tiled.block), WRITE_CACHE_LEVEL)
        if asked is not None:
            req, levels = "must", [int(x) for x in asked]
        out: list[Tiled] = []
        if req == "may":
            out.append(tiled.copy())
            users = consumers(tiled.sch.block(tiled.block), tiled.sch)
            if len(users) == 1 and is_write_cache(users[0].block()):
                (epilogue,) = tiled.sch.get_consumers(tiled.block)
                return out + _moved(tiled, epilogue, levels)
        cache = tiled.sch.cache_write(tiled.block, 0, reuse.scope)
        if self.layouts:
            size = itemsize(tiled.sch.get(cache).writes[0].buffer.dtype)
            tiled.sch.annotate(cache, COOPERATIVE_FETCH, max(1, _VECTOR_BYTES // size))
        return out + _moved(tiled, cache, levels)

    def _cache_reads(self, tiled: Tiled) -> list[Tiled]:
        reuse = self.reuse_read
        if reuse is None or reuse.req == "no":
            return [tiled]
        plans = self._plans(tiled.sch.get(tiled.block))
        return [self._fetched(tiled.copy(), n, plan) for n in reuse.levels for plan in plans]

    def _plans(self, block: Block) -> list[dict[int, int | None]]:
        """Which reads are cached, and of each the dimension that is to be the last one in the cache
        (None: as it is)."""
        written = {w.buffer for w in block.writes}
        every = {k: r for k, r in enumerate(block.reads) if r.buffer not in written}
        out: list[dict[int, int | None]] = [dict.fromkeys(every)]
        if self.layouts:
            turned = {k: _to_be_last(block, r) for k, r in every.items()}
            if any(at is not None for at in turned.values()):
                out.append(turned)
            # what goes along the result, and is used for one place of it, needs no cache
            rest = {
                k for k, r in every.items()
                if _is_used_again(block, r) or along_sum(block, r) is not None
            }  # fmt: skip
            if 0 < len(rest) < len(every):
                out.append({k: None for k in every if k in rest})
        return out

    def _fetched(self, new: Tiled, level: int, plan: dict[int, int | None]) -> Tiled:
        """The read caches of a plan, filled at the last loop of a level."""
        sch, block, reuse = new.sch, new.block, self.reuse_read
        assert reuse is not None
        at = loop_of(new, level)
        for k, last in plan.items():
            read = sch.get(block).reads[k]
            pads = self.layouts and _to_be_last(sch.get(block), read) is not None
            copy = sch.cache_read(block, k, reuse.scope, [block])
            ndim = len(read.buffer.shape)
            if last is not None:
                sch.transform_layout(block, ("read", k), _with_last(last, ndim))
            sch.compute_at(copy, at, preserve_unit_loops=True)
            sch.fuse(*sch.get_loops(copy)[-ndim:])
            self._fetch_together(sch, copy, read.buffer.dtype)
            if pads and ndim > 1:
                _pad_rows(sch, copy, ndim, read.buffer.dtype)
        if self.ahead and plan:
            self._run_ahead(sch, at, len(plan))
        return new

    def _run_ahead(self, sch: Schedule, at: LoopRV, fetches: int) -> None:
        """Let so many fetches, the first statements of a loop, run ahead of the last one."""
        steps: ExprRV | int = self.ahead[0]
        if len(self.ahead) > 1:
            steps = sch.sample_categorical(
                list(self.ahead), [1 / len(self.ahead)] * len(self.ahead)
            )
        sch.annotate(at, PIPELINE_STAGE, [*[0] * fetches, steps])

    def _fetch_together(self, sch: Schedule, copy: BlockRV, dtype: str) -> None:
        """Sample how many elements each thread fetches at once."""
        lens = [n for n in self.vector_load_lens if _can_fetch(n, dtype)]
        if lens:
            n = sch.sample_categorical(lens, [1 / len(lens)] * len(lens))
            sch.annotate(copy, COOPERATIVE_FETCH, n)


def _reuse(value: ReuseType | Mapping[str, Any] | None, structure: str) -> ReuseType | None:
    if value is None:
        return None
    reuse = value if isinstance(value, ReuseType) else ReuseType(**value)
    if reuse.req != "no" and max(reuse.levels) > len(structure):
        raise UserError(
            f"level {max(reuse.levels)} is beyond the structure {structure!r}", code="reuse"
        )
    return reuse


def _can_fetch(n: int, dtype: str) -> bool:
    size = itemsize(dtype)
    return n * size <= _VECTOR_BYTES and (size != 2 or n == 1 or n % 2 == 0)


def tiles_divide(extent: int, must_divide: bool | None) -> bool:
    """Shall the tiles of a loop divide its extent? Where it is left open (None): do its divisors
    make tiles of about any size?"""
    if must_divide is not None:
        return must_divide
    if extent <= _SHORT:
        return True
    for p in (2, 3, 5, 7):
        while extent % p == 0:
            extent //= p
    return extent == 1


def along_sum(block: Block, read: BufferRegion) -> int | None:
    """Of an operand whose last dimension is that of a reduction: the last one of the others along
    which it goes with the result; None of other operands."""
    kinds = {iv.var: iv.kind for iv in block.iter_vars if const_int(iv.dom.extent) != 1}
    if not read.region or any(const_int(r.extent) != 1 for r in read.region):
        return None
    terms, _ = linear(read.region[-1].min)
    if not any(kinds.get(v) == "reduce" and n == 1 for v, n in terms.items() if type(v) is Var):
        return None
    for k in range(len(read.region) - 2, -1, -1):
        if any(kinds.get(v) == "spatial" for v in free_vars(read.region[k].min)):
            return k
    return None


def _to_be_last(block: Block, read: BufferRegion) -> int | None:
    """The dimension that neighbours in the result differ in, of an operand that lies along a
    reduction and is used for many places of the result."""
    return along_sum(block, read) if _is_used_again(block, read) else None


def _is_used_again(block: Block, read: BufferRegion) -> bool:
    """Do elements of the result that differ in some index alone use the same of a read? (Those of a
    group of channels do, whose index is that of the channel divided by the group's size.)"""
    atoms = [atom for r in read.region for atom in linear(r.min)[0]]
    used = {v for x in atoms if type(x) is not BinOp or x.op != "//" for v in free_vars(x)}
    return any(
        iv.kind == "spatial" and const_int(iv.dom.extent) != 1 and iv.var not in used
        for iv in block.iter_vars
    )


def _with_last(dimension: int, ndim: int) -> IndexMap:
    """Makes a dimension the last one."""

    def turned(*x: Expr) -> Sequence[Expr]:
        return [*x[:dimension], *x[dimension + 1 :], x[dimension]]

    return IndexMap.from_func(turned, ndim)


def _pad_rows(sch: Schedule, copy: BlockRV, ndim: int, dtype: str) -> None:
    """Rows of a cache begin at even multiples of what a thread accesses at once; where the decision
    is for padding at odd ones, so that threads that take the same place of several rows find them
    in different banks."""
    unit = max(1, _VECTOR_BYTES // itemsize(dtype))
    pad = sch.sample_categorical([0, unit], [0.5, 0.5])
    sch.annotate(copy, BUFFER_DIM_ALIGN, [[0, ndim - 2, 2 * unit, pad]])


def loop_of(tiled: Tiled, level: int) -> LoopRV:
    """The last loop of a level (of the nearest one outside that has loops)."""
    for loops in reversed(tiled.tiles[:level]):
        if loops:
            return loops[-1]
    raise ScheduleError("no loop at this level or outside it", code="tile-level")


def _moved(tiled: Tiled, consumer: BlockRV, levels: Sequence[int]) -> list[Tiled]:
    """A variant for each level, with the consumer under the level's last loop."""
    out: list[Tiled] = []
    for level in levels:
        new = tiled.copy()
        try:
            new.sch.reverse_compute_at(consumer, loop_of(new, level), preserve_unit_loops=True)
        except ScheduleError:  # such a consumer cannot move there: this variant does not exist
            continue
        out.append(new)
    return out
