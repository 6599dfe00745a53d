"""``shrinkwrap verify``: what people and programs read, and what it ends with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli.calling import call, run_cli
from cvmfs import signing
from support.processes import dying_with_parent
from tree.verifying import FILES, Place, copied, make, rewrite, trace

from shrinkwrap.cli.verify import _SHOWN


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("made")
    (folder / "key.pub").write_bytes(signing.master().pem)
    (folder / "other.pub").write_bytes(signing.stranger().pem)
    return make(folder)


@pytest.fixture
def place(made: Place, tmp_path: Path) -> Place:
    return copied(made, tmp_path)


def key(place: Place, name: str = "key.pub") -> list[str | Path]:
    return ["--key", place.base.parent / name]


def json_of(out: str) -> Any:
    lines = out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


def test_a_good_tree_ends_with_0_and_says_so(place: Place) -> None:
    result = call("verify", place.base).ok()
    assert result.out.splitlines() == [
        f"test.example.org revision 1: {FILES} files, 7 directories, 2 symbolic links, 6.9 kB: as recorded"
    ]
    assert result.err == ""


def test_all_that_was_looked_at_is_told(place: Place) -> None:
    out = call("verify", place.base, "--content", "--chain", *key(place)).ok().out
    assert f"contents: {FILES} files read as {FILES - 2} different ones" in out
    assert "signatures: valid: signed by manifest, revision 1" in out
    assert "store: 0 stored files" in out
    assert call("verify", place.base, "--content", "--quiet").ok().out == ""


def test_differences_end_with_6_and_are_shown(place: Place) -> None:
    (place.tree / "data" / "chunked").chmod(0o600)
    (place.tree / "bin" / "tool").unlink()
    result = call("verify", place.base).ends_with(6)
    assert "  mode: /data/chunked: 0600 instead of 0644" in result.out.splitlines()
    assert "3 differences" in result.err
    assert "--repair" in result.err
    assert len(result.err.splitlines()) == 2


def test_only_the_first_of_many_are_shown(place: Place) -> None:
    for number in range(_SHOWN + 3):
        (place.tree / f"surplus{number}").touch()
    result = call("verify", place.base).ends_with(6)
    # The time of the folder that they are in is one, too.
    assert result.out.count("surplus: /surplus") == _SHOWN - 1
    assert "and 4 more" in result.out


def test_programs_read_one_object(place: Place) -> None:
    told = json_of(call("verify", place.base, "--json").ok().out)
    assert (told["command"], told["reason"], told["exit_code"], told["error"]) == ("verify", "done", 0, "")
    (place.tree / "data" / "chunked").chmod(0o600)
    told = json_of(call("verify", place.base, "--content", "--json").ends_with(6).out)
    assert (told["reason"], told["exit_code"]) == ("differs", 6)
    (one,) = told["repositories"]
    assert one["differences"] == {"mode": 1}
    assert one["cases"] == [{"what": "mode", "path": "/data/chunked", "expected": "0644", "found": "0600"}]


def test_names_are_data_to_terminals_and_programs(place: Place) -> None:
    odd = os.fsencode(place.tree) + b"/data/\xff\n"
    os.chmod(odd, 0o600)
    assert r"mode: /data/\xff\n: 0600" in call("verify", place.base).ends_with(6).out
    told = json_of(call("verify", place.base, "--json").ends_with(6).out)
    assert told["repositories"][0]["cases"][0]["path_b64"] == "L2RhdGEv/wo="


def test_signatures_that_do_not_hold_end_with_3(place: Place) -> None:
    result = call("verify", place.base, "--chain", *key(place, "other.pub")).ends_with(3)
    assert "signed with none of the master keys" in result.err
    told = json_of(call("verify", place.base, "--chain", *key(place, "other.pub"), "--json").ends_with(3).out)
    assert (told["reason"], told["repositories"][0]["chain"]["state"]) == ("trust", "invalid")
    # What differs besides is not forgotten over it.
    (place.tree / "data" / "chunked").chmod(0o600)
    told = json_of(call("verify", place.base, "--chain", *key(place, "other.pub"), "--json").ends_with(3).out)
    assert told["repositories"][0]["differences"] == {"mode": 1}


def test_following_signatures_needs_a_key(place: Place) -> None:
    assert "--key" in call("verify", place.base, "--chain").ends_with(2).err


def test_it_is_repaired_from_a_storage(place: Place) -> None:
    file = place.tree / "lcg" / "inner" / "deep"
    rewrite(file, b"DEEP")
    words: list[str | Path] = ["--storage", place.publisher.folder, *key(place)]
    assert "server" in call("verify", place.base, "--content", "--repair", *key(place)).ends_with(2).err
    assert file.read_bytes() == b"DEEP"
    result = call("verify", place.base, "--content", "--repair", *words).ok()
    assert "mended, 1 difference" in result.out
    assert file.read_bytes() == b"deep"
    told = json_of(call("verify", place.base, "--content", "--repair", "--json", *words).ok().out)
    assert told["repositories"][0]["repaired"] is None


def test_what_was_changed_by_hand_is_found_and_mended_by_export_repair_too(place: Place, tmp_path: Path) -> None:
    spec = tmp_path / "all.spec"
    spec.write_text("/*\n")
    (place.tree / "bin" / "tool").unlink()
    (place.tree / "lcg" / "sub" / "surplus").mkdir()
    (place.tree / "data").chmod(0o700)
    call("verify", place.base).ends_with(6)
    words = ["-r", place.publisher.fqrn, "--storage", place.publisher.folder, "-t", spec, "-z", place.base, "-q"]
    call("export", *words, "--env", "ARCH=x86_64", "--repair", *key(place)).ok()
    call("verify", place.base, "--content").ok()


def test_what_makes_no_sense_is_refused(place: Place, tmp_path: Path) -> None:
    assert "No such file" in call("verify", tmp_path / "nothing").ends_with(8).err
    assert "no record" in call("verify", tmp_path).ends_with(8).err
    assert "no record" in call("verify", place.base, "-r", "other.example.org").ends_with(8).err
    assert "not the name of a repository" in call("verify", place.base, "-r", "../x").ends_with(2).err
    call("verify").ends_with(2)
    call("verify", "").ends_with(2)
    call("verify", place.base, "--workers", "-1").ends_with(2)


def test_several_repositories_are_verified_or_one_of_them(place: Place) -> None:
    """A second one whose record cannot be read: it stands beside the good one."""
    other = place.records.parent / "other.example.org"
    shutil.copytree(place.records, other)
    told = json_of(call("verify", place.base, "--json").ends_with(6).out)
    assert [one["reason"] for one in told["repositories"]] == ["differs", "done"]
    told = json_of(call("verify", place.base, "-r", place.publisher.fqrn, "--json").ok().out)
    assert [one["fqrn"] for one in told["repositories"]] == [place.publisher.fqrn]


def test_a_process_of_its_own_ends_alike_and_leaves_nothing(place: Place) -> None:
    before = trace(place.base)
    run_cli("verify", place.base, "--content", "--workers", "2").ok()
    (place.tree / "data" / "chunked").chmod(0o600)
    run_cli("verify", place.base, "--json").ends_with(6)
    (place.tree / "data" / "chunked").chmod(0o644)
    after = trace(place.base)
    changed = {path for path in before if before[path] != after[path]}
    assert {os.path.basename(path) for path in changed} <= {"chunked", place.stored("data/chunked").name}


def test_a_closed_output_is_no_difference(place: Place) -> None:
    command = [*dying_with_parent(), "sh", "-c", '"$0" -m shrinkwrap verify "$1" >&-', sys.executable, place.base]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
