"""Does a trace stand for the whole space of the code that made it, or must that code be called?

It does as long as the code only hands sampled values on: then other decisions make another
candidate of the same instructions. Code of a user that *looks* at a value it sampled, at an extent
that follows from one, or at dice of its own may do something else the next time. `makers_to_call`
finds that out; `call_again` makes other candidates by calling the code, with decisions to start
from.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..errors import ScheduleError
from ..ir.nodes import Expr, IRModule, PrimFunc
from ..schedule import BlockRV, InstructionKind, LoopRV, Schedule, StmtSRef, Trace

if TYPE_CHECKING:
    from collections import Counter

_CALLS = 16
"""With how many other decisions a function is called to see whether it does the same."""

Wish: TypeAlias = tuple[str, Any, Any]
"""Kind, attributes and decision of a sampling instruction; the decision None: draw it."""


class Maker(Protocol):
    """What makes design spaces, each schedule from a seed and wishes."""

    rng: random.Random
    wishes: Sequence[Wish]

    def generate_design_space(self, mod: IRModule | PrimFunc) -> list[Schedule]:
        """The schedules."""


class _Notes:
    """What was noticed; shared by a schedule and its copies.

    Attributes:
        foreign: code that is not gputune's took part.
        sampled: something was sampled.
        looked: code that is no primitive read a sampled value.
    """

    __slots__ = ("foreign", "looked", "sampled")

    def __init__(self) -> None:
        self.foreign = self.looked = self.sampled = False


class WatchedSchedule(Schedule):
    """A schedule that notices sampling, and code beside the primitives that reads a sampled value.

    Args:
        mod, options: as of `Schedule`.
        maker: whose code schedules.
        wishes: decisions for the sampling instructions in their order; one that is not legal, and
            one for another instruction than the next, is passed over, and a new one drawn.
    """

    def __init__(
        self,
        mod: PrimFunc | IRModule,
        *,
        maker: Maker | None = None,
        wishes: Sequence[Wish] = (),
        **options: Any,
    ) -> None:
        super().__init__(mod, **options)
        self.maker = maker
        self.notes = _Notes()
        self._wishes = list(wishes)

    def get(self, rv: BlockRV | LoopRV | StmtSRef | int | Expr) -> Any:
        """As of `Schedule`; reading a sampled value is noticed."""
        if self._depth == 0 and not isinstance(rv, BlockRV | LoopRV | StmtSRef | int):
            self.notes.looked = True
        return super().get(rv)

    def run(self, kind: InstructionKind, values: dict[str, Any]) -> Any:
        """As of `Schedule`; sampling is noticed, and takes the decision wished for."""
        if not kind.samples:
            return super().run(kind, values)
        self.notes.sampled = True
        attrs = _listed([values[name] for name in kind.attrs])
        if not self._wishes or self._wishes[0][:2] != (kind.name, attrs):
            return super().run(kind, values)
        decision = self._wishes.pop(0)[2]
        if decision is None or values.get("decision") is not None:
            return super().run(kind, values)
        try:
            return super().run(kind, {**values, "decision": decision})
        except ScheduleError as e:
            if e.code != "sample-decision":
                raise
        return super().run(kind, values)

    def copy(self) -> WatchedSchedule:
        """As of `Schedule`; what either notices, both know."""
        other = super().copy()
        assert isinstance(other, WatchedSchedule)
        other.maker, other.notes, other._wishes = self.maker, self.notes, list(self._wishes)
        return other


def wishes_of(trace: Trace) -> list[Wish]:
    """The decisions of a trace, to be taken again."""
    return [
        (i.kind.name, _listed(i.attrs), trace.decisions.get(i))
        for i in trace.insts
        if i.kind.samples
    ]


def call_again(
    maker: Maker, mod: IRModule, seed: int, wishes: Sequence[Wish] = ()
) -> list[Schedule]:
    """The design space once more, with other decisions.

    Args:
        maker: whose code to call; nothing of it changes.
        mod: the program.
        seed: of what is drawn.
        wishes: decisions to take where they fit.

    Raises:
        Whatever the code raises.
    """
    before = maker.rng, maker.wishes
    maker.rng, maker.wishes = random.Random(seed), wishes
    try:
        return list(maker.generate_design_space(mod))
    finally:
        maker.rng, maker.wishes = before


def drawn(generate: Callable[[], Sequence[Schedule]], refusals: Counter[str]) -> list[Schedule]:
    """The schedules of a call of users' code; none, and the reason counted, if it raises: one
    candidate can fail, the search cannot."""
    try:
        found = list(generate())
    except ScheduleError as e:
        refusals[e.message] += 1
        return []
    except Exception as e:
        refusals[f"{type(e).__name__}: {e}"] += 1
        return []
    if not found:
        refusals["the space generator gave no schedule"] += 1
    return found


def makers_to_call(spaces: Sequence[Schedule], mod: IRModule) -> list[Maker | None]:
    """For each design space, who must be called for other candidates; None if its trace will do."""
    out: list[Maker | None] = [None] * len(spaces)
    unsure: dict[Maker, list[int]] = {}
    for k, sch in enumerate(spaces):
        if not isinstance(sch, WatchedSchedule) or sch.maker is None or not sch.notes.sampled:
            continue
        if sch.notes.looked:
            out[k] = sch.maker
        elif sch.notes.foreign:
            unsure.setdefault(sch.maker, []).append(k)
    for maker, which in unsure.items():
        texts = [_instructions(spaces[k]) for k in which]
        for k, same in zip(which, _come_again(maker, mod, texts)):
            out[k] = None if same else maker
    return out


def _come_again(maker: Maker, mod: IRModule, texts: Sequence[Any]) -> list[bool]:
    """Are there the same instructions whatever is sampled?"""
    same = [True] * len(texts)
    for seed in range(1, _CALLS + 1):
        try:
            again = [_instructions(s) for s in call_again(maker, mod, seed)]
        except ScheduleError:
            continue  # so may any replay: it says nothing
        except Exception:  # of a user's code, which did not raise with the decisions before
            return [False] * len(texts)
        same = [was and text in again for was, text in zip(same, texts)]
        if not any(same):
            break
    return same


def is_ours(part: object) -> bool:
    """Is it a part of gputune, which is known to treat sampled values as the matrix needs?"""
    ours = type(part).__module__.split(".")[0] == "gputune"
    return ours and not getattr(part, "calls_users", False)


def note_foreign(sch: Schedule) -> None:
    """Code that is not gputune's is about to schedule."""
    if isinstance(sch, WatchedSchedule):
        sch.notes.foreign = True


def _instructions(sch: Schedule) -> Any:
    """What a trace does, without its decisions."""
    return sch.trace.as_json(remove_postproc=True)[0]


def _listed(x: Any) -> Any:
    """Lists for tuples: arguments may be either."""
    return [_listed(y) for y in x] if isinstance(x, list | tuple) else x
