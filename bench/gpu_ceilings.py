"""What can this GPU do at best? Bytes moved, bytes only read, multiply-adds: measured, not assumed.

The loops are those of ceilings.cu. They take turns with the operators of each cell, moving as many
bytes as the operator must, so that a fraction of the ceiling is one of the same minute, clock and
cache regime. Which form of a loop is the fastest on a GPU is found out once, at a shard's start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gputune.codegen.cuda.compile import compile_cuda
from gputune.codegen.cuda.program import CudaSource, HostProgram, Launch, Param
from gputune.codegen.cuda.raw import with_defines

TEXT = Path(__file__).with_name("ceilings.cu")
VECTOR = 16  # bytes of a load
_LARGE = 1 << 30  # bytes: far beyond every cache


@dataclass(frozen=True, slots=True)
class Rate:
    """What a loop does once.

    Attributes:
        read, written: bytes.
        flops: operations, of the loop that moves nothing.
        copies: memories that calls take turns on.
    """

    read: int = 0
    written: int = 0
    flops: int = 0
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Form:
    """How a loop is spread over the GPU: threads of a block, steps in flight, blocks for each
    multiprocessor."""

    block: int
    steps: int
    blocks: int


STREAMS = tuple(Form(b, u, n) for b, u, n in (
    (256, 2, 8), (256, 4, 8), (512, 2, 4), (512, 4, 4), (1024, 2, 2), (256, 4, 32), (256, 8, 4),
))  # fmt: skip
FMAS = tuple(Form(b, c, n) for b, c, n in ((256, 8, 8), (256, 16, 4), (512, 8, 4), (1024, 8, 2)))
ROUNDS = 4096


def stream_source(form: Form, sms: int, read: int, written: int) -> CudaSource:
    """The loop that loads `read` bytes and stores `written`, both whole vectors."""
    loads, stores = read // VECTOR, written // VECTOR
    steps = -(-max(loads, stores, 1) // (form.block * form.steps))
    params = (
        Param("out", "uint32", 4 * max(1, stores), True, VECTOR),
        Param("in", "uint32", 4 * max(1, loads), False, VECTOR),
        Param("written", "int64"), Param("read", "int64"),
    )  # fmt: skip
    return _source("stream", {"BX": form.block, "UNROLL": form.steps}, params,
                   min(sms * form.blocks, steps), form.block)  # fmt: skip


def fma_source(form: Form, sms: int, rounds: int = ROUNDS) -> tuple[CudaSource, int]:
    """The loop of multiply-adds, and the operations of a run."""
    threads = sms * form.blocks * form.block
    params = (Param("out", "float32", threads, True, 4), Param("factor", "float32", 2, False, 4))
    defines = {"BX": form.block, "CHAINS": form.steps, "ROUNDS": rounds}
    source = _source("multiply_add", defines, params, sms * form.blocks, form.block)
    return source, 2 * threads * form.steps * rounds


def _source(
    name: str, defines: Mapping[str, int], params: tuple[Param, ...], grid: int, block: int
) -> CudaSource:
    # one kernel a program: each has parameters of its own
    text = TEXT.read_text(encoding="utf-8")
    head, *kernels = text.split('extern "C" ')
    (kernel,) = [k for k in kernels if f"\n{name}(" in k]
    launch = Launch(name, (grid, 1, 1), (block, 1, 1), tuple(p.name for p in params))
    host = HostProgram(name, params, (launch,))
    return CudaSource(
        with_defines(f'{head}extern "C" {kernel}', defines, name), host, prelude=False
    )


class Ceilings:
    """The loops on one GPU.

    Attributes:
        stream, reading, fma: the forms that are used (reading: where little is written); set by
            `choose`.
        measured: what `choose` found: bytes a second of torch's clone, of the copying and of the
            reading loop, operations a second of multiply-adds, and the forms.
    """

    def __init__(self, arch: str, sms: int) -> None:
        self.arch, self.sms = arch, sms
        self.stream, self.reading, self.fma = STREAMS[0], STREAMS[0], FMAS[0]
        self.measured: dict[str, Any] = {}

    def choose(self, device: Any, bytes_: int = _LARGE) -> dict[str, Any]:
        """Time all forms on much memory, keep the fastest."""
        torch = device.torch
        best: dict[str, tuple[float, Form]] = {}
        for what, forms, rate in (
            ("copy", STREAMS, Rate(bytes_ // 2, bytes_ // 2)), ("read", STREAMS, Rate(bytes_)),
            ("fma", FMAS, Rate(flops=1)),
        ):  # fmt: skip
            for form in forms:
                if what == "fma":
                    self.fma = form
                else:
                    self.stream = self.reading = form
                (work,) = device.floor(rate)
                done = self.flops if what == "fma" else rate.read + rate.written
                speed = done / _median(device, work)
                if what not in best or speed > best[what][0]:
                    best[what] = speed, form
            device.free()
        x = torch.empty(bytes_ // 8, dtype=torch.float32, device=device.place).uniform_(-1, 1)
        y = torch.empty_like(x)
        clone = 2 * x.numel() * 4 / _median(device, lambda: y.copy_(x))
        self.stream, self.reading, self.fma = (best[w][1] for w in ("copy", "read", "fma"))
        self.measured = {"clone_bytes_s": clone} | {
            f"{w}_{'flops' if w == 'fma' else 'bytes'}_s": s for w, (s, _) in best.items()
        } | {"forms": {w: [f.block, f.steps, f.blocks] for w, (_, f) in best.items()}}  # fmt: skip
        return self.measured

    @property
    def flops(self) -> int:
        """Operations of a run of the multiply-adds."""
        return fma_source(self.fma, self.sms)[1]

    def works(self, torch: Any, cupy: Any, stream: Any, rate: Rate) -> list[Callable[[], Any]]:
        """Calls of a loop, each on memory of its own."""
        from gputune.runtime.cuda_program import CudaProgram

        pointer = int(stream.cuda_stream)
        if rate.flops:
            source, _ = fma_source(self.fma, self.sms)
            sizes = [(4 * int(source.host.params[0].elements or 0), 8)]
        else:
            form = self.reading if 8 * rate.written < rate.read else self.stream
            source = stream_source(form, self.sms, rate.read, rate.written)
            sizes = [(rate.written, rate.read)] * rate.copies
        program = CudaProgram(source.host, compile_cuda(source, self.arch)).on(cupy, 0)
        numbers = () if rate.flops else (rate.written // VECTOR, rate.read // VECTOR)
        works = []
        for out_bytes, in_bytes in sizes:
            out, into = (
                torch.empty(max(4, -(-n // 4)), dtype=torch.float32, device="cuda").uniform_(
                    0.2, 0.7
                )
                for n in (out_bytes, in_bytes)
            )
            call = program.call([out.data_ptr(), into.data_ptr(), *numbers], pointer, (out, into))
            works.append(lambda call=call: call.launch(pointer))
        return works


def _median(device: Any, work: Callable[[], Any], repeat: int = 5) -> float:
    work()
    return sorted(device.batch(work)[0] for _ in range(repeat))[repeat // 2]
