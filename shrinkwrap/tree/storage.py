"""The store: stored files by name, one lock, the destinations that use it (docs/internals/store.md).

It lies in ``<dest>/.data``, or elsewhere, where several destinations may share it::

    ab/…           stored files, one folder level
    tmp/<run>/     objects that are being made; emptied by the next run
    trash/         what was moved aside
    old/           the store of the original, while it is taken over
    lock           held while a run works here
    store.json     version of the layout
    doubt.json     while objects may not be on disk yet: since when, and of which start of the machine
    bases/…        the destinations elsewhere that use it, a file each

A destination whose store is elsewhere has ``lock``, ``tmp``, ``trash`` and a ``store.json`` that names the store in its
``.data``.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
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


def place_for(base: str, wish: str) -> str:
    """Where a destination is to have its store, as a real path; empty for the usual place in it.

    Args:
        base: real path of the destination, which need not be there.
        wish: a folder, which need not be there either; empty: the usual one.

    Raises:
        DestinationError: no store can be there.
    """
    usual = os.path.join(base, ".data")
    place = os.path.realpath(wish) if wish else usual
    if place == usual or _same(place, usual):
        return ""
    common = os.path.commonpath((base, place))
    if common in (base, place):
        inside = "it lies in the destination" if common == base else "the destination lies in it"
        raise DestinationError(
            f"{place}: no place for the store of {base}: {inside}",
            hint=f"leave it out, which means {usual}, or choose a folder outside",
        )
    there = place
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise DestinationError(
            f"{place}: it, or something on the way to it, is not a folder", hint="choose another place for the store"
        )
    return place


def _same(one: str, two: str) -> bool:
    """True for one folder under two names, as bind mounts give them."""
    with suppress(OSError):
        return os.path.samefile(one, two)
    return False


class Storage:
    """An open store, locked for this run. Nothing but the lock is written before :meth:`begin`.

    Attributes:
        path: where it is.
        folders: descriptors beneath it.
        tmp: work folder of this run, relative to it; on the same file system as the stored files.
        look: open for reading only: nothing is made, cleaned or written, and the lock is shared.
        description: what ``store.json`` says; None if there is none yet.

    Args:
        folder: a folder that is there.
        run: name of this run.
        wait: wait for another run to end; None: take no lock, only to look at it for a moment.
        adopt: it may be one of the original, which is then taken over.
        shared: it has to hold stored files; else it may also be a destination's folder that names a store elsewhere.
    """

    def __init__(
        self, folder: str, run: str, *, wait: bool | None, look: bool = False, adopt: bool = False, shared: bool = False
    ) -> None:
        self.path = folder
        self.tmp = b"tmp/" + run.encode()
        self.look = look
        self.description: dict[str, Any] | None = None
        self._run = run
        self._adopt = adopt
        self._shared = shared
        self._begun = False
        self._lock = -1
        try:
            self.fd = os.open(folder, DIRECTORY)
        except NotADirectoryError:
            if os.path.islink(folder):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), folder) from None
            raise
        self.folders = Folders(self.fd)
        try:
            # Before the lock, because its file would be put there; with it, because another first run may have begun.
            self._check()
            if wait is not None:
                if look:
                    self._look(wait)
                else:
                    self._take_lock(wait)
                self._check()
        except BaseException:
            self.close()
            raise

    def begin(self, store: str = "") -> None:
        """Make what a run needs, and clear away what earlier ones left.

        Args:
            store: where the stored files are, if not here.
        """
        if self.description is None:
            adoption.move_aside(self)
            self._describe(store)
        self._begun = True
        self.make_folder(b"tmp", 0o700)
        self._clean(b"tmp")
        self._clean(b"trash")
        self.make_folder(self.tmp, 0o700)

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

    @property
    def is_original(self) -> bool:
        """True if it is a store of the original, or what the move of one has left so far."""
        return self.description is None and adoption.is_original(self.fd)

    # -- checks ------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Nothing is changed by it.

        Raises:
            DestinationError: it is not ours, or not one that we know.
        """
        self._check_owner()
        self.description = read_description(self.fd)
        if self.description is None:
            self._check_foreign()
            return
        version = self.description.get("version")
        if version != STORE_VERSION:
            raise DestinationError(
                f"{self.path}/store.json: layout version {version!r}, this release knows {STORE_VERSION}",
                hint="use the release that made the store, or a newer one",
            )
        if self._shared and self.description.get("store"):
            raise DestinationError(
                f"{self.path} is no store: it is a folder of a destination whose store is elsewhere",
                hint=f"the store is {self.description['store']}",
            )

    def _check_owner(self) -> None:
        """Checked before anything is put there: a folder that is not ours may be open to others."""
        info = os.fstat(self.fd)
        if info.st_uid != os.geteuid():
            raise DestinationError(
                f"{self.path} belongs to user {info.st_uid}, not to {os.geteuid()}",
                hint="run as the user who made this export, or choose another destination",
            )

    def _check_foreign(self) -> None:
        """Raises DestinationError for a folder without ``store.json`` that we did not begin."""
        names = set(os.listdir(self.path))
        if names - adoption.BEGINNINGS:
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

    # -- small files -------------------------------------------------------------------------------------------------

    def _describe(self, store: str) -> None:
        """Write ``store.json``, durably."""
        said: dict[str, Any] = {"version": STORE_VERSION}
        if store:
            said["store"] = store
        self._write(b"", b"store.json", json.dumps(said).encode() + b"\n")
        # The folder itself may be new.
        sync_path(os.path.dirname(self.path))
        self.description = said

    def _write(self, folder: bytes, name: bytes, data: bytes) -> None:
        """Write a small file, durably, so that nobody sees half of it."""
        temporary = name + b".new"
        at = self.folders.fd(folder)
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=at)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o644, dir_fd=at)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)
        self.sync_folder(folder)

    def sync_folder(self, path: bytes) -> None:
        """Bring the names in one folder to disk."""
        fd = os.open(b".", DIRECTORY, dir_fd=self.folders.fd(path))
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # -- lock --------------------------------------------------------------------------------------------------------

    def _look(self, wait: bool) -> None:
        """A lock that others who only look may hold too."""
        try:
            fd = os.open(b"lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except FileNotFoundError:
            return
        self._lock = self._locked(fd, fcntl.LOCK_SH, wait)

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

    # -- what may not be on disk ------------------------------------------------------------------------------------

    def doubt(self, boot_id: str, since: int) -> None:
        """Note, durably, that stored files of this ctime (in nanoseconds) and later may be lost with the power.

        What was noted before stays noted: the store is one for all destinations that were being worked on.
        """
        before = self.doubts()
        if before is not None:
            since = min(since, before[1])
        if before != (boot_id, since):
            self._write(b"", b"doubt.json", json.dumps({"boot_id": boot_id, "since": since}).encode() + b"\n")

    def doubts(self) -> tuple[str, int] | None:
        """Start of the machine, and time, of what :meth:`doubt` noted; the worst if it cannot be read."""
        data = self._small_file(b"", b"doubt.json")
        if data is None:
            return None
        try:
            value = json.loads(data)
            boot_id, since = value["boot_id"], value["since"]
        except (ValueError, TypeError, KeyError):
            return "", 0
        return (boot_id, since) if isinstance(boot_id, str) and type(since) is int else ("", 0)

    def settle(self) -> None:
        """All that was stored is on disk."""
        with suppress(FileNotFoundError):
            os.unlink(b"doubt.json", dir_fd=self.fd)
            self.sync_folder(b"")

    # -- the destinations that use it --------------------------------------------------------------------------------

    def register(self, base: str) -> None:
        """Note, durably, that a destination uses this store: what it needs is no garbage."""
        folder, data = b"bases", os.fsencode(base)
        try:
            self.folders.fd(folder)
        except FileNotFoundError:
            self.make_folder(folder, 0o700)
            self.sync_folder(b"")
        name = _base_name(data)
        if self._registered(name) != data:
            self._write(folder, name, data)

    def unregister(self, base: str) -> None:
        """A destination uses this store no more."""
        with suppress(FileNotFoundError):
            os.unlink(_base_name(os.fsencode(base)), dir_fd=self.folders.fd(b"bases"))
            self.sync_folder(b"bases")

    def bases(self) -> Iterator[str]:
        """The destinations elsewhere that are registered, in no order that means anything.

        Raises:
            DestinationError: it cannot be told which one is meant.
        """
        try:
            folder = self.folders.fd(b"bases")
        except FileNotFoundError:
            return
        listing = os.open(b".", DIRECTORY, dir_fd=folder)
        try:
            names = sorted(os.fsencode(name) for name in os.listdir(listing))
        finally:
            os.close(listing)
        for name in names:
            if name.endswith(b".new"):
                continue  # of a run that was cut off before it did anything
            data = self._registered(name)
            if not data.startswith(b"/"):
                raise DestinationError(
                    f"{self.path}/bases/{os.fsdecode(name)}: does not name a destination",
                    hint="remove the file; each destination notes itself again in its next run",
                )
            yield os.fsdecode(data)

    def _registered(self, name: bytes) -> bytes:
        """What a file of ``bases`` says; empty if there is none, or nothing that we wrote."""
        data = self._small_file(b"bases", name) or b""
        return b"" if len(data) == _SMALL_FILE or b"\0" in data else data

    def _small_file(self, folder: bytes, name: bytes) -> bytes | None:
        """What a file says, up to a limit; None if there is none, empty for what is no file."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=self.folders.fd(folder))
        except FileNotFoundError:
            return None
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENXIO):
                return b""
            raise
        try:
            return os.read(fd, _SMALL_FILE) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
        finally:
            os.close(fd)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _clean(self, path: bytes) -> None:
        """Remove what runs that were cut off have left. The lock says that none of them is alive."""
        full = os.path.join(os.fsencode(self.path), path)
        with suppress(FileNotFoundError):
            self.folders.fd(path)  # a planted link would lead the removal elsewhere
            for name in os.listdir(full):
                remove_tree(os.path.join(full, name))

    def empty_trash(self) -> None:
        """Remove what was moved aside. Raises OSError."""
        self._clean(b"trash")

    def close(self) -> None:
        """Remove the work folder and give the lock back. Idempotent."""
        if self._lock >= 0:
            if self._begun:
                with suppress(OSError):
                    self._clean(b"tmp")
                    self._clean(b"trash")
            os.close(self._lock)
            self._lock = -1
        self.folders.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _base_name(base: bytes) -> bytes:
    """Under which name a destination is noted."""
    return hashlib.sha256(base).hexdigest()[:32].encode()


def sync_path(folder: str) -> None:
    """Bring the names in a folder to disk, if it may be read."""
    with suppress(PermissionError):  # one that may only be searched is brought by the syncfs at the end of a run
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def make_place(place: str) -> None:
    """Make the folder of a store, with those above it that are not there, durably."""
    missing = []
    while not os.path.isdir(place):
        missing.append(place)
        place = os.path.dirname(place)
    for path in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(path, 0o700 if path == missing[0] else 0o777)
        sync_path(os.path.dirname(path))


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
