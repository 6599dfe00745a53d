"""One export from beginning to end (DESIGN, phases).

Lock, head, catalogs, intent; objects and new paths, replacements, deletions, final metadata; sync, record.
"""

from __future__ import annotations

from contextlib import ExitStack

from shrinkwrap.errors import DestinationError, MissingObject
from shrinkwrap.fetch.source import open_source
from shrinkwrap.fetch.types import FetchStats, Source
from shrinkwrap.record.record import RECORD_BYTES, Goal, Record, SeenHead, key_ring
from shrinkwrap.snapshot.catalogs import CatalogStore, ObjectKeeper
from shrinkwrap.snapshot.repository import Accepted, Revision
from shrinkwrap.tree import adopt
from shrinkwrap.tree.aim import as_recorded, check_request, find_snapshot, goal_of
from shrinkwrap.tree.base import Base, explain
from shrinkwrap.tree.known import Known, known, nothing_new
from shrinkwrap.tree.moving import Gone, MovedError, NotHereError, Once, advised, follow, has_moved
from shrinkwrap.tree.place import mode_of
from shrinkwrap.tree.probe import probe
from shrinkwrap.tree.request import FORESEEN, ExportRequest, ExportResult, Hooks
from shrinkwrap.tree.run import Run


def export(request: ExportRequest, hooks: Hooks | None = None) -> ExportResult:
    """Make ``<dest>/<fqrn>`` what the spec selects of the snapshot; for one beside others, ``<dest>/<name>/<fqrn>``.

    Raises:
        ShrinkwrapError: see :mod:`shrinkwrap.errors`. Whatever it is, the next run goes on from what is there.
    """
    check_request(request)
    once: Once = _once
    if request.switch:
        from shrinkwrap.tree.release import release

        once = release
    elif request.snapshot:
        once = _beside
    return follow(request, hooks or Hooks(), once)


def _once(request: ExportRequest, hooks: Hooks, gone: Gone | None) -> ExportResult:
    return run(Exporting, request, hooks, gone)


def _beside(request: ExportRequest, hooks: Hooks, gone: Gone | None) -> ExportResult:
    """A snapshot beside the others."""
    from shrinkwrap.tree.snapshots import beside

    return run(Exporting, beside(request), hooks, gone)


def run(kind: type[Exporting], request: ExportRequest, hooks: Hooks, gone: Gone | None) -> ExportResult:
    """An export of this kind, from the lock to its line in the log."""
    with ExitStack() as stack:
        try:
            base = Base(request.dest, wait=request.wait, adopt=request.adopt, store=request.store)
            stack.callback(base.close)
            return kind(request, hooks, base, stack, gone).logged()
        except OSError as exc:
            raise explain(exc, request.dest) from exc


class Exporting(Run):
    """One export to one destination.

    Args:
        gone: the snapshot that was given up before.
    """

    def __init__(self, request: ExportRequest, hooks: Hooks, base: Base, stack: ExitStack, gone: Gone | None) -> None:
        super().__init__(request, hooks, base, stack)
        self._gone = gone
        self.result.snapshot = request.snapshot

    def decide(self, there: Known, goal: Goal, revision: Revision, *, same: bool) -> None:
        """The goal is known, and nothing has changed so far. For a release that readers use, whether that may change.

        Args:
            same: nothing is new.

        Raises:
            NotHereError, ShrinkwrapError.
        """
        if not same:
            from shrinkwrap.tree.snapshots import leave_to_readers

            leave_to_readers(self.base.path, there, goal, self.request.variables)

    def finish(self) -> None:
        """The record says what is there."""

    def logged(self) -> ExportResult:
        """The whole run, and its line in the log, however it ends."""
        error: BaseException | None = None
        try:
            result = self.go()
            self.finish()
            self._end_adoption()
            if self.request.gc:
                self._collect_garbage()
            return result
        except OSError as exc:
            error = explain(exc, self.request.dest)
            raise error from exc
        except MissingObject as exc:
            error = advised(exc, self.request.pin)
            seen = SeenHead.from_json(self.base.read_json(self.folder + b"/head.json", RECORD_BYTES))
            if has_moved(self.request.source, self.request.pin, seen):
                raise MovedError(Gone(exc, self.result.root_hash, self.result.revision)) from exc
            raise error from exc
        except BaseException as exc:
            error = exc
            raise
        finally:
            if not isinstance(error, NotHereError):
                self.accounts.log(FetchStats() if self.source is None else self.source.stats, error)

    def _end_adoption(self) -> None:
        """All is on disk: what is left of the original's store has no more use."""
        if self.base.adopting:
            changed = self.result.reason != "unchanged"
            if changed:
                self.notice(adopt.told(self.result.counts))
            adopt.finish(self.base, self.fqrn, changed=changed)

    def _collect_garbage(self) -> None:
        """The export is done, whatever comes of this."""
        from shrinkwrap.tree import dropped

        if self.result.reason == "unchanged" and dropped.is_empty(self.base.store):
            return
        from shrinkwrap.tree.gc import collect

        self.hooks.phase("gc")
        try:
            self.result.garbage = collect(self.base)
        except (DestinationError, OSError) as exc:
            told = explain(exc, self.base.store.path) if isinstance(exc, OSError) else exc
            self.notice(f"garbage was not collected: {told.message}" + (f" ({told.hint})" if told.hint else ""))
        else:
            for line in self.result.garbage.notices:
                self.notice(line)

    def go(self) -> ExportResult:
        request, base, result = self.request, self.base, self.result
        abilities = probe(base)
        result.abilities = abilities.line()
        link_mode = mode_of(request.link_mode, hardlinks=abilities.hardlinks, reflinks=abilities.reflinks)
        if link_mode != request.link_mode:
            self.notice(f"{base.path}: no {request.link_mode}s from the store are possible there, using {link_mode}")
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
        self._go_on(revision)
        record = there.record
        same = (
            not request.repair
            and record is not None
            and nothing_new(there, goal, request.variables)
            and not (request.strict and self._had_warnings(record))
        )
        self.decide(there, goal, revision, same=same)
        if same and record is not None and self.accounts.restate(revision, self.head):
            self._unchanged(record, goal, keeper)
            return result

        from shrinkwrap.tree.pour import Pour

        Pour(self, there, goal, revision, keeper, abilities).go()
        return result

    def _unchanged(self, record: Record, goal: Goal, keeper: ObjectKeeper) -> None:
        """Nothing is new. A listing that is asked for is made from the kept catalogs."""
        result = self.result
        result.reason = "unchanged"
        as_recorded(result, record, self.request.spec)
        if self.request.listing:
            from shrinkwrap.tree.relist import relist

            catalogs = CatalogStore(keeper, self.base.scratch)
            self.stack.callback(catalogs.close)
            self.accounts.open_listing()
            relist(self, goal, catalogs, record.summary)
            self.accounts.commit_listing()

    def _go_on(self, revision: Revision) -> None:
        """The snapshot that was given up is not tried once more. Raises the error that it was given up for."""
        gone = self._gone
        if gone is None:
            return
        if str(revision.root_hash) == gone.root_hash:
            raise gone.error
        shown = f"revision {gone.revision} ({gone.root_hash[:8]}…)" if gone.root_hash else "the snapshot"
        self.notice(
            f"{shown} went away while it was being exported, most likely collected as garbage:"
            f" going on with revision {revision.revision}"
        )

    # -- the snapshot ------------------------------------------------------------------------------------------------

    def _revision(self, source: Source, keeper: ObjectKeeper) -> Revision:
        aim = find_snapshot(
            self.request,
            self.base,
            source,
            keeper,
            scratch=self.base.scratch,
            notice=self.notice,
            remember=self.remember,
        )
        self.head = aim.head
        return aim.revision

    def remember(self, accepted: Accepted) -> None:
        """The head that was verified is the one seen last."""
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
