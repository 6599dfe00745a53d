"""Whole exports with several processes: the same tree as with one, and nothing left of them however a run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cvmfs import signing
from support.cli import Result, run_cli
from support.exporting import leftovers, stored_files
from support.filesystems import Filesystem
from support.golden import CHECKOUT
from support.listing import Record, list_tree
from support.processes import Process, dying_with_parent, living, wait_until_gone
from support.repository import FQRN, Publisher

import shrinkwrap
from shrinkwrap import Hooks, Repository, Spec, errors
from shrinkwrap.cvmfs.digest import Digest
from shrinkwrap.engine import dispatch
from shrinkwrap.engine.pool import Processes
from shrinkwrap.tree.base import Base

#: More than one process deals with.
MANY = dispatch.LOCAL_ITEMS + 200
PATIENCE = 60
ALL = Spec.from_text("/*\n")


class Made:
    """A repository of many small files, and of one of each other kind."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.publisher = Publisher(folder / "storage")
        self.key = folder / "test.pub"
        self.key.write_bytes(signing.master().pem)
        self.spec = folder / "all.spec"
        self.spec.write_text("/*\n")
        builder = self.publisher.catalog()
        self.digests: dict[bytes, Digest] = {}
        for number in range(MANY):
            path = b"/d%d/%d" % (number % 40, number)
            # Some contents are at several paths, with the same metadata and with others.
            content = b"%d" % (number - number % 5 if number % 100 < 10 else number)
            digest = builder.file(path, content * 50, mtime=number % 3, mode=0o100644 + (number % 2) * 0o111)
            assert digest is not None
            self.digests[path] = digest
        builder.file(b"/big/chunked", pieces=[os.urandom(300_000), os.urandom(200_000)])
        builder.file(b"/big/large", os.urandom(1_500_000))
        builder.file(b"/big/empty", b"")
        builder.file(b"/big/verbatim", b"as it is", compressed=False)
        builder.link(b"/link", b"big/large")
        self.publisher.publish(builder)
        # Whenever the tests run.
        self.publisher.write_whitelist(expires="20991231000000")

    def args(self, base: Path, *more: object, source: str = "") -> list[str]:
        whence = ["--server", source] if source else ["--storage", str(self.publisher.folder)]
        words = ["export", "-r", FQRN, *whence, "--key", self.key, "-t", self.spec, "-z", base, "--json", *more]
        return [str(word) for word in words]

    def export(self, base: Path, workers: int, **options: Any) -> shrinkwrap.ExportResult:
        notices = options.pop("notices", [])
        with Repository(FQRN, storage=self.publisher.folder, keys=[self.key], **options) as repository:
            return shrinkwrap.export(repository, ALL, base, workers=workers, hooks=Hooks(notice=notices.append))

    @contextmanager
    def without(self, path: bytes, content: bytes | None = None) -> Iterator[None]:
        """One object is missing, or another one."""
        file = self.publisher.storage.path(self.digests[path])
        whole = file.read_bytes()
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        try:
            yield
        finally:
            file.write_bytes(whole)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("parallel") / "made")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts."""
    monkeypatch.setattr(Base, "sync", lambda self: None)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder for exports: in memory if that can be had, because each of them syncs its file system."""
    if os.getuid() != 0:
        return tmp_path
    disk: Filesystem = request.getfixturevalue("tmpfs")
    return disk.folder(tmp_path.name)


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[Processes]:
    """The pools that exports start."""
    started: list[Processes] = []
    init = Processes.__init__

    def noted(self: Processes, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        started.append(self)

    monkeypatch.setattr(Processes, "__init__", noted)
    return started


def listing(base: Path) -> list[Record]:
    """A tree without what differs between two places, with the hard link groups by their first paths."""
    records = list_tree(base / FQRN)
    first: dict[tuple[int, int] | None, bytes] = {}
    found = []
    for one in records:
        group = first.setdefault(one.inode, one.path) if one.type == "file" else None
        found.append(replace(one, inode=None, group=group, size=0 if one.type == "dir" else one.size))
    return found


@pytest.fixture(scope="module")
def right(made: Made, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The tree as one process makes it."""
    base = tmp_path_factory.mktemp("right")
    made.export(base, 1)
    return listing(base)


def check(base: Path, right: list[Record]) -> None:
    assert listing(base) == right
    assert leftovers(base) == []


# -- the same ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [2, 4])
def test_the_tree_is_the_same_with_any_number_of_workers(
    workers: int, made: Made, right: list[Record], pools: list[Processes], place: Path
) -> None:
    one = made.export(place / "one", 1)
    assert pools == []
    more = made.export(place / "more", workers)
    assert len(pools[0].pids) == workers
    check(place / "more", right)
    assert set(stored_files(place / "one")) == set(stored_files(place / "more"))
    # How often an object was asked for depends on what else was in its batch; what was brought does not.
    for what in ("files", "dirs", "symlinks", "bytes", "fetched", "added", "placed"):
        assert more.counts.get(what) == one.counts.get(what), what
    assert more.bytes == one.bytes
    assert more.warnings() == one.warnings()
    assert made.export(place / "more", workers).reason == "unchanged"
    assert len(pools) == 1


def test_on_the_command_line_the_tree_is_the_same_with_any_number_of_workers(
    made: Made, right: list[Record], place: Path
) -> None:
    for workers in ("1", "2"):
        base = place / workers
        result = run_cli(*made.args(base, "--workers", workers)).ok()
        assert result.json["reason"] == "exported"
        assert result.err == ""
        check(base, right)


def test_what_the_configuration_has_to_say_is_said_once(made: Made, pools: list[Processes], place: Path) -> None:
    notices: list[str] = []
    with serving(made) as server:
        result = made_from(server, made, place / "base", notices, transfers=100)
    assert len(pools) == 1
    assert result.reason == "exported"
    assert [line for line in notices if "transfers" in line] == notices[:1]
    assert len(set(notices)) == len(notices)


def test_servers_see_no_more_transfers_than_they_were_promised(
    made: Made, right: list[Record], pools: list[Processes], place: Path
) -> None:
    with serving(made) as server:
        made_from(server, made, place / "base", [], workers=3, transfers=4)
        assert server.most <= 4
        assert len(pools[0].pids) == 3
    check(place / "base", right)


# -- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "kind"), [(None, errors.MissingObject), (b"broken", errors.CorruptObject)], ids=["missing", "broken"]
)
def test_an_object_that_cannot_be_had_is_told_alike_and_the_next_run_brings_it_alone(
    content: bytes | None,
    kind: type[errors.ShrinkwrapError],
    made: Made,
    right: list[Record],
    pools: list[Processes],
    place: Path,
) -> None:
    said = []
    for workers in (1, 2):
        base = place / str(workers)
        with made.without(b"/d11/11", content), pytest.raises(kind, match="could not be had") as caught:
            made.export(base, workers)
        said.append((str(caught.value), caught.value.hint))
        assert made.export(base, workers).counts["fetched"] == 1
        check(base, right)
    assert said[0] == said[1]
    assert len(pools) == 2


@pytest.mark.root
def test_a_full_disk_in_a_worker_is_told_and_the_next_run_finishes(
    made: Made, right: list[Record], make_filesystem: Callable[..., Filesystem]
) -> None:
    disk = make_filesystem("tmpfs", size=32 << 20)
    base = disk.folder("base")
    for leave in (500_000, 3_000_000):
        filler = disk.fill(leave)
        result = run_cli(*made.args(base, "--workers", "2")).ends_with(8)
        assert "No space left on device" in result.json["error"]
        assert len(result.err.splitlines()) == 2
        filler.unlink()
        assert not (base / ".provenance" / FQRN / "record.json").exists()
    run_cli(*made.args(base, "--workers", "2")).ok()
    check(base, right)


class Serving(ThreadingHTTPServer):
    """Serves a repository, and after some objects no more of them until the gate is opened."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, made: Made, few: int | None) -> None:
        self.few = few
        self.asked = 0
        self.now = 0
        self.most = 0
        self.gate = threading.Event()
        self.lock = threading.Lock()
        folder = str(made.publisher.folder)

        class Handler(SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            server: Serving

            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=folder)

            def log_message(self, *args: Any) -> None:
                """Nobody reads it."""

            def do_GET(self) -> None:
                with self.server.lock:
                    self.server.now += 1
                    self.server.most = max(self.server.most, self.server.now)
                    if "/data/" in self.path and self.path[-1] not in "CHX":
                        self.server.asked += 1
                    wait = self.server.few is not None and self.server.asked > self.server.few
                if wait:
                    self.server.gate.wait(PATIENCE)
                try:
                    super().do_GET()
                except OSError:
                    self.close_connection = True  # whoever asked is gone
                finally:
                    with self.server.lock:
                        self.server.now -= 1

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(made: Made, few: int | None = None) -> Iterator[Serving]:
    server = Serving(made, few)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


def made_from(
    server: Serving, made: Made, base: Path, notices: list[str], *, workers: int = 2, **options: Any
) -> shrinkwrap.ExportResult:
    with Repository(FQRN, servers=[server.url], keys=[made.key], notice=notices.append, **options) as repository:
        notices.clear()
        return shrinkwrap.export(repository, ALL, base, workers=workers, hooks=Hooks(notice=notices.append))


class Running:
    """An export on the command line that is at its objects, and gets no more of them."""

    def __init__(self, made: Made, server: Serving, base: Path) -> None:
        self.made = made
        self.server = server
        self.base = base
        self.process = subprocess.Popen(
            [*dying_with_parent(), sys.executable, "-m", "shrinkwrap", *self.args()],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        end = time.monotonic() + PATIENCE
        assert server.few is not None
        while server.asked <= server.few + 2 or len(self.workers) < 2:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)

    def args(self) -> list[str]:
        return self.made.args(self.base, "--workers", "2", source=self.server.url)

    @property
    def workers(self) -> list[Process]:
        return living(lambda one: one.parent == self.process.pid and "engine.child" in one.command)

    def end(self) -> Result:
        """How it ends, with nothing left of it."""
        out, err = self.process.communicate(timeout=PATIENCE)
        left = wait_until_gone(lambda one: self.process.pid in (one.session, one.group))
        assert left == []
        return Result(self.process.returncode, out, err)

    def again(self) -> Any:
        """The next run."""
        self.server.gate.set()
        return run_cli(*self.args()).ok().json


#: Objects that come before the others have to wait.
FEW = 300


@pytest.fixture
def running(made: Made, place: Path) -> Iterator[Running]:
    with serving(made, FEW) as server:
        run = Running(made, server, place / "base")
        try:
            yield run
        finally:
            run.process.kill()
            run.process.wait()
            for pipe in (run.process.stdout, run.process.stderr):
                assert pipe is not None
                pipe.close()


@pytest.mark.parametrize(("whom", "number"), [("all", signal.SIGINT), ("all", signal.SIGTERM), ("one", signal.SIGINT)])
def test_a_parallel_export_is_stopped_by_ctrl_c(
    whom: str, number: signal.Signals, running: Running, right: list[Record]
) -> None:
    if whom == "all":
        os.killpg(running.process.pid, number)
    else:
        running.process.send_signal(number)
    result = running.end().ends_with(10)
    assert result.json["reason"] == "interrupted"
    assert len(result.err.splitlines()) == 2
    assert not (running.base / ".provenance" / FQRN / "record.json").exists()
    had = len(stored_files(running.base))
    assert had > 0
    assert running.again()["reason"] == "exported"
    check(running.base, right)


def test_a_worker_that_is_killed_ends_the_export_and_the_next_one_finishes_it(
    running: Running, right: list[Record]
) -> None:
    os.kill(running.workers[0].pid, signal.SIGKILL)
    result = running.end().ends_with(10)
    assert result.json["reason"] == "worker"
    assert "signal 9" in result.json["error"]
    assert len(result.err.splitlines()) == 2
    assert running.again()["reason"] == "exported"
    check(running.base, right)


def test_an_export_that_is_killed_leaves_no_worker_and_the_next_one_finishes_it(
    running: Running, right: list[Record]
) -> None:
    running.process.kill()
    result = running.end()
    assert (result.code, result.err) == (-signal.SIGKILL, "")
    # The lock is free, and what was brought is used.
    assert running.again()["reason"] == "exported"
    check(running.base, right)
