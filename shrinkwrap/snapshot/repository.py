"""A repository as it can be trusted: its head, its tags, and the snapshot that is asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.blacklist import Blacklist
from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.digest import Digest, parse_digest
from shrinkwrap.cvmfs.history import History, Tag, parse_date
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.cvmfs.manifest import Manifest
from shrinkwrap.cvmfs.trust import KnownHead, TrustedSet, check_fqrn
from shrinkwrap.errors import CorruptObject, MissingObject, TrustError, UsageError
from shrinkwrap.fetch.types import Source
from shrinkwrap.snapshot.catalogs import ObjectKeeper

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pin:
    """Which snapshot is wanted; at most one of them. Nothing set: the head.

    Attributes:
        tag: a name in the history.
        revision: a number that is tagged in the history, or the head's.
        at: a date; the newest tag that is not younger (:func:`~shrinkwrap.cvmfs.history.parse_date`).
        root_hash: of a root catalog, in the signed history.
        unsigned: accept a ``root_hash`` that no signature vouches for.
    """

    tag: str = ""
    revision: int | None = None
    at: str = ""
    root_hash: str = ""
    unsigned: bool = False

    def check(self) -> None:
        """Raises UsageError for pins that exclude each other or make no sense."""
        given = [
            name
            for name, value in (
                ("--tag", self.tag),
                ("--revision", self.revision is not None),
                ("--at", self.at),
                ("--root-hash", self.root_hash),
            )
            if value
        ]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)}: only one of them can decide", hint="leave out all but one")
        if self.at:
            parse_date(self.at)
        if self.root_hash:
            try:
                parse_digest(self.root_hash)
            except CorruptObject as exc:
                raise UsageError(f"--root-hash: {exc.message}") from None
        elif self.unsigned:
            raise UsageError("--accept-unsigned-root-hash goes with --root-hash only")

    @property
    def follows_head(self) -> bool:
        return not (self.tag or self.revision is not None or self.at or self.root_hash)


class Revision(NamedTuple):
    """A snapshot that can be trusted (or that the user chose to): its root catalog and what is known of it.

    ``timestamp`` in seconds since the epoch, 0 if unknown; ``signed`` is False for a root hash that no signature
    vouches for.
    """

    root: NestedRef
    revision: int
    timestamp: int
    tag: str
    signed: bool

    @property
    def root_hash(self) -> Digest:
        assert self.root.digest is not None
        return self.root.digest


class Accepted(NamedTuple):
    """A head that was verified, and the bytes that prove it."""

    manifest: Manifest
    manifest_bytes: bytes
    whitelist_bytes: bytes
    expires: int


class Repository:
    """One repository behind one source.

    Args:
        fqrn: its name.
        source: where bytes come from.
        keeper: keeps histories and catalogs.
        keys: master keys; any of them may have signed the whitelist.
        known: the head that was seen last.
        allow_rollback: accept an older head.
        blacklist: of this site.
        now: seconds since the epoch.
        notice: told what people should know.
    """

    def __init__(
        self,
        fqrn: str,
        source: Source,
        keeper: ObjectKeeper,
        keys: Sequence[MasterKey],
        *,
        now: float,
        known: KnownHead | None = None,
        allow_rollback: bool = False,
        blacklist: Blacklist | None = None,
        scratch: str | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.fqrn = check_fqrn(fqrn)
        self._source = source
        self._keeper = keeper
        self._keys = tuple(keys)
        self._now = now
        self._known = known
        self._allow_rollback = allow_rollback
        self._blacklist = blacklist if blacklist is not None else Blacklist()
        self._scratch = scratch
        self._notice = notice or (lambda line: None)
        self._accepted: Accepted | None = None

    def manifest_bytes(self) -> bytes:
        """The head's manifest as served, unverified: to see whether it is the one that was verified before."""
        return self._source.control(".cvmfspublished", limits.MANIFEST)

    def accept(self, proven: Accepted) -> None:
        """Take a head that was verified in an earlier run, byte for byte the same, its whitelist not expired."""
        self._place_root(proven.manifest)
        self._accepted = proven

    def head(self, manifest_bytes: bytes | None = None) -> Accepted:
        """The verified head.

        A host whose answers do not verify is left for the next one; when all were tried, the first reason counts
        (FORMAT.md §1.5).

        Args:
            manifest_bytes: what :meth:`manifest_bytes` gave, if it was called.

        Raises:
            TrustError, RollbackError, NetworkError, MissingObject.
        """
        if self._accepted is None:
            first: TrustError | None = None
            while self._accepted is None:
                try:
                    self._accepted = self._verify(manifest_bytes)
                except TrustError as exc:
                    host = self._source.host
                    first = first or exc
                    if not self._source.next_host():
                        raise first from None
                    self._notice(f"{host}: {exc.message}; trying {self._source.host}")
                    manifest_bytes = None
        return self._accepted

    def _verify(self, manifest_bytes: bytes | None) -> Accepted:
        trusted = TrustedSet(
            self.fqrn,
            self._keys,
            now=self._now,
            known=self._known,
            allow_rollback=self._allow_rollback,
            blacklist=self._blacklist,
        )
        data = manifest_bytes if manifest_bytes is not None else self.manifest_bytes()
        manifest = trusted.add_manifest(data)
        path, cap = trusted.certificate_request()
        certificate = manifest.certificate
        assert certificate is not None
        self._keeper.elsewhere[certificate, "X"] = path
        try:
            trusted.add_certificate(self._keeper.stored(certificate, "X", cap))
        except (MissingObject, CorruptObject) as exc:
            raise TrustError(
                f"{self.fqrn}: the certificate that the manifest names cannot be had: {exc.message}"
            ) from None
        try:
            whitelist = self._source.control(".cvmfswhitelist", limits.WHITELIST)
        except MissingObject as exc:
            raise TrustError(f"{self.fqrn}: there is no whitelist: {exc.message}") from None
        trusted.add_whitelist(whitelist)
        head = trusted.head
        if head.root_size > limits.CATALOG:
            raise TrustError(f"{self.fqrn}: a root catalog of {head.root_size} bytes is more than is allowed")
        self._place_root(head)
        return Accepted(head, data, whitelist, trusted.whitelist.expires)

    def _place_root(self, head: Manifest) -> None:
        """Where the root catalog of a verified head is (FORMAT.md §1.3)."""
        if head.alt_path:
            self._keeper.elsewhere[head.root_hash, "C"] = f".cvmfsalt-{head.root_hash}C"

    def tags(self) -> list[Tag]:
        """All tags of the signed history, by revision; empty for a repository without history."""
        return [] if self.head().manifest.history is None else self._with_history(lambda history: history.tags())

    def resolve(self, pin: Pin) -> Revision:
        """The snapshot that a pin stands for.

        Raises:
            UsageError: an unknown tag, revision or date. TrustError: a root hash that is not in the signed history.
        """
        pin.check()
        if pin.root_hash and pin.unsigned:
            return Revision(NestedRef(b"", parse_digest(pin.root_hash), 0, False), 0, 0, "", False)
        head = self.head().manifest
        of_head = Revision(
            NestedRef(b"", head.root_hash, head.root_size, False), head.revision, head.timestamp, "", True
        )
        if pin.follows_head or pin.revision == head.revision or pin.root_hash == str(head.root_hash):
            return of_head
        if pin.tag:
            return _of_tag(self._with_history(lambda history: history.by_name(pin.tag)))
        if pin.at:
            return _of_tag(self._with_history(lambda history: history.by_date(parse_date(pin.at))))
        if pin.revision is not None:
            revision = pin.revision
            return _of_tag(self._with_history(lambda history: history.by_revision(revision)))._replace(tag="")
        wanted = parse_digest(pin.root_hash)
        for tag in reversed(self.tags()):
            if tag.hash == wanted:
                return _of_tag(tag)._replace(tag="")
        raise TrustError(
            f"{self.fqrn}: root hash {pin.root_hash} is not in the signed history",
            hint="--accept-unsigned-root-hash takes it all the same: then nothing vouches for the content but the hash"
            " itself, neither signature nor whitelist",
        )

    def _with_history(self, use: Callable[[History], T]) -> T:
        head = self.head().manifest
        if head.history is None:
            raise UsageError(
                f"{self.fqrn}: it has no history, so there are no tags and dates to pin to",
                hint="pin to a root hash",
            )
        fd, name = tempfile.mkstemp(prefix="history-", dir=self._scratch)
        try:
            with os.fdopen(fd, "wb") as out:
                self._keeper.inflate(head.history, "H", limits.stored_size(limits.HISTORY), limits.HISTORY, out)
            with History(name, self.fqrn) as history:
                return use(history)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)


def _of_tag(tag: Tag) -> Revision:
    size = tag.size if 0 <= tag.size <= limits.CATALOG else 0
    return Revision(NestedRef(b"", tag.hash, size, False), tag.revision, tag.timestamp, tag.name, True)
