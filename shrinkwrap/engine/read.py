"""The content of one file of a repository, without an export around it."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, suppress
from typing import IO

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.entry import kind_of, show
from shrinkwrap.engine.work import Item, Worker
from shrinkwrap.errors import DestinationError, MissingObject, UsageError
from shrinkwrap.snapshot.session import Session
from shrinkwrap.snapshot.view import content_of


def open_file(session: Session, root: NestedRef, path: bytes) -> IO[bytes]:
    """A regular file's content, whole and verified, in a temporary file without a name; at its beginning.

    Args:
        root: the root catalog of the snapshot.
        path: absolute within the repository; links are not followed.

    Raises:
        MissingObject: nothing of that path, or the servers do not have its content. UsageError: not a regular file.
        NetworkError, CorruptObject. DestinationError: no room for temporary files.
    """
    found = session.find(root, path)
    if found is None:
        raise MissingObject(f"{show(path)}: not in the repository")
    catalog, entry = found
    session.catalogs.release(catalog)
    if not entry.is_file:
        raise UsageError(f"{show(path)}: a {kind_of(entry.mode)}, not a file", hint="links are not followed")
    with ExitStack() as undo:
        try:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever asked closes it
            undo.callback(_close, file)
            result = Worker(session.source, _OneFile(file)).run([Item("00/file", content_of(entry), path, None)])
        except OSError as exc:
            raise DestinationError(
                f"{show(path)} cannot be brought to the folder for temporary files: {exc.strerror or exc}",
                hint="free space there, or name another folder with TMPDIR",
            ) from None
        for failure in result.failures:
            raise failure.error
        undo.pop_all()
    return file


def _close(file: IO[bytes]) -> None:
    with suppress(OSError):  # on a full disk closing fails too
        file.close()


class _OneFile:
    """A sink for one file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def resolve(self, item: Item) -> bool:
        return False

    def put(self, item: Item, data: bytes, /) -> None:
        self._file.write(data)
        self._file.seek(0)

    def begin(self, item: Item) -> _OneFile:
        return self

    def write_at(self, offset: int, data: bytes, /) -> None:
        self._file.seek(offset)
        self._file.write(data)

    def commit(self, item: Item, file: object, /) -> None:
        self._file.seek(0)

    def discard(self, file: object, /) -> None:
        self._file.truncate(0)

    def derive(self, item: Item, made: Item) -> None:
        raise AssertionError("one file has no variants")

    def take_notes(self) -> bytes:
        return b""

    def end_batch(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self._file.close()
