"""File catalogs: one SQLite file for a subtree of a repository (FORMAT.md §6)."""

from __future__ import annotations

import hashlib
import sqlite3
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from operator import itemgetter
from typing import Any, Final, NamedTuple

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.digest import SIZE, Digest, parse_digest
from shrinkwrap.cvmfs.entry import FLAG_CHUNKED, Chunk, Entry, show
from shrinkwrap.cvmfs.safedb import database_errors, open_database
from shrinkwrap.errors import CatalogError, CorruptObject

#: Tables that a catalog may have (FORMAT.md §6.3); anything else in the file is refused.
TABLES: Final = frozenset({"catalog", "chunks", "nested_catalogs", "bind_mountpoints", "statistics", "properties"})
_NS: Final = 10**9
_INT64: Final = 1 << 63
_KEY: Final = struct.Struct("<qq")
#: Schemas from 2.0 on that readers accept, any revision of them (FORMAT.md §6.1).
_MODERN: Final = (2.4, 2.5)
#: Rows that are read at a time.
_ROWS: Final = 1024
#: Ranges of mode, size, mtime, nanoseconds, uid, gid, flags and hardlinks: one call that fails for any wrong type.
_NUMBERS: Final = struct.Struct("<HQqIIIQQ")
_NAME: Final = itemgetter(0)
_NO_NAMES: Final = frozenset((b"", b".", b".."))
_S_IFMT: Final = 0o170000
_EPSILON: Final = 0.0005
#: Bits of an entry's flags that schema 1.x knows: those below the one for chunked files.
_LEGACY_FLAGS: Final = FLAG_CHUNKED - 1


def path_key(path: bytes) -> tuple[int, int]:
    """The two integers that a path is stored under: its MD5 as two little-endian halves (FORMAT.md §6.2)."""
    one, two = _KEY.unpack(hashlib.md5(path, usedforsecurity=False).digest())
    return one, two


class NestedRef(NamedTuple):
    """A catalog that is mounted at ``mount``; ``digest`` is None where the publisher lost it, ``size`` 0 if unknown.

    A ``bind`` mount shows a *root* catalog: paths inside are looked up relative to the mount (FORMAT.md §6.8). So are
    those of catalogs that are nested in it: ``outer`` is the bind mount that they lie in.
    """

    mount: bytes
    digest: Digest | None
    size: int
    bind: bool
    outer: bytes = b""

    @property
    def prefix(self) -> bytes:
        """The path that the catalog was made for: its property ``root_prefix``."""
        return b"" if self.bind else self.mount[len(self.outer) :]


class Catalog:
    """An open catalog, read-only.

    Rows are checked as they are read: types, names, sizes, order. All errors are CatalogError.

    Attributes:
        mount: where it is mounted, ``b""`` for the repository's root.
        schema, schema_revision: version of the layout.
        revision, last_modified: the catalog's own counters (0 where not given).
        nested: catalogs mounted right below, by path.
    """

    def __init__(self, file: str, ref: NestedRef) -> None:
        self.ref = ref
        self.mount = ref.mount
        self._label = f"catalog of {show(ref.mount)} ({ref.digest})"
        self._db = open_database(file, TABLES)
        try:
            with database_errors(self._label):
                self._load()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Idempotent."""
        self._db.close()

    # -- opening -----------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        self.properties = self._properties()
        self.schema = self._number("schema", 1.0)
        self.schema_revision = int(self._number("schema_revision", 0))
        self.revision = int(self._number("revision", 0))
        self.last_modified = int(self._number("last_modified", 0))
        modern = self.schema >= 2.0 - _EPSILON
        if modern and not any(abs(self.schema - known) < _EPSILON for known in _MODERN):
            raise CatalogError(f"{self._label}: schema {self.schema} is not one that can be read (1.x, 2.4, 2.5)")
        prefix = self.properties.get(b"root_prefix", b"")
        if prefix != self.ref.prefix:
            raise CatalogError(
                f"{self._label}: it was made for {show(prefix)}, but it is mounted at {show(self.mount)}"
            )
        self._prefix = prefix
        self._select = self._column_list(modern)
        self._has_chunks = self._columns("chunks") is not None
        self.nested = self._nested()

    def _columns(self, table: str) -> set[str] | None:
        """Names of a table's columns, None if there is no such table."""
        try:
            cursor = self._db.execute(f"SELECT * FROM {table} LIMIT 0")  # noqa: S608 - constant names only
        except sqlite3.OperationalError:
            return None
        return {column[0] for column in cursor.description}

    def _properties(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        for key, value in self._db.execute("SELECT key, value FROM properties LIMIT 1000"):
            if isinstance(key, bytes):
                # Written as text by the reference, but a number is as good.
                found[key] = value if isinstance(value, bytes) else str(value).encode()
        return found

    def _number(self, key: str, default: float) -> float:
        text = self.properties.get(key.encode())
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not 0 <= number < _INT64:
            raise CatalogError(f"{self._label}: property {key} is {text[:40]!r}, expected a number")
        return number

    def _column_list(self, modern: bool) -> str:
        """The columns of an Entry, with constants in place of those that older layouts lack (FORMAT.md §6.3)."""
        have = self._columns("catalog")
        if have is None:
            raise CatalogError(f"{self._label}: no table 'catalog'")
        missing = {
            "md5path_1",
            "md5path_2",
            "parent_1",
            "parent_2",
            "hash",
            "size",
            "mode",
            "mtime",
            "flags",
            "name",
            "symlink",
        } - have
        if missing:
            raise CatalogError(f"{self._label}: table 'catalog' lacks the columns {', '.join(sorted(missing))}")
        # Schema 1.x: one link each, and owners are those of whoever reads (None here; FORMAT.md §6.3).
        self.has_owners = "uid" in have and "gid" in have
        self._lowest_owner = 0 if self.has_owners else -1
        links = "hardlinks" if "hardlinks" in have else "1"
        xattr = "xattr" if "xattr" in have else "NULL"
        nanoseconds = "mtimens" if "mtimens" in have else "NULL"
        uid, gid = ("uid", "gid") if self.has_owners else ("-1", "-1")
        # There all hashes are SHA-1 and nothing is chunked, whatever the higher bits may hold.
        flags = "flags" if modern else f"flags & {_LEGACY_FLAGS}"
        columns = f"name, mode, size, mtime, {nanoseconds}, {uid}, {gid}, {flags}, hash, symlink, {links}, {xattr}"
        return f"SELECT {columns}, md5path_1 FROM catalog "  # noqa: S608 - constant names only

    def _nested(self) -> dict[bytes, NestedRef]:
        found: dict[bytes, NestedRef] = {}
        for table, bind in (("nested_catalogs", False), ("bind_mountpoints", True)):
            have = self._columns(table)
            if have is None:
                continue
            sha1 = "sha1" if "sha1" in have else "NULL"  # schema 0.9
            size = "size" if "size" in have else "0"
            for path, text, length in self._db.execute(f"SELECT path, {sha1}, {size} FROM {table}"):  # noqa: S608
                ref = self._nested_ref(path, text, length, bind)
                if ref.mount in found:
                    raise CatalogError(f"{self._label}: two catalogs are mounted at {show(ref.mount)}")
                found[ref.mount] = ref
        return found

    def _nested_ref(self, path: Any, text: Any, length: Any, bind: bool) -> NestedRef:
        # Registered paths are relative to the prefix, like keys; they must lie strictly below it, or mounting would
        # never end.
        inside = self._prefix + b"/"
        if not isinstance(path, bytes) or not path.startswith(inside) or path.endswith(b"/") or b"\0" in path:
            raise CatalogError(f"{self._label}: it mounts a catalog at {path!r:.200}, which is not below itself")
        if any(not valid_name(name) for name in path[len(inside) :].split(b"/")):
            raise CatalogError(f"{self._label}: it mounts a catalog at {show(path)[:200]}, which is not a path")
        digest = None
        if isinstance(text, bytes) and text:
            try:
                digest = parse_digest(text.decode("ascii", "replace"))
            except CorruptObject as exc:
                raise CatalogError(f"{self._label}: catalog at {show(path)[:200]}: {exc}") from None
        if digest is not None and digest.is_null:
            digest = None
        size = length if isinstance(length, int) and 0 <= length <= limits.CATALOG else 0
        outer = self.mount[: len(self.mount) - len(self._prefix)]
        return NestedRef(outer + path, digest, size, bind, b"" if bind else outer)

    # -- reading -----------------------------------------------------------------------------------------------------

    def key_text(self, path: bytes) -> bytes:
        """The text whose MD5 is the key of ``path`` in this catalog (FORMAT.md §6.8)."""
        return self._prefix + path[len(self.mount) :]

    def lookup(self, path: bytes) -> Entry | None:
        """The row of a path at or below the mount, hidden or not; None if there is none."""
        with database_errors(self._label):
            row = self._db.execute(
                self._select + "WHERE md5path_1 = ? AND md5path_2 = ?", path_key(self.key_text(path))
            ).fetchone()
        if row is None:
            return None
        parent, _, name = path.rpartition(b"/")
        if path == self.mount and not self._prefix:
            # The root entry of a root catalog has no name.
            if row[0] not in (b"", name):
                raise CatalogError(f"{self._label}: its root entry is named {row[0]!r:.200}")
        elif row[0] != name:
            raise CatalogError(f"{self._label}: the entry of {show(path)} is named {row[0]!r:.200}")
        return self._entry(row, parent, name)

    def root(self) -> Entry:
        """The entry of the mount itself."""
        entry = self.lookup(self.mount)
        if entry is None or not entry.is_dir:
            raise CatalogError(f"{self._label}: it has no root directory")
        return entry

    def children(self, path: bytes) -> Iterator[Entry]:
        """The rows below a directory, in byte order of their names; hidden ones too.

        Raises:
            CatalogError: impossible rows; a name twice or out of order, which would break every merge of two streams.
        """
        key = path_key(self.key_text(path))
        with database_errors(self._label):
            # Few rows, as nearly everywhere, are sorted here: a third of the time that a query with ORDER BY takes.
            cursor = self._db.execute(self._select + "WHERE parent_1 = ? AND parent_2 = ?", key)
            rows = cursor.fetchmany(_ROWS)
            if len(rows) < _ROWS:
                try:
                    rows.sort(key=_NAME)
                except TypeError:
                    raise self._bad_name(next(row[0] for row in rows if type(row[0]) is not bytes), path, b"") from None
                yield from self._entries(rows, path, b"")
                return
            cursor = self._db.execute(
                self._select + "WHERE parent_1 = ? AND parent_2 = ? ORDER BY name COLLATE BINARY", key
            )
            last = b""
            while rows := cursor.fetchmany(_ROWS):
                entries = self._entries(rows, path, last)
                last = entries[-1].name
                yield from entries

    def _entries(self, rows: list[tuple[Any, ...]], parent: bytes, last: bytes) -> list[Entry]:
        """Rows of one directory as entries; ``last`` is the name before them.

        The loop for what is right, as nearly everything is, costs half of all that a walk does; whatever is not right,
        or not usual, goes through :meth:`_entry`, which says what is wrong.
        """
        new, made = tuple.__new__, Entry
        check = _NUMBERS.pack
        prefix = parent + b"/"
        entries: list[Entry] = []
        for row in rows:
            name, mode, size, mtime, nanoseconds, uid, gid, flags, digest, target, links, xattr, _ = row
            try:
                if name <= last or name in _NO_NAMES or b"/" in name or b"\0" in name or len(name) > limits.NAME:
                    raise self._bad_name(name, parent, last)
            except TypeError:
                raise self._bad_name(name, parent, last) from None
            last = name
            kind = mode & _S_IFMT if type(mode) is int else 0
            try:
                check(mode, size, mtime, nanoseconds or 0, uid, gid, flags, links)
            except struct.error:
                kind = 0
            if (
                (kind == stat.S_IFREG and type(digest) is bytes and len(digest) == SIZE and not flags & FLAG_CHUNKED)
                or (kind == stat.S_IFLNK and digest is None)
            ) and (
                type(target) is bytes
                and (nanoseconds is None or nanoseconds < _NS)
                and (xattr is None or type(xattr) is bytes)
            ):
                time_ns = mtime * _NS + (nanoseconds or 0)
                entries.append(
                    new(
                        made,
                        (prefix + name, name, mode, size, time_ns, uid, gid, flags, digest, target, links, xattr, ()),
                    )
                )
            else:
                entries.append(self._entry(row, parent, name))
        return entries

    def _bad_name(self, name: Any, parent: bytes, last: bytes) -> CatalogError:
        if not isinstance(name, bytes) or not valid_name(name):
            return CatalogError(f"{self._label}: impossible name {name!r:.300} in {show(parent)}")
        return CatalogError(f"{self._label}: {show(parent)} has {show(name)} twice")

    def _entry(self, row: tuple[Any, ...], parent: bytes, name: bytes) -> Entry:
        _, mode, size, mtime, nanoseconds, uid, gid, flags, digest, target, links, xattr, one = row
        path = self.mount if not name else parent + b"/" + name
        for number in (mode, size, mtime, uid, gid, flags, links, one):
            if type(number) is not int:
                raise CatalogError(f"{self._label}: {show(path)}: a number is missing or of another type")
        if nanoseconds is None:
            nanoseconds = 0
        elif type(nanoseconds) is not int or not 0 <= nanoseconds < _NS:
            raise CatalogError(f"{self._label}: {show(path)}: {nanoseconds!r:.40} nanoseconds")
        lowest = self._lowest_owner
        if (
            size < 0
            or not lowest <= uid < 1 << 32
            or not lowest <= gid < 1 << 32
            or not 0 <= mode < 1 << 16
            or flags < 0
        ):
            raise CatalogError(f"{self._label}: {show(path)}: size, owner, mode or flags out of range")
        if digest is not None and (type(digest) is not bytes or len(digest) != SIZE):
            if digest == b"":
                digest = None
            else:
                raise CatalogError(f"{self._label}: {show(path)}: its content hash has not {SIZE} bytes")
        if target is None:
            target = b""
        elif type(target) is not bytes:
            raise CatalogError(f"{self._label}: {show(path)}: its link target is not text")
        if xattr is not None and type(xattr) is not bytes:
            xattr = None
        chunks: tuple[Chunk, ...] = ()
        kind = mode & _S_IFMT
        if kind == stat.S_IFDIR:
            # The walk goes on below this path: a row under another key was not written by any publisher.
            if one != path_key(self.key_text(path))[0]:
                raise CatalogError(f"{self._label}: the key of {show(path)} is not that of its path")
        elif kind == stat.S_IFREG:
            if flags & FLAG_CHUNKED:
                chunks = self._chunks(path, size)
            elif digest is None:
                raise CatalogError(f"{self._label}: {show(path)}: a file without a content hash")
        return Entry(
            path,
            name,
            mode,
            size,
            mtime * _NS + nanoseconds,
            uid,
            gid,
            flags,
            digest,
            target,
            links,
            xattr,
            chunks,
        )

    def _chunks(self, path: bytes, size: int) -> tuple[Chunk, ...]:
        """The pieces of a file; they must tile it (FORMAT.md §6.6)."""
        if not self._has_chunks:
            raise CatalogError(f"{self._label}: {show(path)} is said to be chunked, but there are no chunks")
        chunks: list[Chunk] = []
        position = 0
        rows = self._db.execute(
            "SELECT offset, size, hash FROM chunks WHERE md5path_1 = ? AND md5path_2 = ? ORDER BY offset",
            path_key(self.key_text(path)),
        )
        for offset, length, raw in rows:
            if type(offset) is not int or type(length) is not int or type(raw) is not bytes or len(raw) != SIZE:
                raise CatalogError(f"{self._label}: {show(path)}: a chunk's row is of other types than it must be")
            if offset != position or length <= 0 or len(chunks) >= limits.CHUNKS:
                raise CatalogError(f"{self._label}: {show(path)}: its chunks overlap, leave holes or are too many")
            chunks.append(Chunk(offset, length, raw))
            position += length
        if not chunks or position != size:
            raise CatalogError(f"{self._label}: {show(path)}: its chunks have {position} bytes, the file has {size}")
        return tuple(chunks)

    def entries(self) -> int:
        """Rows of this catalog by its own counters (FORMAT.md §6.10), 0 where it has none: for progress, no more."""
        counters = self.statistics()
        return sum(max(0, counters.get(f"self_{kind}", 0)) for kind in ("regular", "symlink", "special", "dir"))

    def statistics(self) -> dict[str, int]:
        """The counters of FORMAT.md §6.10, as far as the catalog has them."""
        found: dict[str, int] = {}
        with database_errors(self._label), suppress(UnicodeDecodeError):
            if self._columns("statistics") is None:
                return {}
            for counter, value in self._db.execute("SELECT counter, value FROM statistics LIMIT 1000"):
                if isinstance(counter, bytes) and isinstance(value, int):
                    found[counter.decode("ascii")] = value
        return found


def valid_name(name: bytes) -> bool:
    """True for what can be the name of a directory entry."""
    return 0 < len(name) <= limits.NAME and name not in (b".", b"..") and b"/" not in name and b"\0" not in name
