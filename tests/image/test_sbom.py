"""The bill of materials: by the rules of SPDX 2.3, a function of what the image holds, and honest."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import jsonschema
import pytest

from shrinkwrap.cvmfs.digest import RMD160, SHA1, Digest
from shrinkwrap.image.sbom import Held, held, sbom
from shrinkwrap.record.statement import Material, Options, Statement
from shrinkwrap.snapshot.repository import Pin

SFT = Held("sft.cern.ch", 12, 1_795_346_014, Digest(SHA1, b"\x01" * 20), "ab" * 32, 7, 4096)
DEMO = Held("demo.example.org", 0, 0, Digest(RMD160, b"\x02" * 20), "cd" * 32, 1, 1)

TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
ID = {"type": "string", "pattern": r"^SPDXRef-[A-Za-z0-9.-]+$"}
DATE = {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$"}


def an_object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "required": sorted(required),
        "properties": required | (optional or {}),
        "additionalProperties": False,
    }


#: The mandatory fields of the clauses 6, 7, 11 and 12, and those of the optional ones that we use.
RULES = an_object(
    {
        "spdxVersion": {"const": "SPDX-2.3"},
        "dataLicense": {"const": "CC0-1.0"},
        "SPDXID": {"const": "SPDXRef-DOCUMENT"},
        "name": TEXT,
        "documentNamespace": {"type": "string", "pattern": r"^[a-z][a-z0-9+.-]*:[^#\s]+$"},
        "creationInfo": an_object({"created": DATE, "creators": {"type": "array", "minItems": 1, "items": TEXT}}),
        "packages": {
            "type": "array",
            "minItems": 1,
            "items": an_object(
                {"SPDXID": ID, "name": TEXT, "downloadLocation": TEXT},
                {
                    "filesAnalyzed": {"const": False},
                    "licenseConcluded": {"const": "NOASSERTION"},
                    "licenseDeclared": {"const": "NOASSERTION"},
                    "copyrightText": {"const": "NOASSERTION"},
                    "primaryPackagePurpose": {"enum": ["CONTAINER", "OTHER"]},
                    "versionInfo": TEXT,
                    "sourceInfo": TEXT,
                    "externalRefs": {
                        "type": "array",
                        "items": an_object(
                            {
                                "referenceCategory": {"const": "OTHER"},
                                "referenceType": TEXT,
                                "referenceLocator": {"type": "string", "pattern": r"^\S+$"},
                            }
                        ),
                    },
                    "annotations": {
                        "type": "array",
                        "items": an_object(
                            {
                                "annotationDate": DATE,
                                "annotationType": {"const": "OTHER"},
                                "annotator": {"type": "string", "pattern": "^Tool: "},
                                "comment": TEXT,
                            }
                        ),
                    },
                },
            ),
        },
        "relationships": {
            "type": "array",
            "items": an_object({"spdxElementId": ID, "relationshipType": TEXT, "relatedSpdxElement": ID}),
        },
    }
)


@pytest.mark.parametrize("repositories", [[SFT], [SFT, DEMO], []])
def test_a_document_has_the_fields_that_the_standard_asks_for(repositories: list[Held]) -> None:
    document = json.loads(sbom("sft.sif", repositories, tool="0.1.0"))
    jsonschema.Draft202012Validator(RULES).validate(document)
    identifiers = [package["SPDXID"] for package in document["packages"]]
    assert len(set(identifiers)) == len(identifiers)
    for relation in document["relationships"]:
        assert {relation["spdxElementId"], relation["relatedSpdxElement"]} <= {"SPDXRef-DOCUMENT", *identifiers}


def test_a_document_says_which_snapshot_and_how_much_of_it() -> None:
    document = json.loads(sbom("sft.sif", [SFT, DEMO], tool="0.1.0"))
    assert document["creationInfo"]["created"] == "2026-11-22T11:13:34Z"
    _, sft, demo = document["packages"]
    assert (sft["name"], sft["versionInfo"]) == ("sft.cern.ch", "12")
    assert [one["referenceLocator"] for one in sft["externalRefs"]] == ["01" * 20, "ab" * 32]
    assert sft["annotations"][0]["comment"] == "7 files, 4096 bytes"
    assert demo["versionInfo"] == "02" * 20 + "-rmd160"


def test_the_same_content_gives_the_same_bytes_and_other_content_another_namespace() -> None:
    first = sbom("sft.sif", [SFT], tool="0.1.0")
    assert first == sbom("sft.sif", [SFT], tool="0.1.0")
    spaces = set()
    for document in (first, sbom("sft.sif", [DEMO], tool="0.1.0"), sbom("sft.sif", [SFT], tool="0.2.0")):
        spaces.add(re.findall(rb"urn:x-shrinkwrap:sbom:[0-9a-f]{64}", document)[0])
    assert len(spaces) == 3


@pytest.mark.parametrize(("timestamp", "expected"), [(1 << 62, "1970-01-01T00:00:00Z"), (-1, "1969-12-31T23:59:59Z")])
def test_times_that_a_date_cannot_hold_are_the_epoch(timestamp: int, expected: str) -> None:
    one = Held("sft.cern.ch", 12, timestamp, SFT.root, "", 0, 0)
    assert json.loads(sbom("x", [one], tool="0.1.0"))["creationInfo"]["created"] == expected


def test_it_is_made_from_the_provenance_statement() -> None:
    statement = Statement(
        fqrn="sft.cern.ch",
        pin=Pin(),
        revision=12,
        timestamp=1_795_346_014,
        tag="",
        signed=True,
        root=Material(SFT.root),
        spec=b"/lcg/*\n",
        rules="2.14",
        options=Options(),
        variables={},
        listing_sha256="00" * 32,
        entries=12,
        counts={"files": 7, "bytes": 4096},
        tool="0.1.0",
    )
    found = held(statement)
    assert (found.fqrn, found.revision, found.root, found.files, found.size) == ("sft.cern.ch", 12, SFT.root, 7, 4096)
    assert found.spec_sha256 == hashlib.sha256(b"/lcg/*\n").hexdigest()
