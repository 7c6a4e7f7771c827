"""Does host execution compute what a GPU would, and does it see what is wrong with a kernel?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from host_kernels import FAULTS, RIGHT, VADD, Case, Fault, program, without_one_barrier

from gputune.cli.main import main
from gputune.codegen.cuda.host import HostReport, compiler, host_compile, host_compiler, host_run
from gputune.codegen.cuda.host.execution import ORDERS
from gputune.codegen.cuda.host.report import KINDS
from gputune.codegen.cuda.host.text import cuda_include_folders
from gputune.codegen.cuda.program import CudaSource, Launch, Memset, Param
from gputune.errors import BuildError, RunError, UserError, WrongResult
from gputune.runtime.host_check import check_source
from gputune.testing import check_cuda, kernel_name

IN = np.arange(64, dtype=np.float32)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Everything is compiled anew: what is tested is this tree."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def run(source: CudaSource, **values: Any) -> HostReport:
    return host_run(host_compile(source), values)


# ----------------------------------------------------------------------------- right kernels
@pytest.mark.parametrize("case", RIGHT.values(), ids=RIGHT)
def test_right_kernels(case: Case) -> None:
    report = check_source(case.source, case.values, case.expected)
    assert not report.findings, str(report)
    assert report.completed
    assert not report.sampled
    for name, want in case.expected.items():
        np.testing.assert_array_equal(report.outputs[name].reshape(want.shape), want)


@pytest.mark.parametrize("case", RIGHT.values(), ids=RIGHT)
def test_without_checks_results_are_the_same(case: Case) -> None:
    report = host_run(host_compile(case.source, checked=False), case.values)
    assert not report.findings, str(report)
    for name, want in case.expected.items():
        np.testing.assert_array_equal(report.outputs[name].reshape(want.shape), want)


MUTANTS = [m for case in RIGHT.values() for m in without_one_barrier(case)]


@pytest.mark.parametrize("case", [c for _, c in MUTANTS], ids=[n for n, _ in MUTANTS])
def test_every_barrier_is_needed(case: Case) -> None:
    found = [
        f
        for order in ORDERS
        for f in host_run(host_compile(case.source), case.values, order=order).findings
    ]
    assert any(f.kind in ("shared-race", "global-race", "in-flight") for f in found)


# ----------------------------------------------------------------------------- planted faults
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_planted_fault_is_found(fault: Fault) -> None:
    if fault.name == "misaligned" and host_compiler().kind != "gcc":
        pytest.skip("clang reads only the member of the vector that is used")
    limit = 0.3 if fault.kind == "endless-loop" else 20.0
    code = host_compile(fault.source())
    report = host_run(code, {"in": IN, "n": 64}, timeout_s=limit)
    found = [f for f in report.findings if f.kind == fault.kind]
    assert found, str(report)
    first = found[0]
    assert {f.kind for f in report.findings} <= {fault.kind, *fault.others}, str(report)
    assert first.severity == fault.severity
    assert report.ok == (fault.severity == "warning")
    assert first.kernel == "k"
    assert fault.said in first.message
    if fault.buffer is not None:
        assert first.buffer == fault.buffer
    if fault.element is not None:
        assert first.element == fault.element
    if fault.block is not None:
        assert first.block == fault.block
    if fault.thread is not None:
        assert first.thread == (fault.thread, 0, 0)
    if fault.other is not None:
        assert first.other_thread == (fault.other, 0, 0)
    assert first.count >= 1
    assert report.counts[fault.kind] >= 1


def test_every_kind_has_a_fault() -> None:
    comparisons = {"order-dependent", "wrong-result"}
    assert {f.kind for f in FAULTS} == set(KINDS) - comparisons


def test_lines_are_those_of_the_text() -> None:
    source = program(
        '#include <stdint.h>\n\nextern "C" __global__ void k(float* out, int n) {\n'
        "  int i = threadIdx.x;\n\n  if (i <= n)\n    out[i] = 1;\n}\n",
        [Param("out", "float32", 8, True), Param("n", "int32")],
        Launch("k", (1, 1, 1), (32, 1, 1), ("out", "n")),
    )
    (finding,) = run(source, n=8).findings
    assert finding.line == 7
    assert "kernel k, line 7, block (0, 0, 0), thread (8, 0, 0): out[8]" in str(finding)


def test_results_that_depend_on_the_order() -> None:
    text = 'extern "C" __global__ void k(int* out) { out[0] = atomicExch(&out[1], blockIdx.x); }'
    source = program(
        text, [Param("out", "int32", 2, True)], Memset("out", 0),
        Launch("k", (4, 1, 1), (1, 1, 1), ("out",)),
    )  # fmt: skip
    report = check_source(source, {})
    kinds = {f.kind for f in report.findings}
    assert "order-dependent" in kinds
    assert not report.ok


def test_wrong_results_are_named() -> None:
    case = RIGHT["vadd"]
    expected = case.expected["c"].copy()
    expected[17] += 1
    report = check_source(case.source, case.values, {"c": expected})
    (finding,) = report.findings
    assert (finding.kind, finding.buffer, finding.element) == ("wrong-result", "c", 17)


# ----------------------------------------------------------------------------- without checks
@pytest.mark.parametrize(
    ("body", "kind", "buffer"),
    [
        ("out[i + (i == 63)] = 0;", "out-of-bounds", "out"),
        ("out[i] = 0; if (i == 2) out[5000000] = 1;", "out-of-bounds", "out"),
        ("out[i] = in[i]; if (i == 2) ((float*)in)[3] = 1;", "write-to-input", "in"),
        ("out[i] = 0; if (t == 3) __syncwarp(); else __syncthreads();", "deadlock", None),
        ("volatile int v = 1; while (v) {} out[i] = 0;", "endless-loop", None),
    ],
)
def test_without_checks_gross_errors_are_found(body: str, kind: str, buffer: str | None) -> None:
    code = host_compile(Fault("", body, kind).source(), checked=False)
    report = host_run(code, {"in": IN, "n": 64}, timeout_s=0.3)
    assert kind in {f.kind for f in report.findings}
    assert buffer in {f.buffer for f in report.findings if f.kind == kind}


# ----------------------------------------------------------------------------- conversions
CONVERSIONS = """\
#define BOTH(T, BITS, to)                                                                     \\
  extern "C" __global__ void widen_##T(const BITS* codes, float* out, int n) {                \\
    for (int i = 0; i < n; ++i) { T v; v.x = codes[i]; out[i] = gt_to_float(v); }             \\
  }                                                                                           \\
  extern "C" __global__ void narrow_##T(const float* in, BITS* out, int n) {                  \\
    for (int i = 0; i < n; ++i) out[i] = to(in[i]).x;                                         \\
  }
BOTH(gt_half, unsigned short, gt_to_half)
BOTH(gt_bfloat16, unsigned short, gt_to_bfloat16)
BOTH(gt_e4m3, unsigned char, gt_to_e4m3)
BOTH(gt_e5m2, unsigned char, gt_to_e5m2)
"""
NARROW = {
    "gt_half": np.float16,
    "gt_bfloat16": ml_dtypes.bfloat16,
    "gt_e4m3": ml_dtypes.float8_e4m3fn,
    "gt_e5m2": ml_dtypes.float8_e5m2,
}


def interesting_floats(kind: Any) -> np.ndarray[Any, Any]:
    """All values of a type, ties between neighbours, their neighbours in float32, random bits."""
    bits = np.dtype(kind).itemsize * 8
    codes = np.arange(1 << bits, dtype=f"u{bits // 8}").view(kind).astype(np.float32)
    finite = np.unique(codes[np.isfinite(codes)]).astype(np.float64)
    ties = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    beyond = np.float32([finite[-1] * 1.03, finite[-1] * 1.04, finite[-1] * 1.07, 3e38])
    some = np.concatenate([codes, ties, beyond, -beyond, np.float32([np.inf, -np.inf, np.nan])])
    random = np.random.default_rng(3).integers(0, 1 << 32, 50_000, np.uint64).astype(np.uint32)
    near = [np.nextafter(some, np.float32(v)) for v in (np.inf, -np.inf)]
    return np.concatenate([some, *near, random.view(np.float32)])


def test_conversions_are_those_of_ml_dtypes() -> None:
    params, steps, values, expected = [], [], {}, {}
    for name, kind in NARROW.items():
        bits = np.dtype(kind).itemsize * 8
        unsigned = f"uint{bits}"
        codes = np.arange(1 << bits, dtype=unsigned)
        with np.errstate(all="ignore"):
            given = interesting_floats(kind)
            expected[f"f_{name}"] = codes.view(kind).astype(np.float32)
            expected[f"n_{name}"] = given.astype(kind)
        values |= {f"c_{name}": codes, f"g_{name}": given}
        values |= {f"p_{name}": np.int32(codes.size), f"q_{name}": np.int32(given.size)}
        params += [
            Param(f"c_{name}", unsigned, codes.size),
            Param(f"f_{name}", "float32", codes.size, True),
            Param(f"g_{name}", "float32", given.size),
            Param(f"n_{name}", unsigned, given.size, True),
            Param(f"p_{name}", "int32"), Param(f"q_{name}", "int32"),
        ]  # fmt: skip
        one = (1, 1, 1)
        steps += [
            Launch(f"widen_{name}", one, one, (f"c_{name}", f"f_{name}", f"p_{name}")),
            Launch(f"narrow_{name}", one, one, (f"g_{name}", f"n_{name}", f"q_{name}")),
        ]
    report = host_run(host_compile(program(CONVERSIONS, params, *steps), checked=False), values)
    assert report.ok, str(report)
    for name, kind in NARROW.items():
        wide, want = report.outputs[f"f_{name}"], expected[f"f_{name}"]
        np.testing.assert_array_equal(wide.view(np.uint32)[~np.isnan(want)],
                                      want.view(np.uint32)[~np.isnan(want)])  # fmt: skip
        assert np.array_equal(np.isnan(wide), np.isnan(want))
        codes, wanted = report.outputs[f"n_{name}"], expected[f"n_{name}"]
        nan = np.isnan(wanted.astype(np.float32))
        assert np.array_equal(np.isnan(codes.view(kind).astype(np.float32)), nan)
        wrong = np.flatnonzero((codes != wanted.view(codes.dtype)) & ~nan)
        assert not wrong.size, (name, values[f"g_{name}"][wrong[:5]], codes[wrong[:5]])


# ----------------------------------------------------------------------------- the language
MEANING = """\
template <typename A, typename B>
__device__ constexpr auto cdiv(A a, B b) { return (a + b - 1) / b; }
__constant__ float weights[3] = {1.0f, 2.0f, 4.0f};
namespace tools { struct Pair { float a; int b; }; __device__ int twice(int v) { return 2 * v; } }
union Both { float4 v; float f[4]; };
static __device__ float shared_sum(float v) {
  static __shared__ float s[32];
  s[threadIdx.x] = v;
  __syncwarp();
  float sum = 0;
  for (int j = 0; j < 32; ++j) sum += s[j];
  __syncwarp();
  return sum;
}

extern "C" {
__global__ void select(float* f, int* k, unsigned long long* wide) {
  const unsigned t = threadIdx.x;
  Both b;
  b.v = make_float4(1, 2, 3, 4);
  float got[] = {
      min(2.0f, 1.0f), fmaxf(1, 2), rsqrtf(4.0f), erff(0.0f), tanhf(0.0f), __fdividef(1, 4),
      __fmaf_rn(2, 3, 4), exp(0.0f), pow(2.0f, 3.0f), __int_as_float(0x3f800000), weights[2],
      b.f[2], shared_sum(float(t)), fabs(-2.5f), __saturatef(7.0f), sqrt(9.0f)};
  int whole[] = {
      max(3, 4), cdiv(10, 4), tools::twice(21), __popc(0xf0), __clz(1), __ffs(8),
      (int)__umulhi(1u << 31, 6u), __float2int_rn(2.5f), __float2int_rd(-1.5f),
      __float_as_int(1.0f), abs(-7), (int)__brev(1u << 31),
      (int)__byte_perm(0x33221100, 0x77665544, 0x7531), (int)min(3u, 2),
      __syncthreads_count(t < 5), __syncthreads_and(t < 32), __syncthreads_or(t == 77),
      __any_sync(~0u, t == 3), __all_sync(~0u, t < 3), (int)__ballot_sync(~0u, t < 4),
      __shfl_sync(~0u, (int)t, 9, 16), __shfl_up_sync(~0u, (int)t, 1, 8), (int)blockDim.x,
      __shfl_xor_sync(~0u, (int)t, 3), (int)__reduce_add_sync(~0u, t), __mulhi(-1, 1), warpSize,
      (int)__match_any_sync(~0u, t / 8), __dp4a(0x01020304, 0x01010101, 5)};
  double far = __shfl_down_sync(~0u, 1.5 * t, 2);
  for (int j = 0; j < 16; ++j) f[t * 16 + j] = got[j];
  for (int j = 0; j < 29; ++j) k[t * 29 + j] = whole[j];
  atomicMax(&wide[0], (unsigned long long)t << 40);
  atomicMin((int*)&wide[1], -(int)t);
  if (t == 0) { wide[2] = (unsigned long long)far; printf("%d lanes\\n", warpSize); }
  atomicInc((unsigned*)&wide[3], 9);
}
}
"""


def test_the_language_of_kernels() -> None:
    params = [
        Param("f", "float32", 32 * 16, True), Param("k", "int32", 32 * 29, True),
        Param("wide", "uint64", 4, True),
    ]  # fmt: skip
    source = program(
        MEANING, params, Memset("wide", 0),
        Launch("select", (1, 1, 1), (32, 1, 1), ("f", "k", "wide")),
    )  # fmt: skip
    report = run(source)
    assert report.ok, str(report)
    f, k = report.outputs["f"].reshape(32, 16), report.outputs["k"].reshape(32, 29)
    np.testing.assert_allclose(
        f[0], [1, 2, 0.5, 0, 0, 0.25, 10, 1, 8, 1, 4, 3, 496, 2.5, 1, 3], rtol=1e-6
    )
    assert k[13].tolist() == [
        4, 3, 42, 4, 31, 4, 3, 2, -2, 0x3F800000, 7, 1, 0x77553311, 2, 5, 1, 0, 1, 0, 15, 9, 12, 32,
        14, 496, -1, 32, 0xFF00, 15,
    ]  # fmt: skip
    assert k[8, 21] == 8
    assert k[20, 20] == 25
    assert report.outputs["wide"].tolist() == [31 << 40, 0xFFFFFFE1, 3, 2]
    assert report.printed == "32 lanes\n"


def test_spinning_threads_let_others_run() -> None:
    text = """
extern "C" __global__ void k(int* out) {
  __shared__ volatile int ready;
  if (threadIdx.x == 0) ready = 0;
  __syncthreads();
  if (threadIdx.x == 0) while (atomicAdd((int*)&ready, 0) == 0) {}
  if (threadIdx.x == 40) atomicExch((int*)&ready, 1);
  out[threadIdx.x] = 1;
}"""
    source = program(
        text, [Param("out", "int32", 64, True)], Launch("k", (1, 1, 1), (64, 1, 1), ("out",))
    )
    report = run(source)
    assert report.ok, str(report)
    assert report.outputs["out"].all()


def test_bank_conflicts_are_counted() -> None:
    text = """
extern "C" __global__ void k(float* out) {
  __shared__ float s[32 * 32];
  for (int j = 0; j < 32; ++j) s[j * 32 + threadIdx.x] = j;
  __syncthreads();
  float sum = 0;
  for (int j = 0; j < 32; ++j) sum += s[threadIdx.x * PITCH + j];
  out[threadIdx.x] = sum;
}"""
    params = [Param("out", "float32", 32, True)]
    for pitch, conflicts in ((32, 31 * 32), (31, 0), (16, 15 * 32)):
        source = program(
            text,
            params,
            Launch("k", (1, 1, 1), (32, 1, 1), ("out",)),
            options=(f"-DPITCH={pitch}",),
        )
        figures = run(source).kernels["k"]
        assert (figures.shared_requests, figures.bank_conflicts) == (64, conflicts)
        assert figures.counted_blocks == 1


def test_sectors_of_global_memory_are_counted() -> None:
    """Of each buffer, and for 16 bytes a thread at once."""
    text = """
extern "C" __global__ void k(float* out, const float* in, float4* copy, const float4* wide) {
  copy[threadIdx.x] = wide[threadIdx.x];
  out[threadIdx.x * STEP + SHIFT] = in[threadIdx.x / 4];
}"""
    params = [
        Param("out", "float32", 64 * 33, True),
        Param("in", "float32", 16),
        Param("copy", "float32", 256, True),
        Param("wide", "float32", 256),
    ]
    launch = Launch("k", (3, 1, 1), (64, 1, 1), ("out", "in", "copy", "wide"))
    for step, shift, sectors in ((1, 0, 8), (1, 1, 10), (2, 0, 16), (32, 0, 64)):
        source = program(text, params, launch, options=(f"-DSTEP={step}", f"-DSHIFT={shift}"))
        given = {"in": np.ones(16, np.float32), "wide": np.ones(256, np.float32)}
        figures = run(source, **given).kernels["k"]
        assert figures.counted_blocks == 2
        found = {(t.buffer, t.writes): (t.requests, t.units) for t in figures.traffic}
        assert found == {
            ("out", True): (4, 2 * sectors), ("in", False): (4, 4), ("wide", False): (4, 64),
            ("copy", True): (4, 64),
        }  # fmt: skip
        assert not any(t.shared for t in figures.traffic)
        assert figures.global_requests == 16
        assert figures.global_sectors == 2 * sectors + 4 + 128
        assert figures.uncounted == figures.shared_requests == 0


def test_what_there_is_no_room_to_count_is_said() -> None:
    text = """
extern "C" __global__ void k(float* out) {
  for (int j = 0; j < 3000; ++j) ((volatile float*)out)[threadIdx.x] = j;
}"""
    source = program(
        text, [Param("out", "float32", 32, True)], Launch("k", (1, 1, 1), (32, 1, 1), ("out",))
    )
    figures = run(source).kernels["k"]
    assert figures.uncounted > 0
    assert figures.global_requests + figures.uncounted / 32 == 3000


# ----------------------------------------------------------------------------- how it is asked
def test_some_blocks_of_a_large_grid() -> None:
    n = 1 << 16
    a = np.ones(n, np.float32)
    case = RIGHT["vadd"]
    params = tuple([replace(p, elements=n) if p.elements else p for p in case.source.host.params])
    launch = replace(case.source.host.launches[0], grid=(512, 1, 1))
    source = replace(case.source, host=replace(case.source.host, params=params, steps=(launch,)))
    report = check_source(source, dict(a=a, b=a, n=n), {"c": a + a}, sample_blocks=9, seed=4)
    assert report.ok, str(report)
    assert (report.blocks_run, report.blocks_total, report.sampled) == (9, 512, True)
    written = np.flatnonzero(~np.isnan(report.outputs["c"]))
    assert written.size == 9 * 128
    assert {0, n - 1} <= set(written.tolist())
    wrong = check_source(source, dict(a=a, b=a, n=n), {"c": a}, sample_blocks=9)
    assert "wrong-result" in wrong.counts


def test_inputs_stay_as_they_are_and_outputs_keep_their_shape() -> None:
    case = RIGHT["vadd"]
    c = np.zeros((10, 100), np.float32)
    report = run(case.source, **case.values, c=c)
    assert report.outputs["c"].shape == (10, 100)
    assert not c.any()
    fault = Fault("", "((float*)in)[i] = -1; out[i] = 0;", "write-to-input")
    given = IN.copy()
    assert not run(fault.source(), **{"in": given, "n": 64}).ok
    assert np.array_equal(given, IN)


def test_no_more_findings_than_asked_for() -> None:
    body = "".join(f"out[i] = in[i + 64 + {k}];\n" for k in range(9))
    code = host_compile(Fault("", body, "out-of-bounds").source())
    report = host_run(code, {"in": IN, "n": 64}, max_findings=4)
    assert len(report.findings) == 4
    assert report.counts["out-of-bounds"] == 9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(a=np.zeros(5, np.float32)), "parameter 'a' is 1000 elements of float32"),
        (dict(a=np.zeros(1000)), "float32, found 1000 of float64"),
        (dict(a=None), "parameter 'a' needs an array"),
        (dict(n=None), "parameter 'n' needs a number"),
        (dict(z=1), "no parameter 'z'"),
    ],
)
def test_values_that_do_not_fit(change: dict[str, Any], said: str) -> None:
    case = RIGHT["vadd"]
    with pytest.raises(RunError, match=said):
        run(case.source, **{**case.values, **change})


@pytest.mark.parametrize(
    ("launch", "said"),
    [
        (dict(args=("c", "a", "b")), "takes 4 arguments, its launch gives 3"),
        (dict(args=("c", "a", "b", "a")), "takes a number, but 'a' is a buffer"),
        (dict(args=("n", "a", "b", "n")), "takes a pointer, but 'n' is a number"),
        (dict(args=("c", "a", "b", "m")), "no parameter or workspace 'm'"),
        (dict(block=(2048, 1, 1)), "1 to 1024 threads"),
        (dict(grid=(1, 70000, 1)), "grid of"),
        (dict(shared_bytes=1 << 20), "shared memory"),
    ],
)
def test_launches_that_do_not_fit(launch: dict[str, Any], said: str) -> None:
    case = RIGHT["vadd"]
    steps = (replace(case.source.host.launches[0], **launch),)
    source = replace(case.source, host=replace(case.source.host, steps=steps))
    with pytest.raises(RunError, match=said):
        run(source, **case.values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (VADD.replace("a[i] + b[i]", "a[i] +"), r"kernel\.cu:3:"),
        (VADD.replace("vadd", "other"), "launches a kernel 'vadd'"),
        ("#include <cuda_no_such.h>\n" + VADD, "cuda_no_such.h"),
        (VADD.replace("a[i] + b[i]", "unheard_of(a[i])"), "unheard_of"),
        (VADD.replace("c[i] =", 'asm volatile("mov.u32 %0, %%laneid;" : "=r"(n)); c[i] ='), "PTX"),
    ],
)
def test_texts_that_do_not_compile(text: str, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        host_compile(replace(RIGHT["vadd"].source, text=text))


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUTUNE_HOST_CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="GPUTUNE_HOST_CXX is 'no-such-compiler'"):
        host_compiler()
    monkeypatch.delenv("GPUTUNE_HOST_CXX")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(compiler, "_zig", lambda: None)
    compiler._found.cache_clear()
    with pytest.raises(BuildError, match="no C"):
        host_compiler()
    compiler._found.cache_clear()


def test_programs_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = host_compile(RIGHT["gemm"].source)
    calls: list[Any] = []
    monkeypatch.setattr(compiler.HostCompiler, "run", lambda self, a: calls.append(a))
    again = host_compile(RIGHT["gemm"].source)
    assert (again.path, again.variables) == (first.path, first.variables)
    assert not calls
    assert {(v.name, v.size) for v in first.variables} == {("As", 256), ("Bs", 288)}


@pytest.mark.parametrize("name", ["gemm", "histogram"])
def test_portable_fibers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no switch in assembly."""
    flags = host_compiler().runtime_flags()
    monkeypatch.setattr(
        compiler.HostCompiler, "runtime_flags", lambda self: (*flags, "-DGT_UCONTEXT")
    )
    case = RIGHT[name]
    report = check_source(case.source, case.values, case.expected)
    assert not report.findings, str(report)
    assert "-DGT_UCONTEXT" in host_compiler().runtime_flags()


HALVES = """\
#include <cuda_fp16.h>
extern "C" __global__ void k(const __half* in, __half* out) {
  __shared__ __half s[32];
  s[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = __float2half(__half2float(s[31 - threadIdx.x]) * 2.0f);
}
"""


@pytest.mark.skipif(not cuda_include_folders(), reason="CUDA's headers are not installed")
def test_headers_of_cuda() -> None:
    a = np.arange(32, dtype=np.float16)
    source = program(
        HALVES, [Param("in", "float16", 32), Param("out", "float16", 32, True)],
        Launch("k", (1, 1, 1), (32, 1, 1), ("in", "out")),
    )  # fmt: skip
    report = check_source(source, {"in": a}, {"out": a[::-1] * np.float16(2)})
    assert not report.findings, str(report)


# ----------------------------------------------------------------------------- for users
def test_check_cuda() -> None:
    a = np.float32([1, 2, 3])
    args = dict(c=None, a=a, b=a, n=3)
    report = check_cuda(VADD, grid=1, block=32, args=args, outputs=dict(c=a + a))
    assert report.ok
    with pytest.raises(WrongResult, match=r"(?s)vadd is not right.*wrong-result: c\[2\]"):
        check_cuda(VADD, grid=1, block=32, args=args, outputs=dict(c=a))
    with pytest.raises(WrongResult, match="out-of-bounds"):
        check_cuda(VADD, grid=1, block=32, args=args | dict(n=4), outputs=dict(c=a + a))
    with pytest.raises(UserError, match="'d' is no argument"):
        check_cuda(VADD, grid=1, block=32, args=args, outputs=dict(d=a))
    with pytest.raises(UserError, match="'c' is None"):
        check_cuda(VADD, grid=1, block=32, args=args)
    with pytest.raises(UserError, match="grid must be"):
        check_cuda(VADD, grid=(1, 2, 3, 4), block=32, args=args, outputs=dict(c=a))


def test_kernel_names() -> None:
    two = "__global__ void __launch_bounds__(N * (2)) a(int) {} // __global__ void c(\n"
    assert kernel_name(two) == "a"
    two += "__global__ __launch_bounds__(64) void b(float* p) {}"
    assert kernel_name(two, "b") == "b"
    with pytest.raises(UserError, match="several kernels: a, b"):
        kernel_name(two)
    with pytest.raises(UserError, match="no kernel 'd'"):
        kernel_name(two, "d")
    with pytest.raises(UserError, match="no kernel"):
        kernel_name("int x;")


def cli(*words: str) -> Any:
    return CliRunner().invoke(main, ["check", *words])


def test_the_command(tmp_path: Path) -> None:
    file = tmp_path / "vadd.cu"
    file.write_text(VADD.replace("blockDim.x", "BX"))
    words = [
        str(file), "c=float32[10,100]:out", "a=float32[1000]", "b=float32[1000]",
        "--grid", "8", "--block", "128", "-D", "BX=128", "--order", "forward",
    ]  # fmt: skip
    good = cli(*words, "n=int32:1000")
    assert good.exit_code == 0, good.output
    assert "vadd: 8 blocks, orders forward\nno findings" in good.output
    bad = cli(*words, "n=int32:1001")
    assert bad.exit_code == 1
    assert "out-of-bounds" in bad.output
    assert "c[1000]" in bad.output
    assert "line 3, block (7, 0, 0), thread (104, 0, 0)" in bad.output


def test_the_command_on_an_operator() -> None:
    good = cli("softmax", "--order", "random")
    assert good.exit_code == 0, good.output
    assert good.output.count("no findings") >= 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch.cu"], "there is no file nosuch.cu"),
        (["nosuch"], "nosuch"),
        (["FILE", "--block", "8"], "--grid is needed"),
        (["FILE", "--grid", "x", "--block", "8"], "no list of sizes"),
        (["FILE", "--grid", "1", "--block", "8", "c"], "is not NAME=TYPE"),
        (["FILE", "--grid", "1", "--block", "8", "c=float32[0]"], "at least 1"),
        (["FILE", "--grid", "1", "--block", "8", "c=float31[4]"], "unknown dtype 'float31'"),
        (["FILE", "--grid", "1", "--block", "8", "n=int8:200"], "200 is no int8"),
        (["FILE", "--grid", "1", "--block", "8", "c=float32[4]:both"], "'both' is none of"),
        (["FILE", "--grid", "1", "--block", "8", "n=int32:1", "n=int32:1"], "twice"),
        (["FILE", "--grid", "1", "--block", "8", "--kernel", "k"], "no kernel 'k'"),
        (["FILE", "--shape", "8"], "belong to a kernel of the library"),
        (["softmax", "--grid", "8"], "--grid has no meaning"),
    ],
)
def test_the_command_refuses(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vadd.cu"
    file.write_text(VADD)
    result = cli(*[str(file) if w == "FILE" else w for w in words])
    assert result.exit_code == 2
    assert said in result.output + getattr(result, "stderr", "")
