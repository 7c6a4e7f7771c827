"""How does a worker run a CUDA program without a GPU? Compiled for the processor, every access
checked; the clock is that of the simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gputune.codegen.cuda.host import HostReport, host_compile, host_run
from gputune.codegen.cuda.program import CudaSource
from gputune.errors import RunError
from gputune.ir import dtypes

from .operations import Argument, Held, arguments, bound, compared, parse_argument, put_expected


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
    wanted, seed = bool(args.get("outputs")), int(args.get("seed", 0))
    held = arguments(args, seed)
    specs, names, report = _ran(args, held, wanted)
    data: dict[str, Any] = {
        "run_secs": [max(report.seconds, 1e-9)],
        "warnings": [str(f) for f in report.findings],
        "outputs": [],
    }
    if not wanted:
        return data, ()
    written = [(a, name) for a, name in zip(specs, names) if a.written]
    data["outputs"] = [{"name": a.name, "dtype": a.dtype, "shape": a.shape} for a, _ in written]
    return data, tuple([report.outputs[name].tobytes() for _, name in written])


def check_host(
    args: Mapping[str, Any], blobs: Sequence[bytes]
) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """Run a CUDA program on the processor, and a reference with equal arguments, and compare.

    Args: as of `run_host`, and "reference": {"symbol"} of object code for this machine's processor.
    Blobs: the candidate's, which is not looked at, and the reference's code; or "expected" and what
    is expected, as of `operations._check`. Answer: as
    `operations._check`.

    Raises:
        RunError, BuildError: as of `run_host`.
    """
    seed = int(args.get("seed", 0))
    before, wanted, found = (arguments(args, seed) for _ in range(3))
    if (told := args.get("expected")) is None:
        bound(blobs[1], args["reference"]["symbol"], wanted, 1)()
    else:
        put_expected(wanted, told, blobs[1:])
    _, names, report = _ran(args, before, True)
    for h, name in zip(found, names):
        if isinstance(h, Held) and h.argument.written:
            h.array[...] = report.outputs[name].reshape(h.array.shape)
    return compared(found, wanted, before, args.get("rtol"), args.get("atol")), ()


def _ran(
    args: Mapping[str, Any], held: Sequence[int | Held], wanted: bool
) -> tuple[list[Argument], list[str], HostReport]:
    """The arguments, what the program calls them, and what one run without a fault found."""
    try:
        source = CudaSource.from_json(args["cuda"])
    except (KeyError, TypeError, ValueError) as e:
        raise RunError(f"run_host: this is no CUDA program: {e}") from None
    specs = [parse_argument(s, i) for i, s in enumerate(args["arguments"])]
    names = _names(source, specs)
    report = host_run(
        host_compile(source),
        {name: _value(a, h, wanted) for name, a, h in zip(names, specs, held)},
        order=args.get("order", "forward"),
        seed=int(args.get("seed", 0)),
        timeout_s=float(args.get("limit_s", 60.0)),
    )
    _complain(report)
    return specs, names, report


def _names(source: CudaSource, specs: Sequence[Argument]) -> list[str]:
    """What the program calls its arguments: as they are called, or, where one has a name that C++
    has another use for, what stands in their places."""
    params = [p.name for p in source.host.params]
    names = [a.name for a in specs]
    return names if set(names) <= set(params) or len(names) != len(params) else params


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
