"""Is the house in order? Who imports whom, what is imported when, and which calls are made nowhere.

Everything is read from the source with `ast`; exceptions are listed here, each with its reason, and
an exception that nothing needs any more is an error too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gputune"

ROOMS = (
    "knobs",
    "errors",
    "aliases",
    "ir",
    "script",
    "kernels",  # scripts only: knows nothing of targets, schedules and what follows
    "target",
    "schedule",
    "lower",
    "codegen",
    "runtime",
    "meta_schedule",
    "relax",
    "cli",
)
"""A room imports only from itself and from rooms above it. `gputune/*.py` that are not listed stand
outside the rooms: they are the front door, and only the cli (and tests) may import them."""

UPWARD: dict[tuple[str, str], str] = {
    ("gputune/meta_schedule/verify.py", "default_gpu_schedule"): "what large programs on a GPU are "
    "compared with",
    ("gputune/relax/executable.py", "default_schedule"): "how tensor functions are compiled that "
    "nobody has tuned",
    ("gputune/meta_schedule/predicted.py", "default_schedule"): "what is chosen without a "
    "measurement where the strategy has no opinion",
}
"""(file, room) pairs that break the order, with the reason."""

HEAVY = (
    "cupy", "torch", "xgboost", "numba", "llvmlite", "pynvml", "rich", "onnx", "scipy",
    "sqlalchemy", "psycopg", "dask", "distributed",
)  # fmt: skip
"""Never imported when a module of gputune is imported: only inside the functions that need them."""

HEAVY_AT_TOP: dict[tuple[str, str], str] = {}
"""(file, package) pairs that may, with the reason; none of them is reached by `import gputune`."""

BANNED_IMPORTS = {
    "pickle": "files are data",
    "cPickle": "files are data",
    "marshal": "files are data",
    "shelve": "files are data",
    "dill": "files are data",
    "cloudpickle": "files are data",
    "joblib": "files are data",
    "multiprocessing": "spawn and fork run the user's script again",
}
BANNED_NAMES = {"eval", "exec", "__import__"}
BANNED_ATTRIBUTES = {
    ("os", "system"),
    ("os", "popen"),
    ("tempfile", "mktemp"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("subprocess", "getoutput"),
    ("subprocess", "getstatusoutput"),
}
BANNED_KEYWORDS = {"shell", "allow_pickle"}  # set to anything but the constant False

ALLOWED: dict[tuple[str, str], str] = {}
"""(file, what) pairs of banned things that are used all the same, with the reason."""


# ----------------------------------------------------------------------------- reading
def sources(folder: Path = PACKAGE) -> list[Path]:
    """Every Python file below `folder`; the kernels through the link."""
    files = sorted(folder.rglob("*.py"))
    if folder == PACKAGE:
        files += sorted((PACKAGE / "kernels").resolve().rglob("*.py"))
        files = [PACKAGE / "kernels" / f.name if f.parent.name == "kernels" else f for f in files]
    return sorted(set(files))


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[ast.stmt, str]]:
    """Every import statement with the absolute name of each module it may load."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                keep = len(parts) - node.level + (1 if is_package else 0)
                base = ".".join([*parts[:keep], *([base] if base else [])])
            for alias in node.names:
                yield node, f"{base}.{alias.name}"


def top_level(tree: ast.Module) -> ast.Module:
    """The tree without what does not run at import: function bodies and `if TYPE_CHECKING:`."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_Lambda(self, node: ast.Lambda) -> ast.Constant:
            return ast.Constant(None)

        def visit_If(self, node: ast.If) -> ast.AST:
            if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
                return ast.Module(node.orelse, [])
            self.generic_visit(node)
            return node

    Strip().visit(tree)
    return tree


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


# ----------------------------------------------------------------------------- rules
def upward_imports(text: str, module: str, is_package: bool = False) -> list[str]:
    """The rooms below its own that a module imports."""
    room = module.split(".")[1] if "." in module else ""
    if room not in ROOMS:
        return []
    wrong = []
    for node, target in imports(ast.parse(text), module, is_package):
        parts = target.split(".")
        if parts[0] != "gputune" or len(parts) < 2:
            continue
        there = parts[1]
        if there == room:
            continue
        if there not in ROOMS:
            if room != "cli":
                wrong.append(f"line {node.lineno}: {target} is not in a room")
        elif ROOMS.index(there) > ROOMS.index(room):
            wrong.append(f"line {node.lineno}: {there} stands below {room}")
    return wrong


def heavy_imports(text: str) -> list[str]:
    """The heavy packages that a module loads when it is imported."""
    found = imports(top_level(ast.parse(text)), "", False)
    return sorted({t.split(".")[0] for _, t in found} & set(HEAVY))


def banned(text: str) -> list[tuple[int, str]]:
    """(line, what) of everything that gputune does not do."""
    tree = ast.parse(text)
    out: list[tuple[int, str]] = []
    for statement, target in imports(tree, "", False):
        package, _, attribute = target.rpartition(".")
        if target.split(".")[0] in BANNED_IMPORTS:
            out.append((statement.lineno, target.split(".")[0]))
        if (package, attribute) in BANNED_ATTRIBUTES:
            out.append((statement.lineno, target))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in BANNED_NAMES:
            out.append((node.lineno, node.id))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in BANNED_ATTRIBUTES:
                out.append((node.lineno, f"{node.value.id}.{node.attr}"))
        elif isinstance(node, ast.keyword) and node.arg in BANNED_KEYWORDS:
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                out.append((node.value.lineno, f"{node.arg}={ast.unparse(node.value)}"))
    return out


def folder_imports(text: str) -> list[int]:
    """The lines that import the top-level folder `kernels`, which is no package of its own."""
    out = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        else:
            continue
        out += [node.lineno for n in names if n.split(".")[0] == "kernels"]
    return out


# ----------------------------------------------------------------------------- tests
def test_every_folder_is_a_room() -> None:
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders <= set(ROOMS), f"add {sorted(folders - set(ROOMS))} to ROOMS where it belongs"


def test_rooms_import_only_from_rooms_above() -> None:
    wrong, used = [], set()
    for file in sources():
        is_package = file.name == "__init__.py"
        for line in upward_imports(file.read_text(encoding="utf-8"), module_of(file), is_package):
            key = next((k for k in UPWARD if k[0] == name(file) and k[1] in line), None)
            if key is None:
                wrong.append(f"{name(file)}: {line}")
            else:
                used.add(key)
    assert not wrong, "\n".join(wrong)
    assert used == set(UPWARD), "exceptions that nothing needs: remove them"


def test_heavy_packages_are_imported_inside_functions() -> None:
    wrong, used = [], set()
    for file in sources():
        for package in heavy_imports(file.read_text(encoding="utf-8")):
            if (name(file), package) in HEAVY_AT_TOP:
                used.add((name(file), package))
            else:
                wrong.append(f"{name(file)} imports {package} at its top level")
    assert not wrong, "\n".join(wrong)
    assert used == set(HEAVY_AT_TOP), "exceptions that nothing needs: remove them"


def test_nothing_unsafe_is_called() -> None:
    wrong, used = [], set()
    for file in sources():
        for line, what in banned(file.read_text(encoding="utf-8")):
            if (name(file), what) in ALLOWED:
                used.add((name(file), what))
            else:
                wrong.append(f"{name(file)}:{line}: {what}")
    assert not wrong, "\n".join(wrong)
    assert used == set(ALLOWED), "exceptions that nothing needs: remove them"


def test_nobody_imports_the_top_level_folder_kernels() -> None:
    wrong = []
    for folder in ("gputune", "kernels", "tests", "bench", "examples", "ci"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for line in folder_imports(file.read_text(encoding="utf-8")):
                wrong.append(f"{name(file)}:{line}: import gputune.kernels instead")
    assert not wrong, "\n".join(wrong)


def test_kernels_is_a_relative_link() -> None:
    link = PACKAGE / "kernels"
    assert link.is_symlink(), "gputune/kernels must be the committed link to ../kernels"
    assert str(link.readlink()) == "../kernels"


def test_every_file_starts_with_its_question() -> None:
    empty = [
        name(file)
        for file in sources()
        if file.stat().st_size and not (ast.get_docstring(parsed(file)) or "").strip()
    ]
    assert not empty, f"no docstring says what these files are for: {empty}"


@pytest.mark.parametrize("module", ["gputune", "gputune.kernels"])
def test_import_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(' '.join(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {m.split(".")[0] for m in done.stdout.split()}
    assert "gputune" in loaded
    assert not loaded & {*HEAVY, "click", "ml_dtypes"}


# ----------------------------------------------------------------------------- the rules can fail
def test_upward_import_is_found() -> None:
    assert upward_imports("from ..schedule import Schedule", "gputune.ir.nodes")
    assert upward_imports("def f():\n    import gputune.cli.main", "gputune.runtime.module")
    assert upward_imports("from .. import lower", "gputune.ir.nodes")
    assert upward_imports("from ..api import tune", "gputune.meta_schedule.tune")
    assert upward_imports("from . import nodes\nfrom ..errors import X", "gputune.ir.show") == []
    assert upward_imports("from .ir import nodes", "gputune.kernels", is_package=True) == []
    assert upward_imports("from ..target import Target", "gputune.kernels.dense")


def test_heavy_import_is_found() -> None:
    assert heavy_imports("import numba.core") == ["numba"]
    assert heavy_imports("try:\n    from cupy import x\nexcept ImportError: pass") == ["cupy"]
    assert heavy_imports("class A:\n    import torch") == ["torch"]
    assert heavy_imports("def f():\n    import torch") == []
    assert heavy_imports("if TYPE_CHECKING:\n    import torch\nelse:\n    import rich") == ["rich"]


def test_import_of_the_folder_is_found() -> None:
    assert folder_imports("import kernels.dense") == [1]
    assert folder_imports("def f():\n    from kernels import get") == [2]
    assert folder_imports("from . import kernels\nfrom gputune import kernels") == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import multiprocessing.pool",
        "def f(s):\n    return eval(s)",
        "run = exec",
        "import builtins\nbuiltins.eval('1')",
        "from tempfile import mktemp",
        "tempfile.mktemp()",
        "subprocess.run(c, shell=True)",
        "subprocess.run(c, shell=flag)",
        "np.load(f, allow_pickle=True)",
        "os.system('ls')",
    ],
)
def test_unsafe_code_is_found(text: str) -> None:
    assert banned(text)


def test_safe_code_is_not_found() -> None:
    assert banned("m.eval()\nsubprocess.run(c, shell=False)\nre.compile(x)\nliteral_eval(x)") == []
