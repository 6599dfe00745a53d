"""A repository that is removed is gone with its tree and its records, and nothing else is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from support.exporting import leftovers
from support.filesystems import remove_tree
from support.forking import Forks
from tree.collecting import FQRN, OTHER, Places, wanted

from shrinkwrap.errors import DestinationError, LockedError, UsageError
from shrinkwrap.tree.base import Base


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts."""
    monkeypatch.setattr(Base, "sync", lambda self: None)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def places(tmp_path: Path, repositories: Path) -> Places:
    return Places(tmp_path, repositories)


def test_tree_and_records_go_and_those_of_others_stay(places: Places) -> None:
    places.export("a", 0)
    places.export("a", 1, fqrn=OTHER)
    stored = places.stored("a").keys()
    told = places.remove("a")
    assert (told.fqrn, told.root_hash, told.garbage) == (FQRN, places.roots[FQRN][0], None)
    assert sorted(os.listdir(places.base("a"))) == [".data", ".provenance", OTHER]
    assert [one.fqrn for one in places.status("a").repositories] == [OTHER]
    assert places.tree("a", OTHER) == wanted(1)
    assert leftovers(places.base("a")) == []
    assert places.stored("a").keys() == stored
    collected = places.gc("a")
    assert collected.full
    assert collected.objects > 0
    assert places.garbage("a") == set()
    assert places.export("a", 1, fqrn=OTHER).reason == "unchanged"
    assert places.export("a", 0).reason == "exported"
    assert places.tree("a") == wanted(0)


def test_with_gc_nothing_of_the_last_repository_is_left(places: Places) -> None:
    places.export("a", 0)
    told = places.remove("a", gc=True)
    assert told.garbage is not None
    assert told.garbage.objects > 0
    assert places.stored("a") == {}
    assert places.kept("a") == set()
    assert os.listdir(places.base("a") / ".provenance") != [FQRN]


def test_a_destination_without_repositories_does_not_hold_up_others(places: Places) -> None:
    places.export("a", 0, store="store")
    places.export("b", 1, store="store")
    places.remove("b", gc=True)
    assert places.status("a").bases == [str(places.base("a"))]
    places.gc("b")
    remove_tree(places.base("b"))
    assert places.gc("a", full=True).objects == 0
    assert places.tree("a") == wanted(0)
    places.export("b", 1, store="store")
    assert len(places.status("a").bases or ()) == 2


def test_a_folder_without_write_permission_goes_too(places: Places) -> None:
    places.export("a", 0)
    top = places.base("a") / FQRN
    for folder in (top / "lcg", top):
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    places.remove("a")
    assert not top.exists()


def test_what_was_never_exported_is_not_removed(places: Places) -> None:
    with pytest.raises(DestinationError, match="no export was made here"):
        places.remove("a")
    places.export("a", 0)
    mine = places.base("a") / OTHER
    mine.mkdir()
    (mine / "thesis.tex").touch()
    with pytest.raises(DestinationError, match=f"no export of {OTHER}") as caught:
        places.remove("a", fqrn=OTHER)
    assert FQRN in caught.value.hint
    assert (mine / "thesis.tex").exists()
    for name in ("", ".objects", "..", "../a", ".provenance", "a/b"):
        with pytest.raises(UsageError):
            places.remove("a", fqrn=name)
    assert places.tree("a") == wanted(0)


def test_what_a_first_export_left_that_failed_at_once_is_removed(places: Places) -> None:
    places.export("a", 0)
    left = places.base("a") / ".provenance" / OTHER
    left.mkdir()
    (left / "runs.jsonl").touch()
    places.remove("a", fqrn=OTHER)
    assert not left.exists()
    left.mkdir()
    (places.base("a") / OTHER).mkdir()
    with pytest.raises(DestinationError, match="no export of"):
        places.remove("a", fqrn=OTHER)


def test_one_whose_tree_or_record_is_damaged_is_removed_all_the_same(places: Places) -> None:
    places.export("a", 0)
    places.export("a", 0, fqrn=OTHER)
    remove_tree(places.base("a") / FQRN)
    (places.base("a") / ".provenance" / OTHER / "record.json").write_text("?")
    places.remove("a")
    places.remove("a", fqrn=OTHER)
    assert places.status("a").repositories == []
    assert not (places.base("a") / OTHER).exists()


def test_nothing_is_removed_while_a_run_is_at_work(places: Places) -> None:
    places.export("a", 0)
    running = Base(str(places.base("a")))
    with pytest.raises(LockedError):
        places.remove("a")
    running.close()
    assert places.tree("a") == wanted(0)


def test_garbage_that_cannot_be_collected_is_no_reason_to_keep_the_tree(places: Places) -> None:
    places.export("a", 0, store="store")
    places.export("b", 0, store="store")
    remove_tree(places.base("b"))
    told = places.remove("a", gc=True)
    assert told.garbage is None
    assert any("garbage was not collected" in line for line in told.notices)
    assert not (places.base("a") / FQRN).exists()


@pytest.mark.parametrize("then", ["remove", "export"])
def test_a_removal_killed_at_any_call_is_finished_by_the_next_or_undone_by_an_export(
    then: str, places: Places, cli: Forks
) -> None:
    places.export("quiet", 0)
    words = ("remove", "-r", FQRN)
    calls = cli.run(*words, str(places.base("quiet"))).ok().calls
    for number in range(1 + (then == "export"), calls + 1, 6):
        places.export("a", 0)
        assert cli.run(*words, str(places.base("a")), die_at=number).killed
        (*_, one) = [None, *places.status("a").repositories]
        tree = (places.base("a") / FQRN).exists()
        # Never a tree of which nobody knows whose it is.
        assert one is not None or not tree
        assert one is None or one.intent is not None or one.state == "exported"
        if one is not None and one.intent is None:
            assert places.tree("a") == wanted(0)
        if then == "remove" and one is not None:
            places.remove("a")
        if then == "export":
            places.export("a", 1)
            assert places.tree("a") == wanted(1)
            places.gc("a")
            assert places.garbage("a") == set()
        else:
            places.gc("a")
            assert places.stored("a") == {}
        assert leftovers(places.base("a")) == []
