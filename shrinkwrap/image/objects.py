"""The list of contents in an image, which a later build takes blocks from, and which they can be checked by.

``/.provenance/objects``: a header of 16 bytes, then for each distinct content, in the order of the image: its key (16
bytes), its checksum (8), its size (8), and the size words of its blocks (4 each). The first lies right behind the
superblock, each other one behind the one before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final

from shrinkwrap.errors import CorruptObject
from shrinkwrap.image.keys import KEY_BYTES
from shrinkwrap.image.records import SUM_BYTES, Record, stored_length
from shrinkwrap.image.squashfs.layout import SUPERBLOCK, U32

PATH: Final = b"/.provenance/objects"
HEADER: Final = b"shrinkwrap-obj1\n"
_ROW: Final = Struct(f"<{KEY_BYTES}s{SUM_BYTES}sQ")
_MOST_BLOCKS: Final = 1 << 27


def object_row(record: Record) -> bytes:
    return _ROW.pack(record.key, record.sum, record.size) + record.words


def parse_objects(pieces: Iterable[bytes], block_size: int, segment: int) -> Iterator[Record]:
    """The contents of an image, as records that lie in it.

    Args:
        pieces: of the list.
        segment: number of the image among the segments.

    Raises:
        CorruptObject: it is no such list.
    """
    rest, position, begun = b"", SUPERBLOCK, False
    for piece in pieces:
        rest += piece
        at = 0
        if not begun:
            if len(rest) < len(HEADER):
                continue
            if not rest.startswith(HEADER):
                raise CorruptObject("the list of objects in the image is of another kind")
            begun, at = True, len(HEADER)
        while at + _ROW.size <= len(rest):
            key, total, size = _ROW.unpack_from(rest, at)
            blocks = -(-size // block_size)
            if not 0 < blocks <= _MOST_BLOCKS:
                raise CorruptObject(f"the list of objects in the image names one of {size} bytes")
            after = at + _ROW.size + U32.size * blocks
            if after > len(rest):
                break
            words = rest[at + _ROW.size : after]
            length = stored_length(words)
            yield Record(key, segment, position, length, size, total, words)
            position += length
            at = after
        rest = rest[at:]
    if rest or not begun:
        raise CorruptObject("the list of objects in the image is cut short")
