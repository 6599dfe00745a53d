"""What an image is made of: an ordered stream of entries, and the content that they name.

This is where builders and formats meet. The stream has the order of snapshots (component-wise byte order of names, a
parent before its children), begins with the root, and can be had several times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from shrinkwrap.snapshot.view import DIR, FILE, LINK, Xattrs

__all__ = ["DIR", "FILE", "LINK", "Contents", "ImageEntry", "parent_of"]


class ImageEntry(NamedTuple):
    """One path of an image.

    Attributes:
        path: absolute in the image, as ``/sft.cern.ch/lcg``; the root is ``b""``.
        kind: :data:`DIR`, :data:`FILE` or :data:`LINK`.
        mode: the low twelve bits.
        mtime_ns: nanoseconds since the epoch; any number.
        target: of a link.
        size: bytes of a file; of a link the length of its target; 0 for directories.
        key: names the content of a file, 16 bytes: equal keys mean equal content. Empty for all else.
        link: entries that are not directories, lie in one directory, have the same number other than 0 and are equal
            but for their paths are hard links of each other.
    """

    path: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Xattrs
    target: bytes
    size: int
    key: bytes
    link: int

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]


class Contents(Protocol):
    """The content of all files of a stream."""

    def pieces(self, entry: ImageEntry) -> Iterator[bytes]:
        """What a file holds, in pieces of at most 1 MiB; exactly ``entry.size`` bytes."""
        ...


class Entries(Protocol):
    """A stream that can be had several times."""

    def __iter__(self) -> Iterator[ImageEntry]: ...


def parent_of(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]


def folder(path: bytes, mtime_ns: int) -> ImageEntry:
    """A directory that no repository has."""
    return ImageEntry(path, DIR, 0o755, 0, 0, mtime_ns, (), b"", 0, b"", 0)


def chained(streams: Iterable[Iterable[ImageEntry]]) -> Iterator[ImageEntry]:
    """Streams one after the other: whoever puts them together minds their order."""
    for stream in streams:
        yield from stream
