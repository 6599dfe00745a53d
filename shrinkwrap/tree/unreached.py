"""What is kept in ``.provenance`` and no record leads to any more: catalogs, histories, certificates, summaries."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.digest import Digest
from shrinkwrap.cvmfs.manifest import parse_manifest
from shrinkwrap.errors import CorruptObject, DestinationError, MissingObject, ShrinkwrapError, SpecError
from shrinkwrap.record.record import Goal, SeenHead
from shrinkwrap.record.statement import STATEMENT_BYTES, Statement
from shrinkwrap.record.summaries import SummaryStore
from shrinkwrap.record.summary import file_name
from shrinkwrap.snapshot.walk import bring_catalogs
from shrinkwrap.spec.grammar import parse
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.beneath import DIRECTORY, open_beneath
from shrinkwrap.tree.needs import kept_catalogs
from shrinkwrap.tree.records import Records
from shrinkwrap.tree.summing import FOLDER as SUMMARIES
from shrinkwrap.tree.summing import open_summaries

OBJECTS: Final = b".provenance/.objects"
_SHARD: Final = re.compile(r"[0-9a-f]{2}")
#: The names that exports give: other files are nobody's business.
_OBJECT: Final = re.compile(r"[0-9a-f]{38}(-rmd160|-shake128)?[CHX]")
_SUMMARY: Final = re.compile(r"[0-9a-f]{38}")


class Freed(NamedTuple):
    """So many files, and the bytes in them."""

    files: int = 0
    bytes: int = 0


class Reached(NamedTuple):
    """What the records of a destination lead to, by path below the folders of objects and of summaries."""

    objects: set[str]
    summaries: set[str]


def reached(base: Base, scratch: str) -> Reached:
    """What the records of a destination lead to.

    Raises:
        DestinationError: catalogs are missing, so that it cannot be told. OSError.
    """
    found = Reached(set(), set())
    store = open_summaries(base)
    with Records(base.path) as records:
        for fqrn in records.names():
            kept = records.kept(fqrn)
            if kept.unreadable or (kept.intent is not None and kept.intent.goal is None):
                raise _unknown(base, fqrn, "its record cannot be read")
            if kept.intent is not None and kept.intent.goal is not None:
                _by_catalogs(base, kept.intent.goal, scratch, found)
            record = kept.record
            if record is not None and not (record.summary and _by_summaries(store, record.summary, found)):
                _by_catalogs(base, record.goal, scratch, found)
            found.objects.update(_of_head(records, fqrn))
    return found


def _unknown(base: Base, fqrn: str, why: str) -> DestinationError:
    return DestinationError(
        f"{base.path}: {fqrn}: {why}; so which catalogs it needs is not known",
        hint="run its export again with --repair",
    )


def _by_summaries(store: SummaryStore, root: str, found: Reached) -> bool:
    """The catalogs of a record by its summaries; False if these are not all there. What is there is kept anyhow."""
    whole = True
    stack = [root]
    while stack:
        key = stack.pop()
        name = file_name(key)
        if name in found.summaries:
            continue
        summary = store.get(key)
        if summary is None:
            whole = False
            continue
        found.summaries.add(name)
        found.objects.add(_path(f"{summary.catalog}C"))
        stack.extend(child.key for child in summary.children)
    return whole


def _by_catalogs(base: Base, goal: Goal, scratch: str, found: Reached) -> None:
    """The catalogs that a walk for a goal opens."""
    catalogs = kept_catalogs(base.path, scratch)

    def note(ref: NestedRef, state: object = None) -> bool:
        found.objects.add(_path(f"{ref.digest}C"))
        return False

    try:
        note(goal.root)
        bring_catalogs(catalogs, goal.root, Matcher(parse(goal.spec, file="<record>", rules=goal.rules)), pass_by=note)
    except (MissingObject, CorruptObject, SpecError) as exc:
        raise _unknown(base, goal.fqrn, f"its catalogs are not all kept ({exc.message})") from None
    finally:
        catalogs.close()


def _of_head(records: Records, fqrn: str) -> Iterator[str]:
    """Certificates and histories: of the head seen last, and those that the statement names."""
    named: list[tuple[Digest | None, str]] = []
    with suppress(ShrinkwrapError, ValueError):
        seen = SeenHead.from_json(records.json(fqrn, "head.json"))
        if seen is not None:
            manifest = parse_manifest(bytes.fromhex(seen.manifest))
            named += [(manifest.certificate, "X"), (manifest.history, "H")]
    with suppress(ShrinkwrapError):
        stated = records.read(fqrn, "statement.json", STATEMENT_BYTES)
        if stated is not None:
            statement = Statement.from_bytes(stated[0])
            named += [(one.digest, "X") for one in (statement.certificate,) if one is not None]
            named += [(one.digest, "H") for one in (statement.history,) if one is not None]
    for digest, suffix in named:
        if digest is not None:
            yield _path(f"{digest}{suffix}")


def _path(name: str) -> str:
    return f"{name[:2]}/{name[2:]}"


def sweep(base: Base, needed: Reached, before: int, *, dry_run: bool) -> tuple[Freed, Freed]:
    """Remove what is not needed: objects, and summaries.

    Args:
        before: a time in nanoseconds; what changed since stays.
        dry_run: remove nothing.
    """
    return (
        _sweep(base, OBJECTS, _OBJECT, needed.objects, before, dry_run=dry_run),
        _sweep(base, SUMMARIES, _SUMMARY, needed.summaries, before, dry_run=dry_run),
    )


def _sweep(base: Base, top: bytes, ours: re.Pattern[str], needed: set[str], before: int, *, dry_run: bool) -> Freed:
    files = size = 0
    for shard in _names(base, top):
        if _SHARD.fullmatch(shard) is None:
            continue
        place = top + b"/" + shard.encode()
        for name in _names(base, place):
            if ours.fullmatch(name) is None or f"{shard}/{name}" in needed:
                continue
            folder = base.folders.fd(place)
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(info.st_mode) or info.st_ctime_ns >= before:
                continue
            if not dry_run:
                os.unlink(name, dir_fd=folder)
            files += 1
            size += info.st_size
    return Freed(files, size)


def _names(base: Base, place: bytes) -> list[str]:
    """What is in a folder; nothing if it is none."""
    try:
        fd = open_beneath(base.fd, place, DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)
