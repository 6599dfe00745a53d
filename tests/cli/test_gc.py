"""The commands that clear up, and the one that says what there is: what they print, and what they refuse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli.calling import Result, call
from support.golden import Pinned

from shrinkwrap.cli.gc import seconds_of
from shrinkwrap.errors import UsageError
from shrinkwrap.tree.base import Base

FQRN = "small.cern.ch"


@pytest.fixture
def site(repos: Path, scratch: Path) -> Site:
    return Site(repos, scratch)


class Site:
    """A destination."""

    def __init__(self, repos: Path, folder: Path) -> None:
        self._repos = repos
        self._spec = folder / "the.spec"
        self._spec.write_text("/special/swap/*\n")
        self.base = folder / "base"

    def export(self, tag: str, *more: str) -> Result:
        key = self._repos / "keys" / f"{FQRN}.pub"
        where = ("-r", FQRN, "--storage", self._repos / FQRN, "--key", key, "--tag", tag)
        return call("export", *where, "-t", self._spec, "-z", self.base, *more).ok()

    def stored(self) -> int:
        return sum(
            len(os.listdir(self.base / ".data" / shard)) for shard in os.listdir(self.base / ".data") if len(shard) == 2
        )


def test_gc_says_what_it_removed(site: Site) -> None:
    site.export("rev1")
    site.export("rev3")
    before = site.stored()
    foreseen = call("gc", site.base, "--dry-run", "--json").ok().json
    assert site.stored() == before
    assert "would be removed" in call("gc", site.base, "--dry-run").ok().out
    told = call("gc", site.base, "--json").ok().json
    assert (told["command"], told["reason"], told["exit_code"]) == ("gc", "done", 0)
    assert told["objects"] == before - site.stored() > 0
    assert told["freed"] == told["bytes"] + told["kept_bytes"] + told["summary_bytes"] > 0
    assert {**foreseen, "dry_run": False} == told
    lines = call("gc", site.base, "--full").ok().out.splitlines()
    assert len(lines) == 2
    assert f"{site.base}/.data: 0 stored files of 0 B removed" in lines


def test_an_export_collects_when_it_is_told_to(site: Site) -> None:
    site.export("rev1")
    told = site.export("rev3", "-g", "--json").json
    assert told["garbage"]["objects"] > 0
    assert call("gc", site.base, "--full", "--json").ok().json["freed"] == 0
    assert "stored files of" in site.export("rev1", "-g").err
    assert site.export("rev1", "-g", "--json").json["garbage"] is None
    assert site.export("rev3", "--json").json["garbage"] is None


def test_status_lists_what_is_there(site: Site) -> None:
    site.export("rev1", "-g")
    told = call("status", site.base, "--json").ok().json
    assert (told["command"], told["reason"], told["exit_code"]) == ("status", "done", 0)
    assert told["store"] == str(site.base / ".data")
    (one,) = told["repositories"]
    assert (one["fqrn"], one["state"], one["intent"]) == (FQRN, "exported", None)
    assert one["record"]["tag"] == "rev1"
    assert one["last_run"]["reason"] == "exported"
    out = call("status", site.base).ok().out
    root_hash = Pinned(FQRN, "rev1").manifest.split(b"\n")[0][1:].decode()
    assert f"root hash {root_hash}, published 20" in out
    assert f"{FQRN} revision {one['record']['revision']} (rev1), exported 20" in out
    assert "garbage" not in out
    (site.base / ".provenance" / FQRN / "intent.json").write_text("{}")
    out = call("status", site.base).ok().out
    assert "not whole" in out


def test_remove_takes_a_repository_away(site: Site) -> None:
    site.export("rev1")
    told = call("remove", site.base, "-r", FQRN, "--json").ok().json
    assert (told["command"], told["reason"], told["garbage"]) == ("remove", "done", None)
    assert not (site.base / FQRN).exists()
    assert site.stored() > 0
    assert call("remove", site.base, "-r", FQRN, "--json").ends_with(8).json["reason"] == "destination"
    assert call("status", site.base).ok().out.startswith(f"{site.base}: no repository\n")
    site.export("rev1")
    out = call("remove", site.base, "-r", FQRN, "-g").ok().out
    assert out.startswith(f"{site.base}: {FQRN} (revision ")
    assert site.stored() == 0
    site.export("rev1")
    assert "shrinkwrap gc" in call("remove", site.base, "-r", FQRN).ok().err


@pytest.mark.parametrize("command", [["gc"], ["status"], ["remove", "-r", FQRN]], ids=" ".join)
def test_a_place_without_exports_is_an_error_of_the_destination(command: list[str], tmp_path: Path) -> None:
    told = call(*command, tmp_path, "--json").ends_with(8).json
    assert (told["command"], told["reason"]) == (command[0], "destination")
    assert "no export was made here" in told["error"]


@pytest.mark.parametrize("command", [["gc"], ["gc", "--dry-run"], ["remove", "-r", FQRN]], ids=" ".join)
def test_a_run_at_work_is_waited_for_or_is_an_error(command: list[str], site: Site) -> None:
    site.export("rev1")
    running = Base(str(site.base))
    told = call(*command, site.base, "--json").ends_with(9).json
    assert told["reason"] == "locked"
    assert call("status", site.base).ok()
    running.close()
    call(*command, site.base, "--wait").ok()


def test_a_destination_of_the_store_that_is_away_is_an_error_until_it_is_struck_off(site: Site, scratch: Path) -> None:
    site.export("rev1", "-y", str(scratch / "store"))
    here, site.base = site.base, scratch / "second"
    site.export("rev1", "-y", str(scratch / "store"))
    site.base.rename(scratch / "away")
    told = call("gc", here, "--json").ends_with(8).json
    assert f"--forget {site.base}" in told["hint"]
    call("gc", here, "--forget", "/elsewhere").ends_with(2)
    told = call("gc", here, "--forget", site.base, "--json").ok().json
    assert told["bases"] == [str(here)]
    assert call("status", here, "--json").ok().json["bases"] == [str(here)]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), ("0", 0), ("90s", 90), ("30m", 1800), ("12h", 43200), ("7d", 604800), ("2w", 1209600)],
)
def test_spans_of_time(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["7", "d", "-1d", "1.5h", "7 d", "7D", "1y", "1234567s"])
def test_what_is_no_span_of_time(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        seconds_of(text)
    call("gc", tmp_path, "--grace", text).ends_with(2)
