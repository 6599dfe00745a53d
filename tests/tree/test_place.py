"""Metadata and content of stored files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from shrinkwrap.tree.place import COPY, HARDLINK, REFLINK, Counts, Meta, copy_content, mode_of, set_file_meta


@pytest.mark.root
def test_set_id_bits_outlive_the_change_of_owner_and_attributes_the_mode(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    fd = os.open(tmp_path / "f", os.O_RDWR)
    counts = Counts()
    set_file_meta(fd, Meta(0o6755, 12, 34, -5, ((b"user.a", b"1"),)), own=True, counts=counts)
    os.close(fd)
    info = (tmp_path / "f").stat()
    assert (info.st_mode & 0o7777, info.st_uid, info.st_gid, info.st_mtime_ns) == (0o6755, 12, 34, -5)
    assert os.getxattr(tmp_path / "f", "user.a") == b"1"
    assert counts == {}


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.ENOSPC, errno.E2BIG])
def test_an_attribute_that_the_file_system_does_not_hold_is_counted(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "setxattr", refuse)
    counts = Counts()
    with (tmp_path / "f").open("wb") as file:
        set_file_meta(file.fileno(), Meta(0o600, 0, 0, 0, ((b"user.a", b"1"),)), own=False, counts=counts)
    assert counts.take() == {"xattr_lost": 1}
    assert counts == {}


@pytest.mark.parametrize("whole", [True, False])
def test_a_copy_is_whole_with_and_without_the_kernels_help(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3 << 20) + b"end"
    (tmp_path / "a").write_bytes(content)

    def sometimes(source: int, target: int, count: int, at: int, to: int) -> int:
        if at > 1 << 20 and not whole:
            raise OSError(errno.EXDEV, "not here")
        return copy(source, target, min(count, 300_001), at, to)

    copy = os.copy_file_range
    monkeypatch.setattr(os, "copy_file_range", sometimes)
    with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("w+b") as target:
        assert copy_content(source.fileno(), target.fileno(), reflink=False) is False
    assert (tmp_path / "b").read_bytes() == content


def test_the_link_mode_is_the_nearest_that_the_file_system_can_do() -> None:
    able = {
        (wish, links, clones): mode_of(wish, hardlinks=links, reflinks=clones)
        for wish in (HARDLINK, REFLINK, COPY)
        for links in (True, False)
        for clones in (True, False)
    }
    assert able == {
        (HARDLINK, True, True): HARDLINK,
        (HARDLINK, True, False): HARDLINK,
        (HARDLINK, False, True): REFLINK,
        (HARDLINK, False, False): COPY,
        (REFLINK, True, True): REFLINK,
        (REFLINK, True, False): COPY,
        (REFLINK, False, True): REFLINK,
        (REFLINK, False, False): COPY,
        (COPY, True, True): COPY,
        (COPY, True, False): COPY,
        (COPY, False, True): COPY,
        (COPY, False, False): COPY,
    }
