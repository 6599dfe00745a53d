"""What an ELF file asks of the loader: its interpreter, its libraries, where it looks for them."""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from itertools import islice
from typing import IO, Final, cast

from shrinkwrap.errors import CorruptObject

MAGIC: Final = b"\x7fELF"
#: What is read of one file. The headers of real ones come to some kB, their library names too.
_BYTES: Final = 4 << 20
_READS: Final = 60_000
_SEGMENTS: Final = 512
_TAGS: Final = 4096
#: Names of the machine, as ``$PLATFORM`` and folders of libraries have them.
_MACHINES: Final = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64", "EM_386": "i686", "EM_PPC64": "powerpc64le"}


@dataclass(frozen=True, slots=True)
class Elf:
    """What is asked for.

    Attributes:
        interpreter: the loader (``PT_INTERP``); empty: a library, or linked statically.
        needed: libraries (``DT_NEEDED``), in order.
        rpath: directories that are searched for the libraries of this file and of those (``DT_RPATH``); none if
            ``runpath`` is given, as the loader has it.
        runpath: directories for the libraries of this file alone (``DT_RUNPATH``).
        machine: as in ``$PLATFORM``.
    """

    interpreter: bytes = b""
    needed: tuple[bytes, ...] = ()
    rpath: tuple[bytes, ...] = ()
    runpath: tuple[bytes, ...] = ()
    machine: str = ""


class _Bounded(io.RawIOBase):
    """A file of which only so much is read: whatever a crafted header says, reading ends soon."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._reads = _READS
        self._bytes = _BYTES

    def read(self, size: int = -1, /) -> bytes:
        self._reads -= 1
        if self._reads < 0 or not 0 <= size <= self._bytes:
            raise ValueError("its headers ask for too much")
        self._bytes -= size
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def read_elf(file: IO[bytes]) -> Elf:
    """Read the headers of a file that begins with :data:`MAGIC`.

    Raises:
        CorruptObject: it is no sound ELF file. What it asks for is not known then.
    """
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError

    try:
        return _read(file)
    except (
        ELFError,
        ConstructError,
        # What a library for trusted files may meet in others.
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    ) as exc:
        raise CorruptObject(f"not a sound ELF file: {str(exc) or type(exc).__name__:.200}") from None


def _read(file: IO[bytes]) -> Elf:
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import InterpSegment

    file.seek(0)
    with _Bounded(file) as bounded:
        elf = ELFFile(cast(IO[bytes], bounded))
        # The loader knows segments only; sections may be stripped, or say something else.
        elf.header["e_shoff"] = 0
        elf.header["e_shnum"] = 0
        interpreter = b""
        needed: list[bytes] = []
        rpath: list[bytes] = []
        runpath: list[bytes] = []
        for segment in islice(elf.iter_segments(), _SEGMENTS):
            if isinstance(segment, InterpSegment):
                interpreter = os.fsencode(segment.get_interp_name())
            elif isinstance(segment, DynamicSegment):
                for tag in islice(segment.iter_tags(), _TAGS):
                    kind = tag.entry.d_tag
                    if kind == "DT_NEEDED":
                        needed.append(_text(tag, "needed"))
                    elif kind == "DT_RPATH":
                        rpath += _folders(_text(tag, "rpath"))
                    elif kind == "DT_RUNPATH":
                        runpath += _folders(_text(tag, "runpath"))
        machine = _MACHINES.get(str(elf.header["e_machine"]), "")
    return Elf(interpreter, tuple(dict.fromkeys(needed)), () if runpath else tuple(rpath), tuple(runpath), machine)


def _text(tag: object, name: str) -> bytes:
    value = os.fsencode(getattr(tag, name))
    if not value or b"\0" in value or len(value) > 1 << 16:
        raise ValueError(f"an odd {name}")
    return value


def _folders(text: bytes) -> list[bytes]:
    return [folder for folder in text.split(b":") if folder]


def folders_of(paths: tuple[bytes, ...], origin: bytes, machine: str) -> list[bytes]:
    """The directories of a RPATH or RUNPATH, tokens replaced; those that are not absolute are left out.

    Args:
        origin: the directory of the file, ``$ORIGIN``.
        machine: for ``$PLATFORM``.
    """
    found: list[bytes] = []
    for path in paths:
        path = path.replace(b"${ORIGIN}", origin).replace(b"$ORIGIN", origin)
        path = path.replace(b"${PLATFORM}", machine.encode()).replace(b"$PLATFORM", machine.encode())
        # What $LIB stands for is built into each loader.
        libs = (b"lib64", b"lib", b"lib/%s-linux-gnu" % machine.encode())
        for lib in libs if b"$LIB" in path or b"${LIB}" in path else (b"",):
            one = path.replace(b"${LIB}", lib).replace(b"$LIB", lib)
            if one.startswith(b"/") and len(one) < 4096:
                found.append(one)
    return found
