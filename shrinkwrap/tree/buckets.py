"""Records of any number, sorted into one bucket for each folder of the store; they lie in a file, not in memory."""

from __future__ import annotations

import tempfile
from typing import Final

SHARDS: Final = tuple(f"{number:02x}" for number in range(256))
#: Bytes of a bucket that are kept back before they are written.
_HELD: Final = 1 << 14


class Buckets:
    """Append to a bucket, then read one as a whole.

    The file has no name, so nothing of it outlives the process.

    Args:
        folder: where the file is made.
    """

    def __init__(self, folder: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        self._held: dict[str, bytearray] = {}
        self._pieces: dict[str, list[tuple[int, int]]] = {}
        self._end = 0

    def add(self, shard: str, data: bytes) -> None:
        """One more record of the bucket of a folder (two hex digits)."""
        held = self._held.setdefault(shard, bytearray())
        held += data
        if len(held) >= _HELD:
            self._file.seek(self._end)
            self._file.write(held)
            self._pieces.setdefault(shard, []).append((self._end, len(held)))
            self._end += len(held)
            held.clear()

    def read(self, shard: str) -> bytes:
        """All records of a bucket, in the order in which they came."""
        parts = []
        for start, size in self._pieces.get(shard, ()):
            self._file.seek(start)
            parts.append(self._file.read(size))
        parts.append(bytes(self._held.get(shard, b"")))
        return b"".join(parts)

    @property
    def empty(self) -> bool:
        return not self._held

    def close(self) -> None:
        self._file.close()
