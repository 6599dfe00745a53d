"""The log of dropped links: which stored files may have lost their last path since garbage was collected last.

``dropped`` in the store: a first line, then the name of a stored file for each path that an update removes or
replaces, and ``-`` for each run that changed a record. With it a collection looks at what was dropped instead of at
everything. It is there only if it is known to be whole. A run that finds out from the disk what is there takes it away,
and so do a tree or a destination that is removed, and a full disk; then all of the store is looked at, which begins a
new one. A run that is cut off needs no care: the next one of that repository asks the disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from shrinkwrap.tree.storage import Storage

if TYPE_CHECKING:
    from shrinkwrap.tree.disk import Names, Old

LOG: Final = b"dropped"
_FIRST: Final = b"dropped links 1\n"
_RUN: Final = b"-"
#: A longer log is of no use: looking at everything is as quick.
_LOG_BYTES: Final = 1 << 28
#: The names that an export gives to stored files (:func:`~shrinkwrap.snapshot.view.object_name`), below their folder.
STORED: Final = re.compile(r"[0-9a-f]{38}[rs]?x?c?[zn][0-9]{1,20}\.[0-9a-f]{40}")
_SHARD: Final = re.compile(r"[0-9a-f]{2}")
_LINE_BYTES: Final = 256
_AT_ONCE: Final = 1 << 16
_FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Drops:
    """Notes what one run drops.

    Args:
        names: as the stored files of what is there were named; None: that is not known.
    """

    def __init__(self, store: Storage, names: Names | None) -> None:
        self._store = store
        self._names = names
        self._lines = bytearray()
        self._fd = -1
        with suppress(OSError):
            self._fd = os.open(LOG, os.O_WRONLY | os.O_APPEND | _FLAGS, dir_fd=store.fd)

    def note(self, old: Old | None) -> None:
        """A file's path goes, or shows another one from now on; None: nobody knows how many do."""
        if self._fd < 0:
            return
        if old is None or old.node is None or self._names is None:
            self.lose()
            return
        self._lines += self._names(old.node).encode() + b"\n"
        if len(self._lines) >= _AT_ONCE:
            self._flush()

    def lose(self) -> None:
        """The log is not whole any more."""
        self.close()
        forget(self._store)

    def finish(self) -> None:
        """All is noted that this run drops. To be called before anything is."""
        self._lines += _RUN + b"\n"
        self._flush()
        self.close()

    def _flush(self) -> None:
        if self._fd < 0:
            return
        try:
            if os.fstat(self._fd).st_size > _LOG_BYTES or os.write(self._fd, self._lines) != len(self._lines):
                self.lose()
        except OSError:  # a full disk: what the run is for is not concerned
            self.lose()
        self._lines.clear()

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def forget(store: Storage) -> None:
    """Nobody knows what was dropped: the next collection looks at everything. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(LOG, dir_fd=store.fd)


def is_empty(store: Storage) -> bool:
    """True if nothing was dropped since garbage was collected last, and no record changed."""
    return empty_in(store.fd)


def empty_in(store: int) -> bool:
    """The same, of a store that is open as a folder. Raises OSError."""
    try:
        return os.stat(LOG, dir_fd=store, follow_symlinks=False).st_size == len(_FIRST)
    except FileNotFoundError:
        return False


def read(store: Storage, take: Callable[[str], None]) -> bool:
    """Give the names that are noted, each perhaps more than once; False if there is no log that can be believed."""
    try:
        fd = os.open(LOG, os.O_RDONLY | _FLAGS, dir_fd=store.fd)
    except OSError:
        return False
    with os.fdopen(fd, "rb") as file:
        if file.readline(_LINE_BYTES) != _FIRST:
            return False
        while line := file.readline(_LINE_BYTES):
            name = line.removesuffix(b"\n")
            if name == line:
                return False
            if name == _RUN:
                continue
            shard, slash, rest = name.decode("ascii", "replace").partition("/")
            if not slash or _SHARD.fullmatch(shard) is None or STORED.fullmatch(rest) is None:
                return False
            take(f"{shard}/{rest}")
    return True


def begin(store: Storage, names: Iterable[str]) -> None:
    """Begin a new log, with what still has to be looked at. Raises OSError."""
    temporary = LOG + b".new"
    work = store.folders.fd(store.tmp)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=work)
    with os.fdopen(fd, "wb") as file:
        file.write(_FIRST)
        for name in names:
            file.write(name.encode() + b"\n")
    os.rename(temporary, LOG, src_dir_fd=work, dst_dir_fd=store.fd)
