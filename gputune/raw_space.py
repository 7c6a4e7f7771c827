"""Which configurations of a CUDA kernel are searched? One trace with a decision for each parameter,
and a postproc in which the user's functions have their say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from .codegen.cuda.raw import (
    CHOICE,
    LAUNCH,
    PARAMETER,
    Configuration,
    Value,
    configuration,
    raw_module,
)
from .errors import BuildError, ScheduleError
from .ir.nodes import IRModule, PrimFunc
from .meta_schedule.postproc import Postproc
from .meta_schedule.space_generator import SpaceGenerator
from .raw_arguments import Arguments
from .raw_kernel import CudaKernel, Params
from .schedule import Schedule
from .target import Target
from .target.gpu import limits_of


def workload(arguments: Arguments, notes: Mapping[str, str]) -> IRModule:
    """The program that is tuned: the kernel with its arguments, its parameters open.

    Args:
        notes: what else tells this workload from others, such as the clock.
    """
    kernel = arguments.kernel
    text = kernel.source if isinstance(kernel.source, str) else ""
    identity = kernel.identity(arguments.given)
    return raw_module(
        kernel.name,
        arguments.described,
        text,
        kernel.options,
        {**notes, **({"texts": identity} if identity else {})},
    )


class Choices(SpaceGenerator):
    """The design space of a kernel: one trace with a decision for each parameter.

    Args:
        kernel: whose parameters are chosen.
        configure: turns what was chosen into a configuration.
    """

    def __init__(self, kernel: CudaKernel, configure: Configure) -> None:
        super().__init__([], [configure], {})
        self.kernel = kernel

    def generate_design_space(self, mod: IRModule | PrimFunc) -> list[Schedule]:
        """The one schedule."""
        kernel = self.kernel
        sch = self._schedule(mod)
        block = sch.get_block(kernel.name, func_name=kernel.name)
        for name, values in kernel.params.items():
            candidates = _ints(values)
            key = f"{CHOICE}{name}" if candidates is None else f"{PARAMETER}{name}"
            even = [1.0 / len(values)] * len(values)
            chosen = sch.sample_categorical(candidates or list(range(len(values))), even)
            sch.annotate(block, key, chosen)
        return [sch]


def _ints(values: tuple[Value, ...]) -> list[int] | None:
    """The values where all are whole numbers, so that they can be sampled as they are."""
    found = [v for v in values if type(v) is int]
    return found if len(found) == len(values) else None


class Configure(Postproc):
    """Turns the sampled values of a kernel's parameters into its configuration.

    The user's functions are called here and nowhere else; what they gave is annotated, so that a
    record replays without them. The sampled values' own annotations go: a configuration is the same
    whatever list its values were chosen from.
    """

    calls_users = True

    def __init__(self, arguments: Arguments, target: Target) -> None:
        self.arguments = arguments
        self.limits = limits_of(target.arch)
        self.last_refusal = ""
        self.refused: Counter[str] = Counter()
        """Why combinations were refused, each counted once."""
        self._found: dict[tuple[Any, ...], Configuration | ScheduleError] = {}

    def apply(self, sch: Schedule) -> bool:
        """Annotate the configuration; False where it is refused."""
        kernel = self.arguments.kernel
        block = sch.get_block(kernel.name, func_name=kernel.name)
        notes = dict(sch.get(block).annotations)
        params: dict[str, Value] = {}
        for name, values in kernel.params.items():
            plain = _ints(values) is not None
            key = f"{PARAMETER if plain else CHOICE}{name}"
            at = int(notes[key])
            params[name] = at if plain else values[at]
            sch.unannotate(block, key)
        found = self.configured(params)
        if isinstance(found, ScheduleError):
            self.last_error = ScheduleError(found.message, hint=found.hint, code=found.code)
            return False
        sch.annotate(block, LAUNCH, found.annotation())
        return True

    def try_all(self) -> int:
        """Configure every combination; how many are not refused?"""
        kernel = self.arguments.kernel
        found = [self.configured(p) for p in kernel.combinations()]
        return sum(isinstance(c, Configuration) for c in found)

    def configured(self, params: Mapping[str, Value]) -> Configuration | ScheduleError:
        """What the kernel makes of these values, remembered."""
        key = tuple([(type(v), v) for v in params.values()])
        if key not in self._found:
            try:
                self._found[key] = self._configure(params)
            except ScheduleError as e:
                self.refused[e.code or e.message] += 1
                self.last_refusal = e.message
                self._found[key] = e
        return self._found[key]

    def _configure(self, params: Mapping[str, Value]) -> Configuration:
        found = self.arguments.kernel.configure(params, self.arguments.given)
        most = self.limits.shared_per_block
        if found.smem > most:
            raise ScheduleError(
                f"{found.smem} bytes of shared memory, {self.limits.arch} has {most} for a block: "
                f"{Params(params)!r}",
                code="too much shared memory",
            )
        return found


def own_configuration(arguments: Arguments, mod: IRModule) -> Configuration | None:
    """The configuration of a scheduled program if it is what the kernel itself makes of the values
    of its parameters today; None for anything else that a file may hold.

    A record's text and launch come out of a file: they are compiled and run only where they are
    word for word those of the kernel that the user gave.
    """
    kernel = arguments.kernel
    try:
        found = configuration(mod[kernel.name])
        if found is None or set(found.params) != set(kernel.params):
            return None
        for name, value in found.params.items():
            if not any(type(v) is type(value) and v == value for v in kernel.params[name]):
                return None
        own = kernel.configure({n: found.params[n] for n in kernel.params}, arguments.given)
    except (BuildError, ScheduleError, KeyError):
        return None
    return own if own == found else None
