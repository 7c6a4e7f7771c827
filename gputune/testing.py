"""How does a test ask whether a CUDA kernel is right, on a machine without a GPU?

`check_cuda` runs the kernel's text on the CPU, in several orders of threads and blocks, and fails
with a list of findings: races, stray accesses, divergent barriers, reads of what nothing has
written, wrong results. It needs a C++ compiler (g++, clang++, or `pip install "gputune[check]"`).

Example:
    def test_saxpy() -> None:
        x, y = np.random.rand(1000), np.random.rand(1000)
        check_cuda(
            open("saxpy.cu").read(), grid=8, block=128,
            args=dict(out=None, x=np.float32(x), y=np.float32(y), a=2.0, n=1000),
            outputs=dict(out=np.float32(2 * x + y)),
        )
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import UserError, WrongResult

if TYPE_CHECKING:
    from .codegen.cuda.host import HostReport
    from .codegen.cuda.program import CudaSource, Triple

__all__ = ["check_cuda", "kernel_source"]


def check_cuda(
    text: str,
    *,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    args: Mapping[str, Any],
    outputs: Mapping[str, Any] | None = None,
    kernel: str | None = None,
    smem: int = 0,
    options: Sequence[str] = (),
    orders: Sequence[str] = ("forward", "reverse", "random"),
    seed: int = 0,
    timeout_s: float = 60.0,
    sample_blocks: int | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> HostReport:
    """Run a CUDA kernel on the CPU; fail if anything about it is wrong.

    Args:
        text: CUDA C++.
        grid, block: blocks of the launch and threads of a block; a number or up to three.
        args: the kernel's arguments in order: arrays (bfloat16 and float8 of `ml_dtypes`), and
            NumPy numbers for what is passed by value (an `int` is an int32, a `float` a float32).
            None stands for an array of undefined contents, of the dtype and shape in `outputs`.
        outputs: for each array that the kernel may write, what it shall hold afterwards; writing
            another one is an error. None as a value: it may be written, and is not compared.
        kernel: its name; needed where the text defines several.
        smem: bytes of dynamic shared memory.
        options: of the compiler, such as "-DBX=128".
        orders, seed, timeout_s, sample_blocks, rtol, atol: as of `check_source`.

    Returns:
        The report: outputs, warnings, figures such as bank conflicts.

    Raises:
        WrongResult: there are findings; the message lists them.
        BuildError: the text does not compile for the CPU.
        UserError: the arguments do not make a launch.
    """
    from .runtime.host_check import check_source

    source, values = kernel_source(
        text, grid=grid, block=block, args=args, outputs=outputs or {}, kernel=kernel, smem=smem,
        options=options,
    )  # fmt: skip
    expected = {k: v for k, v in (outputs or {}).items() if v is not None}
    report = check_source(
        source, values, expected, orders, seed=seed, timeout_s=timeout_s,
        sample_blocks=sample_blocks, rtol=rtol, atol=atol,
    )  # fmt: skip
    if not report.ok:
        name = source.host.launches[0].kernel
        raise WrongResult(f"kernel {name} is not right:\n{report}", code="host-check")
    return report


def kernel_source(
    text: str,
    *,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    args: Mapping[str, Any],
    outputs: Mapping[str, Any],
    kernel: str | None = None,
    smem: int = 0,
    options: Sequence[str] = (),
) -> tuple[CudaSource, dict[str, Any]]:
    """The program of one launch of a kernel, and the values of its parameters.

    Args as of `check_cuda`.

    Raises:
        UserError: the arguments do not make a launch; says why.
    """
    import numpy as np

    from .codegen.cuda.program import CudaSource, HostProgram, Launch, Param
    from .ir import dtypes

    name = kernel_name(text, kernel)
    for unknown in sorted(set(outputs) - set(args)):
        raise UserError(
            f"output {unknown!r} is no argument of {name}", hint=f"it has: {', '.join(args)}"
        )
    params: list[Param] = []
    values: dict[str, Any] = {}
    for key, given in args.items():
        like = outputs.get(key) if given is None else given
        if like is None:
            raise UserError(
                f"argument {key!r} is None: its dtype and shape are not known",
                hint="give an array for it, or for what it shall be in outputs",
            )
        if isinstance(like, float) and not isinstance(like, np.generic):
            like = np.float32(like)
        elif isinstance(like, int) and not isinstance(like, (np.generic, bool)):
            like = _int32(key, like)
        try:
            array = np.asarray(like)
            dtype = dtypes.from_numpy(array.dtype)
        except ValueError as e:
            raise UserError(f"argument {key!r}: {e}") from None
        number = array.ndim == 0
        if number and key in outputs:
            raise UserError(f"argument {key!r} is a number: kernels cannot write it")
        params.append(Param(key, dtype, None if number else array.size, key in outputs))
        values[key] = None if given is None else array
    launch = Launch(name, _triple("grid", grid), _triple("block", block), tuple(args), smem)
    host = HostProgram(name, tuple(params), (launch,))
    return CudaSource(text, host, tuple(options), prelude=False), values


def kernel_name(text: str, wanted: str | None = None) -> str:
    """The kernel that is meant: `wanted`, or the only one of the text.

    Raises:
        UserError: the text does not define it, or defines none, or several and none is named.
    """
    bare = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)
    found = re.findall(
        r"__global__\s+(?:void\s+)?(?:__launch_bounds__\s*\([^()]*(?:\([^()]*\)[^()]*)*\)\s*)?"
        r"(?:void\s+)?(\w+)\s*\(",
        bare,
    )
    names: list[str] = list(dict.fromkeys(found))
    if wanted is not None:
        if wanted not in names and not re.search(rf"\b{re.escape(wanted)}\b", bare):
            raise UserError(
                f"the text defines no kernel {wanted!r}",
                hint=f"it defines: {', '.join(names) or 'none'}",
            )
        return wanted
    if len(names) == 1:
        return names[0]
    if not names:
        raise UserError("the text defines no kernel", hint="a kernel is a __global__ function")
    raise UserError(f"the text defines several kernels: {', '.join(names)}", hint="name one")


def _int32(name: str, value: int) -> Any:
    import numpy as np

    if not -(1 << 31) <= value < 1 << 31:
        raise UserError(
            f"argument {name!r} is {value}, which is no int32",
            hint="give a NumPy number, such as np.int64",
        )
    return np.int32(value)


def _triple(what: str, given: int | Sequence[int]) -> Triple:
    sizes = [given] if isinstance(given, int) else [int(v) for v in given]
    if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
        raise UserError(f"{what} must be one to three numbers of at least 1, found {given!r}")
    x, y, z = [*sizes, 1, 1][:3]
    return x, y, z
