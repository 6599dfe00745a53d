"""Releases (``--switch``): a new tree beside the old one, and one step in which readers come to it."""

from __future__ import annotations

import os
import random
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.cli import run_cli
from support.exporting import broken_names, leftovers, selected, words
from support.forking import Ended, Forks
from support.golden import Pinned
from support.listing import list_tree
from support.servers import RepoServer
from tree.collecting import FQRN, OTHER, REVISIONS, Places, wanted

from shrinkwrap.errors import DestinationError, MissingObject, UsageError
from shrinkwrap.tree import gc
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.dry import dry_run
from shrinkwrap.tree.export import export
from shrinkwrap.tree.remove import remove, remove_snapshot
from shrinkwrap.tree.snapshots import current, snapshots

SEED = int(os.environ.get("CI_SEED", "1"))
SMALL = tuple(Pinned("small.cern.ch", f"rev{number}") for number in (1, 2, 3))
FOLDERS = (b"/special/swap", b"/special/meta", b"/special/hard")


@pytest.fixture
def places(tmp_path: Path, repositories: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.setattr(Base, "sync", lambda self: None)  # nothing here is about power cuts
    return Places(tmp_path, repositories)


def seen(places: Places, fqrn: str = FQRN) -> dict[bytes, bytes]:
    """What readers find."""
    return places.tree("a/current", fqrn)


def now(places: Places) -> str | None:
    return current(str(places.base("a")))


# ------------------------------------------------------------------------------------------------------------- releases


def test_a_release_is_named_by_what_is_in_it_and_readers_come_to_it(places: Places) -> None:
    for revision in (0, 1):
        result = places.export("a", revision, switch=True)
        assert result.switched
        # A root hash that is taken unsigned has no revision number.
        assert now(places) == result.snapshot == f"r0-{places.roots[FQRN][revision][:8]}"
        assert os.readlink(places.base("a") / "current") == result.snapshot
        assert seen(places) == wanted(revision)
    assert len(snapshots(str(places.base("a")))) == 2
    assert leftovers(places.base("a")) == []


def test_nothing_new_costs_one_look_and_makes_nothing(places: Places) -> None:
    first = places.export("a", 1, switch=True)
    before = sorted(os.listdir(places.base("a")))
    again = places.export("a", 1, switch=True)
    assert (again.reason, again.switched, again.snapshot) == ("unchanged", False, first.snapshot)
    assert sorted(os.listdir(places.base("a"))) == before


def test_going_back_to_a_release_that_is_there_makes_nothing(places: Places) -> None:
    for revision in (0, 1):
        places.export("a", revision, switch=True)
    back = places.export("a", 0, switch=True)
    assert (back.reason, back.switched) == ("unchanged", True)
    assert seen(places) == wanted(0)


def test_another_specification_of_the_same_revision_is_another_release(places: Places) -> None:
    first = places.export("a", 1, switch=True)
    second = places.export("a", 1, spec="some", switch=True)
    assert second.snapshot == f"{first.snapshot}.2"
    assert seen(places) == wanted(1, "some")
    assert places.tree(f"a/{first.snapshot}") == wanted(1)
    third = places.export("a", 1, switch=True)
    assert (third.snapshot, third.reason) == (first.snapshot, "unchanged")


def test_a_release_can_be_given_a_name(places: Places) -> None:
    places.export("a", 0, snapshot="2026Q3", switch=True)
    assert now(places) == "2026Q3"
    again = places.export("a", 0, snapshot="2026Q3", switch=True)
    assert (again.reason, again.switched) == ("unchanged", False)


def test_old_releases_stay(places: Places) -> None:
    names = [places.export("a", revision, switch=True, gc=True).snapshot for revision in range(len(REVISIONS))]
    for revision, name in enumerate(names):
        assert places.tree(f"a/{name}") == wanted(revision)


# ------------------------------------------------------------------------------------------------------ what is refused


def test_the_release_that_readers_use_does_not_become_another_under_them(places: Places) -> None:
    places.export("a", 0, snapshot="x", switch=True)
    before = list_tree(places.base("a") / "x" / FQRN)
    for switch in (False, True):
        with pytest.raises(DestinationError, match="readers would see half of a change"):
            places.export("a", 1, snapshot="x", switch=switch)
        with pytest.raises(DestinationError, match="readers would see half of a change"):
            places.export("a", 0, fqrn=OTHER, snapshot="x", switch=switch)
    assert list_tree(places.base("a") / "x" / FQRN) == before
    assert seen(places) == wanted(0)


def test_the_release_that_readers_use_can_be_mended(places: Places) -> None:
    places.export("a", 0, switch=True)
    (places.base("a") / "current" / FQRN / "same").unlink()
    assert places.export("a", 0, switch=True, repair=True).reason == "exported"
    assert seen(places) == wanted(0)


def test_readers_never_lose_a_repository_by_a_switch(places: Places) -> None:
    for fqrn in (FQRN, OTHER):
        places.export("a", 0, fqrn=fqrn, snapshot="one", switch=fqrn == OTHER)
    before = sorted(os.listdir(places.base("a")))
    for options in ({}, {"snapshot": "two"}):
        with pytest.raises(DestinationError, match=f"which has {OTHER}") as caught:
            places.export("a", 1, switch=True, **options)
        assert "--as" in caught.value.hint
        assert now(places) == "one"
        assert sorted(os.listdir(places.base("a"))) == before
    places.export("a", 1, snapshot="two")
    places.export("a", 1, fqrn=OTHER, snapshot="two", switch=True)
    assert (now(places), seen(places), seen(places, OTHER)) == ("two", wanted(1), wanted(1))


def test_a_dry_run_refuses_a_switch_by_which_readers_would_lose_a_repository(places: Places) -> None:
    from tree.test_snapshots import request_of

    places.export("a", 0, snapshot="both")
    places.export("a", 0, fqrn=OTHER, snapshot="both", switch=True)
    places.export("a", 0, snapshot="one")
    with pytest.raises(DestinationError, match=OTHER):
        dry_run(request_of(places, "a", 0, snapshot="one", switch=True))


def test_a_repository_that_came_in_part_counts_as_lacking(places: Places, cli: Forks) -> None:
    for fqrn in (FQRN, OTHER):
        places.export("a", 0, fqrn=fqrn, snapshot="one", switch=fqrn == OTHER)
    assert cli.run(*places.words("a", 2, "--as", "two"), die_at=2, at=("link",)).killed
    with pytest.raises(DestinationError, match=FQRN):
        places.export("a", 2, fqrn=OTHER, snapshot="two", switch=True)
    assert now(places) == "one"


@pytest.mark.parametrize(
    "make",
    [
        lambda place: place.mkdir(),
        lambda place: place.write_text("x"),
        lambda place: place.symlink_to("/etc"),
        lambda place: place.symlink_to("../elsewhere"),
        lambda place: place.symlink_to("plain"),
        lambda place: place.symlink_to("."),
    ],
    ids=["folder", "file", "outside", "beside", "no-snapshot", "itself"],
)
def test_what_stands_in_the_place_of_the_link_is_left_alone(places: Places, make: Callable[[Path], object]) -> None:
    base = places.base("a")
    (base / "plain").mkdir(parents=True)
    make(base / "current")
    before = sorted(os.listdir(base))
    with pytest.raises(DestinationError, match="is not a link to a snapshot"):
        places.export("a", 0, switch=True)
    assert sorted(os.listdir(base)) == before


def test_a_link_to_a_release_that_somebody_deleted_is_replaced(places: Places) -> None:
    base = places.base("a")
    base.mkdir()
    (base / "current").symlink_to("gone")
    places.export("a", 0, switch=True)
    assert seen(places) == wanted(0)


def test_the_release_that_readers_use_is_not_removed(places: Places) -> None:
    name = places.export("a", 0, switch=True).snapshot
    base = str(places.base("a"))
    for attempt in (
        lambda: remove_snapshot(base, name),
        lambda: remove_snapshot(base, name, FQRN),
        lambda: remove(f"{base}/{name}", FQRN),
        lambda: remove(f"{base}/current", FQRN),
    ):
        with pytest.raises(DestinationError, match="readers use it"):
            attempt()
    places.export("a", 1, switch=True)
    assert remove_snapshot(base, name).whole
    assert seen(places) == wanted(1)


def test_a_release_that_readers_came_to_while_its_removal_waited_is_not_removed(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = places.export("a", 0, snapshot="next").snapshot

    @contextmanager
    def switched_meanwhile(dest: str, **options: Any) -> Iterator[Base]:
        # Another run had the lock, and gives it back now.
        places.export("a", 0, snapshot=name, switch=True)
        with gc.opened(dest, **options) as base:
            yield base

    monkeypatch.setattr("shrinkwrap.tree.remove.opened", switched_meanwhile)
    base = str(places.base("a"))
    for attempt in (lambda: remove_snapshot(base, name), lambda: remove(f"{base}/{name}", FQRN)):
        (places.base("a") / "current").unlink(missing_ok=True)
        with pytest.raises(DestinationError, match="readers use it"):
            attempt()
        assert seen(places) == wanted(0)


@pytest.mark.parametrize("way", ["./{name}", "{base}/{name}", "../a/{name}"])
def test_readers_are_not_robbed_if_somebody_made_the_link_by_hand(places: Places, way: str) -> None:
    base = places.base("a")
    name = places.export("a", 0, snapshot="old").snapshot
    (base / "current").symlink_to(way.format(base=base, name=name))
    with pytest.raises(DestinationError, match="readers use it"):
        remove_snapshot(str(base), name)
    with pytest.raises(DestinationError, match="half of a change"):
        places.export("a", 1, snapshot=name)
    assert places.status("a").current == name
    assert seen(places) == wanted(0)


@pytest.mark.parametrize("run", [False, True], ids=["dry", "export"])
@pytest.mark.parametrize("way", ["a/current", "a/{name}"])
def test_a_release_named_as_a_destination_does_not_change_under_its_readers(
    places: Places, way: str, run: bool
) -> None:
    from tree.test_snapshots import request_of

    name = places.export("a", 0, switch=True).snapshot
    place = way.format(name=name)
    request = request_of(places, place, 1)
    with pytest.raises(DestinationError, match="half of a change"):
        (export if run else dry_run)(request)
    assert seen(places) == wanted(0)
    assert places.export(place, 0).reason == "unchanged"


def test_a_link_of_that_name_beside_a_destination_is_none_of_ours(places: Places) -> None:
    places.export("a", 0)
    (places.folder / "current").symlink_to("a")
    places.export("a", 1)
    assert places.tree("a") == wanted(1)
    places.remove("a")


def test_a_failed_export_leaves_readers_where_they_are(places: Places, tmp_path: Path) -> None:
    places.export("a", 0, switch=True)
    poor = tmp_path / "poor"
    shutil.copytree(places.repositories, poor)
    for file in (poor / FQRN / "data").rglob("*"):
        if file.is_file() and not file.name.endswith("C"):
            file.unlink()
    before = now(places)
    with pytest.raises(MissingObject):
        Places(tmp_path, poor).export("a", 1, switch=True)
    assert (now(places), seen(places)) == (before, wanted(0))


def test_adopting_is_for_destinations_only(places: Places) -> None:
    with pytest.raises(UsageError, match="--adopt"):
        places.export("a", 0, switch=True, adopt=True)


def test_status_marks_the_current_release(places: Places, cli: Forks) -> None:
    old, new = (places.export("a", revision, switch=True).snapshot for revision in (0, 1))
    assert places.status("a").current == new
    said = cli.run("status", str(places.base("a"))).ok().out
    assert f"snapshot {new}, the current one" in said
    assert f"snapshot {old}\n" in said


def test_the_command_says_where_readers_are_led_to(places: Places, cli: Forks) -> None:
    ended = cli.run(*places.words("a", 1, "--switch"))
    assert f"current leads to {now(places)} now" in ended.ok().err
    told = cli.run(*places.words("a", 2, "--switch", "--json")).ok().json
    assert (told["switched"], told["snapshot"]) == (True, now(places))


def test_a_dry_run_of_a_switch_touches_nothing(places: Places) -> None:
    from tree.test_snapshots import request_of

    plan = dry_run(request_of(places, "a", 0, switch=True))
    assert plan.counts["to_fetch"] > 0
    assert not places.base("a").exists()
    places.export("a", 0, switch=True)
    before = sorted(os.walk(places.base("a")))
    assert dry_run(request_of(places, "a", 0, switch=True)).reason == "unchanged"
    plan = dry_run(request_of(places, "a", 1, switch=True))
    assert (plan.counts["to_link"], plan.dest) == (len(wanted(1)), str(places.base("a")))
    assert sorted(os.walk(places.base("a"))) == before


def test_a_release_that_is_as_it_should_be_costs_one_request_and_loads_little(
    repo_server: RepoServer, tmp_path: Path
) -> None:
    server = repo_server.with_files()
    spec = tmp_path / "the.spec"
    spec.write_bytes(b"/special/swap/*\n")
    args = words(
        *(SMALL[2], tmp_path / "base", "--server", server.repo(SMALL[2].fqrn), "--tag", "rev3"),
        *("--switch", "--json", "--workers", "1"),
        spec=spec,
    )
    assert run_cli(*args).ok().json["switched"]
    asked = len(server.requests())
    again = run_cli(*args, env={"PYTHONPROFILEIMPORTTIME": "1"}).ok()
    assert again.json["reason"] == "unchanged"
    assert [one.path for one in server.requests()[asked:]] == [f"{SMALL[2].fqrn}/.cvmfspublished"]
    for heavy in ("rich", "pathspec", "xxhash", "zstandard", "shrinkwrap.tree.pour", "shrinkwrap.tree.remove"):
        assert f"| {heavy}\n" not in re.sub(r"\|\s+", "| ", again.err)


# -------------------------------------------------------------------------------------------------------------- readers


class Small:
    """Releases of a few paths of a repository, in forks."""

    def __init__(self, cli: Forks, repos: Path, folder: Path) -> None:
        self.cli = cli
        self.repos = repos
        self.base = folder / "base"
        self.spec = folder / "paths.spec"
        self.spec.write_bytes(b"".join(name + b"/*\n" for name in FOLDERS))

    def run(self, rev: Pinned, *options: str, **how: Any) -> Ended:
        args = words(
            *(rev, self.base, "--storage", self.repos / rev.fqrn, "--tag", rev.rev),
            *("--keep-suid", "--json", "--workers", "1", "--switch", *options),
            spec=self.spec,
        )
        return self.cli.run(*args, **how)

    def forget(self) -> str:
        """Make releases of two revisions, go back to the first, remove the second; the name of that."""
        self.run(SMALL[0]).ok()
        self.run(SMALL[1]).ok()
        release = os.readlink(self.base / "current")
        self.run(SMALL[0]).ok()
        remove_snapshot(str(self.base), release, gc=True)
        return release

    def listing(self, at: Pinned) -> list[tuple[bytes, str, str]]:
        """What a reader finds of a revision: paths, kinds, and what tells their contents apart."""
        return sorted((one.path, one.type, _content(one.sha256, one.target)) for one in selected(at, *FOLDERS))

    def found(self) -> list[tuple[bytes, str, str]]:
        """What a reader finds: it goes to the release once, and looks at all of that."""
        place = os.path.realpath(self.base / "current")
        return sorted(
            (one.path, one.type, _content(one.sha256, one.target)) for one in list_tree(Path(place) / SMALL[0].fqrn)
        )

    def check(self, at: Pinned) -> None:
        assert self.found() == self.listing(at)
        assert broken_names(self.base, *SMALL) == []
        assert leftovers(self.base) == []


def _content(sha256: str | None, target: bytes | None) -> str:
    return sha256 or repr(target)


@pytest.fixture
def small(cli: Forks, repos: Path, tmp_path: Path) -> Small:
    return Small(cli, repos, tmp_path)


@contextmanager
def reading(small: Small) -> Iterator[list[int]]:
    """A reader who looks all the time; which revision it found, each time."""
    listings = [small.listing(at) for at in SMALL]
    found: list[int] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            now = small.found()
            found.append(listings.index(now) if now in listings else -1)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


@pytest.mark.root
def test_readers_see_one_release_or_the_other_and_never_anything_else(small: Small) -> None:
    small.run(SMALL[0]).ok()
    with reading(small) as found:
        for number in (1, 2, 0, 1):
            small.run(SMALL[number]).ok()
    assert len(found) > 3
    assert -1 not in found
    assert small.found() == small.listing(SMALL[1])


@pytest.mark.root
@pytest.mark.parametrize("every", [pytest.param(97, id="some"), pytest.param(1, id="each", marks=pytest.mark.long)])
def test_killed_at_any_call_readers_keep_a_whole_release_and_the_next_run_switches(small: Small, every: int) -> None:
    release = small.forget()
    for number in count(1 + random.Random(SEED).randrange(every), every):
        ended = small.run(SMALL[1], die_at=number)
        if not ended.killed:
            ended.ok()
            assert number > every
            break
        try:
            assert small.found() in (small.listing(SMALL[0]), small.listing(SMALL[1]))
            small.run(SMALL[1]).ok()
            assert os.readlink(small.base / "current") == release
            small.check(SMALL[1])
        except BaseException as exc:
            exc.add_note(f"killed at call {number}: {ended.last}")
            raise
        assert small.forget() == release


@pytest.mark.root
def test_a_run_killed_between_record_and_switch_is_finished_by_the_next(small: Small) -> None:
    release = small.forget()
    renames = small.run(SMALL[1], at=("rename",)).ok().calls
    small.forget()
    killed = small.run(SMALL[1], die_at=renames, at=("rename",))
    assert killed.killed
    assert "'current'" in killed.last
    assert (small.base / release / ".provenance" / SMALL[1].fqrn / "record.json").exists()
    assert small.found() == small.listing(SMALL[0])
    told = small.run(SMALL[1]).ok().json
    assert (told["reason"], told["switched"]) == ("unchanged", True)
    small.check(SMALL[1])
