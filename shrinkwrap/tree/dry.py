"""What an export would do, without doing any of it (docs/dry-run.md).

The same head, catalogs, streams and comparisons as those of an export; catalogs that are not kept go to a temporary
folder. Of the destination nothing changes, no time stamp either.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Final

from shrinkwrap.cvmfs.authz import refuse_protected
from shrinkwrap.errors import CorruptObject, DestinationError, UsageError
from shrinkwrap.fetch.source import open_source
from shrinkwrap.record.record import Record
from shrinkwrap.record.statement import STATEMENT_BYTES, Statement
from shrinkwrap.snapshot.catalogs import CatalogStore, ObjectKeeper
from shrinkwrap.snapshot.keep import KeepAbove, KeepFolder
from shrinkwrap.snapshot.merge import merge
from shrinkwrap.snapshot.view import DIR, FILE, Node, View
from shrinkwrap.snapshot.walk import Walk, bring_catalogs
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.tree.accounts import STATEMENT
from shrinkwrap.tree.aim import as_recorded, check_request, find_snapshot, goal_of, nodes, refuse, tally
from shrinkwrap.tree.base import Base, explain
from shrinkwrap.tree.before import Before, before, namer
from shrinkwrap.tree.beneath import DIRECTORY
from shrinkwrap.tree.disk import DiskWalk, Names
from shrinkwrap.tree.foresight import Foresight
from shrinkwrap.tree.intents import doubtful_since
from shrinkwrap.tree.known import Known, known, nothing_new
from shrinkwrap.tree.lines import LineCounts
from shrinkwrap.tree.marker import MARKER, with_marker
from shrinkwrap.tree.moving import NotHereError
from shrinkwrap.tree.place import Check, mode_of
from shrinkwrap.tree.probe import Abilities, probe_unnamed
from shrinkwrap.tree.request import ExportRequest, ExportResult, Hooks
from shrinkwrap.tree.snapshots import beside, current, leave_to_readers, refuse_less, shows
from shrinkwrap.tree.storage import place_for

#: Bytes over the network for each byte of a file whose content is stored compressed. Catalogs do not tell them; how it
#: was chosen: docs/dry-run.md.
RATIO: Final = 0.45
#: What a file system is taken for that cannot be tried out without a name in it: ext4 or XFS.
_USUAL: Final = Abilities(True, False, True, -(1 << 31), (1 << 34) - 1, 1)
#: In the order in which people read them.
PLANNED: Final = ("to_fetch", "to_link", "to_make_dirs", "to_replace", "to_touch_dirs", "to_remove")


def dry_run(request: ExportRequest, hooks: Hooks | None = None) -> ExportResult:
    """What an export of this request would do now.

    Returns:
        ``counts`` has those of an export that depend on snapshot and specification (files, dirs, symlinks, bytes,
        catalogs), and:

        - ``to_fetch``: contents that the store lacks, each once;
        - ``to_link``: files and links at new paths; ``to_make_dirs``: new directories;
        - ``to_replace``: paths whose content, metadata, target or kind changes; ``to_touch_dirs``: directories of which
          only metadata does;
        - ``to_remove``: paths that go, but for those below a directory that something else replaces.

        ``bytes``: ``to_fetch`` as files, exactly; ``download``, an estimate of what comes over the network for them.
        ``reason``: ``dry-run``, or ``unchanged`` if nothing is new.

    Raises:
        ShrinkwrapError: what an export would end with before it touches anything.
    """
    if request.listing:
        raise UsageError("--dry-run writes nothing, --listing neither", hint="leave out one of them")
    if request.adopt:
        raise UsageError("--dry-run cannot foresee what --adopt finds to be good", hint="leave out one of them")
    check_request(request)
    hooks = hooks or Hooks()
    if not request.switch or request.snapshot:
        return _look(beside(request, look=True), hooks)
    top = os.path.realpath(request.dest)
    now = current(top)
    if now is not None and shows(os.path.join(top, now), request.source.fqrn):
        with suppress(NotHereError):
            return _look(beside(replace(request, snapshot=now), look=True), hooks, as_it_is=True)
    # How it would be called is not known before the head is, and decides nothing.
    name = next(name for name in (f"next{number or ''}" for number in count()) if not os.path.lexists(f"{top}/{name}"))
    result = _look(beside(replace(request, snapshot=name), look=True), hooks)
    result.dest, result.snapshot = top, ""
    return result


def _look(request: ExportRequest, hooks: Hooks, *, as_it_is: bool = False) -> ExportResult:
    """The dry run of one destination. Raises NotHereError with ``as_it_is`` if something is new."""
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="shrinkwrap-"))
        try:
            return _Dry(request, hooks, scratch, stack).go(as_it_is=as_it_is)
        except OSError as exc:
            raise explain(exc, request.dest) from exc


class _Dry:
    def __init__(self, request: ExportRequest, hooks: Hooks, scratch: str, stack: ExitStack) -> None:
        self.request = request
        self.hooks = hooks
        self.scratch = scratch
        self.stack = stack
        self.fqrn = request.source.fqrn
        path = os.path.realpath(request.dest)
        place, store = path, request.store
        if not os.path.lexists(path):
            # What is not there is an empty folder, elsewhere.
            place = os.path.join(scratch, "destination")
            os.mkdir(place)
            store = place_for(path, request.store)
        self.base = Base(place, wait=request.wait, look=True, store=store)
        stack.callback(self.base.close)
        self.result = ExportResult(self.fqrn, path, reason="dry-run", dry_run=True, snapshot=request.snapshot)
        self.result.counts.update(dict.fromkeys(PLANNED, 0))
        self.abilities = self._abilities(path, store)
        self.result.abilities = self.abilities.line()
        mode = mode_of(request.link_mode, hardlinks=self.abilities.hardlinks, reflinks=self.abilities.reflinks)
        if mode != request.link_mode:
            self.notice(f"{path}: no {request.link_mode}s from the store are possible there, using {mode}")

    def notice(self, line: str) -> None:
        self.result.notices.append(line)
        self.hooks.notice(line)

    def go(self, *, as_it_is: bool) -> ExportResult:
        request, base, result = self.request, self.base, self.result
        there = known(base, self.fqrn, repair=request.repair)

        self.hooks.phase("head")
        source = open_source(request.source, self.notice)
        self.stack.callback(source.close)
        keeper = ObjectKeeper(source, self._keep())
        revision, _ = find_snapshot(
            request,
            base,
            source,
            keeper,
            scratch=self.scratch,
            notice=self.notice,
            remember=lambda accepted: None,
        )
        goal = goal_of(request, revision, self._link_mode(there))
        result.root_hash, result.revision = goal.root_hash, revision.revision
        result.timestamp, result.tag = revision.timestamp, revision.tag
        if request.switch and not as_it_is:
            refuse_less(request.among, current(request.among), self.result.dest, self.fqrn)
        look_closer = request.repair or request.strict
        if there.record is not None and not look_closer and nothing_new(there, goal, request.variables):
            return self._unchanged(there.record)
        if as_it_is:
            raise NotHereError(goal, revision.revision)
        leave_to_readers(self.result.dest, there, goal, request.variables)

        self.hooks.phase("catalogs")
        catalogs = CatalogStore(keeper, self.scratch)
        self.stack.callback(catalogs.close)
        root = catalogs.open(goal.root)
        refuse_protected(self.fqrn, root.properties)
        catalogs.release(root)
        matcher = Matcher(request.spec)
        result.counts["catalogs"], entries = bring_catalogs(catalogs, goal.root, matcher)
        self.hooks.expect(entries)

        own = os.geteuid() == 0
        foresight = Foresight(
            base,
            os.path.join(self.scratch, "notes"),
            since=doubtful_since(base),
            check=Check(self.abilities, own, goal.view.share_mtime) if request.repair else None,
        )
        self.stack.callback(foresight.close)
        old = before(
            base,
            there,
            goal,
            catalogs,
            foresight,
            self.abilities,
            repair=request.repair,
            own=own,
            notice=self.notice,
        )
        self.hooks.phase("compare")
        lines = LineCounts(request.spec)
        walk = Walk(catalogs, goal.root, matcher, notice=self.notice, count=lines)
        new = nodes(walk, View(goal.view, request.variables, result.report))
        self._follow(old, with_marker(new) if goal.marker else new, namer(goal), foresight)
        lines.report_to(result.report, catalogs, goal.root)
        result.lines = lines.to_json()
        if isinstance(old.walk, DiskWalk) and old.walk.closed:
            self.notice(
                f"{old.walk.closed} directories of the tree may not be entered by their owner: not looked into, what is"
                " in them counts as new"
            )
        lacking = foresight.lacking()
        result.counts["to_fetch"] = lacking.number
        result.bytes["to_fetch"] = lacking.size
        result.bytes["download"] = lacking.size - lacking.packed + round(lacking.packed * RATIO)
        if request.strict:
            refuse([*request.spec.warnings, *result.warnings()])
        return result

    def _unchanged(self, record: Record) -> ExportResult:
        self.result.reason = "unchanged"
        as_recorded(self.result, record, self.request.spec)
        self.result.bytes.update(to_fetch=0, download=0)
        return self.result

    def _follow(self, old: Before, new: Iterable[Node], names: Names, foresight: Foresight) -> None:
        """Count what :class:`~shrinkwrap.tree.update.Update` would do on the same way."""
        counts = self.result.counts
        for item, node in merge(old.stream, new):
            if node is None:
                counts["to_remove"] += 1
                continue
            name = names(node) if node.kind == FILE else ""
            if item is None:
                what = "to_make_dirs" if node.kind == DIR else "to_link"
            elif DIR in (item.kind, node.kind) and item.kind != node.kind:
                what = "to_replace"
                if item.kind == DIR:
                    old.walk.prune()
            else:
                # On the disk a marker is a file like others.
                alike = item.kind == node.kind or (item.kind == FILE and node.kind == MARKER)
                what = "to_touch_dirs" if node.kind == DIR else "to_replace"
                if alike and old.comparer.same(item, node, name):
                    what = ""
            if what:
                counts[what] += 1
                if name:
                    foresight.want(name, node)
            if tally(node, counts):
                self.hooks.node(node)

    # -- the destination ---------------------------------------------------------------------------------------------

    def _abilities(self, path: str, store: str) -> Abilities:
        """What the file system can do, as far as that shows without changing anything.

        Raises:
            OSError, DestinationError: nothing can be made there.
        """
        stored = self.base.store.path if self.base.has_store else os.path.realpath(store) if store else ""
        place = path
        if os.path.isdir(os.path.join(path, ".data")):
            place = os.path.join(path, ".data")
        with _opened(place) as folder, _opened(stored or place) as whence:
            found = probe_unnamed(folder, whence)
        if found is None:
            self.notice(f"{place}: the file system cannot be tried out without writing: taken for a usual one")
        return found or _USUAL

    def _link_mode(self, there: Known) -> str:
        """How files would be linked: as the last run had to, if it was asked for the same."""
        wish = self.request.link_mode
        record = there.record
        data = self.base.read_file(self.base.provenance(self.fqrn) + STATEMENT, STATEMENT_BYTES)
        if record is not None and data is not None:
            try:
                asked = Statement.from_bytes(data).options.link_mode
            except CorruptObject:
                asked = ""
            if asked == wish:
                return record.goal.link_mode
        return mode_of(wish, hardlinks=self.abilities.hardlinks, reflinks=self.abilities.reflinks)

    def _keep(self) -> KeepAbove:
        """Catalogs kept at the destination, or beside it, and a temporary folder for others."""
        folder = os.path.join(self.scratch, "objects")
        os.mkdir(folder)
        kept = KeepFolder(os.path.join(self.base.path, ".provenance", ".objects"), self.scratch)
        return KeepAbove(kept, KeepFolder(folder, self.scratch), functools.cache(self.base.kept_beside))


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """The folder, or the nearest above it that is there."""
    place = path
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    try:
        folder = os.open(place, DIRECTORY)
    except NotADirectoryError:
        raise DestinationError(
            f"{path}: it, or something on the way to it, is not a folder", hint="choose another destination"
        ) from None
    try:
        yield folder
    finally:
        os.close(folder)
