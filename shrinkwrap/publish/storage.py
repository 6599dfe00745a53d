"""The folder of a repository that is published to: its lock, its scratch folder, its objects, its signed files.

Layout (FORMAT.md §1.1), and what is the publisher's own::

    .cvmfspublished, .cvmfswhitelist, .cvmfsreflog     replaced by renaming; the first one last of all
    data/ab/cdef…                                      objects; a name always holds the whole object
    data/txn/<run>/                                    what is being made; left by a killed run, removed by the next
    data/txn/begun                                     there while a run is on: when the first of those that did not end
                                                       well began, and in which boot of the machine
    .shrinkwrap.lock                                   held while somebody publishes
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import zlib
from contextlib import suppress
from os import fsync
from types import TracebackType
from typing import Final, Self

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.digest import Digest, new_hasher
from shrinkwrap.cvmfs.entry import ZLIB, show
from shrinkwrap.cvmfs.inflate import StreamInflater
from shrinkwrap.cvmfs.trust import verify_object
from shrinkwrap.errors import CorruptObject, DestinationError, LockedError, MissingObject, ShrinkwrapError
from shrinkwrap.publish.objects import StoreSettings, put_file, store_bytes

_STEP: Final = 1 * limits.MIB
_LOCK: Final = b".shrinkwrap.lock"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Storage:
    """An open storage, locked for this run.

    Attributes:
        path: its folder.
        scratch: folder of this run, on the same file system.
        distrust: see :class:`~shrinkwrap.publish.objects.StoreSettings`.

    Raises:
        DestinationError: it cannot be made or written. LockedError: somebody else publishes to it.
    """

    def __init__(self, path: str | bytes, *, wait: bool = False) -> None:
        self.path = os.path.realpath(os.fsencode(path))
        run = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.scratch = self.path + b"/data/txn/" + run.encode()
        self.distrust = 0
        self._lock = -1
        try:
            os.makedirs(self.path, exist_ok=True)
            self._take_lock(wait)
            self._prepare()
        except OSError as exc:
            self.close()
            raise self.failed(exc) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def failed(self, exc: OSError) -> ShrinkwrapError:
        """An error of the operating system in words."""
        name = os.fsencode(exc.filename) if isinstance(exc.filename, str | bytes) else self.path
        hint = {
            errno.ENOSPC: "free space or inodes there; what can be seen of the repository is unharmed",
            errno.EACCES: "the storage must be writable for whoever publishes",
            errno.EROFS: "the file system is mounted read-only",
        }.get(exc.errno or 0, "")
        return DestinationError(f"{show(name)}: the storage cannot be written: {exc.strerror}", hint=hint)

    def _take_lock(self, wait: bool) -> None:
        fd = os.open(self.path + b"/" + _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.read(fd, 100).decode("utf-8", "replace").strip()
            os.close(fd)
            raise LockedError(
                f"{show(self.path)}: somebody else publishes there" + (f" ({holder})" if holder else ""),
                hint="wait for that to end, or use --wait",
            ) from None
        except BaseException:
            os.close(fd)
            raise
        self._lock = fd
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)

    def _prepare(self) -> None:
        data = self.path + b"/data"
        os.makedirs(data, exist_ok=True)
        there = set(os.listdir(data))
        for number in range(256):
            name = b"%02x" % number
            if name not in there:
                os.mkdir(data + b"/" + name)
        txn = data + b"/txn"
        os.makedirs(txn, exist_ok=True)
        begun = txn + b"/begun"
        boot = _boot_id()
        left = False
        with suppress(FileNotFoundError), open(begun, "rb") as file:
            left = True
            if file.read(100) != boot or not boot:
                # Objects from then on may be names without content.
                self.distrust = max(1, os.fstat(file.fileno()).st_mtime_ns)
        for name in os.listdir(txn):
            if name != b"begun":
                self._remove(txn + b"/" + name)
        if not left:
            with open(os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(boot)
                file.flush()
                fsync(file.fileno())
        os.mkdir(self.scratch, 0o700)

    def _remove(self, path: bytes) -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)

    def settings(self, algorithm: int, compression: int) -> StoreSettings:
        """For workers."""
        return StoreSettings(self.path, self.scratch, algorithm, compression, self.distrust)

    # -- reading -----------------------------------------------------------------------------------------------------

    def control(self, name: str, limit: int) -> bytes | None:
        """A file of the storage's root, None if there is none. At most one byte more than ``limit`` is read."""
        try:
            with open(self.path + b"/" + name.encode(), "rb") as file:
                return file.read(limit + 1)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise self.failed(exc) from None

    def object_file(self, digest: Digest, suffix: str) -> bytes:
        return self.path + b"/" + digest.object_path(suffix).encode()

    def read(self, digest: Digest, suffix: str, limit: int) -> bytes:
        """An object that is always compressed, verified and inflated.

        Raises:
            MissingObject, CorruptObject.
        """
        try:
            with open(self.object_file(digest, suffix), "rb") as file:
                stored = file.read(limits.stored_size(limit) + 1)
        except OSError as exc:
            raise self._missing(digest, suffix, exc) from None
        return verify_object(digest, stored, limit)

    def unpack(self, digest: Digest, suffix: str, limit: int, name: str) -> bytes:
        """The same into a scratch file of that name, in bounded memory; its path."""
        target = self.scratch + b"/" + name.encode()
        hasher = new_hasher(digest.algorithm)
        inflater = StreamInflater(limit)
        shown = digest.object_path(suffix)
        try:
            source = open(self.object_file(digest, suffix), "rb", buffering=0)  # noqa: SIM115 - closed below
        except OSError as exc:
            raise self._missing(digest, suffix, exc) from None
        try:
            with source, open(target, "wb") as out:
                while data := source.read(_STEP):
                    hasher.update(data)
                    out.writelines(inflater.feed(data))
                out.writelines(inflater.finish())
        except OSError as exc:
            raise self.failed(exc) from None
        except CorruptObject as exc:
            raise CorruptObject(f"{shown} in {show(self.path)}: {exc.message}") from None
        if hasher.digest() != digest.raw:
            raise CorruptObject(f"{shown} in {show(self.path)}: its bytes have another hash", hint="check the storage")
        return target

    def _missing(self, digest: Digest, suffix: str, exc: OSError) -> ShrinkwrapError:
        if isinstance(exc, FileNotFoundError):
            return MissingObject(
                f"{digest.object_path(suffix)}: not in {show(self.path)}", hint="the storage is incomplete"
            )
        return self.failed(exc)

    # -- writing -----------------------------------------------------------------------------------------------------

    def replace(self, name: str, data: bytes) -> None:
        """Make a file of the storage's root anew, so that it is the whole old or the whole new one."""
        temporary = self.scratch + b"/" + name.encode()
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                fsync(fd)
            os.rename(temporary, self.path + b"/" + name.encode())
            folder = os.open(self.path, _DIRECTORY)
            try:
                fsync(folder)
            finally:
                os.close(folder)
        except OSError as exc:
            raise self.failed(exc) from None

    def put_file(self, file: bytes, digest: Digest, suffix: str, length: int) -> bool:
        """Make a scratch file an object, unless it is there; True if it is a new one."""
        settings = self.settings(digest.algorithm, ZLIB)
        try:
            return put_file(settings, file, self.object_file(digest, suffix), length)
        except OSError as exc:
            raise self.failed(exc) from None

    def put(self, data: bytes, suffix: str, algorithm: int) -> Digest:
        """Compress and store an object that is at hand."""
        raw, _ = store_bytes(self.settings(algorithm, ZLIB), data, suffix, ZLIB)
        return Digest(algorithm, raw)

    def sync(self) -> None:
        """Bring all of the storage's file system to disk, with one call instead of one for each object."""
        try:
            fd = os.open(self.path, _DIRECTORY)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.syncfs(fd) != 0:
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code))
            finally:
                os.close(fd)
        except OSError as exc:
            raise self.failed(exc) from None

    def trust(self) -> None:
        """All is on disk: nothing needs to be suspected any more."""
        with suppress(OSError):
            os.unlink(self.path + b"/data/txn/begun")
        self.distrust = 0

    def close(self) -> None:
        """Remove the scratch folder and give the lock back. Idempotent."""
        if self._lock >= 0:
            shutil.rmtree(self.scratch, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _boot_id() -> bytes:
    """Differs after each start of the machine; empty where the kernel does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read(100)
    except OSError:
        return b""


def squeeze(source: bytes, target: bytes, algorithm: int) -> tuple[bytes, int, int]:
    """Compress a file into another one; raw digest of that, bytes of both. For catalogs and the like, at level 6."""
    hasher = new_hasher(algorithm)
    squeezer = zlib.compressobj()
    plain = stored = 0
    with open(source, "rb", buffering=0) as file, open(target, "wb") as out:
        while data := file.read(_STEP):
            plain += len(data)
            piece = squeezer.compress(data)
            hasher.update(piece)
            out.write(piece)
            stored += len(piece)
        piece = squeezer.flush()
        hasher.update(piece)
        out.write(piece)
        stored += len(piece)
    return hasher.digest(), plain, stored
