"""What does the search know about a candidate before it is measured? One row of numbers.

The row has the same length and meaning for every program, so one model serves all tasks and shapes.
It is computed from the scheduled program (see sketch_layout.py): what the loops are, how much
memory is touched at which depth, how much of it is used again, how well vectors, registers and
cores are used. Loops of extent 1 leave no trace in it. Values are log2(1 + x).

    >>> layout, facts = describe(demo_schedule().mod)
    >>> row, score = features(layout, columns(facts), Machine())
    >>> row.shape == (1, FEATURE_COUNT)
    True

`score` is minus the log2 of the seconds that a simple model of the machine expects: it ranks
candidates before there is any measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from ..lower.zeros import GROWTH
from .gpu_layout import GpuLayout
from .gpu_machine import GpuMachine
from .gpu_model import GPU_COLUMNS, columns_used, gpu_features
from .index_spans import Span
from .raw_features import raw_features
from .sketch_layout import AccessFact, BlockFact, Layout, Part, describe, parts_of

if TYPE_CHECKING:
    from ..ir.nodes import IRModule
    from ..target import Target

Floats: TypeAlias = npt.NDArray[np.float64]
Features: TypeAlias = npt.NDArray[np.float32]

LINE, PAGE = 64, 4096
_ADD_LATENCY, _FORWARD_LATENCY = 4.0, 5.0  # cycles: of an addition; of a store and the load after
_MANY_BRANCHES = 96  # statements under conditions, beyond which they are no longer foreseen
_EDGES = 0.5  # what padding inlined in a sum costs a product: at edges they are ten times as dear
_PORTS = 5  # arithmetic, loads, stores, control, waiting for results
_FRICTION = 0.2  # share of what the less busy ports do that is not hidden
_WARM = 0.05  # share of a nest's data that has left a cache into which all of it fits
_SMALL_BODY, _LARGEST_BODY = 16.0, 400.0  # statements that are written out, see `lower.unroll`
_WINDOW, _INSTRUCTIONS = 400.0, 3.0  # instructions under way at once; of one step of a reduction
LEVELS = (12, 4, 4)  # loop levels that are told of the first, second and third block
ACCESSES = (4, 2, 2)  # accesses that are told of them
PER_LEVEL = 8
PER_ACCESS = 11
PER_BLOCK = 34
GLOBAL = 8


@dataclass(frozen=True, slots=True)
class Machine:
    """What the features and the first ranking need to know about a CPU, or a GPU.

    Attributes:
        cores: that parallel loops may use.
        vector_bytes: of a register.
        registers: vector registers.
        caches: bytes of L1, L2 and L3.
        bandwidth: bytes a cycle from L2, L3 and memory, of one core.
        gpu: the GPU; the rest is then of no importance. None: a CPU. (A program for a GPU is then
            looked at as if it were to run on an H100.)
    """

    cores: int = 1
    vector_bytes: int = 32
    registers: int = 16
    caches: tuple[float, float, float] = (32e3, 1e6, 32e6)
    bandwidth: tuple[float, float, float] = (48.0, 16.0, 6.0)
    gpu: GpuMachine | None = None

    @staticmethod
    def of(target: Target | None) -> Machine:
        """The machine of a target (None: a common CPU).

        Raises:
            TargetError: a cuda target of an architecture that is not known.
        """
        if target is None:
            return Machine()
        if target.kind == "cuda":
            return Machine(gpu=GpuMachine.of(target))
        return Machine(
            target.num_cores,
            target.vector_bytes,
            target.num_vector_registers,
            target.cache_bytes,
        )


def columns(facts: Sequence[int], count: int = 1) -> Floats:
    """Facts of one candidate as the array (facts, count) that `features` takes."""
    out = np.empty((len(facts), count))
    out[:] = np.array([int(x) for x in facts], np.float64)[:, None]
    return out


CPU_COUNT = GLOBAL + sum(
    PER_BLOCK + PER_LEVEL * n + PER_ACCESS * m for n, m in zip(LEVELS, ACCESSES)
)
"""Columns about CPUs; those about GPUs, `gpu_model.GPU_COLUMNS`, follow."""

FEATURE_COUNT = CPU_COUNT + len(GPU_COLUMNS)


_TOLD = [PER_BLOCK + PER_LEVEL * n + PER_ACCESS * m for n, m in zip(LEVELS, ACCESSES)]
_STARTS = [GLOBAL + sum(_TOLD[:k]) for k in range(len(_TOLD))]


class Rows:
    """The features of some candidates (zeros at first) while they are put together, part by part.

    Parts are added in the order of the layout, each for the candidates that have it: what is the
    same in many structures is computed for all of them together.
    """

    def __init__(self, features: Features, machine: Machine) -> None:
        self.features = features
        self.machine = machine
        self._sums = np.zeros((len(features), GLOBAL))
        self._pool = np.zeros((len(features), _PORTS + 1))  # of what overlaps; and the rest
        self._waits = np.zeros((len(features), 3))

    def add(self, slot: int, part: Part, facts: Floats, at: npt.NDArray[np.int64]) -> None:
        """The part in place `slot` of the layout, for the candidates at `at`."""
        if isinstance(part, GpuLayout):
            self._add_gpu(part, facts, at)
            return
        nest = _Nest(part, facts, self.machine)
        sums = self._sums
        sums[at, 0] += 1.0
        sums[at, 1] += nest.flops
        sums[at, 2] += nest.traffic[0]
        sums[at, 3] += nest.traffic[1]
        self._pool[at, :_PORTS] += (nest.mixed * nest.ports).T
        self._pool[at, _PORTS] += nest.alone
        self._waits[at] += nest.waits.T
        if slot < len(LEVELS):
            told = np.zeros((_TOLD[slot], nest.count))
            nest.tell(told, 0, LEVELS[slot], ACCESSES[slot])
            start = _STARTS[slot]
            columns = slice(start, start + _TOLD[slot])
            self.features[at, columns] = np.log2(told + 1.0).T
        else:
            sums[at, 4] += nest.trips
            sums[at, 5] += nest.flops
            sums[at, 6] += nest.cycles

    def _add_gpu(self, layout: GpuLayout, facts: Floats, at: npt.NDArray[np.int64]) -> None:
        """A program for a GPU: the columns of a CPU are zeros, but for sums over the program."""
        out = np.zeros((len(GPU_COLUMNS), facts.shape[1]))
        machine = self.machine.gpu or GpuMachine.named("sm_90")
        seconds, flops = gpu_features(layout, facts, machine, out)
        used = columns_used(layout)  # the rest are zeros
        self.features[at, CPU_COUNT : CPU_COUNT + used] = np.log2(out[:used] + 1.0).T
        self._sums[at, 1] = flops
        self._sums[at, 7] = seconds * 1e9

    def finish(self, at: npt.NDArray[np.int64]) -> Floats:
        """Fill in what is about all blocks of the candidates at `at`; their scores."""
        ports, rest = self._pool[at, :_PORTS], self._pool[at, _PORTS]
        core = rest + _together(*ports.T)
        waits = self._waits[at]
        caches = np.maximum(waits[:, 0], waits[:, 1])
        self._sums[at, 7] += np.maximum(_together(core, caches), waits[:, 2])
        sums = np.log2(self._sums[at] + 1.0)
        self.features[at, :GLOBAL] = sums
        return -sums[:, 7]


def features(layout: Layout, facts: Floats, machine: Machine) -> tuple[Features, Floats]:
    """The rows, (candidates, FEATURE_COUNT) float32, and the score of each candidate.

    Args:
        layout: the structure that the candidates share.
        facts: (facts, candidates), in the order of `describe`.
        machine: what they will run on.
    """
    rows = Rows(np.zeros((facts.shape[1], FEATURE_COUNT), np.float32), machine)
    everyone = np.arange(facts.shape[1])
    for slot, (part, places) in enumerate(parts_of(layout, len(facts))):
        rows.add(slot, part, facts[list(places)], everyone)
    return rows.features, rows.finish(everyone)


def features_of(mod: IRModule, machine: Machine) -> tuple[Features, float]:
    """The row of one scheduled program, (FEATURE_COUNT,), and its score."""
    raw = raw_features(mod, FEATURE_COUNT, CPU_COUNT, machine.gpu)
    if raw is not None:
        return raw
    layout, facts = describe(mod)
    rows, score = features(layout, columns(facts), machine)
    return rows[0], float(score[0])


def _together(*parts: Floats) -> Floats:
    """Cycles of parts of the work that run side by side, but not quite."""
    most: Floats = np.maximum.reduce(parts)
    return most + _FRICTION * (sum(parts, np.zeros_like(most)) - most)


def _has_steps(s: Span) -> bool:
    """Does an index leave values out?"""
    if s[0] == "sum":
        return any(_has_steps(x) for x in s[1])
    return s[0] == "scale"


def _places(step: Floats) -> Floats:
    """At how many places of the first cache lines can begin that are multiples of `step` bytes
    apart: a page is as many bytes as one way of it has."""
    whole = np.maximum(step, 1.0).astype(np.int64)
    places: Floats = PAGE / np.gcd(whole, PAGE)
    return np.minimum(places, PAGE / LINE)


class _Nest:
    """A leaf block under its loops, for all candidates at once.

    Arrays over depths have shape (loops + 1, candidates): entry d is about the loops from d inward,
    so entry 0 is about all of them and the last one about a single instance.
    """

    def __init__(self, block: BlockFact, facts: Floats, machine: Machine) -> None:
        self.block = block
        self.facts = facts
        self.machine = machine
        self.count = facts.shape[1]
        self.everyone = np.arange(self.count)
        loops = block.loops
        n = self.depth = len(loops)
        self.extent = np.ones((max(n, 1), self.count))
        for k, f in enumerate(loops):
            self.extent[k] = facts[f.extent]
        self._spans: dict[Span, Floats] = {}
        self.whole = self.extent
        self._straight_code()
        if block.residues:
            self.extent = self._without_zeros()
        self.inside = np.ones((n + 1, self.count))  # trips of the loops from d inward
        for d in range(n - 1, -1, -1):
            np.multiply(self.inside[d + 1], self.extent[d], out=self.inside[d])
        self.trips = self.inside[0]
        self.flops = self.trips * (block.flops + 8.0 * block.calls)
        self._stepped: dict[int, tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]] = {}
        self.memory = [self._footprint(a) for a in block.accesses]
        one = np.zeros((n + 1, self.count))
        self.bytes = sum((m[0] for m in self.memory), one)
        self.lines = sum((m[1] for m in self.memory), one)
        self.pages = sum((m[2] for m in self.memory), one)
        self._kinds()
        self._order()
        self._registers()
        self._caches()
        self._cycles()

    def _straight_code(self) -> None:
        """Vectors, and from which loop on all is one piece of straight code, as `lower.unroll`
        decides it."""
        block = self.block
        self.vector = np.ones(self.count)
        for k, f in enumerate(block.loops):
            if f.kind == 2:
                self.vector = self.vector * self.extent[k]
        self.lanes = float(max([1, *(self.machine.vector_bytes // a.size for a in self._wide())]))
        # instructions that one vector loop takes, for each of its iterations
        self.per_lane = np.ceil(self.vector / self.lanes) / self.vector
        self.step = np.zeros(self.count) if block.unroll < 0 else self.facts[block.unroll]
        limit = np.clip(self.step, _SMALL_BODY, _LARGEST_BODY)
        self.parallel_depth = max(
            (k + 1 for k, f in enumerate(block.loops) if f.kind >= 3), default=0
        )
        outer = max(self.parallel_depth, block.shared)  # loops that are hardly written out
        body = np.full(self.count, outer)
        size = self.per_lane
        self.written = np.maximum(size, 1.0)
        for d in range(self.depth - 1, outer - 1, -1):
            size = size * self.extent[d]
            fits = size <= limit
            self.written = np.where(fits, np.maximum(size, 1.0), self.written)
            body = np.where(fits, body, np.maximum(body, d + 1))
        self.body = body

    def _without_zeros(self) -> Floats:
        """How many iterations of the loops add more than zero: where a remainder decides, and the
        loops that it depends on are written out (in groups, if that does not become too much: see
        `lower.zeros`), the innermost of them has fewer."""
        out = self.extent.copy()
        products = self.written
        tile, sums = self.per_lane * np.ones(self.count), np.zeros(self.count, bool)
        for d, f in enumerate(self.block.loops):
            inside = (d >= self.body) & (self.extent[d] > 1)
            tile *= np.where(inside & (not f.reduces), self.extent[d], 1.0)
            sums |= inside & f.reduces
        kept = sums | (tile <= self.machine.registers - 4)
        copies = np.where(kept, 2.0 * tile, 0.0)  # accumulators are fetched and put back
        room = np.maximum(_LARGEST_BODY, products + copies)
        growth = np.ones(self.count)
        for span, modulus in self.block.residues:
            apart: dict[int, Floats] = {}  # of iterations of loops that have the same remainder
            known = np.ones(self.count, bool)
            more = growth.copy()
            for part, step in self._terms(span).items():
                takes = self.extent[part[1]] if part[0] == "loop" else self._span(part)[0]
                goes_on = np.where(takes > 1, modulus / np.gcd(step.astype(np.int64), modulus), 1.0)
                if part[0] == "loop" and self.block.loops[part[1]].kind < 2:
                    apart[part[1]] = goes_on
                    more *= np.where(part[1] < self.body, goes_on, 1.0)
                else:  # such as the lanes of a vector, or a tile of a fused loop: any
                    known &= goes_on == 1
            share = np.maximum.reduce([np.ones(self.count), *apart.values()])
            known &= (more <= GROWTH) & ((products / share + copies) * more <= room)
            growth = np.where(known, more, growth)
            products = np.where(known, products / share, products)
            for d in sorted(apart, reverse=True):
                out[d] /= np.where(known, np.minimum(apart[d], out[d]), 1.0)
                known &= apart[d] == 1
        return out

    def _terms(self, s: Span) -> dict[Span, Floats]:
        """By how much each loop, or what else is not a sum, changes an index."""
        if s[0] == "point":
            return {}
        if s[0] == "scale":
            return {x: c * self.facts[s[2]] for x, c in self._terms(s[1]).items()}
        if s[0] != "sum":
            return {s: np.ones(self.count)}
        out: dict[Span, Floats] = {}
        for part in s[1]:
            for x, c in self._terms(part).items():
                out[x] = out.get(x, np.zeros(self.count)) + c
        return out

    # ------------------------------------------------------------------ what is touched
    def _span(self, s: Span) -> Floats:
        """How many values an index takes while the loops from d inward run."""
        found = self._spans.get(s)
        if found is None:
            found = self._spans[s] = self._new_span(s)
        return found

    def _new_span(self, s: Span) -> Floats:
        out: Floats = np.ones((self.depth + 1, self.count))
        if s[0] == "loop":
            out[: s[1] + 1] = self.whole[s[1]]
        elif s[0] == "sum":
            for x in s[1]:
                out += self._span(x)
            out -= len(s[1])
        elif s[0] == "scale":
            out += np.abs(self.facts[s[2]]) * (self._span(s[1]) - 1.0)
        elif s[0] == "div":
            out += np.floor((self._span(s[1]) - 1.0) / np.maximum(self.facts[s[2]], 1.0))
        elif s[0] == "mod":
            np.minimum(self._span(s[1]), np.maximum(self.facts[s[2]], 1.0), out=out)
        return out

    def _footprint(self, a: AccessFact) -> tuple[Floats, Floats, Floats, Floats]:
        """Bytes, cache lines and pages of one access while the loops from d inward run; and the
        bytes of the first cache that it takes up: lines that are multiples of a page apart share a
        few of its places."""
        one = np.ones((self.depth + 1, self.count))
        if not a.spans:
            return one * a.size, one, one, one * LINE
        taken = [self._clipped(s, n) for s, n in zip(a.spans, a.shape)]
        if a.packed:  # nothing lies between what is touched
            size = one * a.size
            for e in taken:
                size *= e
            size[: a.home] = size[min(a.home, self.depth)]
            lines = np.ceil(size / LINE)
            return size, lines, np.ceil(size / PAGE), lines * LINE
        run = taken[-1] * a.size  # bytes next to each other
        whole = self.facts[a.shape[-1]]
        step = whole * a.size  # from one run to the next
        runs = spread = one  # all; those that begin at different places of the first cache
        joined = taken[-1] >= whole  # are the dimensions so far touched whole?
        reach, apart = run, one  # bytes from the first to the last that are near; such groups
        for e, n in zip(taken[-2::-1], a.shape[-2::-1]):
            far = np.where(joined, 1.0, e)
            run = np.where(joined, run * e, run)
            runs = runs * far
            spread = spread * np.minimum(far, _places(step))
            near = step < PAGE
            reach = np.where(near | joined, (e - 1.0) * step + reach, reach)
            apart = np.where(near | joined, apart, apart * e)
            whole = self.facts[n]
            joined = joined & (e >= whole)
            step = step * whole
        size = run * runs
        each = np.ceil(run / LINE)
        lines = runs * each
        pages = apart * np.ceil(reach / PAGE)
        places = np.minimum(spread * each, PAGE / LINE)
        return (
            size,
            lines,
            pages,
            np.maximum(lines / places * PAGE * (lines > places), lines * LINE),
        )

    def _elements(self, k: int) -> Floats:
        """How many elements access `k` names while the loops from d inward run: not what lies
        between the places of a window that goes on in steps."""
        a = self.block.accesses[k]
        out: Floats = self.memory[k][0] / a.size
        for s, n in zip(a.spans, a.shape):
            if _has_steps(s):
                out = out * np.minimum(self._values(s) / self._clipped(s, n), 1.0)
        return out

    def _values(self, s: Span) -> Floats:
        """At most so many values has an index while the loops from d inward run."""
        if s[0] == "scale":
            return self._values(s[1])
        if s[0] == "sum":
            out: Floats = np.ones((self.depth + 1, self.count))
            for x in s[1]:
                out = out * self._values(x)
            return np.minimum(out, self._span(s))
        return self._span(s)

    def _clipped(self, s: Span, shape: int) -> Floats:
        if s[0] == "all":
            return np.broadcast_to(self.facts[shape], (self.depth + 1, self.count))
        if s[0] == "point":
            return np.ones((self.depth + 1, self.count))
        out: Floats = np.minimum(self._span(s), self.facts[shape])
        return out

    # ------------------------------------------------------------------ loops
    def _kinds(self) -> None:
        """Parallel loops, what is unrolled."""
        self.parallel = np.ones(self.count)
        self.regions = np.ones(self.count)  # how often a parallel region is entered
        outer = np.ones(self.count)
        for k, f in enumerate(self.block.loops):
            if f.kind >= 3:
                self.regions = outer
                self.parallel = self.parallel * self.extent[k]
            outer = outer * self.extent[k]
        cores = float(self.machine.cores)
        share = self.parallel / cores
        self.balance = share / np.ceil(share)  # 1: all cores work all the time
        self.unrolled = np.max(
            np.where(self.inside <= np.maximum(self.step, self.vector), self.inside, 1.0), axis=0
        )

    def _order(self) -> None:
        """The loops that do something, innermost first: row k of `place` is the depth of the k-th;
        beyond the last one it is 0."""
        n = max(LEVELS)
        self.place = np.zeros((n, self.count), np.int64)
        self.real = np.zeros((n, self.count), bool)
        seen = np.zeros(self.count, np.int64)
        for d in range(self.depth - 1, -1, -1):
            works = (self.extent[d] > 1) & (seen < n)
            if works.all() and (seen == seen[0]).all():
                self.place[seen[0]] = d
                self.real[seen[0]] = True
            else:
                at = self.everyone[works]
                self.place[seen[at], at] = d
                self.real[seen[at], at] = True
            seen = seen + works

    def _registers(self) -> None:
        """The tile inside the innermost reduction loop, as registers see it."""
        tile = np.ones(self.count)  # instances inside
        depth = np.full(self.count, self.depth)
        closed = np.zeros(self.count, bool)
        ended = np.zeros(self.count, bool)
        self.reduction = np.ones(self.count)
        self.inner_reduction = np.ones(self.count)  # of loops with no other between them
        for d in range(self.depth - 1, -1, -1):
            e = self.extent[d]
            if self.block.loops[d].reduces:
                np.multiply(self.inner_reduction, e, out=self.inner_reduction, where=~ended)
                closed = closed | (e > 1)
                self.reduction = self.reduction * e
            else:
                ended |= closed & (e > 1)
                tile = np.where(closed, tile, tile * e)
                depth = np.where(closed, depth, d)
        self.tile = tile
        self.tile_depth = depth
        self.tile_vectors = tile * self.per_lane

    def _wide(self) -> list[AccessFact]:
        return [a for a in self.block.accesses if a.writes] or list(self.block.accesses)

    def _at(self, depths: Floats, d: npt.NDArray[np.int64]) -> Floats:
        """One entry a candidate of an array over depths."""
        out: Floats = depths[d, self.everyone]
        return out

    def _caches(self) -> None:
        """Bytes that each cache must be given. From the outermost nest that fits in it on outward,
        one more loop finds there what its last iteration left; further out nothing is left."""
        self.traffic = []
        self.fetched = []  # the same, but what fits whole is there since the last call
        everything = self.lines * LINE
        for k, size in enumerate(self.machine.caches):
            taken = everything if k else sum((m[3] for m in self.memory), np.zeros_like(everything))
            total = everything
            for a, (_, lines, _, _) in zip(self.block.accesses, self.memory):
                if a.again >= 0:  # another block has just fetched it
                    total = total - np.where(taken[a.again] <= size, lines * LINE, 0.0)
            d = np.minimum((taken > size).sum(axis=0), self.depth)
            whole = d == 0
            d = np.maximum(d - 1, 0)
            often = self.trips / self._at(self.inside, d)
            self.traffic.append(often * self._at(total, d))
            self.fetched.append(self.traffic[-1] * np.where(whole, _WARM, 1.0))

    # ------------------------------------------------------------------ how long it may take
    def _bodies(self) -> None:
        """Which accumulators stay in registers through which reduction loops, as `lower.registers`
        decides it."""
        n, block = self.depth, self.block
        parallel = self.parallel_depth
        self.statements = np.maximum(self._at(self.inside, self.body) * self.per_lane, 1.0)
        self.around = np.zeros(self.count, np.int64)  # depth of the innermost loop left
        start = self.body  # of loops that reduce, or are written out
        going = np.ones(self.count, bool)
        for d in range(int(self.body.max()) - 1, parallel - 1, -1):
            left = (d < self.body) & (self.extent[d] > 1)
            self.around = np.where(left & (self.around == 0), d, self.around)
            if not block.loops[d].reduces:
                going &= ~left
            start = np.where(going & (d < self.body), d, start)
            if not going.any() and self.around.all():
                break
        store = next((k for k, a in enumerate(block.accesses) if a.writes and a.reads), None)
        self.carried = np.full(self.count, n)  # the outermost loop that they stay through
        self.cells = np.ones(self.count)  # accumulators, in vectors
        self.kept = np.zeros(self.count, bool)
        if store is None:
            return
        a = block.accesses[store]
        cells = np.maximum(self.memory[store][0] / a.size * self._per_element(store), 1.0)
        for d in range(n - 1, -1, -1):
            if block.loops[d].reduces:
                fits = (
                    (self.extent[d] > 1) & (d >= start) & (cells[d] <= self.machine.registers - 4)
                )
                self.carried = np.where(fits, d, self.carried)
                self.cells = np.where(fits, cells[d], self.cells)
                self.kept |= fits

    def _cycles(self) -> None:
        block, machine = self.block, self.machine
        self._bodies()
        passes = self.trips / self.tile
        instances = self.trips * self.per_lane
        work = max(0.5 * block.flops, 0.5) + block.costs
        arithmetic = instances * work
        loads = np.zeros(self.count)
        stores = np.zeros(self.count)
        bodies = instances / self.statements
        last = max(self.depth - 1, 0)
        again = np.maximum(self._at(self.extent, np.minimum(self.around, last)), 1.0)
        rounds = self.trips / self._at(self.inside, self.carried)
        full = self._full()
        for k, a in enumerate(block.accesses):
            one = self._per_element(k)
            if a.reads and a.writes:  # an accumulator
                moved = np.where(self.kept, rounds * self.cells, self.trips * one)
                loads = loads + moved
                stores = stores + moved
                continue
            size = self._elements(k)
            each = self._at(size, self.tile_depth) * one
            moved = passes * each
            if a.writes:
                stores = stores + moved
                continue
            held = np.maximum(self._at(size, self.body) * one, 1.0)
            still = self._at(size, self.around) == self._at(size, self.body)
            vectors = one < 1.0
            fit = self.cells + held <= machine.registers
            once = bodies * held / np.where(still, again, 1.0)
            # what does not change in the loop around is fetched before it: if there are not enough
            # registers, each use fetches it from the stack
            crowded = still & vectors & ~fit & (again > 1)
            moved = np.where(fit, np.minimum(moved, once), np.where(crowded, instances, moved))
            loads = loads + np.where(full & ~vectors, instances, moved)
        overhead = bodies
        if block.guarded:
            overhead = overhead + instances
        if block.choices:
            # sums ask once for a tile, and again at the edges (see `lower.interior`)
            each_takes = np.where(self.statements > _MANY_BRANCHES, 4.0, 1.0)
            each_takes = np.where(self.kept, _EDGES, each_takes)
            overhead = overhead + instances * block.choices * each_takes
        cores = np.where(
            self.parallel > 1, np.minimum(self.parallel, machine.cores) * self.balance, 1.0
        )
        cores = np.maximum(cores, 1.0)
        shared = np.where(self.parallel > 1, np.minimum(float(machine.cores), 4.0), 1.0)
        launch = np.where(self.parallel > 1, 2000.0, 0.0) * self.regions * (machine.cores > 1)
        self.ports = (
            np.stack([arithmetic / 2.0, loads / 2.0, stores, overhead, self._waiting()]) / cores
        )
        core = _together(*self.ports)
        slow = [t / b for t, b in zip(self.fetched, machine.bandwidth)]
        self.waits = np.stack([slow[0] / cores, slow[1] / cores, slow[2] / shared])
        caches = np.maximum(self.waits[0], self.waits[1])
        self.cycles = np.maximum(_together(core, caches), self.waits[2]) + launch
        # blocks that take turns within the processor's window run side by side
        turn = self.inside[self.block.shared] * self.per_lane * _INSTRUCTIONS
        self.mixed = np.minimum(_WINDOW / np.maximum(turn, 1.0), 1.0)
        self.alone = (1.0 - self.mixed) * core + launch

    def _full(self) -> npt.NDArray[np.bool_]:
        """Are there too few registers beside the accumulators for one step of a reduction? It needs
        all vectors of one operand, and of the other one at a time; otherwise each use of an element
        that all lanes share fetches it."""
        vectors, elements = np.zeros(self.count), np.zeros(self.count)
        for k, a in enumerate(self.block.accesses):
            if a.reads and not a.writes:
                one = self._per_element(k)
                each = self._at(self._elements(k), self.tile_depth) * one
                vectors = vectors + np.where(one < 1.0, each, 0.0)
                elements = elements + np.where(one < 1.0, 0.0, each)
        needed = self.cells + np.minimum(vectors, elements) + 1.0
        found: npt.NDArray[np.bool_] = self.kept & (needed > self.machine.registers)
        return found

    def _waiting(self) -> Floats:
        """Cycles that pass because each addition to an accumulator waits for the one before it.
        What is within reach of the processor's window goes on meanwhile."""
        if not any(a.reads and a.writes for a in self.block.accesses):
            return np.zeros(self.count)
        inside = self._at(self.inside, self.carried)
        steps = inside * self.per_lane / self.cells  # in a row, of each of them
        steps = np.where(self.kept, np.maximum(steps, 1.0), self.inner_reduction)
        cells = np.where(self.kept, self.cells, np.maximum(self.tile_vectors, 1.0))
        latency = np.where(self.kept, _ADD_LATENCY, _ADD_LATENCY + _FORWARD_LATENCY)
        alone = np.minimum(steps * cells * _INSTRUCTIONS / _WINDOW, 1.0)
        return np.where(steps > 1, self.trips * self.per_lane / cells * latency * alone, 0.0)

    def _per_element(self, k: int) -> Floats:
        """Instructions that one element of access `k` costs: a share of a vector, or its own."""
        a = self.block.accesses[k]
        if self.depth == 0 or not a.spans:
            return np.ones(self.count)
        along, across = self._steps(k)
        # neighbours along the vector: one instruction for all lanes; the same element: one each
        return np.where(along & ~across, self.per_lane, 1.0)

    def _steps(self, k: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Does the innermost loop that does something go from one element to the next; does it go
        further, too?"""
        found = self._stepped.get(k)
        if found is not None:
            return found
        a = self.block.accesses[k]
        d = self.place[0]
        extent = self._at(self.whole, d)
        along = np.zeros(self.count, bool)
        across = np.zeros(self.count, bool)
        step = np.ones(self.count)
        for s, n in zip(reversed(a.spans), reversed(a.shape)):
            e = self._at(self._clipped(s, n), d)
            along |= (step == 1.0) & (e == extent)
            across |= (step != 1.0) & (e > 1)
            step = step * self.facts[n]
        found = self._stepped[k] = along & (extent > 1), across
        return found

    # ------------------------------------------------------------------ the row
    def tell(self, out: Floats, at: int, levels: int, accesses: int) -> None:
        """Write this block's features into rows `at` and following of (features, candidates)."""
        out[at] = 1.0
        values: list[Floats | float] = [
            self.trips,
            self.flops,
            self.vector,
            self.per_lane * self.lanes,
            self.parallel,
            self.balance,
            self.regions,
            self.step,
            self.unrolled,
            self.tile,
            self.tile_vectors,
            self.tile_vectors / self.machine.registers,
            self.reduction,
            self.inner_reduction,
            *self.traffic,
            self.flops / np.maximum(self.traffic[0], 1.0),
            self.flops / np.maximum(self.traffic[1], 1.0),
            self.flops / np.maximum(self.traffic[2], 1.0),
            self.bytes[0],
            self.lines[0],
            self.cycles,
            float(self.block.guarded),
            float(self.block.choices),
            self.statements,
            self.cells,
            self.kept.astype(np.float64),
            *self.ports,
        ]
        assert len(values) == PER_BLOCK - 1
        for k, v in enumerate(values):
            out[at + 1 + k] = v
        at += PER_BLOCK
        self._tell_levels(out, at, levels)
        self._tell_accesses(out, at + PER_LEVEL * levels, accesses)

    def _tell_levels(self, out: Floats, at: int, levels: int) -> None:
        kinds = np.array([[f.kind, f.reduces] for f in self.block.loops] or [[0, 0]], np.float64)
        d = self.place[:levels]
        real = self.real[:levels]
        each = self.everyone[None]
        gathered = [
            np.where(real, self.extent[d, each], 1.0),
            np.where(real, kinds[d, 0], 0.0),
            np.where(real, kinds[d, 1], 0.0),
            self.inside[d, each],
            self.bytes[d, each],
            self.lines[d, each],
            self.pages[d, each],
        ]
        gathered.append(gathered[3] / gathered[5])  # instances for each line
        for k, v in enumerate(gathered):
            out[at + k * levels : at + (k + 1) * levels] = v

    def _tell_accesses(self, out: Floats, at: int, accesses: int) -> None:
        # the most demanding first, by structure: stores, then loads in order of appearance
        order = sorted(range(len(self.memory)), key=lambda k: not self.block.accesses[k].writes)
        for slot, k in enumerate(order[:accesses]):
            a = self.block.accesses[k]
            size, lines, pages, _ = self.memory[k]
            base = at + slot * PER_ACCESS
            along, across = (
                self._steps(k) if self.depth and a.spans else (np.zeros(1, bool), np.zeros(1, bool))
            )
            values = [
                np.asarray(along, np.float64),
                np.asarray(across, np.float64),
                self._at(lines, self.tile_depth),
                self._at(lines, self.place[0]),
                self._at(lines, self.place[1]),
                self._at(lines, self.place[2]),
                self._at(pages, self.place[3]),
                self.trips * a.size / size[0],
                lines[0],
                pages[0],
                np.full(1, 1.0 + a.writes + 2.0 * a.packed),
            ]
            for j, v in enumerate(values):
                out[base + j] = v
