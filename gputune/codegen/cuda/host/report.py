"""What did host execution find? One `Finding` for each place, and the figures of each kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from ..program import Triple

Severity: TypeAlias = Literal["error", "warning"]

KINDS: Mapping[str, str] = {
    "shared-race": "threads of a block use an element of shared memory with no barrier between",
    "global-race": "threads or blocks use an element of a buffer with nothing ordering them",
    "in-flight": "memory is used to which an asynchronous copy is under way",
    "divergent-barrier": "not all threads of a block come to a barrier",
    "deadlock": "no thread of a block can go on",
    "warp-divergence": "lanes meet in different warp operations",
    "warp-mask": "a lane calls a warp operation whose mask leaves it out",
    "undefined-lane": "a shuffle reads a lane that does not take part",
    "out-of-bounds": "an access outside of a buffer, or an index outside of an array",
    "write-to-input": "a write to a parameter that is not declared as written",
    "misaligned": "an access at an address that is no multiple of its size",
    "uninitialised-read": "a read of what nothing has written",
    "endless-loop": "the kernel does not end within its time",
    "stack-overflow": "local variables need too much room",
    "trap": "the kernel called __trap",
    "assertion": "an assertion of the kernel does not hold",
    "crash": "the process crashed",
    "order-dependent": "results depend on the order in which threads and blocks run",
    "wrong-result": "results are not the expected ones",
}
"""Every kind of finding, and what it means."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong, as it was first seen at one place of a kernel.

    Attributes:
        kind: one of `KINDS`.
        message: what happened.
        severity: "warning" for what has no effect on results, such as writing the same value twice.
        kernel: its name; None where the finding is the program's.
        block, thread: who did it.
        other_block, other_thread: who else took part; `other_block` None: of the same block.
        buffer: the parameter, workspace or variable.
        element: index into the buffer; of an index that is out of bounds, the index.
        line: of the kernel's text, where it is known.
        count: how often it happened at this place.
    """

    kind: str
    message: str
    severity: Severity = "error"
    kernel: str | None = None
    block: Triple | None = None
    thread: Triple | None = None
    other_block: Triple | None = None
    other_thread: Triple | None = None
    buffer: str | None = None
    element: int | None = None
    line: int | None = None
    count: int = 1

    def where(self) -> str:
        """Kernel, line, block and threads in words."""
        out = [f"kernel {self.kernel}"] if self.kernel else []
        if self.line is not None:
            out.append(f"line {self.line}")
        if self.block is not None:
            out.append(f"block {self.block}")
        if self.thread is not None:
            out.append(f"thread {self.thread}")
        if self.other_block is not None or self.other_thread is not None:
            names = [f"block {self.other_block}"] if self.other_block is not None else []
            names += [f"thread {self.other_thread}"] if self.other_thread is not None else []
            out.append(f"other {' '.join(names)}")
        return ", ".join(out)

    def what(self) -> str:
        """The element of the buffer, such as "C[12]"."""
        if self.buffer is None:
            return ""
        return self.buffer if self.element is None else f"{self.buffer}[{self.element}]"

    def __str__(self) -> str:
        where, what = self.where(), self.what()
        head = f"{self.kind}: {where}: " if where else f"{self.kind}: "
        times = f" ({self.count} times)" if self.count > 1 else ""
        return head + (f"{what}: " if what else "") + self.message + times


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the warps of a kernel asked of one buffer, in the blocks that were counted.

    Attributes:
        buffer: the parameter, workspace or variable.
        writes: stores? Else loads.
        shared: in shared memory? Else in global memory.
        requests: instructions of warps.
        units: of shared memory, passes over its banks; of global memory, sectors of 32 bytes.
    """

    buffer: str
    writes: bool
    shared: bool
    requests: int
    units: int


@dataclass(frozen=True, slots=True)
class KernelFigures:
    """What one kernel did in a run.

    Attributes:
        launches, blocks, threads: how many ran.
        switches: changes from one thread to another.
        barriers: passages of a block's barrier.
        seconds: spent in it, on the CPU.
        shared_requests: of 32 words to shared memory, in the blocks that were counted.
        bank_conflicts: repetitions that these needed since lanes met in a bank.
        counted_blocks: how many blocks the figures about memory stand for.
        global_requests: instructions of warps that access global memory, in these blocks.
        global_sectors: of 32 bytes, that these touched.
        uncounted: accesses of threads in these blocks for which there was no room.
        traffic: the same by buffer.
    """

    launches: int
    blocks: int
    threads: int
    switches: int
    barriers: int
    seconds: float
    shared_requests: int
    bank_conflicts: int
    counted_blocks: int
    global_requests: int = 0
    global_sectors: int = 0
    uncounted: int = 0
    traffic: tuple[Traffic, ...] = ()


@dataclass(frozen=True, slots=True)
class HostReport:
    """The result of running a program on the CPU.

    Attributes:
        findings: the first ones, one for each place.
        counts: kind -> how many places; these may be more than the findings that are kept.
        outputs: the parameters that kernels may write, as they were afterwards.
        kernels: figures of each kernel.
        blocks_run, blocks_total: fewer ran than there are where blocks were sampled.
        seconds: spent in kernels.
        order: in which threads and blocks ran.
        printed: what kernels printed.
        completed: did all steps run to their end?
    """

    findings: tuple[Finding, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    outputs: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    kernels: Mapping[str, KernelFigures] = field(default_factory=dict)
    blocks_run: int = 0
    blocks_total: int = 0
    seconds: float = 0.0
    order: str = "forward"
    printed: str = ""
    completed: bool = True

    @property
    def ok(self) -> bool:
        """Is there no finding but warnings?"""
        return not any(f.severity == "error" for f in self.findings)

    @property
    def sampled(self) -> bool:
        """Did only some of the blocks run?"""
        return self.blocks_run < self.blocks_total

    def __str__(self) -> str:
        ran = f"{self.blocks_run} of {self.blocks_total} blocks, {self.order}"
        if not self.findings:
            return f"no findings ({ran})"
        return "\n".join([*map(str, self.findings), f"({ran})"])
