"""Checksums of file contents, by the place of the file in the stream."""

from __future__ import annotations

import os
import tempfile
from struct import Struct
from typing import Final, Self

#: Bytes of a checksum: XXH3 with 128 bits, in its canonical (big-endian) form.
WIDTH: Final = 16
#: In place of the checksum of a file whose content nobody has read.
UNKNOWN: Final = bytes(WIDTH)
#: How a checksum is handed over: the ordinal of its file, the checksum.
PACKED: Final = Struct(f"<Q{WIDTH}s")


class Sums:
    """Checksums as they arrive, in any order, in a scratch file of fixed width: flat memory for any number of files.

    The file has no name, so nothing of it outlives the process.

    Args:
        folder: where the file is made.
    """

    def __init__(self, folder: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by close()
        self._fd = self._file.fileno()

    def put_many(self, packed: bytes) -> None:
        """Note records of :data:`PACKED`, one after the other. Of two for the same file the later one counts.

        Raises:
            OSError: the scratch file cannot be written.
        """
        start = following = 0
        run = bytearray()
        for ordinal, value in PACKED.iter_unpack(packed):
            if ordinal != following or not run:
                self._write(run, start)
                run.clear()
                start = ordinal
            run += value
            following = ordinal + 1
        self._write(run, start)

    def _write(self, run: bytearray, start: int) -> None:
        position, data = start * WIDTH, memoryview(run)
        while data:
            written = os.pwrite(self._fd, data, position)
            position, data = position + written, data[written:]
        data.release()

    def range(self, start: int, end: int) -> bytes:
        """The checksums of the files from ``start`` up to, but not including ``end``; UNKNOWN for those not noted."""
        size = (end - start) * WIDTH
        out = bytearray()
        while piece := os.pread(self._fd, size - len(out), start * WIDTH + len(out)):
            out += piece
        return bytes(out).ljust(size, b"\0")

    def close(self) -> None:
        """Idempotent."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
