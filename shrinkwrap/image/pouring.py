"""From a walk to entries and blocks: what builds from repositories and from exports have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.entry import FLAG_BIND_MOUNTPOINT, FLAG_NESTED_MOUNTPOINT, Entry, show
from shrinkwrap.cvmfs.owners import OwnerMap
from shrinkwrap.engine.dispatch import LOCAL_ITEMS, Dispatcher, Job, workers_for
from shrinkwrap.engine.pool import Processes
from shrinkwrap.engine.work import Failure, Item, Result, Worker
from shrinkwrap.errors import CorruptObject, MissingObject, NetworkError, ShrinkwrapError
from shrinkwrap.fetch.source import SourceConfig
from shrinkwrap.fetch.types import Source
from shrinkwrap.image.entries import ImageEntry
from shrinkwrap.image.keys import item_name, key_of
from shrinkwrap.image.partial import Partial
from shrinkwrap.image.request import ImageRequest, ImageResult
from shrinkwrap.image.rows import Rows
from shrinkwrap.image.segments import SegmentSink, payload
from shrinkwrap.image.squashfs.layout import LONGEST_TARGET
from shrinkwrap.record.listing import ListingDigest, entry_line
from shrinkwrap.record.statement import Statement
from shrinkwrap.snapshot.view import LINK, Node, Report, View, ViewOptions
from shrinkwrap.tree.aim import tally
from shrinkwrap.tree.request import ExportResult, Hooks

#: A batch goes out when it has so many objects or bytes of content: a worker keeps its small objects in memory.
BATCH_ITEMS: Final = 512
BATCH_BYTES: Final = 16 * limits.MIB
_KEPT_FAILURES: Final = 1000
_MOUNTED: Final = FLAG_NESTED_MOUNTPOINT | FLAG_BIND_MOUNTPOINT
_NAMED_FAILURES: Final = 5

#: Gives the name of a file in the store of an export, and the checksum of its content (empty if unknown).
Stored = Callable[[Entry], tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a repository comes to: its statement, and the time of its root."""

    statement: Statement
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Build:
    """What the parts of one build share.

    Attributes:
        request: what is asked for.
        partial: where blocks and records go.
        rows: takes the entries.
        result: of the build; ``hooks``: how to tell of it.
        mounts: takes the paths in the image that catalogs are mounted at.
    """

    request: ImageRequest
    partial: Partial
    rows: Rows
    result: ImageResult
    hooks: Hooks
    mounts: set[bytes] = field(default_factory=set)


class Pouring:
    """Takes the entries of one repository.

    Args:
        build: see there.
        fqrn: the repository.
        store: folder of stored files that contents are looked for in; empty: none.
        stored: of a file, where it lies there.

    Attributes:
        result: counts, and what was left out.
        listing: of the entries.
        mtime_ns: of the repository's root.
    """

    def __init__(self, build: Build, fqrn: str, *, store: str = "", stored: Stored | None = None) -> None:
        self._build = build
        self._store = store
        self._stored = stored
        self.result = ExportResult(fqrn, build.request.output)
        self.listing = ListingDigest()
        self.mtime_ns = 0
        self._top = b"/" + fqrn.encode()
        self._failures: list[Failure] = []
        self._batch: list[Item] = []
        self._batch_bytes = 0

    def notice(self, line: str) -> None:
        """Tell people, once."""
        if line not in self.result.notices:
            self.result.notices.append(line)
            self._build.hooks.notice(line)

    def pour(self, nodes: Iterator[tuple[Entry, Node]], source: Source, config: SourceConfig, expected: int) -> None:
        """Take all entries, and bring the contents that nobody has brought.

        Args:
            source: of contents that are not in the store; ``config``: the same for other processes.
            expected: entries, at most.

        Raises:
            ShrinkwrapError: contents that cannot be had, after all others were brought. OSError.
        """
        hooks = self._build.hooks
        hooks.phase("objects")
        with ExitStack() as stack:
            dispatcher = self._dispatcher(source, config, expected, stack)
            for entry, node in nodes:
                self.listing.add_line(entry_line(entry, node.target))
                self._add(entry, node, dispatcher)
                if tally(node, self.result.counts):
                    hooks.node(node)
            self._give(dispatcher)
            dispatcher.finish()
        if self._failures:
            raise _failed(self._failures)

    # -- entries -----------------------------------------------------------------------------------------------------

    def _add(self, entry: Entry, node: Node, dispatcher: Dispatcher) -> None:
        """An entry of the image, and its content if nobody brings that yet."""
        path, kind, mode, uid, gid, mtime_ns, xattrs, target, content, _ = node
        key, size = b"", len(target)
        if not path:
            self.mtime_ns = mtime_ns
        if not path or entry.flags & _MOUNTED:
            self._build.mounts.add(self._top + path)
        if content is not None:
            size = content.size
            if size:
                name = item_name(content)
                key = key_of(name)
                if self._build.partial.records.want(key):
                    self._build.hooks.want()
                    found = payload(key) if self._stored is None else payload(key, *self._stored(entry))
                    self._batch.append(Item(name, content, path, found))
                    self._batch_bytes += size
                    if len(self._batch) >= BATCH_ITEMS or self._batch_bytes >= BATCH_BYTES:
                        self._give(dispatcher)
        links = entry.links
        link = links >> 32 if links & 0xFFFFFFFF > 1 else 0
        row = ImageEntry(self._top + path, kind, mode, uid, gid, mtime_ns, xattrs, target, size, key, link)
        self._build.rows.add(row)

    # -- objects -----------------------------------------------------------------------------------------------------

    def _dispatcher(self, source: Source, config: SourceConfig, expected: int, stack: ExitStack) -> Dispatcher:
        build = self._build
        request, hooks = build.request, build.hooks
        sink = SegmentSink(build.partial.path, request.recipe, request.trust, self._store)
        opened = sink.open()
        stack.callback(opened.close)
        dispatcher = Dispatcher(
            Worker(source, opened, hooks.objects),
            Job(config, sink),
            workers_for(request.workers),
            lambda number: Processes(number, build.partial.lock),
            self._done,
            progress=hooks.objects,
            notice=self.notice,
            stats=source.stats,
            large=expected >= LOCAL_ITEMS,
        )
        stack.callback(dispatcher.close)
        return dispatcher

    def _give(self, dispatcher: Dispatcher) -> None:
        """Hand the batch out. Each content is wanted once, so nobody has to be kept from it."""
        if self._batch:
            batch, self._batch, self._batch_bytes = self._batch, [], 0
            dispatcher.give(batch, frozenset())

    def _done(self, done: Result) -> None:
        self._build.partial.records.take(done.notes)
        counts, sizes = self._build.result.counts, self._build.result.bytes
        for name, number in (("fetched", done.fetched), *done.counters.items()):
            counts[name] = counts.get(name, 0) + number
        sizes["received"] = sizes.get("received", 0) + done.received
        self._failures.extend(done.failures[: _KEPT_FAILURES - len(self._failures)])


def nodes_of(
    walk: Iterator[Entry], options: ViewOptions, variables: Mapping[bytes, bytes], report: Report
) -> Iterator[tuple[Entry, Node]]:
    """The entries of a walk as they are to come out. Links that the format cannot hold are left out, and reported."""
    view = View(options, variables, report)
    for entry in walk:
        node = view.node(entry)
        if node is None:
            continue
        if node.kind == LINK and len(node.target) > LONGEST_TARGET:
            report.add("link_too_long", entry.path, f"{len(node.target)} bytes")
            continue
        yield entry, node


def view_of(
    *,
    claim: bool,
    uid_map: OwnerMap | None,
    gid_map: OwnerMap | None,
    world_readable: bool,
    keep_suid: bool,
) -> ViewOptions:
    """How entries come out in an image: as the catalogs say, whatever a disk could hold (DESIGN promise 9)."""
    # Owners that a catalog does not know are nobody's choice; they must not depend on who builds.
    return ViewOptions(
        claim=claim,
        uid=os.geteuid() if claim else 0,
        gid=os.getegid() if claim else 0,
        keep_suid=keep_suid,
        uid_map=None if claim else uid_map,
        gid_map=None if claim else gid_map,
        world_readable=world_readable,
    )


def _failed(failures: list[Failure]) -> ShrinkwrapError:
    """What to say of objects that could not be had. The worst kind counts: broken, unreachable, missing."""
    errors = [failure.error for failure in failures]
    kinds: tuple[type[ShrinkwrapError], ...] = (CorruptObject, NetworkError, MissingObject)
    kind = next(kind for kind in kinds if any(isinstance(error, kind) for error in errors))
    named = [f"{show(failure.path)}: {failure.error.message}" for failure in failures[:_NAMED_FAILURES]]
    number = len(failures)
    return kind(
        f"{number} object{'s' if number != 1 else ''} could not be had: {'; '.join(named)}"
        + ("; …" if number > len(named) else ""),
        hint="no image was made, and what came is kept: run the same command again",
    )
