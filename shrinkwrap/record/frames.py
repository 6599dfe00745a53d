"""Compressed frames of lines in a scratch file, on their way into the files of summaries."""

from __future__ import annotations

import os
import tempfile
from typing import Final

import zstandard

from shrinkwrap.cvmfs import limits
from shrinkwrap.record.summary import FRAME

#: Bytes of lines that are deflated at once.
_AT_ONCE: Final = 256 * limits.KIB
_LEVEL: Final = 3


class Scratch:
    """Frames in a file without a name."""

    def __init__(self, folder: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by close()
        self._deflate = zstandard.ZstdCompressor(level=_LEVEL)
        self._end = 0

    def deflated(self, data: bytes) -> tuple[int, int]:
        """Deflate and append a frame without a head; where it lies and its length."""
        return self.append(self._deflate.compress(data))

    def frame(self, data: bytes) -> tuple[int, int]:
        """Deflate and append; where it lies and its length, that of its head included."""
        stored = self._deflate.compress(data)
        return self.append(FRAME.pack(len(stored), len(data)) + stored)

    def append(self, data: bytes) -> tuple[int, int]:
        start, view = self._end, memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, self._end)
            self._end += written
            view = view[written:]
        return start, len(data)

    def read(self, place: tuple[int, int]) -> bytes:
        out = bytearray()
        start, size = place
        while len(out) < size:
            piece = os.pread(self._file.fileno(), size - len(out), start + len(out))
            if not piece:
                raise OSError("a scratch file is shorter than what was written to it")
            out += piece
        return bytes(out)

    def close(self) -> None:
        self._file.close()


class Lines:
    """Lines of one catalog on their way into frames."""

    __slots__ = ("_buffer", "_scratch", "frames", "raw", "waiting")

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._buffer: list[bytes] = []
        self.frames: list[tuple[int, int]] = []
        #: Bytes so far, and those of them that are in no frame yet.
        self.raw = 0
        self.waiting = 0

    def add(self, data: bytes) -> None:
        size = len(data)
        self.raw += size
        self.waiting += size
        self._buffer.append(data)
        if self.waiting >= _AT_ONCE:
            self.flush()

    def flush(self) -> None:
        if self._buffer:
            self.frames.append(self._scratch.frame(b"".join(self._buffer)))
            self._buffer.clear()
            self.waiting = 0
