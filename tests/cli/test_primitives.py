"""Does the reference of the primitives say what is so, and is the page that of now?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gputune.cli import reference
from gputune.cli.main import main
from gputune.errors import UserError
from gputune.schedule import KINDS, Schedule

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "primitives.md"
ALL = reference.primitives(foreign=False)


def gputune(*words: str) -> Result:
    return CliRunner().invoke(main, ["primitives", *words], catch_exceptions=False)


def test_every_primitive_is_in_it() -> None:
    names = [p.name for p in ALL]
    assert len(names) == len(set(names))
    own = {k.method for k in KINDS.values() if k.fn.__module__.startswith("gputune.")}
    assert own <= set(names)
    assert set(names) - own == {"can_decompose_padding", "work_on"}
    assert all(p.group and p.group != reference.ELSEWHERE for p in ALL)


@pytest.mark.parametrize("p", ALL, ids=lambda p: p.name)
def test_an_example_does_what_it_says(p: reference.Primitive) -> None:
    """It is run as a doctest, and shows the program before and after, or a trace."""
    example = p.shown()
    assert f"{p.name}(" in example.code
    assert example.diff or example.trace, f"let the example of {p.name} make a schedule `sch`"
    if p.kind is not None:
        assert f"sch.{p.name}(" in example.trace
    assert p.summary
    assert p.doc.get("Raises") or not p.codes or p.name.startswith("get_"), p.name


def test_the_page_is_that_of_now() -> None:
    found = PAGE.read_text(encoding="utf-8")
    assert found == reference.page(), "stale: gputune primitives --markdown > docs/primitives.md"
    assert max(map(len, found.splitlines())) <= 120


def test_links_within_the_page_lead_somewhere() -> None:
    text = reference.page()
    heads = {
        re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-")
        for h in re.findall(r"^#+ (.+)$", text, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= heads


def test_the_command_writes_the_page() -> None:
    assert gputune("--markdown").output == reference.page()


def test_the_table() -> None:
    text = gputune().output
    for p in ALL:
        assert re.search(rf"\b{p.name}\b", text), p.name
    assert "tensor intrinsics" in text


def test_one_primitive_whole() -> None:
    text = gputune("split").output
    for part in ("split(", "`factors`: ", ">>> i0, i1 = sch.split(i, [None, 4])",
                 "+        for i_0, i_1, j in T.grid(2, 4, 8):", "`split-product`",
                 "Instruction `Split`: inputs `loop`, `factors`"):  # fmt: skip
        assert part in text
    assert gputune("Split").output == text
    both = gputune("split", "fuse").output
    assert both.startswith(text.rstrip())
    assert "### `fuse`" in both


def test_codes() -> None:
    text = gputune("--codes").output
    for code in reference.error_codes():
        assert re.search(rf"^{code}\b", text, re.M), code
    assert "only one factor can be None" in gputune("--codes", "split-none").output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["splot"], "did you mean split"),
        (["--codes", "split-nune"], "did you mean split-none"),
        (["--markdown", "split"], "neither names nor --codes"),
    ],
)
def test_what_does_not_exist_is_refused(words: list[str], said: str) -> None:
    done = gputune(*words)
    assert done.exit_code == 2
    assert said in done.output


def test_help_has_examples() -> None:
    text = gputune("--help").output
    assert "gputune primitives split" in text
    assert "--codes" in text


def test_an_example_that_lies_is_found() -> None:
    def lies(s: Schedule) -> None:
        """Nothing.

        Example:
            >>> 1 + 1
            3
        """

    def silent(s: Schedule) -> None:
        """Nothing."""

    with pytest.raises(UserError, match=r"(?s)does not do what it says.*Expected:\s+3\s+Got:\s+2"):
        reference.Primitive("lies", "x", lies, None).shown()
    with pytest.raises(UserError, match="silent has no example"):
        reference.Primitive("silent", "x", silent, None).shown()
