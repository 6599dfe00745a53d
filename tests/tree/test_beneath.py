"""Folders are opened strictly beneath another one, with and without the kernel's help."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shrinkwrap.tree import beneath
from shrinkwrap.tree.beneath import Folders, open_beneath


@pytest.fixture(params=["openat2", "step by step"])
def top(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A folder that holds ``a/b/c``, with a file and links in it; its descriptor."""
    if request.param == "step by step":
        monkeypatch.setattr(beneath, "_syscall", None)
    (tmp_path / "top" / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "top" / "file").touch()
    (tmp_path / "top" / "a" / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "top" / "a" / "in").symlink_to("b")
    fd = os.open(tmp_path / "top", beneath.DIRECTORY)
    yield fd
    os.close(fd)


def test_a_folder_below_is_opened(top: int, tmp_path: Path) -> None:
    for path in (b"", b"a", b"a/b/c"):
        fd = open_beneath(top, path)
        assert os.fstat(fd).st_ino == (tmp_path / "top" / os.fsdecode(path)).stat().st_ino
        os.close(fd)


@pytest.mark.parametrize("path", [b"a/out", b"a/in", b"a/in/c", b"a/out/x", b"file", b"file/x"])
def test_links_and_files_on_the_way_are_refused(top: int, path: bytes) -> None:
    with pytest.raises(OSError) as caught:
        open_beneath(top, path)
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)


@pytest.mark.parametrize("path", [b"..", b"a/../..", b"a/../../outside", b"/"])
def test_no_path_leads_above(top: int, path: bytes) -> None:
    with pytest.raises(OSError) as caught:
        open_beneath(top, path)
    assert caught.value.errno == errno.EXDEV


def test_paths_longer_than_the_kernel_takes_in_one_call_are_opened(top: int) -> None:
    name = b"n" * 250
    fd = os.dup(top)
    for _ in range(20):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, beneath.DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    found = open_beneath(top, b"/".join([name] * 20))
    assert os.path.sameopenfile(fd, found)
    os.close(found)
    os.close(fd)


def test_open_folders_are_bounded_in_number_and_the_last_used_stay(top: int) -> None:
    for number in range(50):
        os.mkdir(b"%d" % number, dir_fd=top)
    folders = Folders(top, size=8)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(50):
        kept = folders.fd(b"a")
        folders.fd(b"%d" % number)
        assert folders.fd(b"a") == kept
    assert len(os.listdir("/proc/self/fd")) == before + 8
    folders.clear()
    assert len(os.listdir("/proc/self/fd")) == before
