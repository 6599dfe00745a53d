"""Whatever is changed in a tree by hand is found, and nothing else; and nothing is written by who only looks."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cvmfs import signing
from tree.verifying import FILES, Place, cases, copied, fill, make, rewrite, trace

from shrinkwrap.errors import DestinationError, LockedError, TrustError, UsageError, VerificationFailed
from shrinkwrap.snapshot.repository import Pin
from shrinkwrap.spec.grammar import parse
from shrinkwrap.tree import mend as mending
from shrinkwrap.tree import scrub
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.findings import LISTED

LINK_MODES = ("hardlink", "copy")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Base, "sync", lambda self: None)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    """Exports by link mode, to be copied."""
    return {mode: make(tmp_path_factory.mktemp(mode), link_mode=mode) for mode in LINK_MODES}


@pytest.fixture
def place(made: dict[str, Place], tmp_path: Path) -> Place:
    return copied(made["hardlink"], tmp_path)


@pytest.fixture
def copies(made: dict[str, Place], tmp_path: Path) -> Place:
    """An export with copies instead of links."""
    return copied(made["copy"], tmp_path)


# ------------------------------------------------------------------------------------------------------ a clean export


@pytest.mark.parametrize("options", [{}, {"marker": True}, {"share_mtime": True}, {"world_readable": True}])
@pytest.mark.parametrize("link_mode", LINK_MODES)
def test_nothing_differs_after_an_export(link_mode: str, options: dict[str, Any], tmp_path: Path) -> None:
    place = make(tmp_path, link_mode=link_mode, **options)
    result = place.verify_all(content=True, chain=True)
    (found,) = result.repositories
    assert (found.differences, found.cases, found.unchecked, found.notes) == ({}, [], {}, [])
    assert result.ok
    assert result.store is not None
    assert result.store.differences == {}
    assert found.compared["files"] == FILES
    assert found.content is not None
    assert found.content["same"] == found.content["inodes"] == (FILES - 2 if link_mode == "hardlink" else FILES)
    stored = result.store.content
    assert stored is not None
    assert stored["files"] == stored.get("same", 0) == (0 if link_mode == "hardlink" else FILES - 2)
    result.check()


def test_all_checksums_are_known_after_each_update(place: Place) -> None:
    for number in (1, 2, 0):
        place.publish(number, revision=10 + number)
        place.export(allow_rollback=True)
        found = place.verify(content=True)
        assert found.differences == {}
        assert found.content is not None
        assert set(found.content) == {"files", "inodes", "bytes", "same"}


def test_a_smaller_specification_is_verified_as_such(place: Place) -> None:
    place.export(spec=parse(b"/bin/tool\n/lcg/inner/*\n/da*/chunked\n"))
    found = place.verify(content=True, chain=True)
    assert found.differences == {}
    assert found.compared["files"] == 4
    assert found.chain is not None
    assert found.chain.holds


@pytest.mark.parametrize("link_mode", LINK_MODES)
def test_nothing_is_written_or_touched(link_mode: str, made: dict[str, Place], tmp_path: Path) -> None:
    place = copied(made[link_mode], tmp_path)
    (place.tree / "bin" / "surplus").write_bytes(b"x")
    before = trace(place.base)
    assert not place.verify_all(content=True, chain=True).ok
    assert trace(place.base) == before


def test_a_run_that_is_at_work_is_not_disturbed(place: Place) -> None:
    with (place.base / ".data" / "lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError):
            place.verify()
        fcntl.flock(file, fcntl.LOCK_SH)
        assert place.verify().differences == {}


# ------------------------------------------------------------------------------------------------- changed by hand


def mode(tree: Path) -> None:
    (tree / "data" / "chunked").chmod(0o600)


def mode_of_a_directory(tree: Path) -> None:
    (tree / "data").chmod(0o700)


def time_of_a_file(tree: Path) -> None:
    os.utime(tree / "data" / "chunked", ns=(1, 1))


def time_to_the_second(tree: Path) -> None:
    second = (tree / "data" / "chunked").stat().st_mtime_ns // 10**9
    os.utime(tree / "data" / "chunked", ns=(1, second * 10**9))


def time_of_a_link(tree: Path) -> None:
    os.utime(tree / "bin" / "link", ns=(1, 1), follow_symlinks=False)


def time_of_a_directory(tree: Path) -> None:
    os.utime(tree / "lcg" / "sub", ns=(1, 1))


def shorter(tree: Path) -> None:
    rewrite(tree / "data" / "chunked", b"short")


def gone(tree: Path) -> None:
    _kept(tree / "bin", lambda: (tree / "bin" / "tool").unlink())


def directory_gone(tree: Path) -> None:
    _kept(tree / "lcg", lambda: shutil.rmtree(tree / "lcg" / "inner"))


def link_gone(tree: Path) -> None:
    _kept(tree / "bin", lambda: (tree / "bin" / "variant").unlink())


def one_more(tree: Path) -> None:
    _kept(tree / "lcg" / "sub", lambda: (tree / "lcg" / "sub" / "surplus").write_bytes(b"x"))


def one_more_directory(tree: Path) -> None:
    _kept(tree / "lcg", lambda: (tree / "lcg" / "more" / "and" / "more").mkdir(parents=True))


def one_more_pipe(tree: Path) -> None:
    _kept(tree, lambda: os.mkfifo(tree / "pipe"))


def target(tree: Path) -> None:
    link = tree / "bin" / "variant"

    def change() -> None:
        when = link.lstat().st_mtime_ns
        link.unlink()
        link.symlink_to("aarch64/tool")
        os.utime(link, ns=(when, when), follow_symlinks=False)

    _kept(tree / "bin", change)


def attribute(tree: Path) -> None:
    os.setxattr(tree / "data" / "attributes", "user.one", b"2")


def attribute_gone(tree: Path) -> None:
    os.removexattr(tree / "data" / "attributes", "user.two")


def one_more_attribute(tree: Path) -> None:
    os.setxattr(tree / "data" / "plain", "user.new", b"")


def attribute_of_a_directory(tree: Path) -> None:
    os.setxattr(tree / "data" / "attributed", "user.dir", b"e")


def directory_for_a_file(tree: Path) -> None:
    def change() -> None:
        (tree / "bin" / "tool").unlink()
        (tree / "bin" / "tool" / "below").mkdir(parents=True)

    _kept(tree / "bin", change)


def link_for_a_directory(tree: Path) -> None:
    def change() -> None:
        (tree / "lcg" / "inner").rename(tree.parent / "elsewhere")
        (tree / "lcg" / "inner").symlink_to("../../elsewhere")

    _kept(tree / "lcg", change)


def pipe_for_a_file(tree: Path) -> None:
    def change() -> None:
        (tree / "data" / "plain").unlink()
        os.mkfifo(tree / "data" / "plain")

    _kept(tree / "data", change)


def another_inode(tree: Path) -> None:
    def change() -> None:
        shutil.copy2(tree / "data" / "plain", tree / "data" / "copy")
        (tree / "data" / "copy").rename(tree / "data" / "plain")

    _kept(tree / "data", change)


def nothing_left(tree: Path) -> None:
    shutil.rmtree(tree)


def _kept(folder: Path, change: Callable[[], object]) -> None:
    """A change of a folder that does not show in its time."""
    when = folder.stat().st_mtime_ns
    change()
    os.utime(folder, ns=(when, when))


CHANGES: list[tuple[Callable[[Path], None], list[tuple[str, bytes]]]] = [
    (mode, [("mode", b"/data/chunked")]),
    (mode_of_a_directory, [("mode", b"/data")]),
    (time_of_a_file, [("mtime", b"/data/chunked")]),
    (time_to_the_second, [("mtime", b"/data/chunked")]),
    (time_of_a_link, [("mtime", b"/bin/link")]),
    (time_of_a_directory, [("mtime", b"/lcg/sub")]),
    (shorter, [("size", b"/data/chunked")]),
    (gone, [("missing", b"/bin/tool")]),
    (directory_gone, [("missing", b"/lcg/inner")]),
    (link_gone, [("missing", b"/bin/variant")]),
    (one_more, [("surplus", b"/lcg/sub/surplus")]),
    (one_more_directory, [("surplus", b"/lcg/more")]),
    (one_more_pipe, [("surplus", b"/pipe")]),
    (target, [("target", b"/bin/variant")]),
    (attribute, [("xattr", b"/data/attributes")]),
    (attribute_gone, [("xattr", b"/data/attributes")]),
    (one_more_attribute, [("xattr", b"/data/plain")]),
    (attribute_of_a_directory, [("xattr", b"/data/attributed")]),
    (directory_for_a_file, [("kind", b"/bin/tool")]),
    (link_for_a_directory, [("kind", b"/lcg/inner")]),
    (pipe_for_a_file, [("kind", b"/data/plain")]),
    (another_inode, [("hard_link", b"/data/plain")]),
    (nothing_left, [("missing", b"")]),
]


def names(changes: list[tuple[Callable[[Path], None], Any]]) -> list[Any]:
    return [pytest.param(change, expected, id=change.__name__) for change, expected in changes]


@pytest.mark.parametrize(("change", "expected"), names(CHANGES))
def test_a_change_by_hand_is_found_and_nothing_else(
    change: Callable[[Path], None], expected: list[tuple[str, bytes]], place: Place
) -> None:
    change(place.tree)
    found = place.verify()
    assert cases(found) == expected
    assert sum(found.differences.values()) == len(expected)
    with pytest.raises(VerificationFailed):
        place.verify_all().check()


@pytest.mark.parametrize(("change", "expected"), names([one for one in CHANGES if one[0] is not another_inode]))
def test_so_it_is_where_files_are_copies(
    change: Callable[[Path], None], expected: list[tuple[str, bytes]], copies: Place
) -> None:
    change(copies.tree)
    assert cases(copies.verify()) == expected


@pytest.mark.root
def test_a_change_of_owner_is_found(place: Place) -> None:
    for path in ("data/chunked", "lcg", "bin/link"):
        os.chown(place.tree / path, 1234, 5678, follow_symlinks=False)
    found = place.verify()
    assert cases(found) == [("owner", b"/bin/link"), ("owner", b"/data/chunked"), ("owner", b"/lcg")]
    assert {case.found for case in found.cases} == {"1234:5678"}
    assert place.verify(owners=False).differences == {}


def test_all_paths_of_a_changed_inode_are_named(place: Place) -> None:
    (place.tree / "bin" / "tool").chmod(0o700)
    assert cases(place.verify()) == [("mode", b"/bin/again"), ("mode", b"/bin/tool"), ("mode", b"/bin/twin")]


@pytest.mark.parametrize("link_mode", LINK_MODES)
@pytest.mark.parametrize("path", ["data/chunked", "data/plain", "lcg/inner/deep"])
def test_another_content_of_the_same_size_and_time_is_found_by_reading(
    path: str, link_mode: str, made: dict[str, Place], tmp_path: Path
) -> None:
    place = copied(made[link_mode], tmp_path)
    file = place.tree / path
    rewrite(file, bytes(file.stat().st_size))
    assert place.verify().differences == {}
    assert cases(place.verify(content=True)) == [("content", b"/" + path.encode())]


def test_a_file_under_the_name_of_another_is_found(place: Place) -> None:
    inner = place.tree / "lcg" / "sub"
    info = inner.stat()
    (inner / "file").unlink()
    os.link(place.tree / "data" / "empty", inner / "file")
    os.utime(inner, ns=(info.st_mtime_ns, info.st_mtime_ns))
    assert cases(place.verify()) == [("size", b"/lcg/sub/file")]


def stored_deeper(place: Place) -> Path:
    (file,) = [file for file in (place.base / ".data").glob("??/*") if file.read_bytes() == b"deeper"]
    return file


def test_a_stored_file_that_no_path_shows_is_read_too(copies: Place) -> None:
    file = stored_deeper(copies)
    rewrite(file, b"Deeper")
    result = copies.verify_all(content=True)
    assert result.repositories[0].differences == {}
    assert result.store is not None
    assert cases(result.store) == [("stored", f"{file.parent.name}/{file.name}".encode())]
    assert not result.ok


def test_a_stored_file_that_is_gone_is_told(place: Place) -> None:
    place.stored("data/plain").unlink()
    assert cases(place.verify()) == [("not_stored", b"/data/plain")]


def test_the_marker_is_known_and_looked_at(tmp_path: Path) -> None:
    place = make(tmp_path, marker=True)
    (marker,) = place.tree.glob("DO_NOT_MODIFY*")
    rewrite(marker, b"Do modify")
    assert cases(place.verify()) == [("content", b"/" + os.fsencode(marker.name))]
    marker.unlink()
    os.utime(place.tree, ns=(0, json.loads((place.records / "record.json").read_text())["timestamp"]))
    assert ("missing", b"/" + os.fsencode(marker.name)) in cases(place.verify())


def test_what_the_repository_has_and_a_tree_cannot_show_is_not_expected(place: Place) -> None:
    root = fill(place.publisher)
    root.special(b"/pipe", 0o010000)
    root.link(b"/bin/nowhere", b"$(NOT_SET)")
    place.publisher.publish(root)
    result = place.export()
    assert result.report.counts["special_file"] == result.report.counts["empty_link_target"] == 1
    assert place.verify(content=True).differences == {}


def test_many_differences_are_all_counted_and_the_first_listed(place: Place) -> None:
    for number in range(LISTED + 5):
        (place.tree / "data" / f"surplus{number}").touch()
    found = place.verify()
    assert found.differences["surplus"] == LISTED + 5
    assert len(found.cases) == LISTED
    told = found.to_json()
    assert told["more"] == sum(found.differences.values()) - LISTED


def test_a_missing_directory_tells_what_was_in_it(place: Place) -> None:
    shutil.rmtree(place.tree / "lcg")
    (case,) = [case for case in place.verify().cases if case.what == "missing"]
    assert (case.path, case.expected) == (b"/lcg", "directory with 5 paths in it")


# ---------------------------------------------------------------------------------------------- records and catalogs


def test_a_destination_without_records_is_told_so(place: Place, tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match="no record of an export of other"):
        place.verify(repositories=("other.example.org",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DestinationError, match="no record of an export"):
        place.verify(tmp_path / "empty")
    with pytest.raises(DestinationError):
        place.verify(tmp_path / "absent")


@pytest.mark.parametrize("text", ["{}", "no JSON", "[" * 100_000, '{"version": 1, "goal": {}}'])
def test_a_record_that_cannot_be_read_is_a_difference(text: str, place: Place) -> None:
    (place.records / "record.json").write_text(text)
    assert cases(place.verify(content=True, chain=True)) == [("record", b"")]


def test_a_record_of_another_repository_is_a_difference(place: Place) -> None:
    other = place.records.parent / "other.example.org"
    shutil.copytree(place.records, other)
    result = place.verify_all(repositories=("other.example.org",))
    assert cases(result.repositories[0]) == [("record", b"")]


def test_pipes_in_place_of_records_hold_nobody_up(place: Place) -> None:
    provenance = place.base / ".provenance"
    chosen = [*place.records.iterdir(), *provenance.glob(".objects/??/*C"), *provenance.glob(".summaries/??/*")]
    for file in [*(one for one in chosen if one.name != "record.json"), place.base / ".data" / "lock"]:
        file.unlink()
        os.mkfifo(file)
    found = place.verify(content=True, chain=True)
    assert set(found.differences) == {"catalog"}
    assert found.unchecked
    assert found.chain is not None
    assert not found.chain.holds


def test_a_run_that_was_cut_off_is_told(place: Place) -> None:
    (place.records / "intent.json").write_text("{}")
    assert cases(place.verify()) == [("unfinished", b"")]


def kept_catalogs(place: Place) -> dict[bytes, Path]:
    """Files of the kept catalogs, by mount."""
    found = {}
    with place.publisher.open(keep=place.base / ".provenance" / ".objects") as opened:
        refs = [place.published.root]
        while refs:
            ref = refs.pop()
            assert ref.digest is not None
            path = ref.digest.object_path("C").removeprefix("data/")
            found[ref.mount] = place.base / ".provenance" / ".objects" / path
            catalog = opened.catalogs.open(ref)
            refs.extend(catalog.nested.values())
            opened.catalogs.release(catalog)
    return found


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": lambda file: file.unlink(),
    "one bit": lambda file: file.write_bytes(bytes((file.read_bytes()[0] ^ 1,)) + file.read_bytes()[1:]),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-1]),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("mount", [b"", b"/lcg", b"/lcg/inner"])
def test_summaries_stand_in_for_lost_catalogs(mount: bytes, damage: str, place: Place) -> None:
    DAMAGES[damage](kept_catalogs(place)[mount])
    before = trace(place.base)
    found = place.verify(content=True, chain=True)
    assert cases(found) == [("catalog", mount)]
    assert trace(place.base) == before
    assert found.compared["files"] == FILES
    assert found.content is not None
    assert found.content["same"] == FILES - 2
    assert found.chain is not None
    assert not found.chain.holds
    # What is below is looked at as ever.
    (place.tree / "lcg" / "inner" / "deep").chmod(0o600)
    os.setxattr(place.tree / "data" / "attributes", "user.one", b"2")
    assert cases(place.verify()) == [("catalog", mount), ("mode", b"/lcg/inner/deep"), ("xattr", b"/data/attributes")]


def test_without_catalog_and_summary_the_rest_is_compared(place: Place) -> None:
    kept_catalogs(place)[b"/lcg/inner"].unlink()
    shutil.rmtree(place.base / ".provenance" / ".summaries")
    (place.tree / "bin" / "version").chmod(0o600)
    found = place.verify(content=True, chain=True)
    assert cases(found) == [("catalog", b"/lcg/inner"), ("mode", b"/bin/version")]
    assert found.unchecked == {"unknown": 2}
    assert found.compared["files"] == FILES - 2
    assert found.chain is not None
    assert {what for what, _ in found.chain.problems} == {"catalog of /lcg/inner", "statement"}
    assert any("not known" in note for note in found.notes)


def test_without_summaries_contents_are_proved_against_their_digests(place: Place) -> None:
    shutil.rmtree(place.base / ".provenance" / ".summaries")
    found = place.verify(content=True)
    assert found.differences == {}
    assert found.content is not None
    # What publishers store is what stock zlib makes at level 6; these do.
    assert found.content["proved"] + found.content.get("not_proved", 0) == FILES - 2
    rewrite(place.tree / "data" / "plain", b"As it is" * 100)
    assert cases(place.verify(content=True)) == [("content", b"/data/plain")]


def test_a_file_of_mode_0000_is_told_of_and_no_difference(place: Place) -> None:
    root = place.publisher.catalog()
    root.file(b"/closed", b"nobody reads it", mode=0)
    root.dir(b"/shut", mode=0o300)
    root.file(b"/shut/inside", b"x")
    place.publisher.publish(root)
    place.export()
    found = place.verify(content=True)
    assert found.differences == {}
    root_user = os.getuid() == 0
    assert found.unchecked == ({} if root_user else {"shut": 1, "unreadable": 1})


# ------------------------------------------------------------------------------------------------------ many processes


def test_several_processes_find_the_same(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("data/plain", "lcg/inner/deep"):
        file = place.tree / path
        rewrite(file, bytes(file.stat().st_size))
    one = place.verify(content=True)
    monkeypatch.setattr(scrub, "_ALONE_FILES", 0)
    monkeypatch.setattr(scrub, "_BATCH_FILES", 2)
    several = place.verify(content=True, workers=2)
    assert several.to_json() == one.to_json()
    assert cases(one) == [("content", b"/data/plain"), ("content", b"/lcg/inner/deep")]


def test_each_inode_is_read_once(place: Place) -> None:
    found = place.verify(content=True)
    assert found.content is not None
    assert found.content["files"] - found.content["inodes"] == 2


# ------------------------------------------------------------------------------------------------------------- mending


def runs(place: Place) -> list[Any]:
    return [json.loads(line) for line in (place.records / "runs.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("change", "expected"), names(CHANGES))
def test_repair_mends_it(change: Callable[[Path], None], expected: list[tuple[str, bytes]], place: Place) -> None:
    change(place.tree)
    found = place.verify(repair=True)
    assert sum(found.mended.values()) == len(expected)
    assert (found.differences, found.reason) == ({}, "done")
    assert place.verify(content=True, chain=True).differences == {}


@pytest.mark.parametrize(("change", "expected"), names(CHANGES))
def test_repair_of_copies_mends_it(
    change: Callable[[Path], None], expected: list[tuple[str, bytes]], copies: Place
) -> None:
    change(copies.tree)
    assert copies.verify(repair=True).differences == {}
    assert copies.verify(content=True).differences == {}


def test_repair_fetches_what_is_broken_and_nothing_else(place: Place) -> None:
    before = {name: (place.records / name).read_bytes() for name in ("record.json", "statement.json")}
    for path in ("data/plain", "lcg/inner/deep", "bin/tool"):
        file = place.tree / path
        rewrite(file, bytes(file.stat().st_size))
    assert sum(place.verify(content=True).differences.values()) == 3
    made = len(runs(place))
    found = place.verify(content=True, repair=True)
    assert found.mended == {"content": 3}
    assert found.repaired is not None
    assert found.repaired["fetched"] == 3
    assert [run["requests"] for run in runs(place)[made:]] == [3]
    assert place.verify(content=True).differences == {}
    assert (place.tree / "bin" / "twin").read_bytes() == b"a tool"
    assert before == {name: (place.records / name).read_bytes() for name in before}


def test_repair_has_nothing_to_do_where_nothing_is_broken(place: Place) -> None:
    before = trace(place.base)
    found = place.verify(content=True, repair=True)
    assert (found.reason, found.repaired) == ("done", None)
    assert trace(place.base) == before


def test_repair_mends_the_revision_of_the_record_when_the_head_has_moved(place: Place) -> None:
    old = (place.tree / "bin" / "version").read_bytes()
    place.publish(7)
    shutil.rmtree(place.tree / "bin")
    assert place.verify(repair=True).differences == {}
    assert (place.tree / "bin" / "version").read_bytes() == old
    assert place.export().counts["changed"] > 0


def test_repair_of_a_pinned_export_keeps_its_pin(place: Place) -> None:
    place.publish(7)
    place.export(pin=Pin(tag="first"))
    statement = (place.records / "statement.json").read_bytes()
    (place.tree / "bin" / "version").write_bytes(b"x" * 5)
    assert place.verify(repair=True).differences == {}
    assert (place.records / "statement.json").read_bytes() == statement
    assert place.export(pin=Pin(tag="first")).reason == "unchanged"


def test_repair_brings_lost_catalogs_and_summaries_again(place: Place) -> None:
    files = kept_catalogs(place)
    contents = {mount: file.read_bytes() for mount, file in files.items()}
    files[b"/lcg"].unlink()
    DAMAGES["one bit"](files[b"/lcg/inner"])
    shutil.rmtree(place.base / ".provenance" / ".summaries")
    assert place.verify(repair=True).differences == {}
    assert {mount: file.read_bytes() for mount, file in files.items()} == contents
    found = place.verify(content=True, chain=True)
    assert (found.differences, found.notes) == ({}, [])
    assert found.content is not None
    assert found.content["same"] == FILES - 2


def test_repair_of_copies_mends_broken_stored_files(copies: Place) -> None:
    file = stored_deeper(copies)
    rewrite(file, b"Deeper")
    result = copies.verify_all(content=True, repair=True)
    assert result.ok
    assert result.store is not None
    assert result.store.mended == {"stored": 1}
    assert copies.verify_all(content=True).ok
    assert file.read_bytes() == b"deeper"


def test_repair_goes_on_where_a_run_was_cut_off(place: Place) -> None:
    (place.records / "intent.json").write_text("{}")
    (place.tree / "bin" / "tool").unlink()
    assert place.verify(repair=True).differences == {}


def test_repair_of_what_nobody_vouches_for_is_refused(place: Place) -> None:
    (place.tree / "bin" / "tool").unlink()
    stranger = [signing.stranger().master]
    with pytest.raises(TrustError, match="signed with none of the master keys"):
        place.verify(repair=True, keys=stranger)
    found = place.verify(repair=True, chain=True, keys=stranger)
    assert found.reason == "trust"
    assert found.repaired is None
    assert not (place.tree / "bin" / "tool").exists()


def test_an_unsigned_export_is_mended_as_it_was_made(place: Place) -> None:
    shutil.rmtree(place.base)
    pin = Pin(root_hash=place.published.root_hash, unsigned=True)
    place.export(pin=pin, keys=())
    before = (place.records / "statement.json").read_bytes()
    (place.tree / "bin" / "tool").unlink()
    assert place.verify(repair=True, keys=()).differences == {}
    assert (place.records / "statement.json").read_bytes() == before
    assert place.export(pin=pin, keys=()).reason == "unchanged"


def test_repair_asks_the_servers_where_no_kept_signature_vouches(place: Place) -> None:
    for name in ("manifest", "head.json"):
        (place.records / name).unlink()
    (place.tree / "bin" / "tool").unlink()
    place.publish(7)
    made = len(runs(place))
    assert place.verify(repair=True).differences == {}
    # Manifest, certificate, whitelist and the history, in which the first revision is tagged.
    assert 0 < runs(place)[made]["requests"] <= 5
    (place.tree / "bin" / "tool").unlink()
    place.publish(8, history=False)
    with pytest.raises(TrustError, match="not in the signed history"):
        place.verify(repair=True)
    assert not (place.tree / "bin" / "tool").exists()


def test_a_store_elsewhere_is_looked_into_and_mended(tmp_path: Path) -> None:
    place = make(tmp_path, store=str(tmp_path / "store"))
    assert place.verify_all(content=True).store is not None
    file = place.tree / "data" / "plain"
    rewrite(file, bytes(800))
    another_inode(place.tree)
    assert cases(place.verify(content=True)) == [("content", b"/data/plain"), ("hard_link", b"/data/plain")]
    assert place.verify(content=True, repair=True).differences == {}
    assert place.verify_all(content=True).ok


def test_an_export_changed_meanwhile_is_not_mended(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.tree / "bin" / "tool").unlink()
    made = mending.mend

    def another_first(*args: Any) -> Any:
        place.publish(3)
        place.export()
        return made(*args)

    monkeypatch.setattr(mending, "mend", another_first)
    with pytest.raises(LockedError, match="another run has changed"):
        place.verify(repair=True)


def test_repair_needs_the_records_of_the_destination(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.base / ".provenance", tmp_path / "saved" / ".provenance")
    (place.tree / "bin" / "tool").unlink()
    with pytest.raises(UsageError, match="records of the destination only"):
        place.verify(repair=True, records=str(tmp_path / "saved"))


def test_a_case_says_what_was_expected_and_what_was_found(place: Place) -> None:
    (place.tree / "data" / "chunked").chmod(0o600)
    assert [str(case) for case in place.verify().cases] == ["mode: /data/chunked: 0600 instead of 0644"]
