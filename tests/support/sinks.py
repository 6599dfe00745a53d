"""A sink that writes objects into a folder, for tests of whatever hands it batches; it can be told to fail.

Everything here can be pickled, and imported by processes that a test starts.
"""

from __future__ import annotations

import errno
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.engine.work import Item, Result, Worker
from shrinkwrap.fetch.source import SourceConfig, open_source
from shrinkwrap.snapshot.view import Report, View, ViewOptions, object_name


def item_of(entry: Entry, payload: object = None) -> Item:
    """What an export wants for a file's entry."""
    node = View(ViewOptions(claim=False, uid=0, gid=0, keep_suid=True), {}, Report()).node(entry)
    assert node is not None
    assert node.content is not None
    name = object_name(node.content, node, share_mtime=False)
    return Item(name, node.content, node.path, payload)


@dataclass(frozen=True)
class FolderSink:
    """Objects become files ``ab-rest`` in a folder.

    Attributes:
        fails: name of the step that raises ENOSPC (``begin``, ``write_at``, ``commit``...) for ``path``.
        siblings: an object of the same content is found in the folder, as in a tree's store.
    """

    folder: Path
    fails: str = ""
    path: bytes = b""
    siblings: bool = True

    def open(self) -> OpenFolderSink:
        return OpenFolderSink(self)

    def pack(self, payload: object, /) -> object:
        return payload

    def unpack(self, packed: object, /) -> object:
        return packed

    def file(self, item: Item) -> Path:
        return self.folder / item.name.replace("/", "-")

    def content(self, item: Item) -> bytes:
        return self.file(item).read_bytes()


class Writing:
    """A file that is being written."""

    def __init__(self, sink: OpenFolderSink, item: Item) -> None:
        self._sink = sink
        self.item = item
        self.temporary = sink.sink.folder / f".{os.getpid()}-{id(self)}"
        self.fd = os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def write_at(self, offset: int, data: bytes, /) -> None:
        self._sink.may_fail("write_at", self.item)
        assert data, "an empty write"
        assert offset + len(data) <= self.item.content.size, "a write beyond the end"
        os.pwrite(self.fd, data, offset)

    def close(self) -> None:
        os.close(self.fd)
        self._sink.files.remove(self)


class OpenFolderSink:
    """Attributes: ``files`` that are being written; ``calls`` as (step, path)."""

    def __init__(self, sink: FolderSink) -> None:
        self.sink = sink
        self.files: list[Writing] = []
        self.calls: list[tuple[str, bytes]] = []
        self.closed = False

    def may_fail(self, step: str, item: Item) -> None:
        if step != "write_at":
            self.calls.append((step, item.path))
        if self.sink.fails == step and self.sink.path == item.path:
            raise OSError(errno.ENOSPC, "no space left", os.fspath(self.sink.folder))

    def resolve(self, item: Item) -> bool:
        self.may_fail("resolve", item)
        if self.sink.file(item).exists():
            return True
        prefix = item.group.replace("/", "-") + "."
        for name in sorted(os.listdir(self.sink.folder)) if self.sink.siblings else ():
            if name.startswith(prefix):
                self.sink.file(item).write_bytes((self.sink.folder / name).read_bytes())
                return True
        return False

    def put(self, item: Item, data: bytes, /) -> None:
        file = self.begin(item)
        try:
            if data:
                file.write_at(0, data)
        except BaseException:
            self.discard(file)
            raise
        self.commit(item, file)

    def begin(self, item: Item) -> Writing:
        self.may_fail("begin", item)
        file = Writing(self, item)
        self.files.append(file)
        return file

    def commit(self, item: Item, file: Writing, /) -> None:
        file.close()
        self.may_fail("commit", item)
        os.rename(file.temporary, self.sink.file(item))

    def discard(self, file: Writing, /) -> None:
        self.calls.append(("discard", file.item.path))
        file.close()
        file.temporary.unlink()

    def derive(self, item: Item, made: Item) -> None:
        self.may_fail("derive", item)
        self.sink.file(item).write_bytes(self.sink.content(made))

    def take_notes(self) -> bytes:
        return b""

    def end_batch(self) -> dict[str, int]:
        self.calls.append(("end_batch", b""))
        return {"calls": len(self.calls), "process": os.getpid()}

    def close(self) -> None:
        self.closed = True


def run_batch(config: SourceConfig, sink: FolderSink, batch: list[Item]) -> Result:
    """What a process of a pool does with a batch."""
    worker = Worker(open_source(config), sink.open())
    try:
        return worker.run(batch)
    finally:
        worker.close()


def pickled(value: object) -> object:
    """The value as it arrives in another process."""
    return pickle.loads(pickle.dumps(value))
