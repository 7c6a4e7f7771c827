"""Writes `docs/api_table.md`: MetaSchedule's API, row by row, and what gputune makes of it.

The rows are declared in `tests/meta_schedule/api_*.py`, each with a check that the tests run:

    python docs/make_api_table.py
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE / "api_table.md"
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests" / "meta_schedule")]

HEAD = """# MetaSchedule's API, row by row

Written by `docs/make_api_table.py` from `tests/meta_schedule/api_*.py`, which hold a check for each
row; do not edit. {first} rows are MetaSchedule's documented API, {second} its names beyond that.
"""


def page() -> str:
    """The text of the page."""
    import api_beyond  # noqa: F401  # declares its rows, and imports those that declare the others
    from api_rows import ROWS

    beyond = [r for r in ROWS.values() if "." in r.id]
    numbered = [r for r in ROWS.values() if "." not in r.id]
    out = [HEAD.format(first=len(numbered), second=len(beyond))]
    for r in sorted(numbered, key=lambda r: int(r.id)) + beyond:
        out.append(f"\n**{r.id}. `{r.item}`**")
        if r.signature:
            out += ["", "```text", *_wrapped(r.item.rpartition(".")[2] + r.signature), "```"]
        out += ["", *_filled(r.does[0].upper() + r.does[1:] + ".")]
        if r.differs:
            out += ["", *_filled(f"*Different:* {r.differs}.")]
    return "\n".join(out) + "\n"


def _filled(text: str) -> list[str]:
    """Lines of at most 120 characters."""
    import textwrap

    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)


def _wrapped(signature: str) -> list[str]:
    import textwrap

    return textwrap.wrap(
        signature, 116, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
