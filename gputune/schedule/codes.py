"""Which errors can a primitive raise? Their codes and messages, read from the source.

Everything is found by reading: the calls of `fail` and `ScheduleError` with their `code`, `hint`
and message, and from each primitive the functions that it may call. Nothing has to be kept up to
date by hand, except the meaning of a code that several files use.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .primitive import KINDS, InstructionKind

SHARED: Mapping[str, str] = {
    "block-gone": "an earlier primitive has replaced the block that a handle stood for",
    "block-name": "several blocks have the name",
    "buffer-index": "the block has no such buffer",
    "buffer-parameter": "the buffer is a parameter of the function",
    "cache-consumer": "a block among the consumers does not read the buffer",
    "cache-partial": "the buffer is not accessed whole",
    "cache-place": "there is no place at which a copy would see the right values",
    "cache-writers": "the buffer is written by several blocks",
    "index-map": "the function of indices is no index map, or one of other indices",
    "inline-domain": "a block runs where another one does not, or its domain is not constant",
    "inline-invert": "the iterators of a block cannot be told from the indices that it reads at",
    "iter-kind": "the block has iterators of a kind that the primitive does not handle",
    "layout-align": "a buffer's alignment or strides would not hold for another shape",
    "layout-dynamic": "an extent is not constant",
    "loop-annotated": "the loop has annotations, which the new loops could not keep",
    "loop-gone": "an earlier primitive has replaced the loop that a handle stood for",
    "loop-kind": "the loop is parallel, vectorized, unrolled or bound",
    "loop-start": "the loop does not start at 0",
    "no-block": "no block has the name",
    "no-function": "the module has no function of the name",
    "not-a-block": "something else was given for a block",
    "not-affine": "the bindings of a block are no quasi-affine map of its loops",
    "not-complete": "the block is not a complete block",
    "not-pipeline": "the scope is no stage pipeline: blocks that write alone, before they are read",
    "not-reduction": "the block is no reduction block",
    "reduction-predicate": "a condition ties the loops of a reduction to others",
    "reduction-start": "a reduction would not be initialised, or not at its beginning",
    "reorder-order": "the result depends on the order in which a reduction runs",
    "reorder-own": "a block reads what its other iterations write",
    "root-block": "the root block cannot be what the primitive works on",
    "too-deep": "the program is, or would be, nested too deeply",
}
"""What the codes mean that more than one file uses."""

ALWAYS = ("argument", "too-deep")
"""What every primitive may refuse."""

FORWARDED: Mapping[tuple[str, str], Sequence[str]] = {
    ("inline", "inline_block"): ("inline:inline_fault",),
    ("tensorize", "tensorize"): ("..target.intrin:intrin",),
    ("rfactor", "rfactor"): ("recognise:*",),
    ("state", "fail"): (),
    ("state", "error"): (),
}
"""(module, function) whose `code` is no literal, with where it comes from."""

_CODE = re.compile(r"[a-z]+(-[a-z]+)*\Z")
_REFUSES = ("fail", "ScheduleError", "error", "Fault")


@dataclass(frozen=True, slots=True)
class Site:
    """One place where a primitive refuses.

    Attributes:
        module: the name of the module within its package.
        function: the function, or class, at the module's top level.
        line: its line.
        codes: what `code` may be; () where that is no literal.
        message: the message, with "..." for what is filled in.
        hint: the hint likewise; "" where it is computed.
        has_hint, has_code: does the call say these?
    """

    module: str
    function: str
    line: int
    codes: tuple[str, ...]
    message: str
    hint: str
    has_hint: bool
    has_code: bool


def sites(source: str, module: str) -> list[Site]:
    """The places in a module where primitives refuse."""
    out = []
    for top in ast.parse(source).body:
        owner = getattr(top, "name", "")
        for node in ast.walk(top):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            f = node.func
            name = f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "")
            if name not in _REFUSES or (name == "error" and not isinstance(f, ast.Attribute)):
                continue
            given = {k.arg: k.value for k in node.keywords}
            args = list(node.args)
            if name == "Fault":  # (code, message, hint), which the function that asked hands on
                given |= dict(zip(("code", "message", "hint"), args, strict=False))
                args = [given["message"]]
            where = _function_of(top, node) or owner
            out.append(Site(
                module, where, node.lineno, tuple(_literals(given.get("code"))),
                _template(args[0]), _template(given.get("hint")), "hint" in given,
                "code" in given,
            ))  # fmt: skip
    return out


def _function_of(top: ast.stmt, node: ast.Call) -> str:
    """The name of the innermost named function around a call."""
    best = ""
    for x in ast.walk(top):
        if isinstance(x, ast.FunctionDef) and any(y is node for y in ast.walk(x)):
            best = x.name  # `walk` goes outside in
    return best


def _literals(node: ast.expr | None) -> list[str]:
    match node:
        case ast.Constant(value=str() as text):
            return [text]
        case ast.IfExp(body=a, orelse=b):
            return _literals(a) + _literals(b)
    return []


def _template(node: ast.expr | None) -> str:
    """A message as a pattern; "" if it is not written there."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            text = "".join(str(p.value) if isinstance(p, ast.Constant) else "..." for p in parts)
            return re.sub(r"\.{4,}", "...", text)
        case ast.BinOp(left=a, op=ast.Add(), right=b):
            return _template(a) + _template(b)
        case ast.IfExp(body=a, orelse=b):
            return " / ".join(filter(None, (_template(a), _template(b))))
    return ""


# ----------------------------------------------------------------------------- who calls whom
@dataclass(frozen=True, slots=True)
class _Module:
    """One module.

    Attributes:
        name: absolute.
        tops: its functions and classes, and the methods of these as "Class.method".
        imported: what its names stand for: (module, name), where a module is named by its package.
        sites: where it refuses.
    """

    name: str
    tops: Mapping[str, ast.FunctionDef | ast.ClassDef]
    imported: Mapping[str, tuple[str, str]]
    sites: Sequence[Site]


_HERE = __name__.rpartition(".")[0]
_STATE = f"{_HERE}.state"
_NOT_FOLLOWED = {(_STATE, "State"), (f"{_HERE}.schedule", "Schedule"), (_STATE, "State.run")}


@functools.cache
def _module(name: str) -> _Module | None:
    """A module as read; None if it has no source."""
    try:
        source = inspect.getsource(importlib.import_module(name))
    except (ImportError, OSError, TypeError):
        return None
    tree = ast.parse(source)
    tops: dict[str, ast.FunctionDef | ast.ClassDef] = {}
    imported: dict[str, tuple[str, str]] = {}
    for t in tree.body:
        if isinstance(t, ast.FunctionDef | ast.ClassDef):
            tops[t.name] = t
        if isinstance(t, ast.ClassDef):
            tops |= {f"{t.name}.{m.name}": m for m in t.body if isinstance(m, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*name.split(".")[: -node.level], *filter(None, [base])])
            imported |= {a.asname or a.name: (base, a.name) for a in node.names}
    return _Module(name, tops, imported, sites(source, name.rpartition(".")[2]))


def codes_of(kind: InstructionKind) -> list[str]:
    """The codes with which a primitive may refuse, sorted: those of all functions that it may
    call, so that some may not be met."""
    found = set(ALWAYS)
    for module, top in _reached(kind):
        for site in module.sites:
            if top.lineno <= site.line <= (top.end_lineno or top.lineno):
                found.update(site.codes)
                found.update(forwarded(site))
    return sorted(found)


def _reached(kind: InstructionKind) -> Iterator[tuple[_Module, ast.FunctionDef | ast.ClassDef]]:
    """The functions that a primitive may call, with their modules; its own is the first."""
    package = kind.fn.__module__.rpartition(".")[0] or kind.fn.__module__
    seen: set[tuple[str, str]] = set(_NOT_FOLLOWED)
    stack = [(kind.fn.__module__, kind.fn.__name__)]
    while stack:
        at = stack.pop()
        if at in seen or not f"{at[0]}.".startswith((f"{_HERE}.", f"{package}.")):
            continue
        seen.add(at)
        module = _module(at[0])
        if module is None:
            continue
        top = module.tops.get(at[1])
        if top is not None:
            yield module, top
            stack += _called(module, at[1], top)
        elif at[1] in module.imported:
            stack.append(module.imported[at[1]])


def _called(
    module: _Module, name: str, top: ast.FunctionDef | ast.ClassDef
) -> Iterator[tuple[str, str]]:
    """What a function may call: names of its module, imported ones, methods of the schedule."""
    body = top.body if isinstance(top, ast.FunctionDef) else [top]  # without decorators, types
    for node in (x for statement in body for x in ast.walk(statement)):
        match node:
            case ast.Name(id=used, ctx=ast.Load()):
                if used in module.tops:
                    yield module.name, used
                elif used in module.imported:
                    yield module.imported[used]
            case ast.Attribute(value=ast.Name(id="self"), attr=attr) if "." in name:
                yield module.name, f"{name.partition('.')[0]}.{attr}"
            case ast.Attribute(
                value=ast.Name(id="s" | "sch" | "state") | ast.Attribute(attr="s"), attr=attr
            ):
                yield from _of_schedule(attr)
            case ast.Attribute(value=ast.Name(id="Schedule"), attr=attr):
                yield from _of_schedule(attr)
            case ast.Attribute(value=ast.Name(id=base), attr=attr) if base in module.imported:
                yield ".".join(module.imported[base]), attr


def _of_schedule(attr: str) -> Iterator[tuple[str, str]]:
    """A method of a schedule: the state's, or a primitive."""
    yield _STATE, f"State.{attr}"
    for kind in KINDS.values():
        if kind.method == attr:
            yield kind.fn.__module__, kind.fn.__name__


def forwarded(site: Site) -> set[str]:
    """The codes of a place that hands on what another function found."""
    out: set[str] = set()
    for spec in FORWARDED.get((site.module, site.function), ()):
        name, _, part = spec.partition(":")
        module = _module(importlib.util.resolve_name(name if name[0] == "." else f".{name}", _HERE))
        assert module is not None
        for key, top in module.tops.items():
            if part in ("*", key):
                out |= set(_codes_in(top))
    return out


def _codes_in(top: ast.AST) -> Iterator[str]:
    """The strings that a function gives as a code, or as the second of a pair."""
    for node in ast.walk(top):
        if isinstance(node, ast.Call):
            for k in node.keywords:
                if k.arg == "code":
                    yield from _literals(k.value)
            if isinstance(node.func, ast.Name) and node.func.id == "Fault":
                yield from _literals(node.args[0])
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            for code in _literals(node.value.elts[-1]):
                if _CODE.match(code) and len(node.value.elts) == 2:
                    yield code


def all_sites() -> list[Site]:
    """Every place in gputune's schedule language where something is refused."""
    from pkgutil import iter_modules

    package = importlib.import_module(_HERE)
    out: list[Site] = []
    for info in sorted(iter_modules(package.__path__), key=lambda m: m.name):
        module = _module(f"{_HERE}.{info.name}")
        if module is not None and info.name != "codes":
            out += module.sites
    return out
