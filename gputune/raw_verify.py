"""Does a configuration of a CUDA kernel compute what it should? Its outputs are compared with those
of the reference, or with the first configuration's where there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .codegen.cuda.raw import configuration
from .errors import GputuneError, UserError
from .ir.nodes import IRModule
from .meta_schedule.artifact import Artifact
from .meta_schedule.builder import Builder, BuilderInput
from .meta_schedule.failures import Failure
from .meta_schedule.measure_callback import remove_artifacts
from .meta_schedule.verify import Verdict
from .raw_arguments import Arguments, Array
from .raw_kernel import Params
from .raw_space import own_configuration
from .runtime.compare import compare
from .script import from_source
from .target import Target

Tolerance = float | Mapping[str, float] | None


class Outputs(Protocol):
    """A runner that also gives what a kernel wrote."""

    seed: int

    def outputs(self, artifact: Artifact) -> dict[str, Array]:
        """What a kernel writes, by name; GputuneError if it does not run."""


class RawVerifier:
    """Checks configurations of one kernel; see `meta_schedule.verify.Checker`.

    Args:
        arguments: what it is called with.
        target: what it is compiled for.
        builder, runner: compile and run.
        reference: gives the right outputs; None: configurations are compared with the first one
            that runs.
        tolerance: relative; None: by dtype; or by output.

    Attributes:
        first: the parameters of the configuration that the others are compared with.
        right: digests of the kernels that were found right by the reference.
    """

    eager = True

    def __init__(
        self,
        arguments: Arguments,
        target: Target,
        builder: Builder,
        runner: Outputs,
        reference: Callable[..., Any] | None,
        tolerance: Tolerance,
    ) -> None:
        self.arguments = arguments
        self.target = target
        self.builder = builder
        self.runner = runner
        self.reference = reference
        self.tolerance = _checked(tolerance, arguments)
        self.first: Params | None = None
        self._expected: dict[str, Array] | None = None

    def prepare(self) -> None:
        """Ask the reference now, so that what is wrong with it shows before anything is tuned."""
        if self.reference is not None:
            self._expected = self.arguments.expected(self.reference, self.runner.seed)

    def check(self, artifact: Artifact) -> Verdict:
        """Run a compiled kernel and compare what it writes."""
        try:
            found = self.runner.outputs(artifact)
            if self.reference is None and self._expected is None:
                return self._take_as_first(artifact, found)
        except GputuneError as e:
            failure = Failure.of(e, "check")
            if failure.infrastructure:
                return Verdict("unknown")
            return _wrong(f"it does not run: {e.message}")
        if self._expected is None:
            self.prepare()
        assert self._expected is not None
        problems = self._differences(found, self._expected)
        if problems:
            return _wrong(f"{self._against}: {'; '.join(problems)}")
        # Agreeing with another configuration does not make it right.
        return Verdict("right" if self.reference is not None else "unknown")

    def check_program(self, scheduled: IRModule) -> Verdict:
        """Compile and check a configuration, unless it is none of the kernel's own: what comes out
        of a file is not run for its own sake."""
        if own_configuration(self.arguments, scheduled) is None:
            return Verdict("unknown")
        (built,) = self.builder.build([BuilderInput(scheduled, self.target)])
        try:
            if built.problem is not None:
                return (
                    Verdict("unknown")
                    if built.problem.infrastructure
                    else _wrong(f"it does not compile: {built.problem.message}")
                )
            return self.check(Artifact.load(str(built.artifact_path)))
        finally:
            remove_artifacts([built])

    @property
    def _against(self) -> str:
        if self.reference is not None:
            return "differs from the reference"
        return f"differs from the first configuration that ran, {self.first!r}"

    def _take_as_first(self, artifact: Artifact, found: dict[str, Array]) -> Verdict:
        """Nothing to compare with yet. Two runs on outputs that begin with other values must agree,
        at least: where they do not, elements are left out."""
        before = self.runner.seed
        self.runner.seed = before + 1
        try:
            again = self.runner.outputs(artifact)
        finally:
            self.runner.seed = before
        if problems := self._differences(found, again):
            return _wrong(
                "two runs give different outputs (elements that are not written, or a race; arrays "
                f"that the kernel updates belong into inout=): {'; '.join(problems)}"
            )
        self._expected = found
        self.first = _params(artifact)
        return Verdict("unknown")

    def _differences(self, found: Mapping[str, Array], expected: Mapping[str, Array]) -> list[str]:
        out = []
        for name, wanted in expected.items():
            difference = compare(found[name], wanted, self.tolerance.get(name))
            if not difference.ok:
                out.append(f"{name}: {difference}")
        return out


def _wrong(reason: str) -> Verdict:
    return Verdict("wrong", Failure("check", "wrong_result", reason))


def _params(artifact: Artifact) -> Params:
    """The parameters of a compiled configuration."""
    program = from_source(artifact.script)
    assert isinstance(program, IRModule)
    (func,) = program.functions.values()
    found = configuration(func)
    return Params({} if found is None else found.params)


def _checked(tolerance: Tolerance, arguments: Arguments) -> dict[str, float | None]:
    """The tolerance of each output; None: by its dtype."""
    written = [a.name for a in arguments.described if a.written]
    given = tolerance if isinstance(tolerance, Mapping) else dict.fromkeys(written, tolerance)
    if unknown := set(given) - set(written):
        raise UserError(
            f"tolerance names {', '.join(sorted(unknown))}, the outputs are {', '.join(written)}",
            code="tolerance",
        )
    for value in given.values():
        if value is not None and (isinstance(value, bool) or not 0 <= value < float("inf")):
            raise UserError(f"a tolerance is a number from 0, found {value!r}", code="tolerance")
    return {name: given.get(name) for name in written}
