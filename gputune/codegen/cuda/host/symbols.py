"""Where do the `__shared__` and `__device__` variables of a program lie? Read from its ELF file."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Literal, TypeAlias

_KERNELS = "12_GLOBAL__N_1"  # the unnamed namespace that the text of kernels is put into
_OBJECT = 1
_WRITABLE = 1
_SYMBOL_TABLE = 2


Kind: TypeAlias = Literal["shared", "device", "guard"]


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the kernels that all threads see; a guard is the C++ compiler's own: it tells
    whether a variable with a constructor was initialised."""

    name: str
    address: int
    size: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class _Section:
    name: int
    kind: int
    flags: int
    offset: int
    size: int
    link: int


def variables(elf: bytes) -> tuple[Variable, ...]:
    """The variables in the order of their addresses; ValueError if this is no 64-bit ELF file."""
    if elf[:4] != b"\x7fELF" or elf[4] != 2:
        raise ValueError("not a 64-bit ELF file")
    order = "<" if elf[5] == 1 else ">"
    (table,) = struct.unpack_from(order + "Q", elf, 0x28)
    size, count, names_at = struct.unpack_from(order + "HHH", elf, 0x3A)
    sections = [
        _Section(*struct.unpack_from(order + "IIQ8xQQI", elf, table + i * size))
        for i in range(count)
    ]
    names = sections[names_at]
    found = []
    for section in sections:
        if section.kind != _SYMBOL_TABLE:
            continue
        strings = sections[section.link]
        for at in range(section.offset, section.offset + section.size, 24):
            name_at, info, _, index, address, length = struct.unpack_from(order + "IBBHQQ", elf, at)
            if info & 15 != _OBJECT or not 0 < index < count or not length:
                continue
            home = sections[index]
            name = _text(elf, strings.offset + name_at)
            if not home.flags & _WRITABLE or _KERNELS not in name:
                continue
            kind: Kind = "device"
            if name.startswith("_ZGV"):
                kind = "guard"
            elif _text(elf, names.offset + home.name) == "gt_shared":
                kind = "shared"
            found.append(Variable(_plain(name), address, length, kind))
    return tuple(sorted(found, key=lambda v: v.address))


def _text(elf: bytes, start: int) -> str:
    return elf[start : elf.index(b"\0", start)].decode("utf-8", "replace")


def _plain(mangled: str) -> str:
    """The variable's own name: the last one of a mangled name, which writes <length><name>."""
    if mangled.startswith("_ZZ"):  # <function>E<length><name>, and a number where there are several
        for match in reversed(list(re.finditer(r"E(\d+)", mangled))):
            end = match.end() + int(match[1])
            if end <= len(mangled) and re.fullmatch(r"(_\d+_?|__\d+_)?", mangled[end:]):
                return mangled[match.end() : end]
        return mangled
    name, rest = mangled, mangled.partition(_KERNELS)[2]
    while length := re.match(r"L?(\d+)", rest):
        end = length.end() + int(length[1])
        name, rest = rest[length.end() : end], rest[end:]
    return name
