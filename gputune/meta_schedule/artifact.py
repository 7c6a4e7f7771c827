"""What lies between builder and runner? A file with object code and what is needed to call it.

Artifacts live in a folder of this user's that only this process uses, and go when it ends. A file
begins with one line of JSON; the object code follows, and its digest must be the one there.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..runtime.interruption import held
from ..target.host import cache_folder

_MAGIC = "gputune artifact 1"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled kernel.

    Attributes:
        symbol: its name in the object code.
        arguments: descriptions of its arguments, as a worker's requests carry them.
        num_threads: threads that its parallel loops use.
        script: the text of the program.
        target: the target's export.
        code: the object code; a cubin for a cuda target.
        cuda: what else belongs to a cubin ({} for other targets): its source as
            `CudaSource.as_json` has it and, under "facts", what its kernels need.
        packing: of a kernel that takes constant arguments packed: symbol, positions and arguments
            of the kernel that packs them; {} for others.
        packer: the object code of that one.
    """

    symbol: str
    arguments: list[dict[str, Any]]
    num_threads: int
    script: str
    target: dict[str, Any]
    code: bytes
    cuda: dict[str, Any] = field(default_factory=dict)
    packing: dict[str, Any] = field(default_factory=dict)
    packer: bytes = b""

    @staticmethod
    def of_reply(
        data: Mapping[str, Any], blobs: Sequence[bytes], script: str, target: dict[str, Any]
    ) -> Artifact:
        """The kernel that a worker has built; RunError if its sizes are symbolic."""
        arguments = data["arguments"]
        if arguments is None:
            raise RunError("the program's sizes are symbolic: it cannot be measured", code="shape")
        threads = int(data["num_threads"]) if data.get("parallel") else 1
        cuda = dict(data.get("cuda") or {})
        packing = dict(data.get("packing") or {})
        return Artifact(
            str(data["symbol"]), list(arguments), threads, script, target, blobs[0], cuda, packing,
            blobs[1] if packing else b"",
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write the file: under another name first, so that it is there whole or not at all."""
        head = {
            "format": _MAGIC,
            "symbol": self.symbol,
            "arguments": self.arguments,
            "num_threads": self.num_threads,
            "script": self.script,
            "target": self.target,
            "cuda": self.cuda,
            "packing": self.packing,
            "sizes": [len(self.code), len(self.packer)],
            "digest": blake2b(self.code + self.packer).hexdigest(),
        }
        part = path.with_suffix(".part")
        part.write_bytes(json.dumps(head).encode() + b"\n" + self.code + self.packer)
        part.replace(path)

    @staticmethod
    def load(path: str | Path) -> Artifact:
        """Read a file that `save` wrote; RunError if it is none."""
        try:
            head, _, code = Path(path).read_bytes().partition(b"\n")
            fields = json.loads(head)
            if fields["format"] != _MAGIC or fields["digest"] != blake2b(code).hexdigest():
                raise ValueError("it was changed")
            return Artifact(
                fields["symbol"], fields["arguments"], fields["num_threads"], fields["script"],
                fields["target"], code[: fields["sizes"][0]], fields["cuda"], fields["packing"],
                code[fields["sizes"][0] :],
            )  # fmt: skip
        except OSError as e:
            raise RunError(f"cannot read the artifact {path}: {e.strerror or e}") from None
        except (ValueError, KeyError, TypeError) as e:
            raise RunError(
                f"{path} is not an artifact of gputune: {e}",
                hint="a custom builder goes with a custom runner",
                code="artifact",
            ) from None


_folders: dict[int, Path] = {}
_numbers = itertools.count()


def new_path() -> Path:
    """A path for an artifact in this process's folder, which is removed when the process ends."""
    own = os.getpid()  # a forked child makes its own
    folder = _folders.get(own)
    if folder is None or not folder.exists():
        parent = cache_folder()
        if parent is not None:
            _sweep(parent)
        with held():  # a folder that nobody knows would stay for ever
            folder = Path(tempfile.mkdtemp(prefix=f"build-{own}-", dir=parent))  # mode 0700
            _folders[own] = folder
            atexit.register(_remove_own, folder, own)
    return folder / f"{next(_numbers)}.o"


def _remove_own(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what processes left that were killed."""
    for folder in parent.glob("build-*-*"):
        pid = folder.name.split("-")[1]
        try:
            os.kill(int(pid), 0)
        except (ProcessLookupError, ValueError):
            shutil.rmtree(folder, ignore_errors=True)
        except (PermissionError, OverflowError):
            continue  # another user's process has the number now
