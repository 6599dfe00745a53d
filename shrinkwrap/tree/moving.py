"""Sources that move: a revision that its owner collects as garbage while it is being exported (docs/snapshots.md).

Its catalogs or objects are missing then, and the head is another one. The export starts over with that, from what came
so far; it does so a few times at most, and only where the user's pin lets another snapshot be meant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.manifest import parse_manifest
from shrinkwrap.errors import MissingObject, ShrinkwrapError
from shrinkwrap.fetch.source import SourceConfig, open_source
from shrinkwrap.record.record import Goal, SeenHead
from shrinkwrap.snapshot.repository import Pin
from shrinkwrap.tree.request import ExportRequest, ExportResult, Hooks

#: How often an export starts over.
MOST: Final = 3


class Gone(NamedTuple):
    """A snapshot that an export gave up: why, and which it was; its root hash is empty if that was not known yet."""

    error: MissingObject
    root_hash: str
    revision: int


class MovedError(Exception):
    """The export is to start over. No error for anybody but :func:`follow`."""

    def __init__(self, gone: Gone) -> None:
        super().__init__(gone.error.message)
        self.gone = gone


class NotHereError(Exception):
    """The goal is for another destination than this one, of which nothing has changed."""

    def __init__(self, goal: Goal, revision: int) -> None:
        super().__init__(goal.root_hash)
        self.goal = goal
        self.revision = revision


Once = Callable[[ExportRequest, Hooks, Gone | None], ExportResult]


def follow(request: ExportRequest, hooks: Hooks, once: Once) -> ExportResult:
    """Run an export, and start over while its snapshot goes away under it.

    Args:
        once: runs it once; told of the snapshot that was given up before.

    Raises:
        MissingObject: the snapshot is the same as before, or it went away once too often. What else ``once`` raises.
    """
    gone: Gone | None = None
    left = MOST
    while True:
        try:
            return once(request, hooks, gone)
        except MovedError as exc:
            gone = exc.gone
            if not left:
                raise gone.error from None
            left -= 1
            # What a cache has of the manifest may be the old one.
            request = replace(request, source=replace(request.source, past_caches=True))


def has_moved(source: SourceConfig, pin: Pin, seen: SeenHead | None) -> bool:
    """Whether there is a newer head, so that the pin may mean another snapshot by now.

    What it says is not verified: the run that it leads to does that.

    Args:
        seen: the head that the run went by.
    """
    if seen is None or is_fixed(pin):
        return False
    try:
        opened = open_source(replace(source, past_caches=True))
        try:
            head = parse_manifest(opened.control(".cvmfspublished", limits.MANIFEST))
        finally:
            opened.close()
    except ShrinkwrapError:
        return False
    return head.revision > seen.revision and head.root_hash != seen.root_hash


def is_fixed(pin: Pin) -> bool:
    """Whether a pin means one snapshot for ever."""
    return bool(pin.root_hash) or pin.revision is not None


def advised(error: MissingObject, pin: Pin) -> MissingObject:
    """The error with what to do about it, for a pin that stays what it is."""
    if not is_fixed(pin):
        return error
    option = "--root-hash" if pin.root_hash else "--revision"
    hint = (
        f"the snapshot of {option} may have been garbage collected: choose another one ('shrinkwrap tags' lists them)"
    )
    return MissingObject(error.message, hint=f"{hint}; or: {error.hint}" if error.hint else hint)
