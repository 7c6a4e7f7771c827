"""What does each kernel of a scheduled GPU program take, and does a device have that much?

Sizes are counted on the lowered program, so they are those of the kernel that will be compiled;
only the registers are an estimate. (A built module's `kernel_facts` has what the compiler made of
them.) Nothing is compiled here and no GPU is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .errors import UserError
from .ir import dtypes
from .ir.build import const_int
from .ir.nodes import (
    Alloc,
    BufferLoad,
    BufferStore,
    For,
    IRModule,
    PrimFunc,
    Stmt,
)
from .ir.walk import stmt_children, stmt_exprs, walk_expr, walk_stmt
from .lower.gpu import lower_gpu
from .lower.kernels import GpuKernel, Triple
from .lower.shared_memory import shared_layout, size_of
from .lower.tiles import is_fragment, is_known
from .meta_schedule.gpu_usage import KernelUsage, kernels_of

_BASE_REGISTERS = 16  # addresses, indices, what the compiler needs
_OPERANDS = 32  # registers that hold what was loaded for the next steps
_UNROLLED = 64  # statements up to which the compiler writes out loops by itself
_AXES = ("x", "y", "z")

CONSTRAINTS = (
    "max_kernels", "max_threads_per_block", "max_thread_x", "max_thread_y", "max_thread_z",
    "max_vthread", "max_vector_bytes", "max_shared_memory_per_block", "max_local_memory_per_block",
)  # fmt: skip
"""What `verify_gpu_code` understands; of each kernel, but for the first."""


@dataclass(frozen=True, slots=True)
class GpuResources:
    """What one launch takes.

    Attributes:
        kernel: its name.
        grid, block: blocks and threads of a block along x, y, z.
        shared_bytes: shared memory of a block of threads.
        local_bytes: what a thread keeps for itself: accumulators, private copies, its part of
            tensor core fragments. It lies in registers where these suffice.
        registers: of 32 bits, a thread, by estimate: those bytes, what is loaded at once, and what
            addresses take. The compiler's figure is within a factor of two most of the time.
        vthreads: of each loop over virtual threads, the iterations.
        vector_bytes: the widest access of one thread in a vectorized loop; 0 if there is none.
    """

    kernel: str
    grid: Triple
    block: Triple
    shared_bytes: int
    local_bytes: int
    registers: int
    vthreads: tuple[int, ...] = ()
    vector_bytes: int = 0

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.block[0] * self.block[1] * self.block[2]


def count_gpu_resources(x: PrimFunc | IRModule) -> list[GpuResources]:
    """What each kernel of a scheduled program takes, in the order of the launches.

    Args:
        x: a function whose loops are bound to threads, or a module of such.

    Raises:
        LowerError: the program is no GPU program: a statement is not bound to threads, a size is
            not constant, a block has too many threads.

    Example:
        >>> [r] = count_gpu_resources(vector_add_of_1000_with_128_threads)
        >>> r.grid, r.block, r.threads, r.shared_bytes
        ((8, 1, 1), (128, 1, 1), 128, 0)
    """
    out: list[GpuResources] = []
    for func in [x] if isinstance(x, PrimFunc) else x.functions.values():
        kernels = lower_gpu(func).kernels
        usage = kernels_of(func)
        same = len(usage) == len(kernels)
        out += [_count(k, usage[at] if same else None) for at, k in enumerate(kernels)]
    return out


def _count(kernel: GpuKernel, usage: KernelUsage | None) -> GpuResources:
    local = 0
    for s in walk_stmt(kernel.func.body):
        if type(s) is not Alloc or s.buffer.scope.startswith("shared"):
            continue
        size = size_of(s.buffer)
        if is_fragment(s.buffer) and not is_known(s.buffer):  # (these are a lane's own by now)
            local += size // 32
        else:
            local += size
    loaded = min(_OPERANDS, _loaded_at_once(kernel.func.body)[0])
    return GpuResources(
        kernel.name, kernel.grid, kernel.block, shared_layout(kernel.func).bytes, local,
        _BASE_REGISTERS + -(-local // 4) + loaded,
        () if usage is None else tuple([int(n) for n in usage.vthreads]),
        0 if usage is None else max((int(n) for _, n in usage.vectors), default=0),
    )  # fmt: skip


def _loaded_at_once(s: Stmt) -> tuple[int, int]:
    """Registers for what the busiest straight piece of code loads from memory, and how many
    statements are straight code in `s`; short loops of constant extent are written out."""
    match s:
        case BufferStore():
            total = 0
            for e in stmt_exprs(s):
                for x in walk_expr(e):
                    if type(x) is BufferLoad and x.buffer.scope not in ("local", "register"):
                        size = dtypes.itemsize(x.buffer.dtype) * dtypes.lanes(x.dtype)
                        total += -(-size // 4)
            return total, 1
        case For():
            loaded, count = _loaded_at_once(s.body)
            n = const_int(s.extent)
            if n is None or s.kind == "thread_binding" or n * count > _UNROLLED:
                return loaded, count
            return int(n) * loaded, int(n) * count
        case _:
            inner = [_loaded_at_once(x) for x in stmt_children(s)]
            return max((a for a, _ in inner), default=0), sum(b for _, b in inner)


# ----------------------------------------------------------------------------- limits
def verify_gpu_code(x: PrimFunc | IRModule, constraints: Mapping[str, int]) -> bool:
    """Do the kernels of a scheduled program keep to some limits?

    Args:
        x: the scheduled function, or a module.
        constraints: the most that is allowed, by name: "max_threads_per_block", "max_thread_x",
            "max_thread_y", "max_thread_z", "max_vthread" (iterations of a loop over virtual
            threads), "max_vector_bytes" (of one access of a thread), "max_shared_memory_per_block"
            and "max_local_memory_per_block" (bytes; local memory of all threads of a block
            together), "max_kernels" (of a function). What is not named is not limited.

    Returns:
        Whether they do. `gpu_code_faults` says why not.

    Raises:
        UserError: a name is not one of these, or a limit is no positive integer.
        LowerError: local memory is limited, and the program cannot be lowered for a GPU.

    Example:
        >>> verify_gpu_code(vector_add_of_1000_with_128_threads, {"max_threads_per_block": 64})
        False
    """
    return not gpu_code_faults(x, constraints)


def gpu_code_faults(x: PrimFunc | IRModule, constraints: Mapping[str, int]) -> list[str]:
    """One line for each limit that a kernel does not keep; see `verify_gpu_code`."""
    for key, most in constraints.items():
        if key not in CONSTRAINTS:
            raise UserError(
                f"unknown constraint {key!r}", hint=f"known are: {', '.join(CONSTRAINTS)}",
                code="gpu-constraint",
            )  # fmt: skip
        if not isinstance(most, int) or isinstance(most, bool) or most < 0:
            raise UserError(
                f"constraint {key} must be a number of at least 0, got {most!r}",
                code="gpu-constraint",
            )
    out: list[str] = []
    for func in [x] if isinstance(x, PrimFunc) else x.functions.values():
        kernels = kernels_of(func)
        found = [("max_kernels", f"function {func.name}", len(kernels), "kernels")]
        for k in kernels:
            found += _found(k)
        if "max_local_memory_per_block" in constraints:
            for r in count_gpu_resources(func):
                used = r.local_bytes * r.threads
                found.append(("max_local_memory_per_block", f"kernel {r.kernel}", used,
                              "bytes of local memory"))  # fmt: skip
        for key, who, used, what in found:
            if key in constraints and used > constraints[key]:
                out.append(f"{who}: {used} {what}, the most is {constraints[key]} ({key})")
        if constraints:
            out += [
                f"kernel of block {k.name}: the thread-bound loop {name} has no constant extent"
                for k in kernels
                for name in k.dynamic
            ]
    return out


def _found(k: KernelUsage) -> list[tuple[str, str, int, str]]:
    who = f"kernel of block {k.name}"
    out = [("max_threads_per_block", who, int(k.threads), "threads")]
    for axis in _AXES:
        n = k.extents.get(f"threadIdx.{axis}")
        if n is not None:
            out.append((f"max_thread_{axis}", who, int(n), f"threads along {axis}"))
    out += [("max_vthread", who, int(n), "virtual threads") for n in k.vthreads]
    for name, size in k.vectors:
        out.append(("max_vector_bytes", f"{who}, buffer {name}", int(size), "bytes at once"))
    out.append(("max_shared_memory_per_block", who, int(k.shared_bytes), "bytes of shared memory"))
    return out
