"""From bytes that anybody may have sent to a head that can be trusted: a state machine without any I/O.

The caller fetches, :class:`TrustedSet` judges. Its docstring states every rule (FORMAT.md §4.3, §4.4, §5.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs import manifest as manifests
from shrinkwrap.cvmfs.blacklist import Blacklist
from shrinkwrap.cvmfs.digest import Digest, digest_of
from shrinkwrap.cvmfs.inflate import inflate
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.cvmfs.manifest import Manifest, parse_manifest
from shrinkwrap.cvmfs.signature import (
    Certificate,
    check_hash_line,
    format_fingerprint,
    parse_certificate,
    verify_sha1,
)
from shrinkwrap.cvmfs.whitelist import Whitelist, check_whitelist, parse_whitelist
from shrinkwrap.errors import CorruptObject, RollbackError, TrustError, UsageError

_FQRN: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,59}")
_NO_BLACKLIST: Final = Blacklist()


def check_fqrn(name: str) -> str:
    """The name itself, if it can be that of a repository: it becomes part of URLs and of paths on disk.

    Raises:
        UsageError: other characters than letters, digits and ``-_.``, a leading dot, empty, or more than 60.
    """
    if _FQRN.fullmatch(name) is None:
        raise UsageError(
            f"{name[:80]!r} is not the name of a repository",
            hint="letters, digits and -_. (at most 60, no dot in front), such as sft.cern.ch",
        )
    return name


def verify_object(digest: Digest, stored: bytes, limit: int) -> bytes:
    """Inflate an object that is always compressed (catalog, history, certificate, metainfo), having verified
    it.

    Args:
        digest: of the object as stored.
        stored: the bytes as they came.
        limit: the largest inflated size in bytes.

    Raises:
        CorruptObject: another digest, too large, or not one whole zlib stream.
    """
    cap = limits.stored_size(limit)
    if len(stored) > cap:
        raise CorruptObject(f"object {digest}: {len(stored)} bytes, more than the {cap} that are allowed")
    found = digest_of(digest.algorithm, stored)
    if found != digest:
        raise CorruptObject(f"object {digest}: the {len(stored)} bytes that came have the hash {found}")
    try:
        return inflate(stored, limit)
    except CorruptObject as exc:
        raise CorruptObject(f"object {digest}: {exc.message}") from None


class KnownHead(NamedTuple):
    """The newest head seen before, from the record; ``timestamp`` (seconds) is for messages alone."""

    revision: int
    root_hash: Digest
    timestamp: int


class TrustedSet:
    """What a repository's servers say about its head, taken in the one order that lets each step be judged.

    The manifest comes first, then the certificate that it names, then the whitelist. An ``add_`` method
    either accepts the bytes and moves on, or raises and leaves the set as it was, so that the same step can
    be tried with another server's bytes. The rules:

    Manifest
        1. At most 64 KiB; complete; printable ASCII; numbers of 64 bits; hashes with a known algorithm.
        2. Field N is the name that was asked for, to the letter; field R is the MD5 of the empty path.
        3. The hash line is the digest of the text before it, in the hash line's own algorithm.
        4. It names a certificate (field X).
    Certificate
        5. The stored bytes have the digest in X and inflate to at most 64 KiB: else CorruptObject, since a
           cache can have spoilt them.
        6. They are a PEM certificate with an RSA key. Dates, subject and issuer do not count (FORMAT.md
           §4.3).
        7. The manifest's signature recovers with that key to exactly the padded SHA-1 of the hash line.
    Whitelist
        8. At most 256 KiB; well-formed; does not ask for PKCS#7 or a CA (FORMAT.md §5.4).
        9. The current hour in UTC is before its hour of expiry; it names the repository; its hash line is the
           digest of its text; and its signature recovers with one of the master keys to exactly the padded
           hash line.
        10. The certificate's fingerprint is not blacklisted, and the whitelist lists it.
    Head
        11. The revision is not below the blacklist's lowest for the repository.
        12. Unless ``allow_rollback``: the revision is not lower than the known one; if equal, the root hash
            is the same. Time stamps decide nothing: a higher revision with an earlier one comes from a
            publisher's clock.

    A freshness guarantee there is none beyond the whitelist's expiry: who controls the network can withhold
    new heads.

    Args:
        fqrn: the repository that is wanted.
        keys: master keys, any of which may have signed the whitelist.
        now: seconds since the epoch.
        known: the newest head seen before.
        allow_rollback: accept a head that rule 12 refuses.
        blacklist: bans that precede the whitelist.

    Raises:
        UsageError: ``fqrn`` cannot be a repository's name.
    """

    def __init__(
        self,
        fqrn: str,
        keys: Sequence[MasterKey],
        *,
        now: float,
        known: KnownHead | None = None,
        allow_rollback: bool = False,
        blacklist: Blacklist = _NO_BLACKLIST,
    ) -> None:
        self.fqrn = check_fqrn(fqrn)
        self._keys = tuple(keys)
        self._now = now
        self._known = known
        self._allow_rollback = allow_rollback
        self._blacklist = blacklist
        self._manifest: Manifest | None = None
        self._certificate: Certificate | None = None
        self._whitelist: Whitelist | None = None

    # -- the three steps -------------------------------------------------------------------------------------

    def add_manifest(self, data: bytes) -> Manifest:
        """Take the bytes of ``.cvmfspublished`` (rules 1 to 4). What is returned is not to be trusted yet.

        Raises:
            TrustError: a rule is broken, or there is a manifest already.
        """
        if self._manifest is not None:
            raise TrustError(f"{self.fqrn}: a manifest was added before")
        manifest = parse_manifest(data)
        what = f"{manifests.NAME} of {self.fqrn}"
        if manifest.fqrn != self.fqrn:
            raise TrustError(
                f"{what}: it is that of {manifest.fqrn[:80]!r}",
                hint="the server's URL leads to another repository",
            )
        if manifest.root_path_md5 != manifests.ROOT_PATH_MD5:
            raise TrustError(f"{what}: field R is {manifest.root_path_md5[:80]!r}, not that of the root path")
        check_hash_line(manifest.document, what)
        if manifest.certificate is None:
            raise TrustError(f"{what}: it names no certificate (field X)")
        self._manifest = manifest
        return manifest

    def certificate_request(self) -> tuple[str, int]:
        """Path below the repository's URL of the certificate, and the most bytes it may have as stored.

        Raises:
            TrustError: there is no manifest yet.
        """
        manifest = self._claimed()
        digest = self._certificate_hash(manifest)
        # The alternative name lies in the repository's root (FORMAT.md §1.3).
        path = f".cvmfsalt-{digest}X" if manifest.alt_path else digest.object_path("X")
        return path, limits.stored_size(limits.CERTIFICATE)

    def add_certificate(self, stored: bytes) -> None:
        """Take the certificate as stored, compressed (rules 5 to 7).

        Raises:
            CorruptObject: not the object that the manifest names.
            TrustError: a rule is broken, or it is not the certificate's turn.
        """
        manifest = self._claimed()
        if self._certificate is not None:
            raise TrustError(f"{self.fqrn}: a certificate was added before")
        pem = verify_object(self._certificate_hash(manifest), stored, limits.CERTIFICATE)
        certificate = parse_certificate(pem)
        if not verify_sha1(certificate.key, manifest.document.signature, manifest.document.signed):
            raise TrustError(
                f"{manifests.NAME} of {self.fqrn}: its signature does not fit its certificate {manifest.certificate}"
            )
        self._certificate = certificate

    def add_whitelist(self, data: bytes) -> None:
        """Take the bytes of ``.cvmfswhitelist`` (rules 8 to 10).

        Raises:
            TrustError: a rule is broken, or it is not the whitelist's turn.
        """
        certificate = self._certificate
        if certificate is None:
            raise TrustError(f"{self.fqrn}: the whitelist can only be judged after the certificate")
        if self._whitelist is not None:
            raise TrustError(f"{self.fqrn}: a whitelist was added before")
        whitelist = parse_whitelist(data)
        check_whitelist(whitelist, self.fqrn, self._keys, self._now)
        if self._blacklist.forbids(certificate):
            raise TrustError(
                f"{self.fqrn}: the manifest's certificate {_shown(certificate)} is on this site's blacklist"
            )
        algorithms = {listed.algorithm for listed in whitelist.fingerprints}
        if whitelist.fingerprints.isdisjoint(certificate.fingerprint(number) for number in algorithms):
            raise TrustError(
                f"{self.fqrn}: the manifest's certificate {_shown(certificate)} is not on the whitelist",
                hint="after a change of certificate, caches may serve the old whitelist for a while",
            )
        self._whitelist = whitelist

    # -- what follows from them ------------------------------------------------------------------------------

    @property
    def head(self) -> Manifest:
        """The manifest, now that it can be trusted (rules 11 and 12).

        Raises:
            TrustError: a step is missing, or the revision is blacklisted.
            RollbackError: older than the known head, or another one of the same revision.
        """
        manifest = self._claimed()
        if self._certificate is None or self._whitelist is None:
            missing = "certificate" if self._certificate is None else "whitelist"
            raise TrustError(f"{self.fqrn}: the manifest cannot be trusted before its {missing} is known")
        self._check_blacklist(manifest)
        self._check_known(manifest)
        return manifest

    @property
    def whitelist(self) -> Whitelist:
        """The whitelist, once all steps are done; for the record.

        Raises:
            TrustError: a step is missing.
        """
        if self._whitelist is None:
            raise TrustError(f"{self.fqrn}: there is no verified whitelist yet")
        return self._whitelist

    # -- parts -----------------------------------------------------------------------------------------------

    def _claimed(self) -> Manifest:
        if self._manifest is None:
            raise TrustError(f"{self.fqrn}: there is no manifest yet")
        return self._manifest

    def _certificate_hash(self, manifest: Manifest) -> Digest:
        if manifest.certificate is None:  # add_manifest lets none of these in
            raise TrustError(f"{self.fqrn}: the manifest names no certificate")
        return manifest.certificate

    def _check_blacklist(self, manifest: Manifest) -> None:
        lowest = self._blacklist.lowest_revision(self.fqrn)
        if manifest.revision < lowest:
            raise TrustError(
                f"{self.fqrn}: revision {manifest.revision} is on this site's blacklist (lower than {lowest})"
            )

    def _check_known(self, manifest: Manifest) -> None:
        known = self._known
        if known is None or self._allow_rollback:
            return
        seen = f"revision {known.revision} of {_utc(known.timestamp)}"
        if manifest.revision < known.revision:
            raise RollbackError(
                f"{self.fqrn}: the server's head is revision {manifest.revision} of"
                f" {_utc(manifest.timestamp)}, but {seen} was seen before",
                hint="the server lags behind or replays; try another server, or allow the rollback",
            )
        if manifest.revision == known.revision and manifest.root_hash != known.root_hash:
            raise RollbackError(
                f"{self.fqrn}: the server's head is root catalog {manifest.root_hash}, but {seen} had"
                f" {known.root_hash}",
                hint="a repository that was restored from a backup looks like this;"
                " ask its owners, or allow the rollback",
            )


def _shown(certificate: Certificate) -> str:
    return format_fingerprint(certificate.fingerprint(0))


def _utc(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"second {seconds}"
