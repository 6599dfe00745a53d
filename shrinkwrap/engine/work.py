"""What a worker does: take a batch, bring each object that the sink lacks, verify it, hand it over.

Batches, sinks and results can be pickled, so that the same code runs in the process itself, in a pool of processes, or
on other nodes. A worker finishes each object entirely. Stored bytes are judged by their digest *before* they are
inflated, and inflation never gives more than the catalog's size (FORMAT.md §2.3, §13.1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.digest import Digest, digest_of, new_hasher
from shrinkwrap.cvmfs.inflate import StreamInflater, inflate
from shrinkwrap.errors import CorruptObject, ShrinkwrapError
from shrinkwrap.fetch.types import Request, Source
from shrinkwrap.snapshot.view import Content

#: Objects (and chunks) up to this size are inflated in one call; larger ones stream through bounded buffers.
SMALL: Final = 1 * limits.MIB


class Item(NamedTuple):
    """One object that a sink wants.

    ``name`` is the sink's name for it: a folder, a slash, what stands for the content, a point, what stands for the
    metadata. ``payload`` is the sink's own; ``path`` a path that the object is for, for messages.
    """

    name: str
    content: Content
    path: bytes
    payload: Any

    @property
    def group(self) -> str:
        """Items of one group have the same content and differ in metadata only: it is brought once."""
        return group_of(self.name)


def group_of(name: str) -> str:
    """What names of the same content share: all before the metadata (:func:`~shrinkwrap.snapshot.view.object_name`)."""
    return name.partition(".")[0]


class ObjectFile(Protocol):
    """An object that is being written."""

    def write_at(self, offset: int, data: bytes, /) -> None: ...


class OpenSink(Protocol):
    """A sink in a worker."""

    def resolve(self, item: Item) -> bool:
        """True if nothing needs to be fetched: the sink has the object, or can make it from one that it has."""
        ...

    def put(self, item: Item, data: bytes, /) -> None:
        """The content, complete and verified, of an object that is small enough to be handed over whole.

        A sink with a method ``judge`` (:data:`Judge`) gets what that made of the object's stored bytes instead.
        """
        ...

    def begin(self, item: Item) -> ObjectFile: ...
    def commit(self, item: Item, file: Any, /) -> None:
        """The content is complete and verified. The file is the sink's from here on, also if this raises."""
        ...

    def discard(self, file: Any, /) -> None: ...
    def derive(self, item: Item, made: Item) -> None:
        """Make an object from one of the same content that was committed a moment ago."""
        ...

    def end_batch(self) -> dict[str, int]:
        """The batch is done, its lane may go to another worker; counts for the report."""
        ...

    def take_notes(self) -> bytes:
        """What the sink has to say of the batch to whoever collects results."""
        ...

    def close(self) -> None: ...


class Sink(Protocol):
    """Can be pickled; opened once in each worker."""

    def open(self) -> OpenSink: ...

    def pack(self, payload: Any, /) -> Any:
        """A payload as tuples, bytes, text and numbers only, to be sent to another process."""
        ...

    def unpack(self, packed: Any, /) -> Any: ...


class Failure(NamedTuple):
    """An object that could not be had, and a path that needs it."""

    path: bytes
    error: ShrinkwrapError


@dataclass(slots=True)
class Result:
    """What became of a batch: objects fetched, bytes received, bytes of content written."""

    items: int = 0
    fetched: int = 0
    received: int = 0
    written: int = 0
    failures: list[Failure] = field(default_factory=list)
    #: What the sink has to say to whoever collects results.
    notes: bytes = b""
    counters: dict[str, int] = field(default_factory=dict)


class _Begun:
    """A batch that is being dealt with.

    ``left``: objects on their way; ``drawn``: no more come; ``followers``: items of the groups that are on their way.
    """

    __slots__ = ("drawn", "followers", "left", "result")

    def __init__(self, items: int) -> None:
        self.left = 0
        self.drawn = False
        self.followers: dict[str, list[Item]] = {}
        self.result = Result(items=items)


#: Judges the stored bytes of a small object; gives what the sink wants of it. Raises CorruptObject.
Judge = Callable[[bytes, Content], Any]


def _inflated(data: bytes, content: Content) -> bytes:
    """What most sinks want: the content."""
    return judged(data, content.digest, content.size, content.compressed)


class _Whole:
    """A small object in one piece, which never sees a file before it is complete and judged. Its own body."""

    __slots__ = ("_judge", "_pieces", "data", "item", "state")

    def __init__(self, item: Item, judge: Judge, state: _Begun) -> None:
        self.item = item
        self.state = state
        self.data: Any = b""
        self._judge = judge
        self._pieces: list[bytes] = []

    def start(self) -> None:
        self._pieces.clear()

    def write(self, data: bytes, /) -> None:
        self._pieces.append(data)

    def finish(self) -> None:
        pieces = self._pieces
        self.data = self._judge(pieces[0] if len(pieces) == 1 else b"".join(pieces), self.item.content)
        pieces.clear()


def judged(data: bytes, digest: Digest, size: int, compressed: bool) -> bytes:
    """The content of an object whose stored bytes are ``data``. Raises CorruptObject."""
    if digest_of(digest.algorithm, data) != digest:
        raise CorruptObject(f"object {digest}: its content has another digest")
    if compressed:
        data = inflate(data, size)
    if len(data) != size:
        raise CorruptObject(f"object {digest}: {len(data)} bytes, its catalog says {size}")
    return data


class _Assembly:
    """An object on its way: its file, and how many pieces are still to come."""

    __slots__ = ("error", "file", "item", "left", "state")

    def __init__(self, item: Item, pieces: int, state: _Begun) -> None:
        self.item = item
        self.state = state
        self.left = pieces
        self.file: ObjectFile | None = None
        self.error: ShrinkwrapError | None = None

    def open(self, sink: OpenSink) -> ObjectFile:
        if self.file is None:
            self.file = sink.begin(self.item)
        return self.file


class _SmallBody:
    """Collects a small piece, judges it whole, writes it in one call."""

    __slots__ = ("_assembly", "_compressed", "_digest", "_offset", "_pieces", "_sink", "_size")

    def __init__(
        self, sink: OpenSink, assembly: _Assembly, digest: Digest, offset: int, size: int, compressed: bool
    ) -> None:
        self._sink = sink
        self._assembly = assembly
        self._digest = digest
        self._offset = offset
        self._size = size
        self._compressed = compressed
        self._pieces: list[bytes] = []

    def start(self) -> None:
        self._pieces.clear()

    def write(self, data: bytes, /) -> None:
        self._pieces.append(data)

    def finish(self) -> None:
        data = judged(b"".join(self._pieces), self._digest, self._size, self._compressed)
        self._pieces.clear()
        file = self._assembly.open(self._sink)
        if data:
            file.write_at(self._offset, data)


class _StreamBody:
    """Judges and writes a large piece as it arrives, with bounded memory."""

    __slots__ = (
        "_assembly",
        "_compressed",
        "_digest",
        "_hasher",
        "_inflater",
        "_offset",
        "_position",
        "_sink",
        "_size",
    )

    def __init__(
        self, sink: OpenSink, assembly: _Assembly, digest: Digest, offset: int, size: int, compressed: bool
    ) -> None:
        self._sink = sink
        self._assembly = assembly
        self._digest = digest
        self._offset = offset
        self._size = size
        self._compressed = compressed

    def start(self) -> None:
        self._hasher = new_hasher(self._digest.algorithm)
        self._inflater = StreamInflater(self._size)
        self._position = 0

    def write(self, data: bytes, /) -> None:
        self._hasher.update(data)
        for piece in self._inflater.feed(data) if self._compressed else (data,):
            self._put(piece)

    def _put(self, piece: bytes) -> None:
        if self._position + len(piece) > self._size:
            raise CorruptObject(f"object {self._digest}: more than the {self._size} bytes that its catalog says")
        self._assembly.open(self._sink).write_at(self._offset + self._position, piece)
        self._position += len(piece)

    def finish(self) -> None:
        if self._compressed:
            for piece in self._inflater.finish():
                self._put(piece)
        if self._hasher.digest() != self._digest.raw:
            raise CorruptObject(f"object {self._digest}: its content has another digest")
        if self._position != self._size:
            raise CorruptObject(f"object {self._digest}: {self._position} bytes, its catalog says {self._size}")


class Worker:
    """One source and one open sink, used for many batches.

    Args:
        progress: called as things happen, with objects done, bytes received and bytes written since the last call.
    """

    def __init__(
        self, source: Source, sink: OpenSink, progress: Callable[[int, int, int], None] = lambda *_: None
    ) -> None:
        self.source = source
        self._sink = sink
        self._progress = progress
        # A sink that keeps objects as they are stored judges them itself, while another host can still be asked.
        self._judge: Judge = getattr(sink, "judge", _inflated)

    def run(self, batch: list[Item]) -> Result:
        """Deal with one batch. What cannot be had is in the result; an error of the sink (a full disk) is raised."""
        return next(self.stream([batch]))

    def stream(self, batches: Iterable[list[Item]]) -> Iterator[Result]:
        """Deal with one batch after the other, a result for each, in their order.

        The next one is drawn while the last objects of the one before are still on their way, so that as many as may
        be in flight always are. No two batches may have items of one group.
        """
        begun: deque[_Begun] = deque()
        open_assemblies: set[_Assembly] = set()
        try:
            requests = self._requests(batches, begun, open_assemblies)
            for request, error, received, _ in self.source.fetch(requests):
                unit: _Whole | _Assembly = request.key
                state = unit.state
                state.result.received += received
                self._progress(0, received, 0)
                if type(unit) is _Whole:
                    state.left -= 1
                    item = unit.item
                    # An item of the group that is drawn after this looks for itself.
                    followers = state.followers.pop(item.group)
                    if error is None:
                        self._sink.put(item, unit.data)
                        self._put(item, followers, state.result)
                    else:
                        self._lost(item, error, followers, state.result)
                else:
                    assert type(unit) is _Assembly
                    unit.left -= 1
                    if error is not None and unit.error is None:
                        unit.error = error
                    if unit.left == 0:
                        state.left -= 1
                        open_assemblies.discard(unit)
                        self._finish(unit, state.followers.pop(unit.item.group), state.result)
                while begun[0].drawn and not begun[0].left:
                    yield self._ended(begun.popleft())
                    if not begun:
                        break
            while begun:
                yield self._ended(begun.popleft())
        finally:
            for assembly in open_assemblies:
                if assembly.file is not None:
                    self._sink.discard(assembly.file)

    def _requests(
        self, batches: Iterable[list[Item]], begun: deque[_Begun], open_assemblies: set[_Assembly]
    ) -> Iterator[Request]:
        """The transfers that batches need, drawn as there is room for them."""
        sink, judge = self._sink, self._judge
        resolve = sink.resolve
        for batch in batches:
            state = _Begun(len(batch))
            begun.append(state)
            # Of each group the first that is not there is fetched; the others are made from it.
            followers = state.followers
            for item in batch:
                group = item.group
                waiting = followers.get(group)
                if waiting is not None:
                    waiting.append(item)
                elif resolve(item):
                    self._progress(1, 0, 0)
                else:
                    followers[group] = []
                    state.left += 1
                    content = item.content
                    if content.size <= SMALL and not content.chunks:
                        whole = _Whole(item, judge, state)
                        path = content.external or content.digest.object_path().encode()
                        yield Request(path, whole, _limit(content), content.external is not None, None, whole)
                        continue
                    assembly = _Assembly(item, max(1, len(content.chunks)), state)
                    open_assemblies.add(assembly)
                    yield from _requests(sink, assembly)
            state.drawn = True

    def _ended(self, state: _Begun) -> Result:
        result = state.result
        result.counters = self._sink.end_batch()
        result.notes = self._sink.take_notes()
        return result

    def _finish(self, assembly: _Assembly, followers: list[Item], result: Result) -> None:
        if assembly.error is not None:
            if assembly.file is not None:
                self._sink.discard(assembly.file)
            self._lost(assembly.item, assembly.error, followers, result)
            return
        self._sink.commit(assembly.item, assembly.open(self._sink))
        self._put(assembly.item, followers, result)

    def _put(self, item: Item, followers: list[Item], result: Result) -> None:
        """The sink has an object; make those of the same content from it."""
        result.fetched += 1
        result.written += item.content.size
        self._progress(1 + len(followers), 0, item.content.size)
        while followers:
            follower = followers.pop()
            if not self._sink.resolve(follower):
                self._sink.derive(follower, item)

    def _lost(self, item: Item, error: ShrinkwrapError, followers: list[Item], result: Result) -> None:
        result.failures.append(Failure(item.path, error))
        result.failures.extend(Failure(follower.path, error) for follower in followers)

    def close(self) -> None:
        self._sink.close()
        self.source.close()


def _limit(content: Content) -> int:
    """Most stored bytes that an object in one piece can have."""
    return limits.stored_size(content.size) if content.compressed else content.size


def _requests(sink: OpenSink, assembly: _Assembly) -> Iterator[Request]:
    """The transfers that an object needs: one, or one for each chunk."""
    content = assembly.item.content
    algorithm = content.digest.algorithm
    external = content.external
    if not content.chunks:
        body = _body(sink, assembly, content.digest, 0, content.size, content.compressed)
        path = content.digest.object_path().encode() if external is None else external
        yield Request(path, body, _limit(content), external is not None, None, assembly)
        return
    for offset, size, raw in content.chunks:
        digest = Digest(algorithm, raw)
        limit = limits.stored_size(size) if content.compressed else size
        body = _body(sink, assembly, digest, offset, size, content.compressed)
        if external is None:
            yield Request(digest.object_path("P").encode(), body, limit, False, None, assembly)
        else:
            yield Request(external, body, limit, True, (offset, size), assembly)


def _body(
    sink: OpenSink, assembly: _Assembly, digest: Digest, offset: int, size: int, compressed: bool
) -> _SmallBody | _StreamBody:
    return (_SmallBody if size <= SMALL else _StreamBody)(sink, assembly, digest, offset, size, compressed)
