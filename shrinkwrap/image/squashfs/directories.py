"""Directory listings, and what waits to be listed.

The stream gives a directory before what it holds; squashfs wants the children's inodes before the listing. So what is
known of the children waits on a stack until the stream leaves the directory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import BinaryIO, Final, NamedTuple

from shrinkwrap.image.squashfs.layout import DIR_ENTRY, DIR_HEADER, DIR_INDEX, METADATA
from shrinkwrap.image.squashfs.metadata import MetadataWriter

#: Entries of a run share a header.
_RUN: Final = 256
_MOST_INDEXES: Final = 0xFFFF
#: Reference of the inode, its number, type, length of the name less one.
_CHILD: Final = Struct("<QIBB")


class Child(NamedTuple):
    """An entry of a directory. ``ref`` is where its inode is: start of its block << 16 | offset."""

    ref: int
    number: int
    type: int
    name: bytes


class Waiting:
    """A stack of children, of which the lower part lies in a file when it is large.

    Args:
        file: empty, for reading and writing.
    """

    #: Bytes in memory before they go to the file, and bytes read from there at a time.
    SPILL: Final = 8 << 20
    STEP: Final = 1 << 20

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._below = 0
        self._top = bytearray()

    def mark(self) -> int:
        """How high the stack is."""
        return self._below + len(self._top)

    def push(self, child: Child) -> None:
        ref, number, kind, name = child
        self._top += _CHILD.pack(ref, number, kind, len(name) - 1)
        self._top += name
        if len(self._top) > self.SPILL:
            self._file.seek(self._below)
            self._file.write(self._top)
            self._below += len(self._top)
            self._top.clear()

    def pop(self, mark: int) -> Iterator[Child]:
        """Take off what was pushed after the stack was that high, in the order in which it came."""
        if mark >= self._below:
            data = bytes(self._top[mark - self._below :])
            del self._top[mark - self._below :]
            yield from _children(data)[0]
            return
        rest = b""
        self._file.seek(mark)
        for start in range(mark, self._below, self.STEP):
            data = rest + self._file.read(min(self.STEP, self._below - start))
            found, done = _children(data)
            rest = data[done:]
            yield from found
        data = rest + bytes(self._top)
        self._below = mark
        self._top.clear()
        yield from _children(data)[0]


def _children(data: bytes) -> tuple[list[Child], int]:
    """The whole records in some bytes, and where the first one that is not whole begins."""
    found = []
    position, end, head = 0, len(data), _CHILD.size
    while position + head <= end:
        ref, number, kind, length = _CHILD.unpack_from(data, position)
        after = position + head + length + 1
        if after > end:
            break
        found.append(Child(ref, number, kind, data[position + head : after]))
        position = after
    return found, position


class Listing(NamedTuple):
    """Where a listing lies: start of its block in the directory table, offset there, bytes, packed index entries."""

    start: int
    offset: int
    size: int
    indexes: list[bytes]


def write_listing(table: MetadataWriter, children: Iterable[Child]) -> Listing:
    """Write the listing of a directory.

    A new run begins after 256 entries, at another block of the inode table, when a number is too far from the run's,
    and so often that an index entry leads into each metadata block of a long listing.

    Args:
        children: in byte order of their names.

    Raises:
        UsageError: the table is full.
    """
    start, offset = table.position()
    indexes: list[bytes] = []
    size = indexed = run_size = 0
    block = base = -1
    run: list[bytes] = []
    first = last = b""
    far = False  # from the last place that an index entry leads to

    def flush() -> None:
        nonlocal size, indexed
        if far and len(indexes) < _MOST_INDEXES:
            indexes.append(DIR_INDEX.pack(size, table.position()[0], len(first) - 1) + first)
            indexed = size
        table.write(DIR_HEADER.pack(len(run) - 1, block, base))
        table.write(b"".join(run))
        size += run_size

    for ref, number, kind, name in children:
        assert name > last, "the stream has another order"
        last = name
        entry = DIR_ENTRY.size + len(name)
        beyond = size + run_size + entry - (size if far else indexed) > METADATA
        if run and (len(run) == _RUN or ref >> 16 != block or not -32768 <= number - base <= 32767 or beyond):
            flush()
            run = []
        if not run:
            far = size + DIR_HEADER.size + entry - indexed > METADATA
            block, base, first, run_size = ref >> 16, number, name, DIR_HEADER.size
        run.append(DIR_ENTRY.pack(ref & 0xFFFF, number - base, kind, len(name) - 1) + name)
        run_size += entry
    if run:
        flush()
    return Listing(start, offset, size, indexes)
