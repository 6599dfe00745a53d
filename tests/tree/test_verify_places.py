"""Copies, images, other users and other file systems: what they cannot hold is told of, what is damaged is found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import golden
from support.cli import run_cli
from support.exporting import from_server, words
from support.filesystems import Filesystem, own_namespace
from support.forking import Forks
from support.golden import Pinned
from support.listing import ORDINARY
from support.processes import need
from support.servers import RepoServer
from support.users import reaches
from tree.verifying import FILES, Place, cases, copied, make, rewrite, trace

from shrinkwrap.tree.base import Base
from shrinkwrap.tree.findings import Verified

REV2 = Pinned("small.cern.ch", "rev2")
#: Of a large repository a part.
PART = b"".join(
    b"/special/%s/*\n" % name for name in (b"meta", b"mtime", b"hard", b"links", b"nest", b"size", b"perm", b"own")
)


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


def run(*command: str | Path, **options: Any) -> None:
    done = subprocess.run([need(str(command[0])), *map(str, command[1:])], capture_output=True, check=False, **options)
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------------------------------------------- copies


def by_cp(base: Path, copy: Path) -> None:
    copy.mkdir()
    run("cp", "-a", *(path for path in base.iterdir() if path.name != ".data"), copy)


def by_rsync(base: Path, copy: Path) -> None:
    run("rsync", "-a", "--exclude=/.data", f"{base}/", f"{copy}/")


def by_rsync_with_all(base: Path, copy: Path) -> None:
    run("rsync", "-aHX", "--exclude=/.data", f"{base}/", f"{copy}/")


def by_tar(base: Path, copy: Path) -> None:
    archive = copy.parent / "archive.tar"
    run("tar", "-C", base, "-cf", archive, "--exclude=./.data", "--format=gnu", ".")
    copy.mkdir()
    run("tar", "-C", copy, "-xpf", archive)


def by_posix_tar(base: Path, copy: Path) -> None:
    archive = copy.parent / "archive.tar"
    run("tar", "-C", base, "-cf", archive, "--exclude=./.data", "--format=posix", "--xattrs", ".")
    copy.mkdir()
    run("tar", "-C", copy, "--xattrs", "--xattrs-include=*", "-xpf", archive)


#: Words of the notes that a way of copying leads to.
WAYS: dict[Callable[[Path, Path], None], list[str]] = {
    by_cp: [],
    by_rsync: ["attributes"],
    by_rsync_with_all: [],
    by_tar: ["steps of", "attributes"],
    by_posix_tar: [],
}


def noted(found: Verified, words: list[str]) -> bool:
    """Whether there is a note with each of some words, and no other one."""
    return len(found.notes) == len(words) and all(any(word in note for note in found.notes) for word in words)


@pytest.mark.parametrize(("way", "notes"), [pytest.param(*one, id=one[0].__name__) for one in WAYS.items()])
def test_a_copy_without_the_store_is_verified(
    way: Callable[[Path, Path], None], notes: list[str], place: Place, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    way(place.base, copy)
    before = trace(copy)
    result = place.verify_all(copy, content=True, chain=True)
    (found,) = result.repositories
    assert cases(found) == []
    assert noted(found, notes), found.notes
    assert result.store is None
    assert found.content is not None
    assert found.content["same"] == found.content["inodes"]
    assert found.chain is not None
    assert found.chain.holds
    assert trace(copy) == before
    # Damage is found in it as in what it is a copy of.
    tree = copy / place.publisher.fqrn
    (tree / "data" / "chunked").chmod(0o600)
    rewrite(tree / "lcg" / "inner" / "deep", b"DEEP")
    os.utime(tree / "lcg" / "sub" / "file", ns=(1, 12345 * 10**9))
    assert cases(place.verify(copy, content=True)) == [
        ("content", b"/lcg/inner/deep"),
        ("mode", b"/data/chunked"),
        ("mtime", b"/lcg/sub/file"),
    ]


def test_one_file_with_a_shortened_time_is_a_difference_in_a_copy_too(place: Place, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    by_cp(place.base, copy)
    file = copy / place.publisher.fqrn / "data" / "chunked"
    os.utime(file, ns=(1, file.stat().st_mtime_ns // 10**9 * 10**9))
    assert cases(place.verify(copy)) == [("mtime", b"/data/chunked")]


def test_a_lost_attribute_is_a_difference_where_others_are_there(place: Place, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    by_cp(place.base, copy)
    os.removexattr(copy / place.publisher.fqrn / "data" / "attributes", "user.two")
    assert cases(place.verify(copy)) == [("xattr", b"/data/attributes")]


@pytest.mark.root
def test_a_copy_of_another_user_is_told_of_in_one_line(place: Place, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    by_cp(place.base, copy)
    run("chown", "-Rh", "1234:1234", copy)
    found = place.verify(copy)
    assert found.differences == {}
    assert noted(found, ["belongs to user 1234"])
    os.chown(copy / place.publisher.fqrn / "data" / "chunked", 0, 0)
    found = place.verify(copy)
    assert set(found.differences) == {"owner"}
    assert found.differences["owner"] == sum(found.compared.get(kind, 0) for kind in ("files", "dirs", "symlinks")) - 1
    assert place.verify(copy, owners=False).to_json()["notes"] == []
    # Where the export was made nothing of that counts.
    run("chown", "-Rh", "1234:1234", place.tree)
    assert place.verify().differences["owner"] > 10


def test_records_may_lie_elsewhere(place: Place, tmp_path: Path) -> None:
    copy, saved = tmp_path / "copy", tmp_path / "saved"
    by_cp(place.base, copy)
    saved.mkdir()
    (copy / ".provenance").rename(saved / ".provenance")
    for records in (saved, saved / ".provenance"):
        found = place.verify(copy, records=str(records), content=True, chain=True)
        assert found.differences == {}
        assert found.compared["files"] == FILES
    (copy / place.publisher.fqrn / "bin" / "tool").chmod(0o600)
    assert place.verify(copy, records=str(saved)).differences["mode"] in (1, 3)


def test_a_destination_named_by_a_link_is_followed(place: Place, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(place.base)
    assert place.verify(tmp_path / "link", content=True).differences == {}


# --------------------------------------------------------------------------------------------------------------- images


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Makes a squashfs of a folder, and mounts it."""
    points: list[Path] = []

    def mount(folder: Path) -> Path:
        image, point = tmp_path / f"image{len(points)}", tmp_path / f"mnt{len(points)}"
        run("mksquashfs", folder, image, "-no-progress", "-quiet", "-e", ".data")
        point.mkdir()
        if reason := own_namespace():
            pytest.skip(reason)
        done = subprocess.run(
            [need("mount"), "-t", "squashfs", "-o", "loop,ro", str(image), str(point)], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"squashfs cannot be mounted here: {done.stderr!r}")
        points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run([need("umount"), str(point)], check=True)


@pytest.mark.root
def test_a_mounted_image_is_verified(place: Place, mounted: Callable[[Path], Path]) -> None:
    point = mounted(place.base)
    found = place.verify(point, content=True, chain=True)
    assert cases(found) == []
    assert noted(found, ["steps of 1 s"])
    assert found.content is not None
    assert found.content["same"] == FILES - 2
    assert found.chain is not None
    assert found.chain.holds


@pytest.mark.root
def test_damage_in_an_image_is_found(place: Place, mounted: Callable[[Path], Path]) -> None:
    rewrite(place.tree / "data" / "plain", bytes(800))
    (place.tree / "data" / "surplus").touch()
    os.utime(place.tree / "lcg" / "sub", ns=(1, 1))
    assert cases(place.verify(mounted(place.base), content=True)) == [
        ("content", b"/data/plain"),
        ("mtime", b"/data"),
        ("mtime", b"/lcg/sub"),
        ("surplus", b"/data/surplus"),
    ]


# --------------------------------------------------------------------------------------------- file systems and users


@pytest.mark.root
@pytest.mark.parametrize("link_mode", ["hardlink", "copy"])
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs"])
def test_nothing_differs_on_any_file_system(
    kind: str, link_mode: str, made: Place, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    system: Filesystem = request.getfixturevalue(kind)
    folder = system.folder(f"verify-{link_mode}")
    place = Place(made.publisher, folder / "base", made.published)
    place.export(link_mode=link_mode)
    found = place.verify(content=True, chain=True)
    assert (cases(found), found.unchecked, found.notes) == ([], {}, [])
    copy = tmp_path / "copy"
    by_cp(place.base, copy)
    assert cases(place.verify(copy, content=True)) == []
    # From wherever it is, to here.
    shutil.rmtree(folder / "base")
    by_cp(made.base, folder / "copied")
    assert cases(place.verify(folder / "copied", content=True)) == []


@pytest.mark.root
@pytest.mark.parametrize("link_mode", ["hardlink", "copy"])
def test_an_ordinary_user_verifies_his_own_export(link_mode: str, cli: Forks, repos: Path, scratch: Path) -> None:
    if not reaches(ORDINARY, repos):
        pytest.skip(f"an ordinary user cannot reach {repos}")
    base = scratch / "base"
    base.mkdir()
    os.chown(base, *ORDINARY)
    spec = scratch / "paths.spec"
    spec.write_bytes(b"/special/perm/*\n/special/meta/*\n")
    source = ["--storage", str(repos / REV2.fqrn), "--tag", "rev2", "--link-mode", link_mode]
    run_cli(*words(REV2, base, *source, spec=spec), user=ORDINARY).ok()
    told = run_cli("verify", base, "--content", "--chain", "--key", REV2.key, "--json", user=ORDINARY).ok().json
    (one,) = told["repositories"]
    assert (one["differences"], one["cases"], one["notes"]) == ({}, [], [])
    # What is closed to its own owner is told of.
    assert set(one["unchecked"]) <= {"shut", "unreadable", "attributes"}
    assert sum(one["unchecked"].values()) > 0
    if link_mode == "copy":
        return
    # To root nothing is closed.
    told = cli.run("verify", base, "--content", "--json").ok().json
    assert told["repositories"][0]["unchecked"] == {}
    # And somebody else may look at what is open to him: the store is not.
    other = (ORDINARY[0] + 1, ORDINARY[1] + 1)
    told = run_cli("verify", base, "--content", "--json", user=other).ok().json
    assert any("the store cannot be looked into" in note for note in told["notes"])
    (base / REV2.fqrn / "special" / "meta").chmod(0o700)
    told = run_cli("verify", base, "--json", user=other).ends_with(6).json
    assert told["repositories"][0]["differences"] == {"mode": 1}


def everything() -> list[Any]:
    found = {at.fqrn: at for at in golden.pinned()}
    return [pytest.param(at, id=str(at)) for at in found.values()] or golden.params([])


@pytest.mark.root
@pytest.mark.parametrize("at", everything())
def test_nothing_differs_in_exports_of_real_repositories(
    at: Pinned, cli: Forks, repo_server: RepoServer, tmp_path: Path
) -> None:
    spec = tmp_path / "paths.spec"
    spec.write_bytes(PART if at.fqrn == REV2.fqrn else b"/*\n")
    base = tmp_path / "base"
    cli.run(*words(at, base, *from_server(at, repo_server), "--keep-suid", "--allow-rollback", spec=spec)).ok()
    before = trace(base)
    told = cli.run("verify", base, "--content", "--chain", "--key", at.key, "--json").ok().json
    assert trace(base) == before
    (one,) = told["repositories"]
    assert (one["differences"], one["cases"], one["unchecked"], one["notes"]) == ({}, [], {}, [])
    record = json.loads((base / ".provenance" / at.fqrn / "record.json").read_bytes())
    assert one["compared"] == {
        name: record["counts"][name] for name in ("files", "dirs", "symlinks", "bytes") if record["counts"][name]
    }
    assert one["content"]["same"] == one["content"]["inodes"]
    assert one["chain"]["state"] in ("valid", "valid when fetched")
    copy = tmp_path / "copy"
    by_tar(base, copy)
    (one,) = cli.run("verify", copy, "--content", "--json").ok().json["repositories"]
    assert one["cases"] == []


@pytest.mark.root
def test_an_image_of_a_real_repository_is_verified(
    cli: Forks, repos: Path, tmp_path: Path, mounted: Callable[[Path], Path]
) -> None:
    spec = tmp_path / "paths.spec"
    spec.write_bytes(PART)
    base = tmp_path / "base"
    cli.run(*words(REV2, base, "--storage", str(repos / REV2.fqrn), "--tag", "rev2", spec=spec)).ok()
    (one,) = cli.run("verify", mounted(base), "--content", "--json").ok().json["repositories"]
    assert one["cases"] == []


@pytest.mark.root
def test_what_a_file_system_did_not_hold_is_expected_to_be_missing(place: Place, xfs: Filesystem) -> None:
    root = place.publisher.catalog()
    root.link(b"/long", b"t" * 2000)
    root.link(b"/short", b"t" * 20)
    place.publisher.publish(root)
    there = Place(place.publisher, xfs.folder("long-links"), place.published)
    result = there.export()
    assert result.report.counts["link_too_long"] == 1
    found = there.verify()
    assert found.differences == {}
    assert noted(found, ["long targets"])
    (there.tree / "short").unlink()
    assert ("missing", b"/short") in cases(there.verify())
