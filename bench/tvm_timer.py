"""How is TVM's best timed in turns with others? In a process of its own, asked through pipes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

LIMIT_S = 3600.0


class TvmLost(Exception):
    """Its process ended, or did not answer."""


class Tvm:
    """`bench/tvm_peer.py serve`, as a context; it ends with it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._folder = Path()

    def __enter__(self) -> Tvm:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def start(
        self, python: str, program: str, trials: int, folder: Path, inputs: Sequence[Any]
    ) -> dict[str, Any]:
        """Tune, or take what was tuned in `folder`: wall clock, best time, version; or an error."""
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "inputs.npz", *inputs)
        self._folder = folder
        script = str(Path(__file__).with_name("tvm_peer.py"))
        command = [python, script, "serve", program, str(trials), str(folder)]
        with (folder / "stderr").open("w") as errors:
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
                )
            except OSError as e:
                return {"error": str(e)}
        limit = threading.Timer(LIMIT_S, self._process.kill)
        limit.start()
        try:
            found: dict[str, Any] = self._answer()
        except TvmLost as e:
            return {"error": str(e)}
        finally:
            limit.cancel()
        return found

    def output(self) -> Any:
        """What its best computes of the inputs."""
        return np.load(self._folder / "output.npy")

    def pin(self, cpu: int) -> None:
        """Keep it on this processor from now on."""
        if self._process is not None and self._process.poll() is None:
            self._ask(f"pin {cpu}")

    def timed(self, calls: int) -> tuple[float, bool]:
        """Seconds of some calls, and whether the processor was taken away."""
        found = self._ask(f"time {calls}")
        return float(found["seconds"]), bool(found["held_up"])

    def _ask(self, question: str) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone: the answer says how
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        """The next line that is an answer; TVM writes others."""
        assert self._process is not None
        assert self._process.stdout is not None
        for text in self._process.stdout:
            if text.startswith("answer "):
                return json.loads(text.removeprefix("answer "))
        said = (self._folder / "stderr").read_text(errors="replace").strip().splitlines()
        raise TvmLost(said[-1] if said else f"it ended with {self._process.wait()}")
