"""A directory as a source."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import ShrinkwrapError, UsageError
from shrinkwrap.publish.source import FileRange, SourceEntry

_NO_XATTRS = frozenset({errno.ENOTSUP, errno.ENOSYS, errno.EPERM})


def walk_directory(top: bytes, *, without: tuple[int, int] | None = None) -> Iterator[SourceEntry]:
    """Everything below a directory, the directory itself first. Links are not followed, mounts are.

    Args:
        top: the directory; a link to one is followed here.
        without: device and inode of a directory that must not be met: the storage that is published to.

    Raises:
        UsageError: something cannot be read, or the storage lies inside.
    """
    top = os.path.abspath(top)
    try:
        info = os.stat(top)
    except OSError as exc:
        raise _unreadable(top, exc) from None
    yield _entry(top, b"", info)
    # One list of names for each directory on the way: no more than siblings are held.
    pending: list[list[bytes]] = [[b""]]
    while pending:
        if not pending[-1]:
            pending.pop()
            continue
        path = pending[-1].pop()
        folder = top + b"/" + path if path else top
        below: list[bytes] = []
        for name in _names(folder):
            full = folder + b"/" + name
            inner = path + b"/" + name if path else name
            try:
                info = os.lstat(full)
            except OSError as exc:
                raise _unreadable(full, exc) from None
            if stat.S_ISDIR(info.st_mode):
                if (info.st_dev, info.st_ino) == without:
                    raise UsageError(
                        f"{show(full)}: the storage that is published to lies inside the source",
                        hint="choose a storage outside of it",
                    )
                below.append(inner)
            yield _entry(full, inner, info)
        below.reverse()
        pending.append(below)


def _names(folder: bytes) -> list[bytes]:
    try:
        return sorted(os.listdir(folder))
    except OSError as exc:
        raise _unreadable(folder, exc) from None


def _entry(full: bytes, path: bytes, info: os.stat_result) -> SourceEntry:
    mode = info.st_mode
    kind = stat.S_IFMT(mode)
    target = b""
    content = None
    size = 0
    if kind == stat.S_IFREG:
        size = info.st_size
        content = FileRange(full, 0, (info.st_dev, info.st_ino, size), info.st_mtime_ns)
    elif kind == stat.S_IFLNK:
        try:
            target = os.readlink(full)
        except OSError as exc:
            raise _unreadable(full, exc) from None
    shared = kind != stat.S_IFDIR and info.st_nlink > 1
    return SourceEntry(
        path,
        mode,
        info.st_uid,
        info.st_gid,
        info.st_mtime_ns,
        size,
        info.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
        target,
        _xattrs(full),
        (info.st_dev, info.st_ino) if shared else None,
        None,
        content,
    )


def _xattrs(full: bytes) -> tuple[tuple[bytes, bytes], ...]:
    try:
        names = os.listxattr(full, follow_symlinks=False)
        return tuple((os.fsencode(name), os.getxattr(full, name, follow_symlinks=False)) for name in names)
    except OSError as exc:
        if exc.errno in _NO_XATTRS:
            return ()
        raise _unreadable(full, exc) from None


def _unreadable(path: bytes, exc: OSError) -> ShrinkwrapError:
    return UsageError(
        f"{show(path)}: the source cannot be read: {exc.strerror}",
        hint="it must not change while it is published" if exc.errno == errno.ENOENT else "",
    )
