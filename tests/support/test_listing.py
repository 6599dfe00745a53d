"""What a comparison must notice: one that overlooks something would make every golden test worthless."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support import golden
from support.building import build
from support.listing import AS_ROOT, AS_USER, ORDINARY, Projection, Record, as_user, compare, list_tree, probe

ROOT = os.getuid() == 0
#: What the trees here are owned by, so that the tests need no root.
UID, GID = os.getuid(), os.getgid()


def record(path: bytes, kind: str, mode: str, mtime: int = 1_500_000_000, **more: Any) -> Record:
    """A record with the values that do not matter filled in."""
    made = Record(path, kind, mode, UID, GID, mtime, 123_456_789, 0, 1)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def file(path: bytes, mode: str = "0644", content: str = "a", **more: Any) -> Record:
    return record(path, "file", mode, size=200, sha256=hashlib.sha256(content.encode()).hexdigest(), **more)


LISTING = [
    record(b"/", "dir", "0755"),
    file(b"/.hidden"),
    record(b"/a", "dir", "0750", xattrs={b"user.dir": b"on a directory"}),
    file(b"/a/b", "0600", mtime=0),
    record(b"/a-b", "dir", "0555", mtime=-1),
    file(b"/caf\xc3\xa9", xattrs={b"user.one": b"1", b"user.bin": bytes(range(256))}),
    file(b"/hard1", content="h", group=b"/hard1"),
    file(b"/hard2", content="h", group=b"/hard1"),
    record(b"/latin1-\xe9\n", "dir", "1777"),
    record(b"/latin1-\xe9\n/link", "symlink", "0777", size=6, target=b"../a/b"),
    file(b"/setuid", "4755"),
    record(b"/dangling", "symlink", "0777", size=5, target=b"\xff\xfe/./"),
]


@pytest.fixture
def tree(scratch: Path) -> tuple[Path, list[Record]]:
    if not probe(scratch).xattrs:
        pytest.skip(f"{scratch.parent} holds no user xattrs")
    root = scratch / "tree"
    return root, build(LISTING, root)


def keep_times(change: Callable[[bytes], object], path: bytes) -> None:
    """Do something to a path, with its mtime and its directory's as before."""
    before = {one: os.lstat(one).st_mtime_ns for one in (path, os.path.dirname(path)) if os.path.lexists(one)}
    change(path)
    for one, when in before.items():
        if os.path.lexists(one):
            os.utime(one, ns=(when, when), follow_symlinks=False)


def rewrite(content: Callable[[bytes], bytes]) -> Callable[[bytes], None]:
    def change(path: bytes) -> None:
        with open(path, "rb+") as opened:
            old = opened.read()
            opened.seek(0)
            opened.truncate()
            opened.write(content(old))

    return change


def swap(make: Callable[[bytes], object]) -> Callable[[bytes], None]:
    def change(path: bytes) -> None:
        os.unlink(path)
        make(path)

    return change


def copy_apart(path: bytes) -> None:
    shutil.copy2(path, path + b".new")
    os.rename(path + b".new", path)


def decompose(path: bytes) -> None:
    os.rename(path, path.replace(b"\xc3\xa9", b"e\xcc\x81"))


def touch(delta: int) -> Callable[[bytes], None]:
    def change(path: bytes) -> None:
        when = os.lstat(path).st_mtime_ns + delta
        os.utime(path, ns=(when, when), follow_symlinks=False)

    return change


def hide_behind_link(path: bytes) -> None:
    os.rename(path, path + b"2")
    os.symlink(os.path.basename(path) + b"2", path)


class Change(NamedTuple):
    """What is done to a path, and what the difference must say."""

    path: bytes
    change: Callable[[bytes], object]
    says: str
    keeps_times: bool = True


CHANGES: dict[str, Change] = {
    "mode of a file": Change(b"/a/b", lambda path: os.chmod(path, 0o640), "mode should be 0600, is 0640"),
    "mode of a directory": Change(b"/a", lambda path: os.chmod(path, 0o755), "mode should be 0750, is 0755"),
    "set-id bit": Change(b"/setuid", lambda path: os.chmod(path, 0o755), "mode should be 4755, is 0755"),
    "sticky bit": Change(b"/latin1-\xe9\n", lambda path: os.chmod(path, 0o777), "mode should be 1777, is 0777"),
    "mode of the root": Change(b"/", lambda path: os.chmod(path, 0o700), "mode should be 0755, is 0700"),
    "content of the same size": Change(b"/.hidden", rewrite(lambda old: b"X" + old[1:]), "sha256"),
    "size": Change(b"/.hidden", rewrite(lambda old: old + b"x"), "size should be 200, is 201"),
    "emptied": Change(b"/.hidden", rewrite(lambda old: b""), "size should be 200, is 0"),
    "mtime": Change(b"/a/b", touch(10**9), "mtime should be 0.123456789, is 1.123456789", keeps_times=False),
    "nanosecond": Change(
        b"/.hidden",
        touch(1),
        "mtime should be 1500000000.123456789, is 1500000000.123456790",
        keeps_times=False,
    ),
    "second before 1970": Change(
        b"/a-b", touch(10**9), "mtime should be -1.123456789, is 0.123456789", keeps_times=False
    ),
    "mtime of a directory": Change(b"/a", touch(-(10**9)), "mtime", keeps_times=False),
    "mtime of a symlink": Change(b"/dangling", touch(10**9), "mtime", keeps_times=False),
    "mtime of the root": Change(b"/", touch(10**9), "mtime", keeps_times=False),
    "target": Change(b"/dangling", swap(lambda path: os.symlink(b"\xff\xff/./", path)), "target"),
    "target that leads to the same": Change(
        b"/latin1-\xe9\n/link",
        swap(lambda path: os.symlink(b"..//a/b", path)),
        "target should be b'../a/b', is b'..//a/b'",
    ),
    "xattr value": Change(b"/caf\xc3\xa9", lambda path: os.setxattr(path, "user.one", b"2"), "xattrs"),
    "xattr gone": Change(b"/caf\xc3\xa9", lambda path: os.removexattr(path, "user.one"), "xattrs"),
    "xattr too many": Change(b"/.hidden", lambda path: os.setxattr(path, "user.x", b""), "xattrs"),
    "xattr of a directory": Change(b"/a", lambda path: os.removexattr(path, "user.dir"), "xattrs"),
    "file gone": Change(b"/a/b", os.unlink, "missing"),
    "directory gone": Change(b"/latin1-\xe9\n", shutil.rmtree, "missing"),
    "file too many": Change(b"/new", lambda path: open(path, "xb").close(), "should not be there (file)"),
    "empty directory too many": Change(b"/a/new", os.mkdir, "should not be there (dir)"),
    "name composed otherwise": Change(b"/caf\xc3\xa9", decompose, "missing"),
    "file is a symlink to the same content": Change(
        b"/.hidden",
        hide_behind_link,
        "type should be file, is symlink",
    ),
    "file is a directory": Change(b"/.hidden", swap(os.mkdir), "type should be file, is dir"),
    "symlink is a directory": Change(b"/dangling", swap(os.mkdir), "type should be symlink, is dir"),
    "file is a fifo": Change(b"/.hidden", swap(os.mkfifo), "type should be file, is fifo"),
    "hard link group apart": Change(b"/hard2", copy_apart, "its hard link group has 2 inodes"),
}
CHANGES_OF_OWNER: dict[str, Change] = {
    "owner of a file": Change(b"/.hidden", lambda path: os.chown(path, 1, -1), "owner should be 0:0, is 1:0"),
    "group of a directory": Change(b"/a", lambda path: os.chown(path, -1, 1), "owner should be 0:0, is 0:1"),
    "owner of a symlink": Change(b"/dangling", lambda path: os.lchown(path, 1, 1), "owner should be 0:0, is 1:1"),
}


def test_a_tree_made_by_the_listing_has_no_difference(tree: tuple[Path, list[Record]]) -> None:
    root, expected = tree
    assert compare(expected, list_tree(root)) == []


def assert_noticed(root: Path, expected: list[Record], one: Change) -> None:
    target = os.fsencode(root) + one.path.rstrip(b"/")
    if one.keeps_times:
        keep_times(one.change, target)
    else:
        one.change(target)
    found = compare(expected, list_tree(root))
    assert any(repr(one.path) in text and one.says in text for text in found), found


@pytest.mark.parametrize("name", CHANGES)
def test_one_changed_property_is_noticed(tree: tuple[Path, list[Record]], name: str) -> None:
    assert_noticed(*tree, CHANGES[name])


@pytest.mark.root
@pytest.mark.parametrize("name", CHANGES_OF_OWNER)
def test_a_changed_owner_is_noticed(tree: tuple[Path, list[Record]], name: str) -> None:
    root, expected = tree
    expected = [replace(one, uid=0, gid=0) for one in expected]
    assert_noticed(root, expected, CHANGES_OF_OWNER[name])


def test_what_an_export_leaves_out_must_not_be_there(tree: tuple[Path, list[Record]]) -> None:
    root, expected = tree
    expected.append(record(b"/fifo", "fifo", "0644"))
    expected.append(record(b"/emptylink", "symlink", "0777", target=b""))
    assert compare(expected, list_tree(root)) == []
    when = os.lstat(root).st_mtime_ns
    os.mkfifo(root / "fifo")
    os.utime(root, ns=(when, when))
    assert compare(expected, list_tree(root)) == ["b'/fifo': should not be there (fifo)"]


def test_equal_files_may_share_an_inode(tree: tuple[Path, list[Record]]) -> None:
    root, expected = tree
    top = os.fsencode(root)
    expected.append(replace(next(one for one in expected if one.path == b"/.hidden"), path=b"/zzz"))
    keep_times(lambda path: os.link(top + b"/.hidden", path), top + b"/zzz")
    assert compare(expected, list_tree(root)) == []


def test_without_root_set_id_bits_must_be_gone(tree: tuple[Path, list[Record]]) -> None:
    root, expected = tree
    foreign = [replace(one, uid=4711, gid=4712) for one in expected]
    projection = as_user(UID, GID)
    assert compare(foreign, list_tree(root), projection) == ["b'/setuid': mode should be 0755, is 4755"]
    os.chmod(root / "setuid", 0o755)
    assert compare(foreign, list_tree(root), projection) == []
    assert all("owner" in one for one in compare(foreign, list_tree(root), AS_ROOT.without_setid()))
    assert (AS_USER.uid, AS_USER.gid) == ORDINARY


def test_shared_mtimes_are_those_of_a_path_that_shares(tree: tuple[Path, list[Record]]) -> None:
    root, expected = tree
    changed = [replace(one, mtime=7) if one.path == b"/hard2" else one for one in expected]
    assert compare(changed, list_tree(root)) != []
    assert compare(changed, list_tree(root), AS_ROOT.sharing_mtimes()) == []
    for name in ("hard1", ".hidden"):
        os.utime(root / name, (99, 99))
    found = compare(changed, list_tree(root), AS_ROOT.sharing_mtimes())
    assert [one.partition(":")[0] for one in sorted(found)] == ["b'/.hidden'", "b'/hard1'", "b'/hard2'"]
    assert compare(changed, list_tree(root), AS_ROOT.without_file_mtimes()) == []
    os.utime(root / "a", (99, 99))
    assert len(compare(changed, list_tree(root), AS_ROOT.without_file_mtimes())) == 1


def test_a_file_system_is_not_blamed_for_what_it_cannot_hold() -> None:
    want = record(b"/f", "file", "0644", mtime=8_000_000_000, xattrs={b"user.a": b"1"})
    poor = AS_ROOT.with_whole_seconds().without_xattrs().with_times(-(2**31), 2**31 - 1)
    have = replace(want, mtime=2**31 - 1, mtime_ns=0, xattrs={})
    assert compare([want], [have], poor) == []
    assert len(compare([want], [have])) == 2
    assert compare([want], [replace(have, mtime=5)], poor) != []
    early = replace(want, mtime=5)
    assert compare([early], [replace(have, mtime=5)], poor) == []
    assert compare([early], [replace(have, mtime=6)], poor) != []


def test_a_link_that_a_file_system_cannot_hold_must_not_be_there() -> None:
    link = record(b"/l", "symlink", "0777", size=1024, target=b"x" * 1024)
    xfs = replace(AS_ROOT, longest_target=1023)
    assert compare([link], [], xfs) == []
    assert compare([link], [link], xfs) == ["b'/l': should not be there (symlink)"]
    assert compare([link], []) == ["b'/l': missing"]


def test_copies_may_split_a_hard_link_group(tree: tuple[Path, list[Record]]) -> None:
    root, expected = tree
    keep_times(copy_apart, os.fsencode(root / "hard2"))
    assert compare(expected, list_tree(root), AS_ROOT.without_groups()) == []


def test_a_listing_does_not_follow_links_out_of_the_tree(scratch: Path) -> None:
    outside, root = scratch / "outside", scratch / "root"
    outside.mkdir()
    (outside / "secret").write_text("x")
    root.mkdir()
    (root / "link").symlink_to(outside)
    assert [one.path for one in list_tree(root)] == [b"/", b"/link"]


def test_the_file_system_of_the_scratch_folder_is_probed(scratch: Path) -> None:
    seen = probe(scratch)
    assert list(scratch.iterdir()) == []
    projection = Projection().on(scratch)
    assert projection.xattrs == seen.xattrs
    assert projection.whole_seconds != seen.nanoseconds


@pytest.mark.root
@pytest.mark.parametrize("at", golden.params(golden.pinned()))
def test_every_golden_listing_can_be_held_against_a_tree(at: golden.Pinned, scratch: Path) -> None:
    root = scratch / "tree"
    expected = build(golden.mounted(at), root)
    found = list_tree(root)
    assert compare(expected, found, AS_ROOT.on(scratch)) == []
    assert len(found) == len(expected)
