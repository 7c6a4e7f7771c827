"""An int that notes every comparison made on it, as `schedule.dim.Dim` does."""

from __future__ import annotations

import operator

LOG: list[tuple[str, int, int]] = []


class Noted(int):
    """Arithmetic gives Noted; comparisons are put in LOG."""

    __hash__ = int.__hash__

    def __neg__(self):
        return Noted(-int(self))


def _arithmetic(name):
    f = getattr(operator, name)
    setattr(Noted, f"__{name}__", lambda a, b: Noted(f(int(a), int(b))))
    setattr(Noted, f"__r{name}__", lambda a, b: Noted(f(int(b), int(a))))


def _comparison(name):
    f = getattr(operator, name)

    def compare(a, b):
        LOG.append((name, int(a), b if type(b) is int else -1))  # -1: not with a plain number
        return f(int(a), int(b))

    setattr(Noted, f"__{name}__", compare)


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    _arithmetic(_name)
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _comparison(_name)


def compared_with_one() -> bool:
    """Has anything asked whether a sampled value is 1 (or more than 1)?"""
    return any(b == 1 and name in ("eq", "ne", "gt", "le") for name, _, b in LOG)
