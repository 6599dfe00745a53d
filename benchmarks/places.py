"""Fresh ground for each measurement: a folder, or a file system made for it.

Deleting a tree and making it again on one ext4 is several times slower for a while, because ext4 avoids inodes that
were freed a moment ago. Only a new file system treats all alike.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_KINDS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-I", "256", "-b", "4096", "-m", "0"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
}
#: ext4 would write its inode tables in the background, while it is measured.
_MOUNT = {"ext4": "loop,noinit_itable", "xfs": "loop"}
_UNITS = {"": 1, "M": 1 << 20, "G": 1 << 30}
_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_PATH = "/usr/sbin:/sbin"


@dataclass(frozen=True)
class Place:
    """Where destinations are made.

    Attributes:
        kind: ``folder``, ``ext4``, ``xfs`` or ``tmpfs``.
        folder: in which they are made, or which the images of file systems are put in; empty: the temporary folder.
        size: bytes of a file system; 0: as many as are needed.
    """

    kind: str
    folder: str = ""
    size: int = 0

    def __str__(self) -> str:
        where = self.folder or tempfile.gettempdir()
        if self.kind == "folder":
            return f"{where} ({_type_of(where)})"
        if self.kind == "tmpfs":
            return "tmpfs, a fresh one each time"
        return f"{self.kind}, a fresh one each time, on a loop device in {where} ({_type_of(where)})"


def parse_place(text: str) -> Place:
    """A folder, or ``ext4``, ``xfs``, ``tmpfs``, each with ``:SIZE`` if wanted."""
    kind, _, size = text.partition(":")
    if kind not in (*_KINDS, "tmpfs"):
        return Place("folder", os.path.abspath(text))
    found = re.fullmatch(r"(\d+)([MG]?)", size or "0")
    if found is None:
        raise SystemExit(f"--dest {text}: no size such as 800M or 12G")
    if os.geteuid() != 0:
        raise SystemExit(f"--dest {text}: only root can mount; name a folder")
    return Place(kind, "", int(found[1]) * _UNITS[found[2]])


@contextmanager
def fresh(place: Place, need: int) -> Iterator[str]:
    """An empty folder on fresh ground, gone at the end.

    Args:
        need: bytes that will be written there, about.
    """
    home = tempfile.mkdtemp(prefix="bench-dest-", dir=place.folder or None)
    try:
        if place.kind == "folder":
            yield home
        else:
            with _mounted(place, home, place.size or 2 * need + (2 << 30)) as point:
                yield point
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _mounted(place: Place, home: str, size: int) -> Iterator[str]:
    _keep_mounts_private()
    point = os.path.join(home, "mnt")
    os.mkdir(point)
    image = os.path.join(home, "image")
    if place.kind == "tmpfs":
        _run("mount", "-t", "tmpfs", "-o", f"size={size}", "bench", point)
    else:
        with open(image, "wb") as file:
            file.truncate(size)
        _run(*_KINDS[place.kind], image)
        _run("mount", "-t", place.kind, "-o", _MOUNT[place.kind], image, point)
    try:
        # Not its root, which has folders of its own.
        inner = os.path.join(point, "dest")
        os.mkdir(inner)
        yield inner
    finally:
        _run("umount", point)


_private = False


def _keep_mounts_private() -> None:
    """A mount namespace of our own: whatever ends this process, the kernel takes the mounts down."""
    global _private
    if _private:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) or libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None):
        raise SystemExit(f"no mount namespace of our own: {os.strerror(ctypes.get_errno())}")
    _private = True


def _run(program: str, *arguments: str) -> None:
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":" + _PATH)
    if path is None:
        raise SystemExit(f"no {program} on the PATH")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{program}: {done.stderr.strip()}")


def _type_of(path: str) -> str:
    """The type of the file system that a path is on."""
    best, kind = "", "?"
    real = os.path.realpath(path)
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
        for line in file:
            point, name = line.split()[1:3]
            point = point.replace("\\040", " ")
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, name
    return kind
