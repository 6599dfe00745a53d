"""What an image says of itself, and whether it is what it says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from shrinkwrap.cvmfs.digest import RMD160, SHA1, SHAKE128, digest_of
from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import CorruptObject, UsageError
from shrinkwrap.image.entries import DIR, FILE
from shrinkwrap.image.keys import KeyTable, item_name, key_of
from shrinkwrap.image.objects import PATH, parse_objects
from shrinkwrap.image.provenance import FOLDER, IMAGE, IMAGE_BYTES, Made, statement_path
from shrinkwrap.image.records import Record, Sum, stored_length
from shrinkwrap.image.sif import MAGIC, MAGIC_AT, PARTITION, read_sif
from shrinkwrap.image.squashfs.layout import BLOCK_BYTES, GZIP, NOWHERE, PADDING, PLAIN_BLOCK, U64
from shrinkwrap.image.squashfs.reader import Image, Inode
from shrinkwrap.record.statement import STATEMENT_BYTES, Statement
from shrinkwrap.snapshot.view import Content

_KINDS: Final = {DIR: "dirs", FILE: "files", "l": "symlinks"}
_PIECE: Final = 1 << 20
#: Differences that are listed; all are counted.
LISTED: Final = 1000


@contextmanager
def open_image(path: str) -> Iterator[Image]:
    """The squashfs image that a file is, or the one in a SIF.

    Raises:
        UsageError: it cannot be read. CorruptObject: it is none.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise UsageError(f"{path}: cannot be read: {exc.strerror}") from None
    try:
        try:
            yield Image(fd, _begin(fd, os.fsencode(path)), show(os.fsencode(path)))
        except OSError as exc:
            raise UsageError(f"{path}: cannot be read: {exc.strerror}") from None
    finally:
        os.close(fd)


def _begin(fd: int, path: bytes) -> int:
    """Where the image begins in a file. Raises CorruptObject: a SIF without any."""
    if os.pread(fd, len(MAGIC), MAGIC_AT) != MAGIC:
        return 0
    part = read_sif(path).first(PARTITION)
    if part is None or part.filesystem != "squashfs":
        raise CorruptObject(f"{show(path)}: a SIF without a squashfs image in it")
    return part.offset


@dataclass(frozen=True, slots=True)
class Described:
    """What an image says of itself. ``made`` is None, and there are no statements, for one of another tool."""

    path: str
    size: int
    block_size: int
    compressor: str
    inodes: int
    mtime: int
    exportable: bool
    xattrs: bool
    made: Made | None
    statements: tuple[Statement, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "command": "image info",
            "path": self.path,
            "format": "squashfs",
            "size": self.size,
            "block_size": self.block_size,
            "compressor": self.compressor,
            "inodes": self.inodes,
            "mtime": self.mtime,
            "recipe": None if self.made is None else dict(self.made.recipe),
            "source": None if self.made is None else self.made.source,
            "tool": None if self.made is None else self.made.tool,
            "repositories": [
                {
                    "fqrn": one.fqrn,
                    "root_hash": str(one.root.digest),
                    "revision": one.revision,
                    "timestamp": one.timestamp,
                    "tag": one.tag,
                    "signed": one.signed,
                    "entries": one.entries,
                    "listing_sha256": one.listing_sha256,
                    "counts": dict(sorted(one.counts.items())),
                }
                for one in self.statements
            ],
        }


def describe(image: Image, path: str) -> Described:
    """Raises CorruptObject."""
    block = image.superblock
    made, statements = read_provenance(image)
    return Described(
        path,
        block.used + -block.used % PADDING,
        block.block_size,
        "gzip" if block.compressor == GZIP else "zstd",
        block.inodes,
        block.mtime,
        block.export_table != NOWHERE,
        block.xattr_table != NOWHERE,
        made,
        statements,
    )


def read_provenance(image: Image) -> tuple[Made | None, tuple[Statement, ...]]:
    """How an image was made, and what its parts are; nothing for one of another tool. Raises CorruptObject."""
    data = image.read(IMAGE, IMAGE_BYTES)
    if data is None:
        return None, ()
    made = Made.from_bytes(data)
    statements = []
    for one in made.repositories:
        text = image.read(statement_path(one.fqrn), STATEMENT_BYTES)
        if text is None:
            raise CorruptObject(f"{image.name}: there is no statement of {one.fqrn} in it")
        statements.append(Statement.from_bytes(text))
    return made, tuple(statements)


def objects_of(image: Image, segment: int = 0) -> Iterator[Record]:
    """The contents of an image, in its order; nothing if it has no list of them. Raises CorruptObject."""
    found = image.find(PATH)
    if found is None or found.inode.kind != FILE:
        return iter(())
    return parse_objects(image.pieces(found.inode), image.superblock.block_size, segment)


@dataclass(slots=True)
class Verified:
    """What a verification found.

    Attributes:
        counts: ``files``, ``dirs``, ``symlinks``, ``bytes``; ``contents``: distinct ones; ``proved``: those that are
            what the repository's own hash says.
        differences: the first of them, in words; ``number``: of all.
    """

    counts: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    number: int = 0

    def add(self, line: str) -> None:
        self.number += 1
        if len(self.differences) < LISTED:
            self.differences.append(line)

    def count(self, what: str, number: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + number


def verify(image: Image, progress: Callable[[int], None] = lambda files: None) -> Verified:
    """Read all of an image: structures, every block, and what it says of itself.

    Blocks that are a repository's own objects are held against the hashes that name them; all others against the
    checksums that were noted when they were made.
    """
    seen = KeyTable()
    try:
        return _Verify(image, seen, progress).go()
    finally:
        seen.close()


class _Verify:
    """One verification."""

    def __init__(self, image: Image, seen: KeyTable, progress: Callable[[int], None]) -> None:
        self._image = image
        self._found = Verified()
        self._seen = seen
        self._progress = progress
        self._algorithm = SHA1
        self._next: Record | None = None

    def go(self) -> Verified:
        found, image = self._found, self._image
        try:
            made, statements = read_provenance(image)
            self._records = objects_of(image)
            self._listed = image.find(PATH) is not None
            self._next = self._following()
            for entry, inode in image.walk():
                # What an image says of itself lies behind all other data, and is not in the list.
                own = entry.path.startswith(FOLDER + b"/")
                if not own and entry.path not in (b"", FOLDER):
                    found.count(_KINDS[entry.kind])
                    if entry.kind == FILE:
                        found.count("bytes", entry.size)
                        self._progress(1)
                if entry.kind == FILE:
                    self._content(entry.path, inode, own)
            if self._next is not None:
                found.add("the list of objects names more than there are in the image")
            if made is not None:
                for what in ("files", "dirs", "symlinks", "bytes"):
                    said = sum(one.counts.get(what, 0) for one in statements)
                    if said != found.counts.get(what, 0):
                        found.add(f"{found.counts.get(what, 0)} {what}, the statements say {said}")
        except CorruptObject as exc:
            found.add(exc.message)
        return found

    def _following(self) -> Record | None:
        """The next content that has any blocks."""
        return next((record for record in self._records if record.length), None)

    def _content(self, path: bytes, inode: Inode, own: bool) -> None:
        if not stored_length(inode.words):
            return  # nothing but holes
        key = blake2b(U64.pack(inode.start) + U64.pack(inode.size) + inode.words, digest_size=16).digest()
        if self._seen.get(key) is not None:
            return
        self._seen.set(key, 0)
        total = Sum()
        proof = b""
        try:
            for position, word, size in self._image.blocks(inode):
                length = word & BLOCK_BYTES
                data = self._image.data.read(position, length)
                total.update(data)
                if word and not word & PLAIN_BLOCK:
                    proof = data if not proof and inode.size == size else b""
                    out = self._image.expand(data, size)
                else:
                    out = data
                if word and len(out) != size:
                    raise CorruptObject(f"a block of {len(out)} bytes where there must be {size}")
        except CorruptObject as exc:
            self._found.add(f"{show(path)}: {exc.message}")
            return
        if own or not self._listed:
            return
        self._found.count("contents")
        record = self._next
        if record is None or (record.start, record.size, record.words) != (inode.start, inode.size, inode.words):
            self._found.add(f"{show(path)}: its content is not where the list of objects says")
            self._records = iter(())
            self._next = None
            self._listed = False
            return
        self._next = self._following()
        if total.finish(record.key, record.size, record.words) != record.sum:
            self._found.add(f"{show(path)}: its content has another checksum")
        elif proof and self._proves(proof, record):
            self._found.count("proved")

    def _proves(self, stored: bytes, record: Record) -> bool:
        """Whether a block is the object that its key names."""
        for algorithm in sorted((SHA1, RMD160, SHAKE128), key=lambda one: one != self._algorithm):
            content = Content(digest_of(algorithm, stored), "z", record.size, (), None, None)
            if key_of(item_name(content)) == record.key:
                self._algorithm = algorithm
                return True
        return False
