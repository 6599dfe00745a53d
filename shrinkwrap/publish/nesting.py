"""Which directories have a catalog of their own, and which catalog each row is in.

A regular file ``.cvmfscatalog`` in a directory decides (FORMAT.md §6.11). Patterns and catalogs that grow too large put
such files there.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.catalog import path_key
from shrinkwrap.errors import UsageError
from shrinkwrap.publish.intake import AUTO_MARKER, MARKER
from shrinkwrap.publish.merge import Merge, Mount
from shrinkwrap.publish.scratch import IS_DIR, IS_FILE, Scratch

#: A directory of at least this part of the largest catalog is worth one of its own (FORMAT.md §12.5).
_MIN_PART: Final = 100


@dataclass(frozen=True, slots=True)
class Patterns:
    """Directories that are to have a catalog of their own, as ``.cvmfsdirtab`` says it (FORMAT.md §12.6)."""

    positive: tuple[re.Pattern[bytes], ...]
    negative: tuple[re.Pattern[bytes], ...]

    def match(self, path: bytes) -> bool:
        return any(one.fullmatch(path) for one in self.positive) and not any(
            one.fullmatch(path) for one in self.negative
        )


def parse_patterns(lines: Sequence[bytes]) -> Patterns:
    """Read patterns: absolute paths with ``*`` and ``?``, an escape ``\\``, ``!`` in front of exceptions.

    Raises:
        UsageError: not absolute, a stray escape, or the same pattern with and without ``!``.
    """
    found: dict[bool, dict[bytes, re.Pattern[bytes]]] = {False: {}, True: {}}
    for line in lines:
        text = line.strip(b" \t")
        if not text or text.startswith(b"#"):
            continue
        negative = text.startswith(b"!")
        text = text[1:].lstrip(b" \t") if negative else text
        shown = text.decode("utf-8", "backslashreplace")
        if not text.startswith(b"/") and not negative:
            raise UsageError(f"pattern {shown!r}: not absolute", hint="it begins with a slash, such as /lcg/releases/*")
        if text in found[not negative]:
            raise UsageError(f"pattern {shown!r} is given with and without '!'")
        found[negative][text] = _compile(text, negative)
    return Patterns(tuple(found[False].values()), tuple(found[True].values()))


def _compile(text: bytes, negative: bool) -> re.Pattern[bytes]:
    out = []
    position = 0
    # Many stars in one pattern would make matching slow: neighbours are one.
    text = re.sub(rb"(?<!\\)\*+", b"*", text)
    while position < len(text):
        char = text[position : position + 1]
        if char == b"\\":
            position += 1
            if text[position : position + 1] not in (b"*", b"?", b"\\"):
                raise UsageError(f"pattern {text!r}: a backslash stands before *, ? or another one only")
            out.append(re.escape(text[position : position + 1]))
        elif char == b"*":
            # In a rule with '!' it may cross directories (FORMAT.md §12.6).
            out.append(b".*" if negative else b"[^/]*")
        elif char == b"?":
            out.append(b"[^/]")
        else:
            out.append(re.escape(char))
        position += 1
    return re.compile(b"".join(out).rstrip(b"/") + b"/?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MarkerFile:
    """What markers hold: nothing. ``raw`` is the digest of that object, ``flags`` say how it is stored."""

    raw: bytes
    flags: int


class Nesting:
    """Decides on catalogs.

    Attributes:
        made: paths of directories that got a marker here.
    """

    def __init__(self, scratch: Scratch, merge: Merge, marker: MarkerFile) -> None:
        self._db = scratch.db
        self._scratch = scratch
        self._merge = merge
        self._marker = marker
        self.made: list[bytes] = []
        self._dissolved: dict[bytes, Mount] = {}

    def settle(self, patterns: Patterns | None, max_entries: int) -> None:
        """Find all catalogs, new ones too, and put each row into one of them.

        Args:
            patterns: for directories that the source has.
            max_entries: split catalogs with more rows than this; 0: none is.
        """
        if patterns is not None:
            self._mark_patterns(patterns)
        self._find_mounts()
        self._place()
        if max_entries and self._split(max_entries):
            self._find_mounts()
            self._place()

    # -- markers -----------------------------------------------------------------------------------------------------

    def _mark_patterns(self, patterns: Patterns) -> None:
        found = [
            path
            for (path,) in self._db.execute(f"SELECT path FROM stage WHERE {IS_DIR}")  # noqa: S608
            if path and patterns.match(path)
        ]
        for path in sorted(found):
            self._mark(path, MARKER)

    def _mark(self, path: bytes, *names: bytes) -> None:
        """Put markers into a directory, with its time, so that the next publication makes the same."""
        row = self._db.execute(
            "SELECT mtime, mtimens, uid, gid FROM node WHERE k1 = ? AND k2 = ?", path_key(path)
        ).fetchone()
        if row is None or self._scratch.node(path + b"/" + MARKER) is not None:
            return
        for name in names:
            values: tuple[Any, ...] = (
                *path_key(path + b"/" + name),
                *path_key(path),
                name,
                stat.S_IFREG | 0o644,
                *row,
                self._marker.flags,
                self._marker.raw,
            )
            self._db.execute(
                "INSERT OR REPLACE INTO node (k1, k2, p1, p2, name, mode, size, mtime, mtimens, uid, gid, symlink,"
                " flags, hash, links, grp) VALUES (?, ?, ?, ?, CAST(? AS TEXT), ?, 0, ?, ?, ?, ?, '', ?, ?, 1, 0)",
                values,
            )
        self.made.append(path)

    def _find_mounts(self) -> None:
        """Directories with a marker get a catalog, those without lose theirs; closed ones stay as they are."""
        merge = self._merge
        merge.forget_lost()
        for path, mount in list(merge.mounts.items()):
            if path and not mount.closed:
                found = self._scratch.node(path + b"/" + MARKER)
                if found is None or not stat.S_ISREG(found[0]):
                    self._dissolved[path] = merge.mounts.pop(path)
        marked = self._db.execute(
            f"SELECT p1, p2 FROM node WHERE name = '{MARKER.decode()}' AND {IS_FILE}"  # noqa: S608
        ).fetchall()
        known = {mount.key for mount in merge.mounts.values()}
        for key in sorted(marked):
            if key not in known:
                path = self._path(key)
                # One that lost its marker a moment ago, and got another, is the same as before.
                if (before := self._dissolved.pop(path, None)) is not None:
                    merge.mounts[path] = before
                else:
                    merge.add_mount(path).closed = False
        self._db.execute("DELETE FROM mount")
        self._db.executemany(
            "INSERT INTO mount VALUES (?, ?, ?, ?)",
            [(*mount.key, mount.number, int(mount.closed)) for mount in merge.mounts.values()],
        )

    def _path(self, key: tuple[int, int]) -> bytes:
        """Path of a directory, from its key."""
        names: list[bytes] = []
        statement = "SELECT p1, p2, name FROM node WHERE k1 = ? AND k2 = ?"
        while key != path_key(b""):
            one, two, name = self._db.execute(statement, key).fetchone()
            names.append(name)
            key = (one, two)
            if len(names) > limits.PATH_DEPTH:
                raise UsageError(f"more than {limits.PATH_DEPTH} directories inside each other")
        return b"".join(b"/" + name for name in reversed(names))

    # -- places ------------------------------------------------------------------------------------------------------

    def _place(self) -> None:
        """Which catalog each row is in: the mountpoint's row is in the catalog above."""
        self._db.execute("DELETE FROM place")
        top = self._merge.mounts[b""]
        self._db.execute(
            "INSERT INTO place"
            " WITH RECURSIVE walk (k1, k2, cat, inner, dir) AS (VALUES (:k1, :k2, :id, :id, 1) UNION ALL"
            "  SELECT n.k1, n.k2, w.inner, coalesce("
            "   (SELECT id FROM mount m WHERE m.k1 = n.k1 AND m.k2 = n.k2), w.inner), (n.mode & 61440) = 16384"
            "  FROM walk w CROSS JOIN node n ON w.dir AND n.p1 = w.k1 AND n.p2 = w.k2)"
            " SELECT k1, k2, cat FROM walk",
            {"k1": top.key[0], "k2": top.key[1], "id": top.number},
        )
        self._db.execute("DROP INDEX IF EXISTS place_cat")
        self._db.execute("CREATE INDEX place_cat ON place (cat)")

    # -- splitting ---------------------------------------------------------------------------------------------------

    def _split(self, most: int) -> bool:
        """Split catalogs that are too large, dissolve automatic ones that are too small; False if there was none."""
        least = max(1, most // _MIN_PART)
        counts: dict[int, int] = dict(self._db.execute("SELECT cat, count(*) FROM place GROUP BY cat"))
        changed = False
        for mount in list(self._merge.mounts.values()):
            count = counts.get(mount.number, 0) + bool(mount.path)
            if mount.closed:
                continue
            if count > most:
                changed |= self._split_one(mount, most, least)
            elif count < least and mount.path and self._scratch.node(mount.path + b"/" + AUTO_MARKER) is not None:
                for name in (MARKER, AUTO_MARKER):
                    key = path_key(mount.path + b"/" + name)
                    self._db.execute("DELETE FROM node WHERE k1 = ? AND k2 = ?", key)
                changed = True
        return changed

    def _split_one(self, mount: Mount, most: int, least: int) -> bool:
        """The reference's way (FORMAT.md §12.5): from the leaves up, the heaviest directory of one that is too heavy
        becomes a catalog."""
        db = self._db
        chosen: list[bytes] = []
        subdirs = (
            "SELECT n.k1, n.k2, n.name, m.id IS NOT NULL FROM node n LEFT JOIN mount m ON m.k1 = n.k1 AND m.k2 = n.k2"
            " WHERE n.p1 = ? AND n.p2 = ? AND (n.mode & 61440) = 16384 ORDER BY n.name"
        )

        def enter(path: bytes, key: tuple[int, int]) -> list[Any]:
            others = db.execute(
                "SELECT count(*) FROM node WHERE p1 = ? AND p2 = ? AND (mode & 61440) != 16384", key
            ).fetchone()[0]
            # Path, weight so far, subdirectories to come, heavy ones that were seen.
            return [path, 1 + others, db.execute(subdirs, key), []]

        stack = [enter(mount.path, mount.key)]
        while stack:
            frame = stack[-1]
            row = frame[2].fetchone()
            if row is not None:
                if row[3]:
                    frame[1] += 1
                else:
                    stack.append(enter(frame[0] + b"/" + row[2], (row[0], row[1])))
                continue
            stack.pop()
            path, weight, _, heavy = frame
            heavy.sort()
            while weight > most // 2 and heavy:
                below, name = heavy.pop()
                chosen.append(name)
                weight -= below - 1
            if stack:
                above = stack[-1]
                above[1] += weight
                if weight >= least:
                    above[3].append((weight, path))
        for path in chosen:
            self._mark(path, MARKER, AUTO_MARKER)
        return bool(chosen)
