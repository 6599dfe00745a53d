"""The workers' part of building an image: objects become blocks in segment files.

A worker appends to a file of its own. The small objects of a batch are written together at its end, in the order of
the stream, so that a segment holds long runs that the builder copies as they are.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tempfile
import zlib
from dataclasses import dataclass
from typing import IO, Any, Final, NamedTuple, Protocol

import xxhash

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.digest import digest_of
from shrinkwrap.engine.work import SMALL, Item, judged
from shrinkwrap.errors import CorruptObject
from shrinkwrap.image.keys import KEY_BYTES
from shrinkwrap.image.output import write_all
from shrinkwrap.image.records import Record, Sum, sum_of
from shrinkwrap.image.squashfs.layout import PLAIN_BLOCK, U32
from shrinkwrap.image.squashfs.recipe import Recipe, pack_block, pack_blocks
from shrinkwrap.record.sums import UNKNOWN, WIDTH
from shrinkwrap.snapshot.view import Content
from shrinkwrap.tree.adopt import proves
from shrinkwrap.tree.shardsums import checksum_of

#: Blocks of a large object that are collected before they are written.
_COLLECTED: Final = 4 * limits.MIB
#: Segments have numbers from here on; below it are files that were there before.
FIRST_SEGMENT: Final = 16


def payload(key: bytes, stored: str = "", checksum: bytes = b"") -> bytes:
    """What an item carries: the key of its content; where it lies in an export's store, and the checksum of that."""
    return key if not stored else key + (checksum or UNKNOWN) + stored.encode()


class Packed(NamedTuple):
    """An object as blocks: size words, and the blocks one after the other. ``verbatim``: as the server has them."""

    words: bytes
    blocks: bytes
    verbatim: bool


def segment_name(number: int) -> str:
    """File name of a segment in the work folder."""
    return f"segment-{number:08x}"


@dataclass(frozen=True, slots=True)
class SegmentSink:
    """Turns objects into blocks.

    Attributes:
        folder: for the segment files.
        recipe: how blocks are made.
        trust: take the catalog's word for the sizes of objects that go into the image as they are, instead of
            inflating them to see. Their digests are checked all the same.
        store: folder of stored files of an export, where contents are looked for; empty: none.
    """

    folder: str
    recipe: Recipe
    trust: bool = False
    store: str = ""

    def open(self) -> OpenSegments:
        return OpenSegments(self)

    def pack(self, payload: Any, /) -> Any:
        return payload

    def unpack(self, packed: Any, /) -> Any:
        return packed


class OpenSegments:
    """A segment sink in a worker. The payload of an item is what :func:`payload` makes."""

    def __init__(self, sink: SegmentSink) -> None:
        self._folder = sink.folder
        self._trust = sink.trust
        self._store = os.fsencode(sink.store)
        self._recipe = sink.recipe
        self._block_size = sink.recipe.block_size
        self._compress = sink.recipe.compress()
        self._fd = -1
        self._number = 0
        self._size = 0
        # Items in the order of the stream, and small objects that have come. They may be of two batches: the next one
        # begins while the last objects of one are on their way.
        self._order: list[Item] = []
        self._ready: dict[bytes, Packed] = {}
        self._written: set[bytes] = set()
        self._notes: list[bytes] = []
        self._counts: dict[str, int] = {}

    # -- what the worker asks for ------------------------------------------------------------------------------------

    def resolve(self, item: Item) -> bool:
        self._order.append(item)
        return len(item.payload) > KEY_BYTES and self._from_store(item)

    def judge(self, stored: bytes, content: Content) -> Packed:
        """A small object from its stored bytes: as they are where the format allows. Raises CorruptObject."""
        size = content.size
        fits = self._recipe.verbatim and 0 < size <= self._block_size
        verbatim = fits and content.compressed and len(stored) < size
        if verbatim and self._trust and _is_plain_zlib(stored):
            if digest_of(content.digest.algorithm, stored) != content.digest:
                raise CorruptObject(f"object {content.digest}: its content has another digest")
            return Packed(U32.pack(len(stored)), stored, True)
        data = judged(stored, content.digest, size, content.compressed)
        if verbatim:
            return Packed(U32.pack(len(stored)), stored, True)
        if fits and content.compressed:
            # The publisher's zlib did not make it smaller.
            return Packed(U32.pack(size | PLAIN_BLOCK), data, False)
        words, blocks, _ = pack_blocks(data, self._block_size, self._compress)
        return Packed(words, blocks, False)

    def put(self, item: Item, packed: Any, /) -> None:
        self._ready[item.payload[:KEY_BYTES]] = packed

    def begin(self, item: Item) -> Spool:
        return Spool(self._folder)

    def commit(self, item: Item, file: Spool, /) -> None:
        with file:
            self.add(item.payload[:KEY_BYTES], file, item.content.size)
        self._written.add(item.payload[:KEY_BYTES])

    def discard(self, file: Spool, /) -> None:
        file.close()

    def derive(self, item: Item, made: Item) -> None:
        raise AssertionError("each content is wanted once")

    def end_batch(self) -> dict[str, int]:
        """Write the small objects that have come, in the order of the stream."""
        blocks, waiting = [], []
        start = self._size
        for item in self._order:
            key = item.payload[:KEY_BYTES]
            packed = self._ready.get(key)
            if packed is None:
                if key not in self._written:
                    waiting.append(item)
                continue
            words, data, verbatim = packed
            size = item.content.size
            total = sum_of(key, size, words, data)
            blocks.append(data)
            self._note(Record(key, 0, start, len(data), size, total, words), verbatim=verbatim)
            start += len(data)
        self._write(blocks)
        self._order = waiting
        self._ready.clear()
        self._written.clear()
        counts, self._counts = self._counts, {}
        return counts

    def take_notes(self) -> bytes:
        # The number is given when the first byte is written, which may be after the first record.
        notes = b"".join(self._notes)
        self._notes.clear()
        return notes

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- an export's store -------------------------------------------------------------------------------------------

    def _from_store(self, item: Item) -> bool:
        """Take a content from the store. False: it is not there, or not what it was when it was stored."""
        found = item.payload[KEY_BYTES:]
        checksum, name = found[:WIDTH], found[WIDTH:]
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(os.path.join(self._store, name), flags)
        except OSError:
            return False
        try:
            info = os.fstat(fd)
            size = item.content.size
            if not stat.S_ISREG(info.st_mode) or info.st_size != size:
                return False
            key = item.payload[:KEY_BYTES]
            if size <= SMALL and not item.content.chunks:
                packed = self._restored(os.pread(fd, size, 0), item.content, checksum)
                if packed is None:
                    return False
                self._ready[key] = packed
            else:
                if checksum_of(fd) != checksum if checksum != UNKNOWN else not proves(fd, item.content):
                    return False
                self.add(key, _Stored(fd), size)
                self._written.add(key)
        except OSError as exc:
            if exc.errno == errno.EIO:
                return False  # it cannot be read
            raise
        finally:
            os.close(fd)
        self._counts["reused"] = self._counts.get("reused", 0) + 1
        return True

    def _restored(self, data: bytes, content: Content, checksum: bytes) -> Packed | None:
        """A stored file as the object that it came from, as far as that can be made again.

        Publishers compress by stock zlib at level 6: where that gives the object's digest, it gives its bytes. All else
        is compressed anew, if its checksum is known.
        """
        if content.compressed:
            stored = zlib.compress(data, 6)
            if digest_of(content.digest.algorithm, stored) == content.digest:
                return self.judge(stored, content)
        elif digest_of(content.digest.algorithm, data) == content.digest:
            return self.judge(data, content)
        if checksum == UNKNOWN or xxhash.xxh3_128_digest(data) != checksum:
            return None
        words, blocks, _ = pack_blocks(data, self._block_size, self._compress)
        return Packed(words, blocks, False)

    # -- blocks ------------------------------------------------------------------------------------------------------

    def add(self, key: bytes, file: Readable, size: int) -> None:
        """Cut a file into blocks and write them. Raises OSError."""
        start, total = self._size, Sum()
        words, blocks, collected = bytearray(), [], 0
        for position in range(0, size, self._block_size):
            data = file.read_at(position, min(self._block_size, size - position))
            word, packed = pack_block(data, self._compress)
            words += U32.pack(word)
            total.update(packed)
            blocks.append(packed)
            collected += len(packed)
            if collected >= _COLLECTED:
                self._write(blocks)
                blocks, collected = [], 0
        self._write(blocks)
        found = total.finish(key, size, bytes(words))
        self._note(Record(key, 0, start, self._size - start, size, found, bytes(words)), verbatim=False)

    def _write(self, blocks: list[bytes]) -> None:
        data = blocks[0] if len(blocks) == 1 else b"".join(blocks)
        self._open()
        write_all(self._fd, data, self._size)
        self._size += len(data)

    def _open(self) -> None:
        while self._fd < 0:
            number = FIRST_SEGMENT + secrets.randbelow(2**32 - FIRST_SEGMENT)
            name = os.path.join(self._folder, segment_name(number))
            try:
                self._fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                continue
            self._number = number

    def _note(self, record: Record, *, verbatim: bool) -> None:
        self._open()
        self._notes.append(record._replace(segment=self._number).pack())
        counts = self._counts
        counts["stored"] = counts.get("stored", 0) + record.length
        if verbatim:
            counts["verbatim"] = counts.get("verbatim", 0) + 1
            counts["verbatim_bytes"] = counts.get("verbatim_bytes", 0) + record.size


class Readable(Protocol):
    """Something that content is read from."""

    def read_at(self, offset: int, size: int) -> bytes: ...


class _Stored:
    """A file of the store, open."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read_at(self, offset: int, size: int) -> bytes:
        data = os.pread(self._fd, size, offset)
        if len(data) < size:
            raise OSError(errno.EIO, "a stored file changes while it is read")
        return data


def _is_plain_zlib(stored: bytes) -> bool:
    """Whether a stream begins as one that every zlib reads: deflate, no preset dictionary (RFC 1950)."""
    return len(stored) > 2 and stored[0] & 15 == 8 and not stored[1] & 0x20 and (stored[0] << 8 | stored[1]) % 31 == 0


class Spool:
    """The content of a large object, until all of it is there: pieces come in any order. A file without a name."""

    __slots__ = ("_file",)

    def __init__(self, folder: str) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - see close

    def write_at(self, offset: int, data: bytes, /) -> None:
        write_all(self._file.fileno(), data, offset)

    def read_at(self, offset: int, size: int) -> bytes:
        """So many bytes; the sizes of a catalog's chunks are those of their file, so that all are there."""
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) < size:
            raise OSError(errno.EIO, "a temporary file is shorter than what was written to it")
        return data

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
