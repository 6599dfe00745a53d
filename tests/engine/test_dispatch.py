"""Batches given to this process and to others: each once, no folder twice at a time, and nothing said twice."""

from __future__ import annotations

import errno
import os
import pickle
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.repository import Publisher
from support.sinks import FolderSink, item_of

from shrinkwrap.cvmfs.digest import RMD160, SHA1, SHAKE128, Digest
from shrinkwrap.cvmfs.entry import Chunk
from shrinkwrap.engine import dispatch as module
from shrinkwrap.engine.batches import Batcher, folder_of
from shrinkwrap.engine.dispatch import Answer, Dispatcher, Job, pack, unpack, work, workers_for
from shrinkwrap.engine.pool import Processes
from shrinkwrap.engine.work import Failure, Item, Result, Worker
from shrinkwrap.errors import CorruptObject, MissingObject, ShrinkwrapError, WorkerDied
from shrinkwrap.fetch.source import MAX_TRANSFERS_PER_HOST, SourceConfig, open_source
from shrinkwrap.fetch.types import FetchStats
from shrinkwrap.snapshot.view import Content
from shrinkwrap.tree.place import Meta
from shrinkwrap.tree.sink import Target, TreeSink, Wanted

# -- a batch as bytes ----------------------------------------------------------------------------------------------

sizes = st.integers(0, 2**63 - 1)
bytes_names = st.binary(min_size=1, max_size=255)
raws = st.binary(min_size=20, max_size=20)
digests = st.builds(Digest, st.sampled_from([SHA1, RMD160, SHAKE128]), raws)
contents = st.builds(
    Content,
    digests,
    st.sampled_from(["z", "n", "cz", "cn", "xz", "xn", "xcn"]),
    sizes,
    st.lists(st.builds(Chunk, sizes, sizes, raws), max_size=5).map(tuple),
    st.none() | bytes_names,
    st.none() | digests,
)
metas = st.builds(
    Meta,
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**63) * 10**9, 2**63 * 10**9),
    st.lists(st.tuples(bytes_names, st.binary(max_size=300)), max_size=3).map(tuple),
)
targets = st.lists(st.builds(Target, st.binary(max_size=300), bytes_names), max_size=20).map(tuple)
numbers = st.lists(st.integers(0, 2**63 - 1), max_size=20).map(tuple)
item_names = st.builds(
    lambda raw, rest: f"{raw.hex()[:2]}/{raw.hex()[2:]}{rest}", raws, st.text("0123456789abcdefznrsxc.~")
)
items = st.builds(Item, item_names, contents, bytes_names, st.builds(Wanted, metas, targets, numbers))
TREE = TreeSink("/nowhere", b".data/tmp/run", "/nowhere", b"tmp/run", "hardlink", own=False, reflinks=False)


@given(st.lists(items, max_size=8))
@settings(deadline=None)
def test_a_batch_survives_the_way_to_another_process(batch: list[Item]) -> None:
    found = unpack(TREE, pack(TREE, batch))
    assert found == batch
    for one in found:
        assert [type(part) for part in (one, one.content, one.content.digest, one.payload, one.payload.meta)] == [
            *(Item, Content, Digest, Wanted, Meta),
        ]
        assert {type(chunk) for chunk in one.content.chunks} <= {Chunk}
        assert {type(target) for target in one.payload.targets} <= {Target}


def test_very_many_paths_of_one_object_survive_it_too() -> None:
    content = Content(Digest(SHA1, bytes(20)), "z", 0, (), None)
    wanted = Wanted(Meta(0o644, 0, 0, 0, ()), tuple(Target(b"d%d" % one, b"\xff%d" % one) for one in range(50_000)))
    batch = [Item("00/x", content, b"/x", wanted)]
    assert unpack(TREE, pack(TREE, batch)) == batch


def test_a_job_can_be_pickled_and_transfers_are_shared_among_workers() -> None:
    job = Job(SourceConfig("demo.example.org", transfers=16), TREE)
    assert pickle.loads(pickle.dumps(job)) == job
    for transfers in range(1, 100):
        for workers in range(1, 70):
            job = Job(SourceConfig("demo.example.org", transfers=transfers), TREE)
            each = job.shared_by(workers).source.transfers
            assert each >= 1
            assert job.transfers == min(transfers, MAX_TRANSFERS_PER_HOST)
            if workers <= job.transfers:
                # A server sees no more of them than it was promised, and hardly less.
                assert job.transfers - workers < each * workers <= job.transfers


# -- who does what -------------------------------------------------------------------------------------------------


def thing(number: int, size: int = 1) -> Item:
    raw = random.Random(number).randbytes(20)
    content = Content(Digest(SHA1, raw), "z", size, (), None)
    return Item(f"{raw.hex()[:2]}/{raw.hex()[2:]}", content, b"/%d" % number, None)


@dataclass(frozen=True)
class NoSink:
    """Takes nothing."""

    def open(self) -> Any:
        raise AssertionError("not here")

    def pack(self, payload: Any, /) -> Any:
        return payload

    def unpack(self, packed: Any, /) -> Any:
        return packed


class Local:
    """The worker of this process."""

    def __init__(self) -> None:
        self.batches: list[list[Item]] = []

    def run(self, batch: list[Item]) -> Result:
        self.batches.append(batch)
        return Result(items=len(batch), fetched=len(batch))


class Slow(Executor):
    """Answers some time later, in any order; notes what is out at the same time."""

    def __init__(self, seed: int = 0, error: Exception | None = None) -> None:
        self.out: dict[Future[Any], list[Item]] = {}
        self.most = 0
        self.batches: list[list[Item]] = []
        self.twice: list[set[int]] = []
        self.shut: list[bool] = []
        self._random = random.Random(seed)
        self._error = error
        self._lock = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        assert fn is work
        job, packed = args
        batch = unpack(pickle.loads(job).sink, packed)
        future: Future[Any] = Future()
        with self._lock:
            folders = {folder_of(one.name) for one in batch}
            both = folders & {folder_of(one.name) for other in self.out.values() for one in other}
            if both:
                self.twice.append(both)
            self.out[future] = batch
            self.batches.append(batch)
            self.most = max(self.most, len(self.out))
            self._lock.notify()
        return future

    def _answer(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self.out or self._ended)
                if self._ended:
                    return
            time.sleep(self._random.choice([0, 0, 0.001]))
            with self._lock:
                future = self._random.choice(list(self.out))
                batch = self.out.pop(future)
            if self._error is not None and len(self.batches) > 3:
                future.set_exception(self._error)
            else:
                future.set_result(answer_to(batch))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.shut.append(cancel_futures)
        with self._lock:
            self._ended = True
            self._lock.notify()
        self._thread.join()


def answer_to(batch: list[Item]) -> Answer:
    failures = [Failure(one.path, MissingObject("lost")) for one in batch if one.path.endswith(b"7")]
    result = Result(len(batch), len(batch) - len(failures), 10 * len(batch), len(batch), failures)
    result.counters["derived"] = 1
    stats = FetchStats(len(batch), 10 * len(batch), 1, 0, {"http://one.example.org": len(batch)})
    return Answer(result, stats, ["http://two.example.org does not answer", f"batch of {len(batch)}"])


@dataclass
class Told:
    """All that a dispatcher says."""

    results: list[Result] = field(default_factory=list)
    progress: list[int] = field(default_factory=lambda: [0, 0, 0])
    notices: list[str] = field(default_factory=list)
    stats: FetchStats = field(default_factory=FetchStats)
    started: list[int] = field(default_factory=list)

    def count(self, *numbers: int) -> None:
        self.progress = [one + two for one, two in zip(self.progress, numbers, strict=True)]

    def dispatcher(
        self, local: Any, job: Job, workers: int, pool: Callable[[], Executor], *, large: bool = False
    ) -> Dispatcher:
        def start(number: int) -> Executor:
            self.started.append(number)
            return pool()

        return Dispatcher(
            *(local, job, workers, start, self.results.append),
            progress=self.count,
            notice=self.notices.append,
            stats=self.stats,
            large=large,
        )


JOB = Job(SourceConfig("demo.example.org"), NoSink())


def pour(dispatcher: Dispatcher, things: list[Item]) -> None:
    batcher = Batcher(dispatcher.give, lambda one, two: one, dispatcher.idle)
    try:
        for one in things:
            batcher.add(one)
        batcher.finish()
        dispatcher.finish()
    finally:
        dispatcher.close()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_small_jobs_start_no_process(workers: int) -> None:
    told, local = Told(), Local()
    dispatcher = told.dispatcher(local, JOB, workers, Slow)
    pour(dispatcher, [thing(number) for number in range(900)])
    assert told.started == []
    assert sum(map(len, local.batches)) == sum(result.items for result in told.results) == 900


def test_with_one_worker_nothing_is_large_enough_for_another_process() -> None:
    told, local = Told(), Local()
    pour(told.dispatcher(local, JOB, 1, Slow, large=True), [thing(number, 1 << 20) for number in range(5000)])
    assert told.started == []
    assert sum(map(len, local.batches)) == 5000


@pytest.mark.parametrize(
    ("number", "size", "large"),
    [
        pytest.param(5000, 1, False, id="many objects"),
        pytest.param(300, 1 << 20, False, id="many bytes"),
        pytest.param(10, 1, True, id="much to come"),
    ],
)
def test_large_jobs_do_once(number: int, size: int, large: bool) -> None:
    told, local = Told(), Local()
    slow = Slow()
    dispatcher = told.dispatcher(local, JOB, 3, lambda: slow, large=large)
    pour(dispatcher, [thing(one, size) for one in range(number)])
    assert told.started == [3]
    assert bool(local.batches) == (not large)
    assert sum(len(batch) for batch in (*local.batches, *slow.batches)) == number
    assert slow.shut == [False]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("workers", [2, 8])
def test_no_folder_is_out_twice_and_all_results_arrive(
    workers: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = random.Random(seed)
    monkeypatch.setattr("shrinkwrap.engine.batches.BATCH_ITEMS", chosen.choice([1, 2, 5]))
    monkeypatch.setattr("shrinkwrap.engine.batches.WAITING", chosen.choice([10, 100]))
    told = Told()
    slow = Slow(seed)
    dispatcher = told.dispatcher(Local(), JOB, workers, lambda: slow, large=True)
    pour(dispatcher, [thing(number) for number in range(600)])
    assert slow.twice == []
    assert slow.most <= 2 * workers + 1
    assert slow.most > workers
    assert sorted(one.path for batch in slow.batches for one in batch) == sorted(b"/%d" % one for one in range(600))
    assert sum(result.items for result in told.results) == 600
    assert sum(result.counters["derived"] for result in told.results) == len(slow.batches)
    assert sum(len(result.failures) for result in told.results) == 60
    # What could not be had is not done.
    assert told.progress == [540, 6000, 600]


def test_what_workers_have_to_say_is_said_once_and_their_statistics_add_up() -> None:
    told = Told()
    slow = Slow()
    pour(told.dispatcher(Local(), JOB, 2, lambda: slow, large=True), [thing(number) for number in range(3000)])
    assert told.notices.count("http://two.example.org does not answer") == 1
    assert len(told.notices) == len(set(told.notices))
    batches = len(slow.batches)
    assert told.stats == FetchStats(3000, 30_000, batches, 0, {"http://one.example.org": 3000})


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), WorkerDied("killed")])
def test_what_a_worker_raises_ends_the_run_and_its_processes(error: Exception) -> None:
    told = Told()
    slow = Slow(error=error)
    dispatcher = told.dispatcher(Local(), JOB, 2, lambda: slow, large=True)
    with pytest.raises(type(error)) as caught:
        pour(dispatcher, [thing(number) for number in range(20_000)])
    assert caught.value is error
    assert slow.shut in ([True], [False])
    dispatcher.close()
    assert len(slow.shut) == 1


def test_no_more_processes_are_started_than_there_are_transfers() -> None:
    for transfers, workers, expected in ((16, 4, [4]), (3, 8, [3]), (1, 8, []), (100, 64, [32])):
        told = Told()
        job = Job(SourceConfig("demo.example.org", transfers=transfers), NoSink())
        pour(told.dispatcher(Local(), job, workers, Slow, large=True), [thing(1)])
        assert told.started == expected


def test_where_no_process_can_be_started_this_one_does_all_and_says_so() -> None:
    def refused() -> Executor:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    told, local = Told(), Local()
    pour(told.dispatcher(local, JOB, 2, refused, large=True), [thing(number) for number in range(3000)])
    assert sum(map(len, local.batches)) == 3000
    assert len(told.started) == len(told.notices) == 1
    assert "Resource temporarily unavailable" in told.notices[0]


def test_there_are_as_many_workers_as_wished_or_one_for_each_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [workers_for(wish) for wish in (1, 2, 64)] == [1, 2, 64]
    for cpus, expected in ((1, 1), (2, 2), (5, 5), (200, 8)):
        monkeypatch.setattr(module, "usable_cpus", lambda cpus=cpus: cpus)
        assert workers_for(0) == expected


# -- with real processes -------------------------------------------------------------------------------------------


@dataclass
class Stocked:
    """A repository of many objects, and what a sink wants of it."""

    publisher: Publisher
    things: list[Item]
    digests: dict[bytes, Digest]


@pytest.fixture
def stocked(publisher: Publisher) -> Stocked:
    builder = publisher.catalog()
    digests = {}
    for number in range(240):
        path = b"/%d" % number
        digest = builder.file(path, b"%d" % number * 100)
        assert digest is not None
        digests[path] = digest
    builder.file(b"/chunked", pieces=[b"one" * 1000, b"two" * 1000])
    found = []
    with publisher.open() as opened:
        catalog = opened.catalogs.open(builder.ref())
        for path in sorted(builder.rows):
            entry = catalog.lookup(path)
            assert entry is not None
            if entry.is_file:
                found.append(item_of(entry))
        opened.catalogs.release(catalog)
    return Stocked(publisher, found, digests)


class Together:
    """A run of a dispatcher over a folder."""

    def __init__(self, stocked: Stocked, sink: FolderSink, workers: int, *, large: bool = True) -> None:
        self.told = Told()
        self.pools: list[Processes] = []
        config = stocked.publisher.config()
        self.local = Worker(open_source(config), sink.open(), self.told.count)
        self.dispatcher = self.told.dispatcher(self.local, Job(config, sink), workers, self._start, large=large)
        self.things = stocked.things

    def _start(self) -> Processes:
        self.pools.append(Processes(self.told.started[-1]))
        return self.pools[-1]

    def run(self) -> Told:
        try:
            pour(self.dispatcher, self.things)
        finally:
            self.local.close()
        return self.told

    @property
    def errors(self) -> dict[bytes, ShrinkwrapError]:
        return {failure.path: failure.error for result in self.told.results for failure in result.failures}


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "stocked" in request.fixturenames:
        monkeypatch.setattr("shrinkwrap.engine.batches.BATCH_ITEMS", 4)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_as_many_workers_as_you_like_bring_the_same(stocked: Stocked, sink: FolderSink) -> None:
    found = []
    for workers in (1, 2, 4):
        shutil.rmtree(sink.folder)
        sink.folder.mkdir()
        run = Together(stocked, sink, workers)
        told = run.run()
        assert run.errors == {}
        assert told.progress[0] == len(stocked.things)
        assert sum(result.fetched for result in told.results) == len(stocked.things)
        # One request for each object, the chunked one has two; wherever it was made, it is counted once.
        everything = FetchStats()
        everything.add(told.stats)
        everything.add(run.local.source.stats)
        assert everything.requests == len(stocked.things) + 1
        assert everything.received == sum(result.received for result in told.results)
        assert (told.stats.requests > 0) == (workers > 1)
        makers = {result.counters["process"] for result in told.results}
        assert makers == ({os.getpid()} if workers == 1 else makers - {os.getpid()})
        assert len(makers) <= workers
        found.append(contents(sink.folder))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == len(stocked.things)


def test_this_process_begins_and_others_go_on(
    stocked: Stocked, sink: FolderSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCAL_ITEMS", 20)
    run = Together(stocked, sink, 2, large=False)
    told = run.run()
    makers = [result.counters["process"] for result in told.results]
    assert makers[:5] == [os.getpid()] * 5
    assert os.getpid() not in makers[6:]
    assert len(contents(sink.folder)) == len(stocked.things)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_had_is_told_alike_wherever_it_was_tried(
    workers: int, stocked: Stocked, sink: FolderSink
) -> None:
    stocked.publisher.storage.spoil(stocked.digests[b"/11"])
    stocked.publisher.storage.remove(stocked.digests[b"/12"])
    run = Together(stocked, sink, workers)
    run.run()
    assert {path: type(error) for path, error in run.errors.items()} == {b"/11": CorruptObject, b"/12": MissingObject}
    local = Worker(open_source(stocked.publisher.config()), sink.open())
    for one in stocked.things:
        if one.path in run.errors:
            (failure,) = local.run([one]).failures
            assert failure.error.message == run.errors[one.path].message
            assert failure.error.hint == run.errors[one.path].hint
    local.close()
    assert len(contents(sink.folder)) == len(stocked.things) - 2


@pytest.mark.parametrize("step", ["resolve", "put", "begin", "commit"])
def test_a_full_disk_in_a_worker_is_an_error_of_the_system_and_ends_all(
    step: str, stocked: Stocked, sink: FolderSink
) -> None:
    if step == "put":
        step = "write_at"
    run = Together(stocked, replace(sink, fails=step, path=b"/100"), 2)
    with pytest.raises(OSError, match="no space left") as caught:
        run.run()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, os.fspath(sink.folder))
    assert not any(Path(f"/proc/{pid}").exists() for pool in run.pools for pid in pool.pids)
    again = Together(stocked, sink, 2)
    again.run()
    assert len([name for name in contents(sink.folder) if not name.startswith(".")]) == len(stocked.things)


def test_a_killed_worker_ends_the_run(stocked: Stocked, sink: FolderSink) -> None:
    run = Together(stocked, sink, 2)
    killed: list[int] = []

    def start() -> Processes:
        pool = Processes(2)
        run.pools.append(pool)
        killed.append(pool.pids[0])
        os.kill(pool.pids[0], signal.SIGKILL)
        return pool

    run.dispatcher._start = lambda number: start()
    with pytest.raises(WorkerDied, match="signal 9"):
        run.run()
    assert not any(Path(f"/proc/{pid}").exists() for pid in run.pools[0].pids)
    Together(stocked, sink, 2).run()
    assert len([name for name in contents(sink.folder) if not name.startswith(".")]) == len(stocked.things)


def test_the_same_calls_run_under_any_executor(stocked: Stocked, sink: FolderSink) -> None:
    run = Together(stocked, sink, 2)
    run.dispatcher._start = lambda number: ThreadPoolExecutor(1)
    run.run()
    assert len(contents(sink.folder)) == len(stocked.things)


def test_a_worker_repeats_neither_what_its_configuration_has_to_say_nor_its_statistics(
    stocked: Stocked, sink: FolderSink
) -> None:
    config = replace(stocked.publisher.config(), transfers=100)
    job = pickle.dumps(Job(config, sink))
    one, two = (work(job, pack(sink, [thing])) for thing in stocked.things[:2])
    assert (one.notices, two.notices) == ([], [])
    assert (one.stats.requests, two.stats.requests) == (1, 1)
    # Another job in the same process is opened anew, and the first one closed.
    other = pickle.dumps(Job(config, replace(sink, siblings=False)))
    assert work(other, pack(sink, stocked.things[:3])).result.fetched == 1
    assert list(module._opened) == [other]
    module._opened.pop(other).worker.close()
