"""The store of a destination as a dry run sees it: only read; what a run would do to it is noted elsewhere."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Final, NamedTuple

from shrinkwrap.engine.work import group_of
from shrinkwrap.errors import DestinationError
from shrinkwrap.snapshot.view import Node
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.beneath import DIRECTORY
from shrinkwrap.tree.place import HARDLINK, Check, Meta
from shrinkwrap.tree.sink import TreeSink

#: Memory for the notes, in KiB; beyond it they lie in their file.
_CACHE_KIB: Final = 32 * 1024
_LAYOUT: Final = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA locking_mode = EXCLUSIVE;
    CREATE TABLE wanted (name TEXT PRIMARY KEY, size INTEGER, packed INTEGER, there INTEGER) WITHOUT ROWID;
    CREATE TABLE dropped (name TEXT PRIMARY KEY) WITHOUT ROWID;
    BEGIN;
"""


class Lacking(NamedTuple):
    """Contents that the store does not have.

    ``number`` of them, ``size`` in bytes as files, ``packed`` the part of that which servers hold compressed.
    """

    number: int
    size: int
    packed: int


class Foresight:
    """What a run would find in the store, drop from it and want from it.

    Args:
        base: a destination open for reading.
        notes: path of a new file for what is noted: memory stays flat in the number of objects.
        since: stored files of this ctime (in nanoseconds) and later would be dropped (:mod:`shrinkwrap.tree.intents`).
        check: as for a run: look at stored files before they are used (--repair); None: believe their names.
    """

    def __init__(self, base: Base, notes: str, *, since: int | None, check: Check | None) -> None:
        self._since = since
        self._check = check
        self._root = os.geteuid() == 0
        self._path = base.path
        self._store = None
        self._data = ""
        if base.has_store:
            self._data = base.store.path
            # The work folders are for writing: any folders do.
            self._store = TreeSink(base.path, b"", self._data, b"", HARDLINK, self._root, False).open()
        self._db = sqlite3.connect(notes, isolation_level=None)
        with _noting():
            self._db.executescript(_LAYOUT)
            self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")

    def close(self) -> None:
        self._db.close()
        if self._store is not None:
            self._store.close()

    # -- what comparing asks for -------------------------------------------------------------------------------------

    def holds(self, name: str, inode: tuple[int, int]) -> bool:
        """True if (device, inode) is the object, and stays it."""
        return self._stat(name) is not None and self._store is not None and self._store.holds(name, inode)

    def equals(self, stored: str, folder: int, name: bytes) -> bool:
        """True if a file has the content of a stored file. What its owner may not read is taken for right."""
        info = self._stat(stored)
        if info is None or self._store is None:
            return False
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
        # A run would give itself the permission for a moment, which changes the file.
        closed = not (info.st_mode & there.st_mode & 0o400) and not self._root
        return closed or self._store.equals(stored, folder, name)

    def drop(self, name: str) -> None:
        """Note that a run would take this object out of the store."""
        with _noting():
            self._db.execute("INSERT OR IGNORE INTO dropped VALUES (?)", (name,))

    # -- what is wanted ----------------------------------------------------------------------------------------------

    def want(self, name: str, node: Node) -> None:
        """Note a stored file that a path wants."""
        content = node.content
        assert content is not None
        there = False
        if self._check is not None:
            # Asked now, while the metadata is known that it should have.
            info = self._stat(name)
            meta = Meta(node.mode, node.uid, node.gid, node.mtime_ns, node.xattrs)
            there = info is not None and self._check.fits(info, meta, content.size)
        with _noting():
            self._db.execute(
                "INSERT OR IGNORE INTO wanted VALUES (?, ?, ?, ?)",
                (name, content.size, content.size if content.compressed else 0, there),
            )

    def lacking(self) -> Lacking:
        """What has to be fetched of all that was wanted: each content once, however many files differ in metadata."""
        number = size = packed = 0
        with _noting():
            rows: Iterable[tuple[str, int, int, int]] = self._db.execute(
                "SELECT name, size, packed, there FROM wanted ORDER BY name"
            )
            for shard, members in groupby(rows, key=lambda row: row[0].partition("/")[0]):
                have = self._groups(shard) if self._check is None else frozenset()
                lacked = {
                    group_of(name): (bytes_, part)
                    for name, bytes_, part, there in members
                    if not there and group_of(name) not in have
                }
                number += len(lacked)
                size += sum(one for one, _ in lacked.values())
                packed += sum(part for _, part in lacked.values())
        return Lacking(number, size, packed)

    def _groups(self, shard: str) -> frozenset[str]:
        """The contents in one folder of the store, but for what would be dropped."""
        try:
            listing = os.open(os.path.join(self._data, shard), DIRECTORY | os.O_NOFOLLOW)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ENOTDIR):
                return frozenset()
            raise
        try:
            names = [f"{shard}/{rest}" for rest in os.listdir(listing)]
        finally:
            os.close(listing)
        gone = self._dropped(shard)
        return frozenset(
            group_of(name)
            for name in names
            if name.partition("~")[0] not in gone and (self._since is None or self._stat(name) is not None)
        )

    def _dropped(self, shard: str) -> frozenset[str]:
        found = self._db.execute("SELECT name FROM dropped WHERE name >= ? AND name < ?", (f"{shard}/", f"{shard}0"))
        return frozenset(name for (name,) in found)

    def _stat(self, name: str) -> os.stat_result | None:
        """What stands under a name in the store and would stay there."""
        info = None if self._store is None else self._store.stat(name)
        if info is None or (self._since is not None and info.st_ctime_ns >= self._since):
            return None
        with _noting():
            gone = self._db.execute("SELECT 1 FROM dropped WHERE name = ?", (name,)).fetchone()
        return info if gone is None else None


@contextmanager
def _noting() -> Iterator[None]:
    """Errors of the notes, in words."""
    try:
        yield
    except sqlite3.Error as exc:
        raise DestinationError(
            f"the notes of the dry run cannot be kept: {exc}",
            hint="free space in the folder for temporary files, or name another one with TMPDIR",
        ) from None
