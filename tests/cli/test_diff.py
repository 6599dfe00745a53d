"""Two sides as people name them, and what they and programs read of the differences."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli.calling import Result, call
from support import golden
from support.exporting import selected
from support.golden import Pinned
from support.servers import RepoServer

import shrinkwrap
from shrinkwrap.errors import DestinationError, UsageError
from shrinkwrap.tree.base import Base

FQRN = "small.cern.ch"
SPEC = b"/special/swap/*\n/special/names/*\n/special/links/*\n/lcg/releases/ROOT/*\n"
FOLDERS = (b"/special/swap", b"/special/names", b"/special/links", b"/lcg/releases/ROOT")
OLD, NEW = Pinned(FQRN, "rev1"), Pinned(FQRN, "rev2")


def stored(repos: Path) -> list[str | Path]:
    return ["--storage", repos / FQRN, "--key", repos / "keys" / f"{FQRN}.pub"]


def whole(repos: Path) -> list[str | Path]:
    return ["-r", FQRN, *stored(repos)]


@pytest.fixture(scope="module")
def exports(repos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Destinations ``old`` and ``new`` of one specification, and ``other`` of another."""
    folder = tmp_path_factory.mktemp("exports")
    (folder / "usual.spec").write_bytes(SPEC)
    (folder / "other.spec").write_bytes(b"/README\n")
    (folder / "few.spec").write_bytes(b"/special/swap/*\n/special/meta/*\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Base, "sync", lambda self: None)
        for name, tag, spec in (("old", "rev1", "usual"), ("new", "rev2", "usual"), ("other", "rev2", "other")):
            options: list[str | Path] = ["--tag", tag, "-t", folder / f"{spec}.spec", "-z", folder / name]
            call("export", *whole(repos), *options, "--env", "ARCH=x", "--workers", "1").ok()
    return folder


@pytest.fixture
def copies(exports: Path, tmp_path: Path) -> Path:
    """The records of these exports, to be spoilt; the trees and the stores are not needed."""
    for name in ("old", "new"):
        shutil.copytree(exports / name / ".provenance", tmp_path / name / ".provenance")
        (tmp_path / name / FQRN).mkdir()
    return tmp_path


def rows(result: Result) -> list[dict[str, Any]]:
    *changes, total = (json.loads(line) for line in result.out.splitlines())
    assert total["command"] == "diff"
    for kind in ("added", "removed", "changed"):
        assert total[kind]["entries"] == sum(row["change"] == kind for row in changes)
    assert total["differ"] == bool(changes)
    return changes


def kinds(result: Result) -> dict[str, str]:
    return {row["path"]: row["change"] for row in rows(result.ok())}


def text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def truth(old: Pinned, new: Pinned, *folders: bytes) -> dict[str, str]:
    """What was added and removed, by the listings of mounts."""
    before, after = ({one.path for one in selected(at, *folders) if one.type != "fifo"} for at in (old, new))
    return {text(path): "added" if path in after else "removed" for path in before ^ after}


def moved(found: dict[str, str]) -> dict[str, str]:
    return {path: kind for path, kind in found.items() if kind != "changed"}


# -- sides -----------------------------------------------------------------------------------------------------------


def test_a_revision_has_several_names_and_the_head_is_the_other_side(exports: Path, repos: Path) -> None:
    some = [*whole(repos), "-t", exports / "few.spec"]
    pins = golden.rows(f"{FQRN}/pins.jsonl")[0]["manifests"]
    first, last = pins["rev1"], pins["rev3"]
    expected = rows(call("diff", *some, "rev1", "rev3", "--json").ok())
    assert expected
    for words in (
        ["tag:rev1"],
        [f"rev:{first['revision']}", "head"],
        ["--from", f"hash:{first['root_hash']}", "--to", "tag:trunk"],
        [f"date:{first['utc']}", f"hash:{last['root_hash']}"],
        ["rev1", f"hash:{last['root_hash']}", "--accept-unsigned-root-hash"],
    ):
        assert rows(call("diff", *some, *words, "--json").ok()) == expected, words


def test_the_two_directions_mirror_each_other(exports: Path) -> None:
    there = rows(call("diff", exports / "old", exports / "new", "--json").ok())
    back = {row["path"]: row for row in rows(call("diff", exports / "new", exports / "old", "--json").ok())}
    other = {"added": "removed", "removed": "added", "changed": "changed"}
    assert len(back) == len(there)
    for row in there:
        mirrored = back[row["path"]]
        assert other[row["change"]] == mirrored["change"]
        assert (row.get("old"), row.get("new")) == (mirrored.get("new"), mirrored.get("old"))
        assert row.get("what") == mirrored.get("what")


def test_two_exports_differ_as_their_revisions_do_below_their_specification_and_need_no_server(exports: Path) -> None:
    result = call("diff", exports / "old" / FQRN, exports / "new" / FQRN, "--json")
    assert moved(kinds(result)) == truth(OLD, NEW, *FOLDERS)
    assert (result.json["from"]["tag"], result.json["to"]["tag"], result.json["fqrn"]) == ("rev1", "rev2", FQRN)
    assert result.json["catalogs"]["skipped"] > 0


def test_an_export_can_be_named_in_several_ways(exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = call("diff", exports / "old", exports / "new", "--json").ok().out.splitlines()[:-1]
    assert expected
    monkeypatch.chdir(exports)
    for name in (
        f"{exports}/old/{FQRN}/",
        f"export:{exports}/old",
        "export:old",
        "./old",
        f"old/{FQRN}",
        f"old/.provenance/{FQRN}",
        "old/.provenance/",
        f"old/.provenance/{FQRN}/record.json",
        f"record:old/.provenance/{FQRN}/record.json",
    ):
        assert call("diff", name, exports / "new", "--json").ok().out.splitlines()[:-1] == expected, name


def test_a_revision_beside_an_export_is_seen_as_if_it_were_exported_alike(exports: Path, repos: Path) -> None:
    with_export = rows(call("diff", exports / "old", exports / "new", "--json").ok())
    result = call("diff", exports / "old" / FQRN, "rev2", *stored(repos), "--json").ok()
    assert rows(result) == with_export
    assert result.json["to"]["revision"] == 3
    assert rows(call("diff", "rev1", exports / "new", *stored(repos), "--json").ok()) == with_export
    # Its own revision: nothing. Variables are those of the record, whatever is set now.
    same = call("diff", exports / "new", "rev2", *stored(repos), "--env", "ARCH=other", "--exit-code", "--json").ok()
    assert not same.json["differ"]


def test_another_specification_brings_and_takes_away(exports: Path) -> None:
    found = kinds(call("diff", exports / "new", exports / "other", "--json"))
    assert found.pop("/README") == "added"
    assert {*found.values()} == {"removed"}
    assert {*found} == {text(one.path) for one in selected(NEW, *FOLDERS)} - {"/"}


def test_a_specification_given_leaves_out_the_rest_on_both_sides(exports: Path, repos: Path) -> None:
    spec = exports / "few.spec"
    found = kinds(call("diff", exports / "old", exports / "new", "-t", spec, "--json"))
    # Of /special/meta the exports have nothing.
    assert moved(found) == truth(OLD, NEW, b"/special/swap")
    assert not any(path.startswith("/special/meta") for path in found)
    assert kinds(call("diff", exports / "old", "rev2", *stored(repos), "-t", spec, "--json")) == found
    revisions = kinds(call("diff", *whole(repos), "rev1", "rev2", "-t", spec, "--json"))
    assert moved(revisions) == truth(OLD, NEW, b"/special/swap", b"/special/meta")
    assert "/special/meta/mtime" in revisions


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to compare"),
        (["a", "b", "--from", "c"], "--from"),
        (["a", "b", "--to", "c"], "--to"),
        (["a", "b", "c"], "unexpected"),
        (["tag:"], "after the colon"),
        (["rev:one"], "a number"),
        (["date:yesterday"], "date"),
        (["hash:zz"], "--root-hash"),
        (["nosuchtag"], "nosuchtag"),
        (["rev1", "--accept-unsigned-root-hash"], "hash:"),
        (["rev1", "--by-directory", "-1"], "by-directory"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_a_usage_error(words: list[str], said: str, repos: Path) -> None:
    result = call("diff", *whole(repos), *words, "--json").ends_with(2)
    assert said in result.json["error"] + result.json["hint"]


@pytest.mark.parametrize("place", ["", "plain", "pipe", "none", ".provenance/x/record.json"])
def test_what_is_no_export_is_said_to_be_none(place: str, tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b'{"version": 1, "goal": []}')
    os.mkfifo(tmp_path / "pipe")
    result = call("diff", tmp_path / place, tmp_path, "--json").ends_with(8)
    assert result.json["reason"] == "destination"
    assert result.json["hint"]


def test_sides_of_different_repositories_are_refused(exports: Path, copies: Path) -> None:
    file = copies / "new" / ".provenance" / FQRN / "record.json"
    value = json.loads(file.read_bytes())
    value["goal"]["fqrn"] = "other.example.org"
    file.write_text(json.dumps(value))
    assert "different" in call("diff", exports / "old", file, "--json").ends_with(2).json["error"]
    call("diff", file, file, "-r", "other.example.org", "--json").ok()
    refused = call("diff", file, "-r", FQRN, "--json").ends_with(2)
    assert f"an export of other.example.org, not of {FQRN}" in refused.json["error"]
    # In the place of another one's record it is none at all.
    call("diff", exports / "old", copies / "new", "--json").ends_with(8)


def test_one_of_several_exports_has_to_be_chosen(copies: Path) -> None:
    both = copies / "old" / ".provenance"
    shutil.copytree(both / FQRN, both / "other.example.org")
    result = call("diff", copies / "old", copies / "new", "--json").ends_with(2)
    assert "other.example.org" in result.json["error"]
    assert "-r other.example.org" in result.json["hint"]
    call("diff", copies / "old", copies / "new", "-r", FQRN).ok()
    call("diff", copies / "old" / FQRN, copies / "new").ok()


# -- catalogs that are not kept any more -----------------------------------------------------------------------------


def catalogs(place: Path) -> list[Path]:
    return sorted(place.glob(".provenance/.objects/??/*C"))


def test_a_lost_catalog_is_missed_only_where_it_is_needed(copies: Path, repos: Path) -> None:
    words: list[str | Path] = ["diff", copies / "old", copies / "new", "--json"]
    expected = call(*words).ok().out
    both = {file.name for file in catalogs(copies / "old")} & {file.name for file in catalogs(copies / "new")}
    for file in [*catalogs(copies / "old"), *catalogs(copies / "new")]:
        if file.name in both:
            file.unlink()
    assert both
    assert call(*words).ok().out == expected
    for file in catalogs(copies / "old"):
        file.unlink()
    result = call(*words).ends_with(5)
    assert "--server" in result.json["hint"]
    # A server has them; the root hash of the record vouches for them, so no key is needed.
    assert call(*words, "--storage", repos / FQRN).ok().out == expected
    assert not catalogs(copies / "old"), "something was written beside the record"


def test_a_broken_catalog_is_another_error_than_a_lost_one(copies: Path, repos: Path) -> None:
    words: list[str | Path] = ["diff", copies / "old", copies / "new", "--json"]
    expected = call(*words).ok().out
    for file in catalogs(copies / "old"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.chmod(0o644)
        file.write_bytes(data)
    broken = {file: file.read_bytes() for file in catalogs(copies / "old")}
    assert call(*words).ends_with(6).json["reason"] == "corrupt"
    assert call(*words, "--storage", repos / FQRN).ok().out == expected
    assert {file: file.read_bytes() for file in catalogs(copies / "old")} == broken, "diff only reads"


def test_a_record_alone_is_enough_with_a_server(exports: Path, scratch: Path, repo_server: RepoServer) -> None:
    shutil.copy(exports / "old" / ".provenance" / FQRN / "record.json", scratch / "old.json")
    call("diff", scratch / "old.json", exports / "new", "--json").ends_with(5)
    variant = repo_server.with_files()
    result = call("diff", scratch / "old.json", exports / "new", "--server", variant.repo(FQRN), "--json").ok()
    assert rows(result) == rows(call("diff", exports / "old", exports / "new", "--json").ok())
    assert all(one.path.endswith("C") for one in variant.requests()), "nothing but catalogs is asked for"


def test_only_catalogs_that_differ_are_asked_of_a_server(repos: Path, repo_server: RepoServer) -> None:
    variant = repo_server.with_files()
    words: list[str | Path] = ["-r", FQRN, "--server", variant.repo(FQRN), "--key", repos / "keys"]
    result = call("diff", *words, "rev1", "rev2", "--json").ok()
    fetched = [one.path for one in variant.requests() if one.path.endswith("C")]
    assert len(fetched) == len({*fetched}) == result.json["catalogs"]["read"]
    assert result.json["catalogs"]["skipped"] > 0


def test_an_unfinished_export_is_told_of(copies: Path) -> None:
    (copies / "old" / ".provenance" / FQRN / "intent.json").write_bytes(b"{}")
    for place in (copies / "old", copies / "old" / ".provenance" / FQRN / "record.json"):
        assert "cut off" in call("diff", place, copies / "new", "--stat").ok().err


def test_files_that_were_left_out_for_want_of_their_objects_are_told_of(copies: Path) -> None:
    file = copies / "old" / ".provenance" / FQRN / "record.json"
    record = json.loads(file.read_bytes())
    record["counts"]["missing_object"] = 3
    file.write_text(json.dumps(record))
    for place in (copies / "old", file):
        assert "lacks 3 files" in call("diff", place, copies / "new", "--stat").ok().err
    told = call("diff", copies / "old", copies / "new", "--stat", "--json").ok().json
    assert (told["from"]["missing_object"], told["to"]["missing_object"]) == (3, 0)


def test_of_a_destination_with_snapshots_alone_one_is_to_be_named(copies: Path) -> None:
    said = call("diff", copies, copies / "new").ends_with(8).err
    assert "there are snapshots: new, old" in said
    assert "--as" not in said


# -- what is read ----------------------------------------------------------------------------------------------------


def test_names_never_reach_the_terminal_raw(exports: Path) -> None:
    odd = [one.path for one in golden.mounted(NEW) if one.path.startswith(b"/special/names/")]
    assert any(b"\n" in path for path in odd)
    assert any(b"\x1b" in path or b"\x07" in path or b"\x01" in path for path in odd)
    for sides in ((exports / "other", exports / "new"), (exports / "new", exports / "other")):
        for options in ([], ["--by-directory", "5"]):
            result = call("diff", *sides, *options).ok()
            assert result.out.replace("\n", "").isprintable()
        assert call("diff", *sides, "--json").out.isascii()
        lines = call("diff", *sides).ok().out.splitlines()
        assert sum("/special/names/" in line[:-1] for line in lines) == len(odd), "a name broke its line"


def test_people_read_a_line_for_each_path_and_the_totals(exports: Path) -> None:
    lines = call("diff", exports / "old", exports / "new").ok().out.splitlines()
    changes = rows(call("diff", exports / "old", exports / "new", "--json").ok())
    signs = {"added": "+", "removed": "-", "changed": "~"}
    assert [line[0] for line in lines[: len(changes)]] == [signs[row["change"]] for row in changes]
    assert "~    1.1 MB  /special/swap/small2chunked  (content, 5 -> 1100001 bytes, mtime)" in lines
    assert "~            /special/swap/retarget  (old -> new, mtime)" in lines
    assert "~       8 B  /special/swap/dir2file  (dir -> file)" in lines
    assert "-            /special/swap/dir2file/a/" in lines
    total = lines[len(changes) :]
    assert total[0] == f"{FQRN}: revision 2 (rev1) in {exports}/old -> revision 3 (rev2) in {exports}/new"
    assert total == call("diff", exports / "old", exports / "new", "--stat").ok().out.splitlines()
    number = sum(row["change"] == "removed" and row["old"]["type"] == "dir" for row in changes)
    assert f"removed: {number} directories" in total[2]


@pytest.mark.parametrize("options", [[], ["--stat"], ["--json"], ["--by-directory", "1"]], ids=" ".join)
def test_exit_code_is_1_for_differences_only_if_that_is_asked_for(options: list[str], exports: Path) -> None:
    call("diff", exports / "old", exports / "new", *options).ok()
    result = call("diff", exports / "old", exports / "new", "--exit-code", *options).ends_with(1)
    assert result.err == ""
    same = call("diff", exports / "old", exports / "old", "--exit-code", *options).ok()
    if options == ["--json"]:
        assert (result.json["reason"], result.json["exit_code"]) == ("different", 1)
        assert (same.json["reason"], same.json["exit_code"], same.json["differ"]) == ("done", 0, False)
    else:
        assert "  no differences" in same.out.splitlines()


def test_times_and_owners_can_be_left_out(exports: Path, repos: Path) -> None:
    words: list[str | Path] = ["diff", *whole(repos), "rev1", "rev2", "-t", exports / "few.spec", "--json"]
    every = {row["path"]: row for row in rows(call(*words).ok())}
    for option, aspect in (("--no-mtime", "mtime"), ("--no-owner", "owner")):
        left = {row["path"]: row.get("what") for row in rows(call(*words, option).ok())}
        expected = {
            path: [one for one in row["what"] if one != aspect] if "what" in row else None
            for path, row in every.items()
            if row.get("what") != [aspect]
        }
        assert left == expected
        assert left.keys() < every.keys()


def test_sums_by_directory_come_to_those_of_all(repos: Path) -> None:
    words: list[str | Path] = ["diff", *whole(repos), "rev1", "rev2", "--json"]
    changes = rows(call(*words).ok())
    *sums, total = (json.loads(line) for line in call(*words, "--by-directory", "2").ok().out.splitlines())
    by_name = {row["directory"]: row for row in sums}
    assert len(by_name) == len(sums)
    for name, row in by_name.items():
        inside = [
            one
            for one in changes
            if one["path"].startswith(f"{name}/")
            or (one["path"] == name and (one.get("new") or one["old"])["type"] == "dir")
        ]
        for kind in ("added", "removed", "changed"):
            assert row[kind]["entries"] == sum(one["change"] == kind for one in inside), name
        assert row["added"]["bytes"] == sum(
            one["new"]["size"] for one in inside if one["change"] == "added" and one["new"]["type"] == "file"
        )
    assert max(name.count("/") for name in by_name) == 2
    assert total["removed"]["bytes"] == sum(
        one["old"]["size"] for one in changes if one["change"] == "removed" and one["old"]["type"] == "file"
    )
    lines = call(*words[:-1], "--by-directory", "2").ok().out.splitlines()
    assert [line.split()[-1] for line in lines[1 : len(sums) + 1]] == list(by_name)


# -- Python ----------------------------------------------------------------------------------------------------------


def test_python_gives_the_same_changes(exports: Path, repos: Path) -> None:
    expected = kinds(call("diff", exports / "old", exports / "new", "--json"))
    keys = [repos / "keys" / f"{FQRN}.pub"]
    with shrinkwrap.Repository(FQRN, storage=repos / FQRN, keys=keys) as repository:
        old, new = repository.snapshot(tag="rev1"), repository.snapshot(tag="rev2")
        for sides in ((exports / "old", exports / "new"), (old, exports / "new"), (exports / "old" / FQRN, new)):
            assert {text(one.path): one.kind for one in shrinkwrap.diff(*sides)} == expected
        with shrinkwrap.Repository(FQRN, storage=repos / FQRN, keys=keys) as other:
            twice = list(shrinkwrap.diff(old, other.snapshot(tag="rev2"), ignore=["mtime"]))
        assert twice == list(shrinkwrap.diff(old, new, ignore=["mtime"]))
        spec = shrinkwrap.Spec.from_text("/special/swap/*")
        assert {
            text(one.path): one.kind for one in shrinkwrap.diff(old, new, spec=spec) if one.kind != "changed"
        } == truth(OLD, NEW, b"/special/swap")
        changes = shrinkwrap.diff(old, new)
        next(changes)
        with pytest.raises(UsageError, match="ignore"):
            shrinkwrap.diff(old, new, ignore=["size", "colour"])
        with pytest.raises(DestinationError):
            shrinkwrap.diff(exports, new)
    with pytest.raises(UsageError, match="closed"):
        list(changes)
    with pytest.raises(UsageError, match="closed"):
        shrinkwrap.diff(old, exports / "new")
