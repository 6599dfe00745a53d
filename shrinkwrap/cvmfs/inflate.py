"""Bounded inflation of zlib streams, at library speed (FORMAT.md §3).

ISA-L inflates an average object in about half the time of stock zlib, which does where its wheel is missing.
"""

from __future__ import annotations

import zlib
from typing import Any, Final, Protocol

from shrinkwrap.errors import CorruptObject

_zlib: Any = zlib
_errors: tuple[type[Exception], ...] = (zlib.error,)
try:
    from isal import isal_zlib
except ImportError:  # no wheel for this platform
    #: Name of the library in use, for the run log.
    LIBRARY = "zlib"
else:
    LIBRARY = "isal"
    _zlib = isal_zlib
    _errors = (zlib.error, _zlib.error)


class Inflater(Protocol):
    """The streaming interface of zlib and isal."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: bytes | memoryview, max_length: int = 0, /) -> bytes: ...


def new_inflater() -> Inflater:
    inflater: Inflater = _zlib.decompressobj()
    return inflater


def inflate(data: bytes | memoryview, limit: int) -> bytes:
    """Inflate one complete zlib stream.

    Args:
        data: the whole stream; nothing may follow it.
        limit: the largest number of bytes that may come out.

    Raises:
        CorruptObject: broken, cut short, followed by other bytes, or larger than ``limit``.
    """
    inflater = new_inflater()
    try:
        # One byte more than allowed tells a stream that ends at the limit from one that goes on.
        out = inflater.decompress(data, limit + 1)
    except _errors as exc:
        raise CorruptObject(f"not a valid zlib stream: {exc}") from None
    if len(out) > limit:
        raise CorruptObject(f"inflates to more than the {limit} bytes that are allowed")
    if not inflater.eof:
        # max_length may stop the library just before it sees the end of the stream.
        try:
            rest = inflater.decompress(inflater.unconsumed_tail, 1)
        except _errors as exc:
            raise CorruptObject(f"not a valid zlib stream: {exc}") from None
        if rest:
            raise CorruptObject(f"inflates to more than the {limit} bytes that are allowed")
        if not inflater.eof:
            raise CorruptObject("the zlib stream is cut short")
    if inflater.unused_data:
        raise CorruptObject(f"{len(inflater.unused_data)} bytes follow the zlib stream")
    return out


class StreamInflater:
    """Inflates a stream piece by piece, in bounded steps, and never more than ``limit`` bytes in all."""

    __slots__ = ("_inflater", "_left", "_limit")
    STEP: Final = 1 << 20

    def __init__(self, limit: int) -> None:
        self._inflater = new_inflater()
        self._limit = limit
        self._left = limit

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """The pieces that ``data`` inflates to, each of at most :attr:`STEP` bytes.

        Raises:
            CorruptObject: broken, followed by other bytes, or beyond the limit.
        """
        out: list[bytes] = []
        pending: bytes | memoryview = data
        while len(pending):
            if self._inflater.eof:
                raise CorruptObject("bytes follow the zlib stream")
            try:
                piece = self._inflater.decompress(pending, min(self.STEP, self._left + 1))
            except _errors as exc:
                raise CorruptObject(f"not a valid zlib stream: {exc}") from None
            self._left -= len(piece)
            if self._left < 0:
                raise CorruptObject(f"inflates to more than the {self._limit} bytes that are allowed")
            if piece:
                out.append(piece)
            if self._inflater.unused_data:
                raise CorruptObject("bytes follow the zlib stream")
            tail = self._inflater.unconsumed_tail
            if not piece and len(tail) == len(pending):
                break
            pending = tail
        return out

    def finish(self) -> list[bytes]:
        """The last pieces; raises CorruptObject if the stream has not ended."""
        out: list[bytes] = []
        while not self._inflater.eof:
            try:
                piece = self._inflater.decompress(b"", min(self.STEP, self._left + 1))
            except _errors as exc:
                raise CorruptObject(f"not a valid zlib stream: {exc}") from None
            if not piece:
                break
            self._left -= len(piece)
            if self._left < 0:
                raise CorruptObject(f"inflates to more than the {self._limit} bytes that are allowed")
            out.append(piece)
        if not self._inflater.eof:
            raise CorruptObject("the zlib stream is cut short")
        return out
