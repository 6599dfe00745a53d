"""The contents that a build has brought, for formats that want them inflated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from shrinkwrap.errors import CorruptObject
from shrinkwrap.image.entries import ImageEntry
from shrinkwrap.image.records import Records
from shrinkwrap.image.squashfs.blocks import expander
from shrinkwrap.image.squashfs.layout import BLOCK_BYTES, PLAIN_BLOCK, U32
from shrinkwrap.image.squashfs.recipe import Recipe


class Stock:
    """Contents by the keys of entries: an implementation of :class:`~shrinkwrap.image.entries.Contents`.

    Args:
        records: of a build, all objects brought.
        segment: gives the descriptor of a segment.
        recipe: that the blocks were made by.
    """

    def __init__(self, records: Records, segment: Callable[[int], int], recipe: Recipe) -> None:
        self._records = records
        self._segment = segment
        self._block_size = recipe.block_size
        self._expand = expander(recipe.number)

    def pieces(self, entry: ImageEntry) -> Iterator[bytes]:
        """See :class:`~shrinkwrap.image.entries.Contents`. Raises CorruptObject, OSError."""
        if not entry.key:
            return
        record = self._records.record(self._records.number(entry.key))
        fd, at, left = self._segment(record.segment), record.start, record.size
        for (word,) in U32.iter_unpack(record.words):
            size = min(left, self._block_size)
            left -= size
            length = word & BLOCK_BYTES
            data = os.pread(fd, length, at) if word else bytes(size)
            at += length
            if word and not word & PLAIN_BLOCK:
                data = self._expand(data, size)
            if len(data) != size:
                raise CorruptObject(f"a block of content {entry.key.hex()} has {len(data)} bytes, expected {size}")
            yield data
