"""Blacklists: certificates and old revisions that a site does not want any more (FORMAT.md §4.5)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from shrinkwrap.cvmfs.digest import Digest
from shrinkwrap.cvmfs.limits import MIB
from shrinkwrap.cvmfs.signature import Certificate, parse_fingerprint
from shrinkwrap.errors import UsageError

#: A blacklist has a line for each certificate or repository.
FILE_LIMIT: Final = 4 * MIB

_REVISION: Final = re.compile(rb"<([^ \t]+)[ \t]+([0-9]{1,20})")


@dataclass(frozen=True, slots=True)
class Blacklist:
    """What is refused whatever a whitelist says.

    Attributes:
        fingerprints: of certificates.
        revisions: for a repository, the lowest revision that may be used.
    """

    fingerprints: frozenset[Digest] = frozenset()
    revisions: Mapping[str, int] = field(default_factory=dict)

    def forbids(self, certificate: Certificate) -> bool:
        """Whether the certificate is listed, in whichever algorithm."""
        return any(certificate.fingerprint(listed.algorithm) == listed for listed in self.fingerprints)

    def lowest_revision(self, fqrn: str) -> int:
        """The lowest revision of the repository that may be used; 0 if it is not named."""
        return self.revisions.get(fqrn, 0)


def parse_blacklist(data: bytes) -> Blacklist:
    """Read a blacklist. Comments and lines that are neither form are skipped, as the format says.

    Of several lines for one repository the highest revision counts.
    """
    fingerprints: set[Digest] = set()
    revisions: dict[str, int] = {}
    for line in data.split(b"\n"):
        if (found := _REVISION.fullmatch(line)) is not None:
            fqrn = found[1].decode("utf-8", "replace")
            revisions[fqrn] = max(int(found[2]), revisions.get(fqrn, 0))
        elif (fingerprint := parse_fingerprint(line)) is not None:
            fingerprints.add(fingerprint)
    return Blacklist(frozenset(fingerprints), revisions)


def read_blacklists(paths: Iterable[str | os.PathLike[str]]) -> Blacklist:
    """All blacklists together; files that do not exist are skipped (most sites have none).

    Raises:
        UsageError: one is there but cannot be read. Going on without it would lift its ban.
    """
    pieces: list[bytes] = []
    for path in paths:
        try:
            with open(path, "rb") as stream:
                data = stream.read(FILE_LIMIT + 1)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as exc:
            raise UsageError(f"{os.fspath(path)}: the blacklist cannot be read: {exc}") from None
        if len(data) > FILE_LIMIT:
            raise UsageError(f"{os.fspath(path)}: larger than {FILE_LIMIT} bytes; this is not a blacklist")
        pieces.append(data)
    return parse_blacklist(b"\n".join(pieces))
