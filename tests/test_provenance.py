"""The deterministic part of an export's records, over whole runs."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from support.exporting import export, from_server, from_storage
from support.golden import Pinned
from support.listing import ORDINARY
from support.servers import RepoServer
from support.users import reaches

SMALL = Pinned("small.cern.ch", "rev2")


def statement(base: Path) -> bytes:
    return (base / ".provenance" / SMALL.fqrn / "statement.json").read_bytes()


@pytest.mark.root
def test_two_users_sources_and_degrees_of_parallelism_give_the_same_statement(
    repos: Path, repo_server: RepoServer, scratch: Path
) -> None:
    if not reaches(ORDINARY, repos):
        pytest.skip(f"an ordinary user cannot reach {repos}")
    mine, theirs = scratch / "mine", scratch / "theirs"
    mine.mkdir()
    theirs.mkdir()
    os.chown(theirs, *ORDINARY)
    export(SMALL, mine, *from_storage(SMALL, repos, scratch), "-j", "1", spec="slide")
    export(SMALL, theirs, *from_server(SMALL, repo_server), "-j", "9", spec="slide", user=ORDINARY)
    assert statement(mine) == statement(theirs)


@pytest.mark.root
def test_the_statement_names_the_digest_of_the_listing_that_is_written(repos: Path, scratch: Path) -> None:
    base, listing = scratch / "base", scratch / "listing.jsonl"
    base.mkdir()
    source = from_storage(SMALL, repos, scratch)
    export(SMALL, base, *source, "--listing", str(listing), spec="slide")
    subject = json.loads(statement(base))["subject"][0]
    assert subject["digest"]["sha256"] == hashlib.sha256(listing.read_bytes()).hexdigest()
    # Asked for again when nothing is new, it is the same.
    listing.unlink()
    before = statement(base)
    export(SMALL, base, *source, "--listing", str(listing), spec="slide")
    assert subject["digest"]["sha256"] == hashlib.sha256(listing.read_bytes()).hexdigest()
    assert statement(base) == before


@pytest.mark.root
def test_an_update_leaves_the_statement_of_a_fresh_export(repos: Path, repo_server: RepoServer, scratch: Path) -> None:
    updated, fresh = scratch / "updated", scratch / "fresh"
    for rev in ("rev1", "rev3", "rev2"):
        at = Pinned(SMALL.fqrn, rev)
        export(at, updated, *from_server(at, repo_server), spec="slide")
    export(SMALL, fresh, *from_server(SMALL, repo_server), spec="slide")
    assert statement(updated) == statement(fresh)
