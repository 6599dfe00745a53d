"""The named snapshots of a repository."""

from __future__ import annotations

from pathlib import Path

from cli.calling import call
from support.golden import Pinned

from shrinkwrap.cvmfs.manifest import parse_manifest

FQRN = "small.cern.ch"


def _where(repos: Path, fqrn: str = FQRN) -> list[str]:
    return ["-r", fqrn, "--storage", str(repos / fqrn), "--key", str(repos / "keys" / f"{fqrn}.pub")]


def test_the_tags_are_those_that_were_made(repos: Path) -> None:
    result = call("tags", *_where(repos), "--json").ok()
    assert len(result.out.splitlines()) == 1
    assert (result.json["command"], result.json["reason"], result.json["exit_code"]) == ("tags", "done", 0)
    found = {tag["name"]: tag for tag in result.json["tags"]}
    for rev in ("rev1", "rev2", "rev3"):
        head = parse_manifest(Pinned(FQRN, rev).manifest)
        assert found[rev]["root_hash"] == str(head.root_hash)
        assert found[rev]["revision"] == head.revision
        assert found[rev]["timestamp"] == head.timestamp
    revisions = [tag["revision"] for tag in result.json["tags"]]
    assert revisions == sorted(revisions)
    assert {"trunk", "trunk-previous"} <= found.keys()


def test_each_tag_can_be_pinned_to(repos: Path) -> None:
    for tag in call("tags", *_where(repos), "--json").ok().json["tags"]:
        told = call("info", *_where(repos), "--json", "--tag", tag["name"]).ok().json
        assert (told["root_hash"], told["revision"]) == (tag["root_hash"], tag["revision"])


def test_people_get_a_line_for_each(repos: Path) -> None:
    rows = call("tags", *_where(repos), "--json").ok().json["tags"]
    lines = call("tags", *_where(repos)).ok().out.splitlines()
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert line.split()[:4] == [str(row["revision"]), row["published"], row["name"], row["root_hash"]]


def test_a_repository_without_history_has_none(repos: Path) -> None:
    fqrn = "testmigration.cern.ch"
    assert call("tags", *_where(repos, fqrn), "--json").ok().json["tags"] == []
    assert call("tags", *_where(repos, fqrn)).ok().out == ""
    result = call("info", *_where(repos, fqrn), "--tag", "trunk", "--json").ends_with(2)
    assert "history" in result.json["error"]
