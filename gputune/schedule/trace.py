"""What was done to a program? Instructions, in order, with the decisions that sampling took.

A trace prints as Python, is written as JSON (MetaSchedule's form: `[kind, inputs, attributes,
outputs]`), and replays from either. Loading runs no code: Python text is read through `ast`, and
only calls of primitives on `sch` with literal arguments are accepted.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import RecordError, ScheduleError, UserError
from ..ir import build
from ..ir.build import const_int
from ..ir.index_map import IndexMap
from ..ir.nodes import EXPR_CLASSES, BinOp, Expr, FloatImm, IntImm, StringImm, Var
from ..ir.walk import substitute
from .graph_map import is_graph, text_of_graph
from .handles import BlockRV, LoopRV, shown
from .primitive import ACCESS_WORDS, KINDS, Access, InstructionKind

if TYPE_CHECKING:
    from .state import State

Decision: TypeAlias = Any  # a list of factors, an index, or a location
DecisionProvider: TypeAlias = Callable[["Instruction", list[Any], list[Any], Decision], Decision]
Json: TypeAlias = Any


class Instruction:
    """One call of a primitive.

    Args:
        kind: what was called.
        inputs: handles and values, in the kind's order; a flat input (the factors of a split, the
            loops of a fuse) is spread at the end.
        attrs: static parameters, in the kind's order.
        outputs: the handles that the call returned.
        is_list: did the call return a list (even of one)?
    """

    __slots__ = ("attrs", "inputs", "is_list", "kind", "outputs")

    def __init__(
        self,
        kind: InstructionKind,
        inputs: Sequence[Any],
        attrs: Sequence[Any],
        outputs: Sequence[Any],
        is_list: bool | None = None,
    ) -> None:
        self.kind = kind
        self.inputs = list(inputs)
        self.attrs = list(attrs)
        self.outputs = list(outputs)
        self.is_list = len(self.outputs) != 1 if is_list is None else is_list

    @staticmethod
    def record(kind: InstructionKind, values: Mapping[str, Any], out: Any) -> Instruction:
        """The instruction of a call that returned `out`."""
        inputs = [values[name] for name in kind.inputs]
        if kind.flat:
            inputs[-1:] = inputs[-1]
        inst = Instruction.__new__(Instruction)  # the lists are its own: no copies of them
        inst.kind = kind
        inst.inputs = inputs
        inst.attrs = [values[name] for name in kind.attrs]
        inst.is_list = type(out) is list
        inst.outputs = list(out) if inst.is_list else [] if out is None else [out]
        return inst

    def arguments(self, inputs: Sequence[Any] | None = None) -> dict[str, Any]:
        """The arguments of the call by parameter name (with other inputs, if given)."""
        given = self.inputs if inputs is None else inputs
        kind = self.kind
        last = len(kind.inputs) - 1 if kind.flat else len(kind.inputs)
        values: dict[str, Any] = dict(zip(kind.inputs[:last], given))
        if kind.flat:
            values[kind.flat] = tuple(given[last:]) if kind.variadic else list(given[last:])
        values.update(zip(kind.attrs, self.attrs, strict=True))
        return values

    def __repr__(self) -> str:
        return f"Instruction({self.kind.name})"


class Trace:
    """Instructions and decisions.

    Example:
        >>> sch = demo_schedule(); i, j = sch.get_loops(sch.get_block("B"))
        >>> _ = sch.split(i, [None, 4])
        >>> print(sch.trace)
        b0 = sch.get_block(name="B", func_name="main")
        l1, l2 = sch.get_loops(block=b0)
        l3, l4 = sch.split(loop=l1, factors=[None, 4], preserve_unit_iters=True)
    """

    __slots__ = ("decisions", "insts")

    def __init__(
        self,
        insts: Sequence[Instruction] = (),
        decisions: Mapping[Instruction, Decision] | None = None,
    ) -> None:
        self.insts = list(insts)
        self.decisions: dict[Instruction, Decision] = dict(decisions or {})

    def get_decision(self, inst: Instruction) -> Decision | None:
        """The decision of a sampling instruction, or None."""
        return self.decisions.get(inst)

    def append(self, inst: Instruction, decision: Decision | None = None) -> None:
        """Add an instruction at the end."""
        self.insts.append(inst)
        if decision is not None:
            self.decisions[inst] = decision

    def pop(self) -> Instruction | None:
        """Remove the last instruction with its decision; None when there is none."""
        if not self.insts:
            return None
        inst = self.insts.pop()
        self.decisions.pop(inst, None)
        return inst

    def copy(self) -> Trace:
        """A trace that can be appended to without changing this one."""
        return Trace(self.insts, self.decisions)

    # ------------------------------------------------------------------ replay
    def _without_postproc(self, remove: bool) -> list[Instruction]:
        if not remove:
            return self.insts
        out: list[Instruction] = []
        for inst in self.insts:
            if inst.kind.name == "EnterPostproc":
                break
            out.append(inst)
        return out

    def apply_to_schedule(
        self,
        sch: State,
        remove_postproc: bool = False,
        decision_provider: DecisionProvider | None = None,
    ) -> None:
        """Do all of it to a schedule.

        Args:
            sch: the schedule; normally a fresh one of the program that was recorded.
            remove_postproc: leave out what follows `enter_postproc`, and that line.
            decision_provider: `(instruction, inputs, attrs, old decision) -> decision` for each
                sampling instruction; None keeps the decisions.

        Raises:
            ScheduleError: an instruction refuses; what went before stays applied.
        """
        self.continue_on(sch, {}, self._without_postproc(remove_postproc), decision_provider)

    def continue_on(
        self,
        sch: State,
        table: dict[Any, Any],
        insts: Sequence[Instruction],
        decision_provider: DecisionProvider | None = None,
    ) -> None:
        """Do some of its instructions to a schedule to which those before them were done.

        Args:
            sch: the schedule.
            table: what each handle of this trace is in `sch`; the new ones are added.
            insts: the instructions, in order.
            decision_provider: as of `apply_to_schedule`.
        """
        alone = len(sch.mod.functions) == 1
        for inst in insts:
            inputs = [
                table[x] if type(x) is LoopRV and x in table else _translate(x, table)
                for x in inst.inputs
            ]
            values = inst.arguments(inputs)
            if alone and values.get("func_name") is not None:
                values["func_name"] = None  # a workload is the same under another name
            if inst.kind.samples:
                decision = self.decisions.get(inst)
                if decision_provider is not None:
                    decision = decision_provider(inst, inputs, inst.attrs, decision)
                values["decision"] = decision
            out = sch.run(inst.kind, values)
            if out is None:
                continue
            outs = out if isinstance(out, list) else [out]
            if len(outs) != len(inst.outputs):
                raise ScheduleError(
                    f"replay: {inst.kind.method} gave {len(outs)} results where the trace has "
                    f"{len(inst.outputs)}",
                    hint="the trace was recorded on another program",
                    code="replay-outputs",
                )
            table.update(zip(inst.outputs, outs, strict=True))

    # ------------------------------------------------------------------ editing
    def with_decision(
        self, inst: Instruction, decision: Decision, remove_postproc: bool = True
    ) -> Trace:
        """A copy with one decision changed.

        Raises:
            ScheduleError: it is not an instruction of this trace, or one that takes no decision.
        """
        insts = self._without_postproc(remove_postproc)
        if not isinstance(inst, Instruction) or inst not in insts:
            what = inst if isinstance(inst, Instruction) else f"a {type(inst).__name__}"
            raise ScheduleError(
                f"with_decision: {what} is not in this trace",
                hint="take one of trace.insts; those after enter_postproc are there only with "
                "remove_postproc=False",
                code="not-in-trace",
            )
        if not inst.kind.samples:
            raise ScheduleError(
                f"with_decision: {inst.kind.method} takes no decision",
                hint="take a sampling instruction: inst.kind.samples says whether it is one",
                code="no-decision",
            )
        kept = {i: d for i, d in self.decisions.items() if i in set(insts)}
        kept[inst] = decision
        return Trace(insts, kept)

    def simplified(self, remove_postproc: bool = True) -> Trace:
        """A copy without pure instructions (getters, sampling) whose results nobody uses."""
        used: set[Any] = set()
        kept: list[Instruction] = []
        for inst in reversed(self._without_postproc(remove_postproc)):
            if inst.kind.is_pure and not any(o in used for o in inst.outputs):
                continue
            kept.append(inst)
            for x in inst.inputs:
                used.update(_handles(x))
        kept.reverse()
        return Trace(kept, {i: d for i, d in self.decisions.items() if i in set(kept)})

    # ------------------------------------------------------------------ JSON
    def as_json(self, remove_postproc: bool = False) -> Json:
        """`[[instruction, ...], [[index, decision], ...]]`."""
        names: dict[Any, str] = {}
        insts, decisions = [], []
        for k, inst in enumerate(self._without_postproc(remove_postproc)):
            inputs = _plain_inputs(inst, names)
            outputs = [_name(o, names) for o in inst.outputs]
            insts.append([inst.kind.name, inputs, _plain_attrs(inst.attrs), outputs])
            if inst in self.decisions:
                decisions.append([k, _plain(self.decisions[inst])])
        return [insts, decisions]

    @staticmethod
    def apply_json_to_schedule(json_obj: Json, sch: State) -> None:
        """Replay the JSON form (a value, or its text).

        Raises:
            RecordError: it is not a trace. ScheduleError: an instruction refuses.
        """
        _from_json(json_obj).apply_to_schedule(sch, remove_postproc=False)

    @staticmethod
    def from_json(json_obj: Json) -> Trace:
        """The trace of a JSON form (a value, or its text); RecordError if it is not one."""
        return _from_json(json_obj)

    # ------------------------------------------------------------------ Python
    def as_python(self, remove_postproc: bool = False) -> list[str]:
        """One line of Python an instruction."""
        names: dict[Any, str] = {}
        return [
            _line(inst, self.decisions.get(inst), names)
            for inst in self._without_postproc(remove_postproc)
        ]

    @staticmethod
    def from_python(text: str) -> Trace:
        """The trace of printed text; RecordError naming the line if it is not one."""
        return _from_python(text)

    def __str__(self) -> str:
        return "\n".join(self.as_python())

    __repr__ = __str__

    def show(self, style: str | None = None, black_format: bool = False) -> None:
        """Print the trace; highlighted on a terminal that can.

        Args:
            style: the name of a Pygments style; None suits dark terminals.
            black_format: accepted and without effect: the printed lines have one form.
        """
        show_python(str(self), style)

    def _repr_html_(self) -> str:
        from ..ir.show import html

        return html(str(self))


def show_python(text: str, style: str | None = None) -> None:
    """Print Python text, highlighted on a terminal that can."""
    from rich.console import Console
    from rich.syntax import Syntax

    console = Console()
    if console.is_terminal:
        console.print(Syntax(text, "python", theme=style or "ansi_dark", word_wrap=True))
    else:
        print(text)


# ----------------------------------------------------------------------------- handles in values
def _translate(x: Any, table: Mapping[Any, Any]) -> Any:
    t = type(x)
    if t is BlockRV or t is LoopRV or t is Var:
        if x not in table:
            raise ScheduleError(
                "replay: an instruction uses a handle that no earlier one made",
                hint="a trace must hold the instruction that minted each handle",
                code="replay-handle",
            )
        return table[x]
    if t is list or t is tuple:
        return [_translate(y, table) for y in x]
    if t is dict:
        return {k: _translate(y, table) for k, y in x.items()}
    if isinstance(x, EXPR_CLASSES):
        return substitute(x, table)
    if t is IndexMap:
        return x.bind({v: _translate(v, table) for v in x.free_vars()})
    return x


def _handles(x: Any) -> list[Any]:
    if isinstance(x, (BlockRV, LoopRV, Var)):
        return [x]
    if isinstance(x, (list, tuple)):
        return [h for y in x for h in _handles(y)]
    if isinstance(x, dict):
        return [h for y in x.values() for h in _handles(y)]
    if isinstance(x, BinOp):
        return _handles(x.a) + _handles(x.b)
    if isinstance(x, IndexMap):
        return list(x.free_vars())
    return []


def _name(rv: Any, names: dict[Any, str]) -> str:
    prefix = "b" if isinstance(rv, BlockRV) else "l" if isinstance(rv, LoopRV) else "v"
    names[rv] = f"{prefix}{len(names)}"
    return names[rv]


_ACCESS_NUMBERS: Mapping[str, int] = {word: k for k, word in ACCESS_WORDS.items()}


def _plain_inputs(inst: Instruction, names: Mapping[Any, str]) -> list[Json]:
    """Inputs as JSON has them."""
    out = [_encode(x, names) for x in inst.inputs]
    for k, name in enumerate(inst.kind.inputs):
        if inst.kind.forms.get(name) == "AccessWord":
            out[k] = _ACCESS_NUMBERS.get(inst.inputs[k], out[k])
    return out


def _plain_attrs(attrs: Sequence[Any]) -> list[Json]:
    """Attributes as JSON has them: an access is two of them."""
    out: list[Json] = []
    for a in attrs:
        if type(a) is Access:
            out += (int(a.position), _ACCESS_NUMBERS[a.kind])
        else:
            out.append(_plain(a))
    return out


def _plain(x: Any) -> Json:
    """A static value as JSON has it."""
    if type(x) is IndexMap:
        return x.text()
    if isinstance(x, (list, tuple)):
        return [_plain(y) for y in x]
    if isinstance(x, dict):
        return {k: _plain(v) for k, v in x.items()}
    if isinstance(x, bool) or x is None or isinstance(x, (str, float)):
        return x
    if isinstance(x, int):
        return int(x)
    if isinstance(x, (IntImm, FloatImm, StringImm)):
        return _plain(x.value)
    raise ScheduleError(
        f"{shown(x)} cannot be written to a trace",
        hint="arguments are numbers, strings, lists, dicts, index maps and handles",
        code="not-writable",
    )


def _encode(x: Any, names: Mapping[Any, str]) -> Json:
    """An input as JSON has it: handles by name, strings in quotes, None as "None"."""
    if isinstance(x, (BlockRV, LoopRV, Var)):
        return names.get(x, "_")
    if x is None:
        return "None"
    if isinstance(x, str):
        return json.dumps(x)
    if isinstance(x, (list, tuple)):
        return [_encode(y, names) for y in x]
    if isinstance(x, dict):
        return {k: _encode(v, names) for k, v in x.items()}
    if isinstance(x, (BinOp, IndexMap)) or (isinstance(x, float) and not math.isfinite(x)):
        return _text(x, names)
    return _plain(x)


def _text(x: Any, names: Mapping[Any, str]) -> str:
    """A value as Python text."""
    if isinstance(x, (BlockRV, LoopRV, Var)):
        return names.get(x, "_")
    if isinstance(x, str):
        return _quoted(x)
    if type(x) is Access:
        return f"({_quoted(x.kind)}, {int(x.position)})"
    if type(x) is IndexMap:
        return x.text({v: names.get(v, "_") for v in x.free_vars()})
    if isinstance(x, (list, tuple)):
        return "[" + ", ".join(_text(y, names) for y in x) + "]"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{_quoted(k)}: {_text(v, names)}" for k, v in x.items()) + "}"
    if isinstance(x, BinOp):
        if x.op in ("min", "max"):
            return f"{x.op}({_text(x.a, names)}, {_text(x.b, names)})"
        return f"({_text(x.a, names)} {x.op} {_text(x.b, names)})"
    if isinstance(x, (IntImm, FloatImm, StringImm)):
        return _text(x.value, names)
    if isinstance(x, int) and not isinstance(x, bool):
        return str(int(x))
    if isinstance(x, float):
        return repr(float(x)) if math.isfinite(x) else f'float("{float(x)}")'
    return repr(x)


def _quoted(x: str) -> str:
    """A string literal that Python reads (JSON would write two surrogates for an emoji)."""
    if x.isascii() or max(x) <= "\uffff":
        return json.dumps(x)
    return (
        '"' + "".join(json.dumps(c)[1:-1] if c <= "\uffff" else f"\\U{ord(c):08x}" for c in x) + '"'
    )


def _line(inst: Instruction, decision: Decision, names: dict[Any, str]) -> str:
    kind = inst.kind
    values = inst.arguments()
    parts: list[str] = []
    for name in kind.params:
        value = values[name]
        if name in kind.quiet and (value == kind.defaults[name] or value == []):
            continue
        if name == kind.variadic:
            parts += [_text(v, names) for v in value]
        elif kind.positional:
            parts.append(_text(value, names))
        else:
            parts.append(f"{name}={_text(value, names)}")
    if decision is not None:
        parts.append(f"decision={_text(decision, names)}")
    call = f"sch.{kind.method}({', '.join(parts)})"
    if not inst.outputs:
        return call
    outs = [_name(o, names) for o in inst.outputs]
    left = (
        outs[0] + "," if inst.is_list and len(outs) == 1 and not kind.variadic else ", ".join(outs)
    )
    return f"{left} = {call}"


# ----------------------------------------------------------------------------- reading
_RV = re.compile(r"([blv])(\d+)\Z")


NULL = "_"
"""What stands for a handle that is not known any more."""


def _new_handle(name: object, where: str, kind: InstructionKind, table: dict[str, Any]) -> Any:
    """The result of an instruction by its name, which later ones may use."""
    if name == NULL:
        gives = str(kind.fn.__annotations__.get("return", ""))
        return BlockRV() if "Block" in gives else LoopRV() if "Loop" in gives else Var("v")
    match = _RV.match(name) if isinstance(name, str) else None
    if match is None:
        raise RecordError(f"{where}: {name!r} is not the name of a block, loop or value")
    letter = match.group(1)
    handle = BlockRV() if letter == "b" else LoopRV() if letter == "l" else Var("v")
    table[match.group()] = handle
    return handle


MOST_INSTRUCTIONS = 10_000
"""No schedule takes so many; a file that says otherwise would keep us busy for nothing."""


def _check_length(n: int) -> None:
    if n > MOST_INSTRUCTIONS:
        raise RecordError(f"trace: {n} instructions, at most {MOST_INSTRUCTIONS} are taken")


def _from_json(obj: Json) -> Trace:
    try:
        return _read_json(obj)
    except RecursionError:
        raise RecordError("trace: values are nested too deeply") from None


def _read_json(obj: Json) -> Trace:
    if isinstance(obj, str):
        try:
            obj = json.loads(obj)
        except (ValueError, RecursionError) as e:
            raise RecordError(f"trace: not JSON: {e}") from None
    if not (isinstance(obj, list) and len(obj) == 2 and all(isinstance(x, list) for x in obj)):
        raise RecordError("trace: expected [[instruction, ...], [[index, decision], ...]]")
    _check_length(len(obj[0]))
    table: dict[str, Any] = {}
    insts: list[Instruction] = []
    for k, item in enumerate(obj[0]):
        where = f"trace: instruction {k}"
        if not (isinstance(item, list) and len(item) == 4 and isinstance(item[0], str)):
            raise RecordError(f"{where}: expected [kind, inputs, attributes, outputs]")
        if not all(isinstance(x, list) for x in item[1:]):
            raise RecordError(f"{where}: inputs, attributes and outputs must be lists")
        kind = _known_kind(item[0], where)
        fixed = [n for n in kind.inputs if n != kind.flat]
        given, attrs = list(item[1]), list(item[2])
        while len(given) < len(fixed) and len(attrs) > len(kind.attrs) and not kind.flat:
            given.append(attrs.pop(0))  # an attribute there, an input here (as it may be sampled)
        inputs = [_decode(x, table, where) for x in given]
        attrs = _fit_attrs(kind, attrs, where)
        if len(inputs) < len(fixed) or (not kind.flat and len(inputs) != len(fixed)):
            raise RecordError(f"{where}: {kind.name} takes {len(fixed)} inputs, got {len(inputs)}")
        outputs = [_new_handle(name, where, kind, table) for name in item[3]]
        inst = Instruction(kind, inputs, attrs, outputs, _returns_list(kind, outputs))
        insts.append(_checked(inst, where))
    trace = Trace(insts)
    for entry in obj[1]:
        if not (
            isinstance(entry, list)
            and len(entry) == 2
            and isinstance(entry[0], int)
            and 0 <= entry[0] < len(insts)
        ):
            raise RecordError(f"trace: {entry!r} is not [index of an instruction, decision]")
        inst, where = insts[entry[0]], f"trace: instruction {entry[0]}"
        trace.decisions[inst] = _decision(inst.kind, entry[1], where)
    return trace


def _checked(inst: Instruction, where: str) -> Instruction:
    """The instruction with its arguments checked for their kinds."""
    try:
        values = inst.kind.checked(inst.arguments())
    except ScheduleError as e:
        raise RecordError(f"{where}: {e.message}", hint=e.hint) from None
    inst.attrs = [values[name] for name in inst.kind.attrs]
    fixed = [name for name in inst.kind.inputs if name != inst.kind.flat]
    inst.inputs[: len(fixed)] = [values[name] for name in fixed]
    return inst


def _decision(kind: InstructionKind, decision: Json, where: str) -> Decision:
    if not kind.samples:
        raise RecordError(f"{where}: {kind.name} takes no decision")
    try:
        return kind.checked({"decision": decision})["decision"]
    except ScheduleError as e:
        raise RecordError(f"{where}: {e.message}", hint=e.hint) from None


def _returns_list(kind: InstructionKind, outputs: Sequence[Any]) -> bool:
    if len(outputs) != 1:
        return bool(outputs)
    return "list" in str(kind.fn.__annotations__.get("return", ""))


def _known_kind(name: str, where: str) -> InstructionKind:
    try:
        return InstructionKind.get(name)
    except ScheduleError as e:
        raise RecordError(f"{where}: {e.message}", hint=e.hint) from None


def _fit_attrs(kind: InstructionKind, attrs: list[Any], where: str) -> list[Any]:
    """The attributes as they are kept; those of an older file may lack the newest ones, which take
    their defaults."""
    pair = next((k for k, n in enumerate(kind.attrs) if kind.forms.get(n) == "BufferAccess"), None)
    if pair is not None and len(attrs) >= pair + 2:
        index, word = attrs[pair : pair + 2]
        if isinstance(word, int):
            word = ACCESS_WORDS.get(word, word)
        attrs[pair : pair + 2] = [(word, index)]
    if len(attrs) > len(kind.attrs):
        raise RecordError(
            f"{where}: {kind.name} has {len(kind.attrs)} attributes, got {len(attrs)}"
        )
    for name in kind.attrs[len(attrs) :]:
        if name not in kind.defaults:
            raise RecordError(f"{where}: {kind.name} lacks the attribute {name!r}")
        attrs.append(kind.defaults[name])
    return attrs


def _decode(x: Json, table: Mapping[str, Any], where: str) -> Any:
    if isinstance(x, list):
        return [_decode(y, table, where) for y in x]
    if isinstance(x, dict):
        return {k: _decode_item(v, table, where) for k, v in x.items()}
    if not isinstance(x, str):
        return x
    if x == "None":
        return None
    if x in table:
        return table[x]
    if x == NULL:
        return LoopRV()  # of no instruction: replay refuses it
    if is_graph(x):
        try:
            return IndexMap.from_text(text_of_graph(x))
        except UserError as e:
            raise RecordError(f"{where}: {e.message}", hint=e.hint) from None
    if x.startswith('"'):
        try:
            text = json.loads(x)
        except ValueError:
            raise RecordError(f"{where}: {x!r} is not a quoted string") from None
        return text
    return _value(_parse(x, where).body, table, where)


def _decode_item(x: Json, table: Mapping[str, Any], where: str) -> Any:
    """A value of a dict, where TVM writes strings without quotes of their own."""
    if isinstance(x, str) and x not in table and x != "None" and _WORD.match(x):
        return x
    return _decode(x, table, where)


_WORD = re.compile(r"[A-Za-z_][\w.]*\Z")


def _parse(text: str, where: str) -> ast.Expression:
    try:
        return ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise RecordError(f"{where}: cannot read {text[:60]!r}") from None


_AST_OPS: dict[type[ast.AST], Any] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.FloorDiv: "//",
    ast.Mod: "%",
}


def _value(node: ast.expr, table: Mapping[str, Any], where: str) -> Any:
    """The value of a literal, a handle's name, or arithmetic over sampled values."""
    match node:
        case ast.Constant(value=v) if v is None or isinstance(v, (bool, int, float, str)):
            return v
        case ast.Name(id=name):
            if name == NULL:
                return LoopRV()  # of no instruction: replay refuses it
            if name not in table:
                raise RecordError(f"{where}: {name!r} is not the result of an earlier line")
            return table[name]
        case ast.List(elts=elts) | ast.Tuple(elts=elts):
            return [_value(e, table, where) for e in elts]
        case ast.Dict(keys=keys, values=vals):
            out = {}
            for k, item in zip(keys, vals, strict=True):
                if not (isinstance(k, ast.Constant) and isinstance(k.value, str)):
                    raise RecordError(f"{where}: keys must be strings")
                out[k.value] = _value(item, table, where)
            return out
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            v = _value(operand, table, where)
            if isinstance(v, (int, float)):
                return -v
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _AST_OPS:
            a, b = _number(left, table, where), _number(right, table, where)
            if isinstance(op, (ast.FloorDiv, ast.Mod)) and const_int(b) == 0:
                raise RecordError(f"{where}: division by zero")
            return build.binary(_AST_OPS[type(op)], a, b)
        case ast.Lambda():
            try:
                return IndexMap.from_ast(node, table)
            except UserError as e:
                raise RecordError(f"{where}: {e.message}", hint=e.hint) from None
        case ast.Call(
            func=ast.Name(id="float"),
            args=[ast.Constant(value="inf" | "-inf" | "nan" as text)],
            keywords=[],
        ):
            return float(text)
        case ast.Call(func=ast.Name(id="min" | "max" as f), args=[a, b], keywords=[]):
            return build.binary(
                "min" if f == "min" else "max", _number(a, table, where), _number(b, table, where)
            )
    raise RecordError(f"{where}: {ast.unparse(node)[:60]!r} is not a literal or a handle")


def _number(node: ast.expr, table: Mapping[str, Any], where: str) -> Expr:
    v = _value(node, table, where)
    if isinstance(v, bool) or not isinstance(v, (int, *EXPR_CLASSES)):
        raise RecordError(f"{where}: arithmetic needs integers")
    return build.expr(v)


def _from_python(text: str) -> Trace:
    try:
        return _read_python(text)
    except RecursionError:
        raise RecordError("trace: values are nested too deeply") from None


class _Methods(dict[str, InstructionKind]):
    """Kinds by the names of their methods; asks other packages for one that is not there."""

    def __contains__(self, name: object) -> bool:
        if not super().__contains__(name):
            from .extensions import PRIMITIVES, extensions

            extensions(PRIMITIVES)
            self.update({k.method: k for k in KINDS.values()})
        return super().__contains__(name)


def _read_python(text: str) -> Trace:
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        line = getattr(e, "lineno", None)
        raise RecordError(f"trace: line {line}: not Python: {getattr(e, 'msg', e)}") from None
    body: Sequence[ast.stmt] = module.body
    if len(body) == 1 and isinstance(body[0], ast.FunctionDef):
        body = body[0].body  # the form that has `def apply_trace(sch):` around it
    _check_length(len(body))
    methods = _Methods({k.method: k for k in KINDS.values()} | {"get_sblock": KINDS["GetSBlock"]})
    table: dict[str, Any] = {}
    trace = Trace()
    for stmt in body:
        where = f"trace: line {stmt.lineno}"
        targets: list[str] = []
        is_list = False
        call: ast.expr
        match stmt:
            case ast.Expr(value=call):
                pass
            case ast.Assign(targets=[ast.Name(id=name)], value=call):
                targets = [name]
            case ast.Assign(targets=[ast.Tuple(elts=elts)], value=call):
                is_list = True
                targets = [e.id if isinstance(e, ast.Name) else "" for e in elts]
            case ast.Pass():
                continue
            case _:
                raise RecordError(f"{where}: expected a call of a primitive of sch")
        match call:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="sch"), attr=method), args=args, keywords=kws
            ) if method in methods:
                kind = methods[method]
            case _:
                raise RecordError(f"{where}: {ast.unparse(call)[:60]!r} is no primitive of sch")
        values = _arguments(kind, args, kws, table, where)
        decision = values.pop("decision", None)
        outputs = [_new_handle(name, where, kind, table) for name in targets]
        inst = _checked(Instruction.record(kind, values, None), where)
        inst.outputs, inst.is_list = outputs, is_list
        if decision is not None:
            decision = _decision(kind, decision, where)
        trace.append(inst, decision)
    return trace


def _arguments(
    kind: InstructionKind,
    args: Sequence[ast.expr],
    kws: Sequence[ast.keyword],
    table: Mapping[str, Any],
    where: str,
) -> dict[str, Any]:
    values: dict[str, Any] = dict(kind.defaults)
    plain = [_value(a, table, where) for a in args]
    if kind.variadic:
        values[kind.variadic] = tuple(plain)
    elif len(plain) > len(kind.params):
        raise RecordError(f"{where}: {kind.method} takes {len(kind.params)} arguments")
    else:
        values.update(zip(kind.params, plain, strict=False))
    given: set[str | None] = set() if kind.variadic else set(kind.params[: len(plain)])
    for kw in kws:
        name = kind.renamed.get(kw.arg or "", kw.arg)
        if name in given:
            raise RecordError(f"{where}: {kind.method} has two values for {kw.arg!r}")
        given.add(name)
        if name is None or (name not in kind.params and name != "decision"):
            raise RecordError(f"{where}: {kind.method} has no argument {kw.arg!r}")
        node = kw.value
        if kind.forms.get(name) == "RangesLike" and isinstance(node, ast.Lambda):
            node = _without_pairs(node)
        values[name] = _value(node, table, where)
    missing = [p for p in kind.params if p not in values]
    if missing:
        raise RecordError(f"{where}: {kind.method} needs {', '.join(missing)}")
    return values


def _without_pairs(node: ast.Lambda) -> ast.Lambda:
    """`lambda i: ((i, i + 2),)` as `lambda i: (i, i + 2)`: begin, end, begin, end, ..."""
    body = node.body
    if not isinstance(body, (ast.Tuple, ast.List)):
        return node
    items = [y for x in body.elts for y in (x.elts if isinstance(x, ast.Tuple) else (x,))]
    return ast.Lambda(node.args, ast.Tuple(items, ast.Load()))
