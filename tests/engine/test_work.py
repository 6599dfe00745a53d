"""Batches of objects: fetched, verified, inflated, handed over; and what becomes of those that cannot be had."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.repository import CatalogBuilder, Publisher, Recording, flip
from support.sinks import FolderSink, OpenFolderSink, item_of, pickled, run_batch

from shrinkwrap.cvmfs.digest import RMD160, SHA1, SHAKE128, Digest, digest_of
from shrinkwrap.engine import work
from shrinkwrap.engine.work import Item, Result, Worker
from shrinkwrap.errors import CorruptObject, MissingObject, NetworkError, ShrinkwrapError
from shrinkwrap.fetch.source import open_source
from shrinkwrap.fetch.types import Outcome, Request


def items(publisher: Publisher, builder: CatalogBuilder) -> dict[bytes, Item]:
    """What an export wants of a catalog, by path."""
    with publisher.open() as opened:
        catalog = opened.catalogs.open(builder.ref())
        found = {}
        for path in sorted(builder.rows):
            entry = catalog.lookup(path)
            assert entry is not None
            if entry.is_file:
                found[path] = item_of(entry)
        opened.catalogs.release(catalog)
    return found


class Eager(Recording):
    """Has many requests in flight, and their answers come in another order."""

    def fetch(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        drawn = list(requests)
        random.Random(len(drawn)).shuffle(drawn)
        return super().fetch(drawn)


class Run:
    """A batch that was dealt with, and what it took."""

    def __init__(
        self,
        publisher: Publisher,
        sink: FolderSink,
        batch: Iterable[Item],
        *more: Publisher | Path,
        eager: bool = False,
    ) -> None:
        self.source = (Eager if eager else Recording)(open_source(publisher.config(*more)))
        self.sink = sink.open()
        self.progress = [0, 0, 0]
        worker = Worker(self.source, self.sink, self._note)
        try:
            self.result = worker.run(list(batch))
        finally:
            worker.close()
            assert self.sink.files == [], "files were left open"
        assert [path for path in sink.folder.iterdir() if path.name.startswith(".")] == []

    def _note(self, *numbers: int) -> None:
        self.progress = [one + two for one, two in zip(self.progress, numbers, strict=True)]

    @property
    def failures(self) -> dict[bytes, ShrinkwrapError]:
        return {failure.path: failure.error for failure in self.result.failures}


def in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything streams."""
    monkeypatch.setattr(work, "SMALL", -1)


def as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is large streams."""


Way = Callable[[pytest.MonkeyPatch], None]
BOTH = pytest.mark.parametrize("way", [as_it_is, in_small_pieces])
EAGER = pytest.mark.parametrize("eager", [False, True], ids=["one by one", "many in flight"])


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# -- what comes out ----------------------------------------------------------------------------------------------


@BOTH
@EAGER
@pytest.mark.parametrize("algorithm", [SHA1, RMD160, SHAKE128])
def test_files_of_every_kind_come_out_as_they_are(
    publisher: Publisher, sink: FolderSink, monkeypatch: pytest.MonkeyPatch, way: Way, eager: bool, algorithm: int
) -> None:
    way(monkeypatch)
    builder = publisher.catalog()
    expected: dict[bytes, bytes] = {}
    for compressed in (False, True):
        for external in (False, True):
            for size in (0, 1, 300_000):
                path = b"/%d-%d-%d" % (compressed, external, size)
                expected[path] = noise(size)
                builder.file(path, expected[path], compressed=compressed, external=external, algorithm=algorithm)
        pieces = [noise(size, size) for size in (70_000, 1, 4096)]
        path = b"/%d-chunked" % compressed
        expected[path] = b"".join(pieces)
        builder.file(path, pieces=pieces, compressed=compressed, algorithm=algorithm)
    pieces = [noise(size, size) for size in (5000, 6000)]
    expected[b"/external-chunked"] = b"".join(pieces)
    builder.file(*(b"/external-chunked",), pieces=pieces, compressed=False, external=True, algorithm=algorithm)
    batch = items(publisher, builder)
    run = Run(publisher, sink, batch.values(), eager=eager)
    assert run.failures == {}
    assert {path: sink.content(item) for path, item in batch.items()} == expected
    # Only the empty and the one-byte files stand for each other: those of one content and kind are one object.
    assert run.result.items == len(batch)
    assert run.result.fetched == len({item.group for item in batch.values()})
    assert run.progress == [len(batch), run.result.received, run.result.written]
    assert run.result.received > 0


def test_large_objects_stream_and_small_ones_do_not(publisher: Publisher, sink: FolderSink) -> None:
    builder = publisher.catalog()
    builder.file(b"/large", noise(work.SMALL + 1))
    builder.file(b"/small", noise(work.SMALL))
    builder.file(b"/bomb", bytes(3 * work.SMALL))
    batch = items(publisher, builder)
    Run(publisher, sink, batch.values())
    assert [sink.content(item) for item in batch.values()] == [
        bytes(3 * work.SMALL),
        noise(work.SMALL + 1),
        noise(work.SMALL),
    ]


@BOTH
def test_one_content_with_several_metadata_is_fetched_once(
    publisher: Publisher, sink: FolderSink, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    way(monkeypatch)
    builder = publisher.catalog()
    for number in range(5):
        builder.file(b"/%d" % number, b"the same", mtime=number)
    builder.file(b"/other", b"another")
    batch = items(publisher, builder)
    assert len({item.name for item in batch.values()}) == 6
    for eager, siblings in ((False, True), (True, False)):
        shutil.rmtree(sink.folder)
        sink.folder.mkdir()
        run = Run(publisher, replace(sink, siblings=siblings), batch.values(), eager=eager)
        assert len(run.source.requests) == run.result.fetched == 2
        assert run.progress == [6, run.result.received, len(b"the same") + len(b"another")]
        assert [sink.content(item) for item in batch.values()] == [b"the same"] * 5 + [b"another"]
        assert [step for step, _ in run.sink.calls].count("derive") == (4 if eager else 0)


def test_the_same_digest_under_another_interpretation_is_another_content(
    publisher: Publisher, sink: FolderSink
) -> None:
    stored = zlib.compress(b"inner")
    builder = publisher.catalog()
    builder.file(b"/inflated", b"inner")
    builder.file(b"/verbatim", stored, compressed=False)
    batch = items(publisher, builder)
    assert batch[b"/inflated"].content.digest == batch[b"/verbatim"].content.digest
    run = Run(publisher, sink, batch.values(), eager=True)
    assert run.result.fetched == 2
    assert [sink.content(batch[path]) for path in (b"/inflated", b"/verbatim")] == [b"inner", stored]


def test_what_the_sink_has_is_not_fetched(publisher: Publisher, sink: FolderSink) -> None:
    builder = publisher.catalog()
    builder.file(b"/a", b"one")
    builder.file(b"/b", b"two")
    batch = items(publisher, builder)
    Run(publisher, sink, [batch[b"/a"]])
    run = Run(publisher, sink, batch.values())
    assert run.result == Result(2, 1, run.result.received, 3, counters=run.result.counters)
    assert run.progress[0] == 2
    assert len(run.source.requests) == 1


def test_nothing_in_a_batch_is_nothing_to_do(publisher: Publisher, sink: FolderSink) -> None:
    run = Run(publisher, sink, [])
    assert (run.result.items, run.result.fetched, run.source.requests) == (0, 0, [])
    assert run.sink.calls == [("end_batch", b"")]
    assert run.sink.closed


class Late(Recording):
    """Answers a request only when it has so many in flight, or nothing more is drawn."""

    def fetch(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        flying: list[Request] = []
        for request in requests:
            flying.append(request)
            if len(flying) == 3:
                yield from super().fetch([flying.pop()])
        for request in flying:
            yield from super().fetch([request])


@BOTH
def test_the_next_batch_is_drawn_while_the_last_objects_of_one_are_on_their_way(
    publisher: Publisher, sink: FolderSink, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    way(monkeypatch)
    builder = publisher.catalog()
    for name in b"abcde":
        builder.file(b"/%c" % name, noise(1000, name))
    builder.file(b"/f", pieces=[noise(500, 1), noise(500, 2)])
    found = list(items(publisher, builder).values())
    drawn: list[int] = []

    def batches() -> Iterator[list[Item]]:
        for number, batch in enumerate((found[:2], [], found[2:4], found[4:])):
            drawn.append(number)
            yield batch

    opened = sink.open()
    worker = Worker(Late(open_source(publisher.config())), opened)
    results = [(result.items, result.fetched, len(drawn)) for result in worker.stream(batches())]
    worker.close()
    # What was drawn first waits longest: the first batch ends last, and the others after it.
    assert results == [(2, 2, 4), (0, 0, 4), (2, 2, 4), (2, 2, 4)]
    assert {item.path: sink.content(item) for item in found} == {
        **{b"/%c" % name: noise(1000, name) for name in b"abcde"},
        b"/f": noise(500, 1) + noise(500, 2),
    }


def test_an_error_of_the_sink_ends_all_batches_that_were_begun(publisher: Publisher, sink: FolderSink) -> None:
    builder = publisher.catalog()
    for name in b"abcd":
        builder.file(b"/%c" % name, noise(1000, name))
    found = list(items(publisher, builder).values())
    opened = replace(sink, fails="commit", path=b"/c").open()
    worker = Worker(Late(open_source(publisher.config())), opened)
    with pytest.raises(OSError, match="no space left"):
        list(worker.stream([found[:2], found[2:]]))
    worker.close()
    assert opened.files == []


def test_external_chunks_are_asked_for_by_their_spans(publisher: Publisher, sink: FolderSink) -> None:
    builder = publisher.catalog()
    builder.file(b"/d/f", pieces=[b"abc", b"de"], compressed=False, external=True)
    (item,) = items(publisher, builder).values()
    asked: list[tuple[Any, ...]] = []

    class Watching(Recording):
        def fetch(self, requests: Iterable[Request]) -> Iterator[Outcome]:
            drawn = list(requests)
            asked.extend((one.path, one.external, one.span, one.limit) for one in drawn)
            return super().fetch(drawn)

    Worker(Watching(open_source(publisher.config())), sink.open()).run([item])
    assert asked == [(b"/d/f", True, (0, 3), 3), (b"/d/f", True, (3, 2), 2)]


# -- what cannot be had ------------------------------------------------------------------------------------------


def several(publisher: Publisher) -> tuple[CatalogBuilder, dict[bytes, Digest]]:
    builder = publisher.catalog()
    digests = {}
    for number in range(6):
        path = b"/%d" % number
        digest = builder.file(path, noise(2000, number), compressed=number % 2 == 0)
        assert digest is not None
        digests[path] = digest
    return builder, digests


@BOTH
@EAGER
def test_broken_and_missing_objects_fail_alone(
    publisher: Publisher, sink: FolderSink, monkeypatch: pytest.MonkeyPatch, way: Way, eager: bool
) -> None:
    way(monkeypatch)
    builder, digests = several(publisher)
    publisher.storage.spoil(digests[b"/1"])
    publisher.storage.spoil(digests[b"/2"])
    publisher.storage.remove(digests[b"/3"])
    batch = items(publisher, builder)
    run = Run(publisher, sink, batch.values(), eager=eager)
    assert {path: type(error) for path, error in run.failures.items()} == {
        b"/1": CorruptObject,
        b"/2": CorruptObject,
        b"/3": MissingObject,
    }
    assert str(digests[b"/1"]) in run.failures[b"/1"].message
    assert (run.result.fetched, run.progress[0]) == (3, 3)
    assert sorted(path for path, item in batch.items() if sink.file(item).exists()) == [b"/0", b"/4", b"/5"]
    for number in (0, 4, 5):
        assert sink.content(batch[b"/%d" % number]) == noise(2000, number)


def test_a_failure_is_that_of_every_path_that_waits_for_the_content(publisher: Publisher, sink: FolderSink) -> None:
    builder = publisher.catalog()
    for path in (b"/a", b"/b", b"/c"):
        digest = builder.file(path, b"lost", mtime=path[1])
    assert digest is not None
    publisher.storage.remove(digest)
    for eager in (False, True):
        run = Run(publisher, sink, items(publisher, builder).values(), eager=eager)
        assert sorted(run.failures) == [b"/a", b"/b", b"/c"]
        assert run.progress[0] == run.result.fetched == 0


@BOTH
@EAGER
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_chunked_file_needs_all_its_chunks(
    publisher: Publisher, sink: FolderSink, monkeypatch: pytest.MonkeyPatch, way: Way, eager: bool, lost: int
) -> None:
    way(monkeypatch)
    builder = publisher.catalog()
    builder.file(b"/c", pieces=[b"one", b"three", b"four"])
    builder.file(b"/f", b"content")
    publisher.storage.remove(Digest(SHA1, builder.chunk_rows[lost][3]), "P")
    batch = items(publisher, builder)
    run = Run(publisher, sink, batch.values(), eager=eager)
    assert {path: type(error) for path, error in run.failures.items()} == {b"/c": MissingObject}
    assert run.sink.calls.count(("discard", b"/c")) == 1
    assert not sink.file(batch[b"/c"]).exists()
    assert sink.content(batch[b"/f"]) == b"content"


@BOTH
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("off", [-1, 1, -1000, 1000])
def test_an_object_of_another_size_than_its_catalog_says_is_corrupt(
    publisher: Publisher,
    sink: FolderSink,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
    compressed: bool,
    chunked: bool,
    off: int,
) -> None:
    way(monkeypatch)
    builder = publisher.catalog()
    pieces = [noise(2000, 1), noise(2000, 2)] if chunked else []
    builder.file(b"/f", noise(2000), pieces=pieces, compressed=compressed)
    builder.change(b"/f", size=(4000 if chunked else 2000) + off)
    if chunked:
        path, offset, size, raw = builder.chunk_rows[1]
        builder.chunk_rows[1] = (path, offset, size + off, raw)
    (item,) = items(publisher, builder).values()
    run = Run(publisher, sink, [item])
    assert {path: type(error) for path, error in run.failures.items()} == {b"/f": CorruptObject}
    assert not sink.file(item).exists()


@BOTH
def test_an_object_that_inflates_without_end_is_corrupt(
    publisher: Publisher, sink: FolderSink, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    way(monkeypatch)
    builder = publisher.catalog()
    builder.file(b"/bomb", bytes(60 << 20))
    builder.change(b"/bomb", size=1000)
    run = Run(publisher, sink, items(publisher, builder).values())
    assert "1000 bytes" in run.failures[b"/bomb"].message


@BOTH
@pytest.mark.parametrize("stored", [b"", b"not zlib", zlib.compress(b"12345") + b"x", zlib.compress(b"12345")[:-1]])
def test_an_object_that_is_no_single_zlib_stream_is_corrupt_though_its_digest_is_right(
    publisher: Publisher, sink: FolderSink, monkeypatch: pytest.MonkeyPatch, way: Way, stored: bytes
) -> None:
    way(monkeypatch)
    builder = publisher.catalog()
    builder.file(b"/f", b"12345")
    builder.change(b"/f", hash=publisher.storage.put_stored(stored).raw)
    run = Run(publisher, sink, items(publisher, builder).values())
    assert {path: type(error) for path, error in run.failures.items()} == {b"/f": CorruptObject}


def test_the_algorithm_of_the_flags_decides_which_digest_is_checked(publisher: Publisher, sink: FolderSink) -> None:
    builder = publisher.catalog()
    builder.file(b"/f", b"content", algorithm=RMD160)
    # The object lies there under the name of its SHA-1 digest, but the flags speak of RIPEMD-160.
    publisher.storage.put(b"content")
    builder.change(b"/f", hash=digest_of(SHA1, zlib.compress(b"content")).raw)
    assert list(Run(publisher, sink, items(publisher, builder).values()).failures) == [b"/f"]


def test_an_external_file_without_a_server_fails_alone(publisher: Publisher, sink: FolderSink) -> None:
    builder = publisher.catalog()
    builder.file(b"/x", b"outside", external=True)
    builder.file(b"/f", b"inside")
    shutil.rmtree(publisher.external)
    run = Run(publisher, sink, items(publisher, builder).values())
    assert {path: type(error) for path, error in run.failures.items()} == {b"/x": NetworkError}


@BOTH
@pytest.mark.parametrize("compressed", [False, True])
def test_a_second_attempt_begins_anew(
    publisher: Publisher,
    sink: FolderSink,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Way,
    compressed: bool,
) -> None:
    way(monkeypatch)
    builder = publisher.catalog()
    digest = builder.file(b"/f", noise(700_000), compressed=compressed)
    builder.file(b"/c", pieces=[noise(400_000, 2), noise(1000, 3)], compressed=compressed)
    shutil.copytree(publisher.folder, tmp_path / "mirror")
    assert digest is not None
    flip(publisher.storage.path(digest))
    flip(publisher.storage.path(Digest(SHA1, builder.chunk_rows[0][3]), "P"))
    batch = items(publisher, builder)
    run = Run(publisher, sink, batch.values(), tmp_path / "mirror")
    assert run.failures == {}
    assert sink.content(batch[b"/f"]) == noise(700_000)
    assert sink.content(batch[b"/c"]) == noise(400_000, 2) + noise(1000, 3)


class Stumbling(Recording):
    """Each first attempt breaks off after some bytes that were right."""

    def fetch(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        def tried() -> Iterator[Request]:
            for request in requests:
                request.body.start()
                request.body.write(zlib.compress(noise(3000, 5))[:500])
                yield request

        return super().fetch(tried())


@BOTH
def test_what_came_before_a_transfer_broke_off_is_forgotten(
    publisher: Publisher, sink: FolderSink, monkeypatch: pytest.MonkeyPatch, way: Way
) -> None:
    way(monkeypatch)
    builder = publisher.catalog()
    builder.file(b"/f", noise(3000, 5))
    builder.file(b"/c", pieces=[noise(3000, 5), noise(3000, 5)])
    batch = items(publisher, builder)
    worker = Worker(Stumbling(open_source(publisher.config())), sink.open())
    assert worker.run(list(batch.values())).failures == []
    worker.close()
    assert sink.content(batch[b"/f"]) == noise(3000, 5)
    assert sink.content(batch[b"/c"]) == noise(3000, 5) * 2


# -- errors of the sink ------------------------------------------------------------------------------------------


@BOTH
@EAGER
@pytest.mark.parametrize("step", ["resolve", "begin", "write_at", "commit"])
def test_an_error_of_the_sink_ends_the_batch_and_leaves_no_file_open(
    publisher: Publisher, sink: FolderSink, monkeypatch: pytest.MonkeyPatch, way: Way, eager: bool, step: str
) -> None:
    way(monkeypatch)
    builder, _ = several(publisher)
    builder.file(b"/3c", pieces=[b"one", b"two", b"three"])
    opened: list[OpenFolderSink] = []
    full = replace(sink, fails=step, path=b"/3")

    class Watched(FolderSink):
        def open(self) -> OpenFolderSink:
            opened.append(full.open())
            return opened[0]

    with pytest.raises(OSError, match="no space left"):
        Run(publisher, Watched(sink.folder), items(publisher, builder).values(), eager=eager)
    assert opened[0].files == []
    assert opened[0].closed
    assert ("end_batch", b"") not in opened[0].calls


def test_an_error_while_making_one_object_from_another_ends_the_batch(publisher: Publisher, sink: FolderSink) -> None:
    builder = publisher.catalog()
    builder.file(b"/a", b"same", mtime=1)
    builder.file(b"/b", b"same", mtime=2)
    full = replace(sink, fails="derive", path=b"/b", siblings=False)
    with pytest.raises(OSError, match="no space left"):
        Run(publisher, full, items(publisher, builder).values(), eager=True)


def test_a_worker_takes_one_batch_after_the_other(publisher: Publisher, sink: FolderSink) -> None:
    builder, _ = several(publisher)
    batch = list(items(publisher, builder).values())
    worker = Worker(open_source(publisher.config()), sink.open())
    assert [worker.run([item]).fetched for item in batch] == [1] * 6
    assert [worker.run([item]).fetched for item in batch] == [0] * 6
    worker.close()


# -- other processes ---------------------------------------------------------------------------------------------


def test_a_batch_and_its_result_survive_the_way_to_another_process(publisher: Publisher, sink: FolderSink) -> None:
    builder, digests = several(publisher)
    builder.file(b"/c", pieces=[b"one", b"two"], algorithm=SHAKE128)
    publisher.storage.remove(digests[b"/0"])
    batch = list(items(publisher, builder).values())
    assert pickled(batch) == batch
    assert pickled(sink) == sink
    result = run_batch(publisher.config(), sink, batch)
    again = pickled(result)
    assert isinstance(again, Result)
    assert (again.items, again.fetched, again.received, again.written) == (
        *(result.items, result.fetched, result.received, result.written),
    )
    (failure,) = again.failures
    assert failure.path == b"/0"
    assert (type(failure.error), failure.error.message) == (MissingObject, result.failures[0].error.message)


def test_batches_run_in_a_pool_of_processes(publisher: Publisher, sink: FolderSink) -> None:
    builder, digests = several(publisher)
    builder.file(b"/c", pieces=[noise(3000, 7), noise(3000, 8)])
    publisher.storage.spoil(digests[b"/5"])
    batch = items(publisher, builder)
    halves = [list(batch.values())[:3], list(batch.values())[3:]]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = [
            future.result() for future in [pool.submit(run_batch, publisher.config(), sink, half) for half in halves]
        ]
    assert [result.items for result in results] == [3, 4]
    assert [failure.path for result in results for failure in result.failures] == [b"/5"]
    assert all(result.counters["process"] != os.getpid() for result in results)
    for number in range(5):
        assert sink.content(batch[b"/%d" % number]) == noise(2000, number)
    assert sink.content(batch[b"/c"]) == noise(3000, 7) + noise(3000, 8)
