"""Small signed repositories made from Python values, right ones and wrong ones.

A :class:`Publisher` owns the folder of one repository. Its catalogs are :class:`CatalogBuilder`; they collect rows by
path, and everything about a row can be overwritten before it is written::

    publisher = Publisher(tmp_path / "storage")
    root = publisher.catalog()
    root.file(b"/bin/tool", b"content", mode=0o755)
    root.link(b"/bin/t", b"tool")
    nested = publisher.catalog(b"/lcg")
    nested.file(b"/lcg/big", pieces=[b"one", b"two"])
    root.nest(nested)
    head = publisher.publish(root, tags=["v1"])
    with publisher.open() as session:
        ...

To put something wrong in: ``catalog.change(path, size=-1)`` overwrites columns of a row, ``catalog.raw(...)`` adds a
row of any columns, ``catalog.chunk_rows``, ``nested_rows``, ``bind_rows``, ``properties`` and ``counters`` are what is
written to the tables of these names, ``loose=True`` leaves column types and primary keys out, and ``sql`` is executed
last. :class:`Blob` is a value that is stored as a BLOB where the column is text. Objects are in
:class:`Storage`; ``spoil`` and ``remove`` break them.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sqlite3
import stat
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cvmfs import signing

from shrinkwrap.cvmfs.blacklist import Blacklist
from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.digest import SHA1, Digest, digest_of
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.cvmfs.trust import KnownHead
from shrinkwrap.cvmfs.xattr import pack_xattrs
from shrinkwrap.fetch.source import SourceConfig, open_source
from shrinkwrap.fetch.types import FetchStats, Outcome, Request, Source
from shrinkwrap.snapshot.catalogs import CatalogStore, ObjectKeeper
from shrinkwrap.snapshot.keep import KeepFolder
from shrinkwrap.snapshot.repository import Repository
from shrinkwrap.snapshot.session import Session

FQRN = signing.FQRN
#: Default times of entries and publications.
MTIME = 1_500_000_000
MTIME_NS = 123_456_789
PUBLISHED = 1_900_000_000

DIR, NESTED, FILE, LINK, SPECIAL, NESTED_ROOT = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
CHUNKED, EXTERNAL, UNCOMPRESSED, BIND, HIDDEN = 0x40, 0x80, 0x800, 0x4000, 0x8000

#: Columns with TEXT in them: bytes are written there as text, UTF-8 or not.
_TEXT = frozenset({"name", "symlink", "path", "sha1", "counter", "key", "value"})
_COUNTERS = (
    ("regular", 0),
    ("symlink", 0),
    ("dir", 0),
    ("nested", 0),
    ("chunked", 0),
    ("chunks", 0),
    ("file_size", 0),
    ("chunked_size", 0),
    ("xattr", 2),
    ("external", 3),
    ("external_file_size", 3),
    ("special", 5),
)

Row = dict[str, Any]


class Blob(bytes):
    """Bytes that are stored as a BLOB, in a text column too."""


def path_key(path: bytes) -> tuple[int, int]:
    """The two integers of FORMAT.md §6.2."""
    one, two = struct.unpack("<qq", hashlib.md5(path, usedforsecurity=False).digest())
    return one, two


def _is_dir(mode: Any) -> bool:
    return isinstance(mode, int) and mode & 0o170000 == stat.S_IFDIR


class Storage:
    """The objects of a repository, in the layout that a server has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: Digest, suffix: str = "") -> Path:
        return self.folder / digest.object_path(suffix)

    def put(self, data: bytes, suffix: str = "", *, algorithm: int = SHA1, compressed: bool = True) -> Digest:
        """Store the content of an object; the digest of what is stored."""
        return self.put_stored(zlib.compress(data) if compressed else data, suffix, algorithm=algorithm)

    def put_stored(self, stored: bytes, suffix: str = "", *, algorithm: int = SHA1) -> Digest:
        digest = digest_of(algorithm, stored)
        path = self.path(digest, suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stored)
        return digest

    def spoil(self, digest: Digest, suffix: str = "") -> None:
        """Flip one bit in the middle of an object."""
        flip(self.path(digest, suffix))

    def remove(self, digest: Digest, suffix: str = "") -> None:
        self.path(digest, suffix).unlink()


def flip(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def columns_of(schema: str, revision: int) -> dict[str, str]:
    """Columns of the table ``catalog`` and their types (FORMAT.md §6.1, §6.3)."""
    keys = dict.fromkeys(("md5path_1", "md5path_2", "parent_1", "parent_2"), "INTEGER")
    if float(schema) < 2:
        names = ("inode INTEGER", "hash BLOB", "size INTEGER", "mode INTEGER", "mtime INTEGER", "flags INTEGER")
        return {**keys, **dict(name.split() for name in (*names, "name TEXT", "symlink TEXT"))}
    columns = {**keys, "hardlinks": "INTEGER", "hash": "BLOB", "size": "INTEGER", "mode": "INTEGER"}
    columns["mtime"] = "INTEGER"
    columns.update({"flags": "INTEGER", "name": "TEXT", "symlink": "TEXT", "uid": "INTEGER", "gid": "INTEGER"})
    if revision >= 2:
        columns["xattr"] = "BLOB"
    if revision >= 7:
        columns["mtimens"] = "INTEGER"
    return columns


class _Mount(NamedTuple):
    path: bytes
    child: CatalogBuilder
    bind: bool
    entry: bool
    registered: Mapping[str, Any]
    columns: Mapping[str, Any]


class CatalogBuilder:
    """One catalog. Paths are absolute in the repository, parents are made where they are missing.

    Args:
        publisher: whose storage takes the objects.
        mount: where it is to be mounted.
        prefix: its ``root_prefix``, ``mount`` if not given. A catalog that is to be bind-mounted is a root catalog:
            its ``mount`` is ``b""``, and so are its paths.
        schema, revision: of the layout; the columns and tables are those of that version.
        algorithm: of the catalog's own hash, and of files unless they say something else.
        loose: no column types and no primary keys.
        omit: columns of ``catalog`` and tables to leave out.

    Attributes:
        rows: columns by path. chunk_rows: (path, offset, size, hash). nested_rows, bind_rows: (path, hash, size).
        properties, counters: what the tables hold; counters that are not given are computed.
        sql: statements that are executed at the end.
    """

    def __init__(
        self,
        publisher: Publisher,
        mount: bytes = b"",
        *,
        prefix: bytes | None = None,
        schema: str = "2.5",
        revision: int = 7,
        algorithm: int = SHA1,
        loose: bool = False,
        omit: Iterable[str] = (),
    ) -> None:
        self.publisher = publisher
        self.mount = mount
        self.prefix = mount if prefix is None else prefix
        self.schema = schema
        self.revision = revision
        self.algorithm = algorithm
        self.loose = loose
        self.omit = frozenset(omit)
        self.rows: dict[bytes, Row] = {}
        self.raw_rows: list[Row] = []
        self.chunk_rows: list[tuple[Any, ...]] = []
        self.nested_rows: list[tuple[Any, ...]] = []
        self.bind_rows: list[tuple[Any, ...]] = []
        self.properties: dict[str, Any] = {"schema": schema, "revision": "1", "last_modified": str(PUBLISHED)}
        if float(schema) >= 2:
            self.properties["schema_revision"] = str(revision)
        if self.prefix:
            self.properties["root_prefix"] = self.prefix
        self.counters: dict[str, Any] = {}
        self.sql: list[str] = []
        self.children: list[_Mount] = []
        self.sub: dict[str, int] = {}
        self.digest: Digest | None = None
        self.size = 0
        self.dir(mount, flags=DIR | (NESTED_ROOT if self.prefix else 0))

    # -- entries -----------------------------------------------------------------------------------------------------

    def _row(self, path: bytes, mode: int, flags: int, fields: Mapping[str, Any]) -> None:
        if path != self.mount:
            self._parents(path)
        text = self.prefix + path[len(self.mount) :]
        parent = path_key(text.rpartition(b"/")[0]) if text else (0, 0)
        one, two = path_key(text)
        self.rows[path] = {
            "md5path_1": one,
            "md5path_2": two,
            "parent_1": parent[0],
            "parent_2": parent[1],
            "hardlinks": None,
            "inode": 1,
            "hash": None,
            "size": 0,
            "mode": mode,
            "mtime": MTIME,
            "mtimens": MTIME_NS,
            "flags": flags,
            "name": text.rpartition(b"/")[2],
            "symlink": b"",
            "uid": 1000,
            "gid": 100,
            "xattr": None,
        }
        self.change(path, **fields)

    def _parents(self, path: bytes) -> None:
        parent = path.rpartition(b"/")[0]
        if parent not in self.rows and len(parent) > len(self.mount):
            self.dir(parent)

    def change(self, path: bytes, **fields: Any) -> None:
        """Overwrite columns of a row. ``mode`` without a type keeps the type; ``xattrs`` packs a mapping."""
        row = self.rows[path]
        for name, value in fields.items():
            if name == "mode" and isinstance(value, int) and 0 <= value < 0o10000:
                row["mode"] = row["mode"] & ~0o7777 | value
            elif name == "xattrs":
                row["xattr"] = pack_xattrs(value.items())
            elif name in row:
                row[name] = value
            else:
                raise KeyError(f"{name} is not a column")

    def dir(self, path: bytes, **fields: Any) -> None:
        self._row(path, stat.S_IFDIR | 0o755, DIR, {"size": 4096, **fields})

    def link(self, path: bytes, target: bytes, **fields: Any) -> None:
        self._row(path, stat.S_IFLNK | 0o777, FILE | LINK, {"symlink": target, "size": len(target), **fields})

    def special(self, path: bytes, kind: int, rdev: int = 0, **fields: Any) -> None:
        """``kind`` is S_IFIFO, S_IFCHR and so on."""
        self._row(path, kind | 0o644, FILE | SPECIAL, {"size": rdev, **fields})

    def file(
        self,
        path: bytes,
        content: bytes = b"",
        *,
        pieces: Sequence[bytes] = (),
        bulk: bool = False,
        compressed: bool = True,
        external: bool = False,
        algorithm: int | None = None,
        store: bool = True,
        flags: int = 0,
        **fields: Any,
    ) -> Digest | None:
        """A regular file; digest of its content, None for chunks alone.

        Args:
            pieces: the content of its chunks (instead of ``content``).
            bulk: a chunked file has a hash of the whole too.
            external: served by its path from the external storage.
            store: the objects are put into the storage.
            flags: set in addition.
        """
        algorithm = self.algorithm if algorithm is None else algorithm
        content = b"".join(pieces) if pieces else content
        bits = FILE | flags | algorithm << 8 | (0 if compressed else UNCOMPRESSED)
        digest = None
        if pieces:
            bits |= CHUNKED
            position = 0
            for piece in pieces:
                raw = self._put(piece, "P", algorithm, compressed, store and not external).raw
                self.chunk_rows.append((path, position, len(piece), raw))
                position += len(piece)
        if bulk or not pieces:
            digest = self._put(content, "", algorithm, compressed, store and not external)
        if external:
            bits |= EXTERNAL
            if store:
                self.publisher.serve_externally(path, content if not compressed else zlib.compress(content))
        hash_ = None if digest is None else digest.raw
        self._row(path, stat.S_IFREG | 0o644, bits, {"hash": hash_, "size": len(content), **fields})
        return digest

    def _put(self, content: bytes, suffix: str, algorithm: int, compressed: bool, store: bool) -> Digest:
        if store:
            return self.publisher.storage.put(content, suffix, algorithm=algorithm, compressed=compressed)
        return digest_of(algorithm, zlib.compress(content) if compressed else content)

    def raw(self, like: bytes, **columns: Any) -> None:
        """One more row: a copy of that of ``like`` with other columns."""
        self.raw_rows.append({**self.rows[like], **columns})

    def nest(
        self,
        child: CatalogBuilder,
        at: bytes | None = None,
        *,
        bind: bool = False,
        entry: bool = True,
        registered: Mapping[str, Any] | None = None,
        **columns: Any,
    ) -> None:
        """Mount a catalog, at its own mount unless ``at`` says where.

        Args:
            bind: as a bind mount; ``at`` must be given.
            entry: there is an entry for the mount point, like the child's root but for ``columns``.
            registered: other values for ``path``, ``sha1`` and ``size`` of the registration.
        """
        mount = child.mount if at is None else at
        self.children.append(_Mount(mount, child, bind, entry, registered or {}, columns))

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self) -> Digest:
        """Write this catalog and all below it into the storage; its hash."""
        self.mount_all()
        data = self.database()
        self.size = len(data)
        self.digest = self.publisher.storage.put(data, "C", algorithm=self.algorithm)
        return self.digest

    def mount_all(self) -> None:
        """Write what was mounted with :meth:`nest`, and make the rows for it."""
        for mount in self.children:
            self._mount(mount)
        self.children = []

    def ref(self, mount: bytes | None = None, bind: bool = False) -> NestedRef:
        """How a reader refers to it; written if it has not been."""
        digest = self.digest or self.write()
        return NestedRef(self.mount if mount is None else mount, digest, self.size, bind)

    def _mount(self, mount: _Mount) -> None:
        child, bind = mount.child, mount.bind
        digest = str(child.digest or child.write())
        registered = {"path": mount.path, "sha1": digest, "size": child.size, **mount.registered}
        (self.bind_rows if bind else self.nested_rows).append(tuple(registered.values()))
        if mount.entry:
            copied = {name: value for name, value in child.rows[child.mount].items() if not name.startswith("md5")}
            for name in ("parent_1", "parent_2", "name"):
                del copied[name]
            if copied["hardlinks"] is None:
                copied["hardlinks"] = child.links(child.mount)
            copied["flags"] = DIR | (BIND if bind else NESTED)
            self.dir(mount.path, **{**copied, **mount.columns})
        if not bind:
            for name, value in child.own_counters().items():
                self.sub[name] = self.sub.get(name, 0) + value + child.sub.get(name, 0)

    def links(self, path: bytes) -> int:
        """Link count of a directory: two, and one for each directory in it."""
        inside = path + b"/"
        return 2 + sum(
            _is_dir(row["mode"]) and other.startswith(inside) and b"/" not in other[len(inside) :]
            for other, row in self.rows.items()
        )

    def own_counters(self) -> dict[str, int]:
        """The ``self_`` counters (FORMAT.md §6.10)."""
        count = dict.fromkeys((name for name, _ in _COUNTERS), 0)
        kinds = {stat.S_IFREG: "regular", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}
        for row in self.rows.values():
            if not all(isinstance(row[name], int) for name in ("mode", "size", "flags")):
                continue
            kind = kinds.get(row["mode"] & 0o170000, "special")
            count[kind] += 1
            count["xattr"] += row["xattr"] is not None
            if kind == "regular":
                for flag, number, size in (
                    (0, "", "file_size"),
                    (CHUNKED, "chunked", "chunked_size"),
                    (EXTERNAL, "external", "external_file_size"),
                ):
                    if row["flags"] & flag == flag:
                        count[size] += row["size"]
                        if number:
                            count[number] += 1
        count["chunks"] = len(self.chunk_rows)
        count["nested"] = len(self.nested_rows)
        return count

    def database(self) -> bytes:
        """The SQLite file."""
        with closing(sqlite3.connect(":memory:")) as db:
            self._fill(db)
            for statement in self.sql:
                db.execute(statement)
            db.commit()
            return db.serialize()

    def _fill(self, db: sqlite3.Connection) -> None:
        modern = float(self.schema) >= 2
        columns = columns_of(self.schema, self.revision)
        rows = []
        for path, row in self.rows.items():
            links = row["hardlinks"]
            if links is None:
                links = self.links(path) if _is_dir(row["mode"]) else 1
            rows.append({**row, "hardlinks": links})
        rows += [{**row, "hardlinks": 1 if row["hardlinks"] is None else row["hardlinks"]} for row in self.raw_rows]
        self._table(db, "catalog", columns, "md5path_1, md5path_2", rows)
        if "catalog" not in self.omit:
            db.execute("CREATE INDEX idx_catalog_parent ON catalog (parent_1, parent_2)")
        nested = {"path": "TEXT", "sha1": "TEXT", "size": "INTEGER"}
        if not modern or self.revision < 1:
            del nested["size"]
        if self.schema == "0.9":
            del nested["sha1"]
        registered = [dict(zip(("path", "sha1", "size"), row, strict=True)) for row in self.nested_rows]
        self._table(db, "nested_catalogs", nested, "path", registered)
        properties = [{"key": key, "value": value} for key, value in self.properties.items() if value is not None]
        self._table(db, "properties", {"key": "TEXT", "value": "TEXT"}, "key", properties)
        if not modern:
            return
        chunk_columns = {"md5path_1": "INTEGER", "md5path_2": "INTEGER", "offset": "INTEGER", "size": "INTEGER"}
        chunks = []
        for path, offset, size, raw in self.chunk_rows:
            one, two = path_key(self.prefix + path[len(self.mount) :])
            chunks.append({"md5path_1": one, "md5path_2": two, "offset": offset, "size": size, "hash": raw})
        self._table(db, "chunks", {**chunk_columns, "hash": "BLOB"}, ", ".join(chunk_columns), chunks)
        if self.revision >= 4:
            bound = [dict(zip(("path", "sha1", "size"), row, strict=True)) for row in self.bind_rows]
            self._table(db, "bind_mountpoints", {"path": "TEXT", "sha1": "TEXT", "size": "INTEGER"}, "path", bound)
        own = self.own_counters()
        counters: dict[str, Any] = {}
        for name, since in _COUNTERS:
            if self.revision >= since:
                counters[f"self_{name}"] = own[name]
                counters[f"subtree_{name}"] = self.sub.get(name, 0)
        counters.update(self.counters)
        stored = [{"counter": name, "value": value} for name, value in counters.items()]
        self._table(db, "statistics", {"counter": "TEXT", "value": "INTEGER"}, "counter", stored)

    def _table(
        self, db: sqlite3.Connection, table: str, columns: Mapping[str, str], key: str, rows: Iterable[Row]
    ) -> None:
        if table in self.omit:
            return
        used = {name: kind for name, kind in columns.items() if table != "catalog" or name not in self.omit}
        if self.loose:
            definition = ", ".join(used)
        else:
            definition = ", ".join(f"{name} {kind}" for name, kind in used.items()) + f", PRIMARY KEY ({key})"
        db.execute(f"CREATE TABLE {table} ({definition})")
        for row in rows:
            values = [row[name] for name in used]
            marks = [
                "CAST(? AS TEXT)" if name in _TEXT and type(value) is bytes else "?"
                for name, value in zip(used, values, strict=True)
            ]
            plain = [bytes(value) if isinstance(value, Blob) else value for value in values]
            db.execute(f"INSERT INTO {table} ({', '.join(used)}) VALUES ({', '.join(marks)})", plain)


@functools.cache
def _usual_whitelist(fqrn: str, algorithm: int) -> bytes:
    """Signing takes more time than all else that a small repository does."""
    return signing.whitelist(fqrn=fqrn, algorithm=algorithm)


@dataclass(frozen=True)
class Published:
    """A publication: what its manifest says."""

    root: NestedRef
    revision: int
    timestamp: int
    manifest: bytes

    @property
    def root_hash(self) -> str:
        return str(self.root.digest)


@dataclass
class Publisher:
    """One repository: its storage folder, its tags and keys.

    Attributes:
        folder: what a web server would serve; made if needed.
        algorithm: of everything that is published, unless a call says otherwise.
        external: folder of external files.
        tags: rows of the history (name, hash, revision, timestamp, description, size, branch), free to be changed.
        revision: of the last publication.
    """

    folder: Path
    fqrn: str = FQRN
    algorithm: int = SHA1
    tags: list[tuple[Any, ...]] = field(default_factory=list)
    revision: int = 0

    def __post_init__(self) -> None:
        self.storage = Storage(self.folder)
        self.external = self.folder.parent / (self.folder.name + ".external")

    def catalog(self, mount: bytes = b"", **options: Any) -> CatalogBuilder:
        """An empty catalog; the options are those of :class:`CatalogBuilder`."""
        return CatalogBuilder(self, mount, **{"algorithm": self.algorithm, **options})

    def tree(self, paths: Iterable[bytes], mounts: Iterable[bytes] = (), *, store: bool = True) -> CatalogBuilder:
        """The root catalog of a whole tree; what is in a file is its path.

        Args:
            paths: files; those that end in ``/`` are directories.
            mounts: directories that have a catalog of their own.
            store: put the files into the storage.
        """
        catalogs = {b"": self.catalog()}

        def owner(path: bytes) -> CatalogBuilder:
            while path not in catalogs:
                path = path.rpartition(b"/")[0]
            return catalogs[path]

        for mount in sorted(mounts):
            child = self.catalog(mount)
            owner(mount).nest(child)
            catalogs[mount] = child
        for path in paths:
            if path.endswith(b"/"):
                if path[:-1] not in catalogs:
                    owner(path[:-1]).dir(path[:-1])
            else:
                owner(path).file(path, path, store=store)
        return catalogs[b""]

    def serve_externally(self, path: bytes, data: bytes) -> None:
        file = os.fsencode(self.external) + path
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "wb") as out:
            out.write(data)

    def publish(
        self,
        root: CatalogBuilder,
        *,
        tags: Iterable[str] = (),
        revision: int | None = None,
        timestamp: int | None = None,
        history: bool = True,
        alternative: bool = False,
        changes: Mapping[str, str | None] | None = None,
        **signing_options: Any,
    ) -> Published:
        """Sign a root catalog as the new head: manifest, whitelist, certificate, history.

        Args:
            tags: names for this revision, besides ``trunk``.
            alternative: catalog and certificate are at their alternative paths *only* (FORMAT.md §1.3).
            changes: fields of the manifest that are to be others, or None to leave them out.
            signing_options: of :func:`cvmfs.signing.manifest`, for wrong signatures.
        """
        self.revision = self.revision + 1 if revision is None else revision
        when = PUBLISHED + self.revision if timestamp is None else timestamp
        digest = root.digest or root.write()
        self.tags = [tag for tag in self.tags if tag[0] != "trunk"]
        for name in (*tags, "trunk"):
            self.tags.append((name, str(digest), self.revision, when, "", root.size, ""))
        certificate = self.storage.put_stored(signing.publisher().stored_certificate, "X", algorithm=self.algorithm)
        fields: dict[str, str | None] = {
            "C": str(digest),
            "B": str(root.size),
            "S": str(self.revision),
            "A": "yes" if alternative else "no",
            "N": self.fqrn,
            "X": str(certificate),
            "T": str(when),
        }
        if history:
            fields["H"] = str(self.write_history())
        options = {"algorithm": self.algorithm, **signing_options}
        manifest = signing.manifest({**fields, **(changes or {})}, **options)
        (self.folder / ".cvmfspublished").write_bytes(manifest)
        self._write_usual_whitelist()
        if alternative:
            for moved, suffix in ((digest, "C"), (certificate, "X")):
                shutil.move(self.storage.path(moved, suffix), self.folder / f".cvmfsalt-{moved}{suffix}")
        return Published(NestedRef(b"", digest, root.size, False), self.revision, when, manifest)

    def write_whitelist(self, **options: Any) -> None:
        """The options are those of :func:`cvmfs.signing.whitelist`."""
        text = signing.whitelist(**{"fqrn": self.fqrn, "algorithm": self.algorithm, **options})
        (self.folder / ".cvmfswhitelist").write_bytes(text)

    def _write_usual_whitelist(self) -> None:
        (self.folder / ".cvmfswhitelist").write_bytes(_usual_whitelist(self.fqrn, self.algorithm))

    def write_history(self) -> Digest:
        """Store the tag database as it is now (schema 1.0, revision 3)."""
        with closing(sqlite3.connect(":memory:")) as db:
            db.execute(
                "CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER,"
                " description TEXT, size INTEGER, branch TEXT, PRIMARY KEY (name))"
            )
            db.execute("CREATE TABLE branches (branch TEXT, parent TEXT, initial_revision INTEGER)")
            db.execute("CREATE TABLE recycle_bin (hash TEXT, flags INTEGER, PRIMARY KEY (hash))")
            db.execute("CREATE TABLE properties (key TEXT, value TEXT, PRIMARY KEY (key))")
            properties = [("schema", "1.0"), ("schema_revision", "3"), ("fqrn", self.fqrn)]
            db.executemany("INSERT INTO properties VALUES (?, ?)", properties)
            db.executemany("INSERT INTO tags VALUES (?, ?, ?, ?, 0, ?, ?, ?)", self.tags)
            db.commit()
            return self.storage.put(db.serialize(), "H", algorithm=self.algorithm)

    # -- reading it again --------------------------------------------------------------------------------------------

    @property
    def keys(self) -> list[MasterKey]:
        return [signing.master().master]

    def config(self, *more: Publisher | Path) -> SourceConfig:
        """How a reader gets at the repository: from its folder, then from others."""
        folders = [self.folder, *(one.folder if isinstance(one, Publisher) else one for one in more)]
        outside = (self.external.absolute().as_uri(),) if self.external.is_dir() else ()
        return SourceConfig(
            self.fqrn,
            servers=tuple(folder.absolute().as_uri() for folder in folders),
            external_servers=outside,
        )

    @contextmanager
    def open(
        self,
        *more: Publisher | Path,
        keep: Path | None = None,
        known: KnownHead | None = None,
        allow_rollback: bool = False,
        blacklist: Blacklist | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> Iterator[Opened]:
        """The repository as a reader opens it, at the time ``signing.NOW``; requests are recorded.

        Args:
            more: further hosts.
            keep: folder of kept objects; else one that is gone afterwards.
        """
        with tempfile.TemporaryDirectory() as scratch:
            source = Recording(open_source(self.config(*more)))
            folder = keep or Path(scratch, "keep")
            work = Path(scratch, "work")
            work.mkdir()
            folder.mkdir(exist_ok=True)
            keeper = ObjectKeeper(source, KeepFolder(str(folder), str(work)))
            catalogs = CatalogStore(keeper, str(work))
            repository = Repository(
                self.fqrn,
                source,
                keeper,
                self.keys,
                now=signing.NOW,
                known=known,
                allow_rollback=allow_rollback,
                blacklist=blacklist,
                scratch=str(work),
                notice=notice,
            )
            try:
                yield Opened(Session(repository, source, catalogs), source, keeper, catalogs, work)
            finally:
                catalogs.close()
                source.close()
                assert list(work.iterdir()) == [], "scratch files were left behind"


@dataclass(frozen=True)
class Opened:
    """The parts of an open repository."""

    session: Session
    source: Recording
    keeper: ObjectKeeper
    catalogs: CatalogStore
    work: Path

    @property
    def repository(self) -> Repository:
        return self.session.repository


class Recording:
    """A source that writes down what it was asked for.

    Attributes:
        requests: paths of objects, in the order they were asked for. controls: names of control files.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.stats: FetchStats = source.stats
        self.requests: list[str] = []
        self.controls: list[str] = []

    @property
    def host(self) -> str:
        return self._source.host

    def control(self, name: str, limit: int) -> bytes:
        self.controls.append(name)
        return self._source.control(name, limit)

    def next_host(self) -> bool:
        return self._source.next_host()

    def fetch(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        def noted() -> Iterator[Request]:
            for request in requests:
                self.requests.append(os.fsdecode(request.path))
                yield request

        return self._source.fetch(noted())

    def close(self) -> None:
        self._source.close()
