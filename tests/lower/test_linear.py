"""Are linear forms, intervals and decisions true of every value of the variables?"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gputune.ir import build
from gputune.ir.nodes import BinOp, Cast, Expr, IntImm, Var
from gputune.lower import linear as lin

I, J, K = Var("i"), Var("j"), Var("k")  # noqa: E741
DOM: dict[Var, tuple[int, int]] = {I: (0, 12), J: (0, 3), K: (-5, 7)}
POINTS = [{I: i, J: j, K: k} for i in range(13) for j in range(4) for k in (-5, -1, 0, 3, 7)]


def evaluate(e: Expr, at: dict[Var, int]) -> Any:
    match e:
        case Var():
            return at[e]
        case IntImm():
            return e.value
        case Cast():
            return evaluate(e.value, at)
        case BinOp():
            a, b = evaluate(e.a, at), evaluate(e.b, at)
            return {
                "+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "//": lambda: a // b,
                "%": lambda: a % b, "min": lambda: min(a, b), "max": lambda: max(a, b),
                "<": lambda: a < b, "<=": lambda: a <= b, ">": lambda: a > b, ">=": lambda: a >= b,
                "==": lambda: a == b, "!=": lambda: a != b, "and": lambda: a and b,
                "or": lambda: a or b,
            }[e.op]()  # fmt: skip
        case _:
            raise AssertionError(e)


def _binary(op: Any, a: Expr, b: Expr) -> Expr:
    return BinOp(op, a, b, "int32")


LEAVES = st.one_of(st.sampled_from([I, J, K]), st.integers(-9, 40).map(IntImm))
INDEX: st.SearchStrategy[Expr] = st.recursive(
    LEAVES,
    lambda x: st.one_of(
        st.builds(_binary, st.sampled_from(["+", "-", "min", "max"]), x, x),
        st.builds(_binary, st.just("*"), x, st.integers(-4, 17).map(IntImm)),
        st.builds(_binary, st.sampled_from(["//", "%"]), x, st.integers(1, 16).map(IntImm)),
    ),
    max_leaves=7,
)
CONDITION: st.SearchStrategy[Expr] = st.recursive(
    st.builds(
        lambda op, a, b: BinOp(op, a, b, "bool"),
        st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), INDEX, INDEX,
    ),
    lambda x: st.builds(
        lambda op, a, b: BinOp(op, a, b, "bool"), st.sampled_from(["and", "or"]), x, x
    ),
    max_leaves=3,
)  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=400)
@given(INDEX)
def test_the_linear_form_has_the_same_value_and_lies_in_its_interval(e: Expr) -> None:
    form = lin.linear(e, DOM)
    back = lin.to_expr(form, "int32")
    lo, hi = lin.interval_of(form, DOM)
    for at in POINTS:
        value = evaluate(e, at)
        assert evaluate(back, at) == value
        assert lo <= value <= hi


@settings(derandomize=True, deadline=None, max_examples=200)
@given(CONDITION)
def test_a_decision_holds_everywhere(cond: Expr) -> None:
    known = lin.decide(cond, DOM)
    if known is not None:
        assert all(bool(evaluate(cond, at)) is known for at in POINTS)


def test_what_split_and_fuse_wrote_comes_back_as_a_sum() -> None:
    fused = _binary("+", _binary("*", I, IntImm(4)), J)
    row, column = _binary("//", fused, IntImm(4)), _binary("%", fused, IntImm(4))
    assert lin.linear(row, DOM).key() == lin.linear(I, DOM).key()
    assert lin.linear(column, DOM).key() == lin.linear(J, DOM).key()
    again = _binary(
        "+", _binary("*", _binary("//", I, IntImm(5)), IntImm(5)), _binary("%", I, IntImm(5))
    )
    assert lin.linear(again, DOM).key() == lin.linear(I, DOM).key()
    assert lin.decide(BinOp("<", fused, IntImm(52), "bool"), DOM) is True
    assert lin.decide(BinOp("<", fused, IntImm(51), "bool"), DOM) is None


def test_what_is_too_small_to_carry_leaves_a_division() -> None:
    """(4 t + lane) // 16 does not depend on a lane below 4, and the remainder is a plain sum."""
    t, lane = Var("t", "int32"), Var("lane", "int32")
    e = build.add(build.mul(t, 4), lane)
    dom = {t: (0, 7), lane: (0, 3)}
    quotient = lin.linear(build.floordiv(e, 16), dom)
    assert lin.key(lin.to_expr(quotient, "int32")) == lin.key(build.floordiv(t, IntImm(4)))
    rest = lin.linear(build.floormod(e, 16), dom)
    assert rest.coef(lane) == 1
    wide = {t: (0, 7), lane: (0, 4)}  # a lane of 4 carries
    assert lane not in lin.linear(build.floormod(e, 16), wide).terms
