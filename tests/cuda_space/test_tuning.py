"""Do kernels tune on the CUDA target, from their space to a checked result, on a machine without a
GPU? A few, with few trials; `ci/cuda_space tuning` tunes all with 32."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gputune.codegen.cuda import nvrtc
from gputune.default_gpu_schedule import default_gpu_schedule
from gputune.ir.nodes import IRModule
from gputune.kernels import KERNELS
from gputune.meta_schedule.host_runner import HostExecutionRunner
from gputune.meta_schedule.task_scheduler import verifier_of
from gputune.script import from_source
from gputune.target import Target

from .tuning import tuned

needs_compilers = pytest.mark.skipif(
    nvrtc.load() is None or (shutil.which("g++") is None and shutil.which("clang++") is None),
    reason="no NVRTC, or no C++ compiler for host execution",
)


@needs_compilers
@pytest.mark.parametrize("name", ["matmul", "layernorm", "argmax"])
def test_kernels_tune(name: str, tmp_path: Path) -> None:
    """In two rounds: the second one is chosen by what the first one taught. (Of layernorm, named
    for a bug: it has a parameter `gamma`, which C++ has another use for; the runner did not know
    its name in the code.)"""
    found = tuned(name, tmp_path, seed=3, trials=6)
    assert found.ok, found
    assert found.measured == 6


@needs_compilers
def test_candidates_are_checked_on_the_host() -> None:
    """Named for a bug: what host execution had run was never compared with the program."""
    target = Target("cuda -arch=sm_80")
    kernel = KERNELS["rmsnorm"]
    func = kernel.build(m=4, n=32)
    verifier = verifier_of(IRModule({"rmsnorm": func}), target, HostExecutionRunner(), lambda: 5)
    assert verifier is not None
    right = default_gpu_schedule(func, target).mod
    assert verifier.check_program(right).outcome == "right"
    text = right.script()
    assert (text.count("T.rsqrt"), text.count("* gamma[vj]")) == (1, 1)
    wrong = from_source(text.replace("T.rsqrt", "T.exp"))
    assert isinstance(wrong, IRModule)
    verdict = verifier.check_program(wrong)
    assert verdict.outcome == "wrong"
    assert verdict.failure is not None
    assert "elements differ" in verdict.failure.message
    stray = from_source(text.replace("* gamma[vj]", "* gamma[vj + 1]"))
    assert isinstance(stray, IRModule)
    assert "out-of-bounds" in str(verifier.check_program(stray).failure)
