"""One export from beginning to end (DESIGN, phases).

Lock, head, catalogs, intent; objects and new paths, replacements, deletions, final metadata; sync, record.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

from shrinkwrap import __version__
from shrinkwrap.cvmfs.authz import refuse_protected
from shrinkwrap.cvmfs.entry import Entry, show
from shrinkwrap.cvmfs.manifest import Manifest
from shrinkwrap.engine.batches import Batcher
from shrinkwrap.engine.dispatch import LOCAL_ITEMS, Dispatcher, Job, workers_for
from shrinkwrap.engine.pool import Processes
from shrinkwrap.engine.work import Failure, Result, Worker
from shrinkwrap.errors import CorruptObject, MissingObject, NetworkError, ShrinkwrapError
from shrinkwrap.fetch.source import open_source
from shrinkwrap.fetch.types import FetchStats, Source
from shrinkwrap.record.listing import entry_line
from shrinkwrap.record.record import Goal, Record, SeenHead, key_ring
from shrinkwrap.record.summaries import SummaryStore
from shrinkwrap.record.summary import Keys
from shrinkwrap.snapshot.catalogs import CatalogStore, ObjectKeeper
from shrinkwrap.snapshot.merge import merge
from shrinkwrap.snapshot.repository import Accepted, Revision
from shrinkwrap.snapshot.view import Node, Report, View
from shrinkwrap.snapshot.walk import Walk, bring_catalogs
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.tree import adopt
from shrinkwrap.tree.accounts import Accounts
from shrinkwrap.tree.aim import as_recorded, check_request, find_snapshot, goal_of, nodes, refuse, tally
from shrinkwrap.tree.base import Base, explain
from shrinkwrap.tree.before import Before, before, by_record, decode, known, namer, nothing_new
from shrinkwrap.tree.disk import RecordWalk
from shrinkwrap.tree.intents import begin, drop_doubtful, end
from shrinkwrap.tree.lines import LineCounts
from shrinkwrap.tree.marker import with_marker
from shrinkwrap.tree.place import Check
from shrinkwrap.tree.probe import probe
from shrinkwrap.tree.request import FORESEEN, ExportRequest, ExportResult, Hooks
from shrinkwrap.tree.sink import Store, TreeSink, join, mode_of
from shrinkwrap.tree.summing import Passing, Summing, open_summaries, options_of
from shrinkwrap.tree.update import Update

#: Failed objects that are kept for the report, and that are named in the error.
_KEPT_FAILURES = 1000
_NAMED_FAILURES = 5
#: Notices that are kept and printed.
_KEPT_NOTICES = 1000
#: Counts that depend on the snapshot and the spec alone, not on what was there before.
_RECORDED = ("files", "dirs", "symlinks", "bytes", "catalogs")


def export(request: ExportRequest, hooks: Hooks | None = None) -> ExportResult:
    """Make ``<dest>/<fqrn>`` what the spec selects of the snapshot.

    Raises:
        ShrinkwrapError: see :mod:`shrinkwrap.errors`. Whatever it is, the next run goes on from what is there.
    """
    check_request(request)
    with ExitStack() as stack:
        try:
            base = Base(request.dest, wait=request.wait, adopt=request.adopt, store=request.store)
            stack.callback(base.close)
            return _Run(request, hooks or Hooks(), base, stack).logged()
        except OSError as exc:
            raise explain(exc, request.dest) from exc


class _Run:
    def __init__(self, request: ExportRequest, hooks: Hooks, base: Base, stack: ExitStack) -> None:
        self.request = request
        self.hooks = hooks
        self.base = base
        self.fqrn = request.source.fqrn
        self.stack = stack
        self.own = os.geteuid() == 0
        self.result = ExportResult(self.fqrn, base.path)
        self.folder = base.provenance(self.fqrn)
        self.failures: list[Failure] = []
        self.source: Source | None = None
        self.head: Manifest | None = None
        base.make_folder(self.folder, 0o755)
        self.accounts = Accounts(base, self.folder, request, self.result, self.notice, stack)

    def notice(self, line: str) -> None:
        """Tell people, and remember it; a repository cannot make us say more than they would read."""
        said = len(self.result.notices)
        if said < _KEPT_NOTICES:
            self.result.notices.append(line)
            self.hooks.notice(line)
        elif said == _KEPT_NOTICES:
            self.result.notices.append("there was more to say of the same kind")

    def logged(self) -> ExportResult:
        """The whole run, and its line in the log, however it ends."""
        error: BaseException | None = None
        try:
            result = self.go()
            self._end_adoption()
            return result
        except OSError as exc:
            error = explain(exc, self.request.dest)
            raise error from exc
        except BaseException as exc:
            error = exc
            raise
        finally:
            self.accounts.log(FetchStats() if self.source is None else self.source.stats, error)

    def _end_adoption(self) -> None:
        """All is on disk: what is left of the original's store has no more use."""
        if self.base.adopting:
            changed = self.result.reason != "unchanged"
            if changed:
                self.notice(adopt.told(self.result.counts))
            adopt.finish(self.base, self.fqrn, changed=changed)

    def go(self) -> ExportResult:
        request, base, result = self.request, self.base, self.result
        abilities = probe(base)
        result.abilities = abilities.line()
        link_mode = mode_of(request.link_mode, hardlinks=abilities.hardlinks, reflinks=abilities.reflinks)
        if link_mode != request.link_mode:
            self.notice(f"{base.path}: the file system has no {request.link_mode}s, using {link_mode}")
        there = known(base, self.fqrn, repair=request.repair, adopt=request.adopt)

        self.hooks.phase("head")
        source = open_source(request.source, self.notice)
        self.stack.callback(source.close)
        self.source = source
        keeper = ObjectKeeper(source, base.keep())
        revision = self._revision(source, keeper)
        goal = goal_of(request, revision, link_mode)
        result.root_hash, result.revision = goal.root_hash, revision.revision
        result.timestamp, result.tag = revision.timestamp, revision.tag
        if (
            not request.repair
            and there.record is not None
            and nothing_new(there, goal, request.variables)
            and not (request.strict and self._had_warnings(there.record))
            and self.accounts.restate(revision, self.head)
        ):
            self._unchanged(there.record, goal, keeper)
            return result

        self.hooks.phase("catalogs")
        catalogs = CatalogStore(keeper, base.scratch)
        self.stack.callback(catalogs.close)
        root = catalogs.open(goal.root)
        refuse_protected(self.fqrn, root.properties)
        catalogs.release(root)
        matcher = Matcher(request.spec)
        passing = None
        if there.record is not None and by_record(there, goal, repair=request.repair) and not request.strict:
            passing = Passing(open_summaries(base), there.record, request.variables)
            chooser = passing.chooser(Keys(matcher, options_of(goal)))
            _, entries = bring_catalogs(catalogs, goal.root, matcher, pass_by=chooser)
        else:
            _, entries = bring_catalogs(catalogs, goal.root, matcher)
        self.hooks.expect(entries)
        if request.strict:
            self._be_strict(catalogs, goal, matcher)
        drop_doubtful(base, self.notice)
        check = Check(abilities, self.own, goal.view.share_mtime) if request.repair else None
        sink = TreeSink(
            base.path,
            base.tmp,
            base.store.path,
            base.store.tmp,
            link_mode,
            self.own,
            abilities.reflinks,
            check,
            base.adopting,
        )
        store = sink.open()
        self.stack.callback(store.close)
        old = before(
            base,
            there,
            goal,
            catalogs,
            store,
            abilities,
            repair=request.repair,
            own=self.own,
            notice=self.notice,
            passing=passing,
        )
        if not isinstance(old.walk, RecordWalk):
            # The disk tells of everything: nothing may be left out on the other side.
            bring_catalogs(catalogs, goal.root, matcher)
            passing = None
        self.accounts.open()
        begin(base, self.fqrn, goal)
        summing = Summing(
            base, goal, matcher, request.variables, catalogs, result.report, self.accounts.left_out, passing
        )
        self.stack.callback(summing.close)
        walk = Walk(
            catalogs,
            goal.root,
            matcher,
            notice=self.notice,
            count=summing.collector.given,
            borders=summing.collector,
        )
        worker = Worker(source, store, self.hooks.objects)
        self._pour(old, walk, goal, worker, sink, store, summing, entries if there.record is None else 0)
        total = summing.collector.total
        result.counts.update({name: total.counts.get(name, 0) for name in _RECORDED if name in total.counts})
        lines = LineCounts(request.spec)
        lines.take(total, result.report)
        result.lines = lines.to_json()
        summary = summing.finish()
        if passing is not None:
            self._relist(summing.store, summary, catalogs, goal, matcher)

        self.hooks.phase("sync")
        base.sync()
        self._commit(goal, revision, summary)
        self.accounts.commit_listing()
        return result

    def _unchanged(self, record: Record, goal: Goal, keeper: ObjectKeeper) -> None:
        """Nothing is new. A listing that is asked for is made from the kept catalogs."""
        result = self.result
        result.reason = "unchanged"
        as_recorded(result, record)
        summaries = open_summaries(self.base)
        total = summaries.total(record.summary)
        if total is not None:
            lines = LineCounts(self.request.spec)
            lines.take(total, Report())
            result.lines = lines.to_json()
        if self.request.listing and summaries.whole(record.summary):
            self.accounts.open_listing()
            self.accounts.relist(summaries.listing(record.summary))
            self.accounts.commit_listing()
        elif self.request.listing:
            catalogs = CatalogStore(keeper, self.base.scratch)
            self.stack.callback(catalogs.close)
            matcher = Matcher(self.request.spec)
            bring_catalogs(catalogs, goal.root, matcher)
            self.accounts.open_listing()
            view = View(goal.view, self.request.variables, Report())
            for _ in nodes(Walk(catalogs, goal.root, matcher), view, self._line):
                continue
            self.accounts.commit_listing()

    # -- the snapshot ------------------------------------------------------------------------------------------------

    def _revision(self, source: Source, keeper: ObjectKeeper) -> Revision:
        aim = find_snapshot(
            self.request,
            self.base,
            source,
            keeper,
            scratch=self.base.scratch,
            notice=self.notice,
            remember=self._remember,
        )
        self.head = aim.head
        return aim.revision

    def _remember(self, accepted: Accepted) -> None:
        manifest = accepted.manifest
        head = SeenHead(
            manifest.revision,
            manifest.root_hash,
            manifest.timestamp,
            accepted.manifest_bytes.hex(),
            accepted.expires,
            key_ring(self.request.keys),
        )
        self.base.replace_file(self.folder + b"/manifest", accepted.manifest_bytes, sync=False)
        self.base.replace_file(self.folder + b"/whitelist", accepted.whitelist_bytes, sync=False)
        self.base.replace_file(self.folder + b"/head.json", head.to_bytes())

    # -- --strict ----------------------------------------------------------------------------------------------------

    def _had_warnings(self, record: Record) -> bool:
        """Whether the export that is there, and is what is wanted, was made with warnings."""
        return bool(self.request.spec.warnings) or any(record.counts.get(what) for what in FORESEEN)

    def _be_strict(self, catalogs: CatalogStore, goal: Goal, matcher: Matcher) -> None:
        """Walk once before anything is touched.

        Raises:
            WarningsAreErrors: there is something to warn of.
        """
        spec = self.request.spec
        seen = ExportResult(self.fqrn, self.base.path)
        lines = LineCounts(spec)
        view = View(goal.view, self.request.variables, seen.report)
        for _ in nodes(Walk(catalogs, goal.root, matcher, notice=seen.notices.append, count=lines), view):
            continue
        lines.report_to(seen.report, catalogs, goal.root)
        refuse([*spec.warnings, *seen.warnings()])

    # -- the tree ----------------------------------------------------------------------------------------------------

    def _pour(
        self,
        old: Before,
        walk: Walk,
        goal: Goal,
        worker: Worker,
        sink: TreeSink,
        store: Store,
        summing: Summing,
        new: int,
    ) -> None:
        """From the first object to the final metadata.

        Args:
            new: entries that there may be and never were; 0 if not known.
        """
        view = View(goal.view, self.request.variables, self.result.report)
        dispatcher = Dispatcher(
            worker,
            Job(self.request.source, sink),
            workers_for(self.request.workers),
            lambda number: Processes(number, self.base.lock),
            lambda done: self._done(done, summing),
            progress=self.hooks.objects,
            notice=self.notice,
            stats=worker.source.stats,
            large=new >= LOCAL_ITEMS,
        )
        # Whatever happens, the processes are gone before anything of theirs is cleaned up.
        self.stack.callback(dispatcher.close)
        batcher = Batcher(dispatcher.give, join)
        update = Update(
            self.base,
            self.fqrn.encode(),
            batcher,
            store,
            old.comparer,
            namer(goal),
            own=self.own,
            progress=self._count,
            want=self.hooks.want,
            report=self.result.report,
            warn=self.notice,
            keep=summing.keep,
        )
        try:
            self.hooks.phase("objects")
            wanted = nodes(walk, view, summing.show if summing.passes else self._shown(summing))
            update.apply(merge(old.stream, with_marker(wanted) if goal.marker else wanted), old.walk)
            batcher.finish()
            dispatcher.finish()
            dispatcher.close()
            if self.failures:
                update.finish(failed=True)
                raise self._failed()
            self.hooks.phase("tree")
            update.replace()
            update.delete()
            update.finish()
        finally:
            update.close()
            self._tell(update.counts)
            self._tell(store.end_batch())

    def _shown(self, summing: Summing) -> Callable[[Entry, Node], None]:
        """What happens to each entry that comes out, when all of them do."""

        def show(entry: Entry, node: Node) -> None:
            self.accounts.show(summing.show(entry, node))

        return show

    def _relist(
        self, summaries: SummaryStore, summary: str, catalogs: CatalogStore, goal: Goal, matcher: Matcher
    ) -> None:
        """The listing from summaries; from the catalogs where one of them could not be written."""
        if summaries.whole(summary):
            self.accounts.relist(summaries.listing(summary))
            return
        bring_catalogs(catalogs, goal.root, matcher)
        view = View(goal.view, self.request.variables, Report())
        for _ in nodes(Walk(catalogs, goal.root, matcher), view, self._line):
            continue

    def _line(self, entry: Entry, node: Node) -> None:
        self.accounts.show(entry_line(entry, node.target))

    def _done(self, done: Result, summing: Summing) -> None:
        summing.sums.put_many(done.notes)
        self._tell({"fetched": done.fetched, "objects": done.items})
        self._tell(done.counters)
        sizes = self.result.bytes
        sizes["received"] = sizes.get("received", 0) + done.received
        sizes["written"] = sizes.get("written", 0) + done.written
        self.failures.extend(done.failures[: _KEPT_FAILURES - len(self.failures)])

    def _tell(self, counters: dict[str, int]) -> None:
        """Add up counters; some of them are warnings."""
        for name, count in counters.items():
            counts = self.result.report.counts if name in ("xattr_lost", "link_fallback") else self.result.counts
            counts[name] = counts.get(name, 0) + count

    def _count(self, node: Node) -> None:
        if tally(node, self.result.counts):
            self.hooks.node(node)

    def _failed(self) -> ShrinkwrapError:
        """What to say of objects that could not be had. The worst kind counts: broken, unreachable, missing."""
        errors = [failure.error for failure in self.failures]
        kinds: tuple[type[ShrinkwrapError], ...] = (CorruptObject, NetworkError, MissingObject)
        kind = next(kind for kind in kinds if any(isinstance(error, kind) for error in errors))
        named = [f"{show(failure.path)}: {failure.error.message}" for failure in self.failures[:_NAMED_FAILURES]]
        number = len(self.failures)
        return kind(
            f"{number} object{'s' if number != 1 else ''} could not be had: {'; '.join(named)}"
            + ("; …" if number > len(named) else ""),
            hint="nothing was replaced or removed, and what came is kept: run the same command again",
        )

    def _commit(self, goal: Goal, revision: Revision, summary: str) -> None:
        """Everything is on disk: say so."""
        report = self.result.report
        counts = {name: self.result.counts.get(name, 0) for name in _RECORDED}
        counts.update(report.counts)
        record = Record(
            goal=goal,
            revision=revision.revision,
            timestamp=revision.timestamp,
            tag=revision.tag,
            variables={
                decode(name): None if value is None else decode(value) for name, value in report.variables.items()
            },
            counts=counts,
            tool=__version__,
            summary=summary,
        )
        self.accounts.commit(goal, revision, self.head, counts)
        self.base.replace_file(self.folder + b"/record.json", record.to_bytes())
        end(self.base, self.fqrn)
