"""Small real file systems in a scratch folder, and scratch folders themselves.

Mounts are made in a mount namespace of the test process's own: other processes do not see them, and the
kernel takes them down, loop devices included, when the last process of the test run ends, even if it was
killed.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import shutil
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from support.processes import need

Kind = Literal["tmpfs", "ext4", "xfs", "xfs-noreflink"]
KINDS: tuple[Kind, ...] = ("tmpfs", "ext4", "xfs", "xfs-noreflink")

MIB = 1024 * 1024
#: mkfs.xfs refuses less than 300 MiB.
_LEAST = {"tmpfs": 0, "ext4": 2 * MIB, "xfs": 300 * MIB, "xfs-noreflink": 300 * MIB}

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
#: ``_IOR('X', 125, __u32)`` of ext4 and XFS, and its flag "do not even write the log".
_FS_IOC_SHUTDOWN, _NOLOGFLUSH = 0x8004587D, 2


def remove_tree(folder: str | os.PathLike[str]) -> None:
    """Remove a tree, whatever modes its directories have."""
    if os.getuid() != 0:
        for path, _, _ in os.walk(os.fsencode(folder)):  # top down: each is opened up before it is read
            for child in os.scandir(path) if os.access(path, os.R_OK | os.X_OK) else ():
                if child.is_dir(follow_symlinks=False):
                    os.chmod(child.path, 0o700)
    shutil.rmtree(folder)


@contextmanager
def scratch_folder(owner: tuple[int, int] | None = None) -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own, removed at the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="shrinkwrap-test-"))
    try:
        folder.chmod(0o755)
        if owner is not None and os.getuid() == 0:
            os.chown(folder, *owner)
        yield folder
    finally:
        remove_tree(folder)


@functools.cache
def own_namespace() -> str:
    """Move to a mount namespace of our own, once; why that is not possible, else an empty text."""
    if threading.current_thread() is not threading.main_thread():
        return "mounts are only made from the main thread"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        return f"no mount namespace of our own: {os.strerror(ctypes.get_errno())}"
    # Else what is mounted here would appear outside, too.
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) != 0:
        return f"mounts cannot be kept private: {os.strerror(ctypes.get_errno())}"
    return ""


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


@dataclass(slots=True)
class Filesystem:
    """A mounted file system. Made by :func:`filesystem`.

    Attributes:
        path: where it is mounted; its root belongs to root and everyone may write to it, like ``/tmp``.
        image: the file that it lies in; None for tmpfs.
    """

    kind: Kind
    path: Path
    image: Path | None
    _mount: list[str]

    def folder(self, name: str, owner: tuple[int, int] | None = None) -> Path:
        """A new folder in it, of that owner."""
        made = self.path / name
        made.mkdir()
        if owner is not None:
            os.chown(made, *owner)
        return made

    def free(self) -> tuple[int, int]:
        """Free bytes and free inodes, for users without privileges."""
        state = os.statvfs(self.path)
        return state.f_bavail * state.f_frsize, state.f_favail

    def fill(self, leave: int = 0) -> Path:
        """Take all space but ``leave`` bytes (about) by one file, which is returned; removing it gives the
        space back.
        """
        filler = self.path / ".filler"
        with filler.open("wb", buffering=0) as file:
            for step in (MIB, 64 * 1024, 4096):
                with suppress(OSError):
                    while self.free()[0] - leave >= step:
                        if file.write(bytes(step)) < step:
                            break
            os.fsync(file.fileno())
        return filler

    def power_cut(self) -> None:
        """Lose what is not on disk yet, as when the power fails, and come back as after the next boot.

        Nothing may be open on it. Not for tmpfs, of which nothing would be left.
        """
        if self.image is None:
            raise ValueError("a tmpfs does not outlive a power cut")
        root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(root, _FS_IOC_SHUTDOWN, struct.pack("=I", _NOLOGFLUSH))
        finally:
            os.close(root)
        for command in ([need("umount"), str(self.path)], self._mount):
            done = _run(command)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def _mkfs(kind: Kind, image: Path, size: int, inodes: int | None) -> list[str]:
    if kind == "ext4":
        # 256 bytes an inode: the older 128 hold neither nanoseconds nor times after 2038. Blocks as large file systems
        # have them: those of 1 KiB that small ones get hold no longer link targets.
        counted = [] if inodes is None else ["-N", str(inodes)]
        return [need("mkfs.ext4"), "-q", "-F", "-I", "256", "-b", "4096", "-m", "0", *counted, str(image)]
    if inodes is not None:
        raise ValueError("XFS makes inodes as they are needed; take ext4 or tmpfs for a full inode table")
    reflink = "reflink=1,bigtime=1" if kind == "xfs" else "reflink=0,bigtime=1"
    return [need("mkfs.xfs"), "-q", "-f", "-m", reflink, str(image)]


@contextmanager
def filesystem(kind: Kind, *, size: int = 128 * MIB, inodes: int | None = None) -> Iterator[Filesystem]:
    """A file system of its own, mounted as long as the block runs.

    Args:
        kind: ``xfs`` can share blocks between files (reflink), ``ext4``, ``tmpfs`` and ``xfs-noreflink``
            cannot.
        size: bytes, at least 2 MiB for ext4; XFS is never smaller than 300 MiB. Only what is written takes
            space.
        inodes: how many there are, for ext4 (about) and tmpfs.

    The test is skipped without root, without the tools, and where the kernel refuses to mount.
    """
    if os.getuid() != 0:
        pytest.skip("mounting needs root")
    mount, umount = need("mount"), need("umount")
    if reason := own_namespace():
        pytest.skip(reason)
    home = Path(tempfile.mkdtemp(prefix="shrinkwrap-fs-"))
    home.chmod(0o755)
    point = home / "mnt"
    point.mkdir()
    image: Path | None = None
    mounted = False
    try:
        if kind == "tmpfs":
            options = f"size={size},mode=1777" + ("" if inodes is None else f",nr_inodes={inodes}")
            command = [mount, "-t", "tmpfs", "-o", options, "shrinkwrap-test", str(point)]
        else:
            image = home / "image"
            with image.open("wb") as file:
                file.truncate(max(size, _LEAST[kind]))
            made = _run(_mkfs(kind, image, size, inodes))
            if made.returncode != 0:
                raise RuntimeError(f"mkfs for {kind}: {made.stderr.strip()}")
            # mount sets the loop device up so that it goes with the mount.
            command = [mount, "-t", kind.partition("-")[0], "-o", "loop", str(image), str(point)]
        done = _run(command)
        if done.returncode != 0:
            pytest.skip(f"{kind} cannot be mounted here: {done.stderr.strip()}")
        mounted = True
        point.chmod(0o1777)
        yield Filesystem(kind, point, image, command)
    finally:
        if mounted and _run([umount, str(point)]).returncode != 0:
            # Something is still open in it: it goes when that is closed.
            _run([umount, "-l", str(point)])
        shutil.rmtree(home, ignore_errors=True)
