"""Does every cell of the GPU bench compile? For sm_90a, with no GPU needed.

    python bench/gpu_compile.py [SHARD...]

The program of the default schedule and one random candidate of the default space, at the cell's
real size. Prints a line a cell; exits with 1 if one does not compile.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from gpu_cell import default_program
from gpu_cells import CELLS, EVERY, Cell

import gputune as gt
from gputune.ir.nodes import IRModule
from gputune.meta_schedule.population import Sketch
from gputune.meta_schedule.tune_context import TuneContext
from gputune.runtime.cuda_build import CudaCode, compile_function
from gputune.target import Target

TARGET = Target("cuda -arch=sm_90a")
_ROWS = 2048  # of decisions, among which a valid one is sought


def candidate(cell: Cell, seed: int = 5, target: Target = TARGET) -> IRModule | None:
    """A random valid candidate of the default space; None if no sketch has one."""
    func = cell.operator.build(dtype=cell.dtype)
    context = TuneContext(
        func, target=target, space_generator="post-order-apply", rand_state=seed
    )  # fmt: skip
    assert context.space_generator is not None
    postprocs = tuple(context.space_generator.postprocs)
    for sch in context.generate_design_space():
        sketch = Sketch(IRModule({func.name: func}), sch.trace, postprocs)
        rows = sketch.decisions.sample(_ROWS, np.random.default_rng(seed))
        valid = np.flatnonzero(sketch.evaluate(rows).valid)
        if len(valid):
            return sketch.materialise(rows[valid[0]]).mod
    return None


def compiled(mod: IRModule, target: Target = TARGET) -> CudaCode:
    """The code of a program's one function."""
    (func,) = mod.functions.values()
    return compile_function(func, target)


def main(words: list[str]) -> int:
    """Compile the cells of some shards, or all."""
    cells = {c.name: c for s in words for c in CELLS[s]} if words else EVERY
    bad = 0
    for name, cell in cells.items():
        said = []
        for what in ("default", "candidate"):
            start = time.perf_counter()
            try:
                mod = default_program(cell, TARGET) if what == "default" else candidate(cell)
                if mod is None:
                    raise gt.BuildError("no candidate is valid")
                code = compiled(mod)
            except gt.GputuneError as e:
                bad += 1
                said.append(f"{what} FAILED: {e.message}")
                continue
            facts = code.binary.facts.values()
            spilled = sum(f.spill_loads + f.spill_stores for f in facts)
            said.append(
                f"{what} {len(facts)} kernels, {max(f.registers for f in facts)} registers, "
                f"{spilled} spills, {time.perf_counter() - start:.1f} s"
            )
        print(f"{name:44} {'; '.join(said)}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
