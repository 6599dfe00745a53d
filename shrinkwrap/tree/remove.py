"""Removing a repository from a destination: its tree and its records. What they had in the store is garbage then.

Both go in one step each, into the folder that every run empties; an intent says meanwhile that the tree is not what the
record tells. Cut off, the same again finishes it, and an export makes the tree anew.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import Any

from shrinkwrap.cvmfs.trust import check_fqrn
from shrinkwrap.errors import DestinationError
from shrinkwrap.record.record import Intent
from shrinkwrap.tree import dropped
from shrinkwrap.tree.base import Base, boot_id, remove_tree
from shrinkwrap.tree.gc import GcResult, collect, opened, strike_off_empty
from shrinkwrap.tree.records import Kept, Records
from shrinkwrap.tree.snapshots import CURRENT, existing, is_current, place_of
from shrinkwrap.tree.storage import explain


@dataclass(slots=True)
class RemoveResult:
    """What was removed.

    Attributes:
        dest, fqrn: the destination and the repository.
        snapshot: name of the snapshot it was in; ``whole``: that is gone, with all repositories that were in it.
        repositories: all that were removed; ``fqrn`` is the last of them, empty if there was none.
        revision, root_hash: what its tree showed; 0 and empty if no record told.
        garbage: what was collected afterwards, if that was asked for.
        notices: what people should know.
    """

    dest: str
    fqrn: str
    revision: int = 0
    root_hash: str = ""
    snapshot: str = ""
    whole: bool = False
    repositories: list[str] = field(default_factory=list)
    garbage: GcResult | None = None
    notices: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "dest": self.dest,
            "fqrn": self.fqrn,
            "revision": self.revision,
            "root_hash": self.root_hash,
            "snapshot": self.snapshot,
            "whole": self.whole,
            "repositories": self.repositories,
            "garbage": None if self.garbage is None else self.garbage.to_json(),
            "warnings": self.notices,
        }


def remove(dest: str, fqrn: str, *, gc: bool = False, wait: bool = False) -> RemoveResult:
    """Remove a repository's tree, its records, and what is known of its head.

    Args:
        gc: collect garbage afterwards.
        wait: wait for another run to end.

    Raises:
        DestinationError: no export of it was made there, or it is in the snapshot that readers use. LockedError,
        UsageError.
    """
    check_fqrn(fqrn)
    _leave_current(dest)
    with opened(dest, wait=wait) as base:
        # Whoever had the lock before may have led readers there.
        _leave_current(dest)
        result = _remove(base, fqrn)
        if gc:
            _collect(base, result)
        return result


def remove_snapshot(dest: str, name: str, fqrn: str = "", *, gc: bool = False, wait: bool = False) -> RemoveResult:
    """Remove a snapshot, or one repository in it; with the last one the snapshot goes.

    Args:
        dest: the destination that it is in.
        fqrn: empty: all.
        gc, wait: as those of :func:`remove`.

    Raises:
        DestinationError: there is no such snapshot, or readers use it. LockedError, UsageError.
    """
    place = place_of(dest, name)
    if not _is_rest(place):
        existing(dest, name)
    if fqrn:
        check_fqrn(fqrn)
    _leave_current(place)
    result = RemoveResult(os.path.dirname(place), fqrn, snapshot=name)
    if _is_rest(place):
        result.whole = _discard_rest(place, result)
    else:
        with opened(place, wait=wait) as base:
            _leave_current(place)
            with Records(base.path) as records:
                names = records.names()
            for one in (fqrn,) if fqrn else names:
                done = _remove(base, one)
                result.fqrn, result.revision, result.root_hash = one, done.revision, done.root_hash
                result.repositories.append(one)
            if set(names) <= set(result.repositories):
                strike_off_empty(base)
                # The lock goes with it: whoever waits for it has that of the store to wait for next.
                remove_tree(os.path.join(os.fsencode(place), b".provenance"))
                result.whole = _discard_rest(place, result)
    if gc:
        with opened(dest, wait=wait) as base:
            _collect(base, result)
    return result


def _leave_current(place: str) -> None:
    if is_current(place):
        top, name = os.path.split(os.path.realpath(place))
        raise DestinationError(
            f"{top}/{CURRENT} leads to {name}: readers use it",
            hint=f"export another one with --switch first; or remove the link {top}/{CURRENT}",
        )


def _is_rest(place: str) -> bool:
    """What a removal left that was cut off: neither records nor a store."""
    try:
        names = os.listdir(place)
    except FileNotFoundError:
        return False
    return set(names) <= {".data"} and not os.path.lexists(os.path.join(place, ".data", "store.json"))


def _discard_rest(place: str, result: RemoveResult) -> bool:
    """The last of a snapshot, whose repositories are gone. False if there are things in it that are not ours."""
    try:
        remove_tree(os.path.join(os.fsencode(place), b".data"))
        os.rmdir(place)
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise explain(exc, place) from exc
        result.notices.append(f"{place}: not removed, there are files in it that no export put there")
        return False
    return True


def _collect(base: Base, result: RemoveResult) -> None:
    try:
        result.garbage = collect(base, full=True)
        result.notices.extend(result.garbage.notices)
    except DestinationError as exc:
        result.notices.append(f"garbage was not collected: {exc.message}")


def _remove(base: Base, fqrn: str) -> RemoveResult:
    with Records(base.path) as records:
        names = records.names()
        kept = records.kept(fqrn) if fqrn in names else Kept(fqrn, None, False, None, False)
    ours = kept.record is not None or kept.unreadable or kept.intent is not None
    if fqrn not in names or (kept.tree and not ours):
        raise DestinationError(
            f"{base.path}: no export of {fqrn} was made here", hint=f"there are: {', '.join(names) or 'none'}"
        )
    result = RemoveResult(base.path, fqrn, repositories=[fqrn])
    if kept.record is not None:
        result.revision, result.root_hash = kept.record.revision, kept.record.goal.root_hash
    folder = base.provenance(fqrn)
    if ours and kept.intent is None:
        goal = None if kept.record is None else kept.record.goal
        # Nothing of it was written lately: a power cut can have broken none of its objects.
        intent = Intent(goal, boot_id(), base.clock(), base.run)
        base.replace_file(folder + b"/intent.json", intent.to_bytes())
    dropped.forget(base.store)
    base.make_folder(b".data/trash", 0o700)
    if kept.tree:
        _discard(base, b"", os.fsencode(fqrn))
    # The record must not go before the tree: nobody could tell then whose it is.
    _discard(base, b".provenance", os.fsencode(fqrn))
    strike_off_empty(base)
    return result


def _discard(base: Base, parent: bytes, name: bytes) -> None:
    """Move a folder out of the way, durably, and remove it. Cut off, the next run does the rest."""
    trash = b".data/trash"
    gone = base.run.encode() + base.temporary()
    if os.geteuid() != 0:
        # Renaming a directory changes its "..", which needs write permission on it.
        os.chmod(f"/proc/self/fd/{base.folders.fd(parent + b'/' + name if parent else name)}", 0o700)
    source = os.dup(base.folders.fd(parent))
    try:
        os.rename(name, gone, src_dir_fd=source, dst_dir_fd=base.folders.fd(trash))
    finally:
        os.close(source)
    base.folders.clear()
    base.sync_folder(parent)
    remove_tree(os.path.join(os.fsencode(base.path), trash, gone))
