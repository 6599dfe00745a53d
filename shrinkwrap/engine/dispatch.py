"""Handing batches to workers: to this process while there is little to do, then to a pool of processes.

What a job is can be pickled, and each process opens it once: the same call runs under any executor of the interface of
:class:`concurrent.futures.Executor`.
"""

from __future__ import annotations

import marshal
import pickle
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter
from typing import Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.digest import Digest
from shrinkwrap.cvmfs.entry import Chunk
from shrinkwrap.engine.cpus import usable_cpus
from shrinkwrap.engine.pool import AHEAD
from shrinkwrap.engine.work import Item, Result, Sink, Worker
from shrinkwrap.fetch.source import MAX_TRANSFERS_PER_HOST, SourceConfig, open_source
from shrinkwrap.fetch.types import FetchStats
from shrinkwrap.snapshot.view import Content

#: More would wait for the disk, and for this process.
_MOST_WORKERS: Final = 8
#: Objects and bytes of content that this process deals with before it starts others: starting them costs as much.
LOCAL_ITEMS: Final = 1_000
LOCAL_BYTES: Final = 32 * limits.MIB


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs to begin: where bytes come from, and what takes them."""

    source: SourceConfig
    sink: Sink

    @property
    def transfers(self) -> int:
        """In flight at a time, in all processes together."""
        return min(self.source.transfers, MAX_TRANSFERS_PER_HOST)

    def shared_by(self, workers: int) -> Job:
        """The same with its part of the transfers in flight."""
        most = min(max(self.source.most_transfers, self.transfers), MAX_TRANSFERS_PER_HOST)
        share = replace(
            self.source, transfers=max(1, self.transfers // workers), most_transfers=max(1, most // workers)
        )
        return replace(self, source=share)


@dataclass(slots=True)
class Answer:
    """What became of a batch in another process, with what its source has to say."""

    result: Result
    stats: FetchStats
    notices: list[str] = field(default_factory=list)


class _Opened:
    """A job in a process that works on it."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.notices: list[str] = []
        self.source = open_source(job.source, self.notices.append)
        # What there is to say of the configuration was said where the run began.
        self.notices.clear()
        self.worker = Worker(self.source, job.sink.open())


_opened: dict[bytes, _Opened] = {}


class Work:
    """Deals with a packed batch of a pickled job, which is opened when it is met first.

    A function that can be pickled. A process that has the next call already hands both to :meth:`stream`
    (:mod:`shrinkwrap.engine.child`).
    """

    def __reduce__(self) -> str:
        return "work"

    def __call__(self, job: bytes, batch: bytes) -> Answer:
        return next(self.stream([(job, batch)]))

    def stream(self, calls: Iterable[tuple[bytes, bytes]]) -> Iterator[Answer]:
        """An answer for each call, in order; calls are drawn while those before are being dealt with."""
        for job, those in groupby(calls, key=itemgetter(0)):
            opened = _open(job)
            for result in opened.worker.stream(unpack(opened.job.sink, batch) for _, batch in those):
                notices = opened.notices.copy()
                opened.notices.clear()
                yield Answer(result, opened.source.stats.take(), notices)


#: What is sent to other processes.
work: Final = Work()


def _open(job: bytes) -> _Opened:
    opened = _opened.get(job)
    if opened is None:
        for other in _opened.values():
            other.worker.close()
        _opened.clear()
        opened = _opened[job] = _Opened(pickle.loads(job))  # noqa: S301 - from the process that began the run
    return opened


def workers_for(wish: int) -> int:
    """How many processes to use: as many as wished, or one for each CPU that this process may use (0)."""
    return wish or min(usable_cpus(), _MOST_WORKERS)


def pack(sink: Sink, batch: list[Item]) -> bytes:
    """A batch as bytes. Twenty times faster than pickling the named tuples."""
    rows = []
    for name, content, path, payload in batch:
        digest, kind, size, chunks, external, bulk = content
        pieces = [tuple(chunk) for chunk in chunks]
        whole = None if bulk is None else tuple(bulk)
        rows.append((name, tuple(digest), kind, size, pieces, external, whole, path, sink.pack(payload)))
    return marshal.dumps(rows)


def unpack(sink: Sink, data: bytes) -> list[Item]:
    """The inverse of :func:`pack`."""
    return [
        Item(
            name,
            Content(
                Digest(*digest),
                kind,
                size,
                tuple(Chunk(*chunk) for chunk in chunks),
                external,
                None if bulk is None else Digest(*bulk),
            ),
            path,
            sink.unpack(payload),
        )
        for name, digest, kind, size, chunks, external, bulk, path, payload in marshal.loads(data)  # noqa: S302 - ours
    ]


class Dispatcher:
    """Gives batches out, at most one of a folder at a time, and collects what became of them.

    Args:
        local: the worker in this process.
        job: the same for others.
        workers: how many of them; 1: this process alone.
        start: makes the pool when there is enough to do.
        report: told of each result.
        progress: told of objects done, bytes received and written by other processes.
        notice, stats: of the sources in other processes.
        large: a lot is expected, so that the pool is started at once.
    """

    def __init__(
        self,
        local: Worker,
        job: Job,
        workers: int,
        start: Callable[[int], Executor],
        report: Callable[[Result], None],
        *,
        progress: Callable[[int, int, int], None],
        notice: Callable[[str], None],
        stats: FetchStats,
        large: bool = False,
    ) -> None:
        # Each has one transfer in flight at least, and servers take no more than they were promised.
        workers = max(1, min(workers, job.transfers))
        self._local = local
        self._sink = job.sink
        self._job = pickle.dumps(job.shared_by(workers))
        self._workers = workers
        self._start = start
        self._report = report
        self._progress = progress
        self._notice = notice
        self._stats = stats
        self._pool: Executor | None = None
        self._small = LOCAL_ITEMS
        self._light = LOCAL_BYTES
        if large:
            self._small = 0
        self._out: dict[Future[Answer], frozenset[int]] = {}
        self._told: set[str] = set()

    def idle(self) -> Collection[int] | None:
        """The folders that are being worked on, if somebody has nothing to do, or nothing to go on with; else None."""
        if self._pool is None and (self._workers == 1 or self._small > 0):
            return None
        self._collect(block=False)
        if len(self._out) >= AHEAD * self._workers:
            return None
        return frozenset().union(*self._out.values())

    def give(self, batch: list[Item], folders: frozenset[int]) -> None:
        """Have a batch dealt with; waits while there is enough to do. Raises what a worker raised."""
        if self._pool is None and self._workers > 1 and (self._small <= 0 or self._light <= 0):
            self._open()
        if self._pool is None:
            self._small -= len(batch)
            self._light -= sum(item.content.size for item in batch)
            self._report(self._local.run(batch))
            return
        # Packed while the others work: this process is the one that everybody waits for.
        packed = pack(self._sink, batch)
        self._collect(block=False)
        while len(self._out) > AHEAD * self._workers or any(folders & taken for taken in self._out.values()):
            self._collect(block=True)
        self._out[self._pool.submit(work, self._job, packed)] = folders

    def _open(self) -> None:
        try:
            self._pool = self._start(self._workers)
        except OSError as exc:
            self._notice(f"no worker process could be started ({exc.strerror or exc}): this one does all the work")
            self._workers = 1

    def finish(self) -> None:
        """Wait for all batches."""
        while self._out:
            self._collect(block=True)

    def close(self) -> None:
        """End the processes, whatever they are at. Idempotent."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=bool(self._out))
            self._pool = None
        self._out.clear()

    def _collect(self, *, block: bool) -> None:
        if not self._out:
            return
        done, _ = wait(self._out, None if block else 0, FIRST_COMPLETED)
        for future in done:
            del self._out[future]
            answer = future.result()
            self._stats.add(answer.stats)
            for line in answer.notices:
                # Every process finds out about a broken host for itself.
                if line not in self._told:
                    self._told.add(line)
                    self._notice(line)
            result = answer.result
            self._progress(result.items - len(result.failures), result.received, result.written)
            self._report(result)
