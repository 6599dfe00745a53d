"""Big files on their way to the workers, cut into chunks."""

from __future__ import annotations

import os

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import UsageError
from shrinkwrap.publish.cut import ChunkLimits, cuts
from shrinkwrap.publish.objects import Piece
from shrinkwrap.publish.pool import Workers
from shrinkwrap.publish.source import FileRange, Stream


class Slicer:
    """Cuts one file, reading it once in order; no more than one chunk is held."""

    def __init__(self, content: bytes | FileRange | Stream, size: int, ident: int, path: bytes) -> None:
        self._content = content
        self._size = size
        self._ident = ident
        self._path = path
        self._held = bytearray()
        self._start = 0
        self._fd = -1

    def run(self, sizes: ChunkLimits, workers: Workers) -> None:
        """Hand out all chunks; a file that has only one goes out whole (FORMAT.md §6.6).

        Raises:
            UsageError: the source cannot be read. Others: see :meth:`Workers.add`.
        """
        content = self._content
        try:
            if isinstance(content, FileRange):
                try:
                    self._fd = os.open(content.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
                except OSError as exc:
                    raise self._unreadable(exc) from None
            for end in cuts(self._read, self._size, sizes):
                length = end - self._start
                whole = length == self._size
                workers.add(Piece(self._ident, -1 if whole else self._start, length, self._chunk(length), self._path))
                self._start = end
        finally:
            if self._fd >= 0:
                os.close(self._fd)

    def _read(self, offset: int, count: int) -> bytes:
        content = self._content
        if isinstance(content, bytes):
            return content[offset : offset + count]
        if isinstance(content, FileRange):
            try:
                data = os.pread(self._fd, count, content.start + offset)
            except OSError as exc:
                raise self._unreadable(exc) from None
            if len(data) != count:
                raise UsageError(f"{show(self._path)}: it changed while it was read")
            return data
        self._fill(content, offset + count - self._start)
        return bytes(self._held[offset - self._start : offset - self._start + count])

    def _fill(self, stream: Stream, length: int) -> None:
        if len(self._held) < length:
            self._held += stream.read(length - len(self._held))

    def _chunk(self, length: int) -> bytes | FileRange:
        content = self._content
        if isinstance(content, bytes):
            return content[self._start : self._start + length]
        if isinstance(content, FileRange):
            return content._replace(start=content.start + self._start)
        self._fill(content, length)
        data = bytes(self._held[:length])
        del self._held[:length]
        return data

    def _unreadable(self, exc: OSError) -> UsageError:
        return UsageError(f"{show(self._path)}: the source cannot be read: {exc.strerror}")
