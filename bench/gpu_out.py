"""Where do records of the GPU bench go, and what do all of a run have in common?"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gputune", "cupy", "torch", "triton", "numpy", "xgboost")


def folder_of(device: str, given: Path | None = None) -> Path:
    """The folder of a device's records: in `given`, else in bench/results."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return (given or ROOT / "bench" / "results") / slug


def version(name: str) -> str | None:
    """Of a package; None where there is none."""
    if not find_spec(name):
        return None
    return str(getattr(importlib.import_module(name), "__version__", "?"))


def commit() -> str:
    """Of this checkout, with a + where files differ from it; "?" outside one."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=7"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "?"
    return done.stdout.strip()


def head_of(gpu: Any, nvml: Any) -> dict[str, Any]:
    """What stands in every record: device, clocks that it may have, versions, commit, date."""
    return {
        "gpu": gpu, "nvml_about": nvml, "versions": {n: version(n) for n in PACKAGES},
        "commit": commit(), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


class Out:
    """The records of a shard without cells; the table's lines come last."""

    def __init__(self, folder: Path | None) -> None:
        import cupy

        from gputune.runtime.cuda_device import gpu_facts
        from gputune.runtime.nvml import open_nvml

        facts = gpu_facts(cupy, 0)
        nvml, problem = open_nvml(facts.pci_bus_id)
        self.device = facts.name
        self.folder = folder_of(facts.name, folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.head = head_of(facts.as_json(), nvml.about if nvml is not None else problem)
        self.lines: list[str] = []

    def write(self, shard: str, record: dict[str, Any]) -> None:
        """Append a record."""
        with (self.folder / f"gpu-{shard}.jsonl").open("a", encoding="utf-8") as f:
            f.write(json.dumps({"bench": f"gpu-{shard}", **record, **self.head}) + "\n")

    def line(self, text: str) -> None:
        """One more line of the table, printed now, too."""
        print(text, flush=True)
        self.lines.append(text)
