"""Checksums (XXH3, 128 bits) of stored files, noted when they are written: one file for each folder of the store.

Derived data: what is not noted here is computed from the stored file when it is asked for. A content has one checksum,
however many stored files differ in metadata. Records are appended, 32 bytes each: a hash of what stands for the content
in the name, and the checksum; the later of two counts. What a crash cuts off, or leaves as zeros, says nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import blake2b
from struct import Struct
from typing import Final

import xxhash

from shrinkwrap.tree.beneath import open_beneath

FOLDER: Final = b"sums"
WIDTH: Final = 16
_RECORD: Final = Struct(f"{WIDTH}s{WIDTH}s")
_STEP: Final = 1 << 20


def checksum_of(fd: int) -> bytes:
    """XXH3 over an open file's content."""
    state = xxhash.xxh3_128()
    position = 0
    while piece := os.pread(fd, _STEP, position):
        state.update(piece)
        position += len(piece)
    return state.digest()


def name_of(content: str) -> bytes:
    """How a content is named in a record: a hash of its stored files' name up to their metadata."""
    return blake2b(content.encode(), digest_size=WIDTH).digest()


def number_of_sums(data: int, shard: str) -> int:
    """How many checksums are noted for one folder of a store, at most."""
    try:
        folder = open_beneath(data, FOLDER)
    except FileNotFoundError:
        return 0
    try:
        return os.stat(shard, dir_fd=folder, follow_symlinks=False).st_size // _RECORD.size
    except FileNotFoundError:
        return 0
    finally:
        os.close(folder)


def keep_only(data: int, shard: str, names: set[bytes]) -> None:
    """Forget the checksums of all contents but these. Nothing is lost if it is cut off but checksums.

    Args:
        data: descriptor of the store.
        names: see :func:`name_of`.
    """
    sums = ShardSums(data, shard)
    known = sums.all()
    if known.keys() <= names:
        return
    with suppress(FileNotFoundError):
        folder = open_beneath(data, FOLDER)
        try:
            os.unlink(shard, dir_fd=folder)
        finally:
            os.close(folder)
    for name, value in known.items():
        if name in names:
            sums.put(name, value)
    sums.flush()


class ShardSums:
    """The checksums of one folder's files; made for one batch.

    Args:
        data: descriptor of the store; stays the caller's.
        shard: name of the folder.
    """

    __slots__ = ("_data", "_fresh", "_known", "_shard")

    def __init__(self, data: int, shard: str) -> None:
        self._data = data
        self._shard = shard.encode()
        self._known: dict[bytes, bytes] | None = None
        self._fresh = bytearray()

    def get(self, name: bytes) -> bytes | None:
        """What is noted of a content."""
        return self.all().get(name)

    def all(self) -> dict[bytes, bytes]:
        """What is noted of each content."""
        if self._known is None:
            self._known = dict(_RECORD.iter_unpack(self._read()))
            self._known.update(_RECORD.iter_unpack(bytes(self._fresh)))
        return self._known

    def put(self, name: bytes, value: bytes) -> None:
        """Note a content's checksum; :meth:`flush` writes it."""
        self._fresh += name + value
        if self._known is not None:
            self._known[name] = value

    def flush(self) -> None:
        """Append what is new."""
        if not self._fresh:
            return
        with suppress(FileExistsError):
            os.mkdir(FOLDER, 0o700, dir_fd=self._data)
        folder = open_beneath(self._data, FOLDER)
        try:
            fd = os.open(self._shard, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        finally:
            os.close(folder)
        try:
            end = os.fstat(fd).st_size
            # A record that was cut off is written over.
            position = end - end % _RECORD.size
            view = memoryview(self._fresh)
            while view:
                written = os.pwrite(fd, view, position)
                position += written
                view = view[written:]
            view.release()
        finally:
            os.close(fd)
        self._fresh = bytearray()

    def _read(self) -> bytes:
        try:
            folder = open_beneath(self._data, FOLDER)
        except FileNotFoundError:
            return b""
        try:
            fd = os.open(self._shard, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return b""
        finally:
            os.close(folder)
        with os.fdopen(fd, "rb") as file:
            data = file.read()
        return data[: len(data) - len(data) % _RECORD.size]
