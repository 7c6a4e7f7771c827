"""Do primitives and rules of other packages work, in every process that has them installed?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gputune.errors import ScheduleError, UserError
from gputune.schedule import KINDS, Schedule, State, primitive
from gputune.schedule.demo import demo_schedule

ROOT = Path(__file__).resolve().parents[2]

PRIMITIVES = '''
from gputune.schedule import BlockRV, LoopRV, Schedule, State, primitive


@primitive("tiny.TileTwo", inputs=("block", "factors"))
def tile_two(s: State, block: BlockRV, factors: list, times: int = 1) -> list[LoopRV]:
    """Cut the two loops of a block into tiles.

    Example:
        >>> sch = demo_schedule(); _ = sch.tile_two("B", [4, 2])
    """
    loops = Schedule.get_loops(s, block)
    if len(loops) != 2:
        s.fail(f"{len(loops)} loops", hint="give a block with two", code="tiny-loops")
    i0, i1 = Schedule.split(s, loops[0], [None, factors[0]])
    j0, j1 = Schedule.split(s, loops[1], [None, factors[1]])
    Schedule.reorder(s, i0, j0, i1, j1)
    return [i0, j0, i1, j1]
'''
RULES = """
def tile_rule(sch, block):
    sch.tile_two(block, [4, 2])
    return [sch]


from gputune.meta_schedule import ScheduleRule


class Unrolls(ScheduleRule):
    def apply(self, sch, block):
        sch.unroll(sch.get_loops(block)[-1])
        return [sch]
"""
POINTS = """
[gputune.primitives]
tiny = tiny.primitives
broken = tiny.broken
absent = tiny_absent
nothing = tiny.rules

[gputune.schedule_rules]
tile_rule = tiny.rules:tile_rule
unrolls = tiny.rules:Unrolls
five = tiny.rules:__name__
"""
PROGRAM = """
from gputune.script import from_source
func = from_source('''
@T.prim_func
def main(A: T.Buffer((8, 8), "float32"), B: T.Buffer((8, 8), "float32")):
    for i, j in T.grid(8, 8):
        with T.block("B"):
            vi, vj = T.axis.remap("SS", [i, j])
            B[vi, vj] = A[vi, vj] * T.float32(2)
''')
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder in which a distribution `tiny` is installed."""
    folder = tmp_path / "site"
    package = folder / "tiny"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "primitives.py").write_text(PRIMITIVES)
    (package / "rules.py").write_text(RULES)
    (package / "broken.py").write_text("raise ValueError('out of order')\n")
    info = folder / "tiny-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    return folder


def run(site: Path, program: str) -> Any:
    """Run a program in a process that has `tiny`; what it prints last is JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", PROGRAM + program],
        cwd=site.parent,
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [*map(json.loads, done.stdout.splitlines()), done.stderr]


def test_a_primitive_of_another_package(site: Path) -> None:
    """Used in one process; replayed in others from JSON, from Python text, from a record."""
    text, lazy, trace, python, _ = run(site, """
import json, sys
from gputune import meta_schedule as ms
from gputune.schedule import Schedule
sch = Schedule(func)
b = sch.get_block("B")
sch.get_loops(b)
lazy = not any(m.startswith("tiny") for m in sys.modules)
loops = sch.tile_two(b, [4, 2])
assert [sch.get(x).extent.value for x in loops] == [2, 4, 4, 2]
db = ms.JSONDatabase(work_dir="tuned")
load = db.commit_workload(sch._original)
db.commit_tuning_record(ms.TuningRecord(sch.trace, load, [1e-3], "llvm -num-cores=1"))
for x in (sch.mod.script(), lazy, sch.trace.as_json(), str(sch.trace)):
    print(json.dumps(x))
""")  # fmt: skip
    assert lazy is True
    assert "for i_0, j_0, i_1, j_1 in T.grid(2, 4, 4, 2)" in text
    kinds = [inst[0] for inst in trace[0]]
    assert kinds == ["GetSBlock", "GetLoops", "tiny.TileTwo"]  # what it calls is not recorded
    again = run(site, f"""
import json, sys
from gputune import meta_schedule as ms
from gputune.schedule import Schedule, Trace
assert not any(m.startswith("tiny") for m in sys.modules)
for trace in (Trace.from_json({json.dumps(trace)!r}), Trace.from_python({python!r})):
    sch = Schedule(func)
    trace.apply_to_schedule(sch)
    print(json.dumps(sch.mod.script()))
db = ms.JSONDatabase(work_dir="tuned")
sch = db.query_schedule(Schedule(func).mod, "llvm -num-cores=1")
print(json.dumps(sch.mod.script()))
print(json.dumps(sch.trace.as_json()))
""")  # fmt: skip
    assert again[:3] == [text] * 3
    assert again[3] == trace


def test_a_record_alone_brings_the_primitive(site: Path) -> None:
    """The first thing that a process asks for is in a file."""
    (text, *_) = run(site, """
import json
from gputune import meta_schedule as ms
from gputune.schedule import Schedule, InstructionKind
sch = Schedule(func)
sch.tile_two("B", [2, 2])
db = ms.JSONDatabase(work_dir="tuned")
load = db.commit_workload(sch._original)
db.commit_tuning_record(ms.TuningRecord(sch.trace, load, [1e-3], "llvm -num-cores=1"))
print(json.dumps(sch.mod.script()))
""")  # fmt: skip
    found, kind, _ = run(
        site,
        """
import json
from gputune import meta_schedule as ms
from gputune.schedule import Schedule, InstructionKind
db = ms.JSONDatabase(work_dir="tuned")
print(json.dumps(db.query_schedule(Schedule(func).mod, "llvm -num-cores=1").mod.script()))
print(json.dumps(InstructionKind.get("tiny.TileTwo").method))
""",
    )
    assert (found, kind) == (text, "tile_two")


def test_rules_of_another_package(site: Path) -> None:
    tiled, unrolled, _ = run(site, """
import json
from gputune.meta_schedule.schedule_rule import ApplyCustomRule
from gputune.schedule import Schedule
for name in ("tile_rule", "unrolls"):
    sch = Schedule(func)
    sch.annotate(sch.get_block("B"), "schedule_rule", name)
    (out,) = ApplyCustomRule().apply(sch, sch.get_block("B"))
    print(json.dumps(out.mod.script()))
""")  # fmt: skip
    assert "T.grid(2, 4, 4, 2)" in tiled
    assert "for j in T.unroll(8)" in unrolled


def test_an_entry_point_that_fails_is_reported_and_the_others_work(site: Path) -> None:
    methods, missing, unknown, norule, stderr = run(site, """
import json
from gputune.errors import GputuneError
from gputune.meta_schedule.schedule_rule import ApplyCustomRule
from gputune.schedule import InstructionKind, Schedule
sch = Schedule(func)
print(json.dumps(hasattr(sch, "tile_two")))
try:
    sch.tile_three
except AttributeError as e:
    print(json.dumps(str(e)))
try:
    InstructionKind.get("Tile")
except GputuneError as e:
    print(json.dumps(e.hint))
sch.annotate(sch.get_block("B"), "schedule_rule", "tile_rul")
try:
    ApplyCustomRule().apply(sch, sch.get_block("B"))
except GputuneError as e:
    print(json.dumps(e.hint))
""")  # fmt: skip
    assert methods is True
    assert "no attribute 'tile_three'" in missing
    for text in (missing, unknown):
        assert "'broken' failed: ValueError: out of order" in text
        assert "'absent' failed: ModuleNotFoundError" in text
        assert "'nothing' failed: the module tiny.rules declares no primitive" in text
    assert "'five' failed: a str is no rule" in norule
    assert stderr.count("the entry point 'broken' of tiny (tiny.broken) is left out") == 1


def test_the_command_lists_them(site: Path) -> None:
    def command(*words: str) -> Any:
        return subprocess.run(
            [sys.executable, "-m", "gputune.cli.main", "primitives", *words],
            env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )

    listed = command()
    assert "from other packages" in listed.stdout
    assert "tiny.TileTwo" in listed.stdout
    assert "the entry point 'broken' failed: ValueError" in listed.stderr
    whole = command("tile_two").stdout
    assert "+        for i_0, j_0, i_1, j_1 in T.grid(2, 4, 4, 2):" in whole
    assert "`tiny-loops`" in whole
    assert "`split-factors`" in whole  # it calls split
    assert "tile_two" not in command("--markdown").stdout


# ----------------------------------------------------------------------------- in this process
@pytest.fixture
def declared() -> Any:
    """Declares primitives, and takes them back afterwards."""
    before = dict(KINDS)
    yield primitive
    for name, kind in KINDS.items() - before.items():
        delattr(Schedule, kind.method)
        assert name not in before
    KINDS.clear()
    KINDS.update(before)


def test_a_declaration_is_enough(declared: Any) -> None:
    @declared("test.Widen", inputs=("loop",))
    def widen(s: State, loop: Any, by: int = 2) -> None:
        """Split off `by` iterations."""
        Schedule.split(s, loop, [None, by])

    sch = demo_schedule()
    i, j = sch.get_loops(sch.get_block("B"))
    sch.widen(i, by=4)
    assert str(sch.trace).endswith("sch.widen(loop=l1, by=4)")
    with pytest.raises(ScheduleError, match="widen: by must be an integer, got 'x'"):
        sch.widen(j, "x")
    script, trace = sch.mod.script(), str(sch.trace)
    with pytest.raises(ScheduleError, match=r"(?s)widen: split: .*call: widen") as caught:
        sch.widen(j, 0)
    assert caught.value.code == "split-positive"
    assert (sch.mod.script(), str(sch.trace)) == (script, trace)
    with pytest.raises(ScheduleError, match="by must be an integer"):
        widen(sch, j, "x")
    assert str(sch.copy().trace) == trace


def test_what_is_there_is_not_replaced(declared: Any) -> None:
    def split(s: State) -> None: ...
    def run(s: State) -> None: ...
    def mine(s: State, loop: Any) -> None: ...

    with pytest.raises(UserError, match="has declared the instruction kind 'Split' already"):
        declared("Split", method="other_split")(split)
    for fn in (split, run):
        with pytest.raises(UserError, match=r"a schedule has a .* already"):
            declared("test.Mine")(fn)
    with pytest.raises(UserError, match="no parameter 'blok' to be an input"):
        declared("test.Mine", inputs=("blok",))(mine)
    assert "test.Mine" not in KINDS
    declared("test.Mine", inputs=("loop",))(mine)
    declared("test.Mine", inputs=("loop",))(mine)  # a cell of a notebook is run again
    assert Schedule.mine.kind is KINDS["test.Mine"]  # type: ignore[attr-defined]  # declared here


def test_private_names_are_not_looked_for() -> None:
    sch = demo_schedule()
    assert not hasattr(sch, "_repr_png_")
    with pytest.raises(AttributeError, match="'Schedule' object has no attribute 'splitt'"):
        sch.splitt(1)
