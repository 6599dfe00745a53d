"""The records of a destination as whoever only reads them finds them: without lock, and without a trace."""

from __future__ import annotations

import errno
import json
import os
import stat
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from shrinkwrap.errors import DestinationError
from shrinkwrap.record.record import RECORD_BYTES, Intent, Record
from shrinkwrap.tree.allowed import MISSING, MISSING_BYTES, parse_gaps
from shrinkwrap.tree.beneath import DIRECTORY, open_beneath

FOLDER: Final = b".provenance"
#: What opening a file says that is not there, or is a link.
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)


class Kept(NamedTuple):
    """What runs have left of a repository.

    Attributes:
        record: of the last that ended; None if there is none, or if ``unreadable``.
        unreadable: there is one, but it cannot be read.
        intent: of one that was cut off, or is under way; its goal is None if it cannot be read.
        tree: the tree is there.
    """

    fqrn: str
    record: Record | None
    unreadable: bool
    intent: Intent | None
    tree: bool


class Records:
    """Reads what stands in ``.provenance``.

    Args:
        path: the destination. Raises OSError if it is no folder, or may not be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, DIRECTORY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)

    def names(self) -> list[str]:
        """The repositories that have a folder there, sorted."""
        try:
            fd = open_beneath(self.fd, FOLDER, DIRECTORY)
        except FileNotFoundError:
            return []
        try:
            return sorted(
                name
                for name in os.listdir(fd)
                if not name.startswith(".") and stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
            )
        finally:
            os.close(fd)

    def folder(self, fqrn: str) -> int:
        """A descriptor of the folder of a repository's records, the caller's to close. Raises OSError."""
        return open_beneath(self.fd, FOLDER + b"/" + os.fsencode(fqrn), DIRECTORY)

    def read(self, fqrn: str, name: str, limit: int = RECORD_BYTES) -> tuple[bytes, os.stat_result] | None:
        """A file of a repository's records, and what it is; None if there is none.

        Raises:
            DestinationError: it is larger than ``limit``. OSError.
        """
        folder = self.folder(fqrn)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError as exc:
            if exc.errno in _ABSENT:
                return None
            raise
        finally:
            os.close(folder)
        with os.fdopen(fd, "rb") as file:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                return None
            data = file.read(limit + 1)
        if len(data) > limit:
            raise DestinationError(f"{self.path}/.provenance/{fqrn}/{name}: larger than {limit} bytes")
        return data, info

    def json(self, fqrn: str, name: str) -> dict[str, Any] | None:
        """A JSON object of ours; None if there is none, empty if it cannot be read as one."""
        found = self.read(fqrn, name)
        if found is None:
            return None
        try:
            value = json.loads(found[0])
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def kept(self, fqrn: str) -> Kept:
        """What runs have left of a repository. Raises DestinationError, OSError."""
        said = self.json(fqrn, "record.json")
        intent = self.json(fqrn, "intent.json")
        record = Record.from_json(said)
        try:
            tree = stat.S_ISDIR(os.stat(fqrn, dir_fd=self.fd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            tree = False
        return Kept(
            fqrn,
            record,
            said is not None and record is None,
            None if intent is None else Intent.from_json(intent),
            tree,
        )


def read_gaps(records: Records, fqrn: str) -> dict[bytes, str]:
    """The files that a tree lacks because no server had their objects: digests by path; empty if no list is there.

    Raises:
        DestinationError: the list cannot be read.
    """
    found = records.read(fqrn, MISSING, MISSING_BYTES)
    return {} if found is None else parse_gaps(found[0], f"{records.path}/.provenance/{fqrn}/{MISSING}")
