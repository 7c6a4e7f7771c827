"""Index maps: made, printed, read back, applied, inverted; alike element by element."""

from __future__ import annotations

import ast
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.errors import UserError
from gputune.ir.build import const_int, is_literal
from gputune.ir.index_map import IndexMap
from gputune.ir.nodes import IntImm, Range, Var
from gputune.ir.walk import substitute
from gputune.schedule.dim import Dim, Evaluator, recording


def at(m: IndexMap, point: tuple[int, ...]) -> tuple[int, ...]:
    out = [const_int(e) for e in m.map_indices(point)]
    assert None not in out
    return tuple(int(x or 0) for x in out)


def tiles(i: Any, j: Any) -> Any:
    return (i // 16, j // 16, i % 16, j % 16)


# ----------------------------------------------------------------------------- making and printing
def test_a_map_prints_and_is_read_back() -> None:
    m = IndexMap.from_func(tiles)
    text = "lambda i, j: (i // 16, j // 16, i % 16, j % 16,)"
    assert str(m) == text
    assert str(IndexMap.from_text(text)) == text
    assert repr(m) == f"IndexMap({text})"
    assert at(m, (33, 18)) == (2, 1, 1, 2)


def test_parentheses_stand_only_where_they_must() -> None:
    m = IndexMap.from_func(
        lambda i, j: (i // (j * 2), (i + j) % 3 * 4, i - (j - 1), i - j + 1, i * (j // 2), -i + 7)
    )
    text = (
        "lambda i, j: (i // (j * 2), (i + j) % 3 * 4, i - (j - 1), i - j + 1, i * (j // 2), "
        "0 - i + 7,)"
    )
    assert str(m) == text
    again = IndexMap.from_text(text)
    assert str(again) == text
    assert at(again, (9, 2)) == (2, 8, 8, 8, 9, -2) == at(m, (9, 2))


def test_separators_are_kept_and_do_nothing() -> None:
    m = IndexMap.from_func(lambda i, j: [i, IndexMap.AXIS_SEPARATOR, j % 4])
    assert m.axis_separators == (1,)
    assert str(m) == "lambda i, j: (i, IndexMap.AXIS_SEPARATOR, j % 4,)"
    assert IndexMap.from_text(str(m)).axis_separators == (1,)
    assert at(m, (5, 6)) == (5, 2)


def test_functions_of_any_number_of_indices() -> None:
    assert str(IndexMap.from_func(lambda *a: a[::-1], 3)) == "lambda i0, i1, i2: (i2, i1, i0,)"
    assert str(IndexMap.from_func(lambda i, *a: [*a, i], 2)) == "lambda i, i1: (i1, i,)"
    assert (
        str(IndexMap.from_func(lambda i, k=4: (i // k, i % k), 1)) == "lambda i: (i // 4, i % 4,)"
    )
    assert str(IndexMap.from_func(lambda i: i + 1)) == "lambda i: (i + 1,)"
    assert str(IndexMap.identity(2)) == "lambda i0, i1: (i0, i1,)"


def test_sampled_values_stay_until_they_are_bound() -> None:
    a, b = Var("v"), Var("v")
    m = IndexMap.from_func(lambda i: (i // (a * b), i % (a * b)))
    assert m.free_vars() == [a, b]
    text = m.text({a: "v27", b: "v28"})
    assert text == "lambda i: (i // (v27 * v28), i % (v27 * v28),)"
    node = ast.parse(text, mode="eval").body
    assert isinstance(node, ast.Lambda)
    again = IndexMap.from_ast(node, {"v27": a, "v28": b})
    assert again.free_vars() == [a, b]
    bound = again.bind({a: IntImm(2), b: IntImm(4)})
    assert str(bound) == "lambda i: (i // 8, i % 8,)"
    clash = IndexMap.from_func(lambda v: (v // a, v % a))
    assert clash.text({a: "v"}) == "lambda v_: (v_ // v, v_ % v,)"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("i // 4", "expected a lambda"),
        ("lambda i: __import__('os')", "no index arithmetic"),
        ("lambda i: (i.real,)", "no index arithmetic"),
        ("lambda i: (j,)", "'j' is neither an index"),
        ("lambda i, i: (i,)", "parameters of the same name"),
        ("lambda i=3: (i,)", "plain parameters"),
        ("lambda *i: (i,)", "plain parameters"),
        ("lambda i: (i // 0,)", "division by zero"),
        ("lambda i: ()", "at least one"),
        ("lambda i: (i + 2.5,)", "no integer"),
        ("lambda i: (i + IndexMap.AXIS_SEPARATOR,)", "no integer"),
        ("lambda i: ([k for k in i],)", "no index arithmetic"),
        ("lambda i: (i ** 2,)", "no index arithmetic"),
        ("lambda i: (True,)", "no index arithmetic"),
        ("lambda i: (" + "(" * 300 + "i" + ")" * 300 + ",)", "cannot read"),
        ("lambda i: (" + "-" * 5000 + "i,)", "cannot read"),
        ("lambda i: (" + "i," * 65 + ")", "at most 64"),
    ],
)
def test_what_is_no_map_is_refused(text: str, match: str) -> None:
    with pytest.raises(UserError, match=match) as e:
        IndexMap.from_text(text)
    assert e.value.code == "index-map"


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: IndexMap.from_func(lambda i: (i / 2,)), "no integer arithmetic"),
        (lambda: IndexMap.from_func(lambda i: (i < 2,)), "no integer arithmetic"),
        (lambda: IndexMap.from_func(lambda i: "i"), "must be integer arithmetic"),
        (lambda: IndexMap.from_func(lambda i: ()), "at least one"),
        (lambda: IndexMap.from_func(lambda i, j: (i, j), 3), "takes 2 indices, and there are 3"),
        (lambda: IndexMap.from_func(lambda *i: i), r"\*args"),
        (lambda: IndexMap.from_func(lambda *, i: i), "keyword-only"),
        (lambda: IndexMap.from_func(3), "a function of indices"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: IndexMap.from_func(tiles).map_indices([1]), "takes 2 indices, got 1"),
        (lambda: IndexMap.from_func(tiles).map_shape([1]), "takes 2 indices"),
        (lambda: IndexMap.from_func(lambda i: (i - 1,)).map_shape([4]), "from -1 to 2"),
        (lambda: IndexMap.from_func(lambda i: (i // 2,)).inverse([4]), "not seen to be injective"),
        (lambda: IndexMap.from_func(lambda i: (i // 4, i % 4)).inverse([6]), "holds no element"),
    ],
)
def test_calls_that_are_refused(make: Any, match: str) -> None:
    with pytest.raises(UserError, match=match) as e:
        make()
    assert e.value.code == "index-map"


# ----------------------------------------------------------------------------- meaning
def test_shapes_and_boxes() -> None:
    m = IndexMap.from_func(tiles)
    assert m.map_shape([32, 40]) == (2, 3, 16, 16)
    assert IndexMap.from_func(lambda i: (i * 3 + 1,)).map_shape([4]) == (11,)
    assert IndexMap.from_func(lambda i, j: (i * 6 + j,)).map_shape([4, 6]) == (24,)
    assert IndexMap.from_func(lambda i: (7 - i,)).map_shape([8]) == (8,)
    assert IndexMap.from_func(lambda i: (3, i)).map_shape([8]) == (4, 8)
    v = Var("v")
    box = [Range(v * 16, IntImm(16)), Range(IntImm(0), IntImm(40))]
    whole = m.map_ranges(box)
    assert whole is not None
    assert [const_int(r.extent) for r in whole] == [1, 3, 16, 16]
    assert m.map_ranges(box, exact=True) is None  # 40 elements are no box of 3 by 16
    box[1] = Range(IntImm(0), IntImm(32))
    exact = m.map_ranges(box, exact=True)
    assert exact is not None
    assert [const_int(r.extent) for r in exact] == [1, 2, 16, 16]


def test_injective_by_analysis_and_by_looking() -> None:
    assert IndexMap.from_func(tiles).is_injective([32, 40])
    mirror = IndexMap.from_func(lambda i: (7 - i,))
    assert mirror.digits([8]) is None
    assert mirror.is_injective([8]) is True
    assert IndexMap.from_func(lambda i: (i // 2,)).is_injective([8]) is False
    assert IndexMap.from_func(lambda i, j: (i + j,)).is_injective([2, 2]) is False
    assert mirror.is_injective([1 << 30]) is None
    assert IndexMap.from_func(lambda i: (8 // i,)).is_injective([3]) is None
    v = Var("v")
    assert IndexMap.from_func(lambda i: (v - i,)).is_injective([8]) is None


def test_constants_may_be_sampled_without_needless_questions() -> None:
    a, b = Var("a"), Var("b")
    m = IndexMap.from_func(
        lambda i, j: (i // 16 // (a * b), j // 16, i // 16 % (a * b), i % 16, j % 16)
    )
    with recording() as guards:
        bound = m.bind({a: IntImm(Dim(2, "a")), b: IntImm(Dim(4, "b"))})
        shape = bound.map_shape([256, 32])
        whole = bound.is_surjective([256, 32])
    assert whole
    assert [int(n) for n in shape] == [2, 2, 8, 16, 16]
    # where the tiles divide, no row of decisions is told from another
    evaluator = Evaluator({"a": np.array([1, 2, 4, 16]), "b": np.array([1, 4, 2, 1])})
    assert evaluator.holds(list(guards), np.ones(4, bool)).all()
    assert len(set(guards)) <= 4
    assert evaluator(shape[2]).tolist() == [1, 8, 8, 16]


@st.composite
def maps(draw: st.DrawFn) -> tuple[IndexMap, list[int]]:
    """Axes split (also by what does not divide), fused, and put into any order."""
    shape = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    cuts = [draw(st.none() | st.integers(1, 5)) for _ in shape]
    offset = draw(st.sampled_from([0, 0, 0, 2]))
    fuse = draw(st.booleans())
    count = sum(1 if c is None else 2 for c in cuts)
    order = draw(st.permutations(range(count)))

    def f(*i: Any) -> Any:
        digits: list[Any] = []
        for v, c in zip(i, cuts, strict=True):
            digits += [v] if c is None else [v // c, v % c]
        out = [digits[k] for k in order]
        if fuse and len(shape) > 1 and cuts[0] is None and cuts[1] is None:
            out = [x for x in out if x is not i[0] and x is not i[1]]
            out.append(i[0] * shape[1] + i[1])
        out[0] = out[0] + offset
        return out

    return IndexMap.from_func(f, len(shape)), shape


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(maps())
def test_maps_are_what_they_say_element_by_element(case: tuple[IndexMap, list[int]]) -> None:
    m, shape = case
    again = IndexMap.from_text(str(m))
    new = m.map_shape(shape)
    back, padding = m.non_surjective_inverse(shape)
    assert m.is_injective(shape)
    seen = set()
    for p in itertools.product(*map(range, shape)):
        q = at(m, p)
        assert at(again, p) == q
        assert all(0 <= x < n for x, n in zip(q, new, strict=True))
        assert at(back, q) == p
        seen.add(q)
    assert len(seen) == np.prod(shape)
    for q in itertools.product(*map(range, new)):
        table = {v: IntImm(x) for v, x in zip(back.initial_indices, q, strict=True)}
        assert bool(const_int(substitute(padding, table))) == (q not in seen)
    assert is_literal(padding, 0) == m.is_surjective(shape) == (len(seen) == np.prod(new))
