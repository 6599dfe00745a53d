"""What an export is and what it was made from, as an in-toto Statement with a SLSA provenance predicate.

Sources of the rules: in-toto attestation framework, Statement, ResourceDescriptor and DigestSet v1; SLSA v1,
provenance. ``docs/provenance.md`` explains each field, and is the definition of :data:`BUILD_TYPE`.

A statement is a function of the snapshot, the specification, the options as asked for and the release of this tool.
Nothing in it tells when, where, by whom or how fast it was made: that is in the run log.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn, Self

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.digest import RMD160, SHA1, SHAKE128, SIZE, Digest
from shrinkwrap.cvmfs.owners import OwnerMap, parse_owner_map
from shrinkwrap.errors import CorruptObject
from shrinkwrap.snapshot.repository import Pin

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
#: How exports are made and what their parameters mean: docs/provenance.md.
BUILD_TYPE: Final = "urn:x-shrinkwrap:export:v1"
#: This tool, run by whoever runs it: no platform vouches for the run.
BUILDER_ID: Final = "urn:x-shrinkwrap:builder:v1"
LISTING_MEDIA_TYPE: Final = "application/x-ndjson"
#: Most bytes of a statement. Specifications of 16 MiB grow sixfold at worst when escaped.
STATEMENT_BYTES: Final = 128 * limits.MIB

#: Counts that the snapshot, the specification and the options decide, whatever the destination can hold; and the files
#: that an export had to leave out because no server had their objects.
COUNTS: Final = frozenset(
    {
        "files",
        "dirs",
        "symlinks",
        "bytes",
        "catalogs",
        "line_without_match",
        "directory_without_star",
        "special_file",
        "empty_link_target",
        "unset_variable",
        "set_id_stripped",
        "xattr_left_out",
        "missing_object",
    }
)
#: Keys of digest sets. The framework has no name for SHAKE-128 cut to 160 bits, so it is one of ours.
_ALGORITHMS: Final = {SHA1: "sha1", RMD160: "ripemd160", SHAKE128: "shake128_160"}
_ROOT, _CERTIFICATE, _HISTORY = "root-catalog", "certificate", "history"
_SUFFIXES: Final = {_ROOT: "C", _CERTIFICATE: "X", _HISTORY: "H"}
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_HEX: Final = re.compile(rf"[0-9a-f]{{{2 * SIZE}}}")
_NUMBER: Final = re.compile(r"[0-9]{1,20}")
#: What JSON of another shape raises when it is taken apart. RecursionError: brackets inside each other.
_UNREADABLE: Final = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
    CorruptObject,
)


@dataclass(frozen=True, slots=True)
class Material:
    """An object that the export was made from, named by the digest of its stored bytes.

    ``sha256`` of the same bytes in hex, where somebody computed it: SHA-1 will not carry weight for ever.
    """

    digest: Digest
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """Options as they were asked for, not what they came to for this user on that file system."""

    claim: bool = False
    keep_suid: bool = False
    share_mtime: bool = False
    link_mode: str = "hardlink"
    world_readable: bool = False
    uid_map: OwnerMap | None = None
    gid_map: OwnerMap | None = None


@dataclass(frozen=True, slots=True)
class Statement:
    """The facts of a statement.

    Attributes:
        fqrn: repository.
        pin: the snapshot as it was asked for.
        revision, timestamp, tag: of the snapshot; publish time in seconds. 0, 0 and empty if unknown.
        signed: False for a root hash that no signature vouches for.
        root: the root catalog.
        certificate, history: of the head's manifest. Told only if the head was asked for: with a pin they would be
            those of the day, and the same export on another day would have another statement.
        spec: text of the specification.
        rules: which meaning of its grammar.
        options: see there.
        variables: used by link targets, with their values; None for unset ones.
        listing_sha256, entries: of the listing (:class:`~shrinkwrap.record.listing.ListingDigest`).
        counts: those named in :data:`COUNTS` are told; others depend on the destination.
        tool: version of this tool.
    """

    fqrn: str
    pin: Pin
    revision: int
    timestamp: int
    tag: str
    signed: bool
    root: Material
    spec: bytes
    rules: str
    options: Options
    variables: Mapping[bytes, bytes | None]
    listing_sha256: str
    entries: int
    counts: Mapping[str, int]
    tool: str
    certificate: Material | None = None
    history: Material | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "_type": STATEMENT_TYPE,
            "subject": [self._subject()],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": {
                        "fqrn": self.fqrn,
                        "pin": _pin_to_json(self.pin),
                        "spec": {
                            **_text("text", self.spec),
                            "sha256": hashlib.sha256(self.spec).hexdigest(),
                            "rules": self.rules,
                        },
                        "options": {
                            "claim": self.options.claim,
                            "keepSuid": self.options.keep_suid,
                            "shareMtime": self.options.share_mtime,
                            "linkMode": self.options.link_mode,
                            "worldReadable": self.options.world_readable,
                            **_map_to_json("uidMap", self.options.uid_map),
                            **_map_to_json("gidMap", self.options.gid_map),
                        },
                        "variables": [_variable_to_json(name, value) for name, value in sorted(self.variables.items())],
                    },
                    "internalParameters": {},
                    "resolvedDependencies": list(self._materials()),
                },
                "runDetails": {
                    "builder": {"id": BUILDER_ID, "version": {"shrinkwrap": self.tool}},
                    "metadata": {},
                },
            },
        }

    def _subject(self) -> dict[str, Any]:
        name = str(self.revision) if self.revision else str(self.root.digest)
        return {
            "name": f"{self.fqrn}@{name}",
            "digest": {"sha256": self.listing_sha256},
            "mediaType": LISTING_MEDIA_TYPE,
            "annotations": {
                "entries": self.entries,
                "counts": {name: count for name, count in self.counts.items() if name in COUNTS},
            },
        }

    def _materials(self) -> Iterable[dict[str, Any]]:
        snapshot = {
            "revision": self.revision,
            "timestamp": self.timestamp,
            "published": _published(self.timestamp),
            **_text("tag", _raw(self.tag)),
            "signed": self.signed,
        }
        yield _descriptor(_ROOT, self.root, snapshot)
        if self.pin.follows_head:
            if self.certificate is not None:
                yield _descriptor(_CERTIFICATE, self.certificate, {})
            if self.history is not None:
                yield _descriptor(_HISTORY, self.history, {})

    def to_bytes(self) -> bytes:
        """The one way to write it: ASCII, keys sorted, one blank of indent a level, a line feed at the end."""
        return json.dumps(self.to_json(), indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a statement of ours.

        Fields that are not known are ignored, as the framework asks; those of the parameters are refused, as SLSA asks,
        because what is not understood may have changed the export.

        Raises:
            CorruptObject: it is none, or it contradicts itself.
        """
        if len(data) > STATEMENT_BYTES:
            raise _corrupt(f"{len(data)} bytes; a statement has at most {STATEMENT_BYTES}")
        try:
            return cls._from_json(json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_number))
        except _UNREADABLE as exc:
            reason = exc.message if isinstance(exc, CorruptObject) else f"{type(exc).__name__}: {str(exc)[:200]}"
            raise _corrupt(reason) from None

    @classmethod
    def _from_json(cls, value: Mapping[str, Any]) -> Self:
        _expect("_type", value["_type"], STATEMENT_TYPE)
        _expect("predicateType", value["predicateType"], PREDICATE_TYPE)
        if len(value["subject"]) != 1:
            raise ValueError(f"{len(value['subject'])} subjects, expected one")
        subject, predicate = value["subject"][0], value["predicate"]
        definition = predicate["buildDefinition"]
        _expect("buildType", definition["buildType"], BUILD_TYPE)
        builder = predicate["runDetails"]["builder"]
        _expect("builder.id", builder["id"], BUILDER_ID)
        parameters = definition["externalParameters"]
        _only(parameters, "fqrn", "pin", "spec", "options", "variables")
        given = {item["name"]: item for item in definition["resolvedDependencies"]}
        snapshot = given[_ROOT]["annotations"]
        asked = parameters["options"]
        _only(asked, "claim", "keepSuid", "shareMtime", "linkMode", "worldReadable", "uidMap", "gidMap")
        annotations = subject["annotations"]
        statement = cls(
            fqrn=_str(parameters["fqrn"]),
            pin=_pin_from_json(parameters["pin"]),
            revision=_int(snapshot["revision"]),
            timestamp=_int(snapshot["timestamp"]),
            tag=(_bytes("tag", snapshot) or b"").decode("utf-8", "surrogateescape"),
            signed=_bool(snapshot["signed"]),
            root=_material(given[_ROOT]),
            spec=_spec(parameters["spec"]),
            rules=_str(parameters["spec"]["rules"]),
            options=Options(
                _bool(asked["claim"]),
                _bool(asked["keepSuid"]),
                _bool(asked["shareMtime"]),
                _str(asked["linkMode"]),
                _bool(asked["worldReadable"]),
                _map_from_json(asked.get("uidMap")),
                _map_from_json(asked.get("gidMap")),
            ),
            variables=_variables(parameters["variables"]),
            listing_sha256=_matching(_SHA256, subject["digest"]["sha256"]),
            entries=_int(annotations["entries"]),
            counts={name: _int(count) for name, count in annotations["counts"].items() if name in COUNTS},
            tool=_str(builder["version"]["shrinkwrap"]),
            certificate=_material(given[_CERTIFICATE]) if _CERTIFICATE in given else None,
            history=_material(given[_HISTORY]) if _HISTORY in given else None,
        )
        _expect("the subject's name", subject["name"], statement._subject()["name"])
        return statement


# ----------------------------------------------------------------------------------------------------------- writing


def _raw(text: str) -> bytes:
    """The bytes of text that may hold undecodable ones as surrogates (names from a command line or a history)."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _text(key: str, raw: bytes) -> dict[str, str]:
    """Bytes as text where they are UTF-8, else in base64 under another key: readers refuse lone surrogates."""
    try:
        return {key: raw.decode()}
    except UnicodeDecodeError:
        return {f"{key}Base64": base64.b64encode(raw).decode()}


def _pin_to_json(pin: Pin) -> dict[str, Any]:
    if pin.tag:
        return {"kind": "tag", **_text("value", _raw(pin.tag))}
    if pin.revision is not None:
        return {"kind": "revision", "value": str(pin.revision)}
    if pin.at:
        return {"kind": "at", **_text("value", _raw(pin.at))}
    if pin.root_hash:
        return {"kind": "root-hash", "value": pin.root_hash, "unsigned": pin.unsigned}
    return {"kind": "head"}


def _map_to_json(key: str, owners: OwnerMap | None) -> dict[str, list[str]]:
    """A map as the lines of its file (FORMAT.md §8.4)."""
    if owners is None:
        return {}
    lines = [f"{old} {new}" for old, new in owners.pairs]
    return {key: lines if owners.default is None else [*lines, f"* {owners.default}"]}


def _variable_to_json(name: bytes, value: bytes | None) -> dict[str, Any]:
    # An empty value and no value are the same to readers of SLSA, and not to variant symlinks: hence "set".
    out: dict[str, Any] = {**_text("name", name), "set": value is not None}
    return out if value is None else {**out, **_text("value", value)}


def _descriptor(kind: str, material: Material, annotations: Mapping[str, Any]) -> dict[str, Any]:
    digest = {_ALGORITHMS[material.digest.algorithm]: material.digest.raw.hex()}
    if material.sha256:
        digest["sha256"] = material.sha256
    out: dict[str, Any] = {
        "name": kind,
        "digest": digest,
        "annotations": {"object": material.digest.object_path(_SUFFIXES[kind])},
    }
    out["annotations"].update({name: value for name, value in annotations.items() if value is not None})
    return out


def _published(timestamp: int) -> str | None:
    """The time in the framework's form; None for one that is unknown or has no such form."""
    try:
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=timestamp)
    except OverflowError:
        return None
    # Years below 1000 come out short on some platforms.
    return f"{when.year:04d}{when:-%m-%dT%H:%M:%SZ}" if timestamp else None


# ----------------------------------------------------------------------------------------------------------- reading


def _corrupt(reason: str) -> CorruptObject:
    return CorruptObject(
        f"not a provenance statement of this tool: {reason}",
        hint="run the export again: it writes a new one",
    )


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names occur once: of two, readers disagree on which one counts."""
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name occurs twice in an object")
    return out


def _expect(what: str, found: object, expected: str) -> None:
    if found != expected:
        raise ValueError(f"{what} is {str(found)[:80]!r}, expected {expected!r}")


def _only(value: Mapping[str, Any], *names: str) -> None:
    unknown = sorted(set(value) - set(names))
    if unknown:
        raise ValueError(f"unknown parameter {unknown[0][:80]!r}")


def _str(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:80]!r} is not text")
    return value


def _int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{str(value)[:80]!r} is not a number")
    return value


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{str(value)[:80]!r} is neither true nor false")
    return value


def _map_from_json(value: object) -> OwnerMap | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise TypeError("a map of owners is not a list of lines")
    return parse_owner_map("\n".join(_str(line) for line in value).encode(), "map")


def _matching(pattern: re.Pattern[str], value: object) -> str:
    text = _str(value)
    if pattern.fullmatch(text) is None:
        raise ValueError(f"{text[:80]!r} is not a digest in lower-case hex")
    return text


def _bytes(key: str, value: Mapping[str, Any]) -> bytes | None:
    """The inverse of :func:`_text`; None if neither key is there."""
    if key in value:
        return _str(value[key]).encode()
    encoded = value.get(f"{key}Base64")
    if encoded is None:
        return None
    try:
        return base64.b64decode(_str(encoded), validate=True)
    except binascii.Error as exc:
        raise ValueError(f"{key}Base64: {exc}") from None


def _spec(value: Mapping[str, Any]) -> bytes:
    _only(value, "text", "textBase64", "sha256", "rules")
    text = _bytes("text", value)
    if text is None:
        raise ValueError("there is no text of the specification")
    found = hashlib.sha256(text).hexdigest()
    if found != value["sha256"]:
        raise ValueError(f"the specification has the SHA-256 {found}, not {str(value['sha256'])[:80]!r}")
    return text


def _variables(items: Iterable[Mapping[str, Any]]) -> dict[bytes, bytes | None]:
    out: dict[bytes, bytes | None] = {}
    for item in items:
        _only(item, "name", "nameBase64", "set", "value", "valueBase64")
        name, value = _bytes("name", item), _bytes("value", item)
        if name is None or name in out:
            raise ValueError("a variable without a name, or one that is named twice")
        out[name] = (value or b"") if _bool(item["set"]) else None
    return out


def _pin_from_json(value: Mapping[str, Any]) -> Pin:
    _only(value, "kind", "value", "valueBase64", "unsigned")
    kind = _str(value["kind"])
    text = (_bytes("value", value) or b"").decode("utf-8", "surrogateescape")
    if kind == "head":
        return Pin()
    if kind == "tag" and text:
        return Pin(tag=text)
    if kind == "revision" and _NUMBER.fullmatch(text):
        return Pin(revision=int(text))
    if kind == "at" and text:
        return Pin(at=text)
    if kind == "root-hash" and text:
        return Pin(root_hash=text, unsigned=_bool(value.get("unsigned", False)))
    raise ValueError(f"no pin of a known kind: {kind[:80]!r} {text[:80]!r}")


def _material(value: Mapping[str, Any]) -> Material:
    known = value["digest"]
    for algorithm, name in _ALGORITHMS.items():
        if name in known:
            digest = Digest(algorithm, bytes.fromhex(_matching(_HEX, known[name])))
            return Material(digest, _matching(_SHA256, known["sha256"]) if "sha256" in known else "")
    raise ValueError("a material without a digest of the format")
