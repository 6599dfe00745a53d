"""What is removed from a store is what nothing needs: by links, by records of copies, by open intents."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from support.filesystems import remove_tree
from support.forking import Forks
from tree.collecting import FQRN, OTHER, Places, wanted
from tree.storing import item, open_store, put

from shrinkwrap.errors import DestinationError, LockedError, UsageError
from shrinkwrap.tree import dropped
from shrinkwrap.tree import gc as collecting
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.gc import gc


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts."""
    monkeypatch.setattr(Base, "sync", lambda self: None)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def places(tmp_path: Path, repositories: Path) -> Places:
    return Places(tmp_path, repositories)


def test_what_lost_its_last_path_goes_and_nothing_else(places: Places) -> None:
    places.export("a", 0)
    assert places.gc("a").objects == 0
    places.export("a", 1)
    garbage = places.garbage("a")
    sizes = sum(info.st_size for name, info in places.stored("a").items() if name in garbage)
    before = places.stored("a").keys()
    told = places.gc("a")
    assert (told.objects, told.bytes) == (len(garbage), sizes)
    assert told.objects > 0
    assert places.stored("a").keys() == before - garbage
    assert places.tree("a") == wanted(1)
    assert places.gc("a").freed == 0


def test_a_tree_that_was_collected_for_is_updated_as_any_other(places: Places) -> None:
    for revision in (0, 2, 1, 3, 0):
        places.export("a", revision, gc=True)
        assert places.tree("a") == wanted(revision)
        assert places.garbage("a") == set()
    places.export("fresh", 0)
    assert places.stored("a").keys() == places.stored("fresh").keys()
    assert places.kept("a") == places.kept("fresh")


def test_a_second_export_with_nothing_new_collects_nothing(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    places.export("a", 0)
    assert places.export("a", 0, gc=True).garbage is not None
    assert places.export("a", 0, gc=True).garbage is None
    places.export("a", 1)
    told = places.export("a", 1, gc=True)
    assert told.reason == "unchanged"
    assert told.garbage is not None
    assert told.garbage.objects == 1


# ------------------------------------------------------------------------------------------------- the log of drops


def test_after_an_update_only_what_was_dropped_is_looked_at(places: Places) -> None:
    places.export("a", 0)
    assert places.gc("a").full
    places.export("a", 3)
    # Looking at everything would find this one, too.
    other = places.store("a") / "00" / f"{'0' * 38}z3.{'0' * 40}"
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(b"odd")
    garbage = places.garbage("a") - {f"00/{other.name}"}
    told = places.gc("a")
    assert (told.full, told.objects) == (False, len(garbage))
    assert places.garbage("a") == {f"00/{other.name}"}
    told = places.gc("a", full=True)
    assert (told.full, told.objects) == (True, 1)
    assert places.garbage("a") == set()


@pytest.mark.parametrize("case", ["repair", "folder becomes a file", "tree removed", "link mode"])
def test_where_nobody_knows_what_was_dropped_everything_is_looked_at(case: str, places: Places) -> None:
    places.export("a", 2 if case == "folder becomes a file" else 0)
    places.gc("a")
    if case == "tree removed":
        remove_tree(places.base("a") / FQRN)
        places.export("a", 1)
    elif case == "folder becomes a file":
        places.export("a", 1)
    else:
        places.export("a", 1, repair=case == "repair", link_mode="copy" if case == "link mode" else "hardlink")
    told = places.gc("a")
    assert told.full
    assert told.objects > 0
    assert places.tree("a") == wanted(1)


@pytest.mark.parametrize(
    "text", ["", "dropped links 2\n", "dropped links 1\nab/cd\n", "dropped links 1\n../x\n", "\0" * 40]
)
def test_a_log_that_cannot_be_believed_is_as_good_as_none(text: str, places: Places) -> None:
    places.export("a", 0)
    places.export("a", 1)
    (places.store("a") / "dropped").write_text(text)
    told = places.gc("a")
    assert (told.full, told.objects) == (True, 1)
    assert (places.store("a") / "dropped").read_text() == "dropped links 1\n"


def test_a_log_that_breaks_off_is_as_good_as_none(places: Places) -> None:
    places.export("a", 0, gc=True)
    places.export("a", 1)
    log = places.store("a") / "dropped"
    log.write_bytes(log.read_bytes()[:-4])
    assert places.gc("a").full


def test_a_full_disk_costs_the_log_and_not_the_export(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    places.export("a", 0, gc=True)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(dropped.Drops, "_flush", _with(monkeypatch, dropped.Drops._flush, full))
    assert places.export("a", 1).reason == "exported"
    assert not (places.store("a") / "dropped").exists()
    assert places.gc("a").objects == 1


def _with(monkeypatch: pytest.MonkeyPatch, function: object, write: object) -> object:
    """A method during which writing fails."""

    def wrapped(self: dropped.Drops) -> None:
        with monkeypatch.context() as during:
            during.setattr(os, "write", write)
            function(self)  # type: ignore[operator]

    return wrapped


# ----------------------------------------------------------------------------------------------------- grace, dry run


def test_during_the_grace_period_nothing_goes_and_nothing_is_forgotten(places: Places) -> None:
    places.export("a", 0)
    places.gc("a")
    places.export("a", 1)
    garbage, kept = places.garbage("a"), places.kept("a")
    for _ in range(2):
        told = places.gc("a", grace=3600)
        assert (told.full, told.objects, told.young, told.freed) == (False, 0, len(garbage), 0)
        assert (places.garbage("a"), places.kept("a")) == (garbage, kept)
    told = places.gc("a")
    assert (told.full, told.objects, told.young) == (False, len(garbage), 0)
    assert told.kept_objects > 0


def test_what_is_older_than_the_grace_period_goes(places: Places) -> None:
    places.export("a", 0)
    places.export("a", 1)
    # No less than the file system's clock ticks by.
    time.sleep(0.05)
    assert places.gc("a", grace=0.01).objects == 1


@pytest.mark.parametrize("full", [False, True])
def test_a_dry_run_tells_what_would_go_and_touches_nothing(full: bool, places: Places) -> None:
    places.export("a", 0, gc=True)
    places.export("a", 1)

    def snapshot() -> dict[str, tuple[int, int]]:
        return {
            os.path.join(at, name): ((info := os.lstat(os.path.join(at, name))).st_mtime_ns, info.st_ctime_ns)
            for at, folders, names in os.walk(places.base("a"))
            for name in (*folders, *names)
        }

    before = snapshot()
    told = places.gc("a", dry_run=True, full=full)
    assert snapshot() == before
    assert told.objects == 1
    done = places.gc("a", full=full)
    assert (done.objects, done.freed) == (told.objects, told.freed)


# ------------------------------------------------------------------------------------------------------ who needs what


def test_stored_files_of_copies_stay_as_long_as_their_record_names_them(places: Places) -> None:
    places.export("a", 0, link_mode="copy")
    assert len(places.garbage("a")) == len(places.stored("a")) > 0
    told = places.gc("a", full=True)
    assert (told.objects, told.needed) == (0, len(places.stored("a")))
    places.export("a", 1, link_mode="copy")
    told = places.gc("a")
    assert (told.full, told.objects) == (False, 1)
    assert places.export("a", 1, link_mode="copy", repair=True).counts.get("fetched", 0) == 0
    assert places.tree("a") == wanted(1)


@pytest.mark.parametrize("full", [False, True])
def test_what_one_destination_drops_another_may_need(full: bool, places: Places) -> None:
    places.export("a", 0, store="store", gc=True)
    places.export("b", 0, store="store", link_mode="copy")
    places.export("c", 0, store="store")
    assert set(places.gc("a").bases) == {str(places.base(name)) for name in "abc"}
    for name in ("a", "c"):
        places.export(name, 3, store="store")
    told = places.gc("a", full=full)
    assert (told.full, told.objects) == (full, 0)
    assert told.needed > 0
    assert places.export("b", 0, link_mode="copy", repair=True).counts.get("fetched", 0) == 0
    places.export("b", 3, link_mode="copy")
    assert places.gc("c", full=full).objects == told.needed
    for name in "abc":
        assert places.tree(name) == wanted(3)


def test_two_repositories_of_one_destination_share_what_is_equal(places: Places) -> None:
    places.export("a", 0)
    places.export("a", 0, fqrn=OTHER)
    places.export("a", 3)
    told = places.gc("a", full=True)
    assert told.objects == 0
    assert places.tree("a", OTHER) == wanted(0)
    assert places.export("a", 0).counts.get("fetched", 0) == 0


def test_a_destination_whose_own_store_is_shared_is_among_its_users(places: Places) -> None:
    places.export("a", 0, link_mode="copy")
    places.export("b", 3, store="a/.data")
    told = places.gc("b", full=True)
    assert sorted(told.bases) == sorted(str(places.base(name)) for name in "ab")
    assert places.export("a", 0, link_mode="copy", repair=True).counts.get("fetched", 0) == 0


def test_an_export_that_was_cut_off_keeps_what_it_has(places: Places, cli: Forks) -> None:
    for name in ("quiet", "a"):
        places.export(name, 0)
    # The last link is that of a file which takes the place of another: until then nothing but the store has it.
    links = cli.run(*places.words("quiet", 1), at=("link",)).ok().calls
    assert cli.run(*places.words("a", 1), die_at=links, at=("link",)).killed
    (place,) = places.status("a").repositories
    assert place.state == "open"
    had = places.stored("a").keys()
    assert len(places.garbage("a")) == 1
    told = places.gc("a", full=True)
    assert (told.objects, told.needed) == (0, 1)
    assert places.stored("a").keys() == had
    for root in places.roots[FQRN][:2]:
        assert any(root[2:] in place for place in places.kept("a"))
    result = places.export("a", 1)
    assert places.tree("a") == wanted(1)
    assert result.counts.get("fetched", 0) == 0
    # The next run asks the disk, so what was dropped meanwhile is not known.
    assert places.gc("a").full
    assert places.garbage("a") == set()


def test_what_an_export_that_was_cut_off_has_already_dropped_is_kept_for_the_way_back(
    places: Places, cli: Forks
) -> None:
    for name in ("quiet", "a"):
        places.export(name, 0)
    calls = cli.run(*places.words("quiet", 1)).ok().calls
    assert cli.run(*places.words("a", 1), die_at=calls - 15).killed
    assert len(places.garbage("a")) == 1
    assert places.gc("a", full=True).objects == 0
    assert places.export("a", 0).counts.get("fetched", 0) == 0
    assert places.tree("a") == wanted(0)


def test_a_tree_that_is_gone_has_its_stored_files_kept(places: Places) -> None:
    places.export("a", 0)
    remove_tree(places.base("a") / FQRN)
    assert places.gc("a", full=True).objects == 0
    assert places.export("a", 0).counts.get("fetched", 0) == 0
    assert places.tree("a") == wanted(0)


@pytest.mark.parametrize("what", ["record.json", "intent.json"])
def test_nothing_goes_while_it_is_not_known_what_is_needed(what: str, places: Places) -> None:
    places.export("a", 0)
    places.export("a", 1)
    (places.base("a") / ".provenance" / FQRN / what).write_text("{}")
    with pytest.raises(DestinationError, match="which stored files it needs is not known") as caught:
        places.gc("a")
    assert "--repair" in caught.value.hint
    assert len(places.garbage("a")) == 1
    places.export("a", 1, repair=True)
    places.gc("a")
    assert places.garbage("a") == set()


def test_nothing_goes_if_the_catalogs_of_copies_are_not_kept(places: Places) -> None:
    places.export("a", 0, link_mode="copy")
    places.export("a", 1, link_mode="copy")
    (lost,) = (place for place in places.kept("a") if places.roots[FQRN][1][2:] in place)
    (places.base("a") / ".provenance" / lost).unlink()
    had = places.stored("a").keys()
    with pytest.raises(DestinationError, match="its catalogs are not all kept"):
        places.gc("a")
    assert places.stored("a").keys() == had
    result = places.export("a", 3, link_mode="copy", gc=True)
    assert result.garbage is not None
    assert result.garbage.objects > 0


def test_an_export_is_done_even_if_its_garbage_cannot_be_collected(places: Places) -> None:
    places.export("a", 0, store="store")
    places.export("b", 0, store="store")
    places.base("b").rename(places.base("away"))
    result = places.export("a", 1, gc=True)
    assert (result.reason, result.garbage) == ("exported", None)
    assert any("garbage was not collected" in line for line in result.warnings())


def test_where_links_are_not_counted_the_records_tell(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    places.export("a", 0)
    places.export("a", 1)
    for file in places.stored("a"):
        # What a file system shows that always says one.
        path = places.store("a") / file
        shutil.copy2(path, f"{path}.copy")
        os.replace(f"{path}.copy", path)
    monkeypatch.setattr(collecting._Collection, "_links_are_counted", lambda self: False)
    told = places.gc("a")
    assert told.objects == 1
    assert told.needed == len(places.stored("a"))


# ------------------------------------------------------------------------------------------------------- destinations


def test_nothing_goes_while_a_destination_of_the_store_cannot_be_reached(places: Places) -> None:
    places.export("a", 0, store="store")
    places.export("b", 0, store="store")
    places.export("a", 3, store="store")
    places.base("b").rename(places.base("away"))
    for options in ({}, {"full": True}, {"dry_run": True}):
        with pytest.raises(DestinationError, match=f"{places.base('b')} uses the store") as caught:
            places.gc("a", **options)
        assert f"--forget {places.base('b')}" in caught.value.hint
    places.base("away").rename(places.base("b"))
    assert places.gc("a", full=True).objects == 0
    assert places.tree("b") == wanted(0)


def test_an_empty_folder_where_a_destination_was_mounted_is_not_the_destination(places: Places) -> None:
    places.export("a", 0, store="store")
    places.export("b", 0, store="store")
    places.base("b").rename(places.base("away"))
    places.base("b").mkdir()
    with pytest.raises(DestinationError, match="is not there"):
        places.gc("a")


def test_a_destination_that_is_gone_for_good_is_struck_off(places: Places) -> None:
    places.export("a", 3, store="store")
    places.gc("a")
    places.export("b", 0, store="store")
    with pytest.raises(UsageError, match="it is there"):
        places.gc("a", forget=[str(places.base("b"))])
    remove_tree(places.base("b"))
    with pytest.raises(UsageError, match="no destination of"):
        places.gc("a", forget=["/elsewhere"])
    garbage = places.garbage("a")
    assert places.gc("a", forget=[str(places.base("b"))], dry_run=True).objects == len(garbage) > 0
    told = places.gc("a", forget=[str(places.base("b"))])
    assert (told.full, told.objects) == (True, len(garbage))
    assert told.bases == [str(places.base("a"))]
    assert places.gc("a").freed == 0


def test_a_destination_that_was_begun_anew_with_another_store_is_no_obstacle(places: Places) -> None:
    places.export("a", 0, store="store")
    places.export("b", 0, store="store")
    remove_tree(places.base("b") / ".data")
    places.export("b", 0, store="other", repair=True)
    assert places.gc("a").bases == [str(places.base("a"))]


def test_a_destination_whose_first_run_died_at_once_is_no_obstacle(places: Places) -> None:
    places.export("a", 0, store="store")
    Base(str(places.base("b")), store=str(places.base("store"))).close()
    remove_tree(places.base("b") / ".provenance")
    (places.base("b") / ".data" / "store.json").unlink()
    assert places.gc("a").bases == [str(places.base("a"))]


def test_only_one_works_on_a_store_at_a_time(places: Places) -> None:
    places.export("a", 0, store="store")
    places.export("b", 0, store="store")
    running = Base(str(places.base("b")))
    for dry in (False, True):
        with pytest.raises(LockedError):
            places.gc("a", dry_run=dry)
    running.close()
    places.gc("a")


@pytest.mark.parametrize("what", ["nothing", "a folder", "a file"])
def test_a_place_without_exports_is_said_to_be_one_and_stays_as_it_is(what: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if what == "a folder":
        place.mkdir()
    elif what == "a file":
        place.touch()
    with pytest.raises(DestinationError, match="no export was made here"):
        gc(str(place))
    assert os.listdir(tmp_path) == ([] if what == "nothing" else ["place"])
    assert what != "a folder" or os.listdir(place) == []


# -------------------------------------------------------------------------------------------------- what lies in stores


def test_files_that_no_export_put_into_the_store_stay(places: Places) -> None:
    places.export("a", 0)
    shard = places.store("a") / "00"
    shard.mkdir(exist_ok=True)
    odd = f"{'0' * 38}z3.{'0' * 40}"
    for name in ("notes", odd[:-1], f"{odd}~0", f"{odd}~x"):
        (shard / name).write_text("x")
    (shard / f"{odd[:-1]}1").mkdir()
    (shard / f"{odd[:-1]}2").symlink_to("notes")
    assert places.gc("a", full=True).objects == 0
    assert len(os.listdir(shard)) == 6


@pytest.mark.parametrize("linked", [(), (0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)], ids=str)
def test_overflow_files_that_are_left_have_numbers_without_a_gap(
    linked: tuple[int, ...], places: Places, tmp_path: Path
) -> None:
    places.export("a", 3)
    base = Base(str(places.base("a")))
    store = open_store(base)
    wanted_item = item(b"often")
    put(store, wanted_item, b"often")
    shard, _, rest = wanted_item.name.partition("/")
    for number in range(3):
        file = places.store("a") / shard / (f"{rest}~{number}" if number else rest)
        file.write_bytes(b"often")
        if number in linked:
            os.link(file, tmp_path / f"path{number}")
    store.close()
    base.close()
    told = places.gc("a", full=True)
    assert told.objects == 3 - len(linked)
    left = sorted(name for name in os.listdir(places.store("a") / shard) if name.startswith(rest))
    assert left == sorted(f"{rest}~{number}" if number else rest for number in range(len(linked)))
    for number in linked:
        assert os.stat(tmp_path / f"path{number}").st_nlink == 2


def test_a_gap_between_overflow_files_is_closed(places: Places, tmp_path: Path) -> None:
    places.export("a", 3)
    wanted_item = item(b"often")
    shard, _, rest = wanted_item.name.partition("/")
    (places.store("a") / shard).mkdir(exist_ok=True)
    (places.store("a") / shard / f"{rest}~2").write_bytes(b"often")
    os.link(places.store("a") / shard / f"{rest}~2", tmp_path / "path")
    assert places.gc("a", full=True).objects == 0
    assert os.path.samefile(places.store("a") / shard / rest, tmp_path / "path")


def test_checksums_of_contents_that_are_stored_no_more_are_forgotten(places: Places) -> None:
    places.export("a", 0)
    places.export("a", 3)
    sums = places.store("a") / "sums"

    def noted() -> int:
        return sum(file.stat().st_size for file in sums.iterdir()) // 32

    before = noted()
    told = places.gc("a", full=True)
    assert noted() == before - told.objects
    assert places.export("a", 3, repair=True).counts.get("fetched", 0) == 0


# ------------------------------------------------------------------------------------------------ catalogs, summaries


def test_catalogs_and_summaries_that_no_record_leads_to_go(places: Places) -> None:
    places.export("a", 0)
    first = places.kept("a")
    places.export("a", 0, fqrn=OTHER, spec="some")
    both = places.kept("a")
    places.export("a", 1)
    places.export("a", 0)
    told = places.gc("a")
    assert places.kept("a") == both
    assert told.kept_objects > 0
    assert told.summaries > 0
    places.remove("a", fqrn=OTHER, gc=True)
    assert places.kept("a") == first
    # Nothing of what is needed has to be fetched again, and catalogs are still passed by.
    result = places.export("a", 1)
    assert places.tree("a") == wanted(1)
    assert result.counts["fetched"] == 2


def test_without_summaries_the_catalogs_of_a_record_are_found_all_the_same(places: Places) -> None:
    places.export("a", 0)
    catalogs = {place for place in places.kept("a") if place.endswith("C")}
    shutil.rmtree(places.base("a") / ".provenance" / ".summaries")
    assert places.gc("a").kept_objects == 0
    assert places.kept("a") == catalogs


def test_no_catalog_goes_while_it_is_not_known_which_are_needed(places: Places) -> None:
    places.export("a", 0)
    places.export("a", 1)
    shutil.rmtree(places.base("a") / ".provenance" / ".summaries")
    (lost,) = (place for place in places.kept("a") if places.roots[FQRN][1][2:] in place)
    (places.base("a") / ".provenance" / lost).unlink()
    before = places.kept("a")
    told = places.gc("a")
    assert told.objects == 1
    assert any("no catalog was removed" in line for line in told.notices)
    assert places.kept("a") == before


def test_the_certificate_and_the_history_of_the_head_stay(repos: Path, tmp_path: Path, cli: Forks) -> None:
    (tmp_path / "s.spec").write_text("/special/swap/*\n")
    where = ["--storage", str(repos / "small.cern.ch"), "--key", str(repos / "keys" / "small.cern.ch.pub")]
    words = ["export", "-r", "small.cern.ch", *where, "-t", str(tmp_path / "s.spec"), "-z", str(tmp_path / "base")]
    for tag in ("rev1", "rev2"):
        cli.run(*words, "--tag", tag).ok()
    kept = tmp_path / "base" / ".provenance" / ".objects"

    def there(suffix: str) -> set[str]:
        return {file.name for file in kept.rglob(f"*{suffix}")}

    before = {suffix: there(suffix) for suffix in "CHX"}
    assert gc(str(tmp_path / "base")).kept_objects > 0
    assert (there("H"), there("X")) == (before["H"], before["X"])
    assert there("C") < before["C"]
    assert json.loads(cli.run(*words, "--tag", "rev2", "--json").ok().out)["reason"] == "unchanged"


def test_files_in_the_records_that_are_not_ours_stay(places: Places) -> None:
    places.export("a", 0)
    for place in (".objects/README", ".objects/00/notes", ".summaries/zz/file", ".summaries/00/file"):
        file = places.base("a") / ".provenance" / place
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    before = places.kept("a")
    places.gc("a")
    assert places.kept("a") == before


# ------------------------------------------------------------------------------------------------------------ killed


def test_a_collection_killed_at_any_call_is_finished_by_the_next(places: Places, cli: Forks) -> None:
    for name in ("quiet", "a"):
        places.export(name, 0, store=f"store-{name}", gc=True)
        places.export(name, 2, store=f"store-{name}")
    calls = cli.run("gc", str(places.base("quiet")), "--full").ok().calls
    assert places.garbage("quiet") == set()
    assert calls > 10
    for number in range(2, calls + 1, 3):
        assert cli.run("gc", str(places.base("a")), "--full", die_at=number).killed, number
        assert places.tree("a") == wanted(2)
        told = places.gc("a")
        assert places.garbage("a") == set(), number
        assert places.kept("a") == places.kept("quiet")
        assert told.notices == []
        places.export("a", 0, store="store-a")
        assert places.tree("a") == wanted(0)
        places.export("a", 2, store="store-a")
