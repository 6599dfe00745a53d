"""What was touched, by repository and path, and how far the record of it can be believed."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from shrinkwrap.errors import SpecError

#: Different paths of one trace: more are a mistake.
MAX_PATHS: Final = 20_000_000


class How(enum.IntFlag):
    """How a path was touched.

    ``SEEN``: its metadata, or the target of a link. ``OPENED``: read as a file. ``LISTED``: read as a directory.
    """

    SEEN = 1
    OPENED = 2
    LISTED = 4


@dataclass(slots=True)
class Touched:
    """What a trace tells.

    Attributes:
        paths: by repository, then by path in it (the root is empty). The repository of a trace that names none is "".
        problems: why it may not be complete, a sentence each. A specification made of it would lack files in silence.
        notes: what was taken for granted.
    """

    paths: dict[str, dict[bytes, How]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    number: int = 0

    def add(self, fqrn: str, path: bytes, how: How) -> None:
        """Note that a path was touched. Raises SpecError: there are too many."""
        known = self.paths.setdefault(fqrn, {})
        before = known.get(path)
        if before is None:
            self.number += 1
            if self.number > MAX_PATHS:
                raise SpecError(
                    f"the trace names more than {MAX_PATHS} different paths", hint="trace a part of the job"
                )
            known[path] = how
        elif how & ~before:
            known[path] = before | how

    def take(self, other: Touched) -> None:
        """Join another trace."""
        for fqrn, paths in other.paths.items():
            for path, how in paths.items():
                self.add(fqrn, path, how)
        self.problems += other.problems
        self.notes += other.notes


@dataclass(frozen=True, slots=True)
class Place:
    """Where repositories are mounted.

    Attributes:
        mount: the folder of all repositories.
        fqrn: of paths that do not begin with it; empty: such paths are none of a repository.
    """

    mount: bytes = b"/cvmfs"
    fqrn: str = ""

    def split(self, path: bytes) -> tuple[str, bytes] | None:
        """The repository of an absolute path without ``..``, and the path in it; None for one of no repository."""
        mount = self.mount.rstrip(b"/")
        if not path.startswith(mount + b"/"):
            return None
        name, slash, rest = path[len(mount) + 1 :].partition(b"/")
        # /cvmfs itself is listed by shells; it is no repository's.
        if b"." not in name:
            return None
        try:
            return name.decode("ascii"), slash + rest if rest else b""
        except UnicodeDecodeError:
            return None


def normal(path: bytes) -> bytes:
    """An absolute path without doubled slashes, ``.`` and, taken by the letter, ``..``; the root is empty."""
    names: list[bytes] = []
    for name in path.split(b"/"):
        if name == b"..":
            if names:
                names.pop()
        elif name not in (b"", b"."):
            names.append(name)
    return b"".join(b"/" + name for name in names)
