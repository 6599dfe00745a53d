"""Metadata blocks: any bytes, cut at 8,192 and compressed."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Final

from shrinkwrap.errors import UsageError
from shrinkwrap.image.squashfs.layout import METADATA, PLAIN_METADATA, U16

Compress = Callable[[bytes], bytes]
#: Starts of blocks within a table have 32 bits in directories and inodes.
_LARGEST: Final = 0xFFFFFFFF


class MetadataWriter:
    """Takes bytes, writes blocks to a file.

    Attributes:
        size: bytes written, of full blocks so far.
    """

    def __init__(self, file: BinaryIO, compress: Compress) -> None:
        self._file = file
        self._compress = compress
        self._buffer = bytearray()
        self.size = 0
        #: Where each block begins.
        self.starts: list[int] = []

    def position(self) -> tuple[int, int]:
        """Where the next byte goes: start of its block in the table, offset in the block as inflated."""
        return self.size, len(self._buffer)

    def write(self, data: bytes | bytearray) -> None:
        """Raises UsageError for a table that the format cannot hold."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= METADATA:
            self._flush(bytes(buffer[:METADATA]))
            del buffer[:METADATA]

    def _flush(self, data: bytes) -> None:
        self.starts.append(self.size)
        packed = self._compress(data)
        header = len(packed)
        if header >= len(data):
            packed, header = data, len(data) | PLAIN_METADATA
        self._file.write(U16.pack(header))
        self._file.write(packed)
        self.size += 2 + len(packed)
        if self.size > _LARGEST:
            raise UsageError(
                "squashfs holds no more than 4 GiB of inodes or directories",
                hint="make several images, with specifications for a part each",
            )

    def finish(self) -> int:
        """Write the last block; bytes of the table."""
        if self._buffer:
            self._flush(bytes(self._buffer))
            self._buffer.clear()
        return self.size


def write_rows(file: BinaryIO, data: bytes | bytearray | memoryview, compress: Compress, position: int) -> list[int]:
    """A table of fixed-width rows as metadata blocks.

    Args:
        position: in the image, of the file's next byte.

    Returns:
        Where each block begins, and where the last one ends.
    """
    table = MetadataWriter(file, compress)
    for start in range(0, len(data), METADATA):
        table.write(bytes(data[start : start + METADATA]))
    size = table.finish()
    return [*(position + start for start in table.starts), position + size]
