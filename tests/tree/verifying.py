"""A small export with something of everything, and what verifying says of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.repository import CatalogBuilder, Published, Publisher

from shrinkwrap.cvmfs.blacklist import Blacklist
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.snapshot.repository import Pin
from shrinkwrap.spec.grammar import parse
from shrinkwrap.tree.export import export
from shrinkwrap.tree.findings import Verified, VerifyResult
from shrinkwrap.tree.request import ExportRequest, ExportResult
from shrinkwrap.tree.verify import VerifyRequest, Whence, verify

OWN = {"uid": os.getuid(), "gid": os.getgid()}
#: Of the files of :func:`fill`.
FILES = 12


def fill(publisher: Publisher, number: int = 0) -> CatalogBuilder:
    """A root catalog, with one inside another below it. Revisions of other numbers differ in one file of each."""
    root = publisher.catalog()
    root.change(b"", **OWN)
    root.dir(b"/bin", **OWN)
    root.file(b"/bin/tool", b"a tool", mode=0o755, **OWN)
    root.file(b"/bin/again", b"a tool", mode=0o755, **OWN)
    root.file(b"/bin/twin", b"a tool", mode=0o755, **OWN)
    root.file(b"/bin/version", b"%d" % number, **OWN)
    root.link(b"/bin/link", b"tool", **OWN)
    root.link(b"/bin/variant", b"$(ARCH)/tool", **OWN)
    root.dir(b"/data", **OWN)
    root.file(b"/data/chunked", pieces=[b"one" * 1000, b"two" * 1000], **OWN)
    root.file(b"/data/plain", b"as it is" * 100, compressed=False, **OWN)
    root.file(b"/data/empty", b"", **OWN)
    root.file(b"/data/attributes", b"with attributes", xattrs={b"user.one": b"1", b"user.two": b"\xff"}, **OWN)
    root.dir(b"/data/attributed", xattrs={b"user.dir": b"d"}, **OWN)
    root.file(b"/data/\xff\n", b"an odd name", **OWN)
    nested = publisher.catalog(b"/lcg")
    nested.change(b"/lcg", **OWN)
    nested.dir(b"/lcg/sub", **OWN)
    nested.file(b"/lcg/sub/file", b"in a nested catalog, revision %d" % number, **OWN)
    inner = publisher.catalog(b"/lcg/inner")
    inner.change(b"/lcg/inner", **OWN)
    inner.file(b"/lcg/inner/deep", b"deep", **OWN)
    inner.file(b"/lcg/inner/deeper", b"deeper", **OWN)
    nested.nest(inner)
    root.nest(nested)
    return root


@dataclass
class Place:
    """A repository and an export of it.

    Attributes:
        publisher: of the repository. base: destination. published: last revision.
    """

    publisher: Publisher
    base: Path
    published: Published

    @property
    def tree(self) -> Path:
        return self.base / self.publisher.fqrn

    @property
    def records(self) -> Path:
        return self.base / ".provenance" / self.publisher.fqrn

    def publish(self, number: int, **options: Any) -> Published:
        self.published = self.publisher.publish(fill(self.publisher, number), **options)
        return self.published

    def export(self, **options: Any) -> ExportResult:
        request = {
            "source": self.publisher.config(),
            "keys": tuple(self.publisher.keys),
            "spec": parse(b"/*\n"),
            "dest": str(self.base),
            "variables": {b"ARCH": b"x86_64"},
            "pin": Pin(),
            "workers": 1,
            **options,
        }
        return export(ExportRequest(**request))

    def verify(self, dest: Path | None = None, *, keys: Iterable[MasterKey] | None = None, **options: Any) -> Verified:
        """What verifying says of the repository's tree."""
        result = self.verify_all(dest, keys=keys, **options)
        (one,) = result.repositories
        return one

    def verify_all(
        self, dest: Path | None = None, *, keys: Iterable[MasterKey] | None = None, **options: Any
    ) -> VerifyResult:
        known = tuple(self.publisher.keys if keys is None else keys)

        def whence(fqrn: str) -> Whence:
            assert fqrn == self.publisher.fqrn
            return Whence(known, Blacklist(), self.publisher.config())

        request = {"dest": str(dest or self.base), "workers": 1, "whence": whence, **options}
        return verify(VerifyRequest(**request))

    def stored(self, path: str) -> Path:
        """The stored file that a path of the tree shows."""
        inode = (self.tree / path).lstat().st_ino
        (found,) = [file for file in (self.base / ".data").glob("??/*") if file.lstat().st_ino == inode]
        return found


def copied(made: Place, folder: Path) -> Place:
    """The same in another folder, as if it had been made there: quicker than to make it again."""
    subprocess.run(["cp", "-a", *made.base.parent.iterdir(), folder], check=True)
    was = made.publisher
    publisher = Publisher(folder / "storage", tags=list(was.tags), revision=was.revision)
    return Place(publisher, folder / "base", made.published)


def make(folder: Path, **options: Any) -> Place:
    """Publish and export."""
    publisher = Publisher(folder / "storage")
    place = Place(publisher, folder / "base", publisher.publish(fill(publisher), tags=["first"]))
    place.export(**options)
    return place


def rewrite(file: Path, data: bytes) -> None:
    """Other content in the same inode, the time kept."""
    info = file.lstat()
    with file.open("r+b") as out:
        out.write(data)
        out.truncate()
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))


def cases(verified: Verified) -> list[tuple[str, bytes]]:
    """Kinds of differences and their paths."""
    return sorted((case.what, case.path) for case in verified.cases)


def trace(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything of what lies in a folder, times included."""
    found: dict[str, tuple[object, ...]] = {}
    for at, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            path = os.path.join(at, name)
            info = os.lstat(path)
            found[path] = (
                *(info.st_ino, info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_size),
                *(info.st_mtime_ns, info.st_ctime_ns),
            )
    return found
