"""What is in a destination: its repositories, their records, its store. Only read, without lock, by whoever may."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Final

from shrinkwrap.errors import DestinationError
from shrinkwrap.record.record import Intent, Record
from shrinkwrap.record.runlog import read_runs
from shrinkwrap.tree import dropped
from shrinkwrap.tree.beneath import DIRECTORY
from shrinkwrap.tree.records import Kept, Records
from shrinkwrap.tree.snapshots import is_current, snapshots
from shrinkwrap.tree.storage import explain, read_description

#: The tree is what the record says.
EXPORTED: Final = "exported"
#: There is an intent: a run is under way, or was cut off.
OPEN: Final = "open"
#: There is a record, but no tree.
NO_TREE: Final = "no tree"
#: There is a record that cannot be read.
UNREADABLE: Final = "unreadable"
#: Runs have tried, none came to an end.
NOTHING: Final = "nothing"

_BASE_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class RepositoryStatus:
    """One repository of a destination.

    Attributes:
        state: one of the constants of this module.
        record: of the last export that ended well, if it can be read; ``exported``: when that was, in seconds since
            the epoch.
        intent: of a run that is under way, or was cut off.
        last_run: the last line of the run log (docs/provenance.md), if there is one that can be read.
    """

    fqrn: str
    state: str
    record: Record | None
    exported: float
    intent: Intent | None
    last_run: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        record, intent, run = self.record, self.intent, self.last_run
        return {
            "fqrn": self.fqrn,
            "state": self.state,
            "record": None if record is None else {**_of_record(record), "exported": round(self.exported, 3)},
            "intent": None
            if intent is None
            else {
                "run": intent.run,
                "root_hash": "" if intent.goal is None else intent.goal.root_hash,
                "spec_sha256": "" if intent.goal is None else intent.goal.spec_sha256,
            },
            "last_run": None
            if run is None
            else {name: run.get(name) for name in ("run", "start", "end", "reason", "exit_code", "error")},
        }


def _of_record(record: Record) -> dict[str, Any]:
    goal = record.goal
    return {
        "revision": record.revision,
        "tag": record.tag,
        "root_hash": goal.root_hash,
        "timestamp": record.timestamp,
        "spec_sha256": goal.spec_sha256,
        "rules": goal.rules,
        "link_mode": goal.link_mode,
        "marker": goal.marker,
        "variables": record.variables,
        "counts": record.counts,
        "tool": record.tool,
    }


@dataclass(slots=True)
class Status:
    """A destination.

    Attributes:
        dest: its real path.
        store: where its stored files are; empty if that may not be read.
        bases: destinations elsewhere that are noted in the store; None if that may not be read.
        dropped: something was dropped since garbage was collected last, or it never was; None if that may not be read.
        original: what is left of a store of the original waits in it.
        repositories: by name.
        snapshots: those beside each other in it, by name (:mod:`shrinkwrap.tree.snapshots`).
        current: the name of the one that its link ``current`` leads to; empty if there is none.
    """

    dest: str
    store: str = ""
    bases: list[str] | None = None
    dropped: bool | None = None
    original: bool = False
    repositories: list[RepositoryStatus] = field(default_factory=list)
    snapshots: dict[str, list[RepositoryStatus]] = field(default_factory=dict)
    current: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "dest": self.dest,
            "store": self.store,
            "bases": self.bases,
            "dropped": self.dropped,
            "original": self.original,
            "repositories": [one.to_json() for one in self.repositories],
            "snapshots": [
                {
                    "name": name,
                    "current": name == self.current,
                    "repositories": [one.to_json() for one in repositories],
                }
                for name, repositories in self.snapshots.items()
            ],
            "current": self.current,
        }


def status(dest: str) -> Status:
    """What is in a destination.

    Raises:
        DestinationError: no export was made there, or it may not be read.
    """
    path = os.path.realpath(dest)
    try:
        if not any(os.path.lexists(os.path.join(path, name)) for name in (".provenance", ".data")):
            raise DestinationError(
                f"{dest}: no export was made here", hint="name the destination, which holds .data and .provenance"
            )
        found = Status(path, repositories=_repositories(path))
        for name in snapshots(path):
            found.snapshots[name] = _repositories(os.path.join(path, name))
            if is_current(os.path.join(path, name)):
                found.current = name
        _store(found)
    except OSError as exc:
        raise explain(exc, dest) from exc
    return found


def _repositories(path: str) -> list[RepositoryStatus]:
    with Records(path) as records:
        return [_repository(records, fqrn) for fqrn in records.names()]


def _repository(records: Records, fqrn: str) -> RepositoryStatus:
    kept = records.kept(fqrn)
    written = None if kept.record is None else records.read(fqrn, "record.json")
    folder = records.folder(fqrn)
    last = None
    try:
        for run in read_runs(folder):
            last = run
    except PermissionError:
        pass  # the log is not for everybody
    finally:
        os.close(folder)
    exported = 0.0 if written is None else written[1].st_mtime
    return RepositoryStatus(fqrn, _state(kept), kept.record, exported, kept.intent, last)


def _state(kept: Kept) -> str:
    if kept.intent is not None:
        return OPEN
    if kept.unreadable:
        return UNREADABLE
    if kept.record is None:
        return NOTHING
    return EXPORTED if kept.tree else NO_TREE


def _store(found: Status) -> None:
    """What there is to say of the store, as far as it may be read."""
    data = os.path.join(found.dest, ".data")
    try:
        description = _description(data)
        there = description.get("store") if description is not None else None
        place = os.path.realpath(there) if isinstance(there, str) and os.path.isabs(there) else data
        found.store = place
        fd = os.open(place, DIRECTORY)
    except (FileNotFoundError, PermissionError, ValueError):
        return
    try:
        found.dropped = not dropped.empty_in(fd)
        found.original = os.access("old", os.F_OK, dir_fd=fd, follow_symlinks=False)
        found.bases = _bases(fd)
    except PermissionError:
        return
    finally:
        os.close(fd)


def _description(folder: str) -> dict[str, Any] | None:
    fd = os.open(folder, DIRECTORY)
    try:
        return read_description(fd)
    finally:
        os.close(fd)


def _bases(store: int) -> list[str]:
    """The destinations that are noted in a store; what does not name one is left out."""
    try:
        folder = os.open("bases", DIRECTORY, dir_fd=store)
    except FileNotFoundError:
        return []
    found = []
    try:
        for name in os.listdir(folder):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            try:
                data = os.read(fd, _BASE_BYTES)
            finally:
                os.close(fd)
            if data.startswith(b"/") and b"\0" not in data and not name.endswith(".new"):
                found.append(os.fsdecode(data))
    finally:
        os.close(folder)
    return sorted(found)
