"""What a repository says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.calling import call
from support import golden
from support.golden import Pinned
from support.servers import RepoServer

from shrinkwrap.cli.info import utc
from shrinkwrap.cvmfs.manifest import parse_manifest

FQRN = "small.cern.ch"


@pytest.mark.parametrize("at", golden.params(golden.pinned()))
def test_every_snapshot_tells_of_itself(at: Pinned, repo_server: RepoServer) -> None:
    head = parse_manifest(at.manifest)
    if at.tag is None:
        served = repo_server.with_files({f"{at.fqrn}/.cvmfspublished": at.manifest})
        words = ["--server", served.repo(at.fqrn)]
    else:
        words = ["--server", repo_server.repo(at.fqrn), "--tag", at.tag]
    result = call("info", "-r", at.fqrn, "--key", at.key, *words, "--json").ok()
    assert result.err == ""
    assert len(result.out.splitlines()) == 1
    told = result.json
    assert (told["command"], told["fqrn"], told["reason"], told["exit_code"]) == ("info", at.fqrn, "done", 0)
    assert (told["root_hash"], told["revision"], told["tag"]) == (str(head.root_hash), head.revision, at.tag)
    # The time of a tag is that of its making, a moment before the manifest's.
    assert told["published"] in [utc(head.timestamp - second) for second in (0, 1, 2)]
    assert told["signed"] is True
    if told["statistics"]:
        rows = golden.mounted(at)
        numbers = {"regular": "file", "dir": "dir", "symlink": "symlink"}
        assert {name: told["statistics"][name] for name in numbers} == {
            name: sum(row.type == kind for row in rows) for name, kind in numbers.items()
        }


def test_people_get_the_same_in_words(repos: Path) -> None:
    where = ["-r", FQRN, "--storage", repos / FQRN, "--key", repos / "keys", "--tag", "rev1"]
    told, text = call("info", *where, "--json").ok().json, call("info", *where).ok().out
    for name in ("fqrn", "root_hash", "revision", "published", "tag", "certificate", "history", "whitelist_expires"):
        assert f"  {told[name]}\n" in text, name
    assert all(len(line) > 19 and line[18] == " " for line in text.splitlines())


def test_an_unsigned_root_hash_is_called_that(repos: Path) -> None:
    root = parse_manifest(Pinned(FQRN, "rev1").manifest).root_hash
    where = ["-r", FQRN, "--storage", repos / FQRN, "--root-hash", root, "--accept-unsigned-root-hash"]
    told = call("info", *map(str, where), "--json").ok().json
    assert told["signed"] is False
    assert told["revision"] == parse_manifest(Pinned(FQRN, "rev1").manifest).revision
    assert "certificate" not in told
    assert json.dumps(told)


def test_times_that_no_calendar_has_are_told_in_seconds() -> None:
    assert utc(0) == "1970-01-01T00:00:00Z"
    assert utc(1 << 62) == f"second {1 << 62}"
    assert utc(-(1 << 62)) == f"second {-(1 << 62)}"


def test_an_unsigned_root_hash_needs_no_head(repos: Path, repo_server: RepoServer) -> None:
    root = parse_manifest(Pinned(FQRN, "rev1").manifest).root_hash
    variant = repo_server.with_files(missing=[f"{FQRN}/.cvmfspublished", f"{FQRN}/.cvmfswhitelist"])
    where = ["-r", FQRN, "--server", variant.repo(FQRN), "--root-hash", str(root)]
    call("info", *where, "--key", repos / "keys").ends_with(5)
    call("info", *where, "--accept-unsigned-root-hash").ok()
    assert not any(one.path.endswith("published") for one in variant.requests()[2:])
