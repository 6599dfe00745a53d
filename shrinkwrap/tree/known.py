"""What the last runs left behind, and whether there is anything to do. A run that has nothing to do needs no more."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from shrinkwrap.errors import DestinationError
from shrinkwrap.record.record import RECORD_BYTES, Goal, Intent, Record
from shrinkwrap.tree.adopt import made_by_original
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.intents import read_intent
from shrinkwrap.tree.request import GAP


class Known(NamedTuple):
    """What the last runs left behind: a record, an open intent, a tree."""

    record: Record | None
    intent: Intent | None
    tree: bool


def known(base: Base, fqrn: str, *, repair: bool, adopt: bool = False) -> Known:
    """Read what is there.

    Raises:
        DestinationError: a tree that no export made, unless ``repair``; or ``adopt`` for one that the original made.
    """
    folder = base.provenance(fqrn)
    record = Record.from_json(base.read_json(folder + b"/record.json", RECORD_BYTES))
    intent = read_intent(base, fqrn)
    place = os.path.join(base.path, fqrn)
    tree = os.path.lexists(place)
    if tree and not repair and (os.path.islink(place) or not os.path.isdir(place)):
        raise DestinationError(
            f"{place} is not a folder",
            hint="choose another destination; or --repair removes it and puts the tree in its place",
        )
    ours = (
        record is not None or intent is not None or base.read_file(folder + b"/record.json", RECORD_BYTES) is not None
    )
    if tree and not ours and any(os.path.lexists(os.path.join(place, name)) for name in (".provenance", ".data")):
        raise DestinationError(
            f"{place} is a destination of its own, such as a snapshot", hint="choose another destination"
        )
    if tree and not ours and not repair and os.listdir(place):
        original = made_by_original(base, fqrn)
        if not original or not (adopt or base.adopting):
            option = "--adopt" if original else "--repair"
            raise DestinationError(
                f"{place} is there already, and no record says that an export made it",
                hint=f"choose another destination; or {option} takes it over and removes all that the spec does not"
                " select",
            )
    return Known(record, intent, tree)


def nothing_new(there: Known, goal: Goal, variables: Mapping[bytes, bytes]) -> bool:
    """True if the record says that the tree is what the goal wants, and no run was cut off since."""
    record = there.record
    if record is None or there.intent is not None or not there.tree or gaps_in(record):
        return False
    return same_wish(record, goal, variables)


def same_wish(record: Record, goal: Goal, variables: Mapping[bytes, bytes]) -> bool:
    """Whether a record is of an export that would come out the same for this goal and these variables."""
    if record.goal != goal:
        return False
    return all(variables.get(encode(name)) == _value(value) for name, value in record.variables.items())


def gaps_in(record: Record) -> int:
    """Files that the tree of a record lacks because no server had their objects."""
    return record.counts.get(GAP, 0)


def by_record(there: Known, goal: Goal, *, repair: bool) -> bool:
    """Whether what is there is what the record says, so that nobody has to look at the disk."""
    record = there.record
    return (
        record is not None
        and there.tree
        and there.intent is None
        and not gaps_in(record)
        and not repair
        and record.goal.link_mode == goal.link_mode
    )


def encode(text: str) -> bytes:
    """Variables are bytes; in records they are text with what is not UTF-8 as surrogates."""
    return text.encode("utf-8", "surrogateescape")


def decode(raw: bytes) -> str:
    """The inverse of :func:`encode`."""
    return raw.decode("utf-8", "surrogateescape")


def _value(text: str | None) -> bytes | None:
    return None if text is None else encode(text)
