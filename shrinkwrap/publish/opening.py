"""From what a user names to a source."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from shrinkwrap.errors import ShrinkwrapError, UsageError
from shrinkwrap.publish.archive import FileInput, PipeInput, read_tar
from shrinkwrap.publish.directory import walk_directory
from shrinkwrap.publish.source import Source
from shrinkwrap.publish.streams import decompressed

#: Standard input.
STDIN: Final = "-"


@contextmanager
def open_source(source: Source | str | os.PathLike[str], *, without: tuple[int, int] | None = None) -> Iterator[Source]:
    """A directory, a tar archive (compressed or not, ``-`` for standard input), or a source as it is.

    Args:
        without: device and inode of a directory that must not be met.

    Raises:
        UsageError: there is nothing of the kind, or it cannot be read.
    """
    if not isinstance(source, str | os.PathLike):
        yield source
        return
    name = os.fspath(source)
    if name == STDIN:
        stream, _ = decompressed(0, "standard input")
        yield read_tar(PipeInput(stream, "standard input"), "standard input")
        return
    try:
        if stat.S_ISDIR(os.stat(name).st_mode):
            yield walk_directory(os.fsencode(name), without=without)
            return
        # A link is followed here; workers open the file that it leads to.
        real = os.path.realpath(os.fsencode(name))
        fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as exc:
        raise _unreadable(name, exc) from None
    shown = ascii(name)
    try:
        stream, packed = decompressed(fd, shown)
        if packed or not stat.S_ISREG(os.fstat(fd).st_mode):
            yield read_tar(PipeInput(stream, shown), shown)
        else:
            yield read_tar(FileInput(fd, real), shown)
    finally:
        os.close(fd)


def _unreadable(name: str, exc: OSError | ValueError) -> ShrinkwrapError:
    reason = getattr(exc, "strerror", None) or exc
    return UsageError(f"{name!a}: the source cannot be read: {reason}", hint="a directory, a tar archive, or -")
