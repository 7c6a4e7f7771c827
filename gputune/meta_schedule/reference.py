"""What are the right results, if not those of the unscheduled program? A user's function says.

It runs in this process, on NumPy arrays: workers get numbers, never code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..errors import UserError
from ..ir import dtypes
from ..ir.nodes import PrimFunc
from ..ir.roles import roles
from ..runtime import operations
from ..runtime.operations import Argument, Held, parse_argument

Array: TypeAlias = np.ndarray[Any, Any]

_KEPT_BYTES = 1 << 28  # of results for inputs that may come again


class Reference:
    """A function that gives the right results of a program.

    Args:
        func: the program, unscheduled.
        function: is given the program's inputs (arrays that it updates in place among them) as
            NumPy arrays and numbers, in the order of the parameters; it returns the output, a tuple
            of all that the program writes, or a dict of these by name.

    Attributes:
        seconds: what its last call took.

    Example:
        >>> Reference(matmul, lambda a, b: a @ b)                      # doctest: +SKIP
    """

    def __init__(self, func: PrimFunc, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise UserError(
                f"reference is a function of the inputs, found {function!r:.60}",
                hint="reference=lambda a, b: a @ b",
                code="reference",
            )
        self.name = func.name
        self.function = function
        self.seconds = 0.0
        self._roles = roles(func)
        self._kept: dict[tuple[str, int], tuple[Array, ...]] = {}

    def expected(
        self, arguments: Sequence[Mapping[str, Any]], seed: int
    ) -> tuple[list[int], tuple[Array, ...]]:
        """The right contents of what the program writes, for the inputs that a worker makes of
        these descriptions and this seed.

        Returns:
            The positions of the arguments that are written, and the array for each.

        Raises:
            UserError: the function raised, or gave something else than all that is written.
        """
        described = [parse_argument(s, i) for i, s in enumerate(arguments)]
        at = [i for i, r in enumerate(self._roles) if r != "in"]
        key = (repr(list(arguments)), seed)
        found = self._kept.get(key)
        if found is None:
            held = operations.arguments({"arguments": list(arguments)}, seed)
            inputs = [_input(a, h) for a, h, r in zip(described, held, self._roles) if r != "out"]
            begun = time.perf_counter()
            try:
                given = self.function(*inputs)
            except Exception as e:
                raise UserError(
                    f"{self.name}: the reference raised {type(e).__name__}: {e}", code="reference"
                ) from e
            self.seconds = time.perf_counter() - begun
            found = self._fitting(given, [described[i] for i in at])
            kept = sum(x.nbytes for arrays in self._kept.values() for x in arrays)
            if kept + sum(x.nbytes for x in found) > _KEPT_BYTES:
                self._kept.clear()
            self._kept[key] = found
        return at, found

    def _fitting(self, given: Any, written: Sequence[Argument]) -> tuple[Array, ...]:
        names = [a.name for a in written]
        values: list[Any]
        if isinstance(given, Mapping):
            if set(given) != set(names):
                gave = ", ".join(sorted(map(str, given))) or "nothing"
                raise self._mistaken(f"gave {gave}", names)
            values = [given[n] for n in names]
        else:
            values = list(given) if isinstance(given, tuple | list) else [given]
            if len(values) != len(names):
                raise self._mistaken(f"gave {len(values)} results", names)
        return tuple([self._as(a, x) for a, x in zip(written, values)])

    def _as(self, a: Argument, x: Any) -> Array:
        array, kind = np.asarray(x), dtypes.numpy_dtype(a.dtype)
        if array.shape != a.shape:
            raise self._mistaken(
                f"gave an array of shape {array.shape} for {a.name}, whose shape is {a.shape}", []
            )
        try:
            floats = dtypes.is_float(dtypes.from_numpy(array.dtype)) == dtypes.is_float(a.dtype)
        except (ValueError, TypeError, KeyError):
            floats = False
        if not floats:
            raise self._mistaken(
                f"gave an array of {array.dtype} for {a.name}, which holds {a.dtype}", []
            )
        return np.ascontiguousarray(array.astype(kind))

    def _mistaken(self, what: str, names: Sequence[str]) -> UserError:
        wanted = f"; the program writes {', '.join(names)}" if names else ""
        return UserError(
            f"{self.name}: the reference {what}{wanted}",
            hint="it takes the inputs and returns the output, a tuple of all, or a dict by name",
            code="reference",
        )


def _input(a: Argument, held: int | Held) -> Any:
    """What the function is given for an argument: a copy, so that it may do with it as it likes."""
    if isinstance(held, Held):
        return np.array(held.array)
    raw = held.to_bytes(8, "little")
    return np.frombuffer(raw, dtypes.numpy_dtype(a.dtype), 1)[0]
