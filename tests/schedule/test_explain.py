"""Does an explanation show each step with what it changed, and stop where a trace is refused?"""

from __future__ import annotations

import pytest

from gputune.errors import UserError
from gputune.ir.equal import structural_equal
from gputune.kernels import get
from gputune.schedule import Schedule, Trace
from gputune.schedule.explain import Explanation, explain


def scheduled() -> Schedule:
    sch = Schedule(get("matmul").build(m=16, n=16, k=16), seed=1)
    i, j, _k = sch.get_loops(sch.get_block("C"))
    factor = sch.sample_perfect_tile(i, 2, decision=[4, 4])
    sch.split(i, factor)
    sch.enter_postproc()
    sch.vectorize(j)
    return sch


def test_steps_lead_from_the_program_to_the_schedule() -> None:
    sch = scheduled()
    found = sch.explain(postproc=True)
    assert len(found) == len(sch.trace.insts) == 6
    assert found.steps[0].before.script() == sch._original.script()
    assert structural_equal(found.steps[-1].after, sch.mod)
    for a, b in zip(found, found.steps[1:]):
        assert a.after is b.before
    assert [s.line for s in found] == sch.trace.as_python()
    assert [s.number for s in found.changing] == [4, 6]
    assert [s.postproc for s in found] == [False] * 4 + [True] * 2


def test_a_difference_is_that_of_the_printed_programs() -> None:
    step = scheduled().explain().step(4)
    lines = step.diff(context=0).splitlines()
    removed = [x[1:] for x in lines if x.startswith("-")]
    added = [x[1:] for x in lines if x.startswith("+")]
    assert all(x in step.before.script().splitlines() for x in removed)
    assert all(x in step.after.script().splitlines() for x in added)
    assert any("i_0, i_1" in x for x in added)
    assert len(step.diff(context=3).splitlines()) > len(lines)
    assert scheduled().explain().step(1).diff() == ""


def test_postprocessing_is_left_out_where_asked() -> None:
    sch = scheduled()
    found = sch.explain()
    assert len(found) == 4
    assert found.hidden == 2
    assert "2 of postprocessing are not shown" in str(found)
    with pytest.raises(UserError, match="there is no step 6") as e:
        found.step(6)
    assert "--postproc" in str(e.value)
    for number in (0, -1, 7):
        with pytest.raises(UserError, match="there is no step"):
            sch.explain(postproc=True).step(number)


def test_text_shows_what_changes() -> None:
    text = str(scheduled().explain(postproc=True))
    assert "step 4: l6, l7 = sch.split(" in text
    assert "step 6: sch.vectorize(" in text
    assert "step 2:" not in text
    assert text.endswith("6 steps, 2 change the program")


def test_a_trace_that_does_not_apply_ends_with_why() -> None:
    sch = scheduled()
    other = Schedule(get("matmul").build(m=6, n=6, k=6)).mod
    found = explain(other, sch.trace)
    assert len(found) == 3
    assert found.steps[-1].error
    assert found.steps[-1] in found.changing
    assert "refused: " in str(found)


def test_an_empty_trace() -> None:
    found = explain(scheduled().mod, Trace())
    assert len(found) == 0
    assert str(found) == "0 steps, 0 change the program"
    assert isinstance(found, Explanation)
