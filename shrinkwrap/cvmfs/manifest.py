"""The manifest ``.cvmfspublished``: what a repository's newest revision is (FORMAT.md §4)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.digest import Digest, parse_digest
from shrinkwrap.cvmfs.signature import SignedDocument, split_signed
from shrinkwrap.errors import CorruptObject, TrustError

#: Where a server has it.
NAME: Final = ".cvmfspublished"
#: MD5 of the empty path: what field R must be, since the root catalog is that of the whole repository.
ROOT_PATH_MD5: Final = "d41d8cd98f00b204e9800998ecf8427e"

_REQUIRED: Final = "CRDS"
_PRINTABLE: Final = re.compile(rb"[\x20-\x7e\n]*")
#: 2**64 - 1 has 20 digits.
_NUMBER: Final = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed manifest. It is no more than a claim until a :class:`~shrinkwrap.cvmfs.trust.TrustedSet` gives
    it back.

    Attributes:
        root_hash: of the root catalog (C).
        root_size: bytes of the inflated root catalog (B), 0 if not given.
        root_path_md5: hex (R).
        ttl: seconds that it may be cached for (D).
        revision: grows with each publication (S).
        garbage_collectable: old revisions may lose objects (G).
        alt_path: root catalog and certificate are fetched by their alternative names (A; FORMAT.md §1.3).
        fqrn: name of the repository (N), empty if not given.
        certificate, history, metainfo, reflog: hashes (X, H, M, Y), None if not given.
        timestamp: seconds since the epoch of the publication (T), 0 if not given.
        document: text, hash line and signature.
        raw: the bytes as they came.
    """

    root_hash: Digest
    root_size: int
    root_path_md5: str
    ttl: int
    revision: int
    garbage_collectable: bool
    alt_path: bool
    fqrn: str
    certificate: Digest | None
    history: Digest | None
    timestamp: int
    metainfo: Digest | None
    reflog: Digest | None
    document: SignedDocument = field(repr=False)
    raw: bytes = field(repr=False)


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest's bytes. Neither the hash line nor the signature is checked here.

    Unknown letters are skipped, of a repeated one the last counts, as for the reference.

    Raises:
        TrustError: too large, incomplete, or a field that is not what it must be.
    """
    document = split_signed(data, NAME, limits.MANIFEST)
    if not _PRINTABLE.fullmatch(document.text):
        raise TrustError(f"{NAME}: bytes other than printable ASCII in its text")
    fields = {line[0]: line[1:] for line in document.text.decode("ascii").split("\n") if line}
    missing = [letter for letter in _REQUIRED if letter not in fields]
    if missing:
        raise TrustError(f"{NAME}: incomplete, no field {' '.join(missing)}")
    return Manifest(
        root_hash=_root(fields["C"]),
        root_size=_number("B", fields.get("B", "0")),
        root_path_md5=fields["R"],
        ttl=_number("D", fields["D"]),
        revision=_number("S", fields["S"]),
        garbage_collectable=fields.get("G") == "yes",
        alt_path=fields.get("A") == "yes",
        fqrn=fields.get("N", ""),
        certificate=_hash("X", fields.get("X")),
        history=_hash("H", fields.get("H")),
        timestamp=_number("T", fields.get("T", "0")),
        metainfo=_hash("M", fields.get("M")),
        reflog=_hash("Y", fields.get("Y")),
        document=document,
        raw=data,
    )


def _number(letter: str, text: str) -> int:
    if not _NUMBER.fullmatch(text) or (number := int(text)) >= 1 << 64:
        raise TrustError(f"{NAME}: field {letter} is {text[:40]!r}, expected a number of 64 bits")
    return number


def _root(text: str) -> Digest:
    digest = _hash("C", text)
    if digest is None:
        raise TrustError(f"{NAME}: field C is a null hash, expected that of the root catalog")
    return digest


def _hash(letter: str, text: str | None) -> Digest | None:
    """None for a missing field and for the null hash, which stands for "none" (FORMAT.md §2.2)."""
    if text is None:
        return None
    try:
        digest = parse_digest(text)
    except CorruptObject as exc:
        raise TrustError(f"{NAME}: field {letter}: {exc}") from None
    return None if digest.is_null else digest
