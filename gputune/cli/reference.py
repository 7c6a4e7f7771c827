"""What does the reference of the primitives say? Written from their declarations, and run.

Everything stands in one place: the declaration of a primitive (`gputune.schedule.primitive`), its
docstring with an example, and the source, from which the error codes are read.
"""

from __future__ import annotations

import doctest
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gputune.errors import UserError
from gputune.ir.known_annotations import KNOWN
from gputune.schedule import KINDS, Schedule
from gputune.schedule.codes import ALWAYS, SHARED, Site, all_sites, codes_of
from gputune.schedule.demo import demo_schedule
from gputune.schedule.extensions import PRIMITIVES, extensions
from gputune.schedule.primitive import InstructionKind

WIDTH = 120
ELSEWHERE = "from other packages"


@dataclass(frozen=True)
class Primitive:
    """One primitive, as its page has it.

    Attributes:
        name: of the method.
        group: the heading under which `Schedule` lists it.
        fn: the implementation.
        kind: of its instruction; None for a method that records none.
    """

    name: str
    group: str
    fn: Callable[..., Any]
    kind: InstructionKind | None

    @property
    def signature(self) -> list[str]:
        """The call with types, `split(loop: LoopRV, ...) -> list[LoopRV]`; where it is long, one
        parameter a line."""
        found = inspect.signature(self.fn)
        params = [_parameter(p) for p in list(found.parameters.values())[1:]]
        gives = found.return_annotation
        tail = ")" if gives is found.empty else f") -> {_type(gives)}"
        line = f"{self.name}({', '.join(params)}{tail}"
        if len(line) <= WIDTH:
            return [line]
        return [f"{self.name}(", *(f"    {p}," for p in params), tail]

    @property
    def doc(self) -> Mapping[str, str]:
        """The docstring by its sections; "" is what stands before the first."""
        out = {"": ""}
        at = ""
        for line in (inspect.getdoc(self.fn) or "").splitlines():
            head = re.fullmatch(r"([A-Z]\w+):", line)
            if head:
                at = head.group(1)
                out[at] = ""
            else:
                out[at] += line + "\n"
        return {k: textwrap.dedent(v).strip("\n") for k, v in out.items()}

    @property
    def summary(self) -> str:
        """The first sentence."""
        text = " ".join(self.doc[""].partition("\n\n")[0].split())
        return re.split(r"(?<=[.:])\s", text, maxsplit=1)[0].rstrip(":.")

    @property
    def codes(self) -> list[str]:
        """The codes of its errors, without those of every primitive."""
        return [] if self.kind is None else [c for c in codes_of(self.kind) if c not in ALWAYS]

    def shown(self) -> Example:
        """The example, run: UserError if there is none, or if it does not do what it says."""
        text = self.doc.get("Example", "")
        if not text:
            raise UserError(f"{self.name} has no example", code="no-example")
        names: dict[str, Any] = {"demo_schedule": demo_schedule}
        test = doctest.DocTestParser().get_doctest(text, names, self.name, None, 0)
        said: list[str] = []
        runner = doctest.DocTestRunner(verbose=False)
        # the code is that of an installed package, the same that calling the primitive would run
        if runner.run(test, out=said.append, clear_globs=False).failed:
            raise UserError(
                f"the example of {self.name} does not do what it says\n{''.join(said)}",
                code="example",
            )
        found = test.globs.get("sch")
        if not isinstance(found, Schedule):
            return Example(text, "", "")
        lines = found.diff().splitlines()[2:]
        return Example(text, "\n".join(lines), str(found.trace))


@dataclass(frozen=True, slots=True)
class Example:
    """An example that was run.

    Attributes:
        code: as it stands in the docstring.
        diff: what it did to the program; "" if nothing.
        trace: what it recorded.
    """

    code: str
    diff: str
    trace: str


def _parameter(p: inspect.Parameter) -> str:
    stars = "*" if p.kind is p.VAR_POSITIONAL else ""
    kind = "" if p.annotation is p.empty else f": {_type(p.annotation)}"
    return f"{stars}{p.name}{kind}" + ("" if p.default is p.empty else f" = {p.default!r}")


def _type(annotation: object) -> str:
    """A type without the modules that it is from."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", text)


def primitives(*, foreign: bool = True) -> list[Primitive]:
    """All primitives, in the order in which `Schedule` lists them.

    Args:
        foreign: also those of other packages.
    """
    groups = dict(_groups(inspect.getsource(Schedule)))
    out = []
    for name, group in groups.items():
        fn = inspect.unwrap(getattr(Schedule, name))
        out.append(Primitive(name, group, fn, getattr(getattr(Schedule, name), "kind", None)))
    if foreign:
        extensions(PRIMITIVES)
        for kind in KINDS.values():
            if kind.method not in groups:
                out.append(Primitive(kind.method, ELSEWHERE, kind.fn, kind))
    return out


def _groups(source: str) -> Iterator[tuple[str, str]]:
    """(method, heading) of the lines `name = module.name` in the body of Schedule."""
    group = ""
    for line in source.splitlines():
        head = re.fullmatch(r"    # (.+)", line)
        entry = re.fullmatch(r"    (\w+) = \w+\.\w+|    def (work_on)\(.*", line)
        if head:
            group = head.group(1)
        elif entry and group:
            yield entry.group(1) or entry.group(2), group if entry.group(1) else "functions"


# ----------------------------------------------------------------------------- one primitive
def described(p: Primitive) -> list[str]:
    """All that there is to know of a primitive, as Markdown."""
    doc = p.doc
    out = [f"### `{p.name}`", "", "```text", *p.signature, "```", ""]
    out += [*_filled(_prose(doc[""])), ""]
    for head in ("Args", "Returns", "Raises"):
        if doc.get(head):
            out += [*_entries(head, doc[head]), ""]
    example = p.shown()
    out += ["Example:", "", "```pycon", *example.code.splitlines(), "```", ""]
    if example.diff:
        out += ["It does this to the program:", "", "```diff", *_clipped(example.diff), "```", ""]
    elif example.trace:
        out += ["It leaves this trace:", "", "```text", *_clipped(example.trace), "```", ""]
    if p.kind is not None:
        out += [*_filled(_recorded(p.kind)), ""]
        out += [*_filled(f"Error codes: {', '.join(f'`{c}`' for c in p.codes) or 'none'}."), ""]
    else:
        out += ["It records no instruction.", ""]
    return out


def _recorded(kind: InstructionKind) -> str:
    def listed(names: Sequence[str], what: str) -> str:
        return f"{what} {', '.join(f'`{n}`' for n in names)}" if names else f"no {what}"

    text = f"Instruction `{kind.name}`: {listed(kind.inputs, 'inputs')}, "
    text += listed(kind.attrs, "attributes")
    if kind.samples:
        text += "; takes a `decision`"
    return text + "."


def _prose(text: str) -> list[str]:
    """Paragraphs; what is indented or a list stays as it is."""
    return [" ".join(x.split()) if not re.match(r"[-*] |\s", x) else x
            for x in text.split("\n\n")]  # fmt: skip


def _filled(text: str | list[str]) -> list[str]:
    """Lines of at most 120 characters; paragraphs are parted by an empty line."""
    out: list[str] = []
    for paragraph in [text] if isinstance(text, str) else text:
        if out:
            out.append("")
        if re.match(r"[-*] |\s", paragraph):
            out += paragraph.splitlines()
        else:
            out += textwrap.wrap(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)
    return out


def _entries(head: str, text: str) -> list[str]:
    """A section of a docstring as a list: an entry begins at a line that is not indented."""
    entries: list[str] = []
    for line in text.splitlines():
        if entries and (line.startswith(" ") or not line or head != "Args"):
            entries[-1] += " " + line.strip()
        else:
            entries.append(line.strip())
    out = [f"{head}:", ""]
    for e in entries:
        e = " ".join(e.split())
        name, colon, rest = e.partition(": ")
        if colon and head != "Returns" and " " not in name:
            e = f"`{name}`: {rest}"
        out += _listed(e)
    return out


def _clipped(text: str) -> list[str]:
    """Lines of at most 120 characters."""
    return [x if len(x) <= WIDTH else x[: WIDTH - 4] + " ..." for x in text.splitlines()]


# ----------------------------------------------------------------------------- the page
HEAD = """# Schedule primitives

Written by `gputune primitives --markdown` from the declarations of the primitives; do not edit. A
test fails when it is stale, and runs every example. The examples begin with
`from gputune.schedule.demo import demo_schedule`, which gives a schedule of a small program.

A primitive either does all that it says or raises `ScheduleError` and leaves program and trace as
they were. The error names the primitive, the call, what was found and what would work, and draws
the program with the place marked. Its `code` is stable; [the codes](#error-codes) stand below. How
to write primitives outside of gputune: [extending](extending.md).
"""

NOTES_HEAD = """## Annotations

What `annotate` writes means something under these names; whatever reads one refuses a value of
another form. A name that is not in the list is yours: it is kept, and means nothing.
"""

NO_EFFECT_HEAD = """These are MetaSchedule's, too, and have no effect here; a warning says so when a
program with one is lowered, once for each name:
"""

CODES_HEAD = """## Error codes

The messages stand as they are in the source, with `...` for what is filled in; after the colon
follows what would work. Every primitive may also refuse with `argument` and `too-deep`.
"""


def page() -> str:
    """The text of `docs/primitives.md`."""
    found = primitives(foreign=False)
    out = _filled(HEAD.strip().split("\n\n"))
    group = ""
    contents: list[str] = []
    body: list[str] = []
    for p in found:
        if p.group != group:
            group = p.group
            contents += ["", f"**{group}**", "", "| primitive | what it does |", "|---|---|"]
            body += [f"## {group[0].upper()}{group[1:]}", ""]
        contents.append(_row(p))
        body += described(p)
    return "\n".join([*out, *contents, "", *body, *_annotations(), "", *_codes(found)]) + "\n"


def _annotations() -> list[str]:
    """The annotations that mean something, and those that do not."""
    out = [*_filled(NOTES_HEAD.strip().split("\n\n")), ""]
    for a in KNOWN.values():
        if a.reader:
            out += _listed(f"`{a.name}` ({a.on}; {a.value}): {a.effect}. Read by {a.reader}.")
    out += ["", *_filled(NO_EFFECT_HEAD.strip()), ""]
    for a in KNOWN.values():
        if not a.reader:
            out += _listed(f"`{a.name}` ({a.on}): {a.effect}.")
    return out


def _listed(text: str) -> list[str]:
    """An entry of a list."""
    return textwrap.wrap(
        f"- {text}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _row(p: Primitive) -> str:
    name = f"| [`{p.name}`](#{p.name}) | "
    room = WIDTH - len(name) - 2
    text = p.summary.replace("|", "\\|")
    return f"{name}{text if len(text) <= room else text[: room - 4] + ' ...'} |"


def _codes(found: Sequence[Primitive]) -> list[str]:
    users: dict[str, list[str]] = {}
    for p in found:
        if p.kind is not None:
            for c in codes_of(p.kind):
                users.setdefault(c, []).append(p.name)
    out = _filled(CODES_HEAD.strip().split("\n\n"))
    for code, places in error_codes().items():
        out += ["", f"**`{code}`**" + (f": {SHARED[code]}" if code in SHARED else ""), ""]
        for text in dict.fromkeys(map(_said, places)):
            out += _listed(text)
        names = users.get(code, [])
        if code not in ALWAYS and names:
            by = ", ".join(names) if len(names) < 9 else f"{len(names)} primitives"
            out += ["", *_filled(f"Raised by {by}.")]
    return out


def _said(site: Site) -> str:
    message = site.message.strip() or "..."
    return f"{message}: {site.hint}" if site.hint.strip("./ ") else message


def error_codes() -> dict[str, list[Site]]:
    """Every code with the places that raise it, sorted."""
    out: dict[str, list[Site]] = {}
    for site in all_sites():
        for c in site.codes:
            out.setdefault(c, []).append(site)
    return dict(sorted(out.items()))
