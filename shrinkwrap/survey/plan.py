"""What an export would be: a snapshot summed up, from its catalogs alone (docs/plan.md).

Sizes of compressed objects are in no catalog: what comes over the network is an estimate, all else is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.snapshot.catalogs import CatalogStore
from shrinkwrap.snapshot.view import FILE, Report, View, ViewOptions
from shrinkwrap.snapshot.walk import Walk, bring_catalogs
from shrinkwrap.spec.grammar import Spec
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.survey.distinct import Distinct, Stored
from shrinkwrap.survey.sums import DirectorySums, LineSum, LineSums, Sum

#: Bytes over the network for each byte of a file whose content is stored compressed: that of a dry run, where it is
#: said how it was chosen (docs/dry-run.md).
RATIO: Final = 0.45

Row = Callable[[bytes, Sum], None]


@dataclass(slots=True)
class Plan:
    """What comes out.

    Attributes:
        total: entries, each path counted.
        stored: contents and stored files, each counted once.
        catalogs: that were read.
        lines: what each line brings, in order.
        report: what is left out or comes out otherwise than the repository has it; lines that match nothing
            (``line_without_match``) and directories named without ``/*`` (``directory_without_star``) too.
        notices: oddities of the catalogs.
    """

    total: Sum = field(default_factory=Sum)
    stored: Stored = field(default_factory=Stored)
    catalogs: int = 0
    lines: list[LineSum] = field(default_factory=list)
    report: Report = field(default_factory=Report)
    notices: list[str] = field(default_factory=list)

    @property
    def download(self) -> int:
        """Bytes that come over the network for an empty store, catalogs left out: an estimate."""
        stored = self.stored
        return stored.content_bytes - stored.packed_bytes + round(stored.packed_bytes * RATIO)

    def to_json(self) -> dict[str, Any]:
        stored = self.stored
        return {
            "tree": self.total.to_json(),
            "stored": {
                "contents": stored.contents,
                "content_bytes": stored.content_bytes,
                "objects": stored.objects,
                "inodes": stored.inodes,
                "inode_bytes": stored.inode_bytes,
            },
            "download": {"estimate": self.download, "ratio": RATIO},
            "catalogs": self.catalogs,
            "lines": [line.to_json() for line in self.lines],
            "left_out": dict(sorted(self.report.counts.items())),
        }


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be exported.

    Attributes:
        root: the root catalog.
        view: how entries are shown.
        variables: for variant symlinks, by name.
    """

    root: NestedRef
    spec: Spec
    view: ViewOptions
    variables: Mapping[bytes, bytes] = field(default_factory=dict)


def survey(
    catalogs: CatalogStore,
    wish: Wish,
    *,
    depth: int = 0,
    row: Row = lambda path, found: None,
    progress: Callable[[int], None] | None = None,
    folder: str | None = None,
) -> Plan:
    """Sum up what a specification selects of a snapshot.

    Args:
        depth: of the directories that ``row`` is told of, each after those in it; 0: none.
        progress: told of bytes as catalogs are received.
        folder: for notes of 41 bytes a file; None: that for temporary files.

    Raises:
        MissingObject, NetworkError, CorruptObject: a catalog cannot be had, or is wrong.
        DestinationError: no space for the notes.
    """
    plan = Plan()
    matcher = Matcher(wish.spec)
    plan.catalogs, _ = bring_catalogs(catalogs, wish.root, matcher, progress)
    matched: tuple[int, ...] = ()

    def count(lines: tuple[int, ...], entry: Entry) -> None:
        nonlocal matched
        matched = lines

    lines, directories = LineSums(wish.spec), DirectorySums(depth)
    view = View(wish.view, wish.variables, plan.report)
    with closing(Distinct(share_mtime=wish.view.share_mtime, folder=folder)) as distinct:
        for entry in Walk(catalogs, wish.root, matcher, notice=plan.notices.append, count=count):
            node = view.node(entry)
            lines.add(matched, node)
            if node is None:
                continue
            if node.kind == FILE:
                distinct.add(node)
            if depth:
                for path, found in directories.add(node):
                    row(path, found)
        for path, found in directories.finish():
            row(path, found)
        plan.lines, plan.total = lines.finish(), lines.total
        plan.stored = distinct.sum()
    for one in plan.lines:
        if one.matched == 0:
            plan.report.add("line_without_match", one.line.raw, one.line.where)
    for path, index in lines.empty:
        if has_children(catalogs, wish.root, path):
            plan.report.add("directory_without_star", path, wish.spec.lines[index].where)
    return plan


def has_children(catalogs: CatalogStore, root: NestedRef, path: bytes) -> bool:
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
