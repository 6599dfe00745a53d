"""A dry run foresees to the number what the run then does, and leaves no trace."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import golden
from support.exporting import external, from_storage, stored_files, words
from support.filesystems import Filesystem
from support.forking import Forks
from support.golden import Pinned
from support.listing import ORDINARY
from support.servers import RepoServer
from support.users import reaches

from shrinkwrap.cvmfs.digest import SHA1, digest_of
from shrinkwrap.snapshot.keep import KeepAbove, KeepFolder
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.dry import PLANNED
from shrinkwrap.tree.probe import probe, probe_unnamed

REV1, REV2, REV3 = (Pinned("small.cern.ch", f"rev{number}") for number in (1, 2, 3))
FOLDERS = (b"/special/swap", b"/special/meta", b"/special/hard", b"/special/links", b"/special/empty", b"/lcg/views")
#: Paths that every run must show alike: what is not known before is not among them.
SAME = ("files", "dirs", "symlinks", "bytes", "catalogs")


def trace(base: Path) -> dict[str, tuple[int, ...]]:
    """All that a run could change of a folder and what is in it, times included (but for that of last access)."""

    def facts(path: str) -> tuple[int, ...]:
        info = os.lstat(path)
        return (
            *(info.st_ino, info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_size),
            *(info.st_mtime_ns, info.st_ctime_ns),
        )

    found = {str(base): facts(str(base))}
    for folder, folders, files in os.walk(base):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            found[path] = facts(path)
    return found


class Runs:
    """Dry runs of a destination, and the runs that they foresee."""

    def __init__(self, cli: Forks, repos: Path, folder: Path) -> None:
        self.cli = cli
        self.repos = repos
        self.base = folder / "base"
        self.spec = folder / "paths.spec"
        self.wants(*FOLDERS)

    def wants(self, *folders: bytes) -> None:
        self.spec.write_bytes(b"".join(folder + b"/*\n" for folder in folders))

    def words(self, at: Pinned, *more: str) -> list[Any]:
        storage = () if "--server" in more or "--storage" in more else ("--storage", str(self.repos / at.fqrn))
        tag = ("--tag", at.tag) if at.tag is not None else ()
        return words(at, self.base, *storage, *tag, "--json", *more, spec=self.spec)

    def dry(self, at: Pinned, *more: str) -> Any:
        """The answer of a dry run, which leaves no trace."""
        before = trace(self.base) if self.base.exists() else None
        told = self.cli.run(*self.words(at, "--dry-run", *more)).ok().json
        assert (trace(self.base) if self.base.exists() else None) == before
        assert told["dry_run"]
        return told

    def real(self, at: Pinned, *more: str) -> Any:
        return self.cli.run(*self.words(at, *more)).ok().json

    def both(self, at: Pinned, *more: str) -> Any:
        """A dry run, the run, and a comparison; the answer of the dry run."""
        planned, done = self.dry(at, *more), self.real(at, *more)
        agree(planned, done)
        return planned


def agree(planned: Any, done: Any) -> None:
    """A dry run foresaw what the run did."""
    foreseen, counts = planned["counts"], done["counts"]
    assert not done["dry_run"]
    assert foreseen["to_fetch"] == counts.get("fetched", 0)
    assert foreseen["to_link"] + foreseen["to_make_dirs"] == counts.get("added", 0)
    assert foreseen["to_replace"] + foreseen["to_touch_dirs"] == counts.get("changed", 0)
    assert foreseen["to_remove"] == counts.get("removed", 0)
    assert {name: foreseen.get(name, 0) for name in SAME} == {name: counts.get(name, 0) for name in SAME}
    assert planned["bytes"]["to_fetch"] == done["bytes"].get("written", 0)
    assert planned["bytes"]["download"] <= planned["bytes"]["to_fetch"]
    for name in ("fqrn", "dest", "root_hash", "revision", "tag", "lines", "variables", "left_out", "warnings"):
        assert planned[name] == done[name], name
    assert (planned["reason"] == "unchanged") == (done["reason"] == "unchanged")


def changes(planned: Any) -> set[str]:
    return {name for name in PLANNED if planned["counts"][name]}


@pytest.fixture
def runs(cli: Forks, repos: Path, tmp_path: Path) -> Runs:
    return Runs(cli, repos, tmp_path)


# ------------------------------------------------------------------------------------------------------ against reality

#: Walks over revisions of a repository, each step of which is foreseen.
WALKS = [
    pytest.param([REV1, REV2, REV3, REV1], id="small"),
    pytest.param([Pinned("mixed.cern.ch", f"rev{number}") for number in (1, 3, 2)], id="mixed"),
    pytest.param([Pinned("rmd160.cern.ch", f"rev{number}") for number in (1, 2)], id="rmd160"),
    pytest.param([Pinned("external.cern.ch", f"rev{number}") for number in (1, 2)], id="external"),
]


@pytest.mark.parametrize("walk", WALKS)
def test_from_one_revision_to_the_next_it_foresees_what_the_run_does(
    walk: list[Pinned], runs: Runs, repo_server: RepoServer
) -> None:
    walk = [at for at in walk if at in golden.pinned()]
    assert walk
    if walk[0].fqrn != REV1.fqrn:
        runs.wants(b"")
    seen = set()
    for at in walk:
        more = external(at, repo_server)
        seen |= changes(runs.both(at, *more))
        assert changes(runs.both(at, *more)) == set()
    if walk[0].fqrn == REV1.fqrn:
        assert seen == set(PLANNED)


@pytest.mark.long
@pytest.mark.parametrize("at", golden.params(golden.pinned()))
def test_of_every_revision_it_foresees_a_first_export(
    at: Pinned, runs: Runs, repos: Path, repo_server: RepoServer, tmp_path: Path
) -> None:
    runs.wants(b"")
    storage = from_storage(at, repos, tmp_path)
    runs.both(at, *storage[:2], *external(at, repo_server))


def test_a_change_of_specification_and_options_is_foreseen(runs: Runs) -> None:
    runs.real(REV2)
    for folders, more in (
        (FOLDERS[:2], ()),
        (FOLDERS[1:], ()),
        (FOLDERS, ("--env", "ARCH=riscv64")),
        (FOLDERS, ("--share-mtime",)),
        (FOLDERS, ("--claim-ownership",)),
        (FOLDERS, ("--link-mode", "copy")),
        (FOLDERS, ("--link-mode", "copy", "--tag", "rev3")),
        (FOLDERS, ()),
    ):
        runs.wants(*folders)
        assert changes(runs.both(REV2, *more))


def test_what_another_repository_of_the_destination_brought_is_not_fetched_again(runs: Runs) -> None:
    runs.wants(b"")
    one, two = Pinned("rmd160.cern.ch", "rev1"), Pinned("rmd160.cern.ch", "rev2")
    runs.real(one)
    shutil.rmtree(runs.base / one.fqrn)
    shutil.rmtree(runs.base / ".provenance" / one.fqrn)
    planned = runs.both(one)
    assert planned["counts"]["to_fetch"] == 0
    assert planned["counts"]["to_link"] > 0
    runs.both(two)


@pytest.mark.parametrize("spoil", [b"{}", b"not JSON"])
def test_with_a_lost_record_it_looks_at_the_disk_as_the_run_does(spoil: bytes, runs: Runs) -> None:
    runs.real(REV1)
    (runs.base / ".provenance" / REV1.fqrn / "record.json").write_bytes(spoil)
    assert changes(runs.both(REV2))


def test_what_a_repair_would_mend_is_foreseen(runs: Runs) -> None:
    runs.wants(b"/special/swap", b"/lcg/contrib")
    runs.real(REV2)
    tree = runs.base / REV2.fqrn
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    alone = [path for path in files if path.stat().st_nlink == 2]
    assert len(alone) > 3
    alone[0].unlink()
    alone[1].chmod(0o600 if os.stat(alone[1]).st_mode & 0o077 else 0o755)  # the stored file too
    (tree / "stranger").mkdir()
    (tree / "stranger" / "file").write_text("not ours")
    tree.chmod(0o700)
    planned = runs.both(REV2, "--repair")
    assert {"to_link", "to_replace", "to_touch_dirs", "to_remove", "to_fetch"} == changes(planned)
    assert changes(runs.both(REV2, "--repair")) == set()


def test_a_run_that_was_cut_off_is_gone_on_with_as_foreseen(runs: Runs) -> None:
    runs.real(REV1)
    assert runs.cli.run(*runs.words(REV2), die_at=12, at=("link",)).killed
    assert (runs.base / ".provenance" / REV2.fqrn / "intent.json").exists()
    planned = runs.both(REV2)
    assert planned["counts"]["to_fetch"] < runs_fresh(runs, REV2)


def runs_fresh(runs: Runs, at: Pinned) -> int:
    """Contents that a first export fetches."""
    base, runs.base = runs.base, runs.base.with_name("fresh")
    try:
        number = runs.dry(at)["counts"]["to_fetch"]
    finally:
        runs.base = base
    assert isinstance(number, int)
    return number


def test_what_a_start_of_the_machine_makes_doubtful_is_foreseen(runs: Runs) -> None:
    runs.real(REV1)
    assert runs.cli.run(*runs.words(REV2), die_at=12, at=("link",)).killed
    file = runs.base / ".provenance" / REV2.fqrn / "intent.json"
    intent = json.loads(file.read_bytes())
    file.write_text(json.dumps({**intent, "boot_id": "another", "since": 0}))
    planned, done = runs.dry(REV2), runs.real(REV2)
    assert planned["counts"]["to_fetch"] == done["counts"]["fetched"] == runs_fresh(runs, REV2)
    # That they are fetched anew is a notice of the run alone.
    planned["warnings"] = done["warnings"]
    agree(planned, done)


# ------------------------------------------------------------------------------------------------------------- no trace


def test_a_destination_that_is_not_there_stays_so(runs: Runs) -> None:
    runs.base = runs.base / "far" / "away"
    planned = runs.dry(REV1)
    assert planned["counts"]["to_fetch"] > 0
    assert not runs.base.parent.exists()
    assert planned["dest"] == str(runs.base)
    assert planned["destination"]


def test_a_folder_where_no_run_has_been_stays_as_it_is(runs: Runs) -> None:
    runs.base.mkdir()
    assert runs.dry(REV1)["counts"]["to_link"] > 0
    assert os.listdir(runs.base) == []


def test_no_temporary_files_are_left(runs: Runs, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    runs.real(REV1)
    for at in (REV1, REV2):
        runs.cli.run(*runs.words(at, "--dry-run"), env={"TMPDIR": str(folder)}).ok()
        assert os.listdir(folder) == []


def test_a_newer_head_is_not_remembered(runs: Runs, repos: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    for name in (".cvmfswhitelist", "data"):
        (storage / name).symlink_to(repos / REV1.fqrn / name)
    head = storage / ".cvmfspublished"
    options = [word for word in runs.words(REV1, "--storage", str(storage)) if word not in ("--tag", "rev1")]
    head.write_bytes(REV1.manifest)
    runs.cli.run(*options).ok()
    head.write_bytes(REV2.manifest)
    assert runs.cli.run(*options, "--dry-run").ok().json["revision"] == 3
    head.write_bytes(REV1.manifest)
    assert runs.cli.run(*options).ok().json["reason"] == "unchanged"
    # But what was seen by a run is known to a dry run.
    head.write_bytes(REV2.manifest)
    runs.cli.run(*options).ok()
    head.write_bytes(REV1.manifest)
    assert "was seen before" in runs.cli.run(*options, "--dry-run").ends_with(3).err


@pytest.mark.root
def test_without_root_nothing_is_opened_up_that_is_closed(repos: Path, scratch: Path) -> None:
    from support.cli import run_cli

    if not reaches(ORDINARY, repos):
        pytest.skip(f"an ordinary user cannot reach {repos}")
    base, spec = scratch / "base", scratch / "paths.spec"
    base.mkdir()
    os.chown(base, *ORDINARY)
    spec.write_bytes(b"/special/perm/*\n")
    line = words(REV2, base, "--storage", str(repos / REV2.fqrn), "--tag", "rev2", "--json", spec=spec)
    run_cli(*line, user=ORDINARY).ok()
    before = trace(base)
    for more in (["--repair"], ["--repair", "--link-mode", "copy"], []):
        told = run_cli(*line, "--dry-run", *more, user=ORDINARY).ok().json
        assert trace(base) == before
    assert told["reason"] == "unchanged"
    told = run_cli(*line, "--dry-run", "--repair", user=ORDINARY).ok().json
    assert any("may not be entered" in warning for warning in told["warnings"])


# ---------------------------------------------------------------------------------------------------- lock and refusals


def test_dry_runs_share_the_lock_and_a_run_excludes_them(runs: Runs) -> None:
    runs.real(REV1)
    one = Base(str(runs.base), look=True)
    try:
        runs.dry(REV2)
        assert "another run" in runs.cli.run(*runs.words(REV2)).ends_with(9).err
    finally:
        one.close()
    held = Base(str(runs.base))
    try:
        assert "another run" in runs.cli.run(*runs.words(REV2, "--dry-run")).ends_with(9).err
    finally:
        held.close()
    runs.dry(REV2)


@pytest.mark.parametrize("what", ["tree", "store", "file", "way", "version"])
def test_what_a_run_would_refuse_a_dry_run_refuses(what: str, runs: Runs) -> None:
    if what == "tree":
        (runs.base / REV1.fqrn / "mine").mkdir(parents=True)
    elif what == "store":
        (runs.base / ".data" / "mine").mkdir(parents=True)
    elif what == "file":
        runs.base.write_text("not a folder")
    elif what == "way":
        runs.base.write_text("not a folder")
        runs.base = runs.base / "below"
    else:
        runs.real(REV1)
        (runs.base / ".data" / "store.json").write_text('{"version": 99}')
    dry = runs.cli.run(*runs.words(REV1, "--dry-run")).ends_with(8)
    real = runs.cli.run(*runs.words(REV1)).ends_with(8)
    assert dry.json["error"] == real.json["error"]


def test_strict_refuses_what_it_refuses_in_a_run(runs: Runs) -> None:
    runs.spec.write_bytes(b"/special/swap/*\n/nowhere/*\n")
    dry = runs.cli.run(*runs.words(REV1, "--dry-run", "--strict")).ends_with(1)
    real = runs.cli.run(*runs.words(REV1, "--strict")).ends_with(1)
    assert dry.json["error"] == real.json["error"]
    runs.wants(b"/special/swap")
    runs.both(REV1, "--strict")


def test_a_listing_is_refused_because_nothing_is_written(runs: Runs, tmp_path: Path) -> None:
    ended = runs.cli.run(*runs.words(REV1, "--dry-run", "--listing", str(tmp_path / "listing"))).ends_with(2)
    assert "--listing" in ended.err
    assert not (tmp_path / "listing").exists()


@pytest.mark.root
def test_a_destination_that_cannot_be_written_is_told_before(
    runs: Runs, make_filesystem: Callable[..., Filesystem]
) -> None:
    import subprocess

    made = make_filesystem("tmpfs", size=1 << 20)
    runs.base = made.folder("base")
    mount = next(str(path) for path in (runs.base, *runs.base.parents) if path.is_mount())
    subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
    try:
        ended = runs.cli.run(*runs.words(REV1, "--dry-run")).ends_with(8)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", mount], check=True)
    assert "read-only" in ended.err


# --------------------------------------------------------------------------------------------------------------- people


def test_people_get_a_table(runs: Runs) -> None:
    line = [word for word in runs.words(REV1, "--dry-run") if word != "--json"]
    told = runs.cli.run(*line).ok().out
    numbers = runs.dry(REV1)
    rows = {row.split()[0]: row for row in told.splitlines() if row.startswith("  ")}
    for word, name in (("fetch", "to_fetch"), ("link", "to_link"), ("make", "to_make_dirs"), ("remove", "to_remove")):
        assert str(numbers["counts"][name]) in rows[word].split()
    assert "at most" in rows["fetch"]
    assert "(estimate)" in rows["fetch"]
    assert f"{numbers['counts']['bytes']} bytes" in told
    assert "dry run: nothing was touched" in told
    assert runs.cli.run(*line, "--quiet").ok().out == ""
    runs.real(REV1)
    assert "dry run: nothing new" in runs.cli.run(*line).ok().out


def test_the_estimate_counts_uncompressed_contents_in_full(runs: Runs) -> None:
    runs.wants(b"")
    plain = next(at for at in golden.pinned() if at.fqrn == "plain.cern.ch")
    planned = runs.dry(plain)
    done = runs.real(plain)
    assert planned["bytes"]["download"] == planned["bytes"]["to_fetch"] == done["bytes"]["received"]
    packed = runs.dry(Pinned("rmd160.cern.ch", "rev1"))["bytes"]
    assert packed["download"] == pytest.approx(0.45 * packed["to_fetch"], abs=1)


# ---------------------------------------------------------------------------------------------------------------- parts


def test_without_a_name_the_file_system_shows_the_same_abilities(tmp_path: Path) -> None:
    base = Base(str(tmp_path / "base"))
    try:
        found = probe(base)
        before = trace(tmp_path)
        unnamed = probe_unnamed(base.fd)
        assert trace(tmp_path) == before
    finally:
        base.close()
    if unnamed is None:
        pytest.skip("the file system has no files without names")
    assert unnamed == found


def test_objects_that_are_kept_elsewhere_are_read_and_never_written(tmp_path: Path) -> None:
    below, above = (KeepFolder(str(tmp_path / name), str(tmp_path)) for name in ("below", "above"))
    one, two = digest_of(SHA1, b"one"), digest_of(SHA1, b"two")

    def put(keep: KeepFolder | KeepAbove, digest: Any, content: bytes) -> None:
        file, name = keep.create()
        with file:
            file.write(content)
        keep.adopt(name, digest, "C")

    def get(digest: Any) -> bytes | None:
        file = keep.open(digest, "C")
        if file is None:
            return None
        with file:
            return file.read()

    put(below, one, b"one")
    before = trace(tmp_path / "below")
    keep = KeepAbove(below, above)
    assert (get(one), get(two)) == (b"one", None)
    put(keep, two, b"two")
    assert get(two) == b"two"
    keep.drop(one, "C")
    assert get(one) is None
    put(keep, one, b"one again")
    assert get(one) == b"one again"
    keep.drop(two, "C")
    assert get(two) is None
    file, name = keep.create()
    file.close()
    keep.discard(name)
    assert not os.path.exists(name)
    assert trace(tmp_path / "below") == before


def test_the_store_is_read_and_never_written(runs: Runs) -> None:
    runs.real(REV1)
    before = trace(runs.base)
    names = stored_files(runs.base)
    runs.dry(REV2, "--repair")
    assert trace(runs.base) == before
    assert stored_files(runs.base) == names
