"""A bill of materials of an image: an SPDX 2.3 document in JSON.

It says what is known and no more: which repositories, at which root hash, through which specification. What software
lies in them, and under which licences, no catalog tells; those fields say ``NOASSERTION``, as the standard asks.

Source: SPDX specification 2.3, clauses 6 (document), 7 (package), 11 (relationships), 12 (annotations).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from shrinkwrap.cvmfs.digest import Digest
from shrinkwrap.record.statement import Statement

_UNKNOWN: Final = "NOASSERTION"
_IMAGE: Final = "SPDXRef-Image"
_DOCUMENT: Final = "SPDXRef-DOCUMENT"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Held:
    """A repository as far as an image holds it.

    Attributes:
        fqrn: its name.
        revision, timestamp: of the snapshot; the time in seconds since the epoch. 0 if unknown.
        root: of the root catalog.
        spec_sha256: of the specification's text, in hex.
        files, size: number of regular files in the image, and their bytes.
    """

    fqrn: str
    revision: int
    timestamp: int
    root: Digest
    spec_sha256: str
    files: int
    size: int


def held(statement: Statement) -> Held:
    """What a provenance statement says of its repository."""
    return Held(
        fqrn=statement.fqrn,
        revision=statement.revision,
        timestamp=statement.timestamp,
        root=statement.root.digest,
        spec_sha256=hashlib.sha256(statement.spec).hexdigest(),
        files=statement.counts.get("files", 0),
        size=statement.counts.get("bytes", 0),
    )


def sbom(name: str, repositories: Sequence[Held], *, tool: str) -> bytes:
    """The document for an image of some repositories; a function of the arguments.

    Its time is the newest snapshot's, its namespace is made from a hash of all that it says.

    Args:
        name: of the image.
        tool: version of this tool.
    """
    when = max((one.timestamp for one in repositories), default=0)
    packages = [_repository(number, one, when, tool) for number, one in enumerate(repositories, start=1)]
    document: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": name,
        "documentNamespace": "",
        "creationInfo": {"created": _time(when), "creators": [f"Tool: shrinkwrap-{tool}"]},
        "packages": [_package(_IMAGE, name) | {"primaryPackagePurpose": "CONTAINER"}, *packages],
        "relationships": [
            _relationship(_DOCUMENT, "DESCRIBES", _IMAGE),
            *(_relationship(_IMAGE, "CONTAINS", package["SPDXID"]) for package in packages),
        ],
    }
    document["documentNamespace"] = f"urn:x-shrinkwrap:sbom:{hashlib.sha256(_to_bytes(document)).hexdigest()}"
    return _to_bytes(document)


def _to_bytes(document: dict[str, Any]) -> bytes:
    """The same form as the provenance statement's: ASCII, keys sorted, one blank of indent a level."""
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def _repository(number: int, one: Held, when: int, tool: str) -> dict[str, Any]:
    # A hash of the catalog is none of the package, which is what "checksums" would claim.
    return _package(f"SPDXRef-Repository-{number}", one.fqrn) | {
        "versionInfo": str(one.revision) if one.revision else str(one.root),
        "primaryPackagePurpose": "OTHER",
        "sourceInfo": f"the part of the CernVM-FS repository {one.fqrn} at {one.root} that a specification selects",
        "externalRefs": [_reference("cvmfs-root-catalog", str(one.root)), _reference("spec-sha256", one.spec_sha256)],
        "annotations": [
            {
                "annotationDate": _time(when),
                "annotationType": "OTHER",
                "annotator": f"Tool: shrinkwrap-{tool}",
                "comment": f"{one.files} files, {one.size} bytes",
            }
        ],
    }


def _package(identifier: str, name: str) -> dict[str, Any]:
    return {
        "SPDXID": identifier,
        "name": name,
        "downloadLocation": _UNKNOWN,
        # True would promise an entry for each file of the package.
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _UNKNOWN,
        "copyrightText": _UNKNOWN,
    }


def _reference(kind: str, locator: str) -> dict[str, str]:
    return {"referenceCategory": "OTHER", "referenceType": kind, "referenceLocator": locator}


def _relationship(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _time(timestamp: int) -> str:
    """Seconds since the epoch in the standard's form; the epoch for a time that has none."""
    try:
        when = _EPOCH + timedelta(seconds=timestamp)
    except OverflowError:
        when = _EPOCH
    # Years below 1000 come out short on some platforms.
    return f"{when.year:04d}{when:-%m-%dT%H:%M:%SZ}"
