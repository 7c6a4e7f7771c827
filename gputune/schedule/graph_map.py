"""Which index map did TVM write? In its traces a map is the JSON of an object graph.

The graph is a list of nodes that name each other by position; older versions write "type_key",
"attrs" and numbers as text, newer ones "type" and "data". It is turned into the text of a lambda,
which `IndexMap.from_text` reads and checks as any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from ..errors import UserError

_BINARY: Mapping[str, str] = {
    "Add": "({} + {})", "Sub": "({} - {})", "Mul": "({} * {})", "FloorDiv": "({} // {})",
    "FloorMod": "({} % {})", "Min": "min({}, {})", "Max": "max({}, {})",
}  # fmt: skip
_LONGEST = 20_000  # characters of a map; nodes may be used again and again


def is_graph(text: str) -> bool:
    """Is a string of a trace such a graph?"""
    return text.lstrip().startswith("{")


def text_of_graph(text: str) -> str:
    """The map of a graph as a lambda.

    Raises:
        UserError: it is no graph, or that of something else than an index map.

    Example:
        >>> nodes = [{"type": "ffi.String", "data": "i"}, {"type": "ir.Var", "data": {"name": 0}},
        ...          {"type": "ffi.Array", "data": [1]}, {"type": "int", "data": 4},
        ...          {"type": "ir.IntImm", "data": {"value": 3}},
        ...          {"type": "prim.FloorDiv", "data": {"a": 1, "b": 4}},
        ...          {"type": "ffi.Array", "data": [5]},
        ...          {"type": "tirx.IndexMap", "data": {"initial_indices": 2, "final_indices": 6}}]
        >>> text_of_graph(json.dumps({"root_index": 7, "nodes": nodes}))
        'lambda i0: ((i0 // 4),)'
    """
    try:
        graph = json.loads(text)
        return _Graph(graph["nodes"]).map(int(graph.get("root_index", graph.get("root"))))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as e:
        if isinstance(e, UserError):
            raise
        _refuse("it is no graph of an index map")


class _Graph:
    """Nodes, and the expressions that they have been found to be."""

    def __init__(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        self.nodes = nodes
        self.texts: dict[int, str] = {}

    def map(self, root: int) -> str:
        """The map at a node."""
        kind, fields = self.node(root)
        if kind != "IndexMap":
            _refuse(f"it is the graph of a {kind}")
        initial = self.items(int(fields["initial_indices"]))
        names = [f"i{k}" for k in range(len(initial))]
        self.texts.update(zip(initial, names, strict=True))
        final = [self.expr(k) for k in self.items(int(fields["final_indices"]))]
        if sum(map(len, final)) > _LONGEST:
            _refuse("its indices are too long")
        head = f"lambda {', '.join(names)}:" if names else "lambda:"
        return f"{head} ({' '.join(f'{x},' for x in final)})"

    def node(self, at: int) -> tuple[str, Any]:
        """The last word of a node's type, and what it holds."""
        if at < 0:
            raise IndexError
        x = self.nodes[at]
        kind = str(x.get("type", x.get("type_key", ""))).rpartition(".")[2]
        return kind, x.get("attrs", x.get("data", x.get("repr_str")))

    def items(self, at: int) -> list[int]:
        """The nodes of a list."""
        kind, data = self.node(at)
        if kind != "Array" or not isinstance(data, list):
            _refuse(f"a list of indices is a {kind}")
        return [int(k) for k in data]

    def expr(self, at: int) -> str:
        """An expression as text."""
        if at not in self.texts:
            text = self.fresh(at)
            if len(text) > _LONGEST:
                _refuse("its indices are too long")
            self.texts[at] = text
        return self.texts[at]

    def fresh(self, at: int) -> str:
        """The same, when it is met for the first time."""
        kind, fields = self.node(at)
        if kind in _BINARY:
            return _BINARY[kind].format(self.expr(int(fields["a"])), self.expr(int(fields["b"])))
        if kind in ("IntImm", "FloatImm"):
            value = fields["value"]
            if type(value) is int:  # numbers are nodes, too
                value = self.node(value)[1]
            number = int(value) if kind == "IntImm" else float(value)
            return f"({number})" if number < 0 else str(number)
        _refuse(
            "it uses a variable that is none of its indices"
            if kind == "Var"
            else f"a {kind or 'null'} is no index arithmetic"
        )


def _refuse(why: str) -> NoReturn:
    raise UserError(f"index map of a TVM trace: {why}", code="index-map")
