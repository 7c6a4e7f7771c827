"""Is a CUDA program right? Run on the CPU in several orders, and compared with what is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gputune.codegen.cuda.host import Finding, HostReport, host_compile, host_run
from gputune.codegen.cuda.host.execution import ORDERS, Value
from gputune.codegen.cuda.program import CudaSource
from gputune.errors import RunError

from .compare import Difference, compare


def check_source(
    source: CudaSource,
    values: Mapping[str, Value],
    expected: Mapping[str, Any] | None = None,
    orders: Sequence[str] = ORDERS,
    *,
    seed: int = 0,
    timeout_s: float = 60.0,
    max_findings: int = 20,
    sample_blocks: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> HostReport:
    """Run a program once in every order; its results shall agree, and be those expected.

    Args:
        source: the program.
        values: as `host_run` takes them.
        expected: what written parameters shall hold afterwards, by name.
        orders: of threads and blocks.
        seed, timeout_s, max_findings: as of `host_run`, for each run.
        sample_blocks: run only so many blocks of each launch; then only what they wrote is
            compared.
        rtol, atol: tolerance of comparisons; default by dtype (see `compare`). Integers must be
            equal.

    Returns:
        The report of the first order, with the findings of all. Results that depend on the order
        are a finding of kind "order-dependent", others than expected one of kind "wrong-result".

    Raises:
        BuildError, RunError: as of `host_compile` and `host_run`.
    """
    if not orders:
        raise RunError("check_source needs at least one order")
    for name in expected or {}:
        if name not in {p.name for p in source.host.params if p.written}:
            raise RunError(f"program {source.host.name!r} writes no parameter {name!r}")
    code = host_compile(source)
    reports = [
        host_run(
            code, values, order=order, seed=seed, timeout_s=timeout_s,
            max_findings=max_findings, sample_blocks=sample_blocks,
        )
        for order in dict.fromkeys(orders)
    ]  # fmt: skip
    first = reports[0]
    found: dict[tuple[object, ...], Finding] = {}
    for report in reports:
        for f in report.findings:
            found.setdefault((f.kind, f.severity, f.kernel, f.buffer, f.line), f)
    extra: list[Finding] = []
    if all(r.completed for r in reports):
        for other in reports[1:]:
            extra += _disagreements(first, other, rtol, atol)
        extra += _mistakes(first, values, expected or {}, rtol, atol)
    counts: dict[str, int] = {}
    for f in (*found.values(), *extra):
        counts[f.kind] = counts.get(f.kind, 0) + 1
    every = sorted((*found.values(), *extra), key=lambda f: f.severity != "error")
    return replace(
        first,
        findings=tuple(every[:max_findings]),
        counts=counts,
        order=", ".join(r.order for r in reports),
        completed=all(r.completed for r in reports),
    )


def _disagreements(
    first: HostReport, other: HostReport, rtol: float | None, atol: float | None
) -> list[Finding]:
    out = []
    for name, array in first.outputs.items():
        d = compare(other.outputs[name].reshape(-1), array.reshape(-1), rtol, atol)
        if not d.ok:
            out.append(
                Finding(
                    "order-dependent",
                    f"{d.mismatches} elements differ between the orders {first.order} and "
                    f"{other.order}: {d.expected} and {d.found}",
                    buffer=name,
                    element=_element(d),
                )
            )
    return out


def _mistakes(
    report: HostReport,
    values: Mapping[str, Value],
    expected: Mapping[str, Any],
    rtol: float | None,
    atol: float | None,
) -> list[Finding]:
    out = []
    for name, wanted in expected.items():
        array = report.outputs[name].reshape(-1)
        flat = np.asarray(wanted).reshape(-1)
        if flat.size != array.size:
            raise RunError(
                f"parameter {name!r} has {array.size} elements, {flat.size} are expected"
            )
        places = np.arange(array.size)
        if report.sampled:
            places = np.flatnonzero(_changed(array, values.get(name)))
        d = compare(array[places], flat.astype(array.dtype)[places], rtol, atol)
        if not d.ok:
            at = _element(d)
            out.append(
                Finding(
                    "wrong-result",
                    f"{d.mismatches} of {places.size} elements are wrong: "
                    f"found {d.found}, expected {d.expected}",
                    buffer=name,
                    element=None if at is None else int(places[at]),
                )
            )
    return out


def _changed(array: np.ndarray[Any, Any], initial: Value) -> np.ndarray[Any, Any]:
    """Which elements were written, as far as that can be seen."""
    found = array.view(np.uint8).reshape(array.size, -1)
    if initial is None:
        return np.asarray((found != 0xFF).any(axis=1))
    before = np.ascontiguousarray(initial).reshape(-1).view(np.uint8).reshape(found.shape)
    return np.asarray((found != before).any(axis=1))


def _element(d: Difference) -> int | None:
    return d.where[0] if d.where else None
