"""What is there before a run, and whether there is anything to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from shrinkwrap.errors import CorruptObject, MissingObject, NetworkError, SpecError
from shrinkwrap.record.record import Goal
from shrinkwrap.record.summary import Keys
from shrinkwrap.snapshot.catalogs import CatalogStore
from shrinkwrap.snapshot.view import Node, Report, View, object_name
from shrinkwrap.snapshot.walk import Walk, bring_catalogs
from shrinkwrap.spec.grammar import parse
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.disk import Comparer, DiskComparer, DiskWalk, Names, Old, RecordComparer, RecordWalk, Stored
from shrinkwrap.tree.known import Known, by_record, encode
from shrinkwrap.tree.probe import Abilities
from shrinkwrap.tree.summing import Passing, options_of
from shrinkwrap.tree.update import Prunable


class Before(NamedTuple):
    """The old side of a merge: the stream, how to compare with it, how to prune it."""

    stream: Iterable[Old]
    comparer: Comparer
    walk: Prunable


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
