"""What each line of a specification matched: nothing that was asked for is silently missing (DESIGN promise 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.snapshot.catalogs import CatalogStore
from shrinkwrap.snapshot.view import Report
from shrinkwrap.spec.grammar import Mode, Spec, resolve


class LineCounts:
    """Counts the entries that each spec line matches, as a :class:`~shrinkwrap.snapshot.walk.Walk` tells of them.

    Lines that exclude, and those that a later line for the same path replaces, match nothing by their nature: they
    are not counted.

    Attributes:
        matched: by index of the line.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self.matched = [0] * len(spec.lines)
        in_force = {rule.line for rule in resolve(spec.lines)}
        self._counted = [line.mode.includes and number in in_force for number, line in enumerate(spec.lines)]
        self._exact = frozenset(number for number, line in enumerate(spec.lines) if line.mode is Mode.EXACT)
        # A directory that a line names without `/*`: the entry that comes next tells whether it comes out empty.
        self._named: tuple[bytes, int] | None = None
        self._empty: list[tuple[bytes, int]] = []

    def __call__(self, lines: tuple[int, ...], entry: Entry) -> None:
        matched = self.matched
        for number in lines:
            matched[number] += 1
        if self._exact:
            self._follow(entry.path)
            if entry.is_dir:
                line = next((number for number in lines if number in self._exact), None)
                self._named = None if line is None else (entry.path, line)

    def _follow(self, path: bytes | None) -> None:
        """What comes after the directory that was given last."""
        if self._named is not None:
            if path is None or not path.startswith(self._named[0] + b"/"):
                self._empty.append(self._named)
            self._named = None

    def take(self, matched: Mapping[bytes, int], report: Report | None = None) -> None:
        """The numbers of a walk that was summed up, by the text of the line: report lines that matched nothing."""
        for number, line in enumerate(self._spec.lines):
            self.matched[number] = matched.get(line.raw, 0)
        if report is not None:
            self._report_unmatched(report)

    def _report_unmatched(self, report: Report) -> None:
        for line, number, counted in zip(self._spec.lines, self.matched, self._counted, strict=True):
            if counted and not number:
                report.add("line_without_match", line.raw, line.where)

    def report_to(self, report: Report, catalogs: CatalogStore, root: NestedRef) -> None:
        """The walk is over: report lines that matched nothing, and directories that came out empty for want of ``/*``.

        Args:
            catalogs, root: those of the walk, asked whether such a directory has anything in it.
        """
        self._follow(None)
        self._report_unmatched(report)
        for path, line_number in self._empty:
            if _has_children(catalogs, root, path):
                report.add("directory_without_star", path, self._spec.lines[line_number].where)

    def to_json(self) -> list[dict[str, Any]]:
        """A line each, in order; ``matched`` is None for those that are not counted."""
        return [
            {"line": line.text, "matched": number if counted else None}
            for line, number, counted in zip(self._spec.lines, self.matched, self._counted, strict=True)
        ]


def _has_children(catalogs: CatalogStore, root: NestedRef, path: bytes) -> bool:
    """Whether a directory has entries that a listing shows. The catalogs on the way to it were walked."""
    ref = root
    while True:
        catalog = catalogs.open(ref)
        try:
            if path in catalog.nested:
                return True  # a catalog of its own for nothing would be odd, and this one need not have been fetched
            mount = next((mount for mount in catalog.nested if path.startswith(mount + b"/")), None)
            if mount is None:
                return any(not entry.is_hidden for entry in catalog.children(path))
            ref = catalog.nested[mount]
        finally:
            catalogs.release(catalog)
