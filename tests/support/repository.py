"""Small signed repositories made from Python values, right ones and wrong ones.

A :class:`Publisher` owns the folder of one repository. Its catalogs are :class:`CatalogBuilder`; they collect rows by
path, and everything about a row can be overwritten before it is written::

    publisher = Publisher(tmp_path / "storage")
    root = publisher.catalog()
    root.file(b"/bin/tool", b"content", mode=0o755)
    root.link(b"/bin/t", b"tool")
    nested = publisher.catalog(b"/lcg")
    nested.file(b"/lcg/big", pieces=[b"one", b"two"])
    root.nest(nested)  # registered={"sha1": ...} for a wrong registration
    head = publisher.publish(root, tags=["v1"])
    with publisher.open() as opened:
        ...

To put something wrong in: ``catalog.change(path, size=-1)`` overwrites columns of a row, ``catalog.raw(...)`` adds a
row of any columns, ``catalog.chunk_rows``, ``nested_rows``, ``bind_rows``, ``properties`` and ``counters`` are what is
written to the tables of these names, ``loose=True`` leaves column types and primary keys out, and ``sql`` is executed
last. :class:`Blob` is a value that is stored as a BLOB where the column is text. Objects are in
:class:`Storage`; ``spoil`` and ``remove`` break them.
"""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cvmfs import signing

from shrinkwrap.cvmfs.blacklist import Blacklist
from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.digest import SHA1, Digest
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.cvmfs.trust import KnownHead
from shrinkwrap.fetch.source import SourceConfig, open_source
from shrinkwrap.fetch.types import FetchStats, Outcome, Request, Source
from shrinkwrap.snapshot.catalogs import CatalogStore, ObjectKeeper
from shrinkwrap.snapshot.keep import KeepFolder
from shrinkwrap.snapshot.repository import Repository
from shrinkwrap.snapshot.session import Session
from support.catalogs import (
    BIND,
    CHUNKED,
    DIR,
    EXTERNAL,
    FILE,
    HIDDEN,
    LINK,
    MTIME,
    MTIME_NS,
    NESTED,
    NESTED_ROOT,
    PUBLISHED,
    SPECIAL,
    UNCOMPRESSED,
    Blob,
    CatalogBuilder,
    Storage,
    flip,
    path_key,
)

__all__ = [
    "BIND",
    "CHUNKED",
    "DIR",
    "EXTERNAL",
    "FILE",
    "FQRN",
    "HIDDEN",
    "LINK",
    "MTIME",
    "MTIME_NS",
    "NESTED",
    "NESTED_ROOT",
    "PUBLISHED",
    "SPECIAL",
    "UNCOMPRESSED",
    "Blob",
    "CatalogBuilder",
    "Opened",
    "Published",
    "Publisher",
    "Recording",
    "Storage",
    "flip",
    "path_key",
]

FQRN = signing.FQRN


@functools.cache
def _usual_whitelist(fqrn: str, algorithm: int) -> bytes:
    """Signing takes more time than all else that a small repository does."""
    return signing.whitelist(fqrn=fqrn, algorithm=algorithm)


@dataclass(frozen=True)
class Published:
    """A publication: what its manifest says."""

    root: NestedRef
    revision: int
    timestamp: int
    manifest: bytes

    @property
    def root_hash(self) -> str:
        return str(self.root.digest)


@dataclass
class Publisher:
    """One repository: its storage folder, its tags and keys.

    Attributes:
        folder: what a web server would serve; made if needed.
        algorithm: of everything that is published, unless a call says otherwise.
        external: folder of external files.
        tags: rows of the history (name, hash, revision, timestamp, description, size, branch), free to be changed.
        revision: of the last publication.
    """

    folder: Path
    fqrn: str = FQRN
    algorithm: int = SHA1
    tags: list[tuple[Any, ...]] = field(default_factory=list)
    revision: int = 0

    def __post_init__(self) -> None:
        self.storage = Storage(self.folder)
        self.external = self.folder.parent / (self.folder.name + ".external")

    def catalog(self, mount: bytes = b"", **options: Any) -> CatalogBuilder:
        """An empty catalog; the options are those of :class:`CatalogBuilder`."""
        return CatalogBuilder(self, mount, **{"algorithm": self.algorithm, **options})

    def tree(self, paths: Iterable[bytes], mounts: Iterable[bytes] = (), *, store: bool = True) -> CatalogBuilder:
        """The root catalog of a whole tree; what is in a file is its path.

        Args:
            paths: files; those that end in ``/`` are directories.
            mounts: directories that have a catalog of their own.
            store: put the files into the storage.
        """
        catalogs = {b"": self.catalog()}

        def owner(path: bytes) -> CatalogBuilder:
            while path not in catalogs:
                path = path.rpartition(b"/")[0]
            return catalogs[path]

        for mount in sorted(mounts):
            child = self.catalog(mount)
            owner(mount).nest(child)
            catalogs[mount] = child
        for path in paths:
            if path.endswith(b"/"):
                if path[:-1] not in catalogs:
                    owner(path[:-1]).dir(path[:-1])
            else:
                owner(path).file(path, path, store=store)
        return catalogs[b""]

    def serve_externally(self, path: bytes, data: bytes) -> None:
        file = os.fsencode(self.external) + path
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "wb") as out:
            out.write(data)

    def publish(
        self,
        root: CatalogBuilder,
        *,
        tags: Iterable[str] = (),
        revision: int | None = None,
        timestamp: int | None = None,
        history: bool = True,
        alternative: bool = False,
        changes: Mapping[str, str | None] | None = None,
        **signing_options: Any,
    ) -> Published:
        """Sign a root catalog as the new head: manifest, whitelist, certificate, history.

        Args:
            tags: names for this revision, besides ``trunk``.
            alternative: catalog and certificate are at their alternative paths *only* (FORMAT.md §1.3).
            changes: fields of the manifest that are to be others, or None to leave them out.
            signing_options: of :func:`cvmfs.signing.manifest`, for wrong signatures.
        """
        self.revision = self.revision + 1 if revision is None else revision
        when = PUBLISHED + self.revision if timestamp is None else timestamp
        digest = root.digest or root.write()
        self.tags = [tag for tag in self.tags if tag[0] != "trunk"]
        for name in (*tags, "trunk"):
            self.tags.append((name, str(digest), self.revision, when, "", root.size, ""))
        certificate = self.storage.put_stored(signing.publisher().stored_certificate, "X", algorithm=self.algorithm)
        fields: dict[str, str | None] = {
            "C": str(digest),
            "B": str(root.size),
            "S": str(self.revision),
            "A": "yes" if alternative else "no",
            "N": self.fqrn,
            "X": str(certificate),
            "T": str(when),
        }
        if history:
            fields["H"] = str(self.write_history())
        options = {"algorithm": self.algorithm, **signing_options}
        manifest = signing.manifest({**fields, **(changes or {})}, **options)
        (self.folder / ".cvmfspublished").write_bytes(manifest)
        self._write_usual_whitelist()
        if alternative:
            for moved, suffix in ((digest, "C"), (certificate, "X")):
                shutil.move(self.storage.path(moved, suffix), self.folder / f".cvmfsalt-{moved}{suffix}")
        return Published(NestedRef(b"", digest, root.size, False), self.revision, when, manifest)

    def write_whitelist(self, **options: Any) -> None:
        """The options are those of :func:`cvmfs.signing.whitelist`."""
        text = signing.whitelist(**{"fqrn": self.fqrn, "algorithm": self.algorithm, **options})
        (self.folder / ".cvmfswhitelist").write_bytes(text)

    def _write_usual_whitelist(self) -> None:
        (self.folder / ".cvmfswhitelist").write_bytes(_usual_whitelist(self.fqrn, self.algorithm))

    def write_history(self) -> Digest:
        """Store the tag database as it is now (schema 1.0, revision 3)."""
        with closing(sqlite3.connect(":memory:")) as db:
            db.execute(
                "CREATE TABLE tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER,"
                " description TEXT, size INTEGER, branch TEXT, PRIMARY KEY (name))"
            )
            db.execute("CREATE TABLE branches (branch TEXT, parent TEXT, initial_revision INTEGER)")
            db.execute("CREATE TABLE recycle_bin (hash TEXT, flags INTEGER, PRIMARY KEY (hash))")
            db.execute("CREATE TABLE properties (key TEXT, value TEXT, PRIMARY KEY (key))")
            properties = [("schema", "1.0"), ("schema_revision", "3"), ("fqrn", self.fqrn)]
            db.executemany("INSERT INTO properties VALUES (?, ?)", properties)
            db.executemany("INSERT INTO tags VALUES (?, ?, ?, ?, 0, ?, ?, ?)", self.tags)
            db.commit()
            return self.storage.put(db.serialize(), "H", algorithm=self.algorithm)

    # -- reading it again --------------------------------------------------------------------------------------------

    @property
    def keys(self) -> list[MasterKey]:
        return [signing.master().master]

    def config(self, *more: Publisher | Path) -> SourceConfig:
        """How a reader gets at the repository: from its folder, then from others."""
        folders = [self.folder, *(one.folder if isinstance(one, Publisher) else one for one in more)]
        outside = (self.external.absolute().as_uri(),) if self.external.is_dir() else ()
        return SourceConfig(
            self.fqrn,
            servers=tuple(folder.absolute().as_uri() for folder in folders),
            external_servers=outside,
        )

    @contextmanager
    def open(
        self,
        *more: Publisher | Path,
        keep: Path | None = None,
        known: KnownHead | None = None,
        allow_rollback: bool = False,
        blacklist: Blacklist | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> Iterator[Opened]:
        """The repository as a reader opens it, at the time ``signing.NOW``; requests are recorded.

        Args:
            more: further hosts.
            keep: folder of kept objects; else one that is gone afterwards.
        """
        with tempfile.TemporaryDirectory() as scratch:
            source = Recording(open_source(self.config(*more)))
            folder = keep or Path(scratch, "keep")
            work = Path(scratch, "work")
            work.mkdir()
            folder.mkdir(exist_ok=True)
            keeper = ObjectKeeper(source, KeepFolder(str(folder), str(work)))
            catalogs = CatalogStore(keeper, str(work))
            repository = Repository(
                self.fqrn,
                source,
                keeper,
                self.keys,
                now=signing.NOW,
                known=known,
                allow_rollback=allow_rollback,
                blacklist=blacklist,
                scratch=str(work),
                notice=notice,
            )
            try:
                yield Opened(Session(repository, source, catalogs), source, keeper, catalogs, work)
            finally:
                catalogs.close()
                source.close()
                assert list(work.iterdir()) == [], "scratch files were left behind"


@dataclass(frozen=True)
class Opened:
    """The parts of an open repository."""

    session: Session
    source: Recording
    keeper: ObjectKeeper
    catalogs: CatalogStore
    work: Path

    @property
    def repository(self) -> Repository:
        return self.session.repository


class Recording:
    """A source that writes down what it was asked for.

    Attributes:
        requests: paths of objects, in the order they were asked for. controls: names of control files.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.stats: FetchStats = source.stats
        self.requests: list[str] = []
        self.controls: list[str] = []

    @property
    def host(self) -> str:
        return self._source.host

    def control(self, name: str, limit: int) -> bytes:
        self.controls.append(name)
        return self._source.control(name, limit)

    def next_host(self) -> bool:
        return self._source.next_host()

    def fetch(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        def noted() -> Iterator[Request]:
            for request in requests:
                self.requests.append(os.fsdecode(request.path))
                yield request

        return self._source.fetch(noted())

    def close(self) -> None:
        self._source.close()
