"""The store: complete content under each name, and from there to paths."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import golden
from support.processes import dying_with_parent, need
from tree.storing import META, item, open_store, put

from shrinkwrap.engine.work import Item
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.place import COPY, HARDLINK, REFLINK, Meta
from shrinkwrap.tree.sink import Store


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


def _open_files() -> list[int]:
    return sorted(map(int, os.listdir("/proc/self/fd")))


def _fill(base: Base, folders: int) -> tuple[list[int], list[int]]:
    """Objects in many folders of the tree; the descriptors that are open before and at the end."""
    before = _open_files()
    store = open_store(base)
    for number in range(folders):
        content = b"%d" % number
        os.mkdir(os.path.join(base.path, f"tree/{number}"))
        put(store, item(content, b"file", folder=b"tree/%d" % number), content)
    during = _open_files()
    # All are found again, those that were closed meanwhile too.
    for number in range(folders):
        assert store.resolve(item(b"%d" % number, b"again", folder=b"tree/%d" % number))
    store.close()
    assert _open_files() == before
    return before, during


def _with_limit(soft: int, hard: int, folders: int, path: Path) -> tuple[int, ...]:
    """What :func:`_fill` does in a process that may have so many files open."""
    program = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "from tree.test_sink import _fill\n"
        "from shrinkwrap.tree.base import Base\n"
        "base = Base(sys.argv[1])\n"
        f"before, during = _fill(base, {folders})\n"
        "base.close()\n"
        "print(len(during) - len(before), sum(one >= 1024 for one in during), max(during))\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    done = subprocess.run(
        [*dying_with_parent(), sys.executable, "-c", program, str(path)],
        env={**os.environ, "PYTHONPATH": f"{golden.CHECKOUT}:{golden.CHECKOUT}/tests"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, limits = ([int(word) for word in line.split()] for line in done.stdout.splitlines())
    return (*found, *limits)


def test_a_store_keeps_many_folders_open_and_leaves_the_low_numbers_to_others(base: Base, tmp_path: Path) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096:
        pytest.skip("needs 4,096 open files")
    before, during = _fill(base, 600)
    assert len(list((tmp_path / ".data").glob("??"))) > 200
    low = [one for one in during if one < 1024 and one not in before]
    # select() can wait for descriptors below 1024 only: those are for connections.
    assert len(low) < 80
    assert len([one for one in during if one >= 1024]) == 600


@pytest.mark.parametrize(
    ("soft", "hard", "many"),
    [
        pytest.param(256, 256, False, id="256 and no more"),
        pytest.param(128, 256, False, id="a soft limit of 128 below 256"),
        pytest.param(1024, 1024, False, id="1,024 and no more"),
        pytest.param(256, 20_000, True, id="a soft limit that can be raised"),
        pytest.param(2048, 2048, True, id="a few more than select() can wait for"),
    ],
)
def test_a_store_keeps_as_many_folders_open_as_it_may(soft: int, hard: int, many: bool, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    more, high, _, soft_now, hard_now = _with_limit(soft, hard, 500, tmp_path)
    assert hard_now == hard
    assert (high == 500) == many
    if not many:
        assert (high, more < 120, soft_now <= hard) == (0, True, True)


# -- whole objects ---------------------------------------------------------------------------------------------------


def put_whole(store: Store, wanted: Item, content: bytes) -> None:
    assert not store.resolve(wanted)
    store.put(wanted, content)


def meta_of(path: Path) -> Meta:
    info = path.lstat()
    xattrs = tuple((os.fsencode(name), os.getxattr(path, name)) for name in sorted(os.listxattr(path)))
    return Meta(stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns, xattrs)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("owner", ["own", pytest.param("other", marks=pytest.mark.root)])
def test_a_whole_object_has_the_mode_owner_and_time_that_are_wanted(
    owner: str, umask: int, base: Base, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        store = open_store(base)
        for mode in range(0, 0o10000, 1 if (owner, umask) == ("own", 0o077) else 7):
            meta = META._replace(mode=mode, mtime_ns=-1 - mode if mode % 2 else mode * 10**9 + 5)
            if owner == "other":
                meta = meta._replace(uid=1000 + mode % 3, gid=2000 + mode % 2)
            put_whole(store, item(b"%d" % mode, b"%d" % mode, meta=meta), b"%d" % mode)
            assert meta_of(tmp_path / "tree" / f"{mode}") == meta
        store.close()
    finally:
        os.umask(before)


def test_a_whole_object_is_right_below_a_folder_that_hands_down_its_group(tmp_path: Path) -> None:
    group = 12345 if os.getuid() == 0 else os.getgid()
    os.chown(tmp_path, -1, group)
    tmp_path.chmod(0o2775)
    (tmp_path / "tree").mkdir()
    base = Base(str(tmp_path))
    store = open_store(base)
    for mode in (0o644, 0o755, 0o000, 0o2755, 0o4711, 0o7777):
        meta = META._replace(mode=mode)
        put_whole(store, item(b"%d" % mode, b"%d" % mode, meta=meta), b"%d" % mode)
        found = meta_of(tmp_path / "tree" / f"{mode}")
        # Owners are root's to set; for others they are what the file system gives.
        assert found == (meta if os.getuid() == 0 else meta._replace(gid=found.gid))
    store.close()
    base.close()


@pytest.mark.parametrize("mode", [0o644, 0o444, 0o000, 0o6755])
def test_a_whole_object_has_its_attributes_whatever_its_mode(mode: int, base: Base, tmp_path: Path) -> None:
    store = open_store(base)
    meta = META._replace(mode=mode, xattrs=((b"user.a", b""), (b"user.b", bytes(range(256)))))
    put_whole(store, item(b"content", b"one", b"two", meta=meta), b"content")
    assert meta_of(tmp_path / "tree" / "one") == meta
    assert (tmp_path / "tree" / "one").samefile(tmp_path / "tree" / "two")
    assert store.end_batch() == {}
    store.close()


@pytest.mark.parametrize("content", [b"", b"x", bytes(1 << 20)])
def test_a_whole_object_is_complete_in_every_way_of_linking(content: bytes, store: Store, tmp_path: Path) -> None:
    put_whole(store, item(content, b"one", b"two"), content)
    for name in ("one", "two"):
        assert (tmp_path / "tree" / name).read_bytes() == content
        assert meta_of(tmp_path / "tree" / name) == META
    assert store.resolve(item(content, b"three"))
    # What another process made is seen with the next batch.
    store.end_batch()
    assert store.resolve(item(content, b"four"))
    assert (tmp_path / "tree" / "four").read_bytes() == content


def test_a_disk_that_takes_little_at_a_time_gets_all_of_it(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, bytes(data[:1000]), offset))
    store = open_store(base)
    content = os.urandom(12_345)
    put_whole(store, item(content, b"one"), content)
    assert (tmp_path / "tree" / "one").read_bytes() == content
    store.close()


def test_a_full_disk_leaves_no_name_in_the_store(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = open_store(base)
    wanted = item(b"content", b"one")
    store.resolve(wanted)
    before = _open_files()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            store.put(wanted, b"content")
    assert not store.exists(wanted.name)
    assert list((tmp_path / "tree").iterdir()) == []
    assert set(_open_files()) - set(before) <= {max(_open_files())}
    # There is room again.
    store.put(wanted, b"content")
    assert (tmp_path / "tree" / "one").read_bytes() == b"content"
    store.close()


_COUNTED = """
import os, sys
from itertools import count, islice
from tree.storing import META, item, open_store
from shrinkwrap.tree.base import Base
base = Base(sys.argv[1])
store = open_store(base)

def bring(content, *names):
    meta = META._replace(uid=META.uid + 5 * (int(content) % 2))
    wanted = item(content, *names, meta=meta)
    os.access(b"/begin", 0)
    store.resolve(wanted) or store.put(wanted, content)
    os.access(b"/end", 0)

# Of sixteen folders, so that all can stay open.
chosen = (b"%d" % number for number in count() if item(b"%d" % number).name[0] == "0")
for content in islice(chosen, 200):
    bring(content, content)
os.access(b"/warm", 0)
for content in islice(chosen, 20):
    bring(content, b"a" + content, b"b" + content, b"c" + content)
store.close()
base.close()
"""
#: Python's own affair.
_MEMORY = {"brk", "mmap", "munmap", "madvise", "mremap"}


def _spans(log: Path) -> list[list[str]]:
    """Names of the system calls between marks, of what came when everything was warm."""
    spans: list[list[str]] = []
    inside = False
    for line in log.read_text(errors="replace").partition('"/warm"')[2].splitlines():
        name = line.partition("(")[0]
        if '"/begin"' in line:
            inside = True
            spans.append([])
        elif '"/end"' in line:
            inside = False
        elif inside and name.isidentifier() and name not in _MEMORY:
            spans[-1].append(name)
    return spans


def test_a_whole_object_costs_no_more_calls_than_it_needs(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    log = tmp_path / "log"
    words = [need("strace"), "-o", str(log), sys.executable, "-c", _COUNTED, str(tmp_path)]
    done = subprocess.run(
        [*dying_with_parent(), *words],
        env={**os.environ, "PYTHONPATH": f"{golden.CHECKOUT}:{golden.CHECKOUT}/tests"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if "not permitted" in done.stderr and "trace" in done.stderr.lower():
        pytest.skip("processes cannot be traced here")
    assert done.returncode == 0, done.stderr
    spans = _spans(log)
    open_write, close = ["openat", "pwrite64"], ["utimensat", "close", "renameat", "linkat", "linkat", "linkat"]
    allowed = [open_write + close]
    if os.getuid() == 0:  # half of them have another owner
        allowed.append([*open_write, "fchown", *close])
    assert len(spans) == 20
    assert [span for span in spans if span not in allowed] == []
    assert all(one in spans for one in allowed)


def test_a_folder_of_the_store_is_listed_once_for_a_batch(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[Any] = []
    listdir = os.listdir
    store = open_store(base)
    monkeypatch.setattr(os, "listdir", lambda where: listed.append(where) or listdir(where))
    wanted = [item(b"%d" % number, b"%d" % number) for number in range(1000)]
    for one in wanted:
        if not store.resolve(one):
            store.put(one, one.path)
    shards = {one.name[:2] for one in wanted}
    # A folder that is not there yet has nothing to list.
    assert listed == []
    store.end_batch()
    for one in wanted:
        assert store.resolve(one._replace(payload=one.payload._replace(targets=())))
    assert len(listed) == len(shards)
    store.close()
