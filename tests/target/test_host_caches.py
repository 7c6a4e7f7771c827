"""Does the analytic model know the caches of the machine it is to judge?"""

from __future__ import annotations

from pathlib import Path

import pytest

from gputune import Target
from gputune.target import host


@pytest.fixture(autouse=True)
def _forget() -> None:
    host.cache_bytes.cache_clear()


def test_what_linux_tells_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k, (kind, level, size) in enumerate(
        [("Data", "1", "48K"), ("Instruction", "1", "64K"), ("Unified", "2", "2M")]
    ):
        folder = tmp_path / f"index{k}"
        folder.mkdir()
        for name, text in (("type", kind), ("level", level), ("size", size)):
            (folder / name).write_text(text + "\n")
    monkeypatch.setattr(host, "Path", lambda _: tmp_path)
    assert host.cache_bytes() == (48 << 10, 2 << 20, 32 << 20)


@pytest.mark.parametrize("size", ["", "many", "0K", "12X"])
def test_nonsense_is_passed_over(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index0"
    folder.mkdir()
    for name, text in (("type", "Data"), ("level", "1"), ("size", size)):
        (folder / name).write_text(text)
    monkeypatch.setattr(host, "Path", lambda _: tmp_path)
    assert host.cache_bytes() == (32 << 10, 1 << 20, 32 << 20)


def test_another_processor_has_common_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    other = "skylake-avx512" if host.cpu_name() != "skylake-avx512" else "znver4"
    monkeypatch.setattr(host, "cache_bytes", lambda: (1, 2, 3))
    assert Target("llvm").cache_bytes == (1, 2, 3)
    assert Target(f"llvm -mcpu={other}").cache_bytes == (32 << 10, 1 << 20, 32 << 20)
