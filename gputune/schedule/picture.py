"""What stands under the message of a refused primitive? The call, and the program with the place
marked.

Both are made when the message is printed, from what cannot change: search raises errors by the
thousand and prints none of them. Nothing in them differs from one process to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir.index_map import IndexMap
from ..ir.nodes import EXPR_CLASSES, Block, BlockKey, Buffer, IRModule, Var
from ..ir.walk import walk_stmt
from .handles import BlockRV, LoopRV, shown
from .primitive import InstructionKind

_PLAIN = (bool, int, float, str, type(None))
_LONGEST = 100


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """The program with marked lines.

    Attributes:
        mod: the program as it was when the primitive refused.
        marks: the nodes, loop variables and block keys that are marked, if the program has them.
    """

    mod: IRModule
    marks: Sequence[object]

    def __call__(self) -> str:
        """The text."""
        from ..ir.show import draw

        texts = [draw(f, self.marks) for f in self.mod.functions.values()]
        for text in texts:
            if any(line.startswith(">") for line in text.splitlines()):
                return text
        return "\n".join(texts)


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """The call that was refused, over a picture.

    Attributes:
        kind: of the primitive.
        values: its arguments, by parameter.
        means: what the handles among them stood for: loop variables, block keys, sampled values.
        mod: the program before the call.
        picture: what is drawn under it, or None.
    """

    kind: InstructionKind
    values: Mapping[str, Any]
    means: Mapping[Any, Any]
    mod: IRModule
    picture: Callable[[], str] | None

    def __call__(self) -> str:
        """The text."""
        line = f"  call: {self.text()}"
        return line if self.picture is None else f"{line}\n{self.picture()}"

    def text(self) -> str:
        """The call, with loops and blocks by their names; arguments left at their defaults are
        left out."""
        parts = []
        for name in (*self.kind.params, "decision"):
            value = self.values.get(name)
            if name == self.kind.variadic:
                parts += [self._show(x) for x in value or ()]
            elif name in self.values and not self._is_default(name, value):
                parts.append(f"{name}={self._show(value)}")
        return f"{self.kind.method}({', '.join(parts)})"

    def _is_default(self, name: str, value: object) -> bool:
        if name == "decision":
            return value is None
        if name not in self.kind.defaults:
            return False
        default = self.kind.defaults[name]
        # a sampled size is not compared: that would record a guard
        return value is default or (
            type(value) is type(default) and type(value) in _PLAIN and value == default
        )

    def _show(self, x: Any) -> str:
        if isinstance(x, (BlockRV, LoopRV)):
            return self._name(x)
        if type(x) is Var:
            return str(int(self.means[x])) if x in self.means else x.name
        if isinstance(x, (Buffer, Block)):
            return x.name
        if isinstance(x, IndexMap):
            return x.text({v: v.name for v in x.free_vars()})
        if isinstance(x, EXPR_CLASSES):
            return str(x)
        if isinstance(x, (list, tuple)):
            items = ", ".join(self._show(y) for y in x)
            return _cut(f"[{items}]" if isinstance(x, list) else f"({items})")
        if isinstance(x, dict):
            return _cut("{" + ", ".join(f"{k!r}: {self._show(v)}" for k, v in x.items()) + "}")
        if isinstance(x, int) and not isinstance(x, bool):
            return str(int(x))
        return _cut(shown(x))

    def _name(self, rv: BlockRV | LoopRV) -> str:
        key = self.means.get(rv)
        if type(key) is Var:
            return key.name
        for b in _blocks(self.mod):
            if b.key is key:
                return b.name
        what = "block" if isinstance(rv, BlockRV) else "loop"
        return f"(a {what} that is gone)" if key else f"(a {what} of another schedule)"


def under(
    draw: Callable[[], str] | None,
    kind: InstructionKind,
    values: Mapping[str, Any],
    known: Mapping[Any, Any],
    mod: IRModule,
    detail: bool,
) -> Call:
    """What stands under the message of a refused call.

    Args:
        draw: the picture that the error has; None: the program is drawn with the loops and blocks
            among the arguments marked.
        kind: of the primitive.
        values: its arguments.
        known: what the schedule's handles stand for.
        mod: the program before the call.
        detail: is the program drawn?
    """
    means = {x: known[x] for v in values.values() for x in _handles(v) if x in known}
    values = {n: _named(v, mod) if n in kind.blocks else v for n, v in values.items()}
    if draw is None and detail:
        named = [values[n] for n in kind.blocks if isinstance(values.get(n), Block)]
        marks = [m for m in means.values() if isinstance(m, (Var, BlockKey))]
        draw = Picture(mod, [*marks, *named])
    return Call(kind, values, means, mod, draw)


def _named(x: Any, mod: IRModule) -> Any:
    """The block for a name that was not looked up before the call was refused."""
    found = [b for b in _blocks(mod) if b.name == x] if isinstance(x, str) else []
    return found[0] if len(found) == 1 else x


def _handles(x: Any) -> Iterator[Any]:
    if isinstance(x, (BlockRV, LoopRV)) or type(x) is Var:
        yield x
    elif isinstance(x, (list, tuple)):
        for y in x:
            yield from _handles(y)


def _blocks(mod: IRModule) -> Iterator[Block]:
    for f in mod.functions.values():
        for s in walk_stmt(f.body):
            if type(s) is Block:
                yield s


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 4] + " ..."
