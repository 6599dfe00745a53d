"""The contents of several files of a repository, one after the other, brought together."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import IO

from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.engine.work import Item, Worker
from shrinkwrap.errors import DestinationError
from shrinkwrap.snapshot.session import Session
from shrinkwrap.snapshot.view import content_of

Take = Callable[[int, IO[bytes]], None]


def read_several(session: Session, entries: Sequence[Entry], take: Take) -> None:
    """Bring the contents of regular files; no more than some are there at a time.

    Args:
        entries: regular files.
        take: told of each, with its number among ``entries``, in any order: its content, whole and verified, at its
            beginning, closed after the call.

    Raises:
        MissingObject, NetworkError, CorruptObject: one cannot be had; the first such.
        DestinationError: no room for temporary files.
    """
    items = [
        Item(f"{number & 0xFF:02x}/{number}.", content_of(entry), entry.path, number)
        for number, entry in enumerate(entries)
    ]
    sink = _Taken(take)
    try:
        result = Worker(session.source, sink).run(items)
    except OSError as exc:
        raise DestinationError(
            f"contents of files cannot be brought to the folder for temporary files: {exc.strerror or exc}",
            hint="free space there, or name another folder with TMPDIR",
        ) from None
    finally:
        sink.close()
    for failure in result.failures:
        raise failure.error


class _Open:
    """A large file on its way."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is taken or discarded

    def write_at(self, offset: int, data: bytes, /) -> None:
        self.file.seek(offset)
        self.file.write(data)


class _Taken:
    """A sink that hands contents on and keeps none."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._open: set[_Open] = set()

    def resolve(self, item: Item) -> bool:
        return False

    def put(self, item: Item, data: bytes, /) -> None:
        with io.BytesIO(data) as file:
            self._take(item.payload, file)

    def begin(self, item: Item) -> _Open:
        made = _Open()
        self._open.add(made)
        return made

    def commit(self, item: Item, file: _Open, /) -> None:
        self._open.discard(file)
        with closing(file.file):
            file.file.seek(0)
            self._take(item.payload, file.file)

    def discard(self, file: _Open, /) -> None:
        self._open.discard(file)
        file.file.close()

    def derive(self, item: Item, made: Item) -> None:
        raise AssertionError("each item has a name of its own")

    def take_notes(self) -> bytes:
        return b""

    def end_batch(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        for one in self._open:
            one.file.close()
        self._open.clear()
