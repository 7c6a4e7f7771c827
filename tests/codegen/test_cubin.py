"""Is what is read from a cubin what the compiler says of it, and is a damaged one refused?"""

from __future__ import annotations

import contextlib
import re
import struct
import subprocess
from functools import cache
from pathlib import Path

import pytest
from cuda_programs import ARCHS, cuobjdump, needs_nvrtc, varied_kernel
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.codegen.cuda import nvrtc
from gputune.codegen.cuda.cubin import KernelFacts, read_accesses, read_cubin
from gputune.errors import BuildError

KERNELS = 50


def compiled(text: str, arch: str) -> tuple[bytes, str]:
    """The cubin, and what ptxas tells of it."""
    compiler = nvrtc.load()
    assert compiler is not None
    options = ("-std=c++17", "-w", "--ptxas-options=-v")
    done = compiler.compile(text, "k.cu", options, arch)
    assert done.cubin is not None, done.log
    return done.cubin, done.log


def facts_of(text: str, arch: str, kernel: str = "k") -> KernelFacts:
    return read_cubin(compiled(text, arch)[0])[kernel]


@cache
def varied(i: int) -> tuple[bytes, str]:
    return compiled(varied_kernel(i), ARCHS[i % len(ARCHS)])


# ----------------------------------------------------------------------------- against NVIDIA
@needs_nvrtc
def test_facts_agree_with_the_assembler() -> None:
    spilled = stacked = 0
    for i in range(KERNELS):
        cubin, log = varied(i)
        (facts,) = read_cubin(cubin).values()
        own = log[log.index(f"entry function 'k{i}'") :]
        used = re.search(r"Used (\d+) registers, used (\d+) barriers", own)
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", own)
        shared = re.search(r"(\d+) bytes smem", own)
        assert used is not None
        assert frame is not None
        assert (facts.registers, facts.barriers) == (int(used[1]), int(used[2])), i
        assert facts.shared_bytes == (int(shared[1]) if shared else 0), i
        assert facts.stack_bytes == int(frame[1]), i
        assert (facts.spill_stores > 0) >= (int(frame[2]) > 0), i
        spilled += int(frame[2]) > 0
        stacked += facts.stack_bytes > 0
    assert spilled > 3  # the kernels are as varied as they should be
    assert stacked > 12


@needs_nvrtc
@pytest.mark.skipif(cuobjdump() is None, reason="the wheel nvidia-cuda-cuobjdump is not installed")
def test_facts_agree_with_cuobjdump(tmp_path: Path) -> None:
    tool = cuobjdump()
    assert tool is not None
    different = set()
    for i in range(KERNELS):
        cubin, _ = varied(i)
        path = tmp_path / "k.cubin"
        path.write_bytes(cubin)
        done = subprocess.run(
            [tool, "--dump-resource-usage", str(path)], capture_output=True, text=True, check=True
        )
        said = re.search(r"Function k\d+:\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", done.stdout)
        assert said is not None, done.stdout
        registers, stack, shared = map(int, said.groups())
        if ARCHS[i % len(ARCHS)] in ("sm_90a", "sm_120") and shared:
            shared -= 1024  # what the system reserves
        (facts,) = read_cubin(cubin).values()
        assert (facts.registers, facts.stack_bytes, facts.shared_bytes) == (
            registers, stack, shared,
        ), i  # fmt: skip
        different.add((registers, stack, shared))
    assert len(different) > KERNELS // 2


# ----------------------------------------------------------------------------- known kernels
@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHS)
def test_the_mix_of_a_kernel_that_is_known(arch: str) -> None:
    text = (
        'extern "C" __global__ void __launch_bounds__(64, 2)\n'
        "k(float4* a, const float4* b, float x) {\n"
        "  __shared__ float4 s[64];\n  s[threadIdx.x] = b[threadIdx.x];\n  __syncthreads();\n"
        "  float4 v = s[63 - threadIdx.x];\n  v.x = v.x * x + v.y;\n  v.z = v.z * x + v.w;\n"
        "  a[threadIdx.x] = v;\n}\n"
    )
    facts = facts_of(text, arch)
    counts = {m: facts.mix.get(m) for m in ("LDG", "STG", "LDS", "STS", "BAR", "FFMA", "EXIT")}
    assert counts == {"LDG": 1, "STG": 1, "LDS": 1, "STS": 1, "BAR": 1, "FFMA": 2, "EXIT": 1}
    assert facts.shared_bytes == 1024
    assert facts.barriers == 1
    assert facts.max_threads == 64
    assert facts.spill_loads == facts.spill_stores == facts.stack_bytes == 0
    assert facts.instructions == sum(facts.mix.values())
    assert "NOP" not in facts.mix
    assert not [m for m in facts.mix if m.startswith("0x")]


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_120"])
def test_tensor_cores_and_asynchronous_copies_are_seen(arch: str) -> None:
    text = r"""extern "C" __global__ void k(const char* a, float* c) {
      __shared__ __align__(16) char s[2048];
      unsigned at = (unsigned)__cvta_generic_to_shared(s + threadIdx.x * 16);
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
          :: "r"(at), "l"(a + threadIdx.x * 16));
      asm volatile("cp.async.wait_all;" ::: "memory");
      __syncthreads();
      unsigned x, y, z, w;
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
          : "=r"(x), "=r"(y), "=r"(z), "=r"(w) : "r"(at));
      float d0 = 0, d1 = 0, d2 = 0, d3 = 0;
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
          "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%4,%5}, {%0,%1,%2,%3};"
          : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3) : "r"(x), "r"(y), "r"(z), "r"(w));
      c[threadIdx.x] = d0 + d1 + d2 + d3;
    }"""
    mix = facts_of(text, arch).mix
    assert (mix.get("HMMA"), mix.get("LDSM"), mix.get("LDGSTS")) == (1, 1, 1)


@needs_nvrtc
def test_integer_addition_and_bfloat16_share_an_opcode() -> None:
    text = 'extern "C" __global__ void k(int* a, int n) { a[threadIdx.x + n] = a[0] + n; }'
    assert "HFMA2" not in facts_of(text, "sm_120").mix
    text = r"""extern "C" __global__ void k(unsigned* a) {
      asm("fma.rn.bf16x2 %0, %1, %2, %0;" : "+r"(a[0]) : "r"(a[1]), "r"(a[2])); }"""
    assert facts_of(text, "sm_90a").mix["HFMA2"] >= 1
    assert "IADD" not in facts_of(text, "sm_90a").mix


@needs_nvrtc
def test_every_kernel_of_a_program_is_read_and_nothing_else() -> None:
    text = (
        "__device__ __noinline__ float f(float x) { return x * x; }\n"
        'extern "C" __global__ void one(float* a) { a[0] = f(a[1]); }\n'
        'extern "C" __global__ void two(double* a) { __shared__ double s[8]; s[threadIdx.x] = a[1];'
        " __syncthreads(); a[0] = s[3]; }\n"
        "__global__ void three(float* a) { a[0] = 1; }\n"
    )
    for arch in ARCHS:
        facts = read_cubin(compiled(text, arch)[0])
        assert set(facts) == {"one", "two", "_Z5threePf"}
        assert {n: f.shared_bytes for n, f in facts.items()} == {
            "one": 0,
            "two": 64,
            "_Z5threePf": 0,
        }
        assert facts["one"].max_threads is None


@needs_nvrtc
def test_a_program_without_kernels_has_no_facts() -> None:
    assert read_cubin(compiled("__device__ int x;", "sm_80")[0]) == {}


# ----------------------------------------------------------------------------- damaged files
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "0 bytes are not a readable cubin"),
        (b"// PTX text", "does not start as a little-endian ELF"),
        (b"\x7fELF\x01\x01" + bytes(60), "does not start as a little-endian ELF"),
        (b"\x7fELF\x02\x01" + bytes(12) + b"\x3e\0" + bytes(60), "for the machine 62"),
        (b"\x7fELF\x02\x01" + bytes(12) + b"\xbe\0", "unpack"),
    ],
)
def test_what_is_no_cubin_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BuildError, match=why):
        read_cubin(data)


@needs_nvrtc
def test_a_cubin_for_an_old_gpu_is_refused() -> None:
    cubin = bytearray(varied(0)[0])
    (flags,) = struct.unpack_from("<I", cubin, 0x30)
    struct.pack_into("<I", cubin, 0x30, flags & ~0xFF00 | 60 << 8)
    with pytest.raises(BuildError, match="it is for sm_60"):
        read_cubin(bytes(cubin))


@needs_nvrtc
@settings(derandomize=True, deadline=None, max_examples=400)
@given(st.data())
def test_a_damaged_cubin_is_refused_or_read(data: st.DataObject) -> None:
    cubin = bytearray(varied(3)[0])
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    anywhere = st.integers(0, len(cubin) - 1)
    telling = st.one_of(st.integers(0, 63), st.integers(table, len(cubin) - 1), anywhere)
    for at in data.draw(st.lists(telling, max_size=6)):
        cubin[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, cubin[at] ^ 4]))
    length = data.draw(st.one_of(st.just(len(cubin)), anywhere))
    facts: dict[str, KernelFacts] = {}
    with contextlib.suppress(BuildError):  # any other error is a crash
        facts = read_cubin(bytes(cubin[:length]))
    assert all(f.instructions == sum(f.mix.values()) for f in facts.values())


# ----------------------------------------------------------------------------- widths of accesses
@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(
    ("kind", "bits"), [("char", 8), ("short", 16), ("int", 32), ("int2", 64), ("int4", 128)]
)
def test_widths_of_accesses(kind: str, bits: int, arch: str) -> None:
    text = f"""extern "C" __global__ void k(const {kind}* a, {kind}* b) {{
      __shared__ {kind} s[64];
      s[threadIdx.x] = a[threadIdx.x];
      __syncthreads();
      b[threadIdx.x] = s[threadIdx.x ^ 1];
    }}"""
    found = read_accesses(compiled(text, arch)[0])["k"]
    assert found == {f"{name}.{bits}": 1 for name in ("LDG", "STS", "LDS", "STG")}


def test_widths_of_what_is_no_cubin() -> None:
    with pytest.raises(BuildError, match="100 bytes are not a readable cubin"):
        read_accesses(b"x" * 100)
