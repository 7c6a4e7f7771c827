"""Is CUDA code called with the right addresses, on the right stream, and refused where need be?

On a FakeGpu: memory is the host's, kernels are Python functions."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cuda_kernels import SM90, add_code, add_func, steps_code
from fake_gpu import CudaError, FakeGpu, NdArray, at, number

import gputune
from gputune.codegen.cuda.program import Launch, Memset
from gputune.errors import BuildError, GputuneError, LowerError, RunError
from gputune.ir.nodes import IRModule
from gputune.runtime import cuda_device
from gputune.runtime.cuda_device import LOST, runs_on, translated
from gputune.runtime.cuda_function import CudaFunction
from gputune.runtime.cuda_program import CudaProgram
from gputune.runtime.module import build
from gputune.target import Target


def add(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    at(table, 2, 64)[...] = at(table, 0, 64) + at(table, 1, 64)


def add_bits(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    a, b, c = (at(table, i, 64, "uint16").view(ml_dtypes.bfloat16) for i in range(3))
    c[...] = a + b


def first(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    at(table, 2, 64)[...] = at(table, 0, 64) * number(table, 1, "float32")


def second(gpu: FakeGpu, sizes: Any, table: Any) -> None:
    at(table, 0, 64)[...] = at(table, 1, 64)[::-1]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    fake = FakeGpu()
    fake.kernels |= {"add_kernel": add, "steps_0_kernel": first, "steps_1_kernel": second}
    fake.counts["steps_1_kernel"] = 2
    fake.install(monkeypatch)
    return fake


def arrays(gpu: FakeGpu, count: int = 3, dtype: Any = np.float32) -> list[NdArray]:
    rng = np.random.default_rng(0)
    return [gpu.array(rng.random(64).astype(dtype)) for _ in range(count)]


def the_add() -> CudaFunction:
    return add_code().function("add")


# ----------------------------------------------------------------------------- calls
def test_a_call(gpu: FakeGpu) -> None:
    a, b, c = arrays(gpu)
    f = the_add()
    f(a, b, c)
    np.testing.assert_array_equal(c.host, a.host + b.host)
    f(a, b, c)
    assert gpu.loaded == [add_code().binary.cubin]  # once
    assert [x for x in gpu.log if x[0] == "launch"] == [("launch", "add_kernel", 0)] * 2


def test_two_kernels_a_number_and_a_workspace(gpu: FakeGpu) -> None:
    a, _, c = arrays(gpu)
    f = steps_code().function("steps")
    f(a, 2.5, c)
    np.testing.assert_array_equal(c.host, (a.host * np.float32(2.5))[::-1])
    loaded = f.program.on(gpu.cupy, 0)
    memory = loaded.workspaces(0)
    assert loaded.workspaces(0) is memory  # kept
    stream = gpu.new_stream()
    assert loaded.workspaces(stream.ptr) is not memory  # of each stream


def test_the_current_stream(gpu: FakeGpu) -> None:
    a, b, c = arrays(gpu)
    f = the_add()
    with gpu.new_stream() as stream:
        f(a, b, c)
        bound = f.bind(a, b, c)
    bound()  # on the stream that was current when it was bound
    assert gpu.log == [("launch", "add_kernel", stream.ptr)] * 2
    assert stream.now == pytest.approx(20e-6)
    assert gpu.null.now == 0


def test_capture_in_a_graph(gpu: FakeGpu) -> None:
    a, _, c = arrays(gpu)
    f = steps_code().function("steps")
    with gpu.new_stream() as stream:
        stream.begin_capture()
        with pytest.raises(RunError, match="while a graph is captured") as refused:
            f(a, 2.0, c)
        assert "call it once" in refused.value.hint
        stream.end_capture()
        f(a, 2.0, c)  # warm
        c.host[...] = 0
        gpu.log.clear()
        stream.begin_capture()
        f(a, 3.0, c)
        graph = stream.end_capture()
        assert gpu.log == []
        assert not c.host.any()
        graph.launch(stream)
    np.testing.assert_array_equal(c.host, (a.host * np.float32(3))[::-1])
    assert [x[0] for x in gpu.log] == ["launch", "launch"]


def test_memset_and_empty_grids(gpu: FakeGpu) -> None:
    code = add_code()
    launch = code.source.host.launches[0]
    steps = (Memset("C", 0xFF), replace(launch, grid=(0, 1, 1)))
    host = replace(code.source.host, steps=steps)
    f = CudaFunction(the_add().sig, replace(code.source, host=host), code.binary)
    a, b, c = arrays(gpu)
    f(a, b, c)
    assert np.isnan(c.host).all()
    assert [x[0] for x in gpu.log] == ["memset"]


def test_from_another_thread_and_device(gpu: FakeGpu) -> None:
    a, b, c = arrays(gpu)
    f = the_add()
    done: list[object] = []

    def work() -> None:
        f(a, b, c)
        done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert done == [1]
    gpu.device = 1
    others = arrays(gpu)
    f(*others)
    assert gpu.cupy.cuda.runtime.getDevice() == 0  # as it was
    assert len(gpu.loaded) == 2  # once a device
    with pytest.raises(RunError, match=r"'B' .* lies on GPU 0, another argument on GPU 1"):
        f(others[0], b, others[2])


def test_host_arrays(gpu: FakeGpu) -> None:
    a, b = (np.random.default_rng(k).random(64, dtype=np.float32) for k in range(2))
    c = np.zeros(64, np.float32)
    with pytest.raises(RunError, match="found a ndarray in host memory") as refused:
        the_add()(a, b, c)
    assert "copy=True" in refused.value.hint
    the_add()(a, b, c, copy=True)
    np.testing.assert_array_equal(c, a + b)
    c.flags.writeable = False
    with pytest.raises(RunError, match="read-only"):
        the_add()(a, b, c, copy=True)


def test_bfloat16_as_bits(gpu: FakeGpu) -> None:
    gpu.kernels["narrow_kernel"] = add_bits
    f = add_code("narrow", "bfloat16").function("narrow")
    values = [np.arange(64).astype(ml_dtypes.bfloat16) for _ in range(3)]
    a, b, c = (gpu.array(x.view(np.uint16)) for x in values)
    f(a, b, c)
    expected = values[0] + values[1]
    np.testing.assert_array_equal(c.host.view(ml_dtypes.bfloat16), expected)
    f(*values, copy=True)
    np.testing.assert_array_equal(values[2], expected)
    with pytest.raises(RunError, match="expected dtype bfloat16, found int16"):
        f(a, b, gpu.array(np.zeros(64, np.int16)))


# ----------------------------------------------------------------------------- other libraries
class Interface:
    """What numba's arrays have."""

    def __init__(self, array: NdArray, **more: Any) -> None:
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": (array.data.ptr, False),
            "strides": None, "version": 3, **more,
        }  # fmt: skip


def test_cuda_array_interface(gpu: FakeGpu) -> None:
    a, b, c = arrays(gpu)
    stream = gpu.new_stream()
    the_add()(Interface(a), Interface(b, stream=stream.ptr), Interface(c, stream=1))
    np.testing.assert_array_equal(c.host, a.host + b.host)
    waits = [x for x in gpu.log if x[0] in ("record", "wait")]
    assert waits == [("record", -1, stream.ptr), ("wait", 0, -1)]  # not for the stream it runs on
    with pytest.raises(RunError, match="read-only"):
        the_add()(a, b, Interface(c, data=(c.data.ptr, True)))
    with pytest.raises(RunError, match="masked"):
        the_add()(a, Interface(b, mask=a), c)


class Exported:
    """An array that exports its memory by DLPack, as on a GPU."""

    def __init__(self, array: NdArray, kind: int = 2) -> None:
        self.array, self.kind = array, kind
        self.asked: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None) -> Any:
        self.asked.append(stream)
        return self.array.host.__dlpack__()


def test_dlpack(gpu: FakeGpu) -> None:
    a, b, c = arrays(gpu)
    one, two = Exported(a), Exported(b)
    the_add()(one, two, c)
    np.testing.assert_array_equal(c.host, a.host + b.host)
    assert one.asked == [1]  # the default stream, as DLPack writes it
    with gpu.new_stream() as stream:
        the_add()(one, two, c)
    assert one.asked == [1, stream.ptr]
    with pytest.raises(RunError, match="found a Exported on cpu"):
        the_add()(a, Exported(b, kind=1), c)


class Tensor:
    """What a torch tensor has."""

    def __init__(self, array: NdArray, device: str = "cuda", grad: bool = False) -> None:
        self.array, self.requires_grad = array, grad
        self.device = SimpleNamespace(type=device, index=0)
        self.dtype = f"torch.{array.dtype}"
        self.shape = array.shape

    def data_ptr(self) -> int:
        return int(self.array.data.ptr)

    def is_contiguous(self) -> bool:
        return self.array.flags.c_contiguous

    def stride(self) -> tuple[int, ...]:
        return tuple(s // self.array.itemsize for s in self.array.strides)


def test_torch(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = gpu.new_stream()
    current = SimpleNamespace(cuda_stream=stream.ptr)
    torch = SimpleNamespace(
        Tensor=Tensor, cuda=SimpleNamespace(current_stream=lambda device: current)
    )
    monkeypatch.setitem(__import__("sys").modules, "torch", torch)
    a, b, c = arrays(gpu)
    the_add()(*map(Tensor, (a, b, c)))
    np.testing.assert_array_equal(c.host, a.host + b.host)
    assert gpu.log == [("launch", "add_kernel", stream.ptr)]  # torch's current stream
    the_add()(a, Tensor(b), c)  # CuPy's arrays come from CuPy's stream
    assert ("wait", stream.ptr, -1) in gpu.log
    with pytest.raises(RunError, match="torch tensor on"):
        the_add()(Tensor(a), Tensor(b, device="cpu"), Tensor(c))
    with pytest.raises(RunError, match="requires gradients") as refused:
        the_add()(Tensor(a, grad=True), Tensor(b), Tensor(c))
    assert "detach" in refused.value.hint


# ----------------------------------------------------------------------------- refusals
def test_arguments_that_do_not_fit(gpu: FakeGpu) -> None:
    a, b, c = arrays(gpu)
    f = the_add()
    cases: list[tuple[list[Any], str]] = [
        ([a, b], "takes 3 arguments"),
        ([a, b, 3.0], "expected an array on the GPU, found float"),
        ([a, gpu.array(np.zeros(63, np.float32)), c], r"'B' .*expected shape \(64,\), found \(63,"),
        ([a, gpu.array(np.zeros((64, 1), np.float32)), c], "expected shape"),
        ([a, gpu.array(np.zeros(64, np.float64)), c], "expected dtype float32, found float64"),
        ([a, gpu.array(np.zeros(64, np.complex64)), c], "complex64 is not supported"),
        ([a, c, c], "memory of its own"),
        ([a, NdArray(gpu, np.zeros(64, np.float32), gpu.alloc(999), at=2), c], "aligned to 4"),
    ]
    for args, message in cases:
        with pytest.raises(RunError, match=message):
            f(*args)
    assert gpu.log == []


def test_strides(gpu: FakeGpu) -> None:
    square = gpu.array(np.zeros((64, 64), np.float32))
    row = object.__new__(NdArray)
    row.__dict__.update(square.__dict__)
    row.host = square.host[:, 0]
    _, b, c = arrays(gpu)
    with pytest.raises(RunError, match="expected C-contiguous memory, found strides"):
        the_add()(row, b, c)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, "cuda_problem", lambda: "no NVIDIA driver")
    lib = build(add_func(), SM90)
    assert "__global__" in lib.inspect_source()
    assert lib.inspect_source("cuda") == lib.inspect_source()
    assert lib.facts["add_kernel"].registers > 0
    assert 0 < lib.occupancy["add_kernel"] <= 1
    with pytest.raises(RunError, match=r"add needs an NVIDIA GPU.* no NVIDIA driver") as refused:
        lib["add"](None, None, None)
    assert refused.value.code == "no-gpu"
    with pytest.raises(RunError, match="no NVIDIA driver"):
        lib.time_evaluator("add", gputune.cuda())(1, 2, 3)
    with pytest.raises(RunError, match="expected 'cuda' for cuda, found 'll'"):
        lib.inspect_source("ll")
    with pytest.raises(RunError, match="runs on cuda devices"):
        lib.time_evaluator("add", gputune.cpu())


def test_module_runs(gpu: FakeGpu) -> None:
    a, b, c = arrays(gpu)
    lib = gputune.build(IRModule({"add": add_func()}), "cuda -arch=sm_90")
    lib["main"](a, b, c)
    np.testing.assert_array_equal(c.host, a.host + b.host)
    lib(a, b, c)
    assert len(gpu.log) == 2


def test_programs_that_a_gpu_cannot_run() -> None:
    with pytest.raises(LowerError, match="not bound to threads") as refused:
        build(gputune.kernels.get("matmul").build(m=8, n=8, k=8), SM90)
    assert "default_gpu_schedule" in refused.value.hint
    limited = Target("cuda -arch=sm_90 -max-threads-per-block=16")
    with pytest.raises(BuildError, match="no block of add_kernel can run"):
        build(add_func(), limited)


def test_architectures(gpu: FakeGpu) -> None:
    assert runs_on("sm_90a", "sm_90")
    assert not runs_on("sm_90a", "sm_91")
    assert not runs_on("sm_120", "sm_90")
    assert runs_on("sm_120", "sm_121")
    gpu.properties |= {"major": 8, "minor": 0}
    with pytest.raises(RunError, match="built for sm_90, and this GPU is an Fake H100") as refused:
        the_add()(*arrays(gpu))
    assert refused.value.code == "wrong-arch"
    assert "sm_80" in refused.value.hint


def test_shared_memory_beyond_48_kib(gpu: FakeGpu) -> None:
    code = add_code()
    launch = replace(code.source.host.launches[0], shared_bytes=100_000)
    host = replace(code.source.host, steps=(launch,))
    f = CudaFunction(the_add().sig, replace(code.source, host=host), code.binary)
    f(*arrays(gpu))
    assert list(gpu.attributes.values()) == [100_000]
    gpu.properties["sharedMemPerBlockOptin"] = 99_000
    cuda_device._known.clear()
    g = CudaFunction(the_add().sig, replace(code.source, host=host), code.binary)
    with pytest.raises(RunError, match="uses 100000 bytes of shared memory a block"):
        g(*arrays(gpu))


def test_clusters_are_refused() -> None:
    code = add_code()
    launch = code.source.host.launches[0]
    assert isinstance(launch, Launch)
    host = replace(code.source.host, steps=(replace(launch, cluster=(2, 1, 1)),))
    with pytest.raises(RunError, match="clusters, which is not part"):
        CudaProgram(host, code.binary)


@pytest.mark.parametrize(
    ("status", "code", "lost"),
    [(2, "out-of-memory", False), (209, "wrong-arch", False), (701, "launch", False),
     (700, "cuda-700", True), (719, "cuda-719", True), (46, "cuda-46", False)],
)  # fmt: skip
def test_errors_of_cuda(status: int, code: str, lost: bool) -> None:
    found = translated(CudaError(status), "add")
    assert isinstance(found, RunError)
    assert (found.code, LOST in found.details) == (code, lost)
    assert found.message.startswith("add: ")


def test_an_error_of_a_launch(gpu: FakeGpu) -> None:
    args = arrays(gpu)
    f = the_add().bind(*args)
    gpu.lost = 700
    with pytest.raises(RunError, match="memory that is not there") as failed:
        f()
    assert "start a new process" in failed.value.hint
    with pytest.raises(GputuneError):
        the_add()(*args)
    other = RuntimeError("not of CUDA")
    assert translated(other, "add") is other
