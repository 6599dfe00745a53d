"""A store: where it may be, who made it, which destinations use it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from shrinkwrap.errors import DestinationError, LockedError
from shrinkwrap.tree import storage
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.storage import Storage, place_for


def make(dest: Path, store: Path | str = "") -> None:
    Base(str(dest), store=str(store)).close()


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def registered(store: Path) -> list[bytes]:
    return sorted(file.read_bytes() for file in (store / "bases").iterdir())


def all_of(*folders: Path) -> dict[str, tuple[int, int, int]]:
    """What a refusal must leave as it is."""
    return {
        str(path): (info.st_mode, info.st_mtime_ns, info.st_ino)
        for folder in folders
        for path in (folder, *folder.rglob("*"))
        if os.path.lexists(path) and (info := path.lstat())
    }


# ---------------------------------------------------------------------------------------------------------- where it is


def test_a_store_elsewhere_holds_the_files_and_the_destination_what_leads_there(tmp_path: Path) -> None:
    dest, store = tmp_path / "dest", tmp_path / "far" / "store"
    base = Base(str(dest), store=str(store))
    assert base.store.path == str(store)
    assert names(store) == ["bases", "lock", "store.json", "tmp"]
    assert os.listdir(store / "tmp") == os.listdir(dest / ".data" / "tmp") == [base.run]
    base.close()
    assert names(dest / ".data") == ["lock", "store.json", "tmp"]
    assert json.loads((dest / ".data" / "store.json").read_bytes()) == {"version": 1, "store": str(store)}
    assert os.listdir(store / "tmp") == os.listdir(dest / ".data" / "tmp") == []
    assert stat.S_IMODE(store.stat().st_mode) == stat.S_IMODE((dest / ".data").stat().st_mode) == 0o700


def test_a_store_in_the_destination_knows_of_no_others(tmp_path: Path) -> None:
    make(tmp_path)
    base = Base(str(tmp_path))
    assert base.store.path == str(tmp_path / ".data")
    assert list(base.store.bases()) == []
    assert len(base.lock) == 1
    base.close()


@pytest.mark.parametrize("given", ["dest/.data", "dest/.data/", "./dest/../dest/.data", "link/.data", "link2"])
def test_the_usual_place_may_be_named(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("dest")
    Path("link2").symlink_to("dest/.data")
    for _ in range(2):
        make(tmp_path / "dest", given)
        assert json.loads((tmp_path / "dest" / ".data" / "store.json").read_bytes()) == {"version": 1}
    make(tmp_path / "dest")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("dest", "it lies in"),
        ("dest/", "it lies in"),
        ("dest/sft.cern.ch", "it lies in"),
        ("dest/sft.cern.ch/lcg/store", "it lies in"),
        ("dest/.provenance", "it lies in"),
        ("dest/.provenance/.objects", "it lies in"),
        ("dest/.data/sub", "it lies in"),
        ("dest/store", "it lies in"),
        ("link/store", "it lies in"),
        (".", "the destination lies in it"),
        ("/", "the destination lies in it"),
        ("file", "is not a folder"),
        ("file/below", "is not a folder"),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_no_place_that_the_destination_has_another_use_for_can_be_a_store(
    there: bool, given: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dest = tmp_path / "dest"
    if there:
        make(dest)
        (dest / "sft.cern.ch" / "lcg").mkdir(parents=True)
    Path("link").symlink_to("dest")
    Path("file").touch()
    before = all_of(tmp_path)
    for look in (True, False) if there else (False,):
        with pytest.raises(DestinationError, match=why) as caught:
            Base(str(dest), store=given, look=look)
        assert caught.value.hint
    assert all_of(tmp_path) == before


def test_a_place_beside_the_destination_with_a_like_name_is_no_part_of_it(tmp_path: Path) -> None:
    dest = str(tmp_path / "dest")
    assert place_for(dest, str(tmp_path / "dest2")) == str(tmp_path / "dest2")
    assert place_for(dest, str(tmp_path / "dest.data")) == str(tmp_path / "dest.data")
    assert place_for(dest, "") == ""


def test_the_place_stays_and_need_not_be_named_again(tmp_path: Path) -> None:
    make(tmp_path / "dest", tmp_path / "store")
    for given in ("", tmp_path / "store", f"{tmp_path}/./store/"):
        base = Base(str(tmp_path / "dest"), store=str(given))
        assert base.store.path == str(tmp_path / "store")
        base.close()


@pytest.mark.parametrize("given", ["other", "new/one", "dest/.data"])
def test_another_place_than_the_recorded_one_is_refused_and_nothing_is_changed(given: str, tmp_path: Path) -> None:
    make(tmp_path / "dest", tmp_path / "store")
    make(tmp_path / "another", tmp_path / "other")
    before = all_of(tmp_path)
    for look in (False, True):
        with pytest.raises(DestinationError, match=f"its store is {tmp_path}/store, not {tmp_path}/{given}"):
            Base(str(tmp_path / "dest"), store=str(tmp_path / given), look=look)
    assert all_of(tmp_path) == before


def test_a_destination_with_a_store_of_its_own_keeps_it(tmp_path: Path) -> None:
    make(tmp_path / "dest")
    before = all_of(tmp_path)
    for look in (False, True):
        with pytest.raises(DestinationError, match=f"its store is {tmp_path}/dest/.data, not {tmp_path}/store"):
            Base(str(tmp_path / "dest"), store=str(tmp_path / "store"), look=look)
    assert all_of(tmp_path) == before


def test_what_another_first_run_decided_meanwhile_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if it had come between the look that is taken without the lock and the one with it.
    monkeypatch.setattr(Base, "_foresee", lambda *args, **options: None)
    make(tmp_path / "dest", tmp_path / "store")
    pointer = tmp_path / "dest" / ".data" / "store.json"
    before = pointer.read_bytes()
    with pytest.raises(DestinationError, match="its store is"):
        make(tmp_path / "dest", tmp_path / "other")
    assert pointer.read_bytes() == before
    assert not (tmp_path / "other").exists()


def test_the_store_that_lies_in_one_destination_may_serve_others(tmp_path: Path) -> None:
    make(tmp_path / "one")
    make(tmp_path / "two", tmp_path / "one" / ".data")
    make(tmp_path / "one")
    base = Base(str(tmp_path / "two"))
    assert list(base.store.bases()) == [str(tmp_path / "two")]
    with pytest.raises(LockedError):
        Base(str(tmp_path / "one"))
    base.close()


def test_a_folder_that_only_leads_to_a_store_is_none(tmp_path: Path) -> None:
    make(tmp_path / "one", tmp_path / "store")
    before = all_of(tmp_path)
    with pytest.raises(DestinationError, match="is no store") as caught:
        make(tmp_path / "two", tmp_path / "one" / ".data")
    assert str(tmp_path / "store") in caught.value.hint
    assert all_of(tmp_path) == before


@pytest.mark.parametrize("value", [5, None, ["/x"], "relative", "/nul\0", "/\ud800", True])
def test_a_pointer_that_leads_nowhere_is_refused(value: object, tmp_path: Path) -> None:
    make(tmp_path / "dest", tmp_path / "store")
    pointer = tmp_path / "dest" / ".data" / "store.json"
    pointer.write_text(json.dumps({"version": 1, "store": value}))
    before = all_of(tmp_path)
    for given in ("", str(tmp_path / "store")):
        for look in (False, True):
            with pytest.raises(DestinationError, match="no place for a store"):
                Base(str(tmp_path / "dest"), store=given, look=look)
    assert all_of(tmp_path) == before


# ------------------------------------------------------------------------------------------------- when it is not there


@pytest.mark.parametrize("left", ["nothing", "empty folder"])
def test_no_second_store_is_begun_where_the_first_one_is_not_mounted(left: str, tmp_path: Path) -> None:
    make(tmp_path / "dest", tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "away")
    if left == "empty folder":
        (tmp_path / "store").mkdir()
    before = all_of(tmp_path)
    for given in ("", str(tmp_path / "store")):
        for look in (False, True):
            with pytest.raises(DestinationError, match="is not there") as caught:
                Base(str(tmp_path / "dest"), store=given, look=look)
            assert "mount" in caught.value.hint
    assert all_of(tmp_path) == before


def test_a_link_leads_to_a_store_that_was_moved(tmp_path: Path) -> None:
    make(tmp_path / "dest", tmp_path / "store")
    (tmp_path / "store").rename(tmp_path / "moved")
    (tmp_path / "store").symlink_to("moved")
    for given in ("", "store", "moved"):
        base = Base(str(tmp_path / "dest"), store=str(tmp_path / given) if given else "")
        assert base.store.path == str(tmp_path / "moved")
        base.close()


def test_after_what_it_says_is_done_a_lost_store_is_begun_anew(tmp_path: Path) -> None:
    make(tmp_path / "dest", tmp_path / "store")
    storage.remove_tree(os.fsencode(tmp_path / "store"))
    with pytest.raises(DestinationError, match="is not there") as caught:
        make(tmp_path / "dest")
    assert f"remove {tmp_path}/dest/.data" in caught.value.hint
    storage.remove_tree(os.fsencode(tmp_path / "dest" / ".data"))
    make(tmp_path / "dest", tmp_path / "store")
    assert registered(tmp_path / "store") == [os.fsencode(tmp_path / "dest")]


# ------------------------------------------------------------------------------------------------------ who has made it


def test_a_folder_that_holds_other_things_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").touch()
    before = all_of(tmp_path)
    for look in (False, True):
        (tmp_path / "looked").mkdir(exist_ok=True)
        before = all_of(tmp_path)
        with pytest.raises(DestinationError, match="was not made by this tool"):
            Base(str(tmp_path / ("looked" if look else "dest")), store=str(tmp_path / "store"), look=look)
        assert all_of(tmp_path) == before
    assert not (tmp_path / "dest").exists()


def test_a_whole_file_system_may_be_the_store(tmp_path: Path) -> None:
    (tmp_path / "store" / "lost+found").mkdir(parents=True)
    make(tmp_path / "dest", tmp_path / "store")
    make(tmp_path / "dest")
    assert (tmp_path / "store" / "lost+found").is_dir()


@pytest.mark.root
def test_the_store_of_another_user_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "one", tmp_path / "store")
    os.chown(tmp_path / "store", 1, 1)
    before = all_of(tmp_path)
    with pytest.raises(DestinationError, match="belongs to user 1, not to 0"):
        make(tmp_path / "two", tmp_path / "store")
    with pytest.raises(DestinationError, match="belongs to user 1, not to 0"):
        make(tmp_path / "one")
    assert all_of(tmp_path) == before


@pytest.mark.parametrize("text", ['{"version": 2}', "{}", "[]", ""])
def test_a_store_elsewhere_of_another_version_is_refused(text: str, tmp_path: Path) -> None:
    make(tmp_path / "one", tmp_path / "store")
    (tmp_path / "store" / "store.json").write_text(text)
    (tmp_path / "store" / "tmp" / "work").mkdir()
    before = all_of(tmp_path)
    for dest in ("one", "two"):
        with pytest.raises(DestinationError, match=f"{tmp_path}/store/store.json: layout version"):
            make(tmp_path / dest, tmp_path / "store")
    assert all_of(tmp_path) == before


@pytest.mark.parametrize("where", ["dest/.data", "store"])
@pytest.mark.parametrize("left", [[], ["lock"], ["lock", "store.json.new"]])
def test_a_first_run_that_was_cut_off_is_gone_on_with(left: list[str], where: str, tmp_path: Path) -> None:
    (tmp_path / where).mkdir(mode=0o700, parents=True)
    for name in left:
        (tmp_path / where / name).touch()
    make(tmp_path / "dest", tmp_path / "store")
    make(tmp_path / "dest")
    assert names(tmp_path / "dest" / ".data") == ["lock", "store.json", "tmp"]


def test_two_destinations_of_a_store_exclude_each_other(tmp_path: Path) -> None:
    make(tmp_path / "two", tmp_path / "store")
    base = Base(str(tmp_path / "one"), store=str(tmp_path / "store"))
    for dest in ("two", "three"):
        for look in (False, True):
            (tmp_path / dest).mkdir(exist_ok=True)
            with pytest.raises(LockedError, match=f"{tmp_path}/store: another run .*process {os.getpid()} on "):
                Base(str(tmp_path / dest), store=str(tmp_path / "store"), look=look)
    growing = Path(base.store.path, os.fsdecode(base.store.tmp), "growing")
    growing.touch()
    with pytest.raises(LockedError):
        Base(str(tmp_path / "two"))
    assert growing.exists()
    base.close()
    looks = [Base(str(tmp_path / dest), look=True) for dest in ("one", "two")]
    for look in looks:
        look.close()


# ---------------------------------------------------------------------------------------------------------- who uses it


def test_each_destination_is_registered_once_with_its_name_as_it_is(tmp_path: Path) -> None:
    store = tmp_path / "store"
    strange = [
        os.fsdecode(os.fsencode(tmp_path) + name) for name in (b"/\xff\xfe", b"/new\nline", b"/ blank ", b"/x.new")
    ]
    for dest in strange * 2:
        make(Path(dest), store)
    assert registered(store) == sorted(os.fsencode(dest) for dest in strange)
    base = Base(strange[0], look=True)
    assert sorted(base.store.bases()) == sorted(strange)
    base.close()


def test_a_link_to_a_destination_is_no_other_destination(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("dest")
    make(tmp_path / "dest", tmp_path / "store")
    make(tmp_path / "link")
    assert registered(tmp_path / "store") == [os.fsencode(tmp_path / "dest")]


def test_a_destination_that_was_moved_is_registered_anew(tmp_path: Path) -> None:
    make(tmp_path / "dest", tmp_path / "store")
    (tmp_path / "dest").rename(tmp_path / "moved")
    make(tmp_path / "moved")
    assert registered(tmp_path / "store") == [os.fsencode(tmp_path / name) for name in ("dest", "moved")]


@pytest.mark.parametrize("spoil", ["empty", "cut off", "link", "pipe", "new", "gone"])
def test_a_registration_that_was_lost_is_made_again(spoil: str, tmp_path: Path) -> None:
    make(tmp_path / "dest", tmp_path / "store")
    (file,) = (tmp_path / "store" / "bases").iterdir()
    if spoil == "cut off":
        file.write_bytes(file.read_bytes()[:5])
    elif spoil == "empty":
        file.write_bytes(b"")
    elif spoil == "new":
        file.rename(f"{file}.new")
    else:
        file.unlink()
        if spoil == "link":
            file.symlink_to(tmp_path / "precious")
        elif spoil == "pipe":
            os.mkfifo(file)
    make(tmp_path / "dest")
    assert registered(tmp_path / "store") == [os.fsencode(tmp_path / "dest")]
    assert not (tmp_path / "precious").exists()


@pytest.mark.parametrize("text", [b"", b"relative", b"/nul\0", b"/" * (1 << 16)])
def test_a_registration_that_cannot_be_read_is_not_passed_over(text: bytes, tmp_path: Path) -> None:
    make(tmp_path / "dest", tmp_path / "store")
    (tmp_path / "store" / "bases" / "other").write_bytes(text)
    base = Base(str(tmp_path / "dest"), look=True)
    with pytest.raises(DestinationError, match="bases/other: does not name a destination"):
        list(base.store.bases())
    base.close()


def test_what_says_who_uses_a_store_is_on_disk_before_anything_leads_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(fd: int) -> None:
        done.append("sync " + os.readlink(f"/proc/self/fd/{fd}").removeprefix(f"{tmp_path}/"))
        real_fsync(fd)

    def rename(one: bytes, two: bytes, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        place = os.readlink(f"/proc/self/fd/{dst_dir_fd}").removeprefix(f"{tmp_path}/")
        done.append(f"name {place}/{os.fsdecode(two)}")
        real_rename(one, two, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    make(tmp_path / "dest", tmp_path / "far" / "store")
    file = next((tmp_path / "far" / "store" / "bases").iterdir()).name
    wanted = [
        "sync far",  # the folder of the store
        *("sync far/store/store.json.new", "name far/store/store.json", "sync far/store"),
        "sync far/store",  # the folder of the registrations
        *(f"sync far/store/bases/{file}.new", f"name far/store/bases/{file}", "sync far/store/bases"),
        *("sync dest/.data/store.json.new", "name dest/.data/store.json", "sync dest/.data"),
    ]
    left = iter(done)
    assert all(step in left for step in wanted), done
    done.clear()
    make(tmp_path / "dest")
    assert done == []


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"{}", b'{"boot_id": 1, "since": 2}', b'{"boot_id": "x", "since": true}']
)
def test_a_note_of_doubt_that_cannot_be_read_is_as_good_as_the_worst(text: bytes, tmp_path: Path) -> None:
    base = Base(str(tmp_path))
    assert base.store.doubts() is None
    base.store.doubt("one", 7)
    base.store.doubt("two", 9)
    assert base.store.doubts() == ("two", 7)
    (tmp_path / ".data" / "doubt.json").write_bytes(text)
    assert base.store.doubts() == ("", 0)
    base.store.settle()
    base.store.settle()
    assert base.store.doubts() is None
    base.close()


# ---------------------------------------------------------------------------------------------------------------- alone


def test_nothing_but_the_lock_is_written_before_a_run_begins(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    one = Storage(str(tmp_path / "store"), "run", wait=False)
    one.close()
    one.close()
    assert names(tmp_path / "store") == ["lock"]
    assert one.lock == ()


def test_a_store_that_is_only_looked_at_stays_as_it_is(tmp_path: Path) -> None:
    make(tmp_path / "dest", tmp_path / "store")
    (tmp_path / "store" / "tmp" / "left").mkdir()
    before = all_of(tmp_path)
    for wait in (False, True, None):
        one = Storage(str(tmp_path / "store"), "run", wait=wait, look=True, shared=True)
        assert one.description == {"version": 1}
        one.close()
    assert all_of(tmp_path) == before
