"""Entries of a stream on disk, to be read again: the data of an image comes before what is known of it."""

from __future__ import annotations

import marshal
import os
from collections.abc import Iterator
from struct import Struct
from typing import IO, Final

from shrinkwrap.errors import ShrinkwrapError
from shrinkwrap.image.entries import ImageEntry

#: Entries that are written together.
_TOGETHER: Final = 512
_LENGTH: Final = Struct("<I")


class Rows:
    """A stream in a file.

    Args:
        file: an empty file for reading and writing; it stays the caller's.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._waiting: list[tuple[object, ...]] = []
        self.count = 0

    def add(self, entry: ImageEntry) -> None:
        """The next entry. Raises OSError."""
        self._waiting.append(tuple(entry))
        self.count += 1
        if len(self._waiting) >= _TOGETHER:
            self._flush()

    def _flush(self) -> None:
        data = marshal.dumps(self._waiting)
        self._file.write(_LENGTH.pack(len(data)) + data)
        self._waiting.clear()

    def __iter__(self) -> Iterator[ImageEntry]:
        """All entries so far. Nothing may be added meanwhile."""
        if self._waiting:
            self._flush()
        self._file.flush()
        fd, at = self._file.fileno(), 0
        while head := os.pread(fd, _LENGTH.size, at):
            (length,) = _LENGTH.unpack(head)
            data = os.pread(fd, length, at + _LENGTH.size)
            if len(data) < length:
                raise ShrinkwrapError("internal error: the file of entries is cut short")
            at += _LENGTH.size + length
            yield from map(ImageEntry._make, marshal.loads(data))  # noqa: S302 - ours
