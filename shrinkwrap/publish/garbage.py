"""Objects that no tagged revision needs (``--gc``).

Marked is what the head and every tag lead to: catalogs, the catalogs nested in them, and all that these name. All else
in ``data/`` goes, once the manifest that does without it is in place. Marks are kept in a scratch database, so that
memory stays flat.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.catalog import TABLES
from shrinkwrap.cvmfs.digest import SIZE, TAGS, Digest, parse_digest
from shrinkwrap.cvmfs.safedb import database_errors, open_database
from shrinkwrap.errors import CatalogError
from shrinkwrap.publish.storage import Storage

#: Names below ``data/ab`` (FORMAT.md §1.1, §1.2).
_NAME: Final = re.compile(rb"[0-9a-f]{38}(?:-rmd160|-shake128)?[CHXMPLT]?")
_BATCH: Final = 10_000


class Marks:
    """Names of objects that are needed.

    Attributes:
        catalogs: how many were read.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._db = sqlite3.connect(storage.scratch.decode() + "/marks.db", isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -65536"):
            self._db.execute(f"PRAGMA {pragma}").close()
        self._db.execute("CREATE TABLE mark (name BLOB PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("BEGIN")
        self.catalogs = 0

    def close(self) -> None:
        self._db.close()

    def add(self, digest: Digest, suffix: str) -> bool:
        """Mark one object; False if it was marked before."""
        found = self._db.execute("INSERT OR IGNORE INTO mark VALUES (?)", (_key(digest.raw, digest.algorithm, suffix),))
        return found.rowcount > 0

    def has(self, digest: Digest, suffix: str) -> bool:
        return _key(digest.raw, digest.algorithm, suffix) in self

    def __contains__(self, name: bytes) -> bool:
        return self._db.execute("SELECT 1 FROM mark WHERE name = ?", (name,)).fetchone() is not None

    def mark_tree(self, root: Digest, progress: Callable[[int], None]) -> None:
        """Mark a root catalog and all that it leads to.

        Raises:
            MissingObject, CorruptObject: a catalog cannot be read: nothing may be deleted then.
        """
        waiting = [root]
        while waiting:
            digest = waiting.pop()
            if self.add(digest, "C"):
                self.catalogs += 1
                waiting += self._mark_catalog(digest)
                progress(self.catalogs)

    def _mark_catalog(self, digest: Digest) -> list[Digest]:
        file = self._storage.unpack(digest, "C", limits.CATALOG, "mark").decode()
        label = f"catalog {digest}"
        nested: list[Digest] = []
        with closing(open_database(file, TABLES)) as db, database_errors(label):
            rows = db.execute("SELECT hash, (flags >> 8) & 7 FROM catalog WHERE hash IS NOT NULL AND length(hash) > 0")
            self._add_rows(rows, "", label)
            have = {column[0] for column in db.execute("SELECT * FROM nested_catalogs LIMIT 0").description}
            try:
                rows = db.execute(
                    "SELECT c.hash, (f.flags >> 8) & 7 FROM chunks c JOIN catalog f"
                    " ON f.md5path_1 = c.md5path_1 AND f.md5path_2 = c.md5path_2"
                )
            except sqlite3.OperationalError:
                pass  # schema 1.x has none
            else:
                self._add_rows(rows, "P", label)
            tables = ["nested_catalogs"] if "sha1" in have else []
            for table in (*tables, "bind_mountpoints"):
                try:
                    texts = db.execute(f"SELECT sha1 FROM {table}").fetchall()  # noqa: S608 - constant names
                except sqlite3.OperationalError:
                    continue
                nested += [parse_digest(text.decode("ascii", "replace")) for (text,) in texts if text]
        return [one for one in nested if not one.is_null]

    def _add_rows(self, rows: Iterable[tuple[object, object]], suffix: str, label: str) -> None:
        names: list[tuple[bytes]] = []
        for raw, algorithm in rows:
            if not isinstance(raw, bytes) or len(raw) != SIZE or not isinstance(algorithm, int) or algorithm > 2:
                raise CatalogError(f"{label}: a hash that is none")
            names.append((_key(raw, algorithm, suffix),))
            if len(names) >= _BATCH:
                self._db.executemany("INSERT OR IGNORE INTO mark VALUES (?)", names)
                names.clear()
        self._db.executemany("INSERT OR IGNORE INTO mark VALUES (?)", names)


def _key(raw: bytes, algorithm: int, suffix: str) -> bytes:
    return raw + TAGS[algorithm].encode() + suffix.encode()


def sweep(storage: Storage, marks: Marks, progress: Callable[[int], None]) -> tuple[int, int, int]:
    """Delete all objects that are not marked.

    Returns:
        How many went, their bytes, and the number of files with names that no object has: they stay.

    Raises:
        DestinationError: something cannot be deleted.
    """
    gone = freed = strange = 0
    for number in range(256):
        folder = storage.path + b"/data/%02x" % number
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if _NAME.fullmatch(name) is None or not entry.is_file(follow_symlinks=False):
                        strange += 1
                        continue
                    if bytes.fromhex(f"{number:02x}" + name[:38].decode()) + name[38:] in marks:
                        continue
                    freed += entry.stat(follow_symlinks=False).st_size
                    os.unlink(entry.path)
                    gone += 1
                    progress(gone)
        except OSError as exc:
            raise storage.failed(exc) from None
    return gone, freed, strange
