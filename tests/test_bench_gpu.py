"""Does the GPU bench ask, check, plan, resume and tabulate as it says? Without a GPU."""

from __future__ import annotations

import ast
import ctypes
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import gpu
import gpu_ceilings
import gpu_cell
import gpu_cells
import gpu_clock
import gpu_compile
import gpu_device
import gpu_forms
import gpu_peers
import gpu_plan
import gpu_run
import gpu_table
from gpu_cells import CELLS, EVERY, Cell
from gpu_clock import in_turns

import gputune as gt
from gputune import meta_schedule as ms
from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import host_compile, host_run
from gputune.kernels import KERNELS
from gputune.kernels.kernel import Shape
from gputune.runtime.nvml import Reading
from gputune.script import from_source

from .runtime.fake_gpu import FakeGpu

BENCH = Path(gpu.__file__).parent
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="no C++ compiler for host execution",
)
KINDS = {(c.kernel, c.dtype): c for c in reversed(EVERY.values())}
"""One cell of each kernel and dtype; the others are the same programs at other sizes."""
PLAIN = [c for (_, dtype), c in KINDS.items() if dtype == "float32"]


# ----------------------------------------------------------------------------- cells
def test_cells_are_there_once_and_say_what_they_are() -> None:
    for shard, cells in CELLS.items():
        assert len({c.name for c in cells}) == len(cells), shard
    assert len(EVERY) > 150
    assert EVERY["matmul 4096x4096x4096 f32"].full == {"m": 4096, "n": 4096, "k": 4096}
    for name, cell in EVERY.items():
        assert cell.operator.shape() == cell.full, name
        assert set(cell.compiled) <= set(gpu_plan._MODES) & set(gpu_peers.COMPILE_SECONDS)


def test_the_first_size_of_each_convolution_is_the_suites() -> None:
    names = [n for n in EVERY if n.split(" ")[0].endswith("-0")]
    assert len(names) == 9
    for name in names:
        kernel = KERNELS[name.split("-")[0]]
        assert EVERY[name].operator.make is kernel.make
        assert EVERY[name].full == kernel.shape(), name


def test_max_autotune_is_rare() -> None:
    """It costs half a minute."""
    for shard, cells in CELLS.items():
        assert sum(gpu_cells.AUTOTUNE in c.compiled for c in cells) <= 6, shard


@pytest.mark.parametrize("cell", PLAIN, ids=lambda c: c.kernel)
def test_every_kind_of_cell_compiles(cell: Cell) -> None:
    """At its real size, for sm_90a: the default schedule, and a random candidate."""
    for mod in (gpu_cell.default_program(cell, gpu_compile.TARGET), gpu_compile.candidate(cell)):
        assert mod is not None
        code = gpu_compile.compiled(mod)
        assert code.binary.cubin
        assert code.source.host.launches


# ----------------------------------------------------------------------------- forms
SMALL = [
    pytest.param(KINDS[kind], shape, id=f"{kind[0]}-{kind[1]}-{k}")
    for kind in KINDS
    for k, shape in enumerate(KERNELS[kind[0]].check_shapes)
]


def small(operator: str, dtype: str = "float32", /, **shape: int) -> Cell:
    return Cell("a family", operator, shape, dtype)


def from_numpy(torch: Any, a: Any, dtype: str) -> Any:
    if a.dtype.kind in "iu":
        return torch.from_numpy(a)
    return torch.from_numpy(a.astype(np.float32)).to(getattr(torch, dtype))


@pytest.mark.parametrize(("cell", "shape"), SMALL)
def test_torch_forms_are_what_numpy_says(cell: Cell, shape: Shape) -> None:
    """Each form in the cell's dtype, by the tolerance of the bench; and the oracle says that
    NumPy is right."""
    torch = pytest.importorskip("torch")
    one = small(cell.kernel, cell.dtype, **shape)
    kernel = one.operator
    arrays = kernel.arguments(None, one.dtype, seed=2)
    buffers = kernel.build(dtype=one.dtype).buffers
    for a, b in zip(arrays, buffers):
        if b.name == "label":
            a[...] %= one.full["n"]
    tensors = [from_numpy(torch, a, one.dtype) for a in arrays]
    expected = [
        from_numpy(torch, a, b.dtype)
        for a, b in zip(
            kernel.expected(arrays, None, one.dtype),
            [b for b in buffers if b.name in kernel.outputs],
        )
    ]
    oracle = gpu_forms.Oracle(torch, one, tensors)
    assert oracle.problem(expected) is None
    inputs = [x for x, out in zip(tensors, gpu_forms.is_output(one)) if not out]
    for name, form in gpu_forms.torch_forms(torch, one, inputs).items():
        if name != "out":
            assert oracle.problem(gpu_peers.as_tuple(form.function(*form.tensors))) is None, name


@pytest.mark.parametrize("kernel", [
    "matmul", "linear", "gemv", "batch_matmul", "row_sum", "axis_sum", "column_sum", "total_sum",
    "row_max", "axis_max", "column_max", "transpose", "batch_transpose",
])  # fmt: skip
def test_cupy_forms_in_numpy(kernel: str) -> None:
    for shape in KERNELS[kernel].check_shapes:
        cell = small(kernel, **shape)
        *inputs, out = cell.operator.arguments()
        (call,) = gpu_forms.cupy_calls(np, cell, inputs, out)
        call()
        (want,) = cell.operator.expected([*inputs, out])
        np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)


def test_cupy_has_no_form_of_the_others() -> None:
    assert not list(gpu_forms.cupy_calls(np, small("softmax"), [], None))


def test_inputs_are_never_zero_and_fit() -> None:
    torch = pytest.importorskip("torch")
    cell = small("cross_entropy", m=40, n=7)
    x, label, loss = gpu_forms.fresh(torch, cell, "cpu", 1)
    assert float(x.abs().max()) <= 1
    assert float(x.abs().mean()) > 0.3
    assert (int(label.min()), int(label.max())) == (0, 6)
    assert bool(loss.isnan().all())
    mask = gpu_forms.fresh(torch, small("bias_gelu_mask"), "cpu", 1)[2]
    assert sorted(mask.unique().tolist()) == [0, 1]
    again = gpu_forms.fresh(torch, cell, "cpu", 1)[0]
    assert bool((again == x).all())


# ----------------------------------------------------------------------------- what is right
def oracle_of(cell: Cell) -> tuple[Any, Any, list[Any]]:
    torch = pytest.importorskip("torch")
    tensors = gpu_forms.fresh(torch, cell, "cpu", 3)
    inputs = [x for x, out in zip(tensors, gpu_forms.is_output(cell)) if not out]
    form = next(iter(gpu_forms.torch_forms(torch, cell, inputs).values()))
    found = gpu_peers.as_tuple(form.function(*form.tensors))
    return torch, gpu_forms.Oracle(torch, cell, tensors), [x.clone() for x in found]


def test_what_is_wrong_is_found() -> None:
    _, oracle, (c,) = oracle_of(small("matmul", m=16, n=8, k=64))
    assert oracle.problem([c]) is None
    c[3, 4] += 0.01
    assert "1 of 128 elements differ, worst: found" in str(oracle.problem([c]))
    c[3, 4] = math.nan
    assert "found nan" in str(oracle.problem([c]))
    assert oracle.problem([c[:8]]) == "an output of shape (8, 8), not (16, 8)"
    assert oracle.problem([]) == "0 outputs, not 1"


def test_products_in_tf32_are_wrong() -> None:
    """Inputs rounded to ten bits of mantissa, as TF32 has."""
    torch, _, _ = oracle_of(small("matmul", m=4, n=4, k=4))
    cell = small("matmul", m=128, n=128, k=1024)
    tensors = gpu_forms.fresh(torch, cell, "cpu", 3)
    a, b = ((x.view(torch.int32) & ~0x1FFF).view(torch.float32) for x in tensors[:2])
    oracle = gpu_forms.Oracle(torch, cell, tensors)
    assert oracle.problem([tensors[0] @ tensors[1]]) is None
    assert "differ" in str(oracle.problem([a @ b]))


def test_a_copy_has_to_be_exact() -> None:
    torch, oracle, (b,) = oracle_of(small("transpose", m=5, n=3))
    assert oracle.problem([b]) is None
    b[1, 1] = torch.nextafter(b[1, 1], torch.tensor(2.0))
    assert "1 of 15 elements differ" in str(oracle.problem([b]))


def test_any_place_of_the_maximum_is_right() -> None:
    _, oracle, (index, value) = oracle_of(small("argmax", m=4, n=6))
    x = oracle._inputs[0]
    x[2, 1] = x[2, 4] = 5.0
    value[2] = 5.0
    for place in (1, 4):
        index[2] = place
        assert oracle.problem([index.int(), value]) is None
    index[2] = 3
    assert oracle.problem([index, value]) == "1 indices hold no maximum"
    index[2] = -1
    assert oracle.problem([index, value]) == "1 indices hold no maximum"
    value[0] += 1
    assert oracle.problem([index, value]) == "1 maxima differ"


@pytest.mark.parametrize("kernel", ["softmax", "layernorm", "cross_entropy", "axis_argmax"])
def test_large_cells_are_checked_by_rows(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = small(kernel, **dict(KERNELS[kernel].check_shapes[2]))
    _, oracle, found = oracle_of(cell)
    monkeypatch.setattr(gpu_forms, "_CHUNK", 20)
    assert len(oracle._chunks()) > 2
    assert oracle.problem(found) is None
    last = found[-1].reshape(-1)
    last[-1] = 7.0
    assert "rows from 6:" in str(oracle.problem(found))


# ----------------------------------------------------------------------------- Triton, unseen here
def test_triton_peers_parse_and_know_the_names() -> None:
    tree = ast.parse((BENCH / "triton_peers.py").read_text())
    names = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    for kernel in ("matmul", "linear", "batch_matmul", "softmax", "log_softmax", "cross_entropy",
                   "layernorm", "rmsnorm", "add_rmsnorm", "row_sum", "add_mul", "silu_mul",
                   "transpose", "batch_transpose"):  # fmt: skip
        assert kernel in names
        assert kernel in KERNELS


# ----------------------------------------------------------------------------- the ceilings
def test_ceilings_compile() -> None:
    for form in gpu_ceilings.STREAMS:
        binary = compile_cuda(gpu_ceilings.stream_source(form, 132, 1 << 20, 1 << 20), "sm_90a")
        facts = binary.facts["stream"]
        assert facts.spill_loads == facts.spill_stores == 0
        assert facts.mix["LDG"] >= form.steps
    for form in gpu_ceilings.FMAS:
        source, work = gpu_ceilings.fma_source(form, 132)
        binary = compile_cuda(source, "sm_90a")
        facts = binary.facts["multiply_add"]
        assert facts.spill_loads == facts.spill_stores == 0
        assert facts.mix["FFMA"] >= form.steps
        assert work == 2 * 132 * form.blocks * form.block * form.steps * gpu_ceilings.ROUNDS


@needs_compiler
@pytest.mark.parametrize(("read", "written"), [(1600, 1600), (3200, 16), (1600, 0), (160, 800)])
def test_the_stream_moves_what_it_says(read: int, written: int) -> None:
    form = gpu_ceilings.Form(32, 2, 1)
    source = gpu_ceilings.stream_source(form, 3, read, written)
    rng = np.random.default_rng(1)
    data = rng.integers(0, 2**32, read // 4, dtype=np.uint32)
    out = np.zeros(max(4, written // 4), np.uint32)
    values = {"out": out, "in": data, "written": written // 16, "read": read // 16}
    report = host_run(host_compile(source), values)
    assert not report.findings, report
    both = min(read, written) // 4
    assert np.array_equal(report.outputs["out"][:both], data[:both])


@needs_compiler
def test_the_multiply_adds_are_done() -> None:
    source, _ = gpu_ceilings.fma_source(gpu_ceilings.Form(32, 8, 1), 2, rounds=5)
    threads = 64
    values = {"out": None, "factor": np.array([0.5, 0.5], np.float32)}
    report = host_run(host_compile(source), values)
    assert not report.findings, report
    begin = np.arange(32)[:, None] + np.arange(8)
    want = (begin / 32 + (1 - 1 / 32)).sum(axis=1)
    np.testing.assert_allclose(report.outputs["out"], np.tile(want, threads // 32), rtol=1e-5)


def test_ceilings_are_launched_with_their_memory() -> None:
    """On a GPU that is faked: in the kernel's order, each turn on memory of its own."""
    g = FakeGpu()
    seen: list[tuple[Any, ...]] = []
    g.counts |= {"stream": 4, "multiply_add": 2}
    g.kernels["stream"] = lambda gpu, grid, table: seen.append((
        grid[0], *(ctypes.c_uint64.from_address(table[i]).value for i in range(4))
    ))  # fmt: skip
    g.kernels["multiply_add"] = lambda gpu, grid, table: seen.append((grid[0], grid[3]))
    made: list[int] = []

    def empty(count: int, dtype: str, device: str) -> Any:
        made.append(4 * count)
        where = 4096 * len(made)
        x = SimpleNamespace(data_ptr=lambda: where)
        x.uniform_ = lambda low, high: x
        return x

    torch = SimpleNamespace(empty=empty, float32="float32")
    stream = g.new_stream()
    ceilings = gpu_ceilings.Ceilings("sm_90a", 132)
    ceilings.stream, ceilings.reading = gpu_ceilings.Form(256, 4, 2), gpu_ceilings.Form(512, 2, 1)
    handle = SimpleNamespace(cuda_stream=stream.ptr)
    rate = gpu_ceilings.Rate(1 << 26, 1 << 24, copies=2)
    for work in ceilings.works(torch, g.cupy, handle, rate):
        work()
    assert made == [1 << 24, 1 << 26] * 2
    assert seen == [
        (264, 4096, 8192, 1 << 20, 1 << 22),
        (264, 3 * 4096, 4 * 4096, 1 << 20, 1 << 22),
    ]
    assert [x[2] for x in g.log if x[0] == "launch"] == [stream.ptr] * 2
    (reads,) = ceilings.works(torch, g.cupy, handle, gpu_ceilings.Rate(1 << 26))
    reads()
    assert seen[-1][0] == 132  # of the form for reading
    (adds,) = ceilings.works(torch, g.cupy, handle, gpu_ceilings.Rate(flops=1))
    adds()
    assert seen[-1] == (132 * ceilings.fma.blocks, ceilings.fma.block)


def test_the_fastest_form_is_chosen() -> None:
    torch = pytest.importorskip("torch")
    ceilings = gpu_ceilings.Ceilings("sm_90a", 132)
    best = {"copy": gpu_ceilings.STREAMS[2], "read": gpu_ceilings.STREAMS[5],
            "fma": gpu_ceilings.FMAS[1]}  # fmt: skip

    class Device:
        place = "cpu"

        def __init__(self) -> None:
            self.torch, self.seconds = torch, 1.0

        def floor(self, rate: gpu_ceilings.Rate) -> list[Any]:
            what = "fma" if rate.flops else "copy" if rate.written else "read"
            form = ceilings.fma if rate.flops else ceilings.stream
            self.seconds = 1.0 if form == best[what] else 200.0
            return [lambda: None]

        def batch(self, work: Any) -> tuple[float, None]:
            work()
            return self.seconds, None

        def free(self) -> None:
            self.seconds = 0.5

    told = ceilings.choose(Device(), 1 << 16)
    assert (ceilings.stream, ceilings.reading, ceilings.fma) == tuple(best.values())
    assert told["copy_bytes_s"] == told["read_bytes_s"] == 1 << 16
    assert told["clone_bytes_s"] == 2 << 16
    assert told["fma_flops_s"] == ceilings.flops


# ----------------------------------------------------------------------------- the clock
class Scripted:
    """A device whose implementations take the seconds they are said to take."""

    place, l2_bytes = "cpu", 1 << 20

    def __init__(self, mhz: Callable[[str], int] = lambda name: 1980, graphs: bool = True) -> None:
        self.now, self.doing, self.mhz, self.graphs = 0.0, "", mhz, graphs
        self.batches: list[str] = []

    def call(
        self, name: str, seconds: float, seen: list[int] | None = None
    ) -> Callable[[int], None]:
        def run(at: int) -> None:
            self.now += seconds
            self.doing = name
            if seen is not None:
                seen.append(at)

        return run

    def batch(self, work: Callable[[], Any], read: bool = False) -> tuple[float, Reading | None]:
        start = self.now
        work()
        if read:
            self.batches.append(self.doing)
        return self.now - start, Reading(sm_mhz=self.mhz(self.doing)) if read else None

    def record(self, work: Callable[[], Any]) -> Callable[[], Any]:
        if not self.graphs:
            raise gpu_device.NoGraph("no graphs today")
        return work


def turns(device: Any, calls: Mapping[str, Any], copies: int = 2, **more: Any) -> Any:
    return in_turns(device, calls, copies, **more)


def test_medians_and_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_clock, "WARM_SECONDS", 0.0)
    d = Scripted()
    found = turns(d, {n: d.call(n, s) for n, s in (("a", 1e-5), ("b", 1e-3), ("c", 2e-3))})
    assert found.timed["a"].seconds == pytest.approx(1e-5)
    assert found.timed["b"].seconds == pytest.approx(1e-3)
    assert found.timed["a"].graph
    assert not found.timed["b"].graph
    assert found.timed["b"].calls in (5, 6)  # of a millisecond: a batch of five
    assert [len(t.rounds) for t in found.timed.values()] == [9, 9, 9]
    assert d.batches[:9] == ["a", "b", "c", "c", "b", "a", "b", "c", "a"]
    assert not found.clocks_differed
    assert found.timed["a"].as_json()["nvml"]["sm_mhz"] == 1980


def test_orders_are_fair() -> None:
    names = ["a", "b", "c", "d"]
    orders = [gpu_clock.order(names, r) for r in range(8)]
    assert all(sorted(o) == names for o in orders)
    for name in names:
        assert sum(o.index(name) for o in orders) == 12


def test_graphs_hold_whole_turns_through_the_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_clock, "WARM_SECONDS", 0.0)
    d, seen = Scripted(), []
    found = turns(d, {"a": d.call("a", 2e-6, seen)}, 300)
    assert found.timed["a"].graph
    assert found.timed["a"].calls % 300 == 0
    assert set(seen[-300:]) == set(range(300))


def test_without_graphs_calls_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_clock, "WARM_SECONDS", 0.0)
    d = Scripted(graphs=False)
    found = turns(d, {"a": d.call("a", 2e-6)}).timed["a"]
    assert not found.graph
    assert found.seconds == pytest.approx(2e-6)
    assert found.as_json()["no_graph"] == "no graphs today"


def test_what_fails_is_named_and_the_others_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_clock, "WARM_SECONDS", 0.0)
    d, said = Scripted(), []

    def broken(at: int) -> None:
        raise RuntimeError("out of luck")

    found = turns(d, {"a": d.call("a", 1e-3), "b": broken}, say=said.append)
    assert list(found.timed) == ["a"]
    assert "out of luck" in found.failed["b"]
    assert said == ["a", "b", "turns"]


def test_different_clocks_are_timed_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_clock, "WARM_SECONDS", 0.0)
    d = Scripted(mhz=lambda name: 1980 if name == "a" else 1900)
    found = turns(d, {"a": d.call("a", 1e-3), "b": d.call("b", 1e-3)})
    assert found.clocks_differed
    assert len(d.batches) == 2 * 2 * 9
    assert len(found.timed["a"].rounds) == 9


def test_rounds_end_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_clock, "WARM_SECONDS", 0.0)
    d = Scripted()
    found = turns(d, {"a": d.call("a", 1e-3), "b": d.call("b", 1.0)}, seconds=-1.0)
    assert len(found.timed["a"].rounds) == gpu_clock.LEAST_ROUNDS
    assert len(found.timed["b"].rounds) == gpu_clock.SLOW_ROUNDS


def test_copies_exceed_the_cache_twice() -> None:
    l2 = 50 << 20
    assert gpu_clock.copies_for(l2, 30 << 20) == 4
    assert gpu_clock.copies_for(l2, 120 << 20) == 2
    assert gpu_clock.copies_for(l2, 2 << 30) == 1
    assert gpu_clock.copies_for(l2, 100) == 1024
    for size in (1 << 20, 7 << 20, 99 << 20):
        assert gpu_clock.copies_for(l2, size) * size >= 2 * l2


# ----------------------------------------------------------------------------- the GPU, faked
class FakeTorch:
    """As torch.cuda, on the streams of a FakeGpu."""

    uint8 = "uint8"

    def __init__(self, g: FakeGpu) -> None:
        self.g, self.log, self.stream_now = g, [], None
        outer = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                self.at = 0.0

            def record(self) -> None:
                self.at = outer.stream_now.stream.now

            def synchronize(self) -> None:
                outer.log.append("wait")

            def elapsed_time(self, other: Any) -> float:
                return (other.at - self.at) * 1e3

        class Graph:
            def capture_begin(self, capture_error_mode: str) -> None:
                assert capture_error_mode == "relaxed"
                outer.log.append("begin")

            def capture_end(self) -> None:
                outer.log.append("end")

            def replay(self) -> None:
                outer.log.append("replay")

        def new_stream() -> Any:
            found = g.new_stream()
            return SimpleNamespace(stream=found, cuda_stream=found.ptr)

        @contextmanager
        def on(stream: Any) -> Iterator[None]:
            before, self.stream_now = self.stream_now, stream
            yield
            self.stream_now = before

        self.cuda = SimpleNamespace(
            Stream=new_stream, Event=Event, CUDAGraph=Graph, stream=on,
            synchronize=lambda: self.log.append("synchronize"),
            empty_cache=lambda: self.log.append("empty_cache"),
        )  # fmt: skip

    def empty(self, size: int, dtype: Any, device: str) -> Any:
        assert device == "cuda"
        return SimpleNamespace(fill_=lambda value: self.log.append("plug"))


def test_the_cuda_device() -> None:
    g = FakeGpu()
    torch = FakeTorch(g)
    device = gpu_device.Cuda(torch, g.cupy)
    assert (device.name, device.l2_bytes) == ("Fake H100", g.l2)

    def work() -> None:
        device.stream.stream.now += 3e-3
        torch.log.append("work")

    with device.current():
        assert g.current[-1].ptr == device.stream.cuda_stream  # CuPy's, too
        torch.log.clear()
        seconds, reading = device.batch(work, read=True)
        assert seconds == pytest.approx(3e-3)
        assert reading is None  # there is no NVML
        assert torch.log == ["plug", "work", "wait"]
        torch.log.clear()
        replay = device.record(work)
        assert torch.log == ["synchronize", "begin", "work", "end"]
        replay()
        assert torch.log[-1] == "replay"

        def refused() -> None:
            raise NotImplementedError("not while a graph is captured")

        torch.log.clear()
        with pytest.raises(gpu_device.NoGraph, match="not while a graph is captured"):
            device.record(refused)
        assert torch.log[-1] == "end"  # the stream is no longer captured
    assert g.current[-1].ptr == 0


def test_a_function_is_launched_on_the_one_stream() -> None:
    g = FakeGpu()
    device = gpu_device.Cuda(FakeTorch(g), g.cupy)
    launched: list[int] = []
    call = SimpleNamespace(launch=launched.append)
    bound: list[Any] = []
    function = SimpleNamespace(bind=lambda *args: bound.append(args) or call)
    device.bind(function, ["a", "b"])()
    assert bound == [("a", "b")]
    assert launched == [device.stream.cuda_stream]


# ----------------------------------------------------------------------------- plans
@pytest.mark.parametrize("shard", list(CELLS))
def test_a_plan_ends_in_time(shard: str) -> None:
    lines = gpu_plan.plan(CELLS[shard])
    took = gpu_plan.START + sum(x.fixed + x.tuning for x in lines if x.tuning is not None)
    assert took <= gpu_plan.LIMIT + 1e-6
    assert [x.cell for x in lines] == list(CELLS[shard])
    assert all(x.tuning >= gpu_plan.LEAST for x in lines if x.tuning is not None)
    assert gpu_plan.calls_needed(CELLS[shard]) <= 3


def test_the_gate_fits_into_one_call() -> None:
    lines = gpu_plan.plan(CELLS["gate"])
    assert all(x.tuning is not None for x in lines)
    products = [x.tuning for x in lines if x.cell.kernel == "matmul"]
    assert len(products) == 3
    assert min(products) > 60  # seconds: 256 trials are asked for at most


def test_tuning_is_shared_out_by_weight() -> None:
    light, heavy = small("gelu", m=8, n=8), Cell("f", "gelu", {"m": 8, "n": 9}, weight=3.0)
    fixed = gpu_plan.fixed_seconds(light)
    left = 2 * fixed + 100.0
    assert gpu_plan.tuning_seconds([light, heavy], left) == pytest.approx(25.0, rel=0.01)
    assert gpu_plan.tuning_seconds([heavy, light], left) == pytest.approx(75.0, rel=0.01)
    assert gpu_plan.tuning_seconds([light], 1000.0) == gpu_plan.MOST
    assert gpu_plan.tuning_seconds([light] * 50, fixed + 20) == gpu_plan.LEAST
    assert gpu_plan.tuning_seconds([light], fixed + 7.9) is None
    assert gpu_plan.tuning_seconds([light], 2 * fixed, 2.5) is None  # cells take longer here


def test_the_pace() -> None:
    pace = gpu_plan.Pace()
    assert pace.factor == 1.0
    pace.note(20.0, 60.0)
    assert pace.factor == 2.0
    pace.note(10.0, 1000.0)
    assert pace.factor == 4.0


def test_dearer_cells_are_expected_to_take_longer() -> None:
    plain, large = EVERY["gelu 8192x8192 f32"], EVERY["softmax 8192x262144 f32"]
    assert gpu_plan.fixed_seconds(large) > gpu_plan.fixed_seconds(plain) + 10
    product = EVERY["matmul 2048x2048x2048 f32"]
    assert gpu_plan.fixed_seconds(product) > 30  # max-autotune


# ----------------------------------------------------------------------------- a run
class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def job(folder: Path, **changes: Any) -> gpu_run.Job:
    return gpu_run.Job(**{"shard": "reduce", "deadline": 1540.0, "folder": str(folder), **changes})


def measured(clock: Time, asked: list[tuple[str, float]], fixed: float = 10.0) -> Any:
    def measure(
        cell: Cell, seconds: float, total: float, skip: Mapping[str, str], say: Any
    ) -> dict[str, Any]:
        say("tuning")
        asked.append((cell.name, seconds))
        clock.now += seconds + fixed
        return {
            "cell": cell.name, "family": cell.family, "shape": cell.full, "tuned": seconds > 0,
            "seconds": {"gputune": 1e-5, "torch": 2e-5}, "failed": dict(skip),
            "tuning": {"wall_s": seconds},
        }  # fmt: skip

    return measure


def test_a_run_ends_in_time_and_a_second_one_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, asked = Time(), []
    left = gpu_run.run_cells(job(tmp_path), measured(clock, asked, 40.0), {"at": "now"}, clock)
    assert clock.now <= 1540.0
    assert 2 < len(asked) < len(CELLS["reduce"])
    assert sorted([*left, *(n for n, _ in asked)]) == sorted(c.name for c in CELLS["reduce"])
    out = capsys.readouterr().out
    assert f"@{asked[0][0]}\ttuning\n" in out
    assert "2.00 x torch" in out
    first = [n for n, _ in asked]
    clock.now = 2000.0
    again = gpu_run.run_cells(
        job(tmp_path, deadline=9000.0), measured(clock, asked), {"at": "now"}, clock
    )
    assert again == []
    names = [n for n, _ in asked]
    assert names == first + left
    records = list(gpu_plan.read_records(tmp_path))
    assert [r["cell"] for r in records] == names
    assert all(r["at"] == "now" for r in records)


def test_again_and_default_and_only(tmp_path: Path) -> None:
    clock, asked = Time(), []
    one = job(tmp_path, only=("argmax 4096",), tuned=False)
    gpu_run.run_cells(one, measured(clock, asked), {}, clock)
    assert asked == [("argmax 4096x128256 f32", 0.0)]
    gpu_run.run_cells(one, measured(clock, asked), {}, clock)
    assert len(asked) == 1  # it is done
    tuned = job(tmp_path, only=("argmax 4096",))
    gpu_run.run_cells(tuned, measured(clock, asked), {}, clock)
    assert asked[1][1] > 0  # but not tuned
    gpu_run.run_cells(one, measured(clock, asked), {}, clock)
    assert len(asked) == 2  # what is tuned has its default schedule, too
    clock.now += 100
    fresh = job(tmp_path, only=("argmax 4096",), again=True, since=clock.now, deadline=9e9)
    gpu_run.run_cells(fresh, measured(clock, asked), {}, clock)
    assert len(asked) == 3


def test_a_cell_of_another_shard_is_done(tmp_path: Path) -> None:
    record = {"cell": CELLS["gate"][0].name, "tuned": True}
    (tmp_path / "gpu-gate.jsonl").write_text(json.dumps(record) + "\n{torn")
    names = [c.name for c in job(tmp_path, shard="gemm").cells()]
    assert record["cell"] not in names
    assert len(names) == len(CELLS["gemm"]) - 1


def test_a_job_travels() -> None:
    one = job(Path("/x"), only=("a",), skip={"cell": {"torch": "lost"}})
    assert gpu_run.Job.of_json(one.as_json()) == one


# ----------------------------------------------------------------------------- the watch
CHILD = """\
import json, os, sys, time
sys.path[:0] = [{bench!r}, {root!r}]
import gpu_run
job = gpu_run.Job.of_json(sys.argv[-1])
print("chatter", flush=True)
for cell in job.cells():
    skip = job.skip.get(cell.name, {{}})
    for stage in ("tuning", "gputune", "torch", "turns"):
        if stage in skip:
            continue
        gpu_run.say(cell, stage)
        if cell.name in {names!r} and stage == {stage!r}:
            {what}
    gpu_run.append(job, {{"cell": cell.name, "tuned": True, "seconds": {{"gputune": 1.0}},
                         "failed": dict(skip)}})
"""


def watched(tmp_path: Path, stage: str, what: str, cells: int = 1, **changes: Any) -> Any:
    names = [c.name for c in CELLS["reduce"][1 : 1 + cells]]
    script = tmp_path / "child.py"
    script.write_text(
        CHILD.format(bench=str(BENCH), root=str(BENCH.parent), names=names, stage=stage, what=what)
    )
    said: list[str] = []
    folder = tmp_path / "records"
    given = job(
        folder, only=("argmax", "total"), deadline=changes.pop("deadline", time.time() + 300)
    )
    watch = gpu_run.Watch([sys.executable, str(script)], given, said.append, **changes)
    left = watch.run()
    return left, {r["cell"]: r for r in gpu_plan.read_records(folder) if "lost" not in r}, said


def test_a_crash_costs_what_crashed_only(tmp_path: Path) -> None:
    left, records, said = watched(tmp_path, "torch", "os._exit(9)")
    assert left == 0
    lost = records["argmax 4096x128256 f32"]
    assert lost["seconds"] == {"gputune": 1.0}
    assert lost["failed"] == {"torch": "the process was lost: it ended with 9"}
    assert sum(bool(r["failed"]) for r in records.values()) == 1
    assert "chatter" in said
    assert any("lost in 'torch' (it ended with 9); again without it" in s for s in said)


def test_silence_is_a_loss(tmp_path: Path) -> None:
    left, records, _ = watched(tmp_path, "gputune", "time.sleep(100)", silence=1.0)
    assert left == 0
    reason = records["argmax 4096x128256 f32"]["failed"]["gputune"]
    assert "nothing was heard of it for" in reason


def test_what_is_lost_in_the_turns_has_no_result(tmp_path: Path) -> None:
    left, records, _ = watched(tmp_path, "turns", "os.abort()")
    assert left == 0
    assert records["argmax 4096x128256 f32"]["seconds"] == {}
    assert records["argmax 4096x128256 f32"]["family"] == "argmax"


def test_time_is_up(tmp_path: Path) -> None:
    start = time.time()
    left, records, said = watched(tmp_path, "tuning", "time.sleep(100)", deadline=time.time() + 5)
    assert time.time() - start < 30
    assert left == 5 - len(records)
    assert said[-1].startswith("ended at argmax 4096x128256 f32: time")


def test_a_process_that_does_not_begin(tmp_path: Path) -> None:
    said: list[str] = []
    given = job(tmp_path, deadline=time.time() + 100)
    left = gpu_run.Watch([sys.executable, "-c", "raise SystemExit(5)"], given, said.append).run()
    assert left == len(CELLS["reduce"])
    assert said == ["the measuring process does not start: it ended with 5"]


# ----------------------------------------------------------------------------- limits of time
def test_what_takes_too_long_is_stopped() -> None:
    def for_ever() -> None:
        with gpu_peers.at_most(0.05):
            while True:
                pass

    with pytest.raises(gpu_peers.TooLong, match="more than 0 s"):
        for_ever()
    with gpu_peers.at_most(0.05):
        pass
    time.sleep(0.1)  # nothing is left that would stop this


def test_torch_compile_is_not_begun_without_time() -> None:
    torch = pytest.importorskip("torch")
    cell = Cell("f", "gelu", {"m": 4, "n": 4}, compiled=("default",))
    copies = [gpu_forms.fresh(torch, cell, "cpu", 1)]
    peers = gpu_peers.Peers(gpu_device.Host(torch), cell, copies, lambda: 3.0)
    makers = dict(peers.makers())
    assert list(makers) == ["torch", "torch.compile default"]
    with pytest.raises(gpu_peers.TooLong, match="not begun: 12 s are expected, 3 left"):
        makers["torch.compile default"]()


# ----------------------------------------------------------------------------- a cell
def test_a_cell_from_tuning_to_record() -> None:
    """On the processor, with torch's eager form as the only peer."""
    torch = pytest.importorskip("torch")
    stages: list[str] = []
    device = gpu_device.Host(torch)
    record = gpu_cell.measure(
        device, EVERY["gelu 8192x8192 f32"].small(), gpu_cell.Limits(60.0, 2), stages.append
    )
    assert record["failed"] == {}
    assert set(record["seconds"]) == {"gputune", "gputune default", "torch", "ceiling bytes"}
    assert record["tuned"]
    assert 1 <= record["tuning"]["trials"] <= 2
    assert record["tuning"]["to_95_trials"] <= 2
    assert record["bytes"] == [8 * 8 * 4] * 2
    assert stages[:2] == ["gputune default", "tuning"]
    json.dumps(record)


@pytest.mark.parametrize(("kernel", "dtype"), list(KINDS))
def test_every_kind_of_cell_can_be_rehearsed(kernel: str, dtype: str) -> None:
    """Default schedules, checked and timed beside torch."""
    torch = pytest.importorskip("torch")
    cell = KINDS[kernel, dtype].small()
    record = gpu_cell.measure(gpu_device.Host(torch), cell, gpu_cell.Limits(0.0))
    assert record["failed"] == {}
    assert "gputune default" in record["seconds"]
    assert any(n.startswith("torch") for n in record["seconds"])


def test_a_wrong_program_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    cell = small("matmul", m=4, n=4, k=4)
    text = KERNELS["matmul"].build(m=4, n=4, k=4).script()
    wrong = from_source(text.replace("C[vi, vj] + A", "C[vi, vj] - A"))
    monkeypatch.setattr(gpu_cell, "default_program", lambda cell, target: wrong)
    record = gpu_cell.measure(gpu_device.Host(torch), cell, gpu_cell.Limits(0.0))
    assert record["failed"]["gputune default"].startswith("wrong: 16 of 16 elements differ")
    assert "gputune default" not in record["seconds"]
    assert "torch" in record["seconds"]


def test_what_was_lost_is_not_tried_again() -> None:
    torch = pytest.importorskip("torch")
    skip = {"tuning": "lost", "torch": "the process was lost"}
    record = gpu_cell.measure(
        gpu_device.Host(torch), small("gelu", m=4, n=4), gpu_cell.Limits(5.0, 2, skip=skip)
    )
    assert record["failed"] == {
        "torch": "the process was lost", "gputune": "the process was lost while it was tuned",
    }  # fmt: skip
    assert set(record["seconds"]) == {"gputune default", "ceiling bytes"}


def test_a_lost_context_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    device: Any = gpu_device.Host(torch)

    def lost() -> None:
        raise RuntimeError("CUDA error 700")

    monkeypatch.setattr(device, "synchronize", lost)
    with pytest.raises(gpu_cell.Lost, match="CUDA error 700"):
        gpu_cell.measure(device, small("gelu", m=4, n=4), gpu_cell.Limits(0.0))


def test_when_the_speed_was_reached() -> None:
    curve = [(1.0, 8, 2.0), (3.0, 16, 1.04), (9.0, 64, 1.0)]
    assert gpu_cell.reached(curve) == {"to_95_s": 3.0, "to_95_trials": 16}
    assert gpu_cell.reached([]) == {"to_95_s": None, "to_95_trials": None}


# ----------------------------------------------------------------------------- tables
def record(cell: str, ours: float | None, **changes: Any) -> dict[str, Any]:
    found = EVERY[cell]
    s = {"gputune default": 4e-4, "torch": 2e-4, "torch cublasLt": 3e-4, "Triton": 5e-4,
         "torch.compile default": 2.5e-4, "ceiling bytes": 1e-4, "ceiling fma": 1e-3}  # fmt: skip
    if ours is not None:
        s["gputune"] = ours
    return {
        "cell": cell, "family": found.family, "kernel": found.kernel, "shape": found.full,
        "dtype": found.dtype, "tuned": True, "seconds": s, "failed": {}, "bytes": [3000, 3000],
        "timed": {n: {"rounds": [t] * 9, "nvml": {"sm_mhz": 1980}} for n, t in s.items()},
        "flops": 10_000_000, "fma_flops": 60_000_000_000,
        "tuning": {"trials": 256, "wall_s": 20.0, "to_95_s": 5.0, "to_95_trials": 64},
        "gpu": {"name": "Fake H100"}, "versions": {"torch": "2.11"}, "at": "2026-11-21T20:00:00Z",
    } | changes  # fmt: skip


def test_what_a_record_shows() -> None:
    f = gpu_table.figures(record("matmul 1024x1024x1024 f32", 1e-4))
    assert f["best peer"] == "torch"
    assert f["ratio"] == pytest.approx(2.0)
    assert f["x library"] == pytest.approx(2.0)
    assert f["x compile"] == pytest.approx(2.5)
    assert f["x Triton"] == pytest.approx(5.0)
    assert (f["by"], f["of ceiling"]) == ("bytes", pytest.approx(1.0))
    slow = record("matmul 1024x1024x1024 f32", 1e-4, flops=12_000_000_000)
    f = gpu_table.figures(slow)  # 12e9 of 60e12 a second: 200 us
    assert (f["by"], f["of ceiling"]) == ("FMA", pytest.approx(2.0))
    assert f["rate"] == pytest.approx(12e9 / 1e-4)


def test_what_is_wrong_counts() -> None:
    f = gpu_table.figures(record("gelu 8192x8192 f32", None))
    assert f["ratio"] == gpu_table.LOST
    assert f["x compile"] == gpu_table.LOST
    assert "of ceiling" not in f


def test_launch_bound_cells_are_apart() -> None:
    quick = record("gelu 8192x8192 f32", 3e-6)
    quick["seconds"] = {"gputune": 3e-6, "torch": 2e-6, "ceiling bytes": 1e-6}
    assert gpu_table.family(quick) == "launch-bound"
    assert gpu_table.family(record("gelu 8192x8192 f32", 3e-6)) == "elementwise"


def test_the_markdown() -> None:
    records = [
        record("matmul 1024x1024x1024 f32", 1e-3),
        record("matmul 1024x1024x1024 f32", 1e-4),
        record("matmul 2048x2048x2048 f32", 4e-4),
        record("softmax 16384x4096 f32", 1e-4),
        record("C2D-0 f32", None, failed={"gputune": "wrong: 3 of 9 elements differ"}),
        {"cell": "C2D-0 f32", "lost": "torch"},
    ]
    heads = [{
        "ceilings": {"clone_bytes_s": 3.0e12, "copy_bytes_s": 3.05e12, "read_bytes_s": 3.2e12,
                     "fma_flops_s": 6.1e13},
        "gpu": {"name": "Fake H100"}, "versions": {"torch": "2.11"}, "at": "2026-11-21",
    }]  # fmt: skip
    text = gpu_table.markdown(records, heads)
    lines = text.splitlines()
    assert (
        "- ceilings: clone 3000 GB/s, copy 3050, read only 3200, multiply-adds 61.0 TFLOP/s"
        in lines
    )
    assert "- multiprocessor clock while timed: 1980 to 1980 MHz" in lines
    (square,) = [x for x in lines if x.startswith("| GEMM square | 2 |")]
    assert square.split(" | ")[2] == "1.00"  # of 2.0 and 0.5: the last record of each counts
    assert "- matmul 1024x1024x1024 f32: 2.00 of cuBLAS (0.90 is asked) after 256 trials" in text
    assert "1 cells: 1.00 of the copying loop (0.88 is asked), 2.50 x torch.compile" in text
    assert "- convolutions of the suite, 1 cells: 0.05 x cuDNN (1.00 is asked)" in lines
    assert "- C2D-0 f32: gputune: wrong: 3 of 9 elements differ" in lines
    assert "Worst: C2D-0 f32 0.05; matmul 2048x2048x2048 f32 0.50" in text
    (rest,) = [x for x in lines if x.startswith("- gate: ")]
    assert "matmul 4096x4096x4096 f32" in rest
    assert "matmul 1024x1024x1024 f32" not in rest
    tables = [x for x in lines if x.startswith("|")]
    assert {x.count("|") for x in tables} == {9, 18}


def test_nothing_measured() -> None:
    assert gpu_table.markdown([]) == gpu_table.short([]) == "no records"


# ----------------------------------------------------------------------------- the command
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gatee"], "no shard is called gatee; known: gate, gemm"),
        (["--limit", "5"], "--limit: at least 60, found 5.0"),
        (["--trials", "0"], "--trials: at least 1, found 0"),
        (["gemm", "--only", "softmax"], "no cell of these shards has softmax in its name"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as e:
        gpu.parse(words)
    assert e.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_the_plan_needs_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--plan", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for shard, cells in CELLS.items():
        assert f"{shard}: " in out
        for cell in cells:
            assert cell.name in out
    assert "raw: about" in out
    assert "torch.compile max-autotune" in out


def test_the_plan_knows_what_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "some-gpu"
    folder.mkdir()
    name = CELLS["gate"][0].name
    (folder / "gpu-gate.jsonl").write_text(json.dumps({"cell": name, "tuned": True}) + "\n")
    gpu.main(["gate", "--plan", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert name not in out
    assert CELLS["gate"][1].name in out
    gpu.main(["gate", "--plan", "--again", "--out", str(tmp_path)])
    assert name in capsys.readouterr().out


def test_the_table_from_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--table", "--out", str(tmp_path)]) == 0
    assert "there are no records" in capsys.readouterr().out
    folder = tmp_path / "some-gpu"
    folder.mkdir()
    lines = [{"ceilings": {"clone_bytes_s": 1e12, "copy_bytes_s": 1e12, "read_bytes_s": 1e12,
                           "fma_flops_s": 1e12}}, record("gelu 8192x8192 f32", 1e-4)]  # fmt: skip
    (folder / "gpu-elementwise.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert gpu.main(["--table", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "ceilings: clone 1000 GB/s" in out
    assert "| gelu 8192x8192 f32 | 100.0 | 100.0-100.0 | 400.0 | 200.0 | 250.0 |" in out


def test_a_rehearsal_from_the_command_to_the_table(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    words = ["reduce", "--rehearse", "--only", "row_sum 4096,row_max", "--out", str(tmp_path),
             "--limit", "200"]  # fmt: skip
    assert gpu.main(words) == 0
    out = capfd.readouterr().out
    assert "2 cells measured, 0 bad" in out
    assert "| x best peer |" in out
    records = list(gpu_plan.read_records(tmp_path / "rehearsal"))
    assert [r["cell"] for r in records] == ["row_sum 4096x4096 f32", "row_max 4096x4096 f32"]
    assert all("gputune" in r["seconds"] for r in records)
    assert gpu.main(words) == 0
    assert "0 cells measured" in capfd.readouterr().out
    assert gpu.main([*words, "--table"]) == 0
    assert "| row_sum 4096x4096 f32 |" in capfd.readouterr().out


def test_records_of_the_repository_are_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a lent machine, where records go to another folder."""
    known, fresh = tmp_path / "known" / "some-gpu", tmp_path / "out" / "some-gpu"
    known.mkdir(parents=True)
    name = CELLS["gate"][0].name
    (known / "gpu-gate.jsonl").write_text(json.dumps({"cell": name, "tuned": True}) + "\n")
    (known / "gpu-gemm.jsonl").write_text("{}\n")
    monkeypatch.setattr(gpu, "folder_of", lambda name, given=None: known)
    given = SimpleNamespace(out=tmp_path / "out", shards=["gate", "conv"])
    assert gpu._take_up(fresh, given) == str(known)
    assert [f.name for f in fresh.iterdir()] == ["gpu-gate.jsonl"]
    (fresh / "gpu-gate.jsonl").write_text("more\n")
    gpu._take_up(fresh, given)
    assert (fresh / "gpu-gate.jsonl").read_text() == "more\n"
    one = job(fresh, shard="gate", known=str(known))
    assert [c.name for c in one.cells()] == [c.name for c in CELLS["gate"][1:]]
    assert gpu._take_up(known, given) == ""


def test_the_best_records_are_kept(tmp_path: Path) -> None:
    """For whoever has the same GPU; no bench reads them."""
    folder = tmp_path / "best"
    for n in (4, 5):
        cell = small("gelu", m=8, n=n)
        limits = gpu_cell.Limits(60.0, 2, keep=folder)
        _, told = gpu_cell.tune(cell, gt.Target("llvm --num-cores=1"), limits)
        assert 1 <= told["trials"] <= 2
    database = ms.JSONDatabase(work_dir=folder)
    assert len(database.get_all_tuning_records()) == 2
