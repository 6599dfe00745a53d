"""What was there before, and what the source says over it: the rows of the new revision.

Only catalogs that are concerned are read: those with a directory that the source has entries in, and those above them.
All others stay what they are, known by their mountpoint in the catalog above.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.catalog import TABLES, path_key
from shrinkwrap.cvmfs.digest import Digest, parse_digest
from shrinkwrap.cvmfs.entry import show
from shrinkwrap.cvmfs.safedb import open_database
from shrinkwrap.errors import CatalogError, CorruptObject, UsageError
from shrinkwrap.publish.intake import ancestors
from shrinkwrap.publish.scratch import Scratch
from shrinkwrap.publish.storage import Storage

#: The layout that can be continued: all counters (FORMAT.md §6.1, §6.10). 7 is what is written.
SCHEMA: Final = "2.5"
SCHEMA_REVISION: Final = 7
_LEAST_REVISION: Final = 5

COUNTERS: Final = (
    "regular",
    "symlink",
    "special",
    "dir",
    "nested",
    "chunked",
    "chunks",
    "file_size",
    "chunked_size",
    "xattr",
    "external",
    "external_file_size",
)
Counters = dict[str, int]


@dataclass(slots=True, eq=False)
class Mount:
    """A catalog, old or new.

    Attributes:
        number: in the scratch database.
        path: where it is mounted, ``b""`` for the root.
        digest, size: of the catalog as it was; None and 0 for a new one.
        above: the catalog that it was mounted in.
        file: scratch file with it, once it was opened.
        properties: those that it had.
        own, below: its statistics as they were, once they are known (FORMAT.md §6.10).
        closed: it was not opened: what is in it stays as it is.
    """

    number: int
    path: bytes
    digest: Digest | None = None
    size: int = 0
    above: Mount | None = None
    file: bytes | None = None
    properties: dict[str, str] = field(default_factory=dict)
    own: Counters | None = None
    below: Counters | None = None
    closed: bool = True

    @property
    def key(self) -> tuple[int, int]:
        return path_key(self.path)


class Merge:
    """The previous revision, as far as it is concerned.

    Attributes:
        mounts: all catalogs that are known, by path.

    Args:
        root: hash of the previous root catalog, None for a new repository.
    """

    def __init__(self, scratch: Scratch, storage: Storage, root: Digest | None) -> None:
        self._scratch = scratch
        self._db = scratch.db
        self._storage = storage
        self.mounts: dict[bytes, Mount] = {}
        self._former: dict[int, list[Mount]] = {}
        self._numbers = 0
        scratch.index_nodes()
        top = self.add_mount(b"", root)
        if root is None:
            top.closed = False
        else:
            self._open(top)

    def add_mount(self, path: bytes, digest: Digest | None = None, size: int = 0, above: Mount | None = None) -> Mount:
        self._numbers += 1
        made = Mount(self._numbers, path, digest, size, above)
        self.mounts[path] = made
        return made

    def visit(self, path: bytes) -> None:
        """Something may change in this directory, though the source says nothing of it."""
        for one in ancestors(path):
            self._db.execute("INSERT OR IGNORE INTO visit VALUES (?, ?)", path_key(one))

    # -- opening old catalogs ----------------------------------------------------------------------------------------

    def open_concerned(self) -> None:
        """Open the catalogs with directories that the source, or a deletion, is about."""
        waiting = [one for one in self.mounts.values() if one.closed]
        while waiting:
            mount = waiting.pop()
            if self._is_concerned(mount.key):
                waiting += self._open(mount)

    def _is_concerned(self, key: tuple[int, int]) -> bool:
        for statement in (
            "SELECT 1 FROM stage WHERE p1 = ? AND p2 = ? LIMIT 1",
            "SELECT 1 FROM stage WHERE k1 = ? AND k2 = ? AND implicit = 0 AND (mode & 61440) = 16384",
            "SELECT 1 FROM visit WHERE k1 = ? AND k2 = ?",
        ):
            if self._db.execute(statement, key).fetchone() is not None:
                return True
        return False

    def _open(self, mount: Mount) -> list[Mount]:
        """Bring the rows of a catalog; the catalogs that are mounted in it."""
        assert mount.digest is not None
        label = f"catalog of {show(mount.path)} ({mount.digest})"
        mount.file = self._storage.unpack(mount.digest, "C", limits.CATALOG, f"old.{mount.number}")
        nested = self._inspect(mount, label)
        self._scratch.attach(mount.file, "old", fresh=False)
        try:
            self._bring(mount, label)
        except (sqlite3.Error, UnicodeError) as exc:
            raise CatalogError(f"{label}: {exc}") from None
        self._scratch.detach("old")
        mount.closed = False
        self._former[mount.number] = nested
        return nested

    def former(self, mount: Mount) -> list[Mount]:
        """The catalogs that were mounted in one, those that are gone too."""
        return self._former.get(mount.number, [])

    def _inspect(self, mount: Mount, label: str) -> list[Mount]:
        """The checks, with a connection that can do nothing but read."""
        assert mount.file is not None
        nested = []
        try:
            with closing(open_database(mount.file.decode(), TABLES)) as db:
                mount.properties = {
                    key.decode(): value.decode("utf-8", "surrogateescape")
                    for key, value in db.execute("SELECT key, value FROM properties LIMIT 1000")
                }
                self._check_version(mount, label)
                mount.own, mount.below = read_counters(db)
                for path, text, size in db.execute("SELECT path, sha1, size FROM nested_catalogs"):
                    if path in self.mounts or not path.startswith(mount.path + b"/"):
                        raise CatalogError(f"{label}: it mounts a catalog at {show(path)}, where it cannot be")
                    nested.append(self.add_mount(path, parse_digest(text.decode("ascii", "replace")), size, mount))
        except (sqlite3.Error, UnicodeError, AttributeError, TypeError) as exc:
            raise CatalogError(f"{label}: {type(exc).__name__}: {exc}") from None
        except CorruptObject as exc:
            raise CatalogError(f"{label}: {exc.message}") from None
        return nested

    def _check_version(self, mount: Mount, label: str) -> None:
        schema = mount.properties.get("schema", "1.0")
        revision = mount.properties.get("schema_revision", "0")
        if schema != SCHEMA or not revision.isdecimal() or int(revision) < _LEAST_REVISION:
            raise UsageError(
                f"{label}: schema {schema} revision {revision} cannot be continued,"
                f" only {SCHEMA} from revision {_LEAST_REVISION} on",
                hint="the server tools that made the repository can migrate it",
            )
        prefix = mount.properties.get("root_prefix", "").encode("utf-8", "surrogateescape")
        if prefix != mount.path:
            raise CatalogError(f"{label}: it was made for {show(prefix)}")

    def _bring(self, mount: Mount, label: str) -> None:
        have = {row[1] for row in self._db.execute("PRAGMA old.table_info(catalog)")}
        nanoseconds = "mtimens" if b"mtimens" in have else "NULL"
        # The copy of the mountpoint in the catalog above is replaced by the one here: they are the same but for flags.
        self._db.execute(
            "INSERT OR REPLACE INTO node"  # noqa: S608 - constant names only
            " SELECT md5path_1, md5path_2, parent_1, parent_2, name, mode, size, mtime, "
            f"{nanoseconds}, uid, gid, symlink, xattr, flags & ~34, hash, hardlinks,"
            " CASE WHEN hardlinks >> 32 THEN (? << 32) | (hardlinks >> 32) ELSE 0 END FROM old.catalog",
            (mount.number,),
        )
        self._db.execute("INSERT OR REPLACE INTO chunk SELECT md5path_1, md5path_2, offset, size, hash FROM old.chunks")
        for path, text, size in self._db.execute("SELECT path, sha1, size FROM old.bind_mountpoints").fetchall():
            self._db.execute(
                "INSERT OR REPLACE INTO bind VALUES (?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?)",
                (*path_key(path), path, text, size),
            )
        found = self._scratch.node(mount.path)
        if found is None or found[0] & 0o170000 != 0o040000:
            raise CatalogError(f"{label}: it has no root directory")

    def counters(self, mount: Mount) -> tuple[Counters, Counters]:
        """Statistics of an old catalog, opened for that if need be."""
        if mount.own is None or mount.below is None:
            assert mount.digest is not None
            file = self._storage.unpack(mount.digest, "C", limits.CATALOG, f"look.{mount.number}")
            with closing(open_database(file.decode(), TABLES)) as db:
                mount.own, mount.below = read_counters(db)
        return mount.own, mount.below

    # -- deletions ---------------------------------------------------------------------------------------------------

    def delete(self, paths: Iterable[bytes]) -> list[bytes]:
        """Delete paths with all that is below; those that are not there.

        The catalogs that they are in were opened.
        """
        lost = []
        for path in paths:
            if self._scratch.node(path) is None:
                lost.append(path)
            else:
                self._db.execute("INSERT OR IGNORE INTO gone VALUES (?, ?)", path_key(path))
        self._sweep()
        return lost

    def delete_hidden(self) -> None:
        """Delete what whiteouts hide."""
        self._db.execute("INSERT OR IGNORE INTO gone SELECT k1, k2 FROM hide WHERE inside = 0")
        self._db.execute(
            "INSERT OR IGNORE INTO gone SELECT n.k1, n.k2 FROM hide h JOIN node n ON n.p1 = h.k1 AND n.p2 = h.k2"
            " WHERE h.inside = 1"
        )
        self._sweep()

    def delete_others(self, base: bytes) -> None:
        """Delete all below the base directory that the source does not have."""
        self._db.execute(
            "INSERT OR IGNORE INTO gone"
            " WITH RECURSIVE below (k1, k2) AS (VALUES (?, ?) UNION ALL"
            "  SELECT n.k1, n.k2 FROM below b JOIN node n ON n.p1 = b.k1 AND n.p2 = b.k2)"
            " SELECT k1, k2 FROM below b WHERE NOT EXISTS"
            "  (SELECT 1 FROM stage s WHERE s.k1 = b.k1 AND s.k2 = b.k2)",
            path_key(base),
        )
        self._sweep()

    def _sweep(self) -> None:
        """Remove from ``node`` what is in ``gone``, and all below."""
        self._db.execute(
            "INSERT OR IGNORE INTO gone"
            " WITH RECURSIVE below (k1, k2) AS (SELECT k1, k2 FROM gone UNION"
            "  SELECT n.k1, n.k2 FROM below b JOIN node n ON n.p1 = b.k1 AND n.p2 = b.k2)"
            " SELECT k1, k2 FROM below"
        )
        self._db.execute("DELETE FROM node WHERE (k1, k2) IN (SELECT k1, k2 FROM gone)")
        self._db.execute("DELETE FROM chunk WHERE (k1, k2) IN (SELECT k1, k2 FROM gone)")
        self._db.execute("DELETE FROM bind WHERE (k1, k2) IN (SELECT k1, k2 FROM gone)")
        self._db.execute("DELETE FROM gone")

    # -- additions ---------------------------------------------------------------------------------------------------

    def apply(self, flags: int) -> None:
        """Put the source over what is there.

        Args:
            flags: bits of hash algorithm and compression of the source's files.

        Raises:
            UsageError: the source has entries in something that is not a directory.
        """
        row = self._db.execute(
            "SELECT s.path FROM stage s JOIN node n ON n.k1 = s.k1 AND n.k2 = s.k2"
            " WHERE s.implicit AND (n.mode & 61440) != 16384 LIMIT 1"
        ).fetchone()
        if row is not None:
            raise UsageError(
                f"{show(row[0])}: the source has entries in it, but it is no directory in the repository",
                hint=f"delete it first: --delete {show(row[0])}",
            )
        self._db.execute(
            "INSERT OR IGNORE INTO gone SELECT n.k1, n.k2 FROM stage s JOIN node n ON n.k1 = s.k1 AND n.k2 = s.k2"
            " WHERE (s.mode & 61440) != 16384 AND (n.mode & 61440) = 16384"
        )
        self._sweep()
        self._db.execute(
            "CREATE TABLE regroup (ident INTEGER, p1 INTEGER, p2 INTEGER, grp INTEGER, PRIMARY KEY (ident, p1, p2))"
        )
        self._keep_groups()
        self._db.execute(
            "DELETE FROM chunk WHERE EXISTS"
            " (SELECT 1 FROM stage s WHERE s.k1 = chunk.k1 AND s.k2 = chunk.k2 AND NOT s.implicit)"
        )
        self._db.execute(
            "INSERT OR REPLACE INTO node SELECT s.k1, s.k2, s.p1, s.p2, s.name, s.mode, s.size, s.mtime, s.mtimens,"
            " s.uid, s.gid, s.symlink, s.xattr, CASE s.mode & 61440 WHEN 16384 THEN 1 WHEN 40960 THEN 12"
            "  WHEN 32768 THEN 4 | ? | CASE WHEN c.hash IS NULL THEN 64 ELSE 0 END ELSE 20 END, c.hash, 1,"
            " CASE WHEN s.ident AND EXISTS (SELECT 1 FROM shared h WHERE h.ident = s.ident)"
            "  THEN coalesce((SELECT grp FROM regroup r WHERE r.ident = s.ident AND r.p1 = s.p1 AND r.p2 = s.p2),"
            "   -s.ident) ELSE 0 END"
            " FROM stage s LEFT JOIN content c ON c.ident = s.ident WHERE NOT s.implicit",
            (flags,),
        )
        self._db.execute(
            "INSERT OR IGNORE INTO node SELECT k1, k2, p1, p2, name, mode, size, mtime, mtimens, uid, gid, symlink,"
            " xattr, 1, NULL, 1, 0 FROM stage WHERE implicit"
        )
        self._db.execute(
            "INSERT INTO chunk SELECT s.k1, s.k2, e.offset, e.size, e.hash FROM stage s JOIN piece e USING (ident)"
            " WHERE (s.mode & 61440) = 32768"
        )

    def _keep_groups(self) -> None:
        """Hard links that replace the very members of an old group keep its number: nothing has changed then."""
        self._db.execute(
            "INSERT INTO regroup SELECT ident, p1, p2, grp FROM"
            " (SELECT s.ident, s.p1, s.p2, n.grp, count(*) AS both FROM shared h JOIN stage s ON s.ident = h.ident"
            "  JOIN node n ON n.k1 = s.k1 AND n.k2 = s.k2 WHERE n.grp > 0 GROUP BY s.ident, s.p1, s.p2, n.grp) AS g"
            " WHERE both = (SELECT count(*) FROM node o WHERE o.grp = g.grp AND o.grp != 0)"
            " AND both = (SELECT count(*) FROM stage t WHERE t.p1 = g.p1 AND t.p2 = g.p2 AND t.ident = g.ident)"
        )

    def forget_lost(self) -> None:
        """Catalogs whose directory is gone, or is none any more."""
        for path in list(self.mounts):
            if path:
                found = self._scratch.node(path)
                if found is None or found[0] & 0o170000 != 0o040000:
                    del self.mounts[path]


def read_counters(db: sqlite3.Connection) -> tuple[Counters, Counters]:
    """Statistics of a catalog, of itself and of all below (FORMAT.md §6.10); 0 for those that it lacks."""
    found = {key.decode(): value for key, value in db.execute("SELECT counter, value FROM statistics LIMIT 1000")}
    own = {name: int(found.get(f"self_{name}", 0)) for name in COUNTERS}
    return own, {name: int(found.get(f"subtree_{name}", 0)) for name in COUNTERS}
