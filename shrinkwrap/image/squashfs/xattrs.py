"""Extended attributes: equal sets are stored once."""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import BinaryIO, Final

from shrinkwrap.image.squashfs.layout import NONE, NOWHERE, PREFIXES, U32, U64, XATTR_HEADER, XATTR_ID, XATTR_NAME
from shrinkwrap.image.squashfs.metadata import Compress, MetadataWriter, write_rows

#: Sets that are remembered; those that come after them are not looked for. Memory stays flat.
_REMEMBERED: Final = 100_000

Pairs = tuple[tuple[bytes, bytes], ...]


class XattrTable:
    """Collects the sets of attributes of an image.

    Args:
        file: for the pairs, until :meth:`write`.
    """

    def __init__(self, file: BinaryIO, compress: Compress) -> None:
        self._file = file
        self._compress = compress
        self._pairs = MetadataWriter(file, compress)
        self._ids = bytearray()
        self._known: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._ids) // XATTR_ID.size

    def number(self, pairs: Pairs) -> int:
        """The number of a set; :data:`NONE` of an empty one. Names without a known prefix cannot be held: left out."""
        if not pairs:
            return NONE
        packed, count = _pack(pairs)
        if not count:
            return NONE
        name = blake2b(packed, digest_size=16).digest()
        known = self._known.get(name)
        if known is not None:
            return known
        number = len(self)
        start, offset = self._pairs.position()
        self._ids += XATTR_ID.pack(start << 16 | offset, count, len(packed))
        self._pairs.write(packed)
        if len(self._known) < _REMEMBERED:
            self._known[name] = number
        return number

    def write(self, out: BinaryIO, position: int) -> tuple[int, int]:
        """Write all tables.

        Args:
            out: the image; its next byte is at ``position``.

        Returns:
            Where the table's header is, :data:`NOWHERE` without any attributes; where the tables end.
        """
        if not self._ids:
            return NOWHERE, position
        size = self._pairs.finish()
        self._file.seek(0)
        while piece := self._file.read(1 << 20):
            out.write(piece)
        *starts, header = write_rows(out, self._ids, self._compress, position + size)
        out.write(XATTR_HEADER.pack(position, len(self), 0))
        out.write(struct.pack(f"<{len(starts)}Q", *starts))
        return header, header + XATTR_HEADER.size + U64.size * len(starts)


def _pack(pairs: Pairs) -> tuple[bytes, int]:
    out = bytearray()
    count = 0
    for name, value in pairs:
        for number, prefix in enumerate(PREFIXES):
            if name.startswith(prefix):
                rest = name[len(prefix) :]
                out += XATTR_NAME.pack(number, len(rest)) + rest + U32.pack(len(value)) + value
                count += 1
    return bytes(out), count
