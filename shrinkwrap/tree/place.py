"""Putting files into the store and from there to their paths: hard link, reflink or copy (DESIGN, primitives)."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from shrinkwrap.snapshot.view import Xattrs
from shrinkwrap.tree.probe import FICLONE, Abilities

HARDLINK: Final = "hardlink"
REFLINK: Final = "reflink"
COPY: Final = "copy"
LINK_MODES: Final = (HARDLINK, REFLINK, COPY)

#: A hard link is impossible between these two places; another way must do.
UNLINKABLE: Final = frozenset({errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS})
#: What setxattr says when the file system, or a limit of it, will not have it.
_NO_XATTR: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EPERM, errno.EACCES})
_COPY_STEP: Final = 1 << 26


class Meta(NamedTuple):
    """The metadata of a file or directory that is to be set."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Xattrs


@dataclass(frozen=True, slots=True)
class Check:
    """Tells whether a stored file still has the metadata that its name stands for: --repair believes no name.

    Attributes:
        abilities: of the destination.
        own: owners are ours to set (root).
        share_mtime: mtimes of files mean nothing.
    """

    abilities: Abilities
    own: bool
    share_mtime: bool

    def fits(self, info: os.stat_result, meta: Meta, size: int) -> bool:
        return (
            stat.S_ISREG(info.st_mode)
            and stat.S_IMODE(info.st_mode) == meta.mode
            and info.st_size == size
            and (not self.own or (info.st_uid, info.st_gid) == (meta.uid, meta.gid))
            and (self.share_mtime or info.st_mtime_ns == self.abilities.time(meta.mtime_ns))
        )


class Counts(dict[str, int]):
    """Counters that start at zero."""

    def __missing__(self, key: str) -> int:
        return 0

    def take(self) -> dict[str, int]:
        taken = dict(self)
        self.clear()
        return taken


def set_file_meta(fd: int, meta: Meta, *, own: bool, counts: Counts) -> None:
    """Set the metadata of an open file.

    Attributes before the mode, because they need write permission; the mode after the owner, because chown clears
    set-id bits even for root (FORMAT.md §10.7); the time last.

    Args:
        own: set the owner too.
        counts: ``xattr_lost`` is counted for what the file system will not hold.
    """
    if own:
        os.fchown(fd, meta.uid, meta.gid)
    for name, value in meta.xattrs:
        set_xattr(fd, name, value, counts)
    os.fchmod(fd, meta.mode)
    os.utime(fd, ns=(meta.mtime_ns, meta.mtime_ns))


def set_xattr(target: int | bytes | str, name: bytes, value: bytes, counts: Counts) -> None:
    try:
        os.setxattr(target, name, value)
    except OSError as exc:
        if exc.errno not in _NO_XATTR:
            raise
        counts["xattr_lost"] += 1


def copy_content(source: int, target: int, *, reflink: bool) -> bool:
    """Make one open file's content another's; True if blocks are shared."""
    if reflink:
        try:
            fcntl.ioctl(target, FICLONE, source)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
        else:
            return True
    size = os.fstat(source).st_size
    position = 0
    while position < size:
        position += _copy_piece(source, target, position, size - position)
    return False


def _copy_piece(source: int, target: int, position: int, left: int) -> int:
    done = 0
    with suppress(OSError):  # across file systems, or not there: the plain way says what is wrong
        done = os.copy_file_range(source, target, min(left, _COPY_STEP), position, position)
    if done:
        return done
    data = os.pread(source, min(left, 1 << 20), position)
    if not data:
        raise OSError(errno.EIO, "the stored file became shorter while it was copied")
    return os.pwrite(target, data, position)


def mode_of(wish: str, *, hardlinks: bool, reflinks: bool) -> str:
    """The link mode that a destination can do, nearest to what was asked for."""
    if wish == HARDLINK and not hardlinks:
        wish = REFLINK
    if wish == REFLINK and not reflinks:
        wish = COPY
    return wish
