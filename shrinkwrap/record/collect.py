"""Makes summaries while a walk goes, catalog by catalog, in flat memory."""

from __future__ import annotations

import json
import marshal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from struct import Struct
from typing import Any, Final, Self

import xxhash

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.cvmfs.variants import expand
from shrinkwrap.errors import CorruptObject
from shrinkwrap.record.frames import Lines, Scratch
from shrinkwrap.record.statement import COUNTS
from shrinkwrap.record.summaries import SummaryStore
from shrinkwrap.record.summary import HEADER, MAGIC, META_BYTES, Child, Keys, Summary, Totals, file_name, meta_of
from shrinkwrap.record.sums import UNKNOWN, WIDTH, Sums
from shrinkwrap.snapshot.catalogs import CatalogStore
from shrinkwrap.snapshot.view import DIR, LINK, Node
from shrinkwrap.spec.grammar import Mode
from shrinkwrap.spec.matcher import Matcher, State

#: Writes a summary's file, by its name, so that a reader sees all of it or nothing.
Write = Callable[[str, Iterator[bytes]], None]

#: Most bytes of cases that one summary holds: some 500,000 of them. All are counted.
CASES_BYTES: Final = 64 * limits.MIB
#: Catalogs inside each other whose lines wait in memory.
_WAITING: Final = 8
_SUMS_AT_ONCE: Final = 4096
_LENGTH: Final = Struct("<I")

#: The case that no view tells of.
_NO_STAR: Final = "directory_without_star"


class _Level:
    """A catalog that the walk is in."""

    __slots__ = (
        "cases",
        "children",
        "dirs",
        "exact",
        "files",
        "floor",
        "given",
        "inside",
        "key",
        "left_out",
        "lines",
        "links",
        "listing",
        "matched",
        "ranges",
        "ref",
        "run",
        "size",
        "variables",
    )

    def __init__(self, ref: NestedRef, key: str, scratch: Scratch) -> None:
        self.ref = ref
        self.key = key
        #: Entries with longer paths are in this catalog, if it is the one entered last.
        self.floor = len(ref.mount) if ref.mount else -1
        self.listing = Lines(scratch)
        self.cases = Lines(scratch)
        self.given = self.files = self.dirs = self.links = self.size = 0
        # Most entries match the same lines as the one before.
        self.lines: tuple[int, ...] = ()
        self.run = 0
        self.exact = -1
        self.matched: dict[tuple[int, ...], int] = {}
        self.left_out: dict[str, int] = {}
        self.variables: dict[bytes, bytes | None] = {}
        self.children: list[Child] = []
        self.inside = Totals()
        #: Ordinals of own files: from, up to but not including.
        self.ranges: list[tuple[int, int]] = []

    def end_run(self, lines: tuple[int, ...], exact: int) -> None:
        self.matched[self.lines] = self.matched.get(self.lines, 0) + self.run
        self.lines, self.run, self.exact = lines, 0, exact


class Collector:
    """Follows a walk: a :class:`~shrinkwrap.snapshot.walk.Borders`, and more.

    For each entry comes :meth:`given` (the walk's ``count``), then :meth:`special` for what is left out or changed of
    it (the report's ``told``), then :meth:`add` if it is shown. A walk that is pruned must not be summed up.

    Args:
        matcher: that of the walk.
        options: see :class:`~shrinkwrap.record.summary.Keys`.
        variables: for link targets, by name.
        catalogs: those of the walk.
        folder: for scratch files.
        tell: told of a directory that comes out empty for want of a star, with the line's text.
        reuse: gives the summary of a catalog that is to be passed by, by its key; None: go into it.

    Attributes:
        files: files so far: the ordinal of the next.
        root: key of the root's summary.
        total: the numbers of all, when the walk is done.
    """

    def __init__(
        self,
        matcher: Matcher,
        options: bytes,
        variables: Mapping[bytes, bytes],
        catalogs: CatalogStore,
        folder: str,
        *,
        reuse: Callable[[str], Summary | None] | None = None,
        tell: Callable[[bytes, str], None] = lambda path, line: None,
    ) -> None:
        self._spec = matcher.spec
        self._keys = Keys(matcher, options)
        self._values = variables
        self._catalogs = catalogs
        self._reuse = reuse
        self._tell = tell
        self._scratch = Scratch(folder)
        self._done = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        self._made = 0
        self._stack: list[_Level | Summary] = []
        self._top: _Level | None = None
        # The catalog of the entry that was given last.
        self._at: _Level | None = None
        self._floor = -1
        self._exact = frozenset(number for number, line in enumerate(self._spec.lines) if line.mode is Mode.EXACT)
        # A directory that a line names without `/*`: the entry that comes next tells whether it comes out empty.
        self._named: tuple[bytes, int, _Level] | None = None
        self._start = 0
        self.files = 0
        self.root = ""
        self.total = Totals()

    def close(self) -> None:
        """Idempotent."""
        self._scratch.close()
        self._done.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- borders -----------------------------------------------------------------------------------------------------

    def enter(self, ref: NestedRef, state: State | None) -> int | None:
        """See :class:`~shrinkwrap.snapshot.walk.Borders`."""
        key = self._keys.key(ref, state)
        if not self._stack:
            self.root = key
        known = None if self._reuse is None else self._reuse(key)
        self._end_range()
        if len(self._stack) >= _WAITING and self._top is not None:
            self._top.listing.flush()
            self._top.cases.flush()
        self._stack.append(_Level(ref, key, self._scratch) if known is None else known)
        self._look()
        return None if known is None else known.total.given

    def leave(self) -> None:
        """See :class:`~shrinkwrap.snapshot.walk.Borders`."""
        self._end_range()
        level = self._stack.pop()
        if isinstance(level, Summary):
            total, mount = level.total, level.mount
            if total.given:
                self._follow(mount + b"/")
        else:
            if self._named is not None and self._named[2] is level:
                self._follow(None)
            total, mount = self._finished(level), level.ref.mount
        self._look()
        above = self._top
        if above is None:
            self.total = total
        else:
            # Directories that waited for something in the child have come out by now: what is here comes before it.
            above.children.append(Child(mount, level.key, above.listing.raw, above.cases.raw))
            above.inside.add(total)

    def _look(self) -> None:
        """What is on top of the stack has changed."""
        last = self._stack[-1] if self._stack else None
        self._top = last if isinstance(last, _Level) else None
        if self._top is None and len(self._stack) > 1:
            # One that is passed by: entries that still come are of those above it.
            above = self._stack[-2]
            self._top = above if isinstance(above, _Level) else None
        self._floor = -1 if self._top is None else self._top.floor

    def _end_range(self) -> None:
        if self._top is not None and self.files > self._start:
            self._top.ranges.append((self._start, self.files))
        self._start = self.files

    # -- entries -----------------------------------------------------------------------------------------------------

    def given(self, lines: tuple[int, ...], entry: Entry) -> None:
        """The walk gives an entry that these lines of the specification match."""
        path = entry.path
        level = self._top if len(path) > self._floor else self._owner(path)
        assert level is not None
        self._at = level
        level.given += 1
        if lines is not level.lines:
            exact = next((number for number in lines if number in self._exact), -1) if self._exact else -1
            level.end_run(lines, exact)
        level.run += 1
        if self._named is not None:
            self._follow(path)
        if level.exact >= 0 and entry.is_dir:
            self._named = (path, level.exact, level)
        if entry.target and entry.is_link:
            expand(entry.target, self._values, level.variables)

    def _owner(self, path: bytes) -> _Level:
        """The catalog of a directory that waited for something below it, maybe in a catalog inside."""
        return next(level for level in reversed(self._stack) if isinstance(level, _Level) and len(path) > level.floor)

    def add(self, node: Node, line: bytes) -> int:
        """The entry that was given last is shown.

        Args:
            line: of the listing (:func:`~shrinkwrap.record.listing.entry_line`).

        Returns:
            of a file its ordinal in the stream, for :class:`~shrinkwrap.record.sums.Sums`; else -1.
        """
        level = self._at
        assert level is not None
        level.listing.add(line)
        content = node.content
        if content is not None:
            level.files += 1
            level.size += content.size
            ordinal = self.files
            self.files = ordinal + 1
            return ordinal
        if node.kind == DIR:
            level.dirs += 1
        elif node.kind == LINK:
            level.links += 1
        return -1

    def special(self, what: str, path: bytes, detail: str = "") -> None:
        """Something is left out or shown differently. What depends on the destination is not noted."""
        if self._at is not None and what in COUNTS:
            self._note(self._at, what, path, detail)

    def _note(self, level: _Level, what: str, path: bytes, detail: str) -> None:
        level.left_out[what] = level.left_out.get(what, 0) + 1
        row = json.dumps((what, path.decode("utf-8", "surrogateescape"), detail)).encode() + b"\n"
        if level.cases.raw + len(row) <= CASES_BYTES:
            level.cases.add(row)

    def _follow(self, path: bytes | None) -> None:
        """What comes after the directory that was named last."""
        if self._named is not None:
            named, number, level = self._named
            self._named = None
            if (path is None or not path.startswith(named + b"/")) and self._has_children(level, named):
                raw = self._spec.lines[number].raw.decode("utf-8", "surrogateescape")
                self._note(level, _NO_STAR, named, raw)
                self._tell(named, raw)

    def _has_children(self, level: _Level, path: bytes) -> bool:
        """Whether a directory of a catalog that the walk is in has entries that a listing shows."""
        catalog = self._catalogs.open(level.ref)
        try:
            return path in catalog.nested or any(not entry.is_hidden for entry in catalog.children(path))
        finally:
            self._catalogs.release(catalog)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _finished(self, level: _Level) -> Totals:
        """A catalog is done: all of it but its checksums goes to the scratch files. Its numbers, and those inside."""
        level.end_run((), -1)
        matched: dict[bytes, int] = {}
        for lines, number in level.matched.items():
            for line in lines:
                raw = self._spec.lines[line].raw
                matched[raw] = matched.get(raw, 0) + number
        counts = {"files": level.files, "dirs": level.dirs, "symlinks": level.links, "bytes": level.size}
        own = Totals(
            level.given,
            level.files + level.dirs + level.links,
            {**counts, "catalogs": 1},
            level.left_out,
            matched,
            level.variables,
        )
        total = Totals()
        total.add(own)
        total.add(level.inside)
        level.listing.flush()
        level.cases.flush()
        meta = meta_of(str(level.ref.digest), level.ref.mount, own, total, level.children)
        record: Any = (
            level.key,
            len(meta),
            self._scratch.deflated(meta),
            level.listing.raw,
            level.listing.frames,
            level.cases.raw,
            level.cases.frames,
            level.files,
            level.ranges,
        )
        data = marshal.dumps(record)
        self._done.write(_LENGTH.pack(len(data)) + data)
        self._made += 1
        return total

    def finish(self, sums: Sums, write: Write, known: SummaryStore | None = None) -> str:
        """Write the summary of each catalog that the walk went into, those inside others first.

        Args:
            sums: of the files of this walk.
            known: summaries of earlier runs: checksums that this run lacks are taken from there.

        Returns:
            the root's key.

        Raises:
            OSError: a scratch file; what ``write`` raises.
        """
        self._done.seek(0)
        for _ in range(self._made):
            (length,) = _LENGTH.unpack(self._done.read(_LENGTH.size))
            record = marshal.loads(self._done.read(length))  # noqa: S302 - written by this process
            # One that nobody would read is none: then its catalog is read again.
            if record[1] <= META_BYTES:
                write(file_name(record[0]), self._file(record, sums, known))
        return self.root

    def _file(self, record: Any, sums: Sums, known: SummaryStore | None) -> Iterator[bytes]:
        check = xxhash.xxh3_128()
        for piece in self._body(record, sums, known):
            check.update(piece)
            yield piece
        yield check.digest()

    def _body(self, record: Any, sums: Sums, known: SummaryStore | None) -> Iterator[bytes]:
        key, meta_raw, meta, listing_raw, listing, cases_raw, cases, files, ranges = record
        yield HEADER.pack(
            MAGIC,
            bytes.fromhex(key),
            meta[1],
            meta_raw,
            sum(place[1] for place in listing),
            listing_raw,
            sum(place[1] for place in cases),
            cases_raw,
            files * WIDTH,
        )
        for place in (meta, *listing, *cases):
            yield self._scratch.read(place)
        old = None if known is None else known.get(key)
        earlier = iter(()) if known is None or old is None else _readable(known.checksums(old))
        for start, end in ranges:
            for position in range(start, end, _SUMS_AT_ONCE):
                piece = sums.range(position, min(end, position + _SUMS_AT_ONCE))
                yield piece if old is None else _filled(piece, earlier)


def _readable(checksums: Iterator[bytes]) -> Iterator[bytes]:
    """As many as can be read."""
    with suppress(CorruptObject):
        yield from checksums


def _filled(sums: bytes, earlier: Iterator[bytes]) -> bytes:
    """Checksums, with those of an earlier run in place of unknown ones."""
    out = bytearray(sums)
    for position in range(0, len(out), WIDTH):
        value = next(earlier, UNKNOWN)
        if out[position : position + WIDTH] == UNKNOWN:
            out[position : position + WIDTH] = value
    return bytes(out)
