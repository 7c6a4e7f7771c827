"""Is every barrier of the default CUDA space needed where it stands, and is its absence seen? Of
candidates of twenty kernels, with seed 7; `ci/cuda_space barriers` asks it of more."""

from __future__ import annotations

import shutil
from itertools import islice

import pytest

from gputune.ir.nodes import PrimFunc
from gputune.ir.walk import walk_stmt
from gputune.lower.barriers import has_enough, is_barrier
from gputune.lower.gpu import lower_gpu
from gputune.script import from_source

from . import candidates, mutants
from .candidates import SMALLEST, Candidate, Census

SEED = 7
TWENTY = (
    "matmul", "batch_matmul", "gemv", "dense_bias_relu", "transpose_batch_matmul", "conv1d",
    "conv2d", "conv3d", "conv2d_transpose", "conv2d_bn_relu", "softmax", "log_softmax",
    "layernorm", "rmsnorm", "norm", "row_sum", "row_max", "total_mean", "argmax", "attention",
)  # fmt: skip
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="no C++ compiler for host execution",
)


def with_barriers(name: str) -> Candidate:
    """The first of the candidates that has some."""
    drawn = candidates.stream(name, candidates.room(name), SMALLEST, SEED, Census())
    return next(c for c in islice(drawn, 20) if mutants.barriers_of(c))


@needs_compiler
@pytest.mark.parametrize("name", TWENTY)
def test_every_barrier_is_needed_where_it_is(name: str) -> None:
    """Without it, or with it a statement further up or down, host execution finds a fault, or
    lowering proves that nothing has changed; and the two never disagree."""
    candidate = with_barriers(name)
    caught = 0
    for m, verdict in mutants.judged(candidate):
        assert verdict.agreed, f"{candidate}\n{m.what}: {verdict}\n{m.candidate.source.text}"
        assert verdict.counted or "dropped" not in m.what, f"{candidate}: {m.what}, and all is well"
        caught += verdict.counted
    assert caught >= mutants.barriers_of(candidate)


# ----------------------------------------------------------------------------- the mutants
TWO_ROUNDS = """
@T.prim_func
def main(A: T.Buffer((64,), "float32"), B: T.Buffer((64,), "float32")):
    S = T.alloc_buffer((32,), scope="shared")
    for t in T.thread_binding(32, thread="threadIdx.x"):
        for k in range(2):
            with T.block("S"):
                v, vk = T.axis.remap("SS", [t, k])
                S[v] = A[vk * 32 + v]
            with T.block("B"):
                v, vk = T.axis.remap("SS", [t, k])
                B[vk * 32 + v] = S[31 - v]
"""


def lowered(text: str) -> PrimFunc:
    func = from_source(text)
    (kernel,) = lower_gpu(func if isinstance(func, PrimFunc) else func["main"]).kernels
    return kernel.func


def test_which_mutants_there_are() -> None:
    """Of a loop that begins with a barrier and has another one in the middle."""
    from gputune.lower.kernels import inner, with_inner

    kernel = lowered(TWO_ROUNDS)
    _, body = inner(kernel)
    assert has_enough(kernel)
    found = list(mutants.changes(body))
    assert [what.split(" ", 2)[2] for what, _ in found] == [
        "dropped", "moved out, up", "moved down", "dropped", "moved up", "moved down",
    ]  # fmt: skip
    counts = [sum(map(is_barrier, walk_stmt(s))) for _, s in found]
    assert counts == [1, 2, 2, 1, 2, 2]
    assert not any(has_enough(with_inner(kernel, s)) for _, s in found)
