"""How is a candidate timed? The settings, and what they come to for a kernel of some length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ..errors import UserError
from ..runtime.timing import REGIMES
from .timescale import USUAL

_REPEAT_MS = 1.0  # enough for a clock of nanoseconds, and short against a scheduler's time slice


@dataclass(frozen=True, slots=True)
class EvaluatorConfig:
    """How a candidate is timed.

    Attributes:
        number: calls in a repeat, to begin with.
        repeat: repeats; each gives one entry of `run_secs`.
        min_repeat_ms: how long a repeat lasts at least; `number` is raised until it does. With
            `adaptive` an upper limit: a repeat lasts as long as the clock needs, about 1 ms.
        enable_cpu_cache_flush: drop the arguments from the caches before every call.
        adaptive: shorten repeats, and raise their number to a few where they are cheap: what
            gputune does where nothing is said. Off, as MetaSchedule has no such thing.
        cut: a candidate that takes more than so many times the best of its task so far is timed
            once only, and recorded with that time ("cut" in the record's extras): it has lost, and
            more repeats would tell nothing. Infinity: every candidate is timed in full.
        regime: what the caches hold when a call begins: "warm" (its arguments, from the call
            before), "rotate" (copies of the arguments take turns, which together exceed the last
            cache) or "flush" (nothing of them: what `enable_cpu_cache_flush` asks for, too). None:
            "warm" on a processor, on a GPU as fits the size of the arguments. Records say which it
            was, and times of different regimes are never compared.
        correct_drift: correct the times of a candidate where the reference kernel, which is timed
            beside it in any case, shows that the machine has become faster or slower.
        retries: how often, in all, a batch of a candidate is taken again: one during which the
            system took the processor away, or the GPU slowed down.
        graph: replay CUDA graphs; None: where a call is too short to be launched one by one.

    `runtime.timing` explains the choices.

    Raises:
        UserError: a value that makes no sense; names the field.
    """

    number: int = 3
    repeat: int = 1
    min_repeat_ms: float = 100
    enable_cpu_cache_flush: bool = False
    adaptive: bool = False
    cut: float = 3.0
    regime: str | None = None
    correct_drift: bool = True
    retries: int = 8
    graph: bool | None = None

    def __post_init__(self) -> None:
        for name in ("number", "repeat"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise UserError(f"EvaluatorConfig: {name} is a count from 1, found {value!r}")
        if not (_is_number(self.min_repeat_ms) and 0 <= self.min_repeat_ms < math.inf):
            raise UserError(
                f"EvaluatorConfig: min_repeat_ms is from 0 upwards, found {self.min_repeat_ms!r}"
            )
        if not (_is_number(self.cut) and self.cut > 1):
            raise UserError(f"EvaluatorConfig: cut is a factor above 1, found {self.cut!r}")
        if self.regime is not None and self.regime not in REGIMES:
            raise UserError(
                f"EvaluatorConfig: regime is {', '.join(REGIMES)} or None, found {self.regime!r}"
            )
        if self.enable_cpu_cache_flush and self.regime not in (None, "flush"):
            raise UserError(
                f"EvaluatorConfig: enable_cpu_cache_flush is the regime flush, found "
                f"{self.regime!r} too"
            )
        if type(self.retries) is not int or self.retries < 0:
            raise UserError(f"EvaluatorConfig: retries is a count from 0, found {self.retries!r}")
        for name in ("enable_cpu_cache_flush", "adaptive", "correct_drift", "graph"):
            value = getattr(self, name)
            if not (isinstance(value, bool) or (name == "graph" and value is None)):
                none = ", or None" if name == "graph" else ""
                raise UserError(f"EvaluatorConfig: {name} is True or False{none}, found {value!r}")

    @property
    def caches(self) -> str | None:
        """The regime; None: as fits."""
        return "flush" if self.enable_cpu_cache_flush else self.regime


def _is_number(x: object) -> bool:
    return isinstance(x, Real) and not isinstance(x, bool)


def plan(config: EvaluatorConfig, best: float) -> dict[str, Any]:
    """The worker's evaluator settings for kernels of about `best` seconds (infinite: not known)."""
    number, repeat, milliseconds = config.number, config.repeat, config.min_repeat_ms
    if config.adaptive:
        if config.caches != "flush":
            milliseconds = min(milliseconds, _REPEAT_MS)
            number = 1
        if best < math.inf:
            # Five repeats where that costs little; a kernel of a second is timed but once
            repeat = max(repeat, min(5, int(0.2 / max(best, 1e-3))))
        else:
            repeat = 1
    return {
        "number": number,
        "repeat": repeat,
        "min_repeat_ms": milliseconds,
        "regime": config.caches or USUAL,
        "retries": config.retries,
        "reference": True,
    }


def cuda_plan(config: EvaluatorConfig) -> dict[str, Any]:
    """The settings of the timer for GPUs."""
    if config.adaptive:
        repeat, most = max(5, config.repeat), max(40, config.repeat)
        milliseconds = min(config.min_repeat_ms, _REPEAT_MS)
    else:
        repeat = most = config.repeat
        milliseconds = config.min_repeat_ms
    return {
        "number": 1 if config.adaptive else config.number,
        "repeat": repeat,
        "most": most,
        "min_repeat_ms": milliseconds,
        "regime": config.caches,
        "retries": config.retries,
        "graph": config.graph,
        "correct_drift": config.correct_drift,
        "cut": config.cut,
    }
