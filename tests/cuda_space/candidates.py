"""Which random candidates of the default CUDA space are looked at, and is each of them right?

For the tests, and for `ci/cuda_space`. A candidate is drawn as the search draws it: a row of
decisions of one of the sketches, legal by the postprocs. Two candidates differ in their CUDA text.

What is run on the processor is drawn for the architecture with the least to offer (`SMALLEST`), and
so is a candidate on the others, too: its one text is compiled for all of them. What is only
compiled, at the kernels' own sizes, is drawn for each architecture with its own limits.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

import gputune.meta_schedule as ms
from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.host import HostReport
from gputune.codegen.cuda.host.execution import ORDERS
from gputune.codegen.cuda.kernel import generate
from gputune.codegen.cuda.program import CudaSource
from gputune.errors import BuildError, LowerError
from gputune.ir.nodes import IRModule, PrimFunc
from gputune.kernels import KERNELS, Kernel
from gputune.kernels.kernel import Shape
from gputune.meta_schedule.population import Sketch
from gputune.runtime.host_check import check_source
from gputune.target import Target

ARCHS = ("sm_75", "sm_80", "sm_90a", "sm_120")
SMALLEST = "sm_75"
"""No limit of it is above the same limit of another of `ARCHS`."""
ROWS, DRAWS = 256, 8
"""Rows of decisions that are drawn of a sketch at once, and how often at most; of some sketches,
only a few per cent are legal."""
TOLERANCE = 2e-5
"""Of results that are not exact, relative to the element and to the root mean square of all."""

ROOM: dict[str, dict[str, int]] = {
    "matmul": {"m": 48, "n": 40, "k": 24},
    "batch_matmul": {"b": 2, "m": 16, "n": 24, "k": 12},
    "linear": {"m": 48, "n": 40, "k": 24},
    "gemv": {"m": 64, "k": 48},
    "dense_bias_relu": {"m": 24, "n": 32, "k": 16},
    "transpose_batch_matmul": {"batch": 1, "seq": 16, "heads": 2, "dim": 8},
    "conv1d": {"n": 1, "w": 32, "ci": 4, "co": 16, "kernel": 3, "padding": 1},
    "conv2d": {"n": 1, "h": 8, "w": 8, "ci": 4, "co": 8, "kernel": 3, "padding": 1},
    "conv3d": {"n": 1, "d": 4, "h": 4, "w": 4, "ci": 2, "co": 4, "kernel": 3, "padding": 1},
    "depthwise_conv2d": {"n": 1, "h": 8, "w": 12, "c": 8, "kernel": 3, "padding": 1},
    "conv2d_transpose": {
        "n": 1, "h": 4, "w": 4, "ci": 3, "co": 8, "kernel": 4, "stride": 2, "padding": 1,
    },
    "conv2d_capsule": {
        "n": 1, "h": 4, "w": 4, "ci": 2, "co": 4, "kernel": 3, "stride": 1, "padding": 1,
        "capsule": 2,
    },
    "conv2d_bn_relu": {"n": 1, "h": 8, "w": 8, "ci": 3, "co": 8, "kernel": 3, "padding": 1},
    "softmax": {"m": 32, "n": 64},
    "log_softmax": {"m": 32, "n": 64},
    "layernorm": {"m": 32, "n": 64},
    "rmsnorm": {"m": 32, "n": 64},
    "add_rmsnorm": {"m": 32, "n": 64},
    "cross_entropy": {"m": 32, "n": 64},
    "norm": {"b": 4, "m": 16, "n": 24},
    **{f"row_{what}": {"m": 24, "n": 96} for what in ("sum", "max", "mean")},
    **{f"column_{what}": {"m": 96, "n": 24} for what in ("sum", "max", "mean")},
    **{f"total_{what}": {"m": 24, "n": 40} for what in ("sum", "max", "mean")},
    "argmax": {"m": 24, "n": 96},
    **{f"axis_{what}": {"outer": 4, "size": 48, "inner": 8} for what in ("sum", "max", "argmax")},
    "attention": {"batch": 1, "heads": 2, "seq": 16, "dim": 8},
    "max_pool2d": {"n": 1, "h": 16, "w": 16, "c": 4, "kernel": 3, "stride": 2, "padding": 1},
    "avg_pool2d": {"n": 1, "h": 16, "w": 16, "c": 4, "kernel": 3, "stride": 2, "padding": 1},
    **{
        name: {"m": 64, "n": 96}
        for name in (
            "transpose", "bias_relu", "gelu", "add_mul", "jacobi2d", "silu_mul", "bias_gelu_mask",
        )
    },
    "batch_transpose": {"b": 2, "m": 32, "n": 48},
}  # fmt: skip
"""Beside `check_shapes`, small sizes at which every operator has many candidates: some of those
have too few elements for the 32 threads that a tiled kernel has at least."""


def room(name: str) -> Shape:
    """Small sizes with many candidates; the suite's operators have those of their kind."""
    kernel = KERNELS[name]
    kind = next(n for n in ROOM if KERNELS[n].make is kernel.make)
    return kernel.shape(ROOM[kind])


def shapes_of(name: str) -> list[Shape]:
    """At which sizes candidates of a kernel are run."""
    kernel = KERNELS[name]
    return [room(name), *(kernel.shape(s) for s in kernel.check_shapes)]


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One candidate.

    Attributes:
        name, shape: of the kernel.
        arch: whose limits it keeps to.
        sketch, row: which sketch, and the decisions.
        func, source: the scheduled program, and its CUDA code.
    """

    name: str
    shape: Shape
    arch: str
    sketch: int
    row: tuple[int, ...]
    func: PrimFunc
    source: CudaSource

    @property
    def kernel(self) -> Kernel:
        return KERNELS[self.name]

    @property
    def key(self) -> str:
        """A digest of the program."""
        text = f"{self.source.text}{self.source.host.as_json()}"
        return blake2b(text.encode(), digest_size=12).hexdigest()

    def __str__(self) -> str:
        sizes = ", ".join(f"{k}={v}" for k, v in self.shape.items())
        return f"{self.name}({sizes}) for {self.arch}, sketch {self.sketch}, row {list(self.row)}"


@dataclass(slots=True)
class Census:
    """What was met while candidates were drawn.

    Attributes:
        sketches: of the kernel at its first sizes.
        rows: rows of decisions that were looked at.
        refused: why rows are no candidates, counted.
        unlowered: the same for programs that the postprocs let pass and lowering did not.
        barren: sizes at which no row was legal.
    """

    sketches: int = 0
    rows: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unlowered: Counter[str] = field(default_factory=Counter)
    barren: list[Shape] = field(default_factory=list)


def sketches_of(func: PrimFunc, arch: str, seed: int = 7) -> list[Sketch]:
    """The sketches of the default space, ready for matrices of decisions."""
    context = ms.TuneContext(
        func,
        target=Target(f"cuda -arch={arch}"),
        rand_state=seed,
        space_generator=ms.space_generator.PostOrderApply(),
    )
    assert context.space_generator is not None
    mod, postprocs = IRModule({func.name: func}), context.space_generator.postprocs
    return [
        Sketch(mod, s.trace, postprocs)  # type: ignore[arg-type]  # a list of postprocs
        for s in context.generate_design_space()
    ]


def stream(name: str, shape: Shape, arch: str, seed: int, census: Census) -> Iterator[Candidate]:
    """The candidates of a kernel at some sizes, of its sketches in turn (which begin anywhere), no
    two alike."""
    func = KERNELS[name].build(shape)
    rng = np.random.default_rng([seed, zlib.crc32(f"{name} {dict(shape)} {arch}".encode())])
    sketches = sketches_of(func, arch)
    census.sketches = census.sketches or len(sketches)
    left = [(k, _legal(sketches[k], rng, census)) for k in rng.permutation(len(sketches)).tolist()]
    seen: set[str] = set()
    while left:
        for k, rows in list(left):
            row = next(rows, None)
            if row is None:
                left.remove((k, rows))
                continue
            found = _candidate(name, shape, arch, k, sketches[k], row, census)
            if found is not None and found.key not in seen:
                seen.add(found.key)
                yield found
    if not seen:
        census.barren.append(shape)


def _legal(sketch: Sketch, rng: np.random.Generator, census: Census) -> Iterator[Any]:
    """Random rows that the postprocs let pass, each once."""
    seen: set[bytes] = set()
    for _ in range(DRAWS):
        rows = sketch.decisions.sample(ROWS, rng)
        out = sketch.evaluate(rows)
        census.rows += len(rows)
        census.refused.update(out.refusals)
        for row in rows[out.valid]:
            if row.tobytes() not in seen:
                seen.add(row.tobytes())
                yield row


def _candidate(
    name: str, shape: Shape, arch: str, k: int, sketch: Sketch, row: Any, census: Census
) -> Candidate | None:
    (func,) = sketch.materialise(row).mod.functions.values()
    try:
        source = generate(func)
    except (LowerError, BuildError) as e:
        census.unlowered[f"{e.code or 'no code'}: {e.message}"] += 1
        return None
    return Candidate(name, shape, arch, k, tuple(row.tolist()), func, source)


def candidates(name: str, count: int, seed: int, census: Census) -> Iterator[Candidate]:
    """Up to `count` candidates that are to be run, of all `shapes_of` in turn."""
    return _in_turn([stream(name, s, SMALLEST, seed, census) for s in shapes_of(name)], count)


def own_candidates(name: str, count: int, seed: int, census: Census) -> Iterator[Candidate]:
    """Up to `count` candidates at the kernel's own sizes, for all `ARCHS` in turn."""
    shape = KERNELS[name].shape()
    return _in_turn([stream(name, shape, arch, seed, census) for arch in ARCHS], count)


def _in_turn(streams: Sequence[Iterator[Candidate]], count: int) -> Iterator[Candidate]:
    left = list(streams)
    while left:
        for s in list(left):
            found = next(s, None)
            if found is None:
                left.remove(s)
                continue
            yield found
            count -= 1
            if count <= 0:
                return


# ----------------------------------------------------------------------------- are they right?
def executed(candidate: Candidate, orders: Sequence[str] = ORDERS, seed: int = 3) -> HostReport:
    """Run a candidate on the processor, everything checked, in several orders of its threads; the
    results are compared with NumPy's, exactly where sums of small integers are exact."""
    kernel, source = candidate.kernel, candidate.source
    values, expected = arguments(candidate, seed)
    tolerance = 0.0 if kernel.exact else TOLERANCE
    return check_source(
        source, values, expected, orders, seed=seed, rtol=tolerance,
        atol=0.0 if kernel.exact else None,
    )  # fmt: skip


def arguments(candidate: Candidate, seed: int = 3) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values by parameter (None where it is written: undefined), and what outputs shall be."""
    kernel, shape, func = candidate.kernel, candidate.shape, candidate.func
    arrays = kernel.arguments(shape, seed=seed, exact=kernel.exact)
    wanted = kernel.expected([a.copy() for a in arrays], shape)
    params = candidate.source.host.params
    values = {p.name: None if p.written else a for p, a in zip(params, arrays, strict=True)}
    names = [p.name for b, p in zip(func.buffers, params, strict=True) if b.name in kernel.outputs]
    return values, dict(zip(names, wanted, strict=True))


def compiled(candidate: Candidate, arch: str, *, cache: bool = False) -> str:
    """What is wrong with a candidate's code for an architecture; "" if it compiles, holds every
    kernel and keeps to the registers and the shared memory that a block can have."""
    try:
        binary = compile_cuda(candidate.source, arch, cache=cache)
    except BuildError as e:
        return e.message
    limits = Target(f"cuda -arch={arch}").limits
    for launch in candidate.source.host.launches:
        facts = binary.facts[launch.kernel]
        threads = launch.block[0] * launch.block[1] * launch.block[2]
        shared = facts.shared_bytes + launch.shared_bytes
        if facts.registers * threads > limits.registers_per_block:
            return f"{launch.kernel}: {facts.registers} registers for each of {threads} threads"
        if shared > limits.shared_per_block:
            return f"{launch.kernel}: {shared} bytes of shared memory"
    return ""
