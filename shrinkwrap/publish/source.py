"""What can be published: a stream of entries, in any order.

A source is any iterable of :class:`SourceEntry`. Directories and archives are two; tests and benchmarks make entries
out of nothing.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from typing import NamedTuple, Protocol


class FileRange(NamedTuple):
    """Content that lies in a file on disk: workers read it themselves.

    ``identity`` is device, inode and size in bytes of that file, ``mtime_ns`` its time of modification: all have to be
    the same when it is read.
    """

    file: bytes
    start: int
    identity: tuple[int, int, int]
    mtime_ns: int


class Stream(Protocol):
    """Content that comes through a pipe; it is read to its end before the next entry is asked for."""

    def read(self, count: int, /) -> bytes:
        """Exactly ``count`` of the bytes that are left. Raises ShrinkwrapError."""
        ...


Content = bytes | FileRange | Stream


class SourceEntry(NamedTuple):
    """One path of a source.

    Attributes:
        path: below the base directory, without a slash at either end; ``b""`` is the base directory itself.
        mode: type and permissions, as in ``st_mode``.
        mtime_ns: nanoseconds since the epoch.
        size: of a regular file's content, in bytes.
        rdev: of a device, as in ``st_rdev``.
        target: of a symbolic link.
        xattrs: names and values.
        identity: entries that have the same one (not None) are hard links of each other; the first has the content.
        link: this is a hard link to that other path of the source, and takes all from there.
        content: of a regular file.
    """

    path: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    rdev: int = 0
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    identity: tuple[int, int] | None = None
    link: bytes | None = None
    content: Content | None = None


Source = Iterable[SourceEntry]


def make_file(path: bytes, content: bytes, *, mode: int = 0o644, mtime_ns: int = 0) -> SourceEntry:
    """A regular file of bytes at hand."""
    return SourceEntry(path, stat.S_IFREG | mode, mtime_ns=mtime_ns, size=len(content), content=content)
