"""Which machine is meant by "llvm -num-cores 4"? Target: parsed, checked, compared, exported."""

from __future__ import annotations

import difflib
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from types import TracebackType
from typing import Any, TypeAlias

from gputune.errors import TargetError

from . import host
from .gpu import GpuLimits, limits_of
from .tags import holding, tagged

TargetLike: TypeAlias = "str | Mapping[str, Any] | Target"

# What a kind may say. "keys", "tag", "libs" and "host" stand in targets written by TVM: they carry
# nothing that gputune needs, so they are read and not kept.
OPTIONS: dict[str, tuple[str, ...]] = {
    "llvm": ("mattr", "mcpu", "num-cores"),
    "cuda": (
        "arch", "max-shared-memory-per-block", "max-threads-per-block", "thread-warp-size",
    ),
    "hexagon": ("num-cores", "vtcm-capacity"),
}  # fmt: skip
IGNORED = ("host", "keys", "libs", "tag")
# The kinds that this version generates code for; "auto" chooses among them.
BUILDABLE = frozenset({"llvm", "cuda"})

_HEXAGON_THREADS = 4
_HEXAGON_VECTORS = host.VectorUnit(128, 32)  # HVX

_stack: ContextVar[tuple[Target, ...]] = ContextVar("gputune_targets", default=())


class Target:
    """A machine to compile for, immutable and hashable.

    Args:
        spec: "llvm", "cuda", "hexagon" or "auto", with options in TVM's command-line spelling; a
            tag that names a device, such as "nvidia/nvidia-a100" (see `tags.py`); a dict with
            "kind" (or "tag") and the same options; or a Target. "auto" is cuda where it can be
            used, else llvm; the reason is printed once to stderr.
        host: accepted for the sake of TVM programs; the host is always this machine.
        trusted: the spec is an `export()` of this machine; names are not looked up again.

    llvm: `mcpu` and `mattr` default to this processor and all its features. `mattr` alone
    changes this machine's features ("-mattr=-avx512f"); with `mcpu` it changes those of the
    named processor. `num-cores` defaults to the physical cores this process may use.

    hexagon: schedules can be searched for, but code generation is not part of gputune.
    `vtcm-capacity` is in bytes; without it there is no limit.

    Attributes:
        kind: "llvm", "cuda" or "hexagon".
        mcpu, mattr: LLVM's processor and feature string ("" for others).
        num_cores: threads that parallel loops may use.
        arch: "sm_90a" and the like ("" for others than cuda).

    Raises:
        TargetError: unknown kind, tag or option, or a value that makes no sense; names the option.

    Example:
        >>> Target("llvm --num-cores=4").num_cores
        4
    """

    __slots__ = ("_limits", "arch", "kind", "mattr", "mcpu", "num_cores")

    kind: str
    mcpu: str
    mattr: str
    num_cores: int
    arch: str
    _limits: tuple[tuple[str, int], ...]

    def __init__(
        self, spec: TargetLike = "auto", host: TargetLike | None = None, *, trusted: bool = False
    ) -> None:
        if isinstance(spec, Target):
            for name in Target.__slots__:
                object.__setattr__(self, name, getattr(spec, name))
            return
        if isinstance(spec, str):
            kind, options = _parse_text(spec)
        elif isinstance(spec, Mapping):
            kind, options = _parse_dict(spec)
        else:
            raise TargetError(
                f"a target is a string, a dict or a Target, not {type(spec).__name__}",
                hint='for example "llvm -num-cores 4" or {"kind": "llvm", "num-cores": 4}',
            )
        if host is not None:
            Target(host)  # refuse nonsense, even though it steers nothing
        if kind == "auto":
            kind = _choose()
        self._fill(kind, options, trusted)

    def _fill(self, kind: str, options: dict[str, Any], trusted: bool) -> None:
        put = object.__setattr__
        put(self, "kind", kind)
        put(self, "mcpu", "")
        put(self, "mattr", "")
        put(self, "arch", "")
        put(self, "_limits", ())
        cores = options.get("num-cores", _HEXAGON_THREADS if kind == "hexagon" else None)
        put(self, "num_cores", _count(kind, "num-cores", cores))
        if kind == "llvm":
            mcpu, mattr = _processor(options.get("mcpu"), options.get("mattr"), trusted)
            put(self, "mcpu", mcpu)
            put(self, "mattr", mattr)
            return
        if kind == "cuda":
            put(self, "arch", _arch(options.get("arch")))
        limits = [
            (name, _count(kind, name, value))
            for name, value in sorted(options.items())
            if name not in ("arch", "num-cores")
        ]
        put(self, "_limits", tuple(limits))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Target cannot be changed ({name}); make a new one")

    # ------------------------------------------------------------------------- what it offers
    @property
    def vector_bytes(self) -> int:
        """Bytes of the widest vector register (64 with AVX-512, 32 with AVX, 16 otherwise)."""
        return self._vectors().bytes

    @property
    def num_vector_registers(self) -> int:
        """How many vector registers a kernel has."""
        return self._vectors().registers

    def _vectors(self) -> host.VectorUnit:
        if self.kind == "hexagon":
            return _HEXAGON_VECTORS
        if self.kind != "llvm":
            raise TargetError(f"vector registers are a property of llvm targets, not of {self}")
        return host.vector_unit(self.mcpu, self.mattr)

    @property
    def cache_bytes(self) -> tuple[int, int, int]:
        """Bytes of the first (data), second and third cache of a CPU: this machine's, and for
        another processor those of a common one."""
        return host.cache_bytes() if self.mcpu == host.cpu_name() else (32 << 10, 1 << 20, 32 << 20)

    @property
    def limits(self) -> GpuLimits:
        """What the GPU offers, as the architecture says and this target's options change it.

        Raises:
            TargetError: not a cuda target; an architecture, or a warp size, that is not known.
        """
        if self.kind != "cuda":
            raise TargetError(f"limits of a GPU are a property of cuda targets, not of {self}")
        limits = limits_of(self.arch)
        chosen = dict(self._limits)
        warp = chosen.get("thread-warp-size", limits.warp)
        if warp != limits.warp:
            raise TargetError(
                f"target option 'thread-warp-size' is {warp}, and warps of {self.arch} have "
                f"{limits.warp} threads"
            )
        shared = chosen.get("max-shared-memory-per-block", limits.shared_per_block)
        return replace(
            limits,
            shared_per_block=shared,
            shared_static=min(shared, limits.shared_static),
            threads_per_block=chosen.get("max-threads-per-block", limits.threads_per_block),
        )

    @property
    def max_threads_per_block(self) -> int:
        """Of a GPU: the most threads of a block (see `limits`)."""
        return self.limits.threads_per_block

    @property
    def max_shared_memory_per_block(self) -> int:
        """Of a GPU: the most bytes of shared memory of a block."""
        return self.limits.shared_per_block

    @property
    def registers_per_block(self) -> int:
        """Of a GPU: the most registers of a block."""
        return self.limits.registers_per_block

    @property
    def thread_warp_size(self) -> int:
        """Of a GPU: how many threads execute together."""
        return self.limits.warp

    @property
    def vtcm_capacity(self) -> int:
        """Bytes of vector memory of a hexagon target; 0: no limit, or no such memory."""
        return dict(self._limits).get("vtcm-capacity", 0)

    @property
    def device_key(self) -> str:
        """The class of machine on which this target runs; equal keys may share measurements."""
        if self.kind == "llvm":
            return host.device_key()
        return f"cuda/{self.arch}" if self.kind == "cuda" else self.kind

    @property
    def attrs(self) -> dict[str, Any]:
        """The options, defaults filled in: `export()` without the kind."""
        return {k: v for k, v in self.export().items() if k != "kind"}

    # ------------------------------------------------------------------------- written down
    def export(self) -> dict[str, Any]:
        """All there is, as JSON-able values with sorted keys; `Target(t.export()) == t`."""
        out: dict[str, Any] = {"kind": self.kind}
        if self.kind == "llvm":
            out |= {"mattr": self.mattr, "mcpu": self.mcpu, "num-cores": self.num_cores}
        elif self.kind == "hexagon":
            out |= {"num-cores": self.num_cores, **dict(self._limits)}
        else:
            out |= {"arch": self.arch, **dict(self._limits)}
        return dict(sorted(out.items()))

    def __str__(self) -> str:
        """Short: what this machine implies is left out. Parses back to an equal Target here."""
        if self.kind != "llvm":
            own = f"-arch={self.arch}" if self.kind == "cuda" else f"-num-cores={self.num_cores}"
            return " ".join([self.kind, own, *(f"-{k}={v}" for k, v in self._limits)])
        parts = ["llvm", f"-num-cores={self.num_cores}"]
        native = self.mcpu == host.cpu_name()
        if not native:
            parts.append(f"-mcpu={self.mcpu}")
        implied = host.feature_string() if native else ""
        if self.mattr != implied:
            own = self.mattr[len(implied) :].lstrip(",")
            whole = not self.mattr.startswith(implied)
            # A feature list of another machine with this processor's name is written whole.
            parts.append(f"-mcpu={self.mcpu} -mattr={self.mattr}" if whole else f"-mattr={own}")
        return " ".join(parts)

    def __repr__(self) -> str:
        return f'Target("{self}")'

    def _content(self) -> tuple[Any, ...]:
        return (self.kind, self.mcpu, self.mattr, self.num_cores, self.arch, self._limits)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (self.export(),))

    # ------------------------------------------------------------------------- the current one
    def __enter__(self) -> Target:
        _stack.set((*_stack.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        _stack.set(_stack.get()[:-1])

    @staticmethod
    def current(allow_none: bool = True) -> Target | None:
        """The target of the innermost `with`; without one None, or TargetError if not allowed."""
        stack = _stack.get()
        if stack:
            return stack[-1]
        if allow_none:
            return None
        raise TargetError("there is no current target", hint='use: with Target("llvm"): ...')


def _restore(exported: dict[str, Any]) -> Target:
    return Target(exported, trusted=True)


# ----------------------------------------------------------------------------- parsing
def _parse_text(text: str) -> tuple[str, dict[str, Any]]:
    try:
        words = shlex.split(text)
    except ValueError as e:
        raise TargetError(f"target {text!r} cannot be read: {e}") from None
    if not words:
        raise TargetError("the target is empty", hint='for example "llvm" or "cuda"')
    kind, base = _named(words[0])
    options: dict[str, Any] = {}
    at = 1
    while at < len(words):
        word = words[at]
        at += 1
        dashes = len(word) - len(word.lstrip("-"))
        if dashes not in (1, 2):
            raise TargetError(
                f"target {text!r}: expected an option such as -num-cores=4, found {word!r}"
            )
        name, equals, value = word.lstrip("-").partition("=")
        if not equals:
            if at == len(words):
                raise TargetError(
                    f"target {text!r}: option {word} needs a value", hint=f"{word}=VALUE"
                )
            value = words[at]
            at += 1
        _add(options, kind, name, value)
    return kind, {**base, **options}


def _parse_dict(spec: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    named = spec.get("kind", spec.get("tag"))
    if named is None:
        raise TargetError(
            f"a target dict needs a kind, found the keys {', '.join(map(str, spec)) or 'none'}",
            hint='{"kind": "llvm", "num-cores": 4}',
        )
    if not isinstance(named, str):
        raise TargetError(f"the kind of a target is a string, not {named!r}")
    kind, base = _named(named)
    options: dict[str, Any] = {}
    for name, value in spec.items():
        if name != "kind":
            _add(options, kind, str(name), value)
    return kind, {**base, **options}


def _named(name: str) -> tuple[str, dict[str, Any]]:
    """The kind, and the options of a tag, which others may replace."""
    if "/" in name:
        return tagged(name)
    known = (*OPTIONS, "auto")
    if name not in known:
        tags = holding(name)  # of a device, without its maker
        hint = f"did you mean {' or '.join(tags)}?" if tags else _close(name, known)
        raise TargetError(f"unknown target kind {name!r}", hint=hint)
    return name, {}


def _add(options: dict[str, Any], kind: str, name: str, value: Any) -> None:
    canonical = name.replace("_", "-")
    if canonical in IGNORED:
        return
    known = OPTIONS.get(kind, ())
    if canonical not in known:
        where = f"target kind {kind!r}"
        if not known:
            raise TargetError(f"{where} takes no options, found {name!r}")
        raise TargetError(f"{where} has no option {name!r}", hint=_close(canonical, known))
    if canonical in options:
        raise TargetError(f"target option {name!r} is given twice")
    options[canonical] = value


def _close(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"known are: {shown}"


# ----------------------------------------------------------------------------- values
def _count(kind: str, name: str, value: Any) -> int:
    if value is None:
        return host.usable_cores()
    number = value
    if isinstance(value, str) and re.fullmatch(r"[0-9]+", value):
        number = int(value)
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise TargetError(
            f"target option {name!r} of {kind} must be a positive whole number, found {value!r}"
        )
    return number


def _processor(mcpu: Any, mattr: Any, trusted: bool) -> tuple[str, str]:
    """Processor name and feature string, checked against what LLVM knows."""
    if mcpu is not None and (not isinstance(mcpu, str) or not mcpu):
        raise TargetError(f"target option 'mcpu' must be a processor name, found {mcpu!r}")
    changes = _features(mattr)
    native = mcpu in (None, "native", host.cpu_name())
    name = host.cpu_name() if native else str(mcpu)
    if not trusted:
        if not native and name not in host.llvm_names()[0]:
            raise TargetError(
                f"target option 'mcpu': LLVM knows no processor {name!r}",
                hint=_close(name, host.llvm_names()[0]),
            )
        for change in changes:
            _check_feature(change[1:])
    text = ",".join(changes)
    if not native or (mcpu is not None and _is_whole(changes)):
        return name, text
    return name, ",".join(filter(None, (host.feature_string(), text)))


def _is_whole(changes: list[str]) -> bool:
    """Does the list speak of every feature, as an exported one does? Then it is the whole truth."""
    return len(changes) >= len(host.features())


def _features(mattr: Any) -> list[str]:
    """ "+avx2,-avx512f" or a list of such words, as a list."""
    if mattr is None or mattr == "":
        return []
    words = mattr.split(",") if isinstance(mattr, str) else mattr
    if not isinstance(words, list | tuple):
        raise TargetError(f"target option 'mattr' must be a string or a list, found {mattr!r}")
    out = []
    for word in words:
        if not isinstance(word, str) or not re.fullmatch(r"[+-][A-Za-z0-9._-]+", word.strip()):
            raise TargetError(
                f"target option 'mattr': each feature starts with + or -, found {word!r}",
                hint="-mattr=+avx2,-avx512f",
            )
        out.append(word.strip())
    return out


def _check_feature(name: str) -> None:
    if name in host.features() or name in host.llvm_names()[1]:
        return
    raise TargetError(
        f"target option 'mattr': LLVM knows no feature {name!r}",
        hint=_close(name, host.llvm_names()[1]),
    )


def _arch(value: Any) -> str:
    if value is None:
        return host.cuda_arch()
    if not isinstance(value, str) or not re.fullmatch(r"sm_[0-9]{2,3}[af]?", value):
        raise TargetError(f"target option 'arch' must look like sm_90 or sm_90a, found {value!r}")
    return value


# ----------------------------------------------------------------------------- auto
@cache
def _choose() -> str:
    """The kind that "auto" stands for; prints why, once a process."""
    problem = host.cuda_problem()
    if problem is None:
        print("gputune: target auto is cuda: driver, CuPy and NVRTC work", file=sys.stderr)
        return "cuda"
    print(f"gputune: target auto is llvm: {problem}", file=sys.stderr)
    return "llvm"
