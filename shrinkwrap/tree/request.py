"""What an export is asked for, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from shrinkwrap.cvmfs.blacklist import Blacklist
from shrinkwrap.cvmfs.entry import show
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.cvmfs.owners import OwnerMap
from shrinkwrap.fetch.source import SourceConfig
from shrinkwrap.snapshot.repository import Pin
from shrinkwrap.snapshot.view import Node, Report
from shrinkwrap.spec.grammar import Spec
from shrinkwrap.tree.allowed import Allowed
from shrinkwrap.tree.place import HARDLINK

if TYPE_CHECKING:
    from shrinkwrap.tree.gc import GcResult


#: What a file is counted as whose object no server has, and that ``--allow-missing`` lets be left out.
GAP: Final = "missing_object"


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """One export.

    Attributes:
        source: where the bytes come from; its ``fqrn`` is the repository's.
        keys: master keys.
        spec: what is wanted.
        dest: destination; the tree is ``<dest>/<fqrn>``.
        pin: which snapshot.
        variables: for variant symlinks, by name.
        claim: everything belongs to the user who runs this (always so without root).
        uid_map, gid_map: other owners than the repository's.
        world_readable: everybody may read everything.
        keep_suid: keep set-id bits and file capabilities (root only).
        share_mtime: files that differ in their mtime only share one inode.
        link_mode: hardlink, reflink or copy.
        allow_rollback: accept a head that is older than the one seen last.
        repair: believe the disk instead of the record.
        wait: wait for another run to end.
        blacklist: of this site.
        listing: file for the listing of the export; none if empty.
        strict: refuse to touch anything if there is something to warn of.
        marker: put the original's marker file in the root of the tree.
        adopt: take over a destination that the original made (:mod:`shrinkwrap.tree.adopt`).
        store: folder of the store; empty: where it is, ``<dest>/.data`` for a new destination.
        workers: processes that bring objects, 1 for this one alone; 0: one for each CPU.
        gc: collect garbage afterwards (:mod:`shrinkwrap.tree.gc`).
        snapshot: name of a snapshot beside others: the tree is ``<dest>/<snapshot>/<fqrn>``
            (:mod:`shrinkwrap.tree.snapshots`); empty: none.
        switch: make the tree as a snapshot, then let ``<dest>/current`` lead to it.
        allow_missing: files that may be left out if no server has their object.
        among: the destination that a snapshot is in: what the others there have seen of the head counts.
    """

    source: SourceConfig
    keys: tuple[MasterKey, ...]
    spec: Spec
    dest: str
    pin: Pin = field(default_factory=Pin)
    variables: Mapping[bytes, bytes] = field(default_factory=dict)
    claim: bool = False
    uid_map: OwnerMap | None = None
    gid_map: OwnerMap | None = None
    world_readable: bool = False
    keep_suid: bool = False
    share_mtime: bool = False
    link_mode: str = HARDLINK
    allow_rollback: bool = False
    repair: bool = False
    wait: bool = False
    blacklist: Blacklist = field(default_factory=Blacklist)
    listing: str = ""
    strict: bool = False
    marker: bool = False
    adopt: bool = False
    workers: int = 0
    store: str = ""
    gc: bool = False
    snapshot: str = ""
    switch: bool = False
    allow_missing: Allowed = field(default_factory=Allowed)
    among: str = ""


@dataclass(slots=True)
class Hooks:
    """How a run tells what it is doing.

    Attributes:
        notice: a line that people should read.
        phase: a new phase begins; its name.
        expect: how many paths there are in the catalogs that are read: at most that many will come.
        node: one more path was dealt with.
        want: one more object is wanted.
        objects: objects done, bytes received, bytes written since the last call.
    """

    notice: Callable[[str], None] = lambda line: None
    phase: Callable[[str], None] = lambda name: None
    expect: Callable[[int], None] = lambda paths: None
    node: Callable[[Node], None] = lambda node: None
    want: Callable[[], None] = lambda: None
    objects: Callable[[int, int, int], None] = lambda done, received, written: None


#: Reports that people are warned of, with the words for it.
WARNINGS: Mapping[str, str] = {
    "line_without_match": "lines of the specification match nothing",
    "directory_without_star": "directories are named without /* and come out empty, though they are not",
    "special_file": "special files (fifo, socket, device) left out",
    "empty_link_target": "symbolic links whose target is empty left out",
    "unset_variable": "link targets use variables that are not set",
    "set_id_stripped": "set-user-id or set-group-id bits taken away (--keep-suid keeps them, as root)",
    "xattr_left_out": "extended attributes other than user.* left out",
    "xattr_lost": "extended attributes that the file system does not hold",
    "link_too_long": "symbolic links left out, because the file system does not hold their targets",
    "link_fallback": "files copied, because a hard link was refused",
    GAP: "files left out, because no server has their objects (--allow-missing)",
}
#: Those that a look at the catalogs foresees: what ``strict`` refuses.
FORESEEN: frozenset[str] = frozenset(WARNINGS) - {"xattr_lost", "link_too_long", "link_fallback", GAP}


@dataclass(slots=True)
class ExportResult:
    """How an export ended.

    ``reason``: ``exported``, ``unchanged`` (nothing was new), or the class of the error that ended it.
    """

    fqrn: str
    dest: str
    reason: str = "exported"
    root_hash: str = ""
    revision: int = 0
    timestamp: int = 0
    tag: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    report: Report = field(default_factory=Report)
    notices: list[str] = field(default_factory=list)
    abilities: str = ""
    #: What each line of the specification matched; empty if nothing was new.
    lines: list[dict[str, Any]] = field(default_factory=list)
    #: Nothing was done: the numbers are what would be (:func:`shrinkwrap.tree.dry.dry_run`).
    dry_run: bool = False
    #: What was collected afterwards; None if that was not asked for, or there was nothing to do.
    garbage: GcResult | None = None
    #: Name of the snapshot that the tree is in; empty for that of a destination itself.
    snapshot: str = ""
    #: ``current`` leads to it since this run.
    switched: bool = False

    def warnings(self) -> list[str]:
        """All that people should know, a line each: notices, then what was left out or changed, with examples."""
        lines = list(self.notices)
        for what, words in WARNINGS.items():
            number = self.report.counts.get(what, 0)
            if number:
                cases = [
                    show(path) + (f" ({detail})" if detail else "")
                    for path, detail in self.report.cases.get(what, [])[:3]
                ]
                examples = f": {', '.join(cases)}" + (", …" if number > len(cases) else "") if cases else ""
                lines.append(f"{number} {words}{examples}")
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "command": "export",
            "fqrn": self.fqrn,
            "dest": self.dest,
            "snapshot": self.snapshot,
            "switched": self.switched,
            "reason": self.reason,
            "dry_run": self.dry_run,
            "root_hash": self.root_hash,
            "revision": self.revision,
            "timestamp": self.timestamp,
            "tag": self.tag,
            "counts": dict(sorted(self.counts.items())),
            "bytes": self.bytes,
            "lines": self.lines,
            "garbage": None if self.garbage is None else self.garbage.to_json(),
            "left_out": dict(sorted(self.report.counts.items())),
            "variables": {
                name.decode("utf-8", "backslashreplace"): None
                if value is None
                else value.decode("utf-8", "backslashreplace")
                for name, value in sorted(self.report.variables.items())
            },
            "warnings": self.warnings(),
            "destination": self.abilities,
        }
