"""Which exceptions does gputune raise? All of them are here."""

from __future__ import annotations

from collections.abc import Callable, Mapping


class GputuneError(Exception):
    """Base of every error that gputune raises on purpose.

    Args:
        message: what was asked and why not, lower case, with the actual values.
        hint: what would work, or "".
        code: a stable short code for counting, such as "split-factors".
        draw: called only when the message is rendered; returns a picture of the program with the
            offending place marked. Search raises thousands of errors and draws none of them.
        details: facts for records, not shown in the message; a failed worker process gives "phase",
            "kind", "trace" and "stderr".

    Example:
        >>> print(GputuneError("factors [3, 5] do not cover extent 16", hint="leave one as None"))
        factors [3, 5] do not cover extent 16
          hint: leave one as None
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str = "",
        draw: Callable[[], str] | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.draw = draw
        self.details = dict(details or {})

    def __str__(self) -> str:
        text = self.message
        if self.hint:
            text += f"\n  hint: {self.hint}"
        if self.draw is not None:
            text += "\n" + self.draw()
        return text


class ScriptError(GputuneError):
    """A script is not a legal program: unbound name, wrong shape, unsupported syntax."""


class CheckError(GputuneError):
    """A program is not well formed."""


class ScheduleError(GputuneError):
    """A schedule primitive refused; program and trace are as they were before the call."""


class LowerError(GputuneError):
    """A program cannot be brought to plain loops for this target."""


class BuildError(GputuneError):
    """Code generation or the compiler failed."""


class RunError(GputuneError):
    """A kernel was called wrongly (shape, dtype, device, alignment) or failed while running."""


class WrongResult(GputuneError):
    """A kernel ran, and its numbers are wrong."""


class TimeoutExpired(GputuneError):
    """A build or a run took longer than its limit."""


class TargetError(GputuneError, ValueError):
    """A target string or dict does not name a machine that gputune knows."""


class RecordError(GputuneError, ValueError):
    """A file (database, script, model) is not what it should be, or cannot be written; names it.

    Attributes:
        result: what tuning had found when recording failed (it is in memory); None otherwise.
    """

    result: object = None


class UserError(GputuneError, ValueError):
    """A command or call cannot be carried out as asked."""
