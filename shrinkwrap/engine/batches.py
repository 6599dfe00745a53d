"""Sorting objects into batches, by lane, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.engine.work import Item

#: A batch goes out when it has this many objects or bytes of content.
BATCH_ITEMS: Final = 512
BATCH_BYTES: Final = 32 * limits.MIB
#: Objects that are worth a batch while somebody has nothing to do.
SMALL_BATCH: Final = 128
#: Wishes that wait in all lanes together, for objects or for one more path of an object that waits: memory grows with
#: each of them. Beyond it the fullest lane goes out.
WAITING: Final = 32_768
#: Wishes for one item that are joined; with more its lane goes out. To join one more, all of them are copied.
JOINED_ITEMS: Final = 1_024
#: Eight folders of the store to a lane: batches stay large enough to keep many transfers in flight, and there are lanes
#: enough for many workers.
_FOLDERS: Final = 8
LANES: Final = 256 // _FOLDERS
#: At the end so many batches are made of what is left, so that nobody waits long for the last of them.
_LAST: Final = 12

Emit = Callable[[list[Item], frozenset[int]], None]


def folder_of(name: str) -> int:
    """The folder of an object: one worker at a time owns it, so that it can look for an object and make it unraced."""
    return int(name[:2], 16)


def _nobody() -> None:
    return None


class Batcher:
    """Collects items by lane and hands out batches.

    Items of one name are joined by ``join``. Within a batch items lie in the order of their folders.

    Args:
        emit: takes a batch and its folders.
        join: the payload of an item that is wanted twice.
        idle: asked now and then: the folders that are being worked on, if there is somebody who has nothing to do; else
            None. Then lanes that are not full go out, together.
    """

    def __init__(
        self,
        emit: Emit,
        join: Callable[[Item, Item], Item],
        idle: Callable[[], Collection[int] | None] = _nobody,
    ) -> None:
        self._emit = emit
        self._join = join
        self._idle = idle
        self._lanes: dict[int, dict[str, Item]] = {}
        self._bytes: dict[int, int] = {}
        self._joined: dict[str, int] = {}
        self._wishes = [0] * LANES
        self._waiting = 0
        #: Objects that come before somebody is asked whether there is enough to do.
        self._ask = SMALL_BATCH

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
                self._flush((lane,))
        else:
            items[name] = item
            size = self._bytes[lane] = self._bytes[lane] + item.content.size
            if len(items) >= BATCH_ITEMS or size >= BATCH_BYTES:
                self._flush((lane,))
            else:
                self._ask -= 1
                if not self._ask:
                    self._feed()
        if self._waiting >= WAITING:
            self._flush((max(self._lanes, key=self._wishes.__getitem__),))
        return there is None

    def _feed(self) -> None:
        """If somebody has nothing to do, and there is enough that nobody else is at, hand it out."""
        self._ask = SMALL_BATCH // 2
        taken = self._idle()
        if taken is None:
            return
        busy = {folder // _FOLDERS for folder in taken}
        free = sorted((lane for lane in self._lanes if lane not in busy), key=lambda lane: -len(self._lanes[lane]))
        lanes: list[int] = []
        objects = size = 0
        for lane in free:
            lanes.append(lane)
            objects += len(self._lanes[lane])
            size += self._bytes[lane]
            if objects >= SMALL_BATCH or size >= BATCH_BYTES:
                self._flush(lanes)
                return

    def _flush(self, lanes: Iterable[int]) -> None:
        batch: list[Item] = []
        for lane in sorted(lanes):
            items = self._lanes.pop(lane)
            del self._bytes[lane]
            self._waiting -= self._wishes[lane]
            self._wishes[lane] = 0
            for name in items.keys() & self._joined.keys():
                del self._joined[name]
            batch.extend(items[name] for name in sorted(items))
        self._emit(batch, frozenset(folder_of(item.name) for item in batch))

    def finish(self) -> None:
        """Hand out what is left: small lanes together, so that a small job is not cut into tiny batches.

        Here a batch is any number of folders, and all are of about the same size.
        """
        left = sum(map(len, self._lanes.values()))
        most = min(BATCH_ITEMS, max(SMALL_BATCH, left // _LAST))
        batch: list[Item] = []
        size = 0
        folder = ""
        for lane in sorted(self._lanes):
            items = self._lanes[lane]
            for name in sorted(items):
                if name[:2] != folder and (len(batch) >= most or size >= BATCH_BYTES):
                    self._emit(batch, frozenset(folder_of(item.name) for item in batch))
                    batch, size = [], 0
                folder = name[:2]
                batch.append(items[name])
                size += items[name].content.size
        if batch:
            self._emit(batch, frozenset(folder_of(item.name) for item in batch))
        self._lanes.clear()
        self._bytes.clear()
        self._joined.clear()
        self._wishes = [0] * LANES
        self._waiting = 0
