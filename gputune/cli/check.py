"""`gputune check`: is a CUDA kernel right? It runs on the CPU, and every access is looked at."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gputune.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from gputune.codegen.cuda.host import HostReport
    from gputune.codegen.cuda.program import CudaSource

EXAMPLES = """\b
Examples:
  gputune check vadd.cu c=float32[1000]:out a=float32[1000] b=float32[1000] n=int32:1000 \\
      --grid 8 --block 128
  gputune check gemm.cu --kernel gemm_tiled A=float16[64,64] B=float16[64,64] \\
      C=float32[64,64]:out n=int32:64 --grid 4,4 --block 16,16 --smem 2048 --define TILE=16
  gputune check softmax
  gputune check matmul --shape 100,70,33 --dtype float16

\b
An argument of a kernel is NAME=DTYPE[SIZES] with :out (written, undefined at first), :inout
(written and read) or :zero (written, zeros at first) for what the kernel may write, or
NAME=DTYPE:NUMBER for what is passed by value. They are given in the kernel's order.
"""

_ARRAY = re.compile(r"(?P<dtype>\w+)\[(?P<sizes>[^\]]*)\](?::(?P<use>\w+))?")
_NUMBER = re.compile(r"(?P<dtype>\w+):(?P<value>[^:\[\]]+)")
_ORDERS = ("forward", "reverse", "random")
_USES = ("in", "out", "inout", "zero")


@dataclass(frozen=True, slots=True)
class Check:
    """What `check_program` is asked beside the program.

    Attributes:
        orders: of threads and blocks.
        seed: of the random order, and of a choice of blocks.
        timeout_s: processor seconds of one run.
        sample_blocks: how many blocks of a launch run; None: all.
        max_findings: how many are shown.
    """

    orders: tuple[str, ...] = _ORDERS
    seed: int = 0
    timeout_s: float = 60.0
    sample_blocks: int | None = None
    max_findings: int = 20


@click.command(epilog=EXAMPLES)
@click.argument("what", metavar="FILE.cu|KERNEL")
@click.argument("arguments", nargs=-1, metavar="[NAME=TYPE]...")
@click.option("--kernel", help="Which kernel of the file, where it has several.")
@click.option("--grid", help="Blocks along x,y,z.")
@click.option("--block", help="Threads of a block along x,y,z.")
@click.option("--smem", type=click.IntRange(0), default=0, help="Bytes of dynamic shared memory.")
@click.option("--define", "-D", "defines", multiple=True, help="A macro, such as BX=128.")
@click.option("--option", "options", multiple=True, help="Another option of the CUDA compiler.")
@click.option("--shape", help="Sizes of a KERNEL of the library; default: its small ones.")
@click.option("--dtype", help="Element type of a KERNEL of the library.")
@click.option(
    "--order",
    "orders",
    multiple=True,
    type=click.Choice(_ORDERS),
    help="Of threads and blocks; may be repeated. Default: all three.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of contents and orders.")
@click.option("--timeout", type=click.FloatRange(0.01), default=60.0, help="Seconds of a run.")
@click.option("--sample-blocks", type=click.IntRange(1), help="Run only so many blocks.")
def check(
    what: str,
    arguments: tuple[str, ...],
    kernel: str | None,
    grid: str | None,
    block: str | None,
    smem: int,
    defines: tuple[str, ...],
    options: tuple[str, ...],
    shape: str | None,
    dtype: str | None,
    orders: tuple[str, ...],
    seed: int,
    timeout: float,
    sample_blocks: int | None,
) -> None:
    """Run a CUDA kernel on the CPU and look for races, stray accesses and wrong barriers.

    Needs no GPU. A KERNEL of the library is scheduled for a GPU and compared with NumPy, too.
    Exits with 1 if something is wrong.
    """
    how = Check(orders or _ORDERS, seed, timeout, sample_blocks)
    if what.endswith((".cu", ".cuh")) or Path(what).is_file():
        if shape is not None or dtype is not None:
            raise UserError("--shape and --dtype belong to a kernel of the library")
        source, values = from_file(
            Path(what), arguments, kernel, grid, block, smem,
            [*(f"-D{d}" for d in defines), *options], seed,
        )  # fmt: skip
        good = show(source, check_program(source, values, None, how))
    else:
        used = {"--kernel": kernel, "--grid": grid, "--block": block, "--smem": smem or None,
                "--define": defines, "--option": options, "an argument": arguments}  # fmt: skip
        wrong = [name for name, value in used.items() if value]
        if wrong:
            raise UserError(f"{wrong[0]} has no meaning for {what}, which is no file")
        good = all([_check_operator(what, s, dtype, how) for s in _shapes(what, shape)])
    if not good:
        sys.exit(1)


def check_program(
    source: CudaSource,
    values: Mapping[str, Any],
    expected: Mapping[str, Any] | None = None,
    how: Check | None = None,
) -> HostReport:
    """Run any CUDA program on the CPU in all orders; see `check_source`."""
    from gputune.runtime.host_check import check_source

    how = how or Check()
    return check_source(
        source, values, expected, how.orders, seed=how.seed, timeout_s=how.timeout_s,
        max_findings=how.max_findings, sample_blocks=how.sample_blocks,
    )  # fmt: skip


# ----------------------------------------------------------------------------- a file
def from_file(
    path: Path,
    arguments: Sequence[str],
    kernel: str | None,
    grid: str | None,
    block: str | None,
    smem: int,
    options: Sequence[str],
    seed: int,
) -> tuple[CudaSource, dict[str, Any]]:
    """The program that the command line describes, and contents for its parameters.

    Raises:
        UserError: a word that cannot be read, or something that is missing.
    """
    import numpy as np

    from gputune.testing import kernel_source

    if not path.is_file():
        raise UserError(f"there is no file {path}")
    for name, given in (("--grid", grid), ("--block", block)):
        if given is None:
            raise UserError(f"{name} is needed to launch a kernel of {path}", hint=f"{name} 8,4")
    rng = np.random.default_rng(seed)
    args: dict[str, Any] = {}
    outputs: dict[str, Any] = {}
    undefined: set[str] = set()
    for word in arguments:
        name, value, use = _argument(word, rng)
        if name in args:
            raise UserError(f"argument {name!r} is given twice")
        args[name] = value
        if use in ("out", "inout", "zero"):
            outputs[name] = value
        if use == "out":
            undefined.add(name)
    source, values = kernel_source(
        path.read_text(encoding="utf-8"),
        grid=_sizes("--grid", grid or ""),
        block=_sizes("--block", block or ""),
        args=args, outputs=outputs, kernel=kernel, smem=smem, options=options,
    )  # fmt: skip
    return source, {k: None if k in undefined else v for k, v in values.items()}


def _argument(word: str, rng: np.random.Generator) -> tuple[str, Any, str]:
    """Name, contents and use of an argument."""
    import numpy as np

    name, equals, text = word.partition("=")
    hint = "for example c=float32[1024]:out, a=float32[32,32], n=int32:1024"
    if not equals or not name.isidentifier():
        raise UserError(f"the argument {word!r} is not NAME=TYPE", hint=hint)
    if match := _ARRAY.fullmatch(text):
        use = match["use"] or "in"
        if use not in _USES:
            raise UserError(f"{word!r}: {use!r} is none of {', '.join(_USES)}")
        sizes = _sizes(word, match["sizes"])
        return name, _contents(match["dtype"], sizes, use, rng, word), use
    if match := _NUMBER.fullmatch(text):
        dtype = _dtype(match["dtype"], word)
        try:
            if np.issubdtype(dtype, np.integer):
                return name, _integer(match["value"], dtype), "in"
            return name, np.float64(match["value"]).astype(dtype), "in"
        except (ValueError, OverflowError) as e:
            raise UserError(f"{word!r}: {e}") from None
    raise UserError(f"the argument {word!r} cannot be read", hint=hint)


def _integer(text: str, dtype: np.dtype[Any]) -> Any:
    import numpy as np

    value = int(text, 0)
    limits = np.iinfo(dtype)
    if not limits.min <= value <= limits.max:
        raise ValueError(f"{value} is no {dtype}")
    return dtype.type(value)


def _dtype(name: str, word: str) -> np.dtype[Any]:
    from gputune.ir import dtypes

    try:
        return dtypes.numpy_dtype(name)
    except ValueError as e:
        raise UserError(f"{word!r}: {e}") from None


def _contents(
    name: str, sizes: Sequence[int], use: str, rng: np.random.Generator, word: str
) -> np.ndarray[Any, Any]:
    """Small numbers of either sign, or zeros."""
    import numpy as np

    from gputune.ir import dtypes

    dtype = _dtype(name, word)
    if use in ("zero", "out"):
        return np.zeros(sizes, dtype)
    if dtypes.is_float(name):
        return rng.standard_normal(sizes).astype(dtype)
    if dtypes.is_bool(name):
        return rng.integers(0, 2, sizes).astype(dtype)
    return rng.integers(0 if dtypes.is_unsigned(name) else -8, 8, sizes).astype(dtype)


def _sizes(what: str, text: str) -> list[int]:
    parts = re.split(r"[,x]", text.strip())
    if not all(re.fullmatch(r"\s*[0-9]+\s*", p) for p in parts):
        raise UserError(f"{what}: {text!r} is no list of sizes", hint="for example 8 or 32,4")
    sizes = [int(p) for p in parts]
    if prod(sizes) < 1:
        raise UserError(f"{what}: sizes must be at least 1, found {text!r}")
    return sizes


# ----------------------------------------------------------------------------- an operator
def _shapes(name: str, shape: str | None) -> list[str | None]:
    from gputune import kernels

    if shape is not None:
        return [shape]
    small = kernels.get(name).check_shapes
    return [",".join(f"{k}={v}" for k, v in s.items()) for s in small]


def _check_operator(name: str, shape: str | None, dtype: str | None, how: Check) -> bool:
    """Check a kernel of the library under the default schedule of a GPU."""
    from gputune.codegen.cuda.kernel import generate
    from gputune.default_gpu_schedule import default_gpu_schedule
    from gputune.target import Target

    from .subject import find

    subject = find(name, shape, dtype)
    module = default_gpu_schedule(subject.func, Target("cuda -arch=sm_80")).mod
    func = module[subject.func.name]
    source = generate(func)
    params = source.host.params
    inputs = iter(subject.inputs)
    values = {p.name: None if p.written else next(inputs) for p in params if p.elements is not None}
    assert subject.reference is not None
    results = subject.reference(*subject.inputs)
    several = results if isinstance(results, tuple) else (results,)
    written = [p.name for p in params if p.written]
    expected = dict(zip(written, several))
    return show(source, check_program(source, values, expected, how), subject.title)


# ----------------------------------------------------------------------------- what is shown
def show(source: CudaSource, report: HostReport, title: str | None = None) -> bool:
    """Print a report; was everything right?"""
    from .display import console, table

    out = console()
    kernels = ", ".join(dict.fromkeys(s.kernel for s in source.host.launches))
    ran = f"{report.blocks_run} blocks" if not report.sampled else (
        f"{report.blocks_run} of {report.blocks_total} blocks")  # fmt: skip
    out.print(f"{title or kernels}: {ran}, orders {report.order}")
    if report.findings:
        rows = [
            (f.severity, f.kind, f.what(), f.where(), f.message, str(f.count))
            for f in report.findings
        ]
        head = ("", "kind", "element", "where", "what happened", "times")
        out.print(table(head, rows, right=(5,)))
        hidden = sum(report.counts.values()) - len(report.findings)
        if hidden > 0:
            out.print(f"and {hidden} more places")
    for name, k in report.kernels.items():
        if k.shared_requests:
            each = k.bank_conflicts / k.shared_requests
            out.print(
                f"  {name}: {k.bank_conflicts} bank conflicts in {k.shared_requests} requests to "
                f"shared memory ({each:.2f} each; {k.counted_blocks} blocks counted)"
            )
    if report.printed:
        out.print(report.printed.rstrip("\n"))
    if report.ok:
        out.print("no errors" if report.findings else "no findings")
    return report.ok
