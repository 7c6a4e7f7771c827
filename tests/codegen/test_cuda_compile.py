"""Does CUDA C++ become a cubin, once only, and is every refusal clear?"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from cuda_programs import ARCHS, needs_nvrtc, program

from gputune.codegen.cuda import compile as cuda_compile
from gputune.codegen.cuda import cubin_cache, nvcc, nvrtc
from gputune.codegen.cuda.compile import compile_cuda, first_errors
from gputune.codegen.cuda.program import CudaSource
from gputune.errors import BuildError, UserError

ADD = """extern "C" __global__ void add(float* c, const float* a, const float* b, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i];
}
"""
WRONG = """extern "C" __global__ void add(float* c) {
  int i = threadIdx.x;

  c[i] = nothing + 1;
  c[i] = nowhere;
  missing(c);
  c[i] = absent;
}
"""
needs_nvcc = pytest.mark.skipif(nvcc.load() is None, reason="nvcc is not installed")
needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gputune" / "cubins"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that NVRTC was given."""
    texts: list[str] = []
    real = nvrtc.Nvrtc.compile

    def compile(self: nvrtc.Nvrtc, text: str, *rest: object) -> nvrtc.Compiled:
        texts.append(text)
        return real(self, text, *rest)  # type: ignore[arg-type]  # the arguments are passed on

    monkeypatch.setattr(nvrtc.Nvrtc, "compile", compile)
    return texts


def refusal(source: CudaSource, arch: str = "sm_80") -> BuildError:
    with pytest.raises(BuildError) as caught:
        compile_cuda(source, arch)
    return caught.value


# ----------------------------------------------------------------------------- compiling
@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHS)
def test_a_kernel_becomes_a_cubin_for_the_exact_architecture(arch: str) -> None:
    binary = compile_cuda(program(ADD, "add"), arch)
    assert binary.cubin.startswith(b"\x7fELF")
    assert binary.cubin[0x31] == int(arch.removeprefix("sm_").rstrip("a"))
    assert (binary.arch, binary.log) == (arch, "")
    assert binary.facts["add"].mix["FADD"] == 1
    assert binary.facts["add"].mix["LDG"] == 2


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHS)
def test_generated_code_has_the_narrow_types(arch: str) -> None:
    text = """extern "C" __global__ void
    k(gt_e4m3* a, gt_e5m2* b, gt_half* c, gt_bfloat16* d, float* f) {
      int i = threadIdx.x;
      float x = gt_to_float(a[i]) + gt_to_float(b[i]) + gt_to_float(c[i]) + gt_to_float(d[i]);
      f[i] = x;
      a[i] = gt_to_e4m3(x); b[i] = gt_to_e5m2(x); c[i] = gt_to_half(x); d[i] = gt_to_bfloat16(x);
    }"""
    binary = compile_cuda(program(text, "k", prelude=True), arch)
    assert binary.log == ""
    assert binary.facts["k"].stack_bytes == 0
    assert "identifier" in refusal(program(text, "k"), arch).message


@needs_nvrtc
def test_the_architecture_specific_instructions_need_the_letter() -> None:
    text = (
        'extern "C" __global__ void k() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }'
    )
    assert compile_cuda(program(text, "k"), "sm_90a").facts["k"].mix.get("WARPGROUP") == 1
    error = refusal(program(text, "k"), "sm_90")
    assert "wgmma" in error.message
    assert "this architecture does not have" in error.hint


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHS)
def test_cuda_headers_may_be_included(arch: str) -> None:
    compiler = nvrtc.load()
    assert compiler is not None
    if not compiler.include_dirs:
        pytest.skip("CUDA's headers are not installed")
    text = """#include <cuda_fp16.h>
    extern "C" __global__ void k(half* a) { a[0] = __hadd(a[1], a[2]); }"""
    assert compile_cuda(program(text, "k"), arch).facts["k"].mix["HADD2"] == 1


@needs_nvrtc
def test_options_reach_the_compiler() -> None:
    text = 'extern "C" __global__ void k(float* a) { a[0] = expf(a[N]) / a[2]; }'
    plain = compile_cuda(program(text, "k", options=("-DN=3",)), "sm_80").facts["k"]
    fast = compile_cuda(program(text, "k", options=("-DN=3", "--use_fast_math")), "sm_80").facts[
        "k"
    ]
    assert fast.instructions < plain.instructions
    new = 'extern "C" __global__ void k(int* a) { if constexpr (sizeof(int) == 4) a[0] = 1; }'
    assert compile_cuda(program(new, "k"), "sm_80").log == ""
    refusal(program(new, "k", options=("-std=c++14",)))


@needs_nvrtc
def test_programs_compile_in_several_threads() -> None:
    done: dict[int, int] = {}

    def work(n: int) -> None:
        text = f'extern "C" __global__ void k{n}(float* a) {{ a[{n}] = {n}; }}'
        done[n] = len(compile_cuda(program(text, f"k{n}"), ARCHS[n % 4]).facts)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert done == dict.fromkeys(range(8), 1)


# ----------------------------------------------------------------------------- refusals
@needs_nvrtc
@pytest.mark.parametrize("prelude", [False, True])
def test_errors_name_the_program_and_the_line_of_its_text(prelude: bool) -> None:
    error = refusal(program(WRONG, "add", prelude=prelude, name="my add/1"))
    first, second, third, last = error.message.splitlines()
    assert first.startswith("my add/1 does not compile for sm_80 (NVRTC ")
    assert 'my_add_1.cu(4): error: identifier "nothing" is undefined' in first
    assert "in `c[i] = nothing + 1;`" in first
    assert second.lstrip().startswith("my_add_1.cu(5)")
    assert third.lstrip().startswith("my_add_1.cu(6)")
    assert last == "  and 1 more error"
    assert error.code == "compile"
    assert "absent" in error.details["stderr"]


@needs_nvrtc
@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('#include "mine.h"\n', 'cannot open source file "mine.h"', "-IFOLDER"),
        ('extern "C" __global__ void add(float* a) { __shared__ float s[13000]; s[threadIdx.x] ='
         " a[0]; __syncthreads(); a[1] = s[3]; }", "too much shared data", "extern __shared__"),
        ('extern "C" __global__ void add() { asm volatile("cp.async.wait_all;"); }',
         "cp.async.wait_all", "does not have"),
        ("__global__ void add(float* a) {}", "its source defines _Z3addPf", 'extern "C"'),
        ('extern "C" __global__ void adder(float* a) {}', "its source defines adder", ""),
        ("", "its source defines no kernel", ""),
    ],
)  # fmt: skip
def test_what_does_not_compile_says_why(text: str, message: str, hint: str) -> None:
    error = refusal(program(text, "add"), "sm_75")
    assert message in error.message
    assert hint in error.hint
    assert bool(hint) == bool(error.hint)


@needs_nvrtc
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("-arch=sm_90", "names an architecture"),
        ("--gpu-architecture=compute_80", "names an architecture"),
        ("-gencode=arch=compute_80,code=sm_80", "names an architecture"),
        ("N=4", "does not start with a dash"),
        ("--no-such-option", "unrecognized option"),
        ("-DA\0B", "NUL"),
    ],
)
def test_senseless_options_are_refused(option: str, message: str) -> None:
    assert message in refusal(program(ADD, "add", options=(option,))).message


@needs_nvrtc
def test_an_unknown_architecture_says_what_is_known() -> None:
    message = refusal(program(ADD, "add"), "sm_50").message
    assert "no compiler on this machine knows sm_50: NVRTC" in message
    assert "sm_90, sm_90a, sm_100" in message
    assert "sm_75a" not in message
    with pytest.raises(BuildError, match="looks like sm_90 or sm_90a, found 'compute_80'"):
        compile_cuda(program(ADD, "add"), "compute_80")


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUTUNE_NVRTC", "none")
    monkeypatch.setattr(nvcc, "load", lambda: None)
    error = refusal(program(ADD, "add"))
    assert "neither NVRTC nor nvcc was found" in error.message
    assert "pip install gputune[cuda13]" in error.hint
    assert error.code == "no-compiler"


def test_a_wrong_path_of_nvrtc_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "libnvrtc.so"
    path.write_text("no library")
    for wrong in (str(path), "/nowhere/libnvrtc.so.13", "libc.so.6"):
        monkeypatch.setenv("GPUTUNE_NVRTC", wrong)
        assert f"GPUTUNE_NVRTC is {wrong!r}, which does not load" in refusal(program(ADD)).message


@pytest.mark.parametrize(
    ("log", "errors"),
    [
        ("", []),
        ("k.cu(2): warning #177-D: unused", ["k.cu(2): warning #177-D: unused"]),
        ("k.cu(2): error: a\n    x = y;\n    ^\n\n1 error detected in it.",
         ["k.cu(2): error: a in `x = y;`"]),
        ("ptxas application ptx input, line 26; error   : bad\nptxas fatal   : Ptx assembly "
         "aborted due to errors", ["ptxas application ptx input, line 26; error : bad"]),
        ("nvcc fatal   : Unsupported gpu architecture 'sm_60'",
         ["nvcc fatal : Unsupported gpu architecture 'sm_60'"]),
        ("x(1): error: a\nx(2): error: b\nx(3): error: c\nx(4): error: d\nx(5): error: e",
         ["x(1): error: a", "x(2): error: b", "x(3): error: c", "and 2 more errors"]),
    ],
)  # fmt: skip
def test_first_errors(log: str, errors: list[str]) -> None:
    assert first_errors(log) == errors


# ----------------------------------------------------------------------------- finding compilers
@needs_nvrtc
def test_nvrtc_is_found_without_the_path_finder(monkeypatch: pytest.MonkeyPatch) -> None:
    found = nvrtc.load()
    assert found is not None
    assert Path(found.path).is_file()
    monkeypatch.setattr(nvrtc, "_path_finder", lambda: None)
    again = nvrtc._first(nvrtc._candidates())
    assert again is not None
    assert again.compile(ADD, "k.cu", (), "sm_80").cubin is not None


@needs_nvrtc
def test_an_nvrtc_later_than_the_driver_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    real = nvrtc.load()
    assert real is not None
    there = {
        name: nvrtc.Nvrtc(name, version, (80,), (), real._library)
        for name, version in (("new", (99, 0)), ("fits", (12, 4)), ("old", (11, 8)))
    }
    monkeypatch.setattr(nvrtc, "_open", lambda path: there.get(path))

    def chosen(driver: int | None, *names: str) -> str:
        monkeypatch.setattr(nvrtc, "_driver_major", lambda: driver)
        found = nvrtc._first(iter(names))
        return found.path if found else "none"

    assert chosen(None, "new", "fits") == "new"
    assert chosen(12, "missing", "new", "fits", "old") == "fits"
    assert chosen(10, "new", "fits") == "new"
    assert chosen(12, "missing") == "none"


@needs_nvcc
@pytest.mark.parametrize("arch", ARCHS)
def test_nvcc_does_where_there_is_no_nvrtc(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUTUNE_NVRTC", "none")
    binary = compile_cuda(
        program(ADD, "add", prelude=True, options=("-DX=1", "--use_fast_math")), arch
    )
    assert binary.facts["add"].mix["FADD"] == 1
    assert binary.log == ""
    message = refusal(program(WRONG, "add", prelude=True), arch).message
    assert f"does not compile for {arch} (nvcc " in message
    assert 'prog.cu(4): error: identifier "nothing" is undefined' in message


@needs_nvcc
@pytest.mark.parametrize(
    "option", ["-ccbin=/tmp/x", "--run", "-o=y", "-wrong", "--compiler-options=-x"]
)
def test_nvcc_is_not_made_to_run_other_programs(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUTUNE_NVRTC", "none")
    error = refusal(program(ADD, "add", options=(option,)))
    assert f"option {option!r} is not passed to nvcc" in error.message


# ----------------------------------------------------------------------------- the cache
@needs_nvrtc
def test_a_program_is_compiled_once(counted: list[str], own_cache: Path) -> None:
    first = compile_cuda(program(ADD, "add"), "sm_80")
    assert compile_cuda(program(ADD, "add"), "sm_80") == first
    assert len(counted) == 1
    (file,) = own_cache.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert own_cache.stat().st_mode & 0o777 == 0o700
    compile_cuda(program(ADD, "add"), "sm_80", cache=False)
    assert len(counted) == 2
    for other in (
        (program(ADD + " ", "add"), "sm_80"),
        (program(ADD, "add"), "sm_86"),
        (program(ADD, "add", options=("-DA",)), "sm_80"),
        (program(ADD, "add", prelude=True), "sm_80"),
    ):
        compile_cuda(*other)
    assert len(counted) == 6


@needs_nvrtc
def test_warnings_come_from_the_cache_too() -> None:
    text = 'extern "C" __global__ void k(float* a) { int unused; a[0] = 1; }'
    first = compile_cuda(program(text, "k"), "sm_80")
    assert "never referenced" in first.log
    assert compile_cuda(program(text, "k"), "sm_80").log == first.log


@needs_nvrtc
def test_failures_are_not_kept(counted: list[str], own_cache: Path) -> None:
    refusal(program(WRONG, "add"))
    refusal(program(WRONG, "add"))
    assert len(counted) == 2
    assert not own_cache.exists() or not list(own_cache.iterdir())


def spoil_bytes(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def spoil_head(file: Path) -> None:
    file.write_bytes(b'{"format": 1}\n')


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:50])


def open_to_others(file: Path) -> None:
    file.chmod(0o666)


def replace_by_link(file: Path) -> None:
    real = file.with_suffix(".real")
    file.rename(real)
    file.symlink_to(real)


@needs_nvrtc
@pytest.mark.parametrize("spoil", [spoil_bytes, spoil_head, cut, open_to_others, replace_by_link])
def test_a_file_that_cannot_be_trusted_is_not_used(
    spoil: object, counted: list[str], own_cache: Path
) -> None:
    first = compile_cuda(program(ADD, "add"), "sm_80")
    (file,) = own_cache.iterdir()
    assert callable(spoil)
    spoil(file)
    assert compile_cuda(program(ADD, "add"), "sm_80") == first
    assert len(counted) == 2
    compile_cuda(program(ADD, "add"), "sm_80")
    assert len(counted) == 2  # what was written anew is good


@needs_nvrtc
def test_a_folder_that_others_may_write_is_not_used(counted: list[str], own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    own_cache.chmod(0o777)
    for _ in range(2):
        compile_cuda(program(ADD, "add"), "sm_80")
    assert len(counted) == 2
    assert not list(own_cache.iterdir())


@needs_nvrtc
def test_programs_that_include_files_of_their_own_are_not_kept(
    counted: list[str], own_cache: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "include"
    folder.mkdir()
    header = folder / "mine.h"
    text = '#include "mine.h"\n' + ADD.replace("a[i] +", "VALUE +")
    source = program(text, "add", options=(f"-I{folder}",))
    for value in ("1.0f", "b[i]"):
        header.write_text(f"#define VALUE {value}\n")
        compile_cuda(source, "sm_80")
    assert len(counted) == 2
    assert not own_cache.exists() or not list(own_cache.iterdir())


@needs_nvrtc
def test_the_cache_can_be_switched_off(
    counted: list[str], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUTUNE_CUBIN_CACHE_MB", "0")
    for _ in range(2):
        compile_cuda(program(ADD, "add"), "sm_80")
    assert len(counted) == 2
    assert not own_cache.exists()
    monkeypatch.setenv("GPUTUNE_CUBIN_CACHE_MB", "many")
    with pytest.raises(UserError, match="GPUTUNE_CUBIN_CACHE_MB must be a whole number of MiB"):
        compile_cuda(program(ADD, "add"), "sm_80")


def test_the_cache_stays_below_its_limit(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUTUNE_CUBIN_CACHE_MB", "1")
    monkeypatch.setattr(cubin_cache, "_SWEEP_EVERY", 1)
    block = bytes(100_000)
    for n in range(10):
        cubin_cache.write(f"old{n}", block, "")
        os.utime(own_cache / f"old{n}.cubin", (n, n))
    assert cubin_cache.read("old0") == (block, "")  # used: it is not the oldest any more
    cubin_cache.write("new", block, "the log")
    assert sum(f.stat().st_size for f in own_cache.iterdir()) <= 3 << 18
    assert cubin_cache.read("new") == (block, "the log")
    assert cubin_cache.read("old0") is not None
    assert cubin_cache.read("old1") is None
    assert cubin_cache.read("old9") is not None


# ----------------------------------------------------------------------------- the prelude
@pytest.fixture(scope="module")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The prelude's conversions in integer arithmetic, compiled for the processor."""
    folder = tmp_path_factory.mktemp("prelude")
    shim = """
    #include <string.h>
    #define __device__
    #define __forceinline__ inline
    #define __align__(n) __attribute__((aligned(n)))
    #define asm(...) (r = decltype(r)())
    static inline unsigned __float_as_uint(float a) { unsigned u; memcpy(&u, &a, 4); return u; }
    static inline float __uint_as_float(unsigned u) { float a; memcpy(&a, &u, 4); return a; }
    """
    each = "".join(
        f'extern "C" void to_{t}(const float* a, {u}* r, long n)'
        f" {{ for (long i = 0; i < n; ++i) r[i] = gt_to_{t}(a[i]).x; }}\n"
        f'extern "C" void from_{t}(const {u}* a, float* r, long n)'
        f" {{ for (long i = 0; i < n; ++i) {{ gt_{t} x; x.x = a[i]; r[i] = gt_to_float(x); }} }}\n"
        for t, u in (
            ("e4m3", "unsigned char"), ("e5m2", "unsigned char"), ("bfloat16", "unsigned short"),
        )
    )  # fmt: skip
    source, library = folder / "p.cpp", folder / "p.so"
    source.write_text(shim + cuda_compile.prelude() + each)
    subprocess.run(
        ["g++", "-O1", "-w", "-shared", "-fPIC", str(source), "-o", str(library)], check=True
    )
    return ctypes.CDLL(str(library))


def floats() -> np.ndarray:
    """Floats of every exponent, mantissas at which rounding changes, and all of float16."""
    top = np.arange(1 << 16, dtype=np.uint32) << 16
    bits = np.concatenate([top + d for d in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    return np.concatenate([bits.view(np.float32), halves])


def call(function: object, data: np.ndarray, dtype: type) -> np.ndarray:
    out = np.empty(data.shape, dtype)
    assert callable(function)
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (data, out)]
    function(*pointers, ctypes.c_long(data.size))
    return out


@needs_gxx
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("e4m3", ml_dtypes.float8_e4m3fn),
        ("e5m2", ml_dtypes.float8_e5m2),
        ("bfloat16", ml_dtypes.bfloat16),
    ],
)
def test_the_prelude_rounds_as_ml_dtypes_does(
    conversions: ctypes.CDLL, name: str, dtype: type
) -> None:
    data = floats()
    bits = np.uint8 if name != "bfloat16" else np.uint16
    got = call(getattr(conversions, f"to_{name}"), data, bits).view(dtype)
    with np.errstate(all="ignore"):
        want = data.astype(dtype)
    is_nan = np.isnan(want.astype(np.float32))
    assert np.array_equal(np.isnan(got.astype(np.float32)), is_nan)
    assert np.array_equal(got.view(bits)[~is_nan], want.view(bits)[~is_nan])


@needs_gxx
@pytest.mark.parametrize(
    ("name", "dtype"), [("e4m3", ml_dtypes.float8_e4m3fn), ("bfloat16", ml_dtypes.bfloat16)]
)
def test_the_prelude_widens_exactly(conversions: ctypes.CDLL, name: str, dtype: type) -> None:
    bits = np.uint8 if name != "bfloat16" else np.uint16
    data = np.arange(np.iinfo(bits).max + 1, dtype=bits)
    got = call(getattr(conversions, f"from_{name}"), data, np.float32)
    want = data.view(dtype).astype(np.float32)
    is_nan = np.isnan(want)
    assert np.array_equal(np.isnan(got), is_nan)
    assert np.array_equal(got[~is_nan].view(np.uint32), want[~is_nan].view(np.uint32))
