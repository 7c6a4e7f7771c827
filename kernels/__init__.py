"""Which operators does gputune know by name?

Each is a `Kernel`: a script with its NumPy reference, operation count and sizes.

    >>> from gputune import kernels
    >>> mm = kernels.get("matmul")
    >>> func = mm.build(m=33, n=17, k=5, dtype="float16")
    >>> args = mm.arguments({"m": 33, "n": 17, "k": 5}, "float16")
"""

from __future__ import annotations

from collections.abc import Mapping

from . import (
    attention,
    axis,
    conv,
    conv_variants,
    dense,
    elementwise,
    fused,
    pool,
    reduce,
    rows,
    suite,
)
from .kernel import Kernel, lookup, table

FAMILIES = (
    dense, conv, conv_variants, rows, reduce, axis, attention, pool, elementwise, fused, suite,
)  # fmt: skip

KERNELS: Mapping[str, Kernel] = table(*(k for f in FAMILIES for k in f.KERNELS.values()))
"""Every operator by name, the suite's included."""

SUITE: tuple[str, ...] = tuple(suite.KERNELS)
"""The names of the thirteen operators of the MetaSchedule suite, in its order."""


def get(name: str) -> Kernel:
    """The operator called `name`.

    Raises:
        UserError: there is none; the hint says which names are close.
    """
    return lookup(KERNELS, name)


__all__ = ["FAMILIES", "KERNELS", "SUITE", "Kernel", "get"]
