"""The statement of an export: by the published rules, the same wherever it is made, and read with suspicion."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from referencing import Registry, Resource
from snapshot.walking import open_real, walk
from support import golden
from support.golden import CHECKOUT, Pinned
from support.listing import ORDINARY

from shrinkwrap.cvmfs.digest import RMD160, SHA1, SHAKE128, Digest
from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.cvmfs.variants import expand
from shrinkwrap.errors import CorruptObject
from shrinkwrap.record import statement as statements
from shrinkwrap.record.listing import ListingDigest
from shrinkwrap.record.statement import COUNTS, Material, Options, Statement
from shrinkwrap.snapshot.repository import Pin

SCHEMAS = Path(__file__).parent / "schemas"
LISTING = hashlib.sha256(b"listing").hexdigest()


def material(byte: int, algorithm: int = SHA1, sha256: str = "") -> Material:
    return Material(Digest(algorithm, bytes([byte]) * 20), sha256)


def made(**values: Any) -> Statement:
    statement = Statement(
        fqrn="small.cern.ch",
        pin=Pin(),
        revision=3,
        timestamp=1_795_346_014,
        tag="",
        signed=True,
        root=material(1),
        spec=b"/lcg/*\n",
        rules="2.14",
        options=Options(),
        variables={b"ARCH": b"x86_64-el9", b"EMPTYVAR": b"", b"SITE": None},
        listing_sha256=LISTING,
        entries=12,
        counts={"files": 7, "dirs": 3, "symlinks": 2, "bytes": 4096, "catalogs": 2},
        tool="0.1.0",
        certificate=material(2),
        history=material(3),
    )
    return replace(statement, **values)


@pytest.fixture(scope="module")
def validator() -> jsonschema.protocols.Validator:
    schemas = [json.loads(file.read_bytes()) for file in sorted(SCHEMAS.glob("*.json"))]
    for schema in schemas:
        jsonschema.Draft202012Validator.check_schema(schema)
    registry: Registry[Any] = Registry().with_resources([(one["$id"], Resource.from_contents(one)) for one in schemas])
    top = next(one for one in schemas if one["$id"].endswith("in-toto-statement-v1"))
    return jsonschema.Draft202012Validator(top, registry=registry)


PINS = [Pin(), Pin(tag="rev1"), Pin(revision=3), Pin(at="2026-11-22"), Pin(root_hash="ab" * 20, unsigned=True)]
ODD_TEXTS = ["a\nb", "\x1b[31m", '"', "\\u0041", "ü\u2028", "\udcff", "\ud800", "\0"]


@pytest.mark.parametrize("pin", PINS)
@pytest.mark.parametrize("algorithm", [SHA1, RMD160, SHAKE128])
def test_a_statement_is_one_by_the_published_rules(
    pin: Pin, algorithm: int, validator: jsonschema.protocols.Validator
) -> None:
    statement = made(pin=pin, root=material(1, algorithm, LISTING), certificate=material(2, algorithm))
    validator.validate(json.loads(statement.to_bytes()))


def _without(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: Any) -> None:
        for step in path[:-1]:
            value = value[step]
        del value[path[-1]]

    return change


def _with(new: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: Any) -> None:
        for step in path[:-1]:
            value = value[step]
        value[path[-1]] = new

    return change


DEFINITION = ("predicate", "buildDefinition")
PARAMETERS = (*DEFINITION, "externalParameters")
BUILDER = ("predicate", "runDetails", "builder")
ROOT = (*DEFINITION, "resolvedDependencies", 0)
#: Against the published rules.
UNLAWFUL = {
    "another type": _with("https://in-toto.io/Statement/v0.1", "_type"),
    "no subject": _without("subject"),
    "an empty list of subjects": _with([], "subject"),
    "a subject without a digest": _without("subject", 0, "digest"),
    "a digest in upper case": _with(LISTING.upper(), "subject", 0, "digest", "sha256"),
    "no predicate": _without("predicate"),
    "no build definition": _without("predicate", "buildDefinition"),
    "no build type": _without(*DEFINITION, "buildType"),
    "no parameters": _without(*PARAMETERS),
    "parameters that are a list": _with([], *PARAMETERS),
    "no builder": _without(*BUILDER),
    "no builder's id": _without(*BUILDER, "id"),
    "a version that is a number": _with(1, *BUILDER, "version", "shrinkwrap"),
    "a dependency that names nothing": _with({"name": "root-catalog"}, *ROOT),
}
#: Lawful statements that are not ours, or that contradict themselves.
WRONG = {
    "a predicate of another type": _with("https://example.org/other/v1", "predicateType"),
    "another build type": _with("urn:x-other:v1", *DEFINITION, "buildType"),
    "another builder": _with("urn:x-other:v1", *BUILDER, "id"),
    "another specification": _with("/other/*\n", *PARAMETERS, "spec", "text"),
    "no specification": _without(*PARAMETERS, "spec", "text"),
    "a specification that is a number": _with(1, *PARAMETERS, "spec", "text"),
    "an unknown parameter": _with(True, *PARAMETERS, "extra"),
    "an unknown option": _with(True, *PARAMETERS, "options", "extra"),
    "an option that is a number": _with(1, *PARAMETERS, "options", "claim"),
    "an unknown pin": _with({"kind": "moon"}, *PARAMETERS, "pin"),
    "a revision that is none": _with({"kind": "revision", "value": "-1"}, *PARAMETERS, "pin"),
    "a variable without a name": _with([{"set": False}], *PARAMETERS, "variables"),
    "a variable twice": _with([{"name": "A", "set": False}] * 2, *PARAMETERS, "variables"),
    "broken base64": _with([{"nameBase64": "?", "set": False}], *PARAMETERS, "variables"),
    "two subjects": _with([{}, {}], "subject"),
    "another repository's name": _with("other.cern.ch@3", "subject", 0, "name"),
    "a count that is text": _with("7", "subject", 0, "annotations", "counts", "files"),
    "a revision that is true": _with(True, *ROOT, "annotations", "revision"),
    "a root catalog by a git commit": _with({"gitCommit": "ab" * 20}, *ROOT, "digest"),
    "a short digest": _with({"sha1": "ab"}, *ROOT, "digest"),
    "no root catalog": _with([], *DEFINITION, "resolvedDependencies"),
    "a list for an object": _with([], "predicate"),
    "nothing for an object": _with(None, *PARAMETERS, "options"),
}


@pytest.mark.parametrize("change", UNLAWFUL.values(), ids=UNLAWFUL)
def test_the_schemas_notice_what_is_against_the_rules(
    change: Callable[[dict[str, Any]], None], validator: jsonschema.protocols.Validator
) -> None:
    value = json.loads(made().to_bytes())
    change(value)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(value)


@pytest.mark.parametrize("change", [*UNLAWFUL.values(), *WRONG.values()], ids=[*UNLAWFUL, *WRONG])
def test_a_statement_that_is_not_ours_or_contradicts_itself_is_refused(
    change: Callable[[dict[str, Any]], None],
) -> None:
    value = json.loads(made().to_bytes())
    change(value)
    with pytest.raises(CorruptObject, match="not a provenance statement"):
        Statement.from_bytes(json.dumps(value).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 200_000,
        b'{"_type": NaN}',
        b'{"a": 1' + b"0" * 10_000 + b"}",
        made().to_bytes()[:-20],
        made().to_bytes().decode().encode("utf-16"),
        made().to_bytes().replace(b'"_type"', b'"_type": "x", "_type"', 1),
    ],
)
def test_what_is_no_json_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptObject, match="not a provenance statement"):
        Statement.from_bytes(data)


def test_a_statement_beyond_the_cap_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made().to_bytes()
    monkeypatch.setattr(statements, "STATEMENT_BYTES", len(data) - 1)
    with pytest.raises(CorruptObject, match="at most"):
        Statement.from_bytes(data)


def test_unknown_fields_outside_the_parameters_are_passed_over() -> None:
    value = json.loads(made().to_bytes())
    value["extra"] = value["predicate"]["extra"] = value["subject"][0]["extra"] = {"of": "later"}
    assert Statement.from_bytes(json.dumps(value).encode()) == made()


# ------------------------------------------------------------------------------------------------------- what it says


@pytest.mark.parametrize("pin", PINS)
def test_reading_gives_back_what_was_written(pin: Pin) -> None:
    statement = made(pin=pin, tag="rev1", options=Options(True, True, True, "copy"))
    if not pin.follows_head:
        statement = replace(statement, certificate=None, history=None)
    assert Statement.from_bytes(statement.to_bytes()) == statement


def test_it_ends_with_one_line_feed_and_is_ascii() -> None:
    data = made(spec="/ü/*\n".encode(), tag="\x1b[31m").to_bytes()
    assert data.endswith(b"}\n")
    assert all(byte == 0x0A or 0x20 <= byte < 0x7F for byte in data)


def test_the_root_catalog_is_named_by_the_digest_of_its_algorithm() -> None:
    keys = {}
    for algorithm in (SHA1, RMD160, SHAKE128):
        value = json.loads(made(root=material(0xAB, algorithm)).to_bytes())
        root = value["predicate"]["buildDefinition"]["resolvedDependencies"][0]
        (keys[algorithm],) = root["digest"]
        assert root["digest"] == {keys[algorithm]: "ab" * 20}
        assert root["annotations"]["object"] == Digest(algorithm, b"\xab" * 20).object_path("C")
    assert keys == {SHA1: "sha1", RMD160: "ripemd160", SHAKE128: "shake128_160"}


def test_the_publish_time_is_the_only_time() -> None:
    text = made().to_bytes().decode()
    assert '"published": "2026-11-22T11:13:34Z"' in text
    assert text.count('Z"') == 1
    assert "startedOn" not in text
    assert "finishedOn" not in text


@pytest.mark.parametrize("timestamp", [0, 1 << 62, -(1 << 62)])
def test_a_publish_time_that_is_unknown_or_in_no_calendar_is_told_as_a_number_only(timestamp: int) -> None:
    data = made(timestamp=timestamp).to_bytes()
    assert b'"published"' not in data
    assert Statement.from_bytes(data).timestamp == timestamp


def test_an_unset_variable_is_not_an_empty_one() -> None:
    unset, empty = made(variables={b"A": None}), made(variables={b"A": b""})
    assert unset.to_bytes() != empty.to_bytes()
    assert Statement.from_bytes(unset.to_bytes()).variables == {b"A": None}
    assert Statement.from_bytes(empty.to_bytes()).variables == {b"A": b""}


def test_a_snapshot_without_a_revision_is_named_by_its_root_hash() -> None:
    statement = made(revision=0, timestamp=0, signed=False, pin=PINS[-1], certificate=None, history=None)
    value = json.loads(statement.to_bytes())
    assert value["subject"][0]["name"] == "small.cern.ch@" + "01" * 20
    assert value["predicate"]["buildDefinition"]["resolvedDependencies"][0]["annotations"]["signed"] is False
    assert Statement.from_bytes(statement.to_bytes()) == statement


def test_anything_that_changes_the_export_changes_the_statement() -> None:
    changes: list[dict[str, Any]] = [
        {"fqrn": "other.cern.ch"},
        {"revision": 4},
        {"root": material(9)},
        {"spec": b"/other/*\n"},
        {"rules": "2.12"},
        {"options": Options(keep_suid=True)},
        {"options": Options(share_mtime=True)},
        {"options": Options(link_mode="copy")},
        {"variables": {b"ARCH": b"aarch64"}},
        {"listing_sha256": hashlib.sha256(b"other").hexdigest()},
        {"counts": {"files": 8}},
        {"tool": "0.2.0"},
        {"signed": False},
    ]
    all_of_them = {made(**change).to_bytes() for change in changes} | {made().to_bytes()}
    assert len(all_of_them) == len(changes) + 1


# ------------------------------------------------------------------------------------------------------- hostile values


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_odd_tags_and_dates_are_lawful_and_come_back(text: str, validator: jsonschema.protocols.Validator) -> None:
    for statement in (made(tag=text, pin=Pin(tag=text)), made(pin=Pin(at=text))):
        data = statement.to_bytes()
        validator.validate(json.loads(data))
        assert b"\\ud" not in data, "a lone surrogate, which other readers refuse"
        back = Statement.from_bytes(data)
        assert back.to_bytes() == data
        assert Statement.from_bytes(back.to_bytes()) == back


@given(
    spec=st.binary(max_size=50),
    variables=st.dictionaries(st.binary(max_size=10), st.none() | st.binary(max_size=10), max_size=4),
)
def test_any_bytes_of_specifications_and_variables_come_back(spec: bytes, variables: dict[bytes, bytes | None]) -> None:
    statement = made(spec=spec, variables=variables)
    data = statement.to_bytes()
    assert data.isascii()
    assert Statement.from_bytes(data) == statement


# ------------------------------------------------------------------------------------------------------- determinism


def _shuffled(value: Any, seed: random.Random) -> Any:
    items = list(value.items())
    seed.shuffle(items)
    return dict(items)


@given(st.integers(0, 1 << 32))
def test_the_order_in_which_facts_became_known_does_not_matter(seed: int) -> None:
    rng, plain = random.Random(seed), made()
    mixed = replace(plain, variables=_shuffled(plain.variables, rng), counts=_shuffled(plain.counts, rng))
    assert mixed.to_bytes() == plain.to_bytes()


def test_what_the_destination_could_not_hold_is_not_told() -> None:
    counts = {**made().counts, "xattr_lost": 3, "link_fallback": 2, "link_too_long": 1, "fetched": 5}
    assert made(counts=counts).to_bytes() == made().to_bytes()
    assert not COUNTS & {"xattr_lost", "link_fallback", "link_too_long", "fetched", "objects"}


def test_with_a_pin_the_head_of_the_day_is_not_told() -> None:
    one = made(pin=Pin(tag="rev1"), certificate=material(2), history=material(3))
    other = made(pin=Pin(tag="rev1"), certificate=material(4), history=None)
    assert one.to_bytes() == other.to_bytes()
    assert replace(one, pin=Pin()).to_bytes() != replace(other, pin=Pin()).to_bytes()


_PROGRAM = """
import os, sys
from record.test_statement import made
if len(sys.argv) > 1:  # after the imports: an interpreter may stand where only its owner can read
    os.setgroups([]), os.setgid(int(sys.argv[1])), os.setuid(int(sys.argv[1]))
sys.stdout.buffer.write(made().to_bytes())
"""


@pytest.fixture
def elsewhere(scratch: Path) -> Callable[..., bytes]:
    """Another process with another environment, perhaps another user: the bytes of the same statement."""

    def run(user: int | None = None, **environment: str) -> bytes:
        words = [sys.executable, "-c", _PROGRAM, *([str(user)] if user is not None else [])]
        inherited = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
        path = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tests")])
        done = subprocess.run(
            words,
            env={**inherited, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment},
            cwd=scratch,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return run


def test_other_processes_with_other_environments_write_the_same_bytes(elsewhere: Callable[..., bytes]) -> None:
    expected = made().to_bytes()
    assert elsewhere(PYTHONHASHSEED="1", LC_ALL="C", TZ="Asia/Tokyo", ARCH="none", HOSTNAME="one") == expected
    assert elsewhere(PYTHONHASHSEED="2", LC_ALL="C.UTF-8", TZ="UTC", USER="nobody", HOME="/nowhere") == expected


@pytest.mark.root
def test_another_user_writes_the_same_bytes(elsewhere: Callable[..., bytes]) -> None:
    assert elsewhere(user=ORDINARY[0]) == made().to_bytes()


def test_the_listing_of_a_repository_is_the_same_in_each_build(repos: Path) -> None:
    at = Pinned("mixed.cern.ch", "rev3")
    variables = {name.encode(): value.encode() for name, value in golden.ENVIRONMENT.items()}

    def build(entries: list[Entry]) -> bytes:
        listing = ListingDigest()
        for one in entries:
            listing.add(one, expand(one.target, variables))
        return made(listing_sha256=listing.hexdigest(), entries=listing.entries).to_bytes()

    builds = []
    for _ in range(2):
        with ExitStack() as stack:
            session, root = open_real(stack, repos, at)
            entries = list(walk(session, root))
        builds.append(build(entries))
    assert builds[0] == builds[1]
    changed = copy.copy(entries)
    changed[-1] = changed[-1]._replace(mtime_ns=changed[-1].mtime_ns + 1)
    assert build(changed) != builds[0]
