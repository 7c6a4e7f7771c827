"""A stand-in for a GPU whose times and results are functions of a kernel's parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gputune.errors import RunError
from gputune.meta_schedule.artifact import Artifact
from gputune.meta_schedule.cuda_answers import told
from gputune.meta_schedule.failures import Failure
from gputune.meta_schedule.runner import Runner, RunnerFuture, RunnerInput, RunnerResult

Defines = dict[str, str]


class SimulatedGpu(Runner):
    """Runs nothing.

    Args:
        clock: parameters to seconds, or to the message of a failure.
        result: parameters to outputs.
    """

    def __init__(
        self,
        clock: Callable[[Defines], float | str],
        result: Callable[[Defines], dict[str, Any]],
    ) -> None:
        self.clock = clock
        self.result = result
        self.seed = 0
        self.measured: list[Defines] = []
        self.arguments: Sequence[Any] = ()

    def with_arguments(self, arguments: Sequence[Any]) -> SimulatedGpu:
        self.arguments = arguments
        return self

    def run(self, runner_inputs: list[RunnerInput]) -> list[RunnerFuture]:
        return [RunnerFuture(lambda: True, lambda x=x: self._one(x)) for x in runner_inputs]

    def _one(self, x: RunnerInput) -> RunnerResult:
        artifact = Artifact.load(x.artifact_path)
        params = defines(artifact)
        self.measured.append(params)
        found = self.clock(params)
        if isinstance(found, str):
            return RunnerResult.failed(Failure("run", "crash", found))
        return RunnerResult([found], extras=told(artifact))

    def outputs(self, artifact: Artifact) -> dict[str, np.ndarray[Any, Any]]:
        found = self.result(defines(artifact))
        if "crash" in found:
            raise RunError("it crashed")
        return found


def defines(artifact: Artifact) -> Defines:
    """The #defines in front of a source."""
    head = artifact.cuda["text"].split("#line")[0]
    return dict(re.findall(r"#define (\w+) (.*)", head))
