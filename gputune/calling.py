"""Which arguments of a kernel does the caller give, and which can be made for them?

A parameter that the kernel writes before it reads it is an output: whoever calls with the inputs
alone gets it back, freshly allocated, as the kind of array that the inputs are.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from .errors import RunError
from .ir import dtypes
from .ir.nodes import PrimFunc
from .ir.roles import Role as Role
from .ir.roles import roles as roles
from .runtime.ndarray import ALIGNMENT, NDArray
from .runtime.signature import (
    Signature,
    TensorParam,
    concrete_arguments,
    evaluate,
    signature,
)

Make: TypeAlias = Callable[[tuple[int, ...], str], Any]


class Convention:
    """How a kernel may be called.

    Attributes:
        sig: its parameters.
        roles: what each of them is to the caller.
        inputs: the positions of what the caller gives, arrays updated in place among them.
        outputs: the positions of the outputs.
    """

    __slots__ = ("_fixed", "inputs", "outputs", "roles", "sig")

    def __init__(self, sig: Signature, roles: tuple[Role, ...]) -> None:
        self.sig = sig
        self.roles = roles
        self.inputs = tuple(i for i, r in enumerate(roles) if r != "out")
        self.outputs = tuple(i for i, r in enumerate(roles) if r == "out")
        self._fixed = self._layouts({}) if self._static() else None

    @staticmethod
    def of(func: PrimFunc) -> Convention:
        """The convention of an (unscheduled) function."""
        from .codegen.llvm.kernel import shape_vars

        return Convention(signature(func, func.name, shape_vars(func)), roles(func))

    def complete(self, args: Sequence[Any], out: Any = None) -> tuple[list[Any], Any]:
        """The whole argument list, and what the call returns.

        Args:
            args: the inputs, or all arguments (then nothing is returned, as in TVM).
            out: the output, or a tuple of all outputs; default: allocated and zeroed.

        Raises:
            RunError: another number of arguments or outputs.
        """
        given, inputs = len(args), self.inputs
        if out is None and given == len(self.roles):
            return list(args), None
        if given != len(inputs):
            raise RunError(self._count(given, out is not None), code="count")
        whole: list[Any] = [None] * len(self.roles)
        for i, x in zip(inputs, args):
            whole[i] = x
        results = self.allocate(args) if out is None else self._given(out)
        for i, x in zip(self.outputs, results):
            whole[i] = x
        if not results:
            return whole, None
        return whole, results[0] if len(results) == 1 else results

    def _given(self, out: Any) -> tuple[Any, ...]:
        results = tuple(out) if isinstance(out, tuple | list) else (out,)
        if len(results) != len(self.outputs):
            raise RunError(
                f"{self.sig.name}: out= holds {len(results)} arrays, the kernel has "
                f"{len(self.outputs)} outputs ({self._names(self.outputs)})",
                code="count",
            )
        return results

    def allocate(self, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """Zeroed arrays for the outputs, of the kind of the first input that is an array."""
        make = maker(inputs)
        fixed = self._fixed
        if fixed is None:
            fixed = self._layouts(self._sizes(inputs))
        return tuple([make(shape, dtype) for shape, dtype in fixed])

    def _static(self) -> bool:
        params = [self.sig.params[i] for i in self.outputs]
        return all(isinstance(p, TensorParam) and p.static for p in params)

    def _layouts(self, env: dict[Any, int]) -> list[tuple[tuple[int, ...], str]]:
        """Shape and dtype of each output."""
        out = []
        for i in self.outputs:
            p = self.sig.params[i]
            assert isinstance(p, TensorParam)
            if p.strides is not None:
                raise RunError(
                    f"{self.sig.name}: output {p.name!r} has strides of its own", hint="pass out="
                )
            out.append((tuple(evaluate(n, env, self.sig.name) for n in p.shape), p.dtype))
        return out

    def _sizes(self, inputs: Sequence[Any]) -> dict[Any, int]:
        """The values of symbolic sizes that are the extents of inputs."""
        env: dict[Any, int] = {}
        if not self.sig.shape_vars:
            return env
        for i, x in zip(self.inputs, inputs):
            p = self.sig.params[i]
            if isinstance(p, TensorParam):
                for e, n in zip(p.shape, getattr(x, "shape", ())):
                    if e in self.sig.shape_vars:
                        env.setdefault(e, int(n))
        return env

    def _count(self, given: int, with_out: bool) -> str:
        name, every = self.sig.name, len(self.roles)
        inputs = f"{len(self.inputs)} inputs ({self._names(self.inputs)})"
        if with_out or not self.outputs:
            return f"{name}: expected {inputs}, found {given} arguments"
        outs = self._names(self.outputs)
        return (
            f"{name}: expected {inputs}, or all {every} arguments with the outputs ({outs}), "
            f"found {given}"
        )

    def _names(self, positions: Sequence[int]) -> str:
        return ", ".join(self.sig.params[i].name for i in positions) or "none"

    def __str__(self) -> str:
        params = self.sig.params
        inputs = ", ".join(str(params[i]) for i in self.inputs)
        outs = ", ".join(str(params[i]) for i in self.outputs)
        return f"{self.sig.name}({inputs})" + (f" -> {outs}" if outs else "")


# ----------------------------------------------------------------------------- kinds of arrays
def maker(inputs: Sequence[Any]) -> Make:
    """What makes zeroed arrays of the kind of the first array among `inputs`.

    NumPy, gputune and torch arrays are made as such. Any other library gets NumPy's memory
    through its `from_dlpack`, where it has the array API; else NumPy arrays come back.
    """
    torch = sys.modules.get("torch")
    for x in inputs:
        if isinstance(x, np.ndarray):
            return zeros
        if isinstance(x, NDArray):
            device = x.device
            return lambda shape, dtype: NDArray(zeros(shape, dtype), device)
        if torch is not None and isinstance(x, torch.Tensor):
            return partial(_torch_zeros, x.device)
        if type(x).__module__.split(".")[0] == "cupy" and "cupy" in sys.modules:
            return _cupy_zeros
        namespace = getattr(x, "__array_namespace__", None)
        if namespace is not None and hasattr(namespace(), "from_dlpack"):
            # An immutable array cannot be written: the kernel writes memory that it then wraps.
            return Wrapped(namespace().from_dlpack)
    return zeros


class Wrapped:
    """Makes NumPy arrays that `finish` hands to another library when the kernel has run."""

    def __init__(self, wrap: Callable[[Any], Any]) -> None:
        self.wrap = wrap

    def __call__(self, shape: tuple[int, ...], dtype: str) -> Foreign:
        """A zeroed array that will be the other library's."""
        return Foreign(zeros(shape, dtype), self.wrap)


class Foreign:
    """A NumPy array that will be another library's array: see `finish`."""

    def __init__(self, data: np.ndarray[Any, Any], wrap: Callable[[Any], Any]) -> None:
        self.data = data
        self.wrap = wrap

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self.data.__array_interface__


def finish(result: Any) -> Any:
    """What a call returns, every array as the caller's library has it."""
    if type(result) is tuple:
        return tuple(map(finish, result))
    return result.wrap(result.data) if type(result) is Foreign else result


def zeros(shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """A zeroed NumPy array whose data lies at a 64-byte boundary: vector stores like that."""
    kind = dtypes.numpy_dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    return np.ndarray(shape, kind, raw, -int(raw.__array_interface__["data"][0]) % ALIGNMENT)


def _cupy_zeros(shape: tuple[int, ...], dtype: str) -> Any:
    bits = {"float8_e4m3": "uint8", "float8_e5m2": "uint8"}  # CuPy has no such dtypes
    return sys.modules["cupy"].zeros(shape, dtypes.numpy_dtype(bits.get(dtype, dtype)))


def _torch_zeros(device: Any, shape: tuple[int, ...], dtype: str) -> Any:
    torch = sys.modules["torch"]
    name = {"float8_e4m3": "float8_e4m3fn"}.get(dtype, dtype)
    kind = getattr(torch, name, None)
    if kind is None:
        raise RunError(f"torch has no dtype {dtype}", hint="pass out= or NumPy arrays")
    return torch.zeros(shape, dtype=kind, device=device)


def random_inputs(convention: Convention, seed: int = 0) -> list[Any]:
    """Random NumPy arrays and numbers for the inputs of a kernel whose sizes are all known."""
    from .runtime.operations import parse_argument, random_values

    rng = np.random.default_rng(seed)
    described = concrete_arguments(convention.sig)
    out: list[Any] = []
    for i in convention.inputs:
        argument = replace(parse_argument(described[i], i), written=False)
        if argument.shape is None:
            out.append(random_values(rng, argument, 1)[0].item())
            continue
        array = zeros(argument.shape, argument.dtype)
        array.reshape(-1)[...] = random_values(rng, argument, array.size)
        out.append(array)
    return out
