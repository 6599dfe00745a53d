"""``plan``: to the number what an export then makes, what a destination lacks of it, and whether there is room."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli.calling import Result, call
from support import golden
from support.exporting import groups, stored_files
from support.golden import Pinned

from shrinkwrap.snapshot.session import Session
from shrinkwrap.survey.plan import Plan
from shrinkwrap.survey.room import needs
from shrinkwrap.survey.sums import Sum

FQRN = "small.cern.ch"
SPEC = b"/special/swap/*\n/special/mtime/*\n/special/own/*\n/special/hard/*\n/data/*\n^/lcg/views/*\n"


@pytest.fixture(scope="module")
def folder(repos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A specification, and an export of it at ``there``: an older revision."""
    made = tmp_path_factory.mktemp("plans")
    (made / "some.spec").write_bytes(SPEC)
    call("export", *repository(repos, "rev1"), *wish(made), "-z", made / "there", "--workers", "1").ok()
    return made


def repository(repos: Path, tag: str = "rev2") -> list[str | Path]:
    key = repos / "keys" / f"{FQRN}.pub"
    return ["-r", FQRN, "--storage", repos / FQRN, "--key", key, "--tag", tag]


def wish(folder: Path) -> list[str | Path]:
    return [
        "-t",
        folder / "some.spec",
        *(word for name, value in golden.ENVIRONMENT.items() for word in ("--env", f"{name}={value}")),
    ]


def said(result: Result) -> dict[str, Any]:
    value = json.loads(result.out.splitlines()[-1])
    assert value["command"] == "plan"
    assert value["exit_code"] == result.code
    return dict(value)


def used(base: Path) -> tuple[int, int]:
    """Bytes on disk and inodes of all that is there."""
    seen = {}
    for place, folders, files in os.walk(base):
        for name in (*folders, *files):
            info = os.lstat(os.path.join(place, name))
            seen[info.st_ino] = info.st_blocks * 512
    return sum(seen.values()), len(seen)


def test_an_export_stores_what_the_plan_says(folder: Path, repos: Path, tmp_path: Path) -> None:
    plan = said(call("plan", *repository(repos), *wish(folder), "-z", tmp_path / "new", "--json").ok())
    export = json.loads(
        call("export", *repository(repos), *wish(folder), "-z", tmp_path / "new", "--json", "--workers", "1").ok().out
    )
    assert not set(plan["tree"].items()) - set(export["counts"].items() | {("bytes", export["counts"]["bytes"])})
    assert plan["stored"]["contents"] == export["counts"]["fetched"] == len(groups(tmp_path / "new"))
    files = stored_files(tmp_path / "new").values()
    assert plan["stored"]["inodes"] == len(files)
    assert plan["stored"]["inode_bytes"] == sum(file.lstat().st_size for file in files)
    assert [(line["line"], line["matched"]) for line in plan["lines"]] == [
        (line["line"], line["matched"]) for line in export["lines"]
    ]
    # The room that it needs is an upper bound, and no wild one; catalogs and statements are not in it.
    there = plan["destination"]
    shutil.rmtree(tmp_path / "new" / ".provenance")
    (place,) = there["file_systems"]
    size, inodes = used(tmp_path / "new")
    assert size <= place["needed"]["bytes"] <= size + (2 << 20)
    assert inodes <= place["needed"]["inodes"] <= inodes + 300
    assert (place["holds"], place["enough"], there["enough"]) == (["store", "tree"], True, True)
    assert plan["download"]["estimate"] == there["bytes"]["download"]


def test_a_destination_is_held_against_it_and_nothing_there_changes(folder: Path, repos: Path) -> None:
    before = used(folder / "there")
    plan = said(call("plan", *repository(repos), *wish(folder), "-z", folder / "there", "--json").ok())
    dry = json.loads(
        call("export", *repository(repos), *wish(folder), "-z", folder / "there", "--dry-run", "--json").ok().out
    )
    there = plan["destination"]
    for name in ("to_fetch", "to_link", "to_make_dirs", "to_replace", "to_touch_dirs", "to_remove"):
        assert there[name] == dry["counts"][name]
    assert there["to_remove"] > 0
    assert there["to_fetch"] > 0
    assert there["bytes"] == {name: dry["bytes"][name] for name in ("to_fetch", "download")}
    assert not there["unchanged"]
    same = said(call("plan", *repository(repos, "rev1"), *wish(folder), "-z", folder / "there", "--json").ok())
    assert same["destination"]["unchanged"]
    assert same["destination"]["file_systems"][0]["needed"] == {"bytes": 0, "inodes": 0}
    assert used(folder / "there") == before


def test_people_read_lines_directories_and_sums(folder: Path, repos: Path) -> None:
    result = call("plan", *repository(repos), *wish(folder), "-z", folder / "there", "--by-directory", "1").ok()
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[0] == ["files", "dirs", "links", "bytes", "directory"]
    assert [line[-1] for line in lines[1:4]] == ["/data", "/lcg", "/special"]
    assert lines[4] == ["files", "dirs", "links", "bytes", "alone", "line"]
    assert [line[-1] for line in lines[5:11]] == SPEC.decode().split()
    words = {line[0] for line in lines[12:]}
    assert {"tree", "bytes", "contents", "store", "download", "fetch", "link", "change", "remove", "room"} <= words
    assert f"{FQRN} revision 3 (rev2), a plan" in result.out


def test_directories_and_the_plan_are_objects_a_line_each(folder: Path, repos: Path) -> None:
    result = call("plan", *repository(repos), *wish(folder), "--by-directory", "2", "--json").ok()
    *rows, last = (json.loads(line) for line in result.out.splitlines())
    assert {row["directory"] for row in rows} >= {"/data", "/special/swap", "/special"}
    top = [row for row in rows if row["directory"].count("/") == 1]
    assert sum(row["bytes"] for row in top) == last["tree"]["bytes"]
    assert last["destination"] is None


def test_without_room_it_says_so_and_fails_under_strict(
    folder: Path, repos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = list(os.statvfs(tmp_path))
    full[4] = 3  # blocks that are free for users
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(full))
    words = ["plan", *repository(repos), *wish(folder), "-z", tmp_path / "new"]
    assert "not enough room for the store and the tree" in call(*words).ok().err
    result = call(*words, "--strict", "--json")
    assert result.code == 1
    value = said(result)
    assert (value["reason"], value["destination"]["enough"]) == ("warnings", False)
    # A file system that makes inodes as they are needed has any number.
    full[4], full[5] = 1 << 40, 0
    (place,) = said(call(*words, "--json").ok())["destination"]["file_systems"]
    assert (place["free"]["inodes"], place["enough"]) == (None, True)


def test_a_line_that_matches_nothing_is_told_and_fails_under_strict(repos: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.spec").write_bytes(b"/README\n/no/such/*\n")
    words = ["plan", *repository(repos), "-t", tmp_path / "odd.spec"]
    assert "1 lines of the specification match nothing: /no/such/*" in call(*words).ok().err
    result = call(*words, "--strict", "--json")
    assert (result.code, said(result)["reason"]) == (1, "warnings")


def test_a_store_elsewhere_needs_its_room_there(folder: Path, repos: Path, tmp_path: Path) -> None:
    words = ["plan", *repository(repos), *wish(folder), "-z", tmp_path / "new", "-y", tmp_path / "store", "--json"]
    # On one file system they are one sum.
    (place,) = said(call(*words).ok())["destination"]["file_systems"]
    assert place["holds"] == ["store", "tree"]
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "store").exists()


def test_a_store_without_a_destination_and_an_unknown_link_mode_are_refused(repos: Path, folder: Path) -> None:
    words = ["plan", *repository(repos), *wish(folder)]
    for more in (["-y", "/nowhere"], ["--link-mode", "softly"]):
        assert call(*words, *more).code == 2


def test_a_head_that_moves_meanwhile_is_no_plan(
    folder: Path, repos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    for name in ("data", ".cvmfswhitelist"):
        (storage / name).symlink_to(repos / FQRN / name)
    (storage / ".cvmfspublished").write_bytes(Pinned(FQRN, "rev1").manifest)
    close = Session.snapshot

    def then_publish(session: Session, pin: Any) -> Any:
        found = close(session, pin)
        (storage / ".cvmfspublished").write_bytes(Pinned(FQRN, "rev2").manifest)
        return found

    monkeypatch.setattr(Session, "snapshot", then_publish)
    key = repos / "keys" / f"{FQRN}.pub"
    result = call("plan", "-r", FQRN, "--storage", storage, "--key", key, *wish(folder), "-z", tmp_path / "new")
    assert result.code == 4
    assert "a new revision was published" in result.err


def test_copies_need_their_bytes_in_store_and_tree() -> None:
    plan = Plan(total=Sum(files=10, dirs=2, symlinks=1, bytes=1_000_000))
    counts = {"to_link": 11, "to_make_dirs": 2}
    linked = needs(plan, counts, 0, link_mode="hardlink")
    cloned = needs(plan, counts, 0, link_mode="reflink")
    copied = needs(plan, counts, 0, link_mode="copy")
    assert linked.tree_inodes == 3
    assert cloned.tree_inodes == copied.tree_inodes == 13
    assert linked.tree_bytes == cloned.tree_bytes < 1_000_000 < copied.tree_bytes
