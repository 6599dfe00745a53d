"""The whitelist ``.cvmfswhitelist``: which certificates may sign manifests, and until when (FORMAT.md §5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.digest import Digest
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.cvmfs.signature import (
    SignedDocument,
    check_hash_line,
    parse_fingerprint,
    split_signed,
    verify_raw,
)
from shrinkwrap.errors import TrustError

#: Where a server has it.
NAME: Final = ".cvmfswhitelist"

_ISSUED_LENGTH: Final = 14
#: The first character (an E) is not inspected by the reference, and minutes and seconds do not count.
_EXPIRY: Final = re.compile(rb".([0-9]{4})([0-9]{2})([0-9]{2})([0-9]{2})[0-9]{4}", re.DOTALL)
#: Lines that ask for checks which nobody can do today, with what they ask for (FORMAT.md §5.4).
_DEMANDS: Final = {
    b"Vpkcs7": "a PKCS#7 signature instead of the master key's",
    b"Wcachain": "certificates that a CA has signed",
}


@dataclass(frozen=True, slots=True)
class Whitelist:
    """A parsed whitelist; a claim until :func:`check_whitelist` has passed it.

    Attributes:
        issued: 14 characters, normally ``YYYYMMDDhhmmss`` UTC; of no consequence.
        expires: start of the hour of expiry, in seconds since the epoch. It holds strictly before that hour.
        fqrn: the repository it is for.
        fingerprints: of the certificates it lists, each in its own algorithm.
        document: text, hash line and signature.
        raw: the bytes as they came.
    """

    issued: str
    expires: int
    fqrn: str
    fingerprints: frozenset[Digest]
    document: SignedDocument = field(repr=False)
    raw: bytes = field(repr=False)


def parse_whitelist(data: bytes) -> Whitelist:
    """Read a whitelist's bytes. Expiry, name, hash line and signature are not checked here.

    Raises:
        TrustError: too large, lines that are not what they must be, or a demand for PKCS#7 or CA checks.
    """
    document = split_signed(data, NAME, limits.WHITELIST)
    lines = document.text.split(b"\n")[:-1]
    if len(lines) < 3:
        raise TrustError(f"{NAME}: {len(lines)} lines, expected the times of issue and expiry and the name")
    issued, expiry, name, *rest = lines
    if len(issued) != _ISSUED_LENGTH:
        raise TrustError(f"{NAME}: line 1 is {issued[:40]!r}, expected the time of issue in 14 digits")
    if not name.startswith(b"N"):
        raise TrustError(f"{NAME}: line 3 is {name[:40]!r}, expected N and the name of the repository")
    for line in rest:
        if (demand := _DEMANDS.get(line.rstrip(b" \t\r"))) is not None:
            raise TrustError(
                f"{NAME}: line {line.decode('ascii')!r} asks for {demand}, which is not supported",
                hint="ask the repository's owners for a whitelist that is signed with the master key",
            )
    return Whitelist(
        issued=issued.decode("ascii", "replace"),
        expires=_expiry_hour(expiry),
        fqrn=name[1:].decode("utf-8", "replace"),
        fingerprints=frozenset(found for line in rest if (found := parse_fingerprint(line)) is not None),
        document=document,
        raw=data,
    )


def _expiry_hour(line: bytes) -> int:
    wrong = f"{NAME}: line 2 is {line[:40]!r}, expected E and the time of expiry in 14 digits"
    found = _EXPIRY.fullmatch(line)
    if found is None:
        raise TrustError(wrong)
    year, month, day, hour = (int(part) for part in found.groups())
    try:
        return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp())
    except (ValueError, OverflowError):
        raise TrustError(wrong) from None


def check_whitelist(whitelist: Whitelist, fqrn: str, keys: Sequence[MasterKey], now: float) -> MasterKey:
    """Whether the whitelist counts, in the reference's order: expiry, name, hash line, signature (FORMAT.md
    §5.2).

    Args:
        whitelist: as parsed.
        fqrn: the repository that was asked for.
        keys: one of them must have signed it.
        now: seconds since the epoch.

    Returns:
        The key that signed it.

    Raises:
        TrustError: expired (to the hour), for another repository, altered, or signed with none of ``keys``.
    """
    # Comparing with the start of the hour is comparing hours; a NaN for a clock does not pass either.
    if not now < whitelist.expires:
        raise TrustError(
            f"{NAME} of {fqrn}: it expired in the hour of {_utc(whitelist.expires)}",
            hint="its owners have to sign it anew; check this machine's clock, and other servers",
        )
    if whitelist.fqrn != fqrn:
        raise TrustError(f"{NAME}: it is for {whitelist.fqrn[:80]!r}, expected {fqrn!r}")
    check_hash_line(whitelist.document, f"{NAME} of {fqrn}")
    for key in keys:
        if verify_raw(key.rsa, whitelist.document.signature, whitelist.document.signed):
            return key
    names = ", ".join(key.name for key in keys) or "none given"
    raise TrustError(
        f"{NAME} of {fqrn}: signed with none of the master keys ({names})",
        hint="give the public key of the repository's domain",
    )


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
