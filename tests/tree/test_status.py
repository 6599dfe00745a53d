"""What a destination says of itself, to whoever may read it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.filesystems import remove_tree
from support.forking import Forks
from tree.collecting import FQRN, OTHER, SPECS, Places, wanted

from shrinkwrap.errors import DestinationError
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.status import EXPORTED, NO_TREE, NOTHING, OPEN, UNREADABLE, status


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts."""
    monkeypatch.setattr(Base, "sync", lambda self: None)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def places(tmp_path: Path, repositories: Path) -> Places:
    return Places(tmp_path, repositories)


def everything(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {
        os.path.join(at, name): ((info := os.lstat(os.path.join(at, name))).st_mtime_ns, info.st_ctime_ns, info.st_ino)
        for at, folders, names in os.walk(folder)
        for name in (*folders, *names)
    }


def test_each_repository_is_listed_with_what_its_tree_shows(places: Places) -> None:
    places.export("a", 1)
    places.export("a", 0, fqrn=OTHER, spec="some", link_mode="copy", marker=True)
    before = everything(places.folder)
    found = places.status("a")
    assert everything(places.folder) == before
    assert [one.fqrn for one in found.repositories] == [FQRN, OTHER]
    first, second = found.repositories
    assert (first.state, second.state) == (EXPORTED, EXPORTED)
    assert first.record is not None
    assert first.record.goal.root_hash == places.roots[FQRN][1]
    assert first.record.counts["files"] == len(wanted(1))
    assert first.exported == pytest.approx(
        (places.base("a") / ".provenance" / FQRN / "record.json").stat().st_mtime, abs=0.001
    )
    assert second.record is not None
    assert (second.record.goal.spec, second.record.goal.link_mode, second.record.goal.marker) == (
        SPECS["some"],
        "copy",
        True,
    )
    assert second.last_run is not None
    assert second.last_run["reason"] == "exported"
    assert (found.store, found.bases, found.original) == (str(places.base("a") / ".data"), [], False)
    told = json.loads(json.dumps(found.to_json()))
    assert told["repositories"][0]["record"]["root_hash"] == places.roots[FQRN][1]
    assert told["repositories"][1]["last_run"]["exit_code"] == 0


def test_a_store_elsewhere_is_named_with_all_that_use_it(places: Places) -> None:
    places.export("a", 0, store="store")
    places.export("b", 0, store="store")
    found = places.status("a")
    assert found.store == str(places.base("store"))
    assert found.bases == [str(places.base("a")), str(places.base("b"))]
    remove_tree(places.base("store"))
    found = places.status("a")
    assert (found.store, found.bases, found.dropped) == (str(places.base("store")), None, None)
    assert found.repositories[0].state == EXPORTED


def test_it_tells_whether_there_may_be_garbage(places: Places) -> None:
    places.export("a", 0)
    assert places.status("a").dropped is True
    places.gc("a")
    assert places.status("a").dropped is False
    places.export("a", 1)
    assert places.status("a").dropped is True


def test_a_run_that_was_cut_off_is_seen(places: Places, cli: Forks) -> None:
    calls = cli.run(*places.words("quiet", 1)).ok().calls
    assert cli.run(*places.words("a", 1), die_at=calls - 20).killed
    (one,) = places.status("a").repositories
    assert (one.state, one.record) == (OPEN, None)
    assert one.intent is not None
    assert one.to_json()["intent"]["root_hash"] == places.roots[FQRN][1]
    places.export("a", 1)
    (one,) = places.status("a").repositories
    assert (one.state, one.intent) == (EXPORTED, None)


def test_a_run_that_is_under_way_is_not_in_its_way(places: Places) -> None:
    places.export("a", 0)
    running = Base(str(places.base("a")))
    assert places.status("a").repositories[0].state == EXPORTED
    running.close()


@pytest.mark.parametrize("text", ["", "{}", "[", "[]", "null", '{"version": 99}', "\0"])
def test_a_record_that_cannot_be_read_is_said_to_be_one(text: str, places: Places) -> None:
    places.export("a", 0)
    (places.base("a") / ".provenance" / FQRN / "record.json").write_text(text)
    (one,) = places.status("a").repositories
    assert (one.state, one.record) == (UNREADABLE, None)
    assert one.to_json()["record"] is None
    (places.base("a") / ".provenance" / FQRN / "intent.json").write_text(text)
    (one,) = places.status("a").repositories
    assert one.state == OPEN
    assert one.to_json()["intent"]["root_hash"] == ""


def test_what_is_gone_or_never_came_is_said(places: Places) -> None:
    places.export("a", 0)
    remove_tree(places.base("a") / FQRN)
    (places.base("a") / ".provenance" / OTHER).mkdir()
    (places.base("a") / ".provenance" / "a file").touch()
    found = places.status("a")
    assert [(one.fqrn, one.state) for one in found.repositories] == [(FQRN, NO_TREE), (OTHER, NOTHING)]


def test_links_are_not_followed_out_of_the_records(places: Places, tmp_path: Path) -> None:
    places.export("a", 0)
    folder = places.base("a") / ".provenance"
    (folder / OTHER).symlink_to(folder / FQRN)
    record = folder / FQRN / "record.json"
    record.rename(tmp_path / "record.json")
    record.symlink_to(tmp_path / "record.json")
    (one,) = places.status("a").repositories
    assert (one.fqrn, one.record) == (FQRN, None)


def test_a_pipe_in_place_of_a_record_is_not_waited_for(places: Places) -> None:
    places.export("a", 0)
    record = places.base("a") / ".provenance" / FQRN / "record.json"
    record.unlink()
    os.mkfifo(record)
    assert places.status("a").repositories[0].record is None


@pytest.mark.root
def test_other_users_see_what_they_may(places: Places, scratch: Path) -> None:
    places.export("a", 0)
    os.rename(places.base("a"), scratch / "a")
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(12345)
            os.setuid(12345)
            found = status(str(scratch / "a"))
            ended = found.repositories[0].state == EXPORTED and found.bases is None and found.dropped is None
            os._exit(0 if ended else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("what", ["nothing", "a folder", "a file"])
def test_a_place_without_exports_is_said_to_be_one(what: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if what == "a folder":
        place.mkdir()
    elif what == "a file":
        place.touch()
    with pytest.raises(DestinationError, match="no export was made here"):
        status(str(place))
