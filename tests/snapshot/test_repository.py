"""The head that can be trusted, hosts that cannot, and the snapshot that a pin stands for."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cvmfs import signing
from snapshot.walking import paths
from support import golden
from support.repository import PUBLISHED, Published, Publisher, flip

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.blacklist import parse_blacklist
from shrinkwrap.cvmfs.digest import RMD160, SHAKE128, digest_of
from shrinkwrap.cvmfs.keys import read_keys
from shrinkwrap.cvmfs.trust import KnownHead
from shrinkwrap.errors import (
    CatalogError,
    CorruptObject,
    MissingObject,
    RollbackError,
    ShrinkwrapError,
    TrustError,
    UsageError,
)
from shrinkwrap.fetch.source import SourceConfig
from shrinkwrap.snapshot.repository import Pin, Repository
from shrinkwrap.snapshot.session import open_session


def publish(publisher: Publisher, name: bytes = b"/f", **options: Any) -> Published:
    return publisher.publish(publisher.tree([name, b"/n/f"], [b"/n"], store=False), **options)


@pytest.fixture
def mirror(publisher: Publisher, tmp_path: Path) -> Publisher:
    """A second host, with what the first one has when it is asked for."""
    publish(publisher, tags=["v1"])
    shutil.copytree(publisher.folder, tmp_path / "mirror")
    return Publisher(tmp_path / "mirror", tags=list(publisher.tags), revision=publisher.revision)


# -- the head ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [0, RMD160, SHAKE128])
def test_a_head_that_verifies_is_accepted_and_asked_for_once(tmp_path: Path, algorithm: int) -> None:
    publisher = Publisher(tmp_path / "storage", algorithm=algorithm)
    published = publish(publisher)
    with publisher.open() as opened:
        accepted = opened.repository.head()
        assert (accepted.manifest.root_hash, accepted.manifest.revision) == (published.root.digest, 1)
        assert accepted.manifest_bytes == published.manifest
        assert accepted.whitelist_bytes == (publisher.folder / ".cvmfswhitelist").read_bytes()
        assert accepted.expires > signing.NOW
        assert opened.repository.head() is accepted
        assert opened.source.controls == [".cvmfspublished", ".cvmfswhitelist"]
        assert opened.repository.resolve(Pin()).root == published.root
        assert len(opened.source.requests) == 1
        assert paths(opened, published.root) == [b"", b"/f", b"/n", b"/n/f"]


def test_the_certificate_is_kept_between_runs(publisher: Publisher, tmp_path: Path) -> None:
    publish(publisher)
    for requests in (1, 0):
        with publisher.open(keep=tmp_path / "keep") as opened:
            opened.repository.head()
            assert len(opened.source.requests) == requests


def test_a_manifest_that_was_fetched_already_is_not_fetched_again(publisher: Publisher) -> None:
    published = publish(publisher)
    with publisher.open() as opened:
        data = opened.repository.manifest_bytes()
        assert data == published.manifest
        assert opened.repository.head(data).manifest.revision == 1
        assert opened.source.controls == [".cvmfspublished", ".cvmfswhitelist"]


def spoil_manifest(host: Publisher) -> None:
    publish(host, b"/evil", signer=signing.stranger())


def spoil_name(host: Publisher) -> None:
    publish(host, b"/evil", changes={"N": "other.example.org"})


def spoil_whitelist_signature(host: Publisher) -> None:
    host.write_whitelist(signer=signing.stranger())


def spoil_whitelist_time(host: Publisher) -> None:
    host.write_whitelist(expires="20300615120000")


def spoil_whitelist_list(host: Publisher) -> None:
    host.write_whitelist(fingerprints=[signing.stranger().fingerprint()])


def spoil_manifest_bytes(host: Publisher) -> None:
    (host.folder / ".cvmfspublished").write_bytes(b"<html>login</html>")


def spoil_certificate_name(host: Publisher) -> None:
    publish(host, b"/evil", changes={"X": str(digest_of(0, b"nowhere"))})


SPOILERS = [
    spoil_manifest,
    spoil_name,
    spoil_whitelist_signature,
    spoil_whitelist_time,
    spoil_whitelist_list,
    spoil_manifest_bytes,
    spoil_certificate_name,
]


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("early", [False, True], ids=["", "manifest fetched before"])
def test_a_host_that_does_not_verify_is_left_for_the_next(
    publisher: Publisher, mirror: Publisher, spoil: Callable[[Publisher], None], early: bool
) -> None:
    spoil(publisher)
    told: list[str] = []
    with publisher.open(mirror, notice=told.append) as opened:
        data = opened.repository.manifest_bytes() if early else None
        accepted = opened.repository.head(data)
        assert accepted.manifest_bytes == (mirror.folder / ".cvmfspublished").read_bytes()
        assert opened.source.host == str(mirror.folder)
        (line,) = told
        assert line.startswith(f"{publisher.folder}: ")
        assert line.endswith(f"; trying {mirror.folder}")
        assert paths(opened, opened.repository.resolve(Pin()).root) == [b"", b"/f", b"/n", b"/n/f"]


@pytest.mark.parametrize("spoil", SPOILERS)
def test_without_another_host_the_reason_is_raised(publisher: Publisher, spoil: Callable[[Publisher], None]) -> None:
    publish(publisher)
    spoil(publisher)
    with publisher.open() as opened, pytest.raises(TrustError):
        opened.repository.head()


def test_when_no_host_verifies_the_first_reason_counts(publisher: Publisher, mirror: Publisher) -> None:
    spoil_whitelist_time(publisher)
    spoil_name(mirror)
    with publisher.open(mirror) as opened, pytest.raises(TrustError, match="expired"):
        opened.repository.head()


def test_a_host_that_replays_an_older_head_is_left_for_the_next(publisher: Publisher, mirror: Publisher) -> None:
    newer = publish(mirror, b"/newer")
    known = KnownHead(2, newer.root_hash and newer.root.digest, 0)  # type: ignore[arg-type]
    with publisher.open(mirror, known=known) as opened:
        assert opened.repository.head().manifest.revision == 2
    with publisher.open(known=known) as opened, pytest.raises(RollbackError):
        opened.repository.head()
    with publisher.open(known=known, allow_rollback=True) as opened:
        assert opened.repository.head().manifest.revision == 1


def test_the_same_revision_with_another_root_is_refused(publisher: Publisher) -> None:
    publish(publisher)
    known = KnownHead(1, digest_of(0, b"another"), 0)
    with publisher.open(known=known) as opened, pytest.raises(RollbackError, match="root catalog"):
        opened.repository.head()


def test_the_blacklist_of_the_site_counts(publisher: Publisher) -> None:
    publish(publisher)
    for text in (signing.publisher().fingerprint(), f"<{publisher.fqrn} 2"):
        blacklist = parse_blacklist(text.encode())
        with publisher.open(blacklist=blacklist) as opened, pytest.raises(TrustError, match="blacklist"):
            opened.repository.head()


@pytest.mark.parametrize("file", [".cvmfspublished", ".cvmfswhitelist"])
def test_a_missing_control_file_is_taken_from_the_next_host_or_reported(
    publisher: Publisher, mirror: Publisher, file: str
) -> None:
    (publisher.folder / file).unlink()
    with publisher.open(mirror) as opened:
        assert opened.repository.head().manifest.revision == 1
    expected: type[ShrinkwrapError] = MissingObject if file == ".cvmfspublished" else TrustError
    with publisher.open() as opened, pytest.raises(expected, match=file.removeprefix(".cvmfs")):
        opened.repository.head()


def test_a_root_catalog_beyond_all_bounds_is_refused(publisher: Publisher) -> None:
    publish(publisher, changes={"B": str(limits.CATALOG + 1)})
    with publisher.open() as opened, pytest.raises(TrustError, match="root catalog of"):
        opened.repository.head()


def test_a_root_catalog_of_another_size_than_the_manifest_says_is_refused(publisher: Publisher) -> None:
    published = publish(publisher, changes={"B": "4096"})
    with publisher.open() as opened:
        revision = opened.repository.resolve(Pin())
        assert revision.root._replace(size=published.root.size) == published.root
        with pytest.raises(CorruptObject):
            opened.catalogs.open(revision.root)


# -- alternative paths -------------------------------------------------------------------------------------------


def test_with_alternative_paths_catalog_and_certificate_are_found_there(publisher: Publisher, tmp_path: Path) -> None:
    published = publish(publisher, tags=["v1"], alternative=True)
    with publisher.open() as opened:
        assert paths(opened, opened.repository.resolve(Pin()).root) == [b"", b"/f", b"/n", b"/n/f"]
        assert opened.repository.resolve(Pin(tag="v1")).root == published.root
        asked = opened.source.requests
        assert [path.startswith(".cvmfsalt-") for path in asked] == [True, True, False, False]


def test_a_head_that_was_verified_before_keeps_its_alternative_path(publisher: Publisher) -> None:
    published = publish(publisher, alternative=True)
    with publisher.open() as opened:
        accepted = opened.repository.head()
    with publisher.open() as opened:
        opened.repository.accept(accepted)
        assert opened.repository.head() is accepted
        assert opened.source.controls == []
        assert paths(opened, published.root) == [b"", b"/f", b"/n", b"/n/f"]


# -- pins --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tagged(publisher: Publisher) -> list[Published]:
    """Revisions 1 to 4; all but 2 have a tag ``vN``, an hour after the other."""
    return [
        publish(publisher, b"/f%d" % number, tags=[f"v{number}"] * (number != 2), timestamp=PUBLISHED + 3600 * number)
        for number in (1, 2, 3, 4)
    ]


def when(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(PUBLISHED + seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(
    ("pin", "number", "tag"),
    [
        (Pin(), 4, ""),
        (Pin(tag="v1"), 1, "v1"),
        (Pin(tag="v3"), 3, "v3"),
        (Pin(tag="v4"), 4, "v4"),
        (Pin(tag="trunk"), 4, "trunk"),
        (Pin(revision=1), 1, ""),
        (Pin(revision=4), 4, ""),
        (Pin(at=when(3600)), 1, "v1"),
        (Pin(at=when(3600 * 3 - 1)), 1, "v1"),
        (Pin(at=when(3600 * 3)), 3, "v3"),
        (Pin(at="2100-01-01"), 4, "v4"),
    ],
    ids=str,
)
def test_a_pin_gives_the_snapshot_that_it_names(
    publisher: Publisher, tagged: list[Published], pin: Pin, number: int, tag: str
) -> None:
    wanted = tagged[number - 1]
    with publisher.open() as opened:
        found = opened.repository.resolve(pin)
        assert (found.root, found.revision, found.timestamp) == (wanted.root, wanted.revision, wanted.timestamp)
        assert (found.tag, found.signed) == (tag, True)
        assert b"/f%d" % number in paths(opened, found.root)


@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_root_hash_in_the_signed_history_is_trusted(
    publisher: Publisher, tagged: list[Published], number: int
) -> None:
    wanted = tagged[number - 1]
    with publisher.open() as opened:
        found = opened.repository.resolve(Pin(root_hash=wanted.root_hash))
        assert (found.root, found.revision, found.tag, found.signed) == (wanted.root, number, "", True)


def test_a_root_hash_that_no_tag_vouches_for_is_refused(publisher: Publisher, tagged: list[Published]) -> None:
    with publisher.open() as opened, pytest.raises(TrustError, match="not in the signed history") as caught:
        opened.repository.resolve(Pin(root_hash=tagged[1].root_hash))
    assert "--accept-unsigned-root-hash" in caught.value.hint


def test_an_unsigned_root_hash_asks_for_no_signature_at_all(publisher: Publisher, tagged: list[Published]) -> None:
    (publisher.folder / ".cvmfspublished").unlink()
    (publisher.folder / ".cvmfswhitelist").unlink()
    with publisher.open() as opened:
        found = opened.repository.resolve(Pin(root_hash=tagged[1].root_hash, unsigned=True))
        assert opened.source.controls == []
        assert (found.revision, found.timestamp, found.tag, found.signed) == (0, 0, "", False)
        assert found.root_hash == tagged[1].root.digest
        assert b"/f2" in paths(opened, found.root)


@pytest.mark.parametrize(
    "pin",
    [Pin(tag="v2"), Pin(tag="V1"), Pin(revision=2), Pin(revision=5), Pin(revision=-1), Pin(at=when(3599))],
    ids=str,
)
def test_pins_that_nothing_fits_are_errors_of_the_user(publisher: Publisher, tagged: list[Published], pin: Pin) -> None:
    with publisher.open() as opened, pytest.raises(UsageError):
        opened.repository.resolve(pin)


@pytest.mark.parametrize(
    ("pin", "what"),
    [
        (Pin(tag="a", at="2026-01-01"), "--tag and --at"),
        (Pin(tag="a", revision=0), "--tag and --revision"),
        (Pin(revision=0, root_hash="ab" * 20), "--revision and --root-hash"),
        (
            Pin(tag="a", revision=1, at="2026-01-01", root_hash="ab" * 20),
            "--tag and --revision and --at and --root-hash",
        ),
        (Pin(at="yesterday"), "not a date"),
        (Pin(root_hash="ab"), "--root-hash: not a content hash"),
        (Pin(root_hash="AB" * 20), "--root-hash: not a content hash"),
        (Pin(unsigned=True), "--accept-unsigned-root-hash goes with"),
        (Pin(tag="a", unsigned=True), "--accept-unsigned-root-hash goes with"),
    ],
    ids=str,
)
def test_pins_that_make_no_sense_are_refused_before_anything_is_asked_for(
    publisher: Publisher, pin: Pin, what: str
) -> None:
    with publisher.open() as opened:
        with pytest.raises(UsageError, match=what):
            opened.repository.resolve(pin)
        assert opened.source.controls == []


def test_following_the_head_is_what_no_pin_means() -> None:
    assert Pin().follows_head
    assert Pin(unsigned=True).follows_head
    for pin in (Pin(tag="a"), Pin(revision=0), Pin(at="2026-01-01"), Pin(root_hash="ab" * 20)):
        assert not pin.follows_head


def test_a_repository_without_history_can_be_pinned_to_its_head_only(publisher: Publisher) -> None:
    published = publish(publisher, history=False)
    with publisher.open() as opened:
        assert opened.repository.tags() == []
        for pin in (Pin(), Pin(revision=1), Pin(root_hash=published.root_hash)):
            assert opened.repository.resolve(pin).root == published.root
        for pin in (Pin(tag="trunk"), Pin(revision=2), Pin(at="2100-01-01")):
            with pytest.raises(UsageError, match="has no history"):
                opened.repository.resolve(pin)
        with pytest.raises(TrustError, match="not in the signed history"):
            opened.repository.resolve(Pin(root_hash="ab" * 20))


def test_tags_are_listed_by_revision(publisher: Publisher, tagged: list[Published]) -> None:
    with publisher.open() as opened:
        assert [tag.name for tag in opened.repository.tags()] == ["v1", "v3", "trunk", "v4"]
        opened.repository.tags()
        assert len(opened.source.requests) == 2


@pytest.mark.parametrize("size", [-1, limits.CATALOG + 1, 4096])
def test_a_tag_that_lies_about_its_catalog_is_found_out(publisher: Publisher, size: int) -> None:
    published = publish(publisher)
    publisher.tags = [("old", published.root_hash, 1, PUBLISHED, "", size, "")]
    publish(publisher, b"/g")
    with publisher.open() as opened:
        if size == -1:
            with pytest.raises(CatalogError, match="size"):
                opened.repository.resolve(Pin(tag="old"))
        elif size > limits.CATALOG:
            assert opened.repository.resolve(Pin(tag="old")).root.size == 0
        else:
            with pytest.raises(CorruptObject):
                opened.catalogs.open(opened.repository.resolve(Pin(tag="old")).root)


def test_a_history_that_has_rotted_among_the_kept_objects_is_fetched_again(
    publisher: Publisher, tagged: list[Published], tmp_path: Path
) -> None:
    keep = tmp_path / "keep"
    with publisher.open(keep=keep) as opened:
        names = opened.repository.tags()
    for path in keep.glob("*/*H"):
        flip(path)
    with publisher.open(keep=keep) as opened:
        assert opened.repository.tags() == names
        assert [path[-1] for path in opened.source.requests] == ["H"]


def test_a_broken_or_lost_history_is_an_error_for_those_who_need_it(
    publisher: Publisher, tagged: list[Published]
) -> None:
    with publisher.open() as opened:
        history = opened.repository.head().manifest.history
    assert history is not None
    publisher.storage.spoil(history, "H")
    with publisher.open() as opened:
        assert opened.repository.resolve(Pin()).revision == 4
        with pytest.raises(CorruptObject):
            opened.repository.resolve(Pin(tag="v1"))
    publisher.storage.remove(history, "H")
    with publisher.open() as opened, pytest.raises(MissingObject):
        opened.repository.resolve(Pin(tag="v1"))


def test_the_history_of_another_repository_is_refused(publisher: Publisher, tmp_path: Path) -> None:
    other = Publisher(tmp_path / "other", fqrn="other.example.org")
    publish(other)
    with other.open() as opened:
        foreign = opened.repository.head().manifest.history
    assert foreign is not None
    publisher.storage.put_stored(other.storage.path(foreign, "H").read_bytes(), "H")
    publish(publisher, changes={"H": str(foreign)})
    with publisher.open() as opened, pytest.raises(TrustError, match="history of"):
        opened.repository.tags()


# -- real repositories -------------------------------------------------------------------------------------------


@contextmanager
def real(repos: Path, fqrn: str) -> Iterator[Repository]:
    keys = read_keys([repos / "keys" / f"{fqrn}.pub"])
    with open_session(SourceConfig(fqrn, storage=str(repos / fqrn)), keys) as session:
        yield session.repository


def test_pins_give_what_the_reference_client_mounts(repos: Path) -> None:
    names = {"CVMFS_REPOSITORY_TAG": "tag", "CVMFS_REPOSITORY_DATE": "at", "CVMFS_ROOT_HASH": "root_hash"}
    checked = 0
    with real(repos, "small.cern.ch") as repository:
        for row in golden.rows("small.cern.ch/pins.jsonl"):
            settings = [setting.split("=", 1) for setting in row.get("settings", [])]
            if len(settings) != 1:
                continue  # which of several pins wins is another question: here they are refused
            pin = Pin(**{names[name]: value for name, value in settings})  # type: ignore[arg-type]
            checked += 1
            if row["mounts"]:
                found = repository.resolve(pin)
                assert (str(found.root_hash), found.revision) == (row["root_hash"], row["revision"])
            else:
                with pytest.raises((UsageError, TrustError)):
                    repository.resolve(pin)
    assert checked > 10


@pytest.mark.parametrize("at", golden.params(golden.pinned()))
def test_every_real_head_verifies(at: golden.Pinned, repos: Path) -> None:
    with real(repos, at.fqrn) as repository:
        head = repository.head(at.manifest)
        assert head.manifest.fqrn == at.fqrn
        if at.tag is not None:
            assert repository.resolve(Pin(tag=at.tag)).root_hash == head.manifest.root_hash
