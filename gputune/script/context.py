"""Where are we in a script, what do its names mean, and how is a mistake reported?"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ..errors import ScriptError
from ..ir import dtypes
from ..ir.nodes import (
    Block,
    Buffer,
    BufferRegion,
    Expr,
    IterVar,
    MatchBuffer,
    Range,
    Stmt,
    Var,
)

MAX_DEPTH = 150
"""How deep expressions, and statements, may nest."""

MAX_LANES = 4096
"""The widest vector that a script can name."""

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Source:
    """The text being parsed; `offset` lines of the file stand before line 1 of the text."""

    filename: str
    lines: Sequence[str]
    offset: int = 0

    def error(
        self, line: int, column: int, message: str, hint: str = "", code: str = "script"
    ) -> ScriptError:
        """An error at `line` and `column` of the text, both counted from 1 (0: unknown)."""
        text = self.lines[line - 1].rstrip("\n") if 0 < line <= len(self.lines) else ""

        def draw() -> str:
            if not text:
                return ""
            shown, at = text, max(column - 1, 0)
            if len(shown) > 160:  # generated lines can be long: show the neighbourhood
                start = max(0, at - 80)
                shown, at = shown[start : start + 160], at - start
            return f"    {shown}\n    {' ' * at}^"

        where = f"{self.filename}:{line + self.offset}:{column}"
        return ScriptError(f"{where}: {message}", hint=hint, code=code, draw=draw)


@dataclass(slots=True)
class BlockParts:
    """A block while its statements are being read."""

    name: str
    line: int = 0
    is_root: bool = False
    nested: int = 0  # how many loops and branches are open inside the block
    iters: list[IterVar] = field(default_factory=list)
    values: list[Expr] = field(default_factory=list)
    where: Expr | None = None
    reads: tuple[BufferRegion, ...] | None = None
    writes: tuple[BufferRegion, ...] | None = None
    attrs: tuple[tuple[str, Any], ...] | None = None
    init: Stmt | None = None
    allocs: list[Buffer] = field(default_factory=list)
    matches: list[MatchBuffer] = field(default_factory=list)


@dataclass(slots=True)
class FuncParts:
    """A function while its statements are being read."""

    name: str
    params: list[Var] = field(default_factory=list)
    buffers: dict[Var, Buffer] = field(default_factory=dict)
    attrs: tuple[tuple[str, Any], ...] | None = None
    root: Block | None = None  # the root block, where the script spells it out


@dataclass(slots=True)
class Context:
    """The state of parsing one function.

    `names` are bound by the script; `captured` looks a name up outside of it and raises KeyError
    (None in `from_source`, which looks nowhere else).
    """

    source: Source
    func: FuncParts
    block: BlockParts
    captured: Callable[[str], Any] | None = None
    captured_names: Callable[[], Iterable[str]] | None = None
    names: dict[str, Any] = field(default_factory=dict)
    loops: dict[Var, Range] = field(default_factory=dict)
    undo: list[tuple[str, Any]] = field(default_factory=list)
    suite_start: int = 0  # of `undo`, where the innermost suite began
    depth: int = 0

    def fail(self, node: ast.AST, message: str, hint: str = "", code: str = "script") -> NoReturn:
        """Raise a ScriptError that points at `node`."""
        line = getattr(node, "lineno", 0)
        column = getattr(node, "col_offset", -1) + 1
        if 0 < line <= len(self.source.lines):  # ast counts bytes
            raw = self.source.lines[line - 1].encode("utf-8", "replace")
            column = len(raw[: column - 1].decode("utf-8", "replace")) + 1
        raise self.source.error(line, column, message, hint, code) from None

    def bind(self, name: str, value: Any) -> None:
        """Give a name a meaning until the scope is released."""
        self.undo.append((name, self.names.get(name, _MISSING)))
        self.names[name] = value

    def assign(self, node: ast.AST, name: str, value: Any) -> None:
        """Bind a name by assignment. In a loop or branch it must be new: Python would change the
        outer variable, a script cannot."""
        if name in self.names and all(n != name for n, _ in self.undo[self.suite_start :]):
            if self.suite_start:
                self.fail(
                    node,
                    f"{name!r} is bound outside of this suite and cannot change here",
                    "choose another name, or keep the value in a buffer",
                )
        self.bind(name, value)

    def release(self, mark: int) -> None:
        """Forget what was bound since `mark = len(self.undo)`."""
        while len(self.undo) > mark:
            name, old = self.undo.pop()
            if old is _MISSING:
                del self.names[name]
            else:
                self.names[name] = old

    def lookup(self, node: ast.Name) -> Any:
        """The meaning of a name: a Var, a Buffer, a namespace, or a captured Python value."""
        name = node.id
        found = self.names.get(name, _MISSING)
        if found is not _MISSING:
            return found
        if self.captured is not None:
            try:
                return self.captured(name)
            except KeyError:
                pass
        known = list(self.names)
        if self.captured_names is not None:
            known += [n for n in self.captured_names() if not n.startswith("__")]
        near = closest(name, known)
        hint = f"did you mean {near}?" if near else ""
        if not hint and self.captured is None:
            hint = "a script read from text sees only its own variables and T, I, R"
        self.fail(node, f"name {name!r} is not bound", hint, "script-name")


def closest(name: str, known: Iterable[str]) -> str:
    """The known names most like `name`, quoted, or ""."""
    near = difflib.get_close_matches(name, set(known), n=3, cutoff=0.6)
    if not near:
        near = sorted({k for k in known if k.lower() == name.lower()})[:3]
    return " or ".join(repr(n) for n in near)


def dtype_problem(name: object) -> str:
    """Why `name` is no dtype, or "" if it is one."""
    if not isinstance(name, str):
        return f"expected a dtype such as 'float32', got {name!r}"
    base, lanes = dtypes.split(name)
    if name == "handle" or (base in dtypes.SCALARS and 1 <= lanes <= MAX_LANES):
        return ""
    near = closest(base, dtypes.SCALARS)
    return f"unknown dtype {name!r}" + (f"; did you mean {near}?" if near else "")


def as_pairs(value: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """A dict of annotations as the nodes hold it."""
    return tuple(value.items())
