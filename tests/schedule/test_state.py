"""What a schedule promises around its primitives: options, copies, errors that draw, and the silent
behaviours of the reference (1.3.8) that are refused here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gputune.errors import CheckError, ScheduleError
from gputune.ir.equal import structural_equal
from gputune.ir.nodes import IRModule
from gputune.schedule import Schedule

from . import schedule_programs as programs
from .schedule_helpers import loops, refuses, replays, scheduled


@pytest.mark.parametrize(
    "options",
    [
        {"debug_mask": "some"},
        {"error_render_level": "loud"},
        {"seed": -5},
        {"seed": 2**31},
        {"seed": "a"},
        {"seed": 1.5},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ScheduleError) as caught:
        Schedule(programs.copy2d(), **options)
    assert str(next(iter(options.values()))) in caught.value.message


def test_seeds_decide_and_fork() -> None:
    def draws(seed: int) -> list[int]:
        sch = Schedule(programs.copy2d(), seed=seed)
        return [int(sch.get(sch.sample_categorical([*range(50)], [1.0] * 50))) for _ in range(5)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    sch = Schedule(programs.copy2d(), seed=7)
    first = sch.fork_seed()
    assert 1 <= first < 2**31
    assert sch.fork_seed() != first
    sch.seed(7)
    assert sch.fork_seed() == first
    assert Schedule(programs.copy2d()).fork_seed() != Schedule(programs.copy2d()).fork_seed()


def test_a_refused_call_draws_nothing() -> None:
    sch = Schedule(programs.copy2d(), seed=3)
    i = loops(sch, "Y")[0]
    refuses(sch, "sample-arguments", lambda: sch.sample_perfect_tile(i, 0))
    other = Schedule(programs.copy2d(), seed=3)
    assert sch.fork_seed() == other.fork_seed()


def test_copies_go_their_own_way() -> None:
    sch = scheduled(programs.chain())
    b = sch.get_block("B")
    i, j = sch.get_loops(b)
    v = sch.sample_categorical([2], [1.0])
    other = sch.copy()
    before = sch.mod
    other.split(i, [None, v])
    other.compute_inline(b)
    assert sch.mod is before
    assert len(other.trace.insts) == len(sch.trace.insts) + 2
    sch.fuse(i, j)
    refuses(other, "block-gone", lambda: other.get_loops(b))
    refuses(sch, "loop-gone", lambda: sch.unroll(i))
    replays(programs.chain(), other)
    replays(programs.chain(), sch)
    assert other.diff(sch)
    assert other.error_render_level == sch.error_render_level
    assert other.debug_mask == "all"


def test_the_copy_of_a_seeded_schedule_is_seeded() -> None:
    one, two = (Schedule(programs.copy2d(), seed=5).copy() for _ in range(2))
    assert one.fork_seed() == two.fork_seed()


def test_debug_mask_checks_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from gputune.schedule import state

    seen: list[IRModule] = []
    monkeypatch.setattr(state, "check", seen.append)
    sch = Schedule(programs.copy2d(), debug_mask="all")
    sch.fuse(*loops(sch, "Y"))
    assert len(seen) == 3
    sch = Schedule(programs.copy2d(), debug_mask="none")
    sch.fuse(*loops(sch, "Y"))
    assert len(seen) == 3

    def broken(_: IRModule) -> None:
        raise CheckError("broken")

    monkeypatch.setattr(state, "check", broken)
    sch = Schedule(programs.copy2d(), debug_mask=-1)
    with pytest.raises(CheckError):
        sch.get_block("Y")
    assert sch.trace.insts == []


def test_errors_draw_the_program_on_request() -> None:
    texts = {}
    for level in ("detail", "fast", "none"):
        sch = scheduled(programs.row_sum(), error_render_level=level)
        k = loops(sch, "Y")[1]
        texts[level] = str(refuses(sch, "feeds-reduce", lambda: sch.parallel(k)))  # noqa: B023
    marked = [x for x in texts["detail"].splitlines() if x.startswith(">")]
    assert len(marked) == 2
    assert "for i, k in T.grid(4, 7)" in marked[0] or "for k" in marked[0]
    assert 'with T.block("Y")' in marked[1]
    assert "hint: use rfactor" in texts["fast"]
    assert ">" not in texts["fast"]
    assert "hint" not in texts["none"]
    for text in texts.values():
        assert text.startswith("parallel: the loop k feeds the reduce iterator vk of block Y")


def test_errors_draw_the_program_as_it_was_when_refused() -> None:
    sch = scheduled(programs.row_sum())
    i, k = loops(sch, "Y")
    e = refuses(sch, "feeds-reduce", lambda: sch.parallel(k))
    sch.split(i, [2, 2])
    assert "i_0" not in str(e)


def test_enable_check_leaves_out_protection_only() -> None:
    sch = scheduled(programs.prefix_sum(), enable_check=False)
    sch.parallel(loops(sch, "S")[0])
    i = sch.get_loops(sch.get_block("S"))[0]
    refuses(sch, "loop-kind", lambda: sch.split(i, [2, 4]))
    assert sch.copy().enable_check is False


def test_show_and_diff(capsys: pytest.CaptureFixture[str]) -> None:
    sch = scheduled(programs.copy2d())
    assert sch.diff() == ""
    sch.unroll(loops(sch, "Y")[0])
    lines = sch.diff().splitlines()
    assert lines[:2] == ["--- before", "+++ now"]
    assert any(x.startswith("-") and "T.grid(4, 6)" in x for x in lines)
    assert any(x.startswith("+") and "T.unroll(4)" in x for x in lines)
    assert sch.diff(sch) == ""
    assert sch.diff(Schedule(programs.copy2d())).startswith("--- other")
    sch.show()
    out = capsys.readouterr().out
    assert "T.unroll(4)" in out
    assert "sch.unroll(loop=l1)" in out
    assert "T.unroll" in sch._repr_html_()
    sch.show("monokai", black_format=False)
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("what", [3, 2.5, "Y", None, True])
def test_get_takes_handles_only(what: Any) -> None:
    sch = scheduled(programs.copy2d())
    v = sch.sample_categorical([4], [1.0])
    assert sch.get(v * 2 + 1) == 9
    refuses(sch, "not-a-handle", lambda: sch.get(what), names=repr(what))


def test_argument_mistakes_are_named() -> None:
    sch = scheduled(programs.copy2d())
    i, _ = loops(sch, "Y")
    with pytest.raises(TypeError, match="has no argument 'factor'"):
        sch.split(i, factor=[2, 2])  # type: ignore[call-arg]  # wrong on purpose
    with pytest.raises(TypeError, match="needs 'factors'"):
        sch.split(i)  # type: ignore[call-arg]  # wrong on purpose
    with pytest.raises(TypeError, match="takes 4 arguments"):
        sch.split(i, [2, 2], True, False, 5)  # type: ignore[call-arg]  # wrong on purpose
    with pytest.raises(TypeError, match="two values for 'loop'"):
        sch.split(i, loop=i, factors=[2, 2])  # type: ignore[misc]  # wrong on purpose
    refuses(sch, "argument", lambda: sch.split(i, [2, 2], "yes"), names="preserve_unit_iters")  # type: ignore[arg-type]  # wrong on purpose


def test_numpy_integers_are_integers() -> None:
    sch = scheduled(programs.copy2d())
    i, j = loops(sch, "Y")
    sch.split(i, list(np.array([2, 2])), preserve_unit_iters=1)  # type: ignore[arg-type]  # as read
    sch.split(j, sch.sample_perfect_tile(j, np.int64(2)))  # type: ignore[arg-type]  # as read
    replays(programs.copy2d(), sch)


# ----------------------------------------------------------------------------- 1.3.8
def test_nothing_is_dropped_silently() -> None:
    sch = scheduled(programs.copy2d())
    i, j = loops(sch, "Y")
    sch.annotate(i, "note", 1)
    refuses(sch, "annotation-exists", lambda: sch.annotate(i, "note", 2))
    refuses(sch, "annotation-missing", lambda: sch.unannotate(j, "note"))
    refuses(sch, "thread-axis", lambda: sch.bind(j, "threadIdx.q"))
    for kind in ("parallel", "vectorize", "unroll"):
        sch = scheduled(programs.copy2d())
        i, j = loops(sch, "Y")
        getattr(sch, kind)(i)
        e = refuses(sch, "loop-kind", lambda: sch.split(i, [2, 2]), names="split would lose")  # noqa: B023
        assert "first" in e.hint
        refuses(sch, "loop-kind", lambda: sch.fuse(i, j), names="fuse would lose")  # noqa: B023


def test_refusals_after_failures_do_not_depend_on_them() -> None:
    # a refused call must not change what is accepted later
    def run(interrupt: bool) -> str:
        sch = scheduled(programs.softmax())
        sch.vectorize(loops(sch, "E")[1])
        sch.decompose_reduction("M", loops(sch, "M")[1])
        if interrupt:
            refuses(sch, "no-block", lambda: sch.get_block("nobody"))
        try:
            sch.compute_at("E", loops(sch, "Y")[0])
        except ScheduleError as e:
            return e.code
        try:
            sch.parallel(loops(sch, "S")[0])
        except ScheduleError as e:
            return e.code
        return "accepted"

    assert run(True) == run(False)


def test_modules_keep_their_other_functions() -> None:
    mod = IRModule({"main": programs.chain(), "other": programs.row_sum()})
    sch = scheduled(mod)
    sch.compute_inline("B")
    assert sch.mod["other"] is mod["other"]
    assert not structural_equal(sch.mod["main"], mod["main"])
