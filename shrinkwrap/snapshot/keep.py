"""Objects of the trust chain kept on disk as they were fetched: catalogs, histories, certificates.

They lie by digest, so all records of a destination share them; whoever reads one checks its digest again.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Final, Protocol

from shrinkwrap.cvmfs.digest import Digest, new_hasher

_PIECE: Final = 1 << 20


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

    def path(self, digest: Digest, suffix: str) -> str:
        """Where an object lies, or would."""
        return os.path.join(self.folder, digest.object_path(suffix).removeprefix("data/"))

    def open(self, digest: Digest, suffix: str) -> IO[bytes] | None:
        try:
            # Not blocking: somebody may have put a pipe there.
            fd = os.open(self.path(digest, suffix), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return None
        return os.fdopen(fd, "rb")

    def create(self) -> tuple[IO[bytes], str]:
        name = self._temporary()
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        return os.fdopen(fd, "wb"), name

    def _temporary(self) -> str:
        self._serial += 1
        return os.path.join(self._scratch, f"keep-{os.getpid()}-{self._serial}")

    def take(self, file: IO[bytes], path: str, digest: Digest, suffix: str) -> bool:
        """Take over an object that lies elsewhere: as a hard link where that can be, else as a copy.

        Args:
            file: open for reading, at its beginning; ``path``: its name.

        Returns:
            False if its digest is not right.
        """
        if not _fits(file, digest):
            return False
        name = self._temporary()
        try:
            os.link(path, name, follow_symlinks=False)
            linked = os.path.samestat(os.lstat(name), os.fstat(file.fileno()))
        except OSError:
            linked = False
        if not linked:
            self.discard(name)
            file.seek(0)
            out, name = self.create()
            with out:
                # Judged once more: what is read now need not be what was read before.
                right = _fits(file, digest, out)
            if not right:
                self.discard(name)
                return False
        self.adopt(name, digest, suffix)
        return True

    def adopt(self, temporary: str, digest: Digest, suffix: str) -> None:
        path = self.path(digest, suffix)
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
            os.unlink(self.path(digest, suffix))


def _fits(file: IO[bytes], digest: Digest, out: IO[bytes] | None = None) -> bool:
    """Whether what a file holds, which is copied to ``out``, has a digest."""
    hasher = new_hasher(digest.algorithm)
    while piece := file.read(_PIECE):
        hasher.update(piece)
        if out is not None:
            out.write(piece)
    return hasher.digest() == digest.raw


class KeepBeside:
    """A folder of kept objects that takes over from others what it lacks, verified.

    Args:
        own: the folder.
        others: asked, once something is lacking, for other folders of the same kind. Nothing is written there.
    """

    def __init__(self, own: KeepFolder, others: Callable[[], Sequence[KeepFolder]]) -> None:
        self._own = own
        self._ask = others
        self._others: Sequence[KeepFolder] | None = None
        self._broken: set[tuple[Digest, str]] = set()

    def open(self, digest: Digest, suffix: str) -> IO[bytes] | None:
        found = self._own.open(digest, suffix)
        if found is None and (digest, suffix) not in self._broken and self._take(digest, suffix):
            found = self._own.open(digest, suffix)
        return found

    def _take(self, digest: Digest, suffix: str) -> bool:
        if self._others is None:
            self._others = self._ask()
        for other in self._others:
            try:
                file = other.open(digest, suffix)
            except OSError:
                continue  # another's folder that may not be read
            if file is not None:
                with file:
                    if self._own.take(file, other.path(digest, suffix), digest, suffix):
                        return True
        return False

    def create(self) -> tuple[IO[bytes], str]:
        return self._own.create()

    def adopt(self, temporary: str, digest: Digest, suffix: str) -> None:
        self._own.adopt(temporary, digest, suffix)

    def discard(self, temporary: str) -> None:
        self._own.discard(temporary)

    def drop(self, digest: Digest, suffix: str) -> None:
        self._own.drop(digest, suffix)
        # It may have been a link to one of the others.
        self._broken.add((digest, suffix))


class KeepAbove:
    """Folders of kept objects that are only read, and another one for what they lack.

    Args:
        below: nothing is written there; what is broken in it counts as missing.
        above: takes what is new.
        beside: asked for more of the kind of ``below``.
    """

    def __init__(
        self, below: KeepFolder, above: KeepFolder, beside: Callable[[], Sequence[KeepFolder]] = lambda: ()
    ) -> None:
        self._below = below
        self._above = above
        self._beside = beside
        self._broken: set[tuple[Digest, str]] = set()

    def open(self, digest: Digest, suffix: str) -> IO[bytes] | None:
        found = self._above.open(digest, suffix)
        if found is None and (digest, suffix) not in self._broken:
            for below in (self._below, *self._beside()):
                with suppress(PermissionError):
                    found = below.open(digest, suffix)
                if found is not None:
                    break
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
