"""What does one line of a record file look like, and how is it read without reading all of it?

A line is `[workload index, [trace, run_secs, target, args_info, {extras..., "crc": N}]]`. gputune
writes the one canonical text of it (sorted keys, no spaces) with the checksum last, so that the
checksum is that of bytes which stand in the line, and opening a file of many records takes a look
at each line and no parsing. A line in another form (MetaSchedule's, or with spaces) is parsed at
once.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from typing import Any

from ..errors import RecordError
from .record import TuningRecord, Workload

_CRC = b'"crc":'
_END = b"}]]"
# The end of a trace, its times and the beginning of the target. A trace may hold the like of it,
# but what follows there does not close the brackets that are open: `json` refuses it.
_MOST_ENDS = 8  # places that look like the end of a trace; a hostile line may have many
_TIMES = re.compile(rb"\]\],(?=(?:null|\[[-+.,0-9eE]*\]),(?:null|\{))")


def text_of(index: int, record: TuningRecord) -> str:
    """The line of a record of workload `index`, without its end."""
    return f"[{index},{body_of(record)}]"


def body_of(record: TuningRecord) -> str:
    """`[trace, run_secs, target, args_info, extras]` in the one form that gputune writes.

    Raises:
        RecordError: the extras hold what JSON cannot.
    """
    try:
        text = record.text()
    except (TypeError, ValueError) as e:
        raise RecordError(f"tuning record: it cannot be written as JSON: {e}") from None
    comma = "" if text.endswith(",{}]") else ","
    return f'{text[:-2]}{comma}"crc":{zlib.crc32(text.encode())}}}]'


def index_of(line: bytes) -> int | None:
    """The workload index of a line in gputune's form whose checksum fits; None for all others.

    This is the whole work for each line of a file that is opened.
    """
    at = line.rfind(_CRC)
    head = line.find(b",", 1, 12)
    if at < 0 or head < 0 or not line.endswith(_END) or line[:1] != b"[":
        return None
    index, crc = line[1:head], line[at + len(_CRC) : -len(_END)]
    if not (index.isdigit() and crc.isdigit() and len(crc) <= 10):
        return None
    before = line[at - 1 : at]
    if before not in (b",", b"{"):
        return None
    cut = at - 1 if before == b"," else at
    with memoryview(line) as view:
        actual = zlib.crc32(b"}]", zlib.crc32(view[head + 1 : cut]))
    return int(index) if actual == int(crc) else None


def read(line: bytes, workload: Workload) -> TuningRecord:
    """The record of a line for which `index_of` has given the index of `workload`; its trace is
    parsed when it is asked for.

    Raises:
        RecordError: it is no record, though its checksum fits.
    """
    head = line.find(b",", 1, 12)
    return read_body(line[head + 1 : -1], workload)


def read_body(body: bytes, workload: Workload) -> TuningRecord:
    """The record of `body_of`, whose checksum is known to fit (see `fits`)."""
    for match in itertools.islice(_TIMES.finditer(body), _MOST_ENDS):
        end = match.end() - 1  # where the comma stands
        try:
            rest = json.loads(b"[" + body[end + 1 :], parse_constant=_refuse)
        except (ValueError, RecursionError):
            continue
        if len(rest) == 4 and isinstance(rest[3], dict) and rest[3].pop("crc", None) is not None:
            return TuningRecord.unread(body[1:end], rest, workload)
        break
    return TuningRecord.from_json(decoded(body), workload)


def fits(body: bytes) -> bool:
    """Is this `body_of` of a record, with a checksum that fits?"""
    return index_of(b"[0," + body + b"]") == 0


def decoded(line: bytes) -> Any:
    """The JSON value of a line; RecordError if it is none."""
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_refuse)
    except UnicodeDecodeError as e:
        raise RecordError(f"not UTF-8 text: {e.reason} at byte {e.start}") from None
    except RecursionError:
        raise RecordError("nested too deeply") from None
    except ValueError as e:
        what = "an empty line" if not line.strip() else f"not JSON ({e}): {line[:60]!r}"
        raise RecordError(what) from None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
