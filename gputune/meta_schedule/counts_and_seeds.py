"""How many processors, which seeds, which digest? MetaSchedule's `utils`."""

from __future__ import annotations

import os
import random

from ..errors import UserError
from ..ir.equal import structural_hash
from ..ir.nodes import IRModule, PrimFunc
from ..target import host as machine


def cpu_count(logical: bool = True) -> int:
    """The processors that this process may use.

    Args:
        logical: count hyper-threads; False: physical cores, at most what a container allows.
    """
    if not logical:
        return machine.usable_cores()
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def fork_seed(seed: int | None, n: int) -> list[int]:
    """Seeds for `n` parts, from 1 to 2**31 - 1: the same for the same seed.

    Args:
        seed: None or -1 draws one.
        n: how many.

    Raises:
        UserError: `n` is negative, or `seed` is no seed.

    Example:
        >>> fork_seed(7, 2) == fork_seed(7, 3)[:2]
        True
    """
    if type(n) is not int or n < 0:
        raise UserError(f"fork_seed: n is a count from 0, found {n!r}", code="fork-seed")
    from .tune_context import check_seed

    rng = random.Random(check_seed(seed))
    return [rng.randint(1, 2**31 - 1) for _ in range(n)]


def shash2hex(mod: IRModule | PrimFunc) -> str:
    """The structural hash of a program in hexadecimal digits (32 of them)."""
    return structural_hash(mod)
