"""What is in the requests that build, time and check a kernel? One function for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gputune.ir.nodes import IRModule, PrimFunc
from gputune.target import Target

from .process import Reply, Request


def build_request(
    program: PrimFunc | IRModule,
    target: Target,
    *,
    name: str | None = None,
    timeout_s: float = 30.0,
) -> Request:
    """Compile a program in a worker; the reply's blob is the object code.

    Args:
        name: which function of a module.
    """
    args = {"script": program.script(), "target": target.export(), "name": name}
    return Request("build", args, timeout_s=timeout_s)


def run_request(
    built: Reply,
    *,
    arguments: Sequence[Any] | None = None,
    evaluator: Mapping[str, Any] | None = None,
    seed: int = 0,
    cutoff_s: float | None = None,
    timeout_s: float = 30.0,
) -> Request:
    """Time what a build gave; the reply's data hold "run_secs" (seconds a call).

    Args:
        arguments: descriptions (`signature.concrete_arguments`) or ["TENSOR", dtype, shape];
            default: those of the build, which must have no symbolic sizes.
        evaluator: number, repeat, min_repeat_ms, enable_cpu_cache_flush.
        cutoff_s: a kernel that takes longer is not timed further; see `TimerConfig`.
    """
    args = {
        "symbol": built.data["symbol"],
        "arguments": list(built.data["arguments"] if arguments is None else arguments),
        "evaluator": dict(evaluator or {}),
        "seed": seed,
        "cutoff_s": cutoff_s,
        "num_threads": _threads(built),
    }
    return Request("run", args, built.blobs, timeout_s)


def check_request(
    built: Reply,
    reference: Reply,
    *,
    arguments: Sequence[Any] | None = None,
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    timeout_s: float = 60.0,
) -> Request:
    """Compare what a build gave with a reference build on fresh inputs; the reply's data hold "ok"
    and "reason"."""
    args = {
        "symbol": built.data["symbol"],
        "reference_symbol": reference.data["symbol"],
        "arguments": list(reference.data["arguments"] if arguments is None else arguments),
        "seed": seed,
        "rtol": rtol,
        "atol": atol,
        "num_threads": _threads(built),
    }
    return Request("check", args, (built.blobs[0], reference.blobs[0]), timeout_s)


def _threads(built: Reply) -> int:
    return int(built.data["num_threads"]) if built.data["parallel"] else 1
