"""How are the steps of a program carried out on the CPU, and what comes back?

The program runs in a process of its own, which reads a job file, works on a file of memory that is
mapped into both processes, and writes its findings into a third. Nothing that a kernel does can
hurt the caller.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gputune.errors import RunError, TimeoutExpired
from gputune.ir import dtypes
from gputune.target import scratch

from ..program import Launch, Memset, Param, Workspace
from .build import HostCode
from .report import KINDS, Finding, HostReport, KernelFigures, Severity, Traffic
from .text import FILE, dynamic_name

ORDERS = ("forward", "reverse", "random")
"""In which threads and blocks may run."""

Value: TypeAlias = "np.ndarray[Any, Any] | np.generic | float | None"

_PAGE = 4096
_POISON = 0xFF  # NaN for every float
_PRINTED = 64 << 10


@dataclass(frozen=True, slots=True)
class _Buffer:
    """A parameter or workspace in the memory file."""

    name: str
    dtype: str
    elements: int
    offset: int
    written: bool
    initial: np.ndarray[Any, Any] | None  # None: undefined

    @property
    def bytes(self) -> int:
        return self.elements * dtypes.itemsize(self.dtype)


def host_run(
    code: HostCode,
    values: Mapping[str, Value],
    *,
    order: str = "forward",
    seed: int = 0,
    timeout_s: float = 60.0,
    max_findings: int = 20,
    sample_blocks: int | None = None,
) -> HostReport:
    """Run all steps of a program on the CPU, in a process of its own.

    Args:
        code: from `host_compile`.
        values: an array for each parameter that is a pointer (of its dtype and number of elements),
            a number for each other. A parameter that kernels write may be left out or None: its
            contents are undefined, and reading them is a finding.
        order: in which the threads of a block take turns, and blocks run; one of `ORDERS`.
        seed: of a random order, and of the choice of blocks.
        timeout_s: processor seconds; a kernel that runs longer is taken to be endless.
        max_findings: how many are kept.
        sample_blocks: run only so many blocks of each launch (the corners of its grid, then random
            ones); None: all. What other blocks would have written is then not missed.

    Raises:
        RunError: the values do not fit the parameters, or a launch does not fit its kernel.

    Example:
        >>> report = host_run(code, {"a": a, "b": None, "n": 1024})    # doctest: +SKIP
        >>> print(report)                                              # doctest: +SKIP
        out-of-bounds: kernel copy, line 4, block (3, 0, 0), thread (9, 0, 0): b[1024]: it ...
    """
    if order not in ORDERS:
        raise RunError(f"order must be one of {', '.join(ORDERS)}, found {order!r}")
    buffers = _buffers(code, values, sample_blocks is not None)
    plan = [_blocks(s, sample_blocks, seed) for s in code.source.host.launches]
    for launch in code.source.host.launches:
        _check_launch(launch)
    with _work_folder(sum(b.bytes + _PAGE for b in buffers)) as folder:
        memory = _lay_out(folder / "memory", buffers)
        job = _job(code, values, buffers, plan, folder, order, seed, timeout_s, sample_blocks)
        (folder / "job").write_text("\n".join(job) + "\n", encoding="utf-8")
        status = _run(code, folder, timeout_s)
        lines = _lines(folder / "result")
        if lines and lines[0][0] == "refused":
            raise _refused(code, lines[0])
        findings = _findings(code, lines, max_findings)
        completed = status == "" and any(line[0] == "end" for line in lines)
        if not completed:
            findings.append(Finding("crash", f"the process of the program {status or 'was lost'}"))
        findings += _stray_writes(code, buffers, memory)
        outputs = {b.name: _contents(b, memory).copy() for b in buffers if b.written}
        printed = (folder / "printed").read_bytes()[:_PRINTED].decode("utf-8", "replace")
    names = {p.name for p in code.source.host.params}
    kernels = _figures(lines)
    counts: dict[str, int] = {}
    for f in findings:
        counts[f.kind] = counts.get(f.kind, 0) + 1
    ended_early = {"deadlock", "crash", "endless-loop", "trap", "assertion", "stack-overflow"}
    return HostReport(
        tuple(findings[:max_findings]),
        counts,
        {k: v for k, v in outputs.items() if k in names},
        kernels,
        sum(k.blocks for k in kernels.values()),
        sum(prod(s.grid) for s in code.source.host.launches),
        sum(k.seconds for k in kernels.values()),
        order,
        printed,
        completed and not ended_early & set(counts),
    )


# ----------------------------------------------------------------------------- values
def _buffers(code: HostCode, values: Mapping[str, Value], sampled: bool) -> list[_Buffer]:
    host = code.source.host
    unknown = sorted(set(values) - {p.name for p in host.params})
    if unknown:
        raise RunError(
            f"program {host.name!r} has no parameter {unknown[0]!r}",
            hint=f"it has: {', '.join(p.name for p in host.params) or 'none'}",
        )
    out: list[_Buffer] = []
    offset = 0
    everything: list[Param | Workspace] = [*host.params, *host.workspaces]
    for p in everything:
        if p.elements is None:
            continue
        written = not isinstance(p, Param) or p.written
        initial = _array(p, values.get(p.name)) if isinstance(p, Param) else None
        out.append(_Buffer(p.name, p.dtype, p.elements, offset, written, initial))
        offset += _whole(max(1, out[-1].bytes))
    return out


def _array(p: Param, value: Value) -> np.ndarray[Any, Any] | None:
    if value is None:
        if p.written:
            return None
        raise RunError(f"parameter {p.name!r} needs an array of {p.elements} elements of {p.dtype}")
    array = np.ascontiguousarray(value)
    wanted = dtypes.numpy_dtype(p.dtype)
    if array.dtype != wanted or array.size != p.elements:
        raise RunError(
            f"parameter {p.name!r} is {p.elements} elements of {wanted}, "
            f"found {array.size} of {array.dtype}"
        )
    return array


def _number(p: Param, value: Value) -> bytes:
    if value is None or (isinstance(value, np.ndarray) and value.size != 1):
        raise RunError(f"parameter {p.name!r} needs a number of {p.dtype}, found {value!r}")
    wanted = dtypes.numpy_dtype(p.dtype)
    try:
        number = np.asarray(value).reshape(()).astype(wanted)
    except (TypeError, ValueError, OverflowError) as e:
        raise RunError(f"parameter {p.name!r} needs a number of {p.dtype}: {e}") from None
    return number.tobytes()


def _check_launch(launch: Launch) -> None:
    threads = prod(launch.block)
    if not 1 <= threads <= 1024 or min(launch.block) < 1 or launch.block[2] > 64:
        raise RunError(
            f"kernel {launch.kernel} cannot be launched with blocks of {launch.block}: "
            "a block has 1 to 1024 threads, 64 at most along z",
            code="launch",
        )
    x, y, z = launch.grid
    if min(launch.grid) < 1 or x >= 1 << 31 or max(y, z) > 65535 or prod(launch.grid) >= 1 << 32:
        raise RunError(
            f"kernel {launch.kernel} cannot be launched on a grid of {launch.grid}", code="launch"
        )
    if not 0 <= launch.shared_bytes <= 256 << 10:
        raise RunError(
            f"kernel {launch.kernel} cannot have {launch.shared_bytes} bytes of shared memory",
            code="launch",
        )


def _blocks(launch: Launch, sample: int | None, seed: int) -> list[int]:
    """The blocks of a launch to be run, by their number; none: all."""
    total = prod(launch.grid)
    if sample is None or sample >= total:
        return []
    if sample < 1:
        raise RunError(f"sample_blocks must be at least 1, found {sample}")
    x, y, z = launch.grid
    corners = {
        (k * y + j) * x + i for k in (0, z - 1) for j in (0, y - 1) for i in (0, x - 1)
    }  # fmt: skip
    chosen = sorted(corners, key=lambda c: (c not in (0, total - 1), c))[:sample]
    taken = set(chosen)
    rng = random.Random(seed)
    while len(chosen) < sample:
        block = rng.randrange(total)
        if block not in taken:
            taken.add(block)
            chosen.append(block)
    return sorted(chosen)


# ----------------------------------------------------------------------------- files
@contextlib.contextmanager
def _work_folder(needed: int) -> Iterator[Path]:
    """A private folder, in memory where there is room."""
    parent = None
    with contextlib.suppress(OSError):
        room = os.statvfs("/dev/shm")
        if room.f_bavail * room.f_frsize > 2 * needed + (16 << 20) and os.access(
            "/dev/shm", os.W_OK
        ):
            parent = "/dev/shm"
    folder = tempfile.mkdtemp(prefix=f"gputune-host-{scratch.token()}", dir=parent)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _whole(n: int) -> int:
    return -(-n // _PAGE) * _PAGE


def _lay_out(path: Path, buffers: Sequence[_Buffer]) -> np.ndarray[Any, Any]:
    """The memory file: every buffer in pages of its own, everything else poisoned."""
    total = sum(_whole(max(1, b.bytes)) for b in buffers)
    memory: np.ndarray[Any, Any] = np.memmap(path, np.uint8, "w+", shape=(max(total, _PAGE),))
    memory[:] = _POISON
    for b in buffers:
        if b.initial is not None and b.bytes:
            memory[b.offset : b.offset + b.bytes] = b.initial.reshape(-1).view(np.uint8)
    return memory


def _contents(b: _Buffer, memory: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    flat = np.array(memory[b.offset : b.offset + b.bytes]).view(dtypes.numpy_dtype(b.dtype))
    return flat if b.initial is None else flat.reshape(b.initial.shape)


def _stray_writes(
    code: HostCode, buffers: Sequence[_Buffer], memory: np.ndarray[Any, Any]
) -> Iterator[Finding]:
    """Writes behind buffers that no check reported: of a program compiled without."""
    if code.checked:
        return
    for b in buffers:
        tail = memory[b.offset + b.bytes : b.offset + _whole(max(1, b.bytes))]
        changed = np.flatnonzero(tail != _POISON)
        if changed.size:
            at = (b.bytes + int(changed[0])) // dtypes.itemsize(b.dtype)
            yield Finding(
                "out-of-bounds",
                f"element {at} of {b.name}, which has {b.elements} elements, was written",
                buffer=b.name,
                element=at,
            )


def _word(name: str) -> str:
    return re.sub(r"\s", "_", name)


def _job(
    code: HostCode,
    values: Mapping[str, Value],
    buffers: Sequence[_Buffer],
    plan: Sequence[Sequence[int]],
    folder: Path,
    order: str,
    seed: int,
    timeout_s: float,
    sample: int | None,
) -> list[str]:
    """The lines of the job file."""
    host = code.source.host
    out = [
        f"result {folder / 'result'}",
        f"memory {folder / 'memory'}",
        f"order {ORDERS.index(order)} {seed & 0xFFFFFFFFFFFF}",
        f"checked {int(code.checked)}",
    ]
    places: dict[str, str] = {}
    for at, b in enumerate(buffers):
        places[b.name] = f"b{at}"
        # Blocks that were left out write nothing: reading it is not the kernels' fault
        defined = int(b.initial is not None or sample is not None)
        size = dtypes.itemsize(b.dtype)
        out.append(
            f"buffer {_word(b.name)} {size} {b.elements} {b.offset} {int(b.written)} {defined}"
        )
    out.append(f"dynamic {dynamic_name(code.source.text)}")
    for v in code.variables:
        out.append(f"variable {_word(v.name)} {v.kind} {v.address:x} {v.size}")
    numbers = [p for p in host.params if p.elements is None]
    for at, p in enumerate(numbers):
        places[p.name] = f"n{at}"
        data = _number(p, values.get(p.name))
        kind = "f" if dtypes.is_float(p.dtype) else "i"
        out.append(f"number {kind} {len(data)} {data.hex()}")
    out.append(f"limit {max(1, int(timeout_s * 1000))}")
    kernels = list(dict.fromkeys(s.kernel for s in host.launches))
    chosen = iter(plan)
    for step in host.steps:
        if isinstance(step, Memset):
            out.append(f"memset {_place(places, step.name, host.name)[1:]} {step.byte & 255}")
            continue
        blocks = next(chosen)
        args = [_place(places, name, host.name) for name in step.args]
        out.append(
            " ".join(
                map(str, ("launch", kernels.index(step.kernel), *step.grid, *step.block,
                          step.shared_bytes, len(blocks), *blocks, len(args), *args))
            )
        )  # fmt: skip
    return out


def _place(places: Mapping[str, str], name: str, program: str) -> str:
    if name not in places:
        raise RunError(f"program {program!r} has no parameter or workspace {name!r}")
    return places[name]


# ----------------------------------------------------------------------------- the process
def _run(code: HostCode, folder: Path, timeout_s: float) -> str:
    """Run the process to its end; "" or how it failed, in words."""
    with (folder / "printed").open("wb") as printed, (folder / "said").open("wb") as said:
        try:
            process = subprocess.Popen(
                [str(code.path), str(folder / "job")],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=said,
                cwd=folder,
                start_new_session=True,  # Ctrl-C does not reach it, and it can be killed
            )
        except OSError as e:
            raise RunError(f"{code.path} cannot be run: {e}", code="host-process") from None
        try:
            # The process has its own limit, of processor time; this one is for a busy machine
            status = process.wait(4 * timeout_s + 20)
        except subprocess.TimeoutExpired:
            raise TimeoutExpired(
                f"program {code.source.host.name!r} was not done after {4 * timeout_s + 20:g} s"
            ) from None
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    text = (folder / "said").read_bytes()[-2000:].decode("utf-8", "replace").strip()
    if status == 70:
        raise RunError(text or "host execution gave up", code="host-process")
    if status == 0:
        return ""
    if status < 0:
        return f"was ended by signal {-status}"
    return f"ended with code {status}" + (f": {text}" if text else "")


def _lines(path: Path) -> list[list[str]]:
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", "replace")
    return [line.split("\t") for line in text.split("\n") if line]


def _refused(code: HostCode, line: Sequence[str]) -> RunError:
    """A launch whose arguments are not what the kernel takes."""
    kernel, at, why = line[1], int(line[2]), line[3]
    launch = next(s for s in code.source.host.launches if s.kernel == kernel)
    if why == "count":
        text = f"kernel {kernel} takes {at} arguments, its launch gives {len(launch.args)}"
    else:
        name = launch.args[at]
        words = {
            "not a pointer": f"takes a number, but {name!r} is a buffer",
            "pointer": f"takes a pointer, but {name!r} is a number",
            "type": f"takes a number of another type than {name!r}",
        }
        text = f"argument {at} of kernel {kernel} {words[why]}"
    return RunError(text, code="launch")


# ----------------------------------------------------------------------------- the result
def _triple(text: str) -> tuple[int, int, int] | None:
    if text == "-":
        return None
    x, y, z = map(int, text.split(","))
    return x, y, z


def _findings(code: HostCode, lines: Sequence[Sequence[str]], limit: int) -> list[Finding]:
    rows = [line for line in lines if line[0] == "finding" and len(line) == 13]
    addresses = {int(row[10], 16) for row in rows} - {0}
    source_lines = _source_lines(code, sorted(addresses))
    out: list[Finding] = []
    for row in rows:
        _, kind, severity, kernel, block, thread, other_block, other_thread = row[:8]
        buffer, element, pc, count, message = row[8:]
        level: Severity = "warning" if severity == "warning" else "error"
        out.append(
            Finding(
                kind,
                message,
                level,
                None if kernel == "-" else kernel,
                _triple(block),
                _triple(thread),
                _triple(other_block),
                _triple(other_thread),
                None if buffer == "-" else buffer,
                None if element == "-" else int(element),
                source_lines.get(int(pc, 16)),
                int(count),
            )
        )
    return _merged(out)


def _merged(findings: Sequence[Finding]) -> list[Finding]:
    """One finding for a place of the text: copies of its code are no other places. Errors first,
    then in the order of `KINDS`: causes before what follows from them."""
    kept: dict[tuple[object, ...], Finding] = {}
    for at, f in enumerate(findings):
        key = (f.kind, f.severity, f.kernel, f.buffer, at if f.line is None else ("line", f.line))
        first = kept.get(key)
        kept[key] = f if first is None else replace(first, count=first.count + f.count)
    rank = list(KINDS)
    return sorted(kept.values(), key=lambda f: (f.severity != "error", rank.index(f.kind)))


def _source_lines(code: HostCode, addresses: Sequence[int]) -> dict[int, int]:
    """Lines of the kernel's text for return addresses, where binutils' addr2line is there."""
    tool = shutil.which("addr2line") or shutil.which("llvm-addr2line")
    if tool is None or not addresses:
        return {}
    try:
        asked = subprocess.run(
            [tool, "-a", "-i", "-e", str(code.path), *(f"0x{a - 1:x}" for a in addresses)],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return {}
    out: dict[int, int] = {}
    address = 0
    for text in asked.stdout.splitlines():
        if text.startswith("0x"):
            address = int(text, 16) + 1
        elif match := re.search(rf"{re.escape(FILE)}:(\d+)", text):
            # Innermost first: a function of the shim within the kernel's text is passed over
            out.setdefault(address, int(match[1]))
    return out


def _figures(lines: Sequence[Sequence[str]]) -> dict[str, KernelFigures]:
    out = {}
    traffic: dict[str, list[Traffic]] = {}
    for line in lines:
        if line[0] == "traffic":
            writes, shared, requests, units = map(int, line[3:])
            found = Traffic(line[2], bool(writes), bool(shared), requests, units)
            traffic.setdefault(line[1], []).append(found)
    for line in lines:
        if line[0] == "figures":
            n = [int(v) for v in line[2:]]
            out[line[1]] = KernelFigures(
                n[0], n[1], n[2], n[3], n[4], n[5] / 1e9, n[6], n[7], n[8], n[9], n[10], n[11],
                tuple(traffic.get(line[1], ())),
            )  # fmt: skip
    return out
