"""Releases: a new tree beside the old one, and one step in which readers come to the new one (docs/snapshots.md)."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Final

from shrinkwrap.errors import DestinationError, LockedError
from shrinkwrap.fetch.source import open_source
from shrinkwrap.record.record import Goal
from shrinkwrap.snapshot.catalogs import ObjectKeeper
from shrinkwrap.snapshot.repository import Accepted, Revision
from shrinkwrap.tree import snapshots
from shrinkwrap.tree.aim import find_snapshot, goal_of
from shrinkwrap.tree.base import Base, explain
from shrinkwrap.tree.export import Exporting, run
from shrinkwrap.tree.known import Known
from shrinkwrap.tree.moving import Gone, NotHereError
from shrinkwrap.tree.place import mode_of
from shrinkwrap.tree.probe import probe
from shrinkwrap.tree.request import ExportRequest, ExportResult, Hooks

#: How often the head may move between the look at it and the export.
_MOST: Final = 3


def release(request: ExportRequest, hooks: Hooks, gone: Gone | None) -> ExportResult:
    """Export to a snapshot beside the current one, then let ``current`` lead there.

    If the current one is what is wanted, that is all. Without a name in the request the root hash gives one.

    Raises:
        DestinationError: ``current`` is not a link of ours; it leads to a snapshot with repositories that the new one
            lacks; or to the one named, which would change under its readers. All that an export raises.
    """
    top = os.path.realpath(request.dest)
    result = _release(request, hooks, gone, top)
    if gone is not None and gone.root_hash and not request.snapshot:
        _clear(top, gone, request.source.fqrn)
    return result


def _clear(top: str, gone: Gone, fqrn: str) -> None:
    """What came of a release that was given up, and never was whole, goes: nobody could ever finish it.

    Other repositories that somebody has put there stay.
    """
    from shrinkwrap.tree.remove import remove_snapshot

    stem = snapshots.stem_of(gone.revision, gone.root_hash)
    for name in snapshots.snapshots(top):
        if name.partition(".")[0] == stem and not snapshots.shows(os.path.join(top, name), fqrn):
            # It does no harm where it is.
            with suppress(DestinationError, LockedError):
                remove_snapshot(top, name, fqrn)


def _release(request: ExportRequest, hooks: Hooks, gone: Gone | None, top: str) -> ExportResult:
    now = snapshots.current(top)
    if request.snapshot:
        snapshots.refuse_less(top, now, snapshots.place_of(top, request.snapshot), request.source.fqrn)
        return run(_Release, snapshots.beside(request), hooks, gone)
    goal, revision = None, 0
    if now is not None and snapshots.shows(os.path.join(top, now), request.source.fqrn):
        try:
            return run(_AsItIs, snapshots.beside(replace(request, snapshot=now)), hooks, gone)
        except NotHereError as exc:
            goal, revision = exc.goal, exc.revision
    for _ in range(_MOST):
        if goal is None:
            goal, revision = _look_ahead(request, top)
        name = snapshots.release_name(top, request.source.fqrn, goal, revision, request.variables, now)
        snapshots.refuse_less(top, now, os.path.join(top, name), request.source.fqrn)
        try:
            return run(_Named, snapshots.beside(replace(request, snapshot=name)), hooks, gone)
        except NotHereError as exc:
            goal, revision = exc.goal, exc.revision
    raise DestinationError(
        f"{top}: the head of {request.source.fqrn} moves faster than it can be looked at", hint="run it again"
    )


def _look_ahead(request: ExportRequest, top: str) -> tuple[Goal, int]:
    """What the export will be for, while no snapshot can tell. What there is to say is said later."""
    with ExitStack() as stack:
        try:
            base = Base(top, wait=request.wait, store=request.store)
            stack.callback(base.close)
            source = open_source(request.source)
            stack.callback(source.close)
            aim = find_snapshot(
                replace(request, among=top),
                base,
                source,
                ObjectKeeper(source, base.keep()),
                scratch=base.scratch,
                notice=lambda line: None,
                remember=lambda accepted: None,
            )
            able = probe(base)
            mode = mode_of(request.link_mode, hardlinks=able.hardlinks, reflinks=able.reflinks)
            return goal_of(request, aim.revision, mode), aim.revision.revision
        except OSError as exc:
            raise explain(exc, top) from exc


class _AsItIs(Exporting):
    """The current snapshot, if it is what is wanted: it does not change, and what it says of itself neither."""

    _accepted: Accepted | None = None

    def remember(self, accepted: Accepted) -> None:
        self._accepted = accepted

    def decide(self, there: Known, goal: Goal, revision: Revision, *, same: bool) -> None:
        if not same:
            raise NotHereError(goal, revision.revision)
        if self._accepted is not None:
            super().remember(self._accepted)


class _Release(Exporting):
    """A new snapshot, which becomes the current one."""

    def decide(self, there: Known, goal: Goal, revision: Revision, *, same: bool) -> None:
        super().decide(there, goal, revision, same=same)
        top = self.request.among
        # Asked again, with the lock held.
        now = snapshots.current(top)
        snapshots.refuse_less(top, now, self.base.path, self.fqrn)

    def finish(self) -> None:
        top, name = self.request.among, self.request.snapshot
        if snapshots.current(top) != name:
            snapshots.switch(self.base, top, name)
            self.result.switched = True


class _Named(_Release):
    """One that is named by what is in it."""

    def decide(self, there: Known, goal: Goal, revision: Revision, *, same: bool) -> None:
        top, name = self.request.among, self.request.snapshot
        wanted = snapshots.release_name(
            top, self.fqrn, goal, revision.revision, self.request.variables, snapshots.current(top)
        )
        if wanted != name:
            raise NotHereError(goal, revision.revision)
        super().decide(there, goal, revision, same=same)
