"""Do this machine's builder and runner keep to what is asked of any of them?"""

from __future__ import annotations

from gputune.meta_schedule import Builder, LocalBuilder, LocalRunner, Runner
from gputune.meta_schedule.runner import EvaluatorConfig
from tests.contracts.builder import BuilderContract
from tests.contracts.runner import RunnerContract


class TestLocalBuilder(BuilderContract):
    def builder(self, timeout_sec: float = 30.0) -> Builder:
        return LocalBuilder(2, timeout_sec)


class TestLocalRunner(RunnerContract):
    def runner(
        self, timeout_sec: float = 30.0, evaluator_config: EvaluatorConfig | None = None
    ) -> Runner:
        return LocalRunner(timeout_sec, evaluator_config)
