"""In what ways can a loop be cut into n tiles? What the primitives that sample tiles may draw.

Three rules give lists of n factors, outermost first, for an extent:

- `Perfect`: the product is the extent;
- `Partitioned`: so it is, and the inner part of the list is a multiple of a number;
- `Covering`: the product is the extent or up to a quarter more.

Each says which lists are legal, draws one or many at random, and lists all of them as a table where
there are not too many. All answers are lists or arrays of integers; an extent may be a `Dim`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

UNLIMITED = 2**62
"""No factor is above this."""
TABLE_LIMIT = 200_000
"""Tilings of one extent that are put in a table; more than that are drawn one by one."""
_MANY = 16  # tilings of a kind (dividing the extent, or not): more do not make it likelier
_TRIES = 64  # attempts to draw a covering that does not waste too much, before a perfect one


def innermost_limit(max_innermost_factor: int) -> int:
    """What the last factor is at most; -1 is MetaSchedule's word for no limit."""
    return UNLIMITED if max_innermost_factor == -1 else max_innermost_factor


@lru_cache(maxsize=4096)
def divisors(n: int) -> tuple[int, ...]:
    """The divisors of n, ascending."""
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return tuple(sorted({*small, *(n // d for d in small)}))


@lru_cache(maxsize=4096)
def primes(n: int) -> tuple[int, ...]:
    """The prime factors of n, ascending, each once."""
    out = []
    p = 2
    while p * p <= n:
        if n % p == 0:
            out.append(p)
            while n % p == 0:
                n //= p
        p += 1
    if n > 1:
        out.append(n)
    return tuple(out)


@lru_cache(maxsize=65536)
def count_tilings(extent: int, n: int) -> int:
    """In how many ways is `extent` an ordered product of n factors?"""
    if n <= 1:
        return 1 if n == 1 or extent == 1 else 0
    return sum(count_tilings(extent // d, n - 1) for d in divisors(extent))


@lru_cache(maxsize=4096)
def _choices(extent: int, n: int, last: int | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Candidates for the last of n factors (at most `last`), and how many tilings each leaves."""
    ds = tuple(d for d in divisors(extent) if last is None or d <= last)
    return ds, tuple(count_tilings(extent // d, n - 1) for d in ds)


def draw_tiling(
    rng: random.Random, extent: int, n: int, max_innermost_factor: int | None
) -> list[int]:
    """n factors with product `extent` and the last at most `max_innermost_factor`, each such list
    with the same probability."""
    out: list[int] = []
    limit = max_innermost_factor
    while n > 1:
        ds, weights = _choices(extent, n, limit)
        d = rng.choices(ds, weights)[0]
        out.append(d)
        extent //= d
        n, limit = n - 1, None
    out.append(extent)
    # the loop drew the last factor first, then the one before it, ...
    return out[::-1]


@lru_cache(maxsize=256)
def tilings(extent: int, n: int, limit: int) -> IntArray | None:
    """All lists of n factors of `extent` whose last is at most `limit`, as a table (tilings, n);
    None if there are too many.

    Example:
        >>> tilings(4, 2, 2).tolist()
        [[4, 1], [2, 2]]
    """
    if count_tilings(extent, n) > TABLE_LIMIT:
        return None
    if n == 1:
        return np.array([[extent]] if extent <= limit else np.empty((0, 1)), np.int64)
    parts = []
    for d in divisors(extent):
        if d > limit:
            break
        head = tilings(extent // d, n - 1, extent)
        assert head is not None  # fewer than for n
        parts.append(np.concatenate([head, np.full((len(head), 1), d)], axis=1))
    return np.concatenate(parts)


# ----------------------------------------------------------------------------- coverings
def most_covered(extent: int) -> int:
    """How many iterations tiles of a loop may have in all: a quarter more than the loop has.

    Example:
        >>> most_covered(1000), most_covered(3)
        (1250, 3)
    """
    return extent + extent // 4


@lru_cache(maxsize=4096)
def nice_sizes(extent: int) -> tuple[int, ...]:
    """The factors that a covering of `extent` is drawn from, ascending: its divisors, all numbers
    up to 16 (rows of a register tile), powers of two and three times those, multiples of 16 up to
    128 (vectors).

    Example:
        >>> nice_sizes(22)
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 22, 24)
    """
    most = most_covered(extent)
    powers = [m << k for m in (1, 3) for k in range(most.bit_length())]
    every = {*divisors(extent), *range(1, 17), *powers, *range(16, 129, 16)}
    return tuple(sorted(x for x in every if x <= most))


@dataclass(frozen=True, slots=True, eq=False)
class Coverings:
    """Coverings of an extent.

    Attributes:
        table: (coverings, n); those that divide the extent first, the others by their last factor.
        starts: where those with the next last factor begin, and the length of the table; the first
            is how many divide.
    """

    table: IntArray
    starts: IntArray

    @property
    def share(self) -> float:
        """How many of the draws should divide the extent."""
        perfect = int(self.starts[0])
        return _share(perfect, len(self.table) - perfect)


@lru_cache(maxsize=256)
def coverings(extent: int, n: int, limit: int) -> Coverings | None:
    """The coverings of `extent` by n factors that are drawn: the inner ones nice sizes, the last at
    most `limit`, none with an outer loop that ends in empty iterations. None if there are too many.

    Example:
        >>> found = coverings(10, 2, 4)
        >>> found.table.tolist(), found.starts.tolist()
        ([[10, 1], [5, 2], [4, 3], [3, 4]], [2, 3, 4])
    """
    if n == 1:
        only = np.array([[extent]] if extent <= limit else np.empty((0, 1)), np.int64)
        return Coverings(only, np.array([len(only)]))
    sizes = np.array(nice_sizes(extent), np.int64)
    most = most_covered(extent)
    tiles = sizes[sizes <= limit][:, None]
    inner = tiles[:, 0]
    for _ in range(n - 2):
        product = inner[:, None] * sizes
        a, b = np.nonzero(product <= most)
        if len(a) > TABLE_LIMIT:
            return None
        tiles = np.concatenate([sizes[b][:, None], tiles[a]], axis=1)
        inner = product[a, b]
    outer = -(-extent // inner)
    table = np.concatenate([outer[:, None], tiles], axis=1)
    covered = outer * inner
    perfect = table[covered == extent]
    others = table[(covered > extent) & (covered <= most) & ~_runs_empty(table, extent)]
    others = others[np.argsort(others[:, -1], kind="stable")]
    _, first = np.unique(others[:, -1], return_index=True)
    starts = len(perfect) + np.append(first, len(others))
    return Coverings(np.concatenate([perfect, others]), starts)


def _runs_empty(table: IntArray, extent: int) -> Bools:
    """In which coverings of inner factors alone (the first is 1) does a loop but the innermost have
    whole iterations past the extent?"""
    empty = np.zeros(len(table), bool)
    inner = table[:, -1]
    for k in range(table.shape[1] - 2, 0, -1):
        beyond = (table[:, k] - 1) * inner >= extent
        inner = inner * table[:, k]
        empty |= beyond & (table[:, :k] == 1).all(axis=1)
    return empty


def _share(perfect: int, others: int) -> float:
    """How many of the coverings that are drawn should divide the extent: half, or fewer where only
    a few do (a prime extent), or more where only a few do not (a small one)."""
    perfect, others = min(perfect, _MANY), min(others, _MANY)
    return perfect / (perfect + others)


def _draw_covering(rng: random.Random, extent: int, n: int, limit: int) -> list[int]:
    """A covering of an extent that has too many to list, each inner factor drawn by itself."""
    if rng.random() < _share(count_tilings(extent, n), _MANY):
        return draw_tiling(rng, extent, n, limit)
    sizes, most = nice_sizes(extent), most_covered(extent)
    for _ in range(_TRIES):
        tiles: list[int] = []
        inner, room = 1, limit
        for _ in range(n - 1):
            tiles.append(rng.choice([x for x in sizes if x <= room]))
            inner *= tiles[-1]
            room = most // inner
        outer = -(-extent // inner)
        if outer * inner <= most:
            return [outer, *tiles[::-1]]
    return draw_tiling(rng, extent, n, limit)


# ----------------------------------------------------------------------------- rules
@dataclass(frozen=True, slots=True)
class Perfect:
    """n factors whose product is the extent, the last at most `limit`."""

    n: int
    limit: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", innermost_limit(self.limit))

    def table(self, extent: int) -> IntArray | None:
        """All legal lists, (lists, n); None if there are too many."""
        return tilings(extent, self.n, self.limit)

    def draw(self, rng: random.Random, extent: int) -> list[int]:
        """One of the legal lists, each with the same probability."""
        return draw_tiling(rng, extent, self.n, self.limit)

    def draw_many(self, rng: np.random.Generator, extent: int, count: int) -> IntArray:
        """`count` of them, (count, n)."""
        return _pick(self, rng, extent, count)

    def fault(self, tiles: Sequence[int], extent: int) -> str:
        """Why n positive factors are not legal; "" if they are."""
        product = _product(tiles)
        if product != extent:
            return f"its product is {int(product)}, not the extent {int(extent)}"
        if tiles[-1] > self.limit:
            return f"its last factor is above max_innermost_factor {self.limit}"
        return ""

    def holds(self, tiles: IntArray, extent: IntArray | int) -> Bools:
        """Which rows of positive factors are legal?"""
        good: Bools = (_products(tiles) == extent) & (tiles[:, -1] <= self.limit)
        return good


@dataclass(frozen=True, slots=True)
class Partitioned:
    """n factors whose product is the extent, those from `pos` on with a product that is a multiple
    of `factor`; where the extent is no multiple of it, only (1, ..., 1, extent)."""

    n: int
    pos: int
    factor: int

    @property
    def limit(self) -> int:
        """There is none for the last factor."""
        return UNLIMITED

    def table(self, extent: int) -> IntArray | None:
        """All legal lists, (lists, n); None if there are too many."""
        table = tilings(extent, self.n, self.limit)
        return None if table is None else table[self.holds(table, extent)]

    def draw(self, rng: random.Random, extent: int) -> list[int]:
        """One of the legal lists, each with the same probability."""
        if extent % self.factor:
            return [1] * (self.n - 1) + [extent]
        inner = [q for q in divisors(extent) if q % self.factor == 0]
        ways = [
            count_tilings(extent // q, self.pos) * count_tilings(q, self.n - self.pos)
            for q in inner
        ]
        (q,) = rng.choices(inner, ways)
        outer = draw_tiling(rng, extent // q, self.pos, None) if self.pos else []
        return outer + draw_tiling(rng, q, self.n - self.pos, None)

    def draw_many(self, rng: np.random.Generator, extent: int, count: int) -> IntArray:
        """`count` of them, (count, n)."""
        return _pick(self, rng, extent, count)

    def fault(self, tiles: Sequence[int], extent: int) -> str:
        """Why n positive factors are not legal; "" if they are."""
        product, inner = _product(tiles), _product(tiles[self.pos :])
        if product != extent:
            return f"its product is {int(product)}, not the extent {int(extent)}"
        if extent % self.factor == 0:
            if inner % self.factor != 0:
                return (
                    f"the product {int(inner)} of the factors from {self.pos} on is no multiple "
                    f"of {self.factor}"
                )
        elif tiles[-1] != extent:
            return (
                f"the extent {int(extent)} is no multiple of {self.factor}, so only "
                f"{[1] * (self.n - 1) + [int(extent)]} is"
            )
        return ""

    def holds(self, tiles: IntArray, extent: IntArray | int) -> Bools:
        """Which rows of positive factors are legal?"""
        inner = _products(tiles[:, self.pos :])
        good: Bools = np.where(
            np.remainder(extent, self.factor) == 0,
            inner % self.factor == 0,
            tiles[:, -1] == extent,
        )
        good &= _products(tiles) == extent
        return good


@dataclass(frozen=True, slots=True)
class Covering:
    """n factors whose product is the extent or up to a quarter more: the first is the extent
    divided by the others, rounded up; the last is at most `limit`."""

    n: int
    limit: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", innermost_limit(self.limit))

    def table(self, extent: int) -> IntArray | None:
        """All lists that are drawn, (lists, n); None if there are too many."""
        found = coverings(extent, self.n, self.limit)
        return None if found is None else found.table

    def draw(self, rng: random.Random, extent: int) -> list[int]:
        """One of these lists. Half of the draws divide the extent (fewer where only a few lists do,
        more where only a few do not), each of these lists as likely. Among the others each last
        factor (the vector) is as likely, and then each list with it."""
        found = coverings(extent, self.n, self.limit)
        if found is None:
            return _draw_covering(rng, extent, self.n, self.limit)
        table, starts = found.table, found.starts
        if rng.random() < found.share:
            k = rng.randrange(int(starts[0]))
        else:
            group = rng.randrange(len(starts) - 1)
            k = rng.randrange(int(starts[group]), int(starts[group + 1]))
        row: list[int] = table[k].tolist()
        return row

    def draw_many(self, rng: np.random.Generator, extent: int, count: int) -> IntArray:
        """`count` of them, (count, n)."""
        found = coverings(extent, self.n, self.limit)
        if found is None or len(found.table) == 0:
            return _pick(self, rng, extent, count)
        table, starts = found.table, found.starts
        u = rng.random((3, count))
        low, high = np.zeros(count, np.int64), np.full(count, starts[0])
        if found.share < 1:
            group = (u[1] * (len(starts) - 1)).astype(np.int64)
            divides = u[0] < found.share
            low = np.where(divides, 0, starts[group])
            high = np.where(divides, starts[0], starts[group + 1])
        rows: IntArray = table[low + (u[2] * (high - low)).astype(np.int64)]
        return rows

    def fault(self, tiles: Sequence[int], extent: int) -> str:
        """Why n positive factors are not legal; "" if they are."""
        inner = _product(tiles[1:])
        product = inner * tiles[0]
        if product < extent or product - inner >= extent:
            outer = -(-int(extent) // int(inner))
            return (
                f"its first factor is {int(tiles[0])}, not {outer}, which is {int(extent)} / "
                f"{int(inner)} rounded up"
            )
        if product > most_covered(extent):
            return (
                f"its product {int(product)} is more than a quarter above the extent {int(extent)}"
            )
        if tiles[-1] > self.limit:
            return f"its last factor is above max_innermost_factor {self.limit}"
        return ""

    def holds(self, tiles: IntArray, extent: IntArray | int) -> Bools:
        """Which rows of positive factors are legal?"""
        inner = _products(tiles[:, 1:])
        product = inner * tiles[:, 0]
        good: Bools = (product >= extent) & (product - inner < extent)
        good &= (product <= extent + extent // 4) & (tiles[:, -1] <= self.limit)
        return good


Rule: TypeAlias = Perfect | Partitioned | Covering

RULES: dict[str, type[Perfect] | type[Partitioned] | type[Covering]] = {
    "SamplePerfectTile": Perfect,
    "SamplePartitionedTile": Partitioned,
    "SampleTile": Covering,
}
"""By instruction kind; a rule takes the attributes of the instruction, of which n is the first."""


def covering_primes(extent: int) -> tuple[int, ...]:
    """The prime factors that are moved between the factors of a covering."""
    return tuple(sorted({2, 3, 5, 7, *primes(extent)}))


def near(rule: Rule, tiles: Sequence[int], extent: int) -> list[list[int]]:
    """The legal lists that differ a little from one: a prime factor moved from one place to
    another, or (in a covering) an inner factor of the next nice size, larger or smaller.

    Example:
        >>> near(Perfect(2, 16), [4, 8], 32)
        [[2, 16], [8, 4]]
        >>> near(Covering(2, 16), [4, 8], 32)
        [[2, 16], [8, 4], [5, 7], [4, 9]]
    """
    covers = type(rule) is Covering
    found: dict[tuple[int, ...], None] = {}
    for p in covering_primes(extent) if covers else primes(extent):
        for a in range(rule.n):
            for b in range(rule.n):
                # the first factor of a covering follows from the others: anything is taken from it
                if a != b and (tiles[a] % p == 0 or (covers and a == 0)):
                    other = list(tiles)
                    other[a] //= p
                    other[b] *= p
                    found[tuple(other)] = None
    if covers:
        sizes = nice_sizes(extent)
        for k in range(1, rule.n):
            for x in [x for x in sizes if x < tiles[k]][-1:] + [x for x in sizes if x > tiles[k]][
                :1
            ]:
                found[(*tiles[:k], x, *tiles[k + 1 :])] = None
        found = {(-(-extent // math.prod(t[1:])), *t[1:]): None for t in found}
    found.pop(tuple(tiles), None)
    return [list(t) for t in found if not rule.fault(t, extent)]


def _pick(rule: Rule, rng: np.random.Generator, extent: int, count: int) -> IntArray:
    """Rows of a rule's table; drawn one by one where it has none."""
    table = rule.table(extent)
    if table is not None:
        if len(table) == 0:  # one factor that is above the limit: replay refuses it
            return np.full((count, rule.n), extent, np.int64)
        return table[rng.integers(0, len(table), count)]
    draw = random.Random(int(rng.integers(2**31)))
    return np.array([rule.draw(draw, extent) for _ in range(count)], np.int64)


def _product(tiles: Sequence[int]) -> int:
    """As `math.prod`, but a Dim stays one."""
    product = 1
    for x in tiles:
        product = x * product
    return product


def _products(tiles: IntArray) -> IntArray:
    """The product of each row (a short one: np.prod takes three times as long)."""
    if tiles.shape[1] == 0:
        return np.ones(len(tiles), np.int64)
    product = tiles[:, 0]
    for k in range(1, tiles.shape[1]):
        product = product * tiles[:, k]
    return product
