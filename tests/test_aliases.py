"""Can every second name be reached as Python's users reach names: by attribute and by import?"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import gputune
from gputune import aliases
from gputune.target.intrin import TensorIntrin

ROOT = Path(__file__).resolve().parent.parent

IMPORTS = """\
import gputune.tir
import gputune.s_tir
import gputune.tir.analysis
import gputune.tirx, gputune.nd
import gputune.tir.schedule.analysis as analysis
import gputune.s_tir.tensor_intrin
import gputune.s_tir.meta_schedule.database as database
from gputune.tir import Schedule, TensorIntrin, IndexMap, Buffer
from gputune.tir.schedule import BlockRV, ScheduleError, StmtSRef
from gputune.tir.schedule.trace import Trace
from gputune.tir.tensor_intrin.x86 import VNNI_DOT_16x4_INTRIN
from gputune.s_tir import Instruction, InstructionKind, SBlockScope, Dependency
from gputune.s_tir import meta_schedule as ms
from gputune.s_tir.schedule import LoopRV, SBlockRV
from gputune.s_tir.analysis import estimate_tir_flops, get_sblock_access_region
from gputune.s_tir.meta_schedule import tune_tir
from gputune.script import ir as I, tir as T, tirx
from gputune.ir.module import IRModule
from gputune.runtime import NDArray, tensor
from gputune import cpu, TVMError
from gputune.tir import *"""

LISTED = (
    "Schedule", "Trace", "Instruction", "InstructionKind", "ScheduleState", "StmtSRef",
    "SBlockScope", "Dependency", "TensorIntrin",
)  # fmt: skip
ANALYSES = (
    "estimate_tir_flops", "verify_gpu_code", "calculate_allocated_bytes", "suggest_index_map",
    "get_tensorize_loop_mapping", "get_auto_tensorize_mapping_info", "is_output_block",
    "is_trivial_binding", "find_anchor_sblock", "get_sblock_access_region", "has_if_then_else",
)  # fmt: skip
"""What reference/metaschedule.md names, 1.2 and 1.13."""


@pytest.mark.parametrize("statement", IMPORTS.split("\n"))
def test_an_import_statement_works(statement: str) -> None:
    """In this process, where other rooms are imported already."""
    names: dict[str, object] = {}
    code = compile(statement, "<import>", "exec")
    exec(code, names)  # the statement is written above
    assert len(names) > 1


def test_import_statements_work_in_a_fresh_process() -> None:
    """Each before anything else: no room is imported that would have made the next one work."""
    code = "\n".join(
        f"subprocess.run([sys.executable, '-c', {s!r}], check=True)"
        for s in ("import gputune.s_tir", "from gputune.tir.schedule import Trace",
                  "import gputune.s_tir.meta_schedule.database as d; assert d.JSONDatabase")
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", f"import subprocess, sys\n{code}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("namespace", ["tir", "s_tir"])
def test_what_the_reference_lists_is_there(namespace: str) -> None:
    module = importlib.import_module(f"gputune.{namespace}")
    for name in LISTED:
        assert getattr(module, name) is not None
        assert name in dir(module)
    for place in ("analysis", "schedule.analysis"):
        inner = importlib.import_module(f"gputune.{namespace}.{place}")
        for name in ANALYSES:
            assert callable(getattr(inner, name)), f"{place}.{name}"


@pytest.mark.parametrize(
    "namespace", [k for k, v in aliases.ALIASES.items() if isinstance(v, dict)]
)
def test_every_name_of_the_table_resolves(namespace: str) -> None:
    table = aliases.ALIASES[namespace]
    assert isinstance(table, dict)
    for name, spec in table.items():
        path, _, last = f"gputune.{namespace}.{name}".rpartition(".")
        found = getattr(importlib.import_module(path), last)
        if spec.startswith("="):
            assert TensorIntrin.get(found) is not None
        module, _, real = spec.partition(":")
        if real:
            assert found is getattr(importlib.import_module(f"gputune.{module}"), real)


def test_tir_and_s_tir_offer_the_same() -> None:
    import gputune.s_tir
    import gputune.tir

    assert gputune.tir.Schedule is gputune.s_tir.Schedule is gputune.Schedule
    mine, theirs = set(gputune.tir.__all__), set(gputune.s_tir.__all__)
    assert theirs - mine == {"meta_schedule"}
    assert not mine - theirs


def test_a_module_under_a_second_name_is_that_module() -> None:
    """A copy would have classes of its own, which isinstance does not know."""
    import gputune.s_tir.meta_schedule.database as alias

    import gputune.meta_schedule.database as real
    from gputune.script import tir, tirx

    assert alias is real
    assert tirx is tir
    assert gputune.s_tir.meta_schedule is gputune.meta_schedule
    assert real.__name__ == real.__spec__.name == "gputune.meta_schedule.database"


@pytest.mark.parametrize(
    "name",
    ["gputune.tir.nonsense", "gputune.tirs", "gputune.ir.modul", "gputune.cpu",
     "gputune.s_tir.meta_schedule.nonsense", "gputune.tir.Schedule"],
)  # fmt: skip
def test_there_are_no_other_modules(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'Shedule'.*Schedule"):
        _ = gputune.tir.Shedule
