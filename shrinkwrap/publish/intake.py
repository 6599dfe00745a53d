"""From entries of a source to rows of the scratch database and pieces for the workers."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.catalog import path_key, valid_name
from shrinkwrap.cvmfs.entry import show
from shrinkwrap.cvmfs.owners import OwnerMap
from shrinkwrap.cvmfs.xattr import pack_xattrs
from shrinkwrap.errors import CorruptObject, DestinationError, UsageError
from shrinkwrap.publish.cut import ChunkLimits
from shrinkwrap.publish.objects import Piece, Stored
from shrinkwrap.publish.pool import Workers
from shrinkwrap.publish.scratch import Scratch
from shrinkwrap.publish.slicing import Slicer
from shrinkwrap.publish.source import FileRange, Source, SourceEntry, Stream

#: Rows are sent to the database in such groups.
_ROWS: Final = 1000
#: Directories whose keys are remembered.
_KNOWN: Final = 100_000
#: Content that comes through a pipe and must stay whole goes through a scratch file from this size on.
_SPOOL: Final = 8 * limits.MIB
_STEP: Final = 1 * limits.MIB
_NS: Final = 10**9
_HIGHEST_TIME: Final = 1 << 62
#: What a directory's size is said to be: that of ext4, whatever the source's file system says (FORMAT.md §6.5).
DIR_SIZE: Final = 4096
MARKER: Final = b".cvmfscatalog"
AUTO_MARKER: Final = b".cvmfsautocatalog"

_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_RESERVED: Final = b".wh..wh."
_OVERLAY_LINK: Final = b"(overlay-whiteout)"
_OVERLAY_OPAQUE: Final = frozenset({b"trusted.overlay.opaque", b"user.overlay.opaque"})
#: Attributes outside of the user's namespace that mean the same elsewhere.
_KEPT_XATTRS: Final = frozenset({b"security.capability"})

_INSERT: Final = "INTO stage VALUES (?, ?, ?, ?, ?, CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?, ?, ?)"
_CONTENT: Final = "INSERT OR REPLACE INTO content VALUES (?, ?)"
_PIECE: Final = "INSERT OR REPLACE INTO piece VALUES (?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class IntakeOptions:
    """How entries are taken.

    Attributes:
        base: path in the repository that the source's root becomes; ``b""`` or beginning with a slash.
        uids, gids: other owners, None for those of the source.
        whiteouts: entries that stand for deletions (``.wh.`` names, overlay whiteouts) are carried out.
        chunks: sizes of chunks; None: files stay whole.
        now: seconds since the epoch, for directories that the source does not mention.
    """

    base: bytes
    uids: OwnerMap | None
    gids: OwnerMap | None
    whiteouts: bool
    chunks: ChunkLimits | None
    now: int


class Intake:
    """Takes a source in.

    Attributes:
        counts: entries by kind, and bytes of content.
        notices: what was left out, a line each, once :meth:`take` is done.
    """

    def __init__(
        self, scratch: Scratch, options: IntakeOptions, folder: bytes, progress: Callable[[Counter[str]], None]
    ) -> None:
        self._scratch = scratch
        self._db = scratch.db
        self._options = options
        self._folder = folder
        self._progress = progress
        self._rows: list[tuple[Any, ...]] = []
        self._implied: list[tuple[Any, ...]] = []
        self._known: dict[bytes, tuple[int, int]] = {}
        self._ident = 0
        self._spooled: dict[int, bytes] = {}
        self._left_out: Counter[str] = Counter()
        self._example: dict[str, bytes] = {}
        self.counts: Counter[str] = Counter(files=0, dirs=0, symlinks=0, special=0, links=0, bytes=0)
        self.notices: list[str] = []

    def take(self, source: Source, workers: Workers) -> None:
        """Read the whole source.

        Raises:
            UsageError: the source cannot be read, or says something that cannot be. CorruptObject: a broken archive.
            DestinationError: the storage cannot be written.
        """
        self._workers = workers
        for path in ancestors(self._options.base):
            self._imply(path)
        for number, entry in enumerate(source):
            self._add(entry)
            if not number & 0xFF:
                self._progress(self.counts)
        workers.finish()
        self._write_rows()
        self._resolve_links()
        self._scratch.index_stage()
        self._check()
        self._progress(self.counts)
        for what, count in sorted(self._left_out.items()):
            self.notices.append(f"{what}: {count}, such as {show(self._example[what])}")

    def stored(self, results: list[Stored]) -> None:
        """What workers report."""
        whole, pieces = [], []
        for ident, offset, size, raw, written in results:
            self.counts["objects"] += 1
            if written:
                self.counts["new_objects"] += 1
                self.counts["written"] += written
            if offset < 0:
                whole.append((ident, raw))
            else:
                pieces.append((ident, offset, size, raw))
            if ident in self._spooled:
                with suppress(OSError):
                    os.unlink(self._spooled.pop(ident))
        if whole:
            self._db.executemany(_CONTENT, whole)
        if pieces:
            self._db.executemany(_PIECE, pieces)
        self._progress(self.counts)

    # -- entries -----------------------------------------------------------------------------------------------------

    def _add(self, entry: SourceEntry) -> None:
        options = self._options
        path = options.base + b"/" + entry.path if entry.path else options.base
        parent, _, name = path.rpartition(b"/")
        mode = entry.mode
        kind = mode & 0o170000
        if path:
            if not valid_name(name):
                raise UsageError(f"{show(entry.path)[:300]}: {name[:300]!r} cannot be the name of a file")
            above = self._known.get(parent)
            if above is None:
                above = self._imply(parent)
        else:
            above = (0, 0)
            if kind != stat.S_IFDIR:
                raise UsageError("the root of the repository cannot be anything but a directory")
        if options.whiteouts and self._whiteout(entry, path, parent, name, kind):
            return
        if name == MARKER:
            if kind != stat.S_IFREG:
                raise UsageError(
                    f"{show(path)}: a marker for a nested catalog must be a regular file", hint="remove or rename it"
                )
            if not parent:
                self._leave_out("markers for a nested catalog in the repository's root, where none can be", path)
                self._drain(entry)
                return
        key = path_key(path)
        if entry.link is not None:
            self._link(path, name, key, above, entry.link)
            return
        ident = size = 0
        if kind == stat.S_IFDIR:
            size = DIR_SIZE
            self._known[path] = key
            self.counts["dirs"] += 1
        else:
            ident, again = self._identify(entry.identity)
            if kind == stat.S_IFREG:
                size = entry.size
                self.counts["files"] += 1
                if not again:
                    self.counts["bytes"] += size
                    self._content(entry, ident, path)
            elif kind == stat.S_IFLNK:
                self.counts["symlinks"] += 1
                if not entry.target or len(entry.target) > limits.LINK_TARGET or b"\0" in entry.target:
                    raise UsageError(f"{show(path)}: its link target has {len(entry.target)} bytes, or a NUL in it")
                size = len(entry.target)
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                size = entry.rdev
                self.counts["special"] += 1
            elif kind in (stat.S_IFIFO, stat.S_IFSOCK):
                self.counts["special"] += 1
            else:
                raise UsageError(f"{show(path)}: of an unknown type (mode {mode:o})")
        uid = entry.uid if options.uids is None else options.uids.map(entry.uid)
        gid = entry.gid if options.gids is None else options.gids.map(entry.gid)
        seconds, below = divmod(entry.mtime_ns, _NS)
        if not (0 <= uid < 1 << 32 and 0 <= gid < 1 << 32 and -_HIGHEST_TIME < seconds < _HIGHEST_TIME and size >= 0):
            raise UsageError(f"{show(path)}: owner, time or size out of range")
        xattr = self._xattrs(entry, path) if entry.xattrs else None
        target = entry.target if kind == stat.S_IFLNK else b""
        self._rows.append(
            (*key, *above, path, name, mode & 0o177777, size, seconds, below, uid, gid, target, xattr, ident, 0)
        )
        if len(self._rows) >= _ROWS:
            self._write_rows()

    def _imply(self, path: bytes) -> tuple[int, int]:
        """A directory that has to be there, mentioned or not; its key."""
        known = self._known.get(path)
        if known is not None:
            return known
        if len(self._known) >= _KNOWN:
            self._known.clear()
        missing = []
        while path not in self._known:
            missing.append(path)
            if not path:
                break
            path = path.rpartition(b"/")[0]
            if len(missing) > limits.PATH_DEPTH:
                raise UsageError(f"more than {limits.PATH_DEPTH} directories inside each other")
        for one in reversed(missing):
            parent, _, name = one.rpartition(b"/")
            key = path_key(one)
            above = path_key(parent) if one else (0, 0)
            if one and not valid_name(name):
                raise UsageError(f"{show(one)[:300]}: {name[:300]!r} cannot be the name of a directory")
            uid = 0 if self._options.uids is None else self._options.uids.map(0)
            gid = 0 if self._options.gids is None else self._options.gids.map(0)
            mode = stat.S_IFDIR | 0o755
            self._implied.append(
                (*key, *above, one, name, mode, DIR_SIZE, self._options.now, 0, uid, gid, b"", None, 0, 1)
            )
            self._known[one] = key
        return self._known[missing[0]]

    def _write_rows(self) -> None:
        if self._rows:
            self._db.executemany("INSERT OR REPLACE " + _INSERT, self._rows)
            self._rows.clear()
        if self._implied:
            self._db.executemany("INSERT OR IGNORE " + _INSERT, self._implied)
            self._implied.clear()

    def _identify(self, identity: tuple[int, int] | None) -> tuple[int, bool]:
        """Number of an inode, and whether it was met before."""
        if identity is not None:
            # SQLite's integers have a sign.
            key = tuple(number - (1 << 64) if number >= 1 << 63 else number for number in identity)
            row = self._db.execute("SELECT ident FROM identity WHERE device = ? AND inode = ?", key).fetchone()
            if row is not None:
                self._db.execute("INSERT OR IGNORE INTO shared VALUES (?)", row)
                self.counts["links"] += 1
                return row[0], True
        self._ident += 1
        if identity is not None:
            self._db.execute("INSERT INTO identity VALUES (?, ?, ?)", (*key, self._ident))
        return self._ident, False

    def _xattrs(self, entry: SourceEntry, path: bytes) -> bytes | None:
        kept: list[tuple[bytes, bytes]] = []
        for name, value in entry.xattrs:
            if not name.startswith(b"user.") and name not in _KEPT_XATTRS:
                self._leave_out("extended attributes left out, neither user.* nor security.capability", path)
            elif len(name) > 255 or len(value) > 255 or not name or b"\0" in name or len(kept) == 255:
                self._leave_out("extended attributes left out, above 255 bytes or 255 in number", path)
            else:
                kept.append((name, value))
        return pack_xattrs(dict(kept).items())

    def _leave_out(self, what: str, path: bytes) -> None:
        self._left_out[what] += 1
        self._example.setdefault(what, path)

    # -- deletions ---------------------------------------------------------------------------------------------------

    def _whiteout(self, entry: SourceEntry, path: bytes, parent: bytes, name: bytes, kind: int) -> bool:
        """Carry out an entry that stands for a deletion; False if it is none."""
        hidden = None
        if name == _OPAQUE:
            self._hide(parent, inside=True)
        elif name.startswith(_RESERVED):
            self._leave_out("names beginning with .wh..wh. left out, of no meaning here", path)
        elif name.startswith(_WHITEOUT):
            hidden = parent + b"/" + name.removeprefix(_WHITEOUT)
            if not valid_name(name.removeprefix(_WHITEOUT)):
                raise UsageError(f"{show(path)}: a whiteout without a name")
        elif (kind == stat.S_IFCHR and entry.rdev == 0) or (kind == stat.S_IFLNK and entry.target == _OVERLAY_LINK):
            hidden = path
        else:
            if kind == stat.S_IFDIR and any(name in _OVERLAY_OPAQUE and value == b"y" for name, value in entry.xattrs):
                self._hide(path, inside=True)
            return False
        if hidden is not None:
            self._hide(hidden, inside=False)
        self._drain(entry)
        return True

    def _hide(self, path: bytes, *, inside: bool) -> None:
        self.counts["whiteouts"] += 1
        self._db.execute("INSERT OR IGNORE INTO hide VALUES (?, ?, ?)", (*path_key(path), int(inside)))
        concerned = path if inside else path.rpartition(b"/")[0]
        self._db.execute("INSERT OR IGNORE INTO visit VALUES (?, ?)", path_key(concerned))

    # -- hard links of archives --------------------------------------------------------------------------------------

    def _link(self, path: bytes, name: bytes, key: tuple[int, int], above: tuple[int, int], target: bytes) -> None:
        self.counts["links"] += 1
        self._write_rows()
        full = self._options.base + b"/" + target
        if not self._copy_row(path, name, key, above, full):
            self._db.execute("INSERT INTO link VALUES (?, ?, ?, ?)", (path, full, *path_key(full)))

    def _copy_row(self, path: bytes, name: bytes, key: tuple[int, int], above: tuple[int, int], target: bytes) -> bool:
        """Make a path another name of a path that has come; False if it has not."""
        if path == target:
            raise CorruptObject(f"{show(path)}: a hard link to itself")
        row = self._db.execute("SELECT mode, ident FROM stage WHERE k1 = ? AND k2 = ?", path_key(target)).fetchone()
        if row is None:
            return False
        if stat.S_ISDIR(row[0]):
            raise CorruptObject(f"{show(path)}: a hard link to {show(target)}, which is a directory")
        self._db.execute("INSERT OR IGNORE INTO shared VALUES (?)", (row[1],))
        self.counts["files" if stat.S_ISREG(row[0]) else "symlinks" if stat.S_ISLNK(row[0]) else "special"] += 1
        self._db.execute(
            "INSERT OR REPLACE INTO stage SELECT ?, ?, ?, ?, ?, CAST(? AS TEXT), mode, size, mtime, mtimens, uid, gid,"
            " symlink, xattr, ident, 0 FROM stage WHERE k1 = ? AND k2 = ?",
            (*key, *above, path, name, *path_key(target)),
        )
        return True

    def _resolve_links(self) -> None:
        """Links that came before what they lead to."""
        while True:
            found = self._db.execute(
                "SELECT l.rowid, l.path, l.target FROM link l JOIN stage s ON s.k1 = l.t1 AND s.k2 = l.t2 LIMIT 1000"
            ).fetchall()
            if not found:
                break
            for row, path, target in found:
                parent, _, name = path.rpartition(b"/")
                key = path_key(path)
                self._db.execute("DELETE FROM link WHERE rowid = ?", (row,))
                # What came later under the link's own name has replaced it.
                if self._db.execute("SELECT 1 FROM stage WHERE k1 = ? AND k2 = ?", key).fetchone() is None:
                    self._copy_row(path, name, key, path_key(parent), target)
        lost = self._db.execute("SELECT path, target FROM link LIMIT 1").fetchone()
        if lost is not None:
            raise CorruptObject(
                f"{show(lost[0])}: a hard link to {show(lost[1])}, which is not in the source",
                hint="the archive is incomplete",
            )

    def _check(self) -> None:
        """What can only be seen at the end."""
        row = self._db.execute(
            "SELECT c.path, p.path FROM stage p JOIN stage c ON c.p1 = p.k1 AND c.p2 = p.k2"
            " WHERE (p.mode & 61440) != 16384 LIMIT 1"
        ).fetchone()
        if row is not None:
            raise UsageError(
                f"{show(row[0])}: the source has it inside of {show(row[1])}, which is not a directory there",
                hint="an archive in which a name changes its type cannot be published",
            )
        row = self._db.execute(
            "SELECT path FROM stage s WHERE (mode & 61440) = 32768"
            " AND NOT EXISTS (SELECT 1 FROM content c WHERE c.ident = s.ident)"
            " AND NOT EXISTS (SELECT 1 FROM piece e WHERE e.ident = s.ident) LIMIT 1"
        ).fetchone()
        if row is not None:
            raise UsageError(f"{show(row[0])}: the source has no content for it")

    # -- content -----------------------------------------------------------------------------------------------------

    def _content(self, entry: SourceEntry, ident: int, path: bytes) -> None:
        content, size = entry.content, entry.size
        if content is None:
            raise UsageError(f"{show(path)}: the source has no content for it")
        sizes = self._options.chunks
        if isinstance(content, bytes) and len(content) != size:
            raise UsageError(f"{show(path)}: {len(content)} bytes of content, expected {size}")
        if sizes is not None and size > sizes.least:
            Slicer(content, size, ident, path).run(sizes, self._workers)
        elif isinstance(content, bytes | FileRange):
            self._workers.add(Piece(ident, -1, size, content, path))
        elif size < _SPOOL:
            self._workers.add(Piece(ident, -1, size, content.read(size), path))
        else:
            self._workers.add(Piece(ident, -1, size, self._spool(content, size, ident), path))

    def _spool(self, content: Stream, size: int, ident: int) -> FileRange:
        file = self._folder + b"/spool.%d" % ident
        self._spooled[ident] = file
        try:
            with open(file, "wb") as out:
                for start in range(0, size, _STEP):
                    out.write(content.read(min(_STEP, size - start)))
            info = os.stat(file)
        except OSError as exc:
            hint = "free space there" if exc.errno == errno.ENOSPC else ""
            raise DestinationError(f"{show(self._folder)}: cannot be written: {exc.strerror}", hint=hint) from None
        return FileRange(file, 0, (info.st_dev, info.st_ino, size), info.st_mtime_ns)

    def _drain(self, entry: SourceEntry) -> None:
        """Read past content that is not wanted."""
        if entry.content is not None and not isinstance(entry.content, bytes | FileRange):
            for start in range(0, entry.size, _STEP):
                entry.content.read(min(_STEP, entry.size - start))


def ancestors(path: bytes) -> list[bytes]:
    """The path and all directories above it, the root first."""
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(1, len(parts) + 1)]
