"""What happens when the threads of a warp access memory at once? Sectors, conflicts, widths.

The addresses of a warp follow from a `Form` and a few integers; candidates share most of them. So
the threads are counted out once for each combination, exactly, and what came out is kept.

    >>> import numpy as np
    >>> form = ("lane", "x")
    >>> params = np.array([[64], [1], [1], [64], [1], [1], [1]])
    >>> warp_access(form, "global", 4, params, np.empty((0, 1)), np.ones(1)).cost
    array([4.])
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .index_spans import Form, Number

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Memory: TypeAlias = Literal["global", "shared"]

WARP = 32
SECTOR = 32  # bytes: what global memory is read and written in
WIDEST = 16  # bytes of one access
PREFIX = 7  # params before those of the form
_FAR = 4096  # elements between the threads, where nothing is known
_FEW = 8  # candidates that are not worth a look into the table
_TABLES, _ENTRIES = 256, 1 << 16  # what is kept
_ODD = np.array([int(x) | 1 for x in np.random.default_rng(7).integers(2**61, 2**62, 64)], np.int64)


@dataclass(frozen=True, slots=True)
class WarpAccess:
    """What one instruction of a warp does, for each candidate.

    Attributes:
        width: elements that a thread accesses at once.
        cost: of global memory, sectors that are touched; of shared memory, passes over the banks.
        ideal: passes over the banks if no two threads were in each other's way; of global memory,
            sectors if threads touched neighbours.
    """

    width: Floats
    cost: Floats
    ideal: Floats


def warp_access(
    form: Form, memory: Memory, size: int, params: Floats | Ints, steps: Floats | Ints, run: Floats
) -> WarpAccess:
    """Count out the accesses of the first warp of a block.

    Args:
        form: the element that a thread accesses.
        memory: which memory that is.
        size: bytes of an element.
        params: (PREFIX + numbers of the form, candidates), see `GpuAccess.params`.
        steps: (dimensions - 1, candidates): distances that must keep a wide access aligned.
        run: neighbouring elements that the thread accesses one after the other anyway; the compiler
            makes wide accesses of them in shared memory.
    """
    most = max(1, WIDEST // size)
    keys = _keys(params, steps, run if memory == "shared" else np.ones_like(run), most)
    out = _known(form, memory, size, keys, len(params), len(steps))
    return WarpAccess(out[0], out[1], out[2])


def _keys(params: Floats | Ints, steps: Floats | Ints, run: Floats, most: int) -> Ints:
    """All that the outcome depends on, as integers, brought to as few combinations as possible."""
    count = params.shape[1]
    out = np.empty((len(params) + len(steps) + 1, count), np.int64)
    out[: len(params)] = params
    np.minimum(out[:6], WARP, out=out[:6])  # threads beyond the first warp do not matter
    np.gcd(out[6], most, out=out[6])  # the widest access that divides the vector
    at = len(params)
    np.gcd(steps.astype(np.int64), most, out=out[at:-1])  # are the rows aligned?
    out[-1] = np.minimum(run, most)
    return out


# ----------------------------------------------------------------------------- the tables
class _Table:
    """What came out before, by combination. A combination is known by a number of 64 bits, so large
    that two of them never share one; each is kept in one of two slots."""

    __slots__ = ("filled", "mask", "names", "values")

    def __init__(self, bits: int = 12) -> None:
        self.mask = (1 << bits) - 1
        self.filled = 0
        self.names = np.zeros(2 << bits, np.int64)
        self.values = np.zeros((2 << bits, 3))

    def find(self, names: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """The slots of some combinations, and which of them are there."""
        at = names & self.mask
        known = self.names[at] == names
        if not known.all():
            other = np.flatnonzero(~known)
            at[other] = self._second(names[other])
            known[other] = self.names[at[other]] == names[other]
        return at, known

    def _second(self, names: Ints) -> Ints:
        out: Ints = (names >> 32 & self.mask) + self.mask + 1
        return out

    def add(self, names: Ints, values: Floats) -> None:
        """Keep more combinations."""
        self.filled += len(names)
        if 4 * self.filled > self.mask or not self._place(names, values):
            kept = np.flatnonzero(self.names)
            old, told = self.names[kept], self.values[kept]
            bits = int(self.mask).bit_length() + 1
            while True:
                self.__init__(bits)  # type: ignore[misc]  # the same table, with more slots
                if self._place(old, told) and self._place(names, values):
                    break
                bits += 1
            self.filled = len(old) + len(names)

    def _place(self, names: Ints, values: Floats) -> bool:
        """Fill free slots; False if there are too few."""
        for k, name in enumerate(names.tolist()):
            one = names[k : k + 1]
            at = next(
                (x for x in (name & self.mask, int(self._second(one)[0])) if not self.names[x]), -1
            )
            if at < 0:
                return False
            self.names[at], self.values[at] = name, values[k]
        return True


_tables: OrderedDict[tuple[Form, Memory, int, int], _Table] = OrderedDict()


def _known(form: Form, memory: Memory, size: int, keys: Ints, params: int, steps: int) -> Floats:
    """The outcome for each column of keys, (3, candidates)."""
    if keys.shape[1] <= _FEW:
        return _count_out(form, memory, size, keys, params, steps)
    key = (form, memory, size, len(keys))
    table = _tables.get(key)
    if table is None or table.filled > _ENTRIES:
        table = _tables[key] = _Table()
        if len(_tables) > _TABLES:
            _tables.popitem(last=False)
    names = _ODD[: len(keys)] @ keys
    names ^= names >> 31 & 0x7FFFFFFF  # the lower bits alone choose the first slot
    names |= 1 << 62  # none is zero
    at, known = table.find(names)
    if not known.all():
        missing = np.flatnonzero(~known)
        new, first = np.unique(names[missing], return_index=True)
        values = _count_out(form, memory, size, keys[:, missing[first]], params, steps)
        table.add(new, values.T)
        at, _ = table.find(names)
    out: Floats = table.values[at].T
    return out


# ----------------------------------------------------------------------------- counting out
def _count_out(
    form: Form, memory: Memory, size: int, keys: Ints, params: int, steps: int
) -> Floats:
    lanes = _lanes(keys)
    numbers = keys[PREFIX:params]
    first = _values(form, lanes, numbers)
    width = np.ones(keys.shape[1], np.int64)
    rows = keys[params : params + steps]
    for w in (16, 8, 4, 2):
        if w * size > WIDEST:
            continue
        vector = keys[6] % w == 0
        fits = vector | (keys[-1] >= w) & (keys[6] == 1)
        fits &= (width == 1) & (first % w == 0).all(axis=0) & (rows % w == 0).all(axis=0)
        if fits.any():
            for k in (1, w - 1):  # do the lanes of a vector follow each other?
                there = _values(form, {**lanes, "v": np.full_like(lanes["v"], k)}, numbers)
                fits &= ~vector | (there == first + k).all(axis=0)
            width[fits] = w
    first = np.broadcast_to(first, (WARP, keys.shape[1]))
    count = _sectors if memory == "global" else _passes
    cost, ideal = count(first * size, width * size)
    return np.stack([width.astype(np.float64), cost, ideal])


def _lanes(keys: Ints) -> dict[str, Ints]:
    """Where each thread of the first warp is, (32, candidates) along each axis. Threads that take
    no part do as another one does, which costs nothing."""
    x, y, z = keys[0], keys[1], keys[2]
    lane = np.minimum(np.arange(WARP)[:, None], x * y * z - 1)
    return {
        "x": np.minimum(lane % x, keys[3] - 1),
        "y": np.minimum(lane // x % y, keys[4] - 1),
        "z": np.minimum(lane // (x * y), keys[5] - 1),
        "v": np.zeros((1, keys.shape[1]), np.int64),
        "far": lane * _FAR,
    }


def _values(f: Form, lanes: dict[str, Ints], numbers: Ints) -> Ints:
    """What a form is for each thread."""

    def number(n: Number) -> Ints | int:
        if n[0] == "is":
            return n[1]
        out: Ints = numbers[n[1] - PREFIX]
        return out

    match f:
        case ("lane", axis):
            return lanes[axis]
        case ("far",):
            return lanes["far"]
        case ("const", n):
            return np.broadcast_to(np.asarray(number(n), np.int64), lanes["v"].shape)
        case ("add", a, b):
            return _values(a, lanes, numbers) + _values(b, lanes, numbers)
        case ("sub", a, b):
            return _values(a, lanes, numbers) - _values(b, lanes, numbers)
        case ("mul", a, n):
            return _values(a, lanes, numbers) * number(n)
        case ("div", a, n):
            return _values(a, lanes, numbers) // np.maximum(number(n), 1)
        case ("mod", a, n):
            return _values(a, lanes, numbers) % np.maximum(number(n), 1)
        case _:
            return np.zeros_like(lanes["v"])


def _sectors(at: Ints, size: Ints) -> tuple[Floats, Floats]:
    """How many sectors do accesses of `size` bytes at these bytes, (32, candidates), touch? And the
    fewest that so many bytes can lie in."""
    ends = np.concatenate([at // SECTOR, (at + size - 1) // SECTOR])
    ends.sort(axis=0)
    found = 1.0 + (ends[1:] != ends[:-1]).sum(axis=0)
    at = np.sort(at, axis=0)
    places = 1 + (at[1:] != at[:-1]).sum(axis=0)
    return found, np.ceil(places * size / SECTOR)


def _passes(at: Ints, size: Ints) -> tuple[Floats, Floats]:
    """How often must the banks of shared memory be asked for accesses of `size` bytes at these
    bytes? Each of the 32 banks gives one word of 4 bytes, to any number of threads; accesses of 8
    and 16 bytes take the threads in halves and quarters."""
    cost = np.empty(at.shape[1])
    words = np.maximum(size // 4, 1)
    for n in (1, 2, 4):
        mine = words == n
        if not mine.any():
            continue
        first = at[:, mine] // 4
        all_words = first[:, None] + np.arange(n)[:, None]
        cost[mine] = _asked(all_words.reshape(n, WARP, -1))
    return cost, words.astype(np.float64)


def _asked(words: Ints) -> Floats:
    """Of groups of 32 words each, (groups, 32, candidates): the words asked of the busiest bank,
    summed over the groups."""
    groups, _, count = words.shape
    words = words - words.min(axis=1, keepdims=True) // WARP * WARP
    keys = np.sort(words % WARP * (1 << 40) + words // WARP, axis=1)
    new = np.ones(keys.shape, bool)
    new[:, 1:] = keys[:, 1:] != keys[:, :-1]
    bank = keys >> 40
    group = np.arange(groups)[:, None, None] * WARP
    at = ((group + bank) * count + np.arange(count))[new]
    busy = np.bincount(at, minlength=groups * WARP * count)
    out: Floats = busy.reshape(groups, WARP, count).max(axis=1).sum(axis=0).astype(np.float64)
    return out
