"""What do launches, events and graph nodes cost, and how far apart are 50 measurements of a kernel,
timed with events around batches and by graph replay?"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from typing import Any

import probe

TEXT = """
extern "C" __global__ void spin(float* p, int n) {
  float v = threadIdx.x;
  for (int i = 0; i < n; ++i) v = v * 0.999f + 1.0f;
  if (v < 0) p[0] = v;
}
"""
LENGTHS = (0, 500, 5000, 50000)
REPEATS = 50


def compile_all() -> dict[str, Any]:
    return {"spin": probe.compiled(TEXT, "spin")}


def measure(cp: Any, binaries: dict[str, Any]) -> dict[str, Any]:
    kernel = probe.Kernel(binaries["spin"], "spin")
    p = cp.zeros(1, cp.float32)
    stream = cp.cuda.Stream(non_blocking=True)
    start, stop = cp.cuda.Event(), cp.cuda.Event()
    plug = cp.empty(64 << 20, cp.uint8)
    cp.cuda.Device().synchronize()

    def launch(n: int) -> None:
        kernel(132, 256, (p, ctypes.c_int(n)), stream.ptr)

    def events(work: Callable[[], Any], plugged: bool) -> float:
        if plugged:
            cp.cuda.runtime.memsetAsync(plug.data.ptr, 0, plug.nbytes, stream.ptr)
        start.record(stream)
        work()
        stop.record(stream)
        stop.synchronize()
        return float(cp.cuda.get_elapsed_time(start, stop)) * 1e3

    def many(work: Callable[[], Any], plugged: bool = True) -> dict[str, float]:
        found = [events(work, plugged) for _ in range(REPEATS)]
        low, middle, high = statistics.quantiles(found, n=4)
        return {"us": middle, "middle_half": (high - low) / middle if middle else 0.0,
                "range": (max(found) - min(found)) / middle if middle else 0.0}  # fmt: skip

    launch(1)
    stream.synchronize()
    begun = time.perf_counter()
    for _ in range(1000):
        launch(0)
    queued = time.perf_counter() - begun
    stream.synchronize()
    out: dict[str, Any] = {
        "python_launch_us": queued * 1e3,
        "empty_event_pair": many(lambda: None),
        "empty_event_pair_without_plug": many(lambda: None, False),
        "plug": many(lambda: cp.cuda.runtime.memsetAsync(
            plug.data.ptr, 0, plug.nbytes, stream.ptr)),
    }  # fmt: skip
    for n in LENGTHS:
        one = many(lambda n=n: launch(n))
        number = max(1, min(500, round(1000 / max(one["us"], 1))))

        def batch(n: int = n, number: int = number) -> None:
            for _ in range(number):
                launch(n)

        batched = many(batch)
        stream.begin_capture()
        batch()
        graph = stream.end_capture()
        graph.launch(stream)
        replayed = many(lambda graph=graph: graph.launch(stream))
        out[f"spin_{n}"] = {
            "alone": one, "calls": number,
            "batch": {**batched, "us_a_call": batched["us"] / number},
            "graph": {**replayed, "us_a_call": replayed["us"] / number},
        }  # fmt: skip
    return out


if __name__ == "__main__":
    probe.main("event_overheads", compile_all, measure)
