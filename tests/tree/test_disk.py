"""The tree as it lies on the disk comes in the order of snapshots."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shrinkwrap.snapshot.walk import order_key
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.disk import DiskWalk


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Base]:
    made = Base(str(tmp_path))
    yield made
    made.close()


def test_the_order_is_that_of_names_and_not_of_whole_paths(base: Base) -> None:
    names = [b"a", b"a-b", b"a.b", b"b", b"\xff", b"\x01", b"A", "ä".encode()]
    chosen = random.Random(1)
    top = os.fsencode(base.path) + b"/tree"
    os.mkdir(top)
    for _ in range(60):
        path = b"/".join(chosen.choice(names) for _ in range(chosen.randrange(1, 5)))
        os.makedirs(top + b"/" + path, exist_ok=True)
    paths = [old.path for old in DiskWalk(base, b"tree")]
    assert paths == sorted(paths, key=order_key)
    assert len(paths) == 1 + sum(len(folders) for _, folders, _ in os.walk(top))


def test_what_is_pruned_is_not_gone_into(base: Base) -> None:
    top = Path(base.path, "tree")
    for name in ("a/x", "b/x", "c/x"):
        (top / name).mkdir(parents=True)
    walk = DiskWalk(base, b"tree")
    seen = []
    for old in walk:
        seen.append(old.path)
        if old.path == b"/b":
            walk.prune()
    assert seen == [b"", b"/a", b"/a/x", b"/b", b"/c", b"/c/x"]


def test_everything_has_a_kind_and_links_are_not_followed(base: Base) -> None:
    top = Path(base.path, "tree")
    (top / "dir").mkdir(parents=True)
    (top / "dir" / "x").touch()
    (top / "link").symlink_to("dir")
    os.mkfifo(top / "pipe")
    assert {old.path: old.kind for old in DiskWalk(base, b"tree")} == {
        b"": "d",
        b"/dir": "d",
        b"/dir/x": "f",
        b"/link": "l",
        b"/pipe": "o",
    }


def test_a_tree_that_is_no_folder_has_one_entry(base: Base) -> None:
    Path(base.path, "tree").symlink_to("/")
    assert [(old.path, old.kind) for old in DiskWalk(base, b"tree")] == [(b"", "l")]
