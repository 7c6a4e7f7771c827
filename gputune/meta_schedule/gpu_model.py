"""What does the search know about a GPU candidate before it is measured? Its columns, its seconds.

Everything is computed from a `GpuLayout` and facts, (facts, candidates), for all candidates at
once: what a thread executes, what a warp asks of the memories, how blocks fill the GPU, and from
that the time at which each part of the machine would be done. `GPU_COLUMNS` names the columns;
values become log2(1 + x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..lower.lanes import AT_ONCE
from .gpu_layout import GpuAccess, GpuBlock, GpuKernel, GpuLayout
from .gpu_machine import GpuMachine, Launch, launch_of, most_registers
from .gpu_warps import SECTOR, WarpAccess, warp_access
from .span_values import Spans

Floats = npt.NDArray[np.float64]

PROGRAM = ("kernels", "nanoseconds", "flops", "dram_bytes", "l2_bytes", "rest_nanoseconds")
LAUNCH = (
    "threads", "warps", "full_lanes", "blocks", "shared_bytes", "registers", "resident_blocks",
    "occupancy", "resident_warps", "waves", "rounds", "tail", "busy_multiprocessors",
)  # fmt: skip
WORK = (
    "spilled", "vthreads", "barriers", "crossing", "unrolled", "tile", "flops", "instructions",
    "dram_bytes", "l2_bytes", "l1_passes", "shared_passes", "flops_per_dram_byte",
    "flops_per_l2_byte", "flops_per_shared_pass", "flops_per_memory_instruction", "dram_ns",
    "l2_ns", "issue_ns", "arithmetic_ns", "shared_ns", "l1_ns", "latency_ns", "nanoseconds",
)  # fmt: skip
GLOBAL_ACCESS = (
    "kind", "width_bytes", "sectors", "coalesced", "requests", "l2_bytes", "dram_bytes", "reuse",
)  # fmt: skip
SHARED_ACCESS = ("kind", "width_bytes", "passes", "conflicts", "requests", "reuse")
SLOTS = ((4, 4), (2, 1))  # global and shared accesses told of the first kernels


def _names() -> tuple[str, ...]:
    out = [f"program.{x}" for x in PROGRAM]
    for k, (far, near) in enumerate(SLOTS):
        out += [f"kernel{k}.{x}" for x in ("present", *LAUNCH, *WORK)]
        out += [f"kernel{k}.global{j}.{x}" for j in range(far) for x in GLOBAL_ACCESS]
        out += [f"kernel{k}.shared{j}.{x}" for j in range(near) for x in SHARED_ACCESS]
    return tuple(out)


GPU_COLUMNS = _names()
"""What the columns of a GPU program are, in order."""
_AT = {name: k for k, name in enumerate(GPU_COLUMNS)}

LAUNCH_SECONDS = 2.5e-6
"""From the end of one kernel to the beginning of the next."""
_AUTO_UNROLL = 64.0  # instances that the compiler writes out by itself
_BASE_REGISTERS = 26.0  # addresses, indices, what the compiler needs
_OPERANDS = 16.0  # registers that hold what was loaded for the next steps
_CALL = 10.0  # instructions of a transcendental function
_ACCESS = 2.0  # instructions of an access, with some of what computes its address
_LATENCY = 600.0  # cycles until data comes from memory
_BARRIER = 40.0  # cycles
_HIDING = 16.0  # warps with which arithmetic does not wait for itself
_DEEP = 8.0  # loads of a thread under way at once
_INSTRUCTION = 16.0  # bytes
_CODE, _SLOWEST_CODE = 128.0 * 1024, 3.0  # bytes of code that a multiprocessor keeps; else slower
_NEVER = 1.0  # seconds: what cannot run


def column(name: str) -> int:
    """The place of a column among `GPU_COLUMNS`, such as "kernel0.occupancy"."""
    return _AT[name]


def columns_used(layout: GpuLayout) -> int:
    """How many of the columns may be other than zero, from the first on."""
    n = len(layout.kernels)
    return column(f"kernel{n}.present") if n < len(SLOTS) else len(GPU_COLUMNS)


def gpu_features(
    layout: GpuLayout, facts: Floats, machine: GpuMachine, out: Floats
) -> tuple[Floats, Floats]:
    """Fill the columns of a GPU program.

    Args:
        layout: the structure that the candidates share.
        facts: (facts, candidates).
        machine: what they will run on.
        out: (GPU_COLUMNS, candidates), zeros; holds the columns afterwards, before the logarithm.

    Returns:
        The seconds expected of each candidate, and its floating-point operations.
    """
    count = facts.shape[1]
    kernels = [
        _Kernel(k, facts, machine, near) for k, near in zip(layout.kernels, _passed_on(layout))
    ]
    zero = np.zeros(count)
    seconds, flops = zero + LAUNCH_SECONDS * len(kernels), zero
    dram, l2, rest = zero, zero, zero
    for k, kernel in enumerate(kernels):
        if k < len(SLOTS):
            kernel.tell(out, f"kernel{k}", SLOTS[k])
        else:
            rest = rest + kernel.seconds
        seconds = seconds + kernel.seconds
        flops = flops + kernel.flops
        dram, l2 = dram + kernel.dram, l2 + kernel.l2
    _put(out, 0, [float(len(kernels)), seconds * 1e9, flops, dram, l2, rest * 1e9], PROGRAM)
    return seconds, flops


def _passed_on(layout: GpuLayout) -> list[frozenset[str]]:
    """For each kernel, the buffers in global memory that other kernels leave in the L2 cache for
    it: those that another one writes, and inputs that one before it in the list reads. (Which of
    them runs first makes no difference to the sum.)"""
    far = [[a for b in k.blocks for a in b.accesses if a.scope == "global"] for k in layout.kernels]
    written = [{a.buffer for a in some if a.writes} for some in far]
    read = [{a.buffer for a in some if a.reads} for some in far]
    return [
        frozenset[str]().union(*written[:k], *written[k + 1 :], *read[:k])
        for k in range(len(layout.kernels))
    ]


def _put(out: Floats, at: int, values: Sequence[Floats | float], names: Sequence[str]) -> None:
    """Write some columns that follow each other."""
    assert len(values) == len(names)
    for k, v in enumerate(values):
        out[at + k] = v


def tell_launch(out: Floats, prefix: str, x: Launch, machine: GpuMachine) -> None:
    """Write the columns of a launch, which scheduled and hand-written kernels have alike."""
    sms = float(machine.limits.sms or machine.speeds.sms)
    out[_AT[f"{prefix}.present"]] = 1.0
    values: list[Floats | float] = [
        x.threads,
        x.warps,
        x.threads / (x.warps * machine.limits.warp),
        x.blocks,
        x.shared,
        x.registers,
        x.resident,
        x.occupancy,
        x.warps * np.minimum(x.resident, x.rounds),
        x.waves,
        x.rounds,
        x.tail,
        np.minimum(x.blocks, sms),
    ]
    _put(out, _AT[f"{prefix}.{LAUNCH[0]}"], values, LAUNCH)


@dataclass(slots=True, eq=False)
class _Seen:
    """One access to global or shared memory, with what it costs a kernel.

    Attributes:
        access: which.
        warp: what one instruction of a warp does.
        requests: instructions of warps of a block of the grid.
        reuse: instances that one load serves.
        l2, dram: bytes.
    """

    access: GpuAccess
    warp: WarpAccess
    requests: Floats
    reuse: Floats
    l2: Floats | float = 0.0
    dram: Floats | float = 0.0


class _Kernel:
    """A launch, for all candidates at once.

    `passed` are buffers that other kernels of the program have touched: they are in the L2 cache
    when they are read, if there is room for all that the reader touches.
    """

    def __init__(
        self,
        kernel: GpuKernel,
        facts: Floats,
        machine: GpuMachine,
        passed: frozenset[str] = frozenset(),
    ) -> None:
        self.kernel = kernel
        self.passed = passed
        self.facts = facts
        self.machine = machine
        self.count = facts.shape[1]
        self.grid = [facts[k] for k in kernel.grid]
        blocks = self.grid[0] * self.grid[1] * self.grid[2]
        threads = facts[kernel.block[0]] * facts[kernel.block[1]] * facts[kernel.block[2]]
        warps = np.ceil(threads / machine.limits.warp)
        self.blocks = [_Block(b, facts, warps) for b in kernel.blocks]
        needed = self._registers()
        most = most_registers(machine.limits, warps)
        self.spilled = np.maximum(needed - most, 0.0)
        registers = np.maximum(np.minimum(needed, most), 1.0)
        self.launch = launch_of(machine, threads, blocks, facts[kernel.shared], registers)
        self.barriers, self.crossing = self._barriers()
        self.seen = [x for b in self.blocks for x in b.seen]
        self._traffic()
        self._times()

    def _product(self, which: Sequence[int]) -> Floats:
        out = np.ones(self.count)
        for k in which:
            out = out * self.facts[k]
        return out

    def _registers(self) -> Floats:
        """What a thread needs: its buffers, and room to work."""
        out = np.full(self.count, _BASE_REGISTERS)
        for m in self.kernel.memory:
            if m.scope == "local":
                elements = np.minimum(self._product(m.shape), self._product(m.written))
                out = out + elements * self._product(m.copies) * (m.size / 4 * m.share)
        loaded, fetched = np.zeros(self.count), np.zeros(self.count)
        for b in self.blocks:
            if b.copies:  # all that is fetched at a time is on its way at once
                fetched = fetched + b.loaded
            else:
                loaded = np.maximum(loaded, np.minimum(b.loaded, _OPERANDS))
        return out + np.maximum(loaded, fetched)

    def _barriers(self) -> tuple[Floats, Floats]:
        """Barriers that a block of threads waits at; threads that share a reduction."""
        homes = {m.home: m for m in self.kernel.memory if m.scope == "shared"}
        barriers = np.zeros(self.count)
        self.ahead = np.zeros(self.count, bool)
        for m in homes.values():  # behind each filling, and before the next one
            several = np.zeros(self.count, bool)
            if m.versions >= 0:
                several = self.facts[m.versions] > 1
            often = self._product(m.turns)
            # what is fetched into another version waits for nobody
            each = np.where(several, 1.0, 2.0)
            barriers = barriers + np.where(often > 1.0, each * often, 1.0)
            self.ahead |= several
        crossing = np.ones(self.count)
        results = 0
        for b in self.blocks:
            if b.block.crossing:
                crossing = np.maximum(crossing, b.crossing)
                barriers = barriers + b.waits
                results += any(a.writes and a.scope == "shared" for a in b.block.accesses)
        # the first one that all threads read is counted with what fills shared memory
        return barriers + max(results - 1, 0), crossing

    # ------------------------------------------------------------------ bytes
    def _traffic(self) -> None:
        """Bytes from L2 and DRAM: the L1 cache keeps what the loops of a block use again while it
        fits, the L2 cache what blocks that run at the same time have in common."""
        x, speeds = self.launch, self.machine.speeds
        sms = float(self.machine.limits.sms or speeds.sms)
        together = np.minimum(x.blocks, x.resident * sms)
        wave = [np.minimum(self.grid[0], together)]
        wave.append(np.minimum(self.grid[1], np.ceil(together / wave[0])))
        wave.append(np.minimum(self.grid[2], np.ceil(together / (wave[0] * wave[1]))))
        l1 = speeds.l1_bytes / x.resident - x.shared
        l1 = np.maximum(l1, 4096.0)
        whole, at_once = np.zeros(self.count), np.zeros(self.count)
        parts: list[tuple[_Seen, Floats, Floats]] = []
        known: set[str] = set()
        for b in self.blocks:
            found = b.footprints(self.grid, wave, l1)
            for s, (bytes_, often) in found:
                s.l2 = bytes_[2] * often * x.blocks
                if s.access.buffer not in known:
                    whole, at_once = whole + bytes_[0], at_once + bytes_[1]
                parts.append((s, bytes_[0], bytes_[1]))
            known |= {s.access.buffer for s, _ in found}
        share = x.blocks / together
        fits = whole <= 0.75 * speeds.l2_bytes
        stays = at_once <= 0.75 * speeds.l2_bytes  # from one block of the program to the next
        self.l2 = np.zeros(self.count)
        self.dram = np.zeros(self.count)
        touched: dict[str, _Seen] = {}
        for s, once, in_wave in parts:
            again = np.maximum(once, np.minimum(s.l2, share * in_wave))
            s.dram = np.where(fits, np.minimum(once, np.maximum(s.l2, SECTOR)), again)
            if s.access.buffer in self.passed and not s.access.writes:
                s.dram = np.where(fits, 0.0, s.dram)
            if touched.setdefault(s.access.buffer, s) is not s and not s.access.writes:
                s.dram = np.where(stays, 0.0, s.dram)
            self.l2 = self.l2 + s.l2
            self.dram = self.dram + s.dram

    # ------------------------------------------------------------------ time
    def _times(self) -> None:
        x, speeds = self.launch, self.machine.speeds
        zero = np.zeros(self.count)
        instructions, arithmetic, latency = zero, zero, zero
        self.flops, self.memory_instructions = zero, zero
        self.unrolled, self.tile, lanes = zero + 1.0, zero + 1.0, zero + 1.0
        deep, fetching, code = zero, zero, zero
        for k, b in enumerate(self.blocks):
            if k == 0:
                self.unrolled, self.tile = b.unrolled, b.tile
                lanes = np.minimum(np.maximum(b.tile, 1.0), 4.0)
            rate = speeds.fp64_lanes if b.block.wide else speeds.fp32_lanes
            instructions = instructions + b.instructions
            each = b.instructions / np.maximum(b.turns * b.warps, 1.0)
            code = code + each * b.unrolled * _INSTRUCTION
            arithmetic = arithmetic + b.arithmetic * (32.0 / rate) + b.calls * 2.0
            arithmetic = arithmetic + b.tensor / speeds.fp16_tensor
            self.flops = self.flops + b.flops * x.blocks
            for s in b.seen:
                if s.access.scope == "global" and s.access.reads:
                    # fetches of one step wait together
                    waits = b.outside * _LATENCY
                    fetching = np.maximum(fetching, waits) if b.fetches else fetching
                    latency = latency if b.fetches else latency + waits
                    ahead = np.minimum(b.unrolled, _DEEP) * s.warp.width * s.access.size
                    deep = np.maximum(deep, ahead)
                    break
        spills = 2.0 * self.spilled * (self.blocks[0].outside if self.blocks else 1.0)
        l1, shared = zero + spills * x.warps, zero
        for s in self.seen:
            self.memory_instructions = self.memory_instructions + s.requests
            if s.access.scope == "global":
                l1 = l1 + s.requests * np.maximum(s.warp.cost / 4.0, 1.0)
            else:
                shared = shared + s.requests * s.warp.cost
        for b in self.blocks:
            l1 = l1 + b.stack
            shared = shared + b.exchanged
        self.l1, self.shared = l1, shared
        self.instructions = instructions + self.barriers * x.warps
        resident = np.minimum(x.resident, x.rounds)
        hidden = np.minimum(1.0, resident * x.warps * lanes / _HIDING)
        per_sm = x.rounds / speeds.clock_hz
        fetched = np.clip(code / _CODE, 1.0, _SLOWEST_CODE)  # instructions, again and again
        self.issue_s = self.instructions / 4.0 * per_sm / hidden * fetched
        self.arithmetic_s = arithmetic * per_sm / hidden
        self.shared_s = shared * per_sm
        self.l1_s = l1 * per_sm
        # what is fetched ahead is on its way while the block works
        waiting = np.where(
            self.ahead, np.maximum(fetching - self.instructions / 4.0, 0.0), fetching
        )  # fmt: skip
        chain = latency + waiting + self.barriers * _BARRIER
        self.latency_s = np.ceil(x.rounds / x.resident) * chain / speeds.clock_hz
        sms = np.minimum(x.blocks, float(self.machine.limits.sms or speeds.sms))
        under_way = sms * resident * x.warps * 32.0 * np.maximum(deep, 4.0)
        wanted = speeds.dram_bytes_s * _LATENCY / speeds.clock_hz
        fed = np.minimum(1.0, under_way / wanted)
        self.dram_s = self.dram / (0.9 * speeds.dram_bytes_s * fed)
        self.l2_s = self.l2 / (speeds.l2_bytes_s * np.sqrt(fed))
        parts = (
            self.dram_s, self.l2_s, self.issue_s, self.arithmetic_s, self.shared_s, self.l1_s,
            self.latency_s,
        )  # fmt: skip
        powers = zero
        for t in parts:  # what takes longest, and a little of the others
            square = t * t
            powers = powers + square * square
        self.seconds = np.sqrt(np.sqrt(powers)) + np.where(x.occupancy > 0, 0.0, _NEVER)

    # ------------------------------------------------------------------ the row
    def tell(self, out: Floats, prefix: str, slots: tuple[int, int]) -> None:
        """Write this kernel's columns."""
        x = self.launch
        tell_launch(out, prefix, x, self.machine)
        all_passes = self.shared * x.blocks
        times = (
            self.dram_s, self.l2_s, self.issue_s, self.arithmetic_s, self.shared_s, self.l1_s,
            self.latency_s, self.seconds,
        )  # fmt: skip
        values: list[Floats | float] = [
            self.spilled,
            self._product(self.kernel.vthreads),
            self.barriers,
            self.crossing,
            self.unrolled,
            self.tile,
            self.flops,
            self.instructions * x.blocks,
            self.dram,
            self.l2,
            self.l1 * x.blocks,
            all_passes,
            self.flops / np.maximum(self.dram, 1.0),
            self.flops / np.maximum(self.l2, 1.0),
            self.flops / np.maximum(all_passes, 1.0),
            self.flops / np.maximum(self.memory_instructions * x.blocks, 1.0),
            *[t * 1e9 for t in times],
        ]
        _put(out, _AT[f"{prefix}.{WORK[0]}"], values, WORK)
        far = [s for s in self.seen if s.access.scope == "global"]
        near = [s for s in self.seen if s.access.scope == "shared"]
        for j, s in enumerate(far[: slots[0]]):
            asked = s.requests * s.warp.ideal * (SECTOR * x.blocks)
            values = [
                1.0 + s.access.writes,
                s.warp.width * s.access.size,
                s.warp.cost,
                s.warp.ideal / s.warp.cost,
                s.requests * x.blocks,
                s.l2,
                s.dram,
                asked / np.maximum(s.dram, 1.0),
            ]
            _put(out, _AT[f"{prefix}.global{j}.kind"], values, GLOBAL_ACCESS)
        for j, s in enumerate(near[: slots[1]]):
            values = [
                1.0 + s.access.writes,
                s.warp.width * s.access.size,
                s.warp.cost,
                s.warp.cost / s.warp.ideal,
                s.requests * x.blocks,
                s.reuse,
            ]
            _put(out, _AT[f"{prefix}.shared{j}.kind"], values, SHARED_ACCESS)


def _halvings(n: Floats) -> Floats:
    """Steps that combine n things two by two."""
    mantissa, exponent = np.frexp(np.maximum(n, 1.0))
    out: Floats = np.where(mantissa == 0.5, exponent - 1.0, exponent)
    return out


class _Block:
    """A leaf block, for all candidates at once: what a thread does, and what a warp asks for.

    `plain` are the loops that one thread runs, outermost first; virtual threads take turns
    innermost.
    """

    def __init__(self, block: GpuBlock, facts: Floats, warps: Floats) -> None:
        self.block = block
        self.facts = facts
        self.count = facts.shape[1]
        self.one = np.ones(self.count)
        loops = block.loops
        turning = [k for k, f in enumerate(loops) if f.kind == "vthread" and not f.idle]
        self.plain = [
            k for k, f in enumerate(loops) if f.kind in ("serial", "unrolled", "vectorized")
        ] + turning
        self.turns = self._inside(0)
        self._unrolling()
        threads = facts[block.threads[0]] * facts[block.threads[1]] * facts[block.threads[2]]
        self.warps = np.minimum(np.ceil(threads / 32.0), warps)
        if not block.everyone and block.accesses:
            # threads of whole rows only: where rows are cut, every warp has some of them
            cut = facts[block.threads[0]] < facts[block.accesses[0].params[0]]
            self.warps = np.where(cut, warps, self.warps)
        self.rows = np.maximum(threads / self._product(block.crossing), 1.0)
        self.active = self._active()
        self.seen = [s for a in block.accesses for s in self._see(a)]
        self._work(threads)

    def _extent(self, k: int) -> Floats:
        out: Floats = self.facts[self.block.loops[k].extent]
        return out

    def _product(self, which: Sequence[int]) -> Floats:
        """How often some of the loops run."""
        out = self.one
        for k in which:
            out = out * self._extent(k)
        return out

    def _active(self) -> Floats:
        """The share of the instances that the predicate lets through."""
        loops = range(len(self.block.loops))
        extents = {k: self._extent(k) for k in loops}
        spans = Spans(self.facts, extents, self._product(loops))
        out = self.one
        for index, below in self.block.within:
            out = out * np.minimum(self.facts[below] / spans.of(index), 1.0)
        return out

    def _inside(self, start: int) -> Floats:
        """Instances that the thread's loops from a place inward run."""
        out = self.one
        for k in self.plain[start:]:
            out = out * self._extent(k)
        return out

    def _unrolling(self) -> None:
        """How much is written out: the outermost place in the loops at which that is allowed."""
        loops = self.block.loops
        step = np.zeros(self.count) if self.block.unroll < 0 else self.facts[self.block.unroll]
        limit = np.maximum(step, _AUTO_UNROLL)
        n = len(self.plain)
        reducing = [loops[k].reduces for k in self.plain]
        first = min(self.block.refilled, n)  # further out there are barriers
        starts = [d for d in range(n) if d in (0, first) or reducing[d] != reducing[d - 1]]
        self.unrolled = self.one
        self.effective: dict[int, Floats] = {}
        inside = counted = self.one
        open_ = np.ones(self.count, bool)
        ends = [*starts[1:], n]
        for start, end in zip(reversed(starts), reversed(ends)):
            for k in self.plain[start:end]:
                inside = inside * self._extent(k)
                if loops[k].kind == "serial":
                    counted = counted * self._extent(k)
            open_ = open_ & (counted <= limit) & (start >= first)
            self.unrolled = np.where(open_, inside, self.unrolled)
            for k in self.plain[start:end]:
                self.effective[k] = np.where(open_, self._extent(k), 1.0)
        self.outside = self.turns / self.unrolled
        last = max([d for d in range(n) if reducing[d]], default=-1)
        self.tile = self._inside(last + 1) if last >= 0 else self.unrolled
        self.copies = any(
            a.scope == "shared" and a.writes and not a.reads for a in self.block.accesses
        )
        self.fetches = any(a.scope == "shared" and a.writes for a in self.block.accesses)
        self.reduces = last >= 0 or bool(self.block.crossing)

    # ------------------------------------------------------------------ one access
    def _see(self, a: GpuAccess) -> list[_Seen]:
        if a.scope == "local":
            return []
        facts = self.facts
        kept = Spans(facts, self.effective, self.unrolled)
        elements = self.one
        for s, n in zip(a.spans, a.shape):
            elements = elements * np.minimum(kept.values(s), facts[n])
        elements = np.minimum(elements, self.unrolled)
        run = self.one
        if a.spans and a.scope == "shared" and not a.writes:
            values = kept.values(a.spans[-1])
            run = np.where(kept.of(a.spans[-1]) == values, values, 1.0)
        warp = warp_access(
            a.form,
            "shared" if a.scope == "shared" else "global",
            a.size,
            facts[list(a.params)],
            facts[list(a.steps)],
            run,
        )
        loads = self.outside * elements / warp.width
        stores = self.turns / warp.width
        times = np.zeros(self.count)
        if a.reads:
            times = times + (stores if a.writes else loads)
        if a.writes:
            times = times + stores
        reuse = self.turns / np.maximum(self.outside * elements, 1.0)
        if a.writes and self.block.crossing:  # one thread of a row stores its result
            results = self._product([k for k in self.plain if not self.block.loops[k].reduces])
            return [_Seen(a, warp, results * np.minimum(self.rows, self.warps), reuse)]
        lanes = [k for k, f in enumerate(self.block.loops) if f.kind == "vectorized"]
        pieces = np.maximum(self._product(lanes) / warp.width, 1.0)
        return [_Seen(a, warp, self._asked(times * self.warps, pieces), reuse)]

    def _asked(self, requests: Floats, pieces: Floats) -> Floats:
        """Requests, less those of warps of which no thread passes the predicate; vectors come in
        `pieces`, of which all pass or none."""
        if not self.block.within:
            return requests
        if self.block.again < 0:
            return requests * self.active
        # a copy begins anew in each turn of the buffer on the chip
        turns = self._inside(0) / self._inside(self.block.again)
        vectors = requests / turns / pieces
        each: Floats = np.minimum(np.ceil(vectors * self.active), vectors)
        return each * pieces * turns

    def _work(self, threads: Floats) -> None:
        block = self.block
        fused = block.flops / 2.0 if self.reduces and block.flops >= 2 else block.flops
        warps = self.warps
        busy = self.turns * self.active
        self.flops = busy * threads * (block.flops + 8.0 * block.calls)
        self.arithmetic = busy * warps * fused
        self.calls = busy * warps * block.calls
        each = max(fused, 0.5) + _CALL * block.calls
        guards = 2.0 * block.guarded * self.turns
        self.instructions = (busy * each + guards + 3.0 * self.outside) * warps
        self.loaded = np.zeros(self.count)
        for s in self.seen:
            self.instructions = self.instructions + s.requests * _ACCESS
            if s.access.reads:
                words = s.requests * s.warp.width * (s.access.size / 4)
                self.loaded = self.loaded + words / np.maximum(warps * self.outside, 1.0)
        # arrays of a thread whose places are not known when compiled lie in memory
        local = any(a.scope == "local" for a in block.accesses)
        lost = (self.tile > self.unrolled) if local else np.zeros(self.count, bool)
        self.stack = np.where(lost, 2.0 * self.turns * warps, 0.0)
        self._cross(threads)
        self.tensor = np.zeros(self.count)
        if block.warp is not None:
            op = block.warp
            self.tensor = self.turns * warps * op.multiply_adds
            self.flops = self.turns * warps * op.flops
            self.instructions = (self.turns * op.instructions + 3.0 * self.outside) * warps
            self.exchanged = self.turns * warps * op.passes

    def _cross(self, threads: Floats) -> None:
        """What it takes to combine the shares of threads: by shuffles within warps, and through
        shared memory what several warps have."""
        block = self.block
        self.crossing = self.one
        for k in block.crossing:
            self.crossing = self.crossing * self._extent(k)
        self.exchanged = np.zeros(self.count)
        self.results = self.one
        self.waits = np.zeros(self.count)
        if not block.crossing:
            return
        for k in self.plain:
            if not block.loops[k].reduces:
                self.results = self.results * self._extent(k)
        elements = self.facts[block.exchange] if block.exchange >= 0 else np.zeros(self.count)
        through = elements > 0
        lanes = np.where(through, threads / np.maximum(elements, 1.0), self.crossing)
        parts = np.where(through, self.crossing / lanes, 1.0)
        turns = np.ceil(parts / lanes)
        steps = _halvings(lanes) + _halvings(np.minimum(parts, lanes)) + turns
        turning = np.where(self.results > AT_ONCE, 2.0 * self.results - 1.0, 1.0)
        self.waits = np.where(through, turning, 0.0)
        self.exchanged = np.where(through, self.results * (2.0 + turns), 0.0) * self.warps
        combined = self.results * steps * self.warps
        self.instructions = self.instructions + 2.0 * combined + 3.0 * self.exchanged

    # ------------------------------------------------------------------ what lies where
    def footprints(
        self, grid: Sequence[Floats], wave: Sequence[Floats], l1: Floats
    ) -> list[tuple[_Seen, tuple[Floats, Floats]]]:
        """Of each access to global memory, in bytes: what all blocks touch, what those of a wave
        do, what the nest touches that fits in the L1 cache; and how often a block runs that."""
        far = [s for s in self.seen if s.access.scope == "global"]
        if not far:
            return []
        # where the nest may fit: at each of the outer loops, or just where it runs again
        starts = list(range(min(len(self.plain), 4) + 1))
        if self.block.again >= 0:
            starts = [self.block.again]
        levels = 2 + len(starts)
        extents: dict[int, Floats] = {}
        inside = np.ones((levels, self.count))
        place = {k: p for p, k in enumerate(self.plain)}
        for k, f in enumerate(self.block.loops):
            if f.idle:
                continue
            x = np.ones((levels, self.count))
            if f.kind == "blockIdx":
                x[0], x[1] = self._extent(k), np.minimum(wave[f.axis], self._extent(k))
            elif k in place:
                x[: 2 + sum(start <= place[k] for start in starts)] = self._extent(k)
            else:
                x[:] = self._extent(k)
            extents[k] = x
            inside *= x
        spans = Spans(self.facts, extents, inside, part=1)
        bytes_ = [self._bytes(s.access, spans) for s in far]
        known: set[object] = set()
        for k, s in enumerate(far):  # neighbours of what is touched anyway, as in a stencil
            what = (s.access.buffer, s.access.spans, s.access.shape)
            if what in known and not s.access.writes:
                bytes_[k] = np.zeros_like(bytes_[k])
            known.add(what)
        if len(starts) == 1:
            often = self.turns / self._inside(0 if self.block.again < 0 else self.block.again)
            return [(s, (b, often)) for s, b in zip(far, bytes_)]
        total = bytes_[0][2:]
        for b in bytes_[1:]:
            total = total + b[2:]
        level = np.minimum((total > l1).sum(axis=0), len(starts) - 1)
        everyone = np.arange(self.count)
        often = inside[2] / inside[2 + level, everyone]
        return [
            (s, (np.stack([b[0], b[1], b[2 + level, everyone]]), often))
            for s, b in zip(far, bytes_)
        ]

    def _bytes(self, a: GpuAccess, spans: Spans) -> Floats:
        """Whole sectors that an access touches, for each level."""
        shape = self.facts
        if not a.spans:
            return np.full(spans.instances.shape, float(SECTOR))
        outer = np.ones(spans.instances.shape)
        for s, n in zip(a.spans[:-1], a.shape[:-1]):
            outer = outer * np.minimum(spans.values(s), shape[n])
        last = np.minimum(spans.of(a.spans[-1]), shape[a.shape[-1]])
        sectors = np.where(
            last >= shape[a.shape[-1]],  # whole rows are next to each other
            np.ceil(outer * last * (a.size / SECTOR)),
            outer * np.ceil(last * (a.size / SECTOR)),
        )
        out: Floats = np.minimum(sectors, spans.instances) * SECTOR
        return out
