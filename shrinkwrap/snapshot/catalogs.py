"""Catalogs by digest: kept, fetched, verified, inflated into scratch files and opened."""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.catalog import Catalog, NestedRef
from shrinkwrap.cvmfs.digest import Digest, digest_of, new_hasher
from shrinkwrap.cvmfs.entry import show
from shrinkwrap.cvmfs.inflate import StreamInflater
from shrinkwrap.errors import CatalogError, CorruptObject, MissingObject
from shrinkwrap.fetch.types import Request, Source
from shrinkwrap.snapshot.keep import Keep

_PIECE: Final = 1 << 20


class _KeptBody:
    """Writes an object of the trust chain into the keep, if its digest is right."""

    def __init__(self, keep: Keep, digest: Digest, suffix: str) -> None:
        self._keep = keep
        self._digest = digest
        self._suffix = suffix
        self._file: IO[bytes] | None = None
        self._name = ""

    def start(self) -> None:
        self.discard()
        self._hasher = new_hasher(self._digest.algorithm)
        self._file, self._name = self._keep.create()

    def write(self, data: bytes, /) -> None:
        assert self._file is not None
        self._hasher.update(data)
        self._file.write(data)

    def finish(self) -> None:
        assert self._file is not None
        if self._hasher.digest() != self._digest.raw:
            self.discard()
            raise CorruptObject(f"object {self._digest}{self._suffix}: its content has another digest")
        self._file.close()
        self._file = None
        self._keep.adopt(self._name, self._digest, self._suffix)

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._keep.discard(self._name)


class ObjectKeeper:
    """Brings objects of the trust chain from the keep or from the source."""

    def __init__(self, source: Source | None, keep: Keep) -> None:
        self.source = source
        self._keep = keep
        #: Paths below the repository's URL that differ from ``data/…`` (FORMAT.md §1.3).
        self.elsewhere: dict[tuple[Digest, str], str] = {}

    def stored(self, digest: Digest, suffix: str, limit: int) -> bytes:
        """The stored (compressed) bytes of a small object, verified.

        Raises:
            MissingObject, NetworkError, CorruptObject.
        """
        for _ in range(2):
            self.bring([(digest, suffix, limit)])
            with self._open(digest, suffix) as file:
                data = file.read(limit + 1)
            if len(data) <= limit and digest_of(digest.algorithm, data) == digest:
                return data
            # What was kept has rotted; a fresh copy settles it.
            self._keep.drop(digest, suffix)
        raise CorruptObject(f"object {digest}{suffix}: its content has another digest")

    def bring(self, wanted: Iterable[tuple[Digest, str, int]], progress: Callable[[int], None] | None = None) -> None:
        """Fetch objects that are not kept yet: (digest, suffix, most stored bytes). The first error is raised."""
        bodies: list[_KeptBody] = []

        def requests() -> Iterator[Request]:
            for digest, suffix, limit in wanted:
                if self._have(digest, suffix):
                    continue
                body = _KeptBody(self._keep, digest, suffix)
                bodies.append(body)
                path = self.elsewhere.get((digest, suffix)) or digest.object_path(suffix)
                yield Request(path.encode(), body, limit)

        if self.source is None:
            for digest, suffix, _ in wanted:
                if not self._have(digest, suffix):
                    raise MissingObject(f"object {digest}{suffix} is not among the kept ones")
            return
        try:
            for outcome in self.source.fetch(requests()):
                if outcome.error is not None:
                    raise outcome.error
                if progress is not None:
                    progress(outcome.received)
        finally:
            for body in bodies:
                body.discard()

    def inflate(self, digest: Digest, suffix: str, stored: int, limit: int, out: IO[bytes]) -> int:
        """Bring an object and inflate it into an empty file; the number of bytes written.

        Args:
            stored: most bytes of the object as stored.
            limit: most bytes that may come out of it.

        Raises:
            MissingObject, NetworkError, CorruptObject.
        """
        self.bring([(digest, suffix, stored)])
        try:
            return self._inflate_kept(digest, suffix, limit, out)
        except CorruptObject:
            # What was kept may have rotted; a fresh copy settles it.
            out.seek(0)
            out.truncate()
            self.bring([(digest, suffix, stored)])
            return self._inflate_kept(digest, suffix, limit, out)

    def _inflate_kept(self, digest: Digest, suffix: str, limit: int, out: IO[bytes]) -> int:
        """Inflate what is kept, its digest checked once more. It is dropped if it is broken."""
        hasher = new_hasher(digest.algorithm)
        inflater = StreamInflater(limit)
        written = 0
        try:
            with self._open(digest, suffix) as file:
                while piece := file.read(_PIECE):
                    hasher.update(piece)
                    for part in inflater.feed(piece):
                        written += out.write(part)
                for part in inflater.finish():
                    written += out.write(part)
            if hasher.digest() != digest.raw:
                raise CorruptObject("its content has another digest")
        except CorruptObject as exc:
            self._keep.drop(digest, suffix)
            raise CorruptObject(f"object {digest}{suffix}: {exc.message}") from None
        return written

    def _have(self, digest: Digest, suffix: str) -> bool:
        file = self._keep.open(digest, suffix)
        if file is None:
            return False
        file.close()
        return True

    @contextmanager
    def _open(self, digest: Digest, suffix: str) -> Iterator[IO[bytes]]:
        file = self._keep.open(digest, suffix)
        if file is None:
            raise MissingObject(f"object {digest}{suffix} is not among the kept ones")
        with file:
            yield file


class CatalogStore:
    """Open catalogs, shared by all walks of a run.

    Inflated catalogs are scratch files without a name: nothing of them outlives the process. Some stay open after use,
    within a budget of bytes and of files.

    Args:
        keeper: where their stored bytes come from.
        scratch: folder for the scratch files.
    """

    MAX_IDLE: Final = 48
    MAX_IDLE_BYTES: Final = 256 * limits.MIB

    def __init__(self, keeper: ObjectKeeper, scratch: str | None = None) -> None:
        self.keeper = keeper
        self._scratch = scratch
        self._users: dict[NestedRef, int] = {}
        self._open: OrderedDict[NestedRef, tuple[Catalog, int]] = OrderedDict()
        self._idle_bytes = 0

    @staticmethod
    def wanted(ref: NestedRef) -> tuple[Digest, str, int]:
        """What :meth:`ObjectKeeper.bring` needs to know of a catalog.

        Raises:
            CatalogError: the parent has no hash for it (FORMAT.md §6.8).
        """
        if ref.digest is None:
            raise CatalogError(
                f"the catalog of {show(ref.mount)} has no hash in its parent: its subtree cannot be read"
            )
        return ref.digest, "C", limits.stored_size(ref.size or limits.CATALOG)

    def open(self, ref: NestedRef) -> Catalog:
        """An open catalog; give it back with :meth:`release`.

        Raises:
            MissingObject, NetworkError, CorruptObject, CatalogError.
        """
        held = self._open.get(ref)
        if held is None:
            catalog, size = self._load(ref)
            self._open[ref] = (catalog, size)
        else:
            catalog, size = held
            self._open.move_to_end(ref)
            if ref not in self._users:
                self._idle_bytes -= size
        self._users[ref] = self._users.get(ref, 0) + 1
        return catalog

    @property
    def in_use(self) -> int:
        """Number of catalogs that were opened and not given back."""
        return len(self._users)

    def release(self, catalog: Catalog) -> None:
        ref = catalog.ref
        if ref not in self._users:
            return  # the store was closed under a walk that an error cut off
        self._users[ref] -= 1
        if self._users[ref] == 0:
            del self._users[ref]
            self._idle_bytes += self._open[ref][1]
            self._trim()

    def _trim(self) -> None:
        idle = [ref for ref in self._open if ref not in self._users]
        while idle and (len(idle) > self.MAX_IDLE or self._idle_bytes > self.MAX_IDLE_BYTES):
            catalog, size = self._open.pop(idle.pop(0))
            self._idle_bytes -= size
            catalog.close()

    def close(self) -> None:
        for catalog, _ in self._open.values():
            catalog.close()
        self._open.clear()
        self._users.clear()
        self._idle_bytes = 0

    def _load(self, ref: NestedRef) -> tuple[Catalog, int]:
        digest, suffix, stored = self.wanted(ref)
        fd, name = tempfile.mkstemp(prefix="catalog-", dir=self._scratch)
        try:
            with os.fdopen(fd, "wb") as out:
                size = self.keeper.inflate(digest, suffix, stored, ref.size or limits.CATALOG, out)
            if ref.size and size != ref.size:
                raise CatalogError(
                    f"the catalog of {show(ref.mount)} ({digest}) has {size} bytes, its parent says {ref.size}"
                )
            return Catalog(name, ref), size
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)
