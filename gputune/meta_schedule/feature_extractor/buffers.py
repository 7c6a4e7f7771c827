"""How does a store with its loads use memory? Regions, strides, reuse, lines of each buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ...ir import dtypes, walk
from ...ir.build import const_int
from ...ir.intervals import Interval
from ...ir.nodes import BinOp, Buffer, Expr, IntImm, Var
from .arithmetic import product, slog2
from .nests import Loop, Store
from .reach import reach

ACCESS = ("kRead", "kWrite", "kReadWrite")
REUSE = ("kLoopMultipleRead", "kSerialMultipleReadWrite", "kNoReuse")
_READ, _WRITE, _BOTH = range(3)
_LOOP, _SERIAL, _NONE = range(3)
_PER_BUFFER = 18

History = dict[Var, dict[Buffer, list[int]]]
"""Loop -> buffer -> how many elements each store so far touches in one run of the loop."""


@dataclass(slots=True, eq=False)
class Use:
    """How one buffer is used by a store."""

    buffer: Buffer
    access: int
    places: list[tuple[Expr, ...]]
    numels: list[int] = field(default_factory=list)  # for each loop, outermost first
    shape: list[int] = field(default_factory=list)  # of what is touched in all
    contiguous: int = 1
    least_stride: int = 0
    inner_stride: int = 0
    idle: int = 1  # iterations inside the innermost loop that moves along
    reuse: int = _NONE
    distance: float = 0.0
    distance_bytes: float = 0.0
    count: int = 0

    @property
    def size(self) -> int:
        """Bytes of an element."""
        return dtypes.itemsize(self.buffer.dtype)


def uses_of(store: Store) -> list[Use]:
    """The buffers of a store: the one written first, then those that are read."""
    out = {store.buffer: Use(store.buffer, _WRITE, [store.indices])}
    for load in walk.loads(store.value):
        use = out.setdefault(load.buffer, Use(load.buffer, _READ, []))
        if use.access == _WRITE:
            use.access = _BOTH
        if use.access == _READ:
            use.places.append(load.indices)
    return list(out.values())


def sizes_of(b: Buffer) -> list[int]:
    """The shape of a buffer in memory, padding included; 1 where it is not constant."""
    shape = [const_int(n) or 1 for n in b.shape]
    if b.strides is None:
        return [int(n) for n in shape]
    steps = [const_int(n) or 1 for n in b.strides]
    return [int(n) for n in (*shape[:1], *[a // c for a, c in pairwise(steps)])]


# ----------------------------------------------------------------------------- regions
def measure(store: Store, uses: Sequence[Use], history: History) -> list[int]:
    """Fill in what each loop touches; bytes by loop, outermost first."""
    dom: dict[Var, Interval] = {f.var: (f.least, f.least) for f in store.loops}
    for use in uses:
        use.numels = [0] * len(store.loops)
        use.shape = _touched(use, dom)
    touched = [0] * len(store.loops)
    for k in reversed(range(len(store.loops))):
        f = store.loops[k]
        dom[f.var] = (f.least, f.least + f.extent - 1)
        for use in uses:
            use.shape = _touched(use, dom)
            numel = 1
            for n in use.shape:
                numel *= n
            use.numels[k] = numel
            touched[k] += numel * use.size
            history.setdefault(f.var, {}).setdefault(use.buffer, []).append(numel)
    return touched


def _touched(use: Use, dom: dict[Var, Interval]) -> list[int]:
    out = []
    for k, size in enumerate(use.buffer.shape):
        found = [reach(p[k], dom) for p in use.places]
        low = [a for a, _ in found if a is not None]
        high = [b for _, b in found if b is not None]
        if len(low) == len(high) == len(found):
            out.append(int(max(high) - min(low) + 1))
        else:
            out.append(int(const_int(size) or 1))
    return out


# ----------------------------------------------------------------------------- strides
def set_strides(use: Use, loops: Sequence[Loop]) -> None:
    """Fill in how far apart neighbours in time are."""
    sizes = sizes_of(use.buffer)
    steps = [1] * len(sizes)
    for k in range(len(sizes) - 2, -1, -1):
        steps[k] = steps[k + 1] * sizes[k + 1]
    whole = [n for n, size in zip(use.shape, sizes) if n == size]
    use.contiguous = whole[-1] * use.size if whole else 1
    at = -1
    for k in reversed(range(len(loops))):
        use.least_stride = _stride(use, steps, loops[k].var)
        if use.least_stride:
            at = k
            break
    use.inner_stride = use.least_stride if at == len(loops) - 1 else 0
    use.idle = product(loops[at + 1 :])


def _stride(use: Use, steps: Sequence[int], v: Var) -> int:
    """The least number of elements that an iteration of a loop moves on; 0 if it stays."""
    found: list[int] = []
    for place in use.places:
        for index, step in zip(reversed(place), reversed(steps)):
            c = _Factor(v).of(index)
            if c:
                found.append(abs(c) * step)
                break
    return min(found, default=0)


class _Factor:
    """By how much does an index grow with a variable, going by the way it is written?"""

    def __init__(self, v: Var) -> None:
        self._var = v
        self._met = False
        self._added = False
        self._multiplied = False
        self._value = 0

    def of(self, e: Expr) -> int:
        """The factor; 0 if the variable does not occur."""
        self._go(e)
        if not self._met:
            return 0
        return self._value if self._added or self._multiplied else 1

    def _go(self, e: Expr) -> None:
        if e is self._var:
            self._met = True
            self._value = 2
            return
        for x in walk.expr_children(e):
            self._go(x)
        if type(e) is not BinOp or not self._met:
            return
        if e.op == "*" and not self._added:
            for x in (e.a, e.b):
                if type(x) is IntImm:
                    self._multiplied = True
                    self._value = int(x.value)
                    break
        elif e.op == "+" and not self._multiplied:
            self._added = True
            self._value = 1


# ----------------------------------------------------------------------------- reuse
def set_reuse(use: Use, loops: Sequence[Loop], uses: Sequence[Use], history: History) -> None:
    """Fill in where the same elements are used again: the innermost loop that does not move, or
    that contains another statement that uses them."""
    moving = {v for place in use.places for i in place for v in walk.mentioned(i)}
    for k in reversed(range(len(loops))):
        f = loops[k]
        if f.var not in moving:
            use.reuse = _LOOP
            use.count = f.extent
            use.distance = float(product(loops[k + 1 :]))
            if k == len(loops) - 1:
                use.distance_bytes = float(sum(u.size for u in uses))
            else:
                use.distance_bytes = float(_bytes_below(loops[k + 1], history))
            return
        numels = history[f.var][use.buffer]
        if len(numels) > 1:
            use.reuse = _SERIAL
            use.count = len(numels) - 1
            use.distance = min(numels) / f.extent
            use.distance_bytes = _bytes_below(f, history) / f.extent
            return


def _bytes_below(f: Loop, history: History) -> int:
    return sum(sum(numels) * dtypes.itemsize(b.dtype) for b, numels in history[f.var].items())


# ----------------------------------------------------------------------------- the numbers
def buffer_features(store: Store, uses: Sequence[Use], line: int, most: int) -> list[float]:
    """The features of the `most` buffers that move most lines, then most bytes, in this order;
    zeros where there are fewer."""
    rows = [_Row(use, store.loops, line) for use in uses]
    rows.sort(key=lambda r: (-r.lines, -r.bytes, r.use.buffer.name))
    out = [x for r in rows[:most] for x in r.features()]
    return out + [0.0] * (most * _PER_BUFFER - len(out))


class _Row:
    """What is told of one buffer."""

    def __init__(self, use: Use, loops: Sequence[Loop], line: int) -> None:
        self.use = use
        often = product(loops)
        self.bytes = float(use.size * often)
        self.unique_bytes = self.lines = self.unique_lines = 1.0
        if loops:
            self.unique_bytes = float(use.numels[0] * use.size)
            share = min(1.0, use.least_stride * use.size / line)
            self.lines = max(1.0, often / use.idle * share)
            self.unique_lines = max(1.0, self.unique_bytes / min(line, use.contiguous))

    def features(self) -> list[float]:
        """The 18 numbers."""
        use = self.use
        amounts = (self.bytes, self.unique_bytes, self.lines, self.unique_lines)
        again = use.count if use.count > 0 else 0.5
        return [
            *[float(use.access == k) for k in range(len(ACCESS))],
            *map(slog2, amounts),
            *[float(use.reuse == k) for k in range(len(REUSE))],
            slog2(use.distance),
            slog2(use.distance_bytes),
            slog2(use.count),
            *[slog2(x / again) for x in amounts],
            slog2(use.inner_stride),
        ]
