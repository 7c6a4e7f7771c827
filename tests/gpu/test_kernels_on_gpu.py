"""Are kernels right on the device: with the default schedule, with schedules by hand, raw ones?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_programs import check, on_gpu

import gputune as gt
from gputune.default_gpu_schedule import default_gpu_schedule
from gputune.kernels import KERNELS, cuda
from gputune.target import Target

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.gpu_schedules import gpu_schedules


@pytest.mark.parametrize("name", list(KERNELS))
def test_default_schedule(cp: Any, name: str) -> None:
    kernel = KERNELS[name]
    for shape in kernel.check_shapes:
        func = kernel.build(shape)
        sch = default_gpu_schedule(func, Target("cuda"))
        lib = gt.build(sch.mod, "cuda")
        check(cp, kernel, shape, lib["main"], func)


@pytest.mark.parametrize("name", ["matmul", "softmax", "conv2d"])
def test_schedules_by_hand(cp: Any, name: str) -> None:
    for one in gpu_schedules(name):
        lib = gt.build(one.sch.mod, "cuda")
        check(cp, one.kernel, one.shape, lib["main"], one.func)


@pytest.mark.parametrize("name", list(cuda.EXAMPLES))
def test_raw_kernels(cp: Any, cost_model: str, name: str) -> None:
    example = cuda.get(name)
    for sizes in example.check_sizes:
        args = example.arguments(sizes)
        kernel = gt.cuda_kernel(**example.description())
        result = gt.tune_kernel(
            kernel, args, reference=example.reference, trials=6, seed=1, cost_model=cost_model
        )
        assert result.best.measured.verified
        assert result.best.seconds < 1
        device = on_gpu(cp, list(args))
        result.best(*device)
        expected = example.reference(*args)
        names = result.best.arguments.kernel.names(len(args), example.reference)
        for argument, x in zip(names, device):
            if argument in expected:
                want = np.asarray(expected[argument], np.float64)
                got = cp.asnumpy(x).astype(np.float64)
                np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


def test_raw_records_have_clocks_and_power(cp: Any, cost_model: str) -> None:
    example = cuda.get("vadd")
    args = example.arguments({"n": 1 << 22})
    kernel = gt.cuda_kernel(**example.description())
    result = gt.tune_kernel(
        kernel, args, reference=example.reference, trials=8, seed=1, cost_model=cost_model
    )
    nvml = result.best.nvml
    assert nvml is not None, result.best.nvml_problem
    for name in ("sm_mhz", "mem_mhz", "power_w", "temperature_c"):
        assert nvml[name] is not None, nvml.get("problems")
    extras = result.best.measured.extras
    assert extras["timing"]["regime"] in ("rotate", "warm")
    assert extras["gpu"]["arch"].startswith("sm_")
