"""From the catalogs to the record: the part of an export that has something to do (DESIGN, phases)."""

from __future__ import annotations

import os
from collections.abc import Callable

from shrinkwrap import __version__
from shrinkwrap.cvmfs.authz import refuse_protected
from shrinkwrap.cvmfs.entry import Entry, show
from shrinkwrap.engine.batches import Batcher
from shrinkwrap.engine.dispatch import LOCAL_ITEMS, Dispatcher, Job, workers_for
from shrinkwrap.engine.pool import Processes
from shrinkwrap.engine.work import Failure, Result, Worker
from shrinkwrap.errors import CorruptObject, MissingObject, NetworkError, ShrinkwrapError
from shrinkwrap.record.record import Goal, Record
from shrinkwrap.record.summary import Keys
from shrinkwrap.snapshot.catalogs import CatalogStore, ObjectKeeper
from shrinkwrap.snapshot.merge import merge
from shrinkwrap.snapshot.repository import Revision
from shrinkwrap.snapshot.view import Node, Report, View
from shrinkwrap.snapshot.walk import Walk, bring_catalogs
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.tree.aim import nodes, refuse, tally
from shrinkwrap.tree.allowed import MISSING, lines_of
from shrinkwrap.tree.before import Before, before, namer
from shrinkwrap.tree.disk import RecordWalk
from shrinkwrap.tree.dropped import Drops
from shrinkwrap.tree.gaps import PassedBy, find_gaps, without
from shrinkwrap.tree.intents import begin, drop_doubtful, end
from shrinkwrap.tree.known import Known, by_record, decode, gaps_in
from shrinkwrap.tree.lines import LineCounts
from shrinkwrap.tree.marker import with_marker
from shrinkwrap.tree.place import Check
from shrinkwrap.tree.probe import Abilities
from shrinkwrap.tree.relist import relist
from shrinkwrap.tree.request import ExportResult
from shrinkwrap.tree.run import Run
from shrinkwrap.tree.sink import Store, TreeSink, join
from shrinkwrap.tree.summing import Passing, Summing, open_summaries, options_of
from shrinkwrap.tree.update import Update

#: Failed objects that are kept for the report, and that are named in the error.
_KEPT_FAILURES = 1000
_NAMED_FAILURES = 5
#: Counts that depend on the snapshot and the spec alone, not on what was there before.
_RECORDED = ("files", "dirs", "symlinks", "bytes", "catalogs")


class Pour:
    """Makes the tree what the goal says.

    Args:
        run: the export.
        there: what the last runs left behind.
        goal, revision: what it works towards.
        keeper: brings catalogs.
        abilities: of the destination.
    """

    def __init__(
        self, run: Run, there: Known, goal: Goal, revision: Revision, keeper: ObjectKeeper, abilities: Abilities
    ) -> None:
        self.run = run
        self._there = there
        self._goal = goal
        self._revision = revision
        self._abilities = abilities
        self._catalogs = CatalogStore(keeper, run.base.scratch)
        run.stack.callback(self._catalogs.close)
        self._matcher = Matcher(run.request.spec)
        self._failures: list[Failure] = []
        #: Files that no server has, which may be left out: digests by path.
        self._gaps: dict[bytes, str] = {}

    def go(self) -> None:
        """All phases from the catalogs on. Raises ShrinkwrapError, OSError."""
        run, goal, catalogs, matcher = self.run, self._goal, self._catalogs, self._matcher
        request, base, result, there = run.request, run.base, run.result, self._there
        run.hooks.phase("catalogs")
        passing, entries = self._bring()
        run.hooks.expect(entries)
        if request.strict:
            self._be_strict()
        drop_doubtful(base, run.notice)
        check = Check(self._abilities, run.own, goal.view.share_mtime) if request.repair else None
        sink = TreeSink(
            base.path,
            base.tmp,
            base.store.path,
            base.store.tmp,
            goal.link_mode,
            run.own,
            self._abilities.reflinks,
            check,
            base.adopting,
        )
        store = sink.open()
        run.stack.callback(store.close)
        old = before(
            base,
            there,
            goal,
            catalogs,
            store,
            self._abilities,
            repair=request.repair,
            own=run.own,
            notice=run.notice,
            passing=passing,
        )
        if passing is not None and not isinstance(old.walk, RecordWalk):
            # The disk tells of everything: nothing may be left out on the other side.
            bring_catalogs(catalogs, goal.root, matcher)
            passing = None
        run.accounts.open_listing()
        # From here on the next run cleans up after this one, whatever it wants.
        begin(base, run.fqrn, goal)
        run.accounts.open()
        summing = Summing(
            base, goal, matcher, request.variables, catalogs, result.report, run.accounts.left_out, passing
        )
        run.stack.callback(summing.close)
        self._apply(old, sink, store, summing, entries if there.record is None else 0, passing)
        total = summing.collector.total
        result.counts.update({name: total.counts[name] for name in _RECORDED if name in total.counts})
        lines = LineCounts(request.spec)
        lines.take(total.matched, result.report)
        result.lines = lines.to_json()
        # With other files left out than now they would be those of others.
        lacked = there.intent is not None or (there.record is not None and gaps_in(there.record))
        summary = summing.finish(known=not lacked and not self._gaps)
        if passing is not None:
            relist(run, goal, catalogs, summary)

        run.hooks.phase("sync")
        base.sync()
        self._commit(summary, total.matched)
        run.accounts.commit_listing()

    def _bring(self) -> tuple[Passing | None, int]:
        """Fetch the catalogs that are needed; those that may be passed by, and the number of entries in the others."""
        run, goal, catalogs, record = self.run, self._goal, self._catalogs, self._there.record
        root = catalogs.open(goal.root)
        refuse_protected(run.fqrn, root.properties)
        catalogs.release(root)
        if record is None or run.request.strict or not by_record(self._there, goal, repair=run.request.repair):
            return None, bring_catalogs(catalogs, goal.root, self._matcher)[1]
        passing = Passing(open_summaries(run.base), record, run.request.variables)
        chooser = passing.chooser(Keys(self._matcher, options_of(goal)))
        return passing, bring_catalogs(catalogs, goal.root, self._matcher, pass_by=chooser)[1]

    def _be_strict(self) -> None:
        """Walk once before anything is touched.

        Raises:
            WarningsAreErrors: there is something to warn of.
        """
        run, goal, catalogs = self.run, self._goal, self._catalogs
        spec = run.request.spec
        seen = ExportResult(run.fqrn, run.base.path)
        lines = LineCounts(spec)
        view = View(goal.view, run.request.variables, seen.report)
        for _ in nodes(Walk(catalogs, goal.root, self._matcher, notice=seen.notices.append, count=lines), view):
            continue
        lines.report_to(seen.report, catalogs, goal.root)
        refuse([*spec.warnings, *seen.warnings()])

    # -- the tree ----------------------------------------------------------------------------------------------------

    def _find_gaps(self, worker: Worker, summing: Summing, passing: Passing | None) -> None:
        """Which of the files that may be missing are missing, before anything else."""
        run, goal = self.run, self._goal
        if not run.request.allow_missing:
            return
        run.hooks.phase("missing")
        borders = None if passing is None else PassedBy(passing, Keys(self._matcher, options_of(goal)))
        self._gaps = find_gaps(
            Walk(self._catalogs, goal.root, self._matcher, borders=borders),
            View(goal.view, run.request.variables, Report()),
            run.request.allow_missing,
            namer(goal),
            worker,
            lambda done: self._done(done, summing),
        )

    def _apply(
        self, old: Before, sink: TreeSink, store: Store, summing: Summing, new: int, passing: Passing | None
    ) -> None:
        """From the first object to the final metadata.

        Args:
            new: entries that there may be and never were; 0 if not known.
            passing: catalogs that are left out.
        """
        run, goal = self.run, self._goal
        assert run.source is not None
        walk = Walk(
            self._catalogs,
            goal.root,
            self._matcher,
            notice=run.notice,
            count=summing.collector.given,
            borders=summing.collector,
        )
        view = View(goal.view, run.request.variables, run.result.report)
        worker = Worker(run.source, store, run.hooks.objects)
        self._find_gaps(worker, summing, passing)
        dispatcher = Dispatcher(
            worker,
            Job(self.run.request.source, sink),
            # Of a file in the original's store several objects may be made: one process looks after all of them.
            1 if self.run.base.adopting else workers_for(self.run.request.workers),
            lambda number: Processes(number, self.run.base.lock),
            lambda done: self._done(done, summing),
            progress=self.run.hooks.objects,
            notice=self.run.notice,
            stats=worker.source.stats,
            large=new >= LOCAL_ITEMS,
        )
        # Whatever happens, the processes are gone before anything of theirs is cleaned up.
        self.run.stack.callback(dispatcher.close)
        batcher = Batcher(dispatcher.give, join, dispatcher.idle)
        drops = self._drops(old)
        self.run.stack.callback(drops.close)
        update = Update(
            self.run.base,
            self.run.fqrn.encode(),
            batcher,
            store,
            old.comparer,
            namer(goal),
            own=self.run.own,
            progress=self._count,
            want=self.run.hooks.want,
            report=self.run.result.report,
            warn=self.run.notice,
            keep=summing.keep,
            dropped=drops.note,
        )
        try:
            self.run.hooks.phase("objects")
            shown = summing.show if summing.passes else self._shown(summing)
            report = self.run.result.report
            wanted = without(walk, view, self._gaps, report, shown) if self._gaps else nodes(walk, view, shown)
            update.apply(merge(old.stream, with_marker(wanted) if goal.marker else wanted), old.walk)
            drops.finish()
            batcher.finish()
            dispatcher.finish()
            dispatcher.close()
            if self._failures:
                update.finish(failed=True)
                raise self._failed()
            self.run.hooks.phase("tree")
            update.replace()
            update.delete()
            update.finish()
        finally:
            update.close()
            self._tell(update.counts)
            self._tell(store.end_batch())

    def _drops(self, old: Before) -> Drops:
        """What notes the stored files whose paths go."""
        store, there = self.run.base.store, self._there
        if there.record is not None and isinstance(old.walk, RecordWalk):
            return Drops(store, namer(there.record.goal))
        drops = Drops(store, None)
        if there.tree or there.record is not None or there.intent is not None:
            drops.lose()
        return drops

    def _shown(self, summing: Summing) -> Callable[[Entry, Node], None]:
        """What happens to each entry that comes out, when all of them do."""

        def show(entry: Entry, node: Node) -> None:
            self.run.accounts.show(summing.show(entry, node))

        return show

    def _done(self, done: Result, summing: Summing) -> None:
        summing.sums.put_many(done.notes)
        self._tell({"fetched": done.fetched, "objects": done.items})
        self._tell(done.counters)
        sizes = self.run.result.bytes
        sizes["received"] = sizes.get("received", 0) + done.received
        sizes["written"] = sizes.get("written", 0) + done.written
        self._failures.extend(done.failures[: _KEPT_FAILURES - len(self._failures)])

    def _tell(self, counters: dict[str, int]) -> None:
        """Add up counters; some of them are warnings."""
        for name, count in counters.items():
            counts = (
                self.run.result.report.counts if name in ("xattr_lost", "link_fallback") else self.run.result.counts
            )
            counts[name] = counts.get(name, 0) + count

    def _count(self, node: Node) -> None:
        if tally(node, self.run.result.counts):
            self.run.hooks.node(node)

    def _failed(self) -> ShrinkwrapError:
        """What to say of objects that could not be had. The worst kind counts: broken, unreachable, missing."""
        errors = [failure.error for failure in self._failures]
        kinds: tuple[type[ShrinkwrapError], ...] = (CorruptObject, NetworkError, MissingObject)
        kind = next(kind for kind in kinds if any(isinstance(error, kind) for error in errors))
        named = [f"{show(failure.path)}: {failure.error.message}" for failure in self._failures[:_NAMED_FAILURES]]
        number = len(self._failures)
        return kind(
            f"{number} object{'s' if number != 1 else ''} could not be had: {'; '.join(named)}"
            + ("; …" if number > len(named) else ""),
            hint="nothing was replaced or removed, and what came is kept: run the same command again"
            + ("; what is gone for good may be left out with --allow-missing" if kind is MissingObject else ""),
        )

    def _commit(self, summary: str, matched: dict[bytes, int]) -> None:
        """Everything is on disk: say so."""
        goal, revision = self._goal, self._revision
        report = self.run.result.report
        counts = {name: self.run.result.counts.get(name, 0) for name in _RECORDED}
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
            matched=matched,
        )
        self.run.accounts.commit(goal, revision, self.run.head, counts)
        base, missing = self.run.base, self.run.folder + b"/" + MISSING.encode()
        if self._gaps:
            base.replace_file(missing, b"".join(lines_of(self._gaps)))
        base.replace_file(self.run.folder + b"/record.json", record.to_bytes())
        if not self._gaps and os.path.lexists(os.path.join(base.path, os.fsdecode(missing))):
            base.remove_file(missing)
        end(base, self.run.fqrn)
