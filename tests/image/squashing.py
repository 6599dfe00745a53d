"""squashfs images made of entries and contents that a test names, and what tools other than ours find in them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.filesystems import own_namespace
from support.processes import need

from shrinkwrap.image.entries import DIR, FILE, LINK, ImageEntry
from shrinkwrap.image.squashfs.layout import SUPERBLOCK
from shrinkwrap.image.squashfs.reader import Image
from shrinkwrap.image.squashfs.recipe import Recipe, pack_blocks
from shrinkwrap.image.squashfs.writer import Placed, write_tables

SECOND = 10**9


def entry(
    path: str | bytes,
    kind: str = DIR,
    *,
    mode: int = 0o755,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 1_600_000_000,
    xattrs: tuple[tuple[bytes, bytes], ...] = (),
    target: bytes = b"",
    size: int = 0,
    key: bytes = b"",
    link: int = 0,
) -> ImageEntry:
    raw = path.encode() if isinstance(path, str) else path
    return ImageEntry(
        raw, kind, mode, uid, gid, mtime * SECOND, xattrs, target, len(target) if kind == LINK else size, key, link
    )


class Content(NamedTuple):
    """A file and its bytes; files whose entries have the same ``key`` share blocks."""

    entry: ImageEntry
    data: bytes


def file(path: str | bytes, data: bytes, **more: Any) -> Content:
    made = entry(path, FILE, mode=0o644, size=len(data), key=(b"%d" % hash(data)).rjust(16)[:16])
    return Content(made._replace(**more), data)


def link(path: str | bytes, target: bytes) -> ImageEntry:
    return entry(path, LINK, mode=0o777, target=target)


class _Known:
    """Places that are known."""

    def __init__(self) -> None:
        self.places: dict[bytes, Placed] = {}

    def placed(self, entry: ImageEntry) -> Placed:
        return self.places[entry.key]


def make(path: Path, stream: Iterable[ImageEntry | Content], recipe: Recipe | None = None, *, gap: int = 0) -> Path:
    """Write an image of entries in the order of streams.

    Args:
        gap: bytes of nothing between the superblock and the data, which take no space on disk.
    """
    recipe = recipe or Recipe()
    compress = recipe.compress()
    known = _Known()
    entries = []
    with path.open("w+b") as out:
        position = SUPERBLOCK + gap
        out.seek(position)
        for one in stream:
            if isinstance(one, Content):
                if one.entry.key not in known.places:
                    words, blocks, sparse = pack_blocks(one.data, recipe.block_size, compress)
                    known.places[one.entry.key] = Placed(position, words, sparse)
                    out.write(blocks)
                    position += len(blocks)
                entries.append(one.entry)
            else:
                entries.append(one)
        with tempfile.TemporaryDirectory() as scratch:
            written = write_tables(out, position, entries, known, recipe, 1_600_000_000 * SECOND, scratch)
        out.seek(0)
        out.write(written.superblock.pack())
    return path


@contextmanager
def opened(path: Path, base: int = 0) -> Iterator[Image]:
    """The image, for our own reader."""
    fd = os.open(path, os.O_RDONLY)
    try:
        yield Image(fd, base, path.name)
    finally:
        os.close(fd)


def read_back(path: Path) -> list[ImageEntry | Content]:
    """What our reader finds; ``key`` and ``link`` are left out."""
    found: list[ImageEntry | Content] = []
    with opened(path) as image:
        for one, inode in image.walk():
            plain = one._replace(key=b"", link=0)
            found.append(Content(plain, b"".join(image.pieces(inode))) if one.kind == FILE else plain)
    return found


def stripped(stream: Iterable[ImageEntry | Content]) -> list[ImageEntry | Content]:
    """A stream as :func:`read_back` gives it."""
    return [
        one._replace(entry=one.entry._replace(key=b"", link=0))
        if isinstance(one, Content)
        else one._replace(key=b"", link=0)
        for one in stream
    ]


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def unsquashed(image: Path, folder: Path) -> Path:
    """The tree that ``unsquashfs`` extracts."""
    done = _run(need("unsquashfs"), "-no-progress", "-d", folder, image)
    assert done.returncode == 0, done.stderr
    assert "rror" not in done.stderr, done.stderr
    return folder


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    """The image as the kernel shows it; the test is skipped where it cannot be mounted."""
    if os.getuid() != 0:
        pytest.skip("mounting needs root")
    if reason := own_namespace():
        pytest.skip(reason)
    point = Path(tempfile.mkdtemp(prefix="shrinkwrap-image-"))
    try:
        done = _run(need("mount"), "-t", "squashfs", "-o", "loop,ro", image, point)
        if done.returncode != 0 and ("unknown filesystem type" in done.stderr or "loop device" in done.stderr):
            pytest.skip(f"squashfs cannot be mounted here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        try:
            yield point
        finally:
            if _run(need("umount"), point).returncode != 0:
                _run(need("umount"), "-l", point)
    finally:
        point.rmdir()
