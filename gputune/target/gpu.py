"""What does a GPU of an architecture offer a block, and how many blocks live on one multiprocessor?

The numbers are those of the table "Technical Specifications per Compute Capability" in NVIDIA's
CUDA programming guide; the occupancy rule is the one that its cuda_occupancy.h follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import TargetError

_REGISTER_UNIT = 256
"""A warp gets registers in multiples of this."""

_PARTITIONS = 4
"""Parts of a multiprocessor, each with a quarter of the registers and a scheduler of its own."""


@dataclass(frozen=True, slots=True)
class GpuLimits:
    """What an architecture offers. Sizes in bytes, registers of 32 bits, an SM is a multiprocessor.

    Attributes:
        arch: such as "sm_90a".
        threads_per_sm: that live on an SM at once.
        blocks_per_sm: that live on an SM at once.
        barriers_per_sm: named barriers of all blocks on an SM; before sm_90 there are 16 for each.
        shared_per_sm: shared memory that all blocks on an SM have together.
        shared_per_block: the most a block can have, static and dynamic together; a launch asks for
            more than `shared_static` explicitly.
        shared_reserved: what the system takes for each block besides.
        shared_unit: a block gets shared memory in multiples of this.
        shared_static: the most that a block can have without asking, static arrays in all cases.
        threads_per_block: of one block.
        registers_per_sm: all of an SM's.
        registers_per_block: the most for one block.
        registers_per_thread: the most for one thread.
        warp: threads that execute together.
        block_dims: the most threads along x, y, z of a block.
        grid_dims: the most blocks along x, y, z of a grid.
        sms: multiprocessors of the device; None: that depends on the device.
    """

    arch: str
    threads_per_sm: int
    blocks_per_sm: int
    barriers_per_sm: int
    shared_per_sm: int
    shared_per_block: int
    shared_reserved: int = 1024
    shared_unit: int = 128
    shared_static: int = 48 << 10
    threads_per_block: int = 1024
    registers_per_sm: int = 65536
    registers_per_block: int = 65536
    registers_per_thread: int = 255
    warp: int = 32
    block_dims: tuple[int, int, int] = (1024, 1024, 64)
    grid_dims: tuple[int, int, int] = (2**31 - 1, 65535, 65535)
    sms: int | None = None


# architecture: threads, blocks, barriers and KiB of shared memory of an SM
_PER_SM = {
    75: (1024, 16, 256, 64),
    80: (2048, 32, 512, 164),
    86: (1536, 16, 256, 100),
    87: (1536, 16, 256, 164),
    88: (1536, 16, 256, 100),
    89: (1536, 24, 384, 100),
    90: (2048, 32, 64, 228),
    100: (2048, 32, 64, 228),
    101: (1536, 24, 24, 228),  # CUDA 13 calls it sm_110
    103: (2048, 32, 64, 228),
    110: (1536, 24, 24, 228),
    120: (1536, 24, 24, 100),
    121: (1536, 24, 24, 100),
}


@dataclass(frozen=True, slots=True)
class GpuSpeeds:
    """How fast a GPU is: what a model of run times asks for.

    Attributes:
        device: which GPU that is.
        sms: multiprocessors.
        clock_hz: of the multiprocessors, boosted.
        dram_bytes_s: from and to the GPU's memory.
        l2_bytes: of the cache that all multiprocessors share.
        l2_bytes_s: from that cache.
        l1_bytes: of each multiprocessor, L1 cache and shared memory together.
        fp32_lanes: float32 multiply-adds that a multiprocessor begins in a cycle.
        fp64_lanes: the same for float64.
        fp16_tensor: float16 multiply-adds that its tensor cores begin in a cycle, as instructions
            of one warp reach it.
    """

    device: str
    sms: int
    clock_hz: float
    dram_bytes_s: float
    l2_bytes: int
    l2_bytes_s: float
    l1_bytes: int
    fp32_lanes: int
    fp64_lanes: int
    fp16_tensor: int


# Of each architecture the GPU that is met most; others of it have the same multiprocessors, and
# fewer of them. Multiprocessors, clocks, DRAM, lanes and sizes of caches are those of NVIDIA's
# architecture whitepapers ("NVIDIA Turing GPU Architecture", "NVIDIA A100 Tensor Core GPU
# Architecture", "NVIDIA Ampere GA102 GPU Architecture", "NVIDIA Ada GPU Architecture", "NVIDIA H100
# Tensor Core GPU Architecture", "NVIDIA RTX Blackwell GPU Architecture") and data sheets; L1 and
# lanes also stand in the CUDA programming guide, per compute capability. L2 rates are not
# published: sm_75 as measured by Jia et al., arXiv 1903.07486; the others are rounded estimates of
# 40 bytes a cycle and multiprocessor, which such measurements come to. Tensor cores: dense float16
# rates of the whitepapers; from sm_90 on half of them, because the whole is for instructions of
# four warps.
_SPEEDS = {
    75: GpuSpeeds("T4", 40, 1.59e9, 320e9, 4 << 20, 1.27e12, 96 << 10, 64, 2, 512),
    80: GpuSpeeds("A100 SXM", 108, 1.41e9, 2.039e12, 40 << 20, 6.1e12, 192 << 10, 64, 32, 1024),
    86: GpuSpeeds("RTX 3090", 82, 1.695e9, 936e9, 6 << 20, 5.6e12, 128 << 10, 128, 2, 512),
    87: GpuSpeeds("Jetson Orin", 16, 1.3e9, 204.8e9, 4 << 20, 0.83e12, 192 << 10, 128, 2, 512),
    89: GpuSpeeds("RTX 4090", 128, 2.52e9, 1.008e12, 72 << 20, 12.9e12, 128 << 10, 128, 2, 512),
    90: GpuSpeeds("H100 SXM", 132, 1.98e9, 3.35e12, 50 << 20, 10.5e12, 256 << 10, 128, 64, 1024),
    100: GpuSpeeds("B200", 148, 1.965e9, 8e12, 126 << 20, 11.6e12, 256 << 10, 128, 64, 1024),
    110: GpuSpeeds("Jetson Thor", 20, 1.57e9, 273e9, 32 << 20, 1.26e12, 256 << 10, 128, 2, 1024),
    120: GpuSpeeds("RTX 5090", 170, 2.41e9, 1.792e12, 96 << 20, 16.4e12, 128 << 10, 128, 2, 512),
    121: GpuSpeeds("GB10", 48, 2.42e9, 273e9, 24 << 20, 4.6e12, 128 << 10, 128, 2, 512),
}
_LIKE = {88: 87, 101: 110, 103: 100}  # architectures of which little is published


def speeds_of(arch: str) -> GpuSpeeds:
    """How fast the GPU is that is met most of an architecture.

    Raises:
        TargetError: an architecture that is not known here; lists those that are.

    Example:
        >>> speeds_of("sm_90a").sms
        132
    """
    number = _number_of(arch)
    return _SPEEDS[_LIKE.get(number, number)]


def limits_of(arch: str) -> GpuLimits:
    """The limits of an architecture; "sm_90a" has those of "sm_90".

    Raises:
        TargetError: an architecture that is not known here; lists those that are.

    Example:
        >>> limits_of("sm_90a").shared_per_block
        232448
    """
    number = _number_of(arch)
    threads, blocks, barriers, kib = _PER_SM[number]
    if number < 80:
        return GpuLimits(
            arch, threads, blocks, barriers, kib << 10, kib << 10,
            shared_reserved=0, shared_unit=256,
        )  # fmt: skip
    return GpuLimits(arch, threads, blocks, barriers, kib << 10, (kib << 10) - 1024)


def _number_of(arch: str) -> int:
    number = re.fullmatch(r"sm_([0-9]{2,3})[af]?", arch)
    if number is None or int(number[1]) not in _PER_SM:
        raise TargetError(
            f"the limits of GPU architecture {arch!r} are not known",
            hint="known are: " + ", ".join(f"sm_{n}" for n in _PER_SM),
        )
    return int(number[1])


def occupancy(
    limits: GpuLimits, threads: int, registers: int, shared_bytes: int, barriers: int = 0
) -> tuple[int, float]:
    """How many blocks of a kernel live on one multiprocessor at once.

    Args:
        limits: of the architecture.
        threads: of a block.
        registers: of a thread.
        shared_bytes: of a block, static and dynamic, without what the system reserves.
        barriers: named barriers of a block.

    Returns:
        The number of blocks, 0 where not even one can run; and the share of the warps that could
        live there.

    Raises:
        TargetError: no threads, or a negative number.

    Example:
        >>> occupancy(limits_of("sm_80"), threads=256, registers=64, shared_bytes=0)
        (4, 0.5)
    """
    if threads < 1 or registers < 0 or shared_bytes < 0 or barriers < 0:
        raise TargetError(
            "occupancy is asked for at least one thread and no negative amounts, found "
            f"{threads} threads, {registers} registers, {shared_bytes} bytes, {barriers} barriers"
        )
    warps = _ceil_div(threads, limits.warp)
    shared = _round_up(shared_bytes + limits.shared_reserved, limits.shared_unit)
    bounds = [
        limits.blocks_per_sm,
        limits.threads_per_sm // limits.warp // warps,
        _blocks_by_registers(limits, warps, registers),
    ]
    if shared:
        bounds.append(limits.shared_per_sm // shared)
    if barriers:
        bounds.append(limits.barriers_per_sm // barriers)
    if threads > limits.threads_per_block or shared_bytes > limits.shared_per_block:
        bounds.append(0)
    blocks = min(bounds)
    return blocks, blocks * warps / (limits.threads_per_sm // limits.warp)


def _blocks_by_registers(limits: GpuLimits, warps: int, registers: int) -> int:
    """Blocks whose warps find registers: each partition serves whole warps."""
    if registers > limits.registers_per_thread:
        return 0
    of_warp = _round_up(registers * limits.warp, _REGISTER_UNIT)
    if of_warp == 0:
        return limits.blocks_per_sm
    # A launch is refused as if each partition had as many warps of the block as the fullest one.
    if of_warp * _round_up(warps, _PARTITIONS) > limits.registers_per_block:
        return 0
    warps_that_fit = limits.registers_per_sm // _PARTITIONS // of_warp * _PARTITIONS
    return warps_that_fit // warps


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _round_up(a: int, unit: int) -> int:
    return _ceil_div(a, unit) * unit
