"""All probes, each in a process of its own; their lines of JSON, and a short table last."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PROBES = (
    "cubin_through_cupy", "event_overheads", "nvml_reads", "tensor_map", "wgmma_from_cp_async",
    "mma_rounding",
)  # fmt: skip


def main() -> int:
    rows = []
    for name in PROBES:
        command = [sys.executable, str(HERE / f"{name}.py")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            line = (done.stdout.strip().splitlines() or ["{}"])[-1]
            found = json.loads(line)
            error = found.get("error") or ("" if found else done.stderr[-300:])
        except subprocess.TimeoutExpired:
            line, found, error = "{}", {}, "took longer than 120 s"
        print(line, flush=True)
        state = error or (f"skipped: {found['skipped']}" if "skipped" in found else "ran")
        rows.append((name, state + (f", right: {found['right']}" if "right" in found else "")))
    print()
    for name, state in rows:
        print(f"{name:24}{state}")
    return 1 if any(not s.startswith(("ran", "skipped")) for _, s in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
