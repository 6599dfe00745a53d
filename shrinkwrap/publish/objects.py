"""What a worker does: read content, compress it, hash it, put it into the storage if it is not there.

Batches and results are plain tuples, because thousands of them are sent between processes.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.digest import TAGS, new_hasher
from shrinkwrap.cvmfs.entry import UNCOMPRESSED, show
from shrinkwrap.errors import DestinationError, ShrinkwrapError, UsageError
from shrinkwrap.publish.source import FileRange

#: Larger content streams through a temporary file.
_SMALL: Final = 32 * limits.MIB
_STEP: Final = 1 * limits.MIB


class Piece(NamedTuple):
    """Content of a whole file, or a chunk of it.

    ``ident`` is the number that the file has in this publication. ``offset`` is that of the chunk, -1 for a whole file.
    ``content`` holds the bytes, or says where they are; ``path`` is for messages.
    """

    ident: int
    offset: int
    size: int
    content: bytes | FileRange
    path: bytes


class Stored(NamedTuple):
    """What became of a piece. ``written`` counts the bytes of a new object, 0 if it was there."""

    ident: int
    offset: int
    size: int
    raw: bytes
    written: int


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """How objects are made.

    Attributes:
        storage: folder of the repository.
        scratch: folder for files that are being written, on the same file system.
        algorithm, compression: numbers of FORMAT.md §2.1 and §3.
        distrust: objects that were changed at this time (nanoseconds) or later may be broken, by a run that was cut off
            together with the machine: they are compared before they are kept. 0: none.
    """

    storage: bytes
    scratch: bytes
    algorithm: int
    compression: int
    distrust: int = 0


_serial = 0


def store_batch(settings: StoreSettings, batch: list[Piece]) -> list[Stored]:
    """Store some pieces; the result has their order.

    Raises:
        UsageError: the source cannot be read, or has changed. DestinationError: the storage cannot be written.
    """
    reader = _Reader()
    try:
        return [_store(settings, piece, reader) for piece in batch]
    finally:
        reader.close()


def _store(settings: StoreSettings, piece: Piece, reader: _Reader) -> Stored:
    suffix = "P" if piece.offset >= 0 else ""
    content = piece.content
    if isinstance(content, FileRange):
        if piece.size > _SMALL:
            raw, written = _store_large(settings, piece, content, reader, suffix)
            return Stored(piece.ident, piece.offset, piece.size, raw, written)
        content = reader.read(piece, content, 0, piece.size)
        reader.check(piece)
    raw, written = store_bytes(settings, content, suffix, settings.compression)
    return Stored(piece.ident, piece.offset, piece.size, raw, written)


def store_bytes(settings: StoreSettings, content: bytes, suffix: str, compression: int) -> tuple[bytes, int]:
    """Store an object that is at hand; its raw digest, and the bytes written.

    Level 6 and zlib's other defaults: the bytes that the reference publisher makes (FORMAT.md §3).
    """
    data = content if compression == UNCOMPRESSED else zlib.compress(content)
    hasher = new_hasher(settings.algorithm)
    hasher.update(data)
    raw = hasher.digest()
    path = _path(settings, raw, suffix)
    if _is_there(settings, path, len(data), data):
        return raw, 0
    temporary = _temporary(settings)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _write_all(fd, data)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as exc:
        raise _failed(settings, temporary, exc) from None
    return raw, len(data)


def _store_large(
    settings: StoreSettings, piece: Piece, place: FileRange, reader: _Reader, suffix: str
) -> tuple[bytes, int]:
    """The same in bounded memory."""
    hasher = new_hasher(settings.algorithm)
    squeezer = None if settings.compression == UNCOMPRESSED else zlib.compressobj()
    temporary = _temporary(settings)
    length = 0
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            for offset in range(0, piece.size, _STEP):
                data = reader.read(piece, place, offset, min(_STEP, piece.size - offset))
                if squeezer is not None:
                    data = squeezer.compress(data)
                hasher.update(data)
                _write_all(fd, data)
                length += len(data)
            if squeezer is not None:
                data = squeezer.flush()
                hasher.update(data)
                _write_all(fd, data)
                length += len(data)
        finally:
            os.close(fd)
        reader.check(piece)
        raw = hasher.digest()
        if not put_file(settings, temporary, _path(settings, raw, suffix), length):
            return raw, 0
    except OSError as exc:
        raise _failed(settings, temporary, exc) from None
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return raw, length


def put_file(settings: StoreSettings, file: bytes, path: bytes, length: int) -> bool:
    """Make a complete file the object at ``path``; False, and it is gone, if that is there. Raises OSError too."""
    if _is_there(settings, path, length, None):
        os.unlink(file)
        return False
    os.rename(file, path)
    return True


def _path(settings: StoreSettings, raw: bytes, suffix: str) -> bytes:
    text = raw.hex()
    return settings.storage + f"/data/{text[:2]}/{text[2:]}{TAGS[settings.algorithm]}{suffix}".encode()


def _temporary(settings: StoreSettings) -> bytes:
    global _serial
    _serial += 1
    return settings.scratch + b"/%d.%d" % (os.getpid(), _serial)


def _is_there(settings: StoreSettings, path: bytes, length: int, data: bytes | None) -> bool:
    """Whether a whole object is there already. ``data`` is what it should hold, None if that is not at hand."""
    try:
        info = os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise _failed(settings, path, exc) from None
    if info.st_size != length:
        return False  # a power cut leaves such ones
    if not settings.distrust or info.st_ctime_ns < settings.distrust:
        return True
    if data is None:
        return False  # putting it there again is less work than reading both
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(length + 1) == data
    except OSError:
        return False


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while len(view):
        view = view[os.write(fd, view) :]


class _Reader:
    """Reads ranges of files, one file open at a time."""

    def __init__(self) -> None:
        self._fd = -1
        self._open: FileRange | None = None

    def read(self, piece: Piece, place: FileRange, offset: int, count: int) -> bytes:
        """Bytes of a piece.

        Raises:
            UsageError: it cannot be read, or is another file than it was.
        """
        try:
            self._take(piece, place)
            parts = []
            position = place.start + offset
            while count > 0:
                data = os.pread(self._fd, count, position)
                if not data:
                    raise _changed(piece.path)
                parts.append(data)
                count -= len(data)
                position += len(data)
        except OSError as exc:
            raise UsageError(f"{show(piece.path)}: the source cannot be read: {exc.strerror}") from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _take(self, piece: Piece, place: FileRange) -> None:
        if self._open is not None and self._open.file == place.file:
            return
        self.close()
        # Not blocking, not following: somebody may have put something else there meanwhile.
        self._fd = os.open(place.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        self._open = place
        self.check(piece)

    def check(self, piece: Piece) -> None:
        """Whether the file that is open is still what it was. Raises UsageError."""
        if self._open is None:
            return
        info = os.fstat(self._fd)
        if (info.st_dev, info.st_ino, info.st_size) != self._open.identity or info.st_mtime_ns != self._open.mtime_ns:
            raise _changed(piece.path)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._open = None


def _changed(path: bytes) -> ShrinkwrapError:
    return UsageError(
        f"{show(path)}: it changed while it was read",
        hint="publish when nobody writes to the source; nothing of this run can be seen",
    )


def _failed(settings: StoreSettings, name: bytes, exc: OSError) -> ShrinkwrapError:
    with suppress(OSError):
        if name.startswith(settings.scratch):
            os.unlink(name)
    return DestinationError(
        f"{show(settings.storage)}: an object cannot be written: {exc.strerror}",
        hint="see to space, inodes and permissions there, and run the same command again",
    )
