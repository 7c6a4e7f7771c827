"""Programs, contexts and one-row replays for the tests of the search space."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from gputune.ir.nodes import IRModule, PrimFunc
from gputune.meta_schedule.space_generator import PostOrderApply
from gputune.meta_schedule.tune_context import TuneContext
from gputune.schedule import Dim, Instruction, Schedule, Trace
from gputune.schedule.dim import Column
from gputune.schedule.tilings import draw_tiling
from gputune.script import tir as T


@T.prim_func
def matmul(
    A: T.Buffer((128, 128), "float32"),
    B: T.Buffer((128, 128), "float32"),
    C: T.Buffer((128, 128), "float32"),
):
    T.func_attr({"global_symbol": "main", "tir.noalias": True})
    for i, j, k in T.grid(128, 128, 128):
        with T.block("C"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                C[vi, vj] = T.float32(0)
            C[vi, vj] = C[vi, vj] + A[vi, vk] * B[vk, vj]


@T.prim_func
def linear0(
    X: T.Buffer((1, 784), "float32"),
    W: T.Buffer((128, 784), "float32"),
    B: T.Buffer((128,), "float32"),
    Z: T.Buffer((1, 128), "float32"),
):
    T.func_attr({"global_symbol": "linear0", "tir.noalias": True})
    Y = T.alloc_buffer((1, 128), "float32")
    for i, j, k in T.grid(1, 128, 784):
        with T.block("Y"):
            vi, vj, vk = T.axis.remap("SSR", [i, j, k])
            with T.init():
                Y[vi, vj] = T.float32(0)
            Y[vi, vj] = Y[vi, vj] + X[vi, vk] * W[vj, vk]
    for i, j in T.grid(1, 128):
        with T.block("Z"):
            vi, vj = T.axis.remap("SS", [i, j])
            Z[vi, vj] = Y[vi, vj] + B[vj]


@T.prim_func
def chain(A: T.Buffer((8, 6), "float32"), D: T.Buffer((8, 6), "float32")):
    """Elementwise steps: a plain one, one with exp, the output; and a sum."""
    B = T.alloc_buffer((8, 6), "float32")
    C = T.alloc_buffer((8, 6), "float32")
    S = T.alloc_buffer((8,), "float32")
    for i, j in T.grid(8, 6):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = A[vi, vj] * T.float32(2)
    for i, j in T.grid(8, 6):
        with T.block("C"):
            vi, vj = T.axis.remap("SS", [i, j])
            C[vi, vj] = T.exp(B[vi, vj])
    for i, j in T.grid(8, 6):
        with T.block("S"):
            vi, vj = T.axis.remap("SR", [i, j])
            with T.init():
                S[vi] = T.float32(0)
            S[vi] = S[vi] + C[vi, vj]
    for i, j in T.grid(8, 6):
        with T.block("D"):
            vi, vj = T.axis.remap("SS", [i, j])
            D[vi, vj] = C[vi, vj] / S[vi]


@T.prim_func
def row_sum(A: T.Buffer((4, 64), "float32"), S: T.Buffer((4,), "float32")):
    for i, k in T.grid(4, 64):
        with T.block("S"):
            vi, vk = T.axis.remap("SR", [i, k])
            with T.init():
                S[vi] = T.float32(0)
            S[vi] = S[vi] + A[vi, vk]


def context(mod: PrimFunc | IRModule, cores: int = 1, seed: int = 7, **kw: Any) -> TuneContext:
    """A context whose space generator is initialised."""
    kw.setdefault("space_generator", PostOrderApply())
    return TuneContext(mod, target=f"llvm -num-cores={cores}", rand_state=seed, **kw)


def space(mod: PrimFunc | IRModule, cores: int = 1, seed: int = 7, **kw: Any) -> list[Schedule]:
    """The sketches of the default rules."""
    return context(mod, cores, seed, **kw).generate_design_space()


def apply_rule(rule: Any, func: PrimFunc, block: str, cores: int = 1) -> list[Schedule]:
    """What a rule makes of one block of a program."""
    rule.initialize_with_tune_context(context(func, cores, space_generator=None))
    sch = Schedule(func, seed=3, debug_mask="all")
    return list(rule.apply(sch, sch.get_block(block)))


def redrawn(trace: Trace, func: PrimFunc | IRModule, seed: int) -> Schedule:
    """The trace with all decisions drawn anew."""
    sch = Schedule(func, seed=seed, debug_mask="all")
    trace.apply_to_schedule(sch, decision_provider=lambda inst, inputs, attrs, old: None)
    return sch


class Population:
    """Random decisions for the tiles and categories of a trace, one row a candidate."""

    def __init__(self, func: PrimFunc, trace: Trace, rows: int) -> None:
        rng = random.Random(5)
        self.func, self.trace = func, trace
        self.columns: dict[str, Column] = {}
        self.names: dict[Instruction, list[str]] = {}
        sch = Schedule(func, seed=1)

        def look(inst: Instruction, inputs: list[Any], attrs: list[Any], old: Any) -> Any:
            k = len(self.names)
            if inst.kind.name == "SamplePerfectTile":
                extent = int(sch.get(inputs[0]).extent.value)
                n, limit = attrs
                table = np.array([draw_tiling(rng, extent, n, limit) for _ in range(rows)])
            elif inst.kind.name == "SampleCategorical":
                table = np.array([[rng.randrange(len(attrs[0]))] for _ in range(rows)])
            else:
                return old
            self.names[inst] = [f"c{k}_{m}" for m in range(table.shape[1])]
            self.columns.update(zip(self.names[inst], table.T.astype(np.int64), strict=True))
            return old

        trace.apply_to_schedule(sch, decision_provider=look)

    def replay(self, row: int, dims: bool) -> Schedule:
        """The candidate of a row, its decisions Dims or plain ints."""
        sch = Schedule(self.func, seed=1)

        def provide(inst: Instruction, inputs: list[Any], attrs: list[Any], old: Any) -> Any:
            names = self.names.get(inst)
            if names is None:
                return old
            found = [int(self.columns[c][row]) for c in names]
            if dims:
                found = [Dim(v, c) for v, c in zip(found, names, strict=True)]
            return found if inst.kind.name == "SamplePerfectTile" else found[0]

        self.trace.apply_to_schedule(sch, decision_provider=provide)
        return sch
