"""Compressed streams that depend on their input alone: not on times, names, threads or the pieces it comes in.

Other releases of a library may compress otherwise; :func:`compressor` names what did it, for the record of an image.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from struct import Struct
from typing import Final, Protocol

import zstandard

from shrinkwrap.errors import UsageError

NONE: Final = "none"
GZIP: Final = "gzip"
ZSTD: Final = "zstd"
KINDS: Final = (NONE, GZIP, ZSTD)
#: Levels that are taken without being asked for, and the range of those that may be.
DEFAULT_LEVELS: Final = {NONE: 0, GZIP: 6, ZSTD: 3}
_LEVELS: Final = {NONE: range(1), GZIP: range(1, 10), ZSTD: range(1, 20)}

#: Magic, deflate, no flags, no time, no hint, unknown system: zlib's own header would name the system.
_GZIP_HEAD: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_GZIP_TAIL: Final = Struct("<II")

Bytes = bytes | bytearray | memoryview
Write = Callable[[Bytes], object]


class Stream(Protocol):
    """Takes bytes and hands them on in another form; :meth:`close` hands on the rest, and must come last."""

    def write(self, data: Bytes, /) -> None: ...
    def close(self) -> None: ...


def compressing(kind: str, write: Write, *, level: int | None = None, threads: int = 1) -> Stream:
    """A stream that compresses what it is given for ``write``.

    Args:
        kind: one of :data:`KINDS`.
        level: 1 to 9 for gzip, 1 to 19 for zstd; None: see :data:`DEFAULT_LEVELS`.
        threads: for zstd. Their number does not change the output.

    Raises:
        UsageError: there is no such kind or level.
    """
    if kind not in KINDS:
        raise UsageError(f"compression {kind!r}: not known", hint=f"one of {', '.join(KINDS)}")
    if level is None:
        level = DEFAULT_LEVELS[kind]
    if level not in _LEVELS[kind]:
        levels = _LEVELS[kind]
        raise UsageError(f"compression level {level} of {kind}: expected {levels[0]} to {levels[-1]}")
    if kind == GZIP:
        return _Gzip(write, level)
    if kind == ZSTD:
        return _Zstd(write, level, threads)
    return _Plain(write)


def compressor(kind: str) -> str:
    """The library that compresses, with its version."""
    if kind == GZIP:
        return f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
    if kind == ZSTD:
        return f"libzstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}"
    return kind


class _Plain:
    def __init__(self, write: Write) -> None:
        self._write = write

    def write(self, data: Bytes) -> None:
        self._write(data)

    def close(self) -> None:
        pass


class _Gzip:
    def __init__(self, write: Write, level: int) -> None:
        self._write = write
        self._deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._crc = 0
        self._size = 0
        write(_GZIP_HEAD)

    def write(self, data: Bytes) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        if out := self._deflate.compress(data):
            self._write(out)

    def close(self) -> None:
        self._write(self._deflate.flush())
        self._write(_GZIP_TAIL.pack(self._crc, self._size & 0xFFFFFFFF))


class _Zstd:
    def __init__(self, write: Write, level: int, threads: int) -> None:
        self._write = write
        # Without a thread of its own the library cuts the input otherwise; from one on the number is no matter.
        made = zstandard.ZstdCompressor(level=level, threads=max(1, threads), write_checksum=True)
        self._compress = made.compressobj()

    def write(self, data: Bytes) -> None:
        if out := self._compress.compress(data):
            self._write(out)

    def close(self) -> None:
        self._write(self._compress.flush())
