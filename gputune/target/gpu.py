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


def limits_of(arch: str) -> GpuLimits:
    """The limits of an architecture; "sm_90a" has those of "sm_90".

    Raises:
        TargetError: an architecture that is not known here; lists those that are.

    Example:
        >>> limits_of("sm_90a").shared_per_block
        232448
    """
    number = re.fullmatch(r"sm_([0-9]{2,3})[af]?", arch)
    if number is None or int(number[1]) not in _PER_SM:
        raise TargetError(
            f"the limits of GPU architecture {arch!r} are not known",
            hint="known are: " + ", ".join(f"sm_{n}" for n in _PER_SM),
        )
    threads, blocks, barriers, kib = _PER_SM[int(number[1])]
    if int(number[1]) < 80:
        return GpuLimits(
            arch, threads, blocks, barriers, kib << 10, kib << 10,
            shared_reserved=0, shared_unit=256,
        )  # fmt: skip
    return GpuLimits(arch, threads, blocks, barriers, kib << 10, (kib << 10) - 1024)


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
