"""Sorting objects into batches, by lane, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.engine.work import Item

#: A batch goes out when it has this many objects or bytes of content.
BATCH_ITEMS: Final = 512
BATCH_BYTES: Final = 32 * limits.MIB
#: Wishes that wait in all lanes together, for objects or for one more path of an object that waits: memory grows with
#: each of them. Beyond it the fullest lane goes out.
WAITING: Final = 32_768
#: Wishes for one item that are joined; with more its lane goes out. To join one more, all of them are copied.
JOINED_ITEMS: Final = 1_024
#: Eight folders of the store to a lane: batches stay large enough to keep many transfers in flight, and there are lanes
#: enough for many workers.
_FOLDERS: Final = 8
LANES: Final = 256 // _FOLDERS


def lane_of(name: str) -> int:
    """The lane of an object: one worker at a time owns it, so that it can look for an object and make it unraced."""
    return int(name[:2], 16) // _FOLDERS


class Batcher:
    """Collects items by lane and hands out full batches.

    Items of one name are joined by ``join``. Within a batch items lie in the order of their folders.

    Args:
        emit: takes a batch and its lanes.
        join: the payload of an item that is wanted twice.
    """

    def __init__(self, emit: Callable[[list[Item], frozenset[int]], None], join: Callable[[Item, Item], Item]) -> None:
        self._emit = emit
        self._join = join
        self._lanes: dict[int, dict[str, Item]] = {}
        self._bytes: dict[int, int] = {}
        self._joined: dict[str, int] = {}
        self._wishes = [0] * LANES
        self._waiting = 0

    def add(self, item: Item) -> bool:
        """Take an item; False if it was joined to one that waits."""
        name = item.name
        lane = int(name[:2], 16) // _FOLDERS
        items = self._lanes.get(lane)
        if items is None:
            items = self._lanes[lane] = {}
            self._bytes[lane] = 0
        self._wishes[lane] += 1
        self._waiting += 1
        there = items.get(name)
        if there is not None:
            items[name] = self._join(there, item)
            full = self._joined[name] = self._joined.get(name, 0) + 1
            if full >= JOINED_ITEMS:
                self._flush(lane)
        else:
            items[name] = item
            size = self._bytes[lane] = self._bytes[lane] + item.content.size
            if len(items) >= BATCH_ITEMS or size >= BATCH_BYTES:
                self._flush(lane)
        if self._waiting >= WAITING:
            self._flush(max(self._lanes, key=self._wishes.__getitem__))
        return there is None

    def _flush(self, lane: int) -> None:
        items = self._lanes.pop(lane)
        del self._bytes[lane]
        self._waiting -= self._wishes[lane]
        self._wishes[lane] = 0
        for name in items.keys() & self._joined.keys():
            del self._joined[name]
        self._emit([items[name] for name in sorted(items)], frozenset((lane,)))

    def finish(self) -> None:
        """Hand out what is left: small lanes together, so that a small job is not cut into tiny batches."""
        batch: list[Item] = []
        lanes: list[int] = []
        size = 0
        for lane in sorted(self._lanes):
            items = self._lanes[lane]
            batch.extend(items[name] for name in sorted(items))
            lanes.append(lane)
            size += self._bytes[lane]
            if len(batch) >= BATCH_ITEMS or size >= BATCH_BYTES:
                self._emit(batch, frozenset(lanes))
                batch, lanes, size = [], [], 0
        if batch:
            self._emit(batch, frozenset(lanes))
        self._lanes.clear()
        self._bytes.clear()
        self._joined.clear()
        self._wishes = [0] * LANES
        self._waiting = 0
