"""Contents and stored files, each counted once, in flat memory whatever their number.

Each file is one record of fixed width in a file without a name. Records of one content meet in one of 256 buckets,
which are looked at one after the other.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shrinkwrap.errors import DestinationError
from shrinkwrap.snapshot.view import Node

_BUCKETS: Final = 256
#: Digest, algorithm and interpretation, size, objects that it is stored in, hash of metadata that a hard link shares.
_RECORD: Final = struct.Struct("<20sBQIq")
_WIDTH: Final = _RECORD.size
_CONTENT: Final = _WIDTH - 8
#: Records of a bucket that are held back before they are written: 4 MiB for all of them.
_HELD: Final = 400
_BLOCK: Final = _HELD * _WIDTH
#: Codes of :func:`~shrinkwrap.snapshot.view.content_of` as a number; odd ones are compressed.
_KINDS: Final = {"n": 0, "z": 1, "cn": 2, "cz": 3, "xn": 4, "xz": 5, "xcn": 6, "xcz": 7}
_PACKED: Final = 1


@dataclass(frozen=True, slots=True)
class Stored:
    """What files come to when each content, and each stored file, is counted once.

    Attributes:
        contents: that differ; ``content_bytes`` in them, as files.
        packed_bytes: the part of these that servers hold compressed.
        objects: that they are stored in on servers: one each, or their chunks.
        inodes: files that a store needs: contents with each metadata that they are shown with; ``inode_bytes`` in them.
        blocks: bytes that these take on a disk that gives whole blocks.
    """

    contents: int = 0
    content_bytes: int = 0
    packed_bytes: int = 0
    objects: int = 0
    inodes: int = 0
    inode_bytes: int = 0
    blocks: int = 0


class Distinct:
    """Collects files; to be closed.

    Args:
        share_mtime: files that differ in their mtime only share an inode.
        folder: for the records; None: that for temporary files.

    Raises (all methods):
        DestinationError: the records cannot be kept.
    """

    def __init__(self, *, share_mtime: bool = False, folder: str | None = None) -> None:
        self._share_mtime = share_mtime
        # Nobody who makes a repository can foresee which metadata have the same hash.
        self._key = os.urandom(16)
        self._where = folder or tempfile.gettempdir()
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        except OSError as exc:
            raise self._failed(exc) from None
        self._held = [bytearray() for _ in range(_BUCKETS)]
        self._blocks: list[list[int]] = [[] for _ in range(_BUCKETS)]
        self._end = 0

    def close(self) -> None:
        self._file.close()

    def add(self, node: Node) -> None:
        """One more path that shows a file."""
        content = node.content
        assert content is not None
        algorithm, raw = content.digest
        meta = hash((self._key, node.mode, node.uid, node.gid, 0 if self._share_mtime else node.mtime_ns, node.xattrs))
        record = _RECORD.pack(raw, algorithm << 3 | _KINDS[content.kind], content.size, len(content.chunks) or 1, meta)
        # Not a byte of the digest: a repository could choose those, and put all of its files into one bucket.
        bucket = hash(raw) % _BUCKETS
        held = self._held[bucket]
        held += record
        if len(held) >= _BLOCK:
            self._write(bucket, held)

    def _write(self, bucket: int, held: bytearray) -> None:
        try:
            self._file.seek(self._end)
            self._file.write(held)
        except OSError as exc:
            raise self._failed(exc) from None
        self._blocks[bucket].append(self._end)
        self._end += len(held)
        held.clear()

    def sum(self, block: int = 4096) -> Stored:
        """All that was collected.

        Args:
            block: bytes of a block of the disk, for :attr:`Stored.blocks`.
        """
        contents = content_bytes = packed = objects = inodes = inode_bytes = blocks = 0
        for bucket in range(_BUCKETS):
            stored: set[bytes] = set()
            for data in self._read(bucket):
                stored.update(data[at : at + _WIDTH] for at in range(0, len(data), _WIDTH))
            seen: set[bytes] = set()
            for record in stored:
                _, interpretation, size, number, _ = _RECORD.unpack(record)
                inodes += 1
                inode_bytes += size
                blocks += -(-size // block) * block
                content = record[:_CONTENT]
                if content not in seen:
                    seen.add(content)
                    contents += 1
                    content_bytes += size
                    objects += number
                    if interpretation & _PACKED:
                        packed += size
        return Stored(contents, content_bytes, packed, objects, inodes, inode_bytes, blocks)

    def _read(self, bucket: int) -> Iterator[bytes]:
        for start in self._blocks[bucket]:
            try:
                self._file.seek(start)
                data = self._file.read(_BLOCK)
            except OSError as exc:
                raise self._failed(exc) from None
            yield data
        yield bytes(self._held[bucket])

    def _failed(self, exc: OSError) -> DestinationError:
        return DestinationError(
            f"{self._where}: notes of what was counted cannot be kept there: {exc.strerror or exc}",
            hint="free space in the folder for temporary files, or name another one with TMPDIR",
        )
