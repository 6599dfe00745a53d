"""Intents: what says that a tree lies between two states, and which objects a power cut may have broken.

A name in the store is durable before its data on ext4 and XFS. So after a start of the machine, objects that are not
older than an open intent are dropped before anything is believed (DESIGN, "After a crash"). A store that several
destinations share has a note of its own, since none of them knows the intents of the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from shrinkwrap.record.record import RECORD_BYTES, Goal, Intent
from shrinkwrap.tree.base import Base, boot_id
from shrinkwrap.tree.beneath import DIRECTORY, open_beneath

_NAME: Final = b"/intent.json"
#: Clocks of file systems tick coarsely.
_SLACK_NS: Final = 2 * 10**9


def read_intent(base: Base, fqrn: str) -> Intent | None:
    """The open intent of a repository's tree; None if its last run finished."""
    path = base.provenance(fqrn) + _NAME
    value = base.read_json(path, RECORD_BYTES)
    if value is not None:
        return Intent.from_json(value)
    # There, but not readable: as good as the worst.
    return None if base.read_file(path, RECORD_BYTES) is None else Intent.from_json({})


def begin(base: Base, fqrn: str, goal: Goal) -> None:
    """Say, durably, that the tree is about to change."""
    before = read_intent(base, fqrn)
    now = base.clock() - _SLACK_NS
    since = now if before is None else min(now, before.since)
    base.store.doubt(boot_id(), now)
    _write(base, fqrn, Intent(goal, boot_id(), since, base.run))


def end(base: Base, fqrn: str) -> None:
    """The record is on disk: the tree is what it says. All that other runs wrote has been synced with it."""
    base.remove_file(base.provenance(fqrn) + _NAME)
    now = base.clock() - _SLACK_NS
    for other, intent in _open_intents(base):
        if intent.boot_id == boot_id() and intent.since < now:
            _write(base, other, Intent(intent.goal, intent.boot_id, now, intent.run))
    base.store.settle()


def drop_doubtful(base: Base, notice: Callable[[str], None]) -> None:
    """Drop the objects that were written before a start of the machine that cut off a run."""
    since = doubtful_since(base)
    if since is None:
        return
    dropped = 0
    data = base.store.fd
    listing = os.open(b".", DIRECTORY, dir_fd=data)
    try:
        shards = [name for name in os.listdir(listing) if len(name) == 2]
    finally:
        os.close(listing)
    for shard in shards:
        dropped += _drop_since(data, shard.encode(), since)
    # The names must be gone for good before the intents say that what is left is safe.
    base.sync()
    now = base.clock() - _SLACK_NS
    for fqrn, intent in _doubtful(base):
        _write(base, fqrn, Intent(intent.goal, boot_id(), now, intent.run))
    base.store.settle()
    if dropped:
        notice(f"the machine was restarted during an export: {dropped} stored files of that time are fetched anew")


def doubtful_since(base: Base) -> int | None:
    """The time from which on stored files would be dropped, in nanoseconds; None: all of them are believed."""
    found = [intent.since for _, intent in _doubtful(base)]
    if base.has_store and (note := base.store.doubts()) is not None and (not note[0] or note[0] != boot_id()):
        found.append(note[1])
    return min(found, default=None)


def _doubtful(base: Base) -> list[tuple[str, Intent]]:
    """The open intents from before the machine's last start."""
    return [(fqrn, intent) for fqrn, intent in _open_intents(base) if not intent.boot_id or intent.boot_id != boot_id()]


def _drop_since(data: int, shard: bytes, since: int) -> int:
    dropped = 0
    folder = open_beneath(data, shard, DIRECTORY)
    try:
        for name in os.listdir(folder):
            if os.stat(name, dir_fd=folder, follow_symlinks=False).st_ctime_ns >= since:
                os.unlink(name, dir_fd=folder)
                dropped += 1
    finally:
        os.close(folder)
    return dropped


def _open_intents(base: Base) -> Iterator[tuple[str, Intent]]:
    try:
        listing = os.open(b".", DIRECTORY, dir_fd=base.folders.fd(b".provenance"))
    except FileNotFoundError:
        return
    try:
        names = os.listdir(listing)
    finally:
        os.close(listing)
    for fqrn in sorted(names):
        if not fqrn.startswith("."):
            intent = None
            with suppress(NotADirectoryError):
                intent = read_intent(base, fqrn)
            if intent is not None:
                yield fqrn, intent


def _write(base: Base, fqrn: str, intent: Intent) -> None:
    base.replace_file(base.provenance(fqrn) + _NAME, intent.to_bytes())
