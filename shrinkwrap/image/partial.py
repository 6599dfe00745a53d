"""The work folder beside an image that is being built: what is complete in it, an interrupted build does not lose.

Layout of ``<image>.partial``::

    lock              held while a build works here
    recipe.json       how its blocks are made; with another recipe they are of no use
    records           where the blocks of each object lie (shrinkwrap.image.records)
    segment-…         blocks
    image             the image, until it is complete
    catalogs/         catalogs as fetched, by digest
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import DestinationError, LockedError
from shrinkwrap.image.output import unwritable
from shrinkwrap.image.records import Record, Records, Sum
from shrinkwrap.image.segments import FIRST_SEGMENT, segment_name
from shrinkwrap.image.squashfs.recipe import Recipe

SUFFIX: Final = ".partial"
_RECIPE: Final = "recipe.json"
_RECORDS: Final = "records"
_IMAGE: Final = "image"
_CATALOGS: Final = "catalogs"
_OURS: Final = frozenset({_RECIPE, _RECORDS, _RECORDS + ".new", _IMAGE})
_VERSION: Final = 1
_PIECE: Final = 4 << 20


class Partial:
    """A work folder, locked.

    Args:
        image: the image that it is for.
        recipe: what is there by another one is thrown away.
        notice: told of that, and of what is taken over.

    Attributes:
        path: of the folder.
        records: of it.
        adopted: objects that an interrupted build left complete.

    Raises:
        LockedError: another build works there. DestinationError: it cannot be made.
    """

    def __init__(self, image: str, recipe: Recipe, notice: Callable[[str], None]) -> None:
        self.path = image + SUFFIX
        self._lock = -1
        self._segments: dict[int, int] = {}
        self._notice = notice
        self.adopted = 0
        try:
            os.makedirs(self.path, exist_ok=True)
            self._lock = os.open(os.path.join(self.path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockedError(f"{image}: another run is building it", hint="wait for it to end") from None
            self.records = self._open(recipe)
        except OSError as exc:
            self.close()
            raise unwritable(os.fsencode(self.path), exc) from None
        except BaseException:
            self.close()
            raise

    @property
    def lock(self) -> tuple[int, ...]:
        """Descriptors for workers to keep open: the folder is theirs as long as they live."""
        return (self._lock,)

    @property
    def catalogs(self) -> str:
        return os.path.join(self.path, _CATALOGS)

    @property
    def image(self) -> str:
        """Where the image is written before it gets its name."""
        return os.path.join(self.path, _IMAGE)

    def _open(self, recipe: Recipe) -> Records:
        described = json.dumps({"version": _VERSION, **recipe.to_json()}, sort_keys=True)
        file = os.path.join(self.path, _RECIPE)
        with suppress(FileNotFoundError), open(file, encoding="utf-8", errors="replace") as there:
            if there.read(65536) != described:
                self._notice(f"{self.path}: what an interrupted build left is of another recipe, and thrown away")
                self._empty()
        with open(file, "w", encoding="utf-8") as out:
            out.write(described)
        old = os.path.join(self.path, _RECORDS)
        new = old + ".new"
        with suppress(FileNotFoundError):
            os.unlink(new)
        records = Records(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        try:
            self._adopt(old, records)
            os.rename(new, old)
        except BaseException:
            records.close()
            raise
        return records

    def _adopt(self, old: str, records: Records) -> None:
        with suppress(FileNotFoundError):
            fd = os.open(old, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self.adopted = records.adopt(fd, self._good)
            finally:
                os.close(fd)
        if self.adopted:
            self._notice(f"{self.adopted} objects that an interrupted build left are taken over")
        # Segments without any record that counts.
        for name in os.listdir(self.path):
            number = _segment_number(name)
            if number is not None and number not in self._segments:
                os.unlink(os.path.join(self.path, name))

    def _good(self, record: Record) -> bool:
        """Whether what an interrupted build says of an object is still true."""
        return record.segment >= FIRST_SEGMENT and self.sound(record)

    def sound(self, record: Record) -> bool:
        """Whether the blocks of a record are there, as they were written."""
        try:
            fd = self.segment(record.segment)
        except FileNotFoundError:
            return False
        end = record.start + record.length
        if end > os.fstat(fd).st_size:
            return False
        total = Sum()
        for start in range(record.start, end, _PIECE):
            total.update(os.pread(fd, min(_PIECE, end - start), start))
        return total.finish(record.key, record.size, record.words) == record.sum

    def segment(self, number: int) -> int:
        """A descriptor of a segment, for reading. Raises OSError."""
        fd = self._segments.get(number)
        if fd is None:
            name = os.path.join(self.path, segment_name(number))
            fd = self._segments[number] = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        return fd

    def borrow(self, number: int, fd: int) -> None:
        """Make another file a segment, with a number below :data:`FIRST_SEGMENT`. It is closed with the others."""
        assert number < FIRST_SEGMENT
        self._segments[number] = fd

    def _empty(self) -> None:
        """Remove what builds make there, and nothing else."""
        for name in os.listdir(self.path):
            if name in _OURS or _segment_number(name) is not None:
                os.unlink(os.path.join(self.path, name))
        with suppress(FileNotFoundError):
            shutil.rmtree(self.catalogs)

    def remove(self) -> None:
        """The image is there: nothing of this is needed any more. Raises DestinationError."""
        try:
            self._empty()
            os.unlink(os.path.join(self.path, "lock"))
            os.rmdir(self.path)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise DestinationError(f"{show(os.fsencode(self.path))}: cannot be removed: {exc.strerror}") from None

    def close(self) -> None:
        """Give everything back. Idempotent."""
        for fd in self._segments.values():
            os.close(fd)
        self._segments.clear()
        records = getattr(self, "records", None)
        if records is not None:
            records.close()
            del self.records
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _segment_number(name: str) -> int | None:
    head, _, digits = name.partition("-")
    if head != "segment":
        return None
    try:
        return int(digits, 16)
    except ValueError:
        return None
