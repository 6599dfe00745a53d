"""Writing catalogs (FORMAT.md §6, §12.1): deepest first, those that have changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from shrinkwrap.cvmfs.digest import SIZE, Digest
from shrinkwrap.publish.merge import COUNTERS, SCHEMA, SCHEMA_REVISION, Counters, Merge, Mount
from shrinkwrap.publish.scratch import Scratch
from shrinkwrap.publish.storage import Storage, squeeze

_ROW: Final = (
    "md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode, mtime, mtimens, flags, name, symlink,"
    " uid, gid, xattr"
)
_TABLES: Final = (
    "properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key))",
    "catalog (md5path_1 INTEGER, md5path_2 INTEGER, parent_1 INTEGER, parent_2 INTEGER, hardlinks INTEGER, hash BLOB,"
    " size INTEGER, mode INTEGER, mtime INTEGER, mtimens INTEGER, flags INTEGER, name TEXT, symlink TEXT, uid INTEGER,"
    " gid INTEGER, xattr BLOB, CONSTRAINT pk_catalog PRIMARY KEY (md5path_1, md5path_2))",
    "chunks (md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER, hash BLOB,"
    " CONSTRAINT pk_chunks PRIMARY KEY (md5path_1, md5path_2, offset, size),"
    " FOREIGN KEY (md5path_1, md5path_2) REFERENCES catalog (md5path_1, md5path_2))",
    "nested_catalogs (path TEXT, sha1 TEXT, size INTEGER, CONSTRAINT pk_nested_catalogs PRIMARY KEY (path))",
    "bind_mountpoints (path TEXT, sha1 TEXT, size INTEGER, CONSTRAINT pk_bind_mountpoints PRIMARY KEY (path))",
    "statistics (counter TEXT, value INTEGER, CONSTRAINT pk_statistics PRIMARY KEY (counter))",
)
#: Tables whose rows decide whether a catalog has changed.
_COMPARED: Final = {
    "catalog": _ROW,
    "chunks": "md5path_1, md5path_2, offset, size, hash",
    "nested_catalogs": "path, sha1, size",
    "bind_mountpoints": "path, sha1, size",
}
_NODE: Final = (
    "n.k1, n.k2, n.p1, n.p2,"
    " CASE WHEN (n.mode & 61440) = 16384 THEN"
    "  CASE WHEN m.closed THEN n.links ELSE 2 + (SELECT count(*) FROM node c"
    "   WHERE c.p1 = n.k1 AND c.p2 = n.k2 AND (c.mode & 61440) = 16384) END"
    " WHEN n.grp THEN coalesce((SELECT (l.number << 32) | l.count FROM linkset l"
    "  WHERE l.grp = n.grp AND l.p1 = n.p1 AND l.p2 = n.p2), 1) ELSE 1 END,"
    " n.hash, n.size, n.mode, n.mtime, n.mtimens, n.flags"
)
_NODE_END: Final = "n.name, n.symlink, n.uid, n.gid, n.xattr"


@dataclass(frozen=True, slots=True)
class Revision:
    """What the new catalogs say of themselves."""

    number: int
    now: int
    ttl: int
    algorithm: int


@dataclass(slots=True)
class Written:
    """A catalog as it is in the new revision.

    ``own`` and ``below`` are its statistics, ``changed`` says that it is another one than before.
    """

    mount: Mount
    digest: Digest
    size: int
    own: Counters
    below: Counters
    changed: bool


class CatalogWriter:
    """Makes the catalogs of a revision.

    Attributes:
        changed: paths of the catalogs that are new or different.
    """

    def __init__(self, scratch: Scratch, storage: Storage, merge: Merge, revision: Revision, force: bool) -> None:
        self._scratch = scratch
        self._db = scratch.db
        self._storage = storage
        self._merge = merge
        self._revision = revision
        self._force = force
        self._done: dict[bytes, Written] = {}
        self.changed: list[bytes] = []
        self.bytes_written = 0

    def write(self) -> Written:
        """Write what has changed; the root catalog."""
        self._number_groups()
        mounts = self._merge.mounts
        children: dict[int, list[Mount]] = {}
        for mount in mounts.values():
            if mount.path:
                row = self._db.execute("SELECT cat FROM place WHERE k1 = ? AND k2 = ?", mount.key).fetchone()
                children.setdefault(row[0], []).append(mount)
        for mount in sorted(mounts.values(), key=lambda one: (-one.path.count(b"/"), one.path)):
            if not mount.closed:
                self._done[mount.path] = self._catalog(mount, children.get(mount.number, []))
        return self._done[b""]

    def _number_groups(self) -> None:
        """Numbers for groups of hard links: the old ones where they are, else the next that is free."""
        db = self._db
        db.execute(
            "INSERT INTO linkset SELECT grp, n.p1, n.p2, min(cat), count(*), 0 FROM node n JOIN place p USING (k1, k2)"
            " WHERE grp != 0 GROUP BY grp, n.p1, n.p2 HAVING count(*) > 1"
        )
        db.execute(
            "UPDATE linkset SET number = grp & 4294967295 WHERE grp > 0 AND grp >> 32 = cat"
            " AND NOT EXISTS (SELECT 1 FROM linkset o WHERE o.grp = linkset.grp"
            "  AND (o.p1 < linkset.p1 OR (o.p1 = linkset.p1 AND o.p2 < linkset.p2)))"
        )
        numbers = dict(db.execute("SELECT cat, max(number) FROM linkset GROUP BY cat"))
        # By the first member's key: the same whatever the order of the source.
        unnumbered = db.execute(
            "SELECT l.grp, l.p1, l.p2, l.cat FROM linkset l WHERE number = 0 ORDER BY l.cat,"
            " (SELECT min(k1) FROM node n WHERE n.grp = l.grp AND n.p1 = l.p1 AND n.p2 = l.p2)"
        )
        db.execute("CREATE TABLE numbering (grp INTEGER, p1 INTEGER, p2 INTEGER, number INTEGER)")
        for grp, one, two, cat in unnumbered.fetchall():
            numbers[cat] += 1
            db.execute("INSERT INTO numbering VALUES (?, ?, ?, ?)", (grp, one, two, numbers[cat]))
        db.execute("CREATE INDEX numbering_key ON numbering (grp, p1, p2)")
        db.execute(
            "UPDATE linkset SET number = (SELECT number FROM numbering b WHERE b.grp = linkset.grp"
            " AND b.p1 = linkset.p1 AND b.p2 = linkset.p2) WHERE number = 0"
        )

    def _catalog(self, mount: Mount, children: list[Mount]) -> Written:
        file = self._storage.scratch + b"/new.%d" % mount.number
        self._scratch.attach(file, "new", fresh=True)
        own = self._fill(mount, children)
        unchanged = not self._force and mount.file is not None and self._is_unchanged(mount)
        below = self._below(mount, children)
        if unchanged:
            self._scratch.detach("new")
            os.unlink(file)
            assert mount.digest is not None
            assert mount.file is not None
            return Written(mount, mount.digest, os.stat(mount.file).st_size, own, below, False)
        self._describe(mount, own, below)
        self._scratch.detach("new")
        raw, size, stored = squeeze(file, file + b".z", self._revision.algorithm)
        digest = Digest(self._revision.algorithm, raw)
        self._storage.put_file(file + b".z", digest, "C", stored)
        os.unlink(file)
        self.changed.append(mount.path)
        self.bytes_written += stored
        return Written(mount, digest, size, own, below, True)

    def _fill(self, mount: Mount, children: list[Mount]) -> Counters:
        db = self._db
        for table in _TABLES:
            db.execute(f"CREATE TABLE new.{table}")
        joined = "LEFT JOIN mount m ON m.k1 = n.k1 AND m.k2 = n.k2"
        mountpoint = "CASE WHEN m.id IS NOT NULL AND m.id != :id THEN 2 ELSE 0 END"
        db.execute(
            f"INSERT INTO new.catalog ({_ROW}) SELECT {_NODE} | {mountpoint}, {_NODE_END}"  # noqa: S608
            f" FROM place p JOIN node n USING (k1, k2) {joined} WHERE p.cat = :id"
            " ORDER BY n.k1, n.k2",
            {"id": mount.number},
        )
        if mount.path:
            db.execute(
                f"INSERT INTO new.catalog ({_ROW}) SELECT {_NODE} | 32, {_NODE_END} FROM node n {joined}"  # noqa: S608
                " WHERE n.k1 = ? AND n.k2 = ?",
                mount.key,
            )
        db.execute("CREATE INDEX new.idx_catalog_parent ON catalog (parent_1, parent_2)")
        db.execute(
            "INSERT INTO new.chunks SELECT h.k1, h.k2, h.offset, h.size, h.hash FROM place p"
            " JOIN node n USING (k1, k2) JOIN chunk h USING (k1, k2)"
            " WHERE p.cat = ? AND n.flags & 64 ORDER BY h.k1, h.k2, h.offset",
            (mount.number,),
        )
        for child in sorted(children, key=lambda one: one.path):
            digest, size = child.digest, child.size
            if (done := self._done.get(child.path)) is not None:
                digest, size = done.digest, done.size
            db.execute(
                "INSERT INTO new.nested_catalogs VALUES (CAST(? AS TEXT), ?, ?)", (child.path, str(digest), size)
            )
        db.execute(
            "INSERT INTO new.bind_mountpoints SELECT b.path, b.sha1, b.size FROM bind b JOIN place p USING (k1, k2)"
            " WHERE p.cat = ? ORDER BY b.path",
            (mount.number,),
        )
        return self._count()

    def _count(self) -> Counters:
        """The counters of FORMAT.md §6.10, of the catalog that is being written."""
        kind, flags = "mode & 61440", "flags"
        row = self._db.execute(
            f"SELECT sum({kind} = 32768), sum({kind} = 40960), sum({kind} NOT IN (32768, 40960, 16384)),"  # noqa: S608
            f" sum({kind} = 16384), (SELECT count(*) FROM new.nested_catalogs),"
            f" sum({kind} = 32768 AND {flags} & 64 != 0), (SELECT count(*) FROM new.chunks),"
            f" sum(CASE WHEN {kind} = 32768 THEN size ELSE 0 END),"
            f" sum(CASE WHEN {kind} = 32768 AND {flags} & 64 THEN size ELSE 0 END), sum(xattr IS NOT NULL),"
            f" sum({kind} = 32768 AND {flags} & 128 != 0),"
            f" sum(CASE WHEN {kind} = 32768 AND {flags} & 128 THEN size ELSE 0 END) FROM new.catalog"
        ).fetchone()
        return dict(zip(COUNTERS, row, strict=True))

    def _is_unchanged(self, mount: Mount) -> bool:
        """Whether the rows are those that the catalog had."""
        if not mount.path and int(mount.properties.get("TTL", "0") or 0) != self._revision.ttl:
            return False
        assert mount.file is not None
        self._scratch.attach(mount.file, "old", fresh=False)
        try:
            have = {row[1] for row in self._db.execute("PRAGMA old.table_info(catalog)")}
            if b"mtimens" not in have:
                return False
            for table, columns in _COMPARED.items():
                counts = self._db.execute(
                    f"SELECT (SELECT count(*) FROM new.{table}) = (SELECT count(*) FROM old.{table})"  # noqa: S608
                ).fetchone()
                if not counts[0]:
                    return False
                other = self._db.execute(
                    f"SELECT {columns} FROM new.{table} EXCEPT SELECT {columns} FROM old.{table} LIMIT 1"  # noqa: S608
                ).fetchone()
                if other is not None:
                    return False
            return True
        finally:
            self._scratch.detach("old")

    def _below(self, mount: Mount, children: list[Mount]) -> Counters:
        """Sum over the catalogs right below, of theirs and of all below them.

        Catalogs that were not opened are not opened for this: what they come to together is known from what the
        catalog said before. Only those that have moved, or have gone, are looked into.
        """
        total = dict.fromkeys(COUNTERS, 0)
        closed = [one for one in children if one.closed]
        stayed = {one.path for one in closed if one.above is mount}
        if mount.below is not None:
            _add(total, mount.below)
            for one in self._merge.former(mount):
                # Those that stay as they are stay in the sum.
                if one.path not in stayed:
                    for part in self._merge.counters(one):
                        _add(total, part, -1)
        for one in closed:
            if one.path not in stayed or mount.below is None:
                for part in self._merge.counters(one):
                    _add(total, part)
        for one in children:
            if not one.closed:
                done = self._done[one.path]
                _add(total, done.own)
                _add(total, done.below)
        return total

    def _describe(self, mount: Mount, own: Counters, below: Counters) -> None:
        revision = self._revision
        number = revision.number
        if mount.path:
            number = int(mount.properties.get("revision", "0") or 0) + 1
        properties: dict[str, Any] = {
            "schema": SCHEMA,
            "schema_revision": SCHEMA_REVISION,
            "revision": number,
            "last_modified": revision.now,
        }
        if mount.path:
            properties["root_prefix"] = mount.path
        else:
            properties["TTL"] = revision.ttl
        if mount.digest is not None and mount.file is not None:
            properties["previous_revision"] = str(mount.digest)
        elif mount.path:
            properties["previous_revision"] = "0" * (2 * SIZE)
        for key in ("volatile", "voms_authz", "branch"):
            if key in mount.properties:
                properties[key] = mount.properties[key].encode("utf-8", "surrogateescape")
        self._db.executemany("INSERT INTO new.properties VALUES (?, CAST(? AS TEXT))", sorted(properties.items()))
        counters = [(f"self_{name}", own[name]) for name in COUNTERS]
        counters += [(f"subtree_{name}", below[name]) for name in COUNTERS]
        self._db.executemany("INSERT INTO new.statistics VALUES (?, ?)", counters)


def _add(total: Counters, part: Counters, sign: int = 1) -> None:
    for name in COUNTERS:
        total[name] += sign * part[name]
