"""What is there before a run, and whether there is anything to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from shrinkwrap.errors import CorruptObject, DestinationError, MissingObject, NetworkError, SpecError
from shrinkwrap.record.record import RECORD_BYTES, Goal, Intent, Record
from shrinkwrap.record.summary import Keys
from shrinkwrap.snapshot.catalogs import CatalogStore
from shrinkwrap.snapshot.view import Node, Report, View, object_name
from shrinkwrap.snapshot.walk import Walk, bring_catalogs
from shrinkwrap.spec.grammar import parse
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.tree.adopt import made_by_original
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.disk import Comparer, DiskComparer, DiskWalk, Names, Old, RecordComparer, RecordWalk, Stored
from shrinkwrap.tree.intents import read_intent
from shrinkwrap.tree.probe import Abilities
from shrinkwrap.tree.summing import Passing, options_of
from shrinkwrap.tree.update import Prunable


class Before(NamedTuple):
    """The old side of a merge: the stream, how to compare with it, how to prune it."""

    stream: Iterable[Old]
    comparer: Comparer
    walk: Prunable


class Known(NamedTuple):
    """What the last runs left behind: a record, an open intent, a tree."""

    record: Record | None
    intent: Intent | None
    tree: bool


class _Nothing:
    """No tree yet."""

    def prune(self) -> None:
        """There is nothing below anything."""

    def __iter__(self) -> Iterator[Old]:
        return iter(())


def namer(goal: Goal) -> Names:
    """Names stored files as an export for this goal does."""
    share_mtime = goal.view.share_mtime

    def name(node: Node) -> str:
        assert node.content is not None
        return object_name(node.content, node, share_mtime=share_mtime)

    return name


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
    if record is None or there.intent is not None or not there.tree or record.goal != goal:
        return False
    return all(variables.get(encode(name)) == _value(value) for name, value in record.variables.items())


def before(
    base: Base,
    there: Known,
    goal: Goal,
    catalogs: CatalogStore,
    store: Stored,
    abilities: Abilities,
    *,
    repair: bool,
    own: bool,
    notice: Callable[[str], None],
    passing: Passing | None = None,
) -> Before:
    """What is there now: by the record, or by the disk where the record cannot be believed.

    Args:
        passing: catalogs that both sides leave out.
    """
    record = there.record
    if not there.tree:
        nothing = _Nothing()
        return Before(nothing, RecordComparer(namer(goal)), nothing)
    if record is not None and by_record(there, goal, repair=repair):
        try:
            matcher = Matcher(parse(record.goal.spec, file="<record>", rules=record.goal.rules))
            borders = None
            if passing is None:
                bring_catalogs(catalogs, record.goal.root, matcher)
            else:
                borders = passing.follower(Keys(matcher, options_of(record.goal)))
                bring_catalogs(catalogs, record.goal.root, matcher, pass_by=borders.passes)
        except (MissingObject, CorruptObject, NetworkError, SpecError) as exc:
            notice(f"the catalogs of the last export are not to be had, asking the disk instead: {exc.message}")
        else:
            values = {encode(name): encode(value) for name, value in record.variables.items() if value is not None}
            view = View(record.goal.view, values, Report())
            walk = RecordWalk(
                Walk(catalogs, record.goal.root, matcher, borders=borders),
                view,
                marked=record.goal.marker,
                sums=borders,
            )
            return Before(walk, RecordComparer(namer(record.goal)), walk)
    tree = goal.fqrn.encode()
    disk = DiskWalk(base, tree)
    comparer = DiskComparer(base, tree, store, abilities, goal.link_mode, own=own, share_mtime=goal.view.share_mtime)
    return Before(disk, comparer, disk)


def by_record(there: Known, goal: Goal, *, repair: bool) -> bool:
    """Whether what is there is what the record says, so that nobody has to look at the disk."""
    record = there.record
    return (
        record is not None
        and there.tree
        and there.intent is None
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
