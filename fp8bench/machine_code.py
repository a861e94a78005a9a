"""What is in compiled code: the kernels of a CUDA library or cubin and the host code of objects, each as a hash.

Two builds of a kernel whose hashes agree run the same instructions. What surrounds them in a file (the names of other
kernels, line numbers, where the file was compiled) does not count. Files that are laid out otherwise than is known here
give nothing, which is equal to nothing.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_ELF_MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little endian
_ELF_HEADER = struct.Struct("<40xQ10xHHH")  # of the section headers: offset, size, count; number of their names
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NO_BITS = 8  # type of a section without content in the file
_ALLOCATED = 0x2  # flag of a section that is there when the code runs

# A fat binary, as nvcc embeds it: a header, then entries of a header and a payload each.
_FAT_MAGIC = 0xBA55ED50
_FAT_HEADER = struct.Struct("<IHHQ")  # magic, version, bytes of the header, bytes of all entries
_FAT_ENTRY = struct.Struct("<HHIQ12xI")  # kind, version, bytes of the header, bytes of the payload; XX of sm_XX
_INSTRUCTION_BYTES = 16  # since sm_70
_FAT_CODE = 2  # kind of an entry that is a cubin


_SYMBOL = struct.Struct("<I2xHQ8x")  # name, section (0: of another object), place there
_RELOCATION = struct.Struct("<QIIq")  # place, kind, symbol, addend
_RELOCATIONS = 4  # type of a section of relocations


class Section(NamedTuple):
    """A section of an ELF file; `content` is empty where the file holds none."""

    name: str
    size: int
    flags: int
    content: bytes
    kind: int = 0
    link: int = 0  # number of the section with the symbols of relocations, or with the names of symbols
    about: int = 0  # number of the section that relocations are for


def sections(elf: bytes) -> Iterator[Section]:
    """The sections of a 64-bit ELF file; none of anything else, or of a file that is cut off."""
    if not elf.startswith(_ELF_MAGIC):
        return
    try:
        offset, width, count, names = _ELF_HEADER.unpack_from(elf)
        headers = [_SECTION.unpack_from(elf, offset + number * width) for number in range(count)]
        start = headers[names][4]
    except (struct.error, IndexError):
        return
    for name, kind, flags, _, at, size, link, about, *_ in headers:
        end = elf.find(b"\0", start + name)
        content = b"" if kind == _NO_BITS else elf[at : at + size]
        yield Section(elf[start + name : end].decode(errors="replace"), size, flags, content, kind, link, about)


def kernels(cubin: bytes) -> dict[str, str]:
    """Hash of each kernel of a cubin by its (mangled) name: its instructions, constants and shared memory.

    Data that all kernels of the cubin share belongs to each of them.
    """
    found = list(sections(cubin))
    names = [section.name.removeprefix(".text.") for section in found if section.name.startswith(".text.")]
    own = {name: _Digest() for name in names}
    shared = _Digest()
    for section in found:
        kind, name = _split(section.name)
        if kind.startswith(".nv.constant") or (name in own and kind in (".text", ".nv.shared")):
            own.get(name, shared).add(kind, section)
        elif kind.startswith(".nv.global"):
            shared.add(kind, section)
    return {name: own[name].hex(shared.hex()) for name in names}


def _split(section: str) -> tuple[str, str]:
    """(".text", kernel) of ".text.kernel", (".nv.constant2", kernel) of ".nv.constant2.kernel"."""
    words = section.split(".", 3)
    if section.startswith(".text."):
        return ".text", section.removeprefix(".text.")
    return (".".join(words[:3]), words[3]) if len(words) == 4 else (section, "")


class _Digest:
    """A hash of sections, in any order."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, kind: str, section: Section, references: bytes = b"") -> None:
        content = hashlib.sha256(section.content + references).digest()
        self._parts.append(f"{kind}\0{section.size}\0".encode() + content)

    def hex(self, more: str = "") -> str:
        return hashlib.sha256(b"".join([*sorted(self._parts), more.encode()])).hexdigest()


def kernels_of_library(library: bytes) -> dict[str, dict[str, str]]:
    """Hash of each kernel of a CUDA library by architecture (XX of sm_XX) and name.

    Compressed fat binaries are not read, and kernels that several of them define differently are left out.
    """
    found: dict[str, dict[str, str]] = {}
    ambiguous = set()
    for section in sections(library):
        if section.name != ".nv_fatbin":
            continue
        for architecture, cubin in _cubins(section.content):
            known = found.setdefault(architecture, {})
            for name, code in kernels(cubin).items():
                if known.setdefault(name, code) != code:
                    ambiguous.add((architecture, name))
    for architecture, name in ambiguous:
        del found[architecture][name]
    return found


def instructions_of_library(library: bytes) -> dict[str, dict[str, int]]:
    """Instructions of each kernel of a CUDA library by architecture (XX of sm_XX) and name, padding included."""
    found: dict[str, dict[str, int]] = {}
    for section in sections(library):
        for architecture, cubin in _cubins(section.content) if section.name == ".nv_fatbin" else ():
            counted = found.setdefault(architecture, {})
            for text in sections(cubin):
                if text.name.startswith(".text."):
                    counted[text.name.removeprefix(".text.")] = text.size // _INSTRUCTION_BYTES
    return found


def _cubins(fatbin: bytes) -> Iterator[tuple[str, bytes]]:
    """(architecture, cubin) of each entry that is one."""
    position = 0
    while position + _FAT_HEADER.size <= len(fatbin):
        magic, _, header, size = _FAT_HEADER.unpack_from(fatbin, position)
        if magic != _FAT_MAGIC:
            position += 8  # padding
            continue
        yield from _entries(fatbin[position + header : position + header + size])
        position += header + size


def _entries(entries: bytes) -> Iterator[tuple[str, bytes]]:
    position = 0
    while position + _FAT_ENTRY.size <= len(entries):
        kind, _, header, size, architecture = _FAT_ENTRY.unpack_from(entries, position)
        if header < _FAT_ENTRY.size:
            return
        if kind == _FAT_CODE:
            yield str(architecture), entries[position + header : position + header + size]
        position += header + size


def host_code(objects: Iterable[bytes]) -> str:
    """Hash of the host code of object files before they are linked: what decides which kernel is launched, and how.

    Instructions and data, and what they refer to: of a function or table only its relocation says which it is.
    A linked library will not do: where its code lies, and so its bytes, depends on the size of its kernels.
    """
    digests = []
    for content in objects:
        digest, found = _Digest(), list(sections(content))
        for number, section in enumerate(found):
            if _is_host(section):
                digest.add(section.name, section, _references(found, number))
        digests.append(digest.hex())
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _is_host(section: Section) -> bool:
    return bool(section.flags & _ALLOCATED) and "nv" not in section.name.lower()  # what nvcc embeds has it in its name


def _references(found: list[Section], number: int) -> bytes:
    """What the section with this number refers to, and where: of each relocation place, kind, target and addend."""
    told = []
    for section in found:
        if section.kind == _RELOCATIONS and section.about == number:
            for place, kind, symbol, addend in _RELOCATION.iter_unpack(section.content):
                told.append((place, kind, _target(found, found[section.link], symbol), addend))
    return repr(sorted(told)).encode() if told else b""


def _target(found: list[Section], symbols: Section, number: int) -> str:
    """What a symbol stands for: its name where another object has it, else its place in a section of host code.

    Names of this object's own may have a hash of the source in them (nvcc's of anonymous namespaces have), and what
    nvcc embeds lies somewhere else with every kernel.
    """
    name, where, place = _SYMBOL.unpack_from(symbols.content, number * _SYMBOL.size)
    if 0 < where < len(found):
        return f"{found[where].name}+{place if _is_host(found[where]) else 0}"
    names = found[symbols.link].content
    return names[name : names.find(b"\0", name)].decode(errors="replace")
