"""What does a compiled kernel use? Registers, stack, shared memory, instructions, from the cubin.

No tool and no GPU are needed: a cubin is an ELF file, its `.nv.info` sections hold attributes, and
each instruction is 16 bytes (since sm_70) with the operation in the lowest 9 bits.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from ...errors import BuildError

_RESERVED = 1024
"""Bytes of shared memory that the system keeps in each block from sm_90 on, and that a cubin counts
in the kernel's own section there."""

# The lowest nine bits of an instruction; the three above tell the kinds of its operands.
_OPERATIONS = """
    ACQBULK:02e ARRIVES:1b0 ATOM:18a,18b,1a2 ATOMG:1a3,1a8,1a9 ATOMS:18c,18d B2R:11c BAR:11d
    BMMA:03d BMOV:155,156 BPT:15c BRA:147 BREAK:142 BREV:101 BRX:149 BSSY:145 BSYNC:141
    CALL:143,144 CCTL:18f CREDUX:0cc CS2R:005 DADD:029 DEPBAR:11a DFMA:02b DMMA:03f DMUL:028
    DSETP:02a ELECT:02f ENDCOLLECTIVE:11b ERRBAR:1ab EXIT:14d F2F:104,110 F2FP:03e F2I:105,111
    FADD:021 FADD2:04b FCHK:102 FENCE:1c6 FFMA:023 FFMA2:049 FLO:100 FMNMX:009 FMNMX3:076
    FMUL:020 FMUL2:04a FRND:107,113 FSEL:008 FSET:00a FSETP:00b HADD2:030 HFMA2:031,035
    HGMMA:1f0 HMMA:03c HMNMX2:040 HMUL2:032 HSET2:033 HSETP2:034 I2F:106,112 I2FP:045 IABS:013
    IADD3:010 IDP:026 IGMMA:1f1 IMAD:024,025,027 IMMA:037 IMNMX:017 ISETP:00c LD:180 LDC:182
    LDCU:1ac LDG:17e,181 LDGDEPBAR:1af LDGSTS:1ae LDL:183 LDS:184 LDSM:03b LDTM:1ee LEA:011
    LEPC:14e LOP3:012 MATCH:1a1 MEMBAR:192 MOV:002 MOVM:03a MUFU:108 NANOSLEEP:15d NOP:118
    PLOP3:01c POPC:109 PREEXIT:02d PRMT:016 QGMMA:1f3 QMMA:07a QSPC:1aa R2P:004 R2UR:0ca,1c2
    RED:18e,1a6 REDAS:1be REDUX:1c4 RET:150 S2R:119 S2UR:1c3 SEL:007 SGXT:01a SHF:019 SHFL:189
    ST:185 STAS:1bd STG:17f,186 STL:187 STS:188 STSM:044 SULD:199 SUST:19d SYNCS:1a7,1b2 TEX:160
    UBLKCP:1ba UBLKPF:1bc UBLKRED:1bb UBREV:0be UCGABAR:1c7 UFLO:0bd UIADD3:090 UIMAD:0a4,0a5
    UISETP:08c ULDC:0b9 ULEA:091 ULOP3:092 UMOV:082 UPOPC:0bf UPRMT:096 USEL:087 USHF:099
    UTCATOMSWS:1e3 UTCBAR:1e9 UTCHMMA:1ea UTMACMDFLUSH:1b7 UTMALDG:1b4 UVIRTCOUNT:04c
    VABSDIFF:014 VABSDIFF4:015 VIADD:036 VIADDMNMX:046 VIMNMX:048 VIMNMX3:00f VOTE:006 VOTEU:086
    WARPGROUP:1c5 WARPSYNC:148 YIELD:146
"""
_MNEMONICS = {
    int(code, 16): name
    for name, _, codes in (word.partition(":") for word in _OPERATIONS.split())
    for code in codes.split(",")
}
_IADD = 0x035
"""Two-operand integer addition from sm_100 on; before, an HFMA2."""

# attributes of .nv.info: with one value of two bytes, or with bytes of their own
_SIZED = 4
_MAX_THREADS, _REQUIRED_THREADS, _FRAME, _REGISTERS, _BARRIERS = 0x05, 0x10, 0x11, 0x2F, 0x4C
_FUNCTION, _ENTRY, _NOBITS = 2, 0x10, 8
_SILENT = (
    ".debug", ".nv_debug", ".rel.debug", ".rela.debug", ".note", ".shstrtab", ".strtab", ".symtab",
)  # fmt: skip
"""Sections, by how their names begin, that change nothing of what a kernel does."""


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """What a kernel uses, as compiled.

    Attributes:
        registers: of 32 bits, a thread.
        stack_bytes: local memory of a thread: spilled registers, arrays that found no registers,
            and frames of calls.
        spill_loads: instructions that load from local memory.
        spill_stores: instructions that store to local memory.
        shared_bytes: static shared memory of a block, without the 1 KiB that the system keeps in
            each block from sm_80 on (cubins for sm_90 and later, and cuobjdump, count it).
        barriers: named barriers of a block.
        max_threads: of a block, as `__launch_bounds__` promises; None: it does not.
        instructions: those that can execute; padding is not counted.
        mix: how many of them by mnemonic, such as {"FFMA": 64, "LDG": 4}; operations that have no
            name here are "0x1e5" and the like.
        code_bytes: of its machine code, padding and all.
    """

    registers: int
    stack_bytes: int
    spill_loads: int
    spill_stores: int
    shared_bytes: int
    barriers: int
    max_threads: int | None
    instructions: int
    mix: dict[str, int]
    code_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int


def read_cubin(cubin: bytes) -> dict[str, KernelFacts]:
    """The facts of every kernel in a cubin, by the kernel's name.

    Raises:
        BuildError: these bytes are no cubin, or a damaged one, or for a GPU older than sm_70.
    """
    try:
        return _read(cubin)
    except (struct.error, ValueError, IndexError) as e:
        raise BuildError(
            f"{len(cubin)} bytes are not a readable cubin: {e}",
            hint="a cubin is what NVRTC, nvcc -cubin and ptxas make for one architecture",
            code="cubin",
        ) from None


def code_digest(cubin: bytes) -> str:
    """A digest of what a cubin makes the GPU do: machine code, constants, and what a launch is told
    of each kernel. Cubins that differ in nothing but names of files and lines have the same one.

    Raises:
        BuildError: as of `read_cubin`.
    """
    digest = blake2b(digest_size=16)
    try:
        digest.update(b"sm_%d\0" % _architecture(cubin))
        for s in _sections(cubin):
            if s.name.startswith(_SILENT):
                continue
            data = _data(cubin, s)
            digest.update(f"{s.name}\0{s.type} {s.flags} {s.size} {len(data)}\0".encode() + data)
    except (struct.error, ValueError, IndexError) as e:
        raise BuildError(
            f"{len(cubin)} bytes are not a readable cubin: {e}", code="cubin"
        ) from None
    return digest.hexdigest()


_ACCESSES = ("LDG", "STG", "LDS", "STS", "LDL", "STL", "LD", "ST")
_WIDTHS = {0: 8, 1: 8, 2: 16, 3: 16, 4: 32, 5: 64, 6: 128}
"""Of an access, by three of its bits."""


def read_accesses(cubin: bytes) -> dict[str, dict[str, int]]:
    """How wide the accesses of every kernel in a cubin are: of each kernel, how many instructions
    there are by mnemonic and bits, such as {"LDG.128": 2, "STG.32": 1}.

    Raises:
        BuildError: these bytes are no cubin, or a damaged one.
    """
    try:
        sections = _sections(cubin)
        named = {s.name: s for s in sections}
        names = [name for name, is_kernel in _symbols(cubin, sections) if is_kernel]
        return {n: _accesses(_data(cubin, named[f".text.{n}"])) for n in names}
    except (struct.error, ValueError, IndexError, KeyError) as e:
        raise BuildError(
            f"{len(cubin)} bytes are not a readable cubin: {e}", code="cubin"
        ) from None


def _accesses(code: bytes) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for low, size in struct.iter_unpack("<H7xB6x", code[: len(code) // 16 * 16]):
        name = _MNEMONICS.get(low & 0x1FF, "")
        if name in _ACCESSES and low >> 12 != 0xF:
            counts[f"{name}.{_WIDTHS.get(size >> 1 & 7, 0)}"] += 1
    return dict(counts)


def _read(cubin: bytes) -> dict[str, KernelFacts]:
    arch = _architecture(cubin)
    if arch < 70:
        raise ValueError(f"it is for sm_{arch}, and sm_70 is the oldest that can be read")
    sections = _sections(cubin)
    named = {s.name: s for s in sections}
    symbols = _symbols(cubin, sections)
    shared_info: dict[int, dict[int, int]] = {}  # symbol -> attribute -> value
    if ".nv.info" in named:
        for attribute, value in _attributes(_data(cubin, named[".nv.info"])):
            if isinstance(value, bytes) and len(value) == 8:
                symbol, number = struct.unpack("<II", value)
                shared_info.setdefault(symbol, {})[attribute] = number
    facts = {}
    for index, (name, is_kernel) in enumerate(symbols):
        code = named.get(f".text.{name}")
        if is_kernel and code is not None:
            own = dict[int, int | bytes](shared_info.get(index, {}))
            if f".nv.info.{name}" in named:
                for attribute, value in _attributes(_data(cubin, named[f".nv.info.{name}"])):
                    own.setdefault(attribute, value)
            shared = named.get(f".nv.shared.{name}")
            facts[name] = _facts(_data(cubin, code), code, own, shared, arch)
    return facts


def _facts(
    code: bytes,
    section: _Section,
    attributes: dict[int, int | bytes],
    shared: _Section | None,
    arch: int,
) -> KernelFacts:
    mix = _mix(code, arch)
    shared_bytes = 0 if shared is None else shared.size
    if arch >= 90 and shared_bytes:
        shared_bytes = max(0, shared_bytes - _RESERVED)
    return KernelFacts(
        registers=_number(attributes, _REGISTERS),
        stack_bytes=_number(attributes, _FRAME),
        spill_loads=mix.get("LDL", 0),
        spill_stores=mix.get("STL", 0),
        shared_bytes=shared_bytes,
        # before CUDA 13 they stood in the section's flags
        barriers=_number(attributes, _BARRIERS) or section.flags >> 20 & 0x7F,
        max_threads=_threads(attributes),
        instructions=sum(mix.values()),
        mix=mix,
        code_bytes=len(code),
    )


def _number(attributes: dict[int, int | bytes], key: int) -> int:
    value = attributes.get(key, 0)
    if isinstance(value, int):
        return value
    return int.from_bytes(value[-4:], "little")


def _threads(attributes: dict[int, int | bytes]) -> int | None:
    value = attributes.get(_REQUIRED_THREADS, attributes.get(_MAX_THREADS))
    if not isinstance(value, bytes) or len(value) != 12:
        return None
    x, y, z = struct.unpack("<III", value)
    return int(x * y * z)


def _mix(code: bytes, arch: int) -> dict[str, int]:
    """Instructions by mnemonic, most frequent first."""
    words = struct.unpack(f"<{len(code) // 2}H", code[: len(code) // 2 * 2])[::8]
    # bits 12 to 15 are the predicate: 15 is "not true", an instruction that never executes
    counts = Counter(w & 0x1FF for w in words if w >> 12 != 0xF)
    names: Counter[str] = Counter()
    for operation, count in counts.items():
        name = _MNEMONICS.get(operation, f"0x{operation:03x}")
        names["IADD" if operation == _IADD and arch >= 100 else name] += count
    del names["NOP"]
    return dict(sorted(names.items(), key=lambda item: (-item[1], item[0])))


# ----------------------------------------------------------------------------- ELF
def _architecture(cubin: bytes) -> int:
    """90 for sm_90; ValueError if it is no cubin of a form that is known here."""
    if cubin[:6] != b"\x7fELF\x02\x01":
        raise ValueError("it does not start as a little-endian ELF file of 64 bits")
    (machine,) = struct.unpack_from("<H", cubin, 0x12)
    if machine != 190:
        raise ValueError(f"it is for the machine {machine}, and NVIDIA's GPUs are 190")
    (flags,) = struct.unpack_from("<I", cubin, 0x30)
    new_form = cubin[8] >= 8  # CUDA 13 moved the architecture one byte up
    return int(flags >> 8 & 0xFF if new_form else flags & 0xFF)


def _sections(cubin: bytes) -> list[_Section]:
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    entry, count, names_at = struct.unpack_from("<HHH", cubin, 0x3A)
    if entry != 64:
        raise ValueError(f"its section headers have {entry} bytes each, not 64")
    headers = [struct.unpack_from("<IIQQQQI", cubin, table + i * entry) for i in range(count)]
    names = headers[names_at][4]
    return [
        _Section(_text(cubin, names + name), kind, flags, offset, size, link)
        for name, kind, flags, _, offset, size, link in headers
    ]


def _data(cubin: bytes, section: _Section) -> bytes:
    if section.type == _NOBITS:
        return b""
    end = section.offset + section.size
    if end > len(cubin):
        raise ValueError(f"its section {section.name} ends at byte {end}, beyond the file's end")
    return cubin[section.offset : end]


def _text(cubin: bytes, at: int) -> str:
    if not 0 <= at < len(cubin):
        raise ValueError(f"a name of it starts at byte {at}, beyond the file's end")
    return cubin[at : cubin.index(b"\0", at)].decode()


def _symbols(cubin: bytes, sections: list[_Section]) -> list[tuple[str, bool]]:
    """The name of each symbol, and whether it is a kernel."""
    out = []
    for table in sections:
        if table.name == ".symtab":
            names = sections[table.link].offset
            for at in range(0, len(_data(cubin, table)) // 24 * 24, 24):
                name, info, other = struct.unpack_from("<IBB", cubin, table.offset + at)
                is_kernel = info & 0xF == _FUNCTION and bool(other & _ENTRY)
                out.append((_text(cubin, names + name) if is_kernel else "", is_kernel))
            return out
    raise ValueError("it has no symbols")


def _attributes(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The attributes of an `.nv.info` section: a number, or bytes whose form the key implies."""
    at = 0
    while at + 4 <= len(data):
        form, key, number = struct.unpack_from("<BBH", data, at)
        at += 4
        if form != _SIZED:
            yield key, number
            continue
        if at + number > len(data):
            raise ValueError(f"the attribute {key:#x} of it ends beyond its section's end")
        yield key, data[at : at + number]
        at += number
