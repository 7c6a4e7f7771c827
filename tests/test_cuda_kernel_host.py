"""Do hand-written CUDA kernels run, and are their faults found, where there is no GPU?"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gputune as gt
from gputune.kernels import cuda
from gputune.meta_schedule.host_runner import CLOCK, HostExecutionRunner
from gputune.meta_schedule.json_database import RECORD_FILE
from gputune.raw_kernel import CudaKernel

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="no C++ compiler for host execution",
)
TARGET = gt.Target("cuda -arch=sm_80")
N = 300
A = np.linspace(-1, 1, N, dtype=np.float32)
B = np.linspace(3, 0, N, dtype=np.float32)
TEXT = """\
extern "C" __global__ void vadd(float* c, const float* a, const float* b, int n) {
  int i = blockIdx.x * BX + threadIdx.x;
  @
  if (i < n) c[i] = a[i] + b[i];
}
"""


def vadd(broken: str = "", **changes: Any) -> CudaKernel:
    """BX = 128 has an extra line."""
    given: dict[str, Any] = {
        "source": TEXT.replace("@", f"\n#if BX == 128\n{broken}\n#endif\n"),
        "params": {"BX": [64, 128]},
        "grid": lambda p, c, a, b, n: gt.cdiv(int(n), p.BX),
        "block": lambda p: p.BX,
        "outputs": ("c",),
    }
    return gt.cuda_kernel("vadd", **{**given, **changes})


def args() -> tuple[Any, ...]:
    return np.zeros(N, np.float32), A, B, np.int32(N)


def tuned(kernel: CudaKernel, **options: Any) -> Any:
    given: dict[str, Any] = {
        "reference": lambda c, a, b, n: {"c": a + b},
        "target": TARGET,
        "runner": "host",
        "seed": 1,
    }
    return gt.tune_kernel(kernel, args(), **{**given, **options})


# ----------------------------------------------------------------------------- what comes along
@pytest.mark.parametrize("name", list(cuda.EXAMPLES))
def test_the_examples(name: str, tmp_path: Path) -> None:
    """Each through `tune_kernel`, three configurations for each of its small sizes."""
    example = cuda.get(name)
    kernel = gt.cuda_kernel(**example.description())
    for sizes in example.check_sizes:
        r = gt.tune_kernel(
            kernel,
            example.arguments(sizes),
            reference=example.reference,
            target=TARGET,
            runner="host",
            trials=3,
            seed=2,
            work_dir=tmp_path,
            metrics=example.metrics(sizes),
        )
        assert not r.failed, r.why()
        assert r.best.measured.verified
        assert r.best.measured.extras["clock"] == CLOCK
        assert "GB/s" in r.table()


def test_an_unknown_example_is_refused() -> None:
    with pytest.raises(gt.UserError, match="no CUDA example 'vad'") as e:
        cuda.get("vad")
    assert "vadd" in e.value.hint


# ----------------------------------------------------------------------------- faults
@pytest.mark.parametrize(
    ("broken", "phase", "kind", "said"),
    [
        ("c[i + 400] = 0;", "run", "out-of-bounds", "c["),
        ("if (a[n + i] > 0) c[0] = 1;", "run", "out-of-bounds", "a["),
        ("((float*)a)[i % 7] = 0;", "run", "write-to-input", "a["),
        ("if (i < n && c[i] > 0) return;", "run", "uninitialised-read", "c["),
        (
            "__shared__ float s[1]; if (threadIdx.x == 0) s[0] = 1; if (i == 9) c[0] = s[0];",
            "run",
            "shared-race",
            "s[",
        ),
        (
            "if (threadIdx.x % 2) __syncthreads();\nelse { __syncthreads(); __syncthreads(); }",
            "run",
            "divergent-barrier",
            "vadd",
        ),
        ("nonsense;", "build", "BuildError", "nonsense"),
        ("if (i < n) { c[i] = 0; return; }", "check", "wrong_result", "c: "),
        ("if (i == 7) return;", "check", "wrong_result", "1 elements differ"),
    ],
)
def test_a_fault_is_one_failure(
    broken: str, phase: str, kind: str, said: str, tmp_path: Path
) -> None:
    r = tuned(vadd(broken), work_dir=tmp_path)
    assert r.best.params == {"BX": 64}
    lines = (tmp_path / RECORD_FILE).read_text().splitlines()
    errors = [x[1][4]["error"] for x in map(json.loads, lines) if "error" in x[1][4]]
    if phase == "check" and not errors:  # it was the slower one: nobody looked
        assert len(lines) == 2
        return
    assert len(errors) == 1
    assert (errors[0]["phase"], errors[0]["kind"]) == (phase, kind)
    assert said in errors[0]["message"]
    assert "BX=128" in r.why()


def test_a_kernel_that_never_ends_is_one_failure(tmp_path: Path) -> None:
    r = tuned(vadd("while (n > 0) c[0] = 1;"), timeout=2.0, work_dir=tmp_path)
    (failed,) = r.failed
    assert failed.params == {"BX": 128}
    assert (failed.error["phase"], failed.error["kind"]) == ("run", "endless-loop")
    assert r.best.params == {"BX": 64}
    assert "run endless-loop" in r.why()


def test_a_wrong_configuration_never_wins(tmp_path: Path) -> None:
    """All but one are wrong, so that whatever is fast, it is refused."""
    text = TEXT.replace("@", "if (BX != 96 && i == n - 1) return;")
    r = tuned(vadd(source=text, params={"BX": [32, 64, 96, 128]}), work_dir=tmp_path)
    assert r.best.params == {"BX": 96}
    wrong = [m for m in r.failed if m.error["kind"] == "wrong_result"]
    assert wrong
    for m in wrong:
        assert repr(m.params) in r.why()


def test_inout_begins_with_the_callers_values() -> None:
    text = TEXT.replace("@", "").replace("c[i] =", "c[i] +=")
    given = (np.full(N, 5, np.float32), *args()[1:])
    options: dict[str, Any] = {
        "reference": lambda c, a, b, n: {"c": c + a + b},
        "target": TARGET,
        "runner": "host",
    }
    r = gt.tune_kernel(vadd(source=text, outputs=(), inout=("c",)), given, **options)
    assert r.best.measured.verified
    assert (given[0] == 5).all()


# ----------------------------------------------------------------------------- the runner
def test_times_of_the_simulation_are_another_workload(tmp_path: Path) -> None:
    from .cuda_sim import SimulatedGpu

    tuned(vadd(), work_dir=tmp_path)
    gpu = SimulatedGpu(lambda p: 1.0, lambda p: {"c": A + B})
    r = tuned(vadd(), runner=gpu, work_dir=tmp_path)
    assert len(gpu.measured) == 2
    assert r.best.seconds == 1.0


def test_the_runner_by_itself_refuses_what_it_cannot_run(tmp_path: Path) -> None:
    from gputune.meta_schedule.artifact import Artifact
    from gputune.meta_schedule.runner import RunnerInput

    path = tmp_path / "x.o"
    Artifact("f", [], 1, "", {"kind": "llvm"}, b"code").save(path)
    (future,) = HostExecutionRunner().run([RunnerInput(str(path), "cuda", [])])
    result = future.result()
    assert result.problem is not None
    assert "was built for llvm" in result.problem.message
    with pytest.raises(gt.UserError, match="order"):
        HostExecutionRunner(order="sideways")
    with pytest.raises(gt.UserError, match="timeout"):
        HostExecutionRunner(timeout_sec=0)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_orders(order: str) -> None:
    r = tuned(vadd(), runner=HostExecutionRunner(order=order), trials=1)
    assert r.best.measured.verified
