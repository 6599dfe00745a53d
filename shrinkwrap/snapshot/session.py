"""A repository opened for reading, without a destination."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from shrinkwrap.cvmfs.authz import refuse_protected
from shrinkwrap.cvmfs.blacklist import Blacklist
from shrinkwrap.cvmfs.catalog import Catalog, NestedRef
from shrinkwrap.cvmfs.entry import Entry, show
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.errors import CatalogError, DestinationError, UsageError
from shrinkwrap.fetch.source import SourceConfig, open_source
from shrinkwrap.fetch.types import Source
from shrinkwrap.snapshot.catalogs import CatalogStore, ObjectKeeper
from shrinkwrap.snapshot.keep import KeepFolder
from shrinkwrap.snapshot.repository import Pin, Repository, Revision


@dataclass(frozen=True, slots=True)
class Session:
    """An open repository: its trust, its bytes, its catalogs."""

    repository: Repository
    source: Source
    catalogs: CatalogStore

    def snapshot(self, pin: Pin) -> Revision:
        """The snapshot that a pin stands for, its root catalog fetched and verified.

        Raises:
            UsageError: an unknown tag, revision or date, or a repository that is for authorised readers only.
            TrustError, NetworkError, MissingObject, CorruptObject.
        """
        revision = self.repository.resolve(pin)
        root = self.catalogs.open(revision.root)
        refuse_protected(self.repository.fqrn, root.properties)
        self.catalogs.release(root)
        return revision

    def find(self, root: NestedRef, path: bytes) -> tuple[Catalog, Entry] | None:
        """The entry of a path and the catalog that lists what lies below it; hidden entries are found too.

        Catalogs on the way are fetched. Links are not followed. Give the catalog back with ``catalogs.release``.
        """
        catalog = self.catalogs.open(root)
        while True:
            mounts = [mount for mount in catalog.nested if _inside(path, mount)]
            if not mounts:
                break
            # Of mounts inside each other the walk meets the outer one.
            ref = catalog.nested[min(mounts, key=len)]
            self.catalogs.release(catalog)
            catalog = self.catalogs.open(ref)
        try:
            entry = catalog.lookup(path)
        except CatalogError:
            self.catalogs.release(catalog)
            raise
        if entry is None:
            self.catalogs.release(catalog)
            return None
        return catalog, entry


def repository_path(text: str | bytes) -> bytes:
    """A path as people write it, as one in the repository: the root is empty, no doubled or final slashes.

    Raises:
        UsageError: it does not begin with a slash.
    """
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:
        raise UsageError(f"{text!a}: not a path in the repository", hint="give it as bytes") from None
    if not raw.startswith(b"/"):
        shown = show(raw) if raw else "an empty text"
        raise UsageError(f"{shown}: not a path in the repository", hint="paths begin with /")
    return b"".join(b"/" + name for name in raw.split(b"/") if name)


def _inside(path: bytes, mount: bytes) -> bool:
    """Whether a path is a mount or lies below it, at component boundaries (FORMAT.md §13.21)."""
    return path == mount or path.startswith(mount + b"/")


@contextmanager
def open_session(
    config: SourceConfig,
    keys: Sequence[MasterKey],
    *,
    blacklist: Blacklist | None = None,
    cache: str | None = None,
    notice: Callable[[str], None] | None = None,
) -> Iterator[Session]:
    """Open a repository.

    Args:
        cache: folder that keeps catalogs and histories between runs, made if needed; a temporary one if None.

    Raises:
        DestinationError: the folder cannot be made or written. UsageError: see
        :func:`~shrinkwrap.fetch.source.open_source`.
    """
    with ExitStack() as stack:
        try:
            if cache is not None:
                os.makedirs(cache, exist_ok=True)
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="shrinkwrap-", dir=cache))
            folder = os.path.join(cache or scratch, "objects")
            os.makedirs(folder, exist_ok=True)
        except OSError as exc:
            raise DestinationError(
                f"{cache or tempfile.gettempdir()}: catalogs cannot be kept there: {exc.strerror}"
            ) from None
        source = open_source(config, notice)
        stack.callback(source.close)
        keeper = ObjectKeeper(source, KeepFolder(folder, scratch))
        catalogs = CatalogStore(keeper, scratch)
        stack.callback(catalogs.close)
        repository = Repository(
            config.fqrn, source, keeper, keys, now=time.time(), blacklist=blacklist, scratch=scratch, notice=notice
        )
        yield Session(repository, source, catalogs)
