"""Is MetaSchedule's whole API here: every row of reference 1.1, every name of 1.2?"""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path

import api_beyond
import pytest
from api_rows import ROWS, Row, signature_faults

ROOT = Path(__file__).resolve().parents[2]
assert api_beyond  # it and what it imports declare the rows


def test_no_row_is_missing() -> None:
    """Table 1.1 has 81 rows, table 1.2 the 55 names (or groups of them) that are listed here."""
    assert [k for k in ROWS if "." not in k] == [str(n) for n in range(1, 82)]
    assert [k for k in ROWS if "." in k] == [f"1.2.{n}" for n in range(1, 56)]


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda r: f"{r.id} {r.item}")
def test_row(row: Row, tmp_path: Path) -> None:
    faults = signature_faults(row)
    assert not faults, f"{row.item}: {'; '.join(faults)}"
    row.check(tmp_path)


def test_wrong_signatures_are_found() -> None:
    def faults(signature: str, of: object, *loose: str) -> list[str]:
        return signature_faults(Row("0", "f", signature, "", "", of, loose, lambda tmp: None))

    def f(self: object, a: int, b: int = 2, *, c: int = 3) -> None: ...

    assert faults("(a, b=2, *, c=3)", f) == []
    assert faults("(a)", f) == []
    assert faults("(b, a)", f) == ["'b' is not parameter 1", "'a' is not parameter 2"]
    assert faults("(a, b=3)", f) == ["'b' is 2 by default, not 3"]
    assert faults("(a, b=3)", f, "b") == []
    assert faults("(a, d)", f) == ["has no parameter 'd'"]
    assert faults("(b)", f) == [
        "'b' is not parameter 1", "the additional parameter 'a' must be given",
    ]  # fmt: skip
    assert faults("(a, **kw)", f) == ["does not take *kw"]


def test_every_row_with_a_signature_names_what_has_it() -> None:
    for row in ROWS.values():
        assert bool(row.signature) == (row.of is not None), row.item
        assert row.of is None or callable(row.of)
        assert list(inspect.signature(row.check).parameters) == ["tmp"]


def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_api_table", ROOT / "docs/make_api_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), (
        "run: python docs/make_api_table.py"
    )
