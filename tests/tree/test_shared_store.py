"""Exports to destinations that share a store (``-y``): stored once, locked for all, copied where links do not lead."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import golden
from support.exporting import (
    broken_names,
    differences,
    groups,
    leftovers,
    published_path,
    selected,
    stored_files,
    words,
)
from support.filesystems import Filesystem, remove_tree
from support.forking import Ended, Forks
from support.golden import Export, Pinned
from support.listing import AS_ROOT, list_tree
from support.original import build_original
from support.processes import need
from support.servers import RepoServer

from shrinkwrap.tree.base import Base

pytestmark = pytest.mark.root

SEED = int(os.environ.get("CI_SEED", "1"))
REV1, REV2, REV3 = (Pinned("small.cern.ch", f"rev{number}") for number in (1, 2, 3))
FQRN = REV1.fqrn
FOLDERS = (b"/special/swap", b"/special/meta", b"/special/hard")
BOOT = {"shrinkwrap.tree.base.boot_id": "another", "shrinkwrap.tree.intents.boot_id": "another"}


class Shared:
    """Destinations beside each other and the store of them all.

    Attributes:
        store: where it is.
        view: a folder whose ``.data`` is the store, for what looks into those.
    """

    def __init__(self, cli: Forks, repos: Path, folder: Path, store: Path | None = None) -> None:
        self.cli = cli
        self.repos = repos
        self.folder = folder
        self.store = store or folder / "store"
        self.view = folder / "view"
        self.view.mkdir()
        (self.view / ".data").symlink_to(self.store)
        self.spec = folder / "paths.spec"
        self.spec.write_bytes(b"".join(name + b"/*\n" for name in FOLDERS))

    def dest(self, name: str) -> Path:
        return self.folder / name

    def run(self, rev: Pinned, dest: Path, *options: str, named: bool = True, **how: Any) -> Ended:
        """Export; ``named``: with ``-y``."""
        where = () if "--server" in options else ("--storage", str(self.repos / rev.fqrn))
        store = ("-y", str(self.store)) if named else ()
        spec = how.pop("spec", self.spec)
        args = words(rev, dest, *where, "--tag", rev.rev, "--keep-suid", "--json", *store, *options, spec=spec)
        return self.cli.run(*args, **how)

    def wrong(self, at: Pinned, dest: Path, *, linked: bool = True) -> list[str]:
        """What is not as it should be in a destination and in the store."""
        projection = AS_ROOT if linked else AS_ROOT.without_groups()
        found = differences(dest, at, projection, selected(at, *FOLDERS))
        found += broken_names(self.view, REV1, REV2, REV3)
        found += leftovers(dest) + [str(path) for name in ("tmp", "trash") for path in self.store.glob(f"{name}/*")]
        found += [f"{name} in .data" for name in os.listdir(dest / ".data") if name not in OF_ITS_OWN]
        if os.fsencode(dest) not in self.registered():
            found.append("not registered")
        inodes = {(info.st_dev, info.st_ino) for info in (file.lstat() for file in self.files().values())}
        for one in list_tree(dest / at.fqrn, content=False):
            if one.type == "file" and (one.inode in inodes) != linked:
                found.append(f"{one.path!r}: {'not ' if linked else ''}linked to the store")
        return found

    def files(self) -> dict[str, Path]:
        return stored_files(self.view)

    def registered(self) -> list[bytes]:
        return [file.read_bytes() for file in (self.store / "bases").iterdir()]


#: What a destination has in ``.data`` whose store is elsewhere.
OF_ITS_OWN = {"lock", "store.json", "tmp", "trash"}


def trace(*folders: Path) -> dict[str, tuple[int, ...]]:
    """All that could change of folders and what is in them, times included, but for locks."""
    found: dict[str, tuple[int, ...]] = {}
    for top in folders:
        for path in (top, *sorted(top.rglob("*"))):
            if os.path.lexists(path) and path.name != "lock":
                info = path.lstat()
                found[str(path)] = (info.st_ino, info.st_mode, info.st_nlink, info.st_size, info.st_mtime_ns)
    return found


@pytest.fixture
def shared(cli: Forks, repos: Path, tmp_path: Path) -> Shared:
    return Shared(cli, repos, tmp_path)


# --------------------------------------------------------------------------------------------------- on one file system


def test_destinations_of_one_store_link_the_same_files_and_objects_are_asked_for_once(
    shared: Shared, repo_server: RepoServer
) -> None:
    server = repo_server.with_files()
    web = ("--server", server.repo(FQRN))
    one, two = shared.dest("one"), shared.dest("two")
    for at in (REV1, REV3):
        asked = len(server.requests())
        first = shared.run(at, one, *web).ok().json["counts"]
        names = {published_path(name) for name in shared.files() if "c" not in name.partition(".")[0][40:]}
        objects = [path for path in requested(server, asked) if path in names]
        assert first["fetched"] > 0
        assert len(objects) == len(set(objects)) > 0
        had, asked = shared.files(), len(server.requests())
        second = shared.run(at, two, *web).ok().json["counts"]
        assert second.get("fetched", 0) == 0
        assert second["added"] + second.get("changed", 0) > 0
        assert not names & set(requested(server, asked))
        assert shared.files() == had
        assert shared.wrong(at, one) == shared.wrong(at, two) == []
        trees = [{r.path: r.inode for r in list_tree(d / FQRN, content=False) if r.type == "file"} for d in (one, two)]
        assert trees[0] == trees[1]
        asked = len(server.requests())
        assert shared.run(at, one, *web, named=False).ok().json["reason"] == "unchanged"
        assert shared.run(at, two, *web).ok().json["reason"] == "unchanged"
    assert not list(one.glob(".data/[0-9a-f][0-9a-f]"))
    assert sorted(shared.registered()) == sorted(map(os.fsencode, (one, two)))


def requested(server: Any, since: int) -> list[str]:
    """Paths in the repository that were asked for."""
    return [one.path.partition("/")[2] for one in server.requests()[since:]]


def test_destinations_of_one_store_may_differ_in_all_but_that(shared: Shared) -> None:
    one, two, three = shared.dest("one"), shared.dest("two"), shared.dest("three")
    shared.run(REV1, one).ok()
    shared.run(REV3, two).ok()
    shared.run(REV2, three, "--link-mode", "copy").ok()
    shared.run(REV2, one, named=False).ok()
    assert shared.wrong(REV2, one) == shared.wrong(REV3, two) == shared.wrong(REV2, three, linked=False) == []


def test_another_repository_of_a_destination_uses_its_store_too(shared: Shared) -> None:
    other = Pinned("rmd160.cern.ch", "rev1")
    dest = shared.dest("one")
    shared.run(REV1, dest).ok()
    shared.run(other, dest, named=False, spec="full").ok()
    assert differences(dest, other) == []
    assert set(os.listdir(dest / ".data")) <= OF_ITS_OWN


def test_blocks_are_shared_where_the_file_system_can(shared: Shared, xfs: Filesystem, repos: Path) -> None:
    place = xfs.folder("reflinks")
    here = Shared(shared.cli, repos, place)
    dest = here.dest("dest")
    counts = here.run(REV1, dest, "--link-mode", "reflink").ok().json
    assert counts["warnings"] == shared.run(REV1, shared.dest("quiet")).ok().json["warnings"]
    assert here.wrong(REV1, dest, linked=False) == []
    filefrag = subprocess.run(
        [need("filefrag"), "-v", str(largest(dest / FQRN))], capture_output=True, text=True, check=True
    )
    assert "shared" in filefrag.stdout
    here.run(REV2, dest, "--link-mode", "reflink").ok()
    assert here.wrong(REV2, dest, linked=False) == []
    remove_tree(place)


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.lstat().st_size)


# ---------------------------------------------------------------------------------------------------- on different ones

PLACES = [
    pytest.param("ext4", "tmpfs", id="ext4 to tmpfs"),
    pytest.param("tmpfs", "ext4", id="tmpfs to ext4"),
    pytest.param("xfs", "ext4", id="xfs to ext4"),
]


@pytest.mark.parametrize(("stored", "shown"), PLACES)
def test_from_a_store_on_another_file_system_files_are_copied_and_that_is_said_once(
    stored: str, shown: str, cli: Forks, repos: Path, make_filesystem: Callable[..., Filesystem]
) -> None:
    here = Shared(cli, repos, make_filesystem(shown).path, make_filesystem(stored).path / "store")
    dest = here.dest("dest")
    planned = here.run(REV1, dest, "--dry-run").ok().json
    done = here.run(REV1, dest).ok().json
    assert len([line for line in done["warnings"] if "using copy" in line]) == 1
    assert planned["warnings"] == done["warnings"]
    assert planned["destination"] == done["destination"]
    assert planned["counts"]["to_fetch"] == done["counts"]["fetched"]
    assert here.wrong(REV1, dest, linked=False) == []
    assert here.run(REV1, dest).ok().json["reason"] == "unchanged"
    assert here.run(REV2, dest, named=False).ok().json["reason"] == "exported"
    assert here.wrong(REV2, dest, linked=False) == []
    victim = largest(dest / FQRN)
    victim.chmod(0o600)
    victim.write_bytes(b"not what was exported")
    here.run(REV2, dest, "--repair").ok()
    assert here.wrong(REV2, dest, linked=False) == []
    assert here.run(REV2, dest, "--repair").ok().json["counts"].get("fetched", 0) == 0


def test_links_do_not_lead_from_one_mount_of_a_file_system_to_another(
    cli: Forks, repos: Path, make_filesystem: Callable[..., Filesystem]
) -> None:
    made = make_filesystem("tmpfs")
    (made.path / "real").mkdir()
    (made.path / "bound").mkdir()
    with bound(made.path / "real", made.path / "bound"):
        here = Shared(cli, repos, made.path, made.path / "bound" / "store")
        dest = here.dest("dest")
        planned = here.run(REV1, dest, "--dry-run").ok().json
        done = here.run(REV1, dest).ok().json
        assert planned["warnings"] == done["warnings"]
        assert any("using copy" in line for line in done["warnings"])
        assert here.wrong(REV1, dest, linked=False) == []
        # Seen there, both are of one mount.
        near = Shared(cli, repos, made.path / "real")
        near.run(REV1, made.path / "real" / "near").ok()
        assert near.wrong(REV1, made.path / "real" / "near") == []


def test_the_usual_place_by_another_mount_is_the_usual_place(
    cli: Forks, repos: Path, make_filesystem: Callable[..., Filesystem]
) -> None:
    made = make_filesystem("tmpfs")
    (made.path / "bound").mkdir()
    (made.path / "dest").mkdir()
    here = Shared(cli, repos, made.path, made.path / "bound" / ".data")
    dest = here.dest("dest")
    with bound(dest, made.path / "bound"):
        here.run(REV1, dest, named=False).ok()
        assert here.run(REV1, dest, "--wait").ok().json["reason"] == "unchanged"
    assert json.loads((dest / ".data" / "store.json").read_bytes()) == {"version": 1}


@contextmanager
def bound(folder: Path, place: Path) -> Iterator[None]:
    """A folder at a second place, as containers see them."""
    subprocess.run([need("mount"), "--bind", str(folder), str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run([need("umount"), str(place)], check=True)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("what", ["another", "own", "inside", "provenance", "destination", "foreign", "user", "gone"])
def test_what_is_refused_ends_with_the_code_of_destinations_and_changes_nothing(what: str, shared: Shared) -> None:
    dest = shared.dest("dest")
    shared.run(REV1, dest, named=what != "own").ok()
    given = {
        "another": shared.dest("other"),
        "own": shared.store,
        "inside": dest / FQRN / "store",
        "provenance": dest / ".provenance",
        "destination": dest,
    }.get(what, shared.store)
    if what == "foreign":
        dest = shared.dest("new")
        given = shared.dest("foreign")
        given.mkdir()
        (given / "thesis.tex").touch()
    elif what == "user":
        os.chown(shared.store, 1, 1)
    elif what == "gone":
        shared.store.rename(shared.dest("away"))
    before = trace(shared.folder)
    real = shared.run(REV2, dest, "-y", str(given), named=False).ends_with(8)
    dry = shared.run(REV2, dest, "--dry-run", "-y", str(given), named=False).ends_with(8)
    assert trace(shared.folder) == before
    assert real.json["error"] == dry.json["error"]
    assert "hint:" in real.err


def test_a_lost_store_is_made_anew_by_a_repair_after_what_led_there_was_removed(shared: Shared) -> None:
    dest = shared.dest("dest")
    shared.run(REV1, dest).ok()
    remove_tree(shared.store)
    assert f"remove {dest}/.data, and run with --repair" in shared.run(REV1, dest, named=False).ends_with(8).err
    assert not shared.store.exists()
    remove_tree(dest / ".data")
    shared.run(REV1, dest, "--repair").ok()
    assert shared.wrong(REV1, dest) == []


# ----------------------------------------------------------------------------------------------------------------- lock


def test_while_one_destination_is_worked_on_the_others_have_to_wait(shared: Shared) -> None:
    one, two = shared.dest("one"), shared.dest("two")
    shared.run(REV1, one).ok()
    shared.run(REV1, two).ok()
    before, tree = trace(two), trace(two / FQRN)
    ends: list[Ended] = []
    held = Base(str(one))
    try:
        for more in ((), ("--dry-run",)):
            ended = shared.run(REV2, two, *more).ends_with(9)
            assert f"{shared.store}: another run is working here" in ended.err
            assert f"process {os.getpid()} " in ended.err
        assert trace(two) == before
        waiting = threading.Thread(target=lambda: ends.append(shared.run(REV2, two, "--wait")))
        waiting.start()
        inode = (shared.store / "lock").stat().st_ino
        while not re.search(rf"-> FLOCK .*:{inode} ", Path("/proc/locks").read_text()):
            assert waiting.is_alive()
            time.sleep(0.02)
        assert trace(two / FQRN) == tree
    finally:
        held.close()
    waiting.join()
    ends[0].ok()
    assert shared.wrong(REV2, two) == []


# ------------------------------------------------------------------------------------------------------------- dry runs


def test_a_dry_run_counts_what_the_shared_store_has_and_writes_nothing(shared: Shared) -> None:
    one, two = shared.dest("one"), shared.dest("two")
    assert shared.run(REV1, two, "--dry-run").ok().json["counts"]["to_fetch"] > 0
    assert not shared.store.exists()
    shared.run(REV1, one).ok()
    for at, make in ((REV1, False), (REV1, True), (REV3, True)):
        if make:
            two.mkdir(exist_ok=True)
        before = trace(shared.folder)
        planned = shared.run(at, two, "--dry-run").ok().json
        assert trace(shared.folder) == before
        assert two.exists() == make
        if at == REV1:
            assert planned["counts"]["to_fetch"] == 0
    done = shared.run(REV3, two).ok().json
    assert planned["counts"]["to_fetch"] == done["counts"]["fetched"] > 0
    assert planned["counts"]["to_link"] + planned["counts"]["to_make_dirs"] == done["counts"]["added"]
    before = trace(shared.folder)
    for named in (True, False):
        assert shared.run(REV3, two, "--dry-run", named=named).ok().json["reason"] == "unchanged"
    # The other destination need not fetch what this one brought.
    assert shared.run(REV3, one, "--dry-run", named=False).ok().json["counts"]["to_fetch"] == 0
    assert trace(shared.folder) == before


def test_a_dry_run_without_the_store_named_looks_into_a_new_destination_alone(shared: Shared) -> None:
    shared.run(REV1, shared.dest("one")).ok()
    assert shared.run(REV1, shared.dest("two"), "--dry-run", named=False).ok().json["counts"]["to_fetch"] > 0


# -------------------------------------------------------------------------------------------------------------- crashes


@pytest.mark.parametrize("turns", [pytest.param(4, id="some"), pytest.param(200, id="many", marks=pytest.mark.long)])
@pytest.mark.parametrize("far", [False, True], ids=["links", "copies"])
def test_a_run_killed_at_any_call_leaves_a_store_that_all_destinations_can_go_on_with(
    far: bool, turns: int, cli: Forks, repos: Path, tmp_path: Path, make_filesystem: Callable[..., Filesystem]
) -> None:
    folder = make_filesystem("tmpfs").path if far else tmp_path

    def places(name: str) -> tuple[Shared, Path, Path]:
        (folder / name).mkdir()
        here = Shared(cli, repos, folder / name, tmp_path / f"store-{name}" if far else None)
        return here, here.dest("one"), here.dest("two")

    here, one, two = places("quiet")
    here.run(REV3, two).ok()
    calls = here.run(REV1, one).ok().calls
    chosen = random.Random(SEED)
    # What makes the two folders known to each other comes first.
    numbers = sorted({chosen.randrange(1, 30) for _ in range(turns // 2)})
    numbers += sorted({chosen.randrange(30, calls + 1) for _ in range(turns - turns // 2)})
    for turn, number in enumerate(numbers):
        here, one, two = places(f"turn{number}")
        if turn % 2:
            here.run(REV3, two).ok()
        died = here.run(REV1, one, die_at=number)
        try:
            assert died.killed
            had = groups(here.view) if here.store.exists() else set()
            assert not had or broken_names(here.view, REV1, REV2, REV3) == []
            # Another destination goes on first, or the same one.
            order = (two, one) if turn % 3 else (one, two)
            fetched = sum(here.run(REV1, dest).ok().json["counts"].get("fetched", 0) for dest in order)
            assert fetched == len(groups(here.view) - had)
            assert here.wrong(REV1, one, linked=not far) == here.wrong(REV1, two, linked=not far) == []
        except BaseException as exc:
            exc.add_note(f"seed {SEED}, killed at call {number} of {calls}: {died.last}")
            raise
        remove_tree(here.folder)
        if far:
            remove_tree(here.store)


@pytest.mark.parametrize("turns", [pytest.param(3, id="some"), pytest.param(100, id="many", marks=pytest.mark.long)])
def test_an_update_killed_at_any_call_leaves_the_other_destination_as_it_was(turns: int, shared: Shared) -> None:
    one, two = shared.dest("one"), shared.dest("two")
    shared.run(REV1, two).ok()
    shared.run(REV1, one).ok()
    calls = shared.run(REV3, one).ok().calls
    chosen = random.Random(SEED)
    for number in sorted({chosen.randrange(1, calls + 1) for _ in range(turns)}):
        shared.run(REV1, one).ok()
        died = shared.run(REV3, one, die_at=number)
        try:
            assert differences(two, REV1, AS_ROOT, selected(REV1, *FOLDERS)) == []
            shared.run(REV3, one, named=False).ok()
            assert shared.wrong(REV3, one) == shared.wrong(REV1, two) == []
        except BaseException as exc:
            exc.add_note(f"seed {SEED}, killed at call {number} of {calls}: {died.last}")
            raise


def test_after_a_start_of_the_machine_doubtful_files_are_dropped_from_the_shared_store(shared: Shared) -> None:
    one, two = shared.dest("one"), shared.dest("two")
    shared.run(REV2, two).ok()
    safe = shared.files()
    assert shared.run(REV1, one, die_at=12, at=("link",)).killed
    doubtful = set(shared.files()) - set(safe)
    assert doubtful
    victim = shared.files()[max(doubtful, key=lambda name: shared.files()[name].lstat().st_size)]
    spoil(victim)
    planned = shared.run(REV1, one, "--dry-run", patches=BOOT).ok().json
    done = shared.run(REV1, one, patches=BOOT).ok().json
    assert any("the machine was restarted" in line for line in done["warnings"])
    assert planned["counts"]["to_fetch"] == done["counts"]["fetched"]
    assert shared.wrong(REV1, one) == []
    assert broken_names(shared.view, REV1, REV2, REV3) == []


def test_what_one_destination_left_doubtful_no_other_believes(shared: Shared) -> None:
    one, two = shared.dest("one"), shared.dest("two")
    shared.run(REV2, two).ok()
    safe = shared.files()
    assert shared.run(REV1, one, die_at=12, at=("link",)).killed
    doubtful = set(shared.files()) - set(safe)
    spoil(shared.files()[max(doubtful, key=lambda name: shared.files()[name].lstat().st_size)])
    planned = shared.run(REV1, two, "--dry-run", patches=BOOT).ok().json
    # The destination that knows of it may be out of reach.
    one.rename(shared.dest("away"))
    done = shared.run(REV1, two, patches=BOOT).ok().json
    assert any("the machine was restarted" in line for line in done["warnings"])
    assert planned["counts"]["to_fetch"] == done["counts"]["fetched"]
    assert broken_names(shared.view, REV1, REV2, REV3) == []
    # Files that it showed already may be other inodes now than those that are stored, but not other files.
    assert differences(two, REV1, AS_ROOT.without_groups(), selected(REV1, *FOLDERS)) == []
    shared.dest("away").rename(one)
    shared.run(REV1, one, patches=BOOT).ok()
    assert shared.wrong(REV1, one) == []
    shared.run(REV1, two, "--repair", patches=BOOT).ok()
    assert shared.wrong(REV1, two) == []
    assert not (shared.store / "doubt.json").exists()


def spoil(file: Path) -> None:
    """What a power cut may leave: the name, the right size, other bytes."""
    whole = file.lstat()
    with file.open("r+b") as data:
        data.write(bytes(whole.st_size))
    os.utime(file, ns=(whole.st_mtime_ns, whole.st_mtime_ns))


# --------------------------------------------------------------------------------------------------------- the original


class Originals:
    """Destinations that the original made with one store elsewhere."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def build(self, dest: Path, export: Export) -> None:
        contents = self.shared.dest(f"contents-{export.at.rev}")
        self.shared.run(export.at, contents, "--spec-rules", "2.12", named=False, spec=export.spec).ok()
        dest.mkdir()
        self.shared.store.mkdir(mode=0o700, exist_ok=True)
        (dest / ".data").symlink_to(self.shared.store)
        build_original(dest, export, contents / FQRN)
        (dest / ".data").unlink()

    def run(self, at: Pinned, dest: Path, *options: str, **how: Any) -> Ended:
        return self.shared.run(at, dest, "--spec-rules", "2.12", *options, spec="slide", **how)

    def wrong(self, dest: Path, export: Export) -> list[str]:
        infos = {one.name for one in (dest / ".provenance" / FQRN).iterdir()} & {"src.info", "src.config", "dest.info"}
        return differences(dest, export.at, expected=golden.exported(export)) + leftovers(dest) + sorted(infos)


@pytest.fixture
def originals(shared: Shared) -> Originals:
    return Originals(shared)


def test_destinations_of_the_original_with_one_store_are_taken_over_one_after_the_other(originals: Originals) -> None:
    shared, one, two = originals.shared, originals.shared.dest("one"), originals.shared.dest("two")
    first, second = Export(REV1, "slide"), Export(REV3, "slide")
    originals.build(one, first)
    originals.build(two, second)
    before = trace(shared.folder)
    assert "--adopt" in originals.run(REV1, one).ends_with(8).err
    assert trace(shared.folder) == before
    assert originals.run(REV1, one, "--adopt").ok().json["counts"]["fetched"] == 0
    assert originals.wrong(one, first) == []
    # What the other tree shows is kept for it.
    old = shared.store / "old"
    waiting = {(info.st_dev, info.st_ino) for info in (path.lstat() for path in old.rglob("*")) if info.st_nlink > 1}
    there = {one.inode for one in list_tree(two / FQRN, content=False) if one.type == "file"}
    assert waiting & there
    assert originals.run(REV1, one, named=False).ok().json["reason"] == "unchanged"
    assert old.exists()
    assert originals.run(REV3, two, "--adopt").ok().json["counts"]["fetched"] == 0
    assert originals.wrong(two, second) == originals.wrong(one, first) == []
    assert not old.exists()
    assert broken_names(shared.view, REV1, REV2, REV3) == []
    assert originals.run(REV3, two, named=False).ok().json["reason"] == "unchanged"


def test_a_takeover_into_a_shared_store_that_was_killed_is_gone_on_with(originals: Originals) -> None:
    shared = originals.shared
    export = Export(REV1, "slide")
    chosen = random.Random(SEED)
    for number in (chosen.randrange(1, 280), chosen.randrange(280, 2000)):
        dest = shared.dest(f"dest{number}")
        originals.build(dest, export)
        died = originals.run(REV1, dest, "--adopt", die_at=number)
        try:
            assert died.killed
            assert originals.run(REV1, dest, "--adopt").ok().json["counts"].get("fetched", 0) == 0
            assert originals.wrong(dest, export) == []
            assert not (shared.store / "old").exists()
        except BaseException as exc:
            exc.add_note(f"seed {SEED}, killed at call {number}: {died.last}")
            raise
        remove_tree(shared.store)


def test_a_destination_whose_original_store_lies_in_it_gets_no_other(originals: Originals) -> None:
    shared = originals.shared
    contents = shared.dest("contents")
    shared.run(REV1, contents, "--spec-rules", "2.12", named=False, spec="slide").ok()
    dest = shared.dest("dest")
    build_original(dest, Export(REV1, "slide"), contents / FQRN)
    before = trace(shared.folder)
    ended = originals.run(REV1, dest, "--adopt").ends_with(8)
    assert f"{dest}/.data: the store of cvmfs_shrinkwrap is here" in ended.err
    assert trace(shared.folder) == before
    shutil.rmtree(contents)
    originals.run(REV1, dest, "--adopt", named=False).ok()
