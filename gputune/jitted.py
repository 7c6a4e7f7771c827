"""How does one write a kernel for all sizes and call it for some? `jit`: compiled when needed.

A call never waits for tuning: it takes the best schedule that the database has for these sizes, or
else the default one. A schedule that this user has not checked on this machine is checked first, in
a worker process; a call waits a moment for that, and no longer: meanwhile the default schedule
serves.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from .default_schedule import build_default
from .errors import UserError
from .ir.nodes import IRModule, PrimFunc
from .meta_schedule.database import Database
from .meta_schedule.json_database import JSONDatabase
from .meta_schedule.logging import console
from .meta_schedule.record import TuningRecord
from .target import Target
from .target.target import TargetLike
from .tuned_kernel import TunedKernel, single_function
from .tuning import best_kernel, tune

Factory = Callable[..., PrimFunc | IRModule]

_PATIENCE_S = 2.0
"""How long a call waits for what the database has to be checked: a worker process starts in some
tenths of a second, and most checks take less."""


class _Lookup:
    """A search, in a thread, for the first record that may be used."""

    def __init__(self, records: Sequence[TuningRecord], mod: IRModule, target: Target) -> None:
        self.found: TunedKernel | None = None
        self._work = (records, mod, target)
        self._thread = threading.Thread(target=self._run, name="gputune-jit", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.found = best_kernel(*self._work)
        if self.found is None:
            name = next(iter(self._work[1].functions))
            console().warning("No record of %s can be used: it keeps the default schedule", name)

    def done(self, within_s: float = 0.0) -> bool:
        """Has it ended, or does it within that time?"""
        self._thread.join(within_s)
        return not self._thread.is_alive()


@dataclass(slots=True)
class _Entry:
    """The kernel for some sizes.

    Attributes:
        database: that was asked; kept, so that no later one can have the same id.
        lookup: what may yet find a better kernel.
    """

    kernel: TunedKernel
    database: Database | None = None
    lookup: _Lookup | None = None


class Jit:
    """A function from sizes to compiled kernels; made by `jit`.

    Args:
        factory: writes the program for given sizes (all hashable).
        target: what to compile for; None: the current target when called, else "llvm".
        work_dir: folder of a database to look in; None: the current database when called
            (`with database:`), if there is one.
    """

    def __init__(
        self,
        factory: Factory,
        target: TargetLike | None = None,
        work_dir: str | Path | None = None,
    ) -> None:
        if not callable(factory):
            raise UserError(f"jit: expected a function, found {type(factory).__name__}")
        self.factory = factory
        self.target = None if target is None else Target(target)
        self.work_dir = work_dir
        self._signature = inspect.signature(factory)
        self._kernels: dict[Any, _Entry] = {}
        self._database: JSONDatabase | None = None
        self._lock = threading.Lock()
        functools.update_wrapper(self, factory)

    def __call__(self, *sizes: Any, **named: Any) -> TunedKernel:
        """The kernel for some sizes: from the database, or by the default schedule.

        Kernels are kept: the same sizes (target, database) give the same kernel. There is one
        exception: where the check of a schedule from the database takes long, the first calls give
        a kernel of the default schedule, and those after the check the tuned one.

        Raises:
            UserError: the sizes do not fit the function, or it did not return a program.
        """
        given = self._bound(sizes, named)
        target = self.target or Target.current() or Target("llvm")
        current = Database.current() if self.work_dir is None else None
        key = (given, target, None if current is None else id(current))
        with self._lock:
            found = self._kernels.get(key)
            if found is None:
                found = self._kernels[key] = self._make(given, target, current)
            elif found.lookup is not None and found.lookup.done():
                found.kernel, found.lookup = found.lookup.found or found.kernel, None
            return found.kernel

    def tune(self, *sizes: Any, **budget: Any) -> TunedKernel:
        """Tune for some sizes now; later calls with them get the result.

        Args:
            sizes: as in a call.
            budget: `seconds`, `trials`, `seed`, `space`, `progress` of `gputune.tune`.
        """
        given = self._bound(sizes, {})
        target = self.target or Target.current() or Target("llvm")
        made = tune(self._program(given), target, work_dir=self.work_dir, **budget)
        current = Database.current() if self.work_dir is None else None
        with self._lock:
            key = (given, target, None if current is None else id(current))
            self._kernels[key] = _Entry(made, current)
        return made

    def clear(self) -> None:
        """Forget all kernels: the database is asked again."""
        with self._lock:
            self._kernels.clear()

    def _bound(self, sizes: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        try:
            bound = self._signature.bind(*sizes, **named)
        except TypeError as e:
            name = getattr(self.factory, "__name__", "kernel")
            raise UserError(f"{name}{self._signature}: {e}") from None
        bound.apply_defaults()
        given = tuple(bound.arguments.items())
        try:
            hash(given)
        except TypeError:
            raise UserError(
                f"jit: sizes must be hashable, found {given!r:.100}",
                hint="arrays are arguments of the kernel that the call returns",
            ) from None
        return given

    def _program(self, given: tuple[Any, ...]) -> PrimFunc | IRModule:
        bound = inspect.BoundArguments(self._signature, OrderedDict(given))
        return self.factory(*bound.args, **bound.kwargs)

    def _make(self, given: tuple[Any, ...], target: Target, current: Database | None) -> _Entry:
        name, func = single_function(self._program(given), "jit")
        database = self._files() if current is None else current
        mod = IRModule({name: func})
        records = [] if database is None else database.candidates(mod, target)
        lookup = _Lookup(records, mod, target) if records else None
        if lookup is not None and lookup.done(_PATIENCE_S):
            if lookup.found is not None:
                return _Entry(lookup.found, current)
            lookup = None
        schedule, module = build_default(mod, target)
        return _Entry(TunedKernel(schedule, target, workload=func, module=module), current, lookup)

    def _files(self) -> JSONDatabase | None:
        """The database of `work_dir`, as it is now."""
        if self.work_dir is None or not Path(self.work_dir).is_dir():
            return None
        if self._database is None:
            self._database = JSONDatabase(work_dir=self.work_dir)
        else:
            self._database.reload()
        return self._database


@overload
def jit(factory: Factory) -> Jit: ...
@overload
def jit(
    factory: None = None,
    *,
    target: TargetLike | None = None,
    work_dir: str | Path | None = None,
) -> Callable[[Factory], Jit]: ...
def jit(
    factory: Factory | None = None,
    *,
    target: TargetLike | None = None,
    work_dir: str | Path | None = None,
) -> Jit | Callable[[Factory], Jit]:
    """Make a function from sizes to a program into one from sizes to a kernel.

    Args:
        factory: takes sizes, returns a PrimFunc.
        target: what to compile for; default: the current target, else "llvm".
        work_dir: folder of a database with tuned schedules; default: the current database.

    Example:
        >>> @gputune.jit(work_dir="tuned")
        ... def matmul(m, n, k):
        ...     return gputune.kernels.get("matmul").build(m=m, n=n, k=k)
        >>> c = matmul(128, 128, 128)(a, b)
    """
    if factory is None:
        return lambda f: Jit(f, target, work_dir)
    return Jit(factory, target, work_dir)
