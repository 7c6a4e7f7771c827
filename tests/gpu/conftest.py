"""Every test in this folder needs a GPU, and is skipped with the reason where there is none."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from gputune.target.host import cuda_problem

HERE = Path(__file__).parent
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX takes most memory otherwise


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu-table", action="store_true", help="end with a table by test (ci/gpu)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [i for i in items if HERE in Path(str(i.path)).parents]
    if not mine:
        return
    problem = cuda_problem()
    for item in mine:
        item.add_marker(pytest.mark.gpu)
        if problem is not None:
            item.add_marker(pytest.mark.skip(reason=f"no GPU: {problem}"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.getoption("--gpu-table"):
        return
    rows: dict[str, dict[str, float]] = {}
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            name = report.nodeid.split("::")[-1].split("[")[0]
            row = rows.setdefault(name, {})
            row[outcome] = row.get(outcome, 0) + 1
            row["seconds"] = row.get("seconds", 0.0) + getattr(report, "duration", 0.0)
    terminalreporter.write_line("")
    terminalreporter.write_line(_device())
    for name, row in rows.items():
        counts = " ".join(f"{int(n)} {k}" for k, n in row.items() if k != "seconds")
        terminalreporter.write_line(f"{name:56} {counts:20} {row.get('seconds', 0):7.1f} s")


def _device() -> str:
    import cupy

    from gputune.runtime.cuda_device import gpu_facts

    facts = gpu_facts(cupy, 0)
    return (
        f"{facts.name}, {facts.arch}, {facts.sms} SMs, CUDA {facts.driver}, CuPy "
        f"{cupy.__version__}, {'xgboost' if find_spec('xgboost') else 'no xgboost'}"
    )


@pytest.fixture
def cp() -> Any:
    import cupy

    return cupy


@pytest.fixture
def cost_model() -> str:
    """The machines that are lent have no xgboost, unless its wheel is carried there."""
    return "xgb" if find_spec("xgboost") else "random"
