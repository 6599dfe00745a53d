"""Pieces go out in batches to all cores, results come back in any order.

Small sources are not worth a second process: the first batch waits to see whether there will be another one.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from shrinkwrap.cvmfs import limits
from shrinkwrap.errors import ShrinkwrapError
from shrinkwrap.publish.objects import Piece, Stored, StoreSettings, store_batch

_BATCH_PIECES: Final = 512
_BATCH_BYTES: Final = 4 * limits.MIB
#: Batches for each worker: one that it has, one that waits.
_AHEAD: Final = 2
#: A piece counts as this many bytes more than it has: opening and renaming take time, too.
_OVERHEAD: Final = 4 * limits.KIB


class Workers:
    """A pool of processes that store pieces.

    Args:
        settings: how objects are made.
        count: of processes; 1: everything in this one.
        done: told of each result, in this thread.
    """

    def __init__(self, settings: StoreSettings, count: int, done: Callable[[list[Stored]], None]) -> None:
        self._settings = settings
        self._count = count
        self._done = done
        self._batch: list[Piece] = []
        self._weight = 0
        self._held: list[Piece] | None = None
        self._executor: ProcessPoolExecutor | None = None
        self._out: set[Future[list[Stored]]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def add(self, piece: Piece) -> None:
        """Hand out a piece; waits while all are busy. Raises what :func:`store_batch` does."""
        self._batch.append(piece)
        self._weight += piece.size + _OVERHEAD
        if self._weight >= _BATCH_BYTES or len(self._batch) >= _BATCH_PIECES:
            self._flush()

    def finish(self) -> None:
        """Wait for all. Raises what :func:`store_batch` does."""
        if self._executor is None:
            for batch in (self._held, self._batch):
                if batch:
                    self._done(store_batch(self._settings, batch))
        else:
            self._flush()
            self._collect(0)
        self._held, self._batch, self._weight = None, [], 0

    def _flush(self) -> None:
        batch, self._batch, self._weight = self._batch, [], 0
        if not batch:
            return
        if self._count <= 1:
            self._done(store_batch(self._settings, batch))
        elif self._executor is None and self._held is None:
            self._held = batch
        else:
            held, self._held = self._held, None
            for one in (held, batch):
                if one:
                    self._submit(one)

    def _submit(self, batch: list[Piece]) -> None:
        if self._executor is None:
            # Not forked: this process may have threads, and SQLite connections that must not be shared.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self._count, context, initializer=_start_worker)
        try:
            with _without_main():
                self._out.add(self._executor.submit(store_batch, self._settings, batch))
        except BrokenProcessPool:
            raise _broken() from None
        self._collect(_AHEAD * self._count)

    def _collect(self, most: int) -> None:
        """Take results until no more than ``most`` batches are out."""
        while self._out:
            ready, self._out = wait(
                self._out, return_when=FIRST_COMPLETED, timeout=None if len(self._out) > most else 0
            )
            for future in ready:
                try:
                    self._done(future.result())
                except BrokenProcessPool:
                    raise _broken() from None
            if len(self._out) <= most:
                return


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes that are started meanwhile do not run the caller's script again.

    That is what spawned processes do to find the classes of ``__main__``; none of them is needed here, and not every
    script is written with ``if __name__ == "__main__"``.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _broken() -> ShrinkwrapError:
    return ShrinkwrapError(
        "a worker process has died, or could not be started", hint="see to memory and limits, or use fewer workers"
    )


def _start_worker() -> None:
    """Ctrl-C is for the parent; and nobody outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
