"""`gputune primitives`: what can a schedule do? The reference, on the terminal and as a page."""

from __future__ import annotations

import click

EXAMPLES = """\b
Examples:
  gputune primitives
  gputune primitives split
  gputune primitives compute_at reverse_compute_at
  gputune primitives --codes
  gputune primitives --codes not-pipeline
  gputune primitives --markdown > docs/primitives.md
"""


@click.command(epilog=EXAMPLES)
@click.argument("names", nargs=-1)
@click.option("--codes", is_flag=True, help="List the codes of errors instead (NAMES: of these).")
@click.option("--markdown", is_flag=True, help="Write the page docs/primitives.md to stdout.")
def primitives(names: tuple[str, ...], codes: bool, markdown: bool) -> None:
    """List the primitives of a schedule, those of other packages included.

    With NAMES, show each of them whole: its arguments, an example with what it does to the program,
    and the codes of its errors. The examples are run.
    """
    if markdown and (names or codes):
        raise click.UsageError("--markdown writes the whole page: give neither names nor --codes")
    if markdown:
        from .reference import page

        click.echo(page(), nl=False)
    elif codes:
        _show_codes(names)
    elif names:
        _show_whole(names)
    else:
        _show_table()


def _show_table() -> None:
    from gputune.schedule.extensions import PRIMITIVES, extensions

    from . import reference
    from .display import console, table

    found = reference.primitives()
    rows = [(p.group, p.name, p.kind.name if p.kind else "", p.summary) for p in found]
    for k in range(len(rows) - 1, 0, -1):
        if rows[k][0] == rows[k - 1][0]:
            rows[k] = ("", *rows[k][1:])
    console().print(table(("", "primitive", "instruction", "what it does"), rows))
    for name, why in extensions(PRIMITIVES).failed.items():
        click.echo(f"the entry point {name!r} failed: {why}", err=True)


def _show_whole(names: tuple[str, ...]) -> None:
    from . import reference

    found = {p.name: p for p in reference.primitives()}
    kinds = {p.kind.name: p for p in found.values() if p.kind}
    for k, name in enumerate(names):
        p = found.get(name) or kinds.get(name)
        if p is None:
            raise _unknown("primitive", name, [*found, *kinds])
        click.echo(("\n" if k else "") + "\n".join(reference.described(p)).rstrip())


def _show_codes(names: tuple[str, ...]) -> None:
    from gputune.schedule.codes import SHARED

    from .display import console, table
    from .reference import error_codes

    found = error_codes()
    for name in names:
        if name not in found:
            raise _unknown("error code", name, list(found))
    rows = []
    for code in names or found:
        places = found[code]
        texts = [SHARED[code]] if code in SHARED else []
        texts += dict.fromkeys(s.message.strip() for s in places if s.message.strip())
        texts = texts or [s.hint for s in places][:1]  # the message is what an analysis found
        shown = texts if names else texts[:1]
        rows += [(code if k == 0 else "", text) for k, text in enumerate(shown)]
    console().print(table(("code", "what it says"), rows))


def _unknown(what: str, name: str, known: list[str]) -> Exception:
    from difflib import get_close_matches

    from gputune.errors import UserError

    near = get_close_matches(name, known, 3)
    return UserError(
        f"there is no {what} {name!r}",
        hint=f"did you mean {' or '.join(near)}?" if near else "gputune primitives lists them",
        code="unknown-name",
    )
