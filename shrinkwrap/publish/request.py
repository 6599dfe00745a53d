"""What can be asked of a publication, and what it came to."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.digest import NAMES
from shrinkwrap.cvmfs.entry import UNCOMPRESSED, ZLIB
from shrinkwrap.cvmfs.owners import OwnerMap
from shrinkwrap.errors import UsageError
from shrinkwrap.publish.cut import ChunkLimits
from shrinkwrap.publish.nesting import Patterns

TTL: Final = 240
WHITELIST_DAYS: Final = 30.0
METAINFO: Final = b"{}\n"
_COMPRESSIONS: Final = {"zlib": ZLIB, "none": UNCOMPRESSED}

Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class PublishHooks:
    """Told how it gets on: lines for people, the name of the phase, counts so far."""

    notice: Callable[[str], None] = lambda line: None
    phase: Callable[[str], None] = lambda name: None
    counts: Callable[[Counter[str]], None] = lambda counts: None


@dataclass(slots=True)
class Published:
    """What a publication came to.

    Attributes:
        reason: ``published``: a new revision; ``signed``: the head was signed anew, with other tags, certificate or
            metainfo; ``unchanged``: the source brought nothing new, only the whitelist was signed anew.
        revision, root_hash, timestamp: of the head as it is now.
        tags: names that were given to it.
        public_key: file of the master public key: what readers need.
        keys_made: key files that did not exist before.
        catalogs: paths of the catalogs that are new or different.
        counts, bytes: entries taken, objects stored, garbage collected.
        notices: what people should know.
    """

    fqrn: str
    storage: str
    reason: str
    revision: int
    root_hash: str
    timestamp: int
    tags: tuple[str, ...]
    public_key: str
    keys_made: tuple[str, ...]
    catalogs: tuple[str, ...]
    counts: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"command": "publish", **asdict(self)}


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """What is asked for; :func:`publish` explains each."""

    storage: str
    fqrn: str
    keys: str
    base: bytes = b""
    tag: str = ""
    message: str = ""
    algorithm: int | None = None
    compression: int = ZLIB
    chunks: ChunkLimits | None = None
    patterns: Patterns | None = None
    max_entries: int = 0
    uids: OwnerMap | None = None
    gids: OwnerMap | None = None
    whiteouts: bool = False
    delete: tuple[bytes, ...] = ()
    mirror: bool = False
    gc: bool = False
    ttl: int | None = None
    whitelist_days: float = WHITELIST_DAYS
    workers: int = 1
    metainfo: bytes | None = None
    force: bool = False


def repository_path(what: str, path: str | bytes) -> bytes:
    """A path in the repository: ``b""`` for the root, else with a slash in front and none at the end.

    Raises:
        UsageError: ``..`` or a NUL in it.
    """
    parts = [part for part in os.fsencode(path).split(b"/") if part not in (b"", b".")]
    if any(part == b".." or b"\0" in part or len(part) > limits.NAME for part in parts):
        raise UsageError(f"{what} {os.fsencode(path)!r:.300} is not a path in the repository")
    return b"".join(b"/" + part for part in parts)


def parse_algorithm(name: str) -> int | None:
    """Its number; None for no name. Raises UsageError."""
    if not name:
        return None
    if name not in NAMES:
        raise UsageError(f"hash algorithm {name[:40]!r}: unknown", hint=f"one of {', '.join(NAMES)}")
    return NAMES.index(name)


def parse_compression(name: str) -> int:
    """Its number. Raises UsageError."""
    if name not in _COMPRESSIONS:
        raise UsageError(f"compression {name[:40]!r}: unknown", hint=f"one of {', '.join(_COMPRESSIONS)}")
    return _COMPRESSIONS[name]


def check_number(what: str, number: int) -> int:
    """The number, if it is of a sensible size. Raises UsageError."""
    if not 0 <= number < 1 << 31:
        raise UsageError(f"{what}: {number} is out of range")
    return number


def check_owner(what: str, number: int) -> int:
    """The number, if it can be that of a user or group. Raises UsageError."""
    if not 0 <= number < (1 << 32) - 1:
        raise UsageError(f"{what}: {number} is no user or group number")
    return number


def check_metainfo(text: bytes) -> None:
    """Raises UsageError for anything but a JSON object (FORMAT.md §7.3)."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or len(text) > limits.METAINFO:
        raise UsageError("the metainfo is not a JSON object", hint="FORMAT.md §7.3 lists the usual keys")


def path_text(what: str, path: Path) -> str:
    """A path on this machine as text. Raises UsageError."""
    text = os.fspath(path)
    if not text or "\0" in text:
        raise UsageError(f"{what}: {text!a} is not a path")
    return text
