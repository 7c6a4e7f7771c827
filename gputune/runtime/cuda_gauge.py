"""How fast is this GPU just now? A kernel that never changes is timed: see `timing`.

Its threads run long chains of multiplications and additions in registers: its time is the clock of
the multiprocessors, and what else computes there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.program import CudaSource, HostProgram, Launch, Param
from gputune.errors import GputuneError

from .cuda_device import GpuFacts, cuda_errors
from .cuda_program import CudaProgram
from .gauge import Yardstick

NAME = "gputune_reference"
# It must never change: times of different days are put on one scale by it.
_TEXT = f"""
extern "C" __global__ void {NAME}(float* out) {{
  float x = threadIdx.x * 1e-3f;
#pragma unroll 1
  for (int i = 0; i < 2048; ++i) {{
    x = __fmaf_rn(x, 0.5f, 1.0f); x = __fmaf_rn(x, 0.25f, 0.5f);
    x = __fmaf_rn(x, 0.5f, 1.0f); x = __fmaf_rn(x, 0.25f, 0.5f);
    x = __fmaf_rn(x, 0.5f, 1.0f); x = __fmaf_rn(x, 0.25f, 0.5f);
    x = __fmaf_rn(x, 0.5f, 1.0f); x = __fmaf_rn(x, 0.25f, 0.5f);
  }}
  if (x < 0.0f) out[0] = x;
}}
"""
_THREADS = 128
READINGS = 2
"""Before a measurement, and after it."""
_LONGEST_S = 0.1  # a GPU comes up to speed more slowly than a processor


def gpu_yardstick(
    cupy: Any, facts: GpuFacts, clock: Callable[[], float] = time.perf_counter
) -> Yardstick:
    """The reference kernel on a GPU, which is the current one.

    Raises:
        GputuneError: it cannot be compiled here, or does not run.
    """
    launch = Launch(NAME, (facts.sms, 1, 1), (_THREADS, 1, 1), ("out",))
    host = HostProgram(NAME, (Param("out", "float32", 1, True, 4),), (launch,))
    binary = compile_cuda(CudaSource(_TEXT, host, (), False), facts.arch)
    cuda = cupy.cuda
    with cuda_errors(NAME):
        memory = cuda.alloc(4)
        call = CudaProgram(host, binary).on(cupy, 0).call([int(memory.ptr)], 0, memory)
        stream = cuda.Stream(non_blocking=True)
        start, stop = cuda.Event(), cuda.Event()

    def reading() -> float:
        with cuda_errors(NAME):
            call.launch(stream.ptr)  # the host is ahead when the events pass
            start.record(stream)
            call.launch(stream.ptr)
            stop.record(stream)
            stop.synchronize()
            return float(cuda.get_elapsed_time(start, stop)) * 1e-3

    found = Yardstick(reading, _LONGEST_S, clock)
    reading()  # loads the code
    return found


def yardstick_or_why(cupy: Any, facts: GpuFacts) -> tuple[Yardstick | None, str]:
    """The same; or None, and why there is none."""
    try:
        return gpu_yardstick(cupy, facts), ""
    except GputuneError as e:
        return None, e.message
