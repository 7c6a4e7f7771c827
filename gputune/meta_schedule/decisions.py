"""What can be decided in a sketch, and how are rows of decisions drawn and varied?

A row holds one candidate: n factors for a primitive that samples tiles, an index for a
`sample_categorical`, a location for a `sample_compute_location`. All operations work on whole
matrices of rows and give legal rows: tiles are those of their rule (`schedule/tilings.py`),
locations are among the legal ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from ..schedule.tilings import Covering, Perfect, Rule, covering_primes, near, nice_sizes, primes
from ..schedule.trace import Instruction

IntArray: TypeAlias = npt.NDArray[np.int64]

_TRIES = 4  # attempts to change a tile a little before it is drawn anew


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """The factors of a loop, in columns from `at`.

    `extent` gives the extent for each row; it is constant unless the loop that is tiled was itself
    made by a sampled split.
    """

    inst: Instruction
    at: int
    rule: Rule
    extent: Callable[[IntArray], IntArray | int]

    @property
    def n(self) -> int:
        """How many factors."""
        return self.rule.n

    @property
    def limit(self) -> int:
        """The last factor is at most this."""
        return self.rule.limit

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
T = TypeVar("T")
LegalLocations: TypeAlias = Callable[[Location, IntArray], Sequence[int]]


def row_numbers(rows: IntArray) -> IntArray:
    """A number for each row: the same for equal rows, and for others as good as never. Sorting
    numbers is ten times as fast as sorting rows."""
    out: IntArray = rows @ _mixer(rows.shape[1])
    return out


@lru_cache(maxsize=64)
def _mixer(width: int) -> IntArray:
    """Odd numbers of 62 bits."""
    return np.random.default_rng(width).integers(-(2**61), 2**61, width) * 2 + 1


_PLACES = 6  # locations that one draw chooses from
_INLINED = -2  # the location of what is computed where it is used
_EXPLORED = 4  # rows of a sample whose locations are drawn one after the other, with replays


class _Pool:
    """The tiles with a product that is the same in all rows: prime factors are moved in all of them
    at once, each row in a tile of its own.

    Attributes:
        has: is a site one of them?
    """

    def __init__(self, sites: Sequence[Site], width: int) -> None:
        nowhere = np.empty((0, width), np.int64)
        count = len(sites)
        self.has = np.zeros(count, bool)
        self.width = width
        self.at, self.n, self.limit = np.zeros((3, count), np.int64)
        of_site: list[tuple[int, ...]] = [(1,)] * count
        self.rules: list[
            tuple[int, Tile, int]
        ] = []  # those with more to obey than product and limit
        for k, site in enumerate(sites):
            if type(site) is not Tile or site.n < 2 or type(site.rule) is Covering:
                continue
            extent = site.extent(nowhere)
            if not isinstance(extent, int):
                continue
            self.has[k] = True
            self.at[k], self.n[k], self.limit[k] = site.at, site.n, site.limit
            of_site[k] = primes(extent) or (1,)
            if type(site.rule) is not Perfect:
                self.rules.append((k, site, extent))
        self.count = np.array([len(p) for p in of_site], np.int64)
        self.primes = np.ones((count, max(map(len, of_site), default=1)), np.int64)
        for k, p in enumerate(of_site):
            self.primes[k, : len(p)] = p

    def move(
        self, rows: IntArray, chosen: IntArray, at: IntArray, rng: np.random.Generator
    ) -> IntArray:
        """Move a prime factor between two places of the chosen tile in the rows at `at`; those in
        which that did not succeed are returned."""
        flat = rows.reshape(-1)
        for _ in range(_TRIES):
            if len(at) == 0:
                break
            site = chosen[at]
            u = rng.random((3, len(at)))
            n = self.n[site]
            p = self.primes[site, (u[0] * self.count[site]).astype(np.int64)]
            src = (u[1] * n).astype(np.int64)
            dst = src + 1 + (u[2] * (n - 1)).astype(np.int64)
            dst = np.where(dst < n, dst, dst - n)
            start = at * self.width + self.at[site]
            src += start
            given, taken = flat[src], flat[start + dst]
            kept = given // p
            good = (kept * p == given) & (p > 1)
            good &= (dst < n - 1) | (taken * p <= self.limit[site])
            done = np.flatnonzero(good)
            src, dst = src[done], (start + dst)[done]
            flat[src] = kept[done]
            flat[dst] = (taken * p)[done]
            bad = ~good
            for k, tile, extent in self.rules:
                mine = np.flatnonzero(good & (site == k))
                broken = mine[~tile.rule.holds(rows[at[mine], tile.columns], extent)]
                bad[broken] = True
                places = np.searchsorted(done, broken)
                flat[src[places]], flat[dst[places]] = given[broken], taken[broken]
            at = at[bad]
        return at


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
        chances = np.cumsum(weights)
        self._chances = chances / chances[-1] if weights else chances
        self._owner = np.zeros(width, np.int64)  # which site a column is of
        for k, site in enumerate(self.sites):
            self._owner[_columns(site)] = k
        if self._joint:  # they go together
            self._owner[self._where] = self.sites.index(self.locations[0])
        self._pool = _Pool(self.sites, width)

    # ------------------------------------------------------------------ drawing
    def sample(self, count: int, rng: np.random.Generator) -> IntArray:
        """`count` rows, tilings uniformly and categories by their probabilities.

        What one location may be depends on those before it, and costs a replay to find out. So
        with several of them a few rows are drawn in order, and the others take their locations
        from what is known to go together.
        """
        if not self._joint or count <= _EXPLORED:
            return self._sample_in_order(count, rng)
        fresh = min(_EXPLORED, count)
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
        known = np.array(_some(list(self._tuples), rng), np.int64)
        rows[np.ix_(at, self._where)] = known[rng.integers(0, len(known), len(at))]

    def _draw(self, site: Site, rows: IntArray, at: IntArray, rng: np.random.Generator) -> None:
        """Draw one decision anew in the rows at positions `at`."""
        if len(at) == 0:
            return
        if type(site) is Category:
            rows[at, site.at] = _draw_indices(site.weights, rng, len(at))
        elif type(site) is Location:
            for group, legal in self._by_location(site, rows, at):
                some = np.array(_some(legal, rng))
                rows[group, site.at] = some[rng.integers(0, len(some), len(group))]
        else:
            assert type(site) is Tile
            for group, extent in _by_extent(site, rows, at):
                rows[group, site.columns] = site.rule.draw_many(rng, extent, len(group))

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
        """Each row with one decision changed: half of the tiles a little, by moving a prime factor
        or by taking the next size, the others drawn anew."""
        out = rows.copy()
        if not self.sites or len(out) == 0:
            return out
        chosen = np.searchsorted(self._chances, rng.random(len(out)), "right")
        little = rng.integers(0, 2, len(out), dtype=bool)
        anew = ~little
        anew[self._pool.move(out, chosen, np.flatnonzero(little & self._pool.has[chosen]), rng)] = (
            True
        )
        for k, site in enumerate(self.sites):
            mine = chosen == k
            if type(site) is Tile:
                at = np.flatnonzero(mine & anew)
                if not self._pool.has[k]:
                    left = self._vary(site, out, np.flatnonzero(mine & little), rng)
                    at = np.concatenate([at, left])
                self._draw(site, out, at, rng)
                continue
            at = np.flatnonzero(mine)
            if type(site) is Location and self._joint and self._tuples:
                self._place(out, at, rng)
            elif type(site) is Category and len(site.weights) > 1:
                shift = rng.integers(1, len(site.weights), len(at))
                out[at, site.at] = (out[at, site.at] + shift) % len(site.weights)
            else:
                self._draw(site, out, at, rng)
        return self.legalise(out, rng)

    def _vary(self, site: Tile, rows: IntArray, at: IntArray, rng: np.random.Generator) -> IntArray:
        """Change a tile a little in the rows at `at`; where that did not succeed is returned."""
        if site.n < 2:
            return at
        left = []
        for group, extent in _by_extent(site, rows, at):
            todo = group
            for _ in range(_TRIES):
                if len(todo) == 0:
                    break
                old = rows[todo, site.columns]
                new = _varied(site.rule, old, extent, rng)
                good = site.rule.holds(new, extent) & (new != old).any(axis=1)
                rows[todo[good], site.columns] = new[good]
                todo = todo[~good]
            left.append(todo)
        return np.concatenate(left) if left else at

    def cross(self, a: IntArray, b: IntArray, rng: np.random.Generator) -> IntArray:
        """Each decision from one of two parents."""
        mine = rng.integers(0, 2, (len(a), max(len(self.sites), 1)), dtype=bool)
        return self.legalise(np.where(mine[:, self._owner], a, b), rng)

    def legalise(self, rows: IntArray, rng: np.random.Generator) -> IntArray:
        """Draw anew, in place, what earlier decisions of the same row have made illegal."""
        everything = np.arange(len(rows))
        for site in self.sites:
            if type(site) is Tile:
                extent = site.extent(rows)
                if isinstance(extent, int):
                    continue  # no decision changes it
                bad = np.flatnonzero(~site.rule.holds(rows[:, site.columns], extent))
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
        """All rows that differ by one prime factor moved, one factor of the next size (where tiles
        need not divide), one other index or one other location."""
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
                    table = site.rule.table(extent)
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
                    table = site.rule.table(extent)
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


def _columns(site: Site) -> slice:
    return site.columns if type(site) is Tile else slice(site.at, site.at + 1)


def _some(places: Sequence[T], rng: np.random.Generator) -> Sequence[T]:
    """A few of many locations: each makes structure classes of its own, which should have many
    rows. Another call chooses others. To be inlined is always among them: that is not one more
    loop, but another program."""
    if len(places) <= _PLACES:
        return places
    chosen = [places[k] for k in rng.choice(len(places), _PLACES, replace=False)]
    inlined = [x for x in places if x == _INLINED and x not in chosen]
    return [*inlined, *chosen][:_PLACES]


def _draw_indices(
    weights: tuple[float, ...], rng: np.random.Generator, count: int
) -> npt.NDArray[np.intp]:
    """Indices by their weights; one of weight 0 is never drawn."""
    chances = np.cumsum(weights)
    found: npt.NDArray[np.intp] = np.searchsorted(chances, rng.random(count) * chances[-1], "right")
    # rounding may say beyond the last one
    return np.minimum(found, int(np.flatnonzero(weights)[-1]))


def _varied(rule: Rule, old: IntArray, extent: int, rng: np.random.Generator) -> IntArray:
    """Tiles with a prime factor moved between two places, or one factor of the next size; some are
    not legal, or no other than before."""
    if type(rule) is not Covering:
        return _moved_prime(rule, old, primes(extent) or (1,), rng)
    stepped = _stepped(old, extent, rng)
    if rule.n == 2:
        return stepped
    moved = _moved_prime(rule, old, covering_primes(extent), rng)
    return np.where(rng.random(len(old))[:, None] < 0.5, _with_outer(moved, extent), stepped)


def _moved_prime(
    rule: Rule, old: IntArray, movable: tuple[int, ...], rng: np.random.Generator
) -> IntArray:
    """Tiles with a prime factor moved from one place to another, or as before."""
    count, n = old.shape
    p = np.array(movable)[rng.integers(0, len(movable), count)]
    src = rng.integers(0, n, count)
    dst = (src + rng.integers(1, n, count)) % n
    new = old.copy()
    flat = new.reshape(-1)
    rows = np.arange(0, count * n, n)
    a, b = rows + src, rows + dst
    given = flat[a]
    kept = given // p
    # the outermost factor of a covering follows from the others, so anything may be taken from it
    good = kept * p == given if type(rule) is not Covering else (kept * p == given) | (src == 0)
    flat[a[good]] = kept[good]
    flat[b[good]] *= p[good]
    return new


def _stepped(old: IntArray, extent: int, rng: np.random.Generator) -> IntArray:
    """Tiles with one inner factor of the next larger or smaller nice size, the outermost one as
    follows; or as before."""
    sizes = np.array(nice_sizes(extent))
    rows = np.arange(len(old))
    k = rng.integers(1, old.shape[1], len(old))
    size = old[rows, k]
    up = rng.integers(0, 2, len(old), dtype=bool)
    place = np.where(
        up, np.searchsorted(sizes, size, "right"), np.searchsorted(sizes, size) - 1
    ).clip(0, len(sizes) - 1)
    new = old.copy()
    new[rows, k] = sizes[place]
    return _with_outer(new, extent)


def _with_outer(tiles: IntArray, extent: int) -> IntArray:
    """Tiles whose outermost factor is what covers the extent."""
    inner = tiles[:, 1]
    for k in range(2, tiles.shape[1]):
        inner = inner * tiles[:, k]
    tiles[:, 0] = -(-extent // inner)
    return tiles


def _moves(site: Tile, row: IntArray) -> list[IntArray]:
    """The rows that differ from one by a tile changed a little."""
    extent = site.extent(row[None])
    total = extent if isinstance(extent, int) else int(extent[0])
    out = []
    for tile in near(site.rule, row[site.columns].tolist(), total):
        other = row.copy()
        other[site.columns] = tile
        out.append(other)
    return out


def _spread(rows: IntArray, at: int, table: IntArray) -> IntArray:
    """Every row with every line of the table in the columns from `at`."""
    out = np.repeat(rows, len(table), axis=0)
    out[:, at : at + table.shape[1]] = np.tile(table, (len(rows), 1))
    return out
