"""What does a GPU program consist of? Source text of kernels, and the host's steps around them.

A `HostProgram` is data: it is run on a device by `runtime`, captured in a CUDA graph, and carried
out on the CPU by host execution. Sizes are settled numbers: one program for each shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Triple: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of the program, in the caller's order.

    Attributes:
        name: as the launches name it.
        dtype: of the number, or of the elements that the pointer points to.
        elements: how many elements lie there; None: it is a number, passed by value.
        written: may kernels store to it?
        align: the pointer is a multiple of this many bytes.
    """

    name: str
    dtype: str
    elements: int | None = None
    written: bool = False
    align: int = 1


@dataclass(frozen=True, slots=True)
class Workspace:
    """Device memory that the program allocates for itself, of undefined contents."""

    name: str
    dtype: str
    elements: int


@dataclass(frozen=True, slots=True)
class Memset:
    """Set every byte of a parameter or workspace."""

    name: str
    byte: int


@dataclass(frozen=True, slots=True)
class Launch:
    """Run a kernel on a grid.

    Attributes:
        kernel: its name in the source (`extern "C"`).
        grid: blocks along x, y, z.
        block: threads of a block along x, y, z.
        args: names of parameters and workspaces, in the kernel's order.
        shared_bytes: dynamic shared memory of a block.
        cluster: blocks of a cluster along x, y, z; None: no clusters.
    """

    kernel: str
    grid: Triple
    block: Triple
    args: tuple[str, ...]
    shared_bytes: int = 0
    cluster: Triple | None = None


Step: TypeAlias = Memset | Launch


@dataclass(frozen=True, slots=True)
class HostProgram:
    """What the host does in one call: allocate the workspaces, then the steps in order."""

    name: str
    params: tuple[Param, ...]
    steps: tuple[Step, ...]
    workspaces: tuple[Workspace, ...] = ()

    @property
    def launches(self) -> tuple[Launch, ...]:
        """The launches among the steps."""
        return tuple([s for s in self.steps if isinstance(s, Launch)])

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON-able values."""
        return {
            "name": self.name,
            "params": [[p.name, p.dtype, p.elements, p.written, p.align] for p in self.params],
            "workspaces": [[w.name, w.dtype, w.elements] for w in self.workspaces],
            "steps": [
                ["memset", s.name, s.byte]
                if isinstance(s, Memset)
                else ["launch", s.kernel, s.grid, s.block, s.args, s.shared_bytes, s.cluster]
                for s in self.steps
            ],
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> HostProgram:
        """The program that `as_json` wrote; KeyError, TypeError or ValueError if it is none."""
        steps: list[Step] = []
        for kind, *rest in value["steps"]:
            if kind == "memset":
                steps.append(Memset(str(rest[0]), int(rest[1])))
            elif kind == "launch":
                name, grid, block, args, shared, cluster = rest
                steps.append(
                    Launch(
                        str(name),
                        _triple(grid),
                        _triple(block),
                        tuple(map(str, args)),
                        int(shared),
                        None if cluster is None else _triple(cluster),
                    )
                )
            else:
                raise ValueError(f"unknown step {kind!r}")
        return HostProgram(
            str(value["name"]),
            tuple([
                Param(str(n), str(d), None if e is None else int(e), bool(w), int(a))
                for n, d, e, w, a in value["params"]
            ]),
            tuple(steps),
            tuple([Workspace(str(n), str(d), int(e)) for n, d, e in value["workspaces"]]),
        )  # fmt: skip


def _triple(values: Any) -> Triple:
    x, y, z = (int(v) for v in values)
    return x, y, z


@dataclass(frozen=True, slots=True)
class CudaSource:
    """A program before compiling.

    Attributes:
        text: CUDA C++ of all kernels, each `extern "C" __global__`, without the prelude.
        host: the steps around them.
        options: more options for the compiler, such as "-std=c++17" or "--use_fast_math".
        prelude: does the text use the device prelude? (Generated text does; users' need not.)
    """

    text: str
    host: HostProgram
    options: tuple[str, ...] = ()
    prelude: bool = True

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON-able values."""
        return {
            "text": self.text,
            "host": self.host.as_json(),
            "options": list(self.options),
            "prelude": self.prelude,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> CudaSource:
        """The source that `as_json` wrote; KeyError, TypeError or ValueError if it is none."""
        host = HostProgram.from_json(value["host"])
        options = tuple(map(str, value["options"]))
        return CudaSource(str(value["text"]), host, options, bool(value["prelude"]))
