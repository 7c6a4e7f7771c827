"""What is asked of numbers that come from fused loops: remainders without questions of sizes, and
bindings under a predicate that cuts through them."""

from __future__ import annotations

from gputune.ir import build
from gputune.ir.boxes import relax
from gputune.ir.intervals import bounds
from gputune.ir.iter_map import is_affine_binding
from gputune.ir.nodes import IntImm, Range, Var
from gputune.schedule.dim import Dim, expr_of, recording


def test_a_predicate_that_cuts_through_the_outer_loop() -> None:
    """1536 points of shape (1, 12, 128), in 2 x 1024 steps."""
    a, b = Var("a"), Var("b")
    x = build.add(build.mul(a, IntImm(1024)), b)

    def digit(lower: int, extent: int | None) -> object:
        e = build.floordiv(x, IntImm(lower))
        return e if extent is None else build.floormod(e, IntImm(extent))

    values = [digit(1536, None), digit(128, 12), build.floormod(x, IntImm(128))]
    loops = {a: (0, 2), b: (0, 1024)}
    guard = build.lt(x, IntImm(1536))
    assert is_affine_binding([1, 12, 128], values, loops, guard)  # type: ignore[arg-type]  # Exprs
    lost = [values[0], digit(128, 6), values[2]]
    assert not is_affine_binding([1, 6, 128], lost, loops, guard)  # type: ignore[arg-type]


def test_a_remainder_of_a_fused_loop_asks_no_size() -> None:
    """`f % n` with f in 0 .. m*n - 1 is all of 0 .. n - 1, whether m is 1 or not."""
    f = Var("f")
    for m in (1, 3):
        outer, inner = Dim(m, "m"), Dim(4, "n")
        e = build.floormod(f, IntImm(inner))
        with recording() as guards:
            (box,) = relax([Range(e, IntImm(1))], {f: (0, outer * inner)})
            lo, hi = bounds(e, {f: (0, outer * inner - 1)})
        assert type(box.extent) is IntImm
        assert expr_of(box.extent.value) == "n"
        assert (lo, int(hi or 0)) == (0, 3)
        # only whether the remainder of m*n by n is 0 was asked, which is known without m
        assert {g[0] for g in guards} <= {"eq", "le", "gt"}
        assert not any(g[0] in ("le", "lt") and g[3] is (m == 1) for g in guards if g[1] == "m")
