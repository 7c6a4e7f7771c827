"""Are random candidates of the default CUDA space right? One of every kernel of the library, with
seed 7; `ci/cuda_space candidates` asks it of as many as one has time for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import islice

import pytest

from gputune.codegen.cuda import nvrtc
from gputune.kernels import KERNELS
from gputune.target.gpu import limits_of

from . import candidates
from .candidates import ARCHS, SMALLEST, Candidate, Census

SEED = 7
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="no C++ compiler for host execution",
)
needs_nvrtc = pytest.mark.skipif(nvrtc.load() is None, reason="NVRTC is not installed")


def some(name: str) -> Iterator[Candidate]:
    """Candidates of a kernel; of each other kernel at others of its sizes first."""
    shapes = candidates.shapes_of(name)
    first = list(KERNELS).index(name) % len(shapes)
    for shape in (*shapes[first:], *shapes[:first]):
        yield from islice(candidates.stream(name, shape, SMALLEST, SEED, Census()), 1)


@needs_compiler
@pytest.mark.parametrize("name", KERNELS)
def test_a_candidate_of_every_kernel(name: str) -> None:
    """Compiled for one architecture, and run in three orders of its threads."""
    candidate = next(some(name))
    report = candidates.executed(candidate)
    assert not report.findings, f"{candidate}\n{report}\n{candidate.source.text}"
    if nvrtc.load() is not None:
        arch = ARCHS[list(KERNELS).index(name) % len(ARCHS)]
        assert candidates.compiled(candidate, arch) == "", str(candidate)


@needs_nvrtc
@pytest.mark.parametrize("name", ["GMM", "SFM", "DEP"])
@pytest.mark.parametrize("arch", ARCHS)
def test_candidates_at_the_own_sizes_compile(name: str, arch: str) -> None:
    """Drawn with the limits of the architecture they are compiled for."""
    shape = KERNELS[name].shape()
    stream = candidates.stream(name, shape, arch, SEED, Census())
    assert candidates.compiled(next(stream), arch) == ""


def test_the_smallest_architecture() -> None:
    """What is drawn for it fits the others."""
    least = limits_of(SMALLEST)
    for arch in ARCHS:
        limits = limits_of(arch)
        for f in fields(limits):
            if f.name in ("shared_per_block", "shared_static", "threads_per_block",
                          "registers_per_block", "registers_per_thread", "block_dims",
                          "grid_dims"):  # fmt: skip
                assert getattr(least, f.name) <= getattr(limits, f.name), (arch, f.name)


def test_the_same_seed_gives_the_same_candidates() -> None:
    one, two, other = (
        [c.key for c in candidates.candidates("softmax", 6, seed, Census())] for seed in (1, 1, 2)
    )
    assert one == two != other
    assert len(set(one)) == 6


def test_there_is_room() -> None:
    """Every operator has sizes at which there are many candidates, as far as its space has many:
    what has no reduction has the number of threads to choose."""
    assert {KERNELS[n].make for n in candidates.ROOM} == {k.make for k in KERNELS.values()}
    for name, count in (("matmul", 32), ("softmax", 32), ("gelu", 6)):
        census = Census()
        found = candidates.stream(name, candidates.room(name), SMALLEST, SEED, census)
        assert len(list(islice(found, count))) == count
        assert not census.unlowered


# ----------------------------------------------------------------------------- is the check awake?
@needs_compiler
@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [("__syncthreads();", "", "shared-race"), ("= 0.0f;", "= 1.0f;", "wrong-result")],
)
def test_faults_are_found(old: str, new: str, kind: str) -> None:
    candidate = next(
        candidates.stream("matmul", candidates.room("matmul"), SMALLEST, SEED, Census())
    )
    source = candidate.source
    assert old in source.text
    wrong = replace(candidate, source=replace(source, text=source.text.replace(old, new)))
    assert kind in {f.kind for f in candidates.executed(wrong).findings}


@needs_nvrtc
def test_what_does_not_compile_is_told() -> None:
    candidate = next(
        candidates.stream("softmax", candidates.room("softmax"), SMALLEST, SEED, Census())
    )
    source = replace(candidate.source, text=candidate.source.text.replace("float", "flaot"))
    assert "flaot" in candidates.compiled(replace(candidate, source=source), "sm_80")
