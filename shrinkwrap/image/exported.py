"""An image's part from an export: content from the store, metadata from the kept catalogs (DESIGN promise 9).

What the disk shows of a tree made without root (owners, modes, lost attributes) is never asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Final

from shrinkwrap import __version__
from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.errors import CorruptObject, DestinationError, MissingObject
from shrinkwrap.fetch.source import SourceConfig, open_source
from shrinkwrap.image.pouring import Build, Gathered, Pouring, Stored, nodes_of, view_of
from shrinkwrap.image.request import ExportedPart
from shrinkwrap.record.record import Record
from shrinkwrap.record.statement import STATEMENT_BYTES, Options, Statement
from shrinkwrap.record.summaries import SummaryStore
from shrinkwrap.record.summary import Keys
from shrinkwrap.record.sums import UNKNOWN
from shrinkwrap.snapshot.catalogs import CatalogStore, ObjectKeeper
from shrinkwrap.snapshot.view import FILE, Node, Report, View, object_name
from shrinkwrap.snapshot.walk import Walk, bring_catalogs
from shrinkwrap.spec.grammar import parse
from shrinkwrap.spec.matcher import Matcher, State
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.known import encode, gaps_in
from shrinkwrap.tree.records import Records, read_gaps
from shrinkwrap.tree.summing import open_summaries, options_of
from shrinkwrap.tree.verify import ReadOnlyKeep, recorded

#: Counts of a record that tell of lines of the specification.
_OF_LINES: Final = ("line_without_match", "directory_without_star")


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is kept of an export."""

    record: Record
    statement: Statement
    gaps: dict[bytes, str]


def _kept(base: Base, fqrn: str) -> _Kept:
    """Raises DestinationError: there is no finished export of that repository."""
    with Records(base.path) as records:
        try:
            kept = records.kept(fqrn)
            found = records.read(fqrn, "statement.json", STATEMENT_BYTES)
            gaps = read_gaps(records, fqrn) if kept.record is not None and gaps_in(kept.record) else {}
        except FileNotFoundError:
            there = ", ".join(records.names()) or "none"
            raise DestinationError(
                f"{base.path}: no export of {fqrn} is there", hint=f"there are records of: {there}"
            ) from None
    if kept.intent is not None:
        raise DestinationError(
            f"{base.path}: an export of {fqrn} is not finished: the tree may be anything",
            hint="run the export again, then make the image",
        )
    if kept.record is None or kept.record.goal.fqrn != fqrn or found is None:
        raise DestinationError(
            f"{base.path}: there is no record of {fqrn} that can be read", hint="run the export again with --repair"
        )
    return _Kept(kept.record, Statement.from_bytes(found[0]), gaps)


class _Sums:
    """Checksums of files, in the order of a walk: borders of it.

    Args:
        keys: names the summaries of the walk's catalogs.
    """

    def __init__(self, summaries: SummaryStore, keys: Keys) -> None:
        self._summaries = summaries
        self._keys = keys
        self._levels: list[Iterator[bytes]] = []

    def enter(self, ref: NestedRef, state: State | None) -> int | None:
        """See :class:`~shrinkwrap.snapshot.walk.Borders`."""
        summary = self._summaries.get(self._keys.key(ref, state))
        self._levels.append(iter(()) if summary is None else self._summaries.checksums(summary))
        return None

    def leave(self) -> None:
        """See :class:`~shrinkwrap.snapshot.walk.Borders`."""
        self._levels.pop()

    def following(self) -> bytes:
        """The checksum of the file that comes out now; empty if it is not known."""
        found = UNKNOWN
        with suppress(CorruptObject):
            found = next(self._levels[-1], UNKNOWN)
        return b"" if found == UNKNOWN else found


class _Names:
    """Finds the stored files of an export."""

    def __init__(self, record: Record, sum_of: Callable[[], bytes]) -> None:
        goal = record.goal
        values = {encode(name): encode(value) for name, value in record.variables.items() if value is not None}
        self._view = View(goal.view, values, Report())
        self._share_mtime = goal.view.share_mtime
        self._sum_of = sum_of

    def __call__(self, entry: Entry) -> tuple[str, bytes]:
        node = self._view.node(entry)
        assert node is not None
        assert node.content is not None
        return object_name(node.content, node, share_mtime=self._share_mtime), self._sum_of()


def open_export(path: str) -> Base:
    """A destination to take from; runs are kept out as long as it is open. Raises DestinationError, LockedError."""
    base = Base(path, look=True)
    if not base.has_store:
        base.close()
        raise DestinationError(f"{path}: no export is there", hint="name the destination of an export")
    return base


def parts_of(dest: str, names: Sequence[str] = (), *, claim: bool = False) -> list[ExportedPart]:
    """The repositories of a destination, or some of them. Raises DestinationError."""
    there = recorded(dest)
    missing = next((name for name in names if name not in there), "")
    if missing:
        raise DestinationError(f"{dest}: no export of {missing} is there", hint=f"there are: {', '.join(there)}")
    return [ExportedPart(dest, name, claim) for name in there if not names or name in names]


def gather_export(build: Build, part: ExportedPart) -> Gathered:
    """Bring one repository of an image from an export of it.

    Raises:
        DestinationError: there is none, or it is not finished. MissingObject, CorruptObject: it is not complete.
        ShrinkwrapError: see :mod:`shrinkwrap.errors`. OSError.
    """
    build.hooks.phase("catalogs")
    with ExitStack() as stack:
        base = open_export(part.dest)
        stack.callback(base.close)
        kept = _kept(base, part.fqrn)
        record, goal = kept.record, kept.record.goal
        os.makedirs(build.partial.catalogs, exist_ok=True)
        keeper = ObjectKeeper(None, ReadOnlyKeep(os.path.join(base.path, ".provenance", ".objects")))
        catalogs = CatalogStore(keeper, build.partial.catalogs)
        stack.callback(catalogs.close)
        matcher = Matcher(parse(goal.spec, file="<record>", rules=goal.rules))
        number, entries = bring_catalogs(catalogs, goal.root, matcher)
        build.hooks.expect(entries)
        sums = _Sums(open_summaries(base), Keys(matcher, options_of(goal)))
        last = [b""]
        pouring = Pouring(build, part.fqrn, store=base.store.path, stored=_Names(record, lambda: last[0]))
        result = pouring.result
        build.result.parts.append(result)
        result.root_hash, result.revision = goal.root_hash, record.revision
        result.timestamp, result.tag = record.timestamp, record.tag
        result.counts["catalogs"] = number
        values = {encode(name): encode(value) for name, value in record.variables.items() if value is not None}
        asked = kept.statement.options
        options = view_of(
            claim=part.claim,
            uid_map=asked.uid_map,
            gid_map=asked.gid_map,
            world_readable=asked.world_readable,
            keep_suid=build.request.keep_suid,
        )
        walk = Walk(catalogs, goal.root, matcher, notice=pouring.notice, borders=sums)

        def nodes() -> Iterator[tuple[Entry, Node]]:
            for entry, node in nodes_of(iter(walk), options, values, result.report):
                if node.kind == FILE:
                    if entry.path in kept.gaps:
                        result.report.add("missing_object", entry.path, kept.gaps[entry.path])
                        continue
                    last[0] = sums.following()
                yield entry, node

        # Nothing is fetched: what the store lacks is looked for in a folder without any objects.
        config = SourceConfig(part.fqrn, storage=build.partial.catalogs)
        source = open_source(config)
        stack.callback(source.close)
        try:
            pouring.pour(nodes(), source, config, entries)
        except (MissingObject, CorruptObject) as exc:
            raise CorruptObject(
                f"{base.path}: stored files are missing, or not what they were: {exc.message}",
                hint="shrinkwrap verify --content --repair mends the export",
            ) from None
        return Gathered(_stated(build, part, kept, pouring), pouring.mtime_ns)


def _stated(build: Build, part: ExportedPart, kept: _Kept, pouring: Pouring) -> Statement:
    """The statement of the export, with the options that the image is made with."""
    asked = kept.statement.options
    options = Options(
        claim=part.claim,
        keep_suid=build.request.keep_suid,
        world_readable=asked.world_readable,
        uid_map=asked.uid_map,
        gid_map=asked.gid_map,
    )
    return replace(
        kept.statement,
        options=options,
        listing_sha256=pouring.listing.hexdigest(),
        entries=pouring.listing.entries,
        counts={**_foreseen(kept.record), **pouring.result.counts, **pouring.result.report.counts},
        tool=__version__,
    )


def _foreseen(record: Record) -> dict[str, int]:
    """What the specification left unmatched: the walk for the image does not look for that again."""
    return {name: record.counts[name] for name in _OF_LINES if name in record.counts}


def stored_files(path: str, fqrn: str, stack: ExitStack) -> tuple[str, Stored]:
    """The store of an export, and what finds files of a repository in it; for contents that are to be fetched else.

    Args:
        stack: keeps runs out of the destination until it is closed.

    Raises:
        DestinationError: there is no finished export of the repository. LockedError.
    """
    base = open_export(path)
    stack.callback(base.close)
    # Which checksum is whose only a walk over the export's own catalogs tells: contents are proved by their digests.
    return base.store.path, _Names(_kept(base, fqrn).record, bytes)
