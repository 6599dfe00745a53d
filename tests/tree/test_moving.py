"""Revisions that are collected as garbage while they are exported: the export goes on with the head of that time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cvmfs import signing
from support.exporting import leftovers
from support.repository import Published, Publisher

from shrinkwrap.errors import CorruptObject, MissingObject, TrustError
from shrinkwrap.fetch.source import SourceConfig
from shrinkwrap.record.runlog import read_runs
from shrinkwrap.snapshot.repository import Pin
from shrinkwrap.spec.grammar import parse
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.beneath import DIRECTORY
from shrinkwrap.tree.export import export
from shrinkwrap.tree.moving import MOST
from shrinkwrap.tree.request import ExportRequest, ExportResult, Hooks
from shrinkwrap.tree.snapshots import current, snapshots, stem_of


class Moving:
    """A repository whose owner collects old revisions whenever a test says so.

    The files of a revision hold its number, but for ``both``, which never changes.
    """

    def __init__(self, folder: Path) -> None:
        self.dest = folder / "base"
        self.publisher = Publisher(folder / "storage")
        self.alone: list[set[Path]] = []
        self.heads: list[Published] = []
        self.published = 0
        self.publisher.catalog().file(b"/both", b"both")
        for number in range(1, MOST + 3):
            before = self._files()
            root = self.publisher.catalog()
            root.file(b"/both", b"both")
            root.file(b"/name", b"%d" % number)
            nested = self.publisher.catalog(b"/lcg")
            nested.file(b"/lcg/name", b"nested %d" % number)
            root.nest(nested)
            head = self.publisher.publish(root, tags=[f"v{number}"])
            self.heads.append(head)
            self.alone.append(self._files() - before)
        self.publish(1)

    def _files(self) -> set[Path]:
        folder = self.publisher.folder
        return {file.relative_to(folder) for file in (folder / "data").rglob("*") if file.is_file()}

    def publish(self, number: int, *, collect: bool = False) -> None:
        """Make a revision the head; ``collect``: what only older ones need is there no more."""
        folder = self.publisher.folder
        for alone in self.alone[: number - 1] if collect else ():
            for file in alone:
                if not file.name.endswith("X"):
                    (folder / file).unlink(missing_ok=True)
        (folder / ".cvmfspublished").write_bytes(self.heads[number - 1].manifest)
        self.published = number

    def request(self, **options: Any) -> ExportRequest:
        request = ExportRequest(
            source=self.publisher.config(),
            keys=tuple(self.publisher.keys),
            spec=parse(b"/*\n"),
            dest=str(self.dest),
            workers=1,
        )
        return replace(request, **options)

    def export(self, at: str, then: Callable[[], None], *, times: int = 1, **options: Any) -> ExportResult:
        """Export; the first times that a phase of this name begins, something happens."""
        left = times

        def phase(name: str) -> None:
            nonlocal left
            if name == at and left:
                left -= 1
                then()

        return export(self.request(**options), Hooks(phase=phase))

    def move_on(self) -> None:
        self.publish(self.published + 1, collect=True)

    def shown(self, *place: str) -> str:
        """The revision that a tree shows, and it has to be all of one."""
        tree = self.dest.joinpath(*place) / self.publisher.fqrn
        number = (tree / "name").read_text()
        assert (tree / "both").read_text() == "both"
        assert (tree / "lcg" / "name").read_text() == f"nested {number}"
        return number

    def runs(self, *place: str) -> list[dict[str, Any]]:
        fd = os.open(self.dest.joinpath(*place) / ".provenance" / self.publisher.fqrn, DIRECTORY)
        try:
            return list(read_runs(fd))
        finally:
            os.close(fd)


@pytest.fixture
def moving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Moving:
    monkeypatch.setattr(Base, "sync", lambda self: None)  # nothing here is about power cuts
    monkeypatch.setattr("time.time", lambda: float(signing.NOW))
    return Moving(tmp_path)


@pytest.mark.parametrize("phase", ["catalogs", "objects"])
def test_an_export_goes_on_with_the_new_head_and_says_so(moving: Moving, phase: str) -> None:
    result = moving.export(phase, moving.move_on)
    assert (result.revision, moving.shown()) == (2, "2")
    assert [line for line in result.notices if "revision 1" in line and "going on with revision 2" in line]
    assert leftovers(moving.dest) == []
    assert [run["reason"] for run in moving.runs()] == ["missing", "exported"]
    assert export(moving.request()).reason == "unchanged"


def test_what_came_of_the_old_revision_is_not_fetched_again(moving: Moving) -> None:
    result = moving.export("objects", lambda: moving.publish(2, collect=True))
    # The file that both have came in the first attempt.
    assert result.counts["fetched"] == 2


def test_an_update_goes_on_too_and_nothing_old_is_lost_on_the_way(moving: Moving) -> None:
    export(moving.request())
    moving.publish(2)
    seen = []

    def collect() -> None:
        seen.append(moving.shown())
        moving.move_on()

    assert moving.export("objects", collect).revision == 3
    assert seen == ["1"]
    assert moving.shown() == "3"


def test_a_source_that_moves_on_and_on_ends_the_export_at_last(moving: Moving) -> None:
    with pytest.raises(MissingObject):
        moving.export("objects", moving.move_on, times=100)
    assert moving.published == MOST + 2
    assert [run["reason"] for run in moving.runs()] == ["missing"] * (MOST + 1)


def test_it_may_move_on_several_times(moving: Moving) -> None:
    assert moving.export("objects", moving.move_on, times=MOST).revision == MOST + 1
    assert moving.shown() == str(MOST + 1)


def test_an_object_that_is_missing_while_the_head_stays_is_an_error_at_once(moving: Moving) -> None:
    def lose() -> None:
        moving.publish(2, collect=True)
        moving.publish(1)

    with pytest.raises(MissingObject) as caught:
        moving.export("objects", lose)
    assert "--allow-missing" in caught.value.hint
    assert len(moving.runs()) == 1


def test_an_older_head_is_no_reason_to_start_over(moving: Moving) -> None:
    moving.publish(3)

    def lose() -> None:
        moving.publish(4, collect=True)
        moving.publish(2)

    with pytest.raises(MissingObject):
        moving.export("objects", lose)
    assert len(moving.runs()) == 1


def test_a_head_that_nobody_signed_ends_the_export(moving: Moving) -> None:
    def forge() -> None:
        moving.move_on()
        file = moving.publisher.folder / ".cvmfspublished"
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    with pytest.raises(TrustError):
        moving.export("objects", forge)


def test_a_broken_object_is_no_missing_one(moving: Moving) -> None:
    def spoil() -> None:
        for file in moving.alone[0]:
            if not file.name.endswith(("C", "X", "H")):
                (moving.publisher.folder / file).write_bytes(b"broken")
        moving.publish(2)

    with pytest.raises(CorruptObject):
        moving.export("objects", spoil)
    assert len(moving.runs()) == 1


@pytest.mark.parametrize("option", ["--revision", "--root-hash"])
def test_a_pin_that_means_one_snapshot_for_ever_is_not_given_up(moving: Moving, option: str) -> None:
    pin = Pin(revision=1) if option == "--revision" else Pin(root_hash=moving.heads[0].root_hash)
    with pytest.raises(MissingObject) as caught:
        moving.export("objects", moving.move_on, pin=pin)
    assert option in caught.value.hint
    assert len(moving.runs()) == 1


def test_a_tag_that_means_another_snapshot_by_now_is_followed(moving: Moving) -> None:
    assert moving.export("objects", moving.move_on, pin=Pin(tag="trunk")).revision == 2
    assert moving.shown() == "2"


def test_a_tag_that_means_the_same_snapshot_ends_with_its_error(moving: Moving) -> None:
    with pytest.raises(MissingObject, match="could not be had"):
        moving.export("objects", moving.move_on, pin=Pin(tag="v1"))
    # It was looked at what the tag means now; the objects were not asked for once more.
    assert [run["counts"].get("objects", 0) > 0 for run in moving.runs()] == [True, False]


# ------------------------------------------------------------------------------------------------------------- releases


def test_a_release_that_goes_away_is_given_up_for_that_of_the_new_head(moving: Moving) -> None:
    export(moving.request(switch=True))
    moving.publish(2)
    result = moving.export("objects", moving.move_on, switch=True)
    assert (result.revision, result.switched) == (3, True)
    assert moving.shown("current") == "3"
    # Nobody could ever finish what came of the one in between.
    assert [name[:3] for name in snapshots(str(moving.dest))] == ["r1-", "r3-"]
    assert leftovers(moving.dest) == []


def test_of_a_release_that_is_given_up_other_repositories_stay(moving: Moving, tmp_path: Path) -> None:
    other = Publisher(tmp_path / "other", "other.example.org")
    root = other.catalog()
    root.file(b"/kept", b"kept")
    other.publish(root)
    export(moving.request(switch=True))
    moving.publish(2)
    name = stem_of(2, moving.heads[1].root_hash)
    export(moving.request(source=other.config(), keys=tuple(other.keys), snapshot=name))
    result = moving.export("objects", moving.move_on, switch=True)
    assert result.revision == 3
    assert (moving.dest / name / other.fqrn / "kept").read_text() == "kept"
    assert os.listdir(moving.dest / name / ".provenance") != []
    assert not (moving.dest / name / moving.publisher.fqrn).exists()


def test_a_named_release_goes_on_under_its_name(moving: Moving) -> None:
    result = moving.export("objects", moving.move_on, switch=True, snapshot="night")
    assert (result.snapshot, current(str(moving.dest)), moving.shown("current")) == ("night", "night", "2")


# ----------------------------------------------------------------------------------------------------------- by network


@contextmanager
def serving(moving: Moving) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The repository on a web server that moves on when the first object is asked for.

    Yields:
        its URL, and what was asked for: path, and what the request says about caches.
    """
    asked: list[tuple[str, str]] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with lock:
                asked.append((self.path, self.headers.get("Cache-Control", "")))
                if moving.published == 1 and self.path.startswith("/data/") and self.path[-1] not in "CXH":
                    moving.move_on()
                file = moving.publisher.folder / self.path[1:]
                data = file.read_bytes() if file.is_file() else None
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: object) -> None:
            """Nothing on the test's standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_new_head_is_asked_for_past_all_caches(moving: Moving) -> None:
    with serving(moving) as (url, asked):
        result = export(moving.request(source=SourceConfig(moving.publisher.fqrn, servers=(url,))))
    assert (result.revision, moving.shown()) == (2, "2")
    heads = [caches for path, caches in asked if path == "/.cvmfspublished"]
    assert heads[0] == ""
    assert len(heads) > 1
    assert all("no-cache" in caches for caches in heads[1:])
