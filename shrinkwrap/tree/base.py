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
import fcntl
import json
import os
import secrets
import shutil
import time
from contextlib import suppress
from typing import Any, Final

from shrinkwrap.errors import DestinationError, LockedError
from shrinkwrap.snapshot.keep import KeepFolder
from shrinkwrap.tree import adopt as adoption
from shrinkwrap.tree.beneath import DIRECTORY, Folders

STORE_VERSION: Final = 1
#: Who holds the lock, for the message of whoever finds it held.
_HOLDER_BYTES: Final = 200


def boot_id() -> str:
    """Differs after each start of the machine; empty where the kernel does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def explain(error: OSError, where: str) -> DestinationError:
    """An error of the operating system in words that tell what to do."""
    name = error.filename if isinstance(error.filename, str) else os.fsdecode(error.filename or "")
    what = f"{where}: {error.strerror or error}" + (f" ({name})" if name and name != where else "")
    hints = {
        errno.ENOSPC: "free space or inodes there and run the same command again; what is complete is kept",
        errno.EDQUOT: "raise the quota and run the same command again; what is complete is kept",
        errno.EEXIST: "something stands in the tree that no export put there; run with --repair",
        errno.EACCES: "the folder must belong to, or be writable for, whoever runs the export",
        errno.EPERM: "the folder must belong to, or be writable for, whoever runs the export",
        errno.EROFS: "the file system is mounted read-only",
        errno.ELOOP: "a symbolic link stands where a folder of the export must be; remove it, or run with --repair",
        errno.ENOTDIR: "something else stands where a folder of the export must be; run with --repair",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
    }
    return DestinationError(
        what,
        hint=hints.get(error.errno or 0, "run the same command again; add --repair if the tree was changed by hand"),
    )


class Base:
    """An open destination, locked for this run.

    Attributes:
        path: the destination.
        fd: descriptor of it.
        tmp: work folder of this run, relative to the destination, as bytes.
        folders: descriptors beneath the destination.
        look: open for reading only: nothing is made, cleaned or written, and the lock is shared.
        adopting: the store of the original is being taken over (:mod:`shrinkwrap.tree.adopt`).

    Args:
        adopt: begin with that, if it is one of the original.
    """

    def __init__(self, path: str, *, wait: bool = False, look: bool = False, adopt: bool = False) -> None:
        # A link that the user names as the destination is followed; beneath it none is.
        self.path = os.path.realpath(path)
        self.run = f"{int(time.time())}-{os.getpid()}-{secrets.token_hex(3)}"
        self.tmp = b".data/tmp/" + self.run.encode()
        self.look = look
        self.adopting = False
        self._adopt = adopt and not look
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
        self._lock = -1
        self._ours = False
        self._serial = 0
        try:
            if look:
                self._look(wait)
            else:
                self._prepare(wait)
        except OSError as exc:
            self.close()
            raise explain(exc, self.path) from None
        except BaseException:
            self.close()
            raise

    def _prepare(self, wait: bool) -> None:
        self.make_folder(b".data", 0o700)
        self._check_owner()
        # Before the lock, because its file would be put there; with it, because another first run may have begun.
        self._check_foreign()
        self._take_lock(wait)
        self._check_version()
        self.adopting = adoption.is_waiting(self)
        self._ours = True
        self.make_folder(b".data/tmp", 0o700)
        self._clean(b".data/tmp")
        self._clean(b".data/trash")
        self.make_folder(self.tmp, 0o700)
        self.make_folder(b".provenance", 0o755)
        self.make_folder(b".provenance/.objects", 0o755)

    def _look(self, wait: bool) -> None:
        """The checks of a run, with a lock that others who only look may hold too."""
        try:
            data = self.folders.fd(b".data")
        except FileNotFoundError:
            return  # nothing to lock: no run has been here
        self._check_owner()
        self._check_foreign()
        try:
            fd = os.open(b"lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=data)
        except FileNotFoundError:
            return
        self._lock = self._locked(fd, fcntl.LOCK_SH, wait)
        self._check_version()

    def _check_owner(self) -> None:
        """Checked before anything is put there: a folder that is not ours may be open to others."""
        info = os.stat(b".data", dir_fd=self.fd, follow_symlinks=False)
        if info.st_uid != os.geteuid():
            raise DestinationError(
                f"{self.path}/.data belongs to user {info.st_uid}, not to {os.geteuid()}",
                hint="run as the user who made this export, or choose another destination",
            )

    def make_folder(self, path: bytes, mode: int) -> None:
        """Make a folder, or check that a real folder is there. Raises OSError for anything else."""
        parent, _, name = path.rpartition(b"/")
        with suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=self.folders.fd(parent))
        self.folders.fd(path)

    def _take_lock(self, wait: bool) -> None:
        fd = os.open(
            b"lock",
            os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
            dir_fd=self.folders.fd(b".data"),
        )
        self._lock = self._locked(fd, fcntl.LOCK_EX, wait)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} on {os.uname().nodename}, run {self.run}\n".encode(), 0)

    def _locked(self, fd: int, kind: int, wait: bool) -> int:
        """The descriptor, locked. It is closed if that fails."""
        try:
            fcntl.flock(fd, kind | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.read(fd, _HOLDER_BYTES).decode("utf-8", "replace").strip()
            os.close(fd)
            raise LockedError(
                f"{self.path}: another run is working here" + (f" ({holder})" if holder else ""),
                hint="wait for it to end, or use --wait",
            ) from None
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _check_foreign(self) -> None:
        """Raises DestinationError for a store that is not ours. Nothing is changed in it."""
        names = set(os.listdir(os.path.join(self.path, ".data")))
        # A first run that was cut off may have left no more than these.
        if "store.json" not in names and names - {"lock", "store.json.new"}:
            original = adoption.is_original(self.folders.fd(b".data"))
            # With the folder "old" somebody has said already that it is to be taken over.
            if original and (self._adopt or "old" in names):
                return
            raise DestinationError(
                f"{self.path}/.data is not empty and was not made by this tool",
                hint="it looks like one of cvmfs_shrinkwrap: --adopt takes it over; or choose another destination"
                if original
                else "choose another destination, or move that folder away",
            )

    def _check_version(self) -> None:
        data = self.folders.fd(b".data")
        try:
            fd = os.open(b"store.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=data)
        except FileNotFoundError:
            self._check_foreign()
            if not self.look:
                adoption.move_aside(self)
                self.replace_file(b".data/store.json", json.dumps({"version": STORE_VERSION}).encode() + b"\n")
            return
        with os.fdopen(fd, "rb") as file:
            text = file.read(4096)
        try:
            version = json.loads(text)["version"]
        except (ValueError, KeyError, TypeError):
            version = None
        if version != STORE_VERSION:
            raise DestinationError(
                f"{self.path}/.data/store.json: layout version {version!r}, this release knows {STORE_VERSION}",
                hint="use the release that made the store, or a newer one",
            )

    def _clean(self, path: bytes) -> None:
        """Remove what runs that were cut off have left. The lock says that none of them is alive."""
        full = os.path.join(os.fsencode(self.path), path)
        with suppress(FileNotFoundError):
            self.folders.fd(path)  # a planted link would lead the removal elsewhere
            for name in os.listdir(full):
                remove_tree(os.path.join(full, name))

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
        parent, _, name = path.rpartition(b"/")
        # Made in the work folder, which the next run empties; only the store's own file is written before there is one.
        work, temporary = (self.tmp, self.temporary()) if self._ours else (parent, name + b".new")
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self.folders.fd(work))
        fd = os.open(
            temporary,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o644,
            dir_fd=self.folders.fd(work),
        )
        try:
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
        if sync:
            self.sync_folder(parent)

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
        """Bring the whole file system of the destination to disk: one call instead of one for each file."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(self.fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), self.path)

    def close(self) -> None:
        """Remove the work folder and give the lock back. Idempotent."""
        if self._lock >= 0:
            if self._ours:
                with suppress(OSError):
                    self._clean(b".data/tmp")
                    self._clean(b".data/trash")
            os.close(self._lock)
            self._lock = -1
        self.folders.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def remove_tree(path: bytes) -> None:
    """Remove a file or a directory with all below, directories without permissions included; links are not followed."""
    if os.path.islink(path) or not os.path.isdir(path):
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    if os.geteuid() != 0:
        os.chmod(path, 0o700)
        for folder, names, _ in os.walk(path, followlinks=False):
            for name in names:
                inner = os.path.join(folder, name)
                if not os.path.islink(inner):
                    os.chmod(inner, 0o700)
    shutil.rmtree(path)
