"""Catalogs of test repositories, written row by row. :mod:`support.repository` says how they are used."""

from __future__ import annotations

import hashlib
import sqlite3
import stat
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.digest import SHA1, Digest, digest_of
from shrinkwrap.cvmfs.xattr import pack_xattrs

if TYPE_CHECKING:
    from support.repository import Publisher

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
