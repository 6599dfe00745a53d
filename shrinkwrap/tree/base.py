"""A destination: its folders, its lock, what its file system can do.

Layout below the destination::

    <fqrn>/…                      the visible tree of a repository
    .data/ab/…                    stored files, one folder level (docs/internals/store.md)
    .data/tmp/<run>/              everything that is being made; emptied by the next run
    .data/trash/                  directories that were moved aside
    .data/old/                    the store of the original, while it is taken over
    .data/lock                    held while a run works here
    .data/store.json              version of the store's layout; where the store is, if elsewhere
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
from shrinkwrap.snapshot.keep import KeepBeside, KeepFolder
from shrinkwrap.tree import adopt as adoption
from shrinkwrap.tree.beneath import DIRECTORY, Folders
from shrinkwrap.tree.storage import Storage, explain, make_place, place_for, remove_tree

__all__ = ["Base", "boot_id", "explain", "remove_tree"]


def boot_id() -> str:
    """Differs after each start of the machine; empty where the kernel does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _kept_in(place: str) -> str:
    return os.path.join(place, ".provenance", ".objects")


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
        place = place_for(self.path, store)
        self.run = f"{int(time.time())}-{os.getpid()}-{secrets.token_hex(3)}"
        self.tmp = b".data/tmp/" + self.run.encode()
        self.look = look
        self.adopting = False
        self.fd = -1
        self._store: Storage | None = None
        self._storages: list[Storage] = []
        if not look:
            self._foresee(place, given=bool(store), adopt=adopt)
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
        try:
            self._open(place, given=bool(store), adopt=adopt, wait=wait)
        except OSError as exc:
            self.close()
            raise explain(exc, self.path) from None
        except BaseException:
            self.close()
            raise

    def _foresee(self, place: str, *, given: bool, adopt: bool) -> None:
        """What is refused is refused before anything is made. Raises DestinationError."""
        try:
            self._find(place, given=given, adopt=adopt)
        except OSError as exc:
            raise explain(exc, self.path) from None
        finally:
            self._release()

    def _open(self, place: str, *, given: bool, adopt: bool, wait: bool) -> None:
        if self.look:
            self._find(place, given=given, wait=wait)
            return
        self.make_folder(b".data", 0o700)
        own, elsewhere = self._find(place, given=given, adopt=adopt, wait=wait)
        assert own is not None
        self.store.begin()
        if elsewhere:
            # Before anything is put there: what it needs is no garbage.
            self.store.register(self.path)
            own.begin(elsewhere)
        self.adopting = adoption.is_waiting(self.store)
        self.make_folder(b".provenance", 0o755)
        self.make_folder(b".provenance/.objects", 0o755)

    def _find(
        self, place: str, *, given: bool, adopt: bool = False, wait: bool | None = None
    ) -> tuple[Storage | None, str]:
        """Open the store, and what the destination has of its own: that, and where the store is if not there.

        Args:
            wait: None: look only, and take no lock. What is not there is left out then, as with ``look``.
        """
        data = os.path.join(self.path, ".data")
        look = self.look or wait is None

        def opened(folder: str, *, shared: bool) -> Storage:
            storage = Storage(folder, self.run, wait=wait, look=look, adopt=adopt, shared=shared)
            self._storages.append(storage)
            return storage

        own = opened(data, shared=False) if os.path.lexists(data) else None
        # Asked with the lock held: another run may have been the first.
        elsewhere = self._elsewhere(own, place, given=given)
        if not elsewhere:
            self._store = own
        elif not look or os.path.isdir(elsewhere):
            if not look:
                make_place(elsewhere)
            self._store = opened(elsewhere, shared=True)
        return own, elsewhere

    def _elsewhere(self, own: Storage | None, wish: str, *, given: bool) -> str:
        """Where the store is, if not in the destination. What a destination was made with stays.

        Raises:
            DestinationError: it was made with another store, or its store is not there.
        """
        if own is None or own.description is None:
            if wish and own is not None and own.is_original:
                raise DestinationError(
                    f"{own.path}: the store of cvmfs_shrinkwrap is here, not in {wish}",
                    hint="leave out -y, or choose another destination",
                )
            return wish
        there = self._pointer(own.description)
        if given and wish != there:
            raise DestinationError(
                f"{self.path}: its store is {there or own.path}, not {wish or own.path}",
                hint="leave out -y, or choose another destination",
            )
        if there and not os.path.lexists(os.path.join(there, "store.json")):
            raise DestinationError(
                f"{there}: the store of {self.path} is not there",
                hint=f"mount what it is on; if it is lost, remove {own.path}, and run with --repair",
            )
        return there

    def _pointer(self, description: dict[str, Any]) -> str:
        """The store that a destination names, as a real path: a link may lead to where it was moved."""
        there = description.get("store", "")
        try:
            if there == "" or (os.path.isabs(there) and b"\0" not in os.fsencode(there)):
                return os.path.realpath(there) if there else ""
        except (TypeError, ValueError):  # no text at all, or none that could be a path
            there = description["store"]
        raise DestinationError(
            f"{self.path}/.data/store.json: {there!a} is no place for a store",
            hint=f"remove {self.path}/.data, and run with --repair",
        )

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

    def keep(self) -> KeepBeside:
        """Kept catalogs and the like. Those that other destinations of the store keep are taken over from there."""
        return KeepBeside(KeepFolder(_kept_in(self.path), self.scratch), self.kept_beside)

    def kept_beside(self) -> list[KeepFolder]:
        """What other destinations of the store keep, as far as they are there. Nothing is written there."""
        if not self.has_store:
            return []
        above, name = os.path.split(self.store.path)
        places = [above] if name == ".data" else []
        with suppress(DestinationError):
            places += self.store.bases()
        return [KeepFolder(_kept_in(place), self.scratch) for place in places if place != self.path]

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
        """The store's file system's time, in nanoseconds: the one that ctimes of stored files are of."""
        folder = self.store.folders.fd(self.store.tmp)
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

    def empty_trash(self) -> None:
        """Remove what was moved aside: stored files have links there, too. Raises OSError."""
        for storage in self._storages:
            storage.empty_trash()

    def close(self) -> None:
        """Remove the work folders and give the locks back. Idempotent."""
        self._release()
        self.folders.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _release(self) -> None:
        for storage in reversed(self._storages):
            storage.close()
        self._storages.clear()
        self._store = None
