"""The signatures of an export, followed offline: what holds, what held when it was fetched, and what does not."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cvmfs import signing
from tree.verifying import Place, copied, make

from shrinkwrap.cvmfs.blacklist import Blacklist, parse_blacklist
from shrinkwrap.errors import TrustError
from shrinkwrap.snapshot.repository import Pin
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.chain import Chain
from shrinkwrap.tree.findings import Verified
from shrinkwrap.tree.verify import VerifyRequest, Whence, verify

#: The whitelist of the test repositories expires on 2030-07-15 at 12:00.
EXPIRES = "2030-07-15T12:00:00Z"
AFTER = 1920000000.0


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Base, "sync", lambda self: None)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def place(made: Place, tmp_path: Path) -> Place:
    return copied(made, tmp_path)


def chain_of(place: Place, **options: Any) -> Chain:
    found = place.verify(chain=True, **options)
    assert found.chain is not None
    assert (found.reason == "trust") == (not found.chain.holds)
    return found.chain


# -------------------------------------------------------------------------------------------------------- what holds


def test_the_head_that_was_exported_is_valid(place: Place) -> None:
    chain = chain_of(place)
    assert (chain.state, chain.by, chain.as_of_from, chain.problems) == ("valid", "manifest", "now", [])
    assert chain.holds
    assert chain.catalogs == 3
    assert chain.key == "test.pub"
    assert chain.to_json()["whitelist_expires"] == EXPIRES


def test_no_server_is_asked(place: Place) -> None:
    shutil.rmtree(place.publisher.folder)
    assert chain_of(place).holds


def test_after_its_whitelist_expired_it_was_valid_when_fetched(place: Place) -> None:
    (run,) = [json.loads(line) for line in (place.records / "runs.jsonl").read_text().splitlines()]
    chain = chain_of(place, now=AFTER)
    assert (chain.state, chain.as_of_from) == ("valid when fetched", "run log")
    assert chain.holds
    assert chain.to_json()["as_of"][:19] == run["start"][:19]
    assert f"whitelist expired since {EXPIRES}" in chain.message


def test_without_a_run_log_the_time_of_the_file_tells_when_it_was_fetched(place: Place) -> None:
    (place.records / "runs.jsonl").unlink()
    chain = chain_of(place, now=AFTER)
    assert (chain.state, chain.as_of_from) == ("valid when fetched", "file time")
    os.utime(place.records / "whitelist", (AFTER + 1e6, AFTER + 1e6))
    chain = chain_of(place, now=AFTER)
    assert chain.state == "invalid"
    assert "before it was fetched" in chain.message


def test_a_run_that_failed_says_nothing_of_when_it_was_fetched(place: Place) -> None:
    log = place.records / "runs.jsonl"
    log.write_text(log.read_text().replace('"exit_code":0', '"exit_code":6'))
    assert chain_of(place, now=AFTER).as_of_from == "file time"


@pytest.mark.parametrize("line", ["[]", '{"root_hash": 5}', '{"exit_code": 0, "root_hash": "HASH", "start": [1]}', "x"])
def test_a_run_log_of_nonsense_says_nothing(line: str, place: Place) -> None:
    (place.records / "runs.jsonl").write_text(line.replace("HASH", place.published.root_hash) + "\n")
    assert chain_of(place, now=AFTER).as_of_from == "file time"


def test_a_tag_of_the_signed_history_vouches_for_its_root_hash(place: Place) -> None:
    place.publish(1)
    place.export(pin=Pin(tag="first"))
    chain = chain_of(place)
    assert (chain.state, chain.by, chain.revision) == ("valid", "tag first", 2)
    assert chain_of(place, now=AFTER).state == "valid when fetched"


def test_a_copy_tells_the_same(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.base / ".provenance", tmp_path / "copy" / ".provenance")
    shutil.copytree(place.tree, tmp_path / "copy" / place.publisher.fqrn, symlinks=True)
    now = time.time()
    assert chain_of(place, dest=tmp_path / "copy", now=now).to_json() == chain_of(place, now=now).to_json()


# ---------------------------------------------------------------------------------------------------- what does not


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["manifest", "whitelist"])
@pytest.mark.parametrize("position", [0, 30, -300, -1])
def test_a_bit_that_changed_is_found(name: str, position: int, place: Place) -> None:
    flip(place.records / name, position)
    chain = chain_of(place)
    assert chain.state == "invalid"
    assert not chain.holds


@pytest.mark.parametrize("name", ["manifest", "whitelist"])
def test_what_is_cut_off_is_invalid_and_what_is_not_there_unsigned(name: str, place: Place) -> None:
    file = place.records / name
    file.write_bytes(file.read_bytes()[:40])
    assert chain_of(place).state == "invalid"
    file.write_bytes(b"x" * (1 << 20))
    assert chain_of(place).state == "invalid"
    file.unlink()
    chain = chain_of(place)
    assert chain.state == "unsigned"
    assert name in chain.message


def certificate(place: Place) -> Path:
    (file,) = (place.base / ".provenance" / ".objects").glob("??/*X")
    return file


def test_the_certificate_has_to_be_there_and_right(place: Place) -> None:
    flip(certificate(place), 20)
    before = certificate(place).read_bytes()
    assert chain_of(place).state == "invalid"
    assert certificate(place).read_bytes() == before
    certificate(place).unlink()
    assert chain_of(place).state == "invalid"


def test_another_key_vouches_for_nothing(place: Place) -> None:
    chain = chain_of(place, keys=[signing.stranger().master])
    assert chain.state == "invalid"
    assert "signed with none of the master keys" in chain.message
    assert chain_of(place, keys=[]).state == "invalid"
    both = [signing.stranger().master, *place.publisher.keys]
    assert chain_of(place, keys=both).holds


def test_a_manifest_of_a_stranger_is_invalid(place: Place) -> None:
    fields = {"C": place.published.root_hash, "B": "0", "N": place.publisher.fqrn}
    (place.records / "manifest").write_bytes(signing.manifest(fields, signer=signing.stranger()))
    assert chain_of(place).state == "invalid"


def test_a_certificate_that_was_banned_since_is_refused(place: Place) -> None:
    banned = parse_blacklist(f"{signing.publisher().fingerprint()}\n".encode())
    assert banned != Blacklist()
    request = VerifyRequest(
        str(place.base), chain=True, workers=1, whence=lambda fqrn: Whence(tuple(place.publisher.keys), banned)
    )
    result = verify(request)
    (found,) = result.repositories
    assert found.chain is not None
    assert "blacklist" in found.chain.message
    with pytest.raises(TrustError, match="blacklist"):
        result.check()


def test_a_root_hash_that_was_taken_unsigned_is_told_so(place: Place) -> None:
    place.publish(1)
    shutil.rmtree(place.base)
    place.export(pin=Pin(root_hash=place.published.root_hash, unsigned=True), keys=())
    chain = chain_of(place)
    assert chain.state == "unsigned"
    assert place.published.root_hash in chain.message


def test_a_root_hash_that_the_kept_manifest_does_not_name_is_unsigned(place: Place) -> None:
    published = place.publish(1, history=False)
    (place.records / "manifest").write_bytes(published.manifest)
    chain = chain_of(place)
    assert chain.state == "unsigned"
    assert "neither that of the kept manifest (revision 2)" in chain.message


def edited(place: Place, name: str, change: Callable[[Any], object]) -> None:
    file = place.records / name
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def test_a_record_of_another_root_hash_is_found(place: Place) -> None:
    """Somebody makes a tree of his own and a record for it, as if it were that of the signed repository."""
    own = place.publish(5)
    manifest = (place.records / "manifest").read_bytes()
    place.export()
    (place.records / "manifest").write_bytes(manifest)
    chain = chain_of(place)
    assert chain.state == "unsigned"
    assert own.root_hash in chain.message


CHANGES: dict[str, Callable[[Any], object]] = {
    "listing": lambda value: value["subject"][0]["digest"].update(sha256="0" * 64),
    "options": lambda value: value["predicate"]["buildDefinition"]["externalParameters"]["options"].update(more=1),
    "variables": lambda value: value["predicate"]["buildDefinition"]["externalParameters"]["variables"].clear(),
    "rules": lambda value: value["predicate"]["buildDefinition"]["externalParameters"]["spec"].update(rules="2.12"),
    "empty": lambda value: value.clear(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_statement_that_says_something_else_is_found(change: str, place: Place) -> None:
    edited(place, "statement.json", CHANGES[change])
    chain = chain_of(place)
    assert chain.signed
    assert not chain.holds
    assert {what for what, _ in chain.problems} == {"statement"}


def test_a_missing_statement_is_found(place: Place) -> None:
    (place.records / "statement.json").unlink()
    assert chain_of(place).problems == [("statement", "there is none")]


def test_every_broken_catalog_is_named(place: Place) -> None:
    nested = list((place.base / ".provenance" / ".objects").glob("??/*C"))
    root = place.published.root_hash
    for file in nested:
        if file.parent.name + file.name.removesuffix("C") != root:
            flip(file, 10)
    shutil.rmtree(place.base / ".provenance" / ".summaries")
    chain = chain_of(place)
    # Of what is mounted in a catalog that is lost nobody knows.
    assert [what for what, _ in chain.problems if what != "statement"] == ["catalog of /lcg"]
    assert chain.signed
    assert chain.catalogs == 1


def test_differences_of_the_tree_are_not_the_chain(place: Place) -> None:
    (place.tree / "bin" / "tool").chmod(0o700)
    found: Verified = place.verify(chain=True)
    assert found.reason == "differs"
    assert found.chain is not None
    assert found.chain.holds
