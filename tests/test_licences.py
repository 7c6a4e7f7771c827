"""Does the licence check tell allowed licences from others?"""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", ROOT / "ci" / "licences.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("MIT", True),
        ("BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", True),
        ("BSD-2-Clause AND Apache-2.0 WITH LLVM-exception", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("(MIT OR GPL-2.0-only) AND Zlib", True),
        ("GPL-3.0-only", False),
        ("MIT AND LGPL-3.0-only", False),
        ("MIT AND (GPL-2.0-only OR LGPL-3.0-only)", False),
        ("GPL-3.0-only WITH GCC-exception-3.1", False),
        ("'none stated'", False),
        ("", False),
    ],
)
def test_expressions(licences: ModuleType, expression: str, answer: bool) -> None:
    assert licences.allowed(expression) is answer


def _installed(folder: Path, name: str, *fields: str) -> None:
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *fields, ""]
    (info / "METADATA").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (("License-Expression: MIT", "License: nonsense"), "MIT"),
        (("Classifier: License :: OSI Approved :: BSD License",), "BSD-3-Clause"),
        (("License: Apache 2.0",), "Apache-2.0"),
        (("License: Proprietary",), "'Proprietary'"),
        ((), "'none stated'"),
    ],
)
def test_licence_of_a_distribution(
    licences: ModuleType, tmp_path: Path, fields: tuple[str, ...], text: str
) -> None:
    _installed(tmp_path, "thing", *fields)
    (dist,) = metadata.distributions(path=[str(tmp_path)])
    assert licences.licence(dist) == text


def _project(folder: Path, dependencies: str, extra: str) -> None:
    (folder / "pyproject.toml").write_text(
        f"[project]\ndependencies = [{dependencies}]\n"
        f"[project.optional-dependencies]\ncuda12 = [{extra}]\ntest = []\n"
    )


def test_a_forbidden_dependency_is_named(
    licences: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _installed(tmp_path, "good", "License-Expression: MIT", "Requires-Dist: hidden")
    _installed(tmp_path, "hidden", "License-Expression: GPL-3.0-only")
    _project(tmp_path, '"good"', "")
    monkeypatch.setattr(licences, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert licences.main() == 1
    assert "hidden 1.0 (through plain gputune): GPL-3.0-only" in capsys.readouterr().err


def test_nvidia_wheels_only_through_the_cuda_extras(
    licences: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _installed(tmp_path, "nvidia-thing", "License: NVIDIA Proprietary Software")
    monkeypatch.setattr(licences, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    _project(tmp_path, "", '"nvidia-thing"')
    assert licences.main() == 0
    assert capsys.readouterr().out.startswith("1 installed")
    _project(tmp_path, '"nvidia-thing"', '"nvidia-thing"')
    assert licences.main() == 1
    assert "nvidia-thing 1.0 (through cuda12, plain gputune)" in capsys.readouterr().err


def test_tests_may_use_some_nvidia_wheels_by_name(
    licences: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("nvidia-cuda-nvrtc", "nvidia-cublas"):
        _installed(tmp_path, name, "License: LicenseRef-NVIDIA-Proprietary")
    monkeypatch.setattr(licences, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "pyproject.toml").write_text(
        "[project]\ndependencies = []\n[project.optional-dependencies]\n"
        'cuda13 = ["nvidia-cuda-nvrtc"]\ntest = ["nvidia-cuda-nvrtc", "nvidia-cublas"]\n'
    )
    assert licences.main() == 1
    said = capsys.readouterr().err
    assert "nvidia-cublas 1.0 (through test)" in said
    assert "nvidia-cuda-nvrtc" not in said


def test_tests_may_use_one_library_under_the_lgpl(
    licences: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("psycopg", "other"):
        _installed(tmp_path, name, "License-Expression: LGPL-3.0-only")
    monkeypatch.setattr(licences, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    text = "[project]\ndependencies = [{}]\n[project.optional-dependencies]\ntest = [{}]\n"
    (tmp_path / "pyproject.toml").write_text(text.format("", '"psycopg", "other"'))
    assert licences.main() == 1
    said = capsys.readouterr().err
    assert "other 1.0 (through test)" in said
    assert "psycopg" not in said
    (tmp_path / "pyproject.toml").write_text(text.format('"psycopg"', ""))
    assert licences.main() == 1
    assert "psycopg 1.0 (through plain gputune)" in capsys.readouterr().err


def test_a_missing_dependency_is_named(
    licences: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _project(tmp_path, '"certainly-not-installed>=2"', '"also-not-installed"')
    monkeypatch.setattr(licences, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="certainly-not-installed>=2 is not installed"):
        licences.main()
