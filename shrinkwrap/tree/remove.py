"""Removing a repository from a destination: its tree and its records. What they had in the store is garbage then.

Both go in one step each, into the folder that every run empties; an intent says meanwhile that the tree is not what the
record tells. Cut off, the same again finishes it, and an export makes the tree anew.
"""

from __future__ import annotations

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


@dataclass(slots=True)
class RemoveResult:
    """What was removed.

    Attributes:
        dest, fqrn: the destination and the repository.
        revision, root_hash: what its tree showed; 0 and empty if no record told.
        garbage: what was collected afterwards, if that was asked for.
        notices: what people should know.
    """

    dest: str
    fqrn: str
    revision: int = 0
    root_hash: str = ""
    garbage: GcResult | None = None
    notices: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "dest": self.dest,
            "fqrn": self.fqrn,
            "revision": self.revision,
            "root_hash": self.root_hash,
            "garbage": None if self.garbage is None else self.garbage.to_json(),
            "warnings": self.notices,
        }


def remove(dest: str, fqrn: str, *, gc: bool = False, wait: bool = False) -> RemoveResult:
    """Remove a repository's tree, its records, and what is known of its head.

    Args:
        gc: collect garbage afterwards.
        wait: wait for another run to end.

    Raises:
        DestinationError: no export of it was made there. LockedError, UsageError.
    """
    check_fqrn(fqrn)
    with opened(dest, wait=wait) as base:
        result = _remove(base, fqrn)
        if gc:
            try:
                result.garbage = collect(base, full=True)
                result.notices.extend(result.garbage.notices)
            except DestinationError as exc:
                result.notices.append(f"garbage was not collected: {exc.message}")
        return result


def _remove(base: Base, fqrn: str) -> RemoveResult:
    with Records(base.path) as records:
        names = records.names()
        kept = records.kept(fqrn) if fqrn in names else Kept(fqrn, None, False, None, False)
    ours = kept.record is not None or kept.unreadable or kept.intent is not None
    if fqrn not in names or (kept.tree and not ours):
        raise DestinationError(
            f"{base.path}: no export of {fqrn} was made here", hint=f"there are: {', '.join(names) or 'none'}"
        )
    result = RemoveResult(base.path, fqrn)
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
