"""Reading pieces of an image: bytes, metadata blocks, data blocks. Whatever is in them is bounded."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from shrinkwrap.cvmfs.inflate import inflate
from shrinkwrap.errors import CorruptObject
from shrinkwrap.image.squashfs.layout import (
    BLOCK_BYTES,
    GZIP,
    METADATA,
    PLAIN_BLOCK,
    PLAIN_METADATA,
    U16,
)

#: Inflates some bytes; at most as many come out.
Expand = Callable[[bytes, int], bytes]
#: Metadata blocks that are remembered.
_REMEMBERED: Final = 256


def expander(compressor: int) -> Expand:
    """What undoes a compressor of the superblock. It raises CorruptObject."""
    if compressor == GZIP:
        return inflate
    import zstandard

    decompressor = zstandard.ZstdDecompressor()

    def expand(data: bytes, limit: int) -> bytes:
        try:
            size = zstandard.frame_content_size(data)
            if not 0 <= size <= limit:
                raise CorruptObject(f"a zstd frame of {size} bytes, at most {limit} are allowed")
            return decompressor.decompress(data, limit)
        except zstandard.ZstdError as exc:
            raise CorruptObject(f"not a valid zstd frame: {exc}") from None

    return expand


class Bytes:
    """An image's bytes, in an open file of which it may be a part.

    Args:
        base: where it begins in the file.
        size: bytes of the image.
    """

    def __init__(self, fd: int, base: int, size: int) -> None:
        self._fd = fd
        self._base = base
        self.size = size

    def read(self, position: int, length: int) -> bytes:
        """Raises CorruptObject for what lies outside."""
        if position < 0 or length < 0 or position + length > self.size:
            raise CorruptObject(f"{length} bytes at {position} lie outside the image of {self.size} bytes")
        data = os.pread(self._fd, length, self._base + position)
        while len(data) < length:
            more = os.pread(self._fd, length - len(data), self._base + position + len(data))
            if not more:
                raise CorruptObject(f"the image ends at {position + len(data)}; {self.size} bytes were expected")
            data += more
        return data


class MetadataReader:
    """Reads a table of metadata blocks.

    Args:
        start, end: of the table in the image.
    """

    def __init__(self, data: Bytes, start: int, end: int, expand: Expand) -> None:
        if not 0 <= start <= end <= data.size:
            raise CorruptObject(f"a table from {start} to {end} in an image of {data.size} bytes")
        self._data = data
        self._start = start
        self._end = end
        self._expand = expand
        self._blocks: OrderedDict[int, tuple[bytes, int]] = OrderedDict()

    def block(self, start: int) -> tuple[bytes, int]:
        """A block that begins there in the table, inflated, and where the next one begins. Raises CorruptObject."""
        found = self._blocks.get(start)
        if found is None:
            position = self._start + start
            if position + 2 > self._end:
                raise CorruptObject(f"a metadata block at {start} lies outside its table")
            (header,) = U16.unpack(self._data.read(position, 2))
            length = header & ~PLAIN_METADATA
            if not 0 < length <= METADATA or position + 2 + length > self._end:
                raise CorruptObject(f"a metadata block of {length} bytes at {start} makes no sense")
            data = self._data.read(position + 2, length)
            if not header & PLAIN_METADATA:
                data = self._expand(data, METADATA)
            found = self._blocks[start] = data, start + 2 + length
            if len(self._blocks) > _REMEMBERED:
                self._blocks.popitem(last=False)
        return found

    def cursor(self, start: int, offset: int) -> Cursor:
        return Cursor(self, start, offset)


class Cursor:
    """A place in a table, from which bytes are read in order."""

    __slots__ = ("_reader", "offset", "start")

    def __init__(self, reader: MetadataReader, start: int, offset: int) -> None:
        self._reader = reader
        self.start = start
        self.offset = offset

    def read(self, length: int) -> bytes:
        """The next bytes. Raises CorruptObject if there are not so many."""
        data, after = self._reader.block(self.start)
        end = self.offset + length
        if end < len(data):
            piece = data[self.offset : end]
            self.offset = end
            return piece
        pieces = []
        while True:
            piece = data[self.offset : self.offset + length]
            pieces.append(piece)
            self.offset += len(piece)
            length -= len(piece)
            if not length:
                return b"".join(pieces)
            if self.offset < len(data) or len(data) != METADATA:
                raise CorruptObject("a metadata table ends too early")
            self.start, self.offset = after, 0
            data, after = self._reader.block(self.start)


def read_block(data: Bytes, position: int, word: int, size: int, expand: Expand) -> bytes:
    """A data block of a file, inflated.

    Args:
        word: its size word.
        size: bytes that it has to give.

    Raises:
        CorruptObject: it does not.
    """
    if not word:
        return bytes(size)
    length = word & BLOCK_BYTES
    if length > size:
        raise CorruptObject(f"a data block of {length} bytes for {size} bytes of content")
    out = data.read(position, length)
    if not word & PLAIN_BLOCK:
        out = expand(out, size)
    if len(out) != size:
        raise CorruptObject(f"a data block of {len(out)} bytes, its file says {size}")
    return out
