"""The summaries of a run: what it says of each catalog, and which it may pass by (docs/internals/summaries.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import BinaryIO, Final

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.errors import CorruptObject
from shrinkwrap.record.collect import Collector
from shrinkwrap.record.listing import entry_line
from shrinkwrap.record.record import Goal, Record
from shrinkwrap.record.summaries import SummaryStore
from shrinkwrap.record.summary import Keys, Summary
from shrinkwrap.record.sums import PACKED, UNKNOWN, Sums
from shrinkwrap.snapshot.catalogs import CatalogStore
from shrinkwrap.snapshot.view import Node, Report
from shrinkwrap.spec.matcher import Matcher, State
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.request import GAP

FOLDER: Final = b".provenance/.summaries"
_NO_STAR: Final = "directory_without_star"
_NOTED_AT_ONCE: Final = 4096


def options_of(goal: Goal) -> bytes:
    """The options that change how entries come out, as bytes: part of each summary's key."""
    return json.dumps(goal.to_json()["view"], sort_keys=True).encode()


def open_summaries(base: Base) -> SummaryStore:
    """The summaries of a destination."""
    folder = os.path.join(base.path, os.fsdecode(FOLDER))

    def read(name: str) -> BinaryIO:
        return open(os.path.join(folder, name), "rb")

    return SummaryStore(read)


class Passing:
    """Catalogs that are what they were when the record was made, so that both walks may leave them out.

    Args:
        store: the summaries.
        record: of what is there.
        values: of variables, for the run.
    """

    def __init__(self, store: SummaryStore, record: Record, values: Mapping[bytes, bytes]) -> None:
        before = {
            name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape")
            for name, value in record.variables.items()
            if value is not None
        }
        self.store = store
        self._known = _whole(store, record.summary) if record.summary else {}
        self._usable = {
            key
            for key, summary in self._known.items()
            if summary.same_variables(values) and summary.same_variables(before) and not summary.total.left_out.get(GAP)
        }
        #: Catalogs that both sides have.
        self._passed: set[str] = set()
        self.old: set[str] = set()
        self.new: set[str] = set()

    def chooser(self, keys: Keys) -> Callable[[NestedRef, State], bool]:
        """Decides, for the catalogs of the new snapshot, which to leave out: asked before either walk begins."""

        def passes(ref: NestedRef, state: State) -> bool:
            key = keys.key(ref, state)
            if key in self._usable:
                self._passed.add(key)
                return True
            return False

        return passes

    def get(self, key: str) -> Summary | None:
        """The summary of a catalog that is left out; None for one that is not."""
        return self._known[key] if key in self._passed else None

    def follower(self, keys: Keys) -> OldBorders:
        """For the walk of the old snapshot."""
        return OldBorders(self, keys)


class OldBorders:
    """Leaves catalogs out of the old walk, and knows the checksums of files in the others.

    It is a :class:`~shrinkwrap.snapshot.walk.Borders` and an :class:`~shrinkwrap.tree.disk.OldSums`.
    """

    def __init__(self, passing: Passing, keys: Keys) -> None:
        self._passing = passing
        self._keys = keys
        self._levels: list[Iterator[bytes]] = []

    def enter(self, ref: NestedRef, state: State | None) -> int | None:
        key = self._keys.key(ref, state)
        summary = self._passing.get(key)
        if summary is not None:
            self._passing.old.add(key)
            self._levels.append(iter(()))
            return summary.total.given
        own = self._passing.store.get(key)
        self._levels.append(iter(()) if own is None else self._readable(own))
        return None

    def leave(self) -> None:
        self._levels.pop()

    def passes(self, ref: NestedRef, state: State) -> bool:
        """Whether a catalog is left out of the old walk."""
        return self._passing.get(self._keys.key(ref, state)) is not None

    def take(self) -> bytes:
        found = next(self._levels[-1], b"") if self._levels else b""
        return b"" if found == UNKNOWN else found

    def lose(self) -> None:
        # Which of a catalog's files were left out is not known: its other checksums are asked for.
        if self._levels:
            self._levels[-1] = iter(())

    def _readable(self, summary: Summary) -> Iterator[bytes]:
        with suppress(CorruptObject):
            yield from self._passing.store.checksums(summary)


def _whole(store: SummaryStore, root: str) -> dict[str, Summary]:
    """All summaries below a root's own whose catalogs may be left out: those that are whole to the last."""
    found: dict[str, Summary] = {}
    order: list[str] = []
    stack = [root]
    while stack:
        key = stack.pop()
        if key in found:
            continue
        summary = store.get(key)
        if summary is not None:
            found[key] = summary
            order.append(key)
            stack.extend(child.key for child in summary.children)
    # Those inside come after those around them.
    for key in reversed(order):
        summary = found[key]
        below = [found.get(child.key) for child in summary.children]
        if any(child is None or not _agree(child, summary) for child in below):
            del found[key]
    found.pop(root, None)
    return found


def _agree(child: Summary, parent: Summary) -> bool:
    """Variables have the values that they have in the catalog around it."""
    values = parent.total.variables
    return all(values.get(name, value) == value for name, value in child.total.variables.items())


class Summing:
    """Follows the walk of the wanted snapshot and makes its summaries.

    Args:
        base: destination.
        goal, matcher, variables, catalogs: of the walk.
        report: told of what is left out.
        left_out: told of each case too, for the list of them.
        passing: catalogs that are left out.

    Attributes:
        sums: checksums, as they arrive.
    """

    def __init__(
        self,
        base: Base,
        goal: Goal,
        matcher: Matcher,
        variables: Mapping[bytes, bytes],
        catalogs: CatalogStore,
        report: Report,
        left_out: Callable[[str, bytes, str], None],
        passing: Passing | None,
    ) -> None:
        self._base = base
        self._passing = passing
        self._report = report
        self._where = {line.raw.decode("utf-8", "surrogateescape"): line.where for line in reversed(matcher.spec.lines)}
        self._left_out = left_out
        self.store = open_summaries(base)
        self.sums = Sums(base.scratch)
        self.collector = Collector(
            matcher,
            options_of(goal),
            variables,
            catalogs,
            base.scratch,
            reuse=None if passing is None else self._pass,
            tell=self._no_star,
        )
        self._noted = bytearray()
        report.told = self._told

    def close(self) -> None:
        self.collector.close()
        self.sums.close()

    # -- while the walk goes -----------------------------------------------------------------------------------------

    def show(self, entry: Entry, node: Node) -> bytes:
        """An entry that comes out; its line in the listing."""
        line = entry_line(entry, node.target)
        self.collector.add(node, line)
        return line

    def keep(self, number: int, value: bytes) -> None:
        """A file is as it was: its checksum is known."""
        self._noted += PACKED.pack(number, value)
        if len(self._noted) >= _NOTED_AT_ONCE * PACKED.size:
            self._flush()

    def _flush(self) -> None:
        self.sums.put_many(bytes(self._noted))
        self._noted.clear()

    def _told(self, what: str, path: bytes, detail: str) -> None:
        self._left_out(what, path, detail)
        self.collector.special(what, path, detail)

    def _no_star(self, path: bytes, raw: str) -> None:
        self._tell(_NO_STAR, path, self._where.get(raw, raw))

    def _tell(self, what: str, path: bytes, detail: str) -> None:
        """A case that is in a summary already."""
        self._report.told = self._left_out
        self._report.add(what, path, detail)
        self._report.told = self._told

    def _pass(self, key: str) -> Summary | None:
        assert self._passing is not None
        summary = self._passing.get(key)
        if summary is not None:
            self._passing.new.add(key)
            if summary.total.left_out:
                for what, path, detail in self.store.cases(key):
                    self._tell(what, path, self._where.get(detail, detail) if what == _NO_STAR else detail)
            self._report.variables.update(summary.total.variables)
        return summary

    # -- when all is done --------------------------------------------------------------------------------------------

    def finish(self, *, known: bool = True) -> str:
        """Write the summaries; key of the root's.

        Args:
            known: checksums of earlier summaries may stand in for those that are lacking.

        Raises:
            CorruptObject: the two walks did not leave out the same catalogs.
        """
        passing = self._passing
        if passing is not None and passing.old != passing.new:
            raise CorruptObject(
                "the catalogs of the last export and of this one are not mounted alike",
                hint="run the same command again with --repair",
            )
        self._flush()
        self._base.make_folder(FOLDER, 0o755)
        return self.collector.finish(self.sums, self._write, self.store if known else None)

    def _write(self, name: str, pieces: Iterator[bytes]) -> None:
        folder, _, _ = name.partition("/")
        self._base.make_folder(FOLDER + b"/" + folder.encode(), 0o755)
        self._base.write_file(FOLDER + b"/" + name.encode(), pieces)

    @property
    def passes(self) -> bool:
        """Whether catalogs may be left out, so that the listing has to be put together at the end."""
        return self._passing is not None
