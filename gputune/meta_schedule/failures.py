"""Why did candidates fail? Each failure is a value, a line in a file, and a count."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import GputuneError, RecordError

INFRASTRUCTURE = "start"
"""The phase of failures that are not the candidate's fault: no worker could be had."""

REFUSED = "refuse"
"""The phase of candidates that were built and not measured: a rule takes them to be slow."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a candidate has no time.

    Attributes:
        phase: "build", "run", "check", "start" where no worker could be had, "refuse" where a rule
            of `second_look` takes what was built to be slow, or "callback" where a part of the
            search raised after a round.
        kind: a short word for counting: "timeout", "crash", "wrong_result", an error's class.
        message: what was said, for people.
    """

    phase: str
    kind: str
    message: str

    @staticmethod
    def of(error: GputuneError, phase: str) -> Failure:
        """The failure that an error describes; a worker's error says the phase itself."""
        details = error.details
        kind = details.get("kind") or error.code or type(error).__name__
        return Failure(details.get("phase") or phase, kind, error.message)

    @property
    def infrastructure(self) -> bool:
        """Is the candidate not to blame? Then it costs no trial."""
        return self.phase == INFRASTRUCTURE

    @property
    def reason(self) -> str:
        """What failures are counted by, such as "build timeout"."""
        return f"{self.phase} {self.kind}"

    def as_json(self) -> dict[str, str]:
        """The fields, as a record's extras hold them."""
        return {"phase": self.phase, "kind": self.kind, "message": self.message}

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def write_failures(path: Path, lines: Sequence[dict[str, object]]) -> None:
    """Append failures to a file, one JSON object a line; RecordError if that fails. A line that an
    interrupted process left torn stays alone: what follows begins on a line of its own."""
    text = "".join(json.dumps(x, sort_keys=True, allow_nan=False) + "\n" for x in lines)
    try:
        with path.open("ab+") as f:
            if f.seek(0, 2) > 0:
                f.seek(-1, 2)
                if f.read(1) != b"\n":
                    text = "\n" + text
            f.write(text.encode())
    except OSError as e:
        raise RecordError(
            f"cannot record in {path}: {e.strerror or e}", code="not-recorded"
        ) from None


def in_words(counts: Counter[str], most: int | None = None) -> str:
    """Counts by reason, the most frequent first: "3 x build timeout, 1 x run crash"."""
    return ", ".join(f"{n} x {reason}" for reason, n in counts.most_common(most))
