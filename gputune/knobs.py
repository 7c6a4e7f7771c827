"""Which environment variables does gputune read? All of them are here."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Knob:
    """One environment variable: its name, its default, and what it does."""

    name: str
    default: str
    about: str

    def get(self) -> str:
        """The present value; read at each use, so that tests and users can change it."""
        return os.environ.get(self.name, self.default)


DUMP = Knob(
    "GPUTUNE_DUMP", "", "folder into which the program is written after every lowering pass"
)

WORKER_MEMORY_MB = Knob(
    "GPUTUNE_WORKER_MEMORY_MB",
    "",
    "MiB of a worker process: of address space or, where it has a GPU, in use; empty: no limit",
)

NVRTC = Knob(
    "GPUTUNE_NVRTC", "", 'full path of the NVRTC library; "none": do without; empty: look for it'
)

CUBIN_CACHE_MB = Knob(
    "GPUTUNE_CUBIN_CACHE_MB", "256", "MiB of compiled kernels kept in the cache folder; 0: none"
)

HOST_CXX = Knob(
    "GPUTUNE_HOST_CXX",
    "",
    "C++ compiler for host execution of CUDA kernels: a path, a name, or zig; empty: look for one",
)

TRACKER_HOST = Knob(
    "TVM_TRACKER_HOST", "", "host of the tracker, a Dask scheduler, where RPCConfig names none"
)
TRACKER_PORT = Knob(
    "TVM_TRACKER_PORT", "", "port of the tracker, a Dask scheduler, where RPCConfig names none"
)
TRACKER_KEY = Knob(
    "TVM_TRACKER_KEY", "", "resource that the machines wanted announce, where RPCConfig names none"
)

ALL = (
    DUMP, WORKER_MEMORY_MB, NVRTC, CUBIN_CACHE_MB, HOST_CXX,
    TRACKER_HOST, TRACKER_PORT, TRACKER_KEY,
)  # fmt: skip
