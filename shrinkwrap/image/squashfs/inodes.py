"""Inodes as bytes: the basic form where it suffices, else the extended one."""

from __future__ import annotations

from typing import Final

from shrinkwrap.image.squashfs.layout import (
    BASIC_DIR,
    BASIC_FILE,
    DIR,
    EXTENDED,
    EXTENDED_DIR,
    EXTENDED_FILE,
    FILE,
    INODE,
    LINK,
    NONE,
    SYMLINK,
    U32,
)

_U16: Final = 0xFFFF
#: A listing is told three bytes longer than it is: for the entries of the directory itself and its parent.
_DOTS: Final = 3

#: Mode, index of owner, index of group, mtime, inode number.
Common = tuple[int, int, int, int, int]


def file_inode(
    common: Common, start: int, size: int, words: bytes, sparse: int = 0, links: int = 1, xattrs: int = NONE
) -> bytes:
    """A regular file.

    Args:
        start: position of its first block in the image.
        words: size words of its blocks, packed.
        sparse: bytes in holes.
        xattrs: number of its set of attributes.
    """
    if links == 1 and xattrs == NONE and not sparse and start <= NONE and size <= NONE:
        return INODE.pack(FILE, *common) + BASIC_FILE.pack(start, NONE, 0, size) + words
    head = EXTENDED_FILE.pack(start, size, sparse, links, NONE, 0, xattrs)
    return INODE.pack(FILE + EXTENDED, *common) + head + words


def link_inode(common: Common, target: bytes, links: int = 1, xattrs: int = NONE) -> bytes:
    """A symbolic link."""
    rest = SYMLINK.pack(links, len(target)) + target
    if xattrs == NONE:
        return INODE.pack(LINK, *common) + rest
    return INODE.pack(LINK + EXTENDED, *common) + rest + U32.pack(xattrs)


def dir_inode(
    common: Common,
    start: int,
    offset: int,
    listed: int,
    links: int,
    parent: int,
    indexes: list[bytes],
    xattrs: int = NONE,
) -> bytes:
    """A directory.

    Args:
        start, offset: of its listing in the directory table; ``listed``: bytes of that.
        parent: inode number of the directory that it is in.
        indexes: packed.
    """
    size = listed + _DOTS
    if size <= _U16 and not indexes and xattrs == NONE:
        return INODE.pack(DIR, *common) + BASIC_DIR.pack(start, links, size, offset, parent)
    head = EXTENDED_DIR.pack(links, size, start, parent, len(indexes), offset, xattrs)
    return INODE.pack(DIR + EXTENDED, *common) + head + b"".join(indexes)
