"""Summaries read back, and put together: listings, checksums, lists of cases of a whole export."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, Final

import zstandard

from shrinkwrap.cvmfs import limits
from shrinkwrap.errors import CorruptObject
from shrinkwrap.record.summary import (
    FRAME,
    FRAME_BYTES,
    Case,
    Child,
    Section,
    Summary,
    Totals,
    bytes_of,
    file_name,
    inflate,
    read_summary,
)
from shrinkwrap.record.sums import UNKNOWN, WIDTH

_KEY: Final = re.compile(r"[0-9a-f]{40}")
_SUMS_AT_ONCE: Final = 4096 * WIDTH
#: Where the key of a row that comes after its path begins, and what a file has there.
_TYPE: Final = b',"type":"'
_FILE: Final = b'file"'

#: Opens the file of a summary by its name; None if there is none.
Read = Callable[[str], BinaryIO | None]


class SummaryStore:
    """Reads summaries, and puts together what several of them say.

    Args:
        read: opens a file by its name (:func:`file_name`).
    """

    def __init__(self, read: Read) -> None:
        self._read = read

    def get(self, key: str) -> Summary | None:
        """The summary of one catalog; None if there is none that is whole."""
        file = self._open(key)
        if file is None:
            return None
        with file:
            return read_summary(file, key)

    def _open(self, key: str) -> BinaryIO | None:
        if _KEY.fullmatch(key) is None:
            return None
        try:
            return self._read(file_name(key))
        except OSError:
            return None

    def total(self, key: str) -> Totals | None:
        """The numbers of a catalog and all that are mounted inside, by its own summary alone."""
        summary = self.get(key)
        return None if summary is None else summary.total

    def same_variables(self, key: str, values: Mapping[bytes, bytes]) -> bool:
        """Whether there is a summary, and links here and below would come out the same with these values."""
        summary = self.get(key)
        return summary is not None and summary.same_variables(values)

    def whole(self, key: str) -> bool:
        """Whether this summary and all below it can be read: only then may its catalog be passed by."""
        try:
            return all(summary is not None for summary in self._below(key))
        except CorruptObject:
            return False

    def keys(self, key: str) -> Iterator[str]:
        """The key and all below it, as far as they can be read: what is in use."""
        stack = [(key, 0)]
        while stack:
            one, depth = stack.pop()
            summary = self.get(one) if depth <= limits.CATALOG_DEPTH else None
            if summary is not None:
                yield one
                stack.extend((child.key, depth + 1) for child in summary.children)

    def _below(self, key: str) -> Iterator[Summary]:
        stack = [(self._need(key), 0)]
        while stack:
            summary, depth = stack.pop()
            yield summary
            stack.extend((self._need(child.key, summary, depth + 1), depth + 1) for child in summary.children)

    def sha256(self, key: str) -> str | None:
        """Digest of the listing of a catalog and all that are mounted inside; None if a summary is missing."""
        digest = hashlib.sha256()
        try:
            for piece in self.listing(key):
                digest.update(piece)
        except CorruptObject:
            return None
        return digest.hexdigest()

    def listing(self, key: str) -> Iterator[bytes]:
        """The listing of a catalog and all that are mounted inside, in pieces of whole lines.

        Raises:
            CorruptObject: a summary is missing or broken.
        """
        for _, piece in self._compose(key, 0):
            yield piece

    def rows(self, key: str) -> Iterator[tuple[bytes, bytes | None]]:
        """The lines of the listing, each with the checksum of its file's content.

        It is None for what is no file, and for a file whose checksum is not known.

        Raises:
            CorruptObject: a summary is missing or broken.
        """
        for reading, piece in self._compose(key, 0):
            for row in piece.splitlines(keepends=True):
                # A quote inside a string has a backslash before it: this is the row's own key, which comes before any
                # attribute of that name.
                if row.startswith(_FILE, row.find(_TYPE) + len(_TYPE)):
                    value = next(reading.sums, UNKNOWN)
                    yield row, None if value == UNKNOWN else value
                else:
                    yield row, None

    def cases(self, key: str) -> Iterator[Case]:
        """What is left out or shown differently, in the order of the stream; at most so many as were kept.

        Raises:
            CorruptObject: a summary is missing or broken.
        """
        for _, piece in self._compose(key, 1):
            for row in piece.splitlines():
                what, path, detail = json.loads(row)
                yield Case(what, bytes_of(path), detail)

    # -- one stream of many ------------------------------------------------------------------------------------------

    def _compose(self, key: str, part: int) -> Iterator[tuple[_Reading, bytes]]:
        """The pieces of listings (0) or cases (1), those of children where they belong."""
        stack = [_Reading(self, self._need(key), part)]
        while stack:
            top = stack[-1]
            child = top.child()
            end = top.section.raw if child is None else child.cases_at if part else child.listing_at
            if top.position < end:
                yield top, top.take(end)
            elif child is None:
                stack.pop()
            else:
                top.passed += 1
                stack.append(_Reading(self, self._need(child.key, top.summary, len(stack)), part))

    def _need(self, key: str, parent: Summary | None = None, depth: int = 0) -> Summary:
        summary = self.get(key)
        # One that was written anew with other values of its variables is not the one that the parent was made with.
        if summary is None or depth > limits.CATALOG_DEPTH or (parent is not None and not _fits(summary, parent)):
            raise _missing(key)
        return summary

    def frames(self, key: str, section: Section) -> Iterator[bytes]:
        """The inflated frames of a section. No file stays open between two of them.

        Raises:
            CorruptObject: they are not what the summary says.
        """
        position = section.start
        while position < section.start + section.stored:
            head = self._piece(key, position, FRAME.size)
            stored, raw = FRAME.unpack(head)
            if raw > FRAME_BYTES:
                raise _missing(key)
            try:
                yield inflate(self._piece(key, position + FRAME.size, stored), raw)
            except (ValueError, zstandard.ZstdError):
                raise _missing(key) from None
            position += FRAME.size + stored

    def checksums(self, summary: Summary) -> Iterator[bytes]:
        """The checksums of a summary's own files. Raises CorruptObject."""
        start, stored, _ = summary.sums
        for position in range(0, stored, _SUMS_AT_ONCE):
            piece = self._piece(summary.key, start + position, min(_SUMS_AT_ONCE, stored - position))
            for at in range(0, len(piece), WIDTH):
                yield piece[at : at + WIDTH]

    def _piece(self, key: str, position: int, size: int) -> bytes:
        file = self._open(key)
        if file is not None:
            with file:
                try:
                    file.seek(position)
                    data = file.read(size)
                except OSError:
                    data = b""
            if len(data) == size:
                return data
        raise _missing(key)


class _Reading:
    """One of the summaries that a stream is put together from."""

    __slots__ = ("_at", "_buffer", "_frames", "passed", "position", "section", "summary", "sums")

    def __init__(self, store: SummaryStore, summary: Summary, part: int) -> None:
        self.summary = summary
        self.section = (summary.listing, summary.cases)[part]
        self.sums = store.checksums(summary)
        self.position = 0
        self.passed = 0
        self._frames = store.frames(summary.key, self.section)
        self._buffer = b""
        self._at = 0

    def child(self) -> Child | None:
        """The one that comes next."""
        children = self.summary.children
        return children[self.passed] if self.passed < len(children) else None

    def take(self, end: int) -> bytes:
        """What comes before ``end``, or a part of it."""
        if self._at == len(self._buffer):
            self._buffer, self._at = next(self._frames, b""), 0
            if not self._buffer:
                raise _missing(self.summary.key)
        piece = self._buffer[self._at : self._at + end - self.position]
        self._at += len(piece)
        self.position += len(piece)
        return piece


def _fits(child: Summary, parent: Summary) -> bool:
    known = parent.total.variables
    return all(name in known and known[name] == value for name, value in child.total.variables.items())


def _missing(key: str) -> CorruptObject:
    return CorruptObject(
        f"the summary {key} of an export is missing, broken or that of another run",
        hint="run the export again: what has no summary is read from its catalogs",
    )
