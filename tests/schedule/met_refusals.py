"""Which places that refuse do the tests come to? A plugin of pytest, for a process of its own.

The modules of `gputune.schedule` are compiled with a note in front of each call that makes a
refusal (`codes.sites` knows them); the notes are written to the file that GPUTUNE_TEST_MET names.
"""

from __future__ import annotations

import ast
import builtins
import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_PACKAGE = "gputune.schedule"
_NOTE = "__gputune_test_met__"
_REFUSES = ("fail", "ScheduleError", "error", "Fault")
MET: set[str] = set()


class _Noted(ast.NodeTransformer):
    """`s.fail(...)` becomes `(note(place), s.fail(...))[1]`."""

    def __init__(self, module: str) -> None:
        self.module = module

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        f = node.func
        if getattr(f, "attr", getattr(f, "id", "")) not in _REFUSES or not node.args:
            return node
        place = ast.Constant(f"{self.module}:{node.lineno}")
        note = ast.Call(ast.Name(_NOTE, ast.Load()), [place], [])
        both = ast.Tuple([note, node], ast.Load())
        return ast.copy_location(ast.Subscript(both, ast.Constant(1), ast.Load()), node)


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        tree = _Noted(fullname.rpartition(".")[2]).visit(ast.parse(Path(self.path).read_text()))
        code: CodeType = compile(ast.fix_missing_locations(tree), self.path, "exec")
        return code


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> Any:
        if not fullname.startswith(f"{_PACKAGE}."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def pytest_sessionfinish() -> None:
    Path(os.environ["GPUTUNE_TEST_MET"]).write_text(json.dumps(sorted(MET)))


assert _PACKAGE not in sys.modules, "too late: the modules are loaded"
setattr(builtins, _NOTE, MET.add)
sys.meta_path.insert(0, _Finder())
