"""The rows of MetaSchedule's API: what each item is called, takes and does, each with a check.

The rows are those of the reference's tables 1.1 (81 numbered rows) and 1.2 (names beyond them);
they are declared in `api_components`, `api_search` and `api_beyond`. `docs/make_api_table.py`
writes them as `docs/api_table.md`.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Check = Callable[[Path], None]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        id: the number of the row in table 1.1, or "1.2.<n>".
        item: its name.
        signature: as the reference gives it; "" where there is nothing to call.
        does: what gputune does.
        differs: where that is not what the reference says, and why.
        of: what has the signature.
        loose: parameters whose default is another one (`differs` says so).
        check: calls it; is given an empty folder.
    """

    id: str
    item: str
    signature: str
    does: str
    differs: str
    of: Any
    loose: tuple[str, ...]
    check: Check


ROWS: dict[str, Row] = {}


def row(
    id: str,
    item: str,
    signature: str = "",
    *,
    of: Any = None,
    does: str,
    differs: str = "",
    loose: tuple[str, ...] = (),
) -> Callable[[Check], Check]:
    """Declare a row; decorates its check."""

    def declare(check: Check) -> Check:
        assert id not in ROWS, f"row {id} is declared twice"
        ROWS[id] = Row(id, item, signature, does, differs, of, loose, check)
        return check

    return declare


def signature_faults(row: Row) -> list[str]:
    """Where the signature of what gputune has is not the reference's: other names, another order,
    other defaults, parameters that are missing, or additional ones that must be given."""
    if row.of is None:
        return []
    wanted = _parsed(row.signature)
    found = dict(inspect.signature(row.of).parameters)
    found.pop("self", None)
    faults = []
    positional = [p.name for p in found.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    open_kinds = {p.kind for p in found.values()}
    place = 0
    for name, kind, default in wanted:
        if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            if kind not in open_kinds:
                faults.append(f"does not take *{name}")
            continue
        here = found.get(name)
        if here is None:
            faults.append(f"has no parameter {name!r}")
            continue
        if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            if positional[place : place + 1] != [name]:
                faults.append(f"{name!r} is not parameter {place + 1}")
            place += 1
        if default is not inspect.Parameter.empty and name not in row.loose:
            if here.default != default:
                faults.append(f"{name!r} is {here.default!r} by default, not {default!r}")
    known = {name for name, _, _ in wanted}
    for p in found.values():
        needed = p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        if p.name not in known and needed:
            faults.append(f"the additional parameter {p.name!r} must be given")
    return faults


def _parsed(signature: str) -> list[tuple[str, Any, Any]]:
    """Name, kind and default of each parameter of a written signature."""
    function = ast.parse(f"def f{signature}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    args = function.args
    none = inspect.Parameter.empty
    out: list[tuple[str, Any, Any]] = []
    defaults = [none] * (len(args.args) - len(args.defaults)) + [
        ast.literal_eval(d) for d in args.defaults
    ]
    for a, d in zip(args.args, defaults):
        out.append((a.arg, inspect.Parameter.POSITIONAL_OR_KEYWORD, d))
    if args.vararg is not None:
        out.append((args.vararg.arg, inspect.Parameter.VAR_POSITIONAL, none))
    for a, k in zip(args.kwonlyargs, args.kw_defaults):
        value = none if k is None else ast.literal_eval(k)
        out.append((a.arg, inspect.Parameter.KEYWORD_ONLY, value))
    if args.kwarg is not None:
        out.append((args.kwarg.arg, inspect.Parameter.VAR_KEYWORD, none))
    return out


def refuses(error: type[Exception] | tuple[type[Exception], ...], text: str, call: Any) -> None:
    """`call()` raises `error` with `text` in its message."""
    with pytest.raises(error, match=re.escape(text)):
        call()
