"""What is an operator of the library? A script with sizes, a NumPy reference and arguments.

A `Kernel` is a value: it holds a factory that writes the script for given sizes and dtypes, and
what a test, a benchmark or a tuner needs to know about it. Everything about buffers (names, shapes,
dtypes) is read from the program that the factory makes, so it is said once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gputune.errors import UserError
from gputune.ir import dtypes
from gputune.ir.build import const_int
from gputune.ir.nodes import PrimFunc

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = Mapping[str, int]

FLOATS = ("float64", "float32", "float16", "bfloat16")
NUMBERS = (*FLOATS, "int8", "uint8", "int16", "int32", "int64")
PRODUCTS = (*NUMBERS, "float8_e4m3", "float8_e5m2")

_ACCUMULATORS = {
    "float16": "float32",
    "bfloat16": "float32",
    "float8_e4m3": "float32",
    "float8_e5m2": "float32",
    "int8": "int32",
    "uint8": "int32",
    "int16": "int32",
}
_SMALL = 3  # exact arguments lie in [-3, 3]: products and long sums stay exact in float32


def frozen(shape: Shape) -> Shape:
    """A read-only copy."""
    return MappingProxyType(dict(shape))


@dataclass(frozen=True)
class Kernel:
    """One operator.

    Attributes:
        name: what the command line and `get` call it; also the program's global symbol.
        make: writes the program; takes the sizes by keyword, and `dtype`, `acc` and `out`.
        reference: plain NumPy, dtype-generic; takes the input arrays in parameter order and the
            sizes by keyword, gives the outputs as a tuple.
        outputs: names of the buffers that the program writes; all others are inputs.
        shapes: the default size of every parameter, in order.
        check_shapes: small sizes for tests; 1, 33, 1000 and a prime are among them.
        flops: operations of one run at given sizes; agrees with `ir.flops.estimate_flops`.
        dtypes: element types that the operator is defined for.
        accumulates: computes in a wider type than its inputs; only then may the caller choose
            `accum` and `out`.
        exact: only + - * min max and comparisons, so on small integers every order of evaluation
            gives one result.
        check: refuses sizes that do not fit together: gives a message, or None.
        zeros: parameters that may be zero; all others are at least one.
    """

    name: str
    make: Callable[..., PrimFunc]
    reference: Callable[..., tuple[Array, ...]]
    outputs: tuple[str, ...]
    shapes: Shape
    check_shapes: tuple[Shape, ...]
    flops: Callable[..., int]
    dtypes: tuple[str, ...] = NUMBERS
    accumulates: bool = True
    exact: bool = True
    check: Callable[..., str | None] | None = None
    zeros: tuple[str, ...] = ()

    def shape(self, given: Shape | None = None) -> dict[str, int]:
        """The whole set of sizes: `given` over the defaults.

        Raises:
            UserError: an unknown parameter, a size out of range, or sizes that do not fit together.
        """
        given = given or {}
        for key, value in given.items():
            if key not in self.shapes:
                known = ", ".join(self.shapes)
                raise UserError(
                    f"kernel {self.name} has no parameter {key!r}",
                    hint=_did_you_mean(key, self.shapes) or f"it has: {known}",
                )
            least = 0 if key in self.zeros else 1
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
                raise UserError(
                    f"{key} of kernel {self.name} is {value!r}",
                    hint=f"give an integer of at least {least}",
                )
        shape = {**self.shapes, **{k: int(v) for k, v in given.items()}}
        problem = self.check(**shape) if self.check else None
        if problem:
            raise UserError(f"kernel {self.name}: {problem}")
        return shape

    def build(
        self,
        shape: Shape | None = None,
        dtype: str = "float32",
        *,
        accum: str | None = None,
        out: str | None = None,
        **sizes: int,
    ) -> PrimFunc:
        """The program for given sizes (default: `shapes`) and dtypes.

        Args:
            shape: sizes by parameter; they may be given by keyword, too.
            dtype: of the inputs.
            accum: what sums and intermediate values are computed in; by default float32 for
                narrower floats, int32 for narrower integers, otherwise `dtype`.
            out: of the outputs; by default `dtype`, but `accum` for integers and float8, whose
                sums do not fit their own type.

        Raises:
            UserError: a parameter, size or dtype that the kernel does not take.

        Example:
            >>> get("matmul").build(n=33, dtype="float16").buffers[2].dtype
            'float16'
        """
        numbers = self.shape({**(shape or {}), **sizes})
        acc, result = self._types(dtype, accum, out)
        func = self.make(**numbers, dtype=dtype, acc=acc, out=result)
        return func.with_attr("global_symbol", self.name).with_attr("tir.noalias", True)

    def arguments(
        self,
        shape: Shape | None = None,
        dtype: str = "float32",
        seed: int = 0,
        *,
        exact: bool = False,
        accum: str | None = None,
        out: str | None = None,
    ) -> list[Array]:
        """One array for each parameter of the program, in order.

        Inputs are random: standard normal floats and integers in [-3, 3] (uint8: [0, 3]); with
        `exact`, floats hold such integers too, so that sums are exact. Outputs are poisoned (NaN,
        or the greatest integer), so that an element that is never written shows.
        """
        rng = np.random.default_rng(seed)
        func = self.build(shape, dtype, accum=accum, out=out)
        arrays = []
        for buffer in func.buffers:
            size = tuple(const_int(n) or 0 for n in buffer.shape)
            if buffer.name in self.outputs:
                poison = np.nan if dtypes.is_float(buffer.dtype) else dtypes.max_value(buffer.dtype)
                arrays.append(np.full(size, poison, dtypes.numpy_dtype(buffer.dtype)))
            else:
                arrays.append(_random(rng, size, buffer.dtype, exact))
        return arrays

    def expected(
        self, arguments: Iterable[Array], shape: Shape | None = None, dtype: str = "float32"
    ) -> tuple[Array, ...]:
        """What the outputs must be for `arguments` (as `arguments()` gives them), computed in
        float64 or int64 and rounded once to the dtypes of the output arrays."""
        func = self.build(shape, dtype)
        arrays = list(arguments)
        if len(arrays) != len(func.buffers):
            raise UserError(
                f"kernel {self.name} takes {len(func.buffers)} arrays, got {len(arrays)}"
            )
        outputs = [a for b, a in zip(func.buffers, arrays) if b.name in self.outputs]
        inputs = [_wide(a) for b, a in zip(func.buffers, arrays) if b.name not in self.outputs]
        results = self.reference(*inputs, **self.shape(shape))
        return tuple(r.astype(o.dtype) for r, o in zip(results, outputs, strict=True))

    def with_shapes(self, name: str, **shape: int) -> Kernel:
        """This operator under another name, with other default sizes."""
        return replace(self, name=name, shapes=frozen(self.shape(shape)))

    def _types(self, dtype: str, accum: str | None, out: str | None) -> tuple[str, str]:
        """The accumulator and the output dtype."""
        if dtype not in self.dtypes:
            raise UserError(
                f"kernel {self.name} is not defined for dtype {dtype!r}",
                hint="it takes: " + ", ".join(self.dtypes),
            )
        if not self.accumulates:
            for word, value in (("accum", accum), ("out", out)):
                if value not in (None, dtype):
                    raise UserError(
                        f"kernel {self.name} computes in its own dtype; {word}={value!r} has no "
                        "meaning for it",
                        hint=f"leave {word} out",
                    )
            return dtype, dtype
        acc = accum or _ACCUMULATORS.get(dtype, dtype)
        own = dtype in FLOATS
        result = out or (dtype if own else acc)
        for word, value in (("accum", acc), ("out", result)):
            if value not in NUMBERS or dtypes.is_float(value) != dtypes.is_float(dtype):
                kind = "float" if dtypes.is_float(dtype) else "integer"
                raise UserError(
                    f"kernel {self.name} of {dtype} cannot have {word}={value!r}",
                    hint=f"give a {kind} dtype of: " + ", ".join(NUMBERS),
                )
        return acc, result


def table(*kernels: Kernel) -> Mapping[str, Kernel]:
    """The kernels by name, read-only; ValueError if two have one name."""
    names = [k.name for k in kernels]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise ValueError(f"two kernels are called {', '.join(sorted(twice))}")
    return MappingProxyType(dict(zip(names, kernels)))


def lookup(kernels: Mapping[str, Kernel], name: str) -> Kernel:
    """The kernel called `name`; UserError with the closest names if there is none."""
    try:
        return kernels[name]
    except KeyError:
        raise UserError(
            f"no kernel is called {name!r}",
            hint=_did_you_mean(name, kernels) or "known are: " + ", ".join(kernels),
        ) from None


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(word.lower(), lower, n=3, cutoff=0.5)
    return "did you mean " + " or ".join(lower[c] for c in close) + "?" if close else ""


def _random(rng: np.random.Generator, size: tuple[int, ...], dtype: str, exact: bool) -> Array:
    if dtypes.is_float(dtype) and not exact:
        return rng.standard_normal(size, dtype=np.float32).astype(dtypes.numpy_dtype(dtype))
    low = 0 if dtypes.is_unsigned(dtype) else -_SMALL
    return rng.integers(low, _SMALL + 1, size).astype(dtypes.numpy_dtype(dtype))


def _wide(a: Array) -> Array:
    """`a` in float64 or int64."""
    is_int = np.issubdtype(a.dtype, np.integer)  # ml_dtypes floats are not np.floating
    return a.astype(np.int64 if is_int else np.float64)
