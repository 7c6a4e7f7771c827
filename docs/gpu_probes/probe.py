"""What do the probes share? Compiling, loading, launching, and one line of JSON at the end."""

from __future__ import annotations

import ctypes
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gputune.codegen.cuda.compile import CudaBinary, compile_cuda
from gputune.codegen.cuda.program import CudaSource, HostProgram, Launch
from gputune.errors import GputuneError
from gputune.target.host import cuda_arch, cuda_problem


def compiled(text: str, *kernels: str, arch: str | None = None) -> CudaBinary:
    """The kernels of a text, for this GPU; for sm_90a where there is none."""
    steps = tuple(Launch(k, (1, 1, 1), (1, 1, 1), ()) for k in kernels)
    source = CudaSource(text, HostProgram(kernels[0], (), steps), prelude=False)
    return compile_cuda(source, arch or (cuda_arch() if cuda_problem() is None else "sm_90a"))


class Kernel:
    """A kernel on the GPU; arguments are any ctypes values, structs of any size among them."""

    def __init__(self, binary: CudaBinary, name: str, shared_bytes: int = 0) -> None:
        import cupy

        self.cuda = cupy.cuda
        self.module = cupy.cuda.function.Module()
        self.module.load(binary.cubin)
        self.function = self.module.get_function(name).ptr
        self.shared_bytes = shared_bytes
        if shared_bytes > 48 << 10:
            driver = cupy.cuda.driver
            driver.funcSetAttribute(
                self.function, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes
            )

    def __call__(
        self, grid: int, block: int, args: Sequence[Any], stream: int | None = None
    ) -> None:
        kept = [ctypes.c_void_p(a.data.ptr) if hasattr(a, "data") else a for a in args]
        table = (ctypes.c_void_p * max(1, len(kept)))(*(ctypes.addressof(a) for a in kept))
        on = self.cuda.get_current_stream().ptr if stream is None else stream
        self.cuda.driver.launchKernel(
            self.function, grid, 1, 1, block, 1, 1, self.shared_bytes, on,
            ctypes.addressof(table), 0,
        )  # fmt: skip


def main(
    name: str,
    compile_all: Callable[[], dict[str, CudaBinary]],
    measure: Callable[[Any, dict[str, CudaBinary]], dict[str, Any]],
    hopper: bool = False,
) -> None:
    """Run a probe: print what it found, or why it could not, as one line of JSON.

    Args:
        compile_all: needs no GPU.
        measure: takes CuPy and what was compiled.
        hopper: does it need a GPU of compute capability 9.0?
    """
    out: dict[str, Any] = {"probe": name}
    try:
        binaries = compile_all()
        out["compiled"] = {k: b.arch for k, b in binaries.items()}
        problem = cuda_problem()
        if problem is None and hopper and cuda_arch() != "sm_90a":
            problem = f"it is about sm_90a, this GPU is {cuda_arch()}"
        if problem is not None:
            out["skipped"] = problem
        else:
            import cupy

            from gputune.runtime.cuda_device import gpu_facts

            out["gpu"] = gpu_facts(cupy, 0).name
            out |= measure(cupy, binaries)
    except GputuneError as e:
        out["error"] = str(e)
    except Exception as e:  # a probe says what it met
        out["error"] = f"{type(e).__name__}: {e}"
        traceback.print_exc()
    print(json.dumps(out))
    sys.exit(1 if "error" in out else 0)
