"""Which of several ways to compute the same thing is faster, and do they agree?

Everything is measured in one process in turns: a round gives each entry one repetition, the first
one changing from round to round, so that drift of the machine falls on all alike. A turn begins
when the threads of the one before have stopped spinning. Before a repetition the entry runs untimed
until it is about as fast as it ever was, for a bounded time: threads that were asleep first have to
come back to processors of their own. A repetition during
which the operating system took the processor away is dropped (unless hardly any is left). Medians
are compared. The timer is the one of tuning; `runtime.timing` explains the choices.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .calling import Convention, roles, zeros
from .errors import CheckError, UserError, WrongResult
from .figures import duration, rate, times
from .ir import dtypes
from .ir.flops import estimate_flops
from .ir.nodes import IRModule, PrimFunc
from .packing import PackedArray
from .runtime import native
from .runtime.compare import compare, tolerance
from .runtime.evaluator import TimerConfig, measure
from .runtime.function import BoundCall, Function
from .runtime.module import AnyFunction, Module, build
from .runtime.ndarray import ALIGNMENT, host_view
from .runtime.signature import TensorParam
from .runtime.timing import Regime, check_regime, copies_for, spread
from .schedule import Schedule
from .target.host import cache_bytes
from .target.target import TargetLike
from .tuned_kernel import TunedKernel

_BATCH_SECONDS = 2e-3  # a repetition: long beside the clock's grain, short beside a time slice
# After a turn its threads may go on spinning, at the cost of the next one: those of a kernel for
# less than a millisecond, those of OpenBLAS behind a NumPy call for about a hundred. The next turn
# begins when the process used at most this share of a processor in a pause, or after so many.
_PAUSE_SECONDS, _IDLE, _PAUSES = 10e-3, 0.2, 30
# Untimed repetitions come before, the same for all: two or more, until one is at most this much
# slower than the fastest so far, for at most so long (the first time: for so long, to learn what is
# fast). A system takes some 20 ms to part threads that it woke on one processor.
_STEADY, _WARM_SECONDS = 1.1, 40e-3
_LARGE = 4096  # bytes of an input whose place matters
_COPIED_BYTES = 1 << 29  # of copies of the arguments that take turns
_ROUNDS = 3  # at least, and
_MOST_ROUNDS = 2000  # at most
_ENOUGH = 0.2  # of the repetitions, or _ROUNDS, must be undisturbed: then the others are dropped
_OVERTIME = 5  # fewer than _ROUNDS rounds only if they took this many times the given seconds


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured of one entry.

    Attributes:
        name: of the entry.
        results: seconds a call, one for each repetition that counts.
        calls: in a repetition.
        dropped: repetitions left out because a thread was pre-empted.
        disturbed: pre-empted repetitions that count, since hardly any was not.
        regime: what the caches held when a call began; see `runtime.timing`.
    """

    name: str
    results: tuple[float, ...]
    calls: int
    dropped: int = 0
    disturbed: int = 0
    regime: Regime = "warm"

    @property
    def median(self) -> float:
        """Seconds a call."""
        return statistics.median(self.results)

    @property
    def spread(self) -> float:
        """The middle half of the repetitions (interquartile range) as a share of the median."""
        return spread(self.results)


@dataclass(frozen=True, slots=True)
class Bench:
    """The outcome of `bench`.

    Attributes:
        results: the timings by name, in the order given.
        flops: operations of one call, or None where not known.
        checked: were the results compared?
        astray: numbers of the inputs that do not begin at a cache line, as those of tuning do.
    """

    results: Mapping[str, Timing]
    flops: float | None = None
    checked: bool = True
    astray: tuple[int, ...] = ()

    HEAD = ("name", "median", "spread", "GFLOP/s", "speed")

    @property
    def best(self) -> Timing:
        """The entry with the least median; UserError where entries had different cache regimes."""
        for t in self.results.values():
            self._comparable(next(iter(self.results.values())), t)
        return min(self.results.values(), key=lambda t: t.median)

    def ratio(self, name: str, to: str | None = None) -> float:
        """How many times as fast as `to` (default: the first entry) an entry is.

        Raises:
            UserError: they were not measured in the same cache regime: nothing can be said.
        """
        base = self.results[to or next(iter(self.results))]
        self._comparable(base, self.results[name])
        return base.median / self.results[name].median

    @staticmethod
    def _comparable(a: Timing, b: Timing) -> None:
        if a.regime != b.regime:
            raise UserError(
                f"bench: {a.name!r} was measured with caches {a.regime!r}, {b.name!r} with "
                f"{b.regime!r}: these times are not compared",
                hint="measure both in one bench",
                code="regime",
            )

    @property
    def regimes(self) -> tuple[Regime, ...]:
        """The cache regimes of the entries; more than one only in a bench made by hand."""
        return tuple(dict.fromkeys(t.regime for t in self.results.values()))

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table, a row for each entry; the last one is its speed beside the
        first entry's."""
        first = next(iter(self.results.values()), None)
        return [
            (t.name, duration(t.median), f"{t.spread:.0%}", rate(self.flops, t.median),
             times(self.ratio(t.name)) if first and t.regime == first.regime else "-")
            for t in self.results.values()
        ]  # fmt: skip

    def note(self) -> str:
        """How it was measured, in one line."""
        rounds = ", ".join(f"{len(t.results)} x {t.calls}" for t in self.results.values())
        dropped = sum(t.dropped for t in self.results.values())
        out = f"repetitions x calls, interleaved: {rounds}"
        if self.regimes != ("warm",):
            out += f"; caches: {', '.join(self.regimes)}"
        if dropped:
            out += f"; {dropped} pre-empted ones dropped"
        if busy := [t.name for t in self.results.values() if t.disturbed]:
            out += f"; the machine is busy: most of {', '.join(busy)} were pre-empted, and count"
        if self.astray:
            which = ", ".join(str(k) for k in self.astray)
            out += (
                f"; inputs {which} do not begin at a cache line, which costs vector loads: "
                "gputune.nd.array(x) makes a copy that does"
            )
        if len(self.results) == 1:
            return out
        return out + ("; results agree" if self.checked else "; results not compared")

    def table(self) -> str:
        """The table as plain text."""
        rows = [self.HEAD, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
            for row in rows
        ]
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], self.note()])

    def show(self) -> None:
        """Print the table, the fastest entry in bold where the terminal can."""
        from rich.console import Console

        Console().print(self.rich_table(), self.note(), sep="\n", markup=False, highlight=False)

    def rich_table(self) -> Any:
        """The table as a `rich` renderable."""
        from rich.table import Table
        from rich.text import Text

        out = Table(box=None, pad_edge=False, header_style="dim")
        for at, head in enumerate(self.HEAD):
            out.add_column(head, justify="right" if at else "left", no_wrap=bool(at))
        for row in self.rows():
            alike = len(self.results) > 1 and len(self.regimes) == 1
            style = "bold" if alike and row[0] == self.best.name else ""
            out.add_row(*(Text(c) for c in row), style=style)
        return out

    def __str__(self) -> str:
        return self.table()


def bench(
    entries: Mapping[str, Any],
    args: Sequence[Any],
    *,
    seconds: float = 2.0,
    check: bool = True,
    flops: float | None = None,
    target: TargetLike | None = None,
    regime: Regime = "warm",
) -> Bench:
    """Measure several implementations on the same arguments, in turns.

    Args:
        entries: by name a Schedule, TunedKernel, PrimFunc, IRModule, Module, or any Python
            callable. A callable is given the inputs and returns the output, or a tuple of all. A
            TunedKernel with free layouts is given those arguments packed beforehand.
        args: the inputs, or the kernel's whole argument list. They are not changed: outputs and
            what is updated in place are copies.
        seconds: time for all measurements together.
        check: compare the results first, within a tolerance by dtype.
        flops: operations of one call; default: counted in the program, if there is one.
        target: what programs are compiled for; default: the current target, else llvm.
        regime: what the caches hold when a call begins, for all entries: "warm" (the arguments,
            from the call before), "rotate" (calls take turns on copies of the arguments which
            together exceed the last cache) or "flush" (nothing of the arguments; each call is timed
            alone). See `runtime.timing`.

    Returns:
        A `Bench`: `.show()`, `.table()`, `.results["name"].median`.

    Raises:
        WrongResult: the results of an entry are not those of the others; names it.
        UserError: nothing to measure, or an entry that cannot be.
        RunError: the arguments do not fit.

    Example:
        >>> bench({"mine": sch, "numpy": np.matmul}, (a, b)).show()
    """
    if not isinstance(entries, Mapping):
        raise UserError(
            f"bench: entries is a dict of what to measure by name, found {type(entries).__name__}",
            hint='{"mine": schedule, ...}',
        )
    if not entries:
        raise UserError("bench: there is nothing to measure", hint='{"mine": schedule, ...}')
    if not isinstance(args, list | tuple):
        raise UserError(
            f"bench: args is a list or tuple of arrays, found {type(args).__name__}",
            hint="(a, b)",
        )
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise UserError(f"bench: seconds is a time above 0, found {seconds!r}")
    if any(isinstance(x, PackedArray) for x in args):
        raise UserError(
            "bench: an argument is packed for one kernel",
            hint="give it as it was: kernels that take it packed have it packed before the timing",
        )
    check_regime(regime, "bench")
    kernels = {n: k for n, x in entries.items() if (k := _kernel(n, x, target)) is not None}
    plan = _Plan(kernels, tuple(args), regime)
    ready = [
        plan.kernel(name, kernels[name]) if name in kernels else plan.callable(name, x)
        for name, x in entries.items()
    ]
    if check:
        _check(ready, plan)
    timings = _measure(ready, seconds)
    return Bench(
        {t.name: t for t in timings},
        flops or _flops(entries.values()),
        check and len(ready) > 1,
        plan.astray if kernels else (),
    )


# ----------------------------------------------------------------------------- entries
@dataclass(frozen=True, slots=True)
class _Kernel:
    """`place`: the arguments as the function takes them, constant ones packed."""

    function: Function
    convention: Convention
    place: Callable[[list[Any]], list[Any]] = list


def _kernel(name: str, x: Any, target: TargetLike | None) -> _Kernel | None:
    """A compiled kernel of an entry; None for a plain callable."""
    if isinstance(x, TunedKernel):
        return _Kernel(_on_cpu(name, x.function), x.convention, x.place)
    if isinstance(x, Module):
        if len(x.functions) != 1:
            raise UserError(
                f"bench: the module {name!r} has {len(x.functions)} functions",
                hint=f'give one of them: lib["{next(iter(x.functions), "main")}"]',
            )
        key, function = next(iter(x.functions.items()))
        return _Kernel(
            _on_cpu(name, function), Convention(function.sig, roles(x.kernels[key].lowered))
        )
    if isinstance(x, Schedule | PrimFunc | IRModule):
        mod = x.mod if isinstance(x, Schedule) else x
        return _kernel(name, build(mod, target), target)
    if isinstance(x, Function):
        raise UserError(
            f"bench: {name!r} is a function of a module, which does not say what it reads",
            hint="give the module, or the schedule that it was built from",
        )
    if not callable(x):
        raise UserError(
            f"bench: cannot measure {name!r}, which is a {type(x).__name__}",
            hint="give a Schedule, TunedKernel, PrimFunc, Module or a function of the inputs",
        )
    return None


def _on_cpu(name: str, function: AnyFunction) -> Function:
    if not isinstance(function, Function):
        raise UserError(
            f"bench: {name!r} is a kernel for a GPU, and bench measures on the processor",
            hint="lib.time_evaluator(name, gputune.cuda())(*args) times it on the GPU",
            code="device",
        )
    return function


def _flops(entries: Any) -> float | None:
    """The least count of the programs among the entries (schedules may compute things twice)."""
    found = []
    for x in entries:
        mod = x.workload if isinstance(x, TunedKernel) else getattr(x, "mod", x)
        if isinstance(mod, PrimFunc | IRModule):
            try:
                found.append(estimate_flops(mod))
            except CheckError:
                continue  # a symbolic shape
    return min(found, default=0.0) or None


@dataclass(frozen=True, slots=True)
class _Entry:
    """`run` computes once and gives the outputs; `time` gives seconds for some calls, and whether
    a thread was held up."""

    name: str
    run: Callable[[], list[np.ndarray[Any, Any]]]
    time: Callable[[int], tuple[float, bool]]
    regime: Regime = "warm"


class _Plan:
    """What the entries are called with."""

    def __init__(
        self, kernels: Mapping[str, _Kernel], args: tuple[Any, ...], regime: Regime = "warm"
    ) -> None:
        self.args = args
        self.regime = regime
        self.convention: Convention | None = None
        for name, k in kernels.items():
            if self.convention is None:
                self.convention, first = k.convention, name
            elif _shape_of(k.convention) != _shape_of(self.convention):
                raise UserError(
                    f"bench: {name!r} and {first!r} do not take the same arguments: "
                    f"{k.convention} and {self.convention}"
                )
        if self.convention is None:
            self.inputs = args
        elif len(args) == len(self.convention.roles):
            self.inputs = tuple(args[i] for i in self.convention.inputs)
        else:
            self.convention.complete(args)  # complains of another number
            self.inputs = args

    @property
    def astray(self) -> tuple[int, ...]:
        """The large inputs that do not begin at a cache line."""
        return tuple(
            k for k, x in enumerate(self.inputs)
            if isinstance(x, np.ndarray) and x.nbytes >= _LARGE and x.ctypes.data % ALIGNMENT
        )  # fmt: skip

    @property
    def dtypes(self) -> list[str]:
        """Of all arrays of the kernels, or of the inputs."""
        if self.convention is not None:
            return [p.dtype for p in self.convention.sig.params if isinstance(p, TensorParam)]
        return [dtypes.from_numpy(np.asarray(x).dtype) for x in self.inputs]

    def kernel(self, name: str, kernel: _Kernel) -> _Entry:
        """An entry with arrays of its own for all that is written."""
        conv = kernel.convention
        changed = [i for i, r in enumerate(conv.roles) if r != "in"]

        def bound(again: bool = False) -> tuple[BoundCall, list[np.ndarray[Any, Any]]]:
            copied = _anew if again else _copied
            whole, _ = conv.complete([copied(conv, i, x) for i, x in self._placed(conv)])
            if len(conv.inputs) < len(conv.roles):
                for i in conv.outputs:
                    _poison(host_view(whole[i], name))
            whole = [_plain(x) for x in whole]
            return kernel.function.bind(*kernel.place(whole)), [
                host_view(whole[i], name) for i in changed
            ]

        call, written = bound()
        more = self._more([*written, *self.inputs])
        ring = deque([call, *(bound(again=True)[0] for _ in range(more))])
        config = TimerConfig(retries=0, regime=self.regime)

        def run() -> list[np.ndarray[Any, Any]]:
            once, outputs = bound()
            once()
            return outputs

        def timed(calls: int) -> tuple[float, bool]:
            before = _switches()
            found = measure(ring[0], replace(config, number=calls), list(ring)[1:])
            ring.rotate(-1 - calls)  # the next one goes on where this one ended
            return found.results[0] * calls, _switches() > before

        return _Entry(name, run, timed, self.regime)

    def _more(self, arrays: Sequence[Any]) -> int:
        """How many copies of the arguments there are to be besides."""
        if self.regime != "rotate":
            return 0
        total = sum(x.nbytes for x in arrays if isinstance(x, np.ndarray))
        return copies_for(total, cache_bytes()[2], _COPIED_BYTES) - 1

    def _placed(self, conv: Convention) -> list[tuple[int, Any]]:
        return list(zip(conv.inputs, self.inputs))

    def callable(self, name: str, function: Callable[..., Any]) -> _Entry:
        """An entry that is called with the inputs."""
        conv = self.convention
        inputs = [x if conv is None else _copied(conv, i, x) for i, x in self._numbered()]
        more = self._more(inputs)
        ring = deque([inputs])
        ring.extend([_anew(conv, i, x) for i, x in self._numbered()] for _ in range(more))
        arrays = [x for x in inputs if isinstance(x, np.ndarray)]

        def run() -> list[np.ndarray[Any, Any]]:
            fresh = [x if conv is None else _copied(conv, i, x) for i, x in self._numbered()]
            return self._outputs(name, function(*fresh))

        def timed(calls: int) -> tuple[float, bool]:
            function(*ring[0])  # the caches are those of the entry before
            ring.rotate(-1)
            before = _switches()
            if self.regime == "flush":
                return sum(cold() for _ in range(calls)), _switches() > before
            start = time.perf_counter()
            if not more:
                for _ in range(calls):
                    function(*inputs)
            else:
                for _ in range(calls):
                    function(*ring[0])
                    ring.rotate(-1)
            return time.perf_counter() - start, _switches() > before

        def cold() -> float:
            native.flush(arrays)
            start = time.perf_counter()
            function(*inputs)
            return time.perf_counter() - start

        return _Entry(name, run, timed, self.regime)

    def _numbered(self) -> list[tuple[int, Any]]:
        if self.convention is None:
            return list(enumerate(self.inputs))
        return self._placed(self.convention)

    def _outputs(self, name: str, result: Any) -> list[np.ndarray[Any, Any]]:
        """What a callable returned, as arrays of the kernels' shapes and dtypes."""
        if result is None:
            raise UserError(
                f"bench: {name!r} returned None",
                hint="a callable takes the inputs and returns the output, or a tuple of all",
            )
        values = list(result) if isinstance(result, tuple | list) else [result]
        arrays = [np.asarray(x) if np.isscalar(x) else host_view(x, name) for x in values]
        if self.convention is None:
            return arrays
        changed = [i for i, r in enumerate(self.convention.roles) if r != "in"]
        if len(arrays) != len(changed):
            raise UserError(
                f"bench: {name!r} returned {len(arrays)} arrays, the kernels write {len(changed)}"
            )
        out = []
        for i, x in zip(changed, arrays):
            p = self.convention.sig.params[i]
            assert isinstance(p, TensorParam)
            kind = dtypes.numpy_dtype(p.dtype)
            same = dtypes.is_float(dtypes.from_numpy(x.dtype)) == dtypes.is_float(p.dtype)
            out.append(x.astype(kind) if same else x)
        return out


def _shape_of(conv: Convention) -> list[tuple[Any, ...]]:
    return [
        (p.dtype, tuple(map(str, p.shape))) if isinstance(p, TensorParam) else (p.dtype,)
        for p in conv.sig.params
    ]


def _copied(conv: Convention, position: int, x: Any) -> Any:
    return host_view(x, conv.sig.name).copy() if conv.roles[position] == "inout" else x


def _anew(conv: Convention | None, position: int, x: Any) -> Any:
    """A copy of an argument, in memory of its own; numbers and what is no host array as they
    are."""
    if isinstance(x, np.ndarray):
        made = zeros(x.shape, dtypes.from_numpy(x.dtype))
        made[...] = x
        return made
    return x if conv is None else _copied(conv, position, x)


def _plain(x: Any) -> Any:
    """Whatever array it is, as one that a kernel can be bound to again and again."""
    return x.data if hasattr(x, "wrap") else x


def _poison(x: np.ndarray[Any, Any]) -> None:
    """Fill with what nothing computes, so that an element that is not written shows."""
    name = dtypes.from_numpy(x.dtype)
    x.fill(np.nan if dtypes.is_float(name) else dtypes.max_value(name))


def _switches() -> int:
    """How often threads of this process were pre-empted so far, those of a pool among them; 0
    where the system does not say."""
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    except (ImportError, AttributeError):
        return 0


# ----------------------------------------------------------------------------- checking
def _check(entries: Sequence[_Entry], plan: _Plan) -> None:
    """Raise WrongResult naming the entries that differ from the largest group that agrees."""
    rtol = tolerance(plan.dtypes)
    found = [(e.name, e.run()) for e in entries]
    groups: list[list[int]] = []
    for at, (_, arrays) in enumerate(found):
        for group in groups:
            if not _difference(arrays, found[group[0]][1], rtol):
                group.append(at)
                break
        else:
            groups.append([at])
    right = max(groups, key=len)  # of equals, the one with the first entry
    problems = []
    for at, (name, arrays) in enumerate(found):
        if at not in right:
            difference = _difference(arrays, found[right[0]][1], rtol)
            problems.append(f"{name!r} differs from {found[right[0]][0]!r}: {difference}")
    if problems:
        raise WrongResult(
            "bench: " + "; ".join(problems), hint="check=False measures all the same", code="differ"
        )


def _difference(
    found: Sequence[np.ndarray[Any, Any]], expected: Sequence[np.ndarray[Any, Any]], rtol: float
) -> str:
    """How two lists of results differ, or ""."""
    if len(found) != len(expected):
        return f"{len(found)} results instead of {len(expected)}"
    for at, (x, y) in enumerate(zip(found, expected)):
        kinds = [dtypes.from_numpy(a.dtype) for a in (x, y)]
        floats = [dtypes.is_float(k) for k in kinds]
        if all(floats):  # as coarse as the coarser of the two
            x, y = x.astype(np.float64), y.astype(np.float64)
        result = compare(x, y, rtol=max(rtol, tolerance(kinds)) if floats[1] else None)
        if not result.ok:
            return f"output {at}: {result}" if len(found) > 1 else str(result)
    return ""


# ----------------------------------------------------------------------------- measuring
def in_turns(
    timers: Mapping[str, Callable[[int], tuple[float, bool]]], seconds: float = 2.0
) -> dict[str, Timing]:
    """Measure what `bench` cannot call, such as another process, as `bench` does it.

    Args:
        timers: by name a function that is given a number of calls, makes them, and returns the
            seconds that they took and whether the processor was taken away meanwhile.
        seconds: time for all measurements together.
    """
    entries = [_Entry(name, list, timed) for name, timed in timers.items()]
    return {t.name: t for t in _measure(entries, seconds)}


def _measure(entries: Sequence[_Entry], seconds: float) -> list[Timing]:
    calls = []
    for e in entries:
        if len(entries) > 1:
            _rest()
        calls.append(_calls(e))
    kept: list[list[float]] = [[] for _ in entries]
    lost: list[list[float]] = [[] for _ in entries]
    fastest = [math.inf] * len(entries)  # repetition, the untimed ones included
    start = time.perf_counter()
    for round_ in range(_MOST_ROUNDS):
        elapsed = time.perf_counter() - start
        if elapsed >= seconds * (1 if round_ >= _ROUNDS else _OVERTIME) and round_:
            break
        for turn in range(len(entries)):
            at = (turn + round_) % len(entries)
            if len(entries) > 1:
                _rest()
            fastest[at] = _warm(entries[at], calls[at], fastest[at])
            total, held_up = entries[at].time(calls[at])
            fastest[at] = min(fastest[at], total)
            (lost if held_up else kept)[at].append(total / calls[at])
    found = [_timing(e.name, n, *runs) for e, n, *runs in zip(entries, calls, kept, lost)]
    return [replace(t, regime=e.regime) for t, e in zip(found, entries)]


def _rest() -> None:
    """Wait until the threads of this process are asleep, within bounds."""
    for _ in range(_PAUSES):
        used, start = time.process_time(), time.perf_counter()
        time.sleep(_PAUSE_SECONDS)
        if time.process_time() - used <= _IDLE * (time.perf_counter() - start):
            return


def _warm(entry: _Entry, calls: int, fastest: float) -> float:
    """Run it until its threads are where they stay; the fastest repetition so far, seconds."""
    first, spent = fastest == math.inf, 0.0
    while spent < _WARM_SECONDS and (first or fastest < _WARM_SECONDS):
        total, _ = entry.time(calls)
        spent += total
        steady = total <= fastest * _STEADY and spent > total and not first
        fastest = min(fastest, total)
        if steady:
            break
    return fastest


def _timing(name: str, calls: int, kept: list[float], lost: list[float]) -> Timing:
    """The repetitions that count: the undisturbed ones, unless hardly any was."""
    if len(kept) >= min(_ROUNDS, _ENOUGH * (len(kept) + len(lost))):
        return Timing(name, tuple(kept), calls, len(lost))
    return Timing(name, (*kept, *lost), calls, disturbed=len(lost))


def _calls(entry: _Entry) -> int:
    """How many calls a repetition has, so that it lasts about `_BATCH_SECONDS`."""
    calls = 1
    while True:
        total = min(entry.time(calls)[0] for _ in range(3 if calls > 1 else 2))
        if total >= _BATCH_SECONDS / 4 or calls >= 1 << 20:
            return max(1, round(calls * _BATCH_SECONDS / max(total, 1e-9)))
        calls *= 8
