"""The tables of an image from a stream of entries, whose data lies in the image already."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import BinaryIO, Final, NamedTuple, Protocol

from shrinkwrap.errors import UsageError
from shrinkwrap.image.entries import DIR, FILE, ImageEntry
from shrinkwrap.image.squashfs import layout
from shrinkwrap.image.squashfs.directories import Child, Waiting, write_listing
from shrinkwrap.image.squashfs.inodes import Common, dir_inode, file_inode, link_inode
from shrinkwrap.image.squashfs.layout import NOWHERE, U32, U64, Superblock, clamp_mtime
from shrinkwrap.image.squashfs.metadata import Compress, MetadataWriter, write_rows
from shrinkwrap.image.squashfs.recipe import Recipe
from shrinkwrap.image.squashfs.xattrs import XattrTable

#: Hard links of open directories that are kept together; beyond it files come out one by one, sharing their blocks.
_GROUPS: Final = 65_536
#: In a waiting child's type: ``ref`` is the number of its group of hard links.
_GROUPED: Final = 0x80
_PIECE: Final = 1 << 20


class Placed(NamedTuple):
    """Where a file's data lies: position in the image, packed size words, bytes in holes."""

    start: int
    words: bytes
    sparse: int


class Places(Protocol):
    """Knows where the data of each file lies."""

    def placed(self, entry: ImageEntry) -> Placed: ...


class Written(NamedTuple):
    """An image's superblock, and its bytes without the padding."""

    superblock: Superblock
    size: int


class _Group:
    """Hard links of each other."""

    __slots__ = ("entry", "links", "number", "ref")

    def __init__(self, entry: ImageEntry, number: int) -> None:
        self.entry = entry
        self.number = number
        self.links = 0
        self.ref = 0


class _Frame:
    """A directory that the stream is in."""

    __slots__ = ("entry", "groups", "known", "mark", "number", "subdirs")

    def __init__(self, entry: ImageEntry, number: int, mark: int) -> None:
        self.entry = entry
        self.number = number
        self.mark = mark
        self.subdirs = 0
        self.groups: list[_Group] = []
        self.known: dict[ImageEntry, int] = {}


class _Tables:
    """The tables while the stream comes."""

    def __init__(self, stack: ExitStack, scratch: str, compress: Compress, places: Places) -> None:
        def temporary() -> BinaryIO:
            return stack.enter_context(TemporaryFile(dir=scratch))

        self.inode_file, self.directory_file = temporary(), temporary()
        self.inodes = MetadataWriter(self.inode_file, compress)
        self.directories = MetadataWriter(self.directory_file, compress)
        self.xattrs = XattrTable(temporary(), compress)
        self.refs = array("Q")
        self.ids: dict[int, int] = {}
        self.root = 0
        self._waiting = Waiting(temporary())
        self._frames: list[_Frame] = []
        self._places = places
        self._grouped = 0

    def take(self, entries: Iterable[ImageEntry]) -> None:
        """All entries, from the root on. Raises UsageError for what the format cannot hold."""
        frames = self._frames
        for entry in entries:
            path = entry.path
            while frames and not _inside(path, frames[-1].entry.path):
                self._close()
            # Numbers follow the stream, so that a directory knows its parent's; inodes lie children first.
            number = len(self.refs) + 1
            if entry.kind == DIR:
                self.refs.append(0)
                if frames:
                    frames[-1].subdirs += 1
                frames.append(_Frame(entry, number, self._waiting.mark()))
            else:
                self._add(frames[-1], entry, number)
        while frames:
            self._close()

    def _add(self, frame: _Frame, entry: ImageEntry, number: int) -> None:
        kind = layout.FILE if entry.kind == FILE else layout.LINK
        name = entry.name
        if entry.link:
            alike = entry._replace(path=b"")
            group = frame.known.get(alike)
            if group is None and self._grouped < _GROUPS:
                self._grouped += 1
                group = frame.known[alike] = len(frame.groups)
                frame.groups.append(_Group(entry, number))
                self.refs.append(0)
            if group is not None:
                one = frame.groups[group]
                one.links += 1
                self._waiting.push(Child(group, one.number, kind | _GROUPED, name))
                return
        self.refs.append(0)
        self._waiting.push(Child(self._write(entry, number, 1), number, kind, name))

    def _write(self, entry: ImageEntry, number: int, links: int) -> int:
        """The inode of anything but a directory; where it is."""
        start, offset = self.inodes.position()
        ref = self.refs[number - 1] = start << 16 | offset
        common = self._common(entry, number)
        xattrs = self.xattrs.number(entry.xattrs)
        if entry.kind == FILE:
            placed = self._places.placed(entry)
            data = file_inode(common, placed.start, entry.size, placed.words, placed.sparse, links, xattrs)
        else:
            data = link_inode(common, entry.target, links, xattrs)
        self.inodes.write(data)
        return ref

    def _common(self, entry: ImageEntry, number: int) -> Common:
        return entry.mode, self._id(entry.uid), self._id(entry.gid), clamp_mtime(entry.mtime_ns), number

    def _id(self, owner: int) -> int:
        found = self.ids.get(owner)
        if found is None:
            found = self.ids[owner] = len(self.ids)
            if found >= layout.MOST_IDS:
                raise UsageError(
                    f"squashfs holds no more than {layout.MOST_IDS} different owners and groups",
                    hint="--claim-ownership gives everything to you",
                )
        return found

    def _close(self) -> None:
        """The stream has left a directory: its hard links, its listing, its inode."""
        frames = self._frames
        frame = frames.pop()
        for group in frame.groups:
            group.ref = self._write(group.entry, group.number, group.links)
        self._grouped -= len(frame.groups)
        children = self._waiting.pop(frame.mark)
        if frame.groups:
            children = (
                child._replace(ref=frame.groups[child.ref].ref, type=child.type & ~_GROUPED)
                if child.type & _GROUPED
                else child
                for child in children
            )
        listing = write_listing(self.directories, children)
        parent = frames[-1].number if frames else len(self.refs) + 1
        start, offset = self.inodes.position()
        ref = self.refs[frame.number - 1] = start << 16 | offset
        common = self._common(frame.entry, frame.number)
        xattrs = self.xattrs.number(frame.entry.xattrs)
        links = 2 + frame.subdirs
        self.inodes.write(
            dir_inode(common, listing.start, listing.offset, listing.size, links, parent, listing.indexes, xattrs)
        )
        if frames:
            self._waiting.push(Child(ref, frame.number, layout.DIR, frame.entry.name))
        else:
            self.root = ref


def _inside(path: bytes, folder: bytes) -> bool:
    return len(path) > len(folder) and path.startswith(folder) and path[len(folder)] == 0x2F


def write_tables(
    out: BinaryIO,
    position: int,
    entries: Iterable[ImageEntry],
    places: Places,
    recipe: Recipe,
    mtime_ns: int,
    scratch: str,
) -> Written:
    """Write all that comes after the data.

    Args:
        out: the image; its next byte is at ``position``, counted from where the superblock will be.
        entries: the stream, from the root on.
        mtime_ns: of the image.
        scratch: folder for temporary files.

    Raises:
        UsageError: the format cannot hold this.
        OSError: the image, or temporary files, cannot be written.
    """
    compress = recipe.compress()
    with ExitStack() as stack:
        tables = _Tables(stack, scratch, compress, places)
        tables.take(entries)
        count = len(tables.refs)
        inode_table = position
        position += _append(out, tables.inode_file, tables.inodes)
        directory_table = position
        position += _append(out, tables.directory_file, tables.directories)
        fragment_table = position  # of which there are none
        *starts, export_table = write_rows(out, _little(tables.refs), compress, position)
        position = export_table + _positions(out, starts)
        *starts, id_table = write_rows(out, b"".join(map(U32.pack, tables.ids)), compress, position)
        position = id_table + _positions(out, starts)
        xattr_table, position = tables.xattrs.write(out, position)
        flags = layout.NO_FRAGMENTS | layout.DUPLICATES | layout.EXPORTABLE
        if xattr_table == NOWHERE:
            flags |= layout.NO_XATTRS
        superblock = Superblock(
            count,
            clamp_mtime(mtime_ns),
            recipe.block_size,
            recipe.number,
            flags,
            len(tables.ids),
            tables.root,
            position,
            id_table,
            xattr_table,
            inode_table,
            directory_table,
            fragment_table,
            export_table,
        )
        out.write(bytes(-position % layout.PADDING))
    return Written(superblock, position)


def _append(out: BinaryIO, file: BinaryIO, table: MetadataWriter) -> int:
    size = table.finish()
    file.seek(0)
    while piece := file.read(_PIECE):
        out.write(piece)
    return size


def _positions(out: BinaryIO, starts: list[int]) -> int:
    out.write(struct.pack(f"<{len(starts)}Q", *starts))
    return U64.size * len(starts)


def _little(refs: array[int]) -> memoryview:
    """The bytes of an array, little-endian on every machine."""
    if struct.pack("=H", 1) != struct.pack("<H", 1):
        refs.byteswap()
    return memoryview(refs).cast("B")
