"""One row of a file catalog as a value (FORMAT.md §6.4, §6.5)."""

from __future__ import annotations

import stat
from typing import Final, NamedTuple

from shrinkwrap.cvmfs.digest import TAGS
from shrinkwrap.errors import CatalogError

# Flags (FORMAT.md §6.4). The type of an entry comes from its mode, never from these.
FLAG_DIR: Final = 0x1
FLAG_NESTED_MOUNTPOINT: Final = 0x2
FLAG_FILE: Final = 0x4
FLAG_LINK: Final = 0x8
FLAG_SPECIAL: Final = 0x10
FLAG_NESTED_ROOT: Final = 0x20
FLAG_CHUNKED: Final = 0x40
FLAG_EXTERNAL: Final = 0x80
FLAG_BIND_MOUNTPOINT: Final = 0x4000
FLAG_HIDDEN: Final = 0x8000
FLAG_DIRECT_IO: Final = 0x10000

#: Flags that differ between the two copies of a transition directory (FORMAT.md §6.8).
TRANSITION_FLAGS: Final = FLAG_NESTED_MOUNTPOINT | FLAG_NESTED_ROOT | FLAG_BIND_MOUNTPOINT

ZLIB: Final = 0
UNCOMPRESSED: Final = 1

_S_IFMT: Final = 0o170000


class Chunk(NamedTuple):
    """A piece of a file: ``offset`` and ``size`` of the uncompressed bytes, ``raw`` digest of the stored ones."""

    offset: int
    size: int
    raw: bytes


class Entry(NamedTuple):
    """What a catalog says of one path.

    A named tuple because streams make millions of them. ``path`` is absolute within the repository, the root is
    ``b""``; names are bytes, never decoded. ``mtime_ns`` counts nanoseconds since the epoch. ``target`` is the link
    target as stored, before variables are expanded. ``xattr`` is the undecoded blob. ``links`` is the undivided
    ``hardlinks`` column (group << 32 | count).
    """

    path: bytes
    name: bytes
    mode: int
    size: int
    mtime_ns: int
    uid: int
    gid: int
    flags: int
    hash: bytes | None
    target: bytes
    links: int
    xattr: bytes | None
    chunks: tuple[Chunk, ...]

    @property
    def is_dir(self) -> bool:
        return self.mode & _S_IFMT == stat.S_IFDIR

    @property
    def is_file(self) -> bool:
        return self.mode & _S_IFMT == stat.S_IFREG

    @property
    def is_link(self) -> bool:
        return self.mode & _S_IFMT == stat.S_IFLNK

    @property
    def is_hidden(self) -> bool:
        return bool(self.flags & FLAG_HIDDEN)

    @property
    def is_chunked(self) -> bool:
        return bool(self.flags & FLAG_CHUNKED)

    @property
    def is_external(self) -> bool:
        return bool(self.flags & FLAG_EXTERNAL)

    @property
    def link_count(self) -> int:
        return self.links & 0xFFFFFFFF

    @property
    def link_group(self) -> int:
        """Number of the hard link group within its catalog, 0 for none."""
        return self.links >> 32

    @property
    def algorithm(self) -> int:
        """Hash algorithm of the content and of each chunk: bits 8-10.

        Raises:
            CatalogError: a number that no release of the format knows.
        """
        algorithm = (self.flags >> 8) & 7
        if algorithm >= len(TAGS):
            raise CatalogError(f"{show(self.path)}: unknown hash algorithm number {algorithm} in its flags")
        return algorithm

    @property
    def compression(self) -> int:
        """:data:`ZLIB` or :data:`UNCOMPRESSED`: bits 11-13.

        Raises:
            CatalogError: any other number.
        """
        compression = (self.flags >> 11) & 7
        if compression > UNCOMPRESSED:
            raise CatalogError(f"{show(self.path)}: unknown compression number {compression} in its flags")
        return compression


KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "chardev",
    stat.S_IFBLK: "blockdev",
}


def kind_of(mode: int) -> str:
    """The word for a file type, as listings use it."""
    return KINDS.get(mode & _S_IFMT, "unknown")


def show(path: bytes) -> str:
    """A path for people: valid UTF-8 as it is, all else and control characters as backslash escapes.

    File names are data: what a terminal would act on never reaches it.
    """
    if not path:
        return "/"
    text = path.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
