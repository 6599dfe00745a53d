"""The scratch database of a publication: memory stays flat however many entries there are.

Entries of the source are collected in ``stage``; rows of the previous revision's catalogs that are concerned come into
``node``, and what the source says is put over them there. Paths are known by the keys that catalogs have for them
(FORMAT.md §6.2): ``k1, k2`` of the path itself, ``p1, p2`` of its parent.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Final

from shrinkwrap.cvmfs.catalog import path_key
from shrinkwrap.errors import DestinationError

_CACHE_KIB: Final = 64 * 1024

#: Columns that catalog rows, ``stage`` and ``node`` share.
ATTRIBUTES: Final = "name, mode, size, mtime, mtimens, uid, gid, symlink, xattr"

#: stage: what the source says. ``ident`` numbers inodes; hard links share it. Directories that the source does not
#:     mention, but has entries in, are ``implicit``.
#: identity: inodes of the source with several names. shared: idents with several names.
#: link: hard links whose target has not come yet.
#: hide: what whiteouts hide: a path (inside = 0), or what is in a directory (1).
#: visit: directories whose rows are needed for other reasons than entries in them.
#: content, piece: what became of an ident's content.
#: node: rows of the new revision, of the catalogs that are concerned. ``grp`` says which hard links belong together: 0
#:     none; positive: number of the old catalog << 32 | group there; negative: of the source, -ident.
#: chunk: chunks of files in node.
#: bind: bind mountpoints (FORMAT.md §6.8), handed on as they are.
#: mount: directories that have a catalog of their own. place: which catalog a row is in.
_SCHEMA: Final = """
CREATE TABLE stage (
  k1 INTEGER, k2 INTEGER, p1 INTEGER, p2 INTEGER, path BLOB, name TEXT, mode INTEGER, size INTEGER, mtime INTEGER,
  mtimens INTEGER, uid INTEGER, gid INTEGER, symlink TEXT, xattr BLOB, ident INTEGER, implicit INTEGER,
  PRIMARY KEY (k1, k2)) WITHOUT ROWID;
CREATE TABLE identity (device INTEGER, inode INTEGER, ident INTEGER, PRIMARY KEY (device, inode)) WITHOUT ROWID;
CREATE TABLE shared (ident INTEGER PRIMARY KEY);
CREATE TABLE link (path BLOB, target BLOB, t1 INTEGER, t2 INTEGER);
CREATE TABLE hide (k1 INTEGER, k2 INTEGER, inside INTEGER, PRIMARY KEY (k1, k2, inside)) WITHOUT ROWID;
CREATE TABLE visit (k1 INTEGER, k2 INTEGER, PRIMARY KEY (k1, k2)) WITHOUT ROWID;
CREATE TABLE content (ident INTEGER PRIMARY KEY, hash BLOB);
CREATE TABLE piece (ident INTEGER, offset INTEGER, size INTEGER, hash BLOB, PRIMARY KEY (ident, offset)) WITHOUT ROWID;
CREATE TABLE node (
  k1 INTEGER, k2 INTEGER, p1 INTEGER, p2 INTEGER, name TEXT, mode INTEGER, size INTEGER, mtime INTEGER,
  mtimens INTEGER, uid INTEGER, gid INTEGER, symlink TEXT, xattr BLOB, flags INTEGER, hash BLOB, links INTEGER,
  grp INTEGER, PRIMARY KEY (k1, k2)) WITHOUT ROWID;
CREATE TABLE chunk (
  k1 INTEGER, k2 INTEGER, offset INTEGER, size INTEGER, hash BLOB, PRIMARY KEY (k1, k2, offset, size)) WITHOUT ROWID;
CREATE TABLE bind (k1 INTEGER, k2 INTEGER, path TEXT, sha1 TEXT, size INTEGER, PRIMARY KEY (k1, k2)) WITHOUT ROWID;
CREATE TABLE mount (k1 INTEGER, k2 INTEGER, id INTEGER, closed INTEGER, PRIMARY KEY (k1, k2)) WITHOUT ROWID;
CREATE TABLE place (k1 INTEGER, k2 INTEGER, cat INTEGER, PRIMARY KEY (k1, k2)) WITHOUT ROWID;
CREATE TABLE gone (k1 INTEGER, k2 INTEGER, PRIMARY KEY (k1, k2)) WITHOUT ROWID;
CREATE TABLE linkset (grp INTEGER, p1 INTEGER, p2 INTEGER, cat INTEGER, count INTEGER, number INTEGER,
  PRIMARY KEY (grp, p1, p2)) WITHOUT ROWID;
"""

#: Made when the source has been read: rows come faster without.
_STAGE_INDEX: Final = "CREATE INDEX stage_parent ON stage (p1, p2)"
_NODE_INDICES: Final = (
    "CREATE INDEX node_parent ON node (p1, p2)",
    "CREATE INDEX node_dirs ON node (p1, p2) WHERE (mode & 61440) = 16384",
    "CREATE INDEX node_groups ON node (grp) WHERE grp != 0",
)

IS_DIR: Final = "(mode & 61440) = 16384"
IS_FILE: Final = "(mode & 61440) = 32768"


class Scratch:
    """The database; ``db`` is in autocommit mode, without a journal: it does not outlive the run."""

    def __init__(self, folder: bytes) -> None:
        self.path = os.fsdecode(folder) + "/scratch.db"
        self.db = sqlite3.connect(self.path, isolation_level=None)
        self.db.text_factory = bytes
        for pragma in (
            "journal_mode = OFF",
            "synchronous = OFF",
            f"cache_size = -{_CACHE_KIB}",
            "locking_mode = EXCLUSIVE",
            "trusted_schema = OFF",
        ):
            self.db.execute(f"PRAGMA {pragma}").close()
        self.db.executescript(_SCHEMA)
        self.db.execute("BEGIN")

    def close(self) -> None:
        self.db.close()

    def index_stage(self) -> None:
        self.db.execute(_STAGE_INDEX)

    def index_nodes(self) -> None:
        for statement in _NODE_INDICES:
            self.db.execute(statement)

    def attach(self, file: bytes, name: str, *, fresh: bool) -> None:
        """Add another database: a fresh one to be filled, or one that is only read."""
        self.db.execute("COMMIT")
        if fresh:
            self.db.execute(f"ATTACH ? AS {name}", (os.fsdecode(file),))
            self.db.execute(f"PRAGMA {name}.page_size = 4096").close()
            self.db.execute(f"PRAGMA {name}.journal_mode = OFF").close()
            self.db.execute(f"PRAGMA {name}.synchronous = OFF").close()
        else:
            self.db.execute(f"ATTACH ? AS {name}", (os.fsdecode(file),))
        self.db.execute("BEGIN")

    def detach(self, name: str) -> None:
        self.db.execute("COMMIT")
        self.db.execute(f"DETACH {name}")
        self.db.execute("BEGIN")

    def node(self, path: bytes) -> tuple[int, int] | None:
        """Mode and flags of a path in ``node``."""
        row = self.db.execute("SELECT mode, flags FROM node WHERE k1 = ? AND k2 = ?", path_key(path)).fetchone()
        return None if row is None else (row[0], row[1])


def failed(exc: sqlite3.Error) -> DestinationError:
    """An error of the scratch database: mostly a full disk."""
    return DestinationError(
        f"the scratch database failed: {exc}", hint="see to the space where the storage is; nothing was published"
    )
