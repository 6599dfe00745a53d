"""The store: complete content under each name, and from there to paths."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tree.storing import META, item, open_store, put

from shrinkwrap.tree.base import Base
from shrinkwrap.tree.place import COPY, HARDLINK, REFLINK
from shrinkwrap.tree.sink import Store, mode_of


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Base]:
    (tmp_path / "tree").mkdir()
    made = Base(str(tmp_path))
    yield made
    made.close()


@pytest.fixture(params=[HARDLINK, REFLINK, COPY])
def store(request: pytest.FixtureRequest, base: Base) -> Iterator[Store]:
    made = open_store(base, request.param)
    yield made
    made.close()


def test_an_object_comes_to_all_paths_that_want_it_at_once(store: Store, tmp_path: Path) -> None:
    put(store, item(b"content", b"one", b"two"), b"content")
    for name in ("one", "two"):
        assert (tmp_path / "tree" / name).read_bytes() == b"content"
        assert (tmp_path / "tree" / name).stat().st_mtime_ns == META.mtime_ns


def test_an_object_that_is_there_needs_no_fetching(store: Store, tmp_path: Path) -> None:
    put(store, item(b"content", b"one"), b"content")
    assert store.resolve(item(b"content", b"two"))
    assert store.resolve(item(b"content"))
    assert (tmp_path / "tree" / "two").read_bytes() == b"content"


def test_an_object_of_other_metadata_is_made_from_the_one_that_is_there(store: Store, tmp_path: Path) -> None:
    put(store, item(b"content", b"one"), b"content")
    assert store.resolve(item(b"content", b"two", meta=META._replace(mode=0o600, mtime_ns=5)))
    assert store.end_batch()["derived"] == 1
    info = (tmp_path / "tree" / "two").stat()
    assert (info.st_mode & 0o7777, info.st_mtime_ns) == (0o600, 5)
    assert (tmp_path / "tree" / "one").stat().st_mode & 0o7777 == META.mode


def test_what_is_not_there_is_not_resolved_and_leaves_nothing_behind(store: Store, base: Base, tmp_path: Path) -> None:
    assert not store.resolve(item(b"content", b"one"))
    assert not store.resolve(item(b"content"))
    assert list((tmp_path / "tree").iterdir()) == []
    assert list((tmp_path / os.fsdecode(base.tmp)).iterdir()) == []


def test_a_discarded_object_has_no_name(store: Store, base: Base, tmp_path: Path) -> None:
    wanted = item(b"content", b"one")
    file = store.begin(wanted)
    file.write_at(0, b"con")
    store.discard(file)
    assert not store.exists(wanted.name)
    assert list((tmp_path / os.fsdecode(base.tmp)).iterdir()) == []


def test_a_path_is_replaced_whole_and_nothing_is_left_in_the_work_folder(
    store: Store, base: Base, tmp_path: Path
) -> None:
    new = item(b"new")
    put(store, item(b"old", b"one"), b"old")
    put(store, new, b"new")
    for _ in range(2):  # the second time it is the same inode, which a rename leaves under both names
        store.replace(new.name, META, b"tree", b"one")
        assert (tmp_path / "tree" / "one").read_bytes() == b"new"
        assert list((tmp_path / os.fsdecode(base.tmp)).iterdir()) == []


def test_a_folder_that_went_away_under_the_run_is_an_error_and_no_reason_to_fetch(store: Store, tmp_path: Path) -> None:
    put(store, item(b"content", b"one"), b"content")
    with pytest.raises(FileNotFoundError):
        store.resolve(item(b"content", b"two", folder=b"tree/gone"))


@pytest.fixture
def few_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links to an inode run out at three."""
    link = os.link

    def limited(source: str, name: bytes, **where: Any) -> None:
        if os.stat(source, dir_fd=where["src_dir_fd"]).st_nlink >= 3:
            raise OSError(errno.EMLINK, "Too many links")
        link(source, name, **where)

    monkeypatch.setattr(os, "link", limited)


@pytest.mark.usefixtures("few_links")
def test_when_links_run_out_the_object_gets_further_names(base: Base, tmp_path: Path) -> None:
    paths = [b"%d" % number for number in range(9)]
    wanted = item(b"content", *paths)
    store = open_store(base)
    put(store, wanted, b"content")
    inodes = {(tmp_path / "tree" / os.fsdecode(path)).stat().st_ino for path in paths}
    assert len(inodes) == 5  # each has one name in the store and two in the tree
    assert all(store.holds(wanted.name, (os.stat(tmp_path).st_dev, inode)) for inode in inodes)
    assert store.end_batch() == {"overflow": 4}
    # Another run, which remembers nothing, goes on where there is room.
    store.close()
    store = open_store(base)
    assert store.resolve(item(b"content", b"more"))
    assert store.stat(wanted.name + "~5") is None
    store.drop(wanted.name)
    assert not any(store.exists(wanted.name + rest) for rest in ("", "~1", "~2", "~3", "~4"))
    store.close()


@pytest.mark.usefixtures("few_links")
def test_a_folder_that_went_away_is_not_taken_for_a_missing_overflow_name(base: Base, tmp_path: Path) -> None:
    store = open_store(base)
    put(store, item(b"content", b"1", b"2", b"3"), b"content")
    os.mkdir(tmp_path / "tree" / "gone")
    os.rmdir(tmp_path / "tree" / "gone")
    with pytest.raises(FileNotFoundError):
        store.resolve(item(b"content", b"4", folder=b"tree/gone"))
    store.close()


@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP])
def test_where_a_link_is_refused_a_copy_does_and_is_counted(
    code: int, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    store = open_store(base)
    put(store, item(b"content", b"one"), b"content")
    assert (tmp_path / "tree" / "one").read_bytes() == b"content"
    assert store.end_batch() == {"copied": 1, "link_fallback": 1}
    store.close()


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


def test_a_store_keeps_few_folders_open(base: Base, tmp_path: Path) -> None:
    store = open_store(base)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(600):
        content = b"%d" % number
        (tmp_path / "tree" / f"{number}").mkdir()
        put(store, item(content, b"file", folder=b"tree/%d" % number), content)
    assert len(list((tmp_path / ".data").glob("??"))) > 200
    assert len(os.listdir("/proc/self/fd")) - before < 80
    store.close()
    assert len(os.listdir("/proc/self/fd")) < before
