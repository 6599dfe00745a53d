"""What the user allows to be missing: the list of ``--allow-missing``, and the list that an export leaves of it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shrinkwrap.cvmfs.digest import Digest, parse_digest
from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import CorruptObject, DestinationError, UsageError
from shrinkwrap.record.listing import line, text
from shrinkwrap.snapshot.view import Content

#: Beside the record: the files that its tree lacks, a line each.
MISSING: Final = "missing.jsonl"
#: Most bytes of a list, and most files that one tree may lack.
LIST_BYTES: Final = 16 << 20
MOST: Final = 100_000
MISSING_BYTES: Final = 1 << 30
#: As messages name objects: ``data/ab/cdef…`` and the letter of their kind.
_STORED: Final = re.compile(rb"(?:data/)?([0-9a-f]{2})/?([0-9a-f]{38}(?:-rmd160|-shake128)?)P?")


@dataclass(frozen=True, slots=True)
class Allowed:
    """Files that may be left out if no server has their object.

    Attributes:
        paths: in the repository, with a slash in front.
        digests: of objects: of whole files or of chunks.
    """

    paths: frozenset[bytes] = frozenset()
    digests: frozenset[Digest] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.paths or self.digests)

    def takes(self, path: bytes, content: Content) -> bool:
        """Whether a file is on the list."""
        if path in self.paths:
            return True
        if not self.digests:
            return False
        if not content.chunks:
            return content.digest in self.digests
        algorithm = content.digest.algorithm
        return content.bulk in self.digests or any(
            Digest(algorithm, chunk.raw) in self.digests for chunk in content.chunks
        )


def parse_allowed(data: bytes, name: str) -> Allowed:
    """A list: a path in the repository or a digest of an object on each line, ``#`` for comments.

    Args:
        name: of the file, for messages.

    Raises:
        UsageError: a line that is neither; too long.
    """
    if len(data) > LIST_BYTES:
        raise UsageError(f"--allow-missing {name}: larger than {LIST_BYTES} bytes", hint="split the export")
    paths: set[bytes] = set()
    digests: set[Digest] = set()
    for number, raw in enumerate(data.split(b"\n"), 1):
        words = raw.strip(b" \t\r")
        if not words or words.startswith(b"#"):
            continue
        if words.startswith(b"/"):
            paths.add(b"".join(b"/" + part for part in words.split(b"/") if part))
            continue
        found = _STORED.fullmatch(words)
        if found is None:
            raise UsageError(
                f"--allow-missing {name}:{number}: {show(words[:80])} is neither a path nor the digest of an object",
                hint="paths begin with /; digests are 40 hex digits, with -rmd160 or -shake128 after them for those",
            )
        digests.add(parse_digest((found[1] + found[2]).decode()))
    return Allowed(frozenset(paths), frozenset(digests))


def read_allowed(file: str) -> Allowed:
    """The list in a file. Raises UsageError: it cannot be read, or is none."""
    try:
        with open(file, "rb") as opened:
            data = opened.read(LIST_BYTES + 1)
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise UsageError(
            f"--allow-missing {file!a}: {why}", hint="a file with a path or a digest on each line"
        ) from None
    return parse_allowed(data, file)


def lines_of(gaps: Mapping[bytes, str]) -> Iterable[bytes]:
    """The list of the files that a tree lacks; ``gaps``: their objects by path."""
    for path, digest in sorted(gaps.items()):
        yield line({**text("path", path), "object": digest})


def parse_gaps(data: bytes, place: str) -> dict[bytes, str]:
    """The inverse of :func:`lines_of`. Raises DestinationError for what is no such list."""
    try:
        rows: list[dict[str, Any]] = [json.loads(row) for row in data.splitlines()]
        return {_path(row): str(row["object"]) for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, CorruptObject):
        raise DestinationError(
            f"{place}: cannot be read as a list of missing files", hint="run the export again with --allow-missing"
        ) from None


def _path(row: dict[str, Any]) -> bytes:
    encoded = row.get("path_b64")
    return bytes(row["path"].encode()) if encoded is None else base64.b64decode(encoded, validate=True)
