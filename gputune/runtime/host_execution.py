"""How does a worker run a CUDA program without a GPU? Compiled for the processor, every access
checked; the clock is that of the simulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gputune.codegen.cuda.host import HostReport, host_compile, host_run
from gputune.codegen.cuda.program import CudaSource
from gputune.errors import RunError
from gputune.ir import dtypes

from .operations import Argument, Held, arguments, parse_argument


def run_host(args: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """Run a CUDA program once on the processor.

    Args: "cuda" (`CudaSource.as_json`), "arguments", "seed", "order" of the threads, "limit_s"
    (processor seconds), "outputs" (are they wanted?). Where they are, written arrays begin with the
    values that "arguments" and "seed" give them; else those without a file are undefined, and
    reading them is found. Answer: "run_secs" of the simulation, "warnings", "outputs" (name, dtype
    and shape of each written array; the blobs are their contents).

    Raises:
        RunError: the checks found something; its code is the kind of the first finding.
        BuildError: the program cannot be compiled for the processor.
    """
    try:
        source = CudaSource.from_json(args["cuda"])
    except (KeyError, TypeError, ValueError) as e:
        raise RunError(f"run_host: this is no CUDA program: {e}") from None
    wanted, seed = bool(args.get("outputs")), int(args.get("seed", 0))
    specs = [parse_argument(s, i) for i, s in enumerate(args["arguments"])]
    held = arguments(args, seed)
    report = host_run(
        host_compile(source),
        {a.name: _value(a, h, wanted) for a, h in zip(specs, held)},
        order=args.get("order", "forward"),
        seed=seed,
        timeout_s=float(args.get("limit_s", 60.0)),
    )
    _complain(report)
    data: dict[str, Any] = {
        "run_secs": [max(report.seconds, 1e-9)],
        "warnings": [str(f) for f in report.findings],
        "outputs": [],
    }
    if not wanted:
        return data, ()
    written = [a for a in specs if a.written]
    data["outputs"] = [{"name": a.name, "dtype": a.dtype, "shape": a.shape} for a in written]
    return data, tuple([report.outputs[a.name].tobytes() for a in written])


def _complain(report: HostReport) -> None:
    """RunError if there is a finding that is more than a warning."""
    errors = [f for f in report.findings if f.severity == "error"]
    if not errors:
        return
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    raise RunError(f"{errors[0]}{more}", code=errors[0].kind)


def _value(a: Argument, held: int | Held, wanted: bool) -> Any:
    """An array, a number of the argument's dtype, or None for an array of undefined contents."""
    if isinstance(held, Held):
        return held.array if wanted or a.path is not None or not a.written else None
    raw = held.to_bytes(8, "little")
    return np.frombuffer(raw, dtypes.numpy_dtype(a.dtype), 1)[0]
