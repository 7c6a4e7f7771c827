"""What every builder keeps to. Inherit from `BuilderContract` and give `builder`."""

from __future__ import annotations

import os

from gputune.ir.nodes import IRModule, PrimFunc
from gputune.meta_schedule import Builder, BuilderInput, BuilderResult
from gputune.meta_schedule.artifact import Artifact
from gputune.schedule import Schedule
from gputune.script import from_source
from gputune.target import Target

LLVM = Target("llvm -num-cores 1")
SCALE = """
@T.prim_func
def main(A: T.Buffer((64,), "float32"), B: T.Buffer((64,), "float32")):
    for i in range(64):
        with T.block("B"):
            vi = T.axis.spatial(64, i)
            B[vi] = A[vi] * T.float32(%d)
"""


def scale(factor: int = 3) -> IRModule:
    """A small program, another one for each factor."""
    func = from_source(SCALE % factor)
    assert isinstance(func, PrimFunc)
    return IRModule({"main": func})


def unbuildable() -> IRModule:
    """A program that no CPU can be made to run."""
    sch = Schedule(scale())
    sch.bind(sch.get_loops(sch.get_block("B"))[0], "blockIdx.x")
    return sch.mod


def slow_to_build() -> IRModule:
    """A program that nobody has built before, and that takes the compiler a while."""
    fresh = int.from_bytes(os.urandom(3))
    head, loop = SCALE.strip().split("    for ")
    lines = [head]
    for k in range(400):
        block = loop.replace('"B"', f'"B{k}"').replace("A[vi] *", "T.exp(A[vi]) *")
        lines.append(f"    for {block % (fresh + k)}\n")
    func = from_source("".join(lines))
    assert isinstance(func, PrimFunc)
    return IRModule({"main": func})


class BuilderContract:
    """The tests."""

    def builder(self, timeout_sec: float = 30.0) -> Builder:
        """A builder, two of them may share what they need."""
        raise NotImplementedError

    def build(self, *mods: IRModule, timeout_sec: float = 30.0) -> list[BuilderResult]:
        builder = self.builder(timeout_sec)
        builder.start()
        return builder.build([BuilderInput(m, LLVM) for m in mods])

    def test_results_in_order_and_failures_as_results(self) -> None:
        mods = [scale(1), scale(2), unbuildable(), scale(3)]
        results = self.build(*mods)
        assert [r.problem is None for r in results] == [True, True, False, True]
        bad = results[2].problem
        assert bad is not None
        assert bad.reason == "build LowerError"
        assert "blockIdx.x" in bad.message
        assert results[2].artifact_path is None
        for mod, r in zip(mods, results):
            if r.artifact_path is not None:
                found = Artifact.load(r.artifact_path)
                assert found.script == mod.script()
                assert found.target == LLVM.export()

    def test_nothing_to_build(self) -> None:
        assert self.build() == []

    def test_equal_programs_are_built_once(self) -> None:
        one, two, three = self.build(scale(4), scale(5), scale(4))
        assert one == three
        assert one != two

    def test_one_that_takes_too_long_and_the_next(self) -> None:
        (result,) = self.build(slow_to_build(), timeout_sec=0.02)
        assert result.problem is not None
        assert result.problem.reason == "build timeout"
        assert not result.problem.infrastructure
        assert self.build(scale(6))[0].problem is None
