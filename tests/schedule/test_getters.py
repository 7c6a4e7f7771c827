"""The getters, and which handles a schedule takes."""

from __future__ import annotations

import pytest

from gputune.ir.nodes import IRModule
from gputune.schedule import BlockRV, Schedule

from . import schedule_programs as programs
from .schedule_helpers import loops, refuses, scheduled


def names(sch: Schedule, handles: list[BlockRV]) -> list[str]:
    return [sch.get(b).name for b in handles]


def test_get_block_finds_by_unique_name() -> None:
    sch = scheduled(programs.softmax())
    assert sch.get(sch.get_block("E")).name == "E"
    assert sch.get(sch.get_block("root", func_name="f")).name == "root"
    e = refuses(sch, "no-block", lambda: sch.get_block("e"), names="'e'")
    assert "did you mean" in e.hint or "it has" in e.hint
    refuses(sch, "no-function", lambda: sch.get_block("E", "g"), names="'g'")
    refuses(sch, "argument", lambda: sch.get_block(3), names="name")  # type: ignore[arg-type]  # wrong on purpose


def test_get_sblock_is_get_block() -> None:
    sch = scheduled(programs.softmax())
    assert sch.get(sch.get_sblock("E", func_name="f")).name == "E"
    assert str(sch.trace) == 'b0 = sch.get_block(name="E", func_name="f")'


def test_blocks_are_found_with_dots_and_without() -> None:
    """Named for a bug: the copy into shared.dyn was X_shared_dyn, and no TVM schedule says so."""
    sch = scheduled(programs.copy2d())
    sch.cache_read("Y", 0, "shared.dyn")
    sch.cache_read("Y", "X_shared.dyn", "wmma.matrix_a")
    sch.cache_write("Y", 0, "wmma.accumulator")
    found = [sch.get(b).name for b in sch.get_child_blocks(sch.get_block("root"))]
    assert found == ["X_shared.dyn", "X_shared.dyn_wmma.matrix_a", "Y", "Y_wmma.accumulator"]
    for name in found:
        assert sch.get(sch.get_block(name.replace(".", "_"))) is sch.get(sch.get_block(name))
    text = sch.mod.script()
    assert "X_shared_dyn_wmma_matrix_a[v0, v1] = X_shared_dyn[v0, v1]" in text  # names, so no dots
    from gputune.script import from_source

    again = scheduled(from_source(text))
    assert again.mod.script() == text
    for name in found:
        assert again.get(again.get_block(name)).name == name
    assert sch.can_decompose_padding("X_shared_dyn", loops(sch, "X_shared.dyn")[0]) is False


def test_a_name_as_it_is_comes_before_one_with_dots() -> None:
    sch = scheduled(programs.copy2d())
    sch.cache_read("Y", 0, "shared.dyn")
    from gputune.script import from_source

    text = sch.mod.script().replace('"Y"', '"X_shared_dyn"')
    both = scheduled(from_source(text))
    for name in ("X_shared.dyn", "X_shared_dyn"):
        assert both.get(both.get_block(name)).name == name
    twice = scheduled(from_source(text.replace('"X_shared_dyn"', '"X.shared_dyn"')))
    refuses(twice, "block-name", lambda: twice.get_block("X_shared_dyn"), names="2 blocks")


def test_get_block_refuses_names_that_two_blocks_have() -> None:
    sch = scheduled(programs.prefix_sum())
    mod = sch.mod.script().replace('"Q"', '"S"')
    from gputune.script import from_source

    twice = scheduled(from_source(mod))
    refuses(twice, "block-name", lambda: twice.get_block("S"), names="2 blocks")


def test_get_block_in_modules_of_several_functions() -> None:
    mod = IRModule({"main": programs.chain(), "other": programs.row_sum()})
    sch = scheduled(mod)
    assert names(sch, [sch.get_block("B")]) == ["B"]
    refuses(sch, "no-function", lambda: sch.work_on("nobody"), names="'nobody'")
    sch.work_on("other")
    refuses(sch, "no-block", lambda: sch.get_block("B"), names="'other'")
    assert len(loops(sch, "Y")) == 2
    assert 'func_name="other"' in str(sch.trace)


def test_get_loops_stop_at_the_scope_block() -> None:
    sch = scheduled(programs.nested_blocks())
    assert [sch.get(x).var.name for x in loops(sch, "outer")] == ["io", "jo"]
    assert [sch.get(x).var.name for x in loops(sch, "inner")] == ["i", "j"]
    assert loops(sch, "root") == []
    refuses(sch, "not-a-block", lambda: sch.get_loops(7), names="int 7")  # type: ignore[arg-type]  # wrong on purpose


def test_get_child_blocks() -> None:
    sch = scheduled(programs.nested_blocks())
    root = sch.get_block("root")
    assert names(sch, sch.get_child_blocks(root)) == ["B", "outer"]
    assert names(sch, sch.get_child_blocks(sch.get_block("outer"))) == ["inner"]
    assert names(sch, sch.get_child_blocks(loops(sch, "outer")[1])) == ["outer"]
    assert "= sch.get_child_blocks(b0)" in str(sch.trace)
    refuses(sch, "not-a-handle", lambda: sch.get_child_blocks(3), names="int 3")  # type: ignore[arg-type]  # wrong on purpose


def test_producers_and_consumers_in_order_and_once() -> None:
    sch = scheduled(programs.diamond())
    assert names(sch, sch.get_consumers("B")) == ["C", "D", "Z"]
    assert names(sch, sch.get_producers("Z")) == ["B", "C", "D"]
    assert names(sch, sch.get_producers("B")) == []
    assert names(sch, sch.get_consumers("Z")) == []
    refuses(sch, "no-block", lambda: sch.get_producers("nobody"), names="'nobody'")
    refuses(sch, "not-a-block", lambda: sch.get_consumers(3), names="int 3")  # type: ignore[arg-type]  # wrong on purpose


def test_get_output_blocks() -> None:
    sch = scheduled(programs.arg_max())
    assert names(sch, sch.get_output_blocks("root")) == ["V", "I"]
    refuses(sch, "not-a-block", lambda: sch.get_output_blocks(3), names="int 3")  # type: ignore[arg-type]  # wrong on purpose


def test_block_names_are_recorded_as_get_block() -> None:
    sch = scheduled(programs.chain())
    sch.compute_inline("B")
    assert str(sch.trace).splitlines() == [
        'b0 = sch.get_block(name="B", func_name="f")',
        "sch.compute_inline(block=b0)",
    ]
    refuses(sch, "inline-output", lambda: sch.compute_inline("Y"))


def test_handles_of_another_schedule_are_refused() -> None:
    one, two = scheduled(programs.chain()), scheduled(programs.chain())
    block, loop = one.get_block("B"), loops(one, "B")[0]
    refuses(two, "unknown-handle", lambda: two.get_loops(block), names="block")
    e = refuses(two, "unknown-handle", lambda: two.unroll(loop), names="loop")
    assert "copied from" in e.hint
    value = one.sample_categorical([1, 2], [0.5, 0.5])
    mine = loops(two, "B")[1]
    refuses(two, "unknown-value", lambda: two.split(mine, [None, value]), names="sampled value")


def test_handles_that_are_gone_say_so() -> None:
    sch = scheduled(programs.chain())
    i, j = loops(sch, "B")
    sch.fuse(i, j)
    e = refuses(sch, "loop-gone", lambda: sch.unroll(i), names="later primitive")
    assert "get_loops" in e.hint
    b = sch.get_block("B")
    sch.compute_inline(b)
    e = refuses(sch, "block-gone", lambda: sch.get_loops(b), names="later primitive")
    assert "get_block" in e.hint


def test_get_and_remove_rv() -> None:
    sch = scheduled(programs.chain())
    b = sch.get_block("B")
    i, _ = sch.get_loops(b)
    v = sch.sample_categorical([3], [1.0])
    assert sch.get(b).name == "B"
    assert sch.get(i).var.name == "i"
    assert sch.get(v) == 3
    assert sch.get(v * 2 + 1) == 7
    sch.remove_rv(i)
    refuses(sch, "unknown-handle", lambda: sch.unroll(i))
    refuses(sch, "unknown-handle", lambda: sch.remove_rv(i))


def test_a_schedule_needs_a_program() -> None:
    with pytest.raises(Exception, match="needs a PrimFunc or an IRModule, got int"):
        Schedule(5)  # type: ignore[arg-type]  # wrong on purpose
