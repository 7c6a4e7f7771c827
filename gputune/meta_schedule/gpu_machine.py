"""Which GPU are the features about, and how do blocks of threads fill it?

The rule of occupancy is that of `target.occupancy`, for many candidates at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..target.gpu import GpuLimits, GpuSpeeds, limits_of, speeds_of
from ..target.host import cuda_problem

if TYPE_CHECKING:
    from ..target import Target

Floats = npt.NDArray[np.float64]

_REGISTER_UNIT, _PARTITIONS = 256, 4  # see target/gpu.py


@dataclass(frozen=True, slots=True)
class GpuMachine:
    """What a GPU offers, and how fast it is."""

    limits: GpuLimits
    speeds: GpuSpeeds

    @staticmethod
    def of(target: Target) -> GpuMachine:
        """The GPU of a cuda target: that of this machine if it has the architecture, or the one
        that is met most.

        Raises:
            TargetError: the architecture is not known.
        """
        speeds = _present(target.arch)
        return GpuMachine(target.limits, speeds_of(target.arch) if speeds is None else speeds)

    @staticmethod
    def named(arch: str) -> GpuMachine:
        """The GPU that is met most of an architecture."""
        return GpuMachine(limits_of(arch), speeds_of(arch))


@cache
def _present(arch: str) -> GpuSpeeds | None:
    """The speeds of this machine's GPU, if it is of this architecture."""
    if cuda_problem() is not None:
        return None
    from ..runtime.cuda_device import gpu, gpu_facts

    cupy = gpu("the model of run times")
    device = int(cupy.cuda.runtime.getDevice())
    facts = gpu_facts(cupy, device)
    if arch.rstrip("af") != facts.arch:
        return None
    told = cupy.cuda.Device(device).attributes
    return with_device(speeds_of(arch), facts.name, facts.sms, facts.l2_bytes, told)


def with_device(
    like: GpuSpeeds, name: str, sms: int, l2_bytes: int, told: Mapping[str, Any]
) -> GpuSpeeds:
    """The speeds of a device, of which its driver tells some.

    Args:
        like: of another GPU of the architecture.
        name, sms, l2_bytes: of the device.
        told: its attributes by CUDA's names: clocks in kHz, the width of the memory's bus in bits.
            Newer drivers leave the clocks out.
    """
    clock = float(told.get("ClockRate", 0)) * 1e3 or like.clock_hz
    bus = float(told.get("GlobalMemoryBusWidth", 0))
    dram = float(told.get("MemoryClockRate", 0)) * 1e3 * 2 * bus / 8 or like.dram_bytes_s
    l2 = like.l2_bytes_s * (sms / like.sms) * (clock / like.clock_hz)
    return replace(
        like, device=name, sms=sms, clock_hz=clock, dram_bytes_s=dram,
        l2_bytes=l2_bytes or like.l2_bytes, l2_bytes_s=l2,
    )  # fmt: skip


# ----------------------------------------------------------------------------- occupancy
def blocks_of(
    limits: GpuLimits, threads: Floats, registers: Floats, shared: Floats
) -> tuple[Floats, Floats]:
    """How many blocks live on one multiprocessor, and the share of its warps that they are.

    Args:
        limits: of the architecture.
        threads: of a block, at least 1.
        registers: of a thread.
        shared: bytes of a block.
    """
    warps = np.ceil(threads / limits.warp)
    most = limits.threads_per_sm // limits.warp
    held = (
        np.ceil((shared + limits.shared_reserved) / limits.shared_unit) * limits.shared_unit
    )  # fmt: skip
    of_warp = np.ceil(registers * limits.warp / _REGISTER_UNIT) * _REGISTER_UNIT
    of_warp = np.maximum(of_warp, 1.0)
    fitting = np.floor(limits.registers_per_sm // _PARTITIONS / of_warp) * _PARTITIONS
    blocks = np.minimum(np.floor(most / warps), np.floor(fitting / warps))
    blocks = np.minimum(blocks, np.floor(limits.shared_per_sm / np.maximum(held, 1.0)))
    blocks = np.minimum(blocks, float(limits.blocks_per_sm))
    launched = of_warp * np.ceil(warps / _PARTITIONS) * _PARTITIONS
    wrong = (
        (threads > limits.threads_per_block)
        | (shared > limits.shared_per_block)
        | (registers > limits.registers_per_thread)
        | ((launched > limits.registers_per_block) & (registers > 0))
    )
    blocks = np.where(wrong, 0.0, blocks)
    return blocks, blocks * warps / most


def most_registers(limits: GpuLimits, warps: Floats) -> Floats:
    """How many registers a thread may have at most, for a block of so many warps to run at all."""
    slots = np.ceil(warps / _PARTITIONS) * _PARTITIONS
    out = np.floor(limits.registers_per_block / (slots * _REGISTER_UNIT)) * (
        _REGISTER_UNIT // limits.warp
    )
    most: Floats = np.minimum(out, float(limits.registers_per_thread))
    return most


@dataclass(frozen=True, slots=True)
class Launch:
    """How a grid of blocks fills the GPU; one number a candidate.

    Attributes:
        threads, warps: of a block.
        blocks: of the grid.
        shared: bytes of a block.
        registers: of a thread.
        resident: blocks that live on a multiprocessor at once (1 where not even one can).
        occupancy: the share of its warps; 0 where not even one block can run.
        waves: how often the GPU is filled.
        rounds: blocks that the busiest multiprocessor gets.
        tail: share of the multiprocessors' time in which they have blocks.
    """

    threads: Floats
    warps: Floats
    blocks: Floats
    shared: Floats
    registers: Floats
    resident: Floats
    occupancy: Floats
    waves: Floats
    rounds: Floats
    tail: Floats


def launch_of(
    machine: GpuMachine, threads: Floats, blocks: Floats, shared: Floats, registers: Floats
) -> Launch:
    """The launch of a grid of so many blocks."""
    resident, occupancy = blocks_of(machine.limits, threads, registers, shared)
    resident = np.maximum(resident, 1.0)
    sms = float(machine.limits.sms or machine.speeds.sms)
    rounds = np.ceil(blocks / sms)
    return Launch(
        threads,
        np.ceil(threads / machine.limits.warp),
        blocks,
        shared,
        registers,
        resident,
        occupancy,
        np.ceil(blocks / (resident * sms)),
        rounds,
        blocks / (rounds * sms),
    )
