"""Where the blocks of each object lie while an image is built: records, and the file of them.

A worker that has finished a batch sends its records; the builder appends them to the file. After an interruption those
that are still true are taken over.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any, Final, NamedTuple

import xxhash

from shrinkwrap.errors import ShrinkwrapError
from shrinkwrap.image.keys import KEY_BYTES, KeyTable
from shrinkwrap.image.output import write_all
from shrinkwrap.image.squashfs.layout import BLOCK_BYTES, U32

#: Key, number of the segment, number of blocks, start in the segment, bytes there, bytes of content, checksum.
_HEAD: Final = Struct(f"<{KEY_BYTES}sIIQQQ8s")
#: What the checksum covers beside blocks and their sizes.
_COVERED: Final = Struct(f"<{KEY_BYTES}sQ")
#: Bytes of records that are read at a time.
_WINDOW: Final = 1 << 13
_STEP: Final = 4 << 20
_MOST_BLOCKS: Final = 1 << 27
SUM_BYTES: Final = 8


class Record(NamedTuple):
    """The blocks of one object.

    Attributes:
        key: of its content.
        segment, start, length: where the blocks lie, one after the other.
        size: bytes of the content.
        sum: checksum of all this and of the blocks.
        words: size words of the blocks, packed.
    """

    key: bytes
    segment: int
    start: int
    length: int
    size: int
    sum: bytes
    words: bytes

    def pack(self) -> bytes:
        head = _HEAD.pack(
            self.key,
            self.segment,
            len(self.words) // U32.size,
            self.start,
            self.length,
            self.size,
            self.sum,
        )
        return head + self.words

    def sparse(self, block_size: int) -> int:
        """Bytes of the content that lie in holes."""
        words = self.words
        if U32.pack(0) not in words:
            return 0
        total, left = 0, self.size
        for (word,) in U32.iter_unpack(words):
            total += 0 if word else min(left, block_size)
            left -= block_size
        return total


class Sum:
    """The checksum of a record, while its blocks come."""

    __slots__ = ("_hash",)

    def __init__(self) -> None:
        self._hash: Any = xxhash.xxh3_64()

    def update(self, blocks: bytes) -> None:
        self._hash.update(blocks)

    def finish(self, key: bytes, size: int, words: bytes) -> bytes:
        self._hash.update(words)
        self._hash.update(_COVERED.pack(key, size))
        digest: bytes = self._hash.digest()
        return digest


def sum_of(key: bytes, size: int, words: bytes, blocks: bytes) -> bytes:
    """The checksum of an object whose blocks are at hand."""
    made = Sum()
    made.update(blocks)
    return made.finish(key, size, words)


def stored_length(words: bytes) -> int:
    """Bytes of the blocks that size words tell of."""
    return sum(word & BLOCK_BYTES for (word,) in U32.iter_unpack(words))


def parse_records(data: bytes) -> Iterator[tuple[int, Record]]:
    """The whole records in some bytes, and where each begins. What follows the last one is left."""
    at, end = 0, len(data)
    while at + _HEAD.size <= end:
        key, segment, blocks, start, length, size, total = _HEAD.unpack_from(data, at)
        after = at + _HEAD.size + U32.size * blocks
        if after > end:
            return
        yield at, Record(key, segment, start, length, size, total, data[at + _HEAD.size : after])
        at = after


class Records:
    """The file of records, and which contents are on their way or done.

    Contents have numbers in the order in which they were first wanted, or taken over.

    Args:
        fd: an empty file, for reading and writing; it is closed with this.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = 0
        self._table = KeyTable()
        #: By number: one more than where the record begins in the file, 0 while somebody is bringing it; and where the
        #: blocks lie in the image.
        self._starts = array("Q")
        self._positions = array("Q")
        # Records are read in about the order in which they were written: a window of the file.
        self._window = b""
        self._window_at = 0

    def __len__(self) -> int:
        return len(self._starts)

    def want(self, key: bytes) -> bool:
        """True the first time that a content is asked for: it has to be brought."""
        if self._table.get(key) is not None:
            return False
        self._number(key)
        return True

    def _number(self, key: bytes) -> int:
        number = len(self._starts)
        self._table.set(key, number)
        self._starts.append(0)
        self._positions.append(0)
        return number

    def take(self, notes: bytes) -> None:
        """Add records. Raises OSError."""
        for at, record in parse_records(notes):
            number = self._table.get(record.key)
            self._starts[self._number(record.key) if number is None else number] = self._size + at + 1
        write_all(self._fd, notes, self._size)
        self._size += len(notes)
        self._window = b""

    def number(self, key: bytes) -> int:
        """The number of a content that was wanted."""
        number = self._table.get(key)
        if number is None:
            raise ShrinkwrapError(f"internal error: content {key.hex()} was never wanted")
        return number

    def record(self, number: int) -> Record:
        """The record of a content that was brought, by its number."""
        start = self._starts[number] - 1
        if start < 0:
            raise ShrinkwrapError(f"internal error: content number {number} was never brought")
        at = start - self._window_at
        if at < 0 or at + _HEAD.size > len(self._window):
            at = self._look(start, _WINDOW)
        blocks: int = _HEAD.unpack_from(self._window, at)[2]
        if at + _HEAD.size + U32.size * blocks > len(self._window):
            at = self._look(start, _HEAD.size + U32.size * blocks)
        key, segment, blocks, begin, length, size, total = _HEAD.unpack_from(self._window, at)
        words = self._window[at + _HEAD.size : at + _HEAD.size + U32.size * blocks]
        return Record(key, segment, begin, length, size, total, words)

    def _look(self, start: int, size: int) -> int:
        """Read a window that begins there; where that is in it."""
        self._window = os.pread(self._fd, size, start)
        self._window_at = start
        return 0

    def position(self, number: int) -> int:
        """Where in the image a content lies; 0: nowhere yet."""
        return self._positions[number]

    def place(self, number: int, position: int) -> None:
        """Say where in the image a content lies."""
        self._positions[number] = position

    def adopt(self, fd: int, good: Callable[[Record], bool]) -> int:
        """Take over what another file of records says, as far as it is ``good``; the number of contents."""
        number, at, rest = 0, 0, b""
        while piece := os.pread(fd, _STEP, at):
            at += len(piece)
            rest += piece
            done, kept = 0, []
            for start, record in parse_records(rest):
                packed = record.pack()
                done = start + len(packed)
                if good(record) and self.want(record.key):
                    kept.append(packed)
            rest = rest[done:]
            number += len(kept)
            self.take(b"".join(kept))
            if len(rest) >= _HEAD.size and _HEAD.unpack_from(rest)[2] > _MOST_BLOCKS:
                break  # no record of ours: nobody knows where the next one begins
        return number

    def close(self) -> None:
        self._table.close()
        os.close(self._fd)
