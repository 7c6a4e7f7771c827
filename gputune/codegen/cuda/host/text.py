"""What must change in CUDA C++ so that a C++ compiler takes it? Little: the shim does the rest.

Lines stay where they are, so that messages give those of the kernel's own text.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..program import CudaSource

FILE = "kernel.cu"
"""The name of the kernel's text in messages and line tables."""

_INCLUDE = re.compile(r"^[ \t]*#[ \t]*include[ \t]*[<\"]([^>\"\n]+)[>\"]", re.MULTILINE)
_DYNAMIC = re.compile(
    r"\bextern\s+(?:__align__\s*\([^()]*\)\s*)?__shared__\s+"
    r"(?:(?:__align__|alignas)\s*\([^()]*\)\s*)?"
    r"(?P<type>[\w:<>,*&\s]+?[\s*&>])\s*(?:__align__\s*\([^()]*\)\s*)?"
    r"(?P<name>\w+)\s*\[\s*\]\s*;"
)
_CUDA_HEADER = re.compile(r"(cuda|mma|cooperative_groups|cub/|thrust/|nv|cooperative|vector_|sm_)")


def host_text(source: CudaSource, macros: Sequence[str] = ()) -> str:
    """The text of the program for the host's compiler, with its table of kernels.

    `macros` are lines that define some; they come after the shim, which has its own names.

    Everything lies in an unnamed namespace: no kernel's name meets one of the C library's, and
    `__shared__` variables of templates and inline functions belong to this file alone.
    """
    names = list(dict.fromkeys(launch.kernel for launch in source.host.launches))
    # Headers come first: the shim then adds to what they define, and outside of the namespace.
    # Where the text includes one, it is there already. (GCC passes over a missing header that was
    # asked for with __has_include: so another name is included then.)
    headers = "".join(
        f"#if __has_include(<{h}>)\n#include <{h}>\n#define GT_HEADER_{at} <{h}>\n"
        f'#else\n#define GT_HEADER_{at} "missing/{h}"\n#endif\n'
        for at, h in enumerate(headers_of(source.text))
    )
    rows = "".join(f"GT_KERNEL({name}), " for name in names)
    defined = "".join(m + "\n" for m in macros)
    return (
        f'{headers}#include "shim.h"\n{defined}namespace {{\n'
        f'#line 1 "{FILE}"\n{_adapted(source.text)}\n'
        f'#line 1 "launches"\n}}\nextern "C" const gt_kernel gt_kernels[] = {{{rows}{{}}}};\n'
    )


def _adapted(text: str) -> str:
    # A reference to an array of unknown bound is used like the array itself
    def dynamic(match: re.Match[str]) -> str:
        kind, name = " ".join(match["type"].split()), match["name"]
        lines = "\n" * match[0].count("\n")
        return f"{kind} (&{name})[] = *({kind}(*)[])gt_dynamic_shared();{lines}"

    headers = headers_of(text)
    text = _INCLUDE.sub(lambda m: f"#include GT_HEADER_{headers.index(m[1])}", text)
    text = _DYNAMIC.sub(dynamic, text)
    text = re.sub(r'\bextern\s+"C"', 'extern "C++"', text)
    return re.sub(r"\bstatic\s+__shared__", "__shared__", text)


def dynamic_name(text: str) -> str:
    """What the text calls its dynamic shared memory, if it has one name for it."""
    names = {match["name"] for match in _DYNAMIC.finditer(text)}
    return names.pop() if len(names) == 1 else "dynamic_shared_memory"


def headers_of(text: str) -> list[str]:
    """The headers that a text includes, each once, in order."""
    return list(dict.fromkeys(_INCLUDE.findall(text)))


def is_cuda_header(name: str) -> bool:
    """Is it one of those that come with CUDA?"""
    return _CUDA_HEADER.match(name) is not None


def cuda_include_folders() -> list[str]:
    """Folders with CUDA's headers: of NVIDIA's wheels, CUDA_HOME, CUDA_PATH, /usr/local/cuda."""
    places: list[Path] = []
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations if spec is not None else None) or ():
        places += sorted(Path(root).glob("cu[0-9]*/include"), reverse=True)
        places.append(Path(root) / "cuda_runtime" / "include")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(name):
            places.append(Path(home) / "include")
    places.append(Path("/usr/local/cuda/include"))
    for place in places:
        if (place / "cuda_runtime_api.h").is_file() or (place / "cuda_fp16.h").is_file():
            return [str(place), str(place / "cccl")]
    return []
