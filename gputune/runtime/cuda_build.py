"""How does a function become code for a GPU? Source text, then a cubin and its facts."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gputune.codegen.cuda.compile import CudaBinary, compile_cuda
from gputune.codegen.cuda.cubin import read_cubin
from gputune.codegen.cuda.kernel import generate
from gputune.codegen.cuda.program import CudaSource, Launch
from gputune.codegen.cuda.raw import raw_source, scalar_values
from gputune.errors import BuildError
from gputune.ir.nodes import PrimFunc
from gputune.lower.pipeline import too_deep
from gputune.target import Target
from gputune.target.gpu import GpuLimits, occupancy

from .cuda_function import CudaFunction
from .signature import concrete_arguments, signature


@dataclass(frozen=True, slots=True, eq=False)
class CudaCode:
    """A compiled function.

    Attributes:
        source: its text and the host's steps.
        binary: its kernels, compiled.
        lowered: the function that it was made from.
        occupancy: of each kernel, the share of a multiprocessor's warps that its launches can keep
            there.
    """

    source: CudaSource
    binary: CudaBinary
    lowered: PrimFunc
    occupancy: dict[str, float]

    @property
    def symbol(self) -> str:
        """The name of the program."""
        return self.source.host.name

    @property
    def object_code(self) -> bytes:
        """The cubin."""
        return self.binary.cubin

    def as_json(self) -> dict[str, Any]:
        """All but the cubin, as artifacts hold it: the source (`CudaSource.as_json`), "facts" of
        each kernel, "arch" and the compiler's "log"."""
        facts = {name: asdict(found) for name, found in self.binary.facts.items()}
        for name, share in self.occupancy.items():
            facts[name]["occupancy"] = share
        told = {"facts": facts, "arch": self.binary.arch, "log": self.binary.log}
        return {**self.source.as_json(), **told}

    @staticmethod
    def of_json(told: Mapping[str, Any], cubin: bytes, lowered: PrimFunc) -> CudaCode:
        """The code that `as_json` told of.

        Raises:
            BuildError: it did not.
        """
        try:
            source, arch = CudaSource.from_json(told), str(told["arch"])
        except (KeyError, TypeError, ValueError) as e:
            raise BuildError(f"this is no CUDA program: {e}", code="artifact") from None
        binary = CudaBinary(cubin, str(told.get("log", "")), read_cubin(cubin), arch)
        facts = dict(told.get("facts") or {})
        found = {n: float(f["occupancy"]) for n, f in facts.items() if "occupancy" in f}
        return CudaCode(source, binary, lowered, found)

    def function(self, name: str) -> CudaFunction:
        """Callable, on a machine with a GPU."""
        return CudaFunction(signature(self.lowered, name), self.source, self.binary)


def cuda_source(func: PrimFunc, name: str | None = None) -> CudaSource:
    """The CUDA C++ of a function and the host's steps around it.

    Raises:
        LowerError: the schedule cannot run on a GPU; says what to change.
        BuildError: there is no way to make it.
    """
    source = raw_source(func)
    if source is not None:
        return source
    try:
        return generate(func, name)
    except RecursionError:
        raise too_deep(name or func.name) from None


def compile_function(func: PrimFunc, target: Target, name: str | None = None) -> CudaCode:
    """Compile a function for the target's architecture; neither GPU nor driver is needed.

    Raises:
        LowerError: the schedule cannot run on a GPU.
        BuildError: it does not compile, or not one block of a kernel can run.
    """
    source = cuda_source(func, name)
    binary = compile_cuda(source, target.arch)
    limits = target.limits
    found: dict[str, float] = {}
    for launch in source.host.launches:
        share = _occupancy(launch, binary, limits)
        found[launch.kernel] = min(share, found.get(launch.kernel, share))
    return CudaCode(source, binary, func, found)


def build_cuda(func: PrimFunc, target: Target) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """The answer to a request to build for a cuda target.

    As for other targets, with the cubin in place of object code; "cuda" is `CudaCode.as_json`.
    """
    start = time.perf_counter()
    code = compile_function(func, target)
    data = {
        "symbol": code.symbol,
        "arguments": described_arguments(func),
        "parallel": False,
        "num_threads": 1,
        "cuda": code.as_json(),
        "seconds": time.perf_counter() - start,
    }
    return data, (code.object_code,)


def described_arguments(func: PrimFunc) -> list[dict[str, Any]]:
    """The function's arguments as workers' requests carry them, numbers of raw kernels included."""
    scalars = scalar_values(func)
    described = concrete_arguments(signature(func, func.name))
    for spec in described:
        if spec["kind"] == "scalar" and spec["name"] in scalars:
            spec["value"] = scalars[spec["name"]]
    return described


def _occupancy(launch: Launch, binary: CudaBinary, limits: GpuLimits) -> float:
    """The share of a multiprocessor's warps that a launch can keep there.

    Raises:
        BuildError: not one of its blocks can run.
    """
    facts, threads = binary.facts[launch.kernel], math.prod(launch.block)
    shared = facts.shared_bytes + launch.shared_bytes
    if facts.max_threads is not None and threads > facts.max_threads:
        raise BuildError(
            f"{launch.kernel} is launched with {threads} threads a block, and was compiled for at "
            f"most {facts.max_threads} (__launch_bounds__)",
            code="limits",
        )
    blocks, share = occupancy(limits, threads, facts.registers, shared, facts.barriers)
    if blocks == 0:
        raise BuildError(
            f"no block of {launch.kernel} can run on {limits.arch}: {threads} threads with "
            f"{facts.registers} registers each and {shared} bytes of shared memory",
            code="limits",
        )
    return share
