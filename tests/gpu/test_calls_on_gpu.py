"""Does a call on the device keep to streams, graphs, other libraries' arrays and its limits?"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gpu_programs import VADD, run_alone, two_kernels, vadd

import gputune as gt
from gputune.codegen.cuda.program import CudaSource, HostProgram, Launch, Param
from gputune.errors import RunError, TimeoutExpired
from gputune.meta_schedule.cuda_runner import shared_gpu_worker
from gputune.runtime.cuda_build import CudaCode, compile_cuda, described_arguments
from gputune.runtime.cuda_timer import CudaTiming
from gputune.script import from_source
from gputune.target import Target
from gputune.target.host import cuda_arch


@pytest.fixture
def arrays(cp: Any) -> list[Any]:
    rng = np.random.default_rng(0)
    a, b = (cp.asarray(rng.random(100_000, dtype=np.float32)) for _ in range(2))
    return [a, b, cp.zeros_like(a)]


def test_the_current_stream(cp: Any, arrays: list[Any]) -> None:
    a, b, c = arrays
    f = gt.build(vadd(), "cuda")["main"]
    cp.cuda.Device().synchronize()
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        f(a, b, c)
        c *= 2  # on the same stream: after it
    stream.synchronize()
    cp.testing.assert_allclose(c, (a + b) * 2, rtol=1e-6)


def test_a_cuda_graph(cp: Any) -> None:
    a = cp.arange(4096, dtype=cp.float32)
    c = cp.zeros(4096, cp.float32)
    f = gt.build(two_kernels(), "cuda")["main"]
    stream = cp.cuda.Stream(non_blocking=True)
    cp.cuda.Device().synchronize()
    with stream:
        f(a, c)  # allocates its workspace
        stream.begin_capture()
        f(a, c)
        graph = stream.end_capture()
        a[...] = 1
        c[...] = 0
        graph.launch(stream)
    stream.synchronize()
    cp.testing.assert_array_equal(c, cp.full(4096, 4, cp.float32))


def test_torch_tensors(cp: Any) -> None:
    torch = pytest.importorskip("torch")
    a, b = (torch.rand(100_000, device="cuda") for _ in range(2))
    c = torch.zeros_like(a)
    f = gt.build(vadd(), "cuda")["main"]
    f(a, b, c)
    torch.testing.assert_close(c, a + b)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        f(a, c, b)
        d = b * 1
    side.synchronize()
    torch.testing.assert_close(d, a + c)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        f(a, b, c)
    a.fill_(2)
    b.fill_(3)
    graph.replay()
    torch.cuda.synchronize()
    assert bool((c == 5).all())
    with pytest.raises(RunError, match="torch tensor on cpu"):
        f(a.cpu(), b, c)


def test_bfloat16_of_torch(cp: Any) -> None:
    torch = pytest.importorskip("torch")
    func = from_source(VADD.format(n=5000, blocks=20).replace("float32", "bfloat16"))
    x, y, z = (torch.randn(5000, device="cuda").to(torch.bfloat16) for _ in range(3))
    gt.build(func, "cuda")["main"](x, y, z)
    torch.testing.assert_close(z, x + y)


def test_jax(cp: Any, arrays: list[Any]) -> None:
    jax = pytest.importorskip("jax")
    f = gt.build(vadd(), "cuda")["main"]
    a, b, c = arrays
    x = jax.numpy.asarray(cp.asnumpy(a))
    if x.device.platform != "gpu":
        pytest.skip(f"JAX computes on {x.device.platform}")
    f(x, b, c)
    cp.testing.assert_allclose(c, a + b, rtol=1e-6)
    with pytest.raises(RunError, match="read-only"):
        f(a, b, x)


def test_numba(cp: Any, arrays: list[Any]) -> None:
    numba_cuda = pytest.importorskip("numba.cuda")
    f = gt.build(vadd(), "cuda")["main"]
    a, b, c = arrays
    try:
        y = numba_cuda.to_device(cp.asnumpy(b))
    except Exception as e:  # of numba, where it does not know this driver
        pytest.skip(f"numba cannot use this GPU: {e}")
    f(a, y, c)
    cp.testing.assert_allclose(c, a + b, rtol=1e-6)


def test_host_arrays(cp: Any) -> None:
    a, b = (np.random.default_rng(k).random(100_000, dtype=np.float32) for k in range(2))
    c = np.zeros_like(a)
    f = gt.build(vadd(), "cuda")["main"]
    with pytest.raises(RunError, match="in host memory"):
        f(a, b, c)
    f(a, b, c, copy=True)
    np.testing.assert_allclose(c, a + b, rtol=1e-6)


SHARED = """
extern "C" __global__ void reverse(float* y, const float* x, int n) {
  extern __shared__ float s[];
  for (int i = threadIdx.x; i < n; i += blockDim.x) s[i] = x[i];
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = s[n - 1 - i];
}
"""


def test_more_than_48_kib_of_shared_memory(cp: Any) -> None:
    from gputune.runtime.cuda_program import CudaProgram

    n = 20_000  # 80 KB
    launch = Launch("reverse", (1, 1, 1), (256, 1, 1), ("y", "x", "n"), 4 * n)
    params = (Param("y", "float32", n, True), Param("x", "float32", n), Param("n", "int32"))
    source = CudaSource(SHARED, HostProgram("reverse", params, (launch,)), prelude=False)
    program = CudaProgram(source.host, compile_cuda(source, cuda_arch()))
    x = cp.arange(n, dtype=cp.float32)
    y = cp.zeros_like(x)
    program.on(cp, 0).call([y.data.ptr, x.data.ptr, n], 0)()
    cp.testing.assert_array_equal(y, x[::-1])


def test_the_timer(cp: Any, arrays: list[Any]) -> None:
    lib = gt.build(vadd(), "cuda")
    warm = lib.time_evaluator("main", gt.cuda(), repeat=20, min_repeat_ms=2)(*arrays)
    assert isinstance(warm, CudaTiming)
    assert 1e-7 < warm.median < 1e-3
    cold = lib.time_evaluator("main", gt.cuda(), repeat=20, flush_cache=True)(*arrays)
    assert cold.median > 0.8 * warm.median
    assert warm.nvml is not None, warm.nvml_problem
    assert warm.nvml["sm_mhz"]
    assert warm.nvml["mem_mhz"]


BAD = {
    "outside": "p[(long long)i << 40] = 1.0f;",
    "hang": "while (((volatile float*)p)[0] > -1e30f) {}",
    "trap": "if (i == 3) __trap();",
}
TEXT = 'extern "C" __global__ void {name}(float* p) {{ int i = threadIdx.x; {body} }}'


def bad_code(name: str) -> tuple[CudaCode, list[dict[str, Any]]]:
    launch = Launch(name, (1, 1, 1), (32, 1, 1), ("p",))
    host = HostProgram(name, (Param("p", "float32", 1024, True),), (launch,))
    source = CudaSource(TEXT.format(name=name, body=BAD[name]), host, prelude=False)
    code = CudaCode(source, compile_cuda(source, cuda_arch()), vadd(), {})
    tensor = {"kind": "tensor", "name": "p", "dtype": "float32", "shape": [1024], "written": True}
    return code, [tensor]


@pytest.mark.parametrize("name", list(BAD))
def test_bad_candidates_cost_only_themselves(cp: Any, name: str) -> None:
    worker = shared_gpu_worker()
    code, arguments = bad_code(name)
    args = {"cuda": code.as_json(), "arguments": arguments}
    with pytest.raises((RunError, TimeoutExpired)):
        worker.request("run_cuda", args, (code.object_code,), 5)
    from gputune.runtime.cuda_build import compile_function

    good = compile_function(vadd(), Target("cuda"))
    args = {"cuda": good.as_json(), "arguments": described_arguments(vadd())}
    reply = worker.request("run_cuda", args, (good.object_code,), 30)
    assert 0 < reply.data["run_secs"][0] < 1


STICKY = """
import sys, json
sys.path.insert(0, "tests/gpu")
import cupy as cp
from test_calls_on_gpu import bad_code
from gputune.errors import RunError
from gputune.runtime.cuda_program import CudaProgram
from gputune.runtime.cuda_device import cuda_errors, LOST
code, _ = bad_code("outside")
p = cp.zeros(1024, cp.float32)
out = {}
try:
    with cuda_errors("outside"):
        CudaProgram(code.source.host, code.binary).on(cp, 0).call([p.data.ptr], 0)()
        cp.cuda.runtime.deviceSynchronize()
except RunError as e:
    out = {"code": e.code, "lost": LOST in e.details, "hint": e.hint}
print(json.dumps(out))
import os; sys.stdout.flush(); os._exit(0)
"""


def test_a_sticky_error_is_named() -> None:
    found = json.loads(run_alone(STICKY).splitlines()[-1])
    assert found["code"] in ("cuda-700", "cuda-719")
    assert found["lost"]
    assert "new process" in found["hint"]


def test_wrong_architecture(cp: Any) -> None:
    other = "sm_80" if not cuda_arch().startswith("sm_8") else "sm_90"
    lib = gt.build(vadd(), f"cuda -arch={other}")
    a = cp.zeros(100_000, cp.float32)
    with pytest.raises(RunError, match=f"built for {other}"):
        lib["main"](a, a + 1, a + 2)
