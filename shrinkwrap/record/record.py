"""The record of an export, the intent of one that is under way, and the head that was seen last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.digest import Digest, parse_digest
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.cvmfs.owners import OwnerMap
from shrinkwrap.errors import CorruptObject
from shrinkwrap.snapshot.view import ViewOptions

RECORD_VERSION: Final = 1
#: Most bytes of a record, an intent or a head. Specs of 16 MiB grow sixfold at worst when escaped.
RECORD_BYTES: Final = 128 * limits.MIB
#: What reading JSON of another shape raises. OverflowError: JSON has infinite numbers here.
_UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError, OverflowError, CorruptObject)


@dataclass(frozen=True, slots=True)
class Goal:
    """What decides how an export comes out: equal goals give equal trees.

    Attributes:
        fqrn: repository.
        root_hash: of the root catalog, with the algorithm's tag.
        root_size: bytes of the inflated root catalog, 0 if unknown.
        spec: text of the specification.
        spec_sha256: of that text.
        rules: which meaning of the grammar.
        view: how entries are shown.
        link_mode: hardlink, reflink or copy, as the destination can.
        marker: the original's marker file stands in the root of the tree.
    """

    fqrn: str
    root_hash: str
    root_size: int
    spec: bytes
    spec_sha256: str
    rules: str
    view: ViewOptions
    link_mode: str
    marker: bool = False

    @property
    def root(self) -> NestedRef:
        return NestedRef(b"", parse_digest(self.root_hash), self.root_size, False)

    def to_json(self) -> dict[str, Any]:
        # Spec lines are bytes; what is not UTF-8 survives as escaped surrogates.
        view = {name: _owners(value) for name, value in asdict(self.view).items()}
        return {**asdict(self), "spec": self.spec.decode("utf-8", "surrogateescape"), "view": view}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises one of ``_UNREADABLE`` for what is not a goal."""
        goal = cls(
            fqrn=str(value["fqrn"]),
            root_hash=str(value["root_hash"]),
            root_size=int(value["root_size"]),
            spec=str(value["spec"]).encode("utf-8", "surrogateescape"),
            spec_sha256=str(value["spec_sha256"]),
            rules=str(value["rules"]),
            view=_view(value["view"]),
            link_mode=str(value["link_mode"]),
            marker=value["marker"],
        )
        parse_digest(goal.root_hash)
        if type(goal.marker) is not bool:
            raise ValueError(f"not a marker: {goal.marker}")
        if not 0 <= goal.root_size <= limits.CATALOG:
            raise ValueError(f"a root catalog of {goal.root_size} bytes")
        if hashlib.sha256(goal.spec).hexdigest() != goal.spec_sha256:
            raise ValueError("the specification is not the one that the export was made for")
        return goal


def _owners(value: Any) -> Any:
    """An ownership map without what it derives from its pairs."""
    return {"pairs": value["pairs"], "default": value["default"]} if isinstance(value, dict) else value


def _map(value: Any) -> OwnerMap | None:
    if value is None:
        return None
    pairs = tuple((int(old), int(new)) for old, new in value["pairs"])
    return OwnerMap(pairs, None if value["default"] is None else int(value["default"]))


def _view(value: Mapping[str, Any]) -> ViewOptions:
    maps = {name: _map(value.get(name)) for name in ("uid_map", "gid_map")}
    view = ViewOptions(**{**value, **maps})
    numbers = (view.uid, view.gid)
    switches = (view.claim, view.keep_suid, view.share_mtime, view.world_readable)
    if any(type(number) is not int or number < 0 for number in numbers) or not all(
        type(switch) is bool for switch in switches
    ):
        raise ValueError(f"not options of a view: {view}")
    return view


@dataclass(frozen=True, slots=True)
class Record:
    """A finished export.

    Attributes:
        goal: what it was made for.
        revision, timestamp, tag: of the snapshot; publish time in seconds, the tag it was asked for by, if any.
        variables: used by link targets, with their values; None for unset ones.
        counts: what the tree holds: files, dirs, symlinks, bytes, and what was left out.
        tool: version of this tool.
        summary: key of the root catalog's summary; empty if there is none.
        matched: entries that each line of the spec matches, by its text.
    """

    goal: Goal
    revision: int
    timestamp: int
    tag: str
    variables: dict[str, str | None]
    counts: dict[str, int]
    tool: str
    summary: str = ""
    matched: dict[bytes, int] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        value = {
            "version": RECORD_VERSION,
            "goal": self.goal.to_json(),
            "revision": self.revision,
            "timestamp": self.timestamp,
            "tag": self.tag,
            "variables": dict(sorted(self.variables.items())),
            "counts": dict(sorted(self.counts.items())),
            "tool": self.tool,
            "summary": self.summary,
            "matched": {
                line.decode("utf-8", "surrogateescape"): number for line, number in sorted(self.matched.items())
            },
        }
        return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Self | None:
        """The record, or None for what cannot be read as one: then the disk is asked instead."""
        try:
            if value is None or value["version"] != RECORD_VERSION:
                return None
            return cls(
                goal=Goal.from_json(value["goal"]),
                revision=int(value["revision"]),
                timestamp=int(value["timestamp"]),
                tag=str(value["tag"]),
                variables={str(k): None if v is None else str(v) for k, v in value["variables"].items()},
                counts={str(k): int(v) for k, v in value["counts"].items()},
                tool=str(value["tool"]),
                summary=str(value.get("summary", "")),
                matched={
                    str(line).encode("utf-8", "surrogateescape"): int(number)
                    for line, number in value.get("matched", {}).items()
                },
            )
        except _UNREADABLE:
            return None


@dataclass(frozen=True, slots=True)
class Intent:
    """A run that has begun to change the tree, and has not finished.

    Attributes:
        goal: what it works towards; None if the file cannot be read.
        boot_id: of the machine's start in which objects written since ``since`` are safe on disk.
        since: time of the oldest object that a power cut may have broken, in nanoseconds of the file system's clock.
        run: name of the run.
    """

    goal: Goal | None
    boot_id: str
    since: int
    run: str

    def to_bytes(self) -> bytes:
        goal = None if self.goal is None else self.goal.to_json()
        value = {
            "version": RECORD_VERSION,
            "goal": goal,
            "boot_id": self.boot_id,
            "since": self.since,
            "run": self.run,
        }
        return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Whatever stands in an intent, its being there says that the tree may be anything."""
        try:
            goal = None if value["goal"] is None else Goal.from_json(value["goal"])
            return cls(goal, str(value["boot_id"]), int(value["since"]), str(value["run"]))
        except _UNREADABLE:
            return cls(None, "", 0, "")


def key_ring(keys: Iterable[MasterKey]) -> str:
    """Digest of a set of master keys, whatever their order and file names."""
    numbers = sorted(f"{key.rsa.modulus:x}:{key.rsa.exponent:x}" for key in keys)
    return hashlib.sha256("\n".join(numbers).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class SeenHead:
    """The head of a repository as it was last accepted: the memory against rollbacks (DESIGN promise 7).

    Attributes:
        revision, root_hash, timestamp: of the manifest.
        manifest: its bytes, in hex: an identical one needs no second check of its signatures...
        expires: ...until the whitelist that it was checked with expires, in seconds since the epoch...
        keys: ...and as long as the same master keys are trusted (:func:`key_ring`).
    """

    revision: int
    root_hash: Digest
    timestamp: int
    manifest: str
    expires: int
    keys: str

    def vouches_for(self, manifest: bytes, keys: Iterable[MasterKey], now: float) -> bool:
        """True if this very manifest was verified before, and would be again."""
        return manifest.hex() == self.manifest and now < self.expires and key_ring(keys) == self.keys

    def to_bytes(self) -> bytes:
        value = {
            "version": RECORD_VERSION,
            "revision": self.revision,
            "root_hash": str(self.root_hash),
            "timestamp": self.timestamp,
            "manifest": self.manifest,
            "expires": self.expires,
            "keys": self.keys,
        }
        return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Self | None:
        if value is None:
            return None
        try:
            return cls(
                int(value["revision"]),
                parse_digest(str(value["root_hash"])),
                int(value["timestamp"]),
                str(value["manifest"]),
                int(value["expires"]),
                str(value["keys"]),
            )
        except _UNREADABLE:
            return None
