"""What an export works towards: the snapshot that is asked for, how it is to come out, what --strict says to it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from shrinkwrap.cvmfs.blacklist import Blacklist
from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.cvmfs.manifest import Manifest, parse_manifest
from shrinkwrap.cvmfs.trust import KnownHead, check_fqrn
from shrinkwrap.errors import UsageError, WarningsAreErrors
from shrinkwrap.fetch.source import open_source
from shrinkwrap.fetch.types import Source
from shrinkwrap.record.record import RECORD_BYTES, Goal, Record, SeenHead
from shrinkwrap.snapshot.catalogs import ObjectKeeper
from shrinkwrap.snapshot.repository import Accepted, Repository, Revision
from shrinkwrap.snapshot.view import DIR, FILE, LINK, Node, View, ViewOptions
from shrinkwrap.snapshot.walk import Walk
from shrinkwrap.spec.grammar import Spec
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.lines import LineCounts
from shrinkwrap.tree.request import WARNINGS, ExportRequest, ExportResult

#: Warnings that the error of --strict names.
_NAMED: Final = 5
_COUNTED: Final = {FILE: "files", DIR: "dirs", LINK: "symlinks"}


class Aim(NamedTuple):
    """The snapshot to export; ``head`` is the verified manifest, None for a root hash that is taken unsigned."""

    revision: Revision
    head: Manifest | None


def check_request(request: ExportRequest) -> None:
    """What is wrong with a request is said before anything is made. Raises UsageError."""
    check_fqrn(request.source.fqrn)
    if request.keep_suid and os.geteuid() != 0:
        raise UsageError("--keep-suid needs root: other users can give no file to its owner", hint="leave it out")
    if request.workers < 0:
        raise UsageError(f"{request.workers} workers make no sense", hint="1 or more, or 0 for one for each CPU")
    request.pin.check()
    open_source(request.source).close()


def find_snapshot(
    request: ExportRequest,
    base: Base,
    source: Source,
    keeper: ObjectKeeper,
    *,
    scratch: str,
    notice: Callable[[str], None],
    remember: Callable[[Accepted], None],
) -> Aim:
    """The snapshot to export. A manifest that was verified before costs no more requests.

    Args:
        remember: told of a head that was verified now, not in an earlier run.

    Raises:
        TrustError, RollbackError, NetworkError, MissingObject, UsageError: see
        :class:`~shrinkwrap.snapshot.repository.Repository`.
    """
    fqrn = request.source.fqrn
    file = base.provenance(fqrn) + b"/head.json"
    seen = SeenHead.from_json(base.read_json(file, RECORD_BYTES))
    if seen is None and base.read_file(file, RECORD_BYTES) is not None:
        notice("head.json cannot be read: which head was seen last is forgotten, an older one would be accepted")
    last = seen
    if request.among:
        # A snapshot that is new has seen nothing yet: a head that another one would refuse is none for it either.
        from shrinkwrap.tree.snapshots import seen_last

        last = seen_last(request.among, fqrn) or seen
    now = time.time()
    repository = Repository(
        fqrn,
        source,
        keeper,
        request.keys,
        now=now,
        known=None if last is None else KnownHead(last.revision, last.root_hash, last.timestamp),
        allow_rollback=request.allow_rollback,
        blacklist=request.blacklist,
        scratch=scratch,
        notice=notice,
    )
    if request.pin.root_hash and request.pin.unsigned:
        notice("the root hash is taken without any signature: only the hash itself vouches for the content")
        return Aim(repository.resolve(request.pin), None)
    data = repository.manifest_bytes()
    newest = (
        seen is not None and last is not None and (seen.revision, seen.root_hash) == (last.revision, last.root_hash)
    )
    if seen is not None and newest and seen.vouches_for(data, request.keys, now) and request.blacklist == Blacklist():
        repository.accept(Accepted(parse_manifest(data), data, b"", seen.expires))
    else:
        remember(repository.head(data))
    return Aim(repository.resolve(request.pin), repository.head().manifest)


def goal_of(request: ExportRequest, revision: Revision, link_mode: str) -> Goal:
    """How the snapshot is to come out for this user.

    Args:
        link_mode: as the destination can.
    """
    spec = request.spec
    claim = request.claim or os.geteuid() != 0
    view = ViewOptions(
        claim=claim,
        uid=os.geteuid(),
        gid=os.getegid(),
        keep_suid=request.keep_suid,
        share_mtime=request.share_mtime,
        uid_map=None if claim else request.uid_map,
        gid_map=None if claim else request.gid_map,
        world_readable=request.world_readable,
    )
    root_hash = str(revision.root_hash)
    return Goal(
        request.source.fqrn,
        root_hash,
        revision.root.size,
        spec.text,
        spec.sha256,
        spec.rules,
        view,
        link_mode,
        request.marker,
    )


def nodes(walk: Walk, view: View, show: Callable[[Entry, Node], object] | None = None) -> Iterator[Node]:
    """The walk's entries as they are to come out; ``show`` is told of each."""
    for entry in walk:
        node = view.node(entry)
        if node is not None:
            if show is not None:
                show(entry, node)
            yield node


def tally(node: Node, counts: dict[str, int]) -> bool:
    """Count a path that comes out, and its bytes; False for one that is not of the repository."""
    kind = _COUNTED.get(node.kind)
    if kind is None:
        return False
    counts[kind] = counts.get(kind, 0) + 1
    if node.content is not None:
        counts["bytes"] = counts.get("bytes", 0) + node.content.size
    return True


def as_recorded(result: ExportResult, record: Record, spec: Spec) -> None:
    """Nothing is new: what comes out is what the last export counted."""
    lines = LineCounts(spec)
    lines.take(record.matched)
    result.lines = lines.to_json()
    result.counts.update((name, count) for name, count in record.counts.items() if name not in WARNINGS)
    result.report.counts.update((name, count) for name, count in record.counts.items() if name in WARNINGS)


def refuse(warnings: Sequence[str]) -> None:
    """What --strict does with warnings, before anything is touched. Raises WarningsAreErrors if there are any."""
    if warnings:
        named = warnings[:_NAMED]
        number = len(warnings)
        raise WarningsAreErrors(
            f"{number} warning{'s' if number != 1 else ''}: {'; '.join(named)}"
            + ("; …" if number > len(named) else ""),
            hint="nothing was touched; correct the specification, or leave out --strict",
        )
