"""Traces: their text, their JSON, editing them, and reading what others wrote."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from gputune.errors import RecordError, ScheduleError
from gputune.ir.equal import structural_equal
from gputune.schedule import KINDS, Instruction, InstructionKind, Schedule, Trace
from gputune.script import from_source

from . import schedule_programs as programs
from .schedule_helpers import loops, replays, scheduled

MANUAL = """\
b0 = sch.get_block(name="C", func_name="main")
l1, l2, l3 = sch.get_loops(block=b0)
l4, l5 = sch.split(loop=l2, factors=[None, 4], preserve_unit_iters=True)
sch.reorder(l1, l4, l3, l5)
b6 = sch.decompose_reduction(block=b0, loop=l3)"""

SAMPLED = """\
b0 = sch.get_block(name="C", func_name="main")
l1, l2, l3 = sch.get_loops(block=b0)
v4, v5 = sch.sample_perfect_tile(loop=l2, n=2, max_innermost_factor=16, decision=[128, 1])
l6, l7 = sch.split(loop=l2, factors=[v4, v5], preserve_unit_iters=True)
sch.reorder(l1, l6, l3, l7)
b8 = sch.decompose_reduction(block=b0, loop=l3)"""


def manual() -> Schedule:
    sch = scheduled(programs.tutorial())
    block = sch.get_block("C", "main")
    i, j, k = sch.get_loops(block)
    j_0, j_1 = sch.split(j, factors=[None, 4])
    sch.reorder(i, j_0, k, j_1)
    sch.decompose_reduction(block, k)
    return sch


def sampled(decision: list[int] | None = None) -> Schedule:
    sch = scheduled(programs.tutorial())
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    factors = sch.sample_perfect_tile(loop=j, n=2, decision=decision)
    j_0, j_1 = sch.split(j, factors=factors)
    sch.reorder(i, j_0, k, j_1)
    sch.decompose_reduction(block, k)
    return sch


# ----------------------------------------------------------------------------- printing
def test_b2_1_manual_trace_text() -> None:
    assert str(manual().trace) == MANUAL


def test_b2_5_stochastic_trace_text() -> None:
    assert str(sampled([128, 1]).trace) == SAMPLED


def test_b2_2_one_counter_names_all_results() -> None:
    sch = sampled()
    numbers = [
        int(x)
        for line in sch.trace.as_python()
        if " = " in line
        for x in re.findall(r"[blv](\d+)", line.split(" = ")[0])
    ]
    assert numbers == list(range(len(numbers)))


def test_b2_3_and_b2_4_arguments() -> None:
    sch = scheduled(programs.tutorial())
    block = sch.get_block("C")
    i, j, k = sch.get_loops(block)
    sch.get_child_blocks(block)
    f = sch.fuse(i, j)
    sch.annotate(f, "key", "value")
    sch.cache_write(block, 0, "local")
    sch.compute_at(sch.cache_read(block, 0, "shared"), k)
    assert sch.trace.as_python()[2:] == [
        "sch.get_child_blocks(b0)",
        "l4 = sch.fuse(l1, l2, preserve_unit_iters=True)",
        'sch.annotate(block_or_loop=l4, ann_key="key", ann_val="value")',
        'b5 = sch.cache_write(block=b0, write_buffer_index=0, storage_scope="local")',
        'b6 = sch.cache_read(block=b0, read_buffer_index=0, storage_scope="shared")',
        "sch.compute_at(block=b6, loop=l3, preserve_unit_loops=False)",
    ]
    replays(programs.tutorial(), sch)


def test_b2_6_postprocs_come_after_the_mark() -> None:
    sch = manual()
    sch.enter_postproc()
    i = sch.get_loops(sch.get_block("C_update"))[0]
    sch.unroll(i)
    lines = sch.trace.as_python()
    assert lines[5] == "sch.enter_postproc()"
    assert sch.trace.as_python(remove_postproc=True) == MANUAL.splitlines()
    assert sch.trace.as_json(remove_postproc=True) == manual().trace.as_json()


def test_b2_7_text_and_repr_agree() -> None:
    trace = manual().trace
    assert str(trace) == repr(trace) == MANUAL
    assert "sch.split" in trace._repr_html_()


@pytest.mark.parametrize("text", [MANUAL, SAMPLED])
def test_b2_8_text_replays(text: str) -> None:
    wanted = manual() if text == MANUAL else sampled([128, 1])
    again = Schedule(programs.tutorial())
    Trace.from_python(text).apply_to_schedule(again)
    assert structural_equal(again.mod, wanted.mod)
    assert str(again.trace) == text


def test_traces_show(capsys: pytest.CaptureFixture[str]) -> None:
    manual().trace.show()
    assert capsys.readouterr().out.strip() == MANUAL


def test_a_list_of_one_prints_with_a_comma() -> None:
    sch = scheduled(programs.halo())
    (i,) = loops(sch, "Y")
    (only,) = sch.split(i, [8])
    fused = sch.fuse(only)
    lines = sch.trace.as_python()
    assert lines[1] == "l1, = sch.get_loops(block=b0)"
    assert lines[2].startswith("l2, = sch.split(")
    assert lines[3].startswith("l3 = sch.fuse(l2, ")
    assert sch.get(fused).extent.value == 8
    replays(programs.halo(), sch)


# ----------------------------------------------------------------------------- scripts
def test_b2_10_to_b2_13_script_of_the_manual_schedule() -> None:
    sch = manual()
    text = sch.mod.script()
    for token in (
        "class Module:",
        "@T.prim_func",
        "def main(",
        "T.func_attr({",
        '# with T.block("root")',
        'with T.block("C_init")',
        'with T.block("C_update")',
        "for j_1_init in range(4)",
        "T.axis.spatial(128, j_0 * 4 + j_1)",
        "T.axis.spatial(128, j_0 * 4 + j_1_init)",
        "T.reads(C[vi, vj], A[vi, vk], B[vk, vj])",
        "T.writes(C[vi, vj])",
    ):
        assert token in text
    assert text.index("C_init") < text.index("for k") < text.index("C_update")
    assert structural_equal(from_source(text), sch.mod)


def test_b2_14_to_b2_18_tokens() -> None:
    sch = scheduled(programs.tutorial())
    block = sch.get_block("C")
    sch.annotate(block, "meta_schedule.tiling_structure", "SSRSRS")
    sch.cache_write(block, 0, "global")
    i, j, k = sch.get_loops(block)
    i_0, i_1 = sch.split(i, [None, 4])
    j_0, j_1 = sch.split(j, [128, 1])
    sch.reorder(i_0, j_0, i_1, j_1)
    sch.decompose_reduction(block, k)
    f = sch.fuse(i_0, j_0)
    sch.annotate(f, "pragma_auto_unroll_max_step", 16)
    sch.annotate(f, "pragma_unroll_explicit", 1)
    text = sch.mod.script()
    assert 'T.block_attr({"meta_schedule.tiling_structure": "SSRSRS"})' in text
    assert 'with T.block("C_global")' in text
    assert "C_global = T.alloc_buffer((128, 128))" in text
    assert "i_0_j_0_fused" in text
    assert 'annotations={"pragma_auto_unroll_max_step": 16, "pragma_unroll_explicit": 1}' in text
    assert structural_equal(from_source(text), sch.mod)


def test_b2_17_a_factor_of_one_keeps_its_loop() -> None:
    text = sampled([128, 1]).mod.script()
    assert "for j_1_init in range(1)" in text
    assert "j_1_init" in text.split("C_init")[1].split("C_update")[0]


# ----------------------------------------------------------------------------- JSON
def example() -> Schedule:
    """The example of the reference, by our primitives."""
    sch = scheduled(programs.tutorial())
    block = sch.get_block("C", "main")
    _, j, _ = sch.get_loops(block)
    factors = sch.sample_perfect_tile(j, n=2, max_innermost_factor=16, decision=[16, 8])
    sch.split(j, factors)
    sch.annotate(block, "k1", "str")
    sch.cache_read(block, 0, "shared")
    sch.enter_postproc()
    return sch


def test_json_of_the_reference_example() -> None:
    assert example().trace.as_json() == [
        [
            ["GetSBlock", [], ["C", "main"], ["b0"]],
            ["GetLoops", ["b0"], [], ["l1", "l2", "l3"]],
            ["SamplePerfectTile", ["l2"], [2, 16], ["v4", "v5"]],
            ["Split", ["l2", "v4", "v5"], [True, False], ["l6", "l7"]],
            ["Annotate", ["b0", '"str"'], ["k1"], []],
            ["CacheRead", ["b0", []], [0, "shared"], ["b8"]],
            ["EnterPostproc", [], [], []],
        ],
        [[2, [16, 8]]],
    ]


def test_json_with_none_factors_and_arithmetic() -> None:
    sch = scheduled(programs.tutorial())
    i = sch.get_loops(sch.get_block("C"))[0]
    v = sch.sample_categorical([2, 4], [0.5, 0.5], decision=1)
    sch.split(i, [None, v * 2])
    assert sch.trace.as_json()[0][-1][1] == ["l1", "None", "(v4 * 2)"]
    assert "factors=[None, (v4 * 2)]" in str(sch.trace)
    replays(programs.tutorial(), sch)


def test_older_spellings_are_read() -> None:
    obj = example().trace.as_json()
    obj[0][0][0] = "GetBlock"
    obj[0][3][2] = [1]  # a file that has 1 for True, and no disable_predication yet
    again = Schedule(programs.tutorial())
    Trace.apply_json_to_schedule(obj, again)
    assert structural_equal(again.mod, example().mod)
    assert "preserve_unit_iters=True)" in str(again.trace)
    text = MANUAL.replace("get_block", "get_sblock")
    Trace.from_python(text).apply_to_schedule(Schedule(programs.tutorial()))
    whole = "# from tvm import s_tir\ndef apply_trace(sch: s_tir.Schedule) -> None:\n" + "\n".join(
        "  " + line for line in text.splitlines()
    )
    assert str(Trace.from_python(whole)) == MANUAL


def test_json_is_text_too() -> None:
    again = Schedule(programs.tutorial())
    Trace.apply_json_to_schedule(json.dumps(example().trace.as_json()), again)
    assert again.trace.as_json() == example().trace.as_json()


# ----------------------------------------------------------------------------- editing
def test_append_pop_and_decisions() -> None:
    sch = sampled([8, 16])
    trace = sch.trace.copy()
    sample = trace.insts[2]
    assert trace.get_decision(sample) == [8, 16]
    assert trace.get_decision(trace.insts[0]) is None
    while trace.insts[-1] is not sample:
        trace.pop()
    assert trace.pop() is sample
    assert trace.decisions == {}
    trace.append(sample)
    assert str(trace).splitlines()[-1] == (
        "v4, v5 = sch.sample_perfect_tile(loop=l2, n=2, max_innermost_factor=16)"
    )
    trace.pop()
    trace.append(sample, [4, 32])
    assert "decision=[4, 32]" in str(trace)
    assert len(sch.trace.insts) == 6, "the copy went its own way"
    empty = Trace()
    assert empty.pop() is None
    assert str(empty) == ""


def test_with_decision_is_a_copy() -> None:
    sch = sampled([8, 16])
    sample = sch.trace.insts[2]
    other = sch.trace.with_decision(sample, [32, 4], remove_postproc=True)
    assert other.get_decision(sample) == [32, 4]
    assert sch.trace.get_decision(sample) == [8, 16]
    with pytest.raises(ScheduleError, match="not in this trace"):
        other.with_decision(Instruction(InstructionKind.get("EnterPostproc"), (), (), ()), 1)
    with pytest.raises(ScheduleError, match="a Trace is not in this trace"):
        sch.trace.with_decision(Trace(), 1)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ScheduleError, match="get_block takes no decision"):
        sch.trace.with_decision(sch.trace.insts[0], 1)
    bad = sch.trace.with_decision(sample, [3, 5])
    with pytest.raises(ScheduleError, match="product is 15"):
        bad.apply_to_schedule(Schedule(programs.tutorial()))


def test_simplified_drops_what_nobody_uses() -> None:
    sch = sampled([8, 16])
    block = sch.get_block("C_update")
    i = sch.get_loops(block)[0]
    sch.sample_categorical([1, 2], [0.5, 0.5])
    sch.sample_perfect_tile(i, 2)
    sch.get_consumers(block)
    assert str(sch.trace.simplified()) == SAMPLED.replace("[128, 1]", "[8, 16]")
    v = sch.sample_categorical([1, 2], [0.5, 0.5])
    sch.annotate(i, "nested", [v * 2, 1])
    kept = sch.trace.simplified()
    assert [x.kind.name for x in kept.insts[-2:]] == ["SampleCategorical", "Annotate"]
    again = Schedule(programs.tutorial())
    kept.apply_to_schedule(again)
    assert structural_equal(again.mod, sch.mod)


def test_instruction_kinds() -> None:
    assert InstructionKind.get("GetBlock") is InstructionKind.get("GetSBlock")
    assert InstructionKind.get("SamplePerfectTile").is_pure
    assert not InstructionKind.get("Split").is_pure
    with pytest.raises(ScheduleError, match="unknown instruction kind 'Splat'") as caught:
        InstructionKind.get("Splat")
    assert "Split" in caught.value.hint
    for kind in KINDS.values():
        assert hasattr(Schedule, kind.method)
        assert kind.fn.__doc__


def test_a_trace_needs_its_getters() -> None:
    sch = manual()
    broken = Trace(sch.trace.insts[1:])
    with pytest.raises(ScheduleError, match="no earlier one made"):
        broken.apply_to_schedule(Schedule(programs.tutorial()))


def test_a_trace_of_another_program_is_refused() -> None:
    with pytest.raises(ScheduleError, match="no block named 'C'"):
        manual().trace.apply_to_schedule(Schedule(programs.halo()))
    sch = scheduled(programs.copy2d())
    sch.fuse(*loops(sch, "Y"))
    with pytest.raises(ScheduleError, match="1 results where the trace has 2"):
        sch.trace.apply_to_schedule(Schedule(programs.halo()))


def test_a_workload_under_another_name_is_the_same() -> None:
    func = programs.copy2d()
    sch = scheduled(func)
    sch.fuse(*loops(sch, "Y"))
    again = Schedule(func.with_attr("global_symbol", "other"))
    sch.trace.apply_to_schedule(again)
    assert 'func_name="other"' in str(again.trace)


# ----------------------------------------------------------------------------- hostile
GET = 'b0 = sch.get_block(name="C", func_name="main")\n'


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("__import__('os').system('true')", "line 1"),
        ("import os", "line 1"),
        ("sch.__class__", "line 1"),
        ("sch.mod.show()", "line 1"),
        ("sch.show()", "line 1"),
        ("sch.trace.pop()", "line 1"),
        ("other.get_block(name='C')", "line 1"),
        ("b0 = open('/etc/passwd')", "line 1"),
        (GET + "exec('1')", "line 2"),
        (GET + "l1 = sch.get_loops(block=b9)", "line 2.*'b9'"),
        (GET + "l1 = sch.get_loops(block=b0.name)", "line 2"),
        (GET + "l1 = sch.get_loops(block=(lambda: b0)())", "line 2"),
        (GET + "l1 = sch.get_loops(block=[x for x in b0])", "line 2"),
        (GET + "l1 = sch.get_loops(*b0)", "line 2"),
        (GET + "l1 = sch.get_loops(**b0)", "line 2"),
        (GET + "l1 = sch.get_loops(b0, b0)", "line 2.*1 argument"),
        (GET + "l1 = sch.get_loops()", "line 2.*needs block"),
        (GET + "l1 = sch.get_loops(b0, block=b0)", "line 2.*two values"),
        (GET + "l1 = sch.get_loops(block=b0, block=b0)", "line [2]|repeated"),
        (GET + "l1 = sch.get_loops(block=b0, decision=[1])", "line 2.*no decision"),
        (GET + "l1 = sch.get_loops(block=b0, other=1)", "line 2.*'other'"),
        (GET + "x1 = sch.get_loops(block=b0)", "line 2.*'x1'"),
        (GET + "b0.x = sch.get_loops(block=b0)", "line 2"),
        (GET + "l1, l2[0] = sch.get_loops(block=b0)", "line 2"),
        ("b0 = sch.get_block(name=f'{1}')", "line 1"),
        ("b0 = sch.get_block(name=b'C')", "line 1"),
        ("b0 = sch.get_block(name=3)", "line 1.*name must be a string"),
        ("v0 = sch.sample_categorical(candidates=[1 // 0], probs=[1.0])", "line 1.*zero"),
        ("v0 = sch.sample_categorical(candidates=[1], probs=['x'])", "line 1.*probs"),
        ("v0 = sch.sample_categorical(candidates=[1], probs=[1.0], decision='x')", "line 1"),
        ("while True: pass", "line 1"),
        ("if 1:\n    sch.enter_postproc()", "line 1"),
        ("sch.enter_postproc(", "not Python"),
        ("sch.enter_postproc()\0", "trace"),
        ("b0 = sch.get_block(name=" + "[" * 5000 + "]" * 5000 + ")", "trace"),
        ("b0 = sch.get_block(name=" + "1+" * 20000 + "1)", "trace"),
    ],
)
def test_hostile_text_is_refused(text: str, match: str) -> None:
    with pytest.raises(RecordError, match=match) as caught:
        Trace.from_python(text)
    assert len(str(caught.value)) < 400


def deep(n: int) -> Any:
    x: Any = 1
    for _ in range(n):
        x = [x]
    return x


G = ["GetSBlock", [], ["C", "main"], ["b0"]]


@pytest.mark.parametrize(
    "obj",
    [
        None,
        5,
        "nonsense",
        "[" * 100000,
        [],
        [[]],
        [[], [], []],
        [{}, []],
        [[5], []],
        [[["GetSBlock"]], []],
        [[["Nothing", [], [], []]], []],
        [[["__class__", [], [], []]], []],
        [[[["GetSBlock"], [], [], []]], []],
        [[["GetSBlock", [], ["C", "main", 3], ["b0"]]], []],
        [[["GetSBlock", [], [], ["b0"]]], []],
        [[["GetSBlock", [], [["C"], "main"], ["b0"]]], []],
        [[["GetSBlock", [], [5, "main"], ["b0"]]], []],
        [[["GetSBlock", ["b0"], ["C", "main"], ["b0"]]], []],
        [[["GetSBlock", {}, ["C", "main"], ["b0"]]], []],
        [[["GetSBlock", [], ["C", "main"], ["x"]]], []],
        [[["GetSBlock", [], ["C", "main"], [7]]], []],
        [[G, ["GetLoops", ["b1"], [], ["l1", "l2", "l3"]]], []],
        [[G, ["GetLoops", ["_"], [], ["l1", "l2", "l3"]]], []],
        [[G, ["GetLoops", ["__import__('os')"], [], ["l1"]]], []],
        [[G, ["GetLoops", ["b0.x"], [], ["l1"]]], []],
        [[G, ["GetLoops", [], [], ["l1"]]], []],
        [[G, ["Annotate", ["b0", '"open'], ["k"], []]], []],
        [[G, ["Annotate", ["b0", "1 +"], ["k"], []]], []],
        [[G, ["Annotate", ["b0", "1 // 0"], ["k"], []]], []],
        [[G, ["Annotate", ["b0", deep(100000)], ["k"], []]], []],
        [[G, ["CacheRead", ["b0", 5], [0, "local"], ["b1"]]], []],
        [[G, ["StorageAlign", ["b0"], [0, "x", 1, 1], []]], []],
        [[G, ["StorageAlign", ["b0"], [0, [1], 1, 1], []]], []],
        [[G], [[0, [1]]]],
        [[G], [[5, [1]]]],
        [[G], [[-1, [1]]]],
        [[G], ["x"]],
        [[["SampleCategorical", [], [[1], [1.0]], ["v0"]]], [[0, "x"]]],
        [[["SampleCategorical", [], [[1], [1.0]], ["v0"]]], [[0, [0]]]],
        [[["SampleCategorical", [], [["x"], [1.0]], ["v0"]]], []],
    ],
)
def test_hostile_json_is_refused(obj: Any) -> None:
    sch = Schedule(programs.tutorial())
    with pytest.raises(RecordError, match="trace"):
        Trace.apply_json_to_schedule(obj, sch)
    assert sch.trace.insts == []


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (["Split", ["b0", 2, 64], [True, False], ["l9", "l8"]], "not-a-loop"),
        (["GetLoops", [5], [], ["l9"]], "not-a-block"),
        (["Reorder", ["b0"], [], []], "not-a-loop"),
        (["Split", ["l1", "l2"], [True, False], ["l9"]], "not-an-int"),
        (["Split", ["l1", 1.5], [True, False], ["l9"]], "not-an-int"),
        (["Split", ["l1", *[1] * 20000, 128], [True, False], []], "split-factors"),
        (["SamplePerfectTile", ["l1"], [10**6, 16], ["v9"]], "sample-arguments"),
        (["CacheRead", ["b0", [5]], [0, "local"], ["b9"]], "not-a-block"),
        (["GetLoops", ["b0"], [], ["l9"]], "replay-outputs"),
    ],
)
def test_legal_json_that_asks_for_the_impossible(line: Any, code: str) -> None:
    start = [G, ["GetLoops", ["b0"], [], ["l1", "l2", "l3"]]]
    with pytest.raises(ScheduleError) as caught:
        Trace.apply_json_to_schedule([[*start, line], []], Schedule(programs.tutorial()))
    assert caught.value.code == code
