"""Summaries: what an export shows of each catalog's own entries, by what decided it (docs/internals/summaries.md).

A summary stands for one catalog under one state of the specification. It is derived data: whatever is wrong with its
file, there is no summary then.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, NamedTuple, Self

import xxhash
import zstandard

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.record.sums import WIDTH
from shrinkwrap.spec.matcher import Matcher, State
from shrinkwrap.spec.rules import NO_LINE, paths_below

#: Of the file's layout, of what a key is made of, and of what a summary says. Others count as none.
VERSION: Final = 1
#: Most bytes of the part that is read at once, and of one frame of the others, inflated.
META_BYTES: Final = 256 * limits.MIB
FRAME_BYTES: Final = 64 * limits.MIB

#: Magic with version; key; stored and inflated bytes of the meta part, of the listing, of the cases; bytes of the
#: checksums.
HEADER: Final = struct.Struct("<8s20s7Q")
MAGIC: Final = b"summary" + bytes((VERSION,))
#: Before each frame: its stored and its inflated bytes.
FRAME: Final = struct.Struct("<II")
CHECK_BYTES: Final = 16
_KEY_BYTES: Final = 20
_PIECE: Final = limits.MIB
#: What reading something else than a summary raises.
_UNREADABLE: Final = (
    OSError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
    struct.error,
    zstandard.ZstdError,
)


class Case(NamedTuple):
    """Something that is left out or shown differently: one call of Report.add.

    Of ``directory_without_star`` the detail is the line of the specification, undecodable bytes as surrogates: in the
    next run it may stand elsewhere.
    """

    what: str
    path: bytes
    detail: str


class Child(NamedTuple):
    """A catalog that is mounted inside; its lines and cases come in at these bytes of the own ones."""

    mount: bytes
    key: str
    listing_at: int
    cases_at: int


class Section(NamedTuple):
    """A part of the file: where it begins, its bytes there, its bytes inflated."""

    start: int
    stored: int
    raw: int


@dataclass(slots=True)
class Totals:
    """Numbers that can be summed up.

    Attributes:
        given: entries that the walk gave, shown or not.
        entries: lines of the listing.
        counts: files, dirs, symlinks, their bytes, and catalogs.
        left_out: cases by what they are.
        matched: entries that each line of the specification matches, by its text.
        variables: used by link targets, with their values; None for unset ones.
    """

    given: int = 0
    entries: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    matched: dict[bytes, int] = field(default_factory=dict)
    variables: dict[bytes, bytes | None] = field(default_factory=dict)

    def add(self, other: Totals) -> None:
        self.given += other.given
        self.entries += other.entries
        for name, count in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        for name, count in other.left_out.items():
            self.left_out[name] = self.left_out.get(name, 0) + count
        for line, count in other.matched.items():
            self.matched[line] = self.matched.get(line, 0) + count
        self.variables.update(other.variables)

    def to_json(self) -> dict[str, Any]:
        return {
            "given": self.given,
            "entries": self.entries,
            "counts": self.counts,
            "left_out": self.left_out,
            "matched": {text_of(line): count for line, count in self.matched.items()},
            "variables": {text_of(k): None if v is None else text_of(v) for k, v in self.variables.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises one of ``_UNREADABLE`` for what are no totals."""
        return cls(
            int(value["given"]),
            int(value["entries"]),
            {str(name): int(count) for name, count in value["counts"].items()},
            {str(name): int(count) for name, count in value["left_out"].items()},
            {bytes_of(line): int(count) for line, count in value["matched"].items()},
            {bytes_of(k): None if v is None else bytes_of(v) for k, v in value["variables"].items()},
        )


def text_of(raw: bytes) -> str:
    """Bytes as text that JSON can hold; what is not UTF-8 as surrogates."""
    return raw.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """The inverse of :func:`text_of`."""
    return text.encode("utf-8", "surrogateescape")


# ------------------------------------------------------------------------------------------------------------- keys


class Keys:
    """The keys of summaries under one specification and one set of options.

    Args:
        options: all that changes how entries come out (of a goal: its view and its link mode), in one canonical form.
    """

    _KEPT: Final = 4096

    def __init__(self, matcher: Matcher, options: bytes) -> None:
        self._matcher = matcher
        self._options = options
        self._states: dict[State, bytes] = {}

    def key(self, ref: NestedRef, state: State | None) -> str:
        """The key of a catalog, which need not have been fetched.

        Equal keys, and equal values of the variables that are used below, mean that the same comes out.

        Args:
            state: what the specification says below the mount; None: nothing.
        """
        digest = hashlib.blake2b(digest_size=_KEY_BYTES, person=b"summary %d" % VERSION)
        parts = (
            str(ref.digest).encode(),
            ref.mount,
            self._matcher.spec.rules.encode(),
            self._options,
            b"" if state is None else self._matcher.fingerprint(state),
            b"" if state is None else self._lines(state),
            b"" if ref.mount else self._texts(set(self._matcher.root.lines)),
        )
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    def _lines(self, state: State) -> bytes:
        """Digest of the lines that entries below can match.

        Fingerprints do not tell ``/*`` from ``/a/*`` below ``/a``, but what each of them matched is told by its text.
        """
        found = self._states.get(state)
        if found is None:
            _, _, deep, flat, veil = state.key
            lines = {*deep, *flat, veil}
            for node in (*state.live, *([] if state.literal is None else [state.literal])):
                for _, below in paths_below(node):
                    lines.update((below.line, below.veil))
            if len(self._states) >= self._KEPT:
                self._states.clear()
            found = self._states[state] = self._texts(lines)
        return found

    def _texts(self, lines: set[int]) -> bytes:
        digest = hashlib.blake2b(digest_size=_KEY_BYTES)
        for raw in sorted({self._matcher.spec.lines[line].raw for line in lines if line != NO_LINE}):
            digest.update(len(raw).to_bytes(8, "little") + raw)
        return digest.digest()


def file_name(key: str) -> str:
    """Where the summary lies in the folder of summaries."""
    return f"{key[:2]}/{key[2:]}"


# ---------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Summary:
    """What an export shows of one catalog; all is as it was when it was made.

    Attributes:
        key: see :class:`Keys`.
        catalog: its digest, as text.
        mount: where it is mounted. The mount's own entry is its parent's; that of the repository's root is the root's.
        own: numbers of the catalog's own entries.
        total: the same with all catalogs inside.
        children: those right inside, in the order of the stream.
        listing, cases: of own entries.
        sums: :data:`~shrinkwrap.record.sums.WIDTH` bytes for each own file in the order of the stream.
    """

    key: str
    catalog: str
    mount: bytes
    own: Totals
    total: Totals
    children: tuple[Child, ...]
    listing: Section
    cases: Section
    sums: Section

    def same_variables(self, values: Mapping[bytes, bytes]) -> bool:
        """Whether links here and below would come out the same with these values."""
        return all(values.get(name) == value for name, value in self.total.variables.items())


def meta_of(catalog: str, mount: bytes, own: Totals, total: Totals, children: list[Child]) -> bytes:
    """The meta part of a summary's file, not yet deflated."""
    value = {
        "catalog": catalog,
        "mount": text_of(mount),
        "own": own.to_json(),
        "total": total.to_json() if children else None,
        "children": [[text_of(child.mount), *child[1:]] for child in children],
    }
    return json.dumps(value, separators=(",", ":")).encode()


def read_summary(file: BinaryIO, key: str) -> Summary | None:
    """The summary in a file; None for a broken one, or that of another key. All of it is read and checked."""
    try:
        return _read(file, key)
    except _UNREADABLE:
        return None


def _read(file: BinaryIO, key: str) -> Summary | None:
    head = file.read(HEADER.size)
    magic, raw_key, meta, meta_raw, listing, listing_raw, cases, cases_raw, sums = HEADER.unpack(head)
    whole = HEADER.size + meta + listing + cases + sums
    if (
        magic != MAGIC
        or raw_key.hex() != key
        or meta_raw > META_BYTES
        or file.seek(0, os.SEEK_END) != whole + CHECK_BYTES
    ):
        return None
    file.seek(0)
    check = xxhash.xxh3_128()
    left = whole
    while left:
        piece = file.read(min(left, _PIECE))
        if not piece:
            return None
        check.update(piece)
        left -= len(piece)
    if file.read(CHECK_BYTES) != check.digest():
        return None
    file.seek(HEADER.size)
    value = json.loads(inflate(file.read(meta), meta_raw))
    own = Totals.from_json(value["own"])
    at = HEADER.size + meta
    summary = Summary(
        key,
        str(value["catalog"]),
        bytes_of(value["mount"]),
        own,
        own if value["total"] is None else Totals.from_json(value["total"]),
        tuple(Child(bytes_of(mount), str(of), int(at), int(too)) for mount, of, at, too in value["children"]),
        Section(at, listing, listing_raw),
        Section(at + listing, cases, cases_raw),
        Section(at + listing + cases, sums, sums),
    )
    return summary if sums == WIDTH * own.counts.get("files", 0) else None


def inflate(data: bytes, size: int) -> bytes:
    """One frame. Raises ValueError, zstandard.ZstdError for what is none of that size."""
    # Asked first: a frame that names its size is given as much memory as it says, whatever the caller allows.
    if zstandard.frame_content_size(data) != size:
        raise ValueError("a frame of another size")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
