"""Are observers asked around and during a measurement, and does a bad one cost only itself?"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

import gputune as gt
from gputune.errors import UserError
from gputune.runtime import observe
from gputune.runtime.observe import Observer, Subject, Watch, check_observers

SUBJECT = Subject("matmul", "cpu", [["TENSOR", "float32", [4, 4]]], "abc")


class Everything(Observer):
    """Writes down what it is asked."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.calls: list[Any] = []
        self.asked = threading.Event()

    def before(self, subject: Subject) -> None:
        self.calls.append(subject)

    def during(self) -> None:
        self.calls.append("during")
        self.asked.set()

    def after(self, seconds: Sequence[float]) -> None:
        self.calls.append(seconds)

    def results(self) -> Mapping[str, Any]:
        return {"calls": len(self.calls)}


def test_the_order_of_things() -> None:
    x = Everything()
    watch = Watch([x])
    watch.before(SUBJECT)
    with watch.sampling():
        assert x.asked.wait(30)  # by a thread of its own, while this one measures
    many = len(x.calls) - 1
    assert x.calls == [SUBJECT, *["during"] * many]
    watch.after([1e-3, 2e-3])
    assert x.calls[-1] == (1e-3, 2e-3)
    assert watch.results() == {"Everything": {"calls": many + 2}}
    assert watch.problems == {}
    assert not any(t.name == "gputune-observers" for t in threading.enumerate())


def test_nothing_needs_to_be_overridden() -> None:
    watch = Watch([Observer()])
    watch.before(SUBJECT)
    with watch.sampling():
        assert not any(t.name == "gputune-observers" for t in threading.enumerate())
    watch.after(())
    assert watch.results() == {}


@pytest.mark.parametrize("where", ["before", "during", "after", "results"])
def test_what_an_observer_raises_costs_only_itself(where: str) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("oh no")

    bad, good = Everything("bad"), Everything("good")
    setattr(bad, where, fail)
    watch = Watch([bad, good])
    watch.before(SUBJECT)
    watch.during()
    watch.after([1.0])
    assert watch.results().keys() == {"good"}
    assert watch.problems == {"bad": f"{where}: ZeroDivisionError: oh no"}
    assert good.calls == [SUBJECT, "during", (1.0,)]


def test_what_no_record_can_hold_is_a_problem() -> None:
    for found, told in (
        ({"x": float("nan")}, "ValueError"), ({"x": object()}, "TypeError"), ([1], "results are a"),
    ):  # fmt: skip
        x = Everything()
        x.results = lambda found=found: found  # type: ignore[method-assign]  # a bad one
        watch = Watch([x])
        assert watch.results() == {}
        assert told in watch.problems["Everything"]
    none = Everything()
    none.results = lambda: None  # type: ignore[assignment,method-assign,return-value]  # likewise
    assert Watch([none]).results() == {}


def test_an_observer_that_does_not_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "_PATIENCE_S", 0.01)
    over = threading.Event()

    class Hangs(Everything):
        def during(self) -> None:
            self.asked.set()
            over.wait(60)

    x = Hangs()
    watch = Watch([x])
    try:
        with watch.sampling():
            assert x.asked.wait(30)
        assert watch.problems == {"Hangs": "during: it did not return"}
        watch.after(())
        assert watch.results() == {}  # it is not asked any more
    finally:
        over.set()


def test_which_observers_are_taken() -> None:
    x = Observer()
    assert check_observers(x) == check_observers([x]) == (x,)
    assert check_observers(()) == ()
    for bad in ([Observer], "Load", 3, [x, None]):
        with pytest.raises(UserError, match="observers is a list of observers"):
            check_observers(bad)
    assert gt.Observer is gt.meta_schedule.Observer is Observer
