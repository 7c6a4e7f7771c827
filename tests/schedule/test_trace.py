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
        [[G, ["TransformBlockLayout", ["b0"], ['{"root_index":0,"nodes":[]}'], []]], []],
        [[G, ["TransformBlockLayout", ["b0"], ['{"nodes":5}'], []]], []],
        [[G, ["TransformBlockLayout", ["b0"], [], []]], []],
        [[G, ["AnnotateBufferAccess", ["b0", 0, 2, "lambda i: (i, i + 1)"], [], []]], []],
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


# ----------------------------------------------------------------------------- what TVM writes
# kind: (inputs, attributes, takes a decision), as in table 1.3.9 of the reference; a flat input, of
# any number of loops or factors, counts as one.
FORMS = {
    "AddUnitLoop": (1, 0, False), "Annotate": (2, 1, False), "AnnotateBufferAccess": (4, 0, False),
    "Bind": (1, 1, False), "Blockize": (1, 1, False), "CacheIndex": (1, 2, False),
    "CacheInplace": (1, 2, False), "CacheRead": (2, 2, False), "CacheWrite": (2, 2, False),
    "ComputeAt": (2, 2, False), "ComputeInline": (1, 0, False), "DecomposePadding": (2, 0, False),
    "DecomposeReduction": (2, 0, False), "EnterPostproc": (0, 0, False), "Fuse": (1, 1, False),
    "FuseReductionEpilogue": (2, 0, False), "GetChildBlocks": (1, 0, False),
    "GetConsumers": (1, 0, False), "GetLoops": (1, 0, False), "GetOutputBlocks": (1, 0, False),
    "GetProducers": (1, 0, False), "GetSBlock": (0, 2, False), "LoopPartition": (2, 1, False),
    "Merge": (1, 0, False), "PadEinsum": (1, 1, False), "Parallel": (1, 0, False),
    "RFactor": (1, 1, False), "ReIndex": (1, 2, False), "ReadAt": (2, 2, False),
    "ReindexCacheRead": (2, 2, False), "ReindexCacheWrite": (2, 2, False), "Reorder": (1, 0, False),
    "ReorderBlockIterVar": (2, 0, False), "ReverseComputeAt": (2, 2, False),
    "ReverseComputeInline": (1, 0, False), "RollingBuffer": (1, 1, False),
    "SampleCategorical": (0, 2, True), "SampleComputeLocation": (1, 0, True),
    "SamplePartitionedTile": (1, 3, True), "SamplePerfectTile": (1, 2, True),
    "SetScope": (1, 2, False), "Split": (2, 2, False), "StorageAlign": (1, 4, False),
    "Tensorize": (1, 2, False), "TransformBlockLayout": (1, 1, False),
    "TransformLayout": (2, 4, False), "Unannotate": (1, 1, False), "Unroll": (1, 0, False),
    "UnsafeHideBufferAccess": (3, 0, False), "UnsafeSetDType": (1, 2, False),
    "Vectorize": (1, 0, False), "WriteAt": (2, 2, False),
}  # fmt: skip


def test_every_kind_has_the_inputs_and_attributes_of_the_reference() -> None:
    assert len(FORMS) == 52
    for name, form in FORMS.items():
        kind = InstructionKind.get(name)
        pairs = sum(kind.forms.get(a) == "BufferAccess" for a in kind.attrs)
        mine = len(kind.inputs), len(kind.attrs) + pairs, kind.samples
        if name == "TransformBlockLayout":  # here the map may hold sampled values: it is an input
            assert (mine, form) == ((2, 0, False), (1, 1, False))
        else:
            assert mine == form, name


def graph(*final: Any, old: bool = False) -> str:
    """A map of i, j as TVM writes it, from nested (operation, a, b) over "i", "j" and integers."""
    nodes: list[dict[str, Any]] = [{"type_key": ""} if old else {"type": "None"}]

    def put(kind: str, **fields: Any) -> int:
        if old:
            nodes.append({"type_key": kind, "attrs": {k: str(v) for k, v in fields.items()}})
        else:
            nodes.append({"type": kind, "data": fields})
        return len(nodes) - 1

    def plain(kind: str, data: Any) -> int:
        head = {"type_key": kind} if old else {"type": kind}
        nodes.append(head | ({"repr_str": data} if old and kind[-1] == "g" else {"data": data}))
        return len(nodes) - 1

    text = "runtime.String" if old else "ffi.String"
    array = "Array" if old else "ffi.Array"
    at: dict[Any, int] = {v: put("ir.Var", name=plain(text, v)) for v in "ij"}
    initial = plain(array, list(at.values()))

    def expr(x: Any) -> int:
        if isinstance(x, tuple):
            return put(f"tir.{x[0]}", a=expr(x[1]), b=expr(x[2]))
        if isinstance(x, float):
            return put("FloatImm", value=x)
        if isinstance(x, int):
            return put("IntImm", value=x if old else plain("int", x))
        return at[x]

    last = plain(array, [expr(x) for x in final])
    root = put("tir.IndexMap", initial_indices=initial, final_indices=last, inverse_index_map=0)
    return json.dumps({"root" if old else "root_index": root, "nodes": nodes})


TILED = (("FloorDiv", "i", 16), ("Add", "j", -3), ("Min", ("FloorMod", "i", 16), ("Mul", "j", 2)))


@pytest.mark.parametrize("old", [False, True])
def test_index_maps_as_tvm_writes_them(old: bool) -> None:
    insts = [
        G,
        ["TransformLayout", ["b0", graph(*TILED, old=old)], [0, 1, graph(0.5, old=old), 0], []],
        ["TransformBlockLayout", ["b0"], [graph("j", "i", old=old)], []],
        ["AnnotateBufferAccess", ["b0", 0, 1, graph("i", ("Add", "i", 1), old=old)], [], []],
        ["AnnotateBufferAccess", ["b0", 1, 0, graph("i", ("Sub", "i", -1), old=old)], [], []],
    ]
    trace = Trace.from_json([insts, []])
    assert trace.as_python()[1:] == [
        'sch.transform_layout(block=b0, buffer=("write", 0), index_map=lambda i0, i1: (i0 // 16, '
        "i1 + (-3), min(i0 % 16, i1 * 2),), pad_value=lambda i0, i1: (0.5,), "
        "assume_injective_transform=False)",
        "sch.transform_block_layout(block=b0, index_map=lambda i0, i1: (i1, i0,))",
        'sch.annotate_buffer_access(block=b0, buffer_index=0, buf_type="write", '
        "gen_new_ranges=lambda i0, i1: (i0, i0 + 1,))",
        'sch.annotate_buffer_access(block=b0, buffer_index=1, buf_type="read", '
        "gen_new_ranges=lambda i0, i1: (i0, i0 - (-1),))",
    ]
    written = trace.as_json()
    assert written[0][3] == ["AnnotateBufferAccess", ["b0", 0, 1, "lambda i0, i1: (i0, i0 + 1,)"], [], []]  # fmt: skip  # noqa: E501
    for again in (Trace.from_json(json.dumps(written)), Trace.from_python(str(trace))):
        assert str(again) == str(trace)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (graph(("Div", "i", 2)), "a Div is no index arithmetic"),
        (graph("i").replace("IndexMap", "Layout"), "the graph of a Layout"),
        (graph("i").replace('"ffi.Array", "data": [2, 4]', '"ffi.Map", "data": {}'), "is a Map"),
        (graph("i").replace("[2, 4]", "[2]").replace("[2]", "[4]", 1), "none of its indices"),
        (graph("i").replace('"root_index": 7', '"root_index": 70'), "no graph"),
        (graph("i").replace('"root_index": 7', '"root_index": -1'), "no graph"),
        (graph(("FloorDiv", "i", 0)), "division by zero"),
        (
            json.dumps({
                "root_index": 1,
                "nodes": [{"type": "Array", "data": [2]},
                          {"type": "IndexMap", "data": {"initial_indices": 3, "final_indices": 0}},
                          {"type": "Add", "data": {"a": 2, "b": 2}}, {"type": "Array", "data": []}],
            }),
            "nested|no graph",
        ),
    ],
)  # fmt: skip
def test_graphs_that_are_no_index_map_are_refused(text: str, match: str) -> None:
    with pytest.raises(RecordError, match=match):
        Trace.from_json([[G, ["TransformBlockLayout", ["b0"], [text], []]], []])


def test_a_graph_that_grows_without_end_is_refused() -> None:
    nodes: list[dict[str, Any]] = [{"type": "ir.Var", "data": {"name": 0}}]
    nodes += [{"type": "Add", "data": {"a": k, "b": k}} for k in range(60)]
    nodes += [{"type": "Array", "data": [0]}, {"type": "Array", "data": [60]}]
    nodes += [{"type": "IndexMap", "data": {"initial_indices": 61, "final_indices": 62}}]
    text = json.dumps({"root_index": 63, "nodes": nodes})
    with pytest.raises(RecordError, match="too long"):
        Trace.from_json([[G, ["TransformBlockLayout", ["b0"], [text], []]], []])


def test_ranges_as_tvm_prints_them() -> None:
    sch = scheduled(programs.chain())
    line = (
        'sch.annotate_buffer_access(block=b0, buffer_index=0, buf_type="read", '
        "gen_new_ranges=lambda vi, vj: [(vi, vi + 1), (vj, vj + 1)])"
    )
    text = f'b0 = sch.get_sblock(name="B", func_name="main")\n{line}'
    Trace.from_python(text).apply_to_schedule(sch)
    assert dict(sch.get(sch.get_block("B")).annotations) == {"explicit_read_region": (0,)}
    replays(programs.chain(), sch)


def test_constants_as_tvm_prints_them() -> None:
    line = (
        'sch.transform_layout(block=b0, buffer=("read", 0), index_map=lambda i, j: (i, j,), '
        "pad_value=lambda i0, i1: (T.float16(-0.5),), assume_injective_transform=False)"
    )
    text = f'b0 = sch.get_block(name="Y", func_name="main")\n{line}'
    assert "pad_value=lambda i0, i1: (-0.5,)" in str(Trace.from_python(text))


def test_handles_that_are_not_known_any_more() -> None:
    """Named for a bug: "_", which stands for them, was refused."""
    sch = scheduled(programs.tutorial())
    insts = [
        G,
        ["GetLoops", ["b0"], [], ["_", "l1", "_"]],
        ["Split", ["l1", "None", 4], [True], ["_", "l2"]],
        ["Unroll", ["l2"], [], []],
    ]
    trace = Trace.from_json([insts, []])
    trace.apply_to_schedule(sch)
    assert [sch.get(x).kind for x in sch.get_loops(sch.get_block("C"))][2] == "unrolled"
    text = (
        'b0 = sch.get_block(name="C", func_name="main")\n_, l1, _ = sch.get_loops(block=b0)\n'
        "_, l2 = sch.split(loop=l1, factors=[None, 4], preserve_unit_iters=True)\n"
        "sch.unroll(loop=l2)"
    )
    assert str(Trace.from_python(text)) == str(trace)
    for lost in (
        Trace.from_json([[G, ["Unroll", ["_"], [], []]], []]),
        Trace.from_python("sch.unroll(loop=_)"),
    ):
        assert lost.as_json()[0][-1] == ["Unroll", ["_"], [], []]
        with pytest.raises(ScheduleError, match="no earlier one made"):
            lost.apply_to_schedule(Schedule(programs.tutorial()))


def test_strings_in_the_dicts_of_tvm_have_no_quotes() -> None:
    value = {"a": 1, "b": "shared.dyn", "c": "c", "d": '"x"', "e": "v1"}
    sample = ["SampleCategorical", [], [[4, 8], [0.5, 0.5]], ["v1"]]
    insts = [G, sample, ["Annotate", ["b0", value], ["k"], []]]
    sch = scheduled(programs.tutorial())
    Trace.from_json([insts, [[1, 1]]]).apply_to_schedule(sch)
    assert dict(sch.get(sch.get_block("C")).annotations) == {
        "k": {"a": 1, "b": "shared.dyn", "c": "c", "d": "x", "e": 8}
    }
    replays(programs.tutorial(), sch)
