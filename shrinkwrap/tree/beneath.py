"""Opening folders strictly beneath another one, without following links on the way.

Names from catalogs are never joined into paths that the kernel could resolve elsewhere: a link that somebody planted in
the destination leads to an error, not out of it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import resource
from collections import OrderedDict
from contextlib import suppress
from typing import Final

_OPENAT2: Final = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
#: Longest path that one call takes, with its final NUL.
_PATH_MAX: Final = 4096

#: FD_SETSIZE.
_SELECTABLE: Final = 1024

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Needs no permission on the folder itself; good for `*at` calls and for /proc/self/fd, not for listing.
PATH_ONLY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _load_openat2() -> ctypes._NamedFuncPointer | None:
    if platform.system() != "Linux":
        return None
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
    return syscall


_syscall = _load_openat2()
_how: dict[int, _OpenHow] = {}


def _openat2(root: int, path: bytes, flags: int) -> int | None:
    """A descriptor, or None where the kernel (or a sandbox) has no openat2. Raises OSError."""
    global _syscall
    if _syscall is None:
        return None
    how = _how.get(flags)
    if how is None:
        how = _how[flags] = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)
    while True:
        fd: int = _syscall(_OPENAT2, root, path, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code in (errno.ENOSYS, errno.EPERM):  # found missing once, never tried again
            _syscall = None
            return None
        if code not in (errno.EINTR, errno.EAGAIN):
            raise OSError(code, os.strerror(code), os.fsdecode(path))


def open_beneath(root: int, path: bytes, flags: int = PATH_ONLY) -> int:
    """Open the folder ``path`` (relative, ``b""`` for the root itself) beneath the folder ``root``.

    Raises:
        OSError: ELOOP or ENOTDIR for a link on the way, ENOENT, EACCES...
    """
    if not path:
        return os.open(".", flags, dir_fd=root)
    if len(path) < _PATH_MAX:
        fd = _openat2(root, path, flags)
        if fd is not None:
            return fd
    names = path.split(b"/")
    if b".." in names or b"" in names:
        raise OSError(errno.EXDEV, "not a path beneath the folder", os.fsdecode(path))
    current = os.dup(root)
    try:
        for position, name in enumerate(names):
            following = os.open(name, flags if position == len(names) - 1 else PATH_ONLY, dir_fd=current)
            os.close(current)
            current = following
    except BaseException:
        os.close(current)
        raise
    return current


class Folders:
    """Descriptors of folders beneath one root, by path, the last used kept open.

    Args:
        root: descriptor of the root; stays the caller's.
        size: how many to keep; a process with 256 descriptors in all has to do.
        lowest: number from which on descriptors are taken; 0: as they come.
    """

    def __init__(self, root: int, size: int = 48, lowest: int = 0) -> None:
        self.root = root
        self._size = size
        self._lowest = lowest
        self._fds: OrderedDict[bytes, int] = OrderedDict()

    def fd(self, path: bytes) -> int:
        """A descriptor (O_PATH) that stays valid until the next call."""
        found = self._fds.get(path)
        if found is not None:
            self._fds.move_to_end(path)
            return found
        while True:
            try:
                found = self._open(path)
                break
            except OSError as exc:
                # Others in this process may have taken what was free when the size was chosen.
                if exc.errno != errno.EMFILE or not self._fds:
                    raise
                os.close(self._fds.popitem(last=False)[1])
        self._fds[path] = found
        if len(self._fds) > self._size:
            os.close(self._fds.popitem(last=False)[1])
        return found

    def _open(self, path: bytes) -> int:
        found = open_beneath(self.root, path)
        if not self._lowest:
            return found
        try:
            return fcntl.fcntl(found, fcntl.F_DUPFD_CLOEXEC, self._lowest)
        finally:
            os.close(found)

    def clear(self) -> None:
        """Forget all: needed after a folder was renamed."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


def many_folders(root: int, wish: int, few: int = 48) -> Folders:
    """Folders of which up to ``wish`` are kept open, as far as the process may.

    Their descriptors begin where those end that select(2) can wait for: the sockets of transfers need the low ones.
    The process's soft limit of open files is raised for it, as far as its hard limit goes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _SELECTABLE + wish + few
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    size = wish if soft == resource.RLIM_INFINITY else min(wish, soft - _SELECTABLE - few)
    return Folders(root, size, _SELECTABLE) if size > few else Folders(root, few)


def split(path: bytes) -> tuple[bytes, bytes]:
    """Parent and name of a path relative to the root."""
    parent, _, name = path.rpartition(b"/")
    return parent, name
