"""How the file of an image comes into being: under a temporary name, whole and on disk before it gets its own."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import DestinationError, UsageError

#: Bytes that the kernel is asked to copy at a time, and those that go through memory where it cannot.
_RANGE: Final = 1 << 30
_PIECE: Final = 1 << 20
#: What ``copy_file_range`` says where it cannot: other file systems, old kernels, special files.
_NO_RANGE: Final = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY, errno.EBADF}
)


@contextmanager
def whole_file(path: bytes, mode: int = 0o666) -> Iterator[int]:
    """A descriptor to write a file with, for reading too. The file stands at its path when the block ends well.

    Until then it has a hidden name in the same folder, and after an error nothing is left of it. The umask applies to
    ``mode``.

    Raises:
        DestinationError: the file cannot be made; also for any :class:`OSError` that leaves the block.
    """
    folder = os.path.dirname(path) or b"."
    # Not made from the file's own name: that may have 255 bytes already.
    temporary = os.path.join(folder, b".shrinkwrap-" + secrets.token_hex(8).encode())
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    except OSError as exc:
        raise unwritable(path, exc) from None
    try:
        try:
            yield fd
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException as exc:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(exc, OSError):
            raise unwritable(path, exc) from None
        raise
    sync_folder(folder)


def sync_folder(path: bytes) -> None:
    """Bring a folder's names to disk.

    Raises:
        DestinationError: it cannot be.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise unwritable(path, exc) from None
    try:
        os.fsync(fd)
    except OSError as exc:
        # Some network file systems cannot do this with folders.
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise unwritable(path, exc) from None
    finally:
        os.close(fd)


def unwritable(path: bytes, exc: OSError) -> DestinationError:
    """The error for a destination that the system refuses."""
    hint = ""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "make room, or write the image somewhere else"
    return DestinationError(f"{show(path)}: cannot be written: {exc.strerror or exc}", hint=hint)


def write_all(fd: int, data: bytes | memoryview, position: int) -> None:
    """Write all of ``data`` at ``position``, in as many calls as it takes."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, position)
        view = view[done:]
        position += done


def copy_range(source: int, start: int, size: int, target: int, position: int, *, name: bytes) -> None:
    """Copy bytes between open files; by the kernel, sharing blocks, where it can.

    Args:
        name: of the source, for errors.

    Raises:
        UsageError: the source cannot be read, or is shorter.
        OSError: the target cannot be written.
    """
    ranges = True
    while size:
        done = 0
        if ranges:
            try:
                done = os.copy_file_range(source, target, min(size, _RANGE), start, position)
            except OSError as exc:
                if exc.errno not in _NO_RANGE:
                    raise
            ranges = done > 0
        if not done:
            data = read_some(source, start, min(size, _PIECE), name)
            write_all(target, data, position)
            done = len(data)
        start += done
        position += done
        size -= done


def read_some(fd: int, start: int, size: int, name: bytes) -> bytes:
    """At least one byte from a position of an open file.

    Raises:
        UsageError: it cannot be read, or ends before.
    """
    try:
        data = os.pread(fd, size, start)
    except OSError as exc:
        raise UsageError(f"{show(name)}: cannot be read: {exc.strerror}") from None
    if not data:
        raise UsageError(f"{show(name)}: ends at {start}, expected {size} bytes more")
    return data
