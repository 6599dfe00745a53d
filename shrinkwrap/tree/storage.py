"""The store: stored files by name, one lock, the destinations that use it (docs/internals/store.md).

It lies in ``<dest>/.data``, or elsewhere, where several destinations share it::

    ab/…           stored files, one folder level
    tmp/<run>/     objects that are being made; emptied by the next run
    trash/         what was moved aside
    old/           the store of the original, while it is taken over
    lock           held while a run works here
    store.json     version of the layout
    bases/…        of a store elsewhere: the destinations that use it, a file each
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from shrinkwrap.errors import DestinationError, LockedError
from shrinkwrap.tree import adopt as adoption
from shrinkwrap.tree.beneath import DIRECTORY, Folders

STORE_VERSION: Final = 1
#: Who holds the lock, for the message of whoever finds it held.
_HOLDER_BYTES: Final = 200
#: Longest small file of ours that is read whole.
_SMALL_FILE: Final = 1 << 16


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


class Storage:
    """An open store, locked for this run.

    Attributes:
        path: where it is.
        folders: descriptors beneath it.
        tmp: work folder of this run, relative to it; on the same file system as the stored files.
        look: open for reading only: nothing is made, cleaned or written, and the lock is shared.

    Args:
        folder: a folder that is there.
        run: name of this run.
        wait: wait for another run to end.
        adopt: it may be one of the original, which is then taken over.
        store: there are stored files here, not only the work folders of a destination whose store is elsewhere.
    """

    def __init__(
        self, folder: str, run: str, *, wait: bool, look: bool = False, adopt: bool = False, store: bool = True
    ) -> None:
        self.path = folder
        self.tmp = b"tmp/" + run.encode()
        self.look = look
        self._run = run
        self._adopt = adopt and not look
        self._store = store
        self._lock = -1
        self.fd = os.open(folder, DIRECTORY)
        self.folders = Folders(self.fd)
        try:
            if look:
                self._look(wait)
            else:
                self._prepare(wait)
        except BaseException:
            self.close()
            raise

    def _prepare(self, wait: bool) -> None:
        self._check_owner()
        # Before the lock, because its file would be put there; with it, because another first run may have begun.
        self._check_foreign()
        self._take_lock(wait)
        self._check_version()
        self.make_folder(b"tmp", 0o700)
        self._clean(b"tmp")
        self._clean(b"trash")
        self.make_folder(self.tmp, 0o700)

    def _look(self, wait: bool) -> None:
        """The checks of a run, with a lock that others who only look may hold too."""
        self._check_owner()
        self._check_foreign()
        try:
            fd = os.open(b"lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return
        self._lock = self._locked(fd, fcntl.LOCK_SH, wait)
        self._check_version()

    @property
    def lock(self) -> tuple[int, ...]:
        """The descriptor of the lock: held as long as any process has it open."""
        return () if self._lock < 0 else (self._lock,)

    def make_folder(self, path: bytes, mode: int) -> None:
        """Make a folder, or check that a real folder is there. Raises OSError for anything else."""
        parent, _, name = path.rpartition(b"/")
        with suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=self.folders.fd(parent))
        self.folders.fd(path)

    # -- checks ------------------------------------------------------------------------------------------------------

    def _check_owner(self) -> None:
        """Checked before anything is put there: a folder that is not ours may be open to others."""
        info = os.fstat(self.fd)
        if info.st_uid != os.geteuid():
            raise DestinationError(
                f"{self.path} belongs to user {info.st_uid}, not to {os.geteuid()}",
                hint="run as the user who made this export, or choose another destination",
            )

    def _check_foreign(self) -> None:
        """Raises DestinationError for a store that is not ours. Nothing is changed in it."""
        names = set(os.listdir(self.path))
        # A first run that was cut off may have left no more than these.
        if "store.json" not in names and names - {"lock", "store.json.new"}:
            original = adoption.is_original(self.fd)
            # With the folder "old" somebody has said already that it is to be taken over.
            if original and (self._adopt or "old" in names):
                return
            raise DestinationError(
                f"{self.path} is not empty and was not made by this tool",
                hint="it looks like one of cvmfs_shrinkwrap: --adopt takes it over; or choose another destination"
                if original
                else "choose another destination, or move that folder away",
            )

    def _check_version(self) -> None:
        value = read_description(self.fd)
        if value is None:
            self._check_foreign()
            if not self.look:
                adoption.move_aside(self)
                if self._store:
                    self.describe({})
            return
        version = value.get("version")
        if version != STORE_VERSION:
            raise DestinationError(
                f"{self.path}/store.json: layout version {version!r}, this release knows {STORE_VERSION}",
                hint="use the release that made the store, or a newer one",
            )

    def describe(self, more: dict[str, str]) -> None:
        """Write ``store.json``, durably."""
        data = json.dumps({"version": STORE_VERSION, **more}).encode() + b"\n"
        temporary = b"store.json.new"
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self.fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o644, dir_fd=self.fd)
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, b"store.json", src_dir_fd=self.fd, dst_dir_fd=self.fd)
        self.sync_folder(b"")

    def sync_folder(self, path: bytes) -> None:
        """Bring the names in one folder to disk."""
        fd = os.open(b".", DIRECTORY, dir_fd=self.folders.fd(path) if path else self.fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # -- lock --------------------------------------------------------------------------------------------------------

    def _take_lock(self, wait: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(b"lock", flags, 0o600, dir_fd=self.fd)
        self._lock = self._locked(fd, fcntl.LOCK_EX, wait)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} on {os.uname().nodename}, run {self._run}\n".encode(), 0)

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

    # -- the destinations that use it --------------------------------------------------------------------------------

    def register(self, base: str) -> None:
        """Note, durably, that a destination uses this store: what it needs is no garbage."""
        self.make_folder(b"bases", 0o700)
        folder = self.folders.fd(b"bases")
        name = hashlib.sha256(os.fsencode(base)).hexdigest()[:32]
        try:
            fd = os.open(
                name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder
            )
        except FileExistsError:
            return
        try:
            os.write(fd, os.fsencode(base))
            os.fsync(fd)
        finally:
            os.close(fd)
        self.sync_folder(b"bases")

    def bases(self) -> Iterator[str]:
        """The destinations that are registered; none for a store that lies in its destination."""
        try:
            folder = self.folders.fd(b"bases")
        except FileNotFoundError:
            return
        listing = os.open(b".", DIRECTORY, dir_fd=folder)
        try:
            names = sorted(os.listdir(listing))
        finally:
            os.close(listing)
        for name in names:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.folders.fd(b"bases"))
            with os.fdopen(fd, "rb") as file:
                yield os.fsdecode(file.read(_SMALL_FILE))

    # -- the end -----------------------------------------------------------------------------------------------------

    def _clean(self, path: bytes) -> None:
        """Remove what runs that were cut off have left. The lock says that none of them is alive."""
        full = os.path.join(os.fsencode(self.path), path)
        with suppress(FileNotFoundError):
            self.folders.fd(path)  # a planted link would lead the removal elsewhere
            for name in os.listdir(full):
                remove_tree(os.path.join(full, name))

    def close(self) -> None:
        """Remove the work folder and give the lock back. Idempotent."""
        if self._lock >= 0:
            if not self.look:
                with suppress(OSError):
                    self._clean(b"tmp")
                    self._clean(b"trash")
            os.close(self._lock)
            self._lock = -1
        self.folders.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def read_description(folder: int) -> dict[str, Any] | None:
    """What ``store.json`` says; None if there is none, empty if it cannot be read."""
    try:
        fd = os.open(b"store.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        text = file.read(_SMALL_FILE)
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


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
