"""Who needs stored files: the destinations that use a store, and what their records and open intents want of it.

A hard link is its own witness: a stored file with two links or more is shown by a path. What only records tell of are
files that were copied from the store, and those that a run which was cut off has yet to link.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from shrinkwrap.errors import CorruptObject, DestinationError, MissingObject, SpecError
from shrinkwrap.record.record import Goal
from shrinkwrap.snapshot.catalogs import CatalogStore, ObjectKeeper
from shrinkwrap.snapshot.keep import KeepAbove, KeepFolder
from shrinkwrap.snapshot.view import Report, View
from shrinkwrap.snapshot.walk import Walk
from shrinkwrap.spec.grammar import parse
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.tree.aim import nodes
from shrinkwrap.tree.before import namer
from shrinkwrap.tree.beneath import DIRECTORY
from shrinkwrap.tree.buckets import Buckets
from shrinkwrap.tree.place import HARDLINK
from shrinkwrap.tree.records import Kept, Records
from shrinkwrap.tree.storage import Storage, read_description

_WIDTH: Final = 16


class Need(NamedTuple):
    """A repository's export at a destination that needs all its stored files, whatever their links say."""

    base: str
    fqrn: str
    goal: Goal

    def __str__(self) -> str:
        return f"{self.fqrn} in {self.base}"


def users(store: Storage, base: str, without: Sequence[str] = ()) -> list[str]:
    """The destinations that use a store; ``base`` is one of them.

    Args:
        without: destinations that are noted, but use it no more.

    Raises:
        DestinationError: one of them cannot be reached, so that nobody can tell what it needs. OSError.
    """
    found = [base]
    above, name = os.path.split(store.path)
    if name == ".data" and above != base and os.path.isdir(os.path.join(above, ".provenance")):
        found.append(above)
    noted = [place for place in store.bases() if place not in found and place not in without]
    found.extend(place for place in noted if uses(place, store.path))
    return found


def uses(place: str, store: str) -> bool:
    """Whether a destination that is noted in a store still uses it.

    Raises:
        DestinationError: it cannot be reached. OSError.
    """
    data = os.path.join(place, ".data")
    try:
        fd = os.open(data, DIRECTORY)
    except FileNotFoundError:
        raise unreachable(place, store) from None
    try:
        description = read_description(fd)
    finally:
        os.close(fd)
    if description is None:
        # Its first run was cut off before it had done anything.
        if os.path.lexists(os.path.join(place, ".provenance")):
            raise unreachable(place, store)
        return False
    there = description.get("store")
    if not isinstance(there, str) or (there and not os.path.isabs(there)):
        raise unreachable(place, store)
    return bool(there) and os.path.realpath(there) == os.path.realpath(store)


def unreachable(place: str, store: str) -> DestinationError:
    return DestinationError(
        f"{place} uses the store {store}, and is not there: which stored files it needs is not known",
        hint=f"mount what it is on; if it is gone for good, 'shrinkwrap gc --forget {place}' strikes it off",
    )


def needs(bases: list[str], *, counted: bool) -> list[Need]:
    """The exports whose stored files links do not tell of.

    Args:
        bases: destinations.
        counted: the file system counts links; else all exports are among them.

    Raises:
        DestinationError: what is needed is not known. OSError.
    """
    found: list[Need] = []
    for base in bases:
        with Records(base) as records:
            for fqrn in records.names():
                found.extend(_of(base, records.kept(fqrn), counted=counted))
    return found


def _of(base: str, kept: Kept, *, counted: bool) -> Iterator[Need]:
    record, intent = kept.record, kept.intent
    if kept.unreadable and intent is None:
        raise _unknown(base, kept.fqrn, "its record cannot be read")
    if intent is not None:
        if intent.goal is None:
            raise _unknown(base, kept.fqrn, "a run was cut off, and what it was to make cannot be read")
        yield Need(base, kept.fqrn, intent.goal)
    if record is None or (intent is not None and record.goal == intent.goal):
        return
    linked = record.goal.link_mode == HARDLINK and not record.counts.get("link_fallback")
    if intent is not None or not (linked and kept.tree and counted):
        yield Need(base, kept.fqrn, record.goal)


def _unknown(base: str, fqrn: str, why: str) -> DestinationError:
    return DestinationError(
        f"{base}: {fqrn}: {why}; so which stored files it needs is not known",
        hint=f"run its export again with --repair, or 'shrinkwrap remove {base} -r {fqrn}'; then collect garbage",
    )


def kept_catalogs(base: str, scratch: str) -> CatalogStore:
    """The catalogs that a destination keeps. Nothing is fetched, and nothing there is changed."""
    folder = os.path.join(scratch, "lacking")
    os.makedirs(folder, exist_ok=True)
    kept = KeepFolder(os.path.join(base, ".provenance", ".objects"), scratch)
    return CatalogStore(ObjectKeeper(None, KeepAbove(kept, KeepFolder(folder, scratch))), scratch)


class Wanted:
    """The names of stored files that exports need, as hashes: in flat memory, whatever their number.

    Args:
        scratch: folder for it.
    """

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._names = Buckets(scratch)

    def add(self, need: Need) -> None:
        """All that an export needs.

        Raises:
            DestinationError: its catalogs are not all there.
        """
        goal = need.goal
        catalogs = kept_catalogs(need.base, self._scratch)
        try:
            matcher = Matcher(parse(goal.spec, file="<record>", rules=goal.rules))
            # Variables decide nothing about files.
            name = namer(goal)
            for node in nodes(Walk(catalogs, goal.root, matcher), View(goal.view, {}, Report())):
                if node.content is not None:
                    stored = name(node)
                    self._names.add(stored[:2], _hash(stored))
        except (MissingObject, CorruptObject, SpecError) as exc:
            raise _unknown(need.base, need.fqrn, f"its catalogs are not all kept ({exc.message})") from None
        finally:
            catalogs.close()

    def of(self, shard: str) -> WantedOfShard:
        """Those in one folder of the store."""
        data = self._names.read(shard)
        return WantedOfShard({data[at : at + _WIDTH] for at in range(0, len(data), _WIDTH)})

    def close(self) -> None:
        self._names.close()


class WantedOfShard:
    """The names in one folder of the store that are needed."""

    __slots__ = ("_hashes",)

    def __init__(self, hashes: set[bytes]) -> None:
        self._hashes = hashes

    def __contains__(self, stored: str) -> bool:
        return _hash(stored) in self._hashes


def _hash(stored: str) -> bytes:
    return blake2b(stored.encode(), digest_size=_WIDTH).digest()
