"""Does gputune depend on anything whose licence it may not use?

Walks what pyproject.toml asks for (extras too, where they are installed), transitively, reads the
licence of each installed distribution and fails naming those that are not on the list.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

ALLOWED = frozenset(
    {
        "Apache-2.0",
        "MIT",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "PSF-2.0",
        "ISC",
        "Unlicense",
        "Zlib",
        "MPL-2.0",  # hypothesis, pathspec: used unchanged, for tests and types only
        "0BSD",  # parts of NumPy
        "CC0-1.0",  # parts of NumPy
        "Apache-2.0 WITH LLVM-exception",  # llvmlite carries LLVM
    }
)
PROPRIETARY_EXTRAS = frozenset({"cuda12", "cuda13", "torch"})
"""Only through these extras may NVIDIA's proprietary wheels come in (torch's own wheels ask for
them); `pip install gputune` alone never gets one."""

PROPRIETARY_TOOLS = frozenset(
    {
        "nvidia-cuda-cccl",
        "nvidia-cuda-crt",
        "nvidia-cuda-cuobjdump",
        "nvidia-cuda-nvrtc",
        "nvidia-cuda-runtime",
    }
)
"""NVIDIA's compiler, headers and cubin reader: asked for by name in the extras `test` and `dev`, so
that tests compile real kernels without a GPU. gputune works without them and holds no part of them.
"""

WEAK_COPYLEFT = {"psycopg": "LGPL-3.0-only", "psycopg-binary": "LGPL-3.0-only"}
"""Libraries that may be used unchanged, as what they are, in the extras `test` and `dev` only:
psycopg speaks to the PostgreSQL of the tests. Users of a server choose their driver themselves."""

# How packages without an SPDX expression name their licence: classifier or free text.
NAMES = {
    "mit": "MIT",
    "mit license": "MIT",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "python software foundation license": "PSF-2.0",
    "isc license (iscl)": "ISC",
    "the unlicense (unlicense)": "Unlicense",
    "zlib/libpng license": "Zlib",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
}


def licence(dist: metadata.Distribution) -> str:
    """The licence of a distribution as an SPDX expression, or its own words where unknown."""
    meta = dist.metadata
    for expression in meta.get_all("License-Expression") or []:
        return str(expression)
    classifiers = [
        c.rsplit(" :: ", 1)[-1]
        for c in meta.get_all("Classifier") or []
        if c.startswith("License :: ") and c != "License :: OSI Approved"
    ]
    words = "".join(meta.get_all("License") or []).strip().split("\n")[0]
    found = classifiers or [words or "none stated"]
    return " AND ".join(NAMES.get(x.lower(), f"{x!r}") for x in found)


def allowed(expression: str) -> bool:
    """Is every part of an SPDX expression (one of the parts, for OR) on the list?"""
    expression = expression.strip()
    if expression in ALLOWED:
        return True
    tokens = re.findall(r"\(|\)|[^()\s]+", expression)
    for joiner, quantifier in (("OR", any), ("AND", all)):  # AND binds tighter than OR
        parts = _split(tokens, joiner)
        if len(parts) > 1:
            return quantifier(allowed(p) for p in parts)
    if tokens and tokens[0] == "(" and tokens[-1] == ")":
        return allowed(" ".join(tokens[1:-1]))
    return False


def _split(tokens: list[str], joiner: str) -> list[str]:
    """The token list cut at `joiner` outside parentheses."""
    parts: list[list[str]] = [[]]
    depth = 0
    for t in tokens:
        depth += (t == "(") - (t == ")")
        if depth == 0 and t.upper() == joiner:
            parts.append([])
        else:
            parts[-1].append(t)
    return [" ".join(p) for p in parts]


def _wanted(requirement: Requirement, extras: frozenset[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": e}) for e in extras or {""})


def installed_dependencies() -> dict[str, tuple[metadata.Distribution, frozenset[str]]]:
    """Every installed distribution that gputune asks for, with the extras it comes in through
    ("" is plain gputune).

    Raises:
        SystemExit: a requirement of plain gputune is not installed.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    queue = [(Requirement(r), "") for r in project["dependencies"]]
    for extra, requirements in project["optional-dependencies"].items():
        queue += [(Requirement(r), extra) for r in requirements]
    found: dict[str, tuple[metadata.Distribution, frozenset[str]]] = {}
    seen: set[tuple[str, str, frozenset[str]]] = set()
    while queue:
        requirement, origin = queue.pop()
        name = canonicalize_name(requirement.name)
        extras = frozenset(requirement.extras)
        if name == "gputune" or (name, origin, extras) in seen or not _wanted(requirement, extras):
            continue
        seen.add((name, origin, extras))
        try:
            dist = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if origin == "":
                sys.exit(f"licences: {requirement} is not installed, so its licence is not known")
            continue  # an extra that is not installed here
        found[name] = (dist, found.get(name, (dist, frozenset()))[1] | {origin})
        for text in dist.requires or []:
            child = Requirement(text)
            if _wanted(child, extras):
                child.marker = None  # decided here, with the parent's extras
                queue.append((child, origin))
    return found


def main() -> int:
    """Check; print and return 1 if a licence is not allowed."""
    dependencies = installed_dependencies()
    bad = []
    for name, (dist, origins) in sorted(dependencies.items()):
        text = licence(dist)
        if allowed(text):
            continue
        if WEAK_COPYLEFT.get(name) == text and origins <= {"test", "dev"}:
            continue
        tools = {"test", "dev"} if name in PROPRIETARY_TOOLS else set()
        if name.startswith("nvidia-") and origins <= PROPRIETARY_EXTRAS | tools:
            continue
        through = ", ".join(sorted(o or "plain gputune" for o in origins))
        bad.append(f"licences: {name} {dist.version} (through {through}): {text} is not allowed")
    if bad:
        print("\n".join(bad), file=sys.stderr)
        return 1
    print(f"{len(dependencies)} installed dependencies, all licences allowed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
