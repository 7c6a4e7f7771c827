import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from points import loop_points, points, sum_value, value
from sampled import LOG, Noted, compared_with_one

from gputune.ir import build as b
from gputune.ir.arith import simplify
from gputune.ir.build import TRUE
from gputune.ir.iter_map import detect_iter_map, inverse_affine, is_affine_binding
from gputune.ir.nodes import IntImm, Var
from gputune.schedule.dim import Dim, Evaluator, recording

i, j, k, f = Var("i"), Var("j"), Var("k"), Var("f")


def visited(bindings, loops, predicate=TRUE):
    return [
        tuple(value(e, at) for e in bindings)
        for at in loop_points(loops)
        if value(predicate, at)
    ]  # fmt: skip


def injective(bindings, loops, predicate=TRUE):
    seen = visited(bindings, loops, predicate)
    return len(set(seen)) == len(seen)


def check_sums(bindings, sums, loops, predicate=TRUE):
    for at in loop_points(loops):
        if value(predicate, at):
            for e, s in zip(bindings, sums):
                assert sum_value(s, at, loops) == value(e, at)


def loops_of(**extents):
    return {{"i": i, "j": j, "k": k, "f": f}[n]: (0, e) for n, e in extents.items()}


@pytest.mark.parametrize(
    ("bindings", "loops"),
    [
        ([i, j], loops_of(i=4, j=3)),
        ([j, i], loops_of(i=4, j=3)),
        ([i * 3 + j], loops_of(i=4, j=3)),
        ([j + i * 3], loops_of(i=4, j=3)),
        ([i + 7], loops_of(i=4)),
        ([f // 4, f % 4], loops_of(f=12)),
        ([f // 12, f // 4 % 3, f % 4], loops_of(f=24)),
        ([f % 4, f // 4], loops_of(f=10)),
        ([f // 4 * 2 + i, f % 4], loops_of(f=12, i=2)),
        ([i * 3 + j, k], loops_of(i=1, j=3, k=1)),
        ([i], loops_of(i=4, j=1)),
        ([b.const(0), i], loops_of(i=4)),
        ([(i * 12 + j) // 12, (i * 12 + j) % 12], loops_of(i=3, j=12)),
        ([(i * 12 + j) // 4, j % 4], loops_of(i=3, j=12)),
        ([(i * 4 + j) // 3, (i * 4 + j) % 3], loops_of(i=3, j=4)),
        ([(i * 16 + j) // 10, (i * 16 + j) % 10], loops_of(i=7, j=16)),
        ([(f // 6) * 6 + f % 6 // 2 * 2 + f % 2], loops_of(f=24)),
        ([f % 6 // 4, f % 6 % 4, f // 6], loops_of(f=18)),
        ([(f + 3) // 4, (f + 3) % 4], loops_of(f=10)),
        ([i * 5 + j], loops_of(i=3, j=4)),
        ([i * 2], loops_of(i=3)),
    ],
)
def test_bijections_are_found(bindings, loops):
    assert injective(bindings, loops)
    sums = detect_iter_map(bindings, loops)
    assert sums is not None
    check_sums(bindings, sums, loops)
    assert is_affine_binding([1000] * len(bindings), bindings, loops)


@pytest.mark.parametrize(
    ("bindings", "loops"),
    [
        ([i], loops_of(i=4, j=2)),
        ([i, i], loops_of(i=4)),
        ([i + j], loops_of(i=4, j=3)),
        ([i * 2 + j], loops_of(i=4, j=3)),
        ([f // 4], loops_of(f=12)),
        ([f % 4], loops_of(f=12)),
        ([f // 4, f % 3], loops_of(f=12)),
        ([f // 4, f % 8], loops_of(f=32)),
        ([f // 8, f % 4], loops_of(f=32)),
        ([i * j], loops_of(i=4, j=3)),
        ([b.minimum(i, 2)], loops_of(i=4)),
        ([i * 4 + j, j], loops_of(i=4, j=4)),
        ([(i * 4 + j) // 3, j], loops_of(i=4, j=4)),
        ([k], loops_of(i=4)),
        ([f // 100], loops_of(f=12)),
        ([i % 1, j], loops_of(i=4, j=4)),
    ],
)
def test_what_is_no_bijection_is_refused(bindings, loops):
    assert detect_iter_map(bindings, loops) is None
    assert not is_affine_binding([1000] * len(bindings), bindings, loops)


def test_predicates_limit_numbers():
    loops = loops_of(i=7, j=16)
    x = i * 16 + j
    sums = detect_iter_map([x // 10, x % 10], loops, x < 100)
    assert [s.args[0].extent for s in sums] == [10, 10]
    sums = detect_iter_map([x // 10, x % 10], loops)
    assert sums[0].args[0].extent == 12
    check_sums(
        [x // 10, x % 10], detect_iter_map([x // 10, x % 10], loops, x < 100), loops, x < 100
    )
    whole = detect_iter_map([x % 100], loops, b.logical_and(x < 100, i < 9))
    assert whole is not None
    assert detect_iter_map([x % 100], loops) is None


def test_minimum_of_loops():
    loops = {i: (2, 4), j: (1, 3)}
    bindings = [
        i * 3 + j,
    ]
    sums = detect_iter_map(bindings, loops)
    assert sums[0].base == 7
    check_sums(bindings, sums, loops)


def test_unused_loops_without_bijection():
    loops = loops_of(i=4, j=3, f=12)
    assert detect_iter_map([i], loops, bijective=False) is not None
    assert detect_iter_map([f // 4], loops, bijective=False) is not None
    assert detect_iter_map([f // 4, f % 2], loops, bijective=False) is not None
    assert detect_iter_map([f // 4, f % 8], loops, bijective=False) is None
    assert detect_iter_map([i, i], loops, bijective=False) is None


def test_bindings_must_stay_in_the_domain_unless_guarded():
    loops = loops_of(i=7, j=16)
    assert not is_affine_binding([100], [i * 16 + j], loops)
    assert is_affine_binding([100], [i * 16 + j], loops, i * 16 + j < 100)
    assert is_affine_binding([112], [i * 16 + j], loops)
    assert not is_affine_binding([2, 4], [f // 4, f % 4], loops_of(f=12))
    assert is_affine_binding([3, 4], [f // 4, f % 4], loops_of(f=12))


# ----------------------------------------------------------------------------- by brute force
@st.composite
def tilings(draw):
    """Loops that were split, fused and reordered, with bindings; mostly bijections, some not."""
    names = [Var(f"l{x}") for x in range(4)]
    extents = [draw(st.integers(1, 4)) for _ in names]
    loops = {v: (draw(st.integers(0, 2)), n) for v, n in zip(names, extents)}
    order = draw(st.permutations(names))
    groups = draw(st.integers(1, 3))
    bindings = []
    for g in range(groups):
        e = b.const(draw(st.integers(0, 3)))
        scale = 1
        for v in reversed(order[g::groups]):
            e = e + v * scale
            scale *= loops[v][1] + (draw(st.integers(0, 5)) == 0)
        bindings.append(e)
    x = draw(st.sampled_from(bindings))
    c = draw(st.integers(1, 6))
    kind = draw(st.integers(0, 4))
    if kind == 1:
        bindings = [e for e in bindings if e is not x] + [x // c, x % c]
    elif kind == 2:
        bindings = [e for e in bindings if e is not x] + [x // c, x % draw(st.integers(1, 6))]
    elif kind == 3:
        d = draw(st.integers(1, 4))
        bindings = [e for e in bindings if e is not x] + [x // (c * d), x // c % d, x % c]
    elif kind == 4:
        bindings = [e for e in bindings if e is not x] + [x % (c * 2) // 2, x // (c * 2), x % 2]
    return bindings, loops


@settings(derandomize=True, deadline=None, max_examples=600)
@given(tilings())
def test_what_is_found_is_injective(case):
    bindings, loops = case
    sums = detect_iter_map(bindings, loops)
    if sums is not None:
        assert injective(bindings, loops)
        check_sums(bindings, sums, loops)
    if is_affine_binding([10**6] * len(bindings), bindings, loops):
        assert injective(bindings, loops)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
    st.integers(0, 3),
)
def test_every_tiling_is_found(factors, random, fused):
    """Split into factors, sum up in any grouping and order, fuse some: always a bijection."""
    names = [Var(f"l{x}") for x in range(len(factors))]
    loops = {v: (0, n) for v, n in zip(names, factors)}
    total = math.prod(factors)
    order = list(zip(names, factors))
    random.shuffle(order)
    e = b.const(0)
    scale = 1
    for v, n in reversed(order):
        e = e + v * scale
        scale *= n
    divisors = [d for d in range(1, total + 1) if total % d == 0]
    c = random.choice(divisors)
    if fused == 3:  # where two factors meet, simplified digits are digits still
        c = math.prod([n for _, n in order[random.randint(0, len(order)) :]])
    bindings = [[e], [e // c, e % c], [e % c, e // c], [simplify(e // c), simplify(e % c)]][fused]
    assert is_affine_binding([total] * len(bindings), bindings, loops)
    assert detect_iter_map(bindings, loops) is not None


# ----------------------------------------------------------------------------- inverse
@pytest.mark.parametrize(
    ("indices", "iters"),
    [
        ([i * 4 + j], {i: 3, j: 4}),
        ([j, i], {i: 3, j: 4}),
        ([i + 2, j], {i: 3, j: 4}),
        ([i // 4, i % 4], {i: 12}),
        ([i // 4, i % 4 * 3 + j], {i: 12, j: 3}),
        ([i % 3, j, i // 3], {i: 12, j: 3}),
        ([(i * 4 + j) // 3, (i * 4 + j) % 3], {i: 3, j: 4}),
        ([i, b.const(0)], {i: 3, j: 1}),
        ([i * 2 + 1], {i: 3}),
        ([i * 12 + j * 4 + k], {i: 2, j: 3, k: 4}),
        ([(i * 12 + j * 4 + k) // 6, (i * 12 + j * 4 + k) % 6 + 5], {i: 2, j: 3, k: 4}),
    ],
)
def test_inverse(indices, iters):
    out = [Var(f"o{x}") for x in range(len(indices))]
    inverse = inverse_affine(indices, iters, out)
    assert inverse is not None
    assert list(inverse) == list(iters)
    for at in points({v: (0, n - 1) for v, n in iters.items()}):
        found = {o: value(e, at) for o, e in zip(out, indices)}
        for v in iters:
            assert value(inverse[v], found) == at[v]


def test_inverse_of_a_product_is_quotient_and_remainder():
    (o,) = out = [Var("o")]
    inverse = inverse_affine([i * 4 + j], {i: 3, j: 4}, out)
    assert (inverse[i].op, inverse[i].a, inverse[i].b.value) == ("//", o, 4)
    assert (inverse[j].op, inverse[j].a, inverse[j].b.value) == ("%", o, 4)


@pytest.mark.parametrize(
    ("indices", "iters"),
    [([i], {i: 3, j: 2}), ([i + j], {i: 3, j: 2}), ([i * k], {i: 3, k: 3}), ([i], {j: 3})],
)
def test_what_has_no_inverse(indices, iters):
    assert inverse_affine(indices, iters, [Var("o")]) is None


@settings(derandomize=True, deadline=None, max_examples=300)
@given(tilings())
def test_inverse_by_brute_force(case):
    bindings, loops = case
    iters = {v: n for v, (_, n) in loops.items()}
    out = [Var(f"o{x}") for x in range(len(bindings))]
    inverse = inverse_affine(bindings, iters, out)
    if inverse is None:
        return
    for at in itertools.islice(points({v: (0, n - 1) for v, n in iters.items()}), 300):
        found = {o: value(e, at) for o, e in zip(out, bindings)}
        assert {v: value(inverse[v], found) for v in iters} == at


# ----------------------------------------------------------------------------- sampled extents
def four_levels(factors):
    """A loop split into four, bound to one iterator, with sampled factors."""
    names = [Var(f"i_{x}") for x in range(4)]
    e = names[0]
    for v, n in zip(names[1:], factors[1:]):
        e = e * IntImm(n) + v
    return e, {v: (0, n) for v, n in zip(names, factors)}


def test_sampled_extents_are_never_asked_whether_they_are_one():
    e1, l1 = four_levels([Noted(x) for x in (4, 1, 2, 1)])
    e2, l2 = four_levels([Noted(x) for x in (1, 4, 1, 2)])
    LOG.clear()
    assert is_affine_binding([8, 8], [e1, e2], l1 | l2)
    assert detect_iter_map([e1, e2], l1 | l2) is not None
    assert LOG
    assert not compared_with_one()


def test_a_fused_loop_with_sampled_extents():
    n1, n2, n3 = Noted(4), Noted(1), Noted(6)
    f1 = Var("fused")
    e = [f1 // IntImm(n2 * n3), f1 // IntImm(n3) % IntImm(n2), f1 % IntImm(n3)]
    LOG.clear()
    assert is_affine_binding([n1, n2, n3], e, {f1: (0, n1 * n2 * n3)})
    assert not compared_with_one()


def guarded_rows(f):
    """f(dims of two 4-level splits of 24) -> truth; the share of all factorizations that the guards
    of one replay admit, over several replays."""
    rows = [
        t for t in itertools.product([1, 2, 3, 4, 6, 8, 12, 24], repeat=4) if math.prod(t) == 24
    ]
    table = [(*rows[x], *rows[-1 - x // 2]) for x in range(len(rows))]
    columns = {f"c{x}": np.array([t[x] for t in table]) for x in range(8)}
    shares = []
    for t in table[:: len(table) // 7]:
        with recording() as guards:
            assert f([Dim(v, f"c{x}") for x, v in enumerate(t)])
        holds = Evaluator(columns).holds(guards, np.ones(len(table), bool))
        shares.append(holds.mean())
    return shares


def test_one_replay_stands_for_all_tilings():
    def split(d):
        e1, l1 = four_levels(d[:4])
        e2, l2 = four_levels(d[4:])
        both = l1 | l2
        return is_affine_binding([24, 24], [e1, e2], both) and detect_iter_map([e1, e2], both)

    def fuse(d):
        f1 = Var("fused")
        inner = d[1] * d[5]
        total = d[0] * d[4] * inner
        e = [
            f1 // IntImm(d[4] * inner),
            f1 // IntImm(inner) % IntImm(d[4]),
            f1 // IntImm(d[5]) % IntImm(d[1]),
            f1 % IntImm(d[5]),
        ]
        return detect_iter_map(e, {f1: (0, total)})

    def fuse_tiles(d):
        """Bound to tiles as they are after fusing the outer loops of a tiled matmul."""
        f1, i2, i3, j2, j3 = (Var(n) for n in ("f1", "i2", "i3", "j2", "j3"))
        i0, j0 = d[0] * d[1], d[4] * d[5]
        first = f1 // IntImm(j0) * IntImm(d[2] * d[3]) + i2 * IntImm(d[3]) + i3
        second = f1 % IntImm(j0) * IntImm(d[6] * d[7]) + j2 * IntImm(d[7]) + j3
        loops = {f1: (0, i0 * j0), i2: (0, d[2]), i3: (0, d[3]), j2: (0, d[6]), j3: (0, d[7])}
        return is_affine_binding([24, 24], [first, second], loops)

    assert set(guarded_rows(split)) == {1.0}
    assert set(guarded_rows(fuse)) == {1.0}
    assert set(guarded_rows(fuse_tiles)) == {1.0}


def test_detection_takes_few_steps(calls_of):
    """What a replay is full of: its work is counted, `bench/replay.py` times it."""
    e1, l1 = four_levels([4, 8, 2, 16])
    e2, l2 = four_levels([2, 4, 8, 2])
    loops = l1 | l2
    assert is_affine_binding([1024, 128], [e1, e2], loops)
    assert calls_of(lambda: is_affine_binding([1024, 128], [e1, e2], loops)) < 200
