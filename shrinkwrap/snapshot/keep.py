"""Objects of the trust chain kept on disk as they were fetched: catalogs, histories, certificates.

They lie by digest, so all records of a destination share them; whoever reads one checks its digest again.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import IO, Protocol

from shrinkwrap.cvmfs.digest import Digest


class Keep(Protocol):
    """A folder of kept objects, or the lack of one."""

    def open(self, digest: Digest, suffix: str) -> IO[bytes] | None:
        """The stored bytes, unchecked; None if they are not here."""
        ...

    def create(self) -> tuple[IO[bytes], str]:
        """A new file for an object that is arriving, and its temporary name."""
        ...

    def adopt(self, temporary: str, digest: Digest, suffix: str) -> None:
        """The file is complete and verified: give it its name."""
        ...

    def discard(self, temporary: str) -> None: ...

    def drop(self, digest: Digest, suffix: str) -> None:
        """The stored bytes turned out to be broken."""
        ...


class KeepFolder:
    """Objects in ``<folder>/ab/cdef…[tag]<suffix>``, the layout of a repository's own ``data``.

    Args:
        folder: made when needed, 0755 less the umask.
        scratch: an existing folder of the same file system for objects that are arriving.
    """

    def __init__(self, folder: str, scratch: str) -> None:
        self.folder = folder
        self._scratch = scratch
        self._serial = 0

    def _path(self, digest: Digest, suffix: str) -> str:
        return os.path.join(self.folder, digest.object_path(suffix).removeprefix("data/"))

    def open(self, digest: Digest, suffix: str) -> IO[bytes] | None:
        try:
            # Not blocking: somebody may have put a pipe there.
            fd = os.open(self._path(digest, suffix), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        return os.fdopen(fd, "rb")

    def create(self) -> tuple[IO[bytes], str]:
        self._serial += 1
        name = os.path.join(self._scratch, f"keep-{os.getpid()}-{self._serial}")
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        return os.fdopen(fd, "wb"), name

    def adopt(self, temporary: str, digest: Digest, suffix: str) -> None:
        path = self._path(digest, suffix)
        shard = os.path.dirname(path)
        if os.path.islink(shard):  # planted, to lead elsewhere
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), shard)
        try:
            os.rename(temporary, path)
        except FileNotFoundError:
            os.makedirs(shard, exist_ok=True)
            os.rename(temporary, path)

    def discard(self, temporary: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(temporary)

    def drop(self, digest: Digest, suffix: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path(digest, suffix))


class KeepAbove:
    """A folder of kept objects that is only read, and another one for what it lacks.

    Args:
        below: nothing is written there; what is broken in it counts as missing.
        above: takes what is new.
    """

    def __init__(self, below: KeepFolder, above: KeepFolder) -> None:
        self._below = below
        self._above = above
        self._broken: set[tuple[Digest, str]] = set()

    def open(self, digest: Digest, suffix: str) -> IO[bytes] | None:
        found = self._above.open(digest, suffix)
        if found is None and (digest, suffix) not in self._broken:
            found = self._below.open(digest, suffix)
        return found

    def create(self) -> tuple[IO[bytes], str]:
        return self._above.create()

    def adopt(self, temporary: str, digest: Digest, suffix: str) -> None:
        self._above.adopt(temporary, digest, suffix)

    def discard(self, temporary: str) -> None:
        self._above.discard(temporary)

    def drop(self, digest: Digest, suffix: str) -> None:
        self._above.drop(digest, suffix)
        self._broken.add((digest, suffix))
