"""Are the limits of GPUs those of NVIDIA's table, and is occupancy what its own code computes?"""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.errors import TargetError
from gputune.target import GpuLimits, Target, limits_of, occupancy
from gputune.target.gpu import _PER_SM

ARCHS = tuple(f"sm_{n}" for n in _PER_SM)


# ----------------------------------------------------------------------------- limits
def test_limits_of_known_architectures() -> None:
    turing, hopper, blackwell = map(limits_of, ("sm_75", "sm_90a", "sm_120"))
    assert (turing.threads_per_sm, turing.blocks_per_sm, turing.shared_per_block) == (
        1024,
        16,
        65536,
    )
    assert (hopper.threads_per_sm, hopper.blocks_per_sm) == (2048, 32)
    assert (hopper.shared_per_sm, hopper.shared_per_block) == (233472, 232448)
    assert (blackwell.threads_per_sm, blackwell.blocks_per_sm) == (1536, 24)
    assert blackwell.shared_per_block == 101376
    assert hopper.arch == "sm_90a"
    assert hopper.sms is None


@pytest.mark.parametrize("arch", ARCHS)
def test_limits_are_consistent(arch: str) -> None:
    g = limits_of(arch)
    assert g.shared_static <= g.shared_per_block <= g.shared_per_sm - g.shared_reserved
    assert g.threads_per_sm % g.warp == 0
    assert g.threads_per_block <= g.threads_per_sm
    # the block that has everything still runs
    assert occupancy(g, g.threads_per_block, 64, g.shared_per_block)[0] == 1


@pytest.mark.parametrize("arch", ["sm_70", "sm_130", "90", "sm_90x", "sm_9", ""])
def test_unknown_architectures_are_refused(arch: str) -> None:
    with pytest.raises(TargetError, match=f"architecture {arch!r} are not known") as e:
        limits_of(arch)
    assert "sm_75" in e.value.hint
    assert "sm_121" in e.value.hint


def test_a_target_may_change_limits() -> None:
    assert Target("cuda -arch=sm_90a").limits == limits_of("sm_90a")
    changed = Target(
        "cuda -arch=sm_80 -max-shared-memory-per-block=49152 -max-threads-per-block=512"
        " -thread-warp-size=32"
    ).limits
    assert (changed.shared_per_block, changed.shared_static) == (49152, 49152)
    assert changed.threads_per_block == 512
    small = Target("cuda -arch=sm_80 -max-shared-memory-per-block=1000").limits
    assert (small.shared_per_block, small.shared_static) == (1000, 1000)
    assert occupancy(changed, 1024, 16, 0)[0] == 0


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("llvm", "property of cuda targets"),
        ("cuda -arch=sm_61", "'sm_61' are not known"),
        ("cuda -arch=sm_80 -thread-warp-size=64", "'thread-warp-size' is 64"),
    ],
)
def test_limits_that_make_no_sense_are_refused(target: str, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        _ = Target(target).limits


# ----------------------------------------------------------------------------- occupancy
def test_occupancy_of_known_cases() -> None:
    a100 = limits_of("sm_80")
    assert occupancy(a100, 256, 32, 0) == (8, 1.0)
    assert occupancy(a100, 256, 255, 0) == (1, 0.125)
    assert occupancy(a100, 1024, 64, 0) == (1, 0.5)
    assert occupancy(a100, 1024, 65, 0) == (0, 0.0)  # more registers than a block can have
    assert occupancy(a100, 128, 32, 163 * 1024) == (1, 4 / 64)
    assert occupancy(a100, 128, 32, 163 * 1024 + 1)[0] == 0
    assert occupancy(a100, 33, 16, 0) == (32, 1.0)  # the second warp is nearly empty
    assert occupancy(a100, 32, 16, 0) == (32, 0.5)
    assert occupancy(a100, 32, 16, 0, barriers=16) == (32, 0.5)
    assert occupancy(limits_of("sm_90"), 32, 16, 0, barriers=16) == (4, 4 / 64)
    assert occupancy(limits_of("sm_75"), 1025, 16, 0)[0] == 0


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, -1, 0), (32, 32, -1)])
def test_senseless_amounts_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(TargetError, match="at least one thread and no negative amounts"):
        occupancy(limits_of("sm_80"), *wrong)


def by_placing(g: GpuLimits, threads: int, registers: int, shared: int, barriers: int) -> int:
    """Blocks on a multiprocessor, found by putting warps there until one has no room."""
    warps = len(range(0, threads, 32))
    units = len(range(0, registers * 32, 256))  # of a warp, each of 256 registers
    per_partition = g.registers_per_sm // 4 // 256
    if threads > g.threads_per_block or registers > 255 or shared > g.shared_per_block:
        return 0
    if 4 * len(range(0, warps, 4)) * units > g.registers_per_block // 256:
        return 0
    free = [per_partition] * 4
    room = g.shared_per_sm
    left_warps, left_barriers = g.threads_per_sm // 32, g.barriers_per_sm
    blocks = 0
    while blocks < g.blocks_per_sm:
        for _ in range(warps):
            emptiest = free.index(max(free))
            free[emptiest] -= units
            left_warps -= 1
        took = len(range(0, shared + g.shared_reserved, g.shared_unit)) * g.shared_unit
        room -= took
        left_barriers -= barriers
        if min(free) < 0 or room < 0 or left_warps < 0 or left_barriers < 0:
            break
        blocks += 1
    return blocks


@settings(derandomize=True, deadline=None, max_examples=1500)
@given(
    st.sampled_from(ARCHS),
    st.integers(1, 1100),
    st.integers(0, 256),
    st.one_of(st.just(0), st.integers(0, 240_000), st.integers(0, 4000)),
    st.integers(0, 16),
)
def test_occupancy_is_what_placing_blocks_gives(
    arch: str, threads: int, registers: int, shared: int, barriers: int
) -> None:
    limits = limits_of(arch)
    blocks, share = occupancy(limits, threads, registers, shared, barriers)
    assert blocks == by_placing(limits, threads, registers, shared, barriers)
    assert share == pytest.approx(blocks * -(-threads // 32) * 32 / limits.threads_per_sm)
    assert 0 <= share <= 1


# ----------------------------------------------------------------------------- against NVIDIA
OCC = r"""
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <algorithm>
#include "cuda_occupancy.h"
extern "C" int blocks(int cc, int threads_per_sm, int shared_per_sm, int reserved, int optin,
                      int threads, int registers, int shared, int barriers) {
  cudaOccDeviceProp p;
  memset(&p, 0, sizeof p);
  p.computeMajor = cc / 10; p.computeMinor = cc % 10; p.warpSize = 32; p.numSms = 100;
  p.maxThreadsPerBlock = 1024; p.maxThreadsPerMultiprocessor = threads_per_sm;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.sharedMemPerBlock = 49152; p.sharedMemPerMultiprocessor = shared_per_sm;
  p.sharedMemPerBlockOptin = optin; p.reservedSharedMemPerBlock = reserved;
  cudaOccFuncAttributes a;
  memset(&a, 0, sizeof a);
  a.maxThreadsPerBlock = 1024; a.numRegs = registers; a.partitionedGCConfig = PARTITIONED_GC_OFF;
  a.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN; a.maxDynamicSharedSizeBytes = shared;
  a.numBlockBarriers = barriers;
  cudaOccDeviceState s;
  memset(&s, 0, sizeof s);
  s.cacheConfig = CACHE_PREFER_SHARED; s.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
  cudaOccResult r;
  int error = cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &a, &s, threads, shared);
  return error ? -error : r.activeBlocksPerMultiprocessor;
}
"""


def nvidias_headers() -> Path | None:
    for place in sys.path:
        for folder in sorted(Path(place, "nvidia").glob("*/include"), reverse=True):
            if (folder / "cuda_occupancy.h").exists():
                return folder
    return None


@pytest.mark.skipif(nvidias_headers() is None, reason="the wheel nvidia-cuda-runtime is missing")
@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
def test_occupancy_is_what_nvidias_code_computes(tmp_path: Path) -> None:
    source, library = tmp_path / "occ.cpp", tmp_path / "occ.so"
    source.write_text(OCC)
    words = ["g++", "-w", "-shared", "-fPIC", f"-I{nvidias_headers()}", str(source)]
    subprocess.run([*words, "-o", str(library)], check=True)
    nvidias = ctypes.CDLL(str(library)).blocks
    draw = random.Random(1)
    compared = 0
    for _ in range(20_000):
        number = draw.choice(list(_PER_SM))
        g = limits_of(f"sm_{number}")
        threads = draw.choice([draw.randint(1, 1024), 32 * draw.randint(1, 32)])
        registers = draw.randint(16, 255)
        shared = draw.choice([0, draw.randint(0, 50_000), draw.randint(0, g.shared_per_block)])
        barriers = draw.choice([0, 1, 1, draw.randint(2, 16)])
        theirs = nvidias(
            number, g.threads_per_sm, g.shared_per_sm, g.shared_reserved, g.shared_per_block,
            threads, registers, shared, barriers,
        )  # fmt: skip
        if theirs < 0:
            continue  # an architecture that this release of the header does not know
        compared += 1
        case = (number, threads, registers, shared, barriers)
        assert occupancy(g, threads, registers, shared, barriers)[0] == theirs, case
    assert compared > 15_000
