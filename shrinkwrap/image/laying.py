"""Laying the data of an image out: blocks in the order in which the stream first needs them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from shrinkwrap.image.entries import ImageEntry
from shrinkwrap.image.output import copy_range
from shrinkwrap.image.records import Record, Records
from shrinkwrap.image.squashfs.writer import Placed

_NOTHING: Final = Placed(0, b"", 0)


class Laying:
    """Copies blocks from segments into an image; objects that lie one after the other in one go.

    Args:
        records: what is known of the objects.
        segment: gives the descriptor of a segment.
        out: descriptor of the image.
        position: where the data begins in it.
        block_size: of the image.

    Attributes:
        position: where the next block goes.
        objects: laid out so far.
    """

    def __init__(
        self, records: Records, segment: Callable[[int], int], out: int, position: int, block_size: int
    ) -> None:
        self._records = records
        self._segment = segment
        self._out = out
        self._block_size = block_size
        self.position = position
        self.objects = 0
        # What is to be copied next: segment, start, bytes.
        self._run = (0, 0, 0)

    def lay(self, key: bytes) -> Record | None:
        """Put the blocks of a content into the image, if they are not there yet; its record if so. Raises OSError."""
        records = self._records
        number = records.number(key)
        if records.position(number):
            return None
        record = records.record(number)
        segment, start, length = self._run
        if record.segment == segment and record.start == start + length:
            self._run = (segment, start, length + record.length)
        else:
            self.flush()
            self._run = (record.segment, record.start, record.length)
        records.place(number, self.position)
        self.position += record.length
        self.objects += 1
        return record

    def flush(self) -> None:
        """Copy what has not been copied. Raises OSError."""
        segment, start, length = self._run
        if length:
            name = os.fsencode(f"segment {segment:08x}")
            copy_range(self._segment(segment), start, length, self._out, self.position - length, name=name)
        self._run = (0, 0, 0)

    def placed(self, entry: ImageEntry) -> Placed:
        """See :class:`~shrinkwrap.image.squashfs.writer.Places`."""
        if not entry.key:
            return _NOTHING
        number = self._records.number(entry.key)
        record = self._records.record(number)
        return Placed(self._records.position(number), record.words, record.sparse(self._block_size))
