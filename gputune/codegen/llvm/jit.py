"""How does LLVM text become code in this process? Target machines, object code, linking."""

from __future__ import annotations

import ctypes
import importlib
import itertools
import threading
import weakref
from dataclasses import dataclass
from functools import cache
from typing import Any

from ...errors import BuildError
from . import kept, tile_registers

_lock = threading.Lock()
_count = itertools.count()
CODEGEN_LEVEL = 1
"""LLVM's code generation effort; 2 and 3 give the same speed here and take longer."""
UNROLL = "llvm.loop.unroll.full"
"""The hint on a loop that LLVM is to unroll. Modules without one go through no pass."""


@cache
def binding() -> Any:
    """llvmlite.binding, set up for this machine."""
    llvm: Any = importlib.import_module("llvmlite.binding")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@cache
def host_features() -> tuple[str, str]:
    """(cpu name, feature string) of this machine; virtual machines mask names, not features."""
    llvm = binding()
    return str(llvm.get_host_cpu_name()), str(llvm.get_host_cpu_features().flatten())


@cache
def host_triple() -> str:
    """LLVM's name for the architecture and system of this process."""
    return str(binding().get_process_triple())


def _machine(mcpu: str, mattr: str) -> Any:
    """A target machine of this thread (LLVM's are not safe to share)."""
    known: dict[tuple[str, str], Any] = _local.__dict__.setdefault("machines", {})
    found = known.get((mcpu, mattr))
    if found is None:
        target = binding().Target.from_triple(host_triple())
        found = known[(mcpu, mattr)] = target.create_target_machine(
            cpu=mcpu, features=mattr, opt=CODEGEN_LEVEL, reloc="default", codemodel="jitdefault",
            jit=True,
        )  # fmt: skip
    return found


_local = threading.local()


def parse(ir: str) -> Any:
    """The text as an LLVM module of its own context; BuildError if LLVM refuses it."""
    llvm = binding()
    try:
        module = llvm.parse_assembly(ir, llvm.create_context())
        module.verify()
    except RuntimeError as e:
        raise BuildError(
            f"llvm refused the generated code: {str(e).strip()}",
            hint="this is a fault of gputune: please report the program",
        ) from None
    return module


def emit_object(ir: str, mcpu: str, mattr: str) -> bytes:
    """The object code of LLVM text; BuildError if LLVM refuses it."""
    return bytes(_machine(mcpu, mattr).emit_object(_unrolled(ir, mcpu, mattr)))


def emit_assembly(ir: str, mcpu: str, mattr: str) -> str:
    """The assembly of LLVM text."""
    return str(_machine(mcpu, mattr).emit_assembly(_unrolled(ir, mcpu, mattr)))


def _unrolled(ir: str, mcpu: str, mattr: str) -> Any:
    """The module of LLVM text, after LLVM has unrolled the loops that say so. Temporaries whose
    addresses are constant then become registers."""
    module = parse(ir)
    if UNROLL not in ir:
        return module
    llvm = binding()
    options = llvm.create_pipeline_tuning_options()
    builder = llvm.create_pass_builder(_machine(mcpu, mattr), options)
    passes = llvm.create_new_function_pass_manager()
    passes.add_loop_unroll_pass()
    passes.add_sroa_pass()
    for function in module.functions:
        if not function.is_declaration:
            passes.run(function, builder)
    return module


@cache
def _lljit() -> Any:
    llvm = binding()
    cpu, features = host_features()
    return llvm.create_lljit_compiler(
        llvm.Target.from_triple(host_triple()).create_target_machine(
            cpu=cpu, features=features, opt=CODEGEN_LEVEL, jit=True
        )
    )


@dataclass(slots=True, eq=False, weakref_slot=True)
class LoadedKernel:
    """Machine code in this process; it is unloaded when this object goes.

    `address` is that of `i32 symbol(ptr args, ptr pool)`: see `LlvmKernel`.
    """

    symbol: str
    address: int
    tracker: Any

    def __call__(self, args: int, pool: int = 0) -> int:
        """Run with the addresses of the slots and of a pool; the error code."""
        call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)(self.address)
        return int(call(args, pool))

    def lookup(self, symbol: str) -> int:
        """The address of another exported symbol."""
        return int(self.tracker[symbol])


def load(object_code: bytes, symbol: str, *others: str) -> LoadedKernel:
    """Link object code into this process; `others` are further symbols to export.

    Raises BuildError where a symbol is missing, naming it, and where the kernel uses AMX tiles that
    the system does not give to this process.
    """
    llvm = binding()
    tile_registers.check_permission(object_code)
    release = kept.release(symbol)
    if release.encode() in object_code:
        others = (*others, release)
    with _lock:
        builder = llvm.JITLibraryBuilder().add_object_img(object_code)
        for name in (symbol, *others):
            builder = builder.export_symbol(name)
        try:
            tracker = builder.add_current_process().link(_lljit(), f"gputune.{next(_count)}")
            address = int(tracker[symbol])
        except (RuntimeError, KeyError) as e:
            raise BuildError(
                f"the kernel cannot be linked: {str(e).strip()}",
                hint="T.call_extern can only call functions that this process has loaded",
            ) from None
    loaded = LoadedKernel(symbol, address, tracker)
    if release in others:
        # what the kernel keeps between calls goes before its code does
        weakref.finalize(loaded, _call, int(tracker[release]), tracker).atexit = False
    return loaded


def _call(address: int, code: Any) -> None:
    """Call a function without arguments; `code` is what keeps it in memory."""
    ctypes.CFUNCTYPE(None)(address)()
