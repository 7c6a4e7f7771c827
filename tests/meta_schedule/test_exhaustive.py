"""Does Exhaustive try everything, once?"""

from __future__ import annotations

import pytest
from search_spaces import context, drive, many_tiles, two_tiles

from gputune.errors import UserError
from gputune.meta_schedule.database import MemoryDatabase
from gputune.meta_schedule.record import TuningRecord
from gputune.meta_schedule.search_strategy import Exhaustive, exhaustive


def test_everything_once_in_batches_of_the_size_asked_for() -> None:
    sizes, seen = drive(context(two_tiles, "exhaustive"), 100, 10)
    assert sizes == [10, 10, 5]
    assert len({c.digest for c in seen}) == 25


def test_the_order_follows_from_the_seed() -> None:
    orders = [[c.digest for c in drive(context(two_tiles, "exhaustive"), 9, 4)[1]] for _ in "ab"]
    assert orders[0] == orders[1]
    assert len(orders[0]) == 9


def test_what_the_database_holds_is_not_tried_again() -> None:
    ctx = context(two_tiles, "exhaustive")
    known = drive(ctx, 7, 7)[1]
    database = MemoryDatabase()
    workload = database.commit_workload(ctx.mod)
    for c in known:
        extras = {"program": c.digest}
        database.commit_tuning_record(
            TuningRecord(c.sch.trace, workload, [1.0], ctx.target, c.args_info, extras)
        )
    ctx.pre_tuning(100, 100, ctx.generate_design_space(), database)
    rest = ctx.generate_measure_candidates()
    assert rest is not None
    assert len(rest) == 25 - 7
    assert not {c.digest for c in rest} & {c.digest for c in known}


def test_a_space_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhaustive, "MOST_ROWS", 24)
    ctx = context(two_tiles, "exhaustive")
    with pytest.raises(UserError, match="one and all"):
        drive(ctx, 100, 10)
    monkeypatch.setattr(exhaustive, "MOST_ROWS", 25)
    drive(ctx, 100, 10)  # it was not begun: it can begin now


def test_many_combinations_are_listed() -> None:
    assert len(drive(context(many_tiles, Exhaustive()), 30, 30)[1]) == 30
