"""Bytes of an archive, decompressed: which format it is tells its first bytes."""

from __future__ import annotations

import bz2
import lzma
import os
import zlib
from collections.abc import Callable
from typing import Any, Final, Protocol

from shrinkwrap.cvmfs import limits
from shrinkwrap.errors import CorruptObject, UsageError

_STEP: Final = 256 * limits.KIB
#: What a decompressor may need for its window: archives of `xz -9` need 65 MiB, of `zstd --long=27` 128.
_MEMORY: Final = 512 * limits.MIB

_Error: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError, OSError, EOFError)


class ByteStream(Protocol):
    """Something to read from, once and forwards."""

    def read(self, count: int, /) -> bytes:
        """At most ``count`` bytes; none at the end. Raises ShrinkwrapError."""
        ...


class RawStream:
    """A file descriptor.

    Args:
        fd: not closed here.
        name: for messages.
    """

    def __init__(self, fd: int, name: str, head: bytes = b"") -> None:
        self._fd = fd
        self._name = name
        self._head = head

    def read(self, count: int) -> bytes:
        if self._head:
            head, self._head = self._head[:count], self._head[count:]
            return head
        try:
            return os.read(self._fd, count)
        except OSError as exc:
            raise UsageError(f"{self._name}: the source cannot be read: {exc.strerror}") from None


def decompressed(fd: int, name: str) -> tuple[ByteStream, str]:
    """What comes out of a descriptor, decompressed if need be; and the format (``""``, ``gzip``, ``xz``…).

    Nothing of it is lost: the first bytes, which tell the format, come again.
    """
    raw = RawStream(fd, name)
    head = b""
    while len(head) < 6 and (data := raw.read(_STEP)):
        head += data
    again = RawStream(fd, name, head)
    if head.startswith(b"\x1f\x8b"):
        return _Members(again, name, "gzip", _gzip()), "gzip"
    if head.startswith(b"\xfd7zXZ\x00"):
        return _Members(again, name, "xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)), "xz"
    if head.startswith(b"BZh"):
        return _Members(again, name, "bzip2", bz2.BZ2Decompressor), "bzip2"
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return _Zstandard(again, name), "zstd"
    return again, ""


def _gzip() -> Callable[[], Any]:
    try:
        from isal import isal_zlib
    except ImportError:  # no wheel for this platform
        return lambda: _Gzip(zlib.decompressobj(wbits=31), zlib.error)
    return lambda: _Gzip(isal_zlib.decompressobj(wbits=31), isal_zlib.error)


class _Gzip:
    """zlib's object with the interface of those for xz and bzip2."""

    def __init__(self, inner: Any, error: Any) -> None:
        self._inner = inner
        self._error = error
        self._tail = b""

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    @property
    def needs_input(self) -> bool:
        return not self._tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            out: bytes = self._inner.decompress(self._tail + data, max_length)
        except self._error as exc:
            raise zlib.error(str(exc)) from None
        self._tail = self._inner.unconsumed_tail
        return out


class _Members:
    """Compressed streams, one after the other, as the tools of these formats take them."""

    def __init__(self, raw: RawStream, name: str, kind: str, make: Callable[[], Any]) -> None:
        self._raw = raw
        self._name = name
        self._kind = kind
        self._make = make
        self._inner: Any = make()
        self._pending = b""

    def read(self, count: int) -> bytes:
        while True:
            try:
                if self._inner.eof and not self._next_member():
                    return b""
                data = b""
                if self._inner.needs_input:
                    data = self._pending or self._raw.read(_STEP)
                    self._pending = b""
                    if not data:
                        raise CorruptObject(f"{self._name}: the {self._kind} stream is cut short")
                out: bytes = self._inner.decompress(data, count)
            except _Error as exc:
                raise CorruptObject(f"{self._name}: not a valid {self._kind} stream: {exc}") from None
            if out:
                return out

    def _next_member(self) -> bool:
        """Begin with what follows the end of a stream; False if that was the last. Zeros may pad them."""
        rest = self._inner.unused_data or self._raw.read(_STEP)
        rest = rest.lstrip(b"\0")
        while not rest:
            rest = self._raw.read(_STEP)
            if not rest:
                self._inner = _Ended()
                return False
            rest = rest.lstrip(b"\0")
        self._inner = self._make()
        self._pending = rest
        return True


class _Ended:
    """After the last member."""

    eof = True
    unused_data = b""


class _Zstandard:
    def __init__(self, raw: RawStream, name: str) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._name = name
        source: Any = raw
        self._reader = zstandard.ZstdDecompressor(max_window_size=_MEMORY).stream_reader(
            source, read_across_frames=True, read_size=_STEP
        )

    def read(self, count: int) -> bytes:
        try:
            return self._reader.read(count)
        except self._error as exc:
            raise CorruptObject(f"{self._name}: not a valid zstd stream: {exc}") from None
