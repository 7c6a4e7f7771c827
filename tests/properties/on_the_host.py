"""Does a program with bound threads compute what it should, as CUDA code run on the processor?"""

from __future__ import annotations

import numpy as np

from gputune.codegen.cuda.host import host_compile, host_run
from gputune.codegen.cuda.kernel import generate
from gputune.ir.interp import run
from gputune.ir.nodes import PrimFunc

from .moves import inputs, results

REFUSALS = {
    "axis-twice", "cross-thread", "divergent-barrier", "grid-part", "grid-race", "grid-twice",
    "host-loop", "launch-size", "not-private", "pipeline", "scope-kernels", "thread-race",
}  # fmt: skip
"""What lowering for a GPU may refuse of random schedules."""


def leaves_some(func: PrimFunc) -> list[bool]:
    """Of each parameter: does the program leave elements as they are?"""
    found = [[np.full_like(a, x) for a in inputs(func, 0)] for x in (1, 2)]
    for arrays in found:
        run(func, *arrays)
    return [bool(np.any((x == 1) & (y == 2))) for x, y in zip(*found, strict=True)]


def check_on_the_host(original: PrimFunc, scheduled: PrimFunc, seed: int) -> None:
    """Host execution, in three orders of the threads, has no findings and the right results.

    Args:
        original: what is to be computed. What it writes whole is undefined before.
        scheduled: a program for a GPU.
        seed: of the inputs, and of the random order.

    Raises:
        LowerError, BuildError: the program is no program for a GPU; see `REFUSALS`.
    """
    arrays, want = inputs(original, seed), results(original, seed)
    left_alone = leaves_some(original)
    source = generate(scheduled)
    code = host_compile(source)
    params = source.host.params
    values = {
        p.name: None if p.written and not given else a
        for p, a, given in zip(params, arrays, left_alone, strict=True)
    }
    for order in ("forward", "reverse", "random"):
        report = host_run(code, values, order=order, seed=seed % 1000)
        assert report.completed, source.text
        assert not report.findings, f"{report}\n{source.text}"
        for p, w in zip(params, want, strict=True):
            if p.written:
                got = report.outputs[p.name].reshape(w.shape)
                assert np.allclose(got, w, 1e-5, 1e-5, equal_nan=True), source.text
