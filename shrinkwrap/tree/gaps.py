"""Files that come out nowhere because no server has their object, where the user allows that (docs/snapshots.md).

The listed ones are tried before anything else: what is missing for certain is known then before the tree changes, and
to the rest of the run those files are none of the snapshot. What the store has is never missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.engine.work import Item, Result, Worker
from shrinkwrap.errors import MissingObject
from shrinkwrap.record.summary import Keys
from shrinkwrap.snapshot.view import Node, Report, View
from shrinkwrap.snapshot.walk import Walk
from shrinkwrap.spec.matcher import State
from shrinkwrap.tree.allowed import MOST, Allowed
from shrinkwrap.tree.disk import Names
from shrinkwrap.tree.place import Meta
from shrinkwrap.tree.request import GAP
from shrinkwrap.tree.sink import Wanted
from shrinkwrap.tree.summing import Passing

#: Objects that are tried at a time.
_BATCH = 256


class PassedBy:
    """Leaves out of a walk the catalogs that are as they were: they lack nothing."""

    def __init__(self, passing: Passing, keys: Keys) -> None:
        self._passing = passing
        self._keys = keys

    def enter(self, ref: NestedRef, state: State | None) -> int | None:
        summary = self._passing.get(self._keys.key(ref, state))
        return None if summary is None else summary.total.given

    def leave(self) -> None:
        """Nothing was kept for it."""


def find_gaps(
    walk: Walk, view: View, allowed: Allowed, names: Names, worker: Worker, told: Callable[[Result], None]
) -> dict[bytes, str]:
    """Try the listed files; the paths of those whose objects no server has, with their digests.

    What fails in another way is tried again with all others, and fails the run then.

    Args:
        walk, view: of the wanted snapshot, for this alone.
        names: names stored files.
        told: of what became of each batch, without the failures.

    Raises:
        MissingObject: more than :data:`~shrinkwrap.tree.allowed.MOST` files.
    """
    gaps: dict[bytes, str] = {}
    batch: list[Item] = []

    def work() -> None:
        result = worker.run(batch)
        digests = {item.path: str(item.content.digest) for item in batch}
        for path, error in result.failures:
            if type(error) is MissingObject:
                gaps[path] = digests[path]
        if len(gaps) > MOST:
            raise MissingObject(
                f"more than {MOST} files of the list of --allow-missing are missing", hint="leave them out by the spec"
            )
        result.failures.clear()
        told(result)
        batch.clear()

    for entry in walk:
        node = view.node(entry)
        if node is None or node.content is None or not allowed.takes(node.path, node.content):
            continue
        meta = Meta(node.mode, node.uid, node.gid, node.mtime_ns, node.xattrs)
        batch.append(Item(names(node), node.content, node.path, Wanted(meta, ())))
        if len(batch) >= _BATCH:
            work()
    if batch:
        work()
    return gaps


def without(
    walk: Walk, view: View, gaps: Mapping[bytes, str], report: Report, show: Callable[[Entry, Node], object]
) -> Iterator[Node]:
    """What :func:`~shrinkwrap.tree.aim.nodes` gives, without these files; each of them is reported."""
    for entry in walk:
        node = view.node(entry)
        if node is None:
            continue
        if node.content is not None and node.path in gaps:
            # Files that come out are counted without a gap.
            view.files = node.number
            report.add(GAP, node.path, gaps[node.path])
            continue
        show(entry, node)
        yield node
