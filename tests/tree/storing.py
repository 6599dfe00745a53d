"""Driving the store of a destination without an export around it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from shrinkwrap.cvmfs.digest import SHA1, digest_of
from shrinkwrap.engine.work import Item
from shrinkwrap.snapshot.view import FILE, Content, Node, object_name
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.place import HARDLINK, Meta
from shrinkwrap.tree.sink import Store, Target, TreeSink, Wanted

META = Meta(0o644, os.getuid(), os.getgid(), 1_000_000_000_000_000_000, ())


def item(content: bytes, *targets: bytes, folder: bytes = b"tree", meta: Meta = META) -> Item:
    """An object as an export would want it, at these names."""
    described = Content(digest_of(SHA1, content), "n", len(content), (), None)
    node = Node(b"/x", FILE, meta.mode, meta.uid, meta.gid, meta.mtime_ns, meta.xattrs, b"", described)
    name = object_name(described, node, share_mtime=False)
    return Item(name, described, b"/x", Wanted(meta, tuple(Target(folder, one) for one in targets)))


def put(store: Store, wanted: Item, content: bytes) -> None:
    """Bring an object as the engine does."""
    if not store.resolve(wanted):
        file = store.begin(wanted)
        file.write_at(0, content)
        store.commit(wanted, file)


def open_store(base: Base, link_mode: str = HARDLINK, *, reflinks: bool = False) -> Store:
    return TreeSink(base.path, base.tmp, base.store.path, base.store.tmp, link_mode, os.geteuid() == 0, reflinks).open()


def link_often(folder: Path, number: int) -> tuple[Counter[int], dict[str, int]]:
    """One object at so many paths: how many of them each inode has, and the counts of the store."""
    (folder / "tree").mkdir()
    base = Base(str(folder))
    try:
        store = open_store(base)
        step = 700
        for first in range(0, number, step):
            names = [b"%d" % one for one in range(first, min(first + step, number))]
            put(store, item(b"", *names), b"")
        counts = store.end_batch()
        store.close()
    finally:
        base.close()
    return Counter(entry.inode() for entry in os.scandir(folder / "tree")), counts
