"""Sorting objects into batches, by shard, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.engine.work import Item

#: A batch goes out when it has this many objects or bytes of content.
BATCH_ITEMS: Final = 512
BATCH_BYTES: Final = 32 * limits.MIB
#: Objects that wait in all shards together; beyond it the fullest shard goes out.
WAITING_ITEMS: Final = 16_384
#: Wishes for one item that are joined; with more its shard goes out. A payload grows with each of them.
JOINED_ITEMS: Final = 1_024


class Batcher:
    """Collects items by shard and hands out full batches.

    A shard is what ``name`` starts with, up to the first slash: the folder of the store. One worker at a time owns a
    shard, so that it can look for an object and make it without racing another. Items of one name are joined by
    ``join``.

    Args:
        emit: takes a batch.
        join: the payload of an item that is wanted twice.
    """

    def __init__(self, emit: Callable[[list[Item]], None], join: Callable[[Item, Item], Item]) -> None:
        self._emit = emit
        self._join = join
        self._shards: dict[str, dict[str, Item]] = {}
        self._bytes: dict[str, int] = {}
        self._joined: dict[str, int] = {}
        self._waiting = 0

    def add(self, item: Item) -> bool:
        """Take an item; False if it was joined to one that waits."""
        shard = item.name.partition("/")[0]
        items = self._shards.setdefault(shard, {})
        there = items.get(item.name)
        if there is not None:
            items[item.name] = self._join(there, item)
            joined = self._joined[item.name] = self._joined.get(item.name, 0) + 1
            if joined >= JOINED_ITEMS:
                self._flush(shard)
            return False
        items[item.name] = item
        size = self._bytes[shard] = self._bytes.get(shard, 0) + item.content.size
        self._waiting += 1
        if len(items) >= BATCH_ITEMS or size >= BATCH_BYTES:
            self._flush(shard)
        elif self._waiting >= WAITING_ITEMS:
            self._flush(max(self._shards, key=lambda name: len(self._shards[name])))
        return True

    def _flush(self, shard: str) -> None:
        items = self._shards.pop(shard)
        del self._bytes[shard]
        self._waiting -= len(items)
        for name in items.keys() & self._joined.keys():
            del self._joined[name]
        self._emit(list(items.values()))

    def finish(self) -> None:
        """Hand out what is left: small shards together, so that a small job is not cut into tiny batches."""
        batch: list[Item] = []
        size = 0
        for shard in sorted(self._shards):
            batch.extend(self._shards[shard].values())
            size += self._bytes[shard]
            if len(batch) >= BATCH_ITEMS or size >= BATCH_BYTES:
                self._emit(batch)
                batch, size = [], 0
        if batch:
            self._emit(batch)
        self._shards.clear()
        self._bytes.clear()
        self._joined.clear()
        self._waiting = 0
