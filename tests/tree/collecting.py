"""A small repository in several revisions, exported to destinations that share stores, for tests of what removes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.repository import Publisher

from shrinkwrap.fetch.source import SourceConfig
from shrinkwrap.snapshot.repository import Pin
from shrinkwrap.spec.grammar import parse
from shrinkwrap.tree.export import export
from shrinkwrap.tree.gc import GcResult, gc
from shrinkwrap.tree.remove import RemoveResult, remove
from shrinkwrap.tree.request import ExportRequest, ExportResult
from shrinkwrap.tree.status import Status, status

FQRN = "demo.example.org"
OTHER = "other.example.org"

#: What is in the files of each revision, by path. ``same`` never changes, ``few`` comes and goes; below ``/lcg`` is a
#: catalog of its own.
REVISIONS: tuple[Mapping[bytes, bytes], ...] = (
    {b"/same": b"same", b"/twice": b"same", b"/a": b"one", b"/lcg/x": b"x", b"/lcg/few": b"few"},
    {b"/same": b"same", b"/a": b"two", b"/lcg/x": b"x", b"/lcg/y": b"one", b"/d/e/f": b"deep"},
    {b"/same": b"same", b"/a/was a file": b"three", b"/lcg/few": b"few", b"/lcg/y": b"more"},
    {b"/same": b"same", b"/a": b"two", b"/d": b"was a directory", b"/none": b""},
)
SPECS = {"all": b"/*\n", "some": b"/same\n/lcg/*\n"}


class Places:
    """Destinations below a folder, and what works on them.

    Args:
        folder: of the destinations.
        repositories: folder that :func:`make_repositories` has filled.

    Attributes:
        roots: root hashes of the revisions, by repository.
    """

    def __init__(self, folder: Path, repositories: Path) -> None:
        self.folder = folder
        self.repositories = repositories
        self.roots = {fqrn: (repositories / f"{fqrn}.roots").read_text().split() for fqrn in (FQRN, OTHER)}

    def base(self, name: str) -> Path:
        return self.folder / name

    def export(
        self, name: str, revision: int, *, fqrn: str = FQRN, spec: str = "all", store: str = "", **options: Any
    ) -> ExportResult:
        """Export a revision to a destination; the options are those of a request."""
        request = ExportRequest(
            source=SourceConfig(fqrn, servers=((self.repositories / fqrn).as_uri(),)),
            keys=(),
            spec=parse(SPECS[spec]),
            dest=str(self.base(name)),
            pin=Pin(root_hash=self.roots[fqrn][revision], unsigned=True),
            workers=1,
            store=str(self.base(store)) if store else "",
            **options,
        )
        return export(request)

    def words(self, name: str, revision: int, *options: str, fqrn: str = FQRN, spec: str = "all") -> list[str]:
        """The command line of the same."""
        file = self.folder / f"{spec}.spec"
        file.write_bytes(SPECS[spec])
        return [
            *("export", "-r", fqrn, "--storage", str(self.repositories / fqrn), "-t", str(file)),
            *("--root-hash", self.roots[fqrn][revision], "--accept-unsigned-root-hash", "--workers", "1"),
            *("-z", str(self.base(name)), *options),
        ]

    def gc(self, name: str, **options: Any) -> GcResult:
        return gc(str(self.base(name)), **options)

    def remove(self, name: str, *, fqrn: str = FQRN, **options: Any) -> RemoveResult:
        return remove(str(self.base(name)), fqrn, **options)

    def status(self, name: str) -> Status:
        return status(str(self.base(name)))

    # -- what is there -----------------------------------------------------------------------------------------------

    def tree(self, name: str, fqrn: str = FQRN) -> dict[bytes, bytes]:
        """Contents of the files of a tree, by path."""
        top = os.fsencode(self.base(name) / fqrn)
        found = {}
        for at, _, names in os.walk(top):
            for file in names:
                path = os.path.join(at, file)
                with open(path, "rb") as data:
                    found[path[len(top) :]] = data.read()
        return found

    def store(self, name: str) -> Path:
        """Where a destination has its store."""
        return Path(self.status(name).store)

    def stored(self, name: str) -> dict[str, os.stat_result]:
        """The stored files, by name."""
        store = self.store(name)
        return {
            f"{shard.name}/{file.name}": file.lstat()
            for shard in store.iterdir()
            if len(shard.name) == 2
            for file in shard.iterdir()
        }

    def garbage(self, name: str) -> set[str]:
        """Those that no path shows."""
        return {one for one, info in self.stored(name).items() if info.st_nlink == 1}

    def kept(self, name: str) -> set[str]:
        """Catalogs, certificates, histories and summaries that a destination keeps."""
        top = self.base(name) / ".provenance"
        return {
            str(file.relative_to(top))
            for folder in (".objects", ".summaries")
            for file in (top / folder).rglob("*")
            if file.is_file()
        }


def wanted(revision: int, spec: str = "all") -> dict[bytes, bytes]:
    """What a tree shows of a revision."""
    files = dict(REVISIONS[revision])
    if spec == "some":
        files = {path: data for path, data in files.items() if path == b"/same" or path.startswith(b"/lcg/")}
    return files


def make_repositories(folder: Path) -> None:
    """Publish all revisions of both repositories."""
    for fqrn in (FQRN, OTHER):
        publisher = Publisher(folder / fqrn, fqrn)
        roots = [_publish(publisher, files) for files in REVISIONS]
        (folder / f"{fqrn}.roots").write_text("\n".join(roots))


def _publish(publisher: Publisher, files: Mapping[bytes, bytes]) -> str:
    root = publisher.catalog()
    nested = publisher.catalog(b"/lcg")
    if any(path.startswith(b"/lcg/") for path in files):
        root.nest(nested)
    for path, data in files.items():
        (nested if path.startswith(b"/lcg/") else root).file(path, data)
    return publisher.publish(root, history=False).root_hash
