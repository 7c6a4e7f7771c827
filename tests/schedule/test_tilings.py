"""The rules that sampled tiles obey: tables, draws and checks of a rule say the same, and each says
what its docstring promises."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.schedule import tilings as module
from gputune.schedule.dim import Dim, evaluate, recording
from gputune.schedule.tilings import (
    RULES,
    Covering,
    Partitioned,
    Perfect,
    Rule,
    coverings,
    most_covered,
    near,
    nice_sizes,
    primes,
)


def rules() -> st.SearchStrategy[Rule]:
    n = st.integers(1, 4)
    return st.one_of(
        st.builds(Perfect, n, st.integers(1, 64)),
        st.builds(Covering, n, st.integers(1, 64)),
        n.flatmap(
            lambda k: st.builds(
                Partitioned, st.just(k), st.integers(0, k - 1), st.sampled_from([1, 2, 3, 4, 8])
            )
        ),
    )


def legal(rule: Rule, tiles: list[int], extent: int) -> bool:
    """What a rule promises, from its words alone."""
    product = math.prod(tiles)
    if isinstance(rule, Perfect):
        return product == extent and tiles[-1] <= rule.limit
    if isinstance(rule, Partitioned):
        if extent % rule.factor:
            return tiles == [1] * (rule.n - 1) + [extent]
        return product == extent and math.prod(tiles[rule.pos :]) % rule.factor == 0
    first = math.ceil(extent / math.prod(tiles[1:]))
    return tiles[0] == first and product * 4 <= extent * 5 and tiles[-1] <= rule.limit


@given(rules(), st.integers(1, 300), st.integers(0, 2**31))
@settings(derandomize=True, deadline=None, max_examples=150)
def test_tables_draws_and_checks_agree(rule: Rule, extent: int, seed: int) -> None:
    if rule.n == 1 and extent > rule.limit:
        table = rule.table(extent)
        assert table is not None
        assert len(table) == 0
        return
    table = rule.table(extent)
    assert table is not None
    listed = {tuple(t) for t in table.tolist()}
    assert len(listed) == len(table) > 0
    assert all(legal(rule, list(t), extent) for t in listed)
    assert rule.holds(table, extent).all()
    rng = random.Random(seed)
    one = rule.draw(rng, extent)
    many = rule.draw_many(np.random.default_rng(seed), extent, 20)
    assert tuple(one) in listed
    assert {tuple(t) for t in many.tolist()} <= listed
    # some list at random: scalar check, matrix check and the words say the same
    for _ in range(20):
        tiles = [rng.randint(1, extent + 2) for _ in range(rule.n)]
        if rng.random() < 0.5 and rule.n > 1:
            tiles = list(rng.choice(table.tolist()))
            tiles[rng.randrange(rule.n)] = rng.randint(1, 20)
        want = legal(rule, tiles, extent)
        assert (rule.fault(tiles, extent) == "") == want, tiles
        assert bool(rule.holds(np.array([tiles]), extent)[0]) == want, tiles


@pytest.mark.parametrize("extent", [1, 2, 3, 7, 12, 15, 20])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_all_coverings_of_small_extents_are_listed(extent: int, n: int) -> None:
    """Up to 16 every number is nice, so the table holds all that is legal."""
    found = coverings(extent, n, 16)
    assert found is not None
    table, perfect = found.table, found.starts[0]
    wanted = [
        t
        for t in itertools.product(range(1, most_covered(extent) + 1), repeat=n)
        if legal(Covering(n, 16), list(t), extent)
        and set(t[1:]) <= set(nice_sizes(extent))
        # no middle factor could be smaller with nothing but ones before it
        and not any(
            set(t[:k]) == {1} and (t[k] - 1) * math.prod(t[k + 1 :]) >= extent
            for k in range(1, n - 1)
        )
    ]
    assert sorted(map(tuple, table.tolist())) == wanted
    assert perfect == sum(math.prod(t) == extent for t in wanted)
    if extent <= 12:
        assert set(nice_sizes(extent)) == set(range(1, most_covered(extent) + 1))


def test_waste_is_at_most_a_quarter_and_the_bound_is_met() -> None:
    table = Covering(2, 16).table(20)
    assert table is not None
    assert [5, 5] not in table.tolist()  # 25 of 20 is a quarter, but 4 times 5 covers
    assert [2, 12] in table.tolist()  # 24
    assert Covering(2, 16).fault([2, 13], 20) == (
        "its product 26 is more than a quarter above the extent 20"
    )
    assert Covering(2, 16).fault([2, 12], 20) == ""
    assert Covering(2, 5).fault([1, 5], 4) == ""  # exactly a quarter
    assert most_covered(4) == 5


@pytest.mark.parametrize("extent", [127, 1000, 1009])
def test_awkward_extents_have_good_register_tiles(extent: int) -> None:
    table = Covering(4, 64).table(extent)
    assert table is not None
    assert {6, 8, 9, 12, 14, 16, 32} <= set(table[:, 3].tolist())
    assert {6, 9, 14} <= set(table[table[:, 3] == 1][:, 2].tolist())
    drawn = Covering(4, 64).draw_many(np.random.default_rng(0), extent, 4000)
    good = ((drawn[:, 3] % 8 == 0) & (drawn[:, 3] > 1)).mean()
    assert good > 0.15


def test_half_of_the_draws_divide_where_many_do() -> None:
    for extent, low, high in ((1024, 0.46, 0.54), (127, 0.13, 0.19), (12, 0.4, 0.6), (4, 0.88, 1)):
        rule = Covering(4, 16)
        many = rule.draw_many(np.random.default_rng(1), extent, 2000)
        share = (many.prod(axis=1) == extent).mean()
        rng = random.Random(1)
        alone = np.mean([math.prod(rule.draw(rng, extent)) == extent for _ in range(2000)])
        assert low < share < high
        assert abs(share - alone) < 0.05


def test_draws_are_uniform_where_they_say_so() -> None:
    found = coverings(30, 3, 8)
    assert found is not None
    table, starts = found.table, found.starts
    perfect, lasts = int(starts[0]), len(starts) - 1
    assert lasts == 7  # none with 5: 35 would be 7 times 5, and 6 times is enough
    drawn = Covering(3, 8).draw_many(np.random.default_rng(2), 30, 20000)
    rng = random.Random(2)
    alone = [tuple(Covering(3, 8).draw(rng, 30)) for _ in range(20000)]
    assert perfect > 16  # so half of the draws divide
    for counts in (Counter(map(tuple, drawn.tolist())), Counter(alone)):
        for k, t in enumerate(table.tolist()):
            group = np.searchsorted(starts, k, "right")
            size = perfect if group == 0 else lasts * (starts[group] - starts[group - 1])
            expected = 10000 / size
            assert abs(counts[tuple(t)] - expected) < 5 * math.sqrt(expected)


def test_partitioned_tiles_are_drawn_uniformly() -> None:
    rule = Partitioned(3, 1, 8)
    table = rule.table(48)
    assert table is not None
    rng = random.Random(3)
    counts = Counter(tuple(rule.draw(rng, 48)) for _ in range(6000))
    expected = 6000 / len(table)
    assert set(counts) == set(map(tuple, table.tolist()))
    assert all(abs(c - expected) < 5 * math.sqrt(expected) for c in counts.values())


def test_what_is_too_much_for_a_table_is_drawn_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TABLE_LIMIT", 50)
    module.coverings.cache_clear()
    module.tilings.cache_clear()
    try:
        for rule in (Perfect(4, 16), Covering(4, 16), Partitioned(4, 2, 4)):
            assert rule.table(960) is None
            drawn = rule.draw_many(np.random.default_rng(0), 960, 300)
            assert rule.holds(drawn, 960).all()
            assert len({tuple(t) for t in drawn.tolist()}) > 50
        products = Covering(4, 16).draw_many(np.random.default_rng(0), 960, 300).prod(axis=1)
        assert 0.3 < (products == 960).mean() < 0.8
    finally:
        module.coverings.cache_clear()
        module.tilings.cache_clear()


@given(rules(), st.integers(1, 200), st.integers(0, 2**31))
@settings(derandomize=True, deadline=None, max_examples=80)
def test_what_is_near_is_legal_and_near(rule: Rule, extent: int, seed: int) -> None:
    if rule.n == 1:
        return
    tiles = rule.draw(random.Random(seed), extent)
    found = near(rule, tiles, extent)
    assert tiles not in found
    assert len({tuple(t) for t in found}) == len(found)
    for other in found:
        assert legal(rule, other, extent)
        inner = sum(a != b for a, b in zip(other[1:], tiles[1:], strict=True))
        assert 1 <= inner <= 2
        if not isinstance(rule, Covering):
            assert sum(a != b for a, b in zip(other, tiles, strict=True)) == 2
    if isinstance(rule, Perfect):  # every prime factor of every place moves, within the limit
        wanted = {
            tuple(t // p if k == a else t * p if k == b else t for k, t in enumerate(tiles))
            for p in primes(extent)
            for a in range(rule.n)
            for b in range(rule.n)
            if a != b and tiles[a] % p == 0
        }
        assert {tuple(t) for t in found} == {t for t in wanted if t[-1] <= rule.limit}


def test_same_generator_same_tiles() -> None:
    for rule in (Perfect(3, 16), Covering(3, 16), Partitioned(3, 1, 2)):
        a, b = (rule.draw_many(np.random.default_rng(5), 360, 50) for _ in range(2))
        assert (a == b).all()
        assert rule.draw(random.Random(5), 360) == rule.draw(random.Random(5), 360)


@given(rules(), st.integers(1, 60), st.integers(0, 2**31))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_checks_of_dims_hold_for_every_row_with_the_same_guards(
    rule: Rule, extent: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, 12, (40, rule.n))
    columns = {f"c{k}": rows[:, k] for k in range(rule.n)}
    with recording() as guards:
        tiles = [Dim(int(rows[0, k]), f"c{k}") for k in range(rule.n)]
        why = rule.fault(tiles, extent)
        same = np.ones(len(rows), bool)
        for op, a, b, outcome in guards:
            x, y = (evaluate(Dim(0, e), columns) if type(e) is not int else e for e in (a, b))
            truth = {"eq": x == y, "ne": x != y, "lt": x < y, "le": x <= y, "gt": x > y}
            truth["ge"] = x >= y
            same &= truth[op] == outcome
        for row in rows[same].tolist():
            assert (rule.fault(row, extent) == "") == (why == "")


def test_every_rule_has_an_instruction() -> None:
    assert RULES["SampleTile"](3, 16) == Covering(3, 16)
    partitioned = RULES["SamplePartitionedTile"](3, 1, 4)
    assert partitioned == Partitioned(3, 1, 4)
    assert set(RULES.values()) == {Perfect, Partitioned, Covering}
