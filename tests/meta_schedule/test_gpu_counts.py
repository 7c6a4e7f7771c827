"""Does the analytic model of GPUs count what kernels do? Host execution counts the real thing.

Random candidates of the default space are run on the processor, where sectors of global memory,
passes over the banks of shared memory, requests of warps and barriers are counted for each buffer.
Registers are another matter there (the C++ compiler decides what is loaded again), so requests are
compared for copies and for stores of results, which no compiler can leave out.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gpu_spaces import MACHINE
from test_cuda_space import SM_80, built, cuda_context

from gputune.codegen.cuda import nvrtc
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.host.report import KernelFigures, Traffic
from gputune.codegen.cuda.kernel import generate
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.kernels import KERNELS
from gputune.meta_schedule.gpu_model import _Block, _Kernel, _Seen
from gputune.meta_schedule.gpu_warps import warp_access
from gputune.meta_schedule.population import Sketch
from gputune.meta_schedule.sketch_feature import columns, describe
from gputune.runtime.cuda_build import compile_function

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="no C++ compiler for host execution",
)

needs_nvrtc = pytest.mark.skipif(nvrtc.load() is None, reason="NVRTC is not installed")

# Sizes that tiles divide, and that give a few blocks of a few warps.
CASES: dict[str, dict[str, int]] = {
    "matmul": {"m": 64, "n": 64, "k": 32},
    "batch_matmul": {"b": 2, "m": 32, "n": 32, "k": 32},
    "conv2d": {"n": 1, "h": 10, "w": 10, "ci": 8, "co": 16, "padding": 0},
    "softmax": {"m": 32, "n": 128},
    "layernorm": {"m": 32, "n": 128},
    "transpose": {"m": 64, "n": 64},
}
CANDIDATES = 3


@dataclass(frozen=True)
class Compared:
    """One buffer of one kernel, in loads or in stores, of one block of threads.

    Attributes:
        what: kernel, buffer and direction.
        copied: are its accesses only copies and stores of results?
        partly: are there warps of which a predicate stops some threads?
        mine, counted: what the model says, and host execution: requests, and sectors or passes.
    """

    what: str
    copied: bool
    partly: bool
    mine: tuple[float, float]
    counted: tuple[float, float]

    @property
    def each(self) -> tuple[float, float]:
        """Sectors or passes of a request: the model's, and the counted."""
        return self.mine[1] / self.mine[0], self.counted[1] / self.counted[0]


def model_of(func: PrimFunc) -> list[_Kernel]:
    assert MACHINE.gpu is not None
    layout, facts = describe(IRModule({func.name: func}))
    assert layout.gpu is not None
    return [_Kernel(k, columns(facts), MACHINE.gpu) for k in layout.gpu.kernels]


def counted_of(name: str, shape: dict[str, int], func: PrimFunc) -> list[KernelFigures]:
    source = generate(func)
    arrays = KERNELS[name].arguments(shape, "float32", 3)
    params = source.host.params
    values = {p.name: None if p.written else a for p, a in zip(params, arrays, strict=True)}
    report = host_run(host_compile(source), values)
    assert report.ok, str(report)
    return [report.kernels[x.kernel] for x in source.host.launches]


def shape_of(k: _Kernel) -> tuple[int, int]:
    return int(k.launch.threads[0]), int(k.launch.blocks[0])


def compared(name: str, mine: _Kernel, figures: KernelFigures) -> list[Compared]:
    out = []
    for t in figures.traffic:
        if t.buffer.endswith("_shares"):  # what threads exchange who share a reduction
            continue
        seen = [
            (b, s)
            for b in mine.blocks
            for s in b.seen
            if s.access.buffer == t.buffer and (s.access.writes if t.writes else s.access.reads)
        ]
        # what threads reduce together they keep in registers, and store once
        seen = [x for x in seen if t.writes or not (x[0].block.crossing and x[1].access.writes)]
        if seen:
            what = f"{name} {t.buffer} {'stored' if t.writes else 'loaded'}"
            out.append(one(what, t, seen, figures.counted_blocks))
    return out


def one(what: str, t: Traffic, seen: list[tuple[_Block, _Seen]], blocks: int) -> Compared:
    requests = units = 0.0
    copied = True
    for b, s in seen:
        a = s.access
        both = a.reads and a.writes and not b.block.crossing  # half of them are loads
        mine = float(s.requests[0]) / (2 if both else 1)
        # a GPU's compiler makes one load of neighbours in shared memory, that of a CPU does not
        facts = b.facts
        alone = warp_access(
            a.form, "shared" if t.shared else "global", a.size, facts[list(a.params)],
            facts[list(a.steps)], np.ones(1),
        )  # fmt: skip
        copied &= float(s.reuse[0]) == 1 and float(alone.width[0]) == float(s.warp.width[0])
        requests += mine
        units += mine * float(alone.cost[0])
    partly = any(b.block.within for b, _ in seen)
    counted = (t.requests / blocks, t.units / blocks)
    return Compared(what, copied, partly, (requests, units), counted)


def candidates(name: str) -> list[tuple[PrimFunc, str]]:
    """Random ones of every sketch."""
    shape = KERNELS[name].shape(CASES[name])
    func = built(name, **shape)
    out = []
    context = cuda_context(func)
    assert context.space_generator is not None
    postprocs: Any = context.space_generator.postprocs
    for number, s in enumerate(context.generate_design_space()):
        sketch = Sketch(IRModule({func.name: func}), s.trace, postprocs)
        rows = sketch.decisions.sample(2048, np.random.default_rng(5))
        legal = np.flatnonzero(sketch.evaluate(rows).valid)
        for k in legal[:CANDIDATES]:
            (scheduled,) = sketch.materialise(rows[k]).mod.functions.values()
            out.append((scheduled, f"{name}/{number}/{k}"))
    return out


def found_in(name: str) -> tuple[list[Compared], list[tuple[str, float, float]]]:
    """All that can be compared of a kernel's candidates; and barriers of a block: the model's, the
    counted."""
    shape = KERNELS[name].shape(CASES[name])
    out: list[Compared] = []
    barriers: list[tuple[str, float, float]] = []
    for func, label in candidates(name):
        mine = model_of(func)
        theirs = counted_of(name, shape, func)
        assert len(mine) == len(theirs)
        left = list(mine)
        for f in theirs:
            match = next(
                k for k in left
                if shape_of(k) == (f.threads // f.blocks, f.blocks)
            )  # fmt: skip
            left.remove(match)
            if not any(b.block.crossing for b in match.blocks):
                barriers.append((label, float(match.barriers[0]), f.barriers / f.blocks))
            if f.uncounted == 0:  # host execution has room for so many only
                out += compared(label, match, f)
    return out, barriers


@needs_compiler
@pytest.mark.parametrize("name", CASES)
def test_the_model_counts_what_kernels_do(name: str) -> None:
    """Sectors and passes of a request exactly (at most twice as many where a predicate stops some
    threads of warps); requests of copies and of stores exactly; barriers exactly, but for those
    of reductions that threads share."""
    rows, barriers = found_in(name)
    assert len(rows) >= 2 * CANDIDATES
    wrong = []
    for c in rows:
        mine, counted = c.each
        least = 0.5 * mine if c.partly else mine
        if not least * (1 - 1e-6) <= counted <= mine * (1 + 1e-6):
            wrong.append((c.what, c.each))
    assert not wrong
    wrong = [
        (c.what, (c.mine[0], c.counted[0]))
        for c in rows
        if c.copied and c.mine[0] != pytest.approx(c.counted[0], rel=1e-6)
    ]
    assert not wrong
    assert any(c.copied for c in rows)
    assert [x for x in barriers if x[1] != x[2]] == []


@needs_nvrtc
def test_loads_and_registers_are_those_of_the_compiler() -> None:
    """Where all that a turn of the fetches does is written out, the loads from shared memory in the
    machine code are often those of the model, and hardly more. (The compiler leaves some loops, and
    joins some loads further.) Registers: within a third, in the middle of some candidates."""
    func = built("matmul", m=256, n=256, k=256)
    context = cuda_context(func)
    s, *_ = context.generate_design_space()
    assert context.space_generator is not None
    sketch = Sketch(IRModule({func.name: func}), s.trace, context.space_generator.postprocs)
    rows = sketch.decisions.sample(2048, np.random.default_rng(3))
    exact, ratios = 0, []
    for k in np.flatnonzero(sketch.evaluate(rows).valid)[:14]:
        (scheduled,) = sketch.materialise(rows[k]).mod.functions.values()
        (mine,) = model_of(scheduled)
        (facts,) = compile_function(scheduled, SM_80).binary.facts.values()
        if facts.stack_bytes == 0:
            ratios.append(facts.registers / float(mine.launch.registers[0]))
        main = mine.blocks[0]
        turns = float(main._product(main.plain[: main.block.refilled])[0])
        if float(main.unrolled[0]) * turns != float(main.turns[0]):
            continue
        near = [x for x in main.seen if x.access.scope == "shared" and x.access.reads]
        loads = sum(float(x.requests[0]) for x in near) / float(main.warps[0]) / turns
        assert facts.mix["LDS"] <= 1.5 * loads, k
        exact += facts.mix["LDS"] == loads
    assert exact >= 2
    assert len(ratios) >= 6
    assert 0.75 < float(np.median(ratios)) < 1.33, ratios
