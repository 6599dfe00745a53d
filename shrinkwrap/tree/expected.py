"""What a tree has to show, by its record: from the kept catalogs; summaries stand in for those that are lost."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any, Final

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.digest import parse_digest
from shrinkwrap.cvmfs.entry import Entry, show
from shrinkwrap.cvmfs.xattr import pack_xattrs
from shrinkwrap.errors import CorruptObject, MissingObject
from shrinkwrap.record.listing import ListingDigest, entry_line
from shrinkwrap.record.record import Record
from shrinkwrap.record.summaries import SummaryStore
from shrinkwrap.record.summary import Keys, Summary
from shrinkwrap.record.sums import UNKNOWN
from shrinkwrap.snapshot.catalogs import CatalogStore
from shrinkwrap.snapshot.view import FILE, LINK, Content, Node, Report, View
from shrinkwrap.snapshot.walk import Walk
from shrinkwrap.spec.grammar import parse
from shrinkwrap.spec.matcher import Matcher, State
from shrinkwrap.tree import marker
from shrinkwrap.tree.findings import LISTED, Verified
from shrinkwrap.tree.known import encode
from shrinkwrap.tree.summing import options_of

_NS: Final = 10**9
_TYPES: Final = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "symlink": stat.S_IFLNK}
_BASE64: Final = "#b64"
#: What JSON of another shape raises when it is taken apart.
_UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, CorruptObject)


class Expected:
    """The nodes of a recorded export, in the order of snapshots. To be iterated once.

    A kept catalog that is missing or broken is told of as a difference; what is mounted there comes from its summary.
    If that is lost too, nobody knows what belongs there.

    Args:
        record: of the export.
        catalogs: the kept ones; nothing is fetched.
        summaries: beside them.
        verified: told of what is missing.
        listed: compose the listing, too.
        gaps: files that are left out because no server had their objects; None: there are some, nobody knows which.

    Attributes:
        sum: checksum of the file that was given last; empty if it is not known.
        unknown: where a catalog is mounted of which nothing is known, not even a summary; the last one that the
            stream came to.
        catalogs: that were read, their digests right; ``lost``: mounts of the first that could not be, and why.
        listing: its SHA-256 at the end; empty if something is unknown, or it was not composed.
        complete: so far nothing is unknown.
        derived: a summary is missing or broken: the next export makes it anew.

    Raises (while it is iterated):
        CorruptObject: a catalog or a summary says what cannot be. SpecError: the record's specification is none.
    """

    def __init__(
        self,
        record: Record,
        catalogs: CatalogStore,
        summaries: SummaryStore,
        verified: Verified,
        *,
        listed: bool,
        gaps: Collection[bytes] | None = (),
    ) -> None:
        self._record = record
        self._gaps: Collection[bytes] = gaps or ()
        # Checksums stand for one file after the other: which of them are left out has to be known.
        self._summed = gaps is not None
        self._catalogs = catalogs
        self._summaries = summaries
        self._verified = verified
        goal = record.goal
        self._matcher = Matcher(parse(goal.spec, file="<record>", rules=goal.rules))
        self._keys = Keys(self._matcher, options_of(goal))
        values = {encode(name): encode(value) for name, value in record.variables.items() if value is not None}
        self._view = View(goal.view, values, Report())
        self._digest = ListingDigest() if listed else None
        #: Checksums of the catalogs that the walk is in; the key of a summary in place of one.
        self._levels: list[tuple[Iterator[bytes], str]] = []
        self._instead: list[str] = []
        self.sum = b""
        self.unknown: bytes | None = None
        self.complete = True
        self.catalogs = 0
        self.lost: list[tuple[bytes, str]] = []
        self.derived = False

    @property
    def listing(self) -> str:
        return self._digest.hexdigest() if self._digest is not None and self.complete else ""

    def __iter__(self) -> Iterator[Node]:
        nodes = self._nodes()
        return marker.with_marker(nodes) if self._record.goal.marker else nodes

    def _nodes(self) -> Iterator[Node]:
        for entry in Walk(self._catalogs, self._record.goal.root, self._matcher, borders=self):
            if self._instead:
                yield from self._from_summaries()
            node = self._view.node(entry)
            if node is None or (node.kind == FILE and node.path in self._gaps):
                continue
            if self._digest is not None:
                self._digest.add_line(entry_line(entry, node.target))
            if node.kind == FILE:
                found = next(self._levels[-1][0], UNKNOWN) if self._levels else UNKNOWN
                self.sum = b"" if found == UNKNOWN else found
            yield node
        yield from self._from_summaries()

    # -- borders -----------------------------------------------------------------------------------------------------

    def enter(self, ref: NestedRef, state: State | None) -> int | None:
        """See :class:`~shrinkwrap.snapshot.walk.Borders`."""
        key = self._keys.key(ref, state)
        summary = self._summaries.get(key)
        if summary is None:
            self.derived = True
        try:
            self._catalogs.release(self._catalogs.open(ref))
        except (MissingObject, CorruptObject) as exc:
            whole = summary is not None and self._summaries.whole(key)
            self._verified.add("catalog", ref.mount, found=exc.message)
            if len(self.lost) < LISTED:
                self.lost.append((ref.mount, exc.message))
            self._levels.append((iter(()), key if whole else ""))
            if summary is not None and whole:
                self._verified.note(f"{show(ref.mount)}: its catalog is lost, and its summary stands in for it")
                return summary.total.given
            self._verified.note(f"{show(ref.mount)}: what belongs there is not known, catalog and summary are lost")
            self.unknown = ref.mount
            self.complete = False
            return 1
        self.catalogs += 1
        self._levels.append((iter(()) if summary is None or not self._summed else self._checksums(summary), ""))
        return None

    def leave(self) -> None:
        """See :class:`~shrinkwrap.snapshot.walk.Borders`."""
        _, key = self._levels.pop()
        if key:
            self._instead.append(key)

    def _checksums(self, summary: Summary) -> Iterator[bytes]:
        with suppress(CorruptObject):
            yield from self._summaries.checksums(summary)

    # -- summaries ---------------------------------------------------------------------------------------------------

    def _from_summaries(self) -> Iterator[Node]:
        """What lies in catalogs that are lost."""
        for key in self._instead:
            for row, value in self._summaries.rows(key):
                if self._digest is not None:
                    self._digest.add_line(row)
                node = self._of_row(row)
                if node is not None:
                    if node.kind == FILE:
                        self.sum = value or b""
                    yield node
        self._instead.clear()

    def _of_row(self, line: bytes) -> Node | None:
        try:
            row = json.loads(line)
            entry = _entry(row)
            node = self._view.node(entry)
            if node is not None and node.kind == LINK:
                # Its variables are expanded already.
                return node._replace(target=_raw(row, "target"))
            return node if node is None or node.kind != FILE else node._replace(content=_content(row, entry))
        except _UNREADABLE:
            raise CorruptObject(
                f"a summary of {self._record.goal.fqrn} has a line that is none: {line[:80]!r}",
                hint="run the export again with --repair: it makes summaries anew",
            ) from None


def _entry(row: dict[str, Any]) -> Entry:
    """The entry that a line of a listing was made of, as far as a tree shows it. Raises one of ``_UNREADABLE``."""
    path = _raw(row, "path")
    path = b"" if path == b"/" else path
    pairs = [
        (name.removesuffix(_BASE64).encode(), base64.b64decode(value, validate=True))
        if name.endswith(_BASE64)
        else (name.encode(), value.encode())
        for name, value in row.get("xattrs", {}).items()
    ]
    pairs += [(base64.b64decode(name), base64.b64decode(value)) for name, value in row.get("xattrs_b64", ())]
    return Entry(
        path,
        path.rpartition(b"/")[2],
        _TYPES[row["type"]] | int(row["mode"], 8) & 0o7777,
        int(row["size"]),
        int(row["mtime"]) * _NS + int(row["mtime_ns"]),
        int(row["uid"]),
        int(row["gid"]),
        0,
        bytes(20),
        b"-",
        1,
        pack_xattrs(pairs),
        (),
    )


def _content(row: dict[str, Any], entry: Entry) -> Content:
    """Without the list of chunks, which a listing does not have."""
    kind = "n" if row["compression"] == "none" else "z"
    text = row["hash"] if "chunks_hash" not in row else row["chunks_hash"]
    if "chunks_hash" in row:
        kind = "c" + kind
    external = "external" in row
    return Content(parse_digest(str(text)), "x" + kind if external else kind, entry.size, (), None, None)


def _raw(row: dict[str, Any], key: str) -> bytes:
    """The bytes of a text of a listing."""
    encoded = row.get(f"{key}_b64")
    return bytes(row[key].encode()) if encoded is None else base64.b64decode(encoded, validate=True)
