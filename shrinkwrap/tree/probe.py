"""What the destination's file system can do, found out once per run instead of believed."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from shrinkwrap.tree.base import Base

#: ioctl FICLONE: share all blocks of another file.
FICLONE: Final = 0x40049409
_NS: Final = 10**9
#: Times tried at either end, the widest first: what a file system cannot hold it clamps, or wraps.
_EARLY: Final = (-(1 << 40), -(1 << 31), -1, 0)
_LATE: Final = (1 << 40, (1 << 34) - 1, 16299260424, 15032385535, (1 << 32) - 1, (1 << 31) - 1)


@dataclass(frozen=True, slots=True)
class Abilities:
    """Abilities of a destination.

    Attributes:
        hardlinks, reflinks, xattrs: whether they work (``user.*`` attributes).
        earliest, latest: times in seconds that files can have.
        granularity: of times, in nanoseconds.
    """

    hardlinks: bool
    reflinks: bool
    xattrs: bool
    earliest: int
    latest: int
    granularity: int

    def time(self, mtime_ns: int) -> int:
        """The time as the file system will show it."""
        seconds = max(self.earliest, min(mtime_ns // _NS, self.latest))
        if seconds in (self.earliest, self.latest):
            return seconds * _NS  # at either end Linux keeps no part of a second
        return mtime_ns - mtime_ns % self.granularity

    def line(self) -> str:
        """One line for people."""

        def word(name: str, able: bool) -> str:
            return name if able else f"no {name}"

        parts = [
            word("hard links", self.hardlinks),
            word("reflinks", self.reflinks),
            word("user xattrs", self.xattrs),
        ]
        parts.append(f"times {self.earliest}..{self.latest} s in steps of {self.granularity} ns")
        return ", ".join(parts)


def probe(base: Base) -> Abilities:
    """Try everything out in the run's work folders: links and reflinks lead from the store to the tree.

    Raises:
        OSError: not even a file can be made there.
    """
    folder, data = base.folders.fd(base.tmp), base.store.folders.fd(base.store.tmp)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    stored = os.open(b"probe-stored", flags, 0o600, dir_fd=data)
    try:
        os.write(stored, b"x" * 4096)
        fd = os.open(b"probe", flags, 0o600, dir_fd=folder)
        try:
            return Abilities(
                hardlinks=_links(data, b"probe-stored", folder, b"probe-link"),
                reflinks=_reflinks(folder, stored),
                xattrs=_xattrs(fd),
                earliest=_first_held(fd, _EARLY),
                latest=_first_held(fd, _LATE),
                granularity=_granularity(fd),
            )
        finally:
            os.close(fd)
    finally:
        os.close(stored)
        for place, names in ((data, (b"probe-stored",)), (folder, (b"probe", b"probe-link", b"probe-clone"))):
            for name in names:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=place)


def probe_unnamed(folder: int, store: int | None = None) -> Abilities | None:
    """Try out what can be tried without a name in the file system: nothing of a folder changes, not even its times.

    Hard links need names: they are taken for possible if both folders are of one mount.

    Args:
        folder: descriptor of a folder for the tree.
        store: of one for the stored files; None: the same.

    Returns:
        None where files without names are not supported.

    Raises:
        OSError: no file can be made there.
    """
    fd, whence = _unnamed(folder), folder if store is None else store
    if fd < 0:
        return None
    try:
        stored = _unnamed(whence)
        if stored < 0:
            return None
        try:
            os.write(stored, b"x" * 4096)
            return Abilities(
                hardlinks=_mount(folder) == _mount(whence),
                reflinks=_clones(stored, _unnamed(folder)),
                xattrs=_xattrs(fd),
                earliest=_first_held(fd, _EARLY),
                latest=_first_held(fd, _LATE),
                granularity=_granularity(fd),
            )
        finally:
            os.close(stored)
    finally:
        os.close(fd)


def _unnamed(folder: int) -> int:
    """A file without a name; -1 where there are none."""
    try:
        return os.open(b".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as exc:
        # What a kernel or file system without them says.
        if exc.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            return -1
        raise


def _mount(folder: int) -> tuple[int, str]:
    """What tells mounts apart: links do not lead from one to another, even of one file system."""
    device = os.fstat(folder).st_dev
    with suppress(OSError), open(f"/proc/self/fdinfo/{folder}", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("mnt_id:"):
                return device, line
    return device, ""


def _links(source: int, one: bytes, target: int, two: bytes) -> bool:
    try:
        os.link(one, two, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError:
        return False
    return True


def _reflinks(folder: int, source: int) -> bool:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return _clones(source, os.open(b"probe-clone", flags, 0o600, dir_fd=folder))


def _clones(source: int, fd: int) -> bool:
    """Whether a file can share the blocks of another; ``fd`` is closed."""
    try:
        fcntl.ioctl(fd, FICLONE, source)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _xattrs(fd: int) -> bool:
    try:
        os.setxattr(fd, b"user.shrinkwrap.probe", b"1")
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return False
    return True


def _first_held(fd: int, candidates: tuple[int, ...]) -> int:
    """The first of some times that the file system gives back, or what it makes of the first."""
    for seconds in candidates:
        with suppress(OSError, OverflowError):
            os.utime(fd, ns=(seconds * _NS, seconds * _NS))
            if os.fstat(fd).st_mtime_ns // _NS == seconds:
                return seconds
    return candidates[-1]


def _granularity(fd: int) -> int:
    wanted = 1_000_000_000 * _NS + 123_456_789
    os.utime(fd, ns=(wanted, wanted))
    got = os.fstat(fd).st_mtime_ns
    for step in (1, 100, 1000, 1_000_000, _NS, 2 * _NS):
        if wanted - wanted % step == got:
            return step
    return _NS
