"""Lists of any length that lie in a file instead of in memory."""

from __future__ import annotations

import marshal
import struct
import tempfile
from collections.abc import Iterator
from typing import Any, Final

_LENGTH: Final = struct.Struct("<I")


class Spill:
    """Append records, then read them forwards or backwards.

    Records are tuples of what marshal knows (bytes, numbers, None, text, tuples). The file has no name, so nothing of
    it outlives the process.

    Args:
        folder: where the file is made.
    """

    def __init__(self, folder: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=1 << 18)  # noqa: SIM115 - closed by close()
        self._end = 0
        self.count = 0

    def append(self, record: tuple[Any, ...]) -> None:
        data = marshal.dumps(record)
        length = _LENGTH.pack(len(data))
        self._file.write(length + data + length)
        self._end += len(data) + 2 * _LENGTH.size
        self.count += 1

    def __iter__(self) -> Iterator[Any]:
        self._file.seek(0)
        for _ in range(self.count):
            (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
            yield marshal.loads(self._file.read(length))  # noqa: S302 - written by this process
            self._file.read(_LENGTH.size)

    def __reversed__(self) -> Iterator[Any]:
        self._file.flush()
        position = self._end
        while position:
            self._file.seek(position - _LENGTH.size)
            (length,) = _LENGTH.unpack(self._file.read(_LENGTH.size))
            position -= length + 2 * _LENGTH.size
            self._file.seek(position + _LENGTH.size)
            yield marshal.loads(self._file.read(length))  # noqa: S302 - written by this process

    def close(self) -> None:
        self._file.close()
