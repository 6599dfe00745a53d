"""Small ELF files with the headers that a loader looks at, and nothing that runs."""

from __future__ import annotations

import struct

_HEADER = 64
_SEGMENT = 56


def make_elf(
    *, interpreter: bytes = b"", needed: tuple[bytes, ...] = (), rpath: bytes = b"", runpath: bytes = b""
) -> bytes:
    """A file for x86-64, little-endian, without sections."""
    strings = bytearray(b"\0")

    def text(value: bytes) -> int:
        at = len(strings)
        strings.extend(value + b"\0")
        return at

    tags = [(1, text(name)) for name in needed]
    tags += [(15, text(rpath))] if rpath else []
    tags += [(29, text(runpath))] if runpath else []
    number = 3 if interpreter else 2
    at_interpreter = _HEADER + number * _SEGMENT
    at_dynamic = at_interpreter + (len(interpreter) + 1 if interpreter else 0)
    length = 16 * (len(tags) + 2)
    at_strings = at_dynamic + length
    tags += [(5, at_strings), (0, 0)]  # DT_STRTAB, DT_NULL
    end = at_strings + len(strings)
    segments = [(1, 0, end), (2, at_dynamic, length)]  # PT_LOAD, PT_DYNAMIC
    if interpreter:
        segments.append((3, at_interpreter, len(interpreter) + 1))
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, _HEADER, 0, 0, 64, 56, number, 64, 0, 0)
    table = b"".join(struct.pack("<IIQQQQQQ", kind, 4, at, at, at, size, size, 1) for kind, at, size in segments)
    dynamic = b"".join(struct.pack("<QQ", tag, value) for tag, value in tags)
    return header + table + (interpreter + b"\0" if interpreter else b"") + dynamic + bytes(strings)
