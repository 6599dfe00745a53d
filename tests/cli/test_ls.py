"""Listings from the catalogs alone, held against what the mounted repositories show, field by field."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cli.calling import Result, call
from support import golden
from support.golden import Pinned
from support.servers import RepoServer

FQRN = "small.cern.ch"
VARIABLES = [word for name, value in golden.ENVIRONMENT.items() for word in ("--env", f"{name}={value}")]
#: What no catalog knows: contents, and which paths share an inode.
BEYOND_CATALOGS = ("sha256", "inode_group")


def where(at: Pinned, server: RepoServer) -> list[str]:
    """Words for a snapshot: by its tag, else by the manifest that is served."""
    key = ["--key", str(at.key)]
    if at.tag is not None:
        return ["-r", at.fqrn, "--server", server.repo(at.fqrn), "--tag", at.tag, *key]
    variant = server.with_files({f"{at.fqrn}/.cvmfspublished": at.manifest})
    return ["-r", at.fqrn, "--server", variant.repo(at.fqrn), *key]


def stored(repos: Path, fqrn: str = FQRN) -> list[str]:
    return ["-r", fqrn, "--storage", str(repos / fqrn), "--key", str(repos / "keys" / f"{fqrn}.pub")]


def true_path(row: dict[str, Any]) -> bytes:
    return base64.b64decode(row["path_b64"]) if "path_b64" in row else row["path"].encode()


def records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.ok().out.split("\n")[:-1]]


@pytest.mark.parametrize("at", golden.params(golden.pinned()))
def test_a_recursive_listing_is_what_the_mount_shows(at: Pinned, repo_server: RepoServer) -> None:
    rows = records(call("ls", "-R", "--json", *where(at, repo_server), *VARIABLES))
    listed = {true_path(row): row for row in rows}
    assert len(listed) == len(rows), "a path twice"
    wanted = {true_path(row): row for row in golden.rows(f"{at.fqrn}/{at.rev}.jsonl")}
    assert listed.keys() == wanted.keys()
    for path, row in wanted.items():
        assert listed[path] == {name: value for name, value in row.items() if name not in BEYOND_CATALOGS}, path


def test_the_order_is_that_of_components(repos: Path) -> None:
    paths = [true_path(row) for row in records(call("ls", "-R", "--json", *stored(repos), *VARIABLES))]
    assert paths == sorted(paths, key=lambda path: path.replace(b"/", b"\0"))


def test_a_directory_is_listed_by_the_names_in_it(repos: Path) -> None:
    names = call("ls", *stored(repos), "/lcg").ok().out.splitlines()
    expected = {
        path.removeprefix(b"/lcg/").decode()
        for path in (record.path for record in golden.mounted(Pinned(FQRN, "rev3")))
        if path.startswith(b"/lcg/") and b"/" not in path.removeprefix(b"/lcg/")
    }
    assert names == sorted(expected)


@pytest.mark.parametrize("path", ["/lcg", "/lcg/", "//lcg", "/lcg//"])
def test_slashes_do_not_matter(path: str, repos: Path) -> None:
    assert call("ls", *stored(repos), path).ok().out == call("ls", *stored(repos), "/lcg").ok().out


@pytest.mark.parametrize("path", ["/README", "/latest"])
def test_anything_but_a_directory_is_listed_itself(path: str, repos: Path) -> None:
    (row,) = records(call("ls", "--json", *stored(repos), path))
    assert row["path"] == path
    assert call("ls", *stored(repos), path).ok().out == f"{path}\n"


def test_a_directory_below_nested_catalogs_is_found(repos: Path) -> None:
    deep = max((record.path for record in golden.mounted(Pinned(FQRN, "rev3"))), key=lambda path: path.count(b"/"))
    parent = deep.rpartition(b"/")[0].decode()
    assert deep.rpartition(b"/")[2].decode() in call("ls", *stored(repos), parent).ok().out.splitlines()


@pytest.mark.parametrize("path", ["/nope", "/README/nope", "/lcg/nope/nope", "/lcgx", "/lc", "/..", "/lcg/../README"])
def test_what_is_not_there_is_said_to_be_missing(path: str, repos: Path) -> None:
    result = call("ls", "--json", *stored(repos), path).ends_with(5)
    assert result.json["reason"] == "missing"
    assert path.rstrip("/") in result.json["error"]


@pytest.mark.parametrize("path", ["lcg", "", "./lcg", "~"])
def test_a_path_begins_with_a_slash(path: str, repos: Path) -> None:
    assert call("ls", "--json", *stored(repos), path).ends_with(2).json["reason"] == "usage"


def test_the_long_form_shows_metadata(repos: Path) -> None:
    lines = {
        line.split()[-1]: line
        for line in call("ls", "-l", *stored(repos), *VARIABLES, "/special/perm").ok().out.splitlines()
    }
    listed = (row for row in golden.rows(f"{FQRN}/rev3.jsonl") if row["path"].startswith("/special/perm/"))
    rows = {row["path"].removeprefix("/special/perm/"): row for row in listed}
    assert lines
    for name, line in lines.items():
        row = rows[name]
        assert line[0] == {"file": "-", "dir": "d", "symlink": "l"}[row["type"]]
        assert row["type"] != "file" or int(line.split()[3]) == row["size"]


def test_an_empty_directory_has_nothing_in_it(repos: Path) -> None:
    empty = next(
        one.path.decode()
        for one in golden.mounted(Pinned(FQRN, "rev3"))
        if one.type == "dir"
        and one.path.startswith(b"/special/empty/")
        and one.nlink == 2
        and not any(other.path.startswith(one.path + b"/") for other in golden.mounted(Pinned(FQRN, "rev3")))
    )
    assert call("ls", *stored(repos), empty).ok().out == ""
    assert len(records(call("ls", "-R", "--json", *stored(repos), empty))) == 1


# ----------------------------------------------------------------------------------------------------- names are data


@pytest.mark.parametrize("options", [["-R"], ["-R", "-l"], ["-l"], []], ids=" ".join)
@pytest.mark.parametrize("path", ["/special/names", "/special/links"])
def test_names_never_reach_the_terminal_raw(options: list[str], path: str, repos: Path) -> None:
    odd = [record.path for record in golden.mounted(Pinned(FQRN, "rev3")) if record.path.startswith(path.encode())]
    assert path != "/special/names" or any(b"\n" in one for one in odd)
    result = call("ls", *options, *stored(repos), path).ok()
    assert result.out.replace("\n", "").isprintable()
    number = len(odd) if "-R" in options else sum(one.count(b"/") == 3 for one in odd)
    assert len(result.out.splitlines()) == number, "a name broke its line"


def test_json_is_pure_ascii_with_one_entry_a_line(repos: Path) -> None:
    out = call("ls", "-R", "--json", *stored(repos), "/special").ok().out
    assert out.isascii()
    assert out.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "name", ["/\x1b[2J\x1b[31mred", "/[bold]x[/bold]", "/a\nshrinkwrap: all is well", "/\x07", "/\udcff"]
)
@pytest.mark.parametrize("command", ["ls", "cat"])
def test_a_path_in_an_error_is_data(command: str, name: str, repos: Path) -> None:
    result = call(command, *stored(repos), name).ends_with(5)
    assert result.err.replace("\n", "").isprintable()
    assert len(result.err.splitlines()) <= 2
    assert "[bold]" not in name or "[bold]x[/bold]" in result.err


def test_the_cache_is_used_again(repos: Path, repo_server: RepoServer, scratch: Path) -> None:
    variant = repo_server.with_files()
    words = [
        "ls",
        "-R",
        "-r",
        FQRN,
        "--server",
        variant.repo(FQRN),
        "--key",
        str(repos / "keys"),
        "--cache",
        str(scratch),
    ]
    first = call(*words, "/special/nest").ok()
    number = len(variant.requests())
    assert call(*words, "/special/nest").ok().out == first.out
    again = [one.path for one in variant.requests()[number:]]
    assert sorted(again) == [f"{FQRN}/.cvmfspublished", f"{FQRN}/.cvmfswhitelist"]


def test_a_cache_that_rotted_is_mended(repos: Path, scratch: Path) -> None:
    words = ["ls", *stored(repos), "--cache", str(scratch), "/special/nest"]
    first = call(*words).ok()
    kept = [file for file in scratch.rglob("*") if file.is_file()]
    assert kept
    for file in kept:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.chmod(0o644)
        file.write_bytes(bytes(data))
    assert call(*words).ok().out == first.out
