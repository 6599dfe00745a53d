"""Where the files of an OCI image layout go: a folder, or one archive of it. Each gets its name when it is whole."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple, Protocol

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import DestinationError
from shrinkwrap.image.compress import Bytes
from shrinkwrap.image.entries import DIR, FILE, ImageEntry
from shrinkwrap.image.output import sync_folder, unwritable, whole_file, write_all
from shrinkwrap.image.tar import RECORD, header

_MARK: Final = "oci-layout"
_INDEX: Final = "index.json"
_LAYOUT: Final = {"imageLayoutVersion": "1.0.0"}
_NAME: Final = b"/blobs/sha256/"
_BLOCK: Final = 512
#: Room for the header of a blob, which is written when its size is known: pax header, its records, header.
_HEADER: Final = 3 * _BLOCK


class Blob(NamedTuple):
    """A file named by its content: SHA-256 in hex, and size in bytes."""

    sha256: str
    size: int


class Writing:
    """A blob that is being written to a part of an open file."""

    def __init__(self, fd: int, start: int) -> None:
        self._fd = fd
        self._start = start
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, data: Bytes) -> None:
        write_all(self._fd, memoryview(data), self._start + self._size)
        self._digest.update(data)
        self._size += len(data)

    @property
    def blob(self) -> Blob:
        """What was written so far."""
        return Blob(self._digest.hexdigest(), self._size)


class Blobs(Protocol):
    """Takes blobs, one at a time, and the index at last."""

    def start(self) -> Writing: ...
    def end(self, writing: Writing) -> Blob:
        """The blob is whole, and gets its name."""
        ...

    def finish(self, index: bytes) -> None: ...


def put(blobs: Blobs, data: bytes) -> Blob:
    """Write a blob that is at hand."""
    writing = blobs.start()
    writing.write(data)
    return blobs.end(writing)


def document(value: dict[str, Any]) -> bytes:
    """The one way to write JSON: ASCII, keys sorted, no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


@contextmanager
def layout_folder(path: bytes) -> Iterator[Blobs]:
    """A folder, which stands at ``path`` when the block ends well. A layout that is there already gives way to it.

    Raises:
        DestinationError: it cannot be written, or what is there is no image layout.
    """
    path = path.rstrip(b"/") or b"/"
    parent = os.path.dirname(path) or b"."
    _check_old(path)
    temporary = os.path.join(parent, b".shrinkwrap-" + secrets.token_hex(8).encode())
    blobs = os.path.join(temporary, b"blobs", b"sha256")
    writer = _Folder(temporary, blobs)
    try:
        for folder in (temporary, os.path.dirname(blobs), blobs):
            os.mkdir(folder)
        yield writer
        for folder in (blobs, os.path.dirname(blobs), temporary):
            sync_folder(folder)
        if os.path.lexists(path):
            _check_old(path)
            # Two names cannot be exchanged by means of Python alone: for a moment there is none.
            old = temporary + b"-old"
            os.rename(path, old)
            try:
                os.rename(temporary, path)
            except OSError:
                os.rename(old, path)
                raise
            shutil.rmtree(old)
        else:
            os.rename(temporary, path)
    except OSError as exc:
        raise unwritable(path, exc) from None
    finally:
        writer.close()
        with suppress(OSError):
            shutil.rmtree(temporary)
    sync_folder(parent)


def _check_old(path: bytes) -> None:
    if os.path.lexists(path) and not os.path.isfile(os.path.join(path, _MARK.encode())):
        raise DestinationError(
            f"{show(path)}: exists, and is no OCI image layout",
            hint="name a path that is free, or remove what is there",
        )


@contextmanager
def layout_archive(path: bytes, mtime: int) -> Iterator[Blobs]:
    """One archive, which stands at ``path`` when the block ends well.

    Args:
        mtime: of all that is in it, in seconds since the epoch.

    Raises:
        DestinationError: it cannot be written.
    """
    with whole_file(path) as fd:
        yield _Archive(fd, mtime)


class _Folder:
    def __init__(self, top: bytes, folder: bytes) -> None:
        self._top = top
        self._folder = folder
        self._part = os.path.join(folder, b".part")
        self._fd = -1

    def start(self) -> Writing:
        self._fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        return Writing(self._fd, 0)

    def end(self, writing: Writing) -> Blob:
        os.fsync(self._fd)
        self.close()
        os.rename(self._part, os.path.join(self._folder, writing.blob.sha256.encode()))
        return writing.blob

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def finish(self, index: bytes) -> None:
        for name, data in ((_MARK, document(_LAYOUT)), (_INDEX, index)):
            with whole_file(os.path.join(self._top, name.encode())) as fd:
                write_all(fd, data, 0)


class _Archive:
    def __init__(self, fd: int, mtime: int) -> None:
        self._fd = fd
        self._mtime_ns = mtime * 10**9
        self._position = 0
        self._names: set[str] = set()
        for path in (b"/blobs", b"/blobs/sha256"):
            self._append(header(self._entry(path, DIR, 0)))

    def start(self) -> Writing:
        return Writing(self._fd, self._position + _HEADER)

    def end(self, writing: Writing) -> Blob:
        sha256, size = blob = writing.blob
        if sha256 not in self._names:  # Else the next one takes its place.
            self._names.add(sha256)
            head = header(self._entry(_NAME + sha256.encode(), FILE, size), size_record=True)
            write_all(self._fd, head, self._position)
            self._position += _HEADER + size
            self._append(bytes(-size % _BLOCK))
        return blob

    def finish(self, index: bytes) -> None:
        for name, data in ((_INDEX, index), (_MARK, document(_LAYOUT))):
            self._append(header(self._entry(b"/" + name.encode(), FILE, len(data))))
            self._append(data + bytes(-len(data) % _BLOCK))
        self._append(bytes(2 * _BLOCK + -(self._position + 2 * _BLOCK) % RECORD))
        # A blob that was there already may have been longer than what came after it.
        os.ftruncate(self._fd, self._position)

    def _append(self, data: bytes) -> None:
        write_all(self._fd, data, self._position)
        self._position += len(data)

    def _entry(self, path: bytes, kind: str, size: int) -> ImageEntry:
        return ImageEntry(path, kind, 0o755 if kind == DIR else 0o644, 0, 0, self._mtime_ns, (), b"", size, b"", 0)
