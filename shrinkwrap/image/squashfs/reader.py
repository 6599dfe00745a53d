"""Reading images of this tool, and others of the same simple kind (gzip or zstd, no fragments)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.catalog import valid_name
from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import CorruptObject
from shrinkwrap.image.entries import DIR, FILE, LINK, ImageEntry
from shrinkwrap.image.squashfs import layout
from shrinkwrap.image.squashfs.blocks import Bytes, Cursor, MetadataReader, expander, read_block
from shrinkwrap.image.squashfs.layout import (
    BASIC_DIR,
    BASIC_FILE,
    BLOCK_BYTES,
    DIR_ENTRY,
    DIR_HEADER,
    EXTENDED,
    EXTENDED_DIR,
    EXTENDED_FILE,
    INODE,
    NONE,
    NOWHERE,
    PREFIXES,
    SUPERBLOCK,
    SYMLINK,
    U32,
    U64,
    XATTR_HEADER,
    XATTR_ID,
    XATTR_NAME,
    Superblock,
)

_NS: Final = 1_000_000_000
#: Blocks of one file: 16 TiB at 128 KiB.
_MOST_BLOCKS: Final = 1 << 27
_MOST_XATTRS: Final = 4096
_LONGEST_VALUE: Final = 65536


class Inode(NamedTuple):
    """What an inode says.

    ``start`` and ``words``: of a file, as :class:`~shrinkwrap.image.squashfs.writer.Placed` has them; of a directory
    ``start`` and ``offset`` of the listing, ``size`` its bytes, and three for the dots.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    number: int
    links: int
    size: int
    start: int
    offset: int
    words: bytes
    sparse: int
    target: bytes
    xattrs: int


class Found(NamedTuple):
    """A path in an image. ``entry.key`` is empty: an image does not name contents; ``entry.link`` is the inode."""

    entry: ImageEntry
    inode: Inode


class Image:
    """An image, open for reading.

    Args:
        fd: open file; it stays the caller's.
        base: where the image begins in it.
        name: for messages.

    Raises:
        CorruptObject: it is no image of this kind, or cut short.
    """

    def __init__(self, fd: int, base: int = 0, name: str = "image") -> None:
        self.name = name
        size = os.fstat(fd).st_size - base
        head = os.pread(fd, SUPERBLOCK, base) if size > 0 else b""
        self.superblock = block = Superblock.unpack(head)
        if size < block.used:
            raise CorruptObject(
                f"{name}: {size} bytes, its superblock says {block.used}", hint="the copy is not complete"
            )
        if block.inodes > block.used * 64:
            raise CorruptObject(f"{name}: {block.inodes} inodes in {block.used} bytes make no sense")
        self.data = Bytes(fd, base, block.used)
        self.expand = expander(block.compressor)
        self._inodes = MetadataReader(self.data, block.inode_table, block.directory_table, self.expand)
        self._directories = MetadataReader(self.data, block.directory_table, block.fragment_table, self.expand)
        self._ids = self._table(block.id_table, block.ids, U32.size)
        self._xattr_ids: list[tuple[int, int]] = []
        self._pairs: MetadataReader | None = None

    # -- tables ------------------------------------------------------------------------------------------------------

    def _table(self, position: int, rows: int, width: int, skip: int = 0) -> bytes:
        """A table of rows of one width, whose list of blocks begins there."""
        size = rows * width
        blocks = -(-size // layout.METADATA)
        starts = self.data.read(position + skip, U64.size * blocks)
        pieces = []
        for (start,) in U64.iter_unpack(starts):
            pieces.append(MetadataReader(self.data, start, position, self.expand).block(0)[0])
        out = b"".join(pieces)
        if len(out) != size:
            raise CorruptObject(f"{self.name}: a table of {len(out)} bytes, {size} were expected")
        return out

    def _owner(self, index: int) -> int:
        if index >= self.superblock.ids:
            raise CorruptObject(f"{self.name}: owner number {index} of {self.superblock.ids}")
        owner: int = U32.unpack_from(self._ids, index * U32.size)[0]
        return owner

    def xattrs(self, number: int) -> tuple[tuple[bytes, bytes], ...]:
        """The attributes of a set, by name. Raises CorruptObject."""
        if number == NONE:
            return ()
        if self._pairs is None:
            self._pairs = self._open_xattrs()
        if number >= len(self._xattr_ids):
            raise CorruptObject(f"{self.name}: set of attributes number {number} of {len(self._xattr_ids)}")
        ref, pairs = self._xattr_ids[number]
        if pairs > _MOST_XATTRS:
            raise CorruptObject(f"{self.name}: a file with {pairs} attributes")
        cursor = self._pairs.cursor(ref >> 16, ref & 0xFFFF)
        found = []
        for _ in range(pairs):
            prefix, length = XATTR_NAME.unpack(cursor.read(XATTR_NAME.size))
            if prefix >= len(PREFIXES):
                raise CorruptObject(f"{self.name}: an attribute with prefix number {prefix}")
            name = PREFIXES[prefix] + cursor.read(length)
            (size,) = U32.unpack(cursor.read(U32.size))
            if size > _LONGEST_VALUE:
                raise CorruptObject(f"{self.name}: an attribute of {size} bytes")
            found.append((name, cursor.read(size)))
        return tuple(sorted(found))

    def _open_xattrs(self) -> MetadataReader:
        table = self.superblock.xattr_table
        if table == NOWHERE:
            raise CorruptObject(f"{self.name}: attributes are used, and there are none")
        start, count, _ = XATTR_HEADER.unpack(self.data.read(table, XATTR_HEADER.size))
        if count > self.superblock.inodes:
            raise CorruptObject(f"{self.name}: {count} sets of attributes for {self.superblock.inodes} inodes")
        rows = self._table(table, count, XATTR_ID.size, XATTR_HEADER.size)
        self._xattr_ids = [(ref, pairs) for ref, pairs, _ in XATTR_ID.iter_unpack(rows)]
        return MetadataReader(self.data, start, table, self.expand)

    # -- inodes ------------------------------------------------------------------------------------------------------

    def inode(self, ref: int) -> Inode:
        """The inode at a reference. Raises CorruptObject."""
        cursor = self._inodes.cursor(ref >> 16, ref & 0xFFFF)
        kind, mode, uid, gid, mtime, number = INODE.unpack(cursor.read(INODE.size))
        if not 0 < number <= self.superblock.inodes:
            raise CorruptObject(f"{self.name}: inode number {number} of {self.superblock.inodes}")
        common = (mode, self._owner(uid), self._owner(gid), mtime, number)
        if kind in (layout.FILE, layout.FILE + EXTENDED):
            return self._file(common, cursor, kind != layout.FILE)
        if kind in (layout.DIR, layout.DIR + EXTENDED):
            return self._dir(common, cursor, kind != layout.DIR)
        if kind in (layout.LINK, layout.LINK + EXTENDED):
            links, size = SYMLINK.unpack(cursor.read(SYMLINK.size))
            if not 0 < size <= layout.METADATA:
                raise CorruptObject(f"{self.name}: a link target of {size} bytes")
            target = cursor.read(size)
            xattrs = U32.unpack(cursor.read(U32.size))[0] if kind != layout.LINK else NONE
            return Inode(LINK, *common, links, size, 0, 0, b"", 0, target, xattrs)
        raise CorruptObject(f"{self.name}: an inode of type {kind}, which images of this tool do not have")

    def _file(self, common: tuple[int, int, int, int, int], cursor: Cursor, extended: bool) -> Inode:
        sparse, links, xattrs = 0, 1, NONE
        if extended:
            start, size, sparse, links, fragment, _, xattrs = EXTENDED_FILE.unpack(cursor.read(EXTENDED_FILE.size))
        else:
            start, fragment, _, size = BASIC_FILE.unpack(cursor.read(BASIC_FILE.size))
        if fragment != NONE:
            raise CorruptObject(f"{self.name}: a file with a fragment, which images of this tool do not have")
        blocks = -(-size // self.superblock.block_size)
        if blocks > _MOST_BLOCKS:
            raise CorruptObject(f"{self.name}: a file of {size} bytes makes no sense")
        words = cursor.read(U32.size * blocks) if blocks else b""
        return Inode(FILE, *common, links, size, start, 0, words, sparse, b"", xattrs)

    def _dir(self, common: tuple[int, int, int, int, int], cursor: Cursor, extended: bool) -> Inode:
        if extended:
            links, size, start, _, _, offset, xattrs = EXTENDED_DIR.unpack(cursor.read(EXTENDED_DIR.size))
        else:
            start, links, size, offset, _ = BASIC_DIR.unpack(cursor.read(BASIC_DIR.size))
            xattrs = NONE
        return Inode(DIR, *common, links, size, start, offset, b"", 0, b"", xattrs)

    # -- paths -------------------------------------------------------------------------------------------------------

    def children(self, inode: Inode) -> Iterator[tuple[bytes, int]]:
        """Names in a directory, in byte order, and where their inodes are. Raises CorruptObject."""
        left = inode.size - 3
        if left <= 0:
            return
        cursor = self._directories.cursor(inode.start, inode.offset)
        last = b""
        while left > 0:
            count, block, _ = DIR_HEADER.unpack(cursor.read(DIR_HEADER.size))
            left -= DIR_HEADER.size
            for _ in range(count + 1):
                offset, _, _, length = DIR_ENTRY.unpack(cursor.read(DIR_ENTRY.size))
                name = cursor.read(length + 1)
                left -= DIR_ENTRY.size + len(name)
                if left < 0 or name <= last or not valid_name(name):
                    raise CorruptObject(f"{self.name}: a directory whose entries make no sense")
                last = name
                yield name, block << 16 | offset

    def walk(self, top: bytes = b"") -> Iterator[Found]:
        """Everything at and below a path, in the order of the stream. Raises CorruptObject, also if there is none."""
        first = self.find(top)
        if first is None:
            raise CorruptObject(f"{self.name}: there is no {show(top)}")
        yield first
        if first.inode.kind != DIR:
            return
        seen = bytearray(self.superblock.inodes // 8 + 1)
        stack = [(top, self.children(first.inode))]
        while stack:
            path, names = stack[-1]
            found = next(names, None)
            if found is None:
                stack.pop()
                continue
            below = path + b"/" + found[0]
            inode = self.inode(found[1])
            yield Found(self._entry(below, inode), inode)
            if inode.kind == DIR:
                byte, bit = inode.number >> 3, 1 << (inode.number & 7)
                if seen[byte] & bit or len(stack) > limits.PATH_DEPTH + 2:
                    raise CorruptObject(f"{self.name}: {show(below)[:200]}: directories that contain each other")
                seen[byte] |= bit
                stack.append((below, self.children(inode)))

    def find(self, path: bytes) -> Found | None:
        """What a path leads to; links are not followed. Raises CorruptObject."""
        inode = self.inode(self.superblock.root)
        for name in path.split(b"/")[1:]:
            ref = next((ref for one, ref in self.children(inode) if one == name), None) if inode.kind == DIR else None
            if ref is None:
                return None
            inode = self.inode(ref)
        return Found(self._entry(path, inode), inode)

    def _entry(self, path: bytes, inode: Inode) -> ImageEntry:
        return ImageEntry(
            path,
            inode.kind,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.mtime * _NS,
            self.xattrs(inode.xattrs),
            inode.target,
            0 if inode.kind == DIR else inode.size,
            b"",
            inode.number if inode.links > 1 and inode.kind != DIR else 0,
        )

    # -- content -----------------------------------------------------------------------------------------------------

    def blocks(self, inode: Inode) -> Iterator[tuple[int, int, int]]:
        """Of each block of a file: position, size word, bytes that it gives."""
        position, left, block_size = inode.start, inode.size, self.superblock.block_size
        for (word,) in U32.iter_unpack(inode.words):
            yield position, word, min(block_size, left)
            position += word & BLOCK_BYTES
            left -= block_size

    def pieces(self, inode: Inode) -> Iterator[bytes]:
        """What a file holds, a block at a time. Raises CorruptObject."""
        for position, word, size in self.blocks(inode):
            yield read_block(self.data, position, word, size, self.expand)

    def read(self, path: bytes, limit: int) -> bytes | None:
        """What a small file holds; None if there is none. Raises CorruptObject, also for one above the limit."""
        found = self.find(path)
        if found is None or found.inode.kind != FILE:
            return None
        if found.inode.size > limit:
            raise CorruptObject(f"{self.name}: {show(path)} has {found.inode.size} bytes, at most {limit} are allowed")
        return b"".join(self.pieces(found.inode))


def stored_bytes(inode: Inode) -> int:
    """Bytes of a file's blocks in the image."""
    return sum(word & BLOCK_BYTES for (word,) in U32.iter_unpack(inode.words))
