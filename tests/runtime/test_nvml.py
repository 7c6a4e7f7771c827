"""Is NVML read as it answers, errors included? Against a libnvidia-ml built here, in a process of
its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nvml_library import library

from gputune.runtime.nvml import Reading, notes, open_nvml
from gputune.runtime.nvml_observer import NvmlFacts

PROGRAM = """
import ctypes, json, os, sys
ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
from gputune.runtime.nvml import bus_ids, open_nvml
from gputune.runtime.nvml_observer import NvmlFacts
nvml, problem = open_nvml(sys.argv[2])
out = {"problem": problem}
if nvml is not None:
    if sys.argv[3] == "own":
        open(os.environ["FAKE_NVML"], "a").write(f"own_pid {os.getpid()}\\n")
    now = nvml.read()
    out |= {"about": nvml.about, "others": nvml.others(), "slowed": now.slowed}
    out["now"] = [now.sm_mhz, now.mem_mhz, now.power_w, now.temperature_c, now.reasons]
    out["problems"] = dict(now.problems)
    out["summary"] = NvmlFacts.of([now, now]).as_json()
    out["energy"], out["bus_ids"] = nvml.energy_j(), bus_ids()
print(json.dumps(out))
"""


def ask(
    tmp_path: Path, answers: str = "", *options: str, bus: str = "0000:3B:00.0", pid: str = ""
) -> dict[str, Any]:
    """What `nvml.py` finds where NVML gives these answers."""
    path = library(tmp_path, *options)
    told = tmp_path / "answers"
    told.write_text(answers)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), bus, pid],
        env={**os.environ, "FAKE_NVML": str(told), "PYTHONPATH": str(Path.cwd())},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_reading(tmp_path: Path) -> None:
    found = ask(tmp_path, "power 412500\nsm 1500\nreasons 4\nprocesses 3\n", pid="own")
    assert found["problem"] == ""
    assert found["now"] == [1500, 2619, 412.5, 50, 4]
    assert found["problems"] == {}
    assert found["slowed"] == ["power cap"]
    assert found["others"] == 2  # without this process
    assert found["about"] == {
        "driver": "580.00", "name": "Fake", "power_limit_w": 700.0, "max_sm_mhz": 1980,
        "max_mem_mhz": 2619, "mig": False, "ecc": True, "power_default_w": 700.0, "ecc_errors": 0,
    }  # fmt: skip
    assert found["energy"] == [1000.0, ""]
    assert found["bus_ids"] == ["0000:3B:00.0"]
    assert found["summary"]["readings"] == 2
    assert found["summary"]["sm_mhz"] == 1500
    assert found["summary"]["slowed"] == ["power cap"]


def test_questions_that_fail(tmp_path: Path) -> None:
    answers = (
        "power_rc 3\nsm_rc 4\nreasons_rc 15\nmig_rc 3\necc_rc 3\nprocesses_rc 4\nenergy_rc 3\n"
    )
    found = ask(tmp_path, answers)
    assert found["now"] == [None, 2619, None, 50, None]
    assert found["problems"] == {
        "power_w": "Not Supported", "sm_mhz": "Insufficient Permissions", "reasons": "GPU is lost",
    }  # fmt: skip
    assert found["others"] is None
    assert "mig" not in found["about"]
    assert found["energy"] == [None, "Not Supported"]
    assert found["slowed"] == []
    assert found["summary"]["power_w"] is None
    assert found["summary"]["problems"]["reasons"] == "GPU is lost"


def test_an_older_driver_and_processes_of_another_namespace(tmp_path: Path) -> None:
    found = ask(tmp_path, "reasons 64\nprocesses 2\n", "-DOLD_DRIVER")
    assert found["slowed"] == ["hardware thermal slowdown"]
    assert found["others"] is None  # none of them is this process: the numbers are not ours


def test_no_such_gpu_and_no_nvml(tmp_path: Path) -> None:
    assert "NVML does not answer" in ask(tmp_path, bus="0000:00:00.0")["problem"]
    assert "NVML does not answer" in ask(tmp_path, "init_rc 15\n")["problem"]


def test_without_a_driver() -> None:
    nvml, problem = open_nvml("0000:3B:00.0")
    if nvml is not None:
        pytest.skip("this machine has a GPU")
    assert "NVML does not answer" in problem


def test_another_module_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import ModuleType

    monkeypatch.setitem(sys.modules, "pynvml", ModuleType("pynvml"))
    assert "not NVIDIA's" in open_nvml("x")[1]
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "cannot be imported" in open_nvml("x")[1]


def test_summary_of_nothing() -> None:
    assert NvmlFacts.of([]).sm_mhz is None
    readings = [Reading(sm_mhz=s, reasons=r) for s, r in ((1000, 1), (1980, 0x80), (1900, 0))]
    found = NvmlFacts.of(readings)
    assert (found.sm_mhz, found.sm_mhz_least) == (1900, 1000)
    assert found.reasons == ("idle", "power brake")
    assert found.slowed == ("power brake",)
    assert not found.steady
    assert not found.throttled  # no batch that counts was


def test_facts_in_records() -> None:
    facts = NvmlFacts.of(
        [Reading(1386, 2619, 300.0, 50, 4)], [Reading(345, 2619, 80.0, 40, 1)],
        batches=5, slow_batches=2, others=1,
    )  # fmt: skip
    assert facts.sm_mhz == 1386  # readings around say nothing of the clock during batches
    assert facts.reasons == ("idle", "power cap")
    assert facts.throttled
    assert facts.steady
    told = json.loads(json.dumps({"nvml": facts.as_json()}))
    assert NvmlFacts.in_record(told) == facts
    assert NvmlFacts.in_record({}) is None
    assert NvmlFacts.in_record({"nvml": None}) is None
    odd = {"sm_mhz": "fast", "others": -3, "reasons": 7, "batches": True, "problems": [1]}
    assert NvmlFacts.in_record({"nvml": odd}) == NvmlFacts()  # a file may hold anything


def test_notes() -> None:
    assert (
        notes({"power_limit_w": 700.0, "power_default_w": 700.0, "mig": False, "ecc": True}) == []
    )
    found = notes(
        {"power_limit_w": 350.0, "power_default_w": 700.0, "mig": True, "ecc": False,
         "ecc_errors": 2}
    )  # fmt: skip
    assert [x.split()[0] for x in found] == ["its", "MIG", "ECC", "2"]


def test_processes_of_the_same_parent_are_ours(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as sibling:
        found = ask(tmp_path, f"processes 2\nown_pid {sibling.pid}\n")
        sibling.communicate(b"\n")
    assert found["others"] == 1  # another child of this process, as a second worker is
