"""Snapshots side by side (``--as``): links only, nothing fetched twice, and commands that know them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cvmfs import signing
from support.exporting import differences, leftovers, selected, words
from support.filesystems import Filesystem, remove_tree
from support.forking import Forks
from support.golden import Pinned
from support.listing import AS_ROOT
from support.repository import Publisher
from support.servers import RepoServer
from tree.collecting import FQRN, OTHER, SPECS, Places, wanted

from shrinkwrap.cvmfs.blacklist import Blacklist
from shrinkwrap.errors import DestinationError, RollbackError, UsageError
from shrinkwrap.fetch.source import SourceConfig
from shrinkwrap.snapshot.repository import Pin
from shrinkwrap.spec.grammar import parse
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.dry import dry_run
from shrinkwrap.tree.export import export
from shrinkwrap.tree.remove import remove_snapshot
from shrinkwrap.tree.request import ExportRequest
from shrinkwrap.tree.snapshots import current, seen_last, snapshots
from shrinkwrap.tree.verify import VerifyRequest, Whence, verify

SMALL = Pinned("small.cern.ch", "rev2")
FOLDERS = (b"/special/swap", b"/special/meta", b"/special/nest")


@pytest.fixture
def places(tmp_path: Path, repositories: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.setattr(Base, "sync", lambda self: None)  # nothing here is about power cuts
    return Places(tmp_path, repositories)


def content(places: Places, name: str, snapshot: str, fqrn: str = FQRN) -> dict[bytes, bytes]:
    return places.tree(f"{name}/{snapshot}", fqrn)


# ------------------------------------------------------------------------------------------------------------- the tree


def test_a_snapshot_beside_the_tree_costs_links_only(places: Places) -> None:
    places.export("a", 1)
    stored = places.stored("a")
    result = places.export("a", 1, snapshot="2026Q3")
    assert result.counts.get("fetched", 0) == 0
    assert result.dest == str(places.base("a") / "2026Q3")
    assert content(places, "a", "2026Q3") == places.tree("a") == wanted(1)
    assert {name: info.st_ino for name, info in places.stored("a").items()} == {
        name: info.st_ino for name, info in stored.items()
    }
    assert all(info.st_nlink >= 3 for info in places.stored("a").values())


def test_several_repositories_lie_in_one_snapshot(places: Places) -> None:
    for fqrn in (FQRN, OTHER):
        places.export("a", 2, fqrn=fqrn, snapshot="freeze")
    assert content(places, "a", "freeze") == content(places, "a", "freeze", OTHER) == wanted(2)
    assert sorted(os.listdir(places.base("a") / "freeze")) == [".data", ".provenance", FQRN, OTHER]
    assert snapshots(str(places.base("a"))) == ["freeze"]


def test_a_snapshot_stays_what_it_is_while_the_tree_goes_on(places: Places) -> None:
    places.export("a", 0)
    places.export("a", 0, snapshot="old")
    for revision in (1, 2, 3):
        places.export("a", revision, gc=True)
    assert content(places, "a", "old") == wanted(0)
    assert places.tree("a") == wanted(3)


def test_a_snapshot_can_be_the_first_export_of_all(places: Places) -> None:
    places.export("a", 1, snapshot="first")
    assert places.stored("a")
    result = places.export("a", 1)
    assert result.counts.get("fetched", 0) == 0
    assert places.tree("a") == content(places, "a", "first") == wanted(1)


def test_a_snapshot_with_a_store_elsewhere_uses_that(places: Places) -> None:
    places.export("a", 0, store="store", snapshot="one")
    # Neither the destination nor another snapshot need it to be said again.
    places.export("a", 0, snapshot="two")
    places.export("a", 0)
    assert places.status("a").store == str(places.base("store"))
    assert not [name for name in os.listdir(places.base("a") / ".data") if len(name) == 2]
    bases = places.status("a").bases
    assert bases is not None
    assert {str(places.base("a") / name) for name in ("one", "two")} <= set(bases)
    with pytest.raises(DestinationError, match="its store is"):
        places.export("a", 0, snapshot="three", store="another")


def test_a_snapshot_is_updated_as_any_export(places: Places) -> None:
    places.export("a", 0, snapshot="moving")
    places.export("a", 2, snapshot="moving")
    assert content(places, "a", "moving") == wanted(2)
    assert places.export("a", 2, snapshot="moving").reason == "unchanged"


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "current", "x\ny", " x", "x" * 101, "\udcff", "a\0b"])
def test_a_name_that_no_snapshot_can_have_is_refused(places: Places, name: str) -> None:
    from shrinkwrap.tree.snapshots import check_name

    with pytest.raises(UsageError):
        check_name(name)
    if name:
        with pytest.raises(UsageError):
            places.export("a", 0, snapshot=name)
        assert not places.base("a").exists()


def test_a_snapshot_cannot_have_the_name_of_a_repository_of_the_destination(places: Places) -> None:
    places.export("a", 0, fqrn=OTHER)
    for name in (FQRN, OTHER):
        with pytest.raises(UsageError):
            places.export("a", 0, snapshot=name)
    assert places.tree("a", OTHER) == wanted(0)


def test_what_stands_there_and_is_no_snapshot_is_left_alone(places: Places) -> None:
    base = places.base("a")
    (base / "taken").mkdir(parents=True)
    (base / "taken" / "file").write_text("mine")
    (base / "link").symlink_to("taken")
    (base / "file").write_text("mine")
    for name in ("taken", "link", "file"):
        with pytest.raises(DestinationError):
            places.export("a", 0, snapshot=name)
    assert sorted(os.listdir(base / "taken")) == ["file"]


def test_a_repository_named_as_a_snapshot_does_not_take_its_place(places: Places) -> None:
    places.export("a", 0, fqrn=OTHER, snapshot=FQRN)
    for repair in (False, True):
        with pytest.raises(DestinationError, match="destination of its own"):
            places.export("a", 0, repair=repair)
    assert content(places, "a", FQRN, OTHER) == wanted(0)


def test_adopting_is_for_destinations_only(places: Places) -> None:
    with pytest.raises(UsageError, match="--adopt"):
        places.export("a", 0, snapshot="x", adopt=True)


def test_a_dry_run_tells_of_links_only_and_makes_nothing(places: Places) -> None:
    places.export("a", 1)
    before = sorted(os.walk(places.base("a")))
    request = request_of(places, "a", 1, snapshot="x")
    plan = dry_run(request)
    assert (plan.counts["to_fetch"], plan.counts["to_link"]) == (0, len(wanted(1)))
    assert sorted(os.walk(places.base("a"))) == before
    assert dry_run(replace(request, dest=str(places.base("new")))).counts["to_fetch"] > 0
    assert not places.base("new").exists()


def request_of(places: Places, name: str, revision: int, **options: Any) -> ExportRequest:
    return ExportRequest(
        source=SourceConfig(FQRN, servers=((places.repositories / FQRN).as_uri(),)),
        keys=(),
        spec=parse(SPECS["all"]),
        dest=str(places.base(name)),
        pin=Pin(root_hash=places.roots[FQRN][revision], unsigned=True),
        workers=1,
        **options,
    )


# ------------------------------------------------------------------------------------------------------- nothing twice


def test_of_what_is_there_only_the_signed_head_is_asked_for_again(
    cli: Forks, repo_server: RepoServer, tmp_path: Path
) -> None:
    server = repo_server.with_files()
    spec = tmp_path / "the.spec"
    spec.write_bytes(b"".join(folder + b"/*\n" for folder in FOLDERS))
    base = tmp_path / "base"
    args = words(
        SMALL, base, "--server", server.repo(SMALL.fqrn), "--tag", SMALL.rev, "--keep-suid", "--json", spec=spec
    )
    cli.run(*args).ok()
    asked = len(server.requests())
    ended = cli.run(*args, "--as", "2026Q3").ok()
    assert ended.json["counts"].get("fetched", 0) == 0
    assert {one.path for one in server.requests()[asked:]} == {
        f"{SMALL.fqrn}/{name}" for name in (".cvmfspublished", ".cvmfswhitelist")
    }
    there = base / "2026Q3"
    assert differences(there, SMALL, AS_ROOT, selected(SMALL, *FOLDERS)) == []
    assert leftovers(base) == leftovers(there) == []
    asked = len(server.requests())
    assert cli.run(*args, "--as", "2026Q3").ok().json["reason"] == "unchanged"
    assert [one.path for one in server.requests()[asked:]] == [f"{SMALL.fqrn}/.cvmfspublished"]


def test_catalogs_come_from_a_snapshot_too_and_only_if_their_digest_is_right(places: Places) -> None:
    places.export("a", 1, snapshot="one")
    kept = sorted((places.base("a") / "one" / ".provenance" / ".objects").rglob("*C"))
    assert len(kept) == 2
    places.export("a", 1, snapshot="two")
    twins = [places.base("a") / "two" / file.relative_to(places.base("a") / "one") for file in kept]
    assert [file.stat().st_ino for file in twins] == [file.stat().st_ino for file in kept]
    remove_snapshot(str(places.base("a")), "two")
    for file in kept:
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    places.export("a", 1, snapshot="three")
    fresh = [places.base("a") / "three" / file.relative_to(places.base("a") / "one") for file in kept]
    assert [file.read_bytes() for file in fresh] != [file.read_bytes() for file in kept]
    assert content(places, "a", "three") == wanted(1)


def test_catalogs_are_copied_where_links_do_not_lead(places: Places, tmpfs: Filesystem) -> None:
    elsewhere = tmpfs.folder("copied")
    places.export("a", 1)
    there = Places(elsewhere, places.repositories)
    export(replace(request_of(there, "b", 1), store=str(places.base("a") / ".data")))
    kept = sorted((places.base("a") / ".provenance" / ".objects").rglob("*C"))
    copies = sorted((elsewhere / "b" / ".provenance" / ".objects").rglob("*C"))
    assert [file.read_bytes() for file in copies] == [file.read_bytes() for file in kept]
    assert all(file.stat().st_nlink == 1 for file in copies)
    remove_tree(elsewhere)


# ------------------------------------------------------------------------------------------------------------ the trust


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signed:
    monkeypatch.setattr(Base, "sync", lambda self: None)
    monkeypatch.setattr("time.time", lambda: float(signing.NOW))
    return Signed(tmp_path)


class Signed:
    """A signed repository with two revisions, and exports of it."""

    def __init__(self, folder: Path) -> None:
        self.publisher = Publisher(folder / "storage")
        self.dest = folder / "base"
        self.heads = []
        for data in (b"one", b"two"):
            root = self.publisher.catalog()
            root.file(b"/file", data)
            self.publisher.publish(root)
            self.heads.append((self.publisher.folder / ".cvmfspublished").read_bytes())

    def serve(self, number: int) -> None:
        (self.publisher.folder / ".cvmfspublished").write_bytes(self.heads[number])

    def export(self, **options: Any) -> Any:
        return export(
            ExportRequest(
                source=self.publisher.config(),
                keys=tuple(self.publisher.keys),
                spec=parse(b"/*\n"),
                dest=str(self.dest),
                workers=1,
                **options,
            )
        )


def test_a_replayed_older_head_is_refused_for_a_snapshot_that_is_new(signed: Signed) -> None:
    signed.export(snapshot="one")
    signed.serve(0)
    for options in ({"snapshot": "two"}, {"snapshot": "one"}, {"switch": True}):
        with pytest.raises(RollbackError):
            signed.export(**options)
    assert current(str(signed.dest)) is None
    signed.export(snapshot="two", allow_rollback=True)
    # It was accepted, and counts from now on.
    assert signed.export(snapshot="three").revision == 1
    seen = seen_last(str(signed.dest), signed.publisher.fqrn)
    assert seen is not None
    assert seen.revision == 1


def test_the_head_that_the_destination_itself_has_seen_counts_too(signed: Signed) -> None:
    signed.export()
    signed.serve(0)
    with pytest.raises(RollbackError):
        signed.export(snapshot="two")


def test_an_older_revision_may_be_frozen(signed: Signed) -> None:
    signed.export()
    result = signed.export(snapshot="old", pin=Pin(root_hash=old_root(signed), unsigned=True))
    assert result.root_hash == old_root(signed)
    assert (signed.dest / "old" / signed.publisher.fqrn / "file").read_bytes() == b"one"


def test_an_old_release_can_be_proved_by_what_it_was_made_from(signed: Signed) -> None:
    whence = Whence(tuple(signed.publisher.keys), Blacklist())
    signed.serve(0)
    old = signed.export(switch=True).dest
    signed.serve(1)
    new = signed.export(switch=True).dest
    for place in (old, new):
        request = VerifyRequest(place, chain=True, workers=1, whence=lambda fqrn: whence, now=float(signing.NOW))
        assert verify(request).ok
    assert old != new


def old_root(signed: Signed) -> str:
    return next(line[1:] for line in signed.heads[0].decode("latin-1").splitlines() if line.startswith("C"))


# --------------------------------------------------------------------------------------------------------- the commands


def test_status_lists_the_snapshots_of_a_destination(places: Places, cli: Forks) -> None:
    places.export("a", 2)
    places.export("a", 0, snapshot="old")
    places.export("a", 1, fqrn=OTHER, snapshot="old")
    found = places.status("a")
    assert [one.fqrn for one in found.repositories] == [FQRN]
    assert {name: [one.fqrn for one in inside] for name, inside in found.snapshots.items()} == {"old": [FQRN, OTHER]}
    told = found.to_json()["snapshots"]
    assert [(one["name"], one["current"]) for one in told] == [("old", False)]
    assert told[0]["repositories"][0]["record"]["root_hash"] == places.roots[FQRN][0]
    printed = cli.run("status", places.base("a")).ok().out
    assert "snapshot old\n  demo.example.org" in printed
    assert "shared with" not in printed


def test_status_of_a_destination_with_snapshots_alone(places: Places, cli: Forks) -> None:
    places.export("a", 2, snapshot="only")
    assert places.status("a").repositories == []
    assert "no repository" not in cli.run("status", places.base("a")).ok().out


def test_gc_never_takes_what_a_snapshot_needs(places: Places) -> None:
    places.export("a", 0)
    places.export("a", 0, snapshot="links")
    places.export("a", 1, snapshot="copies", link_mode="copy")
    places.export("a", 3)
    for full in (False, True):
        places.gc("a", full=full)
    assert content(places, "a", "links") == wanted(0)
    before = set(places.stored("a"))
    result = places.export("a", 1, snapshot="again")
    assert result.counts.get("fetched", 0) == 0
    assert set(places.stored("a")) == before


def test_a_snapshot_is_removed_whole_and_leaves_garbage_only(places: Places) -> None:
    places.export("a", 3)
    alone = set(places.stored("a"))
    for fqrn in (FQRN, OTHER):
        places.export("a", 0, fqrn=fqrn, snapshot="old")
    result = remove_snapshot(str(places.base("a")), "old", gc=True)
    assert (result.repositories, result.whole) == ([FQRN, OTHER], True)
    assert not (places.base("a") / "old").exists()
    assert set(places.stored("a")) == alone
    assert places.status("a").bases == []
    assert places.tree("a") == wanted(3)


def test_one_repository_of_a_snapshot_is_removed_and_with_the_last_the_snapshot(places: Places) -> None:
    for fqrn in (FQRN, OTHER):
        places.export("a", 0, fqrn=fqrn, snapshot="old")
    assert not remove_snapshot(str(places.base("a")), "old", FQRN).whole
    assert content(places, "a", "old", OTHER) == wanted(0)
    assert remove_snapshot(str(places.base("a")), "old", OTHER).whole
    with pytest.raises(DestinationError, match="no snapshot old"):
        remove_snapshot(str(places.base("a")), "old")


def test_what_is_not_ours_in_a_snapshot_outlives_it(places: Places) -> None:
    places.export("a", 0, snapshot="old")
    (places.base("a") / "old" / "notes").write_text("mine")
    result = remove_snapshot(str(places.base("a")), "old")
    assert not result.whole
    assert len(result.notices) == 1
    assert os.listdir(places.base("a") / "old") == ["notes"]


@pytest.mark.parametrize("every", [pytest.param(11, id="some"), pytest.param(1, id="each", marks=pytest.mark.long)])
def test_a_removal_killed_at_any_call_is_finished_by_the_next(places: Places, cli: Forks, every: int) -> None:
    args = ("remove", str(places.base("a")), "--as", "old")
    places.export("a", 1)
    places.export("a", 0, snapshot="old")
    calls = cli.run(*args).ok().calls
    for number in range(1, calls + 1, every):
        places.export("a", 0, snapshot="old")
        assert cli.run(*args, die_at=number).killed
        if (places.base("a") / "old").exists():
            cli.run(*args).ok()
        assert not (places.base("a") / "old").exists()
        assert places.status("a").bases == []
        assert places.tree("a") == wanted(1)


def test_verify_takes_the_name_of_a_snapshot(places: Places, cli: Forks) -> None:
    places.export("a", 0, snapshot="old")
    assert verify(VerifyRequest(str(places.base("a") / "old"), content=True)).ok
    cli.run("verify", str(places.base("a")), "--as", "old").ok()
    (places.base("a") / "old" / FQRN / "same").unlink()
    assert "missing: /same" in cli.run("verify", str(places.base("a")), "--as", "old").ends_with(6).out
    said = cli.run("verify", str(places.base("a"))).ends_with(8).err
    assert "--as" in said
    assert "old" in said


def test_the_commands_say_which_snapshots_there_are(places: Places, cli: Forks) -> None:
    places.export("a", 0, snapshot="old")
    for command in ("verify", "remove"):
        said = cli.run(command, str(places.base("a")), "--as", "older").ends_with(8).err
        assert "there are: old" in said
    assert "--as" in cli.run("remove", str(places.base("a"))).ends_with(2).err


def test_an_empty_name_is_no_name_and_does_not_mean_the_destination_itself(places: Places, cli: Forks) -> None:
    places.export("a", 0)
    places.export("a", 0, snapshot="old")
    base = str(places.base("a"))
    for args in (
        places.words("a", 1, "--as", ""),
        ["remove", base, "--as", "", "-r", FQRN],
        ["remove", base, "--as", "old", "-r", ""],
        ["verify", base, "--as", ""],
    ):
        assert "variable" in cli.run(*args).ends_with(2).err
    assert places.tree("a") == content(places, "a", "old") == wanted(0)
