"""A destination: its folders, its lock, what its file system can do.

Layout below the destination::

    <fqrn>/…                      the visible tree of a repository
    .data/ab/…                    stored files, one folder level (docs/internals/store.md)
    .data/tmp/<run>/              everything that is being made; emptied by the next run
    .data/trash/                  directories that were moved aside
    .data/old/                    the store of the original, while it is taken over
    .data/lock                    held while a run works on the store
    .data/store.json              version of the store's layout
    .provenance/<fqrn>/           record, intent, head seen last
    .provenance/.objects/         catalogs, histories and certificates as fetched, by digest
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from shrinkwrap.errors import DestinationError
from shrinkwrap.snapshot.keep import KeepFolder
from shrinkwrap.tree import adopt as adoption
from shrinkwrap.tree.beneath import DIRECTORY, Folders
from shrinkwrap.tree.storage import Storage, explain, read_description, remove_tree

__all__ = ["Base", "boot_id", "explain", "remove_tree"]


def boot_id() -> str:
    """Differs after each start of the machine; empty where the kernel does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


class Base:
    """An open destination, locked for this run.

    Attributes:
        path: the destination.
        fd: descriptor of it.
        tmp: work folder of this run, relative to the destination, as bytes; on the file system of the tree.
        folders: descriptors beneath the destination.
        store: where the stored files lie: in ``.data``, or elsewhere.
        look: open for reading only: nothing is made, cleaned or written, and the lock is shared.
        adopting: the store of the original is being taken over (:mod:`shrinkwrap.tree.adopt`).

    Args:
        adopt: begin with that, if it is one of the original.
        store: a folder elsewhere for the store; empty: where it is, ``.data`` for a new destination.
    """

    def __init__(
        self, path: str, *, wait: bool = False, look: bool = False, adopt: bool = False, store: str = ""
    ) -> None:
        # A link that the user names as the destination is followed; beneath it none is.
        self.path = os.path.realpath(path)
        self.run = f"{int(time.time())}-{os.getpid()}-{secrets.token_hex(3)}"
        self.tmp = b".data/tmp/" + self.run.encode()
        self.look = look
        self.adopting = False
        try:
            if not look:
                os.makedirs(self.path, exist_ok=True)
            self.fd = os.open(self.path, DIRECTORY)
        except (FileExistsError, NotADirectoryError):
            raise DestinationError(
                f"{self.path}: it, or something on the way to it, is not a folder", hint="choose another destination"
            ) from None
        except OSError as exc:
            raise explain(exc, self.path) from None
        self.folders = Folders(self.fd)
        self._serial = 0
        self._storages: list[Storage] = []
        try:
            self._open(wait, adopt and not look, os.path.realpath(store) if store else "")
        except OSError as exc:
            self.close()
            raise explain(exc, self.path) from None
        except BaseException:
            self.close()
            raise

    def _open(self, wait: bool, adopt: bool, store: str) -> None:
        data = os.path.join(self.path, ".data")
        if self.look and not os.path.lexists(data):
            # No run has been here; but one may have been at a store that others share.
            self._store: Storage | None = None
            if store and os.path.isdir(store):
                self._storages.append(Storage(store, self.run, wait=wait, look=True))
                self._store = self._storages[-1]
            return
        if not self.look:
            self.make_folder(b".data", 0o700)
        elsewhere = self._elsewhere(store if store != os.path.realpath(data) else "", given=bool(store))
        own = Storage(data, self.run, wait=wait, look=self.look, adopt=adopt, store=not elsewhere)
        self._storages.append(own)
        if elsewhere:
            if not self.look:
                os.makedirs(elsewhere, exist_ok=True)
            self._storages.append(Storage(elsewhere, self.run, wait=wait, look=self.look, adopt=adopt))
        self._store = self._storages[-1]
        if self.look:
            return
        if elsewhere:
            # Registered first: no garbage collection may come in between.
            self._store.register(self.path)
            own.describe({"store": elsewhere})
        self.adopting = adoption.is_waiting(self._store)
        self.make_folder(b".provenance", 0o755)
        self.make_folder(b".provenance/.objects", 0o755)

    def _elsewhere(self, wish: str, *, given: bool) -> str:
        """Where the store is, if not in the destination. What a destination was made with stays.

        Raises:
            DestinationError: it was made with another store.
        """
        description = read_description(self.folders.fd(b".data"))
        if description is None:
            return wish
        there = description.get("store", "")
        if not isinstance(there, str) or (given and wish != there):
            raise DestinationError(
                f"{self.path}: its store is {there or os.path.join(self.path, '.data')}, not {wish or '.data'}",
                hint="leave out -y, or choose another destination",
            )
        return there

    @property
    def store(self) -> Storage:
        """The store. There is none for a destination that is only looked at, and that no run has been to."""
        if self._store is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.path.join(self.path, ".data"))
        return self._store

    @property
    def has_store(self) -> bool:
        return self._store is not None

    @property
    def lock(self) -> tuple[int, ...]:
        """Descriptors of the locks: held as long as any process has them open."""
        return tuple(fd for storage in self._storages for fd in storage.lock)

    def make_folder(self, path: bytes, mode: int) -> None:
        """Make a folder, or check that a real folder is there. Raises OSError for anything else."""
        parent, _, name = path.rpartition(b"/")
        with suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=self.folders.fd(parent))
        self.folders.fd(path)

    # -- names of this run -------------------------------------------------------------------------------------------

    def temporary(self) -> bytes:
        """A new name (without folder) in this run's work folder."""
        self._serial += 1
        return b"t%d" % self._serial

    @property
    def scratch(self) -> str:
        """The run's work folder as an absolute path."""
        return os.path.join(self.path, os.fsdecode(self.tmp))

    def keep(self) -> KeepFolder:
        return KeepFolder(os.path.join(self.path, ".provenance", ".objects"), self.scratch)

    def provenance(self, fqrn: str) -> bytes:
        return b".provenance/" + os.fsencode(fqrn)

    # -- small files -------------------------------------------------------------------------------------------------

    def replace_file(self, path: bytes, data: bytes, *, sync: bool = True) -> None:
        """Write a file so that a reader, and the disk after a power cut, has the whole old or the whole new one."""
        self.write_file(path, (data,), sync=sync)
        if sync:
            self.sync_folder(path.rpartition(b"/")[0])

    def write_file(self, path: bytes, pieces: Iterable[bytes], *, sync: bool = False) -> None:
        """Write a file so that a reader has the whole old or the whole new one; ``sync``: its content is on disk."""
        parent, _, name = path.rpartition(b"/")
        # Made in the work folder, which the next run empties.
        work, temporary = self.tmp, self.temporary()
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self.folders.fd(work))
        fd = os.open(
            temporary,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o644,
            dir_fd=self.folders.fd(work),
        )
        try:
            for data in pieces:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        source = os.dup(self.folders.fd(work))
        try:
            os.rename(temporary, name, src_dir_fd=source, dst_dir_fd=self.folders.fd(parent))
        finally:
            os.close(source)

    def read_file(self, path: bytes, limit: int) -> bytes | None:
        """A small file of ours, None if there is none. Raises DestinationError for one that is too large."""
        parent, _, name = path.rpartition(b"/")
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.folders.fd(parent))
        except FileNotFoundError:
            return None
        with os.fdopen(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise DestinationError(f"{self.path}/{os.fsdecode(path)}: larger than {limit} bytes")
        return data

    def read_json(self, path: bytes, limit: int) -> dict[str, Any] | None:
        """A JSON object of ours; None if there is none, or if it cannot be read as one."""
        data = self.read_file(path, limit)
        if data is None:
            return None
        try:
            value = json.loads(data)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def remove_file(self, path: bytes) -> None:
        parent, _, name = path.rpartition(b"/")
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.folders.fd(parent))
        self.sync_folder(parent)

    def sync_folder(self, path: bytes) -> None:
        fd = os.open(b".", DIRECTORY, dir_fd=self.folders.fd(path))
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def clock(self) -> int:
        """The file system's time, in nanoseconds: the one that ctimes are of."""
        folder = self.folders.fd(self.tmp)
        name = self.temporary()
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            return os.fstat(fd).st_ctime_ns
        finally:
            os.close(fd)
            os.unlink(name, dir_fd=folder)

    def sync(self) -> None:
        """Bring the whole file systems of destination and store to disk: one call instead of one for each file."""
        libc = ctypes.CDLL(None, use_errno=True)
        done: set[int] = set()
        for fd in (self.fd, *(storage.fd for storage in self._storages)):
            device = os.fstat(fd).st_dev
            if device not in done and libc.syncfs(fd) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), self.path)
            done.add(device)

    def close(self) -> None:
        """Remove the work folders and give the locks back. Idempotent."""
        for storage in reversed(self._storages):
            storage.close()
        self._storages.clear()
        self.folders.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
