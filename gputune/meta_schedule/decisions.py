"""What can be decided in a sketch, and how are rows of decisions drawn and varied?

A row holds one candidate: n factors for a `sample_perfect_tile`, an index for a
`sample_categorical`, a location for a `sample_compute_location`. All operations work on whole
matrices of rows and give legal rows: factors multiply to the extent, the innermost one is within
its limit, locations are among the legal ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from random import Random
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..schedule.sampling import count_tilings, divisors, draw_tiling
from ..schedule.trace import Instruction

IntArray: TypeAlias = npt.NDArray[np.int64]

_TABLE_LIMIT = 200_000  # tilings of one extent that are enumerated
_TRIES = 4  # attempts to move a prime factor before a tile is drawn anew


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """n columns from `at`, whose product is the extent of a loop.

    `extent` gives the extent for each row; it is constant unless the loop that is tiled was itself
    made by a sampled split.
    """

    inst: Instruction
    at: int
    n: int
    limit: int
    extent: Callable[[IntArray], IntArray | int]

    @property
    def columns(self) -> slice:
        """The columns of the factors."""
        return slice(self.at, self.at + self.n)


@dataclass(frozen=True, slots=True, eq=False)
class Category:
    """One column from 0 to len(weights) - 1."""

    inst: Instruction
    at: int
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Location:
    """One column: -2 inline, -1 stay, k compute at loop k."""

    inst: Instruction
    at: int


Site: TypeAlias = Tile | Category | Location
LegalLocations: TypeAlias = Callable[[Location, IntArray], Sequence[int]]


@lru_cache(maxsize=256)
def tilings(extent: int, n: int, limit: int) -> IntArray | None:
    """All lists of n factors of `extent` whose last is at most `limit`, as a table (tilings, n);
    None if there are too many.

    Example:
        >>> tilings(4, 2, 2).tolist()
        [[4, 1], [2, 2]]
    """
    if count_tilings(extent, n) > _TABLE_LIMIT:
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


def _primes(n: int) -> tuple[int, ...]:
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


def row_keys(rows: IntArray) -> list[bytes]:
    """A hashable key for each row."""
    data = np.ascontiguousarray(rows, np.int64)
    width = data.shape[1] * 8
    text = data.tobytes()
    return [text[k : k + width] for k in range(0, len(text), width)] if width else [b""] * len(rows)


def distinct(rows: IntArray) -> IntArray:
    """The positions of the first occurrence of each row, ascending."""
    if rows.shape[1] == 0:
        return np.arange(min(1, len(rows)))
    data = np.ascontiguousarray(rows, np.int64)
    view = data.view(np.dtype((np.void, data.shape[1] * 8))).ravel()
    _, first = np.unique(view, return_index=True)
    first.sort()
    return first.astype(np.int64)


_EXPLORED = 4  # rows of a sample whose locations are drawn one after the other, with replays


class Decisions:
    """The rows that a sketch allows.

    Args:
        sites: the decisions, in the order in which they are taken.
        width: the number of columns.
        legal_locations: which values a location may take, given the decisions before it.
    """

    def __init__(self, sites: Sequence[Site], width: int, legal_locations: LegalLocations) -> None:
        self.sites = tuple(sites)
        self.width = width
        self._legal = legal_locations
        self.locations = tuple(s for s in self.sites if type(s) is Location)
        self._known: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._joint = len(self.locations) > 1
        self._where = np.array([s.at for s in self.locations], np.int64)
        self._tuples: dict[tuple[int, ...], None] = {}  # legal locations of all sites together
        weights = [1.0 if type(s) is Tile else 0.5 for s in self.sites]
        self._site_weights = np.array(weights) / sum(weights) if weights else np.empty(0)

    # ------------------------------------------------------------------ drawing
    def sample(self, count: int, rng: np.random.Generator) -> IntArray:
        """`count` rows, tilings uniformly and categories by their probabilities.

        What one location may be depends on those before it, and costs a replay to find out. So
        with several of them a few rows are drawn in order, and the others take their locations
        from what is known to go together.
        """
        if not self._joint or count <= _EXPLORED:
            return self._sample_in_order(count, rng)
        fresh = _EXPLORED if len(self._tuples) < 4 * _EXPLORED else 1
        rows = np.zeros((count, self.width), np.int64)
        rows[:fresh] = self._sample_in_order(fresh, rng)
        rest = np.arange(fresh, count)
        self._place(rows, rest, rng)
        for site in self.sites:
            if type(site) is not Location:
                self._draw(site, rows, rest, rng)
        return rows

    def _sample_in_order(self, count: int, rng: np.random.Generator) -> IntArray:
        rows = np.zeros((count, self.width), np.int64)
        for site in self.sites:
            self._draw(site, rows, np.arange(count), rng)
        if self._joint:
            self._tuples.update(dict.fromkeys(map(tuple, rows[:, self._where].tolist())))
        return rows

    def _place(self, rows: IntArray, at: IntArray, rng: np.random.Generator) -> None:
        """Give the rows at `at` locations that are known to go together."""
        known = np.array(list(self._tuples), np.int64)
        rows[np.ix_(at, self._where)] = known[rng.integers(0, len(known), len(at))]

    def _draw(self, site: Site, rows: IntArray, at: IntArray, rng: np.random.Generator) -> None:
        """Draw one decision anew in the rows at positions `at`."""
        if len(at) == 0:
            return
        if type(site) is Category:
            p = np.array(site.weights)
            rows[at, site.at] = rng.choice(len(p), len(at), p=p / p.sum())
        elif type(site) is Location:
            for group, legal in self._by_location(site, rows, at):
                rows[group, site.at] = rng.choice(np.array(legal), len(group))
        else:
            assert type(site) is Tile
            for group, extent in _by_extent(site, rows, at):
                rows[group, site.columns] = _draw_tiles(extent, site.n, site.limit, len(group), rng)

    def _by_location(
        self, site: Location, rows: IntArray, at: IntArray
    ) -> list[tuple[IntArray, tuple[int, ...]]]:
        """The rows split by what the locations before `site` are, with the legal values."""
        before = [s.at for s in self.locations if s.at < site.at]
        if not before:
            return [(at, self._legal_at(site, rows[at[0]], ()))]
        keys, inverse = np.unique(rows[at][:, before], axis=0, return_inverse=True)
        out = []
        for k, key in enumerate(keys):
            group = at[inverse.ravel() == k]
            out.append((group, self._legal_at(site, rows[group[0]], tuple(key.tolist()))))
        return out

    def _legal_at(self, site: Location, row: IntArray, key: tuple[int, ...]) -> tuple[int, ...]:
        where = (site.at, *key)
        found = self._known.get(where)
        if found is None:
            found = self._known[where] = tuple(self._legal(site, row)) or (-1,)
        return found

    # ------------------------------------------------------------------ varying
    def mutate(self, rows: IntArray, rng: np.random.Generator) -> IntArray:
        """Each row with one decision changed: half of the tiles by moving a prime factor."""
        out = rows.copy()
        if not self.sites or len(out) == 0:
            return out
        chosen = rng.choice(len(self.sites), len(out), p=self._site_weights)
        for k, site in enumerate(self.sites):
            at = np.flatnonzero(chosen == k)
            if type(site) is Tile:
                move = rng.random(len(at)) < 0.5
                self._move(site, out, at[move], rng)
                at = at[~move]
            elif type(site) is Location and self._joint and self._tuples:
                self._place(out, at, rng)
                continue
            elif type(site) is Category and len(site.weights) > 1:
                shift = rng.integers(1, len(site.weights), len(at))
                out[at, site.at] = (out[at, site.at] + shift) % len(site.weights)
                continue
            self._draw(site, out, at, rng)
        return self.legalise(out, rng)

    def _move(self, site: Tile, rows: IntArray, at: IntArray, rng: np.random.Generator) -> None:
        """Move a prime factor between two places of a tile."""
        if site.n < 2:
            return
        for group, extent in _by_extent(site, rows, at):
            primes = np.array(_primes(extent) or (1,))
            left = group
            for _ in range(_TRIES):
                if len(left) == 0:
                    break
                p = rng.choice(primes, len(left))
                src = rng.integers(0, site.n, len(left))
                dst = (src + rng.integers(1, site.n, len(left))) % site.n
                a, b = site.at + src, site.at + dst
                good = (p > 1) & (rows[left, a] % p == 0)
                good &= (dst != site.n - 1) | (rows[left, b] * p <= site.limit)
                x = left[good]
                rows[x, a[good]] //= p[good]
                rows[x, b[good]] *= p[good]
                left = left[~good]
            self._draw(site, rows, left, rng)

    def cross(self, a: IntArray, b: IntArray, rng: np.random.Generator) -> IntArray:
        """Each decision from one of two parents."""
        out = a.copy()
        for site in self.sites:
            take = rng.random(len(a)) < 0.5
            if type(site) is Location and self._joint:
                if site is self.locations[0]:  # they go together
                    at = np.ix_(np.flatnonzero(take), self._where)
                    out[at] = b[at]
                continue
            where = site.columns if type(site) is Tile else slice(site.at, site.at + 1)
            out[take, where] = b[take, where]
        return self.legalise(out, rng)

    def legalise(self, rows: IntArray, rng: np.random.Generator) -> IntArray:
        """Draw anew, in place, what earlier decisions of the same row have made illegal."""
        everything = np.arange(len(rows))
        for site in self.sites:
            if type(site) is Tile:
                extent = site.extent(rows)
                if isinstance(extent, int):
                    continue  # no decision changes it
                bad = np.flatnonzero(np.prod(rows[:, site.columns], axis=1) != extent)
                self._draw(site, rows, bad, rng)
            elif type(site) is Location and self._joint and len(rows):
                for group, legal in self._by_location(site, rows, everything):
                    bad = group[~np.isin(rows[group, site.at], legal)]
                    self._draw(site, rows, bad, rng)
        if self._joint and len(rows):
            self._tuples.update(dict.fromkeys(map(tuple, rows[:, self._where].tolist())))
        return rows

    # ------------------------------------------------------------------ around and through
    def neighbours(self, row: IntArray) -> IntArray:
        """All rows that differ by one prime factor moved, one other index or one other location."""
        found: list[IntArray] = []
        for site in self.sites:
            if type(site) is Category:
                options: Sequence[int] = range(len(site.weights))
            elif type(site) is Location and self._joint:
                found += self._moved(site, row)
                continue
            elif type(site) is Location:
                options = self._by_location(site, row[None], np.zeros(1, np.int64))[0][1]
            else:
                assert type(site) is Tile
                found += _moves(site, row)
                continue
            for value in options:
                if value != row[site.at]:
                    other = row.copy()
                    other[site.at] = value
                    found.append(other)
        if not found:
            return np.empty((0, self.width), np.int64)
        return self.legalise(np.array(found), np.random.default_rng(0))

    def _moved(self, site: Location, row: IntArray) -> list[IntArray]:
        """The row with this location changed, the others kept, as far as that is known."""
        mine = tuple(row[self._where].tolist())
        k = self.locations.index(site)
        out = []
        for other in self._tuples:
            if other[k] != mine[k] and other[:k] == mine[:k] and other[k + 1 :] == mine[k + 1 :]:
                moved = row.copy()
                moved[site.at] = other[k]
                out.append(moved)
        return out

    def _is_large(self, limit: int) -> bool:
        """Are there surely more than `limit` rows? Asked before anything is replayed."""
        count = 1
        for site in self.sites:
            if type(site) is Category:
                count *= int(np.count_nonzero(site.weights))
            elif type(site) is Tile:
                extent = site.extent(np.empty((0, self.width), np.int64))
                if isinstance(extent, int):
                    table = tilings(extent, site.n, site.limit)
                    count *= limit + 1 if table is None else max(len(table), 1)
            if count > limit:
                return True
        return False

    def enumerate(self, limit: int) -> IntArray | None:
        """Every legal row, or None if there are more than `limit`."""
        if self._is_large(limit):
            return None
        rows = np.zeros((1, self.width), np.int64)
        for site in self.sites:
            parts: list[IntArray] = []
            everything = np.arange(len(rows))
            if type(site) is Tile:
                for group, extent in _by_extent(site, rows, everything):
                    table = tilings(extent, site.n, site.limit)
                    if table is None or len(table) * len(group) > limit:
                        return None
                    parts.append(_spread(rows[group], site.at, table))
            elif type(site) is Location:
                for group, legal in self._by_location(site, rows, everything):
                    parts.append(_spread(rows[group], site.at, np.array(legal)[:, None]))
            else:
                assert type(site) is Category
                # an index of probability 0 is never drawn, so it is no candidate
                options = np.flatnonzero(np.array(site.weights) > 0)[:, None]
                parts.append(_spread(rows, site.at, options))
            rows = np.concatenate(parts) if parts else rows[:0]
            if len(rows) > limit:
                return None
        return rows


def _by_extent(site: Tile, rows: IntArray, at: IntArray) -> list[tuple[IntArray, int]]:
    """The rows split by the extent that the tile must have."""
    if len(at) == 0:
        return []
    extent = site.extent(rows[at])
    if isinstance(extent, int):
        return [(at, extent)]
    return [(at[extent == e], int(e)) for e in np.unique(extent)]


def _draw_tiles(extent: int, n: int, limit: int, count: int, rng: np.random.Generator) -> IntArray:
    table = tilings(extent, n, limit)
    if table is not None:
        if len(table) == 0:  # one factor that is above the limit: replay refuses it
            return np.full((count, n), extent, np.int64)
        return table[rng.integers(0, len(table), count)]
    draw = Random(int(rng.integers(2**31)))
    return np.array([draw_tiling(draw, extent, n, limit) for _ in range(count)], np.int64)


def _moves(site: Tile, row: IntArray) -> list[IntArray]:
    out: list[IntArray] = []
    tile = row[site.columns]
    for p in _primes(prod(tile.tolist())):
        for a in range(site.n):
            if tile[a] % p:
                continue
            for b in range(site.n):
                if a == b or (b == site.n - 1 and tile[b] * p > site.limit):
                    continue
                other = row.copy()
                other[site.at + a] //= p
                other[site.at + b] *= p
                out.append(other)
    return out


def _spread(rows: IntArray, at: int, table: IntArray) -> IntArray:
    """Every row with every line of the table in the columns from `at`."""
    out = np.repeat(rows, len(table), axis=0)
    out[:, at : at + table.shape[1]] = np.tile(table, (len(rows), 1))
    return out
