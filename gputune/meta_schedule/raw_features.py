"""What does the search know about a configuration of a hand-written CUDA kernel? A row of numbers.

The row is as long as that of scheduled programs, so that one model serves all; the first column
says that it is none of those. Block, threads, shared memory, occupancy and waves stand in the same
columns as those of scheduled kernels. What the compiler finds out (registers, spills) is not in it:
nobody knows that of a candidate before it is compiled, and candidates are ranked before.
"""

from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from ..codegen.cuda.raw import Configuration, Value, configuration
from ..ir import dtypes
from ..ir.build import const_int
from ..ir.nodes import IRModule, PrimFunc
from .gpu_machine import GpuMachine, Launch, launch_of
from .gpu_model import GPU_COLUMNS, LAUNCH_SECONDS, column, tell_launch

_FIRST = 12  # column of the first parameter
_PER_PARAMETER = 4
_GUESS = 7  # where the cost model looks for the analytic guess
_GOOD_THREADS = 192.0  # of a block: what does well on most devices
_REGISTERS = 32  # of a thread, until it is compiled


def raw_features(
    mod: IRModule, width: int, own: int | None = None, machine: GpuMachine | None = None
) -> tuple[npt.NDArray[np.float32], float] | None:
    """The row (width,) and the score of a configured kernel; None for any other program.

    Args:
        mod: the program.
        width: of a row.
        own: how many columns are not those of GPUs; default: all.
        machine: the GPU; default: an H100.

    Raises:
        BuildError: the configuration is not what gputune writes.
    """
    if len(mod.functions) != 1:
        return None
    (func,) = mod.functions.values()
    chosen = configuration(func)
    if chosen is None:
        return None
    return _row(func, chosen, width, width if own is None else own, machine)


def _row(
    func: PrimFunc, c: Configuration, width: int, own: int, machine: GpuMachine | None
) -> tuple[npt.NDArray[np.float32], float]:
    machine = machine or GpuMachine.named("sm_90")
    out = np.zeros(width, np.float32)
    launch = _launch(c, machine)
    nanoseconds = _nanoseconds(func, c, launch, machine)
    guess = math.log2(1 + nanoseconds)
    out[1:3] = _scatter(f"{func.name} {sorted(c.params)}")
    out[3] = math.log2(c.threads)
    out[4] = math.log2(c.blocks)
    out[5] = math.log2(1 + c.smem)
    out[6] = math.log2(c.threads * c.blocks)
    out[_GUESS] = guess
    out[8] = c.threads % 32 / 32
    out[9:12] = [math.log2(n) for n in c.block]
    at = _FIRST
    for value in c.params.values():
        if at + _PER_PARAMETER > own:
            break  # the model does without the rest
        out[at : at + _PER_PARAMETER] = _told(value)
        at += _PER_PARAMETER
    if own < width:
        told = np.zeros((len(GPU_COLUMNS), 1))
        tell_launch(told, "kernel0", launch, machine)
        told[column("kernel0.registers")] = 0.0  # nobody knows
        told[column("program.kernels")] = 1.0
        told[column("program.nanoseconds")] = told[column("kernel0.nanoseconds")] = nanoseconds
        out[own:] = np.log2(told[:, 0] + 1.0)
    return out, -guess


def _launch(c: Configuration, machine: GpuMachine) -> Launch:
    """How the grid fills the GPU, if threads have as many registers as most do."""
    threads, blocks, shared, registers = (
        np.array([float(x)]) for x in (c.threads, c.blocks, c.smem, _REGISTERS)
    )
    return launch_of(machine, threads, blocks, shared, registers)


def _nanoseconds(func: PrimFunc, c: Configuration, x: Launch, machine: GpuMachine) -> float:
    """The time to move every argument once, stretched for launches of an unusual kind: before
    anything was measured it keeps the search from beginning with blocks of one warp."""
    moved = sum(
        math.prod(const_int(n) or 1 for n in b.shape) * dtypes.itemsize(b.dtype)
        for _, b in func.buffer_map
    )
    warps = -(-c.threads // 32) * 32
    stretch = abs(math.log2(warps / _GOOD_THREADS)) + 2.0 * math.log2(warps / c.threads)
    idle = max(0.0, math.log2(machine.speeds.sms / c.blocks))
    stretch += 0.5 * idle + max(0.0, -math.log2(max(float(x.tail[0]), 0.5)))
    if not x.occupancy[0]:
        stretch += 10.0  # it cannot run
    seconds = LAUNCH_SECONDS + moved / machine.speeds.dram_bytes_s
    return float(seconds * 1e9 * 2.0**stretch)


def _told(value: Value) -> tuple[float, float, float, float]:
    """A number by its size and itself; anything else by where chance puts it."""
    if isinstance(value, bool | str):
        return 0.0, 0.0, *_scatter(repr(value))
    size = math.log2(value) if value > 0 else -1.0
    return size, float(np.clip(value, -1e30, 1e30)), 0.0, 0.0


def _scatter(text: str) -> tuple[float, float]:
    """Two numbers from 0 to 1, the same for equal texts."""
    digest = blake2b(text.encode(), digest_size=4).digest()
    return (int.from_bytes(digest[:2]) / 65535, int.from_bytes(digest[2:]) / 65535)
